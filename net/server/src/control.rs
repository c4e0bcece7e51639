//! Control messages: JSON over SOCK_SEQPACKET, descriptors beside it. A message from a guest is
//! hostile until parsed; one that does not parse ends its connection and nothing else.

use crate::{GuestRequest, Publish, sys};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

/// To the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Join the network. The connection is the membership: closing it leaves.
    Attach(GuestRequest),
}

/// From the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Joined; with descriptors: link, to_server, to_guest.
    Attached(Place),
    /// Not joined, and why.
    Failed(String),
}

/// A guest's place in the network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) mac: [u8; 6],
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
    pub(crate) gateway: IpAddr,
    pub(crate) gateway_mac: [u8; 6],
    pub(crate) mtu: u32,
    pub(crate) publish: Vec<Publish>,
}

/// From the supervisor to its server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Serve a guest; with descriptors: link, to_server, to_guest, then one for each published port.
    Add(u32, Place),
    /// Forget it.
    Remove(u32),
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
