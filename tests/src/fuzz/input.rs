//! How bytes become input: steps of a history, and the shape of an outcome.

use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hasher as _};

/// Letters of an outcome that count.
const SHAPE_LEN: usize = 120;

/// One step of a history: what to do, and with which bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What to do; targets take it modulo the number of things that they can do.
    pub op: u8,
    /// With what.
    pub bytes: Vec<u8>,
}

impl Step {
    /// A step.
    #[must_use]
    pub fn new(op: u8, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            op,
            bytes: bytes.into(),
        }
    }
}

/// Reads steps: a number, a length in two bytes, and so many bytes. The last one may be cut.
#[must_use]
pub fn steps(mut input: &[u8]) -> Vec<Step> {
    let mut steps = Vec::new();
    while let [op, low, high, rest @ ..] = input {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (bytes, next) = rest.split_at(len);
        steps.push(Step::new(*op, bytes));
        input = next;
    }
    steps
}

/// Writes steps, those of more than 65,535 bytes cut.
#[must_use]
pub fn join(steps: &[Step]) -> Vec<u8> {
    let mut out = Vec::new();
    for step in steps {
        let len = u16::try_from(step.bytes.len()).unwrap_or(u16::MAX);
        out.push(step.op);
        out.extend(len.to_le_bytes());
        out.extend(&step.bytes[..usize::from(len)]);
    }
    out
}

/// Takes numbers and slices from the front of a step's bytes; zeros when they are used up.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let [first, rest @ ..] = self.0 else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// Two bytes.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// An index into something of that length, 0 if that is empty.
    pub fn index(&mut self, len: usize) -> usize {
        usize::from(self.short()).checked_rem(len).unwrap_or(0)
    }

    /// Everything else.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Changes `bytes`: an offset in two bytes and what to put there, until nothing is left.
    pub fn patch(mut self, bytes: &mut [u8]) {
        while self.0.len() >= 3 {
            let at = self.index(bytes.len());
            let value = self.byte();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
    }
}

/// The outcome of a run, boiled down to what tells kinds of it apart: inputs with a new one are
/// worth mutating further.
#[derive(Debug, Default)]
pub struct Shape(DefaultHasher);

impl Shape {
    /// Counts in the letters of what `value` prints for debugging, numbers left out.
    pub fn note(&mut self, value: &impl fmt::Debug) {
        let mut letters = Letters {
            hasher: &mut self.0,
            left: SHAPE_LEN,
        };
        let is_whole = write!(letters, "{value:?}").is_ok();
        self.0.write_u8(is_whole.into());
    }

    /// A number for it.
    #[must_use]
    pub fn finish(&self) -> u64 {
        self.0.finish()
    }
}

/// The shape of one value.
#[must_use]
pub fn shape(value: &impl fmt::Debug) -> u64 {
    let mut shape = Shape::default();
    shape.note(value);
    shape.finish()
}

struct Letters<'a> {
    hasher: &'a mut DefaultHasher,
    left: usize,
}

impl fmt::Write for Letters<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes().filter(u8::is_ascii_alphabetic) {
            self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
            self.hasher.write_u8(byte);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_as_written_and_cut_where_they_end() {
        let all = vec![
            Step::new(3, *b"abc"),
            Step::new(200, []),
            Step::new(0, *b"x"),
        ];
        let bytes = join(&all);
        assert_eq!(steps(&bytes), all);
        assert_eq!(steps(&bytes[..5])[0], Step::new(3, *b"ab"));
        assert_eq!(steps(&[1, 2]), []);
    }

    #[test]
    fn shapes_leave_numbers_out() {
        assert_eq!(shape(&Some(1)), shape(&Some(2)));
        assert_ne!(shape(&Some(1)), shape(&None::<u8>));
    }
}
