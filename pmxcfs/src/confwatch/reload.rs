//! Making Corosync read its configuration again, without anyone waiting for it.
//!
//! A reload makes the Corosync of every node read that node's file. The node that asks for it
//! applied the change at its own speed, others may still be writing their files; nothing tells
//! when they are done. So a thread of its own lets a short time pass, during which further
//! requests join the first, and then asks once.

use std::fmt;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use crate::group::corosync::reload_config;

/// Time for the other nodes to write their files.
pub const DELAY: Duration = Duration::from_secs(1);

/// Requests that start the delay anew, before a reload happens in spite of further ones.
const POSTPONED_MAX: u32 = 5;

/// How long dropping waits for a reload that is under way.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Performs reloads on a thread of its own. Dropping it performs a pending one at once: the
/// change is in force, and nobody else would ask for it.
pub struct Reloader {
    /// `None` once stopping. Holds one request: more say the same.
    requests: Option<SyncSender<()>>,
    stopped: Receiver<()>,
}

impl Reloader {
    /// A reloader for the local Corosync. A failure is logged.
    ///
    /// # Errors
    /// When the thread can not be started.
    pub fn spawn() -> std::io::Result<Self> {
        Self::with(DELAY, || match reload_config() {
            Ok(()) => tracing::info!("corosync has reloaded its configuration"),
            Err(error) => tracing::warn!(
                "unable to reload the configuration of corosync: {error}; run `corosync-cfgtool -R`"
            ),
        })
    }

    fn with(delay: Duration, reload: impl FnMut() + Send + 'static) -> std::io::Result<Self> {
        let (requests, incoming) = mpsc::sync_channel(1);
        let (alive, stopped) = mpsc::sync_channel(0);
        thread::Builder::new()
            .name("conf-reload".to_owned())
            .spawn(move || {
                run(&incoming, delay, reload);
                drop(alive);
            })?;
        Ok(Self {
            requests: Some(requests),
            stopped,
        })
    }

    /// Asks for a reload. Returns at once.
    pub fn reload(&self) {
        if let Some(requests) = &self.requests {
            // Full: a request waits already, and it will see this change as well.
            requests.try_send(()).unwrap_or_default();
        }
    }
}

impl Drop for Reloader {
    fn drop(&mut self) {
        self.requests = None;
        // A Corosync that hangs must not keep the daemon from stopping.
        if self.stopped.recv_timeout(STOP_LIMIT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("corosync has not answered a reload yet: run `corosync-cfgtool -R`");
        }
    }
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").finish_non_exhaustive()
    }
}

fn run(incoming: &Receiver<()>, delay: Duration, mut reload: impl FnMut()) {
    while incoming.recv().is_ok() {
        for _ in 0..POSTPONED_MAX {
            match incoming.recv_timeout(delay) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        reload();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_secs(10);

    fn reloader(delay: Duration) -> (Reloader, Receiver<()>) {
        let (done, reloads) = mpsc::sync_channel(16);
        (
            Reloader::with(delay, move || done.send(()).unwrap()).unwrap(),
            reloads,
        )
    }

    #[test]
    fn a_request_is_carried_out_after_the_delay() {
        let (reloader, reloads) = reloader(Duration::from_millis(5));
        reloader.reload();
        reloads.recv_timeout(SOON).unwrap();
        reloader.reload();
        reloads.recv_timeout(SOON).unwrap();
        drop(reloader);
        assert!(reloads.recv().is_err(), "one reload a request");
    }

    #[test]
    fn requests_within_the_delay_are_one_reload() {
        let (reloader, reloads) = reloader(LONG);
        reloader.reload();
        reloader.reload();
        drop(reloader);
        assert_eq!(reloads.iter().count(), 1);
    }

    #[test]
    fn stopping_does_not_wait_for_the_delay_nor_invents_reloads() {
        let (reloader, reloads) = reloader(LONG);
        drop(reloader);
        assert_eq!(reloads.iter().count(), 0);
    }

    #[test]
    fn endless_requests_do_not_put_a_reload_off_for_ever() {
        let (requests, incoming) = mpsc::sync_channel(64);
        (0..=POSTPONED_MAX).for_each(|_| requests.send(()).unwrap());
        let (done, reloads) = mpsc::sync_channel(16);
        let thread = thread::spawn(move || run(&incoming, LONG, || done.send(()).unwrap()));
        reloads.recv_timeout(SOON).unwrap();
        drop(requests);
        thread.join().unwrap();
    }
}
