//! What a connection sends, and what its timers do (RFC 9293 sections 3.8.3 to 3.8.6, RFC 5681,
//! RFC 6298).

use super::queue::Pool;
use super::receive::Act;
use super::segment::{Control, Header, TIMESTAMP_LEN};
use super::seq::Seq;
use super::tcb::{Ctx, Flags, NEVER, Now, T_ACK, T_KEEP, T_RESEND, Tcb, ago};
use crate::error::Error;
use crate::ip::link::{Blocked, Link};
use crate::shard::Ready;
use crate::socket::tcp::TcpState;

/// Retransmissions before a connection is given up: Linux's tcp_retries2.
const DATA_RETRIES: u8 = 15;
/// The same for connections without an owner: Linux's default for tcp_orphan_retries.
const ORPHAN_RETRIES: u8 = 8;
/// Retransmissions of a SYN-ACK: Linux's tcp_synack_retries.
const SYN_ACK_RETRIES: u8 = 5;
/// How long a corked partial segment is held back (tcp(7)).
const CORK_MS: u64 = 200;
/// What a paced sender may catch up: the timers come a tick of 1 ms late, and polls later still.
const PACE_BURST_US: u64 = 2_000;
/// How long a path's small MTU is believed: Linux's mtu_expires.
const PATH_MTU_SECONDS: u64 = 600;
/// A gap in sending after which data is not "a reply" any more.
const INTERACTIVE_MS: u64 = 40;

impl Tcb {
    /// Sends what may be sent. `Err` if the device is full or the hardware address unknown: then the rest
    /// is tried again later.
    pub(crate) fn output(&mut self, now: Now, pool: &mut Pool, link: &mut Link<'_>) -> Result<(), Blocked> {
        match self.state {
            TcpState::Closed | TcpState::Listen | TcpState::TimeWait => return Ok(()),
            TcpState::SynSent | TcpState::SynReceived if self.has(Flags::SEND_SYN) => {
                self.send_syn(now, pool, link)?;
                if !self.is_early() {
                    return Ok(());
                }
            }
            TcpState::SynSent => return Ok(()),
            TcpState::SynReceived if !self.is_early() => return self.send_acks(now, pool, link),
            _ => {}
        }
        if usize::from(self.path_mtu) > link.mtu && !self.has(Flags::LOOPBACK) {
            // The device was switched for one with smaller packets.
            self.path_mtu = link.mtu as u16;
            self.update_mss();
        } else if usize::from(self.path_mtu) < link.mtu && self.extra().pmtu_at_s != 0 {
            self.try_larger_packets(now, link);
        }
        self.send_data(now, pool, link)?;
        if self.has(Flags::SEND_PROBE) {
            // A number that was acknowledged: the peer must answer (RFC 1122 section 4.2.3.6).
            self.send_segment(self.snd_una - 1, 0, Control::ACK, now, pool, link)?;
            self.flags -= Flags::SEND_PROBE;
        }
        self.send_acks(now, pool, link)
    }

    /// RFC 1191 section 6.3: after ten minutes the path may have become better.
    #[cold]
    fn try_larger_packets(&mut self, now: Now, link: &Link<'_>) {
        if (now.ms / 1000).saturating_sub(u64::from(self.extra().pmtu_at_s)) > PATH_MTU_SECONDS {
            self.path_mtu = link.mtu.min(65_535) as u16;
            self.extra_mut().pmtu_at_s = 0;
            self.update_mss();
        }
    }

