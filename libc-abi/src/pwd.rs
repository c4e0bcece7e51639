//! The password database `/etc/passwd`: getpwnam(3) and its kin.

use crate::errno;
use crate::kcall;
use crate::netdb::files::{Line, Position, find, number};
use crate::netdb::inet::bytes;
use crate::netdb::pack::{Packer, Record, Slot, reentrant};
use crate::types::{c_char, c_int, gid_t, size_t, uid_t};
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicI32, Ordering};
use platform::Errno;

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Name.
    pub name: Vec<u8>,
    /// Password, or "x" for one in the shadow file.
    pub password: Vec<u8>,
    /// User id.
    pub uid: uid_t,
    /// Group id.
    pub gid: gid_t,
    /// Full name and so on.
    pub gecos: Vec<u8>,
    /// Home directory.
    pub home: Vec<u8>,
    /// Shell.
    pub shell: Vec<u8>,
}

/// `struct passwd`
#[repr(C)]
pub struct passwd {
    pub(crate) pw_name: *mut c_char,
    pub(crate) pw_passwd: *mut c_char,
    pub(crate) pw_uid: uid_t,
    pub(crate) pw_gid: gid_t,
    pub(crate) pw_gecos: *mut c_char,
    pub(crate) pw_dir: *mut c_char,
    pub(crate) pw_shell: *mut c_char,
}

impl Record for Account {
    type C = passwd;
    fn pack(&self, to: &mut Packer) -> Option<passwd> {
        Some(passwd {
            pw_name: to.string(&self.name)?,
            pw_passwd: to.string(&self.password)?,
            pw_uid: self.uid,
            pw_gid: self.gid,
            pw_gecos: to.string(&self.gecos)?,
            pw_dir: to.string(&self.home)?,
            pw_shell: to.string(&self.shell)?,
        })
    }
}

impl Line for Account {
    const PATH: &'static CStr = c"/etc/passwd";
    fn parse(line: &[u8]) -> Option<Self> {
        let fields = fields::<7>(line)?;
        let [name, password, uid, gid, gecos, home, shell] = fields.map(<[u8]>::to_vec);
        Some(Account { name, password, uid: id(&uid)?, gid: id(&gid)?, gecos, home, shell })
    }
}

/// The fields of a line between colons; missing ones at the end are empty. `None` for blank lines,
/// comments and NIS marks.
pub(crate) fn fields<const N: usize>(line: &[u8]) -> Option<[&[u8]; N]> {
    let line = line.trim_ascii_start();
    if matches!(line.first(), None | Some(b'#' | b'+' | b'-')) {
        return None;
    }
    let mut fields = [&b""[..]; N];
    let mut parts = line.splitn(N, |&b| b == b':');
    for field in &mut fields {
        *field = parts.next().unwrap_or(b"");
    }
    (!fields[0].is_empty()).then_some(fields)
}

/// A user or group id.
pub(crate) fn id(text: &[u8]) -> Option<u32> {
    number(text).and_then(|n| u32::try_from(n).ok())
}

/// An account by name.
pub fn by_name(name: &[u8]) -> Result<Option<Account>, Errno> {
    find(|a: &Account| a.name == name)
}

/// An account by user id.
pub fn by_uid(uid: uid_t) -> Result<Option<Account>, Errno> {
    find(|a: &Account| a.uid == uid)
}

/// The next record for a `_r` function of this family: ENOENT at the end.
pub(crate) unsafe fn next<L: Line>(
    position: &Position,
    out: *mut L::C,
    buffer: *mut c_char,
    len: size_t,
    result: *mut *mut L::C,
) -> c_int {
    position.next_if::<L>(|found| {
        let at_end = found.is_none();
        // SAFETY: the caller's buffers.
        let answer = unsafe { reentrant(Ok(found), out, buffer, len, result) };
        (if at_end { Errno::ENOENT.0 } else { answer }, answer != Errno::ERANGE.0)
    })
}

static ACCOUNTS: Position = Position::new();
static ACCOUNT: Slot = Slot::new();

