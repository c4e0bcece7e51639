//! ELF and program headers, validated once: what passes here has segments that are sorted, inside
//! the file, without overlap and within the user address space. No unsafe, no memory is touched.
//!
//! The dynamic section is read later ([`crate::dynamic`]), from the mapped object.

use crate::error::Fault;
use alloc::vec::Vec;
use goblin::elf::header::{self, header64};
use goblin::elf::program_header::{self as ph, program_header64::ProgramHeader};
use platform::layout::PAGE_SIZE;
use scroll::{LE, Pread};

/// A PT_LOAD segment. Addresses are the file's own (add the bias).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First address.
    pub vaddr: usize,
    /// Bytes in memory.
    pub memsz: usize,
    /// Bytes from the file; the rest is zero.
    pub filesz: usize,
    /// Where they are in the file.
    pub offset: usize,
    /// PF_R, PF_W, PF_X.
    pub flags: u32,
}

impl Segment {
    /// Address behind the last byte.
    pub fn end(&self) -> usize {
        self.vaddr + self.memsz
    }
}

/// Part of the address space of an object: start and length, in the file's own addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Extent {
    /// First address.
    pub vaddr: usize,
    /// Bytes.
    pub len: usize,
}

/// PT_TLS: the initial image of the thread-local variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsSegment {
    /// Where the initial image is.
    pub vaddr: usize,
    /// Bytes of the image.
    pub filesz: usize,
    /// Bytes of the block; behind the image it is zero.
    pub memsz: usize,
    /// Alignment, a power of two.
    pub align: usize,
}

/// The headers of a valid x86-64 ELF program or library.
#[derive(Clone, Debug)]
pub struct Elf {
    /// ET_EXEC: linked for fixed addresses.
    pub fixed: bool,
    /// `e_entry`.
    pub entry: usize,
    /// PT_LOAD, in ascending order.
    pub segments: Vec<Segment>,
    /// First address of the object, rounded down to a page.
    pub start: usize,
    /// End of the object, rounded up to a page.
    pub end: usize,
    /// Alignment that the load address needs: a power of two, at least a page.
    pub align: usize,
    /// Where the program headers are in memory, and how many.
    pub phdr: Option<usize>,
    /// Number of program headers.
    pub phnum: usize,
    /// PT_DYNAMIC.
    pub dynamic: Option<Extent>,
    /// PT_INTERP: the path of the program's loader.
    pub interp: Option<Vec<u8>>,
    /// PT_TLS.
    pub tls: Option<TlsSegment>,
    /// PT_GNU_RELRO: read-only once relocated.
    pub relro: Option<Extent>,
    /// PT_GNU_EH_FRAME: the unwinder's table.
    pub eh_frame: Option<Extent>,
    /// PT_GNU_STACK asks for an executable stack. Absent headers ask for it too on x86-64 Linux
    /// only in old binaries; the kernel since 5.8 says no, and so do we.
    pub exec_stack: bool,
}

/// How the file's bytes are had: fill the buffer from `offset`, or say how much there was.
pub type Reader<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> Result<usize, platform::Errno>;

/// End of user addresses on x86-64 with 4-level paging, one guard page short.
const TASK_SIZE: usize = 0x7fff_ffff_f000;
/// As many program headers as the kernel takes: one page of 64 KiB at most (fs/binfmt_elf.c).
const MAX_PHNUM: usize = 65536 / 56;
const PATH_MAX: usize = 4096;

/// Why headers could not be had: the file is bad, or reading failed.
#[derive(Debug)]
pub enum ParseError {
    /// The file is bad.
    Fault(Fault),
    /// Reading failed.
    Read(platform::Errno),
}

impl From<Fault> for ParseError {
    fn from(fault: Fault) -> Self {
        ParseError::Fault(fault)
    }
}

/// Reads and checks the headers of a file of `size` bytes.
pub fn parse(size: u64, read: Reader<'_>) -> Result<Elf, ParseError> {
    let mut head = [0u8; header64::SIZEOF_EHDR];
    let got = read(0, &mut head).map_err(ParseError::Read)?;
    let header = check_header(&head[..got])?;
    let phdrs = read_program_headers(&header, size, read)?;
    let mut elf = collect(&header, &phdrs, size)?;
    if let Some(interp) = phdrs.iter().find(|p| p.p_type == ph::PT_INTERP) {
        elf.interp = Some(read_interp(interp, size, read)?);
    }
    Ok(elf)
}

