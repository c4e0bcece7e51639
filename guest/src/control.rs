//! The guest's end of its supervisor's socket: messages of [`net::control`] with descriptors beside them.
//!
//! Watched like any host descriptor; a message is handled where it is found, in the kernel, on any vCPU of any process
//! of the guest. What must outlive the message lies in the arena; the socket's number is the same in the whole family.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, Ordering};
use net::control::{Counters, MAX_MESSAGE, Mode, Stage, ToGuest, ToSupervisor};
use platform::errno::{Errno, Result};
use platform::host;
use sched::host_fd::{self, HostReady};
use syscalls::net_device::Notice;
use syscalls::net_poll;

/// The socket, or -1: a constant once the guest has started.
static SOCKET: AtomicI32 = AtomicI32::new(-1);

/// Begins to listen.
pub(crate) fn start(fd: i32) -> Result<()> {
    SOCKET.store(fd, Ordering::Relaxed);
    host_fd::watch(fd, host_fd::IN | host_fd::EDGE, Arc::new(Control { fd })).map(drop)
}

/// Sends a message; whether it went. One that the supervisor has no room for is lost, as if it had died.
pub(crate) fn send(message: &ToSupervisor, request: u32) -> bool {
    const MSG_DONTWAIT: usize = 0x40;
    const MSG_NOSIGNAL: usize = 0x4000;
    let fd = SOCKET.load(Ordering::Relaxed);
    let encoded = message.encode(request);
    let bytes = encoded.bytes();
    // SAFETY: bytes of ours.
    fd >= 0
        && unsafe { host!(sendto, fd, bytes.as_ptr(), bytes.len(), MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0) }
            .is_ok()
}

/// The device was changed: called by the network's poll.
pub(crate) fn report(notice: Notice) {
    let message = ToSupervisor::Switched { mode: notice.mode, gap_ns: notice.gap_ns, at_ns: notice.at.0 };
    send(&message, notice.request);
    match (notice.died, notice.mode) {
        (true, Mode::Server) => crate::message::note(format_args!(
            "the direct network device is gone: the network goes on over the server ({} us)",
            notice.gap_ns / 1000
        )),
        (true, Mode::Direct) => crate::message::note(format_args!(
            "the network device is gone, and there is no server to fall back to"
        )),
        _ => {}
    }
}

struct Control {
    fd: i32,
}

impl HostReady for Control {
    fn ready(&self, _events: u32) {
        let mut buffer = [0; MAX_MESSAGE + 1];
        while let Ok((len, fds)) = receive(self.fd, &mut buffer) {
            if len == 0 {
                return; // The supervisor has gone. (Edge-triggered: this is said once.)
            }
            match ToGuest::decode(&buffer[..len]) {
                Ok((request, message)) => handle(request, message, fds),
                Err(error) => {
                    fds.iter().for_each(|fd| close(*fd));
                    crate::message::note(format_args!("from the network's supervisor: {error}"));
                }
            }
        }
    }
}

fn handle(request: u32, message: ToGuest, fds: Vec<i32>) {
    let failed = |errno: Errno, stage| send(&ToSupervisor::SwitchFailed { errno: errno.0, stage }, request);
    match message {
        ToGuest::GoDirect(direct) => {
            let mut stack = net_poll::access();
            let opened = match crate::nic::open(&direct, fds, &mut stack.backend) {
                Ok(opened) => opened,
                Err(error) => {
                    failed(error, Stage::Open);
                    return;
                }
            };
            let now = platform::time::now();
            if let Err(error) = stack.backend.go_direct(opened.device, opened.parts, request, now) {
                failed(error, Stage::Use);
                return;
            }
            stack.poll();
        }
        ToGuest::GoServer => {
            let mut stack = net_poll::access();
            match stack.backend.go_server(request, platform::time::now()) {
                Ok(()) => stack.poll(),
                Err(error) => drop(failed(error, Stage::Use)),
            }
        }
        ToGuest::Report => {
            let counters = Counters { cpu_ns: cpu_ns(), ..net_poll::access().counters() };
            send(&ToSupervisor::Counters(counters), request);
        }
        // What is no question to this file: answers to claims, hints that the link's header gives as well.
        _ => fds.iter().for_each(|fd| close(*fd)),
    }
}

/// Processor time of this host process. (Of a family's others it is not known here.)
fn cpu_ns() -> u64 {
    const CLOCK_PROCESS_CPUTIME_ID: usize = 2;
    let mut time = platform::time::Timespec::default();
    // SAFETY: a timespec of ours.
    let _ = unsafe { host!(clock_gettime, CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.to_ns()
}

fn close(fd: i32) {
    // SAFETY: a descriptor that came with a message and was handed to nobody.
    let _ = unsafe { host!(close, fd) };
}

/// `struct msghdr`
#[repr(C)]
struct MsgHdr {
    name: usize,
    name_len: u32,
    parts: *mut [usize; 2],
    part_count: usize,
    control: *mut u64,
    control_len: usize,
    flags: u32,
}

/// The next record: its length (0: the other side has closed) and descriptors.
fn receive(fd: i32, buffer: &mut [u8]) -> Result<(usize, Vec<i32>)> {
    const MSG_DONTWAIT: usize = 0x40;
    const MSG_CMSG_CLOEXEC: usize = 0x4000_0000;
    const SOL_SOCKET_RIGHTS: u64 = 1 | 1 << 32;
    const HEADER: usize = 16;
    // One header and 14 descriptors: more than any device has. What does not fit is closed by the kernel.
    let mut control = [0u64; 9];
    let mut part = [buffer.as_mut_ptr() as usize, buffer.len()];
    let mut message = MsgHdr {
        name: 0,
        name_len: 0,
        parts: &raw mut part,
        part_count: 1,
        control: control.as_mut_ptr(),
        control_len: size_of_val(&control),
        flags: 0,
    };
    // SAFETY: the message points at live memory of these lengths.
    let len = unsafe { host!(recvmsg, fd, &raw mut message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) }?;
    let mut fds = Vec::new();
    // struct cmsghdr: length with the header, level and type in one word.
    if message.control_len >= HEADER && control[1] == SOL_SOCKET_RIGHTS {
        let bytes = (control[0] as usize).min(message.control_len) - HEADER;
        let words = control[2..].iter().flat_map(|word| [*word as i32, (*word >> 32) as i32]);
        fds.extend(words.take(bytes / 4));
    }
    Ok((len, fds))
}
