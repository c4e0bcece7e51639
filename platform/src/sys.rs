//! The `syscall` instruction, and nothing else: arguments in, raw result out.
//!
//! Everything in a guest that asks the host for something goes through [`syscall`]. The typed
//! contract (memory, time, ...) stands in the sibling modules; code above `platform` that hands a
//! program's own call to the host unchanged (a `fstat` on a host file) uses this door too and says
//! at the call why the arguments are sound.

use crate::errno::{Errno, Result};
use core::arch::{asm, global_asm};

/// Call numbers of x86-64 Linux (asm/unistd_64.h), as `nr::__NR_openat`.
pub use linux_raw_sys::general as nr;

/// Issues host system call `number` and splits the result.
///
/// # Safety
/// The arguments must be what the kernel expects of that call; memory that it writes must be ours.
#[inline]
pub unsafe fn syscall(number: u32, args: [usize; 6]) -> Result<usize> {
    // SAFETY: the caller vouches for number and arguments.
    Errno::from_raw(unsafe { syscall_raw(number as usize, args) })
}

/// Issues host system call `number`; the answer is the kernel's, -4095..=-1 for errors.
///
/// # Safety
/// As [`syscall`].
#[inline]
pub unsafe fn syscall_raw(number: usize, args: [usize; 6]) -> isize {
    let ret: isize;
    // SAFETY: the x86-64 system call convention (psABI A.2.1): rcx and r11 are overwritten; the
    // caller vouches for what the call does to memory. Not `nostack`: the call pushes.
    unsafe {
        asm!(
            "call {door}",
            door = sym attacca_host_door,
            inlateout("rax") number as isize => ret,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
        );
    }
    ret
}

// All `syscall` instructions of the runtime itself, in one short range. Syscall user dispatch
// (prctl(2), PR_SET_SYSCALL_USER_DISPATCH) lets calls from exactly this range through to the host;
// a `syscall` anywhere else, the program's own or libc's restorer, ends in the personality.
global_asm!(
    ".pushsection .text.attacca_host, \"ax\", @progbits",
    ".balign 64",
    ".globl attacca_host_start",
    "attacca_host_start:",
    ".globl attacca_host_door",
    ".type attacca_host_door, @function",
    "attacca_host_door:",
    "syscall",
    "ret",
    // The restorer of the runtime's own host signal handlers. Unwinders and debuggers know a signal
    // frame by exactly these bytes at the return address.
    ".balign 16",
    "nop",
    ".globl attacca_host_restorer",
    ".type attacca_host_restorer, @function",
    "attacca_host_restorer:",
    "mov rax, 15",
    "syscall",
    // clone(2) on a new stack: rdi flags, rsi the stack with entry and two arguments on it, rdx where the
    // process's descriptor goes.
    ".balign 16",
    ".globl attacca_host_clone",
    ".type attacca_host_clone, @function",
    "attacca_host_clone:",
    "mov eax, 56",
    "xor r10d, r10d",
    "xor r8d, r8d",
    "jmp 3f",
    // clone3(2) on a new stack: rdi its structure, rsi the structure's size.
    ".globl attacca_host_clone3",
    ".type attacca_host_clone3, @function",
    "attacca_host_clone3:",
    "mov eax, 435",
    "3:",
    "syscall",
    "test rax, rax",
    "jz 2f",
    "ret",
    "2:",
    "xor ebp, ebp",
    "pop rax",
    "pop rdi",
    "pop rsi",
    "add rsp, 8",
    "call rax",
    "ud2",
    ".globl attacca_host_end",
    "attacca_host_end:",
    ".popsection",
);

unsafe extern "C" {
    fn attacca_host_door();
    /// `sa_restorer` of host signal handlers.
    fn attacca_host_restorer();
    pub(crate) fn attacca_host_clone(flags: usize, stack: usize, pidfd: *mut i32) -> isize;
    pub(crate) fn attacca_host_clone3(args: *const crate::thread::CloneArgs, size: usize) -> isize;
    static attacca_host_start: u8;
    static attacca_host_end: u8;
}

/// Start and length of the range that holds all of the runtime's own `syscall` instructions.
pub fn door_range() -> (usize, usize) {
    let start = &raw const attacca_host_start as usize;
    (start, &raw const attacca_host_end as usize - start)
}

