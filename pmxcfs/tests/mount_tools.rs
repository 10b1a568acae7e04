//! Ordinary programs on a real mount.

mod common;

use common::Mounted;

/// Runs a script on a mount and compares what is published in the end with what it should be.
fn script(script: &str, expected: &[(&str, &str)]) {
    let mounted = Mounted::new();
    mounted.sh(script);
    for (path, content) in expected {
        let published = mounted.backend.content(path);
        let published = published.unwrap_or_else(|| panic!("{path} is missing"));
        assert_eq!(String::from_utf8_lossy(&published), *content, "{path}");
    }
    assert!(!mounted.sh("find .").contains("fuse_hidden"));
}

#[test]
fn cp_keeps_attributes_without_complaint() {
    script(
        "mkdir -p a/sub; echo x > a/f; echo y > a/sub/g; cp -a a b; cp -p a/f c; cp --sparse=always a/f d
         [ \"$(stat -c %Y a/f)\" = \"$(stat -c %Y b/f)\" ]",
        &[("b/f", "x\n"), ("b/sub/g", "y\n"), ("c", "x\n"), ("d", "x\n")],
    );
}

#[test]
fn rsync_copies_and_updates() {
    script(
        "mkdir a; echo x > a/f; echo y > a/g; rsync -a a/ b/; echo z > a/f; rsync -a --delete a/ b/; rsync -a --inplace a/ b/",
        &[("b/f", "z\n"), ("b/g", "y\n")],
    );
}

#[test]
fn git_commits() {
    script(
        "export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
         git init -q repo; cd repo; echo x > f; git add f
         git -c user.name=n -c user.email=e commit -qm one; echo y >> f
         git -c user.name=n -c user.email=e commit -qam two; git gc -q; git fsck --strict
         [ \"$(git log --oneline | wc -l)\" = 2 ]; git checkout -q HEAD~1",
        &[("repo/f", "x\n")],
    );
}

#[test]
fn editors_replace_files_and_keep_backups() {
    script(
        "echo one > f; echo one > g
         vim -u NONE -N -i NONE -n -es -c 'set backup backupskip= backupcopy=no' -c '%s/one/two/' -c wq f </dev/null
         vim -u NONE -N -i NONE -n -es -c 'set backup backupskip= backupcopy=yes' -c '%s/one/two/' -c wq g </dev/null
         sed -i.orig s/two/three/ f",
        &[
            ("f", "three\n"),
            ("f~", "one\n"),
            ("f.orig", "two\n"),
            ("g", "two\n"),
            ("g~", "one\n"),
        ],
    );
}

#[test]
fn tar_packs_and_unpacks() {
    script(
        "mkdir -p a/b; echo x > a/b/f; tar cf t.tar a; mkdir out; tar xpf t.tar -C out; diff -r a out/a",
        &[("out/a/b/f", "x\n")],
    );
}

#[test]
fn locks_of_the_kernel_work() {
    script(
        "exec 9> l; flock -x 9; if flock -n l true; then exit 1; fi; flock -u 9; flock -n l echo free > f",
        &[("f", "free\n")],
    );
}

#[test]
fn appends_of_many_processes_lose_nothing() {
    let mounted = Mounted::new();
    mounted
        .sh("for i in $(seq 20); do (for j in $(seq 10); do echo $i.$j >> log; done) & done; wait");
    let log = mounted.backend.content("log").unwrap();
    let mut lines: Vec<_> = log
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 200);
}
