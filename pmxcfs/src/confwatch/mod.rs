//! `corosync.conf`: from the replicated tree to the file that Corosync reads on this node.
//!
//! - [`check()`] decides, on the node where a new text is written and before it is sent, whether
//!   the cluster may have it. Pure.
//! - [`config_version`] finds the version of what was delivered. All nodes must agree on it, the
//!   original included, so it is found the way the original does. Pure.
//! - [`sync_host_file`] brings the host's file up to the tree. Every member does this.
//! - [`Reloader`] makes Corosync read the new files. One node does this.
//!
//! Invariant: the host's file is replaced whole or not at all, and never by an older version.

mod check;
mod host;
mod reload;
mod version;

pub use self::check::{ConfError, Problem, check};
pub use self::host::{HOST_FILE, Outcome, SyncError, TREE_NAME, sync_host_file};
pub use self::reload::{DELAY, Reloader};
pub use self::version::config_version;
