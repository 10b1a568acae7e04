use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::layout::Message;
use super::*;
use crate::qb::vectors::{Direction, frames};
use crate::qb::{self, Options, Server};

/// Handles that the original made up, and ours for them.
type Handles = BTreeMap<u64, u64>;

/// Puts our handle where the captured client used that of the original.
fn mapped(request: Request, handles: &Handles) -> Request {
    let ours = |handle: u64| handles.get(&handle).copied().unwrap_or(u64::MAX);
    match request {
        Request::IterNext { handle } => Request::IterNext {
            handle: ours(handle),
        },
        Request::IterFinalize { handle } => Request::IterFinalize {
            handle: ours(handle),
        },
        Request::TrackDelete { handle } => Request::TrackDelete {
            handle: ours(handle),
        },
        other => other,
    }
}

/// The captured conversation of a client that tries everything gets the same answers.
#[test]
fn answers_are_those_of_the_original() {
    let mut map = Map::default();
    map.set("totem.version", Raw::u32(2));
    map.set("totem.cluster_name", Raw::text("testcluster"));
    map.set("runtime.members.1.status", Raw::text("joined"));
    map.set_statistic("stats.srp.mcast_tx", Raw::u64(14));
    let (mut handles, mut client, mut last) = (Handles::new(), 0, None);
    let (mut compared, mut events) = (0, VecDeque::new());
    for frame in frames("ipc/cs-cmap.hex") {
        match frame.direction {
            Direction::Request => {
                let request = Request::decode(&frame.bytes).unwrap();
                if matches!(request, Request::SetCurrentMap { .. }) {
                    // Each of them is on a connection of its own.
                    map.client_gone(ClientId(client));
                    client += 1;
                }
                last = Some(
                    map.handle_request(ClientId(client), mapped(request, &handles))
                        .response,
                );
                events.extend(std::iter::from_fn(|| map.poll_event()));
            }
            Direction::Response => {
                let mut ours = last.take().unwrap();
                let theirs = Response::decode(&frame.bytes).unwrap();
                match (&mut ours, &theirs) {
                    (Response::IterInit(Ok(ours)), Response::IterInit(Ok(theirs)))
                    | (Response::TrackAdd(Ok(ours)), Response::TrackAdd(Ok(theirs))) => {
                        handles.insert(*theirs, *ours);
                        *ours = *theirs;
                    }
                    _ => {}
                }
                let ours = ours.encode().to_bytes();
                assert!(frame.matches(&ours), "{}: {:?}", frame.note, theirs);
                compared += 1;
            }
            Direction::Event => {
                let (_, event) = events.pop_front().unwrap();
                assert!(
                    frame.matches(&event.encode().to_bytes()),
                    "{}: {event:?}",
                    frame.note
                );
                compared += 1;
            }
            Direction::OneWay => unreachable!("cmap has none"),
        }
    }
    assert_eq!(compared, 33);
}

#[test]
fn clients_make_so_many_keys_and_no_more() {
    let mut map = Map::default();
    let set = |map: &mut Map, number: usize| {
        let key = format!("my.key.{number}");
        let value = Raw::u8(1);
        map.handle_request(ClientId(1), Request::Set { key, value })
            .response
    };
    for number in 0..KEYS_MAX {
        assert_eq!(set(&mut map, number), Response::Set(Status::OK));
    }
    let full = Response::Set(Status::NO_RESOURCES);
    assert_eq!(set(&mut map, KEYS_MAX), full);
    assert_eq!(set(&mut map, 0), Response::Set(Status::OK));
    let key = "my.key.0".to_owned();
    map.handle_request(ClientId(1), Request::Delete { key });
    assert_eq!(set(&mut map, KEYS_MAX), Response::Set(Status::OK));
}

#[test]
fn texts_are_stored_with_one_nul() {
    let text = |bytes: &[u8]| {
        checked(Raw {
            kind: kind::TEXT,
            bytes: bytes.to_vec(),
        })
    };
    for bytes in [&b"hello"[..], b"hello\0"] {
        assert_eq!(text(bytes), Some(Raw::text("hello")));
    }
    assert_eq!(text(b""), Some(Raw::text("")));
    assert_eq!(text(b"hello\0\0"), None);
    assert_eq!(text(b"he\0llo"), None);
    assert_eq!(text(&[b'x'; VALUE_MAX + 1]), None);
    assert_eq!(
        checked(Raw {
            kind: kind::U32,
            bytes: vec![0; 8]
        }),
        None
    );
    assert_eq!(
        checked(Raw {
            kind: 13,
            bytes: vec![0]
        }),
        None
    );
}

