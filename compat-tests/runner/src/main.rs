//! Placeholder door; see the README.
fn main() {}
