//! `status` and `nodes`.

use std::fs;

use tests::corosync::{Corosync, FORM_DEADLINE, QuorumState, Settings, await_quorate};
use tests::lab::{Host, Lab, Program};
use tests::wait::eventually;

use crate::support::{KINDS, can_run, document, pretend_mount, pvecm, said, settings};

/// `status` and `nodes` are what Corosync's tool prints, byte by byte, but for the time.
fn compare(host: &Host) {
    let without_date = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with("Date: "));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    for (args, tool, code) in [("status", "-siH", None), ("nodes", "-l", Some(0))] {
        let theirs = host.sh(&format!("corosync-quorumtool {tool}")).unwrap();
        let (theirs, _, their_code) = said(&theirs);
        let (ours, errors, our_code) = said(&pvecm(host, args));
        let body = match args {
            "status" => ours.split_once("\n\n").unwrap().1,
            _ => &ours,
        };
        assert_eq!(
            without_date(body),
            without_date(&theirs),
            "{} {args} {errors}",
            host.name()
        );
        assert_eq!(our_code, code.unwrap_or(their_code), "{args} {errors}");
        assert_eq!(errors, "", "{args}");
    }
}

fn await_members(host: &Host, quorate: bool, votes: usize) {
    let wanted = QuorumState { quorate, votes };
    let what = format!("{wanted:?} on {}", host.name());
    eventually(FORM_DEADLINE, &what, || {
        QuorumState::of(host).is_ok_and(|state| state == wanted)
    })
    .unwrap();
}

/// Writes configurations without names of nodes, and with names in the place of addresses.
fn install_names(settings: &Settings, host: &Host) {
    settings.install(host).unwrap();
    let path = host.disk("etc/corosync/corosync.conf");
    let text = fs::read_to_string(&path).unwrap();
    let lines = text.lines().filter(|line| !line.contains(" name: "));
    let text: String = lines
        .map(|line| line.replace("ring0_addr: 10.77.0.", "ring0_addr: n") + "\n")
        .collect();
    fs::write(path, text).unwrap();
}

#[test]
fn status_is_what_the_tool_prints_with_and_without_quorum() {
    if !can_run() {
        return;
    }
    for kind in KINDS {
        let lab = Lab::new(3).unwrap();
        let mut daemons = Corosync::start_cluster(&lab, &settings(3, kind)).unwrap();
        lab.hosts().iter().for_each(pretend_mount);
        lab.hosts().iter().for_each(compare);
        let (text, _, code) = said(&pvecm(lab.host(1), "status"));
        let header = "Cluster information\n-------------------\nName:             lab\n\
                      Config Version:   1\nTransport:        knet\nSecure auth:      off\n\n\
                      Quorum information\n";
        assert!(text.starts_with(header), "{text}");
        assert!(!text.contains("In words"), "{text}");
        assert_eq!(code, 0);
        let all = document(lab.host(1), "status");
        assert_eq!(all["quorum"]["quorate"], true, "{all}");
        assert_eq!(all["votes"]["flags"], serde_json::json!(["Quorate"]));
        assert_eq!(all["nodes"][2]["name"], "n3");

        let watch = Watch::start(lab.host(1));
        daemons.pop().unwrap().stop().unwrap();
        daemons.pop().unwrap().stop().unwrap();
        watch.shows_quorum_go();
        await_members(lab.host(1), false, 1);
        compare(lab.host(1));
        let (_, errors, code) = said(&pvecm(lab.host(1), "status"));
        assert_eq!((errors.as_str(), code), ("", 2));
        let all = document(lab.host(1), "status");
        let missing = serde_json::json!(["n2 (node 2)", "n3 (node 3)"]);
        assert_eq!(all["words"]["missing"], missing, "{all}");
        assert_eq!(all["nodes"][1]["online"], false, "{all}");
        // Links are seen at two moments.
        let apart_from_links = |mut nodes: serde_json::Value| {
            for node in nodes.as_array_mut().unwrap() {
                node.as_object_mut().unwrap().remove("links");
            }
            nodes
        };
        let nodes = apart_from_links(document(lab.host(1), "nodes"));
        assert_eq!(nodes, apart_from_links(all["nodes"].clone()));
        on_a_terminal(lab.host(1));
    }
}

/// A `status --watch`.
struct Watch(Program);

impl Watch {
    fn start(host: &Host) -> Self {
        let program = tests::daemon::built("pvecm", "PVECM_BIN").unwrap();
        let args = ["status", "--watch"];
        let watch = Self(host.start("watch", &program, &args).unwrap());
        watch.shows("\nQuorate:          Yes\n");
        watch
    }

    fn shows(&self, text: &str) {
        eventually(FORM_DEADLINE, text, || self.0.log().contains(text)).unwrap();
    }

