//! Ports that are given out for one transfer each.
//!
//! Programs that listen for a transfer take turns by a lock and note the port they took in a file,
//! with the time; a port noted less than five seconds ago is not taken by another, whose peer might
//! otherwise be answered by the wrong one. File and lock are those of the original's tools.
//!
//! Invariant: the note is nobody's way into another file: it is replaced, never followed.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::lock::NodeLock;
use super::{Paths, calendar, files};
use crate::failure::{Failure, Outcome};

/// Ports for moving guests.
const FIRST: u16 = 60000;
/// The first port behind them.
const END: u16 = 60050;
/// How many seconds a port is kept for the one who noted it.
const KEPT_FOR: u64 = 5;
/// No note is longer.
const NOTE_MAX: u64 = 64 * 1024;

/// Listens on the first port for transfers that is free on `ip`.
///
/// # Errors
/// When none is free, or the lock or the note can not be written.
pub fn listen(paths: &Paths, ip: IpAddr) -> Outcome<TcpListener> {
    let note = paths.at("var/tmp/pve-reserved-ports");
    let _turn = NodeLock::take(&paths.at("var/lock/pve-ports.lck"))?;
    let now = calendar().as_secs();
    let mut noted = read(&note, now);
    let free = (FIRST..END).filter(|port| !noted.contains_key(port));
    let (mut listener, mut refused) = (None, None);
    for port in free {
        match TcpListener::bind((ip, port)) {
            Ok(bound) => {
                noted.insert(port, now);
                listener = Some(bound);
                break;
            }
            Err(error) => refused = Some(error),
        }
    }
    let listener = listener.ok_or_else(|| {
        let why = refused.map_or_else(
            || "all are reserved; try again in some seconds".to_owned(),
            |error| error.to_string(),
        );
        Failure::failed(format!(
            "unable to find free port ({FIRST}-{END}) on {ip}: {why}"
        ))
    })?;
    let written = write(&note, &noted);
    written.map_err(|error| files::failed("write", &note, &error))?;
    Ok(listener)
}

/// Ports that are noted and still kept. A note that is not ours says nothing.
fn read(path: &Path, now: u64) -> BTreeMap<u16, u64> {
    let text = || -> io::Result<String> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        if file.metadata()?.uid() != nix::unistd::geteuid().as_raw() {
            return Ok(String::new());
        }
        let mut text = String::new();
        file.take(NOTE_MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = text().unwrap_or_default();
    let line = |line: &str| -> Option<(u16, u64)> {
        let (port, time) = line.split_once(' ')?;
        Some((port.parse().ok()?, time.parse().ok()?))
    };
    let lines = text.lines().filter_map(line);
    lines
        .filter(|(_, time)| now < time.saturating_add(KEPT_FOR))
        .collect()
}

fn write(path: &Path, noted: &BTreeMap<u16, u64>) -> io::Result<()> {
    let lines = noted.iter().map(|(port, time)| format!("{port} {time}\n"));
    let beside = path.with_extension(format!("tmp.{}", std::process::id()));
    // Left by a process of the same number that was killed.
    drop(std::fs::remove_file(&beside));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(files::PUBLIC)
        .open(&beside)?;
    file.write_all(lines.collect::<String>().as_bytes())?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// An address of its own for each test: all of 127.0.0.0/8 is there.
    fn node(last: u8) -> (tempfile::TempDir, Paths, IpAddr) {
        let root = tempfile::tempdir().unwrap();
        for directory in ["var/lock", "var/tmp"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let paths = Paths::below(root.path());
        (root, paths, Ipv4Addr::new(127, 60, 0, last).into())
    }

    fn port(listener: &TcpListener) -> u16 {
        listener.local_addr().unwrap().port()
    }

    #[test]
    fn a_port_is_not_given_to_two() {
        let (_root, paths, ip) = node(1);
        let first = listen(&paths, ip).unwrap();
        assert_eq!(port(&first), FIRST);
        // Free again, but still noted.
        drop(first);
        let second = listen(&paths, ip).unwrap();
        assert_eq!(port(&second), FIRST + 1);
        // Bound, but not noted.
        std::fs::remove_file(paths.at("var/tmp/pve-reserved-ports")).unwrap();
        let blocker = TcpListener::bind((ip, FIRST)).unwrap();
        assert_eq!(port(&listen(&paths, ip).unwrap()), FIRST + 2);
        drop(blocker);
    }

    #[test]
    fn a_note_is_kept_for_five_seconds_and_nonsense_in_it_is_left_out() {
        let (_root, paths, _) = node(2);
        let note = paths.at("var/tmp/pve-reserved-ports");
        std::fs::write(
            &note,
            "60000 100\n60001 95\n60002 96\nx y\n60003\n70000 100\n",
        )
        .unwrap();
        let kept: Vec<u16> = read(&note, 100).into_keys().collect();
        assert_eq!(kept, [60000, 60002]);
    }

    #[test]
    fn a_link_in_the_place_of_the_note_is_replaced() {
        let (_root, paths, ip) = node(3);
        let note = paths.at("var/tmp/pve-reserved-ports");
        let secret = paths.at("var/secret");
        std::fs::write(&secret, "60000 99999999999\n").unwrap();
        std::os::unix::fs::symlink(&secret, &note).unwrap();
        assert_eq!(port(&listen(&paths, ip).unwrap()), FIRST);
        assert_eq!(
            std::fs::read_to_string(&secret).unwrap(),
            "60000 99999999999\n"
        );
        assert!(note.symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn without_a_free_port_it_says_so() {
        let (_root, paths, ip) = node(4);
        let now = calendar().as_secs();
        let all = (FIRST..END).map(|port| (port, now + 60)).collect();
        write(&paths.at("var/tmp/pve-reserved-ports"), &all).unwrap();
        let failure = listen(&paths, ip).unwrap_err();
        assert!(
            failure
                .to_string()
                .starts_with("unable to find free port (60000-60050) on 127.60.0.4"),
            "{failure}"
        );
    }
}
