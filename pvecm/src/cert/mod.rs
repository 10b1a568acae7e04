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

use openssl::error::ErrorStack;
use openssl::sha::sha256;
use openssl::x509::{GeneralNameRef, X509, X509Ref};

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

/// Fingerprint of the certificate that a node shows to browsers and joining nodes: its own one of
/// `pveproxy-ssl.pem`, else the cluster's.
///
/// # Errors
/// When it has none, or none that can be read.
pub fn fingerprint(host: &Host, node: &str) -> Outcome<Fingerprint> {
    let own = host.paths.node(node, "pveproxy-ssl.pem");
    let path = if own.exists() {
        own
    } else {
        host.paths.node(node, "pve-ssl.pem")
    };
    let pem = files::read(&path)?.ok_or_else(|| {
        Failure::failed(format!(
            "node '{node}' has no certificate '{}': run 'pvecm updatecerts' there",
            path.display()
        ))
    })?;
    let found = X509::from_pem(&pem).and_then(|it| fingerprint_of(&it));
    found.map_err(|error| {
        Failure::failed(format!("'{}' is no certificate: {error}", path.display()))
    })
}

/// Fingerprint of a certificate.
///
/// # Errors
/// What OpenSSL says.
pub fn fingerprint_of(certificate: &X509Ref) -> Result<Fingerprint, ErrorStack> {
    Ok(Fingerprint::new(sha256(&certificate.to_der()?)))
}

/// The address among the names of a certificate.
pub(crate) fn address_of(name: &GeneralNameRef) -> Option<IpAddr> {
    let bytes = name.ipaddress()?;
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}
