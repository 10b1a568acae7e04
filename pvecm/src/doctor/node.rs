//! Checks of this node.

use std::net::IpAddr;

use super::facts::{Database, Disk, Facts, Mount};
use super::{Finding, Level};

/// Free bytes below which the database is in danger.
const FREE_BAD: u64 = 128 << 20;
/// Free bytes below which it will soon be: the tree, its log and a few copies.
const FREE_LOW: u64 = 1 << 30;
/// Files below which nothing new can be made soon.
const FILES_LOW: u64 = 1000;

/// The cluster file system.
pub(super) fn mount(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "mount";
    let fail = |what: String, remedy: &str| Finding::fail(CHECK, "/etc/pve", what, remedy);
    let finding = match &facts.mount {
        Mount::Writable => Finding::ok(CHECK, "/etc/pve", "mounted, and takes changes"),
        Mount::ReadOnly if has_quorum(facts) => fail(
            "mounted, but read-only, though there is quorum: the node can not store or agree on changes".to_owned(),
            "'journalctl -u pve-cluster' says why: a full disk, a database that can not be written, \
             nodes that are still agreeing",
        ),
        Mount::ReadOnly => fail(
            "mounted, but read-only: there is no quorum".to_owned(),
            "'pvecm status' says who is missing and what is possible",
        ),
        Mount::Absent(0) => fail(
            "the cluster file system is not mounted".to_owned(),
            "'systemctl start pve-cluster', and see 'journalctl -u pve-cluster' if that fails",
        ),
        Mount::Absent(entries) => fail(
            format!(
                "the cluster file system is not mounted, and {entries} entries lie in its place"
            ),
            "look what they are and move them away, they would be hidden; then 'systemctl start \
             pve-cluster'",
        ),
        Mount::Dead(error) => fail(
            format!("the mount is stale, its daemon is gone ({error})"),
            "'umount -l /etc/pve', then 'systemctl restart pve-cluster'",
        ),
        Mount::Hanging => fail(
            "the mount does not answer".to_owned(),
            "see 'journalctl -u pve-cluster', then 'systemctl restart pve-cluster'",
        ),
    };
    vec![finding]
}

fn has_quorum(facts: &Facts) -> bool {
    let messaging = facts.messaging.as_ref();
    messaging.is_ok_and(|known| known.state.as_ref().is_some_and(|state| state.quorate))
}

/// The node's own name.
pub(super) fn names(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "name";
    let name = facts.node.as_str();
    let fail = |what: String| {
        let remedy = format!(
            "one line 'ADDRESS {name}' in /etc/hosts, with an address of this node that the others reach"
        );
        vec![Finding::fail(CHECK, name, what, remedy)]
    };
    let found = match &facts.addresses {
        Err(error) => return fail(format!("the name does not resolve: {error}")),
        Ok(found) => found,
    };
    let Some(address) = found.iter().find(|it| !it.is_loopback()) else {
        return fail("the name resolves to a loopback address only".to_owned());
    };
    let is_local = |at: &IpAddr| facts.interfaces.iter().any(|it| it.address == *at);
    if !is_local(address) {
        return fail(format!(
            "the name resolves to {address}, which is no address of this node"
        ));
    }
    let known = facts
        .files
        .as_ref()
        .and_then(|files| files.members.as_ref());
    let known = known.and_then(|members| members.nodelist.get(name)?.ip);
    if let Some(known) = known.filter(|known| known != address) {
        let what = format!(
            "the name resolves to {address}, but the cluster file system tells the others {known}"
        );
        let remedy = "mend /etc/hosts, then 'systemctl restart pve-cluster'";
        return vec![Finding::fail(CHECK, name, what, remedy)];
    }
    vec![Finding::ok(CHECK, name, format!("resolves to {address}"))]
}

