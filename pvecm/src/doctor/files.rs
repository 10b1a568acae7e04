//! Checks of files: configuration, key, certificates, and what should not be there any more.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::facts::{Certificate, CertificateContent, Facts, Text};
use super::{Finding, Level};
use crate::conf::{ClusterConf, NodeEntry, Resolve, verify};

/// Seconds of a day.
const DAY: i64 = 24 * 60 * 60;
/// Before its end a certificate should be renewed.
const RENEW_DAYS: i64 = 30;
/// The file system frees locks that are older.
const LOCK_LIFETIME: Duration = Duration::from_secs(120);
/// It is asked to do so not at once.
const LOCK_SLACK: Duration = Duration::from_secs(60);
/// Bytes of a key.
const KEY_SIZES: std::ops::RangeInclusive<u64> = 128..=4096;

const LOCAL: &str = "/etc/corosync/corosync.conf";
const SHARED: &str = "/etc/pve/corosync.conf";

impl Text {
    /// The text, if it could be read.
    fn found(&self) -> Option<&[u8]> {
        match self {
            Self::Found(text) => Some(text),
            Self::Absent | Self::Unreadable(_) => None,
        }
    }
}

impl Facts {
    /// The configuration that the cluster agrees on, else the copy of this node.
    #[must_use]
    pub fn conf(&self) -> Option<ClusterConf> {
        let shared = self.files.as_ref().and_then(|files| files.conf.found());
        let text = shared.or_else(|| self.local_conf.found())?;
        ClusterConf::parse(text).ok()
    }
}

impl Resolve for BTreeMap<String, Vec<IpAddr>> {
    fn resolve(&self, name: &str) -> Vec<IpAddr> {
        match name.parse() {
            Ok(address) => vec![address],
            Err(_) => self.get(name).cloned().unwrap_or_default(),
        }
    }
}

/// The configuration, its copies, and what it says of this node.
pub(super) fn configuration(facts: &Facts) -> Vec<Finding> {
    let mut findings = copies(facts);
    if let Some(conf) = facts.conf() {
        findings.extend(content(facts, &conf));
    }
    findings
}

fn parsed(path: &str, text: &Text) -> Result<Option<(ClusterConf, Vec<u8>)>, Finding> {
    const CHECK: &str = "configuration";
    match text {
        Text::Absent => Ok(None),
        Text::Unreadable(why) => Err(Finding::unknown(CHECK, path, why.clone())),
        Text::Found(text) => match ClusterConf::parse(text) {
            Ok(conf) => Ok(Some((conf, text.clone()))),
            Err(error) => {
                let remedy = format!(
                    "mend it in a copy and move that over '{SHARED}'; when corosync does not run: \
                     in '{LOCAL}' of all nodes alike"
                );
                Err(Finding::fail(CHECK, path, error.to_string(), remedy))
            }
        },
    }
}

/// What is in the cluster file system and what the daemon reads have to be the same.
fn copies(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "configuration";
    let local = parsed(LOCAL, &facts.local_conf);
    let Some(files) = &facts.files else {
        return match local {
            Ok(None) => vec![Finding::ok(
                CHECK,
                LOCAL,
                "there is none: this node is in no cluster",
            )],
            Ok(Some((conf, _))) => vec![Finding::unknown(
                CHECK,
                LOCAL,
                format!(
                    "version {}; not compared, the mount is not there",
                    conf.version()
                ),
            )],
            Err(finding) => vec![finding],
        };
    };
    let (shared, local) = match (parsed(SHARED, &files.conf), local) {
        (Ok(shared), Ok(local)) => (shared, local),
        (shared, local) => return [shared.err(), local.err()].into_iter().flatten().collect(),
    };
    let fail =
        |subject, what: String, remedy: &str| vec![Finding::fail(CHECK, subject, what, remedy)];
    match (shared, local) {
        (None, None) => vec![Finding::ok(
            CHECK,
            SHARED,
            "there is none: this node is in no cluster",
        )],
        (Some(_), None) => fail(
            LOCAL,
            "it is not there, though the cluster has one".to_owned(),
            "'systemctl restart pve-cluster' makes it, then 'systemctl start corosync'",
        ),
        (None, Some(_)) => fail(
            SHARED,
            format!("it is not there, though this node has '{LOCAL}'"),
            "if this node has left the cluster, remove what is in /etc/corosync; if not, \
             'systemctl restart pve-cluster' takes it over",
        ),
        (Some((shared, of_shared)), Some((local, of_local))) => {
            let (ours, theirs) = (local.version(), shared.version());
            if ours > theirs {
                let what = format!(
                    "version {ours} is newer than the cluster's, {theirs}: it was edited here"
                );
                let remedy =
                    format!("edit '{SHARED}' alone: raise its config_version above {ours}");
                fail(LOCAL, what, &remedy)
            } else if ours < theirs {
                let what = format!("version {ours} is older than the cluster's, {theirs}");
                fail(
                    LOCAL,
                    what,
                    "see 'journalctl -u pve-cluster', and restart it: it copies the file",
                )
            } else if of_shared != of_local {
                let what =
                    format!("its text is not that of '{SHARED}', though both are version {ours}");
                let remedy = format!("raise config_version in '{SHARED}': the copy is made anew");
                fail(LOCAL, what, &remedy)
            } else {
                let what = format!("version {ours}, the same as the cluster's");
                vec![Finding::ok(CHECK, LOCAL, what)]
            }
        }
    }
}

