//! popen(3) and pclose(3): a stream to or from a shell's command.
//!
//! Left out: fclose(3) on such a stream does not wait for the command (glibc's does).

use crate::errno;
use crate::futex::Lock;
use crate::kcall;
use crate::malloc::imp;
use crate::point;
use crate::spawn;
use crate::stdio::{FILE, fclose, open::fdopen};
use crate::types::*;
use core::ffi::CStr;
use core::ptr::null_mut;
use platform::Errno;

/// A command that runs.
struct Running {
    file: *mut FILE,
    pid: pid_t,
    fd: c_int,
    next: *mut Running,
}

struct List {
    first: *mut Running,
}
// SAFETY: reached under the lock.
unsafe impl Send for List {}
static LIST: Lock<List> = Lock::new(List { first: null_mut() });

abi! { EXPORTS "libc.so.6":
    /// popen(3).
    "GLIBC_2.2.5" fn popen(command: *const c_char, mode: *const c_char) -> *mut FILE {
        // SAFETY: the program's strings.
        errno::or_null(unsafe { start(command, CStr::from_ptr(mode).to_bytes()) })
    }
    /// pclose(3): the command's status; a cancellation point.
    "GLIBC_2.2.5" fn pclose(file: *mut FILE) -> c_int {
        let Some(pid) = forget(file) else { return errno::int(Err(Errno::ECHILD)) };
        let mut status = 0;
        // SAFETY: the program's stream, given up; our own child.
        unsafe {
            fclose(file);
            loop {
                match point!(wait4, pid, &raw mut status, 0, 0) {
                    Ok(_) => return status,
                    Err(Errno::EINTR) => {}
                    Err(errno) => return errno::int(Err(errno)),
                }
            }
        }
    }
}

exports! { ROWS "libc.so.6":
    alias "GLIBC_2.2.5" "_IO_popen" = popen;
}

unsafe fn start(command: *const c_char, mode: &[u8]) -> Result<*mut FILE, Errno> {
    let (mut reads, mut writes, mut close_on_exec) = (false, false, false);
    for letter in mode {
        match letter {
            b'r' => reads = true,
            b'w' => writes = true,
            b'e' => close_on_exec = true,
            _ => return Err(Errno::EINVAL),
        }
    }
    if reads == writes {
        return Err(Errno::EINVAL);
    }
    let mut ends = [0 as c_int; 2];
    // SAFETY: our own pipe, list and streams; the program's command.
    unsafe {
        kcall!(pipe2, ends.as_mut_ptr(), crate::fcntl::O_CLOEXEC)?;
        // Ours, the command's, and the command's number for it.
        let (ours, theirs, at) = if reads { (ends[0], ends[1], 1) } else { (ends[1], ends[0], 0) };
        let node: *mut Running = imp::malloc(size_of::<Running>()).cast();
        let file =
            if node.is_null() { null_mut() } else { fdopen(ours, if reads { c"r" } else { c"w" }.as_ptr()) };
        if file.is_null() {
            imp::free(node.cast());
            let _ = kcall!(close, ours);
            let _ = kcall!(close, theirs);
            return Err(Errno::ENOMEM);
        }
        let mut list = LIST.lock();
        // POSIX: streams of earlier popen calls are closed in the child.
        let mut earlier = alloc::vec::Vec::new();
        let mut running = list.first;
        while !running.is_null() {
            earlier.push((*running).fd);
            running = (*running).next;
        }
        match spawn::shell(command, theirs, at, &earlier) {
            Ok(pid) => {
                node.write(Running { file, pid, fd: ours, next: list.first });
                list.first = node;
                drop(list);
                let _ = kcall!(close, theirs);
                if !close_on_exec {
                    const F_SETFD: usize = 2;
                    let _ = kcall!(fcntl, ours, F_SETFD, 0);
                }
                Ok(file)
            }
            Err(errno) => {
                drop(list);
                let _ = kcall!(close, theirs);
                fclose(file);
                imp::free(node.cast());
                Err(errno)
            }
        }
    }
}

/// Takes a stream off the list; its command's id.
fn forget(file: *mut FILE) -> Option<pid_t> {
    let mut list = LIST.lock();
    // SAFETY: nodes on the list are ours.
    unsafe {
        let mut link = &raw mut list.first;
        while let Some(node) = (*link).as_mut() {
            if node.file == file {
                let pid = node.pid;
                let gone = *link;
                *link = node.next;
                imp::free(gone.cast());
                return Some(pid);
            }
            link = &raw mut node.next;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_commands() {
        // SAFETY: our own commands.
        unsafe {
            let file = popen(c"echo one; exit 5".as_ptr(), c"re".as_ptr());
            let mut line = [0u8; 16];
            assert!(!crate::stdio::fgets(line.as_mut_ptr().cast(), 16, file).is_null());
            assert_eq!(&line[..5], b"one\n\0");
            assert_eq!(pclose(file), 5 << 8);
            let file = popen(c"read x; test \"$x\" = hello".as_ptr(), c"w".as_ptr());
            assert!(crate::stdio::fputs(c"hello\n".as_ptr(), file) >= 0);
            assert_eq!(pclose(file), 0);
            assert!(popen(c"true".as_ptr(), c"rw".as_ptr()).is_null());
            assert_eq!(errno::get(), Errno::EINVAL);
        }
    }
}
