//! The parsers that meet hostile bytes, each as a function of bytes that may do anything but panic, hang
//! or reach outside. Bounded forms of the same run in the crates' own tests.

use std::cell::Cell;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A program file: headers, dynamic section, symbols, versions, as `attacca check` reads them.
pub fn elf(bytes: &[u8]) {
    use loader::{check::check, closure::Options, files::HostFiles};
    static FILES: HostFiles = HostFiles { root: None };
    thread_local!(static FILE: OwnedFd = memfd());
    let path = FILE.with(|file| {
        fill(file, bytes);
        format!("/proc/self/fd/{}", file.as_raw_fd())
    });
    if let Err(error) = check(&FILES, path.as_bytes(), &Options::default(), &[]) {
        let words = error.to_string();
        assert!(!words.contains('\n') && !words.contains('\x1b'), "a line for a terminal: {words:?}");
    }
}

/// TCP segments against a connection in each state.
pub fn segments(bytes: &[u8]) {
    net::fuzz_segments(bytes);
}

/// What comes from the wire.
pub fn frames(bytes: &[u8]) {
    net::fuzz_frames(bytes);
}

/// What a peer writes into shared memory.
pub fn rings(bytes: &[u8]) {
    net::ring::fuzz_rings(bytes);
}

/// What a peer sends to a supervisor.
pub fn control(bytes: &[u8]) {
    net::control::fuzz_messages(bytes);
    netserver::fuzz_control(bytes);
}

fn memfd() -> OwnedFd {
    // SAFETY: the name is NUL-terminated; a fresh descriptor is owned once.
    unsafe {
        let fd = libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd)
    }
}

fn fill(file: &OwnedFd, bytes: &[u8]) {
    // SAFETY: no memory but `bytes` is named.
    unsafe {
        assert_eq!(libc::ftruncate(file.as_raw_fd(), bytes.len() as libc::off_t), 0);
        let written = libc::pwrite(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0);
        assert_eq!(written, bytes.len() as isize);
    }
}

/// xorshift64*: repeatable, and good enough to choose places.
pub struct Random(Cell<u64>);

impl Random {
    /// From a seed; 0 is taken for 1.
    pub fn new(seed: u64) -> Random {
        Random(Cell::new(seed.max(1)))
    }

    /// Below `limit` (0 for 0).
    pub fn below(&self, limit: usize) -> usize {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize % limit.max(1)
    }
}

/// A few changes of the kinds that find most: bits, bytes, extreme numbers, cuts, copies.
pub fn mutate(bytes: &mut Vec<u8>, random: &Random) {
    for _ in 0..=random.below(6) {
        if bytes.is_empty() {
            bytes.push(random.below(256) as u8);
        }
        let at = random.below(bytes.len());
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.below(256) as u8,
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.below(256) as u8),
            4 => {
                let extremes = [0, 1, u64::MAX, 1 << 63, 0x7fff_ffff, 0xffff_ffff, bytes.len() as u64];
                let value = extremes[random.below(extremes.len())].to_le_bytes();
                let len = (1 << random.below(4)).min(bytes.len() - at);
                bytes[at..at + len].copy_from_slice(&value[..len]);
            }
            5 => {
                let part = bytes[at..(at + random.below(64)).min(bytes.len())].to_vec();
                let to = random.below(bytes.len());
                drop(bytes.splice(to..to, part));
            }
            _ => bytes.extend((0..random.below(64)).map(|_| random.below(256) as u8)),
        }
    }
}
