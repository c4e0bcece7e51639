//! Signals: sigaction(2) and sigset_t between C's layouts and the kernel's, and what is built on them.
//!
//! C's `sigset_t` has 128 bytes of which the kernel uses 8; `struct sigaction` has 152 (trap 10). Two
//! signals belong to libc (32: pthread_cancel, 33: glibc's setxid): programs can neither block nor
//! catch them. The restorer is the exact byte sequence by which unwinders know a signal frame.

use crate::errno;
use crate::kcall;
use crate::point;
use crate::thread;
use crate::types::{c_char, c_int, c_void};
use core::ptr::{null, null_mut};
use platform::Errno;
use platform::time::Timespec;

/// `sigset_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigSet {
    /// One bit for each signal, signal 1 lowest; only the first word is used.
    pub words: [u64; 16],
}

/// `struct sigaction`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SigAction {
    handler: usize,
    mask: SigSet,
    flags: c_int,
    restorer: usize,
}

/// The kernel's `struct sigaction`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct KernelAction {
    handler: usize,
    flags: usize,
    restorer: usize,
    mask: u64,
}

const _: () = assert!(size_of::<SigAction>() == 152 && core::mem::offset_of!(SigAction, flags) == 136);

/// Mask bits of libc's own signals.
pub(crate) const INTERNAL: u64 = 1 << 31 | 1 << 32;
/// Highest signal.
const LAST: c_int = 64;
/// `SIGRTMIN`: 32 and 33 are libc's.
const RT_MIN: c_int = 34;

#[cfg(test)]
const SIG_DFL: usize = 0;
const SIG_IGN: usize = 1;
const SIG_ERR: usize = usize::MAX;
const SIG_HOLD: usize = 2;

const SIG_BLOCK: c_int = 0;
const SIG_UNBLOCK: c_int = 1;
const SIG_SETMASK: c_int = 2;

const SA_RESTORER: usize = 0x0400_0000;
const SA_RESTART: c_int = 0x1000_0000;
const SA_RESETHAND: c_int = 0x8000_0000u32 as c_int;
const SA_NODEFER: c_int = 0x4000_0000;
const SET_BYTES: usize = 8;

core::arch::global_asm!(
    // The unwinder looks one byte before a return address for its FDE; the frame's CFI is found by the
    // bytes themselves (libgcc's x86_64_fallback_frame_state): 48 c7 c0 0f 00 00 00 0f 05.
    ".pushsection .text.attacca_restore_rt,\"ax\",@progbits",
    ".p2align 4",
    "nop",
    ".globl attacca_restore_rt",
    ".hidden attacca_restore_rt",
    ".type attacca_restore_rt,@function",
    "attacca_restore_rt:",
    ".byte 0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00",
    ".byte 0x0f, 0x05",
    ".size attacca_restore_rt, .-attacca_restore_rt",
    ".popsection",
);

unsafe extern "C" {
    fn attacca_restore_rt();
}

/// Address of the signal frames' return code.
pub fn restorer() -> usize {
    attacca_restore_rt as *const () as usize
}

/// Installs a handler of our own for any signal, libc's two included.
pub(crate) fn install_raw(signal: c_int, handler: usize, flags: usize) {
    let action = KernelAction { handler, flags: flags | SA_RESTORER, restorer: restorer(), mask: u64::MAX };
    // SAFETY: our own handler and struct.
    let _ = unsafe { kcall!(rt_sigaction, signal, &raw const action, 0, SET_BYTES) };
}

/// sigprocmask(2) for the calling thread.
///
/// # Safety
/// `set` and `old` are null or point to a sigset_t.
pub(crate) unsafe fn change_mask(how: c_int, set: *const u64, old: *mut u64) -> Result<(), Errno> {
    // SAFETY: forwarded. Only the first word of a set is looked at.
    unsafe {
        let wanted;
        let given = if set.is_null() {
            null()
        } else {
            // libc's own signals stay as they are: unblocked.
            wanted = if how == SIG_UNBLOCK { *set } else { *set & !INTERNAL };
            &raw const wanted
        };
        kcall!(rt_sigprocmask, how, given, old, SET_BYTES).map(drop)
    }
}

