//! The allocator by itself (the crate's other tests run on the host's): contents, alignment, reuse
//! between threads, resizing, and what it says about misuse.

use super::{imp, names, pages};
use crate::types::c_void;
use std::vec::Vec;

struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize
    }

    /// Small sizes often, large ones now and then.
    fn size(&mut self) -> usize {
        let bits = match self.next() % 100 {
            0..60 => 8,
            60..90 => 12,
            90..99 => 16,
            _ => 20,
        };
        self.next() & ((1 << bits) - 1)
    }
}

struct Block {
    at: *mut u8,
    len: usize,
    mark: u8,
}
// SAFETY: a block belongs to whoever has it.
unsafe impl Send for Block {}

impl Block {
    fn new(at: *mut u8, len: usize, mark: u8) -> Block {
        assert!(!at.is_null());
        assert_eq!(at as usize % 16, 0);
        assert!(imp::usable(at as usize).unwrap() >= len);
        // SAFETY: a fresh block.
        unsafe { at.write_bytes(mark, len) };
        Block { at, len, mark }
    }

    fn check(&self) {
        // SAFETY: our block.
        let bytes = unsafe { core::slice::from_raw_parts(self.at, self.len) };
        assert!(bytes.iter().all(|&b| b == self.mark), "{:p} of {} bytes was overwritten", self.at, self.len);
    }

    fn free(self) {
        self.check();
        // SAFETY: our block, given up.
        unsafe { imp::free(self.at.cast()) };
    }
}

fn allocate(random: &mut Random) -> Block {
    let (len, mark) = (random.size(), random.next() as u8);
    match random.next() % 8 {
        0 => {
            let at: *mut u8 = imp::calloc(1, len).cast();
            // SAFETY: a fresh block.
            let bytes = unsafe { core::slice::from_raw_parts(at, len) };
            assert!(bytes.iter().all(|&b| b == 0));
            Block::new(at, len, mark)
        }
        1 => {
            let align = 1 << (random.next() % 16);
            let at: *mut u8 = imp::memalign(align, len).cast();
            assert_eq!(at as usize % align, 0);
            Block::new(at, len, mark)
        }
        _ => Block::new(imp::malloc(len).cast(), len, mark),
    }
}

fn work(seed: u64, rounds: usize, given: &std::sync::Mutex<Vec<Block>>) {
    let mut random = Random(seed);
    let mut live: Vec<Block> = Vec::new();
    for _ in 0..rounds {
        match random.next() % 10 {
            0..5 => live.push(allocate(&mut random)),
            5..8 if !live.is_empty() => live.swap_remove(random.next() % live.len()).free(),
            8 if !live.is_empty() => {
                let mut block = live.swap_remove(random.next() % live.len());
                let len = random.size().max(1);
                block.check();
                // SAFETY: our block, given up for the new one.
                let at: *mut u8 = unsafe { imp::realloc(block.at.cast(), len) }.cast();
                block = Block { at, len: block.len.min(len), mark: block.mark };
                block.check();
                live.push(Block::new(at, len, block.mark));
            }
            // Blocks go from thread to thread.
            _ => {
                let mut given = given.lock().unwrap();
                given.extend(live.pop());
                if given.len() > 20 {
                    let at = random.next() % given.len();
                    live.push(given.swap_remove(at));
                }
            }
        }
    }
    live.into_iter().for_each(Block::free);
    super::cache::flush_all();
}

#[test]
fn random_work_on_several_threads() {
    let given = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for seed in 1..5 {
            let given = &given;
            scope.spawn(move || work(seed * 7919, 30_000, given));
        }
    });
    given.into_inner().unwrap().into_iter().for_each(Block::free);
    // SAFETY: takes a number.
    unsafe { names::malloc_trim(0) };
}

#[test]
fn large_blocks_grow_and_shrink_and_give_back() {
    // SAFETY: our own blocks.
    unsafe {
        let mut at: *mut u8 = imp::malloc(100_000).cast();
        at.write_bytes(7, 100_000);
        for len in [200_000, 5 << 20, 40 << 20, 80 << 20, 33 << 20, 1 << 20, 50_000, 10] {
            at = imp::realloc(at.cast(), len).cast();
            assert!(!at.is_null());
            assert!(core::slice::from_raw_parts(at, len.min(10)).iter().all(|&b| b == 7), "{len}");
            at.add(len - 1).write(1);
            assert!(imp::usable(at as usize).unwrap() >= len);
            if len > 10 {
                at.write_bytes(7, 10);
            }
        }
        imp::free(at.cast());
        let zero: *mut u8 = imp::calloc(3 << 20, 1).cast();
        assert!(core::slice::from_raw_parts(zero, 3 << 20).iter().all(|&b| b == 0));
        imp::free(zero.cast());
    }
}

