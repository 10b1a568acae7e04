//! What happened: the last lines for the reader, all of them if wanted, and a hash of everything.

use std::{
    collections::VecDeque,
    fmt,
    hash::{DefaultHasher, Hash, Hasher as _},
};

/// Lines that are kept.
const KEPT: usize = 400;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Journal {
    hasher: DefaultHasher,
    last: VecDeque<String>,
    /// Prints each line at once.
    pub(super) is_loud: bool,
}

impl Journal {
    /// Something worth a line. Node 0: the world.
    pub(super) fn say(&mut self, at: u64, node: u32, text: fmt::Arguments<'_>) {
        let us = at / 1000;
        let line = format!("{:5}.{:06} n{node} {text}", us / 1_000_000, us % 1_000_000);
        line.hash(&mut self.hasher);
        if self.is_loud {
            println!("{line}");
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// Something that counts for the hash alone.
    pub(super) fn mix(&mut self, event: impl Hash) {
        event.hash(&mut self.hasher);
    }

    /// Hash of all events so far.
    pub(super) fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    /// The last lines.
    pub(super) fn lines(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }
}
