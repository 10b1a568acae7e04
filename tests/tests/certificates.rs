//! Certificates and SSH of a real cluster: every node updates at the same time, nothing is lost, and
//! OpenSSH logs in from each node to each.

#![expect(
    clippy::unwrap_used,
    reason = "functions that tests share fail the test as tests do"
)]

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Output;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use pvecm::host::Paths;
use pvecm::ssh;
use tests::cluster::{Cluster, SYNC_DEADLINE};
use tests::compare::{Rows, read_database};
use tests::corosync::Settings;
use tests::daemon::{MOUNT_POINT, binary, built};
use tests::lab::{Host, Program, Requirement, available};
use tests::wait::eventually_ok;

const NEEDED: [Requirement; 5] = [
    Requirement::Root,
    Requirement::Fuse,
    Requirement::Network,
    Requirement::Corosync,
    Requirement::Ssh,
];
const NODES: [usize; 3] = [1, 2, 3];
/// How often all nodes update at once.
const ROUNDS: usize = 8;
/// A server answers within this time, on a busy machine too.
const SERVER_DEADLINE: Duration = Duration::from_secs(30);
/// Exit codes of the command.
const REFUSED: i32 = 2;
const NO_QUORUM: i32 = 3;

#[test]
fn all_nodes_update_at_once_and_ssh_goes_from_each_to_each() {
    if !available(&NEEDED) {
        return;
    }
    let mut settings = Settings::new(NODES.len());
    if settings.messaging.is_empty() {
        settings.messaging = "corosync-lite".to_owned();
    }
    let binaries = vec![binary().unwrap(); NODES.len()];
    let mut cluster = Cluster::start_with(&settings, &binaries).unwrap();
    for host in cluster.lab.hosts() {
        reinstall(host);
    }
    // One node without an RSA host key, one where an administrator's key lets in.
    let ok = |id: usize, script: &str| cluster.lab.host(id).sh_ok(script).unwrap();
    ok(2, "rm /etc/ssh/ssh_host_rsa_key*");
    let admin = ok(
        3,
        "ssh-keygen -q -t ed25519 -N '' -C admin -f /tmp/$HOSTNAME.$$ && cat /tmp/$HOSTNAME.$$.pub \
         && rm /tmp/$HOSTNAME.$$*",
    );
    ok(
        3,
        &format!("echo '{}' > /root/.ssh/authorized_keys", admin.trim()),
    );

    update_all(&cluster);
    let keys = wanted_keys(&cluster, &[admin.trim().to_owned()]);
    await_keys(&cluster, &keys);
    certificates_are_good(&cluster);
    a_second_run_writes_nothing(&cluster);
    no_key_is_lost_in_rounds_of_concurrent_updates(&cluster, keys);

    let mut servers: Vec<_> = cluster.lab.hosts().iter().map(serve).collect();
    each_reaches_each(&cluster);
    let server = servers.pop().unwrap();
    let server = a_new_host_key_is_trusted_after_an_update_only(&cluster, server);
    drop((servers, server));
    without_quorum_or_mount_nothing_is_written(&mut cluster);
}

/// A host as it comes from its installation: its own host keys, nothing of root's.
fn reinstall(host: &Host) {
    let script = "rm -rf /root/.ssh /etc/ssh/ssh_host_* && ssh-keygen -A && mkdir -p /run/sshd";
    host.sh_ok(script).unwrap();
    host.sh_ok("mkdir -m 700 /root/.ssh").unwrap();
}

fn updatecerts(host: &Host, args: &str) -> Output {
    let pvecm = built("pvecm", "PVECM_BIN").unwrap();
    host.sh(&format!("{} updatecerts {args}", pvecm.display()))
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// All nodes at the same moment.
fn update_all(cluster: &Cluster) {
    let start = Barrier::new(NODES.len());
    thread::scope(|scope| {
        for host in cluster.lab.hosts() {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                let output = updatecerts(host, "--silent");
                assert_eq!(code(&output), 0, "{}: {output:?}", host.name());
                assert_eq!(output.stdout, b"", "{output:?}");
            });
        }
    });
}

/// These keys, and those of all nodes' roots.
fn wanted_keys(cluster: &Cluster, others: &[String]) -> BTreeSet<String> {
    let own = |host: &Host| fs::read_to_string(host.path("/root/.ssh/id_rsa.pub")).unwrap();
    let own = cluster
        .lab
        .hosts()
        .iter()
        .map(|host| own(host).trim().to_owned());
    own.chain(others.iter().cloned()).collect()
}

