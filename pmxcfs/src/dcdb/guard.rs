//! Checks and rewrites before an operation is submitted.
//!
//! What is delivered is applied by every member alike, faults included; so what would damage the
//! tree, crash another implementation or pass a limit is stopped or put differently here, on the
//! submitting node, before anybody else meets it.

use bytes::Bytes;

use super::ProposeError;
use crate::memdb::{
    Content, GuestPath, MAX_ENTRIES, MAX_FILE_SIZE, MAX_TOTAL_BYTES, Op, OpError, Tree, TreeEntry,
};

/// The operation to submit in place of `op`, given what this node knows of the tree.
///
/// # Errors
/// [`ProposeError`] for an operation that must not be submitted.
pub fn checked(tree: &Tree, op: Op) -> Result<Op, ProposeError> {
    match &op {
        Op::Mkdir { path } => {
            no_directory_as_guest(path)?;
            room_for_entry(tree)?;
        }
        Op::Create { path } => {
            no_file_as_folder(path)?;
            room_for_entry(tree)?;
        }
        Op::Rename { from, to } => rename(tree, from, to)?,
        Op::Write { .. } => return write(tree, op),
        Op::Delete { .. } | Op::Mtime { .. } | Op::Unlock { .. } => {}
    }
    Ok(op)
}

fn no_directory_as_guest(path: &[u8]) -> Result<(), ProposeError> {
    match GuestPath::parse(path) {
        None => Ok(()),
        Some(guest) => Err(ProposeError::Forbidden(format!(
            "{}: a directory can not stand for the configuration of guest {}",
            path.escape_ascii(),
            guest.id
        ))),
    }
}

fn no_file_as_folder(path: &[u8]) -> Result<(), ProposeError> {
    if GuestPath::is_folder(path) {
        return Err(ProposeError::Forbidden(format!(
            "{}: this name is kept for the folder of the node's guests, make it with mkdir",
            path.escape_ascii()
        )));
    }
    Ok(())
}

fn room_for_entry(tree: &Tree) -> Result<(), ProposeError> {
    if tree.entry_count() >= MAX_ENTRIES {
        let text = format!("the tree has {MAX_ENTRIES} entries, which is all that it may have");
        return Err(ProposeError::NoSpace(text));
    }
    Ok(())
}

fn rename(tree: &Tree, from: &[u8], to: &[u8]) -> Result<(), ProposeError> {
    if to.is_empty() {
        return Err(OpError::Access.into());
    }
    let Some(source) = tree.find(from) else {
        return Ok(());
    };
    if source.is_dir() {
        no_directory_as_guest(to)?;
        if tree.has_children(source.inode) {
            return Err(OpError::NotEmpty.into());
        }
    } else {
        no_file_as_folder(to)?;
    }
    // Moving an entry onto itself or below itself makes other implementations free it twice.
    let inside = to
        .strip_prefix(from)
        .is_some_and(|rest| rest.first() == Some(&b'/'));
    let onto_itself = tree
        .find(to)
        .is_some_and(|target| target.inode == source.inode);
    if inside || onto_itself {
        return Err(OpError::Invalid.into());
    }
    Ok(())
}

fn write(tree: &Tree, op: Op) -> Result<Op, ProposeError> {
    let Op::Write {
        path,
        offset,
        data,
        truncate,
    } = op
    else {
        return Ok(op);
    };
    let end = u64::from(offset) + data.len() as u64;
    if end > u64::from(MAX_FILE_SIZE) {
        return Err(OpError::TooLarge.into());
    }
    let is_resize = data.is_empty() && offset > 0;
    let Some(entry) = tree.find(&path).filter(|entry| !entry.is_dir()) else {
        if is_resize {
            // Another node may make the file before this arrives: see `resize`.
            let is_dir = tree.lookup(&path).is_some();
            return Err(if is_dir {
                OpError::NotDirectory
            } else {
                OpError::NotFound
            }
            .into());
        }
        return Ok(Op::Write {
            path,
            offset,
            data,
            truncate,
        });
    };
    let size = u64::from(entry.size());
    let new_size = if truncate { end } else { end.max(size) };
    let total = tree.total_bytes() - size + new_size;
    if new_size > size && total > MAX_TOTAL_BYTES {
        let text = format!("all files together may have {MAX_TOTAL_BYTES} bytes");
        return Err(ProposeError::NoSpace(text));
    }
    if is_resize {
        return Ok(resize(path, entry, offset));
    }
    Ok(Op::Write {
        path,
        offset,
        data,
        truncate,
    })
}