    fn send_syn(&mut self, now: Now, pool: &mut Pool, link: &mut Link<'_>) -> Result<(), Blocked> {
        if self.timer_at[T_RESEND] == NEVER {
            self.arm(T_RESEND, now.ms + self.rtt.backed_off_ms(self.retries));
        }
        let mut control = match self.state {
            TcpState::SynSent => Control::SYN,
            _ => Control::SYN | Control::ACK,
        };
        if self.state == TcpState::SynSent && self.retries == 0 && self.has(Flags::ASK_ECN) {
            control |= Control::ECE | Control::CWR;
        } else if self.state == TcpState::SynSent {
            // RFC 3168 section 6.1.1.1: a middlebox may have swallowed it.
            self.flags -= Flags::ASK_ECN;
        } else if self.has(Flags::ECN) {
            control |= Control::ECE;
        }
        let ack = if control.contains(Control::ACK) { self.rcv_nxt } else { Seq(0) };
        let mut header = Header::new(self.key, self.iss, ack, control);
        // The window of a SYN is not scaled (RFC 7323 section 2.2).
        let window = self.rcvbuf.saturating_sub(self.rx.len()).min(65_535);
        header.window = window as u16;
        let mss = self.advertised_mss();
        header.option(&[2, 4, (mss >> 8) as u8, mss as u8]);
        let first = self.state == TcpState::SynSent;
        if first || self.has(Flags::TIMESTAMPS) {
            let echo = if first { 0 } else { self.ts_recent };
            header.option(if first || self.has(Flags::SACK) { &[4, 2, 8, 10] } else { &[1, 1, 8, 10] });
            header.option(&self.timestamp_now(now).to_be_bytes());
            header.option(&echo.to_be_bytes());
        } else if self.has(Flags::SACK) {
            header.option(&[1, 1, 4, 2]);
        }
        if first || self.has(Flags::SCALING) {
            header.option(&[1, 3, 3, self.rcv_shift]);
        }
        // A SYN that is sent again does without option and data (RFC 7413 section 4.1.3.1): they may be why it got lost.
        let fast_open = self.extra().fast_open.filter(|_| !first || self.retries == 0);
        if let Some(cookie) = fast_open {
            cookie.write(&mut header);
        }
        self.stamp(&mut header);
        let len = if first && self.has(Flags::FAST_OPEN) && self.retries == 0 { self.tx.len() } else { 0 };
        let mut tx = core::mem::take(&mut self.tx);
        let result = link.send_tcp(self, &header, len as usize, 0, |payload| {
            tx.copy_out(pool, 0, payload);
        });
        self.tx = tx;
        result?;
        self.flags -= Flags::SEND_SYN;
        self.data_segments_out = self.data_segments_out.wrapping_add(u32::from(len > 0));
        pool.counters.out_segs += 1;
        if self.retries > 0 {
            pool.counters.retrans_segs += 1;
            pool.counters.syn_retrans += 1;
        }
        if self.is_early() {
            self.last_ack = self.rcv_nxt;
            self.rcv_adv = self.rcv_adv.latest(self.rcv_nxt + window);
        } else {
            self.snd_nxt = self.iss + 1;
        }
        if self.retries == 0 {
            self.flags |= Flags::TIMING;
            (self.rtt_seq, self.rtt_sent_us) = (self.iss, now.us);
        } else {
            self.flags -= Flags::TIMING;
        }
        Ok(())
    }

    fn send_data(&mut self, now: Now, pool: &mut Pool, link: &mut Link<'_>) -> Result<(), Blocked> {
        if self.board.is_some() || self.has(Flags::RESEND_HEAD | Flags::SEND_TAIL) {
            self.resend(now, pool, link)?;
        }
        if self.snd_nxt == self.snd_una {
            self.restart_after_idle(now);
        }
        if self.has(Flags::PROBING) {
            self.probe_path(now, pool, link)?;
        }
        let most = self.most_at_once(link);
        loop {
            let sent = self.in_flight();
            if sent > self.tx.len() {
                break; // FIN is out.
            }
            let unsent = self.tx.len() - sent;
            let fin = self.has(Flags::FIN_QUEUED);
            if unsent == 0 && !fin {
                break;
            }
            let pace = self.pacing_rate();
            let most = match pace {
                None => most,
                Some(rate) => {
                    if !self.pace_allows(now) {
                        break;
                    }
                    self.most_in_a_tick(rate, most)
                }
            };
            let open = self.cwnd.saturating_sub(self.pipe());
            let usable = self.snd_wnd.saturating_sub(sent).min(open);
            let len = unsent.min(usable).min(most);
            self.flags.set(Flags::CWND_LIMITED, open < unsent && self.snd_wnd.saturating_sub(sent) > open);
            let len = self.worth_sending(len, unsent);
            if len == 0 && (unsent > 0 || !fin) {
                self.hold(now, unsent);
                break;
            }
            self.send_next(len, len == unsent, now, pool, link)?;
            if let Some(rate) = pace {
                self.congestion.pace(len, rate, now.us, PACE_BURST_US);
                self.note_bulk();
            }
        }
        Ok(())
    }

