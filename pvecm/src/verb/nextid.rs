//! The next number that a guest can have.
//!
//! Looking does not take it: two who look at the same time see the same number. With `--reserve`
//! it is theirs alone, as a lock of the cluster (`priv/lock/vmid-NUMBER`) that frees itself when it is
//! two minutes old and somebody asks for it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use super::change::{need_root, show_plan};
use super::show;
use crate::cli::{Format, Nextid};
use crate::datacenter::{Datacenter, NextId};
use crate::failure::{Failure, Outcome};
use crate::host::pve::{self, Guest};
use crate::host::{Host, ask_for_release, files};

/// Shows the number.
///
/// # Errors
/// When it is not free, none is free, or it can not be reserved.
pub fn run(host: &Host, args: &Nextid) -> Outcome {
    need_root()?;
    if args.dry_run {
        pve::need_quorum(&host.paths)?;
        let number = find(host, args.vmid)?;
        if is_reserved(host, number) {
            return Err(reserved(number));
        }
        return show_plan(&[format!("reserve {number}")]);
    }
    let number = if args.reserve {
        reserve(host, args.vmid)?
    } else {
        find(host, args.vmid)?
    };
    match args.output_format {
        Format::Text | Format::Json => show(&format!("{number}\n")),
    }
}

/// The lowest free number of the range in `datacenter.cfg`, or `wanted` if that is free.
///
/// # Errors
/// When there is none.
pub fn find(host: &Host, wanted: Option<u32>) -> Outcome<u32> {
    pve::need_mount(&host.paths)?;
    let guests = pve::guests(&host.paths)?;
    if let Some(number) = wanted {
        return check(host, &guests, number).map(|()| number);
    }
    let range = range(host)?;
    candidates(&guests, range)
        .find(|number| !is_reserved(host, *number))
        .ok_or_else(|| none_free(range))
}

/// The same, and nobody else who reserves gets that number for two minutes.
fn reserve(host: &Host, wanted: Option<u32>) -> Outcome<u32> {
    pve::need_quorum(&host.paths)?;
    let guests = pve::guests(&host.paths)?;
    files::make_directory(&host.paths.pve("priv/lock"))?;
    free_old_reservations(host, &guests);
    if let Some(number) = wanted {
        check(host, &guests, number)?;
        if take(host, number)? {
            return Ok(number);
        }
        return Err(reserved(number));
    }
    let range = range(host)?;
    for number in candidates(&guests, range) {
        if take(host, number)? {
            return Ok(number);
        }
    }
    Err(none_free(range))
}

fn range(host: &Host) -> Outcome<NextId> {
    let options = Datacenter::read(host)?;
    options.show_warnings();
    Ok(options.next_id)
}

fn check(host: &Host, guests: &BTreeMap<u32, Guest>, number: u32) -> Outcome {
    match guests.get(&number) {
        Some(guest) => Err(Failure::refused(format!(
            "vmid: {}",
            taken(host, number, guest)
        ))),
        None => Ok(()),
    }
}

/// Says whose a number is, after the words of the original.
#[must_use]
pub fn taken(host: &Host, number: u32, guest: &Guest) -> String {
    let whose = guest.described(&host.paths, number);
    format!("VM {number} already exists ({whose})")
}

fn candidates(guests: &BTreeMap<u32, Guest>, range: NextId) -> impl Iterator<Item = u32> {
    (range.lower..range.upper).filter(|number| !guests.contains_key(number))
}

fn reserved(number: u32) -> Failure {
    Failure::refused(format!(
        "vmid: VM {number} is reserved by somebody who is about to make it; it is free again \
         two minutes after that, if nothing comes of it"
    ))
}

fn none_free(NextId { lower, upper }: NextId) -> Failure {
    Failure::refused(format!(
        "unable to get any free VMID in range [{lower}, {upper}]"
    ))
}

fn reservation(host: &Host, number: u32) -> PathBuf {
    host.paths.pve(format!("priv/lock/vmid-{number}"))
}

fn is_reserved(host: &Host, number: u32) -> bool {
    let path = reservation(host, number);
    if !path.exists() {
        return false;
    }
    // An old one goes with this; whoever looks has no other use for the answer.
    drop(ask_for_release(&path));
    path.exists()
}

/// Reserves a number unless somebody else has, or has made that guest meanwhile.
fn take(host: &Host, number: u32) -> Outcome<bool> {
    let path = reservation(host, number);
    match fs::create_dir(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(files::failed("reserve a number with", &path, &error)),
    }
    let free = !pve::guests(&host.paths)?.contains_key(&number);
    if !free {
        drop(fs::remove_dir(&path));
    }
    Ok(free)
}

