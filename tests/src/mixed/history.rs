//! What a group's members were told, and whether it agrees.
//!
//! A session is what one member was told, from its joining to the end of its connection. For any
//! two sessions, and any time in which both were members: what the two were told, messages and
//! memberships, is the same in the same order, up to where one of them ends.
//!
//! Where one of the two runs Corosync, memberships that follow each other without a message between
//! them count by the last one. When memberships change faster than services synchronize, Corosync
//! goes by the last change alone: it does not tell that a node went another way in one before and
//! came back. corosync-lite tells that it went and came. Who is told more must be told all that the
//! other one is.
//!
//! Of a message that Corosync has begun to send when a membership changes, those who come new get the
//! end alone, so they can not be told of it. They drop all of that sender up to the first frame that
//! ends with a message, and agree on it. Members that were with the sender before are told all.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::{Result, bail, ensure};

use super::Kind;
use super::protocol::{Event, Print};

/// What one member was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its node.
    pub node: u32,
    /// What runs there.
    pub kind: Kind,
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
pub fn sessions(node: u32, kind: Kind, events: &[Event]) -> Vec<Session> {
    let mut all: Vec<Session> = Vec::new();
    for event in events {
        if *event == Event::Joined {
            all.push(Session {
                node,
                kind,
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
    let senders = Senders::new(sessions);
    // What each session shares with each node.
    let mut shared: BTreeMap<(u32, u32), Vec<Segment<'_>>> = BTreeMap::new();
    for session in sessions {
        for other in senders.kinds.keys().filter(|node| **node != session.node) {
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
                compare(&senders, (*one, a), (*other, b))?;
            }
        }
    }
    Ok(())
}

/// What is known of those who sent.
struct Senders {
    kinds: BTreeMap<u32, Kind>,
    /// Place of each message among those of its sender, all its connections together.
    places: BTreeMap<(u32, Print), usize>,
}

impl Senders {
    fn new(sessions: &[Session]) -> Self {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        let mut places = BTreeMap::new();
        for session in sessions {
            for print in &session.sent {
                let count = counts.entry(session.node).or_default();
                *count += 1;
                places.insert((session.node, *print), *count);
            }
        }
        let kinds = sessions.iter().map(|session| (session.node, session.kind));
        Self {
            kinds: kinds.collect(),
            places,
        }
    }

    /// What one was told from a place on, for who has to find out why `other` was not.
    fn describe(&self, rest: &[Told<'_>], other: &Segment<'_>) -> String {
        let shown = rest.iter().take(6).map(|told| {
            let Step::Message(from, print) = told.step else {
                return String::new();
            };
            let place = self.places.get(&(*from, *print));
            let place = place.map_or("?".to_owned(), usize::to_string);
            let missing = if other.messages.contains(told.step) {
                ""
            } else {
                " (the other never)"
            };
            let (len, members) = (print.len, told.members);
            let changes = told.changes;
            format!(
                "message {place} of n{from}, {len} bytes{missing}, {members:?} after {changes:?}"
            )
        });
        let shown: Vec<_> = shown.collect();
        let missing = rest
            .iter()
            .filter(|told| !other.messages.contains(told.step));
        let (all, missing) = (rest.len(), missing.count());
        format!(
            "[{}], {all} to come, {missing} of them never told to the other",
            shown.join("; ")
        )
    }
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
    node: u32,
    kind: Kind,
    /// The members before it.
    before: Option<&'a [u32]>,
    /// The members at its start.
    start: Option<&'a [u32]>,
    steps: &'a [Step],
    messages: BTreeSet<&'a Step>,
    /// The session ended with it.
    is_last_of_ended: bool,
}

impl<'a> Segment<'a> {
    fn new(session: &'a Session, range: Range<usize>, is_last_of_ended: bool) -> Self {
        let earlier = session.steps[..range.start].iter();
        let before = earlier.rev().find_map(members_of);
        let steps = &session.steps[range];
        let (leading, steps) = steps.split_at(steps.iter().map_while(members_of).count());
        Self {
            node: session.node,
            kind: session.kind,
            before,
            start: leading.last().and_then(members_of),
            steps,
            messages: steps
                .iter()
                .filter(|step| members_of(step).is_none())
                .collect(),
            is_last_of_ended,
        }
    }

    fn first(&self) -> Option<&Step> {
        self.steps.iter().find(|step| members_of(step).is_none())
    }

    /// Whether the first thing told in this time was told in the other as well.
    fn begins_in(&self, other: &Self) -> bool {
        let first = self.first();
        first.is_some_and(|first| other.messages.contains(first))
    }

    /// Whether the node was with a sender before this time.
    fn knew(&self, sender: u32) -> bool {
        sender == self.node || self.before.is_some_and(|before| before.contains(&sender))
    }

    /// A node that dies may be the only one that has got what it sent last.
    fn ends_with_own(&self, node: u32, at: usize) -> bool {
        let is_own = |step: &Step| matches!(step, Step::Message(from, _) if *from == node);
        self.is_last_of_ended && self.steps[at..].iter().all(is_own)
    }

    /// Messages, each with what changed since the one before.
    fn by_messages(&self) -> Vec<Told<'_>> {
        let mut all = Vec::new();
        let (mut from, mut members) = (0, self.start);
        for (at, step) in self.steps.iter().enumerate() {
            let Step::Message(sender, _) = step else {
                continue;
            };
            let before = members;
            let changes = &self.steps[from..at];
            members = changes.last().and_then(members_of).or(before);
            let stayed = before.map(|before| {
                let is_in = |node: &&u32| {
                    let mut views = changes.iter().filter_map(members_of);
                    views.all(|view| view.contains(node))
                };
                before.iter().filter(is_in).copied().collect()
            });
            all.push(Told {
                at,
                step,
                sender: *sender,
                changes,
                members,
                stayed,
            });
            from = at + 1;
        }
        all
    }
}

/// A message, and the membership in which it came.
#[derive(Debug)]
struct Told<'a> {
    /// Its place.
    at: usize,
    step: &'a Step,
    sender: u32,
    /// Memberships since the message before.
    changes: &'a [Step],
    members: Option<&'a [u32]>,
    /// Those of the membership of the message before that were in all since then.
    stayed: Option<BTreeSet<u32>>,
}

impl Told<'_> {
    /// Whether the changes in front of the same message fit together.
    fn fits(&self, kind: Kind, other: &Self, other_kind: Kind) -> bool {
        let knows_more = |lite: &Self, corosync: &Self| {
            let both = lite.stayed.as_ref().zip(corosync.stayed.as_ref());
            both.is_none_or(|(lite, corosync)| lite.is_subset(corosync))
        };
        let ends = self.members.zip(other.members);
        ends.is_none_or(|(a, b)| a == b)
            && match (kind, other_kind) {
                (Kind::Lite, Kind::Lite) => self.changes == other.changes,
                (Kind::Lite, Kind::Corosync) => knows_more(self, other),
                (Kind::Corosync, Kind::Lite) => knows_more(other, self),
                (Kind::Corosync, Kind::Corosync) => true,
            }
    }
}

fn members_of(step: &Step) -> Option<&[u32]> {
    match step {
        Step::View(members) => Some(members),
        Step::Message(..) => None,
    }
}

/// Leading memberships are left out: where two parts of a ring merge, each sees the other come.
fn segments(session: &Session, other: u32) -> Vec<Segment<'_>> {
    let mut all = Vec::new();
    let mut start = None;
    for (index, step) in session.steps.iter().enumerate() {
        match (step, start) {
            (Step::View(members), Some(from)) if !members.contains(&other) => {
                all.push(Segment::new(session, from..index, false));
                start = None;
            }
            (Step::View(members), None) if members.contains(&other) => start = Some(index),
            _ => {}
        }
    }
    if let Some(from) = start {
        all.push(Segment::new(
            session,
            from..session.steps.len(),
            session.ended,
        ));
    }
    all
}

