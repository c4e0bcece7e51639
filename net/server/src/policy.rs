//! Which guests get the network's direct queues: a pure function of what was measured, so that it can be tested and
//! explained. The supervisor measures, calls [`Policy::decide`] about once a second, and does what it says.
//!
//! A direct queue saves the server's work and a hand-over for each frame, so a guest gains by its frames in a
//! second, and more if it has little processor time left to wait with: that is its *gain*. Three things keep
//! guests from being moved to and fro: gains are averaged over some seconds, a guest that wants a queue must gain
//! half as much again as the one that has it, and nobody is moved again before a minimum stay is over.

use std::time::Duration;

/// What was measured of a guest since the last decision.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sample {
    /// The guest.
    pub guest: u32,
    /// Frames in both directions, in a second.
    pub frames: f64,
    /// Processor time that it used, in processors.
    pub cpu: f64,
    /// Whether it has a direct queue.
    pub direct: bool,
    /// The user said where it belongs: no policy moves it.
    pub pinned: bool,
}

/// A change to be made.
#[derive(Clone, PartialEq, Debug)]
pub struct Move {
    /// The guest.
    pub guest: u32,
    /// To a direct queue, or back to the server.
    pub direct: bool,
    /// In words for `attacca switch --explain`.
    pub why: String,
}

/// How eagerly guests are moved.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Below so many frames in a second a queue of its own is of no use.
    pub least: f64,
    /// A newcomer's gain must be so many times that of the guest whose queue it takes.
    pub margin: f64,
    /// No guest is moved again before.
    pub stay: Duration,
    /// Half of what is remembered is younger than this.
    pub half_life: Duration,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            least: 2_000.0,
            margin: 1.5,
            stay: Duration::from_secs(10),
            half_life: Duration::from_secs(3),
        }
    }
}

/// What is remembered of a guest.
#[derive(Clone, Copy, Debug)]
struct Known {
    guest: u32,
    gain: f64,
    moved: Option<Duration>,
    seen: bool,
}

/// The state between decisions.
#[derive(Debug, Default)]
pub struct Policy {
    tuning: Tuning,
    known: Vec<Known>,
    last: Option<Duration>,
}

impl Policy {
    /// With this tuning.
    pub fn new(tuning: Tuning) -> Policy {
        Policy { tuning, ..Policy::default() }
    }

    /// What to do, `now` being any clock that goes on. At most one guest goes each way: the effect is measured
    /// before the next.
    pub fn decide(&mut self, queues: usize, samples: &[Sample], now: Duration) -> Vec<Move> {
        self.learn(samples, now);
        let free_to_move = |sample: &&Sample| !sample.pinned && self.has_stayed(sample.guest, now);
        let gain = |sample: &Sample| self.gain(sample.guest);
        let by_gain = |a: &&Sample, b: &&Sample| gain(a).total_cmp(&gain(b));
        let used = samples.iter().filter(|s| s.direct).count();
        let weakest = samples.iter().filter(|s| s.direct).filter(free_to_move).min_by(by_gain);
        let strongest = samples.iter().filter(|s| !s.direct).filter(free_to_move).max_by(by_gain);
        let mut moves = Vec::new();
        // Half of the least that earns a queue: below that, one is held for nothing.
        if let Some(idle) = weakest.filter(|s| gain(s) < self.tuning.least / 2.0) {
            moves.push(
                self.back(idle, format!("{:.0} frames/s are too few for a queue of its own", gain(idle))),
            );
        }
        if let Some(best) = strongest.filter(|s| gain(s) >= self.tuning.least) {
            let why = format!("{:.0} frames/s, the most of those without a queue", gain(best));
            if used < queues {
                moves.push(Move { guest: best.guest, direct: true, why });
            } else if moves.is_empty()
                && let Some(weakest) = weakest.filter(|s| gain(best) > gain(s) * self.tuning.margin)
            {
                let reason = format!("{:.0} frames/s, and another guest has more need", gain(weakest));
                moves.push(self.back(weakest, reason));
            }
        }
        for step in &moves {
            if let Some(known) = self.known.iter_mut().find(|k| k.guest == step.guest) {
                known.moved = Some(now);
            }
        }
        moves
    }

    fn back(&self, sample: &Sample, why: String) -> Move {
        Move { guest: sample.guest, direct: false, why }
    }

    /// A guest's averaged gain, in frames a second.
    pub fn gain(&self, guest: u32) -> f64 {
        self.known.iter().find(|k| k.guest == guest).map_or(0.0, |k| k.gain)
    }

    fn has_stayed(&self, guest: u32, now: Duration) -> bool {
        let moved = self.known.iter().find(|k| k.guest == guest).and_then(|k| k.moved);
        moved.is_none_or(|at| now.saturating_sub(at) >= self.tuning.stay)
    }

