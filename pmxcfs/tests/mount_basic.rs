//! The file system on a real mount: errno by operation, and what programs do with it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink},
    process::{Child, Command},
};

use common::{GID, Mounted, bytes};
use pmxcfs::{dcdb::ProposeError, memdb::Op};

fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap(),
    }
}

#[test]
fn mounts_like_the_original() {
    let mounted = Mounted::new();
    let table = fs::read_to_string("/proc/mounts").unwrap();
    let root = mounted.root().to_str().unwrap();
    let line = table
        .lines()
        .find(|line| line.split(' ').nth(1) == Some(root));
    assert_eq!(
        line.unwrap(),
        format!(
            "/dev/fuse {root} fuse rw,nosuid,nodev,relatime,user_id=0,group_id=0,\
             default_permissions,allow_other 0 0"
        )
    );
}

#[test]
fn errno_by_operation_with_and_without_quorum() {
    let mounted = Mounted::new();
    mounted.sh("mkdir d e d/sub; echo x > f; echo y > g");
    let path = |name: &str| mounted.path(name);
    let create_new = |name: &str| {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path(name))
    };
    let truncating = |name: &str| {
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(path(name))
    };
    for quorate in [true, false] {
        let (source, target) = if quorate { ("e", "e2") } else { ("g", "g2") };
        let writable = |errno| if quorate { errno } else { libc::EACCES };
        mounted
            .backend
            .refuse((!quorate).then_some(ProposeError::NoQuorum));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path("f"))
            .unwrap();
        assert_eq!(errno(truncating("g")), writable(0));
        assert_eq!(errno(create_new("f")), libc::EEXIST);
        assert_eq!(errno(file.write_at(b"z", 0)), writable(0));
        assert_eq!(errno(file.write_at(b"", 0)), 0);
        assert_eq!(errno(file.write_at(b"z", 1 << 20)), writable(libc::EFBIG));
        assert_eq!(errno(file.set_len((1 << 20) + 1)), writable(libc::EFBIG));
        assert_eq!(errno(file.set_len(1 << 32)), writable(libc::EFBIG));
        assert_eq!(errno(fs::create_dir(path("d"))), libc::EEXIST);
        assert_eq!(errno(fs::create_dir(path("none/d"))), libc::ENOENT);
        assert_eq!(errno(fs::remove_file(path("none"))), libc::ENOENT);
        assert_eq!(errno(fs::rename(path("none"), path("n2"))), libc::ENOENT);
        assert_eq!(errno(fs::remove_dir(path("d"))), writable(libc::ENOTEMPTY));
        assert_eq!(errno(fs::create_dir(path("made"))), writable(0));
        assert_eq!(errno(create_new("new")), writable(0));
        assert_eq!(
            errno(fs::remove_file(path("new"))),
            if quorate { 0 } else { libc::ENOENT }
        );
        assert_eq!(
            errno(fs::remove_dir(path("made"))),
            if quorate { 0 } else { libc::ENOENT }
        );
        assert_eq!(errno(fs::rename(path(source), path(target))), writable(0));
        check_what_quorum_does_not_decide(&mounted, quorate);
    }
}

