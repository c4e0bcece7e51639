//! Pseudo-terminals (pty(7)): /dev/ptmx, the slaves in /dev/pts, and their ioctls (ioctl_tty(2)).
//!
//! A [`Pty`] lives while its master is open. The slave can be opened often, also again after its last
//! close; a slave that was hung up stays so for the descriptors that were open then ([`Slave::hung_up`]).
//!
//! Left out: TIOCSTI (EIO, as Linux with `dev.tty.legacy_tiocsti` off), TIOCLINUX, line disciplines other
//! than N_TTY, and modem control, which pseudo-terminals do not have.

use super::line::{Line, Termios, flag, packet};
use super::{Control, O_NOCTTY, Terminal, changes_settings, control_ioctl, take};
use crate::context::Ctx;
use crate::errno::{RESTART, RESTART_NO_HANDLER};
use crate::file::{File, OpenFile, Sink, Source, Stat};
use crate::hub::{Events, Hub};
use crate::ipc;
use crate::signal::number::{SIGTTIN, SIGTTOU, SIGWINCH};
use crate::user::UserPtr;
use crate::wait::{self, Waiting};
use crate::{Errno, Result};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use fs::attr::{S_IFCHR, S_IFDIR, StatFs, device, wall_clock};
use fs::synth::{Dir, Kind};
use fs::vnode::{NewTime, Opening, Vnode};
use platform::sync::Lock;
use platform::time::{MILLISECOND, now};

/// `UNIX98_PTY_SLAVE_MAJOR`
pub const SLAVE_MAJOR: u64 = 136;
/// `/proc/sys/kernel/pty/max`
const MOST: usize = 4096;
/// devpts's `gid=5,mode=620`, as Debian mounts it.
const TTY_GROUP: u32 = 5;
/// Bytes from the master that wait for the line discipline.
const WAITING: usize = 8192;
const O_NONBLOCK: u32 = 0o4000;

/// A pseudo-terminal.
pub struct Pty {
    index: u32,
    /// Whom it controls.
    pub control: Control,
    state: Lock<State>,
    /// Who waits at the slave, and at the master.
    slave: Hub,
    master: Hub,
    /// Descriptors of slaves, by description.
    slaves: AtomicUsize,
    /// Hang-ups so far.
    hang_ups: AtomicUsize,
    master_gone: AtomicBool,
    stat: Lock<Stat>,
}

struct State {
    line: Line,
    waiting: VecDeque<u8>,
    /// `struct winsize`: rows, columns, pixels.
    size: [u16; 4],
    locked: bool,
    exclusive: bool,
    packets: bool,
    /// The slave was open and is not any more: the master reads EIO.
    slave_closed: bool,
}

/// An open master.
pub struct Master(Arc<Pty>);

/// An open slave.
pub struct Slave {
    pty: Arc<Pty>,
    hang_ups: usize,
}

/// /dev/ptmx.
pub fn open_master(ctx: &Ctx, flags: u32) -> Result<Arc<OpenFile>> {
    let uid = ctx.process.credentials.lock().fsuid;
    make(uid, flags).map(|(_, master)| master)
}

/// A fresh terminal, locked, and its master.
pub(super) fn make(uid: u32, flags: u32) -> Result<(Arc<Pty>, Arc<OpenFile>)> {
    let now = wall_clock();
    let mut ptys = ipc::all().terminals.ptys.lock();
    let index = (0..MOST as u32).find(|index| !ptys.contains_key(index)).ok_or(Errno::ENOSPC)?;
    let mut stat = Stat {
        dev: ipc::all().terminals.device.load(Ordering::Relaxed),
        ino: u64::from(index) + 3,
        nlink: 1,
        mode: S_IFCHR | 0o620,
        uid,
        gid: TTY_GROUP,
        rdev: device(SLAVE_MAJOR as u32, index),
        blksize: 1024,
        ..Stat::default()
    };
    stat.set_times(now);
    let pty = Arc::new(Pty {
        index,
        control: Control::default(),
        state: Lock::new(State {
            line: Line::new(),
            waiting: VecDeque::new(),
            size: [0; 4],
            locked: true,
            exclusive: false,
            packets: false,
            slave_closed: false,
        }),
        slave: Hub::new(),
        master: Hub::new(),
        slaves: AtomicUsize::new(0),
        hang_ups: AtomicUsize::new(0),
        master_gone: AtomicBool::new(false),
        stat: Lock::new(stat),
    });
    ptys.insert(index, pty.clone());
    drop(ptys);
    Ok((pty.clone(), Arc::new(OpenFile::new(Master(pty), status(flags)))))
}

