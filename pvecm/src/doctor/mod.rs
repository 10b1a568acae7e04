//! What is wrong with a node and its cluster, and what mends it.
//!
//! | module | does |
//! |---|---|
//! | [`facts`] | what is known |
//! | `gather` | looks: at files, the daemon, other nodes |
//! | `certificates`, `services` | reads certificates; looks at the API services of other nodes |
//! | `node`, `cluster`, `files` | the checks |
//!
//! Invariants: checks are pure, they see the facts alone; nothing is changed; nothing is waited for
//! without a limit; what could not be looked at is said to be unknown, never to be well.

mod certificates;
mod cluster;
pub mod facts;
mod files;
mod gather;
mod node;
mod services;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Value, json};

pub use facts::Facts;
pub use gather::gather;

use crate::failure::{Failure, Outcome};
use crate::host::Host;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It is well.
    Ok,
    /// It could not be looked at.
    Unknown,
    /// It works, but should be seen to.
    Warn,
    /// It is broken.
    Fail,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// The check.
    pub check: &'static str,
    /// The node or file that it is about.
    pub subject: String,
    /// What was found.
    pub what: String,
    /// What mends it.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, subject: &str, what: impl Into<String>) -> Self {
        Self::new(Level::Ok, check, subject, what.into(), None)
    }

    fn unknown(check: &'static str, subject: &str, what: impl Into<String>) -> Self {
        Self::new(Level::Unknown, check, subject, what.into(), None)
    }

    fn warn(
        check: &'static str,
        subject: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(
            Level::Warn,
            check,
            subject,
            what.into(),
            Some(remedy.into()),
        )
    }

    fn fail(
        check: &'static str,
        subject: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(
            Level::Fail,
            check,
            subject,
            what.into(),
            Some(remedy.into()),
        )
    }

    fn new(
        level: Level,
        check: &'static str,
        subject: &str,
        what: String,
        remedy: Option<String>,
    ) -> Self {
        Self {
            level,
            check,
            subject: subject.to_owned(),
            what,
            remedy,
        }
    }
}

/// Refuses links of this node that all are on the network of a storage, whose traffic would keep the
/// nodes from hearing each other.
///
/// # Errors
/// With the storage, and what to do.
pub fn refuse_storage_network(host: &Host, addresses: &[IpAddr]) -> Outcome {
    let interfaces = gather::interfaces();
    let is_used = |it: &&facts::Interface| addresses.contains(&it.address);
    let used: Vec<&facts::Interface> = interfaces.iter().filter(is_used).collect();
    let storages = gather::storages(&host.paths.pve("storage.cfg"));
    match storages.iter().find(|it| cluster::is_on_all(it, &used)) {
        None => Ok(()),
        Some(storage) => Err(Failure::refused(format!(
            "the cluster would have no link but on the network of storage '{}' ({}), whose traffic keeps \
             nodes from hearing each other: give it a link on another network, or use \
             --allow-storage-network",
            storage.name, storage.address
        ))),
    }
}

/// Runs all checks.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let checks: [fn(&Facts) -> Vec<Finding>; 17] = [
        node::mount,
        node::names,
        node::database,
        node::disk,
        node::journal,
        node::programs,
        files::configuration,
        files::authkey,
        files::certificates,
        files::directories,
        files::locks,
        cluster::quorum,
        cluster::members,
        cluster::links,
        cluster::packets,
        cluster::networks,
        cluster::clocks,
    ];
    checks.iter().flat_map(|check| check(facts)).collect()
}

/// All findings, ready to be shown.
#[derive(Clone, Debug)]
pub struct Report {
    node: String,
    cluster: Option<String>,
    findings: Vec<Finding>,
}

impl Report {
    /// What was found on a node.
    #[must_use]
    pub fn new(facts: &Facts, findings: Vec<Finding>) -> Self {
        let conf = facts.conf();
        Self {
            node: facts.node.clone(),
            cluster: conf.and_then(|conf| conf.cluster_name().map(str::to_owned)),
            findings,
        }
    }

    /// Whether nothing fails.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.count(Level::Fail) == 0
    }

    fn count(&self, level: Level) -> usize {
        let of_level = self.findings.iter().filter(|it| it.level == level);
        of_level.count()
    }

    /// For programs.
    #[must_use]
    pub fn document(&self) -> Value {
        json!({
            "node": self.node,
            "cluster": self.cluster,
            "healthy": self.is_healthy(),
            "summary": {
                "ok": self.count(Level::Ok),
                "warn": self.count(Level::Warn),
                "fail": self.count(Level::Fail),
                "unknown": self.count(Level::Unknown),
            },
            "findings": self.findings,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cluster = self.cluster.as_deref();
        let cluster = cluster.map_or_else(
            || "in no cluster".to_owned(),
            |name| format!("of cluster {name}"),
        );
        writeln!(f, "Node {} {cluster}\n", self.node)?;
        for finding in &self.findings {
            let Finding {
                level,
                check,
                subject,
                what,
                remedy,
            } = finding;
            writeln!(f, "{:<8} {check:<13} {subject}: {what}", level.word())?;
            if let Some(remedy) = remedy {
                writeln!(f, "{:<8} {:<13} -> {remedy}", "", "")?;
            }
        }
        writeln!(
            f,
            "\n{} ok, {} warnings, {} failures, {} not checked",
            self.count(Level::Ok),
            self.count(Level::Warn),
            self.count(Level::Fail),
            self.count(Level::Unknown)
        )
    }
}
