//! Conversations of the original with its clients, and what it sends to other nodes for them: the
//! same requests have the same answers and the same messages.

use super::super::request::source;
use super::*;
use crate::qb::vectors::{Direction, Frame, frames};
use crate::wire::vectors::{Checker, capture};
use crate::wire::{exec, pg};

/// One connection of a capture, from its first request to finalize.
struct Run {
    desk: Desk,
    frames: VecDeque<Frame>,
    /// Our number of a walk for the one in the capture.
    walks: BTreeMap<u64, u64>,
}

fn runs(file: &str) -> Vec<Run> {
    let mut runs = vec![VecDeque::new()];
    for frame in frames(&format!("ipc/{file}.hex")) {
        let ends = frame.note == "cpg FINALIZE" && frame.direction == Direction::Response;
        runs.last_mut().expect("one").push_back(frame);
        if ends {
            runs.push(VecDeque::new());
        }
    }
    runs.pop();
    let run = |frames| Run {
        desk: Desk::new(),
        frames,
        walks: BTreeMap::new(),
    };
    runs.into_iter().map(run).collect()
}

fn event(frame: &Frame) -> Event {
    Event::decode(&Bytes::from(frame.bytes.clone())).unwrap()
}

impl Run {
    /// Configuration of the next event that tells one.
    fn next_ring(&self) -> Option<(RingId, Vec<NodeId>)> {
        let events = self
            .frames
            .iter()
            .filter(|frame| frame.direction == Direction::Event);
        events.map(event).find_map(|event| match event {
            Event::TotemConfchg { ring, members } => {
                let rep = NodeId(ring.nodeid);
                let members = members.into_iter().map(NodeId).collect();
                Some((RingId { rep, seq: ring.seq }, members))
            }
            _ => None,
        })
    }

    fn configure(&mut self, lists: &[(NodeId, Message)]) {
        let (ring, members) = self.next_ring().expect("a ring");
        self.desk.configure(&members, &[LOCAL], ring, lists);
    }

    /// Makes the other node do what the capture tells of it.
    fn induce(&mut self, event: &Event) {
        let (joined, left) = match event {
            Event::TotemConfchg { .. } => return self.configure(&[]),
            Event::Deliver {
                nodeid, pid, data, ..
            } => {
                let text = std::str::from_utf8(data).unwrap();
                return self
                    .desk
                    .hear(NodeId(*nodeid), mcast_message("grpA", *pid, text));
            }
            Event::Confchg { joined, left, .. } => (joined, left),
            Event::PartialDeliver { .. } => panic!("not sent by the other node"),
        };
        match (joined.as_slice(), left.as_slice()) {
            ([one], []) if one.reason == Reason::Join => {
                self.desk.hear(OTHER, join_message("grpA", one.pid));
            }
            ([one], []) => self.configure(&[(OTHER, list(&[("grpA", one.pid)]))]),
            ([], [first, ..]) if first.reason == Reason::NodeDown => self.configure(&[]),
            ([], [one]) => {
                let reason = match one.reason {
                    Reason::Leave => wire::Reason::Leave,
                    _ => wire::Reason::ProcessDown,
                };
                self.desk
                    .hear(OTHER, leave_message("grpA", one.pid, reason));
            }
            other => panic!("{other:?}"),
        }
    }

    fn request(&mut self, frame: &Frame) {
        let request = Request::decode(&Bytes::from(frame.bytes.clone())).unwrap();
        let walks = &self.walks;
        let request = match request {
            Request::IterNext { handle } => Request::IterNext {
                handle: walks[&handle],
            },
            Request::IterFinalize { handle } => Request::IterFinalize {
                handle: walks[&handle],
            },
            other => other,
        };
        self.desk.cpg.handle_request(A, request);
        self.desk.pump();
    }

    fn response(&mut self, frame: &Frame) {
        let (client, mut response) = self.desk.responses.pop_front().expect(&frame.note);
        assert_eq!(client, A);
        let captured = Response::decode(&frame.bytes).unwrap();
        if let (Response::IterInit(Ok(ours)), Response::IterInit(Ok(theirs))) =
            (&mut response, &captured)
        {
            self.walks.insert(*theirs, *ours);
            *ours = *theirs;
        }
        let ours = response.encode().to_bytes();
        assert!(frame.matches(&ours), "{}: {response:?}", frame.note);
    }

    fn event(&mut self, frame: &Frame) {
        self.desk.events.retain(|(client, _)| *client == A);
        if self.desk.events.is_empty() {
            // Looks for the configuration in this event, too.
            self.frames.push_front(frame.clone());
            self.induce(&event(frame));
            self.frames.pop_front();
            self.desk.events.retain(|(client, _)| *client == A);
        }
        let (_, ours) = self.desk.events.pop_front().expect(&frame.note);
        let bytes = ours.encode().to_bytes();
        assert!(frame.matches(&bytes), "{}: {ours:?}", frame.note);
    }

