//! The member over its HTTPS interface.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use super::client::{Call, CallError, Client, Header, Reply, Trust, escape};
use super::date;
use super::peer::{Facts, Known, NotAdmitted, Peer, Request, Taken};
use super::secret::Secret;
use super::version::{PROGRAM, Version};
use crate::failure::{Failure, Outcome};
use crate::host::calendar;
use crate::info::Admitted;
use crate::value::{LINK_MAX, NodeName};

/// What the user may be asked.
pub trait Ask {
    /// A question that is answered in one line.
    ///
    /// # Errors
    /// When nobody answers.
    fn line(&self, question: &str) -> Outcome<String>;

    /// A question whose answer is not shown.
    ///
    /// # Errors
    /// When nobody answers.
    fn secret(&self, question: &str) -> Outcome<Secret>;
}

/// How this node proves that it may join.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Root's password on the member.
    Password(Secret),
    /// A join token, as a request carries it.
    Token(Secret),
}

/// A login on the member.
#[derive(Debug)]
pub struct Session<'a> {
    client: Client<'a>,
    trust: Trust,
    headers: Vec<Header>,
}

/// Finds out which certificate is trusted from here on: the one that was given, one that the system
/// trusts, or the one that the user says yes to.
///
/// # Errors
/// When nobody answers there, or it is somebody else.
pub fn authenticate(
    client: &Client<'_>,
    trust: Trust,
    ask: &dyn Ask,
    say: &dyn Fn(&str),
) -> Outcome<Trust> {
    let found = match client.greet(trust) {
        Ok(()) => return Ok(trust),
        Err(CallError::Untrusted(found)) => found,
        Err(error) => return Err(unreachable(client, &error)),
    };
    let host = client.target().host();
    if let Trust::Pinned(wanted) = trust {
        return Err(Failure::refused(format!(
            "fingerprint '{found}' not verified, abort!\n'{host}' should show {wanted}: compare with \
             'pvecm join-info' on that node; if it is right there, somebody stands between"
        )));
    }
    say(&format!(
        "The authenticity of host '{host}' can't be established."
    ));
    say(&format!("X509 SHA256 key fingerprint is {found}."));
    let answer = ask.line("Are you sure you want to continue connecting (yes/no)? ")?;
    if answer.trim().eq_ignore_ascii_case("yes") {
        Ok(Trust::Pinned(found))
    } else {
        Err(Failure::refused(
            "Fingerprint not verified, abort! Compare it with 'pvecm join-info' on the member and \
             give it with --fingerprint",
        ))
    }
}

fn unreachable(client: &Client<'_>, error: &CallError) -> Failure {
    let host = client.target().host();
    match error {
        CallError::Interrupted => crate::host::stop::interrupted(),
        _ => Failure::failed(format!(
            "can not reach the API of '{host}' on TCP port 8006: {error}; see that the node is up, that \
             its pveproxy (or 'pvecm serve') runs, and that no firewall is between"
        )),
    }
}

impl<'a> Session<'a> {
    /// Logs in.
    ///
    /// # Errors
    /// When the member does not accept it.
    pub fn login(
        client: Client<'a>,
        trust: Trust,
        credentials: &Credentials,
        ask: &dyn Ask,
    ) -> Outcome<Self> {
        let mut session = Self {
            client,
            trust,
            headers: Vec::new(),
        };
        match credentials {
            Credentials::Password(password) => session.login_with_password(password, ask)?,
            Credentials::Token(token) => session.login_with_token(token),
        }
        Ok(session)
    }

    fn login_with_password(&mut self, password: &Secret, ask: &dyn Ask) -> Outcome {
        let mut form = vec![
            ("username".to_owned(), "root@pam".to_owned()),
            ("password".to_owned(), password.expose().to_owned()),
        ];
        let mut data = self.ticket(&form)?;
        if truth(&data["NeedTFA"]) {
            let challenge = text(&data["ticket"]).unwrap_or_default();
            let answer = second_factor(&challenge, self.client.target().host(), ask)?;
            if let Some(password) = form.last_mut() {
                password.1 = answer;
            }
            form.push(("tfa-challenge".to_owned(), challenge));
            data = self.ticket(&form)?;
        }
        let (Some(ticket), Some(csrf)) =
            (text(&data["ticket"]), text(&data["CSRFPreventionToken"]))
        else {
            return Err(Failure::failed("the member's login answer has no ticket"));
        };
        self.headers = vec![
            Header {
                name: "Cookie",
                value: Secret::new(format!("PVEAuthCookie={}", escape(&ticket))),
            },
            Header {
                name: "CSRFPreventionToken",
                value: Secret::new(csrf),
            },
        ];
        Ok(())
    }

    fn login_with_token(&mut self, token: &Secret) {
        self.headers = vec![Header {
            name: "Authorization",
            value: token.clone(),
        }];
    }

