//! After a death in the middle: whoever holds the shard's lock may be killed by the host between any two instructions
//! (`platform/src/sync.rs`). What a connection then says of itself and what lists, wheel and counts say of it may differ:
//! one that wants to send is on no list, one that waits has no timer, one that is over was not given back. So the
//! connections are asked, all of them, and the lists are made anew.
//!
//! Left out: the flow table and the table of ports (a port that a dead connection has in use there stays in use), and
//! segments that were processed by half: the peer sends them again.

use super::Tcp;
use super::tcb::{Flags, NEVER, NONE, Now, T_RESEND, Tcb};
use crate::TcpState;
use crate::config::Limits;
use alloc::vec::Vec;

impl Tcp {
    pub(crate) fn audit(&mut self, now: Now, limits: &Limits) {
        // Whatever was on them says so itself.
        self.dirty.clear();
        self.events.clear();
        let all: Vec<u32> = self.sockets.in_use().map(|(index, _)| index).collect();
        all.iter().for_each(|&index| self.count_half_open(index, &all));
        for index in all {
            match self.is_left_over(index) {
                true => self.give_back(index),
                false => self.look_after(index, now, limits),
            }
        }
    }

    /// A listener's count of handshakes that are not over.
    fn count_half_open(&mut self, listener: u32, all: &[u32]) {
        if self.sockets[listener].listener.is_none() {
            return;
        }
        let name = (listener, self.sockets[listener].generation);
        let is_half_open =
            |tcb: &Tcb| tcb.state == TcpState::SynReceived && tcb.has(Flags::CHILD) && tcb.parent == name;
        let count = all.iter().filter(|&&index| is_half_open(&self.sockets[index])).count();
        if let Some(queue) = &mut self.sockets[listener].listener {
            queue.half_open = count;
            queue.note();
        }
    }

    /// Nobody will ever close it: its owner has, and it is over; or it has left the handshake, and waits in no backlog.
    fn is_left_over(&self, index: u32) -> bool {
        let tcb = &self.sockets[index];
        if tcb.has(Flags::ORPHAN) {
            return matches!(tcb.state, TcpState::Closed | TcpState::TimeWait);
        }
        if !tcb.has(Flags::CHILD)
            || tcb.has(Flags::HELD | Flags::DEFERRED)
            || tcb.state == TcpState::SynReceived
        {
            return false;
        }
        let (parent, generation) = tcb.parent;
        let parent = self.sockets.get(parent).filter(|tcb| parent != NONE && tcb.generation == generation);
        let queue = parent.and_then(|parent| parent.listener.as_ref());
        !queue.is_some_and(|queue| queue.ready.iter().any(|waiting| waiting.child == index))
    }

    fn give_back(&mut self, index: u32) {
        let tcb = &self.sockets[index];
        if tcb.is_synchronized() {
            let (key, next) = (tcb.key, tcb.snd_nxt);
            self.replies.reset(&key, next, None);
        }
        self.free(index);
    }

