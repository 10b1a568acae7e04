//! Clusters of test hosts that are made, changed and left with `pvecm` alone.

#![expect(
    clippy::unwrap_used,
    reason = "functions that tests share fail the test as tests do"
)]

mod create;
mod five;
mod join;
mod joining;
mod link;
mod nodes;
mod support;