    fn learn(&mut self, samples: &[Sample], now: Duration) {
        let passed = self.last.map_or(self.tuning.half_life, |last| now.saturating_sub(last));
        self.last = Some(now);
        let weight = 1.0 - 0.5f64.powf(passed.as_secs_f64() / self.tuning.half_life.as_secs_f64());
        self.known.iter_mut().for_each(|k| k.seen = false);
        for sample in samples {
            // A busy guest gains up to twice as much: what the hand-over costs it cannot be hidden by idling.
            let gain = sample.frames.max(0.0) * (1.0 + sample.cpu.clamp(0.0, 1.0));
            match self.known.iter_mut().find(|k| k.guest == sample.guest) {
                Some(known) => {
                    known.gain += (gain - known.gain) * weight;
                    known.seen = true;
                }
                None => self.known.push(Known {
                    guest: sample.guest,
                    gain: gain * weight,
                    moved: None,
                    seen: true,
                }),
            }
        }
        self.known.retain(|k| k.seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guests with steady loads, of which the policy's own moves are obeyed.
    struct World {
        policy: Policy,
        guests: Vec<Sample>,
        queues: usize,
        second: u64,
        moves: usize,
    }

    impl World {
        fn new(queues: usize, frames: &[f64]) -> World {
            let sample = |(at, &frames): (usize, &f64)| Sample {
                guest: at as u32,
                frames,
                cpu: 0.5,
                direct: false,
                pinned: false,
            };
            let guests = frames.iter().enumerate().map(sample).collect();
            World { policy: Policy::default(), guests, queues, second: 0, moves: 0 }
        }

        fn run(&mut self, seconds: u64) {
            for _ in 0..seconds {
                self.second += 1;
                let now = Duration::from_secs(self.second);
                for step in self.policy.decide(self.queues, &self.guests, now) {
                    assert!(!step.why.is_empty());
                    self.guests[step.guest as usize].direct = step.direct;
                    self.moves += 1;
                }
                assert!(self.direct().len() <= self.queues);
            }
        }

        fn direct(&self) -> Vec<u32> {
            self.guests.iter().filter(|g| g.direct).map(|g| g.guest).collect()
        }
    }

    #[test]
    fn the_busiest_get_the_queues_and_keep_them() {
        let mut world = World::new(2, &[100.0, 50_000.0, 9_000.0, 80_000.0]);
        world.run(100);
        assert_eq!(world.direct(), [1, 3]);
        assert_eq!(world.moves, 2, "nobody is moved without need");
    }

    #[test]
    fn idle_guests_get_none_and_give_theirs_back() {
        let mut world = World::new(4, &[100.0, 1_200.0, 9_000.0]);
        world.run(30);
        assert_eq!(world.direct(), [2]);
        world.guests[2].frames = 10.0;
        world.run(60);
        assert!(world.direct().is_empty());
    }

    #[test]
    fn one_that_needs_it_more_takes_a_queue_and_one_that_is_alike_does_not() {
        let mut world = World::new(1, &[20_000.0, 1_000.0]);
        world.run(30);
        assert_eq!(world.direct(), [0]);
        world.guests[1].frames = 28_000.0;
        world.run(60);
        assert_eq!(world.direct(), [0], "within the margin");
        world.guests[1].frames = 60_000.0;
        world.run(60);
        assert_eq!(world.direct(), [1]);
        assert_eq!(world.moves, 3);
    }

    #[test]
    fn nobody_is_moved_again_before_the_stay_is_over() {
        let mut world = World::new(1, &[20_000.0, 0.0]);
        while world.direct() != [0] {
            world.run(1);
        }
        let moved = world.second;
        let stay = Tuning::default().stay.as_secs();
        world.guests[1].frames = 500_000.0;
        while world.second + 1 < moved + stay {
            world.run(1);
            assert_eq!(world.direct(), [0], "{} s after it was moved", world.second - moved);
        }
        world.run(1);
        assert!(world.direct().is_empty(), "given back when the stay is over");
        world.run(1);
        assert_eq!(world.direct(), [1], "and given on");
        // It keeps the queue for its stay, even if it does nothing with it any more.
        world.guests[1].frames = 0.0;
        world.run(stay - 1);
        assert_eq!(world.direct(), [1]);
        world.run(30);
        assert_ne!(world.direct(), [1]);
    }

    #[test]
    fn loads_that_go_up_and_down_do_not_move_guests_all_the_time() {
        let mut world = World::new(1, &[0.0, 0.0]);
        for round in 0..600 {
            let busy = round % 2;
            world.guests[busy].frames = 60_000.0;
            world.guests[1 - busy].frames = 0.0;
            world.run(1);
        }
        // Stays of ten seconds would allow 120.
        assert!(world.moves <= 12, "{} moves in ten minutes", world.moves);
    }

    #[test]
    fn what_the_user_chose_stays() {
        let mut world = World::new(1, &[50_000.0, 90_000.0]);
        world.guests[0].direct = true;
        world.guests[0].pinned = true;
        world.run(60);
        assert_eq!(world.direct(), [0]);
        assert_eq!(world.moves, 0);
    }
}
