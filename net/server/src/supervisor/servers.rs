//! The lives of servers: one serves, one stands by, and when the first ends the second goes on.
//!
//! **Never two at once.** A server touches its end of the rings after [`Order::Go`] only, and Go is said when
//! the server before has been reaped by waitid(2): the host has then ended all its threads and unmapped its
//! memory. That holds for one that hangs as well: it is killed, and SIGKILL ends a stopped process, but Go waits
//! until it has been reaped. (Processes of which we are not the parent, after an adoption, are waited for by a
//! pidfd, which says the same.)
//!
//! **Ended** is told by SIGCHLD, within the time of a wake; **stopped** (SIGSTOP) too. **Hanging** otherwise is
//! told by the pulse on the board, at which we look only while frames are under way: a server that wakes and
//! finds that nobody looks rings our bell; when it has slept for a while we look no more. [`super::pulse`] says
//! when a pulse that stands still is the server's fault, and why a loaded machine is not.
//!
//! **Crash loop.** Servers that die within moments, several in a row, are started later and later; `status` says so.

use super::guests::Guest;
use super::pulse::{self, Pulse, Verdict, Watch};
use super::{Held, borrow};
use crate::board::Board;
use crate::control::{self, Fault, ORDERS_VERSION, Order};
use crate::orders;
use crate::sys::{self, Fate};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A server that lived shorter than this died at once.
const AT_ONCE: Duration = Duration::from_millis(20);
/// So many of them in a row are accidents; more are a loop.
const ACCIDENTS: u32 = 4;
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// When a standby is made after it was needed: the new server's first work goes before.
const STANDBY_AFTER: Duration = Duration::from_millis(5);
/// How long a new server may take to begin.
const BEGIN: Duration = Duration::from_secs(10);

/// A server process.
pub(crate) struct Server {
    orders: OwnedFd,
    pub(crate) pid: libc::pid_t,
    process: OwnedFd,
    pub(crate) began: Instant,
}

/// The servers of a network.
pub(crate) struct Servers {
    pub(crate) signals: OwnedFd,
    pub(crate) server: Option<Server>,
    pub(crate) standby: Option<Server>,
    /// What is executed for a new server; `None`: this program's own code, by fork alone.
    pub(crate) program: Option<PathBuf>,
    pub(crate) generation: u64,
    pub(crate) restarts: u64,
    /// How the last one ended, in words.
    pub(crate) last_end: Option<String>,
    /// Died at once, in a row.
    pub(crate) quick: u32,
    /// Why the one that was killed by us was.
    killed: Option<String>,
    begin_at: Option<Instant>,
    standby_at: Option<Instant>,
    watch: Option<Watch>,
}

impl Servers {
    pub(super) fn new() -> io::Result<Servers> {
        Ok(Servers {
            signals: sys::child_signals()?,
            server: None,
            standby: None,
            program: None,
            generation: 0,
            restarts: 0,
            last_end: None,
            quick: 0,
            killed: None,
            begin_at: None,
            standby_at: None,
            watch: None,
        })
    }

    /// Starts the first server.
    pub(super) fn start(&mut self, held: &Held, guests: &[Guest]) -> io::Result<()> {
        let first = self.spawn(held, guests)?;
        self.begin(first, held);
        Ok(())
    }

