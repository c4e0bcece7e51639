//! Direct devices in a guest: what was opened with privileges elsewhere becomes a device here, over descriptors and
//! the host calls that need none. `netserver::nic` does the same for ordinary processes.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use net::control::{DeviceKind, Direct, OFFLOAD_TSO};
use net::device::Nic;
use net::device::host::{
    Areas, FrameFile, IoError, Kick, RingArea, Tap, WIRE_END, XDP_BUSY, XDP_ENTRIES, XDP_FLAGS, XDP_FRAMES,
    XDP_PARTIAL, Xdp, XdpConfig,
};
use net::ring::{Link, RingDevice, Role};
use platform::errno::{Errno, Result};
use platform::host;
use sched::host_fd::{self, HostReady, WatchId};
use syscalls::net_device::{Backend, Parts};
use syscalls::net_poll;

/// A device, and what it was made of.
pub(crate) struct Opened {
    pub(crate) device: Box<dyn Nic>,
    pub(crate) parts: Parts,
}

/// Makes the device. Takes the descriptors over: they are closed if this fails, or when the device goes.
pub(crate) fn open(direct: &Direct, fds: Vec<i32>, backend: &mut Backend) -> Result<Opened> {
    let mut regions = Vec::new();
    let made = make(direct, &fds, backend, &mut regions).and_then(|device| {
        let bell = if direct.kind == DeviceKind::Wire { 2 } else { 0 };
        let watch = watch(fds[bell], direct.kind)?;
        Ok((device, watch))
    });
    match made {
        Ok((device, watch)) => {
            let close = Box::new(move || {
                host_fd::unwatch(watch);
                close_all(&fds);
            });
            Ok(Opened { device, parts: Parts { regions, close } })
        }
        Err(error) => {
            backend.unmap(&regions);
            close_all(&fds);
            Err(error)
        }
    }
}

/// Has frames to an address of ours come to our queue, or no more: in the map that the interface's XDP program asks
/// (`netserver::bpf::Rule`). The queue is the one that the rule for DHCP's answers names, which is there from the
/// start.
pub(crate) fn steer(rules: i32, address: IpAddr, add: bool) {
    const LOOKUP: usize = 1;
    const UPDATE: usize = 2;
    const DELETE: usize = 3;
    let key = |address: IpAddr, port: u16, protocol: u8| -> [u8; 20] {
        let mut key = [0; 20];
        key[..16].copy_from_slice(&match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        });
        key[16..18].copy_from_slice(&port.to_be_bytes());
        key[18] = protocol;
        key
    };
    let mut queue = 0u32;
    let call = |command: usize, key: &[u8; 20], value: &mut u32| {
        // union bpf_attr of the element commands: map, key, value, flags.
        let attr = [rules as u32 as u64, key.as_ptr() as u64, &raw mut *value as u64, 0];
        // SAFETY: the attributes name a key and a value of ours, as long as the map's are.
        unsafe { host!(bpf, command, attr.as_ptr(), size_of_val(&attr)) }
    };
    let answers = key(Ipv4Addr::BROADCAST.into(), 68, 17);
    let own = key(address, 0, 0);
    let done = match call(LOOKUP, &answers, &mut queue) {
        Ok(_) if add => call(UPDATE, &own, &mut queue),
        Ok(_) => call(DELETE, &own, &mut queue),
        Err(error) => Err(error),
    };
    if let Err(error) = done
        && add
    {
        crate::message::note(format_args!("frames to {address} cannot be steered to this guest: {error}"));
    }
}

fn close_all(fds: &[i32]) {
    fds.iter().for_each(|&fd| crate::control::close(fd));
}

fn make(direct: &Direct, fds: &[i32], backend: &mut Backend, regions: &mut Vec<u64>) -> Result<Box<dyn Nic>> {
    let needed = match direct.kind {
        DeviceKind::Tap => 1,
        DeviceKind::Xdp => 2,
        DeviceKind::Wire => 3,
    };
    if fds.len() != needed {
        return Err(Errno::EBADF);
    }
    let mtu = direct.mtu as usize;
    let mac = Some(direct.mac);
    let mut map = |fd: i32, len: usize, offset: u64| -> Result<*mut u8> {
        let (id, address) = backend.map(fd, len, offset)?;
        regions.push(id);
        Ok(address as *mut u8)
    };
    match direct.kind {
        DeviceKind::Tap => {
            let segmentation = direct.offloads & OFFLOAD_TSO != 0;
            Ok(Box::new(Tap::new(Box::new(HostFile(fds[0])), mtu, segmentation, mac)))
        }
        DeviceKind::Xdp => {
            let flags = direct.parameters[XDP_FLAGS];
            let config = XdpConfig {
                frames: direct.parameters[XDP_FRAMES],
                entries: direct.parameters[XDP_ENTRIES],
                mtu,
                mac,
                partial: flags & XDP_PARTIAL != 0,
                busy: flags & XDP_BUSY != 0,
            };
            let areas = map_xdp(fds, &config, &mut map)?;
            // SAFETY: mapped just now with these sizes, in every process before it uses the device; the mappings
            // go after it.
            let device = unsafe { Xdp::attach(areas, config, Box::new(HostKick(fds[0]))) };
            Ok(Box::new(device.map_err(|_| Errno::EINVAL)?))
        }
        DeviceKind::Wire => {
            let len = size(fds[0])?;
            let base = map(fds[0], len, 0)?;
            let role = if direct.parameters[WIRE_END] == 0 { Role::Guest } else { Role::Server };
            let bell = fds[1];
            let ring = Box::new(move || ring(bell));
            // SAFETY: as above; the lock on our bell says that this end is ours.
            let device = unsafe {
                let link = Link::open(base, len).map_err(|_| Errno::EINVAL)?;
                RingDevice::new(link, role, 0, mtu, ring).map_err(|_| Errno::EINVAL)?
            };
            Ok(Box::new(device))
        }
    }
}

