use proptest::prelude::*;

use super::*;
use crate::config::test_host::TestHost;
use crate::config::{Change, Note};
use crate::qb::vectors::{Direction, frames};
use crate::service::cmap::track;

const LOCAL: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);
const THIRD: NodeId = NodeId(3);
const CLIENT: ClientId = ClientId(1);
const RING: RingId = RingId { rep: LOCAL, seq: 8 };
const FILE: &str = "totem {\n version: 2\n cluster_name: testcluster\n config_version: 4\n}\n\
    quorum {\n provider: corosync_votequorum\n}\nnodelist {\n node {\n  name: n1\n  nodeid: 1\n  \
    quorum_votes: 1\n  ring0_addr: 10.77.0.1\n  ring1_addr: 10.77.1.1\n }\n";
const SECOND: &str = " node {\n  name: n2\n  nodeid: 2\n  quorum_votes: 1\n  ring0_addr: \
    10.77.0.2\n  ring1_addr: 10.77.1.2\n }\n";

fn config(nodes: &[&str]) -> Config {
    let text = format!("{FILE}{}}}\n", nodes.concat());
    Config::read(text.as_bytes(), &TestHost).unwrap()
}

struct Picture {
    config: Config,
    traffic: Traffic,
    statistics: Statistics,
}

impl View for Picture {
    fn config(&self) -> &Config {
        &self.config
    }
    fn traffic(&self) -> Traffic {
        self.traffic.clone()
    }
    fn statistics(&self) -> Statistics {
        self.statistics.clone()
    }
}

struct Setup {
    cmap: Cmap,
    view: Picture,
    now: Instant,
}

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn base() -> Instant {
    Instant::now()
}

impl Setup {
    fn new(nodes: &[&str]) -> Self {
        let config = config(nodes);
        let cmap = Cmap::new(LOCAL, &config);
        let view = Picture {
            config,
            traffic: Traffic::default(),
            statistics: Statistics::default(),
        };
        let now = base();
        Self { cmap, view, now }
    }

    fn ask(&mut self, request: Request) -> Vec<Output> {
        self.cmap
            .handle_request(self.now, CLIENT, request, &self.view);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.cmap.poll_output()).collect()
    }

    fn set(&mut self, key: &str, value: Raw) -> Vec<Output> {
        let key = key.to_owned();
        self.ask(Request::Set { key, value })
    }

    fn value(&self, key: &str) -> Option<&Raw> {
        self.cmap.map().value(key)
    }

    fn hear(&mut self, sender: NodeId, reason: Reason, version: u64) {
        let message = telling(reason, version);
        self.cmap.handle_message(sender, &message);
    }

    /// A sync phase in which node 2 tells a version.
    fn sync(&mut self, transitional: &[NodeId], theirs: u64) -> Vec<Output> {
        self.cmap.sync_init(&[LOCAL, PEER], transitional, RING);
        self.cmap.sync_process();
        assert!(matches!(
            &self.drain()[..],
            [Output::Mcast {
                lane: Lane::Sync,
                ..
            }]
        ));
        let own = self.cmap.version();
        self.hear(LOCAL, Reason::Sync, own);
        self.hear(PEER, Reason::Sync, theirs);
        self.cmap.sync_activate();
        self.drain()
    }
}

fn telling(reason: Reason, version: u64) -> Message {
    let item = Item {
        key: Bytes::from_static(VERSION.as_bytes()),
        kind: Item::KIND_U64,
        value: Bytes::copy_from_slice(&version.to_le_bytes()),
    };
    let items = vec![item];
    Message { reason, items }
}

fn done(response: Response) -> Output {
    Output::Respond(CLIENT, response)
}

const SET: Response = Response::Set(Status::OK);

fn only_stop(outputs: Vec<Output>) -> Vec<Output> {
    let logs = |output: &Output| matches!(output, Output::Log(Log::OtherVersion { .. }));
    outputs.into_iter().filter(|output| !logs(output)).collect()
}

