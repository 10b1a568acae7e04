//! The replicated configuration database: orders, applies, stores and publishes changes.

mod backend;

pub use backend::{Backend, Observer, ProposeError, Published, Step};
