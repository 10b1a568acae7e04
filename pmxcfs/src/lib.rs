//! Replicated configuration file system.

pub mod status;
pub mod wire;
