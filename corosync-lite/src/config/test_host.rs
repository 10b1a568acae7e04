//! The machine that the captured cases were made on: `n1`, 10.77.0.1.

use std::net::IpAddr;

use super::host::Host;

pub(crate) struct TestHost;

impl Host for TestHost {
    fn name(&self) -> String {
        "n1".to_owned()
    }

    fn addresses(&self) -> Vec<IpAddr> {
        ["127.0.0.1", "10.77.0.1", "10.77.1.1"]
            .map(|text| text.parse().unwrap())
            .to_vec()
    }

    fn resolve(&self, name: &str) -> Vec<IpAddr> {
        let known = if name == "host-two" {
            "10.77.0.2"
        } else {
            name
        };
        known.parse().into_iter().collect()
    }

    fn user_id(&self, name: &str) -> Option<u32> {
        (name == "hacluster").then_some(189)
    }

    fn group_id(&self, name: &str) -> Option<u32> {
        (name == "haclient").then_some(189)
    }

    fn read_key(&self, path: &str) -> Result<Vec<u8>, String> {
        match path {
            "DIR/key127" => Ok(vec![7; 127]),
            "DIR/key128" => Ok(vec![7; 128]),
            "/etc/corosync/authkey" | "other" => Ok(vec![path.len().try_into().unwrap(); 256]),
            _ => Err("No such file or directory".to_owned()),
        }
    }
}
