//! A join that was broken off while the cluster knew of it already.
//!
//! A note is on disk from before the member is asked until the join is done, or the member has taken
//! the node out again. With it the next join knows that an entry of this node's name in that cluster
//! is its own, and may go.

use serde::{Deserialize, Serialize};

use super::peer::Facts;
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::host::files::{self, SECRET};

#[derive(Serialize, Deserialize)]
struct Note {
    cluster: String,
    node: String,
}

fn path(host: &Host) -> std::path::PathBuf {
    host.paths.database("pvecm-joining.json")
}

/// Remembers that the cluster is about to be asked.
///
/// # Errors
/// When it can not be written.
pub fn remember(host: &Host, facts: &Facts) -> Outcome {
    let note = Note {
        cluster: facts.cluster.clone().unwrap_or_default(),
        node: host.name.as_str().to_owned(),
    };
    let text = serde_json::to_vec(&note).map_err(Failure::failed)?;
    files::replace(&path(host), &text, SECRET)
}

/// The cluster knows nothing of this node, or has it for good.
///
/// # Errors
/// When the note can not be removed.
pub fn forget(host: &Host) -> Outcome {
    files::remove(&path(host))
}

/// Whether an entry of this node's name in that cluster comes from a join that was broken off.
#[must_use]
pub fn applies(host: &Host, facts: &Facts) -> bool {
    let note: Option<Note> = files::read(&path(host))
        .ok()
        .flatten()
        .and_then(|text| serde_json::from_slice(&text).ok());
    let own = host.name.as_str();
    note.is_some_and(|note| {
        let entry = facts.nodes.iter().find(|node| node.name == own);
        facts.cluster.as_ref() == Some(&note.cluster)
            && note.node == own
            && entry.is_some_and(|entry| entry.online != Some(true))
    })
}
