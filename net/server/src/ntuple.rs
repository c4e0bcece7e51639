//! A NIC's own rules for which frames it receives on which queue (`ethtool -N`; `ETHTOOL_SRXCLSRLINS` of
//! linux/ethtool.h): with them a guest's frames come to the queue where its socket is.
//!
//! Not every driver has them, or has them all (veth: none). What one refuses is said once, by the driver's name, and
//! nothing is lost by it: the XDP program is right about every frame wherever it arrives (`xdp_queues.rs`).
//!
//! Ports stand in blocks of a power of two, so that an ephemeral range is a dozen rules and not thousands.
//!
//! Left out: rules that a supervisor left behind that was killed (`ethtool -n IF` shows them), and keeping the NIC's hash
//! off guests' queues (`ethtool -X IF equal N`).

use crate::bpf::Rule;
use crate::direct;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

/// The rules that we have put into one interface.
pub(crate) struct Filters {
    interface: String,
    set: Vec<Filter>,
    refused: Option<String>,
}

struct Filter {
    queue: u32,
    block: Block,
    location: u32,
}

/// What goes to one address and, unless the protocol is 0, to `size` ports from `port` on. `port` is a multiple of
/// `size`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Block {
    address: IpAddr,
    protocol: u8,
    port: u16,
    size: u32,
}

impl Filters {
    pub(crate) fn new(interface: &str) -> Filters {
        Filters { interface: interface.into(), set: Vec::new(), refused: None }
    }

    /// Has the NIC receive on `queue` what is under these rules, if its driver can.
    pub(crate) fn add(&mut self, queue: u32, rules: &[Rule]) {
        if self.refused.is_some() {
            return;
        }
        for block in blocks(rules) {
            match insert(&self.interface, &block, queue) {
                Ok(location) => self.set.push(Filter { queue, block, location }),
                Err(error) => return self.refuse(&error),
            }
        }
    }

    /// Takes back what leads to `queue`.
    pub(crate) fn clear(&mut self, queue: u32) {
        self.remove(|filter| filter.queue == queue);
    }

    /// Takes back what is for this rule alone. One port of a block stays: it has no other owner on another queue that
    /// would miss it, since the XDP program decides.
    pub(crate) fn clear_one(&mut self, queue: u32, rule: Rule) {
        let own = blocks(&[rule]);
        self.remove(|filter| filter.queue == queue && own.contains(&filter.block));
    }

    /// Why the driver takes none, if it was asked.
    pub(crate) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Rules in the NIC.
    pub(crate) fn count(&self) -> usize {
        self.set.len()
    }

    fn remove(&mut self, which: impl Fn(&Filter) -> bool) {
        let interface = &self.interface;
        for filter in self.set.extract_if(.., |filter| which(filter)) {
            if let Err(error) = delete(interface, filter.location) {
                eprintln!("attacca: network supervisor: rule {} stays in the NIC: {error}", filter.location);
            }
        }
    }

    fn refuse(&mut self, error: &io::Error) {
        let driver = direct::driver(&self.interface).unwrap_or_default();
        let driver = if driver.is_empty() { "without a name".into() } else { driver };
        let words = format!("its driver '{driver}' takes no ntuple rules: {error}");
        eprintln!(
            "attacca: network supervisor: {words}; the XDP program alone steers, and what the NIC receives for a guest on \
             another queue than the guest's comes to it over the server"
        );
        self.refused = Some(words);
    }
}

impl Drop for Filters {
    fn drop(&mut self) {
        self.remove(|_| true);
    }
}

/// The fewest blocks that are exactly these rules.
fn blocks(rules: &[Rule]) -> Vec<Block> {
    let mut ports: BTreeMap<(IpAddr, u8), Vec<u16>> = BTreeMap::new();
    for rule in rules {
        ports.entry((rule.address, rule.protocol)).or_default().push(rule.port);
    }
    let mut blocks = Vec::new();
    for ((address, protocol), mut ports) in ports {
        ports.sort_unstable();
        ports.dedup();
        let mut rest = &ports[..];
        while let [port, ..] = *rest {
            let run =
                rest.iter().zip(u32::from(port)..).take_while(|(p, at)| u32::from(**p) == *at).count() as u32;
            let aligned = if port == 0 { 1 << 16 } else { 1 << port.trailing_zeros() };
            let size = if protocol == 0 { 1 } else { aligned.min(1 << run.ilog2()) };
            blocks.push(Block { address, protocol, port, size });
            rest = &rest[size as usize..];
        }
    }
    blocks
}

