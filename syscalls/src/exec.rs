//! execve(2): another program in the same process.
//!
//! **In place.** The calling host process stays: it keeps its id, its vCPUs, the arena. The program's
//! memory goes, the runtime's private state goes back to what it was before the first program was
//! loaded, and the loader begins anew on a stack in the runtime's window ([`Loader`], installed by the
//! guest). So the process that the caller's shell waits for is still the one it started, and no
//! host process has to be kept ready for this.
//!
//! **Elsewhere.** A vforked child has no host process yet. It gets one by a fork that leaves the program's
//! memory out (madvise(2), MADV_DONTFORK): a copy of the window alone, whatever the parent's size.
//!
//! Everything that can fail with an error for the caller is tried before the point of no return: rights,
//! formats, `#!` lines, sizes. What the loader then finds (a library missing) ends the process with 127,
//! as ld.so does.

use crate::args::{AtFlags, DirFd};
use crate::context::Ctx;
use crate::fd;
use crate::file::OpenFile;
use crate::hub::Events;
use crate::path::{self, Object};
use crate::process::{Process, RLIMIT_STACK};
use crate::script;
use crate::task::Task;
use crate::tree_file;
use crate::user::{KernelSink, UserPtr, UserStr};
use crate::{Errno, Result, fork, futex, rt, thread};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, Ordering};
use fs::attr::S_IFREG;

/// What the loader shall do.
pub struct Request {
    /// The program's path, as the loader opens it.
    pub path: Vec<u8>,
    /// Arguments.
    pub argv: Vec<Vec<u8>>,
    /// Environment.
    pub envp: Vec<Vec<u8>>,
    /// RLIMIT_STACK.
    pub stack_size: usize,
}

/// The guest's part.
pub struct Loader {
    /// Gives the program's memory back, begins the runtime's private state anew, and loads the requested
    /// program. Called in the kernel at depth 1, on the loader's stack, in a process with one thread.
    pub go: fn(Box<Request>) -> !,
    /// End of the loader's stack.
    pub stack_top: usize,
    /// Has a fork leave the program's memory out, or not.
    pub hide_program: fn(bool),
}

/// A process constant.
static LOADER: AtomicPtr<Loader> = AtomicPtr::new(core::ptr::null_mut());

/// Installs the guest's part. Once, at start.
pub fn set_loader(loader: &'static Loader) {
    LOADER.store(core::ptr::from_ref(loader).cast_mut(), Ordering::Release);
}

pub(crate) fn loader() -> Result<&'static Loader> {
    // SAFETY: null or from `set_loader`.
    unsafe { LOADER.load(Ordering::Acquire).as_ref() }.ok_or(Errno::ENOSYS)
}

/// MAX_ARG_STRLEN: the longest argument.
const LONGEST: usize = 128 << 10;
/// Scripts that name scripts (fs/exec.c, exec_binprm).
const MOST_SCRIPTS: usize = 5;
const AT_FDCWD: i32 = -100;
const AT_EMPTY_PATH: u32 = 0x1000;
const AT_SYMLINK_NOFOLLOW: u32 = 0x100;

/// execve(2).
pub fn execve(ctx: &Ctx, path: UserStr, argv: UserPtr<usize>, envp: UserPtr<usize>) -> Result {
    execveat(ctx, DirFd(AT_FDCWD), path, argv, envp, AtFlags(0))
}

