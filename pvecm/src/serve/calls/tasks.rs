//! Tasks that this node runs or has run.

use serde_json::Value;

use super::super::answer::{Answer, ApiError, page};
use super::super::params::Params;
use super::super::task::{self, Upid};
use super::index as names;
use crate::host::Host;
use crate::value::NodeName;

pub fn index(mut params: Params) -> Result<Value, ApiError> {
    drop(params.rest());
    Ok(names(&["log", "status"]))
}

pub fn status(host: &Host, mut params: Params) -> Result<Value, ApiError> {
    let upid = named(host, &mut params);
    params.finish()?;
    let status = task::status(&host.paths, &upid?);
    status.map_err(|failure| ApiError::parameter("upid", failure.to_string()))
}

pub fn log(host: &Host, mut params: Params) -> Result<Answer, ApiError> {
    let upid = named(host, &mut params);
    let first = params.integer("start", 0..=u32::MAX).unwrap_or(0);
    let count = params.integer("limit", 0..=u32::MAX).unwrap_or(50);
    params.finish()?;
    // No limit is written as 0.
    let count = match usize::try_from(count) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(count) => count,
    };
    let first = usize::try_from(first).unwrap_or(usize::MAX);
    let log = task::log(&host.paths, &upid?, first, count);
    let (lines, total) = log.map_err(|failure| ApiError::parameter("upid", failure.to_string()))?;
    Ok(page(lines, total))
}

/// The task of a path. Those of other nodes are not here.
fn named(host: &Host, params: &mut Params) -> Result<Upid, ApiError> {
    let node = params.text("node", 64).unwrap_or_default();
    let upid = params.text("upid", 512).unwrap_or_default();
    let upid: Upid = upid
        .parse()
        .map_err(|error: task::NotAUpid| ApiError::parameter("upid", error.to_string()))?;
    let is_here = |name: &str| name == host.name.as_str() || name == "localhost";
    if !is_here(&node) || upid.node != host.name {
        let node: Result<NodeName, _> = node.parse();
        let node = node.map_or_else(|_| upid.node.to_string(), |node| node.to_string());
        let text = format!("tasks of node '{node}' are shown by that node alone: ask it");
        return Err(ApiError::new(501, text));
    }
    Ok(upid)
}