/// The database of the cluster file system.
pub(super) fn database(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "database";
    const FILE: &str = "/var/lib/pve-cluster/config.db";
    let is_served = matches!(facts.mount, Mount::ReadOnly | Mount::Writable);
    match &facts.database {
        Database::Absent if is_served => vec![Finding::fail(
            CHECK,
            FILE,
            "it is not there, though the cluster file system runs",
            "copy what matters of /etc/pve, then 'systemctl restart pve-cluster'; in a cluster it \
             is fetched from the others",
        )],
        Database::Absent => vec![Finding::ok(CHECK, FILE, "there is none yet")],
        Database::Unknown(why) => vec![Finding::unknown(CHECK, FILE, why.clone())],
        Database::Bad(why) => vec![Finding::fail(
            CHECK,
            FILE,
            why.clone(),
            "in a cluster: stop pve-cluster, move the file away, start it, and it is fetched from \
             the others; alone: put back a copy of /var/lib/pve-cluster/backup",
        )],
        Database::Good {
            version,
            notes,
            mode,
        } => {
            let mut findings = Vec::new();
            for note in notes {
                let remedy = "it is put right at the next start of pve-cluster, or can be left";
                findings.push(Finding::warn(CHECK, FILE, note.clone(), remedy));
            }
            let readable = mode.filter(|mode| mode.mode & 0o077 != 0);
            if let Some(mode) = readable {
                let what = format!("mode {:04o}: others may read the keys in it", mode.mode);
                findings.push(Finding::warn(
                    CHECK,
                    FILE,
                    what,
                    format!("'chmod 0600 {FILE}'"),
                ));
            }
            let what = format!("passed SQLite's check and that of the tree, version {version}");
            findings.push(Finding::ok(CHECK, FILE, what));
            findings
        }
    }
}

/// Room for the database.
pub(super) fn disk(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "disk";
    const DIRECTORY: &str = "/var/lib/pve-cluster";
    let remedy = "make room: when the disk is full, changes of the cluster fail on this node";
    let Disk { free, size, files } = match &facts.disk {
        Ok(disk) => *disk,
        Err(why) => return vec![Finding::unknown(CHECK, DIRECTORY, why.clone())],
    };
    let what = format!("{} MiB of {} MiB are free", free >> 20, size >> 20);
    let too_few = files.filter(|files| *files < FILES_LOW);
    let level = match (free, too_few) {
        (..FREE_BAD, _) | (_, Some(_)) => Level::Fail,
        (..FREE_LOW, _) => Level::Warn,
        _ => return vec![Finding::ok(CHECK, DIRECTORY, what)],
    };
    let what = match too_few {
        Some(files) => format!("{what}, and room for {files} files"),
        None => what,
    };
    vec![Finding::new(
        level,
        CHECK,
        DIRECTORY,
        what,
        Some(remedy.to_owned()),
    )]
}

/// A change that was broken off.
pub(super) fn journal(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "changes";
    match &facts.journal {
        None => vec![Finding::ok(CHECK, &facts.node, "no change was broken off")],
        Some(journal) if journal.goes_on => vec![Finding::unknown(
            CHECK,
            &facts.node,
            format!("'{}' is at work", journal.command),
        )],
        Some(journal) => vec![Finding::fail(
            CHECK,
            &facts.node,
            format!(
                "'{}' was broken off {}; some of its changes are made",
                journal.command, journal.when
            ),
            if journal.is_dated {
                "'pvecm undo' puts back what was there before it, over all that was changed since \
                 ('pvecm undo --dry-run' shows what); 'pvecm undo --forget' keeps what is there now"
            } else {
                "run it again, or 'pvecm undo': that puts back what it had changed (copies are in \
                 /var/lib/pve-cluster/pvecm-undo)"
            },
        )],
    }
}

/// The programs of the cluster.
pub(super) fn programs(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "versions";
    let mut findings = Vec::new();
    for program in facts.programs.iter().filter(|it| !it.outdated.is_empty()) {
        let pids: Vec<_> = program.outdated.iter().map(u32::to_string).collect();
        let what = format!(
            "process {} runs an older {} than the one that is installed",
            pids.join(", "),
            program.name
        );
        let remedy = "restart it, one node after the other";
        findings.push(Finding::warn(CHECK, &facts.node, what, remedy));
    }
    let installed = facts.programs.iter().filter_map(|program| {
        let version = program.version.as_ref()?;
        Some(format!("{} {version}", program.name))
    });
    let installed: Vec<_> = installed.collect();
    findings.push(Finding::ok(CHECK, &facts.node, installed.join(", ")));
    findings
}
