//! From a path to the program's first instruction.
//!
//! The order matters: objects are mapped; our variables move to where the program has them; the
//! main thread gets its TCB and FS, for IFUNC resolvers may be compiled with stack protection; the
//! C library learns of stack, environment and vector; then relocation, TLS images, constructors
//! of libraries (on the program's stack), and the jump.

use crate::arch::{entry, save};
use crate::closure::{Closure, Options};
use crate::debug;
use crate::dlopen;
use crate::error::{Fault, LoadError};
use crate::exports;
use crate::files::{Files, GuestFiles};
use crate::find;
use crate::hooks;
use crate::init::{self, Arguments, Call};
use crate::interpose;
use crate::libc::{self, Guest};
use crate::map;
use crate::object::{Namespace, Object, ObjectId};
use crate::stack::{self, Contents, at};
use crate::state;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use platform::Errno;
use platform::layout::PAGE_SIZE;
use platform::sys::number;

/// What to load and with what.
pub struct LoadRequest<'a> {
    /// The program's path, already found (PATH is the caller's affair).
    pub path: &'a [u8],
    /// Arguments, the program's name first.
    pub argv: &'a [&'a [u8]],
    /// Environment, `NAME=value`. LD_LIBRARY_PATH and LD_PRELOAD in it count.
    pub envp: &'a [&'a [u8]],
    /// Missing functions become stubs that stop the program by name.
    pub lazy: bool,
    /// Libraries to load before those of LD_PRELOAD.
    pub preload: &'a [&'a [u8]],
    /// Folders to search before those of LD_LIBRARY_PATH, separated by colons.
    pub library_path: &'a [u8],
    /// The host's auxiliary vector: processor features, vDSO, signal stack size.
    pub auxv: &'a [(usize, usize)],
    /// Bytes of the first stack (RLIMIT_STACK); 8 MiB for 0.
    pub stack_size: usize,
    /// Sets the calling thread's FS base.
    pub set_fs: fn(usize),
}

/// A program that is ready to run.
pub struct Loaded {
    /// The initial stack pointer: argc, argv, envp, auxv as the psABI says.
    pub stack: usize,
    entry: usize,
    fini: usize,
    /// The first stack: start and length, for /proc/self/maps and fault messages.
    pub stack_range: (usize, usize),
    /// The program's memory: start and end. The heap (brk) belongs behind it.
    pub program_range: (usize, usize),
}

static FILES: GuestFiles = GuestFiles;
static LIBC: Guest = Guest;

const DEFAULT_STACK: usize = 8 << 20;
/// On top of what the program asked for: system calls run on the caller's stack.
const RUNTIME_STACK: usize = libc_abi::pthread::stack::HEADROOM;
/// Where the kernel puts position-independent programs; gdb and people expect 0x55...
const PIE_BASE: usize = 0x5555_5555_4000;

/// Loads a program with all it needs, binds it, and makes its first stack.
pub fn load(request: &LoadRequest<'_>) -> Result<Loaded, LoadError> {
    save::prepare();
    let random = random_bytes();
    let options = options(request, random);
    let mut ns = Namespace::new(&FILES, &LIBC, libc_abi::TABLES);
    ns.options = options.clone();
    let program = Closure::new(&mut ns, &options).program(request.path)?;
    if let Some(&(_, base)) = request.auxv.iter().find(|&&(kind, _)| kind == at::SYSINFO_EHDR) {
        // SAFETY: the host's own vector.
        unsafe { crate::vdso::use_clock(base) };
    }
    let interp = ns.elf(program).and_then(|e| e.elf.interp.clone());
    match interp {
        Some(path) if exports::library(&path).is_some() => load_dynamic(ns, program, request, random),
        Some(path) => load_foreign(ns, program, Some(path), request, random),
        None => load_foreign(ns, program, None, request, random),
    }
}

fn options(request: &LoadRequest<'_>, random: [u8; 16]) -> Options {
    let variable = |name: &[u8]| request.envp.iter().find_map(|e| e.strip_prefix(name)?.strip_prefix(b"="));
    let mut library_path = request.library_path.to_vec();
    if let Some(more) = variable(b"LD_LIBRARY_PATH").filter(|v| !v.is_empty()) {
        if !library_path.is_empty() {
            library_path.push(b':');
        }
        library_path.extend_from_slice(more);
    }
    let mut preload: Vec<Vec<u8>> = request.preload.iter().map(|p| p.to_vec()).collect();
    preload.extend(crate::closure::preload_list(variable(b"LD_PRELOAD").unwrap_or(b"")));
    // 28 random bits of pages, as the kernel's default.
    let pages = u32::from_le_bytes([random[0], random[5], random[10], random[15]]) as usize & 0xfff_ffff;
    let base_hint = PIE_BASE + pages * PAGE_SIZE;
    Options { library_path, preload, lazy: request.lazy, view: false, base_hint }
}

