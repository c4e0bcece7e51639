//! dlopen(3) and its family: C names here, the work in the loader.
//!
//! The loader depends on this crate and not the other way round, so it installs its functions as
//! [`Hooks`] at start. What a failed call says is kept here, for dlerror(3), in the thread's TCB.

use crate::malloc::imp;
use crate::thread;
use crate::types::{c_char, c_int, c_void};
use alloc::string::String;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

/// What the loader does for us. Addresses named `caller` lie in the code that called: `RTLD_NEXT`,
/// `$ORIGIN` and namespaces depend on it. Errors are dlerror's text.
pub struct Hooks {
    /// dlopen(3); `file` null means the main program.
    pub open: unsafe fn(file: *const c_char, flags: c_int, caller: usize) -> Result<*mut c_void, String>,
    /// dlsym(3), and dlvsym(3) with `version`.
    pub sym: unsafe fn(
        handle: *mut c_void,
        name: *const c_char,
        version: *const c_char,
        caller: usize,
    ) -> Result<*mut c_void, String>,
    /// dlclose(3).
    pub close: unsafe fn(handle: *mut c_void) -> Result<(), String>,
    /// dladdr1(3): fills `info`, and `extra` by `flags` (0, RTLD_DL_SYMENT 1, RTLD_DL_LINKMAP 2); false if
    /// the address is in no object.
    pub addr: unsafe fn(address: usize, info: *mut DlInfo, extra: *mut *mut c_void, flags: c_int) -> bool,
    /// dlinfo(3).
    pub info: unsafe fn(handle: *mut c_void, request: c_int, arg: *mut c_void) -> Result<(), String>,
    /// dl_iterate_phdr(3).
    pub iterate: unsafe fn(callback: PhdrCallback, data: *mut c_void) -> c_int,
    /// _dl_find_object(3): 0 and `result` filled, or -1. Async-signal-safe, takes no lock.
    pub find_object: unsafe fn(pc: usize, result: *mut DlFindObject) -> c_int,
    /// Runs DT_PREINIT_ARRAY, DT_INIT and DT_INIT_ARRAY of the main program (start-up since 2.34).
    pub init_main: unsafe fn(argc: c_int, argv: *mut *mut c_char, envp: *mut *mut c_char),
}

/// The callback of dl_iterate_phdr(3); its first argument is a `struct dl_phdr_info` of so many bytes.
pub type PhdrCallback = unsafe extern "C" fn(*mut c_void, usize, *mut c_void) -> c_int;

/// `Dl_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DlInfo {
    /// Path of the object.
    pub fname: *const c_char,
    /// Its load address.
    pub fbase: *mut c_void,
    /// Nearest symbol, or null.
    pub sname: *const c_char,
    /// Its address.
    pub saddr: *mut c_void,
}

/// `struct dl_find_object`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DlFindObject {
    /// 0.
    pub flags: u64,
    /// First address of the object's mapping.
    pub map_start: *mut c_void,
    /// End of it.
    pub map_end: *mut c_void,
    /// Its link map.
    pub link_map: *mut c_void,
    /// Its PT_GNU_EH_FRAME.
    pub eh_frame: *mut c_void,
    /// Zero.
    pub reserved: [u64; 7],
}

/// dlerror(3)'s memory of one thread; lives in the TCB, all-zero at first.
#[repr(C)]
pub struct ErrorState {
    /// The text of the last error, or null.
    pending: *mut c_char,
    /// The text that dlerror returned last: valid until its next call.
    returned: *mut c_char,
}

static HOOKS: AtomicPtr<Hooks> = AtomicPtr::new(null_mut());

/// Installs the loader's functions.
pub fn set_hooks(hooks: &'static Hooks) {
    HOOKS.store((&raw const *hooks).cast_mut(), Ordering::Release);
}

/// The loader's functions, if it is there (in this crate's own tests it is not).
pub fn hooks() -> Option<&'static Hooks> {
    let hooks = HOOKS.load(Ordering::Acquire);
    // SAFETY: null or from `set_hooks`.
    unsafe { hooks.as_ref() }
}

const NO_LOADER: &str = "no dynamic loader in this process";

unsafe extern "C" fn open_from(file: *const c_char, flags: c_int, caller: usize) -> *mut c_void {
    // SAFETY: the program's arguments; the loader checks them.
    pointer(with(|hooks| unsafe { (hooks.open)(file, flags, caller) }))
}

unsafe extern "C" fn sym_from(handle: *mut c_void, name: *const c_char, caller: usize) -> *mut c_void {
    // SAFETY: as above.
    pointer(with(|hooks| unsafe { (hooks.sym)(handle, name, core::ptr::null(), caller) }))
}

