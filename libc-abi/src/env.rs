//! environ(7): getenv(3), setenv(3) and their kin.
//!
//! `environ`, `__environ` and `_environ` are one variable. A program may point it elsewhere or
//! overwrite the strings in place (setproctitle of nginx, redis, sshd), so nothing is remembered but
//! the array that we made ourselves. Strings that `setenv` makes are never freed: `getenv` handed
//! them out.

use crate::data::DataCell;
use crate::errno;
use crate::futex::Lock;
use crate::malloc;
use crate::types::{c_char, c_int};
use core::ptr::null_mut;
use platform::Errno;

/// environ(7).
pub static ENVIRON: DataCell<*mut *mut c_char> = DataCell::new(null_mut());

/// The array that this file allocated last, while `environ` may still point to it.
struct Own {
    array: *mut *mut c_char,
    capacity: usize,
}
// SAFETY: reached under the lock.
unsafe impl Send for Own {}
static OWN: Lock<Own> = Lock::new(Own { array: null_mut(), capacity: 0 });

/// The value of a variable, or null.
///
/// # Safety
/// Nobody changes the environment at the same time (getenv(3)).
pub unsafe fn get(name: &[u8]) -> *mut c_char {
    // SAFETY: environ is null or a null-terminated array of strings.
    unsafe {
        let (slot, _) = find(name);
        if slot.is_null() { null_mut() } else { (*slot).add(name.len() + 1) }
    }
}

abi! { EXPORTS "libc.so.6":
    /// getenv(3).
    "GLIBC_2.2.5" fn getenv(name: *const c_char) -> *mut c_char {
        // SAFETY: the program's string.
        unsafe { get(bytes(name)) }
    }
    /// secure_getenv(3).
    "GLIBC_2.17" fn secure_getenv(name: *const c_char) -> *mut c_char {
        if crate::auxv::find(crate::auxv::AT_SECURE).unwrap_or(0) != 0 {
            return null_mut();
        }
        // SAFETY: forwarded.
        unsafe { getenv(name) }
    }
    /// setenv(3).
    "GLIBC_2.2.5" fn setenv(name: *const c_char, value: *const c_char, overwrite: c_int) -> c_int {
        // SAFETY: the program's strings.
        unsafe {
            if name.is_null() || !is_name(bytes(name)) {
                return fail(Errno::EINVAL);
            }
            let mut own = OWN.lock();
            let (slot, count) = find(bytes(name));
            if !slot.is_null() && overwrite == 0 {
                return 0;
            }
            let entry = join(bytes(name), bytes(value));
            if entry.is_null() {
                return fail(Errno::ENOMEM);
            }
            put(&mut own, slot, count, entry)
        }
    }
    /// putenv(3): the string itself becomes part of the environment.
    "GLIBC_2.2.5" fn putenv(entry: *mut c_char) -> c_int {
        // SAFETY: the program's string.
        unsafe {
            let text = bytes(entry);
            let Some(equals) = text.iter().position(|&b| b == b'=') else {
                return unsetenv(entry);
            };
            let mut own = OWN.lock();
            let (slot, count) = find(&text[..equals]);
            put(&mut own, slot, count, entry)
        }
    }
    /// unsetenv(3): all entries of that name.
    "GLIBC_2.2.5" fn unsetenv(name: *const c_char) -> c_int {
        // SAFETY: the program's string, the environment's array.
        unsafe {
            if name.is_null() || !is_name(bytes(name)) {
                return fail(Errno::EINVAL);
            }
            let _own = OWN.lock();
            loop {
                let (mut slot, _) = find(bytes(name));
                if slot.is_null() {
                    return 0;
                }
                while !(*slot).is_null() {
                    *slot = *slot.add(1);
                    slot = slot.add(1);
                }
            }
        }
    }
    /// clearenv(3).
    "GLIBC_2.2.5" fn clearenv() -> c_int {
        let mut own = OWN.lock();
        // SAFETY: our own array is ours to free; the strings stay.
        unsafe {
            if ENVIRON.load() == own.array {
                malloc::free(own.array.cast());
                *own = Own { array: null_mut(), capacity: 0 };
            }
            ENVIRON.store(null_mut());
        }
        0
    }
}

exports! { DATA "libc.so.6":
    cell "GLIBC_2.2.5" "environ" 8 = ENVIRON;
    cell "GLIBC_2.2.5" "__environ" 8 = ENVIRON;
    cell "GLIBC_2.2.5" "_environ" 8 = ENVIRON;
    compat "GLIBC_2.2.5" "__secure_getenv" = secure_getenv;
}

/// The entry of a name (null if there is none) and the number of entries seen: all of them, if none.
unsafe fn find(name: &[u8]) -> (*mut *mut c_char, usize) {
    // SAFETY: as in `get`.
    unsafe {
        let array = ENVIRON.load();
        let mut count = 0;
        if array.is_null() {
            return (null_mut(), 0);
        }
        loop {
            let slot = array.add(count);
            if (*slot).is_null() {
                return (null_mut(), count);
            }
            if is_entry_of(*slot, name) {
                return (slot, count);
            }
            count += 1;
        }
    }
}

