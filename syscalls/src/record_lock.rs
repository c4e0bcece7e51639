//! Record locks of fcntl(2) (F_SETLK and its like): they belong to a process and a file, exclude other
//! processes, and go with any descriptor of the file that the process closes.
//!
//! Towards the host, all processes of a guest are one owner, because they share a descriptor table: its
//! locks cannot tell them apart. So who has what inside a guest is kept here, by file, and the host gets
//! the union, which excludes its other programs. A range that the host refuses is not ours either.
//!
//! Left out: the host gives up its part of the locks when any descriptor of the file is closed in any
//! process of the guest, as POSIX says for an owner; inside the guest they stay.

use crate::context::Ctx;
use crate::file::{O_ACCMODE, OpenFile, Stat};
use crate::hub::{Events, Hub};
use crate::process::root;
use crate::user::UserPtr;
use crate::wait::{self, Waiting};
use crate::{Errno, Result, rw};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use fs::HostFd;
use platform::host;
use platform::sync::Lock;

/// The kernel's `struct flock`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Flock {
    kind: i16,
    whence: i16,
    start: i64,
    len: i64,
    pid: i32,
}

const F_RDLCK: i16 = 0;
const F_WRLCK: i16 = 1;
const F_UNLCK: i16 = 2;
const F_GETLK: i32 = 5;
const F_SETLK: i32 = 6;
const F_SETLKW: i32 = 7;

/// A lock on `[start, end)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    start: u64,
    end: u64,
    write: bool,
    owner: u32,
}

/// Locks of one file, and a descriptor through which the host has them.
struct Locks {
    held: Vec<Held>,
    fd: Arc<HostFd>,
}

type Key = (u64, u64);

/// All record locks of a guest.
#[derive(Default)]
pub struct Table {
    /// Files with locks: looked at without the lock when a descriptor is closed.
    count: AtomicUsize,
    files: Lock<BTreeMap<Key, Locks>>,
    /// Who waits for whom: a circle is EDEADLK.
    waits: Lock<BTreeMap<u32, u32>>,
    /// Told when something is unlocked.
    pub(crate) hub: Hub,
}

impl Held {
    fn overlaps(&self, other: &Held) -> bool {
        self.start < other.end && other.start < self.end
    }

    fn conflicts(&self, other: &Held) -> bool {
        self.owner != other.owner && self.overlaps(other) && (self.write || other.write)
    }
}

/// Puts a lock in place of what its owner had in its range, or only takes that away.
fn change(held: &mut Vec<Held>, new: Held, lock: bool) {
    let mut rest = Vec::with_capacity(held.len() + 2);
    for old in held.drain(..) {
        if old.owner != new.owner || !old.overlaps(&new) {
            rest.push(old);
            continue;
        }
        if old.start < new.start {
            rest.push(Held { end: new.start, ..old });
        }
        if old.end > new.end {
            rest.push(Held { start: new.end, ..old });
        }
    }
    if lock {
        rest.push(new);
    }
    // Replaced first: see `platform::sync`.
    drop(core::mem::replace(held, rest));
}

/// fcntl(2) with F_GETLK, F_SETLK or F_SETLKW.
pub fn fcntl(ctx: &Ctx, open: &OpenFile, fd: &Arc<HostFd>, command: i32, at: UserPtr<Flock>) -> Result {
    let wish = at.read()?;
    let owner = ctx.process.pid;
    let new = range(open, &wish, owner)?;
    let key = key(open)?;
    let table = &root().record_locks;
    if command == F_GETLK {
        return ask(table, key, fd, new, wish, at);
    }
    if wish.kind == F_UNLCK {
        table.unlock(key, new);
        return Ok(0);
    }
    let mode = open.flags.load(Ordering::Relaxed) & O_ACCMODE;
    if new.write && mode == 0 || !new.write && mode == 1 {
        return Err(Errno::EBADF);
    }
    match table.try_lock(key, fd, new) {
        Err(_) if command == F_SETLKW => table.wait(ctx, key, fd, new)?,
        done => drop(done?),
    }
    // Other programs of the host.
    let refused = match on_host(fd, F_SETLK, new) {
        Err(Errno::EAGAIN | Errno::EACCES) if command == F_SETLKW => {
            const LONGEST: u64 = 4 * platform::time::MILLISECOND;
            let attempt = || match on_host(fd, F_SETLK, new) {
                Err(Errno::EACCES) => Err(Errno::EAGAIN),
                done => done,
            };
            wait::ask_again(ctx, &table.hub, LONGEST, attempt).map(drop)
        }
        done => done.map(drop),
    };
    refused.inspect_err(|_| table.unlock(key, new)).map(|()| 0)
}

