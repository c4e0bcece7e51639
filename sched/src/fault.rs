//! The end of a guest by a fault: what, where, how it came there; then exit status 128+n.
//!
//! Written in the fault's own handler or on the stack of the thread that made it, so it allocates
//! nothing, takes no lock and trusts no pointer: memory is read through [`user_copy`].

use crate::arch::Frame;
use crate::user_copy;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use platform::host;

/// Whose code made the fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// The program or a library.
    Program,
    /// The runtime: a defect of Attacca.
    Kernel,
}

/// Most frames that a backtrace shows.
const MOST_FRAMES: usize = 48;
/// Words of the stack that are looked through for return addresses.
const SCANNED_WORDS: usize = 512;

/// Writes the report to standard error and ends the guest: 128+signal for the program's fault, 125
/// for the runtime's own.
pub fn report_and_exit(frame: &Frame, whose: Whose) -> ! {
    // The only static here: a report that faults itself, or a second vCPU's, ends things at once.
    static BEGUN: AtomicBool = AtomicBool::new(false);
    if !BEGUN.swap(true, Ordering::Relaxed) {
        let _ = report(frame, whose);
    }
    platform::thread::exit_group(match whose {
        Whose::Program => 128 + frame.info.signo,
        Whose::Kernel => 125,
    })
}

/// Writes the report to standard error.
pub fn report(frame: &Frame, whose: Whose) -> fmt::Result {
    let out = &mut Stderr::new();
    let info = &frame.info;
    if whose == Whose::Kernel {
        write!(out, "attacca: internal fault: ")?;
    } else {
        write!(out, "attacca: ")?;
    }
    write!(out, "{} ({})", signal_name(info.signo), cause(info.signo, info.code))?;
    if matches!(info.signo, 11 | 7) {
        write!(out, " at address {:#x}", info.address())?;
    }
    write!(out, ", instruction ")?;
    writeln!(out, "{}", Place(frame.rip as usize))?;
    registers(out, frame)?;
    backtrace(out, frame)
}

fn registers(out: &mut Stderr, f: &Frame) -> fmt::Result {
    let table: [(&str, u64); 18] = [
        ("rax", f.rax),
        ("rbx", f.rbx),
        ("rcx", f.rcx),
        ("rdx", f.rdx),
        ("rsi", f.rsi),
        ("rdi", f.rdi),
        ("rbp", f.rbp),
        ("rsp", f.rsp),
        ("r8", f.r8),
        ("r9", f.r9),
        ("r10", f.r10),
        ("r11", f.r11),
        ("r12", f.r12),
        ("r13", f.r13),
        ("r14", f.r14),
        ("r15", f.r15),
        ("rip", f.rip),
        ("flags", f.rflags),
    ];
    for row in table.chunks(6) {
        write!(out, " ")?;
        for (name, value) in row {
            write!(out, " {name} {value:#x}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// By frame pointers as far as they lead; then what looks like a return address, marked as a guess.
fn backtrace(out: &mut Stderr, frame: &Frame) -> fmt::Result {
    writeln!(out, "backtrace:")?;
    writeln!(out, "  {}", Place(frame.rip as usize))?;
    let mut at = frame.rbp as usize;
    let mut lowest = frame.rsp as usize;
    let mut frames = 0;
    while at >= lowest && at.is_multiple_of(8) && frames < MOST_FRAMES {
        let (Some(next), Some(back)) = (read_word(at), read_word(at + 8)) else { break };
        if !is_code(back) {
            break;
        }
        writeln!(out, "  {}", Place(back))?;
        lowest = at + 16;
        at = next;
        frames += 1;
    }
    if frames > 2 {
        return Ok(());
    }
    // After an overflow rsp itself points at nothing; the stack begins at the next page then.
    for word in (0..SCANNED_WORDS + 512).filter_map(|i| read_word((frame.rsp as usize & !7) + 8 * i)) {
        if frames >= 16 {
            break;
        }
        if is_code(word) && follows_call(word) {
            writeln!(out, "  {} (guess: found on the stack)", Place(word))?;
            frames += 1;
        }
    }
    Ok(())
}

fn read_word(address: usize) -> Option<usize> {
    let mut word = [0u8; 8];
    // SAFETY: our buffer; a bad address is a count.
    let left = unsafe { user_copy::copy(word.as_mut_ptr(), address as *const u8, 8) };
    (left == 0).then_some(usize::from_le_bytes(word))
}

/// Whether the bytes before a return address are a call: e8 rel32, or ff /2 with 2, 3, 6 or 7 bytes.
fn follows_call(back: usize) -> bool {
    let mut before = [0u8; 8];
    // SAFETY: our buffer; a bad address is a count.
    let left = unsafe { user_copy::copy(before.as_mut_ptr(), back.wrapping_sub(8) as *const u8, 8) };
    let indirect = |distance: usize| before[8 - distance] == 0xff && before[9 - distance] >> 3 & 7 == 2;
    left == 0 && (before[3] == 0xe8 || [2, 3, 6, 7].into_iter().any(indirect))
}

fn is_code(address: usize) -> bool {
    let mut found = false;
    each_mapping(|line| {
        if line.range.contains(&address) {
            found = line.executable;
        }
    });
    found
}

/// An address as `0x..., object + 0x offset`.
struct Place(usize);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)?;
        let mut answer = Ok(());
        let mut first = 0;
        let mut name = [0u8; 256];
        let mut known = 0;
        each_mapping(|line| {
            // The offset counts from the object's first mapping, as addr2line wants it.
            if &name[..known] != line.name || line.name.is_empty() {
                known = line.name.len().min(name.len());
                name[..known].copy_from_slice(&line.name[..known]);
                first = line.range.start - line.offset;
            }
            if line.range.contains(&self.0) {
                let text = core::str::from_utf8(line.name).unwrap_or("?");
                let text = if text.is_empty() { "anonymous memory" } else { text };
                answer = write!(f, " ({text}+{:#x})", self.0 - first);
            }
        });
        answer
    }
}

/// A line of /proc/self/maps.
struct Mapping<'a> {
    range: core::ops::Range<usize>,
    executable: bool,
    offset: usize,
    name: &'a [u8],
}

