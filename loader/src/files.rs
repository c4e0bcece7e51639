//! Files as the loader needs them, behind one small trait: a guest asks its personality (so that
//! mounts and `--root` hold), `attacca check` and the tests ask the host.

use crate::error::LoadError;
use alloc::vec::Vec;
use platform::Errno;
use platform::sys::number;

/// Linux system calls of some world, and the folder that is `/` in it.
pub trait Files: Sync {
    /// Issues a system call.
    ///
    /// # Safety
    /// As the call: pointers must be valid for it, memory given up must be unused.
    unsafe fn call(&self, number: u32, args: [usize; 6]) -> Result<usize, Errno>;

    /// Descriptor of the folder to take for `/`, or `None` for the world's own root.
    fn root(&self) -> Option<i32> {
        None
    }
}

/// The guest's own files: every call goes to the personality.
pub struct GuestFiles;

impl Files for GuestFiles {
    unsafe fn call(&self, number: u32, args: [usize; 6]) -> Result<usize, Errno> {
        // SAFETY: forwarded to the caller.
        unsafe { libc_abi::kcall::call(number as usize, args) }
    }
}

/// The host's files, whole or below a folder (`attacca check --root`).
#[derive(Default)]
pub struct HostFiles {
    /// An open descriptor of the folder that stands for `/`.
    pub root: Option<i32>,
}

impl Files for HostFiles {
    unsafe fn call(&self, number: u32, args: [usize; 6]) -> Result<usize, Errno> {
        // SAFETY: forwarded to the caller.
        unsafe { platform::sys::syscall(number, args) }
    }

    fn root(&self) -> Option<i32> {
        self.root
    }
}

/// What identifies a file: two paths with one identity are one library.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// An open file; closed when dropped.
pub struct File<'a> {
    files: &'a dyn Files,
    /// The descriptor.
    pub fd: i32,
    /// Which file it is.
    pub identity: Identity,
    /// Its length in bytes.
    pub size: u64,
}

const AT_FDCWD: isize = -100;
const O_CLOEXEC: usize = 0o2000000;
const RESOLVE_IN_ROOT: u64 = 0x10;

impl<'a> File<'a> {
    /// Opens a regular file for reading.
    pub fn open(files: &'a dyn Files, path: &[u8]) -> Result<File<'a>, Errno> {
        let fd = open(files, path)?;
        let mut file = File { files, fd, identity: Identity::default(), size: 0 };
        file.stat()?;
        Ok(file)
    }

    fn stat(&mut self) -> Result<(), Errno> {
        const S_IFMT: u32 = 0o170000;
        const S_IFREG: u32 = 0o100000;
        const S_IFDIR: u32 = 0o040000;
        let mut buffer = [0u64; 18];
        // SAFETY: struct stat of x86-64 has 144 bytes, as the buffer.
        unsafe {
            self.files.call(number::fstat, [self.fd as usize, buffer.as_mut_ptr() as usize, 0, 0, 0, 0])?
        };
        match buffer[3] as u32 & S_IFMT {
            S_IFREG => {}
            S_IFDIR => return Err(Errno::EISDIR),
            _ => return Err(Errno::EACCES),
        }
        self.identity = Identity { device: buffer[0], inode: buffer[1] };
        self.size = buffer[6];
        Ok(())
    }

    /// Reads at `offset` until the buffer is full or the file ends; answers how much there was.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < buffer.len() {
            let rest = &mut buffer[done..];
            let args = [
                self.fd as usize,
                rest.as_mut_ptr() as usize,
                rest.len(),
                (offset + done as u64) as usize,
                0,
                0,
            ];
            // SAFETY: the kernel writes into `rest` only.
            match unsafe { self.files.call(number::pread64, args) } {
                Ok(0) => break,
                Ok(n) => done += n.min(rest.len()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }
}

impl Drop for File<'_> {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours and not used again; mappings of the file stay.
        let _ = unsafe { self.files.call(number::close, [self.fd as usize, 0, 0, 0, 0, 0]) };
    }
}

