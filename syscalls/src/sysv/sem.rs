//! System V semaphores (semget(2), semop(2), semctl(2)).
//!
//! The operations of one call happen all at once or not at all, under the set's lock; who cannot go on
//! waits at the set's hub and tries again when anything in it has changed.

use super::{IPC_INFO, IPC_NOWAIT, IPC_RMID, IPC_SET, IPC_STAT, Ids, Object, Perm, pid, seconds};
use crate::context::Ctx;
use crate::errno::wants_restart;
use crate::hub::{Events, Hub};
use crate::ipc;
use crate::process::{Process, root};
use crate::user::UserPtr;
use crate::wait::{self, Waiting};
use crate::{Errno, Result, time};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::sync::Lock;
use platform::time::{Instant, Timespec, now};

/// `SEMMNI`, `SEMMSL`, `SEMOPM`, `SEMVMX`
const MOST: usize = 32000;
const MOST_IN_SET: i32 = 32000;
const MOST_OPERATIONS: usize = 500;
const HIGHEST: i32 = 32767;
const SEM_UNDO: u16 = 0x1000;
const GETPID: i32 = 11;
const GETVAL: i32 = 12;
const GETALL: i32 = 13;
const GETNCNT: i32 = 14;
const GETZCNT: i32 = 15;
const SETVAL: i32 = 16;
const SETALL: i32 = 17;
const SEM_STAT: i32 = 18;
const SEM_INFO: i32 = 19;
const SEM_STAT_ANY: i32 = 20;

/// All sets.
pub type Sets = Ids<Set>;

/// A set of semaphores.
pub struct Set {
    perm: Lock<Perm>,
    state: Lock<State>,
    hub: Hub,
}

impl Object for Set {
    fn perm(&self) -> &Lock<Perm> {
        &self.perm
    }
}

struct State {
    semaphores: Vec<Semaphore>,
    operated: i64,
    changed: i64,
    removed: bool,
    /// Threads that wait: thread, semaphore, and whether for zero.
    waiting: Vec<(u32, usize, bool)>,
}

#[derive(Clone, Copy, Default)]
struct Semaphore {
    value: i32,
    /// Who changed it last.
    pid: i32,
}

/// What a process gives back when it ends: for each set, a sum for each semaphore.
#[derive(Default)]
pub struct Undo(Lock<BTreeMap<i32, Vec<i32>>>);

/// `struct sembuf`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SemBuf {
    number: u16,
    change: i16,
    flags: u16,
}

/// `struct semid64_ds` of x86-64.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SemId {
    perm: Perm,
    operated: i64,
    unused1: u64,
    changed: i64,
    unused2: u64,
    count: u64,
    unused3: [u64; 2],
}
const _: () = assert!(size_of::<SemId>() == 104);

impl Set {
    fn new(perm: Perm, count: usize) -> Set {
        let state = State {
            semaphores: alloc::vec![Semaphore::default(); count],
            operated: 0,
            changed: seconds(),
            removed: false,
            waiting: Vec::new(),
        };
        Set { perm: Lock::new(perm), state: Lock::new(state), hub: Hub::new() }
    }

    fn len(&self) -> usize {
        self.state.lock().semaphores.len()
    }

    fn stat(&self) -> SemId {
        let perm = *self.perm.lock();
        let state = self.state.lock();
        let count = state.semaphores.len() as u64;
        SemId { perm, operated: state.operated, changed: state.changed, count, ..SemId::default() }
    }

    fn tell(&self) {
        self.hub.notify(Events::READABLE);
    }
}

/// semget(2).
pub fn semget(ctx: &Ctx, key: i32, count: i32, flags: u32) -> Result {
    if !(0..=MOST_IN_SET).contains(&count) {
        return Err(Errno::EINVAL);
    }
    let count = count as usize;
    let fits = |set: &Set| if count > set.len() { Err(Errno::EINVAL) } else { Ok(()) };
    ipc::all().semaphores.get(ctx, key, flags, MOST, fits, |perm| {
        if count == 0 { Err(Errno::EINVAL) } else { Ok(Set::new(perm, count)) }
    })
}

/// semop(2).
pub fn semop(ctx: &Ctx, id: i32, operations: UserPtr<SemBuf>, count: usize) -> Result {
    semtimedop(ctx, id, operations, count, UserPtr::new(0))
}

/// semtimedop(2).
pub fn semtimedop(
    ctx: &Ctx,
    id: i32,
    operations: UserPtr<SemBuf>,
    count: usize,
    timeout: UserPtr<Timespec>,
) -> Result {
    let deadline = match timeout.read_optional()? {
        Some(at) => Some(now().after(time::valid(at)?)),
        None => None,
    };
    if count == 0 || id < 0 {
        return Err(Errno::EINVAL);
    }
    if count > MOST_OPERATIONS {
        return Err(Errno::E2BIG);
    }
    let operations = operations.read_vec(count)?;
    let set = ipc::all().semaphores.find(id)?;
    let alters = operations.iter().any(|operation| operation.change != 0);
    if operations.iter().any(|operation| operation.number as usize >= set.len()) {
        return Err(Errno::EFBIG);
    }
    set.perm.lock().permits(ctx, if alters { 0o222 } else { 0o444 })?;
    let call = Call { ctx, id, set: &set, operations: &operations };
    let answer = call.run(deadline);
    if alters && answer.is_ok() {
        set.tell();
    }
    answer.map(|()| 0)
}

