//! Rust functions called from places where the program expects every register to survive: a PLT
//! call in flight (arguments, vector registers and the x87 state included) or a TLS descriptor.

use core::arch::{naked_asm, x86_64};
use core::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of the XSAVE area; 0 where only FXSAVE exists.
static XSAVE_SIZE: AtomicUsize = AtomicUsize::new(0);

/// Finds out how large the processor's register state is. Before any of the doors is used.
pub(crate) fn prepare() {
    let osxsave = x86_64::__cpuid(1).ecx & (1 << 27) != 0;
    if osxsave {
        let size = x86_64::__cpuid_count(0xd, 0).ebx as usize;
        XSAVE_SIZE.store(size.next_multiple_of(64), Ordering::Relaxed);
    }
}

/// Saves everything but rax, calls `$function(rdi = *(rbp + $slot))`, restores, leaves the answer
/// in rax. Runs with rbp as frame pointer, whose own value is saved on the stack.
macro_rules! preserving {
    ($slot:literal) => {
        concat!(
            "push rcx\n push rdx\n push rsi\n push rdi\n push r8\n push r9\n push r10\n push r11\n push rbx\n",
            // Which state to save and how: the area is 64-byte aligned, its header zero.
            "mov rbx, [rip + {size}]\n",
            "mov rcx, rbx\n test rcx, rcx\n jnz 2f\n mov ecx, 576\n",
            "2: sub rsp, rcx\n and rsp, -64\n",
            "xor eax, eax\n",
            "mov [rsp + 512], rax\n mov [rsp + 520], rax\n mov [rsp + 528], rax\n mov [rsp + 536], rax\n",
            "mov [rsp + 544], rax\n mov [rsp + 552], rax\n mov [rsp + 560], rax\n mov [rsp + 568], rax\n",
            "mov eax, -1\n mov edx, -1\n",
            "test rbx, rbx\n jz 3f\n xsave64 [rsp]\n jmp 4f\n 3: fxsave64 [rsp]\n",
            "4: mov rdi, [rbp + ", $slot, "]\n",
            "cld\n call {function}\n",
            "mov r8, rax\n mov eax, -1\n mov edx, -1\n",
            "test rbx, rbx\n jz 5f\n xrstor64 [rsp]\n jmp 6f\n 5: fxrstor64 [rsp]\n",
            "6: lea rsp, [rbp - 72]\n",
            "mov rax, r8\n",
            "pop rbx\n pop r11\n pop r10\n pop r9\n pop r8\n pop rdi\n pop rsi\n pop rdx\n pop rcx\n",
        )
    };
}

/// Where the stubs of late-bound functions go: `[rsp]` is the stub's number, `[rsp + 8]` the
/// caller's return address. Binds, then jumps to the function as if it had been called directly.
/// rax (the vector count of variadic calls) survives as well.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn late_bind_door() {
    naked_asm!(
        "push rax",
        "push rbp",
        "mov rbp, rsp",
        preserving!("16"),
        // The stub's number makes room for the address: ret jumps there.
        "mov [rbp + 16], rax",
        "pop rbp",
        "pop rax",
        "ret",
        size = sym XSAVE_SIZE,
        function = sym crate::stub::bind_late,
    )
}

/// TLS descriptor of a variable in the static block: `[rax + 8]` is its offset (psABI, TLS
/// descriptors: only rax and flags may change).
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn tlsdesc_static() {
    naked_asm!("mov rax, [rax + 8]", "ret")
}

/// TLS descriptor of an undefined weak variable: the offset that makes its address null.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn tlsdesc_null() {
    naked_asm!("mov rax, [rax + 8]", "sub rax, fs:[0]", "ret")
}

/// TLS descriptor of a variable in dynamic storage: `[rax + 8]` points at (module, offset).
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn tlsdesc_dynamic() {
    naked_asm!(
        "push rax",
        "push rbp",
        "mov rbp, rsp",
        "mov rax, [rax + 8]",
        "mov [rbp + 8], rax",
        preserving!("8"),
        "pop rbp",
        "lea rsp, [rsp + 8]",
        "sub rax, fs:[0]",
        "ret",
        size = sym XSAVE_SIZE,
        function = sym crate::libc::tls_address,
    )
}