unsafe fn is_entry_of(entry: *const c_char, name: &[u8]) -> bool {
    // SAFETY: stops at the first difference, so at the latest at the entry's end.
    unsafe {
        for (at, &byte) in name.iter().enumerate() {
            if *entry.add(at) as u8 != byte || byte == 0 {
                return false;
            }
        }
        *entry.add(name.len()) as u8 == b'='
    }
}

/// Sets an existing slot, or appends to an array with room; environ is replaced if it is not ours.
unsafe fn put(own: &mut Own, slot: *mut *mut c_char, count: usize, entry: *mut c_char) -> c_int {
    // SAFETY: the array has `count` entries and its null.
    unsafe {
        if !slot.is_null() {
            *slot = entry;
            return 0;
        }
        let array = ENVIRON.load();
        let ours = !array.is_null() && array == own.array;
        if !ours || count + 2 > own.capacity {
            let capacity = (count + 2).next_power_of_two().max(16);
            let old = if ours { array } else { null_mut() };
            let new: *mut *mut c_char = malloc::realloc(old.cast(), capacity * 8).cast();
            if new.is_null() {
                return fail(Errno::ENOMEM);
            }
            if !ours && count > 0 {
                core::ptr::copy_nonoverlapping(array, new, count);
            }
            *own = Own { array: new, capacity };
        }
        *own.array.add(count) = entry;
        *own.array.add(count + 1) = null_mut();
        ENVIRON.store(own.array);
        0
    }
}

unsafe fn join(name: &[u8], value: &[u8]) -> *mut c_char {
    // SAFETY: fresh memory of the joined length.
    unsafe {
        let entry: *mut u8 = malloc::malloc(name.len() + value.len() + 2).cast();
        if !entry.is_null() {
            core::ptr::copy_nonoverlapping(name.as_ptr(), entry, name.len());
            entry.add(name.len()).write(b'=');
            core::ptr::copy_nonoverlapping(value.as_ptr(), entry.add(name.len() + 1), value.len());
            entry.add(name.len() + value.len() + 1).write(0);
        }
        entry.cast()
    }
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.contains(&b'=')
}

unsafe fn bytes<'a>(text: *const c_char) -> &'a [u8] {
    // SAFETY: the caller's string.
    unsafe { core::ffi::CStr::from_ptr(text).to_bytes() }
}

fn fail(errno: Errno) -> c_int {
    errno::set(errno);
    -1
}

/// The lock, for fork(2).
pub(crate) fn fork_lock() -> &'static crate::futex::RawLock {
    OWN.raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ffi::CStr;

    unsafe fn value(name: &CStr) -> Option<&'static CStr> {
        // SAFETY: the test's own environment.
        unsafe {
            let value = getenv(name.as_ptr());
            (!value.is_null()).then(|| CStr::from_ptr(value))
        }
    }

    #[test]
    fn sets_and_clears() {
        let mut first = [c"HOME=/root".as_ptr().cast_mut(), c"HOMER=x".as_ptr().cast_mut(), null_mut()];
        // SAFETY: no other test touches the environment.
        unsafe {
            ENVIRON.store(first.as_mut_ptr());
            assert_eq!(value(c"HOME"), Some(c"/root"));
            assert_eq!(value(c"HOM"), None);
            assert_eq!(setenv(c"HOME".as_ptr(), c"/x".as_ptr(), 0), 0);
            assert_eq!(value(c"HOME"), Some(c"/root"));
            for at in 0..100u8 {
                let name = [b'V', b'0' + at / 10, b'0' + at % 10, 0];
                assert_eq!(setenv(name.as_ptr().cast(), c"1".as_ptr(), 1), 0);
            }
            assert_eq!(value(c"V99"), Some(c"1"));
            assert_eq!(setenv(c"HOME".as_ptr(), c"/y".as_ptr(), 1), 0);
            assert_eq!(value(c"HOME"), Some(c"/y"));
            assert_eq!(unsetenv(c"V50".as_ptr()), 0);
            assert_eq!((value(c"V50"), value(c"V51")), (None, Some(c"1")));
            assert_eq!(putenv(c"V50=again".as_ptr().cast_mut()), 0);
            assert_eq!(value(c"V50"), Some(c"again"));
            assert_eq!(putenv(c"V50".as_ptr().cast_mut()), 0);
            assert_eq!(value(c"V50"), None);
            assert_eq!(setenv(c"A=B".as_ptr(), c"1".as_ptr(), 1), -1);
            assert_eq!(errno::get(), Errno::EINVAL);
            assert_eq!(setenv(c"".as_ptr(), c"1".as_ptr(), 1), -1);
            assert_eq!(clearenv(), 0);
            assert_eq!(value(c"HOME"), None);
            assert!(ENVIRON.load().is_null());
        }
    }
}
