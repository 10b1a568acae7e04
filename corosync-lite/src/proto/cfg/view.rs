//! What the command service has to know of the ring, and the pictures it makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::config::{Config, Transport};
use crate::proto::{knet, srp};
use crate::service::cfg::{LinkStatus, NodeStatus};
use crate::wire::NodeId;

/// How long clients may think about a shutdown when nothing else is configured.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// MTU to this node itself.
const OWN_MTU: u32 = 65_535;

/// State of a link to another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Pongs come.
    pub connected: bool,
    /// Bytes of payload.
    pub mtu: u32,
}

/// The ring as the command service sees it.
pub trait View {
    /// This node.
    fn local(&self) -> NodeId;
    /// How datagrams travel.
    fn transport(&self) -> Transport;
    /// All configured nodes, ascending.
    fn nodes(&self) -> Vec<NodeId>;
    /// Addresses of a node by link; none when it is not known.
    fn addresses(&self, node: NodeId) -> BTreeMap<u8, IpAddr>;
    /// Whether the node is in the ring now.
    fn is_member(&self, node: NodeId) -> bool;
    /// Whether messages to a node would be sent.
    fn is_reachable(&self, node: NodeId) -> bool;
    /// A link to a node, if the transport has it; `knet` has none to this node itself.
    fn link(&self, node: NodeId, link: u8) -> Option<LinkState>;
    /// How long clients may think about a shutdown: key `cfg.shutdown_timeout`.
    fn shutdown_timeout(&self) -> Duration {
        SHUTDOWN_TIMEOUT
    }
}

/// The view of a node that knows its configuration and its transport.
#[derive(Clone, Debug)]
pub struct FromConfig<'a> {
    /// This node.
    pub local: NodeId,
    /// In force.
    pub config: &'a Config,
    /// The ring.
    pub members: &'a BTreeSet<NodeId>,
    /// All links of the transport; none for those without links.
    pub links: Vec<knet::LinkStatus>,
    /// Key `cfg.shutdown_timeout` in milliseconds.
    pub shutdown_timeout_ms: Option<u32>,
}

impl View for FromConfig<'_> {
    fn local(&self) -> NodeId {
        self.local
    }

    fn transport(&self) -> Transport {
        self.config.totem.transport
    }

    fn nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<_> = self
            .config
            .nodes
            .iter()
            .map(|node| NodeId(node.id))
            .collect();
        nodes.sort_unstable();
        nodes
    }

    fn addresses(&self, node: NodeId) -> BTreeMap<u8, IpAddr> {
        let mut nodes = self.config.nodes.iter();
        let found = nodes.find(|other| other.id == node.0);
        found.map(|node| node.addresses.clone()).unwrap_or_default()
    }

    fn is_member(&self, node: NodeId) -> bool {
        self.members.contains(&node)
    }

    fn is_reachable(&self, node: NodeId) -> bool {
        match self.transport() {
            Transport::Knet => {
                let mut links = self.links.iter();
                node == self.local || links.any(|link| link.host == node && link.usable)
            }
            // Nothing is known below the ring.
            Transport::Udpu | Transport::Udp => self.is_member(node),
        }
    }

    fn link(&self, node: NodeId, link: u8) -> Option<LinkState> {
        if self.transport() != Transport::Knet {
            return Some(LinkState {
                connected: self.is_member(node),
                mtu: payload(self.config.totem.netmtu),
            });
        }
        let mut links = self.links.iter();
        let found = links.find(|state| state.host == node && state.link == link);
        found.map(|state| LinkState {
            connected: state.up,
            mtu: u32::try_from(state.data_room).unwrap_or(u32::MAX),
        })
    }

    fn shutdown_timeout(&self) -> Duration {
        let configured = self.shutdown_timeout_ms;
        configured.map_or(SHUTDOWN_TIMEOUT, |ms| Duration::from_millis(ms.into()))
    }
}

/// What datagrams of the ring can hold besides headers.
fn payload(net_mtu: u32) -> u32 {
    let ring = srp::Config::default().with_net_mtu(usize::try_from(net_mtu).unwrap_or(usize::MAX));
    u32::try_from(ring.frame_len_max).unwrap_or(u32::MAX)
}

/// Name of each own link, and a character for each node on it.
pub(super) fn ring_status(view: &dyn View) -> Vec<(String, String)> {
    let known: Vec<_> = view.nodes();
    let addresses: BTreeMap<_, _> = known
        .iter()
        .map(|node| (*node, view.addresses(*node)))
        .collect();
    let of_node = |node: NodeId, link: u8| {
        if node == view.local() {
            return 'n';
        }
        let configured = addresses
            .get(&node)
            .is_some_and(|of| of.contains_key(&link));
        match view.link(node, link) {
            Some(state) if configured && state.connected => '3',
            Some(_) if configured => '1',
            None if configured => '?',
            _ => 'd',
        }
    };
    let own = view.addresses(view.local());
    own.iter()
        .map(|(link, address)| {
            let status = match view.transport() {
                Transport::Knet => known.iter().map(|node| of_node(*node, *link)).collect(),
                Transport::Udpu | Transport::Udp => "OK".to_owned(),
            };
            (format!("{link} {address}"), status)
        })
        .collect()
}

/// All links to a node; nothing for a node that is not known.
pub(super) fn node_status(node: NodeId, view: &dyn View) -> Option<NodeStatus> {
    let addresses = view.addresses(node);
    if addresses.is_empty() {
        return None;
    }
    let own = view.addresses(view.local());
    let mut links = vec![LinkStatus::default(); 1 + usize::from(*addresses.keys().next_back()?)];
    for (number, address) in &addresses {
        if let Some(link) = links.get_mut(usize::from(*number)) {
            *link = link_status(node, *number, *address, &own, view);
        }
    }
    Some(NodeStatus {
        nodeid: node.0,
        reachable: view.is_reachable(node),
        links,
        ..NodeStatus::default()
    })
}

fn link_status(
    node: NodeId,
    number: u8,
    address: IpAddr,
    own: &BTreeMap<u8, IpAddr>,
    view: &dyn View,
) -> LinkStatus {
    let enabled = |connected, mtu, source: IpAddr, destination: Option<IpAddr>| LinkStatus {
        enabled: true,
        connected,
        dynconnected: false,
        mtu,
        source: source.to_string(),
        destination: destination.map_or_else(String::new, |address| address.to_string()),
    };
    let is_own = node == view.local();
    match (view.transport(), view.link(node, number), own.get(&number)) {
        (Transport::Udpu | Transport::Udp, state, _) => {
            // Tools show this address as that of the node.
            let state = state.unwrap_or_default();
            enabled(state.connected, state.mtu, address, None)
        }
        // The way to itself is the first link, whatever is configured.
        (Transport::Knet, ..) if is_own && number == 0 => {
            enabled(true, OWN_MTU, address, Some(address))
        }
        (Transport::Knet, Some(state), Some(source)) if !is_own => {
            enabled(state.connected, state.mtu, *source, Some(address))
        }
        (Transport::Knet, ..) => LinkStatus::default(),
    }
}
