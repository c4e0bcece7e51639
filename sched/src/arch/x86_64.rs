//! x86-64: the `%gs` block, the context switch, the way into and out of an interrupted program.
//!
//! Needs FSGSBASE (ring 3 may read and write FS and GS bases) and XSAVE; [`check_machine`] refuses a
//! host without them by name. Neither is a matter of taste: a switch with `arch_prctl` costs two
//! system calls.

use crate::vcpu;
use core::arch::{asm, global_asm};
use core::ffi::c_void;
use platform::Errno;
use platform::errno::Result;

/// Offset of the kernel depth in the `%gs` block.
pub(crate) const DEPTH: usize = 8;
/// Offset of the work byte.
pub(crate) const WORK: usize = 12;
/// Offset of the allocator's cache number.
pub(crate) const CACHE: usize = 24;
/// Offset of the lock owner's word.
pub(crate) const OWNER: usize = 28;

/// depth += 1, in one instruction: the thread may move between vCPUs before and after, not within.
#[inline(always)]
pub(crate) fn depth_up() {
    // SAFETY: `%gs` points at a block; no `nomem`: what follows must not move before it.
    unsafe { asm!("inc dword ptr gs:[{}]", const DEPTH, options(nostack)) };
}

/// depth -= 1; answers the work byte if the depth is 0 now, else 0.
#[inline(always)]
pub(crate) fn depth_down() -> u32 {
    let work: u32;
    // SAFETY: as in `depth_up`. Between the two accesses the thread may move to another vCPU. Then
    // it was preempted, which has done its pending work, and the byte read is another vCPU's: a
    // needless look at worst.
    unsafe {
        asm!(
            "xor {work:e}, {work:e}",
            "dec dword ptr gs:[{depth}]",
            "jnz 2f",
            "movzx {work:e}, byte ptr gs:[{byte}]",
            "2:",
            work = out(reg) work, depth = const DEPTH, byte = const WORK, options(nostack),
        );
    }
    work
}

/// The kernel depth.
#[inline(always)]
pub(crate) fn depth() -> u32 {
    let depth: u32;
    // SAFETY: as in `depth_up`.
    unsafe {
        asm!("mov {:e}, gs:[{}]", out(reg) depth, const DEPTH, options(nostack, preserves_flags));
    }
    depth
}

/// Sets the depth and answers what it was. Only where depth > 0 pins the thread.
pub(crate) fn swap_depth(new: u32) -> u32 {
    let old = depth();
    // SAFETY: as in `depth_up`.
    unsafe {
        asm!("mov dword ptr gs:[{}], {:e}", const DEPTH, in(reg) new, options(nostack, preserves_flags));
    }
    old
}

/// The address in `gs:0`. Read anew at every call: a switch changes it.
#[inline(always)]
pub(crate) fn block() -> *const vcpu::Block {
    let block;
    // SAFETY: as in `depth_up`.
    unsafe { asm!("mov {}, gs:[0]", out(reg) block, options(nostack, preserves_flags)) };
    block
}

/// The allocator's cache number in the block.
#[inline(always)]
pub(crate) fn cache() -> u32 {
    let cache: u32;
    // SAFETY: as in `depth_up`.
    unsafe { asm!("mov {:e}, gs:[{}]", out(reg) cache, const CACHE, options(nostack, preserves_flags)) };
    cache
}

/// The lock owner's word in the block.
#[inline(always)]
pub(crate) fn owner() -> u32 {
    let owner: u32;
    // SAFETY: as in `depth_up`.
    unsafe { asm!("mov {:e}, gs:[{}]", out(reg) owner, const OWNER, options(nostack, preserves_flags)) };
    owner
}

