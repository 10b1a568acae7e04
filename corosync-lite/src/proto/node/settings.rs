//! From a configuration to the settings of the parts, and to the sockets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::surface::{Multicast, NodeError, SocketId, SocketSpec};
use crate::config::{self, Config, Transport};
use crate::proto::knet::seal::{self, Suite};
use crate::proto::{knet, plain, srp};
use crate::wire::NodeId;

/// This node's number.
pub(super) fn local(config: &Config) -> Result<NodeId, NodeError> {
    let node = config.local_node().ok_or(NodeError::NotListed)?;
    Ok(NodeId(node.id))
}

/// Parameters of the ring.
pub(super) fn ring(config: &Config) -> srp::Config {
    let timers = &config.totem.timers;
    let parameters = srp::Config {
        token: ms(timers.token),
        token_warning_percent: timers.token_warning,
        token_retransmit: ms(timers.token_retransmit),
        hold: ms(timers.hold),
        join: ms(timers.join),
        send_join: ms(timers.send_join),
        consensus: ms(timers.consensus),
        merge: ms(timers.merge),
        downcheck: ms(timers.downcheck),
        fail_recv_const: timers.fail_recv_const,
        seqno_unchanged_const: timers.seqno_unchanged_const,
        heartbeat_failures_allowed: timers.heartbeat_failures_allowed,
        max_network_delay: ms(timers.max_network_delay),
        window_size: timers.window_size,
        max_messages: timers.max_messages,
        miss_count_const: timers.miss_count_const,
        cancel_token_hold_on_retransmit: config.totem.switches.cancel_token_hold_on_retransmit,
        ..srp::Config::default()
    };
    let netmtu = usize::try_from(config.totem.netmtu).unwrap_or(srp::DATAGRAM_LEN_MAX);
    parameters.with_net_mtu(netmtu.min(srp::DATAGRAM_LEN_MAX))
}

fn ms(n: u32) -> Duration {
    Duration::from_millis(n.into())
}

/// Settings of the multi-link transport.
pub(super) fn knet(config: &Config, local: NodeId) -> Result<knet::Config, NodeError> {
    if let Some(key) = config.unsupported() {
        return Err(NodeError::Unsupported(key));
    }
    let links = config.links.iter();
    let others = config.nodes.iter().filter(|node| node.id != local.0);
    Ok(knet::Config {
        local,
        link_mode: link_mode(config.totem.link_mode),
        links: links.map(|(number, it)| (*number, link(it))).collect(),
        hosts: others
            .map(|node| (NodeId(node.id), addresses(config, node)))
            .collect(),
        pmtud_interval: pmtud_interval(config),
        fixed_mtu: fixed_mtu(config),
        suite: suite(config)?,
    })
}

pub(super) fn link(link: &config::Link) -> knet::LinkConfig {
    knet::LinkConfig {
        ping_interval: ms(link.ping_interval),
        ping_timeout: ms(link.ping_timeout),
        pong_count: link.pong_count,
        ping_precision: link.ping_precision,
        priority: link.priority,
    }
}

fn link_mode(mode: config::LinkMode) -> knet::LinkMode {
    match mode {
        config::LinkMode::Passive => knet::LinkMode::Passive,
        config::LinkMode::Active => knet::LinkMode::Active,
        config::LinkMode::RoundRobin => knet::LinkMode::RoundRobin,
    }
}

/// Where a node is to be found, by link.
pub(super) fn addresses(config: &Config, node: &config::Node) -> knet::Addresses {
    let addresses = node.addresses.iter();
    addresses
        .filter_map(|(number, address)| {
            let port = config.links.get(number)?.port;
            Some((*number, SocketAddr::new(*address, port)))
        })
        .collect()
}

pub(super) fn pmtud_interval(config: &Config) -> Duration {
    Duration::from_secs(config.totem.knet_pmtud_interval_s.max(1).into())
}

pub(super) fn fixed_mtu(config: &Config) -> Option<u16> {
    let mtu = u16::try_from(config.totem.knet_mtu).unwrap_or(u16::MAX);
    (mtu != 0).then_some(mtu)
}

/// How datagrams are sealed.
pub(super) fn suite(config: &Config) -> Result<Suite, NodeError> {
    let Some(crypto) = &config.totem.crypto else {
        return Ok(Suite::Clear);
    };
    let cipher = match crypto.cipher {
        config::Cipher::None => seal::Cipher::None,
        config::Cipher::Aes128 => seal::Cipher::Aes128,
        config::Cipher::Aes192 => seal::Cipher::Aes192,
        config::Cipher::Aes256 => seal::Cipher::Aes256,
    };
    let hash = match crypto.hash {
        config::Hash::Md5 => seal::Hash::Md5,
        config::Hash::Sha1 => seal::Hash::Sha1,
        config::Hash::Sha256 => seal::Hash::Sha256,
        config::Hash::Sha384 => seal::Hash::Sha384,
        config::Hash::Sha512 => seal::Hash::Sha512,
    };
    Ok(Suite::new(cipher, hash, &crypto.key)?)
}

/// Settings of the transports without encryption.
pub(super) fn plain(config: &Config, local: NodeId) -> plain::Config {
    let link = config.links.first_key_value();
    let number = link.map_or(0, |(number, _)| *number);
    let others = config.nodes.iter().filter(|node| node.id != local.0);
    plain::Config {
        local,
        port: link.map_or(5405, |(_, link)| link.port),
        nodes: others
            .filter_map(|node| Some((NodeId(node.id), *node.addresses.get(&number)?)))
            .collect(),
        group: link.and_then(|(_, link)| link.multicast),
        filter: config.totem.switches.block_unlisted_ips,
    }
}

/// The sockets of a configuration.
pub(super) fn sockets(config: &Config) -> Vec<SocketSpec> {
    let Some(node) = config.local_node() else {
        return Vec::new();
    };
    let mut sockets = Vec::new();
    for (number, address) in &node.addresses {
        let Some(link) = config.links.get(number) else {
            continue;
        };
        let mut bound = |id, ip: IpAddr, port, multicast| {
            sockets.push(SocketSpec {
                id,
                bind: SocketAddr::new(ip, port),
                multicast,
                broadcast: link.multicast == Some(IpAddr::V4(Ipv4Addr::BROADCAST)),
                dont_fragment: config.totem.transport == Transport::Knet,
            });
        };
        bound(SocketId::Link(*number), *address, link.port, None);
        match (config.totem.transport, link.multicast) {
            (Transport::Knet, _) => continue,
            (Transport::Udpu, _) => bound(SocketId::Sender, *address, 0, None),
            (Transport::Udp, None) => {}
            (Transport::Udp, Some(group)) => {
                let membership = Some(Multicast {
                    group,
                    interface: *address,
                    ttl: link.ttl,
                });
                let below = link.port.saturating_sub(1);
                bound(SocketId::Sender, *address, below, membership);
                bound(SocketId::Multicast, group, link.port, membership);
            }
        }
        // These have one link.
        break;
    }
    sockets
}
