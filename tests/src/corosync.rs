//! Corosync on test hosts: its configuration, start and state.
//!
//! The ring is set up as clusters have it: knet over both links, encrypted, votes counted. Only
//! the timeouts are shorter, so that a lost node is noticed within a second or two.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::daemon::built;
use crate::lab::{Host, LINKS, Lab, Program, Requirement, address, missing};
use crate::wait::{eventually, eventually_ok};

/// A ring of all nodes forms well within this time, on a busy machine too.
pub const FORM_DEADLINE: Duration = Duration::from_secs(60);
/// Corosync leaves the ring at once and ends; this allows for a busy machine.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Debian's daemon.
const INSTALLED: &str = "corosync";

/// Parts of warnings that every start may have, and that mean nothing for a test.
const HARMLESS: [&str; 6] = [
    // Containers and virtual machines commonly forbid both, and it does without.
    "RLIMIT_MEMLOCK",
    "SCHED_RR",
    // No watchdog is configured.
    "[WD    ]",
    // Before the first answer of another node.
    "has no active links",
    // A tool asked before the start was complete, and asks again.
    "Denied connection, is not ready",
    "Denied connection, corosync is not ready",
];

/// How packets of the ring travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Kronosnet: several links, encryption.
    Knet,
    /// Plain UDP, one packet for each receiver.
    Udpu,
    /// Plain UDP, one packet for all of a multicast group.
    Udp,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Knet => "knet",
            Self::Udpu => "udpu",
            Self::Udp => "udp",
        }
    }
}

/// What is written to `corosync.conf`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the cluster.
    pub cluster_name: String,
    /// Number of this version of the file.
    pub config_version: u64,
    /// Numbers of the member nodes.
    pub nodes: Vec<usize>,
    /// Time without a token after which a node counts as lost.
    pub token: Duration,
    /// Encrypt and sign, with a key that all nodes have.
    pub encrypted: bool,
    /// How packets travel.
    pub transport: Transport,
    /// Links that are used; plain UDP has one.
    pub links: usize,
    /// Bytes of the key.
    pub key: Vec<u8>,
    /// Further lines of the section `logging`.
    pub logging: Vec<String>,
    /// Further lines of the section `totem`.
    pub totem: Vec<String>,
    /// Further lines of the section `quorum`.
    pub quorum: Vec<String>,
    /// Daemons that the nodes take in turns, with colons between them: `corosync` is the installed
    /// one, `corosync-lite` the one that was built beside this program, others are paths.
    pub messaging: String,
}

impl Settings {
    /// For nodes 1 to `count`. `COROSYNC_BIN` has the messaging daemons; without it they are
    /// Corosync.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self {
            cluster_name: "lab".to_owned(),
            config_version: 1,
            nodes: (1..=count).collect(),
            token: Duration::from_secs(1),
            encrypted: true,
            transport: Transport::Knet,
            links: LINKS,
            // Secret enough for networks that end within this machine, and the same on all hosts.
            key: (0..=255).collect(),
            logging: Vec::new(),
            totem: Vec::new(),
            quorum: Vec::new(),
            messaging: std::env::var("COROSYNC_BIN").unwrap_or_default(),
        }
    }

    /// Text of the file.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).unwrap_or_default();
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "logging {{\n  debug: off\n  timestamp: hires\n  to_stderr: yes"
        )?;
        writeln!(out, "  to_syslog: no")?;
        for line in &self.logging {
            writeln!(out, "  {line}")?;
        }
        writeln!(out, "}}\n\nnodelist {{")?;
        for id in &self.nodes {
            writeln!(
                out,
                "  node {{\n    name: n{id}\n    nodeid: {id}\n    quorum_votes: 1"
            )?;
            for link in 0..self.links {
                writeln!(out, "    ring{link}_addr: {}", address(*id, link))?;
            }
            writeln!(out, "  }}")?;
        }
        writeln!(out, "}}\n\nquorum {{\n  provider: corosync_votequorum")?;
        for line in &self.quorum {
            writeln!(out, "  {line}")?;
        }
        writeln!(out, "}}\n\ntotem {{\n  cluster_name: {}", self.cluster_name)?;
        writeln!(out, "  config_version: {}", self.config_version)?;
        for link in 0..self.links {
            writeln!(out, "  interface {{\n    linknumber: {link}\n  }}")?;
        }
        writeln!(
            out,
            "  ip_version: ipv4-6\n  link_mode: passive\n  transport: {}",
            self.transport.name()
        )?;
        let security = if self.encrypted {
            ("aes256", "sha256")
        } else {
            ("none", "none")
        };
        writeln!(
            out,
            "  crypto_cipher: {}\n  crypto_hash: {}",
            security.0, security.1
        )?;
        writeln!(
            out,
            "  token: {}\n  token_coefficient: 0",
            self.token.as_millis()
        )?;
        for line in &self.totem {
            writeln!(out, "  {line}")?;
        }
        writeln!(
            out,
            "  version: 2\n}}\n\nsystem {{\n  move_to_root_cgroup: no\n}}"
        )
    }

    /// Writes configuration and key to a host, as they are on a real node.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn install(&self, host: &Host) -> Result<()> {
        let dir = host.disk("etc/corosync");
        fs::write(dir.join("corosync.conf"), self.render())?;
        let key = dir.join("authkey");
        fs::write(&key, &self.key)?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o400))
            .with_context(|| format!("cannot protect {}", key.display()))
    }
}

