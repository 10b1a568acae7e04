//! Replicated configuration file system.
//!
//! A write goes from the kernel through the layers in this order: `fuse` (requests and replies),
//! `fs` (paths, permissions, open files), [`dcdb`] (proposes operations), [`dfsm`] (their order),
//! [`memdb`] (applies them), [`store`] (keeps them). Reads stop at [`memdb`].

pub mod clock;
pub mod cluster;
pub mod confwatch;
pub mod daemon;
pub mod dcdb;
pub mod dfsm;
pub mod fs;
pub mod fuse;
pub mod group;
pub mod memdb;
pub mod status;
pub mod store;
pub mod wire;
