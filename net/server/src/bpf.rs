//! Steering programs in the kernel's own instruction set (RFC 9669), written here instruction by instruction: no
//! compiler is needed where Attacca runs. And the few calls of bpf(2) that load them.
//!
//! Both programs ask one hash map of [`Rule`]s who owns a frame: first by destination address, protocol and
//! port, then by the address alone.
//!
//! * XDP: a frame whose owner has *this* receive queue goes to the owner's AF_XDP socket there; what the network server
//!   has, and what a guest has that came to another queue than its own, goes to the server's socket of this queue; all
//!   else, and what finds no socket, goes on to the kernel. (A socket takes frames of the queue alone that it is bound to:
//!   no program can bring it others, xsk.c `xsk_rcv_check`.)
//! * TAP: the frame's queue is the owner's; all else goes to queue 0.
//!
//! Looked at: ARP (by the address asked for), IPv4 and IPv6 with TCP or UDP directly behind, neighbour
//! solicitations (by target). Later fragments and other protocols go by the address alone. VLAN tags and IPv6
//! extension headers are nobody's.

use crate::sys::check;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What of the frames towards a guest goes to its queue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rule {
    /// The destination.
    pub address: IpAddr,
    /// 6 or 17 with a port, or 0: everything to the address.
    pub protocol: u8,
    /// The destination port.
    pub port: u16,
}

impl Rule {
    /// Everything to the address.
    pub fn address(address: IpAddr) -> Rule {
        Rule { address, protocol: 0, port: 0 }
    }

    fn key(self) -> [u8; KEY] {
        let mut key = [0; KEY];
        key[..16].copy_from_slice(&match self.address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        });
        key[16..18].copy_from_slice(&self.port.to_be_bytes());
        key[18] = self.protocol;
        key
    }
}

/// Address, port, protocol, padding.
const KEY: usize = 20;
/// Rules of one interface.
const MOST_RULES: u32 = 65_536;
/// Queues of one interface.
const MOST_QUEUES: u32 = 1024;
/// In the map of sockets guests' stand behind the server's, so that one queue's socket is known by whose it is.
const GUESTS: u32 = MOST_QUEUES;

/// Instead of a queue's number: the server's socket, whichever queue it is. (Below 2^31: the program compares with a
/// signed immediate.)
pub const ANY_QUEUE: u32 = 0x7fff_ffff;

/// The map of rules: `Rule` -> queue.
pub struct Rules(OwnedFd);

impl Rules {
    /// An empty map.
    pub fn new() -> io::Result<Rules> {
        map_create(MAP_HASH, KEY as u32, 4, MOST_RULES).map(Rules)
    }

    /// From now on frames under `rule` go to `queue` ([`ANY_QUEUE`] for XDP: to the socket of the queue that they come
    /// to). One store: each frame meets the old queue or the new one.
    pub fn set(&self, rule: Rule, queue: u32) -> io::Result<()> {
        map_update(&self.0, &rule.key(), &queue.to_ne_bytes())
    }