/// Bytes of a memory descriptor.
pub(crate) fn size(fd: i32) -> Result<usize> {
    const SEEK_END: usize = 2;
    // SAFETY: no memory arguments.
    unsafe { host!(lseek, fd, 0, SEEK_END) }
}

type MapFn<'a> = &'a mut dyn FnMut(i32, usize, u64) -> Result<*mut u8>;

/// Asks the socket where its rings are, and maps them: rx, tx, fill, completion.
fn map_xdp(fds: &[i32], config: &XdpConfig, map: MapFn<'_>) -> Result<Areas> {
    const SOL_XDP: usize = 283;
    const XDP_MMAP_OFFSETS: usize = 1;
    const PLACES: [u64; 4] = [0, 0x8000_0000, 0x1_0000_0000, 0x1_8000_0000];
    // struct xdp_mmap_offsets: for each ring producer, consumer, entries, flags.
    let mut offsets = [[0u64; 4]; 4];
    let mut len = size_of_val(&offsets) as u32;
    // SAFETY: 128 bytes of ours.
    unsafe { host!(getsockopt, fds[0], SOL_XDP, XDP_MMAP_OFFSETS, &raw mut offsets, &raw mut len)? };
    if len as usize != size_of_val(&offsets) {
        return Err(Errno::EPROTO);
    }
    let mut ring = |which: usize| -> Result<RingArea> {
        let [producer, consumer, entries, flags] = offsets[which].map(|offset| offset as usize);
        let bytes = entries + config.entries as usize * if which < 2 { 16 } else { 8 };
        let base = map(fds[0], bytes.next_multiple_of(4096), PLACES[which])?;
        Ok(RingArea { base, producer, consumer, flags, entries })
    };
    let (rx, tx, fill, completion) = (ring(0)?, ring(1)?, ring(2)?, ring(3)?);
    let bytes = config.frames as usize * net::device::host::FRAME_BYTES;
    if size(fds[1])? < bytes {
        return Err(Errno::EINVAL);
    }
    Ok(Areas { rx, tx, fill, completion, frames: map(fds[1], bytes, 0)? })
}

/// Writes one byte, which wakes whoever polls the other end.
fn ring(fd: i32) {
    let one = 1u8;
    // SAFETY: a byte of ours. A full pipe wakes as well as any.
    let _ = unsafe { host!(write, fd, &raw const one, 1) };
}

fn watch(fd: i32, kind: DeviceKind) -> Result<WatchId> {
    let pipe = kind == DeviceKind::Wire;
    host_fd::watch(fd, host_fd::IN | host_fd::EDGE, Arc::new(Frames { fd, pipe }))
}

/// Frames are there. (Edge-triggered: the poll before each sleep looks for frames itself.)
struct Frames {
    fd: i32,
    pipe: bool,
}

impl HostReady for Frames {
    fn ready(&self, _events: u32) {
        if self.pipe {
            let mut bytes = [0u8; 64];
            // SAFETY: 64 bytes of ours.
            let _ = unsafe { host!(read, self.fd, bytes.as_mut_ptr(), bytes.len()) };
        }
        net_poll::poll();
    }
}

/// What an errno of a queue means to its device (tun.c, xsk.c).
fn io_error(error: Errno) -> IoError {
    match error {
        Errno::EAGAIN | Errno::EBUSY | Errno::ENOBUFS | Errno::EINTR | Errno::ENOMEM => IoError::Again,
        Errno::ENXIO | Errno::ENETDOWN | Errno::EIO | Errno::ENODEV | Errno::EBADFD | Errno::EBADF => {
            IoError::Gone
        }
        _ => IoError::Refused,
    }
}

struct HostFile(i32);

impl FrameFile for HostFile {
    fn read(&mut self, buffer: &mut [u8]) -> core::result::Result<usize, IoError> {
        // SAFETY: memory of ours of this length; the descriptor does not block.
        unsafe { host!(read, self.0, buffer.as_mut_ptr(), buffer.len()) }.map_err(io_error)
    }

    fn write(&mut self, frame: &[u8]) -> core::result::Result<(), IoError> {
        // SAFETY: as above.
        unsafe { host!(write, self.0, frame.as_ptr(), frame.len()) }.map(drop).map_err(io_error)
    }
}

struct HostKick(i32);

const MSG_DONTWAIT: usize = 0x40;

impl Kick for HostKick {
    fn transmit(&mut self) -> core::result::Result<(), IoError> {
        // SAFETY: no memory.
        unsafe { host!(sendto, self.0, 0, 0, MSG_DONTWAIT, 0, 0) }.map(drop).map_err(io_error)
    }

    fn receive(&mut self) -> core::result::Result<(), IoError> {
        // SAFETY: no memory.
        unsafe { host!(recvfrom, self.0, 0, 0, MSG_DONTWAIT, 0, 0) }.map(drop).map_err(io_error)
    }
}
