//! <argz.h> and <envz.h>: vectors of strings in one block of memory.

// C's contract: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::malloc;
use crate::string::{copy, memchr, memmove, strchrnul, strcmp, strlen, strncmp};
use crate::types::*;
use core::ptr::null_mut;

const ENOMEM: c_int = 12;
const EINVAL: c_int = 22;

/// Makes the block `more` bytes longer; answers where they start.
unsafe fn grow(argz: *mut *mut c_char, size: *mut usize, more: usize) -> *mut c_char {
    let block: *mut c_char = malloc::realloc((*argz).cast(), *size + more).cast();
    if block.is_null() {
        return block;
    }
    let end = block.add(*size);
    *argz = block;
    *size += more;
    end
}

unsafe fn envz_place(envz: *const c_char, size: usize, name: *const c_char) -> *mut c_char {
    let length = strchrnul(name, b'=' as c_int) as usize - name as usize;
    let mut at = 0;
    while at < size {
        let entry = envz.add(at);
        if strncmp(entry, name, length) == 0 && matches!(*entry.add(length) as u8, 0 | b'=') {
            return entry.cast_mut();
        }
        at += strlen(entry) + 1;
    }
    null_mut()
}

abi! { EXPORTS "libc.so.6":
    /// argz_create(3).
    "GLIBC_2.2.5" fn argz_create(argv: *const *mut c_char, argz: *mut *mut c_char, size: *mut usize) -> c_int {
        (*argz, *size) = (null_mut(), 0);
        let mut at = 0;
        while !(*argv.add(at)).is_null() {
            let error = argz_add(argz, size, *argv.add(at));
            if error != 0 {
                return error;
            }
            at += 1;
        }
        0
    }
    /// argz_create_sep(3).
    "GLIBC_2.2.5" fn argz_create_sep(
        text: *const c_char, separator: c_int, argz: *mut *mut c_char, size: *mut usize,
    ) -> c_int {
        (*argz, *size) = (null_mut(), 0);
        argz_add_sep(argz, size, text, separator)
    }
    /// argz_add_sep(3): empty parts are left out.
    "GLIBC_2.2.5" fn argz_add_sep(
        argz: *mut *mut c_char, size: *mut usize, text: *const c_char, separator: c_int,
    ) -> c_int {
        let length = strlen(text) + 1;
        if length == 1 {
            return 0;
        }
        let start = *size;
        let new = grow(argz, size, length);
        if new.is_null() {
            return ENOMEM;
        }
        let mut to = 0;
        for from in 0..length {
            let c = *text.add(from);
            let ends = c == separator as c_char || c == 0;
            if ends && (to == 0 || *new.add(to - 1) == 0) {
                continue;
            }
            *new.add(to) = if ends { 0 } else { c };
            to += 1;
        }
        *size = start + to;
        if *size == 0 {
            malloc::free((*argz).cast());
            *argz = null_mut();
        }
        0
    }
    /// argz_count(3).
    "GLIBC_2.2.5" fn argz_count(argz: *const c_char, size: usize) -> usize {
        (0..size).filter(|&at| *argz.add(at) == 0).count()
    }
    /// argz_extract(3).
    "GLIBC_2.2.5" fn argz_extract(argz: *const c_char, size: usize, argv: *mut *mut c_char) {
        let (mut at, mut number) = (0, 0);
        while at < size {
            *argv.add(number) = argz.add(at).cast_mut();
            at += strlen(argz.add(at)) + 1;
            number += 1;
        }
        *argv.add(number) = null_mut();
    }
    /// argz_stringify(3).
    "GLIBC_2.2.5" fn argz_stringify(argz: *mut c_char, size: usize, separator: c_int) {
        for at in 0..size.saturating_sub(1) {
            if *argz.add(at) == 0 {
                *argz.add(at) = separator as c_char;
            }
        }
    }
    /// argz_append(3).
    "GLIBC_2.2.5" fn argz_append(
        argz: *mut *mut c_char, size: *mut usize, more: *const c_char, length: usize,
    ) -> c_int {
        let end = grow(argz, size, length);
        if end.is_null() {
            return ENOMEM;
        }
        copy(end, more, length);
        0
    }
    /// argz_add(3).
    "GLIBC_2.2.5" fn argz_add(argz: *mut *mut c_char, size: *mut usize, text: *const c_char) -> c_int {
        argz_append(argz, size, text, strlen(text) + 1)
    }
    /// argz_delete(3).
    "GLIBC_2.2.5" fn argz_delete(argz: *mut *mut c_char, size: *mut usize, entry: *mut c_char) {
        if entry.is_null() {
            return;
        }
        let length = strlen(entry) + 1;
        *size -= length;
        memmove(entry.cast(), entry.add(length).cast(), (*argz).add(*size) as usize - entry as usize);
        if *size == 0 {
            malloc::free((*argz).cast());
            *argz = null_mut();
        }
    }
    /// argz_insert(3).
    "GLIBC_2.2.5" fn argz_insert(
        argz: *mut *mut c_char, size: *mut usize, before: *mut c_char, text: *const c_char,
    ) -> c_int {
        if before.is_null() {
            return argz_add(argz, size, text);
        }
        if before < *argz || before >= (*argz).add(*size) {
            return EINVAL;
        }
        let mut offset = before as usize - *argz as usize;
        // Back to the start of the entry.
        while offset > 0 && *(*argz).add(offset - 1) != 0 {
            offset -= 1;
        }
        let (length, had) = (strlen(text) + 1, *size);
        if grow(argz, size, length).is_null() {
            return ENOMEM;
        }
        let place = (*argz).add(offset);
        memmove(place.add(length).cast(), place.cast(), had - offset);
        copy(place, text, length);
        0
    }
    /// argz_next(3).
    "GLIBC_2.2.5" fn argz_next(argz: *const c_char, size: usize, entry: *const c_char) -> *mut c_char {
        if entry.is_null() {
            return if size > 0 { argz.cast_mut() } else { null_mut() };
        }
        let end = argz.add(size);
        if entry >= end {
            return null_mut();
        }
        let nul = memchr(entry.cast(), 0, end as usize - entry as usize);
        let next: *mut c_char = nul.add(1).cast();
        if next.cast_const() >= end { null_mut() } else { next }
    }
    /// argz_replace(3).
    "GLIBC_2.2.5" fn argz_replace(
        argz: *mut *mut c_char, size: *mut usize, from: *const c_char, to: *const c_char, count: *mut c_uint,
    ) -> c_int {
        if from.is_null() || *from == 0 {
            return 0;
        }
        let (mut new, mut new_size) = (null_mut(), 0);
        let (old, old_size) = (*argz, *size);
        let mut at = 0;
        while at < old_size {
            let entry = old.add(at);
            at += strlen(entry) + 1;
            let mut rest: *const c_char = entry;
            loop {
                let hit = crate::strings_search::strstr(rest, from);
                let part = if hit.is_null() { strlen(rest) } else { hit as usize - rest as usize };
                if argz_append(&mut new, &mut new_size, rest, part) != 0 {
                    return ENOMEM;
                }
                if hit.is_null() {
                    break;
                }
                if argz_append(&mut new, &mut new_size, to, strlen(to)) != 0 {
                    return ENOMEM;
                }
                if !count.is_null() {
                    *count += 1;
                }
                rest = hit.add(strlen(from));
            }
            if argz_append(&mut new, &mut new_size, c"".as_ptr(), 1) != 0 {
                return ENOMEM;
            }
        }
        malloc::free(old.cast());
        (*argz, *size) = (new, new_size);
        0
    }
    /// envz_entry(3).
    "GLIBC_2.2.5" fn envz_entry(envz: *const c_char, size: usize, name: *const c_char) -> *mut c_char {
        envz_place(envz, size, name)
    }
    /// envz_get(3).
    "GLIBC_2.2.5" fn envz_get(envz: *const c_char, size: usize, name: *const c_char) -> *mut c_char {
        let entry = envz_place(envz, size, name);
        if entry.is_null() {
            return entry;
        }
        let equals = strchrnul(entry, b'=' as c_int);
        if *equals == 0 { null_mut() } else { equals.add(1) }
    }
    /// envz_remove(3).
    "GLIBC_2.2.5" fn envz_remove(envz: *mut *mut c_char, size: *mut usize, name: *const c_char) {
        let entry = envz_place(*envz, *size, name);
        argz_delete(envz, size, entry);
    }
    /// envz_add(3).
    "GLIBC_2.2.5" fn envz_add(
        envz: *mut *mut c_char, size: *mut usize, name: *const c_char, value: *const c_char,
    ) -> c_int {
        envz_remove(envz, size, name);
        if value.is_null() {
            return argz_add(envz, size, name);
        }
        let (n, v) = (strlen(name), strlen(value));
        let end = grow(envz, size, n + v + 2);
        if end.is_null() {
            return ENOMEM;
        }
        copy(end, name, n);
        *end.add(n) = b'=' as c_char;
        copy(end.add(n + 1), value, v + 1);
        0
    }
    /// envz_merge(3).
    "GLIBC_2.2.5" fn envz_merge(
        envz: *mut *mut c_char, size: *mut usize, other: *const c_char, other_size: usize, replace: c_int,
    ) -> c_int {
        let mut at = 0;
        while at < other_size {
            let entry = other.add(at);
            at += strlen(entry) + 1;
            let had = envz_place(*envz, *size, entry);
            if !had.is_null() && (replace == 0 || strcmp(had, entry) == 0) {
                continue;
            }
            argz_delete(envz, size, had);
            if argz_add(envz, size, entry) != 0 {
                return ENOMEM;
            }
        }
        0
    }
    /// envz_strip(3).
    "GLIBC_2.2.5" fn envz_strip(envz: *mut *mut c_char, size: *mut usize) {
        let mut at = 0;
        while at < *size {
            let entry = (*envz).add(at);
            let length = strlen(entry) + 1;
            if *strchrnul(entry, b'=' as c_int) != 0 {
                at += length;
            } else {
                memmove(entry.cast(), entry.add(length).cast(), *size - at - length);
                *size -= length;
            }
        }
    }
}
