use std::collections::BTreeMap;

use corosync_lite::status::{Link, Node};

use super::words::words;
use super::*;
use crate::conf::ClusterConf;

fn member(id: u32, flags: u32) -> Member {
    Member {
        id,
        info: Some(Info {
            votes: 1,
            flags,
            ..Info::default()
        }),
        name: format!("n{id}"),
        address: Ok(format!("10.77.0.{id}").parse().unwrap()),
    }
}

/// A node 1 of a cluster of `expected` that sees these members.
pub(in crate::state) fn state(expected: u32, members: &[u32], quorate: bool) -> State {
    let set = if quorate { flags::QUORATE } else { 0 };
    let total = u32::try_from(members.len()).unwrap();
    State {
        provider: "corosync_votequorum".to_owned(),
        node: 1,
        ring_node: 1,
        ring_seq: 0x1e,
        quorate,
        votes: Votes {
            expected,
            highest_expected: expected,
            total,
            needed: expected / 2 + 1,
            flags: set,
        },
        members: members.iter().map(|id| member(*id, set)).collect(),
    }
}

/// Three configured nodes, with two links to each of the others; those to `down` are down.
pub(in crate::state) fn nodes(count: u32, down: &[u32]) -> Vec<Node> {
    let node = |id| {
        let link = |number| Link {
            up: !down.contains(&id),
            to: format!("10.{}.0.{id}", 77 + number),
            latency_ms: Some(0.2),
            ..Link::default()
        };
        let links = if id == 1 { 0..0 } else { 0..2 };
        Node {
            id,
            name: Some(format!("n{id}")),
            votes: Some(1),
            member: !down.contains(&id),
            reachable: None,
            links: links.map(|number| (number, link(number))).collect(),
        }
    };
    (1..=count).map(node).collect()
}

const WITH_DEVICE: &str = "\
Quorum information
------------------
Date:             Sat Jan 31 12:00:00 2026
Quorum provider:  corosync_votequorum
Nodes:            2
Node ID:          0x00000001
Ring ID:          1.1e
Quorate:          Yes

Votequorum information
----------------------
Expected votes:   3
Highest expected: 3
Total votes:      3
Quorum:           2  
Flags:            Quorate Qdevice 

Membership information
----------------------
    Nodeid      Votes    Qdevice Name
0x00000001          1    A,V,NMW 10.77.0.1 (local)
0x00000002          1    A,V,NMW 10.77.0.2
0x00000000          1            Qdevice
";

const DATE: &str = "Sat Jan 31 12:00:00 2026";

fn with_device() -> State {
    let set =
        flags::QUORATE | flags::DEVICE_REGISTERED | flags::DEVICE_ALIVE | flags::DEVICE_CAST_VOTE;
    let mut state = state(3, &[1, 2], true);
    state.votes.total = 3;
    state.votes.flags = set;
    for member in &mut state.members {
        let info = member.info.as_mut().unwrap();
        info.flags = set;
        info.device_votes = 1;
        info.device_name = "Qdevice".to_owned();
    }
    state
}

#[test]
fn blocks_are_printed_to_the_character() {
    assert_eq!(blocks(&with_device(), DATE, NameForm::Address), WITH_DEVICE);
}

#[test]
fn a_device_that_does_not_vote_here_counts_as_none() {
    let mut state = with_device();
    let own = state.members[0].info.as_mut().unwrap();
    own.flags = flags::QUORATE | flags::DEVICE_REGISTERED | flags::DEVICE_MASTER_WINS;
    state.members[1].info.as_mut().unwrap().flags = flags::QUORATE;
    assert_eq!(
        membership(&state, IdForm::Decimal, NameForm::Name),
        "
Membership information
----------------------
    Nodeid      Votes    Qdevice Name
         1          1   NA,NV,MW n1 (local)
         2          1         NR n2
         0          0            Qdevice (votes 1)
"
    );
}

#[test]
fn a_node_without_quorum_is_blocked() {
    let text = blocks(&state(3, &[1], false), DATE, NameForm::Address);
    assert!(text.contains("\nQuorate:          No\n"), "{text}");
    assert!(
        text.contains("\nQuorum:           2 Activity blocked\n"),
        "{text}"
    );
    assert!(text.contains("\nFlags:            \n"), "{text}");
    assert!(
        text.ends_with("\n    Nodeid      Votes Name\n0x00000001          1 10.77.0.1 (local)\n"),
        "{text}"
    );
}

