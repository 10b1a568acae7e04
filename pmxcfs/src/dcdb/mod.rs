//! The replicated configuration database: orders, applies, stores and publishes changes.

mod backend;
pub mod guard;
mod local;
mod published;
mod replica;
mod storage;

pub(crate) use backend::wait_for;
pub use backend::{Applied, Backend, Done, Observer, ProposeError, Step};
pub use local::LocalDb;
pub use published::Published;
pub use replica::{Effect, Replica};
pub use storage::{Closed, Patience, Storage, StorageError, Syncer};
