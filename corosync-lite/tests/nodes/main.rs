//! Whole nodes in memory, by their public surface alone: rings form over each transport, groups
//! talk, nodes go and come.

#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod membership;
mod messages;
mod net;
mod order;
mod running;
