//! dlopen(3), dlsym(3), dlclose(3) and their kin, on the process's namespace.
//!
//! What is opened comes whole or not at all: an error takes every object out again that this call
//! brought in. An object goes when nobody opened it, nobody needs it and nobody is bound to it.

use crate::closure::{Closure, Options};
use crate::debug::{self, Change, LinkMap};
use crate::dynamic::{DF_1_NOOPEN, Version};
use crate::error::{Fault, LoadError};
use crate::find;
use crate::init::{self, Arguments, Call};
use crate::map;
use crate::object::{Body, Namespace, Object, ObjectId};
use crate::relocate::{self, Relocator};
use crate::resolve::Found;
use crate::symbols::{Class, Name, Want, sysv_hash};
use alloc::vec::Vec;
use goblin::elf::sym::STT_TLS;

/// dlopen's flags (dlfcn.h).
pub mod flag {
    /// Functions may be bound when first called.
    pub const LAZY: i32 = 1;
    /// Everything is bound now.
    pub const NOW: i32 = 2;
    /// Only if it is loaded already.
    pub const NOLOAD: i32 = 4;
    /// Own symbols before the global ones.
    pub const DEEPBIND: i32 = 8;
    /// Its symbols join the global scope.
    pub const GLOBAL: i32 = 0x100;
    /// Never unloaded.
    pub const NODELETE: i32 = 0x1000;
}

/// dlsym's special handles.
pub const RTLD_DEFAULT: usize = 0;
/// The next definition after the caller's object.
pub const RTLD_NEXT: usize = usize::MAX;

/// Opens a library (`None`: the program). Runs its constructors. Null without error: RTLD_NOLOAD
/// found nothing. `caller` is an address in the calling object: its RUNPATH is searched.
///
/// # Safety
/// Called from program code, on a thread of the program.
pub unsafe fn open(
    name: Option<&[u8]>,
    flags: i32,
    caller: usize,
    arguments: Arguments,
) -> Result<*mut LinkMap, LoadError> {
    if flags & (flag::LAZY | flag::NOW) == 0 {
        return Err(LoadError::Usage("invalid mode for dlopen(): Invalid argument"));
    }
    let _guard = crate::state::lock();
    let (link, calls) = locked(|ns| {
        let Some(name) = name.filter(|n| !n.is_empty()) else {
            let program = ns.program.ok_or(LoadError::NotLoaded)?;
            return Ok((debug::link(ns, program), Vec::new()));
        };
        open_library(ns, name, flags, caller)
    })?;
    // SAFETY: constructors of objects that are now relocated; the lock is held, the namespace free.
    unsafe { init::run(&calls, arguments) };
    Ok(link)
}

fn open_library(
    ns: &mut Namespace,
    name: &[u8],
    flags: i32,
    caller: usize,
) -> Result<(*mut LinkMap, Vec<Call>), LoadError> {
    let by = ns.by_address(caller).or(ns.program);
    let name = crate::search::expand(name, by.and_then(|id| ns.get(id)).map_or(b"", |o| &o.origin));
    if flags & flag::NOLOAD != 0 && !is_loaded(ns, &name, by) {
        return Ok((core::ptr::null_mut(), Vec::new()));
    }
    let before: Vec<ObjectId> = ns.ids().collect();
    debug::changing(Change::Add);
    let opened = bring(ns, &name, by, flags, &before);
    if opened.is_err() {
        let new: Vec<ObjectId> = ns.ids().filter(|id| !before.contains(id)).collect();
        take_out(ns, &new);
    }
    debug::changed(ns);
    find::publish(ns);
    let id = opened?;
    let search = ns.get(id).map_or_else(Vec::new, |o| o.life.search.clone());
    let sorted = init::sort(ns, &search, false);
    let calls = init::constructors(ns, &sorted, ns.program);
    Ok((debug::link(ns, id), calls))
}

/// RTLD_NOLOAD: by name, or by the file that the name would lead to.
fn is_loaded(ns: &mut Namespace, name: &[u8], by: Option<ObjectId>) -> bool {
    if ns.by_name(name).is_some() || crate::exports::library(name).is_some() {
        return true;
    }
    let options = ns.options.clone();
    let found = crate::search::Search::default().find(ns, &options, name, by);
    found.is_ok_and(|found| ns.by_identity(found.file.identity).is_some())
}

