//! `FILE`: glibc's layout, the three standard streams, and the list of all open streams.
//!
//! The first 216 bytes are ABI: inlined `getc_unlocked`, `putc_unlocked`, `feof_unlocked` and gnulib
//! read and write the buffer pointers and flags in place. What follows is ours. The invariants that
//! both sides rely on:
//!
//! - *Reading*: `read_base <= read_ptr <= read_end` lie in the buffer, the write pointers are equal,
//!   so that `putc_unlocked` calls `__overflow`.
//! - *Writing* (`CURRENTLY_PUTTING`): `read_ptr == read_end`, so that `getc_unlocked` calls `__uflow`;
//!   `write_base..write_ptr` waits to be written. `write_end` is the end of the buffer in a fully
//!   buffered stream and `write_base` otherwise, so that each `putc_unlocked` of a line-buffered or
//!   unbuffered stream comes to `__overflow`, which looks for the newline.
//! - `offset` is the position of the descriptor if known, else -1; the byte at that position belongs
//!   at `read_end`. gnulib's `fseeko` stores it itself when both areas are empty.
//! - *Backup* (`IN_BACKUP`): `ungetc` of something else than was read goes to a second area; the
//!   read pointers then point there and `save_base..save_end` hold the unread rest of the buffer.

use super::lock::FileLock;
use super::stream::{FD_OPS, Ops};
use crate::data::DataCell;
use crate::types::*;
use core::cell::UnsafeCell;
use core::ptr::null_mut;

/// Bits of `_flags`, with glibc's values.
pub mod flag {
    #![allow(missing_docs)]
    pub const MAGIC: i32 = 0xFBAD_0000u32 as i32;
    pub const USER_BUF: i32 = 0x1;
    pub const UNBUFFERED: i32 = 0x2;
    pub const NO_READS: i32 = 0x4;
    pub const NO_WRITES: i32 = 0x8;
    pub const EOF_SEEN: i32 = 0x10;
    pub const ERR_SEEN: i32 = 0x20;
    pub const LINKED: i32 = 0x80;
    pub const IN_BACKUP: i32 = 0x100;
    pub const LINE_BUF: i32 = 0x200;
    pub const CURRENTLY_PUTTING: i32 = 0x800;
    pub const IS_APPENDING: i32 = 0x1000;
    pub const IS_FILEBUF: i32 = 0x2000;
    pub const USER_LOCK: i32 = 0x8000;
    /// In `_flags2`: `fclose` must not close the descriptor (`freopen`).
    pub const F2_NOCLOSE: i32 = 32;
    /// In `_flags2`: the descriptor is close-on-exec.
    pub const F2_CLOEXEC: i32 = 64;
}

/// `EOF`
pub const EOF: c_int = -1;
/// `BUFSIZ`
pub const BUFSIZ: usize = 8192;

/// A C stream. Fields up to `unused` are glibc's.
#[repr(C)]
pub struct FILE {
    /// `flag` bits.
    pub flags: c_int,
    /// Next byte to read.
    pub read_ptr: *mut u8,
    /// End of the bytes to read.
    pub read_end: *mut u8,
    /// Start of the get area.
    pub read_base: *mut u8,
    /// Start of the put area.
    pub write_base: *mut u8,
    /// Where the next byte is put.
    pub write_ptr: *mut u8,
    /// How far bytes may be put without a call.
    pub write_end: *mut u8,
    /// The buffer.
    pub buf_base: *mut u8,
    /// Its end.
    pub buf_end: *mut u8,
    /// Start of the area that is not current; null if there is no backup area.
    pub save_base: *mut u8,
    /// First valid byte of the backup area while it is not current.
    pub backup_base: *mut u8,
    /// End of the area that is not current.
    pub save_end: *mut u8,
    /// Unused (glibc's streammarkers).
    pub markers: *mut c_void,
    /// Next stream of the list of all.
    pub chain: *mut FILE,
    /// The descriptor, or -1.
    pub fileno: c_int,
    /// `flag::F2_*` bits.
    pub flags2: c_int,
    /// Unused.
    pub old_offset: i64,
    /// Unused.
    pub cur_column: u16,
    /// Unused.
    pub vtable_offset: i8,
    /// The buffer of an unbuffered stream.
    pub shortbuf: [u8; 1],
    /// The lock's address.
    pub(crate) lock_ptr: *mut FileLock,
    /// Position of the descriptor if known, else -1.
    pub offset: i64,
    /// Unused.
    pub codecvt: *mut c_void,
    /// Unused: wide streams convert at the byte buffer.
    pub wide_data: *mut c_void,
    /// Unused.
    pub freeres_list: *mut FILE,
    /// Unused.
    pub freeres_buf: *mut c_void,
    /// Unused.
    pub pad: usize,
    /// Orientation: -1 bytes, 1 wide, 0 not yet.
    pub mode: c_int,
    /// Unused.
    pub unused: [u8; 20],

