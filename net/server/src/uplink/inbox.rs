//! Frames that a server has taken from a TAP queue and not passed on yet, in memory that outlives it.
//!
//! read(2) takes a frame out of the kernel for good. What a server had read when it died would be lost, and whoever sent
//! it would wait for a timer of 200 ms. So frames are read to here and stand in a list until what they caused is
//! published ([`Inbox::clear`]). A successor passes on what it finds in the list: some of it a second time, as
//! networks do now and then.
//!
//! Of a frame that the kernel put here just before the end, nobody has heard the length. Where the next frame is going to be, the
//! head is empty until then, and a packet says itself how long it is.

use crate::forward::ETHERNET;
use crate::sys::{self, Mapping};
use net::device::host::{TAP_HEADER, TAP_MAX};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Frames listed at most.
pub(crate) const MOST: usize = 64;
const DATA: usize = 1 << 20;
/// Bytes that say what a frame is and how long: up to the end of an IPv6 header.
const HEAD: usize = TAP_HEADER + ETHERNET + 40;

/// The first page; the frames are behind it.
#[repr(C, align(4096))]
struct List {
    count: AtomicU32,
    /// Start and length of each.
    spans: [AtomicU64; MOST],
}

/// The memory, mapped.
pub(crate) struct Inbox {
    mapping: Mapping,
    count: usize,
    used: usize,
}

impl Inbox {
    /// New memory of that kind.
    pub(crate) fn create() -> io::Result<OwnedFd> {
        sys::memfd(c"attacca-inbox", size_of::<List>() + DATA)
    }

    /// What is in it. The caller is the only one that uses it from now on.
    pub(crate) fn open(memory: &OwnedFd) -> io::Result<Inbox> {
        let mapping = Mapping::new(memory.as_fd(), true)?;
        if mapping.len < size_of::<List>() + DATA {
            return Err(io::Error::other("the inbox is too short"));
        }
        let mut inbox = Inbox { mapping, count: 0, used: 0 };
        inbox.look_back();
        Ok(inbox)
    }

    /// Lists what the server before us had not done with.
    fn look_back(&mut self) {
        let listed = (self.list().count.load(Ordering::Acquire) as usize).min(MOST);
        for index in 0..listed {
            let (start, len) = self.span(index);
            if start != self.used || len <= TAP_HEADER || len > TAP_MAX || start + len > DATA {
                break;
            }
            self.count += 1;
            self.used = (start + len).next_multiple_of(64);
        }
        if self.count < MOST && self.used + TAP_MAX <= DATA {
            let frame = self.bytes(self.used, TAP_MAX);
            if let Some(len) = length(&frame[TAP_HEADER..]) {
                self.filled(TAP_HEADER + len);
            }
        }
    }

    /// Frames in the list.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// One of them, with its header.
    pub(crate) fn frame(&self, index: usize) -> &[u8] {
        let (start, len) = self.span(index);
        self.bytes(start, len)
    }

    /// Where the next one is to be read to.
    pub(crate) fn room(&mut self) -> Option<&mut [u8]> {
        if self.count == MOST || self.used + TAP_MAX > DATA {
            return None;
        }
        // SAFETY: inside the mapping (just checked); nobody else uses this memory (promise to `open`).
        Some(unsafe { std::slice::from_raw_parts_mut(self.at(self.used), TAP_MAX) })
    }

    /// It has been read.
    pub(crate) fn filled(&mut self, len: usize) {
        let next = (self.used + len).next_multiple_of(64);
        self.empty(next);
        let list = self.list();
        list.spans[self.count].store((self.used as u64) << 32 | len as u64, Ordering::Relaxed);
        list.count.store(self.count as u32 + 1, Ordering::Release);
        self.count += 1;
        self.used = next;
    }

    /// All that is listed has been published.
    pub(crate) fn clear(&mut self) {
        self.empty(0);
        self.list().count.store(0, Ordering::Release);
        (self.count, self.used) = (0, 0);
    }

    /// The next frame's place shows no old one, before the list says that it is the next.
    fn empty(&mut self, place: usize) {
        if place + TAP_MAX <= DATA {
            // SAFETY: inside the mapping (just checked); nobody else uses this memory.
            unsafe { std::ptr::write_bytes(self.at(place), 0, HEAD) };
        }
    }

