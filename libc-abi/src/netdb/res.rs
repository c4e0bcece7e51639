//! resolv.h: the resolver itself. `struct __res_state` (568 bytes) may lie on the caller's stack
//! (libkrb5); what a caller changes in it (servers, timeouts, ndots, options) counts.

use super::conf::{self, Conf, Server};
use super::inet::bytes;
use super::{HostError, dns, set_h_errno, wire};
use crate::errno;
use crate::malloc::imp;
use crate::thread;
use crate::types::{c_char, c_int, c_ulong, c_void};
use alloc::vec::Vec;
use platform::Errno;

const MAX_NS: usize = 3;
const MAX_SEARCH: usize = 6;

/// `struct __res_state`
#[repr(C)]
pub struct res_state {
    retrans: c_int,
    retry: c_int,
    options: c_ulong,
    nscount: c_int,
    nsaddr_list: [[u8; 16]; MAX_NS],
    id: u16,
    dnsrch: [*mut c_char; MAX_SEARCH + 1],
    defdname: [u8; 256],
    pfcode: c_ulong,
    /// ndots: 4 bits, nsort: 4 bits, ipv6_unavail: 1 bit.
    bits: u32,
    sort_list: [[u32; 2]; 10],
    hooks: [*mut c_void; 2],
    h_errno: c_int,
    vcsock: c_int,
    flags: u32,
    ext: [u32; 12],
    /// glibc: index of its own record. Ours: what the servers were when the state was made; as long
    /// as they are the same, the file's list (IPv6 servers included) is used.
    extension: u64,
}

const _: () = assert!(size_of::<res_state>() == 568);
const _: () = assert!(core::mem::offset_of!(res_state, dnsrch) == 72);
const _: () = assert!(core::mem::offset_of!(res_state, sort_list) == 396);
const _: () = assert!(core::mem::offset_of!(res_state, h_errno) == 496);

const RES_INIT: c_ulong = 1;
const RES_USEVC: c_ulong = 8;
const RES_RECURSE: c_ulong = 0x40;
const RES_DEFNAMES: c_ulong = 0x80;
const RES_DNSRCH: c_ulong = 0x200;
const RES_ROTATE: c_ulong = 0x4000;
const RES_DEFAULT: c_ulong = RES_RECURSE | RES_DEFNAMES | RES_DNSRCH;

unsafe fn init(state: *mut res_state) -> c_int {
    let conf = conf::load();
    // SAFETY: the caller's state; all-zero is a valid one.
    unsafe {
        state.write_bytes(0, 1);
        let state = &mut *state;
        state.retrans = conf.timeout as c_int;
        state.retry = conf.attempts as c_int;
        state.options = RES_INIT | RES_DEFAULT;
        if conf.rotate {
            state.options |= RES_ROTATE;
        }
        if conf.use_vc {
            state.options |= RES_USEVC;
        }
        for server in conf.servers.iter().filter(|s| s.len == 16) {
            state.nsaddr_list[state.nscount as usize].copy_from_slice(&server.address[..16]);
            state.nscount += 1;
        }
        state.id = dns::random_id();
        state.bits = conf.ndots as u32 & 15;
        state.vcsock = -1;
        set_search(state, &conf.search);
        state.extension = fingerprint(state);
    }
    0
}

/// Domains one after the other in `defdname`, as far as they fit, with pointers in `dnsrch`.
fn set_search(state: &mut res_state, search: &[Vec<u8>]) {
    let mut at = 0;
    for (i, domain) in search.iter().take(MAX_SEARCH).enumerate() {
        let end = at + domain.len() + 1;
        let Some(place) = state.defdname.get_mut(at..end) else { break };
        place[..domain.len()].copy_from_slice(domain);
        state.dnsrch[i] = place.as_mut_ptr().cast();
        at = end;
    }
}

fn fingerprint(state: &res_state) -> u64 {
    let servers = state.nsaddr_list.iter().take(state.nscount.clamp(0, MAX_NS as c_int) as usize).flatten();
    // FNV-1a; never 0, which is what a zeroed state has.
    servers.fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3)) | 1
}