/// One semop(2).
struct Call<'a> {
    ctx: &'a Ctx<'a>,
    id: i32,
    set: &'a Set,
    operations: &'a [SemBuf],
}

impl Call<'_> {
    fn run(&self, deadline: Option<Instant>) -> Result<()> {
        match self.attempt() {
            Err(Errno::EAGAIN) => {}
            done => return done,
        }
        if self.blocked_on().is_some_and(|operation| u32::from(operation.flags) & IPC_NOWAIT != 0) {
            return Err(Errno::EAGAIN);
        }
        let how = Waiting::for_events(Events::READABLE).until(deadline);
        let answer = wait::block_on_hub(self.ctx, &self.set.hub, how, || {
            let answer = self.attempt();
            self.note_wait(answer == Err(Errno::EAGAIN));
            answer
        });
        self.note_wait(false);
        // signal(7): semop(2) is never made again.
        answer.map_err(|error| if wants_restart(error) { Errno::EINTR } else { error })
    }

    /// Does all operations, or none: EAGAIN where it would wait.
    fn attempt(&self) -> Result<()> {
        let mut state = self.set.state.lock();
        if state.removed {
            return Err(Errno::EIDRM);
        }
        let mut values: Vec<i32> = state.semaphores.iter().map(|semaphore| semaphore.value).collect();
        for operation in self.operations {
            let value = &mut values[operation.number as usize];
            let change = i32::from(operation.change);
            match change {
                0 if *value != 0 => return Err(Errno::EAGAIN),
                0 => {}
                _ if *value + change < 0 => return Err(Errno::EAGAIN),
                _ if *value + change > HIGHEST => return Err(Errno::ERANGE),
                _ => *value += change,
            }
        }
        self.note_undo(values.len())?;
        for operation in self.operations.iter() {
            let at = operation.number as usize;
            state.semaphores[at] = Semaphore { value: values[at], pid: pid(self.ctx.process) };
        }
        state.operated = seconds();
        Ok(())
    }

    /// The first operation that cannot be done now.
    fn blocked_on(&self) -> Option<&SemBuf> {
        let state = self.set.state.lock();
        let mut values: Vec<i32> = state.semaphores.iter().map(|semaphore| semaphore.value).collect();
        self.operations.iter().find(|operation| {
            let value = &mut values[operation.number as usize];
            let change = i32::from(operation.change);
            let blocked = if change == 0 { *value != 0 } else { *value + change < 0 };
            *value += change;
            blocked
        })
    }

    /// For GETNCNT and GETZCNT.
    fn note_wait(&self, waits: bool) {
        let on = if waits { self.blocked_on() } else { None };
        let tid = self.ctx.task.tid;
        let mut state = self.set.state.lock();
        state.waiting.retain(|waiter| waiter.0 != tid);
        if let Some(operation) = on {
            state.waiting.push((tid, operation.number as usize, operation.change == 0));
        }
    }

    /// Adds to what the process gives back; ERANGE if that passes its range. With the set's lock held.
    fn note_undo(&self, count: usize) -> Result<()> {
        if self.operations.iter().all(|operation| operation.flags & SEM_UNDO == 0) {
            return Ok(());
        }
        let mut undo = self.ctx.process.ipc.undo.0.lock();
        let mut sums = undo.get(&self.id).cloned().unwrap_or_else(|| alloc::vec![0; count]);
        for operation in self.operations.iter().filter(|operation| operation.flags & SEM_UNDO != 0) {
            let sum = &mut sums[operation.number as usize];
            *sum -= i32::from(operation.change);
            if !(-HIGHEST - 1..=HIGHEST).contains(sum) {
                return Err(Errno::ERANGE);
            }
        }
        undo.insert(self.id, sums);
        Ok(())
    }
}

/// A process has ended: its undo values are added (semop(2), SEM_UNDO).
pub fn give_back(process: &Process) {
    let undo = core::mem::take(&mut *process.ipc.undo.0.lock());
    for (id, sums) in undo {
        let Ok(set) = ipc::all().semaphores.find(id) else { continue };
        {
            let mut state = set.state.lock();
            for (semaphore, sum) in state.semaphores.iter_mut().zip(sums).filter(|(_, sum)| *sum != 0) {
                let value = (semaphore.value + sum).clamp(0, HIGHEST);
                *semaphore = Semaphore { value, pid: pid(process) };
            }
            state.operated = seconds();
        }
        set.tell();
    }
}

