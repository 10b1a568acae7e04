//! Tests of the test hosts themselves.

#![expect(
    clippy::unwrap_used,
    reason = "functions that tests share fail the test as tests do"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::corosync::{Corosync, Settings, await_quorate};
use tests::lab::{Host, Lab, Requirement, available};
use tests::wait::eventually;

const LAB: [Requirement; 2] = [Requirement::Root, Requirement::Network];
/// Set in the environment of the process that is to be killed.
const OWNER: &str = "PMXCFS_TEST_OWNER";
/// For a connection on a network that carries packets.
const REACH_DEADLINE: Duration = Duration::from_secs(20);

#[test]
fn hosts_have_names_networks_and_files_of_their_own() {
    if !available(&LAB) {
        return;
    }
    let lab = Lab::new(2).unwrap();
    for host in lab.hosts() {
        assert_eq!(host.sh_ok("hostname").unwrap().trim(), host.name());
        let script = format!("getent hosts {}; echo $$", host.name());
        let text = host.sh_ok(&script).unwrap();
        assert!(text.starts_with(&host.address(0)), "{text}");
        fs::write(host.path("etc/pve/x"), host.name()).unwrap();
        fs::write(host.path("run/x"), host.name()).unwrap();
        host.sh_ok("echo there > /var/lib/corosync/x").unwrap();
        assert_eq!(
            fs::read_to_string(host.disk("var/lib/corosync/x")).unwrap(),
            "there\n"
        );
    }
    for host in lab.hosts() {
        assert_eq!(
            host.sh_ok("cat /etc/pve/x /run/x").unwrap(),
            host.name().repeat(2)
        );
    }
    assert!(!fs::exists("/etc/pve/x").unwrap());
}

#[test]
fn faults_of_the_network_can_be_made_and_healed() {
    if !available(&LAB) {
        return;
    }
    let mut lab = Lab::new(3).unwrap();
    // Connecting to a closed port is refused at once when packets travel both ways.
    let reaches = |lab: &Lab, from: usize, to: usize, link: usize| {
        let address = lab.host(to).address(link);
        let script = format!("timeout 1 bash -c 'echo > /dev/tcp/{address}/9' 2>&1");
        let output = lab.host(from).sh(&script).unwrap();
        String::from_utf8_lossy(&output.stdout).contains("refused")
    };
    // One lost packet costs a second, and a busy machine any time.
    let must_reach = |lab: &Lab, from: usize, to: usize, link: usize| {
        let what = format!("{from} to {to} on link {link}");
        eventually(REACH_DEADLINE, &what, || reaches(lab, from, to, link)).unwrap();
    };
    for (from, to, link) in [(1, 2, 0), (2, 3, 1), (3, 1, 0)] {
        must_reach(&lab, from, to, link);
    }

    lab.isolate(1).unwrap();
    assert!(!reaches(&lab, 1, 2, 0));
    assert!(!reaches(&lab, 3, 1, 1));
    must_reach(&lab, 2, 3, 0);
    lab.heal().unwrap();
    must_reach(&lab, 1, 2, 0);

    lab.set_cable(2, 0, false).unwrap();
    assert!(!reaches(&lab, 1, 2, 0));
    must_reach(&lab, 1, 2, 1);
    lab.heal().unwrap();
    lab.flap(2, 0, 3).unwrap();
    must_reach(&lab, 1, 2, 0);

    lab.lose(1, 3, Some(1), 100).unwrap();
    assert!(!reaches(&lab, 1, 3, 1));
    must_reach(&lab, 1, 3, 0);
    lab.lose(1, 3, None, 0).unwrap();
    lab.lose_around(3, 10).unwrap();
    must_reach(&lab, 1, 2, 1);
}

#[test]
fn losses_are_about_as_many_as_asked_for() {
    if !available(&LAB) {
        return;
    }
    let mut lab = Lab::new(2).unwrap();
    // The kernel counts datagrams that arrive where nobody listens.
    let arrived = |lab: &Lab| {
        let script = "awk '/^Udp: [0-9]/ { print $3 }' /proc/net/snmp";
        lab.host(2)
            .sh_ok(script)
            .unwrap()
            .trim()
            .parse::<u32>()
            .unwrap()
    };
    let send = |lab: &Lab| {
        let script = format!(
            "for i in {{1..400}}; do echo > /dev/udp/{}/9; done 2> /dev/null; true",
            lab.host(2).address(0)
        );
        let before = arrived(lab);
        lab.host(1).sh_ok(&script).unwrap();
        arrived(lab) - before
    };
    assert_eq!(send(&lab), 400);
    lab.lose(1, 2, Some(0), 25).unwrap();
    let count = send(&lab);
    assert!((250..350).contains(&count), "{count} of 400 arrived");
}

