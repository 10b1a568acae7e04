//! The member that lets this node in, however it is reached.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::version::Version;
use crate::failure::Outcome;
use crate::info::Admitted;
use crate::value::{Link, NodeName};

/// A member of the cluster, as the joining node sees it.
pub trait Peer {
    /// How the user calls it.
    fn name(&self) -> String;

    /// Gets ready to be asked again, when this node's keys have changed.
    ///
    /// # Errors
    /// When it does not let this node log in any more.
    fn reopen(&mut self) -> Outcome {
        Ok(())
    }

    /// What the cluster is like; changes nothing.
    ///
    /// # Errors
    /// When it does not answer.
    fn facts(&mut self) -> Outcome<Facts>;

    /// Which of these numbers guests of the cluster have, and what these are if it tells.
    ///
    /// # Errors
    /// When it does not tell.
    fn taken(&mut self, ids: &[u32]) -> Outcome<BTreeMap<u32, Taken>>;

    /// Asks to be let in.
    ///
    /// # Errors
    /// When it says no, or nothing at all: then nobody knows whether the cluster has changed.
    fn admit(&mut self, request: &Request) -> Result<Admitted, NotAdmitted>;

    /// Asks it to take the node out. A node that is not in the cluster is out already.
    ///
    /// # Errors
    /// When it does not do it.
    fn withdraw(&mut self, name: &NodeName) -> Outcome;
}

/// A number that a guest of the cluster has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// What that is can be seen.
    By(Holder),
    /// The member says no more than these words, if any.
    Told(String),
}

/// A guest of the cluster that has a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The node that it is on.
    pub node: String,
    /// The directory of its kind, below that of the node.
    pub folder: String,
    /// Its configuration.
    pub conf: Vec<u8>,
}

/// What the cluster is like. What the member did not tell is `None` or empty; it checks itself again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Version of the join interface.
    pub api_version: u32,
    /// What it runs.
    pub version: Option<Version>,
    /// Name of the cluster; `None` if the member is in none.
    pub cluster: Option<String>,
    /// Whether it can change anything.
    pub quorate: Option<bool>,
    /// The nodes that are configured.
    pub nodes: Vec<Known>,
    /// Links in use.
    pub links: Vec<u8>,
    /// A device votes.
    pub has_device: bool,
    /// Seconds by which the member's clock is ahead of this node's.
    pub ahead: Option<i64>,
}

/// A node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: Option<u32>,
    /// Where it is, by link: addresses or host names.
    pub addresses: BTreeMap<u8, String>,
    /// Where its API is.
    pub api: Option<IpAddr>,
    /// Whether it takes part.
    pub online: Option<bool>,
}

/// What this node asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its name.
    pub name: NodeName,
    /// Where it is, by link.
    pub links: BTreeMap<u8, Link>,
    /// Where it is if it names no link.
    pub fallback: Option<IpAddr>,
    /// The number that it wants.
    pub id: Option<u32>,
    /// The votes that it wants.
    pub votes: Option<u32>,
    /// An entry of that name may be replaced.
    pub force: bool,
}

impl Request {
    /// Parameters of the call. With `probation` the entry is to have no vote until the node is there;
    /// a member that does not know the word refuses it, and nothing has happened.
    #[must_use]
    pub fn parameters(&self, peer_version: u32, probation: bool) -> Vec<(String, String)> {
        let mut list = Vec::new();
        let mut add = |name: &str, value: String| list.push((name.to_owned(), value));
        if self.force {
            add("force", "1".to_owned());
        }
        if let Some(id) = self.id {
            add("nodeid", id.to_string());
        }
        if let Some(votes) = self.votes {
            add("votes", votes.to_string());
        }
        for (link, at) in &self.links {
            add(&format!("link{link}"), at.to_string());
        }
        if let Some(address) = self.fallback.filter(|_| self.links.is_empty()) {
            if peer_version == 0 {
                add("link0", format!("address={address}"));
            } else {
                add("new_node_ip", address.to_string());
            }
        }
        if peer_version > 0 {
            add("apiversion", crate::verb::API_VERSION.to_string());
        }
        if probation {
            add("probation", "1".to_owned());
        }
        list
    }
}

/// Why a node is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// The member says no; the cluster is as it was.
    Refused(String),
    /// No answer: the cluster may have this node in its configuration now.
    Unknown(String),
}
