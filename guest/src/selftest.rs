//! Tests of the runtime on the runtime: `selftest=NAME` instead of a program.
//!
//! What `cargo test` cannot reach runs here: preemption, real vCPUs, faults, the syscall door, the
//! arena. A test that fails panics, which ends the guest with status 125 and the place; one that
//! passes writes `ok NAME ...` and ends with 0. `cli/tests` runs them all.

use crate::message::Line;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::arch::asm;
use core::ffi::c_void;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use platform::host;
use platform::mem::{Prot, map_private};
use platform::sync::Lock;
use platform::time::{MILLISECOND, now};
use sched::arch::{Frame, SigInfo};
use sched::thread::{self, Start, Thread, Wake};

/// What does not come within this time never comes.
const PATIENCE: u64 = 20_000 * MILLISECOND;

type Test = fn() -> String;

const TESTS: &[(&str, Test)] = &[
    ("pingpong", pingpong),
    ("yield", yields),
    ("timers", timers),
    ("preempt", preempt),
    ("registers", registers),
    ("migrate", migrate),
    ("stress", stress),
    ("many", many),
    ("fault", fault),
    ("syscall", syscall),
    ("signal", signal),
    ("attention", attention),
    ("idle", idle),
    ("blocking", blocking),
    ("heap", heap),
    ("strings", strings),
    ("killed", killed),
];

/// Tests that end the guest in their own way.
const ENDINGS: &[(&str, fn())] = &[
    ("segv", || read_bad(16)),
    ("overflow", || {
        core::hint::black_box(overflow(0));
    }),
    ("kernel-fault", || sched::kernel(|| read_bad(16))),
    ("exhaust", exhaust),
    ("panic", || panic!("as asked")),
];

/// The scheduler's hooks for these tests.
pub(crate) fn hooks() -> sched::Hooks {
    let mut hooks = sched::Hooks::none();
    hooks.fault = on_fault;
    hooks.syscall = on_syscall;
    hooks.host_signal = on_signal;
    hooks.host_signals = on_signals;
    hooks.attention = on_attention;
    hooks.process_gone = |_| {
        GONE.fetch_add(1, Ordering::Relaxed);
    };
    hooks.exited = |_| {
        EXITED.fetch_add(1, Ordering::Relaxed);
    };
    hooks
}

/// Makes the thread that runs test `name`.
pub(crate) fn begin(name: &'static str) {
    spawn(256 * 1024, move || {
        if let Some((_, ending)) = ENDINGS.iter().find(|(known, _)| *known == name) {
            ending();
            panic!("{name} went on");
        }
        let chosen: Vec<_> = TESTS.iter().filter(|(known, _)| name == "all" || *known == name).collect();
        assert!(!chosen.is_empty(), "no test is called {name}");
        for (name, test) in chosen {
            let note = test();
            let _ = writeln!(Line::to(1), "ok {name} {note}");
        }
        platform::thread::exit_group(0);
    });
}

/// A guest thread on a stack of its own that runs `body` outside the kernel.
fn spawn(stack: usize, body: impl FnOnce() + 'static) -> Arc<Thread> {
    unsafe extern "C" fn main(argument: *mut c_void) {
        // SAFETY: `spawn` passes a boxed closure.
        let body = unsafe { Box::from_raw(argument.cast::<Box<dyn FnOnce()>>()) };
        body();
        sched::enter();
        thread::exit();
    }
    let body: Box<dyn FnOnce()> = Box::new(body);
    let base = map_private(0, stack, Prot::READ | Prot::WRITE).expect("a stack");
    let start = Start {
        entry: main,
        argument: Box::into_raw(Box::new(body)).cast(),
        stack_top: base + stack,
        fs_base: 0,
    };
    sched::kernel(|| thread::spawn(start, core::ptr::null_mut())).expect("a thread")
}

fn note(text: core::fmt::Arguments<'_>) -> String {
    let mut note = String::new();
    let _ = note.write_fmt(text);
    note
}

/// Waits outside the kernel until `done`; other threads run.
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = now();
    while !done() {
        assert!(now().since(start) < PATIENCE, "{what}: waited 20 s");
        sched::kernel(|| thread::park(Some(now().after(MILLISECOND / 4))));
    }
}

