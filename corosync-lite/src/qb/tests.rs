//! The server against a client of this crate that misbehaves, and against that of libqb.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::test_client::Client;
use super::wire::{Hello, ID_DISCONNECT, ResponseHeader, WireError};
use super::*;

const MIB: u32 = 1 << 20;

/// Echoes requests (1), swallows them (2), and sends as many events as asked for (3).
struct Demo {
    server: Server,
    service: ServiceId,
    name: String,
    directory: tempfile::TempDir,
    start: Instant,
    opened: Vec<ConnectionId>,
    closed: Vec<CloseReason>,
    swallowed: usize,
    /// Whom to refuse.
    refused_uid: Option<u32>,
}

impl Demo {
    fn new(change: impl FnOnce(&mut Options)) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("qbtest-{}-{number}", std::process::id());
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        // Clients of other users pass through it.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), mode).unwrap();
        let mut options = Options {
            directory: directory.path().to_owned(),
            ..Options::default()
        };
        change(&mut options);
        let mut server = Server::new(options).unwrap();
        let service = server.listen(&name).unwrap();
        Self {
            server,
            service,
            name,
            directory,
            start: base(),
            opened: Vec::new(),
            closed: Vec::new(),
            swallowed: 0,
            refused_uid: None,
        }
    }

    /// One turn of the loop.
    fn turn(&mut self) {
        self.turn_at(self.start);
    }

    fn turn_at(&mut self, now: Instant) {
        self.server.process(now).unwrap();
        while let Some(event) = self.server.poll_event() {
            match event {
                Event::Hello {
                    connection,
                    credentials,
                    ..
                } => {
                    if Some(credentials.uid) == self.refused_uid {
                        self.server.refuse(connection, -13);
                    } else if self.server.accept(connection).is_ok() {
                        self.opened.push(connection);
                    }
                }
                Event::Request {
                    connection,
                    request,
                    ..
                } => self.serve(connection, &request),
                Event::Closed { reason, .. } => self.closed.push(reason),
            }
        }
    }

    fn serve(&mut self, connection: ConnectionId, request: &Request) {
        let data = &request.message[16..];
        match request.id {
            1 if data.len() + 24 > 1 << 20 => self.answer(connection, 1, -105, &[]),
            1 => self.answer(connection, 1, 0, data),
            2 => self.swallowed += 1,
            3 => {
                let number = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
                let filler = vec![0x5A; usize::try_from(number(4)).unwrap()];
                for index in 0..number(0) {
                    let index = index.to_le_bytes();
                    self.server
                        .notify(connection, 30, 1, &[&index, &filler])
                        .ok();
                }
                self.answer(connection, 3, 0, &[]);
            }
            id => self.answer(connection, id, -44, &[]),
        }
    }

    fn answer(&mut self, connection: ConnectionId, id: i32, error: i32, body: &[u8]) {
        self.server.respond(connection, id, error, &[body]).ok();
    }

    fn client(&mut self) -> Client {
        let mut client = Client::hello(&self.name, MIB);
        self.turn();
        client.open().unwrap();
        client
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.directory.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Another client is served as if nothing had happened.
    fn still_serves(&mut self) {
        let mut other = self.client();
        assert!(other.send(1, b"still here"));
        self.turn();
        assert_eq!(other.response().unwrap()[24..], *b"still here");
    }
}

#[expect(clippy::disallowed_methods, reason = "tests count from any moment")]
fn base() -> Instant {
    Instant::now()
}

