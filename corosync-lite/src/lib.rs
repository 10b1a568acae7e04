//! Group messaging for clusters: totally ordered multicast with extended virtual synchrony,
//! membership and quorum, on the wire of Corosync 3.

pub mod clock;
pub mod config;
#[cfg(feature = "daemon")]
pub mod daemon;
pub mod host;
pub mod net;
pub mod proto;
pub mod qb;
#[cfg(feature = "daemon")]
pub mod runtime;
pub mod service;
#[cfg(feature = "daemon")]
pub mod status;
pub mod store;
pub mod wire;
