//! <dirent.h>: directory streams over getdents64(2), whose records are C's `struct dirent`.

use crate::errno;
use crate::futex::RawLock;
use crate::kcall;
use crate::malloc::{self, imp};
use crate::types::*;
use core::ptr::null_mut;
use platform::Errno;

/// `struct dirent`: 280 bytes at most; a record has only as many as its name needs.
#[repr(C)]
pub struct Dirent {
    ino: u64,
    off: i64,
    reclen: u16,
    kind: u8,
    name: [c_char; 256],
}

const _: () = assert!(size_of::<Dirent>() == 280 && core::mem::offset_of!(Dirent, name) == 19);

/// `DIR`.
#[repr(C)]
pub struct Dir {
    fd: c_int,
    lock: RawLock,
    /// Bytes in `buffer`, and where the next record is.
    filled: usize,
    next: usize,
    /// Offset of the record that readdir returned last: telldir(3).
    position: i64,
    buffer: [u64; BUFFER / 8],
}

const BUFFER: usize = 32 << 10;
const AT_FDCWD: isize = -100;
const O_DIRECTORY: c_int = 0o200000;
const O_NONBLOCK: c_int = 0o4000;

unsafe fn open_stream(fd: c_int) -> *mut Dir {
    // The buffer need not be zeroed, the head is written.
    let dir: *mut Dir = imp::malloc(size_of::<Dir>()).cast();
    if !dir.is_null() {
        // SAFETY: fresh memory.
        unsafe {
            (&raw mut (*dir).fd).write(fd);
            (&raw mut (*dir).lock).write(RawLock::new());
            (&raw mut (*dir).filled).write(0);
            (&raw mut (*dir).next).write(0);
            (&raw mut (*dir).position).write(0);
        }
    }
    dir
}

/// The next record; null at the end or with `errno` set.
unsafe fn next_entry(dir: *mut Dir) -> Result<*mut Dirent, Errno> {
    // SAFETY: the caller's stream, locked.
    unsafe {
        if (*dir).next >= (*dir).filled {
            let buffer = (&raw mut (*dir).buffer).cast::<u8>();
            let got = match kcall!(getdents64, (*dir).fd, buffer, BUFFER) {
                // The directory was removed: its end (POSIX).
                Err(Errno::ENOENT) => 0,
                result => result?,
            };
            (*dir).filled = got;
            (*dir).next = 0;
            if got == 0 {
                return Ok(null_mut());
            }
        }
        let entry: *mut Dirent = (&raw mut (*dir).buffer).cast::<u8>().add((*dir).next).cast();
        (*dir).next += (*entry).reclen as usize;
        (*dir).position = (*entry).off;
        Ok(entry)
    }
}

unsafe fn rewind_to(dir: *mut Dir, position: i64) {
    // SAFETY: the caller's stream.
    unsafe {
        (*dir).lock.lock();
        let _ = kcall!(lseek, (*dir).fd, position, 0);
        (*dir).filled = 0;
        (*dir).next = 0;
        (*dir).position = position;
        (*dir).lock.unlock();
    }
}