/// A program for glibc's interpreter: we take the interpreter's place.
fn load_dynamic(
    mut ns: Namespace,
    program: ObjectId,
    request: &LoadRequest<'_>,
    random: [u8; 16],
) -> Result<Loaded, LoadError> {
    interpose::copy_our_data(&ns, program)?;
    interpose::adopt_definitions(&ns);
    let tcb = main_block(&mut ns, program)?;
    (request.set_fs)(tcb as usize);
    let first = first_stack(&ns, program, None, request, random)?;
    // SAFETY: once, on the main thread; the stack is as described and stays. FS holds the TCB.
    unsafe { libc_abi::start::init_process(libc_abi::start::InitialStack(first.pointer as *mut usize)) };
    libc::PROGRAM_NAME.store(first.name as *mut _, Ordering::Relaxed);
    // Before relocation ends with the protection of RELRO, in which the dynamic section may lie.
    debug::fill_dt_debug(&ns, program);
    let order = ns.global.clone();
    let sorted = init::sort(&ns, &order, false);
    dlopen::relocate_all(&mut ns, sorted.iter().rev().copied(), request.lazy)?;
    // SAFETY: the main thread's TCB; it runs no program code yet.
    unsafe { libc_abi::tls::copy_images(tcb) };
    interpose_malloc(&ns);
    debug::changed(&mut ns);
    find::publish(&mut ns);
    let (entry, range) = program_place(&ns, program)?;
    state::install(ns);
    libc_abi::dl::set_hooks(&hooks::HOOKS);
    libc_abi::pthread::atfork::set_loader_hook(&state::FORK);
    PROGRAM_STACK.store(first.pointer as *mut usize, Ordering::Relaxed);
    Ok(Loaded {
        stack: first.pointer,
        entry,
        fini: finish as *const () as usize,
        stack_range: first.range,
        program_range: range,
    })
}

/// A static program, or one with another libc's interpreter: it does all this itself, as under the
/// kernel, and reaches the personality by system calls.
fn load_foreign(
    mut ns: Namespace,
    program: ObjectId,
    interp: Option<Vec<u8>>,
    request: &LoadRequest<'_>,
    random: [u8; 16],
) -> Result<Loaded, LoadError> {
    let options = ns.options.clone();
    let interp = match interp {
        Some(path) => Some(Closure::new(&mut ns, &options).foreign_interpreter(&path)?),
        None => None,
    };
    let first = first_stack(&ns, program, interp, request, random)?;
    let (_, range) = program_place(&ns, program)?;
    let (entry, _) = program_place(&ns, interp.unwrap_or(program))?;
    debug::changed(&mut ns);
    find::publish(&mut ns);
    state::install(ns);
    Ok(Loaded { stack: first.pointer, entry, fini: 0, stack_range: first.range, program_range: range })
}

/// Lays the static TLS out, tells the C library of all modules, makes the main thread's block.
fn main_block(ns: &mut Namespace, program: ObjectId) -> Result<*mut libc_abi::thread::Tcb, LoadError> {
    let order = ns.global.clone();
    let mut layout = core::mem::take(&mut ns.tls);
    for &id in &order {
        if let Some(module) = ns.get_mut(id).and_then(Object::elf_mut).and_then(|e| e.tls.as_mut()) {
            layout.place(module);
        }
    }
    layout.seal();
    libc_abi::tls::register_static(libc_abi::tls::StaticTls { size: layout.size, align: layout.align });
    ns.tls = layout;
    libc::add_modules(ns, &order);
    let path = ns.get(program).map_or_else(Vec::new, |o| o.path.clone());
    libc_abi::tls::create_main().ok_or(LoadError::Map(path, "the main thread's block", Errno::ENOMEM))
}

struct FirstStack {
    pointer: usize,
    name: usize,
    range: (usize, usize),
}

