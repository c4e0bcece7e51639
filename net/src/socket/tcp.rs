//! TCP sockets: what a program can do with one.

use core::net::IpAddr;

use platform::time::Instant;

use super::{Bind, Endpoint, SocketId};
use crate::engine::congestion::Algorithm;
use crate::error::{Error, Result};
use crate::shard::{Refusal, Shard};

bitflags::bitflags! {
    /// How to send or receive.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct TcpFlags: u8 {
        /// Receive: leave the data in the queue (MSG_PEEK).
        const PEEK = 1;
        /// Send: more will follow at once, hold back a partial segment (MSG_MORE).
        const MORE = 2;
    }
}

/// Which direction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// No more reading: waiting data is dropped, what arrives later is taken and dropped.
    Read,
    /// No more writing: FIN after what is queued.
    Write,
    /// Both.
    Both,
}

/// State of a connection (RFC 9293 section 3.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the RFC's names
#[repr(u8)]
pub enum TcpState {
    Closed,
    Listen,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
}

/// One option to set. Times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpOption {
    /// TCP_NODELAY: do not hold back small segments (Nagle, RFC 1122 section 4.2.3.4). Setting it sends.
    NoDelay(bool),
    /// TCP_CORK: send only full segments, 200 ms at most. Clearing it sends.
    Cork(bool),
    /// SO_KEEPALIVE.
    KeepAlive(bool),
    /// TCP_KEEPIDLE.
    KeepIdle(u32),
    /// TCP_KEEPINTVL.
    KeepInterval(u32),
    /// TCP_KEEPCNT.
    KeepCount(u8),
    /// TCP_USER_TIMEOUT; 0 for the default.
    UserTimeout(u32),
    /// SO_LINGER as far as the engine is concerned: `Some(0)` makes `close` reset. Waiting is the owner's.
    Linger(Option<u32>),
    /// SO_SNDBUF: fixes the size and ends automatic growth.
    SendBuffer(usize),
    /// SO_RCVBUF: fixes the size and ends automatic growth.
    ReceiveBuffer(usize),
    /// TCP_MAXSEG.
    MaxSegment(u16),
    /// TCP_QUICKACK: acknowledge at once, until the connection turns interactive again.
    QuickAck(bool),
    /// SO_RCVLOWAT: readable only with so many bytes.
    ReceiveLowAt(u32),
    /// TCP_DEFER_ACCEPT: hand out a connection only when data came, or after so long; 0 for off.
    DeferAccept(u32),
    /// TCP_SYNCNT: retransmissions of a SYN.
    SynCount(u8),
    /// TCP_LINGER2: how long an orphan stays in FIN-WAIT-2.
    Linger2(u32),
    /// TCP_CONGESTION.
    Congestion(Algorithm),
    /// TCP_NOTSENT_LOWAT: writable only while fewer unsent bytes are queued; `u32::MAX` for off.
    NotSentLowAt(u32),
    /// IP_TTL.
    HopLimit(u8),
    /// IP_TOS.
    TrafficClass(u8),
}

/// The options as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in TcpOption
pub struct TcpOptions {
    pub no_delay: bool,
    pub cork: bool,
    pub keep_alive: bool,
    pub keep_idle: u32,
    pub keep_interval: u32,
    pub keep_count: u8,
    pub user_timeout: u32,
    pub linger: Option<u32>,
    pub send_buffer: usize,
    pub receive_buffer: usize,
    pub max_segment: u16,
    pub quick_ack: bool,
    pub receive_low_at: u32,
    pub defer_accept: u32,
    pub syn_count: u8,
    pub linger2: u32,
    pub congestion: Algorithm,
    pub not_sent_low_at: u32,
    pub hop_limit: u8,
    pub traffic_class: u8,
}

/// The state of a connection in numbers (TCP_INFO, SIOCINQ, SIOCOUTQ).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    /// Its state.
    pub state: TcpState,
    /// Unacknowledged retransmissions in a row.
    pub retransmits: u8,
    /// Unanswered probes (keep-alive, zero window).
    pub probes: u8,
    /// Timestamps are in use (RFC 7323).
    pub timestamps: bool,
    /// Selective acknowledgements are permitted (RFC 2018).
    pub sack: bool,
    /// Window shift of the peer's advertisements and of ours, if scaling is in use.
    pub window_scale: Option<(u8, u8)>,
    /// Retransmission timeout, microseconds.
    pub rto_us: u32,
    /// Smoothed round trip and its variation, microseconds; 0 before the first sample.
    pub rtt_us: u32,
    /// Variation of the round trip.
    pub rtt_var_us: u32,
    /// Largest payload that we send in a segment.
    pub send_mss: u16,
    /// Largest payload seen in a segment from the peer.
    pub receive_mss: u16,
    /// Congestion window, bytes.
    pub cwnd: u32,
    /// Slow start threshold, bytes.
    pub ssthresh: u32,
    /// Bytes sent and not acknowledged.
    pub in_flight: u32,
    /// Bytes queued and not yet sent.
    pub not_sent: u32,
    /// Bytes to read.
    pub receive_queue: u32,
    /// The peer's window.
    pub send_window: u32,
    /// The window that we advertise.
    pub receive_window: u32,
    /// Path MTU.
    pub path_mtu: u16,
    /// Segments retransmitted since the start.
    pub total_retransmits: u32,
    /// Payload bytes acknowledged by the peer.
    pub bytes_acked: u64,
    /// Payload bytes received in order.
    pub bytes_received: u64,
}

