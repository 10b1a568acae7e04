//! The daemon: start, serve, stop.

pub mod cli;
pub mod logging;
mod node;
mod signals;
mod start;
mod syslog;
mod texts;

pub use start::run;
pub use texts::Texts;
