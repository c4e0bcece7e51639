//! The buffer between a stream and its other end: filling, flushing, pushing back, seeking.
//!
//! The invariants stand in [`super::file`]. Failures set `errno` and the stream's error flag and
//! answer `Err(())`; the callers turn that into their EOF or -1.

use super::file::{BUFSIZ, FILE, flag, for_each, stdout};
use crate::errno;
use crate::malloc;
use crate::types::*;
use core::ptr::null_mut;
use platform::Errno;

/// A failure whose reason is in `errno` and in the stream's flags.
pub(crate) type Outcome<T> = Result<T, ()>;

const SEEK_SET: c_int = 0;
const SEEK_CUR: c_int = 1;
const SEEK_END: c_int = 2;
const BACKUP_FIRST: usize = 128;

/// Distance between two pointers of one buffer.
#[inline(always)]
fn span(from: *mut u8, to: *mut u8) -> usize {
    // In a line-buffered stream `write_end` stays behind `write_ptr`: that is no room.
    (to as usize).saturating_sub(from as usize)
}

// Reading.
impl FILE {
    /// Bytes that can be read without a call.
    #[inline(always)]
    pub(crate) fn readable(&self) -> usize {
        span(self.read_ptr, self.read_end)
    }

    /// `getc`.
    #[inline(always)]
    pub(crate) fn getc(&mut self) -> c_int {
        if self.read_ptr < self.read_end {
            // SAFETY: below `read_end` there is a byte.
            unsafe {
                let byte = *self.read_ptr;
                self.read_ptr = self.read_ptr.add(1);
                c_int::from(byte)
            }
        } else {
            self.uflow()
        }
    }

    /// `__uflow`: the next byte, taken.
    pub(crate) fn uflow(&mut self) -> c_int {
        let byte = self.underflow();
        if byte >= 0 {
            // SAFETY: `underflow` answered the byte at `read_ptr`.
            self.read_ptr = unsafe { self.read_ptr.add(1) };
        }
        byte
    }

    /// `__underflow`: makes at least one byte readable and answers it, or EOF.
    pub(crate) fn underflow(&mut self) -> c_int {
        match self.fill() {
            // SAFETY: `fill` made a byte readable.
            Ok(()) => c_int::from(unsafe { *self.read_ptr }),
            Err(()) => -1,
        }
    }

    /// Makes at least one byte readable.
    pub(crate) fn fill(&mut self) -> Outcome<()> {
        self.orient_bytes();
        if self.has(flag::CURRENTLY_PUTTING) {
            self.switch_to_get()?;
        }
        if self.read_ptr < self.read_end {
            return Ok(());
        }
        if self.has(flag::IN_BACKUP) {
            self.leave_backup();
            if self.read_ptr < self.read_end {
                return Ok(());
            }
        }
        self.free_backup();
        self.refill()
    }

    /// Reads a buffer full from the other end. The end of the file is sticky (glibc since 2.28, and
    /// C11 7.21.7.1: a stream whose end-of-file indicator is set answers EOF).
    fn refill(&mut self) -> Outcome<()> {
        if self.has(flag::EOF_SEEN) {
            return Err(());
        }
        self.check_readable()?;
        self.allocate();
        self.flush_terminal_output();
        self.reset_areas();
        let room = span(self.buf_base, self.buf_end);
        let count = self.read_some(self.buf_base, room)?;
        // SAFETY: the other end wrote `count` bytes into the buffer.
        self.read_end = unsafe { self.read_end.add(count) };
        Ok(())
    }

    fn check_readable(&mut self) -> Outcome<()> {
        if self.has(flag::NO_READS) {
            self.flags |= flag::ERR_SEEN;
            errno::set(Errno::EBADF);
            return Err(());
        }
        Ok(())
    }

    /// Who asks a person something and then reads the answer expects the question to be visible:
    /// reading from a line-buffered or unbuffered stream flushes a line-buffered stdout (C11 7.21.3).
    fn flush_terminal_output(&mut self) {
        if !self.has(flag::LINE_BUF | flag::UNBUFFERED) {
            return;
        }
        let out = stdout();
        if core::ptr::eq(out, self) || out.is_null() {
            return;
        }
        locked!(
            out,
            |out| if out.has(flag::LINE_BUF) && out.has(flag::LINKED) && !out.has(flag::NO_WRITES) {
                let _ = out.flush();
            }
        );
    }

