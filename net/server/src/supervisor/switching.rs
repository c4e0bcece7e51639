//! The live switch: which guests have a queue of their own, and how they get and lose it.
//!
//! *To direct:* the queue is opened and handed over; the guest uses it and says so; then steering moves. *To the
//! server:* steering moves first, the guest follows, and the queue is closed when what was under way has arrived. In
//! both cases the guest hears at both devices while frames may come at either, so none is lost.
//!
//! A guest that falls back by itself (its device died) is believed. One that does not answer keeps what it has:
//! steering is where it was.

use super::Supervisor;
use super::guests::Guest;
use crate::bpf::Rule;
use crate::control::{self, Reply, Uplink};
use crate::direct::NicSpec;
use crate::policy::{Policy, Sample, Tuning};
use crate::port_map::Owned;
use crate::queues::Queues;
use crate::xdp_queues::XdpQueues;
use crate::{NetworkConfig, UplinkSpec, sys};
use net::control::{Claim, Counters, Mode, Proto, Stage, ToGuest};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// A guest answers within this time, or its switch has failed.
const PATIENCE: Duration = Duration::from_secs(2);
/// A guest that begins has so much more.
const START: Duration = Duration::from_secs(10);
/// From the guest's return to the closing of its queue. The guest itself listens for 20 ms.
const LINGER: Duration = Duration::from_millis(100);
/// Between two looks at queues that a guest has not closed yet.
const SWEEP: Duration = Duration::from_millis(10);
/// Rates are measured over so much at least.
const SHORTEST: Duration = Duration::from_millis(300);
/// Between two decisions of the policy.
const DECIDE: Duration = Duration::from_secs(1);

/// What the supervisor knows of all guests' modes.
pub(super) struct Switching {
    queues: Queues,
    guests: HashMap<u32, State>,
    /// Given away by measure.
    policy: Option<Policy>,
    decide_at: Option<Instant>,
    began: Instant,
    /// When a queue was last closed. The kernel gives a NIC's queue free a little later.
    closed: Option<Instant>,
    next_request: u32,
}

/// One guest's.
struct State {
    since: Instant,
    why: String,
    /// The user chose.
    pinned: bool,
    pending: Option<Pending>,
    close_at: Option<Instant>,
    /// A switch that begins when the last queue is closed.
    waiting: Option<(Option<NicSpec>, String, Option<OwnedFd>)>,
    switches: u64,
    last_gap_ns: u64,
    /// Frames and processor time when last counted, and when.
    counted: Option<(Instant, u64, u64)>,
    rate: (f64, f64),
}

/// A switch under way.
struct Pending {
    request: u32,
    direct: bool,
    why: String,
    until: Instant,
    /// Who waits for the outcome.
    visitor: Option<OwnedFd>,
}

/// For `attacca server status` and `attacca ps`.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct SwitchStatus {
    since_ms: u128,
    why: String,
    switches: u64,
    last_gap_us: f64,
    frames_per_second: f64,
}

impl Default for State {
    fn default() -> State {
        State {
            since: Instant::now(),
            why: "guests begin with the server".into(),
            pinned: false,
            pending: None,
            close_at: None,
            waiting: None,
            switches: 0,
            last_gap_ns: 0,
            counted: None,
            rate: (0.0, 0.0),
        }
    }
}

impl Switching {
    pub(super) fn new(
        config: &NetworkConfig,
        uplink_fds: &[OwnedFd],
        xdp: Option<XdpQueues>,
    ) -> io::Result<Switching> {
        let uplink = match (&config.uplink, uplink_fds.first()) {
            (UplinkSpec::Nic(NicSpec::Tap(name, _)), Some(fd)) => Some((name.as_str(), fd)),
            _ => None,
        };
        let queues = match xdp {
            Some(xdp) => Queues::of_xdp(xdp),
            None => Queues::new(uplink, config.direct_queues as usize)?,
        };
        let policy = config.auto.then(|| Policy::new(Tuning::default()));
        let decide_at = policy.as_ref().map(|_| Instant::now() + DECIDE);
        let guests = HashMap::new();
        let began = Instant::now();
        Ok(Switching { queues, guests, policy, decide_at, began, closed: None, next_request: 1 })
    }

