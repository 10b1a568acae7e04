use proptest::prelude::*;

use super::super::test_host::TestHost;
use super::*;

const BASE: &str = "totem {\n version: 2\n cluster_name: c\n config_version: 4\n secauth: on\n}\n\
    quorum {\n provider: corosync_votequorum\n}\nnodelist {\n node {\n  name: n1\n  nodeid: 1\n  \
    ring0_addr: 10.77.0.1\n  ring1_addr: 10.77.1.1\n }\n node {\n  name: n2\n  nodeid: 2\n  \
    ring0_addr: host-two\n  ring1_addr: 10.77.1.2\n }\n}\n";

fn running() -> Config {
    Config::read(BASE.as_bytes(), &TestHost).unwrap()
}

fn reload(text: &str) -> Result<Reload, Refusal> {
    Reload::of_file(&running(), text.as_bytes(), [], &TestHost)
}

fn texts(reload: &Reload) -> Vec<String> {
    reload.notes.iter().map(ToString::to_string).collect()
}

#[test]
fn what_changes_is_told_in_order() {
    let same = reload(BASE).unwrap();
    assert_eq!(same.notes, [Note::Unchanged]);
    assert_eq!(same.plan.config, running());
    let text = BASE
        .replace("version: 4", "version: 5\n token: 5000\n link_mode: active")
        .replace("10.77.1.2", "10.77.1.9");
    let reload = reload(&text).unwrap();
    let expected = [
        "configuration version 4 becomes 5",
        "node 2 moves from 10.77.1.2 to 10.77.1.9 on link 1",
        "settings of link 0 change",
        "settings of link 1 change",
        "timers of the ring change",
        "totem.link_mode can not be changed at run time: the default stays in force, restart to \
         get 'active'",
    ];
    assert_eq!(texts(&reload), expected);
    assert!(!reload.keys_changed());
}

#[test]
fn a_new_key_file_changes_keys() {
    let text = BASE.replace("secauth: on", "secauth: on\n keyfile: other");
    assert!(reload(&text).unwrap().keys_changed());
}

#[test]
fn an_older_file_is_refused() {
    for (text, wanted) in [
        (BASE.replace("version: 4", "version: 3"), 3),
        (BASE.replace(" config_version: 4\n", ""), 0),
    ] {
        let refusal = Refusal::OlderVersion { running: 4, wanted };
        assert_eq!(reload(&text), Err(refusal.clone()));
        let shown = refusal.render("corosync.conf");
        assert!(shown.contains("give it a version above 4"), "{shown}");
    }
}

#[test]
fn broken_files_and_cut_off_nodes_are_refused() {
    let broken = reload(&BASE.replace("nodelist {", "nodelist"));
    assert!(matches!(broken, Err(Refusal::Invalid(_))), "{broken:?}");
    let low = reload(&BASE.replace("secauth: on", "secauth: on\n token: 20")).unwrap_err();
    assert!(matches!(low, Refusal::Invalid(_)));
    assert!(low.render("corosync.conf").starts_with("corosync.conf:"));
    let renumbered = reload(&BASE.replace("nodeid: 1", "nodeid: 4"));
    let expected = CutOff::OtherNodeId {
        running: 1,
        wanted: 4,
    };
    assert_eq!(renumbered, Err(Refusal::CutOff(expected)));
}

#[test]
fn what_no_daemon_starts_with_is_refused() {
    let text = BASE.replace("secauth: on", "secauth: on\n knet_compression_model: zlib");
    let key = "totem.knet_compression_model";
    assert_eq!(reload(&text), Err(Refusal::Unsupported(key)));
    let written = Reload::of_key(&running(), key, Some(Value::Text("zlib".to_owned())));
    assert_eq!(written, Err(Refusal::Unsupported(key)));
}

#[test]
fn other_files_grant_access() {
    let more: &[u8] = b"uidgid {\n uid: 7\n}\n";
    let reload = Reload::of_file(&running(), BASE.as_bytes(), [more], &TestHost).unwrap();
    assert_eq!(reload.notes, [Note::Changed(Change::Access)]);
    let bad: &[u8] = b"totem {\n version: 2\n}\n";
    let refused = Reload::of_file(&running(), BASE.as_bytes(), [bad], &TestHost);
    assert!(matches!(refused, Err(Refusal::Invalid(_))));
}

#[test]
fn a_single_key_needs_nothing_of_the_machine() {
    let running = running();
    let token = Reload::of_key(&running, "totem.token", Some(Value::U32(5000))).unwrap();
    assert_eq!(token.plan.config.totem.timers.token, 5000);
    assert_eq!(token.plan.config.nodes, running.nodes);
    assert_eq!(token.plan.config.local, running.local);
    assert_eq!(token.plan.config.totem.crypto, running.totem.crypto);
    assert!(token.plan.changes.contains(&Change::Timers));
    let back = Reload::of_key(&token.plan.config, "totem.token", None).unwrap();
    assert_eq!(back.plan.config, running);
    let low = Reload::of_key(&running, "totem.token", Some(Value::U32(20)));
    // No line of a file is to blame.
    let low = low.unwrap_err().to_string();
    assert!(low.starts_with("The token timeout"), "{low}");
    let votes = Reload::of_key(&running, "quorum.expected_votes", Some(Value::U32(5))).unwrap();
    assert_eq!(votes.plan.changes, [Change::Quorum]);
}

proptest! {
    /// Whatever a client writes, a configuration that is applied keeps this node in the cluster.
    #[test]
    fn no_key_cuts_this_node_off(
        key in "(totem|quorum|nodelist[.]node[.]0|logging)[.](token|votes|expected_votes|nodeid|name|ring0_addr|transport|debug|[a-z]{1,6})",
        number in any::<u32>(),
        text in prop::option::of("[a-z0-9.]{0,9}"),
    ) {
        let running = running();
        let value = text.map_or(Value::U32(number), Value::Text);
        if let Ok(reload) = Reload::of_key(&running, &key, Some(value)) {
            let (old, new) = (running.local_node().unwrap(), reload.plan.config.local_node().unwrap());
            prop_assert_eq!(old.id, new.id);
            prop_assert_eq!(reload.plan.config.totem.transport, running.totem.transport);
        }
    }
}
