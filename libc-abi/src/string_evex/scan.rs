//! Finding: strlen, strnlen, strchr, strchrnul, memchr.

use crate::types::*;
use core::arch::naked_asm;

/// Bits in `rax` for the bytes of the block at `$at` that are NUL; on to `$label` if there are any.
macro_rules! nul_at {
    ($at:literal, $label:literal) => {
        concat!(
            "vmovdqa64 zmm16, [",
            $at,
            "]\n",
            "vptestnmb k0, zmm16, zmm16\n",
            "kmovq rax, k0\n",
            "test rax, rax\n",
            "jnz ",
            $label
        )
    };
}

/// As [`nul_at`], of bytes that are NUL or the one in `zmm16`: the lesser of the byte and of its difference is zero.
macro_rules! byte_or_nul_at {
    ($at:literal, $label:literal) => {
        concat!(
            "vmovdqa64 zmm17, [",
            $at,
            "]\n",
            "vpxorq zmm18, zmm17, zmm16\n",
            "vpminub zmm18, zmm18, zmm17\n",
            "vptestnmb k0, zmm18, zmm18\n",
            "kmovq rax, k0\n",
            "test rax, rax\n",
            "jnz ",
            $label
        )
    };
}

/// strlen(3).
#[unsafe(naked)]
pub unsafe extern "C" fn strlen(s: *const c_char) -> usize {
    naked_asm!(
        ".cfi_startproc",
        "mov eax, edi",
        "and eax, 4095",
        "cmp eax, 4032",
        "ja 3f",
        "vmovdqu64 zmm16, [rdi]",
        "vptestnmb k0, zmm16, zmm16",
        "kmovq rax, k0",
        "test rax, rax",
        "jz 4f",
        "tzcnt rax, rax",
        "ret",
        // Near the end of a page: the block that the string begins in, without what is before it.
        "3:",
        "mov rdx, rdi",
        "and rdx, -64",
        "vmovdqa64 zmm16, [rdx]",
        "vptestnmb k0, zmm16, zmm16",
        "kmovq rax, k0",
        "shrx rax, rax, rdi",
        "test rax, rax",
        "jz 4f",
        "tzcnt rax, rax",
        "ret",
        "4:",
        "mov rdx, rdi",
        "and rdx, -64",
        nul_at!("rdx+64", "61f"),
        nul_at!("rdx+128", "62f"),
        nul_at!("rdx+192", "63f"),
        nul_at!("rdx+256", "64f"),
        // Back to a multiple of four blocks: some of them again, none before the string.
        "add rdx, 320",
        "and rdx, -256",
        "2:",
        "vmovdqa64 zmm16, [rdx]",
        "vpminub zmm17, zmm16, [rdx+64]",
        "vmovdqa64 zmm18, [rdx+128]",
        "vpminub zmm19, zmm18, [rdx+192]",
        "vpminub zmm20, zmm17, zmm19",
        "vptestnmb k0, zmm20, zmm20",
        "add rdx, 256",
        "kortestq k0, k0",
        "jz 2b",
        "sub rdx, 256",
        nul_at!("rdx", "60f"),
        nul_at!("rdx+64", "61f"),
        nul_at!("rdx+128", "62f"),
        nul_at!("rdx+192", "63f"),
        "64:",
        "add rdx, 64",
        "63:",
        "add rdx, 64",
        "62:",
        "add rdx, 64",
        "61:",
        "add rdx, 64",
        "60:",
        "tzcnt rax, rax",
        "sub rdx, rdi",
        "add rax, rdx",
        "ret",
        ".cfi_endproc",
    )
}

/// strnlen(3).
pub unsafe extern "C" fn strnlen(s: *const c_char, limit: usize) -> usize {
    // SAFETY: the string's bytes up to its NUL or the limit.
    let end = unsafe { memchr(s.cast(), 0, limit) };
    if end.is_null() { limit } else { end as usize - s as usize }
}

