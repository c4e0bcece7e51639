//! What the server uses as its way to the world.

pub(crate) mod host;
pub(crate) mod segment;
