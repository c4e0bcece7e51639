//! Pseudo-random numbers (`random`, `rand`, `drand48` families) and `arc4random`.
//!
//! `random` is the additive feedback generator of BSD with glibc's seeding, number for number:
//! programs print and store seeded sequences. `arc4random` asks the kernel each time, as glibc 2.36.

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::errno;
use crate::futex::Lock;
use crate::kcall;
use crate::types::*;
use core::ptr::null_mut;
use platform::Errno;

/// `struct random_data`
#[repr(C)]
pub struct RandomData {
    front: *mut i32,
    rear: *mut i32,
    state: *mut i32,
    kind: c_int,
    degree: c_int,
    separation: c_int,
    end: *mut i32,
}

/// (least bytes of state, degree, separation) by kind.
const KINDS: [(usize, c_int, c_int); 5] = [(8, 0, 0), (32, 7, 3), (64, 15, 1), (128, 31, 3), (256, 63, 1)];

static LOCK: Lock<()> = Lock::new(());

/// Held over a fork.
pub(crate) fn fork_lock() -> &'static crate::futex::RawLock {
    LOCK.raw()
}
static mut STATE: [i32; 32] = [0; 32];
static mut GLOBAL: RandomData = RandomData {
    front: null_mut(),
    rear: null_mut(),
    state: null_mut(),
    kind: 3,
    degree: 31,
    separation: 3,
    end: null_mut(),
};

/// The process's generator, seeded with 1 at its first use.
unsafe fn global() -> *mut RandomData {
    let data = &raw mut GLOBAL;
    if (*data).state.is_null() {
        (*data).state = (&raw mut STATE).cast::<i32>().add(1);
        (*data).end = (*data).state.add(31);
        srandom_r(1, data);
    }
    data
}

/// Stores kind and rear position in the word before the state, as setstate(3) expects.
unsafe fn seal(data: *mut RandomData) {
    let position = if (*data).kind == 0 { 0 } else { (*data).rear.offset_from((*data).state) as i32 };
    *(*data).state.sub(1) = position * 5 + (*data).kind;
}

fn invalid() -> c_int {
    errno::set(Errno(22));
    -1
}