/// strchr and strchrnul: `$check` looks at what was found, at `rax`.
macro_rules! find_in_string {
    ($(#[$meta:meta])* $name:ident, $check:literal) => {
        $(#[$meta])*
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(s: *const c_char, c: c_int) -> *mut c_char {
            naked_asm!(
                ".cfi_startproc",
                "mov eax, edi",
                "vpbroadcastb zmm16, esi",
                "and eax, 4095",
                "cmp eax, 4032",
                "ja 3f",
                "vmovdqu64 zmm17, [rdi]",
                "vpxorq zmm18, zmm17, zmm16",
                "vpminub zmm18, zmm18, zmm17",
                "vptestnmb k0, zmm18, zmm18",
                "kmovq rax, k0",
                "test rax, rax",
                "jz 4f",
                "tzcnt rax, rax",
                "add rax, rdi",
                $check,
                "ret",
                // Near the end of a page.
                "3:",
                "mov rdx, rdi",
                "and rdx, -64",
                "vmovdqa64 zmm17, [rdx]",
                "vpxorq zmm18, zmm17, zmm16",
                "vpminub zmm18, zmm18, zmm17",
                "vptestnmb k0, zmm18, zmm18",
                "kmovq rax, k0",
                "shrx rax, rax, rdi",
                "test rax, rax",
                "jz 4f",
                "tzcnt rax, rax",
                "add rax, rdi",
                $check,
                "ret",
                "4:",
                "and rdi, -64",
                byte_or_nul_at!("rdi+64", "61f"),
                byte_or_nul_at!("rdi+128", "62f"),
                byte_or_nul_at!("rdi+192", "63f"),
                byte_or_nul_at!("rdi+256", "64f"),
                "add rdi, 320",
                "and rdi, -256",
                // The least bytes of four blocks for NUL; lanes that are unlike `c` are what the next comparison looks
                // at. A lane that is left of all five goes on.
                "2:",
                "vmovdqa64 zmm17, [rdi]",
                "vmovdqa64 zmm19, [rdi+128]",
                "vpminub zmm18, zmm17, [rdi+64]",
                "vpminub zmm20, zmm19, [rdi+192]",
                "vpcmpneqb k1, zmm16, zmm17",
                "vpcmpneqb k1{{k1}}, zmm16, zmm19",
                "vpminub zmm20, zmm18, zmm20",
                "vpcmpneqb k1{{k1}}, zmm16, [rdi+64]",
                "vpcmpneqb k1{{k1}}, zmm16, [rdi+192]",
                "vptestmb k1{{k1}}, zmm20, zmm20",
                "add rdi, 256",
                "kortestq k1, k1",
                "jc 2b",
                "sub rdi, 256",
                byte_or_nul_at!("rdi", "60f"),
                byte_or_nul_at!("rdi+64", "61f"),
                byte_or_nul_at!("rdi+128", "62f"),
                byte_or_nul_at!("rdi+192", "63f"),
                "64:",
                "add rdi, 64",
                "63:",
                "add rdi, 64",
                "62:",
                "add rdi, 64",
                "61:",
                "add rdi, 64",
                "60:",
                "tzcnt rax, rax",
                "add rax, rdi",
                $check,
                "ret",
                "5:",
                "xor eax, eax",
                "ret",
                ".cfi_endproc",
            )
        }
    };
}

find_in_string! {
    /// strchr(3).
    strchr, "cmp byte ptr [rax], sil\njne 5f"
}
find_in_string! {
    /// strchrnul(3).
    strchrnul, ""
}

/// The block behind the one at `rdi`: on to the last label with the bits of what was found, or to 9 if less than it is left
/// (`rdx` counts from `rdi`).
macro_rules! next_byte {
    () => {
        concat!(
            "add rdi, 64\n",
            "vpcmpeqb k0, zmm16, [rdi]\n",
            "kmovq rax, k0\n",
            "test rax, rax\n",
            "jnz 60f\n",
            "sub rdx, 64\n",
            "jbe 9b"
        )
    };
}

/// One of four blocks again, whose differences are in `$register`.
macro_rules! found_byte {
    ($register:literal) => {
        concat!(
            "vptestnmb k0, ",
            $register,
            ", ",
            $register,
            "\n",
            "kmovq rax, k0\n",
            "test rax, rax\n",
            "jnz 60f\n",
            "add rdi, 64\n",
            "sub rdx, 64\n",
            "jbe 9b"
        )
    };
}

/// memchr(3). `size` may be more than the memory there is, if a hit comes before its end.
#[unsafe(naked)]
pub unsafe extern "C" fn memchr(s: *const c_void, c: c_int, size: usize) -> *mut c_void {
    naked_asm!(
        ".cfi_startproc",
        "test rdx, rdx",
        "jz 9f",
        "mov eax, edi",
        "vpbroadcastb zmm16, esi",
        "and eax, 4095",
        "cmp eax, 4032",
        "ja 3f",
        "vpcmpeqb k0, zmm16, [rdi]",
        "kmovq rax, k0",
        "cmp rdx, 64",
        "ja 4f",
        "bzhi rax, rax, rdx",
        "jz 9f",
        "tzcnt rax, rax",
        "add rax, rdi",
        "ret",
        "9:",
        "xor eax, eax",
        "ret",
        // Near the end of a page.
        "3:",
        "mov rcx, rdi",
        "and rcx, -64",
        "vpcmpeqb k0, zmm16, [rcx]",
        "kmovq rax, k0",
        "shrx rax, rax, rdi",
        "test rax, rax",
        "jz 5f",
        "60:",
        "tzcnt rax, rax",
        "cmp rdx, rax",
        "jbe 9b",
        "add rax, rdi",
        "ret",
        "4:",
        "test rax, rax",
        "jnz 60b",
        // rdx: what is left from the next aligned block on, if anything.
        "5:",
        "mov ecx, edi",
        "and ecx, 63",
        "and rdi, -64",
        "sub rcx, 64",
        "add rdx, rcx",
        "jnc 9b",
        "jz 9b",
        next_byte!(),
        next_byte!(),
        next_byte!(),
        next_byte!(),
        // Back to a multiple of four blocks, which lie in one page: if one byte of them is asked for, all can be read.
        "add rdi, 64",
        "movzx ecx, dil",
        "sub rdi, rcx",
        "add rdx, rcx",
        "jnc 2f",
        "mov rdx, -1",
        "2:",
        "vpxorq zmm17, zmm16, [rdi]",
        "vpxorq zmm18, zmm16, [rdi+64]",
        "vpxorq zmm19, zmm16, [rdi+128]",
        "vpxorq zmm20, zmm16, [rdi+192]",
        "vpminub zmm21, zmm17, zmm18",
        "vpminub zmm22, zmm19, zmm20",
        "vpminub zmm22, zmm21, zmm22",
        "vptestnmb k0, zmm22, zmm22",
        "kortestq k0, k0",
        "jnz 6f",
        "add rdi, 256",
        "sub rdx, 256",
        "ja 2b",
        "9:",
        "xor eax, eax",
        "ret",
        "6:",
        found_byte!("zmm17"),
        found_byte!("zmm18"),
        found_byte!("zmm19"),
        found_byte!("zmm20"),
        "60:",
        "tzcnt rax, rax",
        "cmp rdx, rax",
        "jbe 9b",
        "add rax, rdi",
        "ret",
        ".cfi_endproc",
    )
}