#[test]
fn alignments_up_to_huge() {
    for align in (4..=27).map(|bits| 1usize << bits) {
        for len in [0, 1, 100, 5000, 70_000, 3 << 20, 40 << 20] {
            let at = imp::memalign(align, len);
            assert!(!at.is_null() && (at as usize).is_multiple_of(align), "{align} {len}");
            // SAFETY: our own block.
            unsafe { imp::free(at) };
        }
    }
}

#[test]
fn refuses_what_cannot_be() {
    use crate::errno;
    use platform::Errno;
    // SAFETY: our own blocks and out pointers.
    unsafe {
        for size in [usize::MAX, isize::MAX as usize, isize::MAX as usize + 1, 1 << 47] {
            errno::set(Errno(0));
            assert!(imp::malloc(size).is_null());
            assert_eq!(errno::get(), Errno::ENOMEM, "{size:#x}");
        }
        assert!(imp::calloc(usize::MAX / 2, 3).is_null());
        assert!(names::reallocarray(core::ptr::null_mut(), usize::MAX / 2, 3).is_null());
        let mut out = core::ptr::null_mut();
        assert_eq!(names::posix_memalign(&raw mut out, 24, 10), Errno::EINVAL.0);
        assert_eq!(names::posix_memalign(&raw mut out, 4, 10), Errno::EINVAL.0);
        assert_eq!(names::posix_memalign(&raw mut out, 4096, 10), 0);
        assert!(imp::realloc(out, 0).is_null());
        let block = imp::malloc(0);
        assert!(!block.is_null());
        imp::free(block);
        imp::free(core::ptr::null_mut());
    }
}

#[test]
fn counts_what_is_in_use() {
    // SAFETY: takes nothing.
    unsafe {
        let all = names::mallinfo2();
        let text = std::format!("{all:?}");
        assert!(text.contains("arena"));
        let block = imp::malloc(50 << 20);
        assert!(std::format!("{:?}", names::mallinfo2()) != text);
        imp::free(block);
    }
    let stats = pages::stats();
    assert!(stats.peak >= stats.large);
}

/// Runs `crime` in a child process of the host and answers what it said before it died of SIGABRT.
fn last_words(crime: fn()) -> std::string::String {
    let mut ends = [0i32; 2];
    // SAFETY: our own pipe; the child only runs `crime` and ends.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        let pid = libc::fork();
        if pid == 0 {
            libc::dup2(ends[1], 2);
            crime();
            libc::_exit(0);
        }
        libc::close(ends[1]);
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT, "{status:#x}");
        let mut text = [0u8; 200];
        let got = libc::read(ends[0], text.as_mut_ptr().cast(), text.len()).max(0) as usize;
        libc::close(ends[0]);
        std::string::String::from_utf8_lossy(&text[..got]).into_owned()
    }
}

#[test]
fn misuse_ends_the_program_in_glibcs_words() {
    let double = || {
        let block = imp::malloc(40);
        // SAFETY: none: that is the point.
        unsafe {
            imp::free(block);
            imp::free(block);
        }
    };
    assert_eq!(last_words(double), "free(): double free detected in tcache 2\n");
    let inside = || {
        let block = imp::malloc(40);
        // SAFETY: as above.
        unsafe { imp::free(block.byte_add(8)) };
    };
    assert_eq!(last_words(inside), "free(): invalid pointer\n");
    let foreign = || {
        let local = 0u64;
        // SAFETY: as above.
        unsafe { imp::free((&raw const local).cast_mut().cast()) };
    };
    assert_eq!(last_words(foreign), "free(): invalid pointer\n");
    let large_twice = || {
        let block = imp::malloc(1 << 20);
        // SAFETY: as above.
        unsafe {
            imp::free(block);
            imp::free(block);
        }
    };
    assert_eq!(last_words(large_twice), "free(): invalid pointer\n");
}