/// Everything that may fail: files, versions, TLS, relocation.
fn bring(
    ns: &mut Namespace,
    name: &[u8],
    by: Option<ObjectId>,
    flags: i32,
    before: &[ObjectId],
) -> Result<ObjectId, LoadError> {
    let options = Options { base_hint: 0, ..ns.options.clone() };
    let mut closure = Closure::new(ns, &options);
    let id = closure.library(name, by)?;
    closure.dependencies(&[id])?;
    closure.check_versions()?;
    let path = ns.get(id).map_or_else(Vec::new, |o| o.path.clone());
    if ns.elf(id).is_some_and(|e| e.dynamic.flags_1 & DF_1_NOOPEN != 0) {
        return Err(LoadError::File(path, Fault::Malformed("shared object cannot be dlopen()ed")));
    }
    let search = ns.breadth_first(&[id]);
    let new: Vec<ObjectId> = search.iter().copied().filter(|s| !before.contains(s)).collect();
    for &member in &search {
        let fresh = new.contains(&member);
        let Some(object) = ns.get_mut(member) else { continue };
        if !object.life.scopes.contains(&id) {
            object.life.scopes.push(id);
        }
        if fresh {
            object.life.deep = flags & flag::DEEPBIND != 0;
            object.life.now = flags & flag::NOW != 0;
        }
    }
    if let Some(object) = ns.get_mut(id) {
        object.life.search = search.clone();
    }
    prepare_tls(ns, &new)?;
    let sorted = init::sort(ns, &new, false);
    let lazy = ns.options.lazy;
    relocate_all(ns, sorted.iter().rev().copied(), lazy)?;
    crate::libc::images_ready(ns, &new);
    finish_open(ns, id, flags, &search);
    Ok(id)
}

/// Places in the static block for new objects reached by initial-exec, then ids for all.
fn prepare_tls(ns: &mut Namespace, new: &[ObjectId]) -> Result<(), LoadError> {
    for &id in new {
        for wanted in relocate::static_tls_wanted(ns, id) {
            place_late(ns, wanted, new)?;
        }
    }
    crate::libc::add_modules(ns, new);
    Ok(())
}

fn place_late(ns: &mut Namespace, id: ObjectId, new: &[ObjectId]) -> Result<(), LoadError> {
    let path = ns.get(id).map_or_else(Vec::new, |o| o.path.clone());
    let Some(module) = ns.elf(id).and_then(|e| e.tls) else { return Ok(()) };
    if module.offset.is_some() {
        return Ok(());
    }
    // An object whose variables already live in dynamic storage cannot move (glibc says the same).
    let offset = if new.contains(&id) { ns.tls.place_late(&module.segment) } else { None };
    let offset = offset.ok_or(LoadError::StaticTls(path))?;
    if let Some(tls) = ns.get_mut(id).and_then(Object::elf_mut).and_then(|e| e.tls.as_mut()) {
        tls.offset = Some(offset);
    }
    Ok(())
}

/// Relocates objects in order and protects them; an error names everything that is missing.
pub fn relocate_all(
    ns: &mut Namespace,
    order: impl Iterator<Item = ObjectId>,
    lazy: bool,
) -> Result<(), LoadError> {
    let order: Vec<ObjectId> = order.filter(|&id| ns.get(id).is_some_and(|o| !o.life.relocated)).collect();
    let mut relocator = Relocator::new(ns, lazy);
    for &id in &order {
        // SAFETY: a loaded object that nobody runs yet; the order puts what it needs first.
        unsafe { relocator.relocate(id) }?;
    }
    let missing = core::mem::take(&mut relocator.missing);
    if !missing.is_empty() {
        return Err(LoadError::Missing(missing));
    }
    for id in order {
        if let Some(elf) = ns.elf(id) {
            let path = ns.get(id).map_or_else(Vec::new, |o| o.path.clone());
            map::protect_relro(ns.files, &elf.elf, elf.bias)
                .map_err(|e| LoadError::Map(path, "its relocated data read-only", e))?;
        }
        if let Some(object) = ns.get_mut(id) {
            object.life.relocated = true;
        }
    }
    Ok(())
}

fn finish_open(ns: &mut Namespace, id: ObjectId, flags: i32, search: &[ObjectId]) {
    if flags & flag::GLOBAL != 0 {
        for &member in search {
            let Some(object) = ns.get_mut(member) else { continue };
            if !core::mem::replace(&mut object.life.global, true) {
                ns.global.push(member);
            }
        }
    }
    if let Some(object) = ns.get_mut(id) {
        object.life.opens += 1;
        object.life.nodelete |= flags & flag::NODELETE != 0;
    }
}

