//! Obstacks (`<obstack.h>`): the functions behind its macros, with the layout that those rely on.

use crate::data::DataCell;
use crate::kcall;
use crate::types::*;
use core::ptr::null_mut;

/// The header of a chunk; the objects follow.
#[repr(C)]
pub struct Chunk {
    limit: *mut u8,
    previous: *mut Chunk,
}

/// `struct obstack`.
#[repr(C)]
pub struct Obstack {
    chunk_size: usize,
    chunk: *mut Chunk,
    object_base: *mut u8,
    pub(crate) next_free: *mut u8,
    pub(crate) chunk_limit: *mut u8,
    temp: usize,
    alignment_mask: c_int,
    allocate: *const (),
    free: *const (),
    extra: *mut c_void,
    /// Bit 0: the functions take `extra` first. Bit 1: an object of no bytes may be there.
    bits: c_uint,
}

const USE_EXTRA: c_uint = 1;
const MAYBE_EMPTY: c_uint = 2;
/// What the header of a chunk takes, and what glibc leaves for malloc's own.
const HEADER: usize = size_of::<Chunk>();
const DEFAULT_SIZE: usize = 4096 - 32;

/// `obstack_alloc_failed_handler`: called when a chunk cannot be had; must not return.
pub static FAILED_HANDLER: DataCell<Option<unsafe extern "C" fn()>> = DataCell::new(Some(give_up));
/// `obstack_exit_failure`: the status with which the default handler exits.
pub static EXIT_FAILURE: DataCell<c_int> = DataCell::new(1);

unsafe extern "C" fn give_up() {
    let text = b"memory exhausted\n";
    // SAFETY: the text is ours; the process ends.
    unsafe {
        let _ = kcall!(write, 2, text.as_ptr(), text.len());
        let _ = kcall!(exit_group, EXIT_FAILURE.load());
    }
}

impl Obstack {
    unsafe fn take_chunk(&mut self, size: usize) -> *mut Chunk {
        // SAFETY: the program's function, with the signature that the bit says.
        let chunk = unsafe {
            if self.bits & USE_EXTRA != 0 {
                let f: unsafe extern "C" fn(*mut c_void, usize) -> *mut Chunk =
                    core::mem::transmute(self.allocate);
                f(self.extra, size)
            } else {
                let f: unsafe extern "C" fn(usize) -> *mut Chunk = core::mem::transmute(self.allocate);
                f(size)
            }
        };
        if chunk.is_null() {
            // SAFETY: the program's handler, which does not come back.
            unsafe {
                if let Some(handler) = FAILED_HANDLER.load() {
                    handler();
                }
            }
            super::fortify::chk_fail();
        }
        chunk
    }

    unsafe fn drop_chunk(&mut self, chunk: *mut Chunk) {
        // SAFETY: as in `take_chunk`.
        unsafe {
            if self.bits & USE_EXTRA != 0 {
                let f: unsafe extern "C" fn(*mut c_void, *mut Chunk) = core::mem::transmute(self.free);
                f(self.extra, chunk);
            } else {
                let f: unsafe extern "C" fn(*mut Chunk) = core::mem::transmute(self.free);
                f(chunk);
            }
        }
    }

    fn first_object(&self, chunk: *mut Chunk) -> *mut u8 {
        let contents = chunk as usize + HEADER;
        let mask = self.alignment_mask as usize;
        ((contents + mask) & !mask) as *mut u8
    }

    unsafe fn begin(&mut self, size: usize, alignment: usize) -> c_int {
        self.alignment_mask = (if alignment == 0 { 16 } else { alignment } - 1) as c_int;
        self.chunk_size = if size == 0 { DEFAULT_SIZE } else { size };
        // SAFETY: a fresh chunk of that size.
        unsafe {
            let chunk = self.take_chunk(self.chunk_size);
            self.chunk = chunk;
            self.object_base = self.first_object(chunk);
            self.next_free = self.object_base;
            (*chunk).limit = chunk.cast::<u8>().add(self.chunk_size);
            (*chunk).previous = null_mut();
            self.chunk_limit = (*chunk).limit;
        }
        self.bits &= !MAYBE_EMPTY;
        1
    }
}

