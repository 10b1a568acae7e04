//! Captured traffic of real rings, for tests: files, datagrams, and a check that everything in
//! them decodes and encodes to the same bytes.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use bytes::Bytes;
use flate2::read::GzDecoder;

use super::knet::{Body, Packet};
use super::pg::{Frame, Group, Message};
use super::{exec, sync};

const ETHERNET_HEADER_LEN: usize = 14;
const SRP_HEADER_LEN: usize = 13;
const SRP_MCAST_LEN: usize = 45;
const SRP_TYPE_MCAST: u8 = 1;
const SRP_NORMAL: u8 = 2;

/// One UDP datagram of a capture.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) port: u16,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/vectors/totem")
        .join(name)
}

pub(crate) fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let text = text.trim();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// The UDP datagrams of a capture, those that were fragmented by IP included.
pub(crate) fn capture(name: &str) -> Vec<Datagram> {
    let mut bytes = Vec::new();
    GzDecoder::new(std::fs::File::open(path(name)).unwrap())
        .read_to_end(&mut bytes)
        .unwrap();
    let mut fragments: BTreeMap<(u32, u16), Vec<u8>> = BTreeMap::new();
    let mut datagrams = Vec::new();
    let mut rest = &bytes[24..];
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        let frame = &rest[16..16 + len];
        rest = &rest[16 + len..];
        if frame[12..14] == [8, 0] {
            datagrams.extend(datagram(&frame[ETHERNET_HEADER_LEN..], &mut fragments));
        }
    }
    datagrams
}

fn datagram(ip: &[u8], fragments: &mut BTreeMap<(u32, u16), Vec<u8>>) -> Option<Datagram> {
    let u16_at = |bytes: &[u8], at| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let address = |at: usize| u32::from_be_bytes(ip[at..at + 4].try_into().unwrap());
    if ip[9] != 17 {
        return None;
    }
    let body = &ip[usize::from(ip[0] & 15) * 4..usize::from(u16_at(ip, 2))];
    let flags = u16_at(ip, 6);
    let udp = if flags & 0x3fff == 0 {
        body.to_vec()
    } else {
        let parts = fragments.entry((address(12), u16_at(ip, 4))).or_default();
        assert_eq!(parts.len(), usize::from(flags & 0x1fff) * 8);
        parts.extend_from_slice(body);
        if flags & 0x2000 != 0 {
            return None;
        }
        fragments.remove(&(address(12), u16_at(ip, 4))).unwrap()
    };
    Some(Datagram {
        port: u16_at(&udp, 2),
        payload: udp[8..].to_vec(),
    })
}

/// Messages between services in a capture of `knet` without encryption, and who sent them.
pub(crate) fn executive(name: &str) -> Vec<(u32, exec::Message)> {
    let mut checker = Checker::default();
    for datagram in capture(name) {
        checker.knet(&datagram.payload);
    }
    checker.executive
}

/// What was seen in a capture.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) control: usize,
    pub(crate) data: usize,
    pub(crate) compressed: usize,
    pub(crate) frames: usize,
    pub(crate) messages: usize,
}

/// Decodes captured traffic layer by layer and demands that it encodes to the same bytes.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    pub(crate) counts: Counts,
    /// Fragments by sender and sequence number.
    fragments: BTreeMap<(u16, u16), BTreeMap<u8, Vec<u8>>>,
    /// Sequence numbers of ring messages, by ring and sender: later copies are skipped.
    seen: BTreeMap<Vec<u8>, ()>,
    /// Every message, with its sender.
    pub(crate) messages: Vec<(u32, Message)>,
    /// Number and open message of each sender.
    open: BTreeMap<u32, (u8, Vec<u8>)>,
    /// Messages between services and who sent them, in the order of the capture.
    pub(crate) executive: Vec<(u32, exec::Message)>,
    /// Complete messages with their senders.
    pub(crate) delivered: Vec<(u32, Delivered)>,
}

/// A message between services.
#[derive(Debug)]
pub(crate) enum Delivered {
    Executive(exec::Message),
    Sync(sync::Message),
}

impl Checker {
    pub(crate) fn knet(&mut self, bytes: &[u8]) {
        let packet = Packet::decode(bytes).unwrap();
        let mut again = Vec::new();
        packet.encode(&mut again);
        assert_eq!(again, bytes);
        let Body::Data(header, payload) = packet.body else {
            self.counts.control += 1;
            return;
        };
        self.counts.data += 1;
        if header.compression != 0 {
            self.counts.compressed += 1;
        } else if header.fragments == 1 {
            self.srp(payload);
        } else {
            let key = (packet.node, header.seq);
            let parts = self.fragments.entry(key).or_default();
            parts.insert(header.fragment, payload.to_vec());
            if parts.len() == usize::from(header.fragments) {
                let whole: Vec<u8> = self
                    .fragments
                    .remove(&key)
                    .unwrap()
                    .into_values()
                    .flatten()
                    .collect();
                self.srp(&whole);
            }
        }
    }

