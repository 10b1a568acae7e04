//! Guests that a joining node brings along.
//!
//! Joining replaces the node's files by the cluster's, guests included. Those that are to be carried
//! over are read before, and written into the node's directory when it is there. The numbers of
//! guests are unique in a cluster: one that is taken stops the join, or the guest gets a free one.
//!
//! What is carried over are configurations and firewall rules. Disks stay where they are, under the
//! names that they have, and storages have to be known to the cluster under the same names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::checks::Faults;
use super::peer::Peer;
use crate::datacenter::Datacenter;
use crate::failure::{Failure, Outcome};
use crate::host::files::{self, failed};
use crate::host::{Host, pve};

/// Directories of guests in that of a node.
const FOLDERS: [&str; 2] = ["qemu-server", "lxc"];
/// Settings that name a volume, without the number that some of them have.
const VOLUMES: [&str; 10] = [
    "scsi", "virtio", "ide", "sata", "efidisk", "tpmstate", "rootfs", "mp", "unused", "vmstate",
];

/// Which numbers guests get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Import {
    /// Those that they have; one that is taken stops the join.
    Keep,
    /// Those that they have, or free ones where they are taken.
    Renumber,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its number.
    pub id: u32,
    /// The directory of its kind.
    folder: &'static str,
    conf: Vec<u8>,
    firewall: Option<Vec<u8>>,
}

/// Reads the guests of this node.
///
/// # Errors
/// When a file can not be read.
pub fn gather(host: &Host) -> Outcome<Vec<Guest>> {
    let mut guests = Vec::new();
    for folder in FOLDERS {
        let directory = host.paths.node(host.name.as_str(), folder);
        for entry in fs::read_dir(&directory).into_iter().flatten() {
            let path = entry
                .map_err(|error| failed("list", &directory, &error))?
                .path();
            let Some(id) = number_of(&path) else { continue };
            let firewall = host.paths.pve(format!("firewall/{id}.fw"));
            guests.push(Guest {
                id,
                folder,
                conf: fs::read(&path).map_err(|error| failed("read", &path, &error))?,
                firewall: files::read(&firewall)?,
            });
        }
    }
    guests.sort_by_key(|guest| guest.id);
    Ok(guests)
}

fn number_of(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    let digits = name.strip_suffix(".conf")?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| is_number)
}

/// Guests of this node that have no file in its own directory, so nothing could be carried over.
///
/// # Errors
/// When the list of guests can not be read.
pub fn elsewhere(host: &Host, guests: &[Guest]) -> Outcome<Vec<u32>> {
    let known = pve::guests(&host.paths)?.into_keys();
    Ok(known
        .filter(|id| !guests.iter().any(|guest| guest.id == *id))
        .collect())
}

/// Asks the member which numbers are taken, before anything changes.
pub(super) fn check(guests: &[Guest], import: Import, peer: &mut dyn Peer, found: &mut Faults) {
    let ids: Vec<u32> = guests.iter().map(|guest| guest.id).collect();
    let taken = match peer.taken(&ids) {
        Ok(taken) if taken.is_empty() => return,
        Ok(taken) => listed(taken),
        Err(failure) => {
            return found.warnings.push(format!(
                "it is not known which numbers of guests are taken in the cluster ({failure}); it is looked \
                 at again there, and the join is taken back if that fails"
            ));
        }
    };
    match import {
        Import::Keep => found.hard(format!(
            "numbers of guests are taken in the cluster: {taken}; '--import-guests renumber' gives these \
             guests free ones"
        )),
        Import::Renumber => found.warnings.push(format!(
            "numbers of guests are taken in the cluster: {taken}; these guests get free ones"
        )),
    }
}

/// Numbers in words.
pub(super) fn listed(ids: impl IntoIterator<Item = u32>) -> String {
    let ids: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    ids.join(", ")
}

/// Writes the guests into this node's directory in the cluster. Each file is in `made` before it is
/// written. Returns what the user has to know.
///
/// # Errors
/// When a number is taken that has to be kept, or a file can not be written.
pub(super) fn import(
    host: &Host,
    guests: &[Guest],
    import: Import,
    made: &mut Vec<PathBuf>,
) -> Outcome<Vec<String>> {
    let mut lines = Vec::new();
    // A number that is given here is none of those that another of these guests has.
    let mut used: BTreeSet<u32> = guests.iter().map(|guest| guest.id).collect();
    for guest in guests {
        let id = place(host, guest, import, &used, made)?;
        used.insert(id);
        if let Some(rules) = &guest.firewall {
            let path = host.paths.pve(format!("firewall/{id}.fw"));
            files::make_directory(&host.paths.pve("firewall"))?;
            match write_new(&path, rules, made) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    lines.push(format!("'{}' was there already, and stays", path.display()));
                }
                written => written.map_err(|error| failed("write", &path, &error))?,
            }
        }
        lines.push(if id == guest.id {
            format!("guest {id} is carried over")
        } else {
            format!(
                "guest {} is guest {id} now; its disks keep the names that they have, with {} in them: \
                 rename them before another guest {} uses the same storage",
                guest.id, guest.id, guest.id
            )
        });
    }
    let storages = files::read(&host.paths.pve("storage.cfg"))?.unwrap_or_default();
    for (storage, ids) in unknown_storages(&String::from_utf8_lossy(&storages), guests) {
        lines.push(format!(
            "storage '{storage}' of guest {} is not in the cluster's storage.cfg: add it, limited to this \
             node ('nodes {}'), before they start",
            listed(ids),
            host.name
        ));
    }
    Ok(lines)
}