#[test]
fn requests_responses_and_events_pass() {
    let mut demo = Demo::new(|_| {});
    let mut client = demo.client();
    assert!(client.send(1, b"hello") && client.send(9, b""));
    demo.turn();
    let first = client.response().unwrap();
    assert_eq!(
        ResponseHeader::decode(&first),
        Ok(ResponseHeader {
            id: 1,
            size: 29,
            error: 0
        })
    );
    assert_eq!(&first[24..], b"hello");
    let second = ResponseHeader::decode(&client.response().unwrap()).unwrap();
    assert_eq!((second.id, second.error), (9, -44));
    assert!(client.send(3, &[3, 0, 0, 0, 0, 0, 0, 0]));
    demo.turn();
    for index in 0..3 {
        assert_eq!(client.event().unwrap()[24..], u32::to_le_bytes(index));
    }
    assert_eq!(client.event(), None);
    let traffic = demo.server.traffic(demo.opened[0]).unwrap();
    assert_eq!(
        traffic,
        Traffic {
            requests: 3,
            responses: 3,
            events: 3,
            queued: 0,
            is_behind: false,
        }
    );
    drop(client);
    demo.turn();
    assert_eq!(demo.closed, [CloseReason::Disconnected]);
    assert!(demo.files().is_empty());
}

#[test]
fn files_belong_to_the_client() {
    let mut demo = Demo::new(|_| {});
    let client = demo.client();
    let credentials = demo.server.credentials(demo.opened[0]).unwrap();
    let own = i32::try_from(std::process::id()).unwrap();
    assert_eq!(credentials.pid, own);
    let directory = &demo.files()[0];
    let about = std::fs::metadata(directory).unwrap();
    let uid = credentials.uid;
    assert_eq!((about.mode() & 0o7777, about.uid()), (0o770, uid));
    let names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap())
        .collect();
    assert_eq!(names.len(), 6);
    for entry in names {
        let about = entry.metadata().unwrap();
        assert_eq!((about.mode() & 0o7777, about.uid()), (0o600, uid));
        assert!(entry.file_name().to_string_lossy().contains(&demo.name));
    }
    assert_eq!(client.channels.unwrap().max_message, MIB);
}

#[test]
fn the_size_of_messages_is_bounded() {
    let mut demo = Demo::new(|_| {});
    for (wish, result) in [
        (0, Ok(12_328)),
        (16 << 20, Ok(16 << 20)),
        (u32::MAX, Err(-22)),
    ] {
        let mut client = Client::hello(&demo.name, wish);
        demo.turn();
        let opened = client
            .open()
            .map(|()| client.channels.as_ref().unwrap().max_message);
        assert_eq!(opened, result);
    }
    assert!(demo.closed.contains(&CloseReason::Refused(-22)));
    let connection = demo.opened[0];
    let error = demo.server.respond(connection, 1, 0, &[&[0; 12_305]]);
    assert!(matches!(
        error,
        Err(SendError::Closed | SendError::TooLong { limit: 12_328, .. })
    ));
}

#[test]
fn hello_in_pieces_is_taken_and_rubbish_is_not() {
    let mut demo = Demo::new(|_| {});
    let mut slow = Client::connect(&demo.name);
    for byte in (Hello { max_message: MIB }).encode() {
        slow.stream.write_all(&[byte]).unwrap();
        demo.turn();
    }
    slow.open().unwrap();
    let mut rubbish = Client::connect(&demo.name);
    rubbish.stream.write_all(&[7; 4096]).unwrap();
    demo.turn();
    assert_eq!(demo.opened.len(), 1);
    assert_eq!(demo.server.connections().count(), 1);
    demo.still_serves();
}

#[test]
fn silent_clients_cost_no_more_than_their_bound() {
    let mut demo = Demo::new(|options| options.handshakes_max = 3);
    let silent: Vec<_> = (0..10).map(|_| Client::connect(&demo.name)).collect();
    demo.turn();
    demo.still_serves();
    let deadline = demo.server.poll_timeout().unwrap();
    assert_eq!(deadline, demo.start + Duration::from_secs(5));
    demo.turn_at(deadline);
    assert_eq!(demo.server.poll_timeout(), None);
    drop(silent);
}

