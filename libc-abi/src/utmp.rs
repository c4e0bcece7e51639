//! Who is logged in: utmp(5) records of 384 bytes, `struct utmp` and `struct utmpx` alike.

use crate::data::DataCell;
use crate::errno;
use crate::futex::Lock;
use crate::kcall;
use crate::types::*;
use core::ffi::CStr;
use core::ptr::null_mut;
use platform::Errno;

/// `struct utmp`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Utmp {
    kind: i16,
    pid: i32,
    line: [u8; 32],
    id: [u8; 4],
    user: [u8; 32],
    host: [u8; 256],
    exit: [i16; 2],
    session: i32,
    seconds: i32,
    microseconds: i32,
    address: [i32; 4],
    unused: [u8; 20],
}

const EMPTY: Utmp = Utmp {
    kind: 0,
    pid: 0,
    line: [0; 32],
    id: [0; 4],
    user: [0; 32],
    host: [0; 256],
    exit: [0; 2],
    session: 0,
    seconds: 0,
    microseconds: 0,
    address: [0; 4],
    unused: [0; 20],
};

const SIZE: usize = size_of::<Utmp>();
const _: () = assert!(SIZE == 384 && core::mem::offset_of!(Utmp, seconds) == 340);

const RUN_LVL: i16 = 1;
const OLD_TIME: i16 = 4;
const INIT_PROCESS: i16 = 5;
const LOGIN_PROCESS: i16 = 6;
const USER_PROCESS: i16 = 7;
const DEAD_PROCESS: i16 = 8;

const AT_FDCWD: isize = -100;
const O_RDWR: c_int = 2;
const O_WRONLY: c_int = 1;
const O_APPEND: c_int = 0o2000;

/// The open file and the record read last.
struct State {
    path: [u8; 256],
    fd: c_int,
    offset: i64,
    last: Utmp,
}

static STATE: Lock<State> = Lock::new(State { path: default_path(), fd: -1, offset: 0, last: EMPTY });

/// Held over a fork.
pub(crate) fn fork_lock() -> &'static crate::futex::RawLock {
    STATE.raw()
}
/// What the functions without a caller's buffer answer.
static RESULT: DataCell<Utmp> = DataCell::new(EMPTY);

const fn default_path() -> [u8; 256] {
    let mut path = [0; 256];
    let name = b"/var/run/utmp";
    let mut at = 0;
    while at < name.len() {
        path[at] = name[at];
        at += 1;
    }
    path
}

