//! The words that a guest and its network's supervisor exchange while the guest runs: fixed little-endian
//! messages over the SOCK_SEQPACKET socket that the guest keeps, one message for each record, descriptors
//! beside it (SCM_RIGHTS).
//!
//! A message is a header (version, kind, request number) and a body whose length its kind fixes. Whoever
//! reads trusts nothing: a record of another version, kind, length or with a value that no writer produces
//! is an [`Error`], and ends that guest's connection and nothing else. An answer repeats the number of the
//! request that it answers; what is no answer and wants none has number 0.
//!
//! Only bytes: who sends them, when, and what a refusal means is `netserver`'s and the guest's business.

use crate::ring::{ADDRESSES, Peer};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Version of these messages. A side that finds another one does not guess.
pub const VERSION: u16 = 1;
/// No message is longer.
pub const MAX_MESSAGE: usize = 256;
const HEADER: usize = 8;

/// From a guest to its supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToSupervisor {
    /// The guest wants a port of its address. Answered by [`ToGuest::Granted`] or [`ToGuest::Refused`].
    Bind(Claim),
    /// It needs the port no more. Not answered.
    Unbind(Claim),
    /// Frames for this group are wanted. Not answered.
    Joined(IpAddr),
    /// They are wanted no more.
    Left(IpAddr),
    /// The guest has got an address for some time (DHCP, SLAAC). Granted or refused. With 0 seconds it has it no
    /// more; not answered.
    Lease {
        /// The address.
        address: IpAddr,
        /// Length of its network's prefix.
        prefix: u8,
        /// Seconds that it may be used; `u32::MAX` for ever.
        seconds: u32,
    },
    /// The device was changed; the request number is that of [`ToGuest::GoDirect`] or
    /// [`ToGuest::GoServer`], or 0 if the guest fell back by itself.
    Switched {
        /// What it uses from now on.
        mode: Mode,
        /// From the last frame moved by the old device to the first poll of the new one.
        gap_ns: u64,
        /// CLOCK_MONOTONIC at that poll.
        at_ns: u64,
    },
    /// The device stayed.
    SwitchFailed {
        /// Linux's reason.
        errno: i32,
        /// What could not be done.
        stage: Stage,
    },
    /// Answer to [`ToGuest::Report`].
    Counters(Counters),
    /// The first message on a new connection, after the supervisor has died: the guest comes back to the
    /// network of the same name. With descriptors: link, bell of the server, bell of the guest. Answered
    /// by [`ToGuest::Granted`] or [`ToGuest::Refused`].
    Rejoin {
        /// Its Ethernet address.
        mac: [u8; 6],
        /// Its address.
        address: IpAddr,
        /// The name it has in the network, NUL-padded.
        name: Name,
        /// Ports that it took for sockets that chose none.
        ephemeral: (u16, u16),
    },
    /// The server does not move although frames wait for it. The supervisor looks for itself.
    Stuck {
        /// [`crate::ring::Link::server_heartbeat`] as the guest sees it.
        heartbeat: u64,
    },
    /// Many frames go to this address: if it is another guest's, a shortcut to it would pay. Not answered but by
    /// [`ToGuest::Shortcut`].
    Frequents(IpAddr),
    /// The other end of this shortcut wrote nonsense: it is not used any more.
    ShortcutBroken(u32),
}

/// From the supervisor to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToGuest {
    /// Yes.
    Granted,
    /// No, and Linux's reason.
    Refused(i32),
    /// Use a NIC queue of your own; its descriptors come with the message (which ones: the device's
    /// module says). Answered by [`ToSupervisor::Switched`] or [`ToSupervisor::SwitchFailed`].
    GoDirect(Direct),
    /// Use the ring to the server. Answered likewise.
    GoServer,
    /// A new server has begun its life: a hint, the link's header says the same.
    ServerChanged {
        /// [`crate::ring::Link::server_generation`].
        generation: u64,
    },
    /// The link was replaced; with descriptors: link, bell of the server, bell of the guest.
    NewLink,
    /// Answer with [`ToSupervisor::Counters`].
    Report,
    /// The network is taken down. The guest runs on without.
    Shutdown,
    /// Send a copy of each frame to the socket that comes with the message ([`capture`]). Not answered: whoever
    /// reads there hears, or finds it closed.
    Capture,
    /// Frames to another guest go over a link of your own from now on ([`crate::ring::Shortcuts`]). With
    /// descriptors: link, bell of the other guest, own bell.
    Shortcut(Shortcut),
    /// This shortcut is no more.
    ShortcutGone(u32),
}

