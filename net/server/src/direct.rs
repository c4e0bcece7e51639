//! Opening direct devices: the part that needs privileges. What comes out, [`Opened`], is descriptors and a few
//! numbers, which a guest without any privilege can drive (`net::device::host`).
//!
//! * `tap:NAME[,queue=K]`: a queue of a TAP device, made if it is not there (tuntap.rst). Several queues share a
//!   device made with `multi_queue`; [`TapSteering`] says whose frames go to which.
//! * `xdp:IF[,queue=K]`: an AF_XDP socket on a receive queue. [`XdpSteering`] redirects the guest's frames to it and
//!   leaves all others to the kernel. Without it the socket receives nothing.
//! * `wire:NAME`: memory shared with another guest of the same user; a lock on each end's doorbell says whether it is
//!   taken, so that a guest that died leaves its end free.
//!
//! A network's server takes all queues that an interface receives on, unless told otherwise; a guest drives one
//! (`xdp_queues.rs` has how both live on one interface).

use crate::bpf::{self, Rule, Rules, Sockets};
use crate::sys::{self, check};
use crate::uplink::inbox::Inbox;
use net::control::{ANNOUNCE, DeviceKind, Direct, OFFLOAD_CHECKSUM, OFFLOAD_GRO, OFFLOAD_TSO};
use net::device::host::{WIRE_END, XDP_BUSY, XDP_ENTRIES, XDP_FLAGS, XDP_FRAMES, XDP_PARTIAL, XDP_ZERO_COPY};
use net::ring::{Layout, Link};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// Instead of a queue's number: all that the interface receives on. For a network's uplink alone.
pub const ALL_QUEUES: u32 = u32::MAX;

/// What the user names: `xdp:IF[,queue=K]`, `tap:NAME[,queue=K]`, `wire:NAME`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NicSpec {
    /// An AF_XDP socket.
    Xdp(String, u32),
    /// A TAP queue. (The kernel numbers them in the order in which they are opened.)
    Tap(String, u32),
    /// Two guests joined by memory.
    Wire(String),
}

impl std::str::FromStr for NicSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<NicSpec, String> {
        let usage = || format!("'{text}': write xdp:IF[,queue=K], tap:NAME[,queue=K] or wire:NAME");
        let (kind, rest) = text.split_once(':').ok_or_else(usage)?;
        let (name, queue) = match rest.split_once(',') {
            None => (rest, 0),
            Some((name, option)) => {
                let number = |k: &str| k.parse().ok().filter(|k| *k < 64);
                let queue = match option.strip_prefix("queue=") {
                    Some("all") if kind == "xdp" => Some(ALL_QUEUES),
                    other => other.and_then(number),
                };
                (name, queue.ok_or_else(usage)?)
            }
        };
        let interface = || {
            let fits = !name.is_empty() && name.len() < libc::IFNAMSIZ && !name.contains(['/', ' ']);
            fits.then(|| name.to_owned()).ok_or_else(usage)
        };
        match kind {
            "xdp" => Ok(NicSpec::Xdp(interface()?, queue)),
            "tap" => Ok(NicSpec::Tap(interface()?, queue)),
            "wire" => {
                let letters = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
                let fits = (1..=64).contains(&name.len()) && name.bytes().all(letters);
                (fits && !name.starts_with('.') && !rest.contains(','))
                    .then(|| NicSpec::Wire(name.into()))
                    .ok_or_else(usage)
            }
            _ => Err(usage()),
        }
    }
}

impl std::fmt::Display for NicSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NicSpec::Xdp(name, ALL_QUEUES) => write!(f, "xdp:{name},queue=all"),
            NicSpec::Xdp(name, 0) => write!(f, "xdp:{name}"),
            NicSpec::Xdp(name, queue) => write!(f, "xdp:{name},queue={queue}"),
            NicSpec::Tap(name, 0) => write!(f, "tap:{name}"),
            NicSpec::Tap(name, queue) => write!(f, "tap:{name},queue={queue}"),
            NicSpec::Wire(name) => write!(f, "wire:{name}"),
        }
    }
}

