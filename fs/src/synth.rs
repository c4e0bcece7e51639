//! Files that are made up when they are looked at: the stuff of /dev, /proc and /sys.
//!
//! A [`Dir`] asks its closures for names and children; a [`Text`] is rendered whole when it is
//! opened, so a reader sees one state however it reads.

use crate::attr::{S_IFDIR, S_IFLNK, S_IFREG, Stat, StatFs, dirent_type, wall_clock};
use crate::mount::Place;
use crate::vnode::{Entry, Opening, Vnode};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::errno::{Errno, Result};

/// What all files of one made-up file system have in common.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Device number.
    pub dev: u64,
    /// statfs(2)'s type.
    pub magic: i64,
}

impl Kind {
    /// stat(2) of a file of this kind. Its number comes from what it is, so it stays the same.
    pub fn stat(self, mode: u32, identity: &[u8]) -> Stat {
        let mut stat = Stat {
            dev: self.dev,
            ino: number(identity),
            nlink: if mode & crate::attr::S_IFMT == S_IFDIR { 2 } else { 1 },
            mode,
            blksize: 1024,
            ..Stat::default()
        };
        stat.set_times(wall_clock());
        stat
    }

    /// statfs(2).
    pub fn statfs(self) -> StatFs {
        StatFs { kind: self.magic, bsize: 4096, frsize: 4096, namelen: 255, ..StatFs::default() }
    }
}

/// FNV-1a, 48 bits of it: an inode number for a path.
fn number(identity: &[u8]) -> u64 {
    let hash = identity
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    (hash & 0xffff_ffff_ffff) | 1
}

type LookUp = dyn Fn(&[u8]) -> Result<Arc<dyn Vnode>> + Send + Sync;
type Names = dyn Fn() -> Result<Vec<(Vec<u8>, u32)>> + Send + Sync;

/// A directory.
pub struct Dir {
    kind: Kind,
    stat: Stat,
    lookup: Box<LookUp>,
    names: Box<Names>,
}

impl Dir {
    /// A directory whose children come from `lookup` and are listed by `names` (with their modes).
    pub fn node(
        kind: Kind,
        stat: Stat,
        lookup: impl Fn(&[u8]) -> Result<Arc<dyn Vnode>> + Send + Sync + 'static,
        names: impl Fn() -> Result<Vec<(Vec<u8>, u32)>> + Send + Sync + 'static,
    ) -> Arc<dyn Vnode> {
        Arc::new(Dir { kind, stat, lookup: Box::new(lookup), names: Box::new(names) })
    }

    /// A directory with these children for ever.
    pub fn fixed(
        kind: Kind,
        identity: &[u8],
        children: Vec<(&'static [u8], Arc<dyn Vnode>)>,
    ) -> Arc<dyn Vnode> {
        let children: Arc<[_]> = children.into();
        let listed = children.clone();
        Dir::node(
            kind,
            kind.stat(S_IFDIR | 0o555, identity),
            move |name| {
                let found = children.iter().find(|(child, _)| *child == name);
                found.map(|(_, node)| node.clone()).ok_or(Errno::ENOENT)
            },
            move || Ok(listed.iter().map(|(name, node)| (name.to_vec(), node.stat().mode)).collect()),
        )
    }
}

impl Vnode for Dir {
    fn stat(&self) -> Stat {
        self.stat
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Vnode>> {
        (self.lookup)(name)
    }
    fn list(&self) -> Result<Vec<Entry>> {
        let entry = |(name, mode): (Vec<u8>, u32)| {
            let mut identity = self.stat.ino.to_le_bytes().to_vec();
            identity.extend_from_slice(&name);
            Entry { ino: number(&identity), name, kind: dirent_type(mode) }
        };
        Ok((self.names)()?.into_iter().map(entry).collect())
    }
    fn open(self: Arc<Self>, _flags: u32) -> Result<Opening> {
        Ok(Opening::Node(self))
    }
    fn statfs(&self) -> StatFs {
        self.kind.statfs()
    }
}

type Render = dyn Fn(&mut Vec<u8>) -> Result<()> + Send + Sync;
type Write = dyn Fn(&[u8]) -> Result<()> + Send + Sync;

/// A file with text.
pub struct Text {
    kind: Kind,
    stat: Stat,
    render: Box<Render>,
    write: Option<Box<Write>>,
}

impl Text {
    /// A file to read.
    pub fn node(
        kind: Kind,
        stat: Stat,
        render: impl Fn(&mut Vec<u8>) -> Result<()> + Send + Sync + 'static,
    ) -> Arc<dyn Vnode> {
        Arc::new(Text { kind, stat, render: Box::new(render), write: None })
    }