/// How a state says that names are to be asked for.
unsafe fn conf_of(state: &res_state) -> Conf {
    let mut conf = conf::load();
    if fingerprint(state) != state.extension {
        let count = state.nscount.clamp(0, MAX_NS as c_int) as usize;
        conf.servers = state.nsaddr_list[..count]
            .iter()
            .map(|a| Server::v4_port([a[4], a[5], a[6], a[7]], u16::from_be_bytes([a[2], a[3]])))
            .collect();
    }
    conf.timeout = state.retrans.clamp(1, 30) as u32;
    conf.attempts = state.retry.clamp(1, 5) as u32;
    conf.ndots = (state.bits & 15) as usize;
    conf.rotate = state.options & RES_ROTATE != 0;
    conf.use_vc = state.options & RES_USEVC != 0;
    if state.options & (RES_DNSRCH | RES_DEFNAMES) == 0 {
        conf.search.clear();
    } else {
        let set = state.dnsrch.iter().take_while(|p| !p.is_null());
        // SAFETY: C strings, in the state or the caller's own.
        conf.search = set.map(|&p| unsafe { bytes(p) }.to_vec()).collect();
    }
    conf
}

/// The thread's own state.
fn own() -> *mut res_state {
    // SAFETY: the slot is the thread's own; thread exit frees it.
    unsafe {
        let slot = &raw mut (*thread::current()).slots[thread::slot::NETDB];
        if (*slot).is_null() {
            *slot = imp::calloc(1, size_of::<res_state>());
        }
        let state: *mut res_state = (*slot).cast();
        if !state.is_null() && (*state).options & RES_INIT == 0 {
            init(state);
        }
        state
    }
}

fn told(state: &mut res_state, error: HostError) -> c_int {
    state.h_errno = error as c_int;
    set_h_errno(error as c_int);
    -1
}

/// The answer's bytes into the caller's buffer; its whole length, as glibc answers.
unsafe fn deliver(message: &[u8], answer: *mut u8, len: c_int) -> c_int {
    let fits = message.len().min(len.max(0) as usize);
    // SAFETY: the caller's buffer of `len` bytes.
    unsafe { core::ptr::copy_nonoverlapping(message.as_ptr(), answer, fits) };
    message.len() as c_int
}

unsafe fn query(
    state: *mut res_state,
    name: &[u8],
    class: c_int,
    kind: c_int,
    answer: *mut u8,
    len: c_int,
) -> Result<c_int, HostError> {
    let (wire_name, _) = wire::from_text(name).ok_or(HostError::NoRecovery)?;
    // SAFETY: the caller's state and buffer.
    unsafe {
        if (*state).options & RES_INIT == 0 {
            init(state);
        }
        let conf = conf_of(&*state);
        let question = wire::query(dns::random_id(), &wire_name, class as u16, kind as u16);
        let reply =
            dns::ask(&conf, core::slice::from_ref(&question)).pop().unwrap_or(Err(HostError::TryAgain))?;
        let message = dns::judge(reply)?;
        Ok(deliver(&message, answer, len))
    }
}

unsafe fn search(
    state: *mut res_state,
    name: &[u8],
    class: c_int,
    kind: c_int,
    answer: *mut u8,
    len: c_int,
) -> Result<c_int, HostError> {
    // SAFETY: the caller's state and buffer.
    unsafe {
        if (*state).options & RES_INIT == 0 {
            init(state);
        }
        let mut worst = HostError::NotFound;
        for candidate in dns::candidates(&conf_of(&*state), name) {
            match query(state, &candidate, class, kind, answer, len) {
                Ok(got) => return Ok(got),
                Err(HostError::NotFound) => {}
                Err(HostError::NoData) if worst != HostError::TryAgain => worst = HostError::NoData,
                Err(HostError::TryAgain) => worst = HostError::TryAgain,
                Err(error) => return Err(error),
            }
        }
        Err(worst)
    }
}

