//! What is mapped where, asked of the host anew each time: `/proc/self/maps`, and the ELF headers that
//! stand at the start of an object's first mapping. Nothing here allocates, and memory is read by
//! [`user_copy`] only.

use crate::user_copy;
use core::ops::Range;
use platform::host;

/// Longest path that is kept; a longer one is cut.
const PATH: usize = 256;
/// Most program headers that are looked at.
const MOST_HEADERS: usize = 32;

/// A line of /proc/self/maps.
pub(super) struct Mapping<'a> {
    pub(super) range: Range<usize>,
    pub(super) executable: bool,
    pub(super) offset: usize,
    pub(super) inode: u64,
    pub(super) name: &'a [u8],
}

/// The object (or other mapping) that an address lies in.
pub(super) struct Object {
    /// Where its file's first byte is mapped.
    pub(super) base: usize,
    /// The one mapping of it that the address lies in.
    pub(super) mapping: Range<usize>,
    /// That mapping may be executed.
    pub(super) executable: bool,
    /// Of the file; 0 for memory without one.
    pub(super) inode: u64,
    /// With a NUL behind.
    path: [u8; PATH],
    len: usize,
}

impl Object {
    /// Its path, or what the host calls such memory; empty for anonymous memory.
    pub(super) fn path(&self) -> &[u8] {
        &self.path[..self.len]
    }

    /// The path as a C string.
    pub(super) fn c_path(&self) -> *const u8 {
        self.path.as_ptr()
    }
}

/// The object around an address; `None` if nothing is mapped there.
pub(super) fn object_at(address: usize) -> Option<Object> {
    let mut object = Object { base: 0, mapping: 0..0, executable: false, inode: 0, path: [0; PATH], len: 0 };
    let mut found = false;
    each_mapping(|line| {
        if found {
            return;
        }
        let name = &line.name[..line.name.len().min(PATH - 1)];
        // Offsets count from the object's first mapping, as addr2line wants them. Consecutive mappings of
        // one file are one object.
        if name != object.path() || (name.is_empty() && object.inode == 0) || line.offset == 0 {
            object.path = [0; PATH];
            object.path[..name.len()].copy_from_slice(name);
            object.len = name.len();
            object.base = line.range.start.wrapping_sub(line.offset);
            object.inode = line.inode;
        }
        object.executable = line.executable;
        object.mapping = line.range.clone();
        found = line.range.contains(&address);
    });
    found.then_some(object)
}

/// Whether the address lies in code.
pub(super) fn is_code(address: usize) -> bool {
    object_at(address).is_some_and(|o| o.executable)
}

/// What an object's program headers say, as far as it matters here. Addresses are memory's.
#[derive(Clone, Default)]
pub(super) struct Headers {
    /// Memory address minus file address.
    pub(super) bias: usize,
    /// .eh_frame_hdr.
    pub(super) eh_frame_hdr: Option<usize>,
    /// The dynamic section.
    pub(super) dynamic: Option<Range<usize>>,
}

/// Reads the headers of the object whose first byte is mapped at `base`.
pub(super) fn headers(base: usize) -> Option<Headers> {
    const PT_LOAD: u32 = 1;
    const PT_DYNAMIC: u32 = 2;
    const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
    let ident: [u8; 6] = read(base)?;
    if ident != *b"\x7fELF\x02\x01" {
        return None;
    }
    let table = base.checked_add(read_word(base + 0x20)?)?;
    let size = usize::from(u16::from_le_bytes(read(base + 0x36)?));
    let count = usize::from(u16::from_le_bytes(read(base + 0x38)?)).min(MOST_HEADERS);
    let mut headers = Headers::default();
    let mut first = true;
    for i in 0..count {
        let at = table.checked_add(i * size)?;
        let kind = read_u32(at)?;
        let (offset, vaddr, len) = (read_word(at + 8)?, read_word(at + 16)?, read_word(at + 40)?);
        match kind {
            PT_LOAD if first => {
                headers.bias = base.wrapping_sub(vaddr.wrapping_sub(offset));
                first = false;
            }
            PT_DYNAMIC => headers.dynamic = Some(vaddr..vaddr.checked_add(len)?),
            PT_GNU_EH_FRAME => headers.eh_frame_hdr = Some(vaddr),
            _ => (),
        }
    }
    let bias = headers.bias;
    headers.eh_frame_hdr = headers.eh_frame_hdr.map(|at| at.wrapping_add(bias));
    headers.dynamic = headers.dynamic.map(|d| d.start.wrapping_add(bias)..d.end.wrapping_add(bias));
    Some(headers)
}