#[test]
fn a_node_whose_address_is_not_known_has_no_name() {
    let mut state = state(3, &[1, 2], true);
    state.members[1].address = Err(12);
    let text = membership(&state, IdForm::Hex, NameForm::Address);
    assert!(text.ends_with("\n0x00000002          1 \n"), "{text:?}");
    assert_eq!(
        complaints(&state),
        ["Unable to get node address for nodeid 2: CS_ERR_NOT_EXIST"]
    );
}

#[test]
fn flags_have_the_names_and_the_order_of_the_original() {
    assert_eq!(
        flag_names(0x7f),
        [
            "2Node",
            "Quorate",
            "WaitForAll",
            "LastManStanding",
            "AutoTieBreaker",
            "AllowDownscale",
            "Qdevice"
        ]
    );
}

#[test]
fn the_header_is_printed_to_the_character() {
    let conf = |text: &str| ClusterConf::parse(text.as_bytes()).unwrap();
    let full = "totem {\n  cluster_name: testclu\n  config_version: 3\n  secauth: on\n}\n";
    assert_eq!(
        header(&conf(full)),
        "Cluster information
-------------------
Name:             testclu
Config Version:   3
Transport:        knet
Secure auth:      on

"
    );
    let bare = header(&conf("totem {\n  config_version: 1\n}\n"));
    assert!(bare.contains("\nName:             UNKOWN?\n"), "{bare}");
    assert!(bare.contains("\nSecure auth:      off\n"), "{bare}");
}

#[test]
fn words_say_who_is_missing_and_what_is_possible() {
    let words = words(&state(3, &[1], false), &nodes(3, &[2, 3]));
    assert_eq!(
        words.quorum,
        "1 of 3 votes are here, 2 needed: this node may not act, /etc/pve is read-only and guests \
         do not start"
    );
    assert_eq!(words.missing, ["n2 (node 2)", "n3 (node 3)"]);
    assert_eq!(words.links.len(), 4);
    assert_eq!(
        words.links[0],
        "link 0 to n2 (node 2) at 10.77.0.2 is down; no link to it works"
    );
    assert_eq!(
        words.possible,
        [
            "start n2 (node 2), n3 (node 3) or mend the links there: 1 vote more bring quorum",
            "if all of them are switched off for sure: 'pvecm expected 1' lets this side act \
             without them, until they are back"
        ]
    );
}

#[test]
fn words_of_a_healthy_cluster_say_how_much_may_fail() {
    let healthy = words(&state(3, &[1, 2, 3], true), &nodes(3, &[]));
    assert_eq!(
        healthy.block(),
        "
In words
--------
Quorum:           3 of 3 votes are here, 2 needed: this node may act
Missing nodes:    none
Possible:         1 vote may be lost without harm
"
    );
    let two = words(&state(2, &[1, 2], true), &nodes(2, &[]));
    assert!(two.possible[0].starts_with("no more vote"), "{two:?}");
    assert!(two.possible[1].starts_with("with two nodes"), "{two:?}");
    assert!(two.possible[1].contains("'two_node: 1'"), "{two:?}");
    let mut with_option = state(2, &[1, 2], true);
    with_option.votes.flags |= flags::TWO_NODE | flags::WAIT_FOR_ALL;
    let two = words(&with_option, &nodes(2, &[]));
    assert_eq!(two.possible.len(), 1, "{two:?}");
    assert!(two.possible[0].starts_with("two_node is set"), "{two:?}");
}

#[test]
fn words_explain_waiting_for_all() {
    let mut waiting = state(2, &[1], false);
    waiting.votes.flags = flags::TWO_NODE | flags::WAIT_FOR_ALL;
    waiting.votes.needed = 1;
    let said = words(&waiting, &nodes(2, &[2]));
    assert!(said.quorum.contains("wait_for_all is set"), "{said:?}");
    assert!(
        said.possible[0].contains("all of them are needed"),
        "{said:?}"
    );
}

#[test]
fn words_name_slow_links_and_links_with_a_substitute() {
    let mut nodes = nodes(2, &[]);
    let links: &mut BTreeMap<u8, Link> = &mut nodes[1].links;
    links.get_mut(&0).unwrap().latency_ms = Some(12.34);
    links.get_mut(&1).unwrap().up = false;
    let said = words(&state(2, &[1, 2], true), &nodes);
    assert!(said.links[0].contains("takes 12.3 ms"), "{said:?}");
    assert!(
        said.links[1].ends_with("is down; another link to it works"),
        "{said:?}"
    );
}