/// rdfsbase.
#[inline(always)]
pub(crate) fn read_fs_base() -> usize {
    let base;
    // SAFETY: FSGSBASE was found by `check_machine`.
    unsafe { asm!("rdfsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)) };
    base
}

/// wrfsbase.
#[inline(always)]
pub(crate) fn write_fs_base(base: usize) {
    // SAFETY: as above; the base belongs to the thread that runs from here on.
    unsafe { asm!("wrfsbase {}", in(reg) base, options(nostack, preserves_flags)) };
}

/// wrgsbase.
pub(crate) fn write_gs_base(base: usize) {
    // SAFETY: as above; the base is the calling host thread's block.
    unsafe { asm!("wrgsbase {}", in(reg) base, options(nostack, preserves_flags)) };
}

/// Refuses a machine without XSAVE. (FSGSBASE is AT_HWCAP2's bit 1, which the host kernel sets: see
/// [`has_fsgsbase`], asked before `boot`.)
pub(crate) fn check_machine() -> Result<()> {
    const OSXSAVE: u32 = 1 << 27;
    match core::arch::x86_64::__cpuid(1).ecx & OSXSAVE {
        0 => Err(Errno::ENOSYS),
        _ => Ok(()),
    }
}

/// Whether the auxiliary vector's AT_HWCAP2 allows rdfsbase and wrfsbase (arch/x86 HWCAP2_FSGSBASE).
pub const fn has_fsgsbase(hwcap2: usize) -> bool {
    hwcap2 & 2 != 0
}

unsafe extern "C" {
    /// Saves the callee-saved state on this stack and its pointer in `*save`; resumes `to`.
    #[link_name = "attacca_switch"]
    pub(crate) fn switch(save: *mut usize, to: usize);
    fn attacca_thread_entry();
    /// Where a redirected program goes first; `rdi` is the frame.
    pub(crate) fn attacca_door();
    static attacca_critical_start: u8;
    static attacca_critical_end: u8;
    /// Leaves the kernel (depth 1) and continues with the register state of a frame.
    #[link_name = "attacca_resume"]
    fn resume_frame(frame: *const Frame) -> !;
}

/// Whether `rip` lies in code that runs outside the kernel and must not be interrupted.
pub(crate) fn is_critical(rip: usize) -> bool {
    let range = (&raw const attacca_critical_start as usize)..(&raw const attacca_critical_end as usize);
    range.contains(&rip)
}

/// Continues the current thread with `frame`'s registers: the end of setcontext(3), sigreturn.
///
/// # Safety
/// The frame is a whole register state that may run; the caller is in the kernel at depth 1.
pub unsafe fn resume(frame: &Frame) -> ! {
    // SAFETY: the caller's promise.
    unsafe { resume_frame(frame) }
}

// The switch: what the psABI (3.2.1, figure 3.4) says a call preserves: rbx, rbp, r12-r15, the x87
// control word and the control bits of mxcsr. Everything else is dead at a call.
//
// A new thread's first switch returns into attacca_thread_entry with entry in r12 and argument in
// rbx. From the moment the depth is 0 until `entry` runs, its code lies in the critical range.
//
// The door: a signal handler has put a Frame on the thread's stack and resumed the thread here with
// rdi = rsp = the frame. Outside the kernel until the first instruction is done; critical, so no
// second redirect can come in between. The way back restores the extended state by xrstor, the
// general registers, and rip, rflags and rsp at once by iretq: nothing of the program's stack is
// written, and no instruction runs with half of the state.
global_asm!(
    ".pushsection .text.attacca_sched, \"ax\", @progbits",
    ".balign 64",
    ".globl attacca_switch",
    ".type attacca_switch, @function",
    "attacca_switch:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 8",
    "stmxcsr [rsp]",
    "fnstcw [rsp + 4]",
    "mov [rdi], rsp",
    "mov rsp, rsi",
    "ldmxcsr [rsp]",
    "fldcw [rsp + 4]",
    "add rsp, 8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    ".size attacca_switch, . - attacca_switch",
    "",
    ".globl attacca_critical_start",
    "attacca_critical_start:",
    ".globl attacca_thread_entry",
    ".type attacca_thread_entry, @function",
    "attacca_thread_entry:",
    ".cfi_startproc",
    ".cfi_undefined rip",
    "call {thread_started}",
    "mov rdi, rbx",
    "xor ebp, ebp",
    "dec dword ptr gs:[{depth}]",
    "call r12",
    "ud2",
    ".cfi_endproc",
    ".size attacca_thread_entry, . - attacca_thread_entry",
    "",
    ".globl attacca_door",
    ".type attacca_door, @function",
    "attacca_door:",
    "inc dword ptr gs:[{depth}]",
    "mov rbx, rdi",
    "call {through_door}",
    "mov rdi, rbx",
    ".globl attacca_resume",
    "attacca_resume:",
    "dec dword ptr gs:[{depth}]",
    "mov rcx, [rdi + {xsave}]",
    "mov eax, [rdi + {xfeatures}]",
    "mov edx, [rdi + {xfeatures} + 4]",
    "xrstor64 [rcx]",
    "mov r8, [rdi + {r8}]",
    "mov r9, [rdi + {r8} + 8]",
    "mov r10, [rdi + {r8} + 16]",
    "mov r11, [rdi + {r8} + 24]",
    "mov r12, [rdi + {r8} + 32]",
    "mov r13, [rdi + {r8} + 40]",
    "mov r14, [rdi + {r8} + 48]",
    "mov r15, [rdi + {r8} + 56]",
    "mov rsi, [rdi + {rsi}]",
    "mov rbp, [rdi + {rsi} + 8]",
    "mov rbx, [rdi + {rsi} + 16]",
    "mov rdx, [rdi + {rsi} + 24]",
    "mov rax, [rdi + {rsi} + 32]",
    "mov rcx, [rdi + {rsi} + 40]",
    "lea rsp, [rdi + {rip}]",
    "mov rdi, [rdi + {rdi}]",
    "iretq",
    ".size attacca_door, . - attacca_door",
    ".globl attacca_critical_end",
    "attacca_critical_end:",
    ".popsection",
    thread_started = sym vcpu::thread_started,
    through_door = sym crate::signal::through_door,
    depth = const DEPTH,
    xsave = const core::mem::offset_of!(Frame, xsave),
    xfeatures = const core::mem::offset_of!(Frame, xfeatures),
    r8 = const core::mem::offset_of!(Frame, r8),
    rdi = const core::mem::offset_of!(Frame, rdi),
    rsi = const core::mem::offset_of!(Frame, rsi),
    rip = const core::mem::offset_of!(Frame, rip),
);

/// Goes on with `main(argument)` on another stack, for good.
///
/// # Safety
/// `top` is the 16-aligned end of a stack that is the caller's alone.
pub unsafe fn run_on(top: usize, main: extern "C" fn(usize) -> !, argument: usize) -> ! {
    // SAFETY: the caller gives the stack; nothing of the old one is used again.
    unsafe {
        asm!(
            "mov rsp, {}", "xor ebp, ebp", "call {}", "ud2",
            in(reg) top, in(reg) main, in("rdi") argument, options(noreturn),
        );
    }
}

/// Lays out a stack whose first switch goes to `main`, inside the kernel; answers its stack pointer.
///
/// # Safety
/// `top` is the 16-aligned end of a writable stack that is the caller's alone.
pub(crate) unsafe fn prepare_loop(top: usize, main: extern "C" fn(usize) -> !) -> usize {
    let first = First {
        // Both as a fresh process has them (psABI 3.2.1).
        mxcsr: 0x1f80,
        x87_control: 0x37f,
        r15: 0,
        r14: 0,
        r13: 0,
        r12: 0,
        rbx: 0,
        rbp: 0,
        rip: main as *const () as usize,
        unused: [0; 2],
    };
    // After the return to `main` the stack pointer is 8 past a multiple of 16, as after a call.
    let at = top - size_of::<First>() - 8;
    // SAFETY: the caller's stack.
    unsafe { (at as *mut First).write(first) };
    at
}

/// The words that [`switch`] pops from a new thread's stack.
#[repr(C)]
struct First {
    mxcsr: u32,
    x87_control: u32,
    r15: usize,
    r14: usize,
    r13: usize,
    r12: usize,
    rbx: usize,
    rbp: usize,
    rip: usize,
    /// attacca_thread_entry runs with rsp here, 16-aligned.
    unused: [usize; 2],
}

/// Lays out a new thread's stack for its first switch; `None` if the stack cannot be written.
///
/// # Safety
/// `top` (16-aligned) is the end of a stack of the new thread.
pub(crate) unsafe fn prepare_stack(
    top: usize,
    entry: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
) -> Option<usize> {
    // A new thread inherits its creator's floating-point environment (POSIX pthread_create).
    let (mut mxcsr, mut x87_control) = (0u32, 0u16);
    // SAFETY: both store to our locals.
    unsafe {
        asm!("stmxcsr [{}]", in(reg) &raw mut mxcsr, options(nostack, preserves_flags));
        asm!("fnstcw [{}]", in(reg) &raw mut x87_control, options(nostack, preserves_flags));
    }
    let first = First {
        // Without the sticky exception flags.
        mxcsr: mxcsr & !0x3f,
        x87_control: u32::from(x87_control),
        r15: 0,
        r14: 0,
        r13: 0,
        r12: entry as usize,
        rbx: argument as usize,
        rbp: 0,
        rip: attacca_thread_entry as *const () as usize,
        unused: [0; 2],
    };
    let at = top.checked_sub(size_of::<First>())?;
    // SAFETY: the caller gave the stack; a bad address comes back as a count.
    let left =
        unsafe { crate::user_copy::copy(at as *mut u8, (&raw const first).cast(), size_of::<First>()) };
    (left == 0).then_some(at)
}

/// The complete register state of an interrupted program. On its stack, below the red zone.
/// The general registers stand in the order of the kernel's `struct sigcontext`.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Frame {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    /// These five are what iretq pops.
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
    /// Hardware error code, trap number and faulting address of a fault.
    pub error: u64,
    pub trap: u64,
    pub cr2: u64,
    /// The XSAVE area (64-aligned, standard format, with the kernel's `_fpx_sw_bytes` at 464) that
    /// goes with this state, its length, and which components it holds.
    pub xsave: *mut u8,
    pub xsave_len: u64,
    pub xfeatures: u64,
    /// Why the program was interrupted.
    pub reason: Reason,
    /// The signal that did it.
    pub info: SigInfo,
}

/// Why a program was interrupted.
#[repr(u64)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// A tick, a kick or a host signal: pending work.
    Work = 0,
    /// A synchronous fault; `Frame::info` says which.
    Fault = 1,
    /// A `syscall` instruction; `rax` is its number.
    Syscall = 2,
}

