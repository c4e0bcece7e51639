//! Asking name servers: UDP with retries, TCP where an answer is cut (RFC 1035, RFC 7766).
//!
//! Several questions (A and AAAA) go out together on one socket. A datagram counts only if it comes
//! from the server asked, has a question's id, and repeats the question.

use super::HostError;
use super::conf::{Conf, Server};
use super::wire;
use crate::kcall;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use platform::Errno;

/// An answer that says something: a message, or why there is none.
pub type Reply = Result<Vec<u8>, HostError>;

/// Largest message.
pub const MAX_MESSAGE: usize = 65535;

static NEXT_SERVER: AtomicUsize = AtomicUsize::new(0);

/// Asks all questions (whole messages); one reply each. A message with any response code is a
/// reply, but servers that fail (SERVFAIL, NOTIMP, REFUSED) are passed over while there are others.
pub fn ask(conf: &Conf, questions: &[Vec<u8>]) -> Vec<Reply> {
    let mut replies: Vec<Option<Vec<u8>>> = alloc::vec![None; questions.len()];
    let mut failed: Vec<Option<Vec<u8>>> = alloc::vec![None; questions.len()];
    let first = if conf.rotate { NEXT_SERVER.fetch_add(1, Ordering::Relaxed) } else { 0 };
    'rounds: for _ in 0..conf.attempts {
        for at in 0..conf.servers.len() {
            let server = &conf.servers[(first + at) % conf.servers.len()];
            let wait = timeout(conf, at);
            exchange(conf, server, questions, wait, &mut replies, &mut failed);
            if replies.iter().all(Option::is_some) {
                break 'rounds;
            }
        }
    }
    replies
        .into_iter()
        .zip(failed)
        .map(|(reply, failed)| reply.or(failed).ok_or(HostError::TryAgain))
        .collect()
}

/// Milliseconds: doubled for each server further down the list, shared among them (res_send.c).
fn timeout(conf: &Conf, at: usize) -> u32 {
    let seconds = conf.timeout << at;
    let seconds = if at > 0 { seconds / conf.servers.len() as u32 } else { seconds };
    seconds.max(1) * 1000
}

/// One server, once.
fn exchange(
    conf: &Conf,
    server: &Server,
    questions: &[Vec<u8>],
    wait: u32,
    replies: &mut [Option<Vec<u8>>],
    failed: &mut [Option<Vec<u8>>],
) {
    let open: Vec<usize> = (0..questions.len()).filter(|&i| replies[i].is_none()).collect();
    let groups: Vec<&[usize]> =
        if conf.single_request { open.chunks(1).collect() } else { alloc::vec![&open[..]] };
    for group in groups {
        let answers = if conf.use_vc { Vec::new() } else { udp(server, questions, group, wait) };
        for &i in group {
            let answer = answers.iter().find(|(at, _)| *at == i).map(|(_, message)| message.clone());
            let cut = answer.as_deref().is_some_and(wire::truncated);
            let answer =
                if cut || conf.use_vc { tcp(server, &questions[i], wait).or(answer) } else { answer };
            match answer {
                // SERVFAIL, NOTIMP, REFUSED: another server may know.
                Some(message) if matches!(wire::rcode(&message), 2 | 4 | 5) => failed[i] = Some(message),
                Some(message) => replies[i] = Some(message),
                None => {}
            }
        }
    }
}

/// A socket that is closed when dropped.
struct Socket(usize);

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: our own descriptor.
        let _ = unsafe { kcall!(close, self.0) };
    }
}

const SOCK_STREAM: usize = 1;
const SOCK_DGRAM: usize = 2;
const SOCK_NONBLOCK: usize = 0o4000;
const SOCK_CLOEXEC: usize = 0o2000000;
const MSG_NOSIGNAL: usize = 0x4000;
const POLLIN: u16 = 1;
const POLLOUT: u16 = 4;