unsafe fn finish(state: *mut res_state, result: Result<c_int, HostError>) -> c_int {
    // SAFETY: the caller's state.
    result.unwrap_or_else(|error| told(unsafe { &mut *state }, error))
}

/// `name.domain`, or the name alone.
unsafe fn joined(name: *const c_char, domain: *const c_char) -> Vec<u8> {
    // SAFETY: the caller's strings.
    unsafe {
        let mut full = bytes(name).to_vec();
        if !domain.is_null() {
            full.push(b'.');
            full.extend_from_slice(bytes(domain));
        }
        full
    }
}

abi! { EXPORTS "libc.so.6":
    /// res_ninit(3).
    "GLIBC_2.2.5" fn __res_ninit(state: *mut res_state) -> c_int {
        // SAFETY: the caller's state.
        unsafe { init(state) }
    }
    /// res_nclose(3): nothing of ours hangs on a state.
    "GLIBC_2.2.5" fn __res_nclose(state: *mut res_state) {
        // SAFETY: the caller's state.
        unsafe { (*state).options &= !RES_INIT }
    }
    /// res_init(3), for the thread's own state.
    "GLIBC_2.2.5" fn __res_init() -> c_int {
        let state = own();
        // SAFETY: null or the thread's own.
        if state.is_null() { -1 } else { unsafe { init(state) } }
    }
    /// The thread's own state (`_res`).
    "GLIBC_2.2.5" fn __res_state() -> *mut res_state { own() }
    /// res_nquery(3).
    "GLIBC_2.34" fn res_nquery(
        state: *mut res_state, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, len: c_int,
    ) -> c_int {
        // SAFETY: the caller's state, string and buffer.
        unsafe { finish(state, query(state, bytes(name), class, kind, answer, len)) }
    }
    /// res_nsearch(3).
    "GLIBC_2.34" fn res_nsearch(
        state: *mut res_state, name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, len: c_int,
    ) -> c_int {
        // SAFETY: the caller's state, string and buffer.
        unsafe { finish(state, search(state, bytes(name), class, kind, answer, len)) }
    }
    /// res_nquerydomain(3).
    "GLIBC_2.34" fn res_nquerydomain(
        state: *mut res_state, name: *const c_char, domain: *const c_char, class: c_int, kind: c_int,
        answer: *mut u8, len: c_int,
    ) -> c_int {
        // SAFETY: the caller's state, strings and buffer.
        unsafe { finish(state, query(state, &joined(name, domain), class, kind, answer, len)) }
    }
    /// res_nmkquery(3): queries only.
    "GLIBC_2.34" fn res_nmkquery(
        _state: *mut res_state, op: c_int, name: *const c_char, class: c_int, kind: c_int, _data: *const u8,
        _data_len: c_int, _new: *const u8, buffer: *mut u8, len: c_int,
    ) -> c_int {
        const QUERY: c_int = 0;
        // SAFETY: the caller's string and buffer.
        unsafe {
            let made = wire::from_text(bytes(name)).filter(|_| op == QUERY);
            let message = made.map(|(name, _)| wire::query(dns::random_id(), &name, class as u16, kind as u16));
            match message {
                Some(message) if message.len() <= len.max(0) as usize => deliver(&message, buffer, len),
                _ => -1,
            }
        }
    }
    /// res_nsend(3).
    "GLIBC_2.34" fn res_nsend(
        state: *mut res_state, question: *const u8, question_len: c_int, answer: *mut u8, len: c_int,
    ) -> c_int {
        // SAFETY: the caller's state, message and buffer.
        unsafe {
            let question = core::slice::from_raw_parts(question, question_len.max(0) as usize).to_vec();
            match dns::ask(&conf_of(&*state), &[question]).pop() {
                Some(Ok(message)) => deliver(&message, answer, len),
                _ => {
                    errno::set(Errno::ETIMEDOUT);
                    -1
                }
            }
        }
    }
    /// res_query(3).
    "GLIBC_2.34" fn res_query(
        name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, len: c_int,
    ) -> c_int {
        // SAFETY: the thread's own state; the caller's string and buffer.
        with_own(|state| unsafe { res_nquery(state, name, class, kind, answer, len) })
    }
    /// res_search(3).
    "GLIBC_2.34" fn res_search(
        name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, len: c_int,
    ) -> c_int {
        // SAFETY: as above.
        with_own(|state| unsafe { res_nsearch(state, name, class, kind, answer, len) })
    }
    /// res_querydomain(3).
    "GLIBC_2.34" fn res_querydomain(
        name: *const c_char, domain: *const c_char, class: c_int, kind: c_int, answer: *mut u8, len: c_int,
    ) -> c_int {
        // SAFETY: as above.
        with_own(|state| unsafe { res_nquerydomain(state, name, domain, class, kind, answer, len) })
    }
    /// res_mkquery(3).
    "GLIBC_2.34" fn res_mkquery(
        op: c_int, name: *const c_char, class: c_int, kind: c_int, data: *const u8, data_len: c_int,
        new: *const u8, buffer: *mut u8, len: c_int,
    ) -> c_int {
        // SAFETY: as above.
        with_own(|state| unsafe {
            res_nmkquery(state, op, name, class, kind, data, data_len, new, buffer, len)
        })
    }
    /// res_send(3).
    "GLIBC_2.34" fn res_send(question: *const u8, question_len: c_int, answer: *mut u8, len: c_int) -> c_int {
        // SAFETY: as above.
        with_own(|state| unsafe { res_nsend(state, question, question_len, answer, len) })
    }
    /// Whether a name could be a host's (RFC 952 with RFC 1123, and underscores): 1 or 0.
    "GLIBC_2.34" fn res_hnok(name: *const c_char) -> c_int {
        // SAFETY: the caller's string.
        host_name_ok(unsafe { bytes(name) }).into()
    }
    /// Whether a name could be an owner's: a host name, perhaps behind `*.`.
    "GLIBC_2.34" fn res_ownok(name: *const c_char) -> c_int {
        // SAFETY: the caller's string.
        let name = unsafe { bytes(name) };
        host_name_ok(name.strip_prefix(b"*.").unwrap_or(name)).into()
    }
    /// Whether a name is one at all: printable.
    "GLIBC_2.34" fn res_dnok(name: *const c_char) -> c_int {
        // SAFETY: the caller's string.
        let name = unsafe { bytes(name) };
        (wire::from_text(name).is_some() && name.iter().all(u8::is_ascii_graphic)).into()
    }
}

