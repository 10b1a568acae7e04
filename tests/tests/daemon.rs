//! How the daemon starts and ends, and what it says when it can not.

#![expect(
    clippy::unwrap_used,
    reason = "functions that tests share fail the test as tests do"
)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rusqlite::types::Value;
use tests::compare::read_database;
use tests::corosync::Settings;
use tests::daemon::{MOUNT_DEADLINE, MOUNT_POINT, Pmxcfs, STOP_DEADLINE, binary};
use tests::files;
use tests::lab::{Host, Lab, Requirement, available};
use tests::wait::{eventually, now};

const NEEDED: [Requirement; 3] = [Requirement::Root, Requirement::Fuse, Requirement::Network];
/// A second instance waits so long for the first to end.
const TAKEOVER_WAIT: Duration = Duration::from_secs(10);
const PID_FILE: &str = "/run/pve-cluster.pid";
const RESTART_FLAG: &str = "/run/pve-cluster/cfs-restart-flag";

fn lab() -> Option<Lab> {
    available(&NEEDED).then(|| Lab::new(1).unwrap())
}

/// Starts a daemon that has to fail, and gives its exit code and what it logged.
fn failing_start(host: &Host, args: &[&str], deadline: Duration) -> (Option<i32>, String) {
    let daemon = Pmxcfs::spawn(host, &binary().unwrap(), args).unwrap();
    let status = daemon.program().wait(deadline).unwrap();
    (status.code(), daemon.program().log())
}

fn config_db(host: &Host) -> PathBuf {
    host.disk("var/lib/pve-cluster/config.db")
}

#[test]
fn a_second_instance_waits_gives_up_or_takes_over() {
    let Some(lab) = lab() else { return };
    let host = lab.host(1);
    let first = Pmxcfs::start(host, &["-l"]).unwrap();
    files::replace(&first.path("f"), b"text").unwrap();
    let pid = host.sh_ok(&format!("cat {PID_FILE}")).unwrap();

    let start = now();
    let second = Pmxcfs::spawn(host, &binary().unwrap(), &["-l"]).unwrap();
    let status = second
        .program()
        .wait(TAKEOVER_WAIT + STOP_DEADLINE)
        .unwrap();
    assert_eq!(status.code(), Some(255));
    assert!(start.elapsed() >= TAKEOVER_WAIT);
    let log = second.program().log();
    let named = format!("locked by process {}", pid.trim());
    assert!(log.contains(&named), "{log}");
    assert!(log.contains("unable to acquire pmxcfs lock"), "{log}");
    first.program().check_running().unwrap();
    assert_eq!(fs::read(first.path("f")).unwrap(), b"text");

    let third = Pmxcfs::spawn(host, &binary().unwrap(), &["-l"]).unwrap();
    eventually(MOUNT_DEADLINE, "an instance that waits", || {
        third.program().log().matches("waiting 10 seconds").count() == 2
    })
    .unwrap();
    let start = now();
    assert!(first.stop().unwrap().success());
    third.await_mounted().unwrap();
    let taken = start.elapsed();
    assert!(
        taken < TAKEOVER_WAIT * 4 / 5,
        "not when it was free: {taken:?}"
    );
    assert_eq!(fs::read(third.path("f")).unwrap(), b"text");
}

#[test]
fn a_dead_mount_in_use_is_replaced() {
    let Some(lab) = lab() else { return };
    let host = lab.host(1);
    let daemon = Pmxcfs::start(host, &["-l"]).unwrap();
    files::replace(&daemon.path("f"), b"text").unwrap();
    assert!(daemon.stop().unwrap().success());
    for script in [
        "exec sleep 600",
        "exec 3<f; exec sleep 600",
        "exec 3>>f; exec sleep 600",
    ] {
        let script = format!("cd {MOUNT_POINT}; touch /run/inside; {script}");
        let daemon = Pmxcfs::start(host, &["-l"]).unwrap();
        let user = host
            .start("user", "bash".as_ref(), &["-c", &script])
            .unwrap();
        let inside = host.path("/run/inside");
        eventually(MOUNT_DEADLINE, "a process inside the mount", || {
            inside.exists()
        })
        .unwrap();
        daemon.kill();
        let daemon = Pmxcfs::start(host, &["-l"]).unwrap();
        assert_eq!(fs::read(daemon.path("f")).unwrap(), b"text", "{script}");
        files::append(&daemon.path("f"), b"").unwrap();
        let mounts = host.sh_ok("cat /proc/mounts").unwrap();
        assert_eq!(mounts.matches(" /etc/pve fuse ").count(), 1, "{mounts}");
        user.check_running().unwrap();
        fs::remove_file(&inside).unwrap();
        assert!(daemon.stop().unwrap().success());
    }
}

