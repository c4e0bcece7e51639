//! Objects into memory: every segment mapped from its file, so that gdb, perf and /proc/PID/maps
//! show what lies where. For `attacca check` a file is only viewed: mapped whole, read-only.

use crate::elf::{Elf, Segment};
use crate::error::LoadError;
use crate::files::{File, Files};
use goblin::elf::program_header::{PF_R, PF_W, PF_X};
use platform::Errno;
use platform::layout::{PAGE_SIZE, touches_window};
use platform::sys::number;

const PROT_READ: usize = 1;
const PROT_WRITE: usize = 2;
const PROT_EXEC: usize = 4;
const MAP_PRIVATE: usize = 0x02;
const MAP_FIXED: usize = 0x10;
const MAP_ANONYMOUS: usize = 0x20;
const MAP_NORESERVE: usize = 0x4000;
const MAP_FIXED_NOREPLACE: usize = 0x10_0000;

/// Address space of an object; unmapped when dropped.
pub struct Mapping {
    files: &'static dyn Files,
    /// First address.
    pub start: usize,
    /// Bytes.
    pub len: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.len != 0 {
            // SAFETY: the range is this object's; it is dropped when nothing refers to it any more.
            let _ = unsafe { self.files.call(number::munmap, [self.start, self.len, 0, 0, 0, 0]) };
        }
    }
}

/// Maps all segments. `hint` is where a position-independent object would like to be (0: anywhere).
/// Answers the mapping and the bias.
pub fn load(
    files: &'static dyn Files,
    path: &[u8],
    file: &File<'_>,
    elf: &Elf,
    hint: usize,
) -> Result<(Mapping, usize), LoadError> {
    let mapping = reserve(files, path, elf, hint)?;
    let bias = mapping.start.wrapping_sub(elf.start);
    for segment in &elf.segments {
        map_segment(files, file.fd, segment, bias)
            .map_err(|e| LoadError::Map(path.to_vec(), "a segment", e))?;
    }
    Ok((mapping, bias))
}

/// Maps a whole file, to be read only.
pub fn view(files: &'static dyn Files, path: &[u8], file: &File<'_>) -> Result<Mapping, LoadError> {
    let len = file.size as usize;
    // SAFETY: a fresh mapping.
    let start = unsafe { files.call(number::mmap, [0, len, PROT_READ, MAP_PRIVATE, file.fd as usize, 0]) }
        .map_err(|e| LoadError::Map(path.to_vec(), "the file", e))?;
    Ok(Mapping { files, start, len })
}

/// Takes the whole span of an object, unreadable until its segments come: gaps between segments
/// stay guards.
fn reserve(files: &'static dyn Files, path: &[u8], elf: &Elf, hint: usize) -> Result<Mapping, LoadError> {
    let len = elf.end - elf.start;
    if elf.fixed {
        let in_use = || LoadError::AddressInUse(path.to_vec(), elf.start, elf.end);
        if touches_window(elf.start, len) {
            return Err(in_use());
        }
        let start = anonymous(files, elf.start, len, 0, MAP_FIXED_NOREPLACE).map_err(|e| match e {
            Errno::EEXIST => in_use(),
            e => LoadError::Map(path.to_vec(), "its fixed addresses", e),
        })?;
        let mapping = Mapping { files, start, len };
        // A kernel before 4.17 takes NOREPLACE for a hint.
        return if start == elf.start { Ok(mapping) } else { Err(in_use()) };
    }
    let slack = elf.align - PAGE_SIZE;
    let fail = |e| LoadError::Map(path.to_vec(), "address space", e);
    let total = len.checked_add(slack).ok_or_else(|| fail(Errno::ENOMEM))?;
    let got = anonymous(files, hint, total, 0, 0).map_err(fail)?;
    // The bias must be a multiple of the alignment.
    let start = (got.wrapping_sub(elf.start)).next_multiple_of(elf.align).wrapping_add(elf.start);
    trim(files, got, start);
    trim(files, start + len, got + total);
    let mapping = Mapping { files, start, len };
    if touches_window(start, len) { Err(fail(Errno::ENOMEM)) } else { Ok(mapping) }
}

fn trim(files: &dyn Files, from: usize, to: usize) {
    if from < to {
        // SAFETY: part of a reservation made a moment ago that nothing uses.
        let _ = unsafe { files.call(number::munmap, [from, to - from, 0, 0, 0, 0]) };
    }
}

