//! How much of the address space is the program's: RLIMIT_AS (getrlimit(2)) and mlockall(2).
//!
//! Nothing is counted on the way. Whoever has a limit pays for it with a look at the host's list of mappings at each
//! call that takes memory; the runtime's window is left out, and so is address space without any rights, which is
//! how the runtime reserves room (glibc takes less of it, and Linux counts it).
//!
//! Left out: RLIMIT_DATA, RLIMIT_STACK for the first thread's growth (the host's own).

use crate::context::Ctx;
use crate::process::RLIMIT_AS;
use crate::{Errno, Result};
use core::ops::Range;
use core::sync::atomic::Ordering;
use platform::host;
use platform::layout::touches_window;

/// ENOMEM if `len` more bytes at `at` would be too many. What is usable there already counts once.
pub(crate) fn check(ctx: &Ctx, at: usize, len: usize) -> Result<()> {
    let limit = ctx.process.limit(RLIMIT_AS);
    if limit == usize::MAX {
        return Ok(());
    }
    let range = at..at.saturating_add(len);
    let mut used = 0usize;
    each(|mapping| {
        let covered = mapping.end.min(range.end).saturating_sub(mapping.start.max(range.start));
        used += mapping.len() - covered;
        Ok(())
    })?;
    if used.saturating_add(len) > limit { Err(Errno::ENOMEM) } else { Ok(()) }
}

const MCL_CURRENT: u32 = 1;
const MCL_FUTURE: u32 = 2;
const MCL_ONFAULT: u32 = 4;
const MLOCK_ONFAULT: usize = 1;

/// mlockall(2). The runtime's own memory is not locked: most of it is room that is never used.
pub fn mlockall(ctx: &Ctx, flags: i32) -> Result {
    let flags = flags as u32;
    if flags & !(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0 || flags & (MCL_CURRENT | MCL_FUTURE) == 0 {
        return Err(Errno::EINVAL);
    }
    if flags & MCL_CURRENT != 0 {
        // SAFETY: locking changes no content.
        each(|mapping| match unsafe { host!(mlock2, mapping.start, mapping.len(), on_fault(flags)) } {
            // Gone since, or beyond a file's end: mlockall(2) does not tell.
            Ok(_) | Err(Errno::ENOMEM | Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error),
        })?;
    }
    ctx.process.future_locks.store(flags & !MCL_CURRENT, Ordering::Relaxed);
    Ok(0)
}

fn on_fault(flags: u32) -> usize {
    if flags & MCL_ONFAULT != 0 { MLOCK_ONFAULT } else { 0 }
}

/// munlockall(2).
pub fn munlockall(ctx: &Ctx) -> Result {
    ctx.process.future_locks.store(0, Ordering::Relaxed);
    // SAFETY: unlocking changes no content.
    unsafe { host!(munlockall) }
}

/// New memory of the program, after mlockall(MCL_FUTURE).
pub(crate) fn lock_new(ctx: &Ctx, at: usize, len: usize) -> Result<()> {
    let flags = ctx.process.future_locks.load(Ordering::Relaxed);
    if flags & MCL_FUTURE == 0 {
        return Ok(());
    }
    // SAFETY: locking changes no content.
    match unsafe { host!(mlock2, at, len, on_fault(flags)) } {
        // No rights there, or beyond the file's end: mmap(2), MAP_LOCKED, does not fail for that.
        Ok(_) | Err(Errno::ENOMEM) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Calls `visit` for each usable mapping outside the runtime's window.
fn each(mut visit: impl FnMut(Range<usize>) -> Result<()>) -> Result<()> {
    for line in fs::HostFd::open_host(b"/proc/self/maps", 0, 0)?.read_all()?.split(|&byte| byte == b'\n') {
        let Some((range, usable)) = parse(line) else { continue };
        if usable && !touches_window(range.start, range.len()) {
            visit(range)?;
        }
    }
    Ok(())
}

/// "start-end rwxp …" of proc_pid_maps(5), and whether there are any rights. The kernel's own page at the end of
/// the address space is nobody's.
fn parse(line: &[u8]) -> Option<(Range<usize>, bool)> {
    let text = core::str::from_utf8(line).ok()?;
    let (range, rest) = text.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let hex = |digits| usize::from_str_radix(digits, 16).ok();
    let range = hex(start)?..hex(end)?;
    let kernel = range.start >> 47 != 0;
    Some((range, !rest.starts_with("---") && !kernel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_list() {
        assert_eq!(parse(b"1000-3000 r--p 00000000 00:00 0"), Some((0x1000..0x3000, true)));
        assert_eq!(parse(b"7f00-7f01 ---p 00000000 00:00 0"), Some((0x7f00..0x7f01, false)));
        let page = b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]";
        assert!(!parse(page).unwrap().1);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn a_limit_counts_what_is_there() {
        let ctx = crate::testing::ctx();
        assert_eq!(check(&ctx, 0, 1 << 40), Ok(()));
        let mut used = 0;
        each(|mapping| {
            used += mapping.len();
            Ok(())
        })
        .unwrap();
        let limit = (used + (64 << 20)) as u64;
        ctx.process.set_limits(RLIMIT_AS, crate::process::Limit { soft: limit, hard: limit });
        assert_eq!(check(&ctx, 0, 1 << 20), Ok(()));
        assert_eq!(check(&ctx, 0, 256 << 20), Err(Errno::ENOMEM));
    }
}
