//! `attacca check`: a program's closure and every import in it, bound or missing. Nothing is loaded
//! to run; files are viewed, and bound by the code that binds them for real.

use crate::closure::{Closure, Options};
use crate::error::{LoadError, Missing};
use crate::files::Files;
use crate::object::{Body, ElfObject, Namespace, ObjectId};
use crate::relocate;
use crate::resolve::Binding;
use crate::symbols::Class;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use goblin::elf::program_header::PF_X;
use goblin::elf::reloc::{R_X86_64_COPY, R_X86_64_JUMP_SLOT};

/// One object of the closure.
#[derive(Clone, Debug)]
pub struct ObjectReport {
    /// Where it was found; the soname for a library of ours.
    pub path: Vec<u8>,
    /// It is our libc.
    pub ours: bool,
    /// Numbers of system calls whose instruction stands in its code, where they could be read.
    pub syscalls: BTreeSet<u32>,
    /// `syscall` instructions whose number could not be read.
    pub unknown_syscalls: usize,
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
            syscalls: BTreeSet::new(),
            unknown_syscalls: 0,
        };
        if let Some(elf) = object.elf() {
            scan_syscalls(elf, &mut entry);
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

/// Looks for `syscall` instructions (0f 05) in code, and back from each for the `mov eax, imm32`
/// that gives its number. Data tables in code can look like one; this is a hint for people.
fn scan_syscalls(elf: &ElfObject, out: &mut ObjectReport) {
    const BACK: usize = 24;
    /// No x86-64 call number is larger.
    const LIMIT: u32 = 600;
    for segment in elf.elf.segments.iter().filter(|s| s.flags & PF_X != 0) {
        let Some(table) = elf.image.exact(&elf.elf, segment.vaddr, segment.filesz) else { continue };
        let code = elf.image.bytes(table);
        for at in (0..code.len().saturating_sub(1)).filter(|&at| code[at] == 0x0f && code[at + 1] == 0x05) {
            let before = &code[at.saturating_sub(BACK)..at];
            let number = (0..before.len().saturating_sub(4))
                .rev()
                .filter(|&i| before[i] == 0xb8)
                .filter_map(|i| crate::image::u32_at(before, i + 1))
                .find(|&n| n < LIMIT);
            match number {
                Some(number) => drop(out.syscalls.insert(number)),
                None => out.unknown_syscalls += 1,
            }
        }
    }
}
