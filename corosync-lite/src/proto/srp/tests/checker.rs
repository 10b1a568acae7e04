//! Extended virtual synchrony, checked on what every process was told.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::proto::srp::{Delivered, Event};
use crate::wire::srp::{NodeId, RingId, SeqNo};

/// One process: a node between a start and the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Process {
    pub(super) node: NodeId,
    pub(super) life: u32,
}

/// What a process delivered in one configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Span {
    regular: Vec<(SeqNo, Bytes)>,
    transitional: Vec<(SeqNo, Bytes)>,
}

#[derive(Debug, Default)]
struct History {
    /// Installed rings in order, with what was delivered in each.
    spans: Vec<(RingId, Span)>,
    /// Members that came along into each ring.
    trans: Vec<BTreeSet<NodeId>>,
    pending_trans: Option<BTreeSet<NodeId>>,
    delivered: BTreeSet<Bytes>,
    own: Vec<Bytes>,
}

/// Collects histories and complains.
#[derive(Debug, Default)]
pub(super) struct Checker {
    /// Delivery is safe: what not all are known to have comes after the transitional
    /// configuration, whoever sent it.
    pub(super) is_safe: bool,
    processes: BTreeMap<Process, History>,
    members: BTreeMap<RingId, Vec<NodeId>>,
    /// What has which place: the same for all.
    order: BTreeMap<RingId, BTreeMap<u32, Bytes>>,
}

impl Checker {
    /// Notes an event; checks what can be checked at once.
    pub(super) fn note(&mut self, process: Process, event: &Event) -> Result<(), String> {
        let checked = match event {
            Event::Transitional {
                members,
                left,
                ring,
            } => self.transitional(process, *ring, members, left),
            Event::Regular {
                ring,
                members,
                joined,
            } => self.regular(process, *ring, members, joined),
            Event::Deliver(delivered) => self.delivered(process, delivered),
            Event::State { .. } | Event::TokenLate(_) | Event::Repeated => Ok(()),
        };
        checked.map_err(|error| format!("{process:?}: {error}"))
    }

    fn transitional(
        &mut self,
        process: Process,
        ring: RingId,
        members: &[NodeId],
        left: &[NodeId],
    ) -> Result<(), String> {
        let history = self.processes.entry(process).or_default();
        let members: BTreeSet<_> = members.iter().copied().collect();
        let before = history.spans.last().map(|(ring, _)| &self.members[ring]);
        let before: BTreeSet<NodeId> = before.into_iter().flatten().copied().collect();
        let gone: BTreeSet<_> = left.iter().copied().collect();
        let split: BTreeSet<_> = members.union(&gone).copied().collect();
        if split != before || !members.is_disjoint(&gone) {
            return Err(format!("transitional {ring} is no part of the last"));
        }
        if !before.is_empty() && !members.contains(&process.node) {
            return Err("not in its own transitional configuration".to_string());
        }
        match history.pending_trans.replace(members) {
            Some(_) => Err("two transitional configurations in a row".to_string()),
            None => Ok(()),
        }
    }

    fn regular(
        &mut self,
        process: Process,
        ring: RingId,
        members: &[NodeId],
        joined: &[NodeId],
    ) -> Result<(), String> {
        let history = self.processes.entry(process).or_default();
        let trans = history
            .pending_trans
            .take()
            .ok_or("no transitional configuration")?;
        let now: BTreeSet<_> = members.iter().copied().collect();
        let new: BTreeSet<_> = joined.iter().copied().collect();
        let sum: BTreeSet<_> = trans.union(&new).copied().collect();
        if sum != now || !now.contains(&process.node) || !trans.is_disjoint(&new) {
            return Err(format!("members of {ring} do not add up"));
        }
        if history
            .spans
            .last()
            .is_some_and(|(last, _)| last.seq >= ring.seq)
        {
            return Err(format!("ring {ring} does not follow"));
        }
        if self.members.entry(ring).or_insert_with(|| members.to_vec()) != members {
            return Err(format!("others see other members of {ring}"));
        }
        history.spans.push((ring, Span::default()));
        history.trans.push(trans);
        Ok(())
    }