fn check_header(head: &[u8]) -> Result<header64::Header, Fault> {
    if head.is_empty() {
        return Err(Fault::Empty);
    }
    if head.starts_with(b"#!") {
        return Err(Fault::Script);
    }
    if !head.starts_with(header::ELFMAG) {
        // A file shorter than the magic may be the start of one.
        return Err(if header::ELFMAG.starts_with(head) {
            Fault::Truncated("ELF header")
        } else {
            Fault::NotElf
        });
    }
    if head.len() < header::SIZEOF_IDENT {
        return Err(Fault::Truncated("ELF header"));
    }
    match head[header::EI_CLASS] {
        header::ELFCLASS64 => {}
        header::ELFCLASS32 => return Err(Fault::Class32),
        _ => return Err(Fault::Malformed("unknown ELF class")),
    }
    match head[header::EI_DATA] {
        header::ELFDATA2LSB => {}
        header::ELFDATA2MSB => return Err(Fault::BigEndian),
        _ => return Err(Fault::Malformed("unknown byte order")),
    }
    if head.len() < header64::SIZEOF_EHDR {
        return Err(Fault::Truncated("ELF header"));
    }
    let h: header64::Header = head.pread_with(0, LE).map_err(|_| Fault::Truncated("ELF header"))?;
    if head[header::EI_VERSION] != 1 || h.e_version != 1 {
        return Err(Fault::Malformed("unknown ELF version"));
    }
    if h.e_machine != header::EM_X86_64 {
        return Err(Fault::Machine(h.e_machine));
    }
    // glibc takes SysV (0) and GNU/Linux (3).
    if !matches!(head[header::EI_OSABI], 0 | 3) {
        return Err(Fault::OsAbi(head[header::EI_OSABI]));
    }
    if !matches!(h.e_type, header::ET_EXEC | header::ET_DYN) {
        return Err(Fault::Type(h.e_type));
    }
    Ok(h)
}

fn read_program_headers(
    h: &header64::Header,
    size: u64,
    read: Reader<'_>,
) -> Result<Vec<ProgramHeader>, ParseError> {
    let count = h.e_phnum as usize;
    if h.e_phentsize as usize != ph::program_header64::SIZEOF_PHDR {
        return Err(Fault::Malformed("program headers of a foreign size").into());
    }
    if count == 0 || count > MAX_PHNUM {
        return Err(Fault::Malformed("no or too many program headers").into());
    }
    let len = count * ph::program_header64::SIZEOF_PHDR;
    if h.e_phoff.checked_add(len as u64).is_none_or(|end| end > size) {
        return Err(Fault::Truncated("program header table").into());
    }
    let mut bytes = alloc::vec![0u8; len];
    if read(h.e_phoff, &mut bytes).map_err(ParseError::Read)? < len {
        return Err(Fault::Truncated("program header table").into());
    }
    let mut at = 0;
    (0..count)
        .map(|_| bytes.gread_with(&mut at, LE).map_err(|_| Fault::Truncated("program header table").into()))
        .collect()
}

fn collect(h: &header64::Header, phdrs: &[ProgramHeader], size: u64) -> Result<Elf, Fault> {
    let mut elf = Elf {
        fixed: h.e_type == header::ET_EXEC,
        entry: h.e_entry as usize,
        segments: Vec::new(),
        start: 0,
        end: 0,
        align: PAGE_SIZE,
        phdr: None,
        phnum: phdrs.len(),
        dynamic: None,
        interp: None,
        tls: None,
        relro: None,
        eh_frame: None,
        exec_stack: false,
    };
    for p in phdrs {
        match p.p_type {
            ph::PT_LOAD => add_segment(&mut elf, p, size)?,
            ph::PT_DYNAMIC => elf.dynamic = Some(extent(p)?),
            ph::PT_PHDR => elf.phdr = Some(p.p_vaddr as usize),
            ph::PT_TLS if p.p_memsz != 0 => elf.tls = Some(tls_segment(p)?),
            ph::PT_GNU_RELRO => elf.relro = Some(extent(p)?),
            ph::PT_GNU_EH_FRAME => elf.eh_frame = Some(extent(p)?),
            ph::PT_GNU_STACK => elf.exec_stack = p.p_flags & ph::PF_X != 0,
            _ => {}
        }
    }
    finish(elf, h)
}

fn add_segment(elf: &mut Elf, p: &ProgramHeader, size: u64) -> Result<(), Fault> {
    if p.p_memsz == 0 {
        return Ok(());
    }
    if p.p_filesz > p.p_memsz {
        return Err(Fault::Malformed("a segment with more bytes in the file than in memory"));
    }
    if p.p_align > 1 && !p.p_align.is_power_of_two() {
        return Err(Fault::Malformed("a segment alignment that is no power of two"));
    }
    // glibc: "ELF load command address/offset not properly aligned".
    if p.p_filesz != 0 && !p.p_vaddr.wrapping_sub(p.p_offset).is_multiple_of(PAGE_SIZE as u64) {
        return Err(Fault::Malformed("a segment whose address and file offset do not agree"));
    }
    if p.p_vaddr.checked_add(p.p_memsz).is_none_or(|end| end > TASK_SIZE as u64) {
        return Err(Fault::Malformed("a segment outside the address space"));
    }
    if p.p_filesz != 0 && p.p_offset.checked_add(p.p_filesz).is_none_or(|end| end > size) {
        return Err(Fault::Truncated("loadable segment"));
    }
    let segment = Segment {
        vaddr: p.p_vaddr as usize,
        memsz: p.p_memsz as usize,
        filesz: p.p_filesz as usize,
        offset: p.p_offset as usize,
        flags: p.p_flags,
    };
    if elf.segments.last().is_some_and(|last| last.end() > segment.vaddr) {
        return Err(Fault::Malformed("loadable segments overlap or are out of order"));
    }
    if p.p_align as usize > elf.align {
        // Larger than a segment can need; a hostile value would only eat address space.
        if p.p_align > 1 << 32 {
            return Err(Fault::Malformed("an absurd segment alignment"));
        }
        elf.align = p.p_align as usize;
    }
    elf.segments.push(segment);
    Ok(())
}