/// Calls `each` for every mapping of the process; none if the file cannot be read.
fn each_mapping(mut each: impl FnMut(&Mapping<'_>)) {
    const AT_FDCWD: isize = -100;
    // SAFETY: the path is a literal; the descriptor is closed below.
    let Ok(fd) = (unsafe { host!(openat, AT_FDCWD, c"/proc/self/maps".as_ptr(), 0o2000000) }) else { return };
    let mut line = [0u8; 512];
    let mut held = 0;
    loop {
        // SAFETY: the buffer is ours.
        let got = unsafe { host!(read, fd, line.as_mut_ptr().add(held), line.len() - held) }.unwrap_or(0);
        if got == 0 {
            break;
        }
        held += got;
        while let Some(end) = line[..held].iter().position(|&b| b == b'\n') {
            if let Some(mapping) = parse(&line[..end]) {
                each(&mapping);
            }
            line.copy_within(end + 1..held, 0);
            held -= end + 1;
        }
        // A line longer than the buffer: a path of no interest to a report.
        if held == line.len() {
            held = 0;
        }
    }
    // SAFETY: opened above.
    let _ = unsafe { host!(close, fd) };
}

/// `start-end perms offset dev inode   path`
fn parse(line: &[u8]) -> Option<Mapping<'_>> {
    let mut fields = line.split(|&b| b == b' ').filter(|f| !f.is_empty());
    let mut range = fields.next()?.split(|&b| b == b'-');
    let (start, end) = (hex(range.next()?)?, hex(range.next()?)?);
    let executable = fields.next()?.get(2) == Some(&b'x');
    let offset = hex(fields.next()?)?;
    let name = fields.nth(2).unwrap_or(b"");
    Some(Mapping { range: start..end, executable, offset, name })
}

fn hex(text: &[u8]) -> Option<usize> {
    usize::from_str_radix(core::str::from_utf8(text).ok()?, 16).ok()
}

/// The signal's name, as strsignal's manual lists it.
pub fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        11 => "SIGSEGV",
        31 => "SIGSYS",
        _ => "signal",
    }
}

/// `si_code` in words (sigaction(2)).
fn cause(signal: i32, code: i32) -> &'static str {
    match (signal, code) {
        (11, 1) => "no memory is mapped there",
        (11, 2) => "the mapping forbids that access",
        (11, 0x80) => "general protection: a non-canonical address or a privileged instruction",
        (7, 1) => "misaligned address",
        (7, 2) => "no such physical address, or the file behind the mapping is shorter",
        (8, 1) => "integer division by zero or overflow",
        (8, _) => "arithmetic exception",
        (4, _) => "illegal instruction",
        (5, _) => "trace or breakpoint trap",
        (31, _) => "bad system call",
        _ => "fault",
    }
}

/// Standard error, a line at a time.
struct Stderr {
    line: [u8; 256],
    held: usize,
}

impl Stderr {
    fn new() -> Stderr {
        Stderr { line: [0; 256], held: 0 }
    }

    fn flush(&mut self) {
        // SAFETY: the buffer is ours. A closed standard error loses the report, nothing else.
        let _ = unsafe { host!(write, 2, self.line.as_ptr(), self.held) };
        self.held = 0;
    }
}

impl Write for Stderr {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            self.line[self.held] = byte;
            self.held += 1;
            if byte == b'\n' || self.held == self.line.len() {
                self.flush();
            }
        }
        Ok(())
    }
}
