//! A new cluster, with this node as its first.

use std::collections::BTreeMap;
use std::net::IpAddr;

use corosync_lite::config::IpVersion;

use super::change::{self, need_root, show_plan, undone_on_failure};
use super::link::addresses_here;
use super::machine::{Machine, ThisMachine, wait_for_writable};
use super::{task, updatecerts};
use crate::cli::Create;
use crate::conf::{self, ClusterConf, FirstNode};
use crate::doctor;
use crate::failure::{Failure, Outcome};
use crate::host::files::{KEY, PUBLIC, failed};
use crate::host::pve;
use crate::host::services::{FILE_SYSTEM, MESSAGING, Verb};
use crate::host::{Host, clusterconf, resolve, ring};
use crate::tell::announce;
use crate::transaction::Transaction;
use crate::value::Link;

/// The database, and what its library keeps beside it.
pub(super) const DATABASE: [&str; 3] = ["config.db", "config.db-wal", "config.db-shm"];

/// Makes a cluster.
///
/// # Errors
/// When a check says no, or a step fails; this node is then as it was before.
pub fn run(host: &Host, args: &Create) -> Outcome {
    need_root()?;
    if args.dry_run {
        let text = check(host, args)?;
        change::foresee(host);
        return show_plan(&plan(host, &text));
    }
    // As in the original all but this has a log.
    refuse_second(host)?;
    let name = args.clustername.to_string();
    let machine = ThisMachine::watched()?;
    task::logged(host, "clustercreate", &name, || {
        check(host, args)?;
        let _lock = change::begin(host)?;
        // Another command may have been faster.
        let text = check(host, args)?;
        let command = format!("pvecm create {name}");
        let work = |transaction: &mut Transaction| make(host, &machine, &text, transaction);
        undone_on_failure(host, &machine, &command, work)
    })
}

/// Checks everything that can be checked before something changes, and returns the configuration.
fn check(host: &Host, args: &Create) -> Outcome<String> {
    refuse_second(host)?;
    if ring::is_running() {
        return Err(Failure::refused(
            "corosync is already running, is this node already in a cluster?! If not, end it with \
             'systemctl stop corosync'",
        ));
    }
    pve::need_quorum(&host.paths)?;
    let own = host.address()?;
    let mut links = args.links.given();
    if links.is_empty() {
        let address = own.to_string();
        links.insert(
            0,
            Link {
                address,
                priority: None,
            },
        );
    }
    let links = own_links(links, &addresses_here()?)?;
    if !args.allow_storage_network {
        let at = links.values().filter_map(|link| link.address.parse().ok());
        doctor::refuse_storage_network(host, &at.collect::<Vec<_>>())?;
    }
    let node = FirstNode {
        name: host.name.clone(),
        id: args.nodeid,
        votes: args.votes,
        links,
    };
    let text = conf::create(&args.clustername, &node, args.token_coefficient);
    match args.two_node {
        true => with_two_node(&text),
        false => Ok(text),
    }
}

/// A node is in one cluster.
fn refuse_second(host: &Host) -> Outcome {
    pve::need_mount(&host.paths)?;
    let conf = host.paths.cluster_conf();
    if conf.exists() {
        return Err(Failure::refused(format!(
            "cluster config '{}' already exists",
            conf.display()
        )));
    }
    Ok(())
}

fn with_two_node(text: &str) -> Outcome<String> {
    let mut conf = ClusterConf::parse(text.as_bytes()).map_err(Failure::failed)?;
    conf.set_two_node(true);
    Ok(String::from_utf8_lossy(&conf.text()).into_owned())
}

/// Links of this node: addresses that it has, host names replaced by what they stand for.
fn own_links(links: BTreeMap<u8, Link>, local: &[IpAddr]) -> Outcome<BTreeMap<u8, Link>> {
    let mut faults = Vec::new();
    let mut seen: BTreeMap<IpAddr, u8> = BTreeMap::new();
    let mut resolved = BTreeMap::new();
    for (number, link) in links {
        let found = resolve(&link.address).unwrap_or_default();
        let Some(ip) = IpVersion::V4Then6.choose(&found) else {
            faults.push(format!("link{number}: '{}' does not resolve", link.address));
            continue;
        };
        if ip.is_loopback() {
            faults.push(format!(
                "link{number}: '{ip}' is this node for itself alone, no other node would reach it: give an \
                 address of a network"
            ));
        } else if !local.contains(&ip) {
            faults.push(format!(
                "link{number}: cannot use IP '{ip}', not found on local node!"
            ));
        }
        if let Some(other) = seen.insert(ip, number) {
            faults.push(format!("link{number}: '{ip}' is that of link{other} too"));
        }
        let address = ip.to_string();
        resolved.insert(number, Link { address, ..link });
    }
    if faults.is_empty() {
        Ok(resolved)
    } else {
        Err(Failure::refused(faults.join("\n")))
    }
}

