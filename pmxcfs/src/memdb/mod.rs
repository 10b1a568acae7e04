//! The in-memory tree: the truth of a running node.
//!
//! Owns: entries with their (version, writer, mtime) stamps, the guest list, the counters of
//! observed files, and the digests that nodes compare. Does no I/O, reads no clock, starts no
//! thread: [`Tree::apply`] gives the same result for the same operation on every node.
//!
//! Invariant: a [`Tree`] is a persistent structure. Cloning it costs a few reference counts, and a
//! clone never sees later changes of its origin, so readers keep a whole, consistent snapshot
//! while the applier works on its own copy. File contents are shared, never duplicated.

mod apply;
mod entry;
mod guests;
mod index;
mod limits;
mod load;
mod lock;
mod observed;
mod op;
mod path;
mod tree;

pub use entry::{Content, Digest, Inode, Name, TreeEntry, TreeHasher};
pub use guests::{Guest, GuestKind, GuestPath, Guests, is_valid_node_name};
pub use limits::{MAX_ENTRIES, MAX_FILE_SIZE, MAX_TOTAL_BYTES};
pub use load::{LoadIssue, LoadProblem, RowRef};
pub use lock::{LOCK_LIFETIME_SECS, LockTable, is_lock_path, lock_name};
pub use observed::{OBSERVED_PATHS, ObservedCounters};
pub use op::{Change, LockEffect, Op, OpError, Outcome, Stamp};
pub use path::{components, join, split};
pub use tree::{Root, Tree};

#[cfg(test)]
mod tests;
