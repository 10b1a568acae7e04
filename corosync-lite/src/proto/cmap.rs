//! The configuration map as a service of the cluster: nodes tell each other the version of their
//! configuration, clients read and write keys, and some of what they write acts.
//!
//! A core without I/O around [`Map`]. [`Cmap::poll_output`] gives what is to be done, in order;
//! events that a request causes come before its response.
//!
//! A node that finds others with a newer configuration, the first time it meets any, stops: it
//! would act on what no longer holds. Later differences are only told, as nodes that run have
//! taken part in the reloads.
//!
//! Invariants: each request gets one response. A value that a client writes is in force only if the
//! whole configuration is valid with it and this node stays connected; keys that only a restart can
//! change are refused.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::keys::{self, Statistics, Traffic};
use super::srp::Lane;
use crate::config::{Config, Refusal, Reload};
use crate::service::cmap::{Event, Raw, Request, Response, kind};
use crate::service::map::Map;
use crate::service::{ClientId, Status};
use crate::wire::cmap::{Item, Message, Reason};
use crate::wire::{NodeId, RingId};

const VERSION: &str = "totem.config_version";
const CANCEL_WAIT_FOR_ALL: &str = "quorum.cancel_wait_for_all";
const SHUTDOWN_TIMEOUT: &str = "cfg.shutdown_timeout";
const CLEAR: &str = "stats.clear.";
/// Counters that somebody looks at are at most this old.
const FRESH: Duration = Duration::from_millis(100);
/// Who tracks counters is told of them this often.
const TOLD_EVERY: Duration = Duration::from_millis(1500);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// To all nodes.
    Mcast {
        /// [`Lane::Sync`] in a sync phase alone.
        lane: Lane,
        /// What is sent.
        message: Message,
    },
    /// Answers a client.
    Respond(ClientId, Response),
    /// Tells a client.
    Event(ClientId, Event),
    /// A client wrote a key that is a setting: apply the plan as that of a reload. The map shows
    /// it already.
    Reconfigure(Box<Reload>),
    /// All nodes stop waiting for those that were never seen.
    CancelWaitForAll,
    /// Look for a new membership.
    ForceGather,
    /// Write the state of the daemon to the log.
    DumpState,
    /// Write the last lines of the log to a file.
    DumpFlightData,
    /// Set counters to zero.
    ClearStatistics(Counters),
    /// Others have a newer configuration: leave the ring and stop.
    Stop {
        /// The version of this node.
        own: u64,
        /// The highest one of the others.
        highest: u64,
    },
    /// For the log.
    Log(Log),
}

/// Counters that can be set to zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the keys below stats.clear")]
pub enum Counters {
    Knet,
    Ipc,
    Totem,
    Schedmiss,
    All,
}

/// What the log is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Log {
    /// A member has another version of the configuration.
    OtherVersion {
        /// Which one.
        node: NodeId,
        /// Its version.
        version: u64,
        /// That of this node.
        own: u64,
    },
    /// A client wrote a value that can not be in force. The map keeps it, the daemon does not use
    /// it.
    NotUsed {
        /// The key.
        key: String,
        /// Why.
        refusal: Refusal,
    },
}

/// What the map shows when somebody looks.
pub trait View {
    /// In force.
    fn config(&self) -> &Config;
    /// Messages between services.
    fn traffic(&self) -> Traffic;
    /// Counters of all parts.
    fn statistics(&self) -> Statistics;
}

/// The map service of one node.
#[derive(Debug)]
pub struct Cmap {
    map: Map,
    local: NodeId,
    /// The version that others know of.
    announced: u64,
    /// Versions that members told in the present sync phase.
    versions: BTreeMap<NodeId, u64>,
    /// The transitional configuration had members, this one included.
    has_company: bool,
    /// Has met others once.
    checked: bool,
    traffic_at: Option<Instant>,
    statistics_at: Option<Instant>,
    output: VecDeque<Output>,
}

impl Cmap {
    /// The service on node `local`, its map filled from a configuration.
    #[must_use]
    pub fn new(local: NodeId, config: &Config) -> Self {
        let mut map = Map::default();
        let votes = config.quorum.provider.as_deref() == Some("corosync_votequorum");
        keys::put_services(&mut map, votes);
        keys::put_config(&mut map, config);
        let mut cmap = Self {
            map,
            local,
            announced: 0,
            versions: BTreeMap::new(),
            has_company: false,
            checked: false,
            traffic_at: None,
            statistics_at: None,
            output: VecDeque::new(),
        };
        cmap.announced = cmap.version();
        cmap
    }

