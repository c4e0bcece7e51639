//! syslog(3): messages to the daemon behind /dev/log.

use crate::errno;
use crate::futex::Lock;
use crate::kcall;
use crate::types::*;
use crate::va::VaList;
use crate::variadic;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ptr::{null, null_mut};
use platform::Errno;

const LOG_PID: c_int = 1;
const LOG_CONS: c_int = 2;
const LOG_NDELAY: c_int = 8;
const LOG_PERROR: c_int = 0x20;
const LOG_USER: c_int = 8;
const LOG_FACMASK: c_int = 0x3f8;
const LOG_PRIMASK: c_int = 7;

const AF_UNIX: usize = 1;
const SOCK_STREAM: usize = 1;
const SOCK_DGRAM: usize = 2;
const SOCK_CLOEXEC: usize = 0o2000000;
const MSG_NOSIGNAL: usize = 0x4000;

struct Log {
    ident: *const c_char,
    options: c_int,
    facility: c_int,
    mask: c_int,
    /// The socket, -1 while closed; a stream socket frames messages with a NUL.
    fd: c_int,
    stream: bool,
}
// SAFETY: the program's string is only read, under the lock.
unsafe impl Send for Log {}

static LOG: Lock<Log> =
    Lock::new(Log { ident: null(), options: 0, facility: LOG_USER, mask: 0xff, fd: -1, stream: false });

/// Held over a fork.
pub(crate) fn fork_lock() -> &'static crate::futex::RawLock {
    LOG.raw()
}

abi! { EXPORTS "libc.so.6":
    /// openlog(3).
    "GLIBC_2.2.5" fn openlog(ident: *const c_char, options: c_int, facility: c_int) {
        let mut log = LOG.lock();
        if !ident.is_null() {
            log.ident = ident;
        }
        log.options = options;
        if facility & !LOG_FACMASK == 0 {
            log.facility = facility;
        }
        if options & LOG_NDELAY != 0 {
            log.connect();
        }
    }
    /// closelog(3).
    "GLIBC_2.2.5" fn closelog() {
        let mut log = LOG.lock();
        log.disconnect();
        log.ident = null();
    }
    /// setlogmask(3): the old mask.
    "GLIBC_2.2.5" fn setlogmask(mask: c_int) -> c_int {
        let mut log = LOG.lock();
        let old = log.mask;
        if mask != 0 {
            log.mask = mask;
        }
        old
    }
    /// vsyslog(3).
    "GLIBC_2.2.5" fn vsyslog(priority: c_int, format: *const c_char, list: *mut VaList) {
        // SAFETY: forwarded.
        unsafe { __vsyslog_chk(priority, -1, format, list) }
    }
    /// vsyslog(3) under _FORTIFY_SOURCE; level -1: without checks.
    "GLIBC_2.4" fn __vsyslog_chk(priority: c_int, level: c_int, format: *const c_char, list: *mut VaList) {
        // `%m` is about the caller's errno, so the text comes first.
        let mut text: *mut c_char = null_mut();
        // SAFETY: the program's format and arguments; the text is a block of the C heap.
        unsafe {
            let len = if level < 0 {
                crate::stdio::printf::narrow::vasprintf(&raw mut text, format, list)
            } else {
                crate::stdio::printf::narrow::__vasprintf_chk(&raw mut text, level, format, list)
            };
            if len >= 0 {
                let saved = errno::get();
                LOG.lock().send(priority, CStr::from_ptr(text).to_bytes());
                errno::set(saved);
                crate::malloc::free(text.cast());
            }
        }
    }
}

variadic! {
    /// syslog(3).
    fn syslog(2 fixed) = vsyslog;
    /// syslog(3) under _FORTIFY_SOURCE.
    fn __syslog_chk(3 fixed) = __vsyslog_chk;
}

exports! { ROWS "libc.so.6":
    alias "GLIBC_2.2.5" "syslog" = syslog;
    alias "GLIBC_2.4" "__syslog_chk" = __syslog_chk;
}