    /// A file whose writes go to `write`, each as a whole.
    pub fn writable(
        kind: Kind,
        stat: Stat,
        render: impl Fn(&mut Vec<u8>) -> Result<()> + Send + Sync + 'static,
        write: impl Fn(&[u8]) -> Result<()> + Send + Sync + 'static,
    ) -> Arc<dyn Vnode> {
        Arc::new(Text { kind, stat, render: Box::new(render), write: Some(Box::new(write)) })
    }

    /// A file with this text for ever.
    pub fn fixed(kind: Kind, identity: &[u8], text: impl Into<Vec<u8>>) -> Arc<dyn Vnode> {
        let text = text.into();
        Text::node(kind, kind.stat(S_IFREG | 0o444, identity), move |out| {
            out.extend_from_slice(&text);
            Ok(())
        })
    }

    /// A file that shows a file of the host.
    pub fn of_host(kind: Kind, path: &'static [u8]) -> Arc<dyn Vnode> {
        Text::node(kind, kind.stat(S_IFREG | 0o444, path), move |out| {
            out.extend_from_slice(&crate::host::HostFd::open_host(path, 0, 0)?.read_all()?);
            Ok(())
        })
    }
}

impl Vnode for Text {
    fn stat(&self) -> Stat {
        self.stat
    }
    fn open(self: Arc<Self>, flags: u32) -> Result<Opening> {
        let mut text = Vec::new();
        if flags & crate::host::O_ACCMODE != crate::host::O_WRONLY {
            (self.render)(&mut text)?;
        }
        Ok(Opening::Node(Arc::new(Snapshot { file: self, text })))
    }
    fn truncate(&self, _size: u64) -> Result<()> {
        // What is written replaces: O_TRUNC means nothing more, as in proc(5).
        if self.write.is_some() { Ok(()) } else { Err(Errno::EACCES) }
    }
    fn statfs(&self) -> StatFs {
        self.kind.statfs()
    }
}

/// An open [`Text`].
struct Snapshot {
    file: Arc<Text>,
    text: Vec<u8>,
}

impl Vnode for Snapshot {
    fn stat(&self) -> Stat {
        self.file.stat
    }
    fn open(self: Arc<Self>, flags: u32) -> Result<Opening> {
        self.file.clone().open(flags)
    }
    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<usize> {
        let rest = usize::try_from(at).ok().and_then(|at| self.text.get(at..)).unwrap_or(b"");
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
    fn write_at(&self, _at: u64, from: &[u8]) -> Result<usize> {
        let write = self.file.write.as_ref().ok_or(Errno::EIO)?;
        write(from).map(|()| from.len())
    }
    fn truncate(&self, size: u64) -> Result<()> {
        self.file.truncate(size)
    }
    fn statfs(&self) -> StatFs {
        self.file.kind.statfs()
    }
}

type Target = dyn Fn() -> Result<Vec<u8>> + Send + Sync;
type Follow = dyn Fn() -> Result<Place> + Send + Sync;

/// A symbolic link; a magic one leads to a file that its text need not name (proc(5)).
pub struct Link {
    kind: Kind,
    stat: Stat,
    text: Box<Target>,
    follow: Option<Box<Follow>>,
}

impl Link {
    /// A link with this text.
    pub fn fixed(kind: Kind, text: &'static [u8]) -> Arc<dyn Vnode> {
        Link::node(kind, move || Ok(text.to_vec()))
    }

    /// A link whose text is made when it is read.
    pub fn node(kind: Kind, text: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static) -> Arc<dyn Vnode> {
        let stat = kind.stat(S_IFLNK | 0o777, b"link");
        Arc::new(Link { kind, stat, text: Box::new(text), follow: None })
    }

    /// A magic link.
    pub fn magic(
        kind: Kind,
        stat: Stat,
        text: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static,
        follow: impl Fn() -> Result<Place> + Send + Sync + 'static,
    ) -> Arc<dyn Vnode> {
        Arc::new(Link { kind, stat, text: Box::new(text), follow: Some(Box::new(follow)) })
    }
}

impl Vnode for Link {
    fn stat(&self) -> Stat {
        self.stat
    }
    fn readlink(&self) -> Result<Vec<u8>> {
        (self.text)()
    }
    fn follow(&self) -> Option<Result<Place>> {
        self.follow.as_ref().map(|follow| follow())
    }
    fn open(self: Arc<Self>, _flags: u32) -> Result<Opening> {
        Err(Errno::ELOOP)
    }
    fn statfs(&self) -> StatFs {
        self.kind.statfs()
    }
}
