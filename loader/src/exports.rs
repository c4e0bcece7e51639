//! Our libc as the loader sees it: the libraries that are never loaded from disk, and an index over
//! the rows of `libc_abi::TABLES`.
//!
//! Each library takes its place in the search order as if it had been loaded, so what comes before
//! it interposes and what comes after does not.

use crate::symbols::{Class, Want, gnu_hash};
use alloc::vec::Vec;
use libc_abi::Export;
use libc_abi::abi::Kind;

/// A library whose symbols are our functions.
#[derive(Debug, PartialEq, Eq)]
pub struct Library {
    /// "libc.so.6".
    pub soname: &'static str,
    /// The version nodes it has in glibc 2.36, GLIBC_ left out where all start so.
    pub versions: &'static [&'static str],
    /// What it needs itself: a handle of libpthread.so.0 also finds libc's symbols.
    pub needed: &'static [&'static str],
}

/// glibc 2.36's shared libraries on x86-64 that programs name.
pub static LIBRARIES: &[Library] = &[
    Library {
        soname: "libc.so.6",
        versions: &[
            "2.2.5",
            "2.2.6",
            "2.3",
            "2.3.2",
            "2.3.3",
            "2.3.4",
            "2.4",
            "2.5",
            "2.6",
            "2.7",
            "2.8",
            "2.9",
            "2.10",
            "2.11",
            "2.12",
            "2.13",
            "2.14",
            "2.15",
            "2.16",
            "2.17",
            "2.18",
            "2.22",
            "2.23",
            "2.24",
            "2.25",
            "2.26",
            "2.27",
            "2.28",
            "2.29",
            "2.30",
            "2.31",
            "2.32",
            "2.33",
            "2.34",
            "2.35",
            "2.36",
            "ABI_DT_RELR",
            "PRIVATE",
        ],
        needed: &["ld-linux-x86-64.so.2"],
    },
    Library {
        soname: "libm.so.6",
        versions: &[
            "2.2.5", "2.4", "2.15", "2.18", "2.23", "2.24", "2.25", "2.26", "2.27", "2.28", "2.29", "2.31",
            "2.32", "2.35",
        ],
        needed: &["libc.so.6"],
    },
    Library {
        soname: "libpthread.so.0",
        versions: &[
            "2.2.5", "2.2.6", "2.3.2", "2.3.3", "2.3.4", "2.4", "2.11", "2.12", "2.18", "2.28", "2.30",
            "2.31",
        ],
        needed: &["libc.so.6"],
    },
    Library { soname: "libdl.so.2", versions: &["2.2.5", "2.3.3", "2.3.4"], needed: &["libc.so.6"] },
    Library {
        soname: "librt.so.1",
        versions: &["2.2.5", "2.3.3", "2.3.4", "2.4", "2.7"],
        needed: &["libc.so.6"],
    },
    Library {
        soname: "libresolv.so.2",
        versions: &["2.2.5", "2.3.2", "2.9", "PRIVATE"],
        needed: &["libc.so.6"],
    },
    Library { soname: "libutil.so.1", versions: &["2.2.5"], needed: &["libc.so.6"] },
    Library { soname: "libanl.so.1", versions: &["2.2.5"], needed: &["libc.so.6"] },
    Library {
        soname: "ld-linux-x86-64.so.2",
        versions: &["2.2.5", "2.3", "2.4", "2.34", "2.35", "PRIVATE"],
        needed: &[],
    },
];

/// The library of ours that a needed name or path means. A path counts by its last component only
/// for the program interpreter: `/lib64/ld-linux-x86-64.so.2`.
pub fn library(name: &[u8]) -> Option<&'static Library> {
    let name = match name.iter().rposition(|&b| b == b'/') {
        Some(at) => &name[at + 1..],
        None => name,
    };
    LIBRARIES.iter().find(|l| l.soname.as_bytes() == name)
}

impl Library {
    /// Whether it has the version node.
    pub fn has_version(&self, version: &[u8]) -> bool {
        version.strip_prefix(b"GLIBC_").is_some_and(|v| self.versions.iter().any(|have| have.as_bytes() == v))
    }
}

/// The rows by name, in a chained hash table: built at every start, so building must be cheap.
pub struct Exports {
    heads: Vec<u32>,
    rows: Vec<(u32, &'static Export, u32)>,
}

const END: u32 = u32::MAX;

impl Exports {
    /// Indexes tables of rows.
    pub fn new(tables: &[&'static [Export]]) -> Self {
        let count: usize = tables.iter().map(|t| t.len()).sum();
        let mut exports = Self {
            heads: alloc::vec![END; (count * 2).next_power_of_two()],
            rows: Vec::with_capacity(count),
        };
        for row in tables.iter().flat_map(|t| t.iter()) {
            let hash = gnu_hash(row.name.as_bytes());
            let slot = hash as usize & (exports.heads.len() - 1);
            exports.rows.push((hash, row, exports.heads[slot]));
            exports.heads[slot] = exports.rows.len() as u32 - 1;
        }
        exports
    }

    /// The row of `library` that satisfies `want`, by ld.so's rules for versions.
    pub fn find(&self, library: &Library, want: &Want<'_>) -> Option<&'static Export> {
        let mut default = None;
        let mut base = None;
        for row in self.named(want) {
            if row.library != library.soname {
                continue;
            }
            match want.version {
                Some(version) if row.version.as_bytes() == version.name => return Some(row),
                Some(_) => {}
                None if row.default => default = Some(row),
                // Index 2 of every glibc library is GLIBC_2.2.5: what unversioned binaries meant.
                None if row.version == "GLIBC_2.2.5" => base = Some(row),
                None => {}
            }
        }
        if want.newest { default } else { base.or(default) }
    }

    fn named<'a>(&'a self, want: &'a Want<'_>) -> impl Iterator<Item = &'static Export> + 'a {
        let slot = want.name.gnu_hash as usize & (self.heads.len() - 1);
        let mut at = self.heads[slot];
        core::iter::from_fn(move || {
            while at != END {
                let (hash, row, next) = self.rows[at as usize];
                at = next;
                if hash == want.name.gnu_hash && row.name.as_bytes() == want.name.bytes {
                    return Some(row);
                }
            }
            None
        })
    }

    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = &'static Export> + '_ {
        self.rows.iter().map(|&(_, row, _)| row)
    }

    /// Whether a row can serve the class: only data is copied.
    pub fn serves(row: &Export, class: Class) -> bool {
        class != Class::Copy || matches!(row.kind, Kind::Object { .. })
    }
}
