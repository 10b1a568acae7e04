//! Whether a descriptor remains that a closed one was a copy of.
//!
//! The kernel reports every `close` of a descriptor, also of copies made by `dup` and `fork`. A
//! shell that redirects output opens the file, copies the descriptor and closes the original
//! before anything is written: publishing then would show an empty file to the whole cluster. So
//! the descriptors of the processes concerned are looked at, as `/proc` shows them.
//!
//! A wrong "remains" only delays the operation until the kernel drops the file, right after. A
//! wrong "none remains" publishes early, which is what closing means to most file systems.

use std::{fs, os::unix::ffi::OsStringExt, path::Path};

use crate::fs::FlushProbe;

/// Descriptors looked at in one process.
const DESCRIPTORS_MAX: usize = 4096;

/// What follows the path of a removed file in a link of `/proc`.
const DELETED: &[u8] = b" (deleted)";

/// Whether another descriptor of the probed open file remains in the closing process `pid`, in
/// one that opened or wrote it, or, if the file would be left empty, in a child of the closing one.
///
/// A process that wrote something and closes the file, without others that have it, means the
/// close: nothing is looked up for it.
pub(super) fn remains(probe: &FlushProbe, pid: u32) -> bool {
    if !probe.emptied && probe.pids.iter().all(|known| *known == pid) {
        return false;
    }
    let mut pids = probe.pids.clone();
    pids.retain(|known| *known != pid);
    if pid != 0 {
        pids.insert(0, pid);
    }
    let mut found = 0;
    let mut count = |pid: &u32| {
        found += descriptors(probe, *pid);
        found > probe.others
    };
    if pids.iter().any(&mut count) {
        return true;
    }
    probe.emptied && pid != 0 && children(pid).iter().any(count)
}

/// Descriptors of a process that look like one of the probed open file.
fn descriptors(probe: &FlushProbe, pid: u32) -> usize {
    let process = Path::new("/proc").join(pid.to_string());
    let Ok(links) = fs::read_dir(process.join("fd")) else {
        return 0;
    };
    let links = links.take(DESCRIPTORS_MAX).flatten();
    let matching = links.filter(|link| {
        let Ok(target) = fs::read_link(link.path()) else {
            return false;
        };
        let info = process.join("fdinfo").join(link.file_name());
        has_name(&target.into_os_string().into_vec(), &probe.name)
            && fs::read(info).is_ok_and(|info| is_same(&info, probe))
    });
    matching.count()
}

fn has_name(target: &[u8], name: &[u8]) -> bool {
    let target = target.strip_suffix(DELETED).unwrap_or(target);
    target.starts_with(b"/")
        && target.ends_with(name)
        && target[..target.len() - name.len()].ends_with(b"/")
}

/// Compares the `flags` (octal) and `ino` lines of a descriptor.
fn is_same(info: &[u8], probe: &FlushProbe) -> bool {
    let Ok(info) = std::str::from_utf8(info) else {
        return false;
    };
    let field = |key: &str| {
        let mut lines = info.lines();
        lines.find_map(|line| line.strip_prefix(key).map(str::trim))
    };
    let flags = field("flags:").and_then(|flags| i32::from_str_radix(flags, 8).ok());
    let same_flags = flags.is_some_and(|flags| {
        let kept = flags & (libc::O_ACCMODE | libc::O_APPEND);
        kept == probe.flags
    });
    // Kernels before 5.14 do not tell the inode; the name has to do then.
    let ino = field("ino:").and_then(|ino| ino.parse::<u64>().ok());
    same_flags && ino.is_none_or(|ino| ino == probe.ino)
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

    use bytes::Bytes;

    use super::*;

    #[test]
    fn names_match_whole_components_also_of_removed_files() {
        assert!(has_name(b"/etc/pve/a", b"a"));
        assert!(has_name(b"/etc/pve/a (deleted)", b"a"));
        assert!(!has_name(b"/etc/pve/ba", b"a"));
        assert!(!has_name(b"socket:[7]", b"socket:[7]"));
    }

    #[test]
    fn copies_count_and_descriptors_of_other_handles_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = fs::File::create(dir.path().join("copied")).unwrap();
        let mut probe = FlushProbe {
            ino: file.metadata().unwrap().ino(),
            flags: libc::O_WRONLY,
            pids: vec![],
            others: 0,
            name: Bytes::from_static(b"copied"),
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
            pids: vec![],
            others: 0,
            name: Bytes::new(),
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