/// Settings by which other than a majority of the nodes may act.
fn majority(conf: &ClusterConf, subject: &str) -> Vec<Finding> {
    const CHECK: &str = "configuration";
    let without = |key: &str| {
        format!(
            "take '{key}' out of the section quorum of a copy of '{SHARED}', raise config_version, and move it \
             over that"
        )
    };
    let mut findings = Vec::new();
    let nodes = conf.nodes();
    if conf.is_two_node() && nodes.len() > 2 {
        let what = format!(
            "'two_node: 1' with {} nodes: two of them, and one alone, may act without the others, all sides of a \
             split cluster at once",
            nodes.len()
        );
        findings.push(Finding::fail(CHECK, subject, what, without("two_node")));
    } else if conf.is_two_node() && nodes.len() < 2 {
        let what = "'two_node: 1' with one node: it is for two, and waits for a second one";
        let remedy = format!("join that with 'pvecm add', or {}", without("two_node"));
        findings.push(Finding::warn(CHECK, subject, what, remedy));
    }
    let written = conf.setting("quorum", "expected_votes");
    let written = written.and_then(|text| text.parse::<u64>().ok());
    let sum = NodeEntry::votes_of(&nodes);
    match written.filter(|written| *written != 0 && !nodes.is_empty()) {
        Some(written) if written < sum => {
            let what = format!(
                "'expected_votes: {written}', but the nodes have {sum} votes: less than a majority of them may \
                 act, more than one side of a split cluster at once"
            );
            let remedy = without("expected_votes") + ": the votes of the nodes are counted then";
            findings.push(Finding::fail(CHECK, subject, what, remedy));
        }
        // A device brings votes of its own.
        Some(written) if written > sum && !conf.has_device() => {
            let what = format!(
                "'expected_votes: {written}', but the nodes have {sum} votes: more than a majority of them has \
                 to be there"
            );
            let remedy = without("expected_votes") + ": the votes of the nodes are counted then";
            findings.push(Finding::warn(CHECK, subject, what, remedy));
        }
        _ => {}
    }
    findings
}

