//! What the system is: sysconf(3), confstr(3), pathconf(3), uname(2), processors and memory.
//!
//! Processors are those that the calling process may use (sched_getaffinity(2)): a guest's own, not the
//! host's. Memory is sysinfo(2)'s. Cache sizes come from CPUID.

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::auxv;
use crate::errno;
use crate::kcall;
use crate::types::*;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::ffi::CStr;
use platform::Errno;

const PAGE: usize = 4096;
const AT_FDCWD: isize = -100;

/// `struct sysinfo`, 112 bytes.
#[repr(C)]
#[derive(Default)]
struct SysInfo {
    uptime: i64,
    loads: [u64; 3],
    total: u64,
    free: u64,
    shared: u64,
    buffers: u64,
    total_swap: u64,
    free_swap: u64,
    processes: u16,
    pad: [u16; 3],
    total_high: u64,
    free_high: u64,
    unit: u32,
    tail: u32,
}

/// `struct statfs`, 120 bytes.
#[repr(C)]
#[derive(Default)]
struct StatFs {
    kind: i64,
    block_size: i64,
    counts: [u64; 5],
    id: [i32; 2],
    name_length: i64,
    fragment_size: i64,
    rest: [i64; 5],
}

fn system() -> SysInfo {
    let mut info = SysInfo::default();
    // SAFETY: our own struct.
    let _ = unsafe { kcall!(sysinfo, &raw mut info) };
    info
}

fn pages(amount: u64, info: &SysInfo) -> c_long {
    (amount * u64::from(info.unit) / PAGE as u64) as c_long
}

/// How many CPUs the process may use.
fn processors() -> c_int {
    let mut set = [0u64; 512];
    // SAFETY: our own set.
    match unsafe { kcall!(sched_getaffinity, 0, size_of_val(&set), set.as_mut_ptr()) } {
        Ok(bytes) => set[..bytes / 8].iter().map(|word| word.count_ones() as c_int).sum::<c_int>().max(1),
        Err(_) => 1,
    }
}

/// The soft limit; -1 if there is none.
fn limit(which: usize) -> c_long {
    let mut limits = [0u64; 2];
    // SAFETY: our own pair.
    match unsafe { kcall!(prlimit64, 0, which, 0, limits.as_mut_ptr()) } {
        Ok(_) => limits[0] as c_long,
        Err(_) => -1,
    }
}

