//! The end of a guest by a fault: what, where, how it came there; then exit status 128+n.
//!
//! Written on a stack of its own ([`WORK`]), from the fault's handler or from the thread that made it. It
//! allocates nothing, takes no lock and trusts no pointer: memory is read through
//! [`user_copy`](crate::user_copy). What is mapped is in [`maps`], the way from frame to frame in
//! [`unwind`], names in [`symbols`].

use crate::arch::Frame;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use platform::host;
use unwind::{Registers, Stop};

mod maps;
mod symbols;
mod unwind;

/// Whose code made the fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// The program or a library.
    Program,
    /// The runtime: a defect of Attacca.
    Kernel,
}

/// Most frames that a backtrace shows.
const MOST_FRAMES: usize = 64;
/// Most frames that it looks at: an 8 MiB stack full of the smallest ones that make sense.
const MOST_STEPS: usize = 1 << 18;
/// Words of the stack that are looked through for return addresses.
const SCANNED_WORDS: usize = 1024;
/// Most guesses that are shown.
const MOST_GUESSES: usize = 12;

/// Stack of the report. The program's may be full, and the vCPU's handler stack takes the faults that
/// reads of bad memory make.
const REPORT_STACK: usize = 128 * 1024;

/// What the report needs; its pages are not touched before.
#[repr(C, align(64))]
struct Work {
    stack: UnsafeCell<[u8; REPORT_STACK]>,
    job: UnsafeCell<Option<Job>>,
}

/// Registers to begin with; the fault, or `None` for an abort.
struct Job {
    registers: Registers,
    fault: Option<(Frame, Whose)>,
}

// SAFETY: only the one thread that `begin` lets through touches it.
unsafe impl Sync for Work {}

static WORK: Work = Work { stack: UnsafeCell::new([0; REPORT_STACK]), job: UnsafeCell::new(None) };
/// The host thread that writes a report; 0 before, [`DONE`] afterwards.
static REPORTER: AtomicI32 = AtomicI32::new(0);
const DONE: i32 = -1;
/// With what the guest ends then.
static STATUS: AtomicI32 = AtomicI32::new(125);

/// Where a thread goes that overflowed its stack and has no other, on the way to its end.
#[repr(C, align(64))]
struct LastStack(UnsafeCell<[u8; LAST_STACK]>);

const LAST_STACK: usize = 64 * 1024;

// SAFETY: `last_stack` gives it away once.
unsafe impl Sync for LastStack {}

static LAST: LastStack = LastStack(UnsafeCell::new([0; LAST_STACK]));

/// The end of a stack for a thread that has none left; once in a process's life.
pub(crate) fn last_stack() -> Option<usize> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    (!TAKEN.swap(true, Ordering::Relaxed)).then(|| LAST.0.get() as usize + LAST_STACK)
}

/// Writes the report to standard error and ends the host process: 128+signal for the program's fault, 125
/// for the runtime's own.
pub(crate) fn report_and_exit(frame: &Frame, whose: Whose) -> ! {
    let status = match whose {
        Whose::Program => 128 + frame.info.signo,
        Whose::Kernel => 125,
    };
    on_report_stack(status, Job { registers: registers_of(frame), fault: Some((*frame, whose)) });
    platform::thread::exit_group(status)
}

/// Reports a fault of the program that ends it. In the kernel, on any stack; the caller ends the process.
pub fn report_fault(frame: &Frame) {
    let job = Job { registers: registers_of(frame), fault: Some((*frame, Whose::Program)) };
    on_report_stack(128 + frame.info.signo, job);
}

/// Says that the program ends itself by SIGABRT (abort(3)), and where from. In the kernel on the thread's
/// own stack; the runtime's frames below the program's call are left out. The caller ends the process.
pub fn report_abort(signal: i32) {
    on_report_stack(128 + signal, Job { registers: Registers::here(), fault: None });
}

