//! A server, and a client that sends what it is told, byte for byte.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode};
use openssl::x509::X509;
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;

use pvecm::cli::Addnode;
use pvecm::failure::{Failure, Outcome};
use pvecm::host::{Host, Paths};
use pvecm::info::Admitted;
use pvecm::serve::task::{self, Upid, Work};
use pvecm::serve::{Actions, Limits, Passwords, Server, serve};
use pvecm::value::{Fingerprint, NodeName};

pub const PASSWORD: &str = "a pass&word=\u{e4}%+";
const CONF: &str = "totem {\n  cluster_name: lab\n  config_version: 1\n  interface {\n    linknumber: \
                    0\n  }\n  secauth: on\n  version: 2\n}\nnodelist {\n  node {\n    name: n1\n    \
                    nodeid: 1\n    quorum_votes: 1\n    ring0_addr: 10.77.0.1\n  }\n}\n";
const MEMBERS: &str = r#"{"nodename":"n1","version":3,"cluster":{"name":"lab","version":1,"nodes":2,"quorate":1},"nodelist":{"n1":{"id":1,"online":1,"ip":"10.77.0.1"},"n2":{"id":2,"online":0}}}"#;
const GUESTS: &str = r#"{"version":1,"ids":{"100":{"node":"n1","type":"qemu","version":1}}}"#;

/// What is awaited comes long before.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn limits() -> Limits {
    Limits {
        connections: 24,
        connections_of_one: 12,
        failed_login: Duration::from_millis(100),
        ..Limits::default()
    }
}

/// Of a server that waits for nobody for long: a busy machine can be slower than that, too.
pub fn hasty() -> Limits {
    let short = Duration::from_secs(2);
    Limits {
        handshake: short,
        header: short,
        body: short,
        ..limits()
    }
}

struct OnePassword;

impl Passwords for OnePassword {
    fn check(&self, user: &str, password: &str, _: IpAddr) -> Result<(), String> {
        if user == "root" && password == PASSWORD {
            Ok(())
        } else {
            Err("wrong".to_owned())
        }
    }
}

struct Recorded {
    host: Host,
    /// That node `slow` is being admitted is told, and the answer held until it is asked for.
    begun: Mutex<Sender<()>>,
    go_on: Mutex<Receiver<()>>,
}

impl Actions for Recorded {
    fn admit(&self, joiner: &Addnode) -> Outcome<Admitted> {
        match joiner.node.as_str() {
            "refused" => return Err(Failure::refused("can't add existing node 'refused'")),
            "panics" => panic!("on purpose"),
            "slow" => {
                self.begun.lock().unwrap().send(()).unwrap();
                let go_on = self.go_on.lock().unwrap();
                go_on.recv_timeout(PATIENCE).unwrap();
            }
            _ => {}
        }
        Ok(Admitted {
            authkey: (0..=255).collect(),
            conf: format!("{joiner:?}").into_bytes(),
            warnings: vec!["odd".to_owned()],
        })
    }

    fn remove(&self, node: &NodeName) -> Outcome {
        match node.as_str() {
            "n2" | "n3" => Ok(()),
            _ => Err(Failure::refused(format!(
                "Node/IP: {node} is not a known host of the cluster."
            ))),
        }
    }

    fn start(&self, work: Work) -> Outcome<Upid> {
        task::start(&self.host, Path::new("/bin/echo"), work)
    }
}