fn extent(p: &ProgramHeader) -> Result<Extent, Fault> {
    p.p_vaddr
        .checked_add(p.p_memsz)
        .filter(|&end| end <= TASK_SIZE as u64)
        .ok_or(Fault::Malformed("a header outside the address space"))?;
    Ok(Extent { vaddr: p.p_vaddr as usize, len: p.p_memsz as usize })
}

fn tls_segment(p: &ProgramHeader) -> Result<TlsSegment, Fault> {
    let whole = extent(p)?;
    let align = p.p_align.max(1);
    if !align.is_power_of_two() || align > 1 << 20 || whole.len > 1 << 30 || p.p_filesz > p.p_memsz {
        return Err(Fault::Malformed("an absurd TLS segment"));
    }
    Ok(TlsSegment {
        vaddr: whole.vaddr,
        filesz: p.p_filesz as usize,
        memsz: whole.len,
        align: align as usize,
    })
}

/// What needs all headers: the span, and where the program headers are in memory.
fn finish(mut elf: Elf, h: &header64::Header) -> Result<Elf, Fault> {
    let (Some(first), Some(last)) = (elf.segments.first(), elf.segments.last()) else {
        return Err(Fault::Malformed("nothing to load"));
    };
    elf.start = first.vaddr & !(PAGE_SIZE - 1);
    elf.end = (last.end() + PAGE_SIZE - 1) & !(PAGE_SIZE - 1);
    if elf.phdr.is_none() {
        let off = h.e_phoff as usize;
        let holds = |s: &&Segment| s.offset <= off && off < s.offset + s.filesz;
        elf.phdr = elf.segments.iter().find(holds).map(|s| s.vaddr + (off - s.offset));
    }
    let len = elf.phnum * ph::program_header64::SIZEOF_PHDR;
    elf.phdr = elf.phdr.filter(|&at| elf.file_backed(at, len));
    if elf.tls.is_some_and(|t| t.filesz != 0 && !elf.file_backed(t.vaddr, t.filesz)) {
        return Err(Fault::Malformed("a TLS image outside the segments"));
    }
    // A range beyond the segments would make us protect or describe memory that is not the object's.
    let inside = |e: &Extent| e.vaddr >= elf.start && e.vaddr + e.len <= elf.end;
    elf.relro = elf.relro.filter(inside);
    elf.eh_frame = elf.eh_frame.filter(inside);
    Ok(elf)
}

fn read_interp(p: &ProgramHeader, size: u64, read: Reader<'_>) -> Result<Vec<u8>, ParseError> {
    if p.p_filesz == 0 || p.p_filesz as usize > PATH_MAX {
        return Err(Fault::Malformed("an interpreter path of impossible length").into());
    }
    if p.p_offset.checked_add(p.p_filesz).is_none_or(|end| end > size) {
        return Err(Fault::Truncated("interpreter path").into());
    }
    let mut path = alloc::vec![0u8; p.p_filesz as usize];
    let got = read(p.p_offset, &mut path).map_err(ParseError::Read)?;
    path.truncate(got);
    let Some(end) = path.iter().position(|&b| b == 0) else {
        return Err(Fault::Malformed("an interpreter path without end").into());
    };
    path.truncate(end);
    Ok(path)
}

impl Elf {
    /// Whether `[vaddr, vaddr + len)` lies in the file's part of one segment.
    pub fn file_backed(&self, vaddr: usize, len: usize) -> bool {
        self.backing(vaddr).is_some_and(|(_, rest)| len <= rest)
    }

    /// File offset of `vaddr`, and bytes from there to the end of the segment's part of the file.
    pub fn backing(&self, vaddr: usize) -> Option<(usize, usize)> {
        let s = self.segments.iter().find(|s| s.vaddr <= vaddr && vaddr < s.vaddr + s.filesz)?;
        (s.flags & ph::PF_R != 0).then(|| (s.offset + (vaddr - s.vaddr), s.vaddr + s.filesz - vaddr))
    }

    /// Whether `[vaddr, vaddr + len)` lies in one segment's memory.
    pub fn loaded(&self, vaddr: usize, len: usize) -> Option<&Segment> {
        self.segments
            .iter()
            .find(|s| s.vaddr <= vaddr && vaddr.checked_add(len).is_some_and(|end| end <= s.end()))
    }

    /// Whether code may be called at `vaddr`.
    pub fn executable(&self, vaddr: usize) -> bool {
        self.loaded(vaddr, 1).is_some_and(|s| s.flags & ph::PF_X != 0)
    }
}
