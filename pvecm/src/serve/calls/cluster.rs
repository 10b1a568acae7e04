//! Calls below `/cluster`: its state, and numbers of guests.

use serde_json::{Value, json};

use super::super::answer::ApiError;
use super::super::params::Params;
use crate::host::{Host, pve};
use crate::verb::nextid::taken;

/// Numbers of guests, as far as tools take them.
const GUEST_IDS: std::ops::RangeInclusive<u32> = 100..=999_999_999;

pub fn status(host: &Host, params: Params) -> Result<Value, ApiError> {
    params.finish()?;
    let members = pve::members(&host.paths)?;
    let Some(cluster) = members.cluster else {
        let address = host.address().map(|address| address.to_string());
        return Ok(json!([{
            "type": "node",
            "id": format!("node/{}", host.name),
            "name": host.name.as_str(),
            "ip": address.ok(),
            "local": 1,
            "nodeid": 0,
            "online": 1,
            "level": "",
        }]));
    };
    let mut entries = vec![json!({
        "type": "cluster",
        "id": "cluster",
        "name": cluster.name,
        "version": cluster.version,
        "nodes": cluster.nodes,
        "quorate": cluster.quorate,
    })];
    for (name, member) in members.nodelist {
        let mut entry = json!({
            "type": "node",
            "id": format!("node/{name}"),
            "nodeid": member.id,
            "local": u8::from(name == host.name.as_str()),
            "online": member.online,
            "level": "",
            "name": name,
        });
        if let Some(address) = member.ip {
            entry["ip"] = address.to_string().into();
        }
        entries.push(entry);
    }
    Ok(entries.into())
}

pub fn nextid(host: &Host, mut params: Params) -> Result<Value, ApiError> {
    let wanted = params.integer("vmid", GUEST_IDS);
    params.finish()?;
    let guests = pve::guests(&host.paths)?;
    if let Some(id) = wanted {
        if let Some(guest) = guests.get(&id) {
            return Err(ApiError::parameter("vmid", taken(host, id, guest)));
        }
        // The original gives it back as it came: as text.
        return Ok(id.to_string().into());
    }
    let range = super::options::next_id(&host.paths)?;
    let (lower, upper) = (range.start, range.end);
    let free = range.into_iter().find(|id| !guests.contains_key(id));
    // Text here as well: that is what its clients get.
    free.map(|id| id.to_string().into()).ok_or_else(|| {
        ApiError::new(
            500,
            format!("unable to get any free VMID in range [{lower}, {upper}]"),
        )
    })
}
