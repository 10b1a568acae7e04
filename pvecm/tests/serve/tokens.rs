//! What a join token opens, and what it does not.

use std::time::Duration;

use pvecm::serve::token::{JoinToken, Tokens};

use crate::support::Api;

fn token(api: &Api) -> String {
    let tokens = Tokens::of(&api.host.paths);
    let made = tokens.create(&api.host.name, Duration::from_secs(600));
    let (id, secret) = made.unwrap();
    let token = JoinToken {
        id,
        secret,
        address: "10.77.0.1".to_owned(),
        fingerprint: api.fingerprint(),
    };
    // As the joining node has it: from the one line.
    let token: JoinToken = token.text().parse().unwrap();
    format!("Authorization: {}\r\n", *token.authorization())
}

#[test]
fn a_token_lets_one_node_join_and_no_more() {
    let api = Api::start();
    let token = token(&api);
    let get = |path: &str| api.send("GET", path, &token, "").status;
    assert_eq!(get("/version"), 200);
    assert_eq!(get("/cluster/config/apiversion"), 200);
    assert_eq!(get("/cluster/config/join"), 200);
    // What it needs to see before it asks to be let in.
    assert_eq!(get("/cluster/status"), 200);
    assert_eq!(get("/cluster/config/qdevice"), 200);
    assert_eq!(get("/cluster/nextid"), 200);
    for path in ["/cluster/options", "/cluster/config/nodes"] {
        assert_eq!(get(path), 403, "{path}");
    }
    let early = api.send("DELETE", "/cluster/config/nodes/n3", &token, "");
    assert_ne!(early.status, 200);
    for path in ["/cluster/config/join", "/cluster/config"] {
        assert_eq!(api.send("POST", path, &token, "").status, 403, "{path}");
    }
    // What does not let a node in does not use the token up.
    let ask = |name: &str, more: &str| {
        let path = format!("/cluster/config/nodes/{name}");
        let form = format!("new_node_ip=10.77.0.3&{more}");
        api.send("POST", &path, &token, &form).status
    };
    let add = |name: &str| ask(name, "apiversion=1");
    assert_eq!(add("refused"), 500);
    assert_eq!(add("n3"), 200);
    assert_eq!(add("n3"), 401);
    assert_eq!(add("n4"), 401);
    // The same node may ask anew, as long as it is in.
    let anew = |name: &str| ask(name, "force=1");
    assert_eq!(anew("n4"), 401);
    assert_eq!(anew("n3"), 401);
    api.enter("n3");
    assert_eq!(anew("n3"), 200);
    // It may be taken back by who has done it.
    let remove = |name: &str| {
        let path = format!("/cluster/config/nodes/{name}");
        api.send("DELETE", &path, &token, "").status
    };
    assert_eq!(remove("n2"), 403);
    assert_eq!(remove("n1"), 403);
    assert_eq!(remove("n3"), 200);
}

#[test]
fn a_token_does_not_replace_a_node_that_is_up() {
    let api = Api::start();
    let token = token(&api);
    let reply = api.send("POST", "/cluster/config/nodes/n1", &token, "force=1");
    assert_eq!(reply.status, 403);
    let reply = api.send("POST", "/cluster/config/nodes/n2", &token, "force=1");
    assert_eq!(reply.status, 200);
}

#[test]
fn many_joins_with_one_token_at_once_let_one_node_in() {
    let api = Api::start();
    let token = token(&api);
    let joined = std::thread::scope(|scope| {
        let join = |number: usize| {
            let (api, token) = (&api, &token);
            move || {
                let path = format!("/cluster/config/nodes/j{number}");
                api.send("POST", &path, token, "new_node_ip=10.77.0.3")
                    .status
            }
        };
        let joins: Vec<_> = (0..8).map(|number| scope.spawn(join(number))).collect();
        let statuses = joins.into_iter().map(|join| join.join().unwrap());
        statuses.filter(|status| *status == 200).count()
    });
    assert_eq!(joined, 1);
}

#[test]
fn revoked_and_made_up_tokens_open_nothing() {
    let api = Api::start();
    let token = token(&api);
    let tokens = Tokens::of(&api.host.paths);
    let listed = tokens.list().unwrap();
    assert!(tokens.revoke(&listed[0].id.parse().unwrap()).unwrap());
    let reply = api.send("GET", "/cluster/config/join", &token, "");
    assert_eq!(reply.status, 401);
    for shown in [
        "Authorization: PVEJoinToken=0123456789abcdef:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\r\n",
        "Authorization: PVEJoinToken=../../authkey:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\r\n",
        "Authorization: PVEJoinToken=\r\n",
        "Authorization: PVEJoinToken=:\r\n",
    ] {
        assert_eq!(
            api.send("GET", "/cluster/config/join", shown, "").status,
            401,
            "{shown}"
        );
    }
}
