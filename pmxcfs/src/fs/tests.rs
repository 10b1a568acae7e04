use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    testing::{FixedStatus, MemBackend, wait},
    *,
};
use crate::{
    dcdb::ProposeError,
    memdb::{MAX_FILE_SIZE, Name, Op, OpError},
};

const GID: u32 = 33;
const NOW: u32 = 2_000_000;

fn setup() -> (Arc<MemBackend>, Arc<Fs>) {
    let (backend, _, fs) = setup_with_status();
    (backend, fs)
}

fn setup_with_status() -> (Arc<MemBackend>, Arc<FixedStatus>, Arc<Fs>) {
    let backend = MemBackend::new();
    let status = Arc::new(FixedStatus::default());
    let fs = Arc::new(Fs::new(FsConfig {
        backend: Arc::clone(&backend) as Arc<dyn Backend>,
        status: Arc::clone(&status) as Arc<dyn StatusSource>,
        node: "n1".to_owned(),
        gid: GID,
        clock: || NOW,
    }));
    backend.observe(&fs);
    (backend, status, fs)
}

fn request(flags: i32) -> OpenRequest {
    OpenRequest { flags, pid: 0 }
}

fn create_with(fs: &Arc<Fs>, name: &str, flags: i32) -> Result<Opened, FsError> {
    wait(|done| fs.create_then(ROOT_INO, name.as_bytes(), request(flags), done))
        .map(|(_, opened)| opened)
}

fn mkdir(fs: &Arc<Fs>, dir: u64, name: &str) -> Result<u64, FsError> {
    wait(|done| fs.mkdir_then(dir, name.as_bytes(), done)).map(|attr| attr.ino)
}

fn unlink(fs: &Arc<Fs>, name: &str) -> Result<(), FsError> {
    wait(|done| fs.unlink_then(ROOT_INO, name.as_bytes(), done))
}

fn rename(fs: &Arc<Fs>, from: &str, to: &str) -> Result<(), FsError> {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    wait(|done| fs.rename_then((ROOT_INO, from), (ROOT_INO, to), done))
}

fn create(fs: &Arc<Fs>, name: &str) -> Opened {
    let flags = libc::O_CREAT | libc::O_RDWR;
    create_with(fs, name, flags).unwrap()
}

fn open(fs: &Fs, name: &str, flags: i32) -> Opened {
    let ino = ino(fs, name);
    fs.open(ino, request(flags)).unwrap()
}

fn ino(fs: &Fs, name: &str) -> u64 {
    fs.lookup(ROOT_INO, name.as_bytes()).unwrap().unwrap().ino
}

fn write(fs: &Fs, file: Opened, offset: u64, data: &[u8]) {
    let written = fs.write(file.handle, offset, data, false, 0).unwrap();
    assert_eq!(written as usize, data.len());
}

fn read(fs: &Fs, file: Opened) -> Bytes {
    fs.read(file.handle, 0, u32::MAX).unwrap()
}

fn release(fs: &Fs, file: Opened) {
    fs.close(file.handle, fs.flush(file.handle));
}

fn put(fs: &Arc<Fs>, backend: &MemBackend, name: &str, data: &[u8]) {
    let file = create(fs, name);
    write(fs, file, 0, data);
    release(fs, file);
    backend.take_log();
}

