use std::net::Ipv4Addr;

use super::*;

fn address(node: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, node))
}

fn plain(group: Option<IpAddr>) -> Plain {
    let nodes = [1, 3].map(|node| (NodeId(u32::from(node)), address(node)));
    Plain::new(Config {
        local: NodeId(2),
        port: 5405,
        nodes: nodes.into(),
        group,
        filter: true,
    })
}

fn sent(plain: &mut Plain) -> Vec<(Origin, SocketAddr)> {
    std::iter::from_fn(|| plain.poll_transmit())
        .map(|it| (it.origin, it.to))
        .collect()
}

#[test]
fn unicast_sends_copies_from_the_sender_and_tokens_from_the_bound_port() {
    let mut plain = plain(None);
    let message = Bytes::from_static(b"message");
    plain.send(Target::Others, &message);
    let to = |node| SocketAddr::new(address(node), 5405);
    assert_eq!(
        sent(&mut plain),
        [(Origin::Sender, to(1)), (Origin::Sender, to(3))]
    );
    plain.send(Target::Node(NodeId(3)), &message);
    assert_eq!(sent(&mut plain), [(Origin::Bound, to(3))]);
    assert_eq!(plain.poll_delivered(), None);
    plain.send(Target::Node(NodeId(2)), &message);
    assert_eq!(plain.poll_delivered(), Some(message));
    assert!(sent(&mut plain).is_empty());
}

#[test]
fn multicast_sends_one_datagram_and_everything_from_the_sender() {
    let group = IpAddr::V4(Ipv4Addr::new(239, 192, 55, 197));
    let mut plain = plain(Some(group));
    let message = Bytes::from_static(b"message");
    plain.send(Target::Others, &message);
    plain.send(Target::Node(NodeId(1)), &message);
    assert_eq!(
        sent(&mut plain),
        [
            (Origin::Sender, SocketAddr::new(group, 5405)),
            (Origin::Sender, SocketAddr::new(address(1), 5405)),
        ]
    );
}

#[test]
fn unlisted_sources_are_dropped_while_the_filter_is_on() {
    let mut plain = plain(None);
    assert_eq!(plain.handle_datagram(address(1), b"x"), Ok(()));
    let mapped = IpAddr::V6(Ipv4Addr::new(10, 77, 0, 3).to_ipv6_mapped());
    assert_eq!(plain.handle_datagram(mapped, b"x"), Ok(()));
    assert_eq!(
        plain.handle_datagram(address(9), b"x"),
        Err(Discard::UnknownSource)
    );
    assert_eq!(
        plain.handle_datagram(address(1), &vec![0; DATAGRAM_LEN_MAX + 1]),
        Err(Discard::TooLong)
    );
    let mut open = plain.config.clone();
    open.filter = false;
    plain.reconfigure(open);
    assert_eq!(plain.handle_datagram(address(9), b"x"), Ok(()));
    assert_eq!(std::iter::from_fn(|| plain.poll_delivered()).count(), 3);
    assert_eq!((plain.stats().received, plain.stats().dropped), (5, 2));
}

#[test]
fn a_node_without_address_is_no_failure() {
    let mut plain = plain(None);
    plain.send(Target::Node(NodeId(9)), &Bytes::from_static(b"x"));
    assert!(sent(&mut plain).is_empty());
    assert_eq!(plain.stats().not_sent, 1);
}
