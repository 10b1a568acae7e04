//! Tests: a node with its messages looped back, and what the sub-modules add to that.

mod captured;
mod clients;
mod exchange;
mod histories;
mod hostile;
mod messages;

use bytes::Bytes;

use super::*;
use crate::service::Status;
use crate::service::cpg::{IterKind, MESSAGE_MAX, Part};
use crate::wire::cpg::{JoinlistEntry, Piece, Process as WireProcess};
use crate::wire::exec::Source;

const LOCAL: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const A: ClientId = ClientId(10);
const B: ClientId = ClientId(11);

fn group(name: &str) -> Group {
    Group::new(name.as_bytes()).unwrap()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn ring(seq: u64) -> RingId {
    RingId { rep: LOCAL, seq }
}

fn at(nodeid: u32, pid: u32, reason: Reason) -> Address {
    Address {
        nodeid,
        pid,
        reason,
    }
}

/// A node and what came out of it.
struct Desk {
    cpg: Cpg,
    ordinary: VecDeque<Message>,
    sync: VecDeque<Message>,
    responses: VecDeque<(ClientId, Response)>,
    events: VecDeque<(ClientId, Event)>,
    logs: Vec<Log>,
}

impl Desk {
    /// A node in a configuration with another one, with two connections.
    fn new() -> Self {
        Self::among(&[LOCAL, OTHER])
    }

    fn among(members: &[NodeId]) -> Self {
        let mut desk = Self {
            cpg: Cpg::new(LOCAL),
            ordinary: VecDeque::new(),
            sync: VecDeque::new(),
            responses: VecDeque::new(),
            events: VecDeque::new(),
            logs: Vec::new(),
        };
        desk.configure(members, &[LOCAL], ring(4), &[]);
        desk.cpg.client_connected(A);
        desk.cpg.client_connected(B);
        desk
    }

    fn drain(&mut self) {
        while let Some(output) = self.cpg.poll_output() {
            match output {
                Output::Mcast { lane, message } => match lane {
                    Lane::Ordinary => self.ordinary.push_back(message),
                    Lane::Sync => self.sync.push_back(message),
                },
                Output::Respond(client, response) => self.responses.push_back((client, response)),
                Output::Event(client, event) => self.events.push_back((client, event)),
                Output::Log(log) => self.logs.push(log),
            }
        }
    }

    /// Delivers what the node has sent itself.
    fn pump(&mut self) {
        self.drain();
        while let Some(message) = self.ordinary.pop_front() {
            self.cpg.handle_message(LOCAL, message);
            self.drain();
        }
    }

    /// What a request is answered, its message not delivered yet.
    fn ask(&mut self, client: ClientId, request: Request) -> Response {
        self.cpg.handle_request(client, request);
        self.drain();
        let (to, response) = self.responses.pop_front().expect("a response");
        assert_eq!((to, self.responses.len()), (client, 0));
        response
    }

    fn join(&mut self, client: ClientId, name: &str, pid: u32, flags: u32) -> Status {
        let group = group(name);
        match self.ask(client, Request::Join { group, pid, flags }) {
            Response::Join(status) => status,
            other => panic!("{other:?}"),
        }
    }

    fn leave(&mut self, client: ClientId, name: &str, pid: u32) -> Status {
        let group = group(name);
        match self.ask(client, Request::Leave { group, pid }) {
            Response::Leave(status) => status,
            other => panic!("{other:?}"),
        }
    }

    fn mcast(&mut self, client: ClientId, text: &str) {
        let (guarantee, data) = (2, bytes(text));
        self.cpg
            .handle_request(client, Request::Mcast { guarantee, data });
        self.drain();
        assert!(self.responses.is_empty());
    }

    fn part(&mut self, client: ClientId, part: Part, length: u32, text: &str) -> Status {
        let request = Request::PartialMcast {
            guarantee: 2,
            length,
            part,
            data: bytes(text),
        };
        match self.ask(client, request) {
            Response::PartialMcast(status) => status,
            other => panic!("{other:?}"),
        }
    }

    /// A message of another node.
    fn hear(&mut self, sender: NodeId, message: Message) {
        self.cpg.handle_message(sender, message);
        self.drain();
    }

    /// A whole synchronization; own messages of it are delivered first.
    fn configure(
        &mut self,
        members: &[NodeId],
        transitional: &[NodeId],
        ring: RingId,
        lists: &[(NodeId, Message)],
    ) {
        self.cpg.sync_init(members, transitional, ring);
        self.cpg.sync_process();
        self.drain();
        for message in std::mem::take(&mut self.sync) {
            self.cpg.handle_message(LOCAL, message);
        }
        for (sender, list) in lists {
            self.cpg.handle_message(*sender, list.clone());
        }
        self.cpg.sync_activate();
        self.drain();
    }

    fn events(&mut self) -> Vec<(ClientId, Event)> {
        self.drain();
        self.events.drain(..).collect()
    }
}

fn process(name: &str, pid: u32, reason: wire::Reason) -> WireProcess {
    let group = bytes(name);
    WireProcess { group, pid, reason }
}

fn join_message(name: &str, pid: u32) -> Message {
    Message::Join(process(name, pid, wire::Reason::Join))
}

fn leave_message(name: &str, pid: u32, reason: wire::Reason) -> Message {
    Message::Leave(process(name, pid, reason))
}

fn list(entries: &[(&str, u32)]) -> Message {
    let entries = entries.iter().map(|(name, pid)| JoinlistEntry {
        pid: *pid,
        group: bytes(name),
    });
    Message::Joinlist(entries.collect())
}

fn mcast_message(name: &str, pid: u32, text: &str) -> Message {
    Message::Mcast(wire::Mcast {
        group: bytes(name),
        pid,
        source: Source::default(),
        payload: bytes(text),
    })
}

fn part_message(name: &str, pid: u32, piece: Piece, total: u32, text: &str) -> Message {
    Message::Partial(wire::Partial {
        group: bytes(name),
        total,
        pid,
        piece,
        source: Source::default(),
        payload: bytes(text),
    })
}

fn confchg(name: &str, members: &[(u32, u32)], left: &[Address], joined: &[Address]) -> Event {
    let members = members
        .iter()
        .map(|(node, pid)| at(*node, *pid, Reason::None));
    Event::Confchg {
        group: group(name),
        members: members.collect(),
        left: left.to_vec(),
        joined: joined.to_vec(),
    }
}

fn deliver(name: &str, (nodeid, pid): (u32, u32), text: &str) -> Event {
    Event::Deliver {
        group: group(name),
        nodeid,
        pid,
        data: bytes(text),
    }
}

fn totem(seq: u64, members: &[u32]) -> Event {
    Event::TotemConfchg {
        ring: ClientRingId {
            nodeid: LOCAL.0,
            seq,
        },
        members: members.to_vec(),
    }
}
