//! MSG_ZEROCOPY on TCP sockets (Documentation/networking/msg_zerocopy.rst): the promise, and the news that a buffer may
//! be used again.
//!
//! The engine takes bytes into its own buffers while the call runs, where a segment is made once, into the frame. So
//! each call's buffer is free again when the call returns, and its completion is there at once, with
//! SO_EE_CODE_ZEROCOPY_COPIED, by which Linux as well (over loopback, always) tells a program that the effort is in vain.
//! On other sockets SO_ZEROCOPY is ENOPROTOOPT.

use crate::socket::Control;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use platform::sync::Lock;

/// State of one socket.
#[derive(Default)]
pub(crate) struct ZeroCopy {
    /// SO_ZEROCOPY.
    on: AtomicBool,
    calls: Lock<Calls>,
}

#[derive(Default)]
struct Calls {
    /// The number of the next call.
    next: u32,
    /// Completed and not told yet: how many before `next`.
    untold: u32,
}

impl ZeroCopy {
    /// setsockopt(SO_ZEROCOPY).
    pub(crate) fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// getsockopt(SO_ZEROCOPY).
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// A call with MSG_ZEROCOPY has taken bytes. Whether there is news; without the option the flag means nothing.
    pub(crate) fn sent(&self) -> bool {
        if !self.is_on() {
            return false;
        }
        let mut calls = self.calls.lock();
        calls.next = calls.next.wrapping_add(1);
        calls.untold = calls.untold.saturating_add(1);
        true
    }

    /// Whether the error queue has something.
    pub(crate) fn has_news(&self) -> bool {
        self.calls.lock().untold != 0
    }

    /// Takes the completions: one message for all that follow each other, as on Linux.
    pub(crate) fn take(&self, v6: bool) -> Option<Control> {
        let mut calls = self.calls.lock();
        let count = core::mem::take(&mut calls.untold);
        let last = calls.next.wrapping_sub(1);
        let first = calls.next.wrapping_sub(count);
        (count != 0).then(|| completion(first, last, v6))
    }
}

/// `struct sock_extended_err`: errno, origin, type, code, padding, info, data; then an offender that is nobody.
fn completion(first: u32, last: u32, v6: bool) -> Control {
    const SO_EE_ORIGIN_ZEROCOPY: u8 = 5;
    const SO_EE_CODE_ZEROCOPY_COPIED: u8 = 1;
    const SOL_IP: i32 = 0;
    const IP_RECVERR: i32 = 11;
    const SOL_IPV6: i32 = 41;
    const IPV6_RECVERR: i32 = 25;
    let mut data: Vec<u8> = alloc::vec![0; 4];
    data.extend_from_slice(&[SO_EE_ORIGIN_ZEROCOPY, 0, SO_EE_CODE_ZEROCOPY_COPIED, 0]);
    data.extend_from_slice(&first.to_ne_bytes());
    data.extend_from_slice(&last.to_ne_bytes());
    data.resize(16 + if v6 { 28 } else { 16 }, 0);
    let (level, kind) = if v6 { (SOL_IPV6, IPV6_RECVERR) } else { (SOL_IP, IP_RECVERR) };
    Control { level, kind, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_and_told_once() {
        let calls = ZeroCopy::default();
        assert!(!calls.sent() && calls.take(false).is_none(), "the option is off");
        calls.set(true);
        assert!(calls.sent() && calls.sent() && calls.has_news());
        let told = calls.take(false).unwrap();
        assert_eq!((told.level, told.kind, told.data.len()), (0, 11, 32));
        assert_eq!(told.data[..16], [0, 0, 0, 0, 5, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert!(!calls.has_news() && calls.take(false).is_none());
        calls.sent();
        let told = calls.take(true).unwrap();
        assert_eq!((told.level, told.kind, told.data[8], told.data[12]), (41, 25, 2, 2));
    }
}
