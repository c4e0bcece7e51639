//! Neighbours' hardware addresses, found by ARP or neighbour discovery, and whether they are still there: the
//! states of RFC 4861 section 7.3, for IPv4 as well (as Linux does it).

use alloc::vec::Vec;
use core::net::IpAddr;

use hashbrown::HashMap;
use smoltcp::wire::EthernetAddress;

/// Entries kept. When it is full, an entry that is not in use by a question is replaced.
const MAX_ENTRIES: usize = 4096;
/// Packets kept for an address that is being asked for (RFC 1122 asks for one at least).
const MAX_WAITING: usize = 8;
/// Questions before the address counts as absent, a second apart (MAX_MULTICAST_SOLICIT,
/// MAX_UNICAST_SOLICIT, RETRANS_TIMER).
const MAX_TRIES: u8 = 3;
const RETRY_MS: u64 = 1_000;
/// An answer is believed so long (REACHABLE_TIME; routers may say otherwise).
const REACHABLE_MS: u64 = 30_000;
/// A stale entry in use gets so long to be confirmed by others before it is asked (DELAY_FIRST_PROBE_TIME).
const DELAY_MS: u64 = 5_000;

/// RFC 4861 section 7.3.2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Asked for; no hardware address yet.
    #[default]
    Incomplete,
    /// Confirmed a short while ago.
    Reachable,
    /// Believed until somebody uses it.
    Stale,
    /// Used while stale; will be asked.
    Delay,
    /// Asked, at its known hardware address.
    Probe,
}

#[derive(Default)]
struct Neighbor {
    addr: Option<IpAddr>,
    mac: Option<[u8; 6]>,
    state: State,
    router: bool,
    confirmed_ms: u64,
    /// The next question or its giving up is due; 0 if none is under way.
    ask_ms: u64,
    tries: u8,
    /// Connections that wait, and whole IP packets.
    connections: Vec<u32>,
    packets: Vec<Vec<u8>>,
}

/// What came of a question.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) connections: Vec<u32>,
    /// Packets to send now, or that could not be delivered.
    pub(crate) packets: Vec<Vec<u8>>,
    /// Neighbours that do not answer any more.
    pub(crate) gone: Vec<IpAddr>,
}

/// How something was learnt.
#[derive(Clone, Copy, Default)]
pub(crate) struct News {
    /// Make an entry if there is none.
    pub(crate) create: bool,
    /// It answers a question of ours: the neighbour is there and hears us.
    pub(crate) solicited: bool,
    /// It may replace a different hardware address (the O flag).
    pub(crate) replace: bool,
    /// Whether the neighbour is a router, if that was said.
    pub(crate) router: Option<bool>,
}

/// The table. A slot's number is stable while its address is, so that connections remember it and skip the
/// lookup.
pub(crate) struct Neighbors {
    slots: Vec<Neighbor>,
    index: HashMap<IpAddr, u16>,
    /// Addresses to ask for at the next sending, and where if that is known.
    pub(crate) questions: Vec<(IpAddr, Option<[u8; 6]>)>,
    asking: usize,
    pub(crate) reachable_ms: u64,
    pub(crate) retry_ms: u64,
}

impl Default for Neighbors {
    fn default() -> Neighbors {
        Neighbors {
            slots: Vec::new(),
            index: HashMap::new(),
            questions: Vec::new(),
            asking: 0,
            reachable_ms: REACHABLE_MS,
            retry_ms: RETRY_MS,
        }
    }
}

impl Neighbors {
    /// The hardware address of `addr`. `slot` remembers where it was found. On a miss a question is due,
    /// and the caller should wait.
    #[inline]
    pub(crate) fn lookup(&mut self, addr: IpAddr, slot: &mut u16, now_ms: u64) -> Option<[u8; 6]> {
        let hit = self.slots.get(usize::from(*slot)).is_some_and(|n| n.addr == Some(addr));
        if !hit {
            *slot = self.slot_for(addr)?;
        }
        let neighbor = &mut self.slots[usize::from(*slot)];
        let fresh = neighbor.state == State::Reachable && now_ms <= neighbor.confirmed_ms + self.reachable_ms;
        if !fresh {
            self.used_while_doubtful(usize::from(*slot), now_ms);
        }
        self.slots[usize::from(*slot)].mac
    }