exports! { OLD "libc.so.6":
    compat "GLIBC_2.2.5" "__res_nquery" = res_nquery;
    compat "GLIBC_2.2.5" "__res_nsearch" = res_nsearch;
    compat "GLIBC_2.2.5" "__res_nquerydomain" = res_nquerydomain;
    compat "GLIBC_2.2.5" "__res_nmkquery" = res_nmkquery;
    compat "GLIBC_2.2.5" "__res_nsend" = res_nsend;
    compat "GLIBC_2.2.5" "__res_query" = res_query;
    compat "GLIBC_2.2.5" "__res_search" = res_search;
    compat "GLIBC_2.2.5" "__res_querydomain" = res_querydomain;
    compat "GLIBC_2.2.5" "__res_mkquery" = res_mkquery;
    compat "GLIBC_2.2.5" "__res_send" = res_send;
    compat "GLIBC_2.2.5" "__res_hnok" = res_hnok;
    compat "GLIBC_2.2.5" "__res_ownok" = res_ownok;
    compat "GLIBC_2.2.5" "__res_dnok" = res_dnok;
}

fn with_own(work: impl FnOnce(*mut res_state) -> c_int) -> c_int {
    let state = own();
    if state.is_null() {
        set_h_errno(HostError::Internal as c_int);
        return -1;
    }
    work(state)
}

fn host_name_ok(name: &[u8]) -> bool {
    let label_ok =
        |label: &[u8]| label.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let first_ok = name.first() != Some(&b'-');
    first_ok
        && wire::from_text(name).is_some()
        && name.strip_suffix(b".").unwrap_or(name).split(|&b| b == b'.').all(label_ok)
}
