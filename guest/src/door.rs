//! The guest's door for `attacca exec`: a listening socket (SOCK_SEQPACKET) that whoever may enter the runtime
//! directory may knock at. A connection is one process.
//!
//! Messages begin with a letter. From the caller: `R` (run: beside it a memfd with `KEY=VALUE` records and the
//! three standard descriptors, or none of those for a terminal), `I` (typed bytes), `W` (rows and columns), `S`
//! (a signal's number). To the caller: `O` (what the terminal shows), `X` (the wait status, the last message),
//! `E` (an errno: it could not be started). A message that is none of these ends the connection.
//!
//! All work is done where readiness is found, by any vCPU of any process of the guest; nothing here waits. A
//! caller that goes away takes its process with it: SIGHUP, as a terminal that hangs up.

use crate::config::Config;
use crate::control::{close, receive};
use crate::message::die;
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use fs::HostFd;
use fs::view::View;
use platform::Errno;
use platform::host;
use platform::sync::Lock;
use platform::time::Instant;
use sched::host_fd::{self, HostReady, WatchId};
use sched::timer::Expire;
use syscalls::context::Ctx;
use syscalls::enter::{self, Ended, Streams, Wish};
use syscalls::file::OpenFile;
use syscalls::hub::{Events, Watcher};
use syscalls::process::{Credentials, Process};

/// The longest message, and the most that is read from a terminal at once.
const LONGEST: usize = 4096;
/// The largest request: what execve(2) takes of arguments and environment.
const LARGEST: usize = 6 << 20;
const SIGHUP: i32 = 1;
const SIGCONT: i32 = 18;

/// What every process begins with that is not told otherwise.
struct Door {
    fd: i32,
    envp: Vec<Vec<u8>>,
    credentials: Credentials,
    view: Arc<View>,
}

/// Opens it. In the kernel, when files and identity of the first process are there.
pub(crate) fn start(config: &Config) {
    let Some(fd) = config.exec_fd else { return };
    let process = Ctx::current().process;
    let Some(view) = process.view.get() else { die(format_args!("attacca exec: no tree of files")) };
    let credentials = process.credentials.lock().clone();
    let envp = config.env.iter().map(|text| text.to_vec()).collect();
    let door = Arc::new(Door { fd, envp, credentials, view });
    if let Err(error) = host_fd::watch(fd, host_fd::IN | host_fd::EDGE, door) {
        die(format_args!("attacca exec: the socket cannot be watched: {error}"));
    }
}

impl HostReady for Door {
    fn ready(&self, _events: u32) {
        const SOCK_NONBLOCK_CLOEXEC: usize = 0x800 | 0x8_0000;
        loop {
            // SAFETY: no address is wanted.
            let Ok(fd) = (unsafe { host!(accept4, self.fd, 0, 0, SOCK_NONBLOCK_CLOEXEC) }) else { return };
            let fd = fd as i32;
            let caller = Arc::new_cyclic(|me| Caller {
                me: me.clone(),
                fd,
                envp: self.envp.clone(),
                credentials: self.credentials.clone(),
                view: self.view.clone(),
                state: Lock::new(State::default()),
                ended: AtomicU64::new(RUNNING),
                due: AtomicBool::new(false),
            });
            let events = host_fd::IN | host_fd::OUT | host_fd::RDHUP | host_fd::EDGE;
            // A request that is there already is an edge, too.
            match host_fd::watch(fd, events, caller.clone()) {
                Ok(id) => caller.state.lock().watch = Some(id),
                Err(_) => close(fd),
            }
        }
    }
}

/// [`Caller::ended`] before the end.
const RUNNING: u64 = u64::MAX;

/// A connection. It lives while it is watched or its process runs.
struct Caller {
    me: Weak<Caller>,
    fd: i32,
    envp: Vec<Vec<u8>>,
    credentials: Credentials,
    view: Arc<View>,
    /// Not held over anything that may come back here: `ended`, the hubs' notices.
    state: Lock<State>,
    /// The wait status.
    ended: AtomicU64,
    /// The terminal has news, and a timer tells.
    due: AtomicBool,
}

#[derive(Default)]
struct State {
    watch: Option<WatchId>,
    process: Option<Arc<Process>>,
    master: Option<Arc<OpenFile>>,
    /// Typed, but not taken by the terminal.
    typed: Vec<u8>,
    /// A message that the socket had no room for.
    unsent: Option<Vec<u8>>,
    /// The connection is over.
    over: bool,
}

