//! `doctor`: faults that are planted are found.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::corosync::{QuorumState, Settings};
use tests::daemon::binary;
use tests::lab::{Host, Lab};
use tests::wait::eventually;

use crate::support::{DEADLINE, KINDS, can_run, can_run_clusters, document, pvecm, said, settings};

/// A service that shows a certificate and tells a time that is two minutes ahead.
const WRONG_CLOCK: &str = r#"
import email.utils, http.server, ssl, time
class Handler(http.server.BaseHTTPRequestHandler):
    def date_time_string(self, timestamp=None):
        return email.utils.formatdate(time.time() + 120, usegmt=True)
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('/root/shown.pem', '/root/shown.key')
server = http.server.HTTPServer(('', 8006), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

/// Findings of a level, as `CHECK SUBJECT: WHAT`.
fn found(report: &Value, level: &str) -> Vec<String> {
    let findings = report["findings"].as_array().unwrap();
    let of_level = findings.iter().filter(|it| it["level"] == level);
    of_level
        .map(|it| {
            let text = |key: &str| it[key].as_str().unwrap().to_owned();
            format!("{} {}: {}", text("check"), text("subject"), text("what"))
        })
        .collect()
}

#[track_caller]
fn has(report: &Value, level: &str, words: &[&str]) {
    let found = found(report, level);
    let fits = |text: &String| words.iter().all(|word| text.contains(word));
    assert!(
        found.iter().any(fits),
        "{words:?} in {found:#?} of {report:#}"
    );
}

/// Waits until the links of a host have been measured.
fn await_links(host: &Host) {
    eventually(DEADLINE, "links that are measured", || {
        let report = document(host, "doctor");
        found(&report, "ok")
            .iter()
            .any(|it| it.starts_with("links"))
            && found(&report, "ok").iter().any(|it| it.starts_with("mtu"))
    })
    .unwrap();
}

fn make_certificate(host: &Host, name: &str, days: u32) {
    let script = format!(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout /root/{name}.key -out /root/{name}.pem \
         -days {days} -subj /CN=n2 2>&1"
    );
    host.sh_ok(&script).unwrap();
}

#[test]
fn faults_of_a_cluster_are_found() {
    if !can_run_clusters() {
        return;
    }
    for kind in KINDS {
        let binaries = vec![binary().unwrap(); 3];
        let cluster = Cluster::start_with(&settings(3, kind), &binaries).unwrap();
        let host = cluster.lab.host(1);
        await_links(host);
        let report = document(host, "doctor");
        assert_eq!(found(&report, "fail"), Vec::<String>::new(), "{report:#}");
        assert_eq!(said(&pvecm(host, "doctor")).2, 0);
        has(&report, "ok", &["quorum n1: 3 of 3 votes are here"]);
        has(&report, "ok", &["database", "passed SQLite's check"]);
        has(
            &report,
            "ok",
            &["configuration", "the same as the cluster's"],
        );
        // Nobody serves on port 8006: clocks are not known, which is no failure.
        has(
            &report,
            "unknown",
            &["time n2", "no service at 10.77.0.2:8006"],
        );
        has(&report, "warn", &["certificates n1: this node has none"]);

        let _clock = plant(&cluster);
        eventually(DEADLINE, "the loss of a link, and the service", || {
            let failures = found(&document(host, "doctor"), "fail");
            let has = |start: &str| failures.iter().any(|it| it.starts_with(start));
            has("links n2") && has("time n3")
        })
        .unwrap();
        let report = document(host, "doctor");
        names_what_was_planted(&report);
        assert_eq!(report["healthy"], false);
        let (text, _, code) = said(&pvecm(host, "doctor"));
        assert_eq!(code, 1, "{text}");
        assert!(
            text.contains("-> 'chown root:root /etc/corosync/authkey; chmod 0400"),
            "{text}"
        );
        without_its_parts(cluster);
    }
}

/// Each fault of [`plant`] is a finding.
fn names_what_was_planted(report: &Value) {
    has(
        report,
        "fail",
        &["links n2 (node 2): link 1 from 10.78.0.1 to 10.78.0.2 is down"],
    );
    has(report, "fail", &["key /etc/corosync/authkey", "mode 0644"]);
    has(
        report,
        "fail",
        &[
            "configuration /etc/corosync/corosync.conf",
            "version 9 is newer",
        ],
    );
    has(
        report,
        "fail",
        &["directories /etc/pve/nodes/ghost", "guests are in it: 777"],
    );
    has(
        report,
        "warn",
        &["certificates", "nodes/n2/pve-ssl.pem", "it ends in"],
    );
    has(
        report,
        "fail",
        &[
            "certificates",
            "nodes/n2/pve-ssl.pem",
            "not made by the authority",
        ],
    );
    has(report, "warn", &["certificates n3", "does not know"]);
    has(report, "fail", &["name n1", "loopback address only"]);
    has(
        report,
        "fail",
        &["changes n1", "'pvecm create lab' was broken off"],
    );
    has(report, "fail", &["time n3", "s ahead of this one's"]);
}

/// Plants faults that are found from node 1.
fn plant(cluster: &Cluster) -> tests::lab::Program {
    let host = cluster.lab.host(1);
    cluster.lab.set_cable(2, 1, false).unwrap();
    let key = host.disk("etc/corosync/authkey");
    fs::set_permissions(key, Permissions::from_mode(0o644)).unwrap();
    let conf = host.disk("etc/corosync/corosync.conf");
    let text = fs::read_to_string(&conf).unwrap();
    let text = text.replace("config_version: 1", "config_version: 9");
    fs::write(conf, text).unwrap();
    host.sh_ok("mkdir -p /etc/pve/nodes/ghost/qemu-server")
        .unwrap();
    fs::write(cluster.path(1, "nodes/ghost/qemu-server/777.conf"), "x").unwrap();
    make_certificate(host, "n2", 5);
    make_certificate(host, "ca", 500);
    let copy = "mkdir -p /etc/pve/nodes/n2 /etc/pve/nodes/n3; \
                cp /root/ca.pem /etc/pve/pve-root-ca.pem; \
                cp /root/ca.pem /etc/pve/nodes/n3/pve-ssl.pem; \
                cp /root/n2.pem /etc/pve/nodes/n2/pve-ssl.pem";
    host.sh_ok(copy).unwrap();
    let names = "sed 's/^10.77.0.1 .*/127.0.1.1 n1/; s/^10.78.0.1 .*//' /etc/hosts > /root/hosts \
                 && cp /root/hosts /etc/hosts";
    host.sh_ok(names).unwrap();
    let journal = host.disk("var/lib/pve-cluster").join("pvecm-undo");
    fs::create_dir(&journal).unwrap();
    fs::write(
        journal.join("journal.json"),
        r#"{"command": "pvecm create lab", "undo": []}"#,
    )
    .unwrap();
    let other = cluster.lab.host(3);
    make_certificate(other, "shown", 5);
    let script = other.path("/root/wrong_clock.py");
    fs::write(script, WRONG_CLOCK).unwrap();
    let python = Path::new("/usr/bin/python3");
    other
        .start("clock", python, &["/root/wrong_clock.py"])
        .unwrap()
}

/// Daemons end one after the other.
fn without_its_parts(mut cluster: Cluster) {
    cluster.pmxcfs[0].take().unwrap().kill();
    let host = cluster.lab.host(1);
    has(
        &document(host, "doctor"),
        "fail",
        &["mount /etc/pve: the mount is stale"],
    );
    host.sh_ok("umount -l /etc/pve").unwrap();
    has(
        &document(host, "doctor"),
        "fail",
        &["mount /etc/pve: the cluster file system is not mounted"],
    );
    cluster.corosync[0].take().unwrap().stop().unwrap();
    let report = document(host, "doctor");
    has(
        &report,
        "fail",
        &["quorum n1", "no daemon offers the service"],
    );

    // With nothing left but a file that is no database.
    let database = host.disk("var/lib/pve-cluster/config.db");
    for suffix in ["-wal", "-shm"] {
        drop(fs::remove_file(format!("{}{suffix}", database.display())));
    }
    fs::write(&database, vec![7; 8192]).unwrap();
    has(
        &document(host, "doctor"),
        "fail",
        &["database", "config.db"],
    );
}

#[test]
fn a_node_in_no_cluster_is_looked_at() {
    if !can_run() {
        return;
    }
    let lab = Lab::new(1).unwrap();
    let host = lab.host(1);
    let (text, errors, code) = said(&pvecm(host, "doctor"));
    assert!(
        text.starts_with("Node n1 in no cluster\n"),
        "{text}{errors}"
    );
    assert!(
        text.contains("the cluster file system is not mounted"),
        "{text}"
    );
    assert!(text.contains("-> 'systemctl start pve-cluster'"), "{text}");
    assert_eq!(code, 1, "{text}");
    // A configuration alone.
    Settings::new(1).install(host).unwrap();
    let report = document(host, "doctor");
    has(
        &report,
        "fail",
        &["quorum n1", "no daemon offers the service"],
    );
    has(&report, "unknown", &["configuration", "not compared"]);
    assert!(QuorumState::of(host).is_err());
}
