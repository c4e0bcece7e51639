//! `attacca exec GUEST PROGRAM`: one more process in a running guest, with this command's streams, terminal
//! and exit status. The guest's side, and what is said over the socket: `guest/src/door.rs`.

use crate::error::{Failure, OrFail, Result};
use crate::guest::{Config, memfd};
use crate::guests;
use crate::run;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `attacca exec`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Give the process this command's standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal of its own, shown on this one
    #[arg(short, long)]
    tty: bool,
    /// Set or pass an environment variable; may be repeated
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Working directory in the guest [default: that of its first program]
    #[arg(short, long, value_name = "DIR", value_parser = run::parse_absolute)]
    workdir: Option<PathBuf>,
    /// Run as this user of the guest's /etc/passwd, or number[:group] [default: as its first program]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// The guest (see `attacca ps`)
    guest: String,
    /// A program of the guest and its arguments: all that follows is the program's
    #[arg(value_names = ["PROGRAM", "ARG"], required = true, num_args = 1.., trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// Makes the socket that a guest hears `attacca exec` at.
pub(crate) fn open_door(name: &str) -> Result<OwnedFd> {
    let (_dir, path) = guests::door(name)?;
    // One that a guest of this name has left.
    let _ = fs::remove_file(&path);
    // Non-blocking: a vCPU of the guest accepts, until there is nobody left.
    let socket = socket(libc::SOCK_NONBLOCK)?;
    let (address, len) = address(&path);
    // SAFETY: a live address of `len` bytes; a socket of ours.
    let bound = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) == 0
            && libc::listen(socket.as_raw_fd(), 64) == 0
    };
    if bound {
        return Ok(socket);
    }
    Err(io::Error::last_os_error()).or_fail(format_args!("cannot make the door of guest '{name}'"))
}

/// Runs the program to its end.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let running = guests::running()?;
    let guest = running.iter().find(|guest| guest.name == args.guest).ok_or_else(|| {
        Failure::new(format_args!("no guest is called '{}': `attacca ps` lists the running ones", args.guest))
    })?;
    let request = describe(args, guest.root.as_deref())?;
    // Blocked from here on: they go to the process.
    let signals = Signals::take()?;
    let socket = knock(&args.guest)?;
    let null = fs::File::open("/dev/null").or_fail("/dev/null")?;
    let stdin = if args.interactive { 0 } else { null.as_raw_fd() };
    let streams = [request.as_raw_fd(), stdin, 1, 2];
    let count = if args.tty { 1 } else { streams.len() };
    send_with(&socket, b"R", &streams[..count])
        .or_fail(format_args!("guest '{}' does not listen", args.guest))?;
    let raw = if args.tty && args.interactive { Raw::enter() } else { None };
    let said = Session { socket, signals, typing: args.tty && args.interactive, tty: args.tty }.serve();
    drop(raw);
    match said.or_fail(format_args!("the connection to guest '{}' broke", args.guest))? {
        End::Status(status) => Ok(ExitCode::from(shell_status(status))),
        End::Refused(errno) => Err(Failure::new(format_args!(
            "guest '{}' cannot start a process: {}",
            args.guest,
            io::Error::from_raw_os_error(errno)
        ))),
        End::GuestGone => {
            eprintln!("attacca: guest '{}' has ended", args.guest);
            Ok(ExitCode::from(128 + libc::SIGKILL as u8))
        }
    }
}

/// As a shell counts.
fn shell_status(status: i32) -> u8 {
    match status & 0x7f {
        0 => (status >> 8 & 0xff) as u8,
        signal => 128 + signal as u8,
    }
}

