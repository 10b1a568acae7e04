//! Hosts as they are when a node has been installed: pmxcfs runs alone, there is no cluster.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::manager::LOGS;
use super::unit::UNITS;
use crate::cluster::SYNC_DEADLINE;
use crate::compare;
use crate::daemon::{MOUNT_POINT, binary, built};
use crate::lab::{Host, Lab};
use crate::wait::eventually_ok;

/// Debian's unit, with the condition that the original's nodes have.
const COROSYNC: &str = "[Unit]
ConditionPathExists=/etc/corosync/corosync.conf
[Service]
Type=notify
ExecStart=/usr/sbin/corosync -f
ExecStop=/usr/sbin/corosync-cfgtool -H --force
";
const COROSYNC_LITE: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../systemd/corosync-lite.service"
));
const PVE_CLUSTER: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../systemd/pve-cluster.service"
));
const SSH: &str = "[Service]
Type=notify
ExecStartPre=/bin/mkdir -p /run/sshd
ExecStartPre=/usr/sbin/sshd -t
ExecStart=/usr/sbin/sshd -D -e
ExecReload=/bin/kill -HUP $MAINPID
";
const SERVE: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../systemd/pvecm-serve.service"
));
/// Other names of units.
const ALIASES: [(&str, &str); 3] = [
    ("sshd", "ssh"),
    ("pveproxy", "pvecm-serve"),
    ("pvedaemon", "pvecm-serve"),
];

/// The messaging daemon of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Messaging {
    /// Debian's Corosync.
    Corosync,
    /// corosync-lite.
    Lite,
}

/// Hosts with services.
#[derive(Debug)]
pub struct PveLab {
    /// The hosts and their networks.
    pub lab: Lab,
    messaging: Vec<Messaging>,
}

impl PveLab {
    /// Makes a host for each messaging daemon, and starts pmxcfs on all of them.
    ///
    /// # Errors
    /// When the machine lacks something, or a service does not start.
    pub fn new(messaging: &[Messaging]) -> Result<Self> {
        let lab = Lab::new(messaging.len())?;
        let hosts = Self {
            lab,
            messaging: messaging.to_vec(),
        };
        for id in 1..=messaging.len() {
            hosts.prepare(id)?;
            hosts.host(id).sh_ok("systemctl start pve-cluster")?;
        }
        Ok(hosts)
    }

    /// A host.
    ///
    /// # Panics
    /// When there is none of that number.
    #[must_use]
    pub fn host(&self, id: usize) -> &Host {
        self.lab.host(id)
    }

    /// Starts a host that was powered off, with the services that nodes start by themselves.
    ///
    /// # Errors
    /// When a service does not start.
    pub fn boot(&mut self, id: usize) -> Result<()> {
        self.lab.boot(id)?;
        self.prepare(id)?;
        self.host(id)
            .sh_ok("systemctl start pve-cluster corosync")
            .map(drop)
    }

    /// Ends all processes of a host at once, as a power cut does.
    pub fn power_off(&mut self, id: usize) {
        self.lab.power_off(id);
    }

    /// Adds a unit to a host, or replaces it.
    ///
    /// # Errors
    /// When it can not be written.
    pub fn install_unit(&self, id: usize, name: &str, text: &str) -> Result<()> {
        let path = self.host(id).path(UNITS).join(format!("{name}.service"));
        fs::write(&path, text).with_context(|| path.display().to_string())
    }

    /// A path below the mounted directory of a node.
    #[must_use]
    pub fn path(&self, id: usize, path: impl AsRef<Path>) -> PathBuf {
        self.host(id).path(MOUNT_POINT).join(path)
    }

    /// Runs `pvecm` on a host; it has to succeed.
    ///
    /// # Errors
    /// When it fails: with what it said, and what the services of the host said last.
    pub fn pvecm(&self, id: usize, args: &str) -> Result<String> {
        let output = self.try_pvecm(id, args)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(
            output.status.success(),
            "n{id}: 'pvecm {args}': {}\n{}{}\n{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr),
            self.logs(id)
        );
        Ok(text(&output.stdout))
    }

