//! Finding a symbol in one object: GNU and SysV hash tables, versions, visibility.
//!
//! The rules for versions are ld.so's (glibc's elf/dl-lookup.c explains them best in words: the
//! "Symbol Versioning" chapter of Drepper's DSO paper): a versioned reference wants its node, and
//! takes a definition without version unless the reference says hidden; an unversioned reference
//! takes the base definition, or the only default one.

use crate::dynamic::{Dynamic, Hash, Version};
use crate::image::{Image, Table, string_at, u16_at, u32_at, u64_at};
use goblin::elf::sym::{self, sym64::Sym};
use scroll::{LE, Pread};

/// STT_GNU_IFUNC: the value is a function that answers the address.
pub const STT_GNU_IFUNC: u8 = 10;
/// STB_GNU_UNIQUE: one definition in the whole process.
pub const STB_GNU_UNIQUE: u8 = 10;
/// SHN_ABS.
pub const SHN_ABS: u16 = 0xfff1;

/// A symbol's name with its hashes; the SysV one is made when first needed.
#[derive(Clone, Copy)]
pub struct Name<'a> {
    /// The name's bytes.
    pub bytes: &'a [u8],
    /// Its hash as DT_GNU_HASH has it.
    pub gnu_hash: u32,
}

impl<'a> Name<'a> {
    /// Hashes a name.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, gnu_hash: gnu_hash(bytes) }
    }
}

/// DT_GNU_HASH's function (Bernstein, times 33).
pub fn gnu_hash(name: &[u8]) -> u32 {
    name.iter().fold(5381u32, |h, &b| h.wrapping_mul(33).wrapping_add(b as u32))
}

/// DT_HASH's function, also that of version names (gabi 5).
pub fn sysv_hash(name: &[u8]) -> u32 {
    name.iter().fold(0u32, |h, &b| {
        let h = (h << 4).wrapping_add(b as u32);
        let high = h & 0xf000_0000;
        (h ^ (high >> 24)) & !high
    })
}

/// What a reference may be bound to (glibc's type classes).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// Any use of the address: also an undefined symbol with a value (canonical PLT entry) will do.
    Address,
    /// A call or TLS: only real definitions.
    Call,
    /// The source of a copy relocation: not the program itself.
    Copy,
}

/// What a reference wants.
#[derive(Clone, Copy)]
pub struct Want<'a> {
    /// The name.
    pub name: Name<'a>,
    /// The version, if the reference has one.
    pub version: Option<&'a Version>,
    /// What for.
    pub class: Class,
    /// dlsym without version: the default (newest) definition and not the base one.
    pub newest: bool,
}

/// The symbol table of an object with what is needed to search it.
#[derive(Clone, Copy)]
pub struct Symbols<'a> {
    image: &'a Image,
    dynamic: &'a Dynamic,
}

impl<'a> Symbols<'a> {
    /// The symbols of an object.
    pub fn new(image: &'a Image, dynamic: &'a Dynamic) -> Self {
        Self { image, dynamic }
    }

    /// Entry `index` of the symbol table.
    pub fn get(&self, index: u32) -> Option<Sym> {
        let at = (index as usize).checked_mul(sym::sym64::SIZEOF_SYM)?;
        let bytes = self.bytes(self.dynamic.symbols);
        bytes.get(at..at.checked_add(sym::sym64::SIZEOF_SYM)?)?.pread_with(0, LE).ok()
    }

