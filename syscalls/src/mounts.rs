//! The first process's tree: host root, volumes, tmpfs, /dev, /proc, /sys, and files put over others.

use crate::host_file::HostFile;
use crate::proc::GuestProvider;
use crate::process::Process;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use fs::attr::S_IFDIR;
use fs::host::{O_DIRECTORY, O_PATH};
use fs::{Cred, HostFd, Node, Tree, View, devfs, procfs, ramfs, sysfs};
use platform::host;

/// A host directory or file to be seen in the guest.
#[derive(Clone, Copy, Debug)]
pub struct Volume<'a> {
    /// Path on the host.
    pub source: &'a [u8],
    /// Path in the guest.
    pub target: &'a [u8],
    /// Whether writing gives EROFS.
    pub read_only: bool,
}

/// What the tree shall be made of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan<'a> {
    /// The host directory that is the guest's root; empty for `/`.
    pub root: &'a [u8],
    /// Whether changes to the root stay in the guest's memory, as in a container's writable layer.
    pub layer: bool,
    /// Whether the root is read-only.
    pub read_only: bool,
    /// Host directories and files.
    pub volumes: &'a [Volume<'a>],
    /// Where memory file systems are.
    pub tmpfs: &'a [&'a [u8]],
    /// Files with these texts instead of what the root has (`/etc/resolv.conf`).
    pub files: &'a [(&'a [u8], &'a [u8])],
    /// The first working directory; empty for `/`.
    pub cwd: &'a [u8],
    /// Processors of the guest.
    pub processors: usize,
    /// Limit on memory that /sys/fs/cgroup tells.
    pub memory: Option<u64>,
    /// Tells what of the kernel's memory is in use.
    pub slabs: Option<fn() -> Vec<procfs::Slab>>,
}

/// A part of the plan that failed: what it was about, and why.
#[derive(Debug)]
pub struct Failure<'a> {
    /// `root`, `volume`, `working directory`, `tmpfs`.
    pub what: &'static str,
    /// The path.
    pub path: &'a [u8],
    /// Why.
    pub error: Errno,
}

/// Device numbers of the inner file systems: anonymous ones (major 0), as Linux has for its own.
const FIRST_DEVICE: u64 = 0x40;

/// Builds the tree and gives it to the process.
pub fn start<'a>(process: &Process, plan: &Plan<'a>) -> core::result::Result<(), Failure<'a>> {
    let root: &[u8] = if plan.root.is_empty() { b"/" } else { plan.root };
    let fail = |what, path| move |error| Failure { what, path, error };
    let mut device = FIRST_DEVICE;
    let mut next = || {
        device += 1;
        device
    };
    let tree = match plan.layer {
        false => Tree::host(root, plan.read_only),
        true => layered(root, next(), plan.read_only),
    };
    let tree = Arc::new(tree.map_err(fail("root", plan.root))?);
    let cred = {
        let now = process.credentials.lock();
        Cred { uid: now.fsuid, gid: now.fsgid, groups: now.groups[..].into() }
    };
    let view = View::new(tree.clone(), cred.clone(), 0);
    let processors = plan.processors.max(1);
    let inner = |node| Node::Inner(node);
    tree.mount(b"/dev", inner(devfs::new(next())), "devtmpfs", b"udev", false);
    let terminals = crate::tty::pty::devpts(next());
    tree.mount(b"/dev/pts", inner(terminals), "devpts", b"devpts", false);
    tree.mount(b"/dev/shm", inner(ramfs::new(next(), u64::MAX, 0o1777, 0, 0)), "tmpfs", b"tmpfs", false);
    let provider = Arc::new(GuestProvider { processors, slabs: plan.slabs });
    tree.mount(b"/proc", inner(procfs::new(next(), provider)), "proc", b"proc", false);
    tree.mount(b"/sys", inner(sysfs::new(next(), processors)), "sysfs", b"sysfs", true);
    let cgroup = sysfs::cgroup(next(), processors, plan.memory);
    tree.mount(b"/sys/fs/cgroup", inner(cgroup), "cgroup2", b"cgroup2", true);
    for target in plan.tmpfs {
        let node = ramfs::new(next(), u64::MAX, 0o1777, cred.uid, cred.gid);
        let at = canonical(&view, target).map_err(fail("tmpfs", target))?;
        make_place(&tree, plan.layer, &at, true).map_err(fail("tmpfs", target))?;
        tree.mount(&at, inner(node), "tmpfs", b"tmpfs", false);
    }
    for volume in plan.volumes {
        let source = HostFd::open_host(volume.source, O_PATH, 0).map_err(fail("volume", volume.source))?;
        let at = canonical(&view, volume.target).map_err(fail("volume", volume.target))?;
        let folder = source.stat().is_ok_and(|stat| stat.is(S_IFDIR));
        make_place(&tree, plan.layer, &at, folder).map_err(fail("volume", volume.target))?;
        tree.mount(&at, Node::Host(Arc::new(source)), "ext4", volume.source, volume.read_only);
    }
    for (path, text) in plan.files {
        let at = canonical(&view, path).map_err(fail("file", path))?;
        tree.mount(&at, inner(ramfs::file(next(), 0o644, text)), "tmpfs", b"tmpfs", false);
    }
    let cwd: &[u8] = if plan.cwd.is_empty() { b"/" } else { plan.cwd };
    let cwd = view.directory(&view.cwd, cwd).map_err(fail("working directory", plan.cwd))?;
    process.view.set(View { cwd, ..view });
    Ok(())
}