unsafe extern "C" fn vsym_from(
    handle: *mut c_void,
    name: *const c_char,
    version: *const c_char,
    caller: usize,
) -> *mut c_void {
    // SAFETY: as above.
    pointer(with(|hooks| unsafe { (hooks.sym)(handle, name, version, caller) }))
}

unsafe extern "C" fn mopen_from(
    space: isize,
    file: *const c_char,
    flags: c_int,
    caller: usize,
) -> *mut c_void {
    const LM_ID_BASE: isize = 0;
    if space != LM_ID_BASE {
        set_error("dlmopen: link-map lists beside the first are not supported");
        return null_mut();
    }
    // SAFETY: forwarded.
    unsafe { open_from(file, flags, caller) }
}

// Four shells that add the return address as one more argument.

/// dlopen(3).
#[unsafe(naked)]
pub unsafe extern "C" fn dlopen(_file: *const c_char, _flags: c_int) -> *mut c_void {
    core::arch::naked_asm!("mov rdx, [rsp]", "jmp {}", sym open_from)
}

/// dlmopen(3): the base list only.
#[unsafe(naked)]
pub unsafe extern "C" fn dlmopen(_space: isize, _file: *const c_char, _flags: c_int) -> *mut c_void {
    core::arch::naked_asm!("mov rcx, [rsp]", "jmp {}", sym mopen_from)
}

/// dlsym(3).
#[unsafe(naked)]
pub unsafe extern "C" fn dlsym(_handle: *mut c_void, _name: *const c_char) -> *mut c_void {
    core::arch::naked_asm!("mov rdx, [rsp]", "jmp {}", sym sym_from)
}

/// dlvsym(3).
#[unsafe(naked)]
pub unsafe extern "C" fn dlvsym(
    _handle: *mut c_void,
    _name: *const c_char,
    _version: *const c_char,
) -> *mut c_void {
    core::arch::naked_asm!("mov rcx, [rsp]", "jmp {}", sym vsym_from)
}

abi! { EXPORTS "libc.so.6":
    /// dlclose(3).
    "GLIBC_2.34" fn dlclose(handle: *mut c_void) -> c_int {
        // SAFETY: the program's handle; the loader checks it.
        status(with(|hooks| unsafe { (hooks.close)(handle) }))
    }
    /// dlerror(3): the text once, then null.
    "GLIBC_2.34" fn dlerror() -> *mut c_char {
        // SAFETY: the thread's own state.
        unsafe {
            let state = &mut (*thread::current()).dlerror;
            imp::free(state.returned.cast());
            state.returned = core::mem::replace(&mut state.pending, null_mut());
            state.returned
        }
    }
    /// dladdr(3).
    "GLIBC_2.34" fn dladdr(address: *const c_void, info: *mut DlInfo) -> c_int {
        // SAFETY: the program's out pointer.
        hooks().is_some_and(|h| unsafe { (h.addr)(address as usize, info, null_mut(), 0) }).into()
    }
    /// dladdr1(3).
    "GLIBC_2.34" fn dladdr1(
        address: *const c_void, info: *mut DlInfo, extra: *mut *mut c_void, flags: c_int,
    ) -> c_int {
        // SAFETY: the program's out pointers.
        hooks().is_some_and(|h| unsafe { (h.addr)(address as usize, info, extra, flags) }).into()
    }
    /// dlinfo(3).
    "GLIBC_2.34" fn dlinfo(handle: *mut c_void, request: c_int, arg: *mut c_void) -> c_int {
        // SAFETY: the program's arguments; the loader checks the handle.
        status(with(|hooks| unsafe { (hooks.info)(handle, request, arg) }))
    }
    /// dl_iterate_phdr(3).
    "GLIBC_2.2.5" fn dl_iterate_phdr(callback: PhdrCallback, data: *mut c_void) -> c_int {
        // SAFETY: the program's callback.
        hooks().map_or(0, |h| unsafe { (h.iterate)(callback, data) })
    }
    /// _dl_find_object(3). Unwinding goes through frames of this library too: out of a cancelled `read`,
    /// out of a callback of `qsort`.
    "GLIBC_2.35" fn _dl_find_object(pc: *const c_void, result: *mut DlFindObject) -> c_int {
        if let Some(own) = runtime::find(pc as usize) {
            // SAFETY: the program's out pointer.
            unsafe { result.write(own) };
            return 0;
        }
        // SAFETY: the program's out pointer.
        hooks().map_or(-1, |h| unsafe { (h.find_object)(pc as usize, result) })
    }
}

