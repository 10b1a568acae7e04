//! What a configuration must not hold, and what a joining node may bring.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{ClusterConf, NodeEntry, ring_key};
use crate::value::NodeName;

/// Largest number of a node that knet can carry.
const KNET_ID_MAX: u32 = 65535;

/// Host names to addresses, in order of preference.
pub trait Resolve {
    /// All addresses of a name; an address stands for itself.
    fn resolve(&self, name: &str) -> Vec<IpAddr>;
}

/// What is wrong, or doubtful, in a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Nothing may be built on it.
    pub errors: Vec<String>,
    /// It works, but is asking for trouble.
    pub warnings: Vec<String>,
}

/// A node that asks to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joiner {
    /// Its name.
    pub name: NodeName,
    /// The number that it wants; the lowest free one if it does not say.
    pub id: Option<u32>,
    /// Its votes; 1 if it does not say.
    pub votes: Option<u32>,
    /// Where it is, by link.
    pub links: BTreeMap<u8, String>,
    /// Where it is if it names no link.
    pub fallback: Option<IpAddr>,
    /// Version of the join calls that it speaks.
    pub api_version: u32,
    /// Whether an entry of the same name may be replaced.
    pub force: bool,
}

/// What a node that may join gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Its number.
    pub id: u32,
    /// Its votes; 0: none are written.
    pub votes: u32,
    /// Its addresses.
    pub links: BTreeMap<u8, String>,
    /// An entry of that name is replaced.
    pub replaces: bool,
}

/// Why a node is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefused {
    /// Two nodes can not be at one address.
    #[error("corosync: address '{address}' already used on link {} by node '{node}'", ring_key(*link))]
    AddressTaken {
        /// The address.
        address: String,
        /// Where it is used.
        link: u8,
        /// By whom.
        node: String,
    },
    /// A node must be on every link.
    #[error("corosync: link {0} exists in cluster config but wasn't specified for new node")]
    LinkMissing(u8),
    /// The others are not on that link.
    #[error("corosync: link {0} specified for new node doesn't exist in cluster config")]
    LinkUnknown(u8),
    /// It has not said where it is.
    #[error("no links and no fallback ip (new_node_ip) given, cannot join cluster")]
    NoLinks,
    /// One address is not enough.
    #[error(
        "no links given but multiple links found on other nodes, fallback only supported on single-link clusters"
    )]
    FallbackNotEnough,
    /// A node of that name is a member.
    #[error("can't add existing node '{0}'")]
    NameTaken(NodeName),
    /// Another node has that number.
    #[error("node id {id} is that of node '{node}'; choose another one, or none")]
    IdTaken {
        /// The number.
        id: u32,
        /// Whose it is.
        node: String,
    },
    /// Its number does not fit into the headers of the transport.
    #[error(
        "node id {0} is too large for the transport of this cluster, knet: choose one up to {KNET_ID_MAX}, or none"
    )]
    IdTooLarge(u32),
    /// One link carries one kind of addresses.
    #[error(
        "address '{address}' can not be on link {link}, where node '{node}' is at '{other}': both must be IPv4 or \
         both IPv6"
    )]
    OtherFamily {
        /// The address.
        address: String,
        /// The link.
        link: u8,
        /// A node that is on it.
        node: String,
        /// The address of that node.
        other: String,
    },
    /// Two links with one address are one.
    #[error(
        "address '{0}' is given for two links of the new node: give each link an address of its own"
    )]
    AddressTwice(String),
    /// The votes of the device would be wrong.
    #[error("the cluster has a QDevice: remove it, add the node, and set it up again")]
    HasDevice,
}

/// Looks for what would keep the nodes from talking.
#[must_use]
pub fn verify(conf: &ClusterConf, resolver: &dyn Resolve) -> Fault {
    let mut fault = Fault::default();
    let nodes = conf.nodes();
    if nodes.is_empty() {
        fault.errors.push("no nodes found".to_owned());
    }
    if conf.document.root().named("totem").next().is_none() {
        fault.errors.push("no totem found".to_owned());
        return fault;
    }
    fault.errors.extend(uneven_links(conf, &nodes));
    let is_encrypted = conf.setting("totem", "secauth") == Some("on")
        || conf
            .setting("totem", "crypto_cipher")
            .is_some_and(|cipher| cipher != "none");
    if !is_encrypted {
        let text = "warning: authentication/encryption is not explicitly enabled (secauth / crypto_cipher / crypto_hash)";
        fault.warnings.push(text.to_owned());
    }
    for node in &nodes {
        for (link, address) in &node.addresses {
            fault
                .warnings
                .extend(doubtful(conf, *link, address, resolver));
        }
    }
    fault
}

fn uneven_links(conf: &ClusterConf, nodes: &[NodeEntry]) -> Vec<String> {
    let declared: Vec<u8> = conf.interfaces().into_keys().collect();
    let has_declared = !declared.is_empty();
    let wanted = if has_declared { declared } else { conf.links() };
    let mut errors = Vec::new();
    for node in nodes {
        let name = &node.name;
        for link in wanted
            .iter()
            .filter(|link| !node.addresses.contains_key(link))
        {
            errors.push(format!("node '{name}' is missing address for link {link}"));
        }
        for link in node.addresses.keys().filter(|link| !wanted.contains(link)) {
            let key = ring_key(*link);
            errors.push(format!(
                "node '{name}' has {key}, but there is no link {link}"
            ));
        }
    }
    errors
}

