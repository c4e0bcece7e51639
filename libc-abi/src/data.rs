//! Exported data that may move: `environ`, `stdout`, `optind`, ... as [`DataCell`]s.
//!
//! A program that is not PIC has its *own* copy of a libc variable (R_X86_64_COPY), and a program or
//! library may define such a variable itself (its own `optarg`). glibc reaches its data through its
//! GOT, so it follows; we reach ours through a cell, which the loader points to where the global
//! scope finds the variable, before the first constructor runs.
//!
//! ```ignore
//! pub static OPTIND: DataCell<c_int> = DataCell::new(1);
//! exports! { DATA "libc.so.6":
//!     cell "GLIBC_2.2.5" "optind" 4 = OPTIND;
//!     // Aliases name one cell: they then end at one address, whichever of them was copied.
//!     cell "GLIBC_2.2.5" "environ" 8 = ENVIRON;
//!     cell "GLIBC_2.2.5" "__environ" 8 = ENVIRON;
//! }
//! unsafe { *OPTIND.get() += 1 };   // every access goes through get(), load() or store()
//! ```
//! Constant tables that are never written (`in6addr_any`) stay plain statics with `object` rows: a
//! copy of a constant is as good as the constant.

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::sync::atomic::{AtomicPtr, Ordering};

/// Where a [`DataCell`]'s variable is now: null while it is at home.
pub type Place = AtomicPtr<c_void>;

/// A C variable that the loader may move once, before any program code runs.
#[repr(C)]
pub struct DataCell<T> {
    home: UnsafeCell<T>,
    place: Place,
}

// SAFETY: the variable is C's: a plain object that C code of any thread reaches by its address, with
// whatever discipline its man page asks for. Rust reaches it by raw pointer only.
unsafe impl<T> Sync for DataCell<T> {}

impl<T> DataCell<T> {
    /// A variable at home, with its first value.
    pub const fn new(value: T) -> Self {
        Self { home: UnsafeCell::new(value), place: Place::new(core::ptr::null_mut()) }
    }

    /// Where the variable is now.
    #[inline]
    pub fn get(&self) -> *mut T {
        let place = self.place.load(Ordering::Relaxed);
        if place.is_null() { self.home.get() } else { place.cast() }
    }

    /// The address of the home, for an export row.
    pub const fn home(&self) -> *const () {
        self.home.get().cast_const().cast()
    }

    /// The redirection, for an export row.
    pub const fn place(&'static self) -> &'static Place {
        &self.place
    }
}

impl<T: Copy> DataCell<T> {
    /// The variable's value.
    ///
    /// # Safety
    /// As a C read of the variable: nobody writes it at the same time.
    #[inline]
    pub unsafe fn load(&self) -> T {
        // SAFETY: home or the place that the loader gave, both of the variable's size and alignment.
        unsafe { self.get().read() }
    }

    /// Sets the variable.
    ///
    /// # Safety
    /// As a C write of the variable: nobody uses it at the same time.
    #[inline]
    pub unsafe fn store(&self, value: T) {
        // SAFETY: as in `load`.
        unsafe { self.get().write(value) }
    }
}

/// Where the data of an export row is now, or its function: the body that suits this processor.
pub fn address(row: &crate::Export) -> *const () {
    match row.cell.map(|place| place.load(Ordering::Relaxed)) {
        Some(place) if !place.is_null() => place.cast_const().cast(),
        _ => crate::string_evex::bound(row.name, row.address.0),
    }
}

/// Moves the data of `row` to `place`; without a cell nothing happens and the answer is false.
///
/// # Safety
/// `place` has the row's size and alignment, holds a valid value and lives as long as the process;
/// no program code has run yet.
pub unsafe fn redirect(row: &crate::Export, place: *mut c_void) -> bool {
    row.cell.is_some_and(|cell| {
        cell.store(place, Ordering::Relaxed);
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    static ANSWER: DataCell<i32> = DataCell::new(41);
    crate::exports! { ROWS "libc.so.6":
        cell "GLIBC_2.2.5" "answer" 4 = ANSWER;
        cell "GLIBC_2.2.5" "__answer" 4 = ANSWER;
    }

    #[test]
    fn aliases_follow_a_move() {
        let copy = std::boxed::Box::leak(std::boxed::Box::new(41i32));
        let copy: *mut i32 = copy;
        assert_eq!(address(&ROWS[0]), ANSWER.home());
        // SAFETY: the copy lives for ever; this test is the only user.
        unsafe {
            assert!(redirect(&ROWS[1], copy.cast()));
            ANSWER.store(ANSWER.load() + 1);
            assert_eq!(*copy, 42);
        }
        assert_eq!(address(&ROWS[0]), copy.cast_const().cast());
        assert_eq!(address(&ROWS[1]), address(&ROWS[0]));
    }
}