fn open(files: &dyn Files, path: &[u8]) -> Result<i32, Errno> {
    let path = c_string(path)?;
    // SAFETY: the path and the request end with the call; both are valid for it.
    let fd = unsafe {
        match files.root() {
            None => {
                files.call(number::openat, [AT_FDCWD as usize, path.as_ptr() as usize, O_CLOEXEC, 0, 0, 0])?
            }
            Some(root) => {
                let how = [O_CLOEXEC as u64, 0, RESOLVE_IN_ROOT];
                let args = [root as usize, path.as_ptr() as usize, how.as_ptr() as usize, 24, 0, 0];
                files.call(number::openat2, args)?
            }
        }
    };
    Ok(fd as i32)
}

/// The whole of a small file, at most `limit` bytes.
pub fn read_small(files: &dyn Files, path: &[u8], limit: usize) -> Result<Vec<u8>, Errno> {
    let file = File::open(files, path)?;
    let mut bytes = alloc::vec![0; (file.size as usize).min(limit)];
    let n = file.read_at(0, &mut bytes)?;
    bytes.truncate(n);
    Ok(bytes)
}

/// The path with symbolic links of its last component followed, at most 40 times, made absolute:
/// what `$ORIGIN` of a program is taken from (ld.so reads /proc/self/exe).
pub fn canonical(files: &dyn Files, path: &[u8]) -> Vec<u8> {
    let mut path = absolute(files, path);
    for _ in 0..40 {
        let Some(target) = read_link(files, &path) else { break };
        path = if target.first() == Some(&b'/') { target } else { join(directory(&path), &target) };
    }
    tidy(&path)
}

/// The path with the working directory before it unless it is absolute.
pub fn absolute(files: &dyn Files, path: &[u8]) -> Vec<u8> {
    if path.first() == Some(&b'/') || files.root().is_some() {
        return path.to_vec();
    }
    let mut cwd = [0u8; 4096];
    // SAFETY: the kernel writes at most the buffer's length.
    match unsafe { files.call(number::getcwd, [cwd.as_mut_ptr() as usize, cwd.len(), 0, 0, 0, 0]) } {
        Ok(n) if n >= 1 && n <= cwd.len() => tidy(&join(&cwd[..n - 1], path)),
        _ => path.to_vec(),
    }
}

/// Everything before the last slash; "." without one.
pub fn directory(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|&b| b == b'/') {
        Some(0) => b"/",
        Some(at) => &path[..at],
        None => b".",
    }
}

/// `directory/name`.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Removes `.` components, `..` components with what stands before them, and doubled slashes.
fn tidy(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    let mut out = Vec::with_capacity(path.len());
    for part in parts {
        out.push(b'/');
        out.extend_from_slice(part);
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out
}

fn read_link(files: &dyn Files, path: &[u8]) -> Option<Vec<u8>> {
    let path = c_string(path).ok()?;
    let mut target = alloc::vec![0u8; 4096];
    let at = files.root().map_or(AT_FDCWD, |fd| fd as isize) as usize;
    // An absolute path ignores `at`, so below a root the leading slashes go.
    let start = if files.root().is_some() { path.iter().take_while(|&&b| b == b'/').count() } else { 0 };
    let args = [at, path[start..].as_ptr() as usize, target.as_mut_ptr() as usize, target.len(), 0, 0];
    // SAFETY: the kernel writes at most the buffer's length.
    let n = unsafe { files.call(number::readlinkat, args) }.ok()?;
    target.truncate(n);
    Some(target)
}

/// The bytes with a NUL behind them; a NUL inside is an error as for any path.
fn c_string(path: &[u8]) -> Result<Vec<u8>, Errno> {
    if path.contains(&0) || path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let mut owned = Vec::with_capacity(path.len() + 1);
    owned.extend_from_slice(path);
    owned.push(0);
    Ok(owned)
}

/// An errno met on `path`.
pub fn open_error(path: &[u8]) -> impl Fn(Errno) -> LoadError + '_ {
    move |errno| LoadError::Open(path.to_vec(), errno)
}
