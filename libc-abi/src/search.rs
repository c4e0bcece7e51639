//! <search.h>: linear search, queues, binary trees and the hash table.
//!
//! A tree node starts with the key, which callers read through the node pointer. The trees are AVL
//! trees (glibc's are red-black): the shape differs, the order and the answers do not.

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::errno;
use crate::malloc;
use crate::string::{memmove, strcmp, strlen};
use crate::types::*;
use core::ptr::null_mut;
use platform::Errno;

type Compare = unsafe extern "C" fn(*const c_void, *const c_void) -> c_int;
type Visit = unsafe extern "C" fn(*const Node, c_int, c_int);
type VisitWith = unsafe extern "C" fn(*const Node, c_int, *mut c_void);
type Free = unsafe extern "C" fn(*mut c_void);

/// A tree node.
#[repr(C)]
pub struct Node {
    key: *const c_void,
    side: [*mut Node; 2],
    height: c_int,
}

/// Deeper than any AVL tree in a 48-bit address space.
const DEPTH: usize = 72;

unsafe fn height(node: *const Node) -> c_int {
    if node.is_null() { 0 } else { (*node).height }
}

unsafe fn measure(node: *mut Node) {
    (*node).height = 1 + height((*node).side[0]).max(height((*node).side[1]));
}

/// Lifts the child on `side` over its parent; answers the new top.
unsafe fn rotate(top: *mut Node, side: usize) -> *mut Node {
    let child = (*top).side[side];
    (*top).side[side] = (*child).side[1 - side];
    (*child).side[1 - side] = top;
    measure(top);
    measure(child);
    child
}

unsafe fn balance(link: *mut *mut Node) {
    let top = *link;
    let lean = height((*top).side[1]) - height((*top).side[0]);
    if lean.abs() < 2 {
        return measure(top);
    }
    let heavy = (lean > 0) as usize;
    let child = (*top).side[heavy];
    if height((*child).side[1 - heavy]) > height((*child).side[heavy]) {
        (*top).side[heavy] = rotate(child, 1 - heavy);
    }
    *link = rotate(top, heavy);
}

/// Links from the root to where `key` is or would be.
struct Path {
    links: [*mut *mut Node; DEPTH],
    length: usize,
}

impl Path {
    unsafe fn to(root: *mut *mut Node, key: *const c_void, compare: Compare) -> Path {
        let mut path = Path { links: [null_mut(); DEPTH], length: 0 };
        path.push(root);
        loop {
            let node = *path.last();
            if node.is_null() {
                return path;
            }
            let order = compare(key, (*node).key);
            if order == 0 {
                return path;
            }
            path.push(&raw mut (*node).side[(order > 0) as usize]);
        }
    }
    fn push(&mut self, link: *mut *mut Node) {
        self.links[self.length] = link;
        self.length += 1;
    }
    fn last(&self) -> *mut *mut Node {
        self.links[self.length - 1]
    }
    /// Rebalances from the end of the path to the root.
    unsafe fn repair(&self) {
        for &link in self.links[..self.length].iter().rev() {
            if !(*link).is_null() {
                balance(link);
            }
        }
    }
}

unsafe fn walk(node: *const Node, depth: c_int, visit: &dyn Fn(*const Node, c_int, c_int)) {
    // preorder 0, postorder 1, endorder 2, leaf 3
    let [left, right] = (*node).side;
    if left.is_null() && right.is_null() {
        return visit(node, 3, depth);
    }
    visit(node, 0, depth);
    if !left.is_null() {
        walk(left, depth + 1, visit);
    }
    visit(node, 1, depth);
    if !right.is_null() {
        walk(right, depth + 1, visit);
    }
    visit(node, 2, depth);
}

/// An element of a queue of insque(3).
#[repr(C)]
pub struct Queued {
    next: *mut Queued,
    previous: *mut Queued,
}

/// `ENTRY`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Entry {
    key: *mut c_char,
    data: *mut c_void,
}

