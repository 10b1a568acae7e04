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
    // The loopback interface speaks as a router would, who is not believed at once.
    for failure in &failures {
        assert_eq!(failure.failure, SendFailure::ReportedTooLarge);
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
    assert_eq!(failure.failure, SendFailure::Reported);
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

/// Everything that comes until `count` datagrams are there.
fn take(socket: &Socket, count: usize) -> Vec<Vec<u8>> {
    let (mut inbox, mut failures, mut got) = (Inbox::default(), Vec::new(), Vec::new());
    while got.len() < count {
        wait_readable(socket);
        inbox.clear();
        socket.receive(&mut inbox, &mut failures).unwrap();
        got.extend(inbox.iter().map(|(_, datagram)| datagram.to_vec()));
    }
    assert_eq!(failures, []);
    got
}

#[test]
fn runs_are_cut_and_joined_again() {
    let (socket, one, two) = (
        knet(local()).unwrap(),
        knet(local()).unwrap(),
        knet(local()).unwrap(),
    );
    let bytes = |number: usize| {
        let len = if number % 70 == 69 { 3 } else { 1400 };
        vec![u8::try_from(number % 251).unwrap(); len]
    };
    let sent: Vec<Vec<u8>> = (0..300).map(bytes).collect();
    let to = |to| sent.iter().map(move |bytes| Outgoing { to, bytes });
    let mut mixed: Vec<_> = to(at(&one)).zip(to(at(&two))).collect();
    let alternating = mixed.split_off(200);
    let in_a_row = mixed
        .iter()
        .map(|(one, _)| *one)
        .chain(mixed.iter().map(|(_, two)| *two));
    let datagrams: Vec<_> = in_a_row
        .chain(alternating.iter().flat_map(|(one, two)| [*one, *two]))
        .collect();
    let mut failures = Vec::new();
    assert_eq!(socket.send(&datagrams, &mut failures), datagrams.len());
    assert_eq!(failures, []);
    assert_eq!(take(&one, sent.len()), sent);
    assert_eq!(take(&two, sent.len()), sent);
}

#[test]
fn each_datagram_of_a_run_that_is_refused_has_its_own_answer() {
    let socket = knet(local()).unwrap();
    let there = knet(local()).unwrap();
    // Not from the loopback address.
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 5405));
    let to = |to| Outgoing { to, bytes: b"four" };
    let datagrams = [to(elsewhere), to(elsewhere), to(at(&there)), to(at(&there))];
    let mut failures = Vec::new();
    assert_eq!(socket.send(&datagrams, &mut failures), 4);
    let unusable = |it: &Failure| it.failure == SendFailure::LinkUnusable;
    assert!(failures.iter().all(unusable), "{failures:?}");
    let failed: Vec<_> = failures.iter().map(|it| (it.index, it.to)).collect();
    assert_eq!(failed, [(Some(0), elsewhere), (Some(1), elsewhere)]);
    assert_eq!(take(&there, 2), [b"four", b"four"]);
}

#[test]
fn runs_end_where_the_kernel_could_not_cut() {
    let (one, two) = (local(), SocketAddr::from(([127, 0, 0, 2], 1)));
    let lens = |datagrams: &[(SocketAddr, usize)]| -> Vec<usize> {
        let bytes = vec![0; 65_000];
        let outgoing = |(to, len): &(SocketAddr, usize)| Outgoing {
            to: *to,
            bytes: &bytes[..*len],
        };
        let outgoing: Vec<_> = datagrams.iter().map(outgoing).collect();
        runs(&outgoing, 0).map(<[_]>::len).collect()
    };
    assert_eq!(lens(&[]), [0; 0]);
    assert_eq!(lens(&[(one, 9), (one, 9), (one, 4), (one, 4)]), [3, 1]);
    assert_eq!(lens(&[(one, 9), (one, 10), (one, 10)]), [1, 2]);
    assert_eq!(lens(&[(one, 9), (two, 9), (two, 3)]), [1, 2]);
    assert_eq!(
        lens(&[(one, 0), (one, 0), (one, 1), (one, 0)]),
        [1, 1, 1, 1]
    );
    assert_eq!(lens(&[(one, 20); 130]), [64, 64, 2]);
    assert_eq!(lens(&[(one, 30_000); 3]), [2, 1]);
    assert_eq!(lens(&[(one, 65_000); 2]), [1, 1]);
}
