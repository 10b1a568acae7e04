//! The cluster's configuration where all nodes have it, in the cluster file system.
//!
//! Invariant: it is changed by one command of the cluster at a time, and always as a whole.

use std::fs;

use super::lock::ClusterLock;
use super::{Host, files, pve};
use crate::conf::ClusterConf;
use crate::failure::{Failure, Outcome};

/// Its lock, by its name among the locks.
const LOCK: &str = "file-corosync_conf";

/// Locks out the other nodes, if there are any. Inside a node its own lock does that.
///
/// # Errors
/// When a change is going on elsewhere.
pub fn lock(host: &Host) -> Outcome<Option<ClusterLock>> {
    let others = pve::members(&host.paths)?.nodelist.len() > 1;
    let locks = host.paths.pve("priv/lock");
    others.then(|| ClusterLock::take(&locks, LOCK)).transpose()
}

/// Reads it.
///
/// # Errors
/// When this node is in no cluster, or the text can not be used.
pub fn read(host: &Host) -> Outcome<ClusterConf> {
    let path = host.paths.cluster_conf();
    let Some(text) = files::read(&path)? else {
        return Err(invalid(&["no nodes found".to_owned()], &[]));
    };
    ClusterConf::parse(&text).map_err(|error| {
        let fault = format!("can not use '{}': {error}", path.display());
        invalid(&[fault], &[])
    })
}

/// Writes it, as administrators are told to: beside, then renamed.
///
/// # Errors
/// When the cluster file system refuses it.
pub fn write(host: &Host, text: &[u8]) -> Outcome {
    let (conf, new) = (
        host.paths.cluster_conf(),
        host.paths.pve("corosync.conf.new"),
    );
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &conf));
    written.map_err(|error| {
        // What could not be made need not be there to be removed.
        drop(fs::remove_file(&new));
        files::failed("write", &conf, &error)
    })
}

/// The failure of a configuration that can not be used: its faults, one by one.
#[must_use]
pub fn invalid(errors: &[String], warnings: &[String]) -> Failure {
    let name = |kind: &str, list: &[String]| -> Vec<(String, String)> {
        let numbered = list.iter().enumerate();
        numbered
            .map(|(number, text)| (format!("{kind}{number}"), text.clone()))
            .collect()
    };
    let mut fields = name("error", errors);
    fields.extend(name("warning", warnings));
    Failure::refused("invalid corosync.conf").with_fields(fields)
}
