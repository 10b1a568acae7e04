//! Tests of the status group as a whole.

use proptest::prelude::*;

use super::*;
use crate::{
    dfsm::{Action, Dfsm},
    wire::{dfsm::Message, vectors},
};

const N1: MemberId = MemberId { node: 1, pid: 11 };
const N2: MemberId = MemberId { node: 2, pid: 22 };
const N3: MemberId = MemberId { node: 3, pid: 33 };

fn config(names: &[&str]) -> ClusterConfig {
    let nodes = names
        .iter()
        .zip(1..)
        .map(|(name, id)| NodeInfo {
            id,
            name: (*name).to_owned(),
            votes: Some(1),
        })
        .collect();
    ClusterConfig {
        name: "testcluster".into(),
        version: 3,
        nodes,
    }
}

fn status(own: MemberId, name: &str) -> Status {
    let mut status = Status::new(1_795_299_296, own, name, Some("10.77.0.9"));
    status.set_cluster(config(&["n1", "n2", "n3"]));
    status
}

fn deliver(status: &mut Status, from: MemberId, message: Outgoing) -> Result<(), Discard> {
    status.deliver(100, from, message.subtype, message.payload)
}

/// The values that clients may pass to `set` to get the captured message.
fn captured(name: &str) -> (KvUpdate, u16) {
    let Message::Normal {
        subtype, payload, ..
    } = Message::decode(0, vectors::hex(name)).unwrap()
    else {
        panic!("{name}");
    };
    (KvUpdate::decode(payload).unwrap(), subtype)
}

#[test]
fn set_sends_what_the_captured_messages_hold() {
    let mut status = status(N2, "n2");
    for name in vectors::names(".hex") {
        let is_key = ["kv-log", "kv-sync", "kv-state"]
            .iter()
            .all(|no| !name.starts_with(no));
        if name.starts_with("kv-") && is_key {
            let (update, subtype) = captured(&name);
            let sent = status.set(0, &update.key, update.value.clone()).unwrap();
            assert_eq!(
                sent,
                Outgoing {
                    subtype,
                    payload: update.encode()
                },
                "{name}"
            );
        }
    }
}

#[test]
fn captured_messages_are_applied() {
    let mut status = status(N1, "n1");
    for name in vectors::names(".hex")
        .iter()
        .filter(|name| name.starts_with("kv-"))
    {
        let bytes = vectors::hex(name);
        if let Message::Normal {
            subtype, payload, ..
        } = Message::decode(0, bytes).unwrap()
        {
            let result = status.deliver(100, N2, subtype, payload);
            match name.as_str() {
                "kv-log-unterminated.hex" => {
                    assert!(matches!(result, Err(Discard::Undecodable(_))), "{result:?}");
                }
                // Captured in another order than that of the file names.
                _ if name.starts_with("kv-log") => {}
                _ => assert_eq!(result, Ok(()), "{name}"),
            }
        }
    }
    assert_eq!(status.value("n2", b"custom-key").unwrap(), "kvdata-n2");
    assert_eq!(status.value("n2", b"nodeip"), None);
    assert_eq!(status.value("", b"custom-key"), None);
    let rrd = String::from_utf8(status.rrd_text(100)).unwrap();
    assert_eq!(rrd.lines().count(), 3, "{rrd}");
    assert!(rrd.contains("pve-storage-9.0/n2/local:1795298798:100000:50000\n"));
}

#[test]
fn own_and_foreign_messages_are_told_apart() {
    let mut status = status(N1, "n1");
    let message = status.set(0, b"a", "1".into()).unwrap();
    assert_eq!(deliver(&mut status, N1, message.clone()), Err(Discard::Own));
    let stranger = MemberId { node: 9, pid: 1 };
    assert_eq!(
        deliver(&mut status, stranger, message.clone()),
        Err(Discard::UnknownNode(9))
    );
    assert_eq!(deliver(&mut status, N2, message), Ok(()));
    let unknown = status.deliver(0, N2, 2, Bytes::new());
    assert_eq!(
        unknown,
        Err(Discard::Undecodable(DecodeError::UnknownSubtype(2)))
    );
    assert_eq!(status.value("n1", b"a").unwrap(), "1");
    assert_eq!(status.value("n2", b"a").unwrap(), "1");
    assert_eq!(status.value("nobody", b"a"), None);
}

