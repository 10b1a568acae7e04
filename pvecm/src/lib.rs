//! Clusters are made, joined, changed and repaired here.
//!
//! | module | owns |
//! |---|---|
//! | [`conf`] | `corosync.conf` as the command reads, makes and edits it |
//! | [`value`] | what is given on a command line: names, links, fingerprints |

pub mod conf;
pub mod value;
