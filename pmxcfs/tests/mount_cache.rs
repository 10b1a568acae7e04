//! What the kernel caches is never stale, and telling it so never locks anything up.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{FileExt, MetadataExt},
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use bytes::Bytes;
use common::{Mounted, PATIENCE, bytes, clock, eventually};
use pmxcfs::{dcdb::ProposeError, memdb::Op};

fn rename(from: &str, to: &str) -> Op {
    Op::Rename {
        from: bytes(from),
        to: bytes(to),
    }
}

#[test]
fn changes_of_other_nodes_show_in_everything_cached() {
    let mounted = Mounted::new();
    mounted.backend.remote(Op::Mkdir { path: bytes("d") });
    let path = mounted.path("d/f");
    let list = || fs::read_dir(mounted.path("d")).unwrap().count();
    let changed = |what: &str, condition: &mut dyn FnMut() -> bool| eventually(what, condition);
    assert!(!path.exists(), "the absence is cached from here on");
    mounted.backend.remote_write("d/f", b"one");
    changed("created", &mut || path.exists());
    assert_eq!((fs::read(&path).unwrap(), list()), (b"one".to_vec(), 1));
    let open = File::open(&path).unwrap();
    for content in ["two", "longer", "s", ""] {
        mounted.backend.remote_write("d/f", content.as_bytes());
        changed("open and read", &mut || {
            fs::read(&path).unwrap() == content.as_bytes()
        });
        changed("size", &mut || {
            fs::metadata(&path).unwrap().len() == content.len() as u64
        });
        let mut buffer = [0; 10];
        let read = open.read_at(&mut buffer, 0).unwrap();
        assert_eq!(&buffer[..read], content.as_bytes(), "open descriptor");
    }
    mounted.backend.remote(Op::Mtime {
        path: bytes("d/f"),
        mtime: 77,
    });
    changed("time", &mut || fs::metadata(&path).unwrap().mtime() == 77);
    mounted.backend.remote(rename("d/f", "g"));
    changed("name gone", &mut || !path.exists());
    changed("name there", &mut || mounted.path("g").exists());
    assert_eq!(list(), 0);
    mounted.backend.remote_write("tmp", b"replacement");
    mounted.backend.remote(rename("tmp", "g"));
    changed("replaced", &mut || {
        fs::read(mounted.path("g")).unwrap() == b"replacement"
    });
    mounted.backend.remote(Op::Delete { path: bytes("g") });
    changed("deleted", &mut || !mounted.path("g").exists());
}

#[test]
fn a_replaced_tree_shows_at_once() {
    let mounted = Mounted::new();
    mounted.sh("mkdir d; echo a > d/f; echo b > g; cat d/f g; ! cat none");
    mounted.backend.replace(|tree| {
        let mut new = pmxcfs::memdb::Tree::new();
        let stamp = pmxcfs::memdb::Stamp {
            writer: 9,
            mtime: 9,
        };
        for op in [
            Op::Create { path: bytes("g") },
            Op::Create {
                path: bytes("none"),
            },
            Op::Write {
                path: bytes("g"),
                offset: 0,
                data: bytes("new"),
                truncate: true,
            },
        ] {
            new.apply(&op, stamp).result.unwrap();
        }
        *tree = new;
    });
    eventually("directory gone", || !mounted.path("d").exists());
    eventually("new content", || {
        fs::read(mounted.path("g")).is_ok_and(|text| text == b"new")
    });
    eventually("new name", || mounted.path("none").exists());
}

#[test]
fn the_loss_of_quorum_shows_in_modes() {
    let mounted = Mounted::new();
    mounted.sh("mkdir d; echo x > d/f");
    let modes =
        || ["d", "d/f"].map(|path| fs::metadata(mounted.path(path)).unwrap().mode() & 0o777);
    assert_eq!(modes(), [0o755, 0o640]);
    mounted.backend.refuse(Some(ProposeError::NoQuorum));
    eventually("read-only", || modes() == [0o555, 0o440]);
    mounted.backend.refuse(None);
    eventually("writable", || modes() == [0o755, 0o640]);
}

#[test]
fn a_mapping_shows_the_file_and_its_changes() {
    let mounted = Mounted::new();
    mounted.sh("printf old > f");
    let script = "import mmap,sys
f=open('f','rb'); m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ,flags=mmap.MAP_SHARED)
print(m[:3].decode(),flush=True)
while m[:3]!=b'new': pass
print('seen',flush=True)";
    let mut child = std::process::Command::new("python3")
        .args(["-c", script])
        .current_dir(mounted.root())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "old");
    mounted.backend.remote_write("f", b"new");
    assert_eq!(lines.next().unwrap().unwrap(), "seen");
    assert!(child.wait().unwrap().success());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let kernel: Vec<u32> = kernel.split('.').map_while(|n| n.parse().ok()).collect();
    if kernel >= vec![6, 6] {
        // Opened amid the changes, too.
        let shown = mounted.sh(&format!("python3 -c \"{script}\" < /dev/null"));
        assert_eq!(shown, "new\nseen\n");
    }
}

