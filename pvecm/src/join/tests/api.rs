//! Calls of a member over TLS, right and wrong.

use std::cell::RefCell;
use std::net::TcpListener;

use super::facts;
use super::member::{Answer, Member, PASSWORD, Seen, TOKEN, no, ok};
use super::plan;
use crate::failure::{Failure, Outcome};
use crate::join::api::{Ask, Credentials, Session, authenticate};
use crate::join::client::{Client, Target, Trust};
use crate::join::peer::{NotAdmitted, Peer as _, Taken};
use crate::join::secret::Secret;
use crate::join::version::Version;
use crate::value::Fingerprint;

/// Answers what it was told to, and remembers the questions.
#[derive(Default)]
struct Person {
    answers: RefCell<Vec<&'static str>>,
    asked: RefCell<Vec<String>>,
}

impl Person {
    fn saying(answers: &[&'static str]) -> Self {
        Self {
            answers: RefCell::new(answers.to_vec()),
            ..Self::default()
        }
    }
}

impl Ask for Person {
    fn line(&self, question: &str) -> Outcome<String> {
        self.asked.borrow_mut().push(question.to_owned());
        let mut answers = self.answers.borrow_mut();
        if answers.is_empty() {
            return Err(Failure::failed("nobody answers"));
        }
        Ok(answers.remove(0).to_owned())
    }

    fn secret(&self, question: &str) -> Outcome<Secret> {
        self.line(question).map(Secret::new)
    }
}

fn client(port: u16) -> Client<'static> {
    Client::new(Target::new("127.0.0.1", port), &|| false).unwrap()
}

fn password() -> Credentials {
    Credentials::Password(Secret::new(PASSWORD))
}

fn login(member: &Member, credentials: &Credentials, person: &Person) -> Outcome<Session<'static>> {
    let trust = Trust::Pinned(member.fingerprint);
    Session::login(client(member.port), trust, credentials, person)
}

fn usual() -> Member {
    Member::start(|_| None)
}

fn at(line: &'static str, answer: Answer) -> impl Fn(&Seen) -> Option<Answer> + Send + Sync {
    move |seen| (seen.line == line).then(|| answer.clone())
}

#[test]
fn a_password_gives_a_session_that_knows_the_cluster_and_lets_this_node_in() {
    let member = usual();
    let mut session = login(&member, &password(), &Person::default()).unwrap();
    let mut found = session.facts().unwrap();
    let ahead = found.ahead.take().unwrap();
    assert!((-2..=2).contains(&ahead), "{ahead}");
    assert_eq!(
        found,
        crate::join::peer::Facts {
            ahead: None,
            ..facts()
        }
    );
    let admitted = session.admit(&plan().request).unwrap();
    let key: Vec<u8> = (0..=255).collect();
    assert_eq!(admitted.authkey, key);
    assert_eq!(admitted.conf, super::CONF.as_bytes());
    assert_eq!(admitted.warnings, ["w"]);
    session.withdraw(&"n2".parse().unwrap()).unwrap();
    let seen = member.seen();
    let asked = seen.iter().find(|seen| seen.line.contains("nodes/n2"));
    assert_eq!(
        asked.unwrap().body,
        "new_node_ip=10.77.0.2&apiversion=1&probation=1"
    );
}

#[test]
fn members_that_run_something_else_say_so() {
    let original = r#"{"release":"9.1","repoid":"42db4a6cf33dac83","version":"9.1.1"}"#;
    for (answer, version) in [
        (ok(original), Some(Version::Original("9.1.1".to_owned()))),
        (no("501 Method 'GET /version' not implemented"), None),
        (no("403 Permission check failed"), None),
    ] {
        let member = Member::start(at("GET /api2/json/version", answer));
        let token = Credentials::Token(Secret::new(TOKEN));
        let mut session = login(&member, &token, &Person::default()).unwrap();
        assert_eq!(session.facts().unwrap().version, version);
    }
}

#[test]
fn a_token_is_enough() {
    let member = usual();
    let token = Credentials::Token(Secret::new(TOKEN));
    let mut session = login(&member, &token, &Person::default()).unwrap();
    assert_eq!(session.facts().unwrap().cluster.as_deref(), Some("lab"));
    session.admit(&plan().request).unwrap();
}

#[test]
fn a_token_that_may_see_little_is_enough_as_well() {
    let member = Member::start(|seen| {
        let hidden = ["cluster/status", "config/qdevice"];
        let is_hidden = hidden.iter().any(|path| seen.line.ends_with(path));
        is_hidden.then(|| no("403 Permission check failed"))
    });
    let token = Credentials::Token(Secret::new(TOKEN));
    let mut session = login(&member, &token, &Person::default()).unwrap();
    let found = session.facts().unwrap();
    assert_eq!((found.quorate, found.has_device), (None, false));
    assert_eq!(found.nodes[0].online, None);
}

