//! The cluster's own authority, which signs the certificates of its nodes.
//!
//! Near its end, or when it lacks what strict checkers ask for, the certificate is made anew with
//! the same key and name: certificates of nodes stay valid, and so do they for who has only the old
//! one.
//!
//! While the authority gets a new key its file holds the certificates of both (see
//! [`rollover`](super::rollover)); the one whose key is there signs.
//!
//! An authority that an administrator has put in place is used if its key is there, and is never
//! replaced.

use std::path::PathBuf;
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{PKey, PKeyRef, Private};
use openssl::x509::extension::{BasicConstraints, KeyUsage};
use openssl::x509::{X509, X509Name, X509NameBuilder, X509NameRef, X509Ref};

use super::x509::{self, Wanted};
use crate::failure::{Failure, Outcome};
use crate::host::changes::Changes;
use crate::host::files::{PUBLIC, SECRET};
use crate::host::{Host, Paths};

/// Size of its key.
pub(super) const KEY_BITS: u32 = 4096;
/// Lifetime of its certificate.
const DAYS: i64 = 3650;
/// With fewer days left it is made anew: certificates of nodes must not outlive it.
const RENEW_DAYS: i64 = 365;
/// Organization of authorities that are made here.
const ORGANIZATION: &str = "PVE Cluster Manager CA";

/// The authority, as far as nodes can use it.
pub enum Authority {
    /// It can sign.
    Signs {
        /// Its certificate.
        certificate: X509,
        /// Its key.
        key: PKey<Private>,
    },
    /// It will be made.
    Due,
    /// Its key is kept elsewhere.
    Elsewhere,
}

/// What is to be done.
enum Need {
    Nothing(X509, PKey<Private>),
    /// A certificate, for this key and of this name if there is one.
    Certificate(PKey<Private>, Option<X509>),
    Both,
    NotOurs,
}

/// Where its certificate is.
pub(super) fn path(paths: &Paths) -> PathBuf {
    paths.pve("pve-root-ca.pem")
}

/// Makes or renews the authority.
pub fn ensure(changes: &mut Changes<'_>, now: Duration, force: bool) -> Outcome<Authority> {
    let (what, key, old) = match look(changes.host(), now, force)? {
        Need::Nothing(certificate, key) => return Ok(Authority::Signs { certificate, key }),
        Need::NotOurs => return Ok(Authority::Elsewhere),
        Need::Both => ("make the cluster's certificate authority", None, None),
        Need::Certificate(key, old) => (
            "make a new certificate of the cluster's certificate authority",
            Some(key),
            old,
        ),
    };
    if !changes.due(what)? {
        return Ok(Authority::Due);
    }
    let paths = &changes.host().paths;
    let key = match key {
        Some(key) => key,
        None => {
            let key = x509::new_key(KEY_BITS)?;
            let text = x509::key_text(&key)?;
            changes.put(&paths.pve("priv/pve-root-ca.key"), &text, SECRET)?;
            key
        }
    };
    let made = issue(&key, old.as_deref().map(X509Ref::subject_name), now);
    let certificate = made.map_err(|error| x509::failed("the certificate authority", &error))?;
    // What is trusted beside a certificate that is renewed stays so.
    let others = match &old {
        Some(_) => x509::bundle(&path(paths))?,
        None => Vec::new(),
    };
    let others = others.iter().filter(|it| !x509::is_of(it, &key));
    let text = x509::bundle_text([&certificate].into_iter().chain(others))?;
    changes.put(&path(paths), &text, PUBLIC)?;
    Ok(Authority::Signs { certificate, key })
}

fn look(host: &Host, now: Duration, force: bool) -> Outcome<Need> {
    let key = x509::key(&host.paths.pve("priv/pve-root-ca.key"))?.or_nothing()?;
    let bundle = x509::bundle(&path(&host.paths))?;
    let signs = |it: &&X509| key.as_ref().is_some_and(|key| x509::is_of(it, key));
    let certificate = bundle.iter().find(signs).or(bundle.first()).cloned();
    Ok(match (key, certificate) {
        (None, Some(certificate)) if !is_ours(&certificate) => Need::NotOurs,
        (None, _) => Need::Both,
        (Some(key), None) => Need::Certificate(key, None),
        (Some(key), Some(certificate)) if !is_ours(&certificate) => {
            if x509::is_of(&certificate, &key) {
                Need::Nothing(certificate, key)
            } else {
                Need::NotOurs
            }
        }
        (Some(key), Some(certificate)) => {
            if !x509::is_of(&certificate, &key) {
                // The key is new, and whoever made it did not come to its certificate.
                Need::Certificate(key, None)
            } else if x509::days_left(&certificate, now) < RENEW_DAYS
                || (force && !has_key_usage(&certificate))
            {
                Need::Certificate(key, Some(certificate))
            } else {
                Need::Nothing(certificate, key)
            }
        }
    })
}

pub(super) fn is_ours(certificate: &X509Ref) -> bool {
    x509::entry(certificate.subject_name(), Nid::ORGANIZATIONNAME)
        .is_some_and(|name| name == ORGANIZATION)
}

/// Authorities of older releases have none, and strict checkers refuse them.
fn has_key_usage(certificate: &X509Ref) -> bool {
    // The library shows extensions in a text only.
    let text = certificate.to_text().unwrap_or_default();
    String::from_utf8_lossy(&text).contains("X509v3 Key Usage")
}

pub(super) fn issue(
    key: &PKeyRef<Private>,
    name: Option<&X509NameRef>,
    now: Duration,
) -> Result<X509, ErrorStack> {
    let new = new_name()?;
    let wanted = Wanted {
        subject: name.unwrap_or(&new),
        key,
        serial: &x509::random_serial()?,
        days: DAYS,
        issuer: None,
        extensions: vec![
            BasicConstraints::new().critical().ca().build()?,
            KeyUsage::new()
                .critical()
                .key_cert_sign()
                .crl_sign()
                .build()?,
        ],
        names: None,
    };
    x509::sign(wanted, now)
}

/// A name that no other cluster's authority has.
fn new_name() -> Result<X509Name, ErrorStack> {
    let mut builder = X509NameBuilder::new()?;
    builder.append_entry_by_nid(Nid::COMMONNAME, "Proxmox Virtual Environment")?;
    builder.append_entry_by_nid(Nid::ORGANIZATIONALUNITNAME, &uuid()?)?;
    builder.append_entry_by_nid(Nid::ORGANIZATIONNAME, ORGANIZATION)?;
    Ok(builder.build())
}

/// A random UUID.
fn uuid() -> Result<String, ErrorStack> {
    let mut bytes = [0; 16];
    openssl::rand::rand_bytes(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32];
    Ok(parts.map(|part| digits[part].to_owned()).join("-"))
}

/// The authority's key is kept elsewhere, so nothing can be signed here.
pub fn elsewhere(host: &Host) -> Failure {
    Failure::failed(format!(
        "'{}' is not this cluster's own authority and its key is not in '{}': put the certificate \
         of this node into '{}' and its key beside it, or move the authority away to have a new \
         one made",
        host.paths.pve("pve-root-ca.pem").display(),
        host.paths.pve("priv/pve-root-ca.key").display(),
        host.paths.node(host.name.as_str(), "pve-ssl.pem").display(),
    ))
}
