//! <aio.h>: asynchronous input and output by threads, as glibc does it.
//!
//! Requests stand in one list, in the order of their submission. A worker takes the first one that has
//! no earlier request on its descriptor, so that those of one descriptor happen one after another and
//! aio_fsync means what came before it. Workers come on demand and leave after a second without work.
//! Completion is a step of one sequence number; aio_suspend and lio_listio sleep on it.
//!
//! Left out: priorities (`aio_reqprio` is checked, then ignored).

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::errno;
use crate::futex::{self, Clock, Deadline, Lock, Scope};
use crate::kcall;
use crate::malloc::imp;
use crate::posix_timers::{SIGEV_THREAD, SigEvent, start, start_job};
use crate::pthread::cancel;
use crate::types::*;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use platform::Errno;
use platform::time::{Timespec, now};

/// `struct aiocb`: 168 bytes.
#[repr(C)]
pub struct Aiocb {
    fd: c_int,
    opcode: c_int,
    priority: c_int,
    buffer: *mut c_void,
    length: usize,
    event: SigEvent,
    internal: [usize; 2],
    error: AtomicI32,
    result: isize,
    offset: off_t,
    reserved: [u8; 32],
}

const _: () = assert!(size_of::<Aiocb>() == 168 && core::mem::offset_of!(Aiocb, error) == 112);
const _: () = assert!(core::mem::offset_of!(Aiocb, offset) == 128);

const LIO_READ: c_int = 0;
const LIO_WRITE: c_int = 1;
const LIO_NOP: c_int = 2;
const LIO_WAIT: c_int = 0;
const LIO_NOWAIT: c_int = 1;
const AIO_CANCELED: c_int = 0;
const AIO_NOTCANCELED: c_int = 1;
const AIO_ALLDONE: c_int = 2;
const O_SYNC: c_int = 0o4_010_000;
const O_DSYNC: c_int = 0o10_000;
/// AIO_PRIO_DELTA_MAX.
const PRIORITY_MAX: c_int = 20;
const SIGEV_SIGNAL: c_int = 0;
const SIGEV_NONE: c_int = 1;
const IDLE_NS: u64 = 1_000_000_000;

#[derive(Clone, Copy)]
enum Work {
    Read,
    Write,
    Sync,
    DataSync,
}

struct Request {
    next: *mut Request,
    block: *mut Aiocb,
    fd: c_int,
    work: Work,
    is_running: bool,
    /// Whether the block's own event is sent (old lio_listio does not).
    tells: bool,
    group: *mut Group,
}

/// The requests of one lio_listio call.
struct Group {
    /// Not yet done, and one for the caller while it submits.
    left: AtomicU32,
    /// LIO_NOWAIT: what to send at the end; the group is on the heap then.
    event: Option<SigEvent>,
}

struct Queue {
    pid: c_int,
    first: *mut Request,
    threads: usize,
    idle: usize,
}

// SAFETY: reached under the lock.
unsafe impl Send for Queue {}
static QUEUE: Lock<Queue> = Lock::new(Queue { pid: 0, first: null_mut(), threads: 0, idle: 0 });
/// Steps with each new runnable request: workers sleep on it.
static WORK: AtomicU32 = AtomicU32::new(0);
/// Steps with each completion.
static DONE: AtomicU32 = AtomicU32::new(0);
/// As glibc's default.
static THREADS_MAX: AtomicU32 = AtomicU32::new(20);

