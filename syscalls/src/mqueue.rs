//! POSIX message queues (mq_overview(7)): mq_open, mq_timedsend and the rest as Linux has them.
//!
//! A queue descriptor is an ordinary descriptor, so it polls, is inherited and is passed on. Messages are
//! kept by priority, then by age. Senders and receivers that wait are told one at a time.
//!
//! Different from Linux: SIGEV_THREAD at this level names a pipe's writing end that gets the 32-byte
//! cookie, not a netlink socket (there are none); libc's mq_notify uses it so. The file system that
//! Linux shows at /dev/mqueue is left out.

use crate::args::{BytesIn, Fd, Mode, OpenFlags};
use crate::context::Ctx;
use crate::errno::{RESTART, RESTART_NO_HANDLER};
use crate::file::{File, O_ACCMODE, O_CLOEXEC, O_NONBLOCK, OpenFile, Sink, Stat};
use crate::hub::{Events, Hub};
use crate::ipc;
use crate::posix_timer::SigEvent;
use crate::process::root;
use crate::signal::{self, Info};
use crate::user::{self, KernelSource, UserPtr, UserStr};
use crate::wait::{self, Waiting};
use crate::{Errno, Result, time};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use fs::attr::{S_IFREG, wall_clock};
use platform::sync::Lock;
use platform::time::{CLOCK_REALTIME, Instant, Timespec};

const O_CREAT: u32 = 0o100;
const O_EXCL: u32 = 0o200;
/// `MQ_PRIO_MAX`
const PRIORITIES: u32 = 32768;
/// `/proc/sys/fs/mqueue/{msg_default,msg_max,msgsize_default,msgsize_max,queues_max}`
const DEFAULT_COUNT: i64 = 10;
const MOST: i64 = 10;
const DEFAULT_SIZE: i64 = 8192;
const LARGEST: i64 = 8192;
const MOST_QUEUES: usize = 256;
/// `HARD_MSGMAX`, `HARD_MSGSIZEMAX`: for the privileged.
const HARD_MOST: i64 = 65536;
const HARD_LARGEST: i64 = 16 << 20;
const NAME_MAX: usize = 255;
/// `SI_MESGQ`
const SI_MESGQ: i32 = -3;
const RLIMIT_MSGQUEUE: usize = 12;

/// `struct mq_attr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MqAttr {
    flags: i64,
    most: i64,
    size: i64,
    count: i64,
    reserved: [i64; 4],
}

/// All queues with a name.
#[derive(Default)]
pub struct Names {
    by_name: Lock<BTreeMap<Vec<u8>, Arc<Queue>>>,
    next: AtomicU64,
}

/// A queue.
struct Queue {
    id: u64,
    attr: Lock<Rights>,
    /// Counted against RLIMIT_MSGQUEUE of this user.
    charge: (u32, u64),
    most: usize,
    size: usize,
    content: Lock<Content>,
    /// Receivers that wait: a message for one of them is not told to mq_notify's.
    receivers: AtomicUsize,
    readable: Hub,
    writable: Hub,
    /// For poll, which wants both.
    both: Hub,
    born: Timespec,
}

struct Rights {
    uid: u32,
    gid: u32,
    mode: u32,
}

#[derive(Default)]
struct Content {
    /// By falling priority: the key is the priority's complement.
    messages: BTreeMap<u32, VecDeque<Vec<u8>>>,
    count: usize,
    bytes: usize,
    notify: Option<Registration>,
}

/// Who is told of the next message in an empty queue.
struct Registration {
    pid: u32,
    kind: i32,
    signal: i32,
    value: u64,
    /// SIGEV_THREAD: where the cookie goes.
    pipe: Option<(Arc<OpenFile>, [u8; COOKIE])>,
}

const COOKIE: usize = 32;
const SIGEV_SIGNAL: i32 = 0;
const SIGEV_NONE: i32 = 1;
const SIGEV_THREAD: i32 = 2;
/// Last byte of a cookie: `NOTIFY_WOKENUP`, `NOTIFY_REMOVED`.
const WOKEN: u8 = 1;
const REMOVED: u8 = 2;

/// The descriptor's file.
pub struct QueueFile(Arc<Queue>);

