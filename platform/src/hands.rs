//! In whose hands a host descriptor is, told to who keeps account of it.
//!
//! The processes of a guest share one host descriptor table. What a host process has just opened when the host kills it
//! stays open in the others: nobody has its number. So whoever opens, keeps or closes a descriptor that looks like a
//! file's says so here; the personality keeps the account, and closes what the dead had in their hands
//! (`syscalls/src/hands.rs`). It also looks for descriptors that nobody accounts for: who has one for a moment without
//! saying so, does it in [`passing`].
//!
//! Left out: descriptors that are no files (pidfds, epolls, sockets of the runtime), which others account for.

use crate::errno::Result;
use core::sync::atomic::{AtomicPtr, Ordering};

/// Who keeps the account. All run on the thread that opens or closes.
pub struct Account {
    /// The process may have descriptors, from here on, that nobody accounts for.
    pub begins: fn(),
    /// It has no such any more. In pairs, which nest.
    pub ends: fn(),
    /// The running call has this one.
    pub takes: fn(i32),
    /// This one is somebody's for longer than a call: it is closed by who drops it.
    pub keeps: fn(i32),
    /// This one is going to be closed. Answers what the account says of it then.
    pub closes: fn(i32) -> u64,
    /// It is closed, and may be another's by now. With what `closes` has answered.
    pub closed: fn(i32, u64),
}

/// A process constant.
static ACCOUNT: AtomicPtr<Account> = AtomicPtr::new(core::ptr::null_mut());

/// Installs it. Once, at start.
pub fn set_account(account: &'static Account) {
    ACCOUNT.store(core::ptr::from_ref(account).cast_mut(), Ordering::Release);
}

fn account() -> Option<&'static Account> {
    // SAFETY: null or from `set_account`.
    unsafe { ACCOUNT.load(Ordering::Acquire).as_ref() }
}

/// Runs what has descriptors that nobody accounts for: opens them and closes them again, or has others account for them.
/// Not for long, and not for ever.
pub fn passing<T>(run: impl FnOnce() -> T) -> T {
    let account = account();
    if let Some(account) = account {
        (account.begins)();
    }
    let done = run();
    if let Some(account) = account {
        (account.ends)();
    }
    done
}

/// Makes a descriptor by the host call `open`. It is in the running call's hands until it is kept or closed; when that
/// call has ended, it counts as kept.
///
/// # Errors
/// Those of `open`.
pub fn open(open: impl FnOnce() -> Result<usize>) -> Result<i32> {
    passing(|| {
        let fd = open()? as i32;
        if let Some(account) = account() {
            (account.takes)(fd);
        }
        Ok(fd)
    })
}

/// A descriptor has an owner that will close it.
pub fn keep(fd: i32) {
    if let Some(account) = account() {
        (account.keeps)(fd);
    }
}

/// Closes a descriptor that came from [`open`] or was kept. What close(2) says is left out: it belongs to fsync(2).
pub fn close(fd: i32) {
    passing(|| {
        // First: the number may be another's the moment it is free.
        let word = account().map(|account| (account.closes)(fd));
        // SAFETY: the caller's descriptor alone.
        let _ = unsafe { crate::host!(close, fd) };
        if let (Some(account), Some(word)) = (account(), word) {
            (account.closed)(fd, word);
        }
    });
}
