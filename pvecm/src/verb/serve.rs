//! `serve`: the API over HTTPS.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::cert::authkey;
use crate::cli::{Addnode, Delnode, Serve};
use crate::failure::{Failure, Outcome};
use crate::host::pve::{self, State};
use crate::host::{Host, calendar};
use crate::info::Admitted;
use crate::serve::task::{self, Upid, Work};
use crate::serve::{Actions, Limits, NodeUsers, Server, serve};
use crate::value::NodeName;
use crate::verb::machine::ThisMachine;
use crate::verb::updatecerts::{self, UpdateOptions};

/// How often keys and certificates are looked at.
const KEEP_INTERVAL: Duration = Duration::from_secs(3600);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 128;

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the node has no certificate, or the address is in use.
pub fn run(host: &Host, args: &Serve) -> Outcome {
    log_to_stderr();
    // By this name it is found also after an upgrade has replaced its file.
    let program = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    let commands = Commands {
        host: host.clone(),
        program,
    };
    let server = Server::new(
        host,
        Limits::default(),
        Box::new(NodeUsers),
        Box::new(commands),
    )?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("can not begin: {error}")))?;
    let served = runtime.block_on(serve_at(Arc::new(server), host.clone(), args.listen));
    // A call that hangs in the file system must not keep the service from ending.
    runtime.shutdown_background();
    served
}

async fn serve_at(server: Arc<Server>, host: Host, at: SocketAddr) -> Outcome {
    let cannot = |error: std::io::Error| {
        Failure::failed(format!(
            "can not listen on {at}: {error}; 'ss -ltnp' shows who does"
        ))
    };
    let listener = listen(at).map_err(cannot)?;
    let signals = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    let [Ok(mut terminate), Ok(mut interrupt)] = signals else {
        return Err(Failure::failed("signals can not be received"));
    };
    // The certificate is looked at all the time: there is nothing else to be read again.
    let reload = signal(SignalKind::hangup()).map_err(cannot)?;
    tracing::info!("listening on {}", listener.local_addr().map_err(cannot)?);
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!("the service manager can not be told: {error}");
    }
    let keeper = tokio::spawn(keep(host));
    let end = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        drop(reload);
        tracing::info!("ending");
        // It matters to nobody if it is not told.
        drop(sd_notify::notify(&[sd_notify::NotifyState::Stopping]));
    };
    let served = serve(server, listener, end).await.map_err(cannot);
    keeper.abort();
    served
}

/// Renews what gets old: the key of tickets each day, the node's certificate before it ends.
async fn keep(host: Host) {
    let mut hours = tokio::time::interval(KEEP_INTERVAL);
    hours.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The service's start has just looked.
    hours.tick().await;
    loop {
        hours.tick().await;
        let host = host.clone();
        let kept = tokio::task::spawn_blocking(move || keep_now(&host));
        match kept.await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => tracing::warn!("{failure}"),
            Err(error) => tracing::warn!("renewing keys and certificates: {error}"),
        }
    }
}

fn keep_now(host: &Host) -> Outcome {
    if pve::state(&host.paths) != State::Writable {
        return Ok(());
    }
    if authkey::rotate(host, calendar())? {
        tracing::info!("the key of login tickets is a new one");
    }
    let options = UpdateOptions {
        silent: true,
        ..UpdateOptions::default()
    };
    let updated = updatecerts::cluster_files(host, options)?;
    if updated.new_certificate {
        tracing::info!("this node has a new certificate");
    }
    Ok(())
}

/// A socket; where there is no IPv6, that for all addresses is one of IPv4.
fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let try_at = |at: SocketAddr| {
        let socket = match at {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(at)?;
        socket.listen(BACKLOG)
    };
    match try_at(at) {
        Err(error)
            if at.ip().is_unspecified()
                && matches!(
                    error.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
        {
            try_at((Ipv4Addr::UNSPECIFIED, at.port()).into())
        }
        tried => tried,
    }
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PVECM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // Somebody who embeds this may have set up another one.
    drop(
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .try_init(),
    );
}

/// Calls that change the cluster do what the commands do.
struct Commands {
    host: Host,
    program: PathBuf,
}

impl Actions for Commands {
    fn admit(&self, joiner: &Addnode) -> Outcome<Admitted> {
        super::addnode::admit(&self.host, &ThisMachine::unwatched(), joiner)
    }

    fn remove(&self, node: &NodeName) -> Outcome {
        let args = Delnode {
            node: node.clone(),
            purge: false,
            force: false,
            dry_run: false,
        };
        let removed = super::delnode::remove(&self.host, &ThisMachine::unwatched(), &args)?;
        for line in removed.done.iter().chain(&removed.remains) {
            tracing::info!("{line}");
        }
        Ok(())
    }

    fn start(&self, work: Work) -> Outcome<Upid> {
        task::start(&self.host, &self.program, work)
    }
}
