//! Changes of inputs that know how inputs are built.

use super::input::{Step, join, steps};
use crate::sim::rng::Rng;

/// Longest input that is made.
pub const INPUT_MAX: usize = 64 << 10;
/// Most changes of one input.
const CHANGES_MAX: u64 = 6;
/// Longest block that is doubled or taken away.
const BLOCK_MAX: u64 = 256;

/// How inputs of a target are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A message: numbers and lengths at fixed places.
    Message,
    /// Steps of a history, see [`super::input::steps`].
    Steps,
    /// Lines of a configuration.
    Text,
}

/// Numbers at the borders of what fields can hold.
const BORDERS: [u64; 24] = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    15,
    16,
    31,
    32,
    63,
    64,
    127,
    128,
    255,
    256,
    384,
    1024,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX,
];
const WORDS: [&str; 20] = [
    "0",
    "1",
    "-1",
    "65536",
    "4294967295",
    "4294967296",
    "99999999999999999999",
    "yes",
    "no",
    "{",
    "}",
    "#",
    ":",
    "\0",
    "\t",
    "node {",
    "interface {",
    "10.77.0.1",
    "::1",
    "\u{fffd}",
];

/// Makes a new input from `parent`, with pieces of `other`.
#[must_use]
pub fn mutate(rng: &mut Rng, form: Form, parent: &[u8], other: &[u8]) -> Vec<u8> {
    let mut input = parent.to_vec();
    for _ in 0..rng.between(1, CHANGES_MAX) {
        input = match form {
            Form::Message => message(rng, input, other),
            Form::Steps => history(rng, &input, other),
            Form::Text => text(rng, input, other),
        };
    }
    input.truncate(INPUT_MAX);
    input
}

fn message(rng: &mut Rng, mut input: Vec<u8>, other: &[u8]) -> Vec<u8> {
    let len = input.len();
    match rng.below(10) {
        0 => {
            if let Some(byte) = input.get_mut(rng.index(len)) {
                *byte ^= 1 << rng.below(8);
            }
        }
        1 => {
            let value = *rng.pick(&BORDERS);
            put_number(rng, &mut input, value);
        }
        2 => put_length(rng, &mut input),
        3 => nudge_number(rng, &mut input),
        4 => {
            let (from, to) = block(rng, len);
            let copy = input[from..to].to_vec();
            let at = rng.index(len + 1);
            input.splice(at..at, copy);
        }
        5 => {
            let (from, to) = block(rng, len);
            input.drain(from..to);
        }
        6 => input.truncate(rng.index(len + 1)),
        7 => {
            let (keep, from) = (rng.index(len + 1), rng.index(other.len() + 1));
            input.truncate(keep);
            input.extend(&other[from..]);
        }
        8 => {
            let (from, to) = block(rng, other.len());
            let at = rng.index(len + 1);
            let end = (at + to - from).min(len);
            input.splice(at..end, other[from..to].iter().copied());
        }
        _ => {
            let at = rng.index(len + 1);
            let count = rng.between(1, 16);
            let bytes: Vec<u8> = (0..count).map(|_| byte(rng)).collect();
            input.splice(at..at, bytes);
        }
    }
    input
}

fn byte(rng: &mut Rng) -> u8 {
    u8::try_from(rng.below(256)).unwrap_or(0)
}

/// Overwrites 1, 2, 4 or 8 bytes, mostly where fields of that size usually are.
fn put_number(rng: &mut Rng, input: &mut [u8], value: u64) {
    let width = *rng.pick(&[1, 2, 4, 4, 4, 8]);
    let mut at = rng.index(input.len());
    if rng.chance(700) {
        at -= at % width;
    }
    let bytes = value.to_le_bytes();
    for (byte, new) in input.iter_mut().skip(at).zip(&bytes[..width]) {
        *byte = *new;
    }
}

