//! Whether a server hangs: a pulse that stands still, and what its process does meanwhile.
//!
//! A server beats before each port and each event (`board.rs`), and says when it is about to sleep. So between two
//! beats lies one step of bounded work: some 64 frames, or half a MiB of one connection. A pulse that stands still
//! while the server says that it works has one of three reasons, and only two of them are the server's fault:
//!
//! * *It waits for a processor* (runnable, or preempted). However long that takes, its successor would wait as well,
//!   and connections through uplink `host` would be lost for nothing. **Never a reason to kill.**
//! * *It is blocked* inside a step, where no host call may block.
//! * *It goes round in circles*: burns processor time without a beat.
//!
//! Neither one look at the process nor the time that has passed tells these apart: between reading the pulse and
//! reading /proc a server may run, finish its round, and go to sleep rightly; and we ourselves may not have had a processor
//! for long. So a look counts only if the pulse was read before *and after* the process, both times the same and at
//! work, and only what two such looks agree on is held against the server:
//!
//! * Blocked between two looks: asleep at both, and neither switched out nor given processor time in between. A
//!   sleeper that was woken has to run before it can sleep again, and each end of running counts as a switch
//!   (`nvcsw`, `nivcsw` in the kernel). So it slept all the time.
//! * In circles: the sum of the processor time that it has used since the beat. Waiting adds nothing to that.
//!
//! The time that a look adds is bounded ([`CREDIT`]): if we were away for a second (or the machine was), the server
//! is not blamed for all of it. A task that was preempted just when it was about to sleep is shown as asleep
//! although it waits for a processor; that takes a blocking call to begin with, and the bounds are several times what
//! a scheduler makes anybody wait.
//!
//! SIGSTOP is not found here: SIGCHLD tells of it at once ([`super::servers`]).

use std::time::{Duration, Instant};

/// The pulse is looked at so often while frames are under way.
pub(super) const LOOK: Duration = Duration::from_millis(2);
/// A server that slept for so long is not looked at any more.
const QUIET: Duration = Duration::from_millis(100);
/// Time between two looks that counts at most.
const CREDIT: Duration = Duration::from_millis(10);
/// Asleep within a step for so long, it hangs.
const BLOCKED: Duration = Duration::from_millis(60);
/// In the host's uninterruptible sleep it may wait for a page from a slow disk.
const BLOCKED_BY_HOST: Duration = Duration::from_millis(1000);
/// Processor time that no step takes. (A hypervisor's stolen time may count as ours; unoptimised builds are slow.)
const BURNT_NS: u64 = 200_000_000;

/// What the server says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pulse {
    pub(super) beats: u64,
    pub(super) busy: bool,
}

/// What the host says of its process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Process {
    /// As proc(5) has it: R, S, D, T, ...
    pub(super) state: u8,
    /// How often it stopped running, of itself or not.
    pub(super) switches: u64,
    /// Processor time.
    pub(super) cpu_ns: u64,
}

/// What follows from a look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It works, or it may.
    Fine,
    /// It has slept for a while: no need to look.
    Asleep,
    /// It hangs, and how.
    Hangs(&'static str),
}

/// The looks at one server since it woke.
pub(super) struct Watch {
    pub(super) next: Instant,
    last_busy: Instant,
    /// The beat that is not followed by another one.
    stands: Option<Standing>,
}

struct Standing {
    beats: u64,
    looked: Instant,
    process: Process,
    /// Processor time at the first look.
    cpu_ns: u64,
    blocked: Duration,
}

impl Watch {
    /// It has just woken.
    pub(super) fn new(now: Instant) -> Watch {
        Watch { next: now + LOOK, last_busy: now, stands: None }
    }

    /// Looks. `process` reads what the host says, or `None` if it says nothing.
    pub(super) fn look(
        &mut self,
        now: Instant,
        pulse: impl Fn() -> Pulse,
        process: impl FnOnce() -> Option<Process>,
    ) -> Verdict {
        self.next = now + LOOK;
        let before = pulse();
        if !before.busy {
            self.stands = None;
            return if now.duration_since(self.last_busy) > QUIET { Verdict::Asleep } else { Verdict::Fine };
        }
        self.last_busy = now;
        if self.stands.as_ref().is_some_and(|standing| standing.beats != before.beats) {
            self.stands = None;
        }
        let Some(process) = process() else { return Verdict::Fine };
        if pulse() != before {
            self.stands = None;
            return Verdict::Fine;
        }
        match &mut self.stands {
            Some(standing) => standing.add(now, process),
            None => {
                let (beats, cpu_ns) = (before.beats, process.cpu_ns);
                self.stands = Some(Standing { beats, looked: now, process, cpu_ns, blocked: Duration::ZERO });
                Verdict::Fine
            }
        }
    }
}

