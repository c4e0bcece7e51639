//! Terminals: which session has which, foreground and background, hang-up (credentials(7), termios(3),
//! "job control"). Pseudo-terminals are in [`pty`], the line discipline in [`line`].
//!
//! A terminal that can control a session owns a [`Control`]. The *host's* terminal (descriptors 0 to 2 of
//! `attacca run`) has one too: sessions and groups exist inside the guest only, and on the host all
//! processes of a guest stay in one group. So a signal that the host's terminal sends reaches each host
//! process of the guest, and one of them passes it on to the guest's foreground group ([`host_signal`]).

pub mod line;
pub mod pty;

use crate::context::Ctx;
use crate::errno::RESTART;
use crate::file::{OpenFile, Stat};
use crate::host_file::HostFile;
use crate::ipc;
use crate::process::{Process, root};
use crate::signal::{self, Info, SIG_IGN, bit, number::*};
use crate::user::UserPtr;
use crate::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use fs::attr::{S_IFCHR, device};
use platform::host;
use platform::sync::Lock;
use pty::Pty;

const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const TIOCSCTTY: u32 = 0x540e;
const TIOCGPGRP: u32 = 0x540f;
const TIOCSPGRP: u32 = 0x5410;
const TIOCNOTTY: u32 = 0x5422;
const TIOCGSID: u32 = 0x5429;
const O_NOCTTY: u32 = 0o400;

/// The guest's terminals.
#[derive(Default)]
pub struct Terminals {
    ptys: Lock<BTreeMap<u32, Arc<Pty>>>,
    host: Control,
    /// The device number of devpts.
    device: AtomicU64,
    /// The controlling terminal of each session that has one.
    of_session: Lock<BTreeMap<u32, Terminal>>,
}

/// A terminal that controls a session.
#[derive(Clone)]
enum Terminal {
    Pty(Arc<Pty>),
    Host,
}

impl Terminal {
    fn control(&self) -> &Control {
        match self {
            Terminal::Pty(pty) => &pty.control,
            Terminal::Host => &ipc::all().terminals.host,
        }
    }
}

/// Whom a terminal controls. 0 for nobody.
#[derive(Default)]
pub struct Control(Lock<Job>);

#[derive(Default, Clone)]
struct Job {
    session: u32,
    foreground: u32,
    /// Processes of the session that gave the terminal up by themselves (TIOCNOTTY).
    left: Vec<u32>,
}

impl Control {
    fn job(&self) -> Job {
        self.0.lock().clone()
    }

    /// Whether it is the controlling terminal of a process.
    fn controls(&self, process: &Process) -> bool {
        let job = self.0.lock();
        job.session != 0
            && job.session == process.session.load(Ordering::Relaxed)
            && !job.left.contains(&process.pid)
    }

    /// Signals the foreground group.
    pub fn signal(&self, signal: i32) {
        let group = self.0.lock().foreground;
        if group != 0 {
            signal_group(group, signal);
        }
    }

    /// A process in the background that reads (SIGTTIN), writes with TOSTOP or changes settings (SIGTTOU):
    /// its group is stopped and the call made again, or it gets EIO (kernel's tty_check_change,
    /// job_control).
    pub fn check(&self, ctx: &Ctx, signal: i32) -> Result<()> {
        let group = ctx.process.group.load(Ordering::Relaxed);
        if !self.controls(ctx.process) || matches!(self.0.lock().foreground, 0) {
            return Ok(());
        }
        if self.0.lock().foreground == group {
            return Ok(());
        }
        let blocked = ctx.task.blocked.load(Ordering::Relaxed) & bit(signal) != 0;
        let deaf = blocked || ctx.process.actions.get(signal).handler == SIG_IGN;
        if deaf {
            return if signal == SIGTTIN { Err(Errno::EIO) } else { Ok(()) };
        }
        if is_orphaned(group, ctx.process.session.load(Ordering::Relaxed)) {
            return Err(Errno::EIO);
        }
        signal_group(group, signal);
        Err(RESTART)
    }
}

/// Sends to all processes of a group.
pub fn signal_group(group: u32, signal: i32) {
    let members = root().processes_that(|process| process.group.load(Ordering::Relaxed) == group);
    // Standard signals cannot find a full queue.
    let _ = signal::send_processes(&members, Info::from_kernel(signal));
}