    /// From now on frames under `rule` come to the server, or to the guest that has them.
    pub(super) fn serve(&mut self, rule: Rule) -> io::Result<()> {
        self.queues.serve(rule)
    }

    /// They are the host's again.
    pub(super) fn unserve(&mut self, rule: Rule) {
        self.queues.forget(rule);
    }

    /// A guest in direct mode has got these besides.
    pub(super) fn steer(&mut self, guest: u32, rules: &[Rule]) {
        if let Err(error) = self.queues.steer(guest, rules) {
            eprintln!("attacca: network supervisor: guest {guest}: {error}");
        }
    }

    /// It has lost this.
    pub(super) fn unsteer(&mut self, guest: u32, rule: Rule) {
        self.queues.unsteer_one(guest, rule);
    }

    /// A guest has come.
    pub(super) fn begin(&mut self, guest: u32) {
        self.state(guest);
    }

    /// A guest has gone.
    pub(super) fn forget(&mut self, guest: u32) {
        self.closed = Some(Instant::now());
        self.queues.close(guest);
        self.guests.remove(&guest);
    }

    /// When [`Supervisor::run_switching`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let of = |state: &State| [state.close_at, state.pending.as_ref().map(|p| p.until)];
        let all = self.guests.values().flat_map(of).flatten();
        let sweep = self.queues.is_closing().then(|| Instant::now() + SWEEP);
        all.chain(self.decide_at).chain(sweep).min()
    }

    pub(super) fn status(&self, guest: u32) -> Option<SwitchStatus> {
        let state = self.guests.get(&guest)?;
        Some(SwitchStatus {
            since_ms: state.since.elapsed().as_millis(),
            why: state.why.clone(),
            switches: state.switches,
            last_gap_us: state.last_gap_ns as f64 / 1000.0,
            frames_per_second: state.rate.0,
        })
    }

    fn state(&mut self, guest: u32) -> &mut State {
        self.guests.entry(guest).or_default()
    }
}

impl Supervisor {
    /// `attacca switch`: answered when it is done, or has failed.
    pub(super) fn visit_switch(&mut self, visitor: OwnedFd, guest: &str, direct: bool, nic: Option<NicSpec>) {
        let found = self.guests.iter().position(|g| g.place.name == guest);
        let Some(at) = found else {
            let words = super::no_guest(guest).to_string();
            let _ = control::post(visitor.as_fd(), &Reply::Failed(words), &[]);
            return;
        };
        if direct && matches!(self.held.uplink, Uplink::Host(_)) {
            let words = "its connections go through host sockets and end in the network server, which no NIC queue \
                         can stand in for: put the guest on a network behind a NIC ('attacca server start --net NAME \
                         --uplink tap:T|xdp:IF --direct-queues N', then 'attacca run --net NAME')";
            let _ = control::post(visitor.as_fd(), &Reply::Failed(words.into()), &[]);
            return;
        }
        let id = self.guests[at].id;
        self.switching.state(id).pinned = true;
        self.switch(at, direct, nic.as_ref(), "the user said so".into(), Some(visitor));
    }

    /// `attacca run --mode direct`.
    pub(super) fn switch_at_start(&mut self, at: usize) {
        let id = self.guests[at].id;
        self.switching.state(id).pinned = true;
        if let Err(error) = self.try_switch(at, true, None, "its start said so".into()) {
            eprintln!(
                "attacca: network supervisor: guest '{}' begins with the server: {error}",
                self.guests[at].place.name
            );
            self.switching.state(id).why = format!("no direct queue could be had: {error}");
        }
        if let Some(pending) = &mut self.switching.state(id).pending {
            pending.until += START;
        }
    }