/// What the configuration says.
fn content(facts: &Facts, conf: &ClusterConf) -> Vec<Finding> {
    const CHECK: &str = "configuration";
    let subject = if facts.files.is_some() { SHARED } else { LOCAL };
    let faults = verify(conf, &facts.resolved);
    let edit = "edit a copy, raise config_version, and move it over '/etc/pve/corosync.conf'";
    let mut findings = Vec::new();
    for error in faults.errors {
        findings.push(Finding::fail(CHECK, subject, error, edit));
    }
    for warning in faults.warnings {
        let warning = warning.trim_start_matches("warning: ");
        findings.push(Finding::warn(CHECK, subject, warning, edit));
    }
    findings.extend(majority(conf, subject));
    let in_force = facts
        .messaging
        .as_ref()
        .ok()
        .and_then(|it| it.status.config_version);
    let local = facts
        .local_conf
        .found()
        .and_then(|text| ClusterConf::parse(text).ok());
    if let (Some(in_force), Some(local)) = (in_force, local)
        && in_force != local.version()
    {
        let what = format!(
            "version {} is on disk, the daemon has {in_force} in force",
            local.version()
        );
        let remedy =
            "'corosync-cfgtool -R', and see 'journalctl -u corosync'; else restart corosync";
        findings.push(Finding::fail(CHECK, LOCAL, what, remedy));
    }
    match conf.node(&facts.node) {
        None => {
            let what = format!("there is no node '{}' in it", facts.node);
            let remedy = "if this node was renamed, give it its old name again; if it was removed, 'pvecm leave' here separates it";
            findings.push(Finding::fail(CHECK, subject, what, remedy));
        }
        Some(own) => {
            for (link, text) in &own.addresses {
                let found = conf.ip_version().choose(&facts.resolved.resolve(text));
                let is_here = |at: IpAddr| facts.interfaces.iter().any(|it| it.address == at);
                if found.is_some_and(is_here) {
                    continue;
                }
                let what = format!(
                    "this node's address {text} on link {link} is on none of its interfaces"
                );
                let remedy = format!(
                    "bring up the interface, or 'pvecm link set-address {link} {} ADDRESS'",
                    facts.node
                );
                findings.push(Finding::fail(CHECK, subject, what, remedy));
            }
        }
    }
    findings
}

/// The key of the cluster.
pub(super) fn authkey(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "key";
    const FILE: &str = "/etc/corosync/authkey";
    let Some(conf) = facts.conf() else {
        return Vec::new();
    };
    let is_needed = conf.setting("totem", "secauth") == Some("on")
        || conf
            .setting("totem", "crypto_cipher")
            .is_some_and(|cipher| cipher != "none")
        || conf
            .setting("totem", "crypto_hash")
            .is_some_and(|hash| hash != "none");
    let copy = "copy it from another node, then 'chmod 0400' and restart corosync";
    match facts.authkey {
        None if is_needed => vec![Finding::fail(CHECK, FILE, "it is not there", copy)],
        None => Vec::new(),
        Some(key) if key.mode & 0o077 != 0 || key.uid != 0 => {
            let what = format!(
                "owner {} and mode {:04o}: who reads it can join the cluster",
                key.uid, key.mode
            );
            vec![Finding::fail(
                CHECK,
                FILE,
                what,
                format!("'chown root:root {FILE}; chmod 0400 {FILE}'"),
            )]
        }
        Some(key) if !KEY_SIZES.contains(&key.size) => {
            let what = format!("{} bytes are no key", key.size);
            vec![Finding::fail(CHECK, FILE, what, copy)]
        }
        Some(key) if key.mode & 0o200 != 0 => {
            let what = format!("mode {:04o}, nobody has to write it", key.mode);
            vec![Finding::warn(
                CHECK,
                FILE,
                what,
                format!("'chmod 0400 {FILE}'"),
            )]
        }
        Some(key) => vec![Finding::ok(CHECK, FILE, format!("mode {:04o}", key.mode))],
    }
}

/// Certificates of all nodes.
pub(super) fn certificates(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "certificates";
    let Some(files) = &facts.files else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let own = |it: &Certificate| it.node.as_deref() == Some(facts.node.as_str());
    if !files.certificates.iter().any(own) {
        let what = "this node has none: the API service can not start";
        findings.push(Finding::warn(
            CHECK,
            &facts.node,
            what,
            "'pvecm updatecerts'",
        ));
    }
    let members = files.members.as_ref();
    for certificate in &files.certificates {
        let subject = certificate.path.display().to_string();
        let content = match &certificate.content {
            Ok(content) => content,
            Err(why) => {
                findings.push(Finding::fail(
                    CHECK,
                    &subject,
                    why.clone(),
                    renewal(certificate),
                ));
                continue;
            }
        };
        let faults = faults(certificate, content, |node| members?.nodelist.get(node)?.ip);
        if faults.is_empty() {
            let what = format!("good for another {} days", content.ends_in / DAY);
            findings.push(Finding::ok(CHECK, &subject, what));
        }
        for (level, what) in faults {
            let remedy = Some(renewal(certificate));
            findings.push(Finding::new(level, CHECK, &subject, what, remedy));
        }
    }
    findings
}

