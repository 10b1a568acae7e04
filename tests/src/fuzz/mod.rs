//! Hostile input for everything that reads what others wrote.
//!
//! A target is a function over bytes. It panics when it finds something, and gives back the shape
//! of the outcome, by which campaigns tell inputs that are worth mutating further. Three things
//! drive the targets:
//!
//! - tests: captured traffic, the inputs saved in `tests/corpus`, and a few mutations of them;
//! - the command `fuzz`: bounded campaigns of mutations that know how inputs are built;
//! - the programs in `tests/fuzz`, for cargo-fuzz: mutations led by coverage.
//!
//! Invariant: a target depends on nothing but its input.

pub mod campaign;
mod clock;
mod codecs;
pub mod input;
mod map;
pub mod mutate;
mod node;
mod replication;
mod ring;
mod seeds;
mod server;
mod transport;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use input::{Step, join};
use mutate::Form;

/// Something that takes hostile input.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also that of its folder in `tests/corpus`.
    pub name: &'static str,
    /// How its inputs are built.
    pub form: Form,
    /// Takes an input; panics when something is wrong.
    pub run: fn(&[u8]) -> u64,
    /// What campaigns start with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 19] = [
    target(
        "transport",
        Form::Message,
        codecs::transport,
        seeds::datagrams,
    ),
    target(
        "transport-sealed",
        Form::Steps,
        transport::sealed,
        transport_seeds,
    ),
    target(
        "transport-open",
        Form::Steps,
        transport::open,
        transport_seeds,
    ),
    target("seals", Form::Message, codecs::seals, seeds::datagrams),
    target("ring", Form::Message, codecs::ring, seeds::ring_messages),
    target("ring-history", Form::Steps, ring::run, ring_seeds),
    target("node", Form::Steps, node::run, node::seeds),
    target("frames", Form::Message, codecs::frames, bodies),
    target("services", Form::Message, codecs::services, service_seeds),
    target("barriers", Form::Message, codecs::barriers, service_seeds),
    target("requests", Form::Message, codecs::requests, request_seeds),
    target("answers", Form::Message, codecs::answers, answer_seeds),
    target("server", Form::Steps, server::run, server::seeds),
    target("map", Form::Steps, map::run, map_seeds),
    target(
        "conf",
        Form::Text,
        codecs::configuration,
        seeds::configurations,
    ),
    target(
        "messages",
        Form::Message,
        replication::messages,
        seeds::replication_messages,
    ),
    target(
        "payloads",
        Form::Message,
        replication::payloads,
        payload_seeds,
    ),
    target(
        "conf-of-tree",
        Form::Text,
        replication::configuration,
        seeds::configurations,
    ),
    target("status", Form::Steps, replication::status, status_seeds),
];

const fn target(
    name: &'static str,
    form: Form,
    run: fn(&[u8]) -> u64,
    seeds: fn() -> Vec<Vec<u8>>,
) -> Target {
    Target {
        name,
        form,
        run,
        seeds,
    }
}

/// The target of that name.
///
/// # Errors
/// When there is none; the text names all.
pub fn find(name: &str) -> Result<&'static Target> {
    let names = || TARGETS.map(|target| target.name).join(", ");
    TARGETS
        .iter()
        .find(|target| target.name == name)
        .with_context(|| format!("no target {name}; there are {}", names()))
}

impl Target {
    /// Folder of the saved inputs.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(self.name)
    }

    /// The saved inputs, with their paths.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn corpus(&self) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let entries = fs::read_dir(self.folder()).into_iter().flatten();
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let read = |path: PathBuf| {
            let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
            Ok((path, bytes))
        };
        paths.into_iter().map(read).collect()
    }
}

fn wrap(op: u8, inputs: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    inputs
        .into_iter()
        .map(|input| join(&[Step::new(op, input)]))
        .collect()
}

/// Each captured datagram alone, and a history of everyday things.
fn transport_seeds() -> Vec<Vec<u8>> {
    let everyday = [
        Step::new(4, *b"hello hello hello"),
        Step::new(5, vec![1; 3000]),
        Step::new(3, 2000_u16.to_le_bytes()),
        Step::new(6, [3, 0, 5, 0, 1]),
        Step::new(7, [5, 0, 8, 0, 1]),
        Step::new(8, [0]),
        Step::new(8, [2, 220, 5]),
    ];
    let mut seeds = wrap(0, seeds::datagrams());
    seeds.push(join(&everyday));
    seeds
}

fn ring_seeds() -> Vec<Vec<u8>> {
    let messages = seeds::ring_messages();
    let everyday = [
        Step::new(4, []),
        Step::new(3, [0, 0, 7, 7]),
        Step::new(2, 100_u16.to_le_bytes()),
        Step::new(7, []),
        Step::new(2, 2500_u16.to_le_bytes()),
        Step::new(7, []),
        Step::new(8, []),
        Step::new(5, [9, 0, 30, 0, 1]),
        Step::new(6, [3, 0]),
    ];
    let mut seeds = wrap(0, messages.clone());
    seeds.extend(wrap(1, messages));
    seeds.push(join(&everyday));
    seeds
}

/// What ordered messages of the ring carry, and everything behind its heads.
fn bodies() -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    for message in seeds::datagrams() {
        // Ordered messages have their frame behind 45 bytes, in packets of the transport behind 14 more.
        for head in [0, 8, 45, 59] {
            bodies.extend(message.get(head..).map(<[u8]>::to_vec));
        }
    }
    bodies
}

/// Pieces of frames behind the name of their group.
fn service_seeds() -> Vec<Vec<u8>> {
    let mut pieces = bodies();
    for message in seeds::datagrams() {
        for at in (45..message.len()).step_by(1).take(64) {
            if let Some([1, 0, len, 0]) = message.get(at..at + 4) {
                let from = at + 4 + usize::from(*len);
                pieces.extend(message.get(from..).map(<[u8]>::to_vec));
            }
        }
    }
    pieces
}

fn request_seeds() -> Vec<Vec<u8>> {
    seeds::local_messages(&[">", "*"])
}

fn answer_seeds() -> Vec<Vec<u8>> {
    seeds::local_messages(&["<", "!"])
}

fn map_seeds() -> Vec<Vec<u8>> {
    let requests: Vec<Step> = request_seeds()
        .into_iter()
        .filter(|message| message[0] == 1)
        .map(|message| Step::new(0, &message[1..]))
        .collect();
    let mut seeds: Vec<_> = requests
        .iter()
        .map(|step| join(std::slice::from_ref(step)))
        .collect();
    seeds.push(join(&requests));
    seeds
}

/// Everything behind the heads of messages of both versions, as each kind of change.
fn payload_seeds() -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    for message in seeds::replication_messages() {
        for head in [8, 16, 24, 32] {
            let number = message.get(2).copied().unwrap_or(0);
            payloads.extend(message.get(head..).map(|rest| [&[number], rest].concat()));
        }
    }
    payloads.extend(
        seeds::replication_states()
            .into_iter()
            .map(|state| [&[0], &state[..]].concat()),
    );
    payloads
}

fn status_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for payload in payload_seeds() {
        let delivered = Step::new(payload[0] % 3, &payload[1..]);
        seeds.push(join(std::slice::from_ref(&delivered)));
    }
    let states: Vec<Step> = seeds::replication_states()
        .into_iter()
        .map(|state| Step::new(3, state))
        .collect();
    seeds.push(join(&[states, vec![Step::new(4, [])]].concat()));
    seeds
}