/// mq_open(2): the name comes without its slash.
pub fn mq_open(ctx: &Ctx, name: UserStr, flags: OpenFlags, mode: Mode, attr: UserPtr<MqAttr>) -> Result {
    let attr = if flags.0 & O_CREAT != 0 { attr.read_optional()? } else { None };
    let name = read_name(name)?;
    let queue = open_queue(ctx, &name, flags.0, mode.0, attr)?;
    let status = flags.0 & (O_ACCMODE | O_NONBLOCK);
    ctx.install(Arc::new(OpenFile::new(QueueFile(queue), status)), flags.0 & O_CLOEXEC != 0)
}

fn read_name(from: UserStr) -> Result<Vec<u8>> {
    let name = from.to_vec(4095).map_err(|e| if e == Errno::E2BIG { Errno::ENAMETOOLONG } else { e })?;
    match &name[..] {
        b"" => Err(Errno::ENOENT),
        b"." | b".." => Err(Errno::EACCES),
        _ if name.contains(&b'/') => Err(Errno::EACCES),
        _ if name.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
        _ => Ok(name),
    }
}

fn open_queue(ctx: &Ctx, name: &[u8], flags: u32, mode: u32, attr: Option<MqAttr>) -> Result<Arc<Queue>> {
    let names = &ipc::all().queues;
    let mut all = names.by_name.lock();
    if let Some(queue) = all.get(name) {
        if flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL {
            return Err(Errno::EEXIST);
        }
        // O_RDONLY reads, O_WRONLY writes, O_RDWR both; the fourth value means nothing here.
        let want = *[4, 2, 6].get((flags & O_ACCMODE) as usize).ok_or(Errno::EINVAL)?;
        let rights = queue.attr.lock();
        let stat = Stat { mode: rights.mode, uid: rights.uid, gid: rights.gid, ..Stat::default() };
        return if identity(ctx).permits(&stat, want) { Ok(queue.clone()) } else { Err(Errno::EACCES) };
    }
    if flags & O_CREAT == 0 {
        return Err(Errno::ENOENT);
    }
    let privileged = ctx.process.credentials.lock().privileged();
    let (most, size) = dimensions(attr, privileged)?;
    if all.len() >= MOST_QUEUES && !privileged {
        return Err(Errno::ENOSPC);
    }
    let charge = charge(ctx, &all, most, size)?;
    let (uid, gid) = {
        let credentials = ctx.process.credentials.lock();
        (credentials.fsuid, credentials.fsgid)
    };
    let umask = ctx.process.umask.load(Ordering::Relaxed);
    let queue = Arc::new(Queue {
        id: names.next.fetch_add(1, Ordering::Relaxed) + 1,
        attr: Lock::new(Rights { uid, gid, mode: mode & 0o7777 & !umask }),
        charge,
        most,
        size,
        content: Lock::default(),
        receivers: AtomicUsize::new(0),
        readable: Hub::new(),
        writable: Hub::new(),
        both: Hub::new(),
        born: wall_clock(),
    });
    all.insert(name.to_vec(), queue.clone());
    Ok(queue)
}

fn identity(ctx: &Ctx) -> fs::Cred {
    let now = ctx.process.credentials.lock();
    fs::Cred { uid: now.fsuid, gid: now.fsgid, groups: now.groups[..].into() }
}

/// The wished dimensions, if they may be (mq_attr_ok of the kernel).
fn dimensions(attr: Option<MqAttr>, privileged: bool) -> Result<(usize, usize)> {
    let Some(attr) = attr else { return Ok((DEFAULT_COUNT as usize, DEFAULT_SIZE as usize)) };
    let (most, largest) = if privileged { (HARD_MOST, HARD_LARGEST) } else { (MOST, LARGEST) };
    if !(1..=most).contains(&attr.most) || !(1..=largest).contains(&attr.size) {
        return Err(Errno::EINVAL);
    }
    Ok((attr.most as usize, attr.size as usize))
}

/// What a queue counts for its user (getrlimit(2), RLIMIT_MSGQUEUE); EMFILE above the limit.
fn charge(ctx: &Ctx, all: &BTreeMap<Vec<u8>, Arc<Queue>>, most: usize, size: usize) -> Result<(u32, u64)> {
    /// `sizeof(struct msg_msg)` and `sizeof(struct posix_msg_tree_node)`.
    const HEADER: usize = 48;
    const NODE: usize = 48;
    let bytes = (most * (HEADER + size) + most.min(PRIORITIES as usize) * NODE) as u64;
    let uid = ctx.process.credentials.lock().uid;
    let used: u64 = all.values().filter(|queue| queue.charge.0 == uid).map(|queue| queue.charge.1).sum();
    let limit = ctx.process.limits(RLIMIT_MSGQUEUE).soft;
    if used + bytes > limit { Err(Errno::EMFILE) } else { Ok((uid, bytes)) }
}

