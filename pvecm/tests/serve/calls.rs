//! What clients see.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use pvecm::host::wait::{now, until};
use serde_json::json;

use crate::support::{Api, PASSWORD, Reply, encode, limits, login_form, write_certificate};

#[test]
fn without_a_login_there_is_nothing_to_read() {
    let api = Api::start();
    let paths = [
        "/version",
        "/cluster/config",
        "/cluster/config/apiversion",
        "/cluster/config/join",
        "/cluster/config/nodes",
        "/cluster/config/totem",
        "/cluster/status",
        "/cluster/nextid",
        "/cluster/options",
        "/nodes/n1/tasks/x/log",
        "/no/such/call",
    ];
    for path in paths {
        let reply = api.send("GET", path, "", "");
        assert_eq!(
            (reply.status, &reply.reason[..]),
            (401, "No ticket"),
            "{path}"
        );
        assert_eq!(reply.body, json!({"data": null, "message": "No ticket\n"}));
    }
    for (shown, reason) in [
        ("Cookie: PVEAuthCookie=x\r\n", "Authentication failed!"),
        (
            "Authorization: PVEAPIToken=root@pam!a=b\r\n",
            "API tokens are not known here",
        ),
        (
            "Authorization: PVEJoinToken=a:b\r\n",
            "Authentication failed!",
        ),
        ("Authorization: Basic cm9vdDp4\r\n", "No ticket"),
    ] {
        let reply = api.send("GET", "/cluster/status", shown, "");
        assert_eq!(reply.status, 401);
        assert!(reply.reason.starts_with(reason), "{reply:?}");
    }
}

#[test]
fn root_logs_in_and_looks_at_everything() {
    let api = Api::start();
    let reply = api.send("POST", "/access/ticket", "", &login_form(PASSWORD));
    let data = &reply.body["data"];
    assert_eq!(data["username"], "root@pam");
    assert_eq!(data["clustername"], "lab");
    assert_eq!(data["cap"]["dc"]["Sys.Audit"], 1);
    assert!(
        reply.headers.contains("cache-control: max-age=0"),
        "{reply:?}"
    );
    let login = api.login();
    let get = |path: &str| {
        let reply = api.send("GET", path, &login, "");
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        reply.body["data"].clone()
    };
    let version = get("/version");
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["program"], "pvecm");
    assert_eq!(get("/cluster/config/apiversion"), 1);
    let names = ["nodes", "totem", "join", "qdevice", "apiversion"];
    assert_eq!(
        get("/cluster/config"),
        json!(names.map(|name| json!({"name": name})))
    );
    let node = json!({
        "node": "n1", "name": "n1", "nodeid": "1", "quorum_votes": "1", "ring0_addr": "10.77.0.1"
    });
    assert_eq!(get("/cluster/config/nodes"), json!([node]));
    let info = get("/cluster/config/join?node=n1");
    assert_eq!(info["nodelist"][0]["pve_fp"], api.fingerprint().to_string());
    assert_eq!(info["nodelist"][0]["pve_addr"], "10.77.0.1");
    assert_eq!(info["totem"], get("/cluster/config/totem"));
    assert_eq!(get("/cluster/config/qdevice"), json!({}));
    let status = get("/cluster/status");
    let cluster = json!({
        "type": "cluster", "id": "cluster", "name": "lab", "version": 1, "nodes": 2, "quorate": 1
    });
    assert_eq!(status[0], cluster);
    let other = json!({
        "type": "node", "id": "node/n2", "name": "n2", "nodeid": 2, "local": 0, "online": 0,
        "level": ""
    });
    assert_eq!(status[2], other);
    assert_eq!(get("/cluster/nextid"), "101");
    assert_eq!(get("/cluster/nextid?vmid=250&_dc=77"), "250");
    let taken = api.send("GET", "/cluster/nextid?vmid=100", &login, "");
    assert_eq!(taken.status, 400);
    assert_eq!(
        taken.body["errors"],
        json!({"vmid": "VM 100 already exists (qemu on node 'n1')"})
    );
    let unknown = api.send("GET", "/cluster/config/join?node=n9", &login, "");
    assert_eq!(unknown.body["message"], "unknown node 'n9'\n");
    let absent = api.send("GET", "/access", &login, "");
    assert_eq!(
        (absent.status, &absent.reason[..]),
        (501, "Method 'GET /access' not implemented")
    );
    fs::remove_file(api.host.paths.cluster_conf()).unwrap();
    let alone = api.send("GET", "/cluster/config/join", &login, "");
    let reason = "node is not in a cluster, no join info available!";
    assert_eq!((alone.status, &alone.reason[..]), (424, reason));
}

