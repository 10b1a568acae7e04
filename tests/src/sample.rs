//! A plausible `/etc/pve` of a small cluster: guests on three nodes, storage, users, firewall,
//! high availability, software-defined networks, and private files. All names are made up.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Paths below the mounted directory, and contents.
#[must_use]
pub fn sample_tree() -> Vec<(&'static str, String)> {
    let mut files: Vec<_> = FILES
        .iter()
        .map(|(path, text)| (*path, (*text).to_owned()))
        .collect();
    files.extend([
        (
            "nodes/n1/qemu-server/100.conf",
            virtual_machine(100, "web1", 4, 8192),
        ),
        (
            "nodes/n1/qemu-server/101.conf",
            virtual_machine(101, "mail", 2, 4096),
        ),
        ("nodes/n1/lxc/110.conf", container(110, "dns1")),
        (
            "nodes/n2/qemu-server/102.conf",
            virtual_machine(102, "web2", 4, 8192),
        ),
        (
            "nodes/n2/qemu-server/103.conf",
            virtual_machine(103, "db1", 8, 32768),
        ),
        ("nodes/n2/lxc/111.conf", container(111, "dns2")),
        (
            "nodes/n3/qemu-server/104.conf",
            virtual_machine(104, "build", 16, 65536),
        ),
        ("nodes/n3/lxc/112.conf", container(112, "proxy")),
    ]);
    files
}

