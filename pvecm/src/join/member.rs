//! The member's half of letting a node in without losing quorum over it.
//!
//! From the moment at which a configuration names a node its votes are expected, and a cluster of one
//! that lets a second one in would be without quorum until that is really there, or for good if it
//! never comes. So the entry is first written with no vote at all: the node is on probation. It
//! takes part, counts for nothing, and when it has quorum, which it can only have together with the
//! others, it gets its votes. The order of the two changes then keeps quorum throughout: first the
//! running ring counts the votes (see `Machine::give_votes`), then the configuration expects them.
//!
//! | who joins | who ends the probation |
//! |---|---|
//! | this command | the joining node itself: it asks for probation, and confirms when it is there |
//! | another one | the member that let it in watches for it: [`settle`](crate::verb::addnode::settle) |
//!
//! Invariant: a node on probation has `quorum_votes: 0` written in its entry; an entry without that
//! key has one vote, as Corosync counts it.

use std::time::Duration;

use crate::conf::ClusterConf;
use crate::failure::{Failure, Outcome};
use crate::host::wait::until;
use crate::host::{Host, clusterconf, pve};

/// So long another node that was let in may be on its way.
const ON_THE_WAY: Duration = Duration::from_secs(60);

/// Votes that an entry counts for when it is written with `votes`: the original leaves out a 0, and
/// Corosync takes an entry without the key for one vote.
#[must_use]
pub fn counted(votes: u32) -> u32 {
    votes.max(1)
}

/// Whether a node is on probation.
#[must_use]
pub fn is_on_probation(conf: &ClusterConf, name: &str) -> bool {
    conf.node(name).is_some_and(|node| node.votes == 0)
}

/// The nodes on probation but for `name`.
#[must_use]
pub fn on_probation(conf: &ClusterConf, name: &str) -> Vec<String> {
    let nodes = conf.nodes().into_iter();
    let others = nodes.filter(|node| node.votes == 0 && node.name != name);
    others.map(|node| node.name).collect()
}

/// Waits until the nodes on probation but for `name` are there, or `is_off`, or it takes too long. A
/// change of the configuration while they are on their way would keep them out: Corosync ends itself
/// when the ring that it comes to has a newer one than it was started with.
pub fn await_others(host: &Host, name: &str, mut is_off: impl FnMut() -> bool) {
    until(ON_THE_WAY, || {
        let conf = clusterconf::read(host).ok()?;
        let members = pve::members(&host.paths).ok()?;
        let others = on_probation(&conf, name);
        let all = others.iter().all(|node| members.is_online(node));
        (all || is_off()).then_some(())
    });
}

/// Ends the probation of a node: the ring counts its votes, then the configuration has them. Returns
/// the configuration's version, or nothing if there was no probation.
///
/// # Errors
/// When the lock, the ring or the configuration says no; the node is still on probation then.
pub fn confirm(
    host: &Host,
    name: &str,
    votes: u32,
    give: &dyn Fn(u32, u32) -> Outcome,
) -> Outcome<Option<u64>> {
    let _lock = clusterconf::lock(host)?;
    let mut conf = clusterconf::read(host)?;
    let Some(node) = conf.node(name).filter(|node| node.votes == 0) else {
        return Ok(None);
    };
    if let Some(id) = node.id {
        give(id, counted(votes))?;
    }
    let edited = conf.set_votes(name, votes);
    edited.map_err(Failure::failed)?;
    clusterconf::write(host, &conf.text())?;
    Ok(Some(conf.version()))
}
