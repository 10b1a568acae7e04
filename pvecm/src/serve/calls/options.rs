//! `datacenter.cfg`: what goes for the whole cluster.

use std::ops::Range;

use serde_json::Value;

use super::super::answer::ApiError;
use super::super::params::Params;
use crate::host::{Host, Paths, files};

/// Guests get numbers from here on.
const LOWER: u32 = 100;
/// And below this one.
const UPPER: u32 = 1_000_000;

pub fn show(_host: &Host, params: Params) -> Result<Value, ApiError> {
    params.finish()?;
    Ok(Value::Null)
}

pub fn change(_host: &Host, params: Params) -> Result<Value, ApiError> {
    params.finish()?;
    Ok(Value::Null)
}

/// Numbers for new guests.
pub fn next_id(paths: &Paths) -> Result<Range<u32>, ApiError> {
    let text = files::read(&paths.pve("datacenter.cfg"))?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut range = LOWER..UPPER;
    let values = text
        .lines()
        .filter_map(|line| line.strip_prefix("next-id:"));
    for part in values.flat_map(|value| value.trim().split(',')) {
        match part.split_once('=') {
            Some(("lower", number)) => range.start = number.parse().unwrap_or(LOWER),
            Some(("upper", number)) => range.end = number.parse().unwrap_or(UPPER),
            _ => {}
        }
    }
    Ok(range)
}