/// Removes reservations of numbers that have a guest, and asks for the release of the others.
fn free_old_reservations(host: &Host, guests: &BTreeMap<u32, Guest>) {
    let Ok(locks) = fs::read_dir(host.paths.pve("priv/lock")) else {
        return;
    };
    for lock in locks.flatten() {
        let name = lock.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("vmid-"));
        let Some(number) = number.and_then(|number| number.parse().ok()) else {
            continue;
        };
        // What does not go now goes the next time.
        if guests.contains_key(&number) {
            drop(fs::remove_dir(lock.path()));
        } else {
            drop(ask_for_release(&lock.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::code;
    use crate::host::Paths;

    struct Node {
        _root: tempfile::TempDir,
        host: Host,
    }

    impl Node {
        fn new(guests: &[u32], datacenter: &str) -> Self {
            let root = tempfile::tempdir().unwrap();
            let host = Host {
                paths: Paths::below(root.path()),
                name: "n1".parse().unwrap(),
            };
            fs::create_dir_all(host.paths.pve("")).unwrap();
            std::os::unix::fs::symlink("nodes/n1", host.paths.pve("local")).unwrap();
            fs::write(host.paths.pve("datacenter.cfg"), datacenter).unwrap();
            let node = Self { _root: root, host };
            node.set_guests(guests);
            node
        }

        fn set_guests(&self, guests: &[u32]) {
            let ids: Vec<String> = guests
                .iter()
                .map(|id| {
                    format!("\"{id}\": {{\"node\": \"n1\", \"type\": \"qemu\", \"version\": 1}}")
                })
                .collect();
            let list = format!("{{\"version\": 1, \"ids\": {{{}}}}}", ids.join(","));
            fs::write(self.host.paths.pve(".vmlist"), list).unwrap();
        }
    }

    #[test]
    fn the_lowest_free_number_of_the_range_is_found() {
        let find = |guests: &[u32], options: &str| find(&Node::new(guests, options).host, None);
        assert_eq!(find(&[], ""), Ok(100));
        assert_eq!(find(&[100, 101, 103], ""), Ok(102));
        assert_eq!(find(&[200], "next-id: lower=200,upper=300"), Ok(201));
        let full = find(&[5, 6], "next-id: lower=5,upper=7").unwrap_err();
        assert_eq!(
            (full.code(), full.to_string().as_str()),
            (code::REFUSED, "unable to get any free VMID in range [5, 7]")
        );
        assert!(find(&[], "next-id: lower=5,upper=5").is_err());
    }

    #[test]
    fn a_wanted_number_is_checked_whatever_the_range() {
        let node = Node::new(&[100], "next-id: lower=200,upper=300");
        let conf = node.host.paths.node("n1", "qemu-server/100.conf");
        fs::create_dir_all(conf.parent().unwrap()).unwrap();
        fs::write(&conf, "cores: 1\nname: web\n[old]\nname: other\n").unwrap();
        assert_eq!(find(&node.host, Some(101)), Ok(101));
        let taken = find(&node.host, Some(100)).unwrap_err();
        let wanted = "vmid: VM 100 already exists (qemu 'web' on node 'n1')";
        assert_eq!(taken.to_string(), wanted);
        fs::write(&conf, "cores: 1\n[old]\nname: other\n").unwrap();
        let taken = reserve(&node.host, Some(100)).unwrap_err();
        let wanted = "vmid: VM 100 already exists (qemu on node 'n1')";
        assert_eq!(taken.to_string(), wanted);
    }

    #[test]
    fn reserved_numbers_are_given_to_one_alone() {
        let node = Node::new(&[101], "");
        assert_eq!(reserve(&node.host, None), Ok(100));
        assert_eq!(reserve(&node.host, None), Ok(102));
        assert_eq!(find(&node.host, None), Ok(103));
        let taken = reserve(&node.host, Some(102)).unwrap_err();
        assert!(taken.to_string().contains("VM 102 is reserved"), "{taken}");
        assert_eq!(reserve(&node.host, Some(500)), Ok(500));
    }

    #[test]
    fn a_reservation_goes_once_the_guest_is_there() {
        let node = Node::new(&[], "");
        assert_eq!(reserve(&node.host, None), Ok(100));
        node.set_guests(&[100]);
        assert_eq!(reserve(&node.host, None), Ok(101));
        assert!(!reservation(&node.host, 100).exists());
        assert!(reservation(&node.host, 101).exists());
    }

    #[test]
    fn without_the_mount_there_is_no_answer() {
        let node = Node::new(&[], "");
        fs::remove_file(node.host.paths.pve("local")).unwrap();
        assert_eq!(find(&node.host, None).unwrap_err().code(), code::REFUSED);
        assert!(reserve(&node.host, None).is_err());
    }
}