#[test]
fn mistakes_are_refused_with_reason_and_code() {
    let Some(lab) = lab() else { return };
    let host = lab.host(1);
    let code = |args: &[&str]| failing_start(host, args, STOP_DEADLINE).0;
    assert_eq!(code(&["--nonsense"]), Some(1));
    assert_eq!(code(&["/somewhere"]), Some(255));
    assert_eq!(code(&["-l", "--group", "no-such-group"]), Some(255));

    host.sh_ok(&format!("touch {MOUNT_POINT}/left-behind.cfg"))
        .unwrap();
    let (code, log) = failing_start(host, &["-l"], STOP_DEADLINE);
    assert_eq!(code, Some(255));
    assert!(
        log.contains("not empty") && log.contains("left-behind.cfg"),
        "{log}"
    );
    host.sh_ok(&format!("rm {MOUNT_POINT}/left-behind.cfg"))
        .unwrap();

    // Without an address a cluster is impossible, recovery is not.
    host.sh_ok("echo 127.0.0.1 localhost >/etc/hosts").unwrap();
    host.sh_ok("echo 'hosts: files' >/etc/nsswitch.conf")
        .unwrap();
    let (code, log) = failing_start(host, &[], STOP_DEADLINE);
    assert_eq!(code, Some(255));
    assert!(log.contains("Unable to resolve node name 'n1'"), "{log}");
    let daemon = Pmxcfs::start(host, &["-l"]).unwrap();
    assert!(daemon.program().log().contains("WARN"));
    files::replace(&daemon.path("f"), b"text").unwrap();
}

#[test]
fn a_background_start_returns_once_the_mount_serves() {
    let Some(lab) = lab() else { return };
    let host = lab.host(1);
    let binary = binary().unwrap();
    let binary = binary.to_str().unwrap();
    // The file is there as soon as the command has ended, without any wait.
    let text = host
        .sh_ok(&format!(
            "{binary} -l && cat {MOUNT_POINT}/.version && cat {PID_FILE}"
        ))
        .unwrap();
    assert!(text.contains("starttime"), "{text}");
    let meta = fs::metadata(host.path(PID_FILE)).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o644, 0, 0)
    );
    let pid: u32 = text.lines().last().unwrap().parse().unwrap();
    assert_eq!(
        host.sh_ok(&format!("readlink /proc/{pid}/cwd")).unwrap(),
        "/\n"
    );
    assert!(!host.path(RESTART_FLAG).exists());

    let second = host.sh(&format!("{binary} -l --mountpoint /mnt")).unwrap();
    assert_eq!(second.status.code(), Some(255));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(
        said.contains("pmxcfs lock"),
        "the parent's terminal: {said}"
    );

    host.sh_ok(&format!("kill {pid}")).unwrap();
    eventually(STOP_DEADLINE, "the end of the daemon", || {
        !host.path(PID_FILE).exists()
    })
    .unwrap();
    let flag = fs::metadata(host.path(RESTART_FLAG)).unwrap();
    assert_eq!((flag.mode() & 0o7777, flag.len()), (0o440, 0));
    host.sh_ok(&format!("{binary} -l")).unwrap();
    assert!(!host.path(RESTART_FLAG).exists());
    host.sh_ok(&format!("kill $(cat {PID_FILE})")).unwrap();
}

#[test]
fn the_first_start_takes_over_the_configuration_of_the_host() {
    let Some(lab) = lab() else { return };
    let host = lab.host(1);
    let settings = Settings::new(1);
    settings.install(host).unwrap();
    let daemon = Pmxcfs::start(host, &[]).unwrap();
    let rows = read_database(&config_db(host)).unwrap();
    let (inode, row) = rows
        .iter()
        .find(|(_, row)| row["name"] == Value::Text("corosync.conf".into()))
        .unwrap();
    assert_eq!(*inode, 2);
    assert_eq!(
        (&row["version"], &row["writer"]),
        (&Value::Integer(3), &Value::Integer(0))
    );
    assert_eq!(rows[&0]["version"], Value::Integer(3));
    let text = fs::read_to_string(daemon.path("corosync.conf")).unwrap();
    assert_eq!(text, settings.render());
    assert!(daemon.stop().unwrap().success());

    // For recovery the node works alone all the same.
    let daemon = Pmxcfs::start(host, &["-l"]).unwrap();
    files::replace(&daemon.path("f"), b"text").unwrap();
}

#[test]
fn a_damaged_database_is_refused_and_left_as_it_is() {
    let Some(lab) = lab() else { return };
    let host = lab.host(1);
    let daemon = Pmxcfs::start(host, &["-l"]).unwrap();
    for number in 0..200 {
        files::replace(&daemon.path(format!("f{number}")), &[b'x'; 3_000]).unwrap();
    }
    assert!(daemon.stop().unwrap().success());
    let good = fs::read(config_db(host)).unwrap();
    let mut torn = good.clone();
    torn[4096 * 3..4096 * 6].fill(0xa5);
    let cut = &good[..good.len() / 2 / 4096 * 4096];
    for (what, bad) in [
        ("overwritten pages", torn.as_slice()),
        ("half a file", cut),
        (
            "no database",
            b"this is no database, but long enough to be looked at".as_slice(),
        ),
    ] {
        fs::write(config_db(host), bad).unwrap();
        let (code, log) = failing_start(host, &["-l"], STOP_DEADLINE);
        assert_eq!(code, Some(255), "{what}");
        assert!(log.contains("config.db"), "{what}: {log}");
        assert_eq!(fs::read(config_db(host)).unwrap(), bad, "{what}: changed");
        let names = fs::read_dir(host.disk("var/lib/pve-cluster")).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert!(
            !names.iter().any(|name| name == "config.db-wal"),
            "{what}: {names:?}"
        );
    }
    fs::write(config_db(host), &good).unwrap();
    let daemon = Pmxcfs::start(host, &["-l"]).unwrap();
    assert_eq!(fs::read(daemon.path("f199")).unwrap(), [b'x'; 3_000]);
}