#[test]
fn a_walk_survives_changes() {
    let mut map = Map::default();
    for key in ["a.1", "a.2", "a.3", "b.1"] {
        map.set(key, Raw::u8(1));
    }
    let init = Request::IterInit {
        prefix: "a.".into(),
    };
    let Response::IterInit(Ok(handle)) = map.handle_request(ClientId(1), init).response else {
        panic!()
    };
    let next = |map: &mut Map| match map
        .handle_request(ClientId(1), Request::IterNext { handle })
        .response
    {
        Response::IterNext(result) => result.map(|(key, ..)| key),
        other => panic!("{other:?}"),
    };
    assert_eq!(next(&mut map).as_deref(), Ok("a.1"));
    map.remove("a.1");
    map.remove("a.2");
    map.set("a.11", Raw::u8(2));
    assert_eq!(next(&mut map).as_deref(), Ok("a.11"));
    assert_eq!(next(&mut map).as_deref(), Ok("a.3"));
    assert_eq!(next(&mut map), Err(Status::NO_SECTIONS));
}

#[test]
fn handles_of_a_client_are_bounded_and_its_own() {
    let mut map = Map::default();
    let init = |map: &mut Map, client| {
        map.handle_request(
            client,
            Request::IterInit {
                prefix: String::new(),
            },
        )
        .response
    };
    for _ in 0..HANDLES_MAX {
        assert!(matches!(
            init(&mut map, ClientId(1)),
            Response::IterInit(Ok(_))
        ));
    }
    assert_eq!(
        init(&mut map, ClientId(1)),
        Response::IterInit(Err(Status::NO_RESOURCES))
    );
    let Response::IterInit(Ok(handle)) = init(&mut map, ClientId(2)) else {
        panic!()
    };
    let stolen = map
        .handle_request(ClientId(1), Request::IterNext { handle })
        .response;
    assert_eq!(stolen, Response::IterNext(Err(Status::BAD_HANDLE)));
    let room = Request::Get {
        key: "a.b".into(),
        room: u64::MAX,
    };
    map.set("a.b", Raw::u8(1));
    assert_eq!(
        map.handle_request(ClientId(1), room).response,
        Response::NotGot(Status::INVALID_PARAM)
    );
}

#[test]
fn a_new_file_removes_what_it_lacks() {
    let keys = |text: &str| {
        let document = crate::config::Document::parse(text.as_bytes()).unwrap();
        Keys::read(&document, &NoHost).unwrap()
    };
    let mut map = Map::default();
    map.set("runtime.x", Raw::u8(1));
    map.load(&keys("totem {\n version: 2\n token: 5\n}\n"));
    map.set("nodelist.local_node_pos", Raw::u32(0));
    map.load(&keys(
        "totem {\n version: 2\n}\nnodelist {\n node {\n nodeid: 4\n }\n}\n",
    ));
    let all: Vec<_> = map.iter().map(|(key, _)| key).collect();
    assert_eq!(
        all,
        [
            "nodelist.local_node_pos",
            "nodelist.node.0.nodeid",
            "runtime.x",
            "totem.version"
        ]
    );
}

struct NoHost;

impl crate::config::Host for NoHost {
    fn name(&self) -> String {
        String::new()
    }
    fn addresses(&self) -> Vec<std::net::IpAddr> {
        Vec::new()
    }
    fn name_of(&self, _: std::net::IpAddr) -> Option<String> {
        None
    }
    fn resolve(&self, _: &str) -> Vec<std::net::IpAddr> {
        Vec::new()
    }
    fn user_id(&self, _: &str) -> Option<u32> {
        None
    }
    fn group_id(&self, _: &str) -> Option<u32> {
        None
    }
    fn read_key(&self, _: &str) -> Result<Vec<u8>, String> {
        Err(String::new())
    }
}

#[expect(clippy::disallowed_methods, reason = "tests count from any moment")]
fn base() -> Instant {
    Instant::now()
}

/// Serves the map while one run of the tool lasts; what it printed, and whether it succeeded.
fn cmapctl(server: &mut Server, map: &mut Map, arguments: &[&str]) -> (String, bool) {
    let mut tool = Command::new("corosync-cmapctl");
    let tool = tool
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = tool.spawn().unwrap();
    let start = base();
    let mut open = true;
    while open {
        server.wait(Some(Duration::from_secs(20))).unwrap();
        server.process(start).unwrap();
        let before = child.try_wait().unwrap().is_some();
        let mut idle = true;
        while let Some(event) = server.poll_event() {
            idle = false;
            match event {
                qb::Event::Hello { connection, .. } => server.accept(connection).unwrap(),
                qb::Event::Closed { connection, .. } => {
                    map.client_gone(ClientId(connection.number()));
                    open = false;
                }
                qb::Event::Request {
                    connection,
                    request,
                    ..
                } => {
                    let answer: Message = match Request::decode(&request.message) {
                        Ok(request) => map
                            .handle_request(ClientId(connection.number()), request)
                            .response
                            .encode(),
                        Err(error) => Message::rejected(error),
                    };
                    let parts = answer.parts();
                    server
                        .respond(connection, answer.id, answer.status.0, &parts)
                        .unwrap();
                }
            }
        }
        assert!(!(before && idle), "the tool did not connect");
    }
    let output = child.wait_with_output().unwrap();
    (
        String::from_utf8(output.stdout).unwrap(),
        output.status.success(),
    )
}

