use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::cert::tests::install;

const CONF: &str = "totem {\n  config_version: 1\n}\nnodelist {\n  node {\n    name: n1\n  }\n  \
                    node {\n    name: n2\n  }\n  node {\n    name: ../../x\n  }\n}\n";

/// Nodes of a cluster: directories, with one for what they share.
struct Nodes {
    dir: TempDir,
}

fn nodes() -> Nodes {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("pve")).unwrap();
    fs::write(dir.path().join("pve/corosync.conf"), CONF).unwrap();
    // Each node has its own; any link does to look mounted.
    symlink("nodes", dir.path().join("pve/local")).unwrap();
    let nodes = Nodes { dir };
    install(&nodes.host("n1"), crate::host::calendar());
    nodes
}

impl Nodes {
    fn host(&self, name: &str) -> Host {
        let paths = Paths::below(self.dir.path().join(name));
        let host = Host {
            paths,
            name: name.parse().unwrap(),
        };
        if !host.paths.at("etc").exists() {
            for path in [
                "etc/ssh",
                "etc/cron.d",
                "etc/corosync",
                "root/.ssh",
                "var/lock",
            ] {
                fs::create_dir_all(host.paths.at(path)).unwrap();
            }
            symlink(self.dir.path().join("pve"), host.paths.at("etc/pve")).unwrap();
            let key = host.paths.at("etc/ssh/ssh_host_ed25519_key");
            keygen(&key, "ed25519", name);
            // Its type does not matter, and RSA takes long.
            keygen(
                &host.paths.ssh("id_rsa"),
                "ed25519",
                &format!("root@{name}"),
            );
        }
        host
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.dir.path().join("pve").join(path)).unwrap_or_default()
    }

    /// Numbers, times and sizes of all files.
    fn state(&self) -> BTreeMap<std::path::PathBuf, (u64, i64, i64, u64)> {
        let mut all = BTreeMap::new();
        let mut left = vec![self.dir.path().to_owned()];
        while let Some(path) = left.pop() {
            let found = path.symlink_metadata().unwrap();
            if found.is_dir() {
                left.extend(fs::read_dir(&path).unwrap().map(|it| it.unwrap().path()));
            }
            let at = (found.ino(), found.mtime(), found.mtime_nsec(), found.size());
            all.insert(path, at);
        }
        all
    }
}

fn keygen(path: &Path, kind: &str, comment: &str) {
    let path = path.to_str().unwrap();
    crate::host::command::program(
        "ssh-keygen",
        ["-q", "-t", kind, "-N", "", "-C", comment, "-f", path],
    )
    .output()
    .unwrap();
}

fn facts() -> Facts {
    Facts {
        now: crate::host::calendar(),
        address: Ok("10.0.0.1".parse().unwrap()),
    }
}

fn quiet() -> UpdateOptions {
    UpdateOptions {
        silent: true,
        ..UpdateOptions::default()
    }
}

fn do_update(host: &Host) -> Updated {
    match update(host, quiet(), &facts()) {
        Ok(updated) => updated,
        Err(Stop::Late(failure) | Stop::Failed(failure)) => panic!("{failure}"),
    }
}

fn own(host: &Host) -> String {
    fs::read_to_string(host.paths.ssh("id_rsa.pub")).unwrap()
}

