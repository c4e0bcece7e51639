//! <sys/epoll.h>, <sys/eventfd.h>, <sys/timerfd.h>, <sys/signalfd.h>, <sys/inotify.h>, <sys/fanotify.h>:
//! descriptors that tell of events.

use crate::point;
use crate::types::*;
use crate::wrappers;
use platform::time::Timespec;

wrappers! { EXPORTS "libc.so.6":
    /// epoll_create(2).
    "GLIBC_2.3.2" plain epoll_create(size: c_int) -> c_int = epoll_create(size);
    /// epoll_create1(2).
    "GLIBC_2.9" plain epoll_create1(flags: c_int) -> c_int = epoll_create1(flags);
    /// epoll_ctl(2).
    "GLIBC_2.3.2" plain epoll_ctl(epoll: c_int, operation: c_int, fd: c_int, event: *mut c_void) -> c_int
        = epoll_ctl(epoll, operation, fd, event);
    /// epoll_wait(2).
    "GLIBC_2.3.2" point epoll_wait(epoll: c_int, events: *mut c_void, most: c_int, timeout: c_int) -> c_int
        = epoll_wait(epoll, events, most, timeout);
    /// epoll_pwait(2).
    "GLIBC_2.6" point epoll_pwait(epoll: c_int, events: *mut c_void, most: c_int, timeout: c_int, mask: *const c_void)
        -> c_int = epoll_pwait(epoll, events, most, timeout, mask, 8);
    /// epoll_pwait2(2).
    "GLIBC_2.35" point epoll_pwait2(
        epoll: c_int, events: *mut c_void, most: c_int, timeout: *const Timespec, mask: *const c_void,
    ) -> c_int = epoll_pwait2(epoll, events, most, timeout, mask, 8);
    /// eventfd(2).
    "GLIBC_2.7" plain eventfd(initial: c_uint, flags: c_int) -> c_int = eventfd2(initial, flags);
    /// timerfd_create(2).
    "GLIBC_2.8" plain timerfd_create(clock: c_int, flags: c_int) -> c_int = timerfd_create(clock, flags);
    /// timerfd_settime(2).
    "GLIBC_2.8" plain timerfd_settime(fd: c_int, flags: c_int, new: *const c_void, old: *mut c_void) -> c_int
        = timerfd_settime(fd, flags, new, old);
    /// timerfd_gettime(2).
    "GLIBC_2.8" plain timerfd_gettime(fd: c_int, to: *mut c_void) -> c_int = timerfd_gettime(fd, to);
    /// signalfd(2).
    "GLIBC_2.7" plain signalfd(fd: c_int, mask: *const c_void, flags: c_int) -> c_int = signalfd4(fd, mask, 8, flags);
    /// inotify_init(2).
    "GLIBC_2.4" plain inotify_init() -> c_int = inotify_init1(0);
    /// inotify_init1(2).
    "GLIBC_2.9" plain inotify_init1(flags: c_int) -> c_int = inotify_init1(flags);
    /// inotify_add_watch(2).
    "GLIBC_2.4" plain inotify_add_watch(fd: c_int, path: *const c_char, mask: u32) -> c_int
        = inotify_add_watch(fd, path, mask);
    /// inotify_rm_watch(2).
    "GLIBC_2.4" plain inotify_rm_watch(fd: c_int, watch: c_int) -> c_int = inotify_rm_watch(fd, watch);
    /// fanotify_init(2).
    "GLIBC_2.13" plain fanotify_init(flags: c_uint, event_flags: c_uint) -> c_int = fanotify_init(flags, event_flags);
    /// fanotify_mark(2).
    "GLIBC_2.13" plain fanotify_mark(fd: c_int, flags: c_uint, mask: u64, dir: c_int, path: *const c_char) -> c_int
        = fanotify_mark(fd, flags, mask, dir, path);
}

abi! { MORE "libc.so.6":
    /// eventfd_read(3).
    "GLIBC_2.7" fn eventfd_read(fd: c_int, value: *mut u64) -> c_int {
        // SAFETY: the program's word.
        if unsafe { point!(read, fd, value, 8) }.map_err(crate::errno::set) == Ok(8) { 0 } else { -1 }
    }
    /// eventfd_write(3).
    "GLIBC_2.7" fn eventfd_write(fd: c_int, value: u64) -> c_int {
        // SAFETY: our own word.
        if unsafe { point!(write, fd, &raw const value, 8) }.map_err(crate::errno::set) == Ok(8) { 0 } else { -1 }
    }
}