/// Makes a cluster of this node. What the steps write into the cluster file system goes with its
/// database.
pub(super) fn make(
    host: &Host,
    machine: &dyn Machine,
    text: &str,
    transaction: &mut Transaction,
) -> Outcome {
    let paths = &host.paths;
    let control = |verb: &str, units: &[&str]| machine.control(verb, units);
    machine.step()?;
    transaction.services_with(&control, Verb::Stop, &[FILE_SYSTEM], Verb::Start)?;
    for file in DATABASE {
        transaction.save(&paths.database(file))?;
    }
    machine.step()?;
    transaction.services_with(&control, Verb::Start, &[FILE_SYSTEM], Verb::Stop)?;
    wait_for_writable(host, machine)?;
    machine.prepare(host, transaction)?;
    machine.step()?;
    let key = paths.corosync("authkey");
    transaction.make_directory(&paths.corosync(""))?;
    transaction.save(&key)?;
    if !key.exists() {
        super::keygen::write(&key)?;
    }
    protect(&key)?;
    machine.step()?;
    let conf = paths.cluster_conf();
    announce(&format!("Writing corosync config to {}", conf.display()));
    // The file system of a node that is alone does not write this one.
    transaction.replace(&paths.corosync("corosync.conf"), text.as_bytes(), PUBLIC)?;
    machine.step()?;
    clusterconf::write(host, text.as_bytes())?;
    machine.step()?;
    for file in updatecerts::own_files(paths) {
        transaction.save(&file)?;
    }
    machine.cluster_files(host)?;
    machine.step()?;
    announce("Restart corosync and cluster filesystem");
    let units = [MESSAGING, FILE_SYSTEM];
    transaction.services_with(&control, Verb::Restart, &units, Verb::Stop)?;
    wait_for_writable(host, machine)?;
    match pve::members(paths)?.cluster {
        Some(cluster) if cluster.quorate == 1 => Ok(()),
        _ => Err(Failure::failed(
            "the cluster file system runs, but not in the new cluster: see 'journalctl -u pve-cluster'",
        )),
    }
}

fn protect(key: &std::path::Path) -> Outcome {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::Permissions::from_mode(KEY);
    std::fs::set_permissions(key, mode).map_err(|error| failed("protect", key, &error))
}

fn plan(host: &Host, text: &str) -> Vec<String> {
    let paths = &host.paths;
    let mut steps = vec!["prepare SSH, certificates and keys of this node".to_owned()];
    let key = paths.corosync("authkey");
    if !key.exists() {
        steps.push(format!("make the key '{}'", key.display()));
    }
    steps.push(format!(
        "write '{}' and '{}':\n{text}",
        paths.cluster_conf().display(),
        paths.corosync("corosync.conf").display()
    ));
    steps.push(format!("restart {MESSAGING} and {FILE_SYSTEM}"));
    steps
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::cli::{self, Command};
    use crate::host::test_node::test_node;

    /// What is there already is told before what is wrong with the call.
    #[test]
    fn a_cluster_is_refused_by_checks_in_order() {
        let (_directory, host) = test_node("n1", &["etc/pve"]);
        let line = ["create", "lab", "--link0", "192.0.2.1"].map(str::to_owned);
        let Ok(parsed) = cli::parse(&line) else {
            panic!()
        };
        let Command::Create(args) = parsed.cli.command else {
            panic!()
        };
        let complaint = || check(&host, &args).unwrap_err().to_string();
        fs::write(host.paths.cluster_conf(), "").unwrap();
        assert!(complaint().contains("not mounted"), "{}", complaint());
        symlink("nodes/n1", host.paths.pve("local")).unwrap();
        assert!(complaint().contains("already exists"), "{}", complaint());
    }

    #[test]
    fn links_are_addresses_that_others_reach() {
        let local: Vec<IpAddr> = ["127.0.0.1", "::1", "10.0.0.1"]
            .map(|text| text.parse().unwrap())
            .into();
        let own = |address: &str| {
            let link: Link = address.parse().unwrap();
            own_links([(0, link)].into(), &local)
        };
        assert_eq!(own("10.0.0.1").unwrap()[&0].address, "10.0.0.1");
        for (address, why) in [
            ("127.0.0.1", "no other node would reach it"),
            ("::1", "no other node would reach it"),
            ("10.0.0.2", "not found on local node!"),
        ] {
            let failure = own(address).unwrap_err();
            assert!(failure.to_string().contains(why), "{failure}");
        }
    }
}