    #[cold]
    fn used_while_doubtful(&mut self, slot: usize, now_ms: u64) {
        let neighbor = &mut self.slots[slot];
        match neighbor.state {
            State::Incomplete if neighbor.ask_ms == 0 => {
                (neighbor.ask_ms, neighbor.tries) = (now_ms + self.retry_ms, 1);
                self.asking += 1;
                self.questions.extend(neighbor.addr.map(|addr| (addr, None)));
            }
            State::Reachable | State::Stale => {
                (neighbor.state, neighbor.ask_ms) = (State::Delay, now_ms + DELAY_MS);
                self.asking += 1;
            }
            _ => {}
        }
    }

    /// Lets a connection wait for the address in `slot`.
    pub(crate) fn wait(&mut self, slot: u16, connection: u32) {
        if let Some(neighbor) = self.slots.get_mut(usize::from(slot)) {
            neighbor.connections.push(connection);
        }
    }

    /// Lets a packet wait; the oldest is dropped if there are too many.
    pub(crate) fn wait_packet(&mut self, slot: u16, packet: Vec<u8>) {
        if let Some(neighbor) = self.slots.get_mut(usize::from(slot)) {
            if neighbor.packets.len() >= MAX_WAITING {
                neighbor.packets.remove(0);
            }
            neighbor.packets.push(packet);
        }
    }

    /// Somebody said that `addr` is at `mac` (`None`: only that it is there). RFC 4861 sections 7.2.3 to
    /// 7.2.5.
    pub(crate) fn learn(&mut self, addr: IpAddr, mac: Option<[u8; 6]>, news: News, now_ms: u64) -> Outcome {
        let usable = mac.is_none_or(|mac| EthernetAddress(mac).is_unicast());
        if !usable || addr.is_unspecified() || addr.is_multicast() {
            return Outcome::default();
        }
        let slot = match self.index.get(&addr) {
            Some(slot) => Some(*slot),
            None if news.create && mac.is_some() => self.slot_for(addr),
            None => None,
        };
        let Some(slot) = slot else { return Outcome::default() };
        let neighbor = &mut self.slots[usize::from(slot)];
        let was = neighbor.state;
        let differs = mac.is_some() && neighbor.mac != mac;
        if neighbor.mac.is_none() && mac.is_none() {
            return Outcome::default();
        }
        neighbor.router = news.router.unwrap_or(neighbor.router);
        if neighbor.mac.is_some() && differs && !news.replace {
            if was == State::Reachable {
                neighbor.state = State::Stale;
            }
            return Outcome::default();
        }
        neighbor.mac = mac.or(neighbor.mac);
        if news.solicited {
            (neighbor.state, neighbor.confirmed_ms) = (State::Reachable, now_ms);
        } else if differs {
            neighbor.state = State::Stale;
        }
        if neighbor.state != was && core::mem::take(&mut neighbor.ask_ms) != 0 {
            self.asking -= 1;
        }
        neighbor.tries = 0;
        Outcome {
            connections: core::mem::take(&mut neighbor.connections),
            packets: core::mem::take(&mut neighbor.packets),
            gone: Vec::new(),
        }
    }

    /// What is known of an address: state and hardware address.
    pub(crate) fn state(&self, addr: IpAddr) -> Option<(State, Option<[u8; 6]>)> {
        let neighbor = &self.slots[usize::from(*self.index.get(&addr)?)];
        Some((neighbor.state, neighbor.mac))
    }

    /// Asks again where no answer came; returns what waited for an address that does not answer.
    pub(crate) fn timers(&mut self, now_ms: u64) -> Option<Outcome> {
        if self.asking == 0 {
            return None;
        }
        let mut failed = Outcome::default();
        for neighbor in self.slots.iter_mut().filter(|n| n.ask_ms != 0 && n.ask_ms <= now_ms) {
            if neighbor.state == State::Delay {
                (neighbor.state, neighbor.tries) = (State::Probe, 0);
            }
            if neighbor.tries < MAX_TRIES {
                neighbor.tries += 1;
                neighbor.ask_ms = now_ms + self.retry_ms;
                self.questions.extend(neighbor.addr.map(|addr| (addr, neighbor.mac)));
                continue;
            }
            failed.gone.extend(neighbor.addr.filter(|_| neighbor.state == State::Probe));
            (neighbor.ask_ms, neighbor.mac, neighbor.state) = (0, None, State::Incomplete);
            self.asking -= 1;
            failed.connections.append(&mut neighbor.connections);
            failed.packets.append(&mut neighbor.packets);
        }
        Some(failed)
    }

