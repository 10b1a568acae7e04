//! The server of local clients, with clients that write what they like where they can.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};

use corosync_lite::qb::wire::{Channels, Hello, RequestHeader, WELCOME_LEN, Welcome};
use corosync_lite::qb::{ConnectionId, Event, Options, Server};

use super::input::{Fields, Shape, Step, steps};
use crate::wait::now;

const CLIENTS_MAX: usize = 4;
/// Requests taken after one step of a client; more is a storm.
const STORM: usize = 20_000;
/// Where a ring's header has what a writer changes, and how a finished chunk is marked.
const WRITE_INDEX: u64 = 0;
const SEMAPHORE: u64 = 8208;
const COMMITTED: u32 = 0xA1A1_A1A1;

/// A hostile history; at the end an honest client is served.
pub(super) fn run(input: &[u8]) -> u64 {
    let mut world = World::new();
    for step in steps(input).into_iter().take(200) {
        world.take(&step);
        world.serve();
    }
    world.clients.clear();
    world.serve();
    world.connect(
        &Hello {
            max_message: 20_000,
        }
        .encode(),
    );
    world.serve();
    let client = world.clients.first_mut().expect("it has connected");
    assert!(client.open(), "an honest client is turned away");
    client.put(&request(3, b"honest"));
    let before = world.served;
    world.serve();
    assert_eq!(world.served, before + 1, "an honest client is not served");
    world.outcome.finish()
}

struct World {
    server: Server,
    name: Vec<u8>,
    clients: Vec<Client>,
    open: Vec<ConnectionId>,
    served: usize,
    outcome: Shape,
    _directory: tempfile::TempDir,
}

struct Client {
    stream: UnixStream,
    channels: Option<Channels>,
    /// Header and data of the request, response and event ring.
    files: Vec<File>,
    index: u32,
}

impl World {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("fuzz-{}-{number}", std::process::id());
        let directory = tempfile::tempdir_in("/dev/shm").expect("room in /dev/shm");
        let mut server = Server::new(Options {
            directory: directory.path().to_owned(),
            message_max: 64 << 10,
            ..Options::default()
        })
        .expect("a server");
        server.listen(&name).expect("a free name");
        let mut name = name.into_bytes();
        name.resize(107, 0);
        Self {
            server,
            name,
            clients: Vec::new(),
            open: Vec::new(),
            served: 0,
            outcome: Shape::default(),
            _directory: directory,
        }
    }

    fn take(&mut self, step: &Step) {
        let mut fields = Fields(&step.bytes);
        match step.op % 10 {
            0 => self.connect(&step.bytes),
            1 => {
                let max_message = u32::from(fields.short());
                self.connect(&Hello { max_message }.encode());
                self.serve();
                if let Some(client) = self.clients.last_mut() {
                    client.open();
                }
            }
            2 => {
                if let Some(client) = self.pick(&mut fields) {
                    client.ring_bell(fields.rest());
                }
            }
            3 | 4 => {
                if let Some(client) = self.pick(&mut fields) {
                    client.scribble(fields);
                }
            }
            5 => {
                if let Some(client) = self.pick(&mut fields) {
                    let id = i32::from(fields.byte());
                    client.put(&request(id, fields.rest()));
                }
            }
            6 => {
                if let Some(client) = self.pick(&mut fields) {
                    client.put(fields.rest());
                }
            }
            7 => {
                if let Some(client) = self.pick(&mut fields) {
                    client.cut(fields);
                }
            }
            8 => {
                let at = fields.index(self.clients.len());
                if at < self.clients.len() {
                    self.clients.remove(at);
                }
            }
            _ => {
                let at = fields.index(self.open.len());
                if let Some(id) = self.open.get(at) {
                    let result = self.server.notify(*id, 5, 0, &[fields.rest()]);
                    self.outcome.note(&result);
                }
            }
        }
    }

    fn pick(&mut self, fields: &mut Fields<'_>) -> Option<&mut Client> {
        let at = fields.index(self.clients.len());
        self.clients.get_mut(at)
    }

    fn connect(&mut self, hello: &[u8]) {
        if self.clients.len() >= CLIENTS_MAX {
            self.clients.remove(0);
        }
        let address = SocketAddr::from_abstract_name(&self.name).expect("a short name");
        let stream = UnixStream::connect_addr(&address).expect("a server that listens");
        stream.set_nonblocking(true).expect("a socket");
        let mut client = Client {
            stream,
            channels: None,
            files: Vec::new(),
            index: 0,
        };
        client.ring_bell(hello);
        self.clients.push(client);
    }

    /// Lets the server do everything that there is to do.
    fn serve(&mut self) {
        for _ in 0..4 {
            self.server.process(now()).expect("only clients are bad");
            let mut events = 0;
            while let Some(event) = self.server.poll_event() {
                events += 1;
                assert!(events < STORM, "requests without an end");
                self.handle(event);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Hello { connection, .. } => {
                let result = self.server.accept(connection);
                self.outcome.note(&result);
                if result.is_ok() {
                    self.open.push(connection);
                }
            }
            Event::Request {
                connection,
                request,
                ..
            } => {
                self.served += 1;
                let body = &request.message[..request.message.len().min(4096)];
                let result = self.server.respond(connection, request.id, 1, &[body]);
                self.outcome.note(&result);
            }
            Event::Closed {
                connection, reason, ..
            } => {
                self.open.retain(|id| *id != connection);
                self.outcome.note(&reason);
            }
        }
    }
}