    fn span(&self, index: usize) -> (usize, usize) {
        let span = self.list().spans[index].load(Ordering::Relaxed);
        ((span >> 32) as usize, span as u32 as usize)
    }

    fn bytes(&self, start: usize, len: usize) -> &[u8] {
        assert!(start + len <= DATA);
        // SAFETY: inside the mapping; written by `room`'s borrower alone, which excludes this borrow.
        unsafe { std::slice::from_raw_parts(self.at(start), len) }
    }

    fn at(&self, place: usize) -> *mut u8 {
        // SAFETY: the callers' places are inside the data.
        unsafe { self.mapping.base.add(size_of::<List>() + place) }
    }

    fn list(&self) -> &List {
        // SAFETY: page-aligned, long enough (`open`), mapped as long as we live; atomics only.
        unsafe { &*self.mapping.base.cast::<List>() }
    }
}

/// The length of a frame by what it says; `None` if there is none, or of a kind that does not say.
fn length(frame: &[u8]) -> Option<usize> {
    let word = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let len = match word(12) {
        0x0800 => ETHERNET + word(16),
        0x0806 => ETHERNET + 28,
        0x86dd => ETHERNET + 40 + word(18),
        _ => return None,
    };
    (len > ETHERNET && TAP_HEADER + len <= TAP_MAX).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(byte: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![byte; TAP_HEADER + ETHERNET + 20 + payload];
        let at = TAP_HEADER + 12;
        frame[at..at + 2].copy_from_slice(&[8, 0]);
        frame[at + 4..at + 6].copy_from_slice(&(20 + payload as u16).to_be_bytes());
        frame
    }

    fn take(inbox: &mut Inbox, frame: &[u8]) {
        inbox.room().unwrap()[..frame.len()].copy_from_slice(frame);
        inbox.filled(frame.len());
    }

    fn listed(inbox: &Inbox) -> Vec<Vec<u8>> {
        (0..inbox.count()).map(|index| inbox.frame(index).to_vec()).collect()
    }

    #[test]
    fn a_successor_finds_what_was_not_published() {
        let memory = Inbox::create().unwrap();
        let mut first = Inbox::open(&memory).unwrap();
        assert_eq!(first.count(), 0);
        take(&mut first, &frame(1, 100));
        first.clear();
        take(&mut first, &frame(2, 1400));
        take(&mut first, &frame(3, 60_000));
        // The kernel had written it, and the end came.
        let last = frame(4, 33);
        first.room().unwrap()[..last.len()].copy_from_slice(&last);
        drop(first);
        let mut second = Inbox::open(&memory).unwrap();
        assert_eq!(listed(&second), [frame(2, 1400), frame(3, 60_000), last]);
        second.clear();
        drop(second);
        // What lies behind the list from earlier rounds is not taken for news.
        let mut third = Inbox::open(&memory).unwrap();
        assert_eq!(third.count(), 0);
        take(&mut third, &frame(5, 1400));
        drop(third);
        assert_eq!(listed(&Inbox::open(&memory).unwrap()), [frame(5, 1400)]);
    }

    #[test]
    fn nothing_is_found_twice_after_any_number_of_rounds() {
        let memory = Inbox::create().unwrap();
        let mut state = 7u64;
        for round in 0..2000 {
            let mut inbox = Inbox::open(&memory).unwrap();
            assert_eq!(inbox.count(), 0, "round {round}");
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            for at in 0..state >> 58 {
                take(&mut inbox, &frame(at as u8, (state >> (at % 48)) as usize % 3000));
            }
            // (It looked for more, and there was none.)
            let _ = inbox.room();
            inbox.clear();
            let _ = inbox.room();
        }
    }

    #[test]
    fn it_is_full_at_some_time() {
        let memory = Inbox::create().unwrap();
        for payload in [10, 60_000] {
            let mut inbox = Inbox::open(&memory).unwrap();
            let mut count = 0;
            while inbox.room().is_some() {
                take(&mut inbox, &frame(9, payload));
                count += 1;
            }
            assert!((14..=MOST).contains(&count));
            drop(inbox);
            let mut again = Inbox::open(&memory).unwrap();
            assert_eq!(again.count(), count);
            again.clear();
        }
    }
}
