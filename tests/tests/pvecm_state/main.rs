//! What `pvecm` shows of nodes and clusters, beside what Corosync's own tool shows.

#![expect(
    clippy::unwrap_used,
    reason = "functions that tests share fail the test as tests do"
)]

mod doctor;
mod expected;
mod status;
mod support;
