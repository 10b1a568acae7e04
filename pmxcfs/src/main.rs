//! The `pmxcfs` daemon.
fn main() {}
