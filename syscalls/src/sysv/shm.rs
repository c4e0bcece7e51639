//! System V shared memory (shmget(2), shmat(2), shmctl(2)): a memfd each, mapped MAP_SHARED.
//!
//! An attachment is an entry of the process's shared mappings ([`crate::maps`]), so munmap, mremap, fork,
//! execve and exit count it right. A removed segment is gone with its last attachment.
//!
//! Left out: SHM_HUGETLB (EINVAL); SHM_LOCK is accepted from its owner and locks nothing.

use super::{IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, Ids, Object, PRIVATE, Perm, pid, seconds};
use crate::args::Address;
use crate::context::Ctx;
use crate::ipc;
use crate::maps::{self, Entry};
use crate::user::UserPtr;
use crate::{Errno, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use fs::HostFd;
use platform::host;
use platform::layout::{PAGE_SIZE, touches_window};
use platform::sync::Lock;

/// `SHMMNI`, `SHMMAX`, `SHMALL`
const MOST: usize = 4096;
const LARGEST: usize = usize::MAX - (1 << 24);
const SHM_HUGETLB: u32 = 0o4000;
const SHM_RDONLY: u32 = 0o10000;
const SHM_RND: u32 = 0o20000;
const SHM_REMAP: u32 = 0o40000;
const SHM_EXEC: u32 = 0o100000;
/// `SHM_DEST`, `SHM_LOCKED` in the mode.
const DESTROYED: u32 = 0o1000;
const LOCKED: u32 = 0o2000;
const SHM_LOCK: i32 = 11;
const SHM_UNLOCK: i32 = 12;
const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const SHM_STAT_ANY: i32 = 15;

/// All segments.
pub type Segments = Ids<Segment>;

/// A segment.
pub struct Segment {
    perm: Lock<Perm>,
    size: usize,
    fd: HostFd,
    identity: maps::Object,
    attached: AtomicUsize,
    creator: i32,
    last: AtomicI64,
    attach_time: AtomicI64,
    detach_time: AtomicI64,
    change_time: AtomicI64,
}

impl Object for Segment {
    fn perm(&self) -> &Lock<Perm> {
        &self.perm
    }
}

/// A segment in a process's memory; counted.
pub struct Attachment(Arc<Segment>);

impl Attachment {
    fn new(segment: &Arc<Segment>) -> Attachment {
        segment.attached.fetch_add(1, Ordering::AcqRel);
        Attachment(segment.clone())
    }

    /// The segment's size.
    pub fn size(&self) -> usize {
        self.0.size
    }
}

impl Clone for Attachment {
    fn clone(&self) -> Self {
        Attachment::new(&self.0)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let segment = &self.0;
        segment.detach_time.store(seconds(), Ordering::Relaxed);
        if let Some(ctx) = Ctx::try_current() {
            segment.last.store(pid(ctx.process).into(), Ordering::Relaxed);
        }
        let last = segment.attached.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && segment.perm.lock().mode & DESTROYED != 0 {
            ipc::all().segments.remove(segment);
        }
    }
}

/// `struct shmid64_ds`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ShmId {
    perm: Perm,
    size: usize,
    attach_time: i64,
    detach_time: i64,
    change_time: i64,
    creator: i32,
    last: i32,
    attached: u64,
    unused: [u64; 2],
}
const _: () = assert!(size_of::<ShmId>() == 112);

impl Segment {
    fn new(size: usize, perm: Perm, creator: i32) -> Result<Segment> {
        const MFD_CLOEXEC: usize = 1;
        // SAFETY: the name is a C string.
        let fd = HostFd::opened(|| unsafe { host!(memfd_create, c"attacca-sysv".as_ptr(), MFD_CLOEXEC) })?;
        // SAFETY: plain numbers.
        unsafe { host!(ftruncate, fd.raw(), size.next_multiple_of(PAGE_SIZE)) }?;
        let stat = fd.stat()?;
        fd.keep();
        Ok(Segment {
            perm: Lock::new(perm),
            size,
            fd,
            identity: maps::Object(stat.dev, stat.ino),
            attached: AtomicUsize::new(0),
            creator,
            last: AtomicI64::new(0),
            attach_time: AtomicI64::new(0),
            detach_time: AtomicI64::new(0),
            change_time: AtomicI64::new(seconds()),
        })
    }

    fn stat(&self) -> ShmId {
        ShmId {
            perm: *self.perm.lock(),
            size: self.size,
            attach_time: self.attach_time.load(Ordering::Relaxed),
            detach_time: self.detach_time.load(Ordering::Relaxed),
            change_time: self.change_time.load(Ordering::Relaxed),
            creator: self.creator,
            last: self.last.load(Ordering::Relaxed) as i32,
            attached: self.attached.load(Ordering::Relaxed) as u64,
            unused: [0; 2],
        }
    }
}

/// shmget(2).
pub fn shmget(ctx: &Ctx, key: i32, size: usize, flags: u32) -> Result {
    let fits = |segment: &Segment| if segment.size < size { Err(Errno::EINVAL) } else { Ok(()) };
    ipc::all().segments.get(ctx, key, flags, MOST, fits, |perm| {
        if size == 0 || size > LARGEST || flags & SHM_HUGETLB != 0 {
            return Err(Errno::EINVAL);
        }
        Segment::new(size, perm, pid(ctx.process))
    })
}

