//! `--trace`: a line for each call, as strace(1) writes them, made from the table's argument kinds.
//!
//! Arguments are written down before the call up to the first that the call fills in, the others and the result
//! after it; the line goes to a host descriptor in one write, so lines of several threads do not mix. The switch, the
//! descriptor and the filter are set once at start-up and constant from then on.

mod argument;
mod memory;

use crate::args::Kind;
use crate::context::Ctx;
use crate::table::{self, Row};
use crate::{Result, errno};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use platform::host;

static ON: AtomicBool = AtomicBool::new(false);
static DESCRIPTOR: AtomicI32 = AtomicI32::new(2);
/// Which numbers are traced.
static CHOSEN: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
const WORDS: usize = table::NUMBERS.div_ceil(64);

/// Longest string or buffer that is shown whole.
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
    let _ = begin(&mut line, ctx, number, args);
    let kinds = table::row(number).map_or(&[][..], |row| row.kinds);
    let filled_in = kinds.iter().position(|kind| kind.is_filled_in()).unwrap_or(kinds.len());
    for (at, &kind) in kinds.iter().enumerate().take(filled_in) {
        let _ = separate(&mut line, at).and_then(|()| argument::before(&mut line, kind, args, at));
    }
    if matches!(number as u32, platform::sys::number::exit | platform::sys::number::exit_group) {
        let _ = line.write_str(") = ?");
        line.send();
        return call(ctx);
    }
    let result = call(ctx);
    for (at, &kind) in kinds.iter().enumerate().skip(filled_in) {
        let _ = separate(&mut line, at).and_then(|()| argument::after(&mut line, kind, args, at, result));
    }
    line.reach_for_the_end();
    let _ = write_result(&mut line, number, result);
    if let (Some(Kind::PollFds), Ok(1..)) = (kinds.first(), result) {
        let _ = memory::poll_answered(&mut line, args[0], args[1]);
    }
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

fn begin(line: &mut Line, ctx: &Ctx, number: usize, args: &[usize; 6]) -> fmt::Result {
    let tid = ctx.task.tid;
    match table::row(number) {
        Some(row) => write!(line, "[{tid}] {}(", row.name),
        None => write!(line, "[{tid}] syscall_{number}({:#x}, {:#x}, {:#x}", args[0], args[1], args[2]),
    }
}

fn separate(line: &mut Line, at: usize) -> fmt::Result {
    line.write_str(if at == 0 { "" } else { ", " })
}

fn write_result(line: &mut Line, number: usize, result: Result) -> fmt::Result {
    const MMAP: usize = 9;
    const BRK: usize = 12;
    const MREMAP: usize = 25;
    match result {
        Ok(value) if matches!(number, MMAP | BRK | MREMAP) => write!(line, ") = {value:#x}"),
        Ok(value) => write!(line, ") = {}", value as isize),
        Err(error) if errno::wants_restart(error) => line.write_str(") = ? (interrupted by a signal)"),
        Err(error) => write!(line, ") = -1 {error}"),
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

/// A line of bounded length, written with one host call. Arguments leave room for the result.
struct Line {
    text: [u8; LINE],
    len: usize,
    limit: usize,
}

const LINE: usize = 1024;
/// For the result, what poll(2) answers, and the newline.
const RESULT: usize = 200;

impl Line {
    fn new() -> Line {
        Line { text: [0; LINE], len: 0, limit: LINE - RESULT }
    }

    /// Makes room for the result, and shows where arguments were cut.
    fn reach_for_the_end(&mut self) {
        let cut = self.len == self.limit;
        self.limit = LINE - 1;
        let _ = self.write_str(if cut { "..." } else { "" });
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
        let count = text.len().min(self.limit - self.len);
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
        argument::before(&mut line, kind, &args, 0).unwrap();
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
        assert_eq!(argument(OpenFlags::KIND, [0; 6]), "O_RDONLY");
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
