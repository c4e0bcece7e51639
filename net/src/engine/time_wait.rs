//! TIME-WAIT without a socket: 56 bytes for each connection that we closed first.
//!
//! The record answers late segments and keeps the four-tuple from being used again too early, except by a
//! SYN that is provably newer (RFC 6191, RFC 9293 section 3.6.1).

use alloc::collections::VecDeque;

use super::demux::{Demux, FlowKey};
use super::isn::Key;
use super::seq::Seq;
use super::slab::Slab;

/// How long a record stays: Linux's TCP_TIMEWAIT_LEN.
pub(crate) const TIME_WAIT_MS: u64 = 60_000;

/// What is left of a connection.
#[derive(Clone, Copy)]
pub(crate) struct Record {
    pub(crate) key: FlowKey,
    pub(crate) snd_nxt: Seq,
    pub(crate) rcv_nxt: Seq,
    pub(crate) ts_recent: u32,
    pub(crate) ts_offset: u32,
    pub(crate) timestamps: bool,
    pub(crate) window: u16,
    pub(crate) reuse: bool,
    /// When it expires; 0 for a free slot.
    pub(crate) at_ms: u64,
}

impl Default for Record {
    fn default() -> Record {
        Record {
            key: FlowKey::NONE,
            snd_nxt: Seq(0),
            rcv_nxt: Seq(0),
            ts_recent: 0,
            ts_offset: 0,
            timestamps: false,
            window: 0,
            reuse: false,
            at_ms: 0,
        }
    }
}

/// All records, in the order in which they expire.
pub(crate) struct TimeWait {
    records: Slab<Record>,
    table: Demux,
    order: VecDeque<(u32, u64)>,
    limit: usize,
}

impl TimeWait {
    pub(crate) fn new(key: Key, limit: usize) -> TimeWait {
        TimeWait { records: Slab::new(), table: Demux::new(key), order: VecDeque::new(), limit }
    }

    /// Takes a record; `false` if there is no room (then the connection simply ends).
    pub(crate) fn insert(&mut self, record: Record, now_ms: u64) -> bool {
        if self.records.len() >= self.limit {
            return false;
        }
        let index = self.records.take();
        let at_ms = now_ms + TIME_WAIT_MS;
        self.records[index] = Record { at_ms, ..record };
        self.table.insert(&record.key, index);
        self.order.push_back((index, at_ms));
        true
    }

    pub(crate) fn find(&mut self, key: &FlowKey) -> Option<u32> {
        if self.records.len() == 0 {
            return None;
        }
        self.table.find(self.table.hash(key), |index| self.records[index].key == *key)
    }

    pub(crate) fn record(&mut self, index: u32) -> &mut Record {
        &mut self.records[index]
    }

    /// Begins the wait anew: the peer did not get our last ACK.
    pub(crate) fn restart(&mut self, index: u32, now_ms: u64) {
        let at_ms = now_ms + TIME_WAIT_MS;
        // At most once a second, so that a flood of FINs cannot make the queue long.
        if self.records[index].at_ms + 1000 < at_ms {
            self.records[index].at_ms = at_ms;
            self.order.push_back((index, at_ms));
        }
    }

    /// How long the record has been there.
    pub(crate) fn age_ms(&self, index: u32, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.records[index].at_ms - TIME_WAIT_MS)
    }

    pub(crate) fn remove(&mut self, index: u32) -> Record {
        let record = core::mem::take(&mut self.records[index]);
        self.table.remove(&record.key, index);
        self.records.release(index);
        record
    }

    /// Removes and returns a record that has expired.
    pub(crate) fn expire(&mut self, now_ms: u64) -> Option<Record> {
        while let Some(&(index, at_ms)) = self.order.front() {
            if at_ms > now_ms {
                return None;
            }
            self.order.pop_front();
            // An entry whose record was restarted or removed since is stale.
            if self.records[index].at_ms == at_ms {
                return Some(self.remove(index));
            }
        }
        None
    }

    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.order.front().map(|entry| entry.1)
    }

    /// All keys, those of free slots too.
    pub(crate) fn keys(&self) -> impl Iterator<Item = FlowKey> + '_ {
        self.records.iter().map(|(_, record)| record.key)
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }
}
