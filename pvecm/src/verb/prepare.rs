//! Keys, certificates and directories that a node needs before it is in a cluster.

use std::net::IpAddr;

use super::updatecerts::{self, UpdateOptions};
use crate::failure::Outcome;
use crate::host::Host;
use crate::host::changes::{Changes, Mode};
use crate::host::command::program;
use crate::ssh;
use crate::transaction::Transaction;

/// What is on this host alone: root's key and settings, and that root may log in.
///
/// # Errors
/// When something can not be written.
pub fn local(host: &Host, transaction: &mut Transaction) -> Outcome {
    transaction.make_directory(&host.paths.ssh(""))?;
    for path in ssh::local_files(host) {
        transaction.save(&path)?;
    }
    ssh::permit_root_login(host, transaction)?;
    updatecerts::prepare_local(host)
}

/// What this node has in the cluster file system: its directories, certificate and keys.
///
/// # Errors
/// When something can not be written.
pub fn cluster(host: &Host) -> Outcome {
    updatecerts::cluster_files(host, UpdateOptions::default()).map(drop)
}

/// Keys of all nodes, in the one list that lets root of each node log in.
///
/// # Errors
/// When it can not be written.
pub fn merge_keys(host: &Host) -> Outcome {
    ssh::merge(&mut Changes::new(host, Mode::Make, true))
}

/// Runs a command on another node, as root there.
///
/// # Errors
/// When the node is not reached, or the command fails: with what it said.
pub fn run_on(host: &Host, node: &str, address: IpAddr, command: &str) -> Outcome<String> {
    let mut line = ssh::command_line(host, node, address);
    line.push(command.to_owned());
    let name = line.remove(0);
    // A node that does not answer must not keep this one.
    let limit = ["-o", "ConnectTimeout=10"].map(str::to_owned);
    program(&name, limit.into_iter().chain(line)).output()
}
