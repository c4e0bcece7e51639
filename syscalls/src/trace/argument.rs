//! A call's arguments on a line of the trace, by their kind in the table. What a call fills in is written after it,
//! the rest before.

use super::{Line, memory};
use crate::args::Kind;
use crate::user::UserStr;
use crate::{Errno, Result};
use core::fmt::{self, Write};

/// An argument that the call reads, or its register alone.
pub(super) fn before(line: &mut Line, kind: Kind, args: &[usize; 6], at: usize) -> fmt::Result {
    const AT_FDCWD: i32 = -100;
    let raw = args[at];
    let next = || args.get(at + 1).copied().unwrap_or(0);
    match kind {
        Kind::DirFd if raw as i32 == AT_FDCWD => line.write_str("AT_FDCWD"),
        Kind::Fd | Kind::DirFd => write!(line, "{}", raw as i32),
        // 32-bit arguments come zero- or sign-extended, as the caller's compiler liked.
        Kind::Signed if raw <= u32::MAX as usize => write!(line, "{}", raw as i32),
        Kind::Signed => write!(line, "{}", raw as isize),
        Kind::Unsigned => write!(line, "{raw}"),
        Kind::Hex => write!(line, "{raw:#x}"),
        Kind::Octal => write!(line, "0{raw:o}"),
        Kind::Str => string(line, raw),
        Kind::BytesIn => memory::bytes(line, raw, next()),
        Kind::Signal => signal(line, raw as i32),
        Kind::Choice(names) => name_of(line, u64::from(raw as u32), names),
        Kind::Flags(names) => flags(line, raw as u64, names),
        Kind::SocketOption(names) => {
            let level = at.checked_sub(1).map_or(0, |level| args[level] as i32);
            let names = names.iter().find(|(of, _)| *of == level).map_or(&[][..], |(_, names)| names);
            match names.iter().find(|(value, _)| *value == u64::from(raw as u32)) {
                Some((_, name)) => line.write_str(name),
                None => write!(line, "{}", raw as i32),
            }
        }
        Kind::SockAddrIn => memory::socket_address(line, raw, next() as u32 as usize),
        Kind::OptionIn => memory::option_value(line, raw, next() as u32 as usize),
        Kind::TimeIn => memory::timespec(line, raw),
        Kind::PollFds => memory::poll_asked(line, raw, next()),
        Kind::EventIn => memory::epoll_event(line, raw),
        Kind::IovecsIn => memory::iovecs(line, raw, next(), usize::MAX),
        Kind::MessageIn => memory::message(line, raw, usize::MAX),
        Kind::Strings => memory::strings(line, raw),
        Kind::Variables => memory::variables(line, raw),
        Kind::MaskIn => memory::signal_set(line, raw),
        Kind::ActionIn => memory::action(line, raw),
        _ => memory::pointer(line, raw),
    }
}

/// An argument that the call has filled in. What a failed call left there means nothing, and only its address is shown.
pub(super) fn after(
    line: &mut Line,
    kind: Kind,
    args: &[usize; 6],
    at: usize,
    result: Result,
) -> fmt::Result {
    let raw = args[at];
    let next = || args.get(at + 1).copied().unwrap_or(0);
    let Ok(result) = result else {
        return if kind.is_filled_in() { memory::pointer(line, raw) } else { before(line, kind, args, at) };
    };
    match kind {
        Kind::BytesOut => memory::bytes(line, raw, result),
        Kind::SockAddrOut => memory::socket_address(line, raw, memory::length_value(next())),
        Kind::OptionOut => memory::option_value(line, raw, memory::length_value(next())),
        Kind::LengthOut => memory::length(line, raw),
        Kind::PairOut => memory::pair(line, raw),
        Kind::TimeOut => memory::timespec(line, raw),
        Kind::EventsOut => memory::epoll_events(line, raw, result),
        Kind::IovecsOut => memory::iovecs(line, raw, next(), result),
        Kind::MessageOut => memory::message(line, raw, result),
        Kind::StatOut => memory::stat(line, raw),
        // wait4(2) that found nobody has written nothing.
        Kind::StatusOut if result == 0 => memory::pointer(line, raw),
        Kind::StatusOut => memory::wait_status(line, raw),
        Kind::MaskOut => memory::signal_set(line, raw),
        Kind::ActionOut => memory::action(line, raw),
        _ => before(line, kind, args, at),
    }
}

/// The name of a value.
pub(super) fn name_of(line: &mut Line, value: u64, names: &[(u64, &str)]) -> fmt::Result {
    match names.iter().find(|(known, _)| *known == value) {
        Some((_, name)) => line.write_str(name),
        None => write!(line, "{value:#x}"),
    }
}

/// The names of bits, and of none where that has a name.
pub(super) fn flags(line: &mut Line, mut value: u64, names: &[(u64, &str)]) -> fmt::Result {
    if value == 0 {
        return line.write_str(names.iter().find(|(bits, _)| *bits == 0).map_or("0", |(_, name)| name));
    }
    let mut separator = "";
    for (bits, name) in names.iter().filter(|(bits, _)| *bits != 0) {
        if value & bits == *bits {
            write!(line, "{separator}{name}")?;
            value &= !bits;
            separator = "|";
        }
    }
    if value != 0 {
        write!(line, "{separator}{value:#x}")?;
    }
    Ok(())
}

/// A string of the program.
pub(super) fn string(line: &mut Line, at: usize) -> fmt::Result {
    if at == 0 {
        return line.write_str("NULL");
    }
    let mut text = [0u8; 256];
    match UserStr(at).read(&mut text, Errno::ENAMETOOLONG) {
        Ok(text) => memory::quoted(line, text),
        Err(Errno::ENAMETOOLONG) => {
            memory::quoted(line, &text)?;
            line.write_str("...")
        }
        Err(_) => write!(line, "{at:#x}"),
    }
}

/// A signal's name.
pub(super) fn signal(line: &mut Line, signal: i32) -> fmt::Result {
    match signal {
        1..32 => line.write_str("SIG").and_then(|()| signal_without_prefix(line, signal)),
        32..=64 => write!(line, "SIGRT_{}", signal - 32),
        _ => write!(line, "{signal}"),
    }
}

/// A signal's name in a set.
pub(super) fn signal_without_prefix(line: &mut Line, signal: i32) -> fmt::Result {
    const NAMES: [&str; 32] = [
        "0", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU",
        "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    match NAMES.get(signal as usize) {
        Some(name) => line.write_str(name),
        None => write!(line, "RT_{}", signal - 32),
    }
}
