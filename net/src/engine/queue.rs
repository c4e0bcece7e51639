//! Byte queues over pooled chunks: a connection with nothing buffered holds no buffer memory.
//!
//! A queue is a chain of chunks. Appending and consuming are O(1) for each chunk; joining two chains is
//! O(1); reading at an offset starts from a cursor that remembers the last place, so that sending in
//! order never walks the chain from its head.

use alloc::boxed::Box;
use alloc::vec::Vec;

/// Bytes in a chunk: holds a full Ethernet payload, and 32 of them a super-segment.
pub(crate) const CHUNK: usize = 2048;
const BLOCK_CHUNKS: usize = 32;
const NIL: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Meta {
    next: u32,
    start: u16,
    end: u16,
}

/// Chunks of a shard. The last one freed is the next one used: it is the one in the cache.
pub(crate) struct Pool {
    blocks: Vec<Box<[u8]>>,
    meta: Vec<Meta>,
    free: u32,
    used: usize,
    limit: usize,
}

impl Pool {
    pub(crate) fn new(limit_bytes: usize) -> Pool {
        let limit = (limit_bytes / CHUNK).min(NIL as usize);
        Pool { blocks: Vec::new(), meta: Vec::new(), free: NIL, used: 0, limit }
    }

    /// Chunks in use.
    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    fn take(&mut self) -> Option<u32> {
        if self.used >= self.limit {
            return None;
        }
        if self.free == NIL {
            self.grow();
        }
        let chunk = self.free;
        self.free = self.meta[chunk as usize].next;
        self.meta[chunk as usize] = Meta { next: NIL, start: 0, end: 0 };
        self.used += 1;
        Some(chunk)
    }

    #[cold]
    fn grow(&mut self) {
        self.blocks.push(alloc::vec![0; BLOCK_CHUNKS * CHUNK].into_boxed_slice());
        let first = self.meta.len() as u32;
        for chunk in first..first + BLOCK_CHUNKS as u32 {
            self.meta.push(Meta { next: self.free, start: 0, end: 0 });
            self.free = chunk;
        }
    }

    #[inline]
    fn give(&mut self, chunk: u32) {
        self.meta[chunk as usize].next = self.free;
        self.free = chunk;
        self.used -= 1;
    }

    #[inline]
    fn bytes(&self, chunk: u32) -> &[u8] {
        let at = chunk as usize % BLOCK_CHUNKS * CHUNK;
        &self.blocks[chunk as usize / BLOCK_CHUNKS][at..at + CHUNK]
    }

    #[inline]
    fn bytes_mut(&mut self, chunk: u32) -> &mut [u8] {
        let at = chunk as usize % BLOCK_CHUNKS * CHUNK;
        &mut self.blocks[chunk as usize / BLOCK_CHUNKS][at..at + CHUNK]
    }
}

/// A queue of bytes. Must be cleared before it is dropped, or its chunks are lost to the pool.
#[derive(Debug)]
pub(crate) struct Queue {
    first: u32,
    last: u32,
    len: u32,
    /// A chunk in the chain, and the offset in the queue at which its bytes begin.
    cursor: u32,
    cursor_at: u32,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { first: NIL, last: NIL, len: 0, cursor: NIL, cursor_at: 0 }
    }
}

impl Queue {
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends as much of `data` as the pool has room for.
    pub(crate) fn push(&mut self, pool: &mut Pool, data: &[u8]) -> usize {
        let mut rest = data;
        while !rest.is_empty() {
            let Some(count) = self.fill_tail(pool, rest.len(), &mut |room| {
                let count = room.len();
                room.copy_from_slice(&rest[..count]);
                count
            }) else {
                break;
            };
            rest = &rest[count..];
        }
        data.len() - rest.len()
    }