    fn delivered(&mut self, process: Process, delivered: &Delivered) -> Result<(), String> {
        let history = self.processes.entry(process).or_default();
        let (ring, span) = history
            .spans
            .last_mut()
            .ok_or("delivery without configuration")?;
        let (seq, frame) = (delivered.seq, &delivered.frame);
        if delivered.ring != *ring || !self.members[ring].contains(&delivered.sender) {
            return Err(format!("{seq} delivered in a foreign configuration"));
        }
        if !history.delivered.insert(frame.clone()) {
            return Err(format!("{frame:?} delivered twice"));
        }
        let last = span.transitional.last().or(span.regular.last());
        if last.is_some_and(|(last, _)| !last.is_before(seq)) {
            return Err(format!("{seq} out of order"));
        }
        let order = self.order.entry(*ring).or_default();
        if order.entry(seq.0).or_insert_with(|| frame.clone()) != frame {
            return Err(format!("another message has place {seq} of {ring}"));
        }
        match &history.pending_trans {
            None => span.regular.push((seq, frame.clone())),
            Some(trans) if trans.contains(&delivered.sender) || self.is_safe => {
                span.transitional.push((seq, frame.clone()));
            }
            Some(_) => return Err(format!("{seq} from a node that left")),
        }
        Ok(())
    }

    /// Notes a frame that a process has submitted, in its order.
    pub(super) fn submitted(&mut self, process: Process, frame: Bytes) {
        self.processes.entry(process).or_default().own.push(frame);
    }

    /// Checks what needs the whole run: `living` processes are those that run at its end.
    pub(super) fn finish(&self, living: &[Process]) -> Result<(), String> {
        for (process, history) in &self.processes {
            self.check_prefix(*process, history)?;
            // The messages of one sender form a queue: what was delivered is its beginning.
            let is_there = |frame: &&Bytes| history.delivered.contains(*frame);
            let there = history.own.iter().take_while(is_there).count();
            if there != history.own.iter().filter(is_there).count() {
                return Err(format!("{process:?}: own messages are missing in between"));
            }
            if living.contains(process) && there != history.own.len() {
                return Err(format!(
                    "{process:?}: has not delivered all of its own messages"
                ));
            }
        }
        self.check_pairs()
    }

    /// In a regular configuration there are no gaps in what anybody delivered.
    fn check_prefix(&self, process: Process, history: &History) -> Result<(), String> {
        for (ring, span) in &history.spans {
            let Some(order) = self.order.get(ring) else {
                continue;
            };
            let expected = order.iter().take(span.regular.len());
            let is_prefix = expected
                .zip(&span.regular)
                .all(|((seq, frame), (own_seq, own))| *seq == own_seq.0 && frame == own);
            if !is_prefix {
                return Err(format!("{process:?}: gap in ring {ring}"));
            }
        }
        Ok(())
    }

    /// Two that go together from one configuration to the next deliver the same in between.
    fn check_pairs(&self) -> Result<(), String> {
        type Step<'a> = (Process, &'a Span, &'a BTreeSet<NodeId>);
        let mut steps: BTreeMap<(RingId, RingId), Vec<Step<'_>>> = BTreeMap::new();
        for (process, history) in &self.processes {
            for (index, pair) in history.spans.windows(2).enumerate() {
                let step = (*process, &pair[0].1, &history.trans[index + 1]);
                steps.entry((pair[0].0, pair[1].0)).or_default().push(step);
            }
        }
        for ((from, to), steps) in &steps {
            let Some(((first, span, trans), rest)) = steps.split_first() else {
                continue;
            };
            for (other, other_span, other_trans) in rest {
                if trans != other_trans {
                    return Err(format!(
                        "{first:?}, {other:?}: {from} to {to}: who came along?"
                    ));
                }
                if span != other_span {
                    return Err(format!(
                        "{first:?}, {other:?}: different messages between {from} and {to}: \
                         {span:?} {other_span:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}
