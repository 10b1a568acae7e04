//! Asks the services of the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Link, Node, Quorum, Ring, Status, Votes, render};
use crate::clock;
use crate::qb::client::{Client, ClientError};
use crate::service::cmap::{Raw, kind};
use crate::service::{DecodeError, Status as Code, TRACK_CURRENT};
use crate::service::{cfg, cmap, quorum, votequorum};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Keys taken from a map, more than any cluster has.
const KEYS_MAX: usize = 100_000;
/// Below these are counters by reason.
const DROPPED: &str = "stats.knet.handle.dropped.";
const VOTEQUORUM: &str = "corosync_votequorum";

/// Why the state is not known.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The connection.
    #[error("{service}: {error}")]
    Client {
        /// The service that was asked.
        service: &'static str,
        /// What went wrong.
        error: ClientError,
    },
    /// The answer.
    #[error("{service}: the daemon gave an answer that is not understood ({error})")]
    Answer {
        /// The service that was asked.
        service: &'static str,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// The answer is another one than asked for.
    #[error("{0}: the daemon gave the answer to another question")]
    Unexpected(&'static str),
}

/// A service that is asked.
struct Service {
    name: &'static str,
    client: Client,
}

impl Service {
    fn connect(name: &'static str) -> Result<Self, AskError> {
        let client = Client::connect(name, PATIENCE).map_err(|error| AskError::Client {
            service: name,
            error,
        })?;
        Ok(Self { name, client })
    }

    fn call<R>(
        &mut self,
        request: &[u8],
        decode: impl FnOnce(&[u8]) -> Result<R, DecodeError>,
    ) -> Result<R, AskError> {
        let service = self.name;
        let answer = self
            .client
            .call(request, PATIENCE)
            .map_err(|error| AskError::Client { service, error })?;
        decode(&answer).map_err(|error| AskError::Answer { service, error })
    }
}

/// Asks the daemon of this host for everything.
///
/// # Errors
/// When there is none, or it does not answer.
pub fn ask() -> Result<Status, AskError> {
    let keys = Keys::read()?;
    let (node, links) = ask_links(&keys)?;
    let (quorate, seq, members) = ask_quorum()?;
    let provider = keys.text("quorum.provider").map(str::to_owned);
    let (votes, of_nodes) = match provider.as_deref() {
        Some(VOTEQUORUM) => ask_votes(&keys, &members)?,
        _ => (None, BTreeMap::new()),
    };
    let nodes = nodes(&keys, node, &members, links, &of_nodes);
    let lowest = members.first().copied().unwrap_or(node);
    let words = render::quorum(quorate, votes.as_ref(), &nodes);
    Ok(Status {
        node,
        cluster: keys.text("totem.cluster_name").map(str::to_owned),
        config_version: keys.number("totem.config_version"),
        transport: keys.text("totem.transport").unwrap_or("knet").to_owned(),
        ring: Ring {
            id: format!("{lowest:x}.{seq:x}"),
            members,
        },
        quorum: Quorum {
            quorate,
            provider,
            votes,
            words,
        },
        nodes,
        settings: keys.below("runtime.config.totem."),
        counters: keys.below("stats.srp."),
        dropped: keys.below(DROPPED),
    })
}

/// What both maps say.
#[derive(Debug, Default)]
struct Keys(BTreeMap<String, Raw>);

impl Keys {
    fn read() -> Result<Self, AskError> {
        let mut service = Service::connect(cmap::NAME)?;
        let mut keys = Self::default();
        let of_file = ["totem.", "nodelist.", "quorum.", "runtime.config.totem."];
        for prefix in of_file {
            keys.walk(&mut service, prefix, |_| true)?;
        }
        let choose = cmap::Request::SetCurrentMap { map: 1 }.encode();
        match service.call(&choose, cmap::Response::decode)? {
            cmap::Response::SetCurrentMap(Code::OK) => {}
            // A daemon without statistics.
            _ => return Ok(keys),
        }
        keys.walk(&mut service, "stats.srp.", |_| true)?;
        let shown = ["latency_ave", "up_count", "down_count"];
        keys.walk(&mut service, "stats.knet.", |key| {
            let last = key.rsplit('.').next().unwrap_or_default();
            key.starts_with(DROPPED) || shown.contains(&last)
        })?;
        Ok(keys)
    }

    fn walk(
        &mut self,
        service: &mut Service,
        prefix: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(), AskError> {
        let unexpected = || AskError::Unexpected(cmap::NAME);
        let start = cmap::Request::IterInit {
            prefix: prefix.to_owned(),
        }
        .encode();
        let handle = match service.call(&start, cmap::Response::decode)? {
            cmap::Response::IterInit(Ok(handle)) => handle,
            cmap::Response::IterInit(Err(_)) => return Ok(()),
            _ => return Err(unexpected()),
        };
        let next = cmap::Request::IterNext { handle }.encode();
        for _ in 0..KEYS_MAX {
            let (key, length) = match service.call(&next, cmap::Response::decode)? {
                cmap::Response::IterNext(Ok((key, _, length))) => (key, length),
                cmap::Response::IterNext(Err(_)) => break,
                _ => return Err(unexpected()),
            };
            if !wanted(&key) {
                continue;
            }
            let get = cmap::Request::Get {
                key: key.clone(),
                room: length,
            }
            .encode();
            match service.call(&get, cmap::Response::decode)? {
                cmap::Response::Get { kind, value, .. } => {
                    self.0.insert(key, Raw { kind, bytes: value });
                }
                // It went meanwhile.
                cmap::Response::NotGot(_) => {}
                _ => return Err(unexpected()),
            }
        }
        let end = cmap::Request::IterFinalize { handle }.encode();
        service.call(&end, cmap::Response::decode)?;
        Ok(())
    }

    fn text(&self, key: &str) -> Option<&str> {
        let raw = self.0.get(key).filter(|raw| raw.kind == kind::TEXT)?;
        let text = std::str::from_utf8(&raw.bytes).ok()?;
        Some(text.trim_end_matches('\0'))
    }

    fn number(&self, key: &str) -> Option<u64> {
        number(self.0.get(key)?)
    }

    /// All numbers below a prefix, by the rest of their keys.
    fn below<N: TryFrom<u64>>(&self, prefix: &str) -> BTreeMap<String, N> {
        let entries = self.0.range(prefix.to_owned()..);
        let here = entries.take_while(|(key, _)| key.starts_with(prefix));
        here.filter_map(|(key, raw)| {
            let name = key.strip_prefix(prefix)?.to_owned();
            Some((name, N::try_from(number(raw)?).ok()?))
        })
        .collect()
    }
}

fn number(raw: &Raw) -> Option<u64> {
    let is_number = matches!(raw.kind, kind::U8 | kind::U16 | kind::U32 | kind::U64);
    if !is_number || raw.bytes.len() > 8 {
        return None;
    }
    let mut bytes = [0; 8];
    bytes
        .get_mut(..raw.bytes.len())?
        .copy_from_slice(&raw.bytes);
    Some(u64::from_le_bytes(bytes))
}

type LinksOfNodes = BTreeMap<u32, (bool, BTreeMap<u8, Link>)>;

/// This node, and the links to all others.
fn ask_links(keys: &Keys) -> Result<(u32, LinksOfNodes), AskError> {
    let mut service = Service::connect(cfg::NAME)?;
    let local = service.call(&cfg::Request::LocalNode.encode(), cfg::Response::decode)?;
    let cfg::Response::LocalNode(own) = local else {
        return Err(AskError::Unexpected(cfg::NAME));
    };
    let mut all = LinksOfNodes::new();
    for nodeid in configured(keys).into_keys().filter(|id| *id != own) {
        let request = cfg::Request::NodeStatus { nodeid, version: 1 }.encode();
        let cfg::Response::NodeStatus(status) = service.call(&request, cfg::Response::decode)?
        else {
            return Err(AskError::Unexpected(cfg::NAME));
        };
        let Ok(status) = *status else {
            continue;
        };
        let enabled = (0..).zip(status.links).filter(|(_, link)| link.enabled);
        let links = enabled.map(|(number, link): (u8, _)| {
            let statistic =
                |name: &str| keys.number(&format!("stats.knet.node{nodeid}.link{number}.{name}"));
            let latency = statistic("latency_ave").filter(|us| *us != 0 && link.connected);
            let link = Link {
                up: link.connected,
                from: link.source,
                to: link.destination,
                mtu: link.mtu,
                latency_ms: latency
                    .and_then(|us| u32::try_from(us).ok())
                    .map(|us| f64::from(us) / 1e3),
                ups: statistic("up_count"),
                downs: statistic("down_count"),
            };
            (number, link)
        });
        all.insert(nodeid, (status.reachable, links.collect()));
    }
    Ok((own, all))
}

/// Whether this node may act, and the ring: its number and members.
fn ask_quorum() -> Result<(bool, u64, Vec<u32>), AskError> {
    let mut service = Service::connect(quorum::NAME)?;
    let request = quorum::Request::GetQuorate.encode();
    let answer = service.call(&request, quorum::Response::decode)?;
    let quorum::Response::Quorate(quorate) = answer else {
        return Err(AskError::Unexpected(quorum::NAME));
    };
    let request = quorum::Request::TrackStart(TRACK_CURRENT).encode();
    let answer = service.call(&request, quorum::Response::decode)?;
    if answer != quorum::Response::TrackStarted(Code::OK) {
        // Without a provider nobody is told.
        return Ok((quorate, 0, Vec::new()));
    }
    let failed = |error| AskError::Client {
        service: quorum::NAME,
        error,
    };
    let event = service
        .client
        .event(clock::now() + PATIENCE)
        .map_err(failed)?;
    let event = event.ok_or_else(|| failed(ClientError::TimedOut(PATIENCE)))?;
    let event = quorum::Event::decode(&event).map_err(|error| AskError::Answer {
        service: quorum::NAME,
        error,
    })?;
    match event {
        quorum::Event::Notification {
            quorate,
            ring_seq,
            members,
        } => Ok((quorate, ring_seq, members)),
        _ => Err(AskError::Unexpected(quorum::NAME)),
    }
}

/// The counting, and the votes of each node.
fn ask_votes(
    keys: &Keys,
    members: &[u32],
) -> Result<(Option<Votes>, BTreeMap<u32, u32>), AskError> {
    let mut service = Service::connect(votequorum::NAME)?;
    let mut info = |nodeid| {
        let request = votequorum::Request::GetInfo { nodeid }.encode();
        match service.call(&request, votequorum::Response::decode)? {
            votequorum::Response::Info(info) => Ok(info.ok()),
            votequorum::Response::Done(_) => Err(AskError::Unexpected(votequorum::NAME)),
        }
    };
    let own = info(0)?;
    let ids: BTreeSet<u32> = configured(keys)
        .into_keys()
        .chain(members.iter().copied())
        .collect();
    let mut of_nodes = BTreeMap::new();
    for id in ids {
        if let Some(info) = info(id)? {
            of_nodes.insert(id, info.votes);
        }
    }
    let votes = own.map(|info| Votes {
        expected: info.expected_votes,
        present: info.total_votes,
        needed: info.quorum,
        options: options(info.flags),
        device: (!info.device_name.is_empty()).then_some((info.device_name, info.device_votes)),
    });
    Ok((votes, of_nodes))
}

fn options(flags: u32) -> Vec<&'static str> {
    use votequorum::flags;
    let names = [
        (flags::TWO_NODE, "two_node"),
        (flags::WAIT_FOR_ALL, "wait_for_all"),
        (flags::LAST_MAN_STANDING, "last_man_standing"),
        (flags::AUTO_TIE_BREAKER, "auto_tie_breaker"),
        (flags::ALLOW_DOWNSCALE, "allow_downscale"),
        (flags::DEVICE_REGISTERED, "device_registered"),
        (flags::DEVICE_ALIVE, "device_alive"),
        (flags::DEVICE_CAST_VOTE, "device_votes"),
        (flags::DEVICE_MASTER_WINS, "device_master_wins"),
    ];
    let set = names.into_iter().filter(|(flag, _)| flags & flag != 0);
    set.map(|(_, name)| name).collect()
}

/// Numbers and names of the nodes in the list.
fn configured(keys: &Keys) -> BTreeMap<u32, Option<String>> {
    let positions = (0..).map_while(|position: usize| {
        let prefix = format!("nodelist.node.{position}.");
        let id = keys.number(&format!("{prefix}nodeid"))?;
        let name = keys.text(&format!("{prefix}name")).map(str::to_owned);
        Some((u32::try_from(id).ok()?, name))
    });
    positions.collect()
}

fn nodes(
    keys: &Keys,
    own: u32,
    members: &[u32],
    mut links: LinksOfNodes,
    votes: &BTreeMap<u32, u32>,
) -> Vec<Node> {
    let mut names = configured(keys);
    for id in members.iter().chain([&own]) {
        names.entry(*id).or_default();
    }
    let node = |(id, name): (u32, Option<String>)| {
        let (reachable, links) = links.remove(&id).unzip();
        Node {
            id,
            name,
            votes: votes.get(&id).copied(),
            member: members.contains(&id),
            reachable,
            links: links.unwrap_or_default(),
        }
    };
    names.into_iter().map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_become_numbers_names_and_counters() {
        let mut keys = Keys::default();
        let mut put = |key: &str, raw| keys.0.insert(key.to_owned(), raw);
        put("nodelist.node.0.nodeid", Raw::u32(4));
        put("nodelist.node.0.name", Raw::text("n4"));
        put("nodelist.node.1.nodeid", Raw::u32(2));
        put("stats.srp.mcast_tx", Raw::u64(7));
        put("stats.srp.procname", Raw::text("x"));
        put("stats.srq", Raw::u64(8));
        assert_eq!(
            keys.below::<u64>("stats.srp."),
            BTreeMap::from([("mcast_tx".to_owned(), 7)])
        );
        let list = configured(&keys);
        assert_eq!(
            list,
            BTreeMap::from([(2, None), (4, Some("n4".to_owned()))])
        );
        let links = LinksOfNodes::from([(2, (true, BTreeMap::new()))]);
        let nodes = nodes(&keys, 4, &[4, 9], links, &BTreeMap::from([(4, 1)]));
        let shown: Vec<_> = nodes
            .iter()
            .map(|it| (it.id, it.member, it.reachable, it.votes))
            .collect();
        let expected = [
            (2, false, Some(true), None),
            (4, true, None, Some(1)),
            (9, true, None, None),
        ];
        assert_eq!(shown, expected);
    }
}
