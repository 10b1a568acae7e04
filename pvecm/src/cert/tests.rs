use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use super::*;
use crate::host::Paths;
use crate::host::changes::Mode;

/// A moment at which the certificates of these tests are made.
const NOW: Duration = Duration::from_secs(1_900_000_000);
const DAY: Duration = Duration::from_secs(86_400);

/// Puts the cluster's keys and authority in place, made as of `now`: keys take long to make, and one
/// of each does for all tests.
pub fn install(host: &Host, now: Duration) {
    static KEY: OnceLock<Vec<u8>> = OnceLock::new();
    let text = KEY.get_or_init(|| x509::key_text(&x509::new_key(2048).unwrap()).unwrap());
    let key = openssl::pkey::PKey::private_key_from_pem(text).unwrap();
    let authority = ca::issue(&key, None, now).unwrap();
    let paths = &host.paths;
    fs::create_dir_all(paths.pve("priv")).unwrap();
    for private in ["priv/pve-root-ca.key", "priv/authkey.key", "pve-www.key"] {
        fs::write(paths.pve(private), text).unwrap();
    }
    fs::write(paths.pve("authkey.pub"), key.public_key_to_pem().unwrap()).unwrap();
    fs::write(paths.pve("pve-root-ca.pem"), authority.to_pem().unwrap()).unwrap();
}

struct Node {
    dir: TempDir,
    host: Host,
    facts: Facts,
}

fn node() -> Node {
    let dir = TempDir::new().unwrap();
    let host = Host {
        paths: Paths::below(dir.path()),
        name: "n1".parse().unwrap(),
    };
    for path in ["priv", "nodes/n1", "nodes/n2"] {
        fs::create_dir_all(host.paths.pve(path)).unwrap();
    }
    symlink("nodes/n1", host.paths.pve("local")).unwrap();
    fs::write(
        host.paths.at("etc/resolv.conf"),
        "domain x\nsearch lab.test more\n",
    )
    .unwrap();
    let facts = Facts {
        now: NOW,
        address: Ok("10.0.0.1".parse().unwrap()),
    };
    Node { dir, host, facts }
}

/// A node of a cluster that has its authority.
fn member() -> Node {
    let node = node();
    install(&node.host, NOW);
    node
}

impl Node {
    fn update(&self, force: bool) -> (Vec<String>, Outcome<bool>) {
        let mut changes = Changes::new(&self.host, Mode::Make, true);
        let result = update(&mut changes, &self.facts, force);
        ([changes.found(), changes.warnings()].concat(), result)
    }

    fn updated(&self) -> Vec<String> {
        let (found, result) = self.update(false);
        result.unwrap();
        found
    }

    fn pve(&self, path: &str) -> PathBuf {
        self.host.paths.pve(path)
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.pve(path)).unwrap()
    }

    /// What OpenSSL's own command says.
    fn openssl(&self, args: &str) -> String {
        let output = Command::new("openssl")
            .args(args.split(' '))
            .current_dir(self.dir.path().join("etc/pve"))
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{args}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Whether the strict checks of OpenSSL's own command pass, `days` from then.
    fn verify(&self, days: u32) {
        let at = (NOW + DAY * days).as_secs();
        let args = format!(
            "verify -x509_strict -purpose sslserver -verify_hostname n1.lab.test -attime {at} \
             -CAfile pve-root-ca.pem nodes/n1/pve-ssl.pem"
        );
        assert_eq!(self.openssl(&args), "nodes/n1/pve-ssl.pem: OK\n");
    }

    fn shown(&self, certificate: &str) -> String {
        self.openssl(&format!(
            "x509 -noout -text -nameopt RFC2253,-dn_rev -in {certificate}"
        ))
    }
}

#[test]
fn certificates_are_as_clusters_have_them() {
    let node = node();
    assert!(node.update(false).1.unwrap());
    node.verify(0);
    node.verify(728);
    let authority = node.shown("pve-root-ca.pem");
    let made = node.shown("nodes/n1/pve-ssl.pem");
    for part in [
        "Issuer: CN=Proxmox Virtual Environment,OU=",
        ",O=PVE Cluster Manager CA",
        "Public-Key: (4096 bit)",
        "Signature Algorithm: sha256WithRSAEncryption",
        "X509v3 Basic Constraints: critical\n                CA:TRUE",
        "X509v3 Key Usage: critical\n                Certificate Sign, CRL Sign",
        "Not Before: Mar 16 17:46:40 2030 GMT",
        "Not After : Mar 13 17:46:40 2040 GMT",
    ] {
        assert!(authority.contains(part), "{part}: {authority}");
    }
    for part in [
        "Serial Number: 1 (0x1)",
        "Subject: OU=PVE Cluster Node,O=Proxmox Virtual Environment,CN=n1.lab.test",
        "Public-Key: (2048 bit)",
        "CA:FALSE",
        "TLS Web Server Authentication",
        "IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1, DNS:localhost, IP Address:10.0.0.1, \
         DNS:n1, DNS:n1.lab.test",
        "X509v3 Subject Key Identifier",
        "X509v3 Authority Key Identifier",
        "Not Before: Mar 16 17:46:40 2030 GMT",
        "Not After : Mar 15 17:46:40 2032 GMT",
    ] {
        assert!(made.contains(part), "{part}: {made}");
    }
    assert_eq!(node.text("priv/pve-root-ca.srl"), "01\n");
    for key in [
        "priv/pve-root-ca.key",
        "priv/authkey.key",
        "pve-www.key",
        "nodes/n1/pve-ssl.key",
    ] {
        assert!(
            node.text(key).starts_with("-----BEGIN PRIVATE KEY-----"),
            "{key}"
        );
    }
    assert!(
        node.text("authkey.pub")
            .starts_with("-----BEGIN PUBLIC KEY-----")
    );
    assert_eq!(node.updated(), [""; 0], "a second time changes nothing");
}