    fn ticket(&self, form: &[(String, String)]) -> Outcome<Value> {
        let reply = self.call(Method::POST, "/access/ticket", form);
        let reply = reply.map_err(|error| unreachable(&self.client, &error))?;
        let host = self.client.target().host();
        match reply.status {
            200 => Ok(reply.body["data"].clone()),
            401 => Err(Failure::refused(format!(
                "401 {}: '{host}' does not accept root's password; it is that of root@pam on '{host}'",
                reply.reason
            ))),
            _ => Err(Failure::failed(format!(
                "login on '{host}' failed: {}",
                said(&reply)
            ))),
        }
    }

    fn call(
        &self,
        method: Method,
        path: &str,
        form: &[(String, String)],
    ) -> Result<Reply, CallError> {
        let call = Call {
            method,
            path,
            headers: &self.headers,
            form,
        };
        self.client.call(self.trust, &call)
    }

    /// What the member runs. Old ones have no such call, and may not have it for tokens.
    fn version(&self) -> Option<Version> {
        let reply = self.call(Method::GET, "/version", &[]).ok()?;
        let found = data(&reply)?;
        let version = text(&found["version"])?;
        Some(match text(&found["program"]) {
            Some(program) if program == PROGRAM => Version::Own(version),
            _ => Version::Original(version),
        })
    }

    fn get(&self, path: &str) -> Outcome<Reply> {
        let reply = self.call(Method::GET, path, &[]);
        let reply = reply.map_err(|error| unreachable(&self.client, &error))?;
        match reply.status {
            401 => Err(Failure::refused(format!(
                "'{}' does not let this node in: {}; a join token works once and until it expires: make \
                 a new one with 'pvecm token' on that node",
                self.client.target().host(),
                said(&reply)
            ))),
            _ => Ok(reply),
        }
    }
}

impl Peer for Session<'_> {
    fn name(&self) -> String {
        self.client.target().host().to_owned()
    }

    fn facts(&mut self) -> Outcome<Facts> {
        let version = self.get("/cluster/config/apiversion")?;
        let ahead = version
            .date
            .as_deref()
            .and_then(date::parse)
            .map(|there| there - seconds(calendar()));
        let mut facts = Facts {
            api_version: data(&version).and_then(number).unwrap_or(0),
            ahead,
            version: self.version(),
            ..Facts::default()
        };
        let join = self.get("/cluster/config/join")?;
        if join.status == 424 {
            return Ok(facts);
        }
        let Some(found) = data(&join) else {
            return Err(Failure::failed(format!(
                "'{}' does not tell about its cluster: {}",
                self.name(),
                said(&join)
            )));
        };
        facts.cluster = Some(text(&found["totem"]["cluster_name"]).unwrap_or_default());
        facts.nodes = list(&found["nodelist"]).map(known).collect();
        let mut links: Vec<u8> = facts
            .nodes
            .iter()
            .flat_map(|node| node.addresses.keys().copied())
            .collect();
        links.sort_unstable();
        links.dedup();
        facts.links = links;
        if let Some(found) = data(&self.get("/cluster/status")?) {
            for entry in list(found) {
                if text(&entry["type"]).as_deref() == Some("cluster") {
                    facts.quorate = Some(truth(&entry["quorate"]));
                }
                let name = text(&entry["name"]).unwrap_or_default();
                for node in facts.nodes.iter_mut().filter(|node| node.name == name) {
                    node.online = Some(truth(&entry["online"]));
                }
            }
        }
        let device = self.get("/cluster/config/qdevice")?;
        facts.has_device = data(&device)
            .and_then(Value::as_object)
            .is_some_and(|device| !device.is_empty());
        Ok(facts)
    }

    fn taken(&mut self, ids: &[u32]) -> Outcome<BTreeMap<u32, Taken>> {
        let mut taken = BTreeMap::new();
        for id in ids {
            let reply = self.get(&format!("/cluster/nextid?vmid={id}"))?;
            match reply.status {
                200 => {}
                400 => drop(taken.insert(*id, Taken::Told(whose(&reply)))),
                _ => return Err(Failure::failed(said(&reply))),
            }
        }
        Ok(taken)
    }

    fn admit(&mut self, request: &Request) -> Result<Admitted, NotAdmitted> {
        let path = format!("/cluster/config/nodes/{}", request.name);
        let ask = |probation: bool| {
            let form = request.parameters(1, probation);
            let reply = self.call(Method::POST, &path, &form);
            reply.map_err(|error| match error {
                CallError::Unreachable(_) | CallError::Untrusted(_) => {
                    NotAdmitted::Refused(unreachable(&self.client, &error).to_string())
                }
                _ => NotAdmitted::Unknown(error.to_string()),
            })
        };
        let mut reply = ask(true)?;
        if reply.status == 400 && !reply.body["errors"]["probation"].is_null() {
            reply = ask(false)?;
        }
        if reply.status == 501 {
            return Err(NotAdmitted::Refused(format!(
                "'{}' has no join interface: use --use_ssh",
                self.name()
            )));
        }
        let Some(data) = data(&reply) else {
            return Err(refusal(&reply));
        };
        let unreadable = || NotAdmitted::Unknown("its answer holds no key or configuration".into());
        let key = text(&data["corosync_authkey"]).ok_or_else(unreadable)?;
        let authkey: Option<Vec<u8>> = key.chars().map(|c| u8::try_from(c).ok()).collect();
        Ok(Admitted {
            authkey: authkey.ok_or_else(unreadable)?,
            conf: text(&data["corosync_conf"])
                .ok_or_else(unreadable)?
                .into_bytes(),
            warnings: list(&data["warnings"]).filter_map(text).collect(),
        })
    }

    fn withdraw(&mut self, name: &NodeName) -> Outcome {
        let path = format!("/cluster/config/nodes/{name}");
        let call = Call {
            method: Method::DELETE,
            path: &path,
            headers: &self.headers,
            form: &[],
        };
        let reply = self.client.call_to_the_end(self.trust, &call);
        let reply = reply.map_err(Failure::failed)?;
        let words = said(&reply);
        if (200..300).contains(&reply.status) || words.contains("is not a known host") {
            Ok(())
        } else {
            Err(Failure::failed(words))
        }
    }
}