#[test]
fn appends_behind_a_change_of_another_node_land_behind_it() {
    let mounted = Mounted::new();
    mounted.sh("echo one > log");
    let mut log = OpenOptions::new()
        .append(true)
        .open(mounted.path("log"))
        .unwrap();
    mounted.backend.remote(Op::Write {
        path: bytes("log"),
        offset: 4,
        data: Bytes::from_static(b"remote\n"),
        truncate: false,
    });
    log.write_all(b"two\n").unwrap();
    nix::unistd::close(log).unwrap();
    let expected = b"one\nremote\ntwo\n";
    assert_eq!(mounted.backend.content("log").unwrap(), &expected[..]);
    eventually("cached pages", || {
        fs::read(mounted.path("log")).unwrap() == expected
    });
}

/// Runs `change` on a thread until the backend holds it back, then `meanwhile`.
fn while_blocked(mounted: &Mounted, change: impl FnOnce() + Send, meanwhile: impl FnOnce()) {
    thread::scope(|scope| {
        mounted.backend.block();
        let blocked = scope.spawn(change);
        mounted.backend.wait_blocked(1);
        meanwhile();
        mounted.backend.unblock();
        blocked.join().unwrap();
    });
}

#[test]
fn invalidations_in_a_directory_with_a_blocked_change_lock_nothing_up() {
    let mounted = Mounted::new();
    mounted
        .sh("mkdir d e; echo x > d/f; echo x > d/r; echo x > e/f; cat d/* e/*; ! ls d/none e/none");
    let path = |name: &str| mounted.path(name);
    let create = || drop(File::create(path("d/new")).unwrap());
    let rename = || fs::rename(path("d/r"), path("d/s")).unwrap();
    let unlink = || fs::remove_file(path("d/s")).unwrap();
    let changes: [(&str, &(dyn Fn() + Sync)); 3] = [
        ("create", &create),
        ("rename", &rename),
        ("unlink", &unlink),
    ];
    let open = File::open(path("d/f")).unwrap();
    for (what, change) in changes {
        while_blocked(&mounted, change, || {
            // In the blocked directory: names wait for the change, content does not.
            mounted
                .backend
                .remote_write(&format!("d/{what}"), b"remote");
            mounted.backend.remote_write("d/f", what.as_bytes());
            eventually("content in the blocked directory", || {
                let mut buffer = [0; 10];
                let read = open.read_at(&mut buffer, 0).unwrap();
                &buffer[..read] == what.as_bytes()
            });
            // Elsewhere: everything goes on.
            mounted
                .backend
                .remote_write(&format!("e/{what}"), b"remote");
            mounted.backend.remote_write("e/f", what.as_bytes());
            eventually("name elsewhere", || path(&format!("e/{what}")).exists());
            eventually("content elsewhere", || {
                fs::read(path("e/f")).unwrap() == what.as_bytes()
            });
        });
        eventually("name afterwards", || path(&format!("d/{what}")).exists());
    }
}

#[test]
fn blocked_writers_do_not_delay_readers() {
    let mounted = Mounted::with_threads(4);
    mounted.sh("mkdir w; echo x > f; cat f .version");
    mounted.backend.block();
    thread::scope(|scope| {
        for writer in 0..40 {
            let path = mounted.path(format!("w/{writer}"));
            let other = mounted.path("f");
            scope.spawn(move || {
                if writer % 2 == 0 {
                    // The kernel lets one of these through at a time, and holds the lock of their
                    // directory, which readers of names that it does not know yet wait for.
                    fs::write(path, "x").unwrap();
                } else {
                    fs::write(other, format!("{writer}")).unwrap();
                }
            });
        }
        mounted.backend.wait_blocked(2);
        let start = clock();
        for _ in 0..200 {
            assert!(fs::read(mounted.path("f")).unwrap().len() <= 2);
            fs::read(mounted.path(".version")).unwrap();
            fs::metadata(mounted.path("f")).unwrap();
        }
        let each = start.elapsed() / 200;
        eprintln!("three calls of a reader beside blocked writers: {each:?}");
        assert!(each.as_millis() < 20, "{each:?}");
        mounted.backend.unblock();
    });
}

#[test]
fn a_slow_disk_does_not_stop_readers() {
    let mounted = Mounted::new();
    mounted.sh("echo x > f");
    for _ in 0..3 {
        mounted.backend.hold_disk();
        // Whoever stores next is held up, and another thread has to see to the rest.
        fs::read(mounted.path(".version")).unwrap();
        mounted.backend.wait_blocked(1);
        for _ in 0..50 {
            fs::read(mounted.path(".version")).unwrap();
            File::open(mounted.path("f")).unwrap();
        }
        mounted.backend.release_disk();
        fs::read(mounted.path(".version")).unwrap();
    }
}