/// execveat(2).
pub fn execveat(
    ctx: &Ctx,
    dir: DirFd,
    path: UserStr,
    argv: UserPtr<usize>,
    envp: UserPtr<usize>,
    flags: AtFlags,
) -> Result {
    if flags.0 & !(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let request = prepare(ctx, dir, path, argv, envp, flags.0)?;
    let loader = loader()?;
    crate::trace::executed(ctx, &request.path);
    if ctx.task.borrows() {
        return elsewhere(ctx, request, loader);
    }
    begin(ctx)?;
    in_place(request, loader)
}

// ---- before the point of no return ----

fn prepare(
    ctx: &Ctx,
    dir: DirFd,
    at: UserStr,
    argv: UserPtr<usize>,
    envp: UserPtr<usize>,
    flags: u32,
) -> Result<Box<Request>> {
    let path = name(ctx, dir, at, flags)?;
    let stack_size = ctx.process.limit(RLIMIT_STACK);
    let mut room = (stack_size / 4).clamp(LONGEST, 6 << 20);
    let mut argv = strings(argv, &mut room)?;
    let envp = strings(envp, &mut room)?;
    if argv.is_empty() {
        // As Linux since 5.18: programs rely on a name.
        argv.push(Vec::new());
    }
    request(ctx, path, argv, envp)
}

/// What the loader shall do for these; scripts are followed to their interpreters.
pub(crate) fn request(
    ctx: &Ctx,
    path: Vec<u8>,
    argv: Vec<Vec<u8>>,
    envp: Vec<Vec<u8>>,
) -> Result<Box<Request>> {
    let stack_size = ctx.process.limit(RLIMIT_STACK);
    // Without a limit the loader's default must do.
    let stack_size = if stack_size > 1 << 30 { 0 } else { stack_size };
    let mut request = Box::new(Request { path, argv, envp, stack_size });
    for _ in 0..MOST_SCRIPTS {
        match interpreter(ctx, &request.path)? {
            None => return Ok(request),
            Some(script) => follow(&mut request, script),
        }
    }
    Err(Errno::ELOOP)
}

/// The path that names the program for the loader.
fn name(ctx: &Ctx, dir: DirFd, at: UserStr, flags: u32) -> Result<Vec<u8>> {
    let text = path::path(at).or_else(|error| match error {
        Errno::ENOENT if flags & AT_EMPTY_PATH != 0 => Ok(Vec::new()),
        error => Err(error),
    })?;
    if flags & AT_SYMLINK_NOFOLLOW != 0 && !text.is_empty() {
        let view = path::view(ctx)?;
        if let Some(place) = path::find(ctx, &view, dir, at, flags)?.place()
            && place.stat()?.is(fs::attr::S_IFLNK)
        {
            return Err(Errno::ELOOP);
        }
    }
    if dir.0 == AT_FDCWD || text.starts_with(b"/") {
        return if text.is_empty() { Err(Errno::ENOENT) } else { Ok(text) };
    }
    ctx.process.fds.get(dir.0)?;
    match text.is_empty() {
        true if flags & AT_EMPTY_PATH == 0 => Err(Errno::ENOENT),
        true => Ok(alloc::format!("/proc/self/fd/{}", dir.0).into_bytes()),
        false => Ok([alloc::format!("/proc/self/fd/{}/", dir.0).as_bytes(), &text[..]].concat()),
    }
}

/// A list of strings of the program; a null list is empty (execve(2), notes).
fn strings(list: UserPtr<usize>, room: &mut usize) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    if list.is_null() {
        return Ok(all);
    }
    loop {
        let at = list.at(all.len()).read()?;
        if at == 0 {
            return Ok(all);
        }
        let text = UserStr(at).to_vec(LONGEST - 1)?;
        *room = room.checked_sub(text.len() + 1 + size_of::<usize>()).ok_or(Errno::E2BIG)?;
        all.push(text);
    }
}

/// Looks at a program's file: may it be executed, and what is it? `Some`: a script.
fn interpreter(ctx: &Ctx, path: &[u8]) -> Result<Option<script::Script>> {
    let open = open(ctx, path)?;
    let mut head = [0u8; script::HEAD];
    let read = read_at(&open, 0, &mut head)?;
    let head = &head[..read];
    if head.starts_with(b"#!") {
        return script::parse(head).map(Some).ok_or(Errno::ENOEXEC);
    }
    check_elf(ctx, &open, head)?;
    Ok(None)
}

/// Opens a program: a regular file that the caller may execute, on a mount that allows it.
fn open(ctx: &Ctx, path: &[u8]) -> Result<Arc<OpenFile>> {
    const X_OK: u32 = 1;
    const O_NONBLOCK: u32 = 0o4000;
    let view = path::view(ctx)?;
    let place = view.locate(&view.cwd, path, true)?;
    let object = path::object(place.clone());
    if let Some(place) = object.place() {
        if !place.stat()?.is(S_IFREG) {
            return Err(Errno::EACCES);
        }
        view.access(&place, X_OK, true)?;
    }
    match object {
        Object::Open(open) => Ok(open),
        Object::Place(_) => tree_file::open_file(ctx, view.open(&view.cwd, path, O_NONBLOCK, 0)?, O_NONBLOCK),
    }
}

