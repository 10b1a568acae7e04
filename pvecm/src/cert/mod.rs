//! Certificates of the cluster and its nodes, and the keys that go with them.
//!
//! | module | owns |
//! |---|---|
//! | `ca` | the cluster's own authority |
//! | [`rollover`] | a new key of the authority |
//! | [`list`] | all certificates, to be shown |
//! | `node` | the certificate of a node |
//! | [`authkey`] | the key that signs tickets, and the secret against forged requests |
//! | `x509` | reading and making keys and certificates |
//!
//! Invariant: a private key is in its file before a certificate or a public key of it is, so a
//! command that was killed leaves nothing that the next one does not mend.

pub mod authkey;
mod ca;
pub mod list;
mod node;
pub mod rollover;
#[cfg(test)]
pub(crate) mod tests;
mod x509;

use std::net::IpAddr;
use std::time::Duration;

use openssl::hash::MessageDigest;
use openssl::x509::X509;

use crate::failure::{Failure, Outcome};
use crate::host::changes::Changes;
use crate::host::{Host, files};
use crate::value::Fingerprint;

/// What certificates depend on beside files.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Time since 1970.
    pub now: Duration,
    /// Address that other nodes know this one by, or why there is none.
    pub address: Outcome<IpAddr>,
}

impl Facts {
    /// Of this moment.
    #[must_use]
    pub fn of(host: &Host) -> Self {
        Self {
            now: crate::host::calendar(),
            address: host.address(),
        }
    }
}

/// Makes and renews what this node and its cluster need. Returns whether the node has got a new
/// certificate.
///
/// # Errors
/// When something can not be made; what does not stop the node is a warning of `changes`.
pub fn update(changes: &mut Changes<'_>, facts: &Facts, force: bool) -> Outcome<bool> {
    authkey::ensure(changes)?;
    let authority = ca::ensure(changes, facts.now, force)?;
    node::ensure(changes, facts, &authority, force)
}

/// SHA-256 of the certificate that a node shows to browsers and joining nodes: its own one of
/// `pveproxy-ssl.pem`, else the cluster's.
///
/// # Errors
/// When there is neither, or it can not be read.
pub fn fingerprint(host: &Host, node: &str) -> Outcome<Fingerprint> {
    let (own, made) = (
        host.paths.node(node, "pveproxy-ssl.pem"),
        host.paths.node(node, "pve-ssl.pem"),
    );
    for path in [&own, &made] {
        if let Some(text) = files::read(path)? {
            let hash = X509::from_pem(&text).and_then(|it| it.digest(MessageDigest::sha256()));
            let hash = hash.map_err(|error| x509::unusable(path, error))?;
            let hash = <[u8; 32]>::try_from(&*hash);
            return hash
                .map(Fingerprint::new)
                .map_err(|error| x509::unusable(path, error));
        }
    }
    Err(Failure::failed(format!(
        "node '{node}' has no certificate: '{}' is not there; run 'pvecm updatecerts' on '{node}'",
        made.display()
    )))
}
