//! Processes under measurement: started in pairs, found with their helpers, weighed by /proc.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, String>;

/// Builds the command as users get it; answers where it is. `ATTACCA` in the environment names one that is there.
pub(crate) fn build_attacca() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ATTACCA") {
        return Ok(path.into());
    }
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "--package", "attacca"])
        .current_dir(workspace())
        .status();
    if !status.is_ok_and(|s| s.success()) {
        return Err("attacca does not build".into());
    }
    // This program was built into the same folder.
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    Ok(own.with_file_name("attacca"))
}

/// The root of the source tree.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A port of the host that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_or(0, |a| a.port())
}

/// Everything a run needs: the command, a folder for files, and a runtime directory of its own.
pub(crate) struct Bench {
    pub(crate) attacca: PathBuf,
    pub(crate) dir: PathBuf,
}

impl Bench {
    pub(crate) fn new() -> Result<Bench> {
        let attacca = build_attacca()?;
        let dir = attacca.with_file_name(format!("bench-{}", std::process::id()));
        fs::create_dir_all(dir.join("run")).map_err(|e| format!("{}: {e}", dir.display()))?;
        Ok(Bench { attacca, dir })
    }

    /// `attacca`, with the bench's runtime directory.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.attacca);
        command.env("XDG_RUNTIME_DIR", self.dir.join("run")).stdin(Stdio::null());
        command
    }

    /// The unpacked root of a Debian package.
    pub(crate) fn root(&self, package: &str) -> Result<PathBuf> {
        let output = self.command().args(["pull", &format!("debian:{package}")]).output();
        let output = output.map_err(|e| e.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    }

    /// The same binary that a guest runs, natively: with the ld.so and the libraries of its package's root.
    pub(crate) fn native(&self, package: &str, program: &str) -> Result<Command> {
        let root = self.root(package)?;
        let path = ["usr/bin", "usr/sbin"].iter().map(|d| root.join(d).join(program)).find(|p| p.exists());
        let path = path.ok_or_else(|| format!("{package} holds no {program}"))?;
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(&libraries).arg(path).stdin(Stdio::null());
        Ok(command)
    }

    /// A guest called `name`, with the options of `attacca run`.
    pub(crate) fn guest(&self, name: &str, args: &[&str]) -> Command {
        let mut command = self.command();
        command.args(["run", "--name", name]).args(args);
        command
    }

    /// Starts one side. `name` is the guest's, none for a native process.
    pub(crate) fn start(&self, mut command: Command, name: Option<&str>) -> Result<Running> {
        let log = self.dir.join(format!("{}.log", name.unwrap_or("native")));
        let file = fs::File::create(&log).map_err(|e| e.to_string())?;
        let second = file.try_clone().map_err(|e| e.to_string())?;
        let child = command.stdout(file).stderr(second).spawn().map_err(|e| e.to_string())?;
        let network = name.map(|name| self.dir.join("run/attacca").join(format!("{name}.net.log")));
        Ok(Running { child, network, log })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A network of its own name, with its processes; stopped when dropped.
pub(crate) struct Network<'a> {
    bench: &'a Bench,
    pub(crate) name: String,
}

impl Network<'_> {
    /// With arguments of `attacca server start`.
    pub(crate) fn start_with<'a>(bench: &'a Bench, name: &str, args: &[&str]) -> Result<Network<'a>> {
        Network::start_wrapped(bench, name, |command| command, args)
    }

    /// The same, with the command wrapped up.
    pub(crate) fn start_wrapped<'a>(
        bench: &'a Bench,
        name: &str,
        wrap: impl FnOnce(Command) -> Command,
        args: &[&str],
    ) -> Result<Network<'a>> {
        let mut command = bench.command();
        command.args(["server", "start", "--net", name]).args(args);
        let output = wrap(command).output();
        let output = output.map_err(|e| e.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(Network { bench, name: name.into() })
    }

    /// Processor time of its living processes, in seconds.
    pub(crate) fn cpu(&self) -> f64 {
        self.processes().into_iter().map(cpu_of).sum()
    }

    /// Supervisor, server and standby: whoever runs in the bench's runtime directory and is no guest.
    fn processes(&self) -> Vec<u32> {
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let log = fs::read_link(format!("/proc/{pid}/fd/2")).unwrap_or_default();
            name.starts_with("attacca-") && log.starts_with(&self.bench.dir)
        })
        .collect()
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        let _ = self.bench.command().args(["server", "stop", "--net", &self.name]).output();
    }
}

