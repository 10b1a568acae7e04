//! `quorum --force-local`: the nodes that are here act without the others.
//!
//! The same as `expected` with the votes that are here, for who has no time for arithmetic, with the
//! one question that matters: whether the others are off. It is refused where that is known to be
//! wrong.

use corosync_lite::status::Node;

use super::change::need_root;
use super::question::confirm;
use super::{expected, show, status};
use crate::cli::{Expected, Quorum};
use crate::failure::{Failure, Outcome};
use crate::host::{Host, pve};
use crate::state::{self, State, words};

/// Gives this side quorum.
///
/// # Errors
/// When there is quorum, a node that is missing runs, the user does not want it, or the daemon refuses.
pub fn run(host: &Host, args: &Quorum) -> Outcome {
    need_root()?;
    pve::need_mount(&host.paths)?;
    status::configuration(&host.paths)?;
    let state = state::ask().map_err(|error| status::no_state(&error))?;
    let decision = decide(&state, &status::all_nodes())?;
    for line in &decision.lines {
        show(&format!("{line}\n"))?;
    }
    if !args.yes && !args.dry_run {
        confirm(
            &decision.question,
            "use --yes if the missing nodes are switched off for sure",
        )?;
    }
    let expected = Expected {
        expected: decision.expected,
        dry_run: args.dry_run,
    };
    expected::run(host, &expected)
}

#[derive(Debug)]
struct Decision {
    expected: u32,
    lines: Vec<String>,
    question: String,
}

fn decide(state: &State, nodes: &[Node]) -> Outcome<Decision> {
    if state.quorate {
        return Err(Failure::refused(format!(
            "there is nothing to force: {}",
            words::quorum(state)
        )));
    }
    let is_here = |node: &&Node| state.members.iter().any(|member| member.id == node.id);
    let missing: Vec<&Node> = nodes.iter().filter(|node| !is_here(node)).collect();
    let names = |nodes: &[&Node]| {
        let names: Vec<String> = nodes.iter().map(|node| words::called(node)).collect();
        names.join(", ")
    };
    if missing.is_empty() {
        return Err(Failure::refused(
            "no node is missing: see 'pvecm status' and 'journalctl -u corosync' for why there is no quorum",
        ));
    }
    let is_alive = |node: &&Node| node.reachable == Some(true);
    let alive: Vec<&Node> = missing.iter().copied().filter(is_alive).collect();
    if !alive.is_empty() {
        return Err(Failure::refused(format!(
            "{} can be reached and so is not off: mend its messaging daemon ('journalctl -u corosync' there), \
             or switch it off first. Links of a node that lost its power a moment ago are still seen up: then try again in \
             some seconds",
            names(&alive)
        )));
    }
    let missing = names(&missing);
    Ok(Decision {
        expected: state.votes.total.max(1),
        lines: vec![
            words::quorum(state),
            format!("missing: {missing}"),
            "If one of them still runs, behind a broken network, both sides act without knowing of each \
             other: guests run twice and destroy their disks, and the files in /etc/pve differ."
                .to_owned(),
        ],
        question: format!("Is the power of {missing} off for sure"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::code;
    use crate::state::Member;

    fn state(quorate: bool, members: &[u32]) -> State {
        let member = |id: &u32| Member {
            id: *id,
            info: None,
            name: format!("n{id}"),
            address: Err(0),
        };
        let mut state = State {
            quorate,
            members: members.iter().map(member).collect(),
            ..State::default()
        };
        state.votes.total = u32::try_from(members.len()).unwrap();
        state
    }

    fn node(id: u32, reachable: Option<bool>) -> Node {
        Node {
            id,
            name: Some(format!("n{id}")),
            reachable,
            ..Node::default()
        }
    }

    #[test]
    fn only_a_side_without_quorum_whose_partners_are_silent_is_forced() {
        let nodes = |reachable| [node(1, None), node(2, reachable), node(3, Some(false))];
        let decision = decide(&state(false, &[1]), &nodes(Some(false))).unwrap();
        assert_eq!(decision.expected, 1);
        assert_eq!(
            decision.question,
            "Is the power of n2 (node 2), n3 (node 3) off for sure"
        );
        for (state, nodes, text) in [
            (state(true, &[1, 2]), nodes(None), "nothing to force"),
            (state(false, &[1, 2, 3]), nodes(None), "no node is missing"),
            (
                state(false, &[1]),
                nodes(Some(true)),
                "n2 (node 2) can be reached",
            ),
            (
                state(false, &[1]),
                nodes(Some(true)),
                "try again in some seconds",
            ),
        ] {
            let failure = decide(&state, &nodes).unwrap_err();
            assert_eq!(failure.code(), code::REFUSED);
            assert!(failure.to_string().contains(text), "{failure}");
        }
    }
}
