//! `/etc/ld.so.cache`, format glibc-ld.so.cache1.1: a header, entries of (flags, name, path), strings.

use crate::image::{string_at, u32_at, u64_at};
use alloc::vec::Vec;

/// The cache file's bytes.
pub struct Cache {
    bytes: Vec<u8>,
    /// Where the 1.1 header starts: string offsets count from here.
    start: usize,
    entries: usize,
}

const OLD_MAGIC: &[u8] = b"ld.so-1.7.0\0";
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const OLD_HEADER: usize = 16;
const OLD_ENTRY: usize = 12;
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// FLAG_X8664_LIB64 | FLAG_ELF_LIBC6.
const FLAGS: u32 = 0x0303;

impl Cache {
    /// Takes the file's bytes; `None` if it is no cache of this format.
    pub fn parse(bytes: Vec<u8>) -> Option<Cache> {
        let start = match bytes.strip_prefix(OLD_MAGIC) {
            // An old-format table may stand before it (8-byte aligned).
            Some(_) => {
                let entries = u32_at(&bytes, 12)? as usize;
                (OLD_HEADER + entries.checked_mul(OLD_ENTRY)?).next_multiple_of(8)
            }
            None => 0,
        };
        if !bytes.get(start..)?.starts_with(MAGIC) {
            return None;
        }
        let entries = u32_at(&bytes, start + 20)? as usize;
        let room = (bytes.len() - start).checked_sub(HEADER)? / ENTRY;
        (entries <= room).then_some(Cache { bytes, start, entries })
    }

    /// Paths that the cache gives for a soname, best first. Entries for special processor
    /// capabilities (`hwcap` not 0) are left out: Debian has none, and the baseline always exists.
    pub fn find<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + 'a {
        (0..self.entries).filter_map(move |i| {
            let at = self.start + HEADER + i * ENTRY;
            let fits = u32_at(&self.bytes, at)? == FLAGS && u64_at(&self.bytes, at + 16)? == 0;
            let strings = self.bytes.get(self.start..)?;
            if !fits || string_at(strings, u32_at(&self.bytes, at + 4)? as usize)? != name {
                return None;
            }
            string_at(strings, u32_at(&self.bytes, at + 8)? as usize)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_cache_is_read() {
        let bytes = std::fs::read("/etc/ld.so.cache").expect("a Debian host has a cache");
        let cache = Cache::parse(bytes.clone()).expect("glibc-ld.so.cache1.1");
        let libc: Vec<_> = cache.find(b"libc.so.6").collect();
        assert!(libc.iter().any(|p| p.ends_with(b"/libc.so.6")), "{libc:?}");
        assert_eq!(cache.find(b"no-such-library.so").count(), 0);
        for cut in [0, 10, 47, 48, 100, bytes.len() / 2] {
            // A cut cache is refused or finds less; it never panics.
            if let Some(cache) = Cache::parse(bytes[..cut].to_vec()) {
                let _ = cache.find(b"libc.so.6").count();
            }
        }
    }
}
