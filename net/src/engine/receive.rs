//! What a segment does to a connection, in the order of RFC 9293 section 3.10.7, with the checks of
//! RFC 5961 and RFC 7323.

use alloc::boxed::Box;

use super::congestion::Congestion;
use super::fast_open::is_its_syn;
use super::recovery::FIRST_ACK_DELAY_MS;
use super::segment::{Control, Segment, SynOptions};
use super::seq::Seq;
use super::tcb::{Ctx, Flags, NEAR_SNDBUF, Now, T_ACK, T_KEEP, T_RESEND, Tcb, ago};
use crate::error::Error;
use crate::shard::Ready;
use crate::socket::tcp::TcpState;

bitflags::bitflags! {
    /// What the table around the connection must do now.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Act: u8 {
        /// Something wants to be sent.
        const SEND = 1;
        /// A passive connection was established.
        const ESTABLISHED = 2;
        /// The connection enters TIME-WAIT.
        const TIME_WAIT = 4;
        /// The connection is over.
        const CLOSED = 8;
        /// The answer to our SYN told of its sender what later ones may need (`fast_open.rs`).
        const LEARNED = 16;
        /// Its place in the tables changes.
        const CHANGED = 2 | 4 | 8 | 16;
    }
}

/// How long an acknowledgement waits for data to go with it.
pub(crate) const DELAYED_ACK_MS: u64 = 40;
/// ts_recent is not compared after so long a silence (RFC 7323 section 5.5): 24 days.
const PAWS_IDLE: u64 = (24 * 86_400_000) >> 10;
/// Least time between acknowledgements of segments without data outside of the window.
const OUT_OF_WINDOW_MS: u64 = 500;
/// What a receive buffer has at least once it grows: two send buffers of a near peer and more. With less, a peer that keeps
/// one of them in flight waits for each window update while the reader still takes the flight before.
const LEAST_GROWN: u32 = 2 * NEAR_SNDBUF + (256 << 10);
/// Segments that arrived out of order are each acknowledged, so many at most before the next sending.
const MAX_ACKS_OWED: u8 = 64;

impl Tcb {
    /// A segment for this connection arrived.
    pub(crate) fn segment(&mut self, segment: &Segment<'_>, ctx: &mut Ctx<'_>) -> Act {
        match self.state {
            TcpState::Closed | TcpState::Listen | TcpState::TimeWait => Act::empty(),
            TcpState::SynSent => self.in_syn_sent(segment, ctx),
            _ => self.in_order_of_the_rfc(segment, ctx),
        }
    }

    fn in_order_of_the_rfc(&mut self, segment: &Segment<'_>, ctx: &mut Ctx<'_>) -> Act {
        self.segments_in = self.segments_in.wrapping_add(1);
        if !segment.payload.is_empty() {
            self.data_segments_in = self.data_segments_in.wrapping_add(1);
        }
        if !self.acceptable(segment, ctx) {
            return Act::SEND;
        }
        if segment.has(Control::RST) {
            return self.reset_arrived(segment, ctx);
        }
        if segment.has(Control::SYN) {
            self.repeat_handshake(segment, ctx);
            return Act::SEND;
        }
        if !segment.has(Control::ACK) {
            return Act::empty();
        }
        let mut act = Act::empty();
        if self.state == TcpState::SynReceived {
            let right = match self.is_early() {
                true => !segment.ack.before(self.snd_una) && !segment.ack.after(self.snd_nxt),
                false => segment.ack == self.snd_nxt,
            };
            if !right {
                ctx.replies.reset_for(&self.key, segment);
                return Act::SEND;
            }
            act |= self.establish(segment, ctx);
        }
        self.remember_timestamp(segment, ctx);
        if self.has(Flags::ECN) {
            self.congestion_bits(segment);
        }
        self.last_heard_ms = ctx.now.ms as u32;
        self.probes = 0;
        match self.acknowledge(segment, ctx) {
            Some(more) => act |= more,
            None => return act | Act::SEND,
        }
        if matches!(self.state, TcpState::Closed | TcpState::TimeWait) {
            return act;
        }
        if segment.has(Control::URG) || self.has(Flags::URGENT) {
            self.urgent(segment);
        }
        if !segment.payload.is_empty() || segment.has(Control::FIN) {
            act |= self.text(segment, ctx);
        }
        act
    }

