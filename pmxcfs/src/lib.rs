//! Replicated configuration file system.