#[test]
fn an_unmount_by_somebody_else_is_a_failure() {
    let Some(lab) = lab() else { return };
    let host = lab.host(1);
    for command in ["umount", "umount -l"] {
        let daemon = Pmxcfs::start(host, &["-l"]).unwrap();
        files::replace(&daemon.path("f"), b"text").unwrap();
        host.sh_ok(&format!("{command} {MOUNT_POINT}")).unwrap();
        let status = daemon.program().wait(STOP_DEADLINE).unwrap();
        assert_eq!(status.code(), Some(255), "{command}");
        assert!(
            daemon
                .program()
                .log()
                .contains("was unmounted by somebody else")
        );
        assert!(!host.path(PID_FILE).exists());
    }
}

#[test]
fn debug_messages_can_be_switched_while_it_runs() {
    let Some(lab) = lab() else { return };
    let daemon = Pmxcfs::start(lab.host(1), &["-l"]).unwrap();
    let debug = daemon.path(".debug");
    // A change is logged before its caller is answered: no wait is needed to see that it was not.
    let logged = |name: &str| {
        files::create_new(&daemon.path(name)).unwrap();
        let log = daemon.program().log();
        let line = log.lines().find(|line| line.contains(name));
        line.is_some_and(|line| line.contains("DEBUG"))
    };
    assert_eq!(fs::read(&debug).unwrap(), b"0\n");
    assert!(!logged("first"));
    for round in 0..2 {
        files::rewrite(&debug, b"1\n").unwrap();
        assert_eq!(fs::read(&debug).unwrap(), b"1\n");
        assert!(logged(&format!("loud-{round}")));
        files::rewrite(&debug, b"0\n").unwrap();
        assert_eq!(fs::read(&debug).unwrap(), b"0\n");
        let before = daemon.program().log().matches("DEBUG").count();
        assert!(!logged(&format!("quiet-{round}")));
        assert_eq!(daemon.program().log().matches("DEBUG").count(), before);
    }
}

#[test]
fn signals_end_it_in_order() {
    let Some(lab) = lab() else { return };
    let host = lab.host(1);
    for signal in ["TERM", "INT", "HUP"] {
        let daemon = Pmxcfs::start(host, &["-l"]).unwrap();
        files::replace(&daemon.path(signal), b"text").unwrap();
        host.sh_ok(&format!("kill -{signal} $(cat {PID_FILE})"))
            .unwrap();
        let status: ExitStatus = daemon.program().wait(STOP_DEADLINE).unwrap();
        assert_eq!(status.code(), Some(0), "{signal}");
        let names = fs::read_dir(host.disk("var/lib/pve-cluster")).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert!(
            !names.iter().any(|name| name == "config.db-wal"),
            "{names:?}"
        );
        let mounts = host.sh_ok("cat /proc/mounts").unwrap();
        assert!(!mounts.contains(MOUNT_POINT), "{mounts}");
    }
}

/// A program that starts another closes its close-on-exec descriptors in the middle of `execve`,
/// where the kernel holds locks of the process that looking at it may need.
#[test]
fn programs_can_be_started_while_a_written_file_is_open() {
    let Some(lab) = lab() else { return };
    let host = lab.host(1);
    let daemon = Pmxcfs::start(host, &["-l"]).unwrap();
    for name in ["other", "emptied"] {
        files::replace(&daemon.path(name), b"text").unwrap();
    }
    let other = fs::File::open(daemon.path("other")).unwrap();
    // Before a file is left empty the daemon looks for descriptors that may still fill it.
    let mut emptied = fs::File::create(daemon.path("emptied")).unwrap();
    let mut file = fs::File::create(daemon.path("f")).unwrap();
    file.write_all(b"begun").unwrap();
    let (done, waiting) = channel();
    thread::scope(|scope| {
        scope.spawn(move || done.send(host.start("started", "true".as_ref(), &[])));
        let Ok(started) = waiting.recv_timeout(STOP_DEADLINE) else {
            // Nothing else gets the program out of the kernel.
            daemon.program().kill();
            panic!("the program did not start");
        };
        assert!(started.unwrap().wait(STOP_DEADLINE).unwrap().success());
    });
    drop(other);
    emptied.write_all(b"filled").unwrap();
    files::close(emptied).unwrap();
    assert_eq!(fs::read(daemon.path("emptied")).unwrap(), b"filled");
    file.write_all(b" and ended").unwrap();
    files::close(file).unwrap();
    assert_eq!(fs::read(daemon.path("f")).unwrap(), b"begun and ended");
}
