//! The first stack of a process (psABI 3.4.1): argc, argv, envp, the auxiliary vector, strings.

use alloc::vec::Vec;

/// Auxiliary vector types (linux/auxvec.h).
pub mod at {
    /// End.
    pub const NULL: usize = 0;
    /// Program headers in memory.
    pub const PHDR: usize = 3;
    /// Size of one.
    pub const PHENT: usize = 4;
    /// How many.
    pub const PHNUM: usize = 5;
    /// Page size.
    pub const PAGESZ: usize = 6;
    /// Load address of the interpreter.
    pub const BASE: usize = 7;
    /// Flags, always 0.
    pub const FLAGS: usize = 8;
    /// The program's entry point.
    pub const ENTRY: usize = 9;
    /// Real user id.
    pub const UID: usize = 11;
    /// Effective user id.
    pub const EUID: usize = 12;
    /// Real group id.
    pub const GID: usize = 13;
    /// Effective group id.
    pub const EGID: usize = 14;
    /// Name of the processor, a string.
    pub const PLATFORM: usize = 15;
    /// Processor features (cpuid 1, edx).
    pub const HWCAP: usize = 16;
    /// Clock ticks in a second.
    pub const CLKTCK: usize = 17;
    /// Whether rights changed with the start.
    pub const SECURE: usize = 23;
    /// 16 random bytes.
    pub const RANDOM: usize = 25;
    /// More processor features.
    pub const HWCAP2: usize = 26;
    /// The program's path.
    pub const EXECFN: usize = 31;
    /// The vDSO.
    pub const SYSINFO_EHDR: usize = 33;
    /// Least size of a signal stack.
    pub const MINSIGSTKSZ: usize = 51;
}

/// What the stack tells the program.
pub struct Contents<'a> {
    /// Arguments, the program's name first.
    pub argv: &'a [&'a [u8]],
    /// Environment, `NAME=value`.
    pub envp: &'a [&'a [u8]],
    /// Path of the program, for AT_EXECFN.
    pub execfn: &'a [u8],
    /// 16 random bytes.
    pub random: [u8; 16],
    /// The vector without the entries that point into the stack.
    pub auxv: &'a [(usize, usize)],
}

/// Where things ended up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The first stack pointer: at argc, 16-byte aligned.
    pub pointer: usize,
    /// `argv[0]`, or 0.
    pub name: usize,
    /// The auxiliary vector: address and bytes, its end included.
    pub auxv: (usize, usize),
}

/// Lays the stack out for memory that ends at `top`: the bytes to write just below it, and where the
/// stack pointer will be. `None` if it takes more than `room` bytes.
pub fn build(top: usize, room: usize, contents: &Contents<'_>) -> Option<(Vec<u8>, Placed)> {
    let mut strings = Strings { bytes: Vec::new() };
    let argv: Vec<usize> = contents.argv.iter().map(|s| strings.add(s)).collect();
    let envp: Vec<usize> = contents.envp.iter().map(|s| strings.add(s)).collect();
    let execfn = strings.add(contents.execfn);
    let platform = strings.add(b"x86_64");
    let random = strings.raw(&contents.random);
    // The kernel leaves eight zero bytes at the very end.
    strings.raw(&[0; 8]);
    let base = (top - strings.bytes.len()) & !15;
    let fixed = [(at::EXECFN, execfn), (at::PLATFORM, platform), (at::RANDOM, random)];
    let mut words = alloc::vec![contents.argv.len()];
    words.extend(argv.iter().map(|o| base + o));
    words.push(0);
    words.extend(envp.iter().map(|o| base + o));
    words.push(0);
    let auxv = words.len();
    words.extend(contents.auxv.iter().flat_map(|&(kind, value)| [kind, value]));
    words.extend(fixed.iter().flat_map(|&(kind, offset)| [kind, base + offset]));
    words.extend([at::NULL, 0]);
    let pointer = (base - words.len() * 8) & !15;
    if top - pointer > room {
        return None;
    }
    let mut bytes = alloc::vec![0u8; top - pointer];
    for (i, word) in words.iter().enumerate() {
        bytes[i * 8..i * 8 + 8].copy_from_slice(&word.to_le_bytes());
    }
    bytes[base - pointer..base - pointer + strings.bytes.len()].copy_from_slice(&strings.bytes);
    let auxv = (pointer + auxv * 8, (words.len() - auxv) * 8);
    Some((bytes, Placed { pointer, name: argv.first().map_or(0, |o| base + o), auxv }))
}

struct Strings {
    bytes: Vec<u8>,
}

impl Strings {
    fn add(&mut self, text: &[u8]) -> usize {
        let at = self.raw(text);
        self.bytes.push(0);
        at
    }

    fn raw(&mut self, bytes: &[u8]) -> usize {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_psabis() {
        let contents = Contents {
            argv: &[b"prog", b"-x"],
            envp: &[b"A=1"],
            execfn: b"/bin/prog",
            random: [7; 16],
            auxv: &[(at::PAGESZ, 4096)],
        };
        let top = 0x7000_0000;
        let (bytes, placed) = build(top, 1 << 20, &contents).unwrap();
        assert_eq!(placed.pointer % 16, 0);
        assert_eq!(placed.pointer + bytes.len(), top);
        let word = |i: usize| usize::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().unwrap());
        let text = |address: usize| {
            let rest = &bytes[address - placed.pointer..];
            &rest[..rest.iter().position(|&b| b == 0).unwrap()]
        };
        assert_eq!(word(0), 2);
        assert_eq!((text(word(1)), text(word(2)), word(3)), (&b"prog"[..], &b"-x"[..], 0));
        assert_eq!((text(word(4)), word(5)), (&b"A=1"[..], 0));
        assert_eq!((word(6), word(7)), (at::PAGESZ, 4096));
        assert_eq!((word(8), text(word(9))), (at::EXECFN, &b"/bin/prog"[..]));
        assert_eq!((word(10), text(word(11))), (at::PLATFORM, &b"x86_64"[..]));
        let random = word(13) - placed.pointer;
        assert_eq!((word(12), &bytes[random..random + 16]), (at::RANDOM, &[7u8; 16][..]));
        assert_eq!(word(14), at::NULL);
        assert_eq!((placed.name, placed.auxv), (word(1), (placed.pointer + 6 * 8, 5 * 16)));
        assert!(build(top, 64, &contents).is_none());
    }
}
