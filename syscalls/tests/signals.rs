//! Signals of a guest thread under the real scheduler. The restorer's rt_sigreturn goes to the *host's*
//! kernel here (nothing traps it in a test), so the kernel itself judges whether our frame is its own.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use syscalls::process::Credentials;
use syscalls::signal::{Action, SA_ONSTACK, SA_RESTART, SA_RESTORER, bit};

const SIGUSR1: usize = 10;
const SA_SIGINFO: u64 = 4;

/// The exact bytes that unwinders look for (SUMMARY, trap 10).
#[unsafe(naked)]
unsafe extern "C" fn restorer() {
    naked_asm!("mov rax, 15", "syscall")
}

static RUNS: AtomicU32 = AtomicU32::new(0);
static INFO: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static MASK_INSIDE: AtomicU64 = AtomicU64::new(0);
static STACK: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn handler(signal: i32, info: *const [u64; 16], context: *const u64) {
    // psABI: a function is entered with the stack pointer 8 below a multiple of 16; locals of 16-byte
    // alignment fault if it is not so.
    let vector = core::hint::black_box([1.5f64; 8]);
    // SAFETY: the frame's own pointers.
    let (info, flags) = unsafe { (*info, *context) };
    INFO[0].store(signal as u64, SeqCst);
    INFO[1].store(info[0], SeqCst);
    INFO[2].store(flags, SeqCst);
    STACK.store(&raw const vector as usize, SeqCst);
    let mut mask = 0u64;
    assert_eq!(call("rt_sigprocmask", [2, 0, &raw mut mask as usize, 8, 0, 0]), 0);
    MASK_INSIDE.store(mask, SeqCst);
    RUNS.fetch_add(1, SeqCst);
    clobber();
}

/// Uses every register that a signal must not disturb.
fn clobber() {
    // SAFETY: declared clobbers only.
    unsafe {
        core::arch::asm!(
            "xor r12, r12", "xor r13, r13", "xor r14, r14", "xor r15, r15", "pxor xmm0, xmm0",
            out("r12") _, out("r13") _, out("r14") _, out("r15") _, out("xmm0") _,
        );
    }
}

fn call(name: &str, args: [usize; 6]) -> isize {
    let row = syscalls::table::rows().find(|row| row.name == name).expect("a call");
    // SAFETY: the tests' own pointers.
    unsafe { syscalls::call(row.number, args) }
}

fn handle(flags: u64) {
    let flags = flags | SA_RESTORER | SA_SIGINFO;
    let action = Action {
        handler: handler as *const () as usize,
        flags,
        restorer: restorer as *const () as usize,
        mask: bit(12),
    };
    assert_eq!(call("rt_sigaction", [SIGUSR1, &raw const action as usize, 0, 8, 0, 0]), 0);
}

/// Runs `body` as the first thread of a fresh guest.
fn guest(body: impl FnOnce()) {
    sched::testing::run(syscalls::hooks(sched::Hooks::none()), || {
        sched::kernel(|| {
            let credentials = Some(Credentials::new(1000, 1000, Vec::new()));
            syscalls::init(&syscalls::Config { hostname: "guest", pid: 500, credentials });
        });
        body();
    });
}

/// A further thread of the guest's process.
fn spawn(body: impl FnOnce() + Send + 'static) {
    let process = syscalls::context::Ctx::current().process.clone();
    sched::kernel(|| {
        sched::testing::spawn(move || {
            sched::kernel(|| syscalls::task::Task::further(&process, 0).attach());
            body();
        });
    });
}

/// One test function: the parts share the handler's counters, and each needs a scheduler.
#[test]
fn signals_reach_handlers_and_calls_go_on() {
    guest(delivers_at_the_end_of_a_call);
    guest(uses_the_alternate_stack);
    guest(restarts_or_interrupts);
    guest(suspends);
    guest(enters_handlers_on_interrupted_registers);
}

fn delivers_at_the_end_of_a_call() {
    RUNS.store(0, SeqCst);
    handle(0);
    let pid = call("getpid", [0; 6]) as usize;
    let kept = core::hint::black_box([3.25f64, 4.5]);
    for round in 1..=3 {
        assert_eq!(call("kill", [pid, SIGUSR1, 0, 0, 0, 0]), 0);
        assert_eq!(RUNS.load(SeqCst), round);
        // The host's rt_sigreturn does not know our mask: what it would restore, we do.
        sched::kernel(|| syscalls::signal::set_mask(syscalls::context::Ctx::current().task, 0));
    }
    assert_eq!(core::hint::black_box(kept), [3.25, 4.5]);
    assert_eq!(INFO[0].load(SeqCst), SIGUSR1 as u64);
    assert_eq!(INFO[1].load(SeqCst), SIGUSR1 as u64);
    assert_eq!(INFO[2].load(SeqCst) & 1, 1, "UC_FP_XSTATE");
    assert_eq!(MASK_INSIDE.load(SeqCst), bit(SIGUSR1 as i32) | bit(12));
}

fn uses_the_alternate_stack() {
    handle(SA_ONSTACK);
    let stack = vec![0u64; 4096];
    let range = stack.as_ptr() as usize..stack.as_ptr() as usize + 32768;
    let alternate = syscalls::signal::AltStack::new(range.start, 0, 32768);
    assert_eq!(call("sigaltstack", [&raw const alternate as usize, 0, 0, 0, 0, 0]), 0);
    let (pid, tid) = (call("getpid", [0; 6]) as usize, call("gettid", [0; 6]) as usize);
    assert_eq!(call("tgkill", [pid, tid, SIGUSR1, 0, 0, 0]), 0);
    assert!(range.contains(&STACK.load(SeqCst)));
}

