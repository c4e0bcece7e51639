//! pthread_key_t: 1024 keys, destructors in four rounds. The first 32 values live in the TCB, the
//! others in blocks of 32 made on demand.
//!
//! A key's sequence number is odd while it is in use; a value counts only if it was stored under the
//! key's present number, so a deleted key's values vanish in all threads at once.

use crate::malloc::imp;
use crate::thread;
use crate::types::{c_int, c_uint, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use platform::Errno;

/// PTHREAD_KEYS_MAX.
const KEYS: usize = 1024;
const BLOCK: usize = 32;
/// PTHREAD_DESTRUCTOR_ITERATIONS.
const ROUNDS: usize = 4;

struct Key {
    sequence: AtomicUsize,
    destructor: AtomicPtr<()>,
}

static TABLE: [Key; KEYS] =
    [const { Key { sequence: AtomicUsize::new(0), destructor: AtomicPtr::new(null_mut()) } }; KEYS];

#[repr(C)]
#[derive(Clone, Copy)]
struct Value {
    sequence: usize,
    value: *mut c_void,
}

/// A thread's values. All-zero is none.
#[repr(C)]
pub struct Specific {
    first: [Value; BLOCK],
    more: [*mut Value; KEYS / BLOCK],
    used: bool,
}

impl Specific {
    /// The cell of a key; null if its block does not exist and is not to be made.
    #[inline]
    fn cell(&mut self, key: usize, make: bool) -> *mut Value {
        if key < BLOCK {
            return &raw mut self.first[key];
        }
        let block = &mut self.more[key / BLOCK];
        if block.is_null() && make {
            *block = imp::calloc(BLOCK, size_of::<Value>()).cast();
        }
        // SAFETY: the block has BLOCK cells.
        if block.is_null() { null_mut() } else { unsafe { block.add(key % BLOCK) } }
    }
}

type Destructor = unsafe extern "C" fn(*mut c_void);

abi! { EXPORTS "libc.so.6":
    /// pthread_key_create(3).
    "GLIBC_2.34" fn pthread_key_create(out: *mut c_uint, destructor: Option<Destructor>) -> c_int {
        for (number, key) in TABLE.iter().enumerate() {
            let sequence = key.sequence.load(Ordering::Relaxed);
            if sequence & 1 == 0
                && key.sequence.compare_exchange(sequence, sequence + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                key.destructor.store(destructor.map_or(null_mut(), |d| d as *mut ()), Ordering::Release);
                // SAFETY: the program's out pointer.
                unsafe { out.write(number as c_uint) };
                return 0;
            }
        }
        Errno::EAGAIN.0
    }
    /// pthread_key_delete(3).
    "GLIBC_2.34" fn pthread_key_delete(key: c_uint) -> c_int {
        let Some(key) = TABLE.get(key as usize) else { return Errno::EINVAL.0 };
        let sequence = key.sequence.load(Ordering::Relaxed);
        let was_used = sequence & 1 == 1
            && key.sequence.compare_exchange(sequence, sequence + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if was_used { 0 } else { Errno::EINVAL.0 }
    }
    /// pthread_getspecific(3).
    "GLIBC_2.34" fn pthread_getspecific(key: c_uint) -> *mut c_void {
        let key = key as usize;
        if key >= KEYS {
            return null_mut();
        }
        // SAFETY: the thread's own values.
        unsafe {
            let cell = (*thread::current()).specific.cell(key, false);
            if cell.is_null() || (*cell).value.is_null() {
                return null_mut();
            }
            if (*cell).sequence != TABLE[key].sequence.load(Ordering::Relaxed) {
                (*cell).value = null_mut();
            }
            (*cell).value
        }
    }
    /// pthread_setspecific(3).
    "GLIBC_2.34" fn pthread_setspecific(key: c_uint, value: *const c_void) -> c_int {
        let key = key as usize;
        let Some(sequence) = TABLE.get(key).map(|k| k.sequence.load(Ordering::Relaxed)).filter(|s| s & 1 == 1)
        else {
            return Errno::EINVAL.0;
        };
        // SAFETY: the thread's own values.
        unsafe {
            let specific = &mut (*thread::current()).specific;
            // Null needs no cell: that is what a missing one means.
            let cell = specific.cell(key, !value.is_null());
            if cell.is_null() {
                return if value.is_null() { 0 } else { Errno::ENOMEM.0 };
            }
            cell.write(Value { sequence, value: value.cast_mut() });
            specific.used |= !value.is_null();
        }
        0
    }
}

exports! { ROWS "libc.so.6":
    alias "GLIBC_2.34" "__pthread_key_create" = pthread_key_create;
}

/// Runs destructors while values are left, at most four rounds, and frees the blocks: the thread ends.
pub(crate) fn run_destructors() {
    // SAFETY: the thread's own values. A destructor may set values again: hence `used` and the rounds.
    unsafe {
        let specific = &raw mut (*thread::current()).specific;
        for _ in 0..ROUNDS {
            if !(*specific).used {
                break;
            }
            (*specific).used = false;
            for key in 0..KEYS {
                let cell = (*specific).cell(key, false);
                if !cell.is_null() {
                    destroy(key, cell);
                }
            }
        }
        for block in 0..KEYS / BLOCK {
            imp::free((*specific).more[block].cast());
            (*specific).more[block] = null_mut();
        }
        (*specific).first = [Value { sequence: 0, value: null_mut() }; BLOCK];
        (*specific).used = false;
    }
}

unsafe fn destroy(key: usize, cell: *mut Value) {
    // SAFETY: the caller's cell; the destructor is the program's.
    unsafe {
        let Value { sequence, value } = cell.read();
        if value.is_null() {
            return;
        }
        (*cell).value = null_mut();
        let destructor = TABLE[key].destructor.load(Ordering::Acquire);
        if sequence == TABLE[key].sequence.load(Ordering::Acquire) && !destructor.is_null() {
            core::mem::transmute::<*mut (), Destructor>(destructor)(value);
        }
    }
}
