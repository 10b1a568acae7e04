//! The API over HTTPS: what a joining node and an API client need, and no more.
//!
//! | module | owns |
//! |---|---|
//! | `listener` | connections: how many, for how long, how large requests are |
//! | [`tls`] | the certificate that is shown |
//! | `request` | from a request to its answer: who asks, what for, and the limits of that |
//! | `routes` | which calls there are, and who may make them |
//! | `calls` | what they do |
//! | `form`, `params`, [`answer`] | parameters, and answers in the original's shape |
//! | `auth`, [`ticket`], [`token`], `login`, [`pam`], `throttle` | who somebody is |
//! | [`task`] | work that goes on after the answer |
//!
//! Threads: connections are tasks on one thread; calls look at files, so they run on a bounded
//! number of threads of their own. No lock is held while a call runs.
//!
//! Invariants: without a login there is nothing to read; what has no bound is refused.

pub mod answer;
mod auth;
mod calls;
mod form;
mod listener;
mod login;
pub mod pam;
mod params;
mod request;
mod routes;
pub mod task;
mod throttle;
pub mod ticket;
pub mod tls;
pub mod token;

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::cli::Addnode;
use crate::failure::Outcome;
use crate::host::Host;
use crate::host::wait::now;
use crate::info::Admitted;
use crate::value::NodeName;

pub use listener::serve;

/// What calls do that change the cluster. Each may block for as long as locks are waited for.
pub trait Actions: Send + Sync {
    /// Enters a node into the configuration.
    ///
    /// # Errors
    /// Why it may not join, or what went wrong.
    fn admit(&self, joiner: &Addnode) -> Outcome<Admitted>;

    /// Takes a node out of the configuration.
    ///
    /// # Errors
    /// Why it can not be, or what went wrong.
    fn remove(&self, node: &NodeName) -> Outcome;

    /// Starts `pvecm` with arguments and something to read on its standard input, as a task.
    ///
    /// # Errors
    /// When it can not be started.
    fn start(&self, task: task::Work) -> Outcome<task::Upid>;
}

/// Who knows passwords.
pub trait Passwords: Send + Sync {
    /// Whether that is the password of the user of this node, who may log in. May take long.
    ///
    /// # Errors
    /// Why not, for the log.
    fn check(&self, user: &str, password: &str, from: IpAddr) -> Result<(), String>;
}

/// The node's own users.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeUsers;

impl Passwords for NodeUsers {
    fn check(&self, user: &str, password: &str, from: IpAddr) -> Result<(), String> {
        pam::authenticate(user, password, from).map_err(|refused| refused.to_string())
    }
}

/// Bounds of what clients may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once of one client.
    pub connections_of_one: usize,
    /// The TLS greeting takes no longer.
    pub handshake: Duration,
    /// From the connection, or the last answer, to the end of the next request's header.
    pub header: Duration,
    /// From the end of the header to the end of the body.
    pub body: Duration,
    /// A connection ends after this time.
    pub connection: Duration,
    /// At the end of the service, requests that are being answered have this time.
    pub farewell: Duration,
    /// Bytes of a request's header.
    pub header_size: usize,
    /// Lines of a request's header.
    pub header_lines: usize,
    /// Bytes of the body of a login.
    pub login_size: usize,
    /// Bytes of the body of other requests.
    pub body_size: usize,
    /// A login that failed is answered after this time.
    pub failed_login: Duration,
    /// Calls that run at once.
    pub calls: usize,
    /// Passwords that are checked at once.
    pub logins: usize,
    /// A call waits so long for its turn.
    pub turn: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            connections_of_one: 32,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(15),
            body: Duration::from_secs(20),
            connection: Duration::from_secs(300),
            farewell: Duration::from_secs(10),
            header_size: 16 * 1024,
            header_lines: 64,
            login_size: 16 * 1024,
            body_size: 512 * 1024,
            failed_login: Duration::from_secs(3),
            calls: 16,
            logins: 4,
            turn: Duration::from_secs(10),
        }
    }
}

/// What a server consists of, apart from its socket.
pub struct Server {
    host: Host,
    limits: Limits,
    passwords: Box<dyn Passwords>,
    actions: Box<dyn Actions>,
    tls: tls::Tls,
    throttle: Mutex<throttle::Throttle>,
    call_turns: Semaphore,
    login_turns: Semaphore,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("host", &self.host)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Makes a server.
    ///
    /// # Errors
    /// When the node has no certificate.
    pub fn new(
        host: &Host,
        limits: Limits,
        passwords: Box<dyn Passwords>,
        actions: Box<dyn Actions>,
    ) -> Outcome<Self> {
        Ok(Self {
            host: host.clone(),
            passwords,
            actions,
            tls: tls::Tls::open(host)?,
            throttle: Mutex::new(throttle::Throttle::new(now())),
            call_turns: Semaphore::new(limits.calls),
            login_turns: Semaphore::new(limits.logins),
            limits,
        })
    }
}
