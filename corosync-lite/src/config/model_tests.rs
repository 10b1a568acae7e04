use proptest::prelude::*;

use super::super::error::Problem;
use super::super::host::Host;
use super::super::keys::Value;
use super::super::syntax::Document;
use super::super::test_host::TestHost;
use super::*;

fn read(text: &str) -> Config {
    Config::read(text.as_bytes(), &TestHost).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// What the real daemon says to a set of files.
#[test]
fn agrees_with_corosync() {
    let path = crate::qb::vectors::path("totem/conf-cases.json");
    let cases: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (mut accepted, mut refused) = (0, 0);
    for case in cases.as_array().unwrap() {
        let field = |name: &str| case[name].as_str().unwrap();
        let (name, message) = (field("name"), field("message"));
        let exit = case["exit"].as_u64().unwrap();
        let ours = Config::read(field("config").as_bytes(), &TestHost);
        match (exit, ours) {
            // Whether a directory exists is found out by whoever uses it.
            (16, ours) => assert!(ours.is_ok(), "{name}: {ours:?}"),
            // The original aborts here.
            (134, ours) => assert!(matches!(
                ours.unwrap_err().problem,
                Problem::NotANumber { max: u64::MAX, .. }
            )),
            (0, ours) => {
                accepted += 1;
                assert!(ours.is_ok(), "{name}: {ours:?}");
            }
            (_, Ok(_)) => panic!("{name} must be refused: {message}"),
            (_, Err(error)) => {
                refused += 1;
                assert_eq!(u64::from(error.exit_status()), exit, "{name}");
                let said = error.original_message("FILE");
                match error.problem {
                    Problem::MissingClose => assert!(said.ends_with("Missing closing brace")),
                    _ => assert_eq!(said, message, "{name}"),
                }
                assert!(error.render("FILE").contains(&error.problem.to_string()));
            }
        }
    }
    assert_eq!((accepted, refused), (34, 89));
}

fn nodes(count: usize) -> String {
    let node =
        |n: usize| format!("node {{\nname: n{n}\nnodeid: {n}\nring0_addr: 10.77.0.{n}\n}}\n");
    format!(
        "nodelist {{\n{}}}\n",
        (1..=count).map(node).collect::<String>()
    )
}

fn with(totem: &str, count: usize) -> String {
    format!(
        "totem {{\nversion: 2\ncluster_name: spdtest\n{totem}\n}}\n{}",
        nodes(count)
    )
}

#[test]
fn timers_follow_from_token_and_nodes() {
    let of = |totem: &str, count| {
        let timers = read(&with(totem, count)).totem.timers;
        (
            timers.token,
            timers.token_retransmit,
            timers.hold,
            timers.consensus,
        )
    };
    assert_eq!(of("", 2), (3000, 714, 561, 3600));
    assert_eq!(of("", 3), (3650, 869, 685, 4380));
    assert_eq!(of("token_coefficient: 125", 4), (3250, 773, 608, 3900));
    assert_eq!(
        of("token: 10000\nhold: 50\nconsensus: 20000", 1),
        (10_000, 2380, 50, 20_000)
    );
    let link = &read(&with("", 2)).links[&0];
    assert_eq!(
        (link.ping_interval, link.ping_timeout, link.port),
        (750, 1500, 5405)
    );
}

#[test]
fn multicast_address_follows_from_the_name() {
    let link = &read(&with("transport: udp", 2)).links[&0];
    assert_eq!(link.multicast, Some("239.192.55.197".parse().unwrap()));
}

#[test]
fn encryption_is_chosen_as_written() {
    let of = |totem: &str| {
        read(&with(totem, 2))
            .totem
            .crypto
            .map(|c| (c.cipher, c.hash))
    };
    assert_eq!(of(""), None);
    assert_eq!(of("secauth: on"), Some((Cipher::Aes256, Hash::Sha256)));
    assert_eq!(
        of("secauth: on\ncrypto_hash: sha1"),
        Some((Cipher::Aes256, Hash::Sha1))
    );
    assert_eq!(
        of("crypto_hash: sha512"),
        Some((Cipher::None, Hash::Sha512))
    );
    let crypto = read(&with("secauth: on", 2)).totem.crypto.unwrap();
    assert_eq!(crypto.key.len(), 256);
    assert_eq!(
        format!("{crypto:?}"),
        "Crypto { cipher: Aes256, hash: Sha256, .. }"
    );
}

fn warnings(text: &str) -> Vec<String> {
    let warnings = read(text).warnings;
    warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn slips_of_the_pen_are_named() {
    let node = "nodelist {\n node {\n  name: n1\n  nodeid: 1\n  ring0_addr: 10.77.0.1\n }\n";
    let text = format!(
        "top: 1\ntotem {{\n version: 2\n secauth: on\n key: {}\n tokne: 1000\n interface {{\n  \
         linknumber: 0\n  knet_link_priotiry: 5\n  knet_ping_interval: 500\n }}\n}}\n{node} node {{\n  \
         name: n1\n  nodeid: 2\n  ring0_addr: 10.77.0.1\n  quorum_vote: 1\n }}\n}}\n\
         quorun {{\n provider: x\n}}\nresources {{\n any: 1\n}}\nquorum {{\n device {{\n  model: net\n  \
         votes: 1\n  net {{\n   host: x\n  }}\n }}\n}}\nlogging {{\n to_logfile: yes\n}}\n",
        "k".repeat(128)
    );
    let expected = [
        "nodelist.node.1.quorum_vote: no effect: not known here; is 'quorum_votes' meant?",
        "top: no effect: it is in no section",
        "totem.interface.knet_link_priotiry: no effect: not known here; is 'knet_link_priority' meant?",
        "totem.tokne: no effect: not known here; is 'token' meant?",
        "quorun: no effect: a section that is not known here; is 'quorum' meant?",
        "nodelist.node.1.name: node 1 has the same name: one of both is wrong",
        "nodelist.node.1.ring0_addr: node 1 has the same address: one of both is wrong",
        "logging.to_logfile: no effect: 'logfile' does not say which file",
    ];
    assert_eq!(warnings(&text), expected);
}

/// A file of Corosync 2, with the two rings that it called so.
#[test]
fn old_rings_are_read_with_warnings() {
    let text = "totem {\n version: 2\n secauth: on\n cluster_name: old\n config_version: 4\n \
                ip_version: ipv4\n rrp_mode: passive\n interface {\n  bindnetaddr: 10.77.0.1\n  \
                ringnumber: 0\n }\n interface {\n  bindnetaddr: 10.77.1.1\n  ringnumber: 1\n  \
                mcastport: 5500\n }\n}\nnodelist {\n node {\n  name: n1\n  nodeid: 1\n  \
                ring0_addr: n1-is-10.77.0.1\n  ring1_addr: 10.77.1.1\n }\n}\n";
    let text = text.replace("n1-is-", "");
    let config = read(&text);
    assert_eq!(config.links.keys().copied().collect::<Vec<_>>(), [0, 1]);
    assert_eq!((config.links[&0].port, config.links[&1].port), (5405, 5500));
    assert_eq!(config.totem.config_version, 4);
    let keys: Vec<_> = config
        .warnings
        .iter()
        .map(|warning| warning.key.as_str())
        .collect();
    let expected = [
        "totem.interface.0.bindnetaddr",
        "totem.interface.1.bindnetaddr",
        "totem.interface.ringnumber",
        "totem.rrp_mode",
    ];
    assert_eq!(keys, expected);
}

#[test]
fn a_host_is_found_as_the_original_finds_it() {
    struct Named(&'static str);
    impl Host for Named {
        fn name(&self) -> String {
            self.0.to_owned()
        }
        fn addresses(&self) -> Vec<IpAddr> {
            TestHost.addresses()
        }
        fn name_of(&self, address: IpAddr) -> Option<String> {
            (address.to_string() == "10.77.1.1").then(|| "storage.example.com".to_owned())
        }
        fn resolve(&self, name: &str) -> Vec<IpAddr> {
            let known = if name == "alias" { "10.77.0.1" } else { name };
            let invented = "10.99.0.1".parse();
            known.parse().or(invented).into_iter().collect()
        }
        fn read_key(&self, _: &str) -> Result<Vec<u8>, String> {
            Err(String::new())
        }
    }
    let list = |names: &[&str]| {
        let node =
            |(n, name): (usize, &&str)| format!("node {{\nnodeid: {n}\nring0_addr: {name}\n}}\n");
        let nodes: String = (1..).zip(names).map(node).collect();
        format!("totem {{\nversion: 2\n}}\nnodelist {{\n{nodes}}}\n")
    };
    let found = |host: &'static str, names: &[&str]| {
        Config::read(list(names).as_bytes(), &Named(host))
            .ok()
            .and_then(|config| config.local)
    };
    assert_eq!(found("b", &["a", "b"]), Some(1));
    assert_eq!(found("b.example.com", &["a", "b.example"]), Some(1));
    assert_eq!(found("b.example.com", &["a", "b"]), Some(1));
    assert_eq!(found("b", &["a", "b.example.com"]), Some(1));
    assert_eq!(found("x", &["a", "10.77.0.1"]), Some(1));
    assert_eq!(found("x", &["a", "storage"]), Some(1));
    assert_eq!(found("x", &["a", "alias"]), Some(1));
    assert_eq!(found("x", &["a", "b"]), None);
}

#[test]
fn keys_have_the_types_that_clients_expect() {
    let text = with(
        "config_version: 7\nsecauth: on\ntoken: 4000\ninterface {\nlinknumber: 0\n\
                     knet_link_priority: 9\nmcastport: 5410\n}",
        2,
    ) + "quorum {\nprovider: corosync_votequorum\ntwo_node: 1\ndevice {\nvotes: 1\nmodel: net\n\
           net {\nhost: h\n}\n}\n}\nlogging {\nlogger_subsys {\nsubsys: CPG\ndebug: on\n}\n}\n\
           uidgid {\nuid: hacluster\ngid: 33\n}\n";
    let keys = read(&text).keys;
    let value = |key: &str| keys.entry(key).map(|entry| entry.value.clone());
    assert_eq!(value("totem.config_version"), Some(Value::U64(7)));
    assert_eq!(value("totem.version"), Some(Value::U32(2)));
    assert_eq!(value("totem.secauth"), Some(Value::Text("on".into())));
    assert_eq!(
        value("totem.interface.0.knet_link_priority"),
        Some(Value::U8(9))
    );
    assert_eq!(value("totem.interface.0.mcastport"), Some(Value::U16(5410)));
    assert_eq!(value("totem.interface.0.linknumber"), None);
    assert_eq!(value("nodelist.node.1.nodeid"), Some(Value::U32(2)));
    assert_eq!(
        value("nodelist.node.1.name"),
        Some(Value::Text("n2".into()))
    );
    assert_eq!(value("quorum.two_node"), Some(Value::U8(1)));
    assert_eq!(value("quorum.device.votes"), Some(Value::U32(1)));
    assert_eq!(
        value("quorum.device.net.host"),
        Some(Value::Text("h".into()))
    );
    assert_eq!(
        value("logging.logger_subsys.CPG.debug"),
        Some(Value::Text("on".into()))
    );
    assert_eq!(value("uidgid.config.uid.189"), Some(Value::U8(1)));
    assert_eq!(value("uidgid.config.gid.33"), Some(Value::U8(1)));
}

#[test]
fn a_directory_of_permissions_allows_nothing_else() {
    let mut keys = Keys::default();
    let document = |text: &str| Document::parse(text.as_bytes()).unwrap();
    keys.read_uidgid(&document("uidgid {\nuid: 1000\n}\n"), &TestHost)
        .unwrap();
    assert!(keys.entry("uidgid.config.uid.1000").is_some());
    let error = keys
        .read_uidgid(&document("# more\ntotem {\n}\n"), &TestHost)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("line 2, column 1: ") && error.contains("different than uidgid"),
        "{error}"
    );
    assert!(keys.entry("uidgid.config.uid.1000").is_some());
}

proptest! {
    /// Files that are put together from real keys and any values are read or refused.
    #[test]
    fn any_values_are_taken(
        lines in proptest::collection::vec(
            ("(token|version|transport|link_mode|secauth|crypto_hash|key|interface \\{|\\}|\
              linknumber|ringnumber|mcastaddr|ttl|nodelist \\{|totem \\{|node \\{|nodeid|\
              ring0_addr|ring9_addr|ring1_addr|name|quorum \\{|two_node|expected_votes)",
             "(|0|1|2|7|8|-1|on|udp|knet|10.77.0.1|::1|n1|4294967295|x)"),
            0..40,
        ),
    ) {
        let line = |(key, value): &(String, String)| {
            if key.ends_with(['{', '}']) { format!("{key}\n") } else { format!("{key}: {value}\n") }
        };
        let text: String = lines.iter().map(line).collect();
        let open = text.matches('{').count().saturating_sub(text.matches('}').count());
        drop(Config::read((text + &"}\n".repeat(open)).as_bytes(), &TestHost));
    }

    #[test]
    fn any_timers_are_taken(token: u32, retransmits: u32, coefficient: u32, count in 1usize..8) {
        let totem = format!(
            "token: {token}\ntoken_retransmits_before_loss_const: {retransmits}\n\
             token_coefficient: {coefficient}\ninterface {{\nknet_pong_count: {retransmits}\n}}"
        );
        drop(Config::read(with(&totem, count).as_bytes(), &TestHost));
    }
}