/// Writes a guest's configuration under a number that is free, and returns that.
fn place(
    host: &Host,
    guest: &Guest,
    import: Import,
    used: &BTreeSet<u32>,
    made: &mut Vec<PathBuf>,
) -> Outcome<u32> {
    let directory = host.paths.node(host.name.as_str(), guest.folder);
    files::make_directory(&directory)?;
    let lower = Datacenter::read(host).map_or(100, |options| options.next_id.lower);
    let free = (lower.max(100)..1_000_000_000).filter(|id| !used.contains(id));
    let candidates = [guest.id].into_iter().chain(free);
    let count = match import {
        Import::Keep => 1,
        Import::Renumber => usize::MAX,
    };
    for id in candidates.take(count) {
        let path = directory.join(format!("{id}.conf"));
        match pve::guests(&host.paths)?.remove(&id) {
            // It came here before: by a join that was broken off, or when this node was a member. What the
            // cluster has of it is newer.
            Some(owner) if id == guest.id && owner.node == host.name.as_str() => return Ok(id),
            Some(_) => continue,
            None => {}
        }
        match write_new(&path, &guest.conf, made) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            written => {
                return written
                    .map(|()| id)
                    .map_err(|error| failed("write", &path, &error));
            }
        }
    }
    Err(Failure::failed(format!(
        "the number of guest {} is taken in the cluster: '--import-guests renumber' gives it a free one",
        guest.id
    )))
}

/// Makes a file that nobody else may have made; it is in `made` before it is there.
fn write_new(path: &Path, content: &[u8], made: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    made.push(path.to_owned());
    file.write_all(content)?;
    file.sync_all()
}

/// Removes what was written, and returns what could not be removed.
pub(super) fn remove(made: &[PathBuf]) -> Vec<String> {
    let removed = made.iter().rev().map(|path| files::remove(path));
    removed
        .filter_map(Result::err)
        .map(|failure| failure.to_string())
        .collect()
}

/// Storages that guests use and a `storage.cfg` has not, with those guests.
fn unknown_storages(storages: &str, guests: &[Guest]) -> BTreeMap<String, BTreeSet<u32>> {
    let sections = storages
        .lines()
        .filter(|line| !line.starts_with([' ', '\t', '#']));
    let names = sections.filter_map(|line| Some(line.split_once(':')?.1.trim()));
    // The one that is there without being written.
    let known: BTreeSet<&str> = names.chain(["local"]).collect();
    let mut unknown: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for guest in guests {
        let text = String::from_utf8_lossy(&guest.conf);
        for storage in text.lines().filter_map(storage_of) {
            if !known.contains(storage) {
                unknown
                    .entry(storage.to_owned())
                    .or_default()
                    .insert(guest.id);
            }
        }
    }
    unknown
}

/// The storage of a volume that a line of a guest's configuration names.
fn storage_of(line: &str) -> Option<&str> {
    let (key, value) = line.split_once(':')?;
    let kind = key.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let volume = value.trim().split(',').next()?;
    let volume = volume
        .strip_prefix("volume=")
        .or(volume.strip_prefix("file="))
        .unwrap_or(volume);
    let (storage, _) = volume.split_once(':')?;
    (VOLUMES.contains(&kind) && !storage.starts_with('/')).then_some(storage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storages_that_the_cluster_lacks_are_found() {
        let guest = |id, text: &str| Guest {
            id,
            folder: "qemu-server",
            conf: text.as_bytes().to_vec(),
            firewall: None,
        };
        let guests = [
            guest(
                100,
                "scsi0: fast:vm-100-disk-0,size=4G\nide2: none,media=cdrom\nname: a:b\n",
            ),
            guest(
                101,
                "rootfs: local:101/x.raw\nmp0: /mnt/x,mp=/x\nmp1: volume=slow:y\nscsihw: x:y\n",
            ),
            guest(102, "[snap]\nvmstate: slow:vm-102-state\nscsi1: lvm:z\n"),
        ];
        let found = unknown_storages("dir: other\n\tpath /x\n\nlvmthin: lvm\n", &guests);
        let expected = [("fast", vec![100]), ("slow", vec![101, 102])];
        let expected = expected.map(|(name, ids)| (name.to_owned(), ids.into_iter().collect()));
        assert_eq!(found, BTreeMap::from(expected));
    }

    #[test]
    fn numbers_come_from_names() {
        for (name, number) in [
            ("100.conf", Some(100)),
            ("0100.conf", None),
            ("a.conf", None),
        ] {
            assert_eq!(number_of(Path::new(name)), number, "{name}");
        }
        assert_eq!(number_of(Path::new("100.conf.tmp.7")), None);
    }
}
