//! Thread-local storage: the layout of the static block (psABI variant II: a module's variables lie
//! `offset` bytes below the thread pointer).
//!
//! The block is as large as the start-up set needs plus a surplus, from which libraries that are
//! opened later and use the initial-exec model (libjemalloc, libGL) get theirs. How blocks are made
//! for threads is `libc_abi`'s; it is told every module ([`crate::libc`]) and gives it its id.

use crate::elf::TlsSegment;

/// glibc's TLS_STATIC_SURPLUS with its default tunables (rtld.optional_static_tls 512 and room for
/// namespaces); we have one namespace but keep the size: programs were tested with it.
pub const SURPLUS: usize = 1664;

/// An object's thread-local storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// PT_TLS.
    pub segment: TlsSegment,
    /// Module id, from 1; 0 until it is registered.
    pub id: usize,
    /// Distance below the thread pointer, if it lies in the static block.
    pub offset: Option<usize>,
}

/// The static block, and which module ids are taken.
#[derive(Debug)]
pub struct Layout {
    /// Bytes below the thread pointer that are given out.
    pub used: usize,
    /// Bytes below the thread pointer in all: fixed once threads exist.
    pub size: usize,
    /// Alignment of the thread pointer.
    pub align: usize,
}

impl Default for Layout {
    fn default() -> Self {
        // 64: the TCB's own alignment (glibc's TCB_ALIGNMENT).
        Self { used: 0, size: 0, align: 64 }
    }
}

impl Layout {
    /// Gives a module of the start-up set its place.
    pub fn place(&mut self, module: &mut Module) {
        module.offset = Some(offset_behind(self.used, &module.segment));
        self.used = module.offset.unwrap_or(0);
        self.align = self.align.max(module.segment.align);
    }

    /// Fixes the block's size: what is used, and the surplus.
    pub fn seal(&mut self) {
        self.size = (self.used + SURPLUS).next_multiple_of(self.align);
    }

    /// A place in the surplus for a module opened later; `None` if it does not fit.
    pub fn place_late(&mut self, segment: &TlsSegment) -> Option<usize> {
        let offset = offset_behind(self.used, segment);
        if offset > self.size || segment.align > self.align {
            return None;
        }
        self.used = offset;
        Some(offset)
    }
}

/// The smallest offset behind `used` at which the block is congruent with its address in the file:
/// the linker's offsets count on both being aligned alike.
fn offset_behind(used: usize, segment: &TlsSegment) -> usize {
    let skew = segment.vaddr.wrapping_neg() & (segment.align - 1);
    let least = used + segment.memsz;
    let rounded = least.next_multiple_of(segment.align);
    if rounded - segment.align + skew >= least && rounded >= segment.align {
        rounded - segment.align + skew
    } else {
        rounded + skew
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(vaddr: usize, memsz: usize, align: usize) -> TlsSegment {
        TlsSegment { vaddr, filesz: 0, memsz, align }
    }

    #[test]
    fn the_programs_offset_is_what_its_linker_assumed() {
        // Local-exec code computes tp - round_up(memsz, align) for the start of the block.
        for (memsz, align) in [(8, 8), (12, 8), (0x40, 64), (1, 1), (100, 32)] {
            let mut layout = Layout::default();
            let mut module = Module { segment: segment(0x4000, memsz, align), id: 0, offset: None };
            layout.place(&mut module);
            assert_eq!(module.offset, Some(memsz.next_multiple_of(align)));
        }
    }

    #[test]
    fn blocks_are_congruent_and_apart() {
        let mut layout = Layout::default();
        let mut last = 0;
        for (vaddr, memsz, align) in
            [(0x1000, 24, 8), (0x2010, 100, 64), (0x3e08, 1, 16), (0x4000, 0x300, 128), (7, 3, 4)]
        {
            let mut module = Module { segment: segment(vaddr, memsz, align), id: 0, offset: None };
            layout.place(&mut module);
            let offset = module.offset.unwrap();
            assert!(offset >= last + memsz, "{offset} {last} {memsz}");
            // The thread pointer is a multiple of every alignment.
            assert_eq!(offset.wrapping_neg() % align, vaddr % align);
            last = offset;
        }
        layout.seal();
        assert!(layout.size >= last + SURPLUS);
        assert!(layout.place_late(&segment(0, SURPLUS + 4096, 8)).is_none());
        assert!(layout.place_late(&segment(0, 512, 16)).is_some());
    }
}
