//! Tests of rounds, queues and reactions, on captured traces and on small groups.

use std::sync::Arc;

use bytes::Bytes;
use sha2::Digest as _;

use super::*;
use crate::{
    dcdb::{Effect, Replica},
    memdb::{Content, Inode, Name, Op, Root, Stamp, Tree, TreeEntry},
    wire::{
        fuse_msg::FuseMessage,
        index::{EntryKind, UpdateEntry},
        vectors,
    },
};

const N1: MemberId = MemberId {
    node: 1,
    pid: 15657,
};
const N2: MemberId = MemberId {
    node: 2,
    pid: 15695,
};

fn unhex(text: &str) -> Vec<u8> {
    let text = if text == "-" { "" } else { text };
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

/// The tree that a captured table of entries describes.
fn tree_from(table: &str) -> Tree {
    let text = std::fs::read_to_string(vectors::folder().join(table)).unwrap();
    let mut root = None;
    let mut rows = Vec::new();
    for line in text
        .lines()
        .filter(|line| !line.starts_with("#") && !line.starts_with("inode"))
    {
        let fields: Vec<&str> = line.split('\t').collect();
        let number = |at: usize| fields[at].parse::<u64>().unwrap();
        let short = |at: usize| fields[at].parse::<u32>().unwrap();
        if number(0) == 0 {
            root = Some(Root {
                version: number(2),
                writer: short(3),
                mtime: short(4),
            });
            continue;
        }
        let data = Bytes::from(unhex(fields[7]));
        let content = if number(5) == 4 {
            Content::Directory
        } else {
            Content::File(data)
        };
        let name = Name::from(unhex(fields[6]).as_slice());
        let (inode, parent) = (Inode(number(0)), Inode(number(1)));
        let entry = TreeEntry::new(inode, parent, number(2), short(3), short(4), name, content);
        rows.push(Arc::new(entry));
    }
    Tree::load(root.unwrap(), rows).unwrap().0
}

fn sent(dfsm: &mut Dfsm<Replica>) -> Vec<Bytes> {
    let mut sent = Vec::new();
    while let Some(action) = dfsm.poll_action() {
        if let Action::Send { message, .. } = action {
            sent.push(message);
        }
    }
    sent
}

fn trace_lines(name: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(vectors::folder().join(name)).unwrap();
    text.lines()
        .map(|line| line.split_ascii_whitespace().map(str::to_owned).collect())
        .collect()
}

#[test]
fn the_digests_of_captured_trees_match() {
    let replica = Replica::new(tree_from("memdb-index-entries.tsv"), 0);
    let mut dfsm = Dfsm::new(replica, N1);
    assert_eq!(dfsm.app_mut().state(0), vectors::bin("memdb-index.bin"));

    let verify = Message::decode(1, vectors::hex("dcdb-verify.hex")).unwrap();
    let Message::Verify { checksum, .. } = verify else {
        panic!("{verify:?}")
    };
    assert_eq!(tree_from("verify-entries.tsv").checksum(), checksum);
}

#[test]
fn the_index_of_the_known_tree_matches() {
    let mut tree = Tree::new();
    let stamp = Stamp {
        writer: 0,
        mtime: 1234,
    };
    for i in 0..100 {
        let path = Bytes::from(format!("testfile{i}"));
        let data = Bytes::from(vec![0; 32768]);
        tree.apply(&Op::Create { path: path.clone() }, stamp)
            .result
            .unwrap();
        let op = Op::Write {
            path,
            offset: 0,
            data,
            truncate: false,
        };
        tree.apply(&op, stamp).result.unwrap();
    }
    let blob = Dfsm::new(Replica::new(tree, 0), N1).app_mut().state(0);
    assert_eq!(blob.len(), 4072);
    let digest: Digest = sha2::Sha256::digest(&blob).into();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        "913fd95015af9d93f10dd51ba2a7bb11351bcfe040be21e95fcba834adc3ec10"
    );
}

