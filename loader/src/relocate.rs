//! Relocations: every type that an x86-64 object may carry at load time (psABI table 4.9), in RELA,
//! REL and RELR form.
//!
//! All of an object's own relocations come first, IRELATIVE last: a resolver may use the object's
//! data. A place is written only if it lies in a segment of the object that the relocations may
//! write, so a hostile file can damage nothing but itself.

use crate::arch::save::{tlsdesc_dynamic, tlsdesc_null, tlsdesc_static};
use crate::dynamic::DF_TEXTREL;
use crate::error::{Fault, LoadError, Missing};
use crate::image::{Table, u64_at};
use crate::map;
use crate::object::{ElfObject, Namespace, ObjectId};
use crate::resolve::{Binding, Found, call_resolver, ours};
use crate::stub::Late;
use crate::symbols::Class;
use alloc::boxed::Box;
use alloc::vec::Vec;
use goblin::elf::program_header::PF_W;
use goblin::elf::reloc::*;
use hashbrown::HashMap;
use libc_abi::abi::Kind;

/// How missing functions are treated, and where missing names go.
pub struct Relocator<'n> {
    ns: &'n Namespace,
    /// `--lazy`: any missing function becomes a stub.
    lazy: bool,
    /// What nothing provides.
    pub missing: Vec<Missing>,
}

/// One relocation, decoded.
#[derive(Clone, Copy)]
struct Reloc {
    place: usize,
    kind: u32,
    symbol: u32,
    /// `None` for REL: the addend is what stands at the place.
    addend: Option<i64>,
}

/// What a symbol of the object is bound to, as far as relocations care.
#[derive(Clone, Copy)]
enum Value {
    Address(usize, u64),
    Tls {
        object: ObjectId,
        value: usize,
    },
    Zero,
    /// Counted as missing; the place stays as it is.
    Missing,
}

type Cache = HashMap<(u32, Class), Value>;
type Outcome<T = ()> = Result<T, LoadError>;

impl<'n> Relocator<'n> {
    /// A relocator over a namespace.
    pub fn new(ns: &'n Namespace, lazy: bool) -> Self {
        Self { ns, lazy, missing: Vec::new() }
    }

    /// Relocates one object. Missing names are collected in `missing`.
    ///
    /// # Safety
    /// The object is loaded, not yet relocated, and no thread runs its code; what it depends on was
    /// relocated before (IFUNC resolvers are called).
    pub unsafe fn relocate(&mut self, id: ObjectId) -> Outcome {
        let Some(object) = self.ns.elf(id) else { return Ok(()) };
        let text = object.dynamic.flags & DF_TEXTREL != 0;
        if text {
            self.open_text(id, object, true)?;
        }
        let mut work = Work { ns: self.ns, id, object, text, cache: Cache::new(), owner: self };
        // SAFETY: as promised to us.
        unsafe { work.all() }?;
        if text {
            self.open_text(id, object, false)?;
        }
        Ok(())
    }

    fn open_text(&self, id: ObjectId, object: &ElfObject, writable: bool) -> Outcome {
        map::text_writable(self.ns.files, &object.elf, object.bias, writable)
            .map_err(|e| LoadError::Map(path(self.ns, id), "its code for text relocations", e))
    }
}

struct Work<'w, 'n> {
    ns: &'n Namespace,
    id: ObjectId,
    object: &'n ElfObject,
    text: bool,
    cache: Cache,
    owner: &'w mut Relocator<'n>,
}

impl Work<'_, '_> {
    unsafe fn all(&mut self) -> Outcome {
        let d = &self.object.dynamic;
        self.relr(d.relr).map_err(|f| self.fault(f))?;
        let passes = tables(self.object);
        for ifuncs in [false, true] {
            for (table, rela) in passes {
                for reloc in relocs(self.object.image.bytes(table), rela) {
                    if (reloc.kind == R_X86_64_IRELATIVE) == ifuncs {
                        // SAFETY: as promised to `relocate`.
                        unsafe { self.one(reloc) }?;
                    }
                }
            }
        }
        Ok(())
    }

