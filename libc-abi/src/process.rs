//! Processes: fork(2), exec(3), wait(2).
//!
//! vfork(2) takes no locks and runs no handlers: the child borrows the parent's thread and memory until it
//! executes a program or ends. The personality then returns from the program's call once more.

use crate::env::ENVIRON;
use crate::errno;
use crate::kcall;
use crate::point;
use crate::pthread::atfork;
use crate::types::*;
use crate::va::VaList;
use crate::variadic;
use crate::wrappers;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ptr::null;
use platform::Errno;

const SIGCHLD: usize = 17;
const CLONE_CHILD_SETTID: usize = 0x0100_0000;
const CLONE_CHILD_CLEARTID: usize = 0x0020_0000;

/// A new process; `atfork` handlers are the caller's business.
unsafe fn clone_process(flags: usize) -> Result<usize, Errno> {
    // SAFETY: without CLONE_VM the child has a copy of everything, this stack too.
    unsafe {
        let tid = &raw mut (*crate::thread::current()).tid;
        kcall!(clone, flags | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID, 0, 0, tid, 0)
    }
}

/// fork with handlers and locks around it, or with the locks alone.
unsafe fn fork_with(handlers: bool, flags: usize) -> Result<usize, Errno> {
    let taken = atfork::prepare(handlers);
    // SAFETY: forwarded.
    let result = unsafe { clone_process(flags) };
    match result {
        Ok(0) => atfork::child(taken),
        _ => atfork::parent(taken),
    }
    result
}

