//! Replicated configuration file system.

pub mod wire;