    /// DT_RELR: an even word is a place; odd words are bitmaps of the 63 places behind the last.
    fn relr(&self, table: Table) -> Result<(), Fault> {
        let bytes = self.object.image.bytes(table);
        let mut next = 0usize;
        for at in (0..bytes.len()).step_by(8) {
            let Some(word) = u64_at(bytes, at) else { break };
            if word & 1 == 0 {
                self.relative(word as usize)?;
                next = (word as usize).wrapping_add(8);
            } else {
                for bit in (0..63).filter(|bit| word >> (bit + 1) & 1 != 0) {
                    self.relative(next.wrapping_add(8 * bit))?;
                }
                next = next.wrapping_add(63 * 8);
            }
        }
        Ok(())
    }

    fn relative(&self, place: usize) -> Result<(), Fault> {
        let value = self.read(place)?.wrapping_add(self.object.bias as u64);
        self.write(place, value)
    }

    unsafe fn one(&mut self, r: Reloc) -> Outcome {
        if r.kind == R_X86_64_NONE {
            return Ok(());
        }
        let addend = match r.addend {
            Some(addend) => addend as u64,
            None => self.addend_at_place(&r).map_err(|f| self.fault(f))?,
        };
        match r.kind {
            // RELATIVE64 is the x32 name of the same thing.
            R_X86_64_RELATIVE | R_X86_64_RELATIVE64 => {
                self.put(r.place, (self.object.bias as u64).wrapping_add(addend))
            }
            R_X86_64_IRELATIVE => {
                let resolver = self.code(addend as usize)?;
                // SAFETY: inside the object's code; everything else of it is relocated.
                let address = unsafe { call_resolver(resolver) };
                self.put(r.place, address as u64)
            }
            R_X86_64_COPY => self.copy(&r),
            R_X86_64_DTPMOD64 | R_X86_64_DTPOFF64 | R_X86_64_TPOFF64 | R_X86_64_TLSDESC
            | R_X86_64_DTPOFF32 | R_X86_64_TPOFF32 => self.tls(&r, addend),
            _ => self.symbolic(&r, addend),
        }
    }

    /// REL entries keep their addend at the place; the types that have none ignore it.
    fn addend_at_place(&self, r: &Reloc) -> Result<u64, Fault> {
        Ok(match r.kind {
            R_X86_64_GLOB_DAT | R_X86_64_JUMP_SLOT | R_X86_64_COPY | R_X86_64_DTPMOD64 => 0,
            R_X86_64_TLSDESC => self.read(r.place.wrapping_add(8))?,
            R_X86_64_32 | R_X86_64_32S | R_X86_64_PC32 | R_X86_64_SIZE32 | R_X86_64_TPOFF32
            | R_X86_64_DTPOFF32 => {
                // SAFETY: `span` checked the place.
                unsafe { (self.span(r.place, 4)? as *const i32).read_unaligned() as i64 as u64 }
            }
            _ => self.read(r.place)?,
        })
    }

    fn symbolic(&mut self, r: &Reloc, addend: u64) -> Outcome {
        let class = if r.kind == R_X86_64_JUMP_SLOT { Class::Call } else { Class::Address };
        let (address, size) = match self.value(r, class)? {
            Value::Address(address, size) => (address as u64, size),
            Value::Zero => (0, 0),
            Value::Tls { .. } => {
                return Err(self.fault(Fault::Malformed("a data relocation against a TLS symbol")));
            }
            Value::Missing => return Ok(()),
        };
        let place = r.place.wrapping_add(self.object.bias) as u64;
        let sum = address.wrapping_add(addend);
        match r.kind {
            R_X86_64_GLOB_DAT | R_X86_64_JUMP_SLOT => self.put(r.place, address),
            R_X86_64_64 => self.put(r.place, sum),
            R_X86_64_PC64 => self.put(r.place, sum.wrapping_sub(place)),
            R_X86_64_SIZE64 => self.put(r.place, size.wrapping_add(addend)),
            R_X86_64_32 => self.put32(r, sum, sum <= u32::MAX as u64),
            R_X86_64_SIZE32 => self.put32(r, size.wrapping_add(addend), size <= u32::MAX as u64),
            R_X86_64_32S => self.put32(r, sum, fits_signed(sum)),
            R_X86_64_PC32 | R_X86_64_PLT32 => {
                let distance = sum.wrapping_sub(place);
                self.put32(r, distance, fits_signed(distance))
            }
            R_X86_64_16 => self.put_small(r, sum, 2),
            R_X86_64_8 => self.put_small(r, sum, 1),
            other => Err(self.fault(Fault::RelocationType(other))),
        }
    }

