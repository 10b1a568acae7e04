//! What a new configuration changes in a running daemon.
//!
//! Three kinds of difference: what applies to the running ring, what needs a restart (it is named,
//! and the running value stays in force), and what must not happen at all, because it is invalid
//! or would cut this node off. Nothing is applied here.
//!
//! Invariant: [`ReloadPlan::config`] is a valid configuration whose restart-only settings are those
//! of the running one, so applying it leaves nothing half done.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::error::ConfigError;
use super::host::Host;
use super::keys::{Entry, Keys};
use super::model::{Config, Node};

/// What a reload does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadPlan {
    /// What is in force afterwards.
    pub config: Config,
    /// What is to be done, in this order.
    pub changes: Vec<Change>,
    /// What is not done.
    pub refused: Vec<Refused>,
}

/// One thing to be done in the running daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A link that was not there; its addresses are in the configuration.
    LinkAdded(u8),
    /// A node that was not there.
    NodeAdded(u32),
    /// A node has another address on a link that stays.
    AddressChanged {
        /// The node.
        node: u32,
        /// The link.
        link: u8,
        /// Its address so far.
        from: IpAddr,
        /// Its address from now on.
        to: IpAddr,
    },
    /// A node that is not there any more.
    NodeRemoved(u32),
    /// A link that is not there any more.
    LinkRemoved(u8),
    /// Priority or ping timers of a link.
    LinkSettings(u8),
    /// Timers or counters of the ring.
    Timers,
    /// MTU, compression or the filter of the transport.
    TransportSettings,
    /// Cipher, hash or key.
    Crypto,
    /// Votes or expected votes, of whomever, or the device.
    Quorum,
    /// Who may use the local services.
    Access,
    /// Where messages of the daemon go.
    Logging,
    /// The version alone, or keys that other programs read.
    Keys,
}

/// A setting that can not be changed while the daemon runs. The running value stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{key} can not be changed at run time: {} stays in force, restart to get {}",
    shown(running),
    shown(wanted)
)]
pub struct Refused {
    /// Its key.
    pub key: String,
    /// In force.
    pub running: Option<String>,
    /// In the new file.
    pub wanted: Option<String>,
}

/// Why a whole reload is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutOff {
    /// It could not be started with.
    #[error("{0}")]
    Invalid(#[from] ConfigError),
    /// This node is not in the list.
    #[error(
        "node {node} is not in the new nodelist: this node would be cut off; to remove it, stop its daemon and reload on another node"
    )]
    NotListed {
        /// This node.
        node: u32,
    },
    /// This node has another number.
    #[error(
        "nodeid {running} of this node would become {wanted}: that needs a restart of the daemon"
    )]
    OtherNodeId {
        /// In force.
        running: u32,
        /// In the new file.
        wanted: u32,
    },
    /// None of the links stays as it is.
    #[error(
        "no link of this node keeps its address: it would be cut off meanwhile; change one link at a time"
    )]
    NoLinkLeft,
}

fn shown(value: &Option<String>) -> String {
    value
        .as_ref()
        .map_or_else(|| "the default".to_owned(), |value| format!("'{value}'"))
}

/// Compares a running configuration with the keys of a new file.
///
/// # Errors
/// When nothing of the new file can be applied; the running configuration stays as it is.
pub fn plan(running: &Config, wanted: Keys, host: &dyn Host) -> Result<ReloadPlan, CutOff> {
    let mut keys = wanted;
    let refused = keep_restart_only(&running.keys, &mut keys);
    let config = match Config::from_keys(keys.clone(), host) {
        Ok(config) => config,
        // A list without this node has no local node, which says less than we know.
        Err(error) => return Err(not_listed(running, &keys).unwrap_or(CutOff::Invalid(error))),
    };
    check_connected(running, &config)?;
    let changes = changes(running, &config);
    Ok(ReloadPlan {
        config,
        changes,
        refused,
    })
}

/// Read once at the start.
const RESTART_ONLY: &[&str] = &[
    "totem.version",
    "totem.ip_version",
    "totem.netmtu",
    "totem.transport",
    "totem.cluster_name",
    "totem.link_mode",
    "totem.clear_node_high_bit",
    "quorum.provider",
    "quorum.wait_for_all",
    "quorum.auto_tie_breaker",
    "quorum.auto_tie_breaker_node",
    "quorum.last_man_standing",
    "quorum.last_man_standing_window",
    "quorum.allow_downscale",
    "quorum.expected_votes_tracking",
    "system.qb_ipc_type",
    "system.sched_rr",
    "system.priority",
    "system.move_to_root_cgroup",
    "system.allow_knet_handle_fallback",
    "system.state_dir",
];
/// Of a link, while it exists.
const RESTART_ONLY_OF_LINK: &[&str] = &[
    "mcastport",
    "mcastaddr",
    "broadcast",
    "ttl",
    "bindnetaddr",
    "knet_transport",
];