/// mq_unlink(2).
pub fn mq_unlink(ctx: &Ctx, name: UserStr) -> Result {
    let name = read_name(name)?;
    let mut all = ipc::all().queues.by_name.lock();
    let queue = all.get(&name).ok_or(Errno::ENOENT)?;
    // The directory is sticky and everybody's: only the owner or root removes (unlink(2)).
    let cred = identity(ctx);
    if cred.uid != 0 && cred.uid != queue.attr.lock().uid {
        return Err(Errno::EPERM);
    }
    let gone = all.remove(&name);
    drop(all);
    drop(gone);
    Ok(0)
}

fn queue_of(open: &OpenFile) -> Result<&Arc<Queue>> {
    open.downcast::<QueueFile>().map(|file| &file.0).ok_or(Errno::EBADF)
}

fn deadline_of(timeout: UserPtr<Timespec>) -> Result<Option<Instant>> {
    let Some(at) = timeout.read_optional()? else { return Ok(None) };
    time::instant_of(CLOCK_REALTIME, time::valid(at)?).map(Some)
}

/// mq_timedsend(2).
pub fn mq_timedsend(
    ctx: &Ctx,
    fd: Fd,
    from: BytesIn,
    len: usize,
    priority: u32,
    timeout: UserPtr<Timespec>,
) -> Result {
    if priority >= PRIORITIES {
        return Err(Errno::EINVAL);
    }
    let deadline = deadline_of(timeout)?;
    let open = ctx.file(fd)?;
    let queue = queue_of(&open)?;
    if open.flags.load(Ordering::Relaxed) & O_ACCMODE == 0 {
        return Err(Errno::EBADF);
    }
    if len > queue.size {
        return Err(Errno::EMSGSIZE);
    }
    let mut message = alloc::vec![0u8; len];
    user::read_bytes(from.0, &mut message)?;
    let mut message = Some(message);
    wait_for(ctx, &open, &queue.writable, Events::WRITABLE, deadline, || {
        queue.put(ctx, &mut message, priority)
    })?;
    Ok(0)
}

/// mq_timedreceive(2).
pub fn mq_timedreceive(
    ctx: &Ctx,
    fd: Fd,
    to: UserPtr<u8>,
    room: usize,
    priority: UserPtr<u32>,
    timeout: UserPtr<Timespec>,
) -> Result {
    let deadline = deadline_of(timeout)?;
    let open = ctx.file(fd)?;
    let queue = queue_of(&open)?;
    if open.flags.load(Ordering::Relaxed) & O_ACCMODE == 1 {
        return Err(Errno::EBADF);
    }
    if room < queue.size {
        return Err(Errno::EMSGSIZE);
    }
    let (message, of) = match queue.take() {
        Err(Errno::EAGAIN) if !open.nonblocking() => {
            queue.receivers.fetch_add(1, Ordering::SeqCst);
            let got = wait_for(ctx, &open, &queue.readable, Events::READABLE, deadline, || queue.take());
            queue.receivers.fetch_sub(1, Ordering::SeqCst);
            got
        }
        done => done,
    }?;
    user::write_bytes(to.address(), &message)?;
    priority.write_optional(of)?;
    Ok(message.len())
}

/// Waits on a queue's own terms: one waiter for each event, ETIMEDOUT at the deadline, and a signal's
/// restart also with one (the deadline is absolute: ipc/mqueue.c, wq_sleep).
fn wait_for<T>(
    ctx: &Ctx,
    open: &OpenFile,
    hub: &Hub,
    events: Events,
    deadline: Option<Instant>,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    match attempt() {
        Err(Errno::EAGAIN) if !open.nonblocking() => {}
        done => return done,
    }
    let how = Waiting::for_events(events).exclusive().until(deadline);
    let wait = || wait::block_on_hub(ctx, hub, how, attempt);
    ctx.task.stay.holding(&[open], wait).map_err(|error| match error {
        Errno::EAGAIN => Errno::ETIMEDOUT,
        RESTART_NO_HANDLER => RESTART,
        other => other,
    })
}

