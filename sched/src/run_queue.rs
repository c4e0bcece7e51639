//! A vCPU's queue of ready threads: first in, first out, linked through the threads themselves, so
//! that waking a thread never allocates.

use crate::thread::Thread;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};
use platform::sync::Lock;

/// Ready threads of one vCPU. Its owner takes from the front; others push and steal.
pub(crate) struct RunQueue {
    /// Mirror of the length: an empty queue costs one load.
    length: AtomicUsize,
    list: Lock<List>,
}

struct List {
    head: *const Thread,
    tail: *const Thread,
    /// The process is gone: threads that come are not kept.
    closed: bool,
}

// SAFETY: the threads behind the pointers are Sync and live until they have exited; a thread in a
// queue has not.
unsafe impl Send for List {}

impl RunQueue {
    pub(crate) const fn new() -> RunQueue {
        let list = List { head: ptr::null(), tail: ptr::null(), closed: false };
        RunQueue { length: AtomicUsize::new(0), list: Lock::new(list) }
    }

    /// Threads waiting here; a moment's truth.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.length.load(Ordering::SeqCst)
    }

    /// Appends a thread that nobody else may enqueue (its word says READY). Answers the new length.
    #[inline]
    pub(crate) fn push(&self, thread: *const Thread) -> usize {
        let mut list = self.list.lock();
        if list.closed {
            return 0;
        }
        list.append(thread);
        let length = self.length.load(Ordering::Relaxed) + 1;
        // SeqCst: see `vcpu::sleep`, which announces sleep and then looks at the length.
        self.length.store(length, Ordering::SeqCst);
        length
    }

    /// Takes the first thread.
    #[inline]
    pub(crate) fn pop(&self) -> Option<*const Thread> {
        if self.length.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut list = self.list.lock();
        let thread = list.take()?;
        self.length.store(self.length.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        Some(thread)
    }

    /// The process of this queue is gone: it holds nothing from now on.
    pub(crate) fn close(&self) {
        let mut list = self.list.lock();
        while list.take().is_some() {}
        list.closed = true;
        self.length.store(0, Ordering::SeqCst);
    }

    /// Takes the older half (at least one) for another vCPU: answers one to run, moves the rest to
    /// `thief`.
    pub(crate) fn steal(&self, thief: &RunQueue) -> Option<*const Thread> {
        if self.length.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut list = self.list.try_lock()?;
        let count = self.length.load(Ordering::Relaxed).div_ceil(2);
        let first = list.take()?;
        let mut rest = List { head: ptr::null(), tail: ptr::null(), closed: false };
        for _ in 1..count {
            match list.take() {
                Some(thread) => rest.append(thread),
                None => break,
            }
        }
        self.length.store(self.length.load(Ordering::Relaxed) - count, Ordering::Relaxed);
        drop(list);
        while let Some(thread) = rest.take() {
            thief.push(thread);
        }
        Some(first)
    }
}

impl List {
    fn append(&mut self, thread: *const Thread) {
        // SAFETY: READY threads live; `next` belongs to the queue's lock while they are queued.
        unsafe {
            *(*thread).next.get() = ptr::null();
            match self.tail.is_null() {
                true => self.head = thread,
                false => *(*self.tail).next.get() = thread,
            }
        }
        self.tail = thread;
    }

    fn take(&mut self) -> Option<*const Thread> {
        if self.head.is_null() {
            return None;
        }
        let thread = self.head;
        // SAFETY: as in `append`.
        self.head = unsafe { *(*thread).next.get() };
        if self.head.is_null() {
            self.tail = ptr::null();
        }
        Some(thread)
    }
}
