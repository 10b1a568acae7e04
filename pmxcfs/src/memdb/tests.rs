//! Tests of the tree as a whole: digests against known values, and against a plain map.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const STAMP: Stamp = Stamp {
    writer: 0,
    mtime: 1234,
};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn mkdir(path: &str) -> Op {
    Op::Mkdir { path: bytes(path) }
}

fn create(path: &str) -> Op {
    Op::Create { path: bytes(path) }
}

fn write(path: &str, data: &str) -> Op {
    Op::Write {
        path: bytes(path),
        offset: 0,
        data: bytes(data),
        truncate: false,
    }
}

fn truncate(path: &str, len: u32) -> Op {
    Op::Write {
        path: bytes(path),
        offset: len,
        data: Bytes::new(),
        truncate: true,
    }
}

fn rename(from: &str, to: &str) -> Op {
    Op::Rename {
        from: bytes(from),
        to: bytes(to),
    }
}

fn delete(path: &str) -> Op {
    Op::Delete { path: bytes(path) }
}

fn apply(tree: &mut Tree, op: &Op) -> Result<u32, OpError> {
    tree.apply(op, STAMP).result
}

fn built(ops: &[Op]) -> Tree {
    let mut tree = Tree::new();
    for op in ops {
        apply(&mut tree, op).unwrap_or_else(|error| panic!("{op:?}: {error}"));
    }
    tree
}