/// Undoes one dlopen; unloads what nobody uses any more.
///
/// # Safety
/// As [`open`].
pub unsafe fn close(handle: usize) -> Result<(), LoadError> {
    let _guard = crate::state::lock();
    let (garbage, calls) = locked(|ns| {
        let id = by_handle(ns, handle)?;
        let object = ns.get_mut(id).expect("a handle's object");
        match &object.body {
            Body::Elf(_) if object.life.opens == 0 && !object.life.nodelete => {
                return Err(LoadError::Usage("shared object not open"));
            }
            _ => object.life.opens = object.life.opens.saturating_sub(1),
        }
        let garbage = garbage(ns);
        let sorted = init::sort(ns, &garbage, true);
        let calls = init::destructors(ns, &sorted);
        Ok((garbage, calls))
    })?;
    let none = Arguments { argc: 0, argv: core::ptr::null(), envp: core::ptr::null() };
    // SAFETY: destructors of objects that are still mapped.
    unsafe { init::run(&calls, none) };
    if !garbage.is_empty() {
        locked(|ns| {
            // A destructor may have opened one of them again; it then stays, without constructors.
            let still: Vec<ObjectId> =
                self::garbage(ns).into_iter().filter(|id| garbage.contains(id)).collect();
            debug::changing(Change::Delete);
            take_out(ns, &still);
            debug::changed(ns);
            find::publish(ns);
            Ok(())
        })?;
    }
    Ok(())
}

/// Objects that nothing keeps: not opened, not needed, not bound to, no unique symbol.
fn garbage(ns: &Namespace) -> Vec<ObjectId> {
    let unique: Vec<ObjectId> = ns.unique.borrow().values().map(|&(id, _)| id).collect();
    let kept = |id: &ObjectId| ns.get(*id).is_some_and(|o| o.life.opens > 0 || o.life.nodelete);
    let mut used: Vec<ObjectId> = ns.ids().filter(|id| kept(id) || unique.contains(id)).collect();
    let mut at = 0;
    while at < used.len() {
        if let Some(object) = ns.get(used[at]) {
            let bound = object.life.bound_to.borrow();
            for id in object.needed.iter().chain(bound.iter()) {
                if !used.contains(id) {
                    used.push(*id);
                }
            }
        }
        at += 1;
    }
    ns.ids().filter(|id| !used.contains(id)).collect()
}

/// Removes objects from all lists and unmaps them.
fn take_out(ns: &mut Namespace, gone: &[ObjectId]) {
    if gone.is_empty() {
        return;
    }
    ns.global.retain(|id| !gone.contains(id));
    ns.unique.get_mut().retain(|_, (id, _)| !gone.contains(id));
    for id in ns.ids().collect::<Vec<_>>() {
        if let Some(object) = ns.get_mut(id) {
            object.life.scopes.retain(|id| !gone.contains(id));
            object.life.search.retain(|id| !gone.contains(id));
        }
    }
    for &id in gone {
        if let Some(module) = ns.elf(id).and_then(|e| e.tls).filter(|m| m.id != 0) {
            ns.libc.remove_module(module.id);
        }
        drop(ns.remove(id));
    }
}

/// dlsym and dlvsym: the address of a name.
///
/// # Safety
/// As [`open`]: an IFUNC's resolver may run.
pub unsafe fn symbol(
    handle: usize,
    name: &[u8],
    version: Option<&[u8]>,
    caller: usize,
) -> Result<usize, LoadError> {
    let _guard = crate::state::lock();
    locked(|ns| {
        let version = version.map(|v| Version {
            hash: sysv_hash(v),
            name: v.to_vec(),
            hidden: true,
            ..Version::default()
        });
        let want =
            Want { name: Name::new(name), version: version.as_ref(), class: Class::Address, newest: true };
        let from = ns.by_address(caller).or(ns.program).ok_or(LoadError::NotLoaded)?;
        let found = match handle {
            RTLD_DEFAULT => ns.find(ns.scope(from), &want),
            RTLD_NEXT => ns.find(behind(ns, from).into_iter(), &want),
            handle => ns.find(search_list(ns, by_handle(ns, handle)?).into_iter(), &want),
        };
        let Some(found) = found else { return Err(undefined(ns, handle, from, &want)) };
        if let Found::Elf { object, symbol, .. } = &found
            && symbol.st_info & 0xf == STT_TLS
        {
            let module = ns.elf(*object).and_then(|e| e.tls).map_or(0, |m| m.id);
            return Ok(ns.libc.tls_address(module, symbol.st_value as usize));
        }
        // SAFETY: everything is relocated.
        Ok(unsafe { ns.address(&found) })
    })
}