#[test]
fn a_certificate_is_made_anew_when_it_must() {
    let mut node = member();
    node.updated();
    let (ca, key) = (
        node.text("pve-root-ca.pem"),
        node.text("nodes/n1/pve-ssl.key"),
    );
    let made = |found: &[String], why: &str| {
        assert_eq!(found, [format!("make a certificate of node 'n1': {why}")]);
    };
    node.facts.address = Ok("10.0.0.9".parse().unwrap());
    made(&node.updated(), "it lacks 10.0.0.9");
    fs::write(node.host.paths.at("etc/resolv.conf"), "search other.test\n").unwrap();
    made(&node.updated(), "it lacks n1.other.test");
    node.facts.now = NOW + DAY * 699;
    assert_eq!(node.updated(), [""; 0]);
    node.facts.now = NOW + DAY * 700;
    made(&node.updated(), "it ends in 29 days");
    assert_eq!(node.updated(), [""; 0]);
    fs::write(node.pve("nodes/n1/pve-ssl.pem"), "").unwrap();
    made(&node.updated(), "there is none");
    assert_eq!(node.text("nodes/n1/pve-ssl.key"), key, "the key is kept");
    fs::write(node.pve("nodes/n1/pve-ssl.key"), "broken").unwrap();
    made(&node.updated(), "it is of another key");
    assert_eq!(node.text("priv/pve-root-ca.srl"), "06\n");
    fs::remove_file(node.pve("priv/pve-root-ca.srl")).unwrap();
    made(&node.update(true).0, "as asked");
    assert_eq!(
        node.text("priv/pve-root-ca.srl"),
        "07\n",
        "no number is given twice"
    );
    assert_eq!(node.text("pve-root-ca.pem"), ca);
}

#[test]
fn the_authority_is_renewed_with_its_key_and_name() {
    let mut node = member();
    node.facts.now = NOW + DAY * 3200;
    node.updated();
    let old = node.text("pve-root-ca.pem");
    node.facts.now = NOW + DAY * 3285;
    let found = node.updated();
    assert_eq!(
        found,
        ["make a new certificate of the cluster's certificate authority"]
    );
    assert_ne!(node.text("pve-root-ca.pem"), old);
    // The old certificate of the node is good with the new authority, and the other way round.
    node.verify(3290);
    let (found, _) = node.update(true);
    assert_eq!(found.len(), 1, "{found:?}");
    node.verify(3290);
    node.verify(4000);
    fs::write(node.pve("pve-root-ca.pem"), old).unwrap();
    node.verify(3290);
}

#[test]
fn what_a_killed_command_left_is_mended() {
    let node = member();
    node.updated();
    for half in [
        "pve-root-ca.pem",
        "nodes/n1/pve-ssl.key",
        "authkey.pub",
        "priv/authkey.key",
    ] {
        fs::remove_file(node.pve(half)).unwrap();
        assert!(!node.updated().is_empty(), "{half}");
        node.verify(0);
        assert_eq!(node.updated(), [""; 0], "{half}");
    }
    // The key of a new authority is there, its certificate is the old one.
    let new = x509::key_text(&x509::new_key(2048).unwrap()).unwrap();
    fs::write(node.pve("priv/pve-root-ca.key"), new).unwrap();
    node.updated();
    node.verify(0);
}

