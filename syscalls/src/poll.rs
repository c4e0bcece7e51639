//! poll(2), ppoll(2), select(2), pselect6(2): readiness of a few descriptors, asked for each time.
//!
//! One engine, [`wait_ready`]: look at every file; if nothing is ready and the call may wait, put the
//! thread's waiter in every hub, look again, and sleep.

use crate::args::Fd;
use crate::context::Ctx;
use crate::errno::RESTART_NO_HANDLER;
use crate::file::OpenFile;
use crate::hub::Events;
use crate::process::RLIMIT_NOFILE;
use crate::stay::Mark;
use crate::time::{self, Timeval};
use crate::user::UserPtr;
use crate::wait::{self, Woken};
use crate::{Errno, Result, signal};
use alloc::sync::Arc;
use alloc::vec::Vec;
use platform::time::{Instant, MILLISECOND, Timespec, now};

/// `struct pollfd`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollFd {
    /// Negative: skipped.
    pub fd: i32,
    /// Interest.
    pub events: u16,
    /// Answer.
    pub revents: u16,
}

/// The sixth argument of pselect6(2): a mask and its size behind one pointer.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SigmaskArgument {
    mask: usize,
    size: usize,
}

/// A descriptor in question.
#[derive(Clone, Copy)]
struct Question {
    fd: i32,
    interest: Events,
    ready: Events,
}

/// Questions that need no allocation.
const INLINE: usize = 16;

/// poll(2).
pub fn poll(ctx: &Ctx, fds: UserPtr<PollFd>, count: usize, timeout: i32) -> Result {
    let deadline = (timeout >= 0).then(|| now().after(timeout as u64 * MILLISECOND));
    poll_until(ctx, fds, count, timeout == 0, deadline)
}

/// ppoll(2).
pub fn ppoll(
    ctx: &Ctx,
    fds: UserPtr<PollFd>,
    count: usize,
    timeout: UserPtr<Timespec>,
    mask: UserPtr<u64>,
    size: usize,
) -> Result {
    let limit = timeout.read_optional()?.map(time::valid).transpose()?;
    signal::take_call_mask(ctx, mask, size)?;
    let deadline = limit.map(|ns| now().after(ns));
    let answer = poll_until(ctx, fds, count, limit == Some(0), deadline);
    write_rest(timeout, deadline);
    answer
}

/// select(2).
pub fn select(
    ctx: &Ctx,
    count: i32,
    read: UserPtr<u64>,
    write: UserPtr<u64>,
    except: UserPtr<u64>,
    timeout: UserPtr<Timeval>,
) -> Result {
    let limit = timeout.read_optional()?.map(Timeval::normalized).transpose()?;
    let deadline = limit.map(|ns| now().after(ns));
    let answer = select_until(ctx, count, [read, write, except], limit == Some(0), deadline);
    if let Some(deadline) = deadline {
        // Linux says how much was left, and drops a fault here.
        let _ = timeout.write(Timeval::from_ns(deadline.since(now())));
    }
    answer
}

/// pselect6(2).
pub fn pselect6(
    ctx: &Ctx,
    count: i32,
    read: UserPtr<u64>,
    write: UserPtr<u64>,
    except: UserPtr<u64>,
    timeout: UserPtr<Timespec>,
    mask: UserPtr<SigmaskArgument>,
) -> Result {
    let limit = timeout.read_optional()?.map(time::valid).transpose()?;
    if let Some(argument) = mask.read_optional()? {
        signal::take_call_mask(ctx, UserPtr::new(argument.mask), argument.size)?;
    }
    let deadline = limit.map(|ns| now().after(ns));
    let answer = select_until(ctx, count, [read, write, except], limit == Some(0), deadline);
    write_rest(timeout, deadline);
    answer
}

fn write_rest(timeout: UserPtr<Timespec>, deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        let _ = timeout.write(Timespec::from_ns(deadline.since(now())));
    }
}

fn poll_until(
    ctx: &Ctx,
    fds: UserPtr<PollFd>,
    count: usize,
    look_only: bool,
    deadline: Option<Instant>,
) -> Result {
    if count > ctx.process.limit(RLIMIT_NOFILE) {
        return Err(Errno::EINVAL);
    }
    with_questions(count, |questions| {
        for (at, question) in questions.iter_mut().enumerate() {
            let asked = fds.at(at).read()?;
            let interest = Events::from_bits_truncate(u32::from(asked.events)) | Events::ALWAYS;
            *question = Question { fd: asked.fd, interest, ready: Events::empty() };
        }
        let ready = wait_ready(ctx, questions, look_only, deadline)?;
        for (at, question) in questions.iter().enumerate() {
            let answer = question.ready.bits() as u16;
            fds.at(at).cast::<u16>().at(3).write(answer)?;
        }
        Ok(ready)
    })
}