/// The address of the restorer for host signal handlers.
pub fn restorer() -> usize {
    attacca_host_restorer as *const () as usize
}

/// `host!(openat, dirfd, path, flags)`: a host call by name with up to six arguments cast to
/// `usize`; missing ones are 0. Expands to an unsafe call: use inside `unsafe` with an argument.
#[macro_export]
macro_rules! host {
    ($name:ident $(, $arg:expr)* $(,)?) => {{
        let mut args = [0usize; 6];
        let given = [$($arg as usize),*] as [usize; $crate::host!(@count $($arg,)*)];
        args[..given.len()].copy_from_slice(&given);
        $crate::sys::syscall($crate::host!(@nr $name), args)
    }};
    (@count) => { 0 };
    (@count $head:expr, $($tail:expr,)*) => { 1 + $crate::host!(@count $($tail,)*) };
    (@nr $name:ident) => { $crate::sys::number::$name };
}

/// Call numbers under their plain names, for [`host!`].
#[allow(non_upper_case_globals, missing_docs)]
pub mod number {
    pub const read: u32 = 0;
    pub const write: u32 = 1;
    pub const open: u32 = 2;
    pub const close: u32 = 3;
    pub const stat: u32 = 4;
    pub const fstat: u32 = 5;
    pub const lstat: u32 = 6;
    pub const poll: u32 = 7;
    pub const lseek: u32 = 8;
    pub const mmap: u32 = 9;
    pub const mprotect: u32 = 10;
    pub const munmap: u32 = 11;
    pub const brk: u32 = 12;
    pub const rt_sigaction: u32 = 13;
    pub const rt_sigprocmask: u32 = 14;
    pub const rt_sigreturn: u32 = 15;
    pub const ioctl: u32 = 16;
    pub const pread64: u32 = 17;
    pub const pwrite64: u32 = 18;
    pub const readv: u32 = 19;
    pub const writev: u32 = 20;
    pub const access: u32 = 21;
    pub const pipe: u32 = 22;
    pub const select: u32 = 23;
    pub const sched_yield: u32 = 24;
    pub const mremap: u32 = 25;
    pub const msync: u32 = 26;
    pub const mincore: u32 = 27;
    pub const madvise: u32 = 28;
    pub const shmget: u32 = 29;
    pub const shmat: u32 = 30;
    pub const shmctl: u32 = 31;
    pub const dup: u32 = 32;
    pub const dup2: u32 = 33;
    pub const pause: u32 = 34;
    pub const nanosleep: u32 = 35;
    pub const getitimer: u32 = 36;
    pub const alarm: u32 = 37;
    pub const setitimer: u32 = 38;
    pub const getpid: u32 = 39;
    pub const sendfile: u32 = 40;
    pub const socket: u32 = 41;
    pub const connect: u32 = 42;
    pub const accept: u32 = 43;
    pub const sendto: u32 = 44;
    pub const recvfrom: u32 = 45;
    pub const sendmsg: u32 = 46;
    pub const recvmsg: u32 = 47;
    pub const shutdown: u32 = 48;
    pub const bind: u32 = 49;
    pub const listen: u32 = 50;
    pub const getsockname: u32 = 51;
    pub const getpeername: u32 = 52;
    pub const socketpair: u32 = 53;
    pub const setsockopt: u32 = 54;
    pub const getsockopt: u32 = 55;
    pub const clone: u32 = 56;
    pub const fork: u32 = 57;
    pub const vfork: u32 = 58;
    pub const execve: u32 = 59;
    pub const exit: u32 = 60;
    pub const wait4: u32 = 61;
    pub const kill: u32 = 62;
    pub const uname: u32 = 63;
    pub const semget: u32 = 64;
    pub const semop: u32 = 65;
    pub const semctl: u32 = 66;
    pub const shmdt: u32 = 67;
    pub const msgget: u32 = 68;
    pub const msgsnd: u32 = 69;
    pub const msgrcv: u32 = 70;
    pub const msgctl: u32 = 71;
    pub const fcntl: u32 = 72;
    pub const flock: u32 = 73;
    pub const fsync: u32 = 74;
    pub const fdatasync: u32 = 75;
    pub const truncate: u32 = 76;
    pub const ftruncate: u32 = 77;
    pub const getdents: u32 = 78;
    pub const getcwd: u32 = 79;
    pub const chdir: u32 = 80;
    pub const fchdir: u32 = 81;
    pub const rename: u32 = 82;
    pub const mkdir: u32 = 83;
    pub const rmdir: u32 = 84;
    pub const creat: u32 = 85;
    pub const link: u32 = 86;
    pub const unlink: u32 = 87;
    pub const symlink: u32 = 88;
    pub const readlink: u32 = 89;
    pub const chmod: u32 = 90;
    pub const fchmod: u32 = 91;
    pub const chown: u32 = 92;
    pub const fchown: u32 = 93;
    pub const lchown: u32 = 94;
    pub const umask: u32 = 95;
    pub const gettimeofday: u32 = 96;
    pub const getrlimit: u32 = 97;
    pub const getrusage: u32 = 98;
    pub const sysinfo: u32 = 99;
    pub const times: u32 = 100;
    pub const ptrace: u32 = 101;
    pub const getuid: u32 = 102;
    pub const syslog: u32 = 103;
    pub const getgid: u32 = 104;
    pub const setuid: u32 = 105;
    pub const setgid: u32 = 106;
    pub const geteuid: u32 = 107;
    pub const getegid: u32 = 108;
    pub const setpgid: u32 = 109;
    pub const getppid: u32 = 110;
    pub const getpgrp: u32 = 111;
    pub const setsid: u32 = 112;
    pub const setreuid: u32 = 113;
    pub const setregid: u32 = 114;
    pub const getgroups: u32 = 115;
    pub const setgroups: u32 = 116;
    pub const setresuid: u32 = 117;
    pub const getresuid: u32 = 118;
    pub const setresgid: u32 = 119;
    pub const getresgid: u32 = 120;
    pub const getpgid: u32 = 121;
    pub const setfsuid: u32 = 122;
    pub const setfsgid: u32 = 123;
    pub const getsid: u32 = 124;
    pub const capget: u32 = 125;
    pub const capset: u32 = 126;
    pub const rt_sigpending: u32 = 127;
    pub const rt_sigtimedwait: u32 = 128;
    pub const rt_sigqueueinfo: u32 = 129;
    pub const rt_sigsuspend: u32 = 130;
    pub const sigaltstack: u32 = 131;
    pub const utime: u32 = 132;
    pub const mknod: u32 = 133;
    pub const uselib: u32 = 134;
    pub const personality: u32 = 135;
    pub const ustat: u32 = 136;
    pub const statfs: u32 = 137;
    pub const fstatfs: u32 = 138;
    pub const sysfs: u32 = 139;
    pub const getpriority: u32 = 140;
    pub const setpriority: u32 = 141;
    pub const sched_setparam: u32 = 142;
    pub const sched_getparam: u32 = 143;
    pub const sched_setscheduler: u32 = 144;
    pub const sched_getscheduler: u32 = 145;
    pub const sched_get_priority_max: u32 = 146;
    pub const sched_get_priority_min: u32 = 147;
    pub const sched_rr_get_interval: u32 = 148;
    pub const mlock: u32 = 149;
    pub const munlock: u32 = 150;
    pub const mlockall: u32 = 151;
    pub const munlockall: u32 = 152;
    pub const vhangup: u32 = 153;
    pub const modify_ldt: u32 = 154;
    pub const pivot_root: u32 = 155;
    pub const _sysctl: u32 = 156;
    pub const prctl: u32 = 157;
    pub const arch_prctl: u32 = 158;
    pub const adjtimex: u32 = 159;
    pub const setrlimit: u32 = 160;
    pub const chroot: u32 = 161;
    pub const sync: u32 = 162;
    pub const acct: u32 = 163;
    pub const settimeofday: u32 = 164;
    pub const mount: u32 = 165;
    pub const umount2: u32 = 166;
    pub const swapon: u32 = 167;
    pub const swapoff: u32 = 168;
    pub const reboot: u32 = 169;
    pub const sethostname: u32 = 170;
    pub const setdomainname: u32 = 171;
    pub const iopl: u32 = 172;
    pub const ioperm: u32 = 173;
    pub const create_module: u32 = 174;
    pub const init_module: u32 = 175;
    pub const delete_module: u32 = 176;
    pub const get_kernel_syms: u32 = 177;
    pub const query_module: u32 = 178;
    pub const quotactl: u32 = 179;
    pub const nfsservctl: u32 = 180;
    pub const getpmsg: u32 = 181;
    pub const putpmsg: u32 = 182;
    pub const afs_syscall: u32 = 183;
    pub const tuxcall: u32 = 184;
    pub const security: u32 = 185;
    pub const gettid: u32 = 186;
    pub const readahead: u32 = 187;
    pub const setxattr: u32 = 188;
    pub const lsetxattr: u32 = 189;
    pub const fsetxattr: u32 = 190;
    pub const getxattr: u32 = 191;
    pub const lgetxattr: u32 = 192;
    pub const fgetxattr: u32 = 193;
    pub const listxattr: u32 = 194;
    pub const llistxattr: u32 = 195;
    pub const flistxattr: u32 = 196;
    pub const removexattr: u32 = 197;
    pub const lremovexattr: u32 = 198;
    pub const fremovexattr: u32 = 199;
    pub const tkill: u32 = 200;
    pub const time: u32 = 201;
    pub const futex: u32 = 202;
    pub const sched_setaffinity: u32 = 203;
    pub const sched_getaffinity: u32 = 204;
    pub const set_thread_area: u32 = 205;
    pub const io_setup: u32 = 206;
    pub const io_destroy: u32 = 207;
    pub const io_getevents: u32 = 208;
    pub const io_submit: u32 = 209;
    pub const io_cancel: u32 = 210;
    pub const get_thread_area: u32 = 211;
    pub const lookup_dcookie: u32 = 212;
    pub const epoll_create: u32 = 213;
    pub const epoll_ctl_old: u32 = 214;
    pub const epoll_wait_old: u32 = 215;
    pub const remap_file_pages: u32 = 216;
    pub const getdents64: u32 = 217;
    pub const set_tid_address: u32 = 218;
    pub const restart_syscall: u32 = 219;
    pub const semtimedop: u32 = 220;
    pub const fadvise64: u32 = 221;
    pub const timer_create: u32 = 222;
    pub const timer_settime: u32 = 223;
    pub const timer_gettime: u32 = 224;
    pub const timer_getoverrun: u32 = 225;
    pub const timer_delete: u32 = 226;
    pub const clock_settime: u32 = 227;
    pub const clock_gettime: u32 = 228;
    pub const clock_getres: u32 = 229;
    pub const clock_nanosleep: u32 = 230;
    pub const exit_group: u32 = 231;
    pub const epoll_wait: u32 = 232;
    pub const epoll_ctl: u32 = 233;
    pub const tgkill: u32 = 234;
    pub const utimes: u32 = 235;
    pub const vserver: u32 = 236;
    pub const mbind: u32 = 237;
    pub const set_mempolicy: u32 = 238;
    pub const get_mempolicy: u32 = 239;
    pub const mq_open: u32 = 240;
    pub const mq_unlink: u32 = 241;
    pub const mq_timedsend: u32 = 242;
    pub const mq_timedreceive: u32 = 243;
    pub const mq_notify: u32 = 244;
    pub const mq_getsetattr: u32 = 245;
    pub const kexec_load: u32 = 246;
    pub const waitid: u32 = 247;
    pub const add_key: u32 = 248;
    pub const request_key: u32 = 249;
    pub const keyctl: u32 = 250;
    pub const ioprio_set: u32 = 251;
    pub const ioprio_get: u32 = 252;
    pub const inotify_init: u32 = 253;
    pub const inotify_add_watch: u32 = 254;
    pub const inotify_rm_watch: u32 = 255;
    pub const migrate_pages: u32 = 256;
    pub const openat: u32 = 257;
    pub const mkdirat: u32 = 258;
    pub const mknodat: u32 = 259;
    pub const fchownat: u32 = 260;
    pub const futimesat: u32 = 261;
    pub const newfstatat: u32 = 262;
    pub const unlinkat: u32 = 263;
    pub const renameat: u32 = 264;
    pub const linkat: u32 = 265;
    pub const symlinkat: u32 = 266;
    pub const readlinkat: u32 = 267;
    pub const fchmodat: u32 = 268;
    pub const faccessat: u32 = 269;
    pub const pselect6: u32 = 270;
    pub const ppoll: u32 = 271;
    pub const unshare: u32 = 272;
    pub const set_robust_list: u32 = 273;
    pub const get_robust_list: u32 = 274;
    pub const splice: u32 = 275;
    pub const tee: u32 = 276;
    pub const sync_file_range: u32 = 277;
    pub const vmsplice: u32 = 278;
    pub const move_pages: u32 = 279;
    pub const utimensat: u32 = 280;
    pub const epoll_pwait: u32 = 281;
    pub const signalfd: u32 = 282;
    pub const timerfd_create: u32 = 283;
    pub const eventfd: u32 = 284;
    pub const fallocate: u32 = 285;
    pub const timerfd_settime: u32 = 286;
    pub const timerfd_gettime: u32 = 287;
    pub const accept4: u32 = 288;
    pub const signalfd4: u32 = 289;
    pub const eventfd2: u32 = 290;
    pub const epoll_create1: u32 = 291;
    pub const dup3: u32 = 292;
    pub const pipe2: u32 = 293;
    pub const inotify_init1: u32 = 294;
    pub const preadv: u32 = 295;
    pub const pwritev: u32 = 296;
    pub const rt_tgsigqueueinfo: u32 = 297;
    pub const perf_event_open: u32 = 298;
    pub const recvmmsg: u32 = 299;
    pub const fanotify_init: u32 = 300;
    pub const fanotify_mark: u32 = 301;
    pub const prlimit64: u32 = 302;
    pub const name_to_handle_at: u32 = 303;
    pub const open_by_handle_at: u32 = 304;
    pub const clock_adjtime: u32 = 305;
    pub const syncfs: u32 = 306;
    pub const sendmmsg: u32 = 307;
    pub const setns: u32 = 308;
    pub const getcpu: u32 = 309;
    pub const process_vm_readv: u32 = 310;
    pub const process_vm_writev: u32 = 311;
    pub const kcmp: u32 = 312;
    pub const finit_module: u32 = 313;
    pub const sched_setattr: u32 = 314;
    pub const sched_getattr: u32 = 315;
    pub const renameat2: u32 = 316;
    pub const seccomp: u32 = 317;
    pub const getrandom: u32 = 318;
    pub const memfd_create: u32 = 319;
    pub const kexec_file_load: u32 = 320;
    pub const bpf: u32 = 321;
    pub const execveat: u32 = 322;
    pub const userfaultfd: u32 = 323;
    pub const membarrier: u32 = 324;
    pub const mlock2: u32 = 325;
    pub const copy_file_range: u32 = 326;
    pub const preadv2: u32 = 327;
    pub const pwritev2: u32 = 328;
    pub const pkey_mprotect: u32 = 329;
    pub const pkey_alloc: u32 = 330;
    pub const pkey_free: u32 = 331;
    pub const statx: u32 = 332;
    pub const io_pgetevents: u32 = 333;
    pub const rseq: u32 = 334;
    pub const pidfd_send_signal: u32 = 424;
    pub const io_uring_setup: u32 = 425;
    pub const io_uring_enter: u32 = 426;
    pub const io_uring_register: u32 = 427;
    pub const open_tree: u32 = 428;
    pub const move_mount: u32 = 429;
    pub const fsopen: u32 = 430;
    pub const fsconfig: u32 = 431;
    pub const fsmount: u32 = 432;
    pub const fspick: u32 = 433;
    pub const pidfd_open: u32 = 434;
    pub const clone3: u32 = 435;
    pub const close_range: u32 = 436;
    pub const openat2: u32 = 437;
    pub const pidfd_getfd: u32 = 438;
    pub const faccessat2: u32 = 439;
    pub const process_madvise: u32 = 440;
    pub const epoll_pwait2: u32 = 441;
    pub const mount_setattr: u32 = 442;
    pub const quotactl_fd: u32 = 443;
    pub const landlock_create_ruleset: u32 = 444;
    pub const landlock_add_rule: u32 = 445;
    pub const landlock_restrict_self: u32 = 446;
    pub const memfd_secret: u32 = 447;
    pub const process_mrelease: u32 = 448;
    pub const futex_waitv: u32 = 449;
    pub const set_mempolicy_home_node: u32 = 450;
}