abi! { EXPORTS "libc.so.6":
    /// sysconf(3).
    "GLIBC_2.2.5" fn sysconf(name: c_int) -> c_long {
        const RLIMIT_STACK: usize = 3;
        const RLIMIT_NPROC: usize = 6;
        const RLIMIT_NOFILE: usize = 7;
        const RLIMIT_SIGPENDING: usize = 11;
        const ARG_MAX: c_long = 131_072;
        const MINSIGSTKSZ: usize = 2048;
        match name {
            0 => match limit(RLIMIT_STACK) {
                -1 => c_long::MAX / 4,
                stack => (stack / 4).max(ARG_MAX),
            },
            1 => limit(RLIMIT_NPROC),
            3 => number_in(c"/proc/sys/kernel/ngroups_max").unwrap_or(65536),
            4 => limit(RLIMIT_NOFILE),
            34 => limit(RLIMIT_SIGPENDING),
            83 | 84 => c_long::from(processors()),
            85 => get_phys_pages(),
            86 => get_avphys_pages(),
            185..=199 => cache(name - 185),
            249 => auxv::find(auxv::AT_MINSIGSTKSZ).unwrap_or(MINSIGSTKSZ) as c_long,
            // sysconf(3): four times that, but no less than the constant of old headers.
            250 => (auxv::find(auxv::AT_MINSIGSTKSZ).unwrap_or(MINSIGSTKSZ) as c_long * 4).max(8192),
            _ => constant(name).unwrap_or_else(|| errno::or_minus_one(Err(Errno::EINVAL)) as c_long),
        }
    }
    /// uname(2).
    "GLIBC_2.2.5" fn uname(out: *mut c_void) -> c_int {
        errno::int(kcall!(uname, out))
    }
    /// sysinfo(2).
    "GLIBC_2.2.5" fn sysinfo(out: *mut c_void) -> c_int {
        errno::int(kcall!(sysinfo, out))
    }
    /// getpagesize(2).
    "GLIBC_2.2.5" fn getpagesize() -> c_int {
        PAGE as c_int
    }
    /// get_nprocs(3).
    "GLIBC_2.2.5" fn get_nprocs() -> c_int {
        processors()
    }
    /// get_nprocs_conf(3).
    "GLIBC_2.2.5" fn get_nprocs_conf() -> c_int {
        processors()
    }
    /// get_phys_pages(3).
    "GLIBC_2.2.5" fn get_phys_pages() -> c_long {
        let info = system();
        pages(info.total, &info)
    }
    /// get_avphys_pages(3).
    "GLIBC_2.2.5" fn get_avphys_pages() -> c_long {
        let info = system();
        pages(info.free, &info)
    }
    /// getloadavg(3).
    "GLIBC_2.2.5" fn getloadavg(out: *mut c_double, count: c_int) -> c_int {
        let mut text = [0u8; 64];
        let Ok(length) = read_file(c"/proc/loadavg", &mut text) else { return -1 };
        let text = core::str::from_utf8(&text[..length]).unwrap_or("");
        let mut found = 0;
        for (at, word) in text.split_ascii_whitespace().take(count.clamp(0, 3) as usize).enumerate() {
            let Ok(value) = word.parse::<f64>() else { return -1 };
            out.add(at).write(value);
            found += 1;
        }
        found
    }
    /// gnu_get_libc_version(3).
    "GLIBC_2.2.5" fn gnu_get_libc_version() -> *const c_char {
        c"2.36".as_ptr()
    }
    /// gnu_get_libc_release(3).
    "GLIBC_2.2.5" fn gnu_get_libc_release() -> *const c_char {
        c"stable".as_ptr()
    }
    /// confstr(3).
    "GLIBC_2.2.5" fn confstr(name: c_int, into: *mut c_char, room: usize) -> usize {
        let text = match name {
            0 => c"/bin:/usr/bin",
            1 => c"POSIX_V6_LP64_OFF64",
            2 => c"glibc 2.36",
            3 => c"NPTL 2.36",
            4 => c"XBS5_LP64_OFF64",
            5 => c"POSIX_V7_LP64_OFF64",
            1004 | 1007 => c"-D_LARGEFILE64_SOURCE",
            1108 | 1109 | 1124 | 1125 | 1140 | 1141 => c"-m64",
            1148 | 1149 => c"POSIXLY_CORRECT=1",
            1000..=1007 | 1100..=1147 => c"",
            _ => {
                errno::set(Errno::EINVAL);
                return 0;
            }
        };
        let bytes = text.to_bytes_with_nul();
        if room > 0 && !into.is_null() {
            let fits = bytes.len().min(room);
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), into.cast(), fits);
            into.add(fits - 1).write(0);
        }
        bytes.len()
    }
    /// Checked confstr(3).
    "GLIBC_2.4" fn __confstr_chk(name: c_int, into: *mut c_char, length: usize, room: usize) -> usize {
        if room < length {
            crate::fortify::__chk_fail();
        }
        confstr(name, into, length)
    }
    /// pathconf(3).
    "GLIBC_2.2.5" fn pathconf(path: *const c_char, name: c_int) -> c_long {
        let mut fs = StatFs::default();
        let stated = kcall!(statfs, path, &raw mut fs);
        let mode = || {
            let mut stat = crate::dir_read::Stat::ZERO;
            kcall!(newfstatat, AT_FDCWD, path, &raw mut stat, 0).map(|_| stat.kind())
        };
        about_file(name, stated.map(|_| fs), mode)
    }
    /// fpathconf(3).
    "GLIBC_2.2.5" fn fpathconf(fd: c_int, name: c_int) -> c_long {
        let mut fs = StatFs::default();
        let stated = kcall!(fstatfs, fd, &raw mut fs);
        let mode = || {
            let mut stat = crate::dir_read::Stat::ZERO;
            kcall!(fstat, fd, &raw mut stat).map(|_| stat.kind())
        };
        about_file(name, stated.map(|_| fs), mode)
    }
    /// sethostid(3): kept in /etc/hostid.
    "GLIBC_2.2.5" fn sethostid(id: c_long) -> c_int {
        const O_WRONLY_CREAT_TRUNC: usize = 0o1 | 0o100 | 0o1000;
        let Ok(id) = i32::try_from(id) else { return errno::int(Err(Errno::EOVERFLOW)) };
        let written = kcall!(openat, AT_FDCWD, c"/etc/hostid".as_ptr(), O_WRONLY_CREAT_TRUNC, 0o644).and_then(|fd| {
            let result = kcall!(write, fd, &raw const id, 4);
            let _ = kcall!(close, fd);
            result
        });
        errno::int(written.and_then(|size| if size == 4 { Ok(0) } else { Err(Errno::EIO) }))
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "__sysconf" = sysconf;
    alias "GLIBC_2.2.5" "__getpagesize" = getpagesize;
}