abi! { EXPORTS "libc.so.6":
    /// aio_read(3).
    "GLIBC_2.34" fn aio_read(block: *mut Aiocb) -> c_int {
        errno::int(submit(block, Work::Read, true, null_mut()))
    }
    /// aio_write(3).
    "GLIBC_2.34" fn aio_write(block: *mut Aiocb) -> c_int {
        errno::int(submit(block, Work::Write, true, null_mut()))
    }
    /// aio_fsync(3).
    "GLIBC_2.34" fn aio_fsync(operation: c_int, block: *mut Aiocb) -> c_int {
        const F_GETFL: usize = 3;
        const O_ACCMODE: usize = 3;
        let work = match operation {
            O_SYNC => Work::Sync,
            O_DSYNC => Work::DataSync,
            _ => return errno::int(Err(Errno::EINVAL)),
        };
        match kcall!(fcntl, (*block).fd, F_GETFL, 0) {
            Ok(flags) if flags & O_ACCMODE != 0 => errno::int(submit(block, work, true, null_mut())),
            _ => errno::int(Err(Errno::EBADF)),
        }
    }
    /// aio_error(3).
    "GLIBC_2.34" fn aio_error(block: *const Aiocb) -> c_int {
        (*block).error.load(Ordering::Acquire)
    }
    /// aio_return(3).
    "GLIBC_2.34" fn aio_return(block: *mut Aiocb) -> isize {
        (*block).result
    }
    /// aio_suspend(3).
    "GLIBC_2.34" fn aio_suspend(list: *const *const Aiocb, count: c_int, timeout: *const Timespec) -> c_int {
        errno::int(suspend(core::slice::from_raw_parts(list, count.max(0) as usize), timeout.as_ref()).map(|()| 0))
    }
    /// aio_cancel(3).
    "GLIBC_2.34" fn aio_cancel(fd: c_int, block: *mut Aiocb) -> c_int {
        errno::int(withdraw(fd, block))
    }
    /// lio_listio(3).
    "GLIBC_2.34" fn lio_listio(
        mode: c_int, list: *const *mut Aiocb, count: c_int, event: *const SigEvent,
    ) -> c_int {
        errno::int(submit_list(mode, core::slice::from_raw_parts(list, count.max(0) as usize), event, true))
    }
    /// aio_init(3): GNU's hint; its first field is the number of threads.
    "GLIBC_2.34" fn aio_init(hint: *const c_int) {
        THREADS_MAX.store((*hint).max(1) as u32, Ordering::Relaxed);
    }
}

/// lio_listio before 2.4: the blocks' own events are not sent.
pub unsafe extern "C" fn old_lio_listio(
    mode: c_int,
    list: *const *mut Aiocb,
    count: c_int,
    event: *const SigEvent,
) -> c_int {
    errno::int(submit_list(mode, core::slice::from_raw_parts(list, count.max(0) as usize), event, false))
}

exports! { ROWS "libc.so.6":
    alias "GLIBC_2.34" "aio_read64" = aio_read;
    alias "GLIBC_2.34" "aio_write64" = aio_write;
    alias "GLIBC_2.34" "aio_fsync64" = aio_fsync;
    alias "GLIBC_2.34" "aio_error64" = aio_error;
    alias "GLIBC_2.34" "aio_return64" = aio_return;
    alias "GLIBC_2.34" "aio_suspend64" = aio_suspend;
    alias "GLIBC_2.34" "aio_cancel64" = aio_cancel;
    alias "GLIBC_2.34" "lio_listio64" = lio_listio;
    compat "GLIBC_2.2.5" "aio_read" = aio_read;
    compat "GLIBC_2.2.5" "aio_read64" = aio_read;
    compat "GLIBC_2.2.5" "aio_write" = aio_write;
    compat "GLIBC_2.2.5" "aio_write64" = aio_write;
    compat "GLIBC_2.2.5" "aio_fsync" = aio_fsync;
    compat "GLIBC_2.2.5" "aio_fsync64" = aio_fsync;
    compat "GLIBC_2.2.5" "aio_error" = aio_error;
    compat "GLIBC_2.2.5" "aio_error64" = aio_error;
    compat "GLIBC_2.2.5" "aio_return" = aio_return;
    compat "GLIBC_2.2.5" "aio_return64" = aio_return;
    compat "GLIBC_2.2.5" "aio_suspend" = aio_suspend;
    compat "GLIBC_2.2.5" "aio_suspend64" = aio_suspend;
    compat "GLIBC_2.2.5" "aio_cancel" = aio_cancel;
    compat "GLIBC_2.2.5" "aio_cancel64" = aio_cancel;
    compat "GLIBC_2.2.5" "aio_init" = aio_init;
    compat "GLIBC_2.4" "lio_listio" = lio_listio;
    compat "GLIBC_2.4" "lio_listio64" = lio_listio;
    compat "GLIBC_2.2.5" "lio_listio" = old_lio_listio;
    compat "GLIBC_2.2.5" "lio_listio64" = old_lio_listio;
}

