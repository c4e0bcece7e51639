//! <sys/resource.h> and <sys/times.h>: limits, use, priorities.

use crate::errno;
use crate::kcall;
use crate::types::*;
use crate::wrappers;
use platform::Errno;

wrappers! { EXPORTS "libc.so.6":
    /// getrlimit(2).
    "GLIBC_2.2.5" plain getrlimit(resource: c_uint, to: *mut c_void) -> c_int = prlimit64(0, resource, 0, to);
    /// setrlimit(2).
    "GLIBC_2.2.5" plain setrlimit(resource: c_uint, from: *const c_void) -> c_int = prlimit64(0, resource, from, 0);
    /// prlimit(2).
    "GLIBC_2.13" plain prlimit(pid: pid_t, resource: c_uint, new: *const c_void, old: *mut c_void) -> c_int
        = prlimit64(pid, resource, new, old);
    /// getrusage(2).
    "GLIBC_2.2.5" plain getrusage(who: c_int, to: *mut c_void) -> c_int = getrusage(who, to);
    /// setpriority(2).
    "GLIBC_2.2.5" plain setpriority(which: c_int, who: c_uint, value: c_int) -> c_int = setpriority(which, who, value);
    /// times(2).
    "GLIBC_2.2.5" plain times(to: *mut c_void) -> c_long = times(to);
}

abi! { MORE "libc.so.6":
    /// getpriority(2): the kernel answers 20 minus the value.
    "GLIBC_2.2.5" fn getpriority(which: c_int, who: c_uint) -> c_int {
        // SAFETY: numbers only.
        match unsafe { kcall!(getpriority, which, who) } {
            Ok(raw) => 20 - raw as c_int,
            Err(errno) => errno::int(Err(errno)),
        }
    }
    /// ulimit(3).
    "GLIBC_2.2.5" fn ulimit(command: c_int, value: c_long) -> c_long {
        const RLIMIT_FSIZE: usize = 1;
        const RLIMIT_NOFILE: usize = 7;
        let mut limit = [0u64; 2];
        // SAFETY: our own struct rlimit64.
        let result = unsafe {
            match command {
                1 => kcall!(prlimit64, 0, RLIMIT_FSIZE, 0, limit.as_mut_ptr()).map(|_| limit[0] / 512),
                2 => {
                    limit = [(value as u64).saturating_mul(512); 2];
                    kcall!(prlimit64, 0, RLIMIT_FSIZE, limit.as_ptr(), 0).map(|_| value as u64)
                }
                4 => kcall!(prlimit64, 0, RLIMIT_NOFILE, 0, limit.as_mut_ptr()).map(|_| limit[0]),
                _ => Err(Errno::EINVAL),
            }
        };
        errno::or_minus_one(result.map(|value| value.min(i64::MAX as u64) as usize)) as c_long
    }
    /// vlimit's and getdtablesize(3)'s heir: how many descriptors may be open.
    "GLIBC_2.2.5" fn getdtablesize() -> c_int {
        const RLIMIT_NOFILE: usize = 7;
        let mut limit = [256u64; 2];
        // SAFETY: our own struct rlimit64.
        let _ = unsafe { kcall!(prlimit64, 0, RLIMIT_NOFILE, 0, limit.as_mut_ptr()) };
        limit[0].min(c_int::MAX as u64) as c_int
    }
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.2.5" "getrlimit64" = getrlimit;
    alias "GLIBC_2.2.5" "setrlimit64" = setrlimit;
    alias "GLIBC_2.13" "prlimit64" = prlimit;
}