/// Computes, without a way into the kernel.
fn spin_until(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        core::hint::spin_loop();
    }
}

fn pingpong() -> String {
    const ROUNDS: u32 = 200_000;
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.store(0, Ordering::Relaxed);
    let main = sched::kernel(|| thread::current().clone());
    let other = spawn(64 * 1024, move || {
        for _ in 0..ROUNDS {
            sched::kernel(|| {
                while COUNT.load(Ordering::Relaxed).is_multiple_of(2) {
                    thread::park(None);
                }
                COUNT.fetch_add(1, Ordering::Relaxed);
                main.unpark();
            });
        }
    });
    let start = now();
    for _ in 0..ROUNDS {
        sched::kernel(|| {
            COUNT.fetch_add(1, Ordering::Relaxed);
            other.unpark();
            while !COUNT.load(Ordering::Relaxed).is_multiple_of(2) {
                thread::park(None);
            }
        });
    }
    note(format_args!("{} ns a park/unpark round trip (2 switches)", now().since(start) / u64::from(ROUNDS)))
}

fn yields() -> String {
    const ROUNDS: u64 = 300_000;
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::Relaxed);
    spawn(64 * 1024, || {
        while !STOP.load(Ordering::Relaxed) {
            sched::kernel(thread::yield_now);
        }
    });
    let start = now();
    for _ in 0..ROUNDS {
        sched::kernel(thread::yield_now);
    }
    let time = now().since(start);
    STOP.store(true, Ordering::Relaxed);
    note(format_args!("{} ns a yield", time / ROUNDS / 2))
}

/// Host processes of the family whose end this one has seen to.
static GONE: AtomicU32 = AtomicU32::new(0);

/// A process that is killed with a kernel lock in its hands: whoever wants the lock gets it, with what the dead one had
/// written. In turns with somebody who waits when it happens, and who comes when all is over.
fn killed() -> String {
    struct Shared {
        lock: Lock<u32>,
        held: AtomicBool,
        die: AtomicBool,
    }
    extern "C" fn take_and_die(shared: *mut ()) -> ! {
        // SAFETY: the parent's count, in the arena, which it keeps until this process is gone.
        let shared = unsafe { &*shared.cast::<Shared>() };
        let mut value = shared.lock.lock();
        *value += 1;
        shared.held.store(true, Ordering::SeqCst);
        while !shared.die.load(Ordering::SeqCst) {
            core::hint::spin_loop();
        }
        const SIGKILL: usize = 9;
        // SAFETY: touches no memory; it does not come back.
        let _ = unsafe { host!(kill, platform::thread::getpid(), SIGKILL) };
        unreachable!("a killed process")
    }
    const ROUNDS: u32 = 10;
    for round in 0..ROUNDS {
        let before = GONE.load(Ordering::Relaxed);
        let shared = sched::kernel(|| {
            let (held, die) = (AtomicBool::new(false), AtomicBool::new(false));
            Arc::new(Shared { lock: Lock::new(round), held, die })
        });
        sched::kernel(|| {
            let child = sched::fork::Child::new(core::ptr::null_mut());
            child.start(take_and_die, Arc::as_ptr(&shared).cast_mut().cast()).expect("a fork");
        });
        wait_for("the victim", || shared.held.load(Ordering::SeqCst));
        let waits = round % 2 == 0;
        if !waits {
            shared.die.store(true, Ordering::SeqCst);
            wait_for("its burial", || GONE.load(Ordering::Relaxed) != before);
        }
        let value = sched::kernel(|| {
            assert!(shared.lock.try_lock().is_none(), "it was given back");
            shared.die.store(true, Ordering::SeqCst);
            *shared.lock.lock()
        });
        assert_eq!(value, round + 1);
        assert!(sched::kernel(|| shared.lock.try_lock().is_some()), "it is an ordinary lock again");
        wait_for("its burial", || GONE.load(Ordering::Relaxed) != before);
    }
    note(format_args!("{ROUNDS} locks taken over"))
}

struct Alarm(Arc<Thread>, AtomicU64);
impl sched::timer::Expire for Alarm {
    fn expire(&self, now: sched::Instant) {
        self.1.store(now.0, Ordering::Relaxed);
        self.0.unpark();
    }
}

