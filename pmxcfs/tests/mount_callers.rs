//! Callers that are not root, watchers of files, and what the kernel asks besides files: a real mount.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs::{self, File},
    os::fd::AsFd,
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
};

use common::{GID, Mounted, bytes, eventually};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify},
        statvfs,
    },
};
use pmxcfs::memdb::{MAX_ENTRIES, MAX_TOTAL_BYTES, Op};

/// Debian's: others may be where only root may look.
const PYTHON: &str = "/usr/bin/python3";

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Caller {
    /// A user whose first group is that of the mount.
    Group,
    /// A user who has it as one of several.
    ExtraGroup,
    /// Anybody else.
    Other,
}

/// Runs Python as that caller in the root of the mount and gives what it prints.
fn python(mounted: &Mounted, caller: Caller, script: &str) -> String {
    let (gid, groups) = match caller {
        Caller::Group => (GID, "--clear-groups".to_owned()),
        Caller::ExtraGroup => (4321, format!("--groups=4322,{GID}")),
        Caller::Other => (4321, "--clear-groups".to_owned()),
    };
    let output = Command::new("setpriv")
        .args(["--reuid=4321", &format!("--regid={gid}"), &groups])
        .args([PYTHON, "-c", script])
        .current_dir(mounted.root())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{caller:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The errno of each expression, `ok` for none, as that caller gets it.
fn outcomes(mounted: &Mounted, caller: Caller, calls: &[(&str, &str)]) -> Vec<(String, String)> {
    let calls: String = calls
        .iter()
        .map(|(call, _)| format!("  ({call:?}, lambda: {call}),\n"))
        .collect();
    let script = format!(
        "import errno, os, socket
calls = [
{calls}]
for text, call in calls:
    try:
        call()
        print(text, 'ok', sep='\\t')
    except OSError as error:
        print(text, errno.errorcode[error.errno], sep='\\t')
"
    );
    let printed = python(mounted, caller, &script);
    let lines = printed.lines().map(|line| line.split_once('\t').unwrap());
    lines
        .map(|(call, result)| (call.to_owned(), result.to_owned()))
        .collect()
}

fn expect(mounted: &Mounted, caller: Caller, calls: &[(&str, &str)]) {
    let expected: Vec<_> = calls
        .iter()
        .map(|(call, result)| ((*call).to_owned(), (*result).to_owned()))
        .collect();
    assert_eq!(outcomes(mounted, caller, calls), expected, "{caller:?}");
}

/// A tree with all that modes tell apart.
fn populated() -> Mounted {
    let mounted = Mounted::new();
    mounted.status.set("text");
    mounted.sh(
        "mkdir -p d priv/lock nodes/n1/priv nodes/n1/qemu-server sub/priv
         echo x | tee f d/f priv/f nodes/n1/priv/f nodes/n1/qemu-server/100.conf sub/priv/f vps.mount > /dev/null",
    );
    mounted
}

#[test]
fn modes_and_owners_follow_from_the_path() {
    let mounted = populated();
    let kind_and_mode = |path: &str| {
        let meta = fs::symlink_metadata(mounted.path(path)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (0, GID), "{path}");
        meta.mode() & 0o7777
    };
    for (path, quorate, not_quorate) in [
        ("", 0o755, 0o755),
        ("d", 0o755, 0o555),
        ("f", 0o640, 0o440),
        ("vps.mount", 0o740, 0o540),
        ("priv", 0o700, 0o500),
        ("priv/lock", 0o700, 0o500),
        ("priv/f", 0o600, 0o400),
        ("nodes/n1/priv", 0o700, 0o500),
        ("nodes/n1/priv/f", 0o600, 0o400),
        ("sub/priv", 0o755, 0o555),
        ("sub/priv/f", 0o640, 0o440),
        ("local", 0o755, 0o555),
        (".version", 0o440, 0o440),
        (".debug", 0o640, 0o640),
    ] {
        assert_eq!(kind_and_mode(path), quorate, "{path}");
        let refused = pmxcfs::dcdb::ProposeError::NoQuorum;
        mounted.backend.refuse(Some(refused));
        eventually(path, || kind_and_mode(path) == not_quorate);
        mounted.backend.refuse(None);
        eventually(path, || kind_and_mode(path) == quorate);
    }
}

#[test]
fn the_group_reads_what_is_not_private_and_others_list_and_stat() {
    let mounted = populated();
    for caller in [Caller::Group, Caller::ExtraGroup, Caller::Other] {
        let read = if caller == Caller::Other {
            "EACCES"
        } else {
            "ok"
        };
        expect(
            &mounted,
            caller,
            &[
                ("os.listdir('.')", "ok"),
                ("os.listdir('d')", "ok"),
                ("os.listdir('sub/priv')", "ok"),
                ("os.stat('f')", "ok"),
                ("os.readlink('local')", "ok"),
                ("os.listdir('local/qemu-server')", "ok"),
                ("os.statvfs('.')", "ok"),
                ("open('f').read()", read),
                ("open('d/f').read()", read),
                ("open('sub/priv/f').read()", read),
                ("open('local/qemu-server/100.conf').read()", read),
                ("open('.members').read()", read),
                ("open('.debug').read()", read),
                ("os.stat('priv')", "ok"),
                ("os.listdir('priv')", "EACCES"),
                ("os.stat('priv/f')", "EACCES"),
                ("open('priv/f').read()", "EACCES"),
                ("os.stat('priv/none')", "EACCES"),
                ("open('nodes/n1/priv/f').read()", "EACCES"),
                ("os.stat('none')", "ENOENT"),
            ],
        );
    }
}

#[test]
fn nobody_but_root_changes_anything() {
    let mounted = populated();
    mounted.backend.take_log();
    for caller in [Caller::Group, Caller::ExtraGroup, Caller::Other] {
        expect(
            &mounted,
            caller,
            &[
                ("open('f', 'r+')", "EACCES"),
                ("open('f', 'w')", "EACCES"),
                ("open('f', 'a')", "EACCES"),
                ("open('new', 'w')", "EACCES"),
                ("open('d/new', 'x')", "EACCES"),
                ("open('f', 'x')", "EEXIST"),
                ("open('.debug', 'w')", "EACCES"),
                ("os.truncate('f', 0)", "EACCES"),
                ("os.mkdir('new')", "EACCES"),
                ("os.mkdir('d')", "EEXIST"),
                ("os.mkdir('priv/lock/x')", "EACCES"),
                ("os.unlink('f')", "EACCES"),
                ("os.rmdir('d')", "EACCES"),
                ("os.rename('f', 'g')", "EACCES"),
                ("os.rename('f', 'd/f')", "EACCES"),
                ("os.symlink('f', 'new')", "EACCES"),
                ("os.mknod('new')", "EACCES"),
                ("os.mkfifo('new')", "EACCES"),
                ("os.link('f', 'new')", "EPERM"),
                ("os.utime('f')", "EACCES"),
                ("os.utime('f', (1, 1))", "EPERM"),
                ("os.chmod('f', 0o640)", "EPERM"),
                ("os.chmod('f', 0o666)", "EPERM"),
                ("os.chown('f', 4321, -1)", "EPERM"),
                ("os.chown('f', -1, 4321)", "EPERM"),
                ("os.setxattr('f', 'user.a', b'')", "EACCES"),
            ],
        );
    }
    assert_eq!(mounted.backend.take_log(), []);
    assert_eq!(fs::read(mounted.path("f")).unwrap(), b"x\n");
}

#[test]
fn a_descriptor_of_root_serves_whoever_gets_it() {
    let mounted = populated();
    let file = File::options()
        .append(true)
        .open(mounted.path("f"))
        .unwrap();
    let status = Command::new("setpriv")
        .args([
            "--reuid=4321",
            "--regid=4321",
            "--clear-groups",
            "echo",
            "y",
        ])
        .stdout(file)
        .status()
        .unwrap();
    assert!(status.success());
    eventually("the line", || {
        fs::read(mounted.path("f")).unwrap() == b"x\ny\n"
    });
}

#[test]
fn statfs_tells_limits_and_what_is_left() {
    let mounted = Mounted::new();
    let of = |mounted: &Mounted| statvfs::statvfs(mounted.root()).unwrap();
    let empty = of(&mounted);
    let blocks = MAX_TOTAL_BYTES / 4096;
    assert_eq!((empty.block_size(), empty.fragment_size()), (4096, 4096));
    assert_eq!((empty.blocks(), empty.files()), (32768, 262_144));
    assert_eq!((blocks, MAX_ENTRIES), (32768, 262_144));
    assert_eq!(empty.name_max(), 256);
    assert_eq!(empty.blocks_free(), empty.blocks_available());
    fs::create_dir(mounted.path("d")).unwrap();
    fs::write(mounted.path("d/f"), vec![1; 10 * 4096]).unwrap();
    let filled = of(&mounted);
    assert_eq!(empty.files_free() - filled.files_free(), 2);
    assert_eq!(empty.blocks_free() - filled.blocks_free(), 10);
    assert_eq!(of(&mounted).blocks(), 32768);
}

#[test]
fn there_are_no_extended_attributes() {
    let mounted = populated();
    let script = "import errno, os
for path in ['f', 'd', '.', '.version', 'priv/f']:
    for call in [
        lambda: os.setxattr(path, 'user.a', b'b'),
        lambda: os.setxattr(path, 'trusted.a', b'b'),
        lambda: os.getxattr(path, 'user.a'),
        lambda: os.getxattr(path, 'security.selinux'),
        lambda: os.listxattr(path),
        lambda: os.removexattr(path, 'user.a'),
    ]:
        try:
            call()
            print('ok')
        except OSError as error:
            print(error.errno == errno.EOPNOTSUPP or error)
";
    let output = Command::new(PYTHON)
        .args(["-c", script])
        .current_dir(mounted.root())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let expected = "True\n".repeat(5 * 6);
    assert_eq!(
        text,
        expected,
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Waits for so many events, equal ones in a row taken for one, and compares them.
fn events(inotify: &Inotify, expected: &[(AddWatchFlags, &str)]) {
    let mut found: Vec<(AddWatchFlags, String)> = Vec::new();
    while found.len() < expected.len() {
        let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        let patience = u16::try_from(common::PATIENCE.as_millis()).unwrap();
        let ready = poll(&mut fds, patience).unwrap();
        assert!(ready > 0, "{found:?}, not {expected:?}");
        found.extend(read_events(inotify));
        found.dedup();
    }
    let found: Vec<_> = found
        .iter()
        .map(|(mask, name)| (*mask, name.as_str()))
        .collect();
    assert_eq!(found, expected);
}

fn read_events(inotify: &Inotify) -> Vec<(AddWatchFlags, String)> {
    let events = match inotify.read_events() {
        Err(Errno::EAGAIN) => Vec::new(),
        events => events.unwrap(),
    };
    let plain = |mask: AddWatchFlags| mask & !AddWatchFlags::IN_ISDIR;
    events
        .into_iter()
        .map(|event| {
            let name = event.name.map(|name| name.into_string().unwrap());
            (plain(event.mask), name.unwrap_or_default())
        })
        .collect()
}

const WATCHED: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_ATTRIB);

fn watch(mounted: &Mounted, path: &str) -> Inotify {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
    inotify.add_watch(&mounted.path(path), WATCHED).unwrap();
    inotify
}

#[test]
fn watchers_hear_of_changes_of_this_node_as_on_any_file_system() {
    let mounted = Mounted::new();
    mounted.sh("mkdir d");
    let dir = watch(&mounted, "d");
    mounted.sh("echo x > d/f");
    events(
        &dir,
        &[
            (AddWatchFlags::IN_CREATE, "f"),
            (AddWatchFlags::IN_MODIFY, "f"),
            (AddWatchFlags::IN_CLOSE_WRITE, "f"),
        ],
    );
    let file = watch(&mounted, "d/f");
    mounted.sh("echo y > d/f");
    events(
        &dir,
        &[
            (AddWatchFlags::IN_MODIFY, "f"),
            (AddWatchFlags::IN_CLOSE_WRITE, "f"),
        ],
    );
    mounted.sh("touch -d @5 d/f");
    events(
        &dir,
        &[
            (AddWatchFlags::IN_ATTRIB, "f"),
            (AddWatchFlags::IN_CLOSE_WRITE, "f"),
        ],
    );
    events(
        &file,
        &[
            (AddWatchFlags::IN_MODIFY, ""),
            (AddWatchFlags::IN_CLOSE_WRITE, ""),
            (AddWatchFlags::IN_ATTRIB, ""),
            (AddWatchFlags::IN_CLOSE_WRITE, ""),
        ],
    );
    // As programs replace files.
    mounted.sh("echo z > d/f.tmp; mv d/f.tmp d/f");
    events(
        &dir,
        &[
            (AddWatchFlags::IN_CREATE, "f.tmp"),
            (AddWatchFlags::IN_MODIFY, "f.tmp"),
            (AddWatchFlags::IN_CLOSE_WRITE, "f.tmp"),
            (AddWatchFlags::IN_MOVED_FROM, "f.tmp"),
            (AddWatchFlags::IN_MOVED_TO, "f"),
        ],
    );
    mounted.sh("rm d/f; mkdir d/e; rmdir d/e");
    events(
        &dir,
        &[
            (AddWatchFlags::IN_DELETE, "f"),
            (AddWatchFlags::IN_CREATE, "e"),
            (AddWatchFlags::IN_DELETE, "e"),
        ],
    );
}

#[test]
fn watchers_hear_nothing_of_changes_of_other_nodes() {
    let mounted = Mounted::new();
    mounted.sh("mkdir d; echo x > d/f; cat d/f; ls d");
    let (dir, file) = (watch(&mounted, "d"), watch(&mounted, "d/f"));
    mounted.backend.remote_write("d/f", b"other");
    eventually("the change", || {
        fs::read(mounted.path("d/f")).unwrap() == b"other"
    });
    mounted.backend.remote_write("d/new", b"new");
    eventually("the new file", || mounted.path("d/new").exists());
    mounted.backend.remote(Op::Delete { path: bytes("d/f") });
    eventually("its end", || !mounted.path("d/f").exists());
    // The change of this node comes behind all that there was to hear.
    mounted.sh("mkdir d/mark");
    events(&dir, &[(AddWatchFlags::IN_CREATE, "mark")]);
    assert_eq!(read_events(&file), []);
}