abi! { EXPORTS "libc.so.6":
    /// fork(2).
    "GLIBC_2.2.5" fn fork() -> pid_t {
        // SAFETY: as the program asks.
        errno::int(unsafe { fork_with(true, SIGCHLD) })
    }
    /// _Fork(3): without handlers, async-signal-safe.
    "GLIBC_2.34" fn _Fork() -> pid_t {
        // SAFETY: as the program asks.
        let result = unsafe { clone_process(SIGCHLD) };
        if result == Ok(0) {
            atfork::child_of_signal_handler();
        }
        errno::int(result)
    }
    /// execve(2).
    "GLIBC_2.2.5" fn execve(path: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int {
        // SAFETY: the program's strings.
        errno::int(unsafe { kcall!(execve, path, argv, envp) })
    }
    /// execv(3).
    "GLIBC_2.2.5" fn execv(path: *const c_char, argv: *const *const c_char) -> c_int {
        // SAFETY: the program's strings; so below.
        unsafe { execve(path, argv, ENVIRON.load().cast()) }
    }
    /// execvp(3).
    "GLIBC_2.2.5" fn execvp(file: *const c_char, argv: *const *const c_char) -> c_int {
        // SAFETY: as above.
        unsafe { errno::int(Err(exec_in_path(file, argv, ENVIRON.load().cast()))) }
    }
    /// execvpe(3).
    "GLIBC_2.11" fn execvpe(file: *const c_char, argv: *const *const c_char, envp: *const *const c_char) -> c_int {
        // SAFETY: as above.
        unsafe { errno::int(Err(exec_in_path(file, argv, envp))) }
    }
    /// fexecve(3).
    "GLIBC_2.2.5" fn fexecve(fd: c_int, argv: *const *const c_char, envp: *const *const c_char) -> c_int {
        const AT_EMPTY_PATH: usize = 0x1000;
        if fd < 0 || argv.is_null() || envp.is_null() {
            return errno::int(Err(Errno::EINVAL));
        }
        // SAFETY: as above.
        errno::int(unsafe { kcall!(execveat, fd, c"".as_ptr(), argv, envp, AT_EMPTY_PATH) })
    }
    /// execveat(2).
    "GLIBC_2.34" fn execveat(
        dir: c_int, path: *const c_char, argv: *const *const c_char, envp: *const *const c_char, flags: c_int,
    ) -> c_int {
        // SAFETY: as above.
        errno::int(unsafe { kcall!(execveat, dir, path, argv, envp, flags) })
    }
    /// wait(2).
    "GLIBC_2.2.5" fn wait(status: *mut c_int) -> pid_t {
        // SAFETY: the program's word.
        errno::int(unsafe { point!(wait4, -1isize, status, 0, 0) })
    }
}

wrappers! { MORE "libc.so.6":
    /// waitpid(2).
    "GLIBC_2.2.5" point waitpid(pid: pid_t, status: *mut c_int, options: c_int) -> pid_t = wait4(pid, status, options, 0);
    /// wait3(2).
    "GLIBC_2.2.5" point wait3(status: *mut c_int, options: c_int, usage: *mut c_void) -> pid_t
        = wait4(-1isize, status, options, usage);
    /// wait4(2).
    "GLIBC_2.2.5" point wait4(pid: pid_t, status: *mut c_int, options: c_int, usage: *mut c_void) -> pid_t
        = wait4(pid, status, options, usage);
    /// waitid(2).
    "GLIBC_2.2.5" point waitid(kind: c_int, id: c_uint, info: *mut c_void, options: c_int) -> c_int
        = waitid(kind, id, info, options, 0);
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.2.5" "__fork" = fork;
    alias "GLIBC_2.2.5" "vfork" = vfork;
    alias "GLIBC_2.2.5" "__vfork" = vfork;
    alias "GLIBC_2.2.5" "__waitpid" = waitpid;
    alias "GLIBC_2.2.5" "__wait" = wait;
    alias "GLIBC_2.2.5" "execl" = execl;
    alias "GLIBC_2.2.5" "execlp" = execlp;
    alias "GLIBC_2.2.5" "execle" = execle;
    alias "GLIBC_2.2.5" "clone" = clone;
    alias "GLIBC_2.2.5" "__clone" = clone;
}

variadic! {
    /// execl(3).
    fn execl(1 fixed) = vexecl;
    /// execlp(3).
    fn execlp(1 fixed) = vexeclp;
    /// execle(3).
    fn execle(1 fixed) = vexecle;
}

unsafe extern "C" fn vexecl(path: *const c_char, list: *mut VaList) -> c_int {
    // SAFETY: the program's arguments end with a null pointer; so below.
    unsafe { execve(path, collect(&mut *list).as_ptr(), ENVIRON.load().cast()) }
}

unsafe extern "C" fn vexeclp(file: *const c_char, list: *mut VaList) -> c_int {
    // SAFETY: as above.
    unsafe { errno::int(Err(exec_in_path(file, collect(&mut *list).as_ptr(), ENVIRON.load().cast()))) }
}

unsafe extern "C" fn vexecle(path: *const c_char, list: *mut VaList) -> c_int {
    // SAFETY: as above; the environment follows the null pointer.
    unsafe {
        let argv = collect(&mut *list);
        let envp: *mut *const c_char = (*list).ptr();
        execve(path, argv.as_ptr(), envp)
    }
}

unsafe fn collect(list: &mut VaList) -> Vec<*const c_char> {
    let mut argv = Vec::new();
    loop {
        // SAFETY: the caller's list.
        let next: *mut c_char = unsafe { list.ptr() };
        argv.push(next.cast_const());
        if next.is_null() {
            return argv;
        }
    }
}

/// execvpe's search. A name with a slash is not searched for; a file without a known format is a
/// shell script (POSIX); EACCES is remembered while other folders are tried.
pub(crate) unsafe fn exec_in_path(
    file: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
) -> Errno {
    // SAFETY: the caller's strings.
    unsafe {
        let name = CStr::from_ptr(file).to_bytes();
        if name.is_empty() {
            return Errno::ENOENT;
        }
        if name.contains(&b'/') {
            return exec_or_shell(file, argv, envp);
        }
        let path = crate::env::get(b"PATH");
        let path = if path.is_null() { b"/bin:/usr/bin" } else { CStr::from_ptr(path).to_bytes() };
        let mut denied = false;
        // Not allocated: a vforked child leaves behind what it takes from our heap.
        let mut full = [0u8; 4096];
        for folder in path.split(|&b| b == b':') {
            let slash: &[u8] = if folder.is_empty() { b"" } else { b"/" };
            let len = folder.len() + slash.len() + name.len();
            if len >= full.len() {
                continue;
            }
            let mut at = 0;
            for part in [folder, slash, name, b"\0"] {
                full[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
            match exec_or_shell(full.as_ptr().cast(), argv, envp) {
                Errno::EACCES => denied = true,
                Errno::ENOENT | Errno::ESTALE | Errno::ENOTDIR | Errno::ENODEV | Errno::ETIMEDOUT => {}
                errno => return errno,
            }
        }
        if denied { Errno::EACCES } else { Errno::ENOENT }
    }
}

unsafe fn exec_or_shell(
    path: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
) -> Errno {
    // SAFETY: the caller's strings.
    unsafe {
        let Err(errno) = kcall!(execve, path, argv, envp) else { return Errno(0) };
        if errno != Errno::ENOEXEC {
            return errno;
        }
        let mut shell = alloc::vec![c"/bin/sh".as_ptr(), path];
        let mut at = 0;
        while !argv.is_null() && !(*argv.add(at)).is_null() {
            at += 1;
            shell.push(*argv.add(at));
        }
        if shell.last().is_none_or(|last| !last.is_null()) {
            shell.push(null());
        }
        kcall!(execve, c"/bin/sh".as_ptr(), shell.as_ptr(), envp).err().unwrap_or(Errno(0))
    }
}

/// vfork(2). No frame of ours may stay on the stack: the child writes over it.
#[cfg(not(test))]
#[unsafe(naked)]
pub unsafe extern "C" fn vfork() -> pid_t {
    core::arch::naked_asm!("lea rdi, [rip + {fail}]", "jmp {door}", fail = sym fail, door = sym syscalls::fork::vfork_door)
}

/// For this crate's tests on the host: a copy, whose parent waits.
#[cfg(test)]
pub unsafe extern "C" fn vfork() -> pid_t {
    const CLONE_VFORK: usize = 0x4000;
    // SAFETY: as the program asks.
    errno::int(unsafe { fork_with(false, SIGCHLD | CLONE_VFORK) })
}

/// clone(2), C's form: `clone(fn, stack, flags, arg, ptid, tls, ctid)`. The child starts on another
/// stack, so the instruction itself is issued: the personality continues the child behind it.
#[unsafe(naked)]
pub unsafe extern "C" fn clone() {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "test rdi, rdi",
        "je 3f",
        "and rsi, -16",
        "je 3f",
        "sub rsi, 16",
        "mov [rsi], rdi",
        "mov [rsi + 8], rcx",
        "mov rdi, rdx",       // flags
        "mov rdx, r8",        // parent's tid
        "mov r8, r9",         // tls
        "mov r10, [rsp + 8]", // child's tid
        "mov eax, 56",
        "syscall",
        "test rax, rax",
        "jl 4f",
        "je 2f",
        "ret",
        "2:",
        ".cfi_undefined rip",
        "xor ebp, ebp",
        "pop rax",
        "pop rdi",
        "call rax",
        "mov edi, eax",
        "mov eax, 60",
        "syscall",
        "ud2",
        "3: mov rax, -22", // EINVAL
        "4: mov rdi, rax",
        "jmp {fail}",
        ".cfi_endproc",
        fail = sym fail,
    )
}

unsafe extern "C" fn fail(raw: isize) -> c_int {
    errno::int(Errno::from_raw(raw))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::null_mut;

    #[test]
    fn children_report_their_status() {
        // SAFETY: the child only ends, or executes another program.
        unsafe {
            let argv = [c"sh".as_ptr(), c"-c".as_ptr(), c"exit 7".as_ptr(), null()];
            let pid = vfork();
            if pid == 0 {
                exec_in_path(c"sh".as_ptr(), argv.as_ptr(), [null()].as_ptr());
                crate::start::_exit(99);
            }
            let mut status = 0;
            assert_eq!(waitpid(pid, &raw mut status, 0), pid);
            assert_eq!(status, 7 << 8);
            assert_eq!(waitpid(pid, &raw mut status, 0), -1);
            assert_eq!(errno::get(), Errno::ECHILD);
        }
    }

    #[test]
    fn clone_runs_a_function_on_another_stack() {
        static SEEN: core::sync::atomic::AtomicUsize = core::sync::atomic::AtomicUsize::new(0);
        unsafe extern "C" fn child(argument: *mut c_void) -> c_int {
            SEEN.store(argument as usize, core::sync::atomic::Ordering::SeqCst);
            21
        }
        type Clone = unsafe extern "C" fn(
            unsafe extern "C" fn(*mut c_void) -> c_int,
            *mut c_void,
            c_int,
            *mut c_void,
            *mut c_int,
            *mut c_void,
            *mut c_int,
        ) -> c_int;
        let mut stack = alloc::vec![0u8; 64 << 10];
        // SAFETY: the child shares memory (CLONE_VM, CLONE_VFORK) and only stores a number.
        unsafe {
            let call: Clone = core::mem::transmute(clone as *const ());
            let top = stack.as_mut_ptr().add(stack.len()).cast();
            let flags = 0x100 | 0x4000 | 17;
            let pid = call(child, top, flags, 5 as *mut c_void, null_mut(), null_mut(), null_mut());
            assert!(pid > 0);
            let mut status = 0;
            assert_eq!(waitpid(pid, &raw mut status, 0), pid);
            assert_eq!((status, SEEN.load(core::sync::atomic::Ordering::SeqCst)), (21 << 8, 5));
        }
    }
}
