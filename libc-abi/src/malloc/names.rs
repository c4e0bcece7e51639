//! malloc(3) and its family under their C names.

use super::{cache, central, class, huge, imp, pages};
use crate::errno;
use crate::kcall;
use crate::types::{c_int, c_void};
use core::ptr::null_mut;
use platform::Errno;

const HOST_PAGE: usize = 4096;

/// mallinfo(3).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Mallinfo2 {
    arena: usize,
    ordblks: usize,
    smblks: usize,
    hblks: usize,
    hblkhd: usize,
    usmblks: usize,
    fsmblks: usize,
    uordblks: usize,
    fordblks: usize,
    keepcost: usize,
}

/// mallinfo(3): the fields wrap, as the man page warns.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Mallinfo {
    fields: [c_int; 10],
}

abi! { EXPORTS "libc.so.6":
    /// malloc(3).
    "GLIBC_2.2.5" fn malloc(size: usize) -> *mut c_void {
        imp::malloc(size)
    }
    /// calloc(3).
    "GLIBC_2.2.5" fn calloc(count: usize, size: usize) -> *mut c_void {
        imp::calloc(count, size)
    }
    /// realloc(3).
    "GLIBC_2.2.5" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
        // SAFETY: the program's block.
        unsafe { imp::realloc(old, size) }
    }
    /// reallocarray(3).
    "GLIBC_2.26" fn reallocarray(old: *mut c_void, count: usize, size: usize) -> *mut c_void {
        let Some(bytes) = count.checked_mul(size) else {
            errno::set(Errno::ENOMEM);
            return null_mut();
        };
        // glibc's calls the realloc of the symbol table.
        // SAFETY: the program's block.
        unsafe { super::realloc(old, bytes) }
    }
    /// free(3).
    "GLIBC_2.2.5" fn free(block: *mut c_void) {
        // SAFETY: the program's block.
        unsafe { imp::free(block) }
    }
    /// memalign(3): any alignment is rounded up to a power of two, as glibc does.
    "GLIBC_2.2.5" fn memalign(align: usize, size: usize) -> *mut c_void {
        match align.checked_next_power_of_two() {
            Some(align) if align <= 1 << 46 => imp::memalign(align, size),
            _ => {
                errno::set(Errno::EINVAL);
                null_mut()
            }
        }
    }
    /// aligned_alloc(3); in 2.36 the same as memalign.
    "GLIBC_2.16" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
        // SAFETY: takes numbers.
        unsafe { memalign(align, size) }
    }
    /// posix_memalign(3).
    "GLIBC_2.2.5" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
        if !align.is_power_of_two() || !align.is_multiple_of(size_of::<usize>()) {
            return Errno::EINVAL.0;
        }
        let saved = errno::get();
        let block = if align <= 1 << 46 { imp::memalign(align, size) } else { null_mut() };
        errno::set(saved);
        if block.is_null() {
            return Errno::ENOMEM.0;
        }
        // SAFETY: the program's out pointer.
        unsafe { out.write(block) };
        0
    }
    /// valloc(3).
    "GLIBC_2.2.5" fn valloc(size: usize) -> *mut c_void {
        imp::memalign(HOST_PAGE, size)
    }
    /// pvalloc(3).
    "GLIBC_2.2.5" fn pvalloc(size: usize) -> *mut c_void {
        match size.checked_next_multiple_of(HOST_PAGE) {
            Some(size) => imp::memalign(HOST_PAGE, size),
            None => {
                errno::set(Errno::ENOMEM);
                null_mut()
            }
        }
    }
    /// malloc_usable_size(3).
    "GLIBC_2.2.5" fn malloc_usable_size(block: *mut c_void) -> usize {
        if block.is_null() { 0 } else { imp::usable(block as usize).unwrap_or(0) }
    }
    /// malloc_trim(3): gives free memory back, whatever the padding.
    "GLIBC_2.2.5" fn malloc_trim(_pad: usize) -> c_int {
        cache::flush_all();
        central::trim();
        c_int::from(pages::trim())
    }
    /// mallopt(3). Parameters of glibc's own structures (M_MXFAST, M_ARENA_MAX, ...) have no counterpart
    /// and are accepted, as a hint may be; unknown ones are refused.
    "GLIBC_2.2.5" fn mallopt(parameter: c_int, value: c_int) -> c_int {
        const M_TRIM_THRESHOLD: c_int = -1;
        match parameter {
            M_TRIM_THRESHOLD => {
                let limit = if value < 0 { usize::MAX / 2 } else { value as usize };
                pages::set_trim_threshold(limit);
                1
            }
            // M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_CHECK_ACTION, M_PERTURB, M_ARENA_TEST,
            // M_ARENA_MAX, M_MXFAST.
            -8..=-2 | 1 => 1,
            _ => 0,
        }
    }
    /// mallinfo2(3).
    "GLIBC_2.33" fn mallinfo2() -> Mallinfo2 {
        gather()
    }
    /// mallinfo(3).
    "GLIBC_2.2.5" fn mallinfo() -> Mallinfo {
        let all = gather();
        Mallinfo {
            fields: [
                all.arena as c_int, all.ordblks as c_int, all.smblks as c_int, all.hblks as c_int,
                all.hblkhd as c_int, all.usmblks as c_int, all.fsmblks as c_int, all.uordblks as c_int,
                all.fordblks as c_int, all.keepcost as c_int,
            ],
        }
    }
    /// malloc_info(3): the figures as XML.
    "GLIBC_2.10" fn malloc_info(options: c_int, file: *mut crate::stdio::FILE) -> c_int {
        if options != 0 {
            return Errno::EINVAL.0;
        }
        let all = gather();
        let text = alloc::format!(
            "<malloc version=\"1\">\n<heap nr=\"0\">\n<sizes>\n</sizes>\n\
             <total type=\"fast\" count=\"0\" size=\"0\"/>\n<total type=\"rest\" count=\"{}\" size=\"{}\"/>\n\
             <system type=\"current\" size=\"{1}\"/>\n</heap>\n<total type=\"mmap\" count=\"{}\" size=\"{}\"/>\n\
             <system type=\"current\" size=\"{}\"/>\n</malloc>\n\0",
            all.ordblks, all.fordblks, all.hblks, all.hblkhd, all.arena,
        );
        // SAFETY: the program's stream, our own text.
        unsafe { crate::stdio::fputs(text.as_ptr().cast(), file) };
        0
    }
    /// mcheck(3): since 2.34 only libc_malloc_debug.so checks; too late here.
    "GLIBC_2.2.5" fn mcheck(_handler: *const c_void) -> c_int {
        -1
    }
    /// mcheck_pedantic(3).
    "GLIBC_2.2.5" fn mcheck_pedantic(_handler: *const c_void) -> c_int {
        -1
    }
    /// mcheck_check_all(3).
    "GLIBC_2.2.5" fn mcheck_check_all() {}
    /// mprobe(3): MCHECK_DISABLED.
    "GLIBC_2.2.5" fn mprobe(_block: *mut c_void) -> c_int {
        -1
    }
    /// For memory checkers: frees what the library keeps. Its memory is in use to the end.
    "GLIBC_2.2.5" fn __libc_freeres() {}
    /// malloc_stats(3): to standard error.
    "GLIBC_2.2.5" fn malloc_stats() {
        let all = gather();
        let text = alloc::format!(
            "Arena 0:\nsystem bytes     = {:10}\nin use bytes     = {:10}\nTotal (incl. mmap):\n\
             system bytes     = {:10}\nin use bytes     = {:10}\nmax mmap regions = {:10}\n\
             max mmap bytes   = {:10}\n",
            all.arena, all.uordblks, all.arena + all.hblkhd, all.uordblks + all.hblkhd, all.hblks, all.hblkhd,
        );
        // SAFETY: writes our own text.
        let _ = unsafe { kcall!(write, 2, text.as_ptr(), text.len()) };
    }
}

