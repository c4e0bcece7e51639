//! How a wide stream's characters become bytes: the locale's encoding, one named with `,ccs=`, or
//! none at all (`open_wmemstream`, whose bytes are `wchar_t`s).

pub(crate) use crate::multibyte::{MbState, Step, decode, encode};

/// A stream's encoding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// That of the current locale.
    Locale,
    Utf8,
    Ascii,
    /// `wchar_t`s as they lie in memory.
    Raw,
}

impl Encoding {
    /// The encoding that `,ccs=` names; glibc reads up to the next comma.
    pub(crate) fn named(name: &[u8]) -> Option<Encoding> {
        let name = name.split(|byte| *byte == b',').next().unwrap_or(name);
        const ASCII: [&[u8]; 3] = [b"ASCII", b"US-ASCII", b"ANSI_X3.4-1968"];
        if name.eq_ignore_ascii_case(b"UTF-8") || name.eq_ignore_ascii_case(b"UTF8") {
            Some(Encoding::Utf8)
        } else if ASCII.iter().any(|known| name.eq_ignore_ascii_case(known)) {
            Some(Encoding::Ascii)
        } else {
            None
        }
    }

    pub(crate) fn is_utf8(self) -> bool {
        match self {
            Encoding::Locale => crate::locale::is_utf8(),
            Encoding::Utf8 => true,
            Encoding::Ascii | Encoding::Raw => false,
        }
    }
}

/// `iswspace` in the current locale.
pub(crate) fn is_wide_space(wide: u32) -> bool {
    if wide < 0x80 {
        return matches!(wide, 0x20 | 9..=13);
    }
    crate::wctype::is(wide, crate::wctype::class_number(b"space"), crate::locale::is_utf8())
}
