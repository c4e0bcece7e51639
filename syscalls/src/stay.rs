//! What a sleeping call holds, told to the rest of the family: places in hubs, open files, and other counts.
//!
//! A call that is killed with its host process (SIGKILL from the host) never comes back to let go of them: its stack
//! was private memory. A blocked reader would keep its pipe open for ever, and a dead thread in accept(2) would be
//! woken in a living one's place. So whatever a call holds while it sleeps is noted here, in the arena, and whoever
//! buries the process lets go of it ([`abandon`]).
//!
//! Notes are taken just before a sleep and struck out just after, as on a stack: calls nest, they do not overlap.
//!
//! Left out: what a call holds while it runs. It lasts microseconds, and is lost if the host kills it just then: sockets
//! are found and closed later (`lost.rs`), memory that a killed call had allocated is not.

use crate::file::OpenFile;
use crate::hub::Hub;
use crate::task::Task;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::sync::Lock;

/// The notes of one thread.
#[derive(Default)]
pub struct Stay(Lock<Notes>);

#[derive(Default)]
struct Notes {
    hubs: Vec<*const Hub>,
    files: Vec<*const OpenFile>,
    counts: Vec<Count>,
}

/// A count of something in an `Arc`, and how it is given back.
#[derive(Clone, Copy)]
struct Count {
    of: *const (),
    drop: unsafe fn(*const ()),
}

impl Count {
    fn new<T>(of: &T) -> Count {
        /// Gives a count back.
        ///
        /// # Safety
        /// `of` is in an `Arc<T>`, of which the caller has a count.
        unsafe fn give_back<T>(of: *const ()) {
            // SAFETY: the caller's promise.
            drop(unsafe { Arc::from_raw(of.cast::<T>()) });
        }
        Count { of: core::ptr::from_ref(of).cast(), drop: give_back::<T> }
    }
}

// SAFETY: hubs and what is counted are Sync and lie in the arena. They live while they are noted (`Stay::registered`,
// `Stay::holds`), and are used under the lock or by whoever buries the thread.
unsafe impl Send for Notes {}

/// How many notes there were.
#[derive(Clone, Copy)]
pub struct Mark(usize, usize, usize);

impl Stay {
    /// The notes up to now, for [`Stay::strike`].
    pub fn mark(&self) -> Mark {
        let notes = self.0.lock();
        Mark(notes.hubs.len(), notes.files.len(), notes.counts.len())
    }

    /// The thread's waiter is in a hub now, which something keeps alive that the call holds, or that is never freed.
    pub fn registered(&self, hub: &Hub) {
        self.0.lock().hubs.push(hub);
    }

    /// The call has a count of its own of this open file, and will have it until the note is struck out.
    pub fn holds(&self, open: &OpenFile) {
        self.0.lock().files.push(open);
    }

    /// The same of anything.
    pub(crate) fn holds_count<T: Send + Sync>(&self, of: &Arc<T>) {
        self.0.lock().counts.push(Count::new(&**of));
    }

    /// Runs a call that may sleep and that has a count of its own of each of these all the while.
    pub fn holding<T>(&self, files: &[&OpenFile], call: impl FnOnce() -> T) -> T {
        let mark = self.mark();
        {
            let mut notes = self.0.lock();
            for &open in files {
                // Once: who called us may have noted it already, for the same count.
                if !notes.files.iter().any(|&noted| core::ptr::eq(noted, open)) {
                    notes.files.push(open);
                }
            }
        }
        let done = call();
        self.strike(mark);
        done
    }

    /// Calls `look` with every open file that is noted.
    pub(crate) fn each_file(&self, mut look: impl FnMut(&OpenFile)) {
        let notes = self.0.lock();
        // SAFETY: a count of it is held as long as it is noted, and it cannot be struck out under the lock.
        notes.files.iter().filter_map(|open| unsafe { open.as_ref() }).for_each(&mut look);
    }

    /// Forgets what was noted since.
    pub fn strike(&self, Mark(hubs, files, counts): Mark) {
        let mut notes = self.0.lock();
        notes.hubs.truncate(hubs);
        notes.files.truncate(files);
        notes.counts.truncate(counts);
    }
}

/// Lets go of what a call held in a host process that is gone. Can be done again, if who does it is killed too.
pub(crate) fn abandon(task: &Task) {
    let key = task.waiter.key();
    // All hubs before any count: it may be what keeps a hub.
    loop {
        let hub = task.stay.0.lock().hubs.last().copied();
        // SAFETY: noted, and what keeps it has not been let go of.
        let Some(hub) = hub.and_then(|hub| unsafe { hub.as_ref() }) else { break };
        hub.remove(key);
        task.stay.0.lock().hubs.pop();
    }
    loop {
        let open = task.stay.0.lock().files.pop();
        let Some(open) = open else { break };
        // SAFETY: the count that the dead call had (`holds`); nobody else gives it back.
        drop(unsafe { Arc::from_raw(open) });
    }
    loop {
        let count = task.stay.0.lock().counts.pop();
        let Some(count) = count else { break };
        // SAFETY: as above (`holds_count`).
        unsafe { (count.drop)(count.of) };
    }
}