    /// The last segment's time at the sending rate is over; if not, a timer is set for it.
    #[cold]
    fn pace_allows(&mut self, now: Now) -> bool {
        let wait = self.congestion.paced_at_us() > now.us;
        self.flags.set(Flags::PACED, wait);
        !wait
    }

    /// A super-segment for a tick of the timers, so that pacing does not cut what would leave together anyway.
    #[cold]
    fn most_in_a_tick(&self, rate: u64, most: u32) -> u32 {
        let mss = u32::from(self.mss);
        let tick = (rate / 1000).min(u64::from(most)) as u32;
        (tick / mss * mss).clamp(mss, most)
    }

    /// Sends `len` bytes at `snd_nxt`, with FIN if they are the last.
    pub(super) fn send_next(
        &mut self,
        len: u32,
        last: bool,
        now: Now,
        pool: &mut Pool,
        link: &mut Link<'_>,
    ) -> Result<(), Blocked> {
        let mut control = Control::ACK;
        if last {
            control.set(Control::PSH, len > 0);
            self.flags -= Flags::FORCE | Flags::MORE;
        }
        let fin = last && self.has(Flags::FIN_QUEUED) && len <= u32::from(self.mss);
        control.set(Control::FIN, fin);
        let seq = self.snd_nxt;
        let sent = self.send_segment(seq, len, control, now, pool, link);
        if self.timer_at[T_RESEND] == NEVER || self.has(Flags::PERSIST) {
            self.flags -= Flags::PERSIST;
            self.stalled_ms = now.ms as u32;
            if sent.is_err() {
                // The device is full, or the hardware address unknown: the timer is our only reminder.
                self.arm(T_RESEND, now.ms + self.rtt.backed_off_ms(self.retries));
            }
        }
        sent?;
        self.snd_nxt = seq + len + u32::from(fin);
        // The second segment in flight ends the patience with a lone one.
        let second = self.has(Flags::TAIL_TIMER) && seq.since(self.snd_una) <= u32::from(self.mss);
        if self.timer_at[T_RESEND] == NEVER || second {
            self.arm_resend(now);
        }
        if let Some(board) = &mut self.board {
            board.extend(self.snd_nxt, now.us);
            board.prr_out += len;
        } else if self.has(Flags::BULK) {
            self.congestion.mark(seq, self.snd_una, self.cwnd, now.us);
        } else if !self.has(Flags::TIMING) {
            self.flags |= Flags::TIMING;
            (self.rtt_seq, self.rtt_sent_us) = (seq, now.us);
        }
        if len < u32::from(self.mss) {
            self.small_end = self.snd_nxt;
        }
        if len > 0 {
            if ago(now.ms, self.last_data_ms) < INTERACTIVE_MS && self.bytes_received > 0 {
                self.flags |= Flags::INTERACTIVE;
            }
            self.last_sent_ms = now.ms as u32;
        }
        Ok(())
    }

    /// The most that goes into one packet: a segment, or a super-segment where the link cuts it.
    fn most_at_once(&self, link: &Link<'_>) -> u32 {
        let mss = u32::from(self.mss);
        let room = link.segmentation(self).saturating_sub(self.key.headers() + TIMESTAMP_LEN) as u32;
        // A whole number of segments, so that no small one is in the middle of the stream.
        if room < 2 * mss { mss } else { room / mss * mss }
    }

    /// How much of `len` bytes to send now: sender's silly window avoidance and Nagle's algorithm
    /// (RFC 9293 section 3.8.6.2.1, RFC 1122 section 4.2.3.4).
    #[inline]
    fn worth_sending(&self, len: u32, unsent: u32) -> u32 {
        let mss = u32::from(self.mss);
        if len == 0 {
            return 0;
        }
        // Nor do urgent data wait (as on Linux).
        if self.has(Flags::FORCE | Flags::SENDING_URGENT) {
            return len;
        }
        let whole = if len < mss { 0 } else { len - len % mss };
        if len < unsent {
            // Cut by a window or the packet size. Part of a segment only if the window is tiny for good.
            return if whole > 0 || len < self.max_wnd / 2 { whole } else { len };
        }
        if len == whole || self.has(Flags::FIN_QUEUED) {
            return len;
        }
        let corked = self.has(Flags::CORK | Flags::MORE);
        let small_outstanding = self.small_end.after(self.snd_una) && self.snd_nxt != self.snd_una;
        let nagle = !self.has(Flags::NO_DELAY) && small_outstanding;
        if corked || nagle { whole } else { len }
    }

