//! <termios.h> and terminals' names. The kernel's `struct termios` is shorter than C's: it has 19 control
//! characters and keeps the speed in `c_cflag`.

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::errno;
use crate::types::*;
use crate::{kcall, point};
use alloc::vec::Vec;
use core::ptr::null_mut;
use platform::Errno;

/// `struct termios`: 60 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termios {
    /// Input modes.
    pub iflag: c_uint,
    /// Output modes.
    pub oflag: c_uint,
    /// Control modes, the speed among them.
    pub cflag: c_uint,
    /// Local modes.
    pub lflag: c_uint,
    /// Line discipline.
    pub line: u8,
    /// Control characters.
    pub cc: [u8; 32],
    /// Input speed.
    pub ispeed: c_uint,
    /// Output speed.
    pub ospeed: c_uint,
}

/// The kernel's.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Kernel {
    iflag: c_uint,
    oflag: c_uint,
    cflag: c_uint,
    lflag: c_uint,
    line: u8,
    cc: [u8; 19],
}

const _: () = assert!(size_of::<Termios>() == 60 && size_of::<Kernel>() == 36);

const TCGETS: usize = 0x5401;
const TCSETS: usize = 0x5402;
const TCSBRK: usize = 0x5409;
const TCXONC: usize = 0x540a;
const TCFLSH: usize = 0x540b;
const TIOCGPGRP: usize = 0x540f;
const TIOCSPGRP: usize = 0x5410;
const TIOCGSID: usize = 0x5429;
const TCSBRKP: usize = 0x5425;

/// CBAUD, which on Linux contains CBAUDEX.
const SPEED_MASK: c_uint = 0o10017;
const B57600: c_uint = 0o10001;
const B4000000: c_uint = 0o10017;
/// glibc's mark in `c_iflag` for an input speed of zero.
const IBAUD0: c_uint = 0o20_000_000_000;
const CSIZE: c_uint = 0o60;
const CS8: c_uint = 0o60;
const CREAD: c_uint = 0o200;
const PARENB: c_uint = 0o400;

fn get(fd: c_int) -> Result<Kernel, Errno> {
    let mut kernel = Kernel::default();
    // SAFETY: our own struct.
    unsafe { kcall!(ioctl, fd, TCGETS, &raw mut kernel) }.map(|_| kernel)
}

fn fails(errno: Errno) -> c_int {
    errno::int(Err(errno))
}

fn is_speed(speed: c_uint) -> bool {
    speed & !SPEED_MASK == 0 || (B57600..=B4000000).contains(&speed)
}