/// An opened queue: what a guest is told of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Queue {
    /// Descriptors: the queue.
    Tap {
        /// Largest IP packet.
        mtu: u32,
        /// Super-segments and unfinished checksums both ways.
        segmentation: bool,
    },
    /// Descriptors: the socket, the frames' memory.
    Xdp {
        /// Largest IP packet.
        mtu: u32,
        /// Frame buffers.
        frames: u32,
        /// Entries of each ring.
        entries: u32,
        /// For rx, tx, fill, completion: offsets of producer, consumer, flags, entries.
        offsets: [[u64; 4]; 4],
        /// Frames may come with unfinished checksums.
        partial: bool,
        /// Ask the kernel to look at the NIC.
        busy: bool,
        /// The driver receives into our memory itself.
        zero_copy: bool,
    },
    /// Descriptors: the memory, the bell to ring, the bell to hear.
    Wire {
        /// Which end: 0 sends into the first ring.
        end: u32,
        /// Largest IP packet.
        mtu: u32,
    },
}

/// An opened queue with its descriptors.
#[derive(Debug)]
pub struct Opened {
    /// What it is.
    pub queue: Queue,
    /// In the order that [`Queue`] says.
    pub fds: Vec<OwnedFd>,
    /// The hardware address for frames from it.
    pub mac: [u8; 6],
}

impl Opened {
    /// The words for a guest. `guest_mac`: what it sends from otherwise; if the queue has another address, the guest
    /// announces it.
    pub fn direct(&self, number: u32, guest_mac: [u8; 6]) -> Direct {
        let mut parameters = [0; 8];
        let announce = if self.mac == guest_mac { 0 } else { ANNOUNCE };
        let (kind, mtu, offloads) = match self.queue {
            Queue::Tap { mtu, segmentation } => {
                let cut = if segmentation { OFFLOAD_TSO | OFFLOAD_GRO } else { 0 };
                (DeviceKind::Tap, mtu, OFFLOAD_CHECKSUM | cut)
            }
            Queue::Xdp { mtu, frames, entries, partial, busy, zero_copy, .. } => {
                let flag = |on: bool, bit: u32| if on { bit } else { 0 };
                parameters[XDP_FRAMES] = frames;
                parameters[XDP_ENTRIES] = entries;
                parameters[XDP_FLAGS] =
                    flag(partial, XDP_PARTIAL) | flag(busy, XDP_BUSY) | flag(zero_copy, XDP_ZERO_COPY);
                (DeviceKind::Xdp, mtu, 0)
            }
            Queue::Wire { end, mtu } => {
                parameters[WIRE_END] = end;
                (DeviceKind::Wire, mtu, OFFLOAD_CHECKSUM | OFFLOAD_TSO)
            }
        };
        let descriptors = self.fds.len() as u8;
        Direct {
            kind,
            descriptors,
            mac: self.mac,
            queue: number,
            mtu,
            offloads: offloads | announce,
            parameters,
        }
    }
}

/// Frame buffers of an AF_XDP socket: 8 MiB, what RLIMIT_MEMLOCK usually allows.
const FRAMES: u32 = 2048;
const ENTRIES: u32 = FRAMES / 2;
/// Bytes of each ring of a wire, and its MTU: both ends are engines over memory.
const WIRE_RING: u32 = 1 << 19;
const WIRE_MTU: u32 = 65_535;

// ---- TAP ----

const TUN_F_ALL: libc::c_uint = 0x01 | 0x02 | 0x04 | 0x08; // CSUM, TSO4, TSO6, TSO_ECN
const TUNSETSTEERINGEBPF: libc::c_ulong = 0x8004_54e0;
const IFF_VNET_HDR: libc::c_int = 0x4000;
const IFF_MULTI_QUEUE: libc::c_int = 0x0100;

