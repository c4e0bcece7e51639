//! posix_spawn(3), system(3): a child that changes a few things and executes a program.

use crate::env::ENVIRON;
use crate::errno;
use crate::kcall;
use crate::malloc::imp;
use crate::process;
use crate::signal::{self, SigSet};
use crate::types::*;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicUsize, Ordering};
use platform::Errno;

/// `posix_spawnattr_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Attr {
    flags: i16,
    group: pid_t,
    defaults: SigSet,
    mask: SigSet,
    priority: c_int,
    policy: c_int,
    reserved: [c_int; 16],
}

/// `posix_spawn_file_actions_t`.
#[repr(C)]
pub struct Actions {
    allocated: c_int,
    used: c_int,
    list: *mut Action,
    reserved: [c_int; 16],
}

#[derive(Clone, Copy)]
enum Action {
    Close(c_int),
    Dup2(c_int, c_int),
    /// The path is ours, freed with the list.
    Open(c_int, *mut c_char, c_int, mode_t),
    Chdir(*mut c_char),
    Fchdir(c_int),
    CloseFrom(c_int),
    SetForeground(c_int),
}

const _: () = assert!(size_of::<Attr>() == 336 && size_of::<Actions>() == 80);

const RESETIDS: i16 = 1;
const SETPGROUP: i16 = 2;
const SETSIGDEF: i16 = 4;
const SETSIGMASK: i16 = 8;
const SETSCHEDPARAM: i16 = 0x10;
const SETSCHEDULER: i16 = 0x20;
const USEVFORK: i16 = 0x40;
const SETSID: i16 = 0x80;
const ALL_FLAGS: i16 = 0xff;

unsafe fn add(actions: *mut Actions, action: Action) -> c_int {
    // SAFETY: the program's list, whose memory is ours.
    unsafe {
        if (*actions).used == (*actions).allocated {
            let room = (*actions).allocated as usize + 8;
            let grown = imp::realloc((*actions).list.cast(), room * size_of::<Action>());
            if grown.is_null() {
                return Errno::ENOMEM.0;
            }
            (*actions).list = grown.cast();
            (*actions).allocated = room as c_int;
        }
        (*actions).list.add((*actions).used as usize).write(action);
        (*actions).used += 1;
    }
    0
}

unsafe fn keep(path: *const c_char) -> *mut c_char {
    // SAFETY: the program's string; a block of its length.
    unsafe {
        let bytes = core::ffi::CStr::from_ptr(path).to_bytes_with_nul();
        let copy: *mut c_char = imp::malloc(bytes.len()).cast();
        if !copy.is_null() {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), copy.cast(), bytes.len());
        }
        copy
    }
}

/// Descriptors must be possible ones: EBADF otherwise.
fn is_fd(fd: c_int) -> bool {
    // SAFETY: numbers only.
    fd >= 0 && i64::from(fd) < unsafe { crate::sysinfo::sysconf(4) }
}

