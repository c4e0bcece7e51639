//! Registers -> typed arguments. A row of [`crate::table`] names these types; they convert one
//! register each, the way the kernel does (upper halves of 32-bit arguments are ignored), and tell
//! the trace how to print it.

use crate::epoll::EpollEvent;
use crate::file::Stat;
use crate::poll::PollFd;
use crate::signal::Action;
use crate::socket::MsgHdr;
use crate::user::{Iovec, UserPtr, UserStr};
use platform::time::Timespec;

/// How the trace prints an argument.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A signed number.
    Signed,
    /// An unsigned number.
    Unsigned,
    /// Hexadecimal.
    Hex,
    /// Octal, as file modes are written.
    Octal,
    /// A descriptor.
    Fd,
    /// A descriptor or AT_FDCWD.
    DirFd,
    /// An address whose memory is not shown.
    Pointer,
    /// A NUL-terminated string.
    Str,
    /// Bytes that the call reads; their count is the next argument.
    BytesIn,
    /// A signal number.
    Signal,
    /// One of these values.
    Choice(&'static [(u64, &'static str)]),
    /// A set of these bits.
    Flags(&'static [(u64, &'static str)]),
    /// An option of the level that the argument before names.
    SocketOption(&'static [(i32, &'static [(u64, &'static str)])]),
    /// Bytes that the call fills in; its result is their count.
    BytesOut,
    /// `struct sockaddr`; the next argument is its length.
    SockAddrIn,
    /// `struct sockaddr` that the call fills in; the next argument points to its length.
    SockAddrOut,
    /// An option's value; the next argument is its length.
    OptionIn,
    /// An option's value that the call fills in; the next argument points to its length.
    OptionOut,
    /// A `socklen_t` that the call changes.
    LengthOut,
    /// Two descriptors that the call fills in.
    PairOut,
    /// `struct timespec`.
    TimeIn,
    /// `struct timespec` that the call fills in.
    TimeOut,
    /// `struct pollfd`s; the next argument is their count. The answers are shown with the result.
    PollFds,
    /// `struct epoll_event`.
    EventIn,
    /// `struct epoll_event`s that the call fills in; its result is their count.
    EventsOut,
    /// `struct iovec`s of data that the call reads; the next argument is their count.
    IovecsIn,
    /// `struct iovec`s of buffers that the call fills.
    IovecsOut,
    /// `struct msghdr` that is sent.
    MessageIn,
    /// `struct msghdr` that is received into.
    MessageOut,
    /// `struct stat` that the call fills in.
    StatOut,
    /// An argument vector.
    Strings,
    /// An environment.
    Variables,
    /// A wait status that the call fills in.
    StatusOut,
    /// A signal set.
    MaskIn,
    /// A signal set that the call fills in.
    MaskOut,
    /// The kernel's `struct sigaction`.
    ActionIn,
    /// The kernel's `struct sigaction`, filled in.
    ActionOut,
}

impl Kind {
    /// Whether the memory behind it means something only after the call.
    pub fn is_filled_in(&self) -> bool {
        use Kind::*;
        matches!(
            self,
            BytesOut | SockAddrOut | OptionOut | LengthOut | PairOut | TimeOut | EventsOut | IovecsOut
        ) || matches!(self, MessageOut | StatOut | StatusOut | MaskOut | ActionOut)
    }
}

/// What a row of the table says about a register.
pub trait Argument {
    /// How it is printed.
    const KIND: Kind;
    /// What the handler gets.
    type Value: Copy;
    /// From the register, as the kernel would read it.
    fn from_register(raw: usize) -> Self::Value;
}

macro_rules! number {
    ($($ty:ty: $kind:ident;)*) => {$(
        impl Argument for $ty {
            const KIND: Kind = Kind::$kind;
            type Value = Self;
            #[inline(always)]
            fn from_register(raw: usize) -> Self {
                raw as $ty
            }
        }
    )*};
}

number! {
    i32: Signed;
    i64: Signed;
    isize: Signed;
    u32: Unsigned;
    u64: Unsigned;
    usize: Unsigned;
}

impl<T: Copy> Argument for UserPtr<T> {
    const KIND: Kind = Kind::Pointer;
    type Value = Self;
    #[inline(always)]
    fn from_register(raw: usize) -> Self {
        UserPtr::new(raw)
    }
}

impl Argument for UserStr {
    const KIND: Kind = Kind::Str;
    type Value = Self;
    #[inline(always)]
    fn from_register(raw: usize) -> Self {
        UserStr(raw)
    }
}

/// Declares newtypes of one number with their way of printing.
macro_rules! arguments {
    ($($(#[$meta:meta])* $name:ident($ty:ty) $kind:expr;)*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name(pub $ty);
        impl Argument for $name {
            const KIND: Kind = $kind;
            type Value = Self;
            #[inline(always)]
            fn from_register(raw: usize) -> Self {
                $name(raw as $ty)
            }
        }
    )*};
}

/// Bytes of the program that a call reads (`write`, `sendto`); the next argument is their count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BytesIn(pub usize);
impl Argument for BytesIn {
    const KIND: Kind = Kind::BytesIn;
    type Value = Self;
    #[inline(always)]
    fn from_register(raw: usize) -> Self {
        BytesIn(raw)
    }
}

/// setsockopt(2)'s option; the argument before is its level.
#[derive(Debug)]
pub struct SocketOption;
impl Argument for SocketOption {
    const KIND: Kind = Kind::SocketOption(SOCKET_OPTION);
    type Value = i32;
    #[inline(always)]
    fn from_register(raw: usize) -> i32 {
        raw as i32
    }
}

/// Declares what lies behind a pointer, and how it is printed. Handlers get the pointer.
macro_rules! pointers {
    ($($(#[$meta:meta])* $name:ident($ty:ty);)*) => {$(
        $(#[$meta])*
        #[derive(Debug)]
        pub struct $name;
        impl Argument for $name {
            const KIND: Kind = Kind::$name;
            type Value = UserPtr<$ty>;
            #[inline(always)]
            fn from_register(raw: usize) -> UserPtr<$ty> {
                UserPtr::new(raw)
            }
        }
    )*};
}

pointers! {
    /// A buffer that the call fills.
    BytesOut(u8);
    /// An address to bind, connect or send to.
    SockAddrIn(u8);
    /// Where an address is written to.
    SockAddrOut(u8);
    /// An option's value.
    OptionIn(u8);
    /// Where an option's value is written to.
    OptionOut(u8);
    /// An address's length, in and out.
    LengthOut(u32);
    /// Where two descriptors are written to.
    PairOut([i32; 2]);
    /// A time or an interval.
    TimeIn(Timespec);
    /// Where a time is written to.
    TimeOut(Timespec);
    /// poll(2)'s entries.
    PollFds(PollFd);
    /// epoll_ctl(2)'s interest.
    EventIn(EpollEvent);
    /// Where events are written to.
    EventsOut(EpollEvent);
    /// Buffers to gather from.
    IovecsIn(Iovec);
    /// Buffers to scatter to.
    IovecsOut(Iovec);
    /// A message to send.
    MessageIn(MsgHdr);
    /// Where a message is received.
    MessageOut(MsgHdr);
    /// Where a file's state is written to.
    StatOut(Stat);
    /// A program's arguments.
    Strings(usize);
    /// A program's environment.
    Variables(usize);
    /// Where a status is written to.
    StatusOut(u32);
    /// A signal set.
    MaskIn(u64);
    /// Where a signal set is written to.
    MaskOut(u64);
    /// What to do on a signal.
    ActionIn(Action);
    /// Where the old action is written to.
    ActionOut(Action);
}

arguments! {
    /// A descriptor.
    Fd(i32) Kind::Fd;
    /// A directory's descriptor, or AT_FDCWD.
    DirFd(i32) Kind::DirFd;
    /// An address, never read as memory by the trace.
    Address(usize) Kind::Pointer;
    /// A file mode.
    Mode(u32) Kind::Octal;
    /// A number that reads best in hexadecimal.
    Hex(usize) Kind::Hex;
    /// A signal number.
    Signal(i32) Kind::Signal;
    /// open(2) flags.
    OpenFlags(u32) Kind::Flags(OPEN);
    /// `AT_*` flags.
    AtFlags(u32) Kind::Flags(AT);
    /// lseek(2)'s whence.
    Whence(i32) Kind::Choice(WHENCE);
    /// mmap(2) rights.
    ProtFlags(u32) Kind::Flags(PROT);
    /// mmap(2) flags.
    MapFlags(u32) Kind::Flags(MAP);
    /// A clock id.
    Clock(i32) Kind::Choice(CLOCK);
    /// epoll_ctl(2)'s operation.
    EpollOp(i32) Kind::Choice(EPOLL);
    /// futex(2)'s operation.
    FutexOp(u32) Kind::Choice(FUTEX);
    /// rt_sigprocmask(2)'s how.
    MaskHow(i32) Kind::Choice(HOW);
    /// fcntl(2)'s command.
    FcntlCommand(i32) Kind::Choice(FCNTL);
    /// madvise(2)'s advice.
    Advice(i32) Kind::Choice(ADVICE);
    /// clone(2) flags.
    CloneFlags(usize) Kind::Flags(CLONE);
    /// wait4(2)'s and waitid(2)'s options.
    WaitFlags(u32) Kind::Flags(WAIT);
    /// A socket domain.
    Domain(i32) Kind::Choice(DOMAIN);
    /// A socket type with its flags.
    SocketType(i32) Kind::Flags(SOCKET_TYPE);
    /// send(2) and recv(2) flags.
    MsgFlags(u32) Kind::Flags(MSG);
    /// setsockopt(2)'s level.
    SocketLevel(i32) Kind::Choice(SOCKET_LEVEL);
    /// ioctl(2)'s command.
    IoctlCommand(u32) Kind::Choice(IOCTL);
}

const WAIT: &[(u64, &str)] = &[
    (1, "WNOHANG"),
    (2, "WSTOPPED"),
    (4, "WEXITED"),
    (8, "WCONTINUED"),
    (0x100_0000, "WNOWAIT"),
    (0x2000_0000, "__WNOTHREAD"),
    (0x4000_0000, "__WALL"),
    (0x8000_0000, "__WCLONE"),
];
const OPEN: &[(u64, &str)] = &[
    (0, "O_RDONLY"),
    (0o1, "O_WRONLY"),
    (0o2, "O_RDWR"),
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o4010000, "O_SYNC"),
    (0o10000, "O_DSYNC"),
    (0o40000, "O_DIRECT"),
    (0o100000, "O_LARGEFILE"),
    (0o20200000, "O_TMPFILE"),
    (0o200000, "O_DIRECTORY"),
    (0o400000, "O_NOFOLLOW"),
    (0o1000000, "O_NOATIME"),
    (0o2000000, "O_CLOEXEC"),
    (0o10000000, "O_PATH"),
];
const AT: &[(u64, &str)] = &[
    (0x100, "AT_SYMLINK_NOFOLLOW"),
    (0x200, "AT_REMOVEDIR"),
    (0x400, "AT_SYMLINK_FOLLOW"),
    (0x800, "AT_NO_AUTOMOUNT"),
    (0x1000, "AT_EMPTY_PATH"),
    (0x2000, "AT_STATX_FORCE_SYNC"),
    (0x4000, "AT_STATX_DONT_SYNC"),
];
const WHENCE: &[(u64, &str)] =
    &[(0, "SEEK_SET"), (1, "SEEK_CUR"), (2, "SEEK_END"), (3, "SEEK_DATA"), (4, "SEEK_HOLE")];
const PROT: &[(u64, &str)] = &[
    (0, "PROT_NONE"),
    (1, "PROT_READ"),
    (2, "PROT_WRITE"),
    (4, "PROT_EXEC"),
    (0x0100_0000, "PROT_GROWSDOWN"),
    (0x0200_0000, "PROT_GROWSUP"),
];
const MAP: &[(u64, &str)] = &[
    (0x3, "MAP_SHARED_VALIDATE"),
    (0x1, "MAP_SHARED"),
    (0x2, "MAP_PRIVATE"),
    (0x10, "MAP_FIXED"),
    (0x20, "MAP_ANONYMOUS"),
    (0x40, "MAP_32BIT"),
    (0x100, "MAP_GROWSDOWN"),
    (0x800, "MAP_DENYWRITE"),
    (0x1000, "MAP_EXECUTABLE"),
    (0x2000, "MAP_LOCKED"),
    (0x4000, "MAP_NORESERVE"),
    (0x8000, "MAP_POPULATE"),
    (0x10000, "MAP_NONBLOCK"),
    (0x20000, "MAP_STACK"),
    (0x40000, "MAP_HUGETLB"),
    (0x80000, "MAP_SYNC"),
    (0x100000, "MAP_FIXED_NOREPLACE"),
];
const CLOCK: &[(u64, &str)] = &[
    (0, "CLOCK_REALTIME"),
    (1, "CLOCK_MONOTONIC"),
    (2, "CLOCK_PROCESS_CPUTIME_ID"),
    (3, "CLOCK_THREAD_CPUTIME_ID"),
    (4, "CLOCK_MONOTONIC_RAW"),
    (5, "CLOCK_REALTIME_COARSE"),
    (6, "CLOCK_MONOTONIC_COARSE"),
    (7, "CLOCK_BOOTTIME"),
    (8, "CLOCK_REALTIME_ALARM"),
    (9, "CLOCK_BOOTTIME_ALARM"),
    (11, "CLOCK_TAI"),
];
const EPOLL: &[(u64, &str)] = &[(1, "EPOLL_CTL_ADD"), (2, "EPOLL_CTL_DEL"), (3, "EPOLL_CTL_MOD")];
const FUTEX: &[(u64, &str)] = &[
    (0, "FUTEX_WAIT"),
    (1, "FUTEX_WAKE"),
    (3, "FUTEX_REQUEUE"),
    (4, "FUTEX_CMP_REQUEUE"),
    (5, "FUTEX_WAKE_OP"),
    (6, "FUTEX_LOCK_PI"),
    (7, "FUTEX_UNLOCK_PI"),
    (8, "FUTEX_TRYLOCK_PI"),
    (9, "FUTEX_WAIT_BITSET"),
    (10, "FUTEX_WAKE_BITSET"),
    (128, "FUTEX_WAIT_PRIVATE"),
    (129, "FUTEX_WAKE_PRIVATE"),
    (131, "FUTEX_REQUEUE_PRIVATE"),
    (132, "FUTEX_CMP_REQUEUE_PRIVATE"),
    (133, "FUTEX_WAKE_OP_PRIVATE"),
    (137, "FUTEX_WAIT_BITSET_PRIVATE"),
    (138, "FUTEX_WAKE_BITSET_PRIVATE"),
    (265, "FUTEX_WAIT_BITSET|FUTEX_CLOCK_REALTIME"),
    (393, "FUTEX_WAIT_BITSET_PRIVATE|FUTEX_CLOCK_REALTIME"),
];
const HOW: &[(u64, &str)] = &[(0, "SIG_BLOCK"), (1, "SIG_UNBLOCK"), (2, "SIG_SETMASK")];
const FCNTL: &[(u64, &str)] = &[
    (0, "F_DUPFD"),
    (1, "F_GETFD"),
    (2, "F_SETFD"),
    (3, "F_GETFL"),
    (4, "F_SETFL"),
    (5, "F_GETLK"),
    (6, "F_SETLK"),
    (7, "F_SETLKW"),
    (8, "F_SETOWN"),
    (9, "F_GETOWN"),
    (10, "F_SETSIG"),
    (11, "F_GETSIG"),
    (15, "F_SETOWN_EX"),
    (16, "F_GETOWN_EX"),
    (36, "F_OFD_GETLK"),
    (37, "F_OFD_SETLK"),
    (38, "F_OFD_SETLKW"),
    (1024, "F_SETLEASE"),
    (1025, "F_GETLEASE"),
    (1030, "F_DUPFD_CLOEXEC"),
    (1031, "F_SETPIPE_SZ"),
    (1032, "F_GETPIPE_SZ"),
    (1033, "F_ADD_SEALS"),
    (1034, "F_GET_SEALS"),
];
const ADVICE: &[(u64, &str)] = &[
    (0, "MADV_NORMAL"),
    (1, "MADV_RANDOM"),
    (2, "MADV_SEQUENTIAL"),
    (3, "MADV_WILLNEED"),
    (4, "MADV_DONTNEED"),
    (8, "MADV_FREE"),
    (9, "MADV_REMOVE"),
    (10, "MADV_DONTFORK"),
    (11, "MADV_DOFORK"),
    (12, "MADV_MERGEABLE"),
    (13, "MADV_UNMERGEABLE"),
    (14, "MADV_HUGEPAGE"),
    (15, "MADV_NOHUGEPAGE"),
    (16, "MADV_DONTDUMP"),
    (17, "MADV_DODUMP"),
    (18, "MADV_WIPEONFORK"),
    (19, "MADV_KEEPONFORK"),
    (20, "MADV_COLD"),
    (21, "MADV_PAGEOUT"),
    (22, "MADV_POPULATE_READ"),
    (23, "MADV_POPULATE_WRITE"),
];
const CLONE: &[(u64, &str)] = &[
    (0x100, "CLONE_VM"),
    (0x200, "CLONE_FS"),
    (0x400, "CLONE_FILES"),
    (0x800, "CLONE_SIGHAND"),
    (0x1000, "CLONE_PIDFD"),
    (0x2000, "CLONE_PTRACE"),
    (0x4000, "CLONE_VFORK"),
    (0x8000, "CLONE_PARENT"),
    (0x1_0000, "CLONE_THREAD"),
    (0x2_0000, "CLONE_NEWNS"),
    (0x4_0000, "CLONE_SYSVSEM"),
    (0x8_0000, "CLONE_SETTLS"),
    (0x10_0000, "CLONE_PARENT_SETTID"),
    (0x20_0000, "CLONE_CHILD_CLEARTID"),
    (0x100_0000, "CLONE_CHILD_SETTID"),
    (17, "SIGCHLD"),
];
const DOMAIN: &[(u64, &str)] = &[
    (0, "AF_UNSPEC"),
    (1, "AF_UNIX"),
    (2, "AF_INET"),
    (10, "AF_INET6"),
    (16, "AF_NETLINK"),
    (17, "AF_PACKET"),
];
const SOCKET_TYPE: &[(u64, &str)] = &[
    (5, "SOCK_SEQPACKET"),
    (3, "SOCK_RAW"),
    (1, "SOCK_STREAM"),
    (2, "SOCK_DGRAM"),
    (0o4000, "SOCK_NONBLOCK"),
    (0o2000000, "SOCK_CLOEXEC"),
];
const MSG: &[(u64, &str)] = &[
    (0x1, "MSG_OOB"),
    (0x2, "MSG_PEEK"),
    (0x4, "MSG_DONTROUTE"),
    (0x8, "MSG_CTRUNC"),
    (0x20, "MSG_TRUNC"),
    (0x40, "MSG_DONTWAIT"),
    (0x80, "MSG_EOR"),
    (0x100, "MSG_WAITALL"),
    (0x2000, "MSG_ERRQUEUE"),
    (0x4000, "MSG_NOSIGNAL"),
    (0x8000, "MSG_MORE"),
    (0x1_0000, "MSG_WAITFORONE"),
    (0x400_0000, "MSG_ZEROCOPY"),
    (0x2000_0000, "MSG_FASTOPEN"),
    (0x4000_0000, "MSG_CMSG_CLOEXEC"),
];
const SOCKET_LEVEL: &[(u64, &str)] =
    &[(0, "SOL_IP"), (1, "SOL_SOCKET"), (6, "SOL_TCP"), (17, "SOL_UDP"), (41, "SOL_IPV6")];
const IOCTL: &[(u64, &str)] = &[
    (0x5401, "TCGETS"),
    (0x5402, "TCSETS"),
    (0x5403, "TCSETSW"),
    (0x540e, "TIOCSCTTY"),
    (0x540f, "TIOCGPGRP"),
    (0x5410, "TIOCSPGRP"),
    (0x5413, "TIOCGWINSZ"),
    (0x5414, "TIOCSWINSZ"),
    (0x541b, "FIONREAD"),
    (0x5421, "FIONBIO"),
    (0x5450, "FIONCLEX"),
    (0x5451, "FIOCLEX"),
    (0x5452, "FIOASYNC"),
    (0x8905, "SIOCATMARK"),
    (0x8912, "SIOCGIFCONF"),
    (0x8913, "SIOCGIFFLAGS"),
    (0x8915, "SIOCGIFADDR"),
    (0x8933, "SIOCGIFINDEX"),
];
const SOCKET_OPTION: &[(i32, &[(u64, &str)])] = &[(0, IP), (1, SO), (6, TCP), (17, UDP), (41, IPV6)];
const SO: &[(u64, &str)] = &[
    (1, "SO_DEBUG"),
    (2, "SO_REUSEADDR"),
    (3, "SO_TYPE"),
    (4, "SO_ERROR"),
    (5, "SO_DONTROUTE"),
    (6, "SO_BROADCAST"),
    (7, "SO_SNDBUF"),
    (8, "SO_RCVBUF"),
    (9, "SO_KEEPALIVE"),
    (10, "SO_OOBINLINE"),
    (11, "SO_NO_CHECK"),
    (12, "SO_PRIORITY"),
    (13, "SO_LINGER"),
    (14, "SO_BSDCOMPAT"),
    (15, "SO_REUSEPORT"),
    (16, "SO_PASSCRED"),
    (17, "SO_PEERCRED"),
    (18, "SO_RCVLOWAT"),
    (19, "SO_SNDLOWAT"),
    (20, "SO_RCVTIMEO"),
    (21, "SO_SNDTIMEO"),
    (25, "SO_BINDTODEVICE"),
    (26, "SO_ATTACH_FILTER"),
    (27, "SO_DETACH_FILTER"),
    (28, "SO_PEERNAME"),
    (29, "SO_TIMESTAMP"),
    (30, "SO_ACCEPTCONN"),
    (31, "SO_PEERSEC"),
    (32, "SO_SNDBUFFORCE"),
    (33, "SO_RCVBUFFORCE"),
    (34, "SO_PASSSEC"),
    (35, "SO_TIMESTAMPNS"),
    (36, "SO_MARK"),
    (37, "SO_TIMESTAMPING"),
    (38, "SO_PROTOCOL"),
    (39, "SO_DOMAIN"),
    (40, "SO_RXQ_OVFL"),
    (42, "SO_PEEK_OFF"),
    (46, "SO_BUSY_POLL"),
    (47, "SO_MAX_PACING_RATE"),
    (49, "SO_INCOMING_CPU"),
    (51, "SO_ATTACH_REUSEPORT_CBPF"),
    (52, "SO_ATTACH_REUSEPORT_EBPF"),
    (56, "SO_INCOMING_NAPI_ID"),
    (57, "SO_COOKIE"),
    (59, "SO_PEERGROUPS"),
    (60, "SO_ZEROCOPY"),
    (61, "SO_TXTIME"),
    (77, "SO_PEERPIDFD"),
];
const TCP: &[(u64, &str)] = &[
    (1, "TCP_NODELAY"),
    (2, "TCP_MAXSEG"),
    (3, "TCP_CORK"),
    (4, "TCP_KEEPIDLE"),
    (5, "TCP_KEEPINTVL"),
    (6, "TCP_KEEPCNT"),
    (7, "TCP_SYNCNT"),
    (8, "TCP_LINGER2"),
    (9, "TCP_DEFER_ACCEPT"),
    (10, "TCP_WINDOW_CLAMP"),
    (11, "TCP_INFO"),
    (12, "TCP_QUICKACK"),
    (13, "TCP_CONGESTION"),
    (14, "TCP_MD5SIG"),
    (16, "TCP_THIN_LINEAR_TIMEOUTS"),
    (17, "TCP_THIN_DUPACK"),
    (18, "TCP_USER_TIMEOUT"),
    (19, "TCP_REPAIR"),
    (23, "TCP_FASTOPEN"),
    (24, "TCP_TIMESTAMP"),
    (25, "TCP_NOTSENT_LOWAT"),
    (26, "TCP_CC_INFO"),
    (27, "TCP_SAVE_SYN"),
    (28, "TCP_SAVED_SYN"),
    (30, "TCP_FASTOPEN_CONNECT"),
    (31, "TCP_ULP"),
    (33, "TCP_FASTOPEN_KEY"),
    (34, "TCP_FASTOPEN_NO_COOKIE"),
    (35, "TCP_ZEROCOPY_RECEIVE"),
    (36, "TCP_INQ"),
    (37, "TCP_TX_DELAY"),
];
const IP: &[(u64, &str)] = &[
    (1, "IP_TOS"),
    (2, "IP_TTL"),
    (3, "IP_HDRINCL"),
    (4, "IP_OPTIONS"),
    (6, "IP_RECVOPTS"),
    (7, "IP_RETOPTS"),
    (8, "IP_PKTINFO"),
    (9, "IP_PKTOPTIONS"),
    (10, "IP_MTU_DISCOVER"),
    (11, "IP_RECVERR"),
    (12, "IP_RECVTTL"),
    (13, "IP_RECVTOS"),
    (14, "IP_MTU"),
    (15, "IP_FREEBIND"),
    (19, "IP_TRANSPARENT"),
    (24, "IP_BIND_ADDRESS_NO_PORT"),
    (32, "IP_MULTICAST_IF"),
    (33, "IP_MULTICAST_TTL"),
    (34, "IP_MULTICAST_LOOP"),
    (35, "IP_ADD_MEMBERSHIP"),
    (36, "IP_DROP_MEMBERSHIP"),
    (49, "IP_MULTICAST_ALL"),
    (50, "IP_UNICAST_IF"),
];
const IPV6: &[(u64, &str)] = &[
    (1, "IPV6_ADDRFORM"),
    (16, "IPV6_UNICAST_HOPS"),
    (17, "IPV6_MULTICAST_IF"),
    (18, "IPV6_MULTICAST_HOPS"),
    (19, "IPV6_MULTICAST_LOOP"),
    (20, "IPV6_ADD_MEMBERSHIP"),
    (21, "IPV6_DROP_MEMBERSHIP"),
    (23, "IPV6_MTU_DISCOVER"),
    (24, "IPV6_MTU"),
    (25, "IPV6_RECVERR"),
    (26, "IPV6_V6ONLY"),
    (49, "IPV6_RECVPKTINFO"),
    (50, "IPV6_PKTINFO"),
    (51, "IPV6_RECVHOPLIMIT"),
    (52, "IPV6_HOPLIMIT"),
    (66, "IPV6_RECVTCLASS"),
    (67, "IPV6_TCLASS"),
    (70, "IPV6_AUTOFLOWLABEL"),
];
const UDP: &[(u64, &str)] = &[(1, "UDP_CORK"), (100, "UDP_ENCAP"), (103, "UDP_SEGMENT"), (104, "UDP_GRO")];
