//! Open files of the tree: directories, files of inner file systems, bare paths (O_PATH).

use crate::context::Ctx;
use crate::file::{File, O_APPEND, OpenFile, Sink, Source, Stat};
use crate::host_file::HostFile;
use crate::stay::Stay;
use crate::{Errno, Result};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use fs::attr::{S_IFDIR, S_IFIFO, S_IFMT, S_IFREG};
use fs::vnode::Entry;
use fs::{HostFd, Node, Opened, Place, Vnode};
use platform::host;
use platform::sync::Lock;

/// `O_PATH`
const O_PATH: u32 = 0o10000000;
/// What of open(2)'s flags stays with the description (F_GETFL).
const STATUS: u32 =
    0o3 | O_APPEND | 0o4000 | 0o10000 | 0o20000 | 0o40000 | 0o100000 | 0o1000000 | 0o4010000 | O_PATH;
/// The most that an inner file moves in one step through the kernel's own memory.
const BOUNCE: usize = 64 * 1024;

/// The open file for what the tree opened. `flags` are open(2)'s.
pub fn open_file(ctx: &Ctx, opened: Opened, flags: u32) -> Result<Arc<OpenFile>> {
    let status = (flags & STATUS) | 0o100000;
    match opened {
        Opened::Host { fd, path, mount } => {
            let stat = fd.stat()?;
            if stat.mode & S_IFMT == S_IFDIR {
                let place = Place { mount, path, node: Node::Host(Arc::new(fd)) };
                return Ok(Arc::new(OpenFile::new(Dir::new(place), status)));
            }
            Ok(Arc::new(OpenFile::new(HostFile::new(fd, path, Some(mount), &stat), status)))
        }
        Opened::Inner { node, place } => {
            let stat = node.stat();
            if stat.is(S_IFDIR) {
                return Ok(Arc::new(OpenFile::new(Dir::new(place), status)));
            }
            if stat.is(S_IFIFO) {
                let end = crate::fifo::open_inner(ctx, node, place.path, flags)?;
                return Ok(Arc::new(OpenFile::new(end, status)));
            }
            if let Some(terminal) = crate::tty::open_device(ctx, &stat, flags) {
                return terminal;
            }
            Ok(Arc::new(OpenFile::new(InnerFile::new(node, place), status)))
        }
        Opened::Path(place) => Ok(Arc::new(OpenFile::new(PathFile { place }, flags & (STATUS & !0o3)))),
        Opened::Object(object) => {
            let open: Arc<OpenFile> = object.downcast().map_err(|_| Errno::ENXIO)?;
            open_again(ctx, &open, flags)
        }
    }
}

/// open(2) of /proc/PID/fd/N: a new description of the same file, where there can be one (proc(5)).
fn open_again(ctx: &Ctx, open: &Arc<OpenFile>, flags: u32) -> Result<Arc<OpenFile>> {
    let status = (flags & STATUS) | 0o100000;
    if let Some(file) = open.downcast::<HostFile>() {
        let fd = fs::view::reopen(&file.fd, flags | 0o400 | if file.is_regular() { 0 } else { 0o4000 }, 0)?;
        let stat = fd.stat()?;
        return Ok(Arc::new(OpenFile::new(
            HostFile::new(fd, file.path.clone(), file.mount.clone(), &stat),
            status,
        )));
    }
    if let Some(file) = open.downcast::<InnerFile>() {
        let again = InnerFile::new(file.node.clone(), file.place.clone());
        if flags & 0o1000 != 0 && file.node.stat().is(S_IFREG) {
            file.node.truncate(0)?;
        }
        return Ok(Arc::new(OpenFile::new(again, status)));
    }
    if let Some(slave) = open.downcast::<crate::tty::pty::Slave>() {
        return slave.open_again(ctx, flags);
    }
    if let Some(end) = open.downcast::<crate::pipe::End>() {
        if let Some((node, path)) = end.fifo() {
            let end = crate::fifo::open_inner(ctx, node, path, flags)?;
            return Ok(Arc::new(OpenFile::new(end, status)));
        }
        return end.open_again(flags).map(|end| Arc::new(OpenFile::new(end, status)));
    }
    // open(2), ENXIO: the file is a socket; and anonymous files have nothing to open.
    Err(Errno::ENXIO)
}

/// The place of an open file that has one.
pub fn place_of(open: &OpenFile) -> Option<Place> {
    if let Some(dir) = open.downcast::<Dir>() {
        return Some(dir.place.clone());
    }
    if let Some(path) = open.downcast::<PathFile>() {
        return Some(path.place.clone());
    }
    if let Some(file) = open.downcast::<InnerFile>() {
        return Some(file.place.clone());
    }
    let file = open.downcast::<HostFile>()?;
    let mount = file.mount.clone()?;
    Some(Place { mount, path: file.path.clone(), node: Node::Host(file.fd.clone()) })
}

