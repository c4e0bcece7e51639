//! Streams without a descriptor: fmemopen, open_memstream, open_wmemstream, fopencookie.
//!
//! Left out: `fmemopen@GLIBC_2.2.5`, the old binary mode of fmemopen.

use super::file::{FILE, flag};
use super::mb::Encoding;
use super::open::{create, parse_mode};
use super::stream::{Ops, nothing};
use crate::errno;
use crate::malloc;
use crate::types::*;
use alloc::boxed::Box;
use core::ffi::CStr;
use platform::Errno;

/// `cookie_io_functions_t`: passed by value, 32 bytes on the stack.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CookieFunctions {
    read: Option<unsafe extern "C" fn(*mut c_void, *mut c_char, usize) -> ssize_t>,
    write: Option<unsafe extern "C" fn(*mut c_void, *const c_char, usize) -> ssize_t>,
    seek: Option<unsafe extern "C" fn(*mut c_void, *mut i64, c_int) -> c_int>,
    close: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
}

#[cfg(test)]
impl CookieFunctions {
    /// Functions that only write.
    pub(crate) fn writing(
        write: unsafe extern "C" fn(*mut c_void, *const c_char, usize) -> ssize_t,
    ) -> CookieFunctions {
        CookieFunctions { read: None, write: Some(write), seek: None, close: None }
    }
}

struct Cookie {
    theirs: *mut c_void,
    functions: CookieFunctions,
}

static COOKIE_OPS: Ops =
    Ops { read: cookie_read, write: cookie_write, seek: cookie_seek, close: cookie_close, synced: nothing };

/// The state behind a stream of this module.
///
/// # Safety
/// The stream was created with a boxed `T` as its cookie.
unsafe fn state<'a, T>(file: &FILE) -> &'a mut T {
    // SAFETY: the box lives until the stream's close operation.
    unsafe { &mut *file.cookie.cast::<T>() }
}

unsafe fn cookie_read(file: &mut FILE, into: *mut u8, len: usize) -> Result<usize, Errno> {
    // SAFETY: a cookie stream; the function is the program's.
    unsafe {
        let cookie = state::<Cookie>(file);
        let Some(read) = cookie.functions.read else { return Err(errno::get()) };
        let got = read(cookie.theirs, into.cast(), len);
        usize::try_from(got).map_err(|_| errno::get())
    }
}

unsafe fn cookie_write(file: &mut FILE, from: *const u8, len: usize) -> Result<usize, Errno> {
    // SAFETY: as above.
    unsafe {
        let cookie = state::<Cookie>(file);
        let Some(write) = cookie.functions.write else { return Ok(0) };
        let put = write(cookie.theirs, from.cast(), len);
        usize::try_from(put).map_err(|_| errno::get())
    }
}

unsafe fn cookie_seek(file: &mut FILE, offset: i64, whence: c_int) -> Result<i64, Errno> {
    // SAFETY: as above.
    unsafe {
        let cookie = state::<Cookie>(file);
        let Some(seek) = cookie.functions.seek else { return Err(Errno::ESPIPE) };
        let mut at = offset;
        if seek(cookie.theirs, &raw mut at, whence) == -1 || at == -1 {
            return Err(errno::get());
        }
        Ok(at)
    }
}

unsafe fn cookie_close(file: &mut FILE) -> Result<usize, Errno> {
    // SAFETY: as above; the stream has no more use for its box.
    unsafe {
        let cookie = Box::from_raw(file.cookie.cast::<Cookie>());
        match cookie.functions.close {
            Some(close) => match close(cookie.theirs) {
                -1 => Err(errno::get()),
                status => Ok(status as usize),
            },
            None => Ok(0),
        }
    }
}

/// fmemopen's memory.
struct Window {
    base: *mut u8,
    size: usize,
    /// How much of it is the file.
    end: usize,
    at: usize,
    append: bool,
    ours: bool,
}

static WINDOW_OPS: Ops =
    Ops { read: window_read, write: window_write, seek: window_seek, close: window_close, synced: nothing };

unsafe fn window_read(file: &mut FILE, into: *mut u8, len: usize) -> Result<usize, Errno> {
    // SAFETY: `at + len` is at most `end`, which lies in the memory.
    unsafe {
        let window = state::<Window>(file);
        let len = len.min(window.end.saturating_sub(window.at));
        core::ptr::copy_nonoverlapping(window.base.add(window.at), into, len);
        window.at += len;
        Ok(len)
    }
}

