//! The supervisor: holds what must outlive a server, starts servers, and is small enough to trust.
//!
//! It keeps each guest's link memory, doorbells and published host sockets, the NIC's queue, the board and
//! the port map. It looks into no frame. [`servers`] has the lives of servers, [`guests`] those of guests.
//!
//! Two kinds of network: a guest's own, which begins with `attacca run` and ends with the guest, and one
//! with a name, which has a folder, takes visitors at a socket there, and ends when it is told to. (A guest's own has
//! such a socket too, for questions: status, captures.)

mod adopt;
mod ask;
mod guests;
mod pulse;
mod servers;
mod shortcuts;
mod status;
mod switching;

use crate::board::Board;
use crate::control::{self, Place, Reply, Request, Uplink};
use crate::direct::{self, NicSpec, Opened, Queue, XdpSteering};
use crate::plan::{GATEWAY_MAC, Plan};
use crate::port_map::PortMap;
use crate::uplink::inbox::Inbox;
use crate::xdp_queues::XdpQueues;
use crate::{NetworkConfig, UplinkSpec, sys};
use ask::{Asked, Question};
use guests::Guest;
use net::control::ToGuest;
use servers::Servers;
use shortcuts::Shortcuts;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;
use switching::Switching;

pub(crate) use adopt::control_path;

/// How many messages of one guest are read before others have their turn.
const MESSAGES: usize = 16;

/// A network's supervisor.
pub(crate) struct Supervisor {
    config: NetworkConfig,
    plan: Plan,
    guests: Vec<Guest>,
    next_id: u32,
    last_address: Option<Ipv4Addr>,
    held: Held,
    servers: Servers,
    switching: Switching,
    shortcuts: Shortcuts,
    door: Option<Door>,
    adoption: Option<adopt::Adoption>,
    /// Guests of a supervisor before this one, who may come back.
    known: Vec<(u32, Place)>,
    /// Visitors whose answers wait for guests' counters.
    asked: Vec<Asked>,
    stopping: bool,
}

/// What every server is given.
pub(crate) struct Held {
    pub(crate) network: (Ipv4Addr, u8),
    pub(crate) uplink: Uplink,
    pub(crate) uplink_fds: Vec<OwnedFd>,
    pub(crate) port_map: PortMap,
    pub(crate) board: Board,
    /// The last two descriptors of the uplink are a packet socket and its memory.
    pub(crate) strays: bool,
    /// A server that wakes rings it, if we do not look at its pulse.
    pub(crate) bell: OwnedFd,
}

/// Where visitors come in.
struct Door {
    dir: PathBuf,
    /// Of a network with a name: it stays without guests, and others may join. A guest's own takes questions only.
    named: bool,
    listener: OwnedFd,
    visitors: Vec<OwnedFd>,
}

/// Serves one guest's own network until the guest is gone.
pub(crate) fn run_private(control: OwnedFd, name: &str, log: &Path, dir: &Path) -> ! {
    sys::become_daemon(c"attacca-net", Some(log));
    let config = NetworkConfig { name: name.into(), ..NetworkConfig::default() };
    let outcome = Supervisor::new(config).and_then(|mut s| s.run_for(control, dir));
    finish(outcome, log)
}

/// Serves a network with a name. Whoever starts it hears at `started` whether it is up.
pub(crate) fn run_named(config: NetworkConfig, dir: &Path, started: OwnedFd) -> ! {
    let log = dir.join("log");
    sys::become_daemon(c"attacca-net", Some(&log));
    let answer = |reply: Reply| drop(control::send(started.as_fd(), &reply, &[]));
    let is_xdp = matches!(&config.uplink, UplinkSpec::Nic(NicSpec::Xdp(..)));
    let free = if is_xdp { adopt::end_orphan(dir) } else { Ok(()) };
    let outcome = free.and_then(|()| Supervisor::new(config)).and_then(|mut s| {
        s.open_door(dir)?;
        s.start_network()?;
        answer(Reply::Done);
        s.serve()
    });
    if let Err(error) = &outcome {
        answer(Reply::Failed(error.to_string()));
    }
    finish(outcome, &log)
}

fn finish(outcome: io::Result<()>, log: &Path) -> ! {
    if let Err(error) = &outcome {
        eprintln!("attacca: network supervisor: {error}");
    }
    // (That of a network with a name was looked at before its end was told: another may write there by now.)
    if log.extension().is_some() {
        tidy_log(log);
    }
    sys::exit(i32::from(outcome.is_err()))
}