/// Captured conversations of the original's tools get the same answers from a map that was filled
/// from the same file.
fn replay(file: &str, nodes: &[&str], compared: usize) {
    let mut setup = Setup::new(nodes);
    let facts = keys::VoteFacts {
        this_node_id: 1,
        ..keys::VoteFacts::default()
    };
    setup.cmap.update(|map| keys::put_votes(map, &facts));
    setup.cmap.update(|map| map.set(VERSION, Raw::u64(3)));
    let (mut handles, mut last, mut count) = (BTreeMap::new(), None, 0);
    for frame in frames(file) {
        // What clients are connected at the moment differs.
        if frame.note.contains("stats.ipcs") {
            break;
        }
        if !frame.note.starts_with("cmap ") {
            continue;
        }
        if frame.direction == Direction::Request {
            let request = match Request::decode(&frame.bytes).unwrap() {
                // The map of each connection is the same here.
                Request::SetCurrentMap { map: 1 } => break,
                Request::IterNext { handle } => Request::IterNext {
                    handle: handles[&handle],
                },
                Request::IterFinalize { handle } => Request::IterFinalize {
                    handle: handles[&handle],
                },
                // Walks that the tool left open.
                Request::SetCurrentMap { map } => {
                    setup.cmap.client_gone(CLIENT);
                    Request::SetCurrentMap { map }
                }
                other => other,
            };
            last = Some(setup.ask(request));
            continue;
        }
        let outputs: Vec<Output> = last.take().unwrap();
        let [Output::Respond(_, ours)] = &outputs[..] else {
            panic!("{}: {outputs:?}", frame.note);
        };
        let mut ours = ours.clone();
        let theirs = Response::decode(&frame.bytes).unwrap();
        if let (Response::IterInit(Ok(ours)), Response::IterInit(Ok(theirs)))
        | (Response::TrackAdd(Ok(ours)), Response::TrackAdd(Ok(theirs))) = (&mut ours, &theirs)
        {
            handles.insert(*theirs, *ours);
            *ours = *theirs;
        }
        assert!(
            frame.matches(&ours.encode().to_bytes()),
            "{}: {theirs:?}, not {ours:?}",
            frame.note
        );
        count += 1;
    }
    assert_eq!(count, compared);
}

#[test]
fn tools_read_what_the_original_shows() {
    replay("ipc/tool-cmapctl.hex", &[], 23);
    replay("ipc/tool-2node.hex", &[SECOND], 93);
    replay("ipc/pmxcfs-boot.hex", &[SECOND], 26);
}

#[test]
fn a_node_tells_its_version_and_learns_others() {
    let mut setup = Setup::new(&[SECOND]);
    setup.cmap.sync_init(&[LOCAL, PEER], &[LOCAL], RING);
    setup.cmap.sync_process();
    let lane = Lane::Sync;
    let message = telling(Reason::Sync, 4);
    assert_eq!(setup.drain(), [Output::Mcast { lane, message }]);
    setup.hear(PEER, Reason::Sync, 3);
    let shown = setup.value("runtime.members.2.config_version");
    assert_eq!(shown, Some(&Raw::u64(3)));
    setup.hear(PEER, Reason::Other(7), 9);
    let shown = setup.value("runtime.members.2.config_version");
    assert_eq!(shown, Some(&Raw::u64(3)));
    let mut broken = telling(Reason::NewConfigVersion, 5);
    broken.items[0].value = Bytes::from_static(b"123");
    setup.cmap.handle_message(PEER, &broken);
    let shown = setup.value("runtime.members.2.config_version");
    assert_eq!(shown, Some(&Raw::u64(0)));
}

#[test]
fn a_node_with_an_old_configuration_stops_when_it_first_meets_others() {
    let mut setup = Setup::new(&[SECOND]);
    // Alone at first, as all nodes are.
    assert_eq!(only_stop(setup.sync(&[], 9)), []);
    let log = Log::OtherVersion {
        node: PEER,
        version: 9,
        own: 4,
    };
    let stop = Output::Stop { own: 4, highest: 9 };
    assert_eq!(setup.sync(&[LOCAL], 9), [Output::Log(log), stop]);
    // Later differences are told alone.
    assert_eq!(only_stop(setup.sync(&[LOCAL], 9)), []);
}

#[test]
fn a_newer_or_unversioned_node_goes_on() {
    for theirs in [4, 3, 0] {
        let mut setup = Setup::new(&[SECOND]);
        assert_eq!(only_stop(setup.sync(&[LOCAL], theirs)), []);
    }
    let mut setup = Setup::new(&[SECOND]);
    setup.cmap.update(|map| map.remove(VERSION));
    setup.cmap.sync_init(&[LOCAL, PEER], &[LOCAL], RING);
    setup.cmap.sync_process();
    let [Output::Mcast { message, .. }] = &setup.drain()[..] else {
        panic!("no message");
    };
    assert_eq!(
        (message.items[0].kind, message.items[0].value.len()),
        (Item::KIND_ABSENT, 0)
    );
    setup.hear(PEER, Reason::Sync, 9);
    setup.cmap.sync_activate();
    assert_eq!(only_stop(setup.drain()), []);
}

