//! Protocol cores: state machines without sockets, clocks, threads or random sources of their own.
pub mod cfg;
pub mod cmap;
pub mod cpg;
pub mod keys;
pub mod knet;
pub mod node;
pub mod pg;
pub mod plain;
pub mod quorum;
pub mod srp;
pub mod sync;