/// The daemon of group messaging, on one host.
#[derive(Debug)]
pub struct Corosync {
    program: Program,
    path: PathBuf,
}

impl Corosync {
    /// Starts a node's daemon with the configuration that the host has.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(host: &Host, settings: &Settings) -> Result<Self> {
        Self::start_program(host, &program_of(&settings.messaging, host.id())?)
    }

    /// Starts a certain daemon with the configuration that the host has.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_program(host: &Host, path: &Path) -> Result<Self> {
        Ok(Self {
            program: host.start("corosync", path, &["-f"])?,
            path: path.to_owned(),
        })
    }

    /// Writes `settings` to all their hosts, starts the daemon there, and waits until all nodes
    /// see each other. The result is in the order of the nodes.
    ///
    /// # Errors
    /// When a daemon cannot be started, or the ring does not form.
    pub fn start_cluster(lab: &Lab, settings: &Settings) -> Result<Vec<Self>> {
        let hosts: Vec<_> = settings.nodes.iter().map(|id| lab.host(*id)).collect();
        for host in &hosts {
            settings.install(host)?;
        }
        let all: Vec<_> = hosts
            .iter()
            .map(|host| Self::start(host, settings))
            .collect::<Result<_>>()?;
        for (host, corosync) in hosts.iter().zip(&all) {
            corosync.await_members(host, hosts.len())?;
        }
        Ok(all)
    }

    /// Waits until this node is quorate and sees so many votes.
    ///
    /// # Errors
    /// When that takes longer than [`FORM_DEADLINE`], or the daemon ends.
    pub fn await_members(&self, host: &Host, votes: usize) -> Result<()> {
        eventually_ok(FORM_DEADLINE, "a ring of all nodes", || {
            let state = QuorumState::of(host)?;
            ensure!(
                state.quorate && state.votes == votes,
                "{} sees {state:?}",
                host.name()
            );
            Ok(())
        })
        .and_then(|()| self.program.check_running())
        .with_context(|| self.program.log_tail())
    }

    /// What was started.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The running program: its pid, log and signals.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Ends it in order: the node leaves the ring.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(self) -> Result<()> {
        let status = self.program.stop(STOP_DEADLINE)?;
        ensure!(
            status.success(),
            "corosync ended with {status}\n{}",
            self.program.log_tail()
        );
        Ok(())
    }

    /// Lines of its log that tell of trouble, without those that every start may have.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let trouble = ["warning", "error", "crit", "alert", "emerg"];
        let is_complaint = |line: &&str| {
            let head = line.split('[').next().unwrap_or_default();
            trouble.iter().any(|word| head.contains(word))
                && !HARMLESS.iter().any(|word| line.contains(word))
        };
        self.program
            .log()
            .lines()
            .filter(is_complaint)
            .map(str::to_owned)
            .collect()
    }
}

/// The messaging daemon of a node; see [`Settings::messaging`].
fn program_of(wanted: &str, node: usize) -> Result<PathBuf> {
    let names: Vec<&str> = wanted.split(':').filter(|name| !name.is_empty()).collect();
    let turn = node.saturating_sub(1) % names.len().max(1);
    match names.get(turn).copied().unwrap_or(INSTALLED) {
        "corosync-lite" => built("corosync-lite", "COROSYNC_LITE_BIN"),
        INSTALLED => match missing(&[Requirement::Corosync]) {
            Some(text) => bail!("{text}"),
            None => Ok(PathBuf::from(INSTALLED)),
        },
        path => Ok(PathBuf::from(path)),
    }
}

/// What `corosync-quorumtool` says on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumState {
    /// Whether the node's partition has quorum.
    pub quorate: bool,
    /// Votes present in it.
    pub votes: usize,
}

impl QuorumState {
    /// Asks now.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn of(host: &Host) -> Result<Self> {
        // The exit status tells the quorum, so it is no sign of failure.
        let output = host.sh("corosync-quorumtool -s")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).with_context(|| {
                let errors = String::from_utf8_lossy(&output.stderr);
                format!(
                    "{}: no '{name}' from corosync-quorumtool: {text}{errors}",
                    host.name()
                )
            })
        };
        Ok(Self {
            quorate: value("Quorate:")? == "Yes",
            votes: value("Total votes:")?
                .parse()
                .context("votes are not a number")?,
        })
    }
}

/// Waits until a node has, or has not, quorum.
///
/// # Errors
/// When that takes longer than [`FORM_DEADLINE`].
pub fn await_quorate(host: &Host, quorate: bool) -> Result<()> {
    let what = if quorate { "quorum" } else { "loss of quorum" };
    eventually(FORM_DEADLINE, &format!("{what} on {}", host.name()), || {
        QuorumState::of(host).is_ok_and(|state| state.quorate == quorate)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_take_the_named_programs_in_turns() {
        let names = |wanted: &str| [1, 2, 3].map(|node| program_of(wanted, node).unwrap());
        assert_eq!(names("/a:/b"), ["/a", "/b", "/a"].map(PathBuf::from));
        assert_eq!(names("/a"), ["/a"; 3].map(PathBuf::from));
    }

    #[test]
    fn settings_are_rendered() {
        let mut settings = Settings::new(3);
        settings.quorum.push("two_node: 0".to_owned());
        let text = settings.render();
        assert!(text.contains("ring1_addr: 10.78.0.3\n"), "{text}");
        assert!(text.contains("  two_node: 0\n"), "{text}");
        assert_eq!(
            text.matches('{').count(),
            text.matches('}').count(),
            "{text}"
        );
    }
}