fn renewal(certificate: &Certificate) -> String {
    match &certificate.node {
        Some(node) => {
            format!("on {node}: 'pvecm updatecerts --force', then restart the service on port 8006")
        }
        None => "move the file and priv/pve-root-ca.key away, then 'pvecm updatecerts --force' on \
                 every node"
            .to_owned(),
    }
}

fn faults(
    certificate: &Certificate,
    content: &CertificateContent,
    address_of: impl Fn(&str) -> Option<IpAddr>,
) -> Vec<(Level, String)> {
    let mut faults = Vec::new();
    if content.ends_in <= 0 {
        faults.push((
            Level::Fail,
            format!("it ended {} days ago", -content.ends_in / DAY),
        ));
    } else if content.ends_in < RENEW_DAYS * DAY {
        faults.push((
            Level::Warn,
            format!("it ends in {} days", content.ends_in / DAY),
        ));
    }
    if content.starts_in > 0 {
        let what =
            "it is not valid yet: the clock of this node, or of the one that made it, is wrong";
        faults.push((Level::Fail, what.to_owned()));
    }
    if certificate.is_signed == Some(false) {
        let what = "it was not made by the authority of this cluster".to_owned();
        faults.push((Level::Fail, what));
    }
    // Those that were not made by the cluster have the names that their owners want.
    let Some(node) = certificate
        .node
        .as_deref()
        .filter(|_| certificate.is_signed.is_some())
    else {
        return faults;
    };
    if !content.names.iter().any(|name| name == node) {
        faults.push((Level::Warn, format!("the name '{node}' is not in it")));
    }
    if let Some(address) = address_of(node)
        && !content.addresses.contains(&address)
    {
        faults.push((
            Level::Warn,
            format!("the node's address {address} is not in it"),
        ));
    }
    faults
}

/// Directories of nodes that are none.
pub(super) fn directories(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "directories";
    let (Some(files), Some(conf)) = (&facts.files, facts.conf()) else {
        return Vec::new();
    };
    let ghosts = files
        .directories
        .iter()
        .filter(|(name, _)| conf.node(name).is_none());
    let mut findings = Vec::new();
    for (name, guests) in ghosts {
        let subject = format!("/etc/pve/nodes/{name}");
        let what = format!("there is no node '{name}' in the cluster");
        findings.push(if *name == facts.node {
            // A node that was removed, or is about to get its old name again, keeps what it has.
            let remedy = "keep it: it is this node's own; see the finding about its configuration";
            Finding::fail(CHECK, &subject, what, remedy)
        } else if guests.is_empty() {
            let remedy = format!("'rm -r {subject}', if nothing in it is needed any more");
            Finding::warn(CHECK, &subject, what, remedy)
        } else {
            let ids: Vec<_> = guests.iter().map(u32::to_string).collect();
            let what = format!("{what}, but guests are in it: {}", ids.join(", "));
            let remedy = "move their configurations into the directory of a node that has their \
                          disks";
            Finding::fail(CHECK, &subject, what, remedy)
        });
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            "/etc/pve/nodes",
            "all belong to nodes of the cluster",
        ));
    }
    findings
}

/// Locks that nobody has any more.
pub(super) fn locks(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "locks";
    let Some(files) = &facts.files else {
        return Vec::new();
    };
    let is_old = |age: Duration| age > LOCK_LIFETIME + LOCK_SLACK;
    let old = files.locks.iter().filter(|lock| is_old(lock.age));
    let mut findings: Vec<Finding> = old
        .map(|lock| {
            let subject = format!("/etc/pve/priv/lock/{}", lock.name);
            let what = format!("taken {} s ago, and not refreshed", lock.age.as_secs());
            let remedy = format!("the next one that wants it gets it; or 'rmdir {subject}'");
            Finding::warn(CHECK, &subject, what, remedy)
        })
        .collect();
    if findings.is_empty() {
        let what = match files.locks.len() {
            0 => "none is taken".to_owned(),
            count => format!("{count} taken, none for long"),
        };
        findings.push(Finding::ok(CHECK, "/etc/pve/priv/lock", what));
    }
    findings
}
