//! Messages to the system log, for a daemon in the background where no journal runs.

use std::{
    io::{self, Write},
    os::unix::net::UnixDatagram,
    path::Path,
    sync::Arc,
};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

const SOCKET: &str = "/dev/log";

/// Facility "daemon", as the upper bits of a priority.
const DAEMON: u8 = 3 << 3;

/// Sends each message as one datagram.
#[derive(Clone, Debug)]
pub(super) struct Syslog(Arc<UnixDatagram>);

impl Syslog {
    /// Connects to the system log, if there is one.
    pub(super) fn connect() -> Option<Self> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(Path::new(SOCKET)).ok()?;
        Some(Self(Arc::new(socket)))
    }
}

/// One message.
#[derive(Debug)]
pub(super) struct Message {
    socket: Arc<UnixDatagram>,
    priority: u8,
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Message;

    fn make_writer(&'a self) -> Message {
        Message {
            socket: Arc::clone(&self.0),
            priority: severity(Level::INFO),
        }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Message {
        Message {
            socket: Arc::clone(&self.0),
            priority: severity(*meta.level()),
        }
    }
}

impl Write for Message {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let head = format!(
            "<{}>pmxcfs[{}]: ",
            DAEMON | self.priority,
            std::process::id()
        );
        self.socket
            .send(&[head.as_bytes(), text.trim_ascii_end()].concat())?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}
