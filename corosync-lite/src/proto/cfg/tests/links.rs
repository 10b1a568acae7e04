//! States of links.

use super::*;

/// What `corosync-cfgtool -s` and `-n` read on two nodes.
#[test]
fn states_of_links_are_those_of_the_original() {
    let mut setup = Setup::new();
    let mut compared = 0;
    let mut last = None;
    for frame in frames("ipc/tool-2node.hex") {
        if !frame.note.starts_with("cfg NODESTATUSGET") {
            continue;
        }
        match frame.direction {
            Direction::Request => {
                last = Request::decode(&frame.bytes).ok();
            }
            _ => {
                let Some(request) = last.take() else { continue };
                let [Output::Respond(_, response)] = &setup.ask(1, request)[..] else {
                    panic!("no answer");
                };
                assert!(frame.matches(&response.encode().to_bytes()));
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 6);
}

#[test]
fn links_are_shown_as_they_are() {
    let mut setup = Setup::new();
    let rings = |setup: &mut Setup| match &setup.ask(1, Request::RingStatus)[..] {
        [Output::Respond(_, Response::RingStatus(rings))] => rings.clone(),
        other => panic!("{other:?}"),
    };
    let names = |status: &str| {
        ["0 10.77.0.1", "1 10.77.1.1"]
            .map(|name| (name.to_owned(), status.to_owned()))
            .to_vec()
    };
    assert_eq!(rings(&mut setup), names("n3"));
    setup.view.up = false;
    assert_eq!(rings(&mut setup), names("n1"));
    setup.view.transport = Transport::Udpu;
    assert_eq!(rings(&mut setup), names("OK"));
    let status = view::node_status(PEER, &setup.view).unwrap();
    assert!(!status.reachable);
    let link = &status.links[0];
    assert_eq!((link.enabled, link.connected), (true, false));
    assert_eq!(
        (link.source.as_str(), link.destination.as_str()),
        ("10.77.0.2", "")
    );
}

#[test]
fn a_configuration_and_a_transport_make_a_view() {
    let text = "totem {\n version: 2\n transport: T\n}\nnodelist {\n node {\n  nodeid: 2\n  \
        name: n2\n  ring0_addr: 10.77.0.2\n  ring1_addr: 10.77.1.2\n }\n node {\n  nodeid: 1\n  \
        name: n1\n  ring0_addr: 10.77.0.1\n  ring1_addr: 10.77.1.1\n }\n}\n";
    let read = |transport| {
        let text = text.replace('T', transport);
        Config::read(text.as_bytes(), &TestHost).unwrap()
    };
    let config = read("knet");
    let link = |link, up| knet::LinkStatus {
        host: PEER,
        link,
        remote: "10.77.0.2:5405".parse().unwrap(),
        up,
        usable: up,
        latency: None,
        mtu: 1500,
        data_room: 1397,
        ups: 0,
        downs: 0,
        traffic: knet::Traffic::default(),
        latencies: knet::Latencies::default(),
    };
    let members = BTreeSet::from([LOCAL]);
    let mut view = FromConfig {
        local: LOCAL,
        config: &config,
        members: &members,
        links: vec![link(0, false), link(1, true)],
        shutdown_timeout_ms: None,
    };
    let expected = ["0 10.77.0.1", "1 10.77.1.1"].map(str::to_owned);
    let rings = view::ring_status(&view);
    assert_eq!(
        rings,
        expected
            .into_iter()
            .zip(["n1", "n3"].map(str::to_owned))
            .collect::<Vec<_>>()
    );
    assert_eq!(view.shutdown_timeout(), TIMEOUT);
    assert!(view.is_reachable(PEER) && !view.is_member(PEER));
    view.links.clear();
    view.shutdown_timeout_ms = Some(70);
    assert!(!view.is_reachable(PEER) && view.is_reachable(LOCAL));
    assert_eq!(view.shutdown_timeout(), Duration::from_millis(70));
    // Without links all that is known is the ring.
    let text = text
        .replace("  ring1_addr: 10.77.1.2\n", "")
        .replace("  ring1_addr: 10.77.1.1\n", "");
    let config = Config::read(text.replace('T', "udpu").as_bytes(), &TestHost).unwrap();
    view.config = &config;
    let status = view::node_status(PEER, &view).unwrap();
    assert_eq!(
        (
            status.reachable,
            status.links[0].connected,
            status.links[0].mtu
        ),
        (false, false, 1410)
    );
    assert!(view::node_status(LOCAL, &view).unwrap().reachable);
}

#[test]
fn unknown_nodes_and_versions_are_refused() {
    let mut setup = Setup::new();
    let status = |nodeid, version| Request::NodeStatus { nodeid, version };
    for (nodeid, version, expected) in [
        (7, 1, Status::FAILED_OPERATION),
        (7, 2, Status::FAILED_OPERATION),
        (2, 2, Status::NOT_SUPPORTED),
    ] {
        let response = Response::NodeStatus(Box::new(Err(expected)));
        assert_eq!(
            setup.ask(1, status(nodeid, version)),
            [respond(1, response)]
        );
    }
    let addresses = setup.ask(1, Request::NodeAddresses { nodeid: 7 });
    let response = Response::NodeAddresses(Err(Status::NOT_EXIST));
    assert_eq!(addresses, [respond(1, response)]);
    let response = Response::RingReenable(Status::NOT_SUPPORTED);
    assert_eq!(setup.ask(1, Request::RingReenable), [respond(1, response)]);
}
