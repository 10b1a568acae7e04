//! The cluster's configuration where all nodes have it, in the cluster file system.
//!
//! Invariant: it is changed by one command of the cluster at a time, and always as a whole.

use std::fs;
use std::path::{Path, PathBuf};

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
    let conf = host.paths.cluster_conf();
    others.then(|| take(&conf)).transpose()
}

/// The lock `number` that a command of this node was killed with, if it is still there.
pub(crate) fn inherited(conf: &Path, number: u64) -> Outcome<Option<ClusterLock>> {
    ClusterLock::inherit(&locks(conf), LOCK, number)
}

/// Takes the lock of the configuration at `conf`.
pub(crate) fn take(conf: &Path) -> Outcome<ClusterLock> {
    ClusterLock::take(&locks(conf), LOCK)
}

fn locks(conf: &Path) -> PathBuf {
    conf.with_file_name("priv").join("lock")
}

/// Reads it.
///
/// # Errors
/// When this node is in no cluster, or the text can not be used.
pub fn read(host: &Host) -> Outcome<ClusterConf> {
    let path = host.paths.cluster_conf();
    let Some(text) = files::read(&path)? else {
        let remedy = "this node is in no cluster: 'pvecm create' makes one, 'pvecm add' joins one";
        return Err(invalid(
            &["no nodes found".to_owned()],
            &[remedy.to_owned()],
        ));
    };
    ClusterConf::parse(&text).map_err(|error| {
        let fault = format!("can not use '{}': {error}", path.display());
        invalid(&[fault], &[])
    })
}

/// Whether it is still what was read or written last.
///
/// # Errors
/// When somebody has changed it meanwhile, by hand or because a lock was lost.
pub fn unchanged(host: &Host, last: &ClusterConf) -> Outcome {
    let current = read(host)?;
    if current.text() == last.text() {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "somebody else has changed '{}' meanwhile: version {}, not {}, is there, and stays",
        host.paths.cluster_conf().display(),
        current.version(),
        last.version()
    )))
}

/// Writes it, as administrators are told to: beside, then renamed.
///
/// # Errors
/// When the cluster file system refuses it.
pub fn write(host: &Host, text: &[u8]) -> Outcome {
    write_to(&host.paths.cluster_conf(), text)
}

/// As [`write()`], to where it is.
pub(crate) fn write_to(conf: &Path, text: &[u8]) -> Outcome {
    let new = beside(conf);
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, conf));
    written.map_err(|error| {
        // What could not be made need not be there to be removed.
        drop(fs::remove_file(&new));
        let failure = files::failed("write", conf, &error);
        if error.kind() == std::io::ErrorKind::InvalidInput {
            // All that the file system can answer; the words are in its log.
            return failure.within("the cluster file system refuses the new configuration; 'journalctl -u pve-cluster' says why");
        }
        failure
    })
}

/// Where it is written before it gets its name.
pub(crate) fn beside(conf: &Path) -> PathBuf {
    conf.with_extension("conf.new")
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
