//! CPython's own tests (Debian's package libpython3.11-testsuite): what passes natively, here and now, passes in a
//! guest, or stands in compat-tests/known-failures/cpython.txt; and what stands there does not pass.
//!
//! The modules are in compat-tests/apps/cpython.tsv. Those marked "ci" run always, all with ATTACCA_LONG=1.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::*;

/// For one module; the longest takes half a minute natively.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn python_tests_pass_as_natively() {
    let _alone = alone();
    let long = std::env::var_os("ATTACCA_LONG").is_some();
    let known = known_failures();
    let (mut wrong, mut passed) = (Vec::new(), 0);
    for line in table("apps/cpython.tsv") {
        let mut fields = line.split('\t');
        let (module, least, when) = (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap());
        if when != "ci" && !long {
            continue;
        }
        let options: Vec<&str> = fields.next().unwrap_or_default().split_whitespace().collect();
        let native = run(module, &options, false);
        assert!(native.len() >= least.parse().unwrap(), "{module}: natively only {} pass", native.len());
        let mut guest = run(module, &options, true);
        let is_known = |test: &str| known.iter().any(|known| known.means(module, test));
        let unexpected = |guest: &BTreeSet<String>| -> Vec<String> {
            native.difference(guest).filter(|test| !is_known(test)).cloned().collect()
        };
        if !unexpected(&guest).is_empty() {
            // Many of them measure time: once more.
            guest.extend(run(module, &options, true));
        }
        wrong.extend(unexpected(&guest).into_iter().map(|test| format!("{test} does not pass")));
        wrong.extend(
            guest.iter().filter(|test| is_known(test)).map(|test| format!("{test} passes, but is listed")),
        );
        passed += native.intersection(&guest).count();
    }
    println!("CPython: {passed} tests pass in a guest");
    assert!(wrong.is_empty(), "{} end wrongly:\n{}", wrong.len(), wrong.join("\n"));
}

/// A module in which one expectation is turned round: exactly that test must fail, natively and in a guest. Else the
/// test above would prove nothing.
#[test]
fn a_wrong_expectation_fails() {
    let _alone = alone();
    let source = root().join("usr/lib/python3.11/test/test_posix.py");
    let text = fs::read_to_string(source).unwrap();
    let (right, turned) = ("self.assertEqual(len(user_ids), 3)", "self.assertEqual(len(user_ids), 4)");
    assert!(text.contains(right), "another test_posix.py than expected");
    let copy = scratch("cpython").join("turned_posix.py");
    fs::write(&copy, text.replace(right, turned)).unwrap();
    for guest in [false, true] {
        let mut command = python(guest);
        let output = run_limited(command.arg(&copy).args(["-v", "-k", "test_getres"]), LIMIT);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "guest {guest}: {words}");
        assert!(words.contains("FAIL: test_getresuid"), "guest {guest}: {words}");
        assert!(words.contains("failures=1"), "guest {guest}: {words}");
    }
}

fn root() -> PathBuf {
    debian_root("libpython3.11-testsuite")
}

/// The interpreter, natively or as a guest; it starts itself again by the same name.
fn python(guest: bool) -> Command {
    let root = root();
    let interpreter = root.join("usr/bin/python3.11");
    let mut command = if guest { attacca() } else { native_python(&root) };
    if guest {
        command.args(["run", "--net", "none"]).arg(interpreter);
    }
    command.env("PYTHONHOME", root.join("usr")).env("PYTHONDONTWRITEBYTECODE", "1").env("LC_ALL", "C.UTF-8");
    command
}

/// The tests of a module that pass.
fn run(module: &str, options: &[&str], guest: bool) -> BTreeSet<String> {
    let dir = scratch("cpython").join(format!("{module}-{}", if guest { "guest" } else { "native" }));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let report = dir.join("report.xml");
    let mut command = python(guest);
    command.args(["-m", "test", "--junit-xml"]).arg(&report).args(options).arg(module).current_dir(&dir);
    let output = run_limited(&mut command, LIMIT);
    let text = fs::read_to_string(&report).unwrap_or_else(|error| {
        let words = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        panic!("{module}, guest {guest}: {error}\n{}", words.concat())
    });
    let _ = fs::remove_dir_all(&dir);
    // A test that passed is an element without a child: `<testcase name="test.test_os.Class.test" ... />`.
    let cases = text.split("<testcase ").skip(1);
    let passed = cases.filter(|case| case.split_once('>').is_some_and(|(head, _)| head.ends_with('/')));
    let name = |case: &str| Some(case.strip_prefix("name=\"")?.split_once('"')?.0.to_owned());
    passed.filter_map(name).collect()
}

/// A line of known-failures/cpython.txt.
struct Known {
    module: String,
    pattern: String,
}

impl Known {
    fn means(&self, module: &str, test: &str) -> bool {
        let part = self.pattern.trim_matches('*');
        let found = match part.len() == self.pattern.len() {
            true => test.rsplit('.').next() == Some(part),
            false => test.contains(part),
        };
        self.module == module && found
    }
}

fn known_failures() -> Vec<Known> {
    let lines = table("known-failures/cpython.txt");
    let known = lines.iter().map(|line| {
        let mut words = line.split_whitespace();
        Known { module: words.next().unwrap().into(), pattern: words.next().unwrap().into() }
    });
    known.collect()
}

/// Lines of a file of compat-tests, without comments.
fn table(path: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compat-tests").join(path);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()).map(Into::into).collect()
}
