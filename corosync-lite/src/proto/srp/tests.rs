//! Tests of the ring protocol: scripted steps, captured rings, and a simulated network.

mod checker;
mod replay;
mod script;
mod sim;
mod simulated;

use std::time::Instant;

/// Where virtual time starts.
#[expect(
    clippy::disallowed_methods,
    reason = "one origin for virtual time; only sums are used"
)]
fn origin() -> Instant {
    Instant::now()
}