    /// `attacca switch --explain`.
    pub(super) fn explain(&self, guest: &str) -> Reply {
        let Some(guest) = self.guests.iter().find(|g| g.place.name == guest) else {
            return Reply::Failed(super::no_guest(guest).to_string());
        };
        let mode = if guest.mode == Mode::Direct { "direct" } else { "server" };
        let Some(state) = self.switching.guests.get(&guest.id) else {
            let counters = guest.counters.as_ref().map(told).unwrap_or_default();
            return Reply::Said(format!("{}: {mode}, from its start{counters}", guest.place.name));
        };
        let mut text = format!(
            "{}: {mode} for {:.1} s, since {}; {} switches",
            guest.place.name,
            state.since.elapsed().as_secs_f64(),
            state.why,
            state.switches
        );
        if state.switches != 0 {
            text += &format!(", the last with {:.0} us of silence", state.last_gap_ns as f64 / 1000.0);
        }
        if let Some(policy) = &self.switching.policy {
            let gain = policy.gain(guest.id);
            text +=
                &format!("; gain {gain:.0}, {:.0} frames/s, {:.0} % cpu", state.rate.0, state.rate.1 * 100.0);
        }
        if state.pinned {
            text += "; pinned: the policy does not move it";
        }
        if let Some(steered) = self.switching.queues.told(guest.id) {
            text += &format!("\n  {steered}");
        }
        if let Some(counters) = &guest.counters {
            text += &told(counters);
        }
        Reply::Said(text)
    }

    fn switch(
        &mut self,
        at: usize,
        direct: bool,
        nic: Option<&NicSpec>,
        why: String,
        visitor: Option<OwnedFd>,
    ) {
        let state = self.switching.state(self.guests[at].id);
        if direct && state.close_at.is_some() && state.waiting.is_none() {
            state.waiting = Some((nic.cloned(), why, visitor));
            return;
        }
        let Err(error) = self.try_switch(at, direct, nic, why.clone()) else {
            let id = self.guests[at].id;
            if let Some(pending) = &mut self.switching.state(id).pending {
                pending.visitor = visitor;
            } else if let Some(visitor) = visitor {
                let _ =
                    control::post(visitor.as_fd(), &Reply::Said("nothing to do: it is there".into()), &[]);
            }
            return;
        };
        let freed = self.switching.closed.is_some_and(|at| at.elapsed() < PATIENCE);
        let state = self.switching.state(self.guests[at].id);
        if direct && freed && error.kind() == io::ErrorKind::ResourceBusy && state.waiting.is_none() {
            state.waiting = Some((nic.cloned(), why, visitor));
            state.close_at = Some(Instant::now() + SWEEP);
            return;
        }
        if let Some(visitor) = visitor {
            let _ = control::post(visitor.as_fd(), &Reply::Failed(error.to_string()), &[]);
        }
    }

    fn try_switch(&mut self, at: usize, direct: bool, nic: Option<&NicSpec>, why: String) -> io::Result<()> {
        let guest = &self.guests[at];
        let (id, mac) = (guest.id, guest.place.mac);
        if direct == (guest.mode == Mode::Direct) {
            return Ok(());
        }
        if self.switching.state(id).pending.is_some() {
            return Err(io::Error::other("the guest is being switched"));
        }
        let request = self.switching.next_request;
        self.switching.next_request = request.checked_add(1).unwrap_or(1);
        let control = self.guests[at].control.as_fd();
        if direct {
            let (opened, number) = self.switching.queues.open(id, mac, nic)?;
            let message = ToGuest::GoDirect(opened.direct(number, mac)).encode(request);
            let fds: Vec<_> = super::borrow(&opened.fds).collect();
            if let Err(error) = sys::post(control, message.bytes(), &fds) {
                self.switching.queues.close(id);
                return Err(error);
            }
        } else {
            self.switching.queues.unsteer(id);
            sys::post(control, ToGuest::GoServer.encode(request).bytes(), &[])?;
        }
        let until = Instant::now() + PATIENCE;
        self.switching.state(id).pending = Some(Pending { request, direct, why, until, visitor: None });
        Ok(())
    }