/// SETVAL and SETALL end everybody's undo for these semaphores (semctl(2)).
fn forget_undo(id: i32, only: Option<usize>) {
    for process in root().processes() {
        let mut undo = process.ipc.undo.0.lock();
        let Some(sums) = undo.get_mut(&id) else { continue };
        match only {
            Some(at) => sums[at] = 0,
            None => sums.fill(0),
        }
    }
}

/// semctl(2).
pub fn semctl(ctx: &Ctx, id: i32, number: i32, command: i32, argument: usize) -> Result {
    let sets = &ipc::all().semaphores;
    match command {
        IPC_INFO | SEM_INFO => {
            let all = sets.all();
            let used: usize = all.iter().map(|(_, set)| set.len()).sum();
            let (users, sum) = if command == SEM_INFO { (all.len(), used) } else { (20, HIGHEST as usize) };
            // struct seminfo: map, mni, mns, mnu, msl, opm, ume, usz, vmx, aem.
            const ALL: i32 = 1_024_000_000;
            let info = [ALL, MOST as i32, ALL, ALL, MOST_IN_SET, 500, 500, users as i32, HIGHEST, sum as i32];
            UserPtr::<[i32; 10]>::new(argument).write(info)?;
            return Ok(sets.highest());
        }
        IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
            let (id, set) = if command == IPC_STAT { (0, sets.find(id)?) } else { sets.at(id)? };
            if command != SEM_STAT_ANY {
                set.perm.lock().permits(ctx, 0o444)?;
            }
            UserPtr::<SemId>::new(argument).write(set.stat())?;
            return Ok(id as usize);
        }
        _ => {}
    }
    let set = sets.find(id)?;
    match command {
        IPC_SET => {
            let wish = UserPtr::<SemId>::new(argument).read()?;
            let mut perm = set.perm.lock();
            perm.owned(ctx)?;
            perm.set(&wish.perm);
            drop(perm);
            set.state.lock().changed = seconds();
            Ok(0)
        }
        IPC_RMID => {
            set.perm.lock().owned(ctx)?;
            set.state.lock().removed = true;
            sets.remove(&set);
            set.tell();
            Ok(0)
        }
        GETALL | SETALL => all_values(ctx, &set, id, command, UserPtr::new(argument)),
        _ => one_value(ctx, &set, id, number, command, argument as i32),
    }
}

fn all_values(ctx: &Ctx, set: &Set, id: i32, command: i32, array: UserPtr<u16>) -> Result {
    set.perm.lock().permits(ctx, if command == SETALL { 0o222 } else { 0o444 })?;
    if command == GETALL {
        let values: Vec<u16> = set.state.lock().semaphores.iter().map(|s| s.value as u16).collect();
        return array.write_all(&values).map(|()| 0);
    }
    let values = array.read_vec(set.len())?;
    if values.iter().any(|&value| i32::from(value) > HIGHEST) {
        return Err(Errno::ERANGE);
    }
    {
        let mut state = set.state.lock();
        for (semaphore, value) in state.semaphores.iter_mut().zip(values) {
            *semaphore = Semaphore { value: value.into(), pid: pid(ctx.process) };
        }
        state.changed = seconds();
    }
    forget_undo(id, None);
    set.tell();
    Ok(0)
}

fn one_value(ctx: &Ctx, set: &Set, id: i32, number: i32, command: i32, value: i32) -> Result {
    if !matches!(command, GETPID | GETVAL | GETNCNT | GETZCNT | SETVAL) {
        return Err(Errno::EINVAL);
    }
    if command == SETVAL && !(0..=HIGHEST).contains(&value) {
        return Err(Errno::ERANGE);
    }
    set.perm.lock().permits(ctx, if command == SETVAL { 0o222 } else { 0o444 })?;
    let at = usize::try_from(number).ok().filter(|&at| at < set.len()).ok_or(Errno::EINVAL)?;
    let mut state = set.state.lock();
    if matches!(command, GETNCNT | GETZCNT) {
        // Those that were killed with their host process have struck out nothing.
        state.waiting.retain(|waiter| root().task(waiter.0).is_some());
    }
    let waiting = |zero: bool| state.waiting.iter().filter(|w| w.1 == at && w.2 == zero).count();
    Ok(match command {
        GETPID => state.semaphores[at].pid as usize,
        GETVAL => state.semaphores[at].value as usize,
        GETNCNT => waiting(false),
        GETZCNT => waiting(true),
        _ => {
            state.semaphores[at] = Semaphore { value, pid: pid(ctx.process) };
            state.changed = seconds();
            drop(state);
            forget_undo(id, Some(at));
            set.tell();
            0
        }
    })
}

/// /proc/sysvipc/sem.
pub fn table() -> String {
    let mut text = String::from(
        "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n",
    );
    let all: Vec<(i32, Arc<Set>)> = ipc::all().semaphores.all();
    for (id, set) in all {
        let s = set.stat();
        let p = s.perm;
        text += &format!(
            "{:10} {:10}  {:4o} {:10} {:5} {:5} {:5} {:5} {:10} {:10}\n",
            p.key, id, p.mode, s.count, p.uid, p.gid, p.cuid, p.cgid, s.operated, s.changed
        );
    }
    text
}
