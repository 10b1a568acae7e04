//! `corosync-lite` as a daemon: what tools of Corosync see of it, and how it starts and ends.

#![expect(
    clippy::unwrap_used,
    reason = "functions that tests share fail the test as tests do"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::corosync::{Corosync, FORM_DEADLINE, Settings};
use tests::daemon::built;
use tests::lab::{Host, Lab, Requirement, available};
use tests::wait::eventually;

const NEEDED: [Requirement; 3] = [
    Requirement::Root,
    Requirement::Network,
    Requirement::Corosync,
];
const END_LIMIT: Duration = Duration::from_secs(20);

fn lab(hosts: usize) -> Option<Lab> {
    available(&NEEDED).then(|| Lab::new(hosts).unwrap())
}

fn binary() -> PathBuf {
    built("corosync-lite", "COROSYNC_LITE_BIN").unwrap()
}

/// Starts a daemon that has to fail; its exit code and what it wrote.
fn failing_start(host: &Host, args: &[&str]) -> (Option<i32>, String) {
    let daemon = host.start("failing", &binary(), args).unwrap();
    let status = daemon.wait(END_LIMIT).unwrap();
    (status.code(), daemon.log())
}

/// What the command `status --json` prints.
fn status(host: &Host) -> serde_json::Value {
    let command = format!("{} status --json", binary().display());
    let output = host.sh(&command).unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn tools_of_corosync_work_with_one_node() {
    let Some(lab) = lab(1) else { return };
    let host = lab.host(1);
    let settings = Settings::new(1);
    settings.install(host).unwrap();
    let daemon = Corosync::start_program(host, &binary()).unwrap();
    daemon.await_members(host, 1).unwrap();

    let quorum = host.sh_ok("corosync-quorumtool -s").unwrap();
    assert!(quorum.contains("Quorate:          Yes"), "{quorum}");
    assert!(quorum.contains("Flags:            Quorate"), "{quorum}");
    let links = host.sh_ok("corosync-cfgtool -s").unwrap();
    assert!(links.contains("addr\t= 10.77.0.1"), "{links}");
    let map = host
        .sh_ok("corosync-cmapctl -g totem.cluster_name")
        .unwrap();
    assert_eq!(map, "totem.cluster_name (str) = lab\n");
    let map = host.sh_ok("corosync-cmapctl").unwrap();
    assert!(
        map.contains("runtime.votequorum.this_node_id (u32) = 1"),
        "{map}"
    );
    host.sh_ok("corosync-cmapctl -m stats stats.srp.").unwrap();
    let groups = host.sh_ok("corosync-cpgtool").unwrap();
    assert!(groups.starts_with("Group Name"), "{groups}");

    let status = status(host);
    assert_eq!(status["ring"]["members"], serde_json::json!([1]));
    assert_eq!(status["quorum"]["quorate"], true);
    assert_eq!(daemon.complaints(), Vec::<String>::new());
    daemon.stop().unwrap();
    assert!(!host.path("/run/corosync.pid").exists());
    let left = fs::read_dir(host.path("/dev/shm")).unwrap().count();
    assert_eq!(left, 0, "files of clients stay behind");
}

#[test]
fn a_reload_takes_over_what_it_can_and_refuses_what_it_must() {
    let Some(lab) = lab(1) else { return };
    let host = lab.host(1);
    let mut settings = Settings::new(1);
    settings.install(host).unwrap();
    let daemon = Corosync::start_program(host, &binary()).unwrap();
    daemon.await_members(host, 1).unwrap();

    settings.config_version = 2;
    settings.token = Duration::from_millis(1500);
    settings.install(host).unwrap();
    host.sh_ok("corosync-cfgtool -R").unwrap();
    let token = host
        .sh_ok("corosync-cmapctl -g runtime.config.totem.token")
        .unwrap();
    assert!(token.ends_with("= 1500\n"), "{token}");

    settings.config_version = 1;
    settings.install(host).unwrap();
    assert!(!host.sh("corosync-cfgtool -R").unwrap().status.success());
    let version = host
        .sh_ok("corosync-cmapctl -g totem.config_version")
        .unwrap();
    assert!(version.ends_with("= 2\n"), "{version}");
    fs::write(host.disk("etc/corosync/corosync.conf"), "totem {\n").unwrap();
    assert!(!host.sh("corosync-cfgtool -R").unwrap().status.success());
    daemon.program().check_running().unwrap();

    host.sh_ok("corosync-cmapctl -s logging.debug str on")
        .unwrap();
    eventually(END_LIMIT, "debug messages", || {
        daemon.program().log().contains("debug ")
    })
    .unwrap();
    daemon.stop().unwrap();
}

#[test]
fn a_configuration_named_by_a_relative_path_is_found_again() {
    let Some(lab) = lab(1) else { return };
    let host = lab.host(1);
    Settings::new(1).install(host).unwrap();
    let command = format!(
        "cd /etc/corosync && exec {} -f -c corosync.conf",
        binary().display()
    );
    let daemon = host
        .start("relative", Path::new("sh"), &["-c", &command])
        .unwrap();
    eventually(FORM_DEADLINE, "an answer", || {
        host.sh("corosync-cfgtool -s")
            .is_ok_and(|it| it.status.success())
    })
    .unwrap();
    host.sh_ok("corosync-cfgtool -R").unwrap();
    assert_eq!(daemon.stop(END_LIMIT).unwrap().code(), Some(0));
}

#[test]
fn users_need_permission() {
    let Some(lab) = lab(1) else { return };
    let host = lab.host(1);
    Settings::new(1).install(host).unwrap();
    let daemon = Corosync::start_program(host, &binary()).unwrap();
    daemon.await_members(host, 1).unwrap();
    let as_nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups corosync-cmapctl -g \
                     totem.version";
    assert!(!host.sh(as_nobody).unwrap().status.success());
    host.sh_ok("corosync-cmapctl -s uidgid.uid.65534 u8 1")
        .unwrap();
    assert_eq!(host.sh_ok(as_nobody).unwrap(), "totem.version (u32) = 2\n");
    host.sh_ok("corosync-cmapctl -d uidgid.uid.65534").unwrap();
    assert!(!host.sh(as_nobody).unwrap().status.success());

    let dir = host.disk("etc/corosync/uidgid.d");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("nobody"), "uidgid {\n  gid: 65534\n}\n").unwrap();
    host.sh_ok("corosync-cfgtool -R").unwrap();
    host.sh_ok(as_nobody).unwrap();
    daemon.stop().unwrap();
}

