//! <sched.h>: scheduling parameters, affinity, CPU sets.

use crate::errno;
use crate::kcall;
use crate::malloc;
use crate::types::*;
use crate::wrappers;

wrappers! { EXPORTS "libc.so.6":
    /// sched_yield(2).
    "GLIBC_2.2.5" plain sched_yield() -> c_int = sched_yield();
    /// sched_get_priority_max(2).
    "GLIBC_2.2.5" plain sched_get_priority_max(policy: c_int) -> c_int = sched_get_priority_max(policy);
    /// sched_get_priority_min(2).
    "GLIBC_2.2.5" plain sched_get_priority_min(policy: c_int) -> c_int = sched_get_priority_min(policy);
    /// sched_setscheduler(2).
    "GLIBC_2.2.5" plain sched_setscheduler(pid: pid_t, policy: c_int, param: *const c_int) -> c_int
        = sched_setscheduler(pid, policy, param);
    /// sched_getscheduler(2).
    "GLIBC_2.2.5" plain sched_getscheduler(pid: pid_t) -> c_int = sched_getscheduler(pid);
    /// sched_setparam(2).
    "GLIBC_2.2.5" plain sched_setparam(pid: pid_t, param: *const c_int) -> c_int = sched_setparam(pid, param);
    /// sched_getparam(2).
    "GLIBC_2.2.5" plain sched_getparam(pid: pid_t, param: *mut c_int) -> c_int = sched_getparam(pid, param);
    /// sched_rr_get_interval(2).
    "GLIBC_2.2.5" plain sched_rr_get_interval(pid: pid_t, to: *mut c_void) -> c_int = sched_rr_get_interval(pid, to);
    /// sched_setaffinity(2).
    "GLIBC_2.3.4" plain sched_setaffinity(pid: pid_t, len: usize, cpus: *const c_void) -> c_int
        = sched_setaffinity(pid, len, cpus);
    /// unshare(2).
    "GLIBC_2.4" plain unshare(flags: c_int) -> c_int = unshare(flags);
    /// setns(2).
    "GLIBC_2.14" plain setns(fd: c_int, kind: c_int) -> c_int = setns(fd, kind);
    /// getcpu(2).
    "GLIBC_2.29" plain getcpu(cpu: *mut c_uint, node: *mut c_uint) -> c_int = getcpu(cpu, node, 0);
}

abi! { MORE "libc.so.6":
    /// sched_getaffinity(2): the kernel writes only the first bytes, the rest is zero.
    "GLIBC_2.3.4" fn sched_getaffinity(pid: pid_t, len: usize, cpus: *mut c_void) -> c_int {
        // SAFETY: the program's set of `len` bytes.
        unsafe {
            match kcall!(sched_getaffinity, pid, len.min(i32::MAX as usize), cpus) {
                Ok(written) => {
                    cpus.cast::<u8>().add(written).write_bytes(0, len - written);
                    0
                }
                Err(errno) => errno::int(Err(errno)),
            }
        }
    }
    /// sched_getcpu(3).
    "GLIBC_2.6" fn sched_getcpu() -> c_int {
        let mut cpu: c_uint = 0;
        // SAFETY: our own word.
        errno::int(unsafe { kcall!(getcpu, &raw mut cpu, 0, 0) }.map(|_| cpu as usize))
    }
    /// CPU_COUNT of cpu_set(3).
    "GLIBC_2.6" fn __sched_cpucount(len: usize, cpus: *const u64) -> c_int {
        // SAFETY: the program's set of `len` bytes.
        (0..len / 8).map(|at| unsafe { cpus.add(at).read() }.count_ones() as c_int).sum()
    }
    /// CPU_ALLOC of cpu_set(3).
    "GLIBC_2.7" fn __sched_cpualloc(count: usize) -> *mut c_void {
        // SAFETY: C's malloc.
        unsafe { malloc::malloc(count.div_ceil(64) * 8) }
    }
    /// CPU_FREE of cpu_set(3).
    "GLIBC_2.7" fn __sched_cpufree(cpus: *mut c_void) {
        // SAFETY: the program's set.
        unsafe { malloc::free(cpus) }
    }
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.2.5" "__sched_yield" = sched_yield;
    alias "GLIBC_2.2.5" "__sched_get_priority_max" = sched_get_priority_max;
    alias "GLIBC_2.2.5" "__sched_get_priority_min" = sched_get_priority_min;
    alias "GLIBC_2.2.5" "__sched_getparam" = sched_getparam;
    alias "GLIBC_2.2.5" "__sched_getscheduler" = sched_getscheduler;
    alias "GLIBC_2.2.5" "__sched_setscheduler" = sched_setscheduler;
}
