//! What a node needs to know to join: the JSON of the API, and the one line that people carry; and
//! what it gets when it is let in.
//!
//! Both directions of both forms are here. The line is base64 of a JSON object, as the web interface
//! of the original shows and takes it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use corosync_lite::config::{Document, Section};
use serde_json::{Map, Value, json};

use crate::cert::fingerprint;
use crate::failure::{Failure, Outcome};
use crate::host::{Host, Paths, files, pve, resolve};
use crate::value::{Fingerprint, LINK_MAX, is_address};

/// `corosync.conf` as the API shows it: sections as objects, each value as text.
#[derive(Clone, Debug)]
pub struct ConfView {
    document: Document,
    digest: String,
}

/// What the one line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinInfo {
    /// A member: where its API is.
    pub address: String,
    /// Of the member's certificate.
    pub fingerprint: Fingerprint,
    /// Name of the cluster, if it says.
    pub cluster_name: Option<String>,
    /// Where that member is on each link of the cluster.
    pub peer_links: BTreeMap<u8, String>,
}

/// A text that is no join information.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no join information: {0}; copy all of the line that 'pvecm join-info --base64' shows"
)]
pub struct NotJoinInfo(&'static str);

/// What the joining node gets.
#[derive(Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The key of the messaging daemon.
    pub authkey: Vec<u8>,
    /// The configuration with the new node in it.
    pub conf: Vec<u8>,
    /// What works, but asks for trouble.
    pub warnings: Vec<String>,
}

impl std::fmt::Debug for Admitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admitted")
            .field("conf", &String::from_utf8_lossy(&self.conf))
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

impl ConfView {
    /// The cluster's configuration; nothing if the node is in no cluster.
    ///
    /// # Errors
    /// When it can not be read or parsed.
    pub fn read(paths: &Paths) -> Outcome<Option<Self>> {
        let path = paths.cluster_conf();
        let Some(text) = files::read(&path)? else {
            return Ok(None);
        };
        let document = Document::parse(&text);
        let document = document.map_err(|error| {
            Failure::failed(format!("'{}' can not be used: {error}", path.display()))
        })?;
        let digest = openssl::hash::hash(openssl::hash::MessageDigest::sha1(), &text);
        let digest = digest.map_err(|error| Failure::failed(format!("no digest: {error}")))?;
        Ok(Some(Self {
            document,
            digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        }))
    }

    /// The nodes by name, each an object of its keys.
    #[must_use]
    pub fn nodes(&self) -> BTreeMap<String, Map<String, Value>> {
        let lists = self.document.root().named("nodelist");
        let nodes = lists.flat_map(|list| list.named("node"));
        nodes
            .filter_map(|node| {
                let name = node.value("name").or_else(|| node.value("ring0_addr"))?;
                let mut object = items(node);
                object.insert("name".to_owned(), name.into());
                Some((name.to_owned(), object))
            })
            .collect()
    }

    /// Section `totem`, with its interfaces by number.
    #[must_use]
    pub fn totem(&self) -> Map<String, Value> {
        let mut totem = Map::new();
        let mut interfaces = Map::new();
        for section in self.document.root().named("totem") {
            totem.extend(items(section));
            for interface in section.named("interface") {
                let number = interface.value("linknumber");
                let number = number.or_else(|| interface.value("ringnumber"));
                let number = number.unwrap_or("0").to_owned();
                interfaces.insert(number, items(interface).into());
            }
        }
        if !interfaces.is_empty() {
            totem.insert("interface".to_owned(), interfaces.into());
        }
        totem
    }
}

fn items(section: &Section) -> Map<String, Value> {
    let item = |item: &corosync_lite::config::Item| (item.key().to_owned(), item.value().into());
    section.items().map(item).collect()
}