#[test]
fn clients_wait_while_the_owner_is_busy() {
    let mut demo = Demo::new(|_| ());
    let mut clients = Vec::new();
    for _ in 0..18 {
        // They come and go.
        clients.extend((0..20).map(|_| Client::hello(&demo.name, MIB)));
        clients.drain(..clients.len() / 2);
        demo.server.process(demo.start).unwrap();
    }
    let waiting = std::iter::from_fn(|| demo.server.poll_event()).count();
    assert!((256..=512).contains(&waiting), "{waiting}");
    demo.refused_uid = Some(nix::unistd::getuid().as_raw());
    drop(clients);
    (0..20).for_each(|_| demo.turn());
    demo.refused_uid = None;
    demo.still_serves();
}

#[test]
fn one_client_more_than_allowed_is_refused() {
    let mut demo = Demo::new(|options| options.connections_max = 2);
    let (_one, _two) = (demo.client(), demo.client());
    let mut third = Client::hello(&demo.name, MIB);
    demo.turn();
    assert_eq!(third.open(), Err(-24));
}

#[test]
fn a_client_that_reads_no_events_is_disconnected_alone() {
    let mut demo = Demo::new(|options| options.event_bytes_max = 4 << 20);
    let mut lazy = demo.client();
    let mut ask = 100u32.to_le_bytes().to_vec();
    ask.extend(100_000u32.to_le_bytes());
    assert!(lazy.send(3, &ask));
    demo.turn();
    assert_eq!(demo.closed, [CloseReason::EventOverrun]);
    demo.still_serves();
}

#[test]
fn events_wait_until_the_client_reads() {
    let mut demo = Demo::new(|_| {});
    let mut client = demo.client();
    let mut ask = 40u32.to_le_bytes().to_vec();
    ask.extend(200_000u32.to_le_bytes());
    assert!(client.send(3, &ask));
    demo.turn();
    assert!(demo.server.traffic(demo.opened[0]).unwrap().queued > 30);
    for index in 0..40 {
        let event = client.event().unwrap_or_else(|| {
            // Reading the last one made room: the server hears of it at once.
            demo.server.wait(Some(Duration::from_secs(10))).unwrap();
            demo.turn();
            client.event().expect("the next event")
        });
        assert_eq!(event[24..28], u32::to_le_bytes(index));
    }
    demo.turn();
    assert_eq!(demo.server.traffic(demo.opened[0]).unwrap().queued, 0);
    assert!(demo.closed.is_empty());
}

#[test]
fn doorbells_that_do_not_fit_are_sent_later() {
    let mut demo = Demo::new(|_| {});
    let mut client = demo.client();
    let mut ask = 2000u32.to_le_bytes().to_vec();
    ask.extend(0u32.to_le_bytes());
    assert!(client.send(3, &ask));
    demo.turn();
    for index in 0..2000 {
        demo.turn();
        assert_eq!(client.event().unwrap()[24..], u32::to_le_bytes(index));
    }
    assert_eq!(client.event(), None);
}

#[test]
fn a_client_that_reads_no_responses_is_disconnected_alone() {
    let mut demo = Demo::new(|_| {});
    let mut lazy = demo.client();
    for _ in 0..3 {
        assert!(lazy.send(1, &[0; 300_000]));
    }
    demo.turn();
    assert!(lazy.send(1, &[0; 300_000]));
    demo.turn();
    assert_eq!(demo.closed, [CloseReason::ResponseOverrun]);
    demo.still_serves();
}

#[test]
fn damaged_requests_end_the_connection_alone() {
    let bad_size = |size: i32| {
        let mut head = [0; 16];
        head[8..12].copy_from_slice(&size.to_le_bytes());
        head
    };
    for size in [i32::MIN, -1, 0, 15, 17, i32::MAX] {
        let mut demo = Demo::new(|_| {});
        let mut client = demo.client();
        assert!(client.send_raw(&[&bad_size(size)]));
        demo.turn();
        let reason = CloseReason::BadRequest(WireError::BadSize { size, have: 16 });
        assert_eq!(demo.closed, [reason]);
        demo.still_serves();
    }
}

