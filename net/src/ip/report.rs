//! What an ICMP error of either family says about a packet of ours.

use core::net::IpAddr;

use crate::error::Error;

/// An error message, read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    /// Who sent the message.
    pub(crate) from: IpAddr,
    /// Of the packet it is about.
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) src_port: u16,
    pub(crate) dst_port: u16,
    /// TCP: the sequence number that was quoted.
    pub(crate) seq: u32,
    pub(crate) what: Trouble,
    /// Type and code of the message, for error queues.
    pub(crate) kind: (u8, u8),
    /// Bytes of the message before what it quotes of the upper protocol's data.
    pub(crate) data_at: usize,
}

/// The trouble it reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Packets of more than so many bytes do not pass (RFC 1191, RFC 8201).
    TooBig(u16),
    /// `hard`: there is no use in trying again (RFC 1122 section 4.2.3.9).
    Error {
        /// In the owner's words.
        error: Error,
        /// Aborts a handshake.
        hard: bool,
    },
}

/// Why a packet cannot be delivered, for the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    Network,
    Host,
    Protocol,
    Port,
    Prohibited,
}

impl Unreachable {
    /// The code of an ICMP "destination unreachable".
    pub(crate) fn code_v4(self) -> u8 {
        match self {
            Unreachable::Network => 0,
            Unreachable::Host => 1,
            Unreachable::Protocol => 2,
            Unreachable::Port => 3,
            Unreachable::Prohibited => 13,
        }
    }

    /// The code of an ICMPv6 "destination unreachable".
    pub(crate) fn code_v6(self) -> u8 {
        match self {
            Unreachable::Network => 0,
            Unreachable::Prohibited => 1,
            Unreachable::Host | Unreachable::Protocol => 3,
            Unreachable::Port => 4,
        }
    }
}