    /// RFC 3168 section 6.1: what the network says to us, and what the peer says that it said to it.
    fn congestion_bits(&mut self, segment: &Segment<'_>) {
        if segment.has(Control::CWR) {
            self.flags -= Flags::ECHO_CONGESTION;
        }
        if segment.marked {
            if !self.has(Flags::ECHO_CONGESTION) {
                self.flags |= Flags::ACK_NOW;
            }
            self.flags |= Flags::ECHO_CONGESTION;
        }
        if segment.has(Control::ECE) && segment.ack.after(self.snd_una) {
            self.extra_mut().delivered_marked += 1;
            self.reduce_once();
        }
    }

    /// Steps 1 and PAWS: whether the segment lies in the window. If not, the peer is told where we are.
    fn acceptable(&mut self, segment: &Segment<'_>, ctx: &mut Ctx<'_>) -> bool {
        let old = self.has(Flags::TIMESTAMPS)
            && segment.timestamp.is_some_and(|(value, _)| (value.wrapping_sub(self.ts_recent) as i32) < 0)
            && (ctx.now.ms >> 10) - u64::from(self.ts_recent_at) < PAWS_IDLE;
        let outside = segment.end().before(self.last_ack) || segment.seq.after(self.rcv_adv);
        if (!old || segment.has(Control::RST)) && !outside {
            return true;
        }
        ctx.pool.counters.paws_estab += u64::from(old);
        if !segment.has(Control::RST) {
            if segment.has(Control::SYN) {
                self.repeat_handshake(segment, ctx);
            } else if !segment.payload.is_empty() && segment.end().at_most(self.rcv_nxt) && !old {
                self.arrived_twice(segment.seq, segment.seq + segment.payload.len() as u32, ctx);
                self.owe_ack();
            } else if segment.len() > 0 || self.may_answer_old(ctx.now.ms) {
                self.owe_ack();
            }
        }
        false
    }

    /// RFC 2883: the peer learns that it sent in vain, if it was not longer ago than a window.
    fn arrived_twice(&mut self, from: Seq, to: Seq, ctx: &mut Ctx<'_>) {
        if self.has(Flags::SACK) && self.is_synchronized() && self.rcv_nxt.since(from) <= 1 << 20 {
            self.reassembly.get_or_insert_with(Box::default).duplicate = Some((from, to));
            ctx.pool.counters.dsacks_sent += 1;
        }
    }

    /// Segments without data outside of the window are answered now and then.
    fn may_answer_old(&mut self, now_ms: u64) -> bool {
        let last = &mut self.extra_mut().challenge_ms;
        let may = *last == 0 || now_ms >= *last + OUT_OF_WINDOW_MS;
        if may {
            *last = now_ms.max(1);
        }
        may
    }

    /// A SYN for a connection that exists: in SYN-RECEIVED the peer may not have our SYN-ACK; otherwise it
    /// may be forged, or from a peer that has forgotten us, and our ACK tells which (RFC 5961 section 4).
    fn repeat_handshake(&mut self, segment: &Segment<'_>, ctx: &mut Ctx<'_>) {
        let its_syn = segment.seq + 1 == self.rcv_nxt || is_its_syn(self, segment.seq);
        if self.state == TcpState::SynReceived && its_syn && !self.has(Flags::ACTIVE) {
            if !self.has(Flags::HELD) {
                self.flags |= Flags::SEND_SYN;
            }
        } else {
            self.challenge(ctx);
        }
    }