exports! { ALIASES "libc.so.6":
    alias "GLIBC_2.2.5" "__libc_mallinfo" = mallinfo;
    alias "GLIBC_2.2.5" "__libc_mallopt" = mallopt;
    compat "GLIBC_2.2.5" "cfree" = free;
    alias "GLIBC_2.2.5" "__libc_malloc" = malloc;
    alias "GLIBC_2.2.5" "__libc_calloc" = calloc;
    alias "GLIBC_2.2.5" "__libc_realloc" = realloc;
    alias "GLIBC_2.2.5" "__libc_free" = free;
    alias "GLIBC_2.2.5" "__libc_memalign" = memalign;
    alias "GLIBC_2.2.5" "__libc_valloc" = valloc;
    alias "GLIBC_2.2.5" "__libc_pvalloc" = pvalloc;
}

fn gather() -> Mallinfo2 {
    let pages = pages::stats();
    let (central_bytes, central_blocks) = central::free_memory();
    let (huge_bytes, huge_blocks) = huge::stats();
    let cached = cache::cached_bytes();
    let arena = (pages.in_use + pages.dirty + pages.clean) * class::PAGE;
    let used = (pages.in_use * class::PAGE).saturating_sub(central_bytes + cached);
    Mallinfo2 {
        arena,
        ordblks: central_blocks + pages.free_spans,
        smblks: 0,
        hblks: huge_blocks,
        hblkhd: huge_bytes,
        usmblks: 0,
        fsmblks: 0,
        uordblks: used,
        fordblks: arena - used,
        keepcost: pages.dirty * class::PAGE,
    }
}
