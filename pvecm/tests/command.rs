//! The program as it is called: what does not depend on a node.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

const PVECM: &str = env!("CARGO_BIN_EXE_pvecm");

/// Who reads what it says may be gone before it says it.
#[test]
fn a_command_that_nobody_listens_to_has_its_exit_code() {
    for (args, code) in [
        (&["no-such-command"][..], 64),
        (&["create", "a_b"], 64),
        (&["add", "h", "--ring0_addr", "10.0.0.1,priority=x"], 64),
        (&["keygen", "/dev/null"], 2),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(PVECM);
        command.args(args).stdin(Stdio::null()).stderr(writer);
        let output = command.output().unwrap();
        assert_eq!(output.status.signal(), None, "{args:?}");
        assert_eq!(output.status.code(), Some(code), "{args:?}");
    }
}

/// Who may not change anything is told so first, whatever else is wrong.
#[test]
fn somebody_else_than_root_is_told_so() {
    let other = |program: &str, args: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", program]).args(args).output()
    };
    if !other("true", &[]).is_ok_and(|output| output.status.success()) {
        eprintln!("this machine has no other users for a test");
        return;
    }
    for args in [
        &["create", "lab"][..],
        &["expected", "1"],
        &["token"],
        &["token", "list"],
        &["nextid"],
        &["doctor"],
        &["undo"],
        &["undo", "--dry-run"],
        &["quorum", "--force-local"],
    ] {
        let output = other(PVECM, args).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert_eq!(said, "please run as root\n", "{args:?}");
    }
}

#[test]
fn half_a_key_is_no_key() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("deeper/authkey");
    // As on a full disk: not a byte of a file may be written.
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$0\" keygen \"$1\"";
    let args = ["-c", script, PVECM, key.to_str().unwrap()];
    let output = Command::new("bash").args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("can not write '"), "{said}");
    assert!(!key.exists());
    let again = Command::new(PVECM).arg("keygen").arg(&key).output();
    assert!(again.unwrap().status.success());
    assert_eq!(fs::metadata(&key).unwrap().len(), 256);
}
