//! One more process in a running guest, asked for from outside (`attacca exec`).
//!
//! It is nobody's child in the guest, leads a session of its own, and begins like a vforked child that
//! executes: a host process with a copy of the runtime's window alone. Whoever serves the request is a vCPU
//! at its idle work and no guest thread, so nothing may park there: the program is looked for by the new
//! process itself, which ends with 126 or 127 as a shell would if there is none.
//!
//! Left out: a second thread of the kind (that is what the program makes), and entering from inside.

use crate::context::Ctx;
use crate::exec::{self, Request};
use crate::file::OpenFile;
use crate::host_file::HostFile;
use crate::process::{Credentials, Process, root};
use crate::signal::{self, Info};
use crate::task::Task;
use crate::user::KernelSource;
use crate::{Errno, Result, fork, rt, tty};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use fs::HostFd;
use fs::view::View;

/// Who wants to know how a process ends.
pub trait Ended: Send + Sync {
    /// With this wait status. Its descriptors are closed already. In the kernel, no lock held.
    fn ended(&self, status: u32);
}

/// What shall run.
pub struct Wish {
    /// A path, or a name that is looked for in the environment's PATH.
    pub program: Vec<u8>,
    /// Arguments, the first one included.
    pub argv: Vec<Vec<u8>>,
    /// Environment.
    pub envp: Vec<Vec<u8>>,
    /// Working directory; `None`: that of `view`.
    pub cwd: Option<Vec<u8>>,
    /// Whose rights it has.
    pub credentials: Credentials,
    /// The tree it sees.
    pub view: Arc<View>,
    /// Who hears of its end.
    pub ended: Arc<dyn Ended>,
}

/// Where its standard streams are.
pub enum Streams {
    /// Descriptors of the host, which the process takes over; `None`: closed.
    Host([Option<HostFd>; 3]),
    /// A terminal of the guest, of this size (rows, columns), which controls its session.
    Terminal([u16; 2]),
}

/// Starts it; answers its process, and the master of its terminal.
pub fn enter(wish: Wish, streams: Streams) -> Result<(Arc<Process>, Option<Arc<OpenFile>>)> {
    let loader = exec::loader()?;
    let process = root().add_process(wish.credentials.clone(), crate::reap::INIT);
    process.view.set(View::clone(&wish.view));
    process.ended.set(Some(wish.ended.clone()));
    let made = give_streams(&process, streams)
        .and_then(|master| start(&process, Box::new(wish), loader.hide_program).map(|()| master));
    match made {
        Ok(master) => Ok((process, master)),
        Err(error) => {
            process.ended.lock().take();
            process.fds.close_all();
            root().remove_process(process.pid);
            root().one_less();
            Err(error)
        }
    }
}

fn give_streams(process: &Arc<Process>, streams: Streams) -> Result<Option<Arc<OpenFile>>> {
    match streams {
        Streams::Host(fds) => {
            for (number, fd) in (0..).zip(fds) {
                if let Some(fd) = fd {
                    process.fds.replace(number, Arc::new(HostFile::inherited(fd)?), false)?;
                }
            }
            Ok(None)
        }
        Streams::Terminal(size) => {
            let (master, slave) = tty::terminal_for(process, size)?;
            for number in 0..3 {
                process.fds.replace(number, slave.clone(), false)?;
            }
            Ok(Some(master))
        }
    }
}

/// As `exec::elsewhere` does for a vforked child.
fn start(process: &Arc<Process>, wish: Box<Wish>, hide_program: fn(bool)) -> Result<()> {
    let task = Task::new(process, process.pid, 0);
    let local = Arc::into_raw(task.clone());
    let child = rt::Child::fresh(local.cast_mut().cast());
    task.waiter.bind(child.thread());
    process.set_host(child.process().clone());
    let wish = Box::into_raw(wish);
    // Whoever has the turn runs on another vCPU and does not park with it.
    let turn = fork::Turn::take();
    hide_program(true);
    // SAFETY: with the turn, the stack for this is ours; the wish and all else is arena memory.
    let started = rt::fork_stack().and_then(|top| unsafe { child.start_on(top, entered, wish.cast()) });
    hide_program(false);
    drop(turn);
    started.inspect_err(|_| {
        drop(Process::of_host(child.process()));
        process.forget_host();
        process.remove_task(process.pid);
        // SAFETY: nobody else has either.
        unsafe {
            drop(Arc::from_raw(local));
            drop(Box::from_raw(wish));
        }
    })
}

