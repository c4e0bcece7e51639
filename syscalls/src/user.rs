//! What a program claims about its memory: pointers, strings, buffers; and checked copies.
//!
//! One address space holds the program and the personality, so a pointer proves nothing by itself.
//! Every copy goes through [`copy_in`] and [`copy_out`]: the range is checked against the end of
//! user space and the kernel's arena, and a page that is not there ends the copy with EFAULT (the
//! scheduler recognises the copying instructions when they fault). What is *not* proved: that no
//! other thread changes the memory meanwhile. Hence values are copied once, then checked.

use crate::file::{Buffer, Sink, Source};
use crate::{Errno, Result, rt};
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::mem::{MaybeUninit, size_of};
use platform::layout;

/// End of user space on x86-64 with four page-table levels (`TASK_SIZE_MAX`).
pub const USER_END: usize = 0x7fff_ffff_f000;
/// `PATH_MAX`, the NUL included.
pub const PATH_MAX: usize = 4096;
/// `UIO_MAXIOV`.
pub const IOV_MAX: usize = 1024;
/// The most that one read or write moves (`MAX_RW_COUNT`).
pub const RW_MAX: usize = 0x7fff_f000;

/// Whether a program may name `[at, at + len)` at all. Kernel state is not its memory.
#[inline]
pub fn in_user_space(at: usize, len: usize) -> bool {
    match at.checked_add(len) {
        Some(end) => end <= USER_END && !(at < layout::ARENA_END && end > layout::ARENA_BASE && len != 0),
        None => false,
    }
}

/// Copies `len` bytes of the program to kernel memory.
///
/// # Safety
/// `into` is valid for `len` bytes of writes and not the program's memory.
#[inline]
pub unsafe fn copy_in(from: usize, into: *mut u8, len: usize) -> Result<()> {
    if !in_user_space(from, len) {
        return Err(Errno::EFAULT);
    }
    // SAFETY: the caller vouches for `into`; a fault on `from` is answered as an error.
    unsafe { rt::copy_from_user(into, from, len) }
}

/// Copies `len` bytes of kernel memory to the program.
///
/// # Safety
/// `from` is valid for `len` bytes of reads.
#[inline]
pub unsafe fn copy_out(to: usize, from: *const u8, len: usize) -> Result<()> {
    if !in_user_space(to, len) {
        return Err(Errno::EFAULT);
    }
    // SAFETY: the caller vouches for `from`; `to` lies outside kernel state, and a fault on it is
    // answered as an error.
    unsafe { rt::copy_to_user(to, from, len) }
}

/// Reads bytes of the program into a kernel buffer.
#[inline]
pub fn read_bytes(from: usize, into: &mut [u8]) -> Result<()> {
    // SAFETY: `into` is a kernel buffer of that length.
    unsafe { copy_in(from, into.as_mut_ptr(), into.len()) }
}

/// Writes kernel bytes to the program's memory.
#[inline]
pub fn write_bytes(to: usize, bytes: &[u8]) -> Result<()> {
    // SAFETY: `bytes` is readable for its length.
    unsafe { copy_out(to, bytes.as_ptr(), bytes.len()) }
}

/// A pointer of the program to a `T` (or to an array of them). May be null, wild or misaligned.
/// `T` must be plain data: every bit pattern valid, no padding that matters.
#[derive(Debug)]
pub struct UserPtr<T>(usize, PhantomData<*mut T>);

impl<T> Clone for UserPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for UserPtr<T> {}

impl<T: Copy> UserPtr<T> {
    /// The claim "there is a T at `address`".
    #[inline(always)]
    pub const fn new(address: usize) -> UserPtr<T> {
        UserPtr(address, PhantomData)
    }

    /// The address.
    #[inline(always)]
    pub const fn address(self) -> usize {
        self.0
    }

    /// Whether it is NULL.
    #[inline(always)]
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The `index`th element of an array at this address.
    #[inline]
    pub const fn at(self, index: usize) -> UserPtr<T> {
        UserPtr(self.0.wrapping_add(index.wrapping_mul(size_of::<T>())), PhantomData)
    }

    /// The same address as another type.
    #[inline]
    pub const fn cast<U: Copy>(self) -> UserPtr<U> {
        UserPtr::new(self.0)
    }

