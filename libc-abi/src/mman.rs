//! <sys/mman.h>.

use crate::errno;
use crate::kcall;
use crate::types::*;
use crate::wrappers;
use platform::Errno;

wrappers! { EXPORTS "libc.so.6":
    /// mmap(2).
    "GLIBC_2.2.5" plain mmap(
        address: *mut c_void, len: usize, rights: c_int, flags: c_int, fd: c_int, offset: off_t,
    ) -> *mut c_void = mmap(address, len, rights, flags, fd, offset);
    /// munmap(2).
    "GLIBC_2.2.5" plain munmap(address: *mut c_void, len: usize) -> c_int = munmap(address, len);
    /// mprotect(2).
    "GLIBC_2.2.5" plain mprotect(address: *mut c_void, len: usize, rights: c_int) -> c_int
        = mprotect(address, len, rights);
    /// mremap(2): the new address counts only with MREMAP_FIXED.
    "GLIBC_2.2.5" plain mremap(
        address: *mut c_void, old: usize, new: usize, flags: c_int, place: *mut c_void,
    ) -> *mut c_void = mremap(address, old, new, flags, place);
    /// madvise(2).
    "GLIBC_2.2.5" plain madvise(address: *mut c_void, len: usize, advice: c_int) -> c_int = madvise(address, len, advice);
    /// process_madvise(2).
    "GLIBC_2.36" plain process_madvise(pidfd: c_int, parts: *const c_void, count: usize, advice: c_int, flags: c_uint)
        -> isize = process_madvise(pidfd, parts, count, advice, flags);
    /// msync(2).
    "GLIBC_2.2.5" point msync(address: *mut c_void, len: usize, flags: c_int) -> c_int = msync(address, len, flags);
    /// mincore(2).
    "GLIBC_2.2.5" plain mincore(address: *mut c_void, len: usize, to: *mut c_uchar) -> c_int = mincore(address, len, to);
    /// mlock(2).
    "GLIBC_2.2.5" plain mlock(address: *const c_void, len: usize) -> c_int = mlock(address, len);
    /// mlock2(2).
    "GLIBC_2.27" plain mlock2(address: *const c_void, len: usize, flags: c_uint) -> c_int = mlock2(address, len, flags);
    /// munlock(2).
    "GLIBC_2.2.5" plain munlock(address: *const c_void, len: usize) -> c_int = munlock(address, len);
    /// mlockall(2).
    "GLIBC_2.2.5" plain mlockall(flags: c_int) -> c_int = mlockall(flags);
    /// munlockall(2).
    "GLIBC_2.2.5" plain munlockall() -> c_int = munlockall();
    /// remap_file_pages(2).
    "GLIBC_2.3.3" plain remap_file_pages(address: *mut c_void, len: usize, rights: c_int, page: usize, flags: c_int)
        -> c_int = remap_file_pages(address, len, rights, page, flags);
    /// memfd_create(2).
    "GLIBC_2.27" plain memfd_create(name: *const c_char, flags: c_uint) -> c_int = memfd_create(name, flags);
    /// pkey_alloc(2).
    "GLIBC_2.27" plain pkey_alloc(flags: c_uint, rights: c_uint) -> c_int = pkey_alloc(flags, rights);
    /// pkey_free(2).
    "GLIBC_2.27" plain pkey_free(key: c_int) -> c_int = pkey_free(key);
    /// process_vm_readv(2).
    "GLIBC_2.15" plain process_vm_readv(
        pid: pid_t, own: *const c_void, own_count: c_ulong, other: *const c_void, other_count: c_ulong,
        flags: c_ulong,
    ) -> isize = process_vm_readv(pid, own, own_count, other, other_count, flags);
    /// process_vm_writev(2).
    "GLIBC_2.15" plain process_vm_writev(
        pid: pid_t, own: *const c_void, own_count: c_ulong, other: *const c_void, other_count: c_ulong,
        flags: c_ulong,
    ) -> isize = process_vm_writev(pid, own, own_count, other, other_count, flags);
}

