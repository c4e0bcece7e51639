//! <unistd.h>: descriptors and names of files, and what a process is. One system call each, but for a
//! few that compose.

use crate::errno;
use crate::kcall;
use crate::malloc;
use crate::types::*;
use crate::wrappers;
use core::ffi::CStr;
use core::ptr::null_mut;
use platform::Errno;

const AT_FDCWD: c_int = -100;
const AT_EACCESS: c_int = 0x200;
const PATH_MAX: usize = 4096;

wrappers! { EXPORTS "libc.so.6":
    /// read(2).
    "GLIBC_2.2.5" point read(fd: c_int, to: *mut c_void, len: usize) -> isize = read(fd, to, len);
    /// write(2).
    "GLIBC_2.2.5" point write(fd: c_int, from: *const c_void, len: usize) -> isize = write(fd, from, len);
    /// pread(2).
    "GLIBC_2.2.5" point pread(fd: c_int, to: *mut c_void, len: usize, at: off_t) -> isize = pread64(fd, to, len, at);
    /// pwrite(2).
    "GLIBC_2.2.5" point pwrite(fd: c_int, from: *const c_void, len: usize, at: off_t) -> isize = pwrite64(fd, from, len, at);
    /// close(2).
    "GLIBC_2.2.5" point close(fd: c_int) -> c_int = close(fd);
    /// lseek(2).
    "GLIBC_2.2.5" plain lseek(fd: c_int, offset: off_t, whence: c_int) -> off_t = lseek(fd, offset, whence);
    /// dup(2).
    "GLIBC_2.2.5" plain dup(fd: c_int) -> c_int = dup(fd);
    /// dup2(2).
    "GLIBC_2.2.5" plain dup2(old: c_int, new: c_int) -> c_int = dup2(old, new);
    /// dup3(2).
    "GLIBC_2.9" plain dup3(old: c_int, new: c_int, flags: c_int) -> c_int = dup3(old, new, flags);
    /// pipe(2).
    "GLIBC_2.2.5" plain pipe(ends: *mut c_int) -> c_int = pipe(ends);
    /// pipe2(2).
    "GLIBC_2.9" plain pipe2(ends: *mut c_int, flags: c_int) -> c_int = pipe2(ends, flags);
    /// close_range(2).
    "GLIBC_2.34" plain close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int = close_range(first, last, flags);
    /// fsync(2).
    "GLIBC_2.2.5" point fsync(fd: c_int) -> c_int = fsync(fd);
    /// fdatasync(2).
    "GLIBC_2.2.5" point fdatasync(fd: c_int) -> c_int = fdatasync(fd);
    /// syncfs(2).
    "GLIBC_2.14" plain syncfs(fd: c_int) -> c_int = syncfs(fd);
    /// truncate(2).
    "GLIBC_2.2.5" plain truncate(path: *const c_char, len: off_t) -> c_int = truncate(path, len);
    /// ftruncate(2).
    "GLIBC_2.2.5" plain ftruncate(fd: c_int, len: off_t) -> c_int = ftruncate(fd, len);
    /// access(2).
    "GLIBC_2.2.5" plain access(path: *const c_char, mode: c_int) -> c_int = access(path, mode);
    /// chdir(2).
    "GLIBC_2.2.5" plain chdir(path: *const c_char) -> c_int = chdir(path);
    /// fchdir(2).
    "GLIBC_2.2.5" plain fchdir(fd: c_int) -> c_int = fchdir(fd);
    /// chroot(2).
    "GLIBC_2.2.5" plain chroot(path: *const c_char) -> c_int = chroot(path);
    /// rmdir(2).
    "GLIBC_2.2.5" plain rmdir(path: *const c_char) -> c_int = rmdir(path);
    /// unlink(2).
    "GLIBC_2.2.5" plain unlink(path: *const c_char) -> c_int = unlink(path);
    /// unlinkat(2).
    "GLIBC_2.4" plain unlinkat(dir: c_int, path: *const c_char, flags: c_int) -> c_int = unlinkat(dir, path, flags);
    /// link(2).
    "GLIBC_2.2.5" plain link(old: *const c_char, new: *const c_char) -> c_int = link(old, new);
    /// linkat(2).
    "GLIBC_2.4" plain linkat(
        old_dir: c_int, old: *const c_char, new_dir: c_int, new: *const c_char, flags: c_int,
    ) -> c_int = linkat(old_dir, old, new_dir, new, flags);
    /// symlink(2).
    "GLIBC_2.2.5" plain symlink(target: *const c_char, path: *const c_char) -> c_int = symlink(target, path);
    /// symlinkat(2).
    "GLIBC_2.4" plain symlinkat(target: *const c_char, dir: c_int, path: *const c_char) -> c_int
        = symlinkat(target, dir, path);
    /// readlink(2).
    "GLIBC_2.2.5" plain readlink(path: *const c_char, to: *mut c_char, len: usize) -> isize = readlink(path, to, len);
    /// readlinkat(2).
    "GLIBC_2.4" plain readlinkat(dir: c_int, path: *const c_char, to: *mut c_char, len: usize) -> isize
        = readlinkat(dir, path, to, len);
    /// chown(2).
    "GLIBC_2.2.5" plain chown(path: *const c_char, uid: uid_t, gid: gid_t) -> c_int = chown(path, uid, gid);
    /// fchown(2).
    "GLIBC_2.2.5" plain fchown(fd: c_int, uid: uid_t, gid: gid_t) -> c_int = fchown(fd, uid, gid);
    /// lchown(2).
    "GLIBC_2.2.5" plain lchown(path: *const c_char, uid: uid_t, gid: gid_t) -> c_int = lchown(path, uid, gid);
    /// fchownat(2).
    "GLIBC_2.4" plain fchownat(dir: c_int, path: *const c_char, uid: uid_t, gid: gid_t, flags: c_int) -> c_int
        = fchownat(dir, path, uid, gid, flags);
    /// getpid(2).
    "GLIBC_2.2.5" plain getpid() -> pid_t = getpid();
    /// getppid(2).
    "GLIBC_2.2.5" plain getppid() -> pid_t = getppid();
    /// getpgid(2).
    "GLIBC_2.2.5" plain getpgid(pid: pid_t) -> pid_t = getpgid(pid);
    /// setpgid(2).
    "GLIBC_2.2.5" plain setpgid(pid: pid_t, group: pid_t) -> c_int = setpgid(pid, group);
    /// getpgrp(2).
    "GLIBC_2.2.5" plain getpgrp() -> pid_t = getpgrp();
    /// getsid(2).
    "GLIBC_2.2.5" plain getsid(pid: pid_t) -> pid_t = getsid(pid);
    /// setsid(2).
    "GLIBC_2.2.5" plain setsid() -> pid_t = setsid();
    /// acct(2).
    "GLIBC_2.2.5" plain acct(path: *const c_char) -> c_int = acct(path);
    /// vhangup(2).
    "GLIBC_2.2.5" plain vhangup() -> c_int = vhangup();
    /// swapon(2).
    "GLIBC_2.2.5" plain swapon(path: *const c_char, flags: c_int) -> c_int = swapon(path, flags);
    /// swapoff(2).
    "GLIBC_2.2.5" plain swapoff(path: *const c_char) -> c_int = swapoff(path);
    /// sethostname(2).
    "GLIBC_2.2.5" plain sethostname(name: *const c_char, len: usize) -> c_int = sethostname(name, len);
    /// setdomainname(2).
    "GLIBC_2.2.5" plain setdomainname(name: *const c_char, len: usize) -> c_int = setdomainname(name, len);
    /// copy_file_range(2).
    "GLIBC_2.27" point copy_file_range(
        from: c_int, from_at: *mut i64, to: c_int, to_at: *mut i64, len: usize, flags: c_uint,
    ) -> isize = copy_file_range(from, from_at, to, to_at, len, flags);
}