/// The request as records in a memfd.
fn describe(args: &Args, root: Option<&Path>) -> Result<OwnedFd> {
    let mut records = Config::default();
    for word in &args.command {
        records.add("arg", word)?;
    }
    for setting in &args.env {
        match (setting.contains('='), std::env::var_os(setting)) {
            (false, Some(value)) => {
                let mut whole = OsString::from(format!("{setting}="));
                whole.push(value);
                records.add("env", whole)?;
            }
            _ => records.add("env", setting)?,
        }
    }
    if let Some(cwd) = &args.workdir {
        records.add("cwd", cwd)?;
    }
    if let Some(user) = &args.user {
        let (uid, gid) = run::resolve_user(root, user)?;
        records.add("uid", uid.to_string())?;
        records.add("gid", gid.to_string())?;
    }
    if args.tty {
        if !args.env.iter().any(|setting| setting.starts_with("TERM")) {
            let term = std::env::var("TERM").unwrap_or_else(|_| "xterm".into());
            records.add("env", format!("TERM={term}"))?;
        }
        let [rows, columns] = window_size().unwrap_or([24, 80]);
        records.add("tty", (u32::from(rows) << 16 | u32::from(columns)).to_string())?;
    }
    let mut file = memfd(c"attacca-exec").or_fail("cannot hold the request")?;
    file.write_all(records.bytes()).or_fail("cannot hold the request")?;
    Ok(file.into())
}

fn socket(flags: i32) -> Result<OwnedFd> {
    // SAFETY: no memory arguments.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | flags, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).or_fail("cannot make a socket");
    }
    // SAFETY: fresh, nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address(path: &Path) -> (libc::sockaddr_un, libc::socklen_t) {
    // SAFETY: all zeros are a sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    // A guest's name has at most 64 letters, and the path before it some twenty.
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    (address, size_of::<libc::sockaddr_un>() as libc::socklen_t)
}

fn knock(name: &str) -> Result<OwnedFd> {
    let (_dir, path) = guests::door(name)?;
    let socket = socket(0)?;
    let (address, len) = address(&path);
    // SAFETY: a live address of `len` bytes.
    if unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) } != 0 {
        return Err(io::Error::last_os_error()).or_fail(format_args!("cannot reach guest '{name}'"));
    }
    Ok(socket)
}