/// Records at a capture's socket: a header of [`capture::HEADER`] bytes, and a frame or words.
pub mod capture {
    use super::Mode;

    /// Bytes of the header: time (CLOCK_MONOTONIC in ns), records lost before this one, kind, mode, whether the
    /// frame was sent, and a zero.
    pub const HEADER: usize = 16;

    /// What follows the header.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Kind {
        /// A frame.
        Frame,
        /// What happened to the guest's devices, in words.
        Event,
    }

    /// A header.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Header {
        /// CLOCK_MONOTONIC.
        pub at_ns: u64,
        /// Records for which there was no room, since the capture began.
        pub lost: u32,
        /// What follows.
        pub kind: Kind,
        /// The device's.
        pub mode: Mode,
        /// By the guest.
        pub sent: bool,
    }

    impl Header {
        /// As bytes.
        pub fn encode(&self) -> [u8; HEADER] {
            let mut bytes = [0; HEADER];
            bytes[..8].copy_from_slice(&self.at_ns.to_le_bytes());
            bytes[8..12].copy_from_slice(&self.lost.to_le_bytes());
            bytes[12..15].copy_from_slice(&[self.kind as u8, self.mode as u8, self.sent.into()]);
            bytes
        }

        /// From a record; what follows. `None`: no writer makes such a one.
        pub fn decode(record: &[u8]) -> Option<(Header, &[u8])> {
            let (head, rest) = record.split_first_chunk::<HEADER>()?;
            let at_ns = u64::from_le_bytes(*head.first_chunk()?);
            let lost = u32::from_le_bytes(head[8..12].try_into().ok()?);
            let kind = *[Kind::Frame, Kind::Event].get(usize::from(head[12]))?;
            let mode = *[Mode::Server, Mode::Direct].get(usize::from(head[13]))?;
            let sent = *[false, true].get(usize::from(head[14]))?;
            Some((Header { at_ns, lost, kind, mode, sent }, rest))
        }
    }
}

/// A port of an address, for one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// TCP or UDP.
    pub proto: Proto,
    /// Never 0.
    pub port: u16,
    /// The address, or the unspecified one for all of the guest's.
    pub address: IpAddr,
}

/// What has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// How a guest reaches its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Over the ring.
    Server,
    /// Over a queue of its own.
    Direct,
}

/// Where a change of devices failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The message or its descriptors.
    Descriptors,
    /// Mapping memory.
    Map,
    /// Setting the device up.
    Open,
    /// Watching it for frames.
    Watch,
    /// The device went away while it was used.
    Use,
}

/// Which direct device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A TAP queue with virtio-net header.
    Tap,
    /// An AF_XDP socket.
    Xdp,
    /// Rings shared with another guest.
    Wire,
}

/// A direct device in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direct {
    /// Which kind.
    pub kind: DeviceKind,
    /// Descriptors beside the message.
    pub descriptors: u8,
    /// The device's own Ethernet address; the guest's if it does not change.
    pub mac: [u8; 6],
    /// Queue of the device.
    pub queue: u32,
    /// Largest IP packet.
    pub mtu: u32,
    /// [`OFFLOAD_CHECKSUM`] and its neighbours.
    pub offloads: u32,
    /// What only this kind of device understands (frame counts, ring sizes).
    pub parameters: [u32; 8],
}

/// The device fills and checks TCP and UDP checksums.
pub const OFFLOAD_CHECKSUM: u32 = 1;
/// The device cuts super-segments of TCP over IPv4 and IPv6.
pub const OFFLOAD_TSO: u32 = 2;
/// The device may hand over merged segments.
pub const OFFLOAD_GRO: u32 = 4;
/// The device's MAC differs: the guest announces its addresses (gratuitous ARP, unsolicited NA).
pub const ANNOUNCE: u32 = 8;

/// A shortcut in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortcut {
    /// Its number in the network.
    pub id: u32,
    /// This guest's end: 0 sends into the first ring.
    pub end: u32,
    /// Who is at the other.
    pub peer: Peer,
}

