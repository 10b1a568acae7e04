//! Writers that keep record of what was acknowledged, for tests that break things meanwhile.
//!
//! Each writer has a directory of its own and knows what has to be in it. A change that failed
//! may or may not have happened: both is allowed then, but nothing in between, and the names
//! concerned are left alone until somebody looks. The last change that was acknowledged on a node
//! before it was cut off is allowed to be lost, where a test says that this happens: messages
//! have their place in the order before it is known who has received them.
//!
//! Invariant: what [`Writer::check`] allows is what a correct file system can show, whatever was
//! killed or cut off.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rand_core::{RngCore as _, SeedableRng as _};
use rand_pcg::Pcg32;

use crate::files;

/// Names of a writer; few, so that most changes meet something.
const NAMES: u32 = 24;
/// Bytes of most files; some are sixteen times as large.
const USUAL_SIZE: u32 = 6_000;

/// Changes that an error shows.
const HISTORY: usize = 400;

/// What is at a name.
#[derive(Clone, PartialEq, Eq)]
enum Content {
    Nothing,
    Directory,
    File(Vec<u8>),
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Directory => f.write_str("a directory"),
            Self::File(data) => {
                let head = String::from_utf8_lossy(&data[..data.len().min(40)]);
                write!(f, "{} bytes beginning {head:?}", data.len())
            }
        }
    }
}

/// One writer: its directory, and what may be at each name. A name that is not listed is free.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    random: Pcg32,
    /// Makes all contents different.
    serial: u64,
    names: BTreeMap<String, Vec<Content>>,
    /// Whether a file can be found empty after a failed replacement.
    in_pieces: bool,
    /// Whether the node loses the others, so that its last acknowledged change can be lost.
    loses_last: bool,
    /// What was possible at the names of the last acknowledged change before it.
    before_last: Vec<(String, Vec<Content>)>,
    /// The last changes, for whoever has to find out what went wrong.
    history: VecDeque<String>,
}

impl Writer {
    /// A writer for a directory that is there and empty.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, seed: u64) -> Self {
        Self {
            dir: dir.into(),
            random: Pcg32::seed_from_u64(seed),
            serial: 0,
            names: BTreeMap::new(),
            in_pieces: false,
            loses_last: false,
            before_last: Vec::new(),
            history: VecDeque::new(),
        }
    }

    /// The same for a daemon that empties a file before it replaces its content, and that can not
    /// grow empty files.
    #[must_use]
    pub fn in_pieces(self) -> Self {
        Self {
            in_pieces: true,
            ..self
        }
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether its node is about to be cut off from the others, or not any more.
    pub fn set_loses_last(&mut self, loses_last: bool) {
        self.loses_last = loses_last;
        self.before_last.clear();
    }

    /// Makes one random change. True when it was acknowledged.
    ///
    /// # Errors
    /// When the change failed. It may have happened all the same.
    pub fn step(&mut self) -> io::Result<()> {
        let name = self.name();
        match self.known(&name) {
            None => Ok(()),
            Some(Content::Nothing) if self.one_in(8) => {
                let path = self.dir.join(&name);
                self.change(&name, Content::Directory, || fs::create_dir(path))
            }
            Some(Content::Nothing) => {
                let path = self.dir.join(&name);
                self.change(&name, Content::File(Vec::new()), || {
                    files::create_new(&path)
                })?;
                self.rewrite(&name)
            }
            Some(Content::Directory) => {
                let path = self.dir.join(&name);
                self.change(&name, Content::Nothing, || fs::remove_dir(path))
            }
            Some(Content::File(old)) => self.change_file(&name, old),
        }
    }

    fn change_file(&mut self, name: &str, old: Vec<u8>) -> io::Result<()> {
        let path = self.dir.join(name);
        match self.random.next_u32() % 8 {
            0 => self.change(name, Content::Nothing, || fs::remove_file(path)),
            1 => {
                let size = self.random.next_u32() % 20_000;
                if self.in_pieces && old.is_empty() {
                    return self.rewrite(name);
                }
                let mut new = old;
                new.resize(usize::try_from(size).unwrap_or_default(), 0);
                self.change(name, Content::File(new), || {
                    files::truncate(&path, i64::from(size))
                })
            }
            2 | 3 => {
                let added = self.content();
                let new = [old, added.clone()].concat();
                if new.len() > 500_000 {
                    return self.rewrite(name);
                }
                self.change(name, Content::File(new), || files::append(&path, &added))
            }
            4 | 5 => self.rename(name, old),
            _ => self.rewrite(name),
        }
    }

    fn rewrite(&mut self, name: &str) -> io::Result<()> {
        let (path, data) = (self.dir.join(name), self.content());
        let result = self.change(name, Content::File(data.clone()), || {
            files::rewrite(&path, &data)
        });
        if self.in_pieces {
            let empty = Content::File(Vec::new());
            match result {
                Ok(()) => self.before_last.push((name.to_owned(), vec![empty])),
                Err(_) => self.names.entry(name.to_owned()).or_default().push(empty),
            }
        }
        result
    }

    fn rename(&mut self, from: &str, data: Vec<u8>) -> io::Result<()> {
        let to = self.name();
        let target = match self.known(&to) {
            Some(target @ (Content::Nothing | Content::File(_))) if to != from => target,
            _ => return Ok(()),
        };
        let result = fs::rename(self.dir.join(from), self.dir.join(&to));
        let moved = Content::File(data.clone());
        let (mut source, mut target) = match result {
            Ok(()) => (vec![Content::Nothing], vec![moved]),
            Err(_) => (
                vec![Content::File(data), Content::Nothing],
                vec![target, moved],
            ),
        };
        self.note(format!("{from} -> {to}: {result:?}"));
        source.dedup();
        target.dedup();
        self.set([(from.to_owned(), source), (to, target)], result.is_ok());
        result
    }

    /// Makes a change of one name and notes how it went.
    fn change(
        &mut self,
        name: &str,
        new: Content,
        make: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let result = make();
        self.note(format!("{name}: {new:?}: {result:?}"));
        let mut possible = vec![new];
        if result.is_err() {
            possible.extend(self.possible(name));
        }
        self.set([(name.to_owned(), possible)], result.is_ok());
        result
    }

    fn possible(&self, name: &str) -> Vec<Content> {
        let known = self.names.get(name).cloned();
        known.unwrap_or(vec![Content::Nothing])
    }

    /// Notes what is possible after a change.
    fn set<const N: usize>(&mut self, changed: [(String, Vec<Content>); N], acknowledged: bool) {
        let before = changed.each_ref().map(|(name, _)| self.possible(name));
        let names = changed.each_ref().map(|(name, _)| name.clone());
        self.names.extend(changed);
        let last = std::mem::take(&mut self.before_last);
        if acknowledged {
            self.before_last = names.into_iter().zip(before).collect();
        } else if self.loses_last {
            for (name, before) in last {
                self.names.entry(name).or_default().extend(before);
            }
        }
    }

    /// What is at a name, if that is certain.
    fn known(&self, name: &str) -> Option<Content> {
        match self.names.get(name).map(Vec::as_slice) {
            None => Some(Content::Nothing),
            Some([content]) => Some(content.clone()),
            Some(_) => None,
        }
    }

    /// Fails unless the directory, seen as `dir`, holds what was acknowledged and nothing else.
    /// What was uncertain is what was found from now on.
    ///
    /// # Errors
    /// All differences.
    pub fn check(&mut self, dir: &Path) -> Result<()> {
        let found = read(dir)?;
        let mut wrong = Vec::new();
        for name in found.keys().filter(|name| !self.names.contains_key(*name)) {
            wrong.push(format!("{name} was never made"));
        }
        for (name, possible) in &mut self.names {
            let seen = found.get(name).unwrap_or(&Content::Nothing);
            if possible.contains(seen) {
                *possible = vec![seen.clone()];
            } else {
                wrong.push(format!("{name}: {seen:?}, not {possible:?}"));
            }
        }
        if !wrong.is_empty() {
            let history = self.history.make_contiguous().join("\n  ");
            bail!(
                "{}:\n  {}\nthe last changes were:\n  {history}",
                dir.display(),
                wrong.join("\n  ")
            );
        }
        Ok(())
    }

    fn note(&mut self, change: String) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(change);
    }

    fn name(&mut self) -> String {
        format!("{}.cfg", self.random.next_u32() % NAMES)
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.random.next_u32().is_multiple_of(count)
    }

    fn content(&mut self) -> Vec<u8> {
        self.serial += 1;
        let factor = if self.one_in(16) { 16 } else { 1 };
        let size = 1 + self.random.next_u32() % (USUAL_SIZE * factor);
        let line = format!("{} {}\n", self.dir.display(), self.serial);
        let count = usize::try_from(size).unwrap_or_default();
        line.bytes().cycle().take(count).collect()
    }
}