fn bytes(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

fn whole(path: &str, data: &str) -> Op {
    Op::Write {
        path: bytes(path),
        offset: 0,
        data: bytes(data),
        truncate: true,
    }
}

#[test]
fn many_writes_become_one_operation_at_close() {
    let (backend, fs) = setup();
    let file = create(&fs, "f");
    write(&fs, file, 0, b"abc");
    write(&fs, file, 3, b"def");
    assert_eq!(backend.content("f").unwrap(), "", "nothing before close");
    assert_eq!(read(&fs, file), "abcdef");
    assert_eq!(fs.getattr(ino(&fs, "f")).unwrap().size, 6);
    assert_eq!(backend.take_log(), [Op::Create { path: bytes("f") }]);
    fs.flush(file.handle).unwrap();
    assert_eq!(backend.take_log(), [whole("f", "abcdef")]);
    release(&fs, file);
    assert_eq!(backend.take_log(), []);
}

#[test]
fn rewriting_is_one_atomic_replacement() {
    let (backend, fs) = setup();
    put(&fs, &backend, "f", b"old content");
    let file = open(&fs, "f", libc::O_WRONLY | libc::O_TRUNC);
    assert_eq!(backend.content("f").unwrap(), "old content");
    assert_eq!(fs.getattr(ino(&fs, "f")).unwrap().size, 0);
    write(&fs, file, 0, b"new");
    release(&fs, file);
    assert_eq!(backend.take_log(), [whole("f", "new")]);
}

#[test]
fn rewriting_the_same_content_sends_nothing() {
    let (backend, fs) = setup();
    put(&fs, &backend, "f", b"same");
    let file = open(&fs, "f", libc::O_WRONLY | libc::O_TRUNC);
    write(&fs, file, 0, b"same");
    release(&fs, file);
    assert_eq!(backend.take_log(), []);
}

#[test]
fn a_small_edit_sends_only_itself() {
    let (backend, fs) = setup();
    put(&fs, &backend, "f", b"0123456789");
    let file = open(&fs, "f", libc::O_RDWR);
    write(&fs, file, 4, b"xy");
    fs.flush(file.handle).unwrap();
    let edit = Op::Write {
        path: bytes("f"),
        offset: 4,
        data: bytes("xy"),
        truncate: false,
    };
    assert_eq!(backend.take_log(), [edit]);
    assert_eq!(backend.content("f").unwrap(), "0123xy6789");
}

#[test]
fn appends_go_to_the_end_at_submission() {
    let (backend, fs) = setup();
    put(&fs, &backend, "log", b"one\n");
    let file = open(&fs, "log", libc::O_WRONLY | libc::O_APPEND);
    fs.write(file.handle, 4, b"two\n", true, 0).unwrap();
    let grown = Op::Write {
        path: bytes("log"),
        offset: 4,
        data: bytes("remote\n"),
        truncate: false,
    };
    backend.remote(grown);
    assert_eq!(read(&fs, file), "one\nremote\ntwo\n");
    release(&fs, file);
    assert_eq!(backend.content("log").unwrap(), "one\nremote\ntwo\n");
}

#[test]
fn writers_of_one_file_see_each_other_and_tear_nothing() {
    let (backend, fs) = setup();
    put(&fs, &backend, "f", b"..........");
    let a = open(&fs, "f", libc::O_RDWR);
    let b = open(&fs, "f", libc::O_RDWR);
    write(&fs, a, 0, b"AAA");
    write(&fs, b, 5, b"BBB");
    for file in [a, b] {
        assert_eq!(read(&fs, file), "AAA..BBB..");
    }
    release(&fs, b);
    assert_eq!(backend.content("f").unwrap(), ".....BBB..");
    assert_eq!(read(&fs, a), "AAA..BBB..");
    release(&fs, a);
    assert_eq!(backend.content("f").unwrap(), "AAA..BBB..");
}

#[test]
fn an_own_unlink_keeps_the_file_for_its_handles() {
    let (backend, fs) = setup();
    put(&fs, &backend, "f", b"kept");
    let file = open(&fs, "f", libc::O_RDWR);
    let number = ino(&fs, "f");
    unlink(&fs, "f").unwrap();
    assert_eq!(read(&fs, file), "kept");
    write(&fs, file, 4, b"!");
    assert_eq!(read(&fs, file), "kept!");
    let attr = fs.getattr(number).unwrap();
    assert_eq!((attr.nlink, attr.size, attr.lasting), (0, 5, false));
    backend.take_log();
    fs.flush(file.handle).unwrap();
    assert_eq!(read(&fs, file), "kept!");
    release(&fs, file);
    assert_eq!(backend.take_log(), []);
    assert_eq!(fs.getattr(number), Err(FsError::Stale));
}

#[test]
fn a_replacement_elsewhere_keeps_readers_and_fails_writers() {
    let (backend, fs) = setup();
    put(&fs, &backend, "f", b"old");
    let reader = open(&fs, "f", libc::O_RDONLY);
    let writer = open(&fs, "f", libc::O_WRONLY);
    write(&fs, writer, 0, b"mine");
    backend.remote_write("tmp", b"theirs");
    backend.remote(Op::Rename {
        from: bytes("tmp"),
        to: bytes("f"),
    });
    assert_eq!(fs.flush(writer.handle), Err(FsError::Removed));
    assert_eq!(fs.flush(writer.handle), Ok(()), "reported once");
    assert_eq!(read(&fs, reader), "old");
    assert_eq!(read(&fs, open(&fs, "f", libc::O_RDONLY)), "theirs");
}

#[test]
fn a_replaced_tree_keeps_open_files() {
    let (backend, fs) = setup();
    put(&fs, &backend, "f", b"old");
    let file = open(&fs, "f", libc::O_RDONLY);
    backend.replace(|tree| *tree = Tree::new());
    assert_eq!(read(&fs, file), "old");
    assert!(fs.notes().next_names().unwrap().since.is_some());
    assert!(fs.notes().next_inodes().unwrap().since.is_some());
}

#[test]
fn a_file_follows_its_name() {
    let (backend, fs) = setup();
    put(&fs, &backend, "a", b"x");
    let file = open(&fs, "a", libc::O_WRONLY | libc::O_TRUNC);
    write(&fs, file, 0, b"new");
    rename(&fs, "a", "b").unwrap();
    release(&fs, file);
    assert_eq!(backend.content("b").unwrap(), "new");
}

#[test]
fn a_failed_close_drops_the_edits_and_a_failed_fsync_keeps_them() {
    let (backend, fs) = setup();
    put(&fs, &backend, "f", b"old");
    let file = open(&fs, "f", libc::O_RDWR);
    write(&fs, file, 0, b"new");
    backend.fail_next(ProposeError::Busy);
    assert_eq!(fs.fsync(file.handle).unwrap_err().errno(), libc::EBUSY);
    assert_eq!(read(&fs, file), "new");
    backend.fail_next(ProposeError::Busy);
    assert_eq!(fs.flush(file.handle).unwrap_err().errno(), libc::EBUSY);
    assert_eq!(read(&fs, file), "old");
    let notes = fs.notes().next_inodes().unwrap();
    assert_eq!(notes.inodes[&ino(&fs, "f")], Stale::Content);
    write(&fs, file, 0, b"NEW");
    fs.fsync(file.handle).unwrap();
    assert_eq!(
        (backend.content("f").unwrap(), backend.syncs()),
        (bytes("NEW"), 1)
    );
}

#[test]
fn a_file_that_does_not_fit_is_refused_as_a_whole() {
    let (backend, fs) = setup();
    put(&fs, &backend, "f", b"old");
    let file = open(&fs, "f", libc::O_WRONLY | libc::O_TRUNC);
    write(&fs, file, 0, &vec![1; MAX_FILE_SIZE as usize]);
    let error = fs.write(file.handle, u64::from(MAX_FILE_SIZE), b"x", false, 0);
    assert_eq!(error, Err(FsError::TooLarge));
    assert_eq!(fs.flush(file.handle), Err(FsError::TooLarge));
    assert_eq!(backend.content("f").unwrap(), "old");
    let far = fs.write(file.handle, u64::MAX, b"x", false, 0);
    assert_eq!(far, Err(FsError::TooLarge));
}

#[test]
fn without_quorum_changes_are_refused_before_anything_is_sent() {
    let (backend, fs) = setup();
    put(&fs, &backend, "f", b"old");
    backend.refuse(Some(ProposeError::NoQuorum));
    let number = ino(&fs, "f");
    let file = open(&fs, "f", libc::O_RDWR);
    let errnos = [
        fs.open(number, request(libc::O_WRONLY | libc::O_TRUNC))
            .unwrap_err(),
        fs.write(file.handle, 0, b"x", false, 0).unwrap_err(),
        mkdir(&fs, ROOT_INO, "d").unwrap_err(),
        unlink(&fs, "f").unwrap_err(),
    ]
    .map(|error| error.errno());
    assert_eq!(errnos, [libc::EACCES; 4]);
    assert_eq!(unlink(&fs, "none"), Err(FsError::NotFound));
    assert_eq!(mkdir(&fs, ROOT_INO, "f"), Err(FsError::Exists));
    assert_eq!(fs.write(file.handle, 0, b"", false, 0), Ok(0));
    assert_eq!(fs.getattr(number).unwrap().mode, 0o440);
    assert_eq!(fs.getattr(Virtual::Local.ino()).unwrap().mode, 0o555);
    assert!(fs.notes().next_inodes().unwrap().all_attributes);
    assert_eq!(backend.take_log(), []);
}

#[test]
fn a_release_that_loses_writes_tells_which_and_why() {
    let (backend, status, fs) = setup_with_status();
    put(&fs, &backend, "f", b"old");
    let file = open(&fs, "f", libc::O_RDWR);
    write(&fs, file, 0, b"new");
    release(&fs, file);
    assert_eq!(status.take_losses(), [""; 0]);

    let file = open(&fs, "f", libc::O_RDWR);
    write(&fs, file, 0, b"lost");
    backend.fail_next(ProposeError::Busy);
    release(&fs, file);
    let [text] = status.take_losses().try_into().unwrap();
    assert!(text.contains("'f'") && text.contains("in time"), "{text}");
    assert_eq!(backend.content("f").unwrap(), "new");

    let file = open(&fs, "f", libc::O_RDWR);
    write(&fs, file, 0, b"lost");
    backend.remote(Op::Delete { path: "f".into() });
    release(&fs, file);
    let [text] = status.take_losses().try_into().unwrap();
    assert!(text.contains("'f'") && text.contains("removed"), "{text}");
}

#[test]
fn a_lost_race_to_create_opens_the_file_that_is_there() {
    let (backend, fs) = setup();
    backend.remote_first(Op::Create { path: bytes("f") });
    let flags = libc::O_CREAT | libc::O_WRONLY;
    assert!(create_with(&fs, "f", flags).is_ok());
    backend.remote_first(Op::Create { path: bytes("g") });
    let lost = create_with(&fs, "g", flags | libc::O_EXCL);
    assert_eq!(lost.unwrap_err().errno(), libc::EEXIST);
}

#[test]
fn same_values_are_accepted_and_others_refused() {
    let (backend, fs) = setup();
    put(&fs, &backend, "f", b"x");
    mkdir(&fs, ROOT_INO, "d").unwrap();
    mkdir(&fs, ROOT_INO, "priv").unwrap();
    backend.take_log();
    let mode = |mode| SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    };
    let try_set = |name: &str, set: &SetAttr| fs.setattr(ino(&fs, name), None, set).is_ok();
    for (name, bits, ok) in [
        ("f", 0o640, true),
        ("f", 0o600, false),
        ("f", 0o4640, false),
        ("d", 0o755, true),
        ("d", 0o640, true),
        ("d", 0o700, false),
        ("priv", 0o700, true),
        ("priv", 0o600, true),
        ("priv", 0o640, false),
        (".version", 0o640, true),
        (".version", 0o600, false),
    ] {
        assert_eq!(try_set(name, &mode(bits)), ok, "{name} {bits:o}");
    }
    let owner = |uid, gid| SetAttr {
        uid,
        gid,
        ..SetAttr::default()
    };
    assert!(try_set("f", &owner(Some(0), Some(GID))));
    assert!(!try_set("f", &owner(Some(0), Some(0))));
    assert!(!try_set("f", &owner(Some(1), None)));
    let same = fs.getattr(ino(&fs, "f")).unwrap().mtime;
    let mtime = |mtime| SetAttr {
        mtime: Some(mtime),
        ..SetAttr::default()
    };
    assert!(try_set("f", &mtime(TimeChange::At(same))));
    let atime = SetAttr {
        atime: Some(TimeChange::Now),
        ..SetAttr::default()
    };
    assert!(try_set("f", &atime));
    assert_eq!(backend.take_log(), []);
    assert!(try_set("f", &mtime(TimeChange::Now)));
    assert_eq!(fs.getattr(ino(&fs, "f")).unwrap().mtime, NOW);
    let fixed = fs.setattr(ROOT_INO, None, &mtime(TimeChange::Now));
    assert_eq!(fixed, Err(FsError::Fixed));
}