const ETHTOOL_GRXCLSRLCNT: u32 = 0x2e;
const ETHTOOL_GRXCLSRLALL: u32 = 0x30;
const ETHTOOL_SRXCLSRLDEL: u32 = 0x31;
const ETHTOOL_SRXCLSRLINS: u32 = 0x32;
/// The driver chooses places by itself.
const RX_CLS_LOC_SPECIAL: u64 = 0x8000_0000;
const RX_CLS_LOC_ANY: u32 = 0xffff_ffff;

const TCP_V4_FLOW: u32 = 1;
const UDP_V4_FLOW: u32 = 2;
const TCP_V6_FLOW: u32 = 5;
const UDP_V6_FLOW: u32 = 6;
const IPV4_USER_FLOW: u32 = 0x0d;
const IPV6_USER_FLOW: u32 = 0x0e;
const ETH_RX_NFC_IP4: u8 = 1;

/// `struct ethtool_flow_ext`: nothing of it is asked for.
type Extension = [u32; 5];

/// `struct ethtool_rx_flow_spec`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FlowSpec {
    flow_type: u32,
    value: [[u8; 4]; 13],
    value_more: Extension,
    mask: [[u8; 4]; 13],
    mask_more: Extension,
    ring_cookie: u64,
    location: u32,
}

/// `struct ethtool_rxnfc`, with no room for locations.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RxNfc {
    command: u32,
    flow_type: u32,
    data: u64,
    spec: FlowSpec,
    rule_count: u32,
}

const _: () = assert!(size_of::<FlowSpec>() == 168 && size_of::<RxNfc>() == 192);
/// Where the list of locations begins.
const LOCATIONS: usize = 188;

fn insert(interface: &str, block: &Block, queue: u32) -> io::Result<u32> {
    let mut spec = flow(block);
    spec.ring_cookie = u64::from(queue);
    spec.location = free_location(interface)?;
    let mut request = RxNfc { command: ETHTOOL_SRXCLSRLINS, spec, ..RxNfc::default() };
    ask(interface, &mut request)?;
    Ok(request.spec.location)
}

fn delete(interface: &str, location: u32) -> io::Result<()> {
    let spec = FlowSpec { location, ..FlowSpec::default() };
    ask(interface, &mut RxNfc { command: ETHTOOL_SRXCLSRLDEL, spec, ..RxNfc::default() })
}

/// Where a rule can go: drivers that do not choose take any free place; the last ones come last in their order, so that a
/// user's own rules go first.
fn free_location(interface: &str) -> io::Result<u32> {
    let mut request = RxNfc { command: ETHTOOL_GRXCLSRLCNT, ..RxNfc::default() };
    ask(interface, &mut request)?;
    if request.data & RX_CLS_LOC_SPECIAL != 0 {
        return Ok(RX_CLS_LOC_ANY);
    }
    let room = request.rule_count as usize;
    let mut list = vec![0u64; (LOCATIONS + room * 4).div_ceil(8).max(size_of::<RxNfc>() / 8)];
    let header = RxNfc { command: ETHTOOL_GRXCLSRLALL, rule_count: request.rule_count, ..RxNfc::default() };
    // SAFETY: the list is as long as the header, and aligned as it is; the command fills the header in and up to
    // `rule_count` words from LOCATIONS on.
    let header = unsafe {
        list.as_mut_ptr().cast::<RxNfc>().write(header);
        direct::ask_driver(interface, list.as_mut_ptr().cast())?;
        list.as_ptr().cast::<RxNfc>().read()
    };
    let words = list.iter().flat_map(|two| [*two as u32, (*two >> 32) as u32]);
    let taken: Vec<u32> = words.skip(LOCATIONS / 4).take(room.min(header.rule_count as usize)).collect();
    let size = (header.data & !RX_CLS_LOC_SPECIAL) as u32;
    let free = (0..size).rev().find(|location| !taken.contains(location));
    free.ok_or_else(|| io::Error::other(format!("all {size} places for rules are taken")))
}

fn ask(interface: &str, request: &mut RxNfc) -> io::Result<()> {
    // SAFETY: the commands used with it read and write this structure; none that lists rules is among them.
    unsafe { direct::ask_driver(interface, std::ptr::from_mut(request).cast()) }
}