    fn tls(&mut self, r: &Reloc, addend: u64) -> Outcome {
        let (object, value) = match self.value(r, Class::Call)? {
            Value::Tls { object, value } => (object, value as u64),
            // An undefined weak variable: module 0, descriptor to null.
            Value::Zero if r.kind == R_X86_64_TLSDESC => {
                self.put(r.place, tlsdesc_null as *const () as u64)?;
                return self.put(r.place.wrapping_add(8), addend);
            }
            Value::Zero => return Ok(()),
            Value::Address(..) => {
                return Err(self.fault(Fault::Malformed("a TLS relocation against a plain symbol")));
            }
            Value::Missing => return Ok(()),
        };
        let no_tls = Fault::Malformed("a TLS relocation against an object without TLS");
        let Some(module) = self.ns.elf(object).and_then(|e| e.tls) else { return Err(self.fault(no_tls)) };
        let within = value.wrapping_add(addend);
        match r.kind {
            R_X86_64_DTPMOD64 => self.put(r.place, module.id as u64),
            R_X86_64_DTPOFF64 => self.put(r.place, within),
            R_X86_64_DTPOFF32 => self.put32(r, within, fits_signed(within)),
            R_X86_64_TPOFF64 | R_X86_64_TPOFF32 => {
                // A library opened late got its place in the surplus before this, if there was one.
                let Some(offset) = module.offset else {
                    return Err(LoadError::StaticTls(path(self.ns, object)));
                };
                let value = within.wrapping_sub(offset as u64);
                if r.kind == R_X86_64_TPOFF64 {
                    self.put(r.place, value)
                } else {
                    self.put32(r, value, fits_signed(value))
                }
            }
            _ => self.descriptor(r, &module, within),
        }
    }

    fn descriptor(&mut self, r: &Reloc, module: &crate::tls::Module, within: u64) -> Outcome {
        let (function, argument) = match module.offset {
            Some(offset) => (tlsdesc_static as *const (), within.wrapping_sub(offset as u64)),
            // As large as the GOT pair that __tls_get_addr takes; lives as long as the process: the
            // few bytes are not worth a list to free them by.
            None => {
                let pair = Box::leak(Box::new([module.id as u64, within]));
                (tlsdesc_dynamic as *const (), pair.as_ptr() as u64)
            }
        };
        self.put(r.place, function as u64)?;
        self.put(r.place.wrapping_add(8), argument)
    }

    /// R_X86_64_COPY: the program's own copy of a library's variable. Ours are copied before any
    /// object is bound ([`crate::interpose`]).
    fn copy(&mut self, r: &Reloc) -> Outcome {
        let object = self.object;
        let Some(own) = object.symbols().get(r.symbol) else {
            return Err(self.fault(Fault::Malformed("a relocation with an unknown symbol")));
        };
        match self.ns.bind(self.id, r.symbol, Class::Copy).map_err(|f| self.fault(f))? {
            Binding::Found(Found::Elf { object, symbol, .. }) => {
                let source = self.ns.elf(object).expect("found there");
                let len = (symbol.st_size.min(own.st_size)) as usize;
                let from_fits = source.elf.loaded(symbol.st_value as usize, len).is_some();
                if !from_fits {
                    return Err(self.fault(Fault::Malformed("a copy from outside the segments")));
                }
                let to = self.span(r.place, len).map_err(|f| self.fault(f))?;
                let from = source.bias.wrapping_add(symbol.st_value as usize);
                // SAFETY: both ranges lie in loaded segments; `copy` allows overlap.
                unsafe { core::ptr::copy(from as *const u8, to as *mut u8, len) };
                Ok(())
            }
            Binding::Found(Found::Builtin { .. }) | Binding::Zero => Ok(()),
            Binding::Missing(missing) => {
                self.owner.missing.push(missing);
                Ok(())
            }
        }
    }

    /// What a relocation's symbol is bound to; looked up once for all relocations that use it.
    fn value(&mut self, r: &Reloc, class: Class) -> Outcome<Value> {
        // A stub belongs to its slot, so it is not shared.
        if let Some(&value) = self.cache.get(&(r.symbol, class)) {
            return Ok(value);
        }
        let value = match self.ns.bind(self.id, r.symbol, class).map_err(|f| self.fault(f))? {
            Binding::Found(found) => self.found(&found)?,
            Binding::Zero => Value::Zero,
            Binding::Missing(missing) => return self.absent(r, missing),
        };
        self.cache.insert((r.symbol, class), value);
        Ok(value)
    }

