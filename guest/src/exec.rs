//! execve(2), the guest's part: the old program's memory goes, the runtime's private state begins anew, the
//! new program is loaded. See `syscalls/src/exec.rs`.
//!
//! Private state is the image's `.data` and `.bss` and the private heap. Before the first program is loaded
//! the former are copied to the arena, with all constants of the start in them (the root of kernel state,
//! the clock's address, ...) and nothing of a program yet; the heap holds nothing then that they point
//! to. So "anew" is that copy and an empty heap, and no list of statics has to be kept.

use crate::heap;
use crate::message::die;
use crate::program::{note_image, take_name};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicPtr, Ordering};
use loader::LoadRequest;
use platform::host;
use platform::layout::{LOADER_STACK, LOADER_STACK_SIZE, PAGE_SIZE, WINDOW_END, WINDOW_START};
use sched::thread;
use syscalls::context::Ctx;
use syscalls::exec::{self, Loader, Request};

/// What every process of the guest needs to execute a program; in the arena.
struct Kept {
    /// The pages of the image's data that had been touched before the first program, with their content.
    /// All others are as the file has them, or zero.
    data: Vec<(usize, Box<[u8]>)>,
    /// The host's auxiliary vector.
    auxv: Vec<(usize, usize)>,
    /// Memory outside the window that is not the program's: the vDSO, and the stack that the host made,
    /// where ps(1) finds the command line. Ascending.
    keep: Vec<Range<usize>>,
}

/// A process constant.
static KEPT: AtomicPtr<Kept> = AtomicPtr::new(core::ptr::null_mut());

static LOADER: Loader = Loader { go, stack_top: LOADER_STACK + LOADER_STACK_SIZE, hide_program };

/// End of the address space (x86-64, four levels).
const TASK_END: usize = 0x7fff_ffff_f000;

/// Remembers what [`go`] needs. In the kernel, on the first thread, when everything but the program is
/// there.
pub(crate) fn start(auxv: &[(usize, usize)]) {
    exec::set_loader(&LOADER);
    let mut data = Vec::new();
    let address =
        Box::into_raw(Box::new(Kept { data: Vec::new(), auxv: auxv.to_vec(), keep: kept_ranges() }));
    KEPT.store(address, Ordering::Release);
    for page in touched_pages() {
        // SAFETY: the image's own data; nobody else runs yet that would change it (an idle vCPU changes none).
        let bytes = unsafe { core::slice::from_raw_parts(page as *const u8, PAGE_SIZE) };
        data.push((page, Box::from(bytes)));
    }
    // SAFETY: leaked above; nobody looks before a program runs.
    unsafe { (*address).data = data };
}

/// Pages of the image's data that are there: `.data`, and of `.bss` what was ever touched.
fn touched_pages() -> Vec<usize> {
    let (image, file) = data_range();
    let start = image.start & !(PAGE_SIZE - 1);
    let count = (image.end - start).div_ceil(PAGE_SIZE);
    let mut present = alloc::vec![0u8; count];
    // SAFETY: one byte for each page of memory that is ours.
    if unsafe { host!(mincore, start, count * PAGE_SIZE, present.as_mut_ptr()) }.is_err() {
        present.fill(1);
    }
    // Of a page that the program has not touched yet mincore(2) tells whether the host has read the file there,
    // which it may not have, or no longer. It is not zero for all that.
    let from_file = (file - start).div_ceil(PAGE_SIZE);
    present[..from_file].fill(1);
    (0..count).filter(|&at| present[at] & 1 != 0).map(|at| start + at * PAGE_SIZE).collect()
}

/// Brings the image's data back to what it was, but for signals of the host that nobody has taken yet. Bytes that
/// are right already are not written: other vCPUs of this host process read constants there.
fn restore_data() {
    let notes = syscalls::host_signal::notes();
    let kept = &kept().data;
    for page in touched_pages() {
        let known = kept.binary_search_by_key(&page, |(at, _)| *at).ok();
        // What lies before the notes and behind them; all of a page that has none.
        let end = page + PAGE_SIZE;
        let parts = [page..end.min(notes.start.max(page)), page.max(notes.end.min(end))..end];
        for part in if notes.start >= end || notes.end <= page { [page..end, end..end] } else { parts } {
            // SAFETY: this host process's data, which only this thread changes now.
            let now = unsafe { core::slice::from_raw_parts_mut(part.start as *mut u8, part.len()) };
            match known {
                Some(at) => {
                    let then = &kept[at].1[part.start - page..part.end - page];
                    if *now != *then {
                        now.copy_from_slice(then);
                    }
                }
                None => now.fill(0),
            }
        }
    }
}

fn kept() -> &'static Kept {
    // SAFETY: set by `start`, never freed.
    unsafe { KEPT.load(Ordering::Acquire).as_ref() }.expect("set at start")
}

