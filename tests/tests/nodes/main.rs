//! Three real nodes on Corosync: what users of a cluster rely on, one file of tests per subject.

#![expect(
    clippy::unwrap_used,
    reason = "functions that tests share fail the test as tests do"
)]

mod age_of_locks;
mod conf;
mod disk;
mod ending;
mod faults;
mod mixed;
mod operations;
mod support;
