//! A network namespace for one test, without help of other programs.
//!
//! The test starts its own binary again with only itself selected; between fork and exec the child, which has one
//! thread then, enters a new network namespace (and as an ordinary user a user namespace in which it is root). All
//! its threads live there, and all that it made is gone with it.

use std::ffi::CString;
use std::io::{Error, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Set in the child.
const INSIDE: &str = "NET_LINUX_PEER_INSIDE";
/// The child's exit status when the machine lacks something; the reason is on its standard error.
const UNAVAILABLE: i32 = 77;
/// Stands before it.
const REASON: &str = "not available: ";
/// A case that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(50);
/// In the long form.
const LONG_LIMIT: Duration = Duration::from_secs(1800);

/// Runs `body` in a namespace of its own; `name` is the test's name. Fails if it fails there, and, for root, also
/// if the machine does not allow it; others are told why nothing was tested.
pub fn inside(name: &str, body: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let why = match enter(name) {
        Err(error) => format!("no new network namespace: {error}"),
        Ok(child) => match wait(name, child) {
            (Some(0), output) => {
                assert!(output.contains("1 passed"), "{name} did not run:\n{output}");
                // What it measured, for who runs tests with --nocapture.
                eprintln!("{output}");
                return;
            }
            (Some(UNAVAILABLE), output) => output
                .lines()
                .find_map(|line| line.split_once(REASON))
                .map_or(output.clone(), |(_, why)| why.into()),
            (status, output) => panic!("{name} failed ({status:?}):\n{output}"),
        },
    };
    assert!(!is_root(), "{name}: root must be able to run this: {why}");
    // Past the harness's capture: a test that tested nothing must not look like one that passed.
    let _ = writeln!(std::io::stderr(), "{name}: NOT TESTED: {why}");
}

/// Ends the child because the machine lacks something.
pub fn unavailable(why: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "{REASON}{why}");
    std::process::exit(UNAVAILABLE);
}

fn is_root() -> bool {
    // SAFETY: geteuid(2) touches nothing.
    unsafe { libc::geteuid() == 0 }
}

fn enter(name: &str) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let root = is_root();
    // SAFETY: these calls touch nothing.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let maps = [
        (c"/proc/self/setgroups".to_owned(), CString::new("deny")?),
        (c"/proc/self/uid_map".to_owned(), CString::new(format!("0 {user} 1"))?),
        (c"/proc/self/gid_map".to_owned(), CString::new(format!("0 {group} 1"))?),
    ];
    // SAFETY: between fork and exec only system calls are made, on strings made before.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let user = if root { 0 } else { libc::CLONE_NEWUSER };
            check(libc::unshare(user | libc::CLONE_NEWNET))?;
            for (path, text) in maps.iter().filter(|_| !root) {
                let fd = check(libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?;
                let len = text.as_bytes().len();
                check(libc::write(fd, text.as_ptr().cast(), len) as i32)?;
                libc::close(fd);
            }
            Ok(())
        });
    }
    command.spawn()
}

/// The exit status and everything that was said.
fn wait(name: &str, mut child: Child) -> (Option<i32>, String) {
    let mut pipes: Vec<Box<dyn Read + Send>> = Vec::new();
    pipes.extend(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    pipes.extend(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let readers: Vec<_> = pipes
        .into_iter()
        .map(|mut pipe| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                let _ = pipe.read_to_end(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            })
        })
        .collect();
    let begin = Instant::now();
    let limit = if std::env::var_os("ATTACCA_LONG").is_some() { LONG_LIMIT } else { LIMIT };
    let status = loop {
        if let Some(status) = child.try_wait().expect("our child") {
            break status;
        }
        if begin.elapsed() > limit {
            let _ = child.kill();
            let _ = writeln!(std::io::stderr(), "{name}: stopped after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let output = readers.into_iter().map(|reader| reader.join().unwrap_or_default()).collect();
    (status.code(), output)
}

/// A system call's result.
pub fn check(result: i32) -> std::io::Result<i32> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}
