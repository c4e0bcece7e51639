//! The supervisor's clients: `attacca run` and `attacca server`.

use crate::control::{self, Reply, Request};
use crate::supervisor::{self, control_path};
use crate::{Attached, Error, GuestRequest, NetworkConfig, sys};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Starts a network for one guest, which ends with it, and joins it. Call it with one thread only: the
/// supervisor is a fork of the caller (starting takes a millisecond less than an exec would).
pub fn private_network(runtime_dir: &Path, name: &str, request: &GuestRequest) -> Result<Attached, Error> {
    let (ours, theirs) = sys::seqpacket_pair()?;
    let log = runtime_dir.join(format!("{name}.net.log"));
    let dir = network_dir(runtime_dir, &own_network(name));
    as_daemon(|| {
        sys::close_others(&[std::os::fd::AsRawFd::as_raw_fd(&theirs)]);
        supervisor::run_private(sys::duplicate(&theirs), name, &log, &dir)
    })?;
    drop(theirs);
    attach(ours, request)
}

/// Runs something in a process of its own. A child of a child: init collects it, not the program (which may
/// wait for children of its own).
fn as_daemon(run: impl FnOnce()) -> io::Result<()> {
    match sys::fork()? {
        sys::Fork::Child => {
            if let Ok(sys::Fork::Child) = sys::fork() {
                run();
            }
            sys::exit(0)
        }
        sys::Fork::Parent(child) => sys::wait(child, true).map(drop),
    }
}

/// By which name a guest's own network can be asked. (No other network's begins with a dot.)
pub fn own_network(guest: &str) -> String {
    format!(".own/{guest}")
}

/// The folder of a network with a name.
pub fn network_dir(runtime_dir: &Path, name: &str) -> PathBuf {
    runtime_dir.join("nets").join(name)
}

/// Starts a network with a name; it is up when this comes back. Call it with one thread only.
pub fn start(runtime_dir: &Path, config: &NetworkConfig) -> Result<(), Error> {
    let dir = network_dir(runtime_dir, &config.name);
    std::fs::create_dir_all(&dir)?;
    let lock = std::fs::File::create(dir.join("lock"))?;
    // Two who start the same network: one does, the other hears that it runs.
    lock.lock()?;
    if sys::connect_to(&control_path(&dir)).is_ok() {
        return Err(io::Error::other(format!("the network '{}' is running", config.name)));
    }
    let (ours, theirs) = sys::seqpacket_pair()?;
    as_daemon(|| {
        sys::close_others(&[std::os::fd::AsRawFd::as_raw_fd(&theirs)]);
        supervisor::run_named(config.clone(), &dir, sys::duplicate(&theirs))
    })?;
    drop(theirs);
    match control::receive::<Reply>(ours.as_fd())? {
        Some((Reply::Done, _)) => Ok(()),
        Some((Reply::Failed(why), _)) => Err(io::Error::other(why)),
        _ => Err(io::Error::other("the network's supervisor ended unexpectedly")),
    }
}

/// Joins a network with a name.
pub fn join(runtime_dir: &Path, network: &str, request: &GuestRequest) -> Result<Attached, Error> {
    attach(knock(runtime_dir, network)?, request)
}

