//! What happened: the last events for the reader, and a hash of all of them.

use std::{
    collections::VecDeque,
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use super::net::Node;

/// Events that are kept.
const KEPT: usize = 200;

#[derive(Clone, Debug)]
struct Happened {
    at_ms: u64,
    node: Node,
    what: &'static str,
    data: [u64; 2],
    text: String,
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = self.data;
        let (secs, ms) = (self.at_ms / 1000, self.at_ms % 1000);
        write!(f, "{secs:5}.{ms:03} n{} ", self.node + 1)?;
        match self.what {
            "message" => write!(f, "message {} from n{b}", kind_name(a)),
            "mode" => write!(f, "mode {} at version {b}", mode_name(a)),
            "members" => write!(
                f,
                "members: {a}, {}",
                if b == 1 { "some new" } else { "none new" }
            ),
            "quorum" => write!(f, "quorum: {}", if a == 1 { "yes" } else { "no" }),
            "" => f.write_str(&self.text),
            what => write!(f, "{what} {a} {b}"),
        }
    }
}

fn kind_name(kind: u64) -> &'static str {
    let names = [
        "normal",
        "sync start",
        "state",
        "update",
        "update complete",
        "verify request",
    ];
    let at = usize::try_from(kind).unwrap_or(usize::MAX);
    names.get(at).copied().unwrap_or("verify")
}

fn mode_name(mode: u64) -> &'static str {
    let names = [
        "start",
        "start-sync",
        "synced",
        "update",
        "leave",
        "version error",
        "error",
    ];
    let at = usize::try_from(mode).unwrap_or(usize::MAX);
    names.get(at).copied().unwrap_or("?")
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Trace {
    hasher: DefaultHasher,
    last: VecDeque<Happened>,
}

impl Trace {
    /// Adds an event.
    pub fn add(&mut self, at_ms: u64, node: Node, what: &'static str, data: [u64; 2]) {
        (at_ms, node, what, data).hash(&mut self.hasher);
        self.keep(Happened {
            at_ms,
            node,
            what,
            data,
            text: String::new(),
        });
    }

    /// Adds an event in words.
    pub fn say(&mut self, at_ms: u64, node: Node, text: String) {
        (at_ms, node, &text).hash(&mut self.hasher);
        self.keep(Happened {
            at_ms,
            node,
            what: "",
            data: [0; 2],
            text,
        });
    }

    fn keep(&mut self, happened: Happened) {
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(happened);
    }

    /// Hash of all events so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    /// The last events.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.last.iter().map(ToString::to_string).collect()
    }
}
