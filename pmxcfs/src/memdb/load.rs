//! Making a tree out of the rows of a database or of a state transfer, and what can be wrong.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{
    entry::{Inode, TreeEntry},
    guests::{GuestKind, GuestPath, Guests, is_valid_node_name, parse_config_name},
    tree::{Root, Tree},
};

/// A row, as an administrator can find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowRef {
    /// Inode column.
    pub inode: Inode,
    /// Parent column.
    pub parent: Inode,
    /// Name column, printable.
    pub name: String,
}

impl RowRef {
    fn of(entry: &TreeEntry) -> Self {
        Self {
            inode: entry.inode,
            parent: entry.parent,
            name: entry.name.escape_ascii().to_string(),
        }
    }
}

impl fmt::Display for RowRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "inode {} (name '{}', parent {})",
            self.inode, self.name, self.parent
        )
    }
}

/// What is wrong with a set of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadProblem {
    /// The parent row does not exist.
    MissingParent,
    /// The parent is a file.
    ParentIsFile,
    /// Another row has the same parent and name.
    DuplicateName(RowRef),
    /// The guest id has a second configuration.
    DuplicateGuest(u32, RowRef),
    /// A file stands where the folder of a node's guests belongs.
    GuestFolderIsFile,
    /// The directory is its own ancestor.
    Cycle,
    /// The number is above the version of the tree, so a new entry could replace it.
    InodeAboveVersion,
}

/// One problem and the row that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadIssue {
    /// The row.
    pub row: RowRef,
    /// What is wrong.
    pub problem: LoadProblem,
}

impl LoadIssue {
    /// Whether the tree can not be represented, so that loading must be refused.
    ///
    /// The others load: with entries that nobody can reach, as on other members, or with a guest
    /// that is listed in one place only, where other implementations refuse to start.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        match self.problem {
            LoadProblem::MissingParent | LoadProblem::DuplicateName(_) => true,
            LoadProblem::ParentIsFile
            | LoadProblem::DuplicateGuest(..)
            | LoadProblem::GuestFolderIsFile
            | LoadProblem::Cycle
            | LoadProblem::InodeAboveVersion => false,
        }
    }
}

impl fmt::Display for LoadIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = &self.row;
        match &self.problem {
            LoadProblem::MissingParent => write!(f, "{row}: its directory does not exist"),
            LoadProblem::ParentIsFile => write!(f, "{row}: its parent is a file"),
            LoadProblem::DuplicateName(other) => {
                write!(f, "{row}: same directory and name as {other}")
            }
            LoadProblem::DuplicateGuest(id, other) => {
                write!(f, "{row}: guest {id} is configured in {other} as well")
            }
            LoadProblem::GuestFolderIsFile => {
                write!(
                    f,
                    "{row}: a file where the folder of a node's guests belongs"
                )
            }
            LoadProblem::Cycle => write!(f, "{row}: the directory is its own ancestor"),
            LoadProblem::InodeAboveVersion => {
                write!(f, "{row}: the inode is above the version of the tree")
            }
        }
    }
}

impl Tree {
    /// Makes a tree of all entries but the root.
    ///
    /// Returns it with the problems that it was loaded in spite of.
    ///
    /// # Errors
    /// All problems, if at least one of them is fatal.
    pub fn load(
        root: Root,
        rows: Vec<Arc<TreeEntry>>,
    ) -> Result<(Self, Vec<LoadIssue>), Vec<LoadIssue>> {
        let mut tree = Self::new();
        tree.root = root;
        let mut issues = Vec::new();
        let directories: BTreeMap<Inode, bool> =
            rows.iter().map(|row| (row.inode, row.is_dir())).collect();
        for entry in rows {
            let mut report = |problem| {
                issues.push(LoadIssue {
                    row: RowRef::of(&entry),
                    problem,
                })
            };
            if entry.inode.0 > root.version {
                report(LoadProblem::InodeAboveVersion);
            }
            if entry.parent != Inode::ROOT {
                match directories.get(&entry.parent) {
                    None => report(LoadProblem::MissingParent),
                    Some(false) => report(LoadProblem::ParentIsFile),
                    Some(true) => {}
                }
            }
            if let Some(other) = tree.child(entry.parent, &entry.name) {
                report(LoadProblem::DuplicateName(RowRef::of(other)));
                continue;
            }
            tree.load_row(entry, &directories);
        }
        tree.report_cycles(&mut issues);
        let (guests, guest_issues) = tree.list_guests(&Guests::default());
        tree.guests = guests;
        issues.extend(guest_issues);
        if issues.iter().any(LoadIssue::is_fatal) {
            Err(issues)
        } else {
            Ok((tree, issues))
        }
    }

