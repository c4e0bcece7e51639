//! /proc (proc(5)): processes, the system, and settings, as far as programs read them.
//!
//! What is true of the guest comes from the [`Provider`] that `syscalls` implements; what is true of
//! the machine (memory, load, processor models) is read from the host's own /proc, cut to the
//! guest's processors. Rendering stands here: [`process`] and [`system`].
//!
//! Left out: `pagemap`, `mem`, `io`, `ns/`, `attr/`, `sys/` beyond what is listed.

pub mod process;
pub mod system;

use crate::attr::{S_IFDIR, S_IFLNK, S_IFREG};
use crate::mount::{Mount, Place};
use crate::synth::{Dir, Kind, Link, Text};
use crate::vnode::Vnode;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::errno::{Errno, Result};

const PROC_MAGIC: i64 = 0x9fa0;

/// What /proc asks about the guest.
pub trait Provider: Send + Sync {
    /// The process and thread that are looking.
    fn current(&self) -> (u32, u32);
    /// Ids of all processes.
    fn processes(&self) -> Vec<u32>;
    /// How a process is.
    fn process(&self, pid: u32) -> Option<process::Info>;
    /// A process's raw data.
    fn blob(&self, pid: u32, what: Blob) -> Result<Vec<u8>>;
    /// Writes one of the settings of a process.
    fn set(&self, pid: u32, tid: u32, what: Setting, value: &[u8]) -> Result<()>;
    /// A process's open descriptors.
    fn descriptors(&self, pid: u32) -> Vec<i32>;
    /// Where a process's link leads.
    fn place(&self, pid: u32, what: Target) -> Result<Place>;
    /// Its text.
    fn text(&self, pid: u32, what: Target) -> Result<Vec<u8>>;
    /// The file offset and flags of a descriptor.
    fn position(&self, pid: u32, fd: i32) -> Result<(u64, u32)>;
    /// The mounts, with paths as the process sees them.
    fn mounts(&self, pid: u32) -> Vec<(Vec<u8>, Arc<Mount>)>;
    /// The host name.
    fn hostname(&self) -> String;
    /// A table of /proc/net, rows only.
    fn net(&self, table: Net) -> String;
    /// A setting of the system under /proc/sys.
    fn sysctl(&self, what: Sysctl) -> u32;
    /// Changes it.
    fn set_sysctl(&self, what: Sysctl, value: u32) -> Result<()>;
    /// How many processors the guest has.
    fn processors(&self) -> usize;
    /// A table of /proc/sysvipc.
    fn sysvipc(&self, _table: SysvIpc) -> String {
        String::new()
    }
    /// Kernel memory in use, by size.
    fn slabs(&self) -> Vec<Slab> {
        Vec::new()
    }
}

/// A row of /proc/slabinfo: kernel objects of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slab {
    /// Objects in use.
    pub active: usize,
    /// Objects that there is room for.
    pub total: usize,
    /// Bytes of one.
    pub size: usize,
}

/// Settings under /proc/sys that can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sysctl {
    /// net.ipv4.tcp_fastopen
    TcpFastOpen,
}

/// Tables of /proc/sysvipc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SysvIpc {
    Shm,
    Sem,
    Msg,
}

/// Raw data of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blob {
    /// Arguments, each with its NUL.
    Cmdline,
    /// Environment at the start, each with its NUL.
    Environ,
    /// Auxiliary vector, binary.
    Auxv,
    /// Mappings, in the format of proc(5).
    Maps,
    /// The same, with what memory each has.
    Smaps,
    /// The sum of these.
    SmapsRollup,
}

/// What a process lets itself be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// A thread's name.
    Comm,
    /// `oom_score_adj`
    OomScoreAdj,
}

/// The magic links of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The program.
    Exe,
    /// The working directory.
    Cwd,
    /// The root directory.
    Root,
    /// A descriptor.
    Fd(i32),
}

/// Tables of /proc/net.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Net {
    Arp,
    Tcp,
    Tcp6,
    Udp,
    Udp6,
    Unix,
    Dev,
    Route,
    IfInet6,
    Ipv6Route,
    Snmp,
    Netstat,
    Sockstat,
    Sockstat6,
    /// `softnet_stat`
    Softnet,
}

/// The root directory of /proc.
pub fn new(dev: u64, provider: Arc<dyn Provider>) -> Arc<dyn Vnode> {
    let proc = Proc { kind: Kind { dev, magic: PROC_MAGIC }, provider };
    let fixed = system::files(&proc);
    let names: Vec<(Vec<u8>, u32)> =
        fixed.iter().map(|(name, node)| (name.to_vec(), node.stat().mode)).collect();
    let listing = proc.clone();
    let stat = proc.kind.stat(S_IFDIR | 0o555, b"/proc");
    Dir::node(
        proc.kind,
        stat,
        move |name| {
            if let Some((_, node)) = fixed.iter().find(|(fixed, _)| *fixed == name) {
                return Ok(node.clone());
            }
            match name {
                b"self" => Ok(proc.current_link(false)),
                b"thread-self" => Ok(proc.current_link(true)),
                _ => process::directory(&proc, id(name)?, None),
            }
        },
        move || {
            let pid = |pid: u32| (format!("{pid}").into_bytes(), S_IFDIR);
            let links = [&b"self"[..], b"thread-self"].map(|name| (name.to_vec(), S_IFLNK));
            let pids = listing.provider.processes();
            Ok(pids.into_iter().map(pid).chain(links).chain(names.iter().cloned()).collect())
        },
    )
}

/// What all files of one /proc need.
#[derive(Clone)]
pub(crate) struct Proc {
    pub(crate) kind: Kind,
    pub(crate) provider: Arc<dyn Provider>,
}

impl Proc {
    fn current_link(&self, thread: bool) -> Arc<dyn Vnode> {
        let provider = self.provider.clone();
        Link::node(self.kind, move || {
            let (pid, tid) = provider.current();
            Ok(if thread { format!("{pid}/task/{tid}") } else { format!("{pid}") }.into_bytes())
        })
    }

    /// A readable file under an identity.
    pub(crate) fn text(
        &self,
        identity: &[u8],
        mode: u32,
        render: impl Fn(&dyn Provider) -> Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Arc<dyn Vnode> {
        let provider = self.provider.clone();
        Text::node(self.kind, self.kind.stat(S_IFREG | mode, identity), move |out| {
            out.extend_from_slice(&render(&*provider)?);
            Ok(())
        })
    }
}

/// A decimal number that is a file's name; ENOENT for any other name.
pub(crate) fn id<T: core::str::FromStr>(name: &[u8]) -> Result<T> {
    if name.first().is_none_or(|byte| !byte.is_ascii_digit()) || (name[0] == b'0' && name.len() > 1) {
        return Err(Errno::ENOENT);
    }
    core::str::from_utf8(name).ok().and_then(|name| name.parse().ok()).ok_or(Errno::ENOENT)
}
