//! /proc/PID and /proc/PID/task/TID.

use super::{Blob, Proc, Provider, Setting, Target, id};
use crate::attr::{S_IFDIR, S_IFLNK, S_IFREG};
use crate::mount::Mount;
use crate::synth::{Dir, Link, Text};
use crate::vnode::Vnode;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use platform::errno::{Errno, Result};

/// How a process is, for `stat`, `status`, `limits`.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Info {
    pub pid: u32,
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    /// Real, effective, saved, file system.
    pub uids: [u32; 4],
    pub gids: [u32; 4],
    pub groups: Vec<u32>,
    pub umask: u32,
    pub threads: Vec<Thread>,
    /// Since the machine's start, in ticks of 10 ms.
    pub started_ticks: u64,
    pub user_ticks: u64,
    pub system_ticks: u64,
    /// Bytes.
    pub virtual_size: u64,
    /// Pages.
    pub resident: u64,
    pub data_pages: u64,
    pub text_pages: u64,
    pub shared_pages: u64,
    pub ignored_signals: u64,
    pub caught_signals: u64,
    pub shared_pending: u64,
    /// Soft and hard, by `RLIMIT_*`; `u64::MAX` is unlimited.
    pub limits: [(u64, u64); 16],
    pub descriptors: usize,
    pub oom_score_adj: i32,
    pub priority: i32,
    /// Start of the main thread's stack, and of the code.
    pub stack_start: u64,
    pub code: (u64, u64),
}

/// A thread of a process.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Thread {
    pub tid: u32,
    pub name: String,
    /// `R` running or ready, `S` sleeping, `T` stopped, `Z` a zombie, `X` one that its parent knows of.
    pub state: char,
    pub pending: u64,
    pub blocked: u64,
    pub processor: u32,
}

const FILES: &[(&str, u32)] = &[
    ("auxv", 0o400),
    ("cgroup", 0o444),
    ("cmdline", 0o444),
    ("comm", 0o644),
    ("environ", 0o400),
    ("limits", 0o444),
    ("maps", 0o444),
    ("mountinfo", 0o444),
    ("mounts", 0o444),
    ("oom_score", 0o444),
    ("oom_score_adj", 0o644),
    ("setgroups", 0o644),
    ("smaps", 0o444),
    ("smaps_rollup", 0o444),
    ("stat", 0o444),
    ("statm", 0o444),
    ("status", 0o444),
    ("uid_map", 0o644),
    ("gid_map", 0o644),
];

/// The directory of process `pid`, or of its thread `tid`.
pub(crate) fn directory(proc: &Proc, pid: u32, tid: Option<u32>) -> Result<Arc<dyn Vnode>> {
    let info = proc.provider.process(pid).ok_or(Errno::ENOENT)?;
    if tid.is_some_and(|tid| !info.threads.iter().any(|thread| thread.tid == tid)) {
        return Err(Errno::ENOENT);
    }
    let mut stat = proc.kind.stat(S_IFDIR | 0o555, format!("{pid}/{tid:?}").as_bytes());
    (stat.uid, stat.gid) = (info.uids[1], info.gids[1]);
    let this = proc.clone();
    let lookup = move |name: &[u8]| child(&this, pid, tid, name);
    Ok(Dir::node(proc.kind, stat, lookup, move || {
        let mut names: Vec<(Vec<u8>, u32)> =
            FILES.iter().map(|(name, mode)| (name.as_bytes().to_vec(), S_IFREG | mode)).collect();
        let links = [&b"exe"[..], b"cwd", b"root"];
        names.extend(links.map(|name| (name.to_vec(), S_IFLNK)));
        names.extend([&b"fd"[..], b"fdinfo", b"net"].map(|name| (name.to_vec(), S_IFDIR)));
        if tid.is_none() {
            names.push((b"task".to_vec(), S_IFDIR));
        }
        Ok(names)
    }))
}

fn child(proc: &Proc, pid: u32, tid: Option<u32>, name: &[u8]) -> Result<Arc<dyn Vnode>> {
    match name {
        b"exe" => Ok(magic(proc, pid, Target::Exe)),
        b"cwd" => Ok(magic(proc, pid, Target::Cwd)),
        b"root" => Ok(magic(proc, pid, Target::Root)),
        b"fd" => Ok(descriptors(proc, pid)),
        b"fdinfo" => Ok(descriptor_infos(proc, pid)),
        b"net" => Ok(super::system::net(proc)),
        b"task" if tid.is_none() => Ok(tasks(proc, pid)),
        b"comm" => Ok(setting(proc, pid, tid.unwrap_or(pid), name, Setting::Comm)),
        b"oom_score_adj" => Ok(setting(proc, pid, tid.unwrap_or(pid), name, Setting::OomScoreAdj)),
        _ => {
            let (name, mode) =
                *FILES.iter().find(|(file, _)| file.as_bytes() == name).ok_or(Errno::ENOENT)?;
            let identity = format!("{pid}/{tid:?}/{name}");
            Ok(proc.text(identity.as_bytes(), mode, move |provider| render(provider, pid, tid, name)))
        }
    }
}