impl HostReady for Caller {
    fn ready(&self, _events: u32) {
        self.turn();
    }
}

impl Expire for Caller {
    fn expire(&self, _now: Instant) {
        // First: news from here on want another look.
        self.due.store(false, Ordering::SeqCst);
        self.turn();
    }
}

impl Ended for Caller {
    fn ended(&self, status: u32) {
        self.ended.store(u64::from(status), Ordering::SeqCst);
        // At once: this may be the guest's last act.
        self.turn();
    }
}

/// The terminal has news. A hub's watcher may not look at the file: a timer that is due does.
struct Terminal(Weak<Caller>);

impl Watcher for Terminal {
    fn notify(&self, _events: Events) -> bool {
        if let Some(caller) = self.0.upgrade()
            && !caller.due.swap(true, Ordering::SeqCst)
        {
            sched::timer::add(platform::time::now(), caller);
        }
        false
    }
}

/// What a turn leaves to be done without the lock.
#[derive(Default)]
struct Rest {
    process: Option<Arc<Process>>,
    master: Option<Arc<OpenFile>>,
    signal: bool,
}

impl Caller {
    /// Moves on whatever can be moved.
    fn turn(&self) {
        let rest = {
            let mut state = self.state.lock();
            if state.over {
                return;
            }
            let gone = self.listen(&mut state).is_err();
            let done = !gone && self.speak(&mut state);
            if gone || done { self.finish(&mut state, gone) } else { Rest::default() }
        };
        if let Some(master) = &rest.master
            && let Some(hub) = master.file.hub()
        {
            hub.remove(self.fd as usize);
        }
        if let (Some(process), true) = (&rest.process, rest.signal) {
            for signal in [SIGHUP, SIGCONT] {
                enter::send(process, signal, true);
            }
        }
    }

    /// Takes what the caller says. An error: it has gone, or talks nonsense.
    fn listen(&self, state: &mut State) -> Result<(), Errno> {
        let mut buffer = [0; LONGEST];
        loop {
            self.type_more(state);
            if !state.typed.is_empty() {
                // The terminal takes no more now: neither do we.
                return Ok(());
            }
            let (len, fds) = match receive(self.fd, &mut buffer) {
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                other => other?,
            };
            let message = &buffer[..len];
            match (message.split_first(), &state.process) {
                (None, _) => return Err(Errno::ECONNRESET),
                (Some((b'R', [])), None) => {
                    if let Err(error) = self.run(state, fds) {
                        self.send(state, [&b"E"[..], &error.0.to_le_bytes()].concat());
                        return Err(error);
                    }
                    continue;
                }
                (Some((b'I', typed)), Some(_)) => state.typed.extend_from_slice(typed),
                (Some((b'W', &[r0, r1, c0, c1])), Some(_)) => {
                    if let Some(master) = &state.master {
                        let (rows, columns) = (u16::from_le_bytes([r0, r1]), u16::from_le_bytes([c0, c1]));
                        syscalls::tty::pty::resize(master, rows, columns);
                    }
                }
                (Some((b'S', &[signal])), Some(process)) => enter::send(process, i32::from(signal), false),
                _ => {
                    fds.iter().for_each(|fd| close(*fd));
                    return Err(Errno::EPROTO);
                }
            }
            fds.iter().for_each(|fd| close(*fd));
        }
    }

    fn type_more(&self, state: &mut State) {
        let Some(master) = &state.master else { return state.typed.clear() };
        if state.typed.is_empty() {
            return;
        }
        if let Ok(taken) = enter::type_at(master, &state.typed) {
            state.typed.drain(..taken);
        }
    }

