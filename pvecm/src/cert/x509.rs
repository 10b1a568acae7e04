//! Reading and making keys and certificates.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::{BigNum, MsbOption};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, PKeyRef, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{AuthorityKeyIdentifier, SubjectKeyIdentifier};
use openssl::x509::{X509, X509Builder, X509Extension, X509NameRef, X509Ref};

use crate::failure::{Failure, Outcome};
use crate::host::files;

/// Seconds of a day.
const DAY: i64 = 86_400;
/// X.509 version 3, as it is encoded.
const VERSION_3: i32 = 2;
/// Bits of a random serial number: 20 bytes are allowed, and the number must be positive.
const SERIAL_BITS: i32 = 159;

/// What a file that should hold a key or certificate has.
#[derive(Debug)]
pub enum Found<T> {
    /// No file, or an empty one.
    Nothing,
    /// Something else.
    Unusable(Failure),
    /// What it should.
    It(T),
}

impl<T> Found<T> {
    /// What it should have, if it has.
    pub fn usable(self) -> Option<T> {
        match self {
            Self::It(it) => Some(it),
            Self::Nothing | Self::Unusable(_) => None,
        }
    }

    /// The same, where a file that holds something else is not to be replaced.
    pub fn or_nothing(self) -> Outcome<Option<T>> {
        match self {
            Self::It(it) => Ok(Some(it)),
            Self::Nothing => Ok(None),
            Self::Unusable(failure) => Err(failure),
        }
    }
}

/// A failure because of a file's content.
pub fn unusable(path: &Path, error: impl Display) -> Failure {
    Failure::failed(format!(
        "can not use '{}': {error}; move it away to have a new one made",
        path.display()
    ))
}

/// A failure inside the library: it lacks memory or randomness, or forbids what is asked.
pub fn failed(what: &str, error: &ErrorStack) -> Failure {
    Failure::failed(format!("can not make {what}: {error}"))
}

/// Reads a private key without a passphrase.
pub fn key(path: &Path) -> Outcome<Found<PKey<Private>>> {
    // Nobody is asked for a passphrase: the programs that use the key could not ask either.
    read(path, |text| {
        PKey::private_key_from_pem_callback(text, |_| Ok(0))
    })
}

/// Reads the first certificate of a file.
pub fn certificate(path: &Path) -> Outcome<Found<X509>> {
    read(path, X509::from_pem)
}

/// All certificates of a file; none if it is not there.
pub fn bundle(path: &Path) -> Outcome<Vec<X509>> {
    let found = read(path, X509::stack_from_pem)?.or_nothing()?;
    match found {
        Some(all) if all.is_empty() => Err(unusable(path, "there is no certificate in it")),
        found => Ok(found.unwrap_or_default()),
    }
}

/// Certificates as the text of a file.
pub fn bundle_text<'a>(all: impl IntoIterator<Item = &'a X509>) -> Outcome<Vec<u8>> {
    let mut text = Vec::new();
    for certificate in all {
        let pem = certificate.to_pem();
        text.extend(pem.map_err(|error| failed("the text of a certificate", &error))?);
    }
    Ok(text)
}

fn read<T>(path: &Path, parse: impl FnOnce(&[u8]) -> Result<T, ErrorStack>) -> Outcome<Found<T>> {
    let text = files::read(path)?.unwrap_or_default();
    if text.is_empty() {
        return Ok(Found::Nothing);
    }
    Ok(match parse(&text) {
        Ok(it) => Found::It(it),
        Err(error) => Found::Unusable(unusable(path, error)),
    })
}

/// A new RSA key.
pub fn new_key(bits: u32) -> Outcome<PKey<Private>> {
    let made = Rsa::generate(bits).and_then(PKey::from_rsa);
    made.map_err(|error| failed("a key", &error))
}

/// Text of a private key: PKCS#8, no passphrase.
pub fn key_text(key: &PKeyRef<Private>) -> Outcome<Vec<u8>> {
    key.private_key_to_pem_pkcs8()
        .map_err(|error| failed("the text of a key", &error))
}

/// Whether a certificate is of this key.
pub fn is_of(certificate: &X509Ref, key: &PKeyRef<Private>) -> bool {
    certificate
        .public_key()
        .is_ok_and(|public| public.public_eq(key))
}

/// Whole days until a certificate expires; below 0 afterwards.
pub fn days_left(certificate: &X509Ref, now: Duration) -> i64 {
    let left = Asn1Time::from_unix(seconds(now))
        .and_then(|now| now.diff(certificate.not_after()))
        .map_or(0, |left| i64::from(left.days) * DAY + i64::from(left.secs));
    left.div_euclid(DAY)
}

/// The text of a subject's or issuer's entry.
pub fn entry(name: &X509NameRef, of: openssl::nid::Nid) -> Option<String> {
    let data = name.entries_by_nid(of).next()?.data();
    std::str::from_utf8(data.as_slice()).ok().map(str::to_owned)
}

/// A random serial number.
pub fn random_serial() -> Result<Asn1Integer, ErrorStack> {
    let mut number = BigNum::new()?;
    number.rand(SERIAL_BITS, MsbOption::MAYBE_ZERO, false)?;
    number.to_asn1_integer()
}

/// What differs between certificates of the authority and of nodes.
pub struct Wanted<'a> {
    /// Whose it is.
    pub subject: &'a X509NameRef,
    /// Its key.
    pub key: &'a PKeyRef<Private>,
    /// Its number.
    pub serial: &'a Asn1Integer,
    /// Days from yesterday: clocks of nodes may differ.
    pub days: i64,
    /// The authority and its key; none for the authority itself.
    pub issuer: Option<(&'a X509Ref, &'a PKeyRef<Private>)>,
    /// What it may be used for.
    pub extensions: Vec<X509Extension>,
    /// Other names, which need the builder's context.
    pub names: Option<openssl::x509::extension::SubjectAlternativeName>,
}

/// Makes a certificate.
pub fn sign(wanted: Wanted<'_>, now: Duration) -> Result<X509, ErrorStack> {
    let start = seconds(now) - DAY;
    let mut builder = X509Builder::new()?;
    builder.set_version(VERSION_3)?;
    builder.set_serial_number(wanted.serial)?;
    builder.set_subject_name(wanted.subject)?;
    let issuer = wanted.issuer.map(|(issuer, _)| issuer);
    builder.set_issuer_name(issuer.map_or(wanted.subject, X509Ref::subject_name))?;
    builder.set_not_before(&*Asn1Time::from_unix(start)?)?;
    builder.set_not_after(&*Asn1Time::from_unix(start + wanted.days * DAY)?)?;
    builder.set_pubkey(wanted.key)?;
    let own = SubjectKeyIdentifier::new().build(&builder.x509v3_context(issuer, None))?;
    builder.append_extension(own)?;
    // After the own identifier: a self-signed certificate names itself by it.
    let authority = AuthorityKeyIdentifier::new()
        .keyid(true)
        .build(&builder.x509v3_context(issuer, None))?;
    builder.append_extension(authority)?;
    if let Some(names) = wanted.names {
        let names = names.build(&builder.x509v3_context(issuer, None))?;
        builder.append_extension(names)?;
    }
    for extension in wanted.extensions {
        builder.append_extension(extension)?;
    }
    let signer = wanted.issuer.map_or(wanted.key, |(_, key)| key);
    builder.sign(signer, MessageDigest::sha256())?;
    Ok(builder.build())
}

fn seconds(now: Duration) -> i64 {
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}