    pub(crate) fn srp(&mut self, bytes: &[u8]) {
        let normal = bytes[3] == SRP_TYPE_MCAST && bytes[4] == SRP_NORMAL;
        if !normal
            || self
                .seen
                .insert(bytes[17..SRP_MCAST_LEN].to_vec(), ())
                .is_some()
        {
            return;
        }
        let sender = u32::from_le_bytes(bytes[5..9].try_into().unwrap());
        assert!(bytes.len() > SRP_HEADER_LEN);
        self.frame(sender, &Bytes::copy_from_slice(&bytes[SRP_MCAST_LEN..]));
    }

    fn frame(&mut self, sender: u32, bytes: &Bytes) {
        self.counts.frames += 1;
        let frame = Frame::decode(bytes).unwrap();
        let mut again = Vec::new();
        frame.encode(&mut again).unwrap();
        assert_eq!(again, bytes.to_vec());
        let (number, open) = self.open.entry(sender).or_default();
        if *number != frame.continuation {
            // The capture starts or a lost copy was in the middle of a message.
            self.open.remove(&sender);
            return;
        }
        *number = frame.fragmented;
        let mut complete = Vec::new();
        let last = frame.pieces.len() - 1;
        for (index, piece) in frame.pieces.iter().enumerate() {
            open.extend_from_slice(piece);
            if index < last || frame.fragmented == 0 {
                complete.push(Bytes::from(std::mem::take(open)));
            }
        }
        for message in &complete {
            self.message(sender, message);
        }
    }