fn read_at(open: &OpenFile, at: u64, into: &mut [u8]) -> Result<usize> {
    let mut sink = KernelSink::new(into);
    let mut at = at;
    open.file.read(open, &mut at, &mut sink)
}

/// Whether the loader can be expected to load it: an ELF program for this machine, whose interpreter is
/// there if it is not the one that we are ourselves.
fn check_elf(ctx: &Ctx, open: &OpenFile, head: &[u8]) -> Result<()> {
    const PT_INTERP: u32 = 3;
    const ET_EXEC: u16 = 2;
    const ET_DYN: u16 = 3;
    const EM_X86_64: u16 = 62;
    const PHDR: usize = 56;
    let half = |at: usize| head.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let ok = head.starts_with(b"\x7fELF\x02\x01")
        && matches!(half(16), Some(ET_EXEC | ET_DYN))
        && half(18) == Some(EM_X86_64)
        && half(54) == Some(PHDR as u16);
    let (true, Some(count), Some(table)) = (ok, half(56), head.get(32..40)) else {
        return Err(Errno::ENOEXEC);
    };
    let table = u64::from_le_bytes(table.try_into().map_err(|_| Errno::ENOEXEC)?);
    let mut headers = alloc::vec![0u8; PHDR * usize::from(count.min(1024))];
    let read = read_at(open, table, &mut headers)?;
    for header in headers[..read].chunks_exact(PHDR) {
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap_or_default());
        if u32::from_le_bytes(header[..4].try_into().unwrap_or_default()) != PT_INTERP {
            continue;
        }
        let mut name = alloc::vec![0u8; word(32).min(4096) as usize];
        let read = read_at(open, word(8), &mut name)?;
        let end = name[..read].iter().position(|&byte| byte == 0).ok_or(Errno::ENOEXEC)?;
        let name = &name[..end];
        if !name.ends_with(b"/ld-linux-x86-64.so.2") {
            let view = path::view(ctx)?;
            view.locate(&view.cwd, name, true)?;
        }
    }
    Ok(())
}

/// The interpreter is the program, with the script as an argument (execve(2), "Interpreter scripts").
fn follow(request: &mut Request, script: script::Script) {
    let file = core::mem::replace(&mut request.path, script.interpreter);
    let mut argv = alloc::vec![request.path.clone()];
    argv.extend(script.argument);
    argv.push(file);
    argv.extend(request.argv.drain(..).skip(1));
    request.argv = argv;
}

// ---- in place ----

/// Ends the other threads. The caller is the process's only one when this is over.
fn begin(ctx: &Ctx) -> Result<()> {
    if !ctx.process.claim(ctx.task.tid) {
        // Another thread was faster, and ends this one.
        thread::end();
    }
    for task in ctx.process.tasks().iter().filter(|task| task.tid != ctx.task.tid) {
        task.pending.doom();
        task.nudge();
    }
    while ctx.process.task_count() > 1 || rt::threads() > 1 {
        // Until the last one is off its stack: that is memory which is about to go.
        rt::park(Some(platform::time::now().after(200_000)));
        if ctx.process.ending().is_some() {
            thread::end();
        }
    }
    futex::exit_robust_list(ctx.task);
    ctx.process.claim(0);
    Ok(())
}

fn in_place(request: Box<Request>, loader: &'static Loader) -> ! {
    let ctx = Ctx::current();
    let task = successor(ctx.process, ctx.task);
    ctx.process.remove_task(ctx.task.tid);
    ctx.process.add_task(task.clone());
    task.waiter.bind(rt::current());
    let before = rt::swap_local(Arc::into_raw(task).cast_mut().cast());
    // SAFETY: the count that the thread's start left there; `ctx` is not used again.
    drop(unsafe { Arc::from_raw(before.cast_const().cast::<Task>()) });
    let process = Ctx::current().process;
    renew(process, &request);
    rt::set_alternate_stack(0, 0);
    // SAFETY: the loader's stack is nobody's after the start of a program; nothing of this one is used.
    unsafe { rt::run_on(loader.stack_top, load, Box::into_raw(request) as usize) }
}