#[test]
fn a_ticket_stands_for_the_password() {
    let api = Api::start();
    let reply = api.send("POST", "/access/ticket", "", &login_form(PASSWORD));
    let ticket = reply.body["data"]["ticket"].as_str().unwrap().to_owned();
    let renewed = api.send("POST", "/access/ticket", "", &login_form(&ticket));
    assert_eq!(renewed.status, 200);
    let body = json!({"username": "root", "realm": "pam", "password": PASSWORD}).to_string();
    let kind = "Content-Type: application/json\r\n";
    assert_eq!(api.send("POST", "/access/ticket", kind, &body).status, 200);
    let shown = format!("Authorization: PVEAuthCookie={ticket}\r\n");
    assert_eq!(api.send("GET", "/cluster/status", &shown, "").status, 200);
}

#[test]
fn changes_need_the_token_beside_the_ticket() {
    let api = Api::start();
    let login = api.login();
    let (cookie, _) = login.split_once("\r\n").unwrap();
    let cookie = format!("{cookie}\r\n");
    for (method, path) in [
        ("POST", "/cluster/config/nodes/n2"),
        ("DELETE", "/cluster/config/nodes/n2"),
        ("PUT", "/cluster/options"),
        ("POST", "/cluster/config"),
        ("POST", "/cluster/config/join"),
    ] {
        let reply = api.send(method, path, &cookie, "");
        assert_eq!(reply.status, 401, "{method} {path}");
        assert_eq!(reply.reason, "Permission denied - invalid csrf token");
    }
}

#[test]
fn nodes_come_and_go() {
    let api = Api::start();
    let login = api.login();
    let path = "/cluster/config/nodes/n2";
    let form =
        "link0=10.77.0.2,priority=5&nodeid=7&votes=0&force=1&apiversion=1&new_node_ip=10.77.0.2";
    let reply = api.send("POST", path, &login, form);
    assert_eq!(reply.status, 200, "{reply:?}");
    let data = &reply.body["data"];
    let key = data["corosync_authkey"].as_str().unwrap();
    assert!(key.chars().map(u32::from).eq(0..=255), "{key:?}");
    assert_eq!(data["warnings"], json!(["odd"]));
    let seen = data["corosync_conf"].as_str().unwrap();
    for part in [
        "NodeName(\"n2\")",
        "nodeid: Some(7)",
        "votes: Some(0)",
        "force: true",
    ] {
        assert!(seen.contains(part), "{seen}");
    }
    let wrong = api.send("POST", path, &login, "nodeid=0&link9=a&votes=many");
    assert_eq!(wrong.reason, "Parameter verification failed.");
    let names: Vec<_> = wrong.body["errors"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["link9", "nodeid", "votes"]);
    let refused = api.send("POST", "/cluster/config/nodes/refused", &login, "");
    let text = "can't add existing node 'refused'";
    assert_eq!((refused.status, &refused.reason[..]), (500, text));
    let other = api.send("POST", path, &login, "node=n3");
    assert_eq!(other.status, 400);
    let gone = api.send("DELETE", path, &login, "");
    assert_eq!((gone.status, gone.body), (200, json!({"data": null})));
    let unknown = api.send("DELETE", "/cluster/config/nodes/n9", &login, "");
    assert_eq!(
        unknown.reason,
        "Node/IP: n9 is not a known host of the cluster."
    );
    assert_eq!(api.send("DELETE", path, &login, "node=n2").status, 501);

    fs::write(
        api.host.paths.cluster_conf(),
        "totem {\n  config_version: 1\n}\n",
    )
    .unwrap();
    let broken = api.send("POST", path, &login, "");
    assert_eq!(broken.reason, "invalid corosync.conf");
    assert_eq!(broken.body["errors"]["error0"], "no nodes found");
    fs::remove_file(api.host.paths.cluster_conf()).unwrap();
    let none = api.send("POST", path, &login, "");
    assert_eq!(none.body["errors"]["error0"], "no nodes found");
    let remedy = none.body["errors"]["warning0"].as_str().unwrap();
    assert!(remedy.contains("'pvecm create' makes one"), "{remedy}");
}

