//! TCP.
pub mod congestion;
