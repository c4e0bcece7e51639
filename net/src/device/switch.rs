//! A device that holds the active backend and can be told to use another one.
//!
//! The change takes effect at a poll boundary. What the old backend still has in its receive queue is
//! handed over first, so that no frame that reached us is lost.

use alloc::boxed::Box;

use super::{Capabilities, Device, Full, RxFrame, TxMeta};

/// The active device, and the one before it while its receive queue is not yet empty.
pub struct Switch {
    active: Box<dyn Device>,
    draining: Option<Box<dyn Device>>,
    next: Option<Box<dyn Device>>,
}

impl Switch {
    /// A switch that uses `device`.
    pub fn new(device: Box<dyn Device>) -> Switch {
        Switch { active: device, draining: None, next: None }
    }

    /// From the next poll on, use `device`.
    pub fn change(&mut self, device: Box<dyn Device>) {
        self.next = Some(device);
    }

    /// The change is complete: the old device has been emptied and dropped.
    pub fn settled(&self) -> bool {
        self.next.is_none() && self.draining.is_none()
    }

    /// The active device.
    pub fn active(&mut self) -> &mut dyn Device {
        &mut *self.active
    }
}

impl Device for Switch {
    fn capabilities(&self) -> Capabilities {
        self.active.capabilities()
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&[RxFrame<'_>])) -> usize {
        // A poll begins with `receive`: the boundary. A second change waits until the first is settled.
        if self.draining.is_none()
            && let Some(next) = self.next.take()
        {
            self.active.flush();
            self.draining = Some(core::mem::replace(&mut self.active, next));
        }
        let mut count = 0;
        if let Some(old) = &mut self.draining {
            count = old.receive(budget, sink);
            if count < budget {
                self.draining = None;
            }
        }
        count + if count < budget { self.active.receive(budget - count, sink) } else { 0 }
    }

    fn transmit(&mut self, len: usize, meta: TxMeta, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), Full> {
        self.active.transmit(len, meta, fill)
    }

    fn flush(&mut self) {
        self.active.flush();
    }
}