    /// Waits until the first server serves.
    pub(super) fn await_first(&self, board: &Board) -> io::Result<()> {
        let deadline = Instant::now() + BEGIN;
        while board.heartbeat() == 0 {
            let dead = self.server.as_ref().is_none_or(|s| has_ended(s.process.as_fd()));
            if dead || Instant::now() > deadline {
                return Err(io::Error::other("the network's server does not start (see its log)"));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// A new process that takes orders and has been told of everything.
    fn spawn(&self, held: &Held, guests: &[Guest]) -> io::Result<Server> {
        let (ours, theirs) = sys::seqpacket_pair()?;
        let pid = match sys::fork()? {
            sys::Fork::Parent(pid) => pid,
            sys::Fork::Child => {
                // What is the supervisor's alone must not live on in a server: a guest's control socket
                // held there would hide that the supervisor has died.
                sys::close_others(&[theirs.as_raw_fd()]);
                match &self.program {
                    None => orders::run(theirs),
                    Some(program) => execute(program, &theirs),
                }
            }
        };
        drop(theirs);
        let process = sys::pidfd(pid)?;
        let server = Server { orders: ours, pid, process, began: Instant::now() };
        let (version, network) = (ORDERS_VERSION, held.network);
        let hello = Order::Hello { version, network, uplink: held.uplink.clone(), strays: held.strays };
        let mut fds = vec![held.port_map.fd(), held.board.fd(), held.bell.as_fd()];
        fds.extend(borrow(&held.uplink_fds));
        control::send(server.orders.as_fd(), &hello, &fds)?;
        guests.iter().try_for_each(|guest| guest.introduce(server.orders.as_fd(), control::send))?;
        Ok(server)
    }

    fn begin(&mut self, mut server: Server, held: &Held) {
        self.begin_at = None;
        self.generation += 1;
        let server_began = Instant::now();
        server.began = server_began;
        held.board.hand_over();
        if let Err(error) = control::post(server.orders.as_fd(), &Order::Go, &[]) {
            eprintln!("attacca: network supervisor: a standby takes no orders: {error}");
            sys::kill(server.process.as_fd());
        }
        self.server = Some(server);
        self.watch = Some(Watch::new(server_began));
        self.standby_at = Some(Instant::now() + STANDBY_AFTER);
    }

    /// Children have ended or stopped.
    pub(super) fn children(&mut self, held: &Held, guests: &[Guest]) {
        sys::drain(self.signals.as_raw_fd());
        while let Some((pid, fate)) = sys::next_fate() {
            let serves = self.server.as_ref().is_some_and(|s| s.pid == pid);
            match fate {
                Fate::Stopped if serves => self.kill("it was stopped"),
                Fate::Stopped => self.standby.iter().filter(|s| s.pid == pid).for_each(kill),
                Fate::Ended(status) if serves => self.server_ended(status, held, guests),
                Fate::Ended(_) => {
                    if self.standby.as_ref().is_some_and(|s| s.pid == pid) {
                        self.standby = None;
                        self.standby_at = Some(Instant::now() + Duration::from_millis(50));
                    }
                }
            }
        }
    }

    fn server_ended(&mut self, status: i32, held: &Held, guests: &[Guest]) {
        let Some(server) = self.server.take() else { return };
        let why = self.killed.take().unwrap_or_else(|| describe(status));
        eprintln!("attacca: the network server {} ended ({why})", server.pid);
        self.last_end = Some(why);
        self.restarts += 1;
        self.quick = if server.began.elapsed() < AT_ONCE { self.quick + 1 } else { 0 };
        let backoff = self.backoff();
        if backoff.is_zero() {
            self.go_on(held, guests);
        } else {
            self.begin_at = Some(Instant::now() + backoff);
        }
    }

    /// How long the next server waits.
    pub(crate) fn backoff(&self) -> Duration {
        match self.quick.checked_sub(ACCIDENTS + 1) {
            None => Duration::ZERO,
            Some(more) => (FIRST_BACKOFF * (1 << more.min(12))).min(LONGEST_BACKOFF),
        }
    }

    /// The next server begins. No other one lives: the last one was reaped.
    fn go_on(&mut self, held: &Held, guests: &[Guest]) {
        let next = match self.standby.take() {
            Some(standby) => Ok(standby),
            None => self.spawn(held, guests),
        };
        match next {
            Ok(server) => self.begin(server, held),
            Err(error) => {
                eprintln!("attacca: network supervisor: no new server: {error}");
                self.quick += 1;
                self.begin_at = Some(Instant::now() + self.backoff().max(FIRST_BACKOFF));
            }
        }
    }

    /// The serving one hangs. Its end is told by SIGCHLD.
    fn kill(&mut self, why: &str) {
        if let Some(server) = &self.server {
            self.killed = Some(format!("killed: {why}"));
            kill(server);
        }
    }

    // --- on request --------------------------------------------------------------------------------

    /// Has the standby take over.
    pub(super) fn restart(&mut self, held: &Held, guests: &[Guest]) -> io::Result<()> {
        if self.standby.is_none() {
            self.standby = Some(self.spawn(held, guests)?);
        }
        let Some(server) = self.server.take() else {
            self.quick = 0;
            self.go_on(held, guests);
            return Ok(());
        };
        let _ = control::post(server.orders.as_fd(), &Order::Quit, &[]);
        if !sys::poll_readable(&[server.process.as_raw_fd()], 20)?[0] {
            sys::kill(server.process.as_fd());
        }
        sys::wait(server.pid, true)?;
        self.last_end = Some("restarted".into());
        self.restarts += 1;
        self.quick = 0;
        self.go_on(held, guests);
        Ok(())
    }

    /// Has a server take over that is another program.
    pub(super) fn upgrade(&mut self, held: &Held, guests: &[Guest], program: PathBuf) -> io::Result<()> {
        let before = self.program.replace(program.clone());
        let prepared = self.spawn(held, guests).and_then(|server| {
            // It says that it understands us, or ends.
            let polled = [server.orders.as_raw_fd(), server.process.as_raw_fd()];
            let ready = sys::poll_readable(&polled, BEGIN.as_millis() as i32)?;
            let word = if ready[0] { control::receive::<u32>(server.orders.as_fd())? } else { None };
            match word {
                Some((ORDERS_VERSION, _)) => Ok(server),
                _ => {
                    kill(&server);
                    let words = format!("{} is no server for this network (see its log)", program.display());
                    Err(io::Error::other(words))
                }
            }
        });
        match prepared {
            Ok(server) => {
                if let Some(old) = self.standby.replace(server) {
                    kill(&old);
                }
                self.restart(held, guests)
            }
            Err(error) => {
                self.program = before;
                Err(error)
            }
        }
    }

    /// Ends all servers; with `linger` the serving one ends when what guests left behind is delivered.
    pub(super) fn stop(&mut self, linger: bool) {
        if let Some(standby) = self.standby.take() {
            kill(&standby);
            let _ = sys::wait(standby.pid, true);
        }
        if let Some(server) = self.server.take() {
            let order = if linger { Order::Finish } else { Order::Quit };
            let _ = control::post(server.orders.as_fd(), &order, &[]);
            if !linger && !matches!(sys::poll_readable(&[server.process.as_raw_fd()], 1000), Ok(r) if r[0]) {
                kill(&server);
            }
            let _ = sys::wait(server.pid, true);
        }
    }

    /// For tests: has the server do something bad.
    pub(super) fn fault(&self, fault: Fault) -> io::Result<()> {
        let server = self.server.as_ref().ok_or_else(|| io::Error::other("no server runs"))?;
        control::post(server.orders.as_fd(), &Order::Fault(fault), &[])
    }

    // --- guests ------------------------------------------------------------------------------------

    /// Tells all servers of a guest.
    pub(super) fn add(&mut self, guest: &Guest) {
        self.order(|to| guest.introduce(to, control::post));
    }

    /// Tells all servers that a guest has gone.
    pub(super) fn remove(&mut self, id: u32) {
        self.order(|to| control::post(to, &Order::Remove(id), &[]));
    }

    /// A server that takes no orders would be wrong about its guests: it has to go.
    fn order(&mut self, send: impl Fn(BorrowedFd<'_>) -> io::Result<()>) {
        for server in self.server.iter().chain(&self.standby) {
            if send(server.orders.as_fd()).is_err() {
                kill(server);
            }
        }
    }

    // --- time --------------------------------------------------------------------------------------

    /// When [`Servers::run_timers`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let watch = self.watch.as_ref().map(|w| w.next);
        [self.begin_at, self.standby_at, watch].into_iter().flatten().min()
    }

    pub(super) fn run_timers(&mut self, held: &Held, guests: &[Guest]) {
        let now = Instant::now();
        if self.begin_at.is_some_and(|at| at <= now) {
            self.go_on(held, guests);
        }
        if self.standby_at.is_some_and(|at| at <= now) {
            self.standby_at = None;
            if self.standby.is_none() && self.server.is_some() {
                match self.spawn(held, guests) {
                    Ok(standby) => self.standby = Some(standby),
                    Err(error) => eprintln!("attacca: network supervisor: no standby: {error}"),
                }
            }
        }
        if self.watch.as_ref().is_some_and(|w| w.next <= now) {
            self.look(&held.board, now);
        }
    }

    /// The server has begun to work.
    pub(super) fn watch(&mut self, board: &Board) {
        if self.server.is_some() && self.watch.is_none() {
            board.watch();
            self.watch = Some(Watch::new(Instant::now()));
        }
    }

    fn look(&mut self, board: &Board, now: Instant) {
        let (Some(watch), Some(server)) = (&mut self.watch, &self.server) else { return };
        let pulse = || Pulse { beats: board.heartbeat(), busy: board.is_busy() };
        match watch.look(now, pulse, || pulse::process(server.pid)) {
            Verdict::Fine => {}
            Verdict::Asleep => {
                if board.unwatch() {
                    self.watch = None;
                }
            }
            Verdict::Hangs(why) => {
                // It is looked at again if the kill does not reach it.
                self.watch = Some(Watch::new(now));
                self.kill(why);
            }
        }
    }
}

fn kill(server: &Server) {
    sys::kill(server.process.as_fd());
}

fn has_ended(process: BorrowedFd<'_>) -> bool {
    matches!(sys::poll_readable(&[process.as_raw_fd()], 0), Ok(ready) if ready[0])
}

/// In a fresh child: becomes another program that takes the same orders.
fn execute(program: &std::path::Path, orders: &OwnedFd) -> ! {
    use std::os::unix::process::CommandExt;
    sys::unblock_signals();
    let kept = sys::keep_over_exec(orders.as_fd());
    let number = orders.as_raw_fd().to_string();
    let error = match kept {
        Ok(()) => std::process::Command::new(program).args(["server", "serve", &number]).exec(),
        Err(error) => error,
    };
    eprintln!("attacca: network server: {}: {error}", program.display());
    sys::exit(126)
}

fn describe(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        format!("signal {}", libc::WTERMSIG(status))
    } else {
        format!("status {}", libc::WEXITSTATUS(status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_loop_is_slowed_down_and_mended() {
        let held = crate::supervisor::testing::held((std::net::Ipv4Addr::new(10, 0, 2, 0), 24));
        let mut servers = Servers::new().unwrap();
        // A program that ends at once is no server.
        servers.program = Some("/bin/false".into());
        let _ = servers.start(&held, &[]);
        let deadline = Instant::now() + Duration::from_secs(20);
        while servers.backoff() < FIRST_BACKOFF * 4 {
            assert!(Instant::now() < deadline, "{} quick deaths", servers.quick);
            servers.children(&held, &[]);
            servers.run_timers(&held, &[]);
            if servers.server.is_none() && servers.begin_at.is_none() {
                servers.go_on(&held, &[]);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(servers.quick > ACCIDENTS && servers.restarts > 0);
        servers.stop(false);
        // The longest wait is bounded.
        servers.quick = u32::MAX;
        assert_eq!(servers.backoff(), LONGEST_BACKOFF);
    }
}
