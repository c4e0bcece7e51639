//! POSIX message queues (mq_overview(7)): the kernel's, whose names lack the leading slash.
//!
//! mq_notify with SIGEV_THREAD: the personality writes a cookie to a pipe when a message has come; a helper
//! thread of ours waits for it and starts the program's function in a thread. (glibc's way, a netlink
//! socket, would need the kernel's.) The helper ends with its registration: the pipe's other end closes.

use crate::errno;
use crate::kcall;
use crate::malloc::imp;
use crate::posix_timers::{SigEvent, start, start_job};
use crate::pthread::attr::Attr;
use crate::types::*;
use crate::wrappers;
use platform::Errno;
use platform::time::Timespec;

const O_CREAT: c_int = 0o100;
const O_CLOEXEC: usize = 0o2_000_000;
/// `NOTIFY_COOKIE_LEN`; its last byte says what happened, 1 that a message came.
const COOKIE: usize = 32;

/// What the helper thread of a registration needs.
struct Waiting {
    pipe: c_int,
    function: usize,
    value: *mut c_void,
    attributes: Option<Attr>,
}

/// Registers, and starts the helper.
unsafe fn notify_by_thread(queue: c_int, event: &SigEvent) -> Result<usize, Errno> {
    let mut ends = [0 as c_int; 2];
    // SAFETY: our own memory; the record is the helper's once it runs.
    unsafe {
        kcall!(pipe2, ends.as_mut_ptr(), O_CLOEXEC)?;
        let [reading, writing] = ends;
        let attributes = event.attributes.as_ref().map(|given| core::ptr::from_ref(given).read());
        let waiting: *mut Waiting = imp::malloc(size_of::<Waiting>()).cast();
        let result = if waiting.is_null() {
            Err(Errno::ENOMEM)
        } else {
            let (function, value) = (event.function, event.value);
            waiting.write(Waiting { pipe: reading, function, value, attributes });
            register(queue, event, writing, waiting)
        };
        // The personality has its own reference; without one the helper reads the end.
        let _ = kcall!(close, writing);
        if result.is_err() {
            imp::free(waiting.cast());
            let _ = kcall!(close, reading);
        }
        result
    }
}

unsafe fn register(
    queue: c_int,
    event: &SigEvent,
    pipe: c_int,
    waiting: *mut Waiting,
) -> Result<usize, Errno> {
    let cookie = [0u8; COOKIE];
    let asked = SigEvent { value: cookie.as_ptr().cast_mut().cast(), signal: pipe, ..*event };
    // SAFETY: our own structs. The registration goes first: a helper for nothing would be left else.
    unsafe {
        let done = kcall!(mq_notify, queue, &raw const asked)?;
        if let Err(errno) = start(wait_for_message as *const (), waiting.cast(), None) {
            let _ = kcall!(mq_notify, queue, 0);
            return Err(errno);
        }
        Ok(done)
    }
}

unsafe extern "C" fn wait_for_message(waiting: *mut c_void) -> *mut c_void {
    let mut cookie = [0u8; COOKIE];
    // SAFETY: the record that `notify_by_thread` made for this thread.
    unsafe {
        let record = waiting.cast::<Waiting>().read();
        imp::free(waiting);
        let got = kcall!(read, record.pipe, cookie.as_mut_ptr(), COOKIE);
        let _ = kcall!(close, record.pipe);
        if got == Ok(COOKIE) && cookie[COOKIE - 1] == 1 {
            start_job(record.function, record.value, record.attributes.as_ref());
        }
    }
    core::ptr::null_mut()
}

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
    "GLIBC_2.34" fn mq_notify(queue: c_int, event: *const SigEvent) -> c_int {
        const SIGEV_THREAD: c_int = 2;
        // SAFETY: the program's event.
        unsafe {
            match event.as_ref() {
                Some(event) if event.notify == SIGEV_THREAD => errno::int(notify_by_thread(queue, event)),
                _ => errno::int(kcall!(mq_notify, queue, event)),
            }
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
