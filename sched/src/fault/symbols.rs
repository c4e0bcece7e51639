//! Names of addresses: an object's .dynsym, which is mapped, or its .symtab, which only the file has.
//! The file is read by the path of /proc/self/maps and must still be the one that is mapped. Nothing
//! allocates; a name longer than the buffer is cut.

use super::maps::{Headers, Object, read_into, read_u32, read_word};
use core::fmt;
use platform::host;

const NAME: usize = 192;
/// Size of an Elf64_Sym.
const SYMBOL: usize = 24;
/// Most symbols that are looked through.
const MOST_SYMBOLS: usize = 1 << 18;

/// A function and how far into it.
pub(super) struct Name {
    text: [u8; NAME],
    len: usize,
    pub(super) offset: usize,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = core::str::from_utf8(&self.text[..self.len]).unwrap_or("?");
        // Rust's names become readable; C's stay as they are, and C++'s as the linker knows them.
        write!(f, "{:#}+{:#x}", rustc_demangle::demangle(text), self.offset)
    }
}

/// The function around `address` in `object`.
pub(super) fn name(object: &Object, headers: &Headers, address: usize) -> Option<Name> {
    let wanted = address.wrapping_sub(headers.bias);
    // .symtab has static functions, too, so it is asked first; most libraries are stripped of it.
    in_file(object, wanted).or_else(|| in_memory(headers, wanted))
}

/// The best candidate so far: a symbol whose range holds the address, else the nearest one without a
/// size (assembly) before it.
#[derive(Default)]
struct Best {
    value: usize,
    name: usize,
    /// 2: the range holds it; 1: no size is given.
    rank: u8,
}

impl Best {
    /// st_name, st_info, st_other, st_shndx, st_value, st_size (gABI 4).
    fn consider(&mut self, symbol: &[u8; SYMBOL], wanted: usize) {
        const STT_NOTYPE: u8 = 0;
        const STT_FUNC: u8 = 2;
        const STT_GNU_IFUNC: u8 = 10;
        let word = |at: usize| usize::from_le_bytes(symbol[at..at + 8].try_into().expect("eight bytes"));
        let name = u32::from_le_bytes(symbol[..4].try_into().expect("four bytes")) as usize;
        let (kind, defined) = (symbol[4] & 15, symbol[6] != 0 || symbol[7] != 0);
        let (value, size) = (word(8), word(16));
        if !defined || name == 0 || value > wanted || ![STT_NOTYPE, STT_FUNC, STT_GNU_IFUNC].contains(&kind) {
            return;
        }
        let rank = match size {
            0 => 1,
            _ if wanted - value < size => 2,
            _ => return,
        };
        if rank > self.rank || rank == self.rank && value >= self.value {
            *self = Best { value, name, rank };
        }
    }

    /// A symbol without a size is believed over a page only.
    fn is_good(&self, wanted: usize) -> bool {
        self.rank == 2 || self.rank == 1 && wanted - self.value < 4096
    }
}

fn in_memory(headers: &Headers, wanted: usize) -> Option<Name> {
    const DT_STRTAB: usize = 5;
    const DT_SYMTAB: usize = 6;
    const DT_HASH: usize = 4;
    let dynamic = headers.dynamic.clone()?;
    let (mut symbols, mut strings, mut count) = (None, None, None);
    for at in dynamic.step_by(16) {
        let (tag, value) = (read_word(at)?, read_word(at + 8)?);
        // The loader leaves file addresses there; glibc's would have added the bias.
        let here = if value < headers.bias { value.wrapping_add(headers.bias) } else { value };
        match tag {
            0 => break,
            DT_SYMTAB => symbols = Some(here),
            DT_STRTAB => strings = Some(here),
            DT_HASH => count = read_u32(here + 4).map(|n| n as usize),
            _ => (),
        }
    }
    let (symbols, strings) = (symbols?, strings?);
    // Without DT_HASH nothing gives the count; every linker puts .dynstr right behind .dynsym.
    let count = count.or_else(|| Some(strings.checked_sub(symbols)? / SYMBOL))?.min(MOST_SYMBOLS);
    let mut best = Best::default();
    for i in 0..count {
        let mut symbol = [0; SYMBOL];
        if !read_into(symbols + i * SYMBOL, &mut symbol) {
            break;
        }
        best.consider(&symbol, wanted);
    }
    if !best.is_good(wanted) {
        return None;
    }
    let mut name = Name { text: [0; NAME], len: 0, offset: wanted - best.value };
    while name.len < NAME {
        let mut byte = [0];
        if !read_into(strings + best.name + name.len, &mut byte) || byte[0] == 0 {
            break;
        }
        name.text[name.len] = byte[0];
        name.len += 1;
    }
    Some(name)
}