abi! { EXPORTS "libc.so.6":
    /// obstack_begin's function, with plain allocation functions.
    "GLIBC_2.2.5" fn _obstack_begin(
        obstack: *mut Obstack, size: c_int, alignment: c_int, allocate: *const (), free: *const (),
    ) -> c_int {
        // SAFETY: the program's obstack, not yet initialised: no field is read before it is written.
        unsafe {
            (*obstack).allocate = allocate;
            (*obstack).free = free;
            (*obstack).bits = 0;
            (*obstack).begin(size as usize, alignment as usize)
        }
    }
    /// As `_obstack_begin`, the functions taking `extra` first.
    "GLIBC_2.2.5" fn _obstack_begin_1(
        obstack: *mut Obstack, size: c_int, alignment: c_int, allocate: *const (), free: *const (),
        extra: *mut c_void,
    ) -> c_int {
        // SAFETY: as above.
        unsafe {
            (*obstack).allocate = allocate;
            (*obstack).free = free;
            (*obstack).extra = extra;
            (*obstack).bits = USE_EXTRA;
            (*obstack).begin(size as usize, alignment as usize)
        }
    }
    /// Moves the growing object to a new chunk with room for `length` more bytes.
    "GLIBC_2.2.5" fn _obstack_newchunk(obstack: *mut Obstack, length: c_int) {
        // SAFETY: an initialised obstack.
        unsafe {
            let o = &mut *obstack;
            let old = o.chunk;
            let grown = o.next_free as usize - o.object_base as usize;
            let wanted = grown + length as usize + (grown >> 3) + o.alignment_mask as usize + HEADER + 100;
            let size = wanted.max(o.chunk_size);
            let chunk = o.take_chunk(size);
            o.chunk = chunk;
            (*chunk).previous = old;
            (*chunk).limit = chunk.cast::<u8>().add(size);
            o.chunk_limit = (*chunk).limit;
            let base = o.first_object(chunk);
            core::ptr::copy_nonoverlapping(o.object_base, base, grown);
            // If the object was alone in the old chunk, that one is of no more use.
            if o.bits & MAYBE_EMPTY == 0 && o.object_base == o.first_object(old) {
                (*chunk).previous = (*old).previous;
                o.drop_chunk(old);
            }
            o.object_base = base;
            o.next_free = base.add(grown);
            o.bits &= !MAYBE_EMPTY;
        }
    }
    /// Frees `object` and all that came after it; null frees everything.
    "GLIBC_2.2.5" fn obstack_free(obstack: *mut Obstack, object: *mut u8) {
        // SAFETY: an initialised obstack, an object of it.
        unsafe {
            let o = &mut *obstack;
            let mut chunk = o.chunk;
            while !chunk.is_null() && (chunk.cast::<u8>() >= object || (*chunk).limit < object) {
                let previous = (*chunk).previous;
                o.drop_chunk(chunk);
                chunk = previous;
                o.bits |= MAYBE_EMPTY;
            }
            if !chunk.is_null() {
                o.object_base = object;
                o.next_free = object;
                o.chunk_limit = (*chunk).limit;
                o.chunk = chunk;
            } else if !object.is_null() {
                // Not an object of this obstack.
                super::fortify::chk_fail();
            }
        }
    }
    /// Whether `object` lies in the obstack.
    "GLIBC_2.2.5" fn _obstack_allocated_p(obstack: *mut Obstack, object: *mut u8) -> c_int {
        // SAFETY: an initialised obstack.
        unsafe {
            let mut chunk = (*obstack).chunk;
            while !chunk.is_null() && (chunk.cast::<u8>() >= object || (*chunk).limit < object) {
                chunk = (*chunk).previous;
            }
            c_int::from(!chunk.is_null())
        }
    }
    /// The bytes of all chunks.
    "GLIBC_2.2.5" fn _obstack_memory_used(obstack: *mut Obstack) -> c_int {
        let mut total = 0;
        // SAFETY: an initialised obstack.
        unsafe {
            let mut chunk = (*obstack).chunk;
            while !chunk.is_null() {
                total += (*chunk).limit as usize - chunk as usize;
                chunk = (*chunk).previous;
            }
        }
        total as c_int
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "_obstack_free" = obstack_free;
    cell "GLIBC_2.2.5" "obstack_alloc_failed_handler" 8 = FAILED_HANDLER;
    cell "GLIBC_2.2.5" "obstack_exit_failure" 4 = EXIT_FAILURE;
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Obstack>() == 88 && offset_of!(Obstack, alignment_mask) == 48);
    assert!(offset_of!(Obstack, allocate) == 56 && offset_of!(Obstack, bits) == 80);
};
