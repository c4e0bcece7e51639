//! Runs suites that others wrote natively and in guests, and keeps the lists of known failures.
//!
//! `compat-runner posix [--source DIR] [--match TEXT] [--update]`: the Open POSIX Test Suite (Debian's
//! source package posixtestsuite). A test counts if it passes natively; what then fails in a guest and
//! is not in compat-tests/known-failures/posix.txt, or is there and passes, ends the run with status 1.
//! With --update the list is written anew; reasons that stand there stay.
//!
//! Left out: tests that are shell scripts, and those that set the system's clock.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, String>;

const LIMIT: Duration = Duration::from_secs(45);
const USAGE: &str = "usage: compat-runner posix [--source DIR] [--match TEXT] [--update]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(words) => {
            eprintln!("{words}");
            ExitCode::from(2)
        }
    }
}

struct Options {
    source: Option<PathBuf>,
    part: String,
    update: bool,
}

fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options { source: None, part: String::new(), update: false };
    let mut args = args.iter();
    if args.next().map(String::as_str) != Some("posix") {
        return Err(USAGE.into());
    }
    while let Some(arg) = args.next() {
        match (arg.as_str(), args.as_slice().first()) {
            ("--update", _) => options.update = true,
            ("--source", Some(dir)) => options.source = Some(dir.into()),
            ("--match", Some(text)) => options.part = text.clone(),
            _ => return Err(USAGE.into()),
        }
        if arg != "--update" {
            args.next();
        }
    }
    Ok(options)
}

/// Whether all ended as the list says.
fn run(args: &[String]) -> Result<bool> {
    let options = parse(args)?;
    let attacca = build_attacca()?;
    let scratch = attacca.with_file_name("posix-suite");
    fs::create_dir_all(&scratch).map_err(|e| e.to_string())?;
    let source = match &options.source {
        Some(dir) => dir.canonicalize().map_err(|e| format!("{}: {e}", dir.display()))?,
        None => fetch(&scratch.join("source"))?,
    };
    let mut tests = Vec::new();
    find_tests(&source.join("conformance/interfaces"), &source, &mut tests);
    tests.retain(|test| test.contains(&options.part));
    tests.sort();
    let known = read_list();
    let suite = Suite { attacca, source, scratch };
    let outcomes = suite.run_all(&tests);
    let failed: Vec<(&String, &String)> =
        outcomes.iter().filter_map(|(t, o)| o.as_ref().err().map(|why| (t, why))).collect();
    let fresh: Vec<_> = failed.iter().filter(|(test, _)| !known.contains_key(*test)).collect();
    let mended: Vec<_> = known.keys().filter(|test| matches!(outcomes.get(*test), Some(Ok(())))).collect();
    println!("{} pass natively; {} of them fail in a guest", outcomes.len(), failed.len());
    fresh.iter().for_each(|(test, why)| println!("FAILS   {test}: {why}"));
    mended.iter().for_each(|test| println!("PASSES  {test}, but is listed"));
    if options.update {
        write_list(&known, &outcomes)?;
        return Ok(true);
    }
    Ok(fresh.is_empty() && mended.is_empty())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Built into the folder that this program was built into.
fn build_attacca() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "attacca"]).current_dir(root());
    if own.parent().is_some_and(|dir| dir.ends_with("release")) {
        cargo.arg("--release");
    }
    let built = cargo.status().is_ok_and(|status| status.success());
    if built { Ok(own.with_file_name("attacca")) } else { Err("attacca does not build".into()) }
}

/// The source package, by an apt state of its own.
fn fetch(dir: &Path) -> Result<PathBuf> {
    if dir.join("conformance").is_dir() {
        return Ok(dir.into());
    }
    let fetched = Command::new("sh").args(["-euc", FETCH, "sh"]).arg(dir).output();
    let fetched = fetched.map_err(|e| e.to_string())?;
    if fetched.status.success() {
        return Ok(dir.into());
    }
    Err(format!("cannot fetch posixtestsuite: {}", String::from_utf8_lossy(&fetched.stderr)))
}

const FETCH: &str = r#"
apt=$1.apt
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/parts" "$1"
for file in /etc/apt/sources.list.d/*.sources; do
    [ ! -e "$file" ] || sed 's/^Types:.*/Types: deb-src/' "$file" >"$apt/parts/$(basename "$file")"
done
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ ! -e "$file" ] ||
        sed -n 's/^deb\(-src\)\{0,1\} /deb-src /p' "$file" >"$apt/parts/$(basename "$file" .list).list"
done
cd "$apt"
for step in "update" "source --download-only posixtestsuite"; do
    apt-get -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt/cache" -o Dir::Etc::SourceList=/dev/null \
        -o Dir::Etc::SourceParts="$apt/parts" -o APT::Sandbox::User=root -o Debug::NoLocking=1 $step >>log 2>&1
done
tar --extract --strip-components=1 --directory "$1" --file "$apt"/posixtestsuite_*.orig.tar.*
rm -r "$apt"
"#;

