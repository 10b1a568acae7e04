//! Codecs of everything that crosses the network. No state, no I/O.
pub mod srp;
