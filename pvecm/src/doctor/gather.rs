//! Looks at this node, the daemon and the other nodes. Changes nothing, and waits for nothing without
//! a limit.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::statvfs::statvfs;

use super::facts::{
    ClusterFiles, Database, Disk, Facts, Interface, Journal, Lock, Messaging, Mode, Mount, Program,
    Storage, Text,
};
use super::{certificates, services};
use crate::datacenter::Network;
use crate::host::command::program;
use crate::host::pve::{self, State};
use crate::host::{Host, Paths, calendar, files, interface_mtu, ip, resolve, wait};
use crate::state;
use crate::transaction;

/// A mount that does not answer for so long hangs.
const MOUNT_PATIENCE: Duration = Duration::from_secs(5);
/// Reading what is below the mount, checking the database, and asking the resolver take no longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Entries below the mount whose times are looked at.
const ENTRIES_MAX: usize = 5000;
/// A database that changed while it was being looked at is looked at again.
const LOOKS: usize = 3;
/// Programs of a cluster, and how they are asked for their version.
const PROGRAMS: [(&str, &str); 3] = [
    ("corosync", "-v"),
    ("corosync-lite", "--version"),
    ("pmxcfs", "--version"),
];

/// Looks at everything.
#[must_use]
pub fn gather(host: &Host) -> Facts {
    let paths = &host.paths;
    let mount = {
        let paths = paths.clone();
        wait::within(MOUNT_PATIENCE, move || look_at_mount(&paths))
    };
    let mount = mount.unwrap_or(Mount::Hanging);
    let is_served = matches!(mount, Mount::ReadOnly | Mount::Writable);
    let files = is_served.then(|| {
        let paths = paths.clone();
        wait::within(PATIENCE, move || cluster_files(&paths))
    });
    let name = host.name.as_str();
    let mut facts = Facts {
        node: name.to_owned(),
        now: calendar(),
        addresses: resolve_within(name),
        interfaces: interfaces(),
        mount,
        files: files.flatten(),
        local_conf: text(&paths.corosync("corosync.conf")),
        authkey: mode(&paths.corosync("authkey")),
        resolved: BTreeMap::new(),
        messaging: messaging(),
        database: database(&paths.database("config.db")),
        disk: disk(&paths.database("")),
        journal: journal(paths),
        services: BTreeMap::new(),
        programs: programs(),
    };
    facts.resolved = resolved(&facts);
    facts.services = services::look(others(&facts));
    facts
}

fn look_at_mount(paths: &Paths) -> Mount {
    match fs::symlink_metadata(paths.pve("local")) {
        Err(error) if is_dead(&error) => return Mount::Dead(error.to_string()),
        _ => {}
    }
    match pve::state(paths) {
        State::Writable => Mount::Writable,
        State::ReadOnly => Mount::ReadOnly,
        State::Unmounted => {
            let entries = fs::read_dir(paths.pve("")).into_iter().flatten();
            Mount::Absent(entries.count())
        }
    }
}

/// What the kernel says when nobody serves a mount any more.
fn is_dead(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw);
    matches!(
        code,
        Some(Errno::ENOTCONN | Errno::ECONNABORTED | Errno::EIO)
    )
}

fn text(path: &Path) -> Text {
    match files::read(path) {
        Ok(Some(text)) => Text::Found(text),
        Ok(None) => Text::Absent,
        Err(failure) => Text::Unreadable(failure.to_string()),
    }
}

fn mode(path: &Path) -> Option<Mode> {
    let found = fs::metadata(path).ok()?;
    Some(Mode {
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        size: found.size(),
    })
}

fn cluster_files(paths: &Paths) -> ClusterFiles {
    let directories = directories(paths);
    let now = calendar();
    let authority_path = paths.pve("pve-root-ca.pem");
    let authorities = certificates::authorities(&authority_path);
    let mut found = Vec::new();
    found.extend(certificates::read(&authority_path, None, &[], now));
    for node in directories.keys() {
        let own = paths.node(node, "pve-ssl.pem");
        found.extend(certificates::read(&own, Some(node), &authorities, now));
        // The administrator's own, from whatever authority.
        let custom = paths.node(node, "pveproxy-ssl.pem");
        found.extend(certificates::read(&custom, Some(node), &[], now));
    }
    ClusterFiles {
        members: pve::members(paths).ok(),
        conf: text(&paths.cluster_conf()),
        certificates: found,
        locks: locks(&paths.pve("priv/lock"), now),
        directories,
        storages: storages(&paths.pve("storage.cfg")),
        newest: newest(&paths.pve("")),
    }
}

