//! Whole directories and file states for glob, fts and nftw, straight from the personality.

use crate::kcall;
use crate::types::*;
use alloc::vec::Vec;
use platform::Errno;

/// One name in a directory.
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) inode: u64,
    /// `DT_*`; 0 if unknown.
    pub(crate) kind: u8,
}

/// `struct stat`, 144 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Stat {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) links: u64,
    pub(crate) mode: u32,
    rest: [u32; 29],
}

impl Stat {
    pub(crate) const ZERO: Stat = Stat { device: 0, inode: 0, links: 0, mode: 0, rest: [0; 29] };
    pub(crate) fn kind(&self) -> u32 {
        self.mode & 0o170000
    }
    pub(crate) fn is_directory(&self) -> bool {
        self.kind() == 0o040000
    }
}

const AT_FDCWD: isize = -100;

fn terminated(path: &[u8]) -> Vec<u8> {
    let mut name = path.to_vec();
    name.push(0);
    name
}

/// stat(2), or lstat(2) if links are not followed.
pub(crate) fn stat(path: &[u8], follow: bool) -> Result<Stat, Errno> {
    const AT_SYMLINK_NOFOLLOW: usize = 0x100;
    let (name, mut stat) = (terminated(path), Stat::ZERO);
    let flags = if follow { 0 } else { AT_SYMLINK_NOFOLLOW };
    // SAFETY: a C string in, a stat buffer out.
    unsafe { kcall!(newfstatat, AT_FDCWD, name.as_ptr(), &raw mut stat, flags)? };
    Ok(stat)
}

/// All entries, `.` and `..` included.
pub(crate) fn read(path: &[u8]) -> Result<Vec<Entry>, Errno> {
    const FLAGS: c_int = 0o200000 | 0o2000000 | 0o4000;
    let name = terminated(if path.is_empty() { b"." } else { path });
    let mut entries = Vec::new();
    let mut buffer = alloc::vec![0u64; 4096];
    // SAFETY: the buffer outlives the call that fills it; the descriptor is ours to close.
    unsafe {
        let fd = kcall!(openat, AT_FDCWD, name.as_ptr(), FLAGS)?;
        let result = loop {
            match kcall!(getdents64, fd, buffer.as_mut_ptr(), buffer.len() * 8) {
                Ok(0) => break Ok(()),
                Ok(size) => {
                    let bytes = core::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), size);
                    collect(bytes, &mut entries);
                }
                Err(errno) => break Err(errno),
            }
        };
        let _ = kcall!(close, fd);
        result.map(|()| entries)
    }
}

/// `struct linux_dirent64`: d_ino 8, d_off 8, d_reclen 2, d_type 1, d_name.
fn collect(mut bytes: &[u8], entries: &mut Vec<Entry>) {
    while bytes.len() > 19 {
        let length = u16::from_ne_bytes([bytes[16], bytes[17]]) as usize;
        if length < 20 || length > bytes.len() {
            return;
        }
        let inode = u64::from_ne_bytes(bytes[..8].try_into().unwrap_or_default());
        let name = &bytes[19..length];
        let end = name.iter().position(|&c| c == 0).unwrap_or(name.len());
        entries.push(Entry { name: name[..end].to_vec(), inode, kind: bytes[18] });
        bytes = &bytes[length..];
    }
}