/// Writes the tree below `root`.
///
/// # Errors
/// When a file cannot be written.
pub fn write_sample_tree(root: &Path) -> Result<usize> {
    let files = sample_tree();
    for (path, text) in &files {
        let path = root.join(path);
        let parent = path.parent().context("every file is in a directory")?;
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(files.len())
}

fn virtual_machine(id: u32, name: &str, cores: u32, memory: u32) -> String {
    format!(
        "agent: 1
boot: order=scsi0;net0
cores: {cores}
cpu: x86-64-v2-AES
memory: {memory}
meta: creation-qemu=9.0.2,ctime=1720000{id}
name: {name}
net0: virtio=BC:24:11:00:0{}:{},bridge=vmbr0,firewall=1
numa: 0
onboot: 1
ostype: l26
scsi0: tank:vm-{id}-disk-0,discard=on,iothread=1,size=32G
scsihw: virtio-scsi-single
smbios1: uuid=5c1bb8c4-0000-4000-8000-000000000{id}
tags: {}

[before-upgrade]
#Snapshot taken before the upgrade
cores: {cores}
memory: {memory}
name: {name}
scsi0: tank:vm-{id}-disk-0,discard=on,iothread=1,size=32G
snaptime: 1725000{id}
",
        id / 100,
        id % 100 + 10,
        if id.is_multiple_of(2) {
            "production"
        } else {
            "production;backup"
        },
    )
}

fn container(id: u32, name: &str) -> String {
    format!(
        "arch: amd64
cores: 1
features: nesting=1
hostname: {name}
memory: 512
net0: name=eth0,bridge=vmbr0,firewall=1,gw=192.0.2.1,ip=192.0.2.{id}/24,type=veth
onboot: 1
ostype: debian
rootfs: tank:subvol-{id}-disk-0,size=8G
swap: 512
unprivileged: 1
"
    )
}

const FILES: [(&str, &str); 25] = [
    (
        "datacenter.cfg",
        "console: html5
crs: ha=static
keyboard: en-us
migration: secure,network=10.78.0.0/24
next-id: lower=100,upper=999
",
    ),
    (
        "storage.cfg",
        "dir: local
\tpath /var/lib/vz
\tcontent iso,vztmpl,backup
\tprune-backups keep-last=3

zfspool: tank
\tpool tank/guests
\tcontent images,rootdir
\tsparse 1

nfs: archive
\texport /srv/archive
\tpath /mnt/pve/archive
\tserver 192.0.2.20
\tcontent backup
\toptions vers=4.2
",
    ),
    (
        "user.cfg",
        "user:root@pam:1:0:::admin@example.org:::
user:alice@pve:1:0:Alice:Example:alice@example.org:::
user:monitor@pve:1:0::::read only::
token:monitor@pve!exporter:0:1:metrics:

group:admins:alice@pve:Administrators:

role:Operator:VM.Audit,VM.Console,VM.PowerMgmt:

acl:1:/:@admins:Administrator:
acl:1:/vms:monitor@pve:PVEAuditor:
",
    ),
    (
        "domains.cfg",
        "pam: pam\n\tcomment Linux accounts\n\npve: pve\n\tcomment Cluster accounts\n",
    ),
    (
        "jobs.cfg",
        "vzdump: backup-nightly
\tschedule 02:30
\tall 1
\tcompress zstd
\tenabled 1
\tmode snapshot
\tstorage archive
",
    ),
    (
        "replication.cfg",
        "local: 102-0\n\ttarget n1\n\tschedule */15\n\trate 50\n",
    ),
    ("vzdump.cron", "# schedules of backups are in jobs.cfg\n"),
    (
        "notifications.cfg",
        "sendmail: mail-to-root
\tmailto-user root@pam
\tcomment Send mail to root

matcher: default-matcher
\ttarget mail-to-root
",
    ),
    (
        "mapping/pci.cfg",
        "gpu\n\tmap id=10de:1eb8,node=n3,path=0000:41:00.0\n",
    ),
    (
        "virtual-guest/cpu-models.conf",
        "cpu-model: build\n\tflags +aes;+avx2\n\treported-model host\n",
    ),
    (
        "firewall/cluster.fw",
        "[OPTIONS]
enable: 1
policy_in: DROP

[ALIASES]
office 198.51.100.0/24

[IPSET management]
office
10.77.0.0/24

[RULES]
IN SSH(ACCEPT) -source +management -log nolog
GROUP web -i net0

[group web]
IN HTTP(ACCEPT)
IN HTTPS(ACCEPT)
",
    ),
    (
        "firewall/100.fw",
        "[OPTIONS]\nenable: 1\n\n[RULES]\nGROUP web\n",
    ),
    (
        "firewall/103.fw",
        "[OPTIONS]\nenable: 1\n\n[RULES]\nIN ACCEPT -source 192.0.2.0/24 -p tcp -dport 5432\n",
    ),
    (
        "ha/resources.cfg",
        "vm: 100
\tgroup west
\tmax_relocate 2
\tstate started

ct: 111
\tstate started
",
    ),
    (
        "ha/groups.cfg",
        "group: west\n\tnodes n1:2,n2:1\n\tnofailback 0\n",
    ),
    (
        "ha/manager_status",
        r#"{"master_node":"n1","node_status":{"n1":"online","n2":"online","n3":"online"},"service_status":{"ct:111":{"node":"n2","running":1,"state":"started"},"vm:100":{"node":"n1","running":1,"state":"started"}},"timestamp":1795299296}"#,
    ),
    (
        "sdn/zones.cfg",
        "vxlan: blue\n\tpeers 10.77.0.1,10.77.0.2,10.77.0.3\n\tipam pve\n\tmtu 1450\n",
    ),
    (
        "sdn/vnets.cfg",
        "vnet: blue0\n\tzone blue\n\ttag 100\n\talias Guests of the blue zone\n",
    ),
    (
        "sdn/subnets.cfg",
        "subnet: blue-203.0.113.0-24\n\tvnet blue0\n\tgateway 203.0.113.1\n\tsnat 1\n",
    ),
    (
        "nodes/n1/lrm_status",
        r#"{"mode":"active","results":{},"state":"active","timestamp":1795299296}"#,
    ),
    (
        "nodes/n2/lrm_status",
        r#"{"mode":"active","results":{},"state":"active","timestamp":1795299297}"#,
    ),
    (
        "nodes/n3/lrm_status",
        r#"{"mode":"active","results":{},"state":"wait_for_agent_lock","timestamp":1795299295}"#,
    ),
    (
        "nodes/n1/host.fw",
        "[RULES]\nIN ACCEPT -p tcp -dport 9100 -source 192.0.2.30\n",
    ),
    (
        "priv/known_hosts",
        "n1 ssh-ed25519 made-up-key-of-n1\nn2 ssh-ed25519 made-up-key-of-n2\n",
    ),
    (
        "priv/token.cfg",
        "monitor@pve!exporter 00000000-0000-4000-8000-000000000000\n",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_tree_is_realistic_in_size_and_has_no_path_twice() {
        let tree = sample_tree();
        let paths: BTreeSet<_> = tree.iter().map(|(path, _)| path).collect();
        assert_eq!(paths.len(), tree.len());
        assert!(tree.len() >= 30);
        assert!(tree.iter().all(|(_, text)| !text.is_empty()));
    }
}
