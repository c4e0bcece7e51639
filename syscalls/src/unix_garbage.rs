//! Sockets that only reach each other: descriptors under way in a circle (unix(7), SCM_RIGHTS).
//!
//! A socket that was sent through a socket and closed lives on in the message. If the message waits at a
//! socket that itself lives only in messages, nobody can ever receive it. Every socket under way is
//! counted here; when a socket's descriptor is closed, those that are referred to by messages alone are
//! candidates, and candidates that no message at another socket leads to lose what waits at them, which
//! drops the circle (the idea of Linux's net/unix/garbage.c).

use crate::file::OpenFile;
use crate::inet_socket::InetSocket;
use crate::process::root;
use crate::unix_socket::UnixSocket;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use platform::sync::Lock;

/// Sockets in messages.
#[derive(Default)]
pub struct InFlight {
    /// How many of them are AF_UNIX sockets: mostly none.
    local: AtomicUsize,
    /// All, those of the engine too, by the description's address, with the number of messages that hold it.
    files: Lock<BTreeMap<usize, (usize, Weak<OpenFile>)>>,
    collecting: AtomicBool,
}

fn address(open: &Arc<OpenFile>) -> usize {
    Arc::as_ptr(open) as usize
}

impl InFlight {
    /// None.
    pub const fn new() -> InFlight {
        InFlight {
            local: AtomicUsize::new(0),
            files: Lock::new(BTreeMap::new()),
            collecting: AtomicBool::new(false),
        }
    }

    /// A message takes or gives up a description.
    pub fn note(&self, open: &Arc<OpenFile>, comes: bool) {
        let is_local = socket(open).is_some();
        // Other files are in no hurry to be found; and whoever is killed here may leave the map damaged.
        if !is_local && open.downcast::<InetSocket>().is_none() {
            return;
        }
        let local = usize::from(is_local);
        let mut files = self.files.lock();
        let (held, _) = files.entry(address(open)).or_insert_with(|| {
            self.local.fetch_add(local, Ordering::Release);
            (0, Arc::downgrade(open))
        });
        *held = if comes { *held + 1 } else { held.saturating_sub(1) };
        if *held == 0 {
            files.remove(&address(open));
            self.local.fetch_sub(local, Ordering::Release);
        }
    }

    /// All of them.
    pub fn files(&self) -> Vec<Arc<OpenFile>> {
        self.files.lock().values().filter_map(|(_, open)| open.upgrade()).collect()
    }
}

/// A socket's descriptor was closed: looks for circles, if any socket is under way at all.
pub(crate) fn collect() {
    let flight = &root().in_flight;
    if flight.local.load(Ordering::Acquire) == 0 || flight.collecting.swap(true, Ordering::AcqRel) {
        return;
    }
    // What is dropped may close more sockets, which come here and go away again; the loop sees them.
    loop {
        let garbage = find();
        if garbage.is_empty() {
            break;
        }
        let dropped: Vec<_> = garbage.iter().map(|open| socket(open).map(UnixSocket::empty)).collect();
        drop(garbage);
        drop(dropped);
    }
    flight.collecting.store(false, Ordering::Release);
}

fn socket(open: &Arc<OpenFile>) -> Option<&UnixSocket> {
    open.downcast()
}

/// Candidates that nothing outside leads to, and at which something waits.
fn find() -> Vec<Arc<OpenFile>> {
    let under_way = root().in_flight.files.lock().clone();
    let mut held: BTreeMap<usize, usize> = BTreeMap::new();
    let mut candidates: BTreeMap<usize, Arc<OpenFile>> = BTreeMap::new();
    for (at, (messages, open)) in under_way {
        let Some(open) = open.upgrade().filter(|open| socket(open).is_some()) else { continue };
        if open.descriptors.load(Ordering::Acquire) == messages {
            held.insert(at, messages);
            candidates.insert(at, open);
        }
    }
    let mut inside: BTreeMap<usize, usize> = BTreeMap::new();
    for open in candidates.values() {
        for right in socket(open).map(UnixSocket::rights).unwrap_or_default() {
            *inside.entry(address(&right)).or_default() += 1;
        }
    }
    let from_outside = |at: &usize| held.get(at) != inside.get(at);
    let mut living: Vec<usize> = candidates.keys().copied().filter(from_outside).collect();
    let mut garbage = candidates;
    while let Some(at) = living.pop() {
        let Some(open) = garbage.remove(&at) else { continue };
        living.extend(socket(&open).map(UnixSocket::rights).unwrap_or_default().iter().map(address));
    }
    garbage.into_values().filter(|open| socket(open).is_some_and(|s| !s.rights().is_empty())).collect()
}