/// Plays the leader's part in the captured join of an older node: everything that it sends must
/// be what the captured process sent, the updates in any order.
#[test]
fn a_leader_sends_what_the_captured_one_sent() {
    let replica = Replica::new(tree_from("memdb-index-entries.tsv"), 0);
    let mut dfsm = Dfsm::new(replica, N1);
    let time = 1_795_298_770;
    dfsm.handle_membership(time, &[N1], true);
    assert_eq!(dfsm.mode(), Mode::Synced);
    assert!(sent(&mut dfsm).is_empty());

    let (mut expected, mut got) = (Vec::new(), Vec::new());
    for line in trace_lines("trace-join-older.trace") {
        match line[1].as_str() {
            "confchg" => dfsm.handle_membership(time, &[N1, N2], true),
            "send" => expected.push(Bytes::from(unhex(&line[3]))),
            "recv" => {
                let from = if line[2] == "1/15657" { N1 } else { N2 };
                dfsm.handle_message(time, from, &Bytes::from(unhex(&line[3])));
            }
            other => panic!("{other}"),
        }
        got.extend(sent(&mut dfsm));
    }
    assert_eq!(got.len(), expected.len());
    assert_eq!(got.first(), expected.first(), "the round is opened alike");
    assert_eq!(got.last(), expected.last(), "the updates end alike");
    got.sort();
    expected.sort();
    assert_eq!(got, expected);
    assert_eq!(dfsm.mode(), Mode::Synced);
}

/// Plays the part of the older node in the same trace.
#[test]
fn an_older_node_becomes_equal_to_the_leader() {
    let conf = Message::decode(1, vectors::hex("dcdb-update-file-writer0.hex")).unwrap();
    let Message::Update { payload, .. } = conf else {
        panic!("{conf:?}")
    };
    let conf = UpdateEntry::decode(payload).unwrap();
    let time = 1_795_298_770;
    let entry = TreeEntry::new(
        Inode(2),
        Inode::ROOT,
        3,
        0,
        1_795_298_770,
        Name::from(&conf.name[..]),
        Content::File(conf.data.clone()),
    );
    assert_eq!(conf.kind, EntryKind::File);
    let root = Root {
        version: 3,
        writer: 0,
        mtime: 1_795_298_770,
    };
    let tree = Tree::load(root, vec![Arc::new(entry)]).unwrap().0;
    let mut dfsm = Dfsm::new(Replica::new(tree, 0), N2);
    let mut states = Vec::new();
    for line in trace_lines("trace-join-older.trace") {
        match line[1].as_str() {
            "confchg" => dfsm.handle_membership(time, &[N1, N2], true),
            "recv" => {
                let from = if line[2] == "1/15657" { N1 } else { N2 };
                dfsm.handle_message(time, from, &Bytes::from(unhex(&line[3])));
            }
            _ => {}
        }
        states.extend(sent(&mut dfsm));
    }
    assert_eq!(states, [vectors::hex("dcdb-state-fresh.hex")]);
    assert_eq!(dfsm.mode(), Mode::Synced);
    assert_eq!(dfsm.app_mut().state(0), vectors::bin("memdb-index.bin"));
    let replaced = std::iter::from_fn(|| dfsm.app_mut().poll_effect())
        .filter(|effect| {
            matches!(
                effect,
                Effect::Replaced {
                    diverged: false,
                    ..
                }
            )
        })
        .count();
    assert_eq!(replaced, 1, "its own corosync.conf had the same text");
}

/// A group in one total order, without faults.
struct Group {
    nodes: Vec<Dfsm<Replica>>,
    now: u64,
}

impl Group {
    fn new(trees: Vec<Tree>) -> Self {
        let member = |at: usize| MemberId {
            node: u32::try_from(at + 1).unwrap(),
            pid: 100,
        };
        let node = |(at, tree)| {
            let mut replica = Replica::new(tree, 0);
            replica.set_quorate(true);
            Dfsm::new(replica, member(at))
        };
        Self {
            nodes: trees.into_iter().enumerate().map(node).collect(),
            now: 1000,
        }
    }

    fn join_all(&mut self) {
        let members: Vec<MemberId> = self.nodes.iter().map(Dfsm::own).collect();
        for node in &mut self.nodes {
            node.handle_membership(self.now, &members, true);
        }
        self.run();
    }