    /// What was written just now is less than a segment, and corked: nothing is sent before more comes or the cork's
    /// time is over, so that there is no need to try. Then that time is set; its timer is the caller's to file.
    pub(crate) fn stays_corked(&mut self, now: Now) -> bool {
        let goes = Flags::DIRTY | Flags::FORCE | Flags::SENDING_URGENT | Flags::FIN_QUEUED;
        let unsent = self.unsent();
        let corked = self.state == TcpState::Established
            && self.has(Flags::CORK | Flags::MORE)
            && !self.has(goes)
            && unsent < u32::from(self.mss);
        if corked {
            self.hold(now, unsent);
        }
        corked
    }

    /// Data waits and nothing is in flight: make sure that something happens (persist timer, section
    /// 3.8.6.1; the override timeout of section 3.8.6.2.1; the cork's end).
    fn hold(&mut self, now: Now, unsent: u32) {
        if unsent > 0 && self.snd_nxt == self.snd_una && self.timer_at[T_RESEND] == NEVER {
            let zero = self.snd_wnd == 0;
            let wait = if zero { self.rtt.backed_off_ms(self.retries) } else { CORK_MS };
            if zero && self.probes == 0 {
                self.stalled_ms = now.ms as u32;
            }
            self.flags |= Flags::PERSIST;
            self.arm(T_RESEND, now.ms + wait);
        }
    }

    /// Sends again what is lost, as far as the window allows.
    #[cold]
    fn resend(&mut self, now: Now, pool: &mut Pool, link: &mut Link<'_>) -> Result<(), Blocked> {
        let mss = u32::from(self.mss);
        if self.has(Flags::RESEND_HEAD) {
            let len = self.in_flight().min(mss);
            if len > 0 {
                self.send_again(self.snd_una, len, now, pool, link)?;
            }
            self.flags -= Flags::RESEND_HEAD;
        }
        if self.has(Flags::SEND_TAIL) {
            self.send_tail(now, pool, link)?;
            self.flags -= Flags::SEND_TAIL;
        }
        while self.pipe() < self.cwnd {
            let Some((start, len)) = self.board.as_ref().and_then(|board| board.next_lost(mss)) else {
                break;
            };
            self.send_again(start, len, now, pool, link)?;
            if let Some(board) = &mut self.board {
                board.prr_out += len;
            }
        }
        Ok(())
    }

    /// The tail probe: a new segment if there is one and the peer has room, else the last one again (RFC
    /// 8985 section 7.3).
    fn send_tail(&mut self, now: Now, pool: &mut Pool, link: &mut Link<'_>) -> Result<(), Blocked> {
        let (flight, mss) = (self.in_flight(), u32::from(self.mss));
        if flight == 0 {
            self.flags -= Flags::TAIL_OUT;
            return Ok(());
        }
        let unsent = self.unsent();
        let room = self.snd_wnd.saturating_sub(flight);
        let len = unsent.min(mss).min(room);
        let fresh = len > 0 && (len == mss || len == unsent);
        self.flags.set(Flags::TAIL_AGAIN, !fresh);
        if fresh {
            self.send_next(len, len == unsent, now, pool, link)?;
        } else {
            let len = flight.min(mss);
            self.send_again(self.snd_nxt - len, len, now, pool, link)?;
        }
        self.tail_end = self.snd_nxt;
        self.arm_resend(now);
        Ok(())
    }