    fn message(&mut self, sender: u32, bytes: &Bytes) {
        self.counts.messages += 1;
        let message = Message::decode(bytes).unwrap();
        let mut again = Vec::new();
        message.encode(&mut again).unwrap();
        assert_eq!(again, bytes.to_vec());
        let mut expected = message.body.to_vec();
        let mut again = Vec::new();
        match message.groups[0] {
            Group::Executive => {
                zero_executive_holes(&mut expected);
                let message = exec::Message::decode(&message.body).unwrap();
                message.encode(&mut again);
                self.executive.push((sender, message.clone()));
                self.delivered.push((sender, Delivered::Executive(message)));
            }
            Group::Sync => {
                zero_sync_holes(&mut expected);
                let message = sync::Message::decode(&message.body).unwrap();
                message.encode(&mut again);
                self.delivered.push((sender, Delivered::Sync(message)));
            }
            Group::Other(_) => panic!("unknown group"),
        }
        assert_eq!(again, expected, "id {:#x?}", &message.body[..4]);
        self.messages.push((sender, message));
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn zero_sync_holes(bytes: &mut [u8]) {
    let mut holes = vec![4..8, 12..16, 28..32];
    if bytes[0] == 1 {
        holes.push(36..40);
        holes.push(40 + 4 * u32_at(bytes, 32)..552);
    }
    holes.into_iter().for_each(|hole| bytes[hole].fill(0));
}

/// Holes by the tables of the message layouts, independent of the codecs.
fn zero_executive_holes(bytes: &mut [u8]) {
    let group = |bytes: &[u8], at: usize| [at + 4..at + 8, at + 8 + u32_at(bytes, at)..at + 136];
    let name = |bytes: &[u8], at: usize| {
        let len = usize::from(bytes[at]) + 256 * usize::from(bytes[at + 1]);
        [at + 2..at + 8, at + 8 + len..at + 264]
    };
    let device = |bytes: &[u8], at: usize| {
        let len = bytes[at..at + 255]
            .iter()
            .position(|byte| *byte == 0)
            .unwrap();
        at + len..at + 255
    };
    let mut holes = vec![4..8, 12..16];
    match u32_at(bytes, 0) {
        0 => {
            holes.extend([17..24, 25..32, 32..48]);
            let mut at = 48;
            while at < bytes.len() {
                holes.extend(name(bytes, at));
                holes.push(at + 265..at + 272);
                let len = u32_at(bytes, at + 272);
                let end = at + 280 + len.next_multiple_of(8);
                holes.push(at + 280 + len..end);
                at = end;
            }
        }
        0x10000 | 0x10003 | 0x10004 => holes.push(20..24),
        0x10001 => {
            holes.push(20..24);
            holes.extend(name(bytes, 24));
        }
        0x20000 | 0x20001 => {
            holes.extend(group(bytes, 16));
            holes.extend([156..160, 164..168]);
        }
        0x20002 => {
            holes.push(16..24);
            for at in (24..bytes.len()).step_by(144) {
                holes.push(at + 4..at + 8);
                holes.extend(group(bytes, at + 8));
            }
        }
        0x20003 => {
            holes.extend(group(bytes, 16));
            holes.extend([156..160, 164..168, 172..176]);
        }
        0x20005 => holes.extend([20..24, 28..32, 32 + 4 * u32_at(bytes, 24)..1568]),
        0x20006 => {
            holes.extend(group(bytes, 16));
            holes.extend([156..160, 164..168, 172..176, 180..184, 188..192]);
        }
        0x50001 => holes.push(25..32),
        0x50002 => holes.extend([device(bytes, 20), 275..280]),
        0x50003 => holes.extend([device(bytes, 16), device(bytes, 271), 526..528]),
        _ => (),
    }
    holes.into_iter().for_each(|hole| bytes[hole].fill(0));
}

/// Every capture without encryption, with the transport that it was made of.
const OPEN_CAPTURES: [(&str, bool); 27] = [
    ("knet-2link-active", true),
    ("knet-2link-rr", true),
    ("knet-cfg-kill-shutdown", true),
    ("knet-compress-bzip2", true),
    ("knet-compress-lz4", true),
    ("knet-compress-lz4hc", true),
    ("knet-compress-lzma", true),
    ("knet-compress-lzo2", true),
    ("knet-compress-zlib", true),
    ("knet-compress-zstd", true),
    ("knet-cpg10", true),
    ("knet-cpg1m", true),
    ("knet-death", true),
    ("knet-form", true),
    ("knet-leave", true),
    ("knet-mtu-failure", true),
    ("knet-partition-merge", true),
    ("knet-qdevice", true),
    ("knet-recovery", true),
    ("knet-reload-add-link", true),
    ("knet-retransmit", true),
    ("knet-votequorum", true),
    ("udp-multicast-form", false),
    ("udpu-cpg1m", false),
    ("udpu-form", false),
    ("udpu-leave", false),
    ("udpu-recovery-ipfragments", false),
];

#[test]
fn open_captures_decode_and_encode_to_the_same_bytes() {
    for (name, knet) in OPEN_CAPTURES {
        let mut checker = Checker::default();
        for datagram in capture(&format!("{name}.pcap.gz")) {
            assert!(datagram.port > 5000);
            if knet {
                checker.knet(&datagram.payload);
            } else {
                checker.srp(&datagram.payload);
            }
        }
        let counts = checker.counts;
        assert!(
            counts.messages > 0 || counts.compressed > 0,
            "{name}: {counts:?}"
        );
        assert_eq!(counts.data > 0, knet, "{name}: {counts:?}");
    }
}

#[test]
fn counts_of_a_forming_ring_are_those_of_the_capture() {
    let mut checker = Checker::default();
    for datagram in capture("knet-form.pcap.gz") {
        checker.knet(&datagram.payload);
    }
    let expected = Counts {
        control: checker.counts.control,
        data: 427,
        compressed: 0,
        frames: checker.counts.frames,
        messages: 45,
    };
    assert_eq!(checker.counts, expected);
}

#[test]
fn single_packets_decode_to_the_listed_fields() {
    let packets: serde_json::Value = serde_json::from_str(&text("packets.json")).unwrap();
    for packet in packets.as_array().unwrap() {
        if packet["transport"] != "knet" {
            continue;
        }
        let bytes = packet.get("clear").unwrap_or(&packet["wire"]);
        let bytes = hex(bytes.as_str().unwrap());
        let decoded = Packet::decode(&bytes).unwrap();
        let fields = &packet["decoded"];
        let number = |field: &serde_json::Value| field.as_u64().unwrap();
        match decoded.body {
            Body::Data(header, _) => {
                let fields = &fields["knet.data"];
                assert_eq!(u64::from(header.seq), number(&fields["seq"]));
                assert_eq!(u64::from(header.fragments), number(&fields["frag_num"]));
                assert_eq!(u64::from(decoded.node), number(&fields["h"]["node"]));
            }
            Body::Ping(ping) | Body::Pong(ping) => {
                let fields = &fields["knet.ping"];
                assert_eq!(ping.time.to_vec(), hex(fields["time"].as_str().unwrap()));
                assert_eq!(u64::from(ping.seq), number(&fields["seq"]));
                assert_eq!(u64::from(ping.timed), number(&fields["timed"]));
            }
            Body::PmtudProbe { pmtud, .. } | Body::PmtudReply(pmtud) => {
                assert_eq!(u64::from(pmtud.size), number(&fields["knet.pmtud"]["size"]));
            }
        }
    }
}
