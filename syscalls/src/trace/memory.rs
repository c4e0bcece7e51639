//! What lies behind a call's pointers, written as strace(1) writes it: socket addresses, options, events, times,
//! masks, vectors. Everything is copied out of the program's memory first; what cannot be read is shown as an address.
//! Control messages and the structures of ioctls are left out.

use super::argument::{flags, name_of};
use super::{Line, SHOWN};
use crate::user::read_bytes;
use core::fmt::{self, Write};
use core::net::{Ipv4Addr, Ipv6Addr};

/// Elements of a vector that are shown.
const ELEMENTS: usize = 8;

/// Copies an object of the program.
pub(super) fn read<const N: usize>(at: usize) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    (at != 0 && read_bytes(at, &mut bytes).is_ok()).then_some(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// An address without what lies there.
pub(super) fn pointer(line: &mut Line, at: usize) -> fmt::Result {
    if at == 0 { line.write_str("NULL") } else { write!(line, "{at:#x}") }
}

/// Bytes as a string constant, the first ones only.
pub(super) fn bytes(line: &mut Line, at: usize, len: usize) -> fmt::Result {
    let mut copy = [0u8; SHOWN];
    let shown = &mut copy[..len.min(SHOWN)];
    if at == 0 || read_bytes(at, shown).is_err() {
        return pointer(line, at);
    }
    quoted(line, shown)?;
    line.write_str(if len > SHOWN { "..." } else { "" })
}

pub(super) fn quoted(line: &mut Line, bytes: &[u8]) -> fmt::Result {
    write!(line, "\"{}\"", bytes.escape_ascii())
}

/// A vector of elements of `size` bytes, each written by `element`.
fn vector<const SIZE: usize>(
    line: &mut Line,
    at: usize,
    count: usize,
    mut element: impl FnMut(&mut Line, [u8; SIZE]) -> fmt::Result,
) -> fmt::Result {
    if at == 0 {
        return line.write_str("NULL");
    }
    line.write_str("[")?;
    for index in 0..count.min(ELEMENTS) {
        let Some(bytes) = read::<SIZE>(at.wrapping_add(index * SIZE)) else { break };
        line.write_str(if index == 0 { "" } else { ", " })?;
        element(line, bytes)?;
    }
    line.write_str(if count > ELEMENTS { ", ...]" } else { "]" })
}

/// `struct sockaddr` of each family.
pub(super) fn socket_address(line: &mut Line, at: usize, len: usize) -> fmt::Result {
    let mut copy = [0u8; 110];
    let bytes = &mut copy[..len.min(110)];
    if at == 0 || len < 2 || read_bytes(at, bytes).is_err() {
        return pointer(line, at);
    }
    let port = |bytes: &[u8]| u16::from_be_bytes([bytes[2], bytes[3]]);
    match u16_at(bytes, 0) {
        1 => unix_path(line, &bytes[2..]),
        2 if bytes.len() >= 8 => {
            let ip = Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]);
            write!(
                line,
                "{{sa_family=AF_INET, sin_port=htons({}), sin_addr=inet_addr(\"{ip}\")}}",
                port(bytes)
            )
        }
        10 if bytes.len() >= 28 => {
            let mut ip = [0u8; 16];
            ip.copy_from_slice(&bytes[8..24]);
            let (port, scope) = (port(bytes), u32_at(bytes, 24));
            write!(line, "{{sa_family=AF_INET6, sin6_port=htons({port}), ")?;
            write!(line, "inet_pton(AF_INET6, \"{}\", &sin6_addr), ", Ipv6Addr::from(ip))?;
            write!(line, "sin6_scope_id={scope}}}")
        }
        0 => line.write_str("{sa_family=AF_UNSPEC}"),
        family => write!(line, "{{sa_family={family:#x}, ...}}"),
    }
}

fn unix_path(line: &mut Line, path: &[u8]) -> fmt::Result {
    line.write_str("{sa_family=AF_UNIX")?;
    match path {
        [] => {}
        [0, name @ ..] => write!(line, ", sun_path=@\"{}\"", name.escape_ascii())?,
        _ => {
            let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
            write!(line, ", sun_path=\"{}\"", path[..end].escape_ascii())?;
        }
    }
    line.write_str("}")
}

/// An option's value: most are an `int`, SO_LINGER and timeouts two numbers, a few a name.
pub(super) fn option_value(line: &mut Line, at: usize, len: usize) -> fmt::Result {
    match (len, read::<4>(at), read::<8>(at), read::<16>(at)) {
        (4, Some(value), ..) => write!(line, "[{}]", u32_at(&value, 0) as i32),
        (8, _, Some(value), _) => {
            write!(line, "{{{}, {}}}", u32_at(&value, 0) as i32, u32_at(&value, 4) as i32)
        }
        (16, .., Some(value)) => {
            write!(line, "{{{}, {}}}", u64_at(&value, 0) as i64, u64_at(&value, 8) as i64)
        }
        _ => bytes(line, at, len),
    }
}