fn connect(server: &Server, kind: usize) -> Result<Socket, Errno> {
    let family = u16::from_ne_bytes([server.address[0], server.address[1]]);
    // SAFETY: the address is ours and as long as it says.
    unsafe {
        let socket = Socket(kcall!(socket, family, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)?);
        match kcall!(connect, socket.0, server.address.as_ptr(), server.len) {
            Ok(_) | Err(Errno::EINPROGRESS) => Ok(socket),
            Err(errno) => Err(errno),
        }
    }
}

/// A point in time, in milliseconds.
fn now() -> u64 {
    platform::time::now().0 / platform::time::MILLISECOND
}

/// Waits for an event on a socket until a deadline; false when it has passed.
fn wait_for(socket: &Socket, events: u16, deadline: u64) -> bool {
    loop {
        let left = deadline.saturating_sub(now());
        let mut entry = (events as u64) << 32 | socket.0 as u64;
        // SAFETY: one struct pollfd: descriptor, events, revents.
        match unsafe { kcall!(poll, &raw mut entry, 1, left as usize) } {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(Errno::EINTR) if left > 0 => {}
            Err(_) => return false,
        }
    }
}

fn udp(server: &Server, questions: &[Vec<u8>], group: &[usize], wait: u32) -> Vec<(usize, Vec<u8>)> {
    let mut answers: Vec<(usize, Vec<u8>)> = Vec::new();
    let Ok(socket) = connect(server, SOCK_DGRAM) else { return answers };
    for &i in group {
        let message = &questions[i];
        // SAFETY: the message is ours. A lost or refused datagram shows as no answer.
        let _ = unsafe { kcall!(sendto, socket.0, message.as_ptr(), message.len(), MSG_NOSIGNAL, 0, 0) };
    }
    let deadline = now() + wait as u64;
    let mut buffer = alloc::vec![0u8; MAX_MESSAGE];
    while answers.len() < group.len() && wait_for(&socket, POLLIN, deadline) {
        // SAFETY: the buffer is ours.
        let got = unsafe { kcall!(recvfrom, socket.0, buffer.as_mut_ptr(), buffer.len(), 0, 0, 0) };
        let message = match got {
            Ok(n) => &buffer[..n.min(MAX_MESSAGE)],
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            // ECONNREFUSED: nobody listens there.
            Err(_) => break,
        };
        let asked = group.iter().copied().find(|&i| wire::answers(message, &questions[i]));
        if let Some(i) = asked.filter(|i| answers.iter().all(|(at, _)| at != i)) {
            answers.push((i, message.to_vec()));
        }
    }
    answers
}