fn render(provider: &dyn Provider, pid: u32, tid: Option<u32>, name: &str) -> Result<Vec<u8>> {
    let info = || provider.process(pid).ok_or(Errno::ESRCH);
    let text = match name {
        "auxv" => return provider.blob(pid, Blob::Auxv),
        "cmdline" => return provider.blob(pid, Blob::Cmdline),
        "environ" => return provider.blob(pid, Blob::Environ),
        "maps" => return provider.blob(pid, Blob::Maps),
        "smaps" => return provider.blob(pid, Blob::Smaps),
        "smaps_rollup" => return provider.blob(pid, Blob::SmapsRollup),
        "cgroup" => String::from("0::/\n"),
        "limits" => limits(&info()?),
        "mounts" => return Ok(mounts(&provider.mounts(pid))),
        "mountinfo" => return Ok(mountinfo(&provider.mounts(pid))),
        "oom_score" => String::from("0\n"),
        "setgroups" => String::from("allow\n"),
        // user_namespaces(7): the initial namespace.
        "uid_map" | "gid_map" => format!("{:>10} {:>10} {:>10}\n", 0, 0, u32::MAX),
        "stat" => stat(&info()?, tid.unwrap_or(pid)),
        "statm" => statm(&info()?),
        "status" => status(&info()?, tid.unwrap_or(pid)),
        _ => return Err(Errno::ENOENT),
    };
    Ok(text.into_bytes())
}

fn setting(proc: &Proc, pid: u32, tid: u32, name: &[u8], what: Setting) -> Arc<dyn Vnode> {
    let mut stat = proc.kind.stat(S_IFREG | 0o644, &[name, &pid.to_le_bytes(), &tid.to_le_bytes()].concat());
    if let Some(info) = proc.provider.process(pid) {
        (stat.uid, stat.gid) = (info.uids[1], info.gids[1]);
    }
    let (reader, writer) = (proc.provider.clone(), proc.provider.clone());
    Text::writable(
        proc.kind,
        stat,
        move |out| {
            let info = reader.process(pid).ok_or(Errno::ESRCH)?;
            let text = match what {
                Setting::Comm => format!("{}\n", thread(&info, tid).name),
                Setting::OomScoreAdj => format!("{}\n", info.oom_score_adj),
            };
            out.extend_from_slice(text.as_bytes());
            Ok(())
        },
        move |value| writer.set(pid, tid, what, value),
    )
}

fn magic(proc: &Proc, pid: u32, target: Target) -> Arc<dyn Vnode> {
    let mut stat = proc.kind.stat(S_IFLNK | 0o777, format!("{pid}/{target:?}").as_bytes());
    if let Some(info) = proc.provider.process(pid) {
        (stat.uid, stat.gid) = (info.uids[1], info.gids[1]);
    }
    if matches!(target, Target::Fd(_)) {
        (stat.mode, stat.size) = (S_IFLNK | 0o700, 64);
    }
    let (reader, follower) = (proc.provider.clone(), proc.provider.clone());
    Link::magic(proc.kind, stat, move || reader.text(pid, target), move || follower.place(pid, target))
}

fn descriptors(proc: &Proc, pid: u32) -> Arc<dyn Vnode> {
    let stat = proc.kind.stat(S_IFDIR | 0o555, format!("{pid}/fd").as_bytes());
    let (this, listing) = (proc.clone(), proc.clone());
    let lookup = move |name: &[u8]| {
        let fd = id(name)?;
        if !this.provider.descriptors(pid).contains(&fd) {
            return Err(Errno::ENOENT);
        }
        Ok(magic(&this, pid, Target::Fd(fd)))
    };
    Dir::node(proc.kind, stat, lookup, move || {
        let fds = listing.provider.descriptors(pid);
        Ok(fds.into_iter().map(|fd| (format!("{fd}").into_bytes(), S_IFLNK)).collect())
    })
}

