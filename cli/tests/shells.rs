//! Shells as people sit before them: bash, dash and busybox on a terminal, natively and in a guest, told the same
//! things and seen to answer the same. Once on a terminal of the host, whose signals reach the guest from outside,
//! and once on a pseudo-terminal inside of it (`script`), where the guest itself does all of it. Then what their
//! scripts do: pipelines, here-documents, traps, `/dev/tcp`.
//!
//! Left out: how a line is edited; the shells read theirs from the line discipline where they can. And keys pressed
//! while a program is being forked or executed: on the host's terminal such a process can miss the signal, since each
//! host process of the guest takes it for itself. So the programs are given a moment before a key is pressed.

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use support::*;

const LIMIT: Duration = Duration::from_secs(60);
const SIZE: libc::winsize = libc::winsize { ws_row: 33, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
const PROMPT: &str = "P> ";
/// The end of a shell's own prompt, for root.
const FIRST_PROMPT: &str = "# ";

/// A program that leads a session on a terminal of its own.
struct Terminal {
    child: Child,
    master: File,
    incoming: Receiver<Vec<u8>>,
    seen: String,
    read: usize,
}

impl Terminal {
    fn start(mut command: Command) -> Terminal {
        let (mut master, mut slave) = (0, 0);
        let nothing = std::ptr::null_mut();
        // SAFETY: the two places and the size are ours; the rest is left out.
        let opened = unsafe { libc::openpty(&mut master, &mut slave, nothing, std::ptr::null(), &SIZE) };
        assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: both were just opened and belong to nobody else.
        let (master, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        // SAFETY: a plain number; no other program of this test's should hold the master.
        unsafe { libc::fcntl(master.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
        command.env("TERM", "dumb").env("HOME", scratch("shells"));
        command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
        let lead = || {
            // SAFETY: async-signal-safe, between fork and exec; descriptor 0 is the terminal.
            let done = unsafe { libc::setsid() >= 0 && libc::ioctl(0, libc::TIOCSCTTY, 0) == 0 };
            if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        signals_as_in_the_foreground(&mut command);
        // SAFETY: the closure makes async-signal-safe calls alone.
        let child = unsafe { command.pre_exec(lead) }.spawn().unwrap();
        let (sender, incoming) = channel();
        let mut reader = master.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO when the last slave is closed.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal { child, master, incoming, seen: String::new(), read: 0 }
    }

    /// Types something and waits for an answer that ends in `answer`, which is looked for behind what was waited for
    /// before.
    fn tell(&mut self, keys: &str, answer: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen[self.read..].find(answer) {
                self.read += at + answer.len();
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.incoming.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("no {answer:?} after {keys:?} ({error}):\n{}", self.seen),
            }
        }
    }

    /// Presses a key for a program that was started just now.
    fn press(&mut self, key: &str, answer: &str) {
        std::thread::sleep(Duration::from_millis(500));
        self.tell(key, answer);
    }

    /// What was shown, to the end, and the status.
    fn end(mut self, keys: &str) -> (String, i32) {
        self.master.write_all(keys.as_bytes()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.incoming.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end:\n{}", self.seen),
            }
        }
        (std::mem::take(&mut self.seen), shell_status(self.child.wait().unwrap()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that says that it is there, and stays.
fn waiter() -> String {
    let path = scratch("shells").join("stay");
    // Written aside and renamed: other tests may be running it.
    let aside = path.with_extension(format!("{:?}", std::thread::current().id()).replace(['(', ')'], ""));
    fs::write(&aside, "#!/bin/sh\necho here\nexec sleep 100\n").unwrap();
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&aside, &path).unwrap();
    path.display().to_string()
}

/// One talk with a shell: jobs in the background and in front, stopped, continued and ended by keys and by `kill`.
/// Programs that a key is pressed for say first that they are there.
fn talk(command: Command) -> (String, i32) {
    let stay = waiter();
    let mut shell = Terminal::start(command);
    shell.tell("", FIRST_PROMPT);
    // Spelt so that the echo of the line is not taken for the prompt.
    shell.tell("PS1='P''> '\n", PROMPT);
    shell.seen.clear();
    shell.read = 0;
    shell.tell("stty size; stty -a | grep -c intr\n", PROMPT);
    shell.tell(&format!("{stay} & sleep 0.3\n"), "here\r\n");
    shell.tell("", PROMPT);
    shell.tell("jobs\n", PROMPT);
    shell.tell("fg\n", "stay\r\n");
    shell.press("\x1a", PROMPT);
    shell.tell("echo status $?; jobs\n", PROMPT);
    shell.tell("bg\n", PROMPT);
    shell.tell("kill %1; wait %1; echo ended $?\n", "ended 143");
    shell.tell("", PROMPT);
    shell.tell(&format!("{stay}\n"), "here\r\n");
    shell.press("\x03", PROMPT);
    shell.tell("echo status $?\n", PROMPT);
    // Each is ended by the key alone: `cat` might see the end of the pipe first.
    shell.tell(&format!("{stay} | {stay}\n"), "here\r\n");
    shell.press("\x1a", PROMPT);
    shell.tell("echo status $?\n", PROMPT);
    shell.tell("fg\n", "stay\r\n");
    shell.press("\x03", PROMPT);
    shell.tell("echo status $?\n", PROMPT);
    shell.tell(&format!("{stay}\n"), "here\r\n");
    shell.press("\x1c", PROMPT);
    shell.tell("echo status $?\n", PROMPT);
    shell.tell("trap 'echo cau''ght' INT; kill -INT $$; echo on\n", PROMPT);
    shell.tell("cat <<END | tr a-z A-Z\none\nEND\n", "ONE\r\n");
    shell.tell("", PROMPT);
    shell.end("exit 7\n")
}

/// Without process ids, and without what differs between two runs of the same native shell: whether the word about a
/// job that was killed comes before or after the next answer.
fn comparable(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text
        .replace("\x1b[6n", "")
        .lines()
        .map(|line| {
            let pid =
                line.strip_prefix("[1] ").filter(|rest| rest.trim().bytes().all(|b| b.is_ascii_digit()));
            if pid.is_some() { "[1] PID".into() } else { line.trim_end().to_string() }
        })
        .collect();
    lines.retain(|line| !line.contains("Terminated"));
    lines
}

/// `attacca run` of a program of the host's tree.
fn inside(words: &[&str]) -> Command {
    let mut command = attacca();
    command.args(["run", "--net", "none"]).args(words);
    command
}

fn outside(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

fn program(package: &str, name: &str) -> String {
    let root = debian_root(package);
    let places = ["usr/bin", "bin"].map(|dir| root.join(dir).join(name));
    let found: Option<&PathBuf> = places.iter().find(|place| place.exists());
    found.unwrap_or_else(|| panic!("{package} has no {name}")).display().to_string()
}

fn same_talk(words: &[&str]) {
    let (native, status) = talk(outside(words));
    assert_eq!(status, 7, "natively: {native}");
    let (guest, status) = talk(inside(words));
    assert_eq!(status, 7, "{guest}");
    assert_eq!(comparable(&guest), comparable(&native), "natively:\n{native}\nin a guest:\n{guest}");
    // The talk went through, and not around, what it is about.
    for word in ["33 101", "Stopped", "Terminated", "status 148", "status 130", "status 131", "ONE"] {
        assert!(guest.contains(word), "no {word:?}:\n{guest}");
    }
}

const PLAIN_BASH: [&str; 3] = ["--norc", "--noprofile", "--noediting"];

#[test]
fn bash_on_the_hosts_terminal() {
    let bash = program("bash", "bash");
    same_talk(&[&[bash.as_str()], &PLAIN_BASH[..]].concat());
}

#[test]
fn dash_on_the_hosts_terminal() {
    same_talk(&[&program("dash", "dash"), "-i"]);
}

#[test]
fn busybox_on_the_hosts_terminal() {
    same_talk(&[&program("busybox", "busybox"), "sh"]);
}

/// The outer terminal is raw while `script` runs: every key goes through the guest's own line discipline.
#[test]
fn shells_on_a_terminal_of_the_guest() {
    let shells = [
        format!("{} {}", program("bash", "bash"), PLAIN_BASH.join(" ")),
        format!("{} -i", program("dash", "dash")),
        format!("{} sh", program("busybox", "busybox")),
    ];
    for shell in shells {
        same_talk(&["/usr/bin/script", "-qfec", &shell, "/dev/null"]);
    }
}

/// The guest as a job of the host's shell: it is stopped, continued, interrupted like any program.
#[test]
fn a_guest_is_a_job() {
    let bash = program("bash", "bash");
    let mut shell = Terminal::start(outside(&[&[bash.as_str()], &PLAIN_BASH[..]].concat()));
    let stay = waiter();
    let guest = format!("{} run --net none sh -c '{stay}; echo after'", env!("CARGO_BIN_EXE_attacca"));
    shell.tell("", FIRST_PROMPT);
    shell.tell("PS1='P''> '\n", PROMPT);
    shell.tell(&format!("export XDG_RUNTIME_DIR={}\n", runtime_dir().display()), PROMPT);
    shell.tell(&format!("{guest}\n"), "here\r\n");
    shell.press("\x1a", "Stopped");
    shell.tell("", PROMPT);
    shell.tell("bg\n", PROMPT);
    shell.tell("jobs\n", "Running");
    shell.tell("", PROMPT);
    shell.tell("fg\n", "echo after'\r\n");
    shell.press("\x03", PROMPT);
    shell.tell("echo status $?\n", "status 130");
    shell.tell("", PROMPT);
    shell.tell(&format!("{guest}\n"), "here\r\n");
    shell.press("\x1c", PROMPT);
    shell.tell("echo status $?\n", "status 131");
    let (seen, status) = shell.end("exit 7\n");
    assert_eq!(status, 7, "{seen}");
    assert!(!seen.contains("\nafter"), "{seen}");
}

/// The host's terminal changes its size: the shell in the guest hears of it.
#[test]
fn a_new_size() {
    let bash = program("bash", "bash");
    let mut shell = Terminal::start(inside(&[&[bash.as_str()], &PLAIN_BASH[..]].concat()));
    shell.tell("", FIRST_PROMPT);
    shell.tell("PS1='P''> '\n", PROMPT);
    shell.tell("trap 'echo si''ze: $(stty size)' WINCH; echo rea''dy\n", "ready\r\n");
    shell.tell("", PROMPT);
    let size = libc::winsize { ws_row: 40, ws_col: 120, ..SIZE };
    // SAFETY: the size is ours to read.
    assert_eq!(unsafe { libc::ioctl(shell.master.as_raw_fd(), libc::TIOCSWINSZ, &size) }, 0);
    // A trap runs before the next command; the host's signal and the terminal's bytes come by two ways, and only a
    // command that is typed after a while is sure to be the later one.
    shell.press("true\n", "size: 40 120");
    let (seen, status) = shell.end("exit 3\n");
    assert_eq!(status, 3, "{seen}");
}

fn run_in(shell: &str, options: &[&str], script: &str, guest: bool) -> Output {
    let words = [options, &["-c", script, "name", "first", "second"]].concat();
    let mut command = if guest {
        inside(&[&[shell], &words[..]].concat())
    } else {
        outside(&[&[shell], &words[..]].concat())
    };
    run_limited(signals_as_in_the_foreground(&mut command), LIMIT)
}

/// What scripts do, in each shell: output, errors and status as natively.
#[test]
fn scripts() {
    let cases = [
        // Five programs, the first of which is ended by SIGPIPE.
        "seq 1 100000 | grep 7 | sort -rn | head -n 5 | tr '\\n' ,; echo; yes | head -n 3 | cat -n | tail -n 1 | wc -c",
        "i=0; while [ $i -lt 30 ]; do echo $i; i=$((i+1)); done | sort | uniq | wc -l | tr -d ' ' | sed s/3/three/",
        "cat <<E; cat <<'F'\n$1 $((6*7)) `echo x`\nE\n$1 `no`\nF\ncat <<-G | cat\n\tone\n\ttwo\nG",
        "trap 'echo usr1' USR1; trap 'echo bye $?' EXIT; kill -USR1 $$; trap 'echo term; exit 3' TERM; kill $$; echo never",
        "trap '' TERM; kill $$; echo alive; trap - TERM; kill $$; echo never",
        "trap 'echo int' INT; sh -c 'kill -INT $PPID'; echo on; (exit 4); echo $?; (sh -c 'kill -9 $$') 2>/dev/null; echo $?",
        "sleep 100 & kill $!; wait $!; echo $?; (exit 9) & wait $!; echo $?; wait; echo $?",
        "exec 3>&1; (echo out; echo err >&2) 2>&1 >&3 | sed 's/^/piped /'; exec 3>&-; echo x >&3; echo $?",
        "f() { local a=$1; echo $a $#; return 6; }; f 1 2 3; echo $?; set -- a 'b c' d; for w in \"$@\"; do echo \"<$w>\"; done",
        "umask 027; umask; ulimit -n 100; ulimit -n; cd /usr/../tmp; pwd; nonesuch; echo $?; /etc/passwd; echo $?",
        "case $(echo abc | tr a-c A-C) in A*) echo yes;; esac; x=$(seq 3 | while read l; do echo [$l]; done); echo $x; echo ${x#*]} ${#x}",
        "(sleep 0.1; echo late) & echo early; wait; ! true; echo $?; true && false || echo or; exit 300",
        "echo one >/tmp/$$.x; echo two >>/tmp/$$.x; while read l; do echo \"$l\"; done </tmp/$$.x; rm /tmp/$$.x; set -e; false; echo never",
    ];
    let bash_only = [
        "set -o pipefail; yes | head -n 1 >/dev/null; echo ${PIPESTATUS[@]}; false | true; echo $?",
        "diff <(seq 5) <(seq 2 6); echo $?; seq 9 > >(tail -n 1); wait $!; coproc cat; echo hi >&${COPROC[1]}; read -ru ${COPROC[0]} l; echo $l",
        "declare -A a=([x]=1 [y]=2); echo ${#a[@]} ${a[y]}; printf '%q %05.1f %s\\n' 'a b' 3.14159 x; [[ abc =~ ^a(.)c$ ]] && echo ${BASH_REMATCH[1]}; echo {1..5}",
        "trap 'echo err $LINENO' ERR; false; shopt -s lastpipe; echo v | read v; echo $v; mapfile -t m < <(seq 3); echo ${m[2]}; read -t 0.1 z < <(sleep 1); echo $?",
        "wait -n 2>/dev/null; (exit 5) & wait -n; echo $?; kill -l 15; enable -f nonesuch x; echo $?; time -p true 2>/dev/null; exit 5",
    ];
    let bash = program("bash", "bash");
    let dash = program("dash", "dash");
    let busybox = program("busybox", "busybox");
    for (shell, options) in [(&bash, &[][..]), (&dash, &[]), (&busybox, &["sh"])] {
        let more: &[&str] = if shell == &bash { &bash_only } else { &[] };
        for script in cases.iter().chain(more) {
            let native = run_in(shell, options, script, false);
            let guest = run_in(shell, options, script, true);
            let seen = |output: &Output| {
                // bash tells the process of a job that was killed.
                let word = |word: &str| {
                    if word.len() > 3 && word.bytes().all(|b| b.is_ascii_digit()) {
                        "PID".into()
                    } else {
                        word.to_string()
                    }
                };
                let text = |bytes: &[u8]| {
                    String::from_utf8_lossy(bytes).split(' ').map(word).collect::<Vec<String>>().join(" ")
                };
                (text(&output.stdout), text(&output.stderr), shell_status(output.status))
            };
            assert_eq!(seen(&guest), seen(&native), "{shell}: {script}");
        }
    }
}

/// bash as a client: `/dev/tcp`, and `/dev/udp`.
#[test]
fn bash_opens_dev_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let mut lines = Vec::new();
        for greeting in ["welcome\n", ""] {
            let (mut stream, _) = listener.accept().unwrap();
            // Only who reads is greeted: a close with something unread resets the connection (RFC 2525, 2.17).
            stream.write_all(greeting.as_bytes()).unwrap();
            let mut line = String::new();
            stream.read_to_string(&mut line).unwrap();
            lines.push(line);
        }
        lines
    });
    let script = format!(
        "exec 3<>/dev/tcp/10.0.2.2/{port}; read -r l <&3; echo \"$l\"; echo from $$ | sed 's/ .*//' >&3; exec 3>&-; \
         echo again >/dev/tcp/10.0.2.2/{port}; echo $?; (exec 4<>/dev/tcp/10.0.2.2/1) 2>/dev/null; echo $?"
    );
    let bash = program("bash", "bash");
    let output = run_limited(attacca().args(["run", &bash, "-c", &script]), LIMIT);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text(output), "welcome\n0\n1\n", "{errors}");
    assert_eq!(server.join().unwrap(), ["from\n", "again\n"]);
}