/// A segment that is being compared, with its node.
type Side<'a> = (u32, &'a Segment<'a>);

fn compare(senders: &Senders, (node_a, a): Side<'_>, (node_b, b): Side<'_>) -> Result<()> {
    let (all_a, all_b) = (a.by_messages(), b.by_messages());
    let (mut rest_a, mut rest_b) = (&all_a[..], &all_b[..]);
    // One of the two may have seen the other go and come where that one saw nothing.
    if (a.kind, b.kind) != (Kind::Lite, Kind::Lite) {
        rest_b = behind(rest_b, a).unwrap_or(rest_b);
        rest_a = behind(rest_a, b).unwrap_or(rest_a);
    }
    let mut is_first = true;
    // Senders that both have heard of, so that nothing of them can be cut any more.
    let mut heard = BTreeSet::new();
    let is_cut = |heard: &BTreeSet<u32>, told: &Told<'_>, old: &Segment<'_>, new: &Segment<'_>| {
        !new.messages.contains(told.step)
            && senders.kinds.get(&told.sender) == Some(&Kind::Corosync)
            && !heard.contains(&told.sender)
            && old.knew(told.sender)
            && !new.knew(told.sender)
    };
    while let ([told_a, more_a @ ..], [told_b, more_b @ ..]) = (rest_a, rest_b) {
        if told_a.step == told_b.step {
            let fits = is_first || told_a.fits(a.kind, told_b, b.kind);
            ensure!(
                fits,
                "n{node_a} and n{node_b} were told of different members: {told_a:?} and {told_b:?}"
            );
            heard.insert(told_a.sender);
            (rest_a, rest_b, is_first) = (more_a, more_b, false);
        } else if is_cut(&heard, told_a, a, b) {
            rest_a = more_a;
        } else if is_cut(&heard, told_b, b, a) {
            rest_b = more_b;
        } else if a.ends_with_own(node_a, told_a.at) || b.ends_with_own(node_b, told_b.at) {
            return Ok(());
        } else {
            bail!(
                "n{node_a} and n{node_b} were told different things: n{node_a} {}; n{node_b} {}",
                senders.describe(rest_a, b),
                senders.describe(rest_b, a)
            );
        }
    }
    Ok(())
}