/// Directories of nodes, with the guests in them.
fn directories(paths: &Paths) -> BTreeMap<String, Vec<u32>> {
    let guests = pve::guests(paths).unwrap_or_default();
    pve::node_directories(paths)
        .into_iter()
        .map(|name| {
            let of_node = guests.iter().filter(|(_, guest)| guest.node == name);
            let ids = of_node.map(|(id, _)| *id).collect();
            (name, ids)
        })
        .collect()
}

fn locks(directory: &Path, now: Duration) -> Vec<Lock> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let lock = |entry: fs::DirEntry| {
        let changed = changed(&entry.metadata().ok()?)?;
        Some(Lock {
            name: entry.file_name().to_string_lossy().into_owned(),
            age: now.saturating_sub(changed),
        })
    };
    entries.filter_map(lock).collect()
}

fn changed(found: &fs::Metadata) -> Option<Duration> {
    found.modified().ok()?.duration_since(UNIX_EPOCH).ok()
}

/// Storages that name their server by address.
pub(super) fn storages(path: &Path) -> Vec<Storage> {
    let text = files::read(path).ok().flatten().unwrap_or_default();
    storages_of(&String::from_utf8_lossy(&text))
}

pub(super) fn storages_of(text: &str) -> Vec<Storage> {
    let mut name = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        let is_head = !line.starts_with(char::is_whitespace);
        match line.split_once(':') {
            Some((_, rest)) if is_head => rest.trim().clone_into(&mut name),
            _ => {
                let mut words = line
                    .split([' ', '\t', ',', ';'])
                    .filter(|it| !it.is_empty());
                let is_server = words
                    .next()
                    .is_some_and(|key| ["server", "server2", "portal", "monhost"].contains(&key));
                let addresses = words.filter_map(|word| word.parse().ok());
                found.extend(addresses.filter(|_| is_server).map(|address| Storage {
                    name: name.clone(),
                    address,
                }));
            }
        }
    }
    found
}

/// The file below the mount that changed last.
fn newest(root: &Path) -> Option<(PathBuf, Duration)> {
    let mut waiting = vec![root.to_owned()];
    let mut newest: Option<(PathBuf, Duration)> = None;
    let mut seen = 0;
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            seen += 1;
            let Ok(found) = entry.metadata() else {
                continue;
            };
            if seen > ENTRIES_MAX {
                return newest;
            }
            if found.is_dir() {
                waiting.push(entry.path());
            } else if let Some(time) = changed(&found).filter(|_| found.is_file())
                && newest.as_ref().is_none_or(|(_, latest)| time > *latest)
            {
                newest = Some((entry.path(), time));
            }
        }
    }
    newest
}

fn resolve_within(name: &str) -> Result<Vec<IpAddr>, String> {
    let owned = name.to_owned();
    let found = wait::within(PATIENCE, move || resolve(&owned));
    let found = found.ok_or_else(|| "the resolver does not answer".to_owned())?;
    found.map_err(|error| error.to_string())
}

/// Host names in the configuration that is in force.
fn resolved(facts: &Facts) -> BTreeMap<String, Vec<IpAddr>> {
    let nodes = facts.conf().map(|conf| conf.nodes()).unwrap_or_default();
    let names = nodes
        .iter()
        .flat_map(|node| node.addresses.values())
        .filter(|text| text.parse::<IpAddr>().is_err());
    names
        .map(|name| (name.clone(), resolve_within(name).unwrap_or_default()))
        .collect()
}

pub(super) fn interfaces() -> Vec<Interface> {
    let found = getifaddrs().into_iter().flatten();
    let interface = |it: nix::ifaddrs::InterfaceAddress| {
        let address = ip(&it.address?)?;
        let mask = it.netmask.as_ref().and_then(ip);
        Some(Interface {
            address,
            network: mask.and_then(|mask| Network::of(address, mask)),
            mtu: interface_mtu(&it.interface_name),
            name: it.interface_name,
        })
    };
    found.filter_map(interface).collect()
}

fn messaging() -> Result<Messaging, String> {
    let status = corosync_lite::status::ask().map_err(|error| error.to_string())?;
    let others = status.nodes.iter().map(|node| node.id);
    let others: Vec<u32> = others.filter(|id| *id != status.node).collect();
    Ok(Messaging {
        state: state::ask().ok(),
        peers: state::ask_peers(&others).unwrap_or_default(),
        status,
    })
}