// ---- submission --------------------------------------------------------------------------------

unsafe fn submit(block: *mut Aiocb, work: Work, tells: bool, group: *mut Group) -> Result<usize, Errno> {
    let refuse = |errno: Errno| {
        (*block).result = -1;
        (*block).error.store(errno.0, Ordering::Release);
        Err(errno)
    };
    let is_transfer = matches!(work, Work::Read | Work::Write);
    if is_transfer && !(0..=PRIORITY_MAX).contains(&(*block).priority) {
        return refuse(Errno::EINVAL);
    }
    let request: *mut Request = imp::malloc(size_of::<Request>()).cast();
    if request.is_null() {
        return refuse(Errno::EAGAIN);
    }
    let fd = (*block).fd;
    request.write(Request { next: null_mut(), block, fd, work, is_running: false, tells, group });
    (*block).error.store(Errno::EINPROGRESS.0, Ordering::Release);
    let mut queue = QUEUE.lock();
    queue.adopt_process();
    let link = queue.link_to(null_mut());
    *link = request;
    let is_first = queue.threads == 0;
    if queue.idle == 0 && queue.threads < THREADS_MAX.load(Ordering::Relaxed) as usize {
        match start(work_on as *const (), null_mut(), None) {
            Ok(()) => queue.threads += 1,
            // Nobody will do it.
            Err(_) if queue.threads == 0 => {
                *queue.link_to(request) = null_mut();
                drop(queue);
                imp::free(request.cast());
                return refuse(Errno::EAGAIN);
            }
            Err(_) => {}
        }
    }
    drop(queue);
    call_worker();
    if is_first {
        // The first worker shares the caller's vCPU: it gets a request under way now, as one on another CPU would.
        let _ = kcall!(sched_yield);
    }
    Ok(0)
}

fn call_worker() {
    WORK.fetch_add(1, Ordering::SeqCst);
    futex::wake(&WORK, 1, Scope::Private);
}

impl Queue {
    /// A forked child has neither the requests nor the threads (aio_read(3p)).
    unsafe fn adopt_process(&mut self) {
        let pid = kcall!(getpid).unwrap_or(0) as c_int;
        if self.pid != pid {
            *self = Queue { pid, first: null_mut(), threads: 0, idle: 0 };
        }
    }

    /// The link that holds `request`; for null the last one.
    unsafe fn link_to(&mut self, request: *mut Request) -> *mut *mut Request {
        let mut link = &raw mut self.first;
        while *link != request && !(*link).is_null() {
            link = &raw mut (**link).next;
        }
        link
    }

    /// The first request that nothing earlier on its descriptor holds up.
    unsafe fn runnable(&self) -> Option<*mut Request> {
        let mut at = self.first;
        while let Some(request) = at.as_ref() {
            if !request.is_running && !self.has_before(at, request.fd) {
                return Some(at);
            }
            at = request.next;
        }
        None
    }

    unsafe fn has_before(&self, end: *const Request, fd: c_int) -> bool {
        let mut at = self.first;
        while !core::ptr::eq(at, end) {
            if (*at).fd == fd {
                return true;
            }
            at = (*at).next;
        }
        false
    }
}

// ---- workers -----------------------------------------------------------------------------------

unsafe extern "C" fn work_on(_: *mut c_void) -> *mut c_void {
    let mut queue = QUEUE.lock();
    loop {
        let seen = WORK.load(Ordering::SeqCst);
        if let Some(request) = queue.runnable() {
            (*request).is_running = true;
            drop(queue);
            let result = perform(&*request);
            queue = QUEUE.lock();
            let link = queue.link_to(request);
            *link = (*request).next;
            drop(queue);
            finish(request, result);
            queue = QUEUE.lock();
            continue;
        }
        queue.idle += 1;
        drop(queue);
        let until = Deadline { clock: Clock::Monotonic, at: Timespec::from_ns(now().after(IDLE_NS).0) };
        let waited = futex::wait(&WORK, seen, Scope::Private, Some(until));
        queue = QUEUE.lock();
        queue.idle -= 1;
        if waited == Err(Errno::ETIMEDOUT) && queue.runnable().is_none() {
            queue.threads -= 1;
            return null_mut();
        }
    }
}