    /// Frames under `rule` go where they would without it. `false`: there was no such rule.
    pub fn clear(&self, rule: Rule) -> io::Result<bool> {
        match map_delete(&self.0, &rule.key()) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The descriptor, for who only has to keep it.
    pub fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// The descriptor, for another process that has the right to change it.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

/// The map of AF_XDP sockets by receive queue: the server's, and guests'.
pub struct Sockets(OwnedFd);

impl Sockets {
    /// An empty map.
    pub fn new() -> io::Result<Sockets> {
        map_create(MAP_XSK, 4, 4, GUESTS + MOST_QUEUES).map(Sockets)
    }

    /// Puts in a guest's socket, which is bound to `queue`. It leaves by itself when it is closed.
    pub fn set(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.put(GUESTS, queue, socket)
    }

    /// The same for the server's.
    pub fn set_server(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.put(0, queue, socket)
    }

    fn put(&self, from: u32, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        if queue >= MOST_QUEUES {
            return Err(io::Error::other(format!("queue {queue}: up to {MOST_QUEUES} are known here")));
        }
        map_update(&self.0, &(from + queue).to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes())
    }
}

/// Loads the XDP program and puts it on the interface, for as long as the descriptor is open. The driver's way is
/// tried first, then the generic one.
pub fn attach_xdp(interface: u32, rules: &Rules, sockets: &Sockets) -> io::Result<OwnedFd> {
    let program = load(PROG_XDP, &xdp_program(rules.0.as_raw_fd(), sockets.0.as_raw_fd()))?;
    const SKB_MODE: u32 = 2;
    const DRIVER_MODE: u32 = 4;
    link_xdp(&program, interface, DRIVER_MODE).or_else(|error| match error.raw_os_error() {
        // Somebody else's program is there: the generic way would be refused as well, with less clear words.
        Some(libc::EBUSY | libc::EEXIST) => Err(error),
        _ => link_xdp(&program, interface, SKB_MODE),
    })
}

/// Loads the program that chooses a TAP device's queue; for TUNSETSTEERINGEBPF.
pub fn load_tap_steering(rules: &Rules) -> io::Result<OwnedFd> {
    load(PROG_SOCKET_FILTER, &skb_program(rules.0.as_raw_fd(), false))
}

/// Loads the program by which a packet socket takes frames under a rule, whoever has them, and no others; for
/// SO_ATTACH_BPF.
pub fn load_filter(rules: &Rules) -> io::Result<OwnedFd> {
    load(PROG_SOCKET_FILTER, &skb_program(rules.0.as_raw_fd(), true))
}

const PROG_SOCKET_FILTER: u32 = 1;
const PROG_XDP: u32 = 6;
const MAP_HASH: u32 = 1;
const MAP_XSK: u32 = 17;

const HELPER_MAP_LOOKUP: i32 = 1;
const HELPER_SKB_LOAD_BYTES: i32 = 26;
const HELPER_REDIRECT_MAP: i32 = 51;

/// Where the key is built: below the frame pointer.
const KEY_AT: i16 = -24;
const BUFFER: i16 = -64;
const CTX: u8 = 6;
const DATA: u8 = 7;
const END: u8 = 8;
const FP: u8 = 10;

/// XDP: in `ctx` (struct xdp_md) the frame's start and end at 0 and 4, its queue at 16.
fn xdp_program(rules: RawFd, sockets: RawFd) -> Vec<u64> {
    let mut p = Program::default();
    p.copy(CTX, 1);
    p.load(W, DATA, CTX, 0);
    p.load(W, END, CTX, 4);
    p.clear_key();
    p.need(14, "pass");
    p.load(H, 1, DATA, 12);
    p.jump_if(EQ, 1, be(0x0806), "arp");
    p.jump_if(EQ, 1, be(0x0800), "v4");
    p.jump_if(EQ, 1, be(0x86dd), "v6");

    p.label("pass");
    p.set(0, XDP_PASS);
    p.exit();

    p.label("arp");
    p.need(42, "pass");
    p.load(W, 1, DATA, 38);
    p.v4_key();
    p.jump("by_address");

    p.label("v4");
    p.need(34, "pass");
    p.load(W, 1, DATA, 30);
    p.v4_key();
    p.load(H, 1, DATA, 20);
    p.and(1, be(0x3fff)); // a fragment: only the first has ports, and all should go the same way
    p.jump_if(NE, 1, 0, "by_address");
    p.load(B, 4, DATA, 23);
    p.load(B, 2, DATA, 14);
    p.and(2, 0xf);
    p.shift_left(2, 2);
    p.copy(5, DATA);
    p.add(5, 2);
    p.add_value(5, 14);
    p.label("transport");
    p.jump_if(EQ, 4, 6, "ports");
    p.jump_if(NE, 4, 17, "by_address");
    p.label("ports");
    p.copy(1, 5);
    p.add_value(1, 4);
    p.jump_if_past(1, END, "by_address");
    p.load(H, 1, 5, 2);
    p.ports_key();
    p.look_up(rules);
    p.jump_if(NE, 0, 0, "found");
    p.store_value(W, FP, KEY_AT + 16, 0);

    p.label("by_address");
    p.look_up(rules);
    p.jump_if(EQ, 0, 0, "pass");
    p.label("found");
    p.load(W, 1, 0, 0);
    p.load(W, 2, CTX, 16);
    p.jump_if(NE, 1, ANY_QUEUE as i32, "guest");
    p.jump("redirect");
    p.label("guest");
    p.jump_unless_same(1, 2, "redirect"); // the server there knows the way
    p.add_value(2, GUESTS as i32);
    p.label("redirect");
    p.load_map(1, sockets);
    p.set(3, XDP_PASS); // no socket there (any more): as if there were no rule
    p.call(HELPER_REDIRECT_MAP);
    p.exit();

    p.label("v6");
    p.need(54, "pass");
    p.load(B, 4, DATA, 20);
    p.copy(5, DATA);
    p.add_value(5, 54);
    for at in [0, 4, 8, 12] {
        p.load(W, 1, DATA, 38 + at);
        p.store(W, FP, KEY_AT + at, 1);
    }
    p.jump_if(NE, 4, 58, "transport");
    p.copy(1, 5);
    p.add_value(1, 24);
    p.jump_if_past(1, END, "by_address");
    p.load(B, 1, 5, 0);
    p.jump_if(NE, 1, 135, "by_address"); // RFC 4861 section 4.3: a neighbour solicitation names its target
    for at in [0, 4, 8, 12] {
        p.load(W, 1, 5, 8 + at);
        p.store(W, FP, KEY_AT + at, 1);
    }
    p.jump("by_address");
    p.finish()
}

const XDP_PASS: i32 = 2;

/// TAP, and packet sockets (`takes`): `ctx` is the socket buffer, read by a helper into our stack. The answer is the
/// queue, or how much of the frame is taken.
fn skb_program(rules: RawFd, takes: bool) -> Vec<u64> {
    let mut p = Program::default();
    p.copy(CTX, 1);
    p.clear_key();
    p.read(12, 2, "default");
    p.load(H, 1, FP, BUFFER);
    p.jump_if(EQ, 1, be(0x0806), "arp");
    p.jump_if(EQ, 1, be(0x0800), "v4");
    p.jump_if(EQ, 1, be(0x86dd), "v6");
    p.label("default");
    p.set(0, 0);
    p.exit();

    p.label("arp");
    p.read(38, 4, "default");
    p.load(W, 1, FP, BUFFER);
    p.v4_key();
    p.jump("by_address");

    p.label("v4");
    p.read(14, 20, "default");
    p.load(W, 1, FP, BUFFER + 16);
    p.v4_key();
    p.load(H, 1, FP, BUFFER + 6);
    p.and(1, be(0x3fff));
    p.jump_if(NE, 1, 0, "by_address");
    p.load(B, 9, FP, BUFFER + 9);
    p.load(B, 2, FP, BUFFER);
    p.and(2, 0xf);
    p.shift_left(2, 2);
    p.add_value(2, 14);
    p.label("transport");
    p.jump_if(EQ, 9, 6, "ports");
    p.jump_if(NE, 9, 17, "by_address");
    p.label("ports");
    p.read_at_r2(4, "by_address");
    p.load(H, 1, FP, BUFFER + 2);
    p.copy(4, 9);
    p.ports_key();
    p.look_up(rules);
    p.jump_if(NE, 0, 0, "found");
    p.store_value(W, FP, KEY_AT + 16, 0);

    p.label("by_address");
    p.look_up(rules);
    p.jump_if(EQ, 0, 0, "default");
    p.label("found");
    if takes {
        p.set(0, i32::MAX);
    } else {
        p.load(W, 0, 0, 0);
    }
    p.exit();

    p.label("v6");
    p.read(14, 40, "default");
    p.load(B, 9, FP, BUFFER + 6);
    for at in [0, 4, 8, 12] {
        p.load(W, 1, FP, BUFFER + 24 + at);
        p.store(W, FP, KEY_AT + at, 1);
    }
    p.set(2, 54);
    p.jump_if(NE, 9, 58, "transport");
    p.read(54, 24, "by_address");
    p.load(B, 1, FP, BUFFER);
    p.jump_if(NE, 1, 135, "by_address");
    for at in [0, 4, 8, 12] {
        p.load(W, 1, FP, BUFFER + 8 + at);
        p.store(W, FP, KEY_AT + at, 1);
    }
    p.jump("by_address");
    p.finish()
}

/// A 16-bit field in network order as a little-endian load shows it.
const fn be(value: u16) -> i32 {
    value.swap_bytes() as i32
}

// Sizes of a load or store.
const W: u8 = 0x00;
const H: u8 = 0x08;
const B: u8 = 0x10;
// Comparisons.
const EQ: u8 = 0x10;
const NE: u8 = 0x50;

/// Instructions with names for the places that are jumped to.
#[derive(Default)]
struct Program {
    code: Vec<u64>,
    labels: Vec<(&'static str, usize)>,
    jumps: Vec<(usize, &'static str)>,
}

impl Program {
    fn put(&mut self, op: u8, dst: u8, src: u8, offset: i16, value: i32) {
        let registers = u64::from(dst | src << 4) << 8;
        let offset = u64::from(offset as u16) << 16;
        self.code.push(u64::from(op) | registers | offset | u64::from(value as u32) << 32);
    }

    fn label(&mut self, name: &'static str) {
        self.labels.push((name, self.code.len()));
    }

    fn branch(&mut self, op: u8, dst: u8, src: u8, value: i32, to: &'static str) {
        self.jumps.push((self.code.len(), to));
        self.put(op, dst, src, 0, value);
    }

    fn finish(mut self) -> Vec<u64> {
        for (at, name) in self.jumps {
            let to = self.labels.iter().find(|(label, _)| *label == name).expect("a label").1;
            let offset = (to as isize - at as isize - 1) as i16;
            self.code[at] |= u64::from(offset as u16) << 16;
        }
        self.code
    }

    fn copy(&mut self, dst: u8, src: u8) {
        self.put(0xbf, dst, src, 0, 0);
    }

    fn set(&mut self, dst: u8, value: i32) {
        self.put(0xb7, dst, 0, 0, value);
    }

    fn add(&mut self, dst: u8, src: u8) {
        self.put(0x0f, dst, src, 0, 0);
    }

    fn add_value(&mut self, dst: u8, value: i32) {
        self.put(0x07, dst, 0, 0, value);
    }

    fn and(&mut self, dst: u8, value: i32) {
        self.put(0x57, dst, 0, 0, value);
    }

    fn shift_left(&mut self, dst: u8, by: i32) {
        self.put(0x67, dst, 0, 0, by);
    }

    fn load(&mut self, size: u8, dst: u8, src: u8, offset: i16) {
        self.put(0x61 | size, dst, src, offset, 0);
    }

    fn store(&mut self, size: u8, dst: u8, offset: i16, src: u8) {
        self.put(0x63 | size, dst, src, offset, 0);
    }

    fn store_value(&mut self, size: u8, dst: u8, offset: i16, value: i32) {
        self.put(0x62 | size, dst, 0, offset, value);
    }

    fn jump(&mut self, to: &'static str) {
        self.branch(0x05, 0, 0, 0, to);
    }

    fn jump_if(&mut self, comparison: u8, dst: u8, value: i32, to: &'static str) {
        self.branch(0x05 | comparison, dst, 0, value, to);
    }

    fn jump_unless_same(&mut self, a: u8, b: u8, to: &'static str) {
        self.branch(0x5d, a, b, 0, to);
    }

    /// If `a` > `b`, unsigned: the form in which the verifier recognises a packet's bounds.
    fn jump_if_past(&mut self, a: u8, b: u8, to: &'static str) {
        self.branch(0x2d, a, b, 0, to);
    }

    fn call(&mut self, helper: i32) {
        self.put(0x85, 0, 0, 0, helper);
    }

    fn exit(&mut self) {
        self.put(0x95, 0, 0, 0, 0);
    }

    /// The address of a map: two slots, BPF_PSEUDO_MAP_FD.
    fn load_map(&mut self, dst: u8, fd: RawFd) {
        self.put(0x18, dst, 1, 0, fd);
        self.put(0, 0, 0, 0, 0);
    }

    /// The frame has `len` bytes at least, or elsewhere.
    fn need(&mut self, len: i32, to: &'static str) {
        self.copy(1, DATA);
        self.add_value(1, len);
        self.jump_if_past(1, END, to);
    }

    fn clear_key(&mut self) {
        for at in [0, 4, 8, 12, 16] {
            self.store_value(W, FP, KEY_AT + at, 0);
        }
    }

    /// The key's address is ::ffff:r1.
    fn v4_key(&mut self) {
        self.store(W, FP, KEY_AT + 12, 1);
        self.store_value(H, FP, KEY_AT + 10, 0xffff);
    }

    /// The key's port is r1, its protocol r4.
    fn ports_key(&mut self) {
        self.store(H, FP, KEY_AT + 16, 1);
        self.store(B, FP, KEY_AT + 18, 4);
    }

    /// r0: the key's value in the map, or 0.
    fn look_up(&mut self, map: RawFd) {
        self.load_map(1, map);
        self.copy(2, FP);
        self.add_value(2, i32::from(KEY_AT));
        self.call(HELPER_MAP_LOOKUP);
    }

    /// Reads `len` bytes of the frame from `offset`, or goes elsewhere.
    fn read(&mut self, offset: i32, len: i32, otherwise: &'static str) {
        self.set(2, offset);
        self.read_at_r2(len, otherwise);
    }

    fn read_at_r2(&mut self, len: i32, otherwise: &'static str) {
        self.copy(1, CTX);
        self.copy(3, FP);
        self.add_value(3, i32::from(BUFFER));
        self.set(4, len);
        self.call(HELPER_SKB_LOAD_BYTES);
        self.jump_if(NE, 0, 0, otherwise);
    }
}

// bpf(2). The structures are prefixes of `union bpf_attr`, which the kernel takes as zero beyond their end.

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const MAP_DELETE: libc::c_long = 3;
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const ATTACH_XDP: u32 = 37;

#[repr(C)]
struct MapCreate {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

#[repr(C)]
struct MapElement {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the structure is one that the command reads, and what it points to lives over the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>() as libc::c_ulong)
    };
    check(result as libc::c_int)
}

fn bpf_fd<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: a fresh descriptor that nobody else owns.
    bpf(command, attributes).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn map_create(kind: u32, key: u32, value: u32, entries: u32) -> io::Result<OwnedFd> {
    bpf_fd(MAP_CREATE, &MapCreate { kind, key, value, entries, flags: 0 })
}

fn element(map: &OwnedFd, key: &[u8], value: &[u8]) -> MapElement {
    MapElement {
        map: map.as_raw_fd() as u32,
        _pad: 0,
        key: key.as_ptr() as u64,
        // What a command does not read must be zero.
        value: if value.is_empty() { 0 } else { value.as_ptr() as u64 },
        flags: 0,
    }
}

fn map_update(map: &OwnedFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    bpf(MAP_UPDATE, &element(map, key, value)).map(drop)
}

fn map_delete(map: &OwnedFd, key: &[u8]) -> io::Result<()> {
    bpf(MAP_DELETE, &element(map, key, &[])).map(drop)
}

fn load(kind: u32, code: &[u64]) -> io::Result<OwnedFd> {
    let mut log = vec![0u8; 64 * 1024];
    // SAFETY: integers, for which zero is a value.
    let mut attributes: ProgLoad = unsafe { zeroed() };
    attributes.kind = kind;
    attributes.instructions = code.len() as u32;
    attributes.code = code.as_ptr() as u64;
    // The helpers that we call are for all licences.
    attributes.license = c"Dual MIT/GPL".as_ptr() as u64;
    bpf_fd(PROG_LOAD, &attributes).map_err(|error| {
        attributes.log_level = 1;
        attributes.log_size = log.len() as u32;
        attributes.log = log.as_mut_ptr() as u64;
        // Once more for the verifier's words; its last lines say what it minds.
        let _ = bpf_fd(PROG_LOAD, &attributes);
        let text = String::from_utf8_lossy(&log);
        let words: Vec<&str> = text.trim_end_matches('\0').lines().rev().take(4).collect();
        let words = words.into_iter().rev().collect::<Vec<_>>().join("; ");
        io::Error::new(error.kind(), format!("cannot load the steering program: {error} {words}"))
    })
}

fn link_xdp(program: &OwnedFd, interface: u32, flags: u32) -> io::Result<OwnedFd> {
    let program = program.as_raw_fd() as u32;
    bpf_fd(LINK_CREATE, &LinkCreate { program, interface, attach: ATTACH_XDP, flags })
}
