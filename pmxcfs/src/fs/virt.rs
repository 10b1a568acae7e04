//! Entries of the root that are computed: links to the own node's folders, and status files.

use std::fmt::Write as _;

use bytes::Bytes;

use crate::memdb::{Guests, Tree};

/// Texts of the computed files that the file system itself does not know.
///
/// Called on the threads that serve the kernel: implementations answer at once.
pub trait StatusSource: Send + Sync + 'static {
    /// `.version`; counters of the tree come from `tree`.
    fn version(&self, tree: &Tree) -> Bytes;
    /// `.members`
    fn members(&self) -> Bytes;
    /// `.rrd`
    fn rrd(&self) -> Bytes;
    /// `.clusterlog`
    fn cluster_log(&self) -> Bytes;
    /// Whether debug messages are on: `.debug`.
    fn debug(&self) -> bool;
    /// Switches debug messages.
    fn set_debug(&self, on: bool);
    /// Tells everybody of writes that are lost when no caller is left to be told.
    fn report_loss(&self, text: &str);
}

/// A computed entry of the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Virtual {
    /// Link to the own node's folder.
    Local,
    /// Link to the own node's virtual machines.
    QemuServer,
    /// Link to the own node's OpenVZ containers.
    Openvz,
    /// Link to the own node's containers.
    Lxc,
    /// Change counters.
    Version,
    /// Cluster members.
    Members,
    /// Guests.
    VmList,
    /// Latest RRD lines.
    Rrd,
    /// Last log entries.
    ClusterLog,
    /// Debug switch.
    Debug,
}

impl Virtual {
    /// All of them, in the order of a listing.
    pub const ALL: [Self; 10] = [
        Self::Local,
        Self::QemuServer,
        Self::Openvz,
        Self::Lxc,
        Self::Version,
        Self::Members,
        Self::VmList,
        Self::Rrd,
        Self::ClusterLog,
        Self::Debug,
    ];

    /// Name in the root.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::QemuServer => "qemu-server",
            Self::Openvz => "openvz",
            Self::Lxc => "lxc",
            Self::Version => ".version",
            Self::Members => ".members",
            Self::VmList => ".vmlist",
            Self::Rrd => ".rrd",
            Self::ClusterLog => ".clusterlog",
            Self::Debug => ".debug",
        }
    }

    /// Finds the computed entry of a name in the root.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|entry| entry.name().as_bytes() == name)
    }

    /// Number that the kernel knows it by: the top of the range, far above the database's.
    #[must_use]
    pub fn ino(self) -> u64 {
        let from_top = match self {
            Self::Local => 0,
            Self::QemuServer => 1,
            Self::Openvz => 2,
            Self::Lxc => 3,
            Self::Version => 4,
            Self::Members => 5,
            Self::VmList => 6,
            Self::Rrd => 7,
            Self::ClusterLog => 8,
            Self::Debug => 9,
        };
        u64::MAX - 1 - from_top
    }

    /// Inverse of [`Self::ino`].
    #[must_use]
    pub fn from_ino(ino: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|entry| entry.ino() == ino)
    }

    /// Where a link points, below the root; `None` for a file.
    #[must_use]
    pub fn link_target(self, node: &str) -> Option<String> {
        match self {
            Self::Local => Some(format!("nodes/{node}")),
            Self::QemuServer | Self::Openvz | Self::Lxc => {
                Some(format!("nodes/{node}/{}", self.name()))
            }
            Self::Version
            | Self::Members
            | Self::VmList
            | Self::Rrd
            | Self::ClusterLog
            | Self::Debug => None,
        }
    }

    /// Mode bits of a file; links have [`super::perm::link_mode`].
    #[must_use]
    pub fn file_mode(self) -> u16 {
        if self == Self::Debug { 0o640 } else { 0o440 }
    }

    /// Text of a file as of now; empty for a link.
    #[must_use]
    pub fn text(self, status: &dyn StatusSource, tree: &Tree) -> Bytes {
        match self {
            Self::Version => status.version(tree),
            Self::Members => status.members(),
            Self::VmList => Bytes::from(vmlist(tree.guests())),
            Self::Rrd => status.rrd(),
            Self::ClusterLog => status.cluster_log(),
            Self::Debug => Bytes::from_static(if status.debug() { b"1\n" } else { b"0\n" }),
            Self::Local | Self::QemuServer | Self::Openvz | Self::Lxc => Bytes::new(),
        }
    }
}

/// Text of `.vmlist`.
#[must_use]
pub fn vmlist(guests: &Guests) -> String {
    let mut text = format!("{{\n\"version\": {}", guests.version());
    let mut separator = ",\n\"ids\": {\n";
    for (id, guest) in guests.iter() {
        text.push_str(separator);
        let written = write!(
            text,
            "\"{id}\": {{ \"node\": \"{}\", \"type\": \"{}\", \"version\": {} }}",
            guest.node,
            guest.kind.label(),
            guest.version
        );
        debug_assert!(written.is_ok(), "a String takes everything");
        separator = ",\n";
    }
    if separator == ",\n" {
        text.push('}');
    }
    text.push_str("\n\n}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memdb::GuestPath;

    #[test]
    fn numbers_and_names_are_unique_and_reversible() {
        for entry in Virtual::ALL {
            assert_eq!(Virtual::from_ino(entry.ino()), Some(entry));
            assert_eq!(Virtual::from_name(entry.name().as_bytes()), Some(entry));
        }
        assert_eq!(Virtual::from_ino(1), None);
        assert_eq!(Virtual::from_name(b".vm"), None);
    }

    #[test]
    fn vmlist_has_the_layout_that_clients_parse() {
        let mut guests = Guests::default();
        assert_eq!(vmlist(&guests), "{\n\"version\": 0\n\n}\n");
        guests.register(&GuestPath::parse(b"nodes/n1/qemu-server/104.conf").unwrap());
        guests.register(&GuestPath::parse(b"nodes/n1/lxc/106.conf").unwrap());
        assert_eq!(
            vmlist(&guests),
            "{\n\"version\": 2,\n\"ids\": {\n\
             \"104\": { \"node\": \"n1\", \"type\": \"qemu\", \"version\": 1 },\n\
             \"106\": { \"node\": \"n1\", \"type\": \"lxc\", \"version\": 2 }}\n\n}\n"
        );
    }
}
