//! Which calls there are, and who may make them.

use hyper::Method;

/// Who may make a call; each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Everybody.
    Anybody,
    /// Who has logged in.
    User,
    /// Who may look at everything.
    Audit,
    /// Who may change settings.
    Modify,
    /// root@pam alone.
    Root,
}

/// A call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// POST /access/ticket
    Login,
    /// GET /access/ticket: there for clients that want to know whether there is a login.
    LoginPage,
    /// GET /version
    Version,
    /// GET /cluster/config
    ConfigIndex,
    /// POST /cluster/config
    Create,
    /// GET /cluster/config/apiversion
    ApiVersion,
    /// GET /cluster/config/nodes
    Nodes,
    /// POST /cluster/config/nodes/{node}
    Addnode,
    /// DELETE /cluster/config/nodes/{node}
    Delnode,
    /// GET /cluster/config/join
    JoinInfo,
    /// POST /cluster/config/join
    Join,
    /// GET /cluster/config/totem
    Totem,
    /// GET /cluster/config/qdevice
    Qdevice,
    /// GET /cluster/status
    Status,
    /// GET /cluster/nextid
    Nextid,
    /// GET /cluster/options
    Options,
    /// PUT /cluster/options
    SetOptions,
    /// GET /nodes/{node}/tasks/{upid}
    TaskIndex,
    /// GET /nodes/{node}/tasks/{upid}/status
    TaskStatus,
    /// GET /nodes/{node}/tasks/{upid}/log
    TaskLog,
}

/// A call with what its path says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The call.
    pub call: Call,
    /// Who may make it.
    pub who: Who,
    /// Whether a join token is enough.
    pub for_joiners: bool,
    /// Parameters that are in the path.
    pub from_path: Vec<(&'static str, String)>,
}

/// The call of a method and a path below the base, if there is one.
#[must_use]
pub fn find(method: &Method, path: &str) -> Option<Route> {
    let get = *method == Method::GET;
    let post = *method == Method::POST;
    let segments: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (call, who) = match segments.as_slice() {
        ["access", "ticket"] if post => (Call::Login, Who::Anybody),
        ["access", "ticket"] if get => (Call::LoginPage, Who::Anybody),
        ["version"] if get => (Call::Version, Who::User),
        ["cluster", "config"] if get => (Call::ConfigIndex, Who::Audit),
        ["cluster", "config"] if post => (Call::Create, Who::Root),
        ["cluster", "config", "apiversion"] if get => (Call::ApiVersion, Who::Audit),
        ["cluster", "config", "nodes"] if get => (Call::Nodes, Who::Audit),
        ["cluster", "config", "nodes", _] if post => (Call::Addnode, Who::Root),
        ["cluster", "config", "nodes", _] if *method == Method::DELETE => {
            (Call::Delnode, Who::Root)
        }
        ["cluster", "config", "join"] if get => (Call::JoinInfo, Who::Audit),
        ["cluster", "config", "join"] if post => (Call::Join, Who::Root),
        ["cluster", "config", "totem"] if get => (Call::Totem, Who::Audit),
        ["cluster", "config", "qdevice"] if get => (Call::Qdevice, Who::Audit),
        ["cluster", "status"] if get => (Call::Status, Who::Audit),
        ["cluster", "nextid"] if get => (Call::Nextid, Who::User),
        ["cluster", "options"] if get => (Call::Options, Who::Audit),
        ["cluster", "options"] if *method == Method::PUT => (Call::SetOptions, Who::Modify),
        ["nodes", _, "tasks", _] if get => (Call::TaskIndex, Who::Root),
        ["nodes", _, "tasks", _, "status"] if get => (Call::TaskStatus, Who::Root),
        ["nodes", _, "tasks", _, "log"] if get => (Call::TaskLog, Who::Root),
        _ => return None,
    };
    let part = |at: usize| segments.get(at).map(|part| (*part).to_owned());
    let from_path = match call {
        Call::Addnode | Call::Delnode => vec![("node", part(3)?)],
        Call::TaskIndex | Call::TaskStatus | Call::TaskLog => {
            vec![("node", part(1)?), ("upid", part(3)?)]
        }
        _ => Vec::new(),
    };
    let for_joiners = matches!(
        call,
        Call::Version
            | Call::ApiVersion
            | Call::JoinInfo
            | Call::Status
            | Call::Nextid
            | Call::Qdevice
            | Call::Addnode
            | Call::Delnode
    );
    Some(Route {
        call,
        who,
        for_joiners,
        from_path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    #[test]
    fn paths_lead_to_calls() {
        let found = find(&Method::POST, "/cluster/config/nodes/n2").unwrap();
        assert_eq!((found.call, found.who), (Call::Addnode, Who::Root));
        assert_eq!(found.from_path, [("node", "n2".to_owned())]);
        let found = find(&Method::GET, "/nodes/n1/tasks/UPID:x:/log").unwrap();
        assert_eq!(found.call, Call::TaskLog);
        assert_eq!(found.from_path[1], ("upid", "UPID:x:".to_owned()));
        assert_eq!(find(&Method::GET, "/cluster/config/nodes/n2"), None);
        assert_eq!(find(&Method::GET, "/"), None);
    }

    #[test]
    fn only_the_login_is_for_everybody_and_tokens_change_nothing_but_nodes() {
        let methods = [Method::GET, Method::POST, Method::PUT, Method::DELETE];
        let paths = [
            "/access/ticket",
            "/version",
            "/cluster/config",
            "/cluster/config/apiversion",
            "/cluster/config/nodes",
            "/cluster/config/nodes/x",
            "/cluster/config/join",
            "/cluster/config/totem",
            "/cluster/config/qdevice",
            "/cluster/status",
            "/cluster/nextid",
            "/cluster/options",
            "/nodes/x/tasks/y",
            "/nodes/x/tasks/y/status",
            "/nodes/x/tasks/y/log",
        ];
        for (method, path) in methods
            .iter()
            .flat_map(|method| paths.map(|path| (method, path)))
        {
            let Some(route) = find(method, path) else {
                continue;
            };
            let is_login = path == "/access/ticket";
            assert_eq!(route.who == Who::Anybody, is_login, "{method} {path}");
            if *method != Method::GET && !is_login {
                assert!(route.who >= Who::Modify, "{method} {path}");
                let is_node = path == "/cluster/config/nodes/x";
                assert_eq!(route.for_joiners, is_node, "{method} {path}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_path_is_too_strange(path in "(/[a-z%.\\x00]{0,9}){0,6}", text in ".*") {
            drop(find(&Method::GET, &path));
            drop(find(&Method::POST, &text));
        }
    }
}
