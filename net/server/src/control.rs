//! Control messages: JSON over SOCK_SEQPACKET, descriptors beside it. A message from a guest is
//! hostile until parsed; one that does not parse ends its connection and nothing else.

use crate::direct::{NicSpec, Queue};
use crate::{GuestRequest, Limits, Publish, sys};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// Version of the messages between supervisor and server, which may be of two builds of Attacca.
pub(crate) const ORDERS_VERSION: u32 = 4;

/// To the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Join the network. The connection is the membership: closing it leaves.
    Attach(GuestRequest),
    /// What there is, as JSON.
    Status,
    /// Move a guest to a direct queue (of this NIC, or of the network's), or back to the server.
    Switch { guest: String, direct: bool, nic: Option<NicSpec> },
    /// How a guest reaches the network, since when and why.
    Explain(String),
    /// Have a guest send copies of its frames to the socket that comes along.
    Capture(String),
    /// Let the standby take over.
    Restart,
    /// Let a server take over that is this program.
    Upgrade(PathBuf),
    /// For tests: have the server do something bad.
    Fault(Fault),
    /// Take the network down.
    Stop,
}

/// What a server does on request, so that tests see what becomes of its guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Fault {
    /// It panics.
    Panic,
    /// It runs for ever without doing anything.
    Loop,
    /// It waits for ever.
    Block,
    /// It goes mad: random bytes all over the rings in which guests receive. Then it dies.
    Scribble,
}

/// From the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Joined; with descriptors: link, to_server, to_guest.
    Attached(Place),
    /// Done. (A status comes as a memfd.)
    Done,
    /// Done, and this is to be said.
    Said(String),
    /// Not done, and why.
    Failed(String),
}

/// A guest's place in the network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) mac: [u8; 6],
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
    pub(crate) gateway: Option<IpAddr>,
    #[serde(default)]
    pub(crate) dhcp: bool,
    #[serde(default)]
    pub(crate) address6: Option<(Ipv6Addr, u8)>,
    #[serde(default)]
    pub(crate) gateway6: Option<Ipv6Addr>,
    /// Addresses come from the link's routers.
    #[serde(default)]
    pub(crate) auto6: bool,
    pub(crate) dns: Option<IpAddr>,
    /// The only neighbour, see [`crate::Attached::peer_mac`].
    pub(crate) peer_mac: Option<[u8; 6]>,
    pub(crate) mtu: u32,
    pub(crate) ephemeral: (u16, u16),
    pub(crate) claims: bool,
    pub(crate) limits: Limits,
    /// Its line on the board.
    pub(crate) slot: u32,
    pub(crate) publish: Vec<Publish>,
}

impl Place {
    /// The addresses that are the guest's from the start.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = Some(self.address).filter(|address| !address.is_unspecified());
        v4.into_iter().chain(self.address6.map(|(address, _)| IpAddr::V6(address)))
    }
}

/// What a server's uplink is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Uplink {
    /// Host sockets; the Ethernet address by which the gateway is known to guests.
    Host([u8; 6]),
    /// A NIC's queue, whose descriptors come along.
    Nic(Queue, [u8; 6]),
}

/// From the supervisor to its server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// The first. With descriptors: port map, board, a bell to the supervisor, then the uplink's.
    Hello {
        version: u32,
        /// The network and its prefix length.
        network: (Ipv4Addr, u8),
        uplink: Uplink,
        /// The last two of its descriptors are a packet socket, for what reaches no queue of ours, and its memory.
        strays: bool,
    },
    /// Serve a guest; with descriptors: link, to_server, to_guest, its process, then one for each
    /// published port.
    Add(u32, Box<Place>),
    /// Forget it.
    Remove(u32),
    /// Begin: until now this was a standby. Sent when no other server can run any more.
    Go,
    /// For tests.
    Fault(Fault),
    /// End: another one takes over.
    Quit,
    /// End when the guests that remain have ended: the network is taken down.
    Finish,
}