    /// The guest uses another device.
    pub(super) fn switched(&mut self, at: usize, request: u32, mode: Mode, gap_ns: u64) {
        let id = self.guests[at].id;
        let state = self.switching.state(id);
        let pending = state.pending.take_if(|pending| pending.request == request && request != 0);
        if pending.is_none() && mode == Mode::Direct {
            // Nobody asked for that, or too late: it is steered nowhere.
            return;
        }
        state.since = Instant::now();
        state.switches += 1;
        state.last_gap_ns = gap_ns;
        state.why = match &pending {
            Some(pending) => pending.why.clone(),
            None => "its direct device went away".into(),
        };
        self.guests[at].mode = mode;
        if mode == Mode::Direct {
            let rules = self.rules(&self.guests[at]);
            if let Err(error) = self.switching.queues.steer(id, &rules) {
                eprintln!("attacca: network supervisor: {}: {error}", self.guests[at].place.name);
            }
        } else {
            self.switching.queues.unsteer(id);
            self.switching.state(id).close_at = Some(Instant::now() + LINGER);
        }
        if pending.is_none() {
            eprintln!(
                "attacca: network supervisor: guest '{}' lost its direct device and uses the server",
                self.guests[at].place.name
            );
        }
        if let Some(visitor) = pending.and_then(|pending| pending.visitor) {
            let words = format!("{:.0} us of silence", gap_ns as f64 / 1000.0);
            let _ = control::post(visitor.as_fd(), &Reply::Said(words), &[]);
        }
    }

    /// The guest could not.
    pub(super) fn switch_failed(&mut self, at: usize, request: u32, errno: i32, stage: Stage) {
        let id = self.guests[at].id;
        let state = self.switching.state(id);
        let Some(pending) = state.pending.take_if(|pending| pending.request == request) else { return };
        let error = io::Error::from_raw_os_error(errno);
        self.give_up(at, pending, format!("the guest could not ({stage:?}): {error}"));
    }

    fn give_up(&mut self, at: usize, pending: Pending, words: String) {
        let id = self.guests[at].id;
        if pending.direct {
            self.switching.queues.close(id);
        } else {
            // It stays direct.
            let rules = self.rules(&self.guests[at]);
            let _ = self.switching.queues.steer(id, &rules);
        }
        eprintln!("attacca: network supervisor: guest '{}': {words}", self.guests[at].place.name);
        if let Some(visitor) = pending.visitor {
            let _ = control::post(visitor.as_fd(), &Reply::Failed(words), &[]);
        }
    }

    /// Everything that is the guest's: its address, or its ports of a shared one, and what it leased.
    fn rules(&self, guest: &Guest) -> Vec<Rule> {
        let mut rules: Vec<Rule> = guest.leases.iter().map(|lease| Rule::address(*lease)).collect();
        for address in guest.place.addresses() {
            if !matches!(self.held.port_map.owner(address), Some(Owned::Shared(..))) {
                rules.push(Rule::address(address));
                continue;
            }
            let claimed = guest.claims.iter().map(|(proto, port)| (*proto, *port));
            let (low, high) = guest.place.ephemeral;
            let both = (low..=high).flat_map(|port| [(Proto::Tcp, port), (Proto::Udp, port)]);
            rules.extend(claimed.chain(both).map(|(proto, port)| port_rule(address, proto, port)));
        }
        rules
    }

    /// A port of a shared address has a new owner, or none.
    pub(super) fn steer_port(&mut self, at: usize, claim: Claim, owned: bool) {
        let guest = &self.guests[at];
        let address = guest.place.address;
        let shared = matches!(self.held.port_map.owner(address), Some(Owned::Shared(..)));
        if guest.mode != Mode::Direct || !shared {
            return;
        }
        let id = guest.id;
        let rules: Vec<Rule> =
            guest.place.addresses().map(|address| port_rule(address, claim.proto, claim.port)).collect();
        if owned {
            let _ = self.switching.queues.steer(id, &rules);
        } else {
            rules.into_iter().for_each(|rule| self.switching.queues.unsteer_one(id, rule));
        }
    }

    /// An address came to be shared, or is a guest's own again: what was steered as a whole is steered by ports.
    pub(super) fn steer_anew(&mut self, address: std::net::IpAddr) {
        let direct: Vec<usize> = (0..self.guests.len())
            .filter(|at| self.guests[*at].place.address == address && self.guests[*at].mode == Mode::Direct)
            .collect();
        for at in direct {
            let rules = self.rules(&self.guests[at]);
            let id = self.guests[at].id;
            self.switching.queues.unsteer(id);
            let _ = self.switching.queues.steer(id, &rules);
        }
    }

