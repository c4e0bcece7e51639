//! Functions bound when first called: one small stub for each, which looks the name up again (a
//! library opened since may have it) and stops the program, by name, if it is still missing.
//!
//! Used for what ld.so would bind lazily and nobody defines yet, and for everything missing under
//! `--lazy`. All that is found at load is bound at load.

use crate::arch::save::late_bind_door;
use crate::error::Missing;
use crate::map;
use crate::object::{Namespace, ObjectId};
use crate::resolve::Binding;
use crate::symbols::Class;
use alloc::vec::Vec;
use platform::Errno;
use platform::layout::PAGE_SIZE;
use platform::sys::number;

/// What a stub stands for.
pub struct Late {
    /// The object whose call it is.
    pub object: ObjectId,
    /// Entry of its symbol table.
    pub index: u32,
    /// Its PLT slot, patched once bound; `None` when the address was taken otherwise.
    pub slot: Option<usize>,
    /// For the message.
    pub missing: Missing,
}

/// The stubs of a process.
#[derive(Default)]
pub struct Stubs {
    /// By number.
    pub late: Vec<Late>,
    /// Page being filled, and how many stubs it has.
    page: usize,
    used: usize,
}

/// A page: the door's address, then stubs of 16 bytes.
const STUB: usize = 16;
const IN_PAGE: usize = PAGE_SIZE / STUB - 1;

impl Stubs {
    /// Makes a stub; answers its address.
    pub fn make(&mut self, ns: &Namespace, late: Late) -> Result<usize, Errno> {
        if self.page == 0 || self.used == IN_PAGE {
            self.page = new_page(ns, self.late.len())?;
            self.used = 0;
        }
        self.late.push(late);
        self.used += 1;
        Ok(self.page + self.used * STUB)
    }
}

/// Writes a whole page of stubs, numbered from `first`, and makes it executable: it is never
/// writable and executable at once.
fn new_page(ns: &Namespace, first: usize) -> Result<usize, Errno> {
    let page = map::fresh(ns.files, PAGE_SIZE)?;
    let mut code = [0u8; PAGE_SIZE];
    code[..8].copy_from_slice(&(late_bind_door as *const () as usize).to_le_bytes());
    for i in 1..=IN_PAGE {
        let at = i * STUB;
        // push imm32; jmp [rip + back to the page's first word]
        code[at] = 0x68;
        code[at + 1..at + 5].copy_from_slice(&((first + i - 1) as u32).to_le_bytes());
        code[at + 5..at + 7].copy_from_slice(&[0xff, 0x25]);
        code[at + 7..at + 11].copy_from_slice(&(-((at + 11) as i32)).to_le_bytes());
    }
    // SAFETY: a fresh page of ours; afterwards it is only executed.
    unsafe {
        core::ptr::copy_nonoverlapping(code.as_ptr(), page as *mut u8, PAGE_SIZE);
        ns.files.call(number::mprotect, [page, PAGE_SIZE, 1 | 4, 0, 0, 0])?;
    }
    Ok(page)
}

/// Called by the door with a stub's number: the function's address, or the end of the program.
pub extern "C" fn bind_late(number: usize) -> usize {
    match crate::state::try_with(|ns| bind(ns, number)) {
        Some(Ok(address)) => address,
        Some(Err(missing)) => stop(&alloc::format!("missing symbol {missing}")),
        // Its name stands in the namespace that is being worked on.
        None => stop("a missing symbol, from an IFUNC resolver,"),
    }
}

/// Looks a stub's symbol up again; patches its slot.
pub fn bind(ns: &mut Namespace, number: usize) -> Result<usize, Missing> {
    let late = &ns.stubs.get_mut().late[number];
    let (object, index, slot) = (late.object, late.index, late.slot);
    let Ok(Binding::Found(found)) = ns.bind(object, index, Class::Call) else {
        return Err(ns.stubs.get_mut().late[number].missing.clone());
    };
    // SAFETY: the object runs, so all objects are relocated.
    let address = unsafe { ns.address(&found) };
    if let Some(slot) = slot {
        // SAFETY: the slot is a word of the object's writable GOT: only objects without full RELRO
        // are bound late. Other threads read either the stub or the function.
        unsafe {
            (*(slot as *const core::sync::atomic::AtomicUsize))
                .store(address, core::sync::atomic::Ordering::Release)
        };
    }
    Ok(address)
}

/// Ends the program as ld.so does on a failed lazy binding: a line on stderr, status 127.
fn stop(what: &str) -> ! {
    let text = alloc::format!("attacca: symbol lookup error: {what} was called\n");
    // SAFETY: write(2) of our own text, then the end of the process.
    unsafe {
        let _ = libc_abi::kcall!(write, 2, text.as_ptr(), text.len());
        let _ = libc_abi::kcall!(exit_group, 127);
    }
    unreachable!("exit_group returned")
}
