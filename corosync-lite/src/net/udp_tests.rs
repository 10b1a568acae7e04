use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn knet(bind: SocketAddr) -> io::Result<Socket> {
    let id = SocketId::Link(0);
    Socket::open(&SocketSpec {
        id,
        bind,
        multicast: None,
        broadcast: false,
        dont_fragment: true,
    })
}

fn at(socket: &Socket) -> SocketAddr {
    socket.socket.local_addr().unwrap()
}

fn wait_readable(socket: &Socket) {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    assert_eq!(
        poll(&mut fds, PollTimeout::from(5000u16)).unwrap(),
        1,
        "nothing came"
    );
}

/// Waits until the error queue holds something.
fn wait_for_report(socket: &Socket) {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    assert_eq!(
        poll(&mut fds, PollTimeout::from(5000u16)).unwrap(),
        1,
        "no report came"
    );
}

#[test]
fn a_datagram_that_is_too_large_is_reported_with_the_size_that_fits() {
    let socket = knet(local()).unwrap();
    let other = knet(local()).unwrap();
    let large = vec![0; 65_507 + 1];
    let small = [1];
    let to = at(&other);
    let mut failures = Vec::new();
    let both = [
        Outgoing { to, bytes: &large },
        Outgoing { to, bytes: &small },
    ];
    assert_eq!(socket.send(&both, &mut failures), 2);
    // The loopback interface reports it in two ways.
    let own: Vec<_> = failures
        .iter()
        .filter(|failure| failure.index.is_some())
        .collect();
    assert_eq!(own.len(), 1, "{failures:?}");
    assert_eq!((own[0].index, own[0].to), (Some(0), to));
    for failure in &failures {
        assert!(matches!(failure.failure, SendFailure::TooLarge { .. }));
    }
    wait_readable(&other);
    let mut inbox = Inbox::default();
    other.receive(&mut inbox, &mut failures).unwrap();
    assert_eq!(inbox.iter().next().unwrap().1, small);
}

#[test]
fn a_peer_that_is_not_there_is_reported_for_its_own_datagram() {
    let socket = knet(local()).unwrap();
    let there = knet(local()).unwrap();
    let gone = at(&knet(local()).unwrap());
    let mut failures = Vec::new();
    assert_eq!(
        socket.send(
            &[Outgoing {
                to: gone,
                bytes: b"1"
            }],
            &mut failures
        ),
        1
    );
    assert_eq!(failures, []);
    wait_for_report(&socket);
    // The report comes with the next call, which is about another peer and does its work.
    assert_eq!(
        socket.send(
            &[Outgoing {
                to: at(&there),
                bytes: b"2"
            }],
            &mut failures
        ),
        1
    );
    assert_eq!(failures.len(), 1);
    let failure = failures[0];
    assert_eq!((failure.index, failure.to), (None, gone));
    assert_eq!(failure.failure, SendFailure::LinkUnusable);
    let (mut inbox, mut none) = (Inbox::default(), Vec::new());
    wait_readable(&there);
    there.receive(&mut inbox, &mut none).unwrap();
    assert_eq!(inbox.iter().next().unwrap().1, b"2");
}

#[test]
fn receiving_also_clears_reports() {
    let socket = knet(local()).unwrap();
    let gone = at(&knet(local()).unwrap());
    let mut failures = Vec::new();
    socket.send(
        &[Outgoing {
            to: gone,
            bytes: b"1",
        }],
        &mut failures,
    );
    wait_for_report(&socket);
    let mut inbox = Inbox::default();
    socket.receive(&mut inbox, &mut failures).unwrap();
    assert_eq!(inbox.iter().count(), 0);
    assert_eq!(failures.len(), 1);
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    assert_eq!(poll(&mut fds, PollTimeout::ZERO).unwrap(), 0);
}

#[test]
fn ipv6_works_alike() {
    let local = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0));
    let Ok(socket) = knet(local) else {
        // A machine without IPv6.
        return;
    };
    let other = knet(local).unwrap();
    let mut failures = Vec::new();
    let large = vec![0; 65_536];
    let datagrams = [
        Outgoing {
            to: at(&other),
            bytes: &large,
        },
        Outgoing {
            to: at(&other),
            bytes: b"six",
        },
    ];
    assert_eq!(socket.send(&datagrams, &mut failures), 2);
    assert!(matches!(failures[..], [Failure { index: Some(0), .. }]));
    let mut inbox = Inbox::default();
    wait_readable(&other);
    other.receive(&mut inbox, &mut failures).unwrap();
    let got: Vec<_> = inbox.iter().collect();
    assert_eq!(got, [(at(&socket), &b"six"[..])]);
}
