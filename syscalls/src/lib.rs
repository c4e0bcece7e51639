//! The Linux personality: what system calls mean. Both doors (libc and `syscall`) meet in [`call`].
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

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