unsafe fn perform(request: &Request) -> Result<usize, Errno> {
    let block = request.block;
    let (fd, buffer, length, offset) = (request.fd, (*block).buffer, (*block).length, (*block).offset);
    loop {
        let result = match request.work {
            Work::Read => match kcall!(pread64, fd, buffer, length, offset) {
                // No position: a pipe or a socket.
                Err(Errno::ESPIPE) => kcall!(read, fd, buffer, length),
                other => other,
            },
            Work::Write => match kcall!(pwrite64, fd, buffer, length, offset) {
                Err(Errno::ESPIPE) => kcall!(write, fd, buffer, length),
                other => other,
            },
            Work::Sync => kcall!(fsync, fd),
            Work::DataSync => kcall!(fdatasync, fd),
        };
        if result != Err(Errno::EINTR) {
            return result;
        }
    }
}

/// Makes a result known. The block is the program's again as soon as its error is stored.
unsafe fn finish(request: *mut Request, result: Result<usize, Errno>) {
    let Request { block, tells, group, .. } = request.read();
    imp::free(request.cast());
    let event = (*block).event;
    (*block).result = result.map_or(-1, |count| count as isize);
    (*block).error.store(result.map_or_else(|errno| errno.0, |_| 0), Ordering::Release);
    if tells {
        tell(&event);
    }
    DONE.fetch_add(1, Ordering::SeqCst);
    futex::wake(&DONE, u32::MAX, Scope::Private);
    if !group.is_null() {
        leave(group);
    }
    // The descriptor's next request may have waited for this one.
    call_worker();
}

/// One request of a group less; the last one tells.
unsafe fn leave(group: *mut Group) {
    // A waiter's group lies on its stack and may be gone after the step: what is needed is read before.
    let event = (*group).event;
    if (*group).left.fetch_sub(1, Ordering::SeqCst) != 1 {
        return;
    }
    match event {
        Some(event) => {
            tell(&event);
            imp::free(group.cast());
        }
        None => {
            // lio_listio waits on the sequence, which outlives its frame.
            DONE.fetch_add(1, Ordering::SeqCst);
            futex::wake(&DONE, u32::MAX, Scope::Private);
        }
    }
}

unsafe fn tell(event: &SigEvent) {
    const SI_ASYNCIO: i32 = -4;
    /// `siginfo_t` as far as it is used.
    #[repr(C)]
    struct Info {
        head: [i32; 4],
        pid: i32,
        uid: u32,
        value: *mut c_void,
        rest: [u64; 12],
    }
    match event.notify {
        SIGEV_SIGNAL => {
            let pid = kcall!(getpid).unwrap_or(0) as i32;
            let uid = kcall!(getuid).unwrap_or(0) as u32;
            let info =
                Info { head: [event.signal, 0, SI_ASYNCIO, 0], pid, uid, value: event.value, rest: [0; 12] };
            let _ = kcall!(rt_sigqueueinfo, pid, event.signal, &raw const info);
        }
        SIGEV_THREAD => start_job(event.function, event.value, event.attributes.as_ref()),
        _ => {}
    }
}

// ---- waiting, cancelling, lists ----------------------------------------------------------------

/// Sleeps until `is_done`. Completions step the sequence after they store their result.
unsafe fn wait_for(is_done: impl Fn() -> bool, until: Option<Deadline>) -> Result<(), Errno> {
    loop {
        let seen = DONE.load(Ordering::SeqCst);
        if is_done() {
            return Ok(());
        }
        match futex::wait_cancellable(&DONE, seen, Scope::Private, until) {
            Ok(()) | Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(errno),
        }
    }
}