    /// The map itself.
    #[must_use]
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// Lets the daemon write keys, read-only ones too; those who track them are told.
    pub fn update<T>(&mut self, write: impl FnOnce(&mut Map) -> T) -> T {
        let result = write(&mut self.map);
        self.tell();
        result
    }

    /// Whether a process may use the local services: root, and those that the map names.
    #[must_use]
    pub fn allows(&self, uid: u32, gid: u32) -> bool {
        let named = |kind: &str, id: u32| {
            ["uidgid.", "uidgid.config."].into_iter().any(|prefix| {
                let value = self.map.value(&format!("{prefix}{kind}.{id}"));
                value.and_then(keys::small) == Some(1)
            })
        };
        uid == 0 || gid == 0 || named("uid", uid) || named("gid", gid)
    }

    /// Key `cfg.shutdown_timeout`, in milliseconds.
    #[must_use]
    pub fn shutdown_timeout_ms(&self) -> Option<u32> {
        self.map.value(SHUTDOWN_TIMEOUT).and_then(keys::number)
    }

    /// Takes a request.
    pub fn handle_request(
        &mut self,
        now: Instant,
        client: ClientId,
        request: Request,
        view: &dyn View,
    ) {
        self.refresh(now, client, &request, view);
        let clears = cleared(&request).filter(|_| self.map.looks_at_statistics(client));
        let outcome = self.map.handle_request(client, request);
        if let Some(counters) = clears.filter(|_| outcome.response == Response::Set(Status::OK)) {
            self.output.push_back(Output::ClearStatistics(counters));
            self.statistics_at = None;
        }
        if let Some(key) = outcome.changed {
            self.act(&key, view.config());
        }
        self.tell();
        self.output
            .push_back(Output::Respond(client, outcome.response));
    }

    /// Forgets a client.
    pub fn client_gone(&mut self, client: ClientId) {
        self.map.client_gone(client);
    }

    /// Takes a message of the group, own ones included.
    pub fn handle_message(&mut self, sender: NodeId, message: &Message) {
        if let Reason::Other(_) = message.reason {
            return;
        }
        let mut items = message.items.iter();
        let item = items.find(|item| item.key == VERSION.as_bytes());
        let version = item.and_then(Item::as_u64).unwrap_or(0);
        if let Some(known) = self.versions.get_mut(&sender) {
            *known = version;
        }
        keys::put_member_version(&mut self.map, sender, version);
        self.tell();
    }

    /// A regular configuration was installed. `transitional` are those who came along from the
    /// last one.
    pub fn sync_init(&mut self, members: &[NodeId], transitional: &[NodeId], _ring: RingId) {
        self.has_company = !transitional.is_empty();
        self.versions = members.iter().map(|node| (*node, 0)).collect();
    }

    /// Tells the others the own version.
    pub fn sync_process(&mut self) {
        self.send(Lane::Sync, Reason::Sync);
    }

    /// All versions are known.
    pub fn sync_activate(&mut self) {
        let own = self.version();
        let others = std::mem::take(&mut self.versions);
        let others = others.into_iter().filter(|(node, _)| *node != self.local);
        let others: Vec<_> = others.filter(|(_, version)| *version != own).collect();
        let highest = others.iter().map(|(_, version)| *version).max();
        for (node, version) in others {
            self.output
                .push_back(Output::Log(Log::OtherVersion { node, version, own }));
        }
        // A node that starts alone has not met anybody yet.
        if !self.has_company || std::mem::replace(&mut self.checked, true) {
            return;
        }
        if let Some(highest) = highest.filter(|highest| own != 0 && *highest > own) {
            self.output.push_back(Output::Stop { own, highest });
        }
    }

    /// A newer configuration comes.
    pub fn sync_abort(&mut self) {
        self.versions.clear();
    }

    /// Shows how a reload ended. Programs that wait for the end of it see its flags rise and fall
    /// whatever the end was, and others learn of a new version.
    pub fn reloaded(&mut self, result: Result<&Config, &Refusal>) {
        const FLAGS: [&str; 2] = [
            "config.totemconfig_reload_in_progress",
            "config.reload_in_progress",
        ];
        const ERROR: &str = "config.reload_error_message";
        for flag in FLAGS {
            self.map.set(flag, Raw::u8(1));
        }
        let status = match result {
            Ok(config) => {
                keys::put_config(&mut self.map, config);
                self.map.remove(ERROR);
                Status::OK
            }
            Err(refusal) => {
                self.map.set(ERROR, Raw::text(&refusal.to_string()));
                Status::INVALID_PARAM
            }
        };
        self.map.set("config.reload_status", Raw::i32(status.0));
        for flag in FLAGS {
            self.map.set(flag, Raw::u8(0));
        }
        self.tell();
        self.announce();
    }

