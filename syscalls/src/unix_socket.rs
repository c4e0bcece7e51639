//! AF_UNIX sockets (unix(7)): stream, datagram and seqpacket, inside the guest; and streams to daemons
//! of the host that listen on a path in its tree.
//!
//! Each endpoint has an inbox. Sending puts a message into the peer's, whole for datagrams and
//! packets, in pieces as they fit for streams. Names are found by the inode of the socket's file, or in
//! the abstract name space; one table for the guest.
//!
//! Locks: an endpoint's `state` and any inbox are never held together, nor two of a kind; peers are
//! reached by reference counts taken under `state`.
//!
//! Left out: SO_PEEK_OFF, SO_PASSSEC, datagrams and descriptors to host daemons; a socket file that a
//! guest binds is seen by the host's programs but refuses them.

use crate::context::Ctx;
use crate::fd;
use crate::file::{File, OpenFile, Sink, Source, Stat};
use crate::host_file::HostFile;
use crate::hub::{Events, Hub};
use crate::process::root;
use crate::sockaddr::{AF_UNIX, AF_UNSPEC, SockAddr};
use crate::socket::{
    Control, How, Incoming, MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_EOR, MSG_OOB, MSG_PEEK, MSG_TRUNC, Outgoing,
    SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET, Socket, Timeouts,
};
use crate::user::UserPtr;
use crate::{Errno, Result, path};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use fs::attr::{S_IFMT, S_IFSOCK};
use fs::{HostFd, Node, Place};
use platform::host;
use platform::sync::Lock;

/// `net.core.wmem_default`: bytes that an inbox takes.
const BUFFER: usize = 212_992;
/// Messages that a datagram inbox takes (`net.unix.max_dgram_qlen` of today's distributions).
const DATAGRAMS: usize = 512;
/// `SCM_MAX_FD`
const MAX_RIGHTS: usize = 253;
/// Longest path in a `sockaddr_un`.
const PATH_MAX: usize = 108;
const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;

/// socket(2).
pub fn open(ctx: &Ctx, kind: i32, protocol: i32) -> Result<Box<dyn File>> {
    let kind = check_kind(kind, protocol)?;
    Ok(Box::new(UnixSocket(Arc::new(Core::new(kind, Identity::of(ctx))))))
}

/// socketpair(2).
pub fn pair(ctx: &Ctx, kind: i32, protocol: i32) -> Result<(Box<dyn File>, Box<dyn File>)> {
    let kind = check_kind(kind, protocol)?;
    let identity = Identity::of(ctx);
    let (one, two) = (Arc::new(Core::new(kind, identity)), Arc::new(Core::new(kind, identity)));
    one.state.lock().phase = Phase::Connected { peer: two.clone(), identity };
    two.state.lock().phase = Phase::Connected { peer: one.clone(), identity };
    Ok((Box::new(UnixSocket(one)), Box::new(UnixSocket(two))))
}

