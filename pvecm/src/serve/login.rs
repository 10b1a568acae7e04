//! Logins: root's password, or a ticket that is still good, for a new ticket.
//!
//! Invariants: a password is in no log and in no answer; whoever fails learns nothing but that, and
//! later than somebody who does not.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use serde_json::{Value, json};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::answer::{Answer, ApiError, data};
use super::auth::ROOT;
use super::params::Params;
use super::ticket::Keys;
use super::{Server, throttle::Throttle};
use crate::host::wait::now;
use crate::host::{Paths, calendar, files, pve};

/// Longest name of a user.
const USER_MAX: usize = 64;
/// Longest password, or ticket in its place.
const PASSWORD_MAX: usize = 4096;

/// What a login shows.
struct Login {
    user: String,
    password: Zeroizing<String>,
    /// Only whether the password is right is asked for.
    is_check: bool,
}

/// Answers `POST /access/ticket`.
pub async fn login(server: &Arc<Server>, from: IpAddr, params: Params) -> Result<Answer, ApiError> {
    let login = read(params)?;
    let started = with_throttle(server, |throttle| throttle.begin(from, now()));
    started.map_err(|wait| {
        let seconds = wait.as_secs() + 1;
        tracing::warn!("{from}: too many failed logins, refused for {seconds} s");
        let text = format!("too many failed logins: try again in {seconds} seconds");
        ApiError::new(429, text)
    })?;
    let busy = || ApiError::new(503, "this node is busy: try again in a moment");
    let turn = timeout(server.limits.turn, server.login_turns.acquire()).await;
    let _turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
    let user = login.user.clone();
    let held = Arc::clone(server);
    let checked = tokio::task::spawn_blocking(move || check(&held, from, &login)).await;
    match checked {
        Ok(Ok(answer)) => {
            with_throttle(server, |throttle| throttle.succeeded(from, now()));
            tracing::info!("successful auth for user '{user}' from {from}");
            Ok(data(answer))
        }
        Ok(Err(Stop::Wrong(reason))) => {
            let user = user.escape_debug();
            tracing::warn!("authentication failure; rhost={from} user={user} msg={reason}");
            Err(ApiError::new(401, "authentication failure"))
        }
        Ok(Err(Stop::Broken(reason))) => {
            tracing::error!("no logins: {reason}");
            let text = "logins can not be checked on this node, see its log";
            Err(ApiError::new(500, text))
        }
        Err(_) => Err(ApiError::new(
            500,
            "internal error, see the log of this node",
        )),
    }
}

fn with_throttle<T>(server: &Server, act: impl FnOnce(&mut Throttle) -> T) -> T {
    act(&mut server
        .throttle
        .lock()
        .unwrap_or_else(PoisonError::into_inner))
}

fn read(mut params: Params) -> Result<Login, ApiError> {
    let mut user = params.needed("username", USER_MAX);
    let password = Zeroizing::new(params.needed("password", PASSWORD_MAX));
    if let Some(realm) = params.text("realm", 32) {
        user = format!("{user}@{realm}");
    }
    params.boolean("new-format");
    let path = params.text("path", 64);
    let privileges = params.text("privs", 64);
    if path.is_some() != privileges.is_some() {
        let (there, missing) = if path.is_some() {
            ("path", "privs")
        } else {
            ("privs", "path")
        };
        let error = format!("missing property - '{there}' requires this property");
        params.wrong(missing, &error);
    }
    for second_factor in ["otp", "tfa-challenge"] {
        if params.text(second_factor, PASSWORD_MAX).is_some() {
            params.wrong(second_factor, "a second factor can not be checked here");
        }
    }
    params.finish()?;
    Ok(Login {
        user,
        password,
        is_check: path.is_some(),
    })
}

/// Why there is no ticket.
enum Stop {
    /// It is not the right password.
    Wrong(String),
    /// The node can not tell.
    Broken(String),
}

impl From<crate::failure::Failure> for Stop {
    fn from(failure: crate::failure::Failure) -> Self {
        Self::Broken(failure.to_string())
    }
}

fn check(server: &Server, from: IpAddr, login: &Login) -> Result<Value, Stop> {
    let paths = &server.host.paths;
    let keys = Keys::of(paths);
    let wrong = |reason: &str| Stop::Wrong(reason.to_owned());
    if login.user != ROOT {
        return Err(wrong("only root@pam can log in here"));
    }
    if !is_enabled(paths)? {
        return Err(wrong("the user is disabled"));
    }
    let ticket = keys.user(&login.password, calendar())?;
    if ticket.is_none_or(|ticket| ticket.user != login.user) {
        if has_second_factor(paths)? {
            let text = "the user has a second factor, which can not be checked here: use a token of \
                        'pvecm token'";
            return Err(wrong(text));
        }
        let passwords = &server.passwords;
        let checked = passwords.check("root", &login.password, from);
        checked.map_err(Stop::Wrong)?;
    }
    if login.is_check {
        return Ok(json!({"username": login.user}));
    }
    let (ticket, token) = keys.issue(&login.user, calendar())?;
    let mut answer = json!({
        "username": login.user,
        "ticket": ticket,
        "CSRFPreventionToken": token,
        "cap": privileges(),
    });
    let cluster = pve::members(paths).ok().and_then(|members| members.cluster);
    if let Some(cluster) = cluster {
        answer["clustername"] = cluster.name.into();
    }
    Ok(answer)
}

