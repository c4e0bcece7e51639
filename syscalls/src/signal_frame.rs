//! The signal frame: what a handler finds on its stack, and the way back.
//!
//! The layout is Linux's `struct rt_sigframe` (arch/x86/include/asm/sigframe.h): return address (the
//! program's restorer), `ucontext`, `siginfo`; above it the XSAVE area with the kernel's software
//! bytes (asm/sigcontext.h). Handlers read and change it (profilers, garbage collectors, Go), so it
//! is exact. The restorer's `syscall` instruction comes back to [`sigreturn`].
//!
//! Two ways in. [`push`] has the interrupted program's registers and changes them, as a kernel does.
//! [`run_handler`] is for a call that came through libc, which is an ordinary function: the context
//! that goes into the frame is that of the function itself, so the way back ends in its caller.
//!
//! The one thing a kernel does not have to think of: our own frames are on the program's stack, so
//! the signal frame is put below them where that matters ([`stack_for`]).

use crate::process::Process;
use crate::rt;
use crate::signal::{
    self, AltStack, Delivery, RawInfo, SA_ONSTACK, SA_RESTORER, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK,
    number::SIGSEGV,
};
use crate::task::Task;
use crate::user::{copy_in, copy_out, write_bytes};
use crate::{Errno, Result};
use core::arch::{asm, naked_asm};
use core::mem::{offset_of, size_of};
use sched::Frame;

/// `struct sigcontext_64`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SigContext {
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rax: u64,
    rcx: u64,
    rsp: u64,
    rip: u64,
    rflags: u64,
    cs: u16,
    gs: u16,
    fs: u16,
    ss: u16,
    error: u64,
    trap: u64,
    old_mask: u64,
    cr2: u64,
    fpstate: u64,
    reserved: [u64; 8],
}

/// The kernel's `struct ucontext`.
#[repr(C)]
#[derive(Clone, Copy)]
struct UContext {
    flags: u64,
    link: u64,
    stack: AltStack,
    machine: SigContext,
    mask: u64,
}

/// `struct rt_sigframe`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SigFrame {
    restorer: u64,
    context: UContext,
    info: RawInfo,
}

const _: () = assert!(size_of::<SigContext>() == 256 && size_of::<SigFrame>() == 440);

/// uc_flags: an XSAVE area, and `ss` is saved and restored.
const UC_FLAGS: u64 = 1 | 2 | 4;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Where the kernel's `struct _fpx_sw_bytes` stands in the XSAVE area.
const SOFTWARE_BYTES: usize = 464;
/// Below the stack pointer, the psABI's red zone (3.2.2).
const RED_ZONE: usize = 128;
/// What our own frames may still use below the stack pointer while a signal frame is written.
const OWN_FRAMES: usize = 6 * 1024;
/// Flags that a program may set (arch/x86/kernel/signal.c, FIX_EFLAGS).
const USER_FLAGS: u64 = 0x5_0dd5;

/// The start of `struct _fpx_sw_bytes`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SoftwareBytes {
    magic1: u32,
    extended_size: u32,
    xfeatures: u64,
    xstate_size: u32,
    padding: [u32; 7],
}