/// The unmodified tool, in a network namespace of its own: the name of the service is fixed.
#[test]
fn corosync_cmapctl_works() {
    let own = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok();
    let there = Command::new("corosync-cmapctl")
        .arg("-h")
        .stdout(Stdio::null())
        .status()
        .is_ok();
    if !own || !there {
        println!("skipped: needs root and corosync-cmapctl");
        return;
    }
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = Options {
        directory: directory.path().to_owned(),
        ..Options::default()
    };
    let mut server = Server::new(options).unwrap();
    server.listen(super::super::cmap::NAME).unwrap();
    let mut map = Map::default();
    map.set("totem.version", Raw::u32(2));
    map.set("totem.cluster_name", Raw::text("c"));
    map.set_statistic("stats.srp.mtu", Raw::u32(9));
    let list = cmapctl(&mut server, &mut map, &[]);
    let expected = "totem.cluster_name (str) = c\ntotem.version (u32) = 2\n";
    assert_eq!(list, (expected.to_owned(), true));
    let set = cmapctl(
        &mut server,
        &mut map,
        &["-s", "test.key", "str", "some value"],
    );
    assert!(set.1);
    assert_eq!(map.value("test.key"), Some(&Raw::text("some value")));
    let get = cmapctl(&mut server, &mut map, &["-g", "test.key"]);
    assert_eq!(get, ("test.key (str) = some value\n".to_owned(), true));
    assert!(!cmapctl(&mut server, &mut map, &["-s", "totem.version", "u32", "3"]).1);
    assert!(cmapctl(&mut server, &mut map, &["-d", "test.key"]).1);
    assert!(!cmapctl(&mut server, &mut map, &["-g", "test.key"]).1);
    let statistics = cmapctl(&mut server, &mut map, &["-m", "stats"]);
    assert_eq!(statistics, ("stats.srp.mtu (u32) = 9\n".to_owned(), true));
}

fn keys() -> impl Strategy<Value = String> {
    "[abc]\\.[abc]\\.[ab]"
}

proptest! {
    /// A tracker that replays what it is told has the same map.
    #[test]
    fn a_tracker_hears_of_everything(
        changes in proptest::collection::vec((keys(), proptest::option::of(0u8..3)), 0..60),
    ) {
        let mut map = Map::default();
        let kinds = track::ADD | track::MODIFY | track::DELETE | track::PREFIX;
        let add = Request::TrackAdd { key: "a.".into(), kinds, client_handle: 5 };
        map.handle_request(ClientId(1), add);
        let mut copy = BTreeMap::new();
        for (key, value) in changes {
            match value {
                Some(value) => map.set(&key, Raw::u8(value)),
                None => map.remove(&key),
            }
            while let Some((client, event)) = map.poll_event() {
                prop_assert_eq!((client, event.client_handle), (ClientId(1), 5));
                prop_assert_eq!(copy.get(&event.key), event.old.as_ref());
                match event.new {
                    Some(new) => copy.insert(event.key, new),
                    None => copy.remove(&event.key),
                };
            }
        }
        let ours: BTreeMap<_, _> =
            map.iter().filter(|(key, _)| key.starts_with("a.")).map(|(k, v)| (k.to_owned(), v.clone())).collect();
        prop_assert_eq!(copy, ours);
    }

    #[test]
    fn numbers_wrap_in_their_own_size(number: u16, step: i32) {
        let sum = adjusted(&Raw::u16(number), step).unwrap();
        let expected = i64::from(number) + i64::from(step);
        let low = expected.rem_euclid(1 << 16);
        prop_assert_eq!(sum, Raw::u16(u16::try_from(low).unwrap()));
    }
}

#[test]
fn counters_are_tracked_one_by_one_and_cleared_by_name() {
    let mut map = Map::default();
    let client = ClientId(1);
    map.handle_request(client, Request::SetCurrentMap { map: 1 });
    let track = |map: &mut Map, key: &str, kinds: u32| {
        let request = Request::TrackAdd {
            key: key.to_owned(),
            kinds,
            client_handle: 5,
        };
        map.handle_request(client, request).response
    };
    let all = track::ADD | track::DELETE | track::MODIFY;
    let refused = track(&mut map, "stats.", track::PREFIX | track::MODIFY);
    assert_eq!(refused, Response::TrackAdd(Err(Status::NOT_SUPPORTED)));
    track(&mut map, "stats.srp.", track::PREFIX | all);
    track(&mut map, "stats.srp.mcast_tx", track::MODIFY);
    let told = |map: &mut Map, value| {
        map.set_statistic("stats.srp.mcast_tx", Raw::u64(value));
        std::iter::from_fn(|| map.poll_event())
            .map(|(_, event)| event.change)
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&mut map, 1), [track::ADD]);
    assert_eq!(told(&mut map, 2), [track::MODIFY]);
    for (key, status) in [
        ("stats.clear.all", Status::OK),
        ("stats.clear.everything", Status::NOT_SUPPORTED),
        ("stats.srp.mcast_tx", Status::ACCESS),
    ] {
        let request = Request::Set {
            key: key.to_owned(),
            value: Raw::u32(1),
        };
        let outcome = map.handle_request(client, request);
        assert_eq!(outcome.response, Response::Set(status), "{key}");
    }
}
