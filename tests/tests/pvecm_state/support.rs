//! What the tests of this folder share.

use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tests::corosync::Settings;
use tests::daemon::built;
use tests::lab::{Host, Requirement, available};

/// A change of the ring is known to all within this time, on a busy machine too.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Both messaging daemons, as settings name them.
pub(crate) const KINDS: [&str; 2] = ["corosync", "corosync-lite"];

/// Whether rings can be made here.
pub(crate) fn can_run() -> bool {
    available(&[
        Requirement::Root,
        Requirement::Network,
        Requirement::Corosync,
    ])
}

/// Whether clusters can be made here.
pub(crate) fn can_run_clusters() -> bool {
    can_run() && available(&[Requirement::Fuse])
}

/// Settings for `count` nodes with one of [`KINDS`].
pub(crate) fn settings(count: usize, kind: &str) -> Settings {
    let mut settings = Settings::new(count);
    settings.messaging = kind.to_owned();
    settings
}

/// Runs `pvecm` on a host.
pub(crate) fn pvecm(host: &Host, args: &str) -> Output {
    let program = built("pvecm", "PVECM_BIN").unwrap();
    host.sh(&format!("{} {args}", program.display())).unwrap()
}

/// What it writes, and its exit code.
pub(crate) fn said(output: &Output) -> (String, String, i32) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap();
    (text(&output.stdout), text(&output.stderr), code)
}

/// The document that it writes.
pub(crate) fn document(host: &Host, args: &str) -> Value {
    let output = pvecm(host, &format!("{args} --output-format json"));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Makes `/etc/pve` look mounted, quorate and in possession of the host's configuration, without the
/// cluster file system: for tests of the messaging daemon alone.
pub(crate) fn pretend_mount(host: &Host) {
    let script = "ln -sfn nodes/$(hostname) /etc/pve/local && \
                  cp /etc/corosync/corosync.conf /etc/pve/corosync.conf";
    host.sh_ok(script).unwrap();
}
