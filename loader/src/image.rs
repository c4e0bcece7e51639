//! The bytes of an object, by address: mapped as the program sees it, or as a plain view of its file.
//!
//! Everything that reads tables (dynamic section, symbols, versions, relocations) asks an [`Image`],
//! so loading and `attacca check` share that code. Only the file's part of a segment can be asked
//! for: its length was checked against the file.

use crate::elf::Elf;

/// A range of bytes inside an image, checked once, then cheap to get.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Table {
    at: usize,
    len: usize,
}

impl Table {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }
}

/// Where an object's bytes are.
pub struct Image {
    /// Address that a file address 0 (loaded) or a file offset 0 (viewed) would have.
    origin: usize,
    loaded: bool,
}

impl Image {
    /// An object whose segments are mapped `bias` bytes above their own addresses.
    ///
    /// # Safety
    /// All segments are mapped there and stay so while the image is asked.
    pub unsafe fn loaded(bias: usize) -> Image {
        Image { origin: bias, loaded: true }
    }

    /// An object whose whole file is mapped at `address`.
    ///
    /// # Safety
    /// The whole file is mapped there, readable, and stays so while the image is asked.
    pub unsafe fn viewed(address: usize) -> Image {
        Image { origin: address, loaded: false }
    }

    /// The bytes from `vaddr` to the end of its segment's part of the file.
    pub fn table(&self, elf: &Elf, vaddr: usize) -> Option<Table> {
        let (offset, len) = elf.backing(vaddr)?;
        Some(Table { at: if self.loaded { vaddr } else { offset }, len })
    }

    /// Exactly `len` bytes from `vaddr`, if they are there.
    pub fn exact(&self, elf: &Elf, vaddr: usize, len: usize) -> Option<Table> {
        self.table(elf, vaddr).filter(|t| len <= t.len).map(|t| Table { at: t.at, len })
    }

    /// The bytes of a table of this image.
    ///
    /// Tables that the loader reads after relocation (symbols, strings, hashes) lie in read-only
    /// segments of well-formed objects; a writable one is the program's own risk.
    pub fn bytes(&self, table: Table) -> &[u8] {
        if table.len == 0 {
            return &[];
        }
        // SAFETY: the table came from `table` or `exact` of this image: a readable part of a segment
        // (or of the file) that is mapped for the image's life, as the constructors were promised.
        unsafe { core::slice::from_raw_parts(self.origin.wrapping_add(table.at) as *const u8, table.len) }
    }
}

/// `u16` at byte `at`, if it is there.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// `u32` at byte `at`, if it is there.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// `u64` at byte `at`, if it is there.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// The bytes from `at` up to a NUL, if there is one.
pub fn string_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..)?;
    rest.get(..memchr(rest)?)
}

fn memchr(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&b| b == 0)
}