    /// Where glibc has its vtable pointer: what reads, writes, seeks and closes.
    pub(crate) ops: &'static Ops,
    pub(crate) lock: FileLock,
    /// What `ops` work on, unless it is the descriptor.
    pub(crate) cookie: *mut c_void,
    /// Size of the buffer to allocate; 0 means that the file decides.
    pub(crate) wanted_buffer: usize,
    /// Conversion of a wide stream.
    pub(crate) encoding: super::mb::Encoding,
    /// Whether `free` takes this object at `fclose`.
    pub(crate) on_heap: bool,
}

impl FILE {
    /// A stream without buffer, not yet in the list.
    pub(crate) const fn new(flags: c_int, fileno: c_int, ops: &'static Ops) -> FILE {
        FILE {
            flags: flag::MAGIC | flags,
            read_ptr: null_mut(),
            read_end: null_mut(),
            read_base: null_mut(),
            write_base: null_mut(),
            write_ptr: null_mut(),
            write_end: null_mut(),
            buf_base: null_mut(),
            buf_end: null_mut(),
            save_base: null_mut(),
            backup_base: null_mut(),
            save_end: null_mut(),
            markers: null_mut(),
            chain: null_mut(),
            fileno,
            flags2: 0,
            old_offset: -1,
            cur_column: 0,
            vtable_offset: 0,
            shortbuf: [0],
            lock_ptr: null_mut(),
            offset: -1,
            codecvt: null_mut(),
            wide_data: null_mut(),
            freeres_list: null_mut(),
            freeres_buf: null_mut(),
            pad: 0,
            mode: 0,
            unused: [0; 20],
            ops,
            lock: FileLock::new(),
            cookie: null_mut(),
            wanted_buffer: 0,
            encoding: super::mb::Encoding::Locale,
            on_heap: false,
        }
    }

    #[inline(always)]
    pub(crate) fn has(&self, bits: c_int) -> bool {
        self.flags & bits != 0
    }
}

/// A standard stream's storage.
#[repr(transparent)]
pub struct Standard(UnsafeCell<FILE>);
// SAFETY: a FILE is reached by raw pointer under its lock, as C code does.
unsafe impl Sync for Standard {}

impl Standard {
    const fn new(flags: c_int, fileno: c_int, chain: *mut FILE) -> Standard {
        let mut file = FILE::new(flags | flag::LINKED | flag::IS_FILEBUF, fileno, &FD_OPS);
        file.chain = chain;
        Standard(UnsafeCell::new(file))
    }
    /// The stream's address.
    pub const fn file(&self) -> *mut FILE {
        self.0.get()
    }
}

/// `_IO_2_1_stdin_`: the stream that `stdin` points to at first.
pub static STDIN_FILE: Standard = Standard::new(flag::NO_WRITES, 0, null_mut());
/// `_IO_2_1_stdout_`.
pub static STDOUT_FILE: Standard = Standard::new(flag::NO_READS, 1, STDIN_FILE.file());
/// `_IO_2_1_stderr_`.
pub static STDERR_FILE: Standard = Standard::new(flag::NO_READS | flag::UNBUFFERED, 2, STDOUT_FILE.file());

/// The variable `stdin`. Programs have it copied, and may assign to it.
pub static STDIN: DataCell<*mut FILE> = DataCell::new(STDIN_FILE.file());
/// The variable `stdout`.
pub static STDOUT: DataCell<*mut FILE> = DataCell::new(STDOUT_FILE.file());
/// The variable `stderr`.
pub static STDERR: DataCell<*mut FILE> = DataCell::new(STDERR_FILE.file());

