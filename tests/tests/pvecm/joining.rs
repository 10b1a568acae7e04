//! What both sides of a join need: the service and the password of a member, the secrets and the
//! logins of a node that wants to join.

use std::fs;

use tests::cluster::SYNC_DEADLINE;
use tests::services::PveLab;
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

/// Arguments of `add` that join over SSH, of a node whose root has a key. What `ssh-copy-id` and the
/// first question of ssh would do on a terminal is done.
pub(crate) fn over_ssh(nodes: &PveLab, member: usize, new: usize) -> String {
    let (host, peer) = (nodes.host(new), nodes.host(member).address(0));
    nodes.host(member).sh_ok("systemctl start ssh").unwrap();
    host.sh_ok(&format!(
        "ssh-keyscan {peer} >>/root/.ssh/known_hosts 2>/dev/null"
    ))
    .unwrap();
    let key = fs::read_to_string(host.path("/root/.ssh/id_rsa.pub")).unwrap();
    let list = nodes.path(member, "priv/authorized_keys");
    let keys = fs::read_to_string(&list).unwrap_or_default();
    fs::write(&list, format!("{keys}{key}")).unwrap();
    format!("{peer} --use_ssh")
}