#[test]
fn wrong_passwords_and_wrong_or_old_tokens_are_refused() {
    let member = usual();
    let wrong = Credentials::Password(Secret::new("guess"));
    let failure = login(&member, &wrong, &Person::default()).unwrap_err();
    assert_eq!(failure.code(), 2);
    assert!(
        failure.to_string().contains("401 authentication failure"),
        "{failure}"
    );
    assert!(!failure.to_string().contains("guess"));

    let wrong = Credentials::Token(Secret::new("PVEJoinToken=0011:bad"));
    let mut session = login(&member, &wrong, &Person::default()).unwrap();
    let failure = session.facts().unwrap_err();
    assert_eq!(failure.code(), 2);
    assert!(failure.to_string().contains("'pvecm token'"), "{failure}");

    let old = Member::start(|_| Some(no("401 the token has expired")));
    let token = Credentials::Token(Secret::new(TOKEN));
    let failure = login(&old, &token, &Person::default())
        .unwrap()
        .facts()
        .unwrap_err();
    assert_eq!(failure.code(), 2);
    assert!(failure.to_string().contains("expired"), "{failure}");
}

#[test]
fn nothing_is_sent_to_somebody_with_another_certificate() {
    let member = usual();
    let trust = Trust::Pinned(Fingerprint::new([1; 32]));
    let failure = authenticate(&client(member.port), trust, &Person::default(), &|_| ());
    let failure = failure.unwrap_err();
    assert_eq!(failure.code(), 2);
    let text = failure.to_string();
    let wanted = format!("fingerprint '{}' not verified, abort!", member.fingerprint);
    assert!(text.starts_with(&wanted), "{text}");
    let login = Session::login(client(member.port), trust, &password(), &Person::default());
    assert!(login.is_err());
    assert!(member.seen().is_empty());
}

#[test]
fn an_unknown_certificate_is_shown_and_confirmed() {
    let member = usual();
    let said = RefCell::new(Vec::new());
    let say = |line: &str| said.borrow_mut().push(line.to_owned());
    let person = Person::saying(&["yes"]);
    let trust = authenticate(&client(member.port), Trust::System, &person, &say).unwrap();
    assert_eq!(trust, Trust::Pinned(member.fingerprint));
    assert_eq!(
        *said.borrow(),
        [
            "The authenticity of host '127.0.0.1' can't be established.".to_owned(),
            format!("X509 SHA256 key fingerprint is {}.", member.fingerprint),
        ]
    );
    assert_eq!(
        *person.asked.borrow(),
        ["Are you sure you want to continue connecting (yes/no)? "]
    );
    for answer in ["no", "", "y"] {
        let person = Person::saying(&[answer]);
        let failure = authenticate(&client(member.port), Trust::System, &person, &say);
        let failure = failure.unwrap_err();
        assert_eq!(failure.code(), 2);
        assert!(
            failure
                .to_string()
                .starts_with("Fingerprint not verified, abort!")
        );
    }
    assert!(member.seen().is_empty());
}

#[test]
fn a_second_factor_is_asked_for() {
    let member = Member::start(|seen| {
        if !seen.line.ends_with("/access/ticket") {
            return None;
        }
        let challenge = "PVE:!tfa!%7B%22recovery%22%3Anull%2C%22totp%22%3Atrue%7D:6A::x";
        Some(if !seen.body.contains("tfa-challenge=") {
            ok(&format!(
                r#"{{"username":"root@pam","ticket":"{challenge}","NeedTFA":1}}"#
            ))
        } else if seen.body.contains("password=totp%3A123456&") {
            ok(r#"{"ticket":"PVE:root@pam:6A:: +/=","CSRFPreventionToken":"6A:mac"}"#)
        } else {
            no("401 authentication failure")
        })
    });
    let person = Person::saying(&["123456"]);
    login(&member, &password(), &person)
        .unwrap()
        .facts()
        .unwrap();
    assert!(person.asked.borrow()[0].contains("totp"));
    let person = Person::saying(&["000000"]);
    assert_eq!(login(&member, &password(), &person).unwrap_err().code(), 2);
}

#[test]
fn a_dead_peer_is_named_with_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let failure = authenticate(&client(port), Trust::System, &Person::default(), &|_| ());
    let text = failure.unwrap_err().to_string();
    assert!(
        text.contains("can not reach the API of '127.0.0.1'"),
        "{text}"
    );

    // Something that is no TLS.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            use std::io::Write as _;
            drop(stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n"));
        }
    });
    let failure = authenticate(&client(port), Trust::System, &Person::default(), &|_| ());
    assert!(failure.unwrap_err().to_string().contains("TLS"));
}

#[test]
fn a_peer_that_says_nothing_can_be_interrupted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = Client::new(Target::new("127.0.0.1", port), &|| true).unwrap();
    let failure = authenticate(&client, Trust::System, &Person::default(), &|_| ());
    assert_eq!(failure.unwrap_err().to_string(), "interrupted");
}

