//! <execinfo.h>: backtrace(3), by libgcc_s's unwinder, which is loaded at first use as glibc does.

use crate::dl::{self, DlInfo};
use crate::kcall;
use crate::types::*;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicUsize, Ordering};

type Trace = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;
type Walk = unsafe extern "C" fn(Trace, *mut c_void) -> c_int;
type Address = unsafe extern "C" fn(*mut c_void) -> usize;

const CONTINUE: c_int = 0;
const END_OF_STACK: c_int = 5;

struct Wish {
    to: *mut *mut c_void,
    room: usize,
    /// Frames seen; the first is ours and not counted.
    seen: usize,
    address: Address,
}

abi! { EXPORTS "libc.so.6":
    /// backtrace(3): 0 without an unwinder.
    "GLIBC_2.2.5" fn backtrace(to: *mut *mut c_void, room: c_int) -> c_int {
        let Some((walk, address)) = unwinder() else { return 0 };
        if room <= 0 {
            return 0;
        }
        let mut wish = Wish { to, room: room as usize, seen: 0, address };
        // SAFETY: the unwinder calls `note` with the pointer that it is given.
        unsafe { walk(note, (&raw mut wish).cast()) };
        let count = wish.seen.saturating_sub(1).min(wish.room);
        // The outermost frame of a thread has no caller: its address is null.
        // SAFETY: the first `count` entries are written.
        let null_end = count > 0 && unsafe { *to.add(count - 1) }.is_null();
        (count - usize::from(null_end)) as c_int
    }
    /// backtrace_symbols(3): one block of the C heap.
    "GLIBC_2.2.5" fn backtrace_symbols(addresses: *const *mut c_void, count: c_int) -> *mut *mut c_char {
        let count = count.max(0) as usize;
        // SAFETY: the program's array of `count`.
        let lines: Vec<String> = (0..count).map(|at| unsafe { describe(*addresses.add(at)) }).collect();
        let text: usize = lines.iter().map(|line| line.len() + 1).sum();
        // SAFETY: a fresh block of pointers and texts.
        unsafe {
            let block: *mut *mut c_char = crate::malloc::malloc(count * 8 + text).cast();
            if block.is_null() {
                return null_mut();
            }
            let mut to: *mut u8 = block.add(count).cast();
            for (at, line) in lines.iter().enumerate() {
                block.add(at).write(to.cast());
                core::ptr::copy_nonoverlapping(line.as_ptr(), to, line.len());
                to.add(line.len()).write(0);
                to = to.add(line.len() + 1);
            }
            block
        }
    }
    /// backtrace_symbols_fd(3).
    "GLIBC_2.2.5" fn backtrace_symbols_fd(addresses: *const *mut c_void, count: c_int, fd: c_int) {
        for at in 0..count.max(0) as usize {
            // SAFETY: the program's array of `count`, our own text.
            unsafe {
                let mut line = describe(*addresses.add(at));
                line.push('\n');
                let _ = kcall!(write, fd, line.as_ptr(), line.len());
            }
        }
    }
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.2.5" "__backtrace" = backtrace;
    alias "GLIBC_2.2.5" "__backtrace_symbols" = backtrace_symbols;
    alias "GLIBC_2.2.5" "__backtrace_symbols_fd" = backtrace_symbols_fd;
}

unsafe extern "C" fn note(context: *mut c_void, wish: *mut c_void) -> c_int {
    // SAFETY: from `backtrace`.
    unsafe {
        let wish = &mut *wish.cast::<Wish>();
        if wish.seen > 0 {
            if wish.seen > wish.room {
                return END_OF_STACK;
            }
            wish.to.add(wish.seen - 1).write((wish.address)(context) as *mut c_void);
        }
        wish.seen += 1;
        if wish.seen > wish.room { END_OF_STACK } else { CONTINUE }
    }
}

/// "file(symbol+0x12) [0x...]", "file(+0x12) [0x...]" or "[0x...]".
unsafe fn describe(address: *mut c_void) -> String {
    let mut info =
        DlInfo { fname: core::ptr::null(), fbase: null_mut(), sname: core::ptr::null(), saddr: null_mut() };
    // SAFETY: our own struct; the loader's strings.
    unsafe {
        if dl::dladdr(address, &raw mut info) == 0 || info.fname.is_null() || *info.fname == 0 {
            return alloc::format!("[{address:#x}]", address = address as usize);
        }
        let text =
            |name: *const c_char| String::from_utf8_lossy(CStr::from_ptr(name).to_bytes()).into_owned();
        let (symbol, base) = if info.sname.is_null() {
            (String::new(), info.fbase as usize)
        } else {
            (text(info.sname), info.saddr as usize)
        };
        let at = address as usize;
        let (sign, distance) = if at >= base { ('+', at - base) } else { ('-', base - at) };
        alloc::format!("{}({symbol}{sign}{distance:#x}) [{at:#x}]", text(info.fname))
    }
}

/// `_Unwind_Backtrace` and `_Unwind_GetIP`.
fn unwinder() -> Option<(Walk, Address)> {
    static WALK: AtomicUsize = AtomicUsize::new(0);
    static ADDRESS: AtomicUsize = AtomicUsize::new(0);
    const RTLD_NOW: c_int = 2;
    if WALK.load(Ordering::Acquire) == 0 {
        let hooks = dl::hooks()?;
        // SAFETY: well-known names.
        unsafe {
            let handle = (hooks.open)(c"libgcc_s.so.1".as_ptr(), RTLD_NOW, 0).ok()?;
            let find = |name: &CStr| (hooks.sym)(handle, name.as_ptr(), core::ptr::null(), 0).ok();
            ADDRESS.store(find(c"_Unwind_GetIP")? as usize, Ordering::Relaxed);
            WALK.store(find(c"_Unwind_Backtrace")? as usize, Ordering::Release);
        }
    }
    // SAFETY: the addresses of those functions.
    Some(unsafe {
        (
            core::mem::transmute::<usize, Walk>(WALK.load(Ordering::Acquire)),
            core::mem::transmute::<usize, Address>(ADDRESS.load(Ordering::Relaxed)),
        )
    })
}
