//! What a configuration needs to know of the machine that it is read on.

use std::net::IpAddr;

/// Which addresses a name stands for, in order of preference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// IPv4, else IPv6.
    V4Then6,
    /// IPv6, else IPv4.
    #[default]
    V6Then4,
}

impl IpVersion {
    /// The address of the most wanted family, the first of its family.
    pub fn choose(self, addresses: &[IpAddr]) -> Option<IpAddr> {
        let first = |v4: bool| {
            addresses
                .iter()
                .copied()
                .find(|address| address.is_ipv4() == v4)
        };
        match self {
            Self::V4 => first(true),
            Self::V6 => first(false),
            Self::V4Then6 => first(true).or_else(|| first(false)),
            Self::V6Then4 => first(false).or_else(|| first(true)),
        }
    }
}

/// The machine, as far as reading a configuration goes. Reading itself does no I/O.
///
/// One that says nothing else has no name service and no users: addresses stand for themselves.
pub trait Host {
    /// Its name, as `uname` has it.
    fn name(&self) -> String;
    /// Addresses of its interfaces.
    fn addresses(&self) -> Vec<IpAddr>;
    /// Name of an address, if the resolver knows one.
    fn name_of(&self, _address: IpAddr) -> Option<String> {
        None
    }
    /// All addresses of a name; an address stands for itself.
    fn resolve(&self, name: &str) -> Vec<IpAddr> {
        name.parse().into_iter().collect()
    }
    /// Number of a user.
    fn user_id(&self, _name: &str) -> Option<u32> {
        None
    }
    /// Number of a group.
    fn group_id(&self, _name: &str) -> Option<u32> {
        None
    }
    /// First bytes, 4096 at most, of a key file.
    ///
    /// # Errors
    /// The text of the reason.
    fn read_key(&self, path: &str) -> Result<Vec<u8>, String>;
}
