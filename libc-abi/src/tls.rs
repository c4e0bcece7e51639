//! Thread-local storage: a thread's static block with its TCB, its dtv, and `__tls_get_addr`.
//!
//! The *layout* comes from the loader: how many bytes lie below the thread pointer (surplus for
//! later `dlopen` included), and for each module its image and, if static, its distance below the
//! thread pointer (psABI TLS variant II; Drepper, "ELF Handling For Thread-Local Storage"). A dtv
//! slot is glibc's: 16 bytes, slot 0 holds the generation that the vector was last brought up to.
//! Blocks of dynamic modules are allocated at first use and freed with their thread.
//!
//! Left out: freeing a closed module's blocks in *other* threads at dlclose; they do it themselves at
//! their next `__tls_get_addr` or exit.

use crate::futex::Lock;
use crate::kcall;
use crate::malloc::imp;
use crate::thread::{self, Tcb};
use crate::types::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicUsize, Ordering};

/// What lies below every thread pointer.
#[derive(Clone, Copy, Debug)]
pub struct StaticTls {
    /// Bytes below the thread pointer, surplus included.
    pub size: usize,
    /// Strictest alignment of a static module.
    pub align: usize,
}

/// The thread-local part of a loaded object.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Its initial image (PT_TLS), relocated.
    pub image: *const u8,
    /// Bytes of the image.
    pub image_len: usize,
    /// Bytes of the block; behind the image it is zero.
    pub size: usize,
    /// Alignment, a power of two.
    pub align: usize,
    /// `p_vaddr % p_align`: where in an aligned block the image starts.
    pub align_offset: usize,
    /// Distance of the block below the thread pointer; 0 for a dynamic module.
    pub static_offset: usize,
}

/// The argument of `__tls_get_addr`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TlsIndex {
    /// DTPMOD64.
    pub module: usize,
    /// DTPOFF64.
    pub offset: usize,
}

/// One element of the dtv. Slot 0: `value` is the generation, `to_free` the number of slots.
#[repr(C)]
#[derive(Clone, Copy)]
struct Slot {
    value: usize,
    to_free: *mut c_void,
}

/// A slot without a block (glibc's TLS_DTV_UNALLOCATED).
const UNALLOCATED: usize = usize::MAX;
/// Modules that fit into the vector that comes with a thread.
const FIRST_SLOTS: usize = 64;
const EMPTY: Slot = Slot { value: UNALLOCATED, to_free: null_mut() };

struct Table {
    /// `modules[id - 1]`.
    modules: *mut Entry,
    len: usize,
    capacity: usize,
    fixed: StaticTls,
}

#[derive(Clone, Copy)]
struct Entry {
    module: Option<Module>,
    /// Generation in which this entry last changed.
    generation: usize,
}

// SAFETY: the table is reached under its lock.
unsafe impl Send for Table {}

static TABLE: Lock<Table> =
    Lock::new(Table { modules: null_mut(), len: 0, capacity: 0, fixed: StaticTls { size: 0, align: 64 } });
/// Counts changes of the table.
static GENERATION: AtomicUsize = AtomicUsize::new(1);

/// Sets the layout. Before the first thread.
pub fn register_static(fixed: StaticTls) {
    TABLE.lock().fixed = StaticTls { size: fixed.size, align: fixed.align.max(align_of::<Tcb>()) };
}

/// Adds a module and answers its number (1, 2, ...; a freed number is used again). A static one's
/// image is copied to its place in every thread that exists.
///
/// # Safety
/// The image stays valid until [`remove_module`]; a static offset lies in the registered size and
/// overlaps no other module.
pub unsafe fn add_module(module: Module) -> usize {
    let id = {
        let mut table = TABLE.lock();
        let generation = GENERATION.load(Ordering::Relaxed) + 1;
        let entry = Entry { module: Some(module), generation };
        let id = table.free_id();
        table.set(id, entry);
        GENERATION.store(generation, Ordering::Release);
        id
    };
    if module.static_offset != 0 {
        // SAFETY: the offset lies in every thread's static block.
        crate::pthread::thread::for_each(|tcb| unsafe { copy_image(tcb, &module) });
    }
    id
}

/// Forgets a module.
///
/// # Safety
/// No code uses its variables any more.
pub unsafe fn remove_module(id: usize) {
    let mut table = TABLE.lock();
    let generation = GENERATION.load(Ordering::Relaxed) + 1;
    table.set(id, Entry { module: None, generation });
    GENERATION.store(generation, Ordering::Release);
}

/// Bytes and alignment that [`install`] needs for a thread.
pub fn block_layout() -> (usize, usize) {
    let fixed = TABLE.lock().fixed;
    let above = size_of::<Tcb>() + FIRST_SLOTS * size_of::<Slot>();
    (fixed.size.next_multiple_of(fixed.align) + above.next_multiple_of(fixed.align), fixed.align)
}