abi! { EXPORTS "libc.so.6":
    /// utmpname(3).
    "GLIBC_2.2.5" fn utmpname(path: *const c_char) -> c_int {
        // SAFETY: the program's string.
        let name = unsafe { CStr::from_ptr(path) }.to_bytes();
        let mut state = STATE.lock();
        if name.len() >= state.path.len() {
            return errno::int(Err(Errno::ENAMETOOLONG));
        }
        state.close();
        state.path = [0; 256];
        state.path[..name.len()].copy_from_slice(name);
        0
    }
    /// setutent(3).
    "GLIBC_2.2.5" fn setutent() {
        let mut state = STATE.lock();
        state.offset = 0;
        state.last = EMPTY;
    }
    /// endutent(3).
    "GLIBC_2.2.5" fn endutent() {
        STATE.lock().close();
    }
    /// getutent_r(3).
    "GLIBC_2.2.5" fn getutent_r(to: *mut Utmp, result: *mut *mut Utmp) -> c_int {
        answer(STATE.lock().next(), to, result)
    }
    /// getutid_r(3).
    "GLIBC_2.2.5" fn getutid_r(key: *const Utmp, to: *mut Utmp, result: *mut *mut Utmp) -> c_int {
        // SAFETY: the program's record; so below.
        answer(unsafe { STATE.lock().find_id(&*key) }, to, result)
    }
    /// getutline_r(3).
    "GLIBC_2.2.5" fn getutline_r(key: *const Utmp, to: *mut Utmp, result: *mut *mut Utmp) -> c_int {
        // SAFETY: as above.
        answer(unsafe { STATE.lock().find_line(&*key) }, to, result)
    }
    /// getutent(3).
    "GLIBC_2.2.5" fn getutent() -> *mut Utmp {
        own(STATE.lock().next())
    }
    /// getutid(3).
    "GLIBC_2.2.5" fn getutid(key: *const Utmp) -> *mut Utmp {
        // SAFETY: as above.
        own(unsafe { STATE.lock().find_id(&*key) })
    }
    /// getutline(3).
    "GLIBC_2.2.5" fn getutline(key: *const Utmp) -> *mut Utmp {
        // SAFETY: as above.
        own(unsafe { STATE.lock().find_line(&*key) })
    }
    /// pututline(3): over the record with that id, or at the end.
    "GLIBC_2.2.5" fn pututline(record: *const Utmp) -> *mut Utmp {
        // SAFETY: as above.
        own(unsafe { STATE.lock().put(&*record) })
    }
    /// updwtmp(3): appends, the file must exist.
    "GLIBC_2.2.5" fn updwtmp(path: *const c_char, record: *const Utmp) {
        // SAFETY: the program's path and record.
        unsafe {
            let flags = O_WRONLY | O_APPEND | crate::fcntl::O_CLOEXEC;
            if let Ok(fd) = kcall!(openat, AT_FDCWD, path, flags, 0) {
                let _ = kcall!(write, fd, record, SIZE);
                let _ = kcall!(close, fd);
            }
        }
    }
    /// login(3): an entry for the calling process's terminal.
    "GLIBC_2.34" fn login(record: *const Utmp) {
        // SAFETY: the program's record.
        unsafe {
            let mut mine = *record;
            mine.kind = USER_PROCESS;
            mine.pid = kcall!(getpid).unwrap_or(0) as i32;
            mine.line = terminal().unwrap_or_else(|| { let mut line = [0; 32]; line[..3].copy_from_slice(b"???"); line });
            if mine.line[..3] != *b"???" {
                let _ = STATE.lock().put(&mine);
                STATE.lock().close();
            }
            updwtmp(WTMP.as_ptr(), &raw const mine);
        }
    }
    /// logout(3): 1 if there was such an entry.
    "GLIBC_2.34" fn logout(line: *const c_char) -> c_int {
        let mut key = EMPTY;
        key.kind = USER_PROCESS;
        // SAFETY: the program's string.
        copy(unsafe { CStr::from_ptr(line) }.to_bytes(), &mut key.line);
        let mut state = STATE.lock();
        state.offset = 0;
        let done = state.find_line(&key).and_then(|mut found| {
            found.kind = DEAD_PROCESS;
            (found.user, found.host) = ([0; 32], [0; 256]);
            stamp(&mut found);
            state.put(&found)
        });
        state.close();
        c_int::from(done.is_ok())
    }
    /// logwtmp(3).
    "GLIBC_2.34" fn logwtmp(line: *const c_char, user: *const c_char, host: *const c_char) {
        let mut record = EMPTY;
        // SAFETY: the program's strings.
        unsafe {
            record.pid = kcall!(getpid).unwrap_or(0) as i32;
            record.kind = if *user == 0 { DEAD_PROCESS } else { USER_PROCESS };
            copy(CStr::from_ptr(line).to_bytes(), &mut record.line);
            copy(CStr::from_ptr(user).to_bytes(), &mut record.user);
            copy(CStr::from_ptr(host).to_bytes(), &mut record.host);
            stamp(&mut record);
            updwtmp(WTMP.as_ptr(), &raw const record);
        }
    }
    /// getutmp(3): the two structs are one.
    "GLIBC_2.2.5" fn getutmp(from: *const Utmp, to: *mut Utmp) {
        // SAFETY: the program's records.
        unsafe { core::ptr::copy(from, to, 1) }
    }
}

exports! { ROWS "libc.so.6":
    alias "GLIBC_2.2.5" "utmpxname" = utmpname;
    alias "GLIBC_2.2.5" "setutxent" = setutent;
    alias "GLIBC_2.2.5" "endutxent" = endutent;
    alias "GLIBC_2.2.5" "getutxent" = getutent;
    alias "GLIBC_2.2.5" "getutxid" = getutid;
    alias "GLIBC_2.2.5" "getutxline" = getutline;
    alias "GLIBC_2.2.5" "pututxline" = pututline;
    alias "GLIBC_2.2.5" "updwtmpx" = updwtmp;
    alias "GLIBC_2.2.5" "getutmpx" = getutmp;
    compat "GLIBC_2.2.5" "login" = login;
    compat "GLIBC_2.2.5" "logout" = logout;
    compat "GLIBC_2.2.5" "logwtmp" = logwtmp;
}

const WTMP: &CStr = c"/var/log/wtmp";

fn answer(found: Result<Utmp, Errno>, to: *mut Utmp, result: *mut *mut Utmp) -> c_int {
    // SAFETY: the program's out pointers.
    unsafe {
        match found {
            Ok(record) => {
                to.write(record);
                result.write(to);
                0
            }
            Err(errno) => {
                result.write(null_mut());
                errno::int(Err(errno))
            }
        }
    }
}

fn own(found: Result<Utmp, Errno>) -> *mut Utmp {
    errno::or_null(found.map(|record| {
        // SAFETY: our own record; these functions are not thread-safe (getutent(3)).
        unsafe { RESULT.store(record) };
        RESULT.get()
    }))
}

fn copy(text: &[u8], to: &mut [u8]) {
    let len = text.len().min(to.len());
    to[..len].copy_from_slice(&text[..len]);
}

fn stamp(record: &mut Utmp) {
    let now = platform::time::clock_gettime(platform::time::CLOCK_REALTIME).unwrap_or_default();
    record.seconds = now.sec as i32;
    record.microseconds = (now.nsec / 1000) as i32;
}

