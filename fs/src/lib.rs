//! Paths to bytes: the mount tree, the walk, and the file systems inside a guest.
//!
//! [`mount::Tree`] says what lies where; a [`view::View`] is the tree as one process sees it, and
//! resolves paths ([`walk`]) over host directories ([`host`]) and inner file systems
//! ([`vnode::Vnode`]: [`ramfs`], [`devfs`], [`procfs`], [`sysfs`], [`synth`]). What programs hold open,
//! descriptors and threads are above, in `syscalls`; how a process looks from /proc is asked through
//! [`procfs::Provider`].
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod attr;
pub mod devfs;
pub mod host;
pub mod mount;
pub mod procfs;
pub mod ramfs;
pub mod synth;
pub mod sysfs;
pub mod view;
pub mod vnode;
mod walk;

pub use attr::{Cred, Stat, StatFs};
pub use host::HostFd;
pub use mount::{Node, Place, Tree};
pub use view::{Opened, View};
pub use vnode::Vnode;
