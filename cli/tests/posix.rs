//! The Open POSIX Test Suite (Debian's source package posixtestsuite), each test in a guest of its own.
//!
//! What counts are the tests that pass natively, on every try: compat-tests/apps/posix.tsv. Those marked "ci" run
//! always, all with ATTACCA_LONG=1. A test that fails in a guest must stand in compat-tests/known-failures/posix.txt,
//! and what stands there must fail (with a ~ before
//! its name it may); before a test counts as failed it runs once more, alone, and natively as well.
//!
//! Left out: tests that set the system's clock (they would set the host's).

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use support::*;

const LIMIT: Duration = Duration::from_secs(60);
/// Most of them sleep.
const AT_ONCE: usize = 3;

/// A test as in the table: name, seconds it takes natively, when it runs.
struct Test {
    name: String,
    seconds: f64,
    always: bool,
}

#[test]
fn open_posix_tests_do_as_natively() {
    let _alone = alone();
    let long = std::env::var_os("ATTACCA_LONG").is_some();
    let suite = Suite::prepare();
    let listed = lines("known-failures/posix.txt").map(|line| first_word(&line));
    let (sometimes, known): (Vec<String>, Vec<String>) = listed.partition(|name| name.starts_with('~'));
    let sometimes: Vec<String> = sometimes.iter().map(|name| name[1..].into()).collect();
    let mut tests: Vec<Test> = table().into_iter().filter(|test| long || test.always).collect();
    assert!(tests.len() > 300, "a table of {} tests", tests.len());
    // The slowest first, so that none of them is left for the end.
    tests.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let failed = Mutex::new(Vec::new());
    let queue = Mutex::new(tests.iter().collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(test) = queue.lock().unwrap().pop() else { return };
                    let outcome = suite.run(test, true);
                    if outcome != Outcome::Pass {
                        failed.lock().unwrap().push(test);
                    }
                }
            });
        }
    });
    let mut wrong = Vec::new();
    let mut failures = 0;
    let mut stays: Vec<&str> = Vec::new();
    for test in failed.into_inner().unwrap() {
        let outcome = suite.run(test, true);
        if outcome == Outcome::Pass {
            continue;
        }
        stays.push(&test.name);
        // What this machine cannot do natively, now, counts neither way.
        if suite.run(test, false) == Outcome::Pass {
            failures += 1;
            if !known.contains(&test.name) && !sometimes.contains(&test.name) {
                wrong.push(format!("{}: {outcome:?}", test.name));
            }
        }
    }
    for test in tests.iter().filter(|test| known.contains(&test.name)) {
        if !stays.contains(&&*test.name) {
            wrong.push(format!("{}: passes, but is listed as a known failure", test.name));
        }
    }
    println!("Open POSIX: {} of {} pass in a guest", tests.len() - failures, tests.len());
    assert!(wrong.is_empty(), "{} of {} end wrongly:\n{}", wrong.len(), tests.len(), wrong.join("\n"));
}

/// Tests in which one expectation is turned round: they must fail, natively and in a guest. Else the test above
/// would prove nothing.
#[test]
fn tests_with_a_wrong_expectation_fail() {
    let _alone = alone();
    let suite = Suite::prepare();
    for (name, expects, turned) in [
        ("sem_post/1-1", "val == 1", "val == 0"),
        ("mq_receive/1-1", "rvprio != sdprio2", "rvprio != sdprio1"),
        ("fork/3-1", "errno != ESRCH", "errno != EPERM"),
        ("mmap/6-1", "sig_num == SIGSEGV", "sig_num == SIGILL"),
        ("pthread_mutex_trylock/1-1", "rc!=EBUSY", "rc!=EDEADLK"),
        ("sigprocmask/7-1", "siglist[j]) != 1", "siglist[j]) != 0"),
        ("pthread_once/1-1", "init_flag != 1", "init_flag != 2"),
    ] {
        let source = suite.source.join(format!("conformance/interfaces/{name}.c"));
        let text = fs::read_to_string(&source).unwrap();
        assert!(text.contains(expects), "{name} is another one than expected");
        let copy = suite.scratch.join(format!("turned_{}.c", name.replace('/', "_")));
        fs::write(&copy, text.replace(expects, turned)).unwrap();
        let binary = suite.build(&copy, source.parent().unwrap());
        for guest in [false, true] {
            let test = Test { name: name.into(), seconds: 0.0, always: true };
            let outcome = suite.start(&test, &binary, &[], guest);
            assert!(
                matches!(outcome, Outcome::Fail | Outcome::Unresolved),
                "{name}, guest {guest}: {outcome:?}"
            );
        }
    }
}

/// How a test ended, in the suite's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Pass,
    Fail,
    Unresolved,
    /// Another status, or killed by a signal, as the shell counts.
    Status(i32),
}