impl Shard {
    /// Makes a TCP socket.
    pub fn tcp_open(&mut self) -> Result<SocketId> {
        todo!()
    }

    /// Claims a local endpoint. Port 0: a free one is chosen ([`Shard::local`] tells which).
    pub fn tcp_bind(&mut self, _id: SocketId, _local: Endpoint, _bind: Bind) -> Result<()> {
        todo!()
    }

    /// Becomes a listener, or changes the backlog of one. Unbound sockets get an ephemeral port.
    pub fn tcp_listen(&mut self, _id: SocketId, _backlog: usize) -> Result<()> {
        todo!()
    }

    /// Begins the handshake. `Err(InProgress)` is the ordinary outcome: an event with `WRITABLE` or `ERROR`
    /// follows. The source is what `tcp_bind` claimed (with [`Bind::transparent`] any address), else ours.
    pub fn tcp_connect(&mut self, _id: SocketId, _remote: Endpoint, _now: Instant) -> Result<()> {
        todo!()
    }

    /// Takes an established connection from a listener's queue. The new socket inherits the options; its
    /// cookie is 0 until the owner sets one, and it may already be readable: ask [`Shard::ready`].
    pub fn tcp_accept(&mut self, _id: SocketId) -> Result<(SocketId, Endpoint)> {
        todo!()
    }

    /// Admits an [`crate::Incoming`]: the SYN is answered now.
    pub fn tcp_admit(&mut self, _id: SocketId, _cookie: u64) -> Result<()> {
        todo!()
    }

    /// Turns an [`crate::Incoming`] down.
    pub fn tcp_refuse(&mut self, _id: SocketId, _why: Refusal) {
        todo!()
    }

    /// Queues bytes; returns how many were taken (at least one, unless `data` is empty).
    pub fn tcp_send(&mut self, _id: SocketId, _data: &[u8], _flags: TcpFlags) -> Result<usize> {
        todo!()
    }

    /// As [`Self::tcp_send`] from several pieces: what fits.
    pub fn tcp_send_vectored<'a>(
        &mut self,
        _id: SocketId,
        _pieces: impl Iterator<Item = &'a [u8]>,
        _flags: TcpFlags,
    ) -> Result<usize> {
        todo!()
    }

    /// Lets `fill` write into the send queue in place, piece by piece (file to socket without a copy
    /// between), `max` bytes at most. `fill` returns how many bytes of the piece it wrote; fewer than all
    /// ends it.
    pub fn tcp_send_with(
        &mut self,
        _id: SocketId,
        _max: usize,
        _flags: TcpFlags,
        _fill: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> Result<usize> {
        todo!()
    }

    /// Copies received bytes out. `Ok(0)` for a non-empty `data` is the end of the stream.
    pub fn tcp_recv(&mut self, _id: SocketId, _data: &mut [u8], _flags: TcpFlags) -> Result<usize> {
        todo!()
    }

    /// Shows received bytes in place, piece by piece, `max` at most. `take` returns how many bytes of the
    /// piece it used; fewer than all ends it. With `PEEK` nothing leaves the queue.
    pub fn tcp_recv_with(
        &mut self,
        _id: SocketId,
        _max: usize,
        _flags: TcpFlags,
        _take: &mut dyn FnMut(&[u8]) -> usize,
    ) -> Result<usize> {
        todo!()
    }

    /// Ends a direction. A listener shut down for reading stops listening, as on Linux.
    pub fn tcp_shutdown(&mut self, _id: SocketId, _how: Shutdown) -> Result<()> {
        todo!()
    }

    /// Resets the connection now and forgets the socket.
    pub fn tcp_abort(&mut self, _id: SocketId) {
        todo!()
    }

    /// Sets an option.
    pub fn tcp_set(&mut self, _id: SocketId, _option: TcpOption) -> Result<()> {
        todo!()
    }

    /// The options.
    pub fn tcp_options(&self, _id: SocketId) -> Result<TcpOptions> {
        todo!()
    }

    /// The connection in numbers.
    pub fn tcp_info(&self, _id: SocketId) -> Result<TcpInfo> {
        todo!()
    }
}

#[allow(dead_code)]
fn unused(_: IpAddr, _: Error) {}