abi! { MORE "libc.so.6":
    /// posix_madvise(3): the error number itself. POSIX's DONTNEED must not lose data: nothing is done.
    "GLIBC_2.2.5" fn posix_madvise(address: *mut c_void, len: usize, advice: c_int) -> c_int {
        const POSIX_MADV_DONTNEED: c_int = 4;
        if advice == POSIX_MADV_DONTNEED {
            return 0;
        }
        // SAFETY: the program's range; advice that keeps contents.
        unsafe { kcall!(madvise, address, len, advice) }.map_or_else(|errno| errno.0, |_| 0)
    }
    /// pkey_mprotect(2): key -1 means no key.
    "GLIBC_2.27" fn pkey_mprotect(address: *mut c_void, len: usize, rights: c_int, key: c_int) -> c_int {
        // SAFETY: the program's range.
        errno::int(unsafe {
            if key == -1 { kcall!(mprotect, address, len, rights) } else { kcall!(pkey_mprotect, address, len, rights, key) }
        })
    }
    /// pkey_set(3): protection keys are the CPU's; without them every key is invalid.
    "GLIBC_2.27" fn pkey_set(key: c_int, rights: c_uint) -> c_int {
        if !(0..16).contains(&key) || rights > 3 || !has_keys() {
            return errno::int(Err(Errno::EINVAL));
        }
        let mask = 3 << (2 * key);
        write_pkru(read_pkru() & !mask | rights << (2 * key));
        0
    }
    /// pkey_get(3).
    "GLIBC_2.27" fn pkey_get(key: c_int) -> c_int {
        if !(0..16).contains(&key) || !has_keys() {
            return errno::int(Err(Errno::EINVAL));
        }
        (read_pkru() >> (2 * key) & 3) as c_int
    }
    /// shm_open(3): a file in /dev/shm.
    "GLIBC_2.34" fn shm_open(name: *const c_char, flags: c_int, mode: mode_t) -> c_int {
        const O_NOFOLLOW: c_int = 0o400000;
        const O_NONBLOCK: c_int = 0o4000;
        // SAFETY: the program's name.
        errno::int(unsafe { shm_path(name) }.and_then(|path| {
            let flags = flags | O_NOFOLLOW | crate::fcntl::O_CLOEXEC | O_NONBLOCK;
            // SAFETY: our own path.
            unsafe { kcall!(open, path.as_ptr(), flags, mode) }
        }))
    }
    /// shm_unlink(3).
    "GLIBC_2.34" fn shm_unlink(name: *const c_char) -> c_int {
        // SAFETY: the program's name, our own path.
        let result = unsafe { shm_path(name).and_then(|path| kcall!(unlink, path.as_ptr())) };
        errno::int(if result == Err(Errno::EPERM) { Err(Errno::EACCES) } else { result })
    }
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.2.5" "mmap64" = mmap;
    alias "GLIBC_PRIVATE" "__mmap" = mmap;
    alias "GLIBC_PRIVATE" "__munmap" = munmap;
    alias "GLIBC_PRIVATE" "__mprotect" = mprotect;
    alias "GLIBC_PRIVATE" "__madvise" = madvise;
}

/// "/dev/shm/NAME" for the POSIX name "/NAME".
pub(crate) unsafe fn shm_path(name: *const c_char) -> Result<alloc::vec::Vec<u8>, Errno> {
    const NAME_MAX: usize = 255;
    // SAFETY: the caller's string.
    let name = unsafe { core::ffi::CStr::from_ptr(name) }.to_bytes();
    let start = name.iter().position(|&b| b != b'/').unwrap_or(name.len());
    let name = &name[start..];
    if name.is_empty() || name.contains(&b'/') || name == b"." || name == b".." {
        return Err(Errno::EINVAL);
    }
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok([b"/dev/shm/", name, b"\0"].concat())
}

/// Whether the CPU and the kernel have protection keys on (CPUID.7.0:ECX.OSPKE).
fn has_keys() -> bool {
    core::arch::x86_64::__cpuid(0).eax >= 7 && core::arch::x86_64::__cpuid_count(7, 0).ecx & 1 << 4 != 0
}

fn read_pkru() -> u32 {
    let rights: u32;
    // SAFETY: reads the thread's own register; `has_keys` was asked.
    unsafe {
        core::arch::asm!("rdpkru", in("ecx") 0, out("eax") rights, out("edx") _, options(nomem, nostack))
    };
    rights
}

fn write_pkru(rights: u32) {
    // SAFETY: as above; what the program does to its own memory is its business.
    unsafe { core::arch::asm!("wrpkru", in("eax") rights, in("ecx") 0, in("edx") 0, options(nostack)) };
}
