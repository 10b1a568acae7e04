//! The certificates of a cluster, for people and programs.

use std::path::Path;
use std::time::Duration;

use openssl::x509::{X509NameRef, X509Ref};
use serde::Serialize;

use super::{address_of, ca, fingerprint_of, x509};
use crate::failure::Outcome;
use crate::host::{Host, pve};

/// Files of a node that may hold one.
const OF_NODE: [&str; 2] = ["pve-ssl.pem", "pveproxy-ssl.pem"];

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The file below `/etc/pve`.
    pub file: String,
    /// Whose it is; none: the authority.
    pub node: Option<String>,
    /// Its subject.
    pub subject: String,
    /// Who made it.
    pub issuer: String,
    /// Host names and addresses that it is good for.
    pub names: Vec<String>,
    /// Its end, as OpenSSL writes it.
    pub ends: String,
    /// Whole days until then.
    pub days: i64,
    /// SHA-256.
    pub fingerprint: String,
}

/// A file that holds something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unusable {
    /// The file below `/etc/pve`.
    pub file: String,
    /// What is wrong with it.
    pub error: String,
}

/// The files that are to hold certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The authority's, then those of nodes by name.
    pub certificates: Vec<Shown>,
    /// Those that hold something else.
    pub unusable: Vec<Unusable>,
}

impl Listed {
    /// What is wrong with one file keeps nobody from seeing the others.
    fn add(&mut self, file: String, found: Outcome<Vec<Shown>>) {
        match found {
            Ok(found) => self.certificates.extend(found),
            Err(failure) => self.unusable.push(Unusable {
                file,
                error: failure.to_string(),
            }),
        }
    }
}

/// All of them.
#[must_use]
pub fn list(host: &Host, now: Duration) -> Listed {
    let mut all = Listed::default();
    let authority = ca::path(&host.paths);
    let file = "pve-root-ca.pem".to_owned();
    let found = x509::bundle(&authority).and_then(|bundle| {
        let each = bundle
            .iter()
            .map(|it| shown(it, file.clone(), None, now, &authority));
        each.collect()
    });
    all.add(file.clone(), found);
    for node in pve::node_directories(&host.paths) {
        for file in OF_NODE {
            let path = host.paths.node(&node, file);
            let file = format!("nodes/{node}/{file}");
            let found = x509::certificate(&path).and_then(|found| {
                let found = found.or_nothing()?.into_iter();
                let each = found.map(|it| shown(&it, file.clone(), Some(node.clone()), now, &path));
                each.collect()
            });
            all.add(file.clone(), found);
        }
    }
    all
}

fn shown(
    certificate: &X509Ref,
    file: String,
    node: Option<String>,
    now: Duration,
    path: &Path,
) -> Outcome<Shown> {
    let fingerprint = fingerprint_of(certificate).map_err(|error| x509::unusable(path, error))?;
    let alternatives = certificate.subject_alt_names();
    let names = alternatives.iter().flatten().filter_map(|name| {
        let dns = name.dnsname().map(str::to_owned);
        dns.or_else(|| Some(address_of(name)?.to_string()))
    });
    Ok(Shown {
        file,
        node,
        subject: words(certificate.subject_name()),
        issuer: words(certificate.issuer_name()),
        names: names.collect(),
        ends: certificate.not_after().to_string(),
        days: x509::days_left(certificate, now),
        fingerprint: fingerprint.to_string(),
    })
}

fn words(name: &X509NameRef) -> String {
    let entry = |entry: &openssl::x509::X509NameEntryRef| {
        let kind = entry.object().nid().short_name().unwrap_or("?").to_owned();
        let value = String::from_utf8_lossy(entry.data().as_slice());
        format!("{kind}={value}")
    };
    name.entries().map(entry).collect::<Vec<_>>().join(", ")
}