impl Log {
    /// One message, whole: `<priority>date ident[pid]: text`.
    fn send(&mut self, priority: c_int, text: &[u8]) {
        if self.mask & (1 << (priority & LOG_PRIMASK)) == 0 || priority & !(LOG_PRIMASK | LOG_FACMASK) != 0 {
            return;
        }
        let facility = if priority & LOG_FACMASK == 0 { self.facility } else { 0 };
        let head = self.head();
        let mut line: Vec<u8> = alloc::format!("<{}>{} ", priority | facility, date()).into_bytes();
        line.extend_from_slice(&head);
        line.extend_from_slice(text);
        if self.options & LOG_PERROR != 0 {
            let newline: &[u8] = if text.ends_with(b"\n") { b"" } else { b"\n" };
            write_all(2, &[&head[..], text, newline].concat());
        }
        line.push(0);
        // A daemon that was restarted needs a new connection: one more try.
        let sent = (0..2).any(|_| {
            self.connect();
            let sent = self.fd >= 0 && self.transmit(&line).is_ok();
            if !sent {
                self.disconnect();
            }
            sent
        });
        if !sent && self.options & LOG_CONS != 0 {
            to_console(&[&head[..], text, b"\r\n"].concat());
        }
    }

    /// "ident[pid]: ".
    fn head(&self) -> Vec<u8> {
        let ident = if self.ident.is_null() {
            // SAFETY: the program's name, a C string.
            unsafe { crate::start::PROGRAM_SHORT_NAME.load() }
        } else {
            self.ident
        };
        // SAFETY: the program's string, which openlog(3) asks it to keep.
        let mut head = unsafe { CStr::from_ptr(ident) }.to_bytes().to_vec();
        if self.options & LOG_PID != 0 {
            // SAFETY: takes nothing.
            let pid = unsafe { kcall!(getpid) }.unwrap_or(0);
            head.extend_from_slice(alloc::format!("[{pid}]").as_bytes());
        }
        head.extend_from_slice(b": ");
        head
    }

    fn transmit(&self, line: &[u8]) -> Result<usize, Errno> {
        // Datagrams go without the NUL.
        let len = line.len() - usize::from(!self.stream);
        // SAFETY: our own bytes.
        unsafe { kcall!(sendto, self.fd, line.as_ptr(), len, MSG_NOSIGNAL, 0, 0) }
    }

    fn connect(&mut self) {
        #[repr(C)]
        struct Address {
            family: u16,
            path: [u8; 108],
        }
        let mut address = Address { family: AF_UNIX as u16, path: [0; 108] };
        address.path[..8].copy_from_slice(b"/dev/log");
        for (kind, stream) in [(SOCK_DGRAM, false), (SOCK_STREAM, true)] {
            if self.fd >= 0 {
                return;
            }
            // SAFETY: our own address.
            unsafe {
                let Ok(fd) = kcall!(socket, AF_UNIX, kind | SOCK_CLOEXEC, 0) else { return };
                match kcall!(connect, fd, &raw const address, size_of::<Address>()) {
                    Ok(_) => (self.fd, self.stream) = (fd as c_int, stream),
                    Err(errno) => {
                        let _ = kcall!(close, fd);
                        if errno != Errno::EPROTOTYPE {
                            return;
                        }
                    }
                }
            }
        }
    }

    fn disconnect(&mut self) {
        if self.fd >= 0 {
            // SAFETY: our own socket.
            let _ = unsafe { kcall!(close, self.fd) };
            self.fd = -1;
        }
    }
}

/// "Jan  2 15:04:05", local time.
fn date() -> alloc::string::String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // SAFETY: our own time and struct.
    unsafe {
        let now = crate::time_calls::time(null_mut());
        let mut tm: crate::time::Tm = core::mem::zeroed();
        if crate::time::localtime_r(&raw const now, &raw mut tm).is_null() {
            return alloc::string::String::new();
        }
        alloc::format!(
            "{} {:2} {:02}:{:02}:{:02}",
            MONTHS[tm.tm_mon as usize % 12],
            tm.tm_mday,
            tm.tm_hour,
            tm.tm_min,
            tm.tm_sec
        )
    }
}

fn write_all(fd: usize, bytes: &[u8]) {
    // SAFETY: our own bytes.
    let _ = unsafe { kcall!(write, fd, bytes.as_ptr(), bytes.len()) };
}

fn to_console(line: &[u8]) {
    const AT_FDCWD: isize = -100;
    const O_WRONLY_NOCTTY: usize = 0o401;
    // SAFETY: our own path.
    unsafe {
        if let Ok(fd) = kcall!(openat, AT_FDCWD, c"/dev/console".as_ptr(), O_WRONLY_NOCTTY | SOCK_CLOEXEC, 0)
        {
            write_all(fd, line);
            let _ = kcall!(close, fd);
        }
    }
}
