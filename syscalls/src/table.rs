//! THE table: every Linux system call of x86-64 by number. Dispatch, trace, `attacca check` and the
//! documentation are made from it.
//!
//! ```ignore
//! 42 => connect(Fd, Address, u32) full "" = crate::socket::connect;
//! //     name    what the registers hold   |  |    the function: fn(&Ctx, Fd, Address, u32) -> Result
//! //                                       |  what is different from Linux, or why it is missing
//! //                                       full, partial or missing
//! ```
//! A missing call is a row too: it gives ENOSYS, and is named once on Attacca's stderr.

use crate::Result;
use crate::args::*;
use crate::context::Ctx;
use crate::futex::RobustListHead;
use crate::info::{SysInfo, Utsname};
use crate::mqueue::MqAttr;
use crate::path::OpenHow;
use crate::poll::SigmaskArgument;
use crate::posix_timer::SigEvent;
use crate::signal::{AltStack, RawInfo};
use crate::socket::MmsgHdr;
use crate::stat::Statx;
use crate::sysv::sem::SemBuf;
use crate::thread::CloneArgs;
use crate::time::{ITimerSpec, ITimerVal, Timeval};
use crate::user::{Iovec, UserPtr, UserStr};
use fs::StatFs;
use platform::time::Timespec;

/// A handler behind its argument conversion.
pub type Handler = fn(&Ctx, &[usize; 6]) -> Result;

/// How much of a call is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// As Linux, but for what the note says.
    Full,
    /// The note says what is not there.
    Partial,
    /// ENOSYS; the note says why.
    Missing,
}

/// A row.
pub struct Row {
    /// The number in `rax`.
    pub number: usize,
    /// Linux's name.
    pub name: &'static str,
    /// How the arguments are printed.
    pub kinds: &'static [Kind],
    /// How much is there.
    pub level: Level,
    /// What differs, or why it is missing.
    pub note: &'static str,
    /// Who does it.
    pub handler: Option<Handler>,
}

/// Highest number plus one.
pub const NUMBERS: usize = 470;

/// All rows, ascending by number.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    ROWS.iter()
}

/// The row of a number.
pub fn row(number: usize) -> Option<&'static Row> {
    ROWS.binary_search_by_key(&number, |row| row.number).ok().map(|at| &ROWS[at])
}

/// The handler of a number.
#[inline(always)]
pub fn handler(number: usize) -> Option<Handler> {
    *HANDLERS.get(number)?
}

macro_rules! handler {
    (($($ty:ty),*)) => {
        None
    };
    (() $f:path) => {
        Some(|ctx, _| $f(ctx))
    };
    (($a:ty) $f:path) => {
        Some(|ctx, r| $f(ctx, <$a>::from_register(r[0])))
    };
    (($a:ty, $b:ty) $f:path) => {
        Some(|ctx, r| $f(ctx, <$a>::from_register(r[0]), <$b>::from_register(r[1])))
    };
    (($a:ty, $b:ty, $c:ty) $f:path) => {
        Some(|ctx, r| {
            $f(ctx, <$a>::from_register(r[0]), <$b>::from_register(r[1]), <$c>::from_register(r[2]))
        })
    };
    (($a:ty, $b:ty, $c:ty, $d:ty) $f:path) => {
        Some(|ctx, r| {
            let (a, b) = (<$a>::from_register(r[0]), <$b>::from_register(r[1]));
            $f(ctx, a, b, <$c>::from_register(r[2]), <$d>::from_register(r[3]))
        })
    };
    (($a:ty, $b:ty, $c:ty, $d:ty, $e:ty) $f:path) => {
        Some(|ctx, r| {
            let (a, b) = (<$a>::from_register(r[0]), <$b>::from_register(r[1]));
            let (c, d) = (<$c>::from_register(r[2]), <$d>::from_register(r[3]));
            $f(ctx, a, b, c, d, <$e>::from_register(r[4]))
        })
    };
    (($a:ty, $b:ty, $c:ty, $d:ty, $e:ty, $g:ty) $f:path) => {
        Some(|ctx, r| {
            let (a, b) = (<$a>::from_register(r[0]), <$b>::from_register(r[1]));
            let (c, d) = (<$c>::from_register(r[2]), <$d>::from_register(r[3]));
            $f(ctx, a, b, c, d, <$e>::from_register(r[4]), <$g>::from_register(r[5]))
        })
    };
}

macro_rules! level {
    (full) => {
        Level::Full
    };
    (partial) => {
        Level::Partial
    };
    (missing) => {
        Level::Missing
    };
}

macro_rules! table {
    ($($number:literal => $name:ident($($ty:ty),*) $level:ident $note:literal $(= $handler:path)?;)*) => {
        static ROWS: &[Row] = &[$(Row {
            number: $number,
            name: stringify!($name),
            kinds: &[$(<$ty as Argument>::KIND),*],
            level: level!($level),
            note: $note,
            handler: handler!(($($ty),*) $($handler)?),
        }),*];
        static HANDLERS: [Option<Handler>; NUMBERS] = {
            let mut handlers: [Option<Handler>; NUMBERS] = [None; NUMBERS];
            $(handlers[$number] = handler!(($($ty),*) $($handler)?);)*
            handlers
        };
    };
}