/// The JSON of the API: what one needs to join over the member `preferred`.
///
/// # Errors
/// When the cluster's files can not be read, or there is no such member.
pub fn join_info(host: &Host, conf: &ConfView, preferred: &str) -> Outcome<Value> {
    let mut nodes = conf.nodes();
    if !nodes.contains_key(preferred) {
        return Err(Failure::refused(format!("unknown node '{preferred}'")));
    }
    let members = pve::members(&host.paths)?;
    for (name, node) in &mut nodes {
        let told = members.nodelist.get(name).and_then(|member| member.ip);
        if let Some(address) = told.or_else(|| address_of(name)) {
            node.insert("pve_addr".to_owned(), address.to_string().into());
        }
        match fingerprint(host, name) {
            Ok(found) => {
                node.insert("pve_fp".to_owned(), found.to_string().into());
            }
            // Without that of the member itself nobody can join; the others need not be up.
            Err(failure) if name == preferred => return Err(failure),
            Err(_) => {}
        }
    }
    Ok(json!({
        "nodelist": nodes.into_values().collect::<Vec<_>>(),
        "preferred_node": preferred,
        "totem": conf.totem(),
        "config_digest": conf.digest,
    }))
}

/// The one line, made of the JSON of the API.
///
/// # Errors
/// When the preferred node's entry lacks its address or fingerprint.
pub fn line(info: &Value) -> Outcome<String> {
    let nodes = info["nodelist"].as_array().map_or(&[][..], Vec::as_slice);
    let node = nodes
        .iter()
        .find(|node| node["name"] == info["preferred_node"]);
    let text = |key: &str| node.and_then(|node| node.get(key)).and_then(Value::as_str);
    let (Some(address), Some(fingerprint)) = (text("pve_addr"), text("pve_fp")) else {
        return Err(Failure::failed(
            "the address or the certificate of this node is not known to the cluster: run \
             'pvecm updatecerts' and see 'pvecm status'",
        ));
    };
    let links = (0..=LINK_MAX).filter_map(|link| {
        let address = text(&format!("ring{link}_addr"))?;
        Some((link.to_string(), Value::from(address)))
    });
    let links: Map<String, Value> = links.collect();
    let addresses: Vec<Value> = links.values().cloned().collect();
    // Written piece by piece: the order of the keys is that of the original.
    let text = format!(
        r#"{{"ipAddress":{},"fingerprint":{},"peerLinks":{},"ring_addr":{},"totem":{}}}"#,
        Value::from(address),
        Value::from(fingerprint),
        Value::from(links),
        Value::from(addresses),
        info["totem"],
    );
    Ok(BASE64.encode(text))
}

impl std::str::FromStr for JoinInfo {
    type Err = NotJoinInfo;

    fn from_str(text: &str) -> Result<Self, NotJoinInfo> {
        // Terminals and mail programs break long lines.
        let packed: String = text.split_whitespace().collect();
        let json = BASE64.decode(packed);
        let json = json.map_err(|_| NotJoinInfo("it is not base64"))?;
        let value: Value =
            serde_json::from_slice(&json).map_err(|_| NotJoinInfo("there is no JSON in it"))?;
        let totem = value.get("totem").and_then(Value::as_object);
        let totem = totem.ok_or(NotJoinInfo("'totem' is missing"))?;
        let address = value.get("ipAddress").and_then(Value::as_str);
        let address = address.filter(|address| is_address(address));
        let address = address.ok_or(NotJoinInfo("'ipAddress' is missing"))?;
        let fingerprint = value.get("fingerprint").and_then(Value::as_str);
        let fingerprint = fingerprint.and_then(|text| text.parse().ok());
        let links = value.get("peerLinks").and_then(Value::as_object);
        let links = links.into_iter().flatten().filter_map(|(link, address)| {
            let link = link.parse().ok().filter(|link| *link <= LINK_MAX)?;
            Some((link, address.as_str()?.to_owned()))
        });
        Ok(Self {
            address: address.to_owned(),
            fingerprint: fingerprint.ok_or(NotJoinInfo("'fingerprint' is missing"))?,
            cluster_name: totem
                .get("cluster_name")
                .and_then(Value::as_str)
                .map(str::to_owned),
            peer_links: links.collect(),
        })
    }
}

