//! A memcached client for both sides: one thread, many connections, one request outstanding on each, ten
//! gets for each set, values of 32 bytes, every answer compared.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

const VALUE: usize = 32;
const GETS_FOR_A_SET: u64 = 10;

/// What a run gave.
pub(crate) struct Outcome {
    /// Requests answered.
    pub(crate) requests: u64,
    /// Seconds it took.
    pub(crate) seconds: f64,
}

struct Connection {
    stream: TcpStream,
    key: String,
    /// Requests sent so far.
    count: u64,
    value: [u8; VALUE],
    /// What the outstanding request must be answered with, and how much of it has come.
    expected: Vec<u8>,
    got: usize,
}

/// Loads the server for `duration` over `connections` connections.
pub(crate) fn load(port: u16, connections: usize, duration: Duration) -> io::Result<Outcome> {
    // SAFETY: a fresh descriptor, owned from here.
    let epoll = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
    let mut all = Vec::new();
    for number in 0..connections {
        let connection = Connection::open(port, number)?;
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: number as u64 };
        let fd = connection.stream.as_raw_fd();
        // SAFETY: `event` is ours.
        check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) })?;
        all.push(connection);
    }
    let start = Instant::now();
    for connection in &mut all {
        connection.ask()?;
    }
    let (mut requests, mut open) = (0, connections);
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
    while open > 0 {
        // SAFETY: `events` is ours and as long as said.
        let count = unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), 64, 10_000) };
        if check(count)? == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "a request has no answer for ten seconds"));
        }
        for event in &events[..count as usize] {
            let connection = &mut all[event.u64 as usize];
            if !connection.answered()? {
                continue;
            }
            requests += 1;
            if start.elapsed() < duration { connection.ask()? } else { open -= 1 }
        }
    }
    Ok(Outcome { requests, seconds: start.elapsed().as_secs_f64() })
}

impl Connection {
    fn open(port: u16, number: usize) -> io::Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let (key, value) = (format!("bench-{number:04}"), [b'a'; VALUE]);
        Ok(Connection { stream, key, count: 0, value, expected: Vec::new(), got: 0 })
    }

    /// Sends the next request. One is outstanding at most, so that it fits the socket's buffer.
    fn ask(&mut self) -> io::Result<()> {
        let set = self.count.is_multiple_of(GETS_FOR_A_SET + 1);
        let key = &self.key;
        let mut request = Vec::with_capacity(128);
        self.expected.clear();
        if set {
            // Another value each time: an answer of last time's would be noticed.
            self.value[..8].copy_from_slice(format!("{:08x}", self.count as u32).as_bytes());
            write!(request, "set {key} 0 0 {VALUE}\r\n")?;
            request.extend_from_slice(&self.value);
            request.extend_from_slice(b"\r\n");
            self.expected.extend_from_slice(b"STORED\r\n");
        } else {
            write!(request, "get {key}\r\n")?;
            write!(self.expected, "VALUE {key} 0 {VALUE}\r\n")?;
            self.expected.extend_from_slice(&self.value);
            self.expected.extend_from_slice(b"\r\nEND\r\n");
        }
        self.count += 1;
        self.got = 0;
        self.stream.write_all(&request)
    }

    /// Takes what has come; whether the answer is whole.
    fn answered(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 256];
        let count = match self.stream.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            other => other?,
        };
        let rest = &self.expected[self.got..];
        if count == 0 || !rest.starts_with(&buffer[..count]) {
            let words = String::from_utf8_lossy(&buffer[..count]).into_owned();
            return Err(io::Error::other(format!("a wrong answer: {words:?}")));
        }
        self.got += count;
        Ok(self.got == self.expected.len())
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