    /// One read of the other end with all bookkeeping: 0 bytes and errors are `Err`.
    fn read_some(&mut self, into: *mut u8, len: usize) -> Outcome<usize> {
        let read = self.ops.read;
        // SAFETY: the memory is our buffer or the caller's, of at least `len` bytes.
        match unsafe { read(self, into, len) } {
            Ok(0) => {
                self.flags |= flag::EOF_SEEN;
                // At the end another process may append: the position is asked for again.
                self.offset = -1;
                Err(())
            }
            Ok(count) => {
                if self.offset >= 0 {
                    self.offset += count as i64;
                }
                Ok(count)
            }
            Err(error) => {
                errno::set(error);
                self.flags |= flag::ERR_SEEN;
                self.offset = -1;
                Err(())
            }
        }
    }

    /// `fread`'s bytes: as many of `want` as come before the end of the file or an error.
    ///
    /// # Safety
    /// `into` has room for `want` bytes.
    pub(crate) unsafe fn read_bytes(&mut self, mut into: *mut u8, want: usize) -> usize {
        let mut left = want;
        while left > 0 {
            let have = self.readable().min(left);
            if have > 0 {
                // SAFETY: `have` bytes lie at `read_ptr`, and `into` has room for all that is left.
                unsafe {
                    core::ptr::copy_nonoverlapping(self.read_ptr, into, have);
                    self.read_ptr = self.read_ptr.add(have);
                    into = into.add(have);
                }
                left -= have;
                continue;
            }
            match self.read_directly(into, left) {
                Some(Ok(count)) => {
                    // SAFETY: `count` bytes were read into it.
                    into = unsafe { into.add(count) };
                    left -= count;
                }
                Some(Err(())) => break,
                None => {
                    if self.fill().is_err() {
                        break;
                    }
                }
            }
        }
        want - left
    }

    /// Reads whole blocks past the buffer, if more than a buffer is wanted; `None` if not.
    fn read_directly(&mut self, into: *mut u8, want: usize) -> Option<Outcome<usize>> {
        if self.has(flag::CURRENTLY_PUTTING | flag::IN_BACKUP | flag::EOF_SEEN | flag::NO_READS) {
            return None;
        }
        self.orient_bytes();
        self.allocate();
        let block = span(self.buf_base, self.buf_end);
        if want < block {
            return None;
        }
        self.flush_terminal_output();
        self.free_backup();
        self.reset_areas();
        let count = if block >= 128 { want - want % block } else { want };
        Some(self.read_some(into, count))
    }

    /// From writing to reading: what waits is written.
    pub(crate) fn switch_to_get(&mut self) -> Outcome<()> {
        self.flush_pending()?;
        self.read_base = self.buf_base;
        if self.write_ptr > self.read_end {
            self.read_end = self.write_ptr;
        }
        self.read_ptr = self.write_ptr;
        self.write_base = self.read_ptr;
        self.write_ptr = self.read_ptr;
        self.write_end = self.read_ptr;
        self.flags &= !flag::CURRENTLY_PUTTING;
        Ok(())
    }
}

// Pushing back.
impl FILE {
    /// `ungetc`.
    pub(crate) fn unget(&mut self, byte: u8) -> Outcome<()> {
        self.orient_bytes();
        if self.has(flag::CURRENTLY_PUTTING) {
            self.switch_to_get()?;
        }
        // SAFETY: between `read_base` and `read_ptr` lie bytes of the current area; the backup area
        // grows downwards and has room when its `read_ptr` is above its base.
        unsafe {
            if self.read_ptr > self.read_base && *self.read_ptr.sub(1) == byte {
                self.read_ptr = self.read_ptr.sub(1);
            } else {
                self.room_to_push()?;
                self.read_ptr = self.read_ptr.sub(1);
                *self.read_ptr = byte;
            }
        }
        self.flags &= !flag::EOF_SEEN;
        Ok(())
    }

    /// Makes the backup area current, with room below `read_ptr`.
    fn room_to_push(&mut self) -> Outcome<()> {
        if self.has(flag::IN_BACKUP) {
            if self.read_ptr > self.read_base {
                return Ok(());
            }
            return self.grow_backup();
        }
        if self.save_base.is_null() {
            // SAFETY: plain allocation.
            let area = unsafe { malloc::malloc(BACKUP_FIRST) }.cast::<u8>();
            if area.is_null() {
                errno::set(Errno::ENOMEM);
                return Err(());
            }
            self.save_base = area;
            // SAFETY: the end of the fresh block.
            self.save_end = unsafe { area.add(BACKUP_FIRST) };
        }
        // The main area now begins with its unread rest: that follows the backup area.
        self.read_base = self.read_ptr;
        self.flags |= flag::IN_BACKUP;
        core::mem::swap(&mut self.read_end, &mut self.save_end);
        core::mem::swap(&mut self.read_base, &mut self.save_base);
        self.read_ptr = self.read_end;
        self.backup_base = self.read_end;
        Ok(())
    }

