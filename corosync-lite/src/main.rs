//! The `corosync-lite` daemon.
fn main() {}
