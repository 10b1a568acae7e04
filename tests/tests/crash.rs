//! One node that is killed, or whose disk fails: nothing acknowledged is lost.

#![expect(
    clippy::unwrap_used,
    reason = "functions that tests share fail the test as tests do"
)]

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use rand_core::{RngCore as _, SeedableRng as _};
use rand_pcg::Pcg32;
use rusqlite::Connection;
use tests::compare::read_database;
use tests::daemon::{MOUNT_DEADLINE, Pmxcfs};
use tests::files;
use tests::lab::{Host, Lab, Requirement, available};
use tests::load::Writer;
use tests::wait::{eventually, eventually_ok, now};

const NEEDED: [Requirement; 3] = [Requirement::Root, Requirement::Fuse, Requirement::Network];
/// How often the daemon is killed.
const KILLS: u32 = 300;
const WRITERS: u64 = 4;
const DATABASE_DIR: &str = "/var/lib/pve-cluster";

#[test]
fn kills_at_any_moment_lose_nothing_that_was_acknowledged() {
    if !available(&NEEDED) {
        return;
    }
    let seed = std::env::var("PMXCFS_TEST_SEED").map_or(1, |text| text.parse().unwrap());
    let mut random = Pcg32::seed_from_u64(seed);
    let lab = Lab::new(1).unwrap();
    let host = lab.host(1);
    let mut daemon = Pmxcfs::start(host, &["-l"]).unwrap();
    let mut writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let dir = daemon.path(format!("w{number}"));
            fs::create_dir(&dir).unwrap();
            Writer::new(dir, seed * 1_000 + number)
        })
        .collect();
    for round in 0..KILLS {
        let changes = 1 + random.next_u32() % 60;
        let turns = random.next_u32() % 2_000;
        work_until_killed(&mut writers, daemon, changes, turns);
        daemon = Pmxcfs::start(host, &["-l"])
            .unwrap_or_else(|error| panic!("seed {seed}, kill {round}: {error:#}"));
        for writer in &mut writers {
            let dir = writer.dir().to_owned();
            let checked = writer.check(&dir);
            checked.unwrap_or_else(|error| panic!("seed {seed}, kill {round}: {error:#}"));
        }
    }
    let status = daemon.stop().unwrap();
    assert!(status.success(), "{status}");
}

/// Kills the daemon `turns` scheduler turns after so many changes, wherever the others are then.
fn work_until_killed(writers: &mut [Writer], daemon: Pmxcfs, changes: u32, turns: u32) {
    let left = AtomicUsize::new(usize::try_from(changes).unwrap());
    let (reached, moment) = channel();
    thread::scope(|scope| {
        for writer in writers {
            let (left, reached) = (&left, reached.clone());
            scope.spawn(move || work(writer, left, &reached));
        }
        drop(reached);
        moment.recv().unwrap();
        for _ in 0..turns {
            thread::yield_now();
        }
        daemon.kill();
    });
}

fn work(writer: &mut Writer, left: &AtomicUsize, reached: &Sender<()>) {
    while writer.step().is_ok() {
        if left.fetch_sub(1, Ordering::Relaxed) == 1 {
            reached.send(()).unwrap();
        }
    }
}

#[test]
fn a_full_disk_loses_nothing_and_can_be_cleared() {
    if !available(&NEEDED) {
        return;
    }
    let lab = Lab::new(1).unwrap();
    let host = lab.host(1);
    host.sh_ok(&format!("mount -t tmpfs -o size=4m tmpfs {DATABASE_DIR}"))
        .unwrap();
    let daemon = Pmxcfs::start(host, &["-l"]).unwrap();
    let filler = host.path(DATABASE_DIR).join("filler");
    files::replace(&daemon.path("kept"), b"before").unwrap();
    fs::create_dir(daemon.path("w")).unwrap();
    let mut writer = Writer::new(daemon.path("w"), 7);
    for round in 0..3 {
        for _ in 0..40 {
            writer.step().unwrap();
        }
        fill(&filler);
        let error = loop {
            if let Err(error) = writer.step() {
                break error;
            }
        };
        let errno = error.raw_os_error().map(Errno::from_raw);
        assert!(
            matches!(errno, Some(Errno::ENOSPC | Errno::EIO)),
            "round {round}: {error}"
        );
        let dir = writer.dir().to_owned();
        writer.check(&dir).unwrap();
        assert_eq!(fs::read(daemon.path("kept")).unwrap(), b"before");
        files::replace(&daemon.path("kept"), &[b'x'; 500_000]).unwrap_err();
        assert_eq!(fs::read(daemon.path("kept")).unwrap(), b"before");

        fs::remove_file(&filler).unwrap();
        eventually_ok(MOUNT_DEADLINE, "a disk with space", || {
            Ok(files::replace(&daemon.path("again"), b"works")?)
        })
        .unwrap();
    }
    // What was answered is what a crash leaves.
    fill(&filler);
    while writer.step().is_ok() {}
    daemon.kill();
    fs::remove_file(&filler).unwrap();
    let daemon = Pmxcfs::start(host, &["-l"]).unwrap();
    writer.check(&daemon.path("w")).unwrap();
    assert_eq!(fs::read(daemon.path("again")).unwrap(), b"works");
}

/// Takes all the space that is left on a file's disk.
fn fill(path: &Path) {
    let file = fs::File::create(path).unwrap();
    let block = [0; 4096];
    while std::io::Write::write_all(&mut &file, &block).is_ok() {}
}

#[test]
fn reads_go_on_while_another_process_locks_the_database() {
    if !available(&NEEDED) {
        return;
    }
    let lab = Lab::new(1).unwrap();
    let host = lab.host(1);
    let daemon = Pmxcfs::start(host, &["-l"]).unwrap();
    files::replace(&daemon.path("f"), b"before").unwrap();
    files::replace(&daemon.path("other"), b"kept").unwrap();
    let path = host.disk("var/lib/pve-cluster/config.db");
    let database = Connection::open(&path).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();

    let begun = Barrier::new(2);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            begun.wait();
            files::replace(&daemon.path("f"), b"after")
        });
        begun.wait();
        let start = now();
        eventually(MOUNT_DEADLINE, "two seconds of reading", || {
            assert_eq!(fs::read(daemon.path("other")).unwrap(), b"kept");
            assert!(fs::read_dir(daemon.root()).unwrap().count() > 5);
            assert!(fs::read(daemon.path(".version")).is_ok());
            start.elapsed() > Duration::from_secs(2)
        })
        .unwrap();
        assert!(!writer.is_finished(), "the write waits for the lock");
        database.execute_batch("ROLLBACK").unwrap();
        writer.join().unwrap().unwrap();
    });
    assert_eq!(fs::read(daemon.path("f")).unwrap(), b"after");
    assert_stored(host, "f", b"after");
}

fn assert_stored(host: &Host, name: &str, data: &[u8]) {
    let rows = read_database(&host.disk("var/lib/pve-cluster/config.db")).unwrap();
    let row = rows
        .values()
        .find(|row| row["name"] == rusqlite::types::Value::Text(name.to_owned()));
    assert_eq!(
        row.unwrap()["data"],
        rusqlite::types::Value::Blob(data.to_vec())
    );
}