    fn grow_backup(&mut self) -> Outcome<()> {
        let old = span(self.read_base, self.read_end);
        // SAFETY: the old area is copied to the upper half of a fresh one twice as large.
        unsafe {
            let area = malloc::malloc(old * 2).cast::<u8>();
            if area.is_null() {
                errno::set(Errno::ENOMEM);
                return Err(());
            }
            core::ptr::copy_nonoverlapping(self.read_base, area.add(old), old);
            malloc::free(self.read_base.cast());
            self.read_base = area;
            self.read_ptr = area.add(old);
            self.read_end = area.add(old * 2);
        }
        Ok(())
    }

    /// Makes the main area current again.
    fn leave_backup(&mut self) {
        self.flags &= !flag::IN_BACKUP;
        core::mem::swap(&mut self.read_end, &mut self.save_end);
        core::mem::swap(&mut self.read_base, &mut self.save_base);
        self.read_ptr = self.read_base;
    }

    /// Forgets what was pushed back.
    pub(crate) fn free_backup(&mut self) {
        if self.has(flag::IN_BACKUP) {
            self.leave_backup();
        }
        if !self.save_base.is_null() {
            // SAFETY: the backup area came from malloc.
            unsafe { malloc::free(self.save_base.cast()) };
            self.save_base = null_mut();
            self.save_end = null_mut();
            self.backup_base = null_mut();
        }
    }

    /// Bytes read from the other end (or pushed back) that the program has not taken.
    fn unread(&self) -> i64 {
        let main = if self.has(flag::IN_BACKUP) { span(self.save_base, self.save_end) } else { 0 };
        (main + self.readable()) as i64
    }
}

// Writing.
impl FILE {
    /// `putc`.
    #[inline(always)]
    pub(crate) fn putc(&mut self, byte: u8) -> c_int {
        if self.write_ptr < self.write_end {
            // SAFETY: below `write_end` there is room.
            unsafe {
                *self.write_ptr = byte;
                self.write_ptr = self.write_ptr.add(1);
            }
            c_int::from(byte)
        } else {
            self.overflow(byte)
        }
    }

    /// `__overflow` with a byte.
    pub(crate) fn overflow(&mut self, byte: u8) -> c_int {
        match self.put_slowly(byte) {
            Ok(()) => c_int::from(byte),
            Err(()) => -1,
        }
    }

    fn put_slowly(&mut self, byte: u8) -> Outcome<()> {
        self.orient_bytes();
        self.switch_to_put()?;
        if self.write_ptr == self.buf_end {
            self.flush_pending()?;
        }
        // SAFETY: the buffer is not full.
        unsafe {
            *self.write_ptr = byte;
            self.write_ptr = self.write_ptr.add(1);
        }
        if self.has(flag::UNBUFFERED) || (self.has(flag::LINE_BUF) && byte == b'\n') {
            self.flush_pending()?;
        }
        Ok(())
    }

    /// Makes the stream ready to put bytes.
    pub(crate) fn switch_to_put(&mut self) -> Outcome<()> {
        if self.has(flag::NO_WRITES) {
            self.flags |= flag::ERR_SEEN;
            errno::set(Errno::EBADF);
            return Err(());
        }
        if self.has(flag::CURRENTLY_PUTTING) && !self.write_base.is_null() {
            return Ok(());
        }
        if self.buf_base.is_null() {
            self.free_backup();
            self.allocate();
        }
        // Pushed-back bytes are lost, but the position must not be: what they hid counts as unread.
        if self.has(flag::IN_BACKUP) {
            let pushed = self.readable();
            self.leave_backup();
            let back = pushed.min(span(self.buf_base, self.read_base));
            // SAFETY: `back` bytes lie below `read_base` in the buffer.
            self.read_base = unsafe { self.read_base.sub(back) };
            self.read_ptr = self.read_base;
        }
        if self.read_ptr == self.buf_end {
            self.read_end = self.buf_base;
            self.read_ptr = self.buf_base;
        }
        self.write_ptr = self.read_ptr;
        self.write_base = self.write_ptr;
        self.read_base = self.read_end;
        self.read_ptr = self.read_end;
        self.flags |= flag::CURRENTLY_PUTTING;
        self.write_end = self.put_limit(self.write_ptr);
        Ok(())
    }

