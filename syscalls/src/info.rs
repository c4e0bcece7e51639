//! What a process may ask about itself and its machine, and the ids that it may change: uname,
//! sysinfo, limits, usage, credentials, groups, prctl, arch_prctl, getrandom and the like.
//!
//! Credentials are the guest's own: they decide between guest processes; host files are reached with
//! the rights of who started the guest, whatever setuid says inside.

use crate::args::{Address, BytesIn, Mode};
use crate::context::Ctx;
use crate::process::{Credentials, LIMITS, Limit, Process, RLIMIT_NOFILE, root};
use crate::user::{UserPtr, UserStr, copy_out, read_bytes};
use crate::{Errno, Result, rt};
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use platform::host;

/// `struct utsname`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Utsname {
    fields: [[u8; 65]; 6],
}

/// `struct sysinfo`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct SysInfo {
    uptime: i64,
    loads: [u64; 3],
    totalram: u64,
    freeram: u64,
    sharedram: u64,
    bufferram: u64,
    totalswap: u64,
    freeswap: u64,
    procs: u16,
    pad: [u16; 3],
    totalhigh: u64,
    freehigh: u64,
    mem_unit: u32,
}
const _: () = assert!(size_of::<SysInfo>() == 112);

/// uname(2): the host's kernel, the guest's name.
pub fn uname(_ctx: &Ctx, to: UserPtr<Utsname>) -> Result {
    const NODENAME: usize = 1;
    let mut name = Utsname { fields: [[0; 65]; 6] };
    // SAFETY: the kernel writes one struct utsname to ours.
    unsafe { host!(uname, &raw mut name)? };
    let hostname = root().hostname.lock();
    let len = hostname.len().min(64);
    name.fields[NODENAME] = [0; 65];
    name.fields[NODENAME][..len].copy_from_slice(&hostname.as_bytes()[..len]);
    drop(hostname);
    to.write(name)?;
    Ok(0)
}

/// sethostname(2).
pub fn sethostname(ctx: &Ctx, name: BytesIn, len: usize) -> Result {
    if !ctx.process.credentials.lock().privileged() {
        return Err(Errno::EPERM);
    }
    if len > 64 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0u8; 64];
    read_bytes(name.0, &mut bytes[..len])?;
    root().hostname.set(String::from_utf8_lossy(&bytes[..len]).into_owned());
    Ok(0)
}

/// sysinfo(2).
pub fn sysinfo(_ctx: &Ctx, to: UserPtr<SysInfo>) -> Result {
    let mut info = SysInfo::default();
    // SAFETY: the kernel writes one struct sysinfo to ours.
    unsafe { host!(sysinfo, &raw mut info)? };
    info.procs = root().processes().iter().map(|process| process.task_count()).sum::<usize>() as u16;
    to.write(info)?;
    Ok(0)
}

// ---- limits and usage ----

/// getrlimit(2).
pub fn getrlimit(ctx: &Ctx, resource: u32, to: UserPtr<[u64; 2]>) -> Result {
    prlimit64(ctx, 0, resource, UserPtr::new(0), to)
}

/// setrlimit(2).
pub fn setrlimit(ctx: &Ctx, resource: u32, from: UserPtr<[u64; 2]>) -> Result {
    from.read()?;
    prlimit64(ctx, 0, resource, from, UserPtr::new(0))
}

/// prlimit64(2).
pub fn prlimit64(
    ctx: &Ctx,
    pid: i32,
    resource: u32,
    new: UserPtr<[u64; 2]>,
    old: UserPtr<[u64; 2]>,
) -> Result {
    let process = find_process(ctx, pid)?;
    let resource = resource as usize;
    if resource >= LIMITS {
        return Err(Errno::EINVAL);
    }
    let new = new.read_optional()?;
    let before = process.limits(resource);
    if let Some([soft, hard]) = new {
        if soft > hard {
            return Err(Errno::EINVAL);
        }
        if resource == RLIMIT_NOFILE && hard > crate::fd::MAX_DESCRIPTORS as u64 {
            return Err(Errno::EPERM);
        }
        if hard > before.hard && !ctx.process.credentials.lock().privileged() {
            return Err(Errno::EPERM);
        }
        process.set_limits(resource, Limit { soft, hard });
    }
    old.write_optional([before.soft, before.hard])?;
    Ok(0)
}

