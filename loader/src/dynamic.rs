//! The dynamic section: what an object needs, gives, and wants done (gabi 5, GNU extensions).

use crate::elf::{Elf, Extent};
use crate::error::Fault;
use crate::image::{Image, Table, string_at, u16_at, u32_at};
use alloc::vec::Vec;
use goblin::elf::dynamic::{self as dt, dyn64::Dyn};
use scroll::{LE, Pread};

/// Which hash table finds symbols by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// DT_GNU_HASH.
    Gnu(Table),
    /// DT_HASH.
    Sysv(Table),
    /// None: nothing is found by name.
    None,
}

/// A version node that an object defines or needs; the index is that of its `versym`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// SysV hash of the name; 0 marks an index without version.
    pub hash: u32,
    /// "GLIBC_2.2.5".
    pub name: Vec<u8>,
    /// The library that it is wanted of (needs only).
    pub library: Option<Vec<u8>>,
    /// Only an exact match will do (the high bit of `vna_other`).
    pub hidden: bool,
    /// VER_FLG_WEAK: a missing node is no error.
    pub weak: bool,
}

/// The decoded dynamic section.
#[derive(Debug)]
pub struct Dynamic {
    /// DT_NEEDED, in order.
    pub needed: Vec<Vec<u8>>,
    /// DT_SONAME.
    pub soname: Option<Vec<u8>>,
    /// DT_RPATH; ignored where there is a RUNPATH.
    pub rpath: Option<Vec<u8>>,
    /// DT_RUNPATH.
    pub runpath: Option<Vec<u8>>,
    /// DT_STRTAB.
    pub strings: Table,
    /// DT_SYMTAB, to the end of its segment: the section has no length of its own.
    pub symbols: Table,
    /// The hash table.
    pub hash: Hash,
    /// DT_VERSYM.
    pub versym: Table,
    /// Versions by `versym` index.
    pub versions: Vec<Version>,
    /// DT_RELA.
    pub rela: Table,
    /// DT_REL.
    pub rel: Table,
    /// DT_JMPREL; of which kind, `plt_rela` tells.
    pub jmprel: Table,
    /// DT_PLTREL is DT_RELA.
    pub plt_rela: bool,
    /// DT_RELR.
    pub relr: Table,
    /// DT_INIT, 0 for none.
    pub init: usize,
    /// DT_FINI, 0 for none.
    pub fini: usize,
    /// DT_PREINIT_ARRAY.
    pub preinit_array: Extent,
    /// DT_INIT_ARRAY.
    pub init_array: Extent,
    /// DT_FINI_ARRAY.
    pub fini_array: Extent,
    /// Address of the value of DT_DEBUG.
    pub debug: Option<usize>,
    /// DT_FLAGS with DT_SYMBOLIC, DT_TEXTREL and DT_BIND_NOW folded in.
    pub flags: u64,
    /// DT_FLAGS_1.
    pub flags_1: u64,
}

/// DF_SYMBOLIC: own symbols first.
pub const DF_SYMBOLIC: u64 = 2;
/// DF_TEXTREL: relocations in read-only segments.
pub const DF_TEXTREL: u64 = 4;
/// DF_BIND_NOW: functions are bound at load.
pub const DF_BIND_NOW: u64 = 8;
/// DF_1_NOW.
pub const DF_1_NOW: u64 = 1;
/// DF_1_NODELETE: never unloaded.
pub const DF_1_NODELETE: u64 = 8;
/// DF_1_INITFIRST: its constructors run before all others.
pub const DF_1_INITFIRST: u64 = 0x20;
/// DF_1_NOOPEN: dlopen refuses it.
pub const DF_1_NOOPEN: u64 = 0x40;
/// DF_1_NODEFLIB: the default folders are not searched for it.
pub const DF_1_NODEFLIB: u64 = 0x800;
/// DF_1_PIE: a program, although ET_DYN.
pub const DF_1_PIE: u64 = 0x0800_0000;

const DT_RELRSZ: u64 = 35;
const DT_RELR: u64 = 36;
const DT_RELRENT: u64 = 37;
const RELA_SIZE: usize = 24;
const REL_SIZE: usize = 16;