    /// A state is shown when it differs from the one before, without a look at the clock.
    fn shows_quorum_go(self) {
        self.shows("\nQuorate:          No\n");
        self.shows("1 of 3 votes are here, 2 needed");
        self.0.kill();
        let text = self.0.log();
        let shown = text.split("Cluster information\n").map(|state| {
            let lines = state.lines().filter(|line| !line.starts_with("Date: "));
            lines.collect::<Vec<_>>()
        });
        let shown: Vec<_> = shown.collect();
        let all_differ = shown.windows(2).all(|pair| pair[0] != pair[1]);
        assert!(all_differ, "{text}");
    }
}

/// There it says what it means.
fn on_a_terminal(host: &Host) {
    let program = tests::daemon::built("pvecm", "PVECM_BIN").unwrap();
    let command = format!("script -qec '{} status' /dev/null", program.display());
    let (text, _, code) = said(&host.sh(&command).unwrap());
    for words in [
        "In words",
        "1 of 3 votes are here, 2 needed: this node may not act",
        "n2 (node 2), n3 (node 3)",
        "pvecm expected 1",
    ] {
        assert!(text.contains(words), "'{words}' is not in: {text}");
    }
    assert_eq!(code, 2, "{text}");
}

#[test]
fn status_is_what_the_tool_prints_for_two_nodes_and_for_names() {
    if !can_run() {
        return;
    }
    for kind in KINDS {
        let lab = Lab::new(2).unwrap();
        let mut settings = settings(2, kind);
        // With several links all nodes must have names.
        settings.links = 1;
        settings.quorum = vec!["two_node: 1".to_owned()];
        settings.totem = vec!["secauth: on".to_owned()];
        for host in lab.hosts() {
            install_names(&settings, host);
            pretend_mount(host);
        }
        // The first one has to wait for the other.
        let _first = Corosync::start(lab.host(1), &settings).unwrap();
        await_members(lab.host(1), false, 1);
        compare(lab.host(1));
        let (text, ..) = said(&pvecm(lab.host(1), "status"));
        assert!(
            text.contains("\nFlags:            2Node WaitForAll \n"),
            "{text}"
        );
        let all = document(lab.host(1), "status");
        let words = all["words"]["quorum"].as_str().unwrap();
        assert!(words.contains("wait_for_all is set"), "{all}");

        let second = Corosync::start(lab.host(2), &settings).unwrap();
        for host in lab.hosts() {
            await_members(host, true, 2);
            compare(host);
        }
        let (text, ..) = said(&pvecm(lab.host(2), "nodes"));
        assert!(text.contains("         1          1 n1"), "{text}");
        second.stop().unwrap();
        await_members(lab.host(1), true, 1);
        compare(lab.host(1));
    }
}

#[test]
fn status_says_what_is_not_there() {
    if !can_run() {
        return;
    }
    let lab = Lab::new(1).unwrap();
    let host = lab.host(1);
    let (text, errors, code) = said(&pvecm(host, "status"));
    assert_eq!((text.as_str(), code), ("", 2), "{errors}");
    assert!(
        errors.contains("(pmxcfs) not mounted on '/etc/pve"),
        "{errors}"
    );
    assert!(
        errors.contains("is this node part of a cluster?"),
        "{errors}"
    );

    host.sh_ok("ln -sfn nodes/n1 /etc/pve/local").unwrap();
    let (_, errors, code) = said(&pvecm(host, "status"));
    let expected = "Error: Corosync config '/etc/pve/corosync.conf' does not exist - is this node \
                    part of a cluster?\n";
    assert_eq!((errors.as_str(), code), (expected, 2));
    let (text, errors, code) = said(&pvecm(host, "status --watch"));
    assert_eq!((text.as_str(), errors.as_str(), code), ("", expected, 2));
    let (_, errors, code) = said(&pvecm(host, "quorum --force-local"));
    assert_eq!((errors.as_str(), code), (expected, 2));

    let settings = settings(1, "corosync");
    settings.install(host).unwrap();
    pretend_mount(host);
    let (text, errors, code) = said(&pvecm(host, "status"));
    assert!(text.starts_with("Cluster information\n"), "{text}");
    assert!(
        errors.starts_with("Cannot initialize CMAP service"),
        "{errors}"
    );
    assert!(errors.contains("systemctl start corosync"), "{errors}");
    assert_eq!(code, 1);
    assert!(document(host, "status")["error"].is_string());
    assert_eq!(said(&pvecm(host, "nodes")).2, 1);

    let _daemon = Corosync::start(host, &settings).unwrap();
    await_quorate(host, true).unwrap();
    host.sh_ok("rm /etc/pve/local").unwrap();
    let (text, errors, code) = said(&pvecm(host, "status"));
    assert!(text.contains("\nQuorate:          Yes\n"), "{text}");
    assert!(errors.contains("not mounted"), "{errors}");
    assert_eq!(code, 1);
}