/// The terminal of one of the standard streams, without "/dev/".
fn terminal() -> Option<[u8; 32]> {
    (0..3).find_map(|fd| {
        let mut name = [0 as c_char; 64];
        // SAFETY: our own buffer.
        let text = unsafe {
            (crate::termios::ttyname_r(fd, name.as_mut_ptr(), name.len()) == 0)
                .then(|| CStr::from_ptr(name.as_ptr()).to_bytes())?
        };
        let mut line = [0; 32];
        copy(text.strip_prefix(b"/dev/").unwrap_or(text), &mut line);
        Some(line)
    })
}

impl State {
    fn close(&mut self) {
        if self.fd >= 0 {
            // SAFETY: our own descriptor.
            let _ = unsafe { kcall!(close, self.fd) };
        }
        self.fd = -1;
        self.offset = 0;
    }

    fn open(&mut self, flags: c_int) -> Result<c_int, Errno> {
        // SAFETY: our own path.
        unsafe { kcall!(openat, AT_FDCWD, self.path.as_ptr(), flags | crate::fcntl::O_CLOEXEC, 0) }
            .map(|fd| fd as c_int)
    }

    /// The next record; ESRCH at the end.
    fn next(&mut self) -> Result<Utmp, Errno> {
        if self.fd < 0 {
            self.fd = self.open(0)?;
        }
        let mut record = EMPTY;
        // SAFETY: our own record.
        match unsafe { kcall!(pread64, self.fd, &raw mut record, SIZE, self.offset)? } {
            SIZE => {
                self.offset += SIZE as i64;
                self.last = record;
                Ok(record)
            }
            _ => Err(Errno::ESRCH),
        }
    }

    fn find(&mut self, wanted: impl Fn(&Utmp) -> bool) -> Result<Utmp, Errno> {
        loop {
            let record = self.next()?;
            if wanted(&record) {
                return Ok(record);
            }
        }
    }

    fn find_id(&mut self, key: &Utmp) -> Result<Utmp, Errno> {
        match key.kind {
            RUN_LVL..=OLD_TIME => self.find(|r| r.kind == key.kind),
            INIT_PROCESS..=DEAD_PROCESS => self.find(|r| same_entry(r, key)),
            _ => Err(Errno::EINVAL),
        }
    }

    fn find_line(&mut self, key: &Utmp) -> Result<Utmp, Errno> {
        self.find(|r| matches!(r.kind, LOGIN_PROCESS | USER_PROCESS) && r.line == key.line)
    }

    /// Writes over the entry with the same id, under a record lock; appends if there is none.
    fn put(&mut self, record: &Utmp) -> Result<Utmp, Errno> {
        const LOCK_EX: usize = 2;
        const SEEK_END: usize = 2;
        let fd = self.open(O_RDWR)?;
        // SAFETY: our own descriptor and the caller's record.
        let result = unsafe {
            let locked = kcall!(flock, fd, LOCK_EX);
            let at = locked.and_then(|_| {
                self.close();
                match self.find_id(record) {
                    Ok(_) => Ok(self.offset - SIZE as i64),
                    Err(Errno::ESRCH) => {
                        kcall!(lseek, fd, 0, SEEK_END).map(|end| end as i64 / SIZE as i64 * SIZE as i64)
                    }
                    Err(errno) => Err(errno),
                }
            });
            at.and_then(|at| kcall!(pwrite64, fd, &raw const *record, SIZE, at))
        };
        // SAFETY: our own descriptor.
        let _ = unsafe { kcall!(close, fd) };
        result.map(|_| *record)
    }
}

/// Two entries of one terminal: by id if both have one, else by line (glibc's __utmp_equal).
fn same_entry(a: &Utmp, b: &Utmp) -> bool {
    matches!(a.kind, INIT_PROCESS..=DEAD_PROCESS)
        && if a.id[0] != 0 && b.id[0] != 0 { a.id == b.id } else { a.line == b.line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_finds_and_replaces() {
        let path = std::ffi::CString::new(std::format!("/tmp/attacca-utmp-{}", std::process::id())).unwrap();
        std::fs::write(path.to_str().unwrap(), "").unwrap();
        // SAFETY: our own file and records.
        unsafe {
            assert_eq!(utmpname(path.as_ptr()), 0);
            let mut record = EMPTY;
            for at in 0..3u8 {
                record.kind = USER_PROCESS;
                record.id = [b't', b'0' + at, 0, 0];
                record.line[..5].copy_from_slice(&[b'p', b't', b's', b'/', b'0' + at]);
                assert!(!pututline(&raw const record).is_null());
            }
            record.id[1] = b'1';
            record.line[4] = b'1';
            record.user[..3].copy_from_slice(b"me\0");
            assert!(!pututline(&raw const record).is_null());
            assert_eq!(std::fs::metadata(path.to_str().unwrap()).unwrap().len(), 3 * SIZE as u64);
            setutent();
            let found = getutline(&raw const record).read();
            assert_eq!(&found.user[..2], b"me");
            assert_eq!(logout(c"pts/1".as_ptr()), 1);
            setutent();
            assert!(getutline(&raw const record).is_null());
            endutent();
        }
        std::fs::remove_file(path.to_str().unwrap()).unwrap();
    }
}
