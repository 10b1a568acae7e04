//! The status group as other threads use it: texts of virtual files, the cluster log, keys.

use std::sync::{
    Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;

use crate::{
    clock,
    dfsm::{Dfsm, Mode},
    group::{GroupName, McastError, Sender},
    memdb::Tree,
    status::{LogRequest, Outgoing, SetError, Status, VersionCounters},
    wire::MemberId,
};

/// The status of this node and, in a cluster, of the others.
#[derive(Debug)]
pub struct StatusService {
    dfsm: Mutex<Dfsm<Status>>,
    /// Set in cluster mode.
    sender: OnceLock<Sender>,
    quorate: AtomicBool,
    /// Messages that the messaging daemon did not take yet.
    unsent: Mutex<Vec<Bytes>>,
}

impl StatusService {
    /// Status of a process that starts now. `address` is announced to other nodes.
    #[must_use]
    pub fn new(own: MemberId, node_name: &str, address: Option<&str>) -> Self {
        let status = Status::new(clock::unix_seconds_u32(), own, node_name, address);
        Self {
            dfsm: Mutex::new(Dfsm::new(status, own)),
            sender: OnceLock::new(),
            quorate: AtomicBool::new(false),
            unsent: Mutex::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Dfsm<Status>> {
        self.dfsm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the messages that the messaging daemon did not take.
    pub(super) fn take_unsent(&self) -> Vec<Bytes> {
        std::mem::take(&mut *self.unsent.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn connect(&self, sender: Sender) {
        drop(self.sender.set(sender));
    }

    pub(super) fn set_quorate(&self, quorate: bool) {
        self.quorate.store(quorate, Ordering::Relaxed);
    }

    /// Writes into the cluster log, and to the other nodes. Priorities are those of syslog.
    pub fn log(&self, priority: u8, tag: &str, text: &str) {
        let mut dfsm = self.lock();
        let request = LogRequest {
            pid: std::process::id(),
            priority,
            ident: b"root",
            tag: tag.as_bytes(),
            text: text.as_bytes(),
        };
        let message = dfsm.app_mut().log(clock::unix_seconds_u32(), &request);
        if let Some(message) = message {
            self.send(&mut dfsm, message);
        }
    }

    /// Sets a status key of this node; an empty value removes it.
    ///
    /// # Errors
    /// If the value breaks a rule of its key.
    pub fn set(&self, key: &[u8], value: Bytes) -> Result<(), SetError> {
        let mut dfsm = self.lock();
        let message = dfsm.app_mut().set(clock::unix_seconds_u32(), key, value)?;
        self.send(&mut dfsm, message);
        Ok(())
    }

    fn send(&self, dfsm: &mut Dfsm<Status>, message: Outgoing) {
        // What is not sent now goes out in the next round.
        let Some(sender) = self.sender.get().filter(|_| dfsm.mode() == Mode::Synced) else {
            return;
        };
        let Outgoing { subtype, payload } = message;
        let (_, bytes) = dfsm.make_normal(clock::unix_seconds_u32(), subtype, payload);
        match sender.mcast(GroupName::Status, &bytes) {
            Ok(()) => {}
            Err(McastError::Backpressure) => {
                self.unsent
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(bytes);
            }
            Err(error) => tracing::debug!("a status message was not sent: {error}"),
        }
    }

    /// Text of `.version`.
    #[must_use]
    pub fn version_text(&self, tree: &Tree) -> String {
        let files: Vec<(&str, u32)> = tree.observed().iter().collect();
        let counters = VersionCounters {
            vmlist: tree.guests().version(),
            files: &files,
        };
        self.lock().app().version_text(counters)
    }

    /// Text of `.members`.
    #[must_use]
    pub fn members_text(&self) -> String {
        self.lock()
            .app()
            .members_text(self.quorate.load(Ordering::Relaxed))
    }

    /// Text of `.rrd`.
    #[must_use]
    pub fn rrd_text(&self) -> Vec<u8> {
        self.lock().app_mut().rrd_text(clock::unix_seconds_u32())
    }

    /// Text of `.clusterlog`.
    #[must_use]
    pub fn clusterlog_text(&self) -> String {
        self.lock().app().log_text(0, None)
    }
}