#[test]
fn damaged_memory_ends_the_connection_alone() {
    let damage: [fn(&Client); 4] = [
        |client| {
            client
                .request
                .as_ref()
                .unwrap()
                .memory()
                .0
                .word(8208)
                .store(9, Ordering::Relaxed)
        },
        |client| {
            client
                .response
                .as_ref()
                .unwrap()
                .memory()
                .0
                .word(4)
                .store(!0, Ordering::Relaxed)
        },
        |client| cut(&client.channels.as_ref().unwrap().request, "-data"),
        |client| cut(&client.channels.as_ref().unwrap().response, "-header"),
    ];
    for damage in damage {
        let mut demo = Demo::new(|_| {});
        let mut client = demo.client();
        assert!(client.send(1, b"once"));
        damage(&client);
        client.stream.write_all(b"x").unwrap();
        demo.turn();
        assert_eq!(demo.closed, [CloseReason::BadMemory]);
        demo.still_serves();
    }
}

fn cut(base: &str, end: &str) {
    let file = std::fs::File::options()
        .write(true)
        .open(format!("{base}{end}"))
        .unwrap();
    file.set_len(0).unwrap();
}

#[test]
fn flow_control_holds_requests_back() {
    let mut demo = Demo::new(|_| {});
    let mut client = demo.client();
    let service = demo.service;
    demo.server.set_flow_control(service, FlowControl::Soft);
    assert_eq!(client.request.as_ref().unwrap().flow_control(), 2);
    assert!(client.send(1, b"later"));
    demo.turn();
    assert_eq!(client.response(), None);
    let late = demo.client();
    assert_eq!(late.request.as_ref().unwrap().flow_control(), 2);
    demo.server.set_flow_control(service, FlowControl::Free);
    demo.turn();
    assert_eq!(client.response().unwrap()[24..], *b"later");
    assert_eq!(late.request.as_ref().unwrap().flow_control(), 0);
}

#[test]
fn a_client_that_is_behind_with_reading_can_not_send_for_a_while() {
    let mut demo = Demo::new(|options| options.event_bytes_max = 4 << 20);
    let mut client = demo.client();
    let flow = |client: &Client| client.request.as_ref().unwrap().flow_control();
    let events = |count: u32, size: u32| [count.to_le_bytes(), size.to_le_bytes()].concat();
    // What fits the ring of the client does not wait.
    assert!(client.send(3, &events(10, 100_000)));
    demo.turn();
    assert_eq!(flow(&client), 0);
    assert!(client.send(3, &events(24, 100_000)));
    demo.turn();
    assert_eq!(flow(&client), 2);
    // Nobody else is held back, and what has an answer gets one.
    let other = demo.client();
    assert_eq!(flow(&other), 0);
    assert!(client.send(1, b"answered"));
    demo.turn();
    let answers: Vec<_> = std::iter::from_fn(|| client.response()).collect();
    assert_eq!(answers[2][24..], *b"answered");
    let service = demo.service;
    demo.server.set_flow_control(service, FlowControl::Soft);
    demo.server.set_flow_control(service, FlowControl::Free);
    assert_eq!((flow(&client), flow(&other)), (2, 0));
    let mut read = 0;
    while flow(&client) != 0 {
        assert!(client.event().is_some(), "{read} were read");
        read += 1;
        demo.turn();
    }
    assert!((10..34).contains(&read), "{read}");
    assert_eq!(demo.closed, []);
}

#[test]
fn what_a_dead_client_sent_is_still_done() {
    let mut demo = Demo::new(|_| {});
    let mut client = demo.client();
    for _ in 0..50 {
        assert!(client.send(2, b"one way"));
    }
    drop(client);
    demo.turn();
    assert_eq!(demo.swallowed, 50);
    assert_eq!(demo.closed, [CloseReason::Disconnected]);
}

#[test]
fn a_request_to_disconnect_is_followed() {
    let mut demo = Demo::new(|_| {});
    let mut client = demo.client();
    assert!(client.send(ID_DISCONNECT, b""));
    demo.turn();
    assert_eq!(demo.closed, [CloseReason::Disconnected]);
}