    fn found(&self, found: &Found) -> Outcome<Value> {
        self.note_binding(found.object());
        let size = match found {
            Found::Builtin { row, .. } => match row.kind {
                Kind::Object { size } => size as u64,
                Kind::Func => 0,
            },
            Found::Elf { symbol, .. } => symbol.st_size,
        };
        if let Found::Elf { object, symbol, .. } = found {
            if symbol.st_info & 0xf == goblin::elf::sym::STT_TLS || self.tls_anchor(found) {
                return Ok(Value::Tls { object: *object, value: symbol.st_value as usize });
            }
            self.check_ifunc(*object, symbol)?;
        }
        // SAFETY: objects are loaded; dependencies are relocated first.
        Ok(Value::Address(unsafe { self.ns.address(found) }, size))
    }

    /// Symbol 0 in a TLS relocation means the object's own module; elsewhere it means the value 0.
    fn tls_anchor(&self, found: &Found) -> bool {
        matches!(found, Found::Elf { index: 0, object, .. } if *object == self.id)
            && self.object.tls.is_some()
    }

    /// A resolver is code that will be called: it must be code.
    fn check_ifunc(&self, object: ObjectId, symbol: &goblin::elf::sym::sym64::Sym) -> Outcome {
        let ifunc = symbol.st_info & 0xf == crate::symbols::STT_GNU_IFUNC && symbol.st_shndx != 0;
        let inside = || self.ns.elf(object).is_some_and(|e| e.elf.executable(symbol.st_value as usize));
        if ifunc && !inside() {
            Err(self.fault(Fault::Malformed("a resolver outside the code")))
        } else {
            Ok(())
        }
    }

    /// A missing name: an error, unless it is a function that may be bound when first called.
    fn absent(&mut self, r: &Reloc, missing: Missing) -> Outcome<Value> {
        let symbol = self.object.symbols().get(r.symbol);
        let kind = symbol.map_or(0, |s| s.st_info & 0xf);
        let call = r.kind == R_X86_64_JUMP_SLOT;
        let function = call || matches!(kind, goblin::elf::sym::STT_FUNC | crate::symbols::STT_GNU_IFUNC);
        let now = self.object.dynamic.bind_now() || self.ns.get(self.id).is_some_and(|o| o.life.now);
        // ld.so would not have noticed yet; what our libc lacks is refused all the same.
        let later = call && !now && !ours(&missing);
        if !(function && self.owner.lazy || later) {
            if !self.owner.missing.contains(&missing) {
                self.owner.missing.push(missing);
            }
            return Ok(Value::Missing);
        }
        // A slot under full RELRO is read-only when the stub is called.
        let slot = (call && !self.object.dynamic.bind_now()).then(|| r.place.wrapping_add(self.object.bias));
        let late = Late { object: self.id, index: r.symbol, slot, missing };
        let address = self.ns.stubs.borrow_mut().make(self.ns, late);
        let address = address.map_err(|e| LoadError::Map(path(self.ns, self.id), "a stub", e))?;
        Ok(Value::Address(address, 0))
    }

    /// Remembers that this object uses another one which may otherwise be unloaded first.
    fn note_binding(&self, to: ObjectId) {
        if to == self.id || self.ns.get(to).is_none_or(|o| o.life.nodelete) {
            return;
        }
        if let Some(object) = self.ns.get(self.id) {
            let mut bound = object.life.bound_to.borrow_mut();
            if !bound.contains(&to) {
                bound.push(to);
            }
        }
    }

    fn code(&self, vaddr: usize) -> Outcome<usize> {
        if self.object.elf.executable(vaddr) {
            Ok(vaddr.wrapping_add(self.object.bias))
        } else {
            Err(self.fault(Fault::Malformed("a resolver outside the code")))
        }
    }

    /// The memory address of a place, if `len` bytes there may be relocated.
    fn span(&self, place: usize, len: usize) -> Result<usize, Fault> {
        match self.object.elf.loaded(place, len) {
            Some(s) if s.flags & PF_W != 0 || self.text => Ok(place.wrapping_add(self.object.bias)),
            _ => Err(Fault::RelocationPlace(place as u64)),
        }
    }