/// Opens a queue of TAP device `name`. `multi`: one of several. The guest's address on it is `mac`: a TAP device has two
/// ends, and the interface's own address is the host's end's.
pub fn open_tap(name: &str, multi: bool, mac: [u8; 6]) -> io::Result<Opened> {
    let what = |step: &str| {
        let words = format!("TAP device '{name}': {step}");
        move |error: io::Error| io::Error::new(error.kind(), format!("{words}: {error}"))
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .map_err(what("cannot open /dev/net/tun (needs CAP_NET_ADMIN or a device that is yours)"))?;
    let fd = OwnedFd::from(file);
    let base = libc::IFF_TAP | libc::IFF_NO_PI | IFF_VNET_HDR;
    let set = |flags: libc::c_int| {
        let mut request = named(name)?;
        request.ifr_ifru.ifru_flags = flags as i16;
        ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &mut request)
    };
    // A device that is there has one kind of queues or the other (EINVAL).
    let wanted = base | if multi { IFF_MULTI_QUEUE } else { 0 };
    let opened = set(wanted).or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL) if !multi => set(base | IFF_MULTI_QUEUE),
        _ => Err(error),
    });
    opened.map_err(what("cannot open a queue"))?;
    let mut header = net::device::host::TAP_HEADER as libc::c_int;
    // SAFETY: the request reads an int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &mut header) })
        .map_err(what("TUNSETVNETHDRSZ"))?;
    // SAFETY: the request takes its argument by value.
    let segmentation = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD as _, TUN_F_ALL) } == 0;
    let mtu = mtu(name)?;
    bring_up(name)?;
    Ok(Opened { queue: Queue::Tap { mtu, segmentation }, fds: vec![fd], mac })
}

/// Which queue of a multi-queue TAP device a frame goes to.
pub struct TapSteering {
    rules: Rules,
}

impl TapSteering {
    /// Puts the program on the device that `queue` belongs to. All frames go to queue 0 until there are rules.
    pub fn attach(queue: BorrowedFd<'_>) -> io::Result<TapSteering> {
        let rules = Rules::new()?;
        let program = bpf::load_tap_steering(&rules)?;
        let mut fd = program.as_raw_fd();
        // SAFETY: the request reads an int. The device keeps the program.
        check(unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETSTEERINGEBPF as _, &mut fd) })?;
        Ok(TapSteering { rules })
    }

    /// From now on frames under `rule` go to the queue that was opened as number `queue`.
    pub fn set(&self, rule: Rule, queue: u32) -> io::Result<()> {
        self.rules.set(rule, queue)
    }

    /// Frames under `rule` go to queue 0 again.
    pub fn clear(&self, rule: Rule) -> io::Result<bool> {
        self.rules.clear(rule)
    }
}

// ---- AF_XDP ----

/// Redirects frames of an interface to AF_XDP sockets. Ends when it is dropped (and every copy of its descriptors).
pub struct XdpSteering {
    link: OwnedFd,
    rules: Rules,
    sockets: Sockets,
}

impl XdpSteering {
    /// Puts the program on the interface. All frames go to the kernel until there are rules.
    pub fn attach(interface: &str) -> io::Result<XdpSteering> {
        let (rules, sockets) = (Rules::new()?, Sockets::new()?);
        let interface_index = index(interface)?;
        let link = when_free(|| bpf::attach_xdp(interface_index, &rules, &sockets)).map_err(|error| {
            let words = match error.raw_os_error() {
                Some(libc::EBUSY | libc::EEXIST) => "another XDP program is there".into(),
                Some(libc::EPERM) => "not allowed: needs CAP_NET_ADMIN and CAP_BPF".into(),
                _ => error.to_string(),
            };
            io::Error::new(error.kind(), format!("interface '{interface}': no XDP steering: {words}"))
        })?;
        Ok(XdpSteering { link, rules, sockets })
    }

