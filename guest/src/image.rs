//! What the host does at a fork with the pages of the runtime's own code.
//!
//! Of a mapping of a file in which nothing was ever written it copies no page tables: the child meets its pages anew,
//! one fault for each 64 KiB, which were 24 of the 60 faults of a fork that ends at once. A mapping in which one private
//! page was made has its tables copied (`vma_needs_copy` of Linux: it has an `anon_vma`), which costs a fraction.
//!
//! The page is made through /proc/self/mem, as a debugger plants a breakpoint. mprotect(2) would not do: a private
//! mapping of a file that was writable once is accounted for ever, so the page's would never be one with its
//! neighbours' again; and all of the code would have to be writable and executable at once.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, Ordering};
use fs::HostFd;
use fs::host::O_RDWR;
use platform::host;
use platform::layout::PAGE_SIZE;

// A page of its own in the code's mapping, of which nothing is ever executed or read.
global_asm!(
    ".section .text.attacca_private_page, \"ax\", @progbits",
    ".balign {page}",
    ".globl attacca_private_page",
    ".hidden attacca_private_page",
    "attacca_private_page:",
    ".zero {page}",
    ".previous",
    page = const PAGE_SIZE,
);

unsafe extern "C" {
    #[link_name = "attacca_private_page"]
    static PRIVATE_PAGE: u8;
}

/// Private to the process: a forked child's copy says as rightly that it was done.
static DONE: AtomicBool = AtomicBool::new(false);

/// The process forks: from now on the tables of its code go with it. A host that refuses (no /proc, or
/// `proc_mem.force_override`) costs it the time alone.
pub(crate) fn copy_tables_at_forks() {
    if DONE.swap(true, Ordering::Relaxed) {
        return;
    }
    let page = &raw const PRIVATE_PAGE;
    if let Ok(memory) = HostFd::open_host(b"/proc/self/mem", O_RDWR, 0) {
        // SAFETY: one byte of a string; nobody executes or reads the byte that is written, and it is what it was.
        let _ = unsafe { host!(pwrite64, memory.raw(), c"".as_ptr(), 1, page) };
    }
}