    /// Starts the process.
    fn run(&self, state: &mut State, fds: Vec<i32>) -> Result<(), Errno> {
        let mut fds = fds.into_iter().map(HostFd::new);
        let records = read_all(&fds.next().ok_or(Errno::EPROTO)?)?;
        let me = self.me.upgrade().ok_or(Errno::EPROTO)?;
        let mut wish = Wish {
            program: Vec::new(),
            argv: Vec::new(),
            envp: self.envp.clone(),
            cwd: None,
            credentials: self.credentials.clone(),
            view: self.view.clone(),
            ended: me,
        };
        let mut terminal = None;
        for record in records.split(|&byte| byte == 0).filter(|record| !record.is_empty()) {
            let at = record.iter().position(|&byte| byte == b'=').ok_or(Errno::EPROTO)?;
            let (key, value) = (&record[..at], &record[at + 1..]);
            let number = || core::str::from_utf8(value).ok()?.parse::<u32>().ok();
            match key {
                b"arg" => wish.argv.push(value.to_vec()),
                b"env" => set(&mut wish.envp, value),
                b"cwd" => wish.cwd = Some(value.to_vec()),
                b"uid" => {
                    let uid = number().ok_or(Errno::EPROTO)?;
                    wish.credentials = Credentials::new(uid, uid, alloc::vec![uid]);
                }
                b"gid" => {
                    let gid = number().ok_or(Errno::EPROTO)?;
                    wish.credentials = Credentials::new(wish.credentials.uid, gid, alloc::vec![gid]);
                }
                b"tty" => {
                    let size = number().ok_or(Errno::EPROTO)?;
                    terminal = Some([(size >> 16) as u16, size as u16]);
                }
                _ => return Err(Errno::EPROTO),
            }
        }
        wish.program = wish.argv.first().ok_or(Errno::EPROTO)?.clone();
        let streams = match terminal {
            Some(size) => Streams::Terminal(size),
            None => Streams::Host([fds.next(), fds.next(), fds.next()]),
        };
        let (process, master) = enter::enter(wish, streams)?;
        if let Some(hub) = master.as_ref().and_then(|master| master.file.hub()) {
            let events = Events::READABLE | Events::WRITABLE;
            hub.add(self.fd as usize, events, false, Arc::new(Terminal(self.me.clone())));
        }
        (state.process, state.master) = (Some(process), master);
        Ok(())
    }

    /// Sends what there is to send; whether the last message is out.
    fn speak(&self, state: &mut State) -> bool {
        // Before the terminal is read: what the program wrote before its end is there then.
        let ended = self.ended.load(Ordering::SeqCst);
        if let Some(message) = state.unsent.take()
            && !self.send(state, message)
        {
            return false;
        }
        if let Some(master) = state.master.clone() {
            let mut buffer = [0; LONGEST];
            buffer[0] = b'O';
            while let Ok(got @ 1..) = enter::read_terminal(&master, &mut buffer[1..]) {
                if !self.send(state, buffer[..got + 1].to_vec()) {
                    return false;
                }
            }
        }
        ended != RUNNING && {
            let mut message = alloc::vec![b'X'];
            message.extend((ended as u32).to_le_bytes());
            self.send(state, message)
        }
    }

    /// Sends a message, or keeps it for when there is room. A caller that is not there any more takes all.
    fn send(&self, state: &mut State, message: Vec<u8>) -> bool {
        const MSG_DONTWAIT: usize = 0x40;
        const MSG_NOSIGNAL: usize = 0x4000;
        let flags = MSG_DONTWAIT | MSG_NOSIGNAL;
        // SAFETY: bytes of ours.
        let sent = unsafe { host!(sendto, self.fd, message.as_ptr(), message.len(), flags, 0, 0) };
        if sent == Err(Errno::EAGAIN) {
            state.unsent = Some(message);
            return false;
        }
        true
    }

    /// Ends the connection; `gone`: by the caller, who may leave a process behind.
    fn finish(&self, state: &mut State, gone: bool) -> Rest {
        state.over = true;
        if let Some(id) = state.watch.take() {
            host_fd::unwatch(id);
        }
        close(self.fd);
        let signal = gone && self.ended.load(Ordering::SeqCst) == RUNNING;
        Rest { process: state.process.take(), master: state.master.take(), signal }
    }
}

/// Puts `NAME=VALUE` into an environment; a `NAME` alone takes it out.
fn set(envp: &mut Vec<Vec<u8>>, setting: &[u8]) {
    let name = setting.split(|&byte| byte == b'=').next().unwrap_or(setting);
    envp.retain(|text| text.split(|&byte| byte == b'=').next() != Some(name));
    if name.len() < setting.len() {
        envp.push(setting.to_vec());
    }
}

fn read_all(file: &HostFd) -> Result<Box<[u8]>, Errno> {
    let size = file.stat()?.size as usize;
    if size > LARGEST {
        return Err(Errno::E2BIG);
    }
    let mut bytes = alloc::vec![0; size];
    // SAFETY: `size` bytes of ours.
    let got = unsafe { host!(pread64, file.raw(), bytes.as_mut_ptr(), size, 0) }?;
    bytes.truncate(got);
    Ok(bytes.into_boxed_slice())
}