/// A `socklen_t`.
pub(super) fn length(line: &mut Line, at: usize) -> fmt::Result {
    match read::<4>(at) {
        Some(value) => write!(line, "[{}]", u32_at(&value, 0)),
        None => pointer(line, at),
    }
}

/// The `socklen_t` itself, 0 where there is none.
pub(super) fn length_value(at: usize) -> usize {
    read::<4>(at).map_or(0, |value| u32_at(&value, 0) as usize)
}

/// Two descriptors.
pub(super) fn pair(line: &mut Line, at: usize) -> fmt::Result {
    match read::<8>(at) {
        Some(value) => write!(line, "[{}, {}]", u32_at(&value, 0) as i32, u32_at(&value, 4) as i32),
        None => pointer(line, at),
    }
}

/// `struct timespec`.
pub(super) fn timespec(line: &mut Line, at: usize) -> fmt::Result {
    match read::<16>(at) {
        Some(time) => {
            write!(line, "{{tv_sec={}, tv_nsec={}}}", u64_at(&time, 0) as i64, u64_at(&time, 8) as i64)
        }
        None => pointer(line, at),
    }
}

const POLL: &[(u64, &str)] = &[
    (0x1, "POLLIN"),
    (0x2, "POLLPRI"),
    (0x4, "POLLOUT"),
    (0x8, "POLLERR"),
    (0x10, "POLLHUP"),
    (0x20, "POLLNVAL"),
    (0x40, "POLLRDNORM"),
    (0x80, "POLLRDBAND"),
    (0x100, "POLLWRNORM"),
    (0x200, "POLLWRBAND"),
    (0x400, "POLLMSG"),
    (0x2000, "POLLRDHUP"),
];

/// What poll(2) is asked.
pub(super) fn poll_asked(line: &mut Line, at: usize, count: usize) -> fmt::Result {
    vector::<8>(line, at, count, |line, entry| {
        write!(line, "{{fd={}, events=", u32_at(&entry, 0) as i32)?;
        flags(line, u16_at(&entry, 4).into(), POLL)?;
        line.write_str("}")
    })
}

/// What poll(2) answers: those that are ready.
pub(super) fn poll_answered(line: &mut Line, at: usize, count: usize) -> fmt::Result {
    let mut separator = " ([";
    for index in 0..count.min(1024) {
        let Some(entry) = read::<8>(at.wrapping_add(index * 8)) else { break };
        let ready = u16_at(&entry, 6);
        if ready != 0 {
            write!(line, "{separator}{{fd={}, revents=", u32_at(&entry, 0) as i32)?;
            flags(line, ready.into(), POLL)?;
            line.write_str("}")?;
            separator = ", ";
        }
    }
    line.write_str(if separator == ", " { "])" } else { "" })
}

const EPOLL: &[(u64, &str)] = &[
    (0x1, "EPOLLIN"),
    (0x2, "EPOLLPRI"),
    (0x4, "EPOLLOUT"),
    (0x8, "EPOLLERR"),
    (0x10, "EPOLLHUP"),
    (0x40, "EPOLLRDNORM"),
    (0x100, "EPOLLWRNORM"),
    (0x2000, "EPOLLRDHUP"),
    (1 << 28, "EPOLLEXCLUSIVE"),
    (1 << 29, "EPOLLWAKEUP"),
    (1 << 30, "EPOLLONESHOT"),
    (1 << 31, "EPOLLET"),
];

/// `struct epoll_event`s.
pub(super) fn epoll_events(line: &mut Line, at: usize, count: usize) -> fmt::Result {
    vector::<12>(line, at, count, epoll_fields)
}

/// One `struct epoll_event`.
pub(super) fn epoll_event(line: &mut Line, at: usize) -> fmt::Result {
    match read::<12>(at) {
        Some(event) => epoll_fields(line, event),
        None => pointer(line, at),
    }
}

fn epoll_fields(line: &mut Line, event: [u8; 12]) -> fmt::Result {
    line.write_str("{events=")?;
    flags(line, u32_at(&event, 0).into(), EPOLL)?;
    write!(line, ", data={:#x}}}", u64_at(&event, 4))
}

/// `struct iovec`s that hold `total` bytes together, or all they have room for.
pub(super) fn iovecs(line: &mut Line, at: usize, count: usize, total: usize) -> fmt::Result {
    let mut left = total;
    vector::<16>(line, at, count, |line, entry| {
        let (base, len) = (u64_at(&entry, 0) as usize, u64_at(&entry, 8) as usize);
        line.write_str("{iov_base=")?;
        bytes(line, base, len.min(left))?;
        left -= len.min(left);
        write!(line, ", iov_len={len}}}")
    })
}

/// `struct msghdr`.
pub(super) fn message(line: &mut Line, at: usize, total: usize) -> fmt::Result {
    let Some(header) = read::<56>(at) else { return pointer(line, at) };
    line.write_str("{msg_name=")?;
    socket_address(line, u64_at(&header, 0) as usize, u32_at(&header, 8) as usize)?;
    let count = u64_at(&header, 24) as usize;
    write!(line, ", msg_namelen={}, msg_iov=", u32_at(&header, 8))?;
    iovecs(line, u64_at(&header, 16) as usize, count, total)?;
    write!(line, ", msg_iovlen={count}, msg_controllen={}", u64_at(&header, 40))?;
    write!(line, ", msg_flags={:#x}}}", u32_at(&header, 48))
}