#[test]
fn a_time_set_before_close_outlives_it() {
    let (backend, fs) = setup();
    let file = create(&fs, "f");
    write(&fs, file, 0, b"x");
    let number = ino(&fs, "f");
    let set = SetAttr {
        mtime: Some(TimeChange::At(77)),
        ..SetAttr::default()
    };
    assert_eq!(
        fs.setattr(number, Some(file.handle), &set).unwrap().mtime,
        77
    );
    assert_eq!(backend.content("f").unwrap(), "", "not a reason to publish");
    release(&fs, file);
    assert_eq!(fs.getattr(number).unwrap().mtime, 77);
    assert_eq!(backend.content("f").unwrap(), "x");
}

#[test]
fn release_of_a_lock_is_asked_for_before_its_time_is_set() {
    let (backend, fs) = setup();
    let private = mkdir(&fs, ROOT_INO, "priv").unwrap();
    let locks = mkdir(&fs, private, "lock").unwrap();
    let lock = mkdir(&fs, locks, "x").unwrap();
    backend.take_log();
    let zero = Some(TimeChange::At(0));
    let release = SetAttr {
        atime: zero,
        mtime: zero,
        ..SetAttr::default()
    };
    let held = fs.setattr(lock, None, &release).unwrap_err();
    assert_eq!(held, FsError::Change(ProposeError::Op(OpError::Access)));
    assert_eq!(backend.take_unlocks(), [bytes("priv/lock/x")]);
    let refresh = SetAttr {
        mtime: Some(TimeChange::Now),
        ..SetAttr::default()
    };
    fs.setattr(lock, None, &refresh).unwrap();
    backend.take_log();
    fs.setattr(lock, None, &refresh).unwrap();
    assert_eq!(backend.take_log().len(), 1, "each refresh counts");
    assert_eq!(backend.take_unlocks(), Vec::<Bytes>::new());
}

