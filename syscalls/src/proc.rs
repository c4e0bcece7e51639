//! What /proc tells about the guest's processes: the [`Provider`] that `fs` asks.
//!
//! Memory figures, mappings and memory itself are the host's of the host process in question. To read another
//! one's memory asks the host for PTRACE_MODE_ATTACH, which Yama (`kernel.yama.ptrace_scope`) may refuse to users
//! who are not root: then `cmdline` of others has the arguments as they were given, without what setproctitle(3) made
//! of them, and `environ` says EACCES.

use crate::context::Ctx;
use crate::file::OpenFile;
use crate::net_poll::home;
use crate::process::{LIMITS, Process, root};
use crate::rt;
use crate::rw;
use crate::task::Task;
use crate::tree_file;
use crate::user;
use crate::{Errno, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use fs::mount::Mount;
use fs::procfs::process::{Info, Thread};
use fs::procfs::{Blob, Net, Provider, Setting, Slab, Sysctl, SysvIpc, Target};
use fs::{HostFd, Node, Place};
use net::FastOpen;
use platform::host;

/// What a process runs: told by the loader, and by execve.
#[derive(Clone, Default)]
pub struct Image {
    /// The program's file.
    pub exe: Option<Place>,
    /// Where the arguments lie, first byte to the end: the program may write over them.
    pub arguments: (usize, usize),
    /// The same as they were given.
    pub given: Vec<u8>,
    /// Where the environment lies.
    pub environment: (usize, usize),
    /// The auxiliary vector, binary.
    pub auxv: Vec<u8>,
    /// Start of the main thread's stack.
    pub stack_start: usize,
    /// The program's code.
    pub code: (usize, usize),
    /// `oom_score_adj`
    pub oom_score_adj: i32,
}

impl Image {
    /// A copy of all but the file: who is killed while he has that would keep it open.
    fn without_file(&self) -> Image {
        let given = self.given.clone();
        Image { exe: None, given, auxv: self.auxv.clone(), ..*self }
    }
}

/// Answers /proc's questions from the process table.
pub struct GuestProvider {
    /// Processors that the guest has.
    pub processors: usize,
    /// Tells what of the kernel's memory is in use: the allocator is the guest's.
    pub slabs: Option<fn() -> Vec<Slab>>,
}

impl GuestProvider {
    fn process(pid: u32) -> Result<Arc<Process>> {
        root().process(pid).ok_or(Errno::ESRCH)
    }

    /// Whether the caller may look into a process (ptrace(2), PTRACE_MODE_READ): its own, one of the same user,
    /// or any by root.
    fn may_look(process: &Process) -> Result<()> {
        let ctx = Ctx::try_current().ok_or(Errno::ESRCH)?;
        if ctx.process.pid == process.pid {
            return Ok(());
        }
        let caller = ctx.process.credentials.lock().clone();
        let target = process.credentials.lock().clone();
        let same = [target.uid, target.euid, target.suid].iter().all(|&uid| uid == caller.fsuid);
        if same || caller.privileged() { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// The host process that has its memory: its own, or its maker's while that has lent it (vfork(2)). `None`:
    /// a zombie.
    fn memory_of(process: &Process) -> Option<i32> {
        if process.life.lock().has_ended() {
            return None;
        }
        let own = process.host().map(|host| rt::host_pid(&host));
        let lent = || root().process(process.parent.load(Ordering::Relaxed))?.host();
        own.or_else(|| Some(rt::host_pid(&lent()?)))
    }

    /// What the host says of a process.
    fn host_file(process: &Process, name: &str) -> Result<Vec<u8>> {
        GuestProvider::may_look(process)?;
        let Some(host) = GuestProvider::memory_of(process) else { return Ok(Vec::new()) };
        HostFd::open_host(format!("/proc/{host}/{name}").as_bytes(), 0, 0)?.read_all()
    }

    /// A process's memory.
    fn read_memory(process: &Process, start: usize, into: &mut [u8]) -> Result<()> {
        if Ctx::try_current().is_some_and(|ctx| ctx.process.pid == process.pid) {
            return user::read_bytes(start, into);
        }
        let host = GuestProvider::memory_of(process).ok_or(Errno::ESRCH)?;
        if !user::in_user_space(start, into.len()) {
            return Err(Errno::EFAULT);
        }
        let (local, remote) = ([into.as_mut_ptr() as usize, into.len()], [start, into.len()]);
        // SAFETY: the first vector is ours to write; the second is the other process's, which the host checks.
        match unsafe { host!(process_vm_readv, host, local.as_ptr(), 1, remote.as_ptr(), 1, 0) } {
            Ok(done) if done == into.len() => Ok(()),
            Ok(_) => Err(Errno::EFAULT),
            Err(Errno::EPERM) => Err(Errno::EACCES),
            Err(error) => Err(error),
        }
    }

    /// Its arguments as they are now.
    fn command_line(process: &Process, image: &Image) -> Result<Vec<u8>> {
        let (start, end) = image.arguments;
        let mut bytes = vec![0u8; end - start];
        GuestProvider::read_memory(process, start, &mut bytes)?;
        // setproctitle(3): what was written over the end goes on into the environment.
        if bytes.last().is_some_and(|&byte| byte != 0) {
            let (_, environment_end) = image.environment;
            let mut more = vec![0u8; environment_end.saturating_sub(end)];
            GuestProvider::read_memory(process, end, &mut more)?;
            bytes.extend(more.iter().take_while(|&&byte| byte != 0));
            let title = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
            bytes.truncate(title);
            bytes.push(0);
        }
        Ok(bytes)
    }

    fn file(pid: u32, fd: i32) -> Result<Arc<OpenFile>> {
        GuestProvider::process(pid)?.fds.get(fd).map_err(|_| Errno::ENOENT)
    }
}

impl Provider for GuestProvider {
    fn current(&self) -> (u32, u32) {
        Ctx::try_current().map_or((1, 1), |ctx| (ctx.process.pid, ctx.task.tid))
    }

    fn processes(&self) -> Vec<u32> {
        root().processes().iter().map(|process| process.pid).collect()
    }

    fn process(&self, pid: u32) -> Option<Info> {
        Some(describe(&*root().process(pid)?))
    }

    fn blob(&self, pid: u32, what: Blob) -> Result<Vec<u8>> {
        let process = GuestProvider::process(pid)?;
        let image = process.image.lock().without_file();
        match what {
            Blob::Auxv => {
                GuestProvider::may_look(&process)?;
                Ok(image.auxv)
            }
            Blob::Maps => GuestProvider::host_file(&process, "maps"),
            Blob::Smaps => GuestProvider::host_file(&process, "smaps"),
            Blob::SmapsRollup => GuestProvider::host_file(&process, "smaps_rollup"),
            // A zombie has neither (proc(5)).
            _ if process.life.lock().has_ended() => Ok(Vec::new()),
            Blob::Cmdline => match GuestProvider::command_line(&process, &image) {
                Err(Errno::EACCES) => Ok(image.given),
                // It ends, or executes another program, while we look.
                Err(Errno::ESRCH | Errno::EFAULT) => Ok(Vec::new()),
                other => other,
            },
            Blob::Environ => {
                GuestProvider::may_look(&process)?;
                let (start, end) = image.environment;
                let mut bytes = vec![0u8; end - start];
                GuestProvider::read_memory(&process, start, &mut bytes)?;
                Ok(bytes)
            }
        }
    }

    fn set(&self, pid: u32, tid: u32, what: Setting, value: &[u8]) -> Result<()> {
        let process = GuestProvider::process(pid)?;
        match what {
            Setting::Comm => {
                let task = process.task(tid).ok_or(Errno::ESRCH)?;
                let mut name = [0u8; 16];
                let text = value.strip_suffix(b"\n").unwrap_or(value);
                let len = text.len().min(15);
                name[..len].copy_from_slice(&text[..len]);
                *task.name.lock() = name;
            }
            Setting::OomScoreAdj => {
                let text = core::str::from_utf8(value).map_err(|_| Errno::EINVAL)?;
                let score: i32 = text.trim().parse().map_err(|_| Errno::EINVAL)?;
                if !(-1000..=1000).contains(&score) {
                    return Err(Errno::EINVAL);
                }
                let mut image = process.image.lock();
                if score < image.oom_score_adj && !process.credentials.lock().privileged() {
                    return Err(Errno::EACCES);
                }
                image.oom_score_adj = score;
            }
        }
        Ok(())
    }

    fn descriptors(&self, pid: u32) -> Vec<i32> {
        root().process(pid).map(|process| process.fds.numbers()).unwrap_or_default()
    }

    fn place(&self, pid: u32, what: Target) -> Result<Place> {
        let process = GuestProvider::process(pid)?;
        let view = || process.view.get().ok_or(Errno::ENOENT);
        match what {
            Target::Exe => process.image.lock().exe.clone().ok_or(Errno::ENOENT),
            Target::Cwd => Ok(view()?.cwd.clone()),
            Target::Root => Ok(view()?.root.clone()),
            Target::Fd(fd) => {
                let open = GuestProvider::file(pid, fd)?;
                let dir = open.downcast::<tree_file::Dir>().map(|dir| dir.place.clone());
                let path = open.downcast::<tree_file::PathFile>().map(|path| path.place.clone());
                if let Some(place) = dir.or(path) {
                    return Ok(place);
                }
                // Everything else is opened again from the open file itself, whatever its name is now.
                let mount = view()?.tree.mounts()[0].clone();
                let text = self.text(pid, what)?;
                Ok(Place { mount, path: text.into(), node: Node::Object(open) })
            }
        }
    }

    fn text(&self, pid: u32, what: Target) -> Result<Vec<u8>> {
        if let Target::Fd(fd) = what {
            let mut text = String::new();
            let open = GuestProvider::file(pid, fd)?;
            open.file.describe(&mut text).map_err(|_| Errno::EIO)?;
            return Ok(text.into_bytes());
        }
        let place = self.place(pid, what)?;
        let view = GuestProvider::process(pid)?.view.get().ok_or(Errno::ENOENT)?;
        Ok(view.name_of(&place.path).unwrap_or(&place.path).to_vec())
    }

    fn position(&self, pid: u32, fd: i32) -> Result<(u64, u32)> {
        let open = GuestProvider::file(pid, fd)?;
        Ok((rw::position(&open).unwrap_or(0), open.flags.load(Ordering::Relaxed)))
    }

    fn mounts(&self, pid: u32) -> Vec<(Vec<u8>, Arc<Mount>)> {
        let Some(view) = root().process(pid).and_then(|process| process.view.get()) else {
            return Vec::new();
        };
        let mounts = view.tree.mounts();
        let seen = |mount: &Arc<Mount>| Some((view.name_of(&mount.at)?.to_vec(), mount.clone()));
        mounts.iter().filter_map(seen).collect()
    }

    fn hostname(&self) -> String {
        root().hostname.lock().clone()
    }

    fn net(&self, table: Net) -> String {
        crate::net_tables::rows(table)
    }

    fn sysctl(&self, what: Sysctl) -> u32 {
        match what {
            Sysctl::TcpFastOpen => home().shard.fast_open().bits(),
        }
    }

    fn set_sysctl(&self, what: Sysctl, value: u32) -> Result<()> {
        match what {
            // Bits without a meaning here are kept off, so that reading tells what is in force.
            Sysctl::TcpFastOpen => home().shard.set_fast_open(FastOpen::from_bits_truncate(value)),
        }
        Ok(())
    }

    fn processors(&self) -> usize {
        self.processors
    }

    fn slabs(&self) -> Vec<Slab> {
        self.slabs.map(|tell| tell()).unwrap_or_default()
    }

    fn sysvipc(&self, table: SysvIpc) -> String {
        match table {
            SysvIpc::Shm => crate::sysv::shm::table(),
            SysvIpc::Sem => crate::sysv::sem::table(),
            SysvIpc::Msg => crate::sysv::msg::table(),
        }
    }
}

/// A process in /proc's words.
fn describe(process: &Process) -> Info {
    const TICK: u64 = 10_000_000;
    let credentials = process.credentials.lock().clone();
    let image = process.image.lock().without_file();
    let (caught, ignored) = signals(process);
    let mut info = Info {
        pid: process.pid,
        parent: process.parent.load(Ordering::Relaxed),
        group: process.group.load(Ordering::Relaxed),
        session: process.session.load(Ordering::Relaxed),
        uids: [credentials.uid, credentials.euid, credentials.suid, credentials.fsuid],
        gids: [credentials.gid, credentials.egid, credentials.sgid, credentials.fsgid],
        groups: credentials.groups,
        umask: process.umask.load(Ordering::Relaxed),
        threads: threads(process),
        started_ticks: process.started.0 / TICK,
        caught_signals: caught,
        ignored_signals: ignored,
        shared_pending: process.pending.bits(),
        descriptors: process.fds.numbers().len(),
        oom_score_adj: image.oom_score_adj,
        stack_start: image.stack_start as u64,
        code: (image.code.0 as u64, image.code.1 as u64),
        ..Info::default()
    };
    for (resource, limit) in info.limits.iter_mut().enumerate().take(LIMITS) {
        let now = process.limits(resource);
        *limit = (now.soft, now.hard);
    }
    if let Some(host) = process.host().filter(|_| !process.life.lock().has_ended()) {
        measure(&mut info, rt::host_pid(&host));
    }
    info
}

/// Its threads, all in the state of the process where that is stopped; a zombie counts as one.
fn threads(process: &Process) -> Vec<Thread> {
    let letter = process.life.lock().letter();
    let mut threads: Vec<Thread> = process.tasks().iter().map(thread).collect();
    if threads.is_empty() {
        let name = text(&*process.last_name.lock());
        threads.push(Thread { tid: process.pid, name, state: 'S', ..Thread::default() });
    }
    if let Some(letter) = letter {
        threads.iter_mut().for_each(|thread| thread.state = letter);
    }
    threads
}

/// A name that ends at the first NUL.
fn text(name: &[u8]) -> String {
    let len = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..len]).into_owned()
}

fn thread(task: &Arc<Task>) -> Thread {
    let name = *task.name.lock();
    let looking = Ctx::try_current().is_some_and(|ctx| core::ptr::eq(ctx.task, &**task));
    Thread {
        tid: task.tid,
        name: text(&name),
        state: if looking { 'R' } else { 'S' },
        pending: task.pending.bits(),
        blocked: task.blocked.load(Ordering::Relaxed),
        processor: 0,
    }
}

/// Which signals have a handler, and which are ignored by the program's will.
fn signals(process: &Process) -> (u64, u64) {
    const SIG_IGN: usize = 1;
    let (mut caught, mut ignored) = (0, 0);
    for signal in 1..=64 {
        match process.actions.get(signal).handler {
            0 => {}
            SIG_IGN => ignored |= 1 << (signal - 1),
            _ => caught |= 1 << (signal - 1),
        }
    }
    (caught, ignored)
}

/// Sizes and times of a process, from the host's /proc.
fn measure(info: &mut Info, host: i32) {
    let read = |name: &str| {
        let path = format!("/proc/{host}/{name}");
        HostFd::open_host(path.as_bytes(), 0, 0).and_then(|fd| fd.read_all()).unwrap_or_default()
    };
    let numbers = |text: Vec<u8>| -> Vec<u64> {
        let text = String::from_utf8_lossy(&text).into_owned();
        let after = text.rsplit(')').next().unwrap_or("");
        after.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect()
    };
    let statm = numbers(read("statm"));
    if let [size, resident, shared, text, _, data, ..] = statm[..] {
        info.virtual_size = size * 4096;
        (info.resident, info.shared_pages, info.text_pages, info.data_pages) = (resident, shared, text, data);
    }
    // Fields of stat(5) from the third on: 14 and 15 are user and system time.
    let stat = numbers(read("stat"));
    if let (Some(&user), Some(&system)) = (stat.get(11), stat.get(12)) {
        (info.user_ticks, info.system_ticks) = (user, system);
    }
}
