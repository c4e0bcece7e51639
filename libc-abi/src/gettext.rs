//! <libintl.h> and <nl_types.h>: message catalogues. In the locales C and C.UTF-8 no message is
//! translated (gettext(3)), so every lookup answers its own text; domains and directories are kept,
//! since programs ask them back.

// C's contract: pointers valid as the manual page says.
#![allow(unsafe_op_in_unsafe_fn)]

use crate::errno;
use crate::futex::Lock;
use crate::string::{strcmp, strdup};
use crate::types::*;
use alloc::vec::Vec;
use core::ptr::null_mut;
use platform::Errno;

/// A text domain as bindtextdomain(3) and bind_textdomain_codeset(3) know it.
struct Domain {
    name: *mut c_char,
    directory: *mut c_char,
    codeset: *mut c_char,
}
// SAFETY: the strings are ours, never freed, and reached under the lock.
unsafe impl Send for Domain {}

static DOMAINS: Lock<Vec<Domain>> = Lock::new(Vec::new());

struct Name(*mut c_char);
// SAFETY: as above.
unsafe impl Send for Name {}

static CURRENT: Lock<Name> = Lock::new(Name(null_mut()));

/// Held over a fork.
pub(crate) fn fork_locks() -> [&'static crate::futex::RawLock; 2] {
    [DOMAINS.raw(), CURRENT.raw()]
}

/// Sets a field of a domain if `value` is not null; answers it.
unsafe fn bind(
    name: *const c_char,
    value: *const c_char,
    default: *mut c_char,
    field: fn(&mut Domain) -> &mut *mut c_char,
) -> *mut c_char {
    if name.is_null() || *name == 0 {
        return null_mut();
    }
    let mut domains = DOMAINS.lock();
    let at = match domains.iter().position(|domain| strcmp(domain.name, name) == 0) {
        Some(at) => at,
        None if value.is_null() => return default,
        None => {
            domains.push(Domain { name: strdup(name), directory: null_mut(), codeset: null_mut() });
            domains.len() - 1
        }
    };
    let place = field(&mut domains[at]);
    if !value.is_null() && (place.is_null() || strcmp(*place, value) != 0) {
        // The old text stays: it was handed out.
        *place = strdup(value);
    }
    if place.is_null() { default } else { *place }
}

fn plural(one: *const c_char, many: *const c_char, n: c_ulong) -> *mut c_char {
    if n == 1 { one.cast_mut() } else { many.cast_mut() }
}

/// `_nl_msg_cat_cntr`: programs count it up when LANGUAGE changes, so that looked-up messages are forgotten
/// (GNU gettext, "gettext grok"). Nothing is remembered here.
static CATALOGUES: crate::data::DataCell<c_int> = crate::data::DataCell::new(0);

exports! { DATA "libc.so.6":
    cell "GLIBC_2.2.5" "_nl_msg_cat_cntr" 4 = CATALOGUES;
}

abi! { EXPORTS "libc.so.6":
    /// gettext(3).
    "GLIBC_2.2.5" fn gettext(text: *const c_char) -> *mut c_char {
        text.cast_mut()
    }
    /// dgettext(3).
    "GLIBC_2.2.5" fn dgettext(_domain: *const c_char, text: *const c_char) -> *mut c_char {
        text.cast_mut()
    }
    /// dcgettext(3).
    "GLIBC_2.2.5" fn dcgettext(_domain: *const c_char, text: *const c_char, _category: c_int) -> *mut c_char {
        text.cast_mut()
    }
    /// ngettext(3).
    "GLIBC_2.2.5" fn ngettext(one: *const c_char, many: *const c_char, n: c_ulong) -> *mut c_char {
        plural(one, many, n)
    }
    /// dngettext(3).
    "GLIBC_2.2.5" fn dngettext(
        _domain: *const c_char, one: *const c_char, many: *const c_char, n: c_ulong,
    ) -> *mut c_char {
        plural(one, many, n)
    }
    /// dcngettext(3).
    "GLIBC_2.2.5" fn dcngettext(
        _domain: *const c_char, one: *const c_char, many: *const c_char, n: c_ulong, _category: c_int,
    ) -> *mut c_char {
        plural(one, many, n)
    }
    /// textdomain(3).
    "GLIBC_2.2.5" fn textdomain(name: *const c_char) -> *mut c_char {
        let default = c"messages".as_ptr().cast_mut();
        let mut current = CURRENT.lock();
        if !name.is_null() {
            current.0 = if *name == 0 { null_mut() } else { strdup(name) };
        }
        if current.0.is_null() { default } else { current.0 }
    }
    /// bindtextdomain(3).
    "GLIBC_2.2.5" fn bindtextdomain(name: *const c_char, directory: *const c_char) -> *mut c_char {
        let default = c"/usr/share/locale".as_ptr().cast_mut();
        bind(name, directory, default, |domain| &mut domain.directory)
    }
    /// bind_textdomain_codeset(3).
    "GLIBC_2.2.5" fn bind_textdomain_codeset(name: *const c_char, codeset: *const c_char) -> *mut c_char {
        bind(name, codeset, null_mut(), |domain| &mut domain.codeset)
    }
    /// catopen(3): there are no catalogues.
    "GLIBC_2.2.5" fn catopen(_name: *const c_char, _flag: c_int) -> *mut c_void {
        errno::set(Errno(2));
        core::ptr::without_provenance_mut(usize::MAX)
    }
    /// catgets(3).
    "GLIBC_2.2.5" fn catgets(
        _catalogue: *mut c_void, _set: c_int, _number: c_int, text: *const c_char,
    ) -> *mut c_char {
        errno::set(Errno(9));
        text.cast_mut()
    }
    /// catclose(3).
    "GLIBC_2.2.5" fn catclose(_catalogue: *mut c_void) -> c_int {
        errno::set(Errno(9));
        -1
    }
}

exports! { MORE "libc.so.6":
    alias "GLIBC_2.2.5" "__dgettext" = dgettext;
    alias "GLIBC_2.2.5" "__dcgettext" = dcgettext;
}

/// `_libc_intl_domainname`: the domain of libc's own messages (dcgettext(3)).
static LIBC_DOMAIN: [u8; 5] = *b"libc\0";

exports! { NAME "libc.so.6":
    object "GLIBC_2.2.5" "_libc_intl_domainname" 5 = LIBC_DOMAIN;
}