/// What the network says of itself, as JSON.
pub fn status(runtime_dir: &Path, network: &str) -> Result<String, Error> {
    let (_, fds) = ask(runtime_dir, network, &Request::Status)?;
    let fd = fds.into_iter().next().ok_or_else(|| io::Error::other("the network says nothing"))?;
    let mut file = std::fs::File::from(fd);
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Has the standby take over from the server.
pub fn restart(runtime_dir: &Path, network: &str) -> Result<(), Error> {
    ask(runtime_dir, network, &Request::Restart).map(drop)
}

/// For tests: has the server do something bad.
pub fn fault(runtime_dir: &Path, network: &str, fault: crate::Fault) -> Result<(), Error> {
    ask(runtime_dir, network, &Request::Fault(fault)).map(drop)
}

/// Has a server take over that is another program.
pub fn upgrade(runtime_dir: &Path, network: &str, program: &Path) -> Result<(), Error> {
    ask(runtime_dir, network, &Request::Upgrade(program.into())).map(drop)
}

/// Moves a guest to a direct queue (of `nic`, or of the network's own) or back; what there is to say of it.
pub fn switch(
    runtime_dir: &Path,
    network: &str,
    guest: &str,
    direct: bool,
    nic: Option<crate::direct::NicSpec>,
) -> Result<String, Error> {
    said(ask(runtime_dir, network, &Request::Switch { guest: guest.into(), direct, nic })?)
}

/// Begins to capture a guest's frames: a socket of records ([`net::control::capture`]), closed by the guest's end if it
/// refuses. Closing it ends the capture.
pub fn capture(runtime_dir: &Path, network: &str, guest: &str) -> Result<OwnedFd, Error> {
    let (ours, theirs) = sys::seqpacket_pair()?;
    // What the guest has sent and nobody has read is counted on its end.
    sys::set_send_buffer(theirs.as_fd(), CAPTURE_BYTES);
    let control = knock(runtime_dir, network)?;
    control::send(control.as_fd(), &Request::Capture(guest.into()), &[theirs.as_fd()])?;
    match control::receive(control.as_fd())? {
        Some((Reply::Failed(why), _)) => Err(io::Error::other(why)),
        Some(_) => Ok(ours),
        None => Err(io::Error::other("the network's supervisor ended unexpectedly")),
    }
}

/// Room for frames that a capture's reader has not taken yet, if the host allows it.
const CAPTURE_BYTES: i32 = 8 << 20;

/// How a guest reaches the network, since when and why.
pub fn explain(runtime_dir: &Path, network: &str, guest: &str) -> Result<String, Error> {
    said(ask(runtime_dir, network, &Request::Explain(guest.into()))?)
}

fn said((reply, _): (Reply, Vec<OwnedFd>)) -> Result<String, Error> {
    match reply {
        Reply::Said(words) => Ok(words),
        _ => Ok(String::new()),
    }
}

/// Takes the network down; its guests run on without. When this comes back its processes have ended, and with them what
/// they held of the host: its NIC is free.
pub fn stop(runtime_dir: &Path, network: &str) -> Result<(), Error> {
    let control = knock(runtime_dir, network)?;
    // Who listens there. In another namespace of processes it has no number, and there is nothing to wait for.
    let supervisor = sys::peer_pid(control.as_fd()).ok().filter(|pid| *pid > 0);
    let process = supervisor.and_then(|pid| Some((pid, sys::pidfd(pid).ok()?)));
    control::send(control.as_fd(), &Request::Stop, &[])?;
    let told = sys::poll_readable(&[control.as_raw_fd()], STOP_MS)?[0];
    if told && let Some((Reply::Failed(why), _)) = control::receive(control.as_fd())? {
        return Err(io::Error::other(why));
    }
    let gone = match &process {
        Some((_, process)) if told => sys::poll_readable(&[process.as_raw_fd()], STOP_MS)?[0],
        _ => told,
    };
    if gone {
        return Ok(());
    }
    let left = process.map_or_else(|| "its supervisor".into(), |(pid, _)| left(pid));
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!("network '{network}': told to stop, but after {} s there is still {left}", STOP_MS / 1000),
    ))
}

/// How long a network's processes may take to end, twice: until the supervisor has ended its servers (which may take a
/// second each), and until it has ended itself.
const STOP_MS: i32 = 5000;

/// The supervisor and its children, by number and name.
fn left(supervisor: i32) -> String {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // Field 4 of proc(5)'s stat, behind a name that may hold anything.
    let parent = |pid: i32| -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    let servers = numbers.filter(|pid| parent(*pid) == Some(supervisor));
    let named = |pid: i32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("process {pid} ({})", name.trim_end())
    };
    std::iter::once(supervisor).chain(servers).map(named).collect::<Vec<_>>().join(", ")
}

/// The networks with a name that are running.
pub fn networks(runtime_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(runtime_dir.join("nets")).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|e| sys::connect_to(&control_path(&e.path())).is_ok())
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn knock(runtime_dir: &Path, network: &str) -> io::Result<OwnedFd> {
    let path = control_path(&network_dir(runtime_dir, network));
    sys::connect_to(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused if network.starts_with('.') => {
            io::Error::new(error.kind(), "the guest's network does not answer")
        }
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => io::Error::new(
            error.kind(),
            format!("no network is called '{network}' (start it: attacca server start --net {network})"),
        ),
        _ => error,
    })
}

fn ask(runtime_dir: &Path, network: &str, request: &Request) -> io::Result<(Reply, Vec<OwnedFd>)> {
    let control = knock(runtime_dir, network)?;
    control::send(control.as_fd(), request, &[])?;
    let lost = || io::Error::other("the network's supervisor ended unexpectedly");
    match control::receive(control.as_fd())?.ok_or_else(lost)? {
        (Reply::Failed(why), _) => Err(io::Error::other(why)),
        answer => Ok(answer),
    }
}

fn attach(control: OwnedFd, request: &GuestRequest) -> Result<Attached, Error> {
    control::send(control.as_fd(), &Request::Attach(request.clone()), &[])?;
    let lost = || io::Error::other("the network's supervisor ended unexpectedly");
    let (reply, fds) = control::receive(control.as_fd())?.ok_or_else(lost)?;
    let place = match reply {
        Reply::Failed(why) => return Err(io::Error::other(why)),
        Reply::Attached(place) => place,
        Reply::Done | Reply::Said(_) => return Err(lost()),
    };
    let [link, to_server, to_guest] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| lost())?;
    Ok(Attached {
        link,
        to_server,
        to_guest,
        control,
        mac: place.mac,
        peer_mac: place.peer_mac,
        address: (place.address, place.prefix),
        dhcp: place.dhcp,
        gateway: place.gateway,
        address6: place.address6,
        gateway6: place.gateway6,
        auto6: place.auto6,
        dns: place.dns,
        mtu: place.mtu,
        ephemeral: place.ephemeral,
        claims: place.claims,
        publish: place.publish,
    })
}