#[test]
fn a_host_that_was_powered_off_keeps_its_files_and_loses_its_processes() {
    if !available(&LAB) {
        return;
    }
    let mut lab = Lab::new(2).unwrap();
    let program = lab
        .host(1)
        .start("sleep", Path::new("sleep"), &["1000"])
        .unwrap();
    lab.host(1)
        .sh_ok("echo kept > /etc/kept; echo lost > /run/lost")
        .unwrap();
    lab.power_off(1);
    assert!(program.exit_status().unwrap().is_some());
    assert!(lab.host(1).sh("true").is_err());
    lab.boot(1).unwrap();
    assert_eq!(lab.host(1).sh_ok("cat /etc/kept").unwrap(), "kept\n");
    assert!(!fs::exists(lab.host(1).path("run/lost")).unwrap());
    assert_eq!(
        lab.host(1).sh_ok("ip -oneline -4 address | wc -l").unwrap(),
        "3\n"
    );
}

#[test]
fn nothing_leaves_the_networks_of_the_lab() {
    if !available(&LAB) {
        return;
    }
    let devices = || fs::read_to_string("/proc/net/dev").unwrap().lines().count();
    let before = devices();
    let lab = Lab::new(2).unwrap();
    assert_eq!(devices(), before);
    let routes = lab.host(1).sh_ok("ip -oneline route").unwrap();
    assert!(!routes.contains("default"), "{routes}");
    assert_eq!(routes.lines().count(), 2, "{routes}");
}

#[test]
fn nothing_is_left_after_the_lab() {
    if !available(&LAB) {
        return;
    }
    let lab = Lab::new(2).unwrap();
    let program = lab
        .host(2)
        .start("sleep", Path::new("sleep"), &["1000"])
        .unwrap();
    lab.host(2)
        .sh_ok("setsid sleep 1000 > /dev/null 2>&1 &")
        .unwrap();
    let (dir, namespaces) = (lab.dir().to_owned(), namespaces_of(&lab));
    assert!(in_use(&namespaces) > 2);
    drop(lab);
    assert!(!dir.exists());
    assert!(program.exit_status().unwrap().is_some());
    assert_eq!(in_use(&namespaces), 0);
}

#[test]
fn nothing_is_left_after_a_killed_test() {
    if !available(&LAB) {
        return;
    }
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner_of_a_lab", "--nocapture"])
        .env(OWNER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(owner.stdout.take().unwrap());
    let line = output
        .lines()
        .map(Result::unwrap)
        .find_map(|line| Some(line.split_once("namespaces: ")?.1.to_owned()));
    let namespaces: Vec<_> = line.unwrap().split(' ').map(str::to_owned).collect();
    assert!(in_use(&namespaces) > 2);
    owner.kill().unwrap();
    owner.wait().unwrap();
    eventually(Duration::from_secs(10), "end of all processes", || {
        in_use(&namespaces) == 0
    })
    .unwrap();
}

/// Not a test of its own: what the test above starts and kills.
#[test]
fn owner_of_a_lab() {
    if std::env::var_os(OWNER).is_none() {
        return;
    }
    let lab = Lab::new(2).unwrap();
    let program = lab
        .host(1)
        .start("sleep", Path::new("sleep"), &["1000"])
        .unwrap();
    lab.host(2)
        .sh_ok("setsid sleep 1000 > /dev/null 2>&1 &")
        .unwrap();
    println!("namespaces: {}", namespaces_of(&lab).join(" "));
    std::io::stdin().read_line(&mut String::new()).unwrap();
    drop(program);
}

#[test]
fn corosync_forms_loses_and_regains_quorum() {
    if !available(&LAB) || !available(&[Requirement::Corosync]) {
        return;
    }
    let mut lab = Lab::new(3).unwrap();
    let settings = Settings::new(3);
    let mut all = Corosync::start_cluster(&lab, &settings).unwrap();
    for corosync in &all {
        assert_eq!(corosync.complaints(), Vec::<String>::new());
    }

    lab.isolate(1).unwrap();
    await_quorate(lab.host(1), false).unwrap();
    all[1].await_members(lab.host(2), 2).unwrap();
    lab.heal().unwrap();
    all[0].await_members(lab.host(1), 3).unwrap();

    all[0].program().freeze().unwrap();
    all[1].await_members(lab.host(2), 2).unwrap();
    all[0].program().thaw().unwrap();
    all[0].await_members(lab.host(1), 3).unwrap();

    all.pop().unwrap().stop().unwrap();
    all[0].await_members(lab.host(1), 2).unwrap();
    all.push(Corosync::start(lab.host(3), &settings).unwrap());
    all[2].await_members(lab.host(3), 3).unwrap();
}

/// Names that the kernel gives the namespaces of all hosts, such as `net:[4026532281]`.
fn namespaces_of(lab: &Lab) -> Vec<String> {
    let of = |host: &Host| {
        let pid = host.pid().unwrap();
        ["net", "mnt", "pid"].map(|kind| link(&format!("/proc/{pid}/ns/{kind}")).unwrap())
    };
    lab.hosts().iter().flat_map(of).collect()
}

/// Namespaces of processes that are in one of these. Processes that ended have none.
fn in_use(namespaces: &[String]) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let of = |path: &Path| {
        let path = path.display().to_string();
        ["net", "mnt", "pid"].map(|kind| link(&format!("{path}/ns/{kind}")))
    };
    let all = processes.flat_map(|process| of(&process.path())).flatten();
    all.filter(|name| namespaces.contains(name)).count()
}

fn link(path: &str) -> Option<String> {
    fs::read_link(path).ok()?.to_str().map(str::to_owned)
}