    fn close_queue(&mut self, id: u32) {
        let state = self.switching.state(id);
        if state.close_at.is_some_and(|at| at <= Instant::now()) {
            state.close_at = None;
            let waiting = state.waiting.take();
            if self.switching.queues.has(id) {
                self.switching.queues.close(id);
                self.switching.closed = Some(Instant::now());
            }
            if let (Some((nic, why, visitor)), Some(at)) =
                (waiting, self.guests.iter().position(|g| g.id == id))
            {
                self.switch(at, true, nic.as_ref(), why, visitor);
            }
        }
    }

    /// What is due.
    pub(super) fn run_switching(&mut self) {
        let now = Instant::now();
        self.switching.queues.sweep();
        let ids: Vec<u32> = self.switching.guests.keys().copied().collect();
        for id in ids {
            self.close_queue(id);
            let late = self.switching.state(id).pending.take_if(|pending| pending.until <= now);
            if let (Some(pending), Some(at)) = (late, self.guests.iter().position(|g| g.id == id)) {
                self.give_up(at, pending, "the guest does not answer".into());
            }
        }
        if self.switching.decide_at.is_some_and(|at| at <= now) {
            self.switching.decide_at = Some(now + DECIDE);
            self.decide();
        }
    }

    fn decide(&mut self) {
        // What the guests said after the last time; the answers to this question are for the next.
        let samples: Vec<Sample> = self.guests.iter().map(|guest| self.switching.sample(guest)).collect();
        self.guests.iter().for_each(|guest| guest.tell(0, ToGuest::Report));
        let (most, now) = (self.switching.queues.most(), self.switching.began.elapsed());
        let Some(policy) = &mut self.switching.policy else { return };
        for step in policy.decide(most, &samples, now) {
            if let Some(at) = self.guests.iter().position(|g| g.id == step.guest) {
                self.switch(at, step.direct, None, step.why, None);
            }
        }
    }

    /// A guest has counted.
    pub(super) fn counted(&mut self, at: usize) {
        let (id, counters) = (self.guests[at].id, self.guests[at].counters);
        if let Some(counters) = counters {
            self.switching.counted(id, counters.frames.iter().sum(), counters.cpu_ns);
        }
    }
}

impl Switching {
    fn counted(&mut self, guest: u32, frames: u64, cpu_ns: u64) {
        let now = Instant::now();
        let state = self.state(guest);
        // Whoever asks for the status has guests count as well: a rate over a moment would be noise.
        if state.counted.is_some_and(|(at, ..)| now.duration_since(at) < SHORTEST) {
            return;
        }
        if let Some((at, before, cpu_before)) = state.counted.replace((now, frames, cpu_ns)) {
            let seconds = now.duration_since(at).as_secs_f64().max(0.001);
            let cpu = cpu_ns.saturating_sub(cpu_before) as f64 / 1e9;
            state.rate = (frames.saturating_sub(before) as f64 / seconds, cpu / seconds);
        }
    }

    fn sample(&self, guest: &Guest) -> Sample {
        let state = self.guests.get(&guest.id);
        let (frames, cpu) = state.map_or((0.0, 0.0), |state| state.rate);
        let pinned = state.is_some_and(|state| state.pinned || state.pending.is_some());
        Sample { guest: guest.id, frames, cpu, direct: guest.mode == Mode::Direct, pinned }
    }
}

/// Counters by mode, a line each.
fn told(counters: &Counters) -> String {
    let row = |mode: &str, at: usize| {
        let (frames, bytes) = (&counters.frames[at..at + 2], &counters.bytes[at..at + 2]);
        format!(
            "\n  {mode}: {} frames received, {} sent; {} bytes received, {} sent",
            frames[0], frames[1], bytes[0], bytes[1]
        )
    };
    let rest = format!(
        "\n  {} times no room to send, {} retransmissions, {} recoveries",
        counters.drops, counters.retransmissions, counters.recoveries
    );
    [row("server", 0), row("direct", 2), rest].concat()
}

fn port_rule(address: std::net::IpAddr, proto: Proto, port: u16) -> Rule {
    Rule { address, protocol: if proto == Proto::Tcp { 6 } else { 17 }, port }
}