    /// Where `putc_unlocked` must call.
    fn put_limit(&self, from: *mut u8) -> *mut u8 {
        if self.has(flag::LINE_BUF | flag::UNBUFFERED) { from } else { self.buf_end }
    }

    /// Writes what waits.
    pub(crate) fn flush_pending(&mut self) -> Outcome<()> {
        let waiting = span(self.write_base, self.write_ptr);
        if waiting == 0 {
            return Ok(());
        }
        let from = self.write_base;
        if self.write_out(from, waiting) == waiting { Ok(()) } else { Err(()) }
    }

    /// Writes bytes to the other end, at the stream's position, and empties the buffer. Answers how
    /// many were written; on an error the rest is lost, as in glibc.
    fn write_out(&mut self, from: *const u8, len: usize) -> usize {
        if self.has(flag::IS_APPENDING) {
            self.offset = -1;
        } else if self.read_end != self.write_base {
            // The descriptor is ahead, by what was read and not taken.
            let back = span(self.write_base, self.read_end) as i64;
            let seek = self.ops.seek;
            // SAFETY: no memory is involved.
            match unsafe { seek(self, -back, SEEK_CUR) } {
                Ok(at) => self.offset = at,
                Err(error) => {
                    errno::set(error);
                    return 0;
                }
            }
        }
        let written = self.write_all(from, len);
        self.read_base = self.buf_base;
        self.read_ptr = self.buf_base;
        self.read_end = self.buf_base;
        self.write_base = self.buf_base;
        self.write_ptr = self.buf_base;
        self.write_end = self.put_limit(self.buf_base);
        written
    }

    fn write_all(&mut self, from: *const u8, len: usize) -> usize {
        let write = self.ops.write;
        let mut done = 0;
        while done < len {
            // SAFETY: the bytes are the buffer's or the caller's.
            match unsafe { write(self, from.add(done), len - done) } {
                Ok(count) if count > 0 => done += count,
                failure => {
                    if let Err(error) = failure {
                        errno::set(error);
                    }
                    self.flags |= flag::ERR_SEEN;
                    break;
                }
            }
        }
        if self.offset >= 0 {
            self.offset += done as i64;
        }
        done
    }

    /// `fwrite`'s bytes: answers how many were taken.
    pub(crate) fn write_bytes(&mut self, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        if bytes.len() <= span(self.write_ptr, self.write_end) {
            self.append(bytes);
            return bytes.len();
        }
        self.orient_bytes();
        if self.switch_to_put().is_err() {
            return 0;
        }
        if self.has(flag::UNBUFFERED) {
            return self.write_through(bytes);
        }
        let lines = match self.has(flag::LINE_BUF) {
            true => memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1),
            false => 0,
        };
        let (lines, rest) = bytes.split_at(lines);
        if !lines.is_empty() {
            let taken = self.put_block(lines);
            if taken < lines.len() {
                return taken;
            }
            if self.flush_pending().is_err() {
                return 0;
            }
        }
        lines.len() + self.put_block(rest)
    }

    fn append(&mut self, bytes: &[u8]) {
        // SAFETY: the caller made sure of the room behind `write_ptr`.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.write_ptr, bytes.len());
            self.write_ptr = self.write_ptr.add(bytes.len());
        }
    }

    /// Puts bytes without looking for newlines: fills the buffer, writes whole blocks past it.
    fn put_block(&mut self, bytes: &[u8]) -> usize {
        let room = span(self.write_ptr, self.buf_end);
        if bytes.len() <= room {
            self.append(bytes);
            return bytes.len();
        }
        let (first, mut rest) = bytes.split_at(room);
        self.append(first);
        if self.flush_pending().is_err() {
            return room;
        }
        let block = span(self.buf_base, self.buf_end);
        let direct = if block >= 128 { rest.len() - rest.len() % block } else { rest.len() };
        if direct > 0 {
            let written = self.write_out(rest.as_ptr(), direct);
            if written < direct {
                return room + written;
            }
            rest = &rest[direct..];
        }
        self.append(rest);
        bytes.len()
    }

    fn write_through(&mut self, bytes: &[u8]) -> usize {
        if self.flush_pending().is_err() {
            return 0;
        }
        self.write_out(bytes.as_ptr(), bytes.len())
    }

    /// `fflush` of one stream: what waits is written; a seekable input is moved back to where the
    /// program has read (POSIX fflush).
    pub(crate) fn flush(&mut self) -> Outcome<()> {
        self.flush_pending()?;
        if !self.has(flag::CURRENTLY_PUTTING) && self.unread() != 0 {
            // Pushed-back bytes are forgotten and do not count (POSIX).
            self.free_backup();
            let seek = self.ops.seek;
            let back = self.unread();
            // SAFETY: no memory is involved.
            match unsafe { seek(self, -back, SEEK_CUR) } {
                Ok(_) => self.read_end = self.read_ptr,
                Err(Errno::ESPIPE) => {}
                Err(error) => {
                    errno::set(error);
                    return Err(());
                }
            }
            self.offset = -1;
        }
        let synced = self.ops.synced;
        // SAFETY: the hook works on the stream alone.
        unsafe { synced(self) };
        Ok(())
    }
}