fn descriptor_infos(proc: &Proc, pid: u32) -> Arc<dyn Vnode> {
    let stat = proc.kind.stat(S_IFDIR | 0o555, format!("{pid}/fdinfo").as_bytes());
    let (this, listing) = (proc.clone(), proc.clone());
    let lookup = move |name: &[u8]| {
        let fd: i32 = id(name)?;
        this.provider.position(pid, fd).map_err(|_| Errno::ENOENT)?;
        let identity = format!("{pid}/fdinfo/{fd}");
        Ok(this.text(identity.as_bytes(), 0o400, move |provider| {
            let (position, flags) = provider.position(pid, fd)?;
            Ok(format!("pos:\t{position}\nflags:\t0{flags:o}\nmnt_id:\t1\nino:\t0\n").into_bytes())
        }))
    };
    Dir::node(proc.kind, stat, lookup, move || {
        let fds = listing.provider.descriptors(pid);
        Ok(fds.into_iter().map(|fd| (format!("{fd}").into_bytes(), S_IFREG)).collect())
    })
}

fn tasks(proc: &Proc, pid: u32) -> Arc<dyn Vnode> {
    let mut stat = proc.kind.stat(S_IFDIR | 0o555, format!("{pid}/task").as_bytes());
    if let Some(info) = proc.provider.process(pid) {
        stat.nlink = 2 + info.threads.len() as u64;
    }
    let (this, listing) = (proc.clone(), proc.clone());
    Dir::node(
        proc.kind,
        stat,
        move |name| directory(&this, pid, Some(id(name)?)),
        move || {
            let info = listing.provider.process(pid).ok_or(Errno::ESRCH)?;
            let name = |thread: &Thread| (format!("{}", thread.tid).into_bytes(), S_IFDIR);
            Ok(info.threads.iter().map(name).collect())
        },
    )
}

fn thread(info: &Info, tid: u32) -> Thread {
    let found = info.threads.iter().find(|thread| thread.tid == tid).or(info.threads.first());
    found.cloned().unwrap_or_default()
}

/// proc(5), /proc/pid/stat: 52 fields.
pub fn stat(info: &Info, tid: u32) -> String {
    let thread = thread(info, tid);
    let state = if thread.state == '\0' { 'R' } else { thread.state };
    let mut out = format!(
        "{tid} ({}) {state} {} {} {} 0 -1 4194304 0 0 0 0 ",
        thread.name, info.parent, info.group, info.session
    );
    let _ = write!(
        out,
        "{} {} 0 0 {} {} {} 0 {} {} {} {} ",
        info.user_ticks,
        info.system_ticks,
        20 + info.priority,
        info.priority,
        info.threads.len(),
        info.started_ticks,
        info.virtual_size,
        info.resident,
        info.limits[5].0,
    );
    let _ = writeln!(
        out,
        "{} {} {} 0 0 {} {} {} {} 0 0 0 17 {} 0 0 0 0 0 0 0 0 0 0 0 0 0",
        info.code.0,
        info.code.1,
        info.stack_start,
        thread.pending & 0x7fff_ffff,
        thread.blocked & 0x7fff_ffff,
        info.ignored_signals & 0x7fff_ffff,
        info.caught_signals & 0x7fff_ffff,
        thread.processor,
    );
    out
}

/// proc(5), /proc/pid/statm.
pub fn statm(info: &Info) -> String {
    let total = info.virtual_size / 4096;
    format!("{total} {} {} {} 0 {} 0\n", info.resident, info.shared_pages, info.text_pages, info.data_pages)
}

