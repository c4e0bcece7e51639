//! <poll.h> and <sys/select.h>.

use crate::errno;
use crate::point;
use crate::types::*;
use crate::wrappers;
use platform::Errno;
use platform::time::Timespec;

wrappers! { EXPORTS "libc.so.6":
    /// poll(2).
    "GLIBC_2.2.5" point poll(fds: *mut c_void, count: c_ulong, timeout: c_int) -> c_int = poll(fds, count, timeout);
}

abi! { MORE "libc.so.6":
    /// ppoll(2): the kernel writes the time left; C's callers do not expect that.
    "GLIBC_2.4" fn ppoll(fds: *mut c_void, count: c_ulong, timeout: *const Timespec, mask: *const c_void) -> c_int {
        // SAFETY: the program's arguments, our own copy of the time.
        unsafe {
            let mut left = timeout.as_ref().copied();
            let left = left.as_mut().map_or(core::ptr::null_mut(), |t| &raw mut *t);
            errno::int(point!(ppoll, fds, count, left, mask, 8))
        }
    }
    /// select(2): writes the time left, as Linux does.
    "GLIBC_2.2.5" fn select(
        count: c_int, read: *mut c_void, write: *mut c_void, except: *mut c_void, timeout: *mut [i64; 2],
    ) -> c_int {
        // SAFETY: the program's arguments, our own copy of the time.
        unsafe {
            let mut left = match timeout.as_ref() {
                None => return errno::int(point!(pselect6, count, read, write, except, 0, 0)),
                Some(&[sec, usec]) if sec < 0 || usec < 0 => return errno::int(Err(Errno::EINVAL)),
                Some(&[sec, usec]) => {
                    Timespec { sec: sec.saturating_add(usec / 1_000_000), nsec: usec % 1_000_000 * 1000 }
                }
            };
            let result = point!(pselect6, count, read, write, except, &raw mut left, 0);
            timeout.write([left.sec, left.nsec / 1000]);
            errno::int(result)
        }
    }
    /// pselect(2).
    "GLIBC_2.2.5" fn pselect(
        count: c_int, read: *mut c_void, write: *mut c_void, except: *mut c_void, timeout: *const Timespec,
        mask: *const c_void,
    ) -> c_int {
        // SAFETY: the program's arguments; the kernel takes mask and length as a pair.
        unsafe {
            let mut left = timeout.as_ref().copied();
            let left = left.as_mut().map_or(core::ptr::null_mut(), |t| &raw mut *t);
            let pair = [mask as usize, 8];
            errno::int(point!(pselect6, count, read, write, except, left, pair.as_ptr()))
        }
    }
    /// poll(2) under _FORTIFY_SOURCE.
    "GLIBC_2.16" fn __poll_chk(fds: *mut c_void, count: c_ulong, timeout: c_int, room: usize) -> c_int {
        crate::unistd::check(count as usize, room / 8);
        // SAFETY: forwarded.
        unsafe { poll(fds, count, timeout) }
    }
    /// ppoll(2) under _FORTIFY_SOURCE.
    "GLIBC_2.16" fn __ppoll_chk(
        fds: *mut c_void, count: c_ulong, timeout: *const Timespec, mask: *const c_void, room: usize,
    ) -> c_int {
        crate::unistd::check(count as usize, room / 8);
        // SAFETY: forwarded.
        unsafe { ppoll(fds, count, timeout, mask) }
    }
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.2.5" "__poll" = poll;
    alias "GLIBC_2.2.5" "__select" = select;
}
