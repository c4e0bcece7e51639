//! The guest's end of its supervisor's socket: messages of [`net::control`] with descriptors beside them.
//!
//! Watched like any host descriptor; a message is handled where it is found, in the kernel, on any vCPU of any process
//! of the guest. What must outlive the message lies in the arena; the socket's number is the same in the whole family.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, Ordering};
use net::control::{Counters, MAX_MESSAGE, Mode, Stage, ToGuest, ToSupervisor};
use platform::errno::{Errno, Result};
use platform::sync::Lock;
use platform::time::Instant;
use platform::{hands, host};
use sched::host_fd::{self, HostReady, WatchId};
use sched::timer::Expire;
use syscalls::net_device::{Notice, Switched};
use syscalls::{net_claim, net_lease, net_poll};

/// The socket, or -1: a constant once the guest has started.
static SOCKET: AtomicI32 = AtomicI32::new(-1);

/// How a guest of a network with a name comes back to a supervisor that was started anew.
pub(crate) struct ComeBack {
    /// Where it listens.
    pub(crate) path: Vec<u8>,
    /// Who we are.
    pub(crate) message: ToSupervisor,
    /// Our link and its bells.
    pub(crate) fds: [i32; 3],
}

/// Between two knocks at the door of a supervisor that has died.
const KNOCK_NS: u64 = 200_000_000;

