//! Addresses that the guest came by itself (SLAAC, DHCP, link-local ones): the network's supervisor is told, since no
//! guest may send from an address that is not known to be its own.
//!
//! Told without waiting: until the supervisor has written the address down, frames from it are dropped at the server
//! and sent again by whoever wants something. While the supervisor is dead nothing is told; the one that comes after
//! it hears everything.

use crate::net_claim::Send;
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::sync::atomic::{AtomicPtr, Ordering};
use net::Shard;
use net::control::ToSupervisor;
use platform::sync::Lock;

/// What is done with what changed.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// Tells the supervisor.
    pub send: Send,
    /// Has frames to the address brought to our queue, or no more: a guest without a supervisor.
    pub steer: fn(IpAddr, bool),
    /// The supervisor refuses an address.
    pub refused: fn(IpAddr, Errno),
}

struct Leases {
    hooks: Hooks,
    /// Known to the supervisor from the start.
    given: Vec<IpAddr>,
    told: Lock<Vec<(IpAddr, u8)>>,
}

/// Request numbers that are not [`crate::net_claim`]'s; the rest is the address's place in the list of those told.
const OURS: u32 = 1 << 31;

/// A constant once the guest has started; null without a network.
static LEASES: AtomicPtr<Leases> = AtomicPtr::new(core::ptr::null_mut());

/// From now on addresses besides `given` are told. Called once, inside the kernel, before the first thread.
pub fn start(hooks: Hooks, given: Vec<IpAddr>) {
    let leases = Box::new(Leases { hooks, given, told: Lock::new(Vec::new()) });
    LEASES.store(Box::into_raw(leases), Ordering::Release);
}

fn leases() -> Option<&'static Leases> {
    // SAFETY: set once by `start`, to a leaked box in the arena.
    unsafe { LEASES.load(Ordering::Acquire).as_ref() }
}

/// The engine's addresses may be others than before. With the stack locked.
pub(crate) fn changed(shard: &Shard) {
    let Some(leases) = leases() else { return };
    let (v4, v6) = shard.addresses();
    let all = v4.iter().map(|&(address, prefix)| (IpAddr::V4(address), prefix));
    let all = all.chain(v6.iter().map(|own| (IpAddr::V6(own.addr), own.prefix)));
    let now: Vec<(IpAddr, u8)> = all.filter(|(address, _)| !leases.given.contains(address)).collect();
    let mut told = leases.told.lock();
    let gone: Vec<(IpAddr, u8)> = told.iter().filter(|old| !now.contains(old)).copied().collect();
    told.retain(|old| !gone.contains(old));
    for (address, prefix) in gone {
        (leases.hooks.send)(&ToSupervisor::Lease { address, prefix, seconds: 0 }, 0);
        (leases.hooks.steer)(address, false);
    }
    for new in now {
        if !told.contains(&new) {
            told.push(new);
            leases.tell(told.len() - 1, new);
            (leases.hooks.steer)(new.0, true);
        }
    }
}

impl Leases {
    fn tell(&self, at: usize, (address, prefix): (IpAddr, u8)) {
        // For how long, the engine knows, and says so when it is over.
        let message = ToSupervisor::Lease { address, prefix, seconds: u32::MAX };
        (self.hooks.send)(&message, OURS | at as u32);
    }
}

/// A new supervisor is told what there is.
pub fn tell_again() {
    let Some(leases) = leases() else { return };
    let told = leases.told.lock().clone();
    told.into_iter().enumerate().for_each(|(at, lease)| leases.tell(at, lease));
}

/// The supervisor has answered. `false`: it was not asked by us.
pub fn answered(request: u32, answer: Result<()>) -> bool {
    if request & OURS == 0 {
        return false;
    }
    if let (Some(leases), Err(error)) = (leases(), answer) {
        let told = leases.told.lock().get((request & !OURS) as usize).copied();
        if let Some((address, _)) = told {
            (leases.hooks.refused)(address, error);
        }
    }
    true
}