abi! { MORE "libc.so.6":
    /// sync(2).
    "GLIBC_2.2.5" fn sync() {
        // SAFETY: takes nothing.
        let _ = unsafe { kcall!(sync) };
    }
    /// gettid(2): no system call is needed.
    "GLIBC_2.30" fn gettid() -> pid_t {
        crate::thread::tid()
    }
    /// setpgrp(2).
    "GLIBC_2.2.5" fn setpgrp() -> c_int {
        // SAFETY: numbers only.
        unsafe { setpgid(0, 0) }
    }
    /// faccessat(3): flags are the kernel's newer call's.
    "GLIBC_2.4" fn faccessat(dir: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int {
        // SAFETY: the program's path.
        errno::int(unsafe {
            if flags == 0 { kcall!(faccessat, dir, path, mode) } else { kcall!(faccessat2, dir, path, mode, flags) }
        })
    }
    /// euidaccess(3).
    "GLIBC_2.2.5" fn euidaccess(path: *const c_char, mode: c_int) -> c_int {
        // SAFETY: the program's path.
        unsafe { faccessat(AT_FDCWD, path, mode, AT_EACCESS) }
    }
    /// getcwd(3): allocates if `to` is null, of the path's size if `len` is 0 too.
    "GLIBC_2.2.5" fn getcwd(to: *mut c_char, len: usize) -> *mut c_char {
        // SAFETY: the program's buffer, or ours of the same length.
        unsafe {
            if !to.is_null() {
                if len == 0 {
                    errno::set(Errno::EINVAL);
                    return null_mut();
                }
                return errno::or_null(read_cwd(to, len));
            }
            let room = if len == 0 { PATH_MAX } else { len };
            let own: *mut c_char = malloc::malloc(room).cast();
            if own.is_null() {
                return null_mut();
            }
            match read_cwd(own, room) {
                Ok(path) if len == 0 => {
                    let used = CStr::from_ptr(path).to_bytes_with_nul().len();
                    let fitting: *mut c_char = malloc::realloc(path.cast(), used).cast();
                    if fitting.is_null() { path } else { fitting }
                }
                Ok(path) => path,
                Err(errno) => {
                    malloc::free(own.cast());
                    errno::set(errno);
                    null_mut()
                }
            }
        }
    }
    /// getwd(3).
    "GLIBC_2.2.5" fn getwd(to: *mut c_char) -> *mut c_char {
        // SAFETY: the program's buffer of PATH_MAX bytes.
        unsafe { getcwd(to, PATH_MAX) }
    }
    /// get_current_dir_name(3): $PWD if it names this directory.
    "GLIBC_2.2.5" fn get_current_dir_name() -> *mut c_char {
        // SAFETY: our own structures and strings.
        unsafe {
            let pwd = crate::env::get(b"PWD");
            if !pwd.is_null() && crate::stat::same_file(pwd, c".".as_ptr()) {
                return crate::string::strdup(pwd);
            }
            getcwd(null_mut(), 0)
        }
    }
    /// closefrom(3).
    "GLIBC_2.34" fn closefrom(first: c_int) {
        // SAFETY: numbers only.
        let _ = unsafe { kcall!(close_range, first.max(0), c_uint::MAX, 0) };
    }
    /// gethostname(2): ENAMETOOLONG if it does not fit, what fits is written.
    "GLIBC_2.2.5" fn gethostname(to: *mut c_char, len: usize) -> c_int {
        const NODENAME: usize = 65;
        // SAFETY: the program's buffer.
        unsafe { uname_field(to, len, NODENAME, true) }
    }
    /// getdomainname(2).
    "GLIBC_2.2.5" fn getdomainname(to: *mut c_char, len: usize) -> c_int {
        const DOMAINNAME: usize = 325;
        // SAFETY: the program's buffer.
        unsafe { uname_field(to, len, DOMAINNAME, false) }
    }
    /// gethostid(3): what /etc/hostid says; 0 without it (glibc would ask the resolver).
    "GLIBC_2.2.5" fn gethostid() -> c_long {
        let mut id = [0u8; 4];
        // SAFETY: our own path and buffer.
        unsafe {
            if let Ok(fd) = kcall!(openat, AT_FDCWD, c"/etc/hostid".as_ptr(), crate::fcntl::O_CLOEXEC, 0) {
                let got = kcall!(read, fd, id.as_mut_ptr(), 4);
                let _ = kcall!(close, fd);
                if got == Ok(4) {
                    return c_long::from(i32::from_ne_bytes(id));
                }
            }
        }
        0
    }
    /// nice(2): the new value; -1 is one, so errno tells.
    "GLIBC_2.2.5" fn nice(increment: c_int) -> c_int {
        // SAFETY: numbers only.
        unsafe {
            // The kernel answers 20 - nice.
            let result = kcall!(getpriority, 0, 0).and_then(|now| {
                let wanted = (20 - now as c_int).saturating_add(increment).clamp(-20, 19);
                kcall!(setpriority, 0, 0, wanted)?;
                kcall!(getpriority, 0, 0)
            });
            match result {
                Ok(now) => 20 - now as c_int,
                Err(errno) => {
                    errno::set(if errno == Errno::EACCES { Errno::EPERM } else { errno });
                    -1
                }
            }
        }
    }
    /// brk(2).
    "GLIBC_2.2.5" fn brk(end: *mut c_void) -> c_int {
        // SAFETY: the personality moves only the program's own break.
        match unsafe { kcall!(brk, end) } {
            Ok(now) if now >= end as usize => {
                BREAK.store(now, core::sync::atomic::Ordering::Relaxed);
                0
            }
            _ => {
                errno::set(Errno::ENOMEM);
                -1
            }
        }
    }
    /// sbrk(2).
    "GLIBC_2.2.5" fn sbrk(increment: isize) -> *mut c_void {
        use core::sync::atomic::Ordering::Relaxed;
        // SAFETY: as above.
        unsafe {
            if BREAK.load(Relaxed) == 0 {
                BREAK.store(kcall!(brk, 0).unwrap_or(0), Relaxed);
            }
            let before = BREAK.load(Relaxed);
            let wanted = before.checked_add_signed(increment);
            match wanted {
                Some(wanted) if increment == 0 || brk(wanted as *mut c_void) == 0 => before as *mut c_void,
                _ => {
                    errno::set(Errno::ENOMEM);
                    usize::MAX as *mut c_void
                }
            }
        }
    }
    /// daemon(3).
    "GLIBC_2.2.5" fn daemon(keep_directory: c_int, keep_streams: c_int) -> c_int {
        // SAFETY: forks as the program asks; our own paths.
        unsafe {
            match crate::process::fork() {
                -1 => return -1,
                0 => {}
                _ => crate::start::_exit(0),
            }
            if setsid() == -1 {
                return -1;
            }
            if keep_directory == 0 {
                let _ = kcall!(chdir, c"/".as_ptr());
            }
            if keep_streams == 0 {
                const O_RDWR: usize = 2;
                match kcall!(openat, AT_FDCWD, c"/dev/null".as_ptr(), O_RDWR, 0) {
                    Ok(fd) => {
                        for stream in 0..3 {
                            let _ = kcall!(dup2, fd, stream);
                        }
                        if fd > 2 {
                            let _ = kcall!(close, fd);
                        }
                    }
                    Err(errno) => {
                        errno::set(errno);
                        return -1;
                    }
                }
            }
        }
        0
    }
    /// read(2) under _FORTIFY_SOURCE.
    "GLIBC_2.4" fn __read_chk(fd: c_int, to: *mut c_void, len: usize, room: usize) -> isize {
        check(len, room);
        // SAFETY: forwarded.
        unsafe { read(fd, to, len) }
    }
    /// pread(2) under _FORTIFY_SOURCE.
    "GLIBC_2.4" fn __pread_chk(fd: c_int, to: *mut c_void, len: usize, at: off_t, room: usize) -> isize {
        check(len, room);
        // SAFETY: forwarded.
        unsafe { pread(fd, to, len, at) }
    }
    /// readlink(2) under _FORTIFY_SOURCE.
    "GLIBC_2.4" fn __readlink_chk(path: *const c_char, to: *mut c_char, len: usize, room: usize) -> isize {
        check(len, room);
        // SAFETY: forwarded.
        unsafe { readlink(path, to, len) }
    }
    /// readlinkat(2) under _FORTIFY_SOURCE.
    "GLIBC_2.5" fn __readlinkat_chk(dir: c_int, path: *const c_char, to: *mut c_char, len: usize, room: usize) -> isize {
        check(len, room);
        // SAFETY: forwarded.
        unsafe { readlinkat(dir, path, to, len) }
    }
    /// getcwd(3) under _FORTIFY_SOURCE.
    "GLIBC_2.4" fn __getcwd_chk(to: *mut c_char, len: usize, room: usize) -> *mut c_char {
        check(len, room);
        // SAFETY: forwarded.
        unsafe { getcwd(to, len) }
    }
    /// getwd(3) under _FORTIFY_SOURCE.
    "GLIBC_2.4" fn __getwd_chk(to: *mut c_char, room: usize) -> *mut c_char {
        // SAFETY: forwarded.
        unsafe { getcwd(to, room) }
    }
    /// gethostname(2) under _FORTIFY_SOURCE.
    "GLIBC_2.4" fn __gethostname_chk(to: *mut c_char, len: usize, room: usize) -> c_int {
        check(len, room);
        // SAFETY: forwarded.
        unsafe { gethostname(to, len) }
    }
    /// getdomainname(2) under _FORTIFY_SOURCE.
    "GLIBC_2.4" fn __getdomainname_chk(to: *mut c_char, len: usize, room: usize) -> c_int {
        check(len, room);
        // SAFETY: forwarded.
        unsafe { getdomainname(to, len) }
    }
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.2.5" "__read" = read;
    alias "GLIBC_2.2.5" "__write" = write;
    alias "GLIBC_2.2.5" "__close" = close;
    alias "GLIBC_2.2.5" "pread64" = pread;
    alias "GLIBC_2.2.5" "__pread64" = pread;
    alias "GLIBC_2.2.5" "pwrite64" = pwrite;
    alias "GLIBC_2.2.5" "__pwrite64" = pwrite;
    alias "GLIBC_2.4" "__pread64_chk" = __pread_chk;
    alias "GLIBC_2.2.5" "lseek64" = lseek;
    alias "GLIBC_2.2.5" "__lseek" = lseek;
    alias "GLIBC_2.2.5" "__dup2" = dup2;
    alias "GLIBC_2.2.5" "__pipe" = pipe;
    alias "GLIBC_2.2.5" "truncate64" = truncate;
    alias "GLIBC_2.2.5" "ftruncate64" = ftruncate;
    alias "GLIBC_2.4" "eaccess" = euidaccess;
    alias "GLIBC_2.2.5" "__getpid" = getpid;
    alias "GLIBC_2.2.5" "__getpgid" = getpgid;
    alias "GLIBC_2.2.5" "__setpgid" = setpgid;
    alias "GLIBC_2.2.5" "__sbrk" = sbrk;
    alias "GLIBC_2.2.5" "__bsd_getpgrp" = getpgid;
}

/// Where the program's break is, as we saw it last.
static BREAK: core::sync::atomic::AtomicUsize = core::sync::atomic::AtomicUsize::new(0);

/// Ends the program if a buffer is said to hold more than the compiler knows it does.
pub(crate) fn check(len: usize, room: usize) {
    if len > room {
        // SAFETY: ends the program.
        unsafe { crate::fortify::__chk_fail() };
    }
}

unsafe fn read_cwd(to: *mut c_char, len: usize) -> Result<*mut c_char, Errno> {
    // SAFETY: the caller's buffer.
    unsafe {
        kcall!(getcwd, to, len)?;
        // Outside of our root the kernel says "(unreachable)/...": POSIX wants an absolute path.
        if *to as u8 == b'/' { Ok(to) } else { Err(Errno::ENOENT) }
    }
}

unsafe fn uname_field(to: *mut c_char, len: usize, offset: usize, too_long: bool) -> c_int {
    let mut uname = [0u8; 390];
    // SAFETY: our own struct utsname, the caller's buffer.
    unsafe {
        if let Err(errno) = kcall!(uname, uname.as_mut_ptr()) {
            errno::set(errno);
            return -1;
        }
        let field = &uname[offset..offset + 65];
        let used = field.iter().position(|&b| b == 0).map_or(65, |end| end + 1);
        core::ptr::copy_nonoverlapping(field.as_ptr(), to.cast(), used.min(len));
        if used > len && too_long {
            errno::set(Errno::ENAMETOOLONG);
            return -1;
        }
    }
    0
}