/// proc(5), /proc/pid/status.
pub fn status(info: &Info, tid: u32) -> String {
    let thread = thread(info, tid);
    let state = match thread.state {
        'S' => "S (sleeping)",
        'T' => "T (stopped)",
        'Z' => "Z (zombie)",
        'X' => "X (dead)",
        _ => "R (running)",
    };
    let ids = |ids: [u32; 4]| format!("{}\t{}\t{}\t{}", ids[0], ids[1], ids[2], ids[3]);
    let mut groups = String::new();
    for group in &info.groups {
        let _ = write!(groups, "{group} ");
    }
    let caps = if info.uids[1] == 0 { 0x1ff_ffff_ffffu64 } else { 0 };
    let kib = |pages: u64| pages * 4;
    let mut out = String::new();
    let _ = write!(
        out,
        "Name:\t{}\nUmask:\t{:04o}\nState:\t{state}\nTgid:\t{}\nNgid:\t0\nPid:\t{tid}\nPPid:\t{}\n\
         TracerPid:\t0\nUid:\t{}\nGid:\t{}\nFDSize:\t{}\nGroups:\t{groups}\n",
        thread.name,
        info.umask,
        info.pid,
        info.parent,
        ids(info.uids),
        ids(info.gids),
        info.descriptors.next_power_of_two().max(64),
    );
    let _ = write!(
        out,
        "NStgid:\t{}\nNSpid:\t{tid}\nNSpgid:\t{}\nNSsid:\t{}\n\
         VmPeak:\t{vm:8} kB\nVmSize:\t{vm:8} kB\nVmLck:\t{z:8} kB\nVmPin:\t{z:8} kB\n\
         VmHWM:\t{rss:8} kB\nVmRSS:\t{rss:8} kB\nVmData:\t{:8} kB\nVmStk:\t{:8} kB\nVmExe:\t{:8} kB\n\
         VmSwap:\t{z:8} kB\nThreads:\t{}\n",
        info.pid,
        info.group,
        info.session,
        kib(info.data_pages),
        132,
        kib(info.text_pages),
        info.threads.len(),
        vm = info.virtual_size / 1024,
        rss = kib(info.resident),
        z = 0,
    );
    let _ = write!(
        out,
        "SigQ:\t0/{}\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\n\
         CapInh:\t{:016x}\nCapPrm:\t{caps:016x}\nCapEff:\t{caps:016x}\nCapBnd:\t{caps:016x}\nCapAmb:\t{:016x}\n\
         NoNewPrivs:\t1\nSeccomp:\t0\nvoluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0\n",
        info.limits[11].0,
        thread.pending,
        info.shared_pending,
        thread.blocked,
        info.ignored_signals,
        info.caught_signals,
        0,
        0,
    );
    out
}

/// proc(5), /proc/pid/limits.
pub fn limits(info: &Info) -> String {
    const ROWS: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    let value = |value: u64| if value == u64::MAX { String::from("unlimited") } else { format!("{value}") };
    let mut out = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for ((name, unit), (soft, hard)) in ROWS.iter().zip(info.limits) {
        let _ = writeln!(out, "{name:<25} {:<20} {:<20} {unit:<10}", value(soft), value(hard));
    }
    out
}

/// proc(5), /proc/mounts.
pub fn mounts(mounts: &[(Vec<u8>, Arc<Mount>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, mount) in mounts {
        escape(&mut out, &mount.source);
        out.push(b' ');
        escape(&mut out, at);
        let rights = if mount.read_only { "ro" } else { "rw" };
        out.extend_from_slice(format!(" {} {rights},relatime 0 0\n", mount.kind).as_bytes());
    }
    out
}

/// proc(5), /proc/pid/mountinfo.
pub fn mountinfo(mounts: &[(Vec<u8>, Arc<Mount>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, mount) in mounts {
        let parent = if mount.id == 1 { 0 } else { 1 };
        out.extend_from_slice(format!("{} {parent} 0:{} / ", mount.id, mount.id).as_bytes());
        escape(&mut out, at);
        let rights = if mount.read_only { "ro" } else { "rw" };
        out.extend_from_slice(format!(" {rights},relatime - {} ", mount.kind).as_bytes());
        escape(&mut out, &mount.source);
        out.extend_from_slice(format!(" {rights}\n").as_bytes());
    }
    out
}

/// getmntent(3): space, tab, newline and backslash as octal.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for &byte in text {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => out.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::ToOwned;
    use std::vec;

    fn info() -> Info {
        let name = String::from("a (b) c");
        Info {
            pid: 7,
            threads: vec![Thread { tid: 7, name, state: 'S', ..Thread::default() }],
            limits: [(u64::MAX, 1024); 16],
            ..Info::default()
        }
    }

    /// The shapes are the host's: as many fields, the same keys in the same order.
    #[test]
    fn has_the_shape_of_linux() {
        let host = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields = |text: &str| text.rsplit(')').next().unwrap().split_whitespace().count();
        assert_eq!(fields(&stat(&info(), 7)), fields(&host));

        let host = std::fs::read_to_string("/proc/self/limits").unwrap();
        let names = |text: &str| text.lines().map(|line| line[..25].to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&limits(&info())), names(&host));

        let host = std::fs::read_to_string("/proc/self/status").unwrap();
        let keys: Vec<_> = host.lines().map(|line| line.split(':').next().unwrap()).collect();
        let mut at = 0;
        for line in status(&info(), 7).lines() {
            let key = line.split(':').next().unwrap();
            at += keys[at..].iter().position(|&host| host == key).unwrap_or_else(|| panic!("{key}"));
        }
    }
}
