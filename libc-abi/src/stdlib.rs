//! <stdlib.h>: absolute values and quotients, radix-64 text, suboptions.

// C's contract in every function: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::string::strncmp;
use crate::strings_search::strcspn;
use crate::types::*;
use core::ptr::null_mut;

/// `div_t`
#[repr(C)]
pub struct Div {
    quotient: c_int,
    remainder: c_int,
}

/// `ldiv_t`, `lldiv_t` and `imaxdiv_t`
#[repr(C)]
pub struct LongDiv {
    quotient: c_long,
    remainder: c_long,
}

const RADIX_64: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

abi! { EXPORTS "libc.so.6":
    /// abs(3).
    "GLIBC_2.2.5" fn abs(value: c_int) -> c_int {
        value.wrapping_abs()
    }
    /// labs(3).
    "GLIBC_2.2.5" fn labs(value: c_long) -> c_long {
        value.wrapping_abs()
    }
    /// div(3).
    "GLIBC_2.2.5" fn div(value: c_int, by: c_int) -> Div {
        Div { quotient: value.wrapping_div(by), remainder: value.wrapping_rem(by) }
    }
    /// ldiv(3).
    "GLIBC_2.2.5" fn ldiv(value: c_long, by: c_long) -> LongDiv {
        LongDiv { quotient: value.wrapping_div(by), remainder: value.wrapping_rem(by) }
    }
    /// a64l(3): up to six digits, the least significant first.
    "GLIBC_2.2.5" fn a64l(s: *const c_char) -> c_long {
        let mut value = 0u64;
        for at in 0..6 {
            let c = *s.add(at) as u8;
            let Some(digit) = RADIX_64.iter().position(|&known| known == c) else { break };
            value |= (digit as u64) << (6 * at);
        }
        value as i32 as c_long
    }
    /// l64a(3).
    "GLIBC_2.2.5" fn l64a(value: c_long) -> *mut c_char {
        static mut TEXT: [u8; 7] = [0; 7];
        let text = &raw mut TEXT;
        let mut rest = value as u32;
        let mut at = 0;
        while rest != 0 {
            (*text)[at] = RADIX_64[rest as usize & 63];
            rest >>= 6;
            at += 1;
        }
        (*text)[at] = 0;
        text.cast()
    }
    /// getsubopt(3).
    "GLIBC_2.2.5" fn getsubopt(
        option: *mut *mut c_char, tokens: *const *mut c_char, value: *mut *mut c_char,
    ) -> c_int {
        let start = *option;
        if *start == 0 {
            return -1;
        }
        let end = start.add(strcspn(start, c",".as_ptr()));
        if *end == 0 {
            *option = end;
        } else {
            *end = 0;
            *option = end.add(1);
        }
        let name = strcspn(start, c"=".as_ptr());
        let mut number = 0;
        while !(*tokens.add(number)).is_null() {
            let token = *tokens.add(number);
            if strncmp(token, start, name) == 0 && *token.add(name) == 0 {
                *value = if *start.add(name) == 0 { null_mut() } else { start.add(name + 1) };
                return number as c_int;
            }
            number += 1;
        }
        *value = start;
        -1
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "llabs" = labs;
    alias "GLIBC_2.2.5" "imaxabs" = labs;
    alias "GLIBC_2.2.5" "lldiv" = ldiv;
    alias "GLIBC_2.2.5" "imaxdiv" = ldiv;
}
