use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::test_host::TestHost;
use crate::config::{Config, Transport};
use crate::proto::knet;
use crate::qb::vectors::{Direction, frames};
use crate::wire::exec;
use crate::wire::vectors::executive;

const LOCAL: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Nodes 1 and 2 with two links each.
struct TwoNodes {
    transport: Transport,
    nodes: Vec<NodeId>,
    members: Vec<NodeId>,
    up: bool,
}

impl Default for TwoNodes {
    fn default() -> Self {
        Self {
            transport: Transport::Knet,
            nodes: vec![LOCAL, PEER],
            members: vec![LOCAL, PEER],
            up: true,
        }
    }
}

impl View for TwoNodes {
    fn local(&self) -> NodeId {
        LOCAL
    }
    fn transport(&self) -> Transport {
        self.transport
    }
    fn nodes(&self) -> Vec<NodeId> {
        self.nodes.clone()
    }
    fn addresses(&self, node: NodeId) -> BTreeMap<u8, IpAddr> {
        let address = |link: u8| (link, format!("10.77.{link}.{}", node.0).parse().unwrap());
        let known = [0, 1].into_iter().filter(|_| self.nodes.contains(&node));
        known.map(address).collect()
    }
    fn is_member(&self, node: NodeId) -> bool {
        self.members.contains(&node)
    }
    fn is_reachable(&self, node: NodeId) -> bool {
        node == LOCAL || self.up
    }
    fn link(&self, node: NodeId, _link: u8) -> Option<LinkState> {
        (node == PEER).then_some(LinkState {
            connected: self.up,
            mtu: 1397,
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn base() -> Instant {
    Instant::now()
}

struct Setup {
    cfg: Cfg,
    now: Instant,
    view: TwoNodes,
}

impl Setup {
    fn new() -> Self {
        Self {
            cfg: Cfg::new(LOCAL),
            now: base(),
            view: TwoNodes::default(),
        }
    }

    fn ask(&mut self, client: u64, request: Request) -> Vec<Output> {
        self.cfg
            .handle_request(self.now, ClientId(client), request, &self.view);
        self.drain()
    }

    /// Without lines of the log.
    fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.cfg.poll_output())
            .filter(|output| !matches!(output, Output::Log(_)))
            .collect()
    }

    fn deliver(&mut self, sender: NodeId, message: &Message) -> Vec<Output> {
        self.cfg.handle_message(sender, message);
        self.drain()
    }

    /// Delivers own messages until there are none.
    fn settle(&mut self, outputs: Vec<Output>) -> Vec<Output> {
        let mut all = Vec::new();
        for output in outputs {
            let again = match &output {
                Output::Mcast { message, .. } => self.deliver(LOCAL, message),
                _ => Vec::new(),
            };
            all.push(output);
            all.extend(self.settle(again));
        }
        all
    }
}

fn respond(client: u64, response: Response) -> Output {
    Output::Respond(ClientId(client), response)
}

fn mcast(message: Message) -> Output {
    let lane = Lane::Ordinary;
    Output::Mcast { lane, message }
}

fn event(client: u64, status: Status, flags: u32) -> Output {
    Output::Event(ClientId(client), Event { status, flags })
}

fn own_reload(client: u64) -> Message {
    Message::Reload(Source {
        node: LOCAL,
        connection: client,
    })
}

const ASK: Request = Request::TryShutdown { flags: 0 };
const YES: Request = Request::ReplyToShutdown { yes: true };
const NO: Request = Request::ReplyToShutdown { yes: false };

/// The captured conversation of a client that tries everything gets the same answers.
#[test]
fn answers_are_those_of_the_original() {
    let mut setup = Setup::new();
    // It ran alone, but had been with node 2 before.
    setup.view.nodes = vec![LOCAL];
    let (mut tracker, mut client, mut compared) = (None, 0, 0);
    let mut queue = VecDeque::new();
    for frame in frames("ipc/cs-cfg.hex") {
        if frame.direction == Direction::Request {
            let request = Request::decode(&frame.bytes).unwrap();
            // Which connection a request came on is told in words there.
            let of_tracker = matches!(
                request,
                Request::TrackStart | Request::TrackStop | Request::ReplyToShutdown { .. }
            );
            client += 1;
            let id = match of_tracker {
                true => *tracker.get_or_insert(client),
                false => client,
            };
            if request == Request::TrackStop {
                assert!(queue.is_empty());
            }
            queue.extend(setup.ask(id, request));
            continue;
        }
        let ours = loop {
            match queue.pop_front().unwrap() {
                Output::Respond(_, response) => break response.encode(),
                Output::Event(_, event) => break event.encode(),
                _ => {}
            }
        };
        assert!(frame.matches(&ours.to_bytes()), "{}", frame.note);
        compared += 1;
    }
    assert_eq!(compared, 13);
}

/// Commands that real nodes sent to each other.
fn captured(name: &str) -> Vec<(NodeId, Message)> {
    let messages = executive(name).into_iter();
    let commands = messages.filter_map(|(sender, message)| match message {
        exec::Message::Cfg(message) => Some((NodeId(sender), message)),
        _ => None,
    });
    commands.collect()
}

#[test]
fn commands_of_real_nodes_are_done_and_sent() {
    let commands = captured("knet-cfg-kill-shutdown.pcap.gz");
    let done_by = |local| {
        let mut cfg = Cfg::new(NodeId(local));
        for (sender, message) in &commands {
            cfg.handle_message(*sender, message);
        }
        std::iter::from_fn(move || cfg.poll_output())
            .filter(|output| !matches!(output, Output::Log(_)))
            .collect::<Vec<_>>()
    };
    let (killer, kill) = &commands[0];
    let Message::KillNode { reason, .. } = kill else {
        panic!("{commands:?}");
    };
    let killed = Output::Killed {
        by: *killer,
        reason: printable(reason),
    };
    assert_eq!(done_by(1), []);
    assert_eq!(done_by(2), [Output::Shutdown]);
    assert_eq!(done_by(3), [killed]);
    // The same request makes the same message.
    let mut setup = Setup::new();
    setup.view.members.push(NodeId(3));
    let request = Request::KillNode {
        nodeid: 3,
        reason: printable(reason),
    };
    assert_eq!(setup.ask(1, request)[0], mcast(kill.clone()));
    let reloads = captured("knet-reload-add-link.pcap.gz");
    let own: Vec<_> = reloads.iter().map(|(sender, _)| *sender).collect();
    assert_eq!(own, [LOCAL]);
    let (sender, reload) = &reloads[0];
    assert_eq!(setup.deliver(*sender, reload), [Output::Reload]);
}

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
        (false, false, 1500)
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

#[test]
fn a_member_is_killed_and_says_why() {
    let mut setup = Setup::new();
    let kill = |nodeid| Request::KillNode {
        nodeid,
        reason: "by\nhand".to_owned(),
    };
    let gone = [respond(1, Response::KillNode(Status::NOT_EXIST))];
    assert_eq!(setup.ask(1, kill(3)), gone);
    let message = |node| Message::KillNode {
        node,
        reason: Bytes::from_static(b"by\nhand\0"),
    };
    let sent = [
        mcast(message(PEER)),
        respond(1, Response::KillNode(Status::OK)),
    ];
    assert_eq!(setup.ask(1, kill(2)), sent);
    assert_eq!(setup.deliver(LOCAL, &message(PEER)), []);
    let killed = Output::Killed {
        by: PEER,
        reason: "by?hand".to_owned(),
    };
    assert_eq!(setup.deliver(PEER, &message(LOCAL)), [killed]);
    let long = Request::KillNode {
        nodeid: 2,
        reason: "x".repeat(5000),
    };
    let sent = setup.ask(1, long);
    assert!(
        matches!(&sent[0], Output::Mcast { message: Message::KillNode { reason, .. }, .. } if reason.len() == 256)
    );
}

#[test]
fn a_shutdown_is_told_to_all_and_done_by_one() {
    let mut setup = Setup::new();
    for flags in 0..3 {
        let outputs = setup.ask(1, Request::TryShutdown { flags });
        let agreed = respond(1, Response::TryShutdown(Status::OK));
        assert_eq!(outputs, [agreed, mcast(Message::Shutdown)]);
    }
    assert_eq!(setup.deliver(PEER, &Message::Shutdown), []);
    assert_eq!(setup.deliver(LOCAL, &Message::Shutdown), [Output::Shutdown]);
}

#[test]
fn trackers_vote_on_a_shutdown() {
    let mut setup = Setup::new();
    setup.ask(1, Request::TrackStart);
    setup.ask(2, Request::TrackStart);
    setup.ask(3, Request::TrackStart);
    // The one who asks is not asked.
    let asked = [1, 2].map(|client| event(client, Status::OK, 0));
    assert_eq!(setup.ask(3, ASK), asked);
    let busy = respond(4, Response::TryShutdown(Status::EXIST));
    assert_eq!(setup.ask(4, ASK), [busy]);
    let taken = |client| respond(client, Response::ReplyToShutdown(Status::OK));
    assert_eq!(setup.ask(1, NO), [taken(1)]);
    // Who was not asked has no vote; the last word of one who was counts.
    let refused = respond(4, Response::ReplyToShutdown(Status::ACCESS));
    assert_eq!(setup.ask(4, YES), [refused]);
    assert_eq!(setup.ask(1, YES), [taken(1)]);
    // A newcomer is asked too, before its answer.
    let tracked = respond(5, Response::TrackStart(Status::OK));
    let newcomer = [event(5, Status::OK, 0), tracked];
    assert_eq!(setup.ask(5, Request::TrackStart), newcomer);
    assert_eq!(setup.ask(2, YES), [taken(2)]);
    // One who goes agrees.
    setup.cfg.client_gone(ClientId(5));
    let stops = [
        respond(3, Response::TryShutdown(Status::OK)),
        mcast(Message::Shutdown),
    ];
    assert_eq!(setup.drain(), stops);
    assert_eq!(setup.cfg.poll_timeout(), None);
}

#[test]
fn silence_is_a_no() {
    let mut setup = Setup::new();
    setup.ask(1, Request::TrackStart);
    setup.ask(2, ASK);
    let deadline = setup.now + TIMEOUT;
    assert_eq!(setup.cfg.poll_timeout(), Some(deadline));
    setup
        .cfg
        .handle_timeout(deadline - Duration::from_millis(1));
    assert_eq!(setup.drain(), []);
    setup.cfg.handle_timeout(deadline);
    let ended = [
        respond(2, Response::TryShutdown(Status::BUSY)),
        event(1, Status::TIMEOUT, 0),
    ];
    assert_eq!(setup.drain(), ended);
    assert_eq!(setup.cfg.poll_timeout(), None);
    let late = respond(1, Response::ReplyToShutdown(Status::ACCESS));
    assert_eq!(setup.ask(1, YES), [late]);
}

#[test]
fn a_shutdown_regardless_waits_but_happens() {
    for answers in [true, false] {
        let mut setup = Setup::new();
        setup.ask(1, Request::TrackStart);
        setup.ask(2, Request::TryShutdown { flags: 1 });
        if answers {
            setup
                .cfg
                .handle_request(setup.now, ClientId(1), NO, &setup.view);
        } else {
            setup.cfg.handle_timeout(setup.now + TIMEOUT);
        }
        let stops = [
            respond(2, Response::TryShutdown(Status::OK)),
            mcast(Message::Shutdown),
        ];
        assert_eq!(setup.drain()[..2], stops);
    }
}

#[test]
fn a_vote_ends_with_the_one_who_asked() {
    let mut setup = Setup::new();
    setup.ask(1, Request::TrackStart);
    setup.ask(2, ASK);
    setup.cfg.client_gone(ClientId(2));
    assert_eq!(setup.drain(), []);
    assert_eq!(setup.cfg.poll_timeout(), None);
    let late = respond(1, Response::ReplyToShutdown(Status::ACCESS));
    assert_eq!(setup.ask(1, YES), [late]);
}

#[test]
fn all_nodes_reload_and_one_answers() {
    let mut setup = Setup::new();
    assert_eq!(setup.ask(1, Request::Reload), [mcast(own_reload(1))]);
    assert_eq!(setup.deliver(LOCAL, &own_reload(1)), [Output::Reload]);
    let applied = Reloaded::Applied {
        keys_changed: false,
    };
    setup.cfg.reload_done(applied);
    assert_eq!(setup.drain(), [respond(1, Response::Reload(Status::OK))]);
    // The same number on another node is another client.
    let theirs = Message::Reload(Source {
        node: PEER,
        connection: 1,
    });
    assert_eq!(setup.deliver(PEER, &theirs), [Output::Reload]);
    setup.cfg.reload_done(Reloaded::Refused);
    assert_eq!(setup.drain(), []);
    setup.ask(2, Request::Reload);
    assert_eq!(setup.deliver(LOCAL, &own_reload(2)), [Output::Reload]);
    setup.cfg.reload_done(Reloaded::Refused);
    let refused = respond(2, Response::Reload(Status::INVALID_PARAM));
    assert_eq!(setup.drain(), [refused]);
}

#[test]
fn reloads_that_come_meanwhile_are_one() {
    let mut setup = Setup::new();
    for client in 1..=3 {
        setup.ask(client, Request::Reload);
    }
    let again = respond(3, Response::Reload(Status::TRY_AGAIN));
    assert_eq!(setup.ask(3, Request::Reload), [again]);
    assert_eq!(setup.deliver(LOCAL, &own_reload(1)), [Output::Reload]);
    assert_eq!(setup.deliver(LOCAL, &own_reload(2)), []);
    assert_eq!(setup.deliver(LOCAL, &own_reload(3)), []);
    setup.cfg.client_gone(ClientId(2));
    let applied = Reloaded::Applied {
        keys_changed: false,
    };
    let answer = |client| respond(client, Response::Reload(Status::OK));
    setup.cfg.reload_done(applied);
    assert_eq!(setup.drain(), [answer(1), Output::Reload]);
    setup.cfg.reload_done(applied);
    assert_eq!(setup.drain(), [answer(3)]);
    setup.cfg.reload_done(applied);
    assert_eq!(setup.drain(), []);
}

#[test]
fn a_new_key_is_used_and_then_the_old_one_forgotten() {
    let mut setup = Setup::new();
    setup.ask(1, Request::Reload);
    setup.deliver(LOCAL, &own_reload(1));
    setup
        .cfg
        .reload_done(Reloaded::Applied { keys_changed: true });
    let outputs = setup.drain();
    let activate = Message::CryptoReconfig(CryptoPhase::Activate);
    let cleanup = Message::CryptoReconfig(CryptoPhase::Cleanup);
    assert_eq!(setup.deliver(PEER, &activate), []);
    let expected = [
        mcast(activate),
        Output::ActivateKeys,
        mcast(cleanup.clone()),
        Output::CleanupKeys,
        respond(1, Response::Reload(Status::OK)),
    ];
    assert_eq!(setup.settle(outputs), expected);
    assert_eq!(setup.deliver(LOCAL, &cleanup), []);
}

#[test]
fn an_older_change_of_keys_does_not_undo_a_newer_one() {
    let activate = Message::CryptoReconfig(CryptoPhase::Activate);
    let cleanup = Message::CryptoReconfig(CryptoPhase::Cleanup);
    let reload = |setup: &mut Setup| {
        setup.deliver(PEER, &Message::Reload(Source::default()));
        setup
            .cfg
            .reload_done(Reloaded::Applied { keys_changed: true });
        setup.drain();
    };
    let mut setup = Setup::new();
    reload(&mut setup);
    reload(&mut setup);
    assert_eq!(setup.deliver(LOCAL, &activate), []);
    let steps = [Output::ActivateKeys, mcast(cleanup.clone())];
    assert_eq!(setup.deliver(LOCAL, &activate), steps);
    // A third key comes while the second one is cleaned up after.
    reload(&mut setup);
    assert_eq!(setup.deliver(LOCAL, &cleanup), []);
    assert_eq!(setup.deliver(LOCAL, &activate), steps);
    assert_eq!(setup.deliver(LOCAL, &cleanup), [Output::CleanupKeys]);
}

#[test]
fn each_step_of_a_change_of_keys_waits_for_all_members() {
    let activate = Message::CryptoReconfig(CryptoPhase::Activate);
    let cleanup = Message::CryptoReconfig(CryptoPhase::Cleanup);
    let begin = || {
        let mut setup = Setup::new();
        setup.cfg.set_members(&[LOCAL, PEER]);
        setup.deliver(PEER, &Message::Reload(Source::default()));
        setup
            .cfg
            .reload_done(Reloaded::Applied { keys_changed: true });
        setup.drain();
        assert_eq!(setup.deliver(LOCAL, &activate), []);
        assert_eq!(setup.deliver(NodeId(9), &activate), []);
        setup
    };
    let first = [Output::ActivateKeys, mcast(cleanup.clone())];
    let mut setup = begin();
    assert_eq!(setup.deliver(PEER, &activate), first);
    assert_eq!(setup.deliver(LOCAL, &cleanup), []);
    assert_eq!(setup.deliver(PEER, &cleanup), [Output::CleanupKeys]);
    // The original does not wait: both messages of it may come first.
    let mut setup = begin();
    assert_eq!(setup.deliver(PEER, &activate), first);
    assert_eq!(setup.deliver(PEER, &cleanup), []);
    assert_eq!(setup.deliver(LOCAL, &cleanup), [Output::CleanupKeys]);
    // And it forgets the old key then, which can not be waited for.
    let mut setup = begin();
    assert_eq!(setup.deliver(PEER, &cleanup), first);
    assert_eq!(setup.deliver(PEER, &activate), []);
    assert_eq!(setup.deliver(LOCAL, &activate), []);
    assert_eq!(setup.deliver(LOCAL, &cleanup), [Output::CleanupKeys]);
    // One who leaves is not waited for.
    let mut setup = begin();
    setup.cfg.set_members(&[LOCAL]);
    assert_eq!(setup.drain(), first);
    assert_eq!(setup.deliver(LOCAL, &cleanup), [Output::CleanupKeys]);
}

#[test]
fn who_uses_the_new_key_before_all_accept_it_is_followed() {
    let activate = Message::CryptoReconfig(CryptoPhase::Activate);
    let cleanup = Message::CryptoReconfig(CryptoPhase::Cleanup);
    let mut setup = Setup::new();
    setup.cfg.set_members(&[LOCAL, PEER, NodeId(9)]);
    setup.cfg.next_keys_used();
    setup.cfg.follow();
    assert_eq!(setup.drain(), [], "nothing was loaded");
    setup.deliver(PEER, &Message::Reload(Source::default()));
    setup
        .cfg
        .reload_done(Reloaded::Applied { keys_changed: true });
    assert_eq!(setup.drain().last(), Some(&mcast(activate.clone())));
    // The others may not have it yet: the token has to pass first.
    setup.cfg.next_keys_used();
    assert_eq!(setup.drain(), [Output::Repeat]);
    setup.cfg.follow();
    assert_eq!(
        setup.drain(),
        [Output::ActivateKeys, mcast(cleanup.clone())]
    );
    // It goes by its own messages as little as the members that were late.
    for late in [LOCAL, PEER, NodeId(9)] {
        assert_eq!(setup.deliver(late, &activate), []);
    }
    for member in [PEER, NodeId(9)] {
        assert_eq!(setup.deliver(member, &cleanup), []);
    }
    assert_eq!(setup.deliver(LOCAL, &cleanup), [Output::CleanupKeys]);
    // What came late does not count for the next change.
    setup.deliver(PEER, &Message::Reload(Source::default()));
    setup
        .cfg
        .reload_done(Reloaded::Applied { keys_changed: true });
    setup.drain();
    assert_eq!(setup.deliver(LOCAL, &activate), []);
    assert_eq!(setup.deliver(PEER, &activate), []);
    let steps = [Output::ActivateKeys, mcast(cleanup)];
    assert_eq!(setup.deliver(NodeId(9), &activate), steps);
}

/// A node with the keys that it accepts; the first one is what it sends with.
struct Rekeyed {
    cfg: Cfg,
    delivered: usize,
    current: usize,
    other: Option<usize>,
    queue: VecDeque<Message>,
}

/// Runs changes of keys on three nodes that get the same messages, each at its own pace, and sends
/// its own when its turn comes. All must be able to read all the time.
fn rekey(turns: &[(usize, bool)], first: CryptoRace) {
    let ids = [NodeId(1), NodeId(2), NodeId(3)];
    let mut nodes: Vec<_> = ids
        .map(|id| {
            let mut cfg = Cfg::new(id);
            cfg.set_members(&ids);
            let queue = VecDeque::new();
            Rekeyed {
                cfg,
                delivered: 0,
                current: 0,
                other: None,
                queue,
            }
        })
        .into();
    let mut stream = vec![(ids[0], own_reload(0))];
    let all = (0..200)
        .flat_map(|_| [0, 1, 2])
        .flat_map(|node| [(node, true), (node, false)]);
    for (index, sends) in turns.iter().copied().chain(all) {
        let node = &mut nodes[index];
        if sends {
            // A slow one has much else to send before.
            let waits = first.0 == index && stream.len() < first.1;
            let message = if waits { None } else { node.queue.pop_front() };
            stream.extend(message.map(|message| (ids[index], message)));
        } else if let Some((sender, message)) = stream.get(node.delivered) {
            node.delivered += 1;
            node.cfg.handle_message(*sender, message);
        }
        while let Some(output) = node.cfg.poll_output() {
            match output {
                Output::Mcast { message, .. } => node.queue.push_back(message),
                Output::Reload => {
                    node.other = Some(1);
                    node.cfg
                        .reload_done(Reloaded::Applied { keys_changed: true });
                }
                Output::ActivateKeys => {
                    let old = std::mem::replace(&mut node.current, node.other.unwrap());
                    node.other = Some(old);
                }
                Output::CleanupKeys => node.other = None,
                _ => {}
            }
        }
        // Everybody reads what everybody sends, however far it has come.
        for sender in &nodes {
            for receiver in &nodes {
                let key = sender.current;
                assert!(key == receiver.current || Some(key) == receiver.other);
            }
        }
    }
    for node in &nodes {
        assert_eq!((node.current, node.other), (1, None));
    }
}

/// A node, and how many messages of others go before its own.
#[derive(Clone, Copy, Debug)]
struct CryptoRace(usize, usize);

#[derive(Clone, Debug)]
enum Step {
    Ask(u64, Request),
    Gone(u64),
    Deliver(u32, Message),
    Own,
    Done(Reloaded),
    Wait(u64),
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        Just(Request::RingStatus),
        Just(Request::RingReenable),
        (0..4_u32, ".{0,300}").prop_map(|(nodeid, reason)| Request::KillNode { nodeid, reason }),
        (0..4_u32).prop_map(|flags| Request::TryShutdown { flags }),
        any::<bool>().prop_map(|yes| Request::ReplyToShutdown { yes }),
        (0..4_u32).prop_map(|nodeid| Request::NodeAddresses { nodeid }),
        Just(Request::LocalNode),
        Just(Request::Reload),
        Just(Request::ReopenLogs),
        (0..4_u32, 0..3_u32).prop_map(|(nodeid, version)| Request::NodeStatus { nodeid, version }),
        Just(Request::TrackStart),
        Just(Request::TrackStop),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let bytes = prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    prop_oneof![
        (0..9_u64).prop_map(|connection| Message::Reload(Source {
            node: LOCAL,
            connection
        })),
        (0..3_u32, bytes).prop_map(|(node, reason)| Message::KillNode {
            node: NodeId(node),
            reason
        }),
        Just(Message::Shutdown),
        Just(Message::CryptoReconfig(CryptoPhase::Activate)),
        Just(Message::CryptoReconfig(CryptoPhase::Cleanup)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..5_u64, request()).prop_map(|(client, request)| Step::Ask(client, request)),
        1 => (0..5_u64).prop_map(Step::Gone),
        2 => (2..4_u32, message()).prop_map(|(sender, message)| Step::Deliver(sender, message)),
        4 => Just(Step::Own),
        2 => any::<bool>().prop_map(|keys_changed| Step::Done(Reloaded::Applied { keys_changed })),
        1 => (0..6000_u64).prop_map(Step::Wait),
    ]
}

/// Messages on the way and requests without an answer.
#[derive(Default)]
struct Open {
    on_the_way: VecDeque<Message>,
    unanswered: BTreeMap<ClientId, usize>,
    prepared: bool,
}

impl Open {
    fn take(&mut self, setup: &mut Setup) {
        for output in setup.drain() {
            match output {
                Output::Mcast { message, .. } => self.on_the_way.push_back(message),
                Output::Respond(client, _) => {
                    let open = self.unanswered.get_mut(&client).expect("a request");
                    *open = open.checked_sub(1).expect("one answer to each request");
                }
                Output::ActivateKeys => assert!(self.prepared),
                Output::CleanupKeys => self.prepared = false,
                _ => {}
            }
        }
    }
}

proptest! {
    #[test]
    fn a_change_of_keys_loses_no_datagram(
        turns in prop::collection::vec((0..3_usize, any::<bool>()), 0..60),
        slow in 0..3_usize,
    ) {
        // The slow one speaks after both others have taken their first step.
        rekey(&turns, CryptoRace(slow, 3));
    }

    #[test]
    fn each_request_is_answered_once_and_little_is_kept(
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let (mut setup, mut open) = (Setup::new(), Open::default());
        for step in steps {
            match step {
                Step::Ask(client, request) => {
                    *open.unanswered.entry(ClientId(client)).or_default() += 1;
                    setup.cfg.handle_request(setup.now, ClientId(client), request, &setup.view);
                }
                Step::Gone(client) => {
                    setup.cfg.client_gone(ClientId(client));
                    open.unanswered.remove(&ClientId(client));
                }
                Step::Deliver(sender, message) => setup.cfg.handle_message(NodeId(sender), &message),
                Step::Own => {
                    if let Some(message) = open.on_the_way.pop_front() {
                        setup.cfg.handle_message(LOCAL, &message);
                    }
                }
                Step::Done(result) => {
                    let counts = setup.cfg.running.is_some();
                    open.prepared |= counts && result != Reloaded::Refused;
                    setup.cfg.reload_done(result);
                }
                Step::Wait(ms) => {
                    setup.now += Duration::from_millis(ms);
                    setup.cfg.handle_timeout(setup.now);
                }
            }
            open.take(&mut setup);
            let waiting = [&setup.cfg.running, &setup.cfg.next];
            let kept: usize = waiting.into_iter().flatten().map(BTreeSet::len).sum();
            prop_assert!(kept + setup.cfg.asked.len() <= 10);
            prop_assert!(setup.cfg.trackers.len() <= 5);
        }
        // Once all messages have come and all files are read, nobody waits any more.
        setup.now += Duration::from_secs(60);
        setup.cfg.handle_timeout(setup.now);
        open.take(&mut setup);
        for _ in 0..2000 {
            match open.on_the_way.pop_front() {
                Some(message) => setup.cfg.handle_message(LOCAL, &message),
                None if setup.cfg.running.is_some() => setup.cfg.reload_done(Reloaded::Refused),
                None => break,
            }
            open.take(&mut setup);
        }
        prop_assert_eq!(open.unanswered.values().sum::<usize>(), 0);
        prop_assert!(setup.cfg.running.is_none() && setup.cfg.next.is_none());
        prop_assert_eq!((setup.cfg.activations, setup.cfg.cleanups), (0, 0));
    }
}
