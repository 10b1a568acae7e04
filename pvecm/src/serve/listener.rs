//! Connections: how many there may be, and how long each may take for what.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use openssl::ssl::Ssl;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_openssl::SslStream;

use super::throttle::client;
use super::{Server, request};

/// Rest after the kernel had no room for another connection.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// Buffer of a connection: room for a header, and for the beginning of what follows it.
const BUFFER: usize = 64 * 1024;

/// Connections by client.
type Counts = Arc<Mutex<BTreeMap<IpAddr, usize>>>;

/// One connection in the count.
struct Counted {
    counts: Counts,
    client: IpAddr,
}

impl Counted {
    /// Counts a connection, if there may be one more.
    fn new(counts: &Counts, from: IpAddr, server: &Server) -> Option<Self> {
        let client = client(from);
        let mut table = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = table.values().sum();
        let of_one = table.get(&client).copied().unwrap_or(0);
        if all >= server.limits.connections || of_one >= server.limits.connections_of_one {
            return None;
        }
        table.insert(client, of_one + 1);
        drop(table);
        Some(Self {
            counts: Arc::clone(counts),
            client,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut table = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = table.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                table.remove(&self.client);
            }
        }
    }
}

/// Serves until `end` is ready, then lets requests that are being answered finish.
///
/// # Errors
/// When the socket can not be used any more.
pub async fn serve(
    server: Arc<Server>,
    listener: TcpListener,
    end: impl Future<Output = ()>,
) -> io::Result<()> {
    let counts = Counts::default();
    let (ending, ended) = watch::channel(false);
    let mut end = pin!(end);
    loop {
        let (stream, peer) = tokio::select! {
            () = &mut end => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    tracing::warn!("no connection can be accepted: {error}");
                    sleep(EXHAUSTED).await;
                    continue;
                }
            },
        };
        let from = peer.ip().to_canonical();
        let Some(counted) = Counted::new(&counts, from, &server) else {
            tracing::warn!("{from}: too many connections, one is refused");
            continue;
        };
        let server = Arc::clone(&server);
        let ended = ended.clone();
        tokio::spawn(async move {
            connection(&server, stream, SocketAddr::new(from, peer.port()), ended).await;
            drop(counted);
        });
    }
    drop(listener);
    drop(ended);
    // Nobody listens if no connection is open.
    ending.send_replace(true);
    if timeout(server.limits.farewell, ending.closed())
        .await
        .is_err()
    {
        tracing::warn!("some requests were not answered in time");
    }
    Ok(())
}

async fn connection(
    server: &Arc<Server>,
    stream: TcpStream,
    peer: SocketAddr,
    mut ended: watch::Receiver<bool>,
) {
    let limits = &server.limits;
    let Ok(Some(stream)) = timeout(limits.handshake, greet(server, stream, peer)).await else {
        return;
    };
    let service = service_fn(|request| {
        let server = Arc::clone(server);
        async move { Ok::<_, Infallible>(request::respond(&server, peer.ip(), request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_headers(limits.header_lines)
        .max_header_size(limits.header_size)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    tokio::select! {
        result = served.as_mut() => return note(peer, result),
        () = sleep(limits.connection) => {}
        _ = ended.wait_for(|ended| *ended) => {}
    }
    served.as_mut().graceful_shutdown();
    if let Ok(result) = timeout(limits.farewell, served).await {
        note(peer, result);
    }
}

/// The TLS greeting.
async fn greet(
    server: &Arc<Server>,
    stream: TcpStream,
    peer: SocketAddr,
) -> Option<SslStream<TcpStream>> {
    // Small answers in several pieces would wait for each other.
    stream.set_nodelay(true).ok()?;
    let holder = Arc::clone(server);
    let acceptor = tokio::task::spawn_blocking(move || holder.tls.acceptor());
    let acceptor = acceptor.await.ok()?;
    let ssl = Ssl::new(acceptor.context()).ok()?;
    let mut stream = SslStream::new(ssl, stream).ok()?;
    match Pin::new(&mut stream).accept().await {
        Ok(()) => Some(stream),
        Err(error) => {
            tracing::debug!("{peer}: no TLS: {error}");
            None
        }
    }
}

fn note(peer: SocketAddr, result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!("{peer}: {error}");
    }
}

/// Whether an error says nothing about the next connection.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
