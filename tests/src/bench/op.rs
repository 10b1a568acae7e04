//! The operations that are measured.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use serde::Serialize;

use super::target::{LIST_ENTRIES, READ_FILES, READ_SIZE};
use crate::wait::now;

/// Size of a typical small configuration file.
const SMALL: usize = 400;
/// One appended line.
const LINE: usize = 64;
/// The big file, and the pieces in which it is written.
const BIG: usize = 512 * 1024;
const PIECE: usize = 4096;
/// Writers at the same time.
const WRITERS: u32 = 16;
/// The big operation is done once for so many of the others.
const OPS_PER_BIG: u32 = 50;

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Make a file of 400 bytes.
    Create,
    /// Write 400 bytes to a temporary file and rename it over an existing one.
    Replace,
    /// Append 64 bytes to a file.
    Append,
    /// Open a file of 4 KiB, read it, close it.
    Read,
    /// Attributes of a file.
    Stat,
    /// List a directory of 100 entries.
    Readdir,
    /// Make a directory and remove it.
    Mkdir,
    /// Write 512 KiB to a file, 4 KiB at a time.
    Big,
    /// Sixteen writers, each writing a file of its own anew (open, truncate, write, close).
    Parallel,
    /// Sixteen writers, each replacing a file of its own by tmp+rename, all in one directory.
    Replacers,
}

impl Op {
    /// All kinds, in the order in which they are measured.
    pub const ALL: [Self; 10] = [
        Self::Create,
        Self::Replace,
        Self::Append,
        Self::Read,
        Self::Stat,
        Self::Readdir,
        Self::Mkdir,
        Self::Big,
        Self::Parallel,
        Self::Replacers,
    ];

    /// Name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Append => "append",
            Self::Read => "read",
            Self::Stat => "stat",
            Self::Readdir => "readdir",
            Self::Mkdir => "mkdir+rmdir",
            Self::Big => "512K by 4K",
            Self::Parallel => "16 writers",
            Self::Replacers => "16 replacers",
        }
    }

    /// Whether it changes the tree.
    #[must_use]
    pub fn is_change(self) -> bool {
        !matches!(self, Self::Read | Self::Stat | Self::Readdir)
    }

    /// How many of this kind a round of `ops` has.
    pub(super) fn count(self, ops: u32) -> u32 {
        match self {
            Self::Big => ops.div_ceil(OPS_PER_BIG),
            Self::Parallel | Self::Replacers => ops.next_multiple_of(WRITERS),
            _ => ops,
        }
    }

    /// Makes what the operation expects to find.
    pub(super) fn prepare(self, work: &Path, _count: u32) -> Result<()> {
        match self {
            Self::Replace => fs::write(file(work, 0), b"old")?,
            Self::Append => fs::write(file(work, 0), b"")?,
            Self::Parallel | Self::Replacers => {
                for writer in 0..WRITERS {
                    fs::write(file(work, writer), b"old")?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Does it `count` times and gives the duration of each.
    pub(super) fn run(self, work: &Path, count: u32) -> Result<Vec<Duration>> {
        match self {
            Self::Parallel => return parallel(work, count / WRITERS, rewrite),
            Self::Replacers => return parallel(work, count / WRITERS, replace),
            _ => {}
        }
        (0..count).map(|i| timed(|| self.once(work, i))).collect()
    }

    fn once(self, work: &Path, i: u32) -> Result<()> {
        match self {
            Self::Create => create(&file(work, i), &content(i)),
            Self::Replace | Self::Replacers => replace(&file(work, 0), &content(i)),
            Self::Parallel => rewrite(&file(work, 0), &content(i)),
            Self::Append => append(&file(work, 0), i),
            Self::Read => read(&work.join(format!("read/{}", i % READ_FILES))),
            Self::Stat => stat(&work.join(format!("read/{}", i % READ_FILES))),
            Self::Readdir => list(&work.join("list")),
            Self::Mkdir => {
                let dir = work.join("write/d");
                fs::create_dir(&dir)?;
                Ok(fs::remove_dir(&dir)?)
            }
            Self::Big => big(&file(work, i)),
        }
    }

    /// A benchmark of writes that were lost would be worthless.
    pub(super) fn check(self, work: &Path, count: u32) -> Result<()> {
        let last = count.saturating_sub(1);
        match self {
            Self::Create => same(&file(work, last), &content(last)),
            Self::Replace => same(&file(work, 0), &content(last)),
            Self::Append => {
                let lines: Vec<u8> = (0..count).flat_map(line).collect();
                same(&file(work, 0), &lines)
            }
            Self::Big => same(&file(work, last), &vec![b'b'; BIG]),
            Self::Parallel | Self::Replacers => {
                let last = content(count / WRITERS - 1);
                (0..WRITERS).try_for_each(|writer| same(&file(work, writer), &last))
            }
            Self::Read | Self::Stat | Self::Readdir | Self::Mkdir => Ok(()),
        }
    }

    /// Removes what the operation left.
    pub(super) fn tidy(self, work: &Path) -> Result<()> {
        if !self.is_change() {
            return Ok(());
        }
        for entry in fs::read_dir(work.join("write"))? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }
}

fn timed(operation: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = now();
    operation()?;
    Ok(start.elapsed())
}

fn parallel(
    work: &Path,
    each: u32,
    change: fn(&Path, &[u8]) -> Result<()>,
) -> Result<Vec<Duration>> {
    let barrier = Barrier::new(usize::try_from(WRITERS)?);
    let one = |writer: u32| -> Result<Vec<Duration>> {
        let path = file(work, writer);
        barrier.wait();
        (0..each)
            .map(|i| timed(|| change(&path, &content(i))))
            .collect()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || one(writer)))
            .collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| anyhow!("a writer panicked"))??);
        }
        Ok(all)
    })
}

