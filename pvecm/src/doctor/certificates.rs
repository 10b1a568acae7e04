//! Reads certificates.

use std::path::Path;
use std::time::Duration;

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::error::ErrorStack;
use openssl::x509::X509;

use super::facts::{Certificate, CertificateContent};
use crate::cert::{address_of, fingerprint_of};
use crate::host::files;

/// Reads the certificate at `path`, if there is one. One of `authorities` must have signed it, if there
/// are any.
pub(super) fn read(
    path: &Path,
    node: Option<&str>,
    authorities: &[X509],
    now: Duration,
) -> Option<Certificate> {
    let text = match files::read(path) {
        Ok(text) => Ok(text?),
        Err(failure) => Err(failure.to_string()),
    };
    let parsed = text.and_then(|text| {
        X509::from_pem(&text).map_err(|_| "it is no certificate in PEM form".to_owned())
    });
    let is_signed = match &parsed {
        Ok(certificate) if !authorities.is_empty() => {
            Some(authorities.iter().any(|it| is_by(certificate, it)))
        }
        _ => None,
    };
    let content = parsed.and_then(|certificate| {
        content(&certificate, now).map_err(|error| format!("it can not be understood: {error}"))
    });
    Some(Certificate {
        path: path.to_owned(),
        node: node.map(str::to_owned),
        is_signed,
        content,
    })
}

/// The authority itself; two while it gets a new key.
pub(super) fn authorities(path: &Path) -> Vec<X509> {
    let text = files::read(path).ok().flatten().unwrap_or_default();
    X509::stack_from_pem(&text).unwrap_or_default()
}

fn is_by(certificate: &X509, authority: &X509) -> bool {
    let key = authority.public_key();
    key.is_ok_and(|key| certificate.verify(&key).unwrap_or(false))
}

fn content(certificate: &X509, now: Duration) -> Result<CertificateContent, ErrorStack> {
    let now = Asn1Time::from_unix(libc::time_t::try_from(now.as_secs()).unwrap_or(0))?;
    let alternatives = certificate.subject_alt_names();
    let alternatives = || alternatives.iter().flatten();
    let names = alternatives().filter_map(|name| name.dnsname());
    let addresses = alternatives().filter_map(address_of);
    Ok(CertificateContent {
        starts_in: until(&now, certificate.not_before())?,
        ends_in: until(&now, certificate.not_after())?,
        names: names.map(str::to_owned).collect(),
        addresses: addresses.collect(),
        fingerprint: fingerprint_of(certificate)?.to_string(),
    })
}

/// Seconds from one time to another.
fn until(from: &Asn1TimeRef, to: &Asn1TimeRef) -> Result<i64, ErrorStack> {
    let apart = from.diff(to)?;
    Ok(i64::from(apart.days) * 86_400 + i64::from(apart.secs))
}
