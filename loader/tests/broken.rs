//! Broken and hostile files: each is refused by name, and no mutation of a real file harms the
//! loader. Fixtures named after their fault stand in `tests/fixtures`.

mod support;

use loader::check::check;
use loader::closure::Options;
use loader::{Fault, LoadError};
use std::path::{Path, PathBuf};
use support::*;

fn fault_of(path: &Path) -> Fault {
    match check(&FILES, path.as_os_str().as_encoded_bytes(), &Options::default(), &[]) {
        Err(LoadError::File(_, fault)) => fault,
        Err(other) => panic!("{}: {other}", path.display()),
        Ok(_) => panic!("{} was taken", path.display()),
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// An ELF header for a 64-byte file head with one PT_LOAD, as small as it gets.
fn tiny() -> Vec<u8> {
    let mut file = vec![0u8; 64 + 56];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
    file[16] = 3; // ET_DYN
    file[18] = 62; // EM_X86_64
    file[20] = 1;
    file[32] = 64; // e_phoff
    file[54] = 56; // e_phentsize
    file[56] = 1; // e_phnum
    file[64] = 1; // PT_LOAD
    file[68] = 5; // r-x
    file[64 + 32] = 120; // filesz
    file[64 + 40] = 120; // memsz
    file
}

fn written(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn fixtures_are_refused_for_what_they_are() {
    assert_eq!(fault_of(&fixture("empty")), Fault::Empty);
    assert_eq!(fault_of(&fixture("text.txt")), Fault::NotElf);
    assert_eq!(fault_of(&fixture("script.sh")), Fault::Script);
    assert_eq!(fault_of(&fixture("i386.elf")), Fault::Class32);
    assert_eq!(fault_of(&fixture("aarch64.elf")), Fault::Machine(183));
    assert_eq!(fault_of(&fixture("big-endian.elf")), Fault::BigEndian);
    assert_eq!(fault_of(&fixture("object-file.elf")), Fault::Type(1));
    assert_eq!(fault_of(&fixture("core-file.elf")), Fault::Type(4));
    assert_eq!(fault_of(&fixture("no-segments.elf")), Fault::Malformed("nothing to load"));
    let error = check(&FILES, b"/no/such/program", &Options::default(), &[]).unwrap_err();
    assert_eq!(error.to_string(), "/no/such/program: cannot open: No such file or directory");
    let error = check(&FILES, b"/etc", &Options::default(), &[]).unwrap_err();
    assert_eq!(error.to_string(), "/etc: cannot open: Is a directory");
}

#[test]
fn header_fields_are_checked() {
    let dir = folder("fields");
    let with = |at: usize, bytes: &[u8]| {
        let mut file = tiny();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        fault_of(&written(&dir, "field.elf", &file))
    };
    assert!(
        check(
            &FILES,
            written(&dir, "good.elf", &tiny()).as_os_str().as_encoded_bytes(),
            &Options::default(),
            &[]
        )
        .is_ok()
    );
    assert_eq!(with(7, &[9]), Fault::OsAbi(9));
    assert_eq!(with(32, &u64::MAX.to_le_bytes()), Fault::Truncated("program header table"));
    assert_eq!(with(56, &[0xff, 0xff]), Fault::Malformed("no or too many program headers"));
    assert_eq!(with(54, &[57]), Fault::Malformed("program headers of a foreign size"));
    assert_eq!(with(96, &[121]), Fault::Malformed("a segment with more bytes in the file than in memory"));
    assert_eq!(with(72, &[1]), Fault::Malformed("a segment whose address and file offset do not agree"));
    assert_eq!(
        with(80, &0xffff_ffff_ffff_f000u64.to_le_bytes()),
        Fault::Malformed("a segment outside the address space")
    );
    assert_eq!(with(96, &[0xff, 0, 0, 0, 0, 0, 0, 0, 0xff]), Fault::Truncated("loadable segment"));
    assert_eq!(with(112, &[3]), Fault::Malformed("a segment alignment that is no power of two"));
}

#[test]
fn truncated_programs_are_refused_everywhere() {
    let dir = folder("truncated");
    let whole = std::fs::read("/bin/true").unwrap();
    for len in (0..whole.len()).step_by(97).chain(0..130) {
        let path = written(&dir, "cut", &whole[..len]);
        match check(&FILES, path.as_os_str().as_encoded_bytes(), &Options::default(), &[]) {
            Err(LoadError::File(_, Fault::Truncated(_) | Fault::Empty | Fault::Malformed(_))) => {}
            // Behind the last segment stand only sections, which nobody needs to run a program.
            Ok(_) => assert!(len > whole.len() / 2, "{len}"),
            Err(other) => panic!("cut at {len}: {other}"),
        }
    }
}

/// A small generator (splitmix64): the same mutations every run.
struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

#[test]
fn mutated_files_are_taken_or_refused() {
    let dir = folder("mutated");
    let source = r#"
        __thread int t = 1; int f(void) { return 1; } static void *r(void) { return f; } int g(void) __attribute__((ifunc("r")));
        int *tt(void) { return &t; } int (*p)(void) = g; extern int w(void) __attribute__((weak)); int h(void) { return w ? w() : f(); }
        __attribute__((constructor)) static void c(void) {}
    "#;
    std::fs::write(dir.join("m.map"), "M1 { global: f; }; M2 { global: g; t; tt; h; p; } M1;").unwrap();
    let small = std::fs::read(library(
        &dir,
        "small.so",
        source,
        &["-Wl,--version-script=m.map", "-s", "-Wl,--hash-style=both"],
    ))
    .unwrap();
    let mut random = Random(1);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..1500 {
        let mut bytes = small.clone();
        // Headers and tables lie in the first KiBs; a quarter of the mutations goes anywhere.
        for _ in 0..1 + random.below(4) {
            let range = if random.below(4) == 0 { bytes.len() } else { 0x800.min(bytes.len()) };
            let at = random.below(range);
            match random.below(3) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                _ => {
                    let values = [0, 1, u64::MAX, 1 << 63, 0x7fff_ffff, bytes.len() as u64, random.next()];
                    let value = values[random.below(values.len())].to_le_bytes();
                    let end = (at + 8).min(bytes.len());
                    bytes[at..end].copy_from_slice(&value[..end - at]);
                }
            }
        }
        let path = written(&dir, "mutant.so", &bytes);
        match check(&FILES, path.as_os_str().as_encoded_bytes(), &Options::default(), &[]) {
            Ok(report) => {
                let _ = report.missing().count();
                taken += 1;
            }
            Err(error) => {
                let text = error.to_string();
                assert!(!text.contains('\n') && !text.contains('\u{1b}'), "round {round}: {text:?}");
                refused += 1;
            }
        }
    }
    assert!(taken > 100 && refused > 100, "{taken} taken, {refused} refused");
}

#[test]
fn hostile_relocations_stay_inside() {
    let dir = folder("hostile");
    // A library with RELATIVE relocations, whose first place is then moved around.
    let path = library(&dir, "victim.so", "int x; int *p = &x; int **q = &p;", &["-Wl,--hash-style=sysv"]);
    let good = std::fs::read(&path).unwrap();
    let table = {
        let world = load(&path, &[]).unwrap();
        let elf = world.ns.elf(world.root).unwrap();
        let entry = elf.image.bytes(elf.dynamic.rela)[..24].to_vec();
        good.windows(24).position(|w| w == entry).expect("the table is in the file")
    };
    for place in [0u64, 8, 0x7d00_0000_0000, u64::MAX, u64::MAX - 7, 1 << 47, 0x10_0000] {
        let mut bytes = good.clone();
        bytes[table..table + 8].copy_from_slice(&place.to_le_bytes());
        let error = load(&written(&dir, "hostile.so", &bytes), &[]).err().expect("refused");
        assert!(matches!(error, LoadError::File(_, Fault::RelocationPlace(p)) if p == place), "{error}");
    }
    for kind in [3u32, 9, 99, u32::MAX] {
        let mut bytes = good.clone();
        bytes[table + 8..table + 12].copy_from_slice(&kind.to_le_bytes());
        let error = load(&written(&dir, "kind.so", &bytes), &[]).err().expect("refused");
        assert!(matches!(error, LoadError::File(_, Fault::RelocationType(k)) if k == kind), "{error}");
    }
    // An IRELATIVE resolver must be code of the object.
    let mut bytes = good.clone();
    bytes[table + 8..table + 12].copy_from_slice(&37u32.to_le_bytes());
    assert!(load(&written(&dir, "resolver.so", &bytes), &[]).is_err());
}