/// Sends a message with descriptors, four at most.
fn send_with(socket: &OwnedFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = [0u64; 6];
    // SAFETY: `control` is aligned and has room for a header and four descriptors (CMSG_SPACE(16) is 32).
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        let len = size_of_val(fds) as u32;
        message.msg_controllen = libc::CMSG_SPACE(len) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(len) as usize;
        std::ptr::copy_nonoverlapping(fds.as_ptr(), libc::CMSG_DATA(header).cast(), fds.len());
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn say(socket: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: live bytes of this length.
    let sent =
        unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

enum End {
    Status(i32),
    Refused(i32),
    GuestGone,
}

/// What goes to and fro while the process runs.
struct Session {
    socket: OwnedFd,
    signals: Signals,
    /// What is typed here goes to the process's terminal.
    typing: bool,
    tty: bool,
}

impl Session {
    fn serve(mut self) -> io::Result<End> {
        loop {
            let want = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let typing = if self.typing { 0 } else { -1 };
            let mut fds = [want(self.socket.as_raw_fd()), want(self.signals.0.as_raw_fd()), want(typing)];
            // SAFETY: three pollfds of ours.
            if unsafe { libc::poll(fds.as_mut_ptr(), 3, -1) } < 0 {
                continue;
            }
            if fds[1].revents != 0 {
                self.forward_signal();
            }
            if fds[2].revents != 0 {
                self.forward_typing();
            }
            if fds[0].revents != 0
                && let Some(end) = self.hear()?
            {
                return Ok(end);
            }
        }
    }

    /// One message of the guest.
    fn hear(&self) -> io::Result<Option<End>> {
        let mut buffer = [0u8; 8192];
        // SAFETY: bytes of ours.
        let got = unsafe { libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        if got <= 0 {
            return Ok(Some(End::GuestGone));
        }
        let number = |bytes: &[u8]| bytes.try_into().map(i32::from_le_bytes);
        match buffer[..got as usize].split_first() {
            Some((b'O', shown)) => {
                let mut out = io::stdout().lock();
                // Who shows it no more does not stop the process.
                let _ = out.write_all(shown).and_then(|()| out.flush());
                Ok(None)
            }
            Some((b'X', status)) => {
                number(status).map(|status| Some(End::Status(status))).map_err(io::Error::other)
            }
            Some((b'E', errno)) => {
                number(errno).map(|errno| Some(End::Refused(errno))).map_err(io::Error::other)
            }
            _ => Err(io::Error::other("an unknown message")),
        }
    }

    /// An answer to what is said here is heard by `hear`: also that nobody listens any more.
    fn forward_typing(&mut self) {
        let mut buffer = [b'I'; 2048];
        // SAFETY: bytes of ours.
        let got = unsafe { libc::read(0, buffer[1..].as_mut_ptr().cast(), buffer.len() - 1) };
        if got > 0 {
            let _ = say(&self.socket, &buffer[..got as usize + 1]);
            return;
        }
        // No more to come: what a terminal says to that is its VEOF.
        self.typing = false;
        let _ = say(&self.socket, b"I\x04");
    }

    fn forward_signal(&self) {
        let Some(signal) = self.signals.next() else { return };
        if signal == libc::SIGWINCH {
            if let (true, Some([rows, columns])) = (self.tty, window_size()) {
                let ([r0, r1], [c0, c1]) = (rows.to_le_bytes(), columns.to_le_bytes());
                let _ = say(&self.socket, &[b'W', r0, r1, c0, c1]);
            }
            return;
        }
        let _ = say(&self.socket, &[b'S', signal as u8]);
    }
}

/// The signals that go to the process, as a signalfd.
struct Signals(OwnedFd);

impl Signals {
    fn take() -> Result<Signals> {
        const TAKEN: [i32; 8] = [
            libc::SIGHUP,
            libc::SIGINT,
            libc::SIGQUIT,
            libc::SIGTERM,
            libc::SIGUSR1,
            libc::SIGUSR2,
            libc::SIGALRM,
            libc::SIGWINCH,
        ];
        // SAFETY: a set of ours.
        let fd = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in TAKEN {
                libc::sigaddset(&raw mut set, signal);
            }
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error()).or_fail("cannot take signals");
        }
        // SAFETY: fresh, nobody else's.
        Ok(Signals(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn next(&self) -> Option<i32> {
        // SAFETY: all zeros are a signalfd_siginfo, which read(2) fills.
        unsafe {
            let mut info: libc::signalfd_siginfo = std::mem::zeroed();
            let size = size_of::<libc::signalfd_siginfo>();
            let got = libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size);
            (got == size as isize).then_some(info.ssi_signo as i32)
        }
    }
}

/// Rows and columns of the terminal at hand.
fn window_size() -> Option<[u16; 2]> {
    // SAFETY: all zeros are a winsize, which the call fills.
    unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        (0..3)
            .any(|fd| libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) == 0)
            .then_some([size.ws_row, size.ws_col])
    }
}

/// The terminal passes on every byte as it is; when dropped, as before.
struct Raw(libc::termios);

impl Raw {
    /// `None`: standard input is no terminal.
    fn enter() -> Option<Raw> {
        // SAFETY: all zeros are a termios, which the first call fills.
        unsafe {
            let mut before: libc::termios = std::mem::zeroed();
            if libc::tcgetattr(0, &raw mut before) != 0 {
                return None;
            }
            let mut raw = before;
            libc::cfmakeraw(&raw mut raw);
            libc::tcsetattr(0, libc::TCSANOW, &raw const raw);
            Some(Raw(before))
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: settings that the terminal had.
        unsafe { libc::tcsetattr(0, libc::TCSADRAIN, &raw const self.0) };
    }
}
