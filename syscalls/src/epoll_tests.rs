//! epoll against the host kernel's: random operations in lockstep; and the cases with threads.

use super::*;
use crate::args::{EpollOp, OpenFlags};
use crate::eventfd::eventfd2;
use crate::testing::{self, Random, close, ctx, user};
use core::sync::atomic::AtomicUsize;
use platform::host;
use std::time::Duration;
use std::vec;

const IN: u32 = 1;
const OUT: u32 = 4;

/// One world: the host's kernel, or this crate.
trait World {
    fn eventfd(&self) -> i32;
    fn epoll(&self) -> i32;
    fn ctl(&self, ep: i32, op: i32, fd: i32, event: EpollEvent) -> Result;
    fn wait(&self, ep: i32, max: usize) -> Result<Vec<(u32, u64)>>;
    fn write(&self, fd: i32) -> Result;
    fn read(&self, fd: i32) -> Result;
    fn dup(&self, fd: i32) -> i32;
    fn close(&self, fd: i32);
}

/// The host's kernel, with a range of descriptors' numbers that no other test of this process uses: which number a
/// descriptor gets is part of the program, since an epoll knows its registrations by it.
struct Host(usize);

impl Host {
    fn new() -> Host {
        static NEXT: AtomicUsize = AtomicUsize::new(700);
        Host(NEXT.fetch_add(50, Ordering::Relaxed))
    }

    /// The descriptor at the lowest free number of the range.
    fn apart(&self, fd: usize) -> i32 {
        const F_DUPFD: usize = 0;
        // SAFETY: no memory; the old number is ours alone.
        unsafe {
            let moved = host!(fcntl, fd, F_DUPFD, self.0).unwrap();
            let _ = host!(close, fd);
            moved as i32
        }
    }
}

impl World for Host {
    fn eventfd(&self) -> i32 {
        // SAFETY: no memory.
        self.apart(unsafe { host!(eventfd2, 0, 0o4000).unwrap() })
    }
    fn epoll(&self) -> i32 {
        // SAFETY: no memory.
        self.apart(unsafe { host!(epoll_create1, 0).unwrap() })
    }
    fn ctl(&self, ep: i32, op: i32, fd: i32, event: EpollEvent) -> Result {
        // SAFETY: the event is ours.
        unsafe { host!(epoll_ctl, ep, op, fd, &raw const event) }
    }
    fn wait(&self, ep: i32, max: usize) -> Result<Vec<(u32, u64)>> {
        let mut events = [EpollEvent::default(); 16];
        // SAFETY: `max` is at most 16.
        let count = unsafe { host!(epoll_wait, ep, events.as_mut_ptr(), max, 0)? };
        Ok(events[..count].iter().map(|e| (e.events, e.data)).collect())
    }
    fn write(&self, fd: i32) -> Result {
        // SAFETY: eight bytes of ours.
        unsafe { host!(write, fd, &raw const ONE, 8) }
    }
    fn read(&self, fd: i32) -> Result {
        let mut value = 0u64;
        // SAFETY: eight bytes of ours.
        unsafe { host!(read, fd, &raw mut value, 8) }
    }
    fn dup(&self, fd: i32) -> i32 {
        // SAFETY: no memory.
        self.apart(unsafe { host!(dup, fd).unwrap() })
    }
    fn close(&self, fd: i32) {
        // SAFETY: no memory.
        let _ = unsafe { host!(close, fd) };
    }
}

static ONE: u64 = 1;