/// Unlocks a fresh terminal, gives it its size, and opens its slave.
pub(super) fn ready(pty: &Arc<Pty>, size: [u16; 4], flags: u32) -> Result<Arc<OpenFile>> {
    {
        let mut state = pty.state.lock();
        state.locked = false;
        state.size = size;
    }
    reopen(pty, flags)
}

/// Changes the size of the terminal behind a master.
pub fn resize(master: &OpenFile, rows: u16, columns: u16) {
    if let Some(Master(pty)) = master.downcast::<Master>() {
        pty.set_size([rows, columns, 0, 0]);
    }
}

/// What of open(2)'s flags stays.
fn status(flags: u32) -> u32 {
    flags & (0o3 | O_NONBLOCK) | 0o100000
}

/// /dev/pts/N.
pub fn open_slave(ctx: &Ctx, index: u32, flags: u32) -> Result<Arc<OpenFile>> {
    let pty = ipc::all().terminals.ptys.lock().get(&index).cloned().ok_or(Errno::ENXIO)?;
    open_checked(ctx, &pty, flags)
}

/// TIOCGPTPEER does not look at the lock's file rights, but at the lock.
fn open_checked(ctx: &Ctx, pty: &Arc<Pty>, flags: u32) -> Result<Arc<OpenFile>> {
    let open = reopen(pty, flags)?;
    let readable = flags & 3 != 1;
    if flags & O_NOCTTY == 0 && readable && pty.control.job().session == 0 {
        // A session leader without a terminal gets this one; others do not, silently (open(2)).
        let _ = take(ctx, Terminal::Pty(pty.clone()), false, readable);
    }
    Ok(open)
}

/// Another open slave, whoever's terminal it is.
pub fn reopen(pty: &Arc<Pty>, flags: u32) -> Result<Arc<OpenFile>> {
    {
        let mut state = pty.state.lock();
        if state.locked || pty.master_gone.load(Ordering::Acquire) {
            return Err(Errno::EIO);
        }
        if state.exclusive && pty.slaves.load(Ordering::Relaxed) > 0 {
            return Err(Errno::EBUSY);
        }
        state.slave_closed = false;
        pty.slaves.fetch_add(1, Ordering::AcqRel);
    }
    let hang_ups = pty.hang_ups.load(Ordering::Acquire);
    Ok(Arc::new(OpenFile::new(Slave { pty: pty.clone(), hang_ups }, status(flags))))
}

/// The root directory of devpts.
pub fn devpts(dev: u64) -> Arc<dyn Vnode> {
    let kind = Kind { dev, magic: 0x1cd1 };
    ipc::all().terminals.device.store(dev, Ordering::Relaxed);
    let ptmx = Node::ptmx(kind);
    let stat = kind.stat(S_IFDIR | 0o755, b"/dev/pts");
    let find = move |name: &[u8]| -> Result<Arc<dyn Vnode>> {
        if name == b"ptmx" {
            return Ok(ptmx.clone());
        }
        let index: u32 =
            core::str::from_utf8(name).ok().and_then(|text| text.parse().ok()).ok_or(Errno::ENOENT)?;
        if index.to_string().as_bytes() != name {
            return Err(Errno::ENOENT);
        }
        let pty = ipc::all().terminals.ptys.lock().get(&index).cloned().ok_or(Errno::ENOENT)?;
        Ok(Arc::new(Node { kind, what: What::Slave(pty) }))
    };
    let list = || {
        let all: Vec<u32> = ipc::all().terminals.ptys.lock().keys().copied().collect();
        let slaves = all.into_iter().map(|index| (format!("{index}").into_bytes(), S_IFCHR));
        Ok(slaves.chain([(b"ptmx".to_vec(), S_IFCHR)]).collect())
    };
    Dir::node(kind, stat, find, list)
}

/// A file of devpts: what it does is known by its device number ([`super::open_device`]).
struct Node {
    kind: Kind,
    what: What,
}

enum What {
    Ptmx(Stat),
    Slave(Arc<Pty>),
}

