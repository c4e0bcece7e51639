//! A tmpfs over a host folder: what is not changed is read from there, what is changed is in memory, and
//! the folder stays as it is. This is what a container's writable layer is to its image.
//!
//! A name of the folder becomes a node when it is first looked up, and stays one: renames and removals move
//! or forget nodes, whether or not their bytes are still below. Nodes hold no descriptors, only the path in
//! the folder, which nobody changes meanwhile (roots in the cache are made once and replaced whole).
//!
//! Left out: extended attributes of the folder's files. As with overlayfs, who has a file open for reading
//! does not see what is written to it afterwards, and a hard link inside the folder is two files.

use super::content::{Bytes, Content};
use super::{Body, Common, Directory, RamNode};
use crate::attr::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use crate::host::{HostFd, O_DIRECTORY, O_NOFOLLOW, O_PATH};
use crate::mount::join;
use crate::vnode::{Entry, Vnode};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::errno::{Errno, Result};
use platform::host;
use platform::sync::Lock;

/// A layer over a host folder (an `O_PATH` descriptor is enough); answers its root directory. `dev` is the
/// device number of what is new.
pub fn over(dev: u64, folder: HostFd) -> Result<Arc<dyn Vnode>> {
    let common = Common::new(dev, u64::MAX, Some(folder));
    let root = common.adopt(b"")?;
    if root.is_dir() { Ok(root) } else { Err(Errno::ENOTDIR) }
}

impl Directory {
    /// Where `name` is below, if it may be there.
    pub(super) fn below(&self, name: &[u8]) -> Option<Vec<u8>> {
        let folder = self.lower.as_deref().filter(|_| !self.hidden.contains(name))?;
        Some(if folder.is_empty() { name.to_vec() } else { join(folder, name) })
    }
}

impl Common {
    /// Opens a file of the folder; read-only flags.
    pub(super) fn open_lower(&self, path: &[u8], flags: u32) -> Result<HostFd> {
        self.lower.as_ref().ok_or(Errno::ENOENT)?.open_beneath(path, flags, 0)
    }

    /// A node for what the folder has at `path`.
    pub(super) fn adopt(self: &Arc<Common>, path: &[u8]) -> Result<Arc<RamNode>> {
        let found = self.open_lower(path, O_PATH | O_NOFOLLOW)?;
        let stat = found.stat()?;
        let body = match stat.mode & S_IFMT {
            S_IFDIR => {
                let lower = Some(Box::from(path));
                Body::Directory(Lock::new(Directory { lower, ..Directory::default() }))
            }
            S_IFLNK => Body::Link(found.readlink(b"")?.into()),
            S_IFREG => {
                let (size, blocks) = (stat.size as u64, stat.blocks as u64);
                Body::File(Lock::new(Content {
                    bytes: Bytes::Lower { path: path.into(), size, blocks },
                    charged: 0,
                }))
            }
            _ => Body::Special,
        };
        Ok(RamNode::with(self, stat, body))
    }

    /// The names in a directory of the folder.
    pub(super) fn list_lower(&self, path: &[u8]) -> Result<Vec<Entry>> {
        let directory = self.open_lower(path, O_DIRECTORY)?;
        let mut buffer = alloc::vec![0u8; 32 * 1024];
        let mut entries = Vec::new();
        loop {
            // SAFETY: the buffer is ours.
            let len = unsafe { host!(getdents64, directory.raw(), buffer.as_mut_ptr(), buffer.len()) }?;
            if len == 0 {
                return Ok(entries);
            }
            parse(&buffer[..len], &mut entries);
        }
    }
}

/// Reads `struct linux_dirent64` records (getdents64(2)), without `.` and `..`.
fn parse(mut bytes: &[u8], entries: &mut Vec<Entry>) {
    /// Offsets of the record's length, the type, and the name.
    const LENGTH: usize = 16;
    const TYPE: usize = 18;
    const NAME: usize = 19;
    while let Some(length) = bytes.get(LENGTH..TYPE) {
        let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
        let Some(record) = bytes.get(..length).filter(|record| record.len() > NAME) else { return };
        let name = record[NAME..].split(|&byte| byte == 0).next().unwrap_or_default();
        if name != b"." && name != b".." {
            let ino = record[..8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
            entries.push(Entry { name: name.to_vec(), ino, kind: record[TYPE] });
        }
        bytes = &bytes[length..];
    }
}
