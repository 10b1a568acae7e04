//! The configuration map itself: keys, walks through them, and who is told of changes.
//!
//! A core without I/O. The daemon puts in what it reads and measures, clients come in as decoded
//! requests, and [`Map::poll_event`] gives what is to be sent to whom. Events that a request causes
//! go out before its response.
//!
//! Limits: length of values, keys, room that a client asks for, walks and trackers of one client.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use super::ClientId;
use super::cmap::{Event, KEY_MAX, Raw, Request, Response, kind, track};
use super::layout::Status;
use crate::config::{Keys, Value};

const KEY_MIN: usize = 3;
/// Longest value.
const VALUE_MAX: usize = 16_384;
/// With as many keys, clients can make no new ones.
const KEYS_MAX: usize = 16_384;
/// Most room that a client may ask for.
const ROOM_MAX: u64 = 1 << 16;
/// Walks, and trackers, that one client may have at a time.
const HANDLES_MAX: usize = 1024;

/// The two maps and their clients.
#[derive(Debug, Default)]
pub struct Map {
    config: BTreeMap<String, Raw>,
    statistics: BTreeMap<String, Raw>,
    clients: BTreeMap<ClientId, Client>,
    events: VecDeque<(ClientId, Event)>,
    next_handle: u64,
}

#[derive(Debug, Default)]
struct Client {
    /// Which of the two maps it looks at.
    statistics: bool,
    walks: BTreeMap<u64, Walk>,
    trackers: BTreeMap<u64, Tracker>,
}

#[derive(Debug)]
struct Walk {
    prefix: String,
    /// The key given last. It may be gone by now.
    last: Option<String>,
}

#[derive(Debug)]
struct Tracker {
    key: String,
    kinds: u32,
    client_handle: u64,
}

/// What a request led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// To be sent behind the events.
    pub response: Response,
    /// A key of the configuration map that the client changed; for the daemon to act on.
    pub changed: Option<String>,
}

impl Map {
    /// Value of a key of the configuration map.
    pub fn value(&self, key: &str) -> Option<&Raw> {
        self.config.get(key)
    }

    /// All keys of the configuration map, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Raw)> {
        self.config.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Sets a key of the configuration map, read-only ones too.
    pub fn set(&mut self, key: &str, value: Raw) {
        self.store(false, key, Some(value));
    }

    /// Removes a key of the configuration map, read-only ones too.
    pub fn remove(&mut self, key: &str) {
        self.store(false, key, None);
    }

    /// Sets a key of the statistics map.
    pub fn set_statistic(&mut self, key: &str, value: Raw) {
        self.store(true, key, Some(value));
    }

    /// Removes a key of the statistics map.
    pub fn remove_statistic(&mut self, key: &str) {
        self.store(true, key, None);
    }

    /// Makes the statistics map hold this and nothing else.
    pub fn load_statistics(&mut self, values: BTreeMap<String, Raw>) {
        let here = self.statistics.keys();
        let gone: Vec<_> = here
            .filter(|key| !values.contains_key(*key))
            .cloned()
            .collect();
        for key in gone {
            self.remove_statistic(&key);
        }
        for (key, value) in values {
            self.set_statistic(&key, value);
        }
    }

    /// Whether somebody wants to be told of statistics.
    pub fn tracks_statistics(&self) -> bool {
        let mut clients = self.clients.values();
        clients.any(|client| client.statistics && !client.trackers.is_empty())
    }

    /// Which of the two maps a client looks at.
    pub fn looks_at_statistics(&self, client: ClientId) -> bool {
        self.clients
            .get(&client)
            .is_some_and(|client| client.statistics)
    }

    /// Takes over a configuration: keys of its sections that it lacks are removed.
    pub fn load(&mut self, keys: &Keys) {
        let of_file = |key: &str| FILE_SECTIONS.iter().any(|section| key.starts_with(section));
        let gone: Vec<_> = self
            .config
            .keys()
            .filter(|key| {
                of_file(key) && keys.entry(key).is_none() && !CALCULATED.contains(&key.as_str())
            })
            .cloned()
            .collect();
        for key in gone {
            self.remove(&key);
        }
        for (key, entry) in keys.iter() {
            self.set(key, Raw::from(&entry.value));
        }
    }

