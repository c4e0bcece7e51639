//! Running kernel code under `cargo test`: guest threads on an ordinary host thread.
//!
//! No preemption, no signals, no arena: the vCPU loop runs on the test's own host thread until the
//! given function, run as a guest thread, is done. Tests of several crates run in parallel, each with
//! its own scheduler.

use crate::hooks::Hooks;
use crate::thread::{self, Start};
use crate::vcpu::{self, Block, Config};
use alloc::boxed::Box;
use core::ffi::c_void;
use core::sync::atomic::Ordering;

/// Runs `body` as a guest thread on one vCPU and comes back when it has returned. `body` runs
/// *outside* the kernel, as a program's code does. A panic in it ends the test process.
pub fn run(hooks: Hooks, body: impl FnOnce()) {
    const STACK: usize = 1024 * 1024;
    crate::signal::install_fixups();
    // Leaked, as the scheduler is: a test's process does not live long.
    let boot: &'static Block = Box::leak(Box::new(Block::new(vcpu::NONE)));
    boot.adopt(core::ptr::null());
    let config = Config { cpus: 1, busy: false, slice_ns: 0, signals: false };
    vcpu::init(config, hooks).expect("a scheduler");
    let stack = Box::leak(alloc::vec![0u8; STACK].into_boxed_slice());
    let mut job = Some(body);
    let start = Start {
        entry: enter_body(&job),
        argument: (&raw mut job).cast(),
        stack_top: stack.as_ptr() as usize + STACK,
        fs_base: 0,
    };
    thread::spawn(start, core::ptr::null_mut()).expect("a thread");
    vcpu::run_loop();
}

/// Makes a guest thread that runs `body` outside the kernel. Kernel only, inside [`run`].
pub fn spawn(body: impl FnOnce() + 'static) -> alloc::sync::Arc<crate::Thread> {
    const STACK: usize = 256 * 1024;
    let stack = Box::leak(alloc::vec![0u8; STACK].into_boxed_slice());
    let job = Box::leak(Box::new(Some(body)));
    let start = Start {
        entry: enter_spawned(job),
        argument: (&raw mut *job).cast(),
        stack_top: stack.as_ptr() as usize + STACK,
        fs_base: 0,
    };
    thread::spawn(start, core::ptr::null_mut()).expect("a thread")
}

fn enter_body<F: FnOnce()>(_: &Option<F>) -> unsafe extern "C" fn(*mut c_void) {
    unsafe extern "C" fn main<F: FnOnce()>(argument: *mut c_void) {
        // SAFETY: `run` passes its `Option<F>`, which outlives the loop.
        if let Some(body) = unsafe { (*argument.cast::<Option<F>>()).take() } {
            body();
        }
        crate::enter();
        vcpu::process().stopping.store(true, Ordering::SeqCst);
        thread::exit();
    }
    main::<F>
}

fn enter_spawned<F: FnOnce()>(_: &Option<F>) -> unsafe extern "C" fn(*mut c_void) {
    unsafe extern "C" fn main<F: FnOnce()>(argument: *mut c_void) {
        // SAFETY: `spawn` leaks the `Option<F>`.
        if let Some(body) = unsafe { (*argument.cast::<Option<F>>()).take() } {
            body();
        }
        crate::enter();
        thread::exit();
    }
    main::<F>
}