/// No member has a parent in another group of the same session (POSIX 3.264): nobody would continue it.
fn is_orphaned(group: u32, session: u32) -> bool {
    let all = root().processes();
    let watched = |process: &&Arc<Process>| {
        let parent = process.parent.load(Ordering::Relaxed);
        process.group.load(Ordering::Relaxed) == group
            && all.iter().any(|other| {
                other.pid == parent
                    && other.group.load(Ordering::Relaxed) != group
                    && other.session.load(Ordering::Relaxed) == session
            })
    };
    !all.iter().any(|process| watched(&process))
}

// ---- sessions ----

/// The controlling terminal of a process.
fn of_process(process: &Process) -> Option<Terminal> {
    let session = process.session.load(Ordering::Relaxed);
    let terminal = ipc::all().terminals.of_session.lock().get(&session).cloned()?;
    terminal.control().controls(process).then_some(terminal)
}

/// Makes a terminal the controlling one of the caller's session: TIOCSCTTY, or `quietly` by an open.
fn take(ctx: &Ctx, terminal: Terminal, steal: bool, readable: bool) -> Result<()> {
    let process = ctx.process;
    let session = process.session.load(Ordering::Relaxed);
    if terminal.control().job().session == session && session == process.pid {
        return Ok(());
    }
    let privileged = process.credentials.lock().privileged();
    if session != process.pid || of_process(process).is_some() {
        return Err(Errno::EPERM);
    }
    let old = terminal.control().job().session;
    if old != 0 {
        if !(steal && privileged) {
            return Err(Errno::EPERM);
        }
        ipc::all().terminals.of_session.lock().remove(&old);
    }
    if !readable && !privileged {
        return Err(Errno::EPERM);
    }
    let group = process.group.load(Ordering::Relaxed);
    terminal.control().0.set(Job { session, foreground: group, left: Vec::new() });
    ipc::all().terminals.of_session.lock().insert(session, terminal);
    Ok(())
}

/// Takes a terminal away from its session; answers whom to signal.
fn release(terminal: &Terminal) -> Job {
    let job = core::mem::take(&mut *terminal.control().0.lock());
    ipc::all().terminals.of_session.lock().remove(&job.session);
    job
}

/// TIOCNOTTY (ioctl_tty(2)): a leader gives it up for the session, whose foreground hears of it.
fn give_up(ctx: &Ctx) -> Result {
    let terminal = of_process(ctx.process).ok_or(Errno::ENOTTY)?;
    if ctx.process.session.load(Ordering::Relaxed) != ctx.process.pid {
        terminal.control().0.lock().left.push(ctx.process.pid);
        return Ok(0);
    }
    let job = release(&terminal);
    if job.foreground != 0 {
        signal_group(job.foreground, SIGHUP);
        signal_group(job.foreground, SIGCONT);
    }
    Ok(0)
}

/// A process ends: with its leader a session loses its terminal, which hangs up (setsid(2), POSIX
/// 11.1.10).
pub fn process_ends(process: &Process) {
    if process.session.load(Ordering::Relaxed) != process.pid {
        return;
    }
    let terminal = ipc::all().terminals.of_session.lock().get(&process.pid).cloned();
    let Some(terminal) = terminal else { return };
    let job = release(&terminal);
    if let Terminal::Pty(pty) = &terminal {
        pty.hang_up();
    }
    if job.foreground != 0 {
        signal_group(job.foreground, SIGHUP);
        signal_group(job.foreground, SIGCONT);
    }
}

/// The master of a terminal has gone: its session's leader and foreground get SIGHUP.
fn lost(pty: &Arc<Pty>) {
    let job = release(&Terminal::Pty(pty.clone()));
    if job.session == 0 {
        return;
    }
    for target in [SIGHUP, SIGCONT] {
        if let Some(leader) = root().process(job.session) {
            let _ = signal::send_process(&leader, Info::from_kernel(target));
        }
        if job.foreground != 0 {
            for process in root().processes() {
                let member = process.group.load(Ordering::Relaxed) == job.foreground;
                if member && process.pid != job.session {
                    let _ = signal::send_process(&process, Info::from_kernel(target));
                }
            }
        }
    }
}

