//! The tree as one process sees it, and what can be done with paths: open, stat, rename, ...
//!
//! A [`View`] is a process's root, working directory, umask and identity. `base` is the directory
//! that a relative path starts from. Host files are judged by the host, with the rights of the user
//! who started the guest; files of inner file systems are judged here by [`Cred`].

use crate::attr::{Cred, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, Stat, StatFs};
use crate::host::{
    AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, CPath, HostFd, O_ACCMODE, O_CLOEXEC, O_CREAT, O_DIRECTORY,
    O_EXCL, O_NOCTTY, O_NOFOLLOW, O_PATH, O_TMPFILE_BIT, O_TRUNC,
};
use crate::mount::{Node, Place, Tree, below, join};
use crate::vnode::{New, NewTime, Opening, Vnode};
use crate::walk::{Child, Last, Walker, is_directory};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use platform::errno::{Errno, Result};
use platform::host;
use platform::time::Timespec;

/// A process's sight of the tree. Cloned by fork.
#[derive(Clone)]
pub struct View {
    /// The mounts, shared by all processes.
    pub tree: Arc<Tree>,
    /// Where absolute paths start (chroot(2)).
    pub root: Place,
    /// Where relative paths start.
    pub cwd: Place,
    /// Rights that new files do not get.
    pub umask: u32,
    /// Who acts.
    pub cred: Cred,
}

/// What open(2) gives.
pub enum Opened {
    /// A host file, and its canonical path. `directory` as fstat says.
    Host {
        /// The descriptor.
        fd: HostFd,
        /// Where it lies; its node is an `O_PATH` descriptor only for directories.
        path: Arc<[u8]>,
        /// The mount.
        mount: Arc<crate::mount::Mount>,
    },
    /// A file of an inner file system.
    Inner {
        /// The bytes (a snapshot, for /proc files).
        node: Arc<dyn Vnode>,
        /// Where it lies; the node there is the file as it is in its directory.
        place: Place,
    },
    /// Only a place (`O_PATH`).
    Path(Place),
    /// An open file of the layer above, to be opened again (`/proc/self/fd/3`).
    Object(Arc<dyn Any + Send + Sync>),
}

/// `RENAME_NOREPLACE`
pub const RENAME_NOREPLACE: u32 = 1;
/// `RENAME_EXCHANGE`
pub const RENAME_EXCHANGE: u32 = 2;

impl View {
    /// A view from the tree's root. `umask` applies to host files too: the host's is set to 0, so
    /// that it is not applied twice.
    pub fn new(tree: Arc<Tree>, cred: Cred, umask: u32) -> View {
        // SAFETY: umask takes a number and touches no memory.
        let _ = unsafe { host!(umask, 0) };
        let root = tree.mounts()[0].place();
        View { tree, cwd: root.clone(), root, umask, cred }
    }

    /// The file at a path.
    pub fn locate(&self, base: &Place, path: &[u8], follow: bool) -> Result<Place> {
        let nofollow = if follow || path.ends_with(b"/") { 0 } else { O_NOFOLLOW };
        let directory = if path.ends_with(b"/") { O_DIRECTORY } else { 0 };
        if !path.is_empty()
            && path.len() < 4096
            && !path.ends_with(b".")
            && let Some(leap) = self.leap(base, path)
            && !leap.rest().is_empty()
        {
            match leap.fd.open_beneath(leap.rest(), O_PATH | nofollow | directory, 0) {
                Ok(fd) => {
                    let mount = leap.mount;
                    return Ok(Place { mount, path: leap.path.into(), node: Node::Host(Arc::new(fd)) });
                }
                Err(Errno::ELOOP) => {}
                Err(error) => return Err(error),
            }
        }
        Walker::new(self, base, path)?.finish(follow)
    }

