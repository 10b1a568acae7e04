//! Guests that a joining node brings along.
//!
//! Joining replaces the node's files by the cluster's, guests included. Those that are to be carried
//! over are read before, and written into the node's directory when it is there. The numbers of
//! guests are unique in a cluster: one that another guest has stops the join. No guest gets another
//! number, as disks carry the number of their guest: a second one of that number would take them for
//! its own.
//!
//! What is carried over are configurations and firewall rules. Disks stay where they are, under the
//! names that they have, and storages have to be known to the cluster under the same names.
//!
//! Invariant: a guest whose configuration the cluster has below this node's directory already, as it
//! is here, is carried over already; so an import that was broken off can be done again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::checks::Faults;
use super::peer::{Holder, Peer, Taken};
use crate::failure::{Failure, Outcome};
use crate::host::files::{self, failed};
use crate::host::{Host, pve};

/// Directories of guests in that of a node.
const FOLDERS: [&str; 2] = ["qemu-server", "lxc"];
/// What helps against a number that another guest has.
const FREE: &str = "guests get no other number when they are carried over, as their disks carry it: back up one of \
                    the two, and restore it under a free number";
/// Settings that name a volume, without the number that some of them have.
const VOLUMES: [&str; 10] = [
    "scsi", "virtio", "ide", "sata", "efidisk", "tpmstate", "rootfs", "mp", "unused", "vmstate",
];

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

/// Looks whether the guests can be carried over, before anything changes.
pub(super) fn check(guests: &[Guest], own: &str, peer: &mut dyn Peer, found: &mut Faults) {
    if guests.is_empty() {
        return;
    }
    let ids: Vec<u32> = guests.iter().map(|guest| guest.id).collect();
    let taken = match peer.taken(&ids) {
        Ok(taken) => taken,
        Err(failure) => {
            return found.soft(format!(
                "it is not known which numbers of guests are taken in the cluster ({failure}); with --force it \
                 is looked at there, and the join is taken back if one is"
            ));
        }
    };
    let unknown: Vec<String> = taken
        .iter()
        .filter_map(|(id, taken)| match taken {
            Taken::By(_) => None,
            Taken::Told(whose) if whose.is_empty() => Some(id.to_string()),
            Taken::Told(whose) => Some(format!("{id} ({whose})")),
        })
        .collect();
    if !unknown.is_empty() {
        found.soft(format!(
            "numbers of guests are taken in the cluster: {}; {FREE}. If these are the same guests, of this \
             node, '--use_ssh' sees that; with --force it is looked at there, and the join is taken back if \
             they are not",
            unknown.join(", ")
        ));
    }
    for guest in guests {
        if let Some(Taken::By(holder)) = taken.get(&guest.id)
            && !guest.is(holder, own)
        {
            let name = pve::name_of_guest(&holder.conf);
            found.hard(guest.other(own, &holder.node, &holder.folder, name.as_deref()));
        }
    }
}

impl Guest {
    /// Whether it is what the cluster has under its number.
    fn is(&self, holder: &Holder, own: &str) -> bool {
        holder.node == own && holder.folder == self.folder && holder.conf == self.conf
    }

    /// Says that the cluster has another guest of its number.
    fn other(&self, own: &str, node: &str, folder: &str, name: Option<&str>) -> String {
        let (id, here) = (self.id, self.folder);
        let name = name.map_or_else(String::new, |name| format!(" ('{name}')"));
        format!(
            "'nodes/{own}/{here}/{id}.conf' of this node is not what the cluster has as \
             'nodes/{node}/{folder}/{id}.conf'{name}: one number, two guests; {FREE}"
        )
    }
}

/// The guests as they are now. Those that were looked at may have changed, but there must be no others.
///
/// # Errors
/// When there are, or a file can not be read.
pub(super) fn again(host: &Host, seen: &[Guest]) -> Outcome<Vec<Guest>> {
    let now = gather(host)?;
    let is_new = |guest: &&Guest| {
        let mut seen = seen.iter();
        !seen.any(|seen| seen.id == guest.id && seen.folder == guest.folder)
    };
    let new: Vec<u32> = now.iter().filter(is_new).map(|guest| guest.id).collect();
    if new.is_empty() {
        return Ok(now);
    }
    Err(Failure::failed(format!(
        "guests were made on this node after the checks: {}; join again",
        listed(new)
    )))
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
/// When a number is taken, or a file can not be written.
pub(super) fn import(
    host: &Host,
    guests: &[Guest],
    made: &mut Vec<PathBuf>,
) -> Outcome<Vec<String>> {
    let mut lines = Vec::new();
    for guest in guests {
        let id = guest.id;
        let is_new = place(host, guest, made)?;
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
        lines.push(if is_new {
            format!("guest {id} is carried over")
        } else {
            format!("guest {id} was carried over before")
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

/// Writes a guest's configuration; whether it was not there.
fn place(host: &Host, guest: &Guest, made: &mut Vec<PathBuf>) -> Outcome<bool> {
    let own = host.name.as_str();
    let other = |node: &str, folder: &str| {
        let path = host.paths.node(node, format!("{folder}/{}.conf", guest.id));
        let conf = files::read(&path).ok().flatten();
        let name = conf.and_then(|conf| pve::name_of_guest(&conf));
        let text = guest.other(own, node, folder, name.as_deref());
        Err(Failure::failed(text))
    };
    if let Some(owner) = pve::guests(&host.paths)?.get(&guest.id) {
        let folder = owner.folder();
        if owner.node != own || folder != guest.folder {
            return other(&owner.node, folder);
        }
    }
    let directory = host.paths.node(own, guest.folder);
    files::make_directory(&directory)?;
    let path = directory.join(format!("{}.conf", guest.id));
    match write_new(&path, &guest.conf, made) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        written => {
            let written = written.map(|()| true);
            return written.map_err(|error| failed("write", &path, &error));
        }
    }
    match files::read(&path)? {
        Some(there) if there == guest.conf => Ok(false),
        _ => other(own, guest.folder),
    }
}

/// Makes a file that nobody else may have made; it is in `made` before it is there.
fn write_new(path: &Path, content: &[u8], made: &mut Vec<PathBuf>) -> io::Result<()> {
    made.push(path.to_owned());
    let opened = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = opened.inspect_err(|_| {
        // It is not this command's, or not there.
        made.pop();
    })?;
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