unsafe fn suspend(list: &[*const Aiocb], timeout: Option<&Timespec>) -> Result<(), Errno> {
    let until = match timeout {
        Some(time) if !(0..1_000_000_000).contains(&time.nsec) => return Err(Errno::EINVAL),
        Some(time) => {
            let at = Timespec::from_ns(now().after(time.to_ns()).0);
            Some(Deadline { clock: Clock::Monotonic, at })
        }
        None => None,
    };
    let is_done = |block: &*const Aiocb| {
        !block.is_null() && (**block).error.load(Ordering::Acquire) != Errno::EINPROGRESS.0
    };
    cancel::test();
    let result = wait_for(|| list.iter().any(is_done), until);
    match result {
        Err(Errno::ETIMEDOUT) => Err(Errno::EAGAIN),
        Err(Errno::EINTR) => {
            cancel::test();
            Err(Errno::EINTR)
        }
        other => other,
    }
}

unsafe fn withdraw(fd: c_int, block: *mut Aiocb) -> Result<usize, Errno> {
    const F_GETFL: usize = 3;
    kcall!(fcntl, fd, F_GETFL, 0).map_err(|_| Errno::EBADF)?;
    if !block.is_null() && (*block).fd != fd {
        return Err(Errno::EINVAL);
    }
    let mut answer = AIO_ALLDONE;
    let mut removed: *mut Request = null_mut();
    {
        let mut queue = QUEUE.lock();
        queue.adopt_process();
        let mut link = &raw mut queue.first;
        while let Some(request) = (*link).as_mut() {
            let is_meant = if block.is_null() { request.fd == fd } else { request.block == block };
            if is_meant && request.is_running {
                answer = AIO_NOTCANCELED;
            } else if is_meant {
                let taken = *link;
                *link = request.next;
                request.next = removed;
                removed = taken;
                if answer == AIO_ALLDONE {
                    answer = AIO_CANCELED;
                }
                continue;
            }
            link = &raw mut (**link).next;
        }
    }
    while !removed.is_null() {
        let next = (*removed).next;
        finish(removed, Err(Errno::ECANCELED));
        removed = next;
    }
    Ok(answer as usize)
}

unsafe fn submit_list(
    mode: c_int,
    list: &[*mut Aiocb],
    event: *const SigEvent,
    tells: bool,
) -> Result<usize, Errno> {
    if !matches!(mode, LIO_WAIT | LIO_NOWAIT) {
        return Err(Errno::EINVAL);
    }
    let waits = mode == LIO_WAIT;
    let mut here = Group { left: AtomicU32::new(1), event: None };
    let group = if waits {
        &raw mut here
    } else {
        let group: *mut Group = imp::malloc(size_of::<Group>()).cast();
        if group.is_null() {
            return Err(Errno::EAGAIN);
        }
        let silent = SigEvent { notify: SIGEV_NONE, ..core::mem::zeroed() };
        let event = event.as_ref().copied().unwrap_or(silent);
        group.write(Group { left: AtomicU32::new(1), event: Some(event) });
        group
    };
    let mut failed = false;
    for &block in list.iter().filter(|block| !block.is_null() && (***block).opcode != LIO_NOP) {
        let work = match (*block).opcode {
            LIO_READ => Work::Read,
            LIO_WRITE => Work::Write,
            _ => {
                (*block).result = -1;
                (*block).error.store(Errno::EINVAL.0, Ordering::Release);
                failed = true;
                continue;
            }
        };
        (*group).left.fetch_add(1, Ordering::SeqCst);
        if submit(block, work, tells, group).is_err() {
            (*group).left.fetch_sub(1, Ordering::SeqCst);
            failed = true;
        }
    }
    if !waits {
        leave(group);
        return if failed { Err(Errno::EIO) } else { Ok(0) };
    }
    here.left.fetch_sub(1, Ordering::SeqCst);
    let all_done = || here.left.load(Ordering::SeqCst) == 0;
    // The group is on this stack: a signal ends the wait only after all requests have left it.
    let mut interrupted = false;
    while let Err(errno) = wait_for(all_done, None) {
        if errno != Errno::EINTR {
            return Err(errno);
        }
        interrupted = true;
        if cancel::is_pending() {
            break;
        }
    }
    while !all_done() {
        let seen = DONE.load(Ordering::SeqCst);
        if !all_done() {
            let _ = futex::wait(&DONE, seen, Scope::Private, None);
        }
    }
    if interrupted {
        cancel::test();
    }
    failed |= list.iter().any(|&block| {
        !block.is_null() && (*block).opcode != LIO_NOP && (*block).error.load(Ordering::Acquire) != 0
    });
    if failed { Err(Errno::EIO) } else { Ok(0) }
}

