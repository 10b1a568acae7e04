//! Tests of the cluster log against captured rings and of its filter.

use proptest::prelude::*;

use super::*;
use crate::wire::vectors;

/// A log as it is on the node that sent `blob`.
fn log_from(blob: &Bytes) -> ClusterLog {
    let mut entries: Vec<LogEntry> = walk_blob(blob).unwrap().collect();
    entries.reverse();
    let mut log = ClusterLog::new("n1");
    for entry in &entries {
        // Past the filter: a sorted ring need not ascend by node.
        note_newest(&mut log.newest, entry);
        log.ring.append(entry);
    }
    log
}

/// Merges on every member; all must get the same ring, byte for byte.
fn assert_merge(members: &[&str], expected: &str) {
    let blobs: Vec<Bytes> = members.iter().map(|name| vectors::bin(name)).collect();
    let expected = vectors::bin(expected);
    for own in 0..blobs.len() {
        let mut log = log_from(&blobs[own]);
        assert!(log.state() == blobs[own], "state of {}", members[own]);
        log.merge(&blobs, own);
        assert!(log.ring.encode() == expected, "merge on {}", members[own]);
        assert!(log.state() == expected, "next state of {}", members[own]);
    }
}

#[test]
fn merge_of_three_equals_the_captured_one() {
    assert_merge(
        &[
            "clog-state-n1.bin",
            "clog-state-n2.bin",
            "clog-state-n3.bin",
        ],
        "clog-merged.bin",
    );
}

#[test]
fn merge_of_full_rings_equals_the_captured_one() {
    assert_merge(
        &["clog-full-n1.bin", "clog-full-n2.bin"],
        "clog-full-merged.bin",
    );
}

#[test]
fn merge_of_equal_rings_changes_nothing() {
    for name in ["clog-merged.bin", "clog-full-merged.bin"] {
        assert_merge(&[name, name, name], name);
    }
}

#[test]
fn merge_survives_foreign_blobs() {
    let good = vectors::bin("clog-state-n1.bin");
    let mut damaged = vectors::bin("clog-state-n2.bin").to_vec();
    // Breaks the newest entry.
    damaged[552..556].copy_from_slice(&[0xff; 4]);
    let blobs = [
        Bytes::new(),
        good.clone(),
        Bytes::from_static(b"junk junk"),
        damaged.into(),
    ];
    let mut log = log_from(&good);
    log.merge(&blobs, 1);
    assert!(log.ring.encode() == good);
}

fn request<'a>(text: &'a str) -> LogRequest<'a> {
    LogRequest {
        pid: 9,
        priority: 6,
        ident: b"root@pam",
        tag: b"x",
        text: text.as_bytes(),
    }
}

fn stamps(log: &ClusterLog) -> Vec<(u32, u32)> {
    log.ring
        .walk()
        .map(|entry| (entry.time(), entry.uid()))
        .collect()
}

#[test]
fn own_entries_survive_a_clock_step_back() {
    let mut log = ClusterLog::new("n1");
    for now in [100, 100, 40, 101] {
        assert!(log.log(now, &request("x")).is_some());
    }
    assert_eq!(stamps(&log), [(101, 4), (100, 3), (100, 2), (100, 1)]);
}

#[test]
fn own_entries_follow_those_of_an_earlier_process() {
    let mut earlier = ClusterLog::new("n1");
    (0..5).for_each(|_| assert!(earlier.log(100, &request("old")).is_some()));
    let mut log = ClusterLog::new("n1");
    assert!(log.log(90, &request("first")).is_some());
    let blobs = [log.state(), earlier.state()];
    log.merge(&blobs, 0);
    assert!(log.log(95, &request("second")).is_some());
    assert_eq!(stamps(&log)[..2], [(100, 6), (100, 5)]);
    assert_eq!(stamps(&log).len(), 7);
}

#[test]
fn priorities_above_seven_are_not_logged() {
    let mut log = ClusterLog::new("n1");
    assert_eq!(
        log.log(
            1,
            &LogRequest {
                priority: 8,
                ..request("x")
            }
        ),
        None
    );
    assert_eq!(log.ring.walk().count(), 0);
}

#[test]
fn entries_seen_before_are_dropped() {
    let mut remote = ClusterLog::new("n2");
    let first = remote.log(10, &request("a")).unwrap();
    let second = remote.log(10, &request("b")).unwrap();
    let third = remote.log(11, &request("c")).unwrap();
    let mut log = ClusterLog::new("n1");
    let results = [&second, &first, &second, &third].map(|entry| log.insert(entry));
    assert_eq!(results, [true, false, false, true]);
}

