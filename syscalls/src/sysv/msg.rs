//! System V message queues (msgget(2), msgop(2), msgctl(2)).
//!
//! Left out: MSG_COPY (ENOSYS, as Linux without CONFIG_CHECKPOINT_RESTORE).

use super::{IPC_INFO, IPC_NOWAIT, IPC_RMID, IPC_SET, IPC_STAT, Ids, Object, Perm, pid, seconds};
use crate::context::Ctx;
use crate::errno::wants_restart;
use crate::hub::{Events, Hub};
use crate::ipc;
use crate::user::{self, UserPtr};
use crate::wait::{self, Waiting};
use crate::{Errno, Result};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use platform::sync::Lock;

/// `MSGMNI`, `MSGMAX`, `MSGMNB`
const MOST: usize = 32000;
const LARGEST: usize = 8192;
const QUEUE_BYTES: u64 = 16384;
const MSG_NOERROR: u32 = 0o10000;
const MSG_EXCEPT: u32 = 0o20000;
const MSG_COPY: u32 = 0o40000;
const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;
const MSG_STAT_ANY: i32 = 13;

/// All queues.
pub type Queues = Ids<Queue>;

/// A queue.
pub struct Queue {
    perm: Lock<Perm>,
    state: Lock<State>,
    hub: Hub,
}

impl Object for Queue {
    fn perm(&self) -> &Lock<Perm> {
        &self.perm
    }
}

#[derive(Default)]
struct State {
    messages: VecDeque<(i64, Vec<u8>)>,
    bytes: u64,
    most_bytes: u64,
    sent: i64,
    received: i64,
    changed: i64,
    sender: i32,
    receiver: i32,
    removed: bool,
}

/// `struct msqid64_ds`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct MsgId {
    perm: Perm,
    sent: i64,
    received: i64,
    changed: i64,
    bytes: u64,
    count: u64,
    most_bytes: u64,
    sender: i32,
    receiver: i32,
    unused: [u64; 2],
}
const _: () = assert!(size_of::<MsgId>() == 120);

impl Queue {
    fn stat(&self) -> MsgId {
        let perm = *self.perm.lock();
        let state = self.state.lock();
        MsgId {
            perm,
            sent: state.sent,
            received: state.received,
            changed: state.changed,
            bytes: state.bytes,
            count: state.messages.len() as u64,
            most_bytes: state.most_bytes,
            sender: state.sender,
            receiver: state.receiver,
            unused: [0; 2],
        }
    }

    /// Waits at the queue's hub, unless the caller does not want to.
    fn wait<T>(
        &self,
        ctx: &Ctx,
        events: Events,
        flags: u32,
        none: Errno,
        mut attempt: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        match attempt() {
            Err(Errno::EAGAIN) if flags & IPC_NOWAIT != 0 => return Err(none),
            Err(Errno::EAGAIN) => {}
            done => return done,
        }
        let answer = wait::block_on_hub(ctx, &self.hub, Waiting::for_events(events), attempt);
        // signal(7): msgsnd(2) and msgrcv(2) are never made again.
        answer.map_err(|error| if wants_restart(error) { Errno::EINTR } else { error })
    }
}

/// msgget(2).
pub fn msgget(ctx: &Ctx, key: i32, flags: u32) -> Result {
    ipc::all().messages.get(
        ctx,
        key,
        flags,
        MOST,
        |_| Ok(()),
        |perm| {
            let state = State { most_bytes: QUEUE_BYTES, changed: seconds(), ..State::default() };
            Ok(Queue { perm: Lock::new(perm), state: Lock::new(state), hub: Hub::new() })
        },
    )
}

/// msgsnd(2).
pub fn msgsnd(ctx: &Ctx, id: i32, message: UserPtr<i64>, len: usize, flags: u32) -> Result {
    let kind = message.read()?;
    if len > LARGEST || id < 0 || kind < 1 {
        return Err(Errno::EINVAL);
    }
    let mut text = alloc::vec![0u8; len];
    user::read_bytes(message.address() + 8, &mut text)?;
    let queue = ipc::all().messages.find(id)?;
    let mut text = Some(text);
    queue.wait(ctx, Events::WRITABLE, flags, Errno::EAGAIN, || {
        queue.perm.lock().permits(ctx, 0o222)?;
        let mut state = queue.state.lock();
        if state.removed {
            return Err(Errno::EIDRM);
        }
        let full = state.bytes + len as u64 > state.most_bytes;
        if full || state.messages.len() as u64 + 1 > state.most_bytes {
            return Err(Errno::EAGAIN);
        }
        state.messages.push_back((kind, text.take().ok_or(Errno::EINVAL)?));
        state.bytes += len as u64;
        state.sent = seconds();
        state.sender = pid(ctx.process);
        Ok(())
    })?;
    queue.hub.notify(Events::READABLE);
    Ok(0)
}