/// A tree whose root is a host folder that stays as it is.
fn layered(root: &[u8], device: u64, read_only: bool) -> Result<Tree> {
    let folder = HostFd::open_host(root, O_PATH | O_DIRECTORY, 0)?;
    let root = Node::Inner(ramfs::over(device, folder)?);
    Ok(Tree::new(root, "overlay", b"overlay", read_only))
}

/// The canonical path for a mount: its existing part with links resolved, the rest as it is. As with
/// containers, the place need not exist.
fn canonical(view: &View, path: &[u8]) -> Result<Vec<u8>> {
    if !path.starts_with(b"/") {
        return Err(Errno::EINVAL);
    }
    let mut at = view.root.clone();
    let mut missing: Vec<u8> = Vec::new();
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
        if name == b".." {
            return Err(Errno::EINVAL);
        }
        if missing.is_empty() {
            match view.locate(&at, name, true) {
                Ok(place) => {
                    at = place;
                    continue;
                }
                Err(Errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        if !missing.is_empty() {
            missing.push(b'/');
        }
        missing.extend_from_slice(name);
    }
    let path = fs::mount::join(&at.path, &missing);
    if path == b"/" { Err(Errno::EBUSY) } else { Ok(path) }
}

/// Makes the folders above a mount, and the one that it covers if it is a `folder`, so that `..` leads somewhere.
/// In a layer alone: the host's own folders stay as they are.
fn make_place(tree: &Arc<Tree>, layer: bool, at: &[u8], folder: bool) -> Result<()> {
    if !layer {
        return Ok(());
    }
    let root = Cred { uid: 0, gid: 0, groups: [][..].into() };
    let view = View::new(tree.clone(), root, 0o022);
    let ends = (1..at.len()).filter(|&end| at[end] == b'/').chain(folder.then_some(at.len()));
    for end in ends {
        let path = &at[..end];
        let above = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash.max(1));
        if view.locate(&view.root, path, true).is_ok() {
            continue;
        }
        if !matches!(view.locate(&view.root, &path[..above], true)?.node, Node::Inner(_)) {
            return Ok(());
        }
        match view.mkdir(&view.root, path, 0o755) {
            // A tree that is not to be written to is not, then.
            Ok(()) | Err(Errno::EROFS) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Gives the process the host's descriptors 0, 1 and 2, as far as they are open.
pub fn inherit(process: &Process) -> Result<()> {
    const F_GETFD: usize = 1;
    for fd in 0..3 {
        // SAFETY: plain numbers.
        if unsafe { host!(fcntl, fd, F_GETFD) }.is_err() {
            continue;
        }
        let open = HostFile::inherited(HostFd::new(fd))?;
        if open.downcast::<HostFile>().is_some_and(HostFile::is_terminal) {
            crate::tty::adopt_host(process);
        }
        process.fds.replace(fd, Arc::new(open), false)?;
    }
    Ok(())
}
