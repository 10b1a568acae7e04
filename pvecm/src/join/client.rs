//! Calls of another node's API: HTTPS with a certificate that was checked, answers of bounded size
//! within bounded time.
//!
//! Each call has a connection of its own. Invariant: nothing is sent before the certificate is found
//! to be the right one.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use openssl::ssl::{SslConnector, SslMethod, SslRef, SslVerifyMode, SslVersion};
use openssl::x509::X509VerifyResult;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use super::secret::Secret;
use crate::cert::fingerprint_of;
use crate::failure::Failure;
use crate::value::Fingerprint;

/// Where the API listens.
pub const PORT: u16 = 8006;
/// How long a connection may take, with everything that comes before the request.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may take: the member waits for two locks, ten seconds each.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
/// Largest answer that is taken; the largest one holds a configuration and a key.
const ANSWER_MAX: usize = 4 << 20;
/// How often a call looks whether it is to end.
const INTERVAL: Duration = Duration::from_millis(100);

/// Who is talked to.
#[derive(Clone, Debug)]
pub struct Target {
    host: String,
    port: u16,
}

impl Target {
    /// An address, with or without brackets, or a host name.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        Self {
            host: bare(host).to_owned(),
            port,
        }
    }

    /// Its address or name.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }
}

/// An address without brackets.
pub(super) fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Which certificate is the right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The one with this fingerprint.
    Pinned(Fingerprint),
    /// One that the system trusts, made for the name or address that was given.
    System,
}

/// What is sent to prove who asks.
#[derive(Clone, Debug)]
pub struct Header {
    /// Name of the header.
    pub name: &'static str,
    /// Its value.
    pub value: Secret,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status of HTTP.
    pub status: u16,
    /// The words beside it: there the API puts its message.
    pub reason: String,
    /// Header `Date`.
    pub date: Option<String>,
    /// The content.
    pub body: Value,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum CallError {
    /// Nobody there.
    Unreachable(String),
    /// Somebody else there, or somebody unknown.
    Untrusted(Fingerprint),
    /// No answer in time.
    Late,
    /// Not what an API answers.
    Broken(String),
    /// The user does not want it any more.
    Interrupted,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "{why}"),
            Self::Untrusted(found) => write!(f, "its certificate has the fingerprint {found}"),
            Self::Late => write!(f, "no answer within {} seconds", ANSWER_PATIENCE.as_secs()),
            Self::Broken(why) => write!(f, "its answer can not be read: {why}"),
            Self::Interrupted => write!(f, "interrupted"),
        }
    }
}

/// Makes calls.
pub struct Client<'a> {
    runtime: tokio::runtime::Runtime,
    target: Target,
    interrupted: &'a dyn Fn() -> bool,
    is_deaf: Cell<bool>,
}

impl fmt::Debug for Client<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// A call.
#[derive(Debug)]
pub struct Call<'a> {
    /// Its method.
    pub method: Method,
    /// Path below `/api2/json`.
    pub path: &'a str,
    /// Who asks.
    pub headers: &'a [Header],
    /// Parameters, sent as a form; without any there is no body.
    pub form: &'a [(String, String)],
}

impl<'a> Client<'a> {
    /// Prepares calls to `target`; each ends when `interrupted` says so.
    ///
    /// # Errors
    /// When the system has no room for it.
    pub fn new(target: Target, interrupted: &'a dyn Fn() -> bool) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime
            .map_err(|error| Failure::failed(format!("can not prepare connections: {error}")))?;
        Ok(Self {
            runtime,
            target,
            interrupted,
            is_deaf: Cell::new(false),
        })
    }

    /// Makes a call that nothing interrupts: something is being put back.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn call_to_the_end(&self, trust: Trust, call: &Call<'_>) -> Result<Reply, CallError> {
        self.is_deaf.set(true);
        let reply = self.call(trust, call);
        self.is_deaf.set(false);
        reply
    }

    /// Who is talked to.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Makes a call.
    ///
    /// # Errors
    /// When there is no answer. A refusal is an answer.
    pub fn call(&self, trust: Trust, call: &Call<'_>) -> Result<Reply, CallError> {
        let addresses = self.addresses()?;
        let connect = connect(&self.target, &addresses, trust);
        let stream = self.wait(CONNECT_PATIENCE, Box::pin(connect), || {
            CallError::Unreachable(format!(
                "no connection within {} seconds",
                CONNECT_PATIENCE.as_secs()
            ))
        })?;
        let request = request(&self.target, call)?;
        self.wait(ANSWER_PATIENCE, Box::pin(exchange(stream, request)), || {
            CallError::Late
        })
    }

    /// Looks at the certificate and sends nothing.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn greet(&self, trust: Trust) -> Result<(), CallError> {
        let addresses = self.addresses()?;
        let connect = connect(&self.target, &addresses, trust);
        let late = || CallError::Unreachable("no connection in time".to_owned());
        self.wait(CONNECT_PATIENCE, Box::pin(connect), late)
            .map(drop)
    }

    fn addresses(&self) -> Result<Vec<SocketAddr>, CallError> {
        let Target { host, port } = &self.target;
        let found = (host.as_str(), *port).to_socket_addrs();
        let found: Vec<SocketAddr> = found
            .map_err(|error| CallError::Unreachable(format!("its name does not resolve: {error}")))?
            .collect();
        Ok(found)
    }

    fn wait<T>(
        &self,
        patience: Duration,
        mut future: Pin<Box<dyn Future<Output = Result<T, CallError>> + '_>>,
        late: impl FnOnce() -> CallError,
    ) -> Result<T, CallError> {
        self.runtime.block_on(async {
            let mut waited = Duration::ZERO;
            loop {
                if let Ok(done) = tokio::time::timeout(INTERVAL, &mut future).await {
                    return done;
                }
                if !self.is_deaf.get() && (self.interrupted)() {
                    return Err(CallError::Interrupted);
                }
                waited += INTERVAL;
                if waited >= patience {
                    return Err(late());
                }
            }
        })
    }
}

