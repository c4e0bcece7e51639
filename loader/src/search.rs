//! Where a needed library is found: ld.so(8)'s rules. RPATH of the object and of those that brought
//! it in (unless it has a RUNPATH), LD_LIBRARY_PATH, RUNPATH, /etc/ld.so.cache, default folders.
//!
//! Each folder is tried with its `glibc-hwcaps` subfolders for the processor's level first. The
//! older `tls/haswell/x86_64` subfolders are left out: glibc 2.37 dropped them, Debian has none.

use crate::cache::Cache;
use crate::closure::Options;
use crate::dynamic::DF_1_NODEFLIB;
use crate::elf::{self, Elf};
use crate::error::{Fault, LoadError};
use crate::files::{self, File, Files, join};
use crate::object::{Namespace, ObjectId};
use alloc::vec::Vec;
use hashbrown::HashMap;
use platform::Errno;

/// A library file that was found: open, with valid headers.
pub struct Found<'f> {
    /// The path it was found at.
    pub path: Vec<u8>,
    /// The file.
    pub file: File<'f>,
    /// Its headers.
    pub elf: Elf,
}

/// Debian's system folders (`ld.so --help`).
const DEFAULT_FOLDERS: [&[u8]; 4] =
    [b"/lib/x86_64-linux-gnu", b"/usr/lib/x86_64-linux-gnu", b"/lib", b"/usr/lib"];
const CACHE: &[u8] = b"/etc/ld.so.cache";
/// Larger than any cache seen; a hostile root should not cost memory.
const CACHE_LIMIT: usize = 16 << 20;

/// What a search remembers: the cache file and which folders have `glibc-hwcaps`.
#[derive(Default)]
pub struct Search {
    cache: Option<Option<Cache>>,
    hwcaps: HashMap<Vec<u8>, bool>,
}

impl Search {
    /// Finds and opens `name`, needed by `by`.
    pub fn find(
        &mut self,
        ns: &Namespace,
        options: &Options,
        name: &[u8],
        by: Option<ObjectId>,
    ) -> Result<Found<'static>, LoadError> {
        let needed_by =
            || by.and_then(|id| ns.get(id)).map_or(b"the command line".to_vec(), |o| o.path.clone());
        if name.contains(&b'/') {
            let path = expand(name, by.and_then(|id| ns.get(id)).map_or(b"", |o| &o.origin));
            return open_library(ns.files, &path)?
                .ok_or_else(|| LoadError::LibraryNotFound(path.clone(), needed_by()));
        }
        for folder in self.folders(ns, options, by) {
            if let Some(found) = self.try_folder(ns.files, &folder, name)? {
                return Ok(found);
            }
        }
        if let Some(found) = self.try_system(ns, name, by)? {
            return Ok(found);
        }
        Err(LoadError::LibraryNotFound(name.to_vec(), needed_by()))
    }

    /// The folders before the cache, in order.
    fn folders(&self, ns: &Namespace, options: &Options, by: Option<ObjectId>) -> Vec<Vec<u8>> {
        let mut folders = Vec::new();
        let object = by.and_then(|id| ns.get(id));
        let own = object.and_then(|o| o.elf().map(|e| (&o.origin, &e.dynamic)));
        if own.is_none_or(|(_, dynamic)| dynamic.runpath.is_none()) {
            let mut at = by;
            let mut seen_program = false;
            while let Some(object) = at.and_then(|id| ns.get(id)) {
                seen_program |= at == ns.program;
                add_rpath(object, &mut folders);
                at = object.loader;
            }
            if let Some(program) = ns.program.filter(|_| !seen_program).and_then(|id| ns.get(id)) {
                add_rpath(program, &mut folders);
            }
        }
        let origin = ns.program.and_then(|id| ns.get(id)).map_or(&b""[..], |o| &o.origin);
        add_list(&options.library_path, b":;", origin, &mut folders);
        if let Some((origin, runpath)) = own.and_then(|(origin, d)| Some((origin, d.runpath.as_ref()?))) {
            add_list(runpath, b":", origin, &mut folders);
        }
        folders
    }

    fn try_system(
        &mut self,
        ns: &Namespace,
        name: &[u8],
        by: Option<ObjectId>,
    ) -> Result<Option<Found<'static>>, LoadError> {
        let no_default = by.and_then(|id| ns.elf(id)).is_some_and(|e| e.dynamic.flags_1 & DF_1_NODEFLIB != 0);
        let cache = self.cache.get_or_insert_with(|| {
            files::read_small(ns.files, CACHE, CACHE_LIMIT).ok().and_then(Cache::parse)
        });
        let paths: Vec<Vec<u8>> = cache.iter().flat_map(|c| c.find(name)).map(<[u8]>::to_vec).collect();
        for path in paths {
            let default = DEFAULT_FOLDERS.contains(&files::directory(&path));
            if no_default && default {
                continue;
            }
            if let Some(found) = open_library(ns.files, &path)? {
                return Ok(Some(found));
            }
        }
        if no_default {
            return Ok(None);
        }
        for folder in DEFAULT_FOLDERS {
            if let Some(found) = self.try_folder(ns.files, folder, name)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn try_folder(
        &mut self,
        files: &'static dyn Files,
        folder: &[u8],
        name: &[u8],
    ) -> Result<Option<Found<'static>>, LoadError> {
        let hwcaps = join(folder, b"glibc-hwcaps");
        let present = *self.hwcaps.entry(hwcaps.clone()).or_insert_with_key(|path| {
            // Opening a folder as a file says EISDIR if it is there.
            matches!(File::open(files, path), Err(Errno::EISDIR))
        });
        if present {
            for level in processor_levels() {
                if let Some(found) = open_library(files, &join(&join(&hwcaps, level), name))? {
                    return Ok(Some(found));
                }
            }
        }
        open_library(files, &join(folder, name))
    }
}

