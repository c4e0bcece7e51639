//! What a call holds, told to the rest of the family: places in hubs, open files, and other counts.
//!
//! A call that is killed with its host process (SIGKILL from the host) never comes back to let go of them: its stack
//! was private memory. A blocked reader would keep its pipe open for ever, and a dead thread in accept(2) would be
//! woken in a living one's place. So whatever a call holds while it sleeps is noted here, in the arena, and whoever
//! buries the process lets go of it ([`abandon`]).
//!
//! Notes are taken just before a sleep and struck out just after, as on a stack: calls nest, they do not overlap. Of the
//! descriptions behind its arguments a call tells all the while that it runs ([`InUse`]): two words of memory, written
//! without a lock.
//!
//! Left out: what else a call holds while it runs. It lasts microseconds, and is lost if the host kills it just then:
//! sockets are found and closed later (`lost.rs`), host descriptors too (`hands.rs`); memory that a killed call had
//! allocated is not.

use crate::file::OpenFile;
use crate::hub::Hub;
use crate::task::Task;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicPtr, Ordering};
use platform::sync::Lock;

/// The notes of one thread.
#[derive(Default)]
pub struct Stay {
    notes: Lock<Notes>,
    /// Descriptions that the running call uses, each with a count of its own. Only the thread itself writes here.
    uses: [AtomicPtr<OpenFile>; MOST_USED],
}

/// Descriptions that one call is given, but for those that wait for many (poll.rs has its own notes).
const MOST_USED: usize = 2;

/// A description that the running call uses.
pub struct InUse<'a> {
    open: ManuallyDrop<Arc<OpenFile>>,
    /// Where it stands; `None`: there was no room, and nobody else knows of this count.
    place: Option<&'a AtomicPtr<OpenFile>>,
}

impl core::ops::Deref for InUse<'_> {
    type Target = Arc<OpenFile>;

    #[inline]
    fn deref(&self) -> &Arc<OpenFile> {
        &self.open
    }
}

impl Drop for InUse<'_> {
    #[inline]
    fn drop(&mut self) {
        // First: after it the count is nobody else's to give back.
        if let Some(place) = self.place {
            place.store(core::ptr::null_mut(), Ordering::Release);
        }
        // SAFETY: not used again.
        unsafe { ManuallyDrop::drop(&mut self.open) };
    }
}

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
    /// The running call uses it, and has this count of it.
    #[inline]
    pub fn uses(&self, open: Arc<OpenFile>) -> InUse<'_> {
        let place = self.uses.iter().find(|place| place.load(Ordering::Relaxed).is_null());
        if let Some(place) = place {
            place.store(Arc::as_ptr(&open).cast_mut(), Ordering::Release);
        }
        InUse { open: ManuallyDrop::new(open), place }
    }

    /// The notes up to now, for [`Stay::strike`].
    pub fn mark(&self) -> Mark {
        let notes = self.notes.lock();
        Mark(notes.hubs.len(), notes.files.len(), notes.counts.len())
    }

    /// The thread's waiter is in a hub now, which something keeps alive that the call holds, or that is never freed.
    pub fn registered(&self, hub: &Hub) {
        self.notes.lock().hubs.push(hub);
    }

    /// The call has a count of its own of this open file, and will have it until the note is struck out.
    pub fn holds(&self, open: &OpenFile) {
        self.notes.lock().files.push(open);
    }

    /// The same of anything.
    pub(crate) fn holds_count<T: Send + Sync>(&self, of: &Arc<T>) {
        self.notes.lock().counts.push(Count::new(&**of));
    }

    /// Runs what has a count of its own of this all the while.
    pub(crate) fn holding_count<T: Send + Sync, R>(&self, of: &Arc<T>, run: impl FnOnce() -> R) -> R {
        let mark = self.mark();
        self.holds_count(of);
        let done = run();
        self.strike(mark);
        done
    }

    /// Runs a call that may sleep and that has a count of its own of each of these all the while.
    pub fn holding<T>(&self, files: &[&OpenFile], call: impl FnOnce() -> T) -> T {
        let mark = self.mark();
        {
            let mut notes = self.notes.lock();
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
        let notes = self.notes.lock();
        // SAFETY: a count of it is held as long as it is noted, and it cannot be struck out under the lock.
        notes.files.iter().filter_map(|open| unsafe { open.as_ref() }).for_each(&mut look);
    }

    /// Forgets what was noted since.
    pub fn strike(&self, Mark(hubs, files, counts): Mark) {
        let mut notes = self.notes.lock();
        notes.hubs.truncate(hubs);
        notes.files.truncate(files);
        notes.counts.truncate(counts);
    }
}

/// Lets go of what a call held in a host process that is gone. Can be done again, if who does it is killed too.
pub(crate) fn abandon(task: &Task) {
    let key = task.waiter.key();
    // Used and noted before a sleep, it is the same count.
    for place in &task.stay.uses {
        let open = place.swap(core::ptr::null_mut(), Ordering::AcqRel);
        let noted = task.stay.notes.lock().files.iter().any(|&noted| core::ptr::eq(noted, open));
        if !open.is_null() && !noted {
            // SAFETY: the count that the dead call had ([`InUse`]).
            drop(unsafe { Arc::from_raw(open) });
        }
    }
    // All hubs before any count: it may be what keeps a hub.
    loop {
        let hub = task.stay.notes.lock().hubs.last().copied();
        // SAFETY: noted, and what keeps it has not been let go of.
        let Some(hub) = hub.and_then(|hub| unsafe { hub.as_ref() }) else { break };
        hub.remove(key);
        task.stay.notes.lock().hubs.pop();
    }
    loop {
        let open = task.stay.notes.lock().files.pop();
        let Some(open) = open else { break };
        // SAFETY: the count that the dead call had (`holds`); nobody else gives it back.
        drop(unsafe { Arc::from_raw(open) });
    }
    loop {
        let count = task.stay.notes.lock().counts.pop();
        let Some(count) = count else { break };
        // SAFETY: as above (`holds_count`).
        unsafe { (count.drop)(count.of) };
    }
}