/// Writes the report on the stack made for it, if no other thread of the process has written one.
fn on_report_stack(status: i32, job: Job) {
    if !begin(status) {
        return;
    }
    // Only faults get through from here on: those of reads that are fixed up.
    let mask = crate::signal::only_faults();
    // SAFETY: `begin` lets one thread through, once.
    unsafe { *WORK.job.get() = Some(job) };
    let top = WORK.stack.get() as usize + REPORT_STACK;
    // SAFETY: a stack of our own, 16-aligned before the call; r12 is the callee's to preserve.
    unsafe {
        asm!("mov r12, rsp", "mov rsp, {top}", "call {write}", "mov rsp, r12",
            top = in(reg) top, write = sym write_job, out("r12") _, clobber_abi("C"))
    }
    crate::signal::restore_mask(mask);
    REPORTER.store(DONE, Ordering::Release);
}

/// Lets one thread through. The report's own fault ends the process at once; another thread's waits until
/// the report is out, and is not reported: it is on the way to the same end.
fn begin(status: i32) -> bool {
    const MILLISECOND: [u64; 2] = [0, 1_000_000];
    let me = platform::thread::gettid();
    loop {
        match REPORTER.compare_exchange(0, me, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => {
                STATUS.store(status, Ordering::Relaxed);
                return true;
            }
            Err(DONE) => return false,
            Err(reporter) if reporter == me => platform::thread::exit_group(STATUS.load(Ordering::Relaxed)),
            // SAFETY: sleeps; the structure is ours.
            Err(_) => drop(unsafe { host!(nanosleep, MILLISECOND.as_ptr(), 0) }),
        }
    }
}

unsafe extern "C" fn write_job() {
    // SAFETY: written by this thread, in `on_report_stack`.
    let Some(job) = (unsafe { &*WORK.job.get() }) else { return };
    let out = &mut Stderr::new();
    // It looks into files of the host.
    let _ = platform::hands::passing(|| match &job.fault {
        Some((frame, whose)) => report(out, frame, *whose),
        None => writeln!(out, "attacca: SIGABRT (the program ends itself)")
            .and_then(|()| backtrace(out, job.registers, true)),
    });
}

