//! The Linux personality: what system calls mean. Both doors (libc and `syscall`) meet in [`call`].
//!
//! THE table ([`table`]) names every call: number, name, typed arguments, handler, support level,
//! note. Handlers take the calling context and typed arguments and answer `Result<usize>`; nothing
//! here sleeps except in [`wait`]. Descriptors lead to an [`file::OpenFile`], whose behaviour is
//! a [`file::File`]: files never block either, they answer EAGAIN and tell a [`hub::Hub`] when that
//! changes.
//!
//! State is kernel state: in the shared arena, reached from one root, valid in every process of the
//! guest. A user pointer is only ever touched by the thread whose call brought it.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod args;
pub mod buffer;
pub mod context;
pub mod dir;
pub mod enter;
pub mod entry;
pub mod epoll;
pub mod errno;
pub mod eventfd;
pub mod exec;
pub mod extent;
pub mod fcntl;
pub mod fd;
pub mod fifo;
pub mod file;
#[cfg(test)]
mod file_tests;
pub mod fork;
pub mod futex;
pub mod futex_pi;
pub mod hands;
pub mod host_file;
pub mod host_signal;
pub mod hub;
mod inet_group;
mod inet_message;
mod inet_option;
mod inet_socket;
pub mod info;
pub mod inotify;
pub mod ioctl;
pub mod ipc;
mod lost;
pub mod maps;
pub mod memory;
pub mod memory_limit;
pub mod mounts;
pub mod mqueue;
pub mod net_claim;
mod net_counters;
mod net_demand;
pub mod net_device;
pub mod net_interface;
pub mod net_lease;
mod net_link;
pub mod net_poll;
mod net_tables;
mod netlink;
pub mod path;
pub mod pidfd;
pub mod pipe;
pub mod poll;
pub mod posix_timer;
pub mod priority;
pub mod proc;
pub mod process;
pub mod reap;
pub mod record_lock;
pub mod rt;
pub mod rw;
pub mod script;
pub mod signal;
pub mod signal_frame;
pub mod signalfd;
pub mod sockaddr;
pub mod socket;
pub mod splice;
pub mod stat;
pub mod stay;
pub mod sysv;
pub mod table;
pub mod task;
#[cfg(test)]
pub mod testing;
pub mod thread;
pub mod time;
pub mod timerfd;
pub mod trace;
pub mod tree_file;
pub mod tty;
mod unix_garbage;
pub mod unix_socket;
pub mod user;
pub mod wait;
pub mod xattr;
mod zero_copy;

pub use platform::Errno;
/// What every handler answers: a value, or the error number for the program.
pub type Result<T = usize> = core::result::Result<T, Errno>;

pub use entry::call;
pub use process::Config;

/// Starts the personality in this host process: the root of kernel state, the first process, and the
/// running scheduler thread as its first thread. Called once by the guest's main, in the kernel, after
/// the scheduler was started with [`hooks`].
pub fn init(config: &Config) {
    let process = process::start(config);
    // execve(2): what was ignored stays ignored (nohup).
    let ignored = sched::signal::ignored_at_start();
    for signal in (1..=signal::SIGNALS).filter(|&signal| ignored & signal::bit(signal) != 0) {
        let action = signal::Action { handler: signal::SIG_IGN, ..Default::default() };
        process.actions.set(signal, action);
    }
    let task = task::Task::first(&process);
    *task.schedule.lock() = priority::Schedule::of_host();
    task.clone().attach();
    hands::start();
    // The host's signals that came before there was a process to take them: whoever delivered them found
    // nobody, and nothing tells of them again.
    host_signal::deliver();
    if task.has_signal() {
        rt::request_attention(rt::current());
    }
}

/// Fills in the personality's part of the scheduler's hooks.
pub fn hooks(hooks: sched::Hooks) -> sched::Hooks {
    use core::sync::atomic::Ordering;
    sched::Hooks {
        attention: entry::attention,
        fault: entry::fault,
        syscall: entry::instruction,
        host_signal: host_signal::record,
        host_signals: host_signal::deliver,
        exited: |thread| {
            let none = core::ptr::null_mut();
            thread::exited(thread.local().swap(none, Ordering::AcqRel));
        },
        #[cfg(not(test))]
        process_gone: reap::host_gone,
        ..hooks
    }
}