    fn play(&mut self) {
        if self.next_ring().is_some() {
            self.configure(&[]);
        }
        self.desk.events();
        while let Some(frame) = self.frames.pop_front() {
            match frame.direction {
                Direction::Request | Direction::OneWay => self.request(&frame),
                Direction::Response => self.response(&frame),
                Direction::Event => self.event(&frame),
            }
        }
        assert!(self.desk.responses.is_empty());
        self.desk.events.retain(|(client, _)| *client == A);
    }
}

#[test]
fn conversations_of_one_node_are_the_same() {
    for file in ["cs-cpg", "cs-cpg-large", "tool-cpgtool"] {
        for mut run in runs(file) {
            run.frames
                .retain(|frame| frame.note.trim_start_matches("event ").starts_with("cpg"));
            run.play();
            assert_eq!(run.desk.events, [], "{file}");
        }
    }
}

#[test]
fn conversations_with_another_node_are_the_same() {
    let mut events = 0;
    for mut run in runs("cs-cpg-membership") {
        // The client asked to leave and took what had come before only then; it did not look
        // at the event of its own leave any more.
        let leaves = |frame: &Frame| frame.note.starts_with("cpg LEAVE");
        let (leave, mut rest): (VecDeque<_>, VecDeque<_>) =
            run.frames.into_iter().partition(leaves);
        let finalize = rest.split_off(rest.len() - 2);
        events += rest.len();
        rest.extend(leave);
        rest.extend(finalize);
        run.frames = rest;
        run.play();
        assert_eq!(run.desk.events.len(), 1);
    }
    assert!(events > 50, "{events}");
}

/// The messages of this service in a capture.
fn sent(name: &str) -> Vec<(NodeId, Message)> {
    let mut checker = Checker::default();
    for datagram in capture(&format!("{name}.pcap.gz")) {
        if name.starts_with("knet") {
            checker.knet(&datagram.payload);
        } else {
            checker.srp(&datagram.payload);
        }
    }
    let messages = checker.messages.into_iter();
    let to_services = messages.filter(|(_, message)| message.groups == [pg::Group::Executive]);
    let decoded = to_services
        .map(|(sender, message)| (sender, exec::Message::decode(&message.body).unwrap()));
    let of_cpg = decoded.filter_map(|(sender, message)| match message {
        exec::Message::Cpg(message) => Some((NodeId(sender), message)),
        _ => None,
    });
    of_cpg.collect()
}

/// Makes a local client do what makes the node send a message.
fn provoke(desk: &mut Desk, message: &Message) {
    let request = match message {
        Message::Join(process) => Request::Join {
            group: Group::new(&process.group).unwrap(),
            pid: process.pid,
            flags: 0,
        },
        Message::Leave(process) if process.reason == wire::Reason::ProcessDown => {
            return desk.cpg.client_gone(A);
        }
        Message::Leave(process) => Request::Leave {
            group: Group::new(&process.group).unwrap(),
            pid: process.pid,
        },
        Message::Mcast(mcast) => Request::Mcast {
            guarantee: 2,
            data: mcast.payload.clone(),
        },
        Message::Partial(partial) => Request::PartialMcast {
            guarantee: 2,
            length: partial.total,
            part: match partial.piece {
                Piece::First => Part::First,
                Piece::Continued => Part::Middle,
                Piece::Last => Part::Last,
            },
            data: partial.payload.clone(),
        },
        Message::Joinlist(_) | Message::Downlist(_) => panic!("not sent for a client"),
    };
    desk.cpg.handle_request(A, request);
}

/// The message with the connection that ours has: it means nothing to other nodes.
fn with_our_source(mut message: Message) -> Message {
    let ours = source(LOCAL, A);
    match &mut message {
        Message::Mcast(mcast) => mcast.source = ours,
        Message::Partial(partial) => partial.source = ours,
        _ => (),
    }
    message
}

#[test]
fn messages_for_clients_are_the_same() {
    for (name, parts) in [("knet-cpg10", 0), ("udpu-cpg1m", 2), ("knet-cpg1m", 2)] {
        let mut desk = Desk::new();
        let (mut own, mut seen_parts) = (0, 0);
        for (sender, message) in sent(name) {
            if matches!(message, Message::Downlist(_) | Message::Joinlist(_)) {
                continue;
            }
            if sender == LOCAL {
                provoke(&mut desk, &message);
                desk.drain();
                let sent = desk.ordinary.pop_front().expect("a message");
                assert_eq!(sent, with_our_source(message.clone()), "{name}");
                own += 1;
            }
            seen_parts += usize::from(matches!(message, Message::Partial(_)));
            desk.hear(sender, message);
        }
        assert!(own >= 3, "{name}: {own}");
        assert_eq!(seen_parts, parts, "{name}");
        assert_eq!(desk.logs, [], "{name}");
        assert_eq!(
            desk.cpg
                .processes()
                .filter(|(_, node, _)| *node == LOCAL)
                .count(),
            0
        );
    }
}