/// Makes a thread's static block, TCB and dtv in zeroed memory of [`block_layout`].
///
/// # Safety
/// `block` is such memory, aligned, the caller's, and lives as long as the thread.
pub unsafe fn install(block: *mut u8) -> *mut Tcb {
    let fixed = TABLE.lock().fixed;
    // SAFETY: inside the block by `block_layout`.
    unsafe {
        let tcb: *mut Tcb = block.add(fixed.size.next_multiple_of(fixed.align)).cast();
        let dtv: *mut Slot = tcb.add(1).cast();
        for slot in 0..FIRST_SLOTS {
            dtv.add(slot).write(EMPTY);
        }
        dtv.write(Slot { value: 0, to_free: FIRST_SLOTS as *mut c_void });
        (*tcb).tcb = tcb;
        (*tcb).this = tcb;
        (*tcb).dtv = dtv.cast();
        (*tcb).magic = thread::MAGIC;
        copy_images(tcb);
        tcb
    }
}

/// The main thread's TCB, in memory of its own. The loader sets FS to it, and calls [`copy_images`]
/// when the images are relocated.
pub fn create_main() -> Option<*mut Tcb> {
    let (size, align) = block_layout();
    const READ_WRITE: usize = 3;
    const PRIVATE_ANONYMOUS: usize = 0x22;
    // SAFETY: fresh zeroed memory, with room to align it.
    unsafe {
        let start = kcall!(mmap, 0, size + align, READ_WRITE, PRIVATE_ANONYMOUS, -1isize, 0).ok()?;
        Some(install(start.next_multiple_of(align) as *mut u8))
    }
}

/// Copies the image of every static module to its place below `tcb`.
///
/// # Safety
/// `tcb` was made by [`install`] for the registered layout, and its thread does not run yet.
pub unsafe fn copy_images(tcb: *mut Tcb) {
    let table = TABLE.lock();
    for id in 1..=table.len {
        if let Some(module) = table.get(id).module.filter(|m| m.static_offset != 0) {
            // SAFETY: the offset lies in the static block.
            unsafe { copy_image(tcb, &module) };
        }
    }
}

unsafe fn copy_image(tcb: *mut Tcb, module: &Module) {
    // SAFETY: the loader placed the module's block there.
    unsafe {
        let block = tcb.cast::<u8>().sub(module.static_offset);
        core::ptr::copy_nonoverlapping(module.image, block, module.image_len);
        block.add(module.image_len).write_bytes(0, module.size - module.image_len);
    }
}

/// Frees the calling thread's dynamic blocks: it ends.
pub fn release_current() {
    // SAFETY: the thread's own vector.
    unsafe {
        let tcb = thread::current();
        let dtv: *mut Slot = (*tcb).dtv.cast();
        if dtv.is_null() {
            return;
        }
        for slot in 1..slots(dtv) {
            imp::free((*dtv.add(slot)).to_free);
            dtv.add(slot).write(EMPTY);
        }
        let first: *mut Slot = tcb.add(1).cast();
        if dtv != first {
            first.write(Slot { value: 0, to_free: FIRST_SLOTS as *mut c_void });
            for slot in 1..FIRST_SLOTS {
                first.add(slot).write(EMPTY);
            }
            (*tcb).dtv = first.cast();
            imp::free(dtv.cast());
        }
    }
}

/// The calling thread's block of a module if it has one: for dl_iterate_phdr's `dlpi_tls_data`.
pub fn block_of(module: usize) -> *mut c_void {
    // SAFETY: the thread's own vector.
    unsafe {
        let dtv: *mut Slot = (*thread::current()).dtv.cast();
        let table = TABLE.lock();
        match table.find(module) {
            Some(found) if found.static_offset != 0 => {
                thread::current().cast::<u8>().sub(found.static_offset).cast()
            }
            Some(_) if !dtv.is_null() && module < slots(dtv) && (*dtv.add(module)).value != UNALLOCATED => {
                (*dtv.add(module)).value as *mut c_void
            }
            _ => null_mut(),
        }
    }
}

abi! { EXPORTS "ld-linux-x86-64.so.2":
    /// The address of a thread-local variable (psABI): called by compiled code.
    "GLIBC_2.3" fn __tls_get_addr(index: *const TlsIndex) -> *mut c_void {
        // SAFETY: compiled code passes its GOT entry; the dtv is the thread's own.
        unsafe {
            let TlsIndex { module, offset } = *index;
            let dtv: *mut Slot = (*thread::current()).dtv.cast();
            if (*dtv).value == GENERATION.load(Ordering::Acquire) {
                // A vector of this generation has a slot for every module of this generation.
                let block = (*dtv.add(module)).value;
                if block != UNALLOCATED {
                    return (block + offset) as *mut c_void;
                }
            }
            (allocate(module) + offset) as *mut c_void
        }
    }
}