impl Node {
    fn ptmx(kind: Kind) -> Arc<dyn Vnode> {
        let mut stat = kind.stat(S_IFCHR | 0o666, b"/dev/pts/ptmx");
        stat.rdev = device(5, 2);
        Arc::new(Node { kind, what: What::Ptmx(stat) })
    }

    fn change(&self, change: impl FnOnce(&mut Stat)) -> Result<()> {
        let What::Slave(pty) = &self.what else { return Err(Errno::EPERM) };
        let mut stat = pty.stat.lock();
        change(&mut stat);
        stat.set_ctime(wall_clock());
        Ok(())
    }
}

impl Vnode for Node {
    fn stat(&self) -> Stat {
        match &self.what {
            What::Ptmx(stat) => *stat,
            What::Slave(pty) => *pty.stat.lock(),
        }
    }
    fn open(self: Arc<Self>, _flags: u32) -> Result<Opening> {
        Ok(Opening::Node(self))
    }
    fn set_mode(&self, mode: u32) -> Result<()> {
        self.change(|stat| stat.mode = S_IFCHR | mode & 0o7777)
    }
    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.change(|stat| {
            stat.uid = uid.unwrap_or(stat.uid);
            stat.gid = gid.unwrap_or(stat.gid);
        })
    }
    fn set_times(&self, _atime: NewTime, _mtime: NewTime) -> Result<()> {
        self.change(|_| ())
    }
    fn statfs(&self) -> StatFs {
        self.kind.statfs()
    }
}

impl Pty {
    /// Lets the line discipline take what it can of what the master wrote, and tells who has to know.
    fn feed(self: &Arc<Pty>) {
        let mut signals = Vec::new();
        {
            let mut state = self.state.lock();
            while state.line.takes_input() {
                let Some(byte) = state.waiting.pop_front() else { break };
                signals.extend(state.line.input(byte));
            }
        }
        for signal in signals {
            self.control.signal(signal);
        }
        self.slave.notify(Events::READABLE | Events::WRITABLE);
        self.master.notify(Events::READABLE | Events::WRITABLE | Events::PRI);
    }

    /// All slaves that are open now are dead; the terminal may be opened again.
    pub fn hang_up(&self) {
        self.hang_ups.fetch_add(1, Ordering::AcqRel);
        {
            let mut state = self.state.lock();
            state.line.flush_input();
            let keep = state.line.status;
            let (stopped, output) = (state.line.stopped, core::mem::take(&mut state.line.output));
            // tty_ldisc_hangup: settings go back to what they were at first.
            state.line = Line::new();
            state.line.output = output;
            state.line.status = keep | if stopped { packet::START } else { 0 };
            state.waiting.clear();
        }
        let all = Events::READABLE | Events::WRITABLE | Events::HUP | Events::ERR;
        self.slave.notify(all);
        self.master.notify(all);
    }

    fn set_size(&self, size: [u16; 4]) {
        let changed = core::mem::replace(&mut self.state.lock().size, size) != size;
        if changed {
            self.control.signal(SIGWINCH);
        }
    }

