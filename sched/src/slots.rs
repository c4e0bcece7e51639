//! Values by number, in slots that one store fills and another empties.
//!
//! For lists that all processes of a guest use and any of them may be killed in: whatever instruction was the last one,
//! each value is in the list or it is not, once. A `Vec` that removes an element moves others meanwhile, and a
//! `BTreeMap` has counts and nodes to change.
//!
//! Left out: order, and speed with very many: a look at a number looks at those of all slots, 16 bytes each.

use alloc::vec::Vec;
use core::sync::atomic::{Ordering, compiler_fence};

/// See the module. `T` is a pointer that is never null (an `Arc`), so that `Option<T>` is one word.
#[derive(Debug)]
pub struct Slots<T>(Vec<(u32, Option<T>)>);

impl<T> Slots<T> {
    /// None filled.
    pub const fn new() -> Slots<T> {
        assert!(size_of::<Option<T>>() == size_of::<usize>());
        Slots(Vec::new())
    }

    /// Adds a value. Numbers may be there more than once; [`Slots::get`] finds any of them.
    pub fn insert(&mut self, number: u32, value: T) {
        match self.0.iter_mut().find(|slot| slot.1.is_none()) {
            None => self.0.push((number, Some(value))),
            Some(slot) => {
                slot.0 = number;
                // The number counts when the value is there.
                compiler_fence(Ordering::SeqCst);
                slot.1 = Some(value);
            }
        }
    }

    /// The value with this number.
    pub fn get(&self, number: u32) -> Option<&T> {
        self.0.iter().find_map(|slot| slot.1.as_ref().filter(|_| slot.0 == number))
    }

    /// Takes out the first value with this number for which `is_meant` holds.
    pub fn remove_if(&mut self, number: u32, mut is_meant: impl FnMut(&T) -> bool) -> Option<T> {
        let is_this =
            |slot: &&mut (u32, Option<T>)| slot.0 == number && slot.1.as_ref().is_some_and(&mut is_meant);
        self.0.iter_mut().find(is_this).and_then(|slot| slot.1.take())
    }

    /// Takes out a value with this number.
    pub fn remove(&mut self, number: u32) -> Option<T> {
        self.remove_if(number, |_| true)
    }

    /// All values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(|slot| slot.1.as_ref())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;
    use std::collections::BTreeMap;

    #[test]
    fn follows_the_model() {
        let mut slots = Slots::new();
        let mut model = BTreeMap::new();
        let mut random = 0x2545_f491_4f6c_dd1du64;
        for step in 0..20_000u32 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let number = (random >> 20) as u32 % 50;
            match random % 3 {
                0 if !model.contains_key(&number) => {
                    slots.insert(number, Box::new(step));
                    model.insert(number, step);
                }
                1 => assert_eq!(slots.remove(number).map(|value| *value), model.remove(&number)),
                _ => assert_eq!(slots.get(number).map(|value| **value), model.get(&number).copied()),
            }
            assert_eq!((slots.len(), slots.is_empty()), (model.len(), model.is_empty()));
        }
        let mut all: Vec<u32> = slots.iter().map(|value| **value).collect();
        all.sort_unstable();
        let mut wanted: Vec<u32> = model.values().copied().collect();
        wanted.sort_unstable();
        assert_eq!(all, wanted);
        assert!(slots.0.len() <= 50);
    }

    #[test]
    fn takes_out_what_is_meant() {
        let mut slots = Slots::new();
        slots.insert(7, Box::new('a'));
        slots.insert(7, Box::new('b'));
        assert_eq!(slots.remove_if(7, |value| **value == 'b'), Some(Box::new('b')));
        assert_eq!(slots.remove_if(7, |value| **value == 'b'), None);
        assert_eq!(slots.get(7), Some(&Box::new('a')));
    }
}
