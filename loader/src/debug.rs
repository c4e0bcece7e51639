//! What debuggers and profilers ask for: `r_debug` with the list of objects (link.h, gdb's
//! solib-svr4), and the function that is called when the list changes.
//!
//! There are two lists. The program's own, which DT_DEBUG leads to, begins with the program and has the
//! names that it knows. A debugger on the host takes the runtime for the executable, whose entry it passes
//! over, and opens the files by their names: so its list begins with the runtime, has the program as one of
//! the libraries, and names files as the host does. It finds list and function by the symbols `_r_debug`
//! and `_dl_debug_state`, as in any static executable; `guest/build.rs` gives ours those names.

use crate::object::{Body, Namespace, ObjectId};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::c_char;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};

/// The public part of `struct link_map`; its address is the handle that dlopen answers.
#[repr(C)]
pub struct LinkMap {
    /// Memory address minus file address.
    pub l_addr: usize,
    /// The path; empty for the program.
    pub l_name: *const c_char,
    /// The dynamic section.
    pub l_ld: usize,
    /// Next object.
    pub l_next: *mut LinkMap,
    /// Object before.
    pub l_prev: *mut LinkMap,
    /// Holds `l_name`.
    name: Vec<u8>,
    /// Whose entry it is.
    pub id: ObjectId,
}

/// `struct r_debug`.
#[repr(C)]
pub struct RDebug {
    version: AtomicI32,
    map: AtomicPtr<LinkMap>,
    brk: AtomicUsize,
    state: AtomicI32,
    base: AtomicUsize,
}

const RT_CONSISTENT: i32 = 0;
const RT_ADD: i32 = 1;
const RT_DELETE: i32 = 2;

/// The process's `r_debug`: DT_DEBUG of the program points here.
pub static R_DEBUG: RDebug = RDebug {
    version: AtomicI32::new(1),
    map: AtomicPtr::new(null_mut()),
    brk: AtomicUsize::new(0),
    state: AtomicI32::new(RT_CONSISTENT),
    base: AtomicUsize::new(0),
};

/// The list for debuggers on the host.
#[unsafe(export_name = "attacca_r_debug")]
pub static HOST_DEBUG: RDebug = RDebug {
    version: AtomicI32::new(1),
    map: AtomicPtr::new(null_mut()),
    brk: AtomicUsize::new(0),
    state: AtomicI32::new(RT_CONSISTENT),
    base: AtomicUsize::new(0),
};

/// gdb puts a breakpoint here: called before and after every change of the list.
#[inline(never)]
#[unsafe(export_name = "attacca_dl_debug_state")]
pub extern "C" fn _dl_debug_state() {
    // An empty function may be folded with another one; a side effect keeps it apart.
    core::hint::black_box(&R_DEBUG);
}

/// What happens to the list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Objects come.
    Add,
    /// Objects go.
    Delete,
}

/// Tells a debugger that the list is about to change.
pub fn changing(change: Change) {
    let state = if change == Change::Add { RT_ADD } else { RT_DELETE };
    R_DEBUG.state.store(state, Ordering::Relaxed);
    HOST_DEBUG.state.store(state, Ordering::Relaxed);
    _dl_debug_state();
}

/// Makes the list of what is loaded now, and tells.
pub fn changed(ns: &mut Namespace) {
    let ids: Vec<ObjectId> = ns.ids().collect();
    let mut before: *mut LinkMap = null_mut();
    let mut head = null_mut();
    for id in ids {
        let entry = link(ns, id);
        // Ours have no file at any address: they are handles, but not in the list.
        if matches!(ns.get(id).map(|o| &o.body), Some(Body::Builtin(_)) | None) {
            continue;
        }
        // SAFETY: entries are boxed and live until their object goes, which ends in a new list;
        // readers in this process hold the loader's lock.
        unsafe {
            (*entry).l_prev = before;
            (*entry).l_next = null_mut();
            if before.is_null() { head = entry } else { (*before).l_next = entry }
        }
        before = entry;
    }
    R_DEBUG.map.store(head, Ordering::Release);
    list_for_host(head);
    for list in [&R_DEBUG, &HOST_DEBUG] {
        list.brk.store(_dl_debug_state as *const () as usize, Ordering::Relaxed);
        list.state.store(RT_CONSISTENT, Ordering::Relaxed);
    }
    _dl_debug_state();
}

