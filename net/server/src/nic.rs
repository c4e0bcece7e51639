//! An opened queue as a device of this process: for the server's uplinks, and for tests. A guest does the same over
//! its own host calls (`guest/src/nic.rs`).

use crate::direct::{Opened, Queue};
use crate::sys::Mapping;
use crate::uplink::inbox::Inbox;
use crate::uplink::tap::TapUplink;
use net::device::host::{Areas, FrameFile, IoError, Kick, RingArea, TAP_HEADER, Tap, Xdp, XdpConfig};
use net::device::{Capabilities, Device, Full, Nic, RxFrame, TxMeta};
use net::ring::{Link, RingDevice, Role};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

/// A device with everything that it lies on.
pub struct HostNic {
    // First: dropped before what it uses.
    device: Box<dyn Nic>,
    mac: [u8; 6],
    wake: RawFd,
    _mappings: Vec<Mapping>,
    _fds: Vec<OwnedFd>,
}

impl HostNic {
    /// Maps the memory of an opened queue and takes it over.
    pub fn new(opened: Opened) -> io::Result<HostNic> {
        let Opened { queue, fds, mac } = opened;
        let (needs, which) = match queue {
            // With the memory for frames that a server has taken, if it is a network's uplink.
            Queue::Tap { .. } => (fds.len().clamp(1, 2), 0),
            Queue::Xdp { .. } => (2, 0),
            Queue::Wire { .. } => (3, 2),
        };
        if fds.len() != needs {
            return Err(io::Error::other("an opened queue lacks descriptors"));
        }
        let mut mappings = Vec::new();
        let raw = fds[0].as_raw_fd();
        let device: Box<dyn Nic> = match queue {
            Queue::Tap { mtu, segmentation } => {
                let tap = Tap::new(Box::new(HostFile(raw)), mtu as usize, segmentation, Some(mac));
                match fds.get(1) {
                    Some(memory) => {
                        Box::new(TapUplink::new(tap, Box::new(HostFile(raw)), Inbox::open(memory)?))
                    }
                    None => Box::new(tap),
                }
            }
            Queue::Xdp { mtu, frames, entries, offsets, partial, busy, .. } => {
                let areas = map_xdp(&fds, entries, &offsets, &mut mappings)?;
                let config = XdpConfig { frames, entries, mtu: mtu as usize, mac: Some(mac), partial, busy };
                // SAFETY: mapped just now with these sizes; unmapped after the device (field order).
                // Another server may have used it before us.
                let device = unsafe { Xdp::resume(areas, config, Box::new(HostKick(raw))) };
                Box::new(device.map_err(|error| io::Error::other(error.to_string()))?)
            }
            Queue::Wire { end, mtu } => {
                mappings.push(Mapping::new(fds[0].as_fd(), true)?);
                let bell = fds[1].as_raw_fd();
                let role = if end == 0 { Role::Guest } else { Role::Server };
                let ring = Box::new(move || ring_pipe(bell));
                let broken = |error: net::ring::LinkError| io::Error::other(error.to_string());
                // SAFETY: mapped above, unmapped after the device; the lock on our bell says that this end is ours.
                unsafe {
                    let link = Link::open(mappings[0].base, mappings[0].len).map_err(broken)?;
                    Box::new(RingDevice::new(link, role, 0, mtu as usize, ring).map_err(broken)?)
                }
            }
        };
        Ok(HostNic { device, mac, wake: fds[which].as_raw_fd(), _mappings: mappings, _fds: fds })
    }

    /// A packet socket as a device that receives alone: with each frame's header, in memory that outlives us.
    pub fn strays(fds: Vec<OwnedFd>) -> io::Result<HostNic> {
        let [socket, memory] = &fds[..] else {
            return Err(io::Error::other("a packet socket lacks descriptors"));
        };
        let raw = socket.as_raw_fd();
        let unused = Tap::new(Box::new(PacketFile(raw)), 0, false, None);
        let device = Box::new(TapUplink::new(unused, Box::new(PacketFile(raw)), Inbox::open(memory)?));
        Ok(HostNic { device, mac: [0; 6], wake: raw, _mappings: Vec::new(), _fds: fds })
    }

    /// The descriptor that becomes readable when frames come.
    pub fn wake_fd(&self) -> RawFd {
        self.wake
    }

    /// Takes the ring's bell back (a wire's: a TAP queue or AF_XDP socket has none).
    pub fn silence(&mut self) {
        if self._fds.len() == 3 {
            let mut bytes = [0u8; 64];
            // SAFETY: memory of ours.
            unsafe { libc::read(self.wake, bytes.as_mut_ptr().cast(), bytes.len()) };
        }
    }
}

/// What mmap(2) on an AF_XDP socket takes for each ring (if_xdp.h), in the order of [`Queue::Xdp`]'s offsets.
pub const RING_OFFSETS: [u64; 4] = [0, 0x8000_0000, 0x1_0000_0000, 0x1_8000_0000];

