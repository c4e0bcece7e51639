//! System V shared memory, semaphores and message queues.

use crate::types::*;
use crate::wrappers;
use platform::time::Timespec;

wrappers! { EXPORTS "libc.so.6":
    /// shmget(2).
    "GLIBC_2.2.5" plain shmget(key: c_int, size: usize, flags: c_int) -> c_int = shmget(key, size, flags);
    /// shmat(2).
    "GLIBC_2.2.5" plain shmat(id: c_int, address: *const c_void, flags: c_int) -> *mut c_void = shmat(id, address, flags);
    /// shmdt(2).
    "GLIBC_2.2.5" plain shmdt(address: *const c_void) -> c_int = shmdt(address);
    /// shmctl(2).
    "GLIBC_2.2.5" plain shmctl(id: c_int, command: c_int, buffer: *mut c_void) -> c_int = shmctl(id, command, buffer);
    /// semget(2).
    "GLIBC_2.2.5" plain semget(key: c_int, count: c_int, flags: c_int) -> c_int = semget(key, count, flags);
    /// semop(2).
    "GLIBC_2.2.5" plain semop(id: c_int, operations: *mut c_void, count: usize) -> c_int = semop(id, operations, count);
    /// semtimedop(2).
    "GLIBC_2.3.3" plain semtimedop(id: c_int, operations: *mut c_void, count: usize, timeout: *const Timespec) -> c_int
        = semtimedop(id, operations, count, timeout);
    /// semctl(2): the fourth argument is optional and ignored where it is not looked at.
    "GLIBC_2.2.5" plain semctl(id: c_int, number: c_int, command: c_int, argument: usize) -> c_int
        = semctl(id, number, command, argument);
    /// msgget(2).
    "GLIBC_2.2.5" plain msgget(key: c_int, flags: c_int) -> c_int = msgget(key, flags);
    /// msgsnd(2).
    "GLIBC_2.2.5" point msgsnd(id: c_int, message: *const c_void, len: usize, flags: c_int) -> c_int
        = msgsnd(id, message, len, flags);
    /// msgrcv(2).
    "GLIBC_2.2.5" point msgrcv(id: c_int, message: *mut c_void, len: usize, kind: c_long, flags: c_int) -> isize
        = msgrcv(id, message, len, kind, flags);
    /// msgctl(2).
    "GLIBC_2.2.5" plain msgctl(id: c_int, command: c_int, buffer: *mut c_void) -> c_int = msgctl(id, command, buffer);
}