fn first_stack(
    ns: &Namespace,
    program: ObjectId,
    interp: Option<ObjectId>,
    request: &LoadRequest<'_>,
    random: [u8; 16],
) -> Result<FirstStack, LoadError> {
    let path = ns.get(program).map_or_else(Vec::new, |o| o.path.clone());
    let executable = ns.global.iter().filter_map(|&id| ns.elf(id)).any(|e| e.elf.exec_stack);
    let fail = |e| LoadError::Map(path.clone(), "the stack", e);
    let asked = if request.stack_size == 0 { DEFAULT_STACK } else { request.stack_size };
    let size = map::page_up(asked + RUNTIME_STACK);
    let start = map_stack(ns.files, size, executable).map_err(fail)?;
    let auxv = auxiliary(ns, program, interp, request);
    let contents =
        Contents { argv: request.argv, envp: request.envp, execfn: request.path, random, auxv: &auxv };
    // execve(2): arguments and environment may take a quarter of the stack.
    let (bytes, placed) =
        stack::build(start + size, size / 4, &contents).ok_or_else(|| fail(Errno::E2BIG))?;
    // SAFETY: the bytes end at the top of the fresh stack and fit.
    unsafe {
        core::ptr::copy_nonoverlapping(bytes.as_ptr(), placed.pointer as *mut u8, bytes.len());
    }
    Ok(FirstStack { pointer: placed.pointer, name: placed.name, range: (start, size) })
}

/// A stack with a guard page below.
fn map_stack(files: &dyn Files, size: usize, executable: bool) -> Result<usize, Errno> {
    let start = map::fresh(files, size + PAGE_SIZE)?;
    let exec = if executable { 4 } else { 0 };
    // SAFETY: fresh memory of ours.
    unsafe {
        files.call(number::mprotect, [start, PAGE_SIZE, 0, 0, 0, 0])?;
        if executable {
            files.call(number::mprotect, [start + PAGE_SIZE, size, 1 | 2 | exec, 0, 0, 0])?;
        }
    }
    Ok(start + PAGE_SIZE)
}

fn auxiliary(
    ns: &Namespace,
    program: ObjectId,
    interp: Option<ObjectId>,
    request: &LoadRequest<'_>,
) -> Vec<(usize, usize)> {
    let host = |kind: usize| request.auxv.iter().find(|&&(k, _)| k == kind).copied();
    let mut auxv: Vec<(usize, usize)> =
        [at::SYSINFO_EHDR, at::MINSIGSTKSZ, at::HWCAP, at::HWCAP2].into_iter().filter_map(host).collect();
    auxv.push((at::PAGESZ, PAGE_SIZE));
    auxv.push(host(at::CLKTCK).unwrap_or((at::CLKTCK, 100)));
    if let Some(elf) = ns.elf(program) {
        if let Some(phdr) = elf.elf.phdr {
            auxv.push((at::PHDR, phdr.wrapping_add(elf.bias)));
        }
        auxv.push((at::PHENT, 56));
        auxv.push((at::PHNUM, elf.elf.phnum));
        auxv.push((at::ENTRY, elf.elf.entry.wrapping_add(elf.bias)));
    }
    auxv.push((at::BASE, interp.and_then(|id| ns.elf(id)).map_or(0, |e| e.bias)));
    auxv.push((at::FLAGS, 0));
    let ids = [
        (at::UID, number::getuid),
        (at::EUID, number::geteuid),
        (at::GID, number::getgid),
        (at::EGID, number::getegid),
    ];
    for (kind, call) in ids {
        // SAFETY: these calls take nothing and never fail.
        auxv.push((kind, unsafe { ns.files.call(call, [0; 6]) }.unwrap_or(0)));
    }
    auxv.push((at::SECURE, 0));
    auxv
}

/// The entry point and the span of an object; an entry outside its code is a bad file.
fn program_place(ns: &Namespace, id: ObjectId) -> Result<(usize, (usize, usize)), LoadError> {
    let elf = ns.elf(id).ok_or(LoadError::NotLoaded)?;
    if !elf.elf.executable(elf.elf.entry) {
        let path = ns.get(id).map_or_else(Vec::new, |o| o.path.clone());
        return Err(LoadError::File(path, Fault::Malformed("an entry point outside the code")));
    }
    let range = (elf.elf.start.wrapping_add(elf.bias), elf.elf.end.wrapping_add(elf.bias));
    Ok((elf.elf.entry.wrapping_add(elf.bias), range))
}