async fn connect(
    target: &Target,
    addresses: &[SocketAddr],
    trust: Trust,
) -> Result<SslStream<TcpStream>, CallError> {
    let stream = TcpStream::connect(addresses).await;
    let stream = stream.map_err(|error| CallError::Unreachable(error.to_string()))?;
    let broken = |error: &dyn fmt::Display| CallError::Unreachable(format!("TLS: {error}"));
    let ssl = SslConnector::builder(SslMethod::tls_client())
        .and_then(|mut builder| {
            builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
            let mut configuration = builder.build().configure()?;
            // The certificate is looked at before anything is sent, see `check`.
            configuration.set_verify(SslVerifyMode::NONE);
            let is_address = target.host.parse::<IpAddr>().is_ok();
            configuration.set_use_server_name_indication(!is_address);
            configuration.into_ssl(&target.host)
        })
        .map_err(|error| broken(&error))?;
    let mut stream = SslStream::new(ssl, stream).map_err(|error| broken(&error))?;
    Pin::new(&mut stream)
        .connect()
        .await
        .map_err(|error| broken(&error))?;
    check(stream.ssl(), trust)?;
    Ok(stream)
}

/// Whether the other end has the right certificate.
fn check(ssl: &SslRef, trust: Trust) -> Result<(), CallError> {
    let found = ssl
        .peer_certificate()
        .and_then(|certificate| fingerprint_of(&certificate).ok());
    let found = found.ok_or_else(|| CallError::Broken("no certificate".to_owned()))?;
    let is_right = match trust {
        Trust::Pinned(wanted) => wanted == found,
        Trust::System => ssl.verify_result() == X509VerifyResult::OK,
    };
    if is_right {
        Ok(())
    } else {
        Err(CallError::Untrusted(found))
    }
}

fn request(target: &Target, call: &Call<'_>) -> Result<Request<Full<Bytes>>, CallError> {
    let host = if target.host.contains(':') {
        format!("[{}]", target.host)
    } else {
        target.host.clone()
    };
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(format!("/api2/json{}", call.path))
        .header("Host", format!("{host}:{}", target.port))
        .header("User-Agent", concat!("pvecm/", env!("CARGO_PKG_VERSION")))
        .header("Connection", "close");
    for header in call.headers {
        request = request.header(header.name, header.value.expose());
    }
    let body = form(call.form);
    if !call.form.is_empty() {
        request = request.header("Content-Type", "application/x-www-form-urlencoded");
    }
    let request = request.body(Full::new(Bytes::from(body)));
    request.map_err(|error| CallError::Broken(format!("the request: {error}")))
}

async fn exchange(
    stream: SslStream<TcpStream>,
    request: Request<Full<Bytes>>,
) -> Result<Reply, CallError> {
    let broken = |error: &dyn fmt::Display| CallError::Broken(error.to_string());
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| broken(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| broken(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await;
        let body = body.map_err(|error| broken(&error))?.to_bytes();
        let words = head.extensions.get::<ReasonPhrase>();
        let words = words.map(|words| String::from_utf8_lossy(words.as_bytes()).into_owned());
        let usual = head.status.canonical_reason().unwrap_or_default();
        let date = head.headers.get("date").and_then(|date| date.to_str().ok());
        Ok(Reply {
            status: head.status.as_u16(),
            reason: words.unwrap_or_else(|| usual.to_owned()),
            date: date.map(str::to_owned),
            body: content(head.status.is_success(), &body)?,
        })
    };
    // The connection has to run for the exchange to get on; only the exchange says how it went.
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => return done,
        _ = &mut connection => {}
    }
    exchange.await
}

/// Errors may come with anything; an answer is JSON.
fn content(is_success: bool, body: &[u8]) -> Result<Value, CallError> {
    match serde_json::from_slice(body) {
        Ok(value) => Ok(value),
        Err(_) if !is_success => Ok(Value::Null),
        Err(error) => Err(CallError::Broken(error.to_string())),
    }
}

/// Parameters as a form has them.
#[must_use]
pub fn form(parameters: &[(String, String)]) -> String {
    let pair = |(name, value): &(String, String)| format!("{}={}", escape(name), escape(value));
    let pairs: Vec<String> = parameters.iter().map(pair).collect();
    pairs.join("&")
}

/// Escapes everything that is not plain in addresses, forms and cookies.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped += &format!("%{byte:02X}");
        }
    }
    escaped
}
