//! The Linux personality: what system calls mean. Both doors (libc and `syscall`) meet in [`call`].
//!
//! THE table ([`table`]) names every call: number, name, typed arguments, handler, support level,
//! note. Handlers take the calling context and typed arguments and answer `Result<usize>`; nothing
//! here sleeps except in [`wait`]. Descriptors lead to an [`file::OpenFile`], whose behaviour is
//! a [`file::File`]: files never block either, they answer EAGAIN and tell a [`hub::Hub`] when that
//! changes.
//!
//! State is kernel state: in the shared arena, reached from one root, valid in every process of the
//! guest. A user pointer is only ever touched by the thread whose call brought it.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod fd;
pub mod file;
pub mod hub;

pub use platform::Errno;
/// What every handler answers: a value, or the error number for the program.
pub type Result<T = usize> = core::result::Result<T, Errno>;

/// Linux system call `number` with its six argument registers, by the raw convention: the answer is
/// the kernel's, -4095..=-1 for errors. Enters the kernel, traces, dispatches by the table, leaves
/// the kernel (delivers signals, gives way to other threads).
///
/// # Safety
/// Pointers among the arguments are the program's claims: calls that the table marks as such check
/// them; a wrong pointer gives EFAULT, as in Linux.
pub unsafe fn call(_number: usize, _args: [usize; 6]) -> isize {
    platform::Errno::ENOSYS.to_raw()
}