/// Brings the vector up to date and makes the module's block.
#[cold]
#[inline(never)]
fn allocate(id: usize) -> usize {
    // SAFETY: the thread's own vector and TCB.
    unsafe {
        let tcb = thread::current();
        let module = update(tcb);
        let dtv: *mut Slot = (*tcb).dtv.cast();
        let slot = dtv.add(id);
        if (*slot).value != UNALLOCATED {
            return (*slot).value;
        }
        let Some(module) = module.lock().find(id) else {
            fatal("thread-local variable of an object that is not loaded\n")
        };
        if module.static_offset != 0 {
            (*slot).value = tcb as usize - module.static_offset;
            return (*slot).value;
        }
        let block = imp::memalign(module.align.max(16), module.size + module.align_offset).cast::<u8>();
        if block.is_null() {
            fatal("cannot allocate memory for thread-local data: ABORT\n");
        }
        let start = block.add(module.align_offset);
        core::ptr::copy_nonoverlapping(module.image, start, module.image_len);
        start.add(module.image_len).write_bytes(0, module.size - module.image_len);
        slot.write(Slot { value: start as usize, to_free: block.cast() });
        start as usize
    }
}

/// Drops blocks of modules that changed since the vector was current, and makes it long enough.
unsafe fn update(tcb: *mut Tcb) -> &'static Lock<Table> {
    let table = TABLE.lock();
    let generation = GENERATION.load(Ordering::Relaxed);
    // SAFETY: the calling thread's own vector.
    unsafe {
        let mut dtv: *mut Slot = (*tcb).dtv.cast();
        let (had, seen) = (slots(dtv), (*dtv).value);
        if seen != generation {
            if table.len + 1 > had {
                dtv = lengthen(tcb, had, (table.len + 1).next_power_of_two());
            }
            for id in 1..=table.len.min(had - 1) {
                if table.get(id).generation > seen {
                    imp::free((*dtv.add(id)).to_free);
                    dtv.add(id).write(EMPTY);
                }
            }
            (*dtv).value = generation;
        }
    }
    &TABLE
}

unsafe fn lengthen(tcb: *mut Tcb, had: usize, count: usize) -> *mut Slot {
    // SAFETY: the calling thread's own vector.
    unsafe {
        let old: *mut Slot = (*tcb).dtv.cast();
        let new: *mut Slot = imp::malloc(count * size_of::<Slot>()).cast();
        if new.is_null() {
            fatal("cannot allocate memory for thread-local data: ABORT\n");
        }
        core::ptr::copy_nonoverlapping(old, new, had);
        for slot in had..count {
            new.add(slot).write(EMPTY);
        }
        (*new).to_free = count as *mut c_void;
        (*tcb).dtv = new.cast();
        if old != tcb.add(1).cast() {
            imp::free(old.cast());
        }
        new
    }
}

unsafe fn slots(dtv: *mut Slot) -> usize {
    // SAFETY: the caller's vector; slot 0 holds its length.
    unsafe { (*dtv).to_free as usize }
}

impl Table {
    fn get(&self, id: usize) -> Entry {
        // SAFETY: callers stay within `len`.
        unsafe { self.modules.add(id - 1).read() }
    }

    fn find(&self, id: usize) -> Option<Module> {
        if id == 0 || id > self.len { None } else { self.get(id).module }
    }

    fn free_id(&mut self) -> usize {
        if let Some(id) = (1..=self.len).find(|&id| self.get(id).module.is_none()) {
            return id;
        }
        if self.len == self.capacity {
            let capacity = (self.capacity * 2).max(32);
            // The table is made before any thread has a malloc cache, so it does not come from there.
            let new: *mut Entry = map(capacity * size_of::<Entry>()).cast();
            // SAFETY: fresh memory, long enough. The old table stays behind (it is small and doubles).
            unsafe { core::ptr::copy_nonoverlapping(self.modules, new, self.len) };
            self.modules = new;
            self.capacity = capacity;
        }
        self.len += 1;
        self.len
    }

    fn set(&mut self, id: usize, entry: Entry) {
        // SAFETY: below the capacity.
        unsafe { self.modules.add(id - 1).write(entry) };
    }
}

fn map(bytes: usize) -> *mut u8 {
    // SAFETY: fresh memory.
    match unsafe { kcall!(mmap, 0, bytes, 3, 0x22, -1isize, 0) } {
        Ok(address) => address as *mut u8,
        Err(_) => fatal("cannot allocate memory for the table of thread-local modules\n"),
    }
}

fn fatal(text: &str) -> ! {
    // SAFETY: writes our own text, then ends the process.
    unsafe {
        let _ = kcall!(write, 2, text.as_ptr(), text.len());
        crate::start::abort()
    }
}

/// The lock, for fork(2).
pub(crate) fn fork_lock() -> &'static crate::futex::RawLock {
    TABLE.raw()
}