/// A running server.
pub struct Api {
    pub host: Host,
    pub address: SocketAddr,
    _directory: tempfile::TempDir,
    end: Mutex<Option<oneshot::Sender<()>>>,
    slow_begun: Mutex<Receiver<()>>,
    slow_goes_on: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Api {
    pub fn start() -> Self {
        Self::start_with(limits())
    }

    /// Writes a node into the cluster's configuration.
    pub fn enter(&self, name: &str) {
        let entry = format!(
            "  node {{\n    name: {name}\n    nodeid: 3\n    ring0_addr: 10.77.0.3\n  }}\n}}\n"
        );
        let nodes = CONF.strip_suffix("}\n").unwrap();
        fs::write(self.host.paths.cluster_conf(), format!("{nodes}{entry}")).unwrap();
    }

    pub fn start_with(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = Host {
            paths: Paths::below(directory.path()),
            name: "n1".parse().unwrap(),
        };
        set_up(&host);
        let (begun, slow_begun) = channel();
        let (slow_goes_on, go_on) = channel();
        let actions = Box::new(Recorded {
            host: host.clone(),
            begun: Mutex::new(begun),
            go_on: Mutex::new(go_on),
        });
        let server = Server::new(&host, limits, Box::new(OnePassword), actions).unwrap();
        let (end, ended) = oneshot::channel::<()>();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                let end = async {
                    ended.await.ok();
                };
                serve(Arc::new(server), listener, end).await.unwrap();
            });
        });
        Self {
            host,
            address: told.recv().unwrap(),
            _directory: directory,
            end: Mutex::new(Some(end)),
            slow_begun: Mutex::new(slow_begun),
            slow_goes_on,
            thread: Some(thread),
        }
    }

    /// Waits until node `slow` is being admitted.
    pub fn await_slow(&self) {
        let begun = self.slow_begun.lock().unwrap();
        begun.recv_timeout(PATIENCE).unwrap();
    }

    /// Lets it be admitted.
    pub fn release_slow(&self) {
        self.slow_goes_on.send(()).unwrap();
    }

    /// Asks it to end.
    pub fn ask_to_end(&self) {
        let end = self.end.lock().unwrap().take();
        end.unwrap().send(()).unwrap();
    }

    pub fn await_end(&mut self) {
        self.thread.take().unwrap().join().unwrap();
    }

    pub fn connect(&self) -> SslStream<TcpStream> {
        self.connect_from("127.0.0.1").unwrap()
    }

    /// Connects from one of this machine's own addresses.
    pub fn connect_from(&self, from: &str) -> Result<SslStream<TcpStream>, String> {
        let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
        builder.set_verify(SslVerifyMode::NONE);
        let stream = self.tcp_from(from);
        let connected = builder.build().connect("n1", stream);
        connected.map_err(|error| error.to_string())
    }

    pub fn tcp_from(&self, from: &str) -> TcpStream {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let stream = runtime.block_on(async {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
            socket.connect(self.address).await.unwrap()
        });
        let stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes and reads until the other side closes.
    pub fn raw(&self, request: &[u8]) -> Reply {
        let mut stream = self.connect();
        stream.write_all(request).ok();
        Reply::read(&mut stream)
    }

    pub fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        self.send_from("127.0.0.1", method, path, headers, body)
    }

    pub fn send_from(
        &self,
        from: &str,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Reply {
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let request = format!(
            "{method} /api2/json{path} HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n{length}{headers}\r\n{body}"
        );
        let mut stream = self.connect_from(from).unwrap();
        // A request that is refused is answered before all of it is read.
        stream.write_all(request.as_bytes()).ok();
        Reply::read(&mut stream)
    }

    /// Logs in; the headers that show it.
    pub fn login(&self) -> String {
        let reply = self.send("POST", "/access/ticket", "", &login_form(PASSWORD));
        assert_eq!(reply.status, 200, "{reply:?}");
        let data = &reply.body["data"];
        format!(
            "Cookie: PVEAuthCookie={}\r\nCSRFPreventionToken: {}\r\n",
            encode(data["ticket"].as_str().unwrap()),
            data["CSRFPreventionToken"].as_str().unwrap()
        )
    }

    /// Fingerprint of the certificate that it shows.
    pub fn fingerprint(&self) -> Fingerprint {
        let stream = self.connect();
        let certificate = stream.ssl().peer_certificate().unwrap();
        let digest = certificate.digest(MessageDigest::sha256()).unwrap();
        Fingerprint::new((&*digest).try_into().unwrap())
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        if let Ok(mut end) = self.end.lock() {
            end.take();
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the server has panicked");
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub reason: String,
    pub headers: String,
    pub body: Value,
}

impl Reply {
    /// Reads to the end; status 0 if there was no answer.
    pub fn read(stream: &mut SslStream<TcpStream>) -> Self {
        let mut bytes = Vec::new();
        // The end without a farewell is an end too.
        stream.read_to_end(&mut bytes).ok();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let (line, headers) = head.split_once("\r\n").unwrap_or((head, ""));
        let mut words = line.splitn(3, ' ').skip(1);
        Self {
            status: words.next().map_or(0, |status| status.parse().unwrap()),
            reason: words.next().unwrap_or_default().to_owned(),
            headers: headers.to_ascii_lowercase(),
            body: serde_json::from_str(body).unwrap_or(Value::Null),
        }
    }
}

pub fn login_form(password: &str) -> String {
    format!("username=root%40pam&password={}", encode(password))
}

pub fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

pub fn new_key() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap()
}

/// Writes a new certificate and key of the node.
pub fn write_certificate(host: &Host, name: &str) -> Fingerprint {
    let key = new_key();
    let mut builder = X509::builder().unwrap();
    builder.set_pubkey(&key).unwrap();
    builder
        .set_not_before(&Asn1Time::days_from_now(0).unwrap())
        .unwrap();
    builder
        .set_not_after(&Asn1Time::days_from_now(9).unwrap())
        .unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    let certificate = builder.build();
    let pem = key.private_key_to_pem_pkcs8().unwrap();
    fs::write(host.paths.node("n1", format!("{name}.key")), pem).unwrap();
    let pem = certificate.to_pem().unwrap();
    fs::write(host.paths.node("n1", format!("{name}.pem")), pem).unwrap();
    let digest = certificate.digest(MessageDigest::sha256()).unwrap();
    Fingerprint::new((&*digest).try_into().unwrap())
}

fn set_up(host: &Host) {
    let pve = |path: &str| host.paths.pve(path);
    fs::create_dir_all(pve("priv/lock")).unwrap();
    fs::create_dir_all(host.paths.node("n1", "")).unwrap();
    std::os::unix::fs::symlink("nodes/n1", pve("local")).unwrap();
    write_certificate(host, "pve-ssl");
    let key = new_key();
    let private = key.private_key_to_pem_pkcs8().unwrap();
    fs::write(pve("priv/authkey.key"), &private).unwrap();
    fs::write(pve("authkey.pub"), key.public_key_to_pem().unwrap()).unwrap();
    fs::write(pve("pve-www.key"), &private).unwrap();
    fs::write(pve("corosync.conf"), CONF).unwrap();
    fs::write(pve(".members"), MEMBERS).unwrap();
    fs::write(pve(".vmlist"), GUESTS).unwrap();
}