/// The kernel's `siginfo_t`: 128 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct SigInfo {
    /// Signal number.
    pub signo: i32,
    /// An errno, mostly 0.
    pub errno: i32,
    /// `si_code`: SI_USER 0, SI_KERNEL 0x80, SEGV_MAPERR 1, ...
    pub code: i32,
    pad: i32,
    /// The union, by the fields' offsets in sigaction(2)'s siginfo_t (from byte 16).
    pub fields: [u64; 14],
}
const _: () = assert!(size_of::<SigInfo>() == 128);

impl SigInfo {
    /// All zero but the number.
    pub const fn new(signo: i32) -> SigInfo {
        SigInfo { signo, errno: 0, code: 0, pad: 0, fields: [0; 14] }
    }

    /// `si_addr` of a fault.
    pub const fn address(&self) -> usize {
        self.fields[0] as usize
    }

    /// `si_pid` of a signal that a process sent.
    pub const fn pid(&self) -> i32 {
        self.fields[0] as i32
    }

    /// `si_uid` of a signal that a process sent.
    pub const fn uid(&self) -> u32 {
        (self.fields[0] >> 32) as u32
    }

    /// `si_value`.
    pub const fn value(&self) -> u64 {
        self.fields[1]
    }
}

/// The kernel's `ucontext_t` of a signal frame, as far as it is used (arch/x86
/// include/uapi/asm/sigcontext.h).
#[repr(C)]
pub(crate) struct UContext {
    flags: u64,
    link: u64,
    stack: [u64; 3],
    /// r8..r15, rdi, rsi, rbp, rbx, rdx, rax, rcx: as in [`Frame`].
    pub(crate) general: [u64; 15],
    pub(crate) rsp: u64,
    pub(crate) rip: u64,
    pub(crate) rflags: u64,
    /// cs, gs, fs, ss
    selectors: [u16; 4],
    error: u64,
    trap: u64,
    oldmask: u64,
    cr2: u64,
    fpstate: *const u8,
}