    /// Step 2: RST (RFC 5961 section 3).
    fn reset_arrived(&mut self, segment: &Segment<'_>, ctx: &mut Ctx<'_>) -> Act {
        if segment.seq != self.rcv_nxt {
            return self.challenge(ctx);
        }
        let error = match self.state {
            TcpState::SynReceived if self.has(Flags::ACTIVE) => Error::Refused,
            TcpState::CloseWait => Error::Closed,
            _ => Error::Reset,
        };
        self.fail_counted(error, ctx.pool);
        Act::CLOSED
    }

    /// A challenge ACK, unless the shard has sent many lately (RFC 5961 section 7).
    fn challenge(&mut self, ctx: &mut Ctx<'_>) -> Act {
        if !ctx.replies.may_challenge(ctx.now.ms) {
            return Act::empty();
        }
        ctx.pool.counters.challenges += 1;
        self.owe_ack();
        Act::SEND
    }

    fn owe_ack(&mut self) {
        self.acks_owed = (self.acks_owed + 1).min(MAX_ACKS_OWED);
    }

    /// SYN-RECEIVED to ESTABLISHED.
    fn establish(&mut self, segment: &Segment<'_>, ctx: &mut Ctx<'_>) -> Act {
        let early = self.is_early();
        if !early {
            self.snd_una = segment.ack;
        }
        self.state = TcpState::Established;
        self.flags |= Flags::WAS_ESTABLISHED;
        self.update_window(segment);
        self.sample_handshake(ctx);
        self.news |= Ready::WRITABLE;
        self.disarm(T_RESEND);
        if early {
            // Data may be under way; until now the timer was the SYN-ACK's.
            self.arm_resend(ctx.now);
        }
        self.start_keep_alive(ctx.now.ms);
        if self.has(Flags::FIN_QUEUED) {
            // Shut down before the handshake was over.
            self.state = TcpState::FinWait1;
        }
        Act::ESTABLISHED | Act::SEND
    }

    fn sample_handshake(&mut self, ctx: &Ctx<'_>) {
        if self.has(Flags::TIMING) {
            self.sample((ctx.now.us - self.rtt_sent_us) as u32);
            self.flags -= Flags::TIMING;
        } else {
            // RFC 6298 section 5.7: the handshake had to be repeated; begin data with 3 s.
            self.rtt.rto = 3_000_000;
        }
        self.retries = 0;
        if !self.has(Flags::FAST_OPEN) {
            self.cwnd = Congestion::initial_window(u32::from(self.mss));
        }
        self.last_sent_ms = ctx.now.ms as u32;
        self.last_heard_ms = ctx.now.ms as u32;
    }

    #[inline]
    fn remember_timestamp(&mut self, segment: &Segment<'_>, ctx: &Ctx<'_>) {
        if let Some((value, _)) = segment.timestamp {
            // RFC 7323 section 4.3, as corrected by its erratum: the segment that our last ACK named.
            if segment.seq.at_most(self.last_ack) && self.has(Flags::TIMESTAMPS) {
                self.ts_recent = value;
                self.ts_recent_at = (ctx.now.ms >> 10) as u32;
            }
        }
    }

