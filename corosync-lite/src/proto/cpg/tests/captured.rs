//! Conversations of the original with its clients: the same requests have the same answers.

use super::*;
use crate::qb::vectors::{Direction, Frame, frames};

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
