//! The certificate of a node.
//!
//! It is made anew when it is not there, not of its key or not of the cluster's authority, lacks a
//! name or address that the node has, or is near its end; not while it is somebody else's and fine.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use openssl::asn1::Asn1Integer;
use openssl::bn::BigNum;
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{PKey, PKeyRef, Private};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Name, X509NameBuilder, X509Ref, X509VerifyResult};

use super::ca::{Authority, elsewhere};
use super::x509::{self, Wanted};
use super::{Facts, address_of};
use crate::failure::{Failure, Outcome};
use crate::host::changes::Changes;
use crate::host::files::{self, PUBLIC, SECRET};
use crate::host::{Host, Paths, pve};

/// Size of its key.
const KEY_BITS: u32 = 2048;
/// Longest lifetime.
const DAYS_MAX: i64 = 730;
/// With fewer days left it is made anew.
const RENEW_DAYS: i64 = 30;
/// It ends so many days before the authority.
const DAYS_BEFORE_AUTHORITY: i64 = 2;
/// An authority with fewer days left signs nothing.
const AUTHORITY_DAYS_MIN: i64 = 14;
/// Longest common name that certificates have room for.
const COMMON_NAME_MAX: usize = 64;
/// Directory of the node in the cluster file system, and the files there.
const FILES: (&str, &str) = ("pve-ssl.key", "pve-ssl.pem");

/// Makes or renews the certificate of this node; returns whether it did.
pub fn ensure(
    changes: &mut Changes<'_>,
    facts: &Facts,
    authority: &Authority,
    force: bool,
) -> Outcome<bool> {
    let host = changes.host();
    let name = host.name.as_str();
    let paths = [FILES.0, FILES.1].map(|file| host.paths.node(name, file));
    let key = x509::key(&paths[0])?.usable();
    let found = x509::certificate(&paths[1])?.usable();
    let names = facts
        .address
        .clone()
        .map(|address| Names::of(host, address));
    let why = if force {
        "as asked".to_owned()
    } else {
        let now = facts.now;
        match reason(key.as_deref(), found.as_deref(), authority, &names, now) {
            Some(why) => why,
            None => return Ok(false),
        }
    };
    let serves = found.is_some_and(|it| {
        x509::days_left(&it, facts.now) > 0 && key.as_ref().is_some_and(|key| x509::is_of(&it, key))
    });
    let made = renew(changes, facts, authority, names, key, &why);
    match made {
        // What is there still serves; only who asks for a new one is told by a failure.
        Err(failure) if serves && !force => {
            changes.warn(format!("the certificate stays as it is ({why}): {failure}"));
            Ok(false)
        }
        made => made,
    }
}

/// Why a new certificate is needed.
fn reason(
    key: Option<&PKeyRef<Private>>,
    found: Option<&X509Ref>,
    authority: &Authority,
    names: &Outcome<Names>,
    now: Duration,
) -> Option<String> {
    let Some(found) = found else {
        return Some("there is none".to_owned());
    };
    if !key.is_some_and(|key| x509::is_of(found, key)) {
        return Some("it is of another key".to_owned());
    }
    let left = x509::days_left(found, now);
    let lifetime = match authority {
        Authority::Elsewhere => return None,
        Authority::Due => return Some("the authority is new".to_owned()),
        Authority::Signs { certificate, key } => {
            // The name counts as well as the key: one key may have been given a second name.
            let is_named = certificate.issued(found) == X509VerifyResult::OK;
            if !(is_named && found.verify(key).unwrap_or(false)) {
                return is_of_a_cluster(found).then(|| "it is of another authority".to_owned());
            }
            lifetime(certificate, now).unwrap_or(0)
        }
    };
    if left < RENEW_DAYS && left + 1 < lifetime {
        return Some(format!("it ends in {left} days"));
    }
    let names = names.as_ref().ok()?;
    let lacks = names.missing_in(found);
    (!lacks.is_empty()).then(|| format!("it lacks {}", lacks.join(", ")))
}

/// Whether an authority like ours has made it, not one of an administrator.
pub(super) fn is_of_a_cluster(found: &X509Ref) -> bool {
    x509::entry(found.issuer_name(), Nid::ORGANIZATIONNAME)
        .is_some_and(|name| name == "PVE Cluster Manager CA")
}

fn renew(
    changes: &mut Changes<'_>,
    facts: &Facts,
    authority: &Authority,
    names: Outcome<Names>,
    key: Option<PKey<Private>>,
    why: &str,
) -> Outcome<bool> {
    let host = changes.host();
    let names = names?;
    if let Authority::Elsewhere = authority {
        return Err(elsewhere(host));
    }
    let node = host.name.as_str();
    let due = changes.due(format!("make a certificate of node '{node}': {why}"))?;
    let Authority::Signs {
        certificate,
        key: signer,
    } = authority
    else {
        return Ok(false);
    };
    let days = lifetime(certificate, facts.now)?;
    if !due {
        return Ok(false);
    }
    let key = match key {
        Some(key) => key,
        None => {
            let key = x509::new_key(KEY_BITS)?;
            changes.put(
                &host.paths.node(node, FILES.0),
                &x509::key_text(&key)?,
                SECRET,
            )?;
            key
        }
    };
    let serial = Serial::next(&host.paths)?;
    // Before the certificate: a number is never given twice.
    changes.put(&serial_path(&host.paths), serial.text.as_bytes(), SECRET)?;
    let issuer = (&**certificate, &**signer);
    let made = issue(&names, &key, &serial.number, days, issuer, facts.now);
    let text = made.and_then(|made| made.to_pem());
    let text = text.map_err(|error| x509::failed("the certificate of this node", &error))?;
    changes.put(&host.paths.node(node, FILES.1), &text, PUBLIC)?;
    Ok(true)
}

