//! Control blocks in pages: an index is stable, growth copies nothing.

use alloc::{vec, vec::Vec};

/// Values in a page: so many that the list of pages stays in the first-level cache.
const PAGE: usize = 1024;

/// Values by index, with a list of free indices. What is alive is the value's own knowledge.
pub(crate) struct Slab<T> {
    pages: Vec<Vec<T>>,
    free: Vec<u32>,
    len: usize,
}

impl<T: Default> Slab<T> {
    pub(crate) const fn new() -> Slab<T> {
        Slab { pages: Vec::new(), free: Vec::new(), len: 0 }
    }

    /// Values in use.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// An index whose value was released before or is fresh.
    pub(crate) fn take(&mut self) -> u32 {
        self.len += 1;
        if let Some(index) = self.free.pop() {
            return index;
        }
        if self.pages.last().is_none_or(|page| page.len() == PAGE) {
            self.pages.push(Vec::with_capacity(PAGE));
        }
        let page = self.pages.len() - 1;
        self.pages[page].push(T::default());
        (page * PAGE + self.pages[page].len() - 1) as u32
    }

    /// Gives an index back.
    pub(crate) fn release(&mut self, index: u32) {
        self.len -= 1;
        self.free.push(index);
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        self.pages.get(index as usize / PAGE)?.get(index as usize % PAGE)
    }

    /// The values in use, with their index. It takes a list of the others: not for the way of a packet.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = (u32, &T)> {
        let mut free = vec![false; self.pages.iter().map(Vec::len).sum()];
        self.free.iter().for_each(|&index| free[index as usize] = true);
        self.iter().filter(move |(index, _)| !free[*index as usize])
    }

    /// All values ever made, with their index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.pages.iter().flatten().enumerate().map(|(index, value)| (index as u32, value))
    }
}

impl<T> core::ops::Index<u32> for Slab<T> {
    type Output = T;
    #[inline]
    fn index(&self, index: u32) -> &T {
        &self.pages[index as usize / PAGE][index as usize % PAGE]
    }
}

impl<T> core::ops::IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.pages[index as usize / PAGE][index as usize % PAGE]
    }
}
