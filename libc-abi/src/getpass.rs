//! Old interfaces around users: getpass(3), getusershell(3), cuserid(3); mtrace(3).

use crate::data::DataCell;
use crate::errno;
use crate::futex::Lock;
use crate::kcall;
use crate::termios::{Termios, tcgetattr, tcsetattr};
use crate::types::*;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ptr::null_mut;

const AT_FDCWD: isize = -100;
const O_RDWR: usize = 2;

abi! { EXPORTS "libc.so.6":
    /// getpass(3): from the terminal, without echo.
    "GLIBC_2.2.5" fn getpass(prompt: *const c_char) -> *mut c_char {
        // SAFETY: the program's string; the static buffer is this function's (it is not thread-safe).
        unsafe { errno::or_null(ask(CStr::from_ptr(prompt).to_bytes())) }
    }
    /// getusershell(3).
    "GLIBC_2.2.5" fn getusershell() -> *mut c_char {
        let mut shells = SHELLS.lock();
        if shells.text.is_none() {
            shells.load();
        }
        shells.next()
    }
    /// setusershell(3).
    "GLIBC_2.2.5" fn setusershell() {
        SHELLS.lock().load();
    }
    /// endusershell(3).
    "GLIBC_2.2.5" fn endusershell() {
        SHELLS.lock().text = None;
    }
    /// cuserid(3).
    "GLIBC_2.2.5" fn cuserid(to: *mut c_char) -> *mut c_char {
        const L_CUSERID: usize = 9;
        static NAME: DataCell<[c_char; L_CUSERID]> = DataCell::new([0; L_CUSERID]);
        // SAFETY: the program's buffer of L_cuserid bytes or ours; the user database's string.
        unsafe {
            let user = crate::pwd::getpwuid(kcall!(geteuid).unwrap_or(0) as uid_t);
            if user.is_null() {
                if !to.is_null() {
                    to.write(0);
                }
                return to;
            }
            let to = if to.is_null() { NAME.get().cast() } else { to };
            let name = CStr::from_ptr((*user).pw_name).to_bytes();
            let len = name.len().min(L_CUSERID - 1);
            core::ptr::copy_nonoverlapping(name.as_ptr(), to.cast(), len);
            to.add(len).write(0);
            to
        }
    }
    /// mtrace(3): since 2.34 only libc_malloc_debug.so does anything here.
    "GLIBC_2.2.5" fn mtrace() {}
    /// muntrace(3).
    "GLIBC_2.2.5" fn muntrace() {}
}

unsafe fn ask(prompt: &[u8]) -> Result<*mut c_char, platform::Errno> {
    const ISIG: c_uint = 1;
    const ECHO: c_uint = 0o10;
    const TCSAFLUSH: c_int = 2;
    const PASS_MAX: usize = 512;
    static ANSWER: DataCell<[u8; PASS_MAX]> = DataCell::new([0; PASS_MAX]);
    // SAFETY: our own buffers and structs.
    unsafe {
        let opened =
            kcall!(openat, AT_FDCWD, c"/dev/tty".as_ptr(), O_RDWR | crate::fcntl::O_CLOEXEC as usize, 0);
        let (input, output) = opened.map_or((0, 2), |fd| (fd as c_int, fd as c_int));
        let mut before: Termios = core::mem::zeroed();
        let is_terminal = tcgetattr(input, &raw mut before) == 0;
        if is_terminal {
            let mut silent = before;
            silent.lflag &= !(ECHO | ISIG);
            tcsetattr(input, TCSAFLUSH, &raw const silent);
        }
        let _ = kcall!(write, output, prompt.as_ptr(), prompt.len());
        let to: *mut u8 = ANSWER.get().cast();
        let mut len = 0;
        let result = loop {
            let mut byte = 0u8;
            match kcall!(read, input, &raw mut byte, 1) {
                Ok(0) => break if len == 0 { Err(platform::Errno(0)) } else { Ok(()) },
                Ok(_) if byte == b'\n' => break Ok(()),
                Ok(_) => {
                    if len < PASS_MAX - 1 {
                        to.add(len).write(byte);
                        len += 1;
                    }
                }
                Err(errno) => break Err(errno),
            }
        };
        to.add(len).write(0);
        if is_terminal {
            let _ = kcall!(write, output, b"\n".as_ptr(), 1);
            tcsetattr(input, TCSAFLUSH, &raw const before);
        }
        if let Ok(fd) = opened {
            let _ = kcall!(close, fd);
        }
        result.map(|()| to.cast())
    }
}

/// /etc/shells, line by line; NULs in place of line ends.
struct Shells {
    text: Option<Vec<u8>>,
    at: usize,
}
static SHELLS: Lock<Shells> = Lock::new(Shells { text: None, at: 0 });

impl Shells {
    fn load(&mut self) {
        self.at = 0;
        self.text = Some(read_shells().unwrap_or_else(|| b"/bin/sh\0/bin/csh\0".to_vec()));
    }

    fn next(&mut self) -> *mut c_char {
        let Some(text) = &mut self.text else { return null_mut() };
        if self.at >= text.len() {
            return null_mut();
        }
        let start = self.at;
        self.at += text[start..].iter().position(|&b| b == 0).map_or(text.len() - start, |len| len + 1);
        text[start..].as_mut_ptr().cast()
    }
}

fn read_shells() -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 1024];
    // SAFETY: our own path and buffer.
    unsafe {
        let fd = kcall!(openat, AT_FDCWD, c"/etc/shells".as_ptr(), crate::fcntl::O_CLOEXEC, 0).ok()?;
        while let Ok(got @ 1..) = kcall!(read, fd, buffer.as_mut_ptr(), buffer.len()) {
            bytes.extend_from_slice(&buffer[..got]);
        }
        let _ = kcall!(close, fd);
    }
    let mut shells = Vec::new();
    for line in bytes.split(|&b| b == b'\n') {
        // From the first slash, up to a space or comment.
        let Some(start) = line.iter().position(|&b| matches!(b, b'/' | b'#')) else { continue };
        if line[start] == b'/' {
            let end =
                line[start..].iter().position(|b| b" \t#".contains(b)).map_or(line.len(), |e| start + e);
            shells.extend_from_slice(&line[start..end]);
            shells.push(0);
        }
    }
    Some(shells)
}
