//! Test hosts, cluster tests, simulator and benchmarks.

pub mod agent;
pub mod bench;
pub mod cluster;
pub mod compare;
pub mod corosync;
pub mod daemon;
pub mod files;
pub mod fuzz;
pub mod histories;
pub mod lab;
pub mod load;
pub mod member;
pub mod mixed;
pub mod process;
pub mod ringbench;
pub mod ringsim;
pub mod sample;
pub mod services;
pub mod sim;
pub mod wait;
pub mod writers;
