//! A node below a temporary directory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tempfile::TempDir;

use super::{Host, Paths};

/// Everything below a directory, by its path: kind, mode and content.
pub(crate) type Tree = BTreeMap<String, (u32, Vec<u8>)>;

/// A node with these directories, and before it what all of it goes away with.
pub(crate) fn test_node(name: &str, directories: &[&str]) -> (TempDir, Host) {
    // Each change waits for the disk, and there are many.
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    };
    let paths = Paths::below(root.path());
    for path in directories {
        fs::create_dir_all(paths.at(path)).unwrap();
    }
    let name = name.parse().unwrap();
    (root, Host { paths, name })
}

/// What is below a directory.
pub(crate) fn tree(directory: &Path) -> Tree {
    let mut tree = Tree::new();
    walk(directory, &mut tree);
    tree
}

fn walk(directory: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let found = path.symlink_metadata().unwrap();
        let content = if found.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            target.into_os_string().into_encoded_bytes()
        } else if found.is_dir() {
            walk(&path, tree);
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        tree.insert(path.display().to_string(), (found.mode(), content));
    }
}
