//! What processes share by name or number: POSIX message queues, System V objects, FIFOs, terminals.
//!
//! [`Ipc`] is the guest's part, reached from the root; [`Own`] a process's: what `fork` copies and what
//! the end of a process gives back. Both lie in the arena and hold no address of a process's memory.

use crate::process::{Process, root};
use crate::{fifo, maps, mqueue, sysv, tty};

/// The guest's objects.
#[derive(Default)]
pub struct Ipc {
    /// POSIX message queues by name.
    pub queues: mqueue::Names,
    /// System V shared memory.
    pub segments: sysv::shm::Segments,
    /// System V semaphore sets.
    pub semaphores: sysv::sem::Sets,
    /// System V message queues.
    pub messages: sysv::msg::Queues,
    /// FIFOs that are open, by inode.
    pub fifos: fifo::Table,
    /// Terminals, and which session has which.
    pub terminals: tty::Terminals,
    /// Numbers of anonymous shared memory.
    pub numbers: maps::Numbers,
}

/// A process's part.
#[derive(Default)]
pub struct Own {
    /// Which of its memory is shared, and with whom.
    pub maps: maps::Maps,
    /// What semop(2) with SEM_UNDO gives back at the end.
    pub undo: sysv::sem::Undo,
}

impl Own {
    /// fork(2): shared mappings are inherited (and attached segments counted), undo is not (semop(2)).
    pub fn fork(&self) -> Own {
        Own { maps: self.maps.fork(), undo: sysv::sem::Undo::default() }
    }
}

/// execve(2): the memory is gone, undo values stay (semop(2)).
pub fn executed(process: &Process) {
    process.ipc.maps.clear();
    mqueue::forget_notifications(process.pid);
}

/// A process ends: by its last thread, or carried out by another one if its host process is gone. Before
/// its descriptors are closed.
pub fn exited(process: &Process) {
    mqueue::forget_notifications(process.pid);
    sysv::sem::give_back(process);
    process.ipc.maps.clear();
    tty::process_ends(process);
}

/// The guest's objects.
pub fn all() -> &'static Ipc {
    &root().ipc
}