#[test]
fn an_administrators_authority_is_left_alone() {
    let node = node();
    node.openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout other.key -out pve-root-ca.pem -subj /O=Mine",
    );
    let theirs = node.text("pve-root-ca.pem");
    let (_, result) = node.update(false);
    assert!(
        result
            .unwrap_err()
            .to_string()
            .contains("not this cluster's own authority")
    );
    node.openssl(
        "req -x509 -newkey rsa:2048 -nodes -keyout nodes/n1/pve-ssl.key \
         -out nodes/n1/pve-ssl.pem -subj /CN=n1",
    );
    let leaf = node.text("nodes/n1/pve-ssl.pem");
    assert_eq!(node.updated(), [""; 0]);
    assert_eq!(node.text("pve-root-ca.pem"), theirs);
    assert_eq!(node.text("nodes/n1/pve-ssl.pem"), leaf);
}

#[test]
fn a_node_without_address_keeps_its_certificate() {
    let mut node = member();
    node.updated();
    node.facts.address = Err(Failure::refused("does not resolve"));
    assert_eq!(node.updated(), [""; 0]);
    fs::remove_file(node.pve("nodes/n1/pve-ssl.pem")).unwrap();
    assert_eq!(
        node.update(false).1.unwrap_err().to_string(),
        "does not resolve"
    );
}

#[test]
fn fingerprints_are_of_the_certificate_that_is_shown() {
    let node = member();
    assert!(fingerprint(&node.host, "n1").is_err());
    node.updated();
    let says = node.openssl("x509 -noout -fingerprint -sha256 -in nodes/n1/pve-ssl.pem");
    let found = fingerprint(&node.host, "n1").unwrap().to_string();
    assert_eq!(says.trim().split('=').nth(1), Some(&*found));
    fs::copy(
        node.pve("pve-root-ca.pem"),
        node.pve("nodes/n1/pveproxy-ssl.pem"),
    )
    .unwrap();
    assert_ne!(fingerprint(&node.host, "n1").unwrap().to_string(), found);
}

#[test]
fn the_ticket_key_is_changed_once_a_day() {
    let node = member();
    node.updated();
    let old = node.text("authkey.pub");
    let now = crate::host::calendar();
    assert!(!authkey::rotate(&node.host, now).unwrap());
    assert!(authkey::rotate(&node.host, now + DAY + DAY).unwrap());
    assert_eq!(node.text("authkey.pub.old"), old);
    assert_ne!(node.text("authkey.pub"), old);
    assert_eq!(node.updated(), [""; 0], "the halves belong together");
    assert!(!node.pve("priv/lock/authkey").exists());
}

#[test]
fn the_authority_gets_a_new_key_and_nothing_is_refused_meanwhile() {
    use rollover::{Phase, Step, phase, step};
    let node = member();
    node.updated();
    let trusted = |file: &str| fs::copy(node.pve("pve-root-ca.pem"), node.pve(file)).unwrap();
    let verifies = |trust: &str| {
        let at = NOW.as_secs();
        let args = format!("verify -x509_strict -attime {at} -CAfile {trust} nodes/n1/pve-ssl.pem");
        node.openssl(&args);
    };
    let done = |mode, wanted| {
        let mut changes = Changes::new(&node.host, mode, true);
        step(&mut changes, &node.facts, wanted).map(|(phase, _)| phase)
    };
    // Another node, which is slow.
    fs::copy(
        node.pve("nodes/n1/pve-ssl.pem"),
        node.pve("nodes/n2/pve-ssl.pem"),
    )
    .unwrap();
    trusted("old.pem");
    assert_eq!(phase(&node.host), Phase::None);
    assert_eq!(done(Mode::Say, Step::Announce), Ok(Phase::Announced));
    assert_eq!(phase(&node.host), Phase::None, "a dry run does nothing");

    // Once more: a step does not go on by itself.
    for _ in 0..2 {
        assert_eq!(done(Mode::Make, Step::Announce), Ok(Phase::Announced));
        assert_eq!(phase(&node.host), Phase::Announced);
    }
    assert_eq!(node.updated(), [""; 0], "the old one signs");
    verifies("old.pem");
    trusted("both.pem");

    let key = node.text("priv/pve-root-ca.key");
    let next_key = node.text("priv/pve-root-ca-next.key");
    for _ in 0..2 {
        assert_eq!(done(Mode::Make, Step::Switch), Ok(Phase::Switched));
        assert_eq!(phase(&node.host), Phase::Switched);
    }
    assert_ne!(node.text("priv/pve-root-ca.key"), key);
    assert!(!node.pve("priv/pve-root-ca-next.key").exists());
    verifies("both.pem");
    assert_eq!(
        node.updated(),
        ["make a certificate of node 'n1': it is of another authority"]
    );
    verifies("both.pem");
    verifies("pve-root-ca.pem");
    let early = done(Mode::Make, Step::Finish).unwrap_err().to_string();
    assert!(
        early.contains("certificate of the old authority: n2;"),
        "{early}"
    );

    // Killed in the middle of the switch.
    fs::write(node.pve("priv/pve-root-ca-next.key"), &next_key).unwrap();
    fs::copy(node.pve("both.pem"), node.pve("pve-root-ca.pem")).unwrap();
    assert_eq!(node.updated(), [""; 0]);
    assert_eq!(phase(&node.host), Phase::Switched);

    // The certificate of the new one is renewed without a loss of the old one.
    fs::remove_dir_all(node.pve("nodes/n2")).unwrap();
    assert_eq!(done(Mode::Make, Step::Finish), Ok(Phase::None));
    assert_eq!(phase(&node.host), Phase::None);
    assert_eq!(node.updated(), [""; 0]);
    verifies("pve-root-ca.pem");
    assert_eq!(node.text("pve-root-ca.pem").matches("BEGIN").count(), 1);
    assert!(!node.pve("priv/pve-root-ca-next.key").exists());

    // Killed before the certificate of the next key: it is that key which goes on.
    fs::write(node.pve("priv/pve-root-ca-next.key"), &key).unwrap();
    assert_eq!(done(Mode::Make, Step::Announce), Ok(Phase::Announced));
    assert_eq!(node.text("priv/pve-root-ca-next.key"), key);
}