/// A NUL is put behind the bytes if it fits, and always in the last byte of a stream that is not
/// appending (fmemopen(3)).
unsafe fn window_write(file: &mut FILE, from: *const u8, len: usize) -> Result<usize, Errno> {
    // SAFETY: what is written lies below `size`.
    unsafe {
        let window = state::<Window>(file);
        let at = if window.append { window.end } else { window.at };
        let terminate = len == 0 || *from.add(len - 1) != 0;
        let mut len = len;
        if at + len > window.size {
            if at + usize::from(terminate) >= window.size {
                return Err(Errno::ENOSPC);
            }
            len = window.size - at;
        }
        core::ptr::copy_nonoverlapping(from, window.base.add(at), len);
        window.at = at + len;
        if window.at > window.end {
            window.end = window.at;
            if window.end < window.size && terminate {
                *window.base.add(window.end) = 0;
            } else if !window.append && terminate {
                *window.base.add(window.size - 1) = 0;
            }
        }
        Ok(len)
    }
}

unsafe fn window_seek(file: &mut FILE, offset: i64, whence: c_int) -> Result<i64, Errno> {
    // SAFETY: a window stream.
    let window = unsafe { state::<Window>(file) };
    let target = from_origin(offset, whence, window.at, window.end).ok_or(Errno::EINVAL)?;
    if target > window.size {
        return Err(Errno::EINVAL);
    }
    window.at = target;
    Ok(target as i64)
}

unsafe fn window_close(file: &mut FILE) -> Result<usize, Errno> {
    // SAFETY: the stream has no more use for its box.
    unsafe {
        let window = Box::from_raw(file.cookie.cast::<Window>());
        if window.ours {
            malloc::free(window.base.cast());
        }
    }
    Ok(0)
}

fn from_origin(offset: i64, whence: c_int, at: usize, end: usize) -> Option<usize> {
    let origin = match whence {
        0 => 0,
        1 => at,
        2 => end,
        _ => return None,
    };
    usize::try_from((origin as i64).checked_add(offset)?).ok()
}

unsafe fn open_window(buffer: *mut c_void, size: usize, mode: &CStr) -> Result<*mut FILE, Errno> {
    let parsed = parse_mode(mode)?;
    let letters = mode.to_bytes();
    // SAFETY: the caller's memory has `size` bytes; ours as well.
    unsafe {
        let ours = buffer.is_null();
        let base = if ours { malloc::calloc(size.max(1), 1) } else { buffer }.cast::<u8>();
        if base.is_null() {
            return Err(Errno::ENOMEM);
        }
        if size > (base as usize).wrapping_neg() {
            return Err(Errno::EINVAL);
        }
        if letters.starts_with(b"w+") && size > 0 {
            *base = 0;
        }
        let text = core::slice::from_raw_parts(base, size);
        let text = memchr::memchr(0, text).unwrap_or(size);
        let append = letters[0] == b'a';
        let end = match letters[0] {
            b'r' => size,
            b'w' => 0,
            _ => text,
        };
        let at = if append { text } else { 0 };
        let window = Box::into_raw(Box::new(Window { base, size, end, at, append, ours }));
        let flags = parsed.flags & (flag::NO_READS | flag::NO_WRITES);
        create(flags, -1, &WINDOW_OPS, window.cast())
    }
}

/// open_memstream's memory. `unit` is 1, or 4 for wide characters.
struct Growing {
    place: *mut *mut u8,
    size_place: *mut usize,
    base: *mut u8,
    room: usize,
    end: usize,
    at: usize,
    unit: usize,
}

static GROWING_OPS: Ops = Ops {
    read: growing_read,
    write: growing_write,
    seek: growing_seek,
    close: growing_close,
    synced: growing_synced,
};

unsafe fn growing_read(_: &mut FILE, _: *mut u8, _: usize) -> Result<usize, Errno> {
    Err(Errno::EBADF)
}