fn check_kind(kind: i32, protocol: i32) -> Result<i32> {
    if protocol != 0 && protocol != i32::from(AF_UNIX) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    match kind {
        SOCK_STREAM | SOCK_DGRAM | SOCK_SEQPACKET => Ok(kind),
        // Linux: SOCK_RAW means datagrams here.
        SOCK_RAW => Ok(SOCK_DGRAM),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

/// `struct ucred`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Identity {
    pid: u32,
    uid: u32,
    gid: u32,
}

impl Identity {
    fn of(ctx: &Ctx) -> Identity {
        let credentials = ctx.process.credentials.lock();
        Identity { pid: ctx.process.pid, uid: credentials.euid, gid: credentials.egid }
    }

    fn bytes(self) -> Vec<u8> {
        [self.pid, self.uid, self.gid].iter().flat_map(|word| word.to_ne_bytes()).collect()
    }
}

/// The file of an endpoint. The endpoint ends when the file is dropped, which is when no descriptor
/// and no call refers to it any more.
pub struct UnixSocket(Arc<Core>);

struct Core {
    kind: i32,
    hub: Hub,
    timeouts: Timeouts,
    identity: Identity,
    pass_credentials: AtomicBool,
    send_buffer: AtomicUsize,
    state: Lock<State>,
    inbox: Lock<Inbox>,
    /// A connection to a daemon of the host.
    host: spin::Once<HostFile>,
}

struct State {
    name: Option<Name>,
    phase: Phase,
    /// shutdown(2) has ended sending.
    sends_no_more: bool,
}

enum Phase {
    Idle,
    Listening(Backlog),
    /// `identity` is what SO_PEERCRED tells: the peer's at the time of connect or listen.
    Connected {
        peer: Arc<Core>,
        identity: Identity,
    },
    /// Connected once, and the peer is gone from our side (closed).
    Over,
}

struct Backlog {
    waiting: VecDeque<Arc<Core>>,
    most: usize,
    /// Clients that found the queue full.
    blocked: Vec<Weak<Core>>,
    identity: Identity,
}

#[derive(Default)]
struct Inbox {
    messages: VecDeque<Message>,
    bytes: usize,
    /// The peer will send no more.
    ended: bool,
    /// shutdown(2) has ended receiving, or the endpoint is gone.
    shut: bool,
    /// The endpoint is gone.
    dead: bool,
    /// The peer went without reading all (ECONNRESET, once).
    reset: bool,
    /// Senders that found it full.
    blocked: Vec<Weak<Core>>,
}

struct Message {
    bytes: Vec<u8>,
    at: usize,
    rights: Rights,
    identity: Identity,
    from: Option<Name>,
}

/// Descriptions under way in a message.
#[derive(Default)]
struct Rights(Vec<Arc<OpenFile>>);

impl Rights {
    fn new(files: Vec<Arc<OpenFile>>) -> Rights {
        for open in &files {
            open.descriptors.fetch_add(1, Ordering::Relaxed);
            root().in_flight.note(open, true);
        }
        Rights(files)
    }
}

impl Clone for Rights {
    fn clone(&self) -> Self {
        Rights::new(self.0.clone())
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        for open in self.0.drain(..) {
            root().in_flight.note(&open, false);
            fd::release(open);
        }
    }
}

/// A bound name.
#[derive(Clone)]
struct Name {
    /// As the program gave it: first byte 0 for an abstract one.
    path: Arc<[u8]>,
    key: Key,
    /// Keeps the inode from being given to another file.
    _pin: Option<Place>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Abstract(Arc<[u8]>),
    Inode(u64, u64),
}

/// All bound names of a guest.
#[derive(Default)]
pub struct Names(Lock<BTreeMap<Key, Weak<Core>>>);

impl Names {
    /// None.
    pub const fn new() -> Names {
        Names(Lock::new(BTreeMap::new()))
    }

    fn find(&self, key: &Key) -> Option<Arc<Core>> {
        self.0.lock().get(key).and_then(Weak::upgrade)
    }

    fn add(&self, key: Key, core: &Arc<Core>) -> Result<()> {
        let mut names = self.0.lock();
        if names.get(&key).is_some_and(|other| other.strong_count() > 0) {
            return Err(Errno::EADDRINUSE);
        }
        names.insert(key, Arc::downgrade(core));
        Ok(())
    }

    /// Forgets a name that `core` holds. An accepted endpoint goes by its listener's name without holding it.
    fn remove(&self, key: &Key, core: &Arc<Core>) {
        let mut names = self.0.lock();
        if names.get(key).is_some_and(|holder| core::ptr::eq(holder.as_ptr(), Arc::as_ptr(core))) {
            names.remove(key);
        }
    }
}

impl Core {
    fn new(kind: i32, identity: Identity) -> Core {
        Core {
            kind,
            hub: Hub::new(),
            timeouts: Timeouts::default(),
            identity,
            pass_credentials: AtomicBool::new(false),
            send_buffer: AtomicUsize::new(BUFFER),
            state: Lock::new(State { name: None, phase: Phase::Idle, sends_no_more: false }),
            inbox: Lock::default(),
            host: spin::Once::new(),
        }
    }

    fn connects(&self) -> bool {
        self.kind != SOCK_DGRAM
    }

    fn peer(&self) -> Option<Arc<Core>> {
        match &self.state.lock().phase {
            Phase::Connected { peer, .. } => Some(peer.clone()),
            _ => None,
        }
    }

    fn name(&self) -> Option<Name> {
        self.state.lock().name.clone()
    }

    /// Whether the inbox takes `len` more bytes as one message.
    fn has_room(&self, inbox: &Inbox, len: usize) -> bool {
        let fits = inbox.bytes + len <= BUFFER || inbox.messages.is_empty();
        if self.kind == SOCK_DGRAM { fits && inbox.messages.len() < DATAGRAMS } else { fits }
    }

    /// Tells senders that there is room again.
    fn made_room(&self, blocked: Vec<Weak<Core>>) {
        if self.connects()
            && let Some(peer) = self.peer()
        {
            peer.hub.notify(Events::WRITABLE);
        }
        for sender in blocked.iter().filter_map(Weak::upgrade) {
            sender.hub.notify(Events::WRITABLE);
        }
    }

    /// No more will come for this endpoint. `reset`: and what it sent was lost.
    fn end(&self, reset: bool, gone: bool) {
        {
            let mut inbox = self.inbox.lock();
            inbox.ended = true;
            inbox.reset |= reset;
        }
        let events = Events::READABLE | Events::RDHUP;
        self.hub.notify(if gone { events | Events::WRITABLE | Events::HUP } else { events });
    }

    /// The endpoint's file is gone.
    fn close(self: &Arc<Core>) {
        let (name, phase) = {
            let mut state = self.state.lock();
            state.sends_no_more = true;
            (state.name.take(), core::mem::replace(&mut state.phase, Phase::Over))
        };
        if let Some(name) = name {
            root().unix.remove(&name.key, self);
        }
        let (messages, blocked) = {
            let mut inbox = self.inbox.lock();
            inbox.shut = true;
            inbox.dead = true;
            (core::mem::take(&mut inbox.messages), core::mem::take(&mut inbox.blocked))
        };
        match phase {
            Phase::Connected { peer, .. } if self.connects() => peer.end(!messages.is_empty(), true),
            Phase::Listening(backlog) => {
                // Connections that nobody accepted are reset (Linux: their clients read ECONNRESET).
                for server in backlog.waiting {
                    if let Some(client) = server.peer() {
                        client.end(true, true);
                    }
                    server.close();
                }
                self.made_room(backlog.blocked);
            }
            _ => {}
        }
        self.made_room(blocked);
    }

    /// Gives an endpoint a name; EINVAL if it has one.
    fn take_name(self: &Arc<Core>, name: Name) -> Result<()> {
        root().unix.add(name.key.clone(), self)?;
        let mut state = self.state.lock();
        if state.name.is_some() {
            drop(state);
            root().unix.remove(&name.key, self);
            return Err(Errno::EINVAL);
        }
        state.name = Some(name);
        Ok(())
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl UnixSocket {
    /// The descriptions in messages that wait here, or at connections that nobody has accepted yet.
    pub(crate) fn rights(&self) -> Vec<Arc<OpenFile>> {
        let at = |core: &Core| -> Vec<Arc<OpenFile>> {
            core.inbox.lock().messages.iter().flat_map(|message| message.rights.0.iter().cloned()).collect()
        };
        let mut all = at(&self.0);
        all.extend(self.unaccepted().iter().flat_map(|core| at(core)));
        all
    }

    /// Takes the descriptions out of those messages; they go with the answer.
    pub(crate) fn empty(&self) -> Vec<impl Sized + use<>> {
        let mut cores = self.unaccepted();
        cores.push(self.0.clone());
        let mut taken = Vec::new();
        for core in cores {
            let mut inbox = core.inbox.lock();
            taken.extend(inbox.messages.iter_mut().map(|message| core::mem::take(&mut message.rights)));
        }
        taken
    }

    fn unaccepted(&self) -> Vec<Arc<Core>> {
        match &self.0.state.lock().phase {
            Phase::Listening(backlog) => backlog.waiting.iter().cloned().collect(),
            _ => Vec::new(),
        }
    }
}

/// Where an address leads.
enum Found {
    Guest(Arc<Core>),
    /// A socket file that no endpoint of the guest is bound to: the host's.
    Host(Place),
}

fn find(ctx: &Ctx, to: &SockAddr) -> Result<Found> {
    let name = to.unix_path()?;
    if name.is_empty() {
        return Err(Errno::ECONNREFUSED);
    }
    if name[0] == 0 {
        let core = root().unix.find(&Key::Abstract(name.into()));
        return core.map(Found::Guest).ok_or(Errno::ECONNREFUSED);
    }
    let view = path::view(ctx)?;
    let place = view.locate(&view.cwd, &name, true)?;
    let stat = place.stat()?;
    view.access(&place, 2, true)?;
    if stat.mode & S_IFMT != S_IFSOCK {
        return Err(Errno::ECONNREFUSED);
    }
    match root().unix.find(&Key::Inode(stat.dev, stat.ino)) {
        Some(core) => Ok(Found::Guest(core)),
        None if matches!(place.node, Node::Host(_)) => Ok(Found::Host(place)),
        None => Err(Errno::ECONNREFUSED),
    }
}

fn address(name: Option<&Name>) -> SockAddr {
    let mut bytes = AF_UNIX.to_ne_bytes().to_vec();
    if let Some(name) = name {
        bytes.extend_from_slice(&name.path);
        if name.path.first() != Some(&0) {
            bytes.push(0);
        }
    }
    SockAddr::from_bytes(&bytes)
}

impl UnixSocket {
    /// Binds to the first free of the names `\0XXXXX` (unix(7), autobind).
    fn autobind(&self) -> Result<()> {
        let start = Arc::as_ptr(&self.0) as usize >> 4;
        for step in 0..0x10_0000usize {
            let path: Arc<[u8]> = format!("\0{:05x}", (start + step) & 0xf_ffff).into_bytes().into();
            let name = Name { key: Key::Abstract(path.clone()), path, _pin: None };
            match self.0.take_name(name) {
                Err(Errno::EADDRINUSE) => {}
                done => return done,
            }
        }
        Err(Errno::ENOSPC)
    }

    /// Connects through the host to one of its daemons.
    fn connect_host(&self, place: &Place) -> Result<()> {
        const FLAGS: i32 = 0o2000000 | 0o4000;
        let Node::Host(node) = &place.node else { return Err(Errno::ECONNREFUSED) };
        if self.0.kind != SOCK_STREAM {
            return Err(Errno::ECONNREFUSED);
        }
        // SAFETY: plain numbers.
        let fd = unsafe { host!(socket, i32::from(AF_UNIX), SOCK_STREAM | FLAGS, 0) }?;
        let fd = HostFd::new(fd as i32);
        let mut to = AF_UNIX.to_ne_bytes().to_vec();
        to.extend_from_slice(format!("/proc/self/fd/{}\0", node.raw()).as_bytes());
        // SAFETY: the address is ours. A stream on a path connects at once or is refused; with a full
        // queue it answers EAGAIN.
        unsafe { host!(connect, fd.raw(), to.as_ptr(), to.len()) }?;
        let stat = fd.stat()?;
        self.0.host.call_once(|| HostFile::new(fd, place.path.clone(), None, &stat));
        Ok(())
    }

    /// Takes what the program's control messages bring.
    fn outgoing(&self, ctx: &Ctx, controls: &[Control]) -> Result<(Rights, Identity)> {
        let mut files = Vec::new();
        let mut identity = Identity::of(ctx);
        for control in controls.iter().filter(|control| control.level == SOL_SOCKET) {
            let words = control.data.chunks_exact(4).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
            match control.kind {
                SCM_RIGHTS => {
                    for fd in words {
                        files.push(ctx.process.fds.get(fd)?);
                    }
                    if files.len() > MAX_RIGHTS {
                        return Err(Errno::EINVAL);
                    }
                }
                SCM_CREDENTIALS => {
                    let words: Vec<u32> = words.map(|word| word as u32).collect();
                    let &[pid, uid, gid] = &words[..] else { return Err(Errno::EINVAL) };
                    let own = ctx.process.credentials.lock();
                    let honest = pid == ctx.process.pid
                        && [own.uid, own.euid, own.suid].contains(&uid)
                        && [own.gid, own.egid, own.sgid].contains(&gid);
                    if !honest && !own.privileged() {
                        return Err(Errno::EPERM);
                    }
                    identity = Identity { pid, uid, gid };
                }
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok((Rights::new(files), identity))
    }

    /// Hands a received message's company to the program.
    fn incoming(&self, ctx: &Ctx, message: &mut Incoming, rights: Rights, identity: Identity) {
        const HEADER: usize = 16;
        let mut room = message.control_room;
        if self.0.pass_credentials.load(Ordering::Relaxed) {
            let data = identity.bytes();
            room = room.saturating_sub((HEADER + data.len()).next_multiple_of(8));
            message.control.push(Control { level: SOL_SOCKET, kind: SCM_CREDENTIALS, data });
        }
        if rights.0.is_empty() {
            return;
        }
        let fits = room.saturating_sub(HEADER) / 4;
        let cloexec = message.flags & MSG_CMSG_CLOEXEC != 0;
        let mut data = Vec::new();
        for open in rights.0.iter().take(fits) {
            match ctx.install(open.clone(), cloexec) {
                Ok(fd) => data.extend_from_slice(&(fd as i32).to_ne_bytes()),
                Err(_) => break,
            }
        }
        if data.len() < rights.0.len() * 4 {
            message.result_flags |= MSG_CTRUNC;
        }
        if !data.is_empty() {
            message.control.push(Control { level: SOL_SOCKET, kind: SCM_RIGHTS, data });
        }
    }

    /// The endpoint that a message goes to.
    fn target(&self, ctx: &Ctx, to: Option<&SockAddr>) -> Result<Arc<Core>> {
        let Some(to) = to.filter(|_| self.0.kind == SOCK_DGRAM) else {
            return match &self.0.state.lock().phase {
                Phase::Connected { peer, .. } => Ok(peer.clone()),
                Phase::Over => Err(Errno::EPIPE),
                _ if to.is_some() => Err(Errno::EOPNOTSUPP),
                _ => Err(Errno::ENOTCONN),
            };
        };
        match find(ctx, to)? {
            Found::Guest(core) if core.kind == SOCK_DGRAM => Ok(core),
            Found::Guest(_) => Err(Errno::EPROTOTYPE),
            Found::Host(_) => Err(Errno::ECONNREFUSED),
        }
    }

    fn send_stream(
        &self,
        target: &Core,
        from: &mut dyn Source,
        rights: Rights,
        identity: Identity,
    ) -> Result {
        let wanted = from.remaining();
        let mut inbox = target.inbox.lock();
        if inbox.shut {
            return Err(Errno::EPIPE);
        }
        if wanted == 0 {
            return Ok(0);
        }
        let room = BUFFER.saturating_sub(inbox.bytes);
        if room == 0 {
            return Err(Errno::EAGAIN);
        }
        let mut bytes = alloc::vec![0u8; wanted.min(room)];
        let count = from.take(&mut bytes)?;
        bytes.truncate(count);
        inbox.bytes += count;
        match inbox.messages.back_mut() {
            // What nobody can tell apart is kept together.
            Some(last) if rights.0.is_empty() && last.rights.0.is_empty() && last.identity == identity => {
                last.bytes.extend_from_slice(&bytes);
            }
            _ => inbox.messages.push_back(Message { bytes, at: 0, rights, identity, from: None }),
        }
        Ok(count)
    }

    fn send_message(
        &self,
        target: &Core,
        from: &mut dyn Source,
        rights: Rights,
        identity: Identity,
    ) -> Result {
        let len = from.remaining();
        if len > self.0.send_buffer.load(Ordering::Relaxed) {
            return Err(Errno::EMSGSIZE);
        }
        let name = self.0.name();
        let mut inbox = target.inbox.lock();
        if inbox.dead && !self.0.connects() {
            return Err(Errno::ECONNREFUSED);
        }
        if inbox.shut {
            return Err(Errno::EPIPE);
        }
        if !target.has_room(&inbox, len) {
            inbox.blocked.retain(|waiting| waiting.strong_count() > 0);
            inbox.blocked.push(Arc::downgrade(&self.0));
            return Err(Errno::EAGAIN);
        }
        let mut bytes = alloc::vec![0u8; len];
        let count = from.take(&mut bytes)?;
        bytes.truncate(count);
        inbox.bytes += count;
        inbox.messages.push_back(Message { bytes, at: 0, rights, identity, from: name });
        Ok(count)
    }

    fn receive_stream(&self, ctx: &Ctx, into: &mut dyn Sink, message: &mut Incoming) -> Result {
        let peek = message.flags & MSG_PEEK != 0;
        let passes = self.0.pass_credentials.load(Ordering::Relaxed);
        let mut inbox = self.0.inbox.lock();
        let mut done = 0;
        let mut company: Option<(Rights, Identity)> = None;
        let mut index = 0;
        while into.remaining() > 0 {
            let Some(first) = inbox.messages.get_mut(index) else { break };
            // unix(7): a message with descriptors ends a read, and one with others' credentials
            // is not glued to it.
            if let Some((rights, identity)) = &company
                && (!rights.0.is_empty()
                    || !first.rights.0.is_empty()
                    || (passes && *identity != first.identity))
            {
                break;
            }
            let put = match into.put(&first.bytes[first.at..]) {
                Ok(put) => put,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            done += put;
            if company.is_none() {
                let rights = if peek { first.rights.clone() } else { core::mem::take(&mut first.rights) };
                company = Some((rights, first.identity));
            }
            if peek {
                index += 1;
                continue;
            }
            first.at += put;
            let emptied = first.at == first.bytes.len();
            inbox.bytes -= put;
            if emptied {
                inbox.messages.pop_front();
            }
        }
        if done == 0 && into.remaining() > 0 {
            if core::mem::take(&mut inbox.reset) {
                return Err(Errno::ECONNRESET);
            }
            return if inbox.ended || inbox.shut { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let blocked = core::mem::take(&mut inbox.blocked);
        drop(inbox);
        if let Some((rights, identity)) = company {
            self.incoming(ctx, message, rights, identity);
        }
        if !peek {
            self.0.made_room(blocked);
        }
        Ok(done)
    }

    fn receive_message(&self, ctx: &Ctx, into: &mut dyn Sink, message: &mut Incoming) -> Result {
        let peek = message.flags & MSG_PEEK != 0;
        let mut inbox = self.0.inbox.lock();
        let Some(first) = inbox.messages.front_mut() else {
            if core::mem::take(&mut inbox.reset) {
                return Err(Errno::ECONNRESET);
            }
            return if inbox.ended || inbox.shut { Ok(0) } else { Err(Errno::EAGAIN) };
        };
        let len = first.bytes.len();
        let got = into.put(&first.bytes)?;
        let (rights, identity, from) = (first.rights.clone(), first.identity, first.from.clone());
        if !peek {
            inbox.bytes -= len;
            inbox.messages.pop_front();
        }
        let blocked = core::mem::take(&mut inbox.blocked);
        drop(inbox);
        if got < len {
            message.result_flags |= MSG_TRUNC;
        }
        if self.0.kind == SOCK_SEQPACKET {
            message.result_flags |= MSG_EOR;
        } else if from.is_some() {
            message.from = Some(address(from.as_ref()));
        }
        self.incoming(ctx, message, rights, identity);
        if !peek {
            self.0.made_room(blocked);
        }
        Ok(if message.flags & MSG_TRUNC != 0 { len } else { got })
    }

    fn host(&self) -> Option<&HostFile> {
        self.0.host.get()
    }
}

impl File for UnixSocket {
    fn as_socket(&self) -> Option<&dyn Socket> {
        Some(self)
    }

    fn poll(&self) -> Events {
        if let Some(host) = self.host() {
            return host.poll();
        }
        enum Now {
            Idle,
            Listening(bool),
            Peer(Arc<Core>),
            Over,
        }
        let (now, sends_no_more) = {
            let state = self.0.state.lock();
            let now = match &state.phase {
                Phase::Idle => Now::Idle,
                Phase::Listening(backlog) => Now::Listening(!backlog.waiting.is_empty()),
                Phase::Connected { peer, .. } => Now::Peer(peer.clone()),
                Phase::Over => Now::Over,
            };
            (now, state.sends_no_more)
        };
        let mut events = Events::empty();
        let ended = {
            let inbox = self.0.inbox.lock();
            let ended = inbox.ended || inbox.shut;
            events.set(Events::READABLE, !inbox.messages.is_empty() || ended);
            events.set(Events::RDHUP, ended);
            events.set(Events::ERR, inbox.reset);
            ended
        };
        match now {
            Now::Listening(ready) => return if ready { Events::READABLE } else { Events::empty() },
            Now::Idle if self.0.connects() => events |= Events::WRITABLE | Events::HUP,
            Now::Idle => events |= Events::WRITABLE,
            Now::Over => events |= Events::WRITABLE | Events::HUP,
            Now::Peer(peer) => {
                let mut inbox = peer.inbox.lock();
                let room = inbox.shut
                    || inbox.bytes < BUFFER && (self.0.connects() || inbox.messages.len() < DATAGRAMS);
                events.set(Events::WRITABLE, room);
                events.set(Events::HUP, ended && (inbox.shut || sends_no_more) && self.0.connects());
                if !room && !self.0.connects() {
                    inbox.blocked.push(Arc::downgrade(&self.0));
                }
            }
        }
        events
    }

    fn hub(&self) -> Option<&Hub> {
        match self.host() {
            Some(host) => host.hub(),
            None => Some(&self.0.hub),
        }
    }

    fn ioctl(&self, _open: &OpenFile, command: u32, argument: usize) -> Result {
        const FIONREAD: u32 = 0x541b;
        const TIOCOUTQ: u32 = 0x5411;
        let waiting = |core: &Core| {
            let inbox = core.inbox.lock();
            match inbox.messages.front() {
                // As Linux: of datagrams the first counts.
                Some(first) if core.kind != SOCK_STREAM => first.bytes.len(),
                _ => inbox.bytes,
            }
        };
        let count = match command {
            FIONREAD if matches!(self.0.state.lock().phase, Phase::Listening(_)) => {
                return Err(Errno::EINVAL);
            }
            FIONREAD => waiting(&self.0),
            TIOCOUTQ => self.0.peer().map_or(0, |peer| waiting(&peer)),
            _ => return Err(Errno::ENOTTY),
        };
        UserPtr::<i32>::new(argument).write(count as i32).map(|()| 0)
    }

    fn stat(&self, out: &mut Stat) -> Result<()> {
        let ino = Arc::as_ptr(&self.0) as u64 >> 4 & 0xffff_ffff;
        *out = Stat { dev: 8, ino, nlink: 1, mode: S_IFSOCK | 0o777, blksize: 4096, ..Stat::default() };
        Ok(())
    }

    fn describe(&self, f: &mut dyn core::fmt::Write) -> core::fmt::Result {
        write!(f, "socket:[{}]", Arc::as_ptr(&self.0) as u64 >> 4 & 0xffff_ffff)
    }
}

impl Socket for UnixSocket {
    fn bind(&self, ctx: &Ctx, to: &SockAddr) -> Result<()> {
        let path = to.unix_path()?;
        if self.0.name().is_some() {
            return Err(Errno::EINVAL);
        }
        if path.is_empty() {
            return self.autobind();
        }
        if path.len() > PATH_MAX {
            return Err(Errno::EINVAL);
        }
        if path[0] == 0 {
            let path: Arc<[u8]> = path.into();
            return self.0.take_name(Name { key: Key::Abstract(path.clone()), path, _pin: None });
        }
        let view = path::view(ctx)?;
        let used = |e| if e == Errno::EEXIST { Errno::EADDRINUSE } else { e };
        view.mknod(&view.cwd, &path, S_IFSOCK | 0o777, 0).map_err(used)?;
        let place = view.locate(&view.cwd, &path, false)?;
        let stat = place.stat()?;
        let key = Key::Inode(stat.dev, stat.ino);
        self.0.take_name(Name { path: path.into(), key, _pin: Some(place) })
    }

    fn listen(&self, ctx: &Ctx, backlog: i32) -> Result<()> {
        if !self.0.connects() {
            return Err(Errno::EOPNOTSUPP);
        }
        // Linux: net.core.somaxconn, and a negative backlog is a large one.
        let most = (backlog as u32).min(4096) as usize;
        let identity = Identity::of(ctx);
        let mut state = self.0.state.lock();
        if state.name.is_none() {
            return Err(Errno::EINVAL);
        }
        match &mut state.phase {
            Phase::Listening(queue) => queue.most = most,
            phase @ Phase::Idle => {
                let (waiting, blocked) = (VecDeque::new(), Vec::new());
                *phase = Phase::Listening(Backlog { waiting, most, blocked, identity });
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    fn accept(&self, _ctx: &Ctx) -> Result<(Box<dyn File>, SockAddr)> {
        if !self.0.connects() {
            return Err(Errno::EOPNOTSUPP);
        }
        let (server, blocked) = {
            let mut state = self.0.state.lock();
            let Phase::Listening(backlog) = &mut state.phase else { return Err(Errno::EINVAL) };
            let server = backlog.waiting.pop_front().ok_or(Errno::EAGAIN)?;
            (server, core::mem::take(&mut backlog.blocked))
        };
        self.0.made_room(blocked);
        let name = server.peer().and_then(|client| client.name());
        Ok((Box::new(UnixSocket(server)), address(name.as_ref())))
    }

    fn connect(&self, ctx: &Ctx, to: &SockAddr) -> Result<()> {
        if !self.0.connects() {
            return self.connect_datagram(ctx, to);
        }
        if matches!(self.0.state.lock().phase, Phase::Connected { .. }) || self.host().is_some() {
            return Err(Errno::EISCONN);
        }
        let listener = match find(ctx, to)? {
            Found::Guest(core) => core,
            Found::Host(place) => return self.connect_host(&place),
        };
        if listener.kind != self.0.kind {
            return Err(Errno::EPROTOTYPE);
        }
        let identity = Identity::of(ctx);
        let server = Arc::new(Core::new(self.0.kind, identity));
        server.pass_credentials.store(listener.pass_credentials.load(Ordering::Relaxed), Ordering::Relaxed);
        let name = listener.name();
        let listening_as = {
            let state = listener.state.lock();
            let Phase::Listening(backlog) = &state.phase else { return Err(Errno::ECONNREFUSED) };
            backlog.identity
        };
        {
            let mut state = server.state.lock();
            state.name = name.map(|name| Name { _pin: None, ..name });
            state.phase = Phase::Connected { peer: self.0.clone(), identity };
        }
        // The client is connected before it can be accepted; it is taken back if the queue is full.
        {
            let mut state = self.0.state.lock();
            if !matches!(state.phase, Phase::Idle | Phase::Over) {
                return Err(if matches!(state.phase, Phase::Listening(_)) {
                    Errno::EINVAL
                } else {
                    Errno::EISCONN
                });
            }
            state.phase = Phase::Connected { peer: server.clone(), identity: listening_as };
        }
        let queued = {
            let mut state = listener.state.lock();
            match &mut state.phase {
                // As Linux: one more than the backlog.
                Phase::Listening(backlog) if backlog.waiting.len() <= backlog.most => {
                    backlog.waiting.push_back(server);
                    Ok(())
                }
                Phase::Listening(backlog) => {
                    backlog.blocked.push(Arc::downgrade(&self.0));
                    Err(Errno::EAGAIN)
                }
                _ => Err(Errno::ECONNREFUSED),
            }
        };
        match queued {
            Ok(()) => {
                listener.hub.notify(Events::READABLE);
            }
            Err(_) => {
                let phase = core::mem::replace(&mut self.0.state.lock().phase, Phase::Idle);
                drop(phase);
            }
        }
        queued
    }

    fn send(&self, ctx: &Ctx, from: &mut dyn Source, message: &mut Outgoing) -> Result {
        if message.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if let Some(host) = self.host() {
            return host.write_now(from);
        }
        if self.0.state.lock().sends_no_more {
            return Err(Errno::EPIPE);
        }
        if self.0.kind == SOCK_STREAM && message.to.is_some() {
            let connected = self.0.peer().is_some();
            return Err(if connected { Errno::EISCONN } else { Errno::EOPNOTSUPP });
        }
        let target = self.target(ctx, message.to.as_ref())?;
        let (rights, identity) = self.outgoing(ctx, &message.control)?;
        let sent = if self.0.kind == SOCK_STREAM {
            self.send_stream(&target, from, rights, identity)
        } else {
            self.send_message(&target, from, rights, identity).inspect_err(|&error| {
                // The peer of a connected datagram socket is gone: it has none any more.
                if error == Errno::ECONNREFUSED && message.to.is_none() {
                    self.disconnect_datagram(Phase::Idle);
                }
            })
        }?;
        // Descriptors go with the first piece only.
        message.control.clear();
        target.hub.notify(Events::READABLE);
        Ok(sent)
    }

    fn receive(&self, ctx: &Ctx, into: &mut dyn Sink, message: &mut Incoming) -> Result {
        if message.flags & MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if let Some(host) = self.host() {
            return host.read_now(into);
        }
        if self.0.connects() {
            match self.0.state.lock().phase {
                Phase::Idle if self.0.kind == SOCK_STREAM => return Err(Errno::EINVAL),
                Phase::Idle => return Err(Errno::ENOTCONN),
                Phase::Listening(_) => return Err(Errno::EINVAL),
                _ => {}
            }
        }
        if self.0.kind == SOCK_STREAM {
            self.receive_stream(ctx, into, message)
        } else {
            self.receive_message(ctx, into, message)
        }
    }

    fn shutdown(&self, how: How) -> Result<()> {
        if let Some(host) = self.host() {
            let how = i32::from(how.write) + i32::from(how.read && how.write);
            // SAFETY: plain numbers.
            return unsafe { host!(shutdown, host.fd.raw(), how) }.map(drop);
        }
        let peer = self.0.peer();
        if self.0.connects() && peer.is_none() && !matches!(self.0.state.lock().phase, Phase::Over) {
            return Err(Errno::ENOTCONN);
        }
        if how.read {
            self.0.inbox.lock().shut = true;
            self.0.hub.notify(Events::READABLE | Events::RDHUP);
            if self.0.connects()
                && let Some(peer) = &peer
            {
                peer.hub.notify(Events::WRITABLE);
            }
        }
        if how.write {
            self.0.state.lock().sends_no_more = true;
            if self.0.connects()
                && let Some(peer) = &peer
            {
                peer.end(false, how.read);
            }
            self.0.hub.notify(Events::WRITABLE | if how.read { Events::HUP } else { Events::empty() });
        }
        Ok(())
    }

    fn local(&self) -> Result<SockAddr> {
        Ok(address(self.0.name().as_ref()))
    }

    fn peer(&self) -> Result<SockAddr> {
        if let Some(host) = self.host() {
            let mut bytes = AF_UNIX.to_ne_bytes().to_vec();
            bytes.extend_from_slice(&host.path);
            bytes.push(0);
            return Ok(SockAddr::from_bytes(&bytes));
        }
        let peer = self.0.peer().ok_or(Errno::ENOTCONN)?;
        Ok(address(peer.name().as_ref()))
    }

    fn set_option(&self, _ctx: &Ctx, level: i32, name: i32, value: &[u8]) -> Result<()> {
        if level != SOL_SOCKET {
            return Err(Errno::ENOPROTOOPT);
        }
        let word =
            value.get(..4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes).ok_or(Errno::EINVAL)?;
        match name {
            option::PASSCRED => self.0.pass_credentials.store(word != 0, Ordering::Relaxed),
            // socket(7): doubled; the least is 4608 bytes.
            option::SNDBUF | option::SNDBUFFORCE => {
                let size = (word.clamp(0, 1 << 26) as usize * 2).max(4608);
                self.0.send_buffer.store(size, Ordering::Relaxed);
            }
            // Of no meaning here, as in Linux: the sender's buffer counts, and there are no routes.
            option::RCVBUF
            | option::REUSEADDR
            | option::KEEPALIVE
            | option::BROADCAST
            | option::LINGER
            | option::DONTROUTE
            | option::PRIORITY => {}
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn option(&self, _ctx: &Ctx, level: i32, name: i32, _room: usize) -> Result<Vec<u8>> {
        if level != SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        let word = match name {
            option::TYPE => self.0.kind,
            option::ERROR => 0,
            option::DOMAIN => i32::from(AF_UNIX),
            option::PROTOCOL => 0,
            option::SNDBUF => self.0.send_buffer.load(Ordering::Relaxed) as i32,
            option::RCVBUF => BUFFER as i32,
            option::PASSCRED => i32::from(self.0.pass_credentials.load(Ordering::Relaxed)),
            option::ACCEPTCONN => i32::from(matches!(self.0.state.lock().phase, Phase::Listening(_))),
            option::REUSEADDR
            | option::KEEPALIVE
            | option::BROADCAST
            | option::DONTROUTE
            | option::PRIORITY => 0,
            option::LINGER => return Ok(alloc::vec![0; 8]),
            option::PEERCRED => {
                return Ok(match &self.0.state.lock().phase {
                    Phase::Connected { identity, .. } => *identity,
                    Phase::Listening(backlog) => backlog.identity,
                    _ => Identity { pid: 0, uid: u32::MAX, gid: u32::MAX },
                }
                .bytes());
            }
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(word.to_ne_bytes().to_vec())
    }

    fn timeouts(&self) -> &Timeouts {
        &self.0.timeouts
    }

    fn is_stream(&self) -> bool {
        self.0.kind == SOCK_STREAM
    }
}

impl UnixSocket {
    fn connect_datagram(&self, ctx: &Ctx, to: &SockAddr) -> Result<()> {
        if to.family() == AF_UNSPEC {
            self.disconnect_datagram(Phase::Idle);
            return Ok(());
        }
        let peer = match find(ctx, to)? {
            Found::Guest(core) if core.kind == SOCK_DGRAM => core,
            Found::Guest(_) => return Err(Errno::EPROTOTYPE),
            Found::Host(_) => return Err(Errno::ECONNREFUSED),
        };
        let identity = peer.identity;
        self.disconnect_datagram(Phase::Connected { peer, identity });
        Ok(())
    }

    /// A connected datagram socket leaves its peer. As Linux (unix_dgram_disconnected): what waited
    /// unread is dropped, and a peer that was connected back hears of it as ECONNRESET.
    fn disconnect_datagram(&self, to: Phase) {
        let stays = |old: &Phase| match (old, &to) {
            (Phase::Connected { peer: old, .. }, Phase::Connected { peer: new, .. }) => Arc::ptr_eq(old, new),
            _ => false,
        };
        let old = {
            let mut state = self.0.state.lock();
            if stays(&state.phase) {
                return;
            }
            core::mem::replace(&mut state.phase, to)
        };
        let Phase::Connected { peer, .. } = old else { return };
        let (dropped, blocked) = {
            let mut inbox = self.0.inbox.lock();
            inbox.bytes = 0;
            (core::mem::take(&mut inbox.messages), core::mem::take(&mut inbox.blocked))
        };
        if !dropped.is_empty() && peer.peer().is_some_and(|back| Arc::ptr_eq(&back, &self.0)) {
            peer.inbox.lock().reset = true;
            peer.hub.notify(Events::ERR | Events::READABLE);
        }
        self.0.made_room(blocked);
    }
}

/// `SO_*`
mod option {
    pub(super) const REUSEADDR: i32 = 2;
    pub(super) const TYPE: i32 = 3;
    pub(super) const ERROR: i32 = 4;
    pub(super) const DONTROUTE: i32 = 5;
    pub(super) const BROADCAST: i32 = 6;
    pub(super) const SNDBUF: i32 = 7;
    pub(super) const RCVBUF: i32 = 8;
    pub(super) const KEEPALIVE: i32 = 9;
    pub(super) const PRIORITY: i32 = 12;
    pub(super) const LINGER: i32 = 13;
    pub(super) const PASSCRED: i32 = 16;
    pub(super) const PEERCRED: i32 = 17;
    pub(super) const ACCEPTCONN: i32 = 30;
    pub(super) const SNDBUFFORCE: i32 = 32;
    pub(super) const PROTOCOL: i32 = 38;
    pub(super) const DOMAIN: i32 = 39;
}