    /// Lets frames reach the network server's socket, which is bound to `queue`.
    pub fn add_server_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.sockets.set_server(queue, socket)
    }

    /// Opens a packet socket for what is under a rule and reached no AF_XDP socket. With the memory that keeps it while a
    /// server looks at it.
    pub fn open_strays(&self, interface: &str) -> io::Result<[OwnedFd; 2]> {
        let what = |error: io::Error| {
            io::Error::new(error.kind(), format!("interface '{interface}': no packet socket: {error}"))
        };
        let socket = packet_socket(index(interface)?, &bpf::load_filter(&self.rules)?).map_err(what)?;
        Ok([socket, Inbox::create()?])
    }

    /// Lets frames reach a guest's socket, which is bound to `queue`.
    pub fn add_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.sockets.set(queue, socket)
    }

    /// From now on frames under `rule` that arrive at `queue` go to its socket.
    pub fn set(&self, rule: Rule, queue: u32) -> io::Result<()> {
        self.rules.set(rule, queue)
    }

    /// Frames under `rule` go to the kernel again.
    pub fn clear(&self, rule: Rule) -> io::Result<bool> {
        self.rules.clear(rule)
    }

    /// What must stay open as long as it should work.
    pub fn into_fd(self) -> OwnedFd {
        // The link holds the program, and the program its maps.
        self.link
    }

    /// The same, and the map of rules for who changes them.
    pub fn into_fds(self) -> (OwnedFd, OwnedFd) {
        (self.link, self.rules.into_fd())
    }
}

/// Opens what somebody may just have let go. The kernel takes a program off an interface, and a queue from a socket, a moment
/// after the last holder has closed it or ended (work queues of bpf_link_put and xp_put_pool): nobody can wait for that.
pub(crate) fn when_free<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let begin = Instant::now();
    loop {
        match open() {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::AlreadyExists)
                    && begin.elapsed() < PATIENCE =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            outcome => return outcome,
        }
    }
}

/// Opens an AF_XDP socket on a receive queue of `interface`. Zero-copy if the driver can.
pub fn open_xdp(interface: &str, queue: u32, busy: bool) -> io::Result<Opened> {
    let what = |step: &str| {
        let words = format!("interface '{interface}', queue {queue}: {step}");
        move |error: io::Error| io::Error::new(error.kind(), format!("{words}: {error}"))
    };
    let ifindex = index(interface)?;
    // SAFETY: a fresh descriptor that nobody else owns.
    let socket = check(unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .map_err(what("no AF_XDP socket (needs CAP_NET_RAW)"))?;
    let frames = net::device::host::FRAME_BYTES;
    let memory = sys::memfd(c"attacca-frames", FRAMES as usize * frames)?;
    let mapping = sys::Mapping::new(memory.as_fd(), true)?;
    // SAFETY: integers, for which zero is a value.
    let mut umem: libc::xdp_umem_reg = unsafe { zeroed() };
    umem.addr = mapping.base as u64;
    umem.len = mapping.len as u64;
    umem.chunk_size = frames as u32;
    set_option(&socket, libc::XDP_UMEM_REG, &umem)
        .map_err(what("cannot register frame memory (RLIMIT_MEMLOCK: 8 MiB)"))?;
    for ring in
        [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING]
    {
        set_option(&socket, ring, &ENTRIES).map_err(what("cannot make a ring"))?;
    }
    // SAFETY: integers, for which zero is a value.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { zeroed() };
    get_option(&socket, libc::XDP_MMAP_OFFSETS, &mut offsets).map_err(what("XDP_MMAP_OFFSETS"))?;
    if busy {
        set_busy(&socket).map_err(what("busy polling"))?;
    }
    // SAFETY: integers, for which zero is a value.
    let mut address: libc::sockaddr_xdp = unsafe { zeroed() };
    address.sxdp_family = libc::AF_XDP as u16;
    address.sxdp_flags = libc::XDP_USE_NEED_WAKEUP;
    address.sxdp_ifindex = ifindex;
    address.sxdp_queue_id = queue;
    // SAFETY: an address of this length. Without XDP_COPY or XDP_ZEROCOPY the kernel takes the best it has.
    check(unsafe {
        let length = size_of::<libc::sockaddr_xdp>() as u32;
        libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), length)
    })
    .map_err(what("cannot bind (is the interface up, has it that queue, is the queue free?)"))?;
    let mut options = 0u32;
    let zero_copy = get_option(&socket, libc::XDP_OPTIONS, &mut options).is_ok() && options & 1 != 0;
    let entry = |ring: &libc::xdp_ring_offset| [ring.producer, ring.consumer, ring.flags, ring.desc];
    let queue = Queue::Xdp {
        // One buffer holds the headroom that XDP keeps, and the frame.
        mtu: mtu(interface)?.min(frames as u32 - 256 - 64 - 14),
        frames: FRAMES,
        entries: ENTRIES,
        offsets: [entry(&offsets.rx), entry(&offsets.tx), entry(&offsets.fr), entry(&offsets.cr)],
        partial: driver(interface)? == "veth",
        busy,
        zero_copy,
    };
    Ok(Opened { queue, mac: hardware_address(interface)?, fds: vec![socket, memory] })
}