/// Stands in a message for an address that is not there.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What a guest counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames received and sent, over the ring and over direct devices.
    pub frames: [u64; 4],
    /// Bytes in the same order.
    pub bytes: [u64; 4],
    /// Received frames that were of no use.
    pub drops: u64,
    /// TCP segments sent again.
    pub retransmissions: u64,
    /// Changes of the device.
    pub switches: u64,
    /// New servers met.
    pub recoveries: u64,
    /// Silence of the last change or new server.
    pub last_gap_ns: u64,
    /// Nanoseconds of processor time.
    pub cpu_ns: u64,
}

/// A guest's name in a message: letters, digits, `-_.`, NUL-padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name([u8; 64]);

impl Name {
    /// `None` if it is too long or has other characters.
    pub fn new(name: &[u8]) -> Option<Name> {
        let fits = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
        if name.is_empty() || name.len() > 64 || !name.iter().all(fits) {
            return None;
        }
        let mut bytes = [0; 64];
        bytes[..name.len()].copy_from_slice(name);
        Some(Name(bytes))
    }

    /// Its characters.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(64);
        core::str::from_utf8(&self.0[..len]).unwrap_or("")
    }
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Of another version of Attacca.
    Version(u16),
    /// A kind that this direction does not have.
    Kind(u16),
    /// Shorter or longer than its kind is.
    Length,
    /// A field holds what no writer produces.
    Value,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Error::Version(v) => write!(f, "a control message of version {v}, this program knows {VERSION}"),
            Error::Kind(kind) => write!(f, "a control message of unknown kind {kind}"),
            Error::Length => f.write_str("a control message of a wrong length"),
            Error::Value => f.write_str("a control message with an impossible value"),
        }
    }
}

/// A message as bytes.
#[derive(Clone, Copy, Debug)]
pub struct Encoded {
    bytes: [u8; MAX_MESSAGE],
    len: usize,
}

impl Encoded {
    /// What goes over the socket.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl ToSupervisor {
    /// The message with this request number.
    pub fn encode(&self, request: u32) -> Encoded {
        use ToSupervisor::*;
        match *self {
            Bind(claim) => Writer::new(1, request).claim(claim),
            Unbind(claim) => Writer::new(2, request).claim(claim),
            Joined(group) => Writer::new(3, request).addr(group),
            Left(group) => Writer::new(4, request).addr(group),
            Lease { address, prefix, seconds } => {
                Writer::new(5, request).addr(address).u32(prefix.into()).u32(seconds)
            }
            Switched { mode, gap_ns, at_ns } => {
                Writer::new(6, request).u32(mode as u32).u32(0).u64(gap_ns).u64(at_ns)
            }
            SwitchFailed { errno, stage } => Writer::new(7, request).u32(errno as u32).u32(stage as u32),
            Counters(c) => {
                let head = c.frames.iter().chain(&c.bytes);
                let writer = head.fold(Writer::new(8, request), |w, &word| w.u64(word));
                let rest = [c.drops, c.retransmissions, c.switches, c.recoveries, c.last_gap_ns, c.cpu_ns];
                rest.iter().fold(writer, |w, &word| w.u64(word))
            }
            Rejoin { mac, address, name, ephemeral } => Writer::new(9, request)
                .addr(address)
                .put(&mac)
                .put(&[0; 2])
                .put(&name.0)
                .u32(ephemeral.0.into())
                .u32(ephemeral.1.into()),
            Stuck { heartbeat } => Writer::new(10, request).u64(heartbeat),
            Frequents(address) => Writer::new(11, request).addr(address),
            ShortcutBroken(id) => Writer::new(12, request).u32(id),
        }
        .end()
    }