abi! { EXPORTS "libc.so.6":
    /// tcgetattr(3).
    "GLIBC_2.2.5" fn tcgetattr(fd: c_int, out: *mut Termios) -> c_int {
        match get(fd) {
            Ok(kernel) => {
                let speed = kernel.cflag & SPEED_MASK;
                let mut cc = [0; 32];
                cc[..19].copy_from_slice(&kernel.cc);
                out.write(Termios {
                    iflag: kernel.iflag, oflag: kernel.oflag, cflag: kernel.cflag, lflag: kernel.lflag,
                    line: kernel.line, cc, ispeed: speed, ospeed: speed,
                });
                0
            }
            Err(errno) => fails(errno),
        }
    }
    /// tcsetattr(3). The kernel keeps quiet about modes that a terminal cannot have; so they are read back.
    "GLIBC_2.2.5" fn tcsetattr(fd: c_int, when: c_int, new: *const Termios) -> c_int {
        if !(0..=2).contains(&when) {
            return fails(Errno::EINVAL);
        }
        let new = &*new;
        let mut kernel = Kernel {
            iflag: new.iflag & !IBAUD0, oflag: new.oflag, cflag: new.cflag, lflag: new.lflag, line: new.line,
            cc: [0; 19],
        };
        kernel.cc.copy_from_slice(&new.cc[..19]);
        if let Err(errno) = kcall!(ioctl, fd, TCSETS + when as usize, &raw const kernel) {
            return fails(errno);
        }
        let Ok(now) = get(fd) else { return 0 };
        let differ = |mask| (new.cflag ^ now.cflag) & mask != 0;
        if when == 0 && (differ(PARENB | CREAD) || (new.cflag & CSIZE != 0 && differ(CSIZE))) {
            return fails(Errno::EINVAL);
        }
        0
    }
    /// cfgetospeed(3).
    "GLIBC_2.2.5" fn cfgetospeed(termios: *const Termios) -> c_uint {
        (*termios).cflag & SPEED_MASK
    }
    /// cfgetispeed(3).
    "GLIBC_2.2.5" fn cfgetispeed(termios: *const Termios) -> c_uint {
        if (*termios).iflag & IBAUD0 != 0 { 0 } else { (*termios).cflag & SPEED_MASK }
    }
    /// cfsetospeed(3).
    "GLIBC_2.2.5" fn cfsetospeed(termios: *mut Termios, speed: c_uint) -> c_int {
        if !is_speed(speed) {
            return fails(Errno::EINVAL);
        }
        (*termios).ospeed = speed;
        (*termios).cflag = (*termios).cflag & !SPEED_MASK | speed;
        0
    }
    /// cfsetispeed(3): zero means "as the output".
    "GLIBC_2.2.5" fn cfsetispeed(termios: *mut Termios, speed: c_uint) -> c_int {
        if !is_speed(speed) {
            return fails(Errno::EINVAL);
        }
        (*termios).ispeed = speed;
        if speed == 0 {
            (*termios).iflag |= IBAUD0;
        } else {
            (*termios).iflag &= !IBAUD0;
            (*termios).cflag = (*termios).cflag & !SPEED_MASK | speed;
        }
        0
    }
    /// cfsetspeed(3): a `B` constant or a number of bauds.
    "GLIBC_2.2.5" fn cfsetspeed(termios: *mut Termios, speed: c_uint) -> c_int {
        match BAUDS.iter().find(|(baud, code)| speed == *code || speed == *baud) {
            Some(&(_, code)) => {
                cfsetispeed(termios, code);
                cfsetospeed(termios, code);
                0
            }
            None => fails(Errno::EINVAL),
        }
    }
    /// cfmakeraw(3).
    "GLIBC_2.2.5" fn cfmakeraw(termios: *mut Termios) {
        // IGNBRK BRKINT PARMRK ISTRIP INLCR IGNCR ICRNL IXON; OPOST; ECHO ECHONL ICANON ISIG IEXTEN.
        (*termios).iflag &= !(0o1 | 0o2 | 0o10 | 0o40 | 0o100 | 0o200 | 0o400 | 0o2000);
        (*termios).oflag &= !0o1;
        (*termios).lflag &= !(0o10 | 0o100 | 0o2 | 0o1 | 0o100_000);
        (*termios).cflag = (*termios).cflag & !(CSIZE | PARENB) | CS8;
        (*termios).cc[6] = 1; // VMIN
        (*termios).cc[5] = 0; // VTIME
    }
    /// tcflush(3).
    "GLIBC_2.2.5" fn tcflush(fd: c_int, queue: c_int) -> c_int {
        errno::int(kcall!(ioctl, fd, TCFLSH, queue))
    }
    /// tcflow(3).
    "GLIBC_2.2.5" fn tcflow(fd: c_int, action: c_int) -> c_int {
        errno::int(kcall!(ioctl, fd, TCXONC, action))
    }
    /// tcdrain(3).
    "GLIBC_2.2.5" fn tcdrain(fd: c_int) -> c_int {
        errno::int(point!(ioctl, fd, TCSBRK, 1))
    }
    /// tcsendbreak(3): the duration in milliseconds, rounded up to the kernel's tenths of a second.
    "GLIBC_2.2.5" fn tcsendbreak(fd: c_int, duration: c_int) -> c_int {
        if duration <= 0 {
            return errno::int(kcall!(ioctl, fd, TCSBRK, 0));
        }
        errno::int(kcall!(ioctl, fd, TCSBRKP, duration.saturating_add(99) / 100))
    }
    /// tcgetpgrp(3).
    "GLIBC_2.2.5" fn tcgetpgrp(fd: c_int) -> pid_t {
        let mut group: pid_t = 0;
        match kcall!(ioctl, fd, TIOCGPGRP, &raw mut group) {
            Ok(_) => group,
            Err(errno) => fails(errno),
        }
    }
    /// tcsetpgrp(3).
    "GLIBC_2.2.5" fn tcsetpgrp(fd: c_int, group: pid_t) -> c_int {
        errno::int(kcall!(ioctl, fd, TIOCSPGRP, &raw const group))
    }
    /// tcgetsid(3).
    "GLIBC_2.2.5" fn tcgetsid(fd: c_int) -> pid_t {
        let mut session: pid_t = 0;
        match kcall!(ioctl, fd, TIOCGSID, &raw mut session) {
            Ok(_) => session,
            Err(errno) => fails(errno),
        }
    }
    /// isatty(3).
    "GLIBC_2.2.5" fn isatty(fd: c_int) -> c_int {
        match get(fd) {
            Ok(_) => 1,
            Err(errno) => {
                errno::set(errno);
                0
            }
        }
    }
    /// ttyname(3).
    "GLIBC_2.2.5" fn ttyname(fd: c_int) -> *mut c_char {
        static BUFFER: crate::data::DataCell<[c_char; 4096]> = crate::data::DataCell::new([0; 4096]);
        match ttyname_r(fd, BUFFER.get().cast(), 4096) {
            0 => BUFFER.get().cast(),
            _ => null_mut(),
        }
    }
    /// ttyname_r(3): answers the error number.
    "GLIBC_2.2.5" fn ttyname_r(fd: c_int, into: *mut c_char, room: usize) -> c_int {
        let result = if into.is_null() { Err(Errno::EINVAL) } else { name_of(fd) };
        let result = result.and_then(|name| if name.len() < room { Ok(name) } else { Err(Errno::ERANGE) });
        match result {
            Ok(name) => {
                core::ptr::copy_nonoverlapping(name.as_ptr(), into.cast(), name.len());
                into.add(name.len()).write(0);
                0
            }
            Err(errno) => {
                errno::set(errno);
                errno.0
            }
        }
    }
    /// Checked ttyname_r(3).
    "GLIBC_2.4" fn __ttyname_r_chk(fd: c_int, into: *mut c_char, length: usize, room: usize) -> c_int {
        if room < length {
            crate::fortify::__chk_fail();
        }
        ttyname_r(fd, into, length)
    }
    /// ctermid(3).
    "GLIBC_2.2.5" fn ctermid(into: *mut c_char) -> *mut c_char {
        static NAME: crate::data::DataCell<[u8; 9]> = crate::data::DataCell::new(*b"/dev/tty\0");
        if into.is_null() {
            return NAME.get().cast();
        }
        into.cast::<[u8; 9]>().write(*b"/dev/tty\0");
        into
    }
}

