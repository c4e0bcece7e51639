//! parse_printf_format(3): the types of a format's arguments (`<printf.h>`).

use super::engine::{Class, each_spec, places};
use super::spec::{Format, Length, Spec};
use crate::types::*;

// `PA_*` of <printf.h>.
const PA_INT: c_int = 0;
const PA_CHAR: c_int = 1;
const PA_WCHAR: c_int = 2;
const PA_STRING: c_int = 3;
const PA_WSTRING: c_int = 4;
const PA_POINTER: c_int = 5;
const PA_DOUBLE: c_int = 7;
const PA_FLAG_LONG_LONG: c_int = 1 << 8;
const PA_FLAG_LONG: c_int = 1 << 9;
const PA_FLAG_SHORT: c_int = 1 << 10;
const PA_FLAG_PTR: c_int = 1 << 11;

/// The type of a conversion's argument. `l` and `ll` are both `long` here: glibc tells them apart only
/// where their sizes differ; nor does it look at the `l` of `%lc` and `%ls`.
fn kind(spec: &Spec) -> c_int {
    let integer = match spec.length {
        Length::None => PA_INT,
        Length::Char => PA_CHAR,
        Length::Short => PA_INT | PA_FLAG_SHORT,
        Length::Long | Length::LongLong => PA_INT | PA_FLAG_LONG,
    };
    match spec.conversion {
        b'c' => PA_CHAR,
        b'C' => PA_WCHAR,
        b's' => PA_STRING,
        b'S' => PA_WSTRING,
        b'p' => PA_POINTER,
        b'n' => integer | PA_FLAG_PTR,
        _ if spec.class() == Class::LongDouble => PA_DOUBLE | PA_FLAG_LONG_LONG,
        _ if spec.class() == Class::Double => PA_DOUBLE,
        _ => integer,
    }
}

abi! { EXPORTS "libc.so.6":
    /// parse_printf_format(3).
    "GLIBC_2.2.5" fn parse_printf_format(fmt: *const c_char, room: usize, types: *mut c_int) -> usize {
        let (mut next, mut count) = (0, 0);
        let mut note = |place: usize, kind: c_int| {
            count = count.max(place);
            if place <= room {
                // SAFETY: the array has `room` entries.
                unsafe { *types.add(place - 1) = kind };
            }
        };
        let _ = each_spec(Format(fmt.cast::<u8>()), |spec| {
            let (width, precision, value) = places(spec, &mut next);
            for amount in [width, precision].into_iter().flatten() {
                note(amount, PA_INT);
            }
            if let Some(value) = value {
                note(value, kind(spec));
            }
            Ok(())
        });
        count
    }
}