fn tcp(server: &Server, question: &[u8], wait: u32) -> Option<Vec<u8>> {
    let socket = connect(server, SOCK_STREAM).ok()?;
    let deadline = now() + wait as u64;
    let mut out = (question.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(question);
    let mut sent = 0;
    while sent < out.len() {
        if !wait_for(&socket, POLLOUT, deadline) {
            return None;
        }
        let rest = &out[sent..];
        // SAFETY: the message is ours.
        match unsafe { kcall!(sendto, socket.0, rest.as_ptr(), rest.len(), MSG_NOSIGNAL, 0, 0) } {
            Ok(n) => sent += n,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
    let head = receive(&socket, 2, deadline)?;
    let message = receive(&socket, u16::from_be_bytes([head[0], head[1]]) as usize, deadline)?;
    wire::answers(&message, question).then_some(message)
}

fn receive(socket: &Socket, len: usize, deadline: u64) -> Option<Vec<u8>> {
    let mut bytes = alloc::vec![0u8; len];
    let mut got = 0;
    while got < len {
        if !wait_for(socket, POLLIN, deadline) {
            return None;
        }
        let rest = &mut bytes[got..];
        // SAFETY: the buffer is ours.
        match unsafe { kcall!(recvfrom, socket.0, rest.as_mut_ptr(), rest.len(), 0, 0, 0) } {
            Ok(0) => return None,
            Ok(n) => got += n,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
    Some(bytes)
}

/// A random message id: an off-path attacker must guess it and the port.
pub fn random_id() -> u16 {
    let mut bytes = [0u8; 2];
    // SAFETY: two bytes of ours.
    match unsafe { kcall!(getrandom, bytes.as_mut_ptr(), 2, 0) } {
        Ok(2) => u16::from_ne_bytes(bytes),
        _ => platform::time::now().0 as u16,
    }
}

/// What a message's response code and answers mean for a lookup.
pub fn judge(message: Vec<u8>) -> Reply {
    match (wire::rcode(&message), wire::u16_at(&message, 6).unwrap_or(0)) {
        (0, 0) => Err(HostError::NoData),
        (0, _) => Ok(message),
        (3, _) => Err(HostError::NotFound),
        (2, _) => Err(HostError::TryAgain),
        _ => Err(HostError::NoRecovery),
    }
}

/// The names that a search tries for `name`, in order (resolv.conf(5), `ndots`).
pub fn candidates(conf: &Conf, name: &[u8]) -> Vec<Vec<u8>> {
    if name.ends_with(b".") {
        return alloc::vec![name.to_vec()];
    }
    let dots = name.iter().filter(|&&b| b == b'.').count();
    let mut list: Vec<Vec<u8>> = conf
        .search
        .iter()
        .map(|domain| {
            let mut full = name.to_vec();
            full.push(b'.');
            full.extend_from_slice(domain.strip_prefix(b".").unwrap_or(domain));
            full
        })
        .collect();
    if dots >= conf.ndots {
        list.insert(0, name.to_vec())
    } else {
        list.push(name.to_vec())
    }
    list
}

/// Looks `name` up for each type along the search list: the replies of the first candidate with an
/// answer. The error is the one that tells most: "no data" over "no such name", and a server's
/// failure over both, for then nobody knows.
pub fn search(conf: &Conf, name: &[u8], kinds: &[u16]) -> Result<Vec<Reply>, HostError> {
    let mut worst = HostError::NotFound;
    for candidate in candidates(conf, name) {
        let Some((wire_name, _)) = wire::from_text(&candidate) else { continue };
        let ids = random_id();
        let questions: Vec<Vec<u8>> = kinds
            .iter()
            .enumerate()
            .map(|(i, &kind)| wire::query(ids.wrapping_add(i as u16), &wire_name, wire::CLASS_IN, kind))
            .collect();
        let replies: Vec<Reply> = ask(conf, &questions).into_iter().map(|r| r.and_then(judge)).collect();
        if replies.iter().any(Result::is_ok) {
            return Ok(replies);
        }
        let error = |wanted| replies.iter().any(|r| r.as_ref().err() == Some(&wanted));
        if error(HostError::TryAgain) {
            worst = HostError::TryAgain;
        } else if error(HostError::NoRecovery) {
            return Err(HostError::NoRecovery);
        } else if error(HostError::NoData) && worst == HostError::NotFound {
            worst = HostError::NoData;
        }
    }
    Err(worst)
}

/// What an answer says about a name: its canonical name, the aliases passed, the addresses.
pub struct Host {
    /// Canonical name.
    pub name: Vec<u8>,
    /// Names on the way there.
    pub aliases: Vec<Vec<u8>>,
    /// Data of the records of the wanted type.
    pub data: Vec<Vec<u8>>,
}

/// Follows the CNAMEs of an answer from its question to records of `kind`.
pub fn follow(message: &[u8], kind: u16) -> Option<Host> {
    let (mut name, _) = wire::unpack(message, wire::HEADER)?;
    let mut aliases = Vec::new();
    let mut data = Vec::new();
    for record in wire::records(message).filter(|r| r.class == wire::CLASS_IN) {
        if !wire::same_name(&record.name, &name) {
            continue;
        }
        if record.kind == wire::TYPE_CNAME && kind != wire::TYPE_CNAME {
            let (target, _) = wire::unpack(message, record.data_at)?;
            aliases.push(wire::to_text(&name)?);
            name = target;
        } else if record.kind == kind {
            data.push(if kind == wire::TYPE_PTR {
                wire::to_text(&wire::unpack(message, record.data_at)?.0)?
            } else {
                record.data.to_vec()
            });
        }
    }
    Some(Host { name: wire::to_text(&name)?, aliases, data })
}