/// The ioctls of controlling terminals, for any terminal. `None`: another command. `master`: asked at the
/// other end, where only looking is allowed.
fn control_ioctl(
    ctx: &Ctx,
    terminal: &Terminal,
    open: &OpenFile,
    command: u32,
    argument: usize,
    master: bool,
) -> Option<Result> {
    let control = terminal.control();
    let own = control.controls(ctx.process);
    let out = UserPtr::<i32>::new(argument);
    Some(match command {
        TIOCSCTTY => {
            let readable = open.flags.load(Ordering::Relaxed) & 3 != 1;
            take(ctx, terminal.clone(), argument == 1, readable).map(|()| 0)
        }
        TIOCNOTTY if !own => Err(Errno::ENOTTY),
        TIOCNOTTY => give_up(ctx),
        TIOCGPGRP | TIOCGSID if !master && !own => Err(Errno::ENOTTY),
        TIOCGPGRP => out.write(control.job().foreground as i32).map(|()| 0),
        TIOCGSID => match control.job().session {
            0 => Err(Errno::ENOTTY),
            session => out.write(session as i32).map(|()| 0),
        },
        TIOCSPGRP => set_foreground(ctx, control, out),
        _ => return None,
    })
}

/// tcsetpgrp(3).
fn set_foreground(ctx: &Ctx, control: &Control, group: UserPtr<i32>) -> Result {
    if !control.controls(ctx.process) {
        return Err(Errno::ENOTTY);
    }
    control.check(ctx, SIGTTOU)?;
    let group = u32::try_from(group.read()?).map_err(|_| Errno::EINVAL)?;
    let session = ctx.process.session.load(Ordering::Relaxed);
    let all = root().processes();
    let mut members = all.iter().filter(|process| process.group.load(Ordering::Relaxed) == group);
    match members.next() {
        None => return Err(Errno::ESRCH),
        Some(member) if member.session.load(Ordering::Relaxed) != session => return Err(Errno::EPERM),
        Some(_) => {}
    }
    control.0.lock().foreground = group;
    Ok(0)
}

// ---- device files ----

/// Opens a terminal device of an inner file system: /dev/tty, /dev/ptmx, /dev/pts/N. `None`: no terminal.
pub fn open_device(ctx: &Ctx, stat: &Stat, flags: u32) -> Option<Result<Arc<OpenFile>>> {
    const PTMX: u64 = device(5, 2);
    const TTY: u64 = device(5, 0);
    if !stat.is(S_IFCHR) {
        return None;
    }
    match stat.rdev {
        TTY => Some(open_own(ctx, flags)),
        PTMX => Some(pty::open_master(ctx, flags)),
        _ if stat.rdev >> 8 & 0xfff == pty::SLAVE_MAJOR => {
            let index = (stat.rdev & 0xff | stat.rdev >> 12 & 0xf_ff00) as u32;
            Some(pty::open_slave(ctx, index, flags))
        }
        _ => None,
    }
}

/// /dev/tty: the caller's controlling terminal, whatever its name.
fn open_own(ctx: &Ctx, flags: u32) -> Result<Arc<OpenFile>> {
    match of_process(ctx.process).ok_or(Errno::ENXIO)? {
        Terminal::Pty(pty) => pty::reopen(&pty, flags),
        Terminal::Host => {
            // O_NONBLOCK on a description of our own: the layer above waits by readiness.
            let fd = fs::HostFd::open_host(b"/dev/tty", flags & 0o3 | 0o4000 | O_NOCTTY, 0)?;
            let stat = fd.stat()?;
            let file = HostFile::terminal(fd, b"/dev/tty"[..].into(), &stat);
            Ok(Arc::new(OpenFile::new(file, flags & 0o7 | flags & 0o4000 | 0o100000)))
        }
    }
}

/// A fresh terminal that controls the session of `process`, its leader: the master, and the slave open once.
/// `size`: rows and columns.
pub(crate) fn terminal_for(process: &Process, size: [u16; 2]) -> Result<(Arc<OpenFile>, Arc<OpenFile>)> {
    const O_RDWR: u32 = 2;
    let (pty, master) = pty::make(process.credentials.lock().uid, O_RDWR)?;
    let slave = pty::ready(&pty, [size[0], size[1], 0, 0], O_RDWR)?;
    let session = process.session.load(Ordering::Relaxed);
    pty.control.0.set(Job { session, foreground: session, left: Vec::new() });
    ipc::all().terminals.of_session.lock().insert(session, Terminal::Pty(pty));
    Ok((master, slave))
}