/// A path of the guest as text for /proc and the trace.
fn write_path(path: &[u8], f: &mut dyn core::fmt::Write) -> core::fmt::Result {
    f.write_str(&String::from_utf8_lossy(path))
}

/// A file of an inner file system.
pub struct InnerFile {
    /// The bytes.
    pub node: Arc<dyn Vnode>,
    /// Where it lies.
    pub place: Place,
    locks: Lock<Option<Arc<HostFd>>>,
}

impl InnerFile {
    fn new(node: Arc<dyn Vnode>, place: Place) -> InnerFile {
        InnerFile { node, place, locks: Lock::new(None) }
    }

    /// A host description of this open file's own, for locks that belong to descriptions.
    pub fn lock_fd(&self, stay: &Stay) -> Result<Arc<HostFd>> {
        if let Some(fd) = &*self.locks.lock() {
            return Ok(fd.clone());
        }
        const O_RDWR: u32 = 2;
        let bytes = self.node.host().map_err(|_| Errno::EINVAL)?;
        let fd = Arc::new(stay.holding_count(&bytes, || fs::view::reopen(&bytes, O_RDWR, 0))?);
        // The description may be other processes' too.
        fd.keep();
        Ok(self.locks.lock().get_or_insert(fd).clone())
    }
}

impl File for InnerFile {
    fn read(&self, _open: &OpenFile, at: &mut u64, into: &mut dyn Sink) -> Result {
        let mut buffer = bounce(into.remaining())?;
        let mut done = 0;
        while into.remaining() > 0 {
            let len = into.remaining().min(buffer.len());
            let got = match self.node.read_at(*at, &mut buffer[..len]) {
                Ok(got) => got,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            let put = match into.put(&buffer[..got]) {
                Ok(put) => put,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            *at += put as u64;
            done += put;
            if put < len {
                break;
            }
        }
        Ok(done)
    }

    fn write(&self, open: &OpenFile, at: &mut u64, from: &mut dyn Source) -> Result {
        let append = open.flags.load(core::sync::atomic::Ordering::Relaxed) & O_APPEND != 0;
        let mut buffer = bounce(from.remaining())?;
        let mut done = 0;
        while from.remaining() > 0 {
            let len = match from.take(&mut buffer) {
                Ok(len) => len,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            let written = if append {
                self.node.append(&buffer[..len])
            } else {
                self.node.write_at(*at, &buffer[..len]).map(|count| (count, *at + count as u64))
            };
            match written {
                Ok((count, end)) => {
                    *at = end;
                    done += count;
                    if count < len {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn seekable(&self) -> bool {
        self.node.seekable()
    }
    fn size(&self) -> Result<u64> {
        Ok(self.node.stat().size as u64)
    }
    fn stat(&self, out: &mut Stat) -> Result<()> {
        *out = self.node.stat();
        Ok(())
    }
    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        write_path(&self.place.path, f)
    }
}

fn bounce(len: usize) -> Result<Vec<u8>> {
    let len = len.min(BOUNCE);
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    buffer.resize(len, 0);
    Ok(buffer)
}

/// What O_PATH opened: a place, and nothing that reads or writes.
pub struct PathFile {
    /// The place.
    pub place: Place,
}

impl File for PathFile {
    fn read(&self, _open: &OpenFile, _at: &mut u64, _into: &mut dyn Sink) -> Result {
        Err(Errno::EBADF)
    }
    fn write(&self, _open: &OpenFile, _at: &mut u64, _from: &mut dyn Source) -> Result {
        Err(Errno::EBADF)
    }
    fn ioctl(&self, _open: &OpenFile, _command: u32, _argument: usize) -> Result {
        Err(Errno::EBADF)
    }
    fn stat(&self, out: &mut Stat) -> Result<()> {
        *out = crate::stat::of_place(&self.place)?;
        Ok(())
    }
    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        write_path(&self.place.path, f)
    }
}

/// An open directory.
pub struct Dir {
    /// Where it lies; a host directory's descriptor is readable here.
    pub place: Place,
    listing: Lock<Listing>,
}

#[derive(Default)]
struct Listing {
    /// All entries of an inner directory, taken when reading begins.
    entries: Option<Vec<Entry>>,
    next: usize,
    /// Names of mounts that the host does not list; begun after the host's own end.
    extra: Option<Vec<Vec<u8>>>,
}

/// Offset of the name in `struct linux_dirent64`.
const HEADER: usize = 19;

impl Dir {
    fn new(place: Place) -> Dir {
        Dir { place, listing: Lock::default() }
    }

    /// The next entries as `struct linux_dirent64`, at most `room` bytes; nothing at the end.
    /// EINVAL if there is room for none. `mounts` names what is mounted in this directory.
    pub fn entries(&self, room: usize, mounts: impl FnOnce(&[u8]) -> Vec<Vec<u8>>) -> Result<Vec<u8>> {
        match &self.place.node {
            Node::Host(fd) => self.host_entries(fd, room, mounts),
            Node::Inner(node) => self.inner_entries(node, room, mounts),
            Node::Object(_) => Err(Errno::ENOTDIR),
        }
    }

    fn host_entries(
        &self,
        fd: &HostFd,
        room: usize,
        mounts: impl FnOnce(&[u8]) -> Vec<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let mut bytes = bounce(room)?;
        // SAFETY: the buffer is ours.
        let len = unsafe { host!(getdents64, fd.raw(), bytes.as_mut_ptr(), bytes.len()) }?;
        bytes.truncate(len);
        if len > 0 {
            return Ok(bytes);
        }
        let mut listing = self.listing.lock();
        let extra = listing.extra.get_or_insert_with(|| {
            let unlisted = |name: &Vec<u8>| fd.stat_at(name).is_err();
            mounts(&self.place.path).into_iter().filter(unlisted).collect()
        });
        while let Some(name) = extra.last() {
            let entry = Entry { name: name.clone(), ino: 1, kind: 4 };
            if !put_entry(&mut bytes, room, &entry, i64::MAX) {
                break;
            }
            extra.pop();
        }
        Ok(bytes)
    }

    fn inner_entries(
        &self,
        node: &Arc<dyn Vnode>,
        room: usize,
        mounts: impl FnOnce(&[u8]) -> Vec<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let mut listing = self.listing.lock();
        if listing.entries.is_none() {
            let ino = node.stat().ino;
            let dots = [&b"."[..], b".."].map(|name| Entry { name: name.to_vec(), ino, kind: 4 });
            let mut entries = Vec::from(dots);
            entries.extend(node.list()?);
            for name in mounts(&self.place.path) {
                if !entries.iter().any(|entry| entry.name == name) {
                    entries.push(Entry { name, ino: 1, kind: 4 });
                }
            }
            listing.entries = Some(entries);
        }
        let mut bytes = Vec::new();
        let mut next = listing.next;
        let entries = listing.entries.as_deref().unwrap_or_default();
        while let Some(entry) = entries.get(next) {
            if !put_entry(&mut bytes, room, entry, next as i64 + 1) {
                if bytes.is_empty() {
                    return Err(Errno::EINVAL);
                }
                break;
            }
            next += 1;
        }
        listing.next = next;
        Ok(bytes)
    }

    /// lseek(2) on a directory: back to the start (rewinddir), or to a `d_off`.
    pub fn seek(&self, offset: i64, whence: i32) -> Result {
        let mut listing = self.listing.lock();
        listing.extra = None;
        if let Node::Host(fd) = &self.place.node {
            // SAFETY: plain numbers.
            return unsafe { host!(lseek, fd.raw(), offset, whence) };
        }
        let to = match whence {
            0 => offset,
            1 => listing.next as i64 + offset,
            _ => return Err(Errno::EINVAL),
        };
        listing.next = usize::try_from(to).map_err(|_| Errno::EINVAL)?;
        if to == 0 {
            listing.entries = None;
        }
        Ok(to as usize)
    }
}

/// Appends one `struct linux_dirent64`; `false` if it does not fit.
fn put_entry(bytes: &mut Vec<u8>, room: usize, entry: &Entry, next: i64) -> bool {
    let len = (HEADER + entry.name.len() + 1).next_multiple_of(8);
    if bytes.len() + len > room {
        return false;
    }
    let start = bytes.len();
    bytes.extend_from_slice(&entry.ino.to_ne_bytes());
    bytes.extend_from_slice(&next.to_ne_bytes());
    bytes.extend_from_slice(&(len as u16).to_ne_bytes());
    bytes.push(entry.kind);
    bytes.extend_from_slice(&entry.name);
    bytes.resize(start + len, 0);
    true
}

impl File for Dir {
    fn read(&self, _open: &OpenFile, _at: &mut u64, _into: &mut dyn Sink) -> Result {
        Err(Errno::EISDIR)
    }
    fn write(&self, _open: &OpenFile, _at: &mut u64, _from: &mut dyn Source) -> Result {
        Err(Errno::EBADF)
    }
    fn seekable(&self) -> bool {
        true
    }
    fn stat(&self, out: &mut Stat) -> Result<()> {
        *out = self.place.stat()?;
        Ok(())
    }
    fn host_fd(&self) -> Option<i32> {
        match &self.place.node {
            Node::Host(fd) => Some(fd.raw()),
            _ => None,
        }
    }
    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        write_path(&self.place.path, f)
    }
}
