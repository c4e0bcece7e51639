//! Wide characters on streams: fgetwc, fputwc, ungetwc, fgetws, fputws.
//!
//! A wide stream has no buffer of wide characters: each is converted at the byte buffer, so that
//! position, flushing and pushing back are those of the bytes. Both encodings are stateless between
//! characters.

use super::buffer::Outcome;
use super::file::{FILE, flag, stdin, stdout};
use super::fortify::chk_fail;
use super::mb::{Encoding, MbState, Step, decode, encode};
use crate::errno;
use crate::types::*;
use core::ptr::null_mut;
use platform::Errno;

/// `WEOF`
pub(crate) const WEOF: wint_t = u32::MAX;

impl FILE {
    /// Makes the stream wide; fails on a byte stream.
    #[inline]
    pub(crate) fn orient_wide(&mut self) -> Outcome<()> {
        if self.mode == 0 {
            self.mode = 1;
        }
        if self.mode > 0 { Ok(()) } else { Err(()) }
    }

    /// Makes the stream one of bytes; fails on a wide stream.
    #[inline]
    pub(crate) fn bytes_only(&mut self) -> Outcome<()> {
        self.orient_bytes();
        if self.mode < 0 { Ok(()) } else { Err(()) }
    }

    /// `getwc`.
    pub(crate) fn get_wide(&mut self) -> wint_t {
        if self.orient_wide().is_err() {
            return WEOF;
        }
        if self.encoding == Encoding::Raw {
            let mut unit = [0u8; 4];
            // SAFETY: four bytes of ours.
            let got = unsafe { self.read_bytes(unit.as_mut_ptr(), 4) };
            return if got == 4 { u32::from_le_bytes(unit) } else { WEOF };
        }
        let utf8 = self.encoding.is_utf8();
        let mut state = MbState::default();
        let mut begun = false;
        loop {
            let byte = self.getc();
            if byte < 0 {
                return if begun { self.illegal() } else { WEOF };
            }
            begun = true;
            match decode(&mut state, &[byte as u8], utf8) {
                Step::Char(wide, _) => return wide,
                Step::Partial => {}
                Step::Bad => return self.illegal(),
            }
        }
    }

    fn illegal(&mut self) -> wint_t {
        self.flags |= flag::ERR_SEEN;
        errno::set(Errno::EILSEQ);
        WEOF
    }

    /// `putwc`.
    pub(crate) fn put_wide(&mut self, wide: wint_t) -> wint_t {
        if self.orient_wide().is_err() {
            return WEOF;
        }
        let mut bytes = [0; 6];
        let len = if self.encoding == Encoding::Raw {
            bytes[..4].copy_from_slice(&wide.to_le_bytes());
            4
        } else {
            match encode(wide, &mut bytes, self.encoding.is_utf8()) {
                Some(len) => len,
                None => return self.illegal(),
            }
        };
        if self.write_bytes(&bytes[..len]) == len { wide } else { WEOF }
    }

    /// `ungetwc`.
    pub(crate) fn unget_wide(&mut self, wide: wint_t) -> wint_t {
        if wide == WEOF || self.orient_wide().is_err() {
            return WEOF;
        }
        let mut bytes = [0; 6];
        let len = if self.encoding == Encoding::Raw {
            bytes[..4].copy_from_slice(&wide.to_le_bytes());
            4
        } else {
            match encode(wide, &mut bytes, self.encoding.is_utf8()) {
                Some(len) => len,
                None => return self.illegal(),
            }
        };
        for byte in bytes[..len].iter().rev() {
            if self.unget(*byte).is_err() {
                return WEOF;
            }
        }
        wide
    }
}

unsafe fn get_wide_line(f: &mut FILE, into: *mut wchar_t, size: c_int) -> *mut wchar_t {
    if size <= 0 {
        return null_mut();
    }
    let (room, mut len) = (size as usize - 1, 0);
    let old_error = f.flags & flag::ERR_SEEN;
    f.flags &= !flag::ERR_SEEN;
    while len < room {
        let wide = f.get_wide();
        if wide == WEOF {
            break;
        }
        // SAFETY: the program has room for `size` characters.
        unsafe { *into.add(len) = wide as wchar_t };
        len += 1;
        if wide == u32::from(b'\n') {
            break;
        }
    }
    let failed = f.has(flag::ERR_SEEN) && errno::get() != Errno::EAGAIN;
    f.flags |= old_error;
    if (len == 0 && room > 0) || failed {
        return null_mut();
    }
    // SAFETY: as above.
    unsafe { *into.add(len) = 0 };
    into
}

