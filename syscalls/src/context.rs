//! Who calls: the thread and its process. Every handler gets a [`Ctx`] as its first argument.
//!
//! The scheduler's record of the running thread holds one pointer of ours ([`Task`]), so the context
//! costs two loads. It is valid for the length of the call: a thread cannot end while it is in one.

use crate::args::Fd;
use crate::file::OpenFile;
use crate::process::Process;
use crate::stay::InUse;
use crate::task::Task;
use crate::{Result, rt};
use alloc::sync::Arc;

/// The calling thread and its process.
#[derive(Clone, Copy)]
pub struct Ctx<'a> {
    /// The thread.
    pub task: &'a Task,
    /// Its process.
    pub process: &'a Arc<Process>,
}

impl Ctx<'static> {
    /// The context of the running thread. Its lifetime is a convenience: use it only within the call.
    ///
    /// # Panics
    /// If the thread was not started by this personality.
    #[inline]
    pub fn current() -> Ctx<'static> {
        Ctx::try_current().expect("the running thread belongs to the personality")
    }

    /// As [`Ctx::current`], or `None` on a thread without a task (a vCPU's own work).
    #[inline]
    pub fn try_current() -> Option<Ctx<'static>> {
        // SAFETY: `local` is null or the Arc<Task> that `Task::attach` put there, which the thread's
        // exit takes away as its last act; so it outlives every call of this thread.
        let task: &'static Task = unsafe { rt::local()?.cast::<Task>().as_ref() };
        Some(Ctx { task, process: &task.process })
    }
}

impl<'a> Ctx<'a> {
    /// The context of a given task, which is the running one.
    pub fn of(task: &'a Task) -> Ctx<'a> {
        Ctx { task, process: &task.process }
    }

    /// The description behind a descriptor, or EBADF.
    #[inline]
    pub fn file(&self, fd: Fd) -> Result<InUse<'a>> {
        Ok(self.task.stay.uses(self.process.fds.get(fd.0)?))
    }

    /// A new descriptor for a description: the lowest free number; EMFILE at RLIMIT_NOFILE.
    pub fn install(&self, open: Arc<OpenFile>, cloexec: bool) -> Result {
        let limit = self.process.limit(crate::process::RLIMIT_NOFILE);
        self.process.fds.insert(open, cloexec, limit).map(|fd| fd as usize)
    }
}
