//! printf, fprintf, sprintf, snprintf, dprintf, asprintf, their `v` forms and checked forms.

use super::engine::format;
use super::out::Out;
use crate::errno;
use crate::kcall;
use crate::malloc;
use crate::stdio::file::{FILE, flag, stdout};
use crate::stdio::fortify::chk_fail;
use crate::stdio::obstack::{_obstack_newchunk, Obstack};
use crate::types::*;
use crate::va::VaList;
use crate::variadic;
use core::ptr::null_mut;
use platform::Errno;

/// What a string window turns into when it is full: a scratch area, for the length's sake.
const SCRATCH: usize = 64;

unsafe fn count_on(out: &mut Out<u8>) {
    let scratch = out.target.cast::<u8>();
    if out.counting {
        out.restart();
    } else {
        out.counting = true;
        out.renew(scratch, SCRATCH);
    }
}

/// Formats into `room` bytes at `text`, of which the last is for the NUL.
unsafe fn into_string(
    text: *mut c_char,
    room: usize,
    fmt: *const c_char,
    args: *mut VaList,
    checked: bool,
) -> c_int {
    let mut scratch = [0u8; SCRATCH];
    let base = text.cast::<u8>();
    // A size that reaches behind the end of the address space stands for "no limit".
    let limit = room.saturating_sub(1).min(usize::MAX - base as usize);
    let mut out = Out::new(base, limit, count_on, scratch.as_mut_ptr().cast());
    // SAFETY: format and arguments are the caller's promise.
    let result = unsafe { format(&mut out, fmt.cast(), args, checked) };
    if room != 0 {
        // SAFETY: `room` bytes belong to the string; the window never covered the last one.
        unsafe {
            let end = if out.counting { base.add(limit) } else { base.add(out.used()) };
            *end = 0;
        }
    }
    result
}

unsafe fn to_stream(out: &mut Out<u8>) {
    // SAFETY: the target is the stream that `into_stream` holds.
    let file = unsafe { &mut *out.target.cast::<FILE>() };
    let len = out.used();
    if file.write_bytes(out.window()) < len {
        out.failed = true;
    }
    out.restart();
}

/// Formats into a stream that the caller holds.
pub(crate) unsafe fn into_stream(
    f: &mut FILE,
    fmt: *const c_char,
    args: *mut VaList,
    checked: bool,
) -> c_int {
    if f.bytes_only().is_err() || f.switch_to_put().is_err() {
        return -1;
    }
    // SAFETY: forwarded.
    unsafe {
        if f.has(flag::UNBUFFERED) {
            // One write for one printf, as far as it goes: messages of several threads or processes do
            // not mix.
            through::<8192>(f, fmt, args, checked)
        } else {
            through::<512>(f, fmt, args, checked)
        }
    }
}

#[inline(never)]
unsafe fn through<const SIZE: usize>(
    f: &mut FILE,
    fmt: *const c_char,
    args: *mut VaList,
    checked: bool,
) -> c_int {
    let mut buffer = core::mem::MaybeUninit::<[u8; SIZE]>::uninit();
    let mut out = Out::new(buffer.as_mut_ptr().cast(), SIZE, to_stream, (f as *mut FILE).cast());
    // SAFETY: forwarded.
    let result = unsafe { format(&mut out, fmt.cast(), args, checked) };
    out.flush();
    if out.failed { -1 } else { result }
}

