//! Replicated configuration file system.

pub mod group;
