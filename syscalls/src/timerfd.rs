//! timerfd_create(2): a timer as a file.
//!
//! Expirations are computed from the clock when somebody reads, not counted one by one: the timer is
//! set for the first one only, and again by the read that took it. So a timer that nobody reads costs
//! nothing however short its period is (Linux does the same).

use crate::args::{Clock, Fd, OpenFlags};
use crate::context::Ctx;
use crate::file::{File, O_CLOEXEC, O_NONBLOCK, OpenFile, Sink, Stat};
use crate::hub::{Events, Hub};
use crate::rt::{self, Expire, TimerId};
use crate::time::{self, ITimerSpec};
use crate::user::UserPtr;
use crate::{Errno, Result};
use alloc::sync::Arc;
use platform::sync::Lock;
use platform::time::{Instant, Timespec, now};

const TFD_TIMER_ABSTIME: i32 = 1;
const TFD_TIMER_CANCEL_ON_SET: i32 = 2;

/// timerfd_create(2).
pub fn timerfd_create(ctx: &Ctx, clock: Clock, flags: OpenFlags) -> Result {
    const O_RDWR: u32 = 2;
    if flags.0 & !(O_CLOEXEC | O_NONBLOCK) != 0 || !time::can_time(clock.0) {
        return Err(Errno::EINVAL);
    }
    let inner = Arc::new(Inner { hub: Hub::new(), state: Lock::new(State::default()) });
    let open = OpenFile::new(TimerFd { clock: clock.0, inner }, O_RDWR | flags.0 & O_NONBLOCK);
    ctx.install(Arc::new(open), flags.0 & O_CLOEXEC != 0)
}

