//! Rings of Corosync and corosync-lite.

#![expect(
    clippy::unwrap_used,
    reason = "functions that tests share fail the test as tests do"
)]

mod cold;
mod keys;
mod load;
mod matrix;
mod qdevice;
mod reload;
mod support;
mod tools;
