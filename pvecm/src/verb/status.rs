//! `status`: the cluster, its quorum, and who is missing.

use std::io::IsTerminal as _;
use std::time::Duration;

use corosync_lite::status::Node;
use serde_json::{Value, json};

use super::show;
use crate::cli::{Format, Status};
use crate::conf::ClusterConf;
use crate::failure::{Failure, Outcome, code};
use crate::host::pve::{self, State as Mount};
use crate::host::{Host, Paths, calendar, files, wait};
use crate::state::{self, Info, Member, NameForm, State, words};
use crate::tell::tell;
use crate::value::NodeName;

/// A mount that does not answer for so long hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a state that is watched is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// Makes a terminal empty.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// The cluster's configuration, and where it is from.
#[derive(Debug)]
pub(super) struct Found {
    /// As it is in force.
    pub(super) conf: ClusterConf,
    /// The cluster file system is there.
    pub(super) mounted: bool,
}

/// Shows the state of the cluster.
///
/// # Errors
/// Without quorum too: then with nothing but the exit code.
pub fn run(host: &Host, args: Status) -> Outcome {
    let is_terminal = std::io::stdout().is_terminal();
    if args.watch {
        return watch(host, args.output_format, is_terminal);
    }
    let view = View::look(host, args.output_format, is_terminal)?;
    if view.is_unmounted {
        tell(&unmounted(&host.paths));
    }
    show(&view.text)?;
    for complaint in &view.complaints {
        tell(complaint);
    }
    show(&view.words)?;
    view.outcome
}

/// Shows the state again whenever it changes. Ends when nobody reads it any more, and does not begin
/// where there is no cluster whose state could change.
fn watch(host: &Host, format: Format, is_terminal: bool) -> Outcome {
    if is_alone(&host.paths) {
        return Err(no_configuration(&host.paths.cluster_conf()));
    }
    let mut last = None;
    loop {
        let text = match View::look(host, format, true) {
            Ok(view) => {
                let why = view.outcome.err().map(|failure| failure.to_string());
                let why = why.filter(|why| !why.is_empty()).map(|why| why + "\n");
                format!("{}{}{}", view.text, view.words, why.unwrap_or_default())
            }
            Err(failure) => format!("{failure}\n"),
        };
        let timeless = timeless(&text);
        if last.as_ref() != Some(&timeless) {
            let clear = is_terminal && format == Format::Text;
            show(&format!("{}{text}", if clear { CLEAR } else { "" }))?;
            last = Some(timeless);
        }
        wait::until(INTERVAL, || None::<()>);
    }
}

/// Whether the cluster file system answers, and says that there is no cluster.
fn is_alone(paths: &Paths) -> bool {
    let conf = paths.cluster_conf();
    let read = || wait::within(PATIENCE, move || files::read(&conf));
    is_mounted(paths) && matches!(read(), Some(Ok(None)))
}