fn find_process(ctx: &Ctx, pid: i32) -> Result<Arc<Process>> {
    match pid {
        0 => Ok(ctx.process.clone()),
        1.. => root().process(pid as u32).ok_or(Errno::ESRCH),
        _ => Err(Errno::ESRCH),
    }
}

/// getrusage(2): the host's counts for the guest's process.
pub fn getrusage(ctx: &Ctx, who: i32, to: UserPtr<[i64; 18]>) -> Result {
    const RUSAGE_CHILDREN: i32 = -1;
    if who == RUSAGE_CHILDREN {
        // The host knows only of those that this host process made, and reaps them by itself.
        let usage = *ctx.process.children_usage.lock();
        return to.write(usage.0).map(|()| 0);
    }
    let mut usage = [0i64; 18];
    // SAFETY: the kernel writes one struct rusage (144 bytes) to ours.
    unsafe { host!(getrusage, who, &raw mut usage)? };
    to.write(usage)?;
    Ok(0)
}

// ---- ids ----

/// getpid(2).
pub fn getpid(ctx: &Ctx) -> Result {
    Ok(ctx.process.pid as usize)
}

/// getppid(2).
pub fn getppid(ctx: &Ctx) -> Result {
    Ok(ctx.process.parent.load(Ordering::Relaxed) as usize)
}