unsafe fn to_descriptor(out: &mut Out<u8>) {
    let fd = out.target as usize;
    let mut rest = out.window();
    let mut failed = None;
    while !rest.is_empty() {
        // SAFETY: the window's bytes.
        match unsafe { kcall!(write, fd, rest.as_ptr(), rest.len()) } {
            Ok(count) => rest = &rest[count..],
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    if let Some(error) = failed {
        errno::set(error);
        out.failed = true;
    }
    out.restart();
}

unsafe fn into_descriptor(fd: c_int, fmt: *const c_char, args: *mut VaList, checked: bool) -> c_int {
    let mut buffer = [0u8; 1024];
    let mut out = Out::new(buffer.as_mut_ptr(), buffer.len(), to_descriptor, fd as usize as *mut c_void);
    // SAFETY: forwarded.
    let result = unsafe { format(&mut out, fmt.cast(), args, checked) };
    out.flush();
    if out.failed { -1 } else { result }
}

/// A block that grows; null while the text is still on the stack.
struct Grown {
    block: *mut u8,
    room: usize,
}

unsafe fn to_block(out: &mut Out<u8>) {
    // SAFETY: the target is `into_block`'s; the new block has room for all and more.
    unsafe {
        let grown = &mut *out.target.cast::<Grown>();
        let used = out.used();
        let room = grown.room * 2;
        let block = malloc::realloc(grown.block.cast(), room).cast::<u8>();
        if block.is_null() {
            errno::set(Errno::ENOMEM);
            out.failed = true;
            return out.restart();
        }
        if grown.block.is_null() {
            core::ptr::copy_nonoverlapping(out.window().as_ptr(), block, used);
        }
        *grown = Grown { block, room };
        out.enlarge(block, room);
    }
}

/// Formats into memory from malloc: (block, length), or null.
pub(crate) unsafe fn into_block(fmt: *const c_char, args: *mut VaList, checked: bool) -> (*mut u8, c_int) {
    const FIRST: usize = 512;
    let mut buffer = [0u8; FIRST];
    let mut grown = Grown { block: null_mut(), room: FIRST };
    let mut out = Out::new(buffer.as_mut_ptr(), FIRST, to_block, (&raw mut grown).cast());
    // SAFETY: format and arguments are the caller's promise; blocks are ours.
    unsafe {
        let length = format(&mut out, fmt.cast(), args, checked);
        let block = if length < 0 {
            malloc::free(grown.block.cast());
            return (null_mut(), -1);
        } else {
            malloc::realloc(grown.block.cast(), length as usize + 1).cast::<u8>()
        };
        if block.is_null() {
            malloc::free(grown.block.cast());
            errno::set(Errno::ENOMEM);
            return (null_mut(), -1);
        }
        if grown.block.is_null() {
            core::ptr::copy_nonoverlapping(buffer.as_ptr(), block, length as usize);
        }
        *block.add(length as usize) = 0;
        (block, length)
    }
}

unsafe fn into_obstack(obstack: *mut Obstack, fmt: *const c_char, args: *mut VaList, checked: bool) -> c_int {
    // SAFETY: an initialised obstack; `_obstack_newchunk` makes room for the object and `length` more.
    unsafe {
        let (block, length) = into_block(fmt, args, checked);
        if length > 0 {
            let place = obstack;
            if ((*place).chunk_limit as usize) - ((*place).next_free as usize) < length as usize {
                _obstack_newchunk(obstack, length);
            }
            core::ptr::copy_nonoverlapping(block, (*place).next_free, length as usize);
            (*place).next_free = (*place).next_free.add(length as usize);
        }
        malloc::free(block.cast());
        length
    }
}

abi! { EXPORTS "libc.so.6":
    /// vfprintf(3).
    "GLIBC_2.2.5" fn vfprintf(file: *mut FILE, fmt: *const c_char, args: *mut VaList) -> c_int {
        // SAFETY: as C promises; so in this whole table.
        locked!(file, |f| unsafe { into_stream(f, fmt, args, false) })
    }
    /// vprintf(3).
    "GLIBC_2.2.5" fn vprintf(fmt: *const c_char, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        locked!(stdout(), |f| unsafe { into_stream(f, fmt, args, false) })
    }
    /// vsnprintf(3).
    "GLIBC_2.2.5" fn vsnprintf(text: *mut c_char, room: usize, fmt: *const c_char, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        unsafe { into_string(text, room, fmt, args, false) }
    }
    /// vsprintf(3).
    "GLIBC_2.2.5" fn vsprintf(text: *mut c_char, fmt: *const c_char, args: *mut VaList) -> c_int {
        // SAFETY: as above; the program claims that the text fits.
        unsafe { into_string(text, usize::MAX, fmt, args, false) }
    }
    /// vdprintf(3).
    "GLIBC_2.2.5" fn vdprintf(fd: c_int, fmt: *const c_char, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        unsafe { into_descriptor(fd, fmt, args, false) }
    }
    /// vasprintf(3).
    "GLIBC_2.2.5" fn vasprintf(place: *mut *mut c_char, fmt: *const c_char, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        unsafe { __vasprintf_chk(place, 0, fmt, args) }
    }
    /// obstack_vprintf(3).
    "GLIBC_2.2.5" fn obstack_vprintf(obstack: *mut Obstack, fmt: *const c_char, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        unsafe { into_obstack(obstack, fmt, args, false) }
    }
    /// vfprintf, checked.
    "GLIBC_2.3.4" fn __vfprintf_chk(file: *mut FILE, level: c_int, fmt: *const c_char, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        locked!(file, |f| unsafe { into_stream(f, fmt, args, level > 0) })
    }
    /// vprintf, checked.
    "GLIBC_2.3.4" fn __vprintf_chk(level: c_int, fmt: *const c_char, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        locked!(stdout(), |f| unsafe { into_stream(f, fmt, args, level > 0) })
    }
    /// vsnprintf, checked.
    "GLIBC_2.3.4" fn __vsnprintf_chk(
        text: *mut c_char, room: usize, level: c_int, size: usize, fmt: *const c_char, args: *mut VaList,
    ) -> c_int {
        if size < room {
            chk_fail();
        }
        // SAFETY: as above.
        unsafe { into_string(text, room, fmt, args, level > 0) }
    }
    /// vsprintf, checked.
    "GLIBC_2.3.4" fn __vsprintf_chk(
        text: *mut c_char, level: c_int, size: usize, fmt: *const c_char, args: *mut VaList,
    ) -> c_int {
        if size == 0 {
            chk_fail();
        }
        // SAFETY: as above.
        let length = unsafe { into_string(text, size, fmt, args, level > 0) };
        if length >= 0 && length as usize >= size {
            chk_fail();
        }
        length
    }
    /// vdprintf, checked.
    "GLIBC_2.8" fn __vdprintf_chk(fd: c_int, level: c_int, fmt: *const c_char, args: *mut VaList) -> c_int {
        // SAFETY: as above.
        unsafe { into_descriptor(fd, fmt, args, level > 0) }
    }
    /// vasprintf, checked.
    "GLIBC_2.8" fn __vasprintf_chk(
        place: *mut *mut c_char, level: c_int, fmt: *const c_char, args: *mut VaList,
    ) -> c_int {
        // SAFETY: as above.
        unsafe {
            let (block, length) = into_block(fmt, args, level > 0);
            if length >= 0 {
                *place = block.cast();
            }
            length
        }
    }
    /// obstack_vprintf, checked.
    "GLIBC_2.8" fn __obstack_vprintf_chk(
        obstack: *mut Obstack, level: c_int, fmt: *const c_char, args: *mut VaList,
    ) -> c_int {
        // SAFETY: as above.
        unsafe { into_obstack(obstack, fmt, args, level > 0) }
    }
}

variadic! {
    /// printf(3).
    fn printf(1 fixed) = vprintf;
    /// fprintf(3).
    fn fprintf(2 fixed) = vfprintf;
    /// sprintf(3).
    fn sprintf(2 fixed) = vsprintf;
    /// snprintf(3).
    fn snprintf(3 fixed) = vsnprintf;
    /// dprintf(3).
    fn dprintf(2 fixed) = vdprintf;
    /// asprintf(3).
    fn asprintf(2 fixed) = vasprintf;
    /// obstack_printf(3).
    fn obstack_printf(2 fixed) = obstack_vprintf;
    /// printf, checked.
    fn __printf_chk(2 fixed) = __vprintf_chk;
    /// fprintf, checked.
    fn __fprintf_chk(3 fixed) = __vfprintf_chk;
    /// sprintf, checked.
    fn __sprintf_chk(4 fixed) = __vsprintf_chk;
    /// snprintf, checked.
    fn __snprintf_chk(5 fixed) = __vsnprintf_chk;
    /// dprintf, checked.
    fn __dprintf_chk(3 fixed) = __vdprintf_chk;
    /// asprintf, checked.
    fn __asprintf_chk(3 fixed) = __vasprintf_chk;
    /// obstack_printf, checked.
    fn __obstack_printf_chk(3 fixed) = __obstack_vprintf_chk;
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "printf" = printf;
    alias "GLIBC_2.2.5" "fprintf" = fprintf;
    alias "GLIBC_2.2.5" "sprintf" = sprintf;
    alias "GLIBC_2.2.5" "snprintf" = snprintf;
    alias "GLIBC_2.2.5" "dprintf" = dprintf;
    alias "GLIBC_2.2.5" "asprintf" = asprintf;
    alias "GLIBC_2.2.5" "__asprintf" = asprintf;
    alias "GLIBC_2.2.5" "obstack_printf" = obstack_printf;
    alias "GLIBC_2.2.5" "__vsnprintf" = vsnprintf;
    alias "GLIBC_2.2.5" "_IO_printf" = printf;
    alias "GLIBC_2.2.5" "_IO_fprintf" = fprintf;
    alias "GLIBC_2.2.5" "_IO_sprintf" = sprintf;
    alias "GLIBC_2.2.5" "_IO_vfprintf" = vfprintf;
    alias "GLIBC_2.2.5" "_IO_vsprintf" = vsprintf;
    alias "GLIBC_2.3.4" "__printf_chk" = __printf_chk;
    alias "GLIBC_2.3.4" "__fprintf_chk" = __fprintf_chk;
    alias "GLIBC_2.3.4" "__sprintf_chk" = __sprintf_chk;
    alias "GLIBC_2.3.4" "__snprintf_chk" = __snprintf_chk;
    alias "GLIBC_2.8" "__dprintf_chk" = __dprintf_chk;
    alias "GLIBC_2.8" "__asprintf_chk" = __asprintf_chk;
    alias "GLIBC_2.8" "__obstack_printf_chk" = __obstack_printf_chk;
}
