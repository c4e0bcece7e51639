//! The mount table, and places in the tree that it spans.
//!
//! A mount is found by the canonical path of the directory that it covers: absolute, without links,
//! `.` or `..`. A [`Place`] remembers its canonical path beside the file itself, so `..` and the
//! question "is something mounted here?" are answered from text, and a name that was resolved once
//! is never resolved again on the host. As on Linux, what is mounted over a directory hides it.

use crate::attr::Stat;
use crate::host::{HostFd, O_DIRECTORY, O_PATH};
use crate::vnode::Vnode;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use platform::errno::{Errno, Result};
use platform::sync::Lock;

/// One mounted file system, or one file put over another.
pub struct Mount {
    /// Canonical path of what it covers; `/` for the root.
    pub at: Arc<[u8]>,
    /// What is there.
    pub root: Node,
    /// Writing gives EROFS.
    pub read_only: bool,
    /// File system type for /proc/mounts (`tmpfs`).
    pub kind: &'static str,
    /// Source for /proc/mounts.
    pub source: Vec<u8>,
    /// Number for /proc/self/mountinfo.
    pub id: u32,
}

/// What stands behind a place.
#[derive(Clone)]
pub enum Node {
    /// A host file: an `O_PATH` descriptor.
    Host(Arc<HostFd>),
    /// A file of a file system inside the guest.
    Inner(Arc<dyn Vnode>),
    /// An open file of the layer above, reached through /proc/PID/fd.
    Object(Arc<dyn Any + Send + Sync>),
}

/// A file or directory in the tree.
#[derive(Clone)]
pub struct Place {
    /// The mount it lies in.
    pub mount: Arc<Mount>,
    /// Its canonical path in the guest's tree.
    pub path: Arc<[u8]>,
    /// The file.
    pub node: Node,
}

impl Place {
    /// EROFS if the mount is read-only.
    pub fn writable(&self) -> Result<()> {
        if self.mount.read_only { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// stat(2) of the file. ENOTSUP for [`Node::Object`], which the layer above answers itself.
    pub fn stat(&self) -> Result<Stat> {
        match &self.node {
            Node::Host(fd) => fd.stat(),
            Node::Inner(node) => Ok(node.stat()),
            Node::Object(_) => Err(Errno::ENOTSUP),
        }
    }
}

/// The mounts of a guest. Changed rarely; readers take the present list as a whole.
pub struct Tree {
    mounts: Lock<Arc<[Arc<Mount>]>>,
}

impl Tree {
    /// A tree whose root is this node.
    pub fn new(root: Node, kind: &'static str, source: &[u8], read_only: bool) -> Tree {
        let at = Arc::from(&b"/"[..]);
        let mount = Mount { at, root, read_only, kind, source: source.to_vec(), id: 1 };
        Tree { mounts: Lock::new([Arc::new(mount)].into()) }
    }

    /// A tree whose root is a host directory.
    pub fn host(directory: &[u8], read_only: bool) -> Result<Tree> {
        let fd = HostFd::open_host(directory, O_PATH | O_DIRECTORY, 0)?;
        Ok(Tree::new(Node::Host(Arc::new(fd)), "ext4", b"/dev/root", read_only))
    }

    /// Puts `root` over the canonical path `at`. The newest of several mounts on one path counts.
    pub fn mount(&self, at: &[u8], root: Node, kind: &'static str, source: &[u8], read_only: bool) {
        let mut mounts = self.mounts.lock();
        let id = mounts.iter().map(|mount| mount.id).max().unwrap_or(0) + 1;
        let mount = Mount { at: at.into(), root, read_only, kind, source: source.to_vec(), id };
        *mounts = mounts.iter().cloned().chain([Arc::new(mount)]).collect();
    }

    /// The present mounts, oldest first.
    pub fn mounts(&self) -> Arc<[Arc<Mount>]> {
        self.mounts.lock().clone()
    }

    /// The mount that covers exactly `path`, except the root.
    pub fn at(&self, path: &[u8]) -> Option<Arc<Mount>> {
        let mounts = self.mounts();
        mounts.iter().skip(1).rfind(|mount| *mount.at == *path).cloned()
    }

    /// The deepest mount on the way to the canonical `path`, and the path below it (no leading `/`).
    pub fn deepest<'a>(&self, path: &'a [u8]) -> (Arc<Mount>, &'a [u8]) {
        let mounts = self.mounts.lock();
        let mut best = &mounts[0];
        for mount in mounts.iter().skip(1) {
            if mount.at.len() >= best.at.len() && below(path, &mount.at).is_some() {
                best = mount;
            }
        }
        let rest = below(path, &best.at).unwrap_or(b"");
        (best.clone(), rest)
    }

    /// Names in the canonical directory `path` where something is mounted.
    pub fn names_in(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        for mount in self.mounts().iter().skip(1) {
            let Some(rest) = below(&mount.at, path) else { continue };
            let name = rest.split(|&byte| byte == b'/').next().unwrap_or(b"");
            if !name.is_empty() && rest.len() == name.len() && !names.iter().any(|seen| seen == name) {
                names.push(name.to_vec());
            }
        }
        names
    }
}

impl Mount {
    /// This mount as those see it who may not change what they found there.
    pub(crate) fn read_only_twin(&self) -> Arc<Mount> {
        let (at, root, source) = (self.at.clone(), self.root.clone(), self.source.clone());
        Arc::new(Mount { at, root, read_only: true, kind: self.kind, source, id: self.id })
    }

    /// The mount's root as a place.
    pub fn place(self: &Arc<Mount>) -> Place {
        Place { mount: self.clone(), path: self.at.clone(), node: self.root.clone() }
    }
}

/// What of `path` lies below `directory`, without the leading slash; empty if they are the same.
pub fn below<'a>(path: &'a [u8], directory: &[u8]) -> Option<&'a [u8]> {
    if directory == b"/" {
        return path.strip_prefix(b"/");
    }
    // The length first: it tells most directories apart without a look at their names.
    let (head, rest) = path.split_at_checked(directory.len())?;
    let rest = if rest.is_empty() { rest } else { rest.strip_prefix(b"/")? };
    (head == directory).then_some(rest)
}

/// `directory/name`.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if !path.ends_with(b"/") && !name.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The canonical path one step up.
pub fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(0) | None => b"/",
        Some(at) => &path[..at],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_compare_by_component() {
        assert_eq!(below(b"/dev/null", b"/dev"), Some(&b"null"[..]));
        assert_eq!(below(b"/devil", b"/dev"), None);
        assert_eq!(below(b"/dev", b"/dev"), Some(&b""[..]));
        assert_eq!(below(b"/a", b"/"), Some(&b"a"[..]));
        assert_eq!(join(b"/", b"a"), b"/a");
        assert_eq!(join(b"/a", b"b"), b"/a/b");
        assert_eq!(parent(b"/a/b"), b"/a");
        assert_eq!(parent(b"/a"), b"/");
        assert_eq!(parent(b"/"), b"/");
    }
}
