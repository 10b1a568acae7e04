//! What the daemon has to know about the host it runs on.

use std::net::{IpAddr, ToSocketAddrs as _};

use anyhow::{Context as _, Result, bail};
use nix::unistd::{Gid, Group};

/// Name of this node: the host name up to its first dot.
///
/// # Errors
/// When the host has no usable name.
pub fn name() -> Result<String> {
    let uname = nix::sys::utsname::uname().context("unable to read the host name")?;
    let host = uname
        .nodename()
        .to_str()
        .context("the host name is not valid UTF-8")?;
    let name = host.split('.').next().unwrap_or_default();
    if name.is_empty() {
        bail!("this host has no name: set one with 'hostnamectl set-hostname NAME'");
    }
    Ok(name.to_owned())
}

/// First address of the node that other nodes can reach, as the system resolver orders them.
///
/// # Errors
/// When the name resolves to nothing but loopback addresses.
pub fn address(name: &str) -> Result<IpAddr> {
    let found = (name, 0).to_socket_addrs();
    let usable = found
        .into_iter()
        .flatten()
        .map(|address| address.ip())
        .find(|ip| match ip {
            IpAddr::V4(ip) => !ip.is_loopback(),
            IpAddr::V6(ip) => !ip.is_loopback(),
        });
    usable.with_context(|| {
        format!(
            "Unable to resolve node name '{name}' to a non-loopback IP address - missing entry \
             in '/etc/hosts' or DNS?"
        )
    })
}

/// Id of the group that owns the files.
///
/// # Errors
/// When there is no such group.
pub fn group_id(name: &str) -> Result<Gid> {
    let group =
        Group::from_name(name).with_context(|| format!("unable to look up group {name}"))?;
    let group = group.with_context(|| {
        format!("Unable to get {name} group ID - make it with 'groupadd --system {name}'")
    })?;
    Ok(group.gid)
}
