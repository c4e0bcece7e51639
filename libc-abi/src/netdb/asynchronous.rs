//! getaddrinfo_a(3) and its kin (libanl): each request is done before the call returns, so it can be
//! neither waited for nor cancelled. With GAI_NOWAIT the notification comes after the last one.

use super::addrinfo::{Eai, addrinfo, getaddrinfo};
use crate::kcall;
use crate::types::{c_char, c_int, c_void};

/// `struct gaicb`
#[repr(C)]
pub struct gaicb {
    ar_name: *const c_char,
    ar_service: *const c_char,
    ar_request: *const addrinfo,
    ar_result: *mut addrinfo,
    return_code: c_int,
    reserved: [c_int; 5],
}

const GAI_WAIT: c_int = 0;
const GAI_NOWAIT: c_int = 1;
const SIGEV_SIGNAL: c_int = 0;
const SIGEV_NONE: c_int = 1;

/// The start of `struct sigevent`.
#[repr(C)]
struct Event {
    value: *mut c_void,
    signal: c_int,
    notify: c_int,
}

abi! { EXPORTS "libc.so.6":
    /// getaddrinfo_a(3). SIGEV_THREAD is refused (EAI_SYSTEM).
    "GLIBC_2.34" fn getaddrinfo_a(mode: c_int, list: *const *mut gaicb, count: c_int, event: *const c_void) -> c_int {
        if !matches!(mode, GAI_WAIT | GAI_NOWAIT) {
            crate::errno::set(platform::Errno::EINVAL);
            return Eai::System as c_int;
        }
        // SAFETY: null or the caller's sigevent.
        let event = unsafe { event.cast::<Event>().as_ref() }.filter(|_| mode == GAI_NOWAIT);
        if event.is_some_and(|e| !matches!(e.notify, SIGEV_SIGNAL | SIGEV_NONE)) {
            crate::errno::set(platform::Errno::ENOSYS);
            return Eai::System as c_int;
        }
        for i in 0..count.max(0) as usize {
            // SAFETY: the caller's list of requests, some of which may be null.
            unsafe {
                if let Some(request) = (*list.add(i)).as_mut() {
                    request.return_code =
                        getaddrinfo(request.ar_name, request.ar_service, request.ar_request, &mut request.ar_result);
                }
            }
        }
        if let Some(event) = event.filter(|e| e.notify == SIGEV_SIGNAL) {
            notify(event);
        }
        0
    }
    /// gai_error(3).
    "GLIBC_2.34" fn gai_error(request: *mut gaicb) -> c_int {
        // SAFETY: the caller's request.
        unsafe { (*request).return_code }
    }
    /// gai_suspend(3): nothing is under way.
    "GLIBC_2.34" fn gai_suspend(_list: *const *const gaicb, _count: c_int, _timeout: *const c_void) -> c_int {
        Eai::AllDone as c_int
    }
    /// gai_cancel(3): it is too late.
    "GLIBC_2.34" fn gai_cancel(_request: *mut gaicb) -> c_int {
        Eai::AllDone as c_int
    }
}

exports! { OLD "libc.so.6":
    compat "GLIBC_2.2.5" "getaddrinfo_a" = getaddrinfo_a;
    compat "GLIBC_2.2.5" "gai_error" = gai_error;
    compat "GLIBC_2.2.5" "gai_suspend" = gai_suspend;
    compat "GLIBC_2.2.5" "gai_cancel" = gai_cancel;
}

/// Sends the caller its signal, with SI_ASYNCNL and its value.
fn notify(event: &Event) {
    const SI_ASYNCNL: i32 = -60;
    // siginfo_t: signo, errno, code, pad, pid, uid, value; 128 bytes.
    let mut info = [0u64; 16];
    info[0] = event.signal as u32 as u64;
    info[1] = SI_ASYNCNL as u32 as u64;
    info[3] = event.value as u64;
    // SAFETY: a siginfo_t of ours, to our own process.
    unsafe {
        let pid = kcall!(getpid).unwrap_or(0);
        info[2] = pid as u64 | (kcall!(getuid).unwrap_or(0) as u64) << 32;
        let _ = kcall!(rt_sigqueueinfo, pid, event.signal, info.as_ptr());
    }
}