/// The stream that `stdin` names now.
#[inline]
pub fn stdin() -> *mut FILE {
    // SAFETY: the variable always holds a pointer; a program that assigns it while others use it races
    // in C already.
    unsafe { STDIN.load() }
}
/// The stream that `stdout` names now.
#[inline]
pub fn stdout() -> *mut FILE {
    // SAFETY: as for `stdin`.
    unsafe { STDOUT.load() }
}
/// The stream that `stderr` names now.
#[inline]
pub fn stderr() -> *mut FILE {
    // SAFETY: as for `stdin`.
    unsafe { STDERR.load() }
}

/// All open streams: a chain through the FILEs, so that flushing everything at exit does not depend
/// on the variables above, which the program may have pointed elsewhere.
pub(crate) struct List(UnsafeCell<*mut FILE>);
// SAFETY: reached under LIST_LOCK only.
unsafe impl Sync for List {}

static LIST: List = List(UnsafeCell::new(STDERR_FILE.file()));
/// Protects the chain. Taken before a stream's own lock, never after it.
pub(crate) static LIST_LOCK: FileLock = FileLock::new();

/// Puts a stream into the list of all.
pub(crate) fn link(file: *mut FILE) {
    LIST_LOCK.acquire();
    // SAFETY: the list is locked; the file is new and ours.
    unsafe {
        (*file).chain = *LIST.0.get();
        (*file).flags |= flag::LINKED;
        *LIST.0.get() = file;
    }
    LIST_LOCK.release();
}

/// Takes a stream out of the list.
pub(crate) fn unlink(file: *mut FILE) {
    LIST_LOCK.acquire();
    // SAFETY: the list is locked, all streams in it are alive.
    unsafe {
        let mut at = LIST.0.get();
        while !(*at).is_null() {
            if *at == file {
                *at = (*file).chain;
                break;
            }
            at = &raw mut (**at).chain;
        }
        (*file).flags &= !flag::LINKED;
    }
    LIST_LOCK.release();
}

/// Calls `visit` for each open stream, the list being locked meanwhile.
pub(crate) fn for_each(mut visit: impl FnMut(*mut FILE)) {
    LIST_LOCK.acquire();
    // SAFETY: the list is locked, all streams in it are alive.
    unsafe {
        let mut file = *LIST.0.get();
        while !file.is_null() {
            let next = (*file).chain;
            visit(file);
            file = next;
        }
    }
    LIST_LOCK.release();
}

exports! { OBJECTS "libc.so.6":
    cell "GLIBC_2.2.5" "stdin" 8 = STDIN;
    cell "GLIBC_2.2.5" "stdout" 8 = STDOUT;
    cell "GLIBC_2.2.5" "stderr" 8 = STDERR;
    object "GLIBC_2.2.5" "_IO_2_1_stdin_" 224 = STDIN_FILE;
    object "GLIBC_2.2.5" "_IO_2_1_stdout_" 224 = STDOUT_FILE;
    object "GLIBC_2.2.5" "_IO_2_1_stderr_" 224 = STDERR_FILE;
}

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(FILE, read_ptr) == 8 && offset_of!(FILE, read_end) == 16);
    assert!(offset_of!(FILE, read_base) == 24 && offset_of!(FILE, write_base) == 32);
    assert!(offset_of!(FILE, write_ptr) == 40 && offset_of!(FILE, write_end) == 48);
    assert!(offset_of!(FILE, buf_base) == 56 && offset_of!(FILE, buf_end) == 64);
    assert!(offset_of!(FILE, save_base) == 72 && offset_of!(FILE, backup_base) == 80);
    assert!(offset_of!(FILE, save_end) == 88 && offset_of!(FILE, markers) == 96);
    assert!(offset_of!(FILE, chain) == 104 && offset_of!(FILE, fileno) == 112);
    assert!(offset_of!(FILE, flags2) == 116 && offset_of!(FILE, old_offset) == 120);
    assert!(offset_of!(FILE, cur_column) == 128 && offset_of!(FILE, vtable_offset) == 130);
    assert!(offset_of!(FILE, shortbuf) == 131 && offset_of!(FILE, lock_ptr) == 136);
    assert!(offset_of!(FILE, offset) == 144 && offset_of!(FILE, codecvt) == 152);
    assert!(offset_of!(FILE, wide_data) == 160 && offset_of!(FILE, freeres_list) == 168);
    assert!(offset_of!(FILE, freeres_buf) == 176 && offset_of!(FILE, pad) == 184);
    assert!(offset_of!(FILE, mode) == 192 && offset_of!(FILE, ops) == 216);
};
