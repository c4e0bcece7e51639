//! What can go wrong while a program is loaded, in words for the person who started it.
//!
//! Every error is one line: what failed, on what, and what to do where there is something to do.
//! Names come from files that may be hostile, so control characters never reach a terminal.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use platform::Errno;

/// Bytes of a path or symbol, printed as text without control characters.
pub struct Text<'a>(pub &'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in String::from_utf8_lossy(self.0).chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { fmt::Write::write_char(f, c)? }
        }
        Ok(())
    }
}

/// What is wrong with an ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The file has no bytes.
    Empty,
    /// It starts neither with the ELF magic nor with `#!`.
    NotElf,
    /// It starts with `#!`: run its interpreter (see [`crate::script`]).
    Script,
    /// The file ends before a table or segment that its headers announce.
    Truncated(&'static str),
    /// A 32-bit ELF file.
    Class32,
    /// An ELF file for another processor: its `e_machine`.
    Machine(u16),
    /// Big-endian.
    BigEndian,
    /// Neither ET_EXEC nor ET_DYN: its `e_type`.
    Type(u16),
    /// A program, where a library is wanted.
    NotALibrary,
    /// Made for another operating system: its `EI_OSABI`.
    OsAbi(u8),
    /// A header field with an impossible value.
    Malformed(&'static str),
    /// A relocation type that has no meaning at load time.
    RelocationType(u32),
    /// A relocation whose place lies outside the object.
    RelocationPlace(u64),
    /// A 32-bit relocation whose value does not fit.
    RelocationOverflow(u64),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Empty => f.write_str("the file is empty"),
            Fault::NotElf => f.write_str("not an ELF program (no ELF header and no #! line)"),
            Fault::Script => f.write_str("a script; its #! line names the program to run"),
            Fault::Truncated(what) => {
                write!(f, "the file is truncated: its {what} is cut off; get a complete copy")
            }
            Fault::Class32 => f.write_str("a 32-bit (i386 or x32) ELF file; only x86-64 programs run here"),
            Fault::Machine(machine) => {
                write!(f, "made for another processor (e_machine {machine}); only x86-64 programs run here")
            }
            Fault::BigEndian => f.write_str("a big-endian ELF file; only x86-64 programs run here"),
            Fault::Type(kind) => write!(f, "neither a program nor a shared library (e_type {kind})"),
            Fault::NotALibrary => f.write_str("a program, not a shared library"),
            Fault::OsAbi(abi) => write!(f, "made for another operating system (EI_OSABI {abi})"),
            Fault::Malformed(what) => write!(f, "malformed ELF file: {what}"),
            Fault::RelocationType(kind) => write!(f, "relocation type {kind} is not supported at load time"),
            Fault::RelocationPlace(place) => {
                write!(f, "malformed ELF file: a relocation at {place:#x} lies outside its segments")
            }
            Fault::RelocationOverflow(place) => write!(
                f,
                "the 32-bit relocation at {place:#x} does not reach its target; relink it with -fPIC"
            ),
        }
    }
}

/// An import that nothing provides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    /// The symbol.
    pub name: Vec<u8>,
    /// The version wanted, if one is.
    pub version: Option<Vec<u8>>,
    /// The library that should have it, if the import says so.
    pub library: Option<Vec<u8>>,
    /// The object that wants it.
    pub object: Vec<u8>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Text(&self.name))?;
        if let Some(version) = &self.version {
            write!(f, "@{}", Text(version))?;
        }
        if let Some(library) = &self.library {
            write!(f, " of {}", Text(library))?;
        }
        write!(f, " (wanted by {})", Text(&self.object))
    }
}

