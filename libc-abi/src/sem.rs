//! POSIX semaphores: unnamed ones in the program's memory, named ones in files of /dev/shm.
//!
//! The object is glibc's: one 64-bit word with the value in its low and the number of waiters in its
//! high half, so that a post knows in one atomic step whether to wake (and named semaphores can be
//! shared with programs of the host's glibc). After its add a post touches the object no more: a
//! woken waiter may destroy it at once (sem_post(3p), rationale).

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::errno;
use crate::futex::{self, Clock, Deadline, Lock, Scope};
use crate::kcall;
use crate::malloc::imp;
use crate::pthread::cancel;
use crate::types::*;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use platform::Errno;
use platform::time::Timespec;

/// `sem_t`: 32 bytes.
#[repr(C, align(8))]
pub struct Sem {
    /// Value below, waiters above.
    data: AtomicU64,
    /// 0, or 128 for a shared one (FUTEX_PRIVATE_FLAG turned, glibc's encoding).
    shared: c_int,
    reserved: c_int,
    rest: [usize; 2],
}

const _: () = assert!(size_of::<Sem>() == 32);

const VALUE_MASK: u64 = 0xffff_ffff;
const ONE_WAITER: u64 = 1 << 32;
const SHARED: c_int = 128;
/// SEM_VALUE_MAX.
const VALUE_MAX: u64 = 0x7fff_ffff;

impl Sem {
    fn scope(&self) -> Scope {
        Scope::shared(self.shared != 0)
    }

    /// The value as a futex word: the low half comes first on x86-64.
    fn word(&self) -> &AtomicU32 {
        // SAFETY: inside the 64-bit word, aligned; mixed-size atomics are what the kernel does too.
        unsafe { AtomicU32::from_ptr(self.data.as_ptr().cast()) }
    }

    /// Takes one if there is one.
    fn try_take(&self) -> bool {
        self.data
            .try_update(Ordering::Acquire, Ordering::Relaxed, |data| {
                (data & VALUE_MASK != 0).then(|| data - 1)
            })
            .is_ok()
    }

    /// Takes one; sleeps until then.
    fn take(&self, until: Option<Deadline>) -> Result<(), Errno> {
        if self.try_take() {
            return Ok(());
        }
        self.data.fetch_add(ONE_WAITER, Ordering::Relaxed);
        let result = self.take_as_waiter(until);
        if result.is_err() {
            self.data.fetch_sub(ONE_WAITER, Ordering::Relaxed);
        }
        result
    }