const FILE_TYPE: &[(u64, &str)] = &[
    (0o140000, "S_IFSOCK"),
    (0o120000, "S_IFLNK"),
    (0o100000, "S_IFREG"),
    (0o060000, "S_IFBLK"),
    (0o040000, "S_IFDIR"),
    (0o020000, "S_IFCHR"),
    (0o010000, "S_IFIFO"),
];

/// `struct stat`: its type, rights and size.
pub(super) fn stat(line: &mut Line, at: usize) -> fmt::Result {
    let Some(stat) = read::<56>(at) else { return pointer(line, at) };
    let mode = u32_at(&stat, 24);
    line.write_str("{st_mode=")?;
    name_of(line, u64::from(mode & 0o170000), FILE_TYPE)?;
    write!(line, "|0{:o}, st_size={}, ...}}", mode & 0o7777, u64_at(&stat, 48))
}

/// An argument vector: its strings.
pub(super) fn strings(line: &mut Line, at: usize) -> fmt::Result {
    if at == 0 {
        return line.write_str("NULL");
    }
    line.write_str("[")?;
    for index in 0.. {
        let Some(entry) = read::<8>(at.wrapping_add(index * 8)) else { break };
        let string = u64_at(&entry, 0) as usize;
        if string == 0 {
            break;
        }
        line.write_str(if index == 0 { "" } else { ", " })?;
        if index == 4 * ELEMENTS {
            line.write_str("...")?;
            break;
        }
        super::argument::string(line, string)?;
    }
    line.write_str("]")
}

/// An environment: how many there are.
pub(super) fn variables(line: &mut Line, at: usize) -> fmt::Result {
    let mut count = 0;
    while count < 4096 && read::<8>(at.wrapping_add(count * 8)).is_some_and(|entry| u64_at(&entry, 0) != 0) {
        count += 1;
    }
    pointer(line, at)?;
    if at == 0 { Ok(()) } else { write!(line, " /* {count} vars */") }
}

/// What wait(2) tells (wait.h's macros).
pub(super) fn wait_status(line: &mut Line, at: usize) -> fmt::Result {
    let Some(status) = read::<4>(at) else { return pointer(line, at) };
    let status = u32_at(&status, 0);
    match (status & 0x7f, status >> 8 & 0xff) {
        (0, code) => write!(line, "[{{WIFEXITED(s) && WEXITSTATUS(s) == {code}}}]"),
        (0x7f, _) if status == 0xffff => line.write_str("[{WIFCONTINUED(s)}]"),
        (0x7f, signal) => {
            line.write_str("[{WIFSTOPPED(s) && WSTOPSIG(s) == ")?;
            super::argument::signal(line, signal as i32)?;
            line.write_str("}]")
        }
        (signal, _) => {
            line.write_str("[{WIFSIGNALED(s) && WTERMSIG(s) == ")?;
            super::argument::signal(line, signal as i32)?;
            line.write_str("}]")
        }
    }
}

/// A signal set: its members, or those that are missing where that is shorter.
pub(super) fn signal_set(line: &mut Line, at: usize) -> fmt::Result {
    match read::<8>(at) {
        Some(set) => signals(line, u64_at(&set, 0)),
        None => pointer(line, at),
    }
}

fn signals(line: &mut Line, set: u64) -> fmt::Result {
    let (sign, set) = if set.count_ones() > 32 { ("~", !set) } else { ("", set) };
    write!(line, "{sign}[")?;
    let mut separator = "";
    for signal in (1..=64).filter(|signal| set >> (signal - 1) & 1 != 0) {
        line.write_str(separator)?;
        super::argument::signal_without_prefix(line, signal)?;
        separator = " ";
    }
    line.write_str("]")
}

const ACTION: &[(u64, &str)] = &[
    (0x0400_0000, "SA_RESTORER"),
    (0x0800_0000, "SA_ONSTACK"),
    (0x1000_0000, "SA_RESTART"),
    (0x4000_0000, "SA_NODEFER"),
    (0x8000_0000, "SA_RESETHAND"),
    (1, "SA_NOCLDSTOP"),
    (2, "SA_NOCLDWAIT"),
    (4, "SA_SIGINFO"),
];

/// The kernel's `struct sigaction`.
pub(super) fn action(line: &mut Line, at: usize) -> fmt::Result {
    let Some(action) = read::<32>(at) else { return pointer(line, at) };
    line.write_str("{sa_handler=")?;
    match u64_at(&action, 0) {
        0 => line.write_str("SIG_DFL")?,
        1 => line.write_str("SIG_IGN")?,
        handler => write!(line, "{handler:#x}")?,
    }
    line.write_str(", sa_mask=")?;
    signals(line, u64_at(&action, 24))?;
    line.write_str(", sa_flags=")?;
    match u64_at(&action, 8) {
        0 => line.write_str("0")?,
        set => flags(line, set, ACTION)?,
    }
    line.write_str("}")
}
