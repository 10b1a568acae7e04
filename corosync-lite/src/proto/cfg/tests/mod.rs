//! What the tests of this folder share, and conversations that were captured.

mod keys;
mod links;
mod random;
mod reload;
mod shutdown;

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::test_host::TestHost;
use crate::config::{Config, Transport};
use crate::proto::knet;
use crate::qb::vectors::{Direction, frames};
use crate::wire::exec;
use crate::wire::vectors::executive;

const LOCAL: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Nodes 1 and 2 with two links each.
struct TwoNodes {
    transport: Transport,
    nodes: Vec<NodeId>,
    members: Vec<NodeId>,
    up: bool,
}

impl Default for TwoNodes {
    fn default() -> Self {
        Self {
            transport: Transport::Knet,
            nodes: vec![LOCAL, PEER],
            members: vec![LOCAL, PEER],
            up: true,
        }
    }
}

impl View for TwoNodes {
    fn local(&self) -> NodeId {
        LOCAL
    }
    fn transport(&self) -> Transport {
        self.transport
    }
    fn nodes(&self) -> Vec<NodeId> {
        self.nodes.clone()
    }
    fn addresses(&self, node: NodeId) -> BTreeMap<u8, IpAddr> {
        let address = |link: u8| (link, format!("10.77.{link}.{}", node.0).parse().unwrap());
        let known = [0, 1].into_iter().filter(|_| self.nodes.contains(&node));
        known.map(address).collect()
    }
    fn is_member(&self, node: NodeId) -> bool {
        self.members.contains(&node)
    }
    fn is_reachable(&self, node: NodeId) -> bool {
        node == LOCAL || self.up
    }
    fn link(&self, node: NodeId, _link: u8) -> Option<LinkState> {
        (node == PEER).then_some(LinkState {
            connected: self.up,
            mtu: 1397,
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn base() -> Instant {
    Instant::now()
}

struct Setup {
    cfg: Cfg,
    now: Instant,
    view: TwoNodes,
}

impl Setup {
    fn new() -> Self {
        Self {
            cfg: Cfg::new(LOCAL),
            now: base(),
            view: TwoNodes::default(),
        }
    }

    fn ask(&mut self, client: u64, request: Request) -> Vec<Output> {
        self.cfg
            .handle_request(self.now, ClientId(client), request, &self.view);
        self.drain()
    }

    /// Without lines of the log.
    fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.cfg.poll_output())
            .filter(|output| !matches!(output, Output::Log(_)))
            .collect()
    }

    fn deliver(&mut self, sender: NodeId, message: &Message) -> Vec<Output> {
        self.cfg.handle_message(sender, message);
        self.drain()
    }

    /// The peer has it read a file with a new key, which it accepts from then on.
    fn accept_key(&mut self) -> Vec<Output> {
        self.deliver(PEER, &Message::Reload(Source::default()));
        self.cfg
            .reload_done(Reloaded::Applied { keys_changed: true });
        self.drain()
    }

    /// Delivers own messages until there are none.
    fn settle(&mut self, outputs: Vec<Output>) -> Vec<Output> {
        let mut all = Vec::new();
        for output in outputs {
            let again = match &output {
                Output::Mcast { message, .. } => self.deliver(LOCAL, message),
                _ => Vec::new(),
            };
            all.push(output);
            all.extend(self.settle(again));
        }
        all
    }
}

fn respond(client: u64, response: Response) -> Output {
    Output::Respond(ClientId(client), response)
}

fn mcast(message: Message) -> Output {
    let lane = Lane::Ordinary;
    Output::Mcast { lane, message }
}

fn event(client: u64, status: Status, flags: u32) -> Output {
    Output::Event(ClientId(client), Event { status, flags })
}

fn own_reload(client: u64) -> Message {
    Message::Reload(Source {
        node: LOCAL,
        connection: client,
    })
}

const ASK: Request = Request::TryShutdown { flags: 0 };
const YES: Request = Request::ReplyToShutdown { yes: true };
const NO: Request = Request::ReplyToShutdown { yes: false };

/// The captured conversation of a client that tries everything gets the same answers.
#[test]
fn answers_are_those_of_the_original() {
    let mut setup = Setup::new();
    // It ran alone, but had been with node 2 before.
    setup.view.nodes = vec![LOCAL];
    let (mut tracker, mut client, mut compared) = (None, 0, 0);
    let mut queue = VecDeque::new();
    for frame in frames("ipc/cs-cfg.hex") {
        if frame.direction == Direction::Request {
            let request = Request::decode(&frame.bytes).unwrap();
            // Which connection a request came on is told in words there.
            let of_tracker = matches!(
                request,
                Request::TrackStart | Request::TrackStop | Request::ReplyToShutdown { .. }
            );
            client += 1;
            let id = match of_tracker {
                true => *tracker.get_or_insert(client),
                false => client,
            };
            if request == Request::TrackStop {
                assert!(queue.is_empty());
            }
            queue.extend(setup.ask(id, request));
            continue;
        }
        let ours = loop {
            match queue.pop_front().unwrap() {
                Output::Respond(_, response) => break response.encode(),
                Output::Event(_, event) => break event.encode(),
                _ => {}
            }
        };
        assert!(frame.matches(&ours.to_bytes()), "{}", frame.note);
        compared += 1;
    }
    assert_eq!(compared, 13);
}

/// Commands that real nodes sent to each other.
fn captured(name: &str) -> Vec<(NodeId, Message)> {
    let messages = executive(name).into_iter();
    let commands = messages.filter_map(|(sender, message)| match message {
        exec::Message::Cfg(message) => Some((NodeId(sender), message)),
        _ => None,
    });
    commands.collect()
}

#[test]
fn commands_of_real_nodes_are_done_and_sent() {
    let commands = captured("knet-cfg-kill-shutdown.pcap.gz");
    let done_by = |local| {
        let mut cfg = Cfg::new(NodeId(local));
        for (sender, message) in &commands {
            cfg.handle_message(*sender, message);
        }
        std::iter::from_fn(move || cfg.poll_output())
            .filter(|output| !matches!(output, Output::Log(_)))
            .collect::<Vec<_>>()
    };
    let (killer, kill) = &commands[0];
    let Message::KillNode { reason, .. } = kill else {
        panic!("{commands:?}");
    };
    let killed = Output::Killed {
        by: *killer,
        reason: printable(reason),
    };
    assert_eq!(done_by(1), []);
    assert_eq!(done_by(2), [Output::Shutdown]);
    assert_eq!(done_by(3), [killed]);
    // The same request makes the same message.
    let mut setup = Setup::new();
    setup.view.members.push(NodeId(3));
    let request = Request::KillNode {
        nodeid: 3,
        reason: printable(reason),
    };
    assert_eq!(setup.ask(1, request)[0], mcast(kill.clone()));
    let reloads = captured("knet-reload-add-link.pcap.gz");
    let own: Vec<_> = reloads.iter().map(|(sender, _)| *sender).collect();
    assert_eq!(own, [LOCAL]);
    let (sender, reload) = &reloads[0];
    assert_eq!(setup.deliver(*sender, reload), [Output::Reload]);
}
