//! The host kernel's vDSO: clocks without a system call.

use crate::elf::{self, Elf};
use crate::image::Image;
use crate::symbols::{Class, Name, Symbols, Want};
use crate::{dynamic, error::Fault};

/// Larger than any vDSO; only its headers are read through this bound.
const LIMIT: u64 = 1 << 20;

/// Address of a function of the vDSO, `__vdso_clock_gettime`.
///
/// # Safety
/// `base` is the host's AT_SYSINFO_EHDR.
pub unsafe fn function(base: usize, name: &[u8]) -> Option<usize> {
    // SAFETY: as promised.
    let (elf, bias) = unsafe { headers(base) }.ok()?;
    // SAFETY: the kernel has mapped all of it, for the life of the process.
    let image = unsafe { Image::loaded(bias) };
    let dynamic = dynamic::parse(&elf, &image).ok()?;
    let want = Want { name: Name::new(name), version: None, class: Class::Call, newest: true };
    let (_, symbol) = Symbols::new(&image, &dynamic).find(&want)?;
    Some((symbol.st_value as usize).wrapping_add(bias))
}

unsafe fn headers(base: usize) -> Result<(Elf, usize), Fault> {
    let mut read = |at: u64, buffer: &mut [u8]| {
        // SAFETY: headers lie in the first page of the vDSO, which the kernel has mapped.
        unsafe {
            core::ptr::copy_nonoverlapping(
                (base + at as usize) as *const u8,
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        };
        Ok(buffer.len())
    };
    match elf::parse(LIMIT, &mut read) {
        Ok(elf) => {
            let bias = base.wrapping_sub(elf.start);
            Ok((elf, bias))
        }
        Err(elf::ParseError::Fault(fault)) => Err(fault),
        Err(elf::ParseError::Read(_)) => Err(Fault::Malformed("unreadable")),
    }
}

/// Finds the vDSO's clock and tells `platform` of it; without a vDSO clocks are system calls.
///
/// # Safety
/// As [`function`].
pub unsafe fn use_clock(base: usize) -> bool {
    // SAFETY: as promised.
    match unsafe { function(base, b"__vdso_clock_gettime") } {
        Some(address) => {
            // SAFETY: that function, mapped for the life of the process.
            unsafe { platform::time::set_vdso_clock_gettime(address) };
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use ::libc as host;

    #[test]
    fn the_hosts_clock_is_found_and_runs() {
        // SAFETY: getauxval of the host's libc.
        let base = unsafe { host::getauxval(host::AT_SYSINFO_EHDR) } as usize;
        assert_ne!(base, 0);
        // SAFETY: the host's AT_SYSINFO_EHDR.
        assert!(unsafe { super::use_clock(base) });
        let now = platform::time::clock_gettime(platform::time::CLOCK_MONOTONIC).unwrap();
        let mut theirs = host::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a timespec of ours.
        unsafe { host::clock_gettime(host::CLOCK_MONOTONIC, &mut theirs) };
        assert!(theirs.tv_sec - now.sec <= 1);
        // SAFETY: as above.
        assert_eq!(unsafe { super::function(base, b"no_such_function") }, None);
    }
}