/// `struct hsearch_data`: open addressing; a null key marks a free place.
#[repr(C)]
pub struct HashTable {
    table: *mut Entry,
    size: c_uint,
    filled: c_uint,
}

static mut GLOBAL: HashTable = HashTable { table: null_mut(), size: 0, filled: 0 };

unsafe fn hash(key: *const c_char) -> usize {
    // FNV-1a
    (0..strlen(key)).fold(0xcbf2_9ce4_8422_2325usize, |hash, at| {
        (hash ^ *key.add(at) as u8 as usize).wrapping_mul(0x100_0000_01b3)
    })
}

fn set(number: i32) -> c_int {
    errno::set(Errno(number));
    0
}

abi! { EXPORTS "libc.so.6":
    /// tsearch(3).
    "GLIBC_2.2.5" fn tsearch(key: *const c_void, root: *mut *mut Node, compare: Compare) -> *mut Node {
        if root.is_null() {
            return null_mut();
        }
        let path = Path::to(root, key, compare);
        if !(*path.last()).is_null() {
            return *path.last();
        }
        let node: *mut Node = malloc::malloc(size_of::<Node>()).cast();
        if !node.is_null() {
            node.write(Node { key, side: [null_mut(); 2], height: 1 });
            *path.last() = node;
            path.repair();
        }
        node
    }
    /// tfind(3).
    "GLIBC_2.2.5" fn tfind(key: *const c_void, root: *const *mut Node, compare: Compare) -> *mut Node {
        if root.is_null() {
            return null_mut();
        }
        let mut node = *root;
        while !node.is_null() {
            let order = compare(key, (*node).key);
            if order == 0 {
                break;
            }
            node = (*node).side[(order > 0) as usize];
        }
        node
    }
    /// tdelete(3): the parent of the deleted node; for the root some pointer that is not null.
    "GLIBC_2.2.5" fn tdelete(key: *const c_void, root: *mut *mut Node, compare: Compare) -> *mut Node {
        if root.is_null() {
            return null_mut();
        }
        let mut path = Path::to(root, key, compare);
        let node = *path.last();
        if node.is_null() {
            return null_mut();
        }
        let parent = if path.length == 1 {
            node
        } else {
            // The link to the node is a field of its parent.
            *path.links[path.length - 2]
        };
        let [left, right] = (*node).side;
        if left.is_null() || right.is_null() {
            *path.last() = if left.is_null() { right } else { left };
        } else {
            // The next larger node takes its place.
            let at = path.length;
            path.push(&raw mut (*node).side[1]);
            while !(**path.last()).side[0].is_null() {
                let next = *path.last();
                path.push(&raw mut (*next).side[0]);
            }
            let next = *path.last();
            *path.last() = (*next).side[1];
            (*next).side = (*node).side;
            *path.links[at - 1] = next;
            path.links[at] = &raw mut (*next).side[1];
        }
        path.repair();
        malloc::free(node.cast());
        parent
    }
    /// twalk(3).
    "GLIBC_2.2.5" fn twalk(root: *const Node, visit: Visit) {
        if !root.is_null() {
            walk(root, 0, &|node, which, depth| visit(node, which, depth));
        }
    }
    /// twalk_r(3).
    "GLIBC_2.30" fn twalk_r(root: *const Node, visit: VisitWith, closure: *mut c_void) {
        if !root.is_null() {
            walk(root, 0, &|node, which, _| visit(node, which, closure));
        }
    }
    /// tdestroy(3).
    "GLIBC_2.2.5" fn tdestroy(root: *mut Node, free: Free) {
        if root.is_null() {
            return;
        }
        tdestroy((*root).side[0], free);
        tdestroy((*root).side[1], free);
        free((*root).key.cast_mut());
        malloc::free(root.cast());
    }
    /// lfind(3).
    "GLIBC_2.2.5" fn lfind(
        key: *const c_void, base: *const c_void, count: *mut usize, size: usize, compare: Compare,
    ) -> *mut c_void {
        for at in 0..*count {
            let element = base.add(at * size);
            if compare(key, element) == 0 {
                return element.cast_mut();
            }
        }
        null_mut()
    }
    /// lsearch(3).
    "GLIBC_2.2.5" fn lsearch(
        key: *const c_void, base: *mut c_void, count: *mut usize, size: usize, compare: Compare,
    ) -> *mut c_void {
        let found = lfind(key, base, count, size, compare);
        if !found.is_null() {
            return found;
        }
        let end = base.add(*count * size);
        *count += 1;
        memmove(end, key, size)
    }
    /// insque(3).
    "GLIBC_2.2.5" fn insque(element: *mut Queued, after: *mut Queued) {
        if after.is_null() {
            element.write(Queued { next: null_mut(), previous: null_mut() });
            return;
        }
        let next = (*after).next;
        (*after).next = element;
        if !next.is_null() {
            (*next).previous = element;
        }
        element.write(Queued { next, previous: after });
    }
    /// remque(3).
    "GLIBC_2.2.5" fn remque(element: *mut Queued) {
        let Queued { next, previous } = *element;
        if !next.is_null() {
            (*next).previous = previous;
        }
        if !previous.is_null() {
            (*previous).next = next;
        }
    }
    /// hcreate_r(3).
    "GLIBC_2.2.5" fn hcreate_r(count: usize, table: *mut HashTable) -> c_int {
        if table.is_null() {
            return set(22);
        }
        if !(*table).table.is_null() {
            return 0;
        }
        // Room for `count` at a load that keeps probes short.
        let Some(size) = count.checked_mul(5).map(|n| (n / 4).max(3) + 1).filter(|&n| n < 1 << 31) else {
            return set(12);
        };
        let size = size.next_power_of_two();
        let entries: *mut Entry = malloc::calloc(size, size_of::<Entry>()).cast();
        if entries.is_null() {
            return 0;
        }
        // `filled` counts down from what the caller asked for: the table is full after `count`.
        table.write(HashTable { table: entries, size: size as c_uint, filled: count.max(3) as c_uint });
        1
    }
    /// hdestroy_r(3).
    "GLIBC_2.2.5" fn hdestroy_r(table: *mut HashTable) {
        if table.is_null() {
            set(22);
            return;
        }
        malloc::free((*table).table.cast());
        (*table).table = null_mut();
    }
    /// hsearch_r(3); the ENTRY arrives as its two words.
    "GLIBC_2.2.5" fn hsearch_r(
        key: *mut c_char, data: *mut c_void, action: c_int, found: *mut *mut Entry, table: *mut HashTable,
    ) -> c_int {
        *found = null_mut();
        if (*table).table.is_null() {
            return set(3);
        }
        let mask = (*table).size as usize - 1;
        let mut at = hash(key) & mask;
        loop {
            let entry = (*table).table.add(at);
            if (*entry).key.is_null() {
                const ENTER: c_int = 1;
                if action != ENTER {
                    return set(3);
                }
                if (*table).filled == 0 {
                    return set(12);
                }
                (*table).filled -= 1;
                *entry = Entry { key, data };
                *found = entry;
                return 1;
            }
            if strcmp((*entry).key, key) == 0 {
                *found = entry;
                return 1;
            }
            at = (at + 1) & mask;
        }
    }
    /// hcreate(3).
    "GLIBC_2.2.5" fn hcreate(count: usize) -> c_int {
        hcreate_r(count, &raw mut GLOBAL)
    }
    /// hdestroy(3).
    "GLIBC_2.2.5" fn hdestroy() {
        hdestroy_r(&raw mut GLOBAL);
    }
    /// hsearch(3).
    "GLIBC_2.2.5" fn hsearch(key: *mut c_char, data: *mut c_void, action: c_int) -> *mut Entry {
        let mut found = null_mut();
        hsearch_r(key, data, action, &mut found, &raw mut GLOBAL);
        found
    }
}