/// Checks the database as the daemon does before it opens one.
fn database(path: &Path) -> Database {
    if !path.exists() {
        return Database::Absent;
    }
    let owned = path.to_owned();
    let checked = wait::within(PATIENCE, move || check(&owned));
    checked.unwrap_or_else(|| Database::Unknown("the check takes too long".to_owned()))
}

fn check(path: &Path) -> Database {
    let mut last = Database::Absent;
    // A daemon that writes meanwhile can make a good one look bad.
    for _ in 0..LOOKS {
        last = match pmxcfs::store::check(path) {
            Ok(report) => {
                let issues = report.issues.iter().map(ToString::to_string);
                let notes = report.notes.iter().map(ToString::to_string);
                return Database::Good {
                    version: report.tree.root().version,
                    notes: issues.chain(notes).collect(),
                    mode: mode(path),
                };
            }
            Err(error @ pmxcfs::store::StoreError::Refused(_)) => Database::Bad(error.to_string()),
            Err(error) => Database::Unknown(chain(&error)),
        };
    }
    last
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn disk(directory: &Path) -> Result<Disk, String> {
    let found = statvfs(directory).map_err(|error| format!("not known: {error}"))?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
    Ok(Disk {
        free: bytes(found.blocks_available()),
        size: bytes(found.blocks()),
        files: (found.files() != 0).then(|| found.files_available()),
    })
}

/// A change that was broken off, unless somebody is at work.
fn journal(paths: &Paths) -> Option<Journal> {
    let broken = transaction::broken_off(&transaction::directory(paths));
    let broken = broken.transpose()?.ok();
    let lock = File::open(paths.at("var/lock/pvecm.lock")).ok();
    let goes_on = lock.is_some_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
    Some(Journal {
        is_dated: broken.as_ref().is_none_or(|broken| broken.is_dated),
        when: broken
            .as_ref()
            .map(|broken| broken.when.clone())
            .unwrap_or_default(),
        command: broken.map_or_else(|| "(a command)".to_owned(), |broken| broken.command),
        goes_on,
    })
}

fn programs() -> Vec<Program> {
    let of = |(name, option): (&'static str, &'static str)| {
        let said = wait::within(MOUNT_PATIENCE, move || program(name, [option]).output());
        let version = said.and_then(Result::ok).and_then(|text| version_of(&text));
        Program {
            name: name.to_owned(),
            version,
            outdated: outdated(name),
        }
    };
    let own = Program {
        name: "pvecm".to_owned(),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        outdated: Vec::new(),
    };
    PROGRAMS.into_iter().map(of).chain([own]).collect()
}

/// The first word that begins with a digit, without quotes around it.
pub(super) fn version_of(text: &str) -> Option<String> {
    let words = text.split_whitespace();
    let mut bare = words.map(|word| word.trim_matches(|c: char| "'\",;()".contains(c)));
    let found = bare.find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    found.map(str::to_owned)
}

/// Processes of that name whose program was replaced since they started.
fn outdated(name: &str) -> Vec<u32> {
    let own = fs::read_link("/proc/self/ns/pid").ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_outdated = |pid: &u32| {
        let at = |part: &str| format!("/proc/{pid}/{part}");
        let is_it = fs::read_to_string(at("comm")).is_ok_and(|comm| comm.trim_end() == name);
        is_it
            && fs::read_link(at("ns/pid")).ok() == own
            && fs::read_link(at("exe"))
                .is_ok_and(|exe| exe.to_string_lossy().ends_with(" (deleted)"))
    };
    pids.filter(is_outdated).collect()
}

/// Where the other nodes are.
fn others(facts: &Facts) -> BTreeMap<String, IpAddr> {
    let nodes = facts.conf().map(|conf| conf.nodes()).unwrap_or_default();
    let members = facts
        .files
        .as_ref()
        .and_then(|files| files.members.as_ref());
    let others = nodes.into_iter().filter(|node| node.name != facts.node);
    others
        .filter_map(|node| {
            let told = members.and_then(|members| members.nodelist.get(&node.name)?.ip);
            let configured = node.addresses.values().find_map(|text| {
                let resolved = facts.resolved.get(text).and_then(|found| found.first());
                text.parse().ok().or(resolved.copied())
            });
            Some((node.name, told.or(configured)?))
        })
        .collect()
}