abi! { EXPORTS "libc.so.6":
    /// posix_spawn(3).
    "GLIBC_2.15" fn posix_spawn(
        pid: *mut pid_t, path: *const c_char, actions: *const Actions, attr: *const Attr,
        argv: *const *const c_char, envp: *const *const c_char,
    ) -> c_int {
        // SAFETY: the program's arguments.
        unsafe { spawn(pid, path, actions, attr, argv, envp, false) }
    }
    /// posix_spawnp(3).
    "GLIBC_2.15" fn posix_spawnp(
        pid: *mut pid_t, file: *const c_char, actions: *const Actions, attr: *const Attr,
        argv: *const *const c_char, envp: *const *const c_char,
    ) -> c_int {
        // SAFETY: the program's arguments.
        unsafe { spawn(pid, file, actions, attr, argv, envp, true) }
    }
    /// posix_spawn_file_actions_init(3).
    "GLIBC_2.2.5" fn posix_spawn_file_actions_init(actions: *mut Actions) -> c_int {
        // SAFETY: the program's memory; so below.
        unsafe { actions.write(Actions { allocated: 0, used: 0, list: null_mut(), reserved: [0; 16] }) };
        0
    }
    /// posix_spawn_file_actions_destroy(3).
    "GLIBC_2.2.5" fn posix_spawn_file_actions_destroy(actions: *mut Actions) -> c_int {
        // SAFETY: as above.
        unsafe {
            for at in 0..(*actions).used as usize {
                if let Action::Open(_, path, _, _) | Action::Chdir(path) = *(*actions).list.add(at) {
                    imp::free(path.cast());
                }
            }
            imp::free((*actions).list.cast());
        }
        0
    }
    /// posix_spawn_file_actions_addclose(3).
    "GLIBC_2.2.5" fn posix_spawn_file_actions_addclose(actions: *mut Actions, fd: c_int) -> c_int {
        // SAFETY: as above.
        if is_fd(fd) { unsafe { add(actions, Action::Close(fd)) } } else { Errno::EBADF.0 }
    }
    /// posix_spawn_file_actions_adddup2(3).
    "GLIBC_2.2.5" fn posix_spawn_file_actions_adddup2(actions: *mut Actions, old: c_int, new: c_int) -> c_int {
        // SAFETY: as above.
        if is_fd(old) && is_fd(new) { unsafe { add(actions, Action::Dup2(old, new)) } } else { Errno::EBADF.0 }
    }
    /// posix_spawn_file_actions_addopen(3).
    "GLIBC_2.2.5" fn posix_spawn_file_actions_addopen(
        actions: *mut Actions, fd: c_int, path: *const c_char, flags: c_int, mode: mode_t,
    ) -> c_int {
        if !is_fd(fd) {
            return Errno::EBADF.0;
        }
        // SAFETY: as above.
        unsafe {
            let copy = keep(path);
            if copy.is_null() { Errno::ENOMEM.0 } else { add(actions, Action::Open(fd, copy, flags, mode)) }
        }
    }
    /// posix_spawn_file_actions_addchdir_np(3).
    "GLIBC_2.29" fn posix_spawn_file_actions_addchdir_np(actions: *mut Actions, path: *const c_char) -> c_int {
        // SAFETY: as above.
        unsafe {
            let copy = keep(path);
            if copy.is_null() { Errno::ENOMEM.0 } else { add(actions, Action::Chdir(copy)) }
        }
    }
    /// posix_spawn_file_actions_addfchdir_np(3).
    "GLIBC_2.29" fn posix_spawn_file_actions_addfchdir_np(actions: *mut Actions, fd: c_int) -> c_int {
        // SAFETY: as above.
        if is_fd(fd) { unsafe { add(actions, Action::Fchdir(fd)) } } else { Errno::EBADF.0 }
    }
    /// posix_spawn_file_actions_addclosefrom_np(3).
    "GLIBC_2.34" fn posix_spawn_file_actions_addclosefrom_np(actions: *mut Actions, first: c_int) -> c_int {
        // SAFETY: as above.
        if is_fd(first) { unsafe { add(actions, Action::CloseFrom(first)) } } else { Errno::EBADF.0 }
    }
    /// posix_spawn_file_actions_addtcsetpgrp_np(3).
    "GLIBC_2.35" fn posix_spawn_file_actions_addtcsetpgrp_np(actions: *mut Actions, fd: c_int) -> c_int {
        // SAFETY: as above.
        if is_fd(fd) { unsafe { add(actions, Action::SetForeground(fd)) } } else { Errno::EBADF.0 }
    }
    /// posix_spawnattr_init(3).
    "GLIBC_2.2.5" fn posix_spawnattr_init(attr: *mut Attr) -> c_int {
        // SAFETY: as above.
        unsafe { attr.cast::<u8>().write_bytes(0, size_of::<Attr>()) };
        0
    }
    /// posix_spawnattr_destroy(3).
    "GLIBC_2.2.5" fn posix_spawnattr_destroy(_attr: *mut Attr) -> c_int {
        0
    }
    /// posix_spawnattr_setflags(3).
    "GLIBC_2.2.5" fn posix_spawnattr_setflags(attr: *mut Attr, flags: i16) -> c_int {
        if flags & !ALL_FLAGS != 0 {
            return Errno::EINVAL.0;
        }
        // SAFETY: as above.
        unsafe { (*attr).flags = flags };
        0
    }
    /// posix_spawnattr_getflags(3).
    "GLIBC_2.2.5" fn posix_spawnattr_getflags(attr: *const Attr, flags: *mut i16) -> c_int {
        // SAFETY: as above.
        unsafe { flags.write((*attr).flags) };
        0
    }
    /// posix_spawnattr_setpgroup(3).
    "GLIBC_2.2.5" fn posix_spawnattr_setpgroup(attr: *mut Attr, group: pid_t) -> c_int {
        // SAFETY: as above.
        unsafe { (*attr).group = group };
        0
    }
    /// posix_spawnattr_getpgroup(3).
    "GLIBC_2.2.5" fn posix_spawnattr_getpgroup(attr: *const Attr, group: *mut pid_t) -> c_int {
        // SAFETY: as above.
        unsafe { group.write((*attr).group) };
        0
    }
    /// posix_spawnattr_setsigmask(3).
    "GLIBC_2.2.5" fn posix_spawnattr_setsigmask(attr: *mut Attr, set: *const SigSet) -> c_int {
        // SAFETY: as above.
        unsafe { (*attr).mask = *set };
        0
    }
    /// posix_spawnattr_getsigmask(3).
    "GLIBC_2.2.5" fn posix_spawnattr_getsigmask(attr: *const Attr, set: *mut SigSet) -> c_int {
        // SAFETY: as above.
        unsafe { set.write((*attr).mask) };
        0
    }
    /// posix_spawnattr_setsigdefault(3).
    "GLIBC_2.2.5" fn posix_spawnattr_setsigdefault(attr: *mut Attr, set: *const SigSet) -> c_int {
        // SAFETY: as above.
        unsafe { (*attr).defaults = *set };
        0
    }
    /// posix_spawnattr_getsigdefault(3).
    "GLIBC_2.2.5" fn posix_spawnattr_getsigdefault(attr: *const Attr, set: *mut SigSet) -> c_int {
        // SAFETY: as above.
        unsafe { set.write((*attr).defaults) };
        0
    }
    /// posix_spawnattr_setschedpolicy(3).
    "GLIBC_2.2.5" fn posix_spawnattr_setschedpolicy(attr: *mut Attr, policy: c_int) -> c_int {
        if !(0..=2).contains(&policy) {
            return Errno::EINVAL.0;
        }
        // SAFETY: as above.
        unsafe { (*attr).policy = policy };
        0
    }
    /// posix_spawnattr_getschedpolicy(3).
    "GLIBC_2.2.5" fn posix_spawnattr_getschedpolicy(attr: *const Attr, policy: *mut c_int) -> c_int {
        // SAFETY: as above.
        unsafe { policy.write((*attr).policy) };
        0
    }
    /// posix_spawnattr_setschedparam(3).
    "GLIBC_2.2.5" fn posix_spawnattr_setschedparam(attr: *mut Attr, param: *const c_int) -> c_int {
        // SAFETY: as above.
        unsafe { (*attr).priority = *param };
        0
    }
    /// posix_spawnattr_getschedparam(3).
    "GLIBC_2.2.5" fn posix_spawnattr_getschedparam(attr: *const Attr, param: *mut c_int) -> c_int {
        // SAFETY: as above.
        unsafe { param.write((*attr).priority) };
        0
    }
    /// system(3).
    "GLIBC_2.2.5" fn system(command: *const c_char) -> c_int {
        // SAFETY: the program's string.
        unsafe {
            if command.is_null() {
                return c_int::from(run_shell(c"exit 0".as_ptr()) == 0);
            }
            run_shell(command)
        }
    }
}