    /// open(2). `mode` is what a new file gets, before the umask.
    pub fn open(&self, base: &Place, path: &[u8], flags: u32, mode: u32) -> Result<Opened> {
        if flags & O_PATH != 0 {
            let place = self.locate(base, path, flags & O_NOFOLLOW == 0)?;
            if flags & O_DIRECTORY != 0 && !is_directory(&place)? {
                return Err(Errno::ENOTDIR);
            }
            return Ok(Opened::Path(place));
        }
        // Linux ignores O_NOFOLLOW's subtlety with O_CREAT|O_EXCL: a link is EEXIST either way.
        let flags = flags | O_NOCTTY;
        let mode = mode & !self.umask;
        if !path.is_empty()
            && path.len() < 4096
            && !path.ends_with(b"/")
            && !path.ends_with(b".")
            && (flags & O_CREAT == 0 || self.owner_of_new().is_none())
            && let Some(leap) = self.leap(base, path)
            && !leap.rest().is_empty()
            && !(leap.mount.read_only && wants_write(flags))
        {
            match leap.fd.open_beneath(leap.rest(), flags, mode) {
                Ok(fd) => {
                    if flags & O_TMPFILE_BIT != 0 {
                        self.hand_over(&fd, b"", false);
                    }
                    return Ok(Opened::Host { fd, path: leap.path.into(), mount: leap.mount });
                }
                Err(Errno::ELOOP) => {}
                Err(error) => return Err(error),
            }
        }
        self.open_walking(base, path, flags, mode)
    }

