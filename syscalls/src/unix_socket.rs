//! AF_UNIX sockets (unix(7)). Not there yet: EAFNOSUPPORT, as in a kernel without them.

use crate::context::Ctx;
use crate::file::File;
use crate::{Errno, Result};
use alloc::boxed::Box;

/// socket(2) of AF_UNIX.
pub(crate) fn open(_ctx: &Ctx, _kind: i32, _protocol: i32) -> Result<Box<dyn File>> {
    Err(Errno::EAFNOSUPPORT)
}

/// socketpair(2) of AF_UNIX.
pub(crate) fn pair(_ctx: &Ctx, _kind: i32, _protocol: i32) -> Result<(Box<dyn File>, Box<dyn File>)> {
    Err(Errno::EAFNOSUPPORT)
}