/// Bauds and their codes: B0 to B38400, then B57600 to B4000000.
static BAUDS: [(c_uint, c_uint); 31] = [
    (0, 0),
    (50, 1),
    (75, 2),
    (110, 3),
    (134, 4),
    (150, 5),
    (200, 6),
    (300, 7),
    (600, 8),
    (1200, 9),
    (1800, 10),
    (2400, 11),
    (4800, 12),
    (9600, 13),
    (19200, 14),
    (38400, 15),
    (57600, 0o10001),
    (115_200, 0o10002),
    (230_400, 0o10003),
    (460_800, 0o10004),
    (500_000, 0o10005),
    (576_000, 0o10006),
    (921_600, 0o10007),
    (1_000_000, 0o10010),
    (1_152_000, 0o10011),
    (1_500_000, 0o10012),
    (2_000_000, 0o10013),
    (2_500_000, 0o10014),
    (3_000_000, 0o10015),
    (3_500_000, 0o10016),
    (4_000_000, 0o10017),
];

/// `struct stat` as words: device 0, inode 1, mode in 3, device number 5.
type StatWords = [u64; 18];
const AT_FDCWD: isize = -100;

fn state(path: &[u8]) -> Option<StatWords> {
    let name = [path, b"\0"].concat();
    let mut stat: StatWords = [0; 18];
    // SAFETY: a C string in, 144 bytes out.
    unsafe { kcall!(newfstatat, AT_FDCWD, name.as_ptr(), stat.as_mut_ptr(), 0) }.ok().map(|_| stat)
}

fn is_same(a: &StatWords, b: &StatWords) -> bool {
    const KIND: u64 = 0o170_000;
    const CHARACTER: u64 = 0o020_000;
    (a[0], a[1], a[5]) == (b[0], b[1], b[5]) && b[3] & KIND == CHARACTER
}

