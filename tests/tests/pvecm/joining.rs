//! What both sides of a join need: the service and the password of a member, the secrets and the
//! logins of a node that wants to join.

use std::fs;

use tests::cluster::SYNC_DEADLINE;
use tests::services::{LOGS, PveLab};
use tests::wait::eventually;

use crate::support::link_args;

/// Root's password on members.
pub(crate) const PASSWORD: &str = "open sesame & more";

/// A cluster of one, on the first of these nodes, that others can ask to be let in.
pub(crate) fn cluster_of_one(nodes: &PveLab, links: usize) {
    let args = link_args(nodes, 1, links);
    nodes.pvecm(1, &format!("create lab {args}")).unwrap();
    nodes.await_online(&[1]).unwrap();
    serve(nodes, 1);
}

/// Lets a member take requests, with a password that PAM knows.
pub(crate) fn serve(nodes: &PveLab, id: usize) {
    let host = nodes.host(id);
    fs::write(host.path("/run/password"), format!("root:{PASSWORD}\n")).unwrap();
    host.sh_ok("chpasswd </run/password && rm /run/password && systemctl start pveproxy")
        .unwrap();
    eventually(SYNC_DEADLINE, "a server that listens", || {
        host.sh("exec 3<>/dev/tcp/127.0.0.1/8006")
            .is_ok_and(|output| output.status.success())
    })
    .unwrap();
}

/// Writes a secret to a file of a node.
pub(crate) fn secret(nodes: &PveLab, id: usize, text: &str) -> &'static str {
    fs::write(nodes.host(id).path("/root/secret"), text).unwrap();
    "/root/secret"
}

/// Makes a token on a member.
pub(crate) fn token(nodes: &PveLab, id: usize) -> String {
    nodes.pvecm(id, "token 2>/dev/null").unwrap()
}

/// Fingerprint of what a node shows.
pub(crate) fn fingerprint(nodes: &PveLab, id: usize) -> String {
    let info: serde_json::Value =
        serde_json::from_str(&nodes.pvecm(id, "join-info").unwrap()).unwrap();
    let entry = info["nodelist"].as_array().unwrap().iter();
    let own = entry
        .into_iter()
        .find(|node| node["name"] == format!("n{id}"));
    own.unwrap()["pve_fp"].as_str().unwrap().to_owned()
}

/// Arguments of `add` that join over HTTPS, with the member's password and fingerprint.
pub(crate) fn with_password(nodes: &PveLab, member: usize, new: usize) -> String {
    let file = secret(nodes, new, PASSWORD);
    let (peer, right) = (nodes.host(member).address(0), fingerprint(nodes, member));
    format!("{peer} --password-file {file} --fingerprint {right}")
}

/// Arguments of `add` that join with a token of the member.
pub(crate) fn with_token(nodes: &PveLab, member: usize, new: usize) -> String {
    let file = secret(nodes, new, &token(nodes, member));
    format!("--token-file {file}")
}

/// Gives root of a node a key. One as long as the command makes takes seconds.
pub(crate) fn make_root_key(nodes: &PveLab, id: usize) {
    let make = "mkdir -p -m 700 /root/.ssh && \
                ssh-keygen -q -t rsa -b 2048 -N '' -f /root/.ssh/id_rsa";
    nodes.host(id).sh_ok(make).unwrap();
}

/// Joins a node over SSH with these arguments, as one whose root has a key that no member knows. ssh
/// asks for the password, and before that whether the member is the right one.
pub(crate) fn add_over_ssh(nodes: &PveLab, member: usize, new: usize, args: &str) -> String {
    let (host, peer) = (nodes.host(new), nodes.host(member).address(0));
    nodes.host(member).sh_ok("systemctl start ssh").unwrap();
    let answers = format!(
        "#!/bin/sh\necho \"$1\" >>/run/asked\n\
         case $1 in *yes/no*) echo yes;; *) echo '{PASSWORD}';; esac\n"
    );
    fs::write(host.path("/run/answers"), answers).unwrap();
    let add = format!(
        "chmod 700 /run/answers; export SSH_ASKPASS_REQUIRE=force SSH_ASKPASS=/run/answers; \
         exec pvecm add {peer} --use_ssh {args}"
    );
    let shown = host.sh_ok(&add).unwrap();
    let asked = fs::read_to_string(host.path("/run/asked")).unwrap();
    let asked: Vec<&str> = asked.lines().filter(|line| line.ends_with(": ")).collect();
    assert_eq!(asked.len(), 1, "{asked:?}");
    // All went through one connection, and that is closed.
    let log = fs::read_to_string(nodes.host(member).path(format!("{LOGS}/ssh.log"))).unwrap();
    let logins = log.lines().filter(|line| line.contains("Accepted "));
    let logins: Vec<&str> = logins.collect();
    assert!(
        matches!(*logins, [one] if one.contains("password")),
        "{logins:?}"
    );
    host.sh_ok("! ls -d /run/pvecm-ssh.*").unwrap();
    shown
}