    /// A waiter gives up its place in the count in the same step in which it takes.
    fn take_as_waiter(&self, until: Option<Deadline>) -> Result<(), Errno> {
        loop {
            let taken = self.data.try_update(Ordering::Acquire, Ordering::Relaxed, |data| {
                (data & VALUE_MASK != 0).then(|| data - 1 - ONE_WAITER)
            });
            if taken.is_ok() {
                return Ok(());
            }
            match futex::wait_cancellable(self.word(), 0, self.scope(), until) {
                Ok(()) | Err(Errno::EAGAIN) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

unsafe fn wait(sem: *mut Sem, until: Option<Deadline>) -> c_int {
    // A cancellation point even if it need not wait.
    cancel::test();
    let result = (*sem).take(until);
    if result == Err(Errno::EINTR) {
        cancel::test();
    }
    errno::int(result.map(|()| 0))
}

unsafe fn wait_until(sem: *mut Sem, clock: Clock, at: *const Timespec) -> c_int {
    match Deadline::read(clock, at) {
        Ok(until) => wait(sem, Some(until)),
        Err(errno) => errno::int(Err(errno)),
    }
}

abi! { EXPORTS "libc.so.6":
    /// sem_init(3).
    "GLIBC_2.34" fn sem_init(sem: *mut Sem, shared: c_int, value: c_uint) -> c_int {
        if u64::from(value) > VALUE_MAX {
            return errno::int(Err(Errno::EINVAL));
        }
        (*sem).data = AtomicU64::new(u64::from(value));
        (*sem).shared = if shared == 0 { 0 } else { SHARED };
        0
    }
    /// sem_destroy(3).
    "GLIBC_2.34" fn sem_destroy(_sem: *mut Sem) -> c_int {
        0
    }
    /// sem_wait(3).
    "GLIBC_2.34" fn sem_wait(sem: *mut Sem) -> c_int {
        wait(sem, None)
    }
    /// sem_trywait(3).
    "GLIBC_2.34" fn sem_trywait(sem: *mut Sem) -> c_int {
        if (*sem).try_take() { 0 } else { errno::int(Err(Errno::EAGAIN)) }
    }
    /// sem_timedwait(3).
    "GLIBC_2.34" fn sem_timedwait(sem: *mut Sem, at: *const Timespec) -> c_int {
        wait_until(sem, Clock::Real, at)
    }
    /// sem_clockwait(3).
    "GLIBC_2.34" fn sem_clockwait(sem: *mut Sem, clock: c_int, at: *const Timespec) -> c_int {
        match Clock::from_id(clock) {
            Some(clock) => wait_until(sem, clock, at),
            None => errno::int(Err(Errno::EINVAL)),
        }
    }
    /// sem_post(3). Async-signal-safe.
    "GLIBC_2.34" fn sem_post(sem: *mut Sem) -> c_int {
        let (word, scope) = ((*sem).word().as_ptr(), (*sem).scope());
        let before = (*sem).data.try_update(Ordering::Release, Ordering::Relaxed, |data| {
            (data & VALUE_MASK < VALUE_MAX).then(|| data + 1)
        });
        match before {
            Ok(data) => {
                if data >= ONE_WAITER {
                    futex::wake_address(word, 1, scope);
                }
                0
            }
            Err(_) => errno::int(Err(Errno::EOVERFLOW)),
        }
    }
    /// sem_getvalue(3).
    "GLIBC_2.34" fn sem_getvalue(sem: *mut Sem, value: *mut c_int) -> c_int {
        value.write(((*sem).data.load(Ordering::Relaxed) & VALUE_MASK) as c_int);
        0
    }
    /// sem_open(3): with O_CREAT, `mode` and `value` follow.
    "GLIBC_2.34" fn sem_open(name: *const c_char, flags: c_int, mode: mode_t, value: c_uint) -> *mut Sem {
        errno::or_null(open(name, flags, mode, value))
    }
    /// sem_close(3).
    "GLIBC_2.34" fn sem_close(sem: *mut Sem) -> c_int {
        errno::int(close(sem))
    }
    /// sem_unlink(3).
    "GLIBC_2.34" fn sem_unlink(name: *const c_char) -> c_int {
        // As glibc: what cannot be a name names nothing.
        let path = path(name).map_err(|_| Errno::ENOENT);
        let result = path.and_then(|path| kcall!(unlink, path.as_ptr()));
        // Linux says EPERM for a file in a sticky directory that is somebody else's.
        errno::int(result.map_err(|errno| if errno == Errno::EPERM { Errno::EACCES } else { errno }))
    }
}

exports! { ROWS "libc.so.6":
    compat "GLIBC_2.2.5" "sem_init" = sem_init;
    compat "GLIBC_2.2.5" "sem_destroy" = sem_destroy;
    compat "GLIBC_2.2.5" "sem_wait" = sem_wait;
    compat "GLIBC_2.2.5" "sem_trywait" = sem_trywait;
    compat "GLIBC_2.2.5" "sem_timedwait" = sem_timedwait;
    compat "GLIBC_2.30" "sem_clockwait" = sem_clockwait;
    compat "GLIBC_2.2.5" "sem_post" = sem_post;
    compat "GLIBC_2.2.5" "sem_getvalue" = sem_getvalue;
    compat "GLIBC_2.2.5" "sem_open" = sem_open;
    compat "GLIBC_2.2.5" "sem_close" = sem_close;
    compat "GLIBC_2.2.5" "sem_unlink" = sem_unlink;
}

// ---- named semaphores --------------------------------------------------------------------------

/// A named semaphore that is mapped: one mapping per file, however often it is opened.
struct Mapped {
    device: u64,
    inode: u64,
    opens: usize,
    sem: *mut Sem,
    next: *mut Mapped,
}

struct List {
    first: *mut Mapped,
}
// SAFETY: reached under the lock.
unsafe impl Send for List {}
static LIST: Lock<List> = Lock::new(List { first: null_mut() });

const O_CREAT: c_int = 0o100;
const O_EXCL: c_int = 0o200;
/// O_RDWR, O_NOFOLLOW, O_CLOEXEC.
const OPEN_FLAGS: c_int = 0o2 | 0o400_000 | 0o2_000_000;
const AT_FDCWD: isize = -100;
const SIZE: usize = size_of::<Sem>();

/// "/dev/shm/sem.NAME": one leading slash or more, then a name without any (sem_overview(7)).
unsafe fn path(name: *const c_char) -> Result<Vec<u8>, Errno> {
    let bytes = CStr::from_ptr(name).to_bytes();
    let bytes = &bytes[bytes.iter().take_while(|&&c| c == b'/').count()..];
    if bytes.is_empty() || bytes.contains(&b'/') {
        return Err(Errno::EINVAL);
    }
    // NAME_MAX, less "sem.".
    if bytes.len() > 251 {
        return Err(Errno::ENAMETOOLONG);
    }
    let mut path = b"/dev/shm/sem.".to_vec();
    path.extend_from_slice(bytes);
    path.push(0);
    Ok(path)
}

unsafe fn open(name: *const c_char, flags: c_int, mode: mode_t, value: c_uint) -> Result<*mut Sem, Errno> {
    let path = path(name)?;
    loop {
        if flags & (O_CREAT | O_EXCL) != O_CREAT | O_EXCL {
            match kcall!(openat, AT_FDCWD, path.as_ptr(), OPEN_FLAGS, 0) {
                Ok(fd) => return adopt(fd),
                Err(Errno::ENOENT) if flags & O_CREAT != 0 => {}
                Err(errno) => return Err(errno),
            }
        }
        match create(&path, mode, value) {
            // Another process was faster: open what it made.
            Err(Errno::EEXIST) if flags & O_EXCL == 0 => {}
            other => return other,
        }
    }
}

/// Makes the file whole under another name, then links it: nobody sees half a semaphore.
unsafe fn create(path: &[u8], mode: mode_t, value: c_uint) -> Result<*mut Sem, Errno> {
    if u64::from(value) > VALUE_MAX {
        return Err(Errno::EINVAL);
    }
    let mut temporary = b"/dev/shm/sem.XXXXXX\0".to_vec();
    let fd = crate::tempfiles::create_unique(&mut temporary, 0, |path| {
        kcall!(openat, AT_FDCWD, path, OPEN_FLAGS | O_CREAT | O_EXCL, mode)
    })?;
    let first = Sem { data: AtomicU64::new(u64::from(value)), shared: SHARED, reserved: 0, rest: [0; 2] };
    let result = match kcall!(write, fd, &raw const first, SIZE) {
        Ok(SIZE) => kcall!(link, temporary.as_ptr(), path.as_ptr()),
        Ok(_) => Err(Errno::ENOSPC),
        Err(errno) => Err(errno),
    };
    let _ = kcall!(unlink, temporary.as_ptr());
    match result {
        Ok(_) => adopt(fd),
        Err(errno) => {
            let _ = kcall!(close, fd);
            Err(errno)
        }
    }
}

/// Maps the semaphore behind `fd`, or counts one more use of its mapping. Closes `fd`.
unsafe fn adopt(fd: usize) -> Result<*mut Sem, Errno> {
    const AT_EMPTY_PATH: usize = 0x1000;
    let mut stat = crate::dir_read::Stat::ZERO;
    let stated = kcall!(newfstatat, fd, c"".as_ptr(), &raw mut stat, AT_EMPTY_PATH);
    let result = stated.and_then(|_| find_or_map(fd, stat.device, stat.inode));
    let _ = kcall!(close, fd);
    result
}

unsafe fn find_or_map(fd: usize, device: u64, inode: u64) -> Result<*mut Sem, Errno> {
    const PROT_READ_WRITE: usize = 3;
    const MAP_SHARED: usize = 1;
    let mut list = LIST.lock();
    let mut at = list.first;
    while let Some(mapped) = at.as_mut() {
        if (mapped.device, mapped.inode) == (device, inode) {
            mapped.opens += 1;
            return Ok(mapped.sem);
        }
        at = mapped.next;
    }
    let node: *mut Mapped = imp::malloc(size_of::<Mapped>()).cast();
    if node.is_null() {
        return Err(Errno::ENOMEM);
    }
    match kcall!(mmap, 0, SIZE, PROT_READ_WRITE, MAP_SHARED, fd, 0) {
        Ok(address) => {
            let sem = core::ptr::with_exposed_provenance_mut(address);
            node.write(Mapped { device, inode, opens: 1, sem, next: list.first });
            list.first = node;
            Ok(sem)
        }
        Err(errno) => {
            imp::free(node.cast());
            Err(errno)
        }
    }
}

unsafe fn close(sem: *mut Sem) -> Result<usize, Errno> {
    let mut list = LIST.lock();
    let mut link = &raw mut list.first;
    while let Some(mapped) = (*link).as_mut() {
        if mapped.sem == sem {
            mapped.opens -= 1;
            if mapped.opens == 0 {
                let _ = kcall!(munmap, sem, SIZE);
                let node = *link;
                *link = mapped.next;
                imp::free(node.cast());
            }
            return Ok(0);
        }
        link = &raw mut mapped.next;
    }
    Err(Errno::EINVAL)
}

/// The lock, for fork(2).
pub(crate) fn fork_lock() -> &'static crate::futex::RawLock {
    LIST.raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(value: u32) -> Sem {
        // SAFETY: all-zero is a semaphore of value 0.
        let mut sem: Sem = unsafe { core::mem::zeroed() };
        // SAFETY: our own object.
        unsafe { assert_eq!(sem_init(&raw mut sem, 0, value), 0) };
        sem
    }

    #[test]
    fn counts_and_refuses() {
        let mut sem = new(1);
        let sem = &raw mut sem;
        // SAFETY: our own object.
        unsafe {
            assert_eq!((sem_trywait(sem), sem_trywait(sem)), (0, -1));
            assert_eq!(errno::get(), Errno::EAGAIN);
            assert_eq!(sem_timedwait(sem, &Timespec { sec: 1, nsec: 0 }), -1);
            assert_eq!(errno::get(), Errno::ETIMEDOUT);
            assert_eq!(sem_timedwait(sem, &Timespec { sec: 1, nsec: -1 }), -1);
            assert_eq!(errno::get(), Errno::EINVAL);
            assert_eq!((*sem).data.load(Ordering::Relaxed), 0, "no waiter is left behind");
            (*sem).data.store(VALUE_MAX, Ordering::Relaxed);
            assert_eq!(sem_post(sem), -1);
            assert_eq!(errno::get(), Errno::EOVERFLOW);
            assert_eq!(sem_init(sem, 0, 1 << 31), -1);
        }
    }

    #[test]
    fn every_post_is_taken_once() {
        let sem = std::sync::Arc::new(new(0));
        let address = |sem: &Sem| core::ptr::from_ref(sem).cast_mut();
        let waiters: std::vec::Vec<_> = (0..3)
            .map(|_| {
                let sem = sem.clone();
                std::thread::spawn(move || {
                    for _ in 0..1000 {
                        // SAFETY: the semaphore lives in the Arc.
                        while unsafe { sem_wait(address(&sem)) } != 0 {}
                    }
                })
            })
            .collect();
        for _ in 0..3000 {
            // SAFETY: as above.
            unsafe { assert_eq!(sem_post(address(&sem)), 0) };
        }
        waiters.into_iter().for_each(|w| w.join().unwrap());
        assert_eq!(sem.data.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn named_ones_are_the_hosts() {
        let name = std::ffi::CString::new(std::format!("/attacca-{}", std::process::id())).unwrap();
        // SAFETY: a name of our own; libc's functions on the same object.
        unsafe {
            assert!(sem_open(name.as_ptr(), 0, 0, 0).is_null());
            assert_eq!(errno::get(), Errno::ENOENT);
            let ours = sem_open(name.as_ptr(), O_CREAT, 0o600, 2);
            assert!(!ours.is_null());
            assert!(sem_open(name.as_ptr(), O_CREAT | O_EXCL, 0o600, 2).is_null());
            assert_eq!(errno::get(), Errno::EEXIST);
            assert_eq!(sem_open(name.as_ptr(), O_CREAT, 0o600, 9), ours);
            let theirs = libc::sem_open(name.as_ptr(), 0);
            assert_eq!(libc::sem_post(theirs), 0);
            let mut value = 0;
            assert_eq!((sem_getvalue(ours, &raw mut value), value), (0, 3));
            assert_eq!(libc::sem_close(theirs), 0);
            assert_eq!((sem_close(ours), sem_close(ours), sem_close(ours)), (0, 0, -1));
            assert_eq!((sem_unlink(name.as_ptr()), sem_unlink(name.as_ptr())), (0, -1));
            assert!(sem_open(c"/a/b".as_ptr(), O_CREAT, 0o600, 2).is_null());
        }
    }
}
