//! The statistics map, computed from the counters of the parts when somebody looks.

use std::collections::BTreeMap;

use crate::proto::{knet, srp};
use crate::service::cmap::{Raw, kind};

/// Pauses that are shown, the newest first.
const PAUSES_MAX: usize = 10;

/// Counters of all parts.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Frames that the send queue still takes.
    pub queue_room: u32,
    /// Frames that wait in it.
    pub queued: u32,
    /// The ring.
    pub ring: srp::Stats,
    /// All links of the transport; none for those without links.
    pub links: Vec<knet::LinkStatus>,
    /// Local clients.
    pub connections: Vec<Connection>,
    /// Connections that were closed since the start.
    pub closed: u64,
    /// Times the daemon did not get to run, the newest first.
    pub pauses: Vec<Pause>,
    /// Datagrams that the transport dropped, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
}

/// A client's connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// Number of the service.
    pub service: u16,
    /// Process of the client.
    pub pid: u32,
    /// What tells it from others of the same process.
    pub id: u64,
    /// Name of the process.
    pub process: String,
    /// Requests taken.
    pub requests: u64,
    /// Responses given.
    pub responses: u64,
    /// Events sent.
    pub events: u64,
    /// Events that wait because the client does not read them.
    pub queued: u32,
    /// Requests that were not understood.
    pub invalid: u64,
    /// Requests are not read at the moment.
    pub flow_control: bool,
}

/// A time the daemon did not get to run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pause {
    /// When it was noticed, in milliseconds since 1970.
    pub at_ms: u64,
    /// How long it was.
    pub length_ms: f32,
}

impl Statistics {
    /// All keys and values.
    pub fn values(&self) -> BTreeMap<String, Raw> {
        let mut values = BTreeMap::new();
        let mut put = |key: String, value: Raw| {
            values.insert(key, value);
        };
        put(
            "stats.pg.msg_queue_avail".to_owned(),
            Raw::u32(self.queue_room),
        );
        put("stats.pg.msg_reserved".to_owned(), Raw::u32(self.queued));
        for (name, number) in ring(&self.ring) {
            put(format!("stats.srp.{name}"), Raw::u64(number));
        }
        for link in &self.links {
            for (name, value) in of_link(link) {
                let key = format!("stats.knet.node{}.link{}.{name}", link.host, link.link);
                put(key, value);
            }
        }
        let active = u64::try_from(self.connections.len()).unwrap_or(u64::MAX);
        put("stats.ipcs.global.active".to_owned(), Raw::u64(active));
        put("stats.ipcs.global.closed".to_owned(), Raw::u64(self.closed));
        for one in &self.connections {
            for (name, value) in of_connection(one) {
                let Connection {
                    service, pid, id, ..
                } = one;
                put(
                    format!("stats.ipcs.service{service}.{pid}.{id:#x}.{name}"),
                    value,
                );
            }
        }
        for (index, pause) in self.pauses.iter().take(PAUSES_MAX).enumerate() {
            let key = format!("stats.schedmiss.{index}");
            put(format!("{key}.timestamp"), Raw::u64(pause.at_ms));
            let delay = Raw {
                kind: kind::F32,
                bytes: pause.length_ms.to_le_bytes().to_vec(),
            };
            put(format!("{key}.delay"), delay);
        }
        for (reason, count) in &self.dropped {
            let key = format!("stats.knet.handle.dropped.{reason}");
            put(key, Raw::u64(*count));
        }
        values
    }
}

/// Those that are counted here; nothing is shown for the others.
fn ring(stats: &srp::Stats) -> [(&'static str, u64); 13] {
    use srp::GatherReason::{ConsensusTimeout, TokenLost, TokenLostInCommit, TokenLostInRecovery};
    let gathers = |reason| stats.gathers.get(&reason).copied().unwrap_or(0);
    [
        ("orf_token_tx", stats.tokens_sent),
        ("orf_token_rx", stats.tokens_accepted),
        ("token_retx", stats.tokens_resent),
        ("mcast_tx", stats.messages_sent),
        ("mcast_retx", stats.messages_resent),
        ("mcast_rx", stats.messages_received),
        ("operational_entered", stats.rings_installed),
        ("gather_entered", stats.gathers.values().sum()),
        ("operational_token_lost", gathers(TokenLost)),
        ("commit_token_lost", gathers(TokenLostInCommit)),
        ("recovery_token_lost", gathers(TokenLostInRecovery)),
        ("consensus_timeouts", gathers(ConsensusTimeout)),
        ("rx_msg_dropped", stats.discards.values().sum()),
    ]
}

fn of_link(link: &knet::LinkStatus) -> [(&'static str, Raw); 10] {
    let count = |number: u64| Raw::u32(u32::try_from(number).unwrap_or(u32::MAX));
    let latency = link.latency.map_or(0, |latency| latency.as_micros());
    let latency = Raw::u32(u32::try_from(latency).unwrap_or(u32::MAX));
    let mtu = Raw::u32(u32::try_from(link.data_room).unwrap_or(u32::MAX));
    [
        ("enabled", Raw::u8(1)),
        ("connected", Raw::u8(link.up.into())),
        ("mtu", mtu),
        ("latency_ave", latency),
        ("up_count", count(link.ups)),
        ("down_count", count(link.downs)),
        ("tx_total_packets", Raw::u64(link.traffic.sent)),
        ("tx_total_bytes", Raw::u64(link.traffic.sent_bytes)),
        ("rx_total_packets", Raw::u64(link.traffic.received)),
        ("rx_total_bytes", Raw::u64(link.traffic.received_bytes)),
    ]
}

fn of_connection(one: &Connection) -> [(&'static str, Raw); 13] {
    [
        ("queueing", Raw::i32((one.queued > 0).into())),
        ("queued", Raw::u32(one.queued)),
        ("invalid_request", Raw::u64(one.invalid)),
        ("overload", Raw::u64(0)),
        ("sent", Raw::u32(0)),
        ("procname", Raw::text(&one.process)),
        ("requests", Raw::u64(one.requests)),
        ("responses", Raw::u64(one.responses)),
        ("dispatched", Raw::u64(one.events)),
        ("send_retries", Raw::u64(0)),
        ("recv_retries", Raw::u64(0)),
        ("flow_control", Raw::u32(one.flow_control.into())),
        ("flow_control_count", Raw::u64(0)),
    ]
}