/// A packet socket (packet(7)) on one interface that takes what the filter does, each frame behind a header of
/// virtio-net. The interface hears all addresses as long as it is open: guests' are not its own.
fn packet_socket(interface: u32, filter: &OwnedFd) -> io::Result<OwnedFd> {
    const RECEIVE_BYTES: i32 = 8 << 20;
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: a fresh descriptor that nobody else owns. Protocol 0: it hears nothing before it is bound.
    let socket = unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_PACKET, kind, 0))?) };
    let fd = filter.as_raw_fd();
    set_any(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, &fd)?;
    set_any(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, &1i32)?;
    set_any(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32)?;
    // A burst is waiting room; without the privilege for more it is as long as the host allows.
    set_any(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &RECEIVE_BYTES)
        .or_else(|_| set_any(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &RECEIVE_BYTES))?;
    // SAFETY: integers, for which zero is a value.
    let mut membership: libc::packet_mreq = unsafe { zeroed() };
    membership.mr_ifindex = interface as i32;
    membership.mr_type = libc::PACKET_MR_PROMISC as u16;
    set_any(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
    // SAFETY: as above.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = interface as i32;
    // SAFETY: an address of this length.
    check(unsafe {
        let length = size_of::<libc::sockaddr_ll>() as u32;
        libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), length)
    })?;
    Ok(socket)
}

const PACKET_VNET_HDR: libc::c_int = 15;

fn set_busy(socket: &OwnedFd) -> io::Result<()> {
    const SO_PREFER_BUSY_POLL: libc::c_int = 69;
    const SO_BUSY_POLL_BUDGET: libc::c_int = 70;
    let settings = [(SO_PREFER_BUSY_POLL, 1u32), (libc::SO_BUSY_POLL, 20), (SO_BUSY_POLL_BUDGET, 64)];
    settings.iter().try_for_each(|(name, value)| {
        // SAFETY: an int of ours.
        check(unsafe {
            let value = std::ptr::from_ref(value).cast();
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, *name, value, 4)
        })
        .map(drop)
    })
}

fn set_option<T>(socket: &OwnedFd, name: libc::c_int, value: &T) -> io::Result<()> {
    set_any(socket, libc::SOL_XDP, name, value)
}

fn set_any<T>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the option reads a T.
    check(unsafe {
        let value = std::ptr::from_ref(value).cast();
        libc::setsockopt(socket.as_raw_fd(), level, name, value, size_of::<T>() as u32)
    })
    .map(drop)
}

fn get_option<T>(socket: &OwnedFd, name: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as u32;
    // SAFETY: the option writes a T of integers, and no more than `length`.
    check(unsafe {
        let value = std::ptr::from_mut(value).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_XDP, name, value, &mut length)
    })
    .map(drop)
}

// ---- wire ----

/// Takes a free end of wire `name`, whose memory lies in `dir`. The end is free again when its descriptors are closed.
pub fn open_wire(dir: &Path, name: &str) -> io::Result<Opened> {
    let what = |error: io::Error| io::Error::new(error.kind(), format!("wire '{name}': {error}"));
    let dir = dir.join("wires").join(name);
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(what)?;
    let bells = [bell(&dir.join("bell0")).map_err(what)?, bell(&dir.join("bell1")).map_err(what)?];
    // Two who come at once: one lock for the whole decision.
    let door = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(dir.join("door"))
        .map_err(what)?;
    door.lock().map_err(what)?;
    let taken = [!try_lock(&bells[0]).map_err(what)?, !try_lock(&bells[1]).map_err(what)?];
    let end = match taken {
        [true, true] => return Err(what(io::Error::other("both ends are taken"))),
        [false, _] => 0,
        [true, false] => 1,
    };
    let layout = Layout { queues: 1, capacity: WIRE_RING };
    let fresh = taken == [false, false];
    let memory = wire_memory(&dir.join("memory"), layout, fresh).map_err(what)?;
    let [first, second] = bells;
    let (ours, theirs) = if end == 0 { (first, second) } else { (second, first) };
    if fresh {
        unlock(&theirs).map_err(what)?;
    }
    let mac = [0x02, 0xa7, 0xac, 0x77, 0, 1 + end as u8];
    Ok(Opened {
        queue: Queue::Wire { end, mtu: WIRE_MTU },
        fds: vec![memory, reopen(&theirs).map_err(what)?, ours.into()],
        mac,
    })
}