    /// Reads one record: the request number and the message.
    pub fn decode(bytes: &[u8]) -> Result<(u32, ToSupervisor), Error> {
        let (kind, request, mut r) = Reader::new(bytes)?;
        let message = match kind {
            1 => ToSupervisor::Bind(r.claim()?),
            2 => ToSupervisor::Unbind(r.claim()?),
            3 => ToSupervisor::Joined(r.addr()?),
            4 => ToSupervisor::Left(r.addr()?),
            5 => {
                let (address, prefix, seconds) = (r.addr()?, r.u32()?, r.u32()?);
                let longest = if address.is_ipv4() { 32 } else { 128 };
                let prefix = u8::try_from(prefix).ok().filter(|&p| p <= longest).ok_or(Error::Value)?;
                ToSupervisor::Lease { address, prefix, seconds }
            }
            6 => {
                let mode = one_of(&[Mode::Server, Mode::Direct], r.u32()?)?;
                r.padding()?;
                ToSupervisor::Switched { mode, gap_ns: r.u64()?, at_ns: r.u64()? }
            }
            7 => {
                let errno = r.errno()?;
                let stages = [Stage::Descriptors, Stage::Map, Stage::Open, Stage::Watch, Stage::Use];
                ToSupervisor::SwitchFailed { errno, stage: one_of(&stages, r.u32()?)? }
            }
            8 => ToSupervisor::Counters(r.counters()?),
            9 => {
                let (address, mac) = (r.addr()?, r.take()?);
                if r.take::<2>()? != [0; 2] {
                    return Err(Error::Value);
                }
                let name = r.name()?;
                let ephemeral = (r.port()?, r.port()?);
                ToSupervisor::Rejoin { mac, address, name, ephemeral }
            }
            10 => ToSupervisor::Stuck { heartbeat: r.u64()? },
            11 => ToSupervisor::Frequents(r.addr()?),
            12 => ToSupervisor::ShortcutBroken(r.u32()?),
            _ => return Err(Error::Kind(kind)),
        };
        r.end()?;
        Ok((request, message))
    }
}

impl ToGuest {
    /// The message with this request number.
    pub fn encode(&self, request: u32) -> Encoded {
        use ToGuest::*;
        match *self {
            Granted => Writer::new(1, request),
            Refused(errno) => Writer::new(2, request).u32(errno as u32),
            GoDirect(d) => {
                let head = Writer::new(3, request)
                    .put(&[d.kind as u8, d.descriptors])
                    .put(&d.mac)
                    .u32(d.queue)
                    .u32(d.mtu)
                    .u32(d.offloads);
                d.parameters.iter().fold(head, |w, &word| w.u32(word))
            }
            GoServer => Writer::new(4, request),
            ServerChanged { generation } => Writer::new(5, request).u64(generation),
            NewLink => Writer::new(6, request),
            Report => Writer::new(7, request),
            Shutdown => Writer::new(8, request),
            Capture => Writer::new(9, request),
            Shortcut(s) => {
                let head = Writer::new(10, request).u32(s.id).u32(s.end).put(&s.peer.mac).put(&[0; 2]);
                s.peer.addresses.iter().fold(head, |w, address| w.addr(address.unwrap_or(NO_ADDRESS)))
            }
            ShortcutGone(id) => Writer::new(11, request).u32(id),
        }
        .end()
    }

    /// Reads one record: the request number and the message.
    pub fn decode(bytes: &[u8]) -> Result<(u32, ToGuest), Error> {
        let (kind, request, mut r) = Reader::new(bytes)?;
        let message = match kind {
            1 => ToGuest::Granted,
            2 => ToGuest::Refused(r.errno()?),
            3 => {
                let [kind, descriptors] = r.take()?;
                let kinds = [DeviceKind::Tap, DeviceKind::Xdp, DeviceKind::Wire];
                let kind = one_of(&kinds, kind.into())?;
                let (mac, queue, mtu, offloads) = (r.take()?, r.u32()?, r.u32()?, r.u32()?);
                let mut parameters = [0; 8];
                for word in &mut parameters {
                    *word = r.u32()?;
                }
                ToGuest::GoDirect(Direct { kind, descriptors, mac, queue, mtu, offloads, parameters })
            }
            4 => ToGuest::GoServer,
            5 => ToGuest::ServerChanged { generation: r.u64()? },
            6 => ToGuest::NewLink,
            7 => ToGuest::Report,
            8 => ToGuest::Shutdown,
            9 => ToGuest::Capture,
            10 => {
                let (id, end, mac) = (r.u32()?, one_of(&[0, 1], r.u32()?)?, r.take()?);
                if r.take::<2>()? != [0; 2] {
                    return Err(Error::Value);
                }
                let mut addresses = [None; ADDRESSES];
                for place in &mut addresses {
                    let address = Some(r.addr()?).filter(|address| *address != NO_ADDRESS);
                    *place = match address {
                        Some(address) if address.is_unspecified() => return Err(Error::Value),
                        address => address,
                    };
                }
                ToGuest::Shortcut(Shortcut { id, end, peer: Peer { mac, addresses } })
            }
            11 => ToGuest::ShortcutGone(r.u32()?),
            _ => return Err(Error::Kind(kind)),
        };
        r.end()?;
        Ok((request, message))
    }
}

struct Writer(Encoded);