/// The program's own allocator becomes the C library's, if an object before libc.so.6 brings one.
fn interpose_malloc(ns: &Namespace) {
    let find = |name| interpose::function(ns, name, "libc.so.6");
    let Some(malloc) = find("malloc") else { return };
    let rest = ["calloc", "realloc", "free", "memalign"].map(find);
    // SAFETY: functions of those names in the global scope have C's types and meaning; no program
    // code has run yet.
    unsafe {
        libc_abi::malloc::interpose(|own| {
            own.malloc = core::mem::transmute::<usize, unsafe extern "C" fn(usize) -> *mut _>(malloc);
            let [calloc, realloc, free, memalign] = rest;
            if let Some(f) = calloc {
                own.calloc = core::mem::transmute::<usize, unsafe extern "C" fn(usize, usize) -> *mut _>(f);
            }
            if let Some(f) = realloc {
                own.realloc = core::mem::transmute::<usize, unsafe extern "C" fn(*mut _, usize) -> *mut _>(f);
            }
            if let Some(f) = free {
                own.free = core::mem::transmute::<usize, unsafe extern "C" fn(*mut _)>(f);
            }
            if let Some(f) = memalign {
                own.memalign = core::mem::transmute::<usize, unsafe extern "C" fn(usize, usize) -> *mut _>(f);
            }
        });
    }
}

fn random_bytes() -> [u8; 16] {
    let mut bytes = [0u8; 16];
    // SAFETY: the kernel writes into the buffer only.
    let got = unsafe { FILES.call(number::getrandom, [bytes.as_mut_ptr() as usize, 16, 0, 0, 0, 0]) };
    if got != Ok(16) {
        // Never seen on Linux since 3.17; a canary from the clock is better than none.
        let now = platform::time::now().0;
        bytes[..8].copy_from_slice(&now.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        bytes[8..].copy_from_slice(&now.rotate_left(32).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes());
    }
    bytes
}

/// The first stack: constructors get argc, argv and envp from it.
static PROGRAM_STACK: AtomicPtr<usize> = AtomicPtr::new(core::ptr::null_mut());
/// 1 once the libraries' constructors ran.
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// argc, argv, envp of the process.
pub(crate) fn arguments() -> Arguments {
    let stack = PROGRAM_STACK.load(Ordering::Relaxed);
    if stack.is_null() {
        return Arguments { argc: 0, argv: core::ptr::null(), envp: core::ptr::null() };
    }
    // SAFETY: the first stack as `stack::build` made it; it stays.
    unsafe {
        let argc = *stack;
        let argv = stack.add(1);
        Arguments { argc: argc as i32, argv: argv.cast(), envp: argv.add(argc + 1).cast() }
    }
}

/// Preinit functions of the program, then constructors of all libraries; the program's own are run
/// by `__libc_start_main`, through [`init_program`].
extern "C" fn initialise() {
    if PROGRAM_STACK.load(Ordering::Relaxed).is_null() || STARTED.swap(1, Ordering::Relaxed) != 0 {
        return;
    }
    let _guard = state::lock();
    let calls: Vec<Call> = state::with(|ns| {
        let program = ns.program.expect("a program was loaded");
        let mut calls = init::preinit(ns, program);
        let global = ns.global.clone();
        let sorted = init::sort(ns, &global, false);
        calls.extend(init::constructors(ns, &sorted, Some(program)));
        calls
    });
    // SAFETY: relocated objects, on the program's own thread and stack.
    unsafe { init::run(&calls, arguments()) };
}

/// DT_INIT and DT_INIT_ARRAY of the program.
///
/// # Safety
/// Once, from `__libc_start_main`.
pub(crate) unsafe fn init_program(arguments: Arguments) {
    let calls =
        state::with(|ns| ns.program.map_or_else(Vec::new, |program| init::own_constructors(ns, program)));
    // SAFETY: the program is relocated, its libraries are initialised.
    unsafe { init::run(&calls, arguments) };
}

/// What the program's start code registers with atexit (rdx at entry).
extern "C" fn finish() {
    // SAFETY: called at exit, on a thread of the program.
    unsafe { dlopen::finish() };
}

impl Loaded {
    /// Runs the libraries' constructors and jumps to the program. The caller's stack is left behind.
    pub fn start(self) -> ! {
        // SAFETY: a stack made for this, the program's entry point, and our own functions.
        unsafe { entry::enter(self.stack, self.entry, self.fini, initialise) }
    }
}
