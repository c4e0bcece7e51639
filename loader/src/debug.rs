//! What debuggers and profilers ask for: `r_debug` with the list of objects (link.h, gdb's
//! solib-svr4), and the function that is called when the list changes.

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

/// gdb puts a breakpoint here: called before and after every change of the list.
#[inline(never)]
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
    R_DEBUG.state.store(if change == Change::Add { RT_ADD } else { RT_DELETE }, Ordering::Relaxed);
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
    R_DEBUG.brk.store(_dl_debug_state as *const () as usize, Ordering::Relaxed);
    R_DEBUG.state.store(RT_CONSISTENT, Ordering::Relaxed);
    _dl_debug_state();
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

/// Tells the host's debuggers which vector is the program's: gdb finds the load address of a
/// position-independent program by AT_ENTRY in /proc/PID/auxv, which otherwise is the runtime's own.
/// A kernel without PR_SET_MM_MAP (prctl(2)) leaves gdb to ask for the addresses; nothing else needs
/// it.
///
/// # Safety
/// `auxv` points to `len` bytes.
pub(crate) unsafe fn announce(auxv: usize, len: usize) {
    const PR_SET_MM: usize = 35;
    const PR_SET_MM_MAP: usize = 14;
    let Some(mut map) = memory_map() else { return };
    map[11] = auxv as u64;
    // Size of the vector, and no other executable (-1).
    map[12] = len as u32 as u64 | 0xffff_ffff << 32;
    // SAFETY: struct prctl_mm_map of 104 bytes with the process's own values.
    let _ = unsafe { platform::host!(prctl, PR_SET_MM, PR_SET_MM_MAP, map.as_ptr(), size_of_val(&map), 0) };
}

/// struct prctl_mm_map with what the kernel has now: code, data, brk, stack, arguments, environment
/// (fields of proc_pid_stat(5)), then room for vector and executable.
fn memory_map() -> Option<[u64; 13]> {
    // start_code, end_code, start_data, end_data, start_brk, brk, start_stack, arg_*, env_*.
    const FIELDS: [Option<usize>; 11] = [
        Some(26),
        Some(27),
        Some(45),
        Some(46),
        Some(47),
        None,
        Some(28),
        Some(48),
        Some(49),
        Some(50),
        Some(51),
    ];
    let files = crate::files::HostFiles::default();
    let mut text = [0u8; 2048];
    let path = c"/proc/self/stat".as_ptr();
    use crate::files::Files;
    use platform::sys::number;
    // SAFETY: a C string and a buffer of ours; the descriptor is closed again.
    let len = unsafe {
        let fd = files.call(number::openat, [-100isize as usize, path as usize, 0, 0, 0, 0]).ok()?;
        let got = files.call(number::read, [fd, text.as_mut_ptr() as usize, text.len(), 0, 0, 0]);
        let _ = files.call(number::close, [fd, 0, 0, 0, 0, 0]);
        got.ok()?
    };
    // The second field, a name in brackets, may hold blanks; the third stands behind the last one.
    let text = core::str::from_utf8(text.get(..len)?).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let mut map = [0u64; 13];
    for (i, field) in FIELDS.iter().enumerate() {
        map[i] = match field {
            Some(number) => fields.get(number - 3)?.parse().ok()?,
            None => map[i - 1],
        };
    }
    // SAFETY: brk(0) only asks.
    map[5] = unsafe { platform::host!(brk, 0) }.ok()? as u64;
    Some(map)
}
