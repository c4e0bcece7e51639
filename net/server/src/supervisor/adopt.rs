//! When the supervisor itself has died.
//!
//! Guests and server run on: the server sees its orders end and serves whom it has until they end (nobody
//! joins, and a crash of that server is not mended). A guest sees its control socket close and knocks at the
//! network's door until somebody opens. `attacca server start` of the same name opens: it reads the record
//! that the dead supervisor kept (who had which place), waits a moment for the guests of the record, who bring
//! their link's descriptors, ends the orphaned server, and starts its own, which goes on from the links' memory.
//!
//! Lost by then: connections of uplink `host` (their sockets end with the orphaned server), counters, and what
//! waits in published listeners' queues. Ports that were claimed since are told again by the guests.

use super::Supervisor;
use super::guests::{Guest, listen};
use crate::control::Place;
use crate::sys;
use net::control::{Mode, ToGuest, ToSupervisor};
use net::ring::Link;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the guests of the record may take to come; later ones are welcome too.
const KNOCK: Duration = Duration::from_millis(1500);

/// What is kept for the next supervisor.
#[derive(Serialize, Deserialize)]
struct Record {
    /// The server's process and when it started (ticks since boot), so that no other is taken for it.
    server: Option<(i32, u64)>,
    next_id: u32,
    last_address: Option<Ipv4Addr>,
    guests: Vec<(u32, Place)>,
}

/// Guests that are expected.
pub(super) struct Adoption {
    pub(super) until: Instant,
    record: Record,
}

/// Where a network's visitors knock.
pub(crate) fn control_path(dir: &Path) -> PathBuf {
    dir.join("control")
}

fn record_path(dir: &Path) -> PathBuf {
    dir.join("record.json")
}

fn read_record(dir: &Path) -> Option<Record> {
    serde_json::from_slice(&std::fs::read(record_path(dir)).ok()?).ok()
}

/// Ends the server of a supervisor that has died, if there is one. An AF_XDP queue has one socket: the orphaned server's, as long as
/// that lives. (Elsewhere it serves its guests until they have come back.)
pub(super) fn end_orphan(dir: &Path) -> io::Result<()> {
    read_record(dir).and_then(|record| record.server).map_or(Ok(()), end_server)
}

/// Ends the process that began then, and waits for that.
fn end_server((pid, at): (i32, u64)) -> io::Result<()> {
    let Ok(process) = sys::pidfd(pid) else { return Ok(()) };
    // Looked at after the pidfd was made: it is this process that is meant.
    if started(pid) == Some(at) {
        sys::kill(process.as_fd());
        sys::poll_readable(&[process.as_raw_fd()], -1)?;
    }
    Ok(())
}

/// The network is over.
pub(super) fn forget_record(dir: &Path) {
    let _ = std::fs::remove_file(record_path(dir));
}

impl Supervisor {
    /// Writes down what a successor must know. Aside first: a record is whole or the one before.
    pub(super) fn keep_record(&self) {
        let Some(door) = self.door.as_ref().filter(|door| door.named) else { return };
        if self.adoption.is_some() || self.stopping {
            return;
        }
        let server = self.servers.server.as_ref().and_then(|s| Some((s.pid, started(s.pid)?)));
        let record = Record {
            server,
            next_id: self.next_id,
            last_address: self.last_address,
            guests: self.guests.iter().map(|g| (g.id, g.place.clone())).collect(),
        };
        let aside = door.dir.join("record.new");
        let kept = serde_json::to_vec(&record)
            .map_err(io::Error::from)
            .and_then(|text| std::fs::write(&aside, text))
            .and_then(|()| std::fs::rename(&aside, record_path(&door.dir)));
        if let Err(error) = kept {
            eprintln!("attacca: network supervisor: cannot keep the record: {error}");
        }
    }

    /// If there is a record of one before us, its guests are waited for.
    pub(super) fn begin_adoption(&mut self) {
        let Some(door) = &self.door else { return };
        let Some(record) = read_record(&door.dir) else { return };
        self.known.clone_from(&record.guests);
        self.next_id = record.next_id;
        self.last_address = record.last_address;
        self.adoption = Some(Adoption { until: Instant::now() + KNOCK, record });
    }