    /// Adds a row whose parent may come later.
    fn load_row(&mut self, entry: Arc<TreeEntry>, directories: &BTreeMap<Inode, bool>) {
        if directories.get(&entry.parent) == Some(&true) {
            self.children.entry(entry.parent).or_default();
        }
        self.put(entry);
    }

    fn report_cycles(&self, issues: &mut Vec<LoadIssue>) {
        let reachable = |entry: &Arc<TreeEntry>| {
            let parent_known =
                entry.parent == Inode::ROOT || self.entries.contains_key(&entry.parent);
            !parent_known || self.path_of(entry.inode).is_some()
        };
        // Walking up is quadratic only in the depth; a cycle shows as a walk that never ends.
        for dir in self.children.keys().filter(|inode| **inode != Inode::ROOT) {
            if let Some(entry) = self.entries.get(dir)
                && !reachable(entry)
                && self.ancestor_chain_is_complete(entry)
            {
                issues.push(LoadIssue {
                    row: RowRef::of(entry),
                    problem: LoadProblem::Cycle,
                });
            }
        }
    }

    /// Whether every ancestor exists, so that an unreachable entry hangs on a cycle.
    fn ancestor_chain_is_complete(&self, entry: &TreeEntry) -> bool {
        let mut at = entry.parent;
        for _ in 0..=self.entries.len() {
            match self.entries.get(&at) {
                Some(parent) => at = parent.parent,
                None => return false,
            }
        }
        true
    }

    /// The guest list of the tree as it stands, counters continued from `previous`.
    pub(super) fn list_guests(&self, previous: &Guests) -> (Guests, Vec<LoadIssue>) {
        let mut issues = Vec::new();
        let nodes = self
            .child(Inode::ROOT, b"nodes")
            .filter(|entry| entry.is_dir());
        let mut guests = previous.rebuild(nodes.is_some());
        let mut seen: BTreeMap<u32, RowRef> = BTreeMap::new();
        let node_dirs = nodes
            .and_then(|entry| self.children(entry.inode))
            .into_iter()
            .flatten();
        for (node, dir) in node_dirs {
            let Ok(node) = std::str::from_utf8(node) else {
                continue;
            };
            if !is_valid_node_name(node.as_bytes()) || !self.is_dir(*dir) {
                continue;
            }
            for kind in GuestKind::ALL {
                let Some(folder) = self.child(*dir, kind.folder().as_bytes()) else {
                    continue;
                };
                let Some(files) = self.children(folder.inode) else {
                    let row = RowRef::of(folder);
                    issues.push(LoadIssue {
                        row,
                        problem: LoadProblem::GuestFolderIsFile,
                    });
                    continue;
                };
                for entry in files.values().filter_map(|inode| self.get(*inode)) {
                    let Some(id) = parse_config_name(&entry.name).filter(|_| !entry.is_dir())
                    else {
                        continue;
                    };
                    let row = RowRef::of(entry);
                    if let Some(other) = seen.get(&id) {
                        let problem = LoadProblem::DuplicateGuest(id, other.clone());
                        issues.push(LoadIssue { row, problem });
                        continue;
                    }
                    seen.insert(id, row);
                    guests.list(&GuestPath {
                        id,
                        node: node.into(),
                        kind,
                    });
                }
            }
        }
        (guests, issues)
    }
}