/// timerfd_settime(2).
pub fn timerfd_settime(
    ctx: &Ctx,
    fd: Fd,
    flags: i32,
    new: UserPtr<ITimerSpec>,
    old: UserPtr<ITimerSpec>,
) -> Result {
    if flags & !(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let new = new.read()?;
    let (value, interval) = (time::valid(new.value)?, time::valid(new.interval)?);
    let open = ctx.file(fd)?;
    let file = open.downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    let deadline = match (value, flags & TFD_TIMER_ABSTIME != 0) {
        (0, _) => None,
        (value, true) => Some(time::instant_of(file.clock, value)?),
        (value, false) => Some(now().after(value)),
    };
    let before = file.inner.set(deadline, interval);
    old.write_optional(before)?;
    Ok(0)
}

/// timerfd_gettime(2).
pub fn timerfd_gettime(ctx: &Ctx, fd: Fd, to: UserPtr<ITimerSpec>) -> Result {
    let open = ctx.file(fd)?;
    let file = open.downcast::<TimerFd>().ok_or(Errno::EINVAL)?;
    let now = file.inner.state.lock().spec();
    to.write(now)?;
    Ok(0)
}

/// The file.
pub struct TimerFd {
    clock: i32,
    inner: Arc<Inner>,
}

struct Inner {
    hub: Hub,
    state: Lock<State>,
}

#[derive(Default)]
struct State {
    /// The next expiration that nobody has read; `None`: disarmed.
    deadline: Option<Instant>,
    interval: u64,
    timer: Option<TimerId>,
}

impl State {
    /// What timerfd_gettime answers: the time to the next expiration from now on.
    fn spec(&self) -> ITimerSpec {
        let left = match self.deadline {
            None => 0,
            Some(deadline) if deadline > now() => deadline.since(now()),
            Some(_) if self.interval == 0 => 0,
            Some(deadline) => self.interval - now().since(deadline) % self.interval,
        };
        ITimerSpec { interval: Timespec::from_ns(self.interval), value: Timespec::from_ns(left) }
    }

    /// Takes the expirations up to now.
    fn take(&mut self) -> u64 {
        let Some(deadline) = self.deadline.filter(|&deadline| deadline <= now()) else { return 0 };
        if self.interval == 0 {
            self.deadline = None;
            return 1;
        }
        let count = now().since(deadline) / self.interval + 1;
        self.deadline = Some(deadline.after(count.saturating_mul(self.interval)));
        count
    }
}

impl Inner {
    fn set(self: &Arc<Inner>, deadline: Option<Instant>, interval: u64) -> ITimerSpec {
        let mut state = self.state.lock();
        let before = state.spec();
        let old = state.timer.take();
        state.deadline = deadline;
        state.interval = interval;
        self.arm(&mut state);
        drop(state);
        if let Some(old) = old {
            rt::timer_cancel(old);
        }
        before
    }

    fn arm(self: &Arc<Inner>, state: &mut State) {
        state.timer = state.deadline.map(|deadline| rt::timer_add(deadline, self.clone()));
    }
}

impl Expire for Inner {
    fn expire(&self, _now: Instant) {
        // A timer that was set anew meanwhile is not due, and a reader finds nothing: harmless.
        self.hub.notify(Events::READABLE);
    }
}

impl Drop for TimerFd {
    fn drop(&mut self) {
        let timer = self.inner.state.lock().timer.take();
        if let Some(timer) = timer {
            rt::timer_cancel(timer);
        }
    }
}

impl File for TimerFd {
    fn poll(&self) -> Events {
        let due = self.inner.state.lock().deadline.is_some_and(|deadline| deadline <= now());
        if due { Events::READABLE } else { Events::empty() }
    }

    fn hub(&self) -> Option<&Hub> {
        Some(&self.inner.hub)
    }

    fn read(&self, _open: &OpenFile, _at: &mut u64, into: &mut dyn Sink) -> Result {
        if into.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let count = {
            let mut state = self.inner.state.lock();
            let count = state.take();
            if count != 0 {
                self.inner.arm(&mut state);
            }
            count
        };
        if count == 0 {
            return Err(Errno::EAGAIN);
        }
        into.put(&count.to_ne_bytes())
    }

    fn stat(&self, out: &mut Stat) -> Result<()> {
        *out = Stat { mode: 0o600, nlink: 1, blksize: 4096, ..Stat::default() };
        Ok(())
    }

    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        f.write_str("anon_inode:[timerfd]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ctx, read, user};
    use crate::wait::{Waiting, block_on};
    use platform::time::MILLISECOND;

    fn spec(value: u64, interval: u64) -> ITimerSpec {
        ITimerSpec { interval: Timespec::from_ns(interval), value: Timespec::from_ns(value) }
    }

    #[test]
    fn counts_expirations() {
        let ctx = ctx();
        let fd = Fd(timerfd_create(&ctx, Clock(1), OpenFlags(0)).unwrap() as i32);
        let open = ctx.file(fd).unwrap();
        let none = UserPtr::new(0);
        let mut count = [0; 8];
        assert_eq!(read(&open, &mut count), Err(Errno::EAGAIN));
        let started = now();
        timerfd_settime(&ctx, fd, 0, user(&spec(10 * MILLISECOND, 10 * MILLISECOND)), none).unwrap();
        let how = Waiting::for_events(Events::READABLE);
        assert_eq!(block_on(&ctx, &open, how, || read(&open, &mut count)), Ok(8));
        assert!(now().since(started) >= 10 * MILLISECOND);
        std::thread::sleep(std::time::Duration::from_millis(35));
        assert_eq!(read(&open, &mut count), Ok(8));
        assert!((2..=6).contains(&u64::from_ne_bytes(count)), "{count:?}");
        let left = ITimerSpec::default();
        timerfd_gettime(&ctx, fd, user(&left)).unwrap();
        let left = std::hint::black_box(left);
        assert!(left.value.to_ns() <= 10 * MILLISECOND && left.value.to_ns() > 0);
        timerfd_settime(&ctx, fd, 0, user(&spec(0, 0)), none).unwrap();
        assert_eq!(open.file.poll(), Events::empty());
    }

    #[test]
    fn absolute_times_in_the_past_are_due_at_once() {
        let ctx = ctx();
        let fd = Fd(timerfd_create(&ctx, Clock(0), OpenFlags(0)).unwrap() as i32);
        let open = ctx.file(fd).unwrap();
        let past = spec(1, 0);
        timerfd_settime(&ctx, fd, TFD_TIMER_ABSTIME, user(&past), UserPtr::new(0)).unwrap();
        assert_eq!(open.file.poll(), Events::READABLE);
        assert_eq!(read(&open, &mut [0; 8]), Ok(8));
        assert_eq!(read(&open, &mut [0; 8]), Err(Errno::EAGAIN));
        assert_eq!(timerfd_create(&ctx, Clock(2), OpenFlags(0)), Err(Errno::EINVAL));
    }
}