abi! { EXPORTS "libc.so.6":
    /// opendir(3).
    "GLIBC_2.2.5" fn opendir(path: *const c_char) -> *mut Dir {
        // SAFETY: the program's path.
        unsafe { errno::or_null(open_at(AT_FDCWD, path)) }
    }
    /// fdopendir(3).
    "GLIBC_2.4" fn fdopendir(fd: c_int) -> *mut Dir {
        let mut state = crate::stat::Stat::default();
        // SAFETY: our own struct.
        unsafe {
            if let Err(errno) = kcall!(fstat, fd, &raw mut state) {
                return errno::or_null(Err(errno));
            }
            if state.mode & 0o170000 != 0o040000 {
                return errno::or_null(Err(Errno::ENOTDIR));
            }
            open_stream(fd)
        }
    }
    /// closedir(3).
    "GLIBC_2.2.5" fn closedir(dir: *mut Dir) -> c_int {
        if dir.is_null() {
            return errno::int(Err(Errno::EINVAL));
        }
        // SAFETY: the program's stream, given up.
        unsafe {
            let fd = (*dir).fd;
            imp::free(dir.cast());
            errno::int(kcall!(close, fd))
        }
    }
    /// readdir(3).
    "GLIBC_2.2.5" fn readdir(dir: *mut Dir) -> *mut Dirent {
        // SAFETY: the program's stream.
        unsafe {
            (*dir).lock.lock();
            let result = next_entry(dir);
            (*dir).lock.unlock();
            errno::or_null(result)
        }
    }
    /// readdir_r(3): the error number itself.
    "GLIBC_2.2.5" fn readdir_r(dir: *mut Dir, to: *mut Dirent, result: *mut *mut Dirent) -> c_int {
        // SAFETY: the program's stream and memory.
        unsafe {
            (*dir).lock.lock();
            let answer = match next_entry(dir) {
                Ok(entry) if entry.is_null() => {
                    result.write(null_mut());
                    0
                }
                Ok(entry) => {
                    let len = (*entry).reclen as usize;
                    core::ptr::copy_nonoverlapping(entry.cast::<u8>(), to.cast(), len.min(size_of::<Dirent>()));
                    result.write(to);
                    0
                }
                Err(errno) => {
                    result.write(null_mut());
                    errno.0
                }
            };
            (*dir).lock.unlock();
            answer
        }
    }
    /// rewinddir(3).
    "GLIBC_2.2.5" fn rewinddir(dir: *mut Dir) {
        // SAFETY: the program's stream; so below.
        unsafe { rewind_to(dir, 0) }
    }
    /// seekdir(3).
    "GLIBC_2.2.5" fn seekdir(dir: *mut Dir, position: c_long) {
        // SAFETY: as above.
        unsafe { rewind_to(dir, position) }
    }
    /// telldir(3).
    "GLIBC_2.2.5" fn telldir(dir: *mut Dir) -> c_long {
        // SAFETY: as above.
        unsafe { (*dir).position }
    }
    /// dirfd(3).
    "GLIBC_2.2.5" fn dirfd(dir: *mut Dir) -> c_int {
        // SAFETY: as above.
        unsafe { (*dir).fd }
    }
    /// getdents64(2).
    "GLIBC_2.30" fn getdents64(fd: c_int, to: *mut c_void, len: usize) -> isize {
        // SAFETY: the program's buffer.
        errno::or_minus_one(unsafe { kcall!(getdents64, fd, to, len.min(i32::MAX as usize)) })
    }
    /// alphasort(3).
    "GLIBC_2.2.5" fn alphasort(a: *const *const Dirent, b: *const *const Dirent) -> c_int {
        // SAFETY: scandir's entries.
        unsafe { crate::string::strcoll((&raw const (**a).name).cast(), (&raw const (**b).name).cast()) }
    }
    /// versionsort(3).
    "GLIBC_2.2.5" fn versionsort(a: *const *const Dirent, b: *const *const Dirent) -> c_int {
        // SAFETY: scandir's entries.
        unsafe { crate::strings_search::strverscmp((&raw const (**a).name).cast(), (&raw const (**b).name).cast()) }
    }
    /// scandir(3).
    "GLIBC_2.2.5" fn scandir(
        path: *const c_char, to: *mut *mut *mut Dirent, select: Option<Select>, compare: Option<Compare>,
    ) -> c_int {
        // SAFETY: forwarded.
        unsafe { scan(AT_FDCWD, path, to, select, compare) }
    }
    /// scandirat(3).
    "GLIBC_2.15" fn scandirat(
        at: c_int, path: *const c_char, to: *mut *mut *mut Dirent, select: Option<Select>,
        compare: Option<Compare>,
    ) -> c_int {
        // SAFETY: forwarded.
        unsafe { scan(at as isize, path, to, select, compare) }
    }
    /// getdirentries(3).
    "GLIBC_2.2.5" fn getdirentries(fd: c_int, to: *mut c_char, len: usize, base: *mut off_t) -> isize {
        // SAFETY: the program's buffer and word.
        unsafe {
            let at = kcall!(lseek, fd, 0, 1);
            let result = kcall!(getdents64, fd, to, len);
            if let (Ok(at), Ok(_)) = (at, result) {
                base.write(at as off_t);
            }
            errno::or_minus_one(result)
        }
    }
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.2.5" "readdir64" = readdir;
    alias "GLIBC_2.2.5" "readdir64_r" = readdir_r;
    alias "GLIBC_2.2.5" "alphasort64" = alphasort;
    alias "GLIBC_2.2.5" "versionsort64" = versionsort;
    alias "GLIBC_2.2.5" "scandir64" = scandir;
    alias "GLIBC_2.15" "scandirat64" = scandirat;
    alias "GLIBC_2.2.5" "getdirentries64" = getdirentries;
}

type Select = unsafe extern "C" fn(*const Dirent) -> c_int;
type Compare = unsafe extern "C" fn(*const *const Dirent, *const *const Dirent) -> c_int;

