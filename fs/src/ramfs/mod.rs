//! tmpfs: files in memory, with names, links, rights, times and a size limit; on its own, or as a layer
//! over a host folder that it never changes ([`over`], `lower.rs`).
//!
//! Small files are bytes in the kernel's heap. A file that grows past [`SMALL`], or that somebody maps,
//! moves into a host memfd: from then on the host keeps its pages, holes cost nothing, and mappings
//! see what writes do. The structure (who has which name) changes under one lock for each file
//! system, so that a rename is one step; look-ups only take the lock of their directory.

use crate::attr::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, Stat, StatFs, dirent_type, wall_clock};
mod content;
mod lower;

use crate::host::{HostFd, O_ACCMODE, O_TRUNC};
use crate::view::{RENAME_EXCHANGE, RENAME_NOREPLACE};
use crate::vnode::{Entry, New, NewTime, Opening, Vnode};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};
use platform::errno::{Errno, Result};
use platform::sync::Lock;

use content::{Bytes, Content};
pub use lower::over;

/// Above this many bytes a file lives in a memfd.
pub const SMALL: u64 = 64 * 1024;
const PAGE: u64 = 4096;
const TMPFS_MAGIC: i64 = 0x0102_1994;
const OVERLAYFS_MAGIC: i64 = 0x794c_7630;
/// The largest file (`MAX_LFS_FILESIZE`).
const MAX_SIZE: u64 = i64::MAX as u64;

/// One file system's common part.
struct Common {
    dev: u64,
    /// Held while names change.
    names: Lock<()>,
    next_ino: AtomicU64,
    /// Pages in use, and how many there may be.
    used: AtomicU64,
    limit: u64,
    /// Files that had users when their last name went.
    unnamed: Lock<Vec<Weak<RamNode>>>,
    /// The host folder that this is a layer over.
    lower: Option<HostFd>,
}

/// A file, directory, link or special file.
struct RamNode {
    common: Arc<Common>,
    stat: Lock<Stat>,
    xattrs: Lock<BTreeMap<Vec<u8>, Vec<u8>>>,
    body: Body,
}

enum Body {
    Directory(Lock<Directory>),
    Link(Box<[u8]>),
    File(Lock<Content>),
    /// FIFO, socket or device: what it does is known above.
    Special,
}

#[derive(Default)]
struct Directory {
    names: BTreeMap<Vec<u8>, Arc<RamNode>>,
    /// Where below it has further names, but for those in `hidden`.
    lower: Option<Box<[u8]>>,
    hidden: BTreeSet<Vec<u8>>,
    /// rmdir has taken it away: nothing can be made in it.
    dead: bool,
}

/// A fresh tmpfs of at most `limit` bytes; answers its root directory. `dev` is its device number.
pub fn new(dev: u64, limit: u64, mode: u32, uid: u32, gid: u32) -> Arc<dyn Vnode> {
    let common = Common::new(dev, limit, None);
    RamNode::make(&common, New { mode: S_IFDIR | mode, uid, gid, rdev: 0, target: b"" })
}

/// A regular file without a name (a memfd's, or one put over another file by a mount).
pub fn file(dev: u64, mode: u32, content: &[u8]) -> Arc<dyn Vnode> {
    let root = new(dev, u64::MAX, 0o755, 0, 0);
    let new = New { mode: S_IFREG | mode, uid: 0, gid: 0, rdev: 0, target: b"" };
    let common = (&*root as &dyn Any).downcast_ref::<RamNode>().map(|root| root.common.clone());
    let node = RamNode::make(&common.expect("a tmpfs's root is its own"), new);
    // An unlimited file system takes every content.
    let _ = node.write_at(0, content);
    node
}

/// Files of the tmpfs with this root that have no name any more and are still there: open, or lost by a call that was
/// killed while it had them in its hands.
pub fn unnamed(root: &Arc<dyn Vnode>) -> Vec<Arc<dyn Vnode>> {
    let Ok(root) = ram(root) else { return Vec::new() };
    let mut unnamed = root.common.unnamed.lock();
    forget_closed(&mut unnamed);
    unnamed.iter().filter_map(|node| node.upgrade()).map(|node| node as Arc<dyn Vnode>).collect()
}