#[test]
fn computed_files_are_snapshots_and_refuse_changes() {
    let (backend, fs) = setup();
    let file = open(&fs, ".version", libc::O_RDWR);
    let text = read(&fs, file);
    backend.remote_write("f", b"x");
    assert_eq!(read(&fs, file), text);
    assert_ne!(read(&fs, open(&fs, ".version", libc::O_RDONLY)), text);
    assert_eq!(
        fs.write(file.handle, 0, b"x", false, 0)
            .unwrap_err()
            .errno(),
        libc::EIO
    );
    assert_eq!(unlink(&fs, ".version").unwrap_err().errno(), libc::EACCES);
    assert_eq!(
        mkdir(&fs, ROOT_INO, "local").unwrap_err().errno(),
        libc::EEXIST
    );
    let debug = open(&fs, ".debug", libc::O_WRONLY | libc::O_TRUNC);
    assert_eq!(fs.write(debug.handle, 0, b"1\nrest", false, 0), Ok(2));
    assert_eq!(read(&fs, open(&fs, ".debug", libc::O_RDONLY)), "1\n");
    assert_eq!(
        fs.write(debug.handle, 2, b"0\n", false, 0)
            .unwrap_err()
            .errno(),
        libc::EIO
    );
}

#[test]
fn foreign_changes_are_noted_and_own_ones_not() {
    let (backend, fs) = setup();
    put(&fs, &backend, "f", b"x");
    rename(&fs, "f", "g").unwrap();
    backend.remote(Op::Mkdir { path: bytes("d") });
    let names = fs.notes().next_names().unwrap();
    assert_eq!(
        names
            .names
            .into_iter()
            .map(|(_, name)| name.to_vec())
            .collect::<Vec<_>>(),
        [b"d"]
    );
    let (d, g) = (ino(&fs, "d"), Name::from(&b"g"[..]));
    backend.remote(Op::Rename {
        from: bytes("g"),
        to: bytes("d/h"),
    });
    let names = fs.notes().next_names().unwrap();
    let expected = [(ROOT_INO, g), (d, Name::from(&b"h"[..]))];
    assert_eq!(names.names.into_iter().collect::<Vec<_>>(), expected);
    let inodes = fs.notes().next_inodes().unwrap().inodes;
    assert_eq!(
        inodes.into_values().collect::<Vec<_>>(),
        [Stale::Attributes]
    );
}

