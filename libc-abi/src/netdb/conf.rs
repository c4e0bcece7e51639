//! `/etc/resolv.conf` (resolv.conf(5)) and the `hosts` line of `/etc/nsswitch.conf`.

use super::files;
use super::inet::{parse_v4, parse_v6};
use crate::kcall;
use alloc::vec::Vec;

/// A name server's address, as a kernel sockaddr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// sockaddr_in or sockaddr_in6.
    pub address: [u8; 28],
    /// Its length: 16 or 28.
    pub len: usize,
}

/// How names are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conf {
    /// At most three.
    pub servers: Vec<Server>,
    /// Domains to try a name in.
    pub search: Vec<Vec<u8>>,
    /// Dots that make a name likely to be whole.
    pub ndots: usize,
    /// Seconds for a server's first answer.
    pub timeout: u32,
    /// Rounds through the servers.
    pub attempts: u32,
    /// Start with another server each time.
    pub rotate: bool,
    /// TCP from the start.
    pub use_vc: bool,
    /// A and AAAA one after the other.
    pub single_request: bool,
}

const MAX_SERVERS: usize = 3;
const MAX_SEARCH: usize = 256;
const PORT: u16 = 53;

impl Server {
    /// IPv4, port 53.
    pub fn v4(address: [u8; 4]) -> Self {
        Self::v4_port(address, PORT)
    }

    /// IPv4.
    pub fn v4_port(address: [u8; 4], port: u16) -> Self {
        let mut bytes = [0u8; 28];
        bytes[..2].copy_from_slice(&2u16.to_ne_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[4..8].copy_from_slice(&address);
        Self { address: bytes, len: 16 }
    }

    /// IPv6, port 53.
    pub fn v6(address: [u8; 16], scope: u32) -> Self {
        let mut bytes = [0u8; 28];
        bytes[..2].copy_from_slice(&10u16.to_ne_bytes());
        bytes[2..4].copy_from_slice(&PORT.to_be_bytes());
        bytes[8..24].copy_from_slice(&address);
        bytes[24..].copy_from_slice(&scope.to_ne_bytes());
        Self { address: bytes, len: 28 }
    }
}

/// The system's configuration; a missing file means the server on this host.
pub fn load() -> Conf {
    let text = files::read(c"/etc/resolv.conf").unwrap_or_default();
    let mut conf = parse(&text);
    if conf.search.is_empty()
        && let Some(domain) = own_domain()
    {
        conf.search.push(domain);
    }
    conf
}

/// Reads a resolv.conf.
pub fn parse(text: &[u8]) -> Conf {
    let mut conf = Conf {
        servers: Vec::new(),
        search: Vec::new(),
        ndots: 1,
        timeout: 5,
        attempts: 2,
        rotate: false,
        use_vc: false,
        single_request: false,
    };
    for line in files::lines(text) {
        // A comment starts the line; a keyword stands at its very beginning.
        if matches!(line.first(), Some(b'#' | b';')) {
            continue;
        }
        let mut words = line.split(|b| matches!(b, b' ' | b'\t' | b'\r')).filter(|w| !w.is_empty());
        match words.next() {
            Some(b"nameserver") => {
                let server = words.next().and_then(parse_server);
                conf.servers.extend(server.filter(|_| conf.servers.len() < MAX_SERVERS));
            }
            // The last of `domain` and `search` counts.
            Some(b"domain") => conf.search = words.next().map(<[u8]>::to_vec).into_iter().collect(),
            Some(b"search") => conf.search = words.take(MAX_SEARCH).map(<[u8]>::to_vec).collect(),
            Some(b"options") => words.for_each(|w| option(&mut conf, w)),
            _ => {}
        }
    }
    if conf.servers.is_empty() {
        conf.servers.push(Server::v4([127, 0, 0, 1]));
    }
    conf
}

fn parse_server(text: &[u8]) -> Option<Server> {
    if let Some(address) = parse_v4(text) {
        return Some(Server::v4(address));
    }
    let (address, scope) = match text.iter().position(|&b| b == b'%') {
        Some(at) => (&text[..at], super::interfaces::scope(&text[at + 1..])?),
        None => (text, 0),
    };
    Some(Server::v6(parse_v6(address)?, scope))
}

fn option(conf: &mut Conf, word: &[u8]) {
    let value = |name: &[u8], max: u64| {
        files::number(word.strip_prefix(name)?.strip_prefix(b":")?).map(|n| n.min(max))
    };
    if let Some(n) = value(b"ndots", 15) {
        conf.ndots = n as usize;
    } else if let Some(n) = value(b"timeout", 30) {
        conf.timeout = n.max(1) as u32;
    } else if let Some(n) = value(b"attempts", 5) {
        conf.attempts = n.max(1) as u32;
    }
    match word {
        b"rotate" => conf.rotate = true,
        b"use-vc" => conf.use_vc = true,
        b"single-request" | b"single-request-reopen" => conf.single_request = true,
        _ => {}
    }
}

/// The host name's part behind its first dot.
fn own_domain() -> Option<Vec<u8>> {
    let name = host_name();
    let dot = name.iter().position(|&b| b == b'.')?;
    Some(name[dot + 1..].to_vec()).filter(|d| !d.is_empty())
}

/// uname(2)'s node name.
pub fn host_name() -> Vec<u8> {
    const FIELD: usize = 65;
    let mut names = [0u8; 6 * FIELD];
    // SAFETY: struct utsname is six fields of 65 bytes.
    if unsafe { kcall!(uname, names.as_mut_ptr()) }.is_err() {
        return Vec::new();
    }
    let node = &names[FIELD..2 * FIELD];
    node[..node.iter().position(|&b| b == 0).unwrap_or(FIELD)].to_vec()
}

/// Where hosts are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `/etc/hosts`.
    Files,
    /// Name servers.
    Dns,
}

