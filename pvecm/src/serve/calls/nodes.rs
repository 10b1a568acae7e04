//! Nodes come and go.
//!
//! Invariant: a join token lets one node in; after that it can do nothing but enter that node anew or
//! take it out again, as long as it has not come up.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::Server;
use super::super::answer::ApiError;
use super::super::auth;
use super::super::auth::Caller;
use super::super::params::Params;
use super::super::token::{Claim, TokenRefused, Tokens};
use crate::cli::Addnode;
use crate::host::{Host, clusterconf, pve, wait};
use crate::info::Admitted;
use crate::value::NodeName;
use crate::verb::{API_VERSION, addnode};

/// A node that has ended is seen as gone within this time.
const FAREWELL: Duration = Duration::from_secs(3);

pub fn add(server: &Server, caller: &Caller, params: Params) -> Result<Value, ApiError> {
    let joiner = read(params)?;
    let host = &server.host;
    pve::need_quorum(&host.paths)?;
    // Before a token is taken.
    addnode::verified(host)?;
    let claim = claim(host, caller, &joiner)?;
    let admitted = server.actions.admit(&joiner);
    if let Some(claim) = claim {
        note(claim, &joiner.node, admitted.is_ok());
    }
    let Admitted {
        authkey,
        conf,
        warnings,
    } = admitted?;
    tracing::info!("{} has added node '{}'", caller.name(), joiner.node);
    Ok(json!({
        // A byte is the character of that number.
        "corosync_authkey": authkey.iter().map(|byte| char::from(*byte)).collect::<String>(),
        "corosync_conf": String::from_utf8_lossy(&conf),
        "warnings": warnings,
    }))
}

pub fn remove(server: &Server, caller: &Caller, mut params: Params) -> Result<Value, ApiError> {
    let node: Option<NodeName> = params.needed_parsed("node");
    params.finish()?;
    let node = node.ok_or_else(|| ApiError::parameter("node", "it is missing"))?;
    let paths = &server.host.paths;
    if let Caller::Joiner { id, secret } = caller {
        let joined = Tokens::of(paths).joined(id, secret).map_err(refused)?;
        if joined.as_ref() != Some(&node) || is_online(&server.host, &node)? {
            let text = "a join token may take out no node but the one that it has let in, and only \
                        before that has come up";
            return Err(ApiError::new(403, text));
        }
    }
    server.actions.remove(&node)?;
    tracing::info!("{} has removed node '{node}'", caller.name());
    Ok(Value::Null)
}

fn read(mut params: Params) -> Result<Addnode, ApiError> {
    let node: Option<NodeName> = params.needed_parsed("node");
    let links = params.links();
    let nodeid = params.integer("nodeid", 1..=u32::MAX);
    let votes = params.integer("votes", 0..=u32::MAX);
    let force = params.boolean("force");
    let new_node_ip: Option<IpAddr> = params.parsed("new_node_ip");
    let probation = params.boolean("probation");
    let apiversion = params.integer("apiversion", 0..=u32::MAX).unwrap_or(0);
    params.finish()?;
    let node = node.ok_or_else(|| ApiError::parameter("node", "it is missing"))?;
    // Nothing older than the oldest version is known, so only newer ones could be refused; those
    // know themselves whether they can join here.
    tracing::debug!("node '{node}' speaks version {apiversion}, this one {API_VERSION}");
    Ok(Addnode {
        node,
        links,
        nodeid,
        votes,
        force,
        new_node_ip,
        apiversion,
        probation,
        settle: None,
        dry_run: false,
    })
}

/// Takes the token of a joining node, so that nobody else can use it.
fn claim(host: &Host, caller: &Caller, joiner: &Addnode) -> Result<Option<Claim>, ApiError> {
    match caller {
        Caller::Joiner { id, secret } => {
            let tokens = Tokens::of(&host.paths);
            if joiner.force {
                await_farewell(host, &joiner.node)?;
                // The one that the token has let in asks again, and was not taken out since.
                let is_in = clusterconf::read(host)?
                    .node(joiner.node.as_str())
                    .is_some();
                if is_in && tokens.joined(id, secret) == Ok(Some(joiner.node.clone())) {
                    return Ok(None);
                }
            }
            let claim = tokens.claim(id, secret);
            claim.map(Some).map_err(refused)
        }
        Caller::User(user) if user == auth::ROOT => Ok(None),
        Caller::User(_) | Caller::Nobody => Err(ApiError::new(403, "only root may do this")),
    }
}

/// A node that has just gone may still count as up.
fn await_farewell(host: &Host, node: &NodeName) -> Result<(), ApiError> {
    let gone = wait::until(FAREWELL, || match is_online(host, node) {
        Ok(true) => None,
        other => Some(other),
    });
    if gone.transpose()?.is_none() {
        let text = "a join token may not replace a node that is up";
        return Err(ApiError::new(403, text));
    }
    Ok(())
}

fn note(claim: Claim, node: &NodeName, is_admitted: bool) {
    let noted = if is_admitted {
        claim.keep(node)
    } else {
        claim.give_back()
    };
    if let Err(failure) = noted {
        tracing::warn!("a join token is used up: {failure}");
    }
}

fn refused(refused: TokenRefused) -> ApiError {
    match refused {
        TokenRefused::Failed(text) => ApiError::new(500, text),
        refused => ApiError::new(401, refused.to_string()),
    }
}

fn is_online(host: &Host, node: &NodeName) -> Result<bool, ApiError> {
    Ok(pve::members(&host.paths)?.is_online(node.as_str()))
}
