//! Test hosts, cluster tests, simulator and benchmarks.

pub mod bench;
pub mod lab;
pub mod process;
pub mod wait;