/// Takes out those that are gone. `retain` would leave the list empty while it looks, and whoever is killed then would
/// lose the rest.
fn forget_closed(unnamed: &mut Vec<Weak<RamNode>>) {
    let open = unnamed.iter().filter(|node| node.strong_count() > 0).cloned().collect();
    let before = core::mem::replace(unnamed, open);
    drop(before);
}

/// Lets go of the bytes of such a file, which nobody will read again. Who does finds it empty.
pub fn give_up(node: &Arc<dyn Vnode>) {
    let Ok(node) = ram(node) else { return };
    let Ok(content) = node.content() else { return };
    let mut content = content.lock();
    content.bytes = Bytes::Heap(Vec::new());
    content.recount(&node.common);
}

impl RamNode {
    fn make(common: &Arc<Common>, new: New<'_>) -> Arc<RamNode> {
        let body = match new.mode & S_IFMT {
            S_IFDIR => Body::Directory(Lock::default()),
            S_IFLNK => Body::Link(new.target.into()),
            S_IFREG => Body::File(Lock::new(Content { bytes: Bytes::Heap(Vec::new()), charged: 0 })),
            _ => Body::Special,
        };
        let mut stat = Stat {
            dev: common.dev,
            ino: common.next_ino.fetch_add(1, Ordering::Relaxed),
            nlink: if new.mode & S_IFMT == S_IFDIR { 2 } else { 1 },
            mode: new.mode,
            uid: new.uid,
            gid: new.gid,
            rdev: new.rdev,
            size: new.target.len() as i64,
            blksize: PAGE as i64,
            ..Stat::default()
        };
        stat.set_times(wall_clock());
        RamNode::with(common, stat, body)
    }

    fn with(common: &Arc<Common>, stat: Stat, body: Body) -> Arc<RamNode> {
        Arc::new(RamNode { common: common.clone(), stat: Lock::new(stat), xattrs: Lock::default(), body })
    }

    /// The entry `name`, from below if it is not known yet.
    fn child(&self, name: &[u8]) -> Result<Arc<RamNode>> {
        let below = {
            let directory = self.directory()?.lock();
            if let Some(node) = directory.names.get(name) {
                return Ok(node.clone());
            }
            directory.below(name).ok_or(Errno::ENOENT)?
        };
        let node = self.common.adopt(&below)?;
        let mut directory = self.directory()?.lock();
        // Meanwhile somebody may have been faster, or have removed it.
        match directory.names.get(name) {
            Some(node) => Ok(node.clone()),
            None if directory.hidden.contains(name) => Err(Errno::ENOENT),
            None => Ok(directory.names.entry(name.to_vec()).or_insert(node).clone()),
        }
    }

    /// ENOTEMPTY if a directory has entries; else it takes no more.
    fn bury(&self) -> Result<()> {
        if !self.list()?.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.directory()?.lock().dead = true;
        Ok(())
    }

    /// Before attributes change: a file of the folder below becomes ours, so that what is opened later
    /// tells the same as its name.
    fn take_over(&self) -> Result<()> {
        match &self.body {
            Body::File(content) => content.lock().take_over(&self.common),
            _ => Ok(()),
        }
    }

