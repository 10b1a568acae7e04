//! What a change of the expected votes does, said before it is made.

use corosync_lite::status::Node;

use super::{State, flags, words};

/// A change of the expected votes, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What happens, a line each.
    pub effect: Vec<String>,
    /// What may go wrong.
    pub risk: Vec<String>,
    /// Why the daemon will say no; it is not asked then.
    pub refusal: Option<String>,
    /// This node may act afterwards.
    pub quorate: bool,
}

/// Judges a change to `wanted` expected votes as the daemon does.
#[must_use]
pub fn judge(state: &State, nodes: &[Node], wanted: u32) -> Change {
    let now = &state.votes;
    let needed = if now.flags & flags::TWO_NODE != 0 {
        now.needed
    } else {
        wanted / 2 + 1
    };
    let total = now.total;
    let quorate = total >= needed && (!is_waiting(state) || total == wanted);
    let mut change = Change {
        effect: vec![
            format!("expected votes: {} now, {wanted} then", now.expected),
            format!(
                "needed votes:   {} now, {needed} then; {total} are here",
                now.needed
            ),
        ],
        risk: Vec::new(),
        refusal: refusal(state, wanted, needed),
        quorate,
    };
    change.effect.push(match (state.quorate, quorate) {
        (false, true) => "this side gets quorum: /etc/pve takes changes, guests start".to_owned(),
        (true, true) => "this side keeps quorum".to_owned(),
        (_, false) => "this side is without quorum then".to_owned(),
    });
    change.effect.push(
        "it lasts until the missing nodes are back or the daemons start anew; the configuration \
         stays as it is"
            .to_owned(),
    );
    let is_here = |node: &Node| state.members.iter().any(|member| member.id == node.id);
    let missing = nodes.iter().filter(|node| !is_here(node));
    let missing: Vec<String> = missing.map(words::called).collect();
    if wanted < now.expected && !missing.is_empty() {
        change.risk.push(format!(
            "make sure that {} can not act: if it still runs and has quorum on its side, guests \
             run twice on shared storage and the copies of /etc/pve differ",
            missing.join(", ")
        ));
    }
    change
}

fn is_waiting(state: &State) -> bool {
    !state.quorate && state.votes.flags & flags::WAIT_FOR_ALL != 0
}

/// The daemon's rules.
fn refusal(state: &State, wanted: u32, needed: u32) -> Option<String> {
    let total = state.votes.total;
    if wanted < total {
        Some(format!(
            "{total} votes are here, and fewer can not be expected: {total} is the least"
        ))
    } else if state.quorate && needed > total {
        let most = (2 * total).saturating_sub(1);
        Some(format!(
            "{needed} votes would be needed and {total} are here, so this side would lose its \
             quorum: {most} is the most"
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::{nodes, state};

    #[test]
    fn effect_and_risk_are_said() {
        let change = judge(&state(3, &[1], false), &nodes(3, &[2, 3]), 1);
        assert_eq!(change.refusal, None);
        assert!(change.quorate);
        assert_eq!(
            change.effect[..3],
            [
                "expected votes: 3 now, 1 then",
                "needed votes:   2 now, 1 then; 1 are here",
                "this side gets quorum: /etc/pve takes changes, guests start"
            ]
        );
        assert!(
            change.risk[0].contains("n2 (node 2), n3 (node 3)"),
            "{change:?}"
        );
    }

    #[test]
    fn what_the_daemon_refuses_is_explained() {
        let all = state(3, &[1, 2, 3], true);
        let refused = |wanted| judge(&all, &nodes(3, &[]), wanted).refusal;
        assert!(refused(1).unwrap().ends_with("3 is the least"));
        assert!(refused(2).unwrap().ends_with("3 is the least"));
        assert_eq!(refused(3), None);
        assert_eq!(refused(5), None);
        assert!(refused(6).unwrap().ends_with("5 is the most"));
        // A side without quorum has none to lose.
        assert_eq!(
            judge(&state(3, &[1], false), &nodes(3, &[2, 3]), 9).refusal,
            None
        );
    }

    #[test]
    fn with_all_here_there_is_no_risk() {
        let change = judge(&state(3, &[1, 2, 3], true), &nodes(3, &[]), 4);
        assert!(change.risk.is_empty(), "{change:?}");
        assert_eq!(change.effect[2], "this side keeps quorum");
    }
}
