//! Streams come and go: fopen, fdopen, freopen, fclose, tmpfile.
//!
//! Left out: `m` in a mode (mmap the file) reads as usual, which a program cannot tell apart; `c`
//! (not a cancellation point) has no effect. `,ccs=` knows UTF-8 and ASCII.

use super::file::{EOF, FILE, flag, link, unlink};
use super::fsops;
use super::mb::Encoding;
use super::stream::{FD_OPS, Ops};
use crate::errno;
use crate::kcall;
use crate::malloc;
use crate::types::*;
use core::ffi::CStr;
use core::ptr::null_mut;
use platform::Errno;

const O_WRONLY: c_int = 1;
const O_RDWR: c_int = 2;
const O_ACCMODE: c_int = 3;
const O_CREAT: c_int = 0o100;
const O_EXCL: c_int = 0o200;
const O_TRUNC: c_int = 0o1000;
const O_APPEND: c_int = 0o2000;
const O_CLOEXEC: c_int = 0o2000000;
const O_TMPFILE: c_int = 0o20200000;
const F_GETFL: c_int = 3;
const F_SETFL: c_int = 4;
const SEEK_END: c_int = 2;

/// A parsed mode string.
#[derive(Clone, Copy)]
pub(crate) struct Mode {
    /// For open(2).
    pub(crate) open: c_int,
    /// For `FILE::flags`.
    pub(crate) flags: c_int,
    encoding: Option<Encoding>,
}

/// Reads `r`, `w` or `a` and up to six further letters, unknown ones being ignored (glibc), and
/// `,ccs=NAME` behind.
pub(crate) fn parse_mode(mode: &CStr) -> Result<Mode, Errno> {
    let text = mode.to_bytes();
    let (mut open, mut flags) = match text.first() {
        Some(b'r') => (0, flag::NO_WRITES),
        Some(b'w') => (O_WRONLY | O_CREAT | O_TRUNC, flag::NO_READS),
        Some(b'a') => (O_WRONLY | O_CREAT | O_APPEND, flag::NO_READS | flag::IS_APPENDING),
        _ => return Err(Errno::EINVAL),
    };
    for letter in text.iter().skip(1).take(6) {
        match letter {
            b'+' => {
                open = (open & !O_ACCMODE) | O_RDWR;
                flags &= flag::IS_APPENDING;
            }
            b'x' => open |= O_EXCL,
            b'e' => open |= O_CLOEXEC,
            b',' => break,
            _ => {}
        }
    }
    let encoding = match memchr::memmem::find(text, b",ccs=") {
        Some(at) => Some(Encoding::named(&text[at + 5..]).ok_or(Errno::EINVAL)?),
        None => None,
    };
    Ok(Mode { open, flags, encoding })
}

/// A new stream over a descriptor.
fn over_descriptor(fd: c_int, mode: Mode) -> Result<*mut FILE, Errno> {
    let file = create(mode.flags | flag::IS_FILEBUF, fd, &FD_OPS, null_mut())?;
    // SAFETY: just made.
    unsafe { apply_mode(&mut *file, mode) };
    Ok(file)
}

fn apply_mode(file: &mut FILE, mode: Mode) {
    if let Some(encoding) = mode.encoding {
        file.encoding = encoding;
        file.mode = 1;
    }
    if mode.open & O_CLOEXEC != 0 {
        file.flags2 |= flag::F2_CLOEXEC;
    }
}

/// Allocates a stream and puts it into the list. For streams of every kind.
pub(crate) fn create(
    flags: c_int,
    fd: c_int,
    ops: &'static Ops,
    cookie: *mut c_void,
) -> Result<*mut FILE, Errno> {
    // SAFETY: a fresh block of the right size, initialised at once.
    unsafe {
        let file = malloc::malloc(size_of::<FILE>()).cast::<FILE>();
        if file.is_null() {
            return Err(Errno::ENOMEM);
        }
        file.write(FILE::new(flags, fd, ops));
        (*file).on_heap = true;
        (*file).cookie = cookie;
        (*file).lock_ptr = &raw mut (*file).lock;
        link(file);
        Ok(file)
    }
}

fn open_file(path: *const c_char, mode: &CStr) -> Result<*mut FILE, Errno> {
    let mode = parse_mode(mode)?;
    let fd = fsops::open(path, mode.open, 0o666)?;
    position_append(fd, mode).and_then(|()| over_descriptor(fd, mode)).inspect_err(|_| fsops::close(fd))
}