fn read(dir: &Path) -> Result<BTreeMap<String, Content>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let content = if entry.file_type()?.is_dir() {
            Content::Directory
        } else {
            let data = fs::read(entry.path());
            Content::File(data.with_context(|| format!("cannot read {name}"))?)
        };
        found.insert(name, content);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_keeps_its_promise_passes() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(dir.path(), 1);
        for _ in 0..500 {
            writer.step().unwrap();
        }
        writer.check(dir.path()).unwrap();
    }

    #[test]
    fn a_lost_or_torn_change_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(dir.path(), 2);
        for _ in 0..100 {
            writer.step().unwrap();
        }
        let file = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.is_file() && path.metadata().unwrap().len() > 1)
            .unwrap();
        let data = fs::read(&file).unwrap();
        fs::write(&file, &data[1..]).unwrap();
        writer.check(dir.path()).unwrap_err();
        fs::remove_file(&file).unwrap();
        writer.check(dir.path()).unwrap_err();
        fs::write(&file, &data).unwrap();
        writer.check(dir.path()).unwrap();
    }

    #[test]
    fn a_failed_change_may_have_happened() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(dir.path().join("missing"), 3);
        while writer.step().is_ok() {}
        writer.check(dir.path()).unwrap();
    }

    #[test]
    fn a_node_that_is_cut_off_may_lose_its_last_acknowledged_change_and_no_other() {
        for loses_last in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = Writer::new(dir.path(), 4);
            let file = |data: &[u8]| Content::File(data.to_vec());
            let path = dir.path().join("a");
            writer.set_loses_last(loses_last);
            for data in [b"one", b"two"] {
                writer
                    .change("a", file(data), || fs::write(&path, data))
                    .unwrap();
            }
            let refused = || Err(io::Error::from_raw_os_error(libc::EACCES));
            writer.change("b", file(b"x"), refused).unwrap_err();
            fs::write(&path, "one").unwrap();
            assert_eq!(writer.check(dir.path()).is_ok(), loses_last);
            fs::remove_file(&path).unwrap();
            writer.check(dir.path()).unwrap_err();
        }
    }
}