/// The new process's first code, in its own host process.
extern "C" fn entered(wish: *mut ()) -> ! {
    // SAFETY: `start` gave it up.
    let wish = unsafe { Box::from_raw(wish.cast::<Wish>()) };
    let ctx = Ctx::current();
    crate::process::set_own(ctx.process);
    // Dropped before `exec::replace` and `exit`, which do not come back.
    let found = find(&ctx, *wish);
    match found {
        Ok(request) => exec::replace(request),
        Err((status, text)) => {
            if let Ok(open) = ctx.process.fds.get(2) {
                let _ = open.file.write(&open, &mut 0, &mut KernelSource(&text));
            }
            drop(text);
            ctx.process.exit(status << 8)
        }
    }
}

/// Finds the program as a shell would, or says why there is none: 127 not found, 126 cannot be run.
fn find(ctx: &Ctx, wish: Wish) -> core::result::Result<Box<Request>, (u32, Vec<u8>)> {
    let Wish { program, argv, envp, cwd, .. } = wish;
    let failed = |status, what: &[u8], why: &str| {
        let text = alloc::format!("attacca: {}: {why}\n", what.escape_ascii());
        Err((status, text.into_bytes()))
    };
    if let Some(cwd) = cwd
        && let Err(error) = change_directory(ctx, &cwd)
    {
        return failed(126, &cwd, &alloc::format!("cannot be the working directory: {error}"));
    }
    let mut why = Errno::ENOENT;
    for path in candidates(&program, &envp) {
        match exec::request(ctx, path, argv.clone(), envp.clone()) {
            Ok(request) => return Ok(request),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(error) => why = error,
        }
    }
    match why {
        Errno::ENOENT => failed(127, &program, "no such program in the guest"),
        error => failed(126, &program, &alloc::format!("cannot be run: {error}")),
    }
}

fn change_directory(ctx: &Ctx, path: &[u8]) -> Result<()> {
    let view = crate::path::view(ctx)?;
    let cwd = view.directory(&view.cwd, path)?;
    ctx.process.view.set(View { cwd, ..View::clone(&view) });
    Ok(())
}

fn candidates(program: &[u8], envp: &[Vec<u8>]) -> Vec<Vec<u8>> {
    const DEFAULT: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    if program.contains(&b'/') {
        return alloc::vec![program.to_vec()];
    }
    let path = envp.iter().find_map(|text| text.strip_prefix(b"PATH=")).unwrap_or(DEFAULT);
    let join = |dir: &[u8]| [if dir.is_empty() { b"." } else { dir }, b"/", program].concat();
    path.split(|&byte| byte == b':').map(join).collect()
}

/// Signals the process that was started: all of its group, if `group`.
pub fn send(process: &Process, signal: i32, group: bool) {
    if !(1..=signal::SIGNALS).contains(&signal) {
        return;
    }
    match group {
        true => tty::signal_group(process.group.load(Ordering::Relaxed), signal),
        false => drop(signal::send_process(process, Info::from_kernel(signal))),
    }
}

/// Reads what the program has written to its terminal. EAGAIN: nothing yet; EIO: everybody has closed it.
pub fn read_terminal(master: &OpenFile, into: &mut [u8]) -> Result {
    master.file.read(master, &mut 0, &mut crate::user::KernelSink::new(into))
}

/// Types at a terminal; answers how much it took. EAGAIN: it takes nothing now.
pub fn type_at(master: &OpenFile, bytes: &[u8]) -> Result {
    master.file.write(master, &mut 0, &mut KernelSource(bytes))
}
