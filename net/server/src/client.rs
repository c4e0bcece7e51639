//! The supervisor's client: `attacca run`.

use crate::control::{self, Reply, Request};
use crate::{Attached, Error, GuestRequest, supervisor, sys};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Starts a network for one guest, which ends with it, and joins it. Call it with one thread only: the
/// supervisor is a fork of the caller (starting takes a millisecond less than an exec would).
pub fn private_network(runtime_dir: &Path, name: &str, request: &GuestRequest) -> Result<Attached, Error> {
    let (ours, theirs) = sys::seqpacket_pair()?;
    let log = runtime_dir.join(format!("{name}.net.log"));
    // A child of a child: init collects it, not the program (which may wait for children of its own).
    match sys::fork()? {
        sys::Fork::Child => {
            drop(ours);
            match sys::fork() {
                Ok(sys::Fork::Child) => supervisor::run_private(theirs, &log),
                _ => sys::exit(0),
            }
        }
        sys::Fork::Parent(child) => {
            drop(theirs);
            sys::wait(child, true)?;
        }
    }
    attach(ours, request)
}

fn attach(control: OwnedFd, request: &GuestRequest) -> Result<Attached, Error> {
    control::send(control.as_fd(), &Request::Attach(request.clone()), &[])?;
    let lost = || io::Error::other("the network's supervisor ended unexpectedly");
    let (reply, fds) = control::receive(control.as_fd())?.ok_or_else(lost)?;
    let place = match reply {
        Reply::Failed(why) => return Err(io::Error::other(why)),
        Reply::Attached(place) => place,
    };
    let [link, to_server, to_guest] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| lost())?;
    Ok(Attached {
        link,
        to_server,
        to_guest,
        control,
        mac: place.mac,
        address: (place.address, place.prefix),
        gateway: place.gateway,
        dns: place.gateway,
        mtu: place.mtu,
        publish: place.publish,
    })
}