impl Standing {
    fn add(&mut self, now: Instant, process: Process) -> Verdict {
        let passed = now.duration_since(self.looked).min(CREDIT);
        // All fields alike: the same sleep, no switch, no processor time.
        let slept = process == self.process && matches!(process.state, b'S' | b'D');
        self.blocked = if slept { self.blocked + passed } else { Duration::ZERO };
        (self.looked, self.process) = (now, process);
        let bound = if process.state == b'D' { BLOCKED_BY_HOST } else { BLOCKED };
        if self.blocked >= bound {
            return Verdict::Hangs("it was blocked with frames waiting");
        }
        if process.cpu_ns.saturating_sub(self.cpu_ns) >= BURNT_NS {
            return Verdict::Hangs("it went round in circles");
        }
        Verdict::Fine
    }
}

/// A process as proc(5) has it now.
pub(super) fn process(pid: libc::pid_t) -> Option<Process> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let schedstat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let count = |name: &str| field(name)?.parse::<u64>().ok();
    Some(Process {
        state: *field("State:")?.as_bytes().first()?,
        switches: count("voluntary_ctxt_switches:")? + count("nonvoluntary_ctxt_switches:")?,
        cpu_ns: schedstat.split_ascii_whitespace().next().and_then(|f| f.parse().ok()).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const MS: Duration = Duration::from_millis(1);

    /// Looks every two milliseconds at a server that `act` plays (the number of the look); how many looks until it
    /// was said to hang.
    fn looks(most: u64, mut act: impl FnMut(u64) -> (Pulse, Process)) -> Option<u64> {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        (0..most).find(|&at| {
            let (pulse, process) = act(at);
            let verdict = watch.look(begin + LOOK * at as u32, || pulse, || Some(process));
            matches!(verdict, Verdict::Hangs(_))
        })
    }

    fn busy(beats: u64) -> Pulse {
        Pulse { beats, busy: true }
    }

    fn state(state: u8, switches: u64, cpu_ns: u64) -> Process {
        Process { state, switches, cpu_ns }
    }

    #[test]
    fn who_waits_for_a_processor_is_left_alone() {
        // Runnable for minutes; with a slice of processor time now and then, between looks and at them.
        assert_eq!(looks(100_000, |_| (busy(7), state(b'R', 5, 900))), None);
        assert_eq!(looks(5_000, |at| (busy(7 + at / 60), state(b'R', at / 20, at / 20 * 4_000_000))), None);
        // Preempted inside short sleeps: asleep at every look, but it ran in between.
        assert_eq!(looks(100_000, |at| (busy(7), state(b'S', at, 900))), None);
        // Asleep as it should be.
        assert_eq!(looks(1_000, |_| (Pulse { beats: 7, busy: false }, state(b'S', 5, 900))), None);
    }

    #[test]
    fn who_ran_while_we_looked_is_left_alone() {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        for at in 0..1_000 {
            // It beats, or goes to sleep, after the first look at its pulse.
            let looked = Cell::new(false);
            let pulse = || match (looked.replace(true), at % 2) {
                (false, _) => busy(7),
                (true, 0) => busy(8),
                (true, _) => Pulse { beats: 7, busy: false },
            };
            let verdict = watch.look(begin + LOOK * at, pulse, || Some(state(b'S', 5, 900)));
            assert_eq!(verdict, Verdict::Fine);
        }
    }

    #[test]
    fn our_own_absence_is_not_held_against_it() {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        for at in 0..3 {
            // Ten seconds between looks: it may just have fallen asleep on a page.
            let verdict = watch.look(begin + MS * 10_000 * at, || busy(7), || Some(state(b'S', 5, 900)));
            assert_eq!(verdict, Verdict::Fine);
        }
    }

    #[test]
    fn who_hangs_is_found_soon() {
        let blocked = looks(1_000, |_| (busy(7), state(b'S', 5, 900))).unwrap();
        assert!((30..40).contains(&blocked), "{blocked}");
        let by_host = looks(1_000, |_| (busy(7), state(b'D', 5, 900))).unwrap();
        assert!((500..520).contains(&by_host), "{by_host}");
        // All of a processor, and a fifth of it.
        let circles = looks(1_000, |at| (busy(7), state(b'R', 5, at * 2_000_000))).unwrap();
        assert!((100..105).contains(&circles), "{circles}");
        let slowly = looks(1_000, |at| (busy(7), state(b'R', at, at * 400_000))).unwrap();
        assert!((500..505).contains(&slowly), "{slowly}");
    }

    #[test]
    fn a_sleeper_is_looked_at_no_more() {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        let asleep = || Pulse { beats: 7, busy: false };
        assert_eq!(watch.look(begin + 50 * MS, asleep, || None), Verdict::Fine);
        assert_eq!(watch.look(begin + 101 * MS, asleep, || None), Verdict::Asleep);
    }

    #[test]
    fn reads_a_process() {
        assert!(process(std::process::id() as i32).is_some() && process(-1).is_none());
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        let pid = child.id() as i32;
        let deadline = Instant::now() + Duration::from_secs(10);
        while process(pid).is_none_or(|p| p.state != b'S') {
            assert!(Instant::now() < deadline);
        }
        std::thread::sleep(20 * MS);
        let first = process(pid).unwrap();
        std::thread::sleep(20 * MS);
        assert_eq!(process(pid).unwrap(), first);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
