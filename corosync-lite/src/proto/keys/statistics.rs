//! The statistics map, computed from the counters of the parts when somebody looks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::proto::{knet, srp};
use crate::service::cmap::{Raw, kind};

/// Pauses that are shown, the newest first.
const PAUSES_MAX: usize = 10;
/// More failed attempts to find a membership in a row mean that something is in the way.
const GATHERS_IN_VAIN_MAX: u32 = 3;

/// Counters of all parts.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Frames that the send queue still takes.
    pub queue_room: u32,
    /// Frames that wait in it.
    pub queued: u32,
    /// The ring.
    pub ring: srp::Stats,
    /// All links of the transport, that of this node to itself included; none for those without
    /// links.
    pub links: Vec<knet::LinkStatus>,
    /// The transport as a whole, if it has links.
    pub transport: Option<knet::Stats>,
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
    /// How often that began.
    pub flow_control_count: u64,
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
    pub fn values(&self, now: Instant) -> BTreeMap<String, Raw> {
        let mut values = BTreeMap::new();
        let mut put = |key: String, value: Raw| {
            values.insert(key, value);
        };
        put(
            "stats.pg.msg_queue_avail".to_owned(),
            Raw::u32(self.queue_room),
        );
        put("stats.pg.msg_reserved".to_owned(), Raw::u32(self.queued));
        for (name, value) in of_ring(&self.ring, now) {
            put(format!("stats.srp.{name}"), value);
        }
        for (name, value) in self.transport.iter().flat_map(of_transport) {
            put(format!("stats.knet.handle.{name}"), value);
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

/// The protocol of the ring.
fn of_ring(stats: &srp::Stats, now: Instant) -> [(&'static str, Raw); 31] {
    use srp::GatherReason::{
        CommitTokenMissing, ConsensusTimeout, TokenLost, TokenLostInCommit, TokenLostInRecovery,
    };
    let gathers = |reason| Raw::u64(stats.gathers.get(&reason).copied().unwrap_or(0));
    let silence = stats
        .tokens
        .last()
        .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
    let failing = stats.gathers_in_vain > GATHERS_IN_VAIN_MAX;
    [
        ("orf_token_tx", Raw::u64(stats.tokens_sent)),
        ("orf_token_rx", Raw::u64(stats.tokens_accepted)),
        ("token_retx", Raw::u64(stats.tokens_resent)),
        ("memb_merge_detect_tx", Raw::u64(stats.merge_detects.sent)),
        (
            "memb_merge_detect_rx",
            Raw::u64(stats.merge_detects.received),
        ),
        ("memb_join_tx", Raw::u64(stats.joins.sent)),
        ("memb_join_rx", Raw::u64(stats.joins.received)),
        ("mcast_tx", Raw::u64(stats.messages_sent)),
        ("mcast_retx", Raw::u64(stats.messages_resent)),
        ("mcast_rx", Raw::u64(stats.messages_received)),
        ("memb_commit_token_tx", Raw::u64(stats.commit_tokens.sent)),
        (
            "memb_commit_token_rx",
            Raw::u64(stats.commit_tokens.received),
        ),
        ("token_hold_cancel_tx", Raw::u64(stats.hold_cancels.sent)),
        (
            "token_hold_cancel_rx",
            Raw::u64(stats.hold_cancels.received),
        ),
        ("operational_entered", Raw::u64(stats.rings_installed)),
        ("operational_token_lost", gathers(TokenLost)),
        ("gather_entered", Raw::u64(stats.gathers.values().sum())),
        ("gather_token_lost", gathers(CommitTokenMissing)),
        ("commit_entered", Raw::u64(stats.commits)),
        ("commit_token_lost", gathers(TokenLostInCommit)),
        ("recovery_entered", Raw::u64(stats.recoveries)),
        ("recovery_token_lost", gathers(TokenLostInRecovery)),
        ("consensus_timeouts", gathers(ConsensusTimeout)),
        ("rx_msg_dropped", Raw::u64(stats.discards.values().sum())),
        (
            "time_since_token_last_received",
            Raw::u64(u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
        ),
        ("continuous_gather", Raw::u32(stats.gathers_in_vain)),
        // What fails at one link is counted there.
        ("continuous_sendmsg_failures", Raw::u32(0)),
        ("firewall_enabled_or_nic_failure", Raw::u8(failing.into())),
        ("mtt_rx_token", millis(stats.tokens.mean_interval())),
        // A token is sent on within the turn of the loop that received it.
        ("avg_token_workload", Raw::u32(0)),
        ("avg_backlog_calc", Raw::u32(stats.tokens.mean_backlog())),
    ]
}

fn count(number: u64) -> Raw {
    Raw::u32(u32::try_from(number).unwrap_or(u32::MAX))
}

fn millis(time: Duration) -> Raw {
    Raw::u32(u32::try_from(time.as_millis()).unwrap_or(u32::MAX))
}

fn micros(time: Option<Duration>, none: u32) -> Raw {
    Raw::u32(time.map_or(none, |time| {
        u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
    }))
}

fn of_link(link: &knet::LinkStatus) -> Vec<(String, Raw)> {
    let mtu = u32::try_from(link.data_room).unwrap_or(u32::MAX);
    let traffic = &link.traffic;
    let total = traffic.total();
    let mut values = vec![
        ("enabled".to_owned(), Raw::u8(1)),
        ("connected".to_owned(), Raw::u8(link.up.into())),
        ("mtu".to_owned(), Raw::u32(mtu)),
        ("latency_ave".to_owned(), micros(link.latency, 0)),
        (
            "latency_min".to_owned(),
            micros(link.latencies.shortest, u32::MAX),
        ),
        ("latency_max".to_owned(), micros(link.latencies.longest, 0)),
        ("latency_samples".to_owned(), count(link.latencies.count)),
        ("up_count".to_owned(), count(link.ups)),
        ("down_count".to_owned(), count(link.downs)),
        ("tx_total_errors".to_owned(), Raw::u64(total.refused)),
        // Sending waits for the socket, which is no new attempt.
        ("rx_total_retries".to_owned(), Raw::u64(0)),
    ];
    let kinds = [
        ("data", &traffic.data),
        ("ping", &traffic.ping),
        ("pong", &traffic.pong),
        ("pmtu", &traffic.pmtud),
        ("total", &total),
    ];
    for (name, amount) in kinds {
        values.extend([
            (format!("tx_{name}_packets"), Raw::u64(amount.sent)),
            (format!("tx_{name}_bytes"), Raw::u64(amount.sent_bytes)),
            (format!("rx_{name}_packets"), Raw::u64(amount.received)),
            (format!("rx_{name}_bytes"), Raw::u64(amount.received_bytes)),
        ]);
        if name != "total" {
            values.push((format!("tx_{name}_errors"), count(amount.refused)));
            values.push((format!("tx_{name}_retries"), Raw::u32(0)));
        }
    }
    values
}

/// The transport as a whole. There is no compression, and nobody looks at the clock for each
/// datagram: these are as they are where nothing was measured.
fn of_transport(stats: &knet::Stats) -> Vec<(String, Raw)> {
    let mut values = vec![
        ("tx_uncompressed_packets".to_owned(), Raw::u64(0)),
        ("tx_crypt_packets".to_owned(), Raw::u64(stats.sealed)),
        (
            "tx_crypt_byte_overhead".to_owned(),
            Raw::u64(stats.sealed_extra),
        ),
        ("rx_crypt_packets".to_owned(), Raw::u64(stats.opened)),
    ];
    for way in ["tx", "rx"] {
        for name in ["packets", "original_bytes", "size_bytes"] {
            values.push((format!("{way}_compressed_{name}"), Raw::u64(0)));
        }
        for what in ["compress", "crypt"] {
            for (name, time) in [("min", u64::MAX), ("max", 0), ("ave", 0)] {
                values.push((format!("{way}_{what}_time_{name}"), Raw::u64(time)));
            }
        }
    }
    values
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
        ("flow_control_count", Raw::u64(one.flow_control_count)),
    ]
}
