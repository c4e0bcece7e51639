//! System V IPC (sysvipc(7)): keys, ids, rights; the three kinds of objects are files of their own.
//!
//! An id is a slot number plus a sequence number times 32768, as in Linux, so that an id of a removed
//! object is not taken for its successor's. A name space for each guest: other guests' and the host's
//! objects are not seen.

pub mod msg;
pub mod sem;
pub mod shm;

use crate::context::Ctx;
use crate::process::Process;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::sync::Lock;

/// `IPC_PRIVATE`: a key that names nothing.
const PRIVATE: i32 = 0;
const IPC_CREAT: u32 = 0o1000;
const IPC_EXCL: u32 = 0o2000;
const IPC_NOWAIT: u32 = 0o4000;
const IPC_RMID: i32 = 0;
const IPC_SET: i32 = 1;
const IPC_STAT: i32 = 2;
const IPC_INFO: i32 = 3;
/// `IPCMNI`: ids step by it.
const STEP: i32 = 32768;

/// Who made, who owns, who may (the kernel's `struct ipc64_perm`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Perm {
    key: i32,
    uid: u32,
    gid: u32,
    cuid: u32,
    cgid: u32,
    mode: u32,
    seq: u16,
    pad: u16,
    pad2: u32,
    unused: [u64; 2],
}
const _: () = assert!(size_of::<Perm>() == 48);

impl Perm {
    fn new(ctx: &Ctx, key: i32, flags: u32) -> Perm {
        let now = ctx.process.credentials.lock();
        let (uid, gid) = (now.euid, now.egid);
        Perm { key, uid, gid, cuid: uid, cgid: gid, mode: flags & 0o777, ..Perm::default() }
    }

    /// Whether the caller has these rights, given as mode bits in any place (ipcperms of the kernel).
    fn permits(&self, ctx: &Ctx, flags: u32) -> Result<()> {
        let want = ((flags >> 6) | (flags >> 3) | flags) & 7;
        let now = ctx.process.credentials.lock();
        let in_group = |gid: u32| now.egid == gid || now.groups.contains(&gid);
        let granted = if now.euid == self.cuid || now.euid == self.uid {
            self.mode >> 6
        } else if in_group(self.cgid) || in_group(self.gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if want & !granted == 0 || now.privileged() { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Whether the caller may change or remove the object.
    fn owned(&self, ctx: &Ctx) -> Result<()> {
        let now = ctx.process.credentials.lock();
        let own = now.euid == self.cuid || now.euid == self.uid;
        if own || now.privileged() { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// IPC_SET: owner, group and rights.
    fn set(&mut self, from: &Perm) {
        (self.uid, self.gid) = (from.uid, from.gid);
        self.mode = self.mode & !0o777 | from.mode & 0o777;
    }
}

/// An object with a number.
pub trait Object {
    /// Its rights; the lock is held for no more than a look or a change.
    fn perm(&self) -> &Lock<Perm>;
}

/// The objects of one kind, by id and key.
pub struct Ids<T> {
    slots: Lock<Slots<T>>,
    /// Held from the look for a key until the object with it stands.
    making: Lock<()>,
}

struct Slots<T> {
    slots: Vec<Option<Arc<T>>>,
    /// Sequence number of the next object.
    seq: u16,
}

impl<T> Default for Ids<T> {
    fn default() -> Self {
        Ids { slots: Lock::new(Slots { slots: Vec::new(), seq: 0 }), making: Lock::new(()) }
    }
}

impl<T: Object> Ids<T> {
    /// shmget(2), semget(2), msgget(2): finds or makes. `fits` judges an existing object, `make` makes
    /// one; `most` is how many there may be (ENOSPC).
    fn get(
        &self,
        ctx: &Ctx,
        key: i32,
        flags: u32,
        most: usize,
        fits: impl FnOnce(&T) -> Result<()>,
        make: impl FnOnce(Perm) -> Result<T>,
    ) -> Result {
        let _making = self.making.lock();
        if key != PRIVATE
            && let Some((id, object)) = self.by_key(key)
        {
            if flags & (IPC_CREAT | IPC_EXCL) == IPC_CREAT | IPC_EXCL {
                return Err(Errno::EEXIST);
            }
            fits(&object)?;
            object.perm().lock().permits(ctx, flags)?;
            return Ok(id as usize);
        }
        if key != PRIVATE && flags & IPC_CREAT == 0 {
            return Err(Errno::ENOENT);
        }
        let object = make(Perm::new(ctx, key, flags))?;
        let mut slots = self.slots.lock();
        let at = match slots.slots.iter().position(Option::is_none) {
            Some(at) => at,
            None if slots.slots.len() < most => {
                slots.slots.push(None);
                slots.slots.len() - 1
            }
            None => return Err(Errno::ENOSPC),
        };
        let seq = slots.seq;
        slots.seq = (slots.seq + 1) % (i32::MAX / STEP) as u16;
        object.perm().lock().seq = seq;
        slots.slots[at] = Some(Arc::new(object));
        Ok((i32::from(seq) * STEP + at as i32) as usize)
    }

    fn by_key(&self, key: i32) -> Option<(i32, Arc<T>)> {
        self.all().into_iter().find(|(_, object)| object.perm().lock().key == key)
    }

    /// The object of an id; EINVAL if there is none, EIDRM if there was one.
    fn find(&self, id: i32) -> Result<Arc<T>> {
        if id < 0 {
            return Err(Errno::EINVAL);
        }
        let slots = self.slots.lock();
        let object = slots.slots.get((id % STEP) as usize).and_then(Option::as_ref).ok_or(Errno::EINVAL)?;
        if i32::from(object.perm().lock().seq) == id / STEP { Ok(object.clone()) } else { Err(Errno::EINVAL) }
    }

    /// The object in a slot and its id (SHM_STAT and the like).
    fn at(&self, slot: i32) -> Result<(i32, Arc<T>)> {
        let all = self.all();
        all.into_iter().find(|(id, _)| id % STEP == slot).ok_or(Errno::EINVAL)
    }

    /// Takes an object out.
    fn remove(&self, object: &Arc<T>) {
        let mut slots = self.slots.lock();
        let same = |slot: &Option<Arc<T>>| slot.as_ref().is_some_and(|other| Arc::ptr_eq(other, object));
        let gone = slots.slots.iter_mut().find(|slot| same(slot)).and_then(Option::take);
        drop(slots);
        drop(gone);
    }

    /// All objects with their ids.
    fn all(&self) -> Vec<(i32, Arc<T>)> {
        let slots = self.slots.lock();
        let id = |(at, slot): (usize, &Option<Arc<T>>)| {
            let object = slot.as_ref()?;
            Some((i32::from(object.perm().lock().seq) * STEP + at as i32, object.clone()))
        };
        slots.slots.iter().enumerate().filter_map(id).collect()
    }

    /// Highest slot in use, which the `*_INFO` commands answer.
    fn highest(&self) -> usize {
        self.slots.lock().slots.iter().rposition(Option::is_some).unwrap_or(0)
    }
}

fn seconds() -> i64 {
    fs::attr::wall_clock().sec
}

fn pid(process: &Process) -> i32 {
    process.pid as i32
}