fn outcome(status: i32) -> Outcome {
    match status {
        0 => Outcome::Pass,
        1 => Outcome::Fail,
        2 => Outcome::Unresolved,
        other => Outcome::Status(other),
    }
}

struct Suite {
    source: PathBuf,
    scratch: PathBuf,
}

impl Suite {
    fn prepare() -> Suite {
        let scratch = scratch("posix-suite");
        // The aio tests leave themselves out unless the option has its value of 2001.
        let option =
            "#include <unistd.h>\n#undef _POSIX_ASYNCHRONOUS_IO\n#define _POSIX_ASYNCHRONOUS_IO 200112L\n";
        fs::write(scratch.join("aio.h"), option).unwrap();
        Suite { source: debian_source("posixtestsuite"), scratch }
    }

    fn run(&self, test: &Test, guest: bool) -> Outcome {
        let path = self.source.join(&test.name);
        if !test.name.ends_with(".sh") {
            let source = path.with_extension("c");
            let source = if source.exists() { source } else { self.source.join(format!("{}.c", test.name)) };
            let binary = self.build(&source, source.parent().unwrap());
            return self.start(test, &binary, &[], guest);
        }
        // A shell script that starts one program, "….test", with arguments.
        let script = fs::read_to_string(&path).unwrap();
        let line =
            script.lines().find(|l| l.starts_with("conformance/") && l.contains("buildonly.test")).unwrap();
        let mut words = line.split_whitespace();
        let source = self.source.join(words.next().unwrap().replace(".test", ".c"));
        let binary = self.build(&source, source.parent().unwrap());
        self.start(test, &binary, &words.collect::<Vec<_>>(), guest)
    }

    fn start(&self, test: &Test, binary: &Path, args: &[&str], guest: bool) -> Outcome {
        // Files that tests make in their working folder do not meet.
        let dir = self.scratch.join(format!("{}.d", test.name.replace('/', "_")));
        fs::create_dir_all(&dir).unwrap();
        let mut command = if guest { attacca() } else { Command::new(binary) };
        signals_as_in_the_foreground(&mut command);
        if guest {
            command.args(["run", "--net", "none"]).arg(binary);
        }
        command.args(args).current_dir(&dir).stdin(Stdio::null()).env("LC_ALL", "C").env("TZ", "UTC0");
        let limit = LIMIT + Duration::from_secs_f64(2.0 * test.seconds);
        let output = run_limited(&mut command, limit);
        let _ = fs::remove_dir_all(&dir);
        outcome(shell_status(output.status))
    }

    /// First as the tests themselves declare, then with all that the headers have, then with headers that some
    /// forget. Each program is built once.
    fn build(&self, source: &Path, include: &Path) -> PathBuf {
        let name = source.strip_prefix(&self.source).unwrap_or(source).with_extension("");
        let binary = self.scratch.join(name.to_string_lossy().replace('/', "_"));
        if binary.exists() {
            return binary;
        }
        const STRICT: &str = "-Werror=implicit-function-declaration";
        let ways: [&[&str]; 4] = [
            &["-D_POSIX_C_SOURCE=200112L", "-D_XOPEN_SOURCE=600", STRICT],
            &["-D_GNU_SOURCE", STRICT],
            &["-D_GNU_SOURCE", "-include", "signal.h", "-include", "fcntl.h", STRICT],
            &["-D_GNU_SOURCE"],
        ];
        let part = self
            .scratch
            .join(format!("{}.{:?}.part", name.display(), std::thread::current().id()).replace('/', "_"));
        for way in ways {
            let mut gcc = Command::new("gcc");
            gcc.args(["-std=gnu99", "-O0", "-g", "-w"]).args(way);
            let text = source.to_string_lossy();
            if text.contains("/aio_") || text.contains("/lio_") {
                gcc.arg("-include").arg(self.scratch.join("aio.h"));
            }
            for dir in
                [&self.source.join("include"), include, &self.source.join("functional/threads/include")]
            {
                gcc.arg("-I").arg(dir);
            }
            gcc.arg("-o").arg(&part).arg(source).args(["-lpthread", "-lrt", "-lm"]).stderr(Stdio::null());
            if gcc.status().unwrap().success() {
                fs::rename(&part, &binary).unwrap();
                return binary;
            }
        }
        panic!("{} does not build", source.display());
    }
}

fn table() -> Vec<Test> {
    let rows = lines("apps/posix.tsv").map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        Test { name: fields[0].into(), seconds: fields[1].parse().unwrap(), always: fields[2] == "ci" }
    });
    rows.collect()
}

fn first_word(line: &str) -> String {
    line.split_whitespace().next().unwrap_or_default().into()
}

/// Lines of a table of compat-tests, without comments.
fn lines(path: &str) -> impl Iterator<Item = String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compat-tests").join(path);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let lines: Vec<String> =
        text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()).map(Into::into).collect();
    lines.into_iter()
}