/// What the child needs, and its answer. It runs in our memory while we wait (clone(2) with CLONE_VM and
/// CLONE_VFORK): however large the program is, nothing is copied, and an error is just stored.
struct Job {
    path: *const c_char,
    actions: *const Actions,
    attr: *const Attr,
    argv: *const *const c_char,
    envp: *const *const c_char,
    search: bool,
    /// The caller's signal mask.
    mask: u64,
    failed: Errno,
}

unsafe extern "C" fn child_main(job: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its own job and waits.
    unsafe {
        let job = &mut *job.cast::<Job>();
        job.failed = run_child(job).err().unwrap_or(Errno::EINVAL);
        crate::start::_exit(127)
    }
}

unsafe fn spawn(
    pid: *mut pid_t,
    path: *const c_char,
    actions: *const Actions,
    attr: *const Attr,
    argv: *const *const c_char,
    envp: *const *const c_char,
    search: bool,
) -> c_int {
    type Clone = unsafe extern "C" fn(
        unsafe extern "C" fn(*mut c_void) -> c_int,
        *mut c_void,
        c_int,
        *mut c_void,
        *mut c_int,
        *mut c_void,
        *mut c_int,
    ) -> c_int;
    /// `CLONE_VM | CLONE_VFORK | SIGCHLD`
    const FLAGS: c_int = 0x100 | 0x4000 | 17;
    // SAFETY: the program's arguments; the child runs only our own code, on a stack of its own, until it
    // executes. All signals are blocked: no handler may run in it.
    unsafe {
        let stack = match ChildStack::take() {
            Ok(stack) => stack,
            Err(errno) => return errno.0,
        };
        let mask = signal::block_all();
        let mut job = Job { path, actions, attr, argv, envp, search, mask, failed: Errno(0) };
        let clone: Clone = core::mem::transmute(process::clone as *const ());
        let top = (stack.0 + STACK) as *mut c_void;
        let child = clone(child_main, top, FLAGS, (&raw mut job).cast(), null_mut(), null_mut(), null_mut());
        signal::restore(mask);
        stack.give();
        if child < 0 {
            return errno::get().0;
        }
        // Written by the child, behind the compiler's back.
        let failed = (&raw const job.failed).read_volatile();
        if failed.0 != 0 {
            let mut status = 0;
            while kcall!(wait4, child, &raw mut status, 0, 0) == Err(Errno::EINTR) {}
            return failed.0;
        }
        if !pid.is_null() {
            pid.write(child);
        }
        0
    }
}

