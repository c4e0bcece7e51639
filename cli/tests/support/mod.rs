//! What the tests of whole guests share: starting one, waiting for its port, running a client natively
//! from an unpacked Debian package, and leaving nothing behind.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

pub mod network;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

/// How long a test waits for something that should come at once, on a machine that others share.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The command under test.
pub fn attacca() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attacca"));
    command.env("XDG_RUNTIME_DIR", runtime_dir()).stdin(Stdio::null());
    signals_as_in_the_foreground(&mut command);
    command
}

/// A shell starts its background jobs with SIGINT and SIGQUIT ignored, and programs inherit that: the tests would
/// then see other programs than with the same command in the foreground.
pub fn signals_as_in_the_foreground(command: &mut Command) -> &mut Command {
    let default = || {
        for signal in [libc::SIGINT, libc::SIGQUIT] {
            // SAFETY: async-signal-safe, between fork and exec.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: the closure makes async-signal-safe calls alone.
    unsafe { command.pre_exec(default) }
}

/// A runtime directory of this test process's own, so that tests do not see each other's guests.
pub fn runtime_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = scratch(&format!("run-{}", std::process::id()));
        // An earlier process may have had our number.
        fs::remove_dir_all(&dir).unwrap();
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
        Guest::spawn(args, Stdio::null())
    }

    /// The same, with something to read: a shell that is told what to do as a test goes on.
    pub fn start_fed(args: &[&str]) -> (Guest, ChildStdin) {
        let mut guest = Guest::spawn(args, Stdio::piped());
        let stdin = guest.child.stdin.take().unwrap();
        (guest, stdin)
    }

    fn spawn(args: &[&str], stdin: Stdio) -> Guest {
        static COUNT: Mutex<u32> = Mutex::new(0);
        let number = {
            let mut count = COUNT.lock().unwrap();
            *count += 1;
            *count
        };
        let stderr = scratch("logs").join(format!("{}-{number}.stderr", std::process::id()));
        let log = fs::File::create(&stderr).unwrap();
        let mut command = attacca();
        command.arg("run").args(args).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        command.stdin(stdin);
        let child = command.spawn().unwrap();
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

    /// Waits until the program in the guest answers on the port. (The host's end of a published port takes
    /// connections before the guest does, so that connecting alone says nothing.)
    pub fn wait_for_port(&mut self, port: u16) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the guest ended with {status}:\n{}", self.output());
            }
            if answers(port) {
                return;
            }
            assert!(Instant::now() < deadline, "nobody answers on {port}:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: our own child, not yet reaped.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
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
        resident_kib(self.pid())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        end_group(&self.child);
        let _ = self.child.wait();
    }
}

/// Ends what a child started in a process group of its own has left behind, too: a guest's first process may die
/// before its others, as nginx's master may before its workers.
fn end_group(child: &Child) {
    // SAFETY: no preconditions; the group is named after our own child and lives while a member does.
    unsafe { libc::killpg(child.id() as i32, libc::SIGKILL) };
}

/// Whether somebody answers a line: memcached with its version, nginx with a complaint, an echo with itself.
pub fn answers(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.write_all(b"version\r\n").is_ok() && matches!(stream.read(&mut [0; 64]), Ok(1..))
}