/// Whether `user.cfg` lets root in. Without an entry it does.
fn is_enabled(paths: &Paths) -> Result<bool, Stop> {
    let text = files::read(&paths.pve("user.cfg"))?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let entry = text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let is_root = fields.next() == Some("user") && fields.next() == Some(ROOT);
        is_root.then(|| (fields.next(), fields.next()))
    });
    let Some((enabled, expires)) = entry else {
        return Ok(true);
    };
    let expires: u64 = expires.and_then(|text| text.parse().ok()).unwrap_or(0);
    let is_expired = expires != 0 && expires < calendar().as_secs();
    Ok(enabled == Some("1") && !is_expired)
}

/// Whether root needs more than a password. In doubt it does.
fn has_second_factor(paths: &Paths) -> Result<bool, Stop> {
    let text = files::read(&paths.pve("priv/tfa.cfg"))?.unwrap_or_default();
    let of_user = match serde_json::from_slice::<Value>(&text) {
        Ok(config) => {
            let entries = config["users"][ROOT].as_object();
            entries.into_iter().flatten().any(|(_, entry)| match entry {
                Value::Array(entries) => !entries.is_empty(),
                Value::Object(entries) => !entries.is_empty(),
                Value::Null => false,
                _ => true,
            })
        }
        // The older form is a line for each user.
        Err(_) => String::from_utf8_lossy(&text).contains(ROOT),
    };
    let domains = files::read(&paths.pve("domains.cfg"))?.unwrap_or_default();
    let domains = String::from_utf8_lossy(&domains);
    let mut realm = "";
    let of_realm = domains.lines().any(|line| {
        if !line.starts_with(char::is_whitespace) {
            realm = line.trim();
        }
        realm == "pam: pam" && line.split_whitespace().next() == Some("tfa")
    });
    Ok(of_user || of_realm)
}

/// What root may do, by area.
fn privileges() -> Value {
    let areas: [(&str, &[&str]); 7] = [
        ("access", &["Group.Allocate", "User.Modify"]),
        (
            "dc",
            &[
                "SDN.Allocate",
                "SDN.Audit",
                "SDN.Use",
                "Sys.Audit",
                "Sys.Modify",
            ],
        ),
        (
            "mapping",
            &["Mapping.Audit", "Mapping.Modify", "Mapping.Use"],
        ),
        (
            "nodes",
            &[
                "Sys.AccessNetwork",
                "Sys.Audit",
                "Sys.Console",
                "Sys.Incoming",
                "Sys.Modify",
                "Sys.PowerMgmt",
                "Sys.Syslog",
            ],
        ),
        ("sdn", &["SDN.Allocate", "SDN.Audit", "SDN.Use"]),
        (
            "storage",
            &[
                "Datastore.Allocate",
                "Datastore.AllocateSpace",
                "Datastore.AllocateTemplate",
                "Datastore.Audit",
            ],
        ),
        (
            "vms",
            &[
                "VM.Allocate",
                "VM.Audit",
                "VM.Backup",
                "VM.Clone",
                "VM.Config.CDROM",
                "VM.Config.CPU",
                "VM.Config.Cloudinit",
                "VM.Config.Disk",
                "VM.Config.HWType",
                "VM.Config.Memory",
                "VM.Config.Network",
                "VM.Config.Options",
                "VM.Console",
                "VM.Migrate",
                "VM.PowerMgmt",
                "VM.Snapshot",
                "VM.Snapshot.Rollback",
            ],
        ),
    ];
    let area = |(area, names): (&str, &[&str])| {
        let granted = names.iter().map(|name| ((*name).to_owned(), 1.into()));
        (area.to_owned(), Value::Object(granted.collect()))
    };
    Value::Object(areas.into_iter().map(area).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    fn paths(files: &[(&str, &str)]) -> (tempfile::TempDir, Paths) {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::below(directory.path());
        fs::create_dir_all(paths.pve("priv")).unwrap();
        for (name, text) in files {
            fs::write(paths.pve(name), text).unwrap();
        }
        (directory, paths)
    }

    #[test]
    fn root_is_let_in_unless_disabled() {
        let enabled = |text: &str| {
            let (_directory, paths) = paths(&[("user.cfg", text)]);
            is_enabled(&paths).ok().unwrap()
        };
        assert!(enabled(""));
        assert!(enabled("user:root@pam:1:0:::root@example.com::\n"));
        assert!(enabled("user:admin@pve:0:0::::\n"));
        assert!(!enabled("user:root@pam:0:0::::\n"));
        assert!(!enabled("user:root@pam:1:1000::::\n"));
        assert!(enabled("user:root@pam:1:99999999999::::\n"));
    }

    #[test]
    fn a_second_factor_is_not_passed_by() {
        let has = |name: &str, text: &str| {
            let (_directory, paths) = paths(&[(name, text)]);
            has_second_factor(&paths).ok().unwrap()
        };
        assert!(!has("priv/tfa.cfg", ""));
        assert!(!has(
            "priv/tfa.cfg",
            r#"{"users":{"root@pam":{"totp":[]}}}"#
        ));
        assert!(!has("priv/tfa.cfg", r#"{"users":{"a@pve":{"totp":[{}]}}}"#));
        assert!(has(
            "priv/tfa.cfg",
            r#"{"users":{"root@pam":{"totp":[{}]}}}"#
        ));
        assert!(has("priv/tfa.cfg", "root@pam:oath:e30=:\n"));
        assert!(!has(
            "domains.cfg",
            "pam: pam\n\tcomment x\n\nldap: x\n\ttfa a\n"
        ));
        assert!(has("domains.cfg", "pam: pam\n\ttfa type=oath\n"));
    }
}