#[test]
fn a_second_run_writes_nothing() {
    let nodes = nodes();
    let host = nodes.host("n1");
    prepare_local(&host).unwrap();
    let updated = do_update(&host);
    assert!(
        updated.new_certificate && updated.changes > 5,
        "{updated:?}"
    );
    let before = nodes.state();
    prepare_local(&host).unwrap();
    assert_eq!(do_update(&host), Updated::default());
    assert_eq!(nodes.state(), before);
    let mode = |path: &str| host.paths.at(path).metadata().unwrap().mode() & 0o777;
    assert_eq!(mode("root/.ssh/config"), 0o640);
    assert_eq!(mode("root/.ssh/id_rsa"), 0o600);
    assert_eq!(
        fs::read_link(host.paths.at("etc/cron.d/vzdump")).unwrap(),
        host.paths.pve("vzdump.cron")
    );
    for path in [
        "nodes/n1/qemu-server",
        "nodes/n1/lxc",
        "nodes/n1/openvz",
        "nodes/n1/priv",
        "sdn",
    ] {
        assert!(host.paths.pve(path).is_dir(), "{path}");
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let nodes = nodes();
    let host = nodes.host("n1");
    let before = nodes.state();
    let options = UpdateOptions {
        dry_run: true,
        unmerge_known_hosts: true,
        force: true,
        ..quiet()
    };
    let updated = update(&host, options, &facts());
    assert!(updated.is_ok_and(|updated| updated.changes > 5));
    let mut local = Changes::new(&host, Mode::Say, false);
    local_steps(&mut local, false).unwrap();
    assert_eq!(nodes.state(), before);
}

#[test]
fn nothing_is_touched_without_the_mount() {
    let nodes = nodes();
    let host = nodes.host("n1");
    fs::remove_file(nodes.dir.path().join("pve/local")).unwrap();
    let before = nodes.state();
    let Err(Stop::Failed(failure)) = within(&host, quiet()) else {
        panic!("it must refuse");
    };
    assert_eq!(failure.code(), code::REFUSED);
    assert!(update(&host, quiet(), &facts()).is_err());
    assert_eq!(nodes.state(), before);
}

#[test]
fn keys_of_all_nodes_and_of_before_are_in_one_file() {
    let nodes = nodes();
    let hosts = ["n1", "n2"].map(|name| nodes.host(name));
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    let texts = [
        format!("restrict {key} admin\n{key} admin\n"),
        format!("{key} the same\nfrom=\"10.0.0.0/8\" {key}\n"),
    ];
    for (host, text) in hosts.iter().zip(&texts) {
        fs::write(host.paths.ssh("authorized_keys"), text).unwrap();
        do_update(host);
    }
    let expected = format!(
        "{}{}from=\"10.0.0.0/8\" {key}\n{}",
        texts[0],
        own(&hosts[0]),
        own(&hosts[1])
    );
    assert_eq!(nodes.text("priv/authorized_keys"), expected);
    for host in &hosts {
        let link = host.paths.ssh("authorized_keys");
        assert_eq!(
            fs::read_link(link).unwrap(),
            host.paths.pve("priv/authorized_keys")
        );
    }
    // A key that a lost write took away is back with the next update of any node.
    fs::write(hosts[0].paths.pve("priv/authorized_keys"), own(&hosts[0])).unwrap();
    do_update(&hosts[0]);
    let text = nodes.text("priv/authorized_keys");
    assert_eq!(text, own(&hosts[0]) + &own(&hosts[1]));
}

#[test]
fn a_new_key_takes_the_place_of_the_old_one() {
    let nodes = nodes();
    let host = nodes.host("n1");
    do_update(&host);
    let old = own(&host);
    for file in ["id_rsa", "id_rsa.pub"] {
        fs::remove_file(host.paths.ssh(file)).unwrap();
    }
    keygen(&host.paths.ssh("id_rsa"), "ed25519", "root@n1");
    do_update(&host);
    assert_ne!(own(&host), old);
    assert_eq!(nodes.text("priv/authorized_keys"), own(&host));
    assert_eq!(nodes.text("nodes/n1/ssh_root_keys"), own(&host));
}

#[test]
fn a_missing_half_of_roots_key_is_made_from_the_other() {
    let nodes = nodes();
    let host = nodes.host("n1");
    let before = own(&host);
    fs::remove_file(host.paths.ssh("id_rsa.pub")).unwrap();
    prepare_local(&host).unwrap();
    assert_eq!(own(&host), before);
}

#[test]
fn open_permissions_of_secrets_are_closed() {
    let nodes = nodes();
    let host = nodes.host("n1");
    let key = host.paths.corosync("authkey");
    fs::write(&key, [0; 256]).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    prepare_local(&host).unwrap();
    assert_eq!(key.metadata().unwrap().mode() & 0o777, 0o400);
}

#[test]
fn a_join_keeps_the_keys_that_the_node_had() {
    let nodes = nodes();
    let host = nodes.host("n1");
    do_update(&host);
    let shared = host.paths.pve("priv/authorized_keys");
    let old = nodes.text("priv/authorized_keys");
    ssh::carry_over(&host).unwrap();
    let other = own(&nodes.host("n2"));
    fs::write(&shared, &other).unwrap();
    do_update(&host);
    assert_eq!(nodes.text("priv/authorized_keys"), other + &old);
    assert!(!host.paths.ssh("authorized_keys.org").exists());
}

#[test]
fn host_keys_of_any_type_are_pinned() {
    let nodes = nodes();
    let host = nodes.host("n1");
    do_update(&host);
    let public = |kind: &str| {
        let path = host.paths.at(format!("etc/ssh/ssh_host_{kind}_key.pub"));
        let text = fs::read_to_string(path).unwrap();
        let words: Vec<_> = text.split(' ').take(2).collect();
        format!("n1 {}\n", words.join(" "))
    };
    assert_eq!(nodes.text("nodes/n1/ssh_known_hosts"), public("ed25519"));
    keygen(&host.paths.at("etc/ssh/ssh_host_rsa_key"), "rsa", "n1");
    do_update(&host);
    let both = public("rsa") + &public("ed25519");
    assert_eq!(nodes.text("nodes/n1/ssh_known_hosts"), both);
    let line = ssh::command_line(&host, "n1", "10.0.0.1".parse().unwrap());
    let pins = host.paths.node("n1", "ssh_known_hosts");
    assert_eq!(
        line.join(" "),
        format!(
            "/usr/bin/ssh -e none -o BatchMode=yes -o HostKeyAlias=n1 -o UserKnownHostsFile={} \
             -o GlobalKnownHostsFile=none root@10.0.0.1 --",
            pins.display()
        )
    );
}

#[test]
fn the_file_of_old_clusters_is_corrected_and_can_be_left() {
    let nodes = nodes();
    let host = nodes.host("n1");
    let other = nodes.host("n2");
    let key = |host: &Host| {
        let path = host.paths.at("etc/ssh/ssh_host_ed25519_key.pub");
        let text = fs::read_to_string(path).unwrap();
        text.split(' ').take(2).collect::<Vec<_>>().join(" ")
    };
    // The node had the other's key before, as after a reinstallation.
    let stale = format!("n1,10.0.0.1 {0}\nn2 {0}\n", key(&other));
    fs::write(host.paths.pve("priv/known_hosts"), stale).unwrap();
    do_update(&host);
    let expected = format!("n2 {0}\nn1 {1}\n10.0.0.1 {1}\n", key(&other), key(&host));
    assert_eq!(nodes.text("priv/known_hosts"), expected);
    assert_eq!(do_update(&host), Updated::default());

    let global = host.paths.at("etc/ssh/ssh_known_hosts");
    symlink(host.paths.pve("priv/known_hosts"), &global).unwrap();
    let options = UpdateOptions {
        unmerge_known_hosts: true,
        ..quiet()
    };
    assert!(update(&host, options, &facts()).is_ok());
    assert!(!global.is_symlink());
    assert_eq!(fs::read_to_string(&global).unwrap(), expected);
}

#[test]
fn a_removed_node_leaves_nothing() {
    let nodes = nodes();
    let (host, gone) = (nodes.host("n1"), nodes.host("n2"));
    for host in [&host, &gone] {
        do_update(host);
    }
    let name: NodeName = "n2".parse().unwrap();
    // From before its last installation, known by its comment, and one that only looks similar.
    let path = host.paths.pve("priv/authorized_keys");
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    let blob = key.replace("HR4f", "HR4A");
    let text = nodes.text("priv/authorized_keys");
    fs::write(
        &path,
        format!("# mine\n{text}{key} root@n2.lab\n{blob} root@n20\n"),
    )
    .unwrap();
    let pins = nodes.text("nodes/n2/ssh_known_hosts");
    let pin = pins.trim().strip_prefix("n2 ").unwrap();
    let known = format!("n2 {pin}\n10.9.9.9 {pin}\nn1 {key}\n");
    fs::write(host.paths.pve("priv/known_hosts"), known).unwrap();

    let before = nodes.state();
    let remains = ssh::remains(&host, &name).unwrap();
    assert_eq!(remains.lines.len(), 5, "{remains:#?}");
    assert_eq!(nodes.state(), before);
    assert_eq!(ssh::purge(&host, &name).unwrap(), remains);
    let kept = format!("# mine\n{}{blob} root@n20\n", own(&host));
    assert_eq!(nodes.text("priv/authorized_keys"), kept);
    assert_eq!(nodes.text("priv/known_hosts"), format!("n1 {key}\n"));
    assert!(!host.paths.node("n2", "ssh_root_keys").exists());
    assert!(!host.paths.node("n2", "ssh_known_hosts").exists());
    assert_eq!(ssh::purge(&host, &name).unwrap(), ssh::Remains::default());
    assert!(!host.paths.pve("priv/lock/updatecerts").exists());
}

#[test]
fn keys_that_a_remaining_node_has_too_stay() {
    let nodes = nodes();
    let (host, gone) = (nodes.host("n1"), nodes.host("n2"));
    // A node that was copied.
    fs::copy(host.paths.ssh("id_rsa.pub"), gone.paths.ssh("id_rsa.pub")).unwrap();
    for host in [&host, &gone] {
        do_update(host);
    }
    ssh::purge(&host, &"n2".parse().unwrap()).unwrap();
    assert_eq!(nodes.text("priv/authorized_keys"), own(&host));
}