    /// Copies the value in.
    #[inline]
    pub fn read(self) -> Result<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the copy fills the whole value or fails; T is plain data (see the type).
        unsafe {
            copy_in(self.0, value.as_mut_ptr().cast(), size_of::<T>())?;
            Ok(value.assume_init())
        }
    }

    /// Copies a value in, or `None` for a NULL pointer.
    #[inline]
    pub fn read_optional(self) -> Result<Option<T>> {
        if self.is_null() { Ok(None) } else { self.read().map(Some) }
    }

    /// Copies a value out.
    #[inline]
    pub fn write(self, value: T) -> Result<()> {
        // SAFETY: `value` is readable for its size.
        unsafe { copy_out(self.0, (&raw const value).cast(), size_of::<T>()) }
    }

    /// Copies a value out unless the pointer is NULL.
    #[inline]
    pub fn write_optional(self, value: T) -> Result<()> {
        if self.is_null() { Ok(()) } else { self.write(value) }
    }

    /// Copies values out to the array at this address.
    #[inline]
    pub fn write_all(self, values: &[T]) -> Result<()> {
        // SAFETY: the slice is readable for its size.
        unsafe { copy_out(self.0, values.as_ptr().cast(), core::mem::size_of_val(values)) }
    }

    /// Copies `count` values in from the array at this address.
    pub fn read_vec(self, count: usize) -> Result<Vec<T>> {
        let bytes = count.checked_mul(size_of::<T>()).ok_or(Errno::EFAULT)?;
        if !in_user_space(self.0, bytes) {
            return Err(Errno::EFAULT);
        }
        let mut values: Vec<T> = Vec::new();
        values.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: the reserved room takes `count` values; the copy fills them or fails.
        unsafe {
            copy_in(self.0, values.as_mut_ptr().cast(), bytes)?;
            values.set_len(count);
        }
        Ok(values)
    }
}

/// A NUL-terminated string of the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserStr(pub usize);

impl UserStr {
    /// Whether it is NULL.
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// Copies the string, without its NUL, into `into`; `too_long` if no NUL comes in time.
    pub fn read(self, into: &mut [u8], too_long: Errno) -> Result<&[u8]> {
        let mut filled = 0;
        while filled < into.len() {
            // Up to the end of the page: the next one need not be there if the string ends before.
            let at = self.0.wrapping_add(filled);
            let piece = (layout::PAGE_SIZE - at % layout::PAGE_SIZE).min(into.len() - filled).min(256);
            read_bytes(at, &mut into[filled..filled + piece])?;
            if let Some(end) = into[filled..filled + piece].iter().position(|&b| b == 0) {
                return Ok(&into[..filled + end]);
            }
            filled += piece;
        }
        Err(too_long)
    }

    /// Copies a path: at most `PATH_MAX` with its NUL, else ENAMETOOLONG.
    pub fn read_path(self, into: &mut [u8; PATH_MAX]) -> Result<&[u8]> {
        self.read(into, Errno::ENAMETOOLONG)
    }

    /// Copies the string to the heap; E2BIG above `limit` bytes.
    pub fn to_vec(self, limit: usize) -> Result<Vec<u8>> {
        const PIECE: usize = 256;
        let mut text = Vec::new();
        loop {
            let mut piece = [0u8; PIECE];
            let end = match UserStr(self.0.wrapping_add(text.len())).read(&mut piece, Errno::E2BIG) {
                Ok(end) => Some(end.len()),
                Err(Errno::E2BIG) if text.len() + PIECE <= limit => None,
                Err(errno) => return Err(errno),
            };
            text.extend_from_slice(&piece[..end.unwrap_or(piece.len())]);
            if end.is_some() {
                return Ok(text);
            }
        }
    }
}

/// `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Iovec {
    /// Start.
    pub base: usize,
    /// Bytes.
    pub len: usize,
}

/// One buffer of the program, as read(2) and write(2) bring it. A [`Sink`] and a [`Source`].
pub struct UserBuffer {
    at: usize,
    left: usize,
}

impl UserBuffer {
    /// The buffer `[address, address + len)`; EFAULT if that cannot be user memory, the length cut
    /// to what one call moves.
    #[inline]
    pub fn new(address: usize, len: usize) -> Result<UserBuffer> {
        if (len as isize) < 0 {
            return Err(Errno::EINVAL);
        }
        let left = len.min(RW_MAX);
        if in_user_space(address, left) { Ok(UserBuffer { at: address, left }) } else { Err(Errno::EFAULT) }
    }

    fn step(&mut self, count: usize) {
        let count = count.min(self.left);
        self.at += count;
        self.left -= count;
    }
}

impl Buffer for UserBuffer {
    fn remaining(&self) -> usize {
        self.left
    }
}

impl Sink for UserBuffer {
    fn put(&mut self, bytes: &[u8]) -> Result {
        let count = bytes.len().min(self.left);
        write_bytes(self.at, &bytes[..count])?;
        self.step(count);
        Ok(count)
    }