/// A log that says nothing is litter.
fn tidy_log(log: &Path) {
    if std::fs::metadata(log).is_ok_and(|m| m.len() == 0) {
        let _ = std::fs::remove_file(log);
    }
}

/// What woke us.
enum Source {
    Child,
    Bell,
    Door,
    Visitor(usize),
    Guest(u32),
}

impl Supervisor {
    fn new(config: NetworkConfig) -> io::Result<Supervisor> {
        let plan = Plan::new(&config)?;
        let OpenUplink { uplink, fds: uplink_fds, strays, xdp } = open_uplink(&config)?;
        let switching = Switching::new(&config, &uplink_fds, xdp)?;
        let held = Held {
            network: plan.network,
            uplink,
            uplink_fds,
            port_map: PortMap::create()?,
            board: Board::create()?,
            strays,
            bell: sys::eventfd()?,
        };
        Ok(Supervisor {
            config,
            plan,
            guests: Vec::new(),
            next_id: 1,
            last_address: None,
            held,
            servers: Servers::new()?,
            switching,
            shortcuts: Shortcuts::new(),
            door: None,
            adoption: None,
            known: Vec::new(),
            asked: Vec::new(),
            stopping: false,
        })
    }

    fn run_for(&mut self, first: OwnedFd, dir: &Path) -> io::Result<()> {
        let Ok(Some((Request::Attach(request), _))) = control::receive(first.as_fd()) else {
            return Ok(());
        };
        // The server begins its life while the guest begins its own.
        if self.admit(first, &request) {
            self.servers.start(&self.held, &self.guests)?;
            self.open_own_door(dir);
            self.serve()?;
        }
        Ok(())
    }

    fn start_network(&mut self) -> io::Result<()> {
        self.begin_adoption();
        if self.adoption.is_none() {
            self.servers.start(&self.held, &self.guests)?;
            self.servers.await_first(&self.held.board)?;
        }
        self.keep_record();
        Ok(())
    }