/// The section's values as they stand, before any is followed.
#[derive(Default)]
struct Raw {
    needed: Vec<usize>,
    soname: Option<usize>,
    rpath: Option<usize>,
    runpath: Option<usize>,
    strtab: usize,
    strsz: usize,
    symtab: usize,
    hash: usize,
    gnu_hash: usize,
    versym: usize,
    verdef: usize,
    verneed: usize,
    rela: Extent,
    rel: Extent,
    jmprel: Extent,
    relr: Extent,
    pltrel: u64,
    init: usize,
    fini: usize,
    preinit_array: Extent,
    init_array: Extent,
    fini_array: Extent,
    debug: Option<usize>,
    flags: u64,
    flags_1: u64,
}

/// Decodes the dynamic section of an object; an object without one gets an empty answer.
pub fn parse(elf: &Elf, image: &Image) -> Result<Dynamic, Fault> {
    let raw = match elf.dynamic {
        Some(section) => collect(elf, image, section)?,
        None => Raw::default(),
    };
    resolve(elf, image, raw)
}

fn collect(elf: &Elf, image: &Image, section: Extent) -> Result<Raw, Fault> {
    let table = image
        .exact(elf, section.vaddr, section.len)
        .ok_or(Fault::Malformed("a dynamic section outside the segments"))?;
    let bytes = image.bytes(table);
    let mut raw = Raw::default();
    for at in (0..bytes.len()).step_by(16) {
        let Ok(entry) = bytes.pread_with::<Dyn>(at, LE) else { break };
        if entry.d_tag == dt::DT_NULL {
            break;
        }
        if entry.d_tag == dt::DT_DEBUG {
            raw.debug = Some(section.vaddr + at + 8);
        }
        take(&mut raw, entry)?;
    }
    Ok(raw)
}

fn take(raw: &mut Raw, entry: Dyn) -> Result<(), Fault> {
    let value = entry.d_val as usize;
    let entry_size = |want: usize| {
        if value == want { Ok(()) } else { Err(Fault::Malformed("table entries of a foreign size")) }
    };
    match entry.d_tag {
        dt::DT_NEEDED => raw.needed.push(value),
        dt::DT_SONAME => raw.soname = Some(value),
        dt::DT_RPATH => raw.rpath = Some(value),
        dt::DT_RUNPATH => raw.runpath = Some(value),
        dt::DT_STRTAB => raw.strtab = value,
        dt::DT_STRSZ => raw.strsz = value,
        dt::DT_SYMTAB => raw.symtab = value,
        dt::DT_SYMENT => entry_size(24)?,
        dt::DT_HASH => raw.hash = value,
        dt::DT_GNU_HASH => raw.gnu_hash = value,
        dt::DT_VERSYM => raw.versym = value,
        dt::DT_VERDEF => raw.verdef = value,
        dt::DT_VERNEED => raw.verneed = value,
        dt::DT_RELA => raw.rela.vaddr = value,
        dt::DT_RELASZ => raw.rela.len = value,
        dt::DT_RELAENT => entry_size(RELA_SIZE)?,
        dt::DT_REL => raw.rel.vaddr = value,
        dt::DT_RELSZ => raw.rel.len = value,
        dt::DT_RELENT => entry_size(REL_SIZE)?,
        dt::DT_JMPREL => raw.jmprel.vaddr = value,
        dt::DT_PLTRELSZ => raw.jmprel.len = value,
        dt::DT_PLTREL => raw.pltrel = entry.d_val,
        DT_RELR => raw.relr.vaddr = value,
        DT_RELRSZ => raw.relr.len = value,
        DT_RELRENT => entry_size(8)?,
        dt::DT_INIT => raw.init = value,
        dt::DT_FINI => raw.fini = value,
        dt::DT_PREINIT_ARRAY => raw.preinit_array.vaddr = value,
        dt::DT_PREINIT_ARRAYSZ => raw.preinit_array.len = value,
        dt::DT_INIT_ARRAY => raw.init_array.vaddr = value,
        dt::DT_INIT_ARRAYSZ => raw.init_array.len = value,
        dt::DT_FINI_ARRAY => raw.fini_array.vaddr = value,
        dt::DT_FINI_ARRAYSZ => raw.fini_array.len = value,
        dt::DT_SYMBOLIC => raw.flags |= DF_SYMBOLIC,
        dt::DT_TEXTREL => raw.flags |= DF_TEXTREL,
        dt::DT_BIND_NOW => raw.flags |= DF_BIND_NOW,
        dt::DT_FLAGS => raw.flags |= entry.d_val,
        dt::DT_FLAGS_1 => raw.flags_1 = entry.d_val,
        _ => {}
    }
    Ok(())
}

