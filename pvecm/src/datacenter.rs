//! `datacenter.cfg`: what the command needs of the options that hold for the whole cluster.
//!
//! Lines are `key: value`; the value of most keys is a list `a=1,b=2`, of which one key may be left
//! out. What is not understood is left out with a warning and does not take the rest of its line
//! with it: `migration: network=10.0.0.0/24` keeps its network although it names no type.
//!
//! Invariant: reading never fails for what the file says, only when it can not be read.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::failure::Outcome;
use crate::host::{Host, files};

/// Lowest number a guest gets if nothing is said.
const NEXT_ID_LOWER: u32 = 100;
/// Guests get numbers below this one if nothing is said.
const NEXT_ID_UPPER: u32 = 1_000_000;

/// The options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Datacenter {
    /// Numbers that new guests get.
    pub next_id: NextId,
    /// How guests move between nodes.
    pub migration: Option<Transfer>,
    /// How their disks are copied; as `migration` if it is not there.
    pub replication: Option<Transfer>,
    /// What was left out, and why, for the user.
    pub warnings: Vec<String>,
}

/// `next-id`: the range of numbers that are given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextId {
    /// The first one.
    pub lower: u32,
    /// The first one that is not given out.
    pub upper: u32,
}

/// `migration` and `replication`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Whether data goes over the network without encryption.
    pub insecure: bool,
    /// The network in which each node uses its address.
    pub network: Option<Network>,
}

/// An IP network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no network in CIDR notation, such as 10.0.0.0/24")]
pub struct NoNetwork(String);

impl Default for NextId {
    fn default() -> Self {
        Self {
            lower: NEXT_ID_LOWER,
            upper: NEXT_ID_UPPER,
        }
    }
}

impl Network {
    /// The network of an interface's address.
    #[must_use]
    pub fn of(address: IpAddr, mask: IpAddr) -> Option<Self> {
        let prefix = match (address, mask) {
            (IpAddr::V4(_), IpAddr::V4(mask)) => mask.to_bits().leading_ones(),
            (IpAddr::V6(_), IpAddr::V6(mask)) => mask.to_bits().leading_ones(),
            _ => return None,
        };
        let prefix = u8::try_from(prefix).ok()?;
        Some(Self { address, prefix })
    }

    /// Bits of the network's part.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let differ = u128::from(own.to_bits() ^ ip.to_bits());
                differ >> (32 - u32::from(self.prefix)) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                let differ = own.to_bits() ^ ip.to_bits();
                differ
                    .checked_shr(128 - u32::from(self.prefix))
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let read = || {
            let (address, prefix) = text.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            let digits = prefix.bytes().all(|digit| digit.is_ascii_digit());
            let prefix: u8 = prefix.parse().ok().filter(|_| digits)?;
            (prefix <= longest).then_some(Self { address, prefix })
        };
        read().ok_or_else(|| NoNetwork(text.to_owned()))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Datacenter {
    /// Reads the file of the cluster; without one all options have their defaults.
    ///
    /// # Errors
    /// When it is there and can not be read.
    pub fn read(host: &Host) -> Outcome<Self> {
        let content = files::read(&host.paths.pve("datacenter.cfg"))?;
        let content = content.unwrap_or_default();
        Ok(Self::parse(&String::from_utf8_lossy(&content)))
    }

    /// Understands a text.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut read = Self::default();
        for line in text.lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((key, value)) = line.split_once(':') else {
                read.warn(format!("'{line}' is not 'KEY: VALUE'; it is left out"));
                continue;
            };
            let value = value.trim();
            match key.trim_end() {
                "next-id" => read.next_id = read.read_next_id(value),
                "migration" => read.migration = Some(read.read_transfer("migration", value)),
                "replication" => read.replication = Some(read.read_transfer("replication", value)),
                _ => {}
            }
        }
        read
    }

    /// The network for moving guests, if one is configured.
    #[must_use]
    pub fn migration_network(&self) -> Option<Network> {
        self.migration.and_then(|migration| migration.network)
    }

    /// Shows the user what was left out.
    pub fn show_warnings(&self) {
        for warning in &self.warnings {
            crate::tell::tell(&format!("warning: {warning}"));
        }
    }

    fn read_next_id(&mut self, value: &str) -> NextId {
        let mut range = NextId::default();
        for (key, value) in parts(value) {
            let number = value.parse().ok();
            match (key, number) {
                (Some("lower"), Some(number)) => range.lower = number,
                (Some("upper"), Some(number)) => range.upper = number,
                _ => self.left_out("next-id", key, value),
            }
        }
        if range.lower >= range.upper {
            let NextId { lower, upper } = range;
            self.warn(format!(
                "next-id: no number is in the range from {lower} up to, not including, {upper}"
            ));
        }
        range
    }

    fn read_transfer(&mut self, name: &str, value: &str) -> Transfer {
        let mut transfer = Transfer::default();
        for (key, value) in parts(value) {
            match (key, value) {
                (None | Some("type"), "secure") => transfer.insecure = false,
                (None | Some("type"), "insecure") => transfer.insecure = true,
                (Some("network"), value) => match value.parse() {
                    Ok(network) => transfer.network = Some(network),
                    Err(_) => self.left_out(name, key, value),
                },
                _ => self.left_out(name, key, value),
            }
        }
        transfer
    }

    fn left_out(&mut self, name: &str, key: Option<&str>, value: &str) {
        let part = key.map_or_else(|| value.to_owned(), |key| format!("{key}={value}"));
        self.warn(format!(
            "{name}: '{part}' is not understood; it is left out"
        ));
    }

    fn warn(&mut self, text: String) {
        self.warnings.push(format!("datacenter.cfg: {text}"));
    }
}