/// Begins to listen.
pub(crate) fn start(fd: i32, come_back: Option<ComeBack>) -> Result<()> {
    SOCKET.store(fd, Ordering::Relaxed);
    let control = Arc::new(Control { fd, come_back, watch: Lock::new(None) });
    control.clone().listen()
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

/// What the supervisor is to know of the device: called by the network's poll.
pub(crate) fn report(notice: Notice) {
    match notice {
        Notice::Switched(switched) => report_switch(switched),
        Notice::Frequents(address) => drop(send(&ToSupervisor::Frequents(address), 0)),
        Notice::ShortcutBroken(id) => drop(send(&ToSupervisor::ShortcutBroken(id), 0)),
    }
}

fn report_switch(notice: Switched) {
    let message = ToSupervisor::Switched { mode: notice.mode, gap_ns: notice.gap_ns, at_ns: notice.at.0 };
    send(&message, notice.request);
    match (notice.died, notice.mode) {
        (true, Mode::Server) => crate::message::note(format_args!(
            "the direct network device is gone: the network goes on over the server ({} us)",
            notice.gap_ns / 1000
        )),
        (true, Mode::Direct) => crate::message::note(format_args!(
            "the network is unusable: its device is gone, or its server wrote nonsense (another server would mend that)"
        )),
        _ => {}
    }
}

struct Control {
    fd: i32,
    come_back: Option<ComeBack>,
    watch: Lock<Option<WatchId>>,
}

impl Control {
    fn listen(self: Arc<Control>) -> Result<()> {
        let id = host_fd::watch(self.fd, host_fd::IN | host_fd::EDGE, Arc::new(Listening(self.clone())))?;
        *self.watch.lock() = Some(id);
        Ok(())
    }

    /// The supervisor has gone. What runs, runs on: frames need none.
    fn lost(self: Arc<Control>) {
        net_claim::nobody_answers();
        if let Some(id) = self.watch.lock().take() {
            host_fd::unwatch(id);
        }
        if self.come_back.is_some() {
            crate::message::note(format_args!(
                "the network's supervisor is gone: this guest runs on; ports, switches and a server that ends \
                 wait for 'attacca server start' of the same network"
            ));
            sched::timer::add(platform::time::now().after(KNOCK_NS), Arc::new(Knock(self)));
        }
    }

    /// Knocks at the network's door. Whether somebody opened.
    fn knock(&self, come_back: &ComeBack) -> Result<()> {
        const AF_UNIX: u16 = 1;
        const SOCK_SEQPACKET: usize = 5;
        const SOCK_NONBLOCK_CLOEXEC: usize = 0x800 | 0x8_0000;
        // struct sockaddr_un
        let mut address = [0u8; 110];
        address[..2].copy_from_slice(&AF_UNIX.to_ne_bytes());
        let path = address[2..109].get_mut(..come_back.path.len()).ok_or(Errno::ENAMETOOLONG)?;
        path.copy_from_slice(&come_back.path);
        let len = 2 + come_back.path.len() + 1;
        let flags = SOCK_SEQPACKET | SOCK_NONBLOCK_CLOEXEC;
        // SAFETY: no memory arguments.
        let fd = unsafe { host!(socket, usize::from(AF_UNIX), flags, 0) }? as i32;
        // SAFETY: the address is `len` bytes of ours.
        let connected = unsafe { host!(connect, fd, address.as_ptr(), len) }
            .and_then(|_| send_with(fd, come_back.message.encode(0).bytes(), &come_back.fds))
            // SAFETY: the old socket is dead and not watched any more; its number stays what others know.
            .and_then(|()| unsafe { host!(dup2, fd, self.fd) });
        close(fd);
        connected.map(drop)
    }
}

/// Tries again until it gets in.
struct Knock(Arc<Control>);

impl Expire for Knock {
    fn expire(&self, now: Instant) {
        let control = &self.0;
        let Some(come_back) = &control.come_back else { return };
        if control.knock(come_back).and_then(|()| control.clone().listen()).is_err() {
            sched::timer::add(now.after(KNOCK_NS), Arc::new(Knock(control.clone())));
            return;
        }
        net_claim::tell_again();
        net_lease::tell_again();
        // Nobody would say if their other ends went away.
        crate::shortcut::end(None);
    }
}

/// The watch of a connection.
struct Listening(Arc<Control>);

impl HostReady for Listening {
    fn ready(&self, _events: u32) {
        let mut buffer = [0; MAX_MESSAGE + 1];
        loop {
            let (len, fds) = match receive(self.0.fd, &mut buffer) {
                Ok(got) => got,
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                // ECONNRESET: it died with words of ours unread.
                Err(_) => return self.0.clone().lost(),
            };
            if len == 0 {
                return self.0.clone().lost();
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
            let mut device = net_poll::device();
            let opened = match crate::nic::open(&direct, fds, &mut device) {
                Ok(opened) => opened,
                Err(error) => {
                    failed(error, Stage::Open);
                    return;
                }
            };
            let now = platform::time::now();
            if let Err(error) = device.go_direct(opened.device, opened.parts, request, now) {
                failed(error, Stage::Use);
                return;
            }
            drop(device);
            net_poll::poll_now();
        }
        ToGuest::GoServer => {
            let begun = net_poll::device().go_server(request, platform::time::now());
            match begun {
                Ok(()) => net_poll::poll_now(),
                Err(error) => drop(failed(error, Stage::Use)),
            }
        }
        ToGuest::Report => {
            let counters = Counters { cpu_ns: cpu_ns(), ..net_poll::counters() };
            send(&ToSupervisor::Counters(counters), request);
        }
        ToGuest::Capture => crate::capture::begin(fds),
        ToGuest::Shortcut(shortcut) => crate::shortcut::begin(&shortcut, fds),
        ToGuest::ShortcutGone(id) => crate::shortcut::end(Some(id)),
        ToGuest::Granted => answered(request, Ok(())),
        ToGuest::Refused(errno) => answered(request, Err(Errno(errno))),
        // Hints that the link's header gives as well.
        _ => fds.iter().for_each(|fd| close(*fd)),
    }
}

fn answered(request: u32, answer: Result<()>) {
    if !net_lease::answered(request, answer) {
        net_claim::answered(request, answer);
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

/// Closes a descriptor that came with a message.
pub(crate) fn close(fd: i32) {
    hands::close(fd);
}

/// `struct msghdr`
#[repr(C)]
pub(crate) struct MsgHdr {
    pub(crate) name: usize,
    pub(crate) name_len: u32,
    pub(crate) parts: *mut [usize; 2],
    pub(crate) part_count: usize,
    pub(crate) control: *mut u64,
    pub(crate) control_len: usize,
    pub(crate) flags: u32,
}

/// Sends a record with descriptors.
fn send_with(fd: i32, bytes: &[u8], fds: &[i32; 3]) -> Result<()> {
    const MSG_NOSIGNAL: usize = 0x4000;
    const SOL_SOCKET_RIGHTS: u64 = 1 | 1 << 32;
    let word = |a: i32, b: i32| u64::from(a as u32) | u64::from(b as u32) << 32;
    // struct cmsghdr with three descriptors: 28 bytes, padded to words.
    let mut control = [28, SOL_SOCKET_RIGHTS, word(fds[0], fds[1]), word(fds[2], 0)];
    let mut part = [bytes.as_ptr() as usize, bytes.len()];
    let message = MsgHdr {
        name: 0,
        name_len: 0,
        parts: &raw mut part,
        part_count: 1,
        control: control.as_mut_ptr(),
        control_len: size_of_val(&control),
        flags: 0,
    };
    // SAFETY: the message points at live memory of these lengths.
    unsafe { host!(sendmsg, fd, &raw const message, MSG_NOSIGNAL) }.map(drop)
}

/// The next record: its length (0: the other side has closed) and descriptors.
pub(crate) fn receive(fd: i32, buffer: &mut [u8]) -> Result<(usize, Vec<i32>)> {
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
    // Files among the descriptors are not to be taken for what a killed call left.
    hands::passing(|| {
        // SAFETY: the message points at live memory of these lengths.
        let len = unsafe { host!(recvmsg, fd, &raw mut message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) }?;
        let mut fds = Vec::new();
        // struct cmsghdr: length with the header, level and type in one word.
        if message.control_len >= HEADER && control[1] == SOL_SOCKET_RIGHTS {
            let bytes = (control[0] as usize).min(message.control_len) - HEADER;
            let words = control[2..].iter().flat_map(|word| [*word as i32, (*word >> 32) as i32]);
            fds.extend(words.take(bytes / 4));
            fds.iter().for_each(|&fd| hands::keep(fd));
        }
        Ok((len, fds))
    })
}