#[rustfmt::skip]
table! {
    0 => read(Fd, BytesOut, usize) full "" = crate::rw::read;
    1 => write(Fd, BytesIn, usize) full "" = crate::rw::write;
    2 => open(UserStr, OpenFlags, Mode) full "" = crate::path::open;
    3 => close(Fd) full "" = crate::fcntl::close;
    4 => stat(UserStr, StatOut) full "" = crate::stat::stat;
    5 => fstat(Fd, StatOut) full "" = crate::stat::fstat;
    6 => lstat(UserStr, StatOut) full "" = crate::stat::lstat;
    7 => poll(PollFds, usize, i32) full "" = crate::poll::poll;
    8 => lseek(Fd, i64, Whence) full "" = crate::rw::lseek;
    9 => mmap(Address, usize, ProtFlags, MapFlags, Fd, usize) full "" = crate::memory::mmap;
    10 => mprotect(Address, usize, ProtFlags) full "" = crate::memory::mprotect;
    11 => munmap(Address, usize) full "" = crate::memory::munmap;
    12 => brk(Address) full "" = crate::memory::brk;
    13 => rt_sigaction(Signal, ActionIn, ActionOut, usize) full "" = crate::signal::rt_sigaction;
    14 => rt_sigprocmask(MaskHow, MaskIn, MaskOut, usize) full "" = crate::signal::rt_sigprocmask;
    15 => rt_sigreturn() missing "by the syscall instruction only: the entry restores the frame itself";
    16 => ioctl(Fd, IoctlCommand, usize) partial "O_ASYNC sends no signals; terminals, sizes and sockets" = crate::ioctl::ioctl;
    17 => pread64(Fd, BytesOut, usize, i64) full "" = crate::rw::pread64;
    18 => pwrite64(Fd, BytesIn, usize, i64) full "" = crate::rw::pwrite64;
    19 => readv(Fd, IovecsOut, usize) full "" = crate::rw::readv;
    20 => writev(Fd, IovecsIn, usize) full "" = crate::rw::writev;
    21 => access(UserStr, i32) partial "host files by the rights of the user who started the guest" = crate::path::access;
    22 => pipe(PairOut) full "" = crate::pipe::pipe;
    23 => select(i32, UserPtr<u64>, UserPtr<u64>, UserPtr<u64>, UserPtr<Timeval>) full "" = crate::poll::select;
    24 => sched_yield() full "" = crate::thread::sched_yield;
    25 => mremap(Address, usize, usize, i32, Address) full "" = crate::memory::mremap;
    26 => msync(Address, usize, i32) full "" = crate::memory::msync;
    27 => mincore(Address, usize, UserPtr<u8>) full "" = crate::memory::mincore;
    28 => madvise(Address, usize, Advice) full "" = crate::memory::madvise;
    29 => shmget(i32, usize, u32) partial "no SHM_HUGETLB" = crate::sysv::shm::shmget;
    30 => shmat(i32, Address, u32) full "" = crate::sysv::shm::shmat;
    31 => shmctl(i32, i32, UserPtr<u8>) partial "SHM_LOCK locks nothing" = crate::sysv::shm::shmctl;
    32 => dup(Fd) full "" = crate::fcntl::dup;
    33 => dup2(Fd, Fd) full "" = crate::fcntl::dup2;
    34 => pause() full "" = crate::signal::pause;
    35 => nanosleep(TimeIn, TimeOut) full "" = crate::time::nanosleep;
    36 => getitimer(i32, UserPtr<ITimerVal>) full "" = crate::posix_timer::getitimer;
    37 => alarm(u32) full "" = crate::posix_timer::alarm;
    38 => setitimer(i32, UserPtr<ITimerVal>, UserPtr<ITimerVal>) partial "ITIMER_VIRTUAL and ITIMER_PROF measure the guest's CPU time at 10 ms steps" = crate::posix_timer::setitimer;
    39 => getpid() full "" = crate::info::getpid;
    40 => sendfile(Fd, Fd, UserPtr<i64>, usize) full "" = crate::splice::sendfile;
    41 => socket(Domain, SocketType, i32) partial "AF_INET, AF_INET6, AF_UNIX and AF_NETLINK (questions of rtnetlink only); no packet sockets" = crate::socket::socket;
    42 => connect(Fd, SockAddrIn, u32) full "" = crate::socket::connect;
    43 => accept(Fd, SockAddrOut, LengthOut) full "" = crate::socket::accept;
    44 => sendto(Fd, BytesIn, usize, MsgFlags, SockAddrIn, u32) full "" = crate::socket::sendto;
    45 => recvfrom(Fd, BytesOut, usize, MsgFlags, SockAddrOut, LengthOut) partial "MSG_ERRQUEUE of TCP has completions of MSG_ZEROCOPY alone" = crate::socket::recvfrom;
    46 => sendmsg(Fd, MessageIn, MsgFlags) full "" = crate::socket::sendmsg;
    47 => recvmsg(Fd, MessageOut, MsgFlags) partial "MSG_ERRQUEUE of TCP has completions of MSG_ZEROCOPY alone" = crate::socket::recvmsg;
    48 => shutdown(Fd, i32) full "" = crate::socket::shutdown;
    49 => bind(Fd, SockAddrIn, u32) full "" = crate::socket::bind;
    50 => listen(Fd, i32) full "" = crate::socket::listen;
    51 => getsockname(Fd, SockAddrOut, LengthOut) full "" = crate::socket::getsockname;
    52 => getpeername(Fd, SockAddrOut, LengthOut) full "" = crate::socket::getpeername;
    53 => socketpair(Domain, SocketType, i32, PairOut) full "" = crate::socket::socketpair;
    54 => setsockopt(Fd, SocketLevel, SocketOption, OptionIn, i32) full "" = crate::socket::setsockopt;
    55 => getsockopt(Fd, SocketLevel, SocketOption, OptionOut, LengthOut) full "" = crate::socket::getsockopt;
    56 => clone(CloneFlags, Address, UserPtr<u32>, UserPtr<u32>, usize) partial "threads and processes; no namespaces, and what a process shares with its parent is memory (with CLONE_VFORK) or nothing" = crate::thread::clone;
    57 => fork() full "" = crate::thread::fork;
    58 => vfork() full "" = crate::thread::fork;
    59 => execve(UserStr, Strings, Variables) full "" = crate::exec::execve;
    60 => exit(i32) full "" = crate::thread::exit;
    61 => wait4(i32, StatusOut, WaitFlags, UserPtr<[i64; 18]>) full "" = crate::reap::wait4;
    62 => kill(i32, Signal) full "" = crate::signal::kill;
    63 => uname(UserPtr<Utsname>) full "" = crate::info::uname;
    64 => semget(i32, i32, u32) full "" = crate::sysv::sem::semget;
    65 => semop(i32, UserPtr<SemBuf>, usize) full "" = crate::sysv::sem::semop;
    66 => semctl(i32, i32, i32, usize) full "" = crate::sysv::sem::semctl;
    67 => shmdt(Address) full "" = crate::sysv::shm::shmdt;
    68 => msgget(i32, u32) full "" = crate::sysv::msg::msgget;
    69 => msgsnd(i32, UserPtr<i64>, usize, u32) full "" = crate::sysv::msg::msgsnd;
    70 => msgrcv(i32, UserPtr<i64>, usize, i64, u32) partial "no MSG_COPY" = crate::sysv::msg::msgrcv;
    71 => msgctl(i32, i32, UserPtr<u8>) full "" = crate::sysv::msg::msgctl;
    72 => fcntl(Fd, FcntlCommand, usize) partial "no leases, no F_NOTIFY, no F_SETSIG; F_SETOWN is kept, but no signals come" = crate::fcntl::fcntl;
    73 => flock(Fd, i32) full "" = crate::fcntl::flock;
    74 => fsync(Fd) full "" = crate::extent::fsync;
    75 => fdatasync(Fd) full "" = crate::extent::fdatasync;
    76 => truncate(UserStr, i64) full "" = crate::path::truncate;
    77 => ftruncate(Fd, i64) full "" = crate::extent::ftruncate;
    78 => getdents(Fd, BytesOut, usize) full "" = crate::dir::getdents;
    79 => getcwd(BytesOut, usize) full "" = crate::dir::getcwd;
    80 => chdir(UserStr) full "" = crate::dir::chdir;
    81 => fchdir(Fd) full "" = crate::dir::fchdir;
    82 => rename(UserStr, UserStr) full "" = crate::path::rename;
    83 => mkdir(UserStr, Mode) full "" = crate::dir::mkdir;
    84 => rmdir(UserStr) full "" = crate::path::rmdir;
    85 => creat(UserStr, Mode) full "" = crate::path::creat;
    86 => link(UserStr, UserStr) full "" = crate::path::link;
    87 => unlink(UserStr) full "" = crate::path::unlink;
    88 => symlink(UserStr, UserStr) full "" = crate::path::symlink;
    89 => readlink(UserStr, BytesOut, usize) full "" = crate::path::readlink;
    90 => chmod(UserStr, Mode) full "" = crate::path::chmod;
    91 => fchmod(Fd, Mode) full "" = crate::path::fchmod;
    92 => chown(UserStr, u32, u32) full "" = crate::path::chown;
    93 => fchown(Fd, u32, u32) full "" = crate::path::fchown;
    94 => lchown(UserStr, u32, u32) full "" = crate::path::lchown;
    95 => umask(Mode) full "" = crate::info::umask;
    96 => gettimeofday(UserPtr<Timeval>, UserPtr<[i32; 2]>) full "" = crate::time::gettimeofday;
    97 => getrlimit(u32, UserPtr<[u64; 2]>) full "" = crate::info::getrlimit;
    98 => getrusage(i32, UserPtr<[i64; 18]>) full "" = crate::info::getrusage;
    99 => sysinfo(UserPtr<SysInfo>) full "" = crate::info::sysinfo;
    100 => times(UserPtr<[i64; 4]>) full "" = crate::time::times;
    101 => ptrace() missing "administration of a machine, not of a guest";
    102 => getuid() full "" = crate::info::getuid;
    103 => syslog() missing "administration of a machine, not of a guest";
    104 => getgid() full "" = crate::info::getgid;
    105 => setuid(u32) full "" = crate::info::setuid;
    106 => setgid(u32) full "" = crate::info::setgid;
    107 => geteuid() full "" = crate::info::geteuid;
    108 => getegid() full "" = crate::info::getegid;
    109 => setpgid(i32, i32) full "" = crate::info::setpgid;
    110 => getppid() full "" = crate::info::getppid;
    111 => getpgrp() full "" = crate::info::getpgrp;
    112 => setsid() full "" = crate::info::setsid;
    113 => setreuid(u32, u32) full "" = crate::info::setreuid;
    114 => setregid(u32, u32) full "" = crate::info::setregid;
    115 => getgroups(i32, UserPtr<u32>) full "" = crate::info::getgroups;
    116 => setgroups(usize, UserPtr<u32>) full "" = crate::info::setgroups;
    117 => setresuid(u32, u32, u32) full "" = crate::info::setresuid;
    118 => getresuid(UserPtr<u32>, UserPtr<u32>, UserPtr<u32>) full "" = crate::info::getresuid;
    119 => setresgid(u32, u32, u32) full "" = crate::info::setresgid;
    120 => getresgid(UserPtr<u32>, UserPtr<u32>, UserPtr<u32>) full "" = crate::info::getresgid;
    121 => getpgid(i32) full "" = crate::info::getpgid;
    122 => setfsuid(u32) full "" = crate::info::setfsuid;
    123 => setfsgid(u32) full "" = crate::info::setfsgid;
    124 => getsid(i32) full "" = crate::info::getsid;
    125 => capget(UserPtr<[u32; 2]>, UserPtr<[u32; 3]>) full "" = crate::info::capget;
    126 => capset(UserPtr<[u32; 2]>, UserPtr<[u32; 3]>) partial "checked, then forgotten: capabilities follow the effective user id" = crate::info::capset;
    127 => rt_sigpending(MaskOut, usize) full "" = crate::signal::rt_sigpending;
    128 => rt_sigtimedwait(MaskIn, UserPtr<RawInfo>, UserPtr<Timespec>, usize) full "" = crate::signal::rt_sigtimedwait;
    129 => rt_sigqueueinfo(i32, Signal, UserPtr<RawInfo>) full "" = crate::signal::rt_sigqueueinfo;
    130 => rt_sigsuspend(MaskIn, usize) full "" = crate::signal::rt_sigsuspend;
    131 => sigaltstack(UserPtr<AltStack>, UserPtr<AltStack>) full "" = crate::signal::sigaltstack;
    132 => utime(UserStr, UserPtr<[i64; 2]>) full "" = crate::path::utime;
    133 => mknod(UserStr, Mode, u64) full "" = crate::path::mknod;
    134 => uselib() missing "administration of a machine, not of a guest";
    135 => personality(u32) partial "only PER_LINUX" = crate::info::personality;
    136 => ustat() missing "administration of a machine, not of a guest";
    137 => statfs(UserStr, UserPtr<StatFs>) full "" = crate::stat::statfs;
    138 => fstatfs(Fd, UserPtr<StatFs>) full "" = crate::stat::fstatfs;
    139 => sysfs() missing "administration of a machine, not of a guest";
    140 => getpriority(i32, i32) full "" = crate::priority::getpriority;
    141 => setpriority(i32, i32, i32) partial "the host is told the lowest value of a process's threads" = crate::priority::setpriority;
    142 => sched_setparam(i32, UserPtr<i32>) partial "among the threads of one process; to the host all are ordinary" = crate::priority::sched_setparam;
    143 => sched_getparam(i32, UserPtr<i32>) full "" = crate::priority::sched_getparam;
    144 => sched_setscheduler(i32, i32, UserPtr<i32>) partial "among the threads of one process; to the host all are ordinary" = crate::priority::sched_setscheduler;
    145 => sched_getscheduler(i32) full "" = crate::priority::sched_getscheduler;
    146 => sched_get_priority_max(i32) full "" = crate::priority::sched_get_priority_max;
    147 => sched_get_priority_min(i32) full "" = crate::priority::sched_get_priority_min;
    148 => sched_rr_get_interval(i32, UserPtr<Timespec>) full "the time slice of the guest's own scheduler" = crate::priority::sched_rr_get_interval;
    149 => mlock(Address, usize) full "" = crate::memory::mlock;
    150 => munlock(Address, usize) full "" = crate::memory::munlock;
    151 => mlockall(i32) full "" = crate::memory_limit::mlockall;
    152 => munlockall() full "" = crate::memory_limit::munlockall;
    153 => vhangup() missing "administration of a machine, not of a guest";
    154 => modify_ldt() missing "administration of a machine, not of a guest";
    155 => pivot_root() missing "administration of a machine, not of a guest";
    156 => _sysctl() missing "administration of a machine, not of a guest";
    157 => prctl(i32, usize, usize, usize, usize) partial "names, dumpable, death signal, no-new-privs, capability queries; others EINVAL by number" = crate::info::prctl;
    158 => arch_prctl(i32, usize) partial "FS base only" = crate::info::arch_prctl;
    159 => adjtimex(Address) partial "EPERM: the clock is the host's" = crate::time::adjtimex;
    160 => setrlimit(u32, UserPtr<[u64; 2]>) partial "enforced: RLIMIT_NOFILE, RLIMIT_SIGPENDING, RLIMIT_FSIZE (write and ftruncate), RLIMIT_MSGQUEUE, RLIMIT_AS, RLIMIT_NPROC, RLIMIT_RTPRIO, RLIMIT_NICE" = crate::info::setrlimit;
    161 => chroot(UserStr) full "" = crate::dir::chroot;
    162 => sync() full "" = crate::extent::sync;
    163 => acct() missing "administration of a machine, not of a guest";
    164 => settimeofday(UserPtr<Timeval>, UserPtr<[i32; 2]>) partial "EPERM: the clock is the host's" = crate::time::settimeofday;
    165 => mount() partial "EPERM: the mounts of a guest are fixed when it starts" = crate::path::not_permitted;
    166 => umount2() partial "EPERM: the mounts of a guest are fixed when it starts" = crate::path::not_permitted;
    167 => swapon() missing "administration of a machine, not of a guest";
    168 => swapoff() missing "administration of a machine, not of a guest";
    169 => reboot() missing "administration of a machine, not of a guest";
    170 => sethostname(BytesIn, usize) full "" = crate::info::sethostname;
    171 => setdomainname() missing "administration of a machine, not of a guest";
    172 => iopl() missing "administration of a machine, not of a guest";
    173 => ioperm() missing "administration of a machine, not of a guest";
    174 => create_module() missing "administration of a machine, not of a guest";
    175 => init_module() missing "administration of a machine, not of a guest";
    176 => delete_module() missing "administration of a machine, not of a guest";
    177 => get_kernel_syms() missing "not implemented by Linux either";
    178 => query_module() missing "administration of a machine, not of a guest";
    179 => quotactl() missing "administration of a machine, not of a guest";
    180 => nfsservctl() missing "administration of a machine, not of a guest";
    181 => getpmsg() missing "not implemented by Linux either";
    182 => putpmsg() missing "not implemented by Linux either";
    183 => afs_syscall() missing "not implemented by Linux either";
    184 => tuxcall() missing "not implemented by Linux either";
    185 => security() missing "not implemented by Linux either";
    186 => gettid() full "" = crate::thread::gettid;
    187 => readahead(Fd, i64, usize) full "" = crate::extent::readahead;
    188 => setxattr(UserStr, UserStr, BytesIn, usize, i32) full "" = crate::xattr::setxattr;
    189 => lsetxattr(UserStr, UserStr, BytesIn, usize, i32) full "" = crate::xattr::lsetxattr;
    190 => fsetxattr(Fd, UserStr, BytesIn, usize, i32) full "" = crate::xattr::fsetxattr;
    191 => getxattr(UserStr, UserStr, UserPtr<u8>, usize) full "" = crate::xattr::getxattr;
    192 => lgetxattr(UserStr, UserStr, UserPtr<u8>, usize) full "" = crate::xattr::lgetxattr;
    193 => fgetxattr(Fd, UserStr, UserPtr<u8>, usize) full "" = crate::xattr::fgetxattr;
    194 => listxattr(UserStr, UserPtr<u8>, usize) full "" = crate::xattr::listxattr;
    195 => llistxattr(UserStr, UserPtr<u8>, usize) full "" = crate::xattr::llistxattr;
    196 => flistxattr(Fd, UserPtr<u8>, usize) full "" = crate::xattr::flistxattr;
    197 => removexattr(UserStr, UserStr) full "" = crate::xattr::removexattr;
    198 => lremovexattr(UserStr, UserStr) full "" = crate::xattr::lremovexattr;
    199 => fremovexattr(Fd, UserStr) full "" = crate::xattr::fremovexattr;
    200 => tkill(i32, Signal) full "" = crate::signal::tkill;
    201 => time(UserPtr<i64>) full "" = crate::time::time;
    202 => futex(UserPtr<u32>, FutexOp, u32, usize, UserPtr<u32>, u32) partial "priority-inheritance locks are handed over by age: threads of a guest have no priorities" = crate::futex::futex;
    203 => sched_setaffinity(i32, usize, UserPtr<u64>) partial "kept and told; threads are not bound to a CPU" = crate::thread::sched_setaffinity;
    204 => sched_getaffinity(i32, usize, UserPtr<u64>) full "" = crate::thread::sched_getaffinity;
    205 => set_thread_area() missing "administration of a machine, not of a guest";
    206 => io_setup() missing "asynchronous I/O rings: programs fall back to plain calls";
    207 => io_destroy() missing "asynchronous I/O rings: programs fall back to plain calls";
    208 => io_getevents() missing "asynchronous I/O rings: programs fall back to plain calls";
    209 => io_submit() missing "asynchronous I/O rings: programs fall back to plain calls";
    210 => io_cancel() missing "asynchronous I/O rings: programs fall back to plain calls";
    211 => get_thread_area() missing "administration of a machine, not of a guest";
    212 => lookup_dcookie() missing "administration of a machine, not of a guest";
    213 => epoll_create(i32) full "" = crate::epoll::epoll_create;
    214 => epoll_ctl_old() missing "not implemented by Linux either";
    215 => epoll_wait_old() missing "not implemented by Linux either";
    216 => remap_file_pages() missing "memory features without a user so far";
    217 => getdents64(Fd, BytesOut, usize) full "" = crate::dir::getdents64;
    218 => set_tid_address(Address) full "" = crate::thread::set_tid_address;
    219 => restart_syscall() full "" = crate::info::restart_syscall;
    220 => semtimedop(i32, UserPtr<SemBuf>, usize, UserPtr<Timespec>) full "" = crate::sysv::sem::semtimedop;
    221 => fadvise64(Fd, i64, i64, i32) full "" = crate::extent::fadvise64;
    222 => timer_create(Clock, UserPtr<SigEvent>, UserPtr<i32>) full "" = crate::posix_timer::timer_create;
    223 => timer_settime(i32, i32, UserPtr<ITimerSpec>, UserPtr<ITimerSpec>) full "" = crate::posix_timer::timer_settime;
    224 => timer_gettime(i32, UserPtr<ITimerSpec>) full "" = crate::posix_timer::timer_gettime;
    225 => timer_getoverrun(i32) full "" = crate::posix_timer::timer_getoverrun;
    226 => timer_delete(i32) full "" = crate::posix_timer::timer_delete;
    227 => clock_settime(Clock, UserPtr<Timespec>) partial "EPERM: the clock is the host's" = crate::time::clock_settime;
    228 => clock_gettime(Clock, TimeOut) full "" = crate::time::clock_gettime;
    229 => clock_getres(Clock, TimeOut) full "" = crate::time::clock_getres;
    230 => clock_nanosleep(Clock, i32, TimeIn, TimeOut) full "" = crate::time::clock_nanosleep;
    231 => exit_group(i32) full "" = crate::thread::exit_group;
    232 => epoll_wait(Fd, EventsOut, i32, i32) full "" = crate::epoll::epoll_wait;
    233 => epoll_ctl(Fd, EpollOp, Fd, EventIn) full "" = crate::epoll::epoll_ctl;
    234 => tgkill(i32, i32, Signal) full "" = crate::signal::tgkill;
    235 => utimes(UserStr, UserPtr<[i64; 4]>) full "" = crate::path::utimes;
    236 => vserver() missing "administration of a machine, not of a guest";
    237 => mbind(Address, usize, i32, Address, usize, u32) full "" = crate::memory::mbind;
    238 => set_mempolicy(i32, Address, usize) partial "only the default policy: threads move between vCPUs" = crate::memory::set_mempolicy;
    239 => get_mempolicy(Address, Address, usize, Address, usize) full "" = crate::memory::get_mempolicy;
    240 => mq_open(UserStr, OpenFlags, Mode, UserPtr<MqAttr>) full "" = crate::mqueue::mq_open;
    241 => mq_unlink(UserStr) full "" = crate::mqueue::mq_unlink;
    242 => mq_timedsend(Fd, BytesIn, usize, u32, UserPtr<Timespec>) full "" = crate::mqueue::mq_timedsend;
    243 => mq_timedreceive(Fd, UserPtr<u8>, usize, UserPtr<u32>, UserPtr<Timespec>) full "" = crate::mqueue::mq_timedreceive;
    244 => mq_notify(Fd, UserPtr<SigEvent>) partial "SIGEV_THREAD by the instruction: a pipe instead of a netlink socket" = crate::mqueue::mq_notify;
    245 => mq_getsetattr(Fd, UserPtr<MqAttr>, UserPtr<MqAttr>) full "" = crate::mqueue::mq_getsetattr;
    246 => kexec_load() missing "administration of a machine, not of a guest";
    247 => waitid(i32, i32, UserPtr<RawInfo>, WaitFlags, UserPtr<[i64; 18]>) full "" = crate::reap::waitid;
    248 => add_key() missing "no key retention service";
    249 => request_key() missing "no key retention service";
    250 => keyctl() missing "no key retention service";
    251 => ioprio_set() missing "scheduling and placement are the host's";
    252 => ioprio_get() missing "scheduling and placement are the host's";
    253 => inotify_init() full "" = crate::inotify::inotify_init;
    254 => inotify_add_watch(Fd, UserStr, u32) partial "files of the guest's own file systems (tmpfs, /dev, /proc) are not watched: EOPNOTSUPP" = crate::inotify::inotify_add_watch;
    255 => inotify_rm_watch(Fd, i32) full "" = crate::inotify::inotify_rm_watch;
    256 => migrate_pages() missing "scheduling and placement are the host's";
    257 => openat(DirFd, UserStr, OpenFlags, Mode) full "" = crate::path::openat;
    258 => mkdirat(DirFd, UserStr, Mode) full "" = crate::dir::mkdirat;
    259 => mknodat(DirFd, UserStr, Mode, u64) full "" = crate::path::mknodat;
    260 => fchownat(DirFd, UserStr, u32, u32, AtFlags) full "" = crate::path::fchownat;
    261 => futimesat(DirFd, UserStr, UserPtr<[i64; 4]>) full "" = crate::path::futimesat;
    262 => newfstatat(DirFd, UserStr, StatOut, AtFlags) full "" = crate::stat::newfstatat;
    263 => unlinkat(DirFd, UserStr, AtFlags) full "" = crate::path::unlinkat;
    264 => renameat(DirFd, UserStr, DirFd, UserStr) full "" = crate::path::renameat;
    265 => linkat(DirFd, UserStr, DirFd, UserStr, AtFlags) full "" = crate::path::linkat;
    266 => symlinkat(UserStr, DirFd, UserStr) full "" = crate::path::symlinkat;
    267 => readlinkat(DirFd, UserStr, BytesOut, usize) full "" = crate::path::readlinkat;
    268 => fchmodat(DirFd, UserStr, Mode) full "" = crate::path::fchmodat;
    269 => faccessat(DirFd, UserStr, i32) full "" = crate::path::faccessat;
    270 => pselect6(i32, UserPtr<u64>, UserPtr<u64>, UserPtr<u64>, UserPtr<Timespec>, UserPtr<SigmaskArgument>) full "" = crate::poll::pselect6;
    271 => ppoll(PollFds, usize, TimeIn, MaskIn, usize) full "" = crate::poll::ppoll;
    272 => unshare() missing "administration of a machine, not of a guest";
    273 => set_robust_list(UserPtr<RobustListHead>, usize) full "" = crate::futex::set_robust_list;
    274 => get_robust_list(i32, UserPtr<usize>, UserPtr<usize>) full "" = crate::futex::get_robust_list;
    275 => splice(Fd, UserPtr<i64>, Fd, UserPtr<i64>, usize, u32) full "" = crate::splice::splice;
    276 => tee(Fd, Fd, usize, u32) full "" = crate::splice::tee;
    277 => sync_file_range(Fd, i64, i64, u32) full "" = crate::extent::sync_file_range;
    278 => vmsplice(Fd, UserPtr<Iovec>, usize, u32) full "" = crate::splice::vmsplice;
    279 => move_pages() missing "scheduling and placement are the host's";
    280 => utimensat(DirFd, UserStr, UserPtr<[Timespec; 2]>, AtFlags) full "" = crate::path::utimensat;
    281 => epoll_pwait(Fd, EventsOut, i32, i32, MaskIn, usize) full "" = crate::epoll::epoll_pwait;
    282 => signalfd(Fd, UserPtr<u64>, usize) full "" = crate::signalfd::signalfd;
    283 => timerfd_create(Clock, OpenFlags) full "" = crate::timerfd::timerfd_create;
    284 => eventfd(u32) full "" = crate::eventfd::eventfd;
    285 => fallocate(Fd, i32, i64, i64) full "" = crate::extent::fallocate;
    286 => timerfd_settime(Fd, i32, UserPtr<ITimerSpec>, UserPtr<ITimerSpec>) partial "TFD_TIMER_CANCEL_ON_SET is accepted; a change of the host's clock is not noticed" = crate::timerfd::timerfd_settime;
    287 => timerfd_gettime(Fd, UserPtr<ITimerSpec>) full "" = crate::timerfd::timerfd_gettime;
    288 => accept4(Fd, SockAddrOut, LengthOut, SocketType) full "" = crate::socket::accept4;
    289 => signalfd4(Fd, UserPtr<u64>, usize, OpenFlags) full "" = crate::signalfd::signalfd4;
    290 => eventfd2(u32, OpenFlags) full "" = crate::eventfd::eventfd2;
    291 => epoll_create1(OpenFlags) full "" = crate::epoll::epoll_create1;
    292 => dup3(Fd, Fd, OpenFlags) full "" = crate::fcntl::dup3;
    293 => pipe2(PairOut, OpenFlags) partial "no packet mode (O_DIRECT)" = crate::pipe::pipe2;
    294 => inotify_init1(OpenFlags) full "" = crate::inotify::inotify_init1;
    295 => preadv(Fd, IovecsOut, usize, usize, usize) full "" = crate::rw::preadv;
    296 => pwritev(Fd, IovecsIn, usize, usize, usize) full "" = crate::rw::pwritev;
    297 => rt_tgsigqueueinfo(i32, i32, Signal, UserPtr<RawInfo>) full "" = crate::signal::rt_tgsigqueueinfo;
    298 => perf_event_open() missing "administration of a machine, not of a guest";
    299 => recvmmsg(Fd, UserPtr<MmsgHdr>, u32, MsgFlags, UserPtr<Timespec>) full "" = crate::socket::recvmmsg;
    300 => fanotify_init() missing "file change notification";
    301 => fanotify_mark() missing "file change notification";
    302 => prlimit64(i32, u32, UserPtr<[u64; 2]>, UserPtr<[u64; 2]>) partial "enforced: RLIMIT_NOFILE, RLIMIT_SIGPENDING, RLIMIT_FSIZE (write and ftruncate), RLIMIT_MSGQUEUE, RLIMIT_AS, RLIMIT_NPROC, RLIMIT_RTPRIO, RLIMIT_NICE" = crate::info::prlimit64;
    303 => name_to_handle_at() missing "administration of a machine, not of a guest";
    304 => open_by_handle_at() missing "administration of a machine, not of a guest";
    305 => clock_adjtime(Clock, Address) partial "EPERM: the clock is the host's" = crate::time::clock_adjtime;
    306 => syncfs(Fd) full "" = crate::extent::syncfs;
    307 => sendmmsg(Fd, UserPtr<MmsgHdr>, u32, MsgFlags) full "" = crate::socket::sendmmsg;
    308 => setns() missing "administration of a machine, not of a guest";
    309 => getcpu(UserPtr<u32>, UserPtr<u32>, Address) full "" = crate::info::getcpu;
    310 => process_vm_readv() missing "administration of a machine, not of a guest";
    311 => process_vm_writev() missing "administration of a machine, not of a guest";
    312 => kcmp() missing "administration of a machine, not of a guest";
    313 => finit_module() missing "administration of a machine, not of a guest";
    314 => sched_setattr(i32, UserPtr<crate::priority::SchedAttr>, u32) partial "no SCHED_DEADLINE" = crate::priority::sched_setattr;
    315 => sched_getattr(i32, UserPtr<crate::priority::SchedAttr>, u32, u32) full "" = crate::priority::sched_getattr;
    316 => renameat2(DirFd, UserStr, DirFd, UserStr, u32) partial "no RENAME_WHITEOUT" = crate::path::renameat2;
    317 => seccomp(u32, u32, Address) missing "no filters inside a guest";
    318 => getrandom(Address, usize, u32) full "" = crate::info::getrandom;
    319 => memfd_create(UserStr, u32) full "" = crate::memory::memfd_create;
    320 => kexec_file_load() missing "administration of a machine, not of a guest";
    321 => bpf() missing "administration of a machine, not of a guest";
    322 => execveat(DirFd, UserStr, Strings, Variables, AtFlags) full "" = crate::exec::execveat;
    323 => userfaultfd() missing "administration of a machine, not of a guest";
    324 => membarrier(i32, u32, i32) partial "through the host's" = crate::info::membarrier;
    325 => mlock2(Address, usize, u32) full "" = crate::memory::mlock2;
    326 => copy_file_range(Fd, UserPtr<i64>, Fd, UserPtr<i64>, usize, u32) full "" = crate::splice::copy_file_range;
    327 => preadv2(Fd, IovecsOut, usize, usize, usize, u32) full "" = crate::rw::preadv2;
    328 => pwritev2(Fd, IovecsIn, usize, usize, usize, u32) full "" = crate::rw::pwritev2;
    329 => pkey_mprotect() missing "memory features without a user so far";
    330 => pkey_alloc() missing "memory features without a user so far";
    331 => pkey_free() missing "memory features without a user so far";
    332 => statx(DirFd, UserStr, AtFlags, u32, UserPtr<Statx>) full "" = crate::stat::statx;
    333 => io_pgetevents() missing "asynchronous I/O rings: programs fall back to plain calls";
    334 => rseq(Address, u32, i32, u32) partial "always ENOSYS, unannounced: libcs try it and do without" = crate::info::rseq;
    424 => pidfd_send_signal(Fd, Signal, UserPtr<RawInfo>, u32) partial "no flags, no folder of /proc" = crate::pidfd::pidfd_send_signal;
    425 => io_uring_setup() missing "asynchronous I/O rings: programs fall back to plain calls";
    426 => io_uring_enter() missing "asynchronous I/O rings: programs fall back to plain calls";
    427 => io_uring_register() missing "asynchronous I/O rings: programs fall back to plain calls";
    428 => open_tree() missing "administration of a machine, not of a guest";
    429 => move_mount() missing "administration of a machine, not of a guest";
    430 => fsopen() missing "administration of a machine, not of a guest";
    431 => fsconfig() missing "administration of a machine, not of a guest";
    432 => fsmount() missing "administration of a machine, not of a guest";
    433 => fspick() missing "administration of a machine, not of a guest";
    434 => pidfd_open(i32, u32) partial "no PIDFD_THREAD" = crate::pidfd::pidfd_open;
    435 => clone3(UserPtr<CloneArgs>, usize) partial "as clone; no set_tid, no cgroup" = crate::thread::clone3;
    436 => close_range(u32, u32, u32) full "" = crate::fcntl::close_range;
    437 => openat2(DirFd, UserStr, UserPtr<OpenHow>, usize) partial "without RESOLVE flags" = crate::path::openat2;
    438 => pidfd_getfd(Fd, Fd, u32) full "" = crate::pidfd::pidfd_getfd;
    439 => faccessat2(DirFd, UserStr, i32, AtFlags) partial "host files by the rights of the user who started the guest" = crate::path::faccessat2;
    440 => process_madvise() missing "administration of a machine, not of a guest";
    441 => epoll_pwait2(Fd, EventsOut, i32, TimeIn, MaskIn, usize) full "" = crate::epoll::epoll_pwait2;
    442 => mount_setattr() missing "administration of a machine, not of a guest";
    443 => quotactl_fd() missing "administration of a machine, not of a guest";
    444 => landlock_create_ruleset() missing "no security modules inside a guest";
    445 => landlock_add_rule() missing "no security modules inside a guest";
    446 => landlock_restrict_self() missing "no security modules inside a guest";
    447 => memfd_secret() missing "memory features without a user so far";
    448 => process_mrelease() missing "administration of a machine, not of a guest";
    449 => futex_waitv(Address, u32, u32, UserPtr<Timespec>, Clock) missing "waits on several futexes";
    450 => set_mempolicy_home_node() missing "scheduling and placement are the host's";
    451 => cachestat() missing "memory features without a user so far";
    452 => fchmodat2(DirFd, UserStr, Mode, AtFlags) full "" = crate::path::fchmodat2;
    453 => map_shadow_stack() missing "memory features without a user so far";
    454 => futex_wake() missing "newer futex calls: libraries fall back to futex";
    455 => futex_wait() missing "newer futex calls: libraries fall back to futex";
    456 => futex_requeue() missing "newer futex calls: libraries fall back to futex";
    457 => statmount() missing "administration of a machine, not of a guest";
    458 => listmount() missing "administration of a machine, not of a guest";
    459 => lsm_get_self_attr() missing "no security modules inside a guest";
    460 => lsm_set_self_attr() missing "no security modules inside a guest";
    461 => lsm_list_modules() missing "no security modules inside a guest";
    462 => mseal() missing "memory features without a user so far";
    463 => setxattrat() missing "newer attribute calls: libraries fall back";
    464 => getxattrat() missing "newer attribute calls: libraries fall back";
    465 => listxattrat() missing "newer attribute calls: libraries fall back";
    466 => removexattrat() missing "newer attribute calls: libraries fall back";
    467 => open_tree_attr() missing "administration of a machine, not of a guest";
    468 => file_getattr() missing "newer attribute calls: libraries fall back";
    469 => file_setattr() missing "newer attribute calls: libraries fall back";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Every call of the host's asm/unistd_64.h is a row with its number, and rows make sense.
    #[test]
    fn names_every_call() {
        let header = std::fs::read_to_string("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
            .expect("libc6-dev is installed");
        let mut linux = BTreeMap::new();
        for line in header.lines() {
            if let Some(rest) = line.strip_prefix("#define __NR_") {
                let (name, number) = rest.split_once(' ').unwrap();
                linux.insert(number.trim().parse::<usize>().unwrap(), name);
            }
        }
        assert!(linux.len() > 350);
        for (number, name) in linux {
            assert_eq!(row(number).map(|row| row.name), Some(name), "number {number}");
        }
    }

    #[test]
    fn rows_are_consistent() {
        assert!(ROWS.windows(2).all(|pair| pair[0].number < pair[1].number));
        for row in rows() {
            assert_eq!(row.handler.is_none(), row.level == Level::Missing, "{}", row.name);
            assert_eq!(row.note.is_empty(), row.level == Level::Full && row.note.is_empty(), "{}", row.name);
            assert!(row.level == Level::Full || !row.note.is_empty(), "{} has no note", row.name);
            assert!(row.kinds.len() <= 6);
        }
    }
}
