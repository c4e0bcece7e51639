//! The one map from the engines' words to Linux error numbers.
//!
//! `fs` and `net` answer in enums of their own; each gets a `From` here, written by whoever brings
//! the engine in. What is internal to the personality stands here too: the restart codes.

use crate::Errno;

/// A result in an engine's words, turned into Linux's: `shard.tcp_listen(id, 5).linux()?`.
pub trait Linux<T> {
    /// The same with an error number.
    fn linux(self) -> crate::Result<T>;
}

impl<T> Linux<T> for Result<T, net::Error> {
    fn linux(self) -> crate::Result<T> {
        self.map_err(of_net)
    }
}

/// The error number for the network engine's word (net/src/error.rs names them).
pub fn of_net(error: net::Error) -> Errno {
    use net::Error;
    match error {
        Error::WouldBlock => Errno::EAGAIN,
        Error::InProgress => Errno::EINPROGRESS,
        Error::Already => Errno::EALREADY,
        Error::Connected => Errno::EISCONN,
        Error::NotConnected => Errno::ENOTCONN,
        Error::DestinationRequired => Errno::EDESTADDRREQ,
        Error::Closed => Errno::EPIPE,
        Error::Refused => Errno::ECONNREFUSED,
        Error::Reset => Errno::ECONNRESET,
        Error::Aborted => Errno::ECONNABORTED,
        Error::TimedOut => Errno::ETIMEDOUT,
        Error::NetworkUnreachable => Errno::ENETUNREACH,
        Error::HostUnreachable => Errno::EHOSTUNREACH,
        Error::ProtocolUnreachable => Errno::ENOPROTOOPT,
        Error::Prohibited => Errno::EACCES,
        Error::AddressInUse => Errno::EADDRINUSE,
        Error::AddressUnavailable => Errno::EADDRNOTAVAIL,
        Error::MessageTooLong => Errno::EMSGSIZE,
        Error::Invalid => Errno::EINVAL,
        Error::AddressFamily => Errno::EAFNOSUPPORT,
        Error::NotSupported => Errno::EOPNOTSUPP,
        Error::NoBuffers => Errno::ENOBUFS,
        Error::BadSocket => Errno::EBADF,
    }
}

/// A wait was cut short by a signal, and the call may simply be made again: if the signal's handler
/// has SA_RESTART (or no handler runs) it is, else the program sees EINTR. As Linux's ERESTARTSYS,
/// it never leaves the personality.
pub const RESTART: Errno = Errno(512);
/// As [`RESTART`], but made again only if no handler ran: calls with timeouts and those that
/// signal(7) lists as never restarted (ERESTARTNOHAND).
pub const RESTART_NO_HANDLER: Errno = Errno(514);

/// Whether the error asks for a restart decision.
pub const fn wants_restart(errno: Errno) -> bool {
    matches!(errno.0, 512 | 514)
}