#[test]
fn refused_values_are_not_sent() {
    let mut status = status(N1, "n1");
    assert_eq!(
        status.set(0, b"nodeip", "10.0.0.1".into()),
        Err(SetError::BadAddress)
    );
    assert_eq!(
        status.set(0, b"rrd/x", "1:2".into()),
        Err(SetError::BadRrdLine)
    );
    let large = Bytes::from(vec![0; 32_769]);
    assert_eq!(
        status.set(0, b"k", large),
        Err(SetError::TooLarge { len: 32_769 })
    );
    // The refused address does not replace the one to announce.
    let sent = status.announce(0).unwrap();
    assert_eq!(KvUpdate::decode(sent.payload).unwrap().value, "10.77.0.9\0");
}

#[test]
fn long_keys_are_cut_for_all_alike() {
    let mut status = status(N1, "n1");
    let sent = status.set(0, &[b'K'; 300], "x".into()).unwrap();
    assert_eq!(deliver(&mut status, N2, sent), Ok(()));
    assert_eq!(status.value("n1", &[b'K'; 255]).unwrap(), "x");
    assert_eq!(status.value("n2", &[b'K'; 255]).unwrap(), "x");
}

#[test]
fn round_spreads_keys_addresses_and_logs() {
    let mut nodes = [status(N1, "n1"), status(N2, "n2")];
    nodes[0].set(0, b"tasklist", "[]".into()).unwrap();
    nodes[0].set(0, b"gone", "x".into()).unwrap();
    nodes[0].set(0, b"gone", Bytes::new()).unwrap();
    nodes.iter_mut().for_each(|node| node.confchg(&[N1, N2]));
    let states: Vec<Bytes> = nodes.iter_mut().map(Status::build_state).collect();
    let from_n1 = nodes[0].evaluate(&states, 0);
    assert_eq!(from_n1.len(), 1);
    assert_eq!(nodes[1].evaluate(&states, 1), []);
    let address = nodes[0].announce(0);
    for message in from_n1.into_iter().chain(address) {
        deliver(&mut nodes[1], N1, message).unwrap();
    }
    assert_eq!(nodes[1].value("n1", b"tasklist").unwrap(), "[]");
    assert_eq!(nodes[0].log_text(0, None), nodes[1].log_text(0, None));
    assert_eq!(
        nodes[1]
            .log_text(0, None)
            .matches("starting cluster log")
            .count(),
        2
    );
    assert!(
        nodes[1]
            .members_text(true)
            .contains("\"n1\": { \"id\": 1, \"online\": 1, \"ip\": \"10.77.0.9\"}")
    );
}

#[test]
fn clinfo_counts_configuration_membership_and_addresses() {
    let mut status = Status::new(0, N1, "n1", None);
    status.confchg(&[N1]);
    assert_eq!(status.clinfo(), 0, "names are not known yet");
    assert_eq!(status.announce(0), None);
    status.set_cluster(config(&["n1", "n2"]));
    status.confchg(&[N1, N2]);
    assert_eq!(status.clinfo(), 2);
    for _ in 0..2 {
        status.set(0, b"nodeip", "10.0.0.1\0".into()).unwrap();
        status.announce(0).unwrap();
    }
    assert_eq!(status.clinfo(), 3);
    status.disconnected();
    status.disconnected();
    assert_eq!(status.clinfo(), 4);
    assert!(status.is_online(1) && !status.is_online(2));
}

#[test]
fn keys_follow_the_node_list_and_the_process() {
    let mut status = status(N1, "n1");
    status.confchg(&[N1, N2, N3]);
    for from in [N2, N3] {
        deliver(&mut status, from, key_message(b"a", "1".into())).unwrap();
    }
    status.confchg(&[N1, N3]);
    assert!(status.value("n2", b"a").is_some(), "keys outlive the node");
    status.confchg(&[N1, MemberId { pid: 99, ..N2 }, N3]);
    assert!(
        status.value("n2", b"a").is_none(),
        "but not its next process"
    );
    status.set_cluster(config(&["n1", "n2"]));
    status.set_cluster(config(&["n1", "n2", "n3"]));
    assert!(status.value("n3", b"a").is_none());
    assert!(status.is_online(3));
}

#[test]
fn version_has_the_documented_form() {
    let counters = VersionCounters {
        vmlist: 0,
        files: &[("corosync.conf", 3), ("a/b.cfg", 4)],
    };
    let mut status = Status::new(1_795_299_296, N1, "n1", None);
    let head = "{\n\"starttime\": 1795299296,\n";
    let files = "\"vmlist\": 0,\n\"corosync.conf\": 3,\n\"a/b.cfg\": 4,\n\"kvstore\": {\n";
    assert_eq!(
        status.version_text(counters),
        format!("{head}\"clinfo\": 0,\n{files}\"n1\": {{\n}}\n}}\n}}\n")
    );
    status.set_cluster(config(&["n1", "n2", "n3"]));
    status.set(0, b"tasklist", "x".into()).unwrap();
    status.set(0, b"kv/foo", "x".into()).unwrap();
    status.set(0, b"kv/foo", "x".into()).unwrap();
    status.set(0, b"rrd/x", "1\0".into()).unwrap();
    deliver(&mut status, N2, key_message(b"tasklist", "x".into())).unwrap();
    assert_eq!(
        status.version_text(counters),
        format!(
            "{head}\"clinfo\": 1,\n{files}\"n1\": {{\n\"kv/foo\": 1,\n\"tasklist\": 0}}\n,\n\
             \"n2\": {{\n\"tasklist\": 0}}\n}}\n}}\n"
        )
    );
}

