//! DHCP client (RFC 2131): an address for a time, asked for again before it ends, given back at the end.
//!
//! Formats are `smoltcp::wire`'s. Replies are asked for by broadcast, since there is no address to send them
//! to yet. Left out by name: INIT-REBOOT, DECLINE after a probe (RFC 5227), options beyond mask, router, name
//! servers and times.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress};

use super::packet::Outline;
use crate::config::Cidr;
use crate::shard::Shard;

const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;
const UDP: u8 = 17;
/// Section 4.1: first after four seconds, then twice as long, up to 64.
const FIRST_MS: u64 = 4_000;
const LONGEST_MS: u64 = 64_000;
/// Requests for an offer before another is sought.
const REQUESTS: u8 = 4;
/// The least time between two attempts to renew (section 4.4.5).
const LEAST_RENEWAL_MS: u64 = 60_000;
/// A lease without a time, and the least that is believed.
const DEFAULT_LEASE_S: u32 = 3_600;
const LEAST_LEASE_S: u32 = 10;
/// Subnet mask, router, name servers, MTU is not asked for.
const HOST_NAME: u8 = 12;
const PARAMETERS: [u8; 3] = [1, 3, 6];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No server has answered.
    Selecting,
    /// One has; it was asked for this address.
    Requesting { addr: Ipv4Addr, server: Ipv4Addr },
    /// The address is ours.
    Bound,
    /// Its server was asked for more time.
    Renewing,
    /// Any server was.
    Rebinding,
}

/// What was agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address and its network.
    pub address: Cidr,
    /// The router.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Who leased it.
    pub server: Ipv4Addr,
    /// Milliseconds of the shard's clock: when to ask for more time, when to ask anybody, when it ends.
    pub renew_ms: u64,
    /// See above.
    pub rebind_ms: u64,
    /// See above.
    pub end_ms: u64,
}

/// The client of a shard.
pub(crate) struct Dhcp {
    state: State,
    xid: u32,
    tries: u8,
    began_ms: u64,
    /// When the next message is due; 0: at once.
    next_ms: u64,
    lease: Option<Lease>,
}

impl Dhcp {
    pub(crate) fn new(xid: u32) -> Dhcp {
        Dhcp { state: State::Selecting, xid, tries: 0, began_ms: 0, next_ms: 0, lease: None }
    }

    pub(crate) fn next_ms(&self) -> u64 {
        self.next_ms
    }

    /// Begins anew, after a while.
    fn restart(&mut self, next_ms: u64) {
        let xid = self.xid.wrapping_mul(0x9e37_79b9).wrapping_add(1);
        *self = Dhcp { next_ms, xid, ..Dhcp::new(xid) };
    }

    /// The pause before the same message again: doubled each time, and blurred by a second.
    fn pause_ms(&self) -> u64 {
        let blur = u64::from(self.xid.rotate_left(u32::from(self.tries) * 5) & 0x7ff);
        (FIRST_MS << self.tries.min(4)).min(LONGEST_MS) + blur - 1_023.min(blur)
    }
}

impl Shard {
    /// The lease, while there is one.
    pub fn dhcp_lease(&self) -> Option<&Lease> {
        self.dhcp.as_ref().and_then(|dhcp| dhcp.lease.as_ref())
    }

    /// Gives the address back (section 4.4.6) and asks for none any more. For the owner's end: flush after it,
    /// and use the address no more.
    pub fn dhcp_release(&mut self) {
        if let Some(dhcp) = self.dhcp.take().filter(|dhcp| dhcp.lease.is_some()) {
            self.dhcp_send(&dhcp, DhcpMessageType::Release);
        }
    }

    fn dhcp_forget(&mut self, lease: &Lease) {
        self.routes.remove(lease.address.address);
        if lease.router.is_some() {
            self.routes.set_gateway(false, None);
        }
    }

    pub(crate) fn dhcp_timers(&mut self) {
        let now = self.now.ms;
        if self.dhcp.as_ref().is_none_or(|dhcp| dhcp.next_ms > now) {
            return;
        }
        let Some(mut dhcp) = self.dhcp.take() else { return };
        self.dhcp_due(&mut dhcp, now);
        self.dhcp = Some(dhcp);
    }