abi! { EXPORTS "libc.so.6":
    /// getpwnam(3).
    "GLIBC_2.2.5" fn getpwnam(name: *const c_char) -> *mut passwd {
        // SAFETY: the caller's string.
        ACCOUNT.fill(by_name(unsafe { bytes(name) }))
    }
    /// getpwuid(3).
    "GLIBC_2.2.5" fn getpwuid(uid: uid_t) -> *mut passwd { ACCOUNT.fill(by_uid(uid)) }
    /// getpwnam_r(3).
    "GLIBC_2.2.5" fn getpwnam_r(
        name: *const c_char, out: *mut passwd, buffer: *mut c_char, len: size_t, result: *mut *mut passwd,
    ) -> c_int {
        // SAFETY: the caller's string and buffers.
        unsafe { reentrant(by_name(bytes(name)), out, buffer, len, result) }
    }
    /// getpwuid_r(3).
    "GLIBC_2.2.5" fn getpwuid_r(
        uid: uid_t, out: *mut passwd, buffer: *mut c_char, len: size_t, result: *mut *mut passwd,
    ) -> c_int {
        // SAFETY: the caller's buffers.
        unsafe { reentrant(by_uid(uid), out, buffer, len, result) }
    }
    /// getpwent(3).
    "GLIBC_2.2.5" fn getpwent() -> *mut passwd { ACCOUNT.fill(ACCOUNTS.next::<Account>()) }
    /// getpwent_r(3).
    "GLIBC_2.2.5" fn getpwent_r(
        out: *mut passwd, buffer: *mut c_char, len: size_t, result: *mut *mut passwd,
    ) -> c_int {
        // SAFETY: the caller's buffers.
        unsafe { next::<Account>(&ACCOUNTS, out, buffer, len, result) }
    }
    /// setpwent(3).
    "GLIBC_2.2.5" fn setpwent() { ACCOUNTS.rewind() }
    /// endpwent(3).
    "GLIBC_2.2.5" fn endpwent() { ACCOUNTS.rewind() }
    /// getlogin_r(3): the user of the audit session, as glibc asks the kernel first.
    "GLIBC_2.2.5" fn getlogin_r(buffer: *mut c_char, len: size_t) -> c_int {
        match login_name() {
            Ok(name) if name.len() < len => {
                // SAFETY: the caller's buffer of `len` bytes.
                unsafe {
                    core::ptr::copy_nonoverlapping(name.as_ptr(), buffer.cast(), name.len());
                    buffer.add(name.len()).write(0);
                }
                0
            }
            Ok(_) => told(Errno::ERANGE),
            Err(error) => told(error),
        }
    }
    /// getlogin(3), in static memory.
    "GLIBC_2.2.5" fn getlogin() -> *mut c_char {
        static LOGIN: Slot = Slot::new();
        match login_name() {
            Ok(name) => crate::netdb::inet::static_text(&LOGIN, &name),
            Err(error) => {
                errno::set(error);
                null_mut()
            }
        }
    }
    /// lckpwdf(3): an advisory lock on /etc/.pwd.lock, waited for 15 seconds.
    "GLIBC_2.2.5" fn lckpwdf() -> c_int {
        errno::int(lock())
    }
    /// ulckpwdf(3).
    "GLIBC_2.2.5" fn ulckpwdf() -> c_int {
        let fd = LOCK_FD.swap(-1, Ordering::AcqRel);
        if fd < 0 {
            return -1;
        }
        // SAFETY: our own descriptor.
        errno::int(unsafe { kcall!(close, fd) })
    }
}

fn told(error: Errno) -> c_int {
    errno::set(error);
    error.0
}

fn login_name() -> Result<Vec<u8>, Errno> {
    let text = crate::netdb::files::read(c"/proc/self/loginuid").map_err(|_| Errno::ENXIO)?;
    // 4294967295: no session.
    let uid = id(text.trim_ascii()).filter(|&uid| uid != u32::MAX).ok_or(Errno::ENXIO)?;
    Ok(by_uid(uid)?.ok_or(Errno::ENXIO)?.name)
}

static LOCK_FD: AtomicI32 = AtomicI32::new(-1);

fn lock() -> Result<usize, Errno> {
    const AT_FDCWD: isize = -100;
    const O_WRONLY_CREAT_CLOEXEC: usize = 0o1 | 0o100 | 0o2000000;
    const F_SETLK: usize = 6;
    const F_WRLCK: u16 = 1;
    const TRIES: u32 = 150;
    const TENTH: [u64; 2] = [0, 100_000_000];
    if LOCK_FD.load(Ordering::Acquire) >= 0 {
        return Err(Errno::EDEADLK);
    }
    // struct flock: type, whence, pad, start, length (0: all), pid.
    let mut whole = [0u64; 4];
    whole[0] = F_WRLCK as u64;
    // SAFETY: our own descriptor and structures.
    unsafe {
        let fd = kcall!(openat, AT_FDCWD, c"/etc/.pwd.lock".as_ptr(), O_WRONLY_CREAT_CLOEXEC, 0o600)?;
        for _ in 0..TRIES {
            match kcall!(fcntl, fd, F_SETLK, whole.as_mut_ptr()) {
                Ok(_) => {
                    LOCK_FD.store(fd as i32, Ordering::Release);
                    return Ok(0);
                }
                Err(Errno::EAGAIN | Errno::EACCES) => drop(kcall!(nanosleep, TENTH.as_ptr(), 0)),
                Err(error) => {
                    let _ = kcall!(close, fd);
                    return Err(error);
                }
            }
        }
        let _ = kcall!(close, fd);
        Err(Errno::EINTR)
    }
}