pub(crate) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    sys::send(socket, &serde_json::to_vec(message)?, fds)
}

/// The next message; `None` when the peer has closed.
pub(crate) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let (bytes, fds) = sys::receive(socket)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes)?, fds)))
}

/// As [`send`], without waiting: a receiver that stands still must not hold us up (EAGAIN).
pub(crate) fn post<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    sys::post(socket, &serde_json::to_vec(message)?, fds)
}

/// The entry for fuzzers: bytes are read as each kind of message. What parses is written and read again,
/// and must come out the same; nothing may panic.
pub fn fuzz_control(bytes: &[u8]) {
    fn twice<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
        let Ok(message) = serde_json::from_slice::<T>(bytes) else { return };
        let written = serde_json::to_vec(&message).expect("what was parsed can be written");
        let again = serde_json::from_slice::<T>(&written).expect("what was written can be parsed");
        assert_eq!(serde_json::to_vec(&again).expect("as above"), written);
    }
    twice::<Request>(bytes);
    twice::<Reply>(bytes);
    twice::<Order>(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn samples() -> Vec<Vec<u8>> {
        let publish = Publish { host: "[::1]:80".parse().unwrap(), guest_port: 8080, udp: true };
        let request = GuestRequest {
            name: "nginx-1".into(),
            publish: vec![publish],
            address: Some("10.0.2.15".parse().unwrap()),
            queues: 4,
            ..GuestRequest::default()
        };
        let place = crate::supervisor::testing::place(&[]).0;
        vec![
            serde_json::to_vec(&Request::Attach(request)).unwrap(),
            serde_json::to_vec(&Reply::Attached(place.clone())).unwrap(),
            serde_json::to_vec(&Reply::Failed("no".into())).unwrap(),
            serde_json::to_vec(&Order::Add(7, Box::new(place))).unwrap(),
            serde_json::to_vec(&Request::Upgrade("/usr/bin/attacca".into())).unwrap(),
        ]
    }

    /// A bounded form of `fuzz/`: mutated messages, each time by one of the ways that find most.
    #[test]
    fn mutated_messages_harm_nobody() {
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below.max(1)
        };
        let samples = samples();
        for sample in &samples {
            fuzz_control(sample);
        }
        for _ in 0..50_000 {
            let mut bytes = samples[random(samples.len())].clone();
            for _ in 0..1 + random(3) {
                let at = random(bytes.len());
                match random(5) {
                    0 => bytes[at] = random(256) as u8,
                    1 => bytes.truncate(at),
                    2 => bytes.insert(at, br#"{}[]",:-9eE.\u"#[random(14)]),
                    3 => drop(bytes.splice(at..at, b"99999999999999999999".iter().copied())),
                    _ => {
                        let part = bytes[at..(at + random(40)).min(bytes.len())].to_vec();
                        drop(bytes.splice(at..at, part));
                    }
                }
                if bytes.is_empty() {
                    break;
                }
            }
            fuzz_control(&bytes);
        }
    }

    #[test]
    fn a_message_that_does_not_parse_is_an_error_and_one_too_long_as_well() {
        let (ours, theirs) = sys::seqpacket_pair().unwrap();
        for bytes in [&b"{"[..], b"\xff\xfe", b"{\"Attach\":{}}", b"[[[[[[[["] {
            sys::send(ours.as_fd(), bytes, &[]).unwrap();
            assert!(receive::<Request>(theirs.as_fd()).is_err());
        }
        sys::send(ours.as_fd(), &vec![b' '; sys::MAX_MESSAGE + 1], &[]).unwrap();
        assert!(receive::<Request>(theirs.as_fd()).is_err());
        // Deep nesting is refused by the parser, not by the end of the stack.
        sys::send(ours.as_fd(), &vec![b'['; sys::MAX_MESSAGE], &[]).unwrap();
        assert!(receive::<Request>(theirs.as_fd()).is_err());
        drop(ours);
        assert!(receive::<Request>(theirs.as_fd()).unwrap().is_none());
    }
}
