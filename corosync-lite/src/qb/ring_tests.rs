use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::qb::vectors::{path as vector, unhex};

struct Pair {
    _directory: tempfile::TempDir,
    writer: Ring,
    reader: Ring,
}

fn pair(max: u32) -> Pair {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let base = directory.path().join("qb-request-test");
    let (writer, reader) = (
        Ring::create(&base, max).unwrap(),
        Ring::open(&base, max).unwrap(),
    );
    Pair {
        _directory: directory,
        writer,
        reader,
    }
}

impl Pair {
    fn taken(&mut self) -> Option<Vec<u8>> {
        let mut message = Vec::new();
        self.reader.take(&mut message).unwrap().then_some(message)
    }
}

fn head(ring: &Ring, offset: usize, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ring.memory().0.read(offset, &mut bytes);
    bytes
}

/// Replays the captured life of a request and a response ring and compares all of its bytes.
#[test]
fn memory_is_as_the_original_leaves_it() {
    let text = std::fs::read_to_string(vector("ipc/qb-shm-rings.hex")).unwrap();
    let (mut request, mut response) = (pair(1 << 20), pair(1 << 20));
    let (mut name, mut compared) = (String::new(), 0);
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (key, value) = line.split_once(' ').unwrap();
        if key == "ring" {
            value.clone_into(&mut name);
            continue;
        }
        let pair = if name.starts_with("request") {
            &mut request
        } else {
            &mut response
        };
        let mut expected = unhex(value);
        if key == "hdr0" {
            act(
                pair,
                &name,
                u32::from_le_bytes(expected[..4].try_into().unwrap()),
            );
        }
        match key {
            "hdr0" => assert_eq!(head(&pair.writer, 0, 12), expected, "{name}"),
            // The last four bytes are in the longer file alone.
            "hdr8204" => assert_eq!(head(&pair.writer, 8204, 44), expected[..44], "{name}"),
            _ => {
                // A mark that the original leaves in unused memory.
                if pair.writer.index == 0 {
                    expected[0] = 0;
                }
                let mut bytes = vec![0; expected.len()];
                pair.writer.memory().1.read(0, &mut bytes);
                // Holes of the original's structures hold whatever its stack held.
                for hole in (0..bytes.len()).filter(|index| !same_kind(&name, *index)) {
                    bytes[hole] = expected[hole];
                }
                assert_eq!(bytes, expected, "{name}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 11);
}

/// Bytes 4 to 7, 12 to 15 and 20 to 23 of a header are holes.
fn same_kind(name: &str, index: usize) -> bool {
    !(name.starts_with("response") && (20..24).contains(&index))
}

fn act(pair: &mut Pair, name: &str, write_index: u32) {
    let json = b"{\n\"nodename\": \"n1\",\n\"version\": 0\n}\n";
    let header = |id: i32, size: i32| {
        let mut bytes = [0; 24];
        bytes[..4].copy_from_slice(&id.to_le_bytes());
        bytes[8..12].copy_from_slice(&size.to_le_bytes());
        bytes
    };
    match (name, write_index) {
        ("request-after-put", 6) => assert!(pair.writer.put(&[&header(2, 16)[..16]]).unwrap()),
        ("request-after-put", _) => assert!(pair.writer.put(&[&header(9, 16)[..16]]).unwrap()),
        ("response-filled", 0x11) => assert!(pair.writer.put(&[&header(2, 59), json]).unwrap()),
        ("response-filled", _) => assert!(pair.writer.put(&[&header(9, 24)]).unwrap()),
        ("request-consumed" | "response-after-get", _) => assert!(pair.taken().is_some()),
        _ => {}
    }
}

#[test]
fn paths_and_sizes_are_as_clients_expect() {
    let pair = pair(1 << 20);
    let base = pair._directory.path().join("qb-request-test");
    let (header, data) = paths(&base);
    assert_eq!(std::fs::metadata(&header).unwrap().len(), 8252);
    assert_eq!(std::fs::metadata(&data).unwrap().len(), 1_052_672);
    assert!(head(&pair.writer, 12, 4096).starts_with(header.as_os_str().as_encoded_bytes()));
    assert!(head(&pair.writer, 4108, 4096).starts_with(data.as_os_str().as_encoded_bytes()));
    assert_eq!(pair.writer.attached(), 2);
}

#[test]
fn the_longest_message_is_that_of_the_original() {
    let mut pair = pair(1 << 20);
    assert!(!pair.writer.put(&[&vec![1; 1_052_661]]).unwrap());
    assert!(pair.writer.put(&[&vec![1; 1_052_660]]).unwrap());
    assert!(!pair.writer.put(&[b"x"]).unwrap());
    assert_eq!(pair.taken().map(|message| message.len()), Some(1_052_660));
    assert!(pair.writer.put(&[&vec![2; 1_052_660]]).unwrap());
    assert_eq!(pair.taken(), Some(vec![2; 1_052_660]));
}

#[test]
fn nonsense_is_refused() {
    let mut message = Vec::new();
    // A count without a message.
    let mut empty = pair(12_328);
    empty
        .writer
        .memory()
        .0
        .double_word(SEMAPHORE)
        .store(u64::MAX, Ordering::Relaxed);
    assert_eq!(empty.reader.take(&mut message), Err(RingError::Corrupt));
    // Lengths beyond the ring.
    for length in [u32::MAX, 0x8000_0000, 16_384] {
        let mut long = pair(12_328);
        assert!(long.writer.put(&[b"abc"]).unwrap());
        long.writer
            .memory()
            .1
            .word(0)
            .store(length, Ordering::Relaxed);
        assert_eq!(
            long.reader.take(&mut message),
            Err(RingError::Corrupt),
            "{length}"
        );
    }
    // An index behind the end.
    let mut index = pair(12_328);
    index
        .reader
        .memory()
        .0
        .word(READ_INDEX)
        .store(4096, Ordering::Relaxed);
    assert_eq!(index.writer.put(&[b"abc"]), Err(RingError::Corrupt));
}

#[test]
fn a_shortened_file_ends_the_ring() {
    for which in [0, 1] {
        let mut pair = pair(12_328);
        assert!(pair.writer.put(&[b"abc"]).unwrap());
        let paths: [PathBuf; 2] = paths(&pair._directory.path().join("qb-request-test")).into();
        OpenOptions::new()
            .write(true)
            .open(&paths[which])
            .unwrap()
            .set_len(0)
            .unwrap();
        let mut message = Vec::new();
        assert_eq!(pair.reader.take(&mut message), Err(RingError::Lost));
        assert_eq!(pair.writer.put(&[b"abc"]), Err(RingError::Lost));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A ring is a queue, over any number of turns.
    #[test]
    fn a_ring_is_a_queue(lengths in proptest::collection::vec((0usize..16_400, 1u8..4), 1..60)) {
        let mut pair = pair(12_328);
        let mut queue = VecDeque::new();
        for (number, (length, takes)) in lengths.into_iter().enumerate() {
            let byte = u8::try_from(number % 251).unwrap();
            let message = vec![byte; length];
            let (front, back) = message.split_at(length / 3);
            let room = 16_384 - queue.iter().map(|m: &Vec<u8>| m.len().div_ceil(4) * 4 + 8).sum::<usize>();
            match pair.writer.put(&[front, back]).unwrap() {
                true => queue.push_back(message),
                false => prop_assert!(length + 16 > room, "{length} did not fit in {room}"),
            }
            for _ in 1..takes {
                prop_assert_eq!(pair.taken(), queue.pop_front());
            }
        }
        while let Some(message) = queue.pop_front() {
            prop_assert_eq!(pair.taken(), Some(message));
        }
        prop_assert_eq!(pair.taken(), None);
        prop_assert_eq!(pair.reader.unread(), 0);
    }
}