/// Days that a new certificate has, from yesterday.
fn lifetime(authority: &X509Ref, now: Duration) -> Outcome<i64> {
    let left = x509::days_left(authority, now);
    if left < AUTHORITY_DAYS_MIN {
        return Err(Failure::failed(
            "CA expires in less than 2 weeks, unable to generate certificate.",
        ));
    }
    Ok(DAYS_MAX.min(left - DAYS_BEFORE_AUTHORITY))
}

fn issue(
    names: &Names,
    key: &PKeyRef<Private>,
    serial: &Asn1Integer,
    days: i64,
    issuer: (&X509Ref, &PKeyRef<Private>),
    now: Duration,
) -> Result<X509, ErrorStack> {
    let wanted = Wanted {
        subject: &*names.subject()?,
        key,
        serial,
        days,
        issuer: Some(issuer),
        extensions: vec![
            BasicConstraints::new().build()?,
            ExtendedKeyUsage::new().server_auth().build()?,
        ],
        names: Some(names.alternatives()),
    };
    x509::sign(wanted, now)
}

/// Under what a node is reached.
struct Names {
    address: IpAddr,
    node: String,
    /// With the search domain, if there is one.
    full: String,
}

impl Names {
    fn of(host: &Host, address: IpAddr) -> Self {
        let node = host.name.to_string();
        let full = match search_domain(&host.paths) {
            Some(domain) => format!("{node}.{domain}"),
            None => node.clone(),
        };
        Self {
            address,
            node,
            full,
        }
    }

    fn dns(&self) -> Vec<&str> {
        let mut all = vec!["localhost", &self.node];
        if self.full != self.node {
            all.push(&self.full);
        }
        all
    }

    fn alternatives(&self) -> SubjectAlternativeName {
        let mut names = SubjectAlternativeName::new();
        names.ip("127.0.0.1").ip("::1").dns("localhost");
        names.ip(&self.address.to_string());
        for name in self.dns().split_off(1) {
            names.dns(name);
        }
        names
    }

    fn missing_in(&self, found: &X509Ref) -> Vec<String> {
        let names = found.subject_alt_names();
        let names: Vec<_> = names.iter().flatten().collect();
        let dns: BTreeSet<&str> = names.iter().filter_map(|name| name.dnsname()).collect();
        let ip: BTreeSet<IpAddr> = names.iter().filter_map(|name| address_of(name)).collect();
        let mut missing = Vec::new();
        if !ip.contains(&self.address) {
            missing.push(self.address.to_string());
        }
        let lacked = self.dns().into_iter().filter(|name| !dns.contains(name));
        missing.extend(lacked.map(str::to_owned));
        missing
    }

    fn subject(&self) -> Result<X509Name, ErrorStack> {
        let common = if self.full.len() <= COMMON_NAME_MAX {
            &self.full
        } else {
            &self.node
        };
        let mut builder = X509NameBuilder::new()?;
        builder.append_entry_by_nid(Nid::ORGANIZATIONALUNITNAME, "PVE Cluster Node")?;
        builder.append_entry_by_nid(Nid::ORGANIZATIONNAME, "Proxmox Virtual Environment")?;
        builder.append_entry_by_nid(Nid::COMMONNAME, common)?;
        Ok(builder.build())
    }
}

/// First domain that names are looked for in, as the last line that has one says.
fn search_domain(paths: &Paths) -> Option<String> {
    let text = files::read(&paths.at("etc/resolv.conf")).ok()??;
    let text = String::from_utf8_lossy(&text);
    let domain = text.lines().rev().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let known = matches!(words.next(), Some("search" | "domain"));
        words.next().filter(|_| known)
    })?;
    let domain = domain.trim_end_matches('.');
    crate::value::is_address(domain).then(|| domain.to_owned())
}

fn serial_path(paths: &Paths) -> std::path::PathBuf {
    paths.pve("priv/pve-root-ca.srl")
}

/// The number of a new certificate.
struct Serial {
    number: Asn1Integer,
    /// The file of the last number given.
    text: String,
}

impl Serial {
    /// One more than the file says and any node has: the file may be gone or old.
    fn next(paths: &Paths) -> Outcome<Self> {
        let text = files::read(&serial_path(paths))?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut last = BigNum::from_hex_str(text.trim())
            .or_else(|_| BigNum::new())
            .map_err(|error| x509::failed("a serial number", &error))?;
        for node in pve::node_directories(paths) {
            let found = x509::certificate(&paths.node(&node, FILES.1)).ok();
            let number = found
                .and_then(x509::Found::usable)
                .filter(|it| is_of_a_cluster(it))
                .and_then(|it| it.serial_number().to_bn().ok());
            // Numbers of an authority that gave random ones are no reason to count from there.
            last = number
                .filter(|it| it.num_bits() <= 64 && *it > last)
                .unwrap_or(last);
        }
        let counted = last.add_word(1).and_then(|()| {
            let number = last.to_asn1_integer()?;
            Ok((number, last.to_hex_str()?.to_string()))
        });
        let (number, text) = counted.map_err(|error| x509::failed("a serial number", &error))?;
        Ok(Self {
            number,
            text: format!("{text}\n"),
        })
    }
}
