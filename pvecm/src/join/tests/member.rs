//! A member that answers over TLS as the original does.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::ssl::{SslAcceptor, SslMethod};
use openssl::x509::{X509, X509NameBuilder};

use crate::join::version::OWN;
use crate::value::Fingerprint;

pub const PASSWORD: &str = "open sesame & more";
pub const TOKEN: &str = "PVEJoinToken=0011:good";
pub const TICKET: &str = "PVE:root@pam:6A:: +/=";

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub line: String,
    pub headers: Vec<String>,
    pub body: String,
}

impl Seen {
    pub fn has_header(&self, wanted: &str) -> bool {
        self.headers
            .iter()
            .any(|header| header.eq_ignore_ascii_case(wanted))
    }
}

/// An answer: status with its words, and the body.
pub type Answer = (String, String);
type Script = dyn Fn(&Seen) -> Option<Answer> + Send + Sync;

pub struct Member {
    pub port: u16,
    pub fingerprint: Fingerprint,
    pub seen: Arc<Mutex<Vec<Seen>>>,
}

impl Member {
    /// Answers as a healthy member, but for what `script` answers.
    pub fn start(script: impl Fn(&Seen) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let (certificate, key) = certificate();
        let digest = certificate.digest(MessageDigest::sha256()).unwrap();
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
        acceptor.set_certificate(&certificate).unwrap();
        acceptor.set_private_key(&key).unwrap();
        let acceptor = acceptor.build();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let script: Arc<Script> = Arc::new(script);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Ok(stream) = acceptor.accept(stream) {
                    serve(stream, &log, &*script);
                }
            }
        });
        Self {
            port,
            fingerprint: Fingerprint::new(digest.as_ref().try_into().unwrap()),
            seen,
        }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

pub fn certificate() -> (X509, PKey<openssl::pkey::Private>) {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "n1.example.com").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder
        .set_not_before(&Asn1Time::days_from_now(0).unwrap())
        .unwrap();
    builder
        .set_not_after(&Asn1Time::days_from_now(9).unwrap())
        .unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    (builder.build(), key)
}

fn serve(
    stream: openssl::ssl::SslStream<std::net::TcpStream>,
    log: &Mutex<Vec<Seen>>,
    script: &Script,
) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let mut headers = Vec::new();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let header = header.trim_end().to_owned();
        if header.is_empty() {
            break;
        }
        if let Some(text) = header.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = text.parse().unwrap();
        }
        headers.push(header);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let seen = Seen {
        line: line.trim_end().replace(" HTTP/1.1", ""),
        headers,
        body: String::from_utf8(body).unwrap(),
    };
    let (status, body) = script(&seen).unwrap_or_else(|| usual(&seen));
    log.lock().unwrap().push(seen);
    let date = httpdate();
    let mut answer = format!("HTTP/1.1 {status}\r\n");
    if !body.contains("no date") {
        answer += &format!("Date: {date}\r\n");
    }
    answer += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let stream = reader.get_mut();
    // A client that has gone does not read it.
    if stream.write_all(answer.as_bytes()).is_ok() {
        drop(stream.shutdown());
    }
}

/// Now, as HTTP writes it; this is what the machine's own tool says.
fn httpdate() -> String {
    let output = std::process::Command::new("date")
        .args(["-u", "+%a, %d %b %Y %H:%M:%S GMT"])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub fn ok(data: &str) -> Answer {
    ("200 OK".to_owned(), format!("{{\"data\":{data}}}"))
}

pub fn no(status: &str) -> Answer {
    (status.to_owned(), r#"{"data":null}"#.to_owned())
}

fn usual(seen: &Seen) -> Answer {
    let cookie = "Cookie: PVEAuthCookie=PVE%3Aroot%40pam%3A6A%3A%3A%20%2B%2F%3D";
    let is_token = seen.has_header(&format!("Authorization: {TOKEN}"));
    let is_root = seen.has_header(cookie) || is_token;
    let is_write = !seen.line.starts_with("GET");
    let is_safe = is_token || !is_write || seen.has_header("CSRFPreventionToken: 6A:mac");
    match seen.line.as_str() {
        "POST /api2/json/access/ticket" => {
            let right = "username=root%40pam&password=open%20sesame%20%26%20more";
            if seen.body == right {
                ok(&format!(
                    r#"{{"username":"root@pam","ticket":"{TICKET}","CSRFPreventionToken":"6A:mac"}}"#
                ))
            } else {
                no("401 authentication failure")
            }
        }
        _ if !is_root => no("401 No ticket"),
        _ if !is_safe => no("401 Permission denied - invalid csrf token"),
        "GET /api2/json/version" => ok(&format!(r#"{{"version":"{OWN}","program":"pvecm"}}"#)),
        "GET /api2/json/cluster/config/apiversion" => ok("1"),
        "GET /api2/json/cluster/config/join" => ok(
            r#"{"nodelist":[{"name":"n1","nodeid":"1","quorum_votes":"1","ring0_addr":"10.77.0.1","pve_addr":"10.77.0.1","pve_fp":"x"}],"preferred_node":"n1","totem":{"cluster_name":"lab","version":"2"},"config_digest":"0"}"#,
        ),
        "GET /api2/json/cluster/status" => ok(
            r#"[{"type":"cluster","id":"cluster","name":"lab","version":1,"nodes":1,"quorate":1},{"type":"node","id":"node/n1","name":"n1","nodeid":1,"local":1,"online":1,"ip":"10.77.0.1","level":""}]"#,
        ),
        "GET /api2/json/cluster/config/qdevice" => ok("{}"),
        "POST /api2/json/cluster/config/nodes/n2" => {
            let key: String = (0..=255_u8).map(|byte| format!("\\u{byte:04x}")).collect();
            let conf = super::CONF.replace('\n', "\\n");
            ok(&format!(
                r#"{{"corosync_authkey":"{key}","corosync_conf":"{conf}","warnings":["w"]}}"#
            ))
        }
        "DELETE /api2/json/cluster/config/nodes/n2" => ok("null"),
        other => no(&format!("501 Method '{other}' not implemented")),
    }
}
