//! Host memory: map, protect, release. Addresses and lengths in bytes, page-aligned.

use crate::errno::Result;
use crate::host;
use bitflags::bitflags;

bitflags! {
    /// Page rights, as mmap(2)'s `PROT_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Prot: u32 {
        /// Readable.
        const READ = 1;
        /// Writable.
        const WRITE = 2;
        /// Executable.
        const EXEC = 4;
    }
}

const MAP_SHARED: usize = 0x01;
const MAP_PRIVATE: usize = 0x02;
const MAP_ANONYMOUS: usize = 0x20;
const MAP_NORESERVE: usize = 0x4000;
const MAP_FIXED_NOREPLACE: usize = 0x10_0000;

/// Maps fresh private zeroed memory, anywhere (`address` 0) or exactly at a free `address`.
pub fn map_private(address: usize, len: usize, prot: Prot) -> Result<usize> {
    let fixed = if address == 0 { 0 } else { MAP_FIXED_NOREPLACE };
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed;
    // SAFETY: NOREPLACE never takes memory that is in use; the new memory belongs to the caller.
    unsafe { host!(mmap, address, len, prot.bits(), flags, -1isize, 0) }
}

/// Maps fresh private zeroed memory at `address`, in place of what is there.
///
/// # Safety
/// Nothing uses what is there.
pub unsafe fn replace_private(address: usize, len: usize, prot: Prot) -> Result<()> {
    const MAP_FIXED: usize = 0x10;
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    // SAFETY: the caller gives the range.
    unsafe { host!(mmap, address, len, prot.bits(), flags, -1isize, 0) }.map(drop)
}

/// Maps `len` bytes of descriptor `fd` from `offset`, shared, at the free `address`.
pub fn map_shared(address: usize, len: usize, prot: Prot, fd: i32, offset: u64) -> Result<usize> {
    let fixed = if address == 0 { 0 } else { MAP_FIXED_NOREPLACE };
    // SAFETY: as in `map_private`; what others write there is the caller's concern.
    unsafe { host!(mmap, address, len, prot.bits(), MAP_SHARED | fixed, fd, offset) }
}

/// Unmaps memory.
///
/// # Safety
/// Nothing may use the range afterwards.
pub unsafe fn unmap(address: usize, len: usize) -> Result<()> {
    // SAFETY: the caller gives the range up.
    unsafe { host!(munmap, address, len) }.map(drop)
}

/// Changes page rights.
///
/// # Safety
/// References into the range must stay valid under the new rights.
pub unsafe fn protect(address: usize, len: usize, prot: Prot) -> Result<()> {
    // SAFETY: the caller vouches for the range's users.
    unsafe { host!(mprotect, address, len, prot.bits()) }.map(drop)
}