/// The device's path: what /proc says, if that is the same device here; else found by its number.
fn name_of(fd: c_int) -> Result<Vec<u8>, Errno> {
    get(fd)?;
    let mut stat: StatWords = [0; 18];
    // SAFETY: 144 bytes out.
    unsafe { kcall!(fstat, fd, stat.as_mut_ptr())? };
    let mut name = alloc::vec![0u8; 4096];
    let link = alloc::format!("/proc/self/fd/{fd}\0");
    // SAFETY: a C string in, our buffer out.
    if let Ok(length) = unsafe { kcall!(readlinkat, AT_FDCWD, link.as_ptr(), name.as_mut_ptr(), 4096) } {
        name.truncate(length);
        let name = name.strip_prefix(b"(unreachable)").unwrap_or(&name);
        if state(name).is_some_and(|there| is_same(&stat, &there)) {
            return Ok(name.to_vec());
        }
    }
    search(b"/dev/pts/", &stat).or_else(|| search(b"/dev/", &stat)).ok_or(Errno::ENODEV)
}

fn search(directory: &[u8], stat: &StatWords) -> Option<Vec<u8>> {
    let entries = crate::dir_read::read(directory).ok()?;
    let links: [&[u8]; 3] = [b"stdin", b"stdout", b"stderr"];
    entries
        .into_iter()
        .filter(|entry| entry.inode == stat[1] && !links.contains(&&entry.name[..]))
        .map(|entry| [directory, &entry.name].concat())
        .find(|path| state(path).is_some_and(|there| is_same(stat, &there)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fresh terminal of the host: master and slave.
    fn terminal() -> (c_int, c_int) {
        let (mut master, mut slave) = (0, 0);
        // SAFETY: out pointers.
        let status = unsafe { libc::openpty(&mut master, &mut slave, null_mut(), null_mut(), null_mut()) };
        assert_eq!(status, 0, "the host gives terminals");
        (master, slave)
    }

    #[test]
    fn settings_are_the_hosts() {
        let (master, slave) = terminal();
        // SAFETY: libc's struct has the same layout; all-zero is a value of ours.
        unsafe {
            let (mut ours, mut theirs): (Termios, Termios) = (core::mem::zeroed(), core::mem::zeroed());
            assert_eq!(tcgetattr(slave, &raw mut ours), 0);
            assert_eq!(libc::tcgetattr(slave, (&raw mut theirs).cast()), 0);
            assert_eq!(ours, theirs);
            cfmakeraw(&raw mut ours);
            libc::cfmakeraw((&raw mut theirs).cast());
            assert_eq!(ours, theirs);
            for speed in [0, 13, 9600, 115_200, 0o10002, 12345, 0o10020, 1 << 20] {
                let mine = (cfsetspeed(&raw mut ours, speed), cfgetispeed(&raw const ours));
                let host = (
                    libc::cfsetspeed((&raw mut theirs).cast(), speed),
                    libc::cfgetispeed((&raw const theirs).cast()),
                );
                assert_eq!((mine, ours), (host, theirs), "{speed}");
                assert_eq!(
                    cfsetospeed(&raw mut ours, speed),
                    libc::cfsetospeed((&raw mut theirs).cast(), speed),
                    "{speed}"
                );
            }
            cfsetspeed(&raw mut ours, 9600);
            assert_eq!(tcsetattr(slave, 0, &raw const ours), 0);
            assert_eq!(tcsetattr(slave, 9, &raw const ours), -1);
            assert_eq!(libc::tcgetattr(slave, (&raw mut theirs).cast()), 0);
            assert_eq!((ours.lflag, ours.cflag), (theirs.lflag, theirs.cflag));
            assert_eq!((tcflush(slave, 2), tcdrain(slave)), (0, 0));
            libc::close(master);
            libc::close(slave);
        }
    }

    #[test]
    fn names_terminals() {
        let (master, slave) = terminal();
        let mut small = [0; 4];
        // SAFETY: our own buffers.
        unsafe {
            let ours = core::ffi::CStr::from_ptr(ttyname(slave));
            let theirs = core::ffi::CStr::from_ptr(libc::ttyname(slave));
            assert_eq!(ours, theirs);
            assert_eq!(ttyname_r(slave, small.as_mut_ptr(), 4), Errno::ERANGE.0);
            let null = libc::open(c"/dev/null".as_ptr(), 0);
            assert_eq!((isatty(slave), isatty(null)), (1, 0));
            assert_eq!(errno::get(), Errno::ENOTTY);
            for fd in [master, slave, null] {
                libc::close(fd);
            }
        }
    }
}