    /// Lets `fill` write up to `max` bytes at the end, in place. `None` if there is no chunk.
    #[inline]
    pub(crate) fn fill_tail(
        &mut self,
        pool: &mut Pool,
        max: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> Option<usize> {
        if self.last == NIL || usize::from(pool.meta[self.last as usize].end) == CHUNK {
            let chunk = pool.take()?;
            if self.last == NIL {
                self.first = chunk;
            } else {
                pool.meta[self.last as usize].next = chunk;
            }
            self.last = chunk;
        }
        let end = usize::from(pool.meta[self.last as usize].end);
        let room = max.min(CHUNK - end);
        let count = fill(&mut pool.bytes_mut(self.last)[end..end + room]).min(room);
        pool.meta[self.last as usize].end += count as u16;
        self.len += count as u32;
        if self.len == 0 {
            self.clear(pool);
        }
        Some(count)
    }

    /// Drops `count` bytes from the front.
    pub(crate) fn consume(&mut self, pool: &mut Pool, count: u32) {
        let mut left = count.min(self.len);
        self.len -= left;
        match self.cursor_at.checked_sub(left) {
            Some(at) => self.cursor_at = at,
            None => self.cursor = NIL,
        }
        while left > 0 {
            let meta = &mut pool.meta[self.first as usize];
            let here = u32::from(meta.end - meta.start);
            if left < here {
                meta.start += left as u16;
                return;
            }
            left -= here;
            let next = meta.next;
            // The last chunk goes too: an empty queue holds nothing.
            if next == NIL && self.len > 0 {
                break;
            }
            pool.give(self.first);
            self.first = next;
        }
        if self.len == 0 {
            self.clear(pool);
        }
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self, pool: &mut Pool) {
        while self.first != NIL {
            let next = pool.meta[self.first as usize].next;
            pool.give(self.first);
            self.first = next;
        }
        *self = Queue::default();
    }

    /// Appends another queue's chunks. Its first chunk is copied if it fits behind our last one, so that
    /// neighbouring chunks together always hold more than one chunk's bytes (a peer that sends single
    /// bytes out of order cannot make them cost a chunk each); the others are linked.
    pub(crate) fn append(&mut self, pool: &mut Pool, mut other: Queue) {
        if self.last != NIL && other.first != NIL {
            let (last, first) = (pool.meta[self.last as usize], pool.meta[other.first as usize]);
            let count = usize::from(first.end - first.start);
            if usize::from(last.end) + count <= CHUNK {
                let mut copy = [0; CHUNK];
                copy[..count].copy_from_slice(
                    &pool.bytes(other.first)[usize::from(first.start)..usize::from(first.end)],
                );
                other.consume(pool, count as u32);
                let end = usize::from(last.end);
                pool.bytes_mut(self.last)[end..end + count].copy_from_slice(&copy[..count]);
                pool.meta[self.last as usize].end += count as u16;
                self.len += count as u32;
            }
        }
        if other.first == NIL {
            return;
        }
        if self.last == NIL {
            self.first = other.first;
        } else {
            pool.meta[self.last as usize].next = other.first;
        }
        self.last = other.last;
        self.len += other.len;
    }

    /// Shows `len` bytes from `offset`, in pieces, and moves the cursor there.
    #[inline]
    pub(crate) fn read(&mut self, pool: &Pool, offset: u32, len: u32, mut each: impl FnMut(&[u8]) -> bool) {
        let (mut chunk, mut at) = match self.cursor {
            NIL => (self.first, 0),
            _ if self.cursor_at > offset => (self.first, 0),
            cursor => (cursor, self.cursor_at),
        };
        let end = offset.saturating_add(len).min(self.len);
        let mut position = offset;
        while chunk != NIL {
            let meta = pool.meta[chunk as usize];
            let here = u32::from(meta.end - meta.start);
            if position < at + here {
                let from = usize::from(meta.start) + (position - at) as usize;
                let count = (end.saturating_sub(position)).min(at + here - position);
                (self.cursor, self.cursor_at) = (chunk, at);
                position += count;
                if count == 0 || !each(&pool.bytes(chunk)[from..from + count as usize]) || position >= end {
                    return;
                }
            }
            at += here;
            chunk = meta.next;
        }
    }

    /// Copies `into.len()` bytes from `offset` out; the caller knows that they are there.
    #[inline]
    pub(crate) fn copy_out(&mut self, pool: &Pool, offset: u32, into: &mut [u8]) -> usize {
        let mut done = 0;
        let len = into.len() as u32;
        self.read(pool, offset, len, |piece| {
            into[done..done + piece.len()].copy_from_slice(piece);
            done += piece.len();
            true
        });
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Against a deque: every byte, and every chunk back in the end.
        #[test]
        fn behaves_like_a_deque(steps in prop::collection::vec((0u8..4, 0usize..6000), 1..40)) {
            let mut pool = Pool::new(1 << 20);
            let (mut queue, mut model, mut stamp) = (Queue::default(), VecDeque::new(), 0u8);
            for (what, count) in steps {
                match what {
                    0 | 1 => {
                        let data: Vec<u8> = (0..count).map(|_| { stamp = stamp.wrapping_add(7); stamp }).collect();
                        let mut other = Queue::default();
                        prop_assert_eq!(other.push(&mut pool, &data), count);
                        if what == 0 { queue.append(&mut pool, other); } else {
                            other.clear(&mut pool);
                            queue.push(&mut pool, &data);
                        }
                        model.extend(data);
                    }
                    2 => {
                        let count = count.min(model.len());
                        queue.consume(&mut pool, count as u32);
                        model.drain(..count);
                    }
                    _ if !model.is_empty() => {
                        let offset = count % model.len();
                        let mut out = alloc::vec![0; (model.len() - offset).min(3000)];
                        prop_assert_eq!(queue.copy_out(&pool, offset as u32, &mut out), out.len());
                        prop_assert!(out.iter().eq(model.iter().skip(offset).take(out.len())));
                    }
                    _ => {}
                }
                prop_assert_eq!(queue.len() as usize, model.len());
                if model.is_empty() { prop_assert_eq!(pool.used(), 0); }
            }
            queue.clear(&mut pool);
            prop_assert_eq!(pool.used(), 0);
        }
    }
}
