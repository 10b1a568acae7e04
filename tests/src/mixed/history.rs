//! What a group's members were told, and whether it agrees.
//!
//! A session is what one member was told, from its joining to the end of its connection. For any
//! two sessions, and any time in which both were members: what the two were told, messages and
//! memberships, is the same in the same order, up to where one of them ends.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};

use super::protocol::{Event, Print};

/// What one member was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its node.
    pub node: u32,
    /// Memberships and messages.
    pub steps: Vec<Step>,
    /// What it sent.
    pub sent: Vec<Print>,
    /// Whether the connection has ended.
    pub ended: bool,
}

/// One thing that a member was told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The group has these members.
    View(Vec<u32>),
    /// A message of a node.
    Message(u32, Print),
}

/// Sender and content, if the event is a message.
#[must_use]
pub fn message(event: &Event) -> Option<(u32, Print)> {
    match event {
        Event::Message { from, print } => Some((*from, *print)),
        _ => None,
    }
}

/// Splits what the client of a node told.
#[must_use]
pub fn sessions(node: u32, events: &[Event]) -> Vec<Session> {
    let mut all: Vec<Session> = Vec::new();
    for event in events {
        if *event == Event::Joined {
            all.push(Session {
                node,
                steps: Vec::new(),
                sent: Vec::new(),
                ended: false,
            });
        }
        let Some(session) = all.last_mut() else {
            continue;
        };
        match event {
            Event::View { members, .. } => session.steps.push(Step::View(members.clone())),
            Event::Message { from, print } => session.steps.push(Step::Message(*from, *print)),
            Event::Sent(print) => session.sent.push(*print),
            Event::Ended => session.ended = true,
            Event::Joined | Event::Hello { .. } | Event::Failed { .. } => {}
        }
    }
    all
}

/// Checks that all sessions agree. Messages must differ from each other.
///
/// # Errors
/// When they do not: which, and where.
pub fn check(sessions: &[Session]) -> Result<()> {
    sessions.iter().try_for_each(check_own)?;
    let nodes: BTreeSet<_> = sessions.iter().map(|session| session.node).collect();
    // What each session shares with each node.
    let mut shared: BTreeMap<(u32, u32), Vec<Segment<'_>>> = BTreeMap::new();
    for session in sessions {
        for other in nodes.iter().filter(|node| **node != session.node) {
            let of_pair = shared.entry((session.node, *other)).or_default();
            of_pair.extend(segments(session, *other));
        }
    }
    for ((one, other), segments) in shared.iter().filter(|((one, other), _)| one < other) {
        let others = shared.get(&(*other, *one)).map_or(&[][..], Vec::as_slice);
        for (a, b) in segments
            .iter()
            .flat_map(|a| others.iter().map(move |b| (a, b)))
        {
            if a.begins_in(b) || b.begins_in(a) {
                compare(*one, a, *other, b)?;
            }
        }
    }
    Ok(())
}

/// A member gets its own messages, all of them unless its connection ends, in its order.
fn check_own(session: &Session) -> Result<()> {
    let own = session.steps.iter().filter_map(|step| match step {
        Step::Message(from, print) if *from == session.node => Some(*print),
        _ => None,
    });
    let own: Vec<_> = own.collect();
    let node = session.node;
    // The last message may have been told as delivered before it was told as sent.
    let known = own.len().min(session.sent.len());
    ensure!(
        own[..known] == session.sent[..known],
        "n{node} got its own messages in another order"
    );
    ensure!(
        session.ended || own.len() == session.sent.len(),
        "n{node} sent {} messages and got {} of them",
        session.sent.len(),
        own.len()
    );
    Ok(())
}

/// A time in which another node was a member as well.
struct Segment<'a> {
    steps: &'a [Step],
    messages: BTreeSet<&'a Step>,
    /// The session ended with it.
    is_last_of_ended: bool,
}