#[test]
fn a_member_of_the_original_is_asked_again_without_probation() {
    let member = Member::start(|seen| {
        seen.body.contains("probation").then(|| {
            (
                "400 Parameter verification failed.".to_owned(),
                r#"{"errors":{"probation":"property is not defined in schema and the schema does not allow additional properties"},"data":null}"#.to_owned(),
            )
        })
    });
    let mut session = login(&member, &password(), &Person::default()).unwrap();
    session.admit(&plan().request).unwrap();
    let seen = member.seen();
    assert_eq!(
        seen.last().unwrap().body,
        "new_node_ip=10.77.0.2&apiversion=1"
    );
}

#[test]
fn refusals_of_the_member_are_shown_as_the_original_shows_them() {
    let refused = (
        "500 invalid corosync.conf".to_owned(),
        r#"{"data":null,"errors":{"error0":"no nodes found","warning0":"doubtful"}}"#.to_owned(),
    );
    let member = Member::start(at("POST /api2/json/cluster/config/nodes/n2", refused));
    let mut session = login(&member, &password(), &Person::default()).unwrap();
    let NotAdmitted::Refused(text) = session.admit(&plan().request).unwrap_err() else {
        panic!("it is known that nothing has changed");
    };
    assert_eq!(
        text,
        "An error occurred on the cluster node: invalid corosync.conf\n! no nodes found\n* doubtful\n\
         Cluster join aborted!"
    );
    let absent = no("501 Method not implemented");
    let member = Member::start(at("POST /api2/json/cluster/config/nodes/n2", absent));
    let mut session = login(&member, &password(), &Person::default()).unwrap();
    let refused = session.admit(&plan().request).unwrap_err();
    assert!(matches!(refused, NotAdmitted::Refused(text) if text.contains("--use_ssh")));
}

#[test]
fn an_answer_that_is_lost_or_junk_leaves_it_open_what_happened() {
    let junk = [
        "{",
        r#"{"data":{"corosync_authkey":"\u0100","corosync_conf":""}}"#,
        r#"{"data":{}}"#,
    ];
    for body in junk {
        let answer = ("200 OK".to_owned(), body.to_owned());
        let member = Member::start(at("POST /api2/json/cluster/config/nodes/n2", answer));
        let mut session = login(&member, &password(), &Person::default()).unwrap();
        let lost = session.admit(&plan().request).unwrap_err();
        assert!(matches!(lost, NotAdmitted::Unknown(_)), "{body}: {lost:?}");
    }
    let huge = ("200 OK".to_owned(), format!("\"{}\"", "x".repeat(5 << 20)));
    let member = Member::start(at("POST /api2/json/cluster/config/nodes/n2", huge));
    let mut session = login(&member, &password(), &Person::default()).unwrap();
    let lost = session.admit(&plan().request).unwrap_err();
    assert!(matches!(lost, NotAdmitted::Unknown(_)), "{lost:?}");
}

#[test]
fn a_node_that_is_out_already_is_out() {
    let path = "DELETE /api2/json/cluster/config/nodes/n2";
    let gone = no("500 Node/IP: n2 is not a known host of the cluster.");
    let member = Member::start(at(path, gone));
    let mut session = login(&member, &password(), &Person::default()).unwrap();
    session.withdraw(&"n2".parse().unwrap()).unwrap();
    let member = Member::start(at(path, no("500 cluster not ready - no quorum?")));
    let mut session = login(&member, &password(), &Person::default()).unwrap();
    let failure = session.withdraw(&"n2".parse().unwrap()).unwrap_err();
    assert!(failure.to_string().contains("no quorum"), "{failure}");
}

#[test]
fn a_member_without_cluster_says_so() {
    let alone = no("424 node is not in a cluster, no join info available!");
    let member = Member::start(at("GET /api2/json/cluster/config/join", alone));
    let mut session = login(&member, &password(), &Person::default()).unwrap();
    assert_eq!(session.facts().unwrap().cluster, None);
}

#[test]
fn a_member_that_says_whose_a_number_is_is_heard() {
    for (said, whose) in [
        ("VM 100 already exists", ""),
        (
            "VM 100 already exists (lxc 'a (old)' on node 'n3')",
            "lxc 'a (old)' on node 'n3'",
        ),
    ] {
        let body = format!(r#"{{"errors":{{"vmid":"{said}"}},"data":null}}"#);
        let answer = ("400 Parameter verification failed.".to_owned(), body);
        let path = "GET /api2/json/cluster/nextid?vmid=100";
        let member = Member::start(at(path, answer));
        let mut session = login(&member, &password(), &Person::default()).unwrap();
        let taken = session.taken(&[100]).unwrap();
        assert_eq!(taken[&100], Taken::Told(whose.to_owned()));
    }
}
