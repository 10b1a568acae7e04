//! Requests that are not meant well.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use openssl::ssl::{SslConnector, SslMethod, SslOptions, SslVerifyMode, SslVersion};
use pvecm::host::wait::{now, until};

use crate::support::{Api, Reply, hasty, limits, login_form};

/// The server still does what it is for.
fn assert_alive(api: &Api) {
    let login = api.login();
    assert_eq!(
        api.send("GET", "/cluster/config/apiversion", &login, "")
            .status,
        200
    );
}

#[test]
fn large_headers_are_refused() {
    let api = Api::start();
    let large = format!("X: {}\r\n", "a".repeat(40_000));
    assert_eq!(api.send("GET", "/cluster/status", &large, "").status, 431);
    let many = "X: a\r\n".repeat(100);
    assert_eq!(api.send("GET", "/cluster/status", &many, "").status, 431);
    let long = format!("/{}", "a".repeat(70_000));
    let status = api.send("GET", &long, "", "").status;
    assert!([414, 431].contains(&status), "{status}");
    let endless = api.raw(&b"A".repeat(1_000_000));
    assert!([0, 400, 414, 431].contains(&endless.status), "{endless:?}");
    assert_alive(&api);
}

#[test]
fn large_bodies_are_refused_before_they_are_read() {
    let api = Api::start();
    let head =
        "POST /api2/json/access/ticket HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n";
    assert_eq!(api.raw(head.as_bytes()).status, 413);
    let body = format!("username={}&password=x", "a".repeat(20_000));
    assert_eq!(api.send("POST", "/access/ticket", "", &body).status, 413);
    let login = api.login();
    let body = "a".repeat(600_000);
    let mut stream = api.connect();
    let head = format!(
        "PUT /api2/json/cluster/options HTTP/1.1\r\nHost: x\r\n{login}Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(Reply::read(&mut stream).status, 413);
    // Without a login not a byte of it is wanted.
    let head =
        "PUT /api2/json/cluster/options HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n";
    assert_eq!(api.raw(head.as_bytes()).status, 401);
    assert_alive(&api);
}

#[test]
fn slow_clients_are_let_go() {
    let api = Api::start_with(hasty());
    let patience = Duration::from_secs(15);
    let start = now();
    // Silent before the greeting, before the header, in the header, and in the body.
    let mut silent = api.tcp_from("127.0.0.1");
    let mut greeted = api.connect();
    let mut in_header = api.connect();
    in_header
        .write_all(b"GET /api2/json/x HTTP/1.1\r\nHo")
        .unwrap();
    let mut in_body = api.connect();
    let head =
        "POST /api2/json/access/ticket HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nuser";
    in_body.write_all(head.as_bytes()).unwrap();
    assert_eq!(Reply::read(&mut in_body).status, 408);
    assert!([0, 408].contains(&Reply::read(&mut in_header).status));
    assert_eq!(Reply::read(&mut greeted).status, 0);
    assert_eq!(silent.read(&mut [0; 8]).unwrap_or(0), 0);
    assert!(now() - start < patience, "they held on too long");

    // A byte now and then does not help.
    let mut drip = api.connect();
    let start = now();
    let closed = until(patience, || drip.write_all(b"A").is_err().then_some(()));
    assert!(closed.is_some() && now() - start < patience);
    assert_alive(&api);
}

#[test]
fn what_is_no_tls_or_an_old_one_gets_nothing() {
    let api = Api::start();
    let mut plain = api.tcp_from("127.0.0.1");
    plain
        .write_all(b"GET /api2/json/access/ticket HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut got = Vec::new();
    plain.read_to_end(&mut got).ok();
    assert!(!got.starts_with(b"HTTP"));

    let old = |version| {
        let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
        builder.set_verify(SslVerifyMode::NONE);
        builder.set_security_level(0);
        builder.clear_options(SslOptions::NO_TLSV1 | SslOptions::NO_TLSV1_1);
        builder.set_min_proto_version(Some(version)).unwrap();
        builder.set_max_proto_version(Some(version)).unwrap();
        builder
            .build()
            .connect("n1", api.tcp_from("127.0.0.1"))
            .is_ok()
    };
    assert!(!old(SslVersion::TLS1));
    assert!(!old(SslVersion::TLS1_1));
    assert!(old(SslVersion::TLS1_2));
    assert!(old(SslVersion::TLS1_3));
    assert_alive(&api);
}

#[test]
fn no_client_takes_all_connections() {
    let api = Api::start();
    let limit = limits().connections_of_one;
    let held: Vec<_> = (0..limit).map(|_| api.tcp_from("127.0.0.1")).collect();
    assert!(api.connect_from("127.0.0.1").is_err());
    // Somebody else gets in meanwhile.
    let reply = api.send_from("127.0.0.9", "GET", "/cluster/status", "", "");
    assert_eq!(reply.status, 401);
    drop(held);
    let back = until(Duration::from_secs(20), || {
        api.connect_from("127.0.0.1").ok()
    });
    assert!(back.is_some());
    assert_alive(&api);
}

#[test]
fn odd_requests_get_an_error_and_no_file() {
    let api = Api::start();
    let login = api.login();
    let status = |method: &str, path: &str, headers: &str, body: &str| {
        let reply = api.send(method, path, &format!("{login}{headers}"), body);
        assert!(!reply.body.to_string().contains("root:"), "{reply:?}");
        reply.status
    };
    for path in [
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/cluster/config/nodes/..%2f..%2fetc%2fpasswd",
        "/nodes/n1/tasks/..%2f..%2f..%2fetc%2fpasswd/log",
        "/nodes/n1/tasks/UPID:n1:00000001:00000001:00000001:..%2f..%2fx::root@pam:/log",
        "/nodes/n1/tasks/%00/log",
    ] {
        assert!(status("GET", path, "", "") >= 400, "{path}");
    }
    assert_eq!(status("GET", "/%ff%fe", "", ""), 400);
    assert_eq!(status("GET", "/cluster/nextid?vmid=%ff", "", ""), 400);
    assert_eq!(status("GET", "/cluster/nextid?vmid=1&vmid=2", "", ""), 400);
    assert_eq!(status("GET", "/cluster/nextid?vmid=-1", "", ""), 400);
    assert_eq!(
        status("GET", "/cluster/nextid?vmid=99999999999999999999", "", ""),
        400
    );
    assert_eq!(
        status("GET", "/cluster/config/join?node=..%2f..%2fpriv", "", ""),
        400
    );
    assert_eq!(status("POST", "/cluster/config/nodes/a_b", "", ""), 400);
    assert_eq!(status("POST", "/cluster/config/nodes/..%2fx", "", ""), 501);
    assert_eq!(status("TRACE", "/cluster/status", "", ""), 501);
    assert_eq!(status("OPTIONS", "/cluster/status", "", ""), 501);
    assert_eq!(status("GET", "/cluster/status", "", "a=b"), 501);
    let json = "Content-Type: application/json\r\n";
    assert_eq!(status("PUT", "/cluster/options", json, "[1]"), 400);
    assert_eq!(
        status("PUT", "/cluster/options", json, &"[".repeat(300_000)),
        400
    );
    assert_eq!(
        status("PUT", "/cluster/options", json, r#"{"keyboard":{"a":1}}"#),
        400
    );
    let upload = "Content-Type: multipart/form-data; boundary=x\r\n";
    assert_eq!(status("PUT", "/cluster/options", upload, "x"), 415);
    let newline = "keyboard=de%0aother%3a%20x";
    assert_eq!(status("PUT", "/cluster/options", "", newline), 400);
    let chunked = "Transfer-Encoding: chunked\r\n";
    assert_eq!(status("POST", "/access/ticket", chunked, ""), 501);
    for request in [
        &b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"[..],
        b"GET /etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /api2/jsonx HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /api2/extjs/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ] {
        assert_eq!(api.raw(request).status, 404);
    }
    for request in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ] {
        assert!([0, 400, 505].contains(&api.raw(request).status));
    }
    assert_alive(&api);
}

#[test]
fn a_call_that_panics_ends_nothing_else() {
    let api = Api::start();
    let login = api.login();
    let reply = api.send("POST", "/cluster/config/nodes/panics", &login, "");
    assert_eq!(reply.status, 500);
    assert_alive(&api);
}

#[test]
fn a_crowd_is_served_within_its_limits() {
    let api = Api::start();
    let login = api.login();
    std::thread::scope(|scope| {
        for third in 1..=4 {
            let (api, login) = (&api, &login);
            scope.spawn(move || {
                let from = format!("127.0.{third}.1");
                for _ in 0..20 {
                    let path = "/cluster/config/apiversion";
                    let reply = api.send_from(&from, "GET", path, login, "");
                    assert_eq!(reply.status, 200);
                    let junk = TcpStream::connect(api.address);
                    drop(junk.and_then(|mut stream| stream.write_all(&[22, 3, 1, 255, 255, 0])));
                }
            });
        }
    });
    assert_eq!(
        api.send("POST", "/access/ticket", "", &login_form("x"))
            .status,
        401
    );
}