/// The rest from where the other one begins.
fn behind<'a, 'b>(all: &'b [Told<'a>], other: &Segment<'_>) -> Option<&'b [Told<'a>]> {
    let first = other.first()?;
    let at = all.iter().position(|told| told.step == first)?;
    all.get(at..)
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
        of_kind(Kind::Lite, node, ended, steps)
    }

    fn of_kind(kind: Kind, node: u32, ended: bool, steps: &[Step]) -> Session {
        let own = steps.iter().filter_map(|step| match step {
            Step::Message(from, print) if *from == node => Some(*print),
            _ => None,
        });
        Session {
            node,
            kind,
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

    #[test]
    fn corosync_may_tell_less_of_who_went_another_way() {
        let (all, all_but_3) = (view(&[1, 2, 3, 4]), view(&[1, 2, 4]));
        let (first, second) = (said(1, 1), said(2, 2));
        // Node 3 was killed. Two memberships later node 4, which had missed the token, is back.
        let more = [
            all.clone(),
            first.clone(),
            view(&[1, 2]),
            all.clone(),
            second.clone(),
        ];
        let less = [
            all.clone(),
            first.clone(),
            all_but_3.clone(),
            all.clone(),
            second.clone(),
        ];
        let nothing = [all.clone(), first.clone(), second.clone()];
        let lite = |steps: &[Step]| of_kind(Kind::Lite, 1, false, steps);
        let corosync = |steps: &[Step]| of_kind(Kind::Corosync, 2, false, steps);
        check(&[lite(&more), corosync(&less)]).unwrap();
        check(&[lite(&less), corosync(&nothing)]).unwrap();
        // Not the other way round, and not between two of a kind.
        check(&[lite(&less), corosync(&more)]).unwrap_err();
        check(&[lite(&nothing), corosync(&less)]).unwrap_err();
        let other = of_kind(Kind::Lite, 2, false, &less);
        check(&[lite(&more), other]).unwrap_err();
        // Where a message is between them, nothing is left out.
        let apart = [all.clone(), first.clone(), all_but_3, second.clone(), all];
        check(&[lite(&apart), corosync(&nothing)]).unwrap_err();
    }

    #[test]
    fn a_node_that_did_not_see_the_other_go_is_compared_from_its_return_on() {
        let steps = |middle: &[Step], last: Step| {
            let mut steps = vec![view(&[1, 2, 3]), said(1, 1)];
            steps.extend_from_slice(middle);
            steps.extend([said(1, 2), last]);
            steps
        };
        let seen = [view(&[1, 3]), view(&[1, 2, 3])];
        let one = |last| of_kind(Kind::Lite, 1, false, &steps(&seen, last));
        let two = of_kind(Kind::Corosync, 2, false, &steps(&[], said(2, 3)));
        check(&[one(said(2, 3)), two]).unwrap();
        let other = of_kind(Kind::Corosync, 2, false, &steps(&[], said(3, 5)));
        check(&[one(said(3, 4)), other]).unwrap_err();
    }

    #[test]
    fn messages_that_corosync_had_begun_may_be_missing_where_a_node_is_new() {
        let told = |before: &[u32], messages: &[Step]| {
            let mut steps = vec![view(before), view(&[1, 2, 4])];
            steps.extend_from_slice(messages);
            steps
        };
        let new = |messages: &[Step]| session(1, false, &told(&[1], messages));
        let old = |messages: &[Step]| session(2, false, &told(&[2, 4], messages));
        let sender = |kind| of_kind(kind, 4, true, &[view(&[4])]);
        let (cut, lost, first, next) = (said(4, 1), said(4, 2), said(1, 3), said(4, 4));
        let all = [cut.clone(), lost.clone(), first.clone(), next.clone()];
        let rest = [first.clone(), next.clone()];
        check(&[new(&rest), old(&all), sender(Kind::Corosync)]).unwrap();
        check(&[new(&rest), old(&all), sender(Kind::Lite)]).unwrap_err();
        // Not behind a message that was told, not where the other one is as new, and not to an old one.
        let gap = [cut.clone(), first.clone(), next.clone()];
        check(&[new(&gap), old(&all), sender(Kind::Corosync)]).unwrap_err();
        check(&[new(&all), old(&rest), sender(Kind::Corosync)]).unwrap_err();
        let as_new = session(2, false, &told(&[2], &all));
        check(&[new(&rest), as_new, sender(Kind::Corosync)]).unwrap_err();
    }
}