fn undefined(ns: &Namespace, handle: usize, from: ObjectId, want: &Want<'_>) -> LoadError {
    let object = match handle {
        RTLD_DEFAULT | RTLD_NEXT => from,
        handle => by_handle(ns, handle).unwrap_or(from),
    };
    LoadError::Undefined(
        ns.get(object).map_or_else(Vec::new, |o| o.path.clone()),
        want.name.bytes.to_vec(),
        want.version.map(|v| v.name.clone()),
    )
}

/// What a handle's names are looked up in.
fn search_list(ns: &Namespace, id: ObjectId) -> Vec<ObjectId> {
    if Some(id) == ns.program {
        return ns.global.clone();
    }
    match ns.get(id) {
        Some(object) if !object.life.search.is_empty() => object.life.search.clone(),
        _ => ns.breadth_first(&[id]),
    }
}

/// RTLD_NEXT: the search list that the caller came with, behind the caller.
fn behind(ns: &Namespace, from: ObjectId) -> Vec<ObjectId> {
    let mut root = from;
    while let Some(loader) = ns.get(root).and_then(|o| o.loader) {
        // An opened library is the root of its own list, whoever called dlopen.
        if ns.get(root).is_some_and(|o| o.life.opens > 0 && !ns.global.contains(&root)) {
            break;
        }
        root = loader;
    }
    let list = if ns.global.contains(&from) { ns.global.clone() } else { search_list(ns, root) };
    match list.iter().position(|&id| id == from) {
        Some(at) => list[at + 1..].to_vec(),
        None => Vec::new(),
    }
}

/// The object of a handle (the address of its link map).
pub fn by_handle(ns: &Namespace, handle: usize) -> Result<ObjectId, LoadError> {
    let is = |id: &ObjectId| {
        ns.get(*id)
            .and_then(|o| o.life.link.as_deref())
            .is_some_and(|l| core::ptr::from_ref(l) as usize == handle)
    };
    ns.ids().find(is).ok_or(LoadError::BadHandle(handle))
}

/// What dladdr tells.
pub struct AddressInfo {
    /// Path of the object, as C string.
    pub file: *const core::ffi::c_char,
    /// Where the object starts.
    pub base: usize,
    /// Nearest symbol at or below, as C string; null if none.
    pub name: *const core::ffi::c_char,
    /// Its address.
    pub address: usize,
    /// Its symbol table entry; null for ours.
    pub entry: *const u8,
    /// The object's link map.
    pub link: *mut LinkMap,
}

/// dladdr(3): the object and symbol that hold an address.
pub fn address_info(address: usize) -> Option<AddressInfo> {
    crate::state::try_with(|ns| match ns.by_address(address) {
        Some(id) => elf_address_info(ns, id, address),
        None => our_address_info(ns, address),
    })?
}

fn elf_address_info(ns: &mut Namespace, id: ObjectId, address: usize) -> Option<AddressInfo> {
    let link = debug::link(ns, id);
    let object = ns.get(id)?;
    let elf = object.elf()?;
    let at = address.wrapping_sub(elf.bias) as u64;
    let mut best: Option<(u32, goblin::elf::sym::sym64::Sym)> = None;
    elf.symbols().each_definition(|index, symbol| {
        let holds = symbol.st_value <= at
            && (symbol.st_size == 0 && symbol.st_value == at
                || at < symbol.st_value.saturating_add(symbol.st_size));
        let kind_fits = symbol.st_info & 0xf != STT_TLS;
        if holds && kind_fits && best.is_none_or(|(_, b)| b.st_value < symbol.st_value) {
            best = Some((index, *symbol));
        }
        false
    });
    let strings = elf.image.bytes(elf.dynamic.strings);
    let entries = elf.image.bytes(elf.dynamic.symbols);
    let name = best
        .and_then(|(_, s)| strings.get(s.st_name as usize..))
        .map_or(core::ptr::null(), |s| s.as_ptr().cast());
    // SAFETY: the link map belongs to the object.
    let listed = unsafe { (*link).l_name };
    // The program's own entry in the list has no name; dladdr says what was run.
    let file = if Some(id) == ns.program { ns.libc.program_name() } else { listed };
    Some(AddressInfo {
        file,
        base: elf.elf.start.wrapping_add(elf.bias),
        name,
        address: best.map_or(0, |(_, s)| (s.st_value as usize).wrapping_add(elf.bias)),
        entry: best
            .and_then(|(i, _)| entries.get(i as usize * 24..))
            .map_or(core::ptr::null(), <[u8]>::as_ptr),
        link,
    })
}