/// Follows the section's addresses into the image, each with its bounds.
fn resolve(elf: &Elf, image: &Image, raw: Raw) -> Result<Dynamic, Fault> {
    let exact = |e: Extent, what| {
        if e.len == 0 {
            return Ok(Table::default());
        }
        image.exact(elf, e.vaddr, e.len).ok_or(Fault::Malformed(what))
    };
    let open = |vaddr: usize, what| {
        if vaddr == 0 { Ok(Table::default()) } else { image.table(elf, vaddr).ok_or(Fault::Malformed(what)) }
    };
    let strings = exact(Extent { vaddr: raw.strtab, len: raw.strsz }, "a string table outside the segments")?;
    let text = |at: usize| {
        string_at(image.bytes(strings), at)
            .map(<[u8]>::to_vec)
            .ok_or(Fault::Malformed("a name outside the string table"))
    };
    let optional = |at: Option<usize>| at.map(text).transpose();
    let hash = match (raw.gnu_hash, raw.hash) {
        (0, 0) => Hash::None,
        (0, sysv) => Hash::Sysv(open(sysv, "a hash table outside the segments")?),
        (gnu, _) => Hash::Gnu(open(gnu, "a hash table outside the segments")?),
    };
    let code = |vaddr: usize| {
        if vaddr == 0 || elf.executable(vaddr) {
            Ok(vaddr)
        } else {
            Err(Fault::Malformed("an init function outside the code"))
        }
    };
    let array = |e: Extent| {
        let fits = e.len == 0
            || (e.len.is_multiple_of(8) && e.vaddr.is_multiple_of(8) && elf.loaded(e.vaddr, e.len).is_some());
        if fits { Ok(e) } else { Err(Fault::Malformed("an init array outside the segments")) }
    };
    let rela_plt = match raw.pltrel {
        _ if raw.jmprel.len == 0 => true,
        dt::DT_RELA => true,
        dt::DT_REL => false,
        _ => return Err(Fault::Malformed("PLT relocations of an unknown kind")),
    };
    let mut versions = Vec::new();
    let verdef = open(raw.verdef, "version definitions outside the segments")?;
    let verneed = open(raw.verneed, "version needs outside the segments")?;
    read_verdef(image.bytes(verdef), image.bytes(strings), &mut versions)?;
    read_verneed(image.bytes(verneed), image.bytes(strings), &mut versions)?;
    Ok(Dynamic {
        needed: raw.needed.iter().map(|&at| text(at)).collect::<Result<_, _>>()?,
        soname: optional(raw.soname)?,
        rpath: optional(raw.rpath)?,
        runpath: optional(raw.runpath)?,
        strings,
        symbols: open(raw.symtab, "a symbol table outside the segments")?,
        hash,
        versym: open(raw.versym, "a version table outside the segments")?,
        versions,
        rela: exact(raw.rela, "relocations outside the segments")?,
        rel: exact(raw.rel, "relocations outside the segments")?,
        jmprel: exact(raw.jmprel, "PLT relocations outside the segments")?,
        plt_rela: rela_plt,
        relr: exact(raw.relr, "relative relocations outside the segments")?,
        init: code(raw.init)?,
        fini: code(raw.fini)?,
        preinit_array: array(raw.preinit_array)?,
        init_array: array(raw.init_array)?,
        fini_array: array(raw.fini_array)?,
        debug: raw.debug,
        flags: raw.flags,
        flags_1: raw.flags_1,
    })
}