    /// The loop: until the only guest has gone, or somebody says stop.
    fn serve(&mut self) -> io::Result<()> {
        while !self.stopping && (self.is_named() || !self.guests.is_empty()) {
            let sources = self.sources();
            let fds: Vec<_> = sources.iter().map(|(fd, _)| *fd).collect();
            let adoption = self.adoption.as_ref().map(|a| a.until);
            let asked = self.asked_deadline();
            let deadline = [self.servers.deadline(), self.switching.deadline(), adoption, asked];
            let timeout = deadline.into_iter().flatten().min().map_or(-1, |at| {
                at.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000) as i32
            });
            let ready = sys::poll_readable(&fds, timeout)?;
            // From the back: what is handled may remove an entry, and those before it stay where they are.
            for (_, source) in
                sources.into_iter().zip(ready).rev().filter(|(_, ready)| *ready).map(|(s, _)| s)
            {
                self.handle(source);
            }
            self.run_switching();
            self.answer_asked();
            self.servers.run_timers(&self.held, &self.guests);
            self.end_adoption_if_due()?;
        }
        self.close();
        Ok(())
    }

    fn sources(&self) -> Vec<(i32, Source)> {
        let mut sources = vec![
            (self.servers.signals.as_raw_fd(), Source::Child),
            (self.held.bell.as_raw_fd(), Source::Bell),
        ];
        if let Some(door) = &self.door {
            sources.push((door.listener.as_raw_fd(), Source::Door));
            let visitors = door.visitors.iter().enumerate();
            sources.extend(visitors.map(|(at, v)| (v.as_raw_fd(), Source::Visitor(at))));
        }
        sources.extend(self.guests.iter().map(|g| (g.control.as_raw_fd(), Source::Guest(g.id))));
        sources
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Child => {
                self.servers.children(&self.held, &self.guests);
                self.keep_record();
            }
            Source::Bell => {
                sys::silence(self.held.bell.as_raw_fd());
                self.servers.watch(&self.held.board);
            }
            Source::Door => self.let_in(),
            Source::Visitor(at) => {
                let Some(door) = &mut self.door else { return };
                let visitor = door.visitors.swap_remove(at);
                self.visit(visitor);
            }
            Source::Guest(id) => self.hear_guest(id),
        }
    }

    fn open_door(&mut self, dir: &Path) -> io::Result<()> {
        let listener = sys::listen_at(&control_path(dir))?;
        self.door = Some(Door { dir: dir.into(), named: true, listener, visitors: Vec::new() });
        Ok(())
    }

    /// The same for a guest's own network. It can do without.
    fn open_own_door(&mut self, dir: &Path) {
        let opened = std::fs::create_dir_all(dir).and_then(|()| self.open_door(dir));
        match (opened, &mut self.door) {
            (Ok(()), Some(door)) => door.named = false,
            (Err(error), _) => eprintln!("attacca: network supervisor: nobody can ask: {error}"),
            _ => {}
        }
    }

    fn is_named(&self) -> bool {
        self.door.as_ref().is_some_and(|door| door.named)
    }

    fn let_in(&mut self) {
        let Some(door) = &mut self.door else { return };
        while let Ok(visitor) = sys::accept(door.listener.as_fd()) {
            door.visitors.push(visitor);
        }
    }

    /// A visitor has said something: one question each, but a guest stays.
    fn visit(&mut self, visitor: OwnedFd) {
        let Ok((bytes, fds)) = sys::receive(visitor.as_fd()) else { return };
        let request = match serde_json::from_slice(&bytes) {
            Ok(request) => request,
            // A guest that lost its supervisor speaks its own language.
            Err(_) if self.is_named() => return self.rejoin(visitor, &bytes, fds),
            Err(_) => return,
        };
        let outcome = match request {
            Request::Attach(_) if !self.is_named() => {
                Err(io::Error::other("a guest's own network is for it alone"))
            }
            Request::Attach(request) => {
                self.admit(visitor, &request);
                return;
            }
            Request::Switch { guest, direct, nic } => return self.visit_switch(visitor, &guest, direct, nic),
            Request::Explain(guest) => return self.ask_guests(visitor, Question::Explain(guest)),
            Request::Status => return self.ask_guests(visitor, Question::Status),
            Request::Capture(guest) => self.capture(&guest, &fds),
            Request::Restart => self.servers.restart(&self.held, &self.guests),
            Request::Fault(fault) => self.servers.fault(fault),
            Request::Upgrade(program) => self.servers.upgrade(&self.held, &self.guests, program),
            Request::Stop => {
                self.stopping = true;
                self.close();
                Ok(())
            }
        };
        self.keep_record();
        let reply = outcome.map_or_else(|error| Reply::Failed(error.to_string()), |()| Reply::Done);
        let _ = control::post(visitor.as_fd(), &reply, &[]);
    }

    /// `attacca pcap`: hands the reader's socket to the guest, which speaks for itself.
    fn capture(&self, guest: &str, fds: &[OwnedFd]) -> io::Result<()> {
        let found = self.guests.iter().find(|g| g.place.name == guest).ok_or_else(|| no_guest(guest))?;
        let fds: Vec<_> = borrow(&fds[..fds.len().min(1)]).collect();
        sys::post(found.control.as_fd(), ToGuest::Capture.encode(0).bytes(), &fds)
    }

    /// Takes the network down.
    fn close(&mut self) {
        for guest in &self.guests {
            guest.tell(0, ToGuest::Shutdown);
        }
        self.guests.clear();
        let named = self.is_named();
        if let Some(door) = self.door.take_if(|door| !door.named) {
            let _ = std::fs::remove_file(control_path(&door.dir));
            let _ = std::fs::remove_dir(&door.dir);
        }
        self.servers.stop(!named);
        if let Some(door) = self.door.take() {
            let _ = std::fs::remove_file(control_path(&door.dir));
            adopt::forget_record(&door.dir);
            tidy_log(&door.dir.join("log"));
        }
    }
}

/// Says that `guest` is not here.
fn no_guest(guest: &str) -> io::Error {
    io::Error::other(format!("the network has no guest called '{guest}'"))
}

/// An uplink and its descriptors.
struct OpenUplink {
    uplink: Uplink,
    fds: Vec<OwnedFd>,
    /// See [`Held::strays`].
    strays: bool,
    /// An AF_XDP interface's steering, and its queues for guests.
    xdp: Option<XdpQueues>,
}

