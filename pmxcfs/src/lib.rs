//! Replicated configuration file system.

pub mod confwatch;
pub mod group;
