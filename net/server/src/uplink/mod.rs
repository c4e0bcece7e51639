//! What the server uses as its way to the world.

pub(crate) mod host;
pub(crate) mod inbox;
pub(crate) mod segment;
pub(crate) mod tap;
