//! Clusters are made, joined, changed and repaired here.
//!
//! | module | owns |
//! |---|---|
//! | [`cli`] | the command line, and who does what it says |
//! | [`verb`] | the commands |
//! | [`conf`] | `corosync.conf` as the command reads, makes and edits it |
//! | [`join`] | this node joins a cluster |
//! | [`value`] | what is given on a command line: names, links, fingerprints |
//! | [`cert`] | certificates of the cluster and its nodes, and the keys that go with them |
//! | [`ssh`] | SSH between nodes: keys, host keys, settings |
//! | [`datacenter`] | options that hold for the whole cluster |
//! | [`state`] | what the running messaging daemon says about quorum and members |
//! | [`doctor`] | what is wrong with a node and its cluster |
//! | [`host`] | the node: its paths, files, locks, services, and the mount |
//! | [`transaction`] | changes of the node that are put back when a later step fails |
//! | [`info`] | what a node needs to know to join |
//! | [`tell`] | what the user is told meanwhile |
//! | [`serve`] | the API over HTTPS |
//! | [`failure`] | how a command ends when it does not do what was asked |

pub mod cert;
pub mod cli;
pub mod conf;
pub mod datacenter;
pub mod doctor;
pub mod failure;
pub mod host;
pub mod info;
pub mod join;
pub mod serve;
pub mod ssh;
pub mod state;
pub mod tell;
pub mod transaction;
pub mod value;
pub mod verb;