#[test]
fn a_step_before_its_turn_is_refused() {
    use rollover::{Phase, Step, step};
    let node = member();
    node.updated();
    let done = |wanted| {
        let mut changes = Changes::new(&node.host, Mode::Make, true);
        step(&mut changes, &node.facts, wanted).map(|(phase, _)| phase)
    };
    let refused = |wanted| {
        let before = node.text("pve-root-ca.pem");
        let failure = done(wanted).unwrap_err();
        assert!(failure.to_string().contains("certs rollover"), "{failure}");
        assert_eq!(node.text("pve-root-ca.pem"), before);
    };
    refused(Step::Switch);
    assert_eq!(done(Step::Finish), Ok(Phase::None));
    done(Step::Announce).unwrap();
    refused(Step::Finish);
    let (both, key) = (
        node.text("pve-root-ca.pem"),
        node.text("priv/pve-root-ca-next.key"),
    );
    done(Step::Switch).unwrap();
    let switched = node.text("pve-root-ca.pem");
    assert_ne!(switched, both);
    // Killed in the middle: run again, it does the rest.
    fs::write(node.pve("pve-root-ca.pem"), both).unwrap();
    fs::write(node.pve("priv/pve-root-ca-next.key"), key).unwrap();
    done(Step::Switch).unwrap();
    assert_eq!(node.text("pve-root-ca.pem"), switched);
    assert!(!node.pve("priv/pve-root-ca-next.key").exists());
    refused(Step::Announce);
}

#[test]
fn what_is_trusted_beside_a_renewed_authority_stays() {
    let mut node = member();
    let mut changes = Changes::new(&node.host, Mode::Make, true);
    rollover::step(&mut changes, &node.facts, rollover::Step::Announce).unwrap();
    node.facts.now = NOW + DAY * 3400;
    let found = node.updated();
    assert!(
        found
            .iter()
            .any(|line| line.contains("new certificate of the cluster's")),
        "{found:?}"
    );
    assert_eq!(node.text("pve-root-ca.pem").matches("BEGIN").count(), 2);
    assert_eq!(rollover::phase(&node.host), rollover::Phase::Announced);
}

#[test]
fn all_certificates_are_listed() {
    let node = member();
    node.updated();
    fs::copy(
        node.pve("nodes/n1/pve-ssl.pem"),
        node.pve("nodes/n2/pveproxy-ssl.pem"),
    )
    .unwrap();
    // One file that holds nothing of use does not hide the others.
    fs::create_dir_all(node.pve("nodes/n3")).unwrap();
    fs::write(node.pve("nodes/n3/pve-ssl.pem"), "rubbish").unwrap();
    let listed = list::list(&node.host, NOW);
    assert_eq!(listed.unusable.len(), 1);
    assert_eq!(listed.unusable[0].file, "nodes/n3/pve-ssl.pem");
    assert!(listed.unusable[0].error.contains("can not use"));
    let all = listed.certificates;
    let files: Vec<&str> = all.iter().map(|it| it.file.as_str()).collect();
    assert_eq!(
        files,
        [
            "pve-root-ca.pem",
            "nodes/n1/pve-ssl.pem",
            "nodes/n2/pveproxy-ssl.pem"
        ]
    );
    assert_eq!(
        all[1].names,
        [
            "127.0.0.1",
            "::1",
            "localhost",
            "10.0.0.1",
            "n1",
            "n1.lab.test"
        ]
    );
    assert_eq!(
        all[1].subject,
        "OU=PVE Cluster Node, O=Proxmox Virtual Environment, CN=n1.lab.test"
    );
    assert_eq!(all[1].issuer, all[0].subject);
    assert_eq!(all[1].days, 729);
    let own = fingerprint(&node.host, "n1").unwrap().to_string();
    assert_eq!(all[1].fingerprint, own);
}