impl Client {
    /// Reads the welcome and opens the channels; whether that went well.
    fn open(&mut self) -> bool {
        let mut answer = vec![0; WELCOME_LEN];
        if self.stream.read_exact(&mut answer).is_err() {
            return false;
        }
        let Ok(Welcome::Accepted(channels)) = Welcome::decode(&answer) else {
            return false;
        };
        for ring in [&channels.request, &channels.response, &channels.event] {
            for end in ["-header", "-data"] {
                let path = format!("{ring}{end}");
                let file = OpenOptions::new().read(true).write(true).open(path);
                self.files.extend(file);
            }
        }
        self.channels = Some(channels);
        self.files.len() == 6
    }

    /// A server that has closed the connection, or does not read, is right to do so.
    fn ring_bell(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).ok();
    }

    fn scribble(&mut self, mut fields: Fields<'_>) {
        let file = fields.index(self.files.len());
        let at = match fields.byte() % 3 {
            0 => u64::from(fields.short()),
            1 => SEMAPHORE,
            _ => u64::from(fields.byte()) * 4,
        };
        let Some(file) = self.files.get(file) else {
            return;
        };
        // Never beyond the end: that would make the file longer, which is another fault.
        let len = file.metadata().map_or(0, |data| data.len());
        let room = usize::try_from(len.saturating_sub(at)).unwrap_or(0);
        let bytes = fields.rest();
        file.write_at(&bytes[..bytes.len().min(room)], at).ok();
        self.ring_bell(b"x");
    }

    fn cut(&mut self, mut fields: Fields<'_>) {
        let file = fields.index(self.files.len());
        if let Some(file) = self.files.get(file) {
            file.set_len(u64::from(fields.short())).ok();
        }
        self.ring_bell(b"x");
    }

    /// Puts a message into the request ring as a client does.
    fn put(&mut self, message: &[u8]) {
        let [header, data, ..] = &self.files[..] else {
            return;
        };
        let words = u32::try_from(data.metadata().map_or(0, |data| data.len()) / 4).unwrap_or(0);
        let Ok(len) = u32::try_from(message.len()) else {
            return;
        };
        let need = 2 + len.div_ceil(4);
        if words == 0 || need >= words {
            return;
        }
        let at = |word: u32| u64::from((self.index + word) % words) * 4;
        data.write_at(&len.to_le_bytes(), at(0)).ok();
        data.write_at(&COMMITTED.to_le_bytes(), at(1)).ok();
        for (word, chunk) in (2..).zip(message.chunks(4)) {
            data.write_at(chunk, at(word)).ok();
        }
        self.index = (self.index + need) % words;
        header.write_at(&self.index.to_le_bytes(), WRITE_INDEX).ok();
        let mut count = [0; 4];
        header.read_at(&mut count, SEMAPHORE).ok();
        let count = u32::from_le_bytes(count).wrapping_add(1);
        header.write_at(&count.to_le_bytes(), SEMAPHORE).ok();
        self.ring_bell(b"x");
    }
}

fn request(id: i32, data: &[u8]) -> Vec<u8> {
    let size = i32::try_from(16 + data.len()).unwrap_or(i32::MAX);
    [&RequestHeader { id, size }.encode()[..], data].concat()
}

/// Everyday life of a client, and one fault of each kind.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    use super::input::join;
    let hello = Step::new(1, [0, 80]);
    let all = [
        Step::new(5, [0, 0, 3, 1, 2, 3, 4]),
        Step::new(6, [0, 0, 1, 2, 3]),
        Step::new(9, [0, 0, 7, 7, 7]),
        Step::new(2, *b"\x00\x00xxxx"),
        Step::new(3, [0, 0, 0, 0, 2, 1, 255, 255, 255, 127]),
        Step::new(3, [0, 0, 1, 0, 2, 0, 255, 255, 255, 255, 1, 0, 0, 0]),
        Step::new(3, [0, 0, 0, 0, 1, 5, 0, 0, 0]),
        Step::new(7, [0, 0, 1, 0, 0, 16]),
        Step::new(7, [0, 0, 2, 0, 0, 0]),
        Step::new(8, [0, 0]),
        Step::new(0, Hello { max_message: 1 }.encode()),
        Step::new(0, *b"rubbish"),
    ];
    let mut seeds = vec![join(std::slice::from_ref(&hello))];
    for step in &all {
        let after = Step::new(5, *b"\x00\x00\x04after");
        seeds.push(join(&[hello.clone(), step.clone(), after]));
    }
    seeds.push(join(&[&[hello], &all[..]].concat()));
    seeds
}