    /// Step 5: ACK. `None` if the segment must not be looked at further.
    #[inline]
    fn acknowledge(&mut self, segment: &Segment<'_>, ctx: &mut Ctx<'_>) -> Option<Act> {
        let ack = segment.ack;
        let too_old = ack.before(self.snd_una - self.max_wnd);
        if ack.after(self.snd_nxt) || too_old {
            // RFC 5961 section 5.
            self.challenge(ctx);
            return None;
        }
        let mut act = Act::empty();
        let troubled = self.board.is_some()
            || self.has(Flags::TAIL_OUT)
            || (self.has(Flags::SACK) && segment.may_have_blocks());
        if ack.after(self.snd_una) {
            act |= self.new_ack(segment, troubled, ctx);
            self.update_window_if_newer(segment);
        } else if ack == self.snd_una {
            let window = u32::from(segment.window) << self.snd_shift;
            let duplicate = segment.len() == 0 && window == self.snd_wnd && self.snd_nxt != self.snd_una;
            if troubled || (duplicate && !self.has(Flags::SACK)) {
                self.troubled_ack(segment, ack, duplicate, ctx);
                if self.board.as_ref().is_some_and(|board| board.reorder_at != super::tcb::NEVER) {
                    self.arm_resend(ctx.now);
                }
                act |= Act::SEND;
            }
            if !duplicate {
                self.update_window_if_newer(segment);
            }
        }
        if self.has(Flags::PERSIST) && self.snd_wnd > 0 {
            self.flags -= Flags::PERSIST;
            self.retries = 0;
            self.disarm(T_RESEND);
        }
        if self.unsent() > 0 || (self.has(Flags::FIN_QUEUED) && !self.fin_sent()) || self.board.is_some() {
            act |= Act::SEND;
        }
        Some(act)
    }

    fn new_ack(&mut self, segment: &Segment<'_>, troubled: bool, ctx: &mut Ctx<'_>) -> Act {
        let (ack, before) = (segment.ack, self.snd_una);
        let acked = ack.since(before);
        let data = acked.min(self.tx.len());
        let fin_acked = acked > self.tx.len();
        self.tx.consume(ctx.pool, data);
        self.bytes_acked += u64::from(data);
        self.snd_una = ack;
        self.retries = 0;
        self.stalled_ms = ctx.now.ms as u32;
        self.soft_error = None;
        if self.has(Flags::PROBING) {
            self.probe_acknowledged(ctx.now, ctx.pool);
        }
        if troubled {
            self.troubled_ack(segment, before, false, ctx);
        } else {
            self.sample_rtt(segment, ctx);
            // Keep it close behind, or it would lie ahead after 2^31 bytes.
            if !self.has(Flags::REDUCED) {
                self.recover = ack - 1;
            }
            self.grow_window(acked, ctx.now);
        }
        self.arm_resend(ctx.now);
        if self.has(Flags::WANTS_ROOM) && self.has_room(ctx.limits) {
            self.flags -= Flags::WANTS_ROOM;
            self.news |= Ready::WRITABLE;
        }
        if fin_acked { self.fin_acknowledged(ctx) } else { Act::empty() }
    }

    fn fin_acknowledged(&mut self, ctx: &Ctx<'_>) -> Act {
        match self.state {
            TcpState::FinWait1 => {
                self.state = TcpState::FinWait2;
                if self.has(Flags::ORPHAN) {
                    self.arm(T_KEEP, ctx.now.ms + u64::from(self.options().linger2));
                }
                Act::empty()
            }
            TcpState::Closing => {
                self.state = TcpState::TimeWait;
                Act::TIME_WAIT
            }
            TcpState::LastAck => {
                self.state = TcpState::Closed;
                self.news |= Ready::HANGUP;
                Act::CLOSED
            }
            _ => Act::empty(),
        }
    }

    /// A sample from the timed segment, else from the echoed timestamp (which is right also after a
    /// retransmission; RFC 6298 section 3, RFC 7323 section 4).
    #[inline]
    fn sample_rtt(&mut self, segment: &Segment<'_>, ctx: &Ctx<'_>) {
        let marked =
            if self.has(Flags::BULK) { self.congestion.marked(segment.ack, ctx.now.us) } else { None };
        if let Some(us) = marked {
            self.flags -= Flags::TIMING;
            self.sample(us);
        } else if self.has(Flags::TIMING) {
            if segment.ack.after(self.rtt_seq) {
                self.flags -= Flags::TIMING;
                self.sample((ctx.now.us - self.rtt_sent_us).min(u64::from(u32::MAX)) as u32);
            }
        } else if !self.has(Flags::BULK) {
            self.sample_echo(segment, ctx.now);
        }
    }