/// Not a check: prints nanoseconds beside the host's. `cargo test --release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn measure() {
    type Malloc = fn(usize) -> *mut u8;
    type Free = fn(*mut u8);
    let ours: (Malloc, Free) = (
        |n| imp::malloc(n).cast(),
        // SAFETY: the measurement's own blocks.
        |p| unsafe { imp::free(p.cast()) },
    );
    let theirs: (Malloc, Free) = (
        // SAFETY: as above.
        |n| unsafe { libc::malloc(n).cast() },
        // SAFETY: as above.
        |p| unsafe { libc::free(p.cast()) },
    );
    for (name, (malloc, free)) in [("ours", ours), ("host", theirs), ("ours", ours), ("host", theirs)] {
        let mut report = std::format!("{name}:");
        for (what, live, size) in [
            ("pair 64", 1usize, 64usize),
            ("lifo 100", 100, 48),
            ("random 10000", 10_000, 0),
            ("16K x 100", 100, 16 << 10),
            ("200K", 4, 200_000),
        ] {
            let mut random = Random(99);
            let mut blocks: Vec<*mut u8> = std::vec![core::ptr::null_mut(); live];
            let rounds = 2_000_000 / if size > 10_000 { 20 } else { 1 };
            let start = std::time::Instant::now();
            for round in 0..rounds {
                let at = if size == 0 { random.next() % live } else { round % live };
                if !blocks[at].is_null() {
                    free(blocks[at]);
                }
                blocks[at] = malloc(if size == 0 { random.size() } else { size });
                // SAFETY: our block.
                unsafe { blocks[at].write(1) };
            }
            let ns = start.elapsed().as_nanos() as f64 / rounds as f64;
            report += &std::format!("  {what} {ns:.1} ns");
            blocks.into_iter().for_each(free);
        }
        std::println!("{report}");
    }
}

/// A thread keeps the large blocks that it freed last, a few; they are no blocks meanwhile, and go back in the end.
#[test]
fn large_blocks_are_kept_for_a_while() {
    std::thread::spawn(|| {
        let first = imp::malloc(100_000) as usize;
        // SAFETY: a block of ours, given up once.
        unsafe {
            (first as *mut u8).write_bytes(0xaa, 100_000);
            imp::free(first as *mut c_void);
        }
        assert_eq!(imp::usable(first), None, "freed");
        let again = imp::calloc(1, 95_000);
        assert_eq!(again as usize, first);
        assert!(imp::usable(first).unwrap() >= 95_000);
        // SAFETY: 95,000 bytes of ours.
        let bytes = unsafe { core::slice::from_raw_parts(again.cast::<u8>(), 95_000) };
        assert!(bytes.iter().all(|byte| *byte == 0));
        let other = imp::malloc(50_000);
        assert_ne!(other as usize, first, "a shorter one is another");
        let many: Vec<usize> = (0..20).map(|_| imp::malloc(60_000) as usize).collect();
        let mut sorted = many.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), 20);
        for block in many.into_iter().chain([again as usize, other as usize]) {
            // SAFETY: as above.
            unsafe { imp::free(block as *mut c_void) };
        }
        assert!((1..=512 << 10).contains(&super::cache::cached_bytes()));
        super::cache::flush_all();
        assert_eq!(super::cache::cached_bytes(), 0);
    })
    .join()
    .unwrap();
}

/// Who grows a block step by step gets, the next time, the place where one grew before; the contents come along.
#[test]
fn growing_again_stays_where_it_grew() {
    std::thread::spawn(|| {
        let grow = || {
            let (mut block, mut places) = (core::ptr::null_mut::<u8>(), Vec::new());
            for step in 4..17 {
                // SAFETY: a block of ours, of 2^(step - 1) bytes that were written.
                unsafe {
                    block = imp::realloc(block.cast(), 1 << step).cast();
                    let bytes = core::slice::from_raw_parts_mut(block, 1 << step);
                    if step > 4 {
                        assert!(bytes[..1 << (step - 1)].iter().all(|byte| *byte == step - 1));
                    }
                    bytes.fill(step);
                }
                assert!(imp::usable(block as usize).unwrap() >= 1 << step);
                places.push(block as usize);
            }
            // SAFETY: given up once.
            unsafe { imp::free(block.cast()) };
            places
        };
        let first = grow();
        let again = grow();
        // 8 KiB to 64 KiB.
        assert!(again[9..].iter().all(|place| *place == first[12]), "{first:x?} {again:x?}");
        // And it becomes shorter when it is made so.
        // SAFETY: as above.
        unsafe {
            let block = imp::realloc(core::ptr::null_mut(), 4096);
            let block = imp::realloc(block, 60_000);
            let block = imp::realloc(block, 40_000);
            assert!(imp::usable(block as usize).unwrap() < 50_000);
            imp::free(block);
        }
        super::cache::flush_all();
        assert_eq!(super::cache::cached_bytes(), 0);
    })
    .join()
    .unwrap();
}

/// A thread's bins hold two batches of a class at most, however many blocks come back.
#[test]
fn what_comes_back_is_passed_on() {
    std::thread::spawn(|| {
        let blocks: Vec<_> = (0..5000).map(|_| imp::malloc(64)).collect();
        for block in blocks {
            // SAFETY: a block of ours, given up once.
            unsafe { imp::free(block) };
            assert!(super::cache::cached_bytes() <= 128 * 64 + 16384, "{}", super::cache::cached_bytes());
        }
        super::cache::flush_all();
        assert_eq!(super::cache::cached_bytes(), 0);
    })
    .join()
    .unwrap();
}