/// Writes the number of bytes behind some place, or a number near it: lengths that almost fit.
fn put_length(rng: &mut Rng, input: &mut [u8]) {
    let behind = input.len() - rng.index(input.len() + 1);
    let near = (behind as u64).wrapping_add(rng.below(5)).wrapping_sub(2);
    put_number(rng, input, near);
}

fn nudge_number(rng: &mut Rng, input: &mut [u8]) {
    let at = rng.index(input.len()) & !3;
    let Some(field) = input.get_mut(at..at + 4) else {
        return;
    };
    let mut bytes = [0; 4];
    bytes.copy_from_slice(field);
    let step = u32::try_from(rng.between(1, 8)).unwrap_or(1);
    let number = u32::from_le_bytes(bytes);
    let new = if rng.chance(500) {
        number.wrapping_add(step)
    } else {
        number.wrapping_sub(step)
    };
    field.copy_from_slice(&new.to_le_bytes());
}

fn block(rng: &mut Rng, len: usize) -> (usize, usize) {
    let from = rng.index(len + 1);
    let wanted = usize::try_from(rng.between(1, BLOCK_MAX)).unwrap_or(1);
    (from, (from + wanted).min(len))
}

fn history(rng: &mut Rng, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut all = steps(input);
    let others = steps(other);
    let at = rng.index(all.len() + 1);
    match rng.below(7) {
        0 => {
            if let Some(step) = all.get(rng.index(all.len())).cloned() {
                all.insert(at, step);
            }
        }
        1 if at < all.len() => {
            all.remove(at);
        }
        2 if at < all.len() => {
            let with = rng.index(all.len());
            all.swap(at, with);
        }
        3 => {
            if let Some(step) = others.get(rng.index(others.len())).cloned() {
                all.insert(at, step);
            }
        }
        4 => {
            let time = u16::try_from(rng.below(4000)).unwrap_or(0);
            all.insert(at, Step::new(byte(rng) % 16, time.to_le_bytes()));
        }
        5 if at < all.len() => all[at].op = byte(rng) % 16,
        _ if at < all.len() => {
            let piece = others
                .get(rng.index(others.len()))
                .map_or(&[][..], |step| &step.bytes);
            all[at].bytes = message(rng, std::mem::take(&mut all[at].bytes), piece);
        }
        _ => {}
    }
    join(&all)
}

fn text(rng: &mut Rng, input: Vec<u8>, other: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = split_lines(&input);
    let others = split_lines(other);
    let at = rng.index(lines.len());
    match rng.below(8) {
        0 | 1 if !lines.is_empty() => {
            let word = rng.pick(&WORDS).as_bytes();
            let line = &mut lines[at];
            let colon = line.iter().position(|byte| *byte == b':');
            line.truncate(colon.map_or(0, |colon| colon + 1));
            line.extend(word);
            line.push(b'\n');
        }
        2 if !lines.is_empty() => {
            lines.remove(at);
        }
        3 if !lines.is_empty() => {
            let copy = lines[rng.index(lines.len())].clone();
            lines.insert(at, copy);
        }
        4 if !lines.is_empty() => {
            let with = rng.index(lines.len());
            lines.swap(at, with);
        }
        5 if !others.is_empty() => lines.insert(at, others[rng.index(others.len())].clone()),
        6 if !lines.is_empty() => {
            let word = rng.pick(&WORDS).as_bytes();
            let place = rng.index(lines[at].len() + 1);
            lines[at].splice(place..place, word.iter().copied());
        }
        _ => return message(rng, input, other),
    }
    lines.concat()
}

fn split_lines(text: &[u8]) -> Vec<Vec<u8>> {
    text.split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_can_be_changed_from_nothing_on() {
        let mut rng = Rng::new(1);
        for form in [Form::Message, Form::Steps, Form::Text] {
            let mut input = Vec::new();
            for _ in 0..20_000 {
                input = mutate(&mut rng, form, &input, b"\x01\x02\x00ab{\n}\nkey: value\n");
                input.truncate(2000);
            }
        }
    }
}
