//! SHELL: the machine that the daemon runs on, as reading a configuration wants to know it.
//!
//! Asks the system each time: addresses and names change while a daemon runs.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::{IpAddr, ToSocketAddrs as _};

use nix::ifaddrs::getifaddrs;
use nix::unistd::{Group, User, gethostname};

use crate::config::Host;

/// This machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThisHost;

impl Host for ThisHost {
    fn name(&self) -> String {
        let name = gethostname().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let Ok(interfaces) = getifaddrs() else {
            return Vec::new();
        };
        let address = |storage: nix::sys::socket::SockaddrStorage| {
            let v4 = storage
                .as_sockaddr_in()
                .map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| {
                storage
                    .as_sockaddr_in6()
                    .map(|address| IpAddr::V6(address.ip()))
            })
        };
        interfaces
            .filter_map(|interface| interface.address.and_then(address))
            .collect()
    }

    /// As `/etc/hosts` has it: where only a name server knows the name, the own node is found by
    /// resolving the listed names instead.
    fn name_of(&self, address: IpAddr) -> Option<String> {
        name_in(&fs::read_to_string("/etc/hosts").ok()?, address)
    }

    fn resolve(&self, name: &str) -> Vec<IpAddr> {
        if let Ok(address) = name.parse() {
            return vec![address];
        }
        let Ok(found) = (name, 0).to_socket_addrs() else {
            return Vec::new();
        };
        found.map(|address| address.ip()).collect()
    }

    fn user_id(&self, name: &str) -> Option<u32> {
        User::from_name(name)
            .ok()
            .flatten()
            .map(|user| user.uid.as_raw())
    }

    fn group_id(&self, name: &str) -> Option<u32> {
        Group::from_name(name)
            .ok()
            .flatten()
            .map(|group| group.gid.as_raw())
    }

    fn read_key(&self, path: &str) -> Result<Vec<u8>, String> {
        let mut key = Vec::new();
        let file = File::open(path);
        let read = file.and_then(|file| file.take(KEY_LEN).read_to_end(&mut key));
        // The system's own words, without the number behind them.
        let words = |error: std::io::Error| match error.raw_os_error() {
            Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
            None => error.to_string(),
        };
        read.map_err(words).map(|_| key)
    }
}

/// Bytes of a key file that count.
const KEY_LEN: u64 = 4096;

/// First name of an address in the text of `/etc/hosts`.
fn name_in(hosts: &str, address: IpAddr) -> Option<String> {
    hosts.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let found: IpAddr = words.next()?.parse().ok()?;
        (found == address)
            .then(|| words.next().map(str::to_owned))
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_hosts_file() {
        let hosts =
            "# 10.0.0.1 no\n127.0.0.1 localhost\n10.0.0.1\tn1.example.com n1 # yes\n::1 six\n";
        let name = |address: &str| name_in(hosts, address.parse().unwrap());
        assert_eq!(name("10.0.0.1").as_deref(), Some("n1.example.com"));
        assert_eq!(name("::1").as_deref(), Some("six"));
        assert_eq!(name("10.0.0.2"), None);
    }

    #[test]
    fn the_machine_answers() {
        assert!(!ThisHost.name().is_empty());
        assert_eq!(
            ThisHost.resolve("10.1.2.3"),
            ["10.1.2.3".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(ThisHost.user_id("root"), Some(0));
        assert_eq!(ThisHost.group_id("no such group here"), None);
        assert_eq!(
            ThisHost.read_key("/nonexistent"),
            Err("No such file or directory".to_owned())
        );
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, [7; 5000]).unwrap();
        assert_eq!(
            ThisHost
                .read_key(path.to_str().unwrap())
                .map(|key| key.len()),
            Ok(4096)
        );
    }
}