abi! { EXPORTS "libc.so.6":
    /// srandom_r(3).
    "GLIBC_2.2.5" fn srandom_r(seed: c_uint, data: *mut RandomData) -> c_int {
        if data.is_null() || !(0..5).contains(&(*data).kind) {
            return -1;
        }
        let state = (*data).state;
        let mut word = if seed == 0 { 1 } else { seed as i32 };
        *state = word;
        if (*data).kind == 0 {
            return 0;
        }
        for at in 1..(*data).degree as usize {
            // 16807 * word % (2^31 - 1) without overflow.
            let (high, low) = (word as i64 / 127773, word as i64 % 127773);
            word = (16807 * low - 2836 * high) as i32;
            if word < 0 {
                word = word.wrapping_add(i32::MAX);
            }
            *state.add(at) = word;
        }
        (*data).front = state.add((*data).separation as usize);
        (*data).rear = state;
        let mut ignored = 0;
        for _ in 0..(*data).degree * 10 {
            random_r(data, &mut ignored);
        }
        0
    }
    /// random_r(3).
    "GLIBC_2.2.5" fn random_r(data: *mut RandomData, result: *mut i32) -> c_int {
        if data.is_null() || result.is_null() {
            return invalid();
        }
        let state = (*data).state;
        if (*data).kind == 0 {
            *state = ((*state as u32).wrapping_mul(1103515245).wrapping_add(12345) & 0x7fff_ffff) as i32;
            *result = *state;
            return 0;
        }
        let value = (*(*data).front as u32).wrapping_add(*(*data).rear as u32);
        *(*data).front = value as i32;
        *result = (value >> 1) as i32;
        let end = (*data).end;
        let step = |at: *mut i32| if at.add(1) >= end { state } else { at.add(1) };
        (*data).front = step((*data).front);
        (*data).rear = step((*data).rear);
        0
    }
    /// initstate_r(3).
    "GLIBC_2.2.5" fn initstate_r(
        seed: c_uint, buffer: *mut c_char, size: usize, data: *mut RandomData,
    ) -> c_int {
        if data.is_null() || size < KINDS[0].0 {
            return invalid();
        }
        if !(*data).state.is_null() {
            seal(data);
        }
        let kind = KINDS.iter().rposition(|kind| size >= kind.0).unwrap_or(0);
        (*data).kind = kind as c_int;
        (*data).degree = KINDS[kind].1;
        (*data).separation = KINDS[kind].2;
        (*data).state = buffer.cast::<i32>().add(1);
        (*data).end = (*data).state.add((*data).degree as usize);
        srandom_r(seed, data);
        seal(data);
        0
    }
    /// setstate_r(3).
    "GLIBC_2.2.5" fn setstate_r(buffer: *mut c_char, data: *mut RandomData) -> c_int {
        if data.is_null() || buffer.is_null() {
            return invalid();
        }
        seal(data);
        let state: *mut i32 = buffer.cast::<i32>().add(1);
        let word = *state.sub(1);
        let kind = word % 5;
        if !(0..5).contains(&kind) {
            return invalid();
        }
        let (_, degree, separation) = KINDS[kind as usize];
        (*data).kind = kind;
        (*data).degree = degree;
        (*data).separation = separation;
        (*data).state = state;
        (*data).end = state.add(degree as usize);
        if kind != 0 {
            let rear = word / 5;
            (*data).rear = state.add(rear as usize);
            (*data).front = state.add(((rear + separation) % degree) as usize);
        }
        0
    }
    /// random(3).
    "GLIBC_2.2.5" fn random() -> c_long {
        let _guard = LOCK.lock();
        let mut result = 0;
        random_r(global(), &mut result);
        result as c_long
    }
    /// rand(3).
    "GLIBC_2.2.5" fn rand() -> c_int {
        random() as c_int
    }
    /// srandom(3).
    "GLIBC_2.2.5" fn srandom(seed: c_uint) {
        let _guard = LOCK.lock();
        srandom_r(seed, global());
    }
    /// initstate(3).
    "GLIBC_2.2.5" fn initstate(seed: c_uint, buffer: *mut c_char, size: usize) -> *mut c_char {
        let _guard = LOCK.lock();
        let old = (*global()).state.sub(1);
        if initstate_r(seed, buffer, size, global()) == 0 { old.cast() } else { null_mut() }
    }
    /// setstate(3).
    "GLIBC_2.2.5" fn setstate(buffer: *mut c_char) -> *mut c_char {
        let _guard = LOCK.lock();
        let old = (*global()).state.sub(1);
        if setstate_r(buffer, global()) == 0 { old.cast() } else { null_mut() }
    }
    /// rand_r(3).
    "GLIBC_2.2.5" fn rand_r(seed: *mut c_uint) -> c_int {
        let mut next = *seed;
        let mut step = || {
            next = next.wrapping_mul(1103515245).wrapping_add(12345);
            next / 65536
        };
        let mut result = step() % 2048;
        result = (result << 10) ^ (step() % 1024);
        result = (result << 10) ^ (step() % 1024);
        *seed = next;
        result as c_int
    }
    /// arc4random_buf(3): glibc ends the process if the kernel has no randomness to give.
    "GLIBC_2.36" fn arc4random_buf(buffer: *mut c_void, size: usize) {
        let mut at = 0;
        while at < size {
            match kcall!(getrandom, buffer.add(at), size - at, 0) {
                Ok(got) => at += got,
                Err(Errno(4)) => {}
                Err(_) => crate::fortify::die("Fatal glibc error: cannot get entropy for arc4random\n"),
            }
        }
    }
    /// arc4random(3).
    "GLIBC_2.36" fn arc4random() -> u32 {
        let mut value = 0u32;
        arc4random_buf((&raw mut value).cast(), 4);
        value
    }
    /// arc4random_uniform(3).
    "GLIBC_2.36" fn arc4random_uniform(bound: u32) -> u32 {
        if bound < 2 {
            return 0;
        }
        // Values below 2^32 mod bound would make the low results more likely.
        let least = bound.wrapping_neg() % bound;
        loop {
            let value = arc4random();
            if value >= least {
                return value % bound;
            }
        }
    }
    /// getentropy(3).
    "GLIBC_2.25" fn getentropy(buffer: *mut c_void, size: usize) -> c_int {
        if size > 256 {
            errno::set(Errno(5));
            return -1;
        }
        let mut at = 0;
        while at < size {
            match kcall!(getrandom, buffer.add(at), size - at, 0) {
                Ok(got) => at += got,
                Err(Errno(4)) => {}
                Err(errno) => {
                    errno::set(errno);
                    return -1;
                }
            }
        }
        0
    }
}

/// `struct drand48_data`
#[repr(C)]
pub struct Rand48 {
    x: [u16; 3],
    old_x: [u16; 3],
    c: u16,
    init: u16,
    a: u64,
}

static mut RAND48: Rand48 = Rand48 { x: [0; 3], old_x: [0; 3], c: 0, init: 0, a: 0 };

/// Steps `x` (POSIX: X' = aX + c mod 2^48) and answers it.
unsafe fn step48(x: *mut u16, data: *mut Rand48) -> u64 {
    if (*data).init == 0 {
        ((*data).a, (*data).c, (*data).init) = (0x5deece66d, 0xb, 1);
    }
    let word = |at: usize| *x.add(at) as u64;
    let old = word(0) | word(1) << 16 | word(2) << 32;
    let new = old.wrapping_mul((*data).a).wrapping_add((*data).c as u64) & 0xffff_ffff_ffff;
    for at in 0..3 {
        *x.add(at) = (new >> (16 * at)) as u16;
    }
    new
}

