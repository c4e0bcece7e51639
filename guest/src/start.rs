//! `_start`, and the order in which a guest comes up.

use crate::config::{self, Config};
use crate::message::die;
use crate::{heap, program, selftest, vdso};
use core::arch::global_asm;
use core::ffi::CStr;

// The host's kernel enters with argc at rsp (psABI 3.4.1). rbp is zero for those who walk frames.
global_asm!(
    ".globl _start",
    ".type _start, @function",
    "_start:",
    ".cfi_startproc",
    ".cfi_undefined rip",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {start}",
    "ud2",
    ".cfi_endproc",
    start = sym start,
);

const AT_HWCAP2: usize = 26;
const AT_SYSINFO_EHDR: usize = 33;

/// What the host's kernel put on the first stack.
pub(crate) struct Startup {
    argv: *const *const u8,
    argc: usize,
    /// (type, value) pairs up to AT_NULL.
    auxv: *const [usize; 2],
}

impl Startup {
    /// # Safety
    /// `stack` is the initial stack pointer of the process.
    unsafe fn read(stack: *const usize) -> Startup {
        // SAFETY: argc, argv with a null, envp with a null, auxv (psABI figure 3.9).
        unsafe {
            let argc = *stack;
            let mut at = stack.add(1 + argc + 1);
            while *at != 0 {
                at = at.add(1);
            }
            Startup { argv: stack.add(1).cast(), argc, auxv: at.add(1).cast() }
        }
    }

    fn argument(&self, index: usize) -> Option<&'static CStr> {
        // SAFETY: the kernel's strings stand above the stack for the life of the process.
        (index < self.argc).then(|| unsafe { CStr::from_ptr((*self.argv.add(index)).cast()) })
    }

    /// The auxiliary vector without its end.
    #[cfg_attr(not(feature = "program"), allow(dead_code))]
    pub(crate) fn vector(&self) -> impl Iterator<Item = (usize, usize)> {
        // SAFETY: the vector ends with AT_NULL (0), after which nothing is read.
        (0..).map(|i| unsafe { *self.auxv.add(i) }).take_while(|pair| pair[0] != 0).map(|[k, v]| (k, v))
    }

    /// A value of the auxiliary vector, 0 if it is not there.
    pub(crate) fn auxiliary(&self, kind: usize) -> usize {
        let mut at = self.auxv;
        // SAFETY: the vector ends with AT_NULL (0).
        unsafe {
            while (*at)[0] != 0 {
                if (*at)[0] == kind {
                    return (*at)[1];
                }
                at = at.add(1);
            }
        }
        0
    }
}

extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: `_start` passes the initial stack pointer.
    let startup = unsafe { Startup::read(stack) };
    if !sched::arch::has_fsgsbase(startup.auxiliary(AT_HWCAP2)) {
        die(format_args!(
            "this machine or its kernel has no FSGSBASE (x86 since 2012, Linux 5.9); a guest cannot run on it"
        ));
    }
    // SAFETY: the address is the kernel's vDSO, mapped for the life of the process.
    unsafe { vdso::use_clock(startup.auxiliary(AT_SYSINFO_EHDR)) };
    sched::boot();
    let records = read_records(&startup);
    heap::start(config::memory(records));
    let config = Config::parse(records);
    let mut setup = sched::Config::new(config.cpus);
    setup.busy = config.busy;
    let hooks = match config.selftest {
        Some(_) => selftest::hooks(),
        None => program::hooks(),
    };
    if let Err(error) = sched::init(setup, hooks) {
        die(format_args!("the scheduler cannot start: {error}"));
    }
    match config.selftest {
        Some(name) => selftest::begin(name),
        None => program::begin(config, &startup),
    }
    sched::run()
}

fn read_records(startup: &Startup) -> &'static [u8] {
    let number = startup.argument(1).and_then(|text| text.to_str().ok()?.parse().ok());
    let Some(fd) = number else {
        die(format_args!("the guest is started by `attacca run`, not by hand"));
    };
    match config::read(fd) {
        Ok(records) => records,
        Err(error) => die(format_args!("the configuration cannot be read: {error}")),
    }
}
