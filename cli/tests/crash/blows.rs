//! Ways in which a network's server ends, when they are dealt, and how long a client heard nothing around them.

use super::support::{PATIENCE, attacca, run_limited, scratch, text};
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A network with a name; taken down when dropped.
pub(crate) struct Network(pub(crate) String);

impl Network {
    pub(crate) fn start(name: &str) -> Network {
        let network = Network(format!("{name}-{}", std::process::id()));
        // What is tested is the server: two guests must not talk past it.
        network.say(&["start", "--no-shortcuts"]);
        network
    }

    /// `attacca server WORDS`.
    pub(crate) fn say(&self, words: &[&str]) {
        text(run_limited(attacca().arg("server").args(words).args(["--net", &self.0]), PATIENCE));
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        let mut command = attacca();
        let words =
            text(run_limited(command.args(["server", "status", "--json", "--net", &self.0]), PATIENCE));
        serde_json::from_str(&words).unwrap()
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.status()["restarts"].as_u64().unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = attacca().args(["server", "stop", "--net", &self.0]).output();
    }
}

/// From when to when, in nanoseconds of CLOCK_MONOTONIC.
pub(crate) type Moment = (u64, u64);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Stop,
    /// A panic in its loop.
    Panic,
    /// An endless loop.
    Loop,
    /// A wait without end.
    Block,
    /// `attacca server restart`.
    Restart,
    /// `attacca server upgrade` to another file.
    Upgrade,
}

impl Blow {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Blow::Kill => "crashes (SIGKILL)",
            Blow::Stop => "hangs (SIGSTOP)",
            Blow::Panic => "panics",
            Blow::Loop => "endless loops",
            Blow::Block => "blocked servers",
            Blow::Restart => "restarts",
            Blow::Upgrade => "upgrades",
        }
    }

    /// Deals it to the server with this process id, unless that has just ended by itself: from when to when it may
    /// have fallen.
    fn deal(self, network: &Network, pid: i32) -> Option<Moment> {
        let begin = now_ns();
        let so_far = || Some((begin, now_ns()));
        let signal = match self {
            Blow::Kill => libc::SIGKILL,
            Blow::Stop => libc::SIGSTOP,
            Blow::Panic | Blow::Loop | Blow::Block => {
                let fault = match self {
                    Blow::Panic => "panic",
                    Blow::Loop => "loop",
                    _ => "block",
                };
                network.say(&["fault", fault]);
                return so_far();
            }
            Blow::Restart => {
                network.say(&["restart"]);
                return so_far();
            }
            Blow::Upgrade => {
                network.say(&["upgrade", another_attacca().to_str().unwrap()]);
                return so_far();
            }
        };
        // SAFETY: the server of a network that this test started.
        (unsafe { libc::kill(pid, signal) } == 0).then_some((begin, begin))
    }
}

/// The same program in another file.
fn another_attacca() -> &'static PathBuf {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let copy = scratch("upgrade").join(format!("attacca-{}", std::process::id()));
        fs::copy(env!("CARGO_BIN_EXE_attacca"), &copy).unwrap();
        copy
    })
}

pub(crate) fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a timespec of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Repeatable variety.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Deals `count` blows at random moments, each to a server that serves; when each fell.
pub(crate) fn deal(network: &Network, blow: Blow, count: usize, random: &mut Random) -> Vec<Moment> {
    let (mut times, mut last) = (Vec::new(), 0);
    let deadline = Instant::now() + Duration::from_secs(60) + Duration::from_millis(600) * count as u32;
    while times.len() < count {
        let dealt = times.len();
        assert!(Instant::now() < deadline, "no server after {dealt} {}: {}", blow.name(), network.status());
        std::thread::sleep(Duration::from_micros(25_000 + random.below(60_000)));
        let pid = network.status()["pid"].as_i64().unwrap_or(0) as i32;
        if pid == 0 || pid == last {
            continue;
        }
        last = pid;
        times.extend(blow.deal(network, pid));
    }
    // The last one is over when another server serves.
    while network.status()["pid"].as_i64().is_none_or(|pid| pid as i32 == last) {
        assert!(
            Instant::now() < deadline,
            "no server after the last of {}: {}",
            blow.name(),
            network.status()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    times
}

/// What a client heard nothing of: its lines `gap BEGIN END`.
pub(crate) struct Silences(Vec<(u64, u64)>);

impl Silences {
    pub(crate) fn read(output: &str) -> Silences {
        let gap = |line: &str| {
            let mut words = line.strip_prefix("gap ")?.split(' ').map(|word| word.parse().ok());
            Some((words.next()??, words.next()??))
        };
        Silences(output.lines().filter_map(gap).collect())
    }

    /// The longest silence around a moment, in milliseconds: one that lasts at that moment, or begins in the three
    /// milliseconds behind it (answers that were under way come in first). At least the meter's resolution.
    fn around(&self, (from, to): Moment) -> f64 {
        let first = self.0.partition_point(|(_, end)| *end < from);
        let near = self.0[first..].iter().take_while(|(begin, _)| *begin <= to + 3_000_000);
        near.map(|(begin, end)| end - begin).max().unwrap_or(100_000) as f64 / 1e6
    }

    /// One line: median, 90th and 99th percentile, longest.
    pub(crate) fn report(&self, what: &str, times: &[Moment]) {
        let mut all: Vec<f64> = times.iter().map(|&time| self.around(time)).collect();
        all.sort_by(f64::total_cmp);
        let at = |part: f64| all[((all.len() - 1) as f64 * part).round() as usize];
        let (count, median, p90, p99, longest) = (all.len(), at(0.5), at(0.9), at(0.99), at(1.0));
        println!(
            "{what}: {count}; silence median {median:.1} ms, p90 {p90:.1} ms, p99 {p99:.1} ms, longest {longest:.1} ms"
        );
    }
}

/// Moments at which nothing happens, in the next `ms` milliseconds.
pub(crate) fn quiet(ms: u64, random: &mut Random) -> Vec<Moment> {
    let begin = now_ns();
    std::thread::sleep(Duration::from_millis(ms));
    (0..100).map(|_| begin + random.below(ms * 1_000_000)).map(|at| (at, at)).collect()
}