/// msgrcv(2).
pub fn msgrcv(ctx: &Ctx, id: i32, message: UserPtr<i64>, room: usize, kind: i64, flags: u32) -> Result {
    if id < 0 || (room as isize) < 0 {
        return Err(Errno::EINVAL);
    }
    if flags & MSG_COPY != 0 {
        return Err(Errno::ENOSYS);
    }
    let queue = ipc::all().messages.find(id)?;
    let (of, text) = queue.wait(ctx, Events::READABLE, flags, Errno::ENOMSG, || {
        queue.perm.lock().permits(ctx, 0o444)?;
        let mut state = queue.state.lock();
        if state.removed {
            return Err(Errno::EIDRM);
        }
        let at = choose(&state.messages, kind, flags & MSG_EXCEPT != 0).ok_or(Errno::EAGAIN)?;
        if state.messages[at].1.len() > room && flags & MSG_NOERROR == 0 {
            return Err(Errno::E2BIG);
        }
        let taken = state.messages.remove(at).ok_or(Errno::EAGAIN)?;
        state.bytes -= taken.1.len() as u64;
        state.received = seconds();
        state.receiver = pid(ctx.process);
        Ok(taken)
    })?;
    queue.hub.notify(Events::WRITABLE);
    let count = text.len().min(room);
    message.write(of)?;
    user::write_bytes(message.address() + 8, &text[..count])?;
    Ok(count)
}

/// Which message a receiver gets (msgop(2)): any, the first of a type, or the first of the lowest type.
fn choose(messages: &VecDeque<(i64, Vec<u8>)>, kind: i64, except: bool) -> Option<usize> {
    match kind {
        0 => (!messages.is_empty()).then_some(0),
        1.. if except => messages.iter().position(|message| message.0 != kind),
        1.. => messages.iter().position(|message| message.0 == kind),
        _ => {
            let most = kind.checked_neg().unwrap_or(i64::MAX);
            let lowest = messages.iter().map(|message| message.0).filter(|&of| of <= most).min()?;
            messages.iter().position(|message| message.0 == lowest)
        }
    }
}

/// msgctl(2).
pub fn msgctl(ctx: &Ctx, id: i32, command: i32, buffer: UserPtr<u8>) -> Result {
    let queues = &ipc::all().messages;
    match command {
        IPC_INFO | MSG_INFO => {
            let all = queues.all();
            let stats: Vec<MsgId> = all.iter().map(|(_, queue)| queue.stat()).collect();
            let count: u64 = stats.iter().map(|stat| stat.count).sum();
            let bytes: u64 = stats.iter().map(|stat| stat.bytes).sum();
            let (pool, map, headers) = match command {
                MSG_INFO => (all.len() as i32, count as i32, bytes as i32),
                _ => ((MOST as u64 * QUEUE_BYTES / 1024) as i32, QUEUE_BYTES as i32, QUEUE_BYTES as i32),
            };
            // struct msginfo: pool, map, max, mnb, mni, ssz, tql, and a short.
            let info = [pool, map, LARGEST as i32, QUEUE_BYTES as i32, MOST as i32, 16, headers, 0xffff];
            buffer.cast::<[i32; 8]>().write(info)?;
            Ok(queues.highest())
        }
        IPC_STAT | MSG_STAT | MSG_STAT_ANY => {
            let (id, queue) = if command == IPC_STAT { (0, queues.find(id)?) } else { queues.at(id)? };
            if command != MSG_STAT_ANY {
                queue.perm.lock().permits(ctx, 0o444)?;
            }
            buffer.cast::<MsgId>().write(queue.stat())?;
            Ok(id as usize)
        }
        IPC_SET => {
            let wish = buffer.cast::<MsgId>().read()?;
            let queue = queues.find(id)?;
            let mut perm = queue.perm.lock();
            perm.owned(ctx)?;
            let privileged = ctx.process.credentials.lock().privileged();
            if wish.most_bytes > QUEUE_BYTES && !privileged {
                return Err(Errno::EPERM);
            }
            perm.set(&wish.perm);
            drop(perm);
            {
                let mut state = queue.state.lock();
                state.most_bytes = wish.most_bytes;
                state.changed = seconds();
            }
            // More room, or less right: everybody looks again (msgctl(2)).
            queue.hub.notify(Events::READABLE | Events::WRITABLE);
            Ok(0)
        }
        IPC_RMID => {
            let queue = queues.find(id)?;
            queue.perm.lock().owned(ctx)?;
            queue.state.lock().removed = true;
            queues.remove(&queue);
            queue.hub.notify(Events::READABLE | Events::WRITABLE);
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// /proc/sysvipc/msg.
pub fn table() -> String {
    let mut text = String::from(
        "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n",
    );
    for (id, queue) in ipc::all().messages.all() {
        let s = queue.stat();
        let p = s.perm;
        text += &format!(
            "{:10} {:10}  {:4o}  {:10} {:10} {:5} {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10}\n",
            p.key,
            id,
            p.mode,
            s.bytes,
            s.count,
            s.sender,
            s.receiver,
            p.uid,
            p.gid,
            p.cuid,
            p.cgid,
            s.sent,
            s.received,
            s.changed
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_choose() {
        let queue: VecDeque<(i64, Vec<u8>)> = [5, 3, 9, 3].iter().map(|&of| (of, Vec::new())).collect();
        assert_eq!(choose(&queue, 0, false), Some(0));
        assert_eq!(choose(&queue, 3, false), Some(1));
        assert_eq!(choose(&queue, 5, true), Some(1));
        assert_eq!(choose(&queue, -4, false), Some(1));
        assert_eq!(choose(&queue, -2, false), None);
        assert_eq!(choose(&queue, i64::MIN, false), Some(1));
        assert_eq!(choose(&VecDeque::new(), 0, false), None);
    }
}