/// `.data` and `.bss`: the image's last writable segment, and where its part from the file ends. (The segment
/// before is written by the linker only.)
fn data_range() -> (Range<usize>, usize) {
    const PT_LOAD: u32 = 1;
    const PF_W: u32 = 2;
    // SAFETY: the ELF header of this very program stands at the start of its image (gABI 4): phoff at 32,
    // phentsize at 54, phnum at 56; of a program header type, flags, vaddr at 16, filesz at 32, memsz at 40.
    unsafe {
        let word = |at: usize| (at as *const usize).read_unaligned();
        let half = |at: usize| usize::from((at as *const u16).read_unaligned());
        let int = |at: usize| (at as *const u32).read_unaligned();
        let table = WINDOW_START + word(WINDOW_START + 32);
        let mut headers = (0..half(WINDOW_START + 56)).map(|i| table + i * half(WINDOW_START + 54));
        let data = headers.rfind(|&at| int(at) == PT_LOAD && int(at + 4) & PF_W != 0);
        let at = data.expect("a writable segment");
        let start = word(at + 16);
        (start..start + word(at + 40), start + word(at + 32))
    }
}

/// `[vdso]`, `[vvar...]` and `[stack]` of /proc/self/maps.
fn kept_ranges() -> Vec<Range<usize>> {
    let maps =
        fs::HostFd::open_host(b"/proc/self/maps", 0, 0).and_then(|fd| fd.read_all()).unwrap_or_default();
    let number = |text: &[u8]| usize::from_str_radix(core::str::from_utf8(text).ok()?, 16).ok();
    let range = |line: &[u8]| {
        let wanted = [&b"[vdso]"[..], b"[vvar]", b"[vvar_vclock]", b"[stack]"];
        wanted.iter().find(|name| line.ends_with(name))?;
        let mut ends = line.split(|&byte| byte == b' ').next()?.split(|&byte| byte == b'-');
        Some(number(ends.next()?)?..number(ends.next()?)?)
    };
    maps.split(|&byte| byte == b'\n').filter_map(range).collect()
}

/// Calls `each` with every stretch of the address space that is the program's.
fn each_stretch(mut each: impl FnMut(usize, usize)) {
    let mut at = 0;
    let window = WINDOW_START..WINDOW_END;
    let mut kept: Vec<Range<usize>> = kept().keep.clone();
    kept.push(window);
    kept.sort_by_key(|range| range.start);
    for range in kept {
        if range.start > at {
            each(at, range.start - at);
        }
        at = at.max(range.end);
    }
    if at < TASK_END {
        each(at, TASK_END - at);
    }
}

/// Has a fork leave the program's memory out, or copy it again.
fn hide_program(hide: bool) {
    const MADV_DONTFORK: usize = 10;
    const MADV_DOFORK: usize = 11;
    let advice = if hide { MADV_DONTFORK } else { MADV_DOFORK };
    each_stretch(|at, len| {
        // SAFETY: it changes no content. ENOMEM tells of holes, and all that is there is done.
        let _ = unsafe { host!(madvise, at, len, advice) };
    });
}

/// See [`Loader::go`].
fn go(request: Box<Request>) -> ! {
    each_stretch(|at, len| {
        // SAFETY: the program's memory; the caller's process has no thread in it.
        let _ = unsafe { host!(munmap, at, len) };
    });
    thread::set_fs_base(0);
    heap::begin_anew();
    restore_data();
    syscalls::process::set_own(Ctx::current().process);
    // Signals that came while this process had no name. Who leaves the kernel looks only if it was told, and that
    // may have been before.
    syscalls::host_signal::deliver();
    take_name(&request.path);
    sched::leave();
    load(request, &kept().auxv)
}

fn load(request: Box<Request>, auxv: &[(usize, usize)]) -> ! {
    let argv: Vec<&[u8]> = request.argv.iter().map(|text| &text[..]).collect();
    let envp: Vec<&[u8]> = request.envp.iter().map(|text| &text[..]).collect();
    let wish = LoadRequest {
        path: &request.path,
        argv: &argv,
        envp: &envp,
        lazy: false,
        preload: &[],
        library_path: b"",
        auxv,
        stack_size: request.stack_size,
        set_fs: thread::set_fs_base,
    };
    match loader::load(&wish) {
        Ok(loaded) => {
            sched::kernel(|| {
                note_image(&request.path, &loaded);
                exec::loaded(Ctx::current().process);
            });
            drop((argv, envp));
            drop(request);
            loaded.start()
        }
        Err(error) => fail(&alloc::format!("attacca: {error}\n")),
    }
}

/// The new program cannot be loaded, and the old one is gone: as ld.so, words on standard error and 127.
fn fail(words: &str) -> ! {
    const WRITE: usize = platform::sys::number::write as usize;
    const EXIT_GROUP: usize = platform::sys::number::exit_group as usize;
    // SAFETY: our own text; numbers.
    unsafe {
        syscalls::call(WRITE, [2, words.as_ptr() as usize, words.len(), 0, 0, 0]);
        syscalls::call(EXIT_GROUP, [127, 0, 0, 0, 0, 0]);
    }
    die(format_args!("a process goes on after its end"))
}