#[test]
fn a_storm_of_invalidations_and_users_ends() {
    let mounted = Mounted::new();
    mounted.sh("mkdir d; for i in 0 1 2 3; do echo $i > d/$i; done");
    let stop = AtomicBool::new(false);
    let start = Barrier::new(7);
    thread::scope(|scope| {
        for user in 0..6 {
            let (mounted, stop, start) = (&mounted, &stop, &start);
            scope.spawn(move || {
                start.wait();
                let dir = mounted.path("d");
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let path = dir.join(format!("{}", (user + round) % 4));
                    // Any error but a lock-up is fine: files come and go.
                    let _any = match user % 3 {
                        0 => fs::read(&path).map(|_| ()),
                        1 => fs::write(&path, format!("{round}")),
                        _ => fs::rename(&path, dir.join("x")).and(fs::rename(dir.join("x"), &path)),
                    };
                    let _held = File::open(&path).and_then(|file| file.metadata());
                }
            });
        }
        start.wait();
        for round in 0..2000 {
            let write = |path: &str, data: String| Op::Write {
                path: bytes(path),
                offset: 0,
                data: data.into(),
                truncate: true,
            };
            // Users move the files about: some of these find none.
            for op in [
                write(&format!("d/{}", round % 4), format!("remote {round}")),
                Op::Create {
                    path: bytes("d/tmp"),
                },
                write("d/tmp", "t".to_owned()),
                rename("d/tmp", &format!("d/n{}", round % 7)),
            ] {
                let _refused = mounted.backend.try_remote(&op);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let tree = mounted.sh("cd d; for f in *; do echo $f $(stat -c %s $f); done");
    for line in tree.lines() {
        let (name, size) = line.split_once(' ').unwrap();
        let content = mounted.backend.content(&format!("d/{name}")).unwrap();
        assert_eq!(content.len(), size.parse::<usize>().unwrap(), "{name}");
        assert_eq!(
            fs::read(mounted.path("d").join(name)).unwrap(),
            content,
            "{name}"
        );
    }
}

#[test]
fn a_busy_mount_is_unmounted_cleanly() {
    let mut mounted = Mounted::new();
    mounted.sh("mkdir d; echo x > d/f");
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .open(mounted.path("d/f"))
        .unwrap();
    open.write_at(b"unpublished", 0).unwrap();
    let mut user = std::process::Command::new("sleep")
        .arg("1000")
        .current_dir(mounted.path("d"))
        .spawn()
        .unwrap();
    let start = clock();
    mounted.session.take().unwrap().unmount();
    assert!(start.elapsed() < PATIENCE / 10, "{:?}", start.elapsed());
    assert_eq!(mounted.losses.load(Ordering::SeqCst), 0);
    assert_eq!(
        open.read_at(&mut [0], 0).unwrap_err().raw_os_error(),
        Some(libc::ENOTCONN)
    );
    assert_eq!(mounted.backend.content("d/f").unwrap(), "x\n");
    assert_eq!(fs::read_dir(mounted.root()).unwrap().count(), 0);
    user.kill().unwrap();
    user.wait().unwrap();
}

#[test]
fn an_unmount_by_somebody_else_is_noticed() {
    for lazily in [false, true] {
        let mounted = Mounted::new();
        let held = lazily.then(|| File::open(mounted.root()).unwrap());
        let mut umount = std::process::Command::new("umount");
        if lazily {
            umount.arg("--lazy");
        }
        assert!(umount.arg(mounted.root()).status().unwrap().success());
        eventually("loss", || mounted.losses.load(Ordering::SeqCst) == 1);
        drop(held);
        eventually("end", || mounted.session.as_ref().unwrap().has_ended());
    }
}

/// Readers of a file that another node changes all the time get one version of it with each read.
#[test]
fn a_read_amid_changes_of_others_gives_one_version() {
    const READS: usize = 20_000;
    let mounted = Mounted::new();
    let version = |number: usize| format!("{number:06}\n").repeat(5_000 + number % 7 * 900);
    mounted.backend.remote_write("f", version(0).as_bytes());
    let path = mounted.path("f");
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in (1..).take_while(|_| !end.load(Ordering::Relaxed)) {
                mounted
                    .backend
                    .remote_write("f", version(number).as_bytes());
                thread::yield_now();
            }
        });
        let mut mixed = 0;
        let mut buffer = vec![0; 1 << 17];
        for _ in 0..READS {
            let len = File::open(&path).unwrap().read(&mut buffer).unwrap();
            let text = std::str::from_utf8(&buffer[..len]).unwrap();
            let number = text.get(..6).map_or(0, |text| text.parse().unwrap());
            mixed += usize::from(text != version(number));
        }
        end.store(true, Ordering::Relaxed);
        assert_eq!(mixed, 0, "of {READS}");
    });
}
