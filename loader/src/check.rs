//! `attacca check`: a program's closure and every import in it, bound or missing. Nothing is loaded
//! to run; files are viewed, and bound by the code that binds them for real.

use crate::closure::{Closure, Options};
use crate::error::{LoadError, Missing};
use crate::files::Files;
use crate::image::u32_at;
use crate::object::{Body, ElfObject, Namespace, ObjectId};
use crate::relocate;
use crate::resolve::Binding;
use crate::symbols::Class;
use alloc::vec::Vec;
use core::ops::Range;
use goblin::elf::program_header::PF_X;
use goblin::elf::reloc::{R_X86_64_COPY, R_X86_64_JUMP_SLOT};

/// One object of the closure.
#[derive(Clone, Debug)]
pub struct ObjectReport {
    /// Where it was found; the soname for a library of ours.
    pub path: Vec<u8>,
    /// It is our libc.
    pub ours: bool,
    /// Its code: address in the file's terms, and bytes.
    pub code: Vec<(usize, Vec<u8>)>,
    /// Where its functions are, as its unwind tables have them; empty without such tables. (Between
    /// functions there may be data.)
    pub functions: Vec<Range<usize>>,
}

/// One import.
#[derive(Clone, Debug)]
pub struct Import {
    /// Symbol, version, library that should have it, object that wants it.
    pub symbol: Missing,
    /// The object that has it; `None` if nothing does.
    pub provider: Option<Vec<u8>>,
    /// The provider is our libc.
    pub ours: bool,
    /// Only weakly wanted: may be missing.
    pub weak: bool,
}

/// The answer.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order of the search scope.
    pub objects: Vec<ObjectReport>,
    /// By object, in the order of its relocations.
    pub imports: Vec<Import>,
    /// The program has no interpreter: it binds nothing and makes its own system calls.
    pub is_static: bool,
}

impl Report {
    /// Imports that the program cannot start without.
    pub fn missing(&self) -> impl Iterator<Item = &Import> {
        self.imports.iter().filter(|i| i.provider.is_none() && !i.weak)
    }
}

/// Checks the program at `path` against our libc's rows.
pub fn check(
    files: &'static dyn Files,
    path: &[u8],
    options: &Options,
    tables: &[&'static [libc_abi::Export]],
) -> Result<Report, LoadError> {
    let mut ns = Namespace::new(files, &crate::libc::Absent, tables);
    let options = Options { view: true, ..options.clone() };
    let program = Closure::new(&mut ns, &options).program(path)?;
    let is_static = ns.elf(program).is_some_and(|e| e.elf.interp.is_none());
    let order = if is_static { alloc::vec![program] } else { ns.global.clone() };
    let mut report = Report { is_static, ..Report::default() };
    for id in order {
        let Some(object) = ns.get(id) else { continue };
        let mut entry = ObjectReport {
            path: object.path.clone(),
            ours: matches!(object.body, Body::Builtin(_)),
            code: Vec::new(),
            functions: Vec::new(),
        };
        if let Some(elf) = object.elf() {
            describe_code(elf, &mut entry);
            if !is_static {
                imports(&ns, id, elf, &mut report.imports)?;
            }
        }
        report.objects.push(entry);
    }
    Ok(report)
}

fn imports(ns: &Namespace, id: ObjectId, elf: &ElfObject, out: &mut Vec<Import>) -> Result<(), LoadError> {
    let path = &ns.get(id).expect("in the scope").path;
    let fault = |f| LoadError::File(path.clone(), f);
    let mut seen = hashbrown::HashSet::new();
    for (index, kind) in relocate::references(elf) {
        let symbols = elf.symbols();
        let Some(symbol) = symbols.get(index) else { continue };
        let undefined = symbol.st_shndx == 0 || kind == R_X86_64_COPY;
        if index == 0 || !undefined || !seen.insert(index) {
            continue;
        }
        let class = match kind {
            R_X86_64_COPY => Class::Copy,
            R_X86_64_JUMP_SLOT => Class::Call,
            _ => Class::Address,
        };
        let provider = match ns.bind(id, index, class).map_err(fault)? {
            Binding::Found(found) => ns.get(found.object()),
            Binding::Zero | Binding::Missing(_) => None,
        };
        let (version, _) = symbols.version(index);
        out.push(Import {
            symbol: Missing {
                name: symbols.name(&symbol).unwrap_or(b"").to_vec(),
                version: version.map(|v| v.name.clone()),
                library: version.and_then(|v| v.library.clone()),
                object: path.clone(),
            },
            provider: provider.map(|o| o.path.clone()),
            ours: provider.is_some_and(|o| matches!(o.body, Body::Builtin(_))),
            weak: symbol.st_info >> 4 == goblin::elf::sym::STB_WEAK,
        });
    }
    Ok(())
}

fn describe_code(elf: &ElfObject, out: &mut ObjectReport) {
    for segment in elf.elf.segments.iter().filter(|s| s.flags & PF_X != 0) {
        if let Some(table) = elf.image.exact(&elf.elf, segment.vaddr, segment.filesz) {
            out.code.push((segment.vaddr, elf.image.bytes(table).to_vec()));
        }
    }
    out.functions = functions(elf).unwrap_or_default();
}

/// The ranges of the FDEs that .eh_frame_hdr lists (LSB Core 10.6), in the one form that linkers write:
/// table of (datarel | sdata4), FDEs with (pcrel | sdata4) addresses.
fn functions(elf: &ElfObject) -> Option<Vec<Range<usize>>> {
    let bytes = |vaddr: usize| elf.image.table(&elf.elf, vaddr).map(|table| elf.image.bytes(table));
    let at = elf.elf.eh_frame?.vaddr;
    let hdr = bytes(at)?;
    if hdr.get(..1)? != [1] || hdr.get(2..4)? != [0x03, 0x3b] {
        return None;
    }
    let relative = |base: usize, offset: u32| base.wrapping_add_signed(offset as i32 as isize);
    let mut found = Vec::new();
    for i in 0..u32_at(hdr, 8)? as usize {
        let start = relative(at, u32_at(hdr, 12 + 8 * i)?);
        let fde = relative(at, u32_at(hdr, 16 + 8 * i)?);
        let Some(entry) = bytes(fde) else { continue };
        let (Some(begin), Some(len)) = (u32_at(entry, 8), u32_at(entry, 12)) else { continue };
        if relative(fde + 8, begin) == start {
            found.push(start..start.saturating_add(len as usize));
        }
    }
    Some(found)
}