/// Parts of a list `value,key=value`.
fn parts(list: &str) -> impl Iterator<Item = (Option<&str>, &str)> {
    let parts = list.split(',').map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(|part| match part.split_once('=') {
            Some((key, value)) => (Some(key.trim()), value.trim()),
            None => (None, part),
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Option<Network> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn options_have_defaults() {
        let read = Datacenter::parse("");
        assert_eq!(read, Datacenter::default());
        assert_eq!((read.next_id.lower, read.next_id.upper), (100, 1_000_000));
        assert_eq!(read.migration_network(), None);
    }

    #[test]
    fn options_are_read() {
        let read = Datacenter::parse(
            "# a description\n#with two lines\n\nconsole: html5\nkeyboard: de\n\
             migration: insecure,network=10.1.0.0/16\nnext-id: lower=5,upper=200\n\
             replication: type=secure\n",
        );
        assert_eq!(read.warnings, [""; 0]);
        assert_eq!((read.next_id.lower, read.next_id.upper), (5, 200));
        let insecure = Transfer {
            insecure: true,
            network: network("10.1.0.0/16"),
        };
        assert_eq!(read.migration, Some(insecure));
        assert_eq!(read.replication, Some(Transfer::default()));
    }

    #[test]
    fn a_network_without_a_type_stays() {
        let read = Datacenter::parse("migration: network=fd00::/64");
        assert_eq!(read.migration_network(), network("fd00::/64"));
        assert_eq!(read.warnings, [""; 0]);
    }

    #[test]
    fn what_is_not_understood_is_left_out_alone() {
        let read = Datacenter::parse(
            "nonsense\nmigration: fast,network=10.0.0.0/24,color=blue\nnext-id: lower=x,upper=50\n",
        );
        assert_eq!(read.migration_network(), network("10.0.0.0/24"));
        assert_eq!((read.next_id.lower, read.next_id.upper), (100, 50));
        assert_eq!(
            read.warnings,
            [
                "datacenter.cfg: 'nonsense' is not 'KEY: VALUE'; it is left out",
                "datacenter.cfg: migration: 'fast' is not understood; it is left out",
                "datacenter.cfg: migration: 'color=blue' is not understood; it is left out",
                "datacenter.cfg: next-id: 'lower=x' is not understood; it is left out",
                "datacenter.cfg: next-id: no number is in the range from 100 up to, not including, 50",
            ]
        );
    }

    #[test]
    fn networks_contain_their_addresses() {
        let contains = |network: &str, ip: &str| {
            let network: Network = network.parse().unwrap();
            network.contains(ip.parse().unwrap())
        };
        assert!(contains("10.1.2.3/24", "10.1.2.200"));
        assert!(!contains("10.1.2.0/24", "10.1.3.0"));
        assert!(contains("0.0.0.0/0", "192.0.2.1"));
        assert!(contains("192.0.2.1/32", "192.0.2.1"));
        assert!(!contains("192.0.2.1/32", "192.0.2.0"));
        assert!(contains("fd00::/64", "fd00::5"));
        assert!(!contains("fd00::/64", "fd00:0:0:1::5"));
        assert!(contains("::/0", "fd00::5"));
        assert!(!contains("::/0", "192.0.2.1"));
        for refused in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0/8",
            "::/129",
            "a/8",
        ] {
            assert!(refused.parse::<Network>().is_err(), "{refused:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "\\PC*") {
            drop(Datacenter::parse(&text));
        }

        #[test]
        fn any_list_is_read(list in "(lower|upper|network|type|secure|=|,|[0-9]|/|:)*") {
            drop(Datacenter::parse(&format!("next-id: {list}\nmigration: {list}")));
        }

        #[test]
        fn a_network_contains_what_it_is_made_of(ip in any::<IpAddr>(), prefix in 0_u8..=128) {
            let prefix = if ip.is_ipv4() { prefix % 33 } else { prefix };
            let network: Network = format!("{ip}/{prefix}").parse().unwrap();
            prop_assert!(network.contains(ip));
        }
    }
}
