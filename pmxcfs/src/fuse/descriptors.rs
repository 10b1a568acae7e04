//! Whether a descriptor remains that a closed one was a copy of.
//!
//! The kernel reports every `close` of a descriptor, also of copies made by `dup` and `fork`. A
//! shell that redirects output opens the file, copies the descriptor and closes the original
//! before anything is written: publishing then would show an empty file to the whole cluster. So
//! the descriptors of the processes concerned are looked at, as `/proc` shows them.
//!
//! A wrong "remains" only delays the operation until the kernel drops the file, right after. A
//! wrong "none remains" publishes early: another node may see half of what is being written. So
//! where a process closes that did not write, as each new process does with the copies that it
//! got, any descriptor of the writer that may be the one counts as it.
//!
//! Limit: processes outside this one's PID namespace have no number here and are taken for one. Where
//! the daemon runs in a container and files are written from outside of it, a new process there that
//! closes a copy in the middle of another one's writing publishes what is there.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read,
    path::Path,
};

use crate::fs::FlushProbe;

/// Descriptors looked at in one process, lowest first: shells redirect low ones, and a look costs
/// some microseconds.
const DESCRIPTORS_MAX: usize = 128;

/// The same in a process that wrote and goes on writing, and before a file is left empty: it is
/// rare and worth it.
const DESCRIPTORS_MAX_CAREFUL: usize = 4096;

/// More than the lines of a descriptor that matter here.
const INFO_BYTES: usize = 256;

/// Generations looked at above a process that closes.
const ANCESTORS_MAX: usize = 4;

/// Processes looked at before a file is left empty.
const RELATIVES_MAX: usize = 64;

/// Whether another descriptor of the probed open file remains in the closing process `pid`, in
/// one that opened or wrote it, or, if the file would be left empty, in a relative of these.
///
/// A process that wrote something and closes the file, without others that have it, means the
/// close: nothing is looked up for it.
pub(super) fn remains(probe: &FlushProbe, pid: u32) -> bool {
    let known = [probe.opener, probe.writer].map(|known| if known == 0 { pid } else { known });
    if !probe.emptied && known == [pid; 2] {
        return false;
    }
    let editor = if probe.writer == 0 {
        probe.opener
    } else {
        probe.writer
    };
    if editor != 0 && !is_same_process(editor, pid) {
        let held = matching(probe, editor, DESCRIPTORS_MAX_CAREFUL).next();
        if held.is_some() {
            return true;
        }
    }
    let max = if probe.emptied {
        DESCRIPTORS_MAX_CAREFUL
    } else {
        DESCRIPTORS_MAX
    };
    let pids = vec![pid, probe.opener, probe.writer];
    let mut checked = BTreeSet::from([0]);
    let mut found = 0;
    let mut is_enough = |pids: &[u32]| {
        let new = pids.iter().filter(|pid| checked.insert(**pid));
        found += new
            .map(|pid| matching(probe, *pid, max).count())
            .sum::<usize>();
        found > probe.others
    };
    is_enough(&pids) || probe.emptied && is_enough(&relatives(pids))
}

/// Whether two threads share their descriptors. What the kernel tells is the thread.
fn is_same_process(one: u32, other: u32) -> bool {
    one == other
        || process(one).is_some_and(|process_of_one| Some(process_of_one) == process(other))
}

fn process(thread: u32) -> Option<u32> {
    status(thread, "Tgid:")
}

/// Ancestors and descendants of processes, as far as descriptors are usually passed.
fn relatives(pids: Vec<u32>) -> Vec<u32> {
    let mut all = pids;
    let mut next = all.first().copied();
    for _ in 0..ANCESTORS_MAX {
        next = next.and_then(parent).filter(|pid| *pid > 1);
        all.extend(next);
    }
    let mut at = 0;
    while at < all.len().min(RELATIVES_MAX) {
        let children = children(all[at]);
        let new = children.into_iter().filter(|pid| !all.contains(pid));
        all.extend(new.collect::<Vec<_>>());
        at += 1;
    }
    all.truncate(RELATIVES_MAX);
    all
}

/// Descriptors of a process, of at most `max`, that look like one of the probed open file.
///
/// Only `fdinfo` is read. The links in `fd` would tell the path, but following them waits for a
/// process that is in the middle of `execve`, and that may be the one that waits for us: it closes
/// its close-on-exec descriptors then.
fn matching(probe: &FlushProbe, pid: u32, max: usize) -> impl Iterator<Item = fs::DirEntry> {
    let infos = Path::new("/proc").join(pid.to_string()).join("fdinfo");
    let infos = fs::read_dir(infos).into_iter().flatten().flatten();
    infos.take(max).filter(|info| {
        let mut start = [0; INFO_BYTES];
        let read = File::open(info.path()).and_then(|mut info| info.read(&mut start));
        read.is_ok_and(|len| is_same(&start[..len], probe))
    })
}

/// Compares the `flags` (octal) and `ino` lines of a descriptor.
fn is_same(info: &[u8], probe: &FlushProbe) -> bool {
    let info = String::from_utf8_lossy(info);
    let field = |key: &str| {
        let mut lines = info.lines();
        lines.find_map(|line| line.strip_prefix(key).map(str::trim))
    };
    let flags = field("flags:").and_then(|flags| i32::from_str_radix(flags, 8).ok());
    let same_flags = flags.is_some_and(|flags| {
        let kept = flags & (libc::O_ACCMODE | libc::O_APPEND);
        kept == probe.flags
    });
    // Of any file system: one that has the same number by chance only delays. Kernels before 5.14
    // do not tell it; each writable descriptor delays there.
    let ino = field("ino:").and_then(|ino| ino.parse::<u64>().ok());
    same_flags && ino.is_none_or(|ino| ino == probe.ino)
}

fn parent(pid: u32) -> Option<u32> {
    status(pid, "PPid:")
}

/// A number that is told of a process.
fn status(pid: u32, key: &str) -> Option<u32> {
    let status = Path::new("/proc").join(pid.to_string()).join("status");
    let status = fs::read_to_string(status).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().parse().ok()
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
            pids.collect::<Vec<u32>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn copies_count_and_descriptors_of_other_handles_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("copied")).unwrap();
        let mut probe = FlushProbe {
            ino: file.metadata().unwrap().ino(),
            flags: libc::O_WRONLY,
            opener: 0,
            writer: 0,
            others: 0,
            emptied: true,
        };
        let me = std::process::id();
        assert!(remains(&probe, me));
        assert!(!remains(&probe, 0));
        probe.others = 1;
        assert!(!remains(&probe, me));
        let copy = file.try_clone().unwrap();
        assert!(remains(&probe, me));
        drop((copy, file));
        probe.others = 0;
        assert!(!remains(&probe, me));
    }

    #[test]
    fn appending_and_reading_descriptors_are_others() {
        let probe = FlushProbe {
            ino: 5,
            flags: libc::O_WRONLY | libc::O_APPEND,
            opener: 0,
            writer: 0,
            others: 0,
            emptied: false,
        };
        assert!(is_same(
            b"pos:\t0\nflags:\t02102001\nmnt_id:\t5\nino:\t5\n",
            &probe
        ));
        assert!(!is_same(
            b"pos:\t0\nflags:\t0100001\nmnt_id:\t5\nino:\t5\n",
            &probe
        ));
        assert!(!is_same(
            b"pos:\t0\nflags:\t02102001\nmnt_id:\t5\nino:\t6\n",
            &probe
        ));
        assert!(is_same(b"pos:\t0\nflags:\t02102001\n", &probe));
    }
}