#[test]
fn what_the_kernel_does_not_know_it_need_not_forget() {
    let (backend, fs) = setup();
    backend.remote(Op::Mkdir { path: bytes("d") });
    fs.notes().next_names().unwrap();
    backend.remote_write("d/unknown", b"1");
    let d = ino(&fs, "d");
    backend.remote_write("d/f", b"1");
    let names = fs.notes().next_names().unwrap();
    assert_eq!(
        names.names.into_iter().collect::<Vec<_>>(),
        [(d, Name::from(&b"f"[..]))]
    );
    let f = fs.lookup(d, b"f").unwrap().unwrap().ino;
    backend.remote_write("d/f", b"2");
    let inodes = fs.notes().next_inodes().unwrap().inodes;
    assert_eq!(
        inodes.into_iter().collect::<Vec<_>>(),
        [(f, Stale::Content)]
    );
    fs.forget(f, 1);
    backend.remote_write("d/f", b"3");
    fs.lookup(d, b"unknown").unwrap().unwrap();
    backend.remote_write("d/unknown", b"2");
    let inodes = fs.notes().next_inodes().unwrap().inodes;
    assert!(!inodes.contains_key(&f), "{inodes:?}");
}

#[test]
fn listings_hide_entries_behind_computed_ones() {
    let (backend, fs) = setup();
    backend.remote(Op::Create {
        path: bytes("local"),
    });
    backend.remote(Op::Create { path: bytes("zz") });
    let handle = fs.opendir(ROOT_INO).unwrap();
    let listing = fs.listing(handle).unwrap();
    let names: Vec<_> = listing
        .from(0)
        .iter()
        .map(|line| line.name.to_vec())
        .collect();
    assert_eq!(names.iter().filter(|name| *name == b"local").count(), 1);
    assert_eq!(names.len(), 2 + Virtual::ALL.len() + 1);
    assert_eq!(listing.from(1000), []);
}