fn keep_restart_only(running: &Keys, wanted: &mut Keys) -> Vec<Refused> {
    let stays = |keys: &Keys, link: u8| {
        let end = format!(".ring{link}_addr");
        keys.with_prefix("nodelist.node.")
            .any(|(key, _)| key.ends_with(&end))
    };
    let links =
        (0..=super::model::LINK_MAX).filter(|link| stays(running, *link) && stays(wanted, *link));
    let of_links: Vec<String> = links
        .flat_map(|link| {
            RESTART_ONLY_OF_LINK
                .iter()
                .map(move |key| format!("totem.interface.{link}.{key}"))
        })
        .collect();
    let all = RESTART_ONLY
        .iter()
        .copied()
        .chain(of_links.iter().map(String::as_str));
    let value = |entry: Option<&Entry>| entry.map(|entry| entry.value.to_text());
    let mut refused = Vec::new();
    for key in all {
        let (old, new) = (value(running.entry(key)), value(wanted.entry(key)));
        if old != new {
            wanted.put(key, running.entry(key));
            refused.push(Refused {
                key: key.to_owned(),
                running: old,
                wanted: new,
            });
        }
    }
    refused
}

fn not_listed(running: &Config, keys: &Keys) -> Option<CutOff> {
    let own = running.local_node()?;
    let id = |key: &str| key.ends_with(".nodeid");
    let mut ids = keys
        .with_prefix("nodelist.node.")
        .filter(|(key, _)| id(key));
    let name = |key: &str| own.name.as_deref() == keys.text(key);
    let mut names = keys.with_prefix("nodelist.node.").map(|(key, _)| key);
    let listed = ids.any(|(key, _)| keys.number(key) == Some(own.id))
        || names.any(|key| key.ends_with(".name") && name(key));
    (!listed).then_some(CutOff::NotListed { node: own.id })
}

fn check_connected(running: &Config, config: &Config) -> Result<(), CutOff> {
    let Some(old) = running.local_node() else {
        return Ok(());
    };
    let Some(new) = config.local_node() else {
        return Err(CutOff::NotListed { node: old.id });
    };
    if old.id != new.id {
        return Err(CutOff::OtherNodeId {
            running: old.id,
            wanted: new.id,
        });
    }
    let kept = |(link, address): (&u8, &IpAddr)| new.addresses.get(link) == Some(address);
    if !old.addresses.iter().any(kept) {
        return Err(CutOff::NoLinkLeft);
    }
    Ok(())
}

fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = ring_changes(old, new);
    let both = old
        .links
        .iter()
        .filter_map(|(n, link)| Some((n, link, new.links.get(n)?)));
    let changed = both.filter(|(_, old, new)| old != new);
    changes.extend(changed.map(|(number, ..)| Change::LinkSettings(*number)));
    let (before, after) = (&old.totem, &new.totem);
    let transport = |totem: &super::model::Totem| {
        let switch = totem.switches.block_unlisted_ips;
        (
            totem.knet_mtu,
            totem.knet_pmtud_interval_s,
            totem.compression.clone(),
            switch,
        )
    };
    let votes = |config: &Config| -> Vec<(u32, u32)> {
        config
            .nodes
            .iter()
            .map(|node| (node.id, node.votes))
            .collect()
    };
    let cancel = |config: &Config| config.totem.switches.cancel_token_hold_on_retransmit;
    let list = [
        (
            before.timers != after.timers || cancel(old) != cancel(new),
            Change::Timers,
        ),
        (
            transport(before) != transport(after),
            Change::TransportSettings,
        ),
        (before.crypto != after.crypto, Change::Crypto),
        (
            old.quorum != new.quorum || votes(old) != votes(new),
            Change::Quorum,
        ),
        (differs(old, new, "uidgid."), Change::Access),
        (differs(old, new, "logging."), Change::Logging),
    ];
    changes.extend(
        list.into_iter()
            .filter(|(is, _)| *is)
            .map(|(_, change)| change),
    );
    if changes.is_empty() && differs(old, new, "") {
        changes.push(Change::Keys);
    }
    changes
}

/// First what is new, then what moves, then what goes: a path stays open all the time.
fn ring_changes(old: &Config, new: &Config) -> Vec<Change> {
    let links = |config: &Config| config.links.keys().copied().collect::<BTreeSet<_>>();
    let ids = |config: &Config| {
        config
            .nodes
            .iter()
            .map(|node| node.id)
            .collect::<BTreeSet<_>>()
    };
    let (old_links, new_links) = (links(old), links(new));
    let (old_ids, new_ids) = (ids(old), ids(new));
    let mut changes: Vec<_> = new_links
        .difference(&old_links)
        .map(|link| Change::LinkAdded(*link))
        .collect();
    changes.extend(
        new_ids
            .difference(&old_ids)
            .map(|id| Change::NodeAdded(*id)),
    );
    for node in &new.nodes {
        let before = old.nodes.iter().find(|other| other.id == node.id);
        changes.extend(before.into_iter().flat_map(|before| moved(before, node)));
    }
    changes.extend(
        old_ids
            .difference(&new_ids)
            .map(|id| Change::NodeRemoved(*id)),
    );
    changes.extend(
        old_links
            .difference(&new_links)
            .map(|link| Change::LinkRemoved(*link)),
    );
    changes
}

fn moved(old: &Node, new: &Node) -> Vec<Change> {
    let both = old.addresses.iter().filter_map(|(link, from)| {
        let to = new.addresses.get(link)?;
        Some((*link, *from, *to))
    });
    let node = new.id;
    both.filter(|(_, from, to)| from != to)
        .map(|(link, from, to)| Change::AddressChanged {
            node,
            link,
            from,
            to,
        })
        .collect()
}

fn differs(old: &Config, new: &Config, prefix: &str) -> bool {
    let values = |config: &Config| -> Vec<_> {
        let entries = config.keys.with_prefix(prefix);
        entries
            .map(|(key, entry)| (key.to_owned(), entry.value.clone()))
            .collect()
    };
    values(old) != values(new)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