fn check_what_quorum_does_not_decide(mounted: &Mounted, quorate: bool) {
    let path = |name: &str| mounted.path(name);
    assert_eq!(errno(symlink("x", path("s"))), libc::ENOSYS);
    assert_eq!(errno(fs::hard_link(path("f"), path("l"))), libc::EPERM);
    assert_eq!(errno(fs::rename(path("f"), path("d"))), libc::EISDIR);
    assert_eq!(errno(fs::rename(path("d"), path("f"))), libc::ENOTDIR);
    assert_eq!(
        errno(OpenOptions::new().write(true).open(path("d"))),
        libc::EISDIR
    );
    let set = |bits| fs::set_permissions(path("f"), fs::Permissions::from_mode(bits));
    assert_eq!(
        [0o640, 0o644, 0o4640].map(|bits| errno(set(bits))),
        [0, libc::EPERM, libc::EPERM]
    );
    let owners = [
        (None, Some(GID)),
        (Some(0), None),
        (Some(1), None),
        (None, Some(0)),
    ];
    let owners = owners.map(|(uid, gid)| errno(chown(path("f"), uid, gid)));
    assert_eq!(owners, [0, 0, libc::EPERM, libc::EPERM]);
    assert_eq!(
        fs::symlink_metadata(path("local")).unwrap().mode() & 0o200 != 0,
        quorate
    );
    assert_eq!(
        fs::metadata(path("f")).unwrap().mode() & 0o777,
        if quorate { 0o640 } else { 0o440 }
    );
    assert_eq!(fs::metadata(mounted.root()).unwrap().mode() & 0o777, 0o755);
}

#[test]
fn calls_that_the_kernel_answers_keep_their_errno() {
    use nix::{errno::Errno, fcntl, sys::stat};
    let mounted = Mounted::new();
    mounted.sh("echo x > f; mkdir d");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(mounted.path("f"))
        .unwrap();
    let fallocate = fcntl::fallocate(&file, fcntl::FallocateFlags::empty(), 0, 100);
    assert_eq!(fallocate, Err(Errno::EOPNOTSUPP));
    let fifo = nix::unistd::mkfifo(&mounted.path("p"), stat::Mode::S_IRWXU);
    assert_eq!(fifo, Err(Errno::ENOSYS));
    let temporary = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(mounted.root());
    assert_eq!(errno(temporary), libc::EOPNOTSUPP);
    for flags in [
        fcntl::RenameFlags::RENAME_NOREPLACE,
        fcntl::RenameFlags::RENAME_EXCHANGE,
    ] {
        let (from, to) = (mounted.path("f"), mounted.path("h"));
        let here = fcntl::AT_FDCWD;
        let renamed = fcntl::renameat2(here, &from, here, &to, flags);
        let expected = if flags == fcntl::RenameFlags::RENAME_EXCHANGE {
            Errno::ENOENT
        } else {
            Errno::EINVAL
        };
        assert_eq!(renamed, Err(expected), "{flags:?}");
    }
    assert_eq!(
        errno(fs::rename(mounted.path("f"), "/dev/shm/x")),
        libc::EXDEV
    );
    let long = |len| mounted.path("n".repeat(len));
    assert_eq!(errno(File::create(long(1025))), libc::ENAMETOOLONG);
    let dir = File::open(mounted.path("d")).unwrap();
    dir.sync_all().unwrap();
}

#[test]
fn computed_entries_show_and_refuse_as_the_original_does() {
    let mounted = Mounted::new();
    mounted.status.set("text");
    let path = |name: &str| mounted.path(name);
    assert_eq!(
        fs::read_link(path("local")).unwrap().to_str(),
        Some("nodes/n1")
    );
    assert_eq!(
        fs::read_link(path("lxc")).unwrap().to_str(),
        Some("nodes/n1/lxc")
    );
    assert_eq!(fs::read(path(".members")).unwrap(), b"text");
    assert_eq!(fs::metadata(path(".members")).unwrap().len(), 4);
    mounted.status.set("longer text");
    assert_eq!(fs::read(path(".members")).unwrap(), b"longer text");
    assert_eq!(fs::metadata(path(".members")).unwrap().len(), 11);
    assert_eq!(errno(fs::write(path(".members"), "x")), libc::EIO);
    assert_eq!(errno(fs::remove_file(path(".version"))), libc::EACCES);
    assert_eq!(errno(fs::remove_file(path("local"))), libc::EACCES);
    assert_eq!(errno(fs::create_dir(path(".rrd"))), libc::EEXIST);
    assert_eq!(errno(fs::create_dir(path(".rrd/x"))), libc::ENOTDIR);
    mounted.sh("echo x > f; touch -c -d @5 f");
    assert_eq!(errno(fs::rename(path("f"), path(".rrd"))), libc::EACCES);
    assert_eq!(errno(fs::rename(path(".rrd"), path("f"))), libc::EACCES);
    assert!(!mounted.try_sh("touch .version").status.success());
    mounted.sh("echo 1 > .debug");
    assert_eq!(fs::read(path(".debug")).unwrap(), b"1\n");
    assert!(!mounted.try_sh("echo 0 >> .debug").status.success());
}