extern "C" fn load(request: usize) -> ! {
    // SAFETY: `in_place` or `elsewhere` gives it up.
    let request = unsafe { Box::from_raw(request as *mut Request) };
    match loader() {
        Ok(loader) => (loader.go)(request),
        Err(_) => unreachable!("asked before"),
    }
}

/// A process that has run no program yet goes to its first one. Nothing of its stack is used again.
pub(crate) fn replace(request: Box<Request>) -> ! {
    renew(Ctx::current().process, &request);
    let Ok(loader) = loader() else { unreachable!("asked before") };
    // SAFETY: the loader's stack is nobody's in this process; nothing of the present one is used.
    unsafe { rt::run_on(loader.stack_top, load, Box::into_raw(request) as usize) }
}

/// The thread of the new program: it has the process's id, and of the old one what execve(2) keeps.
fn successor(process: &Arc<Process>, old: &Task) -> Arc<Task> {
    let task = Task::unlisted(process, process.pid, old.blocked.load(Ordering::Relaxed));
    task.pending.take_over(&old.pending);
    *task.schedule.lock() = *old.schedule.lock();
    *task.affinity.lock() = *old.affinity.lock();
    task
}

/// What of a process changes by execve(2).
fn renew(process: &Process, request: &Request) {
    process.actions.reset();
    process.timers.clear_posix();
    process.heap.renew();
    process.future_locks.store(0, Ordering::Relaxed);
    crate::ipc::executed(process);
    process.dumpable.store(1, Ordering::Relaxed);
    // capabilities(7): an execve clears it.
    process.keep_caps.store(false, Ordering::Relaxed);
    process.executed.store(true, Ordering::SeqCst);
    process.released.notify(Events::READABLE);
    let base = request.path.rsplit(|&byte| byte == b'/').next().unwrap_or(b"");
    for task in process.tasks() {
        let mut name = task.name.lock();
        *name = [0; 16];
        let len = base.len().min(15);
        name[..len].copy_from_slice(&base[..len]);
    }
}

/// The program is loaded: descriptors with FD_CLOEXEC go. Not before, so that a program can be named by
/// one (fexecve(3)). In the kernel.
pub fn loaded(process: &Process) {
    for number in process.fds.cloexec_numbers() {
        if let Ok(open) = process.fds.remove(number) {
            fd::release(open);
        }
    }
}

// ---- elsewhere ----

/// A vforked child's execve: the child goes to a host process of its own, and the calling thread goes on
/// as the parent.
fn elsewhere(ctx: &Ctx, request: Box<Request>, loader: &'static Loader) -> Result {
    let process = ctx.process.clone();
    let task = successor(&process, ctx.task);
    // The new thread's own count of its task: it may be gone before we are through.
    let local = Arc::into_raw(task.clone());
    let child = rt::Child::new(local.cast_mut().cast());
    task.waiter.bind(child.thread());
    process.remove_task(ctx.task.tid);
    process.add_task(task);
    let request = Box::into_raw(request);
    let turn = fork::Turn::take();
    (loader.hide_program)(true);
    process.set_host(child.process().clone());
    // As in a fork: for the case that we are killed in the clone.
    let stay = &ctx.task.stay;
    let mark = stay.mark();
    stay.holds_count(&process);
    stay.holds_count(child.process());
    stay.holds_count(child.thread());
    // SAFETY: the turn makes the loader's stack ours; the request and all else is arena memory.
    let started = unsafe { child.start_on(loader.stack_top, launched, request.cast()) };
    (loader.hide_program)(false);
    drop(turn);
    stay.strike(mark);
    if let Err(error) = started {
        drop(Process::of_host(child.process()));
        process.forget_host();
        process.remove_task(process.pid);
        process.add_task(ctx.task.arc());
        // SAFETY: nobody else has either.
        unsafe {
            drop(Arc::from_raw(local));
            drop(Box::from_raw(request));
        }
        return Err(error);
    }
    let lender = process.lent_by.lock().take();
    drop((child, process, lender));
    fork::give_back()
}

/// The child's first code in its own host process.
extern "C" fn launched(request: *mut ()) -> ! {
    let process = Ctx::current().process;
    crate::process::set_own(process);
    // SAFETY: `elsewhere` gave it up.
    renew(process, unsafe { &*request.cast::<Request>() });
    load(request as usize)
}
