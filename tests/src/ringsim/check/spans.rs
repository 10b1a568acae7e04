//! What each process got in each ring, and the comparison of that at the end.

use std::collections::{BTreeMap, BTreeSet};

use super::Ring;
use crate::sim::check::Failure;

/// How a stay ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Not yet.
    Open,
    /// The process left, or it or its daemon died.
    Gone,
    /// The node went on to another ring, together with these.
    Moved(Ring, BTreeSet<u32>),
}

/// Ring, group, node, process.
pub(super) type Place = (Ring, u64, u32, u32);

/// A stay of a process in a ring.
#[derive(Debug)]
struct Span {
    place: Place,
    /// It was in the group when the ring began. Otherwise the first item is its own join.
    at_start: bool,
    items: Vec<u64>,
    /// How many of them came while the ring was in operation.
    regular: usize,
    end: End,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Spans(Vec<Span>);

impl Spans {
    pub(super) fn begin(&mut self, place: Place, at_start: bool) -> usize {
        self.0.push(Span {
            place,
            at_start,
            items: Vec::new(),
            regular: 0,
            end: End::Open,
        });
        self.0.len() - 1
    }

    pub(super) fn push(&mut self, span: Option<usize>, item: u64, is_regular: bool) {
        if let Some(span) = span.and_then(|at| self.0.get_mut(at)) {
            span.items.push(item);
            if is_regular {
                span.regular = span.items.len();
            }
        }
    }

    pub(super) fn end(&mut self, span: Option<usize>, end: End) {
        if let Some(span) = span.and_then(|at| self.0.get_mut(at)) {
            span.end = end;
        }
    }

    /// Compares all stays. `lax`: rings can not be told apart for certain.
    pub(super) fn check(&self, lax: bool) -> Result<(), Failure> {
        if lax {
            return Ok(());
        }
        let mut groups: BTreeMap<(Ring, u64), Vec<&Span>> = BTreeMap::new();
        for span in &self.0 {
            let (ring, group, ..) = span.place;
            groups.entry((ring, group)).or_default().push(span);
        }
        for spans in groups.values() {
            check_order(spans)?;
            check_fellows(spans)?;
        }
        Ok(())
    }
}

/// Where the items of a stay begin in those of another.
fn offset(of: &Span, within: &Span) -> Option<usize> {
    if of.at_start {
        return within.at_start.then_some(0);
    }
    let first = of.items.first()?;
    within.items.iter().position(|item| item == first)
}

/// While the ring is in operation, nobody misses anything.
fn check_order(spans: &[&Span]) -> Result<(), Failure> {
    let longest = spans.iter().filter(|span| span.at_start);
    let Some(longest) = longest.max_by_key(|span| span.regular) else {
        return Ok(());
    };
    for span in spans {
        let Some(at) = offset(span, longest).filter(|at| *at <= longest.regular) else {
            continue;
        };
        let mut pairs = longest.items[at..longest.regular]
            .iter()
            .zip(&span.items[..span.regular]);
        if let Some(differs) = pairs.position(|(one, other)| one != other) {
            return Err(broken(
                "members get the same in one order",
                longest,
                span,
                differs,
            ));
        }
    }
    Ok(())
}

/// Those that go on together got the same.
fn check_fellows(spans: &[&Span]) -> Result<(), Failure> {
    let mut fellows: BTreeMap<Ring, Vec<(&Span, &BTreeSet<u32>)>> = BTreeMap::new();
    for span in spans {
        if let End::Moved(next, along) = &span.end {
            fellows.entry(*next).or_default().push((span, along));
        }
    }
    for fellows in fellows.values() {
        let mut left: Vec<_> = fellows.clone();
        while let Some(&(_, along)) = left.first() {
            let is_with = |(span, _): &&(&Span, &BTreeSet<u32>)| along.contains(&span.place.2);
            let together: Vec<_> = left.iter().filter(is_with).copied().collect();
            left.retain(|fellow| !is_with(&fellow));
            compare(&together)?;
        }
    }
    Ok(())
}

fn compare(fellows: &[(&Span, &BTreeSet<u32>)]) -> Result<(), Failure> {
    let longest = fellows
        .iter()
        .max_by_key(|(span, _)| (span.at_start, span.items.len()));
    let Some((longest, along)) = longest else {
        return Ok(());
    };
    for (span, others) in fellows {
        if others != along {
            return Err(broken("they agree on who came along", longest, span, 0));
        }
        let same = offset(span, longest).is_some_and(|at| longest.items[at..] == span.items);
        if !same {
            return Err(broken(
                "who goes on together got the same",
                longest,
                span,
                0,
            ));
        }
    }
    Ok(())
}

fn broken(checker: &'static str, one: &Span, other: &Span, at: usize) -> Failure {
    let show = |span: &Span| {
        format!(
            "{:?} start={} items={} regular={} {:?}",
            span.place,
            span.at_start,
            span.items.len(),
            span.regular,
            span.end
        )
    };
    let text = format!("{} and {} from {at} on", show(one), show(other));
    Failure { checker, text }
}
