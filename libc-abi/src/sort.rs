//! `qsort`, `qsort_r`, `bsearch`.
//!
//! As in glibc 2.36, `qsort` is a merge sort with a scratch copy, hence stable; only where no memory
//! is to be had it sorts in place (heap sort here), which is not. Programs rely on the former without
//! knowing. Elements of more than 32 bytes are sorted by pointer and then moved once each.

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::malloc;
use crate::string::memmove;
use crate::types::*;
use core::mem::MaybeUninit;
use core::ptr::null_mut;

type Compare = unsafe extern "C" fn(*const c_void, *const c_void) -> c_int;
type CompareWith = unsafe extern "C" fn(*const c_void, *const c_void, *mut c_void) -> c_int;

/// Scratch of this size is on the stack (glibc: 1024).
const SMALL: usize = 1024;

/// Elements that are sorted by insertion.
const FEW: usize = 5;

/// Elements that are merged by branches. Up to here each step's wait for the comparison before costs more than a branch
/// that was guessed wrong now and then; above, guessing is what costs.
const BRANCHES: usize = 16;

/// A comparison of two elements: the order of the first against the second.
trait Order {
    unsafe fn after(&self, a: *const u8, b: *const u8) -> bool;
}

struct Plain(Compare);
struct With(CompareWith, *mut c_void);
struct Indirect<'a, O>(&'a O);

impl Order for Plain {
    #[inline(always)]
    unsafe fn after(&self, a: *const u8, b: *const u8) -> bool {
        (self.0)(a.cast(), b.cast()) > 0
    }
}
impl Order for With {
    #[inline(always)]
    unsafe fn after(&self, a: *const u8, b: *const u8) -> bool {
        (self.0)(a.cast(), b.cast(), self.1) > 0
    }
}
impl<O: Order> Order for Indirect<'_, O> {
    #[inline(always)]
    unsafe fn after(&self, a: *const u8, b: *const u8) -> bool {
        self.0.after(*a.cast::<*const u8>(), *b.cast::<*const u8>())
    }
}

/// How elements are moved: a constant size where it is common, for the compiler's sake.
trait Size: Copy {
    fn bytes(self) -> usize;
    unsafe fn copy(self, to: *mut u8, from: *const u8);
}

#[derive(Clone, Copy)]
struct Fixed<const N: usize>;
#[derive(Clone, Copy)]
struct Any(usize);

impl<const N: usize> Size for Fixed<N> {
    #[inline(always)]
    fn bytes(self) -> usize {
        N
    }
    #[inline(always)]
    unsafe fn copy(self, to: *mut u8, from: *const u8) {
        to.cast::<[u8; N]>().write(from.cast::<[u8; N]>().read());
    }
}
impl Size for Any {
    #[inline(always)]
    fn bytes(self) -> usize {
        self.0
    }
    #[inline(always)]
    unsafe fn copy(self, to: *mut u8, from: *const u8) {
        memmove(to.cast(), from.cast(), self.0);
    }
}

/// Sorts `count` elements at `base`, using as much scratch at `scratch`.
unsafe fn merge_sort<O: Order, S: Size>(base: *mut u8, count: usize, scratch: *mut u8, order: &O, size: S) {
    if count <= FEW {
        return insertion_sort(base, count, scratch, order, size);
    }
    let bytes = size.bytes();
    let half = count / 2;
    let middle = base.add(half * bytes);
    merge_sort(base, half, scratch, order, size);
    merge_sort(middle, count - half, scratch, order, size);
    if !order.after(middle.sub(bytes), middle) {
        return;
    }
    let (mut left, mut right, mut to) = (base.cast_const(), middle.cast_const(), scratch);
    let end = base.add(count * bytes).cast_const();
    while count <= BRANCHES && left < middle.cast_const() && right < end {
        if order.after(left, right) {
            size.copy(to, right);
            right = right.add(bytes);
        } else {
            size.copy(to, left);
            left = left.add(bytes);
        }
        to = to.add(bytes);
    }
    while left < middle.cast_const() && right < end {
        // Equal elements: the left one first, which makes the sort stable. Without a branch: which side is next
        // is a coin's toss to the processor.
        let from_right = usize::from(order.after(left, right));
        size.copy(to, core::hint::select_unpredictable(from_right != 0, right, left));
        left = left.add(bytes * (1 - from_right));
        right = right.add(bytes * from_right);
        to = to.add(bytes);
    }
    let rest = middle.cast_const().offset_from(left) as usize;
    memmove(to.cast(), left.cast(), rest);
    let merged = to.offset_from(scratch) as usize + rest;
    // What is left on the right side is in its place already.
    memmove(base.cast(), scratch.cast(), merged);
}