/// A source, and whether "not found" there ends the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The source.
    pub source: Source,
    /// `[NOTFOUND=return]` behind it.
    pub final_not_found: bool,
}

/// The steps of the `hosts` line; glibc's default without one is `dns files`, with a line of none
/// but unknown modules nothing is left, and then the default holds as well.
pub fn host_steps() -> Vec<Step> {
    if let Some(line) = super::nss::configured(b"hosts") {
        return parse_steps(&[b"hosts:", line].concat());
    }
    parse_steps(&files::read(c"/etc/nsswitch.conf").unwrap_or_default())
}

/// Reads an nsswitch.conf.
pub fn parse_steps(text: &[u8]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let line = files::lines(text).find_map(|line| {
        let line = files::without_comment(line).trim_ascii_start();
        line.strip_prefix(b"hosts")?.trim_ascii_start().strip_prefix(b":")
    });
    // A module that we do not have leaves its actions behind; they are its own.
    let mut last_is_known = false;
    let mut in_actions = false;
    for word in line.unwrap_or(b"").split(|b| b.is_ascii_whitespace()).filter(|w| !w.is_empty()) {
        in_actions |= word[0] == b'[';
        if in_actions {
            let action = word.to_ascii_uppercase();
            if let Some(last) = steps.last_mut().filter(|_| last_is_known) {
                let word = action.strip_prefix(b"[").unwrap_or(&action);
                last.final_not_found |= word.strip_suffix(b"]").unwrap_or(word) == b"NOTFOUND=RETURN";
            }
            in_actions = !word.ends_with(b"]");
            continue;
        }
        let source = match word {
            b"files" => Some(Source::Files),
            b"dns" => Some(Source::Dns),
            _ => None,
        };
        last_is_known = source.is_some();
        steps.extend(source.map(|source| Step { source, final_not_found: false }));
    }
    if steps.is_empty() {
        let step = |source| Step { source, final_not_found: false };
        steps = alloc::vec![step(Source::Files), step(Source::Dns)];
    }
    steps
}
