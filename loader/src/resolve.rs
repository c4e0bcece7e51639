//! Import (name, version) -> definition: scopes searched in ld.so's order, our libc among them.

use crate::dynamic::Version;
use crate::error::{Fault, Missing};
use crate::exports::{self, Exports};
use crate::object::{Body, Namespace, ObjectId};
use crate::symbols::{Class, Name, SHN_ABS, STB_GNU_UNIQUE, STT_GNU_IFUNC, Want};
use goblin::elf::sym::{self, sym64::Sym};
use libc_abi::Export;

/// A definition that was found.
#[derive(Clone, Copy)]
pub enum Found {
    /// A symbol of an ELF object.
    Elf {
        /// The object.
        object: ObjectId,
        /// Entry of its symbol table.
        index: u32,
        /// The entry.
        symbol: Sym,
    },
    /// A row of ours.
    Builtin {
        /// The library of ours.
        object: ObjectId,
        /// The row.
        row: &'static Export,
    },
}

/// What a symbol table entry of an object is bound to.
pub enum Binding {
    /// A definition.
    Found(Found),
    /// Nothing, and that is allowed: a weak reference, or no symbol at all.
    Zero,
    /// Nothing, and that is an error.
    Missing(Missing),
}

impl Found {
    /// The object that has the definition.
    pub fn object(&self) -> ObjectId {
        match self {
            Found::Elf { object, .. } | Found::Builtin { object, .. } => *object,
        }
    }
}

impl Namespace {
    /// The objects that an object's references are looked up in, in order (with repetitions, which
    /// change nothing but time).
    pub fn scope(&self, from: ObjectId) -> impl Iterator<Item = ObjectId> + '_ {
        let object = self.get(from);
        let symbolic = object.and_then(|o| o.elf()).is_some_and(|e| e.dynamic.symbolic());
        let deep = object.is_some_and(|o| o.life.deep);
        let scopes = object.map_or(&[][..], |o| &o.life.scopes);
        let locals =
            move || scopes.iter().filter_map(|&s| self.get(s)).flat_map(|o| o.life.search.iter().copied());
        let first = symbolic.then_some(from);
        let before = deep.then(locals).into_iter().flatten();
        let after = (!deep).then(locals).into_iter().flatten();
        first.into_iter().chain(before).chain(self.global.iter().copied()).chain(after)
    }

    /// The first definition in a list of objects.
    pub fn find(&self, scope: impl Iterator<Item = ObjectId>, want: &Want<'_>) -> Option<Found> {
        let found = scope.into_iter().find_map(|id| self.find_in(id, want))?;
        Some(self.unique(found, want))
    }

    /// A definition in one object.
    pub fn find_in(&self, id: ObjectId, want: &Want<'_>) -> Option<Found> {
        match &self.get(id)?.body {
            Body::Elf(elf) => {
                elf.symbols().find(want).map(|(index, symbol)| Found::Elf { object: id, index, symbol })
            }
            Body::Builtin(library) => {
                let row = self.exports.find(library, want)?;
                Exports::serves(row, want.class).then_some(Found::Builtin { object: id, row })
            }
        }
    }

    /// STB_GNU_UNIQUE: whoever was found first under the name is the one for the whole process.
    fn unique(&self, found: Found, want: &Want<'_>) -> Found {
        let Found::Elf { object, index, symbol } = found else { return found };
        if symbol.st_info >> 4 != STB_GNU_UNIQUE {
            return found;
        }
        let mut table = self.unique.borrow_mut();
        let entry = table.entry_ref(want.name.bytes).or_insert((object, index));
        let (object, index) = *entry;
        match self.elf(object).and_then(|e| e.symbols().get(index)) {
            Some(symbol) => Found::Elf { object, index, symbol },
            None => found,
        }
    }

    /// Binds entry `index` of an object's symbol table.
    pub fn bind(&self, from: ObjectId, index: u32, class: Class) -> Result<Binding, Fault> {
        let elf = self.elf(from).ok_or(Fault::Malformed("not an ELF object"))?;
        let symbols = elf.symbols();
        let symbol = symbols.get(index).ok_or(Fault::Malformed("a relocation with an unknown symbol"))?;
        if index == 0 || binds_locally(&symbol) {
            return Ok(Binding::Found(Found::Elf { object: from, index, symbol }));
        }
        let name = symbols.name(&symbol).ok_or(Fault::Malformed("a name outside the string table"))?;
        let (version, _) = symbols.version(index);
        let want = Want { name: Name::new(name), version, class, newest: false };
        let skip = (class == Class::Copy).then_some(from);
        let found = self.find(self.scope(from).filter(|&id| Some(id) != skip), &want);
        Ok(match found {
            Some(found) => Binding::Found(found),
            None if symbol.st_info >> 4 == sym::STB_WEAK => Binding::Zero,
            None => Binding::Missing(self.missing(from, name, version)),
        })
    }

    fn missing(&self, from: ObjectId, name: &[u8], version: Option<&Version>) -> Missing {
        Missing {
            name: name.to_vec(),
            version: version.map(|v| v.name.clone()),
            library: version.and_then(|v| v.library.clone()),
            object: self.get(from).map_or_else(Default::default, |o| o.path.clone()),
        }
    }

    /// Address of a definition in the process; calls the resolver of an IFUNC.
    ///
    /// # Safety
    /// The objects are loaded (not viewed), and what an IFUNC's resolver needs is relocated.
    pub unsafe fn address(&self, found: &Found) -> usize {
        match found {
            Found::Builtin { row, .. } => libc_abi::data::address(row) as usize,
            Found::Elf { object, symbol, .. } => {
                let bias = self.elf(*object).map_or(0, |e| e.bias);
                let address = match symbol.st_shndx {
                    SHN_ABS => symbol.st_value as usize,
                    _ => (symbol.st_value as usize).wrapping_add(bias),
                };
                let ifunc = symbol.st_info & 0xf == STT_GNU_IFUNC && symbol.st_shndx != 0;
                // SAFETY: the symbol says that it is a resolver; the caller vouches for the moment.
                if ifunc { unsafe { call_resolver(address) } } else { address }
            }
        }
    }
}

/// Calls an IFUNC resolver.
///
/// # Safety
/// `address` is a resolver of a loaded object.
pub unsafe fn call_resolver(address: usize) -> usize {
    // SAFETY: x86-64 resolvers take nothing and answer an address (psABI, GNU IFUNC).
    let resolver: extern "C" fn() -> usize = unsafe { core::mem::transmute(address) };
    resolver()
}

/// Local and hidden symbols mean the object's own; so does a protected one that it defines.
fn binds_locally(symbol: &Sym) -> bool {
    symbol.st_info >> 4 == sym::STB_LOCAL
        || match symbol.st_other & 3 {
            sym::STV_DEFAULT => false,
            sym::STV_PROTECTED => symbol.st_shndx != 0,
            _ => true,
        }
}

/// Whether a missing import should have come from our libc.
pub fn ours(missing: &Missing) -> bool {
    missing.library.as_deref().is_some_and(|l| exports::library(l).is_some())
}
