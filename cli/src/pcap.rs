//! `attacca pcap`: a guest's frames as a pcapng file, whichever way they go.
//!
//! The guest sends copies to a socket of ours (`net::control::capture`); it never waits for us, so that a slow disk
//! costs frames of the capture and not of the guest: how many is in the file. What happens to the guest's devices
//! (a switch, a new server) is a comment on the next frame.
//!
//! The format: draft-ietf-opsawg-pcapng. Left out: capture filters; the reader filters.

use crate::error::{Failure, OrFail, Result};
use crate::guests;
use net::control::Mode;
use net::control::capture::{Header, Kind};
use netserver::client;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Arguments of `attacca pcap`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The guest
    guest: String,
    /// Where to: a file, or - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// End after so many frames
    #[arg(short, long, value_name = "N")]
    count: Option<u64>,
    /// End after so many seconds
    #[arg(short, long, value_name = "S")]
    seconds: Option<f64>,
}

/// The longest record: a super-segment with its Ethernet header, and ours.
const LONGEST: usize = 128 * 1024;
/// A guest that does not begin within this time does not listen.
const PATIENCE: Duration = Duration::from_secs(5);

/// Captures until the guest ends, the user says so, or a limit is reached.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let (guest, network, dir) = guests::in_network(&args.guest)?;
    let records = client::capture(&dir, &network, &guest.name).map_err(Failure::new)?;
    let output: Box<dyn Write> = if args.output.as_os_str() == "-" {
        Box::new(io::stdout())
    } else {
        let cannot = format!("cannot write {}", args.output.display());
        Box::new(File::create(&args.output).or_fail(cannot)?)
    };
    stop_at_signals();
    let mut file = Pcapng::new(BufWriter::new(output), &guest.name, &guest.network);
    let end = args.seconds.map(|s| Instant::now() + Duration::from_secs_f64(s.clamp(0.0, 1e9)));
    let outcome = capture(&records, &mut file, end, args.count.unwrap_or(u64::MAX));
    let closed = file.close();
    let (frames, lost) = (file.frames, file.lost);
    match outcome.and(closed) {
        // The reader of a pipe has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.or_fail(format_args!("capture of '{}'", guest.name))?,
    }
    let lost = if lost == 0 { String::new() } else { format!(", {lost} lost: the file is too slow") };
    eprintln!("attacca: {}: {frames} frames captured{lost}", guest.name);
    Ok(ExitCode::SUCCESS)
}