/// Blocks every signal; the mask before.
pub(crate) fn block_all() -> u64 {
    let (all, mut before) = (u64::MAX, 0u64);
    // SAFETY: our own words.
    let _ = unsafe { kcall!(rt_sigprocmask, SIG_SETMASK, &raw const all, &raw mut before, SET_BYTES) };
    before
}

/// Sets the mask.
pub(crate) fn restore(mask: u64) {
    // SAFETY: our own word.
    let _ = unsafe { kcall!(rt_sigprocmask, SIG_SETMASK, &raw const mask, 0, SET_BYTES) };
}

/// In a child that is about to execute: handlers become default actions (they are code of the parent's),
/// and so do the signals of `defaults`.
pub(crate) fn prepare_exec(defaults: u64) {
    let mut action = KernelAction::default();
    // SAFETY: our own structs.
    unsafe {
        for signal in 1..=LAST {
            let known = kcall!(rt_sigaction, signal, 0, &raw mut action, SET_BYTES).is_ok();
            if known && (action.handler > SIG_IGN || action.handler == SIG_IGN && defaults & bit(signal) != 0)
            {
                let default = KernelAction::default();
                let _ = kcall!(rt_sigaction, signal, &raw const default, 0, SET_BYTES);
            }
        }
    }
}

/// Two signals ignored and some blocked, until it is dropped: what system(3) does around its shell.
pub(crate) struct Ignored {
    signals: [c_int; 2],
    before: [KernelAction; 2],
    mask: u64,
}

impl Ignored {
    /// Starts to ignore.
    pub(crate) fn new(signals: [c_int; 2], block: u64) -> Ignored {
        let ignore = KernelAction { handler: SIG_IGN, flags: SA_RESTORER, restorer: restorer(), mask: 0 };
        let mut it = Ignored { signals, before: [KernelAction::default(); 2], mask: 0 };
        // SAFETY: our own structs.
        unsafe {
            for (signal, before) in signals.iter().zip(&mut it.before) {
                let _ = kcall!(rt_sigaction, *signal, &raw const ignore, &raw mut *before, SET_BYTES);
            }
            let _ = kcall!(rt_sigprocmask, SIG_BLOCK, &raw const block, &raw mut it.mask, SET_BYTES);
        }
        it
    }

    /// The mask before.
    pub(crate) fn mask(&self) -> u64 {
        self.mask
    }

    /// The signals that were not ignored before.
    pub(crate) fn to_default(&self) -> u64 {
        (0..2).filter(|&at| self.before[at].handler != SIG_IGN).map(|at| bit(self.signals[at])).sum()
    }
}

impl Drop for Ignored {
    fn drop(&mut self) {
        for at in 0..2 {
            // SAFETY: our own structs.
            let _ =
                unsafe { kcall!(rt_sigaction, self.signals[at], &raw const self.before[at], 0, SET_BYTES) };
        }
        restore(self.mask);
    }
}

fn is_free(signal: c_int) -> bool {
    (1..=LAST).contains(&signal) && !matches!(signal, 32 | 33)
}