    /// Serves a request.
    pub fn handle_request(&mut self, client: ClientId, request: Request) -> Outcome {
        let statistics = self.clients.entry(client).or_default().statistics;
        let mut changed = None;
        let response = match request {
            Request::Set { key, value } => {
                let status = self.client_set(statistics, &key, value);
                changed = (status == Status::OK && !statistics).then_some(key);
                Response::Set(status)
            }
            Request::Delete { key } => {
                let status = self.client_delete(statistics, &key);
                changed = (status == Status::OK).then_some(key);
                Response::Delete(status)
            }
            Request::Adjust { key, step } => {
                let status = self.client_adjust(statistics, &key, step);
                changed = (status == Status::OK).then_some(key);
                Response::Adjust(status)
            }
            Request::Get { key, room } => self.get(statistics, &key, room),
            Request::IterInit { prefix } => Response::IterInit(self.walk(client, prefix)),
            Request::IterNext { handle } => Response::IterNext(self.step(client, handle)),
            Request::IterFinalize { handle } => {
                let walk = self.client(client).walks.remove(&handle);
                Response::IterFinalize(walk.map_or(Status::BAD_HANDLE, |_| Status::OK))
            }
            Request::TrackAdd {
                key,
                kinds,
                client_handle,
            } => Response::TrackAdd(self.track(
                client,
                Tracker {
                    key,
                    kinds,
                    client_handle,
                },
            )),
            Request::TrackDelete { handle } => {
                let tracker = self.client(client).trackers.remove(&handle);
                let own = tracker.map(|tracker| tracker.client_handle);
                Response::TrackDelete(own.ok_or(Status::BAD_HANDLE))
            }
            Request::SetCurrentMap { map } => Response::SetCurrentMap(self.choose(client, map)),
        };
        Outcome { response, changed }
    }

    /// Forgets a client.
    pub fn client_gone(&mut self, client: ClientId) {
        self.clients.remove(&client);
        self.events.retain(|(to, _)| *to != client);
    }

    /// The next event to be sent, and to whom.
    pub fn poll_event(&mut self) -> Option<(ClientId, Event)> {
        self.events.pop_front()
    }

    fn client(&mut self, client: ClientId) -> &mut Client {
        self.clients.entry(client).or_default()
    }

    fn entries(&self, statistics: bool) -> &BTreeMap<String, Raw> {
        if statistics {
            &self.statistics
        } else {
            &self.config
        }
    }

    fn store(&mut self, statistics: bool, key: &str, value: Option<Raw>) {
        let entries = if statistics {
            &mut self.statistics
        } else {
            &mut self.config
        };
        let old = match &value {
            Some(value) => entries.insert(key.to_owned(), value.clone()),
            None => entries.remove(key),
        };
        let change = match (&old, &value) {
            (None, Some(_)) => track::ADD,
            (Some(_), None) => track::DELETE,
            (Some(old), Some(new)) if old != new => track::MODIFY,
            _ => return,
        };
        for (id, client) in &self.clients {
            if client.statistics != statistics {
                continue;
            }
            // Of counters below a prefix, nobody wants to know each change.
            let counts = |it: &&Tracker| statistics && it.kinds & track::PREFIX != 0;
            let wants =
                |it: &&Tracker| it.wants(key, change) && !(change == track::MODIFY && counts(it));
            for tracker in client.trackers.values().filter(wants) {
                let event = Event {
                    client_handle: tracker.client_handle,
                    key: key.to_owned(),
                    change,
                    new: value.clone(),
                    old: old.clone(),
                };
                self.events.push_back((*id, event));
            }
        }
    }

    fn client_set(&mut self, statistics: bool, key: &str, value: Raw) -> Status {
        if statistics {
            // Counters are cleared by writing; the key itself does not appear.
            return match key.strip_prefix("stats.clear.") {
                Some(what) if CLEARS.contains(&what) => Status::OK,
                Some(_) => Status::NOT_SUPPORTED,
                None => Status::ACCESS,
            };
        }
        if is_read_only(key) {
            return Status::ACCESS;
        }
        if !self.config.contains_key(key) && !is_valid_key(key) {
            return Status::NAME_TOO_LONG;
        }
        if !self.config.contains_key(key) && self.config.len() >= KEYS_MAX {
            return Status::NO_RESOURCES;
        }
        match checked(value) {
            Some(value) => {
                self.store(false, key, Some(value));
                Status::OK
            }
            None => Status::INVALID_PARAM,
        }
    }

    fn client_delete(&mut self, statistics: bool, key: &str) -> Status {
        if statistics || is_read_only(key) {
            return Status::ACCESS;
        }
        if !self.config.contains_key(key) {
            return Status::NOT_EXIST;
        }
        self.store(false, key, None);
        Status::OK
    }