    pub(super) fn sample_echo(&mut self, segment: &Segment<'_>, now: Now) {
        if let (true, Some((_, echo))) = (self.has(Flags::TIMESTAMPS), segment.timestamp) {
            let ms = self.timestamp_now(now).wrapping_sub(echo);
            if echo != 0 && ms < 300_000 {
                // The clock of timestamps is too coarse for the least round trip.
                self.rtt.sample(ms.max(1) * 1000);
            }
        }
    }

    #[inline]
    pub(super) fn sample(&mut self, us: u32) {
        let us = us.max(1);
        if self.ack_delay_ms > FIRST_ACK_DELAY_MS && us <= self.rtt.smoothed.saturating_mul(2) {
            self.ack_delay_ms -= 4;
        }
        self.rtt.sample(us);
        if us < self.min_rtt || self.min_rtt == 0 {
            self.min_rtt = us;
        }
        if self.has(Flags::BULK) {
            self.congestion.sample(us);
        }
    }

    fn update_window_if_newer(&mut self, segment: &Segment<'_>) {
        let newer = self.snd_wl1.before(segment.seq)
            || (self.snd_wl1 == segment.seq && self.snd_wl2.at_most(segment.ack));
        if newer {
            self.update_window(segment);
        }
    }

    fn update_window(&mut self, segment: &Segment<'_>) {
        self.snd_wnd = u32::from(segment.window) << self.snd_shift;
        self.max_wnd = self.max_wnd.max(self.snd_wnd);
        self.snd_wl1 = segment.seq;
        self.snd_wl2 = segment.ack;
    }

    /// Step 6: the urgent pointer, as Linux reads it: it names the byte after the urgent one (RFC 6093 section 3.1),
    /// and there is one urgent byte at a time; an older one that was not read becomes ordinary data.
    #[cold]
    fn urgent(&mut self, segment: &Segment<'_>) {
        if !self.can_receive() {
            return;
        }
        if segment.has(Control::URG) {
            let at = segment.seq + u32::from(segment.urgent) - 1;
            let newer = !self.has(Flags::URGENT) || at.after(self.extra().urgent_at);
            if newer && !at.before(self.rcv_nxt) {
                self.extra_mut().urgent_at = at;
                self.flags -= Flags::URGENT_BYTE | Flags::URGENT_READ;
                self.flags |= Flags::URGENT;
                self.news |= Ready::URGENT;
            }
        }
        let waits = self.has(Flags::URGENT) && !self.has(Flags::URGENT_BYTE | Flags::URGENT_READ);
        let offset = self.extra().urgent_at.since(segment.seq) as usize;
        if let (true, Some(&byte)) = (waits, segment.payload.get(offset)) {
            self.extra_mut().urgent_byte = byte;
            self.flags |= Flags::URGENT_BYTE;
            self.news |= Ready::URGENT;
        }
    }

    /// Steps 7 and 8: data and FIN.
    fn text(&mut self, segment: &Segment<'_>, ctx: &mut Ctx<'_>) -> Act {
        if !self.can_receive() {
            // CLOSE-WAIT and later: the peer has said that it is done; a repeated FIN needs our ACK again.
            self.owe_ack();
            return Act::SEND;
        }
        let closing = matches!(self.state, TcpState::FinWait1 | TcpState::FinWait2);
        let data_end = segment.seq + segment.payload.len() as u32;
        if closing && self.has(Flags::ORPHAN | Flags::READ_SHUT) && data_end.after(self.rcv_nxt) {
            // Nobody will read it: the peer must know (RFC 1122 section 4.2.2.13).
            ctx.replies.reset(&self.key, self.snd_nxt, Some(self.rcv_nxt));
            ctx.pool.counters.abort_on_data += 1;
            self.fail_counted(Error::Reset, ctx.pool);
            return Act::CLOSED | Act::SEND;
        }
        if segment.has(Control::FIN) && data_end.at_most(self.rcv_adv) {
            self.flags |= Flags::FIN_EARLY;
            self.fin_at = data_end;
        }
        let mut act = Act::empty();
        if !segment.payload.is_empty() {
            act |= self.take_payload(segment.seq, segment.payload, ctx);
        }
        if self.has(Flags::FIN_EARLY) && self.fin_at == self.rcv_nxt {
            act |= self.fin_arrived();
        } else if segment.payload.is_empty() {
            self.owe_ack();
            act |= Act::SEND;
        }
        act
    }