/// Enters the handler on an interrupted program's registers.
pub fn push(task: &Task, delivery: &Delivery, frame: &mut Frame, vacant: Option<Vacant>) {
    let machine = SigContext {
        r8: frame.r8,
        r9: frame.r9,
        r10: frame.r10,
        r11: frame.r11,
        r12: frame.r12,
        r13: frame.r13,
        r14: frame.r14,
        r15: frame.r15,
        rdi: frame.rdi,
        rsi: frame.rsi,
        rbp: frame.rbp,
        rbx: frame.rbx,
        rdx: frame.rdx,
        rax: frame.rax,
        rcx: frame.rcx,
        rsp: frame.rsp,
        rip: frame.rip,
        rflags: frame.rflags,
        cs: frame.cs as u16,
        gs: 0,
        fs: 0,
        ss: frame.ss as u16,
        error: frame.error,
        trap: frame.trap,
        cr2: frame.cr2,
        ..SigContext::default()
    };
    let registers = Registers::Saved(frame.xsave as usize, frame.xsave_len as usize, frame.xfeatures);
    match write(task, delivery, machine, registers, vacant) {
        Ok(at) => {
            frame.rsp = at as u64;
            frame.rip = delivery.action.handler as u64;
            frame.rdi = delivery.info.signo as u64;
            frame.rsi = (at + offset_of!(SigFrame, info)) as u64;
            frame.rdx = (at + offset_of!(SigFrame, context)) as u64;
            frame.rax = 0;
            // psABI 3.4.1: DF clear at function entry; the kernel also clears RF and TF.
            frame.rflags &= !(0x400 | 0x1_0000 | 0x100);
        }
        Err(_) => overflow(&task.process),
    }
}

/// Runs the handler on top of a libc call, in the kernel. Comes back when it has returned; it need
/// not (`siglongjmp`), so nothing in the callers' frames may want to be dropped.
pub fn run_handler(task: &Task, delivery: &Delivery) {
    // SAFETY: in the kernel on the thread's own stack; `enter_handler` keeps the C convention.
    unsafe { enter_handler(task, delivery) };
    rt::enter();
}

/// Where a signal frame stood that has been read back: free for the next one. Without it each signal that
/// comes while a handler returns would go below our own frames, which are below the handler's, and a
/// steady stream of signals would use up any stack.
pub struct Vacant {
    bottom: usize,
    top: usize,
}

/// Goes back to what the frame at the stack pointer says: rt_sigreturn(2). Answers where it stood.
pub fn sigreturn(task: &Task, frame: &mut Frame) -> Option<Vacant> {
    // The handler's `ret` has taken the restorer's address.
    let bottom = frame.rsp as usize - size_of::<u64>();
    match restore(task, frame) {
        Ok(top) => Some(Vacant { bottom, top: top? }),
        // As Linux: a bad frame is a SIGSEGV that nobody can handle sensibly.
        Err(_) => overflow(&task.process),
    }
}

/// Answers the end of the frame's memory, if it has an XSAVE area.
fn restore(task: &Task, frame: &mut Frame) -> Result<Option<usize>> {
    let mut context = core::mem::MaybeUninit::<UContext>::uninit();
    // SAFETY: filled whole or failed; plain data.
    let context = unsafe {
        copy_in(frame.rsp as usize, context.as_mut_ptr().cast(), size_of::<UContext>())?;
        context.assume_init()
    };
    let machine = &context.machine;
    frame.r8 = machine.r8;
    frame.r9 = machine.r9;
    frame.r10 = machine.r10;
    frame.r11 = machine.r11;
    frame.r12 = machine.r12;
    frame.r13 = machine.r13;
    frame.r14 = machine.r14;
    frame.r15 = machine.r15;
    frame.rdi = machine.rdi;
    frame.rsi = machine.rsi;
    frame.rbp = machine.rbp;
    frame.rbx = machine.rbx;
    frame.rdx = machine.rdx;
    frame.rax = machine.rax;
    frame.rcx = machine.rcx;
    frame.rsp = machine.rsp;
    frame.rip = machine.rip;
    frame.rflags = (frame.rflags & !USER_FLAGS) | (machine.rflags & USER_FLAGS);
    let top = restore_extended(machine.fpstate as usize, frame)?;
    signal::set_mask(task, context.mask);
    if context.stack.flags & SS_AUTODISARM != 0 {
        *task.altstack.lock() = context.stack;
        rt::set_alternate_stack(context.stack.base, context.stack.len);
    }
    Ok(top)
}

