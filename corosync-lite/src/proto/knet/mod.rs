//! Multi-link transport.

pub mod seal;