    fn chunk(&mut self) -> (usize, usize) {
        (self.at, self.left)
    }

    fn advance(&mut self, count: usize) {
        self.step(count);
    }
}

impl Source for UserBuffer {
    fn take(&mut self, into: &mut [u8]) -> Result {
        let count = into.len().min(self.left);
        read_bytes(self.at, &mut into[..count])?;
        self.step(count);
        Ok(count)
    }

    fn chunk(&mut self) -> (usize, usize) {
        (self.at, self.left)
    }

    fn advance(&mut self, count: usize) {
        self.step(count);
    }
}

/// How many iovecs stay on the stack.
const INLINE_IOVECS: usize = 8;

/// Many buffers of the program, as readv(2), sendmsg(2) bring them. A [`Sink`] and a [`Source`].
pub struct UserVec {
    inline: [Iovec; INLINE_IOVECS],
    heap: Vec<Iovec>,
    count: usize,
    index: usize,
    offset: usize,
    left: usize,
}

impl UserVec {
    /// Copies the array of iovecs in and checks it: EINVAL above 1024 of them or for a negative
    /// length, EFAULT for what cannot be user memory; the sum is cut to what one call moves.
    pub fn new(vector: UserPtr<Iovec>, count: usize) -> Result<UserVec> {
        if count > IOV_MAX {
            return Err(Errno::EINVAL);
        }
        let mut vec = UserVec {
            inline: [Iovec::default(); INLINE_IOVECS],
            heap: Vec::new(),
            count,
            index: 0,
            offset: 0,
            left: 0,
        };
        if count <= INLINE_IOVECS {
            for (at, iovec) in vec.inline[..count].iter_mut().enumerate() {
                *iovec = vector.at(at).read()?;
            }
        } else {
            vec.heap = vector.read_vec(count)?;
        }
        let mut left = 0usize;
        for iovec in vec.iovecs_mut() {
            if (iovec.len as isize) < 0 {
                return Err(Errno::EINVAL);
            }
            iovec.len = iovec.len.min(RW_MAX - left);
            if !in_user_space(iovec.base, iovec.len) {
                return Err(Errno::EFAULT);
            }
            left += iovec.len;
        }
        vec.left = left;
        Ok(vec)
    }

    /// Buffers that [`UserVec::iovecs`] gave, or parts of them.
    pub fn of(buffers: Vec<Iovec>) -> UserVec {
        let left = buffers.iter().map(|buffer| buffer.len).sum();
        let mut inline = [Iovec::default(); INLINE_IOVECS];
        let count = buffers.len();
        if count <= INLINE_IOVECS {
            inline[..count].copy_from_slice(&buffers);
        }
        UserVec { inline, heap: buffers, count, index: 0, offset: 0, left }
    }

    /// The buffers as given (already checked and cut), for host calls that take them whole.
    pub fn iovecs(&self) -> &[Iovec] {
        if self.count <= INLINE_IOVECS { &self.inline[..self.count] } else { &self.heap }
    }

    fn iovecs_mut(&mut self) -> &mut [Iovec] {
        if self.count <= INLINE_IOVECS { &mut self.inline[..self.count] } else { &mut self.heap }
    }

    fn piece(&mut self) -> (usize, usize) {
        while self.index < self.count {
            let iovec = self.iovecs()[self.index];
            if self.offset < iovec.len {
                return (iovec.base + self.offset, iovec.len - self.offset);
            }
            self.index += 1;
            self.offset = 0;
        }
        (0, 0)
    }

    fn step(&mut self, mut count: usize) {
        count = count.min(self.left);
        self.left -= count;
        while count > 0 {
            let (_, len) = self.piece();
            let used = count.min(len);
            self.offset += used;
            count -= used;
        }
    }
}

impl Buffer for UserVec {
    fn remaining(&self) -> usize {
        self.left
    }
}

impl Sink for UserVec {
    fn put(&mut self, bytes: &[u8]) -> Result {
        let mut done = 0;
        while done < bytes.len() && self.left > 0 {
            let (at, len) = self.piece();
            let count = len.min(bytes.len() - done);
            match write_bytes(at, &bytes[done..done + count]) {
                Ok(()) => {}
                // As Linux: what was moved before the bad page counts.
                Err(_) if done > 0 => return Ok(done),
                Err(errno) => return Err(errno),
            }
            self.step(count);
            done += count;
        }
        Ok(done)
    }

    fn chunk(&mut self) -> (usize, usize) {
        self.piece()
    }

    fn advance(&mut self, count: usize) {
        self.step(count);
    }
}