/// Copies the extended state from the signal frame over the interrupted one's area. What the frame
/// does not have (it was made in a libc call, where those registers are dead) goes to its initial
/// state, like a component whose bit in the header is clear.
fn restore_extended(from: usize, frame: &mut Frame) -> Result<Option<usize>> {
    if from == 0 {
        return Ok(None);
    }
    if !from.is_multiple_of(64) || frame.xsave_len < MINIMAL_AREA as u64 {
        return Err(Errno::EFAULT);
    }
    let mut software = core::mem::MaybeUninit::<SoftwareBytes>::uninit();
    // SAFETY: filled whole or failed; plain data.
    let software = unsafe {
        copy_in(from + SOFTWARE_BYTES, software.as_mut_ptr().cast(), size_of::<SoftwareBytes>())?;
        software.assume_init()
    };
    let len = match software.magic1 {
        FP_XSTATE_MAGIC1 => (software.xstate_size as usize).clamp(MINIMAL_AREA, frame.xsave_len as usize),
        _ => LEGACY_AREA,
    };
    // SAFETY: the scheduler's area has `xsave_len` bytes, and `len` is not more.
    unsafe { copy_in(from, frame.xsave, len)? };
    // SAFETY: the header stands at 512 in an area of at least 576 bytes, 64-aligned; mxcsr at 24.
    unsafe {
        let header = frame.xsave.add(LEGACY_AREA).cast::<u64>();
        let present = if software.magic1 == FP_XSTATE_MAGIC1 { *header & software.xfeatures } else { 3 };
        // Bits that xrstor would refuse (#GP) are the program's to get wrong, not ours to die of.
        header.write(present & frame.xfeatures);
        core::ptr::write_bytes(header.add(1), 0, 7);
        let mxcsr = frame.xsave.add(24).cast::<u32>();
        mxcsr.write(mxcsr.read() & 0xffff);
    }
    Ok(Some(from + len + size_of::<u32>()))
}

const LEGACY_AREA: usize = 512;
const MINIMAL_AREA: usize = LEGACY_AREA + 64;

/// Where the extended registers are.
enum Registers {
    /// In an area: address, length, components.
    Saved(usize, usize, u64),
    /// In the CPU.
    Live,
}

/// Writes the whole frame to the stack that the action wants; answers its address.
fn write(
    task: &Task,
    delivery: &Delivery,
    mut machine: SigContext,
    registers: Registers,
    vacant: Option<Vacant>,
) -> Result<usize> {
    let mut alternate = task.altstack.lock();
    let (len, features) = match registers {
        Registers::Saved(_, len, features) => (len, features),
        Registers::Live => live_area(),
    };
    let layout = |top: usize| {
        let area = (top - len - size_of::<u32>()) & !63;
        (area, ((area - size_of::<SigFrame>()) & !15) - 8)
    };
    let reused = vacant.filter(|vacant| {
        vacant.is_on_the_way(&alternate, delivery, machine.rsp as usize)
            && layout(vacant.top).1 >= vacant.bottom
    });
    let top =
        reused.map_or_else(|| stack_for(&alternate, delivery, machine.rsp as usize), |vacant| vacant.top);
    let (area, at) = layout(top);
    if !alternate_has_room(&alternate, delivery, top, at) {
        return Err(Errno::EFAULT);
    }
    write_extended(area, len, features, registers)?;
    machine.fpstate = area as u64;
    let on_it = alternate.holds(machine.rsp as usize);
    let state = match alternate.len {
        0 => SS_DISABLE,
        _ if on_it => SS_ONSTACK,
        _ => 0,
    };
    let stack = AltStack::new(alternate.base, state | alternate.flags & SS_AUTODISARM, alternate.len);
    let restorer = if delivery.action.flags & SA_RESTORER != 0 { delivery.action.restorer } else { 0 };
    let context = UContext { flags: UC_FLAGS, link: 0, stack, machine, mask: delivery.old_mask };
    let frame = SigFrame { restorer: restorer as u64, context, info: delivery.info.to_raw() };
    // SAFETY: `frame` is readable for its size.
    unsafe { copy_out(at, (&raw const frame).cast(), size_of::<SigFrame>())? };
    if alternate.flags & SS_AUTODISARM != 0 {
        *alternate = AltStack::disabled();
        rt::set_alternate_stack(0, 0);
    }
    Ok(at)
}