fn hex(digest: Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn checksum_of_the_known_tree_matches() {
    let mut tree = Tree::new();
    let zeros = Bytes::from(vec![0; 32768]);
    for i in 0..100 {
        let path = bytes(&format!("testfile{i}"));
        apply(&mut tree, &Op::Create { path: path.clone() }).unwrap();
        let op = Op::Write {
            path,
            offset: 0,
            data: zeros.clone(),
            truncate: false,
        };
        apply(&mut tree, &op).unwrap();
    }
    assert_eq!(tree.root().version, 201);
    assert_eq!(tree.last_inode(), Inode(200));
    assert_eq!(
        hex(tree.checksum()),
        "6f4b756a5d212d894deba9c2485bf1e0a6a006d94883ff9bef1b941afa137d2b"
    );
}

#[test]
fn a_write_without_allocated_data_sets_the_exact_size() {
    let mut tree = built(&[create("f"), truncate("f", 5)]);
    assert_eq!(tree.find(b"f").unwrap().content, Content::Hollow(5));
    assert_eq!(tree.find(b"f").unwrap().data(), Bytes::from_static(&[0; 5]));
    apply(&mut tree, &write("f", "ab")).unwrap();
    assert_eq!(tree.find(b"f").unwrap().data(), "ab");
}

#[test]
fn hollow_files_are_filled_for_the_digest() {
    let mut tree = built(&[create("f"), truncate("f", 3)]);
    let before = tree.find(b"f").unwrap().digest();
    assert_eq!(tree.fill_hollow().len(), 1);
    let entry = tree.find(b"f").unwrap();
    assert_eq!(entry.content, Content::File(Bytes::from_static(&[0; 3])));
    assert_ne!(entry.digest(), before);
    assert_eq!(tree.total_bytes(), 3);
}

#[test]
fn a_write_at_an_offset_keeps_the_rest() {
    let mut tree = built(&[create("f"), write("f", "abcdef")]);
    let op = Op::Write {
        path: bytes("f"),
        offset: 2,
        data: bytes("XY"),
        truncate: false,
    };
    assert_eq!(apply(&mut tree, &op), Ok(2));
    assert_eq!(tree.find(b"f").unwrap().data(), "abXYef");
    let op = Op::Write {
        path: bytes("f"),
        offset: 1,
        data: bytes("-"),
        truncate: true,
    };
    assert_eq!(apply(&mut tree, &op), Ok(1));
    assert_eq!(tree.find(b"f").unwrap().data(), "a-");
    let op = Op::Write {
        path: bytes("f"),
        offset: 4,
        data: bytes("z"),
        truncate: false,
    };
    apply(&mut tree, &op).unwrap();
    assert_eq!(&tree.find(b"f").unwrap().data()[..], b"a-\0\0z");
    apply(&mut tree, &truncate("f", 0)).unwrap();
    assert_eq!(
        tree.find(b"f").unwrap().content,
        Content::File(Bytes::new())
    );
}

#[test]
fn the_size_limit_counts_the_offset() {
    let mut tree = built(&[create("f")]);
    let at = |offset, len: usize| Op::Write {
        path: bytes("f"),
        offset,
        data: Bytes::from(vec![1; len]),
        truncate: false,
    };
    assert_eq!(apply(&mut tree, &at(0, 1 << 20)), Ok(1 << 20));
    assert_eq!(apply(&mut tree, &at(1, 1 << 20)), Err(OpError::TooLarge));
    assert_eq!(apply(&mut tree, &at(u32::MAX, 1)), Err(OpError::TooLarge));
    assert_eq!(
        apply(&mut tree, &truncate("f", (1 << 20) + 1)),
        Err(OpError::TooLarge)
    );
}

#[test]
fn errors_come_in_the_order_of_the_original() {
    let mut tree = built(&[mkdir("d"), create("f"), create("d/x")]);
    let expect = |tree: &mut Tree, op: Op, error| {
        let before = tree.clone();
        assert_eq!(apply(tree, &op), Err(error), "{op:?}");
        assert_eq!(*tree, before, "{op:?} changed the tree");
    };
    expect(&mut tree, mkdir("no/d"), OpError::NotFound);
    expect(&mut tree, mkdir("f/d"), OpError::NotDirectory);
    expect(&mut tree, mkdir("d/.."), OpError::Access);
    expect(&mut tree, mkdir("d"), OpError::Exists);
    expect(&mut tree, create("d"), OpError::NotDirectory);
    expect(&mut tree, create("f"), OpError::Exists);
    expect(&mut tree, write("d", "x"), OpError::NotDirectory);
    expect(&mut tree, write("none", "x"), OpError::NotFound);
    expect(&mut tree, delete("d"), OpError::NotEmpty);
    expect(&mut tree, delete(""), OpError::Access);
    expect(&mut tree, delete("none"), OpError::NotFound);
    expect(&mut tree, rename("none", "x"), OpError::NotFound);
    expect(&mut tree, rename("f", "d"), OpError::NotEmpty);
    expect(&mut tree, rename("f", "no/f"), OpError::NotFound);
    expect(&mut tree, rename("f", "f"), OpError::Invalid);
    expect(&mut tree, rename("d", "d/y"), OpError::Invalid);
    expect(&mut tree, write("", "x"), OpError::Invalid);
}

#[test]
fn a_half_done_rename_loses_its_target_and_the_row_too() {
    let mut tree = built(&[mkdir("full"), create("full/x"), mkdir("empty")]);
    let version = tree.root().version;
    let empty = tree.find(b"empty").unwrap().inode;
    let outcome = tree.apply(&rename("full", "empty"), STAMP);
    assert_eq!(outcome.result, Err(OpError::NotEmpty));
    let change = outcome.change.unwrap();
    assert_eq!((change.delete, change.upsert), (Some(empty), None));
    assert_eq!(tree.root().version, version);
    assert!(tree.find(b"empty").is_none() && tree.find(b"full/x").is_some());
}

#[test]
fn a_rename_keeps_the_inode_and_replaces_the_target() {
    let mut tree = built(&[create("a"), write("a", "1"), create("b")]);
    let inode = tree.find(b"a").unwrap().inode;
    let replaced = tree.find(b"b").unwrap().inode;
    let outcome = tree.apply(&rename("a", "b"), STAMP);
    assert_eq!(outcome.change.unwrap().delete, Some(replaced));
    assert_eq!(tree.find(b"b").unwrap().inode, inode);
    assert_eq!(tree.find(b"b").unwrap().data(), "1");
    assert!(tree.find(b"a").is_none());
    assert_eq!(tree.entry_count(), 2);
}

#[test]
fn a_guest_id_is_unique_over_nodes_and_kinds() {
    let mut tree = built(&[
        mkdir("nodes"),
        mkdir("nodes/a"),
        mkdir("nodes/a/qemu-server"),
        mkdir("nodes/a/lxc"),
        mkdir("nodes/b"),
        mkdir("nodes/b/qemu-server"),
        create("nodes/a/qemu-server/100.conf"),
        create("tmp"),
        create("nodes/b/qemu-server/200.conf"),
    ]);
    let exists = Err(OpError::GuestExists);
    assert_eq!(
        apply(&mut tree, &create("nodes/b/qemu-server/100.conf")),
        exists
    );
    assert_eq!(apply(&mut tree, &create("nodes/a/lxc/100.conf")), exists);
    assert_eq!(
        apply(&mut tree, &rename("tmp", "nodes/b/qemu-server/100.conf")),
        exists
    );
    let moved = rename(
        "nodes/a/qemu-server/100.conf",
        "nodes/b/qemu-server/100.conf",
    );
    assert_eq!(apply(&mut tree, &moved), Ok(0));
    assert_eq!(&*tree.guests().get(100).unwrap().node, "b");
    assert_eq!(
        apply(&mut tree, &delete("nodes/b/qemu-server/100.conf")),
        Ok(0)
    );
    assert!(tree.guests().get(100).is_none());
    assert_eq!(apply(&mut tree, &create("nodes/a/lxc/100.conf")), Ok(0));
    // Removing a directory with a guest's name drops the id, as every other member does.
    apply(&mut tree, &mkdir("nodes/a/qemu-server/200.conf")).unwrap();
    apply(&mut tree, &delete("nodes/a/qemu-server/200.conf")).unwrap();
    assert!(tree.guests().get(200).is_none());
}

#[test]
fn a_lock_is_refreshed_by_its_holder_only() {
    let mut tree = built(&[mkdir("priv"), mkdir("priv/lock")]);
    let at = |writer, mtime| Stamp { writer, mtime };
    let lock = mkdir("priv/lock/x");
    assert!(matches!(
        tree.apply(&lock, at(1, 100)).lock,
        Some(LockEffect::Started(..))
    ));
    let refresh = |mtime| Op::Mtime {
        path: bytes("priv/lock/x"),
        mtime,
    };
    assert_eq!(
        tree.apply(&refresh(0), at(1, 101)).result,
        Err(OpError::Access)
    );
    assert_eq!(
        tree.apply(&refresh(102), at(2, 102)).result,
        Err(OpError::Access)
    );
    assert_eq!(tree.apply(&refresh(102), at(1, 102)).result, Ok(0));
    assert_eq!(tree.root().mtime, 102);
    let checksum = tree.find(b"priv/lock/x").unwrap().lock_checksum();
    let unlock = |checksum| Op::Unlock {
        path: bytes("priv/lock/x"),
        checksum,
    };
    assert_eq!(
        tree.apply(&unlock([0; 32]), at(1, 300)).result,
        Err(OpError::Access)
    );
    assert_eq!(tree.apply(&unlock(checksum), at(1, 300)).result, Ok(0));
    let rename = rename("priv/lock/y", "z");
    tree.apply(&mkdir("priv/lock/y"), at(1, 1));
    assert_eq!(tree.apply(&rename, at(1, 1)).result, Err(OpError::Access));
}

#[test]
fn locks_age_from_when_their_state_was_first_seen() {
    let mut tree = built(&[mkdir("priv"), mkdir("priv/lock")]);
    let mut table = LockTable::default();
    let outcome = tree.apply(&mkdir("priv/lock/x"), STAMP);
    table.follow(&outcome.lock.unwrap(), 1000);
    let path = bytes("priv/lock/x");
    let checksum = tree.find(&path).unwrap().lock_checksum();
    assert!(!table.expired(&path, &checksum, 1120));
    assert!(table.expired(&path, &checksum, 1121));
    assert!(table.rebuilt(&tree, 1121).expired(&path, &checksum, 1121));
    assert!(
        !table.expired(&path, &[0; 32], 1121),
        "another state starts anew"
    );
    assert!(
        !LockTable::default()
            .rebuilt(&tree, 1121)
            .expired(&path, &checksum, 1241)
    );
}

#[test]
fn loading_reports_every_problem_with_its_row() {
    let entry = |inode, parent, name: &str, content| {
        let name = Name::from(name.as_bytes());
        Arc::new(TreeEntry::new(
            Inode(inode),
            Inode(parent),
            inode,
            0,
            0,
            name,
            content,
        ))
    };
    let file = || Content::File(Bytes::new());
    let root = Root {
        version: 50,
        writer: 0,
        mtime: 0,
    };
    let rows = vec![
        entry(2, 0, "a", file()),
        entry(3, 0, "a", file()),
        entry(4, 99, "lost", file()),
        entry(6, 7, "child-before-parent", file()),
        entry(7, 0, "dir", Content::Directory),
    ];
    let issues = Tree::load(root, rows).unwrap_err();
    assert_eq!(issues.len(), 2);
    assert!(
        issues[0]
            .to_string()
            .contains("inode 3 (name 'a', parent 0): same directory")
    );
    assert!(issues[1].to_string().contains("inode 4"));

    let rows = vec![
        entry(8, 9, "x", Content::Directory),
        entry(9, 8, "y", Content::Directory),
        entry(60, 0, "late", file()),
        entry(61, 60, "below-a-file", file()),
    ];
    let (tree, issues) = Tree::load(root, rows).unwrap();
    assert_eq!(tree.entry_count(), 5);
    let count = |problem| {
        issues
            .iter()
            .filter(|issue| issue.problem == problem)
            .count()
    };
    assert_eq!(count(LoadProblem::Cycle), 2);
    assert_eq!(count(LoadProblem::InodeAboveVersion), 2);
    assert_eq!(count(LoadProblem::ParentIsFile), 1);
    assert_eq!(tree.path_of(Inode(8)), None);
}

/// The reference: a plain map from path to content; `None` is a directory.
#[derive(Default)]
struct Model(BTreeMap<String, Option<Vec<u8>>>);

impl Model {
    fn parent_ok(&self, path: &str) -> Result<(), OpError> {
        match path.rsplit_once('/') {
            None => Ok(()),
            Some((dir, _)) => match self.resolve(dir) {
                None => Err(OpError::NotFound),
                Some(None) => Ok(()),
                Some(Some(_)) => Err(OpError::NotDirectory),
            },
        }
    }

    fn resolve(&self, path: &str) -> Option<&Option<Vec<u8>>> {
        self.0.get(path)
    }

    fn is_full(&self, path: &str) -> bool {
        self.0
            .keys()
            .any(|key| key.starts_with(&format!("{path}/")))
    }

    fn apply(&mut self, op: &Op) -> Result<(), OpError> {
        let path = String::from_utf8(op.path().to_vec()).unwrap();
        match op {
            Op::Mkdir { .. } | Op::Create { .. } => {
                self.parent_ok(&path)?;
                let dir = matches!(op, Op::Mkdir { .. });
                match self.resolve(&path) {
                    Some(None) if !dir => return Err(OpError::NotDirectory),
                    Some(_) => return Err(OpError::Exists),
                    None => {}
                }
                self.0.insert(path, (!dir).then(Vec::new));
            }
            Op::Write {
                offset,
                data,
                truncate,
                ..
            } => {
                self.parent_ok(&path)?;
                let content = self.0.get_mut(&path).ok_or(OpError::NotFound)?;
                let content = content.as_mut().ok_or(OpError::NotDirectory)?;
                let end = *offset as usize + data.len();
                if end > content.len() || *truncate {
                    content.resize(end, 0);
                }
                content[*offset as usize..end].copy_from_slice(data);
            }
            Op::Delete { .. } => {
                self.resolve(&path).ok_or(OpError::NotFound)?;
                if self.is_full(&path) {
                    return Err(OpError::NotEmpty);
                }
                self.0.remove(&path);
            }
            Op::Rename { to, .. } => {
                let to = String::from_utf8(to.to_vec()).unwrap();
                self.resolve(&path).ok_or(OpError::NotFound)?;
                if self.resolve(&to).is_none() {
                    self.parent_ok(&to)?;
                }
                if self.is_full(&to) {
                    return Err(if path == to {
                        OpError::Invalid
                    } else {
                        OpError::NotEmpty
                    });
                }
                if path == to || to.rsplit_once('/').is_some_and(|(dir, _)| dir == path) {
                    return Err(OpError::Invalid);
                }
                if self.is_full(&path) {
                    self.0.remove(&to);
                    return Err(OpError::NotEmpty);
                }
                let content = self.0.remove(&path).unwrap();
                self.0.insert(to, content);
            }
            Op::Mtime { .. } => {
                self.parent_ok(&path)?;
                self.resolve(&path).ok_or(OpError::NotFound)?;
            }
            Op::Unlock { .. } => {}
        }
        Ok(())
    }
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
        .prop_map(|parts| parts.join("/"))
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => any_path().prop_map(|path| mkdir(&path)),
        3 => any_path().prop_map(|path| create(&path)),
        3 => (any_path(), 0_u32..20, prop::collection::vec(any::<u8>(), 1..10), any::<bool>())
            .prop_map(|(path, offset, data, truncate)| Op::Write {
                path: bytes(&path),
                offset,
                data: data.into(),
                truncate
            }),
        1 => any_path().prop_map(|path| truncate(&path, 0)),
        3 => (any_path(), any_path()).prop_map(|(from, to)| rename(&from, &to)),
        2 => any_path().prop_map(|path| delete(&path)),
        1 => (any_path(), any::<u32>())
            .prop_map(|(path, mtime)| Op::Mtime { path: bytes(&path), mtime }),
    ]
}