/// What never changes, by `_SC_*` number.
#[rustfmt::skip]
fn constant(name: c_int) -> Option<c_long> {
    Some(match name {
        2 => 100,
        5 | 108 => 16,
        6 | 23..=24 | 27 | 32 | 35 | 49..=50 | 53..=59 | 61..=66 | 76 | 92 | 97 | 117 | 125..=126 | 128 | 134..=136 | 140..=148 | 150..=152 | 156 | 158 | 160..=163 | 165..=177 | 179 | 181..=184 | 237..=238 | 240 | 242..=246 => -1,
        7..=8 | 91 | 93..=94 | 98..=100 | 127 | 129..=131 | 155 | 157 | 178 | 239 => 1,
        9..=22 | 29 | 46..=48 | 51..=52 | 67..=68 | 77..=82 | 95..=96 | 132..=133 | 137..=139 | 149 | 153..=154 | 159 | 164 | 235..=236 => 200809,
        25 | 109 => 20,
        26 | 33 | 87 | 104 | 121..=124 => 2147483647,
        28 => 32768,
        30 | 119 => 4096,
        31 | 42 | 72 | 107 => 32,
        36 | 38 => 99,
        37 | 43 | 45 | 120 => 2048,
        39 => 1000,
        40 | 115 => 255,
        44 | 110 | 113 => 32767,
        60 | 69..=70 | 74 => 1024,
        71 => 256,
        73 | 90 => 4,
        75 => crate::pthread::stack::FOREIGN_MIN as c_long,
        88 => 8192,
        89 => 700,
        101 => 8,
        102 | 111 => 127,
        103 | 112 => -128,
        105 => -2147483648,
        106 | 180 => 64,
        114 => -32768,
        116 => 0xffff_ffff,
        118 => 65535,
        _ => return None,
    })
}

/// The `_PC_*` answers.
fn about_file(name: c_int, fs: Result<StatFs, Errno>, mode: impl Fn() -> Result<u32, Errno>) -> c_long {
    let answer = match name {
        0 => fs.map(|fs| links_max(fs.kind)),
        1 | 2 => Ok(255),
        3 => fs.map(|fs| fs.name_length as c_long),
        4 | 5 => Ok(4096),
        6 => fs.map(|_| 1),
        7 => Ok(1),
        8 => Ok(0),
        9 | 11 | 12 | 14 | 15 | 19 => Ok(-1),
        // Asynchronous input and output: regular files and block devices.
        10 => mode().map(|kind| if matches!(kind, 0o100000 | 0o060000) { 1 } else { -1 }),
        13 => fs.map(|fs| if fs.kind == MSDOS { 32 } else { 64 }),
        16 => fs.map(|fs| fs.block_size as c_long),
        17 | 18 => fs.map(|fs| fs.fragment_size as c_long),
        20 => fs.map(|fs| c_long::from(fs.kind != MSDOS)),
        _ => Err(Errno::EINVAL),
    };
    errno::or_minus_one(answer.map(|value| value as usize)) as c_long
}

const MSDOS: i64 = 0x4d44;

/// LINK_MAX by file system (statfs(2)'s magic numbers); 127 where it is not known, as glibc says.
fn links_max(kind: i64) -> c_long {
    match kind {
        0xef53 => 65000,
        0x5846_5342 => 0x7fff_ffff,
        0x5265_4973 => 64535,
        0x137f => 250,
        0x2468 | 0x2478 => 65530,
        0x0001_1954 => 32000,
        _ => 127,
    }
}