#[test]
fn members_has_the_documented_form() {
    let mut status = Status::new(1, N2, "n2", Some("10.77.0.2"));
    assert_eq!(
        status.members_text(true),
        "{\n\"nodename\": \"n2\",\n\"version\": 0\n}\n"
    );
    status.set_cluster(config(&["n1", "n2", "n3"]));
    status.confchg(&[N1, N2]);
    status.announce(0).unwrap();
    deliver(
        &mut status,
        N1,
        key_message(b"nodeip", "10.77.0.1\0".into()),
    )
    .unwrap();
    assert_eq!(
        status.members_text(true),
        r#"{
"nodename": "n2",
"version": 4,
"cluster": { "name": "testcluster", "version": 3, "nodes": 3, "quorate": 1 },
"nodelist": {
  "n1": { "id": 1, "online": 1, "ip": "10.77.0.1"},
  "n2": { "id": 2, "online": 1, "ip": "10.77.0.2"},
  "n3": { "id": 3, "online": 0}
  }
}
"#
    );
}

proptest! {
    #[test]
    fn texts_always_parse(
        keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..5),
        address in prop::collection::vec(1_u8.., 0..20),
    ) {
        let mut status = status(N1, "n\"1");
        for key in &keys {
            let sent = status.set(0, key, "x".into());
            if let Ok(sent) = sent {
                deliver(&mut status, N2, sent).unwrap();
            }
        }
        let address = [&address[..], &[0]].concat();
        deliver(&mut status, N2, key_message(b"nodeip", address.into())).unwrap();
        let counters = VersionCounters { vmlist: 1, files: &[("a", 1)] };
        for text in [status.version_text(counters), status.members_text(false)] {
            let _: serde_json::Value = serde_json::from_str(&text).expect(&text);
        }
    }

    #[test]
    fn any_message_is_handled(
        subtype in 0_u16..5,
        payload in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut status = status(N1, "n1");
        let result = status.deliver(0, N2, subtype, payload.into());
        prop_assert!(result.is_err() || subtype == 1 || subtype == 3);
    }
}

/// Two members on one bus, until nothing is left to send.
fn settle(nodes: &mut [Dfsm<Status>], ids: &[MemberId]) {
    loop {
        let mut sent = Vec::new();
        for (node, id) in nodes.iter_mut().zip(ids) {
            while let Some(action) = node.poll_action() {
                match action {
                    Action::Send { message, .. } => sent.push((*id, message)),
                    Action::Leave { reason } => panic!("{id} leaves: {reason}"),
                    Action::Answer { .. } | Action::Log(_) => {}
                }
            }
        }
        if sent.is_empty() {
            return;
        }
        for (from, message) in &sent {
            nodes
                .iter_mut()
                .for_each(|node| node.handle_message(5, *from, message));
        }
    }
}

#[test]
fn members_exchange_their_status_through_the_state_machine() {
    let ids = [N1, N2];
    let mut nodes = [
        Dfsm::new(status(N1, "n1"), N1),
        Dfsm::new(status(N2, "n2"), N2),
    ];
    nodes[1].app_mut().set(0, b"early", "1".into()).unwrap();
    for node in &mut nodes {
        node.handle_membership(5, &ids, true);
    }
    settle(&mut nodes, &ids);
    let late = nodes[0].app_mut().set(0, b"late", "2".into()).unwrap();
    let (_, message) = nodes[0].make_normal(5, late.subtype, late.payload);
    nodes
        .iter_mut()
        .for_each(|node| node.handle_message(5, N1, &message));
    let [n1, n2] = nodes.each_ref().map(Dfsm::app);
    assert_eq!(n1.value("n2", b"early").unwrap(), "1");
    assert_eq!(n2.value("n1", b"late").unwrap(), "2");
    assert_eq!(n1.log_text(0, None), n2.log_text(0, None));
    for text in [n1.members_text(true), n2.members_text(true)] {
        assert_eq!(text.matches("\"ip\": \"10.77.0.9\"").count(), 2, "{text}");
    }
}
