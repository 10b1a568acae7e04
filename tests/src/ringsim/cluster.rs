//! The configuration files of the nodes, and the machines that they are read on.

use std::net::{IpAddr, Ipv4Addr};

use corosync_lite::config::{Config, Host};

use super::options::{Options, Transport, Votes};

/// What the file says.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    pub(super) version: u64,
    /// Nodes 1 to this one.
    pub(super) nodes: u32,
    pub(super) links: u8,
    pub(super) token_ms: u64,
    /// Number of the key.
    pub(super) key: u8,
    transport: Transport,
    link_mode: &'static str,
    crypto: Option<(&'static str, &'static str)>,
    totem: String,
    votes: Votes,
}

impl Cluster {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            version: 1,
            nodes: options.nodes,
            links: options.links,
            token_ms: options.token_ms,
            key: 1,
            transport: options.transport,
            link_mode: options.link_mode,
            crypto: options.crypto,
            totem: options.totem.clone(),
            votes: options.votes,
        }
    }

    /// Whether the datagrams are sealed.
    pub(super) fn is_sealed(&self) -> bool {
        self.crypto.is_some()
    }

    /// The file.
    pub(super) fn text(&self) -> String {
        let Self {
            version,
            token_ms,
            totem,
            ..
        } = self;
        let transport = match self.transport {
            Transport::Knet => "knet",
            Transport::Udpu => "udpu",
            Transport::Udp => "udp",
        };
        let mut text = format!(
            "totem {{\nversion: 2\ncluster_name: sim\nconfig_version: {version}\n\
             transport: {transport}\ntoken: {token_ms}\n{totem}"
        );
        if self.transport == Transport::Knet {
            text.push_str(&format!("link_mode: {}\n", self.link_mode));
        }
        if let Some((cipher, hash)) = self.crypto {
            text.push_str(&format!(
                "crypto_cipher: {cipher}\ncrypto_hash: {hash}\nkeyfile: key{}\n",
                self.key
            ));
        }
        text.push_str("}\nnodelist {\n");
        for id in 1..=self.nodes {
            text.push_str(&format!("node {{\nnodeid: {id}\nname: n{id}\n"));
            for link in 0..self.links {
                text.push_str(&format!("ring{link}_addr: {}\n", address(id, link)));
            }
            text.push_str("}\n");
        }
        text.push_str("}\nquorum {\n");
        text.push_str(match self.votes {
            Votes::NoProvider => "",
            Votes::Majority => "provider: corosync_votequorum\n",
            Votes::WaitForAll => "provider: corosync_votequorum\nwait_for_all: 1\n",
            Votes::TieBreaker => "provider: corosync_votequorum\nauto_tie_breaker: 1\n",
            Votes::TwoNode => "provider: corosync_votequorum\ntwo_node: 1\n",
            Votes::LastManStanding => {
                "provider: corosync_votequorum\nlast_man_standing: 1\n\
                 last_man_standing_window: 2000\n"
            }
        });
        text.push_str("}\n");
        text
    }

    /// The file as a node reads it.
    ///
    /// # Panics
    /// When the simulator writes a bad file.
    pub(super) fn config(&self, node: u32) -> Config {
        match Config::read(self.text().as_bytes(), &Machine(node)) {
            Ok(config) => config,
            Err(error) => panic!("{error}\n{}", self.text()),
        }
    }
}

/// The machine of a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine(pub(super) u32);

impl Host for Machine {
    fn name(&self) -> String {
        format!("n{}", self.0)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        (0..8).map(|link| address(self.0, link)).collect()
    }

    fn read_key(&self, path: &str) -> Result<Vec<u8>, String> {
        Ok(vec![path.bytes().last().unwrap_or(0); 256])
    }
}

/// Address of a node on a link.
pub(super) fn address(node: u32, link: u8) -> IpAddr {
    let last = u8::try_from(node).unwrap_or(u8::MAX);
    IpAddr::V4(Ipv4Addr::new(10, 0, link, last))
}

/// Node and link of an address.
pub(super) fn place(address: IpAddr) -> (u32, u8) {
    match address {
        IpAddr::V4(ip) => (u32::from(ip.octets()[3]), ip.octets()[2]),
        IpAddr::V6(_) => (0, 0),
    }
}
