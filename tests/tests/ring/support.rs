//! What the tests of this folder share.

use std::path::Path;

use tests::corosync::{Settings, Transport};
use tests::lab::{Requirement, available};
use tests::mixed::{Kind, Ring};

pub use Kind::{Corosync as C, Lite as L};
pub use tests::mixed::DEADLINE;

/// Whether rings can be made here.
pub fn can_run() -> bool {
    available(&[
        Requirement::Root,
        Requirement::Network,
        Requirement::Corosync,
    ])
}

/// The program that holds the client.
pub fn client() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_ringload"))
}

/// Encrypted knet over two links.
pub fn encrypted(count: usize) -> Settings {
    let mut settings = Settings::new(count);
    // libknet tells only in debug messages that it could not read a packet.
    let knet = "logger_subsys {\n    subsys: KNET\n    debug: on\n  }";
    settings.logging.push(knet.to_owned());
    settings
}

/// Knet over two links, in clear text.
pub fn clear(count: usize) -> Settings {
    let mut settings = encrypted(count);
    settings.encrypted = false;
    settings
}

/// Plain UDP.
pub fn udpu(count: usize) -> Settings {
    let mut settings = Settings::new(count);
    settings.encrypted = false;
    settings.transport = Transport::Udpu;
    settings.links = 1;
    settings
}

/// Plain UDP, to a group.
pub fn multicast(count: usize) -> Settings {
    let mut settings = udpu(count);
    settings.transport = Transport::Udp;
    settings
}

/// A ring that has formed, over encrypted knet.
pub fn ring(kinds: &[Kind]) -> Ring {
    start(kinds, encrypted(kinds.len()))
}

/// A ring that has formed.
pub fn start(kinds: &[Kind], settings: Settings) -> Ring {
    Ring::start(kinds, settings, client()).unwrap()
}