/// NUMBER-NUMBER.c below `dir`, as "conformance/interfaces/CALL/1-1".
fn find_tests(dir: &Path, source: &Path, into: &mut Vec<String>) {
    for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()) {
        if path.is_dir() {
            find_tests(&path, source, into);
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let is_test = name.strip_suffix(".c").and_then(|n| n.split_once('-'));
        let sets_clock = || fs::read(&path).is_ok_and(|text| contains(&text, b"clock_settime"));
        if is_test.is_some_and(|(a, b)| digits(a) && digits(b)) && !sets_clock() {
            let test = path.strip_prefix(source).unwrap_or(&path).with_extension("");
            into.push(test.to_string_lossy().into_owned());
        }
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|w| w == word)
}

struct Suite {
    attacca: PathBuf,
    source: PathBuf,
    scratch: PathBuf,
}

impl Suite {
    /// For each test that passes natively: how it ended in a guest.
    fn run_all(&self, tests: &[String]) -> BTreeMap<String, Result<()>> {
        let queue = Mutex::new(tests.iter());
        let outcomes = Mutex::new(BTreeMap::new());
        let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    loop {
                        let Some(test) = queue.lock().expect("no panic").next() else { return };
                        if let Some(outcome) = self.run_one(test) {
                            outcomes.lock().expect("no panic").insert(test.clone(), outcome);
                        }
                    }
                });
            }
        });
        outcomes.into_inner().expect("no panic")
    }

    fn run_one(&self, test: &str) -> Option<Result<()>> {
        let binary = self.build(test)?;
        let mut native = Command::new(&binary);
        if self.status(&mut native) != Some(0) {
            return None;
        }
        let guest = || {
            let mut guest = Command::new(&self.attacca);
            guest.args(["run", "--net", "none"]).arg(&binary);
            self.status(&mut guest)
        };
        // A second chance, for tests that a loaded machine upsets natively as well.
        Some(match guest() {
            Some(0) => Ok(()),
            _ => match guest() {
                Some(0) => Ok(()),
                Some(status) => Err(meaning(status)),
                None => Err(format!("not done after {} s", LIMIT.as_secs())),
            },
        })
    }

    /// First what the tests themselves declare, then with GNU's extensions.
    fn build(&self, test: &str) -> Option<PathBuf> {
        let binary = self.scratch.join(test.replace('/', "_"));
        let source = self.source.join(format!("{test}.c"));
        let standards = [&["-D_POSIX_C_SOURCE=200112L", "-D_XOPEN_SOURCE=600"][..], &["-D_GNU_SOURCE"]];
        let built = standards.iter().any(|defines| {
            let mut gcc = Command::new("gcc");
            gcc.args(["-std=gnu99", "-g", "-w", "-I"]).arg(self.source.join("include")).args(*defines);
            gcc.arg("-I").arg(source.parent().unwrap_or(&self.source)).arg(&source).arg("-o").arg(&binary);
            gcc.args(["-Werror=implicit-function-declaration", "-lpthread", "-lrt", "-lm"]);
            gcc.stderr(Stdio::null()).status().is_ok_and(|s| s.success())
        });
        built.then_some(binary)
    }

    /// Runs to the end in a session of its own, all of which then ends. `None`: it took too long.
    fn status(&self, command: &mut Command) -> Option<i32> {
        command.current_dir(&self.scratch).env("LC_ALL", "C").env("TZ", "UTC0");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut child = command.spawn().ok()?;
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Ok(Some(status)) = child.try_wait() {
                break Some(std::os::unix::process::ExitStatusExt::into_raw(status));
            }
            if Instant::now() > deadline {
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        // SAFETY: the group that `process_group` made for this child; what is left of it ends.
        unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
        let _ = child.wait();
        status
    }
}

/// A wait status in the suite's words.
fn meaning(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        return format!("signal {}", libc::WTERMSIG(status));
    }
    match libc::WEXITSTATUS(status) {
        1 => "FAIL".into(),
        2 => "UNRESOLVED".into(),
        4 => "UNSUPPORTED".into(),
        5 => "UNTESTED".into(),
        other => format!("status {other}"),
    }
}

fn list_path() -> PathBuf {
    root().join("compat-tests/known-failures/posix.txt")
}

/// Test -> reason.
fn read_list() -> BTreeMap<String, String> {
    let text = fs::read_to_string(list_path()).unwrap_or_default();
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
    let split = |line: &str| {
        let (test, reason) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        (test.to_owned(), reason.trim().to_owned())
    };
    lines.map(split).collect()
}

const HEAD: &str = "\
# Tests of the Open POSIX Test Suite that pass natively and not in a guest: name, then the reason.
# Kept by `cargo run --package compat-runner -- posix --update`; a reason that stands here stays.
";

fn write_list(known: &BTreeMap<String, String>, outcomes: &BTreeMap<String, Result<()>>) -> Result<()> {
    let mut list = known.clone();
    for (test, outcome) in outcomes {
        match outcome {
            Ok(()) => drop(list.remove(test)),
            Err(why) => drop(list.entry(test.clone()).or_insert_with(|| why.clone())),
        }
    }
    let lines: String = list.iter().map(|(test, why)| format!("{test}  {why}\n")).collect();
    fs::write(list_path(), format!("{HEAD}{lines}")).map_err(|e| e.to_string())
}