/// Address of a node that has not told the cluster file system where it is.
fn address_of(name: &str) -> Option<IpAddr> {
    let found = resolve(name).ok()?;
    found.into_iter().find(|ip| !ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    use proptest::prelude::*;

    use crate::host::test_node::test_node;

    const CONF: &str = "totem {\n  cluster_name: lab\n  config_version: 3\n  interface {\n    \
                        linknumber: 0\n  }\n  interface {\n    linknumber: 1\n    \
                        knet_link_priority: 7\n  }\n}\nnodelist {\n  node {\n    name: n1\n    \
                        nodeid: 1\n    quorum_votes: 1\n    ring0_addr: 10.0.0.1\n    ring1_addr: \
                        10.0.1.1\n  }\n}\n";

    fn host() -> (tempfile::TempDir, Host) {
        let (directory, host) = test_node("n1", &["etc/pve/nodes/n1"]);
        fs::write(host.paths.cluster_conf(), CONF).unwrap();
        let members = r#"{"nodename":"n1","version":1,"cluster":{"name":"lab","version":3,"nodes":1,"quorate":1},"nodelist":{"n1":{"id":1,"online":1,"ip":"10.0.0.1"}}}"#;
        fs::write(host.paths.pve(".members"), members).unwrap();
        (directory, host)
    }

    fn certificate() -> openssl::x509::X509 {
        use openssl::pkey::PKey;
        let key = PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
        let mut builder = openssl::x509::X509::builder().unwrap();
        builder.set_pubkey(&key).unwrap();
        let day = |days| openssl::asn1::Asn1Time::days_from_now(days).unwrap();
        builder.set_not_before(&day(0)).unwrap();
        builder.set_not_after(&day(9)).unwrap();
        builder
            .sign(&key, openssl::hash::MessageDigest::sha256())
            .unwrap();
        builder.build()
    }

    #[test]
    fn both_forms_say_where_and_by_what_a_member_is_known() {
        let (_directory, host) = host();
        let certificate = certificate();
        let path = host.paths.node("n1", "pve-ssl.pem");
        fs::write(path, certificate.to_pem().unwrap()).unwrap();
        let shown = fingerprint(&host, "n1").unwrap();
        let conf = ConfView::read(&host.paths).unwrap().unwrap();
        let info = join_info(&host, &conf, "n1").unwrap();
        assert_eq!(info["preferred_node"], "n1");
        assert_eq!(info["nodelist"][0]["pve_addr"], "10.0.0.1");
        assert_eq!(info["nodelist"][0]["pve_fp"], shown.to_string());
        assert_eq!(info["nodelist"][0]["quorum_votes"], "1");
        assert_eq!(info["totem"]["interface"]["1"]["knet_link_priority"], "7");
        assert_eq!(info["totem"]["config_version"], "3");
        assert_eq!(info["config_digest"].as_str().unwrap().len(), 40);

        let line = line(&info).unwrap();
        let json = String::from_utf8(BASE64.decode(&line).unwrap()).unwrap();
        let order = [
            "ipAddress",
            "fingerprint",
            "peerLinks",
            "ring_addr",
            "totem",
        ];
        let places = order.map(|key| json.find(&format!("\"{key}\":")).unwrap());
        assert!(places.is_sorted(), "{json}");
        let read: JoinInfo = format!("{}\n{}", &line[..40], &line[40..]).parse().unwrap();
        assert_eq!(read.address, "10.0.0.1");
        assert_eq!(read.fingerprint, shown);
        assert_eq!(read.cluster_name.as_deref(), Some("lab"));
        assert_eq!(read.peer_links[&1], "10.0.1.1");

        let unknown = join_info(&host, &conf, "n9").unwrap_err();
        assert_eq!(unknown.to_string(), "unknown node 'n9'");
    }

    #[test]
    fn a_member_without_a_certificate_gives_no_information() {
        let (_directory, host) = host();
        let conf = ConfView::read(&host.paths).unwrap().unwrap();
        let text = join_info(&host, &conf, "n1").unwrap_err().to_string();
        assert!(text.contains("updatecerts"), "{text}");
    }

    #[test]
    fn texts_that_are_no_information_are_refused() {
        let read = |text: &str| BASE64.encode(text).parse::<JoinInfo>().unwrap_err().0;
        assert_eq!("!".parse::<JoinInfo>().unwrap_err().0, "it is not base64");
        assert_eq!(read("x"), "there is no JSON in it");
        assert_eq!(read("{}"), "'totem' is missing");
        assert_eq!(read(r#"{"totem":{}}"#), "'ipAddress' is missing");
        let text = r#"{"totem":{},"ipAddress":"10.0.0.1"}"#;
        assert_eq!(read(text), "'fingerprint' is missing");
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in ".*") {
            drop(text.parse::<JoinInfo>());
            drop(BASE64.encode(text).parse::<JoinInfo>());
        }
    }
}