    fn submit(&mut self, at: usize, op: Op) {
        let message: FuseMessage = Replica::message_for(op);
        let payload = message.encode();
        let node = &mut self.nodes[at];
        let (_, bytes) = node.make_normal(1000, message.subtype(), payload);
        let from = node.own();
        self.broadcast(from, &bytes);
        self.run();
    }

    fn broadcast(&mut self, from: MemberId, bytes: &Bytes) {
        for node in &mut self.nodes {
            node.handle_message(self.now, from, bytes);
        }
    }

    fn run(&mut self) {
        loop {
            let mut idle = true;
            for at in 0..self.nodes.len() {
                let from = self.nodes[at].own();
                for message in sent(&mut self.nodes[at]) {
                    idle = false;
                    self.broadcast(from, &message);
                }
            }
            if idle {
                break;
            }
        }
    }

    fn modes(&self) -> Vec<Mode> {
        self.nodes.iter().map(Dfsm::mode).collect()
    }
}

fn create(path: &'static str) -> Op {
    Op::Create {
        path: Bytes::from_static(path.as_bytes()),
    }
}

fn tree_with(paths: &[&'static str]) -> Tree {
    let mut tree = Tree::new();
    for path in paths {
        tree.apply(
            &create(path),
            Stamp {
                writer: 1,
                mtime: 5,
            },
        )
        .result
        .unwrap();
    }
    tree
}

#[test]
fn the_newest_tree_wins_with_its_deletions() {
    let mut group = Group::new(vec![
        tree_with(&["old"]),
        tree_with(&["a", "b"]),
        Tree::new(),
    ]);
    group.join_all();
    assert_eq!(group.modes(), [Mode::Synced; 3]);
    for node in &group.nodes {
        assert!(*node.app().tree() == tree_with(&["a", "b"]));
    }
    group.submit(2, create("c"));
    for node in &group.nodes {
        assert_eq!(node.app().tree().find(b"c").unwrap().writer, 3);
    }
}

#[test]
fn a_tie_goes_to_the_lowest_node() {
    let mut group = Group::new(vec![tree_with(&["x"]), tree_with(&["y"])]);
    group.join_all();
    for node in &group.nodes {
        assert!(node.app().tree().find(b"x").is_some());
    }
}

#[test]
fn without_quorum_a_message_makes_its_receivers_leave() {
    let mut group = Group::new(vec![Tree::new(), Tree::new()]);
    group.join_all();
    for node in &mut group.nodes {
        node.app_mut().set_quorate(false);
    }
    group.submit(0, create("a"));
    assert_eq!(group.modes(), [Mode::Leave; 2]);
}

/// What it has may be all that is left of a majority that has just fallen apart, and those that it
/// meets may have been away for long.
#[test]
fn without_quorum_a_lone_member_refuses_and_stays_for_the_next_round() {
    let mut group = Group::new(vec![tree_with(&["new", "newer"])]);
    group.join_all();
    group.nodes[0].app_mut().set_quorate(false);
    group.submit(0, create("refused"));
    assert_eq!(group.modes(), [Mode::Synced]);
    group.nodes[0].app_mut().set_quorate(true);
    group
        .nodes
        .extend(Group::new(vec![Tree::new(), Tree::new()]).nodes.pop());
    group.join_all();
    assert_eq!(group.modes(), [Mode::Synced; 2]);
    for node in &group.nodes {
        assert!(node.app().tree().find(b"newer").is_some());
        assert!(node.app().tree().find(b"refused").is_none());
    }
}

#[test]
fn messages_of_a_round_are_applied_in_order_of_their_counts() {
    let mut group = Group::new(vec![Tree::new(), Tree::new()]);
    group.join_all();
    // The second node has sent more messages so far, so its next count is higher.
    for path in ["p", "q"] {
        group.submit(1, create(path));
    }
    let members: Vec<MemberId> = group.nodes.iter().map(Dfsm::own).collect();
    for node in &mut group.nodes {
        node.handle_membership(1001, &members, false);
    }
    let late: Vec<(MemberId, Bytes)> = [1, 0]
        .map(|at| {
            let message = Replica::message_for(create(if at == 0 { "a" } else { "b" }));
            let payload = message.encode();
            let node: &mut Dfsm<Replica> = &mut group.nodes[at];
            (
                node.own(),
                node.make_normal(1001, message.subtype(), payload).1,
            )
        })
        .into();
    for (from, message) in &late {
        group.broadcast(*from, message);
    }
    group.run();
    assert_eq!(group.modes(), [Mode::Synced; 2]);
    for node in &group.nodes {
        let tree = node.app().tree();
        let inode = |path: &[u8]| tree.find(path).unwrap().inode;
        assert!(
            inode(b"a") < inode(b"b"),
            "count 1 of node 1 comes before count 3 of node 2"
        );
    }
}

#[test]
fn what_breaks_the_protocol_makes_a_node_leave_and_never_panic() {
    let epoch_of = |dfsm: &Dfsm<Replica>| dfsm.epoch;
    let synced = || {
        let mut group = Group::new(vec![Tree::new(), Tree::new()]);
        group.join_all();
        group.nodes.remove(0)
    };
    let other = MemberId { node: 2, pid: 100 };
    let mode_after = |bytes: Bytes| {
        let mut node = synced();
        node.handle_message(1000, other, &bytes);
        node.mode()
    };
    assert_eq!(mode_after(Bytes::from_static(b"short")), Mode::Leave);
    let epoch = epoch_of(&synced());
    let complete = Message::UpdateComplete { time: 0, epoch };
    assert_eq!(mode_after(complete.encode(2)), Mode::VersionError);
    assert_eq!(mode_after(complete.encode(0)), Mode::Synced);
    assert_eq!(mode_after(complete.encode(1)), Mode::Synced);
    let normal = |subtype, payload: &'static [u8]| {
        let payload = Bytes::from_static(payload);
        Message::Normal {
            subtype,
            time: 0,
            count: 1,
            payload,
        }
        .encode(1)
    };
    assert_eq!(mode_after(normal(99, b"")), Mode::Leave);
    assert_eq!(mode_after(normal(1, b"x")), Mode::Leave);
    assert_eq!(
        mode_after(normal(1, &[0; 20])),
        Mode::Synced,
        "a change without path just fails"
    );
    assert_eq!(mode_after(normal(4, &[0; 20])), Mode::Leave);
    let verify = Message::Verify {
        time: 0,
        epoch,
        id: 0,
        checksum: [1; 32],
    };
    assert_eq!(
        mode_after(verify.encode(1)),
        Mode::Synced,
        "nothing was asked for"
    );
    let malformed = Bytes::from([&verify.encode(1)[..], b"x"].concat());
    assert_eq!(mode_after(malformed), Mode::Leave);
}