#[test]
fn busy_clients_take_turns() {
    let mut demo = Demo::new(|_| {});
    let (mut one, mut two) = (demo.client(), demo.client());
    for _ in 0..20 {
        assert!(one.send(2, b"") && two.send(2, b""));
    }
    demo.server.process(demo.start).unwrap();
    let mut order = Vec::new();
    assert!(demo.server.has_pending());
    while let Some(Event::Request { connection, .. }) = demo.server.poll_event() {
        order.push(connection);
    }
    assert!(!demo.server.has_pending());
    assert_eq!(order.len(), 40);
    assert!(order.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn leftovers_of_a_dead_server_are_removed() {
    let root = tempfile::tempdir().unwrap();
    for name in [
        "qb-77-1-2-abcdef",
        "qb-77-3-4-ghijkl",
        "qb-778-1-2-abcdef",
        "other",
    ] {
        let directory = root.path().join(name);
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("qb-request-pve2-data"), "x").unwrap();
    }
    std::fs::write(root.path().join("qb-77-3-4-ghijkl/not-ours"), "x").unwrap();
    assert_eq!(remove_leftovers(root.path(), 77).unwrap(), 1);
    assert!(!root.path().join("qb-77-1-2-abcdef").exists());
    assert!(root.path().join("qb-77-3-4-ghijkl/not-ours").exists());
    assert!(
        root.path()
            .join("qb-778-1-2-abcdef/qb-request-pve2-data")
            .exists()
    );
}

#[test]
fn a_name_is_taken_once() {
    let mut demo = Demo::new(|_| {});
    let error = demo.server.listen(&demo.name).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    for name in ["", "a/b", &"x".repeat(107)] {
        assert!(demo.server.listen(name).is_err());
    }
}

/// Builds the client that is linked with libqb; `None` where that is not installed.
fn libqb_client(directory: &Path) -> Option<PathBuf> {
    let program = directory.join("qb_client");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/qb_client.c");
    let built = Command::new("cc")
        .args(["-Wall", "-Werror", "-o"])
        .args([&program, &source])
        .arg("-lqb")
        .stderr(Stdio::null())
        .status();
    let built = built.is_ok_and(|status| status.success());
    if !built {
        println!("skipped: needs cc and libqb-dev");
    }
    built.then_some(program)
}

impl Demo {
    fn run(&mut self, program: &Path, arguments: &[&str], count: usize) {
        let start = || {
            Command::new(program)
                .arg(&self.name)
                .args(arguments)
                .spawn()
                .unwrap()
        };
        let mut children: Vec<Child> = (0..count).map(|_| start()).collect();
        // Each opens one connection and closes it at its end.
        let end = self.closed.len() + count;
        while self.closed.len() < end {
            // Once they are dead, the end of their streams is there to be seen.
            let dead = |child: &mut Child| child.try_wait().unwrap().is_some();
            let all_dead = children.iter_mut().all(dead);
            self.server.wait(Some(Duration::from_secs(20))).unwrap();
            let before = (self.closed.len(), self.opened.len());
            self.turn();
            let idle = before == (self.closed.len(), self.opened.len());
            assert!(!(idle && all_dead), "clients are gone");
        }
        for mut child in children {
            let killed = arguments == ["killed"];
            assert_eq!(child.wait().unwrap().success(), !killed);
        }
    }
}

#[test]
fn unmodified_libqb_clients_are_served() {
    let mut demo = Demo::new(|_| {});
    let Some(program) = libqb_client(demo.directory.path()) else {
        return;
    };
    demo.run(&program, &["echo"], 1);
    demo.run(&program, &["echo"], 3);
    demo.run(&program, &["events"], 2);
    assert_eq!(demo.closed, [CloseReason::Disconnected; 6]);
    if nix::unistd::geteuid().is_root() {
        demo.run(&program, &["echo", "65534"], 1);
        demo.refused_uid = Some(65534);
        demo.run(&program, &["refused", "65534"], 1);
        assert_eq!(demo.closed.last(), Some(&CloseReason::Refused(-13)));
    }
    demo.run(&program, &["killed"], 1);
    std::fs::remove_file(program).unwrap();
    assert!(demo.files().is_empty());
}
