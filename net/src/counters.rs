//! What happened since the start, in the words of RFC 4293, RFC 4022, RFC 4113 and of Linux's `TcpExt`
//! (`/proc/net/snmp`, `/proc/net/netstat`). Each is counted where it happens; what has no field is not counted.

/// IPv4 packets, and ICMP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the RFC's names
pub struct IpCounters {
    pub in_receives: u64,
    pub in_hdr_errors: u64,
    pub in_addr_errors: u64,
    pub in_unknown_protos: u64,
    pub in_delivers: u64,
    pub out_requests: u64,
    pub out_discards: u64,
    pub out_no_routes: u64,
    pub reasm_reqds: u64,
    pub reasm_oks: u64,
    pub reasm_fails: u64,
    pub frag_oks: u64,
    pub frag_fails: u64,
    pub frag_creates: u64,
    /// Messages by kind: those below 19, the last that RFC 792 and RFC 950 know, and all of them.
    pub icmp_in: [u64; 19],
    /// The same of those sent.
    pub icmp_out: [u64; 19],
    pub icmp_in_msgs: u64,
    pub icmp_out_msgs: u64,
    pub icmp_in_csum_errors: u64,
}

/// TCP over both families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the RFC's names, and Linux's
pub struct TcpCounters {
    pub active_opens: u64,
    pub passive_opens: u64,
    pub attempt_fails: u64,
    pub estab_resets: u64,
    pub curr_estab: u64,
    pub in_segs: u64,
    pub out_segs: u64,
    pub retrans_segs: u64,
    pub in_errs: u64,
    pub out_rsts: u64,
    pub in_csum_errors: u64,
    pub syncookies_sent: u64,
    pub syncookies_recv: u64,
    pub syncookies_failed: u64,
    pub time_waits: u64,
    pub paws_estab: u64,
    pub delayed_acks: u64,
    pub listen_overflows: u64,
    pub listen_drops: u64,
    pub recoveries: u64,
    pub timeouts: u64,
    pub loss_probes: u64,
    pub dsacks_sent: u64,
    pub dsacks_received: u64,
    pub undone: u64,
    pub abort_on_data: u64,
    pub abort_on_close: u64,
    pub abort_on_timeout: u64,
    pub out_of_order: u64,
    pub challenges: u64,
    pub fast_open_active: u64,
    pub fast_open_active_fail: u64,
    pub fast_open_passive: u64,
    pub fast_open_passive_fail: u64,
    pub fast_open_overflow: u64,
    pub fast_open_cookies: u64,
    pub syn_retrans: u64,
    pub data_sent: u64,
    pub win_probes: u64,
    pub keep_alives: u64,
    pub mtup_fail: u64,
    pub mtup_success: u64,
}

/// UDP over both families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the RFC's names
pub struct UdpCounters {
    pub in_datagrams: u64,
    pub no_ports: u64,
    pub in_errors: u64,
    pub out_datagrams: u64,
    pub rcvbuf_errors: u64,
    pub in_csum_errors: u64,
}

/// How many sockets there are, by what `/proc/net/sockstat` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// TCP sockets that are in use (not closed), IPv4 and IPv6; those without an owner; all.
    pub tcp: [usize; 2],
    /// TCP connections that no program holds.
    pub orphans: usize,
    /// TIME-WAIT.
    pub time_wait: usize,
    /// All TCP sockets.
    pub allocated: usize,
    /// Bytes of TCP's buffers.
    pub buffers: usize,
    /// UDP sockets, IPv4 and IPv6, and bytes that wait in them.
    pub udp: [usize; 2],
    /// Bytes of datagrams that wait.
    pub udp_buffers: usize,
    /// Raw sockets.
    pub raw: usize,
    /// Datagrams being put together, and their bytes: the home shard's, so a sum keeps those of its first part.
    pub fragments: (usize, usize),
}

/// Everything that is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// IPv4 and ICMP.
    pub ip: IpCounters,
    /// TCP.
    pub tcp: TcpCounters,
    /// UDP.
    pub udp: UdpCounters,
}

/// Sums of shards: field by field.
macro_rules! sums {
    ($name:ident: $($field:ident)*; $($list:ident)*) => {
        impl core::ops::AddAssign<&$name> for $name {
            fn add_assign(&mut self, other: &$name) {
                $(self.$field += other.$field;)*
                $(self.$list.iter_mut().zip(other.$list).for_each(|(sum, more)| *sum += more);)*
            }
        }
    };
}

sums! { IpCounters: in_receives in_hdr_errors in_addr_errors in_unknown_protos in_delivers out_requests out_discards out_no_routes reasm_reqds reasm_oks reasm_fails frag_oks frag_fails frag_creates icmp_in_msgs icmp_out_msgs icmp_in_csum_errors; icmp_in icmp_out }
sums! { TcpCounters: active_opens passive_opens attempt_fails estab_resets curr_estab in_segs out_segs retrans_segs in_errs out_rsts in_csum_errors syncookies_sent syncookies_recv syncookies_failed time_waits paws_estab delayed_acks listen_overflows listen_drops recoveries timeouts loss_probes dsacks_sent dsacks_received undone abort_on_data abort_on_close abort_on_timeout out_of_order challenges fast_open_active fast_open_active_fail fast_open_passive fast_open_passive_fail fast_open_overflow fast_open_cookies syn_retrans data_sent win_probes keep_alives mtup_fail mtup_success;  }
sums! { UdpCounters: in_datagrams no_ports in_errors out_datagrams rcvbuf_errors in_csum_errors;  }
sums! { Usage: orphans time_wait allocated buffers udp_buffers raw; tcp udp }

impl core::ops::AddAssign<&Counters> for Counters {
    fn add_assign(&mut self, other: &Counters) {
        self.ip += &other.ip;
        self.tcp += &other.tcp;
        self.udp += &other.udp;
    }
}

impl IpCounters {
    /// An IPv4 packet is sent.
    pub(crate) fn sent(&mut self, packet: &[u8]) {
        if packet.first().is_none_or(|byte| byte >> 4 != 4) {
            return;
        }
        self.out_requests += 1;
        let header = usize::from(packet[0] & 0xf) * 4;
        if let (Some(&1), Some(&kind)) = (packet.get(9), packet.get(header)) {
            self.icmp_out_msgs += 1;
            if let Some(count) = self.icmp_out.get_mut(usize::from(kind)) {
                *count += 1;
            }
        }
    }

    /// An ICMP message arrived.
    pub(crate) fn icmp_came(&mut self, message: &[u8]) {
        self.icmp_in_msgs += 1;
        if let Some(count) = message.first().and_then(|&kind| self.icmp_in.get_mut(usize::from(kind))) {
            *count += 1;
        }
    }
}
