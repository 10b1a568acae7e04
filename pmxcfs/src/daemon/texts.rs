//! The computed files, from the parts of the daemon that know their content.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::logging::LogControl;
use crate::{cluster::StatusService, fs::StatusSource, memdb::Tree};

/// As in syslog.
const PRIORITY_ERROR: u8 = 3;

/// Serves `.version`, `.members`, `.rrd`, `.clusterlog` and `.debug`.
pub struct Texts {
    /// The status of the nodes.
    pub status: Arc<StatusService>,
    /// The switch for debug messages.
    pub log: Arc<LogControl>,
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Texts").finish_non_exhaustive()
    }
}

impl StatusSource for Texts {
    fn version(&self, tree: &Tree) -> Bytes {
        self.status.version_text(tree).into()
    }

    fn members(&self) -> Bytes {
        self.status.members_text().into()
    }

    fn rrd(&self) -> Bytes {
        self.status.rrd_text().into()
    }

    fn cluster_log(&self) -> Bytes {
        self.status.clusterlog_text().into()
    }

    fn debug(&self) -> bool {
        self.log.debug()
    }

    fn set_debug(&self, on: bool) {
        self.log.set_debug(on);
    }

    fn report_loss(&self, text: &str) {
        tracing::error!("{text}");
        self.status.log(PRIORITY_ERROR, "pmxcfs", text);
    }
}