/// Bytes of a ring's mapping: its entries lie last. Descriptors have 16 bytes, addresses 8.
pub fn ring_bytes(which: usize, entries: u32, offsets: &[u64; 4]) -> usize {
    offsets[3] as usize + entries as usize * if which < 2 { 16 } else { 8 }
}

fn map_xdp(
    fds: &[OwnedFd],
    entries: u32,
    offsets: &[[u64; 4]; 4],
    mappings: &mut Vec<Mapping>,
) -> io::Result<Areas> {
    for (which, offset) in RING_OFFSETS.iter().enumerate() {
        let len = ring_bytes(which, entries, &offsets[which]);
        mappings.push(Mapping::at_offset(fds[0].as_fd(), len, *offset)?);
    }
    mappings.push(Mapping::new(fds[1].as_fd(), true)?);
    let ring = |which: usize| RingArea {
        base: mappings[which].base,
        producer: offsets[which][0] as usize,
        consumer: offsets[which][1] as usize,
        flags: offsets[which][2] as usize,
        entries: offsets[which][3] as usize,
    };
    Ok(Areas { rx: ring(0), tx: ring(1), fill: ring(2), completion: ring(3), frames: mappings[4].base })
}

/// Writes a byte into a wire's bell. A full pipe wakes as well as any.
fn ring_pipe(fd: RawFd) {
    // SAFETY: one byte of ours.
    unsafe { libc::write(fd, [1u8].as_ptr().cast(), 1) };
}

/// What an errno of a queue means to its device.
pub fn io_error(error: &io::Error) -> IoError {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR | libc::ENOMEM) => IoError::Again,
        // A network's own NIC: there is no other way, and it may be taken up again.
        Some(libc::ENETDOWN) => IoError::Down,
        Some(libc::ENXIO | libc::EIO | libc::ENODEV | libc::EBADFD | libc::EBADF) => IoError::Gone,
        _ => IoError::Refused,
    }
}

struct HostFile(RawFd);

impl FrameFile for HostFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, IoError> {
        // SAFETY: memory of ours of this length.
        let result = unsafe { libc::read(self.0, buffer.as_mut_ptr().cast(), buffer.len()) };
        usize::try_from(result).map_err(|_| io_error(&io::Error::last_os_error()))
    }

    fn write(&mut self, frame: &[u8]) -> Result<(), IoError> {
        // SAFETY: memory of ours of this length.
        let result = unsafe { libc::write(self.0, frame.as_ptr().cast(), frame.len()) };
        if result < 0 { Err(io_error(&io::Error::last_os_error())) } else { Ok(()) }
    }
}

/// A packet socket with PACKET_VNET_HDR, as a TAP queue: its header is `struct virtio_net_hdr`, two bytes shorter.
struct PacketFile(RawFd);

impl FrameFile for PacketFile {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, IoError> {
        const SHORTER: usize = 2;
        let len = HostFile(self.0).read(&mut buffer[SHORTER..])?;
        buffer.copy_within(SHORTER..TAP_HEADER, 0);
        buffer[TAP_HEADER - SHORTER..TAP_HEADER].fill(0);
        Ok(len + SHORTER)
    }

    fn write(&mut self, _: &[u8]) -> Result<(), IoError> {
        Err(IoError::Refused) // Guests' frames go out over the NIC's queues.
    }
}

struct HostKick(RawFd);

impl HostKick {
    fn done(result: isize) -> Result<(), IoError> {
        if result < 0 { Err(io_error(&io::Error::last_os_error())) } else { Ok(()) }
    }
}

impl Kick for HostKick {
    fn transmit(&mut self) -> Result<(), IoError> {
        // SAFETY: no memory.
        Self::done(unsafe {
            libc::sendto(self.0, std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
        })
    }

    fn receive(&mut self) -> Result<(), IoError> {
        // SAFETY: no memory.
        Self::done(unsafe {
            let none = std::ptr::null_mut();
            libc::recvfrom(self.0, none, 0, libc::MSG_DONTWAIT, none.cast(), none.cast())
        })
    }
}

impl Device for HostNic {
    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn mac(&self) -> Option<[u8; 6]> {
        Some(self.mac)
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        self.device.receive(budget, sink)
    }

    fn transmit(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        self.device.transmit(len, meta, fill)
    }

    fn flush(&mut self) {
        self.device.flush();
    }
}

impl Nic for HostNic {
    fn has_frames(&mut self) -> bool {
        self.device.has_frames()
    }

    fn announce_sleep(&mut self) -> bool {
        self.device.announce_sleep()
    }

    fn awake(&mut self) {
        self.device.awake();
    }

    fn is_alive(&self) -> bool {
        self.device.is_alive()
    }

    fn is_sent(&mut self) -> bool {
        self.device.is_sent()
    }
}