/// Why a program or library was not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The file cannot be opened or read.
    Open(Vec<u8>, Errno),
    /// The file is not something that can be loaded.
    File(Vec<u8>, Fault),
    /// A library was found nowhere: (library, object that needs it).
    LibraryNotFound(Vec<u8>, Vec<u8>),
    /// A library lacks a version node: (version, library, object that needs it).
    VersionNotFound(Vec<u8>, Vec<u8>, Vec<u8>),
    /// Imports that nothing provides, all of them.
    Missing(Vec<Missing>),
    /// Memory for the object could not be mapped: (object, what, reason).
    Map(Vec<u8>, &'static str, Errno),
    /// The addresses that a fixed program is linked for are in use: (object, start, end).
    AddressInUse(Vec<u8>, usize, usize),
    /// The object's initial-exec TLS does not fit what is left of the static block.
    StaticTls(Vec<u8>),
    /// A dlopen flag or a handle that makes no sense, in dlerror's words.
    Usage(&'static str),
    /// A handle given to dlsym or dlclose that is not one.
    BadHandle(usize),
    /// dlsym found nothing: (object asked, name, version).
    Undefined(Vec<u8>, Vec<u8>, Option<Vec<u8>>),
    /// The program is not loaded (yet).
    NotLoaded,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Open(path, errno) => {
                write!(f, "{}: cannot open: {}", Text(path), errno.message().unwrap_or("error"))
            }
            LoadError::File(path, fault) => write!(f, "{}: {fault}", Text(path)),
            LoadError::LibraryNotFound(library, by) => write!(
                f,
                "{}: cannot open shared object file: No such file or directory (needed by {}; install it, or set LD_LIBRARY_PATH)",
                Text(library),
                Text(by)
            ),
            LoadError::VersionNotFound(version, library, by) => {
                write!(
                    f,
                    "{}: version `{}' not found (required by {})",
                    Text(library),
                    Text(version),
                    Text(by)
                )
            }
            LoadError::Missing(list) => write_missing(f, list),
            LoadError::Map(path, what, errno) => {
                write!(f, "{}: cannot map {what}: {}", Text(path), errno.message().unwrap_or("error"))
            }
            LoadError::AddressInUse(path, start, end) => {
                write!(
                    f,
                    "{}: is linked for the fixed addresses {start:#x}-{end:#x}, which are in use",
                    Text(path)
                )
            }
            LoadError::StaticTls(path) => {
                write!(f, "{}: cannot allocate memory in static TLS block", Text(path))
            }
            LoadError::Usage(text) => f.write_str(text),
            LoadError::BadHandle(handle) => write!(f, "invalid handle {handle:#x}"),
            LoadError::Undefined(path, name, None) => {
                write!(f, "{}: undefined symbol: {}", Text(path), Text(name))
            }
            LoadError::Undefined(path, name, Some(version)) => {
                write!(f, "{}: undefined symbol: {}, version {}", Text(path), Text(name), Text(version))
            }
            LoadError::NotLoaded => f.write_str("not loaded"),
        }
    }
}

impl LoadError {
    /// The error in dlerror(3)'s words: programs and their tests know glibc's by heart.
    pub fn dlerror(&self) -> String {
        match self {
            LoadError::LibraryNotFound(library, _) => {
                alloc::format!("{}: cannot open shared object file: No such file or directory", Text(library))
            }
            LoadError::File(path, Fault::NotElf | Fault::Script) => {
                alloc::format!("{}: invalid ELF header", Text(path))
            }
            LoadError::File(path, Fault::Empty) => alloc::format!("{}: file too short", Text(path)),
            LoadError::Missing(list) => {
                let Some(first) = list.first() else { return String::new() };
                let mut text =
                    alloc::format!("{}: undefined symbol: {}", Text(&first.object), Text(&first.name));
                if let Some(version) = &first.version {
                    text.push_str(&alloc::format!(", version {}", Text(version)));
                }
                if list.len() > 1 {
                    text.push_str(&alloc::format!(" (and {} more)", list.len() - 1));
                }
                text
            }
            other => alloc::format!("{other}"),
        }
    }
}

/// One missing name is told whole; of many the first few, with the command that lists all.
fn write_missing(f: &mut fmt::Formatter<'_>, list: &[Missing]) -> fmt::Result {
    const SHOWN: usize = 6;
    if let [only] = list {
        return write!(f, "missing symbol {only}; --lazy runs until it is called");
    }
    write!(f, "{} missing symbols: ", list.len())?;
    for (i, missing) in list.iter().take(SHOWN).enumerate() {
        write!(f, "{}{missing}", if i == 0 { "" } else { ", " })?;
    }
    if list.len() > SHOWN {
        write!(f, " and {} more (`attacca check` lists all)", list.len() - SHOWN)?;
    }
    f.write_str("; --lazy runs until one is called")
}