#[test]
fn dump_has_the_documented_form() {
    let mut log = ClusterLog::new("n1");
    assert_eq!(log.dump(50, None), "{\n\"data\": [\n]\n}\n");
    log.log(
        1_795_299_296,
        &LogRequest {
            pid: 8682,
            priority: 6,
            ident: b"root",
            tag: b"cluster",
            text: b"starting cluster log",
        },
    );
    log.log(
        1_795_299_327,
        &LogRequest {
            pid: 9769,
            priority: 5,
            ident: b"root@pam",
            tag: b"pvedaemon",
            text: "hello \"x\" \t \u{e4}".as_bytes(),
        },
    );
    let expected = r##"{
"data": [
{"uid": 2, "time": 1795299327, "pri": 5, "tag": "pvedaemon", "pid": 9769, "node": "n1", "user": "root@pam", "msg": "hello \"x\" #009 \u00e4"},
{"uid": 1, "time": 1795299296, "pri": 6, "tag": "cluster", "pid": 8682, "node": "n1", "user": "root", "msg": "starting cluster log"}
]
}
"##;
    assert_eq!(log.dump(50, None), expected);
    let one = log.dump(50, Some(b"root"));
    assert!(
        one.contains("\"uid\": 1,") && !one.contains("\"uid\": 2,"),
        "{one}"
    );
    let newest = log.dump(1, None);
    assert!(
        !newest.contains("\"uid\": 1,") && newest.contains("\"uid\": 2,"),
        "{newest}"
    );
}

#[test]
fn captured_rings_dump_as_json() {
    for name in vectors::names(".bin")
        .iter()
        .filter(|name| name.starts_with("clog-"))
    {
        let dump = log_from(&vectors::bin(name)).dump(usize::MAX, None);
        let value: serde_json::Value = serde_json::from_str(&dump).expect(name);
        let count = walk_blob(&vectors::bin(name)).unwrap().count();
        assert_eq!(value["data"].as_array().unwrap().len(), count);
    }
}

/// A log of a node that made these entries: (seconds since the entry before, length of the text).
fn log_of(node: &str, steps: &[(u8, usize)]) -> ClusterLog {
    let mut log = ClusterLog::new(node);
    let mut now = 1000;
    for (step, len) in steps {
        now += u32::from(*step);
        log.log(now, &request(&"t".repeat(*len)));
    }
    log
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn all_members_merge_alike(
        nodes in prop::collection::vec(
            prop::collection::vec((0_u8..3, 0_usize..2000), 0..120), 1..4
        ),
    ) {
        let names = ["n1", "n2", "n3"];
        let mut logs: Vec<ClusterLog> =
            nodes.iter().zip(names).map(|(steps, name)| log_of(name, steps)).collect();
        let blobs: Vec<Bytes> = logs.iter_mut().map(ClusterLog::state).collect();
        for (own, log) in logs.iter_mut().enumerate() {
            log.merge(&blobs, own);
        }
        let rings: Vec<Bytes> = logs.iter().map(|log| log.ring.encode()).collect();
        prop_assert!(rings.iter().all(|ring| *ring == rings[0]));
        let newest: Vec<_> = logs.iter().map(|log| log.newest.clone()).collect();
        prop_assert!(newest.iter().all(|table| *table == newest[0]));
    }

    #[test]
    fn dump_always_parses(
        strings in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 3),
        text in r#"[\\u"0-9a-fx\n]{0,40}"#,
    ) {
        let mut log = ClusterLog::new("n\"1");
        for text in [text.as_bytes(), &strings[2]] {
            log.log(
                1,
                &LogRequest { pid: 1, priority: 1, ident: &strings[0], tag: &strings[1], text },
            );
        }
        let value: serde_json::Value = serde_json::from_str(&log.dump(50, None)).unwrap();
        prop_assert_eq!(value["data"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn damaged_blobs_merge_without_panic(
        damage in prop::collection::vec((0_usize..800, any::<u8>()), 0..40),
    ) {
        let mut blob = vectors::bin("clog-merged.bin").to_vec();
        for (at, byte) in damage {
            blob[at] = byte;
        }
        let mut log = log_of("n1", &[(0, 5)]);
        let own = log.state();
        log.merge(&[own, blob.into()], 0);
        prop_assert!(log.ring.walk().count() >= 1);
        let _: serde_json::Value = serde_json::from_str(&log.dump(50, None)).unwrap();
    }
}