    /// Sends `len` numbers from `seq` again, FIN included.
    fn send_again(
        &mut self,
        seq: Seq,
        len: u32,
        now: Now,
        pool: &mut Pool,
        link: &mut Link<'_>,
    ) -> Result<(), Blocked> {
        let offset = seq.since(self.snd_una);
        let data = len.min(self.tx.len().saturating_sub(offset));
        let last = offset + data == self.tx.len();
        let mut control = Control::ACK;
        control.set(Control::FIN, last && self.fin_sent());
        control.set(Control::PSH, data > 0 && last);
        self.send_segment(seq, data, control, now, pool, link)?;
        if self.has(Flags::PROBING) {
            self.probe_repeated(seq, now, pool);
        }
        pool.counters.retrans_segs += 1;
        let extra = self.extra_mut();
        extra.total_retransmits += 1;
        extra.bytes_retransmitted += u64::from(data);
        self.flags -= Flags::TIMING;
        let stamp = self.timestamp_now(now);
        let una = self.snd_una;
        let board = self.need_board(una, now);
        if let Some(undo) = &mut board.undo
            && !undo.any
        {
            undo.stamp = stamp;
        }
        board.repeated(seq, len, now.us);
        if self.timer_at[T_RESEND] == NEVER || offset == 0 {
            self.arm_resend(now);
        }
        Ok(())
    }

    fn send_acks(&mut self, now: Now, pool: &mut Pool, link: &mut Link<'_>) -> Result<(), Blocked> {
        while self.acks_owed > 0 || self.has(Flags::ACK_NOW) {
            self.acks_owed = self.acks_owed.saturating_sub(1);
            let owed = self.acks_owed;
            // At the highest number sent, also while an older one is being resent: below it the peer would
            // take the segment for an old one and not look at its acknowledgement. Clears ACK_NOW.
            self.send_segment(self.snd_nxt, 0, Control::ACK, now, pool, link)?;
            self.acks_owed = owed;
        }
        Ok(())
    }

    /// Builds and sends one segment. Every segment carries the acknowledgement.
    #[inline]
    fn send_segment(
        &mut self,
        seq: Seq,
        len: u32,
        control: Control,
        now: Now,
        pool: &mut Pool,
        link: &mut Link<'_>,
    ) -> Result<(), Blocked> {
        let edge = self.window_edge();
        let mut header = Header::new(self.key, seq, self.rcv_nxt, control);
        header.window = (edge.since(self.rcv_nxt) >> self.rcv_shift).min(65_535) as u16;
        if self.has(Flags::TIMESTAMPS) {
            header.timestamp(self.timestamp_now(now), self.ts_recent);
        }
        if self.reassembly.is_some() && self.has(Flags::SACK) {
            self.add_sack_blocks(&mut header, len);
        }
        self.stamp(&mut header);
        if self.has(Flags::ECN | Flags::SENDING_URGENT) {
            self.add_bits(&mut header, seq, len);
        }
        let segment = if len > u32::from(self.mss) { self.mss } else { 0 };
        let mut tx = core::mem::take(&mut self.tx);
        let offset = seq.since(self.snd_una);
        let result = link.send_tcp(self, &header, len as usize, segment, |payload| {
            tx.copy_out(pool, offset, payload);
        });
        self.tx = tx;
        result?;
        self.segments_out = self.segments_out.wrapping_add(1);
        pool.counters.out_segs += 1;
        if len > 0 {
            let count = if segment > 0 { len.div_ceil(u32::from(self.mss)) } else { 1 };
            self.segments_out = self.segments_out.wrapping_add(count - 1);
            pool.counters.out_segs += u64::from(count - 1);
            pool.counters.data_sent += u64::from(count);
            self.data_segments_out = self.data_segments_out.wrapping_add(count);
        }
        let advertised = self.rcv_nxt + (u32::from(header.window) << self.rcv_shift);
        self.rcv_adv = self.rcv_adv.latest(advertised);
        self.last_ack = self.rcv_nxt;
        self.flags -= Flags::ACK_NOW;
        self.disarm(T_ACK);
        Ok(())
    }

    fn stamp(&self, header: &mut Header) {
        header.hop_limit = self.hop_limit;
        header.traffic_class = self.traffic_class;
    }

    #[cold]
    fn add_sack_blocks(&mut self, header: &mut Header, len: u32) {
        // Data goes before reports: an acknowledgement of its own will carry them.
        let room = if len == 0 { 40 } else { u32::from(self.mss).saturating_sub(len) as usize };
        let room = room.min(40 - header.options_len());
        let Some(reassembly) = &mut self.reassembly else { return };
        if room < 12 {
            return;
        }
        let (blocks, count) = reassembly.blocks((room - 4) / 8);
        if reassembly.is_empty() {
            self.reassembly = None;
        }
        if count == 0 {
            return;
        }
        header.option(&[1, 1, 5, 2 + 8 * count as u8]);
        for (start, end) in &blocks[..count] {
            header.option(&start.0.to_be_bytes());
            header.option(&end.0.to_be_bytes());
        }
    }

