//! Shells as people sit before them: bash, dash and busybox on a terminal, natively and in a guest, told the same
//! things and seen to answer the same. Once on a terminal of the host, whose signals reach the guest from outside,
//! and once on a pseudo-terminal inside of it (`script`), where the guest itself does all of it. Then what their
//! scripts do: pipelines, here-documents, traps, `/dev/tcp`.
//!
//! Keys are pressed at once when the programs have said that they are in front; nobody waits for a while and hopes.
//!
//! Left out: how a line is edited; the shells read theirs from the line discipline where they can.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::sync::OnceLock;
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

    /// Waits until so many programs of [`waiter`]'s have said that they are in front.
    fn in_front(&mut self, count: usize) {
        (0..count).for_each(|_| self.tell("", "front\r\n"));
    }

    /// Waits until the host's terminal is another group's than the program's.
    fn wait_for_job(&self) {
        let deadline = Instant::now() + PATIENCE;
        // SAFETY: our descriptor; of a master it answers the slave's group.
        while unsafe { libc::tcgetpgrp(self.master.as_raw_fd()) } == self.child.id() as i32 {
            assert!(Instant::now() < deadline, "the job is not in front:\n{}", self.seen);
            std::thread::sleep(Duration::from_millis(2));
        }
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

/// A program that says "here" when it starts, and "front" each time that it finds itself in the foreground of its
/// terminal: when it is started or brought there, and when it is continued. It stays; with an argument it reads its
/// input, and leaves with 0 at the end of that.
const STAY: &str = r#"
    #include <poll.h>
    #include <signal.h>
    #include <time.h>
    #include <unistd.h>
    static volatile sig_atomic_t told;
    static void again(int signal) { (void)signal; told = 0; }
    int main(int argc, char **argv)
    {
        (void)argv;
        struct sigaction action = {.sa_handler = again, .sa_flags = SA_RESTART};
        sigaction(SIGCONT, &action, NULL);
        if (write(2, "here\n", 5) != 5)
            return 1;
        for (int rounds = 0; rounds < 20000; rounds++) {
            struct pollfd input = {.fd = argc > 1 ? 0 : -1, .events = POLLIN};
            char bytes[100];
            if (tcgetpgrp(2) != getpgrp())
                told = 0;
            else if (!told) {
                told = 1;
                if (write(2, "front\n", 6) != 6)
                    return 1;
            }
            if (poll(&input, 1, 5) == 1 && read(0, bytes, sizeof bytes) <= 0)
                return 0;
        }
        return 2;
    }
"#;

fn waiter() -> String {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| compile("stay", STAY, &[]).display().to_string()).clone()
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
    // The shell reads a line meanwhile, so that its prompt comes behind the program's word.
    shell.tell(&format!("{stay} & read x\n"), "here\r\n");
    shell.tell("\n", PROMPT);
    shell.tell("jobs\n", PROMPT);
    shell.tell("fg\n", "stay\r\n");
    shell.in_front(1);
    shell.tell("\x1a", PROMPT);
    shell.tell("echo status $?; jobs\n", PROMPT);
    shell.tell("bg\n", PROMPT);
    shell.tell("kill %1; wait %1; echo ended $?\n", "ended 143");
    shell.tell("", PROMPT);
    shell.tell(&format!("{stay}\n"), "here\r\n");
    shell.in_front(1);
    shell.tell("\x03", PROMPT);
    shell.tell("echo status $?\n", PROMPT);
    // The second would leave with 0 if it saw the end of the pipe before the signal.
    shell.tell(&format!("{stay} | {stay} and read\n"), "here\r\n");
    shell.in_front(2);
    shell.tell("\x1a", PROMPT);
    shell.tell("echo status $?\n", PROMPT);
    shell.tell("fg\n", "read\r\n");
    shell.in_front(2);
    shell.tell("\x03", PROMPT);
    shell.tell("echo status $?\n", PROMPT);
    shell.tell(&format!("{stay}\n"), "here\r\n");
    shell.in_front(1);
    shell.tell("\x1c", PROMPT);
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
    // Two programs of a pipeline say theirs in any order.
    lines.retain(|line| !line.contains("Terminated") && line != "here" && line != "front");
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

/// Ctrl-C reaches all programs of a pipeline before any of them sees another one's end: the last one, which reads, never
/// leaves by itself. The guest's own line discipline sends it, to host processes that run at once.
#[test]
fn a_key_reaches_a_pipeline_at_once() {
    let dash = format!("{} -i", program("dash", "dash"));
    let mut shell = Terminal::start(inside(&["/usr/bin/script", "-qfec", &dash, "/dev/null"]));
    let stay = waiter();
    shell.tell("", FIRST_PROMPT);
    shell.tell("PS1='P''> '\n", PROMPT);
    for _ in 0..20 {
        shell.tell(&format!("{stay} | {stay} and read | {stay} and read\n"), "read\r\n");
        shell.in_front(3);
        shell.tell("\x03", PROMPT);
        shell.tell("echo status $?\n", "status 130\r\n");
        shell.tell("", PROMPT);
    }
    let (seen, status) = shell.end("exit 7\n");
    assert_eq!(status, 7, "{seen}");
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
    shell.in_front(1);
    shell.tell("\x1a", "Stopped");
    shell.tell("", PROMPT);
    shell.tell("bg\n", PROMPT);
    shell.tell("jobs\n", "Running");
    shell.tell("", PROMPT);
    shell.tell("fg\n", "echo after'\r\n");
    // bash names the job before it gives it the terminal.
    shell.wait_for_job();
    shell.tell("\x03", PROMPT);
    shell.tell("echo status $?\n", "status 130");
    shell.tell("", PROMPT);
    shell.tell(&format!("{guest}\n"), "here\r\n");
    shell.in_front(1);
    shell.tell("\x1c", PROMPT);
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
    // A trap runs before the next command; the host's signal and the terminal's bytes come by two ways, so the first
    // command may be the earlier one.
    let deadline = Instant::now() + PATIENCE;
    while !shell.seen.contains("size: 40 120") {
        assert!(Instant::now() < deadline, "it does not hear of it:\n{}", shell.seen);
        shell.tell("true\n", PROMPT);
    }
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
        "diff <(seq 5) <(seq 2 6); echo $?; x=$(seq 9 > >(tail -n 1)); echo $x; coproc cat; echo hi >&${COPROC[1]}; read -ru ${COPROC[0]} l; echo $l",
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