/// The block as a flow: its destination and its ports count, and nothing else.
fn flow(block: &Block) -> FlowSpec {
    let mut spec = FlowSpec::default();
    let (flow_type, at) = match (block.address, block.protocol) {
        (IpAddr::V4(_), 6) => (TCP_V4_FLOW, 1),
        (IpAddr::V4(_), 17) => (UDP_V4_FLOW, 1),
        (IpAddr::V4(_), _) => (IPV4_USER_FLOW, 1),
        (IpAddr::V6(_), 6) => (TCP_V6_FLOW, 4),
        (IpAddr::V6(_), 17) => (UDP_V6_FLOW, 4),
        (IpAddr::V6(_), _) => (IPV6_USER_FLOW, 4),
    };
    spec.flow_type = flow_type;
    // struct ethtool_tcpip4_spec and its kin: source address, destination address, source port, destination port.
    let octets = match block.address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    for (index, word) in octets.chunks_exact(4).enumerate() {
        spec.value[at + index].copy_from_slice(word);
        spec.mask[at + index] = [0xff; 4];
    }
    if matches!(block.protocol, 6 | 17) {
        let ports = 2 * at;
        spec.value[ports][2..].copy_from_slice(&block.port.to_be_bytes());
        spec.mask[ports][2..].copy_from_slice(&(!(block.size - 1) as u16).to_be_bytes());
    } else if flow_type == IPV4_USER_FLOW {
        // struct ethtool_usrip4_spec: ports, tos, ip_ver.
        spec.value[3][1] = ETH_RX_NFC_IP4;
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(protocol: u8, port: u16) -> Rule {
        Rule { address: "10.0.0.1".parse().unwrap(), protocol, port }
    }

    #[test]
    fn a_range_of_ports_is_a_few_blocks() {
        let rules: Vec<Rule> =
            (32768..=60999).map(|p| port(6, p)).chain([port(6, 80), port(17, 53)]).collect();
        let made = blocks(&rules);
        assert!(made.len() <= 16, "{made:?}");
        for rule in &rules {
            let covers = |b: &&Block| {
                b.protocol == rule.protocol
                    && (u32::from(b.port)..u32::from(b.port) + b.size).contains(&rule.port.into())
            };
            assert_eq!(made.iter().filter(covers).count(), 1, "{rule:?}");
        }
        assert_eq!(made.iter().map(|b| b.size as usize).sum::<usize>(), rules.len());
        assert!(made.iter().all(|b| u32::from(b.port) % b.size == 0));
        let sharer: Vec<Rule> = (16384..17408).map(|p| port(17, p)).collect();
        assert_eq!(blocks(&sharer).len(), 1);
        assert_eq!(blocks(&[Rule::address("::1".parse().unwrap())]).len(), 1);
        let all: Vec<Rule> = (0..=65535).map(|p| port(6, p)).collect();
        assert_eq!(blocks(&all)[0].size, 65536);
    }

    #[test]
    fn flows_are_as_the_kernel_wants_them() {
        let whole = flow(&blocks(&[Rule::address("10.0.0.1".parse().unwrap())])[0]);
        assert_eq!(
            (whole.flow_type, whole.value[1], whole.mask[1]),
            (IPV4_USER_FLOW, [10, 0, 0, 1], [255; 4])
        );
        assert_eq!((whole.value[3], whole.mask[3]), ([0, 1, 0, 0], [0; 4]));
        let some: Vec<Rule> = (1024..1028).map(|p| port(6, p)).collect();
        let some = flow(&blocks(&some)[0]);
        assert_eq!(
            (some.flow_type, some.value[2], some.mask[2]),
            (TCP_V4_FLOW, [0, 0, 4, 0], [0, 0, 255, 252])
        );
        let six = Rule { address: "fd09::5".parse().unwrap(), protocol: 17, port: 7 };
        let six = flow(&blocks(&[six])[0]);
        assert_eq!((six.flow_type, six.value[4], six.value[7]), (UDP_V6_FLOW, [0xfd, 9, 0, 0], [0, 0, 0, 5]));
        assert_eq!((six.value[8], six.mask[8], six.mask[3]), ([0, 0, 0, 7], [0, 0, 255, 255], [0; 4]));
    }
}