/// A published port accepts even before the guest listens; it is up when the connection is kept. A guest that is
/// still being loaded looks like one that waits for us to speak, so this is given longer than loading takes.
pub fn listens(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    stream.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
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

/// python3.11 natively, from the unpacked root of a package that has it: one command, as scripts start their
/// interpreter again by its name.
pub fn native_python(root: &Path) -> Command {
    let host = Path::new("/usr/bin/python3.11");
    if host.exists() {
        return Command::new(host);
    }
    let lib = root.join("usr/lib/x86_64-linux-gnu");
    let wrapper = scratch("python").join(format!("{}-python3.11", root.file_name().unwrap().display()));
    let words = format!(
        "#!/bin/sh\nexec {} --library-path {} --argv0 \"$0\" {} \"$@\"\n",
        lib.join("ld-linux-x86-64.so.2").display(),
        lib.display(),
        root.join("usr/bin/python3.11").display()
    );
    fs::write(&wrapper, words).unwrap();
    fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(&wrapper);
    command.env("PYTHONEXECUTABLE", &wrapper);
    command
}

/// Runs a command to its end, at most `limit`.
pub fn run_limited(command: &mut Command, limit: Duration) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().unwrap();
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
            end_group(&child);
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

/// Whether a server that may not be there yet answers a request with 200.
pub fn serves(port: u16, request: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(request.as_bytes()).is_ok() && read_all(&mut stream).get(8..12) == Some(b" 200")
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

/// Held by a test that loads the machine: those of one file run one after the other, so that each has the
/// processors for itself and its time limits mean something.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A failed test poisons the lock; the next one is none the worse for it.
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Builds a C source with gcc; the binary stands below target/.
pub fn compile(name: &str, source: &str, args: &[&str]) -> PathBuf {
    let dir = scratch("c");
    // Two tests may build the same program at once, in one process or in two: each writes its own files, then
    // renames.
    let thread = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "");
    let own = format!("{name}-{}-{thread}", std::process::id());
    let (file, aside) = (dir.join(format!("{own}.c")), dir.join(own));
    fs::write(&file, source).unwrap();
    let built = Command::new("gcc")
        .args(["-O1", "-g", "-Wall", "-Wextra", "-o"])
        .args([&aside, &file])
        .args(args)
        .output()
        .expect("gcc runs");
    assert!(built.status.success(), "{name}: {}", String::from_utf8_lossy(&built.stderr));
    let binary = dir.join(name);
    fs::rename(&aside, &binary).unwrap();
    let _ = fs::remove_file(file);
    binary
}

/// The status as a shell shows it: 128+n for an end by signal n.
pub fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

/// Processor time that a process's living threads have used, in milliseconds (finer than the ticks of
/// /proc/PID/stat).
pub fn cpu_ms(pid: i32) -> f64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let times = tasks.flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().next()?.parse::<f64>().ok()
    });
    times.sum::<f64>() / 1e6
}

/// Resident memory of a process in KiB.
pub fn resident_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The processes of guests' own networks (supervisor and server) that log below this test's runtime
/// directory; with a process id only those of that guest, if it was not given a name.
pub fn network_processes(guest: Option<i32>) -> Vec<i32> {
    let ours = |pid: &i32| {
        let Ok(log) = fs::read_link(format!("/proc/{pid}/fd/2")) else { return false };
        // An unlinked log reads "PATH (deleted)".
        let log = log.to_string_lossy().into_owned();
        let log = log.trim_end_matches(" (deleted)");
        let its = guest.is_none_or(|guest| log.ends_with(&format!("-{guest}.net.log")));
        its && Path::new(log).starts_with(runtime_dir()) && log.ends_with(".net.log")
    };
    let names = fs::read_dir("/proc").unwrap().flatten().map(|e| e.file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).filter(ours).collect()
}