unsafe fn open_at(at: isize, path: *const c_char) -> Result<*mut Dir, Errno> {
    // SAFETY: the caller's path.
    unsafe {
        // O_NONBLOCK: a FIFO of that name must not hold us up.
        let flags = O_DIRECTORY | O_NONBLOCK | crate::fcntl::O_CLOEXEC;
        let fd = kcall!(openat, at, path, flags, 0)?;
        let dir = open_stream(fd as c_int);
        if dir.is_null() {
            let _ = kcall!(close, fd);
            return Err(Errno::ENOMEM);
        }
        Ok(dir)
    }
}

unsafe fn scan(
    at: isize,
    path: *const c_char,
    to: *mut *mut *mut Dirent,
    select: Option<Select>,
    compare: Option<Compare>,
) -> c_int {
    // SAFETY: the program's path and functions; records are copied into blocks of the C heap.
    unsafe {
        let dir = match open_at(at, path) {
            Ok(dir) => dir,
            Err(errno) => return errno::int(Err(errno)),
        };
        let (mut list, mut count, mut room): (*mut *mut Dirent, usize, usize) = (null_mut(), 0, 0);
        let result = loop {
            let entry = match next_entry(dir) {
                Ok(entry) if entry.is_null() => break Ok(()),
                Ok(entry) => entry,
                Err(errno) => break Err(errno),
            };
            if select.is_some_and(|select| select(entry) == 0) {
                continue;
            }
            if count == room {
                room = (room * 2).max(16);
                let grown = malloc::realloc(list.cast(), room * 8).cast::<*mut Dirent>();
                if grown.is_null() {
                    break Err(Errno::ENOMEM);
                }
                list = grown;
            }
            let len = (*entry).reclen as usize;
            let copy = malloc::malloc(len);
            if copy.is_null() {
                break Err(Errno::ENOMEM);
            }
            core::ptr::copy_nonoverlapping(entry.cast::<u8>(), copy.cast(), len);
            list.add(count).write(copy.cast());
            count += 1;
        };
        closedir(dir);
        if let Err(errno) = result {
            (0..count).for_each(|entry| malloc::free((*list.add(entry)).cast()));
            malloc::free(list.cast());
            return errno::int(Err(errno));
        }
        if let Some(compare) = compare
            && count > 1
        {
            core::slice::from_raw_parts_mut(list, count)
                .sort_by(|a, b| compare((&raw const *a).cast(), (&raw const *b).cast()).cmp(&0));
        }
        to.write(list);
        count as c_int
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ffi::CStr;
    use std::borrow::ToOwned;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    #[test]
    fn lists_what_the_host_lists() {
        let path = c"/usr/include";
        let theirs: BTreeSet<Vec<u8>> = std::fs::read_dir("/usr/include")
            .unwrap()
            .map(|e| e.unwrap().file_name().into_encoded_bytes())
            .collect();
        let mut ours = BTreeSet::new();
        // SAFETY: our own stream.
        unsafe {
            let dir = opendir(path.as_ptr());
            while let Some(entry) = readdir(dir).as_ref() {
                let name = CStr::from_ptr(entry.name.as_ptr()).to_bytes().to_vec();
                assert!(name == b"." || name == b".." || ours.insert(name));
            }
            assert_eq!(closedir(dir), 0);
        }
        assert_eq!(ours, theirs);
        // SAFETY: our own streams.
        unsafe {
            let mut list = null_mut();
            let count = scandir(path.as_ptr(), &raw mut list, None, Some(alphasort));
            assert_eq!(count as usize, theirs.len() + 2);
            for at in 0..count as usize {
                malloc::free((*list.add(at)).cast());
            }
            malloc::free(list.cast());
            assert!(opendir(c"/nothing".as_ptr()).is_null());
            assert_eq!(errno::get(), Errno::ENOENT);
            assert!(opendir(c"/etc/passwd".as_ptr()).is_null());
            assert_eq!(errno::get(), Errno::ENOTDIR);
        }
    }

    #[test]
    fn tells_and_seeks() {
        // SAFETY: our own stream.
        unsafe {
            let dir = opendir(c"/usr/include".as_ptr());
            let name = |e: *mut Dirent| CStr::from_ptr((&raw const (*e).name).cast()).to_owned();
            for _ in 0..3 {
                readdir(dir);
            }
            let position = telldir(dir);
            let fourth = name(readdir(dir));
            while !readdir(dir).is_null() {}
            seekdir(dir, position);
            assert_eq!(name(readdir(dir)), fourth);
            rewinddir(dir);
            assert!(!readdir(dir).is_null());
            assert_eq!(closedir(dir), 0);
        }
    }
}
