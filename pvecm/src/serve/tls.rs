//! The certificate that is shown, read again when its file changes.
//!
//! Invariant: what was read once stays in use until there is something better; a half-written or
//! removed file does not end the service.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use openssl::pkey::PKey;
use openssl::ssl::{SslAcceptor, SslMethod, SslOptions, SslVersion};
use openssl::x509::X509;
use zeroize::Zeroizing;

use crate::failure::{Failure, Outcome};
use crate::host::wait::now;
use crate::host::{Host, files};

/// Files are looked at no more often than this.
const LOOK: Duration = Duration::from_secs(1);

/// Certificate and key, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

/// What shows that a file is another one than before.
type Mark = Vec<Option<(u64, i64, i64, u64)>>;

/// The acceptor in use.
#[derive(Debug)]
pub struct Tls {
    host: Host,
    current: Mutex<Current>,
}

struct Current {
    acceptor: Arc<SslAcceptor>,
    mark: Mark,
    looked: Instant,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the node's certificate.
    ///
    /// # Errors
    /// When there is none that can be used.
    pub fn open(host: &Host) -> Outcome<Self> {
        let mark = mark(host);
        let acceptor = load(host)?;
        Ok(Self {
            host: host.clone(),
            current: Mutex::new(Current {
                acceptor: Arc::new(acceptor),
                mark,
                looked: now(),
            }),
        })
    }

    /// The acceptor for a new connection. Looks at files.
    pub fn acceptor(&self) -> Arc<SslAcceptor> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        if now.saturating_duration_since(current.looked) >= LOOK {
            current.looked = now;
            self.renew(&mut current);
        }
        Arc::clone(&current.acceptor)
    }

    fn renew(&self, current: &mut Current) {
        let mark = mark(&self.host);
        if mark == current.mark {
            return;
        }
        match load(&self.host) {
            Ok(acceptor) => {
                tracing::info!("the certificate has changed");
                current.acceptor = Arc::new(acceptor);
                current.mark = mark;
            }
            Err(failure) => tracing::warn!("the old certificate stays in use: {failure}"),
        }
    }
}

/// The administrator's certificate comes first, then the one that the cluster made.
fn pairs(host: &Host) -> [Pair; 2] {
    let node = host.name.as_str();
    ["pveproxy-ssl", "pve-ssl"].map(|name| Pair {
        certificate: host.paths.node(node, format!("{name}.pem")),
        key: host.paths.node(node, format!("{name}.key")),
    })
}

fn mark(host: &Host) -> Mark {
    let pairs = pairs(host);
    let paths = pairs.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
    let mark = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        Some((found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
    };
    paths.map(mark).collect()
}

fn load(host: &Host) -> Outcome<SslAcceptor> {
    let [own, made] = pairs(host);
    if own.certificate.exists() {
        match acceptor(&own) {
            Ok(acceptor) => return Ok(acceptor),
            Err(failure) => tracing::warn!("{failure}; the cluster's certificate is used instead"),
        }
    }
    acceptor(&made)
}

fn acceptor(pair: &Pair) -> Outcome<SslAcceptor> {
    let certificate = need(&pair.certificate)?;
    let key = need(&pair.key)?;
    let build = || {
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
        builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        builder.set_options(SslOptions::NO_RENEGOTIATION | SslOptions::NO_COMPRESSION);
        let mut chain = X509::stack_from_pem(&certificate)?.into_iter();
        if let Some(first) = chain.next() {
            builder.set_certificate(&first)?;
        }
        for next in chain {
            builder.add_extra_chain_cert(next)?;
        }
        let key = PKey::private_key_from_pem(&key)?;
        builder.set_private_key(&key)?;
        builder.check_private_key()?;
        Ok(builder.build())
    };
    build().map_err(|error: openssl::error::ErrorStack| {
        Failure::failed(format!(
            "'{}' and its key can not be used: {error}",
            pair.certificate.display()
        ))
    })
}

fn need(path: &Path) -> Outcome<Zeroizing<Vec<u8>>> {
    let content = files::read(path)?;
    content.map(Zeroizing::new).ok_or_else(|| {
        Failure::refused(format!(
            "'{}' is not there: run 'pvecm updatecerts'",
            path.display()
        ))
    })
}