#[test]
fn a_redirection_of_a_shell_never_publishes_an_empty_file() {
    let mounted = Mounted::new();
    mounted.sh("echo old > f");
    mounted.backend.take_log();
    for script in [
        "echo one > f",
        "(echo two; echo three) > f",
        "cat > f <<< four",
        "{ echo five; cat <<< six; } > f",
        "bash -c 'echo seven; exec echo eight' > f",
        "exec 3> f; (sleep 0.05; echo nine >&3) & exec 3>&-; wait",
        "exec 3<> f; echo ten >&3; exec 3>&-",
        "printf 'eleven' | tee f",
        "perl -e 'open F, q(>), q(f); system(q(true)); print F qq(x\\n); close F' || echo p > f",
    ] {
        mounted.sh(script);
        common::eventually(script, || !mounted.backend.content("f").unwrap().is_empty());
        let writes = mounted.writes_of("f");
        assert_eq!(writes.len(), 1, "{script}: {writes:?}");
        assert!(!writes[0].is_empty(), "{script}");
    }
    mounted.sh(": > f");
    common::eventually("an empty file on purpose", || {
        mounted.backend.content("f").unwrap().is_empty()
    });
}

#[test]
fn a_writer_s_node_sees_its_writes_at_once() {
    let mounted = Mounted::new();
    mounted.sh("echo 0123456789 > f");
    mounted.backend.take_log();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(mounted.path("f"))
        .unwrap();
    assert_eq!(fs::read(mounted.path("f")).unwrap(), b"0123456789\n");
    file.write_all(b"AB").unwrap();
    assert_eq!(fs::read(mounted.path("f")).unwrap(), b"AB23456789\n");
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(b"more").unwrap();
    assert_eq!(fs::metadata(mounted.path("f")).unwrap().len(), 15);
    assert_eq!(fs::read(mounted.path("f")).unwrap(), b"AB23456789\nmore");
    let mut appender = OpenOptions::new()
        .append(true)
        .open(mounted.path("f"))
        .unwrap();
    appender.write_all(b"!").unwrap();
    assert_eq!(fs::read(mounted.path("f")).unwrap(), b"AB23456789\nmore!");
    file.set_len(3).unwrap();
    assert_eq!(fs::read(mounted.path("f")).unwrap(), b"AB2");
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "AB2");
    assert_eq!(mounted.backend.take_log(), []);
    drop((file, appender));
}

#[test]
fn a_large_write_is_one_operation_and_a_too_large_one_none() {
    let mounted = Mounted::new();
    let data = vec![7; 1 << 20];
    fs::write(mounted.path("f"), &data).unwrap();
    assert_eq!(mounted.writes_of("f").len(), 1);
    assert_eq!(fs::read(mounted.path("f")).unwrap(), data);
    let too_large = vec![8; (1 << 20) + 1];
    assert_eq!(errno(fs::write(mounted.path("f"), &too_large)), libc::EFBIG);
    common::eventually("old content", || {
        fs::read(mounted.path("f")).unwrap() == data
    });
    assert_eq!(mounted.writes_of("f").len(), 0);
}

