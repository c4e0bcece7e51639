//! The host's fast clock: `__vdso_clock_gettime` in the shared object that the host's kernel maps into
//! every process (vdso(7)).

use core::ffi::CStr;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_STRTAB: usize = 5;
const DT_SYMTAB: usize = 6;

/// Makes `platform::time` use the vDSO at `image` (AT_SYSINFO_EHDR); 0 or one without that function
/// leaves the system call.
///
/// # Safety
/// `image` is 0 or the address of the vDSO's ELF header.
pub(crate) unsafe fn use_clock(image: usize) {
    if image == 0 {
        return;
    }
    // SAFETY: the caller's promise.
    if let Some(address) = unsafe { find(image, c"__vdso_clock_gettime") } {
        // SAFETY: the symbol's contract is clock_gettime(2)'s.
        unsafe { platform::time::set_vdso_clock_gettime(address) };
    }
}

/// # Safety
/// `image` is a well-formed ELF64 image, mapped.
unsafe fn find(image: usize, name: &CStr) -> Option<usize> {
    // SAFETY: offsets of Elf64_Ehdr, Elf64_Phdr (56 bytes), Elf64_Dyn (16) and Elf64_Sym (24), gABI
    // chapters 4 and 5; the kernel's image is trusted as the kernel is.
    unsafe {
        let word = |at: usize| (at as *const usize).read_unaligned();
        let half = |at: usize| usize::from((at as *const u16).read_unaligned());
        let headers = image + word(image + 32);
        let (mut bias, mut dynamic) = (image, 0);
        for header in (0..half(image + 56)).map(|i| headers + i * half(image + 54)) {
            match (header as *const u32).read_unaligned() {
                PT_LOAD => bias = image + word(header + 8) - word(header + 16),
                PT_DYNAMIC => dynamic = image + word(header + 8),
                _ => (),
            }
        }
        let (mut strings, mut symbols) = (0, 0);
        while dynamic != 0 && word(dynamic) != 0 {
            match word(dynamic) {
                DT_STRTAB => strings = bias + word(dynamic + 8),
                DT_SYMTAB => symbols = bias + word(dynamic + 8),
                _ => (),
            }
            dynamic += 16;
        }
        // The string table follows the symbol table in every vDSO; so it bounds it.
        let count = strings.checked_sub(symbols)? / 24;
        let matching = (1..count.min(256)).map(|i| symbols + i * 24).find(|&symbol| {
            let offset = (symbol as *const u32).read_unaligned() as usize;
            CStr::from_ptr((strings + offset) as *const _) == name
        })?;
        Some(bias + word(matching + 8))
    }
}
