//! `--trace`: a line for each call, as strace(1) writes them, made from the table's argument kinds.
//!
//! Arguments are written down before the call, the result after it; the line goes to a host
//! descriptor in one write, so lines of several threads do not mix. The switch, the descriptor and
//! the filter are set once at start-up and constant from then on.

use crate::args::Kind;
use crate::context::Ctx;
use crate::table::{self, Row};
use crate::user::{UserStr, read_bytes};
use crate::{Errno, Result, errno};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use platform::host;

static ON: AtomicBool = AtomicBool::new(false);
static DESCRIPTOR: AtomicI32 = AtomicI32::new(2);
/// Which numbers are traced.
static CHOSEN: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
const WORDS: usize = table::NUMBERS.div_ceil(64);

/// Longest string that is shown whole.
const SHOWN: usize = 64;

/// Whether any call is traced: one load on the way of every call.
#[inline(always)]
pub fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Starts tracing to host descriptor `fd`. `set` is a comma-separated list of call names and
/// families (`file`, `desc`, `network`, `memory`, `signal`, `process`, `time`, `poll`, with or without
/// strace's `%`), after `!` all but those; empty or `all` for all. `Err` names what is unknown.
pub fn start(fd: i32, set: &str) -> core::result::Result<(), &str> {
    let (negated, set) = set.strip_prefix('!').map_or((false, set), |rest| (true, rest));
    let set = if set == "all" { "" } else { set };
    let mut chosen = [0u64; WORDS];
    for item in set.split(',').filter(|item| !item.is_empty()) {
        let mut known = false;
        for row in table::rows().filter(|row| row.name == item || in_family(row, item)) {
            chosen[row.number / 64] |= 1 << (row.number % 64);
            known = true;
        }
        if !known {
            return Err(item);
        }
    }
    let invert = negated || set.is_empty();
    for (word, bits) in CHOSEN.iter().zip(chosen) {
        word.store(if invert { !bits } else { bits }, Ordering::Relaxed);
    }
    DESCRIPTOR.store(fd, Ordering::Relaxed);
    ON.store(true, Ordering::Release);
    Ok(())
}

fn in_family(row: &Row, family: &str) -> bool {
    let named = |names: &[&str]| names.iter().any(|name| row.name.contains(name));
    match family.trim_start_matches('%') {
        "file" => row.kinds.iter().any(|kind| matches!(kind, Kind::Str | Kind::DirFd)),
        "desc" => row.kinds.iter().any(|kind| matches!(kind, Kind::Fd)),
        "network" | "net" => {
            named(&["sock", "connect", "accept", "listen", "shutdown", "peername", "sendto", "recvfrom"])
                || named(&["sendm", "recvm"])
                || row.name == "bind"
        }
        "memory" => {
            named(&["mmap", "munmap", "mprotect", "brk", "mremap", "msync", "mincore", "madvise", "mlock"])
        }
        "signal" => named(&["sig", "kill", "pause"]),
        "process" => named(&["clone", "fork", "exec", "wait4", "waitid", "exit"]),
        "time" => named(&["clock", "time", "sleep", "alarm"]),
        "poll" => named(&["poll", "select"]),
        _ => false,
    }
}

/// Makes a call with a line around it.
#[cold]
pub fn traced(ctx: &Ctx, number: usize, args: &[usize; 6], call: impl FnOnce(&Ctx) -> Result) -> Result {
    let chosen =
        CHOSEN.get(number / 64).is_none_or(|word| word.load(Ordering::Relaxed) >> (number % 64) & 1 != 0);
    if !chosen {
        return call(ctx);
    }
    let mut line = Line::new();
    write_call(&mut line, ctx, number, args);
    if matches!(number as u32, platform::sys::number::exit | platform::sys::number::exit_group) {
        let _ = line.write_str(" = ?");
        line.send();
        return call(ctx);
    }
    let result = call(ctx);
    let _ = write_result(&mut line, number, result);
    line.send();
    result
}