/// Copies from memory that may not be there.
pub(super) fn read<const N: usize>(address: usize) -> Option<[u8; N]> {
    let mut bytes = [0u8; N];
    read_into(address, &mut bytes).then_some(bytes)
}

/// Fills `bytes` from memory that may not be there.
pub(super) fn read_into(address: usize, bytes: &mut [u8]) -> bool {
    // SAFETY: our buffer; a bad address is a count.
    (unsafe { user_copy::copy(bytes.as_mut_ptr(), address as *const u8, bytes.len()) }) == 0
}

/// A word, likewise.
pub(super) fn read_word(address: usize) -> Option<usize> {
    read(address).map(usize::from_le_bytes)
}

/// Four bytes, likewise.
pub(super) fn read_u32(address: usize) -> Option<u32> {
    read(address).map(u32::from_le_bytes)
}

/// Calls `each` for every mapping of the process; none if the file cannot be read.
fn each_mapping(mut each: impl FnMut(&Mapping<'_>)) {
    const AT_FDCWD: isize = -100;
    // SAFETY: the path is a literal; the descriptor is closed below.
    let Ok(fd) = (unsafe { host!(openat, AT_FDCWD, c"/proc/self/maps".as_ptr(), 0o2000000) }) else { return };
    let mut line = [0u8; 1024];
    let mut held = 0;
    loop {
        // SAFETY: the buffer is ours.
        let got = unsafe { host!(read, fd, line.as_mut_ptr().add(held), line.len() - held) }.unwrap_or(0);
        if got == 0 {
            break;
        }
        held += got;
        while let Some(end) = line[..held].iter().position(|&b| b == b'\n') {
            if let Some(mapping) = parse(&line[..end]) {
                each(&mapping);
            }
            line.copy_within(end + 1..held, 0);
            held -= end + 1;
        }
        // A line longer than the buffer: a path of no interest to a report.
        if held == line.len() {
            held = 0;
        }
    }
    // SAFETY: opened above.
    let _ = unsafe { host!(close, fd) };
}

/// `start-end perms offset dev inode   path`; the path may hold blanks.
fn parse(line: &[u8]) -> Option<Mapping<'_>> {
    let mut rest = line;
    let mut field = || {
        let start = rest.iter().position(|&b| b != b' ')?;
        let end = rest[start..].iter().position(|&b| b == b' ').map_or(rest.len(), |n| start + n);
        let (word, behind) = (&rest[start..end], &rest[end..]);
        rest = behind;
        Some(word)
    };
    let mut range = field()?.split(|&b| b == b'-');
    let (start, end) = (hex(range.next()?)?, hex(range.next()?)?);
    let executable = field()?.get(2) == Some(&b'x');
    let offset = hex(field()?)?;
    field()?;
    let inode = core::str::from_utf8(field()?).ok()?.parse().ok()?;
    let name = rest.iter().position(|&b| b != b' ').map_or(&b""[..], |start| &rest[start..]);
    Some(Mapping { range: start..end, executable, offset, inode, name })
}

fn hex(text: &[u8]) -> Option<usize> {
    usize::from_str_radix(core::str::from_utf8(text).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_with_blanks_in_its_path() {
        let line = b"7f00-8000 r-xp 00002000 08:01 77                   /a b/c";
        let mapping = parse(line).unwrap();
        assert_eq!((mapping.range, mapping.offset, mapping.inode), (0x7f00..0x8000, 0x2000, 77));
        assert!(mapping.executable && mapping.name == b"/a b/c");
        assert_eq!(parse(b"0-1 rw-p 0 00:00 0").unwrap().name, b"");
    }

    #[test]
    fn finds_this_test_and_its_headers() {
        let here = finds_this_test_and_its_headers as *const () as usize;
        let object = object_at(here).unwrap();
        assert!(object.executable && object.path().contains(&b'/'));
        let headers = headers(object.base).unwrap();
        assert!(headers.eh_frame_hdr.is_some() && headers.dynamic.is_some());
        assert!(object_at(8).is_none() && !is_code(&raw const object as usize));
    }
}