/// Opens the NIC. With privileges, if it needs some: servers get the descriptors.
fn open_uplink(config: &NetworkConfig) -> io::Result<OpenUplink> {
    let spec = match &config.uplink {
        UplinkSpec::Host => {
            let uplink = Uplink::Host(GATEWAY_MAC);
            return Ok(OpenUplink { uplink, fds: Vec::new(), strays: false, xdp: None });
        }
        UplinkSpec::Nic(spec) => spec,
    };
    let (opened, xdp) = match spec {
        NicSpec::Tap(name, _) => {
            // Several queues only if some are for guests in direct mode.
            let mut opened = direct::open_tap(name, config.direct_queues > 0, [0; 6])?;
            opened.fds.push(Inbox::create()?);
            (opened, None)
        }
        NicSpec::Xdp(name, direct::ALL_QUEUES) => return open_xdp_uplink(name, config.direct_queues),
        NicSpec::Xdp(name, queue) => {
            let opened = direct::when_free(|| direct::open_xdp(name, *queue, false))?;
            let steering = XdpSteering::attach(name)?;
            steering.add_server_socket(*queue, opened.fds[0].as_fd())?;
            (opened, Some(XdpQueues::new(name, steering, 0, 0)))
        }
        NicSpec::Wire(_) => {
            return Err(io::Error::other(
                "--uplink wire: joins two guests without a network; use host, tap or xdp",
            ));
        }
    };
    let Opened { queue, fds, mac } = opened;
    Ok(OpenUplink { uplink: Uplink::Nic(queue, mac), fds, strays: false, xdp })
}

/// All receive queues of an AF_XDP interface: the last ones for guests, the others for the server.
fn open_xdp_uplink(name: &str, for_guests: u32) -> io::Result<OpenUplink> {
    let count = direct::receive_queues(name)?;
    let Some(ours) = count.checked_sub(for_guests).filter(|ours| *ours != 0) else {
        return Err(io::Error::other(format!(
            "interface '{name}' receives on {count} queues: --direct-queues {for_guests} leaves none for the server (more \
             queues: 'ethtool -L {name} combined N', or for a veth 'numrxqueues N numtxqueues N' when it is made)"
        )));
    };
    let steering = XdpSteering::attach(name)?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    let mut first: Option<(Queue, [u8; 6])> = None;
    for queue in 0..ours {
        let opened = direct::when_free(|| direct::open_xdp(name, queue, false))?;
        steering.add_server_socket(queue, opened.fds[0].as_fd())?;
        fds.extend(opened.fds);
        first.get_or_insert((opened.queue, opened.mac));
    }
    let Some((queue, mac)) = first else { return Err(io::Error::other("no queue")) };
    let strays = for_guests != 0;
    if strays {
        fds.extend(steering.open_strays(name)?);
    }
    let xdp = XdpQueues::new(name, steering, ours, for_guests);
    Ok(OpenUplink { uplink: Uplink::Nic(queue, mac), fds, strays, xdp: Some(xdp) })
}

/// Borrowed forms of descriptors, for messages.
pub(crate) fn borrow(fds: &[OwnedFd]) -> impl Iterator<Item = BorrowedFd<'_>> {
    fds.iter().map(|fd| fd.as_fd())
}

#[cfg(test)]
pub(crate) mod testing {
    //! A guest's place without a supervisor around it.

    use super::*;
    use crate::control::{ORDERS_VERSION, Order, Place};
    use crate::{GuestRequest, Publish};

    /// The place of a first guest, its link, and the host's listeners.
    pub(crate) fn place(publish: &[Publish]) -> (Place, OwnedFd, Vec<OwnedFd>) {
        let request = GuestRequest { name: "test".into(), publish: publish.to_vec(), ..Default::default() };
        let mut supervisor = Supervisor::new(NetworkConfig::default()).unwrap();
        let guest = supervisor.make_guest(&request, std::process::id() as i32).unwrap();
        (guest.place, guest.link, guest.listeners)
    }

    /// What a server is given, without servers.
    pub(crate) fn held(network: (Ipv4Addr, u8)) -> Held {
        Held {
            network,
            uplink: Uplink::Host(GATEWAY_MAC),
            uplink_fds: Vec::new(),
            port_map: PortMap::create().unwrap(),
            board: Board::create().unwrap(),
            strays: false,
            bell: sys::eventfd().unwrap(),
        }
    }

    /// The first order.
    pub(crate) fn hello(held: &Held) -> Order {
        let (network, uplink) = (held.network, held.uplink.clone());
        Order::Hello { version: ORDERS_VERSION, network, uplink, strays: held.strays }
    }
}
