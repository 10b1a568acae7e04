//! Tests of quorum: configurations as text, and the cores of whole clusters.

mod captures;
mod conversations;
mod device;
mod net;
mod options;
mod simulated;

use std::fmt::Write;
use std::net::IpAddr;

use crate::config::{Config, Host};

/// A machine that is node `id` of the list.
struct Machine(u32);

impl Host for Machine {
    fn name(&self) -> String {
        format!("n{}", self.0)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        vec![IpAddr::from([10, 77, 0, u8::try_from(self.0).unwrap()])]
    }

    fn read_key(&self, _path: &str) -> Result<Vec<u8>, String> {
        Ok(vec![7; 256])
    }
}

/// Nodes with their votes, and the lines of the section `quorum`.
#[derive(Clone, Debug)]
struct Setup {
    votes: Vec<u32>,
    quorum: String,
}

impl Setup {
    /// Nodes 1 to `nodes` with one vote each.
    fn new(nodes: usize, options: &[&str]) -> Self {
        Self::weighted(&vec![1; nodes], options)
    }

    fn weighted(votes: &[u32], options: &[&str]) -> Self {
        Self {
            votes: votes.to_vec(),
            quorum: format!("provider: corosync_votequorum\n{}\n", options.join("\n")),
        }
    }

    fn without_provider(nodes: usize) -> Self {
        Self {
            votes: vec![1; nodes],
            quorum: String::new(),
        }
    }

    /// What node `id` reads.
    fn config(&self, id: u32) -> Config {
        let mut text = "totem {\nversion: 2\ncluster_name: t\n}\nnodelist {\n".to_owned();
        for (index, votes) in self.votes.iter().enumerate() {
            let node = index + 1;
            writeln!(
                text,
                "node {{\nname: n{node}\nnodeid: {node}\nring0_addr: 10.77.0.{node}\nquorum_votes: {votes}\n}}"
            )
            .unwrap();
        }
        write!(text, "}}\nquorum {{\n{}}}\n", self.quorum).unwrap();
        Config::read(text.as_bytes(), &Machine(id)).expect("a good configuration")
    }
}