macro_rules! getters {
    ($($(#[$meta:meta])* $name:ident $field:ident;)*) => {$(
        $(#[$meta])*
        pub fn $name(ctx: &Ctx) -> Result {
            Ok(ctx.process.credentials.lock().$field as usize)
        }
    )*};
}

getters! {
    /// getuid(2).
    getuid uid;
    /// geteuid(2).
    geteuid euid;
    /// getgid(2).
    getgid gid;
    /// getegid(2).
    getegid egid;
}

/// "Leave it as it is" in the set calls.
const KEEP: u32 = u32::MAX;

/// setuid(2).
pub fn setuid(ctx: &Ctx, id: u32) -> Result {
    change(ctx, |c| {
        if c.privileged() {
            (c.uid, c.suid) = (id, id);
        } else if id != c.uid && id != c.suid {
            return Err(Errno::EPERM);
        }
        (c.euid, c.fsuid) = (id, id);
        Ok(0)
    })
}

/// setgid(2).
pub fn setgid(ctx: &Ctx, id: u32) -> Result {
    change(ctx, |c| {
        if c.privileged() {
            (c.gid, c.sgid) = (id, id);
        } else if id != c.gid && id != c.sgid {
            return Err(Errno::EPERM);
        }
        (c.egid, c.fsgid) = (id, id);
        Ok(0)
    })
}

/// setreuid(2).
pub fn setreuid(ctx: &Ctx, real: u32, effective: u32) -> Result {
    change(ctx, |c| {
        let old = c.uid;
        let may = c.privileged();
        if !may && ![KEEP, c.uid, c.euid].contains(&real) {
            return Err(Errno::EPERM);
        }
        if !may && ![KEEP, c.uid, c.euid, c.suid].contains(&effective) {
            return Err(Errno::EPERM);
        }
        set(&mut c.uid, real);
        set(&mut c.euid, effective);
        if real != KEEP || (effective != KEEP && effective != old) {
            c.suid = c.euid;
        }
        c.fsuid = c.euid;
        Ok(0)
    })
}

/// setregid(2).
pub fn setregid(ctx: &Ctx, real: u32, effective: u32) -> Result {
    change(ctx, |c| {
        let old = c.gid;
        let may = c.privileged();
        if !may && ![KEEP, c.gid, c.egid].contains(&real) {
            return Err(Errno::EPERM);
        }
        if !may && ![KEEP, c.gid, c.egid, c.sgid].contains(&effective) {
            return Err(Errno::EPERM);
        }
        set(&mut c.gid, real);
        set(&mut c.egid, effective);
        if real != KEEP || (effective != KEEP && effective != old) {
            c.sgid = c.egid;
        }
        c.fsgid = c.egid;
        Ok(0)
    })
}

/// setresuid(2).
pub fn setresuid(ctx: &Ctx, real: u32, effective: u32, saved: u32) -> Result {
    change(ctx, |c| {
        let known = [KEEP, c.uid, c.euid, c.suid];
        if !c.privileged() && [real, effective, saved].iter().any(|id| !known.contains(id)) {
            return Err(Errno::EPERM);
        }
        set(&mut c.uid, real);
        set(&mut c.euid, effective);
        set(&mut c.suid, saved);
        c.fsuid = c.euid;
        Ok(0)
    })
}

/// setresgid(2).
pub fn setresgid(ctx: &Ctx, real: u32, effective: u32, saved: u32) -> Result {
    change(ctx, |c| {
        let known = [KEEP, c.gid, c.egid, c.sgid];
        if !c.privileged() && [real, effective, saved].iter().any(|id| !known.contains(id)) {
            return Err(Errno::EPERM);
        }
        set(&mut c.gid, real);
        set(&mut c.egid, effective);
        set(&mut c.sgid, saved);
        c.fsgid = c.egid;
        Ok(0)
    })
}

/// setfsuid(2): answers the old one, whether or not it changed.
pub fn setfsuid(ctx: &Ctx, id: u32) -> Result {
    change(ctx, |c| {
        let old = c.fsuid;
        if c.privileged() || [c.uid, c.euid, c.suid, c.fsuid].contains(&id) {
            c.fsuid = id;
        }
        Ok(old as usize)
    })
}

/// setfsgid(2): answers the old one, whether or not it changed.
pub fn setfsgid(ctx: &Ctx, id: u32) -> Result {
    change(ctx, |c| {
        let old = c.fsgid;
        if c.privileged() || [c.gid, c.egid, c.sgid, c.fsgid].contains(&id) {
            c.fsgid = id;
        }
        Ok(old as usize)
    })
}

fn change(ctx: &Ctx, how: impl FnOnce(&mut Credentials) -> Result) -> Result {
    how(&mut ctx.process.credentials.lock())
}

fn set(id: &mut u32, new: u32) {
    if new != KEEP {
        *id = new;
    }
}

/// getresuid(2).
pub fn getresuid(ctx: &Ctx, real: UserPtr<u32>, effective: UserPtr<u32>, saved: UserPtr<u32>) -> Result {
    let c = ctx.process.credentials.lock().clone();
    real.write(c.uid)?;
    effective.write(c.euid)?;
    saved.write(c.suid)?;
    Ok(0)
}

/// getresgid(2).
pub fn getresgid(ctx: &Ctx, real: UserPtr<u32>, effective: UserPtr<u32>, saved: UserPtr<u32>) -> Result {
    let c = ctx.process.credentials.lock().clone();
    real.write(c.gid)?;
    effective.write(c.egid)?;
    saved.write(c.sgid)?;
    Ok(0)
}

/// getgroups(2).
pub fn getgroups(ctx: &Ctx, room: i32, to: UserPtr<u32>) -> Result {
    let groups = ctx.process.credentials.lock().groups.clone();
    match usize::try_from(room) {
        Err(_) => Err(Errno::EINVAL),
        Ok(0) => Ok(groups.len()),
        Ok(room) if room < groups.len() => Err(Errno::EINVAL),
        Ok(_) => to.write_all(&groups).map(|()| groups.len()),
    }
}

/// setgroups(2).
pub fn setgroups(ctx: &Ctx, count: usize, from: UserPtr<u32>) -> Result {
    const NGROUPS_MAX: usize = 65536;
    if !ctx.process.credentials.lock().privileged() {
        return Err(Errno::EPERM);
    }
    if count > NGROUPS_MAX {
        return Err(Errno::EINVAL);
    }
    let groups = from.read_vec(count)?;
    ctx.process.credentials.lock().groups = groups;
    Ok(0)
}

/// getpgrp(2).
pub fn getpgrp(ctx: &Ctx) -> Result {
    getpgid(ctx, 0)
}

/// getpgid(2).
pub fn getpgid(ctx: &Ctx, pid: i32) -> Result {
    Ok(find_process(ctx, pid)?.group.load(Ordering::Relaxed) as usize)
}

/// getsid(2).
pub fn getsid(ctx: &Ctx, pid: i32) -> Result {
    Ok(find_process(ctx, pid)?.session.load(Ordering::Relaxed) as usize)
}

/// setpgid(2).
pub fn setpgid(ctx: &Ctx, pid: i32, group: i32) -> Result {
    if pid < 0 || group < 0 {
        return Err(Errno::EINVAL);
    }
    let process = find_process(ctx, pid)?;
    let own = ctx.process.pid;
    let is_child = process.parent.load(Ordering::Relaxed) == own;
    if process.pid != own && !is_child {
        return Err(Errno::ESRCH);
    }
    let session = ctx.process.session.load(Ordering::Relaxed);
    let same_session = |other: &Process| other.session.load(Ordering::Relaxed) == session;
    let is_leader = process.session.load(Ordering::Relaxed) == process.pid;
    if is_child && process.executed.load(Ordering::Relaxed) {
        return Err(Errno::EACCES);
    }
    if is_leader || !same_session(&process) {
        return Err(Errno::EPERM);
    }
    let group = if group == 0 { process.pid } else { group as u32 };
    let exists = |other: &Arc<Process>| other.group.load(Ordering::Relaxed) == group && same_session(other);
    if group != process.pid && !root().processes().iter().any(exists) {
        return Err(Errno::EPERM);
    }
    process.group.store(group, Ordering::Relaxed);
    Ok(0)
}

/// setsid(2).
pub fn setsid(ctx: &Ctx) -> Result {
    let pid = ctx.process.pid;
    if root().processes().iter().any(|process| process.group.load(Ordering::Relaxed) == pid) {
        return Err(Errno::EPERM);
    }
    ctx.process.session.store(pid, Ordering::Relaxed);
    ctx.process.group.store(pid, Ordering::Relaxed);
    Ok(pid as usize)
}

// ---- capabilities: all of them for root, none for others ----

const CAPABILITY_V3: u32 = 0x2008_0522;
const CAPABILITY_V2: u32 = 0x2007_1026;
const CAPABILITY_V1: u32 = 0x1998_0330;
/// CAP_LAST_CAP of the kernel that glibc 2.36 was built for, as two words.
const ALL: [u32; 2] = [u32::MAX, 0x1ff];
const LAST_CAPABILITY: usize = 40;

/// How many words each set has in this version of the header, or `None` after telling the version
/// that is known (capget(2)).
fn capability_words(header: UserPtr<[u32; 2]>) -> Result<Option<usize>> {
    let [version, pid] = header.read()?;
    match version {
        CAPABILITY_V1 => Ok(Some(1)),
        CAPABILITY_V2 | CAPABILITY_V3 => Ok(Some(2)),
        _ => {
            header.write([CAPABILITY_V3, pid])?;
            Ok(None)
        }
    }
}

/// capget(2).
pub fn capget(ctx: &Ctx, header: UserPtr<[u32; 2]>, data: UserPtr<[u32; 3]>) -> Result {
    let Some(words) = capability_words(header)? else {
        return if data.is_null() { Ok(0) } else { Err(Errno::EINVAL) };
    };
    // capget(2): who only asks whether the version is right passes no data.
    if data.is_null() {
        return Ok(0);
    }
    let process = find_process(ctx, header.read()?[1] as i32)?;
    let has = process.credentials.lock().privileged();
    for (at, all) in ALL.iter().enumerate().take(words) {
        let bits = if has { *all } else { 0 };
        data.at(at).write([bits, bits, 0])?;
    }
    Ok(0)
}

/// capset(2).
pub fn capset(ctx: &Ctx, header: UserPtr<[u32; 2]>, data: UserPtr<[u32; 3]>) -> Result {
    let Some(words) = capability_words(header)? else { return Err(Errno::EINVAL) };
    let pid = header.read()?[1];
    if pid != 0 && pid != ctx.process.pid && pid != ctx.task.tid {
        return Err(Errno::EPERM);
    }
    let has = ctx.process.credentials.lock().privileged();
    for at in 0..words {
        let [effective, permitted, _] = data.at(at).read()?;
        if (effective | permitted) != 0 && !has {
            return Err(Errno::EPERM);
        }
    }
    Ok(0)
}

// ---- the rest ----

/// getcpu(2).
pub fn getcpu(_ctx: &Ctx, cpu: UserPtr<u32>, node: UserPtr<u32>, _cache: Address) -> Result {
    cpu.write_optional(rt::cpu() as u32)?;
    node.write_optional(0)?;
    Ok(0)
}

/// getrandom(2): the host's, through a kernel buffer, so that a bad address is EFAULT here.
pub fn getrandom(_ctx: &Ctx, to: Address, len: usize, flags: u32) -> Result {
    const GRND_NONBLOCK: u32 = 1;
    const GRND_RANDOM: u32 = 2;
    const GRND_INSECURE: u32 = 4;
    if flags & !(GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE) != 0
        || flags & (GRND_RANDOM | GRND_INSECURE) == GRND_RANDOM | GRND_INSECURE
    {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0u8; 256];
    let mut done = 0;
    while done < len {
        let want = bytes.len().min(len - done);
        // SAFETY: the kernel writes at most `want` bytes to ours.
        let got = unsafe { host!(getrandom, bytes.as_mut_ptr(), want, flags) };
        let got = match got {
            Ok(got) => got,
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno),
        };
        // SAFETY: `bytes` holds that many.
        match unsafe { copy_out(to.0 + done, bytes.as_ptr(), got) } {
            Ok(()) => done += got,
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

const PR_SET_PDEATHSIG: i32 = 1;
const PR_GET_PDEATHSIG: i32 = 2;
const PR_GET_DUMPABLE: i32 = 3;
const PR_SET_DUMPABLE: i32 = 4;
const PR_GET_KEEPCAPS: i32 = 7;
const PR_SET_KEEPCAPS: i32 = 8;
const PR_SET_NAME: i32 = 15;
const PR_GET_NAME: i32 = 16;
const PR_GET_SECCOMP: i32 = 21;
const PR_CAPBSET_READ: i32 = 23;
const PR_SET_TIMERSLACK: i32 = 29;
const PR_GET_TIMERSLACK: i32 = 30;
const PR_SET_CHILD_SUBREAPER: i32 = 36;
const PR_GET_CHILD_SUBREAPER: i32 = 37;
/// Nanoseconds (proc(5), /proc/PID/timerslack_ns).
pub(crate) const DEFAULT_SLACK: u64 = 50_000;
const PR_SET_NO_NEW_PRIVS: i32 = 38;
const PR_GET_NO_NEW_PRIVS: i32 = 39;
const PR_GET_TID_ADDRESS: i32 = 40;

/// prctl(2).
pub fn prctl(ctx: &Ctx, option: i32, a: usize, b: usize, c: usize, d: usize) -> Result {
    match option {
        PR_SET_NAME => set_name(ctx, UserStr(a)),
        PR_GET_NAME => UserPtr::<[u8; 16]>::new(a).write(*ctx.task.name.lock()).map(|()| 0),
        PR_GET_DUMPABLE => Ok(ctx.process.dumpable.load(Ordering::Relaxed) as usize),
        PR_SET_DUMPABLE if a > 1 => Err(Errno::EINVAL),
        PR_SET_DUMPABLE => {
            ctx.process.dumpable.store(a as i32, Ordering::Relaxed);
            Ok(0)
        }
        PR_SET_PDEATHSIG if a > 64 => Err(Errno::EINVAL),
        PR_SET_PDEATHSIG => {
            ctx.task.death_signal.store(a as u64, Ordering::Relaxed);
            Ok(0)
        }
        PR_GET_PDEATHSIG => {
            let signal = ctx.task.death_signal.load(Ordering::Relaxed);
            UserPtr::<u32>::new(a).write(signal as u32).map(|()| 0)
        }
        PR_CAPBSET_READ if a > LAST_CAPABILITY => Err(Errno::EINVAL),
        PR_CAPBSET_READ => Ok(usize::from(ctx.process.credentials.lock().privileged())),
        // The guest runs under no-new-privs itself, so it is always on.
        PR_SET_NO_NEW_PRIVS if a == 1 && b | c | d == 0 => Ok(0),
        PR_GET_NO_NEW_PRIVS if a | b | c | d == 0 => Ok(1),
        PR_GET_TID_ADDRESS => {
            let address = ctx.task.clear_tid.load(Ordering::Relaxed);
            UserPtr::<usize>::new(a).write(address).map(|()| 0)
        }
        PR_GET_SECCOMP => Ok(0),
        PR_GET_KEEPCAPS => Ok(usize::from(ctx.process.keep_caps.load(Ordering::Relaxed))),
        // Capabilities follow the effective user id: who gives that up and wants to use what it kept hears EPERM
        // from capset(2). (Many ask for it and stay who they are, as ping does.)
        PR_SET_KEEPCAPS if a <= 1 => {
            ctx.process.keep_caps.store(a == 1, Ordering::Relaxed);
            Ok(0)
        }
        // How late a timer may be; ours are not late on purpose, whatever is allowed.
        PR_SET_TIMERSLACK => {
            let slack = if a == 0 { DEFAULT_SLACK } else { a as u64 };
            ctx.task.timer_slack.store(slack, Ordering::Relaxed);
            Ok(0)
        }
        PR_GET_TIMERSLACK => Ok(ctx.task.timer_slack.load(Ordering::Relaxed) as usize),
        PR_SET_CHILD_SUBREAPER => {
            ctx.process.subreaper.store(a != 0, Ordering::Relaxed);
            Ok(0)
        }
        PR_GET_CHILD_SUBREAPER => {
            UserPtr::<u32>::new(a).write(u32::from(ctx.process.subreaper.load(Ordering::Relaxed))).map(|()| 0)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn set_name(ctx: &Ctx, from: UserStr) -> Result {
    let mut text = [0u8; 16];
    let len = match from.read(&mut text, Errno::ENAMETOOLONG) {
        Ok(name) => name.len(),
        // Longer names are cut to 15 bytes.
        Err(Errno::ENAMETOOLONG) => 15,
        Err(errno) => return Err(errno),
    };
    let mut name = [0u8; 16];
    name[..len].copy_from_slice(&text[..len]);
    *ctx.task.name.lock() = name;
    Ok(0)
}

/// arch_prctl(2).
pub fn arch_prctl(_ctx: &Ctx, option: i32, address: usize) -> Result {
    const ARCH_SET_FS: i32 = 0x1002;
    const ARCH_GET_FS: i32 = 0x1003;
    match option {
        ARCH_SET_FS if address >= crate::user::USER_END => Err(Errno::EPERM),
        ARCH_SET_FS => {
            rt::set_fs_base(address);
            Ok(0)
        }
        ARCH_GET_FS => UserPtr::<usize>::new(address).write(rt::fs_base()).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}

/// personality(2): asked, or set to what it is.
pub fn personality(_ctx: &Ctx, persona: u32) -> Result {
    const PER_LINUX: u32 = 0;
    const QUERY: u32 = u32::MAX;
    if persona == PER_LINUX || persona == QUERY { Ok(0) } else { Err(Errno::EINVAL) }
}

/// umask(2).
pub fn umask(ctx: &Ctx, mask: Mode) -> Result {
    Ok(ctx.process.umask.swap(mask.0 & 0o777, Ordering::Relaxed) as usize)
}

/// membarrier(2): guest threads run on host threads of one process, so the host's is the guest's.
pub fn membarrier(_ctx: &Ctx, command: i32, flags: u32, cpu: i32) -> Result {
    // SAFETY: no memory is involved.
    unsafe { host!(membarrier, command, flags, cpu) }
}

/// restart_syscall(2): the kernel's own; a program that makes it gets this.
pub fn restart_syscall(_ctx: &Ctx) -> Result {
    Err(Errno::EINTR)
}

/// rseq(2): every libc tries it at start, and does without where a kernel lacks it. Guest threads move
/// between processors in user space, so there is nothing to restart.
pub fn rseq(_ctx: &Ctx, _area: Address, _len: u32, _flags: i32, _signature: u32) -> Result {
    Err(Errno::ENOSYS)
}
