//! The counters of `/proc/net`: `snmp` (RFC 4293, RFC 4022, RFC 4113), `netstat` (Linux's own), `sockstat`.
//!
//! `snmp` has Linux's columns, since programs read some by their place; those of `netstat` go by their names, and only
//! what the engine counts is there. Left out by name: UDP-Lite, `snmp6` and IPv6's rows.

use crate::net_poll;
use alloc::format;
use alloc::string::String;
use fs::procfs::Net;
use net::{Counters, IpCounters, TcpCounters, Usage};

/// The text of a table.
pub(crate) fn table(table: Net) -> String {
    match table {
        Net::Snmp => snmp(&counted()),
        Net::Netstat => netstat(&counted().tcp),
        Net::Sockstat => sockstat(&usage()),
        Net::Sockstat6 => sockstat6(&usage()),
        Net::Softnet => softnet(),
        _ => String::new(),
    }
}

fn counted() -> Counters {
    let mut all = net_poll::home().shard.counters();
    net_poll::others(|stack| all += &stack.shard.counters());
    all
}

fn usage() -> Usage {
    let mut all = net_poll::home().shard.usage();
    net_poll::others(|stack| all += &stack.shard.usage());
    all
}

/// A row for each shard in the columns of `softnet_stat` (net-procfs.c of Linux), which has one for each CPU: packets, those
/// that found no room in the shard's inbox, and tenth those that came through it; the twelfth and the thirteenth are the
/// backlog's length, always 0, and the shard's number.
fn softnet() -> String {
    let row = |(shard, [packets, mail, dropped]): (usize, [u64; 3])| {
        let columns = [packets, dropped, 0, 0, 0, 0, 0, 0, 0, mail, 0, 0, shard as u64];
        let words: alloc::vec::Vec<String> = columns.iter().map(|n| format!("{:08x}", *n as u32)).collect();
        words.join(" ") + "\n"
    };
    net_poll::work().into_iter().enumerate().map(row).collect()
}

/// Two lines: the names, the values.
fn rows(group: &str, columns: &[(&str, u64)]) -> String {
    let (mut names, mut values) = (format!("{group}:"), format!("{group}:"));
    for (name, value) in columns {
        names += &format!(" {name}");
        values += &format!(" {value}");
    }
    names + "\n" + &values + "\n"
}

fn snmp(all: &Counters) -> String {
    let (ip, tcp, udp) = (&all.ip, &all.tcp, &all.udp);
    let ip_rows = [
        ("Forwarding", 2),
        ("DefaultTTL", 64),
        ("InReceives", ip.in_receives),
        ("InHdrErrors", ip.in_hdr_errors),
        ("InAddrErrors", ip.in_addr_errors),
        ("ForwDatagrams", 0),
        ("InUnknownProtos", ip.in_unknown_protos),
        ("InDiscards", 0),
        ("InDelivers", ip.in_delivers),
        ("OutRequests", ip.out_requests),
        ("OutDiscards", ip.out_discards),
        ("OutNoRoutes", ip.out_no_routes),
        ("ReasmTimeout", 30),
        ("ReasmReqds", ip.reasm_reqds),
        ("ReasmOKs", ip.reasm_oks),
        ("ReasmFails", ip.reasm_fails),
        ("FragOKs", ip.frag_oks),
        ("FragFails", ip.frag_fails),
        ("FragCreates", ip.frag_creates),
    ];
    // RFC 4022: 4 is Van Jacobson's algorithm, but Linux says 1, "other"; no bound on connections is -1.
    let tcp_names = "Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets \
                     CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors\n";
    let tcp_values = format!(
        "Tcp: 1 200 120000 -1 {} {} {} {} {} {} {} {} {} {} {}\n",
        tcp.active_opens,
        tcp.passive_opens,
        tcp.attempt_fails,
        tcp.estab_resets,
        tcp.curr_estab,
        tcp.in_segs,
        tcp.out_segs,
        tcp.retrans_segs,
        tcp.in_errs,
        tcp.out_rsts,
        tcp.in_csum_errors
    );
    let udp_rows = [
        ("InDatagrams", udp.in_datagrams),
        ("NoPorts", udp.no_ports),
        ("InErrors", udp.in_errors),
        ("OutDatagrams", udp.out_datagrams),
        ("RcvbufErrors", udp.rcvbuf_errors),
        ("SndbufErrors", 0),
        ("InCsumErrors", udp.in_csum_errors),
        ("IgnoredMulti", 0),
        ("MemErrors", 0),
    ];
    rows("Ip", &ip_rows) + &icmp(ip) + tcp_names + &tcp_values + &rows("Udp", &udp_rows)
}