impl Writer {
    fn new(kind: u16, request: u32) -> Writer {
        let empty = Writer(Encoded { bytes: [0; MAX_MESSAGE], len: 0 });
        empty.put(&VERSION.to_le_bytes()).put(&kind.to_le_bytes()).u32(request)
    }

    fn put(mut self, bytes: &[u8]) -> Writer {
        let Encoded { bytes: to, len } = &mut self.0;
        to[*len..*len + bytes.len()].copy_from_slice(bytes);
        *len += bytes.len();
        self
    }

    fn u32(self, word: u32) -> Writer {
        self.put(&word.to_le_bytes())
    }

    fn u64(self, word: u64) -> Writer {
        self.put(&word.to_le_bytes())
    }

    /// 16 bytes; an IPv4 address as the IPv6 one that maps it (RFC 4291, 2.5.5.2).
    fn addr(self, addr: IpAddr) -> Writer {
        let v6 = match addr {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        self.put(&v6.octets())
    }

    fn claim(self, claim: Claim) -> Writer {
        self.addr(claim.address).u32(claim.proto as u32).u32(claim.port.into())
    }

    fn end(self) -> Encoded {
        self.0
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<(u16, u32, Reader<'a>), Error> {
        if bytes.len() < HEADER {
            return Err(Error::Length);
        }
        let mut r = Reader(bytes);
        let version = u16::from_le_bytes(r.take()?);
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let kind = u16::from_le_bytes(r.take()?);
        let request = r.u32()?;
        Ok((kind, request, r))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Error::Length)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.take().map(u64::from_le_bytes)
    }

    fn padding(&mut self) -> Result<(), Error> {
        if self.u32()? == 0 { Ok(()) } else { Err(Error::Value) }
    }

    /// Linux's numbers end at 4095 (MAX_ERRNO); 0 is no reason.
    fn errno(&mut self) -> Result<i32, Error> {
        let word = self.u32()?;
        if (1..4096).contains(&word) { Ok(word as i32) } else { Err(Error::Value) }
    }

    fn addr(&mut self) -> Result<IpAddr, Error> {
        let v6 = Ipv6Addr::from(self.take::<16>()?);
        Ok(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), |v4: Ipv4Addr| IpAddr::V4(v4)))
    }

    fn port(&mut self) -> Result<u16, Error> {
        u16::try_from(self.u32()?).map_err(|_| Error::Value)
    }

    fn claim(&mut self) -> Result<Claim, Error> {
        let address = self.addr()?;
        let proto = one_of(&[Proto::Tcp, Proto::Udp], self.u32()?)?;
        match self.port()? {
            0 => Err(Error::Value),
            port => Ok(Claim { proto, port, address }),
        }
    }

    fn name(&mut self) -> Result<Name, Error> {
        let bytes = self.take::<64>()?;
        let len = bytes.iter().position(|&b| b == 0).unwrap_or(64);
        let name = Name::new(&bytes[..len]).ok_or(Error::Value)?;
        if name.0 == bytes { Ok(name) } else { Err(Error::Value) }
    }

    fn counters(&mut self) -> Result<Counters, Error> {
        let mut words = [0; 14];
        for word in &mut words {
            *word = self.u64()?;
        }
        let [a, b, c, d, e, f, g, h, drops, retransmissions, switches, recoveries, last_gap_ns, cpu_ns] =
            words;
        let (frames, bytes) = ([a, b, c, d], [e, f, g, h]);
        Ok(Counters { frames, bytes, drops, retransmissions, switches, recoveries, last_gap_ns, cpu_ns })
    }

    fn end(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Length) }
    }
}

fn one_of<T: Copy>(all: &[T], index: u32) -> Result<T, Error> {
    all.get(index as usize).copied().ok_or(Error::Value)
}