#[derive(Clone, Debug)]
enum Edit {
    Write(usize, Vec<u8>),
    Append(Vec<u8>),
    Truncate(usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let data = prop::collection::vec(1u8.., 1..12);
    prop_oneof![
        4 => (0..40usize, data.clone()).prop_map(|(at, data)| Edit::Write(at, data)),
        2 => data.prop_map(Edit::Append),
        1 => (0..40usize).prop_map(Edit::Truncate),
    ]
}

fn edit_session(session: &mut Session, base: usize, edit: &Edit) {
    match edit {
        Edit::Write(at, data) => session.write(base, *at, data),
        Edit::Append(data) => session.append(data),
        Edit::Truncate(len) => session.truncate(base, *len),
    }
}

fn edit_model(model: &mut Vec<u8>, edit: &Edit) {
    match edit {
        Edit::Write(at, data) => {
            let end = at + data.len();
            model.resize(end.max(model.len()), 0);
            model[*at..end].copy_from_slice(data);
        }
        Edit::Append(data) => model.extend(data),
        Edit::Truncate(len) => model.resize(*len, 0),
    }
}

proptest! {
    #[test]
    fn a_session_does_to_a_file_what_its_edits_do(
        base in prop::collection::vec(any::<u8>(), 0..40),
        edits in prop::collection::vec(edit(), 0..12),
        later in prop::collection::vec(edit(), 0..6),
    ) {
        let (mut session, mut rest) = (Session::default(), Session::default());
        let mut model = base.clone();
        for edit in &edits {
            edit_session(&mut session, base.len(), edit);
            edit_model(&mut model, edit);
            prop_assert_eq!(session.length(base.len()), model.len());
        }
        let mut view = base.clone();
        session.apply(&mut view);
        prop_assert_eq!(&view, &model);
        let middle = model.len();
        for edit in &later {
            edit_session(&mut rest, middle, edit);
            edit_model(&mut model, edit);
        }
        session.extend(base.len(), rest);
        let mut view = base.clone();
        session.apply(&mut view);
        prop_assert_eq!(&view, &model);
    }

    #[test]
    fn the_operation_of_a_session_leads_to_its_view(
        base in prop::collection::vec(any::<u8>(), 1..40),
        edits in prop::collection::vec(edit(), 1..8),
    ) {
        let (backend, fs) = setup();
        put(&fs, &backend, "f", &base);
        let mut session = Session::default();
        let mut view = base.clone();
        for edit in &edits {
            edit_session(&mut session, base.len(), edit);
        }
        session.apply(&mut view);
        match session.to_op(bytes("f"), &base) {
            None => prop_assert_eq!(&view, &base),
            Some(op) => backend.remote(op),
        }
        prop_assert_eq!(backend.content("f").unwrap(), view);
    }

    #[test]
    fn handles_of_one_file_show_the_same_bytes_as_a_plain_file(
        base in prop::collection::vec(any::<u8>(), 0..40),
        edits in prop::collection::vec((0..3usize, edit(), any::<bool>()), 1..20),
    ) {
        let (backend, fs) = setup();
        put(&fs, &backend, "f", &base);
        let files: Vec<_> = (0..3).map(|_| open(&fs, "f", libc::O_RDWR)).collect();
        let mut model = base;
        for (which, edit, sync) in edits {
            let file = files[which];
            match &edit {
                Edit::Write(at, data) => write(&fs, file, *at as u64, data),
                Edit::Append(data) => {
                    fs.write(file.handle, 0, data, true, 0).unwrap();
                }
                Edit::Truncate(len) => fs.truncate_open(file.handle, *len).unwrap(),
            }
            edit_model(&mut model, &edit);
            // With one writer at a time, closing in between changes nothing.
            fs.flush(file.handle).unwrap();
            if sync {
                prop_assert_eq!(backend.content("f").unwrap(), model.clone());
            }
            prop_assert_eq!(read(&fs, files[(which + 1) % 3]), model.clone());
        }
    }
}

#[test]
fn what_others_change_at_the_moment_is_read_without_cache() {
    let (backend, fs) = setup();
    put(&fs, &backend, "own", b"x");
    assert!(!open(&fs, "own", libc::O_RDONLY).uncached);
    backend.remote_write("f", b"x");
    assert!(open(&fs, "f", libc::O_RDONLY).uncached);
    assert!(!open(&fs, "f", libc::O_RDWR).uncached, "merged with writes");
    backend.replace(|_| {});
    assert!(open(&fs, "own", libc::O_RDONLY).uncached);
}
