use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;

fn wait_readable(socket: &Socket) {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut fds, PollTimeout::from(5000u16)).unwrap();
    assert_eq!(ready, 1, "nothing came");
}

fn spec(link: u8, port: u16) -> SocketSpec {
    let bind = SocketAddr::from(([127, 0, 0, 1], port));
    SocketSpec {
        id: SocketId::Link(link),
        bind,
        multicast: None,
        broadcast: false,
        dont_fragment: false,
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    socket.local_addr().unwrap().port()
}

#[test]
fn sockets_come_and_go_with_addresses() {
    let mut sockets = Sockets::default();
    let wanted = spec(3, free_port());
    sockets.set(vec![wanted.clone()]);
    assert!(!sockets.any_bound());
    let here = [IpAddr::from([127, 0, 0, 1])];
    let id = SocketId::Link(3);
    assert!(matches!(
        sockets.refresh(&here)[..],
        [Change::Bound(SocketId::Link(3), _)]
    ));
    sockets.set(vec![wanted]);
    assert!(sockets.refresh(&here).is_empty());
    assert!(!sockets.is_incomplete());
    assert!(matches!(
        sockets.refresh(&[])[..],
        [Change::Lost(SocketId::Link(3), _)]
    ));
    assert!(sockets.is_incomplete());

    let to = SocketAddr::from(([127, 0, 0, 1], 9));
    let mut failures = Vec::new();
    let datagram = Outgoing { to, bytes: b"x" };
    assert_eq!(sockets.send(id, &[datagram, datagram], &mut failures), 2);
    assert_eq!(failures.len(), 2);
    assert_eq!(failures[1].index, Some(1));
    sockets.set(Vec::new());
    assert!(!sockets.is_incomplete());
}

#[test]
fn an_address_of_another_host_is_waited_for_and_told_of_once() {
    let mut sockets = Sockets::default();
    let mut wanted = spec(0, free_port());
    wanted.bind.set_ip(IpAddr::from([192, 0, 2, 1]));
    sockets.set(vec![wanted.clone()]);
    match &sockets.refresh(&[])[..] {
        [Change::Failed(SocketId::Link(0), at, error)] => {
            assert_eq!(
                (*at, error.kind()),
                (wanted.bind, io::ErrorKind::AddrNotAvailable)
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(sockets.refresh(&[]).is_empty());
}

#[test]
fn datagrams_arrive_in_order_with_their_senders() {
    let here = [IpAddr::from([127, 0, 0, 1])];
    let (one, other) = (spec(0, free_port()), spec(1, free_port()));
    let mut sockets = Sockets::default();
    sockets.set(vec![one.clone(), other.clone()]);
    assert_eq!(sockets.refresh(&here).len(), 2);
    let bodies: Vec<Vec<u8>> = (0..70u8).map(|n| vec![n; usize::from(n) + 1]).collect();
    let datagrams: Vec<_> = bodies
        .iter()
        .map(|bytes| Outgoing {
            to: other.bind,
            bytes,
        })
        .collect();
    let mut failures = Vec::new();
    assert_eq!(sockets.send(one.id, &datagrams, &mut failures), 70);
    let (mut inbox, mut got) = (Inbox::default(), Vec::new());
    while got.len() < 70 {
        wait_readable(sockets.get(other.id).unwrap());
        sockets
            .receive(other.id, &mut inbox, &mut failures)
            .unwrap();
        got.extend(inbox.iter().map(|(from, bytes)| {
            assert_eq!(from, one.bind);
            bytes.to_vec()
        }));
    }
    assert_eq!(got, bodies);
    assert_eq!(failures, []);
    sockets
        .receive(other.id, &mut inbox, &mut failures)
        .unwrap();
    assert_eq!(inbox.iter().count(), 0);
}

#[test]
fn groups_are_joined_on_the_interface_of_the_link() {
    let port = free_port();
    let (group, interface) = (
        IpAddr::from([239, 192, 55, 197]),
        IpAddr::from([127, 0, 0, 1]),
    );
    let multicast = Some(crate::proto::node::Multicast {
        group,
        interface,
        ttl: 1,
    });
    let inlet = SocketSpec {
        id: SocketId::Multicast,
        bind: SocketAddr::new(group, port),
        multicast,
        ..spec(0, port)
    };
    let outlet = SocketSpec {
        id: SocketId::Sender,
        multicast,
        ..spec(0, 0)
    };
    let mut sockets = Sockets::default();
    sockets.set(vec![outlet, inlet]);
    let changes = sockets.refresh(&[interface]);
    assert!(
        matches!(changes[..], [Change::Bound(..), Change::Bound(..)]),
        "{changes:?}"
    );
    assert_eq!(sockets.open().next().unwrap().0, SocketId::Multicast);
    assert_eq!(sockets.refresh(&[]).len(), 2);
}

#[test]
fn the_watch_is_quiet_until_something_happens() {
    let watch = AddressWatch::new().unwrap();
    // Other tests of the machine may change addresses: what counts is that it returns.
    watch.has_changed();
    assert!(addresses().unwrap().contains(&IpAddr::from([127, 0, 0, 1])));
}