    #[inline]
    pub(super) fn take_payload(&mut self, seq: Seq, payload: &[u8], ctx: &mut Ctx<'_>) -> Act {
        // Trim to the window at both ends.
        let skip = if seq.before(self.rcv_nxt) { self.rcv_nxt.since(seq) as usize } else { 0 };
        let room = if self.rcv_adv.after(seq) { self.rcv_adv.since(seq) as usize } else { 0 };
        let payload = &payload[..payload.len().min(room)];
        if skip >= payload.len() {
            if !payload.is_empty() {
                self.arrived_twice(seq, seq + payload.len() as u32, ctx);
            }
            self.owe_ack();
            return Act::SEND;
        }
        let payload = &payload[skip..];
        let seq = seq + skip as u32;
        if seq != self.rcv_nxt {
            let reassembly = self.reassembly.get_or_insert_with(Box::default);
            reassembly.insert(ctx.pool, seq, payload);
            self.extra_mut().out_of_order += 1;
            ctx.pool.counters.out_of_order += 1;
            self.owe_ack();
            return Act::SEND;
        }
        let taken = self.rx.push(ctx.pool, payload) as u32;
        self.advance(taken, ctx);
        if self.reassembly.is_some() {
            self.take_from_reassembly(ctx);
            // RFC 5681 section 4.2: a filled hole is acknowledged at once.
            self.flags |= Flags::ACK_NOW;
        }
        if (taken as usize) < payload.len() {
            // The shard is out of buffers. The rest was not acknowledged and comes again.
            self.flags |= Flags::ACK_NOW;
            return Act::SEND;
        }
        self.schedule_ack(payload.len(), ctx)
    }

    fn advance(&mut self, bytes: u32, ctx: &Ctx<'_>) {
        self.rcv_nxt += bytes;
        self.bytes_received += u64::from(bytes);
        self.measure_receiver_rtt(ctx);
        if self.rx.len() >= self.low_at {
            self.news |= Ready::READABLE;
        }
    }

    #[cold]
    fn take_from_reassembly(&mut self, ctx: &mut Ctx<'_>) {
        let Some(mut reassembly) = self.reassembly.take() else { return };
        if let Some(bytes) = reassembly.take(ctx.pool, self.rcv_nxt) {
            let count = bytes.len();
            self.rx.append(ctx.pool, bytes);
            self.advance(count, ctx);
        }
        if !reassembly.is_empty() {
            self.reassembly = Some(reassembly);
        }
    }

    /// Delayed acknowledgements (RFC 1122 section 4.2.3.2, RFC 5681 section 4.2): every second full
    /// segment, or after 40 ms; at once in the beginning, while the sender is in slow start.
    #[inline]
    fn schedule_ack(&mut self, len: usize, ctx: &Ctx<'_>) -> Act {
        let now = ctx.now.ms;
        let silence = ago(now, self.last_data_ms);
        if len >= usize::from(self.rcv_mss) {
            // A super-segment that was merged on the way counts as several.
            self.rcv_mss = len.min(usize::from(self.path_mtu.max(536)) - self.key.headers()).min(8192) as u16;
        }
        if silence > 1000 && !self.has(Flags::INTERACTIVE) {
            self.quick_acks = self.quick_acks.max(2);
        }
        self.last_data_ms = now as u32;
        let waiting = self.rcv_nxt.since(self.last_ack);
        if waiting > u32::from(self.rcv_mss) || self.has(Flags::ACK_NOW) {
            self.flags |= Flags::ACK_NOW;
            return Act::SEND;
        }
        if self.quick_acks > 0 && !self.has(Flags::INTERACTIVE) {
            self.quick_acks -= 1;
            self.flags |= Flags::ACK_NOW;
            return Act::SEND;
        }
        if self.timer_at[T_ACK] == super::tcb::NEVER {
            self.arm(T_ACK, now + DELAYED_ACK_MS);
        }
        Act::empty()
    }