    fn client_adjust(&mut self, statistics: bool, key: &str, step: i32) -> Status {
        if statistics || is_read_only(key) {
            return Status::ACCESS;
        }
        let Some(old) = self.config.get(key) else {
            return Status::NOT_EXIST;
        };
        let Some(new) = adjusted(old, step) else {
            return Status::INVALID_PARAM;
        };
        self.store(false, key, Some(new));
        Status::OK
    }

    fn get(&self, statistics: bool, key: &str, room: u64) -> Response {
        let Some(value) = self.entries(statistics).get(key) else {
            return Response::NotGot(Status::NOT_EXIST);
        };
        let length = value.length();
        let enough = room == 0 || room >= length;
        match usize::try_from(room)
            .ok()
            .filter(|_| enough && room <= ROOM_MAX)
        {
            Some(room) => {
                let kept = if room == 0 {
                    Vec::new()
                } else {
                    value.bytes.clone()
                };
                Response::Get {
                    length,
                    kind: value.kind,
                    value: kept,
                    room,
                }
            }
            None => Response::NotGot(Status::INVALID_PARAM),
        }
    }

    fn new_handle(&mut self) -> u64 {
        self.next_handle += 1;
        self.next_handle
    }

    fn walk(&mut self, client: ClientId, prefix: String) -> Result<u64, Status> {
        let handle = self.new_handle();
        let walks = &mut self.client(client).walks;
        if walks.len() >= HANDLES_MAX {
            return Err(Status::NO_RESOURCES);
        }
        walks.insert(handle, Walk { prefix, last: None });
        Ok(handle)
    }

    fn step(&mut self, client: ClientId, handle: u64) -> Result<(String, u8, u64), Status> {
        let Some(state) = self.clients.get_mut(&client) else {
            return Err(Status::BAD_HANDLE);
        };
        let entries = if state.statistics {
            &self.statistics
        } else {
            &self.config
        };
        let walk = state.walks.get_mut(&handle).ok_or(Status::BAD_HANDLE)?;
        let from = match &walk.last {
            Some(last) => Bound::Excluded(last.as_str()),
            None => Bound::Included(walk.prefix.as_str()),
        };
        let next = entries.range::<str, _>((from, Bound::Unbounded)).next();
        let (key, value) = next
            .filter(|(key, _)| key.starts_with(&walk.prefix))
            .ok_or(Status::NO_SECTIONS)?;
        walk.last = Some(key.clone());
        Ok((key.clone(), value.kind, value.length()))
    }

    fn track(&mut self, client: ClientId, tracker: Tracker) -> Result<u64, Status> {
        let known = track::DELETE | track::MODIFY | track::ADD | track::PREFIX;
        if tracker.kinds & !known != 0 {
            return Err(Status::INVALID_PARAM);
        }
        let both = track::ADD | track::DELETE;
        if self.looks_at_statistics(client)
            && tracker.kinds & track::PREFIX != 0
            && tracker.kinds & both != both
        {
            return Err(Status::NOT_SUPPORTED);
        }
        let handle = self.new_handle();
        let trackers = &mut self.client(client).trackers;
        if trackers.len() >= HANDLES_MAX {
            return Err(Status::NO_RESOURCES);
        }
        trackers.insert(handle, tracker);
        Ok(handle)
    }

    fn choose(&mut self, client: ClientId, map: u32) -> Status {
        let state = self.client(client);
        match map {
            0 | 1 if !state.walks.is_empty() || !state.trackers.is_empty() => Status::BUSY,
            0 | 1 => {
                state.statistics = map == 1;
                Status::OK
            }
            _ => Status::NOT_EXIST,
        }
    }
}

impl Tracker {
    fn wants(&self, key: &str, change: u32) -> bool {
        let is_key = if self.kinds & track::PREFIX != 0 {
            key.starts_with(&self.key)
        } else {
            key == self.key
        };
        is_key && self.kinds & change != 0
    }
}

impl Raw {
    /// A number of 8 bits.
    pub fn u8(number: u8) -> Self {
        Self {
            kind: kind::U8,
            bytes: vec![number],
        }
    }

    /// A number of 16 bits.
    pub fn u16(number: u16) -> Self {
        Self {
            kind: kind::U16,
            bytes: number.to_le_bytes().to_vec(),
        }
    }

    /// A number of 32 bits.
    pub fn u32(number: u32) -> Self {
        Self {
            kind: kind::U32,
            bytes: number.to_le_bytes().to_vec(),
        }
    }

    /// A number of 32 bits with a sign.
    pub fn i32(number: i32) -> Self {
        Self {
            kind: kind::I32,
            bytes: number.to_le_bytes().to_vec(),
        }
    }