    /// A symbol's name.
    pub fn name(&self, symbol: &Sym) -> Option<&'a [u8]> {
        string_at(self.bytes(self.dynamic.strings), symbol.st_name as usize)
    }

    /// The version that entry `index` is defined or wanted in, with its hidden bit.
    pub fn version(&self, index: u32) -> (Option<&'a Version>, bool) {
        let Some(raw) = u16_at(self.bytes(self.dynamic.versym), index as usize * 2) else {
            return (None, false);
        };
        let version = self.dynamic.versions.get((raw & 0x7fff) as usize).filter(|v| v.hash != 0);
        (version, raw & 0x8000 != 0)
    }

    /// Whether the object has a version table at all.
    fn versioned(&self) -> bool {
        !self.dynamic.versym.is_empty()
    }

    fn bytes(&self, table: Table) -> &'a [u8] {
        self.image.bytes(table)
    }

    /// The definition that satisfies `want`, with its index.
    pub fn find(&self, want: &Want<'_>) -> Option<(u32, Sym)> {
        let mut default: Option<(u32, Sym)> = None;
        let mut defaults = 0;
        let mut exact = None;
        self.each(want.name, |index, symbol| {
            if !usable(&symbol, want.class) {
                return false;
            }
            match self.fits(index, want) {
                Fit::Yes => exact = Some((index, symbol)),
                Fit::Default => {
                    default.get_or_insert((index, symbol));
                    defaults += 1;
                }
                Fit::No => {}
            }
            exact.is_some()
        });
        exact.or(default.filter(|_| defaults == 1)).filter(|(_, symbol)| exported(symbol))
    }

    fn fits(&self, index: u32, want: &Want<'_>) -> Fit {
        let raw =
            if self.versioned() { u16_at(self.bytes(self.dynamic.versym), index as usize * 2) } else { None };
        match (want.version, raw) {
            (_, None) => Fit::Yes,
            (Some(version), Some(raw)) => {
                let here = self.dynamic.versions.get((raw & 0x7fff) as usize).filter(|v| v.hash != 0);
                match here {
                    Some(here) if here.hash == version.hash && here.name == version.name => Fit::Yes,
                    Some(_) => Fit::No,
                    // A definition without version stands for any, unless someone said hidden.
                    None if version.hidden || raw & 0x8000 != 0 => Fit::No,
                    None => Fit::Yes,
                }
            }
            // Index 2 is the oldest node: what unversioned binaries were linked against.
            (None, Some(raw)) if (raw & 0x7fff) < if want.newest { 2 } else { 3 } => Fit::Yes,
            (None, Some(raw)) if raw & 0x8000 == 0 => Fit::Default,
            (None, Some(_)) => Fit::No,
        }
    }

    /// Calls `found` for every symbol of that name until it answers true.
    fn each(&self, name: Name<'_>, mut found: impl FnMut(u32, Sym) -> bool) {
        let mut check = |index: u32| {
            self.get(index)
                .is_some_and(|symbol| self.name(&symbol) == Some(name.bytes) && found(index, symbol))
        };
        match self.dynamic.hash {
            Hash::Gnu(table) => gnu_each(self.bytes(table), name.gnu_hash, &mut check),
            Hash::Sysv(table) => sysv_each(self.bytes(table), sysv_hash(name.bytes), &mut check),
            Hash::None => None,
        };
    }

    /// Every defined, exported symbol: for dladdr and for listings. Stops when `found` answers true.
    pub fn each_definition(&self, mut found: impl FnMut(u32, &Sym) -> bool) {
        for index in 1..self.count() {
            let Some(symbol) = self.get(index) else { return };
            if symbol.st_shndx != 0 && found(index, &symbol) {
                return;
            }
        }
    }

    /// Entries of the symbol table, as far as its hash table tells.
    pub fn count(&self) -> u32 {
        match self.dynamic.hash {
            Hash::Gnu(table) => gnu_count(self.bytes(table)).unwrap_or(0),
            Hash::Sysv(table) => u32_at(self.bytes(table), 4).unwrap_or(0),
            Hash::None => 0,
        }
    }
}

enum Fit {
    Yes,
    Default,
    No,
}

fn usable(symbol: &Sym, class: Class) -> bool {
    let kind = symbol.st_info & 0xf;
    if symbol.st_value == 0 && symbol.st_shndx != SHN_ABS && kind != sym::STT_TLS {
        return false;
    }
    if symbol.st_shndx == 0 && class != Class::Address {
        return false;
    }
    matches!(
        kind,
        sym::STT_NOTYPE | sym::STT_OBJECT | sym::STT_FUNC | sym::STT_COMMON | sym::STT_TLS | STT_GNU_IFUNC
    )
}