fn capture(records: &OwnedFd, file: &mut Pcapng, end: Option<Instant>, count: u64) -> io::Result<()> {
    let mut buffer = vec![0; LONGEST];
    let begun = Instant::now();
    let mut heard = false;
    while !STOP.load(Ordering::Relaxed) && file.frames < count {
        let until = if heard { end } else { Some(begun + PATIENCE) };
        if !wait(records, Duration::ZERO)? {
            // Nothing more for now: what there is should be seen by who follows the file.
            file.flush()?;
            let left = until.map(|at| at.saturating_duration_since(Instant::now()));
            if !wait(records, left.unwrap_or(Duration::from_secs(3600)))? {
                if !heard && begun.elapsed() >= PATIENCE {
                    return Err(io::Error::other("the guest does not answer"));
                }
                if end.is_some_and(|at| at <= Instant::now()) {
                    return Ok(());
                }
                continue;
            }
        }
        if end.is_some_and(|at| at <= Instant::now()) {
            return Ok(());
        }
        // SAFETY: a buffer of ours.
        let len = unsafe { libc::recv(records.as_raw_fd(), buffer.as_mut_ptr().cast(), LONGEST, 0) };
        match usize::try_from(len) {
            Ok(0) if heard => return Ok(()),
            Ok(0) => return Err(io::Error::other("the guest refuses: another capture of it is running")),
            Ok(len) => {
                heard = true;
                if let Some((header, bytes)) = Header::decode(&buffer[..len]) {
                    file.record(&header, bytes)?;
                }
            }
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            // ECONNRESET: the guest was killed.
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

/// Whether something is there.
fn wait(records: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: records.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let ms = limit.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32;
    // SAFETY: one entry of ours.
    match unsafe { libc::poll(&mut poll, 1, ms) } {
        -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => Ok(false),
        -1 => Err(io::Error::last_os_error()),
        count => Ok(count > 0),
    }
}

static STOP: AtomicBool = AtomicBool::new(false);

/// SIGINT and SIGTERM end the capture, not the process: the file is to be whole.
fn stop_at_signals() {
    extern "C" fn stop(_: libc::c_int) {
        STOP.store(true, Ordering::Relaxed);
    }
    // SAFETY: the handler only stores; without SA_RESTART it ends the poll that waits.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = stop as extern "C" fn(libc::c_int) as usize;
        for signal in [libc::SIGINT, libc::SIGTERM] {
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
        // A reader that goes is an error to write(2), not our end.
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

// Blocks and options by their numbers in the draft.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
const COMMENT: u16 = 1;
const APPLICATION: u16 = 4;
const NAME: u16 = 2;
const DESCRIPTION: u16 = 3;
const RESOLUTION: u16 = 9;
const FLAGS: u16 = 2;
const DROPS: u16 = 4;
const INTERFACE_DROPS: u16 = 5;

/// A file: interface 0 is the ring to the server, 1 the direct device.
struct Pcapng {
    output: BufWriter<Box<dyn Write>>,
    /// From CLOCK_MONOTONIC to CLOCK_REALTIME.
    epoch_ns: u64,
    /// For the next frame.
    comments: Vec<String>,
    /// Of the last record.
    at_ns: u64,
    frames: u64,
    lost: u32,
    begun: bool,
    names: [String; 2],
}

impl Pcapng {
    fn new(output: BufWriter<Box<dyn Write>>, guest: &str, network: &str) -> Pcapng {
        let clock = |id| {
            let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: a timespec of ours.
            unsafe { libc::clock_gettime(id, &mut time) };
            time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
        };
        Pcapng {
            output,
            epoch_ns: clock(libc::CLOCK_REALTIME).saturating_sub(clock(libc::CLOCK_MONOTONIC)),
            comments: Vec::new(),
            at_ns: clock(libc::CLOCK_MONOTONIC),
            frames: 0,
            lost: 0,
            begun: false,
            names: [guest.into(), network.into()],
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        let [guest, network] = &self.names;
        let mut body = Vec::new();
        body.extend(0x1a2b_3c4du32.to_le_bytes());
        body.extend([1u16, 0].iter().flat_map(|v| v.to_le_bytes()));
        body.extend(u64::MAX.to_le_bytes());
        option(&mut body, APPLICATION, concat!("attacca ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(&mut body, COMMENT, format!("guest {guest} of network {network}").as_bytes());
        block(&mut self.output, SECTION, body)?;
        for (name, what) in
            [("server", "the ring to the network server"), ("direct", "a NIC queue of its own")]
        {
            let mut body = Vec::new();
            // LINKTYPE_ETHERNET, a reserved word, no longest frame.
            body.extend([1u16, 0].iter().flat_map(|v| v.to_le_bytes()));
            body.extend(0u32.to_le_bytes());
            option(&mut body, NAME, name.as_bytes());
            option(&mut body, DESCRIPTION, what.as_bytes());
            option(&mut body, RESOLUTION, &[9]);
            block(&mut self.output, INTERFACE, body)?;
        }
        Ok(())
    }

    fn record(&mut self, header: &Header, bytes: &[u8]) -> io::Result<()> {
        self.begin()?;
        self.at_ns = header.at_ns;
        if header.kind == Kind::Event {
            self.comments.push(String::from_utf8_lossy(bytes).into_owned());
            return Ok(());
        }
        let lost = header.lost.saturating_sub(self.lost);
        self.lost = header.lost;
        let mut body = self.place(header.mode);
        body.extend((bytes.len() as u32).to_le_bytes());
        body.extend((bytes.len() as u32).to_le_bytes());
        body.extend(bytes);
        body.resize(body.len().next_multiple_of(4), 0);
        option(&mut body, FLAGS, &if header.sent { 2u32 } else { 1 }.to_le_bytes());
        if lost != 0 {
            option(&mut body, DROPS, &u64::from(lost).to_le_bytes());
        }
        self.comments.drain(..).for_each(|words| option(&mut body, COMMENT, words.as_bytes()));
        self.frames += 1;
        block(&mut self.output, PACKET, body)
    }

    /// Interface and time: how packets and statistics begin.
    fn place(&self, mode: Mode) -> Vec<u8> {
        let time = self.at_ns + self.epoch_ns;
        let words = [u32::from(mode == Mode::Direct), (time >> 32) as u32, time as u32];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.begin()?;
        self.output.flush()
    }

    /// What was said after the last frame stands in the statistics.
    fn close(&mut self) -> io::Result<()> {
        self.begin()?;
        let mut body = self.place(Mode::Server);
        option(&mut body, INTERFACE_DROPS, &u64::from(self.lost).to_le_bytes());
        self.comments.drain(..).for_each(|words| option(&mut body, COMMENT, words.as_bytes()));
        block(&mut self.output, STATISTICS, body)?;
        self.output.flush()
    }
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// A block whose body ends with options. (The section's, too: all have some.)
fn block(output: &mut impl Write, kind: u32, mut body: Vec<u8>) -> io::Result<()> {
    body.extend([0; 4]); // opt_endofopt
    let len = (body.len() as u32 + 12).to_le_bytes();
    output.write_all(&kind.to_le_bytes())?;
    output.write_all(&len)?;
    output.write_all(&body)?;
    output.write_all(&len)
}