fn doubtful(conf: &ClusterConf, link: u8, address: &str, resolver: &dyn Resolve) -> Option<String> {
    let key = ring_key(link);
    match conf.ip_version().choose(&resolver.resolve(address)) {
        None => Some(format!(
            "{key}: unable to resolve '{address}' to an IP address according to corosync's resolve strategy - cluster could fail on restart!"
        )),
        Some(found) if found.to_string() != address && address.parse::<IpAddr>().is_err() => {
            Some(format!(
                "{key}: '{address}' resolves to '{found}'; consider replacing it with the currently resolved IP address for stability"
            ))
        }
        Some(_) => None,
    }
}

impl ClusterConf {
    /// Whether a node may join, and as what.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn admit(&self, joiner: &Joiner) -> Result<Admission, JoinRefused> {
        let nodes = self.nodes();
        let others = || {
            nodes
                .iter()
                .filter(|node| node.name != joiner.name.as_str())
        };
        for address in joiner.links.values() {
            let used = others().find_map(|node| {
                let mut at = node.addresses.iter();
                at.find(|(_, used)| is_same(used, address))
                    .map(|(link, _)| (*link, node))
            });
            if let Some((link, node)) = used {
                let (address, node) = (address.clone(), node.name.clone());
                return Err(JoinRefused::AddressTaken {
                    address,
                    link,
                    node,
                });
            }
        }
        different(&joiner.links)?;
        let links = self.links_of(joiner, others().next().is_some())?;
        others().try_for_each(|node| same_families(&links, node))?;
        let votes = joiner.votes.unwrap_or(super::VOTES);
        let known = self.node(joiner.name.as_str());
        if let Some(known) = known {
            let same = joiner.id.is_none_or(|id| known.id == Some(id))
                // No votes at all: it has never come up since it was let in.
                && joiner
                    .votes
                    .is_none_or(|votes| known.votes == votes || known.votes == 0);
            return match known.id {
                Some(id) if joiner.force && same => Ok(Admission {
                    id,
                    votes: joiner.votes.unwrap_or(known.votes),
                    links,
                    replaces: true,
                }),
                _ => Err(JoinRefused::NameTaken(joiner.name.clone())),
            };
        }
        if self.has_device() && !joiner.force {
            return Err(JoinRefused::HasDevice);
        }
        let is_knet = self.setting("totem", "transport").unwrap_or("knet") == "knet";
        if let Some(id) = joiner.id.filter(|id| is_knet && *id > KNET_ID_MAX) {
            return Err(JoinRefused::IdTooLarge(id));
        }
        let owner = |id: u32| others().find(|node| node.id == Some(id));
        let id = match joiner.id {
            Some(id) => match owner(id) {
                Some(node) => {
                    let node = node.name.clone();
                    return Err(JoinRefused::IdTaken { id, node });
                }
                None => id,
            },
            None => (1..).find(|id| owner(*id).is_none()).unwrap_or(u32::MAX),
        };
        Ok(Admission {
            id,
            votes,
            links,
            replaces: false,
        })
    }

    /// Links of a joining node: those that it names must be those of the cluster.
    fn links_of(
        &self,
        joiner: &Joiner,
        has_others: bool,
    ) -> Result<BTreeMap<u8, String>, JoinRefused> {
        let mut given = joiner.links.clone();
        let mut fallback = joiner.fallback.map(|address| address.to_string());
        // The first version of the join calls knew no fallback: its only link stands for it.
        if joiner.api_version == 0 && fallback.is_none() && given.len() == 1 {
            fallback = given.pop_first().map(|(_, address)| address);
        }
        let wanted = self.links();
        if given.is_empty() {
            let address = fallback.ok_or(JoinRefused::NoLinks)?;
            return match wanted.as_slice() {
                [link] => Ok([(*link, address)].into()),
                _ => Err(JoinRefused::FallbackNotEnough),
            };
        }
        if has_others {
            let mut missing = wanted.iter().filter(|link| !given.contains_key(link));
            if let Some(link) = missing.next() {
                return Err(JoinRefused::LinkMissing(*link));
            }
            let mut unknown = given.keys().filter(|link| !wanted.contains(link));
            if let Some(link) = unknown.next() {
                return Err(JoinRefused::LinkUnknown(*link));
            }
        }
        Ok(given)
    }
}

/// Refuses links with the same address.
fn different(links: &BTreeMap<u8, String>) -> Result<(), JoinRefused> {
    let mut given = links.values();
    while let Some(address) = given.next() {
        if given.clone().any(|other| is_same(other, address)) {
            return Err(JoinRefused::AddressTwice(address.clone()));
        }
    }
    Ok(())
}

/// Refuses links on which the node would be at an address of another kind than this one. What host names
/// stand for is not looked at.
fn same_families(links: &BTreeMap<u8, String>, node: &NodeEntry) -> Result<(), JoinRefused> {
    for (link, address) in links {
        let other = node.addresses.get(link).map_or("", String::as_str);
        if let (Ok(one), Ok(two)) = (address.parse::<IpAddr>(), other.parse::<IpAddr>())
            && one.is_ipv4() != two.is_ipv4()
        {
            return Err(JoinRefused::OtherFamily {
                address: address.clone(),
                link: *link,
                node: node.name.clone(),
                other: other.to_owned(),
            });
        }
    }
    Ok(())
}

/// The same address, in whatever spelling.
fn is_same(one: &str, other: &str) -> bool {
    match (one.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one.eq_ignore_ascii_case(other),
    }
}