    /// Tells those who track counters.
    pub fn handle_timeout(&mut self, now: Instant, view: &dyn View) {
        if self.poll_timeout().is_some_and(|at| now >= at) {
            self.count(now, view);
            self.tell();
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let last = self.statistics_at.filter(|_| self.map.tracks_statistics());
        last.map(|at| at + TOLD_EVERY)
    }

    /// The next thing to be done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    fn version(&self) -> u64 {
        let value = self
            .map
            .value(VERSION)
            .filter(|value| value.kind == kind::U64);
        let bytes = value.and_then(|value| value.bytes.as_slice().try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    }

    fn announce(&mut self) {
        let version = self.version();
        if version != self.announced {
            self.announced = version;
            self.send(Lane::Ordinary, Reason::NewConfigVersion);
        }
    }

    fn send(&mut self, lane: Lane, reason: Reason) {
        let value = self.map.value(VERSION).cloned().unwrap_or_default();
        let item = Item {
            key: Bytes::from_static(VERSION.as_bytes()),
            kind: value.kind,
            value: Bytes::from(value.bytes),
        };
        let items = vec![item];
        let message = Message { reason, items };
        self.output.push_back(Output::Mcast { lane, message });
    }

    fn tell(&mut self) {
        while let Some((client, event)) = self.map.poll_event() {
            self.output.push_back(Output::Event(client, event));
        }
    }

    /// Does what follows from a key that a client wrote or removed.
    fn act(&mut self, key: &str, config: &Config) {
        let trigger = match key {
            VERSION => return self.announce(),
            CANCEL_WAIT_FOR_ALL => {
                let wanted = self.map.value(key).and_then(keys::small).unwrap_or(0);
                if wanted > 0 {
                    self.map.set(key, Raw::u8(0));
                    self.output.push_back(Output::CancelWaitForAll);
                }
                return;
            }
            keys::FORCE_GATHER => Output::ForceGather,
            keys::DUMP_STATE => Output::DumpState,
            keys::DUMP_FLIGHT_DATA => Output::DumpFlightData,
            _ => return self.reconfigure(key, config),
        };
        let value = self.map.value(key);
        if value.and_then(keys::text) != Some(keys::IDLE) {
            let wanted = value.is_some();
            self.map.set(key, Raw::text(keys::IDLE));
            self.output.extend(wanted.then_some(trigger));
        }
    }

    fn reconfigure(&mut self, key: &str, config: &Config) {
        let is_setting = ["totem.", "quorum.", "logging."]
            .into_iter()
            .any(|section| key.starts_with(section));
        if !is_setting {
            return;
        }
        // A type that no setting has counts as absent, as for a program that asks for a number.
        let value = self.map.value(key).and_then(keys::configured);
        match Reload::of_key(config, key, value) {
            Ok(reload) => {
                keys::put_effective(&mut self.map, &reload.plan.config);
                self.output.push_back(Output::Reconfigure(Box::new(reload)));
            }
            Err(refusal) => {
                let key = key.to_owned();
                self.output
                    .push_back(Output::Log(Log::NotUsed { key, refusal }));
            }
        }
    }

    fn count(&mut self, now: Instant, view: &dyn View) {
        self.statistics_at = Some(now);
        self.map.load_statistics(view.statistics().values(now));
    }

    /// Writes counters that the request looks at, if they are old.
    fn refresh(&mut self, now: Instant, client: ClientId, request: &Request, view: &dyn View) {
        let (Request::Get { key, .. }
        | Request::IterInit { prefix: key }
        | Request::TrackAdd { key, .. }) = request
        else {
            return;
        };
        let old =
            |at: Option<Instant>| at.is_none_or(|at| now.saturating_duration_since(at) >= FRESH);
        if self.map.looks_at_statistics(client) {
            if old(self.statistics_at) {
                self.count(now, view);
            }
            return;
        }
        let services = "runtime.services.";
        let looks = key.starts_with(services) || services.starts_with(key.as_str());
        if looks && old(self.traffic_at) {
            self.traffic_at = Some(now);
            keys::put_traffic(&mut self.map, &view.traffic());
        }
    }
}

fn cleared(request: &Request) -> Option<Counters> {
    let Request::Set { key, .. } = request else {
        return None;
    };
    Some(match key.strip_prefix(CLEAR)? {
        "knet" => Counters::Knet,
        "ipc" => Counters::Ipc,
        "totem" => Counters::Totem,
        "schedmiss" => Counters::Schedmiss,
        "all" => Counters::All,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