/// An entry of the list for the host.
#[repr(C)]
struct HostMap {
    l_addr: usize,
    l_name: *const c_char,
    l_ld: usize,
    l_next: *mut HostMap,
    l_prev: *mut HostMap,
    name: Vec<u8>,
}

// SAFETY: the pointers are read by debuggers only.
unsafe impl Send for HostMap {}

/// The list's entries; they link to each other, so they stay where they are until the next list.
static HOST_MAPS: spin::Mutex<Option<Box<[HostMap]>>> = spin::Mutex::new(None);

/// Makes the list for the host from the program's: `first` and what follows it.
fn list_for_host(first: *mut LinkMap) {
    // Without it, debuggers get the paths inside the guest.
    let maps =
        fs::HostFd::open_host(b"/proc/self/maps", 0, 0).and_then(|fd| fd.read_all()).unwrap_or_default();
    let mut entries = alloc::vec![host_entry(0, 0, Vec::new())];
    let mut at = first;
    while !at.is_null() {
        // SAFETY: the list was just made, under the loader's lock.
        let entry = unsafe { &*at };
        let name = file_at(&maps, entry.l_ld).unwrap_or(&entry.name);
        entries.push(host_entry(entry.l_addr, entry.l_ld, name.to_vec()));
        at = entry.l_next;
    }
    let mut entries = entries.into_boxed_slice();
    let (start, len) = (entries.as_mut_ptr(), entries.len());
    for (i, entry) in entries.iter_mut().enumerate() {
        entry.l_prev = if i == 0 { null_mut() } else { start.wrapping_add(i - 1) };
        entry.l_next = if i + 1 == len { null_mut() } else { start.wrapping_add(i + 1) };
    }
    HOST_DEBUG.map.store(start.cast(), Ordering::Release);
    *HOST_MAPS.lock() = Some(entries);
}

fn host_entry(l_addr: usize, l_ld: usize, mut name: Vec<u8>) -> HostMap {
    if name.last() != Some(&0) {
        name.push(0);
    }
    let (l_next, l_prev) = (null_mut(), null_mut());
    // The bytes stay where they are when the entry moves.
    HostMap { l_addr, l_name: name.as_ptr().cast(), l_ld, l_next, l_prev, name }
}

/// The host's path of the file that is mapped at `address`.
fn file_at(maps: &[u8], address: usize) -> Option<&[u8]> {
    maps.split(|&b| b == b'\n').find_map(|line| {
        let range = core::str::from_utf8(line.split(|&b| b == b' ').next()?).ok()?;
        let (start, end) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let inside = (number(start)?..number(end)?).contains(&address);
        let path = &line[line.iter().position(|&b| b == b'/')?..];
        inside.then_some(path)
    })
}

/// The object's entry, made on first use.
pub fn link(ns: &mut Namespace, id: ObjectId) -> *mut LinkMap {
    let is_program = ns.program == Some(id);
    let Some(object) = ns.get_mut(id) else { return null_mut() };
    if object.life.link.is_none() {
        let mut name = if is_program { Vec::new() } else { object.path.clone() };
        name.push(0);
        let (bias, ld) = object
            .elf()
            .map_or((0, 0), |e| (e.bias, e.elf.dynamic.map_or(0, |d| d.vaddr.wrapping_add(e.bias))));
        let mut entry = Box::new(LinkMap {
            l_addr: bias,
            l_name: null_mut(),
            l_ld: ld,
            l_next: null_mut(),
            l_prev: null_mut(),
            name,
            id,
        });
        entry.l_name = entry.name.as_ptr().cast();
        object.life.link = Some(entry);
    }
    object.life.link.as_deref_mut().map_or(null_mut(), |entry| entry)
}

/// Points DT_DEBUG of an object at `r_debug`.
pub fn fill_dt_debug(ns: &Namespace, id: ObjectId) {
    let Some(elf) = ns.elf(id) else { return };
    let Some(at) = elf.dynamic.debug else { return };
    let writable = elf.elf.loaded(at, 8).is_some_and(|s| s.flags & goblin::elf::program_header::PF_W != 0);
    if writable {
        // SAFETY: a word of the program's writable dynamic section, made for this.
        unsafe { (at.wrapping_add(elf.bias) as *mut usize).write_unaligned(&raw const R_DEBUG as usize) };
    }
}
