//! Calls below `/cluster/config`, apart from those that change the node list.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::super::Server;
use super::super::answer::ApiError;
use super::super::auth::Caller;
use super::super::params::Params;
use super::super::task::Work;
use super::index as names;
use crate::cli::Links;
use crate::host::{Host, Paths};
use crate::info::{self, ConfView};
use crate::value::{ClusterName, Fingerprint, NodeName, is_address};
use crate::verb::API_VERSION;

/// Where the daemon of the voting device answers.
const QDEVICE_SOCKET: &str = "var/run/corosync-qdevice/corosync-qdevice.sock";
/// It answers at once, or not at all.
const QDEVICE_PATIENCE: Duration = Duration::from_secs(5);
/// Its answer is no longer.
const QDEVICE_SIZE: u64 = 64 * 1024;

pub fn index(params: Params) -> Result<Value, ApiError> {
    params.finish()?;
    Ok(names(&["nodes", "totem", "join", "qdevice", "apiversion"]))
}

pub fn api_version(params: Params) -> Result<Value, ApiError> {
    params.finish()?;
    Ok(API_VERSION.into())
}

pub fn nodes(host: &Host, params: Params) -> Result<Value, ApiError> {
    params.finish()?;
    let nodes = ConfView::read(&host.paths)?.map(|conf| conf.nodes());
    let nodes = nodes.into_iter().flatten().map(|(name, mut node)| {
        node.insert("node".to_owned(), name.into());
        Value::Object(node)
    });
    Ok(nodes.collect())
}

pub fn totem(host: &Host, params: Params) -> Result<Value, ApiError> {
    params.finish()?;
    let conf = ConfView::read(&host.paths)?;
    Ok(conf.map_or(Value::Null, |conf| conf.totem().into()))
}

pub fn join_info(host: &Host, mut params: Params) -> Result<Value, ApiError> {
    let node: Option<NodeName> = params.parsed("node");
    params.finish()?;
    let conf = ConfView::read(&host.paths)?
        .ok_or_else(|| ApiError::new(424, "node is not in a cluster, no join info available!"))?;
    let node = node.as_ref().unwrap_or(&host.name);
    Ok(info::join_info(host, &conf, node.as_str())?)
}

pub fn qdevice(host: &Host, params: Params) -> Result<Value, ApiError> {
    params.finish()?;
    Ok(Value::Object(
        device_status(&host.paths).unwrap_or_default(),
    ))
}

/// What the daemon of the voting device says of itself, if it runs.
fn device_status(paths: &Paths) -> Option<Map<String, Value>> {
    let mut socket = UnixStream::connect(paths.at(QDEVICE_SOCKET)).ok()?;
    socket.set_read_timeout(Some(QDEVICE_PATIENCE)).ok()?;
    socket.set_write_timeout(Some(QDEVICE_PATIENCE)).ok()?;
    socket.write_all(b"status verbose\n").ok()?;
    let mut text = String::new();
    socket.take(QDEVICE_SIZE).read_to_string(&mut text).ok()?;
    Some(device_lines(&text))
}

fn device_lines(text: &str) -> Map<String, Value> {
    let shown = [
        "Algorithm",
        "Echo reply",
        "Last poll call",
        "Model",
        "QNetd host",
        "State",
        "Tie-breaker",
    ];
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    let pairs = pairs.filter(|(label, _)| shown.contains(label));
    pairs
        .map(|(label, value)| (label.to_owned(), value.trim().into()))
        .collect()
}

pub fn create(server: &Server, caller: &Caller, params: Params) -> Result<Value, ApiError> {
    let (name, args) = create_args(params)?;
    if server.host.paths.cluster_conf().exists() {
        let text = "cluster config '/etc/pve/corosync.conf' already exists";
        return Err(ApiError::new(500, text));
    }
    start(
        server,
        caller,
        "clustercreate",
        name,
        args,
        Zeroizing::default(),
    )
}

