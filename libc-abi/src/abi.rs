//! `abi!` and `exports!`: one declaration for each exported C name, and the row it becomes.
//!
//! ```ignore
//! abi! { EXPORTS "libc.so.6":
//!     /// strlen(3).
//!     "GLIBC_2.2.5" fn strlen(s: *const c_char) -> usize { ... }
//!     "GLIBC_2.2.5" fn abort() -> ! { ... }
//! }
//! exports! { MORE "libc.so.6":
//!     alias "GLIBC_2.2.5" "__strdup" = strdup;          // second name of a function
//!     compat "GLIBC_2.2.5" "memcpy" = memmove;          // old version: bound only by exact version
//!     object "GLIBC_2.2.5" "in6addr_any" 16 = ANY;      // constant data: a static and its st_size
//!     cell "GLIBC_2.2.5" "stdout" 8 = STDOUT;           // a variable: a data::DataCell (read data.rs)
//! }
//! ```
//! A variadic C function is an `alias` of a naked function that spills its registers into a
//! `va_list` (see [`crate::va`]). Each table is named in `lib.rs::TABLES`.

/// What an export is; an ELF symbol type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A function.
    Func,
    /// Data of `size` bytes: the target of copy relocations.
    Object {
        /// `st_size` as glibc has it.
        size: usize,
    },
}

/// An address in an export row. A plain pointer that may stand in a static.
#[derive(Clone, Copy)]
pub struct Address(pub *const ());
// SAFETY: the pointer is only a number here; who calls or reads through it argues there.
unsafe impl Sync for Address {}
// SAFETY: as above.
unsafe impl Send for Address {}

/// One exported (library, name, version).
#[derive(Clone, Copy)]
pub struct Export {
    /// Soname that glibc 2.36 exports it from, "libc.so.6".
    pub library: &'static str,
    /// The symbol.
    pub name: &'static str,
    /// The version node, "GLIBC_2.2.5".
    pub version: &'static str,
    /// Whether an unversioned reference or dlsym finds it (`@@`), or only its exact version (`@`).
    pub default: bool,
    /// Function or data.
    pub kind: Kind,
    /// Where it is (data with a cell: its home, see [`crate::data`]).
    pub address: Address,
    /// Data that the loader may move: its [`crate::data::DataCell`]'s redirection.
    pub cell: Option<&'static crate::data::Place>,
}

/// Declares C functions and their rows. See the module's example.
#[macro_export]
macro_rules! abi {
    ($table:ident $lib:literal: $(
        $(#[$meta:meta])* $version:literal fn $name:ident ( $($arg:ident : $ty:ty),* $(,)? ) $(-> $ret:ty)? $body:block
    )*) => {
        $(
            $(#[$meta])*
            #[allow(clippy::missing_safety_doc)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) $(-> $ret)? $body
        )*
        /// The rows of this module's functions.
        pub static $table: &[$crate::abi::Export] = &[$(
            $crate::abi::Export {
                library: $lib, name: stringify!($name), version: $version, default: true,
                kind: $crate::abi::Kind::Func,
                address: $crate::abi::Address($name as *const ()), cell: None,
            },
        )*];
    };
}

/// Declares further names, old versions and data. See the module's example.
#[macro_export]
macro_rules! exports {
    ($table:ident $lib:literal: $( $what:ident $version:literal $name:literal $($size:literal)? = $target:path; )*) => {
        /// Further rows of this module.
        #[allow(unreachable_pub)]
        pub static $table: &[$crate::abi::Export] = &[$(
            $crate::exports!(@row $what $lib, $version, $name, $($size)?, $target),
        )*];
    };
    (@row alias $lib:literal, $version:literal, $name:literal, , $target:path) => {
        $crate::abi::Export {
            library: $lib, name: $name, version: $version, default: true,
            kind: $crate::abi::Kind::Func, address: $crate::abi::Address($target as *const ()), cell: None,
        }
    };
    (@row compat $lib:literal, $version:literal, $name:literal, , $target:path) => {
        $crate::abi::Export {
            library: $lib, name: $name, version: $version, default: false,
            kind: $crate::abi::Kind::Func, address: $crate::abi::Address($target as *const ()), cell: None,
        }
    };
    (@row object $lib:literal, $version:literal, $name:literal, $size:literal, $target:path) => {
        $crate::abi::Export {
            library: $lib, name: $name, version: $version, default: true,
            kind: $crate::abi::Kind::Object { size: $size },
            address: $crate::abi::Address(&raw const $target as *const ()), cell: None,
        }
    };
    (@row cell $lib:literal, $version:literal, $name:literal, $size:literal, $target:path) => {
        $crate::abi::Export {
            library: $lib, name: $name, version: $version, default: true,
            kind: $crate::abi::Kind::Object { size: $size },
            address: $crate::abi::Address($target.home()), cell: Some($target.place()),
        }
    };
}