impl Source for UserVec {
    fn take(&mut self, into: &mut [u8]) -> Result {
        let mut done = 0;
        while done < into.len() && self.left > 0 {
            let (at, len) = self.piece();
            let count = len.min(into.len() - done);
            match read_bytes(at, &mut into[done..done + count]) {
                Ok(()) => {}
                Err(_) if done > 0 => return Ok(done),
                Err(errno) => return Err(errno),
            }
            self.step(count);
            done += count;
        }
        Ok(done)
    }

    fn chunk(&mut self) -> (usize, usize) {
        self.piece()
    }

    fn advance(&mut self, count: usize) {
        self.step(count);
    }
}

/// A kernel buffer as a [`Sink`], for calls made by the kernel itself.
pub struct KernelSink<'a> {
    buffer: &'a mut [u8],
    filled: usize,
}

impl<'a> KernelSink<'a> {
    /// An empty sink over `buffer`.
    pub fn new(buffer: &'a mut [u8]) -> KernelSink<'a> {
        KernelSink { buffer, filled: 0 }
    }

    /// Bytes put so far.
    pub fn filled(&self) -> usize {
        self.filled
    }
}

impl Buffer for KernelSink<'_> {
    fn remaining(&self) -> usize {
        self.buffer.len() - self.filled
    }
}

impl Sink for KernelSink<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result {
        let count = bytes.len().min(self.remaining());
        self.buffer[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        Ok(count)
    }

    fn chunk(&mut self) -> (usize, usize) {
        let free = &mut self.buffer[self.filled..];
        (free.as_mut_ptr() as usize, free.len())
    }

    fn advance(&mut self, count: usize) {
        self.filled += count.min(self.remaining());
    }
}

/// Kernel bytes as a [`Source`].
pub struct KernelSource<'a>(pub &'a [u8]);

impl Buffer for KernelSource<'_> {
    fn remaining(&self) -> usize {
        self.0.len()
    }
}

impl Source for KernelSource<'_> {
    fn take(&mut self, into: &mut [u8]) -> Result {
        let count = into.len().min(self.0.len());
        into[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }

    fn chunk(&mut self) -> (usize, usize) {
        (self.0.as_ptr() as usize, self.0.len())
    }

    fn advance(&mut self, count: usize) {
        self.0 = &self.0[count.min(self.0.len())..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn refuses_what_cannot_be_user_memory() {
        assert_eq!(UserPtr::<u64>::new(USER_END - 4).read(), Err(Errno::EFAULT));
        assert_eq!(UserPtr::<u64>::new(usize::MAX - 3).read(), Err(Errno::EFAULT));
        assert_eq!(UserPtr::<u64>::new(layout::ARENA_BASE + 64).write(1), Err(Errno::EFAULT));
        assert_eq!(UserPtr::<u64>::new(8).read(), Err(Errno::EFAULT));
        assert!(UserBuffer::new(0x1000, usize::MAX).is_err_and(|e| e == Errno::EINVAL));
    }

    #[test]
    fn strings_end_at_nul_or_fail() {
        let text = b"hello\0rest";
        let mut room = [0u8; 8];
        assert_eq!(UserStr(text.as_ptr() as usize).read(&mut room, Errno::E2BIG), Ok(&b"hello"[..]));
        let mut room = [0u8; 4];
        assert_eq!(UserStr(text.as_ptr() as usize).read(&mut room, Errno::E2BIG), Err(Errno::E2BIG));
        assert_eq!(UserStr(text.as_ptr() as usize).to_vec(100).unwrap(), b"hello");
    }

    #[test]
    fn vectors_gather_and_scatter() {
        for pieces in [1usize, 3, 8, 9, 40] {
            let memory = vec![0u8; pieces * 7];
            let iovecs: Vec<Iovec> =
                (0..pieces).map(|i| Iovec { base: memory.as_ptr() as usize + i * 7, len: i % 8 }).collect();
            let total: usize = iovecs.iter().map(|v| v.len).sum();
            let bytes: Vec<u8> = (0..total as u32 + 5).map(|b| b as u8).collect();
            let mut sink = UserVec::new(UserPtr::new(iovecs.as_ptr() as usize), pieces).unwrap();
            assert_eq!(sink.remaining(), total);
            assert_eq!(sink.put(&bytes[..total.min(2)]), Ok(total.min(2)));
            assert_eq!(sink.put(&bytes[total.min(2)..]), Ok(total - total.min(2)));
            let mut source = UserVec::new(UserPtr::new(iovecs.as_ptr() as usize), pieces).unwrap();
            let mut back = vec![0u8; total];
            assert_eq!(source.take(&mut back), Ok(total));
            assert_eq!(source.remaining(), 0);
            assert_eq!(back, bytes[..total]);
        }
    }
}
