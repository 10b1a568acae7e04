//! The node alone.

use super::*;

#[test]
fn mounts_are_judged() {
    let unmounted = |mount: Mount| {
        move |facts: &mut Facts| {
            facts.mount = mount;
            facts.files = None;
        }
    };
    let all = |mount| after(unmounted(mount)).join("\n");
    assert!(
        all(Mount::Absent(0))
            .contains("FAIL mount /etc/pve: the cluster file system is not mounted ->")
    );
    assert!(all(Mount::Absent(3)).contains("3 entries lie in its place"));
    assert!(all(Mount::Dead("gone".to_owned())).contains("-> 'umount -l /etc/pve'"));
    assert!(all(Mount::Hanging).contains("does not answer"));
    assert!(
        all(Mount::Hanging)
            .contains("unknown configuration /etc/corosync/corosync.conf: version 4; not compared")
    );
    one(
        &["FAIL mount", "though there is quorum", "full disk"],
        |facts| facts.mount = Mount::ReadOnly,
    );
    assert!(all(Mount::ReadOnly).contains("though there is quorum"));
    let alone = after(|facts: &mut Facts| {
        facts.mount = Mount::ReadOnly;
        facts.messaging = Err("gone".to_owned());
    });
    let alone = alone.join("\n");
    assert!(
        alone.contains("there is no quorum -> 'pvecm status'"),
        "{alone}"
    );
}

#[test]
fn names_are_judged() {
    let at = |text: &str| Ok(vec![text.parse().unwrap()]);
    one(
        &["FAIL name n1", "does not resolve: gone", "/etc/hosts"],
        |facts| facts.addresses = Err("gone".to_owned()),
    );
    one(&["FAIL name n1", "loopback address only"], |facts| {
        facts.addresses = at("127.0.1.1")
    });
    one(
        &["FAIL name n1", "10.9.9.9, which is no address of this node"],
        |facts| facts.addresses = at("10.9.9.9"),
    );
    one(&["FAIL name n1", "tells the others 10.77.0.1"], |facts| {
        facts.addresses = at("10.78.0.1")
    });
}

#[test]
fn the_database_and_its_disk_are_judged() {
    one(&["FAIL database", "not there, though"], |facts| {
        facts.database = Database::Absent
    });
    one(&["FAIL database", "page 7", "backup"], |facts| {
        facts.database = Database::Bad("page 7".to_owned())
    });
    one(&["unknown database"], |facts| {
        facts.database = Database::Unknown("busy".to_owned())
    });
    let odd = |mode| Database::Good {
        version: 1,
        notes: vec!["odd".to_owned()],
        mode: Some(Mode {
            mode,
            uid: 0,
            size: 1,
        }),
    };
    one(&["warn database", "odd"], |facts| {
        facts.database = odd(0o600)
    });
    let found = after(|facts| facts.database = odd(0o644));
    assert!(found[1].contains("mode 0644: others may read"), "{found:?}");
    let disk = |free, files| {
        Ok(Disk {
            free,
            size: 1 << 40,
            files,
        })
    };
    one(&["FAIL disk", "5 MiB of"], |facts| {
        facts.disk = disk(5 << 20, None)
    });
    one(&["warn disk", "500 MiB of"], |facts| {
        facts.disk = disk(500 << 20, None)
    });
    one(&["FAIL disk", "room for 3 files"], |facts| {
        facts.disk = disk(1 << 39, Some(3))
    });
    one(&["unknown disk"], |facts| facts.disk = Err("?".to_owned()));
}

#[test]
fn changes_and_programs_are_judged() {
    let journal = |is_dated, goes_on| {
        Some(Journal {
            command: "pvecm create lab".to_owned(),
            when: "on a day".to_owned(),
            is_dated,
            goes_on,
        })
    };
    let what = "'pvecm create lab' was broken off on a day";
    one(&["FAIL changes", what, "run it again"], |facts| {
        facts.journal = journal(false, false);
    });
    one(&["FAIL changes", what, "'pvecm undo --forget'"], |facts| {
        facts.journal = journal(true, false);
    });
    one(
        &["unknown changes", "'pvecm create lab' is at work"],
        |facts| {
            facts.journal = journal(true, true);
        },
    );
    one(
        &["warn versions", "process 7, 9 runs an older corosync"],
        |facts| facts.programs[0].outdated = vec![7, 9],
    );
}

#[test]
fn links_on_the_network_of_a_storage_alone_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let host = Host {
        paths: crate::host::Paths::below(directory.path()),
        name: "n1".parse().unwrap(),
    };
    std::fs::create_dir_all(host.paths.pve("")).unwrap();
    let here = ["127.0.0.1".parse().unwrap()];
    assert_eq!(refuse_storage_network(&host, &here), Ok(()));
    let storage = "nfs: slow\n\tserver 127.0.0.9\n\texport /x\n";
    std::fs::write(host.paths.pve("storage.cfg"), storage).unwrap();
    let refused = refuse_storage_network(&host, &here).unwrap_err();
    assert_eq!(refused.code(), crate::failure::code::REFUSED);
    assert!(
        refused.to_string().contains("storage 'slow' (127.0.0.9)"),
        "{refused}"
    );
    assert_eq!(refuse_storage_network(&host, &[]), Ok(()));
}