fn unit(x: u64) -> f64 {
    // 48 bits of fraction of a number in [1, 2).
    f64::from_bits(0x3ff0_0000_0000_0000 | x << 4) - 1.0
}

unsafe fn own() -> (*mut u16, *mut Rand48) {
    let data = &raw mut RAND48;
    ((&raw mut (*data).x).cast(), data)
}

abi! { RAND48_ROWS "libc.so.6":
    /// drand48(3).
    "GLIBC_2.2.5" fn drand48() -> c_double {
        let (x, data) = own();
        unit(step48(x, data))
    }
    /// erand48(3).
    "GLIBC_2.2.5" fn erand48(x: *mut u16) -> c_double {
        unit(step48(x, &raw mut RAND48))
    }
    /// lrand48(3).
    "GLIBC_2.2.5" fn lrand48() -> c_long {
        let (x, data) = own();
        (step48(x, data) >> 17) as c_long
    }
    /// nrand48(3).
    "GLIBC_2.2.5" fn nrand48(x: *mut u16) -> c_long {
        (step48(x, &raw mut RAND48) >> 17) as c_long
    }
    /// mrand48(3).
    "GLIBC_2.2.5" fn mrand48() -> c_long {
        let (x, data) = own();
        (step48(x, data) >> 16) as i32 as c_long
    }
    /// jrand48(3).
    "GLIBC_2.2.5" fn jrand48(x: *mut u16) -> c_long {
        (step48(x, &raw mut RAND48) >> 16) as i32 as c_long
    }
    /// srand48(3).
    "GLIBC_2.2.5" fn srand48(seed: c_long) {
        srand48_r(seed, &raw mut RAND48);
    }
    /// seed48(3).
    "GLIBC_2.2.5" fn seed48(x: *mut u16) -> *mut u16 {
        seed48_r(x, &raw mut RAND48);
        (&raw mut RAND48.old_x).cast()
    }
    /// lcong48(3).
    "GLIBC_2.2.5" fn lcong48(parameters: *mut u16) {
        lcong48_r(parameters, &raw mut RAND48);
    }
    /// drand48_r(3).
    "GLIBC_2.2.5" fn drand48_r(data: *mut Rand48, result: *mut c_double) -> c_int {
        *result = unit(step48((&raw mut (*data).x).cast(), data));
        0
    }
    /// erand48_r(3).
    "GLIBC_2.2.5" fn erand48_r(x: *mut u16, data: *mut Rand48, result: *mut c_double) -> c_int {
        *result = unit(step48(x, data));
        0
    }
    /// lrand48_r(3).
    "GLIBC_2.2.5" fn lrand48_r(data: *mut Rand48, result: *mut c_long) -> c_int {
        *result = (step48((&raw mut (*data).x).cast(), data) >> 17) as c_long;
        0
    }
    /// nrand48_r(3).
    "GLIBC_2.2.5" fn nrand48_r(x: *mut u16, data: *mut Rand48, result: *mut c_long) -> c_int {
        *result = (step48(x, data) >> 17) as c_long;
        0
    }
    /// mrand48_r(3).
    "GLIBC_2.2.5" fn mrand48_r(data: *mut Rand48, result: *mut c_long) -> c_int {
        *result = (step48((&raw mut (*data).x).cast(), data) >> 16) as i32 as c_long;
        0
    }
    /// jrand48_r(3).
    "GLIBC_2.2.5" fn jrand48_r(x: *mut u16, data: *mut Rand48, result: *mut c_long) -> c_int {
        *result = (step48(x, data) >> 16) as i32 as c_long;
        0
    }
    /// srand48_r(3).
    "GLIBC_2.2.5" fn srand48_r(seed: c_long, data: *mut Rand48) -> c_int {
        (*data).x = [0x330e, seed as u16, (seed >> 16) as u16];
        ((*data).a, (*data).c, (*data).init) = (0x5deece66d, 0xb, 1);
        0
    }
    /// seed48_r(3).
    "GLIBC_2.2.5" fn seed48_r(x: *mut u16, data: *mut Rand48) -> c_int {
        (*data).old_x = (*data).x;
        (*data).x = [*x, *x.add(1), *x.add(2)];
        ((*data).a, (*data).c, (*data).init) = (0x5deece66d, 0xb, 1);
        0
    }
    /// lcong48_r(3).
    "GLIBC_2.2.5" fn lcong48_r(parameters: *mut u16, data: *mut Rand48) -> c_int {
        let p = |at: usize| *parameters.add(at);
        (*data).x = [p(0), p(1), p(2)];
        (*data).a = p(3) as u64 | (p(4) as u64) << 16 | (p(5) as u64) << 32;
        ((*data).c, (*data).init) = (p(6), 1);
        0
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "srand" = srandom;
}
