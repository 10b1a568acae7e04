//! `pvecm serve` on nodes of a real cluster: with PAM, and with an API client from PyPI as it is.

#![expect(
    clippy::unwrap_used,
    reason = "functions that tests share fail the test as tests do"
)]

mod client;

use std::path::Path;
use std::time::Duration;

use client::Client;
use tests::cluster::Cluster;
use tests::daemon::built;
use tests::lab::{Program, Requirement, available};
use tests::wait::eventually;

const NEEDED: [Requirement; 4] = [
    Requirement::Root,
    Requirement::Fuse,
    Requirement::Network,
    Requirement::Corosync,
];
const START_LIMIT: Duration = Duration::from_secs(30);
const END_LIMIT: Duration = Duration::from_secs(20);
/// What users choose: everything that has to be escaped somewhere.
const PASSWORD: &str = "r\u{f6}\u{f6}t & n=1 +%41;'\"";
/// What packages install for PAM.
const PAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd/packages/pvecm/pam");

/// Nodes that serve the API. Fields are dropped in order.
struct Nodes {
    servers: Vec<Program>,
    cluster: Cluster,
    pvecm: String,
}

impl Nodes {
    fn start(count: usize) -> Self {
        let pvecm = built("pvecm", "PVECM_BIN").unwrap();
        let cluster = Cluster::start(count).unwrap();
        let mut nodes = Self {
            servers: Vec::new(),
            cluster,
            pvecm: pvecm.to_str().unwrap().to_owned(),
        };
        for id in 1..=count {
            nodes.run(id, "updatecerts");
            nodes.set_password(id);
        }
        for id in 1..=count {
            let host = nodes.cluster.lab.host(id);
            let server = host.start("pvecm-serve", &pvecm, &["serve"]).unwrap();
            eventually(START_LIMIT, "a server that listens", || {
                server.check_running().unwrap();
                server.log().contains("listening on")
            })
            .unwrap();
            nodes.servers.push(server);
        }
        nodes
    }

    /// Runs `pvecm` on a node.
    fn run(&self, id: usize, args: &str) -> String {
        let command = format!("{} {args}", self.pvecm);
        self.cluster.lab.host(id).sh_ok(&command).unwrap()
    }

    fn set_password(&self, id: usize) {
        let host = self.cluster.lab.host(id);
        let file = host.path("/run/password");
        std::fs::write(&file, format!("root:{PASSWORD}\n")).unwrap();
        host.sh_ok("chpasswd </run/password && rm /run/password")
            .unwrap();
    }

    /// Waits until a node has so many tokens: what one node did reaches the others a moment later.
    fn await_tokens(&self, id: usize, count: usize) {
        eventually(START_LIMIT, &format!("{count} tokens on n{id}"), || {
            let listed = self.run(id, "token list --output-format json");
            let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
            listed.as_array().unwrap().len() == count
        })
        .unwrap();
    }

    /// What the servers wrote so far.
    fn logs(&self) -> String {
        self.servers.iter().map(Program::log).collect()
    }
}

#[test]
fn an_api_client_from_pypi_uses_every_call() {
    let Some(client) = client_and(&NEEDED) else {
        return;
    };
    let nodes = Nodes::start(2);
    let (n1, n2) = (nodes.cluster.lab.host(1), nodes.cluster.lab.host(2));
    // Without a file of its own PAM goes by that for all others, then by the one of the package.
    client.run(n2, "login.py", &[&n1.address(0), PASSWORD]);
    let pam = n1.path("/etc/pam.d/proxmox-ve-auth");
    std::fs::copy(Path::new(PAM), pam).unwrap();
    client.run(n2, "login.py", &[&n1.address(0), PASSWORD]);
    client.run(n2, "calls.py", &[&n1.address(0), &n2.address(0), PASSWORD]);
    let log = nodes.logs();
    assert!(log.contains("successful auth for user 'root@pam'"), "{log}");
    assert!(
        log.contains("authentication failure; rhost=10.77.0.2"),
        "{log}"
    );
    for secret in [PASSWORD, "r\u{f6}\u{f6}t", "wrong-guess", "PVE:root"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[test]
fn a_token_is_used_once_in_the_whole_cluster() {
    let Some(client) = client_and(&NEEDED) else {
        return;
    };
    let nodes = Nodes::start(2);
    let (n1, n2) = (nodes.cluster.lab.host(1), nodes.cluster.lab.host(2));
    let made: serde_json::Value =
        serde_json::from_str(&nodes.run(1, "token --minutes 5 --output-format json")).unwrap();
    let token = made["token"].as_str().unwrap();
    // Every node gets to know it, and that it was used.
    nodes.await_tokens(2, 1);
    let listed = nodes.run(2, "token list");
    assert!(listed.contains(made["id"].as_str().unwrap()), "{listed}");
    client.run(n2, "tokens.py", &[token, &n1.address(0), &n2.address(0)]);
    nodes.await_tokens(2, 0);

    let plain = nodes.run(1, "token");
    assert_eq!(plain.lines().count(), 1, "{plain}");
    let listed = nodes.run(1, "token list --output-format json");
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let id = listed[0]["id"].as_str().unwrap();
    nodes.await_tokens(2, 1);
    nodes.run(2, &format!("token revoke {id}"));
    let again = n2
        .sh(&format!("{} token revoke {id}", nodes.pvecm))
        .unwrap();
    assert_eq!(again.status.code(), Some(2));
    nodes.await_tokens(1, 0);
    let refused = ["refused", plain.trim(), &n1.address(0)];
    client.run(n2, "tokens.py", &refused);

    for server in &nodes.servers {
        let ended = server.stop(END_LIMIT).unwrap();
        assert!(ended.success(), "{ended}");
    }
}

fn client_and(needed: &[Requirement]) -> Option<Client> {
    // Before any host is made: what is installed then is seen by all.
    available(needed).then(Client::install).flatten()
}