/// Index of rdi in [`UContext::general`].
pub(crate) const GENERAL_RDI: usize = 8;
/// Index of rax.
pub(crate) const GENERAL_RAX: usize = 13;

/// `FP_XSTATE_MAGIC1`: the signal frame holds an XSAVE area.
const XSTATE_MAGIC1: u32 = 0x4650_5853;

impl UContext {
    /// Length of the XSAVE area behind `fpstate`, and its components.
    fn xstate(&self) -> Option<(usize, u64)> {
        if self.fpstate.is_null() {
            return None;
        }
        // SAFETY: the kernel put at least the 512 bytes of FXSAVE there; software bytes from 464:
        // magic1, extended_size, xfeatures, xstate_size.
        unsafe {
            let software = self.fpstate.add(464);
            let magic = software.cast::<u32>().read_unaligned();
            let features = software.add(8).cast::<u64>().read_unaligned();
            let size = software.add(16).cast::<u32>().read_unaligned();
            (magic == XSTATE_MAGIC1).then_some((size as usize, features))
        }
    }

    /// Puts this state as a [`Frame`] below `top` and points the context at the door. `false`: the
    /// memory below `top` cannot be written, or there is no XSAVE area; nothing is changed then.
    pub(crate) fn redirect(&mut self, top: usize, reason: Reason, info: &SigInfo) -> bool {
        let Some((xsave_len, xfeatures)) = self.xstate() else { return false };
        let Some(below) = top.checked_sub(xsave_len + size_of::<Frame>() + 128) else { return false };
        let frame_at = below & !63;
        let xsave_at = (frame_at + size_of::<Frame>() + 63) & !63;
        let g = &self.general;
        let frame = Frame {
            r8: g[0],
            r9: g[1],
            r10: g[2],
            r11: g[3],
            r12: g[4],
            r13: g[5],
            r14: g[6],
            r15: g[7],
            rdi: g[8],
            rsi: g[9],
            rbp: g[10],
            rbx: g[11],
            rdx: g[12],
            rax: g[13],
            rcx: g[14],
            rip: self.rip,
            cs: u64::from(self.selectors[0]),
            rflags: self.rflags,
            rsp: self.rsp,
            ss: u64::from(self.selectors[3]),
            error: self.error,
            trap: self.trap,
            cr2: self.cr2,
            xsave: xsave_at as *mut u8,
            xsave_len: xsave_len as u64,
            xfeatures,
            reason,
            info: *info,
        };
        // SAFETY: memory below the red zone of the interrupted program is dead (psABI 3.2.2); whether
        // it is there at all, the copies find out. Lengths are the frame's and the kernel's area's.
        let left = unsafe {
            crate::user_copy::copy(xsave_at as *mut u8, self.fpstate, xsave_len)
                + crate::user_copy::copy(frame_at as *mut u8, (&raw const frame).cast(), size_of::<Frame>())
        };
        if left != 0 {
            return false;
        }
        self.general[GENERAL_RDI] = frame_at as u64;
        self.rsp = frame_at as u64;
        self.rip = attacca_door as *const () as u64;
        // The door runs Rust: direction clear (psABI 3.2.1), no single-stepping, no alignment checks.
        const TF: u64 = 1 << 8;
        const DF: u64 = 1 << 10;
        const AC: u64 = 1 << 18;
        self.rflags &= !(TF | DF | AC);
        true
    }

    /// Only for reports: the registers as a frame without extended state.
    pub(crate) fn snapshot(&self, info: &SigInfo) -> Frame {
        let g = &self.general;
        Frame {
            r8: g[0],
            r9: g[1],
            r10: g[2],
            r11: g[3],
            r12: g[4],
            r13: g[5],
            r14: g[6],
            r15: g[7],
            rdi: g[8],
            rsi: g[9],
            rbp: g[10],
            rbx: g[11],
            rdx: g[12],
            rax: g[13],
            rcx: g[14],
            rip: self.rip,
            cs: u64::from(self.selectors[0]),
            rflags: self.rflags,
            rsp: self.rsp,
            ss: u64::from(self.selectors[3]),
            error: self.error,
            trap: self.trap,
            cr2: self.cr2,
            xsave: core::ptr::null_mut(),
            xsave_len: 0,
            xfeatures: 0,
            reason: Reason::Fault,
            info: *info,
        }
    }
}