// Buffers and positions.
impl FILE {
    /// The first operation on a stream decides its orientation (C11 7.21.2).
    #[inline(always)]
    pub(crate) fn orient_bytes(&mut self) {
        if self.mode == 0 {
            self.mode = -1;
        }
    }

    /// Gives the stream a buffer if it has none, with empty areas in it.
    pub(crate) fn allocate(&mut self) {
        if !self.buf_base.is_null() {
            return;
        }
        self.find_buffer();
        if self.has(flag::IN_BACKUP) {
            (self.save_base, self.save_end) = (self.buf_base, self.buf_base);
        } else {
            self.reset_areas();
        }
    }

    fn find_buffer(&mut self) {
        if !self.has(flag::UNBUFFERED) {
            let size = self.buffer_size();
            // SAFETY: plain allocation.
            let block = unsafe { malloc::malloc(size) }.cast::<u8>();
            if !block.is_null() {
                self.set_buffer(block, size, false);
                return;
            }
        }
        self.use_shortbuf();
    }

    pub(crate) fn use_shortbuf(&mut self) {
        let short = &raw mut self.shortbuf;
        self.set_buffer(short.cast(), 1, true);
    }

    /// What glibc allocates: st_blksize up to BUFSIZ; and a terminal is line-buffered.
    fn buffer_size(&mut self) -> usize {
        if self.wanted_buffer != 0 {
            return self.wanted_buffer;
        }
        if self.fileno < 0 {
            return BUFSIZ;
        }
        let Some(stat) = super::fsops::fstat(self.fileno) else { return BUFSIZ };
        if stat.is_char_device() && super::fsops::is_terminal(self.fileno) {
            self.flags |= flag::LINE_BUF;
        }
        if stat.block_size > 0 && (stat.block_size as usize) < BUFSIZ {
            stat.block_size as usize
        } else {
            BUFSIZ
        }
    }

    /// Exchanges the buffer; the old one is freed if it was ours. The areas are not touched.
    pub(crate) fn set_buffer(&mut self, base: *mut u8, size: usize, users: bool) {
        if !self.buf_base.is_null() && !self.has(flag::USER_BUF) {
            // SAFETY: a buffer of ours came from malloc.
            unsafe { malloc::free(self.buf_base.cast()) };
        }
        self.buf_base = base;
        // SAFETY: the end of the block.
        self.buf_end = unsafe { base.add(size) };
        if users {
            self.flags |= flag::USER_BUF;
        } else {
            self.flags &= !flag::USER_BUF;
        }
    }

    /// Empties all areas.
    pub(crate) fn reset_areas(&mut self) {
        let base = self.buf_base;
        self.read_base = base;
        self.read_ptr = base;
        self.read_end = base;
        self.write_base = base;
        self.write_ptr = base;
        self.write_end = base;
    }

    /// `ftell`.
    pub(crate) fn tell(&mut self) -> Outcome<i64> {
        let seek = self.ops.seek;
        let writing = self.has(flag::CURRENTLY_PUTTING) || self.write_ptr > self.write_base;
        let mut at = self.offset;
        // SAFETY (all seeks): no memory is involved.
        if writing && self.has(flag::IS_APPENDING) {
            // What waits will land at the end, wherever the descriptor is.
            // SAFETY: see above.
            at = note(unsafe { seek(self, 0, SEEK_END) })?;
            self.offset = at;
        } else if at < 0 {
            // SAFETY: see above.
            at = note(unsafe { seek(self, 0, SEEK_CUR) })?;
        }
        let at = match (writing, self.has(flag::IS_APPENDING)) {
            (false, _) => at - self.unread(),
            (true, true) => at + span(self.write_base, self.write_ptr) as i64,
            (true, false) => at + (self.write_ptr as i64 - self.read_end as i64),
        };
        if at < 0 {
            errno::set(Errno::EINVAL);
            return Err(());
        }
        Ok(at)
    }