    fn read(&self, place: usize) -> Result<u64, Fault> {
        // SAFETY: `span` checked the place.
        Ok(unsafe { (self.span(place, 8)? as *const u64).read_unaligned() })
    }

    fn write(&self, place: usize, value: u64) -> Result<(), Fault> {
        // SAFETY: `span` checked the place; no thread runs the object's code yet.
        unsafe { (self.span(place, 8)? as *mut u64).write_unaligned(value) };
        Ok(())
    }

    fn put(&self, place: usize, value: u64) -> Outcome {
        self.write(place, value).map_err(|f| self.fault(f))
    }

    fn put32(&self, r: &Reloc, value: u64, fits: bool) -> Outcome {
        if !fits {
            return Err(self.fault(Fault::RelocationOverflow(r.place as u64)));
        }
        self.put_small(r, value, 4)
    }

    fn put_small(&self, r: &Reloc, value: u64, len: usize) -> Outcome {
        let to = self.span(r.place, len).map_err(|f| self.fault(f))?;
        // SAFETY: `span` checked the place; little endian keeps the low bytes.
        unsafe { core::ptr::copy_nonoverlapping(value.to_le_bytes().as_ptr(), to as *mut u8, len) };
        Ok(())
    }

    fn fault(&self, fault: Fault) -> LoadError {
        LoadError::File(path(self.ns, self.id), fault)
    }
}

fn fits_signed(value: u64) -> bool {
    value as i64 == value as i32 as i64
}

fn path(ns: &Namespace, id: ObjectId) -> Vec<u8> {
    ns.get(id).map_or_else(Vec::new, |o| o.path.clone())
}

/// Decodes a table of RELA (24 bytes) or REL (16 bytes) entries.
fn relocs(bytes: &[u8], rela: bool) -> impl Iterator<Item = Reloc> + '_ {
    let size = if rela { 24 } else { 16 };
    bytes.chunks_exact(size).map(move |entry| {
        let word = |at| u64_at(entry, at).unwrap_or(0);
        let info = word(8);
        Reloc {
            place: word(0) as usize,
            kind: info as u32,
            symbol: (info >> 32) as u32,
            addend: rela.then(|| word(16) as i64),
        }
    })
}

/// The object's relocation tables, with whether they are RELA.
fn tables(object: &ElfObject) -> [(Table, bool); 3] {
    let d = &object.dynamic;
    [(d.rela, true), (d.rel, false), (d.jmprel, d.plt_rela)]
}

/// The symbols that an object's relocations refer to, with the types that use them; each pair once.
/// Symbol 0 (the object itself) counts for TLS.
pub fn references(object: &ElfObject) -> Vec<(u32, u32)> {
    let mut seen = hashbrown::HashSet::new();
    let mut list = Vec::new();
    for (table, rela) in tables(object) {
        for r in relocs(object.image.bytes(table), rela) {
            if (r.symbol != 0 || r.kind == R_X86_64_TPOFF64) && seen.insert((r.symbol, r.kind)) {
                list.push((r.symbol, r.kind));
            }
        }
    }
    list
}

/// The program's copy relocations: (place, symbol).
pub fn copies(object: &ElfObject) -> Vec<(usize, u32)> {
    tables(object)
        .into_iter()
        .flat_map(|(table, rela)| relocs(object.image.bytes(table), rela))
        .filter(|r| r.kind == R_X86_64_COPY)
        .map(|r| (r.place, r.symbol))
        .collect()
}

/// Objects without a place in the static block whose variables are reached by the initial-exec
/// model from `id`: they need one before `id` is relocated.
pub fn static_tls_wanted(ns: &Namespace, id: ObjectId) -> Vec<ObjectId> {
    let Some(object) = ns.elf(id) else { return Vec::new() };
    references(object)
        .into_iter()
        .filter(|&(_, kind)| matches!(kind, R_X86_64_TPOFF64 | R_X86_64_TPOFF32))
        .filter_map(|(symbol, _)| match ns.bind(id, symbol, Class::Call) {
            Ok(Binding::Found(found)) => Some(found.object()),
            _ => None,
        })
        .filter(|&to| ns.elf(to).and_then(|e| e.tls).is_some_and(|m| m.offset.is_none()))
        .collect()
}
