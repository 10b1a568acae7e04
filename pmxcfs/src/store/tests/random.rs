//! Random histories, stored in batches of random size.

use proptest::prelude::*;

use super::*;

fn any_path() -> impl Strategy<Value = Bytes> {
    let names = prop::sample::select(vec!["a", "b", "c", "nodes/n", "priv/lock/x"]);
    (names, any::<bool>()).prop_map(|(name, below)| {
        bytes(&if below {
            format!("{name}/d")
        } else {
            name.to_owned()
        })
    })
}

fn any_op() -> impl Strategy<Value = Op> {
    let path = any_path;
    prop_oneof![
        path().prop_map(|path| Op::Mkdir { path }),
        path().prop_map(|path| Op::Create { path }),
        (path(), 0..2000_u32, 0..3000_usize, any::<bool>()).prop_map(
            |(path, offset, len, truncate)| Op::Write {
                path,
                offset,
                data: vec![b'x'; len].into(),
                truncate
            }
        ),
        (path(), 0..20_u32).prop_map(|(path, offset)| Op::Write {
            path,
            offset,
            data: Bytes::new(),
            truncate: true
        }),
        (path(), path()).prop_map(|(from, to)| Op::Rename { from, to }),
        path().prop_map(|path| Op::Delete { path }),
        (path(), any::<u32>()).prop_map(|(path, mtime)| Op::Mtime { path, mtime }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_stored_is_the_tree(
        batches in prop::collection::vec(prop::collection::vec(any_op(), 1..8), 1..12),
        other in prop::collection::vec(any_op(), 0..20),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = open(dir.path());
        for op in [mkdir("nodes"), mkdir("priv"), mkdir("priv/lock")] {
            run(&mut opened, &[op]);
        }
        for batch in &batches {
            let outcomes = batch.iter().map(|op| opened.tree.apply(op, STAMP));
            let changes: Vec<_> = outcomes.filter_map(|outcome| outcome.change).collect();
            opened.store.commit(&changes).unwrap();
        }
        let crashed = crash_copy(dir.path());
        let again = open(crashed.path());
        prop_assert_eq!(&again.tree, &opened.tree);
        prop_assert_eq!(again.tree.checksum(), opened.tree.checksum());

        let mut leader = Tree::new();
        for op in &other {
            leader.apply(op, STAMP);
        }
        opened.store.replace(&opened.tree, &leader).unwrap();
        opened.store.close().unwrap();
        let again = open(dir.path());
        prop_assert_eq!(&again.tree, &leader);
        prop_assert_eq!(again.tree.checksum(), leader.checksum());
    }

    #[test]
    fn names_are_any_bytes(name in prop::collection::vec(1..=255_u8, 1..40)) {
        prop_assume!(!name.contains(&b'/') && name != b"." && name != b"..");
        let dir = tempfile::tempdir().unwrap();
        let mut opened = open(dir.path());
        run(&mut opened, &[Op::Create { path: name.into() }]);
        opened.store.close().unwrap();
        prop_assert_eq!(open(dir.path()).tree, opened.tree);
    }
}
