//! What a machine must have for labs, and saying what it lacks.

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};

/// Something that tests with real daemons need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// To be root: namespaces and mounts.
    Root,
    /// `/dev/fuse`.
    Fuse,
    /// The programs `ip`, `nft`, `mount` and `bash`.
    Network,
    /// Corosync 3 and its tools.
    Corosync,
    /// The voting device of Corosync's project, both ends.
    Qdevice,
    /// OpenSSH, both ends.
    Ssh,
}

impl Requirement {
    fn is_met(self) -> bool {
        match self {
            Self::Root => nix::unistd::geteuid().is_root(),
            Self::Fuse => Path::new("/dev/fuse").exists(),
            Self::Network => ["ip", "nft", "mount", "bash"].into_iter().all(is_installed),
            Self::Corosync => ["corosync", "corosync-quorumtool"]
                .into_iter()
                .all(is_installed),
            Self::Qdevice => ["corosync-qdevice", "corosync-qnetd"]
                .into_iter()
                .all(is_installed),
            Self::Ssh => ["sshd", "ssh", "ssh-keygen", "openssl"]
                .into_iter()
                .all(is_installed),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "to be root",
            Self::Fuse => "/dev/fuse (load the kernel module 'fuse')",
            Self::Network => {
                "the programs ip, nft, mount and bash (packages iproute2, nftables, mount, bash)"
            }
            Self::Corosync => "corosync and corosync-quorumtool (package corosync)",
            Self::Qdevice => "corosync-qdevice and corosync-qnetd (packages of the same names)",
            Self::Ssh => {
                "the programs sshd, ssh, ssh-keygen and openssl (packages openssh-server, \
                 openssh-client, openssl)"
            }
        })
    }
}

/// Whether a test can run here; if not, says on stderr what it lacks.
///
/// With `PMXCFS_TEST_ALL=1` in the environment nothing may be left out, so that a machine that is
/// meant to run all tests does not pass without them.
///
/// # Panics
/// When something is lacking and `PMXCFS_TEST_ALL` is set.
#[must_use]
pub fn available(requirements: &[Requirement]) -> bool {
    let Some(text) = missing(requirements) else {
        return true;
    };
    assert!(std::env::var_os("PMXCFS_TEST_ALL").is_none(), "{text}");
    eprintln!("left out: {text}");
    false
}

/// What is lacking, in words.
#[must_use]
pub fn missing(requirements: &[Requirement]) -> Option<String> {
    let lacks: Vec<_> = requirements
        .iter()
        .filter(|it| !it.is_met())
        .map(ToString::to_string)
        .collect();
    (!lacks.is_empty()).then(|| format!("this needs {}", lacks.join(", and ")))
}

pub(super) fn check(requirements: &[Requirement]) -> Result<()> {
    missing(requirements).map_or(Ok(()), |text| bail!("{text}"))
}

/// Directories of programs, also those that an ordinary user's `PATH` does not name.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn is_installed(program: &str) -> bool {
    PATH.split(':')
        .any(|dir| Path::new(dir).join(program).exists())
}
