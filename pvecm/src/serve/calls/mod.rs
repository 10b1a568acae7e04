//! What the calls do. They look at files and may wait for locks: each runs on a thread of its own.

mod cluster;
mod config;
mod nodes;
mod options;
mod tasks;

use serde_json::{Value, json};

use super::Server;
use super::answer::{Answer, ApiError, data};
use super::auth::Caller;
use super::params::Params;
use super::routes::Call;
use crate::join::version::{OWN, PROGRAM};

/// Makes a call and answers it.
///
/// # Errors
/// What the caller is to be told.
pub fn run(
    server: &Server,
    caller: &Caller,
    call: Call,
    params: Params,
) -> Result<Answer, ApiError> {
    let host = &server.host;
    let answer = match call {
        // It is answered elsewhere, for it takes its time.
        Call::Login | Call::LoginPage => nothing(params)?,
        Call::Version => version(params)?,
        Call::ConfigIndex => config::index(params)?,
        Call::Create => config::create(server, caller, params)?,
        Call::ApiVersion => config::api_version(params)?,
        Call::Nodes => config::nodes(host, params)?,
        Call::Addnode => nodes::add(server, caller, params)?,
        Call::Delnode => nodes::remove(server, caller, params)?,
        Call::JoinInfo => config::join_info(host, params)?,
        Call::Join => config::join(server, caller, params)?,
        Call::Totem => config::totem(host, params)?,
        Call::Qdevice => config::qdevice(host, params)?,
        Call::Status => cluster::status(host, params)?,
        Call::Nextid => cluster::nextid(host, params)?,
        Call::Options => options::show(host, params)?,
        Call::SetOptions => options::change(host, params)?,
        Call::TaskIndex => tasks::index(params)?,
        Call::TaskStatus => tasks::status(host, params)?,
        Call::TaskLog => return tasks::log(host, params),
    };
    Ok(data(answer))
}

/// What this node runs, in the original's form; a word more tells it from that.
fn version(params: Params) -> Result<Value, ApiError> {
    params.finish()?;
    let release = OWN.rsplit_once('.').map_or(OWN, |(release, _)| release);
    Ok(json!({"version": OWN, "release": release, "repoid": "", "program": PROGRAM}))
}

fn nothing(params: Params) -> Result<Value, ApiError> {
    params.finish()?;
    Ok(Value::Null)
}

/// An index of names.
fn index(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"name": name})).collect()
}
