//! `attacca pcap`: copies of the guest's frames, as records at a socket that its supervisor sent.
//!
//! A record goes without waiting: what the reader has no room for is counted, and the next record says how much it was.
//! The writer is kernel state, behind the stack's lock; the socket's number is the same in the whole family. When the
//! reader has closed its end, the next record finds that out and the capture is over.

use crate::control::{MsgHdr, close};
use alloc::boxed::Box;
use alloc::vec::Vec;
use net::control::Mode;
use net::control::capture::{Header, Kind};
use net::device::Watcher;
use platform::errno::Errno;
use platform::host;
use syscalls::net_poll;

/// Begins a capture. If there cannot be one, the socket is closed, and the reader finds that.
pub(crate) fn begin(fds: Vec<i32>) {
    let Some((fd, others)) = fds.split_first() else { return };
    others.iter().for_each(|fd| close(*fd));
    // Dropped if it is refused.
    let _ = net_poll::device().watch(Box::new(Writer { fd: *fd, lost: 0, gone: false }));
}

struct Writer {
    fd: i32,
    lost: u32,
    gone: bool,
}

impl Writer {
    fn put(&mut self, kind: Kind, mode: Mode, sent: bool, bytes: &[u8]) {
        const MSG_DONTWAIT: usize = 0x40;
        const MSG_NOSIGNAL: usize = 0x4000;
        let header = Header { at_ns: platform::time::now().0, lost: self.lost, kind, mode, sent }.encode();
        let mut parts = [[header.as_ptr() as usize, header.len()], [bytes.as_ptr() as usize, bytes.len()]];
        let message = MsgHdr {
            name: 0,
            name_len: 0,
            parts: parts.as_mut_ptr(),
            part_count: parts.len(),
            control: core::ptr::null_mut(),
            control_len: 0,
            flags: 0,
        };
        // SAFETY: the message points at live memory of these lengths, which the call only reads.
        let put = unsafe { host!(sendmsg, self.fd, &raw const message, MSG_DONTWAIT | MSG_NOSIGNAL) };
        match put {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EMSGSIZE | Errno::EINTR | Errno::ENOMEM) => {
                self.lost = self.lost.saturating_add(1);
            }
            Err(_) => self.gone = true,
        }
    }
}

impl Watcher for Writer {
    fn frame(&mut self, mode: Mode, sent: bool, bytes: &[u8]) {
        if !self.gone {
            self.put(Kind::Frame, mode, sent, bytes);
        }
    }

    fn event(&mut self, mode: Mode, words: &str) {
        self.put(Kind::Event, mode, false, words.as_bytes());
    }

    fn is_gone(&self) -> bool {
        self.gone
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        close(self.fd);
    }
}