/// The entry for fuzzers: what can be read is written again, and must be the same bytes; nothing may
/// panic.
pub fn fuzz_messages(bytes: &[u8]) {
    if let Ok((request, message)) = ToSupervisor::decode(bytes) {
        assert_eq!(message.encode(request).bytes(), bytes);
    }
    if let Ok((request, message)) = ToGuest::decode(bytes) {
        assert_eq!(message.encode(request).bytes(), bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn samples() -> Vec<Encoded> {
        let v4: IpAddr = "10.0.2.15".parse().unwrap();
        let v6: IpAddr = "fd00::15".parse().unwrap();
        let claim = Claim { proto: Proto::Udp, port: 53, address: v4 };
        let counters = Counters { frames: [1, 2, 3, 4], cpu_ns: 14, ..Counters::default() };
        let direct = Direct {
            kind: DeviceKind::Xdp,
            descriptors: 2,
            mac: [2, 1, 2, 3, 4, 5],
            queue: 3,
            mtu: 1500,
            offloads: OFFLOAD_CHECKSUM | ANNOUNCE,
            parameters: [9; 8],
        };
        let name = Name::new(b"redis-1").unwrap();
        let up = [
            ToSupervisor::Bind(claim),
            ToSupervisor::Unbind(Claim { address: v6, proto: Proto::Tcp, ..claim }),
            ToSupervisor::Joined("224.0.0.251".parse().unwrap()),
            ToSupervisor::Left("ff02::fb".parse().unwrap()),
            ToSupervisor::Lease { address: v4, prefix: 24, seconds: 3600 },
            ToSupervisor::Switched { mode: Mode::Direct, gap_ns: 1, at_ns: 2 },
            ToSupervisor::SwitchFailed { errno: 19, stage: Stage::Use },
            ToSupervisor::Counters(counters),
            ToSupervisor::Rejoin { mac: [2; 6], address: v6, name, ephemeral: (32768, 60999) },
            ToSupervisor::Stuck { heartbeat: 7 },
            ToSupervisor::Frequents(v6),
            ToSupervisor::ShortcutBroken(3),
        ];
        let addresses = [Some(v4), Some(v6), None, None];
        let shortcut = Shortcut { id: 3, end: 1, peer: Peer { mac: [2; 6], addresses } };
        let down = [
            ToGuest::Granted,
            ToGuest::Refused(98),
            ToGuest::GoDirect(direct),
            ToGuest::GoServer,
            ToGuest::ServerChanged { generation: 3 },
            ToGuest::NewLink,
            ToGuest::Report,
            ToGuest::Shutdown,
            ToGuest::Capture,
            ToGuest::Shortcut(shortcut),
            ToGuest::ShortcutGone(3),
        ];
        for message in up {
            assert_eq!(ToSupervisor::decode(message.encode(5).bytes()), Ok((5, message)));
        }
        for message in down {
            assert_eq!(ToGuest::decode(message.encode(6).bytes()), Ok((6, message)));
        }
        up.iter().map(|m| m.encode(1)).chain(down.iter().map(|m| m.encode(2))).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        samples();
    }

    #[test]
    fn records_of_captures_are_read_as_written() {
        use super::capture::{HEADER, Header, Kind};
        let header = Header { at_ns: 7 << 40, lost: 3, kind: Kind::Event, mode: Mode::Direct, sent: true };
        let record = [&header.encode()[..], b"words"].concat();
        assert_eq!(Header::decode(&record), Some((header, &b"words"[..])));
        assert_eq!(Header::decode(&record[..HEADER - 1]), None);
        for at in 12..15 {
            let mut bad = record.clone();
            bad[at] = 2;
            assert_eq!(Header::decode(&bad), None);
        }
    }

    #[test]
    fn refuses_other_lengths_versions_and_values() {
        let good = ToGuest::Refused(98).encode(1);
        let mut longer = good.bytes().to_vec();
        longer.push(0);
        assert_eq!(ToGuest::decode(&longer), Err(Error::Length));
        assert_eq!(ToGuest::decode(&good.bytes()[..11]), Err(Error::Length));
        assert_eq!(ToGuest::decode(&[]), Err(Error::Length));
        let mut other = good.bytes().to_vec();
        other[0] = 9;
        assert_eq!(ToGuest::decode(&other), Err(Error::Version(9)));
        other[0] = 1;
        other[8..12].fill(0);
        assert_eq!(ToGuest::decode(&other), Err(Error::Value));
    }

    /// A bounded form of `fuzz/`.
    #[test]
    fn mutated_messages_harm_nobody() {
        let samples = samples();
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below.max(1)
        };
        for _ in 0..200_000 {
            let mut bytes = samples[random(samples.len())].bytes().to_vec();
            for _ in 0..1 + random(4) {
                let at = random(bytes.len());
                match random(4) {
                    0 => bytes.truncate(at),
                    1 => bytes.push(random(256) as u8),
                    _ if bytes.is_empty() => break,
                    _ => bytes[at] = random(256) as u8,
                }
            }
            fuzz_messages(&bytes);
        }
    }
}
