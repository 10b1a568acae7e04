//! The replicated configuration database: orders, applies, stores and publishes changes.

mod backend;
pub mod guard;
mod replica;

pub use backend::{Backend, Observer, ProposeError, Published, Step};
pub use replica::{Effect, Replica};