/// Name of a new cluster, and the command that makes it.
fn create_args(mut params: Params) -> Result<(String, Vec<String>), ApiError> {
    let name: Option<ClusterName> = params.needed_parsed("clustername");
    let links = params.links();
    // The original does not know it, so its clients do not send it.
    let is_two_node = params.boolean("two-node");
    let mut args = vec!["create".to_owned()];
    let numbers = [
        ("nodeid", 1..=u32::MAX),
        ("votes", 1..=u32::MAX),
        ("token-coefficient", 0..=u32::MAX),
    ];
    let numbers = numbers.map(|(name, range)| (name, params.integer(name, range)));
    params.finish()?;
    let name = name.map(|name| name.to_string()).unwrap_or_default();
    args.push(name.clone());
    if is_two_node {
        args.push("--two-node".to_owned());
    }
    add_numbers(&mut args, &numbers);
    add_links(&mut args, &links);
    Ok((name, args))
}

pub fn join(server: &Server, caller: &Caller, mut params: Params) -> Result<Value, ApiError> {
    let hostname = params.needed("hostname", 253);
    if !hostname.is_empty() && !is_address(&hostname) {
        let error = "invalid format - neither an IP address nor a host name";
        params.wrong("hostname", error);
    }
    let fingerprint: Option<Fingerprint> = params.needed_parsed("fingerprint");
    let mut password = Zeroizing::new(params.needed("password", 128));
    if password.contains(['\n', '\r', '\0']) {
        params.wrong("password", "invalid format - more than one line");
    }
    let links = params.links();
    let force = params.boolean("force");
    let numbers = [("nodeid", 1..=u32::MAX), ("votes", 0..=u32::MAX)];
    let numbers = numbers.map(|(name, range)| (name, params.integer(name, range)));
    params.finish()?;
    let fingerprint = fingerprint.map(|found| found.to_string());
    let mut args = vec![
        "add".to_owned(),
        hostname,
        "--fingerprint".to_owned(),
        fingerprint.unwrap_or_default(),
        "--password-file".to_owned(),
        "-".to_owned(),
    ];
    if force {
        args.push("--force".to_owned());
    }
    add_numbers(&mut args, &numbers);
    add_links(&mut args, &links);
    password.push('\n');
    start(server, caller, "clusterjoin", String::new(), args, password)
}

fn add_numbers(args: &mut Vec<String>, numbers: &[(&str, Option<u32>)]) {
    for (name, number) in numbers {
        if let Some(number) = number {
            args.extend([format!("--{name}"), number.to_string()]);
        }
    }
}

fn add_links(args: &mut Vec<String>, links: &Links) {
    for (number, link) in links.given() {
        args.extend([format!("--link{number}"), link.to_string()]);
    }
}

fn start(
    server: &Server,
    caller: &Caller,
    kind: &'static str,
    id: String,
    args: Vec<String>,
    input: Zeroizing<String>,
) -> Result<Value, ApiError> {
    let upid = server.actions.start(Work {
        kind,
        id,
        user: caller.name(),
        args,
        input,
    })?;
    Ok(json!(upid.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::super::form::{Values, decode_form};
    use super::*;

    #[test]
    fn a_cluster_is_made_with_the_options_of_the_command() {
        let args = |text: &str| {
            let mut values = Values::new();
            decode_form(text.as_bytes(), &mut values).unwrap();
            create_args(Params::new(values)).map(|(_, args)| args.join(" "))
        };
        let all = "clustername=lab&two-node=1&votes=2&link0=10.0.0.1";
        assert_eq!(
            args(all).unwrap(),
            "create lab --two-node --votes 2 --link0 address=10.0.0.1"
        );
        assert_eq!(args("clustername=lab&two-node=0").unwrap(), "create lab");
        let wrong = args("clustername=lab&two-node=maybe").unwrap_err();
        assert!(wrong.errors.contains_key("two-node"), "{wrong:?}");
    }

    #[test]
    fn the_voting_device_is_shown_by_its_labels() {
        let text = "Qdevice information\n-------------------\nModel:\t\t\tNet\nNode ID:\t\t1\n\
                    QNetd host:\t\t10.0.0.9:5403\nState:\t\t\tConnected\nEcho reply received:\t1\n\
                    Tie-breaker:\t\tNode with lowest node ID\n    Model:\tother\n";
        let wanted = json!({
            "Model": "Net",
            "QNetd host": "10.0.0.9:5403",
            "State": "Connected",
            "Tie-breaker": "Node with lowest node ID",
        });
        assert_eq!(Value::Object(device_lines(text)), wanted);
    }
}