    /// A number of 64 bits.
    pub fn u64(number: u64) -> Self {
        Self {
            kind: kind::U64,
            bytes: number.to_le_bytes().to_vec(),
        }
    }

    /// A text.
    pub fn text(text: &str) -> Self {
        let bytes = [text.as_bytes(), &[0]].concat();
        Self {
            kind: kind::TEXT,
            bytes,
        }
    }

    fn length(&self) -> u64 {
        u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)
    }
}

impl From<&Value> for Raw {
    fn from(value: &Value) -> Self {
        match value {
            Value::U8(number) => Self::u8(*number),
            Value::U16(number) => Self::u16(*number),
            Value::U32(number) => Self::u32(*number),
            Value::I32(number) => Self::i32(*number),
            Value::U64(number) => Self::u64(*number),
            Value::Text(text) => Self::text(text),
        }
    }
}

/// Sections that a file fills.
const FILE_SECTIONS: &[&str] = &[
    "logging.",
    "totem.",
    "nodelist.",
    "quorum.",
    "uidgid.config.",
    "nozzle.",
];
/// Keys in them that do not come from the file.
const CALCULATED: &[&str] = &["nodelist.local_node_pos"];
const CLEARS: &[&str] = &["knet", "ipc", "totem", "schedmiss", "all"];

const READ_ONLY_PREFIXES: &[&str] = &[
    "internal_configuration.",
    "runtime.services.",
    "runtime.config.",
    "runtime.totem.",
    "uidgid.config.",
    "system.",
    "nodelist.",
];
const READ_ONLY_KEYS: &[&str] = &[
    "totem.crypto_cipher",
    "totem.crypto_hash",
    "totem.crypto_model",
    "totem.keyfile",
    "totem.key",
    "totem.secauth",
    "totem.ip_version",
    "totem.rrp_mode",
    "totem.transport",
    "totem.cluster_name",
    "totem.netmtu",
    "totem.threads",
    "totem.version",
    "totem.nodeid",
    "totem.clear_node_high_bit",
    "config.reload_in_progress",
    "config.totemconfig_reload_in_progress",
    "quorum.allow_downscale",
    "quorum.wait_for_all",
    "quorum.last_man_standing",
    "quorum.last_man_standing_window",
    "quorum.expected_votes_tracking",
    "quorum.auto_tie_breaker",
    "quorum.auto_tie_breaker_node",
];

fn is_read_only(key: &str) -> bool {
    READ_ONLY_KEYS.contains(&key)
        || READ_ONLY_PREFIXES
            .iter()
            .any(|prefix| key.starts_with(prefix))
}

fn is_valid_key(key: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
    (KEY_MIN..=KEY_MAX).contains(&key.len()) && key.chars().all(allowed)
}

/// The value as it is stored, if it is one.
fn checked(mut value: Raw) -> Option<Raw> {
    if value.bytes.len() > VALUE_MAX {
        return None;
    }
    let size = match value.kind {
        kind::I8 | kind::U8 => 1,
        kind::I16 | kind::U16 => 2,
        kind::I32 | kind::U32 | kind::F32 => 4,
        kind::I64 | kind::U64 | kind::F64 => 8,
        kind::BINARY => return Some(value),
        kind::TEXT => {
            let end = value.bytes.iter().position(|byte| *byte == 0);
            let end = end.unwrap_or(value.bytes.len());
            // One NUL may be there, and one there will be.
            let fits = value.bytes.len() <= end + 1;
            value.bytes.truncate(end);
            value.bytes.push(0);
            return fits.then_some(value);
        }
        _ => return None,
    };
    (value.bytes.len() == size).then_some(value)
}

/// A whole number with `step` added, round its end if need be.
fn adjusted(value: &Raw, step: i32) -> Option<Raw> {
    let whole = [
        kind::I8,
        kind::U8,
        kind::I16,
        kind::U16,
        kind::I32,
        kind::U32,
        kind::I64,
        kind::U64,
    ];
    if !whole.contains(&value.kind) {
        return None;
    }
    let mut wide = [0; 8];
    wide.get_mut(..value.bytes.len())?
        .copy_from_slice(&value.bytes);
    // The low bytes of a sum do not depend on the high ones, nor on the sign.
    let sum = i64::from_le_bytes(wide)
        .wrapping_add(i64::from(step))
        .to_le_bytes();
    Some(Raw {
        kind: value.kind,
        bytes: sum.get(..value.bytes.len())?.to_vec(),
    })
}

#[cfg(test)]
#[path = "map_tests.rs"]
mod tests;