/// The memory: new when nobody is there, since what the last two left must not be taken for frames.
fn wire_memory(path: &Path, layout: Layout, fresh: bool) -> io::Result<OwnedFd> {
    if fresh {
        let _ = std::fs::remove_file(path);
    }
    let file =
        OpenOptions::new().create(fresh).truncate(false).read(true).write(true).mode(0o600).open(path)?;
    if fresh {
        file.set_len(layout.bytes() as u64)?;
        let mapping = sys::Mapping::new(file.as_fd(), true)?;
        // SAFETY: page-aligned, as long as the layout says; nothing taken from it outlives the mapping.
        unsafe { Link::create(mapping.base, layout) }.map_err(|error| io::Error::other(error.to_string()))?;
    }
    Ok(file.into())
}

/// A named pipe that is always open for both, so that writing never fails for want of a reader.
fn bell(path: &Path) -> io::Result<File> {
    let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(io::Error::other)?;
    // SAFETY: the path is NUL-terminated.
    match check(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    open_bell(path)
}

fn open_bell(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Another description of the same pipe: the lock belongs to a description, and the other end's must not be held here.
fn reopen(bell: &File) -> io::Result<OwnedFd> {
    open_bell(Path::new(&format!("/proc/self/fd/{}", bell.as_raw_fd()))).map(OwnedFd::from)
}

fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(std::fs::TryLockError::WouldBlock) => Ok(false),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

fn unlock(file: &File) -> io::Result<()> {
    file.unlock()
}

// ---- interfaces (netdevice(7)) ----

fn named(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: integers and pointers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::other(format!("'{name}' is no interface's name")));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as _;
    }
    Ok(request)
}

fn ioctl(fd: RawFd, number: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the requests used here read and write an ifreq.
    check(unsafe { libc::ioctl(fd, number as _, std::ptr::from_mut(request)) }).map(drop)
}

fn ask(name: &str, number: libc::c_ulong, mut request: libc::ifreq) -> io::Result<libc::ifreq> {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| UdpSocket::bind(("::1", 0)));
    // A namespace whose loopback is down still has sockets.
    let socket = socket.or_else(|_| UdpSocket::bind(("0.0.0.0", 0)))?;
    ioctl(socket.as_raw_fd(), number, &mut request)
        .map_err(|error| io::Error::new(error.kind(), format!("interface '{name}': {error}")))?;
    Ok(request)
}

fn index(name: &str) -> io::Result<u32> {
    let request = ask(name, libc::SIOCGIFINDEX, named(name)?)?;
    // SAFETY: the request has set it.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex } as u32)
}

fn mtu(name: &str) -> io::Result<u32> {
    let request = ask(name, libc::SIOCGIFMTU, named(name)?)?;
    // SAFETY: the request has set it.
    Ok(unsafe { request.ifr_ifru.ifru_mtu } as u32)
}

fn bring_up(name: &str) -> io::Result<()> {
    let mut request = ask(name, libc::SIOCGIFFLAGS, named(name)?)?;
    let up = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request has set it.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    if flags & up != up {
        request.ifr_ifru.ifru_flags = flags | up;
        ask(name, libc::SIOCSIFFLAGS, request)?;
    }
    Ok(())
}

/// The interface's hardware address.
pub fn hardware_address(name: &str) -> io::Result<[u8; 6]> {
    let request = ask(name, libc::SIOCGIFHWADDR, named(name)?)?;
    // SAFETY: the request has set it.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    Ok(std::array::from_fn(|i| data[i] as u8))
}