/// The bytes that a request means (fcntl(2), "Advisory record locking").
fn range(open: &OpenFile, wish: &Flock, owner: u32) -> Result<Held> {
    if !matches!(wish.kind, F_RDLCK | F_WRLCK | F_UNLCK) {
        return Err(Errno::EINVAL);
    }
    let base = match wish.whence {
        0 => 0,
        1 => rw::position(open)? as i64,
        2 => open.file.size()? as i64,
        _ => return Err(Errno::EINVAL),
    };
    let at = base.checked_add(wish.start).ok_or(Errno::EOVERFLOW)?;
    let (start, end) = match wish.len {
        0 => (at, i64::MAX),
        1.. => (at, at.checked_add(wish.len).ok_or(Errno::EOVERFLOW)?),
        _ => (at.checked_add(wish.len).ok_or(Errno::EINVAL)?, at),
    };
    if start < 0 {
        return Err(Errno::EINVAL);
    }
    Ok(Held { start: start as u64, end: end as u64, write: wish.kind == F_WRLCK, owner })
}

fn key(open: &OpenFile) -> Result<Key> {
    let mut stat = Stat::default();
    open.file.stat(&mut stat)?;
    Ok((stat.dev, stat.ino))
}

fn on_host(fd: &HostFd, command: i32, held: Held) -> Result {
    let kind = if held.write { F_WRLCK } else { F_RDLCK };
    call_host(fd, command, kind, held)
}

fn call_host(fd: &HostFd, command: i32, kind: i16, held: Held) -> Result {
    let len = if held.end == i64::MAX as u64 { 0 } else { (held.end - held.start) as i64 };
    let request = Flock { kind, whence: 0, start: held.start as i64, len, pid: 0 };
    // SAFETY: a struct flock of ours.
    unsafe { host!(fcntl, fd.raw(), command, &raw const request) }
}

/// F_GETLK: the first lock in the way, else the request with F_UNLCK.
fn ask(table: &Table, key: Key, fd: &HostFd, new: Held, wish: Flock, at: UserPtr<Flock>) -> Result {
    let inside = {
        let files = table.files.lock();
        files.get(&key).and_then(|file| file.held.iter().find(|held| held.conflicts(&new)).copied())
    };
    let answer = match inside {
        Some(held) => Flock {
            kind: if held.write { F_WRLCK } else { F_RDLCK },
            whence: 0,
            start: held.start as i64,
            len: if held.end == i64::MAX as u64 { 0 } else { (held.end - held.start) as i64 },
            pid: held.owner as i32,
        },
        None => {
            let kind = if new.write { F_WRLCK } else { F_RDLCK };
            let len = if new.end == i64::MAX as u64 { 0 } else { (new.end - new.start) as i64 };
            let mut request = Flock { kind, whence: 0, start: new.start as i64, len, pid: 0 };
            // SAFETY: a struct flock of ours, which the host changes.
            unsafe { host!(fcntl, fd.raw(), F_GETLK, &raw mut request) }?;
            if request.kind == F_UNLCK { Flock { kind: F_UNLCK, ..wish } } else { request }
        }
    };
    at.write(answer).map(|()| 0)
}

impl Table {
    /// Takes a lock unless another process has one in the way; answers whose it is then.
    fn take(&self, key: Key, fd: &Arc<HostFd>, new: Held) -> core::result::Result<(), u32> {
        let mut files = self.files.lock();
        let file = files.entry(key).or_insert_with(|| Locks { held: Vec::new(), fd: fd.clone() });
        let in_the_way = file.held.iter().find(|held| held.conflicts(&new)).map(|held| held.owner);
        if in_the_way.is_none() {
            change(&mut file.held, new, true);
        }
        self.count.store(files.len(), Ordering::SeqCst);
        in_the_way.map_or(Ok(()), Err)
    }

