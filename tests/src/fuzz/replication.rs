//! Decoders of pmxcfs, and its status under messages of anybody.

use bytes::Bytes;
use pmxcfs::confwatch;
use pmxcfs::status::{ClusterConfig, NodeInfo, Status};
use pmxcfs::wire::MemberId;
use pmxcfs::wire::clusterlog::LogEntry;
use pmxcfs::wire::dfsm::Message;
use pmxcfs::wire::fuse_msg::FuseMessage;
use pmxcfs::wire::index::{MemdbIndex, UpdateEntry};
use pmxcfs::wire::kv::KvUpdate;
use pmxcfs::wire::ring::walk_blob;

use super::input::{Fields, Shape, shape, steps};

/// A whole message of either group, down to what it carries.
pub(super) fn messages(input: &[u8]) -> u64 {
    let mut outcome = Shape::default();
    for version in [0, 1] {
        let decoded = Message::decode(version, Bytes::copy_from_slice(input));
        outcome.note(&decoded);
        let Ok(message) = decoded else {
            continue;
        };
        let again = Message::decode(version, message.encode(version));
        assert_eq!(again.as_ref(), Ok(&message));
        if let Message::Normal {
            subtype, payload, ..
        } = message
        {
            outcome.note(&payload_of(subtype, &payload));
        }
    }
    outcome.finish()
}

/// Payloads of all kinds; the first byte is the number of the change.
pub(super) fn payloads(input: &[u8]) -> u64 {
    let Some((subtype, payload)) = input.split_first() else {
        return 0;
    };
    payload_of((*subtype).into(), &Bytes::copy_from_slice(payload))
}

fn payload_of(subtype: u16, payload: &Bytes) -> u64 {
    let mut outcome = Shape::default();
    let change = FuseMessage::decode(subtype, payload.clone());
    if let Ok(change) = &change {
        let again = FuseMessage::decode(change.subtype(), change.encode());
        assert_eq!(again.as_ref(), Ok(change));
    }
    outcome.note(&change);
    let index = MemdbIndex::decode(payload.clone());
    if let Ok(index) = &index {
        assert_eq!(MemdbIndex::decode(index.encode()).as_ref(), Ok(index));
    }
    outcome.note(&index);
    let update = UpdateEntry::decode(payload.clone());
    if let Ok(update) = &update {
        assert_eq!(UpdateEntry::decode(update.encode()).as_ref(), Ok(update));
    }
    outcome.note(&update);
    let value = KvUpdate::decode(payload.clone());
    if let Ok(value) = &value {
        assert_eq!(KvUpdate::decode(value.encode()).as_ref(), Ok(value));
    }
    outcome.note(&value.is_ok());
    let entry = LogEntry::decode(payload.clone());
    if let Ok(entry) = &entry {
        assert_eq!(LogEntry::decode(entry.encode()).as_ref(), Ok(entry));
        outcome.note(&[entry.node(), entry.ident(), entry.tag(), entry.text()].map(<[u8]>::len));
    }
    outcome.note(&entry.is_ok());
    outcome.note(&walk_blob(payload).map(|walk| walk.count() > 1));
    outcome.finish()
}

/// Messages and states of others, taken by a node's status. Everything that users see of it can
/// be printed afterwards, and is JSON where it should be.
pub(super) fn status(input: &[u8]) -> u64 {
    let own = MemberId { node: 1, pid: 100 };
    let mut status = Status::new(1_700_000_000, own, "n1", Some("10.0.0.1"));
    status.set_cluster(ClusterConfig {
        name: "t".to_owned(),
        version: 1,
        nodes: (1..=4)
            .map(|id| NodeInfo {
                id,
                name: format!("n{id}"),
                votes: Some(1),
            })
            .collect(),
    });
    let mut states: Vec<Bytes> = Vec::new();
    let mut outcome = Shape::default();
    let mut now = 1_700_000_000_u32;
    for step in steps(input) {
        let payload = Bytes::copy_from_slice(&step.bytes);
        let from = MemberId {
            node: 2 + u32::from(step.op >> 4),
            pid: 7,
        };
        match step.op % 6 {
            kind @ 0..=2 => outcome.note(&status.deliver(now, from, kind.into(), payload)),
            3 => states.push(payload),
            4 => {
                let own = states.len();
                states.push(status.build_state());
                outcome.note(&status.evaluate(&std::mem::take(&mut states), own).len());
            }
            _ => now = now.wrapping_add(Fields(&step.bytes).short().into()),
        }
    }
    let log = status.log_text(100, None);
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(&log);
    assert!(parsed.is_ok(), "the log is not JSON: {log:?}");
    let members: Result<serde_json::Value, _> = serde_json::from_str(&status.members_text(true));
    assert!(members.is_ok(), "the list of members is not JSON");
    outcome.note(&status.rrd_text(now).is_empty());
    outcome.finish()
}

/// `corosync.conf` as the tree takes it, first alone and then in the place of a good one.
pub(super) fn configuration(input: &[u8]) -> u64 {
    let alone = confwatch::check(input, None, "n1");
    let after = confwatch::check(input, Some(input), "n1");
    let version = confwatch::config_version(input);
    shape(&(
        alone.map_err(|error| error.to_string()),
        after.is_ok(),
        version,
    ))
}
