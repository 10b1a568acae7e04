//! Keys, certificates and directories that a node needs before it is in a cluster.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::failure::Outcome;
use crate::host::Host;
use crate::host::command::program;
use crate::host::files::{self, SECRET};
use crate::transaction::Transaction;

/// Directories of each node's guests and secrets.
const OF_A_NODE: [&str; 4] = ["lxc", "qemu-server", "openvz", "priv"];

/// What is on this host alone.
///
/// # Errors
/// When something can not be written.
pub fn local(host: &Host, transaction: &mut Transaction) -> Outcome {
    let _ = (host, transaction);
    Ok(())
}

/// What this node has in the cluster file system.
///
/// # Errors
/// When something can not be written.
pub fn cluster(host: &Host) -> Outcome {
    node(host, host.name.as_str())
}

/// The directories of a node.
///
/// # Errors
/// When one can not be made.
pub fn node(host: &Host, name: &str) -> Outcome {
    files::make_directory(&host.paths.pve("priv"))?;
    let mut directories = OF_A_NODE.iter().map(|name_| host.paths.node(name, name_));
    directories.try_for_each(|directory| files::make_directory(&directory))
}

/// Keys of all nodes, in the one list that lets root of each node log in.
///
/// # Errors
/// When it can not be written.
pub fn merge_keys(host: &Host) -> Outcome {
    let _ = host;
    Ok(())
}

/// Files with keys of a node.
///
/// # Errors
/// When one can not be read.
pub fn keys_of(host: &Host, name: &str) -> Outcome<Vec<PathBuf>> {
    let mut found = Vec::new();
    for (path, is_of) in key_files(host) {
        let text = files::read(&path)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        if text.lines().any(|line| is_of(line, name)) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Removes the keys of a node; returns the files that were changed.
///
/// # Errors
/// When one can not be read or written.
pub fn forget(host: &Host, name: &str) -> Outcome<Vec<PathBuf>> {
    let changed = keys_of(host, name)?;
    for (path, is_of) in key_files(host) {
        if !changed.contains(&path) {
            continue;
        }
        let text = files::read(&path)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let kept = text.lines().filter(|line| !is_of(line, name));
        let kept: String = kept.map(|line| format!("{line}\n")).collect();
        files::replace(&path, kept.as_bytes(), SECRET)?;
    }
    Ok(changed)
}

type IsOf = fn(&str, &str) -> bool;

fn key_files(host: &Host) -> [(PathBuf, IsOf); 2] {
    [
        (host.paths.pve("priv/authorized_keys"), is_login_of),
        (host.paths.pve("priv/known_hosts"), is_host_key_of),
    ]
}

/// A key whose comment is `root@NAME`.
fn is_login_of(line: &str, name: &str) -> bool {
    let comment = line.split_whitespace().last().unwrap_or_default();
    let at = comment.strip_prefix("root@").unwrap_or_default();
    at.split('.').next() == Some(name)
}

/// A host key whose names have the node's among them.
fn is_host_key_of(line: &str, name: &str) -> bool {
    let names = line.split_whitespace().next().unwrap_or_default();
    names.split(',').any(|found| found == name)
}

/// Runs a command on another node, as root there.
///
/// # Errors
/// When the node is not reached, or the command fails: with what it said.
pub fn run_on(host: &Host, node: &str, address: IpAddr, command: &str) -> Outcome<String> {
    let known = host.paths.node(node, "ssh_known_hosts");
    let mut args = vec!["-e".to_owned(), "none".to_owned()];
    let mut option = |text: String| args.extend(["-o".to_owned(), text]);
    option("BatchMode=yes".to_owned());
    option("ConnectTimeout=10".to_owned());
    option(format!("HostKeyAlias={node}"));
    if known.exists() {
        option(format!("UserKnownHostsFile={}", known.display()));
        option("GlobalKnownHostsFile=none".to_owned());
    }
    args.extend([
        format!("root@{address}"),
        "--".to_owned(),
        command.to_owned(),
    ]);
    program("ssh", args).output()
}