#[test]
fn what_is_wrong_at_the_start_is_said_with_the_code_of_corosync() {
    let Some(lab) = lab(1) else { return };
    let host = lab.host(1);
    let (code, text) = failing_start(host, &["-f"]);
    assert_eq!(code, Some(8));
    assert!(text.contains("/etc/corosync/corosync.conf"), "{text}");

    let settings = Settings::new(1);
    settings.install(host).unwrap();
    assert_eq!(failing_start(host, &["-t"]).0, Some(0));
    let conf = host.disk("etc/corosync/corosync.conf");
    fs::write(&conf, format!("{}what\n", settings.render())).unwrap();
    let (code, text) = failing_start(host, &["-t"]);
    assert_eq!(code, Some(8));
    assert!(text.contains("\n  what\n  ^\n"), "{text}");
    settings.install(host).unwrap();

    let daemon = Corosync::start_program(host, &binary()).unwrap();
    daemon.await_members(host, 1).unwrap();
    let (code, text) = failing_start(host, &["-f"]);
    assert_eq!(code, Some(18));
    assert!(text.contains("already running (process "), "{text}");
    // Whatever is unfinished there is of the daemon that runs.
    let unfinished = host.disk("var/lib/corosync/ringid_1.new");
    fs::write(&unfinished, "x").unwrap();
    let before = fs::read(host.disk("var/lib/corosync/ringid_1")).unwrap();
    let other = ["-f", "--pid-file", "/run/other.pid"];
    let (code, text) = failing_start(host, &other);
    assert_eq!(code, Some(18));
    let pid = host.sh_ok("cat /run/corosync.pid").unwrap();
    let holder = format!(
        "state directory: Another Corosync instance is already running (process {},",
        pid.trim()
    );
    assert!(text.contains(&holder), "{text}");
    assert!(unfinished.exists());
    assert_eq!(
        fs::read(host.disk("var/lib/corosync/ringid_1")).unwrap(),
        before
    );
    let elsewhere = [&other[..], &["--state-dir", "/run/other"]].concat();
    let (code, text) = failing_start(host, &elsewhere);
    assert_eq!(code, Some(18));
    assert!(text.contains("is offered by another program"), "{text}");
    daemon.stop().unwrap();

    let (code, text) = failing_start(host, &["-f", "--state-dir", "/proc/nothing"]);
    assert_eq!(code, Some(16), "{text}");
}