#[test]
fn options_are_changed_in_the_file() {
    let api = Api::start();
    let login = api.login();
    let path = "/cluster/options";
    let file = api.host.paths.pve("datacenter.cfg");
    fs::write(&file, "#about%3A us\n\nkeyboard: de\nother: kept\n").unwrap();
    let form = format!(
        "migration={}&next-id=lower%3D300,upper%3D400&delete=keyboard",
        encode("insecure,network=10.0.0.0/24")
    );
    assert_eq!(api.send("PUT", path, &login, &form).status, 200);
    let text = fs::read_to_string(&file).unwrap();
    let wanted = "#about%3A us\n\nmigration: insecure,network=10.0.0.0/24\nnext-id: \
                  lower=300,upper=400\nother: kept\n";
    assert_eq!(text, wanted);
    let shown = api.send("GET", path, &login, "");
    assert_eq!(shown.body["data"]["migration"]["network"], "10.0.0.0/24");
    assert_eq!(shown.body["data"]["description"], "about: us\n");
    let next = api.send("GET", "/cluster/nextid", &login, "");
    assert_eq!(next.body["data"], "300");
    let upside_down = api.send("PUT", path, &login, "next-id=lower%3D500,upper%3D400");
    assert_eq!(
        upside_down.reason,
        "lower (500) <= upper (400) boundary rule broken"
    );
    let wrong = api.send("PUT", path, &login, "fencing=none&stray=1&delete=nothing");
    assert_eq!(wrong.body["errors"].as_object().unwrap().len(), 3);
    assert_eq!(fs::read_to_string(&file).unwrap(), wanted);
}

#[test]
fn a_join_is_a_task_that_can_be_followed() {
    let api = Api::start();
    let login = api.login();
    let fingerprint = ["AB"; 32].join(":");
    let form = format!(
        "hostname=10.77.0.9&fingerprint={}&password=top+secret&link0=10.77.0.1&force=1",
        encode(&fingerprint)
    );
    let reply = api.send("POST", "/cluster/config/join", &login, &form);
    let upid = reply.body["data"].as_str().unwrap().to_owned();
    assert!(upid.starts_with("UPID:n1:") && upid.ends_with(":clusterjoin::root@pam:"));
    let path = format!("/nodes/n1/tasks/{}", encode(&upid));
    let status = until(Duration::from_secs(20), || {
        let reply = api.send("GET", &format!("{path}/status"), &login, "");
        (reply.body["data"]["status"] == "stopped").then_some(reply.body)
    });
    assert_eq!(status.unwrap()["data"]["exitstatus"], "OK");
    let log = api.send("GET", &format!("{path}/log?start=0&limit=0"), &login, "");
    let line = log.body["data"][0]["t"].as_str().unwrap();
    let wanted = format!(
        "add 10.77.0.9 --fingerprint {fingerprint} --password-file - --force --link0 address=10.77.0.1"
    );
    assert_eq!(line, wanted);
    assert_eq!(log.body["total"], 2);
    let elsewhere = path.replace("/n1/", "/n2/");
    assert_eq!(api.send("GET", &elsewhere, &login, "").status, 200);
    assert_eq!(
        api.send("GET", &format!("{elsewhere}/log"), &login, "")
            .status,
        501
    );
    let none = api.send("GET", "/nodes/n1/tasks/..%2f..%2fx/log", &login, "");
    assert_eq!(none.status, 501);
    let option = format!(
        "hostname=--force&password=x&fingerprint={}",
        encode(&fingerprint)
    );
    assert_eq!(
        api.send("POST", "/cluster/config/join", &login, &option)
            .status,
        400
    );
    let exists = api.send("POST", "/cluster/config", &login, "clustername=lab");
    let text = "cluster config '/etc/pve/corosync.conf' already exists";
    assert_eq!(exists.reason, text);
    fs::remove_file(api.host.paths.cluster_conf()).unwrap();
    let made = api.send("POST", "/cluster/config", &login, "clustername=lab&votes=2");
    let upid = made.body["data"].as_str().unwrap();
    assert!(upid.contains(":clustercreate:lab:root@pam:"), "{upid}");
}