    fn try_lock(&self, key: Key, fd: &Arc<HostFd>, new: Held) -> Result {
        self.take(key, fd, new).map(|()| 0).map_err(|_| Errno::EAGAIN)
    }

    fn wait(&self, ctx: &Ctx, key: Key, fd: &Arc<HostFd>, new: Held) -> Result<()> {
        let how = Waiting::for_events(Events::READABLE);
        let done = wait::block_on_hub(ctx, &self.hub, how, || match self.take(key, fd, new) {
            Ok(()) => Ok(()),
            Err(owner) if self.closes_circle(new.owner, owner) => Err(Errno::EDEADLK),
            Err(_) => Err(Errno::EAGAIN),
        });
        self.waits.lock().remove(&new.owner);
        done
    }

    /// Notes that one process waits for another; whether that one waits for it already.
    fn closes_circle(&self, waiter: u32, owner: u32) -> bool {
        let mut waits = self.waits.lock();
        let mut at = owner;
        for _ in 0..waits.len() + 1 {
            if at == waiter {
                return true;
            }
            match waits.get(&at) {
                Some(&next) => at = next,
                None => break,
            }
        }
        waits.insert(waiter, owner);
        false
    }

    /// Gives up what an owner has in a range, on the host as far as nobody else in the guest has it.
    fn unlock(&self, key: Key, range: Held) {
        let gone = {
            let mut files = self.files.lock();
            let Some(file) = files.get_mut(&key) else { return };
            change(&mut file.held, range, false);
            let _ = call_host(&file.fd, F_SETLK, F_UNLCK, range);
            for held in file.held.iter().filter(|held| held.overlaps(&range)) {
                let _ = on_host(&file.fd, F_SETLK, *held);
            }
            let empty = file.held.is_empty();
            let gone = if empty { files.remove(&key) } else { None };
            self.count.store(files.len(), Ordering::SeqCst);
            gone
        };
        // Closes a descriptor: outside the lock.
        drop(gone);
        self.hub.notify(Events::READABLE);
    }

    /// A process has closed a descriptor of this file.
    pub fn closed(&self, owner: u32, open: &OpenFile) {
        if self.count.load(Ordering::Relaxed) != 0
            && let Ok(key) = key(open)
        {
            self.drop_owner_in(key, owner);
        }
    }

    /// A process has ended.
    pub fn ended(&self, owner: u32) {
        if self.count.load(Ordering::Relaxed) != 0 {
            let keys: Vec<Key> = self.files.lock().keys().copied().collect();
            keys.into_iter().for_each(|key| self.drop_owner_in(key, owner));
        }
    }

    fn drop_owner_in(&self, key: Key, owner: u32) {
        let has = self.files.lock().get(&key).is_some_and(|file| file.held.iter().any(|h| h.owner == owner));
        if has {
            self.unlock(key, Held { start: 0, end: i64::MAX as u64, write: true, owner });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(start: u64, end: u64, write: bool, owner: u32) -> Held {
        Held { start, end, write, owner }
    }

    #[test]
    fn ranges_split_and_replace() {
        let mut list = Vec::new();
        change(&mut list, held(0, 100, false, 1), true);
        change(&mut list, held(20, 40, true, 1), true);
        change(&mut list, held(0, 100, false, 2), true);
        change(&mut list, held(50, 60, false, 1), false);
        list.sort_by_key(|h| (h.owner, h.start));
        let want = [
            held(0, 20, false, 1),
            held(20, 40, true, 1),
            held(40, 50, false, 1),
            held(60, 100, false, 1),
            held(0, 100, false, 2),
        ];
        assert_eq!(list, want);
        assert!(held(30, 31, false, 3).conflicts(&list[1]));
        assert!(!held(40, 50, false, 3).conflicts(&list[1]));
        assert!(!held(0, 100, true, 1).conflicts(&list[1]));
    }

    #[test]
    fn circles_are_found() {
        let table = Table::default();
        assert!(!table.closes_circle(1, 2));
        assert!(!table.closes_circle(2, 3));
        assert!(table.closes_circle(3, 1));
        assert!(!table.closes_circle(4, 1));
    }
}