    /// The commands that mean the same at both ends. `hung`: asked at a dead slave.
    fn ioctl(
        self: &Arc<Pty>,
        ctx: &Ctx,
        open: &OpenFile,
        command: u32,
        argument: usize,
        master: bool,
    ) -> Result {
        let terminal = Terminal::Pty(self.clone());
        if let Some(done) = control_ioctl(ctx, &terminal, open, command, argument, master) {
            return done;
        }
        if !master && changes_settings(command) {
            self.control.check(ctx, SIGTTOU)?;
        }
        let int = UserPtr::<i32>::new(argument);
        match command {
            0x5401 => self.write_termios(argument, 36),
            0x802c_542a => self.write_termios(argument, 44),
            0x5402..=0x5404 => self.read_termios(argument, 36, command == 0x5404),
            0x402c_542b..=0x402c_542d => self.read_termios(argument, 44, command == 0x402c_542d),
            TCGETA => self.write_termio(argument),
            TCSETA..=TCSETAF => self.read_termio(argument, command == TCSETAF),
            // TCSBRK, TCSBRKP: output is with the master at once, and there is no line to break.
            0x5409 | 0x5425 | 0x5427 | 0x5428 => Ok(0),
            TCXONC => self.flow(argument),
            TCFLSH => self.flush(argument, master),
            0x540c | 0x540d => {
                self.state.lock().exclusive = command == 0x540c;
                Ok(0)
            }
            0x8004_5440 => int.write(i32::from(self.state.lock().exclusive)).map(|()| 0),
            TIOCOUTQ => int.write(0).map(|()| 0),
            TIOCGWINSZ => {
                let size = self.state.lock().size;
                UserPtr::<[u16; 4]>::new(argument).write(size).map(|()| 0)
            }
            TIOCSWINSZ => {
                self.set_size(UserPtr::<[u16; 4]>::new(argument).read()?);
                Ok(0)
            }
            // TIOCGETD, TIOCSETD: N_TTY is number 0.
            0x5424 => int.write(0).map(|()| 0),
            0x5423 if int.read()? == 0 => Ok(0),
            0x5423 => Err(Errno::EINVAL),
            // TIOCGDEV
            0x8004_5432 => {
                let rdev = if master { device(5, 2) } else { device(SLAVE_MAJOR as u32, self.index) };
                UserPtr::<u32>::new(argument).write(rdev as u32).map(|()| 0)
            }
            // TIOCSTI
            0x5412 => Err(Errno::EIO),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn write_termios(&self, argument: usize, len: usize) -> Result {
        let termios = self.state.lock().line.termios;
        // SAFETY: plain data of at least that many bytes.
        unsafe { crate::user::copy_out(argument, (&raw const termios).cast(), len) }.map(|()| 0)
    }

    fn read_termios(&self, argument: usize, len: usize, flush: bool) -> Result {
        let mut fresh = self.state.lock().line.termios;
        // SAFETY: plain data of at least that many bytes.
        unsafe { crate::user::copy_in(argument, (&raw mut fresh).cast(), len) }?;
        self.set_termios(fresh, flush);
        Ok(0)
    }

    fn set_termios(&self, fresh: Termios, flush: bool) {
        let told = {
            let mut state = self.state.lock();
            if flush {
                state.line.flush_input();
                state.waiting.clear();
            }
            // Eight bits and no parity, whatever is asked (pty.c, pty_set_termios); N_TTY for ever.
            let control = fresh.control & !(0o60 | 0o400) | 0o60 | 0o200;
            state.line.set(Termios { control, line: 0, ..fresh });
            state.packets && state.line.status != 0
        };
        self.slave.notify(Events::READABLE | Events::WRITABLE);
        self.master.notify(if told { Events::PRI | Events::READABLE } else { Events::READABLE });
    }

    /// `struct termio`: four shorts, the line, and eight characters.
    fn write_termio(&self, argument: usize) -> Result {
        let now = self.state.lock().line.termios;
        let mut old = [0u8; 18];
        let flags = [now.input, now.output, now.control, now.local];
        for (at, word) in flags.iter().enumerate() {
            old[at * 2..at * 2 + 2].copy_from_slice(&(*word as u16).to_ne_bytes());
        }
        old[8] = now.line;
        old[9..17].copy_from_slice(&now.chars[..8]);
        crate::user::write_bytes(argument, &old).map(|()| 0)
    }

    fn read_termio(&self, argument: usize, flush: bool) -> Result {
        let mut old = [0u8; 18];
        crate::user::read_bytes(argument, &mut old)?;
        let mut fresh = self.state.lock().line.termios;
        let flags = [&mut fresh.input, &mut fresh.output, &mut fresh.control, &mut fresh.local];
        for (at, word) in flags.into_iter().enumerate() {
            *word = *word & !0xffff | u32::from(u16::from_ne_bytes([old[at * 2], old[at * 2 + 1]]));
        }
        fresh.chars[..8].copy_from_slice(&old[9..17]);
        self.set_termios(fresh, flush);
        Ok(0)
    }

    /// TCXONC (tcflow(3)).
    fn flow(&self, argument: usize) -> Result {
        {
            let line = &mut self.state.lock().line;
            match argument {
                0 => line.stop(),
                1 => line.start(),
                2 => line.send_flow(true),
                3 => line.send_flow(false),
                _ => return Err(Errno::EINVAL),
            }
        }
        self.slave.notify(Events::WRITABLE);
        self.master.notify(Events::READABLE | Events::PRI);
        Ok(0)
    }

    /// TCFLSH (tcflush(3)). At the master the directions are turned round.
    fn flush(self: &Arc<Pty>, argument: usize, master: bool) -> Result {
        let (input, output) = match (argument, master) {
            (0, false) | (1, true) => (true, false),
            (1, false) | (0, true) => (false, true),
            (2, _) => (true, true),
            _ => return Err(Errno::EINVAL),
        };
        {
            let mut state = self.state.lock();
            if input {
                state.line.flush_input();
                state.waiting.clear();
            }
            if output {
                state.line.flush_output();
            }
        }
        self.slave.notify(Events::WRITABLE);
        self.master.notify(Events::WRITABLE | Events::PRI | Events::READABLE);
        Ok(0)
    }
}

const TCGETA: u32 = 0x5405;
const TCSETA: u32 = 0x5406;
const TCSETAF: u32 = 0x5408;
const TCXONC: u32 = 0x540a;
const TCFLSH: u32 = 0x540b;
const TIOCOUTQ: u32 = 0x5411;
const TIOCGWINSZ: u32 = 0x5413;
const TIOCSWINSZ: u32 = 0x5414;
const FIONREAD: u32 = 0x541b;
const TIOCPKT: u32 = 0x5420;
const TIOCGPKT: u32 = 0x8004_5438;
const TIOCGPTN: u32 = 0x8004_5430;
const TIOCSPTLCK: u32 = 0x4004_5431;
const TIOCGPTLCK: u32 = 0x8004_5439;
const TIOCSIG: u32 = 0x4004_5436;
const TIOCGPTPEER: u32 = 0x5441;

// ---- the master ----

impl File for Master {
    fn poll(&self) -> Events {
        let state = self.0.state.lock();
        let mut events = Events::empty();
        let told = state.packets && state.line.status != 0;
        events.set(Events::READABLE, !state.line.output.is_empty() || told);
        events.set(Events::PRI, told);
        events.set(Events::WRITABLE, state.waiting.len() < WAITING);
        events.set(Events::HUP, state.slave_closed);
        events
    }
    fn hub(&self) -> Option<&Hub> {
        Some(&self.0.master)
    }
    fn read(&self, _open: &OpenFile, _at: &mut u64, into: &mut dyn Sink) -> Result {
        if into.remaining() == 0 {
            return Ok(0);
        }
        let bytes: Vec<u8> = {
            let mut state = self.0.state.lock();
            if state.packets && state.line.status != 0 {
                alloc::vec![core::mem::take(&mut state.line.status)]
            } else if state.line.output.is_empty() {
                // pty(7): the slave is closed.
                return if state.slave_closed { Err(Errno::EIO) } else { Err(Errno::EAGAIN) };
            } else {
                let head = if state.packets { 1 } else { 0 };
                let count = state.line.output.len().min(into.remaining() - head);
                let head = core::iter::repeat_n(0u8, head);
                head.chain(state.line.output.drain(..count)).collect()
            }
        };
        let put = into.put(&bytes)?;
        self.0.slave.notify(Events::WRITABLE);
        Ok(put)
    }
    fn write(&self, _open: &OpenFile, _at: &mut u64, from: &mut dyn Source) -> Result {
        let mut done = 0;
        while from.remaining() > 0 {
            let room = WAITING.saturating_sub(self.0.state.lock().waiting.len());
            let mut piece = [0u8; 256];
            let want = piece.len().min(room);
            if want == 0 {
                break;
            }
            let got = match from.take(&mut piece[..want]) {
                Ok(got) => got,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            self.0.state.lock().waiting.extend(&piece[..got]);
            self.0.feed();
            done += got;
        }
        if done == 0 && from.remaining() > 0 { Err(Errno::EAGAIN) } else { Ok(done) }
    }
    fn ioctl(&self, open: &OpenFile, command: u32, argument: usize) -> Result {
        let ctx = Ctx::try_current().ok_or(Errno::ENOTTY)?;
        let pty = &self.0;
        let int = UserPtr::<i32>::new(argument);
        match command {
            FIONREAD => int.write(pty.state.lock().line.output.len() as i32).map(|()| 0),
            TIOCPKT => {
                let on = int.read()? != 0;
                let mut state = pty.state.lock();
                if on && !state.packets {
                    state.line.status = 0;
                }
                state.packets = on;
                Ok(0)
            }
            TIOCGPKT => int.write(i32::from(pty.state.lock().packets)).map(|()| 0),
            TIOCGPTN => int.write(pty.index as i32).map(|()| 0),
            TIOCSPTLCK => {
                pty.state.lock().locked = int.read()? != 0;
                Ok(0)
            }
            TIOCGPTLCK => int.write(i32::from(pty.state.lock().locked)).map(|()| 0),
            TIOCSIG => {
                let signal = argument as i32;
                if !(1..=crate::signal::SIGNALS).contains(&signal) {
                    return Err(Errno::EINVAL);
                }
                pty.control.signal(signal);
                Ok(0)
            }
            TIOCGPTPEER => {
                let flags = argument as u32;
                let slave = open_checked(&ctx, pty, flags)?;
                ctx.install(slave, flags & crate::file::O_CLOEXEC != 0)
            }
            _ => pty.ioctl(&ctx, open, command, argument, true),
        }
    }
    fn stat(&self, out: &mut Stat) -> Result<()> {
        *out = Stat { nlink: 1, mode: S_IFCHR | 0o666, rdev: device(5, 2), ino: 2, ..*self.0.stat.lock() };
        Ok(())
    }
    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        f.write_str("/dev/ptmx")
    }
}

/// The terminal ends with its master: slaves are hung up, and the session hears of it.
impl Drop for Master {
    fn drop(&mut self) {
        let pty = &self.0;
        pty.master_gone.store(true, Ordering::Release);
        ipc::all().terminals.ptys.lock().remove(&pty.index);
        pty.hang_up();
        super::lost(pty);
    }
}

// ---- the slave ----

impl Slave {
    /// Whether the terminal has hung up since this slave was opened.
    fn hung_up(&self) -> bool {
        self.pty.hang_ups.load(Ordering::Acquire) != self.hang_ups
    }

    /// open(2) of /proc/PID/fd/N.
    pub fn open_again(&self, ctx: &Ctx, flags: u32) -> Result<Arc<OpenFile>> {
        open_checked(ctx, &self.pty, flags)
    }

    fn available(&self) -> Option<usize> {
        self.pty.state.lock().line.readable()
    }

    /// Takes what there is; EAGAIN for nothing.
    fn take(&self, into: &mut dyn Sink) -> Result {
        let bytes = {
            let mut state = self.pty.state.lock();
            if state.line.readable().is_none() {
                return Err(Errno::EAGAIN);
            }
            state.line.read(into.remaining())
        };
        let put = into.put(&bytes)?;
        self.pty.feed();
        Ok(put)
    }
}

/// read(2) of a slave, waiting as VMIN and VTIME say (termios(3), "Canonical and noncanonical mode").
pub fn read(ctx: &Ctx, open: &OpenFile, slave: &Slave, into: &mut dyn Sink) -> Result {
    if slave.hung_up() {
        return Ok(0);
    }
    slave.pty.control.check(ctx, SIGTTIN)?;
    if into.remaining() == 0 {
        return Ok(0);
    }
    let (canonical, (min, tenths)) = {
        let state = slave.pty.state.lock();
        (state.line.canonical(), state.line.termios.min_and_time())
    };
    let hub = &slave.pty.slave;
    let how = Waiting::for_events(Events::READABLE);
    let after = |tenths: u64| Some(now().after(tenths * 100 * MILLISECOND));
    // With input there, or none to wait for, nothing of the following matters.
    let enough = if canonical { 1 } else { min.min(into.remaining()).max(1) };
    let ready = |enough: usize| {
        if slave.hung_up() {
            return Ok(0);
        }
        match slave.available() {
            Some(count) if canonical || count >= enough => Ok(count),
            _ => Err(Errno::EAGAIN),
        }
    };
    let wait = || match ready(enough) {
        Err(Errno::EAGAIN) if open.nonblocking() => slave.available().map(|_| 0).ok_or(Errno::EAGAIN),
        Err(Errno::EAGAIN) if canonical || tenths == 0 => wait::block_on_hub(ctx, hub, how, || ready(enough)),
        Err(Errno::EAGAIN) if min == 0 => {
            match wait::block_on_hub(ctx, hub, how.until(after(tenths)), || ready(1)) {
                Err(Errno::EAGAIN) => Ok(0),
                done => done,
            }
        }
        Err(Errno::EAGAIN) => between(ctx, hub, how, tenths, enough, &ready),
        done => done,
    };
    if !canonical && min == 0 && tenths == 0 && ready(enough) == Err(Errno::EAGAIN) {
        return Ok(0);
    }
    match ctx.task.stay.holding(&[open], wait) {
        Err(RESTART_NO_HANDLER) => return Err(RESTART),
        Err(error) => return Err(error),
        Ok(_) if slave.hung_up() => return Ok(0),
        // VMIN 0: the time was over, and nothing had come.
        Ok(0) if !canonical && min == 0 => return Ok(0),
        Ok(_) => {}
    }
    slave.take(into)
}

/// VMIN and VTIME both set: waits for the first byte, then as long as the next one comes in time.
fn between(
    ctx: &Ctx,
    hub: &Hub,
    how: Waiting,
    tenths: u64,
    enough: usize,
    ready: &impl Fn(usize) -> Result,
) -> Result {
    let mut have = wait::block_on_hub(ctx, hub, how, || ready(1))?;
    while have != 0 && have < enough {
        let deadline = Some(now().after(tenths * 100 * MILLISECOND));
        match wait::block_on_hub(ctx, hub, how.until(deadline), || ready(have + 1)) {
            Err(Errno::EAGAIN) => return Ok(have),
            done => have = done?,
        }
    }
    Ok(have)
}

impl File for Slave {
    fn poll(&self) -> Events {
        if self.hung_up() {
            return Events::READABLE | Events::WRITABLE | Events::HUP | Events::ERR;
        }
        let state = self.pty.state.lock();
        let (min, tenths) = state.line.termios.min_and_time();
        // n_tty_poll: without VTIME, readable means that VMIN is there.
        let enough = if !state.line.canonical() && tenths == 0 { min.max(1) } else { 0 };
        let mut events = Events::empty();
        events.set(Events::READABLE, state.line.readable().is_some_and(|count| count >= enough));
        events.set(Events::WRITABLE, state.line.takes_output());
        events
    }
    fn hub(&self) -> Option<&Hub> {
        Some(&self.pty.slave)
    }
    fn read(&self, _open: &OpenFile, _at: &mut u64, into: &mut dyn Sink) -> Result {
        if self.hung_up() || into.remaining() == 0 { Ok(0) } else { self.take(into) }
    }
    fn write(&self, _open: &OpenFile, _at: &mut u64, from: &mut dyn Source) -> Result {
        if self.hung_up() {
            return Err(Errno::EIO);
        }
        let stops = self.pty.state.lock().line.termios.local & flag::TOSTOP != 0;
        if stops && let Some(ctx) = Ctx::try_current() {
            self.pty.control.check(&ctx, SIGTTOU)?;
        }
        let mut done = 0;
        while from.remaining() > 0 {
            let mut state = self.pty.state.lock();
            if !state.line.takes_output() {
                break;
            }
            // One at a time at the edge of what fits: what is taken from the program must be written.
            let mut piece = [0u8; 256];
            let room = if state.line.output.len() < 4096 { piece.len() } else { 1 };
            let got = match from.take(&mut piece[..room]) {
                Ok(got) => got,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            done += state.line.write(&piece[..got]);
        }
        if done > 0 {
            self.pty.master.notify(Events::READABLE);
        }
        if done == 0 && from.remaining() > 0 { Err(Errno::EAGAIN) } else { Ok(done) }
    }
    fn ioctl(&self, open: &OpenFile, command: u32, argument: usize) -> Result {
        if self.hung_up() {
            return Err(Errno::EIO);
        }
        let ctx = Ctx::try_current().ok_or(Errno::ENOTTY)?;
        match command {
            FIONREAD => {
                let count = self.available().unwrap_or(0) as i32;
                UserPtr::<i32>::new(argument).write(count).map(|()| 0)
            }
            _ => self.pty.ioctl(&ctx, open, command, argument, false),
        }
    }
    fn stat(&self, out: &mut Stat) -> Result<()> {
        *out = *self.pty.stat.lock();
        Ok(())
    }
    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        write!(f, "/dev/pts/{}", self.pty.index)
    }
}

impl Drop for Slave {
    fn drop(&mut self) {
        let pty = &self.pty;
        {
            let mut state = pty.state.lock();
            if pty.slaves.fetch_sub(1, Ordering::AcqRel) != 1 {
                return;
            }
            state.slave_closed = true;
        }
        pty.master.notify(Events::READABLE | Events::HUP);
    }
}
