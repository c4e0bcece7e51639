//! What the tests of whole guests share: starting one, waiting for its port, running a client natively
//! from an unpacked Debian package, and leaving nothing behind.
#![allow(dead_code)] // each test file uses its part

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long a test waits for something that should come at once, on a machine that others share.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The command under test.
pub fn attacca() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attacca"));
    command.env("XDG_RUNTIME_DIR", runtime_dir()).stdin(Stdio::null());
    command
}

/// A runtime directory of this test process's own, so that tests do not see each other's guests.
pub fn runtime_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = scratch(&format!("run-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    })
}

/// A folder below target/ for this test's files.
pub fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// A port of the host that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A running guest; ended when dropped.
pub struct Guest {
    child: Child,
    stderr: PathBuf,
}

impl Guest {
    /// `attacca run ARGS`, in the background.
    pub fn start(args: &[&str]) -> Guest {
        static COUNT: Mutex<u32> = Mutex::new(0);
        let number = {
            let mut count = COUNT.lock().unwrap();
            *count += 1;
            *count
        };
        let stderr = scratch("logs").join(format!("{}-{number}.stderr", std::process::id()));
        let log = fs::File::create(&stderr).unwrap();
        let child =
            attacca().arg("run").args(args).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Guest { child, stderr }
    }

    /// Its host process.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it wrote so far, both streams.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Waits until a TCP connection to the port is answered with data or held open: the guest listens.
    pub fn wait_for_port(&mut self, port: u16) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the guest ended with {status}:\n{}", self.output());
            }
            if listens(port) {
                return;
            }
            assert!(Instant::now() < deadline, "nobody listens on {port}:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: our own child, not yet reaped.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the guest does not end:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Processor time used so far, user and system, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
        // Fields 14 and 15 of proc(5), in ticks of 10 ms.
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A published port accepts even before the guest listens; it is up when the connection is kept.
fn listens(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    // Refused by the guest: a reset. Otherwise the server waits for us to speak.
    match stream.read(&mut [0; 1]) {
        Ok(0) => false,
        Ok(_) => true,
        Err(error) => matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
    }
}

/// The unpacked root of a Debian package.
pub fn debian_root(package: &str) -> PathBuf {
    let output = attacca().args(["pull", &format!("debian:{package}")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// A program of a Debian package, run natively with that package's own libraries.
pub fn native(package: &str, program: &str) -> Command {
    let root = debian_root(package);
    let path = ["usr/bin", "usr/sbin"].iter().map(|d| root.join(d).join(program)).find(|p| p.exists());
    let path = path.unwrap_or_else(|| panic!("{package} has no {program}"));
    let lib = root.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(lib.join("ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(&lib).arg(path).stdin(Stdio::null());
    command
}

/// Runs a command to its end, at most `limit`.
pub fn run_limited(command: &mut Command, limit: Duration) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let out = std::thread::spawn(move || read_all(&mut stdout));
    let err = std::thread::spawn(move || read_all(&mut stderr));
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            break child.wait().unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Output { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
}

fn read_all(from: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    bytes
}

/// A command's output as text, which must have succeeded.
pub fn text(output: Output) -> String {
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{words}\n{errors}", output.status);
    words
}

/// A plain HTTP exchange on a fresh connection: the whole answer.
pub fn http(port: u16, request: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    read_all(&mut stream)
}

/// Head and body of an HTTP answer.
pub fn split_http(answer: &[u8]) -> (String, &[u8]) {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    (String::from_utf8_lossy(&answer[..end]).into_owned(), &answer[end + 4..])
}

/// Repeatable bytes that no compression or off-by-one leaves equal.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ state >> 29).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