    /// `fseek`.
    pub(crate) fn seek_to(&mut self, offset: i64, whence: c_int) -> Outcome<i64> {
        let seek = self.ops.seek;
        let (offset, whence) = match whence {
            SEEK_CUR => {
                let at = self.tell()?;
                let Some(target) = at.checked_add(offset) else {
                    errno::set(Errno::EOVERFLOW);
                    return Err(());
                };
                (target, SEEK_SET)
            }
            SEEK_SET | SEEK_END => (offset, whence),
            _ => {
                errno::set(Errno::EINVAL);
                return Err(());
            }
        };
        if offset < 0 && whence == SEEK_SET {
            errno::set(Errno::EINVAL);
            return Err(());
        }
        if self.has(flag::CURRENTLY_PUTTING) || self.write_ptr > self.write_base {
            self.switch_to_get()?;
            self.reset_areas_to_end();
        }
        if whence == SEEK_SET && self.seek_in_buffer(offset) {
            return Ok(offset);
        }
        // SAFETY: no memory is involved.
        let at = note(unsafe { seek(self, offset, whence) })?;
        self.free_backup();
        self.reset_areas();
        self.offset = at;
        self.flags &= !flag::EOF_SEEN;
        Ok(at)
    }

    /// After a flush the buffer holds nothing that was read: the descriptor is where the stream is.
    fn reset_areas_to_end(&mut self) {
        self.free_backup();
        self.reset_areas();
    }

    /// Moves within what has been read, without a call.
    fn seek_in_buffer(&mut self, target: i64) -> bool {
        if self.offset < 0 || self.has(flag::IN_BACKUP) || !self.save_base.is_null() {
            return false;
        }
        let start = self.offset - span(self.read_base, self.read_end) as i64;
        if target < start || target >= self.offset {
            return false;
        }
        // SAFETY: the target lies between `read_base` and `read_end`.
        self.read_ptr = unsafe { self.read_base.add((target - start) as usize) };
        self.flags &= !flag::EOF_SEEN;
        true
    }
}

fn note<T>(result: Result<T, Errno>) -> Outcome<T> {
    result.map_err(errno::set)
}

/// Flushes every stream that has something to write: `fflush(NULL)`.
pub(crate) fn flush_writers() -> c_int {
    let mut result = 0;
    for_each(|file| {
        // A look without the lock: a stream that another thread is reading (perhaps for ever) has
        // nothing to write and must not be waited for.
        // SAFETY: streams of the list are open.
        if unsafe { (*file).write_ptr <= (*file).write_base } {
            return;
        }
        locked!(file, |f| if f.write_ptr > f.write_base && f.flush().is_err() {
            result = -1;
        });
    });
    result
}

/// Flushes every line-buffered stream: `_flushlbf`.
pub(crate) fn flush_line_buffered() {
    for_each(|file| {
        locked!(file, |f| if f.has(flag::LINE_BUF) && f.write_ptr > f.write_base {
            let _ = f.flush();
        });
    });
}

/// For `exit`: writes what waits in every stream, moves seekable inputs back to where the program
/// stopped reading (the next process that shares the descriptor goes on there), and leaves all
/// streams unbuffered, so that what later destructors print is not lost. A stream that another
/// thread holds (it may be blocked in a read) is passed over.
pub fn flush_all() {
    for_each(|file| {
        // SAFETY: streams of the list are open.
        let f = unsafe { &mut *file };
        if !f.has(flag::USER_LOCK) && !f.lock.try_acquire() {
            return;
        }
        finish(f);
        if !f.has(flag::USER_LOCK) {
            f.lock.release();
        }
    });
}

/// What [`flush_all`] does to one stream.
pub(crate) fn finish(f: &mut FILE) {
    if f.mode == 0 || f.has(flag::UNBUFFERED) {
        let _ = f.flush_pending();
        return;
    }
    let saved = errno::get();
    let _ = f.flush();
    f.free_backup();
    f.flags |= flag::UNBUFFERED;
    // The old buffer is left as it is: another thread may be just inside `putc_unlocked`.
    f.buf_base = null_mut();
    f.use_shortbuf();
    f.reset_areas();
    f.flags &= !flag::CURRENTLY_PUTTING;
    errno::set(saved);
}
