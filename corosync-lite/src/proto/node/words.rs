//! Log lines of the services.

use super::Node;
use super::log::Level;
use crate::config::Note;
use crate::proto::cpg::Log as CpgLog;
use crate::proto::quorum::{Log as QuorumLog, Status};
use crate::proto::{cfg, cmap};
use crate::wire::NodeId;

type Line = (Level, String);

pub(super) fn of_cpg(log: &CpgLog) -> Line {
    let text = match log {
        CpgLog::UnknownSender { group, node, pid } => format!(
            "message to group {group:?} from process {pid} of node {node} dropped: no process of \
             that node is in the group"
        ),
        CpgLog::StrayPart { group, node, pid } => format!(
            "part of a message to group {group:?} from process {pid} of node {node} dropped: it \
             does not fit to the parts before it"
        ),
        CpgLog::TooManyProcesses { group, node, pid } => format!(
            "process {pid} of node {node} not taken into group {group:?}: its node has too many"
        ),
    };
    (Level::Warn, text)
}

pub(super) fn of_quorum(log: &QuorumLog) -> Line {
    match log {
        QuorumLog::Changed(status) if status.quorate => {
            let Status {
                votes, expected, ..
            } = status;
            let text = format!("quorum: {votes} of {expected} votes");
            (Level::Info, text)
        }
        QuorumLog::Changed(status) | QuorumLog::StillInquorate(status) => {
            (Level::Warn, format!("quorum: {}", inquorate(status)))
        }
        // The ring says so before.
        QuorumLog::Members { members, .. } => {
            (Level::Debug, format!("quorum: members {}", list(members)))
        }
        QuorumLog::Conflict(conflict) => (Level::Error, format!("quorum: {conflict}")),
        QuorumLog::WaitForAllCancelled(by) => (
            Level::Info,
            format!("quorum: node {by} has ended the waiting for nodes never seen"),
        ),
        QuorumLog::LastManStandingOff(node) => (
            Level::Warn,
            format!(
                "quorum: last_man_standing is off: node {node} has more than one vote; give each \
                 node one vote and restart"
            ),
        ),
        QuorumLog::DeviceLost { name } => (
            Level::Warn,
            format!("quorum: device {name} does not answer in time, its votes do not count"),
        ),
        QuorumLog::DeviceAwaited { name, limit } => (
            Level::Info,
            format!(
                "quorum: waiting for device {name}, {} ms at most",
                limit.as_millis()
            ),
        ),
        QuorumLog::DeviceRefused { known, refused } => (
            Level::Warn,
            format!("quorum: device {refused} refused, {known} is registered"),
        ),
        QuorumLog::DeviceExcluded => (
            Level::Warn,
            "quorum: device refused, the configuration has options that exclude it".to_owned(),
        ),
        QuorumLog::Strange(node) => (
            Level::Warn,
            format!("quorum: node {node} sent a message that makes no sense"),
        ),
    }
}

fn inquorate(status: &Status) -> String {
    let Status {
        votes,
        expected,
        short,
        ..
    } = status;
    let mut text = format!("{votes} of {expected} votes");
    if status.waiting_for_all {
        text.push_str(", waiting until all nodes have been seen once");
    } else if *short > 0 {
        text.push_str(&format!(", {short} missing"));
    }
    if !status.missing.is_empty() {
        text.push_str(&format!(", absent: {}", list(&status.missing)));
    }
    if status.device_withheld > 0 {
        text.push_str(&format!(
            ", the device keeps its {}",
            status.device_withheld
        ));
    }
    text
}

pub(super) fn of_cmap(log: &cmap::Log) -> Line {
    let text = match log {
        cmap::Log::OtherVersion { node, version, own } => format!(
            "node {node} has configuration version {version}, this node has {own}: bring the \
             files to the same state and reload"
        ),
        cmap::Log::NotUsed { key, refusal } => {
            format!("the value that {key} was set to is not used: {refusal}")
        }
    };
    (Level::Warn, text)
}

pub(super) fn of_cfg(log: &cfg::Log) -> Line {
    let text = match log {
        cfg::Log::ReloadAsked { by } => format!("node {by} asks all nodes to reload"),
        cfg::Log::KillAsked { node, by } => format!("node {by} wants node {node} to stop"),
        cfg::Log::ShutDown { node } => format!("node {node} is shut down"),
        cfg::Log::KeysInUse { follows: false } => {
            "keys: all members accept the new ones, which are sent with now".to_owned()
        }
        cfg::Log::KeysInUse { follows: true } => {
            "keys: the new ones are sent with now, as other members do".to_owned()
        }
        cfg::Log::KeysChanged => {
            "keys: all members send with the new ones, the old ones are forgotten".to_owned()
        }
        cfg::Log::ShutdownVote {
            stops,
            yes,
            no,
            silent,
        } => {
            let outcome = if *stops { "stops" } else { "goes on" };
            format!(
                "vote on the shutdown: this node {outcome}, {yes} clients agreed, {no} did not, \
                 {silent} did not answer"
            )
        }
    };
    (Level::Info, text)
}

pub(super) fn of_reload(note: &Note) -> Line {
    let level = match note {
        Note::Refused(_) | Note::Warning(_) => Level::Warn,
        _ => Level::Info,
    };
    (level, format!("reload: {note}"))
}

/// The state of the node, on request.
pub(super) fn of_state(node: &Node) -> String {
    let votes = node.votes();
    let stats = node.ring_stats();
    format!(
        "state: ring {} {:?}, members {}, synchronized {}, quorate {} ({} of {} votes), {} \
         connections, {} messages kept, {} tokens accepted, {} messages delivered, {} malformed",
        node.ring(),
        node.phase(),
        list(&node.members()),
        node.is_synchronized(),
        votes.quorate,
        votes.votes,
        votes.expected,
        node.connections.len(),
        node.queued(),
        stats.tokens_accepted,
        stats.messages_delivered,
        node.malformed,
    )
}

fn list(nodes: &[NodeId]) -> String {
    let texts: Vec<_> = nodes.iter().map(NodeId::to_string).collect();
    texts.join(" ")
}
