//! The guest list: which guest id lives on which node, derived from the paths in the tree.

use std::sync::Arc;

use imbl::OrdMap;

use super::path::split;

/// Kind of a guest, by the folder that holds its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GuestKind {
    /// `qemu-server`
    Qemu,
    /// `openvz`
    Openvz,
    /// `lxc`
    Lxc,
}

impl GuestKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Qemu, Self::Openvz, Self::Lxc];

    /// Folder below `nodes/NODE/`.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Self::Qemu => "qemu-server",
            Self::Openvz => "openvz",
            Self::Lxc => "lxc",
        }
    }

    /// Name in `.vmlist`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Openvz => "openvz",
            Self::Lxc => "lxc",
        }
    }
}

/// A path that names a guest: `nodes/NODE/KIND/ID.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestPath {
    /// Guest id, 1 to 4294967295.
    pub id: u32,
    /// Node part of the path; it need not be a member of the cluster.
    pub node: Arc<str>,
    /// Kind, from the folder.
    pub kind: GuestKind,
}

impl GuestPath {
    /// Takes `path` apart, if it names a guest.
    #[must_use]
    pub fn parse(path: &[u8]) -> Option<Self> {
        let (dir, base) = split(path);
        let id = parse_config_name(base)?;
        let rest = dir.strip_prefix(b"nodes/")?;
        let slash = rest.iter().position(|&byte| byte == b'/')?;
        let (node, folder) = (&rest[..slash], &rest[slash + 1..]);
        let kind = GuestKind::ALL
            .into_iter()
            .find(|kind| kind.folder().as_bytes() == folder)?;
        if !is_valid_node_name(node) {
            return None;
        }
        let node = std::str::from_utf8(node).ok()?;
        Some(Self {
            id,
            node: node.into(),
            kind,
        })
    }

    /// Whether `path` is a folder that holds guests: `nodes/NODE/{qemu-server,openvz,lxc}`.
    #[must_use]
    pub fn is_folder(path: &[u8]) -> bool {
        let (dir, base) = split(path);
        let is_kind = GuestKind::ALL
            .iter()
            .any(|kind| kind.folder().as_bytes() == base);
        is_kind && dir.strip_prefix(b"nodes/").is_some_and(is_valid_node_name)
    }
}

/// Letters, digits and inner hyphens, at least one character.
#[must_use]
pub fn is_valid_node_name(name: &[u8]) -> bool {
    let ends_ok = name.first() != Some(&b'-') && name.last() != Some(&b'-');
    !name.is_empty()
        && ends_ok
        && name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// Guest id of a file name `ID.conf`; the id starts with 1-9 and fits 32 bits.
pub(crate) fn parse_config_name(name: &[u8]) -> Option<u32> {
    let digits = name.strip_suffix(b".conf")?;
    let first_ok = matches!(digits.first(), Some(b'1'..=b'9'));
    if !first_ok || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// One guest of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Node that holds its configuration.
    pub node: Arc<str>,
    /// Kind of guest.
    pub kind: GuestKind,
    /// Counter of this process, given anew at each registration.
    pub version: u32,
}

/// All guests and the counters that clients watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guests {
    by_id: OrdMap<u32, Guest>,
    version: u32,
    last_guest_version: u32,
}

impl Guests {
    /// Version of the list, as in `.vmlist` and `.version`.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Looks a guest up.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&Guest> {
        self.by_id.get(&id)
    }

    /// Guests in ascending order of id.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Guest)> {
        self.by_id.iter().map(|(id, guest)| (*id, guest))
    }

    /// Whether that id is in use by another node or as another kind.
    #[must_use]
    pub fn conflicts(&self, path: &GuestPath) -> bool {
        self.get(path.id)
            .is_some_and(|guest| guest.kind != path.kind || guest.node != path.node)
    }

    /// Lists the guest of a path.
    pub fn register(&mut self, path: &GuestPath) {
        self.version = self.version.wrapping_add(1);
        self.list(path);
    }

    /// Drops an id from the list; counts even when it was not listed.
    pub fn remove(&mut self, id: u32) {
        self.version = self.version.wrapping_add(1);
        self.by_id.remove(&id);
    }

    /// Lists without counting, for a list that is built as a whole. False for a duplicate.
    pub(crate) fn list(&mut self, path: &GuestPath) -> bool {
        self.last_guest_version = self.last_guest_version.wrapping_add(1);
        let guest = Guest {
            node: path.node.clone(),
            kind: path.kind,
            version: self.last_guest_version,
        };
        self.by_id.insert(path.id, guest).is_none()
    }

    /// Starts a list that is built as a whole, counters continued from `self`.
    pub(crate) fn rebuild(&self, count: bool) -> Self {
        Self {
            by_id: OrdMap::new(),
            version: if count {
                self.version.wrapping_add(1)
            } else {
                self.version
            },
            last_guest_version: self.last_guest_version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_guest_paths_count() {
        let guest = GuestPath::parse(b"nodes/n1/qemu-server/100.conf").unwrap();
        assert_eq!(
            (guest.id, &*guest.node, guest.kind),
            (100, "n1", GuestKind::Qemu)
        );
        assert!(GuestPath::parse(b"nodes/a-b/lxc/4294967295.conf").is_some());
        for other in [
            &b"nodes/n1/qemu-server/0100.conf"[..],
            b"nodes/n1/qemu-server/0.conf",
            b"nodes/n1/qemu-server/+1.conf",
            b"nodes/n1/qemu-server/4294967296.conf",
            b"nodes/n1/qemu-server/1.CONF",
            b"nodes/n1/qemu-server/1.conf.tmp",
            b"nodes/n1/qemu-server/1.5.conf",
            b"nodes/n1/qemu-server/x/1.conf",
            b"nodes/-n/qemu-server/1.conf",
            b"nodes/n-/qemu-server/1.conf",
            b"nodes/n.1/qemu-server/1.conf",
            b"nodes/n_1/qemu-server/1.conf",
            b"nodes//qemu-server/1.conf",
            b"nodes/n1/kvm/1.conf",
            b"/nodes/n1/lxc/1.conf",
        ] {
            assert_eq!(
                GuestPath::parse(other),
                None,
                "{}",
                String::from_utf8_lossy(other)
            );
        }
    }

    #[test]
    fn folders_of_guests_are_known() {
        assert!(GuestPath::is_folder(b"nodes/n1/lxc"));
        assert!(!GuestPath::is_folder(b"nodes/n1/priv"));
        assert!(!GuestPath::is_folder(b"nodes/n.1/lxc"));
    }
}
