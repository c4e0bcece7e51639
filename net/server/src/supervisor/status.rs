//! What a network says of itself: `attacca server status`.

use super::Supervisor;
use super::guests::Guest;
use crate::board::REASONS;
use crate::control::{Reply, Uplink};
use crate::port_map::Owned;
use crate::{UplinkSpec, control, sys};
use net::control::{Counters, Mode, Proto};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::Relaxed;

#[derive(Serialize)]
struct Status {
    /// The serving process; first, for those who look with simple means.
    pid: Option<i32>,
    name: String,
    supervisor: u32,
    standby: Option<i32>,
    state: &'static str,
    generation: u64,
    restarts: u64,
    uptime_ms: Option<u128>,
    last_end: Option<String>,
    backoff_ms: u128,
    uplink: String,
    network: String,
    gateway: Option<String>,
    network6: Option<String>,
    gateway6: Option<String>,
    uplink_frames: [u64; 2],
    uplink_bytes: [u64; 2],
    guests: Vec<GuestStatus>,
}

#[derive(Serialize)]
struct GuestStatus {
    name: String,
    pid: i32,
    address: String,
    address6: Option<String>,
    shared: bool,
    mac: String,
    mode: &'static str,
    switching: Option<super::switching::SwitchStatus>,
    counters: Option<CounterStatus>,
    cut_off: bool,
    frames_from: u64,
    frames_to: u64,
    bytes_from: u64,
    bytes_to: u64,
    ring_from: u32,
    ring_to: u32,
    drops: BTreeMap<&'static str, u64>,
    ports: Vec<String>,
    published: Vec<String>,
    leases: Vec<String>,
    /// Guests that it reaches past the server.
    shortcuts: Vec<String>,
}

/// What a guest counted, by mode.
#[derive(Serialize)]
struct CounterStatus {
    server: ModeStatus,
    direct: ModeStatus,
    /// Frames that the engine had to hold back, since the device had no room.
    held_up: u64,
    retransmissions: u64,
    switches: u64,
    recoveries: u64,
    last_gap_us: f64,
    cpu_ms: f64,
}

#[derive(Serialize)]
struct ModeStatus {
    frames_received: u64,
    frames_sent: u64,
    bytes_received: u64,
    bytes_sent: u64,
}

impl From<Counters> for CounterStatus {
    fn from(c: Counters) -> CounterStatus {
        let mode = |at: usize| ModeStatus {
            frames_received: c.frames[at],
            frames_sent: c.frames[at + 1],
            bytes_received: c.bytes[at],
            bytes_sent: c.bytes[at + 1],
        };
        CounterStatus {
            server: mode(0),
            direct: mode(2),
            held_up: c.drops,
            retransmissions: c.retransmissions,
            switches: c.switches,
            recoveries: c.recoveries,
            last_gap_us: c.last_gap_ns as f64 / 1e3,
            cpu_ms: c.cpu_ns as f64 / 1e6,
        }
    }
}

impl Supervisor {
    /// Answers with the status in a memfd, which has no longest message.
    pub(super) fn tell_status(&self, to: BorrowedFd<'_>) {
        let told = serde_json::to_vec(&self.status()).map_err(Into::into).and_then(|text| {
            let mut file = sys::open_memfd(c"attacca-status")?;
            file.write_all(&text)?;
            control::post(to, &Reply::Done, &[file.as_fd()])
        });
        if let Err(error) = told {
            let _ = control::post(to, &Reply::Failed(error.to_string()), &[]);
        }
    }

    fn status(&self) -> Status {
        let servers = &self.servers;
        let counts: [u64; 4] = std::array::from_fn(|at| self.held.board.uplink()[at].load(Relaxed));
        Status {
            pid: servers.server.as_ref().map(|s| s.pid),
            name: self.config.name.clone(),
            supervisor: std::process::id(),
            standby: servers.standby.as_ref().map(|s| s.pid),
            state: match (&servers.server, &self.adoption) {
                (_, Some(_)) => "adopting",
                (Some(_), _) => "running",
                (None, _) => "backing off",
            },
            generation: servers.generation,
            restarts: servers.restarts,
            uptime_ms: servers.server.as_ref().map(|s| s.began.elapsed().as_millis()),
            last_end: servers.last_end.clone(),
            backoff_ms: servers.backoff().as_millis(),
            uplink: match (&self.config.uplink, &self.held.uplink) {
                (UplinkSpec::Nic(spec), _) => spec.to_string(),
                (UplinkSpec::Host, Uplink::Host(_) | Uplink::Nic(..)) => "host".into(),
            },
            network: format!("{}/{}", self.plan.network.0, self.plan.network.1),
            gateway: self.plan.gateway.map(|g| g.to_string()),
            network6: self.plan.network6.map(|(network, length)| format!("{network}/{length}")),
            gateway6: self.plan.gateway6.map(|g| g.to_string()),
            uplink_frames: [counts[0], counts[2]],
            uplink_bytes: [counts[1], counts[3]],
            guests: self.guests.iter().map(|g| self.guest_status(g)).collect(),
        }
    }

    fn name_of(&self, guest: u32) -> Option<String> {
        self.guests.iter().find(|other| other.id == guest).map(|other| other.place.name.clone())
    }

    fn guest_status(&self, guest: &Guest) -> GuestStatus {
        let (place, slot) = (&guest.place, self.held.board.slot(guest.place.slot));
        let proto = |proto: &Proto| if *proto == Proto::Tcp { "tcp" } else { "udp" };
        let mut ports: Vec<String> =
            guest.claims.iter().map(|(p, port)| format!("{port}/{}", proto(p))).collect();
        ports.sort();
        GuestStatus {
            name: place.name.clone(),
            pid: guest.pid,
            address: place.address.to_string(),
            address6: place.address6.map(|(address, _)| address.to_string()),
            shared: matches!(self.held.port_map.owner(place.address), Some(Owned::Shared(..))),
            mac: place.mac.map(|b| format!("{b:02x}")).join(":"),
            switching: self.switching.status(guest.id),
            counters: guest.counters.map(CounterStatus::from),
            mode: if guest.mode == Mode::Direct { "direct" } else { "server" },
            cut_off: slot.cut_off.load(Relaxed) != 0,
            frames_from: slot.frames_from.load(Relaxed),
            frames_to: slot.frames_to.load(Relaxed),
            bytes_from: slot.bytes_from.load(Relaxed),
            bytes_to: slot.bytes_to.load(Relaxed),
            ring_from: slot.waiting_from.load(Relaxed),
            ring_to: slot.waiting_to.load(Relaxed),
            drops: REASONS.into_iter().zip(slot.drops()).collect(),
            ports,
            published: place
                .publish
                .iter()
                .map(|p| format!("{}->{}/{}", p.host, p.guest_port, if p.udp { "udp" } else { "tcp" }))
                .collect(),
            leases: guest.leases.iter().map(|l| l.to_string()).collect(),
            shortcuts: self.shortcuts.of(guest.id).filter_map(|other| self.name_of(other)).collect(),
        }
    }
}
