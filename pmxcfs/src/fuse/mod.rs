//! The mount: the only place that knows the kernel's protocol.
//!
//! Owns: the layout of messages (`protocol`), the device (`device`, `reply`), what each request
//! means (`adapter`), the threads that serve (`serve`), the mount itself (`mount`), the threads that
//! make the kernel forget (`notify`), the threads for calls that wait (`blocking`).
//!
//! The protocol is spoken without a library, since the threads depend on reading without waiting:
//! see `serve`.
//!
//! What the kernel keeps, and why it is never stale:
//! * names, present and absent ones, for an hour. A name that another node changes is invalidated
//!   under the kernel's lock of its directory, so a look-up answered from an older tree is over by
//!   then;
//! * attributes for an hour, but only from GETATTR: the kernel drops an answer to that which an
//!   invalidation has overtaken. It does not for other replies, which carry attributes that
//!   expire at once;
//! * file content until it is invalidated: pages are locked while they are read. A file that other
//!   nodes change at the moment is read without the cache, whose pages could be of two versions.
//!
//! Threads: one thread at a time reads requests and does them, and hands what waits for the
//! cluster on without waiting itself; others stand by, in case that it is held up. The few calls
//! that do wait (fsync, times and lengths set by path, a close during another close of the file) run
//! on threads of their own. Notifications are sent by two threads that serve no request, one for
//! names (it may wait for a directory in which a change of this node is under way) and one for
//! inodes (it never waits for a change).

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