/// Waits until all nodes have exactly these lines, each once.
fn await_keys(cluster: &Cluster, keys: &BTreeSet<String>) {
    for id in NODES {
        // Through the link, as the server reads it.
        let host = cluster.lab.host(id);
        eventually_ok(SYNC_DEADLINE, "all keys", || {
            let text = fs::read_to_string(host.path(MOUNT_POINT).join("priv/authorized_keys"))?;
            let found: Vec<_> = text.lines().map(str::to_owned).collect();
            let set: BTreeSet<_> = found.iter().cloned().collect();
            ensure!(set == *keys && found.len() == keys.len(), "{found:#?}");
            Ok(())
        })
        .unwrap();
        let link = host.sh_ok("readlink /root/.ssh/authorized_keys").unwrap();
        assert_eq!(link.trim(), "/etc/pve/priv/authorized_keys");
    }
}

fn certificates_are_good(cluster: &Cluster) {
    for id in NODES {
        let host = cluster.lab.host(id);
        for other in NODES {
            let address = cluster.lab.host(other).address(0);
            let verify = format!(
                "openssl verify -x509_strict -purpose sslserver -CAfile /etc/pve/pve-root-ca.pem \
                 -verify_hostname n{other} /etc/pve/nodes/n{other}/pve-ssl.pem && \
                 openssl verify -x509_strict -CAfile /etc/pve/pve-root-ca.pem \
                 -verify_ip {address} /etc/pve/nodes/n{other}/pve-ssl.pem"
            );
            eventually_ok(SYNC_DEADLINE, "a good certificate", || host.sh_ok(&verify)).unwrap();
        }
        let modes = "stat -c '%a %U:%G' /etc/pve/priv/pve-root-ca.key /etc/pve/priv/authkey.key \
                     /etc/pve/priv/authorized_keys /etc/pve/nodes/$HOSTNAME/pve-ssl.key \
                     /root/.ssh/id_rsa /etc/corosync/authkey";
        let expected = "600 root:www-data\n600 root:www-data\n600 root:www-data\n\
                        640 root:www-data\n600 root:root\n400 root:root\n";
        assert_eq!(host.sh_ok(modes).unwrap(), expected);
    }
    let serials =
        "for f in /etc/pve/nodes/*/pve-ssl.pem; do openssl x509 -noout -serial -in $f; done";
    let serials = cluster.lab.host(1).sh_ok(serials).unwrap();
    let found: BTreeSet<_> = serials.lines().collect();
    assert_eq!(found.len(), NODES.len(), "{serials}");
}

fn database(host: &Host) -> Rows {
    read_database(&host.disk("var/lib/pve-cluster/config.db")).unwrap()
}

fn a_second_run_writes_nothing(cluster: &Cluster) {
    cluster.await_equal().unwrap();
    // The version of the whole tree, and times and numbers of what is on the node's own disk.
    let own = "find /root/.ssh /etc/ssh /etc/cron.d -printf '%i %T@ %s %m %p\\n' | sort";
    let state = |host: &Host| (host.sh_ok(own).unwrap(), database(host));
    let before: Vec<_> = cluster.lab.hosts().iter().map(state).collect();
    update_all(cluster);
    for host in cluster.lab.hosts() {
        let output = updatecerts(host, "--dry-run");
        assert_eq!(output.stdout, b"nothing to do\n", "{output:?}");
    }
    let after: Vec<_> = cluster.lab.hosts().iter().map(state).collect();
    assert_eq!(before, after);
}

/// In each round every node brings a key that no other has.
fn no_key_is_lost_in_rounds_of_concurrent_updates(cluster: &Cluster, mut keys: BTreeSet<String>) {
    for round in 0..ROUNDS {
        for host in cluster.lab.hosts() {
            let name = host.name();
            let key = host
                .sh_ok(&format!(
                    "cd /root && ssh-keygen -q -t ecdsa -N '' -C 'admin of {name}, {round}' -f k && \
                     mv k.pub .ssh/authorized_keys.org && rm k && cat .ssh/authorized_keys.org"
                ))
                .unwrap();
            keys.insert(key.trim().to_owned());
        }
        update_all(cluster);
        await_keys(cluster, &keys);
    }
    cluster.await_equal().unwrap();
}

