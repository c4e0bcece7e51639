//! How a server begins: as a standby that prepares everything, waits for one word, and then serves.
//!
//! The first server and every later one take the same way. What a standby prepares (mappings with their
//! pages, buffers) is what takes time; what it must not touch before [`Order::Go`] is the server's end of
//! the rings, because the server before it may still be alive.

use crate::board::Board;
use crate::control::{self, ORDERS_VERSION, Order, Place, Uplink};
use crate::port_map::Reader;
use crate::{server, sys};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

/// What a server knows of its network.
pub(crate) struct Network {
    pub(crate) network: (Ipv4Addr, u8),
    pub(crate) uplink: Uplink,
    pub(crate) uplink_fds: Vec<OwnedFd>,
    /// See [`Order::Hello`].
    pub(crate) strays: bool,
    pub(crate) reader: Reader,
    pub(crate) board: Board,
    /// Wakes a supervisor that does not look at the pulse.
    pub(crate) to_supervisor: OwnedFd,
}

/// A guest, mapped but not yet served.
pub(crate) struct Prepared {
    pub(crate) id: u32,
    pub(crate) place: Place,
    pub(crate) to_server: OwnedFd,
    pub(crate) to_guest: OwnedFd,
    pub(crate) process: OwnedFd,
    pub(crate) listeners: Vec<OwnedFd>,
    pub(crate) mapping: sys::Mapping,
}

impl Prepared {
    pub(crate) fn new(id: u32, place: Place, fds: Vec<OwnedFd>) -> io::Result<Prepared> {
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or_else(lacking);
        let (link, to_server, to_guest, process) = (next()?, next()?, next()?, next()?);
        let mapping = sys::Mapping::new(link.as_fd(), true)?;
        mapping.populate();
        Ok(Prepared { id, place, to_server, to_guest, process, listeners: fds.collect(), mapping })
    }
}

fn lacking() -> io::Error {
    io::Error::other("an order lacks descriptors")
}

/// A server's whole life, in a process of its own.
pub(crate) fn run(orders: OwnedFd) -> ! {
    sys::set_name(c"attacca-server");
    // The place is enough: looking for names of a backtrace would take a hundred milliseconds, and guests wait.
    std::panic::set_hook(Box::new(|panic| eprintln!("attacca: network server: {panic}")));
    let outcome = live(orders);
    if let Err(error) = &outcome {
        eprintln!("attacca: network server: {error}");
    }
    sys::exit(i32::from(outcome.is_err()))
}

/// The same in the calling thread.
pub(crate) fn live(orders: OwnedFd) -> io::Result<()> {
    sys::use_fast_clock();
    match stand_by(&orders)? {
        Some((network, guests)) => server::serve(orders, network, guests),
        None => Ok(()),
    }
}

/// The entry of `attacca server serve FD`, which an upgrade executes.
pub fn serve_as_program(orders: i32) -> ! {
    // SAFETY: the descriptor was handed to this program, and is used by nobody else in it.
    run(unsafe { OwnedFd::from_raw_fd(orders) })
}

/// Takes orders until the word to begin; `None` if there will be none.
fn stand_by(orders: &OwnedFd) -> io::Result<Option<(Network, Vec<Prepared>)>> {
    let hello = control::receive(orders.as_fd())?;
    let Some((Order::Hello { version, network, uplink, strays }, fds)) = hello else { return Ok(None) };
    if version != ORDERS_VERSION {
        let words = format!("the supervisor speaks version {version}, this program {ORDERS_VERSION}");
        return Err(io::Error::other(words));
    }
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(lacking);
    let (map, board, to_supervisor) = (next()?, next()?, next()?);
    let (reader, board) = (Reader::open(map.as_fd())?, Board::open(board)?);
    // Whoever executed us for an upgrade waits for this.
    control::post(orders.as_fd(), &ORDERS_VERSION, &[])?;
    let uplink_fds = fds.collect();
    let network = Network { network, uplink, uplink_fds, strays, reader, board, to_supervisor };
    let mut guests: Vec<Prepared> = Vec::new();
    loop {
        let order = match control::receive::<Order>(orders.as_fd()) {
            // The supervisor has ended before it read our word.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
            order => order?,
        };
        match order {
            Some((Order::Add(id, place), fds)) => match Prepared::new(id, *place, fds) {
                Ok(guest) => guests.push(guest),
                Err(error) => eprintln!("attacca: network server: guest {id}: {error}"),
            },
            Some((Order::Remove(id), _)) => guests.retain(|g| g.id != id),
            Some((Order::Go, _)) => return Ok(Some((network, guests))),
            Some((Order::Fault(_), _)) => {}
            Some((Order::Hello { .. }, _)) => return Err(io::Error::other("greeted twice")),
            Some((Order::Quit | Order::Finish, _)) | None => return Ok(None),
        }
    }
}