    fn fin_arrived(&mut self) -> Act {
        self.rcv_nxt += 1;
        self.flags -= Flags::FIN_EARLY;
        self.flags |= Flags::FIN_RECEIVED | Flags::ACK_NOW;
        self.news |= Ready::READABLE | Ready::PEER_CLOSED;
        if self.has(Flags::FIN_QUEUED) {
            self.news |= Ready::HANGUP;
        }
        match self.state {
            TcpState::FinWait1 => self.state = TcpState::Closing,
            TcpState::FinWait2 => {
                self.state = TcpState::TimeWait;
                return Act::TIME_WAIT | Act::SEND;
            }
            _ => self.state = TcpState::CloseWait,
        }
        Act::SEND
    }

    /// How long the peer takes to fill a window: the receiver's estimate of the round trip, for the growth
    /// of the buffer ("Dynamic Right-Sizing", Fisk and Feng 2001).
    #[inline]
    fn measure_receiver_rtt(&mut self, ctx: &Ctx<'_>) {
        if self.has(Flags::FIXED_RCVBUF) || self.rcv_nxt.before(self.grow.rtt_seq) {
            return;
        }
        if self.grow.rtt_since_us != 0 {
            let us = (ctx.now.us as u32).wrapping_sub(self.grow.rtt_since_us).clamp(1, 1_000_000);
            let old = self.grow.rtt_us;
            self.grow.rtt_us = if old == 0 || us < old { us } else { old - old / 8 + us / 8 };
        }
        self.grow.rtt_seq = self.rcv_adv.latest(self.rcv_nxt + 1);
        self.grow.rtt_since_us = (ctx.now.us as u32).max(1);
    }

    /// The reader took bytes: grow the buffer if it takes more than half of it in a round trip, or all of it in a tick.
    pub(crate) fn reader_took(&mut self, bytes: u32, now_ms: u64, max: u32) {
        self.grow.copied = self.grow.copied.saturating_add(bytes);
        let rtt_us = match (self.grow.rtt_us, self.rtt.smoothed) {
            (0, other) | (other, 0) => other,
            (a, b) => a.min(b),
        };
        let passed_ms = (now_ms as u32).wrapping_sub(self.grow.since_ms);
        if rtt_us == 0 || passed_ms < rtt_us.div_ceil(1000) {
            return;
        }
        // The clock is coarser than a round trip inside a machine: what is read in one is a part of what was read. (Bytes that wait
        // in a larger buffer than they need fall out of the cache.)
        let passed_us = (u64::from(passed_ms) * 1000).max(1);
        let in_a_trip = u64::from(self.grow.copied) * u64::from(rtt_us) / passed_us;
        let in_a_trip = u32::try_from(in_a_trip).unwrap_or(u32::MAX).min(self.grow.copied);
        // A round trip that is far shorter than a tick tells too little: the window, not the path, may be what bounds it.
        let busy = passed_ms <= 2 && self.grow.copied > self.rcvbuf;
        if !self.has(Flags::FIXED_RCVBUF) && (in_a_trip > self.rcvbuf / 2 || busy) {
            let grown = in_a_trip.saturating_mul(2).max(LEAST_GROWN);
            self.rcvbuf = grown.max(self.rcvbuf).min(max.max(self.rcvbuf));
        }
        self.grow.copied = 0;
        self.grow.since_ms = now_ms as u32;
    }