    /// The bits of RFC 3168 section 6.1 (data sent for the first time may be marked on its way; retransmissions and
    /// acknowledgements may not) and the urgent pointer.
    #[cold]
    fn add_bits(&mut self, header: &mut Header, seq: Seq, len: u32) {
        if self.has(Flags::ECN) {
            header.control.set(Control::ECE, self.has(Flags::ECHO_CONGESTION));
            if len > 0 && seq == self.snd_nxt {
                header.traffic_class = header.traffic_class & !3 | 2;
                header.control.set(Control::CWR, self.has(Flags::TELL_REDUCED));
                self.flags -= Flags::TELL_REDUCED;
            }
        }
        if self.has(Flags::SENDING_URGENT) {
            if !self.extra().urgent_end.after(self.snd_una) {
                self.flags -= Flags::SENDING_URGENT;
            } else if self.extra().urgent_end.after(seq) {
                header.control |= Control::URG;
                // As everybody does it, the pointer names the byte after the urgent one (RFC 6093 section 3.1).
                header.urgent = self.extra().urgent_end.since(seq).min(0xffff) as u16;
            }
        }
    }

    /// RFC 5681 section 4.1 and RFC 2861: the window halves for each timeout that passed without sending, down
    /// to the initial one, and the threshold remembers where it was.
    fn restart_after_idle(&mut self, now: Now) {
        let pause = ago(now.ms, self.last_sent_ms);
        if pause * 1000 <= u64::from(self.rtt.rto) || self.last_sent_ms == 0 {
            return;
        }
        let rto = u64::from(self.rtt.rto / 1000).max(1);
        let restart = super::congestion::Congestion::initial_window(u32::from(self.mss)).min(self.cwnd);
        if self.cwnd > restart {
            self.ssthresh = self.ssthresh.max(self.cwnd - self.cwnd / 4);
            self.cwnd = self.cwnd.checked_shr((pause / rto) as u32).unwrap_or(0).max(restart);
        }
        if !self.has(Flags::BULK) {
            return; // A dialogue's connection has no such state, and its line stays where it is.
        }
        self.congestion.not_limited(now.ms.saturating_sub(pause));
        if self.ssthresh == u32::MAX && self.cwnd == restart {
            self.congestion.forget();
            self.note_bulk();
        }
    }

    /// Runs the timers that are due.
    pub(crate) fn timers(&mut self, ctx: &mut Ctx<'_>) -> Act {
        let mut act = Act::empty();
        if self.has(Flags::PACED) && self.congestion.paced_at_us() <= ctx.now.us {
            self.flags -= Flags::PACED;
            act |= Act::SEND;
        }
        for timer in [T_RESEND, T_ACK, T_KEEP] {
            if self.timer_at[timer] <= ctx.now.ms {
                self.disarm(timer);
                act |= match timer {
                    T_RESEND => self.resend_timeout(ctx),
                    T_ACK => self.ack_timeout(ctx),
                    _ => self.keep_timeout(ctx),
                };
            }
        }
        act
    }

    fn ack_timeout(&mut self, ctx: &mut Ctx<'_>) -> Act {
        ctx.pool.counters.delayed_acks += 1;
        self.flags |= Flags::ACK_NOW;
        Act::SEND
    }

    fn resend_timeout(&mut self, ctx: &mut Ctx<'_>) -> Act {
        match self.state {
            TcpState::SynSent => self.syn_timeout(self.options().syn_count, ctx),
            TcpState::SynReceived => self.syn_timeout(SYN_ACK_RETRIES, ctx),
            _ if self.has(Flags::PERSIST) => self.persist_timeout(ctx),
            _ if self.has(Flags::REORDER_TIMER) => self.reorder_timeout(ctx),
            _ if self.has(Flags::TAIL_TIMER) => self.tail_timeout(ctx),
            _ => self.data_timeout(ctx),
        }
    }