fn put_wide_string(f: &mut FILE, mut text: *const wchar_t) -> c_int {
    if f.orient_wide().is_err() {
        return -1;
    }
    // SAFETY: a wide C string.
    unsafe {
        while *text != 0 {
            if f.put_wide(*text as u32) == WEOF {
                return -1;
            }
            text = text.add(1);
        }
    }
    1
}

abi! { EXPORTS "libc.so.6":
    /// fgetwc(3).
    "GLIBC_2.2.5" fn fgetwc(file: *mut FILE) -> wint_t { locked!(file, |f| f.get_wide()) }
    /// getwchar(3).
    "GLIBC_2.2.5" fn getwchar() -> wint_t { locked!(stdin(), |f| f.get_wide()) }
    /// fgetwc_unlocked(3).
    "GLIBC_2.2.5" fn fgetwc_unlocked(file: *mut FILE) -> wint_t { unlocked!(file, |f| f.get_wide()) }
    /// getwchar_unlocked(3).
    "GLIBC_2.2.5" fn getwchar_unlocked() -> wint_t { unlocked!(stdin(), |f| f.get_wide()) }
    /// fputwc(3).
    "GLIBC_2.2.5" fn fputwc(wide: wchar_t, file: *mut FILE) -> wint_t {
        locked!(file, |f| f.put_wide(wide as u32))
    }
    /// putwchar(3).
    "GLIBC_2.2.5" fn putwchar(wide: wchar_t) -> wint_t { locked!(stdout(), |f| f.put_wide(wide as u32)) }
    /// fputwc_unlocked(3).
    "GLIBC_2.2.5" fn fputwc_unlocked(wide: wchar_t, file: *mut FILE) -> wint_t {
        unlocked!(file, |f| f.put_wide(wide as u32))
    }
    /// putwchar_unlocked(3).
    "GLIBC_2.2.5" fn putwchar_unlocked(wide: wchar_t) -> wint_t {
        unlocked!(stdout(), |f| f.put_wide(wide as u32))
    }
    /// ungetwc(3).
    "GLIBC_2.2.5" fn ungetwc(wide: wint_t, file: *mut FILE) -> wint_t {
        locked!(file, |f| f.unget_wide(wide))
    }
    /// fgetws(3).
    "GLIBC_2.2.5" fn fgetws(into: *mut wchar_t, size: c_int, file: *mut FILE) -> *mut wchar_t {
        // SAFETY: the program has room for `size` characters.
        locked!(file, |f| unsafe { get_wide_line(f, into, size) })
    }
    /// fgetws_unlocked(3).
    "GLIBC_2.2.5" fn fgetws_unlocked(into: *mut wchar_t, size: c_int, file: *mut FILE) -> *mut wchar_t {
        // SAFETY: as above.
        unlocked!(file, |f| unsafe { get_wide_line(f, into, size) })
    }
    /// fgetws, checked.
    "GLIBC_2.4" fn __fgetws_chk(
        into: *mut wchar_t, room: usize, size: c_int, file: *mut FILE,
    ) -> *mut wchar_t {
        if size > 0 && size as usize > room {
            chk_fail();
        }
        // SAFETY: checked.
        locked!(file, |f| unsafe { get_wide_line(f, into, size) })
    }
    /// fgetws_unlocked, checked.
    "GLIBC_2.4" fn __fgetws_unlocked_chk(
        into: *mut wchar_t, room: usize, size: c_int, file: *mut FILE,
    ) -> *mut wchar_t {
        if size > 0 && size as usize > room {
            chk_fail();
        }
        // SAFETY: checked.
        unlocked!(file, |f| unsafe { get_wide_line(f, into, size) })
    }
    /// fputws(3).
    "GLIBC_2.2.5" fn fputws(text: *const wchar_t, file: *mut FILE) -> c_int {
        locked!(file, |f| put_wide_string(f, text))
    }
    /// fputws_unlocked(3).
    "GLIBC_2.2.5" fn fputws_unlocked(text: *const wchar_t, file: *mut FILE) -> c_int {
        unlocked!(file, |f| put_wide_string(f, text))
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "getwc" = fgetwc;
    alias "GLIBC_2.2.5" "getwc_unlocked" = fgetwc_unlocked;
    alias "GLIBC_2.2.5" "putwc" = fputwc;
    alias "GLIBC_2.2.5" "putwc_unlocked" = fputwc_unlocked;
}