fn exported(symbol: &Sym) -> bool {
    let visible = matches!(symbol.st_other & 3, sym::STV_DEFAULT | sym::STV_PROTECTED);
    visible && matches!(symbol.st_info >> 4, sym::STB_GLOBAL | sym::STB_WEAK | STB_GNU_UNIQUE)
}

/// DT_GNU_HASH: nbuckets, symoffset, bloom_size, bloom_shift (u32 each), bloom words (u64), buckets,
/// chains. A chain's last word has bit 0 set. Chains are bounded by the table's end.
fn gnu_each(table: &[u8], hash: u32, check: &mut impl FnMut(u32) -> bool) -> Option<()> {
    let buckets = u32_at(table, 0)?;
    let offset = u32_at(table, 4)?;
    let words = u32_at(table, 8)?;
    let shift = u32_at(table, 12)?;
    if buckets == 0 || !words.is_power_of_two() {
        return None;
    }
    let word = u64_at(table, 16 + 8 * ((hash / 64) & (words - 1)) as usize)?;
    let bits = 1u64 << (hash % 64) | 1u64 << (hash.wrapping_shr(shift) % 64);
    if word & bits != bits {
        return None;
    }
    let bucket_at = 16 + 8 * words as usize;
    let mut index = u32_at(table, bucket_at + 4 * (hash % buckets) as usize)?;
    if index < offset {
        return None;
    }
    let chain_at = bucket_at + 4 * buckets as usize;
    loop {
        let word = u32_at(table, chain_at + 4 * (index - offset) as usize)?;
        if (word ^ hash) >> 1 == 0 && check(index) {
            return Some(());
        }
        if word & 1 != 0 {
            return None;
        }
        index = index.checked_add(1)?;
    }
}

fn gnu_count(table: &[u8]) -> Option<u32> {
    let buckets = u32_at(table, 0)?;
    let offset = u32_at(table, 4)?;
    let bucket_at = 16 + 8 * u32_at(table, 8)? as usize;
    let mut last = 0;
    for bucket in 0..buckets as usize {
        last = last.max(u32_at(table, bucket_at + 4 * bucket)?);
    }
    if last < offset {
        return Some(offset);
    }
    let chain_at = bucket_at + 4 * buckets as usize;
    while u32_at(table, chain_at + 4 * (last - offset) as usize)? & 1 == 0 {
        last = last.checked_add(1)?;
    }
    last.checked_add(1)
}

/// DT_HASH: nbucket, nchain, buckets, chains. A hostile cycle ends after nchain steps.
fn sysv_each(table: &[u8], hash: u32, check: &mut impl FnMut(u32) -> bool) -> Option<()> {
    let buckets = u32_at(table, 0)?;
    let chains = u32_at(table, 4)?;
    if buckets == 0 {
        return None;
    }
    let mut index = u32_at(table, 8 + 4 * (hash % buckets) as usize)?;
    for _ in 0..chains {
        if index == 0 {
            return None;
        }
        if check(index) {
            return Some(());
        }
        index = u32_at(table, 8 + 4 * (buckets as usize + index as usize))?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_the_documented_ones() {
        // Values from `readelf` of libc.so.6: printf in DT_GNU_HASH; GLIBC_2.2.5 as a version.
        assert_eq!(gnu_hash(b""), 0x1505);
        assert_eq!(gnu_hash(b"printf"), 0x156b_2bb8);
        assert_eq!(sysv_hash(b"GLIBC_2.2.5"), 0x0969_1a75);
        assert_eq!(sysv_hash(b"printf"), 0x077905a6);
    }

    #[test]
    fn broken_hash_tables_find_nothing() {
        // Whatever index they lead to, the symbol there has another name; what counts is an end.
        let mut never = |_| false;
        for table in [&[][..], &[0; 16], &[1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0], &[0xff; 64]] {
            assert!(gnu_each(table, 7, &mut never).is_none());
            assert!(sysv_each(table, 7, &mut never).is_none());
        }
    }
}
