//! Against plain loops, at every length up to 300 and at random beyond, at all alignments, with pages on both sides that
//! cannot be read or written.

use super::*;
use crate::types::*;
use core::ptr::null_mut;
use std::vec::Vec;

const ROOM: usize = 16384;

/// Memory between two pages that nobody may touch; never unmapped.
fn guarded() -> &'static mut [u8] {
    // SAFETY: fresh memory.
    unsafe {
        let at = libc::mmap(null_mut(), ROOM + 8192, 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        assert_ne!(at, libc::MAP_FAILED);
        let at: *mut u8 = at.cast();
        assert_eq!(libc::mprotect(at.cast(), 4096, 0), 0);
        assert_eq!(libc::mprotect(at.add(4096 + ROOM).cast(), 4096, 0), 0);
        core::slice::from_raw_parts_mut(at.add(4096), ROOM)
    }
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }
    /// A place for `size` bytes: often at one of the ends.
    fn place(&mut self, size: usize) -> usize {
        match self.below(4) {
            0 => self.below(70).min(ROOM - size),
            1 => self.below(ROOM - size + 1),
            2 => (ROOM - size) - self.below(130).min(ROOM - size),
            _ => ROOM - size,
        }
    }
    fn size(&mut self, round: usize) -> usize {
        if round.is_multiple_of(8) { self.below(9000) } else { round % 300 }
    }
}

fn absent() -> bool {
    if !there() {
        std::eprintln!("no AVX-512 here: nothing to test");
    }
    !there()
}

fn offset(base: *const u8, found: *const c_void) -> Option<usize> {
    (!found.is_null()).then(|| found as usize - base as usize)
}

/// The sign that memcmp and strcmp promise.
fn sign<T: Ord>(a: T, b: T) -> c_int {
    a.cmp(&b) as c_int
}

#[test]
fn scans_and_comparisons() {
    if absent() {
        return;
    }
    let mut rng = Rng(7);
    let (a, b) = (guarded(), guarded());
    for round in 0..150_000 {
        let size = rng.size(round) + 1;
        let (x, y) = (rng.place(size), rng.place(size));
        for i in 0..size {
            a[x + i] = b"abAB\x80\xff\x01"[rng.below(7)];
            b[y + i] = a[x + i];
        }
        a[x + size - 1] = 0;
        b[y + size - 1] = 0;
        if size > 1 && rng.below(2) == 0 {
            b[y + rng.below(size - 1)] = b"q\0a"[rng.below(3)];
        }
        // What follows within the page must not matter.
        if x + size < ROOM && rng.below(2) == 0 {
            a[x + size] = b'z';
        }
        let c = b"abAB\x80\xff\0zq"[rng.below(9)];
        let number = c_int::from(c) | 0x100;
        let (s, t) = (&a[x..x + size], &b[y..y + size]);
        let (length, other) = (size - 1, t.iter().position(|&v| v == 0).unwrap());
        let (p, q) = (s.as_ptr(), t.as_ptr());
        let limit = if rng.below(3) == 0 { usize::MAX - rng.below(3) } else { rng.below(size + 80) };
        let first = s[..length].iter().position(|&v| v == c);
        // SAFETY: C strings, and no more of them than there is.
        unsafe {
            assert_eq!(strlen(p.cast()), length);
            assert_eq!(strnlen(p.cast(), limit), length.min(limit));
            let found = if c == 0 { Some(length) } else { first };
            assert_eq!(offset(p, strchr(p.cast(), number).cast()), found, "{length} {c}");
            assert_eq!(offset(p, strchrnul(p.cast(), number).cast()), Some(found.unwrap_or(length)));
            let n = rng.below(size + 1);
            let within = s[..n].iter().position(|&v| v == c);
            assert_eq!(offset(p, memchr(p.cast(), number, n)), within, "{n} {c}");
            assert_eq!(offset(p, memchr(p.cast(), 0, limit.max(size))), Some(length));
            assert_eq!(memcmp(p.cast(), q.cast(), n).signum(), sign(&s[..n], &t[..n]), "{n}");
            assert_eq!(strcmp(p.cast(), q.cast()).signum(), sign(&s[..length], &t[..other]));
            assert_eq!(strcmp(q.cast(), p.cast()).signum(), sign(&t[..other], &s[..length]));
            let (s, t) = (&s[..length.min(limit)], &t[..other.min(limit)]);
            assert_eq!(strncmp(p.cast(), q.cast(), limit).signum(), sign(s, t), "{limit}");
        }
    }
}

#[test]
fn copies() {
    if absent() {
        return;
    }
    let mut rng = Rng(11);
    let (a, b) = (guarded(), guarded());
    let random: Vec<u8> = (0..ROOM).map(|_| rng.below(256) as u8).collect();
    for round in 0..40_000 {
        let size = rng.size(round);
        let (from, to) = (rng.place(size), rng.place(size));
        let to =
            if rng.below(2) == 0 { to } else { (from + rng.below(300)).saturating_sub(150).min(ROOM - size) };
        b.copy_from_slice(&random);
        let mut expected = random.clone();
        expected.copy_within(from..from + size, to);
        // SAFETY: both ranges lie in `b`.
        unsafe {
            let target: *mut c_void = b.as_mut_ptr().add(to).cast();
            assert_eq!(memmove(target, b.as_ptr().add(from).cast(), size), target);
            assert!(*b == expected[..], "memmove {from} -> {to}, {size}");
            let byte = rng.below(256);
            expected[to..to + size].fill(byte as u8);
            assert_eq!(memset(target, byte as c_int | 0x7700, size), target);
            assert!(*b == expected[..], "memset {to}, {size}");
        }
        let from = rng.place(size + 1);
        let to = rng.place(size + 1);
        a[from..from + size].fill(b'a');
        a[from + size] = 0;
        for stp in [false, true] {
            b.fill(0x55);
            // SAFETY: a C string and room for it.
            let (answer, target) = unsafe {
                let target: *mut c_char = b.as_mut_ptr().add(to).cast();
                let source = a.as_ptr().add(from).cast();
                (if stp { stpcpy(target, source) } else { strcpy(target, source) }, target)
            };
            assert_eq!(answer as usize - target as usize, if stp { size } else { 0 });
            assert!(b[..to].iter().all(|&v| v == 0x55) && b[to + size + 1..].iter().all(|&v| v == 0x55));
            assert_eq!(b[to..=to + size], a[from..=from + size], "{from} -> {to}, {size}");
        }
        a[from..=from + size].fill(b'a');
    }
}

/// Every name that has a body here is exported, as a function, and is bound to that body.
#[test]
fn names_are_bound_here() {
    let rows: Vec<_> = crate::TABLES.iter().flat_map(|table| table.iter()).collect();
    let names = "memmove memcpy memset memcmp bcmp __memcmpeq memchr strlen strnlen strchr index strchrnul strcmp strcoll \
                 strncmp strcpy stpcpy __stpcpy";
    for name in names.split_whitespace() {
        let row = rows.iter().find(|row| row.name == name && row.library == "libc.so.6").expect(name);
        assert_eq!(bound(name, row.address.0) != row.address.0, there(), "{name}");
        assert_eq!(crate::data::address(row), bound(name, row.address.0), "{name}");
    }
    let other = rows.iter().find(|row| row.name == "strrchr").unwrap();
    assert_eq!(bound(other.name, other.address.0), other.address.0);
}