    /// SYN-SENT (section 3.10.7.3).
    fn in_syn_sent(&mut self, segment: &Segment<'_>, ctx: &mut Ctx<'_>) -> Act {
        let has_ack = segment.has(Control::ACK);
        let carried = if self.has(Flags::FAST_OPEN) { self.tx.len() } else { 0 };
        let wrong = segment.ack.before(self.snd_nxt) || segment.ack.after(self.snd_nxt + carried);
        if has_ack && wrong {
            if !segment.has(Control::RST) {
                ctx.replies.reset_for(&self.key, segment);
            }
            return Act::SEND;
        }
        if segment.has(Control::RST) {
            if !has_ack {
                return Act::empty();
            }
            self.fail_counted(Error::Refused, ctx.pool);
            return Act::CLOSED;
        }
        if !segment.has(Control::SYN) {
            return Act::empty();
        }
        let options = segment.syn_options();
        self.take_syn(segment, &options, ctx);
        if !has_ack {
            // Simultaneous open: both SYNs cross. Data that ours brought goes again, after the handshake.
            self.flags -= Flags::FAST_OPEN;
            self.state = TcpState::SynReceived;
            self.snd_nxt = self.iss;
            self.flags |= Flags::SEND_SYN;
            return Act::SEND;
        }
        let mut act = Act::SEND;
        act.set(Act::LEARNED, self.early_answered(segment, &options, ctx));
        self.establish(segment, ctx);
        self.snd_wnd = u32::from(segment.window);
        self.max_wnd = self.snd_wnd;
        self.flags |= Flags::ACK_NOW;
        if !segment.payload.is_empty() {
            return act | self.text(&Segment { seq: segment.seq + 1, ..*segment }, ctx);
        }
        act
    }

    /// What a SYN tells: where the peer begins and what it can.
    pub(crate) fn take_syn(&mut self, segment: &Segment<'_>, options: &SynOptions, ctx: &Ctx<'_>) {
        self.rcv_nxt = segment.seq + 1;
        self.last_ack = self.rcv_nxt;
        self.rcv_adv = self.rcv_nxt + self.rcvbuf.min(65_535);
        self.snd_wl1 = segment.seq;
        self.snd_wnd = u32::from(segment.window);
        self.max_wnd = self.snd_wnd;
        // RFC 9293 section 3.7.1: 536 if the peer does not say.
        self.peer_mss = options.mss.unwrap_or(536);
        self.flags.set(Flags::SACK, options.sack);
        self.flags.set(Flags::TIMESTAMPS, segment.timestamp.is_some());
        if let Some((value, _)) = segment.timestamp {
            self.ts_recent = value;
            self.ts_recent_at = (ctx.now.ms >> 10) as u32;
        }
        let both = segment.control & (Control::ECE | Control::CWR);
        let agreed = if self.state == TcpState::SynSent {
            self.has(Flags::ASK_ECN) && both == Control::ECE
        } else {
            self.has(Flags::ASK_ECN) && both == Control::ECE | Control::CWR
        };
        self.flags.set(Flags::ECN, agreed);
        self.flags.set(Flags::SCALING, options.scale.is_some());
        match options.scale {
            Some(shift) => self.snd_shift = shift,
            None => (self.snd_shift, self.rcv_shift) = (0, 0),
        }
        self.update_mss();
        self.rcv_mss = self.peer_mss.min(self.path_mtu - self.key.headers() as u16).clamp(88, 8192);
        self.last_data_ms = ctx.now.ms as u32;
    }

    /// (Re)starts the keep-alive timer if it is wanted.
    pub(crate) fn start_keep_alive(&mut self, now_ms: u64) {
        if self.has(Flags::KEEP_ALIVE) && !self.has(Flags::ORPHAN) && self.is_synchronized() {
            self.arm(T_KEEP, now_ms + u64::from(self.options().keep_idle));
        }
    }
}
