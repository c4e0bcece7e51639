//! Text databases: one record a line, `#` starts a comment (not in passwd and group, where a line
//! that begins with it is one). Files are read whole at each call, so a change is seen at once.

use super::pack::Record;
use crate::kcall;
use crate::types::c_int;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};
use platform::Errno;

/// A record that stands on a line of a file.
pub trait Line: Record + Sized {
    /// The file.
    const PATH: &'static CStr;
    /// Reads a line; `None` if it is no record (comments, damage).
    fn parse(line: &[u8]) -> Option<Self>;
}

/// Larger than any database in text form that a program should scan at each call.
const LIMIT: usize = 256 << 20;

/// The whole of a file.
pub fn read(path: &CStr) -> Result<Vec<u8>, Errno> {
    const AT_FDCWD: isize = -100;
    const O_CLOEXEC: usize = 0o2000000;
    // SAFETY: a C string; the descriptor and the buffer are ours.
    unsafe {
        let fd = kcall!(openat, AT_FDCWD, path.as_ptr(), O_CLOEXEC, 0)?;
        let result = read_all(fd);
        let _ = kcall!(close, fd);
        result
    }
}

unsafe fn read_all(fd: usize) -> Result<Vec<u8>, Errno> {
    const STEP: usize = 16 << 10;
    let mut bytes = Vec::new();
    loop {
        let had = bytes.len();
        bytes.resize(had + STEP, 0);
        // SAFETY: the kernel writes behind what was read, at most STEP bytes.
        match unsafe { kcall!(read, fd, bytes.as_mut_ptr().add(had), STEP) } {
            Ok(n) => {
                bytes.truncate(had + n.min(STEP));
                if n == 0 || bytes.len() > LIMIT {
                    return Ok(bytes);
                }
            }
            Err(Errno::EINTR) => bytes.truncate(had),
            Err(errno) => return Err(errno),
        }
    }
}

/// The lines of a file's bytes.
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|&b| b == b'\n')
}

/// The words of a line, up to a `#`.
pub fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    without_comment(line).split(|b| b.is_ascii_whitespace()).filter(|w| !w.is_empty())
}

/// A line up to a `#`.
pub fn without_comment(line: &[u8]) -> &[u8] {
    &line[..line.iter().position(|&b| b == b'#').unwrap_or(line.len())]
}

/// The words of a line that gives a name a number: the name, the number, and other names.
pub fn numbered(line: &[u8]) -> Option<(Vec<u8>, c_int, Vec<Vec<u8>>)> {
    let mut words = words(line);
    let name = words.next()?.to_vec();
    let number = c_int::try_from(number(words.next()?)?).ok()?;
    Some((name, number, words.map(<[u8]>::to_vec).collect()))
}

/// Names between commas, without blanks around them.
pub fn names(list: &[u8]) -> Vec<Vec<u8>> {
    let names = list.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty());
    names.map(<[u8]>::to_vec).collect()
}

/// The first record that is wanted.
pub fn find<L: Line>(mut wanted: impl FnMut(&L) -> bool) -> Result<Option<L>, Errno> {
    if !super::nss::is_asked(L::PATH.to_bytes()) {
        return Ok(None);
    }
    let bytes = read(L::PATH)?;
    Ok(lines(&bytes).filter_map(L::parse).find(|record| wanted(record)))
}

/// Decimal digits, nothing else.
pub fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |n, b| {
        let digit = b.is_ascii_digit().then(|| (b - b'0') as u64)?;
        n.checked_mul(10)?.checked_add(digit)
    })
}

/// Where getpwent(3) and its like stand. Whoever reads takes the state out and puts it back, so two
/// threads never share it, and a fork in between leaves nothing locked.
pub struct Position(AtomicPtr<State>);

struct State {
    bytes: Vec<u8>,
    at: usize,
}

impl Position {
    /// At the start.
    pub const fn new() -> Self {
        Self(AtomicPtr::new(null_mut()))
    }

    /// setXXent(3) and endXXent(3): back to the start.
    pub fn rewind(&self) {
        self.put(null_mut());
    }

    /// The next record and a way back, should it not fit the caller's buffer.
    pub fn next<L: Line>(&self) -> Result<Option<L>, Errno> {
        let mut state = self.take(L::PATH)?;
        let mut found = None;
        while found.is_none() && state.at < state.bytes.len() {
            let rest = &state.bytes[state.at..];
            let end = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
            found = L::parse(&rest[..end]);
            state.at += end + 1;
        }
        self.put(Box::into_raw(state));
        Ok(found)
    }

    /// As [`Self::next`]; `use_it` answers whether it could use the record. If not, it comes again.
    pub fn next_if<L: Line>(&self, use_it: impl FnOnce(Option<L>) -> (i32, bool)) -> i32 {
        let before = {
            let state = match self.take(L::PATH) {
                Ok(state) => state,
                Err(error) => return error.0,
            };
            let at = state.at;
            self.put(Box::into_raw(state));
            at
        };
        let found = match self.next::<L>() {
            Ok(found) => found,
            Err(error) => return error.0,
        };
        let (answer, used) = use_it(found);
        if !used && let Ok(mut state) = self.take(L::PATH) {
            state.at = before;
            self.put(Box::into_raw(state));
        }
        answer
    }

    fn take(&self, path: &CStr) -> Result<Box<State>, Errno> {
        let state = self.0.swap(null_mut(), Ordering::AcqRel);
        if state.is_null() {
            let asked = super::nss::is_asked(path.to_bytes());
            return Ok(Box::new(State { bytes: if asked { read(path)? } else { Vec::new() }, at: 0 }));
        }
        // SAFETY: from Box::into_raw, and nobody else has it now.
        Ok(unsafe { Box::from_raw(state) })
    }

    fn put(&self, state: *mut State) {
        let old = self.0.swap(state, Ordering::AcqRel);
        if !old.is_null() {
            // SAFETY: as in `take`.
            drop(unsafe { Box::from_raw(old) });
        }
    }
}

impl Default for Position {
    fn default() -> Self {
        Self::new()
    }
}