/// An open host file, closed when dropped.
struct File(usize);

impl File {
    fn open(object: &Object) -> Option<File> {
        const AT_FDCWD: isize = -100;
        const O_CLOEXEC_NONBLOCK: usize = 0o2004000;
        if object.inode == 0 || !object.path().starts_with(b"/") {
            return None;
        }
        // SAFETY: a C string of ours.
        let fd = unsafe { host!(openat, AT_FDCWD, object.c_path(), O_CLOEXEC_NONBLOCK, 0) }.ok()?;
        let file = File(fd);
        // struct stat: st_dev, st_ino. Another file by now would give wrong names.
        let mut stat = [0u64; 18];
        // SAFETY: 144 bytes as the kernel's structure.
        unsafe { host!(fstat, file.0, stat.as_mut_ptr()) }.ok()?;
        (stat[1] == object.inode).then_some(file)
    }

    fn read(&self, at: usize, into: &mut [u8]) -> Option<usize> {
        // SAFETY: the buffer is ours.
        unsafe { host!(pread64, self.0, into.as_mut_ptr(), into.len(), at) }.ok()
    }

    fn exact<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        (self.read(at, &mut bytes)? == N).then_some(bytes)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: opened by `open`.
        let _ = unsafe { host!(close, self.0) };
    }
}

fn in_file(object: &Object, wanted: usize) -> Option<Name> {
    const SHT_SYMTAB: u32 = 2;
    const SECTION: usize = 64;
    let file = File::open(object)?;
    let word = |at| file.exact(at).map(usize::from_le_bytes);
    let (sections, size) = (word(0x28)?, usize::from(u16::from_le_bytes(file.exact(0x3a)?)));
    let count = usize::from(u16::from_le_bytes(file.exact(0x3c)?));
    if size != SECTION || sections == 0 {
        return None;
    }
    let header = |i: usize| file.exact::<SECTION>(sections.checked_add(i * SECTION)?);
    let field = |h: &[u8; SECTION], at: usize| usize::from_le_bytes(h[at..at + 8].try_into().expect("eight"));
    let half = |h: &[u8; SECTION], at: usize| u32::from_le_bytes(h[at..at + 4].try_into().expect("four"));
    let table = (0..count).filter_map(header).find(|h| half(h, 4) == SHT_SYMTAB)?;
    let strings = field(&header(half(&table, 40) as usize)?, 24);
    let (start, len) = (field(&table, 24), field(&table, 32).min(MOST_SYMBOLS * SYMBOL));
    let mut best = Best::default();
    let mut at = 0;
    let mut chunk = [0; SYMBOL * 128];
    while at < len {
        let wish = (len - at).min(chunk.len());
        let got = file.read(start.checked_add(at)?, &mut chunk[..wish])? / SYMBOL * SYMBOL;
        if got == 0 {
            break;
        }
        for symbol in chunk[..got].as_chunks::<SYMBOL>().0 {
            best.consider(symbol, wanted);
        }
        at += got;
    }
    if !best.is_good(wanted) {
        return None;
    }
    let mut name = Name { text: [0; NAME], len: 0, offset: wanted - best.value };
    let got = file.read(strings.checked_add(best.name)?, &mut name.text)?;
    name.len = name.text[..got].iter().position(|&b| b == 0).unwrap_or(got);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::super::maps;
    use std::string::ToString;

    #[test]
    fn names_this_function() {
        let here = names_this_function as *const () as usize + 1;
        let object = maps::object_at(here).unwrap();
        let headers = maps::headers(object.base).unwrap();
        let name = super::name(&object, &headers, here).unwrap().to_string();
        assert!(name.contains("names_this_function") && name.ends_with("+0x1"), "{name}");
    }
}