    fn dhcp_due(&mut self, dhcp: &mut Dhcp, now: u64) {
        if dhcp.began_ms == 0 {
            dhcp.began_ms = now;
        }
        match (dhcp.state, dhcp.lease.clone()) {
            (State::Requesting { .. }, _) if dhcp.tries >= REQUESTS => {
                dhcp.restart(now);
                self.dhcp_due(dhcp, now);
            }
            (State::Selecting, _) => {
                self.dhcp_send(dhcp, DhcpMessageType::Discover);
                dhcp.next_ms = now + dhcp.pause_ms();
                dhcp.tries = dhcp.tries.saturating_add(1);
            }
            (State::Requesting { .. }, _) => {
                self.dhcp_send(dhcp, DhcpMessageType::Request);
                dhcp.next_ms = now + dhcp.pause_ms();
                dhcp.tries += 1;
            }
            (_, Some(lease)) if now >= lease.end_ms => {
                self.dhcp_forget(&lease);
                dhcp.restart(now);
                self.dhcp_due(dhcp, now);
            }
            (_, Some(lease)) => {
                let (state, end) = if now >= lease.rebind_ms {
                    (State::Rebinding, lease.end_ms)
                } else {
                    (State::Renewing, lease.rebind_ms)
                };
                if dhcp.state != state {
                    dhcp.xid = dhcp.xid.wrapping_add(1);
                }
                dhcp.state = state;
                self.dhcp_send(dhcp, DhcpMessageType::Request);
                // Half of what is left, but not too often.
                dhcp.next_ms = (now + ((end - now) / 2).max(LEAST_RENEWAL_MS)).min(end);
            }
            (_, None) => dhcp.restart(now),
        }
    }