exports! { ROWS "libc.so.6":
    alias "GLIBC_2.34" "dlopen" = dlopen;
    alias "GLIBC_2.34" "dlmopen" = dlmopen;
    compat "GLIBC_2.3.4" "dlmopen" = dlmopen;
    alias "GLIBC_2.34" "dlsym" = dlsym;
    alias "GLIBC_2.34" "dlvsym" = dlvsym;
    compat "GLIBC_2.2.5" "dlopen" = dlopen;
    compat "GLIBC_2.2.5" "dlsym" = dlsym;
    compat "GLIBC_2.2.5" "dlvsym" = dlvsym;
    compat "GLIBC_2.2.5" "dlclose" = dlclose;
    compat "GLIBC_2.2.5" "dlerror" = dlerror;
    compat "GLIBC_2.2.5" "dladdr" = dladdr;
    compat "GLIBC_2.3.3" "dladdr1" = dladdr1;
    compat "GLIBC_2.3.3" "dlinfo" = dlinfo;
}

/// The runtime's own image: a static executable that no link map describes.
#[cfg(not(test))]
mod runtime {
    use super::DlFindObject;
    use core::ptr::null_mut;
    use core::sync::atomic::{AtomicUsize, Ordering};

    /// `Elf64_Ehdr` and `Elf64_Phdr`, as far as needed.
    #[repr(C)]
    struct Header {
        before: [u8; 32],
        phoff: u64,
        between: [u8; 14],
        phentsize: u16,
        phnum: u16,
    }
    #[repr(C)]
    struct Segment {
        kind: u32,
        flags: u32,
        offset: u64,
        vaddr: usize,
        paddr: usize,
        filesz: u64,
        memsz: usize,
    }
    const PT_LOAD: u32 = 1;
    const PT_GNU_EH_FRAME: u32 = 0x6474_e550;

    unsafe extern "C" {
        /// Made by the linker: the image's first byte.
        static __ehdr_start: Header;
    }

    /// End of the image and its PT_GNU_EH_FRAME, found once.
    static END: AtomicUsize = AtomicUsize::new(0);
    static EH_FRAME: AtomicUsize = AtomicUsize::new(0);

    pub(super) fn find(pc: usize) -> Option<DlFindObject> {
        let start = &raw const __ehdr_start as usize;
        if pc < start {
            return None;
        }
        if END.load(Ordering::Acquire) == 0 {
            look(start);
        }
        let end = END.load(Ordering::Acquire);
        (pc < end).then(|| DlFindObject {
            flags: 0,
            map_start: start as *mut _,
            map_end: end as *mut _,
            link_map: null_mut(),
            eh_frame: EH_FRAME.load(Ordering::Relaxed) as *mut _,
            reserved: [0; 7],
        })
    }

    fn look(start: usize) {
        let (mut end, mut eh_frame) = (start, 0);
        // SAFETY: our own headers, mapped with the image, linked at their run-time addresses.
        unsafe {
            let header = &__ehdr_start;
            for at in 0..usize::from(header.phnum) {
                let segment = start + header.phoff as usize + at * usize::from(header.phentsize);
                let segment = &*(segment as *const Segment);
                match segment.kind {
                    PT_LOAD => end = end.max(segment.vaddr + segment.memsz),
                    PT_GNU_EH_FRAME => eh_frame = segment.vaddr,
                    _ => {}
                }
            }
        }
        EH_FRAME.store(eh_frame, Ordering::Relaxed);
        END.store(end, Ordering::Release);
    }
}

fn with<T>(call: impl FnOnce(&Hooks) -> Result<T, String>) -> Result<T, String> {
    hooks().map_or_else(|| Err(String::from(NO_LOADER)), call)
}

fn pointer(result: Result<*mut c_void, String>) -> *mut c_void {
    result.unwrap_or_else(|text| {
        set_error(&text);
        null_mut()
    })
}

fn status(result: Result<(), String>) -> c_int {
    result.map_or_else(
        |text| {
            set_error(&text);
            -1
        },
        |()| 0,
    )
}

/// Keeps a text for the thread's next dlerror(3).
pub fn set_error(text: &str) {
    // SAFETY: the thread's own state; the copy is one byte longer than the text.
    unsafe {
        let state = &mut (*thread::current()).dlerror;
        imp::free(state.pending.cast());
        let copy: *mut u8 = imp::malloc(text.len() + 1).cast();
        if !copy.is_null() {
            core::ptr::copy_nonoverlapping(text.as_ptr(), copy, text.len());
            copy.add(text.len()).write(0);
        }
        state.pending = copy.cast();
    }
}

/// Frees the calling thread's texts: it ends.
pub(crate) fn release_current() {
    // SAFETY: the thread's own state.
    unsafe {
        let state = &mut (*thread::current()).dlerror;
        imp::free(core::mem::replace(&mut state.pending, null_mut()).cast());
        imp::free(core::mem::replace(&mut state.returned, null_mut()).cast());
    }
}

/// In this crate's tests the host's linker knows all code.
#[cfg(test)]
mod runtime {
    pub(super) fn find(_pc: usize) -> Option<super::DlFindObject> {
        None
    }
}