unsafe fn growing_write(file: &mut FILE, from: *const u8, len: usize) -> Result<usize, Errno> {
    // SAFETY: the block is grown to hold the bytes and a terminator.
    unsafe {
        let memory = state::<Growing>(file);
        let needed = memory.at + len + memory.unit;
        if needed > memory.room {
            let room = needed.max(memory.room * 2);
            let block = malloc::realloc(memory.base.cast(), room).cast::<u8>();
            if block.is_null() {
                return Err(Errno::ENOMEM);
            }
            memory.base = block;
            memory.room = room;
        }
        if memory.at > memory.end {
            memory.base.add(memory.end).write_bytes(0, memory.at - memory.end);
        }
        core::ptr::copy_nonoverlapping(from, memory.base.add(memory.at), len);
        memory.at += len;
        memory.end = memory.end.max(memory.at);
        Ok(len)
    }
}

unsafe fn growing_seek(file: &mut FILE, offset: i64, whence: c_int) -> Result<i64, Errno> {
    // SAFETY: a memory stream.
    let memory = unsafe { state::<Growing>(file) };
    let target = from_origin(offset, whence, memory.at, memory.end).ok_or(Errno::EINVAL)?;
    memory.at = target;
    Ok(target as i64)
}

/// Tells the program where its bytes are: after fflush and fclose (open_memstream(3)). The size is
/// the smaller of the length and the position.
unsafe fn growing_synced(file: &mut FILE) {
    // SAFETY: the block has room for a terminator behind `end`; the places are the program's.
    unsafe {
        let memory = state::<Growing>(file);
        memory.base.add(memory.end).write_bytes(0, memory.unit);
        *memory.place = memory.base;
        *memory.size_place = memory.at.min(memory.end) / memory.unit;
    }
}

unsafe fn growing_close(file: &mut FILE) -> Result<usize, Errno> {
    // SAFETY: the stream has no more use for its box; the block is the program's now.
    unsafe {
        growing_synced(file);
        drop(Box::from_raw(file.cookie.cast::<Growing>()));
    }
    Ok(0)
}

fn open_growing(place: *mut *mut u8, size_place: *mut usize, unit: usize) -> Result<*mut FILE, Errno> {
    const FIRST: usize = 256;
    // SAFETY: plain allocation, zeroed: an empty string.
    let base = unsafe { malloc::calloc(FIRST, 1) }.cast::<u8>();
    if base.is_null() {
        return Err(Errno::ENOMEM);
    }
    let memory = Growing { place, size_place, base, room: FIRST, end: 0, at: 0, unit };
    let file = create(flag::NO_READS, -1, &GROWING_OPS, Box::into_raw(Box::new(memory)).cast())?;
    // SAFETY: just made.
    unsafe { (*file).wanted_buffer = 1024 };
    Ok(file)
}

abi! { EXPORTS "libc.so.6":
    /// fopencookie(3).
    "GLIBC_2.2.5" fn fopencookie(
        theirs: *mut c_void, mode: *const c_char, functions: CookieFunctions,
    ) -> *mut FILE {
        // SAFETY: a C string.
        errno::or_null(parse_mode(unsafe { CStr::from_ptr(mode) }).and_then(|mode| {
            let cookie = Box::into_raw(Box::new(Cookie { theirs, functions }));
            create(mode.flags & !flag::IS_APPENDING, -2, &COOKIE_OPS, cookie.cast())
        }))
    }
    /// fmemopen(3).
    "GLIBC_2.22" fn fmemopen(buffer: *mut c_void, size: usize, mode: *const c_char) -> *mut FILE {
        // SAFETY: a C string; `size` bytes or null.
        errno::or_null(unsafe { open_window(buffer, size, CStr::from_ptr(mode)) })
    }
    /// open_memstream(3).
    "GLIBC_2.2.5" fn open_memstream(place: *mut *mut c_char, size: *mut usize) -> *mut FILE {
        errno::or_null(open_growing(place.cast(), size, 1))
    }
    /// open_wmemstream(3).
    "GLIBC_2.4" fn open_wmemstream(place: *mut *mut wchar_t, size: *mut usize) -> *mut FILE {
        let file = errno::or_null(open_growing(place.cast(), size, 4));
        if !file.is_null() {
            // SAFETY: just made.
            unsafe {
                (*file).encoding = Encoding::Raw;
                (*file).mode = 1;
            }
        }
        file
    }
}
