//! The tables of `/proc/net` (proc(5)): sockets, addresses, routes. Counters are in `net_counters.rs`.
//!
//! Left out by name: rows of AF_UNIX sockets, errors and drops in `dev` and what passes `lo` (0).

use crate::inet_option::state_number;
use crate::net_interface::{self, ETH, LO};
use crate::net_poll::{self, home};
use alloc::format;
use alloc::string::String;
use core::fmt::Write;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use fs::procfs::Net;
use net::{Kind, RouteEntry, Row};

/// The rows of a table, each with its newline.
pub(crate) fn rows(table: Net) -> String {
    match table {
        Net::Tcp => sockets(Kind::Tcp, false),
        Net::Tcp6 => sockets(Kind::Tcp, true),
        Net::Udp => sockets(Kind::Udp, false),
        Net::Udp6 => sockets(Kind::Udp, true),
        Net::Unix => String::new(),
        Net::Arp => neighbors(),
        Net::Dev => devices(),
        Net::Route => routes(),
        Net::IfInet6 => addresses6(),
        Net::Ipv6Route => routes6(),
        Net::Snmp | Net::Netstat | Net::Sockstat | Net::Sockstat6 | Net::Softnet => {
            crate::net_counters::table(table)
        }
    }
}

fn sockets(kind: Kind, v6: bool) -> String {
    let mut all = alloc::vec::Vec::new();
    net_poll::each(|stack| all.extend(stack.shard.rows()));
    let mut text = String::new();
    for (number, row) in all.iter().filter(|row| (row.kind, row.v6) == (kind, v6)).enumerate() {
        let _ = writeln!(text, "{}", socket(number, row, v6));
    }
    text
}

fn socket(number: usize, row: &Row, v6: bool) -> String {
    let state = if row.kind == Kind::Tcp { state_number(row.state) } else { 7 };
    let (local, remote) = (address(row.local.addr, v6), address(row.remote.addr, v6));
    let rest =
        if row.kind == Kind::Tcp { "1 0000000000000000 20 4 30 10 -1" } else { "2 0000000000000000 0" };
    let width = if row.kind == Kind::Tcp { 4 } else { 5 };
    format!(
        "{number:width$}: {local}:{:04X} {remote}:{:04X} {state:02X} {:08X}:{:08X} 00:00000000 00000000     0        0 {} {rest}",
        row.local.port, row.remote.port, row.queued[0], row.queued[1], row.cookie,
    )
}