const BAD_VERSIONS: Fault = Fault::Malformed("version information outside its segment");
/// Indices have 15 bits; a longer list is a loop made to waste time.
const MAX_VERSIONS: usize = 0x8000;
const VER_FLG_BASE: u16 = 1;
const VER_FLG_WEAK: u16 = 2;

/// Elf64_Verdef: version, flags, ndx, cnt (u16 each); hash, aux, next (u32 each). The first aux
/// entry names the node, the others its parents.
fn read_verdef(bytes: &[u8], strings: &[u8], out: &mut Vec<Version>) -> Result<(), Fault> {
    let mut at = 0;
    for _ in 0..MAX_VERSIONS {
        if bytes.is_empty() {
            break;
        }
        let read = || {
            let flags = u16_at(bytes, at + 2)?;
            let index = u16_at(bytes, at + 4)? & 0x7fff;
            let hash = u32_at(bytes, at + 8)?;
            let aux = at.checked_add(u32_at(bytes, at + 12)? as usize)?;
            let name = string_at(strings, u32_at(bytes, aux)? as usize)?;
            Some((flags, index, hash, name, u32_at(bytes, at + 16)? as usize))
        };
        let (flags, index, hash, name, next) = read().ok_or(BAD_VERSIONS)?;
        // The base node is the file itself; symbols under it have no version.
        if flags & VER_FLG_BASE == 0 {
            put(out, index, Version { hash, name: name.to_vec(), ..Version::default() });
        }
        if next == 0 {
            break;
        }
        at = at.checked_add(next).ok_or(BAD_VERSIONS)?;
    }
    Ok(())
}

/// Elf64_Verneed: version, cnt (u16); file, aux, next (u32). Elf64_Vernaux: hash (u32), flags, other
/// (u16), name, next (u32).
fn read_verneed(bytes: &[u8], strings: &[u8], out: &mut Vec<Version>) -> Result<(), Fault> {
    let mut at = 0;
    let mut left = MAX_VERSIONS;
    while !bytes.is_empty() {
        let read = || {
            let file = string_at(strings, u32_at(bytes, at + 4)? as usize)?;
            let aux = at.checked_add(u32_at(bytes, at + 8)? as usize)?;
            Some((file, aux, u32_at(bytes, at + 12)? as usize))
        };
        let (file, mut aux, next) = read().ok_or(BAD_VERSIONS)?;
        loop {
            left = left.checked_sub(1).ok_or(BAD_VERSIONS)?;
            let read = || {
                let other = u16_at(bytes, aux + 6)?;
                let name = string_at(strings, u32_at(bytes, aux + 8)? as usize)?;
                Some((
                    u32_at(bytes, aux)?,
                    u16_at(bytes, aux + 4)?,
                    other,
                    name,
                    u32_at(bytes, aux + 12)? as usize,
                ))
            };
            let (hash, flags, other, name, next) = read().ok_or(BAD_VERSIONS)?;
            let version = Version {
                hash,
                name: name.to_vec(),
                library: Some(file.to_vec()),
                hidden: other & 0x8000 != 0,
                weak: flags & VER_FLG_WEAK != 0,
            };
            put(out, other & 0x7fff, version);
            if next == 0 {
                break;
            }
            aux = aux.checked_add(next).ok_or(BAD_VERSIONS)?;
        }
        if next == 0 {
            break;
        }
        at = at.checked_add(next).ok_or(BAD_VERSIONS)?;
    }
    Ok(())
}

/// Indices have 15 bits, so a hostile one costs little.
fn put(out: &mut Vec<Version>, index: u16, version: Version) {
    let index = index as usize;
    if out.len() <= index {
        out.resize(index + 1, Version::default());
    }
    out[index] = version;
}

impl Dynamic {
    /// Whether functions are bound at load (-z now).
    pub fn bind_now(&self) -> bool {
        self.flags & DF_BIND_NOW != 0 || self.flags_1 & DF_1_NOW != 0
    }

    /// Whether own symbols come first (-Bsymbolic).
    pub fn symbolic(&self) -> bool {
        self.flags & DF_SYMBOLIC != 0
    }
}
