//! Results in C's buffers: a record of Rust's is laid out, strings and all, behind a C structure.
//!
//! The reentrant functions get the caller's buffer and answer ERANGE if it is too small (the caller
//! doubles it); the others use a block of their own that grows. A static result lasts until the next
//! call of the same function, as in C. Two threads in such a function at once each get a block: the
//! one that loses the race for the slot stays allocated, for its caller may still read it.

use crate::errno;
use crate::malloc::{free, malloc};
use crate::types::{c_char, c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};
use platform::Errno;

/// Something that can be written as a C structure with its strings.
pub trait Record {
    /// The C structure.
    type C;
    /// Writes the strings into the buffer; `None` if they do not fit.
    fn pack(&self, to: &mut Packer) -> Option<Self::C>;
}

/// A C buffer that is filled from its start.
pub struct Packer {
    at: usize,
    end: usize,
}

impl Packer {
    /// Fills `len` bytes at `buffer`.
    ///
    /// # Safety
    /// The memory is writable and stays so while the packer is used.
    pub unsafe fn new(buffer: *mut u8, len: usize) -> Self {
        Self { at: buffer as usize, end: (buffer as usize).saturating_add(len) }
    }

    fn take(&mut self, len: usize, align: usize) -> Option<*mut u8> {
        let start = self.at.checked_next_multiple_of(align)?;
        let end = start.checked_add(len)?;
        if end > self.end {
            return None;
        }
        self.at = end;
        Some(start as *mut u8)
    }

    /// Bytes as they are, at an alignment.
    pub fn bytes(&mut self, bytes: &[u8], align: usize) -> Option<*mut c_char> {
        let to = self.take(bytes.len(), align)?;
        // SAFETY: `take` keeps to the buffer that `new` was promised.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Some(to.cast())
    }

    /// A C string.
    pub fn string(&mut self, text: &[u8]) -> Option<*mut c_char> {
        let to = self.take(text.len() + 1, 1)?;
        // SAFETY: as above.
        unsafe {
            core::ptr::copy_nonoverlapping(text.as_ptr(), to, text.len());
            to.add(text.len()).write(0);
        }
        Some(to.cast())
    }

    /// A null-terminated list of strings.
    pub fn strings<T: AsRef<[u8]>>(&mut self, texts: &[T]) -> Option<*mut *mut c_char> {
        self.list(texts.len(), |packer, i| packer.string(texts[i].as_ref()))
    }

    /// A null-terminated list of blocks, each aligned for an address.
    pub fn blocks<T: AsRef<[u8]>>(&mut self, blocks: &[T]) -> Option<*mut *mut c_char> {
        self.list(blocks.len(), |packer, i| packer.bytes(blocks[i].as_ref(), 4))
    }

    fn list(
        &mut self,
        count: usize,
        mut item: impl FnMut(&mut Self, usize) -> Option<*mut c_char>,
    ) -> Option<*mut *mut c_char> {
        let list: *mut *mut c_char = self.take((count + 1) * 8, 8)?.cast();
        for i in 0..count {
            let value = item(self, i)?;
            // SAFETY: inside the list just taken.
            unsafe { list.add(i).write(value) };
        }
        // SAFETY: as above.
        unsafe { list.add(count).write(null_mut()) };
        Some(list)
    }
}

/// Answers a reentrant function: 0 with `*result` set or null, ERANGE, or what went wrong.
///
/// # Safety
/// `out`, `buffer` and `result` are the caller's, as the function's man page says.
pub unsafe fn reentrant<R: Record>(
    found: Result<Option<R>, Errno>,
    out: *mut R::C,
    buffer: *mut c_char,
    len: usize,
    result: *mut *mut R::C,
) -> c_int {
    // SAFETY: the caller's pointers.
    unsafe {
        result.write(null_mut());
        match found {
            Err(error) => error.0,
            Ok(None) => 0,
            Ok(Some(record)) => match record.pack(&mut Packer::new(buffer.cast(), len)) {
                None => Errno::ERANGE.0,
                Some(packed) => {
                    out.write(packed);
                    result.write(out);
                    0
                }
            },
        }
    }
}

/// The memory of one function with a static result.
pub struct Slot(AtomicPtr<u8>);

/// What stands before the C structure in a block.
const HEADER: usize = 16;
const FIRST: usize = 1024;

impl Slot {
    /// No memory yet.
    pub const fn new() -> Self {
        Self(AtomicPtr::new(null_mut()))
    }

    /// Lays a record out here; null with errno if there is none.
    pub fn fill<R: Record>(&self, found: Result<Option<R>, Errno>) -> *mut R::C {
        match found {
            Err(error) => {
                errno::set(error);
                null_mut()
            }
            Ok(None) => null_mut(),
            Ok(Some(record)) => self.place(&record),
        }
    }

    fn place<R: Record>(&self, record: &R) -> *mut R::C {
        let mut block = self.0.swap(null_mut(), Ordering::AcqRel);
        // SAFETY: a block from below: HEADER bytes with its size, the structure, the buffer.
        unsafe {
            loop {
                let size = if block.is_null() { 0 } else { block.cast::<usize>().read() };
                let before = HEADER + size_of::<R::C>();
                if size > before {
                    let out: *mut R::C = block.add(HEADER).cast();
                    if let Some(packed) = record.pack(&mut Packer::new(block.add(before), size - before)) {
                        out.write(packed);
                        self.0.store(block, Ordering::Release);
                        return out;
                    }
                }
                free(block.cast::<c_void>());
                let size = (size * 2).max(FIRST);
                block = malloc(size).cast();
                if block.is_null() {
                    errno::set(Errno::ENOMEM);
                    return null_mut();
                }
                block.cast::<usize>().write(size);
            }
        }
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}