/// `a` without `+` starts at the end, so that `ftell` answers what glibc's does.
fn position_append(fd: c_int, mode: Mode) -> Result<(), Errno> {
    let both = flag::IS_APPENDING | flag::NO_READS;
    if mode.flags & both != both {
        return Ok(());
    }
    // SAFETY: no memory is involved.
    match unsafe { kcall!(lseek, fd, 0, SEEK_END) } {
        Ok(_) | Err(Errno::ESPIPE) => Ok(()),
        Err(error) => Err(error),
    }
}

fn open_descriptor(fd: c_int, mode: &CStr) -> Result<*mut FILE, Errno> {
    let mode = parse_mode(mode)?;
    // SAFETY: no memory is involved.
    let flags = unsafe { kcall!(fcntl, fd, F_GETFL, 0)? } as c_int;
    let access = flags & O_ACCMODE;
    if (access == 0 && mode.flags & flag::NO_WRITES == 0)
        || (access == O_WRONLY && mode.flags & flag::NO_READS == 0)
    {
        return Err(Errno::EINVAL);
    }
    if mode.flags & flag::IS_APPENDING != 0 && flags & O_APPEND == 0 {
        // SAFETY: no memory is involved.
        unsafe { kcall!(fcntl, fd, F_SETFL, flags | O_APPEND)? };
    }
    over_descriptor(fd, mode)
}

/// Flushes, gives the other end back and frees the buffers; what `fclose` answers.
fn shut(file: &mut FILE) -> c_int {
    let mut result = if file.flush_pending().is_err() { EOF } else { 0 };
    if !file.has(flag::CURRENTLY_PUTTING) {
        // The next user of the descriptor goes on where this one stopped reading (POSIX fclose).
        let saved = errno::get();
        let _ = file.flush();
        errno::set(saved);
    } else {
        let synced = file.ops.synced;
        // SAFETY: the hook works on the stream alone.
        unsafe { synced(file) };
    }
    if file.flags2 & flag::F2_NOCLOSE == 0 {
        let close = file.ops.close;
        // SAFETY: the stream owns its other end.
        match unsafe { close(file) } {
            Ok(0) => {}
            Ok(status) => result = status as c_int,
            Err(error) => {
                errno::set(error);
                result = EOF;
            }
        }
    }
    file.free_backup();
    if !file.buf_base.is_null() && !file.has(flag::USER_BUF) {
        // SAFETY: a buffer of ours came from malloc.
        unsafe { malloc::free(file.buf_base.cast()) };
    }
    file.buf_base = null_mut();
    file.buf_end = null_mut();
    file.reset_areas();
    file.fileno = -1;
    result
}

/// `fclose`.
///
/// # Safety
/// `file` is an open stream that nobody uses afterwards.
pub(crate) unsafe fn close_stream(file: *mut FILE) -> c_int {
    // The list goes first: its lock is never taken under a stream's.
    unlink(file);
    // SAFETY: the caller vouches for the stream.
    unsafe {
        (*file).lock.acquire();
        let result = shut(&mut *file);
        (*file).lock.release();
        if (*file).on_heap {
            malloc::free(file.cast());
        } else {
            (*file).flags = flag::MAGIC | flag::NO_READS | flag::NO_WRITES;
        }
        result
    }
}

/// freopen(3): the descriptor number stays, so that children and `fileno` see the new file there.
fn reopen(path: *const c_char, mode: &CStr, file: *mut FILE) -> Result<*mut FILE, Errno> {
    let mode = parse_mode(mode)?;
    let mut own_path = [0u8; 32];
    locked!(file, |f| {
        let fd = f.fileno;
        let path = if path.is_null() { descriptor_path(fd, &mut own_path)? } else { path };
        f.flags2 |= flag::F2_NOCLOSE;
        shut(f);
        if !core::ptr::eq(f.ops, &FD_OPS) {
            let close = f.ops.close;
            // SAFETY: the stream owns its other end.
            let _ = unsafe { close(f) };
        }
        let opened = fsops::open(path, mode.open, 0o666).and_then(|new| keep_number(new, fd, mode));
        let (on_heap, linked) = (f.on_heap, f.flags & (flag::LINKED | flag::USER_LOCK));
        let closed = flag::NO_READS | flag::NO_WRITES;
        f.flags = flag::MAGIC | linked | if opened.is_ok() { mode.flags | flag::IS_FILEBUF } else { closed };
        f.flags2 = 0;
        f.ops = &FD_OPS;
        f.offset = -1;
        f.mode = 0;
        f.wanted_buffer = 0;
        f.encoding = Encoding::Locale;
        f.on_heap = on_heap;
        let new = opened.inspect_err(|_| {
            if fd >= 0 {
                fsops::close(fd)
            }
        })?;
        f.fileno = new;
        apply_mode(f, mode);
        position_append(new, mode)?;
        Ok(file)
    })
}