impl Queue {
    fn put(&self, ctx: &Ctx, message: &mut Option<Vec<u8>>, priority: u32) -> Result<()> {
        let told = {
            let mut content = self.content.lock();
            if content.count >= self.most {
                return Err(Errno::EAGAIN);
            }
            let message = message.take().ok_or(Errno::EINVAL)?;
            let first = content.count == 0;
            content.count += 1;
            content.bytes += message.len();
            content.messages.entry(!priority).or_default().push_back(message);
            // mq_notify(3): not while somebody waits in mq_receive for this very message.
            let alone = self.receivers.load(Ordering::SeqCst) == 0;
            if first && alone { content.notify.take() } else { None }
        };
        self.readable.notify(Events::READABLE);
        self.both.notify(Events::READABLE);
        if let Some(registration) = told {
            registration.fire(ctx);
        }
        Ok(())
    }

    fn take(&self) -> Result<(Vec<u8>, u32)> {
        let taken = {
            let mut content = self.content.lock();
            let mut first = content.messages.first_entry().ok_or(Errno::EAGAIN)?;
            let priority = !*first.key();
            let message = first.get_mut().pop_front().unwrap_or_default();
            if first.get().is_empty() {
                first.remove();
            }
            content.count -= 1;
            content.bytes -= message.len();
            (message, priority)
        };
        self.writable.notify(Events::WRITABLE);
        self.both.notify(Events::WRITABLE);
        Ok(taken)
    }
}

impl Registration {
    /// A message came from the caller's process.
    fn fire(self, ctx: &Ctx) {
        match self.kind {
            SIGEV_SIGNAL if self.signal != 0 => {
                let Some(process) = root().process(self.pid) else { return };
                let sender = Info::from_user(self.signal, SI_MESGQ, ctx).fields[0];
                let fields = [sender, self.value, 0, 0, 0, 0];
                let info = Info { signo: self.signal, errno: 0, code: SI_MESGQ, fields };
                // A full queue of real-time signals loses it, as in Linux.
                let _ = signal::send_process(&process, info);
            }
            SIGEV_THREAD => self.tell(WOKEN),
            _ => {}
        }
    }

    /// The registration ends without a message.
    fn tell(self, why: u8) {
        let Some((open, mut cookie)) = self.pipe else { return };
        cookie[COOKIE - 1] = why;
        let _ = open.file.write(&open, &mut 0, &mut KernelSource(&cookie));
        crate::fd::release(open);
    }
}

/// mq_notify(2).
pub fn mq_notify(ctx: &Ctx, fd: Fd, event: UserPtr<SigEvent>) -> Result {
    let event = event.read_optional()?;
    let open = match event {
        None => None,
        Some(event) => Some(registration(ctx, &event)?),
    };
    let file = ctx.file(fd);
    let queue = file.as_ref().map_err(|&error| error).and_then(|open| queue_of(open));
    let queue = match queue {
        Ok(queue) => queue,
        Err(error) => {
            open.into_iter().for_each(Registration::drop_quietly);
            return Err(error);
        }
    };
    let mut content = queue.content.lock();
    let (answer, gone) = match (open, &content.notify) {
        (Some(fresh), Some(_)) => (Err(Errno::EBUSY), Some(fresh)),
        (Some(fresh), None) => (Ok(0), content.notify.replace(fresh)),
        (None, Some(old)) if old.pid == ctx.process.pid => (Ok(0), content.notify.take()),
        (None, _) => (Ok(0), None),
    };
    drop(content);
    match (answer, gone) {
        (Ok(_), Some(old)) => old.tell(REMOVED),
        (Err(_), Some(fresh)) => fresh.drop_quietly(),
        _ => {}
    }
    answer
}

fn registration(ctx: &Ctx, event: &SigEvent) -> Result<Registration> {
    let mut pipe = None;
    match event.notify {
        SIGEV_NONE => {}
        // As Linux: signal 0 is a registration that tells nobody.
        SIGEV_SIGNAL if (0..=signal::SIGNALS).contains(&event.signal) => {}
        SIGEV_THREAD => {
            let open = ctx.process.fds.get(event.signal)?;
            if open.downcast::<crate::pipe::End>().is_none() {
                return Err(Errno::EBADF);
            }
            let mut cookie = [0; COOKIE];
            user::read_bytes(event.value as usize, &mut cookie)?;
            open.descriptors.fetch_add(1, Ordering::Relaxed);
            pipe = Some((open, cookie));
        }
        _ => return Err(Errno::EINVAL),
    }
    let pid = ctx.process.pid;
    Ok(Registration { pid, kind: event.notify, signal: event.signal, value: event.value, pipe })
}