/// A function of ours: the row that starts nearest below. Rust functions without a row lie between,
/// so the name is a hint, as always with stripped code.
fn our_address_info(ns: &mut Namespace, address: usize) -> Option<AddressInfo> {
    use platform::layout::{IMAGE_END, WINDOW_START};
    let row =
        ns.exports.rows().filter(|r| r.address.0 as usize <= address).max_by_key(|r| r.address.0 as usize)?;
    if !(WINDOW_START..IMAGE_END).contains(&address) && row.address.0 as usize != address {
        return None;
    }
    let library = ns.by_name(row.library.as_bytes())?;
    let link = debug::link(ns, library);
    let name = ns.c_names.entry(row.name).or_insert_with(|| {
        let mut name = row.name.as_bytes().to_vec();
        name.push(0);
        name.into_boxed_slice()
    });
    // SAFETY: the link map belongs to the library, which stays.
    let file = unsafe { (*link).l_name };
    Some(AddressInfo {
        file,
        base: WINDOW_START,
        name: name.as_ptr().cast(),
        address: row.address.0 as usize,
        entry: core::ptr::null(),
        link,
    })
}

/// What dl_iterate_phdr tells of one object.
#[derive(Clone, Copy)]
pub struct PhdrInfo {
    /// Memory address minus file address.
    pub bias: usize,
    /// Path, as C string.
    pub name: *const core::ffi::c_char,
    /// Program headers in memory.
    pub phdr: usize,
    /// How many.
    pub phnum: usize,
    /// TLS module id, 0 without.
    pub module: usize,
    /// Objects ever added.
    pub added: u64,
    /// Objects ever removed.
    pub removed: u64,
}

/// All ELF objects, for dl_iterate_phdr: told from a list, so that the callback may call dlopen.
/// The caller holds [`crate::state::lock`] while it uses the answer.
pub fn program_headers() -> Vec<PhdrInfo> {
    let list = |ns: &mut Namespace| {
        let ids: Vec<ObjectId> = ns.ids().collect();
        let (added, removed) = (ns.added, ns.removed);
        ids.into_iter()
            .filter_map(|id| {
                let link = debug::link(ns, id);
                let elf = ns.elf(id)?;
                Some(PhdrInfo {
                    bias: elf.bias,
                    // SAFETY: the object's own link map.
                    name: unsafe { (*link).l_name },
                    phdr: elf.elf.phdr?.wrapping_add(elf.bias),
                    phnum: elf.elf.phnum,
                    module: elf.tls.map_or(0, |t| t.id),
                    added,
                    removed,
                })
            })
            .collect()
    };
    crate::state::try_with(list).unwrap_or_default()
}

/// Destructors of everything, at exit: dependents before what they need, the program first.
///
/// # Safety
/// As [`open`].
pub unsafe fn finish() {
    let _guard = crate::state::lock();
    let calls = crate::state::try_with(|ns| {
        let mut all: Vec<ObjectId> = ns.program.into_iter().collect();
        all.extend(ns.ids().filter(|&id| Some(id) != ns.program));
        let sorted = init::sort(ns, &all, true);
        init::destructors(ns, &sorted)
    });
    let none = Arguments { argc: 0, argv: core::ptr::null(), envp: core::ptr::null() };
    // SAFETY: every object is still mapped.
    unsafe { init::run(&calls.unwrap_or_default(), none) };
}

fn locked<R>(work: impl FnOnce(&mut Namespace) -> Result<R, LoadError>) -> Result<R, LoadError> {
    crate::state::try_with(work)
        .unwrap_or(Err(LoadError::Usage("the loader is busy (called from an IFUNC resolver)")))
}
