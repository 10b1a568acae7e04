//! The mount: the only place that knows the kernel's protocol and the `fuser` crate.
//!
//! Owns: decoding of requests and replies (`adapter`), the mount itself (`mount`), the threads
//! that make the kernel forget (`notify`), the threads for calls that wait (`blocking`).
//!
//! What the kernel keeps, and why it is never stale:
//! * names, present and absent ones, for an hour. A name that another node changes is invalidated
//!   under the kernel's lock of its directory, so a look-up answered from an older tree is over by
//!   then;
//! * attributes for an hour, but only from GETATTR: the kernel drops an answer to that which an
//!   invalidation has overtaken. It does not for other replies, which carry attributes that
//!   expire at once;
//! * file content until it is invalidated: pages are locked while they are read.
//!
//! Threads: workers serve requests; a call that may wait for the cluster runs on a worker only
//! while two others stay free for readers, else on a thread of its own. Notifications are sent by
//! two threads that serve no request, one for names (it may wait for a directory in which a change
//! of this node is under way) and one for inodes (it never waits for a change).

mod adapter;
mod blocking;
mod descriptors;
mod device;
mod mount;
mod notify;
mod protocol;
mod reply;
mod serve;

pub use mount::{MountConfig, MountError, Session, clear_stale_mount, mount};