/// Waits until something holds; says whether it came to hold within `limit`.
pub fn eventually(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !holds() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// A native program in the background; ended when dropped.
pub struct Native(Child);

impl Native {
    /// Starts it.
    pub fn spawn(command: &mut Command) -> Native {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Native(quiet.spawn().unwrap())
    }

    /// Starts it and waits for its port.
    pub fn start(command: &mut Command, port: u16) -> Native {
        let mut native = Native::spawn(command);
        let up = eventually(PATIENCE, || {
            assert!(matches!(native.0.try_wait(), Ok(None)), "the native server ended");
            listens(port)
        });
        assert!(up, "the native server does not listen");
        native
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// Waits for its end.
    pub fn wait(mut self) -> ExitStatus {
        assert!(eventually(PATIENCE, || !matches!(self.0.try_wait(), Ok(None))), "the native server goes on");
        self.0.wait().unwrap()
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Debian source package's upstream part, fetched into the cache and unpacked there once: for suites
/// that a package's authors wrote. Fetched by an apt state of its own, as `debian:` packages are.
pub fn debian_source(package: &str) -> PathBuf {
    let sources = debian_root("xz-utils").parent().unwrap().parent().unwrap().join("sources");
    let dir = sources.join(package);
    fs::create_dir_all(&sources).unwrap();
    let lock = fs::File::create(sources.join(format!(".{package}.lock"))).unwrap();
    lock.lock().unwrap();
    if dir.is_dir() {
        return dir;
    }
    let apt = sources.join(format!(".{package}.apt"));
    let fetched = Command::new("sh").arg("-euc").arg(FETCH_SOURCE).arg("sh").arg(&apt).arg(package).output();
    let fetched = fetched.unwrap();
    assert!(fetched.status.success(), "no source of {package}: {}", String::from_utf8_lossy(&fetched.stderr));
    let files = fs::read_dir(&apt).unwrap().flatten().map(|e| e.path());
    let archive = files.filter(|p| p.to_string_lossy().contains(".orig.tar.")).min().expect("a tar file");
    unpack_source(&archive, &sources.join(format!(".{package}.new")), &dir);
    fs::remove_dir_all(&apt).unwrap();
    dir
}

/// $1: folder, $2: package. The system's lists and state are left alone.
const FETCH_SOURCE: &str = r#"
mkdir -p "$1/lists/partial" "$1/cache/archives/partial" "$1/parts"
for file in /etc/apt/sources.list.d/*.sources; do
    [ ! -e "$file" ] || sed 's/^Types:.*/Types: deb-src/' "$file" >"$1/parts/$(basename "$file")"
done
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ ! -e "$file" ] ||
        sed -n 's/^deb\(-src\)\{0,1\} /deb-src /p' "$file" >"$1/parts/$(basename "$file" .list).list"
done
cd "$1"
set -- "$2" -o Dir::State::Lists="$1/lists" -o Dir::Cache="$1/cache" -o Dir::Etc::SourceList=/dev/null \
    -o Dir::Etc::SourceParts="$1/parts" -o APT::Sandbox::User=root -o Debug::NoLocking=1
package=$1
shift
apt-get "$@" update >apt.log 2>&1
apt-get "$@" source --download-only "$package" >>apt.log 2>&1 || { tail -3 apt.log >&2; exit 1; }
"#;

/// Unpacks beside its place and renames: a source is there whole or not at all.
fn unpack_source(archive: &Path, aside: &Path, dir: &Path) {
    let _ = fs::remove_dir_all(aside);
    fs::create_dir_all(aside).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--strip-components=1", "--no-same-owner", "--directory"]).arg(aside);
    let unpacked = if archive.extension().is_some_and(|e| e == "xz") {
        // A fresh machine's tar has no xz beside it.
        let mut xz = native("xz-utils", "xz");
        let mut packed = xz.arg("-dc").arg(archive).stdout(Stdio::piped()).spawn().unwrap();
        let status = tar.args(["--file", "-"]).stdin(packed.stdout.take().unwrap()).status().unwrap();
        packed.wait().unwrap().success() && status.success()
    } else {
        tar.arg("--file").arg(archive).status().unwrap().success()
    };
    assert!(unpacked, "cannot unpack {}", archive.display());
    fs::rename(aside, dir).unwrap();
}

/// A fresh certificate for localhost in `dir`: key.pem, cert.pem.
pub fn make_certificate(dir: &Path) {
    let made = native("openssl", "openssl")
        .env("OPENSSL_CONF", debian_root("openssl").join("etc/ssl/openssl.cnf"))
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .arg("-keyout")
        .arg(dir.join("key.pem"))
        .arg("-out")
        .arg(dir.join("cert.pem"))
        .output()
        .expect("openssl runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