fn timers() -> String {
    let mut worst = 0;
    for ns in [50_000, 300_000, 2_000_000, 11_000_000] {
        let start = now();
        let deadline = start.after(ns);
        let wake = sched::kernel(|| thread::park(Some(deadline)));
        assert_eq!(wake, Wake::TimedOut);
        assert!(now() >= deadline, "early");
        worst = worst.max(now().since(deadline));
        let alarm = sched::kernel(|| {
            let alarm = Arc::new(Alarm(thread::current().clone(), AtomicU64::new(0)));
            sched::timer::add(now().after(ns), alarm.clone());
            while alarm.1.load(Ordering::Relaxed) == 0 {
                thread::park(None);
            }
            alarm
        });
        assert!(alarm.1.load(Ordering::Relaxed) >= deadline.0);
    }
    note(format_args!("at most {} us late", worst / 1000))
}

/// A thread that never enters the kernel must not keep others from running.
fn preempt() -> String {
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::Relaxed);
    let cpus = sched::kernel(sched::vcpu::count);
    for _ in 0..2 * cpus {
        spawn(64 * 1024, || spin_until(&STOP));
    }
    let start = now();
    for _ in 0..10 {
        sched::kernel(thread::yield_now);
    }
    let time = now().since(start);
    STOP.store(true, Ordering::Relaxed);
    note(format_args!("10 turns among computing threads took {} ms", time / MILLISECOND))
}

/// Every register keeps its value while threads with other values share the vCPU: general, vector
/// (256 and, where there is, 512 bits wide), mask, x87, mxcsr, flags, and the red zone.
fn registers() -> String {
    static STOP: AtomicBool = AtomicBool::new(false);
    static WRONG: AtomicU32 = AtomicU32::new(0);
    static ENDED: AtomicU32 = AtomicU32::new(0);
    static ROUNDS: AtomicU64 = AtomicU64::new(0);
    STOP.store(false, Ordering::Relaxed);
    ENDED.store(0, Ordering::Relaxed);
    let wide = core::arch::x86_64::__cpuid_count(7, 0).ebx >> 16 & 1 == 1;
    for seed in 1..=4u64 {
        spawn(64 * 1024, move || {
            while !STOP.load(Ordering::Relaxed) {
                if !(hold_general(seed) && hold_vectors(seed, wide) && hold_red_zone(seed)) {
                    WRONG.fetch_add(1, Ordering::Relaxed);
                }
                ROUNDS.fetch_add(1, Ordering::Relaxed);
            }
            ENDED.fetch_add(1, Ordering::Relaxed);
        });
    }
    let start = now();
    wait_for("registers", || now().since(start) > 600 * MILLISECOND);
    STOP.store(true, Ordering::Relaxed);
    wait_for("ends", || ENDED.load(Ordering::Relaxed) == 4);
    assert_eq!(WRONG.load(Ordering::Relaxed), 0, "a register changed");
    note(format_args!("{} rounds, 512-bit vectors: {wide}", ROUNDS.load(Ordering::Relaxed)))
}

/// Spins in each of the holds below; a slice has some 10^7.
const HOLD: u64 = 200_000;