    fn directory(&self) -> Result<&Lock<Directory>> {
        match &self.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn content(&self) -> Result<&Lock<Content>> {
        match &self.body {
            Body::File(content) => Ok(content),
            Body::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    fn is_dir(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }

    fn change(&self, change: impl FnOnce(&mut Stat)) {
        let mut stat = self.stat.lock();
        change(&mut stat);
        stat.set_ctime(wall_clock());
    }

    /// The content was changed.
    fn modified(&self) {
        let now = wall_clock();
        let mut stat = self.stat.lock();
        stat.set_mtime(now);
        stat.set_ctime(now);
    }

    /// Adds to the link count.
    fn relink(&self, by: i64) {
        self.change(|stat| stat.nlink = stat.nlink.saturating_add_signed(by));
    }
}

impl Directory {
    /// Takes an entry out; what the folder below has under this name stays unseen.
    fn forget(&mut self, name: &[u8]) {
        self.names.remove(name);
        if self.lower.is_some() {
            self.hidden.insert(name.to_vec());
        }
    }
}

impl Common {
    fn new(dev: u64, limit: u64, lower: Option<HostFd>) -> Arc<Common> {
        Arc::new(Common {
            dev,
            names: Lock::new(()),
            next_ino: AtomicU64::new(1),
            used: AtomicU64::new(0),
            limit: limit / PAGE,
            unnamed: Lock::default(),
            lower,
        })
    }

    /// A file loses a name now, perhaps its last. Before it does: who is killed then has it in his hands alone.
    fn unname(&self, node: &Arc<RamNode>) {
        let Ok(content) = node.content() else { return };
        // The caller's count and the name's. What is only memory may be lost with its caller, a descriptor may not.
        let is_unused = || Arc::strong_count(node) == 2;
        let is_memory = || !matches!(content.lock().bytes, Bytes::Host(_));
        if node.stat.lock().nlink > 1 || is_unused() && is_memory() {
            return;
        }
        let mut unnamed = self.unnamed.lock();
        if unnamed.len() == unnamed.capacity() {
            forget_closed(&mut unnamed);
            // Room for as many again, or the next one would look through all of them.
            let more = unnamed.len() + 4;
            unnamed.reserve(more);
        }
        unnamed.push(Arc::downgrade(node));
    }

    /// Counts pages in or out; ENOSPC above the limit.
    fn charge(&self, from: u64, to: u64) -> Result<()> {
        if to > from {
            let used = self.used.fetch_add(to - from, Ordering::Relaxed) + (to - from);
            if used > self.limit {
                self.used.fetch_sub(to - from, Ordering::Relaxed);
                return Err(Errno::ENOSPC);
            }
        } else {
            self.used.fetch_sub(from - to, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Drop for RamNode {
    fn drop(&mut self) {
        if let Body::File(content) = &mut self.body {
            self.common.used.fetch_sub(content.get_mut().charged, Ordering::Relaxed);
        }
    }
}

fn ram(node: &Arc<dyn Vnode>) -> Result<Arc<RamNode>> {
    let any: Arc<dyn Any + Send + Sync> = node.clone();
    any.downcast().map_err(|_| Errno::EXDEV)
}

impl Vnode for RamNode {
    fn stat(&self) -> Stat {
        let mut stat = *self.stat.lock();
        match &self.body {
            Body::File(content) => {
                let content = content.lock();
                stat.size = content.size() as i64;
                stat.blocks = content.blocks() as i64;
            }
            Body::Directory(directory) => stat.size = directory.lock().names.len() as i64 * 20 + 40,
            _ => {}
        }
        stat
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Vnode>> {
        self.child(name).map(|node| node as Arc<dyn Vnode>)
    }

    fn list(&self) -> Result<Vec<Entry>> {
        let below = {
            let directory = self.directory()?.lock();
            directory.lower.clone()
        };
        let below = below.map(|path| self.common.list_lower(&path)).transpose()?.unwrap_or_default();
        let directory = self.directory()?.lock();
        let unseen = |entry: &Entry| {
            !directory.names.contains_key(&entry.name) && !directory.hidden.contains(&entry.name)
        };
        let entry = |(name, node): (&Vec<u8>, &Arc<RamNode>)| {
            let stat = node.stat.lock();
            Entry { name: name.clone(), ino: stat.ino, kind: dirent_type(stat.mode) }
        };
        Ok(directory.names.iter().map(entry).chain(below.into_iter().filter(unseen)).collect())
    }

    fn create(&self, name: &[u8], new: New<'_>) -> Result<Arc<dyn Vnode>> {
        if name.len() > 255 {
            return Err(Errno::ENAMETOOLONG);
        }
        let _names = self.common.names.lock();
        if self.child(name).is_ok() {
            return Err(Errno::EEXIST);
        }
        let mut directory = self.directory()?.lock();
        if directory.dead {
            return Err(Errno::ENOENT);
        }
        let node = RamNode::make(&self.common, new);
        directory.names.insert(name.to_vec(), node.clone());
        drop(directory);
        if node.is_dir() {
            self.relink(1);
        }
        self.modified();
        Ok(node)
    }

    fn remove(&self, name: &[u8], directory: bool) -> Result<()> {
        let _names = self.common.names.lock();
        let node = self.child(name)?;
        match (&node.body, directory) {
            (Body::Directory(_), false) => return Err(Errno::EISDIR),
            (Body::Directory(_), true) => node.bury()?,
            (_, true) => return Err(Errno::ENOTDIR),
            (_, false) => {}
        }
        self.common.unname(&node);
        self.directory()?.lock().forget(name);
        node.relink(if node.is_dir() { -2 } else { -1 });
        if node.is_dir() {
            self.relink(-1);
        }
        self.modified();
        Ok(())
    }

    fn link(&self, name: &[u8], node: &Arc<dyn Vnode>) -> Result<()> {
        if name.len() > 255 {
            return Err(Errno::ENAMETOOLONG);
        }
        let node = ram(node)?;
        if !Arc::ptr_eq(&node.common, &self.common) {
            return Err(Errno::EXDEV);
        }
        let _names = self.common.names.lock();
        if self.child(name).is_ok() {
            return Err(Errno::EEXIST);
        }
        let mut directory = self.directory()?.lock();
        if directory.dead {
            return Err(Errno::ENOENT);
        }
        directory.names.insert(name.to_vec(), node.clone());
        drop(directory);
        node.relink(1);
        self.modified();
        Ok(())
    }

    fn rename(&self, name: &[u8], to: &Arc<dyn Vnode>, new: &[u8], flags: u32) -> Result<()> {
        if new.len() > 255 {
            return Err(Errno::ENAMETOOLONG);
        }
        let to = ram(to)?;
        if !Arc::ptr_eq(&to.common, &self.common) {
            return Err(Errno::EXDEV);
        }
        let _names = self.common.names.lock();
        let node = self.child(name)?;
        let old = to.child(new).ok();
        if to.directory()?.lock().dead {
            return Err(Errno::ENOENT);
        }
        match &old {
            None if flags & RENAME_EXCHANGE != 0 => return Err(Errno::ENOENT),
            Some(_) if flags & RENAME_NOREPLACE != 0 => return Err(Errno::EEXIST),
            // rename(2): two names of one file stay as they are.
            Some(old) if Arc::ptr_eq(old, &node) => return Ok(()),
            Some(old) if flags & RENAME_EXCHANGE == 0 => match (&old.body, node.is_dir()) {
                (Body::Directory(_), true) => old.bury()?,
                (Body::Directory(_), false) => return Err(Errno::EISDIR),
                (_, true) => return Err(Errno::ENOTDIR),
                (_, false) => {}
            },
            _ => {}
        }
        if let Some(old) = old.as_ref().filter(|_| flags & RENAME_EXCHANGE == 0) {
            self.common.unname(old);
        }
        // The new name first: it is never missing for those who look it up.
        to.directory()?.lock().names.insert(new.to_vec(), node.clone());
        let exchanged = flags & RENAME_EXCHANGE != 0;
        {
            let mut from = self.directory()?.lock();
            match &old {
                Some(old) if exchanged => drop(from.names.insert(name.to_vec(), old.clone())),
                _ => from.forget(name),
            }
        }
        let elsewhere = !core::ptr::eq(self, &*to);
        if node.is_dir() && elsewhere {
            self.relink(-1);
            to.relink(1);
        }
        if let Some(old) = &old {
            if exchanged && old.is_dir() && elsewhere {
                to.relink(-1);
                self.relink(1);
            } else if !exchanged {
                old.relink(if old.is_dir() { -2 } else { -1 });
                if old.is_dir() {
                    to.relink(-1);
                }
            }
        }
        node.change(|_| {});
        self.modified();
        to.modified();
        Ok(())
    }

    fn readlink(&self) -> Result<Vec<u8>> {
        match &self.body {
            Body::Link(text) => Ok(text.to_vec()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(self: Arc<Self>, flags: u32) -> Result<Opening> {
        let writes = flags & O_ACCMODE != 0 || flags & O_TRUNC != 0;
        if let Body::File(content) = &self.body {
            let mut content = content.lock();
            match &content.bytes {
                // The host reads, maps and keeps it in its cache better than we could.
                Bytes::Lower { path, .. } if !writes => {
                    return self.common.open_lower(path, 0).map(Opening::Unchanged);
                }
                _ => content.take_over(&self.common)?,
            }
        }
        match self.body {
            // sockets cannot be opened (open(2) ENXIO); FIFOs and devices are opened above.
            Body::Special if self.stat.lock().is(crate::attr::S_IFSOCK) => Err(Errno::ENXIO),
            _ => Ok(Opening::Node(self)),
        }
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<usize> {
        let content = self.content()?.lock();
        match &content.bytes {
            Bytes::Lower { path, .. } => self.common.open_lower(path, 0)?.pread(at, into),
            Bytes::Host(fd) => {
                let fd = fd.clone();
                drop(content);
                fd.pread(at, into)
            }
            Bytes::Heap(bytes) => {
                let Some(rest) = usize::try_from(at).ok().and_then(|at| bytes.get(at..)) else {
                    return Ok(0);
                };
                let count = rest.len().min(into.len());
                into[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            }
        }
    }

    fn write_at(&self, at: u64, from: &[u8]) -> Result<usize> {
        let count = self.content()?.lock().write(&self.common, at, from)?;
        self.modified();
        Ok(count)
    }

    fn append(&self, from: &[u8]) -> Result<(usize, u64)> {
        let (count, end) = {
            let mut content = self.content()?.lock();
            let at = content.size();
            let count = content.write(&self.common, at, from)?;
            (count, at + count as u64)
        };
        self.modified();
        Ok((count, end))
    }

    fn truncate(&self, size: u64) -> Result<()> {
        self.content()?.lock().truncate(&self.common, size)?;
        self.modified();
        Ok(())
    }

    fn host(&self) -> Result<Arc<HostFd>> {
        let mut content = self.content().map_err(|_| Errno::ENODEV)?.lock();
        content.take_over(&self.common)?;
        let fd = content.move_to_host()?;
        content.recount(&self.common);
        Ok(fd)
    }

    fn touched(&self) {
        if let Ok(content) = self.content() {
            content.lock().recount(&self.common);
        }
        self.modified();
    }

    fn set_mode(&self, mode: u32) -> Result<()> {
        self.take_over()?;
        self.change(|stat| stat.mode = stat.mode & S_IFMT | mode & 0o7777);
        Ok(())
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.take_over()?;
        self.change(|stat| {
            stat.uid = uid.unwrap_or(stat.uid);
            stat.gid = gid.unwrap_or(stat.gid);
            // chown(2): a new owner does not inherit set-user-ID.
            if !stat.is(S_IFDIR) {
                stat.mode &= if stat.mode & 0o010 != 0 { !0o6000 } else { !0o4000 };
            }
        });
        Ok(())
    }

    fn set_times(&self, atime: NewTime, mtime: NewTime) -> Result<()> {
        self.take_over()?;
        let now = wall_clock();
        let pick = |time| match time {
            NewTime::Keep => None,
            NewTime::Now => Some(now),
            NewTime::At(at) => Some(at),
        };
        self.change(|stat| {
            pick(atime).into_iter().for_each(|at| stat.set_atime(at));
            pick(mtime).into_iter().for_each(|at| stat.set_mtime(at));
        });
        Ok(())
    }

    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.xattrs.lock().get(name).cloned().ok_or(Errno::ENODATA)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        // tmpfs has trusted.* and security.*; user.* came with Linux 6.6, and nobody minds it.
        if ![&b"user."[..], b"trusted.", b"security."].iter().any(|space| name.starts_with(space)) {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut xattrs = self.xattrs.lock();
        match (xattrs.contains_key(name), flags) {
            (true, 1) => return Err(Errno::EEXIST),
            (false, 2) => return Err(Errno::ENODATA),
            _ => {}
        }
        xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.xattrs.lock().remove(name).map(drop).ok_or(Errno::ENODATA)
    }

    fn xattrs(&self) -> Result<Vec<Vec<u8>>> {
        Ok(self.xattrs.lock().keys().cloned().collect())
    }

    fn statfs(&self) -> StatFs {
        let used = self.common.used.load(Ordering::Relaxed);
        let free = self.common.limit.saturating_sub(used);
        StatFs {
            kind: if self.common.lower.is_some() { OVERLAYFS_MAGIC } else { TMPFS_MAGIC },
            bsize: PAGE as i64,
            frsize: PAGE as i64,
            namelen: 255,
            blocks: self.common.limit,
            bfree: free,
            bavail: free,
            ..StatFs::default()
        }
    }
}