/// Farther apart than this, two addresses are on different stacks.
const NEAR: usize = 256 * 1024;

impl Vacant {
    /// Whether it is on the stack where the next frame belongs, below the interrupted program's own.
    fn is_on_the_way(&self, alternate: &AltStack, delivery: &Delivery, stack_pointer: usize) -> bool {
        if self.top <= self.bottom || self.top - self.bottom > NEAR {
            return false;
        }
        let wants_alternate = delivery.action.flags & SA_ONSTACK != 0 && alternate.len != 0;
        if wants_alternate && !alternate.holds(stack_pointer) {
            return alternate.holds(self.bottom);
        }
        let below = self.top <= stack_pointer - RED_ZONE && stack_pointer - self.bottom < NEAR;
        below && alternate.holds(self.bottom) == alternate.holds(stack_pointer)
    }
}

/// The end of the free stack. The program's stack pointer less its red zone; but if our own frames
/// lie there (a libc call, or an interrupted program whose state was put on its stack), below them.
fn stack_for(alternate: &AltStack, delivery: &Delivery, stack_pointer: usize) -> usize {
    let wants_alternate = delivery.action.flags & SA_ONSTACK != 0 && alternate.len != 0;
    let here = 0u8;
    let here = &raw const here as usize;
    if wants_alternate && !alternate.holds(stack_pointer) {
        let top = alternate.base + alternate.len;
        // The scheduler puts a fault's state on the alternate stack when the other one is full.
        return if alternate.holds(here) { here - OWN_FRAMES } else { top };
    }
    if here <= stack_pointer && stack_pointer - here < NEAR {
        return here - OWN_FRAMES;
    }
    stack_pointer - RED_ZONE
}

fn alternate_has_room(alternate: &AltStack, delivery: &Delivery, top: usize, at: usize) -> bool {
    let used = delivery.action.flags & SA_ONSTACK != 0 && alternate.len != 0 && alternate.holds(top);
    !used || at > alternate.base
}

fn write_extended(area: usize, len: usize, features: u64, registers: Registers) -> Result<()> {
    match registers {
        // SAFETY: the scheduler vouches for its area.
        Registers::Saved(from, len, _) => unsafe { copy_out(area, from as *const u8, len)? },
        Registers::Live => {
            clear(area, len)?;
            // SAFETY: the area was just written, 64-aligned, and is long enough for `features`.
            unsafe {
                asm!("xsave64 [{}]", in(reg) area, in("eax") features as u32, in("edx") (features >> 32) as u32, options(nostack));
            }
        }
    }
    let software = SoftwareBytes {
        magic1: FP_XSTATE_MAGIC1,
        extended_size: (len + size_of::<u32>()) as u32,
        xfeatures: features,
        xstate_size: len as u32,
        padding: [0; 7],
    };
    // SAFETY: readable for its size.
    unsafe { copy_out(area + SOFTWARE_BYTES, (&raw const software).cast(), size_of::<SoftwareBytes>())? };
    write_bytes(area + len, &FP_XSTATE_MAGIC2.to_ne_bytes())
}

/// Zeroes user memory: xrstor wants a clean header.
fn clear(mut at: usize, mut len: usize) -> Result<()> {
    let zeros = [0u8; 256];
    while len != 0 {
        let count = len.min(zeros.len());
        write_bytes(at, &zeros[..count])?;
        at += count;
        len -= count;
    }
    Ok(())
}

