//! Joins of a node below a temporary directory, with members that are made up.

mod again;
mod api;
mod checks;
mod import;
mod machine;
mod member;
mod ssh;
mod steps;

use std::collections::BTreeMap;
use std::time::Duration;

use super::Plan;
use super::peer::{Facts, Known, Request};
use super::version::{OWN, Version};

/// Configuration of the cluster of one that is joined.
pub const CONF: &str = "totem {
  cluster_name: lab
  config_version: 1
  interface {
    linknumber: 0
  }
  secauth: on
  version: 2
}

nodelist {
  node {
    name: n1
    nodeid: 1
    quorum_votes: 1
    ring0_addr: 10.77.0.1
  }
}

";

/// Where the joining node is.
pub const ADDRESS: &str = "10.77.0.2";

pub fn plan() -> Plan {
    Plan {
        request: Request {
            name: "n2".parse().unwrap(),
            links: BTreeMap::new(),
            fallback: Some(ADDRESS.parse().unwrap()),
            id: None,
            votes: None,
            force: false,
        },
        replaces_leftover: false,
        again: false,
        leaves: false,
        force: false,
        timeout: Duration::from_millis(300),
        import: None,
    }
}

pub fn facts() -> Facts {
    Facts {
        api_version: 1,
        version: Some(Version::Own(OWN.to_owned())),
        cluster: Some("lab".to_owned()),
        quorate: Some(true),
        nodes: vec![Known {
            name: "n1".to_owned(),
            id: Some(1),
            addresses: BTreeMap::from([(0, "10.77.0.1".to_owned())]),
            api: Some("10.77.0.1".parse().unwrap()),
            online: Some(true),
        }],
        links: vec![0],
        has_device: false,
        ahead: Some(0),
    }
}