/// Sets a length other than 0 with data, never without.
///
/// A length without data leaves a file without allocated bytes where the file is empty when the
/// message arrives, and other implementations crash when they read it.
fn resize(path: Bytes, entry: &TreeEntry, len: u32) -> Op {
    let old = match &entry.content {
        Content::File(data) => data.clone(),
        Content::Directory | Content::Hollow(_) => Bytes::new(),
    };
    let old_len = u32::try_from(old.len()).unwrap_or(u32::MAX);
    if len <= old_len {
        let data = old.slice(..len as usize);
        return Op::Write {
            path,
            offset: 0,
            data,
            truncate: true,
        };
    }
    let data = Bytes::from(vec![0; (len - old_len) as usize]);
    Op::Write {
        path,
        offset: old_len,
        data,
        truncate: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memdb::Stamp;

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn tree(ops: &[Op]) -> Tree {
        let mut tree = Tree::new();
        for op in ops {
            tree.apply(
                op,
                Stamp {
                    writer: 0,
                    mtime: 0,
                },
            )
            .result
            .unwrap();
        }
        tree
    }

    fn nodes() -> Tree {
        let dirs = [
            "nodes",
            "nodes/a",
            "nodes/a/qemu-server",
            "full",
            "full/x",
            "empty",
        ];
        tree(&dirs.map(|path| Op::Mkdir { path: bytes(path) }))
    }

    fn is_forbidden(tree: &Tree, op: Op) -> bool {
        matches!(checked(tree, op), Err(ProposeError::Forbidden(_)))
    }

    #[test]
    fn a_directory_never_gets_the_name_of_a_guest() {
        let tree = nodes();
        let path = bytes("nodes/a/qemu-server/100.conf");
        assert!(is_forbidden(&tree, Op::Mkdir { path: path.clone() }));
        assert!(is_forbidden(
            &tree,
            Op::Rename {
                from: bytes("empty"),
                to: path
            }
        ));
    }

    #[test]
    fn a_file_never_stands_where_guests_belong() {
        let mut tree = nodes();
        assert!(is_forbidden(
            &tree,
            Op::Create {
                path: bytes("nodes/a/lxc")
            }
        ));
        tree.apply(
            &Op::Create { path: bytes("f") },
            Stamp {
                writer: 0,
                mtime: 0,
            },
        );
        assert!(is_forbidden(
            &tree,
            Op::Rename {
                from: bytes("f"),
                to: bytes("nodes/a/lxc")
            }
        ));
    }

    #[test]
    fn a_full_directory_is_not_renamed() {
        let rename = |from: &str, to: &str| Op::Rename {
            from: bytes(from),
            to: bytes(to),
        };
        let not_empty = Err(ProposeError::Op(OpError::NotEmpty));
        assert_eq!(checked(&nodes(), rename("full", "empty")), not_empty);
        let invalid = Err(ProposeError::Op(OpError::Invalid));
        assert_eq!(checked(&nodes(), rename("empty", "empty/y")), invalid);
        assert_eq!(checked(&nodes(), rename("empty", "empty")), invalid);
        assert!(checked(&nodes(), rename("empty", "other")).is_ok());
    }

    #[test]
    fn a_length_always_travels_with_data() {
        let data = bytes("abcd");
        let mut tree = tree(&[
            Op::Create { path: bytes("f") },
            Op::Create { path: bytes("e") },
            Op::Write {
                path: bytes("f"),
                offset: 0,
                data,
                truncate: false,
            },
        ]);
        for (path, len) in [("f", 2), ("f", 9), ("e", 5), ("f", 0)] {
            let op = Op::Write {
                path: bytes(path),
                offset: len,
                data: Bytes::new(),
                truncate: true,
            };
            let Ok(op) = checked(&tree, op) else {
                panic!("refused")
            };
            if let Op::Write { data, offset, .. } = &op {
                assert!(!data.is_empty() || *offset == 0, "{op:?}");
            }
            tree.apply(
                &op,
                Stamp {
                    writer: 0,
                    mtime: 0,
                },
            )
            .result
            .unwrap();
            let entry = tree.find(path.as_bytes()).unwrap();
            assert_eq!(entry.size(), len);
            assert!(!matches!(entry.content, Content::Hollow(_)));
        }
    }

    #[test]
    fn a_length_is_not_sent_for_a_file_that_is_not_there() {
        let resize = |path: &str| Op::Write {
            path: bytes(path),
            offset: 5,
            data: Bytes::new(),
            truncate: true,
        };
        // Another node's create can be ordered before it; the file would be left without data.
        let missing = Err(ProposeError::Op(OpError::NotFound));
        assert_eq!(checked(&nodes(), resize("nodes/new")), missing);
        let directory = Err(ProposeError::Op(OpError::NotDirectory));
        assert_eq!(checked(&nodes(), resize("nodes/a")), directory);
        assert_eq!(checked(&nodes(), resize("")), directory);
    }

    #[test]
    fn limits_are_checked_before_anything_is_sent() {
        let op = Op::Write {
            path: bytes("f"),
            offset: MAX_FILE_SIZE,
            data: bytes("x"),
            truncate: false,
        };
        let too_large = Err(ProposeError::Op(OpError::TooLarge));
        assert_eq!(checked(&Tree::new(), op), too_large);
        let chunk = Bytes::from(vec![1; MAX_FILE_SIZE as usize]);
        let mut full = Tree::new();
        let write = |path: String| Op::Write {
            path: path.into(),
            offset: 0,
            data: chunk.clone(),
            truncate: true,
        };
        for i in 0..=128 {
            let path = Bytes::from(format!("f{i}"));
            full.apply(
                &Op::Create { path },
                Stamp {
                    writer: 0,
                    mtime: 0,
                },
            )
            .result
            .unwrap();
            if i < 128 {
                let op = checked(&full, write(format!("f{i}"))).unwrap();
                full.apply(
                    &op,
                    Stamp {
                        writer: 0,
                        mtime: 0,
                    },
                )
                .result
                .unwrap();
            }
        }
        assert!(
            checked(&full, write("f3".into())).is_ok(),
            "the same size again"
        );
        let refused = checked(&full, write("f128".into()));
        assert!(
            matches!(refused, Err(ProposeError::NoSpace(_))),
            "{refused:?}"
        );
    }
}