/// execve(2) does not come back when it succeeds, so it says so itself.
pub fn executed(ctx: &Ctx, path: &[u8]) {
    const EXECVE: usize = platform::sys::number::execve as usize;
    let chosen = CHOSEN[EXECVE / 64].load(Ordering::Relaxed) >> (EXECVE % 64) & 1 != 0;
    if is_on() && chosen {
        let mut line = Line::new();
        let _ = write!(line, "[{}] execve(\"{}\", ...) = 0", ctx.task.tid, path.escape_ascii());
        line.send();
    }
}

fn write_call(line: &mut Line, ctx: &Ctx, number: usize, args: &[usize; 6]) {
    let tid = ctx.task.tid;
    let _ = match table::row(number) {
        Some(row) => {
            let _ = write!(line, "[{tid}] {}(", row.name);
            for (at, kind) in row.kinds.iter().enumerate() {
                let _ = line.write_str(if at == 0 { "" } else { ", " });
                let _ = write_argument(line, *kind, args, at);
            }
            line.write_str(")")
        }
        None => write!(line, "[{tid}] syscall_{number}({:#x}, {:#x}, {:#x})", args[0], args[1], args[2]),
    };
}

fn write_argument(line: &mut Line, kind: Kind, args: &[usize; 6], at: usize) -> fmt::Result {
    const AT_FDCWD: i32 = -100;
    let raw = args[at];
    match kind {
        Kind::DirFd if raw as i32 == AT_FDCWD => line.write_str("AT_FDCWD"),
        Kind::Fd | Kind::DirFd => write!(line, "{}", raw as i32),
        // 32-bit arguments come zero- or sign-extended, as the caller's compiler liked.
        Kind::Signed if raw <= u32::MAX as usize => write!(line, "{}", raw as i32),
        Kind::Signed => write!(line, "{}", raw as isize),
        Kind::Unsigned => write!(line, "{raw}"),
        Kind::Hex => write!(line, "{raw:#x}"),
        Kind::Octal => write!(line, "0{raw:o}"),
        Kind::Pointer if raw == 0 => line.write_str("NULL"),
        Kind::Pointer => write!(line, "{raw:#x}"),
        Kind::Str => write_string(line, raw),
        Kind::BytesIn => write_bytes(line, raw, args.get(at + 1).copied().unwrap_or(0)),
        Kind::Signal => write_signal(line, raw as i32),
        Kind::Choice(names) => match names.iter().find(|(value, _)| *value == u64::from(raw as u32)) {
            Some((_, name)) => line.write_str(name),
            None => write!(line, "{raw:#x}"),
        },
        Kind::Flags(names) => write_flags(line, raw as u64, names),
    }
}

fn write_flags(line: &mut Line, mut value: u64, names: &[(u64, &str)]) -> fmt::Result {
    let mut separator = "";
    for (bits, name) in names {
        if value & bits == *bits {
            write!(line, "{separator}{name}")?;
            value &= !bits;
            separator = "|";
        }
    }
    if value != 0 || separator.is_empty() {
        write!(line, "{separator}{value:#x}")?;
    }
    Ok(())
}

fn write_string(line: &mut Line, at: usize) -> fmt::Result {
    if at == 0 {
        return line.write_str("NULL");
    }
    let mut text = [0u8; 256];
    match UserStr(at).read(&mut text, Errno::ENAMETOOLONG) {
        Ok(text) => write_quoted(line, text),
        Err(Errno::ENAMETOOLONG) => {
            write_quoted(line, &text)?;
            line.write_str("...")
        }
        Err(_) => write!(line, "{at:#x}"),
    }
}

fn write_bytes(line: &mut Line, at: usize, len: usize) -> fmt::Result {
    let mut bytes = [0u8; SHOWN];
    let shown = &mut bytes[..len.min(SHOWN)];
    if read_bytes(at, shown).is_err() {
        return write!(line, "{at:#x}");
    }
    write_quoted(line, shown)?;
    line.write_str(if len > SHOWN { "..." } else { "" })
}

fn write_quoted(line: &mut Line, bytes: &[u8]) -> fmt::Result {
    write!(line, "\"{}\"", bytes.escape_ascii())
}