#[test]
fn the_background_process_serves_when_the_command_returns() {
    let Some(lab) = lab(1) else { return };
    let host = lab.host(1);
    let settings = Settings::new(1);
    settings.install(host).unwrap();
    host.sh_ok(&format!("{} > /dev/null 2>&1", binary().display()))
        .unwrap();
    host.sh_ok("corosync-quorumtool -s").unwrap();
    host.sh_ok("kill $(cat /run/corosync.pid)").unwrap();
    let gone = || !host.path("/run/corosync.pid").exists();
    eventually(END_LIMIT, "end of the daemon", gone).unwrap();
}

#[test]
fn three_nodes_form_a_ring_and_an_address_that_goes_takes_its_link_down() {
    let Some(lab) = lab(3) else { return };
    let settings = Settings::new(3);
    let hosts: Vec<_> = (1..=3).map(|id| lab.host(id)).collect();
    for host in &hosts {
        settings.install(host).unwrap();
    }
    let all: Vec<_> = hosts
        .iter()
        .map(|host| Corosync::start_program(host, &binary()).unwrap())
        .collect();
    for (host, daemon) in hosts.iter().zip(&all) {
        daemon.await_members(host, 3).unwrap();
    }
    let address = hosts[0].address(0);
    let device = hosts[0]
        .sh_ok(&format!("ip -o addr show to {address} | cut -d' ' -f2"))
        .unwrap();
    let device = device.trim();
    hosts[0]
        .sh_ok(&format!("ip addr del {address}/24 dev {device}"))
        .unwrap();
    let link = |number: &str| {
        status(hosts[0])["nodes"][1]["links"][number]["up"]
            .as_bool()
            .unwrap_or(false)
    };
    eventually(FORM_DEADLINE, "loss of link 0", || !link("0") && link("1")).unwrap();
    hosts[0]
        .sh_ok(&format!("ip addr add {address}/24 dev {device}"))
        .unwrap();
    eventually(FORM_DEADLINE, "return of link 0", || link("0") && link("1")).unwrap();
    for (host, daemon) in hosts.iter().zip(&all) {
        daemon.await_members(host, 3).unwrap();
    }
    a_node_that_is_put_out_says_goodbye(settings, &hosts, all);
}

/// The others need not wait for a timeout.
fn a_node_that_is_put_out_says_goodbye(
    mut settings: Settings,
    hosts: &[&Host],
    mut all: Vec<Corosync>,
) {
    settings.config_version += 1;
    settings.token = 10 * FORM_DEADLINE;
    for host in hosts {
        settings.install(host).unwrap();
    }
    hosts[0].sh_ok("corosync-cfgtool -R").unwrap();
    let token = format!("= {}\n", settings.token.as_millis());
    for host in &hosts[..2] {
        eventually(FORM_DEADLINE, "the new timeout", || {
            let key = host.sh("corosync-cmapctl -g runtime.config.totem.token");
            key.is_ok_and(|key| String::from_utf8_lossy(&key.stdout).ends_with(&token))
        })
        .unwrap();
    }
    let last = all.pop().unwrap();
    hosts[0].sh_ok("corosync-cfgtool -k 3").unwrap();
    let ended = last.program().wait(END_LIMIT).unwrap();
    assert_eq!(ended.code(), Some(255));
    for (host, daemon) in hosts.iter().zip(&all) {
        daemon.await_members(host, 2).unwrap();
    }
    for daemon in all {
        daemon.stop().unwrap();
    }
}