/// Bytes of the child's stack.
const STACK: usize = 64 * 1024 + crate::pthread::stack::HEADROOM;

/// A stack for the child: its lowest address. The last one is kept for the next child.
struct ChildStack(usize);

static KEPT: AtomicUsize = AtomicUsize::new(0);

impl ChildStack {
    fn take() -> Result<ChildStack, Errno> {
        const READ_WRITE: usize = 3;
        /// `MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK`
        const FLAGS: usize = 0x2 | 0x20 | 0x4000 | 0x2_0000;
        match KEPT.swap(0, Ordering::Acquire) {
            // SAFETY: fresh memory.
            0 => unsafe { kcall!(mmap, 0, STACK, READ_WRITE, FLAGS, -1isize, 0) }.map(ChildStack),
            kept => Ok(ChildStack(kept)),
        }
    }

    fn give(self) {
        let before = KEPT.swap(self.0, Ordering::Release);
        if before != 0 {
            // SAFETY: a stack that nobody runs on.
            let _ = unsafe { kcall!(munmap, before, STACK) };
        }
    }
}

/// The child's part; it comes back only with an error.
unsafe fn run_child(job: &Job) -> Result<(), Errno> {
    // SAFETY: the caller's arguments.
    unsafe {
        let attr = job.attr.as_ref();
        let flags = attr.map_or(0, |a| a.flags) & !USEVFORK;
        signal::prepare_exec(attr.filter(|_| flags & SETSIGDEF != 0).map_or(0, |a| a.defaults.words[0]));
        if let Some(attr) = attr {
            if flags & SETSCHEDULER != 0 {
                kcall!(sched_setscheduler, 0, attr.policy, &raw const attr.priority)?;
            } else if flags & SETSCHEDPARAM != 0 {
                kcall!(sched_setparam, 0, &raw const attr.priority)?;
            }
            if flags & SETSID != 0 {
                kcall!(setsid)?;
            }
            if flags & SETPGROUP != 0 {
                kcall!(setpgid, 0, attr.group)?;
            }
            if flags & RESETIDS != 0 {
                kcall!(setgid, kcall!(getgid)?)?;
                kcall!(setuid, kcall!(getuid)?)?;
            }
        }
        if let Some(actions) = job.actions.as_ref() {
            for at in 0..actions.used as usize {
                run_action(*actions.list.add(at))?;
            }
        }
        let mask = attr.filter(|_| flags & SETSIGMASK != 0).map_or(job.mask, |a| a.mask.words[0]);
        signal::restore(mask);
        if job.search {
            return Err(process::exec_in_path(job.path, job.argv, job.envp));
        }
        kcall!(execve, job.path, job.argv, job.envp).map(drop)
    }
}