fn write_signal(line: &mut Line, signal: i32) -> fmt::Result {
    const NAMES: [&str; 32] = [
        "0",
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    match NAMES.get(signal as usize) {
        Some(name) => line.write_str(name),
        None if (32..=64).contains(&signal) => write!(line, "SIGRT_{}", signal - 32),
        None => write!(line, "{signal}"),
    }
}

fn write_result(line: &mut Line, number: usize, result: Result) -> fmt::Result {
    const MMAP: usize = 9;
    const BRK: usize = 12;
    const MREMAP: usize = 25;
    match result {
        Ok(value) if matches!(number, MMAP | BRK | MREMAP) => write!(line, " = {value:#x}"),
        Ok(value) => write!(line, " = {}", value as isize),
        Err(error) if errno::wants_restart(error) => line.write_str(" = ? (interrupted by a signal)"),
        Err(error) => write!(line, " = -1 {error}"),
    }
}

/// Says once that a program made a call that is not there.
pub fn complain(number: usize) {
    let mut line = Line::new();
    let _ = match table::row(number) {
        Some(row) => write!(line, "attacca: system call {} is not supported: {}", row.name, row.note),
        None => write!(line, "attacca: system call number {number} is unknown"),
    };
    line.send_to(2);
}

/// A line of bounded length, written with one host call.
struct Line {
    text: [u8; 1024],
    len: usize,
}

impl Line {
    fn new() -> Line {
        Line { text: [0; 1024], len: 0 }
    }

    fn send(self) {
        self.send_to(DESCRIPTOR.load(Ordering::Relaxed));
    }

    fn send_to(mut self, fd: i32) {
        self.text[self.len] = b'\n';
        // A trace that nobody reads must not stop the program: errors are dropped.
        // SAFETY: the bytes are ours.
        let _ = unsafe { host!(write, fd, self.text.as_ptr(), self.len + 1) };
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The last byte is kept for the newline.
        let room = self.text.len() - 1 - self.len;
        let count = text.len().min(room);
        self.text[self.len..self.len + count].copy_from_slice(&text.as_bytes()[..count]);
        self.len += count;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString};

    fn argument(kind: Kind, args: [usize; 6]) -> String {
        let mut line = Line::new();
        write_argument(&mut line, kind, &args, 0).unwrap();
        core::str::from_utf8(&line.text[..line.len]).unwrap().to_string()
    }

    #[test]
    fn prints_by_kind() {
        use crate::args::{Argument, DirFd, MapFlags, OpenFlags};
        let path = c"/etc/host\"s";
        assert_eq!(argument(Kind::Str, [path.as_ptr() as usize, 0, 0, 0, 0, 0]), "\"/etc/host\\\"s\"");
        assert_eq!(argument(Kind::Str, [16, 0, 0, 0, 0, 0]), "0x10");
        assert_eq!(argument(DirFd::KIND, [-100i32 as u32 as usize, 0, 0, 0, 0, 0]), "AT_FDCWD");
        assert_eq!(argument(OpenFlags::KIND, [0o2000002, 0, 0, 0, 0, 0]), "O_RDWR|O_CLOEXEC");
        assert_eq!(argument(OpenFlags::KIND, [0; 6]), "0x0");
        assert_eq!(argument(MapFlags::KIND, [0x22, 0, 0, 0, 0, 0]), "MAP_PRIVATE|MAP_ANONYMOUS");
        assert_eq!(argument(Kind::BytesIn, [b"ab\n".as_ptr() as usize, 3, 0, 0, 0, 0]), "\"ab\\n\"");
        assert_eq!(argument(Kind::Signed, [0xffff_ffff, 0, 0, 0, 0, 0]), "-1");
        assert_eq!(argument(Kind::Signal, [15, 0, 0, 0, 0, 0]), "SIGTERM");
    }

    #[test]
    fn families_have_members() {
        for family in ["%file", "%desc", "%network", "%memory", "%signal", "%process", "%time", "%poll"] {
            assert!(table::rows().filter(|row| in_family(row, family)).count() > 2, "{family}");
        }
    }
}