/// The lock, for fork(2).
pub(crate) fn fork_lock() -> &'static crate::futex::RawLock {
    QUEUE.raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    fn block(fd: c_int, buffer: &mut [u8], offset: i64, opcode: c_int) -> Aiocb {
        // SAFETY: all-zero is a block; SIGEV_NONE tells nobody.
        let mut block: Aiocb = unsafe { core::mem::zeroed() };
        (block.fd, block.opcode, block.offset) = (fd, opcode, offset);
        (block.buffer, block.length) = (buffer.as_mut_ptr().cast(), buffer.len());
        block.event.notify = SIGEV_NONE;
        block
    }

    #[test]
    fn writes_then_reads_and_lists() {
        let path = std::format!("/tmp/attacca-aio-{}", std::process::id());
        let file =
            std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        let fd = file.as_raw_fd();
        let (mut a, mut b, mut back) = (*b"hello ", *b"world!", [0u8; 12]);
        let (mut w, mut v) = (block(fd, &mut a, 0, LIO_WRITE), block(fd, &mut b, 6, LIO_WRITE));
        let mut r = block(fd, &mut back, 0, LIO_READ);
        // SAFETY: blocks and buffers live through the calls.
        unsafe {
            let list = [&raw mut w, null_mut(), &raw mut v];
            assert_eq!(lio_listio(LIO_WAIT, list.as_ptr(), 3, core::ptr::null()), 0);
            assert_eq!((aio_error(&raw const w), aio_return(&raw mut v)), (0, 6));
            assert_eq!(aio_fsync(O_DSYNC, &raw mut w), 0);
            assert_eq!(aio_read(&raw mut r), 0);
            let waits = [&raw const r];
            while aio_error(&raw const r) == Errno::EINPROGRESS.0 {
                assert_eq!(aio_suspend(waits.as_ptr(), 1, core::ptr::null()), 0);
            }
            assert_eq!((aio_error(&raw const r), aio_return(&raw mut r)), (0, 12));
            assert_eq!(&back, b"hello world!");
            assert_eq!(aio_cancel(fd, &raw mut r), AIO_ALLDONE);
            assert_eq!((aio_cancel(-1, null_mut()), errno::get()), (-1, Errno::EBADF));
            assert_eq!((aio_fsync(7, &raw mut w), errno::get()), (-1, Errno::EINVAL));
            r.priority = -1;
            assert_eq!((aio_read(&raw mut r), errno::get()), (-1, Errno::EINVAL));
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_waiting_read_can_be_cancelled_behind_another() {
        let mut pipe = [0; 2];
        let (mut a, mut b) = ([0u8; 1], [0u8; 1]);
        // SAFETY: our own pipe; blocks and buffers live until both are done.
        unsafe {
            assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
            let (mut first, mut second) =
                (block(pipe[0], &mut a, 0, LIO_READ), block(pipe[0], &mut b, 0, LIO_READ));
            assert_eq!((aio_read(&raw mut first), aio_read(&raw mut second)), (0, 0));
            let waits = [&raw const second];
            let short = Timespec { sec: 0, nsec: 20_000_000 };
            assert_eq!(aio_suspend(waits.as_ptr(), 1, &raw const short), -1);
            assert_eq!(errno::get(), Errno::EAGAIN);
            assert_eq!(aio_cancel(pipe[0], &raw mut second), AIO_CANCELED);
            assert_eq!((aio_error(&raw const second), aio_return(&raw mut second)), (Errno::ECANCELED.0, -1));
            assert_eq!(aio_cancel(pipe[0], null_mut()), AIO_NOTCANCELED);
            assert_eq!(libc::write(pipe[1], b"x".as_ptr().cast(), 1), 1);
            assert_eq!(aio_suspend([&raw const first].as_ptr(), 1, core::ptr::null()), 0);
            assert_eq!((aio_return(&raw mut first), a), (1, *b"x"));
            libc::close(pipe[0]);
            libc::close(pipe[1]);
        }
    }
}
