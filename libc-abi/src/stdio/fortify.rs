//! The ends that `_FORTIFY_SOURCE` forms of this family come to.

use crate::fortify::die;
use crate::kcall;

/// `__chk_fail`: a buffer is too small for what is to be put into it.
#[cold]
pub(crate) fn chk_fail() -> ! {
    die("*** buffer overflow detected ***: terminated\n")
}

/// `%n` in a format that the program could have been made to change.
#[cold]
pub(crate) fn writable_format() -> ! {
    die("*** %n in writable segment detected ***: terminated\n")
}

/// Positional arguments with gaps, whose types are unknown, in a checked form.
#[cold]
pub(crate) fn invalid_positional() -> ! {
    die("*** invalid %N$ use detected ***: terminated\n")
}

/// Whether no byte of `start..start + len` can be written: by /proc/self/maps, as glibc looks. If the
/// maps cannot be read the benefit of the doubt is the program's.
pub(crate) fn is_read_only(start: usize, len: usize) -> bool {
    let Ok(fd) = super::fsops::open(c"/proc/self/maps".as_ptr(), 0o2000000, 0) else { return true };
    let mut text = alloc::vec::Vec::new();
    let mut chunk = [0u8; 1024];
    loop {
        // SAFETY: the chunk is ours.
        match unsafe { kcall!(read, fd, chunk.as_mut_ptr(), chunk.len()) } {
            Ok(got) if got > 0 => text.extend_from_slice(&chunk[..got]),
            _ => break,
        }
    }
    super::fsops::close(fd);
    !text
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .any(|(from, to, writable)| writable && from < start + len && start < to)
}

/// "from-to rwxp ...": the range and whether it can be written.
fn parse_line(line: &[u8]) -> Option<(usize, usize, bool)> {
    let text = core::str::from_utf8(line.get(..line.iter().position(|byte| *byte == b' ')? + 3)?).ok()?;
    let (range, rights) = text.split_once(' ')?;
    let (from, to) = range.split_once('-')?;
    let hex = |digits| usize::from_str_radix(digits, 16).ok();
    Some((hex(from)?, hex(to)?, rights.as_bytes().get(1) == Some(&b'w')))
}