impl Registration {
    fn drop_quietly(self) {
        if let Some((open, _)) = self.pipe {
            crate::fd::release(open);
        }
    }
}

/// mq_getsetattr(2).
pub fn mq_getsetattr(ctx: &Ctx, fd: Fd, new: UserPtr<MqAttr>, old: UserPtr<MqAttr>) -> Result {
    let wish = new.read_optional()?;
    if wish.is_some_and(|wish| wish.flags & !i64::from(O_NONBLOCK) != 0) {
        return Err(Errno::EINVAL);
    }
    let open = ctx.file(fd)?;
    let queue = queue_of(&open)?;
    let flags = i64::from(open.flags.load(Ordering::Relaxed) & O_NONBLOCK);
    let count = queue.content.lock().count as i64;
    if let Some(wish) = wish {
        if wish.flags != 0 {
            open.flags.fetch_or(O_NONBLOCK, Ordering::Relaxed);
        } else {
            open.flags.fetch_and(!O_NONBLOCK, Ordering::Relaxed);
        }
    }
    let now = MqAttr { flags, most: queue.most as i64, size: queue.size as i64, count, reserved: [0; 4] };
    old.write_optional(now)?;
    Ok(0)
}

/// close(2) of a queue descriptor ends the process's registration (mq_close(3)).
pub fn flushed(open: &OpenFile, pid: u32) {
    if let Ok(queue) = queue_of(open) {
        queue.forget(pid);
    }
}

/// A process has no registration any more: exit, execve.
pub fn forget_notifications(pid: u32) {
    let all: Vec<_> = ipc::all().queues.by_name.lock().values().cloned().collect();
    all.iter().for_each(|queue| queue.forget(pid));
}

impl Queue {
    fn forget(&self, pid: u32) {
        let gone = {
            let mut content = self.content.lock();
            let own = content.notify.as_ref().is_some_and(|registered| registered.pid == pid);
            if own { content.notify.take() } else { None }
        };
        if let Some(gone) = gone {
            gone.tell(REMOVED);
        }
    }
}

impl File for QueueFile {
    fn poll(&self) -> Events {
        let count = self.0.content.lock().count;
        let mut events = Events::empty();
        events.set(Events::READABLE, count > 0);
        events.set(Events::WRITABLE, count < self.0.most);
        events
    }
    fn hub(&self) -> Option<&Hub> {
        Some(&self.0.both)
    }
    /// What mq_overview(7) shows of a file in /dev/mqueue.
    fn read(&self, _open: &OpenFile, at: &mut u64, into: &mut dyn Sink) -> Result {
        let text = {
            let content = self.0.content.lock();
            let (kind, signal, pid) = match &content.notify {
                Some(by) => (by.kind, if by.kind == SIGEV_SIGNAL { by.signal } else { 0 }, by.pid),
                None => (0, 0, 0),
            };
            let bytes = content.bytes;
            format!("QSIZE:{bytes:<10} NOTIFY:{kind:<5} SIGNO:{signal:<5} NOTIFY_PID:{pid:<6}\n")
        };
        let rest = usize::try_from(*at).ok().and_then(|at| text.as_bytes().get(at..)).unwrap_or(b"");
        let put = into.put(rest)?;
        *at += put as u64;
        Ok(put)
    }
    fn seekable(&self) -> bool {
        true
    }
    fn size(&self) -> Result<u64> {
        Ok(80)
    }
    fn stat(&self, out: &mut Stat) -> Result<()> {
        let rights = self.0.attr.lock();
        *out = Stat {
            dev: 0x13,
            ino: self.0.id,
            nlink: 1,
            mode: S_IFREG | rights.mode,
            uid: rights.uid,
            gid: rights.gid,
            size: 80,
            blksize: 4096,
            ..Stat::default()
        };
        out.set_times(self.0.born);
        Ok(())
    }
    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        write!(f, "mqueue:[{}]", self.0.id)
    }
}