    fn syn_timeout(&mut self, most: u8, ctx: &mut Ctx<'_>) -> Act {
        let user = u64::from(self.options().user_timeout);
        if self.retries >= most || (user > 0 && ago(ctx.now.ms, self.stalled_ms) >= user) {
            self.fail_counted(self.soft_error.unwrap_or(Error::TimedOut), ctx.pool);
            return Act::CLOSED;
        }
        self.retries += 1;
        self.flags |= Flags::SEND_SYN;
        self.arm(T_RESEND, ctx.now.ms + self.rtt.backed_off_ms(self.retries));
        Act::SEND
    }

    /// No answer for too long (RFC 1122 section 4.2.3.5, RFC 5482).
    pub(super) fn given_up(&self, tries: u8, ctx: &Ctx<'_>) -> bool {
        let user = u64::from(self.options().user_timeout);
        if user > 0 {
            return ago(ctx.now.ms, self.stalled_ms) >= user;
        }
        tries >= if self.has(Flags::ORPHAN) { ORPHAN_RETRIES } else { DATA_RETRIES }
    }

    /// Data waits, nothing is in flight.
    fn persist_timeout(&mut self, ctx: &mut Ctx<'_>) -> Act {
        self.flags -= Flags::PERSIST;
        if self.snd_wnd > 0 {
            self.flags |= Flags::FORCE;
            return Act::SEND;
        }
        // A peer that answers may keep its window shut for ever (RFC 1122 section 4.2.2.17); `probes` is
        // reset by each answer. A peer that answers to nobody's profit, an orphan's, may not.
        if self.given_up(self.probes, ctx) && (self.probes > 0 || self.options().user_timeout > 0)
            || (self.has(Flags::ORPHAN) && self.retries >= ORPHAN_RETRIES)
        {
            self.fail_counted(self.soft_error.unwrap_or(Error::TimedOut), ctx.pool);
            return Act::CLOSED;
        }
        ctx.pool.counters.win_probes += 1;
        self.probes = self.probes.saturating_add(1);
        self.retries = self.retries.saturating_add(1);
        self.flags |= Flags::SEND_PROBE | Flags::PERSIST;
        self.arm(T_RESEND, ctx.now.ms + self.rtt.backed_off_ms(self.retries));
        Act::SEND
    }

    /// T_KEEP: what it means depends on the state.
    fn keep_timeout(&mut self, ctx: &mut Ctx<'_>) -> Act {
        if self.has(Flags::HELD) {
            self.fail_counted(Error::TimedOut, ctx.pool);
            return Act::CLOSED;
        }
        if self.has(Flags::ORPHAN) {
            if self.state == TcpState::FinWait2 {
                // The peer may keep its side open for ever; we do not (tcp(7), tcp_fin_timeout).
                self.state = TcpState::Closed;
                return Act::CLOSED;
            }
            return Act::empty();
        }
        if self.has(Flags::DEFERRED) {
            self.flags -= Flags::DEFERRED;
            return Act::ESTABLISHED;
        }
        self.keep_alive(ctx)
    }

    /// RFC 1122 section 4.2.3.6, with Linux's three parameters.
    fn keep_alive(&mut self, ctx: &mut Ctx<'_>) -> Act {
        if !self.has(Flags::KEEP_ALIVE) || !self.is_synchronized() {
            return Act::empty();
        }
        let now = ctx.now.ms;
        let due = (now + u64::from(self.options().keep_idle)).saturating_sub(ago(now, self.last_heard_ms));
        if self.probes == 0 && due > now {
            self.arm(T_KEEP, due);
            return Act::empty();
        }
        if self.snd_una != self.snd_nxt || self.unsent() > 0 {
            // Data in flight is its own probe; look again soon, for `due` may be over.
            self.arm(T_KEEP, now + u64::from(self.options().keep_interval.min(1000)));
            return Act::empty();
        }
        let user = u64::from(self.options().user_timeout);
        let dead = if user > 0 {
            self.probes > 0 && ago(now, self.last_heard_ms) >= user
        } else {
            self.probes >= self.options().keep_count
        };
        if dead {
            self.fail_counted(Error::TimedOut, ctx.pool);
            self.news |= Ready::all() - Ready::URGENT;
            return Act::CLOSED;
        }
        ctx.pool.counters.keep_alives += 1;
        self.probes += 1;
        self.flags |= Flags::SEND_PROBE;
        self.arm(T_KEEP, now + u64::from(self.options().keep_interval));
        Act::SEND
    }
}
