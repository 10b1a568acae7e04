//! The least that lets a node in and out, until the commands of that name are there.

use std::net::IpAddr;

use crate::cli::{Addnode, Delnode};
use crate::conf::{ClusterConf, Joiner, Resolve, verify};
use crate::failure::{Failure, Outcome};
use crate::host::files::{self, PUBLIC};
use crate::host::lock::{ClusterLock, NodeLock};
use crate::host::{Host, pve, resolve};
use crate::serve::Admitted;

struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: &str) -> Vec<IpAddr> {
        resolve(name).unwrap_or_default()
    }
}

pub(super) fn admit(host: &Host, args: &Addnode) -> Outcome<Admitted> {
    pve::need_quorum(&host.paths)?;
    let _node = NodeLock::take(&host.paths.at("var/lock/pvecm.lock"))?;
    let _cluster = ClusterLock::take(&host.paths.pve("priv/lock"), "file-corosync_conf")?;
    let mut conf = read(host)?;
    let warnings = verify(&conf, &Resolver).warnings;
    let joiner = Joiner {
        name: args.node.clone(),
        id: args.nodeid,
        votes: args.votes,
        links: ClusterConf::addresses(&args.links.given()),
        fallback: args.new_node_ip,
        api_version: args.apiversion,
        force: args.force,
    };
    let admission = conf.admit(&joiner).map_err(Failure::refused)?;
    conf.put_node(&args.node, admission.id, admission.votes, &admission.links);
    let key = files::read(&host.paths.corosync("authkey"))?;
    let authkey = key.ok_or_else(|| Failure::refused("there is no authkey"))?;
    files::replace(&host.paths.cluster_conf(), &conf.text(), PUBLIC)?;
    Ok(Admitted {
        authkey,
        conf: conf.text(),
        warnings,
    })
}

pub(super) fn remove(host: &Host, args: &Delnode) -> Outcome {
    if args.node == host.name {
        return Err(Failure::refused("Cannot delete myself from cluster!"));
    }
    pve::need_quorum(&host.paths)?;
    let _node = NodeLock::take(&host.paths.at("var/lock/pvecm.lock"))?;
    let _cluster = ClusterLock::take(&host.paths.pve("priv/lock"), "file-corosync_conf")?;
    let mut conf = read(host)?;
    conf.remove_node(args.node.as_str())
        .map_err(Failure::refused)?;
    files::replace(&host.paths.cluster_conf(), &conf.text(), PUBLIC)
}

fn read(host: &Host) -> Outcome<ClusterConf> {
    let text = files::read(&host.paths.cluster_conf())?;
    let text = text.ok_or_else(|| Failure::refused("this node is in no cluster"))?;
    ClusterConf::parse(&text).map_err(Failure::refused)
}
