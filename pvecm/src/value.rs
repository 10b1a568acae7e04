//! Values that users give: names of nodes and clusters, links, fingerprints.
//!
//! Invariant: a value that was read is one that may be written into a configuration or a path.

use std::fmt;
use std::str::FromStr;

/// Links are numbered 0 to 7.
pub const LINK_MAX: u8 = 7;
/// Longest name of a cluster: certificates and tools have room for that much.
const CLUSTER_NAME_MAX: usize = 15;
/// Longest label of a host name.
const NODE_NAME_MAX: usize = 63;

/// Why a value is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a name.
    #[error("'{0}' is no name: letters, digits and '-' inside, at most 63 of them")]
    Name(String),
    /// A name that is too long.
    #[error("'{0}' is longer than the {CLUSTER_NAME_MAX} characters that a cluster name may have")]
    ClusterName(String),
    /// Neither an address nor a host name.
    #[error("'{0}' is neither an IP address nor a host name")]
    Address(String),
    /// No number from 0 to 255.
    #[error("priority '{0}' is no number from 0 to 255")]
    Priority(String),
    /// A part of a link that nobody knows.
    #[error("'{0}' is not known: use [address=]ADDRESS[,priority=0..255]")]
    LinkPart(String),
    /// A part of a link that is there twice, or not at all.
    #[error("a link needs one address and at most one priority")]
    LinkParts,
    /// Not a fingerprint.
    #[error("'{0}' is no fingerprint: 32 pairs of hexadecimal digits with colons between them")]
    Fingerprint(String),
}

/// Name of a node: one label of a host name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeName(String);

/// Name of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterName(String);

/// What `--linkN` says: where a node is on that link, and how much it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// IP address or host name.
    pub address: String,
    /// The link with the highest one carries the traffic.
    pub priority: Option<u8>,
}

/// SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl NodeName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text.len() <= NODE_NAME_MAX && is_label(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError::Name(text.to_owned()))
        }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ClusterName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if !is_label(text) {
            Err(ValueError::Name(text.to_owned()))
        } else if text.len() > CLUSTER_NAME_MAX {
            Err(ValueError::ClusterName(text.to_owned()))
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Link {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (mut address, mut priority) = (None, None);
        for (position, part) in text.split(',').enumerate() {
            match part.split_once('=') {
                Some(("address", value)) if address.is_none() => address = Some(value),
                Some(("priority", value)) if priority.is_none() => {
                    let number = value.parse();
                    priority = Some(number.map_err(|_| ValueError::Priority(value.to_owned()))?);
                }
                None if position == 0 => address = Some(part),
                Some(("address" | "priority", _)) => return Err(ValueError::LinkParts),
                _ => return Err(ValueError::LinkPart(part.to_owned())),
            }
        }
        let address = address.ok_or(ValueError::LinkParts)?;
        if !is_address(address) {
            return Err(ValueError::Address(address.to_owned()));
        }
        Ok(Self {
            address: address.to_owned(),
            priority,
        })
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.priority {
            Some(priority) => write!(f, "address={},priority={priority}", self.address),
            None => write!(f, "address={}", self.address),
        }
    }
}

impl Fingerprint {
    /// Of the hash itself.
    #[must_use]
    pub fn new(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The hash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Fingerprint {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let refused = || ValueError::Fingerprint(text.to_owned());
        let mut hash = [0; 32];
        let mut pairs = text.split(':');
        for byte in &mut hash {
            let pair = pairs
                .next()
                .filter(|pair| pair.len() == 2)
                .ok_or_else(refused)?;
            if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(refused());
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| refused())?;
        }
        match pairs.next() {
            Some(_) => Err(refused()),
            None => Ok(Self(hash)),
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, byte) in self.0.iter().enumerate() {
            let colon = if position == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// Letters, digits, and dashes between them.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// An IP address, or a name as the domain name system has them.
#[must_use]
pub fn is_address(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
        || (text.len() <= 253
            && text.bytes().any(|byte| byte.is_ascii_alphabetic())
            && text
                .split('.')
                .all(|label| label.len() <= NODE_NAME_MAX && is_label(label)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_have_an_address_and_may_have_a_priority() {
        let link = |text: &str| text.parse::<Link>();
        let plain = Link {
            address: "10.0.0.1".to_owned(),
            priority: None,
        };
        assert_eq!(link("10.0.0.1"), Ok(plain.clone()));
        assert_eq!(link("address=10.0.0.1"), Ok(plain.clone()));
        let wanted = Link {
            priority: Some(255),
            ..plain
        };
        assert_eq!(link("10.0.0.1,priority=255"), Ok(wanted.clone()));
        assert_eq!(link("priority=255,address=10.0.0.1"), Ok(wanted.clone()));
        assert_eq!(link(&wanted.to_string()), Ok(wanted));
        assert!(link("fd00::1").is_ok());
        assert!(link("node-1.example.com").is_ok());
        for refused in [
            "",
            "10.0.0.256",
            "10.0.0.1,priority=256",
            "10.0.0.1,priority=",
            "a_b",
            "-a",
            "priority=1",
            "address=a,address=b",
            "a,b",
            "a,mtu=9",
            "a,priority=1,priority=2",
            "a b",
            "a\nb",
            "a{",
        ] {
            assert!(link(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn names_are_labels() {
        for name in ["n", "N1", "pve-01", "1"] {
            assert_eq!(name.parse::<NodeName>().unwrap().as_str(), name);
        }
        for refused in ["", "-", "a-", "a.b", "a_b", "a/b", "..", "\u{e4}"] {
            assert!(refused.parse::<NodeName>().is_err(), "{refused:?}");
        }
        assert!("a".repeat(64).parse::<NodeName>().is_err());
        assert!("a".repeat(15).parse::<ClusterName>().is_ok());
        assert_eq!(
            "a".repeat(16).parse::<ClusterName>(),
            Err(ValueError::ClusterName("a".repeat(16)))
        );
    }

    #[test]
    fn fingerprints_are_read_in_either_case_and_written_in_capitals() {
        let text = ["AB"; 32].join(":");
        let read: Fingerprint = text.to_lowercase().parse().unwrap();
        assert_eq!(read.to_string(), text);
        assert_eq!(read, Fingerprint::new([0xab; 32]));
        for refused in [
            "",
            "AB",
            &["AB"; 31].join(":"),
            &["AB"; 33].join(":"),
            &["+1"; 32].join(":"),
        ] {
            assert!(refused.parse::<Fingerprint>().is_err(), "{refused:?}");
        }
    }
}