impl Segment<'_> {
    /// Whether the first thing told in this time was told in the other as well.
    fn begins_in(&self, other: &Self) -> bool {
        let is_message = |step: &&Step| matches!(step, Step::Message(..));
        let first = self.steps.iter().find(is_message);
        first.is_some_and(|first| other.messages.contains(first))
    }
}

/// Leading memberships are left out: where two parts of a ring merge, each sees the other come.
fn segments(session: &Session, other: u32) -> Vec<Segment<'_>> {
    let mut all = Vec::new();
    let mut start = None;
    for (index, step) in session.steps.iter().enumerate() {
        match (step, start) {
            (Step::View(members), Some(from)) if !members.contains(&other) => {
                all.push(segment(&session.steps[from..index], false));
                start = None;
            }
            (Step::View(members), None) if members.contains(&other) => start = Some(index),
            _ => {}
        }
    }
    if let Some(from) = start {
        all.push(segment(&session.steps[from..], session.ended));
    }
    all
}

fn segment(steps: &[Step], is_last_of_ended: bool) -> Segment<'_> {
    let is_view = |step: &&Step| matches!(step, Step::View(_));
    let steps = &steps[steps.iter().take_while(is_view).count()..];
    let messages = steps.iter().filter(|step| !is_view(step)).collect();
    Segment {
        steps,
        messages,
        is_last_of_ended,
    }
}

fn compare(node_a: u32, a: &Segment<'_>, node_b: u32, b: &Segment<'_>) -> Result<()> {
    let common = a.steps.len().min(b.steps.len());
    let Some(at) = (0..common).find(|at| a.steps[*at] != b.steps[*at]) else {
        return Ok(());
    };
    // A node that dies may be the only one that has got what it sent last.
    let only_own = |node, rest: &[Step]| {
        rest.iter()
            .all(|step| matches!(step, Step::Message(from, _) if *from == node))
    };
    if a.is_last_of_ended && only_own(node_a, &a.steps[at..])
        || b.is_last_of_ended && only_own(node_b, &b.steps[at..])
    {
        return Ok(());
    }
    bail!(
        "n{node_a} and n{node_b} were told different things, at step {at} of their common time: \
         {:?} and {:?}",
        &a.steps[at..a.steps.len().min(at + 4)],
        &b.steps[at..b.steps.len().min(at + 4)]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(members: &[u32]) -> Step {
        Step::View(members.to_vec())
    }

    fn said(from: u32, hash: u64) -> Step {
        Step::Message(from, Print { len: 16, hash })
    }

    fn session(node: u32, ended: bool, steps: &[Step]) -> Session {
        let own = steps.iter().filter_map(|step| match step {
            Step::Message(from, print) if *from == node => Some(*print),
            _ => None,
        });
        Session {
            node,
            steps: steps.to_vec(),
            sent: own.collect(),
            ended,
        }
    }

    #[test]
    fn equal_times_agree_and_others_are_not_compared() {
        let one = session(
            1,
            false,
            &[
                view(&[1]),
                said(1, 1),
                view(&[1, 2]),
                said(1, 2),
                said(2, 3),
                view(&[1]),
                said(1, 4),
            ],
        );
        let two = session(
            2,
            true,
            &[view(&[1, 2]), said(1, 2), said(2, 3), said(2, 9)],
        );
        check(&[one, two]).unwrap();
    }

    #[test]
    fn another_order_and_missing_messages_are_found() {
        let one = session(1, false, &[view(&[1, 2]), said(1, 1), said(2, 2)]);
        let swapped = session(2, false, &[view(&[1, 2]), said(2, 2), said(1, 1)]);
        check(&[one.clone(), swapped]).unwrap_err();
        let missing = session(2, true, &[view(&[1, 2]), said(2, 2), said(1, 3)]);
        check(&[one, missing]).unwrap_err();
        let mut unsent = session(1, false, &[view(&[1])]);
        unsent.sent.push(Print { len: 1, hash: 1 });
        check(&[unsent]).unwrap_err();
    }
}