unsafe fn run_action(action: Action) -> Result<(), Errno> {
    const F_GETFD: usize = 1;
    const F_SETFD: usize = 2;
    const AT_FDCWD: isize = -100;
    const TIOCSPGRP: usize = 0x5410;
    // SAFETY: paths of the list; numbers.
    unsafe {
        match action {
            // A descriptor that is not open is no error (glibc).
            Action::Close(fd) => {
                let _ = kcall!(close, fd);
            }
            // Onto itself: only the close-on-exec flag goes (POSIX 2018).
            Action::Dup2(old, new) if old == new => {
                let flags = kcall!(fcntl, old, F_GETFD, 0)?;
                kcall!(fcntl, old, F_SETFD, flags & !1)?;
            }
            Action::Dup2(old, new) => drop(kcall!(dup2, old, new)?),
            Action::Open(fd, path, flags, mode) => {
                let _ = kcall!(close, fd);
                let opened = kcall!(openat, AT_FDCWD, path, flags, mode)? as c_int;
                if opened != fd {
                    kcall!(dup2, opened, fd)?;
                    kcall!(close, opened)?;
                }
            }
            Action::Chdir(path) => drop(kcall!(chdir, path)?),
            Action::Fchdir(fd) => drop(kcall!(fchdir, fd)?),
            Action::CloseFrom(first) => drop(kcall!(close_range, first, u32::MAX, 0)?),
            Action::SetForeground(fd) => {
                let group = kcall!(getpgrp)? as pid_t;
                kcall!(ioctl, fd, TIOCSPGRP, &raw const group)?;
            }
        }
    }
    Ok(())
}

/// system(3): SIGINT and SIGQUIT are ignored and SIGCHLD blocked while the shell runs.
unsafe fn run_shell(command: *const c_char) -> c_int {
    const SIGINT: c_int = 2;
    const SIGQUIT: c_int = 3;
    const SIGCHLD: u64 = 1 << 16;
    let argv = [c"sh".as_ptr(), c"-c".as_ptr(), command, core::ptr::null()];
    // SAFETY: our own structures, the program's command.
    unsafe {
        let guard = signal::Ignored::new([SIGINT, SIGQUIT], SIGCHLD);
        let mut attr: Attr = core::mem::zeroed();
        attr.flags = SETSIGDEF | SETSIGMASK;
        attr.mask.words[0] = guard.mask();
        attr.defaults.words[0] = guard.to_default();
        let mut pid = 0;
        let envp = ENVIRON.load().cast_const().cast();
        let failed = spawn(
            &raw mut pid,
            c"/bin/sh".as_ptr(),
            core::ptr::null(),
            &raw const attr,
            argv.as_ptr(),
            envp,
            false,
        );
        let mut status = 127 << 8;
        if failed == 0 {
            loop {
                match crate::pthread::cancel::interruptible(
                    platform::sys::number::wait4 as usize,
                    [pid as usize, &raw mut status as usize, 0, 0, 0, 0],
                ) {
                    Err(Errno::EINTR) if crate::pthread::cancel::is_pending() => {
                        // A cancelled caller does not leave the shell behind.
                        let _ = kcall!(kill, pid, 9);
                        let _ = kcall!(wait4, pid, &raw mut status, 0, 0);
                        break;
                    }
                    Err(Errno::EINTR) => {}
                    Err(_) => {
                        status = -1;
                        break;
                    }
                    Ok(_) => break,
                }
            }
        }
        drop(guard);
        crate::pthread::cancel::test();
        if failed != 0 {
            errno::set(Errno(failed));
        }
        status
    }
}

