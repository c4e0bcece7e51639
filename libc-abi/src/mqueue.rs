//! POSIX message queues (mq_overview(7)): the kernel's, whose names lack the leading slash.
//! mq_notify with SIGEV_THREAD is refused with ENOSYS (it needs a netlink socket of the kernel's).

use crate::errno;
use crate::kcall;
use crate::types::*;
use crate::wrappers;
use platform::Errno;
use platform::time::Timespec;

const O_CREAT: c_int = 0o100;

abi! { EXPORTS "libc.so.6":
    /// mq_open(3): mode and attributes count only with O_CREAT.
    "GLIBC_2.34" fn mq_open(name: *const c_char, flags: c_int, mode: mode_t, attr: *const c_void) -> c_int {
        // SAFETY: the program's name.
        unsafe {
            if *name as u8 != b'/' {
                return errno::int(Err(Errno::EINVAL));
            }
            let (mode, attr) = if flags & O_CREAT != 0 { (mode, attr) } else { (0, core::ptr::null()) };
            errno::int(kcall!(mq_open, name.add(1), flags, mode, attr))
        }
    }
    /// mq_open(3) under _FORTIFY_SOURCE: without a mode.
    "GLIBC_2.34" fn __mq_open_2(name: *const c_char, flags: c_int) -> c_int {
        if flags & O_CREAT != 0 {
            crate::start::fatal("*** invalid mq_open call: O_CREAT without mode and attr ***: terminated\n");
        }
        // SAFETY: forwarded.
        unsafe { mq_open(name, flags, 0, core::ptr::null()) }
    }
    /// mq_unlink(3).
    "GLIBC_2.34" fn mq_unlink(name: *const c_char) -> c_int {
        // SAFETY: the program's name.
        unsafe {
            if *name as u8 != b'/' {
                return errno::int(Err(Errno::EINVAL));
            }
            match kcall!(mq_unlink, name.add(1)) {
                Err(Errno::EPERM) => errno::int(Err(Errno::EACCES)),
                result => errno::int(result),
            }
        }
    }
    /// mq_notify(3).
    "GLIBC_2.34" fn mq_notify(queue: c_int, event: *const crate::posix_timers::SigEvent) -> c_int {
        const SIGEV_THREAD: c_int = 2;
        // SAFETY: the program's event.
        unsafe {
            if event.as_ref().is_some_and(|event| event.notify == SIGEV_THREAD) {
                return errno::int(Err(Errno::ENOSYS));
            }
            errno::int(kcall!(mq_notify, queue, event))
        }
    }
}

wrappers! { MORE "libc.so.6":
    /// mq_close(3).
    "GLIBC_2.34" plain mq_close(queue: c_int) -> c_int = close(queue);
    /// mq_getattr(3).
    "GLIBC_2.34" plain mq_getattr(queue: c_int, to: *mut c_void) -> c_int = mq_getsetattr(queue, 0, to);
    /// mq_setattr(3).
    "GLIBC_2.34" plain mq_setattr(queue: c_int, new: *const c_void, old: *mut c_void) -> c_int
        = mq_getsetattr(queue, new, old);
    /// mq_send(3).
    "GLIBC_2.34" point mq_send(queue: c_int, from: *const c_char, len: usize, priority: c_uint) -> c_int
        = mq_timedsend(queue, from, len, priority, 0);
    /// mq_timedsend(3).
    "GLIBC_2.34" point mq_timedsend(
        queue: c_int, from: *const c_char, len: usize, priority: c_uint, at: *const Timespec,
    ) -> c_int = mq_timedsend(queue, from, len, priority, at);
    /// mq_receive(3).
    "GLIBC_2.34" point mq_receive(queue: c_int, to: *mut c_char, len: usize, priority: *mut c_uint) -> isize
        = mq_timedreceive(queue, to, len, priority, 0);
    /// mq_timedreceive(3).
    "GLIBC_2.34" point mq_timedreceive(
        queue: c_int, to: *mut c_char, len: usize, priority: *mut c_uint, at: *const Timespec,
    ) -> isize = mq_timedreceive(queue, to, len, priority, at);
}
