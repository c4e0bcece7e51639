//! Ports of an address that other guests may share: asked for at the network's supervisor before the engine
//! binds them, and given back when nothing in the guest uses them any more.
//!
//! Only in networks with a name; else every port is the guest's own and nothing here is asked. A port stays claimed
//! as long as a socket is bound to it *or* a connection uses it (one accepted from a listener that is closed by now
//! sends from the listener's port): such ports are looked at again whenever a claim is made or given back. Ports that
//! the engine chooses come from a range that is the guest's from the start, and are not asked for.
//!
//! While the supervisor is dead everything is granted; when one is there again it is told what is held.

use crate::context::Ctx;
use crate::hub::{Events, Hub};
use crate::wait::{self, Waiting};
use crate::{Errno, Result, net_poll};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use core::sync::atomic::{AtomicPtr, Ordering};
use net::control::{Claim, Proto, ToSupervisor};
use platform::sync::Lock;

/// Sends a message with a request number; whether somebody is there to hear it.
pub type Send = fn(&ToSupervisor, u32) -> bool;

type Port = (u8, u16);

/// A question under way.
enum Question {
    /// Somebody waits for the answer.
    Open,
    /// It came.
    Answered(Result<()>),
    /// Who asked was interrupted: a port that is granted goes back.
    Abandoned(Port),
}

#[derive(Default)]
struct Table {
    /// Bound sockets for each port.
    held: BTreeMap<Port, u32>,
    /// Ports without bound sockets that connections may still use.
    idle: Vec<Port>,
    questions: BTreeMap<u32, Question>,
    last: u32,
}

struct Claims {
    send: Send,
    table: Lock<Table>,
    hub: Hub,
}

/// A constant once the guest has started; null in networks that have nothing to ask.
static CLAIMS: AtomicPtr<Claims> = AtomicPtr::new(core::ptr::null_mut());

/// From now on ports are asked for. Called once, inside the kernel, before the first thread.
pub fn start(send: Send) {
    let claims = Box::new(Claims { send, table: Lock::new(Table::default()), hub: Hub::new() });
    CLAIMS.store(Box::into_raw(claims), Ordering::Release);
}

fn claims() -> Option<&'static Claims> {
    // SAFETY: set once by `start`, to a leaked box in the arena.
    unsafe { CLAIMS.load(Ordering::Acquire).as_ref() }
}

/// Asks for a port before it is bound; whether there is something to give back by [`release`]. EADDRINUSE: another
/// guest has it.
pub(crate) fn claim(ctx: &Ctx, proto: Proto, address: IpAddr, port: u16) -> Result<bool> {
    let Some(claims) = claims().filter(|_| port != 0 && !is_own(address)) else { return Ok(false) };
    let key = (proto as u8, port);
    claims.tidy();
    let request = {
        let mut table = claims.table.lock();
        if let Some(count) = table.held.get_mut(&key) {
            *count += 1;
            return Ok(true);
        }
        if let Some(at) = table.idle.iter().position(|p| *p == key) {
            table.idle.swap_remove(at);
            table.held.insert(key, 1);
            return Ok(true);
        }
        // (Numbers with the highest bit are `net_lease`'s.)
        table.last = (table.last.wrapping_add(1) & (u32::MAX >> 1)).max(1);
        let request = table.last;
        table.questions.insert(request, Question::Open);
        request
    };
    if !(claims.send)(&ToSupervisor::Bind(message(key)), request) {
        let mut table = claims.table.lock();
        table.questions.remove(&request);
        *table.held.entry(key).or_default() += 1;
        return Ok(true);
    }
    let answer = wait::block_on_hub(ctx, &claims.hub, Waiting::for_events(Events::READABLE), || {
        let mut table = claims.table.lock();
        match table.questions.get(&request) {
            Some(Question::Answered(answer)) => {
                let answer = *answer;
                table.questions.remove(&request);
                Ok(answer)
            }
            _ => Err(Errno::EAGAIN),
        }
    });
    let mut table = claims.table.lock();
    match answer {
        Ok(Ok(())) => {
            *table.held.entry(key).or_default() += 1;
            Ok(true)
        }
        Ok(Err(refused)) => Err(refused),
        Err(interrupted) => {
            table.questions.insert(request, Question::Abandoned(key));
            Err(interrupted)
        }
    }
}

/// A bound socket has gone, or was not bound after all.
pub(crate) fn release(proto: Proto, port: u16) {
    let Some(claims) = claims().filter(|_| port != 0) else { return };
    let key = (proto as u8, port);
    {
        let mut table = claims.table.lock();
        let Some(count) = table.held.get_mut(&key) else { return };
        *count -= 1;
        if *count == 0 {
            table.held.remove(&key);
            table.idle.push(key);
        }
    }
    claims.tidy();
}

/// The supervisor has answered a question.
pub fn answered(request: u32, answer: Result<()>) {
    let Some(claims) = claims() else { return };
    let mut table = claims.table.lock();
    match table.questions.get_mut(&request) {
        Some(question @ Question::Open) => *question = Question::Answered(answer),
        Some(Question::Abandoned(key)) => {
            let key = *key;
            table.questions.remove(&request);
            if answer.is_ok() {
                table.idle.push(key);
            }
        }
        _ => {}
    }
    drop(table);
    claims.hub.notify(Events::READABLE);
}

/// The supervisor has died: nobody will answer, nobody else will get the ports.
pub fn nobody_answers() {
    let Some(claims) = claims() else { return };
    let mut table = claims.table.lock();
    for question in table.questions.values_mut().filter(|q| matches!(q, Question::Open)) {
        *question = Question::Answered(Ok(()));
    }
    drop(table);
    claims.hub.notify(Events::READABLE);
}

/// A new supervisor is told what is held. (What it answers to number 0 changes nothing here.)
pub fn tell_again() {
    let Some(claims) = claims() else { return };
    let table = claims.table.lock();
    let held: Vec<Port> = table.held.keys().chain(&table.idle).copied().collect();
    drop(table);
    for key in held {
        (claims.send)(&ToSupervisor::Bind(message(key)), 0);
    }
}

impl Claims {
    /// Gives back what nothing uses any more. Not with the table locked: the stack's lock comes first.
    fn tidy(&self) {
        if self.table.lock().idle.is_empty() {
            return;
        }
        let stack = net_poll::home();
        let mut free = Vec::new();
        self.table.lock().idle.retain(|&(proto, port)| {
            let used = stack.shard.is_port_used(proto == Proto::Udp as u8, port);
            if !used {
                free.push((proto, port));
            }
            used
        });
        drop(stack);
        for key in free {
            (self.send)(&ToSupervisor::Unbind(message(key)), 0);
        }
    }
}

/// Loopback addresses are every guest's own.
fn is_own(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn message((proto, port): Port) -> Claim {
    let proto = if proto == Proto::Tcp as u8 { Proto::Tcp } else { Proto::Udp };
    Claim { proto, port, address: Ipv4Addr::UNSPECIFIED.into() }
}
