//! Signals from the host to the guest: `kill` from a shell, Ctrl-C, a resized terminal.
//!
//! The scheduler's handler may interrupt anything, the allocator included, so [`record`] only stores
//! to atomics; [`deliver`] is called later, in the kernel. What is recorded belongs to the host
//! process that got it, hence statics of this process (private memory) and not the shared arena.

use crate::process;
use crate::signal::{self, Info, bit};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use sched::arch::SigInfo;

/// What came and was not delivered.
struct Notes {
    /// Which signals.
    came: AtomicU64,
    /// Of each: code (low half) of its latest instance.
    codes: [AtomicU64; 65],
    /// Of each: the sender's uid; the pid is the host's and means nothing inside.
    senders: [AtomicU64; 65],
}

static NOTES: Notes = Notes {
    came: AtomicU64::new(0),
    codes: [const { AtomicU64::new(0) }; 65],
    senders: [const { AtomicU64::new(0) }; 65],
};

/// Where the notes lie: execve(2) keeps what is pending, so a fresh start of this process's statics leaves them
/// out. A handler may write there meanwhile.
pub fn notes() -> Range<usize> {
    let start = &raw const NOTES as usize;
    start..start + size_of::<Notes>()
}

/// The scheduler's `host_signal` hook.
pub fn record(signal: i32, info: &SigInfo) {
    if !(1..=signal::SIGNALS).contains(&signal) {
        return;
    }
    NOTES.codes[signal as usize].store(u64::from(info.code as u32), Ordering::Relaxed);
    NOTES.senders[signal as usize].store(u64::from(info.uid()), Ordering::Relaxed);
    NOTES.came.fetch_or(bit(signal), Ordering::Release);
}

/// A forked child has got nothing yet; what is noted here is its parent's.
pub fn forget() {
    NOTES.came.store(0, Ordering::Relaxed);
}

/// The scheduler's `host_signals` hook: hands what came to the process.
pub fn deliver() {
    let Some(process) = process::own() else { return };
    let mut came = NOTES.came.swap(0, Ordering::Acquire);
    while came != 0 {
        let signal = came.trailing_zeros() as i32 + 1;
        came &= came - 1;
        let code = NOTES.codes[signal as usize].load(Ordering::Relaxed) as u32 as i32;
        if crate::tty::host_signal(process, signal, code) {
            continue;
        }
        let uid = NOTES.senders[signal as usize].load(Ordering::Relaxed);
        let info = Info { signo: signal, errno: 0, code, fields: [uid << 32, 0, 0, 0, 0, 0] };
        // Only real-time signals can find a full queue; that loses them, as in Linux.
        let _ = signal::send_process(process, info);
    }
}