fn hold_general(seed: u64) -> bool {
    let bad: u64;
    // SAFETY: all changed registers are declared; rbx and rbp are saved by hand. Carry is held by
    // not touching the flags: `dec` and `jrcxz` leave it alone.
    unsafe {
        asm!(
            "push rbx", "push rbp",
            "lea rbx, [rax + 1]", "lea rbp, [rax + 2]", "lea rdx, [rax + 3]", "lea rsi, [rax + 4]",
            "lea rdi, [rax + 5]", "lea r8, [rax + 6]", "lea r9, [rax + 7]", "lea r10, [rax + 8]",
            "lea r11, [rax + 9]", "lea r12, [rax + 10]", "lea r13, [rax + 11]", "lea r14, [rax + 12]",
            "lea r15, [rax + 13]",
            "stc",
            "2:", "lea rcx, [rcx - 1]", "jrcxz 3f", "jmp 2b", "3:",
            "jnc 4f",
            "sub rbx, rax", "cmp rbx, 1", "jne 4f", "sub rbp, rax", "cmp rbp, 2", "jne 4f",
            "sub rdx, rax", "cmp rdx, 3", "jne 4f", "sub rsi, rax", "cmp rsi, 4", "jne 4f",
            "sub rdi, rax", "cmp rdi, 5", "jne 4f", "sub r8, rax", "cmp r8, 6", "jne 4f",
            "sub r9, rax", "cmp r9, 7", "jne 4f", "sub r10, rax", "cmp r10, 8", "jne 4f",
            "sub r11, rax", "cmp r11, 9", "jne 4f", "sub r12, rax", "cmp r12, 10", "jne 4f",
            "sub r13, rax", "cmp r13, 11", "jne 4f", "sub r14, rax", "cmp r14, 12", "jne 4f",
            "sub r15, rax", "cmp r15, 13", "jne 4f",
            "xor ecx, ecx", "jmp 5f", "4:", "mov ecx, 1", "5:",
            "pop rbp", "pop rbx",
            inout("rax") seed << 32 => _, inout("rcx") HOLD => bad,
            out("rdx") _, out("rsi") _, out("rdi") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
    bad == 0
}

#[repr(C, align(64))]
struct Vectors([[u64; 8]; 3]);

fn hold_vectors(seed: u64, wide: bool) -> bool {
    let before = Vectors(core::array::from_fn(|i| core::array::from_fn(|j| seed << 40 | (i * 8 + j) as u64)));
    let mut after = Vectors([[0; 8]; 3]);
    // Rounding mode and x87 precision differ by thread.
    let mxcsr = 0x1f80u32 | (seed as u32 % 4) << 13;
    let x87 = 0x037fu16 & !0x300 | [0u16, 0x200, 0x300][seed as usize % 3];
    let default = 0x1f80u32;
    let (mut mxcsr_after, mut x87_after, mut top) = (0u32, 0u16, 0u64);
    let mut mask = seed * 3;
    // SAFETY: loads and stores stay in the locals; all registers are declared; control words are put
    // back; the x87 stack is empty again.
    unsafe {
        asm!("ldmxcsr [{}]", in(reg) &raw const mxcsr, options(nostack));
        asm!("fldcw [{}]", in(reg) &raw const x87, options(nostack));
        asm!("fild qword ptr [{}]", in(reg) &raw const seed, options(nostack));
        if wide {
            asm!(
                "vmovdqa64 zmm0, [{b}]", "vmovdqa64 zmm15, [{b} + 64]", "vmovdqa64 zmm31, [{b} + 128]",
                "kmovw k3, {m:e}",
                "2:", "dec rcx", "jnz 2b",
                "vmovdqa64 [{a}], zmm0", "vmovdqa64 [{a} + 64], zmm15", "vmovdqa64 [{a} + 128], zmm31",
                "kmovw {m:e}, k3", "vzeroupper",
                b = in(reg) &raw const before, a = in(reg) &raw mut after, m = inout(reg) mask,
                inout("rcx") HOLD => _,
                out("zmm0") _, out("zmm15") _, out("zmm31") _, out("k3") _, options(nostack),
            );
        } else {
            asm!(
                "vmovdqa ymm0, [{b}]", "vmovdqa ymm15, [{b} + 64]", "vmovdqa ymm14, [{b} + 128]",
                "2:", "dec rcx", "jnz 2b",
                "vmovdqa [{a}], ymm0", "vmovdqa [{a} + 64], ymm15", "vmovdqa [{a} + 128], ymm14",
                "vzeroupper",
                b = in(reg) &raw const before, a = in(reg) &raw mut after,
                inout("rcx") HOLD => _, out("ymm0") _, out("ymm15") _, out("ymm14") _, options(nostack),
            );
        }
        asm!("fistp qword ptr [{}]", in(reg) &raw mut top, options(nostack));
        asm!("fnstcw [{}]", in(reg) &raw mut x87_after, options(nostack));
        asm!("stmxcsr [{}]", in(reg) &raw mut mxcsr_after, options(nostack));
        asm!("fninit", "ldmxcsr [{}]", in(reg) &raw const default, options(nostack));
    }
    let lanes = if wide { 8 } else { 4 };
    let same = (0..3).all(|i| before.0[i][..lanes] == after.0[i][..lanes]);
    // Below mxcsr's control bits stand sticky flags, which nothing here raises.
    same && mxcsr == mxcsr_after && x87 == x87_after && top == seed && mask == seed * 3
}

fn hold_red_zone(seed: u64) -> bool {
    let bad: u64;
    // SAFETY: writes only the 128 bytes below rsp (the red zone), which nobody else may; that a signal
    // or a preemption leaves them alone is what is tried. No `nostack`: the compiler keeps off them.
    unsafe {
        asm!(
            "mov rdx, -128",
            "2:", "lea rsi, [rax + rdx]", "mov [rsp + rdx], rsi", "add rdx, 8", "jnz 2b",
            "3:", "dec rcx", "jnz 3b",
            "mov rdx, -128",
            "4:", "lea rsi, [rax + rdx]", "cmp [rsp + rdx], rsi", "jne 5f", "add rdx, 8", "jnz 4b",
            "5:", "mov rcx, rdx",
            in("rax") seed << 32, inout("rcx") HOLD => bad, out("rdx") _, out("rsi") _,
        );
    }
    bad == 0
}

/// Threads that compute spread over the vCPUs, and lose no count on the way.
fn migrate() -> String {
    static SEEN: AtomicU32 = AtomicU32::new(0);
    static SUM: AtomicU64 = AtomicU64::new(0);
    static DONE: AtomicU32 = AtomicU32::new(0);
    for cell in [&SEEN, &DONE] {
        cell.store(0, Ordering::Relaxed);
    }
    SUM.store(0, Ordering::Relaxed);
    let cpus = sched::kernel(sched::vcpu::count);
    let start = now();
    for _ in 0..8 {
        spawn(64 * 1024, move || {
            while now().since(start) < 200 * MILLISECOND {
                for _ in 0..1000 {
                    SUM.fetch_add(1, Ordering::Relaxed);
                }
                let here = sched::kernel(sched::vcpu::current);
                SEEN.fetch_or(1 << here, Ordering::Relaxed);
            }
            DONE.fetch_add(1, Ordering::Relaxed);
        });
    }
    wait_for("the workers", || DONE.load(Ordering::Relaxed) == 8);
    assert_eq!(SEEN.load(Ordering::Relaxed).count_ones(), cpus, "vCPUs that ran a thread");
    note(format_args!("{cpus} vCPUs, {} additions", SUM.load(Ordering::Relaxed)))
}

/// Parks, unparks, deadlines, yields and exits on all vCPUs at once; every token must come through.
fn stress() -> String {
    const THREADS: usize = 64;
    const TOKENS: u64 = 200;
    static PASSED: AtomicU64 = AtomicU64::new(0);
    static MAIL: Lock<Vec<(u32, Option<Arc<Thread>>)>> = Lock::new(Vec::new());
    PASSED.store(0, Ordering::Relaxed);
    EXITED.store(0, Ordering::Relaxed);
    sched::kernel(|| MAIL.lock().clear());
    for me in 0..THREADS {
        let thread = spawn(64 * 1024, move || {
            let mut random = me as u64 + 1;
            for _ in 0..TOKENS {
                // Waits for a letter, with and without a deadline, and passes one on.
                sched::kernel(|| {
                    loop {
                        if let Some(slot) = MAIL.lock().get_mut(me).filter(|slot| slot.0 > 0) {
                            slot.0 -= 1;
                            break;
                        }
                        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        match random >> 62 {
                            0 => drop(thread::park(Some(now().after(random >> 46)))),
                            _ => drop(thread::park(None)),
                        }
                    }
                });
                PASSED.fetch_add(1, Ordering::Relaxed);
                if random >> 60 == 3 {
                    sched::kernel(thread::yield_now);
                }
                post((me * 7 + 3) % THREADS);
            }
        });
        sched::kernel(|| MAIL.lock().push((0, Some(thread))));
    }
    fn post(to: usize) {
        sched::kernel(|| {
            let thread = {
                let mut mail = MAIL.lock();
                mail[to].0 += 1;
                mail[to].1.clone()
            };
            if let Some(thread) = thread {
                thread.unpark();
            }
        });
    }
    for to in 0..THREADS {
        post(to);
    }
    wait_for("the letters", || EXITED.load(Ordering::Relaxed) == THREADS as u64);
    assert_eq!(PASSED.load(Ordering::Relaxed), THREADS as u64 * TOKENS);
    sched::kernel(|| MAIL.lock().iter_mut().for_each(|slot| drop(slot.1.take())));
    note(format_args!("{} letters among {THREADS} threads", PASSED.load(Ordering::Relaxed)))
}

static EXITED: AtomicU64 = AtomicU64::new(0);

fn many() -> String {
    const THREADS: u64 = 10_000;
    static SUM: AtomicU64 = AtomicU64::new(0);
    SUM.store(0, Ordering::Relaxed);
    EXITED.store(0, Ordering::Relaxed);
    let start = now();
    let threads: Vec<_> = (0..THREADS)
        .map(|i| {
            spawn(16 * 1024, move || {
                sched::kernel(|| thread::park(None));
                SUM.fetch_add(i, Ordering::Relaxed);
            })
        })
        .collect();
    threads.iter().for_each(|thread| sched::kernel(|| thread.unpark()));
    wait_for("10,000 threads", || EXITED.load(Ordering::Relaxed) == THREADS);
    assert_eq!(SUM.load(Ordering::Relaxed), THREADS * (THREADS - 1) / 2);
    note(format_args!("10,000 threads in {} ms", now().since(start) / MILLISECOND))
}

static FAULTS: AtomicU32 = AtomicU32::new(0);
const RECOVERABLE: usize = 0x1000;

fn on_fault(frame: &mut Frame) -> bool {
    // The instructions below are `mov eax, [rdi]` (2 bytes) and `ud2` (2 bytes).
    let expected = frame.info.signo == 4 || frame.info.signo == 11 && frame.info.address() == RECOVERABLE;
    if expected {
        FAULTS.fetch_add(1, Ordering::Relaxed);
        frame.rip += 2;
        frame.rax = 77;
    }
    expected
}

fn fault() -> String {
    FAULTS.store(0, Ordering::Relaxed);
    let (value, kept): (u64, u64);
    // SAFETY: the load faults, and `on_fault` skips it; nothing else is touched.
    unsafe {
        asm!("mov rsi, 5", "mov eax, [rdi]", "ud2", in("rdi") RECOVERABLE, out("rax") value,
             out("rsi") kept);
    }
    assert_eq!((value, kept, FAULTS.load(Ordering::Relaxed)), (77, 5, 2));
    note(format_args!("SIGSEGV and SIGILL handled and gone on from"))
}

fn read_bad(address: usize) {
    // SAFETY: none: the fault is what is wanted.
    let word = unsafe { core::ptr::read_volatile(address as *const u32) };
    core::hint::black_box(word);
}

#[allow(unconditional_recursion)]
fn overflow(depth: u64) -> u64 {
    let big = core::hint::black_box([depth; 128]);
    overflow(depth + 1) + big[7]
}

fn exhaust() {
    sched::enter();
    let mut all = Vec::new();
    loop {
        all.push(alloc::vec![1u8; 1 << 20]);
    }
}

fn on_syscall(number: usize, args: [usize; 6], _: &mut Frame) -> isize {
    assert!(sched::in_kernel());
    match number {
        1_000_000 => args.iter().enumerate().map(|(i, a)| a * (i + 1)).sum::<usize>() as isize,
        1_000_001 => {
            thread::park(Some(now().after(MILLISECOND)));
            7
        }
        _ => platform::Errno::ENOSYS.to_raw(),
    }
}

fn syscall() -> String {
    let call = |number: usize| {
        let (answer, vector): (isize, u64);
        // SAFETY: the instruction ends in `on_syscall`; rcx and r11 are declared, xmm7 is kept.
        unsafe {
            asm!(
                "movq xmm7, {pattern}", "mov [rsp - 128], {pattern}", "syscall", "movq {pattern}, xmm7",
                "cmp [rsp - 128], {pattern}", "je 2f", "ud2", "2:",
                pattern = inout(reg) 0x1234_5678_9abcu64 => vector,
                inout("rax") number => answer, in("rdi") 1, in("rsi") 2, in("rdx") 3, in("r10") 4,
                in("r8") 5, in("r9") 6, out("rcx") _, out("r11") _, out("xmm7") _,
            );
        }
        assert_eq!(vector, 0x1234_5678_9abc);
        answer
    };
    assert_eq!(call(1_000_000), 1 + 4 + 9 + 16 + 25 + 36);
    assert_eq!(call(39), -38, "a host call came through");
    assert_eq!(call(1_000_001), 7);
    let start = now();
    for _ in 0..10_000 {
        call(39);
    }
    note(format_args!("{} ns a `syscall` instruction", now().since(start) / 10_000))
}

static SIGNALS: AtomicU64 = AtomicU64::new(0);
static TOLD: AtomicU64 = AtomicU64::new(0);
static WAITER: Lock<Option<Arc<Thread>>> = Lock::new(None);

fn on_signal(signal: i32, _: &SigInfo) {
    SIGNALS.fetch_or(1 << signal, Ordering::SeqCst);
}

fn on_signals() {
    TOLD.fetch_or(SIGNALS.swap(0, Ordering::SeqCst), Ordering::SeqCst);
    if let Some(thread) = WAITER.lock().as_ref() {
        thread.request_attention();
    }
}

fn signal() -> String {
    const SIGUSR1: i32 = 10;
    const SIGTERM: i32 = 15;
    let (pid, tid) = (platform::thread::getpid(), platform::thread::gettid());
    // To itself while it computes.
    platform::thread::tgkill(pid, tid, SIGUSR1);
    let start = now();
    while TOLD.load(Ordering::Relaxed) & 1 << SIGUSR1 == 0 {
        assert!(now().since(start) < PATIENCE, "not told while computing");
    }
    // While all sleep: a helper sends it.
    ATTENDED.store(0, Ordering::Relaxed);
    sched::enter();
    *WAITER.lock() = Some(thread::current().clone());
    let start = now();
    let helper = spawn_sender(pid, SIGTERM);
    thread::park(Some(now().after(PATIENCE)));
    sched::leave();
    let waited = now().since(start);
    wait_for("the sender", || helper.load(Ordering::Relaxed));
    sched::kernel(|| WAITER.lock().take());
    assert!(waited < PATIENCE, "not woken");
    assert!(TOLD.load(Ordering::Relaxed) & 1 << SIGTERM != 0);
    assert_eq!(ATTENDED.load(Ordering::Relaxed), 1);
    note(format_args!("while computing, and in sleep after {} ms", waited / MILLISECOND))
}

/// A guest thread whose helper sleeps 30 ms and sends the signal.
fn spawn_sender(pid: i32, signal: i32) -> Arc<AtomicBool> {
    let done = Arc::new(AtomicBool::new(false));
    let told = done.clone();
    spawn(64 * 1024, move || {
        sched::kernel(|| {
            sched::blocking::run(move || {
                let time = platform::time::Timespec::from_ns(30 * MILLISECOND);
                // SAFETY: the timespec is ours; a signal to this process, which handles it.
                unsafe {
                    let _ = host!(nanosleep, &raw const time, 0);
                    let _ = host!(kill, pid, signal);
                }
                0
            })
        });
        told.store(true, Ordering::Relaxed);
    });
    done
}

static ATTENDED: AtomicU32 = AtomicU32::new(0);

fn on_attention(_: Option<&mut Frame>) {
    ATTENDED.fetch_add(1, Ordering::Relaxed);
}

/// Attention reaches a thread that computes on another vCPU (or this one) within a slice.
fn attention() -> String {
    static STOP: AtomicBool = AtomicBool::new(false);
    static RUNNING: AtomicBool = AtomicBool::new(false);
    ATTENDED.store(0, Ordering::Relaxed);
    STOP.store(false, Ordering::Relaxed);
    let thread = spawn(64 * 1024, || {
        RUNNING.store(true, Ordering::Relaxed);
        spin_until(&STOP);
    });
    wait_for("the thread", || RUNNING.load(Ordering::Relaxed));
    let start = now();
    sched::kernel(|| thread.request_attention());
    wait_for("attention", || ATTENDED.load(Ordering::Relaxed) == 1);
    let time = now().since(start);
    STOP.store(true, Ordering::Relaxed);
    note(format_args!("after {} us", time / 1000))
}

/// A guest that waits uses no CPU.
fn idle() -> String {
    let before = cpu_time();
    sched::kernel(|| thread::park(Some(now().after(1_000 * MILLISECOND))));
    let used = cpu_time() - before;
    // One that polls uses all of it.
    assert!(used < 100 * MILLISECOND, "{} us of CPU in an idle second", used / 1000);
    note(format_args!("{} us of CPU in a second", used / 1000))
}

fn cpu_time() -> u64 {
    const CLOCK_PROCESS_CPUTIME_ID: i32 = 2;
    platform::time::clock_gettime(CLOCK_PROCESS_CPUTIME_ID).expect("a clock").to_ns()
}

fn blocking() -> String {
    let start = now();
    let here = platform::thread::gettid() as isize;
    for i in 0..100 {
        let answer = sched::kernel(|| {
            sched::blocking::run(move || {
                assert!(platform::thread::gettid() as isize != here, "on the vCPU");
                // SAFETY: reads nothing: the address is bad on purpose.
                let bad = unsafe { sched::user_copy::load(16 as *const u32) };
                assert!(bad.is_none());
                i
            })
        });
        assert_eq!(answer, i);
    }
    note(format_args!("{} us a call", now().since(start) / 100_000))
}

/// Both heaps, from many threads: blocks never overlap, contents stay.
fn heap() -> String {
    static DONE: AtomicU32 = AtomicU32::new(0);
    DONE.store(0, Ordering::Relaxed);
    for seed in 1..=6u64 {
        spawn(64 * 1024, move || {
            let mut random = seed;
            let mut held: Vec<(Vec<u8>, u8)> = Vec::new();
            for round in 0..8_000u32 {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let size = 1usize << (random >> 60) | (random >> 44) as usize & 0xfff;
                let mark = random as u8;
                let make = || alloc::vec![mark; size];
                // Half of them in the arena.
                let block = if random >> 43 & 1 == 1 { sched::kernel(make) } else { make() };
                let inside = platform::layout::in_arena(block.as_ptr() as usize);
                assert_eq!(inside, random >> 43 & 1 == 1);
                held.push((block, mark));
                if held.len() > 64 || round % 3 == 0 {
                    let (block, mark) = held.swap_remove((random >> 8) as usize % held.len());
                    assert!(block.iter().all(|&byte| byte == mark), "a block was overwritten");
                }
            }
            DONE.fetch_add(1, Ordering::Relaxed);
        });
    }
    wait_for("the allocating threads", || DONE.load(Ordering::Relaxed) == 6);
    let big = sched::kernel(|| alloc::vec![3u8; 40 << 20]);
    assert!(big.iter().step_by(4096).all(|&byte| byte == 3));
    drop(big);
    let start = now();
    sched::kernel(|| {
        for _ in 0..100_000 {
            core::hint::black_box(Box::new([0u64; 12]));
        }
    });
    note(format_args!("{} ns to allocate and release 96 bytes", now().since(start) / 100_000))
}

/// The memory functions, against byte loops, at every length and overlap of some lines.
fn strings() -> String {
    const ROOM: usize = 400;
    let pattern: Vec<u8> = (0..ROOM).map(|i| (i * 7 + 1) as u8).collect();
    for len in 0..=150 {
        for distance in [0usize, 1, 3, 8, 15, 16, 40, 64, 100, 160] {
            for (to, from) in [(distance, 0), (0, distance), (distance + 80, 80)] {
                let mut moved = pattern.clone();
                // SAFETY: both ranges lie within ROOM; core::ptr::copy is memmove.
                unsafe { core::ptr::copy(moved.as_ptr().add(from), moved.as_mut_ptr().add(to), len) };
                let right = |at: usize| match (to..to + len).contains(&at) {
                    true => pattern[at - to + from],
                    false => pattern[at],
                };
                assert!((0..ROOM).all(|at| moved[at] == right(at)), "{len} {to} {from}");
            }
        }
    }
    let (mut a, b) = (pattern.clone(), pattern.clone());
    assert!(a == b && a[..] < b[1..]);
    for at in [0, 5, 63, 199, ROOM - 1] {
        a[at] ^= 0x80;
        assert_eq!(a.cmp(&b), a[at].cmp(&b[at]));
        a[at] ^= 0x80;
    }
    note(format_args!("copies, moves and comparisons"))
}
