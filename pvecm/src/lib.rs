//! Clusters are made, joined, changed and repaired here.
//!
//! | module | owns |
//! |---|---|
//! | [`cli`] | the command line, and who does what it says |
//! | [`verb`] | the commands |
//! | [`conf`] | `corosync.conf` as the command reads, makes and edits it |
//! | [`value`] | what is given on a command line: names, links, fingerprints |
//! | [`state`] | what the running messaging daemon says about quorum and members |
//! | [`doctor`] | what is wrong with a node and its cluster |
//! | [`host`] | the node: its paths, files, locks, services, and the mount |
//! | [`transaction`] | changes of the node that are put back when a later step fails |
//! | [`failure`] | how a command ends when it does not do what was asked |

pub mod cli;
pub mod conf;
pub mod doctor;
pub mod failure;
pub mod host;
pub mod state;
pub mod transaction;
pub mod value;
pub mod verb;