/// How many queues an interface receives on; one if its driver does not say.
pub fn receive_queues(name: &str) -> io::Result<u32> {
    const ETHTOOL_GCHANNELS: u32 = 0x3c;
    // struct ethtool_channels: a command; the most of rx, tx, other, combined; as many as are in use.
    let channels = ethtool::<9>(name, ETHTOOL_GCHANNELS)?;
    Ok(channels.map_or(1, |channels| (channels[5] + channels[8]).max(1)))
}

/// The name of the interface's driver, or nothing.
pub(crate) fn driver(name: &str) -> io::Result<String> {
    const ETHTOOL_GDRVINFO: u32 = 3;
    // struct ethtool_drvinfo: a command, then texts of 32 bytes of which the first is the driver.
    let Some(info) = ethtool::<49>(name, ETHTOOL_GDRVINFO)? else { return Ok(String::new()) };
    let text: Vec<u8> = info[1..9].iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(String::from_utf8_lossy(text.split(|&b| b == 0).next().unwrap_or_default()).into_owned())
}

/// Asks the interface's driver: a structure of words, of which the first is the command. `None` if it has no answer.
fn ethtool<const WORDS: usize>(name: &str, command: u32) -> io::Result<Option<[u32; WORDS]>> {
    let mut words = [0; WORDS];
    words[0] = command;
    named(name)?;
    // SAFETY: the callers' commands read and write structures as long as their words.
    Ok(unsafe { ask_driver(name, words.as_mut_ptr().cast()) }.is_ok().then_some(words))
}

/// One request to the interface's driver.
///
/// # Safety
/// `structure` is what its first word, the command, reads and writes.
pub(crate) unsafe fn ask_driver(name: &str, structure: *mut libc::c_char) -> io::Result<()> {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    let mut request = named(name)?;
    request.ifr_ifru.ifru_data = structure;
    ask(name, SIOCETHTOOL, request).map(drop)
}

/// A hardware address for a guest with this address: locally administered, the same at each start.
pub fn mac_for(address: IpAddr) -> [u8; 6] {
    let tail = match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => std::array::from_fn(|i| v6.octets()[12 + i]),
    };
    [0x06, 0xa7, tail[0], tail[1], tail[2], tail[3]]
}

/// The Ethernet address of a guest whose address a DHCP server is to choose: the same each time, so that it gets the
/// same address.
pub fn mac_named(network: &str, guest: &str) -> [u8; 6] {
    // FNV-1a (32 bits)
    let bytes = network.bytes().chain([0]).chain(guest.bytes());
    let hash = bytes.fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [a, b, c, d] = hash.to_be_bytes();
    [0x06, 0xa8, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_users_write() {
        let good = [
            ("xdp:eth0", NicSpec::Xdp("eth0".into(), 0)),
            ("xdp:eth0,queue=3", NicSpec::Xdp("eth0".into(), 3)),
            ("tap:t0,queue=1", NicSpec::Tap("t0".into(), 1)),
            ("wire:a-b.c", NicSpec::Wire("a-b.c".into())),
        ];
        for (text, spec) in good {
            assert_eq!(text.parse(), Ok(spec.clone()));
            assert_eq!(spec.to_string(), text);
        }
        for bad in [
            "",
            "xdp",
            "xdp:",
            "eth0",
            "xdp:eth0,queue=",
            "xdp:a,queue=64",
            "tap:0123456789abcdef",
            "wire:../x",
        ] {
            assert!(bad.parse::<NicSpec>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wire_has_two_ends() {
        let dir = std::env::temp_dir().join(format!("attacca-wire-test-{}", std::process::id()));
        let first = open_wire(&dir, "w").unwrap();
        let second = open_wire(&dir, "w").unwrap();
        assert!(open_wire(&dir, "w").is_err());
        let end = |opened: &Opened| match opened.queue {
            Queue::Wire { end, .. } => end,
            _ => unreachable!(),
        };
        assert_eq!((end(&first), end(&second)), (0, 1));
        drop(first);
        let again = open_wire(&dir, "w").unwrap();
        assert_eq!(end(&again), 0);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
