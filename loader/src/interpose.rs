//! Where the program's definitions win over our libc's own: variables (copied by the program, or
//! defined by someone before us in the search order) and the malloc family.
//!
//! glibc calls itself through the symbol table only for these; a program that exports `getenv`
//! (bash) wins for other objects alone, which plain symbol search already gives.

use crate::error::LoadError;
use crate::object::{Body, Namespace, ObjectId};
use crate::relocate;
use crate::resolve::{Binding, Found};
use crate::symbols::{Class, Name, Want};
use goblin::elf::program_header::PF_W;
use libc_abi::abi::Kind;
use libc_abi::data;

/// Names that glibc itself does not use for its variables: their aliases are what counts, unless
/// the program has a copy of them.
const SECOND_NAMES: [&str; 5] = ["environ", "_environ", "timezone", "tzname", "daylight"];

/// Gives the program its copies of our variables, and makes us use them. Before any object is
/// bound: an alias that another library imports must already end at the copy.
pub fn copy_our_data(ns: &Namespace, program: ObjectId) -> Result<(), LoadError> {
    let Some(elf) = ns.elf(program) else { return Ok(()) };
    for (place, index) in relocate::copies(elf) {
        let Ok(Binding::Found(Found::Builtin { row, .. })) = ns.bind(program, index, Class::Copy) else {
            continue;
        };
        let Kind::Object { size } = row.kind else { continue };
        let own = elf.symbols().get(index).map_or(0, |s| s.st_size as usize);
        let len = size.min(own);
        if elf.elf.loaded(place, len).is_none_or(|s| s.flags & PF_W == 0) {
            let path = ns.get(program).map_or_else(Default::default, |o| o.path.clone());
            return Err(LoadError::File(path, crate::error::Fault::RelocationPlace(place as u64)));
        }
        let copy = place.wrapping_add(elf.bias);
        let home = data::address(row) as *const u8;
        // SAFETY: `len` bytes of the row's data and of the program's writable segment.
        unsafe { core::ptr::copy(home, copy as *mut u8, len) };
        if own >= size {
            // SAFETY: the place has the row's size, holds its value, and the program stays loaded.
            unsafe { data::redirect(row, copy as *mut _) };
        }
    }
    Ok(())
}

/// Variables that an object before our libc defines itself: ours move there, as glibc's GOT would.
pub fn adopt_definitions(ns: &Namespace) {
    for row in ns.exports.rows().filter(|r| r.cell.is_some() && !SECOND_NAMES.contains(&r.name)) {
        let Kind::Object { size } = row.kind else { continue };
        let Some((object, symbol)) = defined_before_us(ns, row.name, row.library) else { continue };
        let Some(elf) = ns.elf(object) else { continue };
        let value = symbol.st_value as usize;
        let fits = symbol.st_size as usize >= size && elf.elf.loaded(value, size).is_some();
        if fits && symbol.st_info & 0xf == goblin::elf::sym::STT_OBJECT {
            // SAFETY: a variable of that name and size in an object that was loaded before us.
            unsafe { data::redirect(row, value.wrapping_add(elf.bias) as *mut _) };
        }
    }
}

/// Address of a function that an object before `library` of ours defines.
pub fn function(ns: &Namespace, name: &str, library: &str) -> Option<usize> {
    let (object, symbol) = defined_before_us(ns, name, library)?;
    let found = Found::Elf { object, index: 0, symbol };
    // SAFETY: asked for after relocation.
    Some(unsafe { ns.address(&found) })
}

fn defined_before_us(
    ns: &Namespace,
    name: &str,
    library: &str,
) -> Option<(ObjectId, goblin::elf::sym::sym64::Sym)> {
    let want = Want { name: Name::new(name.as_bytes()), version: None, class: Class::Call, newest: true };
    for &id in &ns.global {
        match &ns.get(id)?.body {
            Body::Builtin(ours) if ours.soname == library => return None,
            Body::Builtin(_) => {}
            Body::Elf(_) => {
                if let Some(Found::Elf { object, symbol, .. }) = ns.find_in(id, &want) {
                    return Some((object, symbol));
                }
            }
        }
    }
    None
}