/// Words of 32 bits, each in this machine's order.
fn address(addr: IpAddr, v6: bool) -> String {
    let octets = match addr {
        IpAddr::V4(v4) if !v6 => return format!("{:08X}", u32::from_ne_bytes(v4.octets())),
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv6Addr::UNSPECIFIED.octets(),
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let word = |at: usize| u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
    format!("{:08X}{:08X}{:08X}{:08X}", word(0), word(4), word(8), word(12))
}

fn devices() -> String {
    let line = |name: &str, index: u32| {
        let [(frames_in, bytes_in), (frames_out, bytes_out)] = net_interface::traffic(index);
        format!(
            "{name:>6}: {bytes_in:7} {frames_in:7}    0    0    0     0          0         0 {bytes_out:8} {frames_out:7}    0    0    0     0       0          0\n"
        )
    };
    let mut text = line("lo", LO);
    if net_interface::has_network() {
        text += &line("eth0", ETH);
    }
    text
}

/// address, hardware type (Ethernet), flags, hardware address, mask (none), name: `arp_format_neigh_entry` of Linux.
fn neighbors() -> String {
    let mut text = String::new();
    // Each shard asks for itself; one that has an answer says more than one that has none.
    let mut all = alloc::collections::BTreeMap::new();
    net_poll::each(|stack| {
        for (address, mac, permanent) in stack.shard.neighbors_v4() {
            let known = all.entry(address).or_insert((mac, permanent));
            *known = if mac.is_some() { (mac, permanent) } else { *known };
        }
    });
    for (address, (mac, permanent)) in all {
        // ATF_COM 2, ATF_PERM 4
        let flags = if mac.is_none() { 0 } else { 2 | u32::from(permanent) << 2 };
        let [a, b, c, d, e, f] = mac.unwrap_or_default();
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        // (`Ipv4Addr` pads only as text.)
        let address = format!("{address}");
        let _ = writeln!(text, "{address:<16} 0x{:<10x}0x{flags:<10x}{mac:<17}     *        eth0", 1);
    }
    text
}

fn routes() -> String {
    let stack = home();
    let mut text = String::new();
    for entry in stack.shard.routes() {
        if let Some((network, mask, via)) = route(entry) {
            // RTF_UP 1, RTF_GATEWAY 2
            let flags = if via.is_unspecified() { 1 } else { 3 };
            let hex = |addr: Ipv4Addr| u32::from_ne_bytes(addr.octets());
            let _ = writeln!(
                text,
                "eth0\t{:08X}\t{:08X}\t{flags:04X}\t0\t0\t{}\t{:08X}\t0\t0\t0",
                hex(network),
                hex(via),
                entry.metric,
                hex(mask)
            );
        }
    }
    text
}

/// Network, mask and router of an IPv4 route.
fn route(entry: &RouteEntry) -> Option<(Ipv4Addr, Ipv4Addr, Ipv4Addr)> {
    let IpAddr::V4(prefix) = entry.prefix.address else { return None };
    let mask = u32::MAX.checked_shl(32 - u32::from(entry.prefix.prefix)).unwrap_or(0);
    let via = match entry.via {
        Some(IpAddr::V4(via)) => via,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    Some((Ipv4Addr::from(u32::from(prefix) & mask), mask.into(), via))
}

/// address, index, prefix length, scope, flags, name.
fn addresses6() -> String {
    let mut text = format!("{:032x} {LO:02x} 80 10 80       lo\n", 1);
    for own in home().shard.addresses().1 {
        let scope = if own.addr.is_unicast_link_local() { 0x20 } else { 0 };
        // IFA_F_TENTATIVE 0x40, IFA_F_PERMANENT 0x80
        let flags = u8::from(own.tentative) << 6 | u8::from(!own.autoconfigured) << 7;
        let bits = own.addr.to_bits();
        let _ = writeln!(text, "{bits:032x} {ETH:02x} {:02x} {scope:02x} {flags:02x}     eth0", own.prefix);
    }
    text
}

/// destination, length; source (none), length; next hop, metric, two counts, flags, name.
fn routes6() -> String {
    let mut text = String::new();
    for entry in home().shard.routes() {
        let IpAddr::V6(prefix) = entry.prefix.address else { continue };
        let len = entry.prefix.prefix;
        let network = prefix.to_bits() & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        let via = match entry.via {
            Some(IpAddr::V6(via)) => via.to_bits(),
            _ => 0,
        };
        // RTF_UP 1, RTF_GATEWAY 2, RTF_EXPIRES 0x400000
        let flags = 1 | u32::from(via != 0) << 1 | u32::from(entry.expires_ms != 0) << 22;
        let metric = entry.metric;
        let _ = writeln!(
            text,
            "{network:032x} {len:02x} {:032x} 00 {via:032x} {metric:08x} 00000001 00000000 {flags:08x}     eth0",
            0
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use net::{Endpoint, TcpState};

    #[test]
    fn rows_look_like_linux() {
        let row = Row {
            kind: Kind::Tcp,
            v6: false,
            local: Endpoint::new([127, 0, 0, 1], 80),
            remote: Endpoint::UNSPECIFIED,
            state: TcpState::Listen,
            queued: [0, 3],
            cookie: 77,
        };
        let text = socket(0, &row, false);
        assert!(
            text.starts_with("   0: 0100007F:0050 00000000:0000 0A 00000000:00000003 00:00000000"),
            "{text}"
        );
        assert_eq!(text.split_whitespace().nth(9), Some("77"), "where ss and netstat look for the inode");
        assert_eq!(address(Ipv6Addr::LOCALHOST.into(), true), "00000000000000000000000001000000");
    }
}