/// A state without the time at which it was looked at.
fn timeless(text: &str) -> String {
    let is_time = |line: &&str| {
        let line = line.trim_start();
        line.starts_with("Date:") || line.starts_with("\"time\":")
    };
    text.lines()
        .filter(|line| !is_time(line))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A node that was taken out while it ran has a ring of its own, and could be brought to act in it.
pub(super) fn removed(conf: &ClusterConf, own: &NodeName) -> Option<String> {
    conf.node(own.as_str()).is_none().then(|| {
        format!(
            "node '{own}' is not in the cluster's configuration: if it was removed, 'pvecm leave' \
             separates it; it must not act on its own before"
        )
    })
}

/// What is shown.
struct View {
    text: String,
    complaints: Vec<String>,
    words: String,
    is_unmounted: bool,
    /// With the exit code.
    outcome: Outcome,
}

impl View {
    fn look(host: &Host, format: Format, has_words: bool) -> Outcome<Self> {
        let found = configuration(&host.paths)?;
        let header = state::header(&found.conf);
        let asked = state::ask();
        let nodes = all_nodes();
        let mut view = Self {
            text: header,
            complaints: Vec::new(),
            words: String::new(),
            is_unmounted: !found.mounted,
            outcome: Ok(()),
        };
        match (format, &asked) {
            (Format::Text, Ok(state)) => {
                let date = state::date(calendar());
                view.text += &state::blocks(state, &date, NameForm::Address);
                view.complaints = state::complaints(state);
                view.complaints.extend(removed(&found.conf, &host.name));
                if has_words {
                    view.words = words::words(state, &nodes).block();
                }
            }
            (Format::Text, Err(_)) => {}
            (Format::Json, _) => {
                let known = asked.as_ref().map_err(ToString::to_string);
                view.text = format!("{:#}\n", document(&found, known, &nodes));
            }
        }
        view.outcome = match asked {
            Err(error) => Err(no_state(&error)),
            Ok(_) if !found.mounted => Err(Failure::quiet(code::FAILED)),
            Ok(state) if state.quorate => Ok(()),
            // As quorumtool has it, and as nothing was changed.
            Ok(_) => Err(Failure::quiet(code::REFUSED)),
        };
        Ok(view)
    }
}

/// The configuration in `/etc/pve`; without the mount the daemon's own copy.
///
/// # Errors
/// When this node is in no cluster.
pub(super) fn configuration(paths: &Paths) -> Outcome<Found> {
    let mounted = is_mounted(paths);
    let path = if mounted {
        paths.cluster_conf()
    } else {
        paths.corosync("corosync.conf")
    };
    let text = {
        let path = path.clone();
        wait::within(PATIENCE, move || files::read(&path))
    };
    let text = text.unwrap_or_else(|| Err(hangs(paths)))?;
    let Some(text) = text else {
        let mut failure = no_configuration(&path);
        if !mounted {
            failure = failure.within(not_mounted(paths));
        }
        return Err(failure);
    };
    let conf = ClusterConf::parse(&text);
    let conf = conf.map_err(|error| Failure::failed(format!("'{}': {error}", path.display())))?;
    Ok(Found { conf, mounted })
}

/// Whether the cluster file system is there and answers.
pub(super) fn is_mounted(paths: &Paths) -> bool {
    let paths = paths.clone();
    let state = wait::within(PATIENCE, move || pve::state(&paths));
    matches!(state, Some(Mount::ReadOnly | Mount::Writable))
}

fn hangs(paths: &Paths) -> Failure {
    Failure::failed(format!(
        "'{}' does not answer: see 'journalctl -u pve-cluster', and restart it with 'systemctl \
         restart pve-cluster'",
        paths.at("etc/pve").display()
    ))
}

pub(super) fn no_configuration(path: &std::path::Path) -> Failure {
    Failure::refused(format!(
        "Error: Corosync config '{}' does not exist - is this node part of a cluster?",
        path.display()
    ))
}

fn not_mounted(paths: &Paths) -> String {
    let at = paths.at("etc/pve");
    format!(
        "pve configuration filesystem (pmxcfs) not mounted on '{}'",
        at.display()
    )
}

fn unmounted(paths: &Paths) -> String {
    format!(
        "{}, so this is what the messaging daemon knows: start it with 'systemctl start pve-cluster'",
        not_mounted(paths)
    )
}

/// What is said when the daemon does not answer.
pub(super) fn no_state(error: &state::NoState) -> Failure {
    let remedy = if error.is_not_running() {
        "\nStart it with 'systemctl start corosync', and see 'journalctl -u corosync' if that fails."
    } else {
        ""
    };
    Failure::failed(format!("{error}{remedy}"))
}

/// All nodes of the configuration with the links to them, as far as the daemon tells.
pub(super) fn all_nodes() -> Vec<Node> {
    corosync_lite::status::ask().map_or_else(|_| Vec::new(), |status| status.nodes)
}

fn document(found: &Found, state: Result<&State, String>, nodes: &[Node]) -> Value {
    let conf = &found.conf;
    let setting = |key| conf.setting("totem", key);
    let mut value = json!({
        "cluster": {
            "name": conf.cluster_name(),
            "config_version": conf.version(),
            "transport": setting("transport").unwrap_or("knet"),
            "secure_auth": setting("secauth") == Some("on"),
        },
        "mounted": found.mounted,
    });
    match state {
        Err(error) => value["error"] = error.into(),
        Ok(state) => {
            value["quorum"] = quorum(state);
            value["votes"] = votes(state);
            value["nodes"] = all(state, nodes);
            value["words"] = json!(words::words(state, nodes));
        }
    }
    value
}

fn quorum(state: &State) -> Value {
    json!({
        "time": calendar().as_secs(),
        "provider": state.provider,
        "node_id": state.node,
        "ring_id": format!("{:x}.{:x}", state.ring_node, state.ring_seq),
        "quorate": state.quorate,
    })
}

fn votes(state: &State) -> Value {
    let votes = &state.votes;
    json!({
        "expected": votes.expected,
        "highest_expected": votes.highest_expected,
        "total": votes.total,
        "needed": votes.needed,
        "flags": state::flag_names(votes.flags),
    })
}

/// All nodes: members in their order, then those that are missing.
pub(super) fn all(state: &State, nodes: &[Node]) -> Value {
    let known = |id| nodes.iter().find(|node: &&Node| node.id == id);
    let member = |member: &Member| {
        let info = member.info.clone().unwrap_or_default();
        json!({
            "node_id": member.id,
            "name": member.name,
            "address": member.address.ok().map(|address| address.to_string()),
            "votes": info.votes,
            "qdevice": device(&info),
            "local": member.id == state.node,
            "online": true,
            "links": known(member.id).map_or(json!({}), |node| json!(node.links)),
        })
    };
    let missing = |node: &Node| {
        json!({
            "node_id": node.id,
            "name": node.name,
            "address": node.links.values().next().map(|link| link.to.clone()),
            "votes": node.votes,
            "qdevice": null,
            "local": false,
            "online": false,
            "links": node.links,
        })
    };
    let is_here = |node: &&Node| state.members.iter().any(|member| member.id == node.id);
    let here = state.members.iter().map(member);
    let others = nodes.iter().filter(|node| !is_here(node)).map(missing);
    here.chain(others).collect()
}

fn device(info: &Info) -> Option<Value> {
    let has = info.flags & state::flags::DEVICE_REGISTERED != 0;
    has.then(|| {
        json!({
            "name": info.device_name,
            "votes": info.device_votes,
            "alive": info.flags & state::flags::DEVICE_ALIVE != 0,
            "casts_vote": info.flags & state::flags::DEVICE_CAST_VOTE != 0,
            "master_wins": info.flags & state::flags::DEVICE_MASTER_WINS != 0,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{removed, timeless};
    use crate::conf::ClusterConf;

    #[test]
    fn a_node_that_was_removed_is_told_so() {
        let text = "totem {\n config_version: 3\n}\nnodelist {\n node {\n  name: n1\n  nodeid: 1\n  \
                    ring0_addr: 10.77.0.1\n }\n}\n";
        let conf = ClusterConf::parse(text.as_bytes()).unwrap();
        assert_eq!(removed(&conf, &"n1".parse().unwrap()), None);
        let text = removed(&conf, &"n2".parse().unwrap()).unwrap();
        assert!(text.contains("'pvecm leave'"), "{text}");
    }

    #[test]
    fn time_alone_is_no_change() {
        let text =
            |time: &str, nodes: u8| format!("Date:   {time}\nNodes: {nodes}\n  \"time\": {time}\n");
        assert_eq!(timeless(&text("1", 2)), timeless(&text("2", 2)));
        assert_ne!(timeless(&text("1", 2)), timeless(&text("1", 3)));
    }
}
