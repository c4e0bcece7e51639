//! What can go wrong, in the engine's own words. The personality's `errno.rs` maps them to Linux's.

use core::fmt;

/// Why an operation on a socket failed, or why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Nothing to read, no room to write, nobody to accept: try again after an event (EAGAIN).
    WouldBlock,
    /// The handshake has begun (EINPROGRESS).
    InProgress,
    /// A handshake is already under way (EALREADY).
    Already,
    /// The socket is connected (EISCONN).
    Connected,
    /// The socket is not connected (ENOTCONN).
    NotConnected,
    /// No destination was given and none was set (EDESTADDRREQ).
    DestinationRequired,
    /// Writing is over: we shut down, or the connection ended (EPIPE).
    Closed,
    /// The peer answered the handshake with RST, or a datagram with "port unreachable" (ECONNREFUSED).
    Refused,
    /// The peer sent RST (ECONNRESET).
    Reset,
    /// The owner or the stack gave the connection up (ECONNABORTED).
    Aborted,
    /// No answer for too long (ETIMEDOUT).
    TimedOut,
    /// No way to that network (ENETUNREACH).
    NetworkUnreachable,
    /// No way to that host (EHOSTUNREACH).
    HostUnreachable,
    /// The peer's host does not speak that protocol (ENOPROTOOPT).
    ProtocolUnreachable,
    /// A filter on the way forbids it (EACCES), or broadcast without permission.
    Prohibited,
    /// Another socket has that address and port (EADDRINUSE), or no ephemeral port is free for `bind`.
    AddressInUse,
    /// The address is not ours (EADDRNOTAVAIL), or no ephemeral port is free for `connect`.
    AddressUnavailable,
    /// The datagram is larger than can be sent (EMSGSIZE).
    MessageTooLong,
    /// The operation does not fit the socket's state, or the argument is out of range (EINVAL).
    Invalid,
    /// An address of a family that the engine does not carry (EAFNOSUPPORT).
    AddressFamily,
    /// The operation does not exist for this kind of socket (EOPNOTSUPP).
    NotSupported,
    /// The shard's limit of sockets or buffers is reached (ENOBUFS).
    NoBuffers,
    /// The identifier names no socket: it was closed (EBADF; a defect of the owner).
    BadSocket,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::WouldBlock => "would block",
            Error::InProgress => "handshake in progress",
            Error::Already => "handshake already in progress",
            Error::Connected => "already connected",
            Error::NotConnected => "not connected",
            Error::DestinationRequired => "destination required",
            Error::Closed => "closed for writing",
            Error::Refused => "connection refused",
            Error::Reset => "connection reset by peer",
            Error::Aborted => "connection aborted",
            Error::TimedOut => "timed out",
            Error::NetworkUnreachable => "network unreachable",
            Error::HostUnreachable => "host unreachable",
            Error::ProtocolUnreachable => "protocol unreachable",
            Error::Prohibited => "prohibited",
            Error::AddressInUse => "address in use",
            Error::AddressUnavailable => "address not available",
            Error::MessageTooLong => "message too long",
            Error::Invalid => "invalid operation or argument",
            Error::AddressFamily => "address family not supported",
            Error::NotSupported => "operation not supported",
            Error::NoBuffers => "out of sockets or buffers",
            Error::BadSocket => "no such socket",
        })
    }
}

impl core::error::Error for Error {}

/// A result in the engine's words.
/// What an operation gives.
pub type Result<T> = core::result::Result<T, Error>;