fn report(out: &mut Stderr, frame: &Frame, whose: Whose) -> fmt::Result {
    let info = &frame.info;
    if whose == Whose::Kernel {
        write!(out, "attacca: internal fault: ")?;
    } else {
        write!(out, "attacca: ")?;
    }
    write!(out, "{} ({})", signal_name(info.signo), cause(info.signo, info.code))?;
    if matches!(info.signo, 11 | 7) {
        write!(out, " at address {:#x}", info.address())?;
        // A frame that does not fit any more touches the guard below the stack near its pointer.
        if (frame.rsp as usize).abs_diff(info.address()) < 64 * 1024 {
            write!(out, " (the stack's end: it overflowed)")?;
        }
    }
    write!(out, ", instruction ")?;
    writeln!(out, "{}", Place { address: frame.rip as usize, exact: true })?;
    registers(out, frame)?;
    backtrace(out, registers_of(frame), false)
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

/// By the objects' call frame information; by frame pointers where there is none, which is said; and
/// what looks like a return address where both end too early, marked as a guess. A frame that calls
/// itself again and again, as before an overflow, is shown once with its number.
fn backtrace(out: &mut Stderr, mut registers: Registers, skip_runtime: bool) -> fmt::Result {
    writeln!(out, "backtrace:")?;
    let mut cache = unwind::Cache::default();
    let (mut exact, mut how) = (!skip_runtime, "");
    let (mut printed, mut same, mut skipping) = (0, 0usize, skip_runtime);
    for _ in 0..MOST_STEPS {
        let rip = registers.0[unwind::RIP];
        let next = unwind::caller(&registers, exact, &mut cache);
        let next_rip = next.as_ref().map_or(0, |caller| caller.registers.0[unwind::RIP]);
        skipping = skipping && is_runtime(next_rip);
        if !skipping && next_rip == rip {
            same += 1;
        } else if !skipping {
            if printed == MOST_FRAMES {
                return writeln!(out, "  ...");
            }
            let how = if unwind::is_signal_return(rip) { " (signal frame)" } else { how };
            write!(out, "  #{printed} {}{how}", Place { address: rip, exact })?;
            match same {
                0 => writeln!(out)?,
                _ => writeln!(out, " ({} times)", same + 1)?,
            }
            printed += 1;
            same = 0;
        }
        (registers, exact, how) = match next {
            Ok(caller) => (caller.registers, caller.exact, ""),
            Err(Stop::Outermost) => return Ok(()),
            Err(Stop::Damaged) => {
                writeln!(out, "  (the stack is damaged from here on)")?;
                return guesses(out, registers.0[unwind::RSP]);
            }
            Err(Stop::Unknown) => {
                // A call of something that is no code has pushed where it came from.
                let called = exact.then(|| caller_of_no_code(&registers)).flatten();
                match called
                    .map(|c| (c, ""))
                    .or_else(|| by_frame_pointer(&registers).map(|c| (c, BY_POINTER)))
                {
                    Some((caller, how)) => (caller, false, how),
                    None => return guesses(out, registers.0[unwind::RSP]),
                }
            }
        };
    }
    writeln!(out, "  ...")
}

/// Whether an address lies in the runtime's own image.
fn is_runtime(address: usize) -> bool {
    use platform::layout::{ARENA_BASE, WINDOW_START};
    (WINDOW_START..ARENA_BASE).contains(&address)
}

const BY_POINTER: &str = " (by frame pointer)";

fn registers_of(f: &Frame) -> Registers {
    let by_number = [
        f.rax, f.rdx, f.rcx, f.rbx, f.rsi, f.rdi, f.rbp, f.rsp, f.r8, f.r9, f.r10, f.r11, f.r12, f.r13,
        f.r14, f.r15, f.rip,
    ];
    Registers(by_number.map(|r| r as usize))
}

/// The state before a call through a bad pointer.
fn caller_of_no_code(of: &Registers) -> Option<Registers> {
    let (rip, rsp) = (of.0[unwind::RIP], of.0[unwind::RSP]);
    let back = maps::read_word(rsp)?;
    if maps::is_code(rip) || !maps::is_code(back) || !follows_call(back) {
        return None;
    }
    let mut registers = *of;
    registers.0[unwind::RSP] = rsp + 8;
    registers.0[unwind::RIP] = back;
    Some(registers)
}

fn by_frame_pointer(of: &Registers) -> Option<Registers> {
    let (at, rsp) = (of.0[unwind::RBP], of.0[unwind::RSP]);
    if at < rsp || !at.is_multiple_of(8) {
        return None;
    }
    let (next, back) = (maps::read_word(at)?, maps::read_word(at + 8)?);
    if !maps::is_code(back) || !follows_call(back) {
        return None;
    }
    let mut registers = *of;
    registers.0[unwind::RBP] = next;
    registers.0[unwind::RSP] = at + 16;
    registers.0[unwind::RIP] = back;
    Some(registers)
}

fn guesses(out: &mut Stderr, rsp: usize) -> fmt::Result {
    let words = (0..SCANNED_WORDS).filter_map(|i| maps::read_word((rsp & !7).checked_add(8 * i)?));
    for word in
        words.filter(|&word| word > 4096 && follows_call(word) && maps::is_code(word)).take(MOST_GUESSES)
    {
        writeln!(out, "  {} (guess: found on the stack)", Place { address: word, exact: false })?;
    }
    Ok(())
}

/// Whether the bytes before a return address are a call: e8 rel32, or ff /2 with 2, 3, 6 or 7 bytes.
fn follows_call(back: usize) -> bool {
    let Some(before) = maps::read::<8>(back.wrapping_sub(8)) else { return false };
    let indirect = |distance: usize| before[8 - distance] == 0xff && before[9 - distance] >> 3 & 7 == 2;
    before[3] == 0xe8 || [2, 3, 6, 7].into_iter().any(indirect)
}

/// An address as `0x... in function+0x... (object+0x...)`.
struct Place {
    address: usize,
    /// Not a return address: those belong to the call before them, which may be a function's last byte.
    exact: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.address)?;
        let Some(object) = maps::object_at(self.address) else {
            return f.write_str(" (nothing is mapped there)");
        };
        let back = usize::from(!self.exact);
        let headers = maps::headers(object.base).unwrap_or_default();
        if let Some(mut name) = symbols::name(&object, &headers, self.address.wrapping_sub(back)) {
            name.offset += back;
            write!(f, " in {name}")?;
        }
        let path = core::str::from_utf8(object.path()).unwrap_or("?");
        let path = if path.is_empty() { "anonymous memory" } else { path };
        write!(f, " ({path}+{:#x})", self.address.wrapping_sub(object.base))
    }
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
