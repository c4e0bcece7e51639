//! How long a host process has had things in passage: in its hands alone, and told to nobody yet.
//!
//! Who finds a thing of the host that nobody accounts for cannot see whether a living process is just about to tell of
//! it (a descriptor between the host call that made it and its note). But that takes moments: once each process has
//! been seen outside such moments, whoever was inside at the first look has told. This is the grace period of
//! read-copy-update, with host processes as readers; nobody waits, and readers pay two atomic additions.

use crate::vcpu::{self, Process};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

/// One process's passages: how many are under way (lower half), and how often none was left (upper half).
#[derive(Default)]
pub(crate) struct Passages(AtomicU64);

const REST: u64 = 1 << 32;

impl Passages {
    fn begin(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn end(&self) {
        // The last one out says that there was a rest.
        let step = |word: u64| Some(if word as u32 == 1 { (word - 1).wrapping_add(REST) } else { word - 1 });
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::Relaxed, step);
    }

    /// How often it has rested, if it does not rest now.
    fn busy(&self) -> Option<u32> {
        let word = self.0.load(Ordering::SeqCst);
        (word as u32 != 0).then_some((word >> 32) as u32)
    }
}

/// The running process begins a passage. They nest.
pub fn begin() {
    vcpu::process().passages.begin();
}

/// It is over.
pub fn end() {
    vcpu::process().passages.end();
}

/// A moment, and which processes of the guest were in the middle of a passage: their serials and rests.
#[derive(Default)]
pub struct Moment(Vec<(u32, u32)>);

impl Moment {
    /// Now.
    pub fn now() -> Moment {
        let busy = |process: &Process| Some((process.serial, process.passages.busy()?));
        Moment(vcpu::process().family.all().iter().filter_map(|process| busy(process)).collect())
    }

    /// Whether each of those passages has ended, or its process.
    pub fn is_over(&self) -> bool {
        let family = vcpu::process().family;
        self.0.iter().all(|&(serial, rests)| {
            family.by_serial(serial).is_none_or(|process| {
                process.reaper.load(Ordering::SeqCst) != 0 || process.passages.busy() != Some(rests)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_seen_though_it_was_short() {
        let passages = Passages::default();
        assert_eq!(passages.busy(), None);
        passages.begin();
        let before = passages.busy();
        passages.begin();
        passages.end();
        // One went through all the time.
        assert_eq!(passages.busy(), before);
        passages.end();
        assert_eq!(passages.busy(), None);
        passages.begin();
        assert!(passages.busy().is_some() && passages.busy() != before);
    }
}