    pub(crate) fn next_ms(&self) -> Option<u64> {
        if self.asking == 0 {
            return None;
        }
        self.slots.iter().map(|n| n.ask_ms).filter(|at| *at != 0).min()
    }

    fn slot_for(&mut self, addr: IpAddr) -> Option<u16> {
        if let Some(slot) = self.index.get(&addr) {
            return Some(*slot);
        }
        let slot = if self.slots.len() < MAX_ENTRIES {
            self.slots.push(Neighbor::default());
            self.slots.len() - 1
        } else {
            let idle = self.slots.iter().enumerate().filter(|(_, n)| n.ask_ms == 0);
            let (slot, _) = idle.min_by_key(|(_, n)| n.confirmed_ms)?;
            self.index.remove(&self.slots[slot].addr?);
            slot
        };
        self.slots[slot] = Neighbor { addr: Some(addr), ..Neighbor::default() };
        self.index.insert(addr, slot as u16);
        Some(slot as u16)
    }
}

impl crate::Shard {
    /// IPv4 neighbours that are known or asked for, with their hardware addresses; the last says that nobody was asked.
    pub fn neighbors_v4(&self) -> Vec<(core::net::Ipv4Addr, Option<[u8; 6]>, bool)> {
        if let (Some(mac), Some(IpAddr::V4(gateway))) = (self.config.peer_mac, self.config.gateway) {
            return alloc::vec![(gateway, Some(mac), true)];
        }
        let v4 = |addr: Option<IpAddr>| match addr {
            Some(IpAddr::V4(v4)) => Some(v4),
            _ => None,
        };
        let known = |neighbor: &Neighbor| Some((v4(neighbor.addr)?, neighbor.mac, false));
        self.neighbors.slots.iter().filter_map(known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 8];

    fn addr() -> IpAddr {
        "fe80::9".parse().unwrap()
    }

    #[test]
    fn goes_through_the_states_of_rfc_4861() {
        let mut table = Neighbors::default();
        let mut slot = u16::MAX;
        let state = |table: &Neighbors| table.state(addr()).unwrap().0;
        assert_eq!(table.lookup(addr(), &mut slot, 1000), None);
        assert_eq!(table.questions.pop(), Some((addr(), None)));
        let answer = News { solicited: true, replace: true, ..News::default() };
        table.learn(addr(), Some(MAC), answer, 1100);
        assert_eq!(state(&table), State::Reachable);
        assert_eq!(table.next_ms(), None);
        // Time passes; use makes it doubtful, and five seconds later it is asked, where it was.
        assert_eq!(table.lookup(addr(), &mut slot, 40_000), Some(MAC));
        assert_eq!(state(&table), State::Delay);
        assert_eq!(table.next_ms(), Some(45_000));
        table.timers(45_000);
        assert_eq!(state(&table), State::Probe);
        assert_eq!(table.questions.pop(), Some((addr(), Some(MAC))));
        for at in [46_000, 47_000] {
            assert!(table.timers(at).unwrap().gone.is_empty());
        }
        assert_eq!(table.timers(48_000).unwrap().gone, [addr()]);
        assert_eq!(state(&table), State::Incomplete);
        assert_eq!(table.next_ms(), None);
    }

    #[test]
    fn advertisements_without_override_do_not_replace() {
        let mut table = Neighbors::default();
        let create = News { create: true, ..News::default() };
        table.learn(addr(), Some(MAC), create, 0);
        assert_eq!(table.state(addr()), Some((State::Stale, Some(MAC))));
        table.learn(addr(), Some(MAC), News { solicited: true, ..News::default() }, 10);
        table.learn(addr(), Some(OTHER), News { solicited: true, ..News::default() }, 20);
        assert_eq!(table.state(addr()), Some((State::Stale, Some(MAC))));
        table.learn(addr(), Some(OTHER), News { replace: true, ..News::default() }, 20);
        assert_eq!(table.state(addr()), Some((State::Stale, Some(OTHER))));
    }
}
