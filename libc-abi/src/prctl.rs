//! Linux's own: prctl(2), ptrace(2), mounts, modules, and other calls that few programs make.

use crate::errno;
use crate::kcall;
use crate::types::*;
use crate::wrappers;

wrappers! { EXPORTS "libc.so.6":
    /// prctl(2).
    "GLIBC_2.2.5" plain prctl(option: c_int, a: c_ulong, b: c_ulong, c: c_ulong, d: c_ulong) -> c_int
        = prctl(option, a, b, c, d);
    /// arch_prctl(2).
    "GLIBC_2.2.5" plain arch_prctl(code: c_int, address: c_ulong) -> c_int = arch_prctl(code, address);
    /// personality(2).
    "GLIBC_2.2.5" plain personality(persona: c_ulong) -> c_int = personality(persona);
    /// mount(2).
    "GLIBC_2.2.5" plain mount(
        source: *const c_char, target: *const c_char, kind: *const c_char, flags: c_ulong, data: *const c_void,
    ) -> c_int = mount(source, target, kind, flags, data);
    /// umount(2).
    "GLIBC_2.2.5" plain umount(target: *const c_char) -> c_int = umount2(target, 0);
    /// umount2(2).
    "GLIBC_2.2.5" plain umount2(target: *const c_char, flags: c_int) -> c_int = umount2(target, flags);
    /// pivot_root(2).
    "GLIBC_2.2.5" plain pivot_root(new: *const c_char, old: *const c_char) -> c_int = pivot_root(new, old);
    /// init_module(2).
    "GLIBC_2.2.5" plain init_module(image: *mut c_void, len: c_ulong, parameters: *const c_char) -> c_int
        = init_module(image, len, parameters);
    /// delete_module(2).
    "GLIBC_2.2.5" plain delete_module(name: *const c_char, flags: c_uint) -> c_int = delete_module(name, flags);
    /// ioperm(2).
    "GLIBC_2.2.5" plain ioperm(from: c_ulong, count: c_ulong, on: c_int) -> c_int = ioperm(from, count, on);
    /// iopl(2).
    "GLIBC_2.2.5" plain iopl(level: c_int) -> c_int = iopl(level);
    /// klogctl(3).
    "GLIBC_2.2.5" plain klogctl(kind: c_int, to: *mut c_char, len: c_int) -> c_int = syslog(kind, to, len);
    /// quotactl(2).
    "GLIBC_2.2.5" plain quotactl(command: c_int, special: *const c_char, id: c_int, data: *mut c_char) -> c_int
        = quotactl(command, special, id, data);
    /// pidfd_open(2).
    "GLIBC_2.36" plain pidfd_open(pid: pid_t, flags: c_uint) -> c_int = pidfd_open(pid, flags);
    /// pidfd_getfd(2).
    "GLIBC_2.36" plain pidfd_getfd(pidfd: c_int, fd: c_int, flags: c_uint) -> c_int = pidfd_getfd(pidfd, fd, flags);
    /// pidfd_send_signal(2).
    "GLIBC_2.36" plain pidfd_send_signal(pidfd: c_int, signal: c_int, info: *mut c_void, flags: c_uint) -> c_int
        = pidfd_send_signal(pidfd, signal, info, flags);
    /// fsopen(2).
    "GLIBC_2.36" plain fsopen(kind: *const c_char, flags: c_uint) -> c_int = fsopen(kind, flags);
    /// fsmount(2).
    "GLIBC_2.36" plain fsmount(fd: c_int, flags: c_uint, attributes: c_uint) -> c_int = fsmount(fd, flags, attributes);
    /// fsconfig(2).
    "GLIBC_2.36" plain fsconfig(fd: c_int, command: c_uint, key: *const c_char, value: *const c_void, aux: c_int) -> c_int
        = fsconfig(fd, command, key, value, aux);
    /// fspick(2).
    "GLIBC_2.36" plain fspick(dir: c_int, path: *const c_char, flags: c_uint) -> c_int = fspick(dir, path, flags);
    /// open_tree(2).
    "GLIBC_2.36" plain open_tree(dir: c_int, path: *const c_char, flags: c_uint) -> c_int = open_tree(dir, path, flags);
    /// move_mount(2).
    "GLIBC_2.36" plain move_mount(
        from: c_int, from_path: *const c_char, to: c_int, to_path: *const c_char, flags: c_uint,
    ) -> c_int = move_mount(from, from_path, to, to_path, flags);
    /// mount_setattr(2).
    "GLIBC_2.36" plain mount_setattr(dir: c_int, path: *const c_char, flags: c_uint, to: *mut c_void, len: usize) -> c_int
        = mount_setattr(dir, path, flags, to, len);
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.2.5" "__arch_prctl" = arch_prctl;
}

