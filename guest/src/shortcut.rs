//! Shortcuts to other guests: opens the link that the supervisor made for this guest and another one.

use crate::control::{close, send};
use crate::{network, nic};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use net::control::{Shortcut, ToSupervisor};
use net::device::Device;
use net::ring::{Link, RingDevice, Role};
use platform::errno::{Errno, Result};
use platform::time;
use sched::host_fd;
use syscalls::net_device::{Backend, Parts};
use syscalls::net_poll;

/// The supervisor has made one.
pub(crate) fn begin(shortcut: &Shortcut, fds: Vec<i32>) {
    let mut device = net_poll::device();
    if let Err(error) = open(shortcut, fds, &mut device) {
        drop(device);
        crate::message::note(format_args!("a shortcut to another guest cannot be used: {error}"));
        send(&ToSupervisor::ShortcutBroken(shortcut.id), 0);
    }
}

/// One is no more, or all are.
pub(crate) fn end(id: Option<u32>) {
    net_poll::device().end_shortcuts(id, time::now());
}

fn open(shortcut: &Shortcut, fds: Vec<i32>, backend: &mut Backend) -> Result<()> {
    let [memory, bell, own] = fds[..] else {
        fds.iter().for_each(|fd| close(*fd));
        return Err(Errno::EBADF);
    };
    let watched = host_fd::watch(own, host_fd::IN | host_fd::EDGE, Arc::new(network::Doorbell { fd: own }));
    let watch = watched.inspect_err(|_| fds.iter().for_each(|fd| close(*fd)))?;
    let close_all = Box::new(move || {
        host_fd::unwatch(watch);
        [memory, bell, own].into_iter().for_each(close);
    });
    let mapped = nic::size(memory).and_then(|len| Ok((len, backend.map(memory, len, 0)?)));
    let (len, (region, base)) = mapped.inspect_err(|_| close_all())?;
    let parts = Parts { regions: [region].into(), close: close_all };
    let role = if shortcut.end == 0 { Role::Guest } else { Role::Server };
    let mtu = backend.capabilities().mtu;
    // SAFETY: mapped just now with this size, in every process before it uses the device; the mapping goes after it. The
    // supervisor gives each end to one guest.
    let ring = unsafe {
        Link::open(base as *mut u8, len)
            .and_then(|link| RingDevice::new(link, role, 0, mtu, Box::new(move || network::ring(bell))))
    };
    match ring {
        Ok(ring) => backend.add_shortcut(shortcut.id, shortcut.peer, ring, parts),
        Err(_) => {
            backend.give_back(parts, None);
            Err(Errno::EINVAL)
        }
    }
}