    /// Builds and queues a message.
    fn dhcp_send(&mut self, dhcp: &Dhcp, kind: DhcpMessageType) {
        let unset = Ipv4Addr::UNSPECIFIED;
        let own = dhcp.lease.as_ref().map_or(unset, |lease| match lease.address.address {
            IpAddr::V4(addr) => addr,
            IpAddr::V6(_) => unset,
        });
        let leased = dhcp.lease.as_ref().map(|lease| lease.server);
        let mac = EthernetAddress(self.config.mac);
        let (requested_ip, server_identifier) = match (kind, dhcp.state) {
            (DhcpMessageType::Release, _) => (None, leased),
            (DhcpMessageType::Request, State::Requesting { addr, server }) => (Some(addr), Some(server)),
            _ => (None, None),
        };
        let asks = kind != DhcpMessageType::Release;
        let own_name = self.config.dhcp_name.clone();
        let name = [DhcpOption { kind: HOST_NAME, data: &own_name }];
        let named = asks && (1..=63).contains(&own_name.len());
        let message = DhcpRepr {
            message_type: kind,
            transaction_id: dhcp.xid,
            secs: (self.now.ms.saturating_sub(dhcp.began_ms) / 1000).min(65_535) as u16,
            client_hardware_address: mac,
            client_ip: own,
            your_ip: unset,
            server_ip: unset,
            router: None,
            subnet_mask: None,
            relay_agent_ip: unset,
            broadcast: own.is_unspecified(),
            requested_ip,
            client_identifier: Some(mac),
            server_identifier,
            parameter_request_list: asks.then_some(&PARAMETERS[..]),
            dns_servers: None,
            max_size: asks.then_some(1500 - 28),
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: if named { &name } else { &[] },
        };
        let mut bytes = alloc::vec![0; message.buffer_len()];
        if message.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).is_err() {
            return;
        }
        // To the one who leased it, or to everybody.
        let direct = dhcp.state == State::Renewing || kind == DhcpMessageType::Release;
        let to = leased.filter(|_| direct).unwrap_or(Ipv4Addr::BROADCAST);
        let outline = Outline::new(own.into(), to.into(), UDP);
        let mut datagram = Vec::with_capacity(8 + bytes.len());
        datagram.extend_from_slice(&CLIENT_PORT.to_be_bytes());
        datagram.extend_from_slice(&SERVER_PORT.to_be_bytes());
        datagram.extend_from_slice(&(8 + bytes.len() as u16).to_be_bytes());
        datagram.extend_from_slice(&[0, 0]);
        datagram.append(&mut bytes);
        let sum = outline.checksum(&datagram);
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        let mut packet = outline.begin(datagram.len());
        packet.extend_from_slice(&datagram);
        self.push_packet(packet);
    }

    /// A datagram for the client's port. Whether it was the client's business.
    #[cold]
    pub(crate) fn input_dhcp(&mut self, datagram: &[u8]) -> bool {
        let ports = [SERVER_PORT.to_be_bytes(), CLIENT_PORT.to_be_bytes()].concat();
        if self.dhcp.is_none() || datagram.get(..4) != Some(&ports[..]) {
            return false;
        }
        let Some(mut dhcp) = self.dhcp.take() else { return false };
        let packet = datagram.get(8..).and_then(|bytes| DhcpPacket::new_checked(bytes).ok());
        if let Some(Ok(message)) = packet.as_ref().map(DhcpRepr::parse)
            && message.transaction_id == dhcp.xid
            && message.client_hardware_address.0 == self.config.mac
        {
            self.dhcp_message(&mut dhcp, &message);
        }
        self.dhcp = Some(dhcp);
        true
    }

    fn dhcp_message(&mut self, dhcp: &mut Dhcp, message: &DhcpRepr<'_>) {
        let now = self.now.ms;
        let Some(server) = message.server_identifier else { return };
        let addr = message.your_ip;
        let usable =
            !addr.is_unspecified() && !addr.is_multicast() && !addr.is_broadcast() && !addr.is_loopback();
        match (message.message_type, dhcp.state) {
            (DhcpMessageType::Offer, State::Selecting) if usable => {
                (dhcp.state, dhcp.tries) = (State::Requesting { addr, server }, 0);
                self.dhcp_due(dhcp, now);
            }
            (DhcpMessageType::Ack, State::Requesting { server: asked, .. }) if usable && server == asked => {
                self.dhcp_bound(dhcp, message, server);
            }
            (DhcpMessageType::Ack, State::Renewing | State::Rebinding) if usable => {
                self.dhcp_bound(dhcp, message, server);
            }
            (DhcpMessageType::Nak, State::Requesting { server: asked, .. }) if server == asked => {
                dhcp.restart(now + FIRST_MS);
            }
            (DhcpMessageType::Nak, State::Renewing | State::Rebinding) => {
                // Section 3.2: the address is not ours any more, from now on.
                if let Some(lease) = dhcp.lease.take() {
                    self.dhcp_forget(&lease);
                }
                dhcp.restart(now);
            }
            _ => {}
        }
    }

    fn dhcp_bound(&mut self, dhcp: &mut Dhcp, message: &DhcpRepr<'_>, server: Ipv4Addr) {
        let now = self.now.ms;
        let seconds = message.lease_duration.unwrap_or(DEFAULT_LEASE_S).max(LEAST_LEASE_S);
        let lease_ms = u64::from(seconds) * 1000;
        let mask = message.subnet_mask.map_or(24, |mask| u32::from(mask).leading_ones() as u8);
        // Section 4.4.5: T1 is half, T2 seven eighths; a server's own must be in that order.
        let told = |seconds: Option<u32>, default: u64| seconds.map_or(default, |s| u64::from(s) * 1000);
        let rebind = told(message.rebind_duration, lease_ms / 8 * 7).min(lease_ms);
        let renew = told(message.renew_duration, lease_ms / 2).min(rebind);
        let lease = Lease {
            address: Cidr { address: message.your_ip.into(), prefix: mask },
            router: message.router,
            dns: message.dns_servers.iter().flatten().copied().collect(),
            server,
            renew_ms: now + renew,
            rebind_ms: now + rebind,
            end_ms: if seconds == u32::MAX { u64::MAX } else { now + lease_ms },
        };
        let old = dhcp.lease.take();
        if old.as_ref().is_none_or(|old| (old.address, old.router) != (lease.address, lease.router)) {
            if let Some(old) = old {
                self.dhcp_forget(&old);
            }
            self.add_address(lease.address);
            self.routes.set_gateway(false, lease.router.map(IpAddr::V4));
        }
        (dhcp.state, dhcp.tries) = (State::Bound, 0);
        dhcp.next_ms = if lease.end_ms == u64::MAX { u64::MAX } else { lease.renew_ms };
        dhcp.lease = Some(lease);
    }
}
