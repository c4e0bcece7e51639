//! The loader's functions behind dlopen(3) and its family, in the types of `libc_abi::dl`.

use crate::debug::LinkMap;
use crate::dlopen;
use crate::error::LoadError;
use crate::init::Arguments;
use crate::{find, start, state};
use alloc::string::{String, ToString};
use core::ffi::{CStr, c_char, c_int, c_void};
use libc_abi::dl::{DlFindObject, DlInfo, Hooks, PhdrCallback};

/// Installed when the program is loaded.
pub(crate) static HOOKS: Hooks = Hooks { open, sym, close, addr, info, iterate, find_object, init_main };

fn told<T>(result: Result<T, LoadError>) -> Result<T, String> {
    result.map_err(|error| error.dlerror())
}

unsafe fn text<'a>(pointer: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: null, or the program's C string.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_bytes())
}

unsafe fn open(file: *const c_char, flags: c_int, caller: usize) -> Result<*mut c_void, String> {
    // SAFETY: the program's own string; called on its thread.
    told(unsafe { dlopen::open(text(file), flags, caller, start::arguments()) }).map(<*mut LinkMap>::cast)
}

unsafe fn sym(
    handle: *mut c_void,
    name: *const c_char,
    version: *const c_char,
    caller: usize,
) -> Result<*mut c_void, String> {
    // SAFETY: the program's own strings; called on its thread.
    let found = unsafe { dlopen::symbol(handle as usize, text(name).unwrap_or(b""), text(version), caller) };
    told(found).map(|address| address as *mut c_void)
}

unsafe fn close(handle: *mut c_void) -> Result<(), String> {
    // SAFETY: called on a thread of the program.
    told(unsafe { dlopen::close(handle as usize) })
}

const RTLD_DL_SYMENT: c_int = 1;
const RTLD_DL_LINKMAP: c_int = 2;

unsafe fn addr(address: usize, info: *mut DlInfo, extra: *mut *mut c_void, flags: c_int) -> bool {
    let Some(found) = dlopen::address_info(address) else { return false };
    // SAFETY: the program's out pointers.
    unsafe {
        info.write(DlInfo {
            fname: found.file,
            fbase: found.base as *mut c_void,
            sname: found.name,
            saddr: found.address as *mut c_void,
        });
        match flags {
            RTLD_DL_SYMENT => extra.write(found.entry.cast_mut().cast()),
            RTLD_DL_LINKMAP => extra.write(found.link.cast()),
            _ => {}
        }
    }
    true
}

const RTLD_DI_LMID: c_int = 1;
const RTLD_DI_LINKMAP: c_int = 2;
const RTLD_DI_ORIGIN: c_int = 6;
const RTLD_DI_TLS_MODID: c_int = 9;
const RTLD_DI_TLS_DATA: c_int = 10;

unsafe fn info(handle: *mut c_void, request: c_int, arg: *mut c_void) -> Result<(), String> {
    let _guard = state::lock();
    let answer = state::try_with(|ns| {
        let id = dlopen::by_handle(ns, handle as usize)?;
        let object = ns.get(id).ok_or(LoadError::NotLoaded)?;
        let module = object.elf().and_then(|e| e.tls).map_or(0, |t| t.id);
        Ok((object.origin.clone(), module))
    });
    let (origin, module) = told(answer.unwrap_or(Err(LoadError::NotLoaded)))?;
    // SAFETY: the program's out pointer, of the type that the request has (dlinfo(3)).
    unsafe {
        match request {
            // There is one namespace: LM_ID_BASE.
            RTLD_DI_LMID => arg.cast::<isize>().write(0),
            RTLD_DI_LINKMAP => arg.cast::<*mut c_void>().write(handle),
            RTLD_DI_ORIGIN => {
                let out: *mut u8 = arg.cast();
                core::ptr::copy_nonoverlapping(origin.as_ptr(), out, origin.len());
                out.add(origin.len()).write(0);
            }
            RTLD_DI_TLS_MODID => arg.cast::<usize>().write(module),
            RTLD_DI_TLS_DATA => arg.cast::<*mut c_void>().write(libc_abi::tls::block_of(module)),
            _ => return Err("unsupported dlinfo request".to_string()),
        }
    }
    Ok(())
}

/// `struct dl_phdr_info`.
#[repr(C)]
struct PhdrInfo {
    addr: usize,
    name: *const c_char,
    phdr: usize,
    phnum: u16,
    adds: u64,
    subs: u64,
    tls_modid: usize,
    tls_data: *mut c_void,
}

unsafe fn iterate(callback: PhdrCallback, data: *mut c_void) -> c_int {
    let _guard = state::lock();
    for object in dlopen::program_headers() {
        let mut info = PhdrInfo {
            addr: object.bias,
            name: object.name,
            phdr: object.phdr,
            phnum: object.phnum as u16,
            adds: object.added,
            subs: object.removed,
            tls_modid: object.module,
            tls_data: if object.module == 0 {
                core::ptr::null_mut()
            } else {
                libc_abi::tls::block_of(object.module)
            },
        };
        // SAFETY: the program's callback with the structure that it expects.
        let answer = unsafe { callback((&raw mut info).cast(), size_of::<PhdrInfo>(), data) };
        if answer != 0 {
            return answer;
        }
    }
    0
}

unsafe fn find_object(pc: usize, result: *mut DlFindObject) -> c_int {
    let Some(range) = find::object(pc) else { return -1 };
    // SAFETY: the program's out pointer; `reserved` stays as it is, as in glibc.
    unsafe {
        (*result).flags = 0;
        (*result).map_start = range.start as *mut c_void;
        (*result).map_end = range.end as *mut c_void;
        (*result).link_map = range.link.cast_mut().cast();
        (*result).eh_frame = range.eh_frame as *mut c_void;
    }
    0
}

unsafe fn init_main(argc: c_int, argv: *mut *mut c_char, envp: *mut *mut c_char) {
    let arguments = Arguments { argc, argv: argv.cast_const().cast(), envp: envp.cast_const().cast() };
    // SAFETY: called once by __libc_start_main.
    unsafe { start::init_program(arguments) };
}
