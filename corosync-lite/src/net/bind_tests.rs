use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;

fn wait_readable(socket: &Socket) {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut fds, PollTimeout::from(5000u16)).unwrap();
    assert_eq!(ready, 1, "nothing came");
}

fn spec(port: u16) -> LinkSpec {
    LinkSpec {
        local: SocketAddr::from(([127, 0, 0, 1], port)),
        kind: Use::Unicast,
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    socket.local_addr().unwrap().port()
}

#[test]
fn sockets_come_and_go_with_addresses() {
    let mut links = Links::default();
    links.set(3, spec(free_port()));
    assert!(!links.any_bound());
    let here = [IpAddr::from([127, 0, 0, 1])];
    assert!(matches!(links.refresh(&here)[..], [Change::Bound(3, _)]));
    assert!(links.refresh(&here).is_empty());
    assert!(!links.is_incomplete());
    assert!(matches!(links.refresh(&[])[..], [Change::Lost(3, _)]));
    assert!(links.is_incomplete());

    let to = SocketAddr::from(([127, 0, 0, 1], 9));
    let mut failures = Vec::new();
    let datagram = Outgoing { to, bytes: b"x" };
    assert_eq!(links.send(3, &[datagram, datagram], &mut failures), 2);
    assert_eq!(failures.len(), 2);
    assert_eq!(failures[1].index, Some(1));
    links.keep(|number| number != 3);
    assert!(!links.is_incomplete());
}

#[test]
fn an_address_of_another_host_is_waited_for_and_told_of_once() {
    let mut links = Links::default();
    let local = SocketAddr::from(([192, 0, 2, 1], free_port()));
    links.set(
        0,
        LinkSpec {
            local,
            kind: Use::Knet,
        },
    );
    match &links.refresh(&[])[..] {
        [Change::Failed(0, at, error)] => {
            assert_eq!(
                (*at, error.kind()),
                (local, io::ErrorKind::AddrNotAvailable)
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(links.refresh(&[]).is_empty());
}

#[test]
fn datagrams_arrive_in_order_with_their_senders() {
    let here = [IpAddr::from([127, 0, 0, 1])];
    let (one, other) = (spec(free_port()), spec(free_port()));
    let mut links = Links::default();
    links.set(0, one);
    links.set(1, other);
    assert_eq!(links.refresh(&here).len(), 2);
    let bodies: Vec<Vec<u8>> = (0..70u8).map(|n| vec![n; usize::from(n) + 1]).collect();
    let datagrams: Vec<_> = bodies
        .iter()
        .map(|bytes| Outgoing {
            to: other.local,
            bytes,
        })
        .collect();
    let mut failures = Vec::new();
    assert_eq!(links.send(0, &datagrams, &mut failures), 70);
    let (mut inbox, mut got) = (Inbox::default(), Vec::new());
    while got.len() < 70 {
        wait_readable(links.sockets().nth(1).unwrap().1);
        links.receive(1, &mut inbox, &mut failures).unwrap();
        got.extend(inbox.iter().map(|(from, bytes)| {
            assert_eq!(from, one.local);
            bytes.to_vec()
        }));
    }
    assert_eq!(got, bodies);
    assert_eq!(failures, []);
    links.receive(1, &mut inbox, &mut failures).unwrap();
    assert_eq!(inbox.iter().count(), 0);
}

#[test]
fn groups_are_joined_on_the_interface_of_the_link() {
    let port = free_port();
    let group = SocketAddr::from(([239, 192, 55, 197], port));
    let local = SocketAddr::from(([127, 0, 0, 1], port));
    let mut links = Links::default();
    links.set(
        0,
        LinkSpec {
            local,
            kind: Use::Multicast { group, ttl: 1 },
        },
    );
    match &links.refresh(&[local.ip()])[..] {
        [Change::Bound(0, _)] => assert_eq!(links.sockets().count(), 3),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_watch_is_quiet_until_something_happens() {
    let watch = AddressWatch::new().unwrap();
    // Other tests of the machine may change addresses: what counts is that it returns.
    watch.has_changed();
    assert!(addresses().unwrap().contains(&IpAddr::from([127, 0, 0, 1])));
}
