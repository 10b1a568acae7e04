//! SSH between nodes, as root.
//!
//! | module | owns |
//! |---|---|
//! | `keys` | keys and the lines that hold them |
//! | `root` | root's own key and the settings of its client |
//! | `authorized` | whose keys let in: one file for all nodes |
//! | `hosts` | the host keys of nodes: pinned by each node for itself, and the file of old clusters |
//! | `sshd` | the server's settings |
//! | `purge` | what a removed node leaves behind |
//!
//! Each node keeps two files in its directory of the cluster file system: `ssh_known_hosts`, the
//! keys of its SSH server, and `ssh_root_keys`, the keys that it has put into `authorized_keys`.
//!
//! Invariant: a key that was in the file of any node is in the cluster's after a merge, unless the
//! node that put it there has another now, or was removed.

mod authorized;
mod hosts;
mod keys;
mod purge;
mod root;
mod sshd;

use std::net::IpAddr;
use std::path::PathBuf;

pub use authorized::carry_over;
pub use hosts::unmerge;
pub use purge::{Remains, purge, remains};
pub use sshd::permit_root_login;

use crate::failure::Outcome;
use crate::host::Host;
use crate::host::changes::Changes;

/// Host keys of a node, in its directory.
const PINS: &str = "ssh_known_hosts";
/// Keys of a node's root, in its directory.
const ROOT_KEYS: &str = "ssh_root_keys";

/// Makes root's key and the settings of its client on this node.
///
/// # Errors
/// When they can not be made.
pub fn prepare(changes: &mut Changes<'_>, silent: bool) -> Outcome {
    root::key(changes, silent)?;
    root::config(changes)
}

/// Merges the keys of this node's root into those of the cluster, and links to them.
///
/// # Errors
/// When a file can not be read or written.
pub fn merge(changes: &mut Changes<'_>) -> Outcome {
    authorized::merge(changes)
}

/// Writes down the host keys of this node.
///
/// # Errors
/// When a file can not be read or written.
pub fn pin(changes: &mut Changes<'_>, address: Option<IpAddr>) -> Outcome {
    hosts::pin(changes)?;
    hosts::refresh(changes, address)
}

/// Files on this node's own disk that setting up SSH may change.
#[must_use]
pub fn local_files(host: &Host) -> Vec<PathBuf> {
    let root = ["id_rsa", "id_rsa.pub", "config", "authorized_keys"];
    let mut files: Vec<_> = root.map(|name| host.paths.ssh(name)).into();
    files.push(host.paths.ssh(authorized::BACKUP));
    files.push(host.paths.at("etc/ssh/sshd_config"));
    files.push(host.paths.at("etc/ssh/ssh_known_hosts"));
    files
}

/// Command line that runs what is appended to it on another node, as root; without a question, and
/// only if the node shows a host key that it has written down itself.
#[must_use]
pub fn command_line(host: &Host, node: &str, ip: IpAddr) -> Vec<String> {
    let mut line: Vec<String> = ["/usr/bin/ssh", "-e", "none", "-o", "BatchMode=yes", "-o"]
        .map(str::to_owned)
        .into();
    line.push(format!("HostKeyAlias={node}"));
    let pins = host.paths.node(node, PINS);
    if pins.exists() {
        line.push("-o".to_owned());
        line.push(format!("UserKnownHostsFile={}", pins.display()));
        line.push("-o".to_owned());
        line.push("GlobalKnownHostsFile=none".to_owned());
    }
    line.push(format!("root@{ip}"));
    line.push("--".to_owned());
    line
}