#[test]
fn members_with_another_tree_leave_on_verification() {
    let mut group = Group::new(vec![Tree::new(), Tree::new()]);
    group.join_all();
    group.now += VERIFY_INTERVAL_SECS;
    for node in &mut group.nodes {
        node.handle_tick(1000);
        node.handle_tick(group.now);
    }
    let requests = sent(&mut group.nodes[0]);
    assert_eq!(requests.len(), 1, "the lowest node asks");
    assert!(sent(&mut group.nodes[1]).is_empty());
    group.nodes[1].app_mut().reset(tree_with(&["other"]), 0);
    group.broadcast(group.nodes[0].own(), &requests[0]);
    group.run();
    assert_eq!(group.modes(), [Mode::Synced, Mode::Leave]);
}

#[test]
fn a_member_that_sends_no_state_is_named() {
    let mut group = Group::new(vec![Tree::new(), Tree::new()]);
    let members: Vec<MemberId> = group.nodes.iter().map(Dfsm::own).collect();
    let node = &mut group.nodes[0];
    node.handle_membership(1000, &members, true);
    for message in sent(node) {
        node.handle_message(1000, members[0], &message);
    }
    for message in sent(node) {
        node.handle_message(1000, members[0], &message);
    }
    node.handle_tick(1000 + SILENT_MEMBER_SECS);
    let Some(Action::Log(text)) = node.poll_action() else {
        panic!("nothing was said")
    };
    assert!(text.contains("2/100"), "{text}");
    node.handle_tick(1010);
    assert_eq!(node.poll_action(), None, "said once a round");
}
