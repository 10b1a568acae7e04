//! Where messages go: standard error in the foreground, else the journal or the system log; and
//! how many.

use std::{
    io::{self, IsTerminal as _},
    os::unix::net::UnixDatagram,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer as _, Registry, filter::Targets, fmt, layer::SubscriberExt as _, reload,
};

use super::syslog::Syslog;

const JOURNAL: &str = "/run/systemd/journal/socket";

/// Switches debug messages on and off while the daemon runs.
#[derive(Debug)]
pub struct LogControl {
    filter: reload::Handle<Targets, Registry>,
    debug: AtomicBool,
}

/// Messages of this program alone; libraries speak up at warnings only.
fn targets(debug: bool) -> Targets {
    let own = if debug {
        LevelFilter::DEBUG
    } else {
        LevelFilter::INFO
    };
    Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("pmxcfs", own)
}

/// Starts logging. `foreground` logs to standard error, also when there is a journal.
///
/// # Errors
/// When the process logs already.
pub fn start(foreground: bool, debug: bool) -> io::Result<LogControl> {
    let (filter, handle) = reload::Layer::new(targets(debug));
    let has_journal = Path::new(JOURNAL).exists() && UnixDatagram::unbound().is_ok();
    let journal = if has_journal && !foreground {
        Some(tracing_journald::layer()?.with_syslog_identifier("pmxcfs".into()))
    } else {
        None
    };
    let syslog = if has_journal || foreground {
        None
    } else {
        Syslog::connect()
    };
    let syslog = syslog.map(|writer| {
        fmt::layer()
            .with_writer(writer)
            .with_ansi(false)
            .with_level(false)
            .without_time()
    });
    // Under systemd standard error goes to the journal, too. In the background it tells why a
    // start failed.
    let is_terminal = io::stderr().is_terminal();
    let layer = fmt::layer().with_writer(io::stderr).with_ansi(is_terminal);
    let stderr = if is_terminal || !foreground {
        layer.without_time().boxed()
    } else {
        layer.boxed()
    };
    let subscriber = Registry::default()
        .with(filter)
        .with(journal)
        .with(syslog)
        .with(stderr);
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|error| io::Error::other(error.to_string()))?;
    Ok(LogControl {
        filter: handle,
        debug: AtomicBool::new(debug),
    })
}

impl LogControl {
    /// Whether debug messages are on.
    pub fn debug(&self) -> bool {
        self.debug.load(Ordering::Relaxed)
    }

    /// Switches debug messages.
    pub fn set_debug(&self, on: bool) {
        self.debug.store(on, Ordering::Relaxed);
        if let Err(error) = self.filter.reload(targets(on)) {
            tracing::error!("debug messages could not be switched: {error}");
        }
        tracing::info!("debug messages are {}", if on { "on" } else { "off" });
    }
}
