//! /dev: the memory devices, random numbers, the terminal, and the links to a process's descriptors.
//!
//! Terminals (`tty`, `ptmx`) are names and numbers here; what they do is known above. `/dev/pts` and
//! `/dev/shm` are mounts of their own. Left out: `mqueue`.

use crate::attr::{S_IFCHR, S_IFDIR, Stat, StatFs, device};
use crate::host::HostFd;
use crate::synth::{Dir, Kind, Link};
use crate::vnode::{NewTime, Opening, Vnode};
use alloc::sync::Arc;
use alloc::vec;
use platform::errno::{Errno, Result};
use platform::host;

/// The root directory of /dev.
pub fn new(dev: u64) -> Arc<dyn Vnode> {
    let kind = Kind { dev, magic: 0x0102_1994 };
    let device = |what, minor, major| {
        let identity = [minor as u8, major as u8];
        let mut stat = kind.stat(S_IFCHR | 0o666, &identity);
        stat.rdev = device(major, minor);
        Arc::new(Device { kind, what, stat }) as Arc<dyn Vnode>
    };
    let empty = |name: &'static [u8]| {
        let stat = kind.stat(S_IFDIR | 0o755, name);
        Dir::node(kind, stat, |_| Err(Errno::ENOENT), || Ok(vec![]))
    };
    Dir::fixed(
        kind,
        b"/dev",
        vec![
            (b"fd", Link::fixed(kind, b"/proc/self/fd")),
            (b"full", device(What::Full, 7, 1)),
            (b"null", device(What::Null, 3, 1)),
            (b"ptmx", device(What::Terminal, 2, 5)),
            (b"pts", empty(b"/dev/pts")),
            (b"random", device(What::Random, 8, 1)),
            (b"shm", empty(b"/dev/shm")),
            (b"stderr", Link::fixed(kind, b"/proc/self/fd/2")),
            (b"stdin", Link::fixed(kind, b"/proc/self/fd/0")),
            (b"stdout", Link::fixed(kind, b"/proc/self/fd/1")),
            (b"tty", device(What::Terminal, 0, 5)),
            (b"urandom", device(What::Random, 9, 1)),
            (b"zero", device(What::Zero, 5, 1)),
        ],
    )
}

#[derive(Clone, Copy)]
enum What {
    Null,
    Zero,
    Full,
    Random,
    Terminal,
}

struct Device {
    kind: Kind,
    what: What,
    stat: Stat,
}

impl Device {
    /// The host's device, for mapping.
    fn host_path(&self) -> &'static [u8] {
        match self.what {
            What::Null => b"/dev/null",
            What::Zero => b"/dev/zero",
            What::Full => b"/dev/full",
            What::Random => b"/dev/urandom",
            What::Terminal => b"/dev/tty",
        }
    }
}

impl Vnode for Device {
    fn stat(&self) -> Stat {
        self.stat
    }
    fn open(self: Arc<Self>, _flags: u32) -> Result<Opening> {
        Ok(Opening::Node(self))
    }
    fn read_at(&self, _at: u64, into: &mut [u8]) -> Result<usize> {
        match self.what {
            What::Null => Ok(0),
            What::Zero | What::Full => {
                into.fill(0);
                Ok(into.len())
            }
            // SAFETY: the buffer is ours.
            What::Random => unsafe { host!(getrandom, into.as_mut_ptr(), into.len(), 0) },
            What::Terminal => Err(Errno::EIO),
        }
    }
    fn write_at(&self, _at: u64, from: &[u8]) -> Result<usize> {
        match self.what {
            What::Full => Err(Errno::ENOSPC),
            _ => Ok(from.len()),
        }
    }
    fn append(&self, from: &[u8]) -> Result<(usize, u64)> {
        self.write_at(0, from).map(|count| (count, 0))
    }
    fn host(&self) -> Result<Arc<HostFd>> {
        match self.what {
            What::Zero => HostFd::open_host(self.host_path(), 2, 0).map(Arc::new),
            _ => Err(Errno::ENODEV),
        }
    }
    fn set_mode(&self, _mode: u32) -> Result<()> {
        Err(Errno::EPERM)
    }
    fn set_times(&self, _atime: NewTime, _mtime: NewTime) -> Result<()> {
        Ok(())
    }
    fn statfs(&self) -> StatFs {
        self.kind.statfs()
    }
}