#[test]
fn an_aborted_phase_decides_nothing() {
    let mut setup = Setup::new(&[SECOND]);
    setup.cmap.sync_init(&[LOCAL, PEER, THIRD], &[LOCAL], RING);
    setup.hear(PEER, Reason::Sync, 9);
    setup.cmap.sync_abort();
    setup.drain();
    assert_eq!(only_stop(setup.sync(&[LOCAL], 4)), []);
}

#[test]
fn a_reload_is_shown_from_begin_to_end() {
    let mut setup = Setup::new(&[SECOND]);
    let tracked = Request::TrackAdd {
        key: "config.totemconfig_reload_in_progress".to_owned(),
        kinds: track::ADD | track::MODIFY,
        client_handle: 5,
    };
    setup.ask(tracked);
    let mut newer = config(&[SECOND]);
    newer
        .keys
        .change(VERSION, Some(crate::config::Value::U64(5)));
    newer
        .keys
        .change("totem.token", Some(crate::config::Value::U32(5000)));
    newer.totem.timers.token = 5000;
    setup.cmap.reloaded(Ok(&newer));
    let outputs = setup.drain();
    let flags: Vec<_> = outputs
        .iter()
        .filter_map(|output| match output {
            Output::Event(CLIENT, event) => event.new.clone(),
            _ => None,
        })
        .collect();
    assert_eq!(flags, [Raw::u8(1), Raw::u8(0)]);
    let told = Output::Mcast {
        lane: Lane::Ordinary,
        message: telling(Reason::NewConfigVersion, 5),
    };
    assert_eq!(outputs.last(), Some(&told));
    assert_eq!(setup.value("config.reload_status"), Some(&Raw::i32(1)));
    let effective = setup.value("runtime.config.totem.token");
    assert_eq!(effective, Some(&Raw::u32(5000)));
    let position = setup.value("nodelist.local_node_pos");
    assert_eq!(position, Some(&Raw::u32(0)));
    let refusal = Refusal::OlderVersion {
        running: 5,
        wanted: 4,
    };
    setup.cmap.reloaded(Err(&refusal));
    setup.drain();
    assert_eq!(setup.value("config.reload_status"), Some(&Raw::i32(7)));
    assert!(setup.value("config.reload_error_message").is_some());
    assert_eq!(setup.value("totem.token"), Some(&Raw::u32(5000)));
    let flag = setup.value("config.reload_in_progress");
    assert_eq!(flag, Some(&Raw::u8(0)));
}

#[test]
fn a_reload_tells_of_what_changed_alone() {
    let mut setup = Setup::new(&[SECOND]);
    let all = Request::TrackAdd {
        key: String::new(),
        kinds: track::ADD | track::MODIFY | track::DELETE | track::PREFIX,
        client_handle: 5,
    };
    setup.ask(all);
    setup.cmap.reloaded(Ok(&config(&[SECOND])));
    let keys = |outputs: Vec<Output>| -> Vec<String> {
        let key = |output| match output {
            Output::Event(_, event) => Some(event.key),
            _ => None,
        };
        outputs.into_iter().filter_map(key).collect()
    };
    let outputs = setup.drain();
    assert!(keys(outputs).iter().all(|key| key.starts_with("config.")));
    setup.cmap.reloaded(Ok(&config(&[])));
    let outputs = setup.drain();
    let of_list = |key: &&String| key.starts_with("nodelist.");
    assert_eq!(keys(outputs).iter().filter(of_list).count(), 5);
}

#[test]
fn settings_that_clients_write_act() {
    let mut setup = Setup::new(&[SECOND]);
    let outputs = setup.set("totem.token", Raw::u32(5000));
    let [Output::Reconfigure(reload), answer] = &outputs[..] else {
        panic!("{outputs:?}");
    };
    assert_eq!(*answer, done(SET));
    assert_eq!(reload.plan.config.totem.timers.token, 5000);
    assert!(reload.notes.contains(&Note::Changed(Change::Timers)));
    let effective = setup.value("runtime.config.totem.token");
    assert_eq!(effective, Some(&Raw::u32(5000)));
    let outputs = setup.set("quorum.expected_votes", Raw::u32(3));
    assert!(
        matches!(&outputs[0], Output::Reconfigure(reload) if reload.plan.changes == [Change::Quorum])
    );
    // The map keeps what is not valid, the daemon does not use it.
    let outputs = setup.set("totem.token", Raw::u32(3));
    assert!(matches!(
        &outputs[..],
        [Output::Log(Log::NotUsed { .. }), _]
    ));
    assert_eq!(setup.value("totem.token"), Some(&Raw::u32(3)));
    assert_eq!(setup.set("my.own.key", Raw::u32(3)), [done(SET)]);
    let refused = done(Response::Set(Status::ACCESS));
    for key in [
        "totem.transport",
        "nodelist.node.0.nodeid",
        "quorum.two_node.x",
        "system.priority",
    ] {
        let outputs = setup.set(key, Raw::text("udp"));
        assert_eq!(outputs.last() == Some(&refused), !key.starts_with("quorum"));
    }
}