fn file(work: &Path, i: u32) -> PathBuf {
    work.join(format!("write/{i}"))
}

/// Content that differs from one operation to the next, so that none is a change of nothing.
fn content(i: u32) -> Vec<u8> {
    let mut text = format!("# change {i}\n").into_bytes();
    text.resize(SMALL, b'c');
    text
}

fn line(i: u32) -> Vec<u8> {
    let mut text = format!("line {i}").into_bytes();
    text.resize(LINE - 1, b' ');
    text.push(b'\n');
    text
}

fn create(path: &Path, data: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    Ok(file.write_all(data)?)
}

fn replace(path: &Path, data: &[u8]) -> Result<()> {
    let tmp = path.with_extension("tmp");
    create(&tmp, data)?;
    Ok(fs::rename(&tmp, path)?)
}

fn rewrite(path: &Path, data: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
    Ok(file.write_all(data)?)
}

fn append(path: &Path, i: u32) -> Result<()> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    Ok(file.write_all(&line(i))?)
}

fn read(path: &Path) -> Result<()> {
    let mut buffer = [0; READ_SIZE];
    File::open(path)?.read_exact(&mut buffer)?;
    black_box(buffer);
    Ok(())
}

fn stat(path: &Path) -> Result<()> {
    black_box(fs::symlink_metadata(path)?);
    Ok(())
}

fn list(path: &Path) -> Result<()> {
    let count = fs::read_dir(path)?.count();
    ensure!(
        Ok(count) == usize::try_from(LIST_ENTRIES),
        "{count} entries listed"
    );
    Ok(())
}

fn big(path: &Path) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    for _ in 0..BIG / PIECE {
        file.write_all(&[b'b'; PIECE])?;
    }
    Ok(())
}

fn same(path: &Path, expected: &[u8]) -> Result<()> {
    let found = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(
        found == expected,
        "{} does not hold what was written",
        path.display()
    );
    Ok(())
}