fn restarts_or_interrupts() {
    const EINTR: isize = -4;
    static WORD: AtomicU32 = AtomicU32::new(0);
    const WAIT_PRIVATE: usize = 128;
    const WAKE_PRIVATE: usize = 129;
    let word = WORD.as_ptr() as usize;
    let (pid, tid) = (call("getpid", [0; 6]) as usize, call("gettid", [0; 6]) as usize);
    for (flags, want) in [(0, EINTR), (SA_RESTART, 0)] {
        RUNS.store(0, SeqCst);
        handle(flags);
        sched::kernel(|| syscalls::signal::set_mask(syscalls::context::Ctx::current().task, 0));
        spawn(move || {
            assert_eq!(call("tgkill", [pid, tid, SIGUSR1, 0, 0, 0]), 0);
            while RUNS.load(SeqCst) == 0 {
                call("sched_yield", [0; 6]);
            }
            call("sched_yield", [0; 6]);
            // Only the restarted call is still there to be woken.
            let woken = call("futex", [word, WAKE_PRIVATE, 1, 0, 0, 0]);
            assert_eq!(woken, isize::from(flags & SA_RESTART != 0));
        });
        assert_eq!(call("futex", [word, WAIT_PRIVATE, 0, 0, 0, 0]), want);
        assert_eq!(RUNS.load(SeqCst), 1);
        // The other thread finishes before the next round.
        for _ in 0..4 {
            call("sched_yield", [0; 6]);
        }
    }
}

fn suspends() {
    const EINTR: isize = -4;
    RUNS.store(0, SeqCst);
    handle(SA_RESTART);
    let (pid, tid) = (call("getpid", [0; 6]) as usize, call("gettid", [0; 6]) as usize);
    let blocked = bit(SIGUSR1 as i32);
    assert_eq!(call("rt_sigprocmask", [2, &raw const blocked as usize, 0, 8, 0, 0]), 0);
    assert_eq!(call("tgkill", [pid, tid, SIGUSR1, 0, 0, 0]), 0);
    assert_eq!(RUNS.load(SeqCst), 0);
    let none = 0u64;
    assert_eq!(call("rt_sigsuspend", [&raw const none as usize, 8, 0, 0, 0, 0]), EINTR);
    assert_eq!(RUNS.load(SeqCst), 1);
}

/// An interrupted program: the frame is entered and left by changing its registers, and what the
/// handler writes into the context is what the program goes on with.
fn enters_handlers_on_interrupted_registers() {
    #[repr(C, align(64))]
    struct Area([u8; 1024]);
    // ucontext: flags 8, link 8, stack 24; then r8.. and so on in the order of struct sigcontext.
    const RIP: usize = 40 + 16 * 8;
    const RSP: usize = 40 + 15 * 8;
    let mut stack = vec![0u64; 8192];
    let top = stack.as_mut_ptr() as usize + 65536;
    let mut area = Area([0; 1024]);
    area.0[24..28].copy_from_slice(&0x1f80u32.to_ne_bytes());
    area.0[512] = 3;
    // SAFETY: a frame is plain data, and every field that is used is set below.
    let mut frame: sched::Frame = unsafe { core::mem::zeroed() };
    (frame.rip, frame.rsp, frame.rbx, frame.rflags) = (0x1234, top as u64, 77, 0x246);
    (frame.cs, frame.ss) = (0x33, 0x2b);
    (frame.xsave, frame.xsave_len, frame.xfeatures) = (area.0.as_mut_ptr(), 832, 7);
    handle(0);
    sched::kernel(|| {
        let ctx = syscalls::context::Ctx::current();
        let info = syscalls::signal::Info::from_kernel(SIGUSR1 as i32);
        ctx.task.pending.push(info, 1).unwrap();
        syscalls::entry::attention(Some(&mut frame));
        assert_eq!(frame.rip as usize, handler as *const () as usize);
        assert_eq!(frame.rdi, SIGUSR1 as u64);
        assert_eq!(frame.rsp % 16, 8);
        assert!((frame.rsp as usize) < top - 128);
        let context = frame.rdx as usize;
        let read = |at: usize| syscalls::user::UserPtr::<u64>::new(context + at).read().unwrap();
        assert_eq!((read(RIP), read(RSP)), (0x1234, top as u64));
        let restorer_there = syscalls::user::UserPtr::<u64>::new(frame.rsp as usize).read().unwrap();
        assert_eq!(restorer_there as usize, restorer as *const () as usize);
        syscalls::user::UserPtr::<u64>::new(context + RIP).write(0x5678).unwrap();
        // The handler's `ret`, then the restorer's `syscall`.
        frame.rsp += 8;
        frame.rbx = 0;
        assert_ne!(ctx.task.blocked.load(SeqCst), 0);
        syscalls::entry::instruction(15, [0; 6], &mut frame);
        assert_eq!((frame.rip, frame.rsp, frame.rbx), (0x5678, top as u64, 77));
        assert_eq!(ctx.task.blocked.load(SeqCst), 0);
    });
}
