//! Changes that were broken off, and are not put back at once.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Break, Fake};
use crate::cli::Undo;
use crate::failure::{Failure, Outcome, code};
use crate::host::calendar;
use crate::host::services::Verb;
use crate::transaction::{self, Transaction, recover_with};
use crate::verb::change::{begin, begin_unless};
use crate::verb::undo::{plan, undo};

const DATABASE: &str = "var/lib/pve-cluster/config.db";

/// A node on which a command was killed after it had replaced the database.
fn broken() -> Fake {
    let node = Fake::new(Break::Never);
    node.write(DATABASE, "old");
    let directory = transaction::directory(&node.host.paths);
    let mut transaction = Transaction::begin(&directory, "pvecm create lab").unwrap();
    let path = node.host.paths.at(DATABASE);
    transaction.replace(&path, b"new", 0o600).unwrap();
    // Neither kept nor put back.
    drop(transaction);
    node
}

fn journal(node: &Fake) -> PathBuf {
    transaction::directory(&node.host.paths).join("journal.json")
}

fn change_journal(node: &Fake, key: &str, value: Value) {
    let path = journal(node);
    let mut text: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    match value {
        Value::Null => drop(text.as_object_mut().unwrap().remove(key)),
        value => text[key] = value,
    }
    fs::write(path, text.to_string()).unwrap();
}

fn database(node: &Fake) -> String {
    fs::read_to_string(node.host.paths.at(DATABASE)).unwrap()
}

fn said(node: &Fake, forget: bool) -> Outcome {
    let args = Undo {
        forget,
        yes: true,
        dry_run: false,
    };
    undo(&node.host, args, || Ok(()), &|_, _| Ok(()))
}

#[test]
fn a_question_can_be_left() {
    let node = broken();
    let args = Undo {
        forget: true,
        yes: false,
        dry_run: false,
    };
    let watch = || -> Outcome { panic!("signals are held back before there is an answer") };
    // Tests have no terminal to be asked on.
    let failure = undo(&node.host, args, watch, &|_, _| Ok(())).unwrap_err();
    assert_eq!(failure.code(), code::REFUSED);
    assert!(journal(&node).exists());
}

#[test]
fn what_was_broken_off_just_now_is_put_back_by_the_next_command() {
    let node = broken();
    drop(begin(&node.host).unwrap());
    assert_eq!(database(&node), "old");
    assert!(!journal(&node).exists());
}

#[test]
fn what_was_broken_off_long_ago_waits_for_the_user() {
    let hour_ago = calendar().as_secs() - 3600;
    let cases = [
        ("boot", json!("another"), "before this system started"),
        ("at", json!(hour_ago), "was broken off on "),
        ("at", json!(hour_ago + 7200), "was broken off on "),
        // Of an older version.
        ("boot", Value::Null, "before this system started"),
    ];
    for (key, value, words) in cases {
        let node = broken();
        change_journal(&node, key, value);
        let failure = begin(&node.host).unwrap_err();
        assert_eq!(failure.code(), code::REFUSED);
        let text = failure.to_string();
        for words in [
            words,
            "'pvecm create lab'",
            "'pvecm undo'",
            "'pvecm undo --forget'",
        ] {
            assert!(text.contains(words), "{text}");
        }
        assert_eq!(database(&node), "new");
        assert!(journal(&node).exists());

        said(&node, false).unwrap();
        assert_eq!(database(&node), "old");
        assert!(!journal(&node).exists());
        said(&node, false).unwrap();
    }
}

#[test]
fn what_takes_the_place_of_nothing_is_put_back_at_any_time() {
    let node = broken();
    change_journal(&node, "boot", json!("another"));
    let services = json!({"Services": {"verb": "start", "units": []}});
    change_journal(&node, "undo", json!([services]));
    let found = transaction::broken_off(&transaction::directory(&node.host.paths));
    assert!(!found.unwrap().unwrap().is_dated);
}

#[test]
fn what_the_user_keeps_stays() {
    let node = broken();
    change_journal(&node, "boot", json!("another"));
    said(&node, true).unwrap();
    assert_eq!(database(&node), "new");
    assert!(!transaction::directory(&node.host.paths).exists());
    drop(begin(&node.host).unwrap());
    assert_eq!(database(&node), "new");

    // Also when nobody can read the journal.
    let node = broken();
    fs::write(journal(&node), "{").unwrap();
    assert!(said(&node, false).is_err());
    said(&node, true).unwrap();
    assert!(!transaction::directory(&node.host.paths).exists());
}

