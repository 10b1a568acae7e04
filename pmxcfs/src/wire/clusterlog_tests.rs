//! Tests of the log entry codec and of the text conversion.

use proptest::prelude::*;

use super::*;
use crate::wire::{dfsm::Message, vectors};

fn payload(name: &str) -> Option<Bytes> {
    match Message::decode(0, vectors::hex(name)).unwrap() {
        Message::Normal {
            subtype: SUBTYPE,
            payload,
            ..
        } => Some(payload),
        _ => None,
    }
}

fn captured(name: &str) -> LogEntry {
    LogEntry::decode(payload(name).unwrap()).expect(name)
}

#[test]
fn captured_entries_round_trip() {
    let mut hits = 0;
    for name in vectors::names(".hex")
        .iter()
        .filter(|name| name.starts_with("kv-log"))
    {
        let payload = payload(name).unwrap();
        let decoded = LogEntry::decode(payload.clone());
        if name == "kv-log-unterminated.hex" {
            assert!(
                matches!(decoded, Err(DecodeError::Malformed(_))),
                "{decoded:?}"
            );
        } else {
            assert_eq!(decoded.unwrap().encode(), payload, "{name}");
        }
        hits += 1;
    }
    assert_eq!(hits, 6);
}

#[test]
fn unterminated_entry_is_kept_inside_a_ring() {
    let entry = LogEntry::parse(payload("kv-log-unterminated.hex").unwrap()).unwrap();
    assert_eq!(entry.size(), ENTRY_LEN_MAX);
    assert_eq!(entry.text().len(), 4037);
    assert!(entry.text().ends_with(b"m\\u00"));
}

fn draft<'a>(ident: &'a [u8], tag: &'a [u8], text: &'a [u8]) -> LogDraft<'a> {
    LogDraft {
        uid: 1,
        time: 2,
        pid: 3,
        priority: 4,
        node: b"n2",
        ident,
        tag,
        text,
    }
}

/// The new entry equals the captured one in all that depends on the strings.
fn assert_same_strings(name: &str, draft: &LogDraft<'_>) {
    let captured = captured(name);
    let entry = LogEntry::new(&LogDraft {
        uid: captured.uid(),
        time: captured.time(),
        pid: captured.pid(),
        priority: captured.priority(),
        ..*draft
    });
    assert_eq!(entry.encode(), captured.encode(), "{name}");
    assert_eq!(entry, captured);
}

#[test]
fn new_entries_equal_the_captured_ones() {
    assert_same_strings(
        "kv-log.hex",
        &LogDraft {
            node: b"n1",
            ..draft(b"root@pam", b"x", b"n1 second")
        },
    );
    assert_same_strings("kv-log-empty.hex", &draft(b"", b"", b""));
    assert_same_strings(
        "kv-log-badutf8.hex",
        &draft(b"bad@pam", b"t", b"bad \xff utf\"8\x01"),
    );
    let text = "starting task \"UPID:n2\" \u{e4} \u{20ac} \u{1f600} a\tb\u{7f}c\\d";
    assert_same_strings(
        "kv-log-utf8.hex",
        &draft(b"root@pam", b"pvedaemon", text.as_bytes()),
    );
    let long = [b'm'; 5000];
    assert_same_strings(
        "kv-log-long.hex",
        &LogDraft {
            node: b"n1",
            ..draft(b"u@pam", b"t", &long)
        },
    );
}

#[test]
fn over_long_text_keeps_its_nul() {
    let text = format!("{}\u{e4}tail", "m".repeat(4033));
    let entry = LogEntry::new(&LogDraft {
        node: b"n1",
        ..draft(b"u@pam", b"t", text.as_bytes())
    });
    assert_eq!(entry.text(), "m".repeat(4033).as_bytes());
    assert_eq!(LogEntry::decode(entry.encode()), Ok(entry));
}

#[test]
fn names_are_cut_and_digests_are_not() {
    let name = [b'i'; 300];
    let entry = LogEntry::new(&draft(&name, &name, b"x"));
    assert_eq!(entry.ident().len(), 254);
    assert_eq!(entry.tag().len(), 254);
    assert_eq!(entry.ident_digest(), digest(&name));
    assert_eq!(digest(&name), digest(&name[..255]));
    assert_ne!(digest(&name), digest(&name[..254]));
    assert_eq!(LogEntry::decode(entry.encode()), Ok(entry));
}

#[test]
fn digests_are_the_known_ones() {
    assert_eq!(digest(b"n1"), 0x21ce_ce19_25f1_8240);
    assert_eq!(digest(b"root@pam"), 0x0bf6_9a5d_bf95_bb61);
    assert_eq!(digest(b""), 0xaf63_bd4c_8601_b7df);
}

#[test]
fn strings_count_up_to_their_nul() {
    let entry = LogEntry::new(&draft(b"a\0b", b"\0", b"text\0more"));
    assert_eq!(
        (entry.ident(), entry.tag(), entry.text()),
        (&b"a"[..], &b""[..], &b"text"[..])
    );
}

#[test]
fn missing_or_extra_bytes_are_refused() {
    let payload = payload("kv-log.hex").unwrap();
    for len in 0..payload.len() {
        assert!(LogEntry::decode(payload.slice(..len)).is_err(), "{len}");
    }
    assert!(LogEntry::decode([&payload[..], &[0]].concat().into()).is_err());
    // Each of the four terminators.
    for at in [46, 55, 57, 67] {
        let mut bytes = payload.to_vec();
        assert_eq!(bytes[at], 0);
        bytes[at] = b'x';
        assert!(LogEntry::decode(bytes.into()).is_err(), "{at}");
    }
    assert!(LogEntry::decode(vec![0; ENTRY_FIXED_LEN].into()).is_err());
    assert!(LogEntry::decode(vec![0xff; 5000].into()).is_err());
}

proptest! {
    #[test]
    fn decode_inverts_encode(
        numbers: [u32; 3],
        priority: u8,
        names in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 3),
        text in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..5000),
            ".{0,1500}".prop_map(String::into_bytes),
        ],
    ) {
        let [uid, time, pid] = numbers;
        let entry = LogEntry::new(&LogDraft {
            uid, time, pid, priority,
            node: &names[0], ident: &names[1], tag: &names[2], text: &text,
        });
        prop_assert!(entry.size() <= ENTRY_LEN_MAX);
        prop_assert!(entry.text().iter().all(|byte| (32..127).contains(byte)));
        prop_assert_eq!(LogEntry::decode(entry.encode()), Ok(entry));
    }

    #[test]
    fn any_bytes_are_handled(
        at in any::<prop::sample::Index>(),
        byte: u8,
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut damaged = payload("kv-log.hex").unwrap().to_vec();
        let at = at.index(damaged.len());
        damaged[at] = byte;
        for bytes in [damaged, noise] {
            if let Ok(entry) = LogEntry::decode(bytes.clone().into()) {
                prop_assert_eq!(&entry.encode()[8..], &bytes[8..]);
                let _ = (entry.node(), entry.ident(), entry.tag(), entry.text());
            }
        }
    }
}
