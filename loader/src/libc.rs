//! The C library's part in loading: thread blocks and TLS modules, behind a trait, because tests and
//! `attacca check` have no guest's libc to talk to.

use crate::object::{Namespace, Object, ObjectId};
use crate::tls::Module;
use alloc::vec::Vec;
use core::ffi::c_char;

/// What the loader asks of the C library.
pub trait CLibrary: Sync {
    /// Makes a module known; answers its id. The image of a static one is copied to its place in
    /// every thread.
    fn add_module(&self, module: &Module, image: *const u8) -> usize;
    /// Forgets a module.
    fn remove_module(&self, id: usize);
    /// Address of a thread-local variable for the calling thread.
    fn tls_address(&self, module: usize, offset: usize) -> usize;
    /// `argv[0]` as C string, for dladdr.
    fn program_name(&self) -> *const c_char;
}

/// No C library: files are only looked at.
pub struct Absent;

impl CLibrary for Absent {
    fn add_module(&self, _: &Module, _: *const u8) -> usize {
        0
    }
    fn remove_module(&self, _: usize) {}
    fn tls_address(&self, _: usize, _: usize) -> usize {
        0
    }
    fn program_name(&self) -> *const c_char {
        c"".as_ptr()
    }
}

/// The guest's libc.
pub struct Guest;

impl CLibrary for Guest {
    fn add_module(&self, module: &Module, image: *const u8) -> usize {
        let module = libc_abi::tls::Module {
            image,
            image_len: module.segment.filesz,
            size: module.segment.memsz,
            align: module.segment.align,
            align_offset: module.segment.vaddr % module.segment.align,
            static_offset: module.offset.unwrap_or(0),
        };
        // SAFETY: the image is part of a loaded object, which is withdrawn before it is unmapped; a
        // static place comes from `tls::Layout`.
        unsafe { libc_abi::tls::add_module(module) }
    }

    fn remove_module(&self, id: usize) {
        // SAFETY: the object goes; nothing of its code runs any more.
        unsafe { libc_abi::tls::remove_module(id) };
    }

    fn tls_address(&self, module: usize, offset: usize) -> usize {
        tls_address(&[module, offset])
    }

    fn program_name(&self) -> *const c_char {
        PROGRAM_NAME.load(core::sync::atomic::Ordering::Relaxed)
    }
}

/// `argv[0]` on the first stack.
pub(crate) static PROGRAM_NAME: core::sync::atomic::AtomicPtr<c_char> =
    core::sync::atomic::AtomicPtr::new(core::ptr::null_mut());

/// What a dynamic TLS descriptor asks for: the variable's address. The pair is (module, offset).
pub(crate) extern "C" fn tls_address(pair: &[usize; 2]) -> usize {
    let index = libc_abi::tls::TlsIndex { module: pair[0], offset: pair[1] };
    // SAFETY: modules that relocation wrote are known to the C library.
    unsafe { libc_abi::tls::__tls_get_addr(&index) as usize }
}

/// Makes the modules of new objects known; they get their ids, which relocation needs.
pub(crate) fn add_modules(ns: &mut Namespace, new: &[ObjectId]) {
    for &id in new {
        let Some((module, image)) = module_of(ns, id) else { continue };
        let number = ns.libc.add_module(&module, image);
        if let Some(tls) = ns.get_mut(id).and_then(Object::elf_mut).and_then(|e| e.tls.as_mut()) {
            tls.id = number;
        }
    }
}

/// Relocation is over, so the images are what threads should get. Threads that run already have the
/// unrelocated image of a late static module: adding it anew copies it again, and the lowest free
/// id is the one that it just gave up.
pub(crate) fn images_ready(ns: &mut Namespace, new: &[ObjectId]) {
    let late: Vec<_> =
        new.iter().filter_map(|&id| module_of(ns, id)).filter(|(m, _)| m.offset.is_some()).collect();
    for (module, image) in late {
        ns.libc.remove_module(module.id);
        let again = ns.libc.add_module(&module, image);
        debug_assert_eq!(again, module.id, "only the loader adds modules, under its lock");
    }
}

fn module_of(ns: &Namespace, id: ObjectId) -> Option<(Module, *const u8)> {
    let elf = ns.elf(id)?;
    let module = elf.tls?;
    Some((module, module.segment.vaddr.wrapping_add(elf.bias) as *const u8))
}