#[test]
fn who_only_wants_to_know_puts_nothing_back() {
    let node = broken();
    assert!(begin_unless(true, &node.host).unwrap().is_none());
    assert_eq!(database(&node), "new");
    assert!(journal(&node).exists());
    assert!(!node.host.paths.at("var/lock/pvecm.lock").exists());
    assert!(begin_unless(false, &node.host).unwrap().is_some());
    assert_eq!(database(&node), "old");
}

#[test]
fn a_plan_is_what_would_be_done_and_does_nothing() {
    let node = broken();
    let database_at = node.host.paths.at(DATABASE);
    let put_back = format!("put back '{}'", database_at.display());
    assert_eq!(plan(&node.host, false).unwrap(), [put_back]);
    let directory = transaction::directory(&node.host.paths);
    let remove = format!("remove '{}'", directory.display());
    assert_eq!(plan(&node.host, true).unwrap(), [remove.as_str()]);
    assert_eq!(database(&node), "new");
    // Where nobody can read the journal there is one way out.
    fs::write(journal(&node), "{").unwrap();
    assert!(plan(&node.host, false).is_err());
    assert_eq!(plan(&node.host, true).unwrap(), [remove]);
    assert!(journal(&node).exists());
    said(&node, true).unwrap();
    for forget in [false, true] {
        assert_eq!(plan(&node.host, forget).unwrap(), Vec::<String>::new());
    }
}

#[test]
fn what_is_put_back_is_not_put_back_again() {
    let node = Fake::new(Break::Never);
    let paths = &node.host.paths;
    let calls = RefCell::new(Vec::new());
    let control = |verb: &str, _: &[&str]| -> Outcome {
        calls.borrow_mut().push(verb.to_owned());
        Ok(())
    };
    let directory = transaction::directory(paths);
    node.write(DATABASE, "old");
    let mut transaction = Transaction::begin(&directory, "pvecm create lab").unwrap();
    let units = ["pve-cluster.service"];
    transaction
        .services_with(&control, Verb::Stop, &units, Verb::Start)
        .unwrap();
    let key = paths.corosync("authkey");
    transaction.make_directory(&paths.corosync("")).unwrap();
    transaction.replace(&key, b"new", 0o400).unwrap();
    transaction
        .replace(&paths.at(DATABASE), b"new", 0o600)
        .unwrap();
    transaction
        .services_with(&control, Verb::Start, &units, Verb::Stop)
        .unwrap();
    // A directory in the place of the file keeps that from being put back.
    fs::remove_file(&key).unwrap();
    fs::create_dir_all(key.join("x")).unwrap();
    calls.borrow_mut().clear();
    let left = transaction.put_back_with(&control);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(database(&node), "old");
    assert_eq!(calls.take(), ["stop", "start"]);

    // It goes on, and later the rest is tried again, with the services as it needs them.
    node.write(DATABASE, "of a week later");
    fs::remove_dir_all(&key).unwrap();
    let recovered = recover_with(&directory, &control).unwrap().unwrap();
    assert_eq!(recovered.failures, Vec::<String>::new());
    assert_eq!(database(&node), "of a week later");
    assert_eq!(calls.take(), ["stop", "start"]);
    assert!(!directory.exists() && !paths.corosync("").exists());
}

#[test]
fn services_are_told_again_only_what_they_did_not_do() {
    let node = Fake::new(Break::Never);
    let directory = transaction::directory(&node.host.paths);
    let calls = RefCell::new(Vec::new());
    let done = |_: &str, _: &[&str]| Ok(());
    let mut transaction = Transaction::begin(&directory, "pvecm create lab").unwrap();
    for (verb, back) in [(Verb::Stop, Verb::Start), (Verb::Start, Verb::Stop)] {
        transaction
            .services_with(&done, verb, &["a"], back)
            .unwrap();
    }
    let no_start = |verb: &str, _: &[&str]| {
        calls.borrow_mut().push(verb.to_owned());
        match verb {
            "start" => Err(Failure::failed("no")),
            _ => Ok(()),
        }
    };
    assert_eq!(transaction.put_back_with(&no_start), ["no"]);
    assert_eq!(
        recover_with(&directory, &no_start)
            .unwrap()
            .unwrap()
            .failures,
        ["no"]
    );
    assert_eq!(calls.take(), ["stop", "start", "start"]);
    assert_eq!(
        recover_with(&directory, &done).unwrap().unwrap().failures,
        Vec::<String>::new()
    );
    assert!(!directory.exists());
}