/// Sorts a few elements where a merge would mostly begin and end. An element is moved only when its place is known: what
/// is at `base` is a permutation of the elements in each call of the comparison, whoever does not return from it.
unsafe fn insertion_sort<O: Order, S: Size>(
    base: *mut u8,
    count: usize,
    scratch: *mut u8,
    order: &O,
    size: S,
) {
    let bytes = size.bytes();
    for i in 1..count {
        let element = base.add(i * bytes);
        let mut place = element;
        while place > base && order.after(place.sub(bytes), element) {
            place = place.sub(bytes);
        }
        if place == element {
            continue;
        }
        size.copy(scratch, element);
        let mut hole = element;
        while hole > place {
            size.copy(hole, hole.sub(bytes));
            hole = hole.sub(bytes);
        }
        size.copy(place, scratch);
    }
}

/// In place, for want of memory.
unsafe fn heap_sort<O: Order>(base: *mut u8, count: usize, order: &O, bytes: usize) {
    let at = |i: usize| base.add(i * bytes);
    let swap = |i: usize, j: usize| core::ptr::swap_nonoverlapping(at(i), at(j), bytes);
    let sift = |mut root: usize, end: usize| {
        loop {
            let mut child = 2 * root + 1;
            if child >= end {
                break;
            }
            if child + 1 < end && order.after(at(child + 1), at(child)) {
                child += 1;
            }
            if !order.after(at(child), at(root)) {
                break;
            }
            swap(root, child);
            root = child;
        }
    };
    for root in (0..count / 2).rev() {
        sift(root, count);
    }
    for end in (1..count).rev() {
        swap(0, end);
        sift(0, end);
    }
}

/// Sorts pointers to the elements, then brings each element to its place along the cycles.
unsafe fn sort_indirect<O: Order>(base: *mut u8, count: usize, scratch: *mut u8, order: &O, bytes: usize) {
    // scratch: the pointers, as much again for their merging, one element.
    let pointers: *mut *mut u8 = scratch.cast();
    let spare = scratch.add(2 * count * 8);
    for i in 0..count {
        *pointers.add(i) = base.add(i * bytes);
    }
    merge_sort(pointers.cast(), count, scratch.add(count * 8), &Indirect(order), Fixed::<8>);
    for i in 0..count {
        let home = base.add(i * bytes);
        if *pointers.add(i) == home {
            continue;
        }
        memmove(spare.cast(), home.cast(), bytes);
        let mut hole = i;
        loop {
            let source = *pointers.add(hole);
            let place = base.add(hole * bytes);
            *pointers.add(hole) = place;
            if source == home {
                memmove(place.cast(), spare.cast(), bytes);
                break;
            }
            memmove(place.cast(), source.cast(), bytes);
            hole = source.offset_from(base) as usize / bytes;
        }
    }
}

unsafe fn sort<O: Order>(base: *mut c_void, count: usize, bytes: usize, order: &O) {
    if count < 2 || bytes == 0 {
        return;
    }
    let base: *mut u8 = base.cast();
    let indirect = bytes > 32;
    let needed = if indirect { 2 * count * 8 + bytes } else { count.wrapping_mul(bytes) };
    let mut small = MaybeUninit::<[u64; SMALL / 8]>::uninit();
    let heap = if needed < SMALL { null_mut() } else { malloc::malloc(needed) };
    let scratch: *mut u8 = match heap.is_null() {
        true if needed < SMALL => small.as_mut_ptr().cast(),
        true => return heap_sort(base, count, order, bytes),
        false => heap.cast(),
    };
    match bytes {
        _ if indirect => sort_indirect(base, count, scratch, order, bytes),
        4 => merge_sort(base, count, scratch, order, Fixed::<4>),
        8 => merge_sort(base, count, scratch, order, Fixed::<8>),
        16 => merge_sort(base, count, scratch, order, Fixed::<16>),
        24 => merge_sort(base, count, scratch, order, Fixed::<24>),
        _ => merge_sort(base, count, scratch, order, Any(bytes)),
    }
    malloc::free(heap);
}

abi! { EXPORTS "libc.so.6":
    /// qsort(3).
    "GLIBC_2.2.5" fn qsort(base: *mut c_void, count: usize, size: usize, compare: Compare) {
        sort(base, count, size, &Plain(compare));
    }
    /// qsort_r(3).
    "GLIBC_2.8" fn qsort_r(
        base: *mut c_void, count: usize, size: usize, compare: CompareWith, argument: *mut c_void,
    ) {
        sort(base, count, size, &With(compare, argument));
    }
    /// bsearch(3).
    "GLIBC_2.2.5" fn bsearch(
        key: *const c_void, base: *const c_void, count: usize, size: usize, compare: Compare,
    ) -> *mut c_void {
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            let element = base.add(middle * size);
            match compare(key, element) {
                0 => return element.cast_mut(),
                ..0 => high = middle,
                _ => low = middle + 1,
            }
        }
        null_mut()
    }
}