/// Opens a candidate. Absent, unreadable or made for another processor: `None`, the search goes on.
/// Anything else that is wrong with it is an error, as with ld.so.
fn open_library(files: &'static dyn Files, path: &[u8]) -> Result<Option<Found<'static>>, LoadError> {
    let Ok(file) = File::open(files, path) else { return Ok(None) };
    match elf::parse(file.size, &mut |at, buffer| file.read_at(at, buffer)) {
        Ok(elf) => Ok(Some(Found { path: path.to_vec(), file, elf })),
        Err(elf::ParseError::Fault(Fault::Class32 | Fault::Machine(_))) => Ok(None),
        Err(elf::ParseError::Fault(fault)) => Err(LoadError::File(path.to_vec(), fault)),
        Err(elf::ParseError::Read(errno)) => Err(LoadError::Open(path.to_vec(), errno)),
    }
}

fn add_rpath(object: &crate::object::Object, folders: &mut Vec<Vec<u8>>) {
    let Some(elf) = object.elf() else { return };
    if let (Some(rpath), None) = (&elf.dynamic.rpath, &elf.dynamic.runpath) {
        add_list(rpath, b":", &object.origin, folders);
    }
}

/// Splits a path list; an empty element is the working directory.
fn add_list(list: &[u8], separators: &[u8], origin: &[u8], folders: &mut Vec<Vec<u8>>) {
    if list.is_empty() {
        return;
    }
    for part in list.split(|b| separators.contains(b)) {
        folders.push(if part.is_empty() { b".".to_vec() } else { expand(part, origin) });
    }
}

/// Replaces `$ORIGIN`, `$LIB`, `$PLATFORM` and their braced forms.
pub fn expand(path: &[u8], origin: &[u8]) -> Vec<u8> {
    let tokens: [(&[u8], &[u8]); 3] =
        [(b"ORIGIN", origin), (b"LIB", b"lib/x86_64-linux-gnu"), (b"PLATFORM", b"x86_64")];
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    'next: while let Some((&first, after)) = rest.split_first() {
        if first == b'$' {
            for (token, value) in tokens {
                let braced = after.strip_prefix(b"{").and_then(|a| a.strip_prefix(token)?.strip_prefix(b"}"));
                let plain = after
                    .strip_prefix(token)
                    .filter(|tail| !tail.first().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_'));
                if let Some(tail) = braced.or(plain) {
                    out.extend_from_slice(value);
                    rest = tail;
                    continue 'next;
                }
            }
        }
        out.push(first);
        rest = after;
    }
    out
}

/// The x86-64 psABI levels that this processor has, best first.
fn processor_levels() -> impl Iterator<Item = &'static [u8]> {
    const LEVELS: [&[u8]; 3] = [b"x86-64-v4", b"x86-64-v3", b"x86-64-v2"];
    LEVELS.into_iter().skip(3 - level())
}

/// 3 for x86-64-v4, 2 for v3, 1 for v2, 0 for the baseline (psABI, table 3.1).
fn level() -> usize {
    use core::arch::x86_64::{__cpuid, __cpuid_count};
    let (one, ext) = (__cpuid(1), __cpuid(0x8000_0001));
    let has = |word: u32, bits: &[u32]| bits.iter().all(|&b| word & (1 << b) != 0);
    // cx16, popcnt, sse3, sse4.1, sse4.2, ssse3; lahf.
    if !has(one.ecx, &[13, 23, 0, 19, 20, 9]) || !has(ext.ecx, &[0]) {
        return 0;
    }
    // avx, f16c, fma, movbe, osxsave; lzcnt.
    if !has(one.ecx, &[28, 29, 12, 22, 27]) || !has(ext.ecx, &[5]) {
        return 1;
    }
    let seven = __cpuid_count(7, 0);
    // SAFETY: OSXSAVE was found, so xgetbv exists.
    let xcr0 = unsafe { xgetbv() };
    if !has(seven.ebx, &[3, 5, 8]) || xcr0 & 6 != 6 {
        return 1;
    }
    // avx512 f, dq, cd, bw, vl.
    if has(seven.ebx, &[16, 17, 28, 30, 31]) && xcr0 & 0xe6 == 0xe6 { 3 } else { 2 }
}

#[target_feature(enable = "xsave")]
fn xgetbv() -> u64 {
    // SAFETY: XCR0 always exists where xgetbv does.
    unsafe { core::arch::x86_64::_xgetbv(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_expand_as_ld_so_does() {
        let check = |path: &str, want: &str| {
            assert_eq!(expand(path.as_bytes(), b"/opt/app/bin"), want.as_bytes(), "{path}");
        };
        check("$ORIGIN/../lib", "/opt/app/bin/../lib");
        check("${ORIGIN}lib", "/opt/app/binlib");
        check("$ORIGINAL/x", "$ORIGINAL/x");
        check("/usr/$LIB/$PLATFORM", "/usr/lib/x86_64-linux-gnu/x86_64");
        check("$", "$");
        check("a$$ORIGIN", "a$/opt/app/bin");
    }
}