abi! { MORE "libc.so.6":
    /// modify_ldt(2).
    "GLIBC_2.2.5" fn modify_ldt(function: c_int, data: *mut c_void, len: c_ulong) -> c_int {
        // SAFETY: the program's arguments.
        errno::int(unsafe { kcall!(modify_ldt, function, data, len) })
    }
    /// process_mrelease(2).
    "GLIBC_2.36" fn process_mrelease(pidfd: c_int, flags: c_uint) -> c_int {
        // SAFETY: numbers only.
        errno::int(unsafe { kcall!(process_mrelease, pidfd, flags) })
    }
    /// BSD's; Linux has no such call.
    "GLIBC_2.2.5" fn revoke(_path: *const c_char) -> c_int {
        errno::int(Err(platform::Errno::ENOSYS))
    }
    /// BSD's; Linux has no such call.
    "GLIBC_2.2.5" fn chflags(_path: *const c_char, _flags: c_ulong) -> c_int {
        errno::int(Err(platform::Errno::ENOSYS))
    }
    /// BSD's; Linux has no such call.
    "GLIBC_2.2.5" fn fchflags(_fd: c_int, _flags: c_ulong) -> c_int {
        errno::int(Err(platform::Errno::ENOSYS))
    }
    /// BSD's; Linux has no such call.
    "GLIBC_2.2.5" fn setlogin(_name: *const c_char) -> c_int {
        errno::int(Err(platform::Errno::ENOSYS))
    }
    /// Version 7's terminal calls; Linux has none of them.
    "GLIBC_2.2.5" fn gtty(_fd: c_int, _to: *mut c_void) -> c_int {
        errno::int(Err(platform::Errno::ENOSYS))
    }
    /// As `gtty`.
    "GLIBC_2.2.5" fn stty(_fd: c_int, _from: *const c_void) -> c_int {
        errno::int(Err(platform::Errno::ENOSYS))
    }
    /// ptrace(2): the kernel's PEEK requests write where C's return.
    "GLIBC_2.2.5" fn ptrace(request: c_int, pid: pid_t, address: *mut c_void, data: *mut c_void) -> c_long {
        let mut word: c_long = 0;
        // SAFETY: the program's arguments; our own word.
        unsafe {
            if !(1..=3).contains(&request) {
                return errno::or_minus_one(kcall!(ptrace, request, pid, address, data)) as c_long;
            }
            match kcall!(ptrace, request, pid, address, &raw mut word) {
                Ok(_) => {
                    errno::set(platform::Errno(0));
                    word
                }
                Err(errno) => errno::int(Err(errno)).into(),
            }
        }
    }
    /// reboot(2).
    "GLIBC_2.2.5" fn reboot(command: c_int) -> c_int {
        const MAGIC: usize = 0xfee1_dead;
        const MAGIC2: usize = 672_274_793;
        // SAFETY: numbers only.
        errno::int(unsafe { kcall!(reboot, MAGIC, MAGIC2, command, 0) })
    }
}