#[test]
fn errors_of_a_change_surface_at_close_and_fsync() {
    let mounted = Mounted::new();
    mounted.sh("echo old > f");
    let mut file = OpenOptions::new()
        .write(true)
        .open(mounted.path("f"))
        .unwrap();
    file.write_all(b"new").unwrap();
    mounted.backend.fail_next(ProposeError::Busy);
    assert_eq!(errno(file.sync_all()), libc::EBUSY);
    file.sync_all().unwrap();
    assert_eq!(mounted.backend.content("f").unwrap(), "new\n");
    file.write_all(b"er").unwrap();
    mounted
        .backend
        .fail_next(ProposeError::Forbidden("no".to_owned()));
    let closed = nix::unistd::close(file);
    assert_eq!(closed, Err(nix::errno::Errno::EPERM));
    common::eventually("old content", || {
        fs::read(mounted.path("f")).unwrap() == b"new\n"
    });
}

#[test]
fn removed_and_replaced_files_serve_their_handles() {
    let mounted = Mounted::new();
    mounted.sh("echo kept > f; echo other > g");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(mounted.path("f"))
        .unwrap();
    fs::remove_file(mounted.path("f")).unwrap();
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(b"more").unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "kept\nmore");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    nix::unistd::close(file).unwrap();
    let mut reader = File::open(mounted.path("g")).unwrap();
    let writer = OpenOptions::new()
        .write(true)
        .open(mounted.path("g"))
        .unwrap();
    writer.write_at(b"mine", 0).unwrap();
    mounted.backend.remote_write("tmp", b"theirs");
    mounted.backend.remote(Op::Rename {
        from: bytes("tmp"),
        to: bytes("g"),
    });
    let closed = nix::unistd::close(writer);
    assert_eq!(closed, Err(nix::errno::Errno::ENOENT));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "other\n");
    common::eventually("new file", || {
        fs::read(mounted.path("g")).unwrap() == b"theirs"
    });
    assert!(!mounted.sh("ls -a").contains("fuse_hidden"));
}

#[test]
fn times_can_be_set_as_far_as_they_are_kept() {
    let mounted = Mounted::new();
    mounted.sh("echo x > f; touch -d @1000 f");
    let mtime = || fs::metadata(mounted.path("f")).unwrap().mtime();
    assert_eq!(mtime(), 1000);
    mounted.sh("touch -a f");
    assert_eq!(mtime(), 1000);
    mounted.sh("touch -m -d @2000 f");
    assert_eq!(mtime(), 2000);
    mounted.sh("touch -d @4294967297 f");
    assert_eq!(mtime(), 1);
    mounted.sh("touch -d @-9223372036854775808 f; touch -d @9223372036854775807 f");
    mounted.sh("mkdir -p priv/lock/x; touch -d @5 priv/lock/y 2>/dev/null; true");
    let release = mounted.try_sh("touch -d @0 priv/lock/x");
    assert!(!release.status.success());
    assert_eq!(mounted.backend.take_unlocks(), [bytes("priv/lock/x")]);
}

/// A process that holds a descriptor until this is dropped.
struct Holder(Child);

impl Holder {
    fn new(file: File) -> Self {
        let mut sleep = Command::new("sleep");
        Self(sleep.arg("1000").stdin(file).spawn().unwrap())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_copy_that_another_process_closes_publishes_nothing_half_written() {
    let mounted = Mounted::new();
    // The lowest descriptors are taken, as in a server with many connections.
    let many: Vec<_> = (0..200).map(|_| File::open("/dev/null").unwrap()).collect();
    // A process holds an earlier descriptor of the file long after its close here.
    let earlier = File::create(mounted.path("f")).unwrap();
    let _holder = Holder::new(earlier);
    mounted.backend.take_log();

    let mut file = File::create(mounted.path("f")).unwrap();
    file.write_all(b"half, ").unwrap();
    // A started process gets copies of all descriptors, and closes them before its program begins.
    assert!(Command::new("true").status().unwrap().success());
    let early = mounted.writes_of("f");
    file.write_all(b"whole").unwrap();
    drop(file);
    let closed = mounted.writes_of("f");
    assert!(early.is_empty(), "{early:?}");
    assert_eq!(closed, ["half, whole"]);
    drop(many);
}
