//! Byte queues over pooled chunks: a connection with nothing buffered holds no buffer memory.
//!
//! A queue is a chain of chunks. Appending and consuming are O(1) for each chunk; joining two chains is
//! O(1); reading at an offset starts from a cursor that remembers the last place, so that sending in
//! order never walks the chain from its head.

use crate::counters::TcpCounters;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Bytes in a large chunk: holds a full Ethernet payload, and 32 of them a super-segment.
pub(crate) const CHUNK: usize = 2048;
/// Bytes in a small one, which an empty queue begins with if that is enough. Ten thousand connections that
/// exchange short messages then touch a few megabytes, and each message one or two lines and no page of
/// its own; 2048-byte chunks made them wait for the page tables at each byte.
const SMALL: usize = 248;
const BLOCK_CHUNKS: usize = 32;
const BLOCK_SMALL: usize = 256;
/// Set in the names of small chunks.
const IS_SMALL: u32 = 1 << 31;
const NIL: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Meta {
    next: u32,
    start: u16,
    end: u16,
}

impl Meta {
    const EMPTY: Meta = Meta { next: NIL, start: 0, end: 0 };
}

/// A small chunk, what is known of it on the line on which its bytes begin.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Small {
    meta: Meta,
    bytes: [u8; SMALL],
}

/// Chunks of a shard. The last one freed is the next one used: it is the one in the cache.
pub(crate) struct Pool {
    blocks: Vec<Box<[u8; BLOCK_CHUNKS * CHUNK]>>,
    meta: Vec<Meta>,
    free: u32,
    small: Vec<Box<[Small; BLOCK_SMALL]>>,
    small_free: u32,
    /// Bytes in use, and how many may be.
    used: usize,
    limit: usize,
    /// What any connection, living or gone, has done (here because everything that counts has a pool at hand).
    pub(crate) counters: TcpCounters,
}

impl Pool {
    pub(crate) fn new(limit_bytes: usize) -> Pool {
        Pool {
            blocks: Vec::new(),
            meta: Vec::new(),
            free: NIL,
            small: Vec::new(),
            small_free: NIL,
            used: 0,
            limit: limit_bytes,
            counters: TcpCounters::default(),
        }
    }

    /// Bytes of chunks in use.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    #[inline]
    fn take(&mut self, small: bool) -> Option<u32> {
        let size = if small { size_of::<Small>() } else { CHUNK };
        if self.used + size > self.limit {
            return None;
        }
        if (if small { self.small_free } else { self.free }) == NIL {
            self.grow(small);
        }
        let chunk = if small { self.small_free } else { self.free };
        let meta = self.meta_mut(chunk);
        let next = core::mem::replace(meta, Meta::EMPTY).next;
        *(if small { &mut self.small_free } else { &mut self.free }) = next;
        self.used += size;
        Some(chunk)
    }

    #[cold]
    fn grow(&mut self, small: bool) {
        if small {
            let first = IS_SMALL | (self.small.len() * BLOCK_SMALL) as u32;
            let block: Vec<Small> = (first..first + BLOCK_SMALL as u32)
                .map(|chunk| Small { meta: Meta { next: chunk + 1, ..Meta::EMPTY }, bytes: [0; SMALL] })
                .collect();
            let Ok(mut block) = <Box<[Small; BLOCK_SMALL]>>::try_from(block.into_boxed_slice()) else {
                return;
            };
            block[BLOCK_SMALL - 1].meta.next = self.small_free;
            self.small_free = first;
            self.small.push(block);
            return;
        }
        let block = alloc::vec![0; BLOCK_CHUNKS * CHUNK].into_boxed_slice();
        let Ok(block) = <Box<[u8; BLOCK_CHUNKS * CHUNK]>>::try_from(block) else { return };
        self.blocks.push(block);
        let first = self.meta.len() as u32;
        for chunk in first..first + BLOCK_CHUNKS as u32 {
            self.meta.push(Meta { next: self.free, ..Meta::EMPTY });
            self.free = chunk;
        }
    }

    #[inline]
    fn give(&mut self, chunk: u32) {
        if chunk & IS_SMALL != 0 {
            self.meta_mut(chunk).next = self.small_free;
            self.small_free = chunk;
            self.used -= size_of::<Small>();
        } else {
            self.meta_mut(chunk).next = self.free;
            self.free = chunk;
            self.used -= CHUNK;
        }
    }

    #[inline]
    fn meta(&self, chunk: u32) -> Meta {
        match small_place(chunk) {
            Some((block, at)) => self.small[block][at].meta,
            None => self.meta[chunk as usize],
        }
    }

    #[inline]
    fn meta_mut(&mut self, chunk: u32) -> &mut Meta {
        match small_place(chunk) {
            Some((block, at)) => &mut self.small[block][at].meta,
            None => &mut self.meta[chunk as usize],
        }
    }

    #[inline]
    fn bytes(&self, chunk: u32) -> &[u8] {
        match small_place(chunk) {
            Some((block, at)) => &self.small[block][at].bytes,
            None => {
                let at = chunk as usize % BLOCK_CHUNKS * CHUNK;
                &self.blocks[chunk as usize / BLOCK_CHUNKS][at..at + CHUNK]
            }
        }
    }