/// What a client printed, on both streams, and the processor time that it took.
pub(crate) struct Measured {
    pub(crate) words: String,
    pub(crate) cpu: f64,
}

/// A client that runs longer hangs.
const LONGEST_CLIENT: Duration = Duration::from_secs(180);

/// Runs a client to its end, or to the end of our patience.
pub(crate) fn measured(command: &mut Command) -> Result<Measured> {
    let before = children_cpu();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
    let pid = child.id() as libc::pid_t;
    let (done, ended) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn(move || {
        let output = child.wait_with_output();
        let _ = done.send(());
        output
    });
    let hangs = ended.recv_timeout(LONGEST_CLIENT).is_err();
    if hangs {
        // SAFETY: a child of ours that has not been waited for: `ended` would have told.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    let output = waiting.join().map_err(|_| "nobody waited for the client")?.map_err(|e| e.to_string())?;
    let words = [output.stdout, output.stderr].map(|s| String::from_utf8_lossy(&s).into_owned()).concat();
    if hangs {
        let seconds = LONGEST_CLIENT.as_secs();
        return Err(format!("the client did not end in {seconds} s: {command:?}\n{words}"));
    }
    if !output.status.success() {
        return Err(words);
    }
    Ok(Measured { words, cpu: children_cpu() - before })
}

/// Processor time of all children that have been waited for.
fn children_cpu() -> f64 {
    // SAFETY: a zeroed rusage is a valid one, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// One side of a pair; ended when dropped.
pub(crate) struct Running {
    child: Child,
    /// Where the processes of its network write, by which they are found.
    network: Option<PathBuf>,
    log: PathBuf,
}

impl Running {
    /// Waits until it answers a line on the port. (A published port takes connections before its guest.)
    pub(crate) fn wait_for(&mut self, port: u16) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !answers(port) {
            let over = !matches!(self.child.try_wait(), Ok(None)) || Instant::now() > deadline;
            if over {
                let words = fs::read_to_string(&self.log).unwrap_or_default();
                return Err(format!("nobody answers on port {port}:\n{words}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until somebody listens on the port, without a connection that a server might take for its client.
    pub(crate) fn wait_for_listener(&mut self, port: u16) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_listened_on(port) {
            self.still_runs()?;
            if Instant::now() > deadline {
                return Err(format!("nobody listens on port {port}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Says what it said if it has ended.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(fs::read_to_string(&self.log).unwrap_or_default()),
        }
    }

    /// Its processes: itself, and for a guest with a network the supervisor and the server.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let helps = |pid: &u32| {
            let Some(network) = &self.network else { return false };
            let log = fs::read_link(format!("/proc/{pid}/fd/2")).unwrap_or_default();
            // An unlinked log reads "PATH (deleted)".
            log.to_string_lossy().trim_end_matches(" (deleted)") == network.to_string_lossy()
        };
        let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|e| e.file_name());
        let pids = names.filter_map(|name| name.to_str()?.parse().ok()).filter(helps);
        std::iter::once(self.child.id()).chain(pids).collect()
    }

    /// Processor time of all its living threads, in seconds.
    pub(crate) fn cpu(&self) -> f64 {
        self.processes().into_iter().map(cpu_of).sum()
    }

    /// Resident memory: (its own process, its network's processes), in KiB.
    pub(crate) fn resident(&self) -> (u64, u64) {
        let all: Vec<u64> = self.processes().into_iter().map(resident_of).collect();
        (all[0], all[1..].iter().sum())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A row of the host's TCP sockets has the port, in state LISTEN (`0A`).
fn is_listened_on(port: u16) -> bool {
    let local = format!(":{port:04X}");
    let rows = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    rows.iter().flat_map(|text| text.lines()).any(|row| {
        let mut words = row.split_whitespace().skip(1);
        words.next().is_some_and(|word| word.ends_with(&local)) && words.nth(1) == Some("0A")
    })
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    stream.write_all(b"version\r\n").is_ok() && matches!(stream.read(&mut [0; 64]), Ok(1..))
}

/// From schedstat, which counts nanoseconds where /proc/PID/stat counts ticks.
fn cpu_of(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let times = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().next()?.parse::<f64>().ok()
    });
    times.sum::<f64>() / 1e9
}

fn resident_of(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}