#[test]
fn a_new_version_is_told() {
    let mut setup = Setup::new(&[SECOND]);
    let told = Output::Mcast {
        lane: Lane::Ordinary,
        message: telling(Reason::NewConfigVersion, 6),
    };
    assert_eq!(setup.set(VERSION, Raw::u64(6)), [told, done(SET)]);
    assert_eq!(setup.set(VERSION, Raw::u64(6)), [done(SET)]);
}

#[test]
fn keys_that_start_something_go_back() {
    let mut setup = Setup::new(&[SECOND]);
    let cancel = setup.set(CANCEL_WAIT_FOR_ALL, Raw::u8(1));
    assert_eq!(cancel, [Output::CancelWaitForAll, done(SET)]);
    assert_eq!(setup.value(CANCEL_WAIT_FOR_ALL), Some(&Raw::u8(0)));
    assert_eq!(setup.set(CANCEL_WAIT_FOR_ALL, Raw::u8(0)), [done(SET)]);
    for (key, output) in [
        (keys::FORCE_GATHER, Output::ForceGather),
        (keys::DUMP_STATE, Output::DumpState),
        (keys::DUMP_FLIGHT_DATA, Output::DumpFlightData),
    ] {
        assert_eq!(setup.set(key, Raw::text("yes")), [output, done(SET)]);
        assert_eq!(setup.value(key), Some(&Raw::text("no")));
        assert_eq!(setup.set(key, Raw::text("no")), [done(SET)]);
    }
}