/// shmat(2).
pub fn shmat(ctx: &Ctx, id: i32, at: Address, flags: u32) -> Result {
    const PROT_READ: usize = 1;
    const PROT_WRITE: usize = 2;
    const PROT_EXEC: usize = 4;
    const MAP_SHARED: usize = 1;
    const MAP_FIXED: usize = 0x10;
    const MAP_FIXED_NOREPLACE: usize = 0x10_0000;
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let mut address = at.0;
    let mut how = MAP_SHARED;
    if address != 0 {
        if !address.is_multiple_of(PAGE_SIZE) {
            if flags & SHM_RND == 0 {
                return Err(Errno::EINVAL);
            }
            address &= !(PAGE_SIZE - 1);
            if address == 0 && flags & SHM_REMAP != 0 {
                return Err(Errno::EINVAL);
            }
        }
        how |= if flags & SHM_REMAP != 0 { MAP_FIXED } else { MAP_FIXED_NOREPLACE };
    } else if flags & SHM_REMAP != 0 {
        return Err(Errno::EINVAL);
    }
    let segment = ipc::all().segments.find(id)?;
    let write = flags & SHM_RDONLY == 0;
    let execute = if flags & SHM_EXEC != 0 { 1 } else { 0 };
    segment.perm.lock().permits(ctx, if write { 6 } else { 4 } | execute)?;
    let len = segment.size.next_multiple_of(PAGE_SIZE);
    if touches_window(address, len) {
        return Err(Errno::EINVAL);
    }
    let rights = PROT_READ | if write { PROT_WRITE } else { 0 } | if execute != 0 { PROT_EXEC } else { 0 };
    crate::memory_limit::check(ctx, 0, len)?;
    // Counted before it is mapped: a removal at the same time must leave it alone.
    let attachment = Attachment::new(&segment);
    // SAFETY: nothing is replaced but what the program names outside the runtime's window.
    let mapped = match unsafe { host!(mmap, address, len, rights, how, segment.fd.raw(), 0) } {
        Ok(mapped) => crate::memory::outside_window(mapped, len)?,
        Err(Errno::EEXIST) => return Err(Errno::EINVAL),
        Err(error) => return Err(error),
    };
    segment.attach_time.store(seconds(), Ordering::Relaxed);
    segment.last.store(pid(ctx.process).into(), Ordering::Relaxed);
    let entry = Entry { len, object: segment.identity, offset: 0, attachment: Some(attachment) };
    ctx.process.ipc.maps.add(mapped, entry);
    Ok(mapped)
}

/// shmdt(2).
pub fn shmdt(ctx: &Ctx, at: Address) -> Result {
    let ranges = ctx.process.ipc.maps.attached_at(at.0);
    if ranges.is_empty() {
        return Err(Errno::EINVAL);
    }
    for (start, len) in ranges {
        crate::memory::munmap(ctx, Address(start), len)?;
    }
    Ok(0)
}

/// shmctl(2).
pub fn shmctl(ctx: &Ctx, id: i32, command: i32, buffer: UserPtr<u8>) -> Result {
    let segments = &ipc::all().segments;
    match command {
        IPC_INFO => {
            // struct shminfo64: max, min, mni, seg, all, and four unused.
            let all = LARGEST as u64;
            buffer.cast::<[u64; 9]>().write([
                LARGEST as u64,
                1,
                MOST as u64,
                MOST as u64,
                all,
                0,
                0,
                0,
                0,
            ])?;
            Ok(segments.highest())
        }
        SHM_INFO => {
            let all = segments.all();
            let pages: u64 = all.iter().map(|(_, s)| s.size.div_ceil(PAGE_SIZE) as u64).sum();
            // struct shm_info: used_ids, shm_tot, shm_rss, shm_swp, swap_attempts, swap_successes.
            buffer.cast::<[u64; 6]>().write([all.len() as u64, pages, pages, 0, 0, 0])?;
            Ok(segments.highest())
        }
        IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
            let (id, segment) =
                if command == IPC_STAT { (0, segments.find(id)?) } else { segments.at(id)? };
            if command != SHM_STAT_ANY {
                segment.perm.lock().permits(ctx, 4)?;
            }
            buffer.cast::<ShmId>().write(segment.stat())?;
            Ok(id as usize)
        }
        IPC_SET => {
            let wish = buffer.cast::<ShmId>().read()?;
            let segment = segments.find(id)?;
            let mut perm = segment.perm.lock();
            perm.owned(ctx)?;
            perm.set(&wish.perm);
            segment.change_time.store(seconds(), Ordering::Relaxed);
            Ok(0)
        }
        IPC_RMID => {
            let segment = segments.find(id)?;
            {
                let mut perm = segment.perm.lock();
                perm.owned(ctx)?;
                perm.mode |= DESTROYED;
                perm.key = PRIVATE;
            }
            // Nobody attaches in between: who does so has the segment and removes it with its last use.
            if segment.attached.load(Ordering::Acquire) == 0 {
                segments.remove(&segment);
            }
            Ok(0)
        }
        SHM_LOCK | SHM_UNLOCK => {
            let segment = segments.find(id)?;
            let mut perm = segment.perm.lock();
            perm.owned(ctx)?;
            perm.mode = if command == SHM_LOCK { perm.mode | LOCKED } else { perm.mode & !LOCKED };
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// /proc/sysvipc/shm.
pub fn table() -> String {
    let mut text = String::from(
        "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n",
    );
    for (id, segment) in ipc::all().segments.all() {
        let s = segment.stat();
        let p = s.perm;
        text += &format!(
            "{:10} {:10}  {:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} {:21} {:21}\n",
            p.key,
            id,
            p.mode,
            s.size,
            s.creator,
            s.last,
            s.attached,
            p.uid,
            p.gid,
            p.cuid,
            p.cgid,
            s.attach_time,
            s.detach_time,
            s.change_time,
            0,
            0
        );
    }
    text
}