    /// Runs `pvecm` on a host, however it ends.
    ///
    /// # Errors
    /// When it can not be started.
    pub fn try_pvecm(&self, id: usize, args: &str) -> Result<Output> {
        self.host(id).sh(&format!("exec pvecm {args}"))
    }

    /// The last lines that each service of a host wrote.
    #[must_use]
    pub fn logs(&self, id: usize) -> String {
        let tail = format!("tail -n 15 {LOGS}/*.log");
        self.host(id).sh_ok(&tail).unwrap_or_default()
    }

    /// Waits until a node is writable or is not.
    ///
    /// # Errors
    /// When that takes longer than [`SYNC_DEADLINE`].
    pub fn await_writable(&self, id: usize, writable: bool) -> Result<()> {
        let what = format!("n{id} {}", if writable { "writable" } else { "read-only" });
        eventually_ok(SYNC_DEADLINE, &what, || {
            let mode = fs::symlink_metadata(self.path(id, "local"))?.mode();
            ensure!((mode & 0o200 != 0) == writable, "mode {mode:o}");
            Ok(())
        })
        .with_context(|| self.logs(id))
    }

    /// Waits until each of these nodes is quorate and sees these, and no others, as online.
    ///
    /// # Errors
    /// When that takes longer than [`SYNC_DEADLINE`].
    pub fn await_online(&self, ids: &[usize]) -> Result<()> {
        let mut wanted: Vec<String> = ids.iter().map(|id| format!("n{id}")).collect();
        wanted.sort();
        for id in ids {
            let what = format!("{wanted:?} online for n{id}");
            eventually_ok(SYNC_DEADLINE, &what, || {
                let text = fs::read_to_string(self.path(*id, ".members"))?;
                let members: Value = serde_json::from_str(&text)?;
                let nodes = members["nodelist"].as_object().context("no node list")?;
                let online = nodes.iter().filter(|(_, node)| node["online"] == 1);
                let mut online: Vec<&String> = online.map(|(name, _)| name).collect();
                online.sort();
                ensure!(
                    members["cluster"]["quorate"] == 1 && online.into_iter().eq(&wanted),
                    "members: {text}"
                );
                Ok(())
            })
            .with_context(|| self.logs(*id))?;
        }
        ids.iter().try_for_each(|id| self.await_writable(*id, true))
    }

    /// Waits until trees and databases of these nodes are equal.
    ///
    /// # Errors
    /// When they still differ after [`SYNC_DEADLINE`]: the first differences.
    pub fn await_equal(&self, ids: &[usize]) -> Result<()> {
        let hosts: Vec<&Host> = ids.iter().map(|id| self.host(*id)).collect();
        compare::await_equal(SYNC_DEADLINE, &hosts)
    }

    /// Gives a host that was just booted its programs and units.
    fn prepare(&self, id: usize) -> Result<()> {
        let programs = self.lab.dir().join("programs");
        if !programs.exists() {
            fs::create_dir(&programs)?;
            let own = [
                ("systemctl", built("lab-systemctl", "LAB_SYSTEMCTL_BIN")?),
                ("pvecm", built("pvecm", "PVECM_BIN")?),
                ("pmxcfs", binary()?),
                (
                    "corosync-lite",
                    built("corosync-lite", "COROSYNC_LITE_BIN")?,
                ),
            ];
            for (name, program) in own {
                symlink(fs::canonicalize(program)?, programs.join(name))?;
            }
        }
        let programs = programs.display();
        self.host(id).sh_ok(&format!(
            "mount -t overlay lab -o lowerdir={programs}:/usr/bin /usr/bin && mkdir -p {UNITS} {LOGS}"
        ))?;
        let corosync = match self.messaging[id - 1] {
            Messaging::Corosync => COROSYNC,
            Messaging::Lite => COROSYNC_LITE,
        };
        let units = [
            ("corosync", corosync),
            ("pve-cluster", PVE_CLUSTER),
            ("ssh", SSH),
            ("pvecm-serve", SERVE),
        ];
        for (name, text) in units {
            self.install_unit(id, name, text)?;
        }
        for (alias, unit) in ALIASES {
            let at = format!("{UNITS}/{alias}.service");
            self.host(id)
                .sh_ok(&format!("ln -sf {unit}.service {at}"))?;
        }
        Ok(())
    }
}