fn serve(host: &Host) -> Program {
    host.start("sshd", Path::new("/usr/sbin/sshd"), &["-D", "-e"])
        .unwrap()
}

/// Runs `hostname` on `to`, from `from`, by the command line that the command uses.
fn log_in(cluster: &Cluster, from: usize, to: usize) -> anyhow::Result<String> {
    let (host, other) = (cluster.lab.host(from), cluster.lab.host(to));
    let root = host.path("/");
    let node = pvecm::host::Host {
        paths: Paths::below(&root),
        name: host.name().parse()?,
    };
    let address: IpAddr = other.address(0).parse()?;
    let line = ssh::command_line(&node, &other.name(), address).join(" ");
    ensure!(line.contains("UserKnownHostsFile="), "no pins: {line}");
    // The host sees its own files where they are.
    let line = line.replace(
        &format!("{}/etc", root.display().to_string().trim_end_matches('/')),
        "/etc",
    );
    host.sh_ok(&format!("{line} hostname"))
}

fn each_reaches_each(cluster: &Cluster) {
    for from in NODES {
        for to in NODES {
            let name = eventually_ok(SERVER_DEADLINE, "a login", || log_in(cluster, from, to));
            assert_eq!(name.unwrap(), format!("n{to}\n"), "from n{from}");
        }
    }
}

fn a_new_host_key_is_trusted_after_an_update_only(cluster: &Cluster, old: Program) -> Program {
    let host = cluster.lab.host(3);
    log_in(cluster, 1, 3).unwrap();
    old.kill();
    host.sh_ok("rm /etc/ssh/ssh_host_* && ssh-keygen -A")
        .unwrap();
    let server = serve(host);
    eventually_ok(SERVER_DEADLINE, "a refused host key", || {
        let error = log_in(cluster, 1, 3).unwrap_err().to_string();
        ensure!(error.contains("Host key verification failed"), "{error}");
        Ok(())
    })
    .unwrap();
    assert_eq!(code(&updatecerts(host, "")), 0);
    eventually_ok(SERVER_DEADLINE, "a login", || log_in(cluster, 1, 3)).unwrap();
    server
}

fn without_quorum_or_mount_nothing_is_written(cluster: &mut Cluster) {
    cluster.lab.isolate(3).unwrap();
    cluster.await_writable(3, false).unwrap();
    let host = cluster.lab.host(3);
    host.sh_ok("rm /root/.ssh/config").unwrap();
    let before = database(host);
    let silent = updatecerts(host, "--silent --timeout 2");
    assert_eq!(code(&silent), 0, "{silent:?}");
    assert!(String::from_utf8_lossy(&silent.stderr).contains("no quorum (yet)"));
    // What needs no quorum is done.
    assert!(
        host.sh("test -s /root/.ssh/config")
            .unwrap()
            .status
            .success()
    );
    let loud = updatecerts(host, "--force --timeout 2");
    assert_eq!(code(&loud), NO_QUORUM, "{loud:?}");
    assert_eq!(database(host), before);

    // Quorum that comes while it waits is enough.
    host.sh_ok("rm /etc/ssh/ssh_host_ecdsa_key*").unwrap();
    let pvecm = built("pvecm", "PVECM_BIN").unwrap();
    let waiting = host.start("updatecerts", &pvecm, &["updatecerts"]).unwrap();
    eventually_ok(SYNC_DEADLINE, "a wait for quorum", || {
        ensure!(waiting.log().contains("get quorate"), "{}", waiting.log());
        Ok(())
    })
    .unwrap();
    cluster.lab.heal().unwrap();
    let ended = waiting.wait(SYNC_DEADLINE).unwrap();
    assert!(ended.success(), "{ended}: {}", waiting.log_tail());
    let pins = fs::read_to_string(cluster.path(3, "nodes/n3/ssh_known_hosts")).unwrap();
    assert_eq!(pins.lines().count(), 2, "{pins}");

    let daemon = cluster.pmxcfs[2].take().unwrap();
    daemon.stop().unwrap();
    let host = cluster.lab.host(3);
    for args in ["", "--silent", "--dry-run"] {
        let output = updatecerts(host, args);
        assert_eq!(code(&output), REFUSED, "{args}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("not mounted"));
    }
    let beneath = host.sh_ok("ls -A /etc/pve").unwrap();
    assert_eq!(beneath, "");
}