#[test]
fn wrong_passwords_are_slow_and_few_and_lock_out_nobody_else() {
    let api = Api::start();
    let start = now();
    let wrong = login_form("guess");
    let from = |from: &str, form: &str| api.send_from(from, "POST", "/access/ticket", "", form);
    for _ in 0..5 {
        let reply = from("127.0.0.1", &wrong);
        assert_eq!(
            (reply.status, &reply.reason[..]),
            (401, "authentication failure")
        );
    }
    assert!(now() - start >= limits().failed_login * 5);
    assert_eq!(from("127.0.0.1", &wrong).status, 429);
    // Not even the right one helps now, or guessing would go on.
    assert_eq!(from("127.0.0.1", &login_form(PASSWORD)).status, 429);
    assert_eq!(from("127.0.1.7", &login_form(PASSWORD)).status, 200);
    for user in ["admin@pve", "root", "root@pve", "nobody@pam"] {
        let form = format!("username={user}&password={}", encode(PASSWORD));
        assert_eq!(from("127.0.2.1", &form).status, 401, "{user}");
    }
}

#[test]
fn a_disabled_root_and_one_with_a_second_factor_are_not_let_in() {
    let api = Api::start();
    let login = || api.send("POST", "/access/ticket", "", &login_form(PASSWORD));
    fs::write(api.host.paths.pve("user.cfg"), "user:root@pam:0:0::::\n").unwrap();
    assert_eq!(login().status, 401);
    fs::remove_file(api.host.paths.pve("user.cfg")).unwrap();
    let config = r#"{"users":{"root@pam":{"totp":[{"info":{}}]}}}"#;
    fs::write(api.host.paths.pve("priv/tfa.cfg"), config).unwrap();
    assert_eq!(login().status, 401);
    fs::remove_file(api.host.paths.pve("priv/tfa.cfg")).unwrap();
    assert_eq!(login().status, 200);
    fs::remove_file(api.host.paths.pve("priv/authkey.key")).unwrap();
    let reply = login();
    assert_eq!(reply.status, 500);
    assert!(!reply.body.to_string().contains("authkey"), "{reply:?}");
}

#[test]
fn a_new_certificate_is_shown_without_a_restart() {
    let api = Api::start();
    let shows = |wanted| {
        until(Duration::from_secs(20), || {
            (api.fingerprint() == wanted).then_some(())
        })
    };
    let second = write_certificate(&api.host, "pve-ssl");
    assert!(shows(second).is_some());
    let own = write_certificate(&api.host, "pveproxy-ssl");
    assert!(shows(own).is_some());
    fs::write(api.host.paths.node("n1", "pveproxy-ssl.pem"), "half").unwrap();
    assert!(shows(second).is_some());
    fs::remove_file(api.host.paths.node("n1", "pveproxy-ssl.pem")).unwrap();
    fs::write(api.host.paths.node("n1", "pve-ssl.pem"), "half").unwrap();
    until(Duration::from_millis(1500), || None::<()>);
    assert_eq!(api.fingerprint(), second);
}

#[test]
fn at_the_end_requests_are_answered_and_no_more_are_taken() {
    let mut api = Api::start();
    let login = api.login();
    let mut idle = api.connect();
    let mut slow = api.connect();
    let head =
        format!("POST /api2/json/cluster/config/nodes/slow HTTP/1.1\r\nHost: n1\r\n{login}\r\n");
    slow.write_all(head.as_bytes()).unwrap();
    api.await_slow();
    api.ask_to_end();
    assert_eq!(Reply::read(&mut idle).status, 0);
    api.release_slow();
    assert_eq!(Reply::read(&mut slow).status, 200);
    let address = api.address;
    api.await_end();
    assert!(std::net::TcpStream::connect(address).is_err());
}