fn contents(tree: &Tree) -> BTreeMap<String, Option<Vec<u8>>> {
    let entries = tree.entries().values().map(|entry| {
        let path = String::from_utf8(tree.path_of(entry.inode).unwrap()).unwrap();
        (path, (!entry.is_dir()).then(|| entry.data().to_vec()))
    });
    entries.collect()
}

proptest! {
    #[test]
    fn behaves_as_a_plain_map(ops in prop::collection::vec(any_op(), 0..60)) {
        let (mut tree, mut model) = (Tree::new(), Model::default());
        for op in &ops {
            let before = tree.clone();
            let version = tree.root().version;
            let outcome = tree.apply(op, STAMP);
            let expected = model.apply(op);
            prop_assert_eq!(outcome.result.map(|_| ()), expected, "{:?}", op);
            let stepped = tree.root().version - version;
            prop_assert_eq!(stepped, u64::from(outcome.result.is_ok()));
            prop_assert_eq!(outcome.change.is_none(), tree == before);
        }
        prop_assert_eq!(contents(&tree), model.0);
        let bytes: u64 = tree.entries().values().map(|e| u64::from(e.size())).sum();
        prop_assert_eq!(tree.total_bytes(), bytes);
        let rows = tree.entries().values().cloned();
        let (loaded, issues) = Tree::load(tree.root(), rows.collect()).unwrap();
        prop_assert!(issues.is_empty());
        prop_assert_eq!(loaded.checksum(), tree.checksum());
        prop_assert!(loaded == tree);
    }
}
