//! What is known of a node and its cluster. Gathered once; checks look at nothing else.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use corosync_lite::status::Status;

use crate::datacenter::Network;
use crate::host::pve::Members;
use crate::state::{Peer, State};

/// Everything that is known.
#[derive(Clone, Debug)]
pub struct Facts {
    /// This node.
    pub node: String,
    /// Time since 1970.
    pub now: Duration,
    /// What its name resolves to.
    pub addresses: Result<Vec<IpAddr>, String>,
    /// Addresses of its interfaces.
    pub interfaces: Vec<Interface>,
    /// The cluster file system.
    pub mount: Mount,
    /// What is in it, if it answers.
    pub files: Option<ClusterFiles>,
    /// `/etc/corosync/corosync.conf`.
    pub local_conf: Text,
    /// `/etc/corosync/authkey`.
    pub authkey: Option<Mode>,
    /// What host names in the configuration resolve to.
    pub resolved: BTreeMap<String, Vec<IpAddr>>,
    /// The messaging daemon, or why it is not known.
    pub messaging: Result<Messaging, String>,
    /// The database of the cluster file system.
    pub database: Database,
    /// Room where the database is, or why it is not known.
    pub disk: Result<Disk, String>,
    /// A change that was broken off.
    pub journal: Option<Journal>,
    /// Other nodes, as their API service shows itself; an error says why it does not.
    pub services: BTreeMap<String, Result<Seen, String>>,
    /// Programs of the cluster.
    pub programs: Vec<Program>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// The network that it is in, if the kernel names one.
    pub network: Option<Network>,
    /// Bytes of a packet.
    pub mtu: Option<u32>,
}

/// The mount at `/etc/pve`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    /// Nothing is mounted; so many entries are in the directory below.
    Absent(usize),
    /// It is there, but its daemon is gone.
    Dead(String),
    /// It is there, but does not answer.
    Hanging,
    /// It can be read.
    ReadOnly,
    /// It can be written to.
    Writable,
}

/// A file that should hold a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// It is not there.
    Absent,
    /// It can not be read.
    Unreadable(String),
    /// It is there.
    Found(Vec<u8>),
}

/// Owner and mode of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its size in bytes.
    pub size: u64,
}

/// What is below `/etc/pve`.
#[derive(Clone, Debug)]
pub struct ClusterFiles {
    /// `.members`, if it could be read.
    pub members: Option<Members>,
    /// `corosync.conf`.
    pub conf: Text,
    /// The cluster's own authority and all nodes' certificates.
    pub certificates: Vec<Certificate>,
    /// Locks that are taken.
    pub locks: Vec<Lock>,
    /// Directories of nodes, with the guests in them.
    pub directories: BTreeMap<String, Vec<u32>>,
    /// Servers of storages.
    pub storages: Vec<Storage>,
    /// The file that changed last, and when, since 1970.
    pub newest: Option<(PathBuf, Duration)>,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Where it is.
    pub path: PathBuf,
    /// The node that it is for; none: the cluster's authority.
    pub node: Option<String>,
    /// It was made by the cluster's authority, as node certificates have to be.
    pub is_signed: Option<bool>,
    /// What it says, or why it can not be read.
    pub content: Result<CertificateContent, String>,
}

/// What a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateContent {
    /// Seconds until it is valid; negative: it is.
    pub starts_in: i64,
    /// Seconds until it is not valid any more.
    pub ends_in: i64,
    /// Host names.
    pub names: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// SHA-256, as fingerprints are written.
    pub fingerprint: String,
}

/// A lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Its name.
    pub name: String,
    /// Time since it was taken or refreshed.
    pub age: Duration,
}

/// A storage on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Its name.
    pub name: String,
    /// The server.
    pub address: IpAddr,
}

/// The messaging daemon.
#[derive(Clone, Debug, Default)]
pub struct Messaging {
    /// Nodes, links and quorum.
    pub status: Status,
    /// Votes, if they are counted.
    pub state: Option<State>,
    /// The other nodes as it knows them.
    pub peers: BTreeMap<u32, Peer>,
}

/// The database on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// There is none.
    Absent,
    /// It passed all checks.
    Good {
        /// Its version.
        version: u64,
        /// What is odd about it.
        notes: Vec<String>,
        /// The file's mode.
        mode: Option<Mode>,
    },
    /// It did not.
    Bad(String),
    /// It could not be checked.
    Unknown(String),
}

/// Room on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that are free.
    pub free: u64,
    /// Bytes in all.
    pub size: u64,
    /// Files that can still be made; none: there is no limit.
    pub files: Option<u64>,
}

/// A change that was broken off, or goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// The command, with its name.
    pub command: String,
    /// When it was broken off.
    pub when: String,
    /// It is not put back by itself any more.
    pub is_dated: bool,
    /// A `pvecm` runs.
    pub goes_on: bool,
}

/// The API service of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// How far its clock is ahead, in seconds; negative: behind.
    pub ahead: Option<f64>,
    /// The certificate that it shows.
    pub fingerprint: String,
}

/// A program of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// What it calls its version, if it is installed.
    pub version: Option<String>,
    /// Processes that run an older file than the one that is installed.
    pub outdated: Vec<u32>,
}
