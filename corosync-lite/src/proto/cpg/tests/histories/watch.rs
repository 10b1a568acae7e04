//! What one client has seen, checked by itself.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;

/// A client and its view.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) node: u32,
    pub(super) pid: u32,
    pub(super) group: Group,
    /// It asked to join, and did not leave since then.
    pub(super) wants: bool,
    /// Members, while it is one.
    pub(super) view: Option<BTreeSet<(u32, u32)>>,
    /// Messages that it sent as a member, and those of them that came back.
    pub(super) sent: Vec<u32>,
    pub(super) came_back: Vec<u32>,
    /// Messages in parts that are being received: whole length and what came.
    parts: BTreeMap<(u32, u32), (usize, Vec<u8>)>,
    pub(super) delivered: usize,
    /// The message in parts that is being sent, and how many parts are out.
    pub(super) sending: Option<(u32, u32)>,
}

/// Length of a message in parts, and of a part.
pub(super) const WHOLE: u32 = 12;

/// The bytes of a message, or of each of its parts.
pub(super) fn payload(id: u32) -> Bytes {
    Bytes::copy_from_slice(&id.to_le_bytes())
}

impl Watch {
    pub(super) fn new(node: u32, pid: u32, group: Group) -> Self {
        Self {
            node,
            pid,
            group,
            wants: true,
            view: None,
            sent: Vec::new(),
            came_back: Vec::new(),
            parts: BTreeMap::new(),
            delivered: 0,
            sending: None,
        }
    }

    /// Checks one event against what was seen before.
    pub(super) fn see(&mut self, event: &Event) {
        match event {
            Event::TotemConfchg { .. } => (),
            Event::Confchg {
                group,
                members,
                left,
                joined,
            } => {
                assert_eq!(group, &self.group);
                self.see_change(&set(members), &set(left), &set(joined));
            }
            Event::Deliver {
                group,
                nodeid,
                pid,
                data,
            } => {
                assert_eq!(group, &self.group);
                self.see_message(*nodeid, *pid, data);
            }
            Event::PartialDeliver {
                group,
                nodeid,
                pid,
                length,
                part,
                data,
            } => {
                assert_eq!(group, &self.group);
                self.see_part(
                    (*nodeid, *pid),
                    usize::try_from(*length).unwrap(),
                    *part,
                    data,
                );
            }
        }
    }

    fn see_change(
        &mut self,
        members: &BTreeSet<(u32, u32)>,
        left: &BTreeSet<(u32, u32)>,
        joined: &BTreeSet<(u32, u32)>,
    ) {
        let own = (self.node, self.pid);
        assert!(!left.is_empty() || !joined.is_empty());
        match &self.view {
            None => {
                assert!(joined.contains(&own), "the first event is the own join");
                assert!(members.contains(&own));
            }
            Some(view) => {
                assert!(left.is_subset(view));
                assert!(joined.is_disjoint(view));
                let after: BTreeSet<_> = view.difference(left).chain(joined).copied().collect();
                assert_eq!(&after, members);
            }
        }
        for gone in left {
            self.parts.remove(gone);
        }
        let is_member = members.contains(&own);
        self.view = is_member.then(|| members.clone());
        if !is_member {
            assert!(!self.wants);
            self.parts.clear();
        }
    }

    fn see_message(&mut self, node: u32, pid: u32, data: &Bytes) {
        let view = self.view.as_ref().expect("only members get messages");
        assert!(view.contains(&(node, pid)), "from a member");
        let id = u32::from_le_bytes(data[..4].try_into().unwrap());
        if (node, pid) == (self.node, self.pid) {
            self.came_back.push(id);
        }
        self.delivered += 1;
    }

    /// Puts parts together as client libraries do it, which check nothing.
    fn see_part(&mut self, from: (u32, u32), length: usize, part: Part, data: &Bytes) {
        assert!(self.view.is_some(), "only members get messages");
        if part == Part::First {
            self.parts.insert(from, (length, Vec::new()));
        }
        let (whole, buffer) = self.parts.get_mut(&from).expect("the parts before it");
        assert_eq!(*whole, length);
        buffer.extend_from_slice(data);
        assert!(buffer.len() <= length);
        if part == Part::Last {
            let (_, buffer) = self.parts.remove(&from).expect("it is there");
            assert_eq!(buffer.len(), length);
            let mut parts = buffer.chunks(4);
            assert!(parts.all(|part| part == &buffer[..4]), "of one message");
            self.see_message(from.0, from.1, &Bytes::from(buffer));
        }
    }
}

fn set(list: &[Address]) -> BTreeSet<(u32, u32)> {
    let set: BTreeSet<_> = list.iter().map(|one| (one.nodeid, one.pid)).collect();
    assert_eq!(set.len(), list.len());
    set
}