    /// What is known of a chunk, to change, and its bytes.
    #[inline]
    fn chunk_mut(&mut self, chunk: u32) -> (&mut Meta, &mut [u8]) {
        match small_place(chunk) {
            Some((block, at)) => {
                let small = &mut self.small[block][at];
                (&mut small.meta, &mut small.bytes)
            }
            None => {
                let at = chunk as usize % BLOCK_CHUNKS * CHUNK;
                let block = &mut self.blocks[chunk as usize / BLOCK_CHUNKS];
                (&mut self.meta[chunk as usize], &mut block[at..at + CHUNK])
            }
        }
    }
}

/// Block and place of a small chunk.
#[inline]
fn small_place(chunk: u32) -> Option<(usize, usize)> {
    let place = (chunk & !IS_SMALL) as usize;
    (chunk & IS_SMALL != 0).then_some((place / BLOCK_SMALL, place % BLOCK_SMALL))
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
    #[inline]
    pub(crate) fn push(&mut self, pool: &mut Pool, data: &[u8]) -> usize {
        let mut rest = data;
        while !rest.is_empty() {
            let Some((meta, bytes)) = self.tail(pool, rest.len()) else { break };
            let room = &mut bytes[usize::from(meta.end)..];
            let count = room.len().min(rest.len());
            let (now, later) = rest.split_at(count);
            room[..count].copy_from_slice(now);
            meta.end += count as u16;
            self.len += count as u32;
            rest = later;
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
        let (meta, bytes) = self.tail(pool, max)?;
        let room = &mut bytes[usize::from(meta.end)..];
        let room = max.min(room.len());
        let end = usize::from(meta.end);
        let count = fill(&mut bytes[end..end + room]).min(room);
        meta.end += count as u16;
        self.len += count as u32;
        if self.len == 0 {
            self.clear(pool);
        }
        Some(count)
    }

    /// A last chunk with room, for `wanted` bytes to come.
    #[inline]
    fn tail<'a>(&mut self, pool: &'a mut Pool, wanted: usize) -> Option<(&'a mut Meta, &'a mut [u8])> {
        let full = |chunk| usize::from(pool.meta(chunk).end) == pool.bytes(chunk).len();
        if self.last == NIL {
            self.first = pool.take(wanted <= SMALL)?;
            self.last = self.first;
        } else if full(self.last) {
            // A second one follows: this is a stream, and its chain should be short.
            let chunk = pool.take(false)?;
            pool.meta_mut(self.last).next = chunk;
            self.last = chunk;
        }
        Some(pool.chunk_mut(self.last))
    }

    /// Drops `count` bytes from the front.
    #[inline]
    pub(crate) fn consume(&mut self, pool: &mut Pool, count: u32) {
        if count >= self.len {
            // An empty queue holds nothing.
            return self.clear(pool);
        }
        self.consume_some(pool, count);
    }

    fn consume_some(&mut self, pool: &mut Pool, count: u32) {
        let mut left = count;
        self.len -= left;
        match self.cursor_at.checked_sub(left) {
            Some(at) => self.cursor_at = at,
            None => self.cursor = NIL,
        }
        while left > 0 {
            let meta = pool.meta_mut(self.first);
            let here = u32::from(meta.end - meta.start);
            if left < here {
                meta.start += left as u16;
                return;
            }
            left -= here;
            let next = meta.next;
            pool.give(self.first);
            self.first = next;
        }
    }

    /// Drops everything.
    #[inline]
    pub(crate) fn clear(&mut self, pool: &mut Pool) {
        while self.first != NIL {
            let next = pool.meta(self.first).next;
            pool.give(self.first);
            self.first = next;
        }
        *self = Queue::default();
    }

    /// Appends another queue's chunks. Its first chunk is copied if it fits behind our last one, so that
    /// neighbouring chunks together always hold more than a small chunk's bytes (a peer that sends single
    /// bytes out of order cannot make them cost a chunk each); the others are linked.
    pub(crate) fn append(&mut self, pool: &mut Pool, mut other: Queue) {
        if self.last != NIL && other.first != NIL {
            let (last, first) = (pool.meta(self.last), pool.meta(other.first));
            let count = usize::from(first.end - first.start);
            if usize::from(last.end) + count <= pool.bytes(self.last).len() {
                let mut copy = [0; CHUNK];
                copy[..count].copy_from_slice(
                    &pool.bytes(other.first)[usize::from(first.start)..usize::from(first.end)],
                );
                other.consume(pool, count as u32);
                let (meta, bytes) = pool.chunk_mut(self.last);
                let end = usize::from(meta.end);
                bytes[end..end + count].copy_from_slice(&copy[..count]);
                meta.end += count as u16;
                self.len += count as u32;
            }
        }
        if other.first == NIL {
            return;
        }
        if self.last == NIL {
            self.first = other.first;
        } else {
            pool.meta_mut(self.last).next = other.first;
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
            let meta = pool.meta(chunk);
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
        if self.first == self.last && self.first != NIL {
            // One chunk, as short messages have it.
            let count = into.len().min(self.len.saturating_sub(offset) as usize);
            if count == 0 {
                return 0; // A probe has no bytes, and lies before the first.
            }
            let from = usize::from(pool.meta(self.first).start) + offset as usize;
            into[..count].copy_from_slice(&pool.bytes(self.first)[from..from + count]);
            return count;
        }
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