const IN_SET: Events = Events::READABLE.union(Events::RDBAND).union(Events::ALWAYS);
const OUT_SET: Events = Events::WRITABLE.union(Events::WRBAND).union(Events::ERR);
const EXCEPT_SET: Events = Events::PRI;
const SETS: [Events; 3] = [IN_SET, OUT_SET, EXCEPT_SET];

fn select_until(
    ctx: &Ctx,
    count: i32,
    sets: [UserPtr<u64>; 3],
    look_only: bool,
    deadline: Option<Instant>,
) -> Result {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?.min(crate::fd::MAX_DESCRIPTORS);
    let words = count.div_ceil(64);
    let mut asked: [Vec<u64>; 3] = [Vec::new(), Vec::new(), Vec::new()];
    for (bits, set) in asked.iter_mut().zip(sets) {
        *bits = if set.is_null() { alloc::vec![0; words] } else { set.read_vec(words)? };
        if let Some(last) = bits.last_mut().filter(|_| !count.is_multiple_of(64)) {
            *last &= (1 << (count % 64)) - 1;
        }
    }
    let interest = |fd: usize| {
        (0..3)
            .filter(|&s| asked[s][fd / 64] >> (fd % 64) & 1 != 0)
            .fold(Events::empty(), |all, s| all | SETS[s])
    };
    let fds: Vec<usize> = (0..words)
        .filter(|&word| asked.iter().any(|bits| bits[word] != 0))
        .flat_map(|word| word * 64..word * 64 + 64)
        .filter(|&fd| !interest(fd).is_empty())
        .collect();
    with_questions(fds.len(), |questions| {
        for (question, &fd) in questions.iter_mut().zip(&fds) {
            *question = Question { fd: fd as i32, interest: interest(fd), ready: Events::empty() };
            ctx.file(Fd(fd as i32))?;
        }
        wait_ready(ctx, questions, look_only, deadline)?;
        let mut ready = 0;
        let mut answers: [Vec<u64>; 3] = core::array::from_fn(|_| alloc::vec![0; words]);
        for question in questions.iter() {
            let fd = question.fd as usize;
            for (set, answer) in answers.iter_mut().enumerate() {
                let was_asked = asked[set][fd / 64] >> (fd % 64) & 1 != 0;
                if was_asked && question.ready.intersects(SETS[set] | Events::NVAL) {
                    answer[fd / 64] |= 1 << (fd % 64);
                    ready += 1;
                }
            }
        }
        for (answer, set) in answers.iter().zip(sets).filter(|(_, set)| !set.is_null()) {
            set.write_all(answer)?;
        }
        Ok(ready)
    })
}

/// Room for `count` questions: on the stack if they are few.
fn with_questions(count: usize, run: impl FnOnce(&mut [Question]) -> Result) -> Result {
    const EMPTY: Question = Question { fd: -1, interest: Events::empty(), ready: Events::empty() };
    if count <= INLINE {
        return run(&mut [EMPTY; INLINE][..count]);
    }
    let mut questions = Vec::new();
    questions.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    questions.resize(count, EMPTY);
    run(&mut questions)
}

/// Fills in what is ready, after waiting if nothing is; answers how many are.
fn wait_ready(ctx: &Ctx, questions: &mut [Question], look_only: bool, deadline: Option<Instant>) -> Result {
    let ready = look(ctx, questions);
    if ready != 0 || look_only {
        return Ok(ready);
    }
    ctx.task.waiter.reset();
    let _watching = Watching::start(ctx, questions);
    loop {
        let ready = look(ctx, questions);
        if ready != 0 {
            return Ok(ready);
        }
        match wait::sleep(ctx.task, deadline) {
            Woken::Event => ctx.task.waiter.reset(),
            Woken::Deadline => return Ok(look(ctx, questions)),
            Woken::Signal => return Err(RESTART_NO_HANDLER),
        }
    }
}