unsafe fn change_action(signal: c_int, new: *const SigAction, old: *mut SigAction) -> Result<(), Errno> {
    if !is_free(signal) {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the program's structs.
    unsafe {
        let given = new.as_ref().map(|new| KernelAction {
            handler: new.handler,
            flags: new.flags as u32 as usize | SA_RESTORER,
            restorer: restorer(),
            mask: new.mask.words[0] & !INTERNAL,
        });
        let mut before = KernelAction::default();
        let given: *const KernelAction = given.as_ref().map_or(null(), |g| g);
        kcall!(rt_sigaction, signal, given, &raw mut before, SET_BYTES)?;
        if let Some(old) = old.as_mut() {
            old.handler = before.handler;
            old.mask.words = [0; 16];
            old.mask.words[0] = before.mask;
            old.flags = (before.flags & !SA_RESTORER) as c_int;
            old.restorer = before.restorer;
        }
    }
    Ok(())
}

/// signal(3) with flags; the old handler.
fn set_handler(signal: c_int, handler: usize, flags: c_int) -> usize {
    let mut mask = SigSet { words: [0; 16] };
    if flags & SA_NODEFER == 0 && (1..=LAST).contains(&signal) {
        mask.words[0] = 1 << (signal - 1);
    }
    let new = SigAction { handler, mask, flags, restorer: 0 };
    let mut old = SigAction { handler: 0, mask, flags: 0, restorer: 0 };
    if handler == SIG_ERR {
        errno::set(Errno::EINVAL);
        return SIG_ERR;
    }
    // SAFETY: our own structs.
    match unsafe { change_action(signal, &raw const new, &raw mut old) } {
        Ok(()) => old.handler,
        Err(errno) => {
            errno::set(errno);
            SIG_ERR
        }
    }
}

fn status(result: Result<(), Errno>) -> c_int {
    errno::int(result.map(|()| 0))
}

/// raise(3) is tgkill(2) here as in glibc, but those who wait for its signal see kill(2)'s SI_USER.
fn as_user(info: *mut c_void) {
    const SI_USER: i32 = 0;
    const SI_TKILL: i32 = -6;
    /// Index of `si_code` in a siginfo_t.
    const CODE: usize = 2;
    let code = info.cast::<i32>().wrapping_add(CODE);
    // SAFETY: null, or the program's siginfo, which the call has just filled.
    unsafe {
        if !info.is_null() && code.read() == SI_TKILL {
            code.write(SI_USER);
        }
    }
}

abi! { EXPORTS "libc.so.6":
    /// sigaction(2).
    "GLIBC_2.2.5" fn sigaction(signal: c_int, new: *const SigAction, old: *mut SigAction) -> c_int {
        // SAFETY: the program's structs.
        status(unsafe { change_action(signal, new, old) })
    }
    /// signal(2), BSD's meaning: calls restart, the handler stays.
    "GLIBC_2.2.5" fn signal(signal: c_int, handler: usize) -> usize {
        let flags = if INTERRUPTS.load(core::sync::atomic::Ordering::Relaxed) & bit(signal) != 0 { 0 } else { SA_RESTART };
        set_handler(signal, handler, flags)
    }
    /// sysv_signal(3): one shot, calls are interrupted.
    "GLIBC_2.2.5" fn sysv_signal(signal: c_int, handler: usize) -> usize {
        set_handler(signal, handler, SA_RESETHAND | SA_NODEFER)
    }
    /// siginterrupt(3).
    "GLIBC_2.2.5" fn siginterrupt(signal: c_int, flag: c_int) -> c_int {
        let mut action = SigAction { handler: 0, mask: SigSet { words: [0; 16] }, flags: 0, restorer: 0 };
        // SAFETY: our own struct.
        unsafe {
            if let Err(errno) = change_action(signal, null(), &raw mut action) {
                errno::set(errno);
                return -1;
            }
            use core::sync::atomic::Ordering::Relaxed;
            if flag != 0 {
                INTERRUPTS.fetch_or(bit(signal), Relaxed);
                action.flags &= !SA_RESTART;
            } else {
                INTERRUPTS.fetch_and(!bit(signal), Relaxed);
                action.flags |= SA_RESTART;
            }
            status(change_action(signal, &raw const action, null_mut()))
        }
    }
    /// sigset(3).
    "GLIBC_2.2.5" fn sigset(signal: c_int, handler: usize) -> usize {
        let one = bit(signal);
        let mut before = 0u64;
        // SAFETY: our own words.
        unsafe {
            if handler == SIG_HOLD {
                let mut action = SigAction { handler: 0, mask: SigSet { words: [0; 16] }, flags: 0, restorer: 0 };
                let result = change_mask(SIG_BLOCK, &raw const one, &raw mut before)
                    .and_then(|()| change_action(signal, null(), &raw mut action));
                return match result {
                    Ok(()) if before & one != 0 => SIG_HOLD,
                    Ok(()) => action.handler,
                    Err(errno) => { errno::set(errno); SIG_ERR }
                };
            }
            let old = set_handler(signal, handler, 0);
            if old == SIG_ERR {
                return SIG_ERR;
            }
            match change_mask(SIG_UNBLOCK, &raw const one, &raw mut before) {
                Ok(()) if before & one != 0 => SIG_HOLD,
                Ok(()) => old,
                Err(errno) => { errno::set(errno); SIG_ERR }
            }
        }
    }
    /// sighold(3).
    "GLIBC_2.2.5" fn sighold(signal: c_int) -> c_int {
        one_signal(SIG_BLOCK, signal)
    }
    /// sigrelse(3).
    "GLIBC_2.2.5" fn sigrelse(signal: c_int) -> c_int {
        one_signal(SIG_UNBLOCK, signal)
    }
    /// sigignore(3).
    "GLIBC_2.2.5" fn sigignore(signal: c_int) -> c_int {
        if set_handler(signal, SIG_IGN, 0) == SIG_ERR { -1 } else { 0 }
    }
    /// sigprocmask(2).
    "GLIBC_2.2.5" fn sigprocmask(how: c_int, set: *const u64, old: *mut u64) -> c_int {
        // SAFETY: the program's sets.
        status(unsafe { change_mask(how, set, old) })
    }
    /// sigsetmask(3), BSD: the first 32 signals.
    "GLIBC_2.2.5" fn sigsetmask(mask: c_int) -> c_int {
        bsd_mask(SIG_SETMASK, mask)
    }
    /// sigblock(3), BSD.
    "GLIBC_2.2.5" fn sigblock(mask: c_int) -> c_int {
        bsd_mask(SIG_BLOCK, mask)
    }
    /// siggetmask(3), BSD.
    "GLIBC_2.2.5" fn siggetmask() -> c_int {
        bsd_mask(SIG_BLOCK, 0)
    }
    /// sigpending(2).
    "GLIBC_2.2.5" fn sigpending(set: *mut SigSet) -> c_int {
        // SAFETY: the program's set.
        errno::int(unsafe { kcall!(rt_sigpending, set, SET_BYTES) })
    }
    /// sigsuspend(2).
    "GLIBC_2.2.5" fn sigsuspend(set: *const SigSet) -> c_int {
        // SAFETY: the program's set.
        errno::int(unsafe { point!(rt_sigsuspend, set, SET_BYTES) })
    }
    /// pause(2).
    "GLIBC_2.2.5" fn pause() -> c_int {
        // SAFETY: takes nothing.
        errno::int(unsafe { point!(pause) })
    }
    /// sigpause(3) with a mask (BSD) or a signal to let through (System V).
    "GLIBC_2.2.5" fn __sigpause(what: c_int, is_signal: c_int) -> c_int {
        let mut mask = u64::from(what as u32);
        // SAFETY: our own words.
        unsafe {
            if is_signal != 0 {
                if bit(what) == 0 {
                    return errno::int(Err(Errno::EINVAL));
                }
                if let Err(errno) = change_mask(SIG_BLOCK, null(), &raw mut mask) {
                    return errno::int(Err(errno));
                }
                mask &= !bit(what);
            }
            errno::int(point!(rt_sigsuspend, &raw const mask, SET_BYTES))
        }
    }
    /// sigpause(3), BSD's.
    "GLIBC_2.2.5" fn sigpause(mask: c_int) -> c_int {
        // SAFETY: numbers only.
        unsafe { __sigpause(mask, 0) }
    }
    /// sigpause(3), System V's.
    "GLIBC_2.2.5" fn __xpg_sigpause(signal: c_int) -> c_int {
        // SAFETY: numbers only.
        unsafe { __sigpause(signal, 1) }
    }
    /// sigstack(3): the older form of sigaltstack(2), which has no size: refused.
    "GLIBC_2.2.5" fn sigstack(_new: *mut c_void, _old: *mut c_void) -> c_int {
        errno::int(Err(Errno::ENOSYS))
    }
    /// sigreturn(2): not to be called (its man page).
    "GLIBC_2.2.5" fn sigreturn(_context: *mut c_void) -> c_int {
        errno::int(Err(Errno::ENOSYS))
    }
    /// A real-time signal for the caller's own use: the lowest or the highest that is left, or -1.
    "GLIBC_2.2.5" fn __libc_allocate_rtsig(high: c_int) -> c_int {
        use core::sync::atomic::Ordering::Relaxed;
        let mut range = REALTIME.load(Relaxed);
        loop {
            let (low, top) = (range >> 8, range & 0xff);
            if low > top {
                return -1;
            }
            let (taken, left) = if high != 0 { (top, low << 8 | (top - 1)) } else { (low, (low + 1) << 8 | top) };
            match REALTIME.compare_exchange(range, left, Relaxed, Relaxed) {
                Ok(_) => return taken as c_int,
                Err(now) => range = now,
            }
        }
    }
    /// sigwait(3): restarts when a handler ran.
    "GLIBC_2.2.5" fn sigwait(set: *const SigSet, signal: *mut c_int) -> c_int {
        loop {
            // SAFETY: the program's set and out pointer.
            match unsafe { point!(rt_sigtimedwait, set, 0, 0, SET_BYTES) } {
                // SAFETY: as above.
                Ok(found) => unsafe { signal.write(found as c_int); return 0 },
                Err(Errno::EINTR) => {}
                Err(errno) => return errno.0,
            }
        }
    }
    /// sigwaitinfo(2).
    "GLIBC_2.2.5" fn sigwaitinfo(set: *const SigSet, info: *mut c_void) -> c_int {
        // SAFETY: the program's set and siginfo.
        errno::int(unsafe { point!(rt_sigtimedwait, set, info, 0, SET_BYTES) }.inspect(|_| as_user(info)))
    }
    /// sigtimedwait(2).
    "GLIBC_2.2.5" fn sigtimedwait(set: *const SigSet, info: *mut c_void, timeout: *const Timespec) -> c_int {
        // SAFETY: the program's set, siginfo and time.
        let taken = unsafe { point!(rt_sigtimedwait, set, info, timeout, SET_BYTES) };
        errno::int(taken.inspect(|_| as_user(info)))
    }
    /// sigqueue(3).
    "GLIBC_2.2.5" fn sigqueue(pid: c_int, signal: c_int, value: *mut c_void) -> c_int {
        #[repr(C)]
        struct Info {
            head: [i32; 4],
            pid: i32,
            uid: u32,
            value: *mut c_void,
            rest: [u64; 12],
        }
        // SAFETY: our own siginfo.
        unsafe {
            let own = kcall!(getpid).unwrap_or(0) as i32;
            let uid = kcall!(getuid).unwrap_or(0) as u32;
            let info = Info { head: [signal, 0, -1, 0], pid: own, uid, value, rest: [0; 12] };
            errno::int(kcall!(rt_sigqueueinfo, pid, signal, &raw const info))
        }
    }
    /// raise(3): to the calling thread.
    "GLIBC_2.2.5" fn raise(signal: c_int) -> c_int {
        // SAFETY: numbers only.
        errno::int(unsafe { kcall!(getpid).and_then(|pid| kcall!(tgkill, pid, thread::tid(), signal)) })
    }
    /// kill(2).
    "GLIBC_2.2.5" fn kill(pid: c_int, signal: c_int) -> c_int {
        // SAFETY: numbers only.
        errno::int(unsafe { kcall!(kill, pid, signal) })
    }
    /// killpg(3).
    "GLIBC_2.2.5" fn killpg(group: c_int, signal: c_int) -> c_int {
        if group < 0 {
            errno::set(Errno::EINVAL);
            return -1;
        }
        // SAFETY: numbers only.
        errno::int(unsafe { kcall!(kill, -group, signal) })
    }
    /// tgkill(2).
    "GLIBC_2.30" fn tgkill(pid: c_int, tid: c_int, signal: c_int) -> c_int {
        // SAFETY: numbers only.
        errno::int(unsafe { kcall!(tgkill, pid, tid, signal) })
    }
    /// sigaltstack(2).
    "GLIBC_2.2.5" fn sigaltstack(new: *const c_void, old: *mut c_void) -> c_int {
        // SAFETY: the program's structs.
        errno::int(unsafe { kcall!(sigaltstack, new, old) })
    }
    /// sigemptyset(3).
    "GLIBC_2.2.5" fn sigemptyset(set: *mut SigSet) -> c_int {
        // SAFETY: the program's set; so below.
        unsafe { fill(set, 0) }
    }
    /// sigfillset(3): all but libc's own.
    "GLIBC_2.2.5" fn sigfillset(set: *mut SigSet) -> c_int {
        // SAFETY: as above.
        unsafe { fill(set, !INTERNAL) }
    }
    /// sigaddset(3).
    "GLIBC_2.2.5" fn sigaddset(set: *mut SigSet, signal: c_int) -> c_int {
        // SAFETY: as above.
        unsafe { with_bit(set, signal, |word, bit| { *word |= bit; 0 }) }
    }
    /// sigdelset(3).
    "GLIBC_2.2.5" fn sigdelset(set: *mut SigSet, signal: c_int) -> c_int {
        // SAFETY: as above.
        unsafe { with_bit(set, signal, |word, bit| { *word &= !bit; 0 }) }
    }
    /// sigismember(3).
    "GLIBC_2.2.5" fn sigismember(set: *const SigSet, signal: c_int) -> c_int {
        // SAFETY: as above; nothing is written.
        unsafe { with_bit(set.cast_mut(), signal, |word, bit| c_int::from(*word & bit != 0)) }
    }
    /// sigisemptyset(3).
    "GLIBC_2.2.5" fn sigisemptyset(set: *const SigSet) -> c_int {
        // SAFETY: as above.
        unsafe { if set.is_null() { fill(null_mut(), 0) } else { c_int::from((*set).words[0] == 0) } }
    }
    /// sigandset(3).
    "GLIBC_2.2.5" fn sigandset(out: *mut SigSet, a: *const SigSet, b: *const SigSet) -> c_int {
        // SAFETY: as above.
        unsafe { combine(out, a, b, |a, b| a & b) }
    }
    /// sigorset(3).
    "GLIBC_2.2.5" fn sigorset(out: *mut SigSet, a: *const SigSet, b: *const SigSet) -> c_int {
        // SAFETY: as above.
        unsafe { combine(out, a, b, |a, b| a | b) }
    }
    /// `SIGRTMIN`.
    "GLIBC_2.2.5" fn __libc_current_sigrtmin() -> c_int {
        (REALTIME.load(core::sync::atomic::Ordering::Relaxed) >> 8) as c_int
    }
    /// `SIGRTMAX`.
    "GLIBC_2.2.5" fn __libc_current_sigrtmax() -> c_int {
        (REALTIME.load(core::sync::atomic::Ordering::Relaxed) & 0xff) as c_int
    }
    /// psignal(3): to standard error.
    "GLIBC_2.2.5" fn psignal(signal: c_int, prefix: *const c_char) {
        // SAFETY: the program's string, our own texts.
        unsafe {
            let text = core::ffi::CStr::from_ptr(crate::strerror::strsignal(signal)).to_bytes();
            let prefix = if prefix.is_null() { &[][..] } else { core::ffi::CStr::from_ptr(prefix).to_bytes() };
            let mut line = alloc::vec::Vec::with_capacity(prefix.len() + text.len() + 3);
            line.extend_from_slice(prefix);
            if !prefix.is_empty() {
                line.extend_from_slice(b": ");
            }
            line.extend_from_slice(text);
            line.push(b'\n');
            let _ = kcall!(write, 2, line.as_ptr(), line.len());
        }
    }
}

exports! { ROWS "libc.so.6":
    alias "GLIBC_2.2.5" "__sigaction" = sigaction;
    alias "GLIBC_2.2.5" "bsd_signal" = signal;
    alias "GLIBC_2.2.5" "ssignal" = signal;
    alias "GLIBC_2.2.5" "gsignal" = raise;
    alias "GLIBC_2.2.5" "__sysv_signal" = sysv_signal;
    alias "GLIBC_2.2.5" "__sigsuspend" = sigsuspend;
}

/// Real-time signals that are left: the lowest, and in the low byte the highest.
static REALTIME: core::sync::atomic::AtomicU32 =
    core::sync::atomic::AtomicU32::new((RT_MIN as u32) << 8 | LAST as u32);

/// Signals for which siginterrupt(3) asked that `signal` does not restart.
static INTERRUPTS: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

fn bit(signal: c_int) -> u64 {
    if (1..=LAST).contains(&signal) { 1 << (signal - 1) } else { 0 }
}

fn one_signal(how: c_int, signal: c_int) -> c_int {
    let one = bit(signal);
    if one == 0 {
        errno::set(Errno::EINVAL);
        return -1;
    }
    // SAFETY: our own word.
    status(unsafe { change_mask(how, &raw const one, null_mut()) })
}

fn bsd_mask(how: c_int, mask: c_int) -> c_int {
    let (set, mut old) = (u64::from(mask as u32), 0u64);
    // SAFETY: our own words.
    let result = unsafe { change_mask(how, &raw const set, &raw mut old) };
    if result.is_ok() { old as c_int } else { status(result) }
}

unsafe fn fill(set: *mut SigSet, word: u64) -> c_int {
    // SAFETY: null or the program's set.
    match unsafe { set.as_mut() } {
        Some(set) => {
            set.words = [0; 16];
            set.words[0] = word;
            0
        }
        None => {
            errno::set(Errno::EINVAL);
            -1
        }
    }
}

unsafe fn with_bit(set: *mut SigSet, signal: c_int, act: impl FnOnce(&mut u64, u64) -> c_int) -> c_int {
    if set.is_null() || !is_free(signal) {
        errno::set(Errno::EINVAL);
        return -1;
    }
    // SAFETY: the program's set.
    unsafe { act(&mut (*set).words[0], bit(signal)) }
}

unsafe fn combine(out: *mut SigSet, a: *const SigSet, b: *const SigSet, with: fn(u64, u64) -> u64) -> c_int {
    if out.is_null() || a.is_null() || b.is_null() {
        errno::set(Errno::EINVAL);
        return -1;
    }
    // SAFETY: the program's sets.
    unsafe {
        for at in 0..16 {
            (*out).words[at] = with((*a).words[at], (*b).words[at]);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restorer_has_the_bytes_that_unwinders_know() {
        // SAFETY: nine bytes of code.
        let code = unsafe { core::slice::from_raw_parts(restorer() as *const u8, 9) };
        assert_eq!(code, [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05]);
    }

    #[test]
    fn sets_are_as_the_hosts() {
        let mut ours = SigSet { words: [7; 16] };
        // SAFETY: our own sets; the host's functions on the same layout.
        unsafe {
            let mut theirs = core::mem::zeroed::<libc::sigset_t>();
            libc::sigfillset(&raw mut theirs);
            assert_eq!(sigfillset(&raw mut ours), 0);
            let words: [u64; 16] = core::mem::transmute(theirs);
            assert_eq!(ours.words[0], words[0]);
            for signal in -1..70 {
                let mut mine = SigSet { words: [0; 16] };
                let mut host = core::mem::zeroed::<libc::sigset_t>();
                assert_eq!(
                    sigaddset(&raw mut mine, signal),
                    libc::sigaddset(&raw mut host, signal),
                    "{signal}"
                );
                let host: [u64; 16] = core::mem::transmute(host);
                assert_eq!(mine.words, host);
            }
        }
    }

    #[test]
    fn handlers_run_and_return() {
        use std::sync::atomic::{AtomicI32, Ordering};
        static SEEN: AtomicI32 = AtomicI32::new(0);
        unsafe extern "C" fn handler(signal: c_int) {
            SEEN.store(signal, Ordering::SeqCst);
        }
        // SAFETY: SIGWINCH is ignored by default and nobody else's here.
        unsafe {
            assert_eq!(signal(28, handler as *const () as usize), SIG_DFL);
            assert_eq!(raise(28), 0);
            assert_eq!(SEEN.load(Ordering::SeqCst), 28);
            let mut old = core::mem::zeroed::<SigAction>();
            assert_eq!(sigaction(28, null(), &raw mut old), 0);
            assert_eq!((old.handler, old.flags), (handler as *const () as usize, SA_RESTART));
            assert_eq!(signal(28, SIG_DFL), handler as *const () as usize);
            assert_eq!(sigaction(32, null(), &raw mut old), -1);
        }
    }
}