    /// A guest knocks.
    pub(super) fn rejoin(&mut self, control: OwnedFd, bytes: &[u8], fds: Vec<OwnedFd>) {
        let Ok((request, message @ ToSupervisor::Rejoin { .. })) = ToSupervisor::decode(bytes) else {
            return;
        };
        match self.take_back(&control, message, fds) {
            Ok(mut guest) => {
                guest.control = control;
                guest.tell(request, ToGuest::Granted);
                self.keep(guest);
            }
            Err(error) => {
                eprintln!("attacca: network supervisor: a guest that came back was refused: {error}");
                let refused = ToGuest::Refused(libc::EINVAL).encode(request);
                let _ = sys::post(control.as_fd(), refused.bytes(), &[]);
            }
        }
    }

    fn take_back(
        &mut self,
        control: &OwnedFd,
        message: ToSupervisor,
        fds: Vec<OwnedFd>,
    ) -> io::Result<Guest> {
        let ToSupervisor::Rejoin { mac, address, name, ephemeral } = message else {
            return Err(io::Error::other("no guest"));
        };
        let refused = |words: &str| Err(io::Error::other(format!("'{}': {words}", name.as_str())));
        let Ok([link, to_server, to_guest]) = <[OwnedFd; 3]>::try_from(fds) else {
            return refused("it brought no link");
        };
        let known = self.known.iter().find(|(_, p)| {
            p.name == name.as_str() && p.mac == mac && p.address == address && p.ephemeral == ephemeral
        });
        let Some((id, place)) = known.cloned() else { return refused("the record does not know it") };
        if self.guests.iter().any(|g| g.id == id) {
            return refused("it is here already");
        }
        // A link that could shrink would be the end of servers that map it.
        sys::check_sealed(link.as_fd())?;
        let mapping = sys::Mapping::new(link.as_fd(), true)?;
        // SAFETY: page-aligned and as long as said; nothing taken from it outlives the mapping.
        if let Err(error) = unsafe { Link::open(mapping.base, mapping.len) } {
            return refused(&error.to_string());
        }
        for bell in [&to_server, &to_guest] {
            sys::check_eventfd(bell.as_fd())?;
        }
        let mut place = place;
        let listeners = place.publish.iter_mut().map(listen).collect::<io::Result<Vec<_>>>();
        let pid = sys::peer_pid(control.as_fd())?;
        self.own_again(id, &place)?;
        Ok(Guest {
            id,
            pid,
            control: sys::eventfd()?,
            link,
            to_server,
            to_guest,
            process: sys::pidfd(pid)?,
            listeners: listeners.unwrap_or_else(|error| {
                eprintln!("attacca: network supervisor: '{}' is published no more: {error}", place.name);
                place.publish.clear();
                Vec::new()
            }),
            claims: HashSet::new(),
            leases: Vec::new(),
            mode: Mode::Server,
            counters: None,
            place,
        })
    }

    fn own_again(&mut self, id: u32, place: &Place) -> io::Result<()> {
        place.addresses().try_for_each(|address| self.own_one_again(id, place, address))
    }

    fn own_one_again(&mut self, id: u32, place: &Place, address: IpAddr) -> io::Result<()> {
        let map = &mut self.held.port_map;
        if map.own_address(address, id) {
            return Ok(());
        }
        let first = self.guests.iter().find(|g| g.place.addresses().any(|a| a == address));
        let ports = |(low, high): (u16, u16)| {
            [net::control::Proto::Tcp, net::control::Proto::Udp]
                .into_iter()
                .flat_map(move |proto| (low..=high).map(move |port| (proto, port)))
        };
        let shared = first
            .is_some_and(|f| map.share(address, f.claims.iter().copied().chain(ports(f.place.ephemeral))));
        let whole = ports(place.ephemeral).all(|(proto, port)| map.claim(address, proto, port, id));
        if shared && whole { Ok(()) } else { Err(io::Error::other("its address is another's")) }
    }

    /// All have come, or the time is over: the orphaned server ends, ours begins.
    pub(super) fn end_adoption_if_due(&mut self) -> io::Result<()> {
        let Some(adoption) = &self.adoption else { return Ok(()) };
        let waited = adoption.record.guests.iter().filter(|(id, _)| self.guests.iter().all(|g| g.id != *id));
        let dead = adoption.record.server.is_none_or(|(pid, at)| started(pid) != Some(at));
        if waited.count() != 0 && Instant::now() < adoption.until && !dead {
            return Ok(());
        }
        adoption.record.server.map_or(Ok(()), end_server)?;
        self.adoption = None;
        self.servers.start(&self.held, &self.guests)?;
        self.keep_record();
        Ok(())
    }
}

/// When a process started, in ticks since boot (field 22 of proc(5)'s stat); `None` if it has ended.
fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
