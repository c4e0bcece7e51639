//! Order of constructors and destructors: what an object needs is ready before it and goes after it.
//!
//! The order is glibc 2.36's (its default since 2.35): a depth-first walk over the objects from the
//! last loaded to the first, dependencies before dependents, cycles cut where the walk meets itself.

use crate::dynamic::DF_1_INITFIRST;
use crate::elf::Extent;
use crate::object::{Namespace, ObjectId};
use alloc::vec::Vec;

/// Sorts a breadth-first list so that each object stands before what it needs. With `bindings` also
/// before what its relocations were bound to (destructors).
pub fn sort(ns: &Namespace, list: &[ObjectId], bindings: bool) -> Vec<ObjectId> {
    let mut walk = Walk { ns, list, bindings, seen: Vec::new(), done: Vec::new() };
    for &id in list.iter().rev() {
        walk.visit(id);
    }
    // Post-order puts dependencies first; the caller wants them last.
    walk.done.reverse();
    // ld.so keeps the program (or the opened object) first whatever cycles say.
    if let Some(at) = list.first().and_then(|first| walk.done.iter().position(|id| id == first)) {
        walk.done[..=at].rotate_right(1);
    }
    walk.done
}

struct Walk<'a> {
    ns: &'a Namespace,
    list: &'a [ObjectId],
    bindings: bool,
    seen: Vec<ObjectId>,
    done: Vec<ObjectId>,
}

impl Walk<'_> {
    /// An explicit stack: a chain of a million tiny libraries must not overflow ours.
    fn visit(&mut self, root: ObjectId) {
        let mut stack = alloc::vec![(root, 0usize)];
        if self.seen.contains(&root) {
            return;
        }
        self.seen.push(root);
        while let Some((id, next)) = stack.pop() {
            match self.dependency(id, next) {
                Some(needed) => {
                    stack.push((id, next + 1));
                    if self.list.contains(&needed) && !self.seen.contains(&needed) {
                        self.seen.push(needed);
                        stack.push((needed, 0));
                    }
                }
                None => self.done.push(id),
            }
        }
    }

    fn dependency(&self, id: ObjectId, at: usize) -> Option<ObjectId> {
        let object = self.ns.get(id)?;
        let needed = object.needed.get(at).copied();
        if needed.is_some() || !self.bindings {
            return needed;
        }
        object.life.bound_to.borrow().get(at - object.needed.len()).copied()
    }
}

/// A constructor or destructor to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call(pub usize);

/// What dl_init and dl_fini pass; the destructors take nothing and ignore it.
#[derive(Clone, Copy)]
pub struct Arguments {
    /// argc
    pub argc: i32,
    /// argv
    pub argv: *const *const i8,
    /// envp
    pub envp: *const *const i8,
}

/// Marks the objects of a sorted list as initialised and answers the constructors to call, in
/// order. `skip` is the program at start: its own constructors are run by `__libc_start_main`.
pub fn constructors(ns: &mut Namespace, sorted: &[ObjectId], skip: Option<ObjectId>) -> Vec<Call> {
    let mut order: Vec<ObjectId> = sorted.iter().rev().copied().collect();
    let first = |id: &ObjectId| ns.elf(*id).is_some_and(|e| e.dynamic.flags_1 & DF_1_INITFIRST != 0);
    if let Some(at) = order.iter().position(first) {
        order[..=at].rotate_right(1);
    }
    let mut calls = Vec::new();
    for id in order {
        let Some(object) = ns.get_mut(id) else { continue };
        if core::mem::replace(&mut object.life.initialised, true) || Some(id) == skip {
            continue;
        }
        calls.extend(own_constructors(ns, id));
    }
    calls
}

/// DT_INIT and DT_INIT_ARRAY of one object.
pub fn own_constructors(ns: &Namespace, id: ObjectId) -> Vec<Call> {
    let Some(elf) = ns.elf(id) else { return Vec::new() };
    let mut calls = Vec::new();
    if elf.dynamic.init != 0 {
        calls.push(Call(elf.dynamic.init.wrapping_add(elf.bias)));
    }
    calls.extend(array(elf.bias, elf.dynamic.init_array));
    calls
}

/// DT_PREINIT_ARRAY of the program, run before all constructors.
pub fn preinit(ns: &Namespace, program: ObjectId) -> Vec<Call> {
    ns.elf(program).map_or_else(Vec::new, |elf| array(elf.bias, elf.dynamic.preinit_array))
}

/// Destructors of a list sorted with dependents first; each object's run once.
pub fn destructors(ns: &mut Namespace, sorted: &[ObjectId]) -> Vec<Call> {
    let mut calls = Vec::new();
    for &id in sorted {
        let Some(object) = ns.get_mut(id) else { continue };
        if !object.life.initialised || core::mem::replace(&mut object.life.finished, true) {
            continue;
        }
        let Some(elf) = object.elf() else { continue };
        calls.extend(array(elf.bias, elf.dynamic.fini_array).into_iter().rev());
        if elf.dynamic.fini != 0 {
            calls.push(Call(elf.dynamic.fini.wrapping_add(elf.bias)));
        }
    }
    calls
}

/// Calls constructors or destructors.
///
/// # Safety
/// The calls are those of loaded, relocated objects; the thread is one of the program's.
pub unsafe fn run(calls: &[Call], arguments: Arguments) {
    for call in calls {
        // SAFETY: the caller's promise; the type is that of gabi 5 with glibc's three arguments.
        let function: extern "C" fn(i32, *const *const i8, *const *const i8) =
            unsafe { core::mem::transmute(call.0) };
        function(arguments.argc, arguments.argv, arguments.envp);
    }
}

/// The function pointers of an array, which relocation has filled.
fn array(bias: usize, extent: Extent) -> Vec<Call> {
    let start = extent.vaddr.wrapping_add(bias) as *const usize;
    // SAFETY: `dynamic::parse` checked that the array lies in a loaded segment, aligned.
    (0..extent.len / 8).map(|i| Call(unsafe { start.add(i).read() })).collect()
}