// ---- the host's terminal ----

/// The guest was started on a terminal of the host: it controls the first session.
pub fn adopt_host(process: &Process) {
    let terminals = &ipc::all().terminals;
    let session = process.session.load(Ordering::Relaxed);
    let foreground = process.group.load(Ordering::Relaxed);
    terminals.host.0.set(Job { session, foreground, left: Vec::new() });
    terminals.of_session.lock().insert(session, Terminal::Host);
}

/// Whether a host descriptor is a terminal (isatty(3)).
pub fn is_host_terminal(fd: i32) -> bool {
    const TCGETS: u32 = 0x5401;
    let mut termios = [0u8; 64];
    // SAFETY: TCGETS writes 36 bytes to ours.
    unsafe { host!(ioctl, fd, TCGETS, termios.as_mut_ptr()) }.is_ok()
}

/// A read or write of the host's terminal: as [`Control::check`].
pub fn check_host(signal: i32) -> Result<()> {
    match Ctx::try_current() {
        Some(ctx) => ipc::all().terminals.host.check(&ctx, signal),
        None => Ok(()),
    }
}

/// Whether the host's terminal has TOSTOP.
pub fn host_stops_output(fd: i32) -> bool {
    const TCGETS: u32 = 0x5401;
    let mut termios = [0u32; 16];
    // SAFETY: TCGETS writes 36 bytes to ours.
    let done = unsafe { host!(ioctl, fd, TCGETS, termios.as_mut_ptr()) };
    done.is_ok() && termios[3] & line::flag::TOSTOP != 0
}

/// An ioctl on the host's terminal, as far as it is about sessions and groups; settings are checked.
pub fn host_ioctl(open: &OpenFile, command: u32, argument: usize) -> Option<Result> {
    let ctx = Ctx::try_current()?;
    if let Some(done) = control_ioctl(&ctx, &Terminal::Host, open, command, argument, false) {
        return Some(done);
    }
    if changes_settings(command)
        && let Err(error) = ipc::all().terminals.host.check(&ctx, SIGTTOU)
    {
        return Some(Err(error));
    }
    None
}

/// TCSETS and the like, TCSBRK, TCXONC, TCFLSH: not for the background (tcsetattr(3p)).
fn changes_settings(command: u32) -> bool {
    matches!(command, 0x5402..=0x5404 | 0x5406..=0x540b | 0x5425 | 0x402c_542b..=0x402c_542d)
}

/// Takes a signal that the host's terminal has sent, as it does to every host process of the guest: `false` if it came
/// from elsewhere.
///
/// One process passes it on to the foreground group, the first that has a host process of its own; what the others got
/// is the same signal. So it also reaches who has none: a vforked child, and one that is just being forked.
pub fn host_signal(process: &Process, signal: i32, code: i32) -> bool {
    let by_terminal = matches!(signal, SIGHUP | SIGINT | SIGQUIT | SIGTSTP | SIGCONT | SIGWINCH);
    if code != signal::SI_KERNEL || !by_terminal {
        return false;
    }
    if !passes_on(process) {
        return true;
    }
    let job = ipc::all().terminals.host.job();
    // Without standard streams on a terminal there may be one all the same: nobody in the guest can name it,
    // and it means the first program's group.
    let foreground =
        if job.session == 0 { root().foreground.load(Ordering::Relaxed) } else { job.foreground };
    signal_group(foreground, signal);
    // A terminal that hangs up tells the session's leader, too.
    if signal == SIGHUP
        && let Some(leader) = root().process(job.session)
        && leader.group.load(Ordering::Relaxed) != foreground
    {
        let _ = signal::send_process(&leader, Info::from_kernel(signal));
    }
    true
}

/// Whether no process with a lower id runs in a host process that gets what the terminal sends.
fn passes_on(process: &Process) -> bool {
    let first = root().processes().into_iter().find(|other| other.host().is_some() && !other.has_ended());
    first.is_none_or(|first| first.pid >= process.pid)
}