    fn open_walking(&self, base: &Place, path: &[u8], flags: u32, mode: u32) -> Result<Opened> {
        let mut walker = Walker::new(self, base, path)?;
        loop {
            let last = walker.walk_to_last()?;
            let Last::Name(name) = last else {
                return self.open_place(walker.special(&last)?, flags, mode);
            };
            if walker.must_be_dir && flags & O_CREAT != 0 {
                return Err(Errno::EISDIR);
            }
            let exclusive = flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL;
            let follow = (flags & O_NOFOLLOW == 0 && !exclusive) || walker.must_be_dir;
            // A device or FIFO of the host must not be opened by the look alone, hence O_PATH first.
            match walker.child(&name, follow) {
                Ok(Child::Link(target)) => walker.follow(&target)?,
                Ok(Child::Place(_)) if exclusive => return Err(Errno::EEXIST),
                Ok(Child::Place(place)) => {
                    if walker.must_be_dir && !is_directory(&place)? {
                        return Err(Errno::ENOTDIR);
                    }
                    let in_dir = Arc::ptr_eq(&place.mount, &walker.dir.mount);
                    if let (true, Node::Host(dir), Node::Host(_)) = (in_dir, &walker.dir.node, &place.node) {
                        self.may_write(&place, flags)?;
                        match dir.open_beneath(&name, flags & !O_CREAT, mode) {
                            Ok(fd) => return Ok(Opened::Host { fd, path: place.path, mount: place.mount }),
                            Err(error) => return Err(error),
                        }
                    }
                    return self.open_place(place, flags, mode);
                }
                Err(Errno::ENOENT) if flags & O_CREAT != 0 => {
                    match self.create(&walker.dir, &name, flags, mode) {
                        // Somebody else was faster: open theirs.
                        Err(Errno::EEXIST) if !exclusive => self.step_back(&mut walker, &name)?,
                        opened => return opened,
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Lets the walker meet `name` again.
    fn step_back(&self, walker: &mut Walker<'_>, name: &[u8]) -> Result<()> {
        walker.follow(name)
    }

    /// Who shall own what this process makes in a host's folder, where that is not whom the host makes its owner:
    /// started by root, a guest may have become another user.
    fn owner_of_new(&self) -> Option<(u32, u32)> {
        // SAFETY: neither has preconditions nor can it fail.
        let (uid, gid) = unsafe { (host!(geteuid).ok()? as u32, host!(getegid).ok()? as u32) };
        let wanted = (self.cred.uid, self.cred.gid);
        (uid == 0 && wanted != (uid, gid)).then_some(wanted)
    }

    /// Gives a new host file, `name` in `at` or `at` itself, to its maker. Where the host knows no owners (vfat, a
    /// squashed share) the file stays as the host made it, as it does natively.
    fn hand_over(&self, at: &HostFd, name: &[u8], keeps_group: bool) {
        let Some((uid, gid)) = self.owner_of_new() else { return };
        let Ok(name) = CPath::new(name) else { return };
        let gid = if keeps_group { u32::MAX } else { gid };
        let flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW;
        // SAFETY: the name is empty or one component, and a C string.
        let _ = unsafe { host!(fchownat, at.raw(), name.ptr(), uid, gid, flags) };
    }

    fn create(&self, dir: &Place, name: &[u8], flags: u32, mode: u32) -> Result<Opened> {
        dir.writable()?;
        let path: Arc<[u8]> = join(&dir.path, name).into();
        match &dir.node {
            Node::Host(fd) => {
                let file = fd.open_beneath(name, flags | O_EXCL, mode)?;
                self.hand_over(&file, b"", inherits_group(fd));
                Ok(Opened::Host { fd: file, path, mount: dir.mount.clone() })
            }
            Node::Inner(_) => {
                let node = self.make(dir, name, S_IFREG | (mode & 0o7777), 0, b"")?;
                let place = Place { mount: dir.mount.clone(), path, node: Node::Inner(node.clone()) };
                Ok(Opened::Inner { node, place })
            }
            Node::Object(_) => Err(Errno::ENOTDIR),
        }
    }

    fn open_place(&self, place: Place, flags: u32, mode: u32) -> Result<Opened> {
        match &place.node {
            // `/`, `.`, `..` and mount roots: directories (or one file), opened by themselves.
            Node::Host(fd) => {
                if flags & O_CREAT != 0 {
                    return Err(Errno::EISDIR);
                }
                self.may_write(&place, flags)?;
                let fd = reopen(fd, flags, mode)?;
                Ok(Opened::Host { fd, path: place.path, mount: place.mount })
            }
            Node::Inner(node) => self.open_inner(node.clone(), place, flags, mode),
            Node::Object(object) => Ok(Opened::Object(object.clone())),
        }
    }

    fn open_inner(&self, node: Arc<dyn Vnode>, place: Place, flags: u32, mode: u32) -> Result<Opened> {
        let stat = node.stat();
        let writes = flags & O_ACCMODE != 0;
        if flags & O_TMPFILE_BIT != 0 {
            return self.open_unnamed(place, mode);
        }
        match stat.mode & S_IFMT {
            S_IFLNK => return Err(Errno::ELOOP),
            S_IFDIR if writes || flags & O_CREAT != 0 => return Err(Errno::EISDIR),
            S_IFDIR => {
                self.permit(&stat, 4)?;
                return Ok(Opened::Inner { node, place });
            }
            _ if flags & O_DIRECTORY != 0 => return Err(Errno::ENOTDIR),
            S_IFREG => self.may_write(&place, flags)?,
            _ => {}
        }
        let read = if flags & O_ACCMODE == 1 { 0 } else { 4 };
        self.permit(&stat, read | if writes || flags & O_TRUNC != 0 { 2 } else { 0 })?;
        if flags & O_TRUNC != 0 && stat.is(S_IFREG) {
            node.truncate(0)?;
        }
        match node.open(flags)? {
            Opening::Node(node) => Ok(Opened::Inner { node, place }),
            Opening::Host(fd) => Ok(Opened::Host { fd, path: place.path, mount: place.mount }),
            Opening::Unchanged(fd) => {
                // fchmod(2) and the like on this descriptor: EROFS. By its name the file can be changed.
                let mount = place.mount.read_only_twin();
                Ok(Opened::Host { fd, path: place.path, mount })
            }
        }
    }

    /// `O_TMPFILE`: a file without a name in the file system of this directory.
    fn open_unnamed(&self, dir: Place, mode: u32) -> Result<Opened> {
        dir.writable()?;
        let Node::Inner(parent) = &dir.node else { return Err(Errno::EOPNOTSUPP) };
        let name = alloc::format!(".#{:x}", Arc::as_ptr(parent) as *const () as usize ^ mode as usize);
        let node = self.make(&dir, name.as_bytes(), S_IFREG | (mode & 0o7777), 0, b"")?;
        parent.remove(name.as_bytes(), false)?;
        Ok(Opened::Inner { node: node.clone(), place: Place { node: Node::Inner(node), ..dir.clone() } })
    }

    /// mkdir(2).
    pub fn mkdir(&self, base: &Place, path: &[u8], mode: u32) -> Result<()> {
        let (dir, name) = self.new_name(base, path, true)?;
        match &dir.node {
            Node::Host(fd) => {
                let path = CPath::new(&name)?;
                // SAFETY: the name is one component and a C string.
                unsafe { host!(mkdirat, fd.raw(), path.ptr(), mode & 0o7777 & !self.umask) }?;
                self.hand_over(fd, &name, inherits_group(fd));
                Ok(())
            }
            _ => self.make(&dir, &name, S_IFDIR | (mode & 0o1777 & !self.umask), 0, b"").map(drop),
        }
    }

    /// mknod(2): FIFOs, sockets, regular files; device nodes as far as the host allows.
    pub fn mknod(&self, base: &Place, path: &[u8], mode: u32, rdev: u64) -> Result<()> {
        let mode = if mode & S_IFMT == 0 { mode | S_IFREG } else { mode };
        if mode & S_IFMT == S_IFDIR {
            return Err(Errno::EPERM);
        }
        let (dir, name) = self.new_name(base, path, false)?;
        let mode = mode & (S_IFMT | 0o7777 & !self.umask);
        match &dir.node {
            Node::Host(fd) => {
                let path = CPath::new(&name)?;
                // SAFETY: the name is one component and a C string.
                unsafe { host!(mknodat, fd.raw(), path.ptr(), mode, rdev) }?;
                self.hand_over(fd, &name, inherits_group(fd));
                Ok(())
            }
            _ => self.make(&dir, &name, mode, rdev, b"").map(drop),
        }
    }

    /// symlink(2).
    pub fn symlink(&self, base: &Place, path: &[u8], target: &[u8]) -> Result<()> {
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        let (dir, name) = self.new_name(base, path, false)?;
        match &dir.node {
            Node::Host(fd) => {
                let (path, target) = (CPath::new(&name)?, CPath::new(target)?);
                // SAFETY: both are C strings; the text of a link is not resolved here.
                unsafe { host!(symlinkat, target.ptr(), fd.raw(), path.ptr()) }?;
                self.hand_over(fd, &name, inherits_group(fd));
                Ok(())
            }
            _ => self.make(&dir, &name, S_IFLNK | 0o777, 0, target).map(drop),
        }
    }

    /// unlink(2), or rmdir(2) if `directory`.
    pub fn remove(&self, base: &Place, path: &[u8], directory: bool) -> Result<()> {
        let mut walker = Walker::new(self, base, path)?;
        let name = match walker.walk_to_last()? {
            Last::Name(name) => name,
            // rmdir(2) ERRORS; unlink(2) of a directory.
            Last::Dot if directory => return Err(Errno::EINVAL),
            Last::DotDot if directory => return Err(Errno::ENOTEMPTY),
            Last::Root if directory => return Err(Errno::EBUSY),
            _ => return Err(Errno::EISDIR),
        };
        let dir = &walker.dir;
        if self.tree.at(&join(&dir.path, &name)).is_some() {
            return Err(Errno::EBUSY);
        }
        if !directory && walker.must_be_dir {
            let Child::Place(place) = walker.child(&name, false)? else { return Err(Errno::ENOTDIR) };
            return Err(if is_directory(&place)? { Errno::EISDIR } else { Errno::ENOTDIR });
        }
        match &dir.node {
            Node::Host(fd) => {
                let exists = || fd.stat_at(&name).map(drop);
                dir.writable().or_else(|error| exists().and(Err(error)))?;
                let (name, flags) = (CPath::new(&name)?, if directory { 0x200 } else { 0 });
                // SAFETY: the name is one component and a C string. 0x200 is AT_REMOVEDIR.
                unsafe { host!(unlinkat, fd.raw(), name.ptr(), flags) }.map(drop)
            }
            Node::Inner(parent) => {
                let stat = parent.lookup(&name)?.stat();
                dir.writable()?;
                self.may_remove(&parent.stat(), &stat)?;
                parent.remove(&name, directory)
            }
            Node::Object(_) => Err(Errno::ENOTDIR),
        }
    }

    /// linkat(2).
    pub fn link(&self, from: (&Place, &[u8]), to: (&Place, &[u8]), follow: bool) -> Result<()> {
        let mut walker = Walker::new(self, from.0, from.1)?;
        let (old, old_name) = loop {
            let last = walker.walk_to_last()?;
            let Last::Name(name) = last else { break (walker.special(&last)?, Vec::new()) };
            match walker.child(&name, follow)? {
                Child::Link(target) => walker.follow(&target)?,
                Child::Place(place) => break (place, name),
            }
        };
        self.link_place(&old, Some((&walker.dir, &old_name)), to)
    }

    /// linkat(2) with the old file at hand; `spot` is the directory and name where it was found.
    pub fn link_place(&self, old: &Place, spot: Option<(&Place, &[u8])>, to: (&Place, &[u8])) -> Result<()> {
        let (dir, name) = self.new_name(to.0, to.1, false)?;
        if !Arc::ptr_eq(&old.mount, &dir.mount) {
            return Err(Errno::EXDEV);
        }
        if is_directory(old)? {
            return Err(Errno::EPERM);
        }
        match (&old.node, &dir.node) {
            (Node::Host(file), Node::Host(fd)) => {
                let name = CPath::new(&name)?;
                let spot = spot.and_then(|(dir, name)| match &dir.node {
                    Node::Host(fd) if !name.is_empty() => Some((fd.raw(), name)),
                    _ => None,
                });
                let (from, from_name, flags) = match spot {
                    Some((from, name)) => (from, CPath::new(name)?, 0),
                    None => (file.raw(), CPath::new(b"")?, AT_EMPTY_PATH),
                };
                // SAFETY: names are single components and C strings; links are not followed.
                unsafe { host!(linkat, from, from_name.ptr(), fd.raw(), name.ptr(), flags) }.map(drop)
            }
            (Node::Inner(node), Node::Inner(parent)) => {
                self.permit(&parent.stat(), 3)?;
                parent.link(&name, node)
            }
            _ => Err(Errno::EXDEV),
        }
    }

    /// renameat2(2).
    pub fn rename(&self, from: (&Place, &[u8]), to: (&Place, &[u8]), flags: u32) -> Result<()> {
        let exchange = flags & RENAME_EXCHANGE != 0;
        if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE) != 0 || (exchange && flags & RENAME_NOREPLACE != 0) {
            return Err(Errno::EINVAL);
        }
        let (old_dir, old, old_slash) = self.spot(from)?;
        let (new_dir, new, new_slash) = self.spot(to)?;
        let (Some(old), Some(new)) = (old, new) else {
            return Err(if flags & RENAME_NOREPLACE != 0 { Errno::EEXIST } else { Errno::EBUSY });
        };
        let (old_path, new_path) = (join(&old_dir.path, &old), join(&new_dir.path, &new));
        let mounted = |path: &[u8]| self.tree.mounts().iter().any(|mount| below(&mount.at, path).is_some());
        if !Arc::ptr_eq(&old_dir.mount, &new_dir.mount) {
            return Err(Errno::EXDEV);
        }
        old_dir.writable()?;
        if mounted(&old_path) || mounted(&new_path) {
            return Err(Errno::EBUSY);
        }
        match (&old_dir.node, &new_dir.node) {
            (Node::Host(from), Node::Host(to)) => {
                let slash = |name: &mut Vec<u8>, slash: bool| {
                    if slash {
                        name.push(b'/')
                    }
                };
                let (mut old, mut new) = (old, new);
                slash(&mut old, old_slash);
                slash(&mut new, new_slash);
                let (old, new) = (CPath::new(&old)?, CPath::new(&new)?);
                // SAFETY: names are single components and C strings; rename follows no link.
                unsafe { host!(renameat2, from.raw(), old.ptr(), to.raw(), new.ptr(), flags) }.map(drop)
            }
            (Node::Inner(from), Node::Inner(to)) => {
                // The order of the checks is the kernel's (fs/namei.c, do_renameat2).
                let moved = from.lookup(&old)?.stat();
                let replaced = to.lookup(&new).ok();
                match &replaced {
                    Some(_) if flags & RENAME_NOREPLACE != 0 => return Err(Errno::EEXIST),
                    None if exchange => return Err(Errno::ENOENT),
                    _ => {}
                }
                if (old_slash || new_slash) && !moved.is(S_IFDIR) {
                    return Err(Errno::ENOTDIR);
                }
                // A directory cannot become its own descendant, nor replace its own ancestor.
                if old_path != new_path && moved.is(S_IFDIR) && below(&new_path, &old_path).is_some() {
                    return Err(Errno::EINVAL);
                }
                if old_path != new_path && below(&old_path, &new_path).is_some() {
                    return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
                }
                self.may_remove(&from.stat(), &moved)?;
                match replaced {
                    Some(replaced) => self.may_remove(&to.stat(), &replaced.stat())?,
                    None => self.permit(&to.stat(), 3)?,
                }
                from.rename(&old, to, &new, flags)
            }
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The directory and the last name of a path, nothing followed there; and whether it ends in `/`.
    fn spot(&self, (base, path): (&Place, &[u8])) -> Result<(Place, Option<Vec<u8>>, bool)> {
        let mut walker = Walker::new(self, base, path)?;
        let name = match walker.walk_to_last()? {
            Last::Name(name) => Some(name),
            _ => None,
        };
        Ok((walker.dir.clone(), name, walker.must_be_dir))
    }

    /// Directory and name for something new; EEXIST if the name is taken in a way seen from here.
    /// A trailing slash is allowed for directories only (ENOENT, as Linux answers).
    pub fn new_name(&self, base: &Place, path: &[u8], directory: bool) -> Result<(Place, Vec<u8>)> {
        let (dir, name, slash) = self.spot((base, path))?;
        let name = name.ok_or(Errno::EEXIST)?;
        if self.tree.at(&join(&dir.path, &name)).is_some() {
            return Err(Errno::EEXIST);
        }
        let exists = || match &dir.node {
            Node::Host(fd) => fd.stat_at(&name).is_ok(),
            Node::Inner(node) => node.lookup(&name).is_ok(),
            Node::Object(_) => false,
        };
        if (slash && !directory) || dir.mount.read_only {
            return Err(match (exists(), slash && !directory) {
                (true, _) => Errno::EEXIST,
                (false, true) => Errno::ENOENT,
                (false, false) => Errno::EROFS,
            });
        }
        Ok((dir, name))
    }

    /// Makes an inner file.
    pub fn make(
        &self,
        dir: &Place,
        name: &[u8],
        mode: u32,
        rdev: u64,
        target: &[u8],
    ) -> Result<Arc<dyn Vnode>> {
        let Node::Inner(parent) = &dir.node else { return Err(Errno::ENOTDIR) };
        let stat = parent.stat();
        if !stat.is(S_IFDIR) {
            return Err(Errno::ENOTDIR);
        }
        self.permit(&stat, 1)?;
        if parent.lookup(name).is_ok() {
            return Err(Errno::EEXIST);
        }
        self.permit(&stat, 2)?;
        // A set-group-ID directory hands its group on (inode(7)).
        let inherits = stat.mode & 0o2000 != 0;
        let gid = if inherits { stat.gid } else { self.cred.gid };
        let mode = if inherits && mode & S_IFMT == S_IFDIR { mode | 0o2000 } else { mode };
        parent.create(name, New { mode, uid: self.cred.uid, gid, rdev, target })
    }

    /// The text of a symbolic link.
    pub fn readlink(&self, place: &Place) -> Result<Vec<u8>> {
        match &place.node {
            // readlinkat(2) with an empty name answers ENOENT for what is not a link.
            Node::Host(fd) => {
                fd.readlink(b"").map_err(|e| if e == Errno::ENOENT { Errno::EINVAL } else { e })
            }
            Node::Inner(node) => node.readlink(),
            Node::Object(_) => Err(Errno::EINVAL),
        }
    }

    /// access(2): `want` as R_OK 4, W_OK 2, X_OK 1. `effective` asks for the effective ids.
    pub fn access(&self, place: &Place, want: u32, effective: bool) -> Result<()> {
        if want & 2 != 0 {
            place.writable()?;
        }
        match &place.node {
            Node::Host(fd) => {
                let flags = AT_EMPTY_PATH | if effective { 0x200 } else { 0 };
                // SAFETY: the name is a C string. 0x200 is AT_EACCESS.
                unsafe { host!(faccessat2, fd.raw(), c"".as_ptr(), want, flags) }.map(drop)
            }
            Node::Inner(node) => self.permit(&node.stat(), want),
            Node::Object(_) => Ok(()),
        }
    }

    /// chmod(2).
    pub fn chmod(&self, place: &Place, mode: u32) -> Result<()> {
        place.writable()?;
        match &place.node {
            Node::Host(fd) => {
                let path = proc_path(fd)?;
                // SAFETY: the path is a C string; it names the very file of the descriptor, which
                // chmod cannot take with O_PATH (open(2); fchmodat2 is newer than Debian 12).
                unsafe { host!(fchmodat, AT_FDCWD, path.ptr(), mode & 0o7777) }.map(drop)
            }
            Node::Inner(node) => self.owned(node)?.set_mode(mode & 0o7777),
            Node::Object(_) => Err(Errno::ENOTSUP),
        }
    }

    /// chown(2); `None` keeps.
    pub fn chown(&self, place: &Place, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        place.writable()?;
        match &place.node {
            Node::Host(fd) => {
                let (uid, gid) = (uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX));
                // SAFETY: the name is a C string.
                unsafe { host!(fchownat, fd.raw(), c"".as_ptr(), uid, gid, AT_EMPTY_PATH) }.map(drop)
            }
            Node::Inner(node) => {
                let stat = node.stat();
                let keeps_uid = uid.is_none_or(|uid| uid == stat.uid);
                let own_group = gid.is_none_or(|gid| {
                    gid == stat.gid || gid == self.cred.gid || self.cred.groups.contains(&gid)
                });
                if self.cred.uid != 0 && !(self.cred.owns(&stat) && keeps_uid && own_group) {
                    return Err(Errno::EPERM);
                }
                node.set_owner(uid, gid)
            }
            Node::Object(_) => Err(Errno::ENOTSUP),
        }
    }

    /// utimensat(2).
    pub fn set_times(&self, place: &Place, atime: NewTime, mtime: NewTime) -> Result<()> {
        place.writable()?;
        match &place.node {
            Node::Host(fd) => {
                let times = [raw_time(atime), raw_time(mtime)];
                // SAFETY: the name is a C string, the times are two timespecs of ours.
                unsafe { host!(utimensat, fd.raw(), c"".as_ptr(), times.as_ptr(), AT_EMPTY_PATH) }.map(drop)
            }
            Node::Inner(node) => {
                let stat = node.stat();
                let now = (NewTime::Now, NewTime::Now) == (atime, mtime);
                if !(self.cred.owns(&stat) || now && self.cred.permits(&stat, 2)) {
                    return Err(if now { Errno::EACCES } else { Errno::EPERM });
                }
                node.set_times(atime, mtime)
            }
            Node::Object(_) => Err(Errno::ENOTSUP),
        }
    }

    /// statfs(2).
    pub fn statfs(&self, place: &Place) -> Result<StatFs> {
        const ST_RDONLY: i64 = 1;
        let mut stat = match &place.node {
            Node::Host(fd) => fd.statfs()?,
            Node::Inner(node) => node.statfs(),
            Node::Object(_) => return Err(Errno::ENOTSUP),
        };
        if place.mount.read_only {
            stat.flags |= ST_RDONLY;
        }
        Ok(stat)
    }

    /// The path of a place as this process sees it; `None` if it lies outside its root (getcwd(2)).
    pub fn name_of<'a>(&self, path: &'a [u8]) -> Option<&'a [u8]> {
        if &*self.root.path == b"/" {
            return Some(path);
        }
        let rest = below(path, &self.root.path)?;
        Some(if rest.is_empty() { b"/" } else { &path[self.root.path.len()..] })
    }

    /// A directory for chdir(2) and chroot(2): ENOTDIR, or EACCES without the right to search it.
    pub fn directory(&self, base: &Place, path: &[u8]) -> Result<Place> {
        let place = self.locate(base, path, true)?;
        self.enterable(&place)?;
        Ok(place)
    }

    /// Whether a place can become a working directory.
    pub fn enterable(&self, place: &Place) -> Result<()> {
        if !is_directory(place)? { Err(Errno::ENOTDIR) } else { self.access(place, 1, true) }
    }

    fn permit(&self, stat: &Stat, want: u32) -> Result<()> {
        if self.cred.permits(stat, want) { Ok(()) } else { Err(Errno::EACCES) }
    }

    fn owned<'a>(&self, node: &'a Arc<dyn Vnode>) -> Result<&'a Arc<dyn Vnode>> {
        if self.cred.owns(&node.stat()) { Ok(node) } else { Err(Errno::EPERM) }
    }

    /// Removing a name: write and search in the directory, and its sticky bit (inode(7)).
    fn may_remove(&self, dir: &Stat, file: &Stat) -> Result<()> {
        self.permit(dir, 3)?;
        let sticky = dir.mode & 0o1000 != 0;
        if sticky && !self.cred.owns(file) && !self.cred.owns(dir) { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn may_write(&self, place: &Place, flags: u32) -> Result<()> {
        if wants_write(flags & !O_CREAT) { place.writable() } else { Ok(()) }
    }
}

/// Whether opening so changes the file or its directory.
/// A set-group-ID directory hands its group on (inode(7)); the host has done so.
fn inherits_group(dir: &HostFd) -> bool {
    dir.stat().is_ok_and(|stat| stat.mode & 0o2000 != 0)
}

fn wants_write(flags: u32) -> bool {
    flags & O_ACCMODE != 0 || flags & (O_CREAT | O_TRUNC | O_TMPFILE_BIT) != 0
}

/// Opens what an `O_PATH` descriptor stands for. A directory opens as its own `.`; other files go
/// through the host's /proc.
pub fn reopen(fd: &HostFd, flags: u32, mode: u32) -> Result<HostFd> {
    if fd.stat()?.is(S_IFDIR) {
        return fd.open_beneath(b"", flags & !O_NOFOLLOW, mode);
    }
    if flags & O_DIRECTORY != 0 {
        return Err(Errno::ENOTDIR);
    }
    let path = proc_path(fd)?;
    let flags = (flags & !(O_NOFOLLOW | O_CREAT)) | O_CLOEXEC;
    // SAFETY: the path is a C string.
    HostFd::opened(|| unsafe { host!(openat, AT_FDCWD, path.ptr(), flags, mode) })
}

/// A path of the host that names the file of a descriptor.
pub fn proc_path(fd: &HostFd) -> Result<CPath> {
    CPath::new(alloc::format!("/proc/self/fd/{}", fd.raw()).as_bytes())
}

fn raw_time(time: NewTime) -> Timespec {
    const UTIME_NOW: i64 = 0x3fff_ffff;
    const UTIME_OMIT: i64 = 0x3fff_fffe;
    match time {
        NewTime::Keep => Timespec { sec: 0, nsec: UTIME_OMIT },
        NewTime::Now => Timespec { sec: 0, nsec: UTIME_NOW },
        NewTime::At(at) => at,
    }
}