fn look(ctx: &Ctx, questions: &mut [Question]) -> usize {
    let mut ready = 0;
    for question in questions.iter_mut().filter(|question| question.fd >= 0) {
        question.ready = match ctx.file(Fd(question.fd)) {
            Ok(open) => open.file.poll() & question.interest,
            Err(_) => Events::NVAL,
        };
        ready += usize::from(!question.ready.is_empty());
    }
    ready
}

/// The waiter's registrations, one for each question. Holds the descriptions: a close meanwhile
/// does not take the hubs away.
struct Watching<'a> {
    ctx: &'a Ctx<'a>,
    files: Vec<Arc<OpenFile>>,
    mark: Mark,
}

impl<'a> Watching<'a> {
    fn start(ctx: &'a Ctx, questions: &[Question]) -> Watching<'a> {
        let (waiter, stay) = (&ctx.task.waiter, &ctx.task.stay);
        let mark = stay.mark();
        let mut files = Vec::with_capacity(questions.len());
        for question in questions.iter().filter(|question| question.fd >= 0) {
            let Ok(open) = ctx.process.fds.get(question.fd) else { continue };
            if let Some(hub) = open.file.hub() {
                stay.registered(hub);
                stay.holds(&open);
                hub.add(waiter.key(), question.interest, false, waiter.clone());
                files.push(open);
            }
        }
        Watching { ctx, files, mark }
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let key = self.ctx.task.waiter.key();
        for hub in self.files.iter().filter_map(|open| open.file.hub()) {
            hub.remove(key);
        }
        self.ctx.task.stay.strike(self.mark);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::OpenFlags;
    use crate::eventfd::eventfd2;
    use crate::testing::{ctx, spawn, user, write};
    use std::time::Duration;

    fn eventfd(ctx: &Ctx, count: u32) -> i32 {
        eventfd2(ctx, count, OpenFlags(0)).unwrap() as i32
    }

    #[test]
    fn answers_each_descriptor() {
        let ctx = ctx();
        let (empty, full) = (eventfd(&ctx, 0), eventfd(&ctx, 1));
        let fd = |fd, events| PollFd { fd, events, revents: 0xffff };
        let fds = [fd(empty, 1), fd(full, 1), fd(-1, 1), fd(999, 1), fd(full, 0x45)];
        assert_eq!(poll(&ctx, UserPtr::new(fds.as_ptr() as usize), 5, -1), Ok(3));
        let fds = std::hint::black_box(fds);
        assert_eq!(fds.map(|fd| fd.revents), [0, 1, 0, 0x20, 0x45]);
        assert_eq!(poll(&ctx, UserPtr::new(16), 1, 0), Err(Errno::EFAULT));
    }

    #[test]
    fn waits_for_events_and_deadlines() {
        let ctx = ctx();
        let fd = eventfd(&ctx, 0);
        let asked = PollFd { fd, events: 1, revents: 0 };
        let start = now();
        assert_eq!(poll(&ctx, user(&asked), 1, 20), Ok(0));
        assert!(now().since(start) >= 20 * MILLISECOND);
        let writer = spawn(ctx.process, move |ctx| {
            std::thread::sleep(Duration::from_millis(20));
            write(&ctx.file(Fd(fd)).unwrap(), &1u64.to_ne_bytes())
        });
        assert_eq!(poll(&ctx, user(&asked), 1, 5000), Ok(1));
        writer.join().unwrap().unwrap();
        assert!(!ctx.file(Fd(fd)).unwrap().file.hub().unwrap().is_watched());
    }

    #[test]
    fn select_works_on_sets() {
        let ctx = ctx();
        let (empty, full) = (eventfd(&ctx, 0), eventfd(&ctx, 1));
        let both = 1u64 << empty | 1 << full;
        let (read, write, none) = (both, both, UserPtr::new(0));
        let time = Timeval { sec: 0, usec: 0 };
        assert_eq!(select(&ctx, full + 1, user(&read), user(&write), none, user(&time)), Ok(3));
        let (read, write) = std::hint::black_box((read, write));
        assert_eq!((read, write), (1 << full, both));
        let closed = 1u64 << 50;
        assert_eq!(select(&ctx, 51, user(&closed), none, none, user(&time)), Err(Errno::EBADF));
        assert_eq!(select(&ctx, -1, none, none, none, user(&time)), Err(Errno::EINVAL));
        let short = Timeval { sec: 0, usec: 15_000 };
        let start = now();
        assert_eq!(select(&ctx, 0, none, none, none, user(&short)), Ok(0));
        assert!(now().since(start) >= 15 * MILLISECOND);
    }
}
