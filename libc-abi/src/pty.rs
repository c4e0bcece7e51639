//! Pseudo-terminals (pty(7)): /dev/ptmx and its slaves in /dev/pts.

use crate::errno;
use crate::kcall;
use crate::termios::{Termios, tcsetattr};
use crate::types::*;
use core::ptr::null_mut;
use platform::Errno;

const TIOCSCTTY: usize = 0x540e;
const TIOCSWINSZ: usize = 0x5414;
const TIOCGPTN: usize = 0x8004_5430;
const TIOCSPTLCK: usize = 0x4004_5431;
const TIOCGPTPEER: usize = 0x5441;
const O_RDWR: c_int = 2;
const O_NOCTTY: c_int = 0o400;
const AT_FDCWD: isize = -100;

unsafe fn number(master: c_int) -> Result<u32, Errno> {
    let mut number = 0u32;
    // SAFETY: our own word.
    unsafe { kcall!(ioctl, master, TIOCGPTN, &raw mut number) }.map(|_| number)
}

abi! { EXPORTS "libc.so.6":
    /// posix_openpt(3).
    "GLIBC_2.2.5" fn posix_openpt(flags: c_int) -> c_int {
        // SAFETY: our own path.
        errno::int(unsafe { kcall!(openat, AT_FDCWD, c"/dev/ptmx".as_ptr(), flags, 0) })
    }
    /// getpt(3).
    "GLIBC_2.2.5" fn getpt() -> c_int {
        // SAFETY: numbers only.
        unsafe { posix_openpt(O_RDWR) }
    }
    /// grantpt(3): devpts has done it; the descriptor must be a master.
    "GLIBC_2.2.5" fn grantpt(master: c_int) -> c_int {
        // SAFETY: our own word.
        match unsafe { number(master) } {
            Ok(_) => 0,
            Err(Errno::ENOTTY) => errno::int(Err(Errno::EINVAL)),
            Err(errno) => errno::int(Err(errno)),
        }
    }
    /// unlockpt(3).
    "GLIBC_2.2.5" fn unlockpt(master: c_int) -> c_int {
        let unlock: c_int = 0;
        // SAFETY: our own word.
        match unsafe { kcall!(ioctl, master, TIOCSPTLCK, &raw const unlock) } {
            Err(Errno::ENOTTY) => errno::int(Err(Errno::EINVAL)),
            result => errno::int(result),
        }
    }
    /// ptsname_r(3): the error number itself.
    "GLIBC_2.2.5" fn ptsname_r(master: c_int, to: *mut c_char, len: usize) -> c_int {
        // SAFETY: the program's buffer of `len` bytes.
        unsafe {
            let result = number(master).and_then(|number| {
                let name = alloc::format!("/dev/pts/{number}\0");
                if name.len() > len {
                    return Err(Errno::ERANGE);
                }
                core::ptr::copy_nonoverlapping(name.as_ptr(), to.cast(), name.len());
                Ok(())
            });
            result.map_or_else(|errno| { errno::set(errno); errno.0 }, |()| 0)
        }
    }
    /// ptsname(3).
    "GLIBC_2.2.5" fn ptsname(master: c_int) -> *mut c_char {
        static NAME: crate::data::DataCell<[c_char; 30]> = crate::data::DataCell::new([0; 30]);
        let to: *mut c_char = NAME.get().cast();
        // SAFETY: our own buffer; the function is not thread-safe (ptsname(3)).
        if unsafe { ptsname_r(master, to, 30) } == 0 { to } else { null_mut() }
    }
    /// openpty(3).
    "GLIBC_2.34" fn openpty(
        master: *mut c_int, slave: *mut c_int, name: *mut c_char, attributes: *const Termios,
        size: *const [u16; 4],
    ) -> c_int {
        // SAFETY: the program's out pointers and structs.
        unsafe {
            let main = getpt();
            if main == -1 {
                return -1;
            }
            let opened = if unlockpt(main) == 0 { open_slave(main) } else { Err(errno::get()) };
            let terminal = match opened {
                Ok(fd) => fd,
                Err(errno) => {
                    let _ = kcall!(close, main);
                    return errno::int(Err(errno));
                }
            };
            if !attributes.is_null() {
                tcsetattr(terminal, 2, attributes);
            }
            if !size.is_null() {
                let _ = kcall!(ioctl, terminal, TIOCSWINSZ, size);
            }
            if !name.is_null() {
                ptsname_r(main, name, 30);
            }
            master.write(main);
            slave.write(terminal);
        }
        0
    }
    /// login_tty(3).
    "GLIBC_2.34" fn login_tty(fd: c_int) -> c_int {
        // SAFETY: numbers only.
        unsafe {
            let _ = kcall!(setsid);
            if let Err(errno) = kcall!(ioctl, fd, TIOCSCTTY, 0) {
                return errno::int(Err(errno));
            }
            for stream in 0..3 {
                let _ = kcall!(dup2, fd, stream);
            }
            if fd > 2 {
                let _ = kcall!(close, fd);
            }
        }
        0
    }
    /// forkpty(3).
    "GLIBC_2.34" fn forkpty(
        master: *mut c_int, name: *mut c_char, attributes: *const Termios, size: *const [u16; 4],
    ) -> pid_t {
        // SAFETY: the program's out pointers and structs.
        unsafe {
            let (mut main, mut terminal) = (0, 0);
            if openpty(&raw mut main, &raw mut terminal, name, attributes, size) == -1 {
                return -1;
            }
            let pid = crate::process::fork();
            if pid == 0 {
                let _ = kcall!(close, main);
                if login_tty(terminal) != 0 {
                    crate::start::_exit(1);
                }
                return 0;
            }
            let _ = kcall!(close, terminal);
            if pid == -1 {
                let _ = kcall!(close, main);
            } else {
                master.write(main);
            }
            pid
        }
    }
    /// ptsname_r(3) under _FORTIFY_SOURCE.
    "GLIBC_2.4" fn __ptsname_r_chk(master: c_int, to: *mut c_char, len: usize, room: usize) -> c_int {
        crate::unistd::check(len, room);
        // SAFETY: forwarded.
        unsafe { ptsname_r(master, to, len) }
    }
}

/// By the master itself (works whatever is mounted where), or by name.
unsafe fn open_slave(master: c_int) -> Result<c_int, Errno> {
    // SAFETY: our own path.
    unsafe {
        if let Ok(fd) = kcall!(ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY) {
            return Ok(fd as c_int);
        }
        let name = alloc::format!("/dev/pts/{}\0", number(master)?);
        kcall!(openat, AT_FDCWD, name.as_ptr(), O_RDWR | O_NOCTTY, 0).map(|fd| fd as c_int)
    }
}
