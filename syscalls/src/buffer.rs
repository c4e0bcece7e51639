//! Kernel memory as a [`Source`] or [`Sink`]: for calls that move bytes between two files.

use crate::Result;
use crate::file::{Buffer, Sink, Source};

/// Bytes to be written.
pub struct Slice<'a> {
    bytes: &'a [u8],
}

impl<'a> Slice<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Slice<'a> {
        Slice { bytes }
    }
}

impl Buffer for Slice<'_> {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }
}

impl Source for Slice<'_> {
    fn take(&mut self, into: &mut [u8]) -> Result {
        let count = into.len().min(self.bytes.len());
        into[..count].copy_from_slice(&self.bytes[..count]);
        self.bytes = &self.bytes[count..];
        Ok(count)
    }
    fn chunk(&mut self) -> (usize, usize) {
        (self.bytes.as_ptr() as usize, self.bytes.len())
    }
    fn advance(&mut self, count: usize) {
        self.bytes = &self.bytes[count.min(self.bytes.len())..];
    }
}

/// Room to be filled.
pub struct SliceMut<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> SliceMut<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> SliceMut<'a> {
        SliceMut { bytes, at: 0 }
    }
}

impl Buffer for SliceMut<'_> {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }
}

impl Sink for SliceMut<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result {
        let count = bytes.len().min(self.remaining());
        self.bytes[self.at..self.at + count].copy_from_slice(&bytes[..count]);
        self.at += count;
        Ok(count)
    }
    fn chunk(&mut self) -> (usize, usize) {
        (self.bytes[self.at..].as_mut_ptr() as usize, self.remaining())
    }
    fn advance(&mut self, count: usize) {
        self.at = (self.at + count).min(self.bytes.len());
    }
}