#[test]
fn counters_are_computed_when_somebody_looks() {
    let mut setup = Setup::new(&[SECOND]);
    let key = || "runtime.services.cfg.3.rx".to_owned();
    assert_eq!(setup.value(&key()), None);
    setup.view.traffic.received(1, 3);
    setup.view.traffic.received(9, 9);
    let get = |setup: &mut Setup| {
        let outputs = setup.ask(Request::Get {
            key: key(),
            room: 8,
        });
        match outputs.as_slice() {
            [Output::Respond(_, Response::Get { value, .. })] => value[0],
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(get(&mut setup), 1);
    setup.view.traffic.received(1, 3);
    assert_eq!(get(&mut setup), 1);
    setup.now += FRESH;
    assert_eq!(get(&mut setup), 2);
    setup.view.statistics.connections = vec![keys::Connection::default(); 3];
    setup.ask(Request::SetCurrentMap { map: 1 });
    let key = "stats.ipcs.global.active".to_owned();
    let outputs = setup.ask(Request::Get { key, room: 0 });
    assert!(matches!(
        &outputs[..],
        [Output::Respond(_, Response::Get { length: 8, .. })]
    ));
    let outputs = setup.set("stats.clear.knet", Raw::u32(1));
    assert_eq!(
        outputs,
        [Output::ClearStatistics(Counters::Knet), done(SET)]
    );
    // What is read right after that is counted anew.
    setup.view.statistics.connections.clear();
    let key = "stats.ipcs.global.active".to_owned();
    let outputs = setup.ask(Request::Get { key, room: 8 });
    assert!(matches!(
        &outputs[..],
        [Output::Respond(_, Response::Get { value, .. })] if value[..] == [0; 8]
    ));
    let outputs = setup.set("stats.clear.nothing", Raw::u32(1));
    assert_eq!(outputs, [done(Response::Set(Status::NOT_SUPPORTED))]);
}

#[test]
fn who_tracks_counters_is_told_now_and_then() {
    let mut setup = Setup::new(&[SECOND]);
    setup.ask(Request::SetCurrentMap { map: 1 });
    assert_eq!(setup.cmap.poll_timeout(), None);
    setup.ask(Request::TrackAdd {
        key: "stats.srp.mcast_tx".to_owned(),
        kinds: track::MODIFY,
        client_handle: 5,
    });
    let due = setup.now + TOLD_EVERY;
    assert_eq!(setup.cmap.poll_timeout(), Some(due));
    setup.view.statistics.ring.messages_sent = 7;
    setup.cmap.handle_timeout(due - FRESH, &setup.view);
    assert_eq!(setup.drain(), []);
    setup.cmap.handle_timeout(due, &setup.view);
    let outputs = setup.drain();
    assert!(
        matches!(&outputs[..], [Output::Event(CLIENT, event)] if event.new == Some(Raw::u64(7)))
    );
    setup.cmap.client_gone(CLIENT);
    assert_eq!(setup.cmap.poll_timeout(), None);
}

#[test]
fn root_and_those_named_have_access() {
    let mut setup = Setup::new(&[SECOND]);
    assert!(setup.cmap.allows(0, 5) && setup.cmap.allows(5, 0));
    assert!(!setup.cmap.allows(5, 6));
    setup.set("uidgid.gid.6", Raw::u8(1));
    assert!(setup.cmap.allows(5, 6));
    setup.set("uidgid.gid.6", Raw::u8(2));
    assert!(!setup.cmap.allows(5, 6));
    setup
        .cmap
        .update(|map| map.set("uidgid.config.uid.5", Raw::u8(1)));
    assert!(setup.cmap.allows(5, 6));
}

fn raw() -> impl Strategy<Value = Raw> {
    let bytes = prop::collection::vec(any::<u8>(), 0..12);
    (0..14_u8, bytes).prop_map(|(kind, bytes)| Raw { kind, bytes })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        "(totem|quorum|logging|nodelist|runtime|stats[.]clear)[.][a-z_]{1,9}",
        prop::sample::select(vec![
            VERSION,
            CANCEL_WAIT_FOR_ALL,
            "totem.token",
            "totem.consensus",
            "quorum.expected_votes",
            "quorum.device.model",
            "runtime.force_gather",
            "runtime.services.",
            "logging.debug",
        ])
        .prop_map(str::to_owned),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        4 => (key(), raw()).prop_map(|(key, value)| Request::Set { key, value }),
        2 => (key(), any::<u32>()).prop_map(|(key, n)| Request::Set { key, value: Raw::u32(n) }),
        1 => key().prop_map(|key| Request::Delete { key }),
        1 => (key(), any::<u64>()).prop_map(|(key, room)| Request::Get { key, room }),
        1 => (key(), any::<i32>()).prop_map(|(key, step)| Request::Adjust { key, step }),
        1 => key().prop_map(|prefix| Request::IterInit { prefix }),
        1 => (0..4_u64).prop_map(|handle| Request::IterNext { handle }),
        1 => (key(), 0..20_u32).prop_map(|(key, kinds)| Request::TrackAdd { key, kinds, client_handle: 1 }),
        1 => (0..3_u32).prop_map(|map| Request::SetCurrentMap { map }),
    ]
}

proptest! {
    /// Whatever a client asks for, it gets one answer, the last thing of its request, and what is
    /// put in force is a configuration of this cluster with this node in it.
    #[test]
    fn requests_are_answered_once_and_never_break_the_configuration(
        requests in prop::collection::vec(request(), 0..60),
    ) {
        let mut setup = Setup::new(&[SECOND]);
        for request in requests {
            let outputs = setup.ask(request);
            let answers = outputs.iter().filter(|o| matches!(o, Output::Respond(..))).count();
            prop_assert_eq!(answers, 1);
            prop_assert!(matches!(outputs.last(), Some(Output::Respond(..))));
            for output in outputs {
                if let Output::Reconfigure(reload) = output {
                    setup.view.config = reload.plan.config;
                }
            }
            let config = &setup.view.config;
            prop_assert_eq!(config.local_node().map(|node| node.id), Some(1));
            prop_assert_eq!(config.totem.cluster_name.as_deref(), Some("testcluster"));
            prop_assert!(setup.cmap.map().iter().count() < 300);
        }
    }

    #[test]
    fn messages_of_others_keep_little(
        messages in prop::collection::vec((0..40_u32, any::<bool>(), any::<u64>()), 0..200),
    ) {
        let mut setup = Setup::new(&[SECOND]);
        setup.cmap.sync_init(&[LOCAL, PEER], &[LOCAL], RING);
        for (sender, sync, version) in messages {
            let reason = if sync { Reason::Sync } else { Reason::NewConfigVersion };
            setup.hear(NodeId(sender), reason, version);
            prop_assert!(setup.cmap.versions.len() == 2);
        }
    }
}
