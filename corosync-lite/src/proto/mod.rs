//! Protocol cores: state machines without sockets, clocks, threads or random sources of their own.
pub mod cpg;
pub mod knet;
pub mod srp;