/// An error of the member in the original's form.
fn refusal(reply: &Reply) -> NotAdmitted {
    let mut words = format!("An error occurred on the cluster node: {}", reply.reason);
    let errors = reply.body["errors"].as_object();
    for (field, value) in errors.into_iter().flatten() {
        let value = text(value).unwrap_or_default();
        let line = match field.as_str() {
            warning if warning.starts_with("warning") => format!("\n* {value}"),
            error if error.starts_with("error") => format!("\n! {value}"),
            other => format!("\n! {other}: {value}"),
        };
        words += line.trim_end();
    }
    words += "\nCluster join aborted!";
    // A proxy that lost its server says nothing about what the server did.
    if matches!(reply.status, 502..=504 | 595..=599) || (200..300).contains(&reply.status) {
        NotAdmitted::Unknown(words)
    } else {
        NotAdmitted::Refused(words)
    }
}

/// What an answer says that is not a success.
fn said(reply: &Reply) -> String {
    let message = text(&reply.body["message"]);
    let message = message.as_deref().map(str::trim);
    match message.filter(|message| !message.is_empty()) {
        Some(message) => format!("{} {message}", reply.status),
        None => format!("{} {}", reply.status, reply.reason),
    }
}

/// Whose a number is, as far as the member says it: in brackets, after that it is taken.
fn whose(reply: &Reply) -> String {
    let said = text(&reply.body["errors"]["vmid"]).unwrap_or_default();
    let inner = said
        .split_once('(')
        .and_then(|(_, rest)| rest.rsplit_once(')'));
    let shown = inner.map_or("", |(inner, _)| inner).chars();
    shown
        .filter(|letter| !letter.is_control())
        .take(400)
        .collect()
}

fn data(reply: &Reply) -> Option<&Value> {
    let is_success = (200..300).contains(&reply.status);
    reply.body.get("data").filter(|_| is_success)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Numbers come as numbers or as texts.
fn number(value: &Value) -> Option<u32> {
    text(value)?.parse().ok()
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Bool(truth) => *truth,
        other => number(other).is_some_and(|number| number != 0),
    }
}

fn known(entry: &Value) -> Known {
    let addresses: BTreeMap<u8, String> = (0..=LINK_MAX)
        .filter_map(|link| Some((link, text(&entry[format!("ring{link}_addr")])?)))
        .collect();
    Known {
        name: text(&entry["name"]).unwrap_or_default(),
        id: number(&entry["nodeid"]),
        addresses,
        api: text(&entry["pve_addr"]).and_then(|address| address.parse().ok()),
        online: None,
    }
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// Asks for a second factor: which ones the user has is written in the challenge.
fn second_factor(challenge: &str, host: &str, ask: &dyn Ask) -> Outcome<String> {
    let known = [
        ("totp", "one-time code (totp)"),
        ("recovery", "recovery key"),
        ("yubico", "Yubico OTP"),
    ];
    let offered = |(kind, _): &&(&str, &str)| challenge.contains(&format!("%22{kind}%22"));
    let (kind, words) = known.iter().find(offered).unwrap_or(&known[0]);
    let question = format!("Second factor of root@pam on '{host}', {words}: ");
    let answer = ask.secret(&question)?;
    Ok(format!("{kind}:{}", answer.expose().trim()))
}