/// Length and components of an XSAVE area for a libc call: x87, SSE, AVX and AVX-512 (Intel SDM
/// volume 1, 13.1). Others (AMX) are dead there.
fn live_area() -> (usize, u64) {
    const WANTED: u64 = 0xe7;
    let (low, high): (u32, u32);
    // SAFETY: the machine has XSAVE (checked at boot); xgetbv reads XCR0.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    let features = (u64::from(high) << 32 | u64::from(low)) & WANTED;
    let end = |component: u32| {
        let leaf = core::arch::x86_64::__cpuid_count(0xd, component);
        (leaf.ebx + leaf.eax) as usize
    };
    let len = (2..8).filter(|c| features >> c & 1 != 0).map(end).fold(MINIMAL_AREA, usize::max);
    (len, features)
}

/// The stack cannot take a frame: Linux forces SIGSEGV, which then has no handler.
fn overflow(process: &Process) -> ! {
    process.exit(SIGSEGV as u32)
}

/// What [`enter_handler`] has saved, from its stack pointer up.
#[repr(C)]
struct Preserved {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    rbx: u64,
    rbp: u64,
    rflags: u64,
}

/// Saves what a C call preserves, writes a signal frame that resumes at the label below, and goes to
/// the handler, leaving the kernel only when the stack pointer is on the frame: until then nothing
/// may interrupt, since it would write over it.
#[unsafe(naked)]
unsafe extern "C" fn enter_handler(task: &Task, delivery: &Delivery) {
    naked_asm!(
        ".cfi_startproc",
        "pushfq",
        ".cfi_adjust_cfa_offset 8",
        "push rbp",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset rbp, 0",
        "push rbx",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset rbx, 0",
        "push r12",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset r12, 0",
        "push r13",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset r13, 0",
        "push r14",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset r14, 0",
        "push r15",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_rel_offset r15, 0",
        "mov rdx, rsp",
        "lea rcx, [rip + 2f]",
        // 7 pushes and the return address: aligned.
        "call {write}",
        "mov rsp, rax",
        "mov rbx, rdx",
        "sub rsp, 8",
        "call {leave}",
        "add rsp, 8",
        "mov edi, [rsp + {info}]",
        "lea rsi, [rsp + {info}]",
        "lea rdx, [rsp + {context}]",
        "xor eax, eax",
        "cld",
        "jmp rbx",
        // rt_sigreturn resumes here with the stack pointer of before: for this place, which backtraces
        // from a handler pass, the directives above hold.
        "2:",
        "pop r15",
        ".cfi_adjust_cfa_offset -8",
        "pop r14",
        ".cfi_adjust_cfa_offset -8",
        "pop r13",
        ".cfi_adjust_cfa_offset -8",
        "pop r12",
        ".cfi_adjust_cfa_offset -8",
        "pop rbx",
        ".cfi_adjust_cfa_offset -8",
        "pop rbp",
        ".cfi_adjust_cfa_offset -8",
        "popfq",
        ".cfi_adjust_cfa_offset -8",
        "ret",
        ".cfi_endproc",
        write = sym write_for_call,
        leave = sym leave_for_handler,
        info = const offset_of!(SigFrame, info),
        context = const offset_of!(SigFrame, context),
    )
}

/// Answers the frame (rax) and the handler (rdx).
extern "C" fn write_for_call(
    task: &Task,
    delivery: &Delivery,
    saved: &Preserved,
    resume: usize,
) -> FrameAndHandler {
    let machine = SigContext {
        r15: saved.r15,
        r14: saved.r14,
        r13: saved.r13,
        r12: saved.r12,
        rbx: saved.rbx,
        rbp: saved.rbp,
        rflags: saved.rflags,
        rsp: core::ptr::from_ref(saved) as u64,
        rip: resume as u64,
        // Linux's user selectors (arch/x86/include/asm/segment.h).
        cs: 0x33,
        ss: 0x2b,
        ..SigContext::default()
    };
    match write(task, delivery, machine, Registers::Live, None) {
        Ok(frame) => FrameAndHandler { frame, handler: delivery.action.handler },
        Err(_) => overflow(&task.process),
    }
}

#[repr(C)]
struct FrameAndHandler {
    frame: usize,
    handler: usize,
}

extern "C" fn leave_for_handler() {
    rt::leave();
}