fn icmp(ip: &IpCounters) -> String {
    const KINDS: [(&str, usize); 11] = [
        ("DestUnreachs", 3),
        ("TimeExcds", 11),
        ("ParmProbs", 12),
        ("SrcQuenchs", 4),
        ("Redirects", 5),
        ("Echos", 8),
        ("EchoReps", 0),
        ("Timestamps", 13),
        ("TimestampReps", 14),
        ("AddrMasks", 17),
        ("AddrMaskReps", 18),
    ];
    let kinds = |direction: &str, counts: &[u64; 19]| {
        let names: String = KINDS.iter().map(|(name, _)| format!(" {direction}{name}")).collect();
        let values: String = KINDS.iter().map(|(_, kind)| format!(" {}", counts[*kind])).collect();
        (names, values)
    };
    let (came, went) = (kinds("In", &ip.icmp_in), kinds("Out", &ip.icmp_out));
    let bad = ip.icmp_in_csum_errors;
    format!(
        "Icmp: InMsgs InErrors InCsumErrors{} OutMsgs OutErrors{}\nIcmp: {} {bad} {bad}{} {} 0{}\n",
        came.0, went.0, ip.icmp_in_msgs, came.1, ip.icmp_out_msgs, went.1
    )
}

fn netstat(tcp: &TcpCounters) -> String {
    rows(
        "TcpExt",
        &[
            ("SyncookiesSent", tcp.syncookies_sent),
            ("SyncookiesRecv", tcp.syncookies_recv),
            ("SyncookiesFailed", tcp.syncookies_failed),
            ("TW", tcp.time_waits),
            ("PAWSEstab", tcp.paws_estab),
            ("DelayedACKs", tcp.delayed_acks),
            ("ListenOverflows", tcp.listen_overflows),
            ("ListenDrops", tcp.listen_drops),
            ("TCPSackRecovery", tcp.recoveries),
            ("TCPFullUndo", tcp.undone),
            ("TCPTimeouts", tcp.timeouts),
            ("TCPLossProbes", tcp.loss_probes),
            ("TCPDSACKOldSent", tcp.dsacks_sent),
            ("TCPDSACKRecv", tcp.dsacks_received),
            ("TCPAbortOnData", tcp.abort_on_data),
            ("TCPAbortOnClose", tcp.abort_on_close),
            ("TCPAbortOnTimeout", tcp.abort_on_timeout),
            ("TCPOFOQueue", tcp.out_of_order),
            ("TCPChallengeACK", tcp.challenges),
            ("TCPFastOpenActive", tcp.fast_open_active),
            ("TCPFastOpenActiveFail", tcp.fast_open_active_fail),
            ("TCPFastOpenPassive", tcp.fast_open_passive),
            ("TCPFastOpenPassiveFail", tcp.fast_open_passive_fail),
            ("TCPFastOpenListenOverflow", tcp.fast_open_overflow),
            ("TCPFastOpenCookieReqd", tcp.fast_open_cookies),
            ("TCPSynRetrans", tcp.syn_retrans),
            ("TCPOrigDataSent", tcp.data_sent.saturating_sub(tcp.retrans_segs - tcp.syn_retrans)),
            ("TCPWinProbe", tcp.win_probes),
            ("TCPKeepAlive", tcp.keep_alives),
            ("TCPMTUPFail", tcp.mtup_fail),
            ("TCPMTUPSuccess", tcp.mtup_success),
        ],
    )
}

/// Pages, as Linux counts buffers.
fn pages(bytes: usize) -> usize {
    bytes.div_ceil(4096)
}

/// "used" has the sockets of the engine; those of AF_UNIX are not among them.
fn sockstat(usage: &Usage) -> String {
    let used = usage.allocated + usage.udp[0] + usage.udp[1] + usage.raw;
    format!(
        "sockets: used {used}\nTCP: inuse {} orphan {} tw {} alloc {} mem {}\nUDP: inuse {} mem {}\n\
         RAW: inuse {}\nFRAG: inuse {} memory {}\n",
        usage.tcp[0],
        usage.orphans,
        usage.time_wait,
        usage.allocated,
        pages(usage.buffers),
        usage.udp[0],
        pages(usage.udp_buffers),
        usage.raw,
        usage.fragments.0,
        usage.fragments.1
    )
}

fn sockstat6(usage: &Usage) -> String {
    format!("TCP6: inuse {}\nUDP6: inuse {}\n", usage.tcp[1], usage.udp[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nstat and netstat read them: each line of values has a value for each name above it.
    #[test]
    fn names_and_values_go_in_pairs() {
        let mut all = Counters::default();
        (all.tcp.active_opens, all.tcp.in_segs, all.ip.icmp_in[8]) = (7, 9, 5);
        let text = snmp(&all) + &netstat(&all.tcp);
        let lines: alloc::vec::Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 10);
        for pair in lines.chunks(2) {
            let (names, values) = (pair[0].split(' '), pair[1].split(' '));
            assert_eq!(names.clone().count(), values.clone().count(), "{pair:?}");
            assert_eq!(names.clone().next(), values.clone().next());
            assert!(values.skip(1).all(|value| value.parse::<i64>().is_ok()), "{pair:?}");
        }
        let value = |name: &str| {
            lines.chunks(2).find_map(|pair| {
                let at = pair[0].split(' ').position(|word| word == name)?;
                pair[1].split(' ').nth(at)
            })
        };
        assert_eq!(
            (value("ActiveOpens"), value("InSegs"), value("InEchos")),
            (Some("7"), Some("9"), Some("5"))
        );
        assert!(
            sockstat(&Usage::default())
                .starts_with("sockets: used 0\nTCP: inuse 0 orphan 0 tw 0 alloc 0 mem 0\n")
        );
    }
}