fn read_file(path: &CStr, into: &mut [u8]) -> Result<usize, Errno> {
    const O_CLOEXEC: usize = 0o2_000_000;
    // SAFETY: a C string in, our buffer out.
    unsafe {
        let fd = kcall!(openat, AT_FDCWD, path.as_ptr(), O_CLOEXEC)?;
        let result = kcall!(read, fd, into.as_mut_ptr(), into.len());
        let _ = kcall!(close, fd);
        result
    }
}

fn number_in(path: &CStr) -> Option<c_long> {
    let mut text = [0u8; 32];
    let length = read_file(path, &mut text).ok()?;
    core::str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
}

/// Cache geometry: L1I, L1D, L2, L3, L4 times size, ways, line. 0 where there is no such cache.
fn cache(which: c_int) -> c_long {
    // CPUID's cache types are 1 data, 2 code, 3 both; the deterministic leaf is 4, on AMD 0x8000001d.
    let (level, kinds): (u32, &[u32]) = match which / 3 {
        0 => (1, &[2]),
        1 => (1, &[1]),
        n => (n as u32, &[1, 3]),
    };
    let leaf = if __cpuid(0).ebx == u32::from_le_bytes(*b"Auth") { 0x8000_001d } else { 4 };
    let highest = if leaf == 4 { __cpuid(0).eax } else { __cpuid(0x8000_0000).eax };
    if highest < leaf {
        return 0;
    }
    for index in 0..16 {
        let found = __cpuid_count(leaf, index);
        if found.eax & 31 == 0 {
            break;
        }
        if (found.eax >> 5) & 7 == level && kinds.contains(&(found.eax & 31)) {
            let (line, parts) = ((found.ebx & 0xfff) + 1, ((found.ebx >> 12) & 0x3ff) + 1);
            let (ways, sets) = ((found.ebx >> 22) + 1, c_long::from(found.ecx) + 1);
            return match which % 3 {
                0 => c_long::from(line) * c_long::from(parts) * c_long::from(ways) * sets,
                1 => c_long::from(ways),
                _ => c_long::from(line),
            };
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysconf_is_the_hosts() {
        // 75: our frames are on a thread's stack, too. 86: free memory changes. 185..: the host's glibc knows some caches by other tables. 249, 250: no
        // auxiliary vector in this test.
        for name in (-2..300).filter(|n| !matches!(n, 75 | 86 | 185..=199 | 249 | 250)) {
            // SAFETY: numbers only.
            unsafe {
                errno::set(Errno(0));
                *libc::__errno_location() = 0;
                assert_eq!(sysconf(name), libc::sysconf(name), "{name}");
                assert_eq!(errno::get().0, *libc::__errno_location(), "{name}");
            }
        }
        // SAFETY: numbers only.
        unsafe {
            assert_eq!(sysconf(190), libc::sysconf(190), "line of the first data cache");
            assert!(get_avphys_pages() > 0);
        }
    }

    #[test]
    fn confstr_is_the_hosts() {
        for name in -1..1200 {
            let (mut ours, mut theirs) = ([0u8; 64], [0u8; 64]);
            // SAFETY: our own buffers.
            unsafe {
                let length = confstr(name, ours.as_mut_ptr().cast(), 12);
                assert_eq!(length, libc::confstr(name, theirs.as_mut_ptr().cast(), 12), "{name}");
            }
            assert_eq!(ours, theirs, "{name}");
        }
    }

    #[test]
    fn pathconf_is_the_hosts() {
        for path in [c"/", c"/proc", c"/dev/shm", c"/etc/passwd", c"/dev/null", c"/gone"] {
            for name in -1..25 {
                // SAFETY: C strings.
                unsafe {
                    errno::set(Errno(0));
                    *libc::__errno_location() = 0;
                    let ours = pathconf(path.as_ptr(), name);
                    let theirs = libc::pathconf(path.as_ptr(), name);
                    // FILESIZEBITS: glibc says 32 for any file system that it does not know.
                    if name != 13 {
                        assert_eq!(ours, theirs, "{path:?} {name}");
                    }
                }
            }
        }
        let mut loads = [-1.0; 3];
        // SAFETY: our own array.
        unsafe { assert_eq!(getloadavg(loads.as_mut_ptr(), 5), 3) };
        assert!(loads.iter().all(|&load| load >= 0.0));
    }
}