    /// Puts it on the lists where it belongs, has it send what it may, and its owner look again.
    fn look_after(&mut self, index: u32, now: Now, limits: &Limits) {
        let tcb = &mut self.sockets[index];
        tcb.flags -= Flags::DIRTY | Flags::EVENTED;
        if tcb.state == TcpState::Listen || !tcb.has(Flags::CHILD | Flags::ORPHAN | Flags::HELD) {
            tcb.news |= tcb.ready(limits);
        }
        if !matches!(tcb.state, TcpState::Closed | TcpState::TimeWait | TcpState::Listen)
            && !tcb.has(Flags::HELD)
        {
            if tcb.snd_una != tcb.snd_nxt && tcb.timer_at[T_RESEND] == NEVER {
                tcb.arm_resend(now);
            }
            self.mark_dirty(index);
        }
        self.sockets[index].filed_at = NEVER;
        self.file_timer(index);
        self.raise(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Capabilities, Pair, PairEnd};
    use crate::{Bind, Config, Endpoint, Ready, Shard, SocketId, TcpFlags};
    use core::net::Ipv4Addr;
    use platform::time::{Instant, MILLISECOND};

    /// A listener, a client and the accepted end, all in one shard, over the loopback.
    struct World {
        shard: Shard,
        device: PairEnd,
        now: Instant,
        listener: SocketId,
    }

    impl World {
        fn new() -> World {
            let mut shard = Shard::new(Config::new([2, 0, 0, 0, 0, 1], [7; 32]));
            let (device, _) = Pair::new(Capabilities::plain(1500), 64);
            let listener = shard.tcp_open().unwrap();
            shard.tcp_bind(listener, Endpoint::new(Ipv4Addr::LOCALHOST, 80), Bind::default()).unwrap();
            shard.tcp_listen(listener, 8).unwrap();
            World { shard, device, now: Instant(1000 * MILLISECOND), listener }
        }

        fn connect(&mut self) -> SocketId {
            let client = self.shard.tcp_open().unwrap();
            let to = Endpoint::new(Ipv4Addr::LOCALHOST, 80);
            let _ = self.shard.tcp_connect(client, to, self.now);
            self.pass(10);
            client
        }

        /// A client, and its accepted end.
        fn established(&mut self) -> (SocketId, SocketId) {
            let client = self.connect();
            (client, self.shard.tcp_accept(self.listener).unwrap().0)
        }

        fn pass(&mut self, ms: u64) {
            for _ in 0..ms {
                self.now = self.now.after(MILLISECOND);
                self.shard.poll(self.now, &mut self.device);
            }
        }

        fn audit(&mut self) {
            self.shard.audit(self.now);
            self.pass(3000);
        }
    }

    #[test]
    fn an_orphan_without_a_timer_goes_on() {
        let mut world = World::new();
        let (client, server) = world.established();
        world.shard.close(client);
        // Its end is queued, and whoever closed it was killed before it was on the list.
        world.shard.tcp.dirty.clear();
        world.pass(3000);
        assert!(!world.shard.ready(server).contains(Ready::PEER_CLOSED), "nobody sends it");
        world.audit();
        assert!(world.shard.ready(server).contains(Ready::PEER_CLOSED));
        world.shard.close(server);
        world.pass(10);
        assert_eq!(world.shard.counts()[0], 1, "the listener");
    }

    #[test]
    fn what_was_over_and_not_given_back_is_given_back() {
        let mut world = World::new();
        let (client, server) = world.established();
        let tcb = &mut world.shard.tcp.sockets[server.index()];
        tcb.flags |= Flags::ORPHAN;
        tcb.state = TcpState::Closed;
        // Another was taken out of the backlog, and not handed out.
        let other = world.connect();
        let listener = world.shard.tcp.sockets[world.listener.index()].listener.as_mut().unwrap();
        let lost = listener.ready.pop_front().unwrap().child;
        listener.half_open = 5;
        world.audit();
        assert_eq!(world.shard.tcp.sockets[world.listener.index()].listener.as_ref().unwrap().half_open, 0);
        assert!(world.shard.ready(other).contains(Ready::HANGUP), "reset: nobody has its other end");
        assert!(world.shard.tcp.sockets.in_use().all(|(index, _)| index != lost && index != server.index()));
        world.shard.close(client);
        world.shard.close(other);
        world.pass(3000);
        assert_eq!(world.shard.counts()[0], 1, "the listener: its peer's end is answered by a reset");
    }

    #[test]
    fn what_lives_is_left_alone() {
        let mut world = World::new();
        let (client, server) = world.established();
        let waiting = world.connect();
        for round in 0..20u8 {
            world.shard.tcp_send(client, &[round; 5000], TcpFlags::empty()).unwrap();
            world.shard.audit(world.now);
            world.pass(50);
            world.shard.audit(world.now);
            let mut got = [0; 5000];
            assert_eq!(world.shard.tcp_recv(server, &mut got, TcpFlags::empty()), Ok(5000), "{round}");
            assert_eq!(got, [round; 5000]);
        }
        assert!(world.shard.tcp_accept(world.listener).is_ok(), "it has waited all the time");
        assert!(!world.shard.ready(waiting).contains(Ready::HANGUP));
        assert_eq!(world.shard.counts()[0], 5);
    }
}
