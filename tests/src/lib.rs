//! Test hosts, cluster tests, simulator and benchmarks.