fn keep_number(new: c_int, old: c_int, mode: Mode) -> Result<c_int, Errno> {
    if old < 0 || new == old {
        return Ok(new);
    }
    // SAFETY: both descriptors are the stream's.
    let moved = unsafe { kcall!(dup3, new, old, mode.open & O_CLOEXEC) };
    fsops::close(new);
    moved.map(|_| old)
}

/// "/proc/self/fd/N": how a stream without a name is opened again with another mode.
fn descriptor_path(fd: c_int, into: &mut [u8; 32]) -> Result<*const c_char, Errno> {
    let mut digits = [0u8; 10];
    let Ok(mut number) = u32::try_from(fd) else { return Err(Errno::EBADF) };
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    let prefix = b"/proc/self/fd/";
    into[..prefix.len()].copy_from_slice(prefix);
    into[prefix.len()..prefix.len() + digits.len() - at].copy_from_slice(&digits[at..]);
    Ok(into.as_ptr().cast())
}

/// An open file without a name: O_TMPFILE, or a name that is removed at once.
fn temporary() -> Result<c_int, Errno> {
    match fsops::open(c"/tmp".as_ptr(), O_RDWR | O_EXCL | O_TMPFILE, 0o600) {
        Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::ENOENT | Errno::EINVAL) => temporary_by_name(),
        other => other,
    }
}

fn temporary_by_name() -> Result<c_int, Errno> {
    for _ in 0..100 {
        let mut random = [0u8; 8];
        // SAFETY: eight bytes of ours.
        unsafe { kcall!(getrandom, random.as_mut_ptr(), 8, 0)? };
        let mut path = *b"/tmp/tmpfXXXXXXXX\0";
        for (letter, random) in path[9..17].iter_mut().zip(random) {
            *letter = b"abcdefghijklmnopqrstuvwxyz012345"[usize::from(random & 31)];
        }
        match fsops::open(path.as_ptr().cast(), O_RDWR | O_CREAT | O_EXCL, 0o600) {
            Err(Errno::EEXIST) => {}
            Ok(fd) => {
                // SAFETY: a C string of ours.
                let _ = unsafe { kcall!(unlinkat, -100i32, path.as_ptr(), 0) };
                return Ok(fd);
            }
            error => return error,
        }
    }
    Err(Errno::EEXIST)
}

abi! { EXPORTS "libc.so.6":
    /// fopen(3).
    "GLIBC_2.2.5" fn fopen(path: *const c_char, mode: *const c_char) -> *mut FILE {
        // SAFETY: C strings.
        errno::or_null(open_file(path, unsafe { CStr::from_ptr(mode) }))
    }
    /// fdopen(3).
    "GLIBC_2.2.5" fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE {
        // SAFETY: a C string.
        errno::or_null(open_descriptor(fd, unsafe { CStr::from_ptr(mode) }))
    }
    /// freopen(3).
    "GLIBC_2.2.5" fn freopen(path: *const c_char, mode: *const c_char, file: *mut FILE) -> *mut FILE {
        // SAFETY: C strings.
        errno::or_null(reopen(path, unsafe { CStr::from_ptr(mode) }, file))
    }
    /// fclose(3).
    "GLIBC_2.2.5" fn fclose(file: *mut FILE) -> c_int {
        // SAFETY: an open stream that the program gives up.
        unsafe { close_stream(file) }
    }
    /// fcloseall(3): glibc flushes everything and leaves the streams unbuffered.
    "GLIBC_2.2.5" fn fcloseall() -> c_int {
        super::buffer::flush_all();
        0
    }
    /// tmpfile(3).
    "GLIBC_2.2.5" fn tmpfile() -> *mut FILE {
        errno::or_null(temporary().and_then(|fd| {
            let mode = Mode { open: O_RDWR, flags: 0, encoding: None };
            over_descriptor(fd, mode).inspect_err(|_| fsops::close(fd))
        }))
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "fopen64" = fopen;
    alias "GLIBC_2.2.5" "freopen64" = freopen;
    alias "GLIBC_2.2.5" "tmpfile64" = tmpfile;
    alias "GLIBC_2.2.5" "_IO_fopen" = fopen;
    alias "GLIBC_2.2.5" "_IO_fdopen" = fdopen;
    alias "GLIBC_2.2.5" "_IO_fclose" = fclose;
}