/// A shell that runs `command` with descriptor `from` as its `to`, and `closed` closed: popen(3).
pub(crate) unsafe fn shell(
    command: *const c_char,
    from: c_int,
    to: c_int,
    closed: &[c_int],
) -> Result<pid_t, Errno> {
    let argv = [c"sh".as_ptr(), c"-c".as_ptr(), command, core::ptr::null()];
    // SAFETY: our own structures, the program's command.
    unsafe {
        let mut actions = Actions { allocated: 0, used: 0, list: null_mut(), reserved: [0; 16] };
        let steps = closed.iter().map(|&fd| Action::Close(fd)).chain([Action::Dup2(from, to)]);
        let added =
            steps.fold(0, |failed, step| if failed == 0 { add(&raw mut actions, step) } else { failed });
        let mut pid = 0;
        let envp = ENVIRON.load().cast_const().cast();
        let failed = if added != 0 {
            added
        } else {
            let (attr, path) = (core::ptr::null(), c"/bin/sh".as_ptr());
            spawn(&raw mut pid, path, &raw const actions, attr, argv.as_ptr(), envp, false)
        };
        posix_spawn_file_actions_destroy(&raw mut actions);
        if failed == 0 { Ok(pid) } else { Err(Errno(failed)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spawns_with_actions_and_reports_errors() {
        // SAFETY: our own children.
        unsafe {
            let mut actions: Actions = core::mem::zeroed();
            posix_spawn_file_actions_init(&raw mut actions);
            let mut ends = [0; 2];
            assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
            posix_spawn_file_actions_adddup2(&raw mut actions, ends[1], 1);
            posix_spawn_file_actions_addopen(&raw mut actions, 0, c"/dev/null".as_ptr(), 0, 0);
            let argv = [c"sh".as_ptr(), c"-c".as_ptr(), c"cat; echo hello $X".as_ptr(), core::ptr::null()];
            let envp = [c"X=there".as_ptr(), c"PATH=/bin:/usr/bin".as_ptr(), core::ptr::null()];
            let mut pid = 0;
            let answer = posix_spawn(
                &raw mut pid,
                c"/bin/sh".as_ptr(),
                &raw const actions,
                core::ptr::null(),
                argv.as_ptr(),
                envp.as_ptr(),
            );
            assert_eq!(answer, 0);
            libc::close(ends[1]);
            let mut text = [0u8; 64];
            assert_eq!(libc::read(ends[0], text.as_mut_ptr().cast(), 64), 12);
            assert_eq!(&text[..12], b"hello there\n");
            libc::close(ends[0]);
            let mut status = 1;
            assert_eq!(process::waitpid(pid, &raw mut status, 0), pid);
            assert_eq!(status, 0);
            posix_spawn_file_actions_destroy(&raw mut actions);
            let answer = posix_spawn(
                &raw mut pid,
                c"/no/such".as_ptr(),
                core::ptr::null(),
                core::ptr::null(),
                argv.as_ptr(),
                envp.as_ptr(),
            );
            assert_eq!(answer, Errno::ENOENT.0);
        }
    }

    #[test]
    fn system_answers_the_status() {
        // SAFETY: our own commands.
        unsafe {
            assert_eq!(system(c"exit 3".as_ptr()), 3 << 8);
            assert_eq!(system(c"kill -9 $$".as_ptr()), 9);
            assert_eq!(system(core::ptr::null()), 1);
        }
    }
}