fn anonymous(files: &dyn Files, at: usize, len: usize, prot: usize, flags: usize) -> Result<usize, Errno> {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags;
    // SAFETY: fresh memory, or (MAP_FIXED) inside the caller's reservation.
    unsafe { files.call(number::mmap, [at, len, prot, flags, usize::MAX, 0]) }
}

fn map_segment(files: &dyn Files, fd: i32, segment: &Segment, bias: usize) -> Result<(), Errno> {
    let prot = prot(segment.flags);
    let start = page_down(segment.vaddr).wrapping_add(bias);
    let file_end = (segment.vaddr + segment.filesz).wrapping_add(bias);
    let end = page_up(segment.end()).wrapping_add(bias);
    let mut zero_from = start;
    if segment.filesz != 0 {
        let offset = segment.offset - segment.vaddr % PAGE_SIZE;
        let len = page_up(file_end) - start;
        // SAFETY: inside this object's reservation.
        unsafe {
            files.call(number::mmap, [start, len, prot, MAP_PRIVATE | MAP_FIXED, fd as usize, offset])?
        };
        zero_from = page_up(file_end);
        if segment.memsz > segment.filesz {
            zero_tail(files, file_end, zero_from, prot)?;
        }
    }
    if zero_from < end {
        anonymous(files, zero_from, end - zero_from, prot, MAP_FIXED)?;
    }
    Ok(())
}

/// Clears what the file's last page holds behind the segment's bytes: the start of .bss.
fn zero_tail(files: &dyn Files, from: usize, to: usize, prot: usize) -> Result<(), Errno> {
    if from == to {
        return Ok(());
    }
    let page = page_down(from);
    let writable = prot & PROT_WRITE != 0;
    // SAFETY: the page was just mapped for this object and holds at least one byte of the file, so
    // it can be written; nobody else knows it yet.
    unsafe {
        if !writable {
            files.call(number::mprotect, [page, PAGE_SIZE, PROT_READ | PROT_WRITE, 0, 0, 0])?;
        }
        core::ptr::write_bytes(from as *mut u8, 0, to - from);
        if !writable {
            files.call(number::mprotect, [page, PAGE_SIZE, prot, 0, 0, 0])?;
        }
    }
    Ok(())
}

/// Makes the part that only relocation writes read-only (PT_GNU_RELRO): whole pages of it.
pub fn protect_relro(files: &dyn Files, elf: &Elf, bias: usize) -> Result<(), Errno> {
    let Some(relro) = elf.relro else { return Ok(()) };
    let start = page_down(relro.vaddr);
    let end = page_down(relro.vaddr + relro.len);
    if start < end {
        // SAFETY: relocation is over; the range is the object's own.
        unsafe { files.call(number::mprotect, [start.wrapping_add(bias), end - start, PROT_READ, 0, 0, 0])? };
    }
    Ok(())
}

/// Opens read-only segments for relocations in code (DT_TEXTREL), or closes them again.
pub fn text_writable(files: &dyn Files, elf: &Elf, bias: usize, writable: bool) -> Result<(), Errno> {
    for s in elf.segments.iter().filter(|s| s.flags & PF_W == 0) {
        let start = page_down(s.vaddr);
        let prot = if writable { PROT_READ | PROT_WRITE } else { prot(s.flags) };
        // SAFETY: the object's own segment; no thread runs its code before it is relocated.
        unsafe {
            files
                .call(number::mprotect, [start.wrapping_add(bias), page_up(s.end()) - start, prot, 0, 0, 0])?
        };
    }
    Ok(())
}

/// Fresh zeroed memory that stays for ever: stacks, thread blocks, stubs.
pub fn fresh(files: &dyn Files, len: usize) -> Result<usize, Errno> {
    anonymous(files, 0, len, PROT_READ | PROT_WRITE, 0)
}

fn prot(flags: u32) -> usize {
    let pick = |flag, prot| if flags & flag != 0 { prot } else { 0 };
    pick(PF_R, PROT_READ) | pick(PF_W, PROT_WRITE) | pick(PF_X, PROT_EXEC)
}

/// Rounds down to a page.
pub fn page_down(address: usize) -> usize {
    address & !(PAGE_SIZE - 1)
}

/// Rounds up to a page.
pub fn page_up(address: usize) -> usize {
    page_down(address + PAGE_SIZE - 1)
}