struct Guest(Ctx<'static>);
impl World for Guest {
    fn eventfd(&self) -> i32 {
        eventfd2(&self.0, 0, OpenFlags(0o4000)).unwrap() as i32
    }
    fn epoll(&self) -> i32 {
        epoll_create1(&self.0, OpenFlags(0)).unwrap() as i32
    }
    fn ctl(&self, ep: i32, op: i32, fd: i32, event: EpollEvent) -> Result {
        epoll_ctl(&self.0, Fd(ep), EpollOp(op), Fd(fd), user(&event))
    }
    fn wait(&self, ep: i32, max: usize) -> Result<Vec<(u32, u64)>> {
        let events = [EpollEvent::default(); 16];
        let count = epoll_wait(&self.0, Fd(ep), UserPtr::new(events.as_ptr() as usize), max as i32, 0)?;
        // Written behind the compiler's back: read it as such.
        let events = std::hint::black_box(events);
        Ok(events[..count].iter().map(|e| (e.events, e.data)).collect())
    }
    fn write(&self, fd: i32) -> Result {
        testing::write(&*self.0.file(Fd(fd))?, &ONE.to_ne_bytes())
    }
    fn read(&self, fd: i32) -> Result {
        testing::read(&*self.0.file(Fd(fd))?, &mut [0; 8])
    }
    fn dup(&self, fd: i32) -> i32 {
        self.0.install(self.0.process.fds.get(fd).unwrap(), false).unwrap() as i32
    }
    fn close(&self, fd: i32) {
        let _ = close(&self.0, fd);
    }
}

/// Random operations on a few eventfds (and duplicates of them) in one epoll, and in an epoll that
/// watches that one. Descriptors are named by their index, so both worlds see the same program.
fn script(world: &dyn World, seed: u64) -> Vec<std::string::String> {
    const FLAGS: [u32; 7] = [IN, OUT, IN | OUT, IN | EPOLLET, IN | OUT | EPOLLET, IN | EPOLLONESHOT, 0];
    let mut random = Random(seed);
    let (inner, outer) = (world.epoll(), world.epoll());
    let mut fds: Vec<i32> = (0..4).map(|_| world.eventfd()).collect();
    let mut log = vec![];
    let nested = EpollEvent { events: IN | if seed & 1 == 0 { EPOLLET } else { 0 }, data: 99 };
    log.push(std::format!("nest {:?}", world.ctl(outer, EPOLL_CTL_ADD, inner, nested)));
    for step in 0..400u64 {
        let at = random.below(fds.len() as u64) as usize;
        let fd = fds[at];
        let event = EpollEvent { events: FLAGS[random.below(7) as usize], data: at as u64 | step << 8 };
        let entry = match random.below(12) {
            0 | 1 => std::format!("add {at} {:?}", world.ctl(inner, EPOLL_CTL_ADD, fd, event)),
            2 => std::format!("mod {at} {:?}", world.ctl(inner, EPOLL_CTL_MOD, fd, event)),
            3 if random.below(3) == 0 => {
                std::format!("del {at} {:?}", world.ctl(inner, EPOLL_CTL_DEL, fd, event))
            }
            4..=6 => std::format!("write {at} {:?}", world.write(fd)),
            7 => std::format!("read {at} {:?}", world.read(fd)),
            8 if fds.len() < 8 => {
                fds.push(world.dup(fd));
                std::format!("dup {at}")
            }
            9 if fds.len() > 3 && random.below(2) == 0 => {
                world.close(fd);
                fds.remove(at);
                std::format!("close {at}")
            }
            10 => {
                let mut found = world.wait(outer, 4);
                if let Ok(found) = &mut found {
                    found.sort();
                }
                std::format!("outer {found:?}")
            }
            _ => {
                let max = [16, 16, 16, 1, 2][random.below(5) as usize];
                std::format!("wait {max} {:x?}", world.wait(inner, max))
            }
        };
        log.push(entry);
    }
    fds.iter().chain(&[inner, outer]).for_each(|&fd| world.close(fd));
    log
}

#[test]
fn follows_the_host() {
    let on_host = Host::new();
    for seed in 1..=200u64 {
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (host, guest) = (script(&on_host, seed), script(&Guest(ctx()), seed));
        for (at, (host, guest)) in host.iter().zip(&guest).enumerate() {
            assert_eq!(host, guest, "seed {seed:#x}, step {at}");
        }
    }
}

#[test]
fn refuses_as_linux_does() {
    for world in [&Host::new() as &dyn World, &Guest(ctx())] {
        let (ep, other, fd) = (world.epoll(), world.epoll(), world.eventfd());
        let event = |events| EpollEvent { events, data: 0 };
        let exclusive = IN | EPOLLEXCLUSIVE;
        let errnos = [
            world.ctl(ep, EPOLL_CTL_MOD, fd, event(IN)),
            world.ctl(ep, EPOLL_CTL_DEL, fd, event(IN)),
            world.ctl(ep, EPOLL_CTL_ADD, ep, event(IN)),
            world.ctl(fd, EPOLL_CTL_ADD, ep, event(IN)),
            world.ctl(ep, EPOLL_CTL_ADD, 12345, event(IN)),
            world.ctl(ep, 17, fd, event(IN)),
            world.ctl(ep, EPOLL_CTL_ADD, fd, event(exclusive | EPOLLONESHOT)),
            world.ctl(ep, EPOLL_CTL_ADD, other, event(exclusive)),
            world.ctl(ep, EPOLL_CTL_ADD, fd, event(exclusive)),
            world.ctl(ep, EPOLL_CTL_ADD, fd, event(IN)),
            world.ctl(ep, EPOLL_CTL_MOD, fd, event(IN)),
            world.ctl(ep, EPOLL_CTL_ADD, other, event(IN)),
            world.ctl(other, EPOLL_CTL_ADD, ep, event(IN)),
        ];
        let e = Err;
        let want = [
            e(Errno::ENOENT),
            e(Errno::ENOENT),
            e(Errno::EINVAL),
            e(Errno::EINVAL),
            e(Errno::EBADF),
            e(Errno::EINVAL),
            e(Errno::EINVAL),
            e(Errno::EINVAL),
            Ok(0),
            e(Errno::EEXIST),
            e(Errno::EINVAL),
            Ok(0),
            e(Errno::ELOOP),
        ];
        assert_eq!(errnos, want);
        [ep, other, fd].into_iter().for_each(|fd| world.close(fd));
    }
}

#[test]
fn nests_four_deep_and_no_deeper() {
    for world in [&Host::new() as &dyn World, &Guest(ctx())] {
        let chain: Vec<i32> = (0..8).map(|_| world.epoll()).collect();
        let event = EpollEvent { events: IN, data: 0 };
        // From the outermost inwards: the depth above counts too.
        let down: Vec<i32> = (0..8).map(|_| world.epoll()).collect();
        let answers: Vec<_> =
            down.windows(2).map(|pair| world.ctl(pair[0], EPOLL_CTL_ADD, pair[1], event)).collect();
        let refused = answers.iter().position(|answer| *answer == Err(Errno::ELOOP));
        assert_eq!(refused, Some(4), "{answers:?}");
        down.into_iter().for_each(|fd| world.close(fd));
        // From the innermost outwards.
        let answers: Vec<_> =
            chain.windows(2).map(|pair| world.ctl(pair[1], EPOLL_CTL_ADD, pair[0], event)).collect();
        let refused = answers.iter().position(|answer| *answer == Err(Errno::ELOOP));
        assert_eq!(refused, Some(4), "{answers:?}");
        chain.into_iter().for_each(|fd| world.close(fd));
    }
}

/// A blocking wait for one event with an index.
fn wait_one(ctx: &Ctx, ep: i32, timeout: i32) -> Result<Option<u64>> {
    let event = EpollEvent::default();
    let count = epoll_wait(ctx, Fd(ep), user(&event), 1, timeout)?;
    let event = std::hint::black_box(event);
    Ok((count == 1).then_some(event.data))
}

#[test]
fn wakes_sleepers_and_times_out() {
    let ctx = ctx();
    let world = Guest(ctx);
    let (ep, fd) = (world.epoll(), world.eventfd());
    world.ctl(ep, EPOLL_CTL_ADD, fd, EpollEvent { events: IN, data: 7 }).unwrap();
    let start = now();
    assert_eq!(wait_one(&ctx, ep, 30), Ok(None));
    assert!(now().since(start) >= 30 * MILLISECOND);
    let sleeper = testing::spawn(ctx.process, move |ctx| wait_one(&ctx, ep, 5000));
    std::thread::sleep(Duration::from_millis(20));
    world.write(fd).unwrap();
    assert_eq!(sleeper.join().unwrap(), Ok(Some(7)));
}

/// Many threads wait on one epoll, events are consumed one by one: none is lost, none doubled.
#[test]
fn edge_events_reach_exactly_one_thread() {
    let ctx = ctx();
    let world = Guest(ctx);
    let ep = world.epoll();
    let fds: Vec<i32> = (0..32).map(|_| world.eventfd()).collect();
    for (at, &fd) in fds.iter().enumerate() {
        let event = EpollEvent { events: IN | EPOLLET, data: at as u64 };
        world.ctl(ep, EPOLL_CTL_ADD, fd, event).unwrap();
    }
    let threads: Vec<_> = (0..4)
        .map(|_| {
            testing::spawn(ctx.process, move |ctx| {
                let mut seen = vec![];
                while let Ok(Some(at)) = wait_one(&ctx, ep, 400) {
                    seen.push(at);
                }
                seen
            })
        })
        .collect();
    for round in 0..50 {
        for &fd in &fds {
            world.write(fd).unwrap();
        }
        if round % 8 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let mut seen: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, (0..32).collect::<Vec<u64>>());
    assert_eq!(wait_one(&ctx, ep, 0), Ok(None));
}

/// EPOLLEXCLUSIVE: one event wakes one of the epolls that wait.
#[test]
fn exclusive_wakes_one() {
    let ctx = ctx();
    let world = Guest(ctx);
    let fd = world.eventfd();
    let sleepers: Vec<_> = (0..4)
        .map(|at| {
            let ep = world.epoll();
            let event = EpollEvent { events: IN | EPOLLET | EPOLLEXCLUSIVE, data: at };
            world.ctl(ep, EPOLL_CTL_ADD, fd, event).unwrap();
            testing::spawn(ctx.process, move |ctx| wait_one(&ctx, ep, 300))
        })
        .collect();
    std::thread::sleep(Duration::from_millis(50));
    world.write(fd).unwrap();
    let woken = sleepers.into_iter().filter(|_| true).map(|s| s.join().unwrap()).filter(|w| *w != Ok(None));
    assert_eq!(woken.count(), 1);
}

#[test]
fn closing_frees_everything() {
    let ctx = ctx();
    let world = Guest(ctx);
    let (ep, fd) = (world.epoll(), world.eventfd());
    world.ctl(ep, EPOLL_CTL_ADD, fd, EpollEvent { events: IN, data: 1 }).unwrap();
    world.write(fd).unwrap();
    let core = ctx.file(Fd(ep)).unwrap().downcast::<Epoll>().unwrap().core.clone();
    world.close(fd);
    assert_eq!(core.items.lock().len(), 0);
    assert_eq!(wait_one(&ctx, ep, 0), Ok(None));
    let fd = world.eventfd();
    world.ctl(ep, EPOLL_CTL_ADD, fd, EpollEvent { events: IN, data: 2 }).unwrap();
    world.close(ep);
    assert_eq!(Arc::strong_count(&core), 1, "items are gone");
    world.write(fd).unwrap();
}
