//! Histories of trees, as the simulator sees them from outside.
//!
//! A *line* is a sequence of changes from the empty tree on. Two nodes are on the same line when
//! they applied the same changes in the same order, whether by themselves or by taking over a
//! leader's tree. Where two changes follow the same one, lines fork.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use pmxcfs::memdb::{Change, Tree};

/// The end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineId(usize);

impl LineId {
    /// The line of an empty tree.
    pub const EMPTY: Self = Self(0);
}

/// One change in its place.
#[derive(Clone, Debug)]
struct Link {
    parent: LineId,
    depth: u64,
    /// Version of the tree after it.
    version: u64,
    /// Nodes that ever had it.
    held_by: BTreeSet<usize>,
    /// A node lost it for a reason other than a round: disk, crash.
    is_eroded: bool,
    /// A round chose another line, by the rule of all members.
    is_superseded: bool,
    /// The tree after it, as the first node had it.
    tree: Option<Tree>,
}

/// All lines of one simulation.
#[derive(Clone, Debug)]
pub struct Lines {
    links: Vec<Link>,
    children: BTreeMap<(LineId, u64), LineId>,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            links: vec![Link::new(LineId::EMPTY, 0, 1)],
            children: BTreeMap::new(),
        }
    }
}

impl Link {
    fn new(parent: LineId, depth: u64, version: u64) -> Self {
        Self {
            parent,
            depth,
            version,
            held_by: BTreeSet::new(),
            is_eroded: false,
            is_superseded: false,
            tree: None,
        }
    }
}

impl Lines {
    /// The line after one more change, which is the same for equal changes.
    pub fn extend(&mut self, line: LineId, change: &Change) -> LineId {
        let key = (line, hash_of(change));
        if let Some(known) = self.children.get(&key) {
            return *known;
        }
        let next = LineId(self.links.len());
        let depth = self.depth(line) + 1;
        self.links.push(Link::new(line, depth, change.root.version));
        self.children.insert(key, next);
        next
    }

    /// Number of changes.
    #[must_use]
    pub fn depth(&self, line: LineId) -> u64 {
        self.links[line.0].depth
    }

    /// Version of the tree at the end. Some changes come without a new one.
    #[must_use]
    pub fn version(&self, line: LineId) -> u64 {
        self.links[line.0].version
    }

    /// Whether `line` goes on from `start`, or is it.
    #[must_use]
    pub fn contains(&self, line: LineId, start: LineId) -> bool {
        self.cut(line, self.depth(start)) == start
    }

    /// The first changes of a line.
    fn cut(&self, mut line: LineId, depth: u64) -> LineId {
        while self.depth(line) > depth {
            line = self.links[line.0].parent;
        }
        line
    }

    /// Where two lines part.
    #[must_use]
    pub fn fork(&self, a: LineId, b: LineId) -> LineId {
        let depth = self.depth(a).min(self.depth(b));
        let (mut a, mut b) = (self.cut(a, depth), self.cut(b, depth));
        while a != b {
            a = self.links[a.0].parent;
            b = self.links[b.0].parent;
        }
        a
    }

    fn each_until(&mut self, mut line: LineId, end: LineId, mut mark: impl FnMut(&mut Link)) {
        while line != end && line != LineId::EMPTY {
            let link = &mut self.links[line.0];
            mark(link);
            line = link.parent;
        }
    }

    /// A node has this line now.
    pub fn hold(&mut self, node: usize, mut line: LineId) {
        while self.links[line.0].held_by.insert(node) && line != LineId::EMPTY {
            line = self.links[line.0].parent;
        }
    }

    /// A node fell back from `old` to `new` for a reason of its own.
    pub fn erode(&mut self, old: LineId, new: LineId) {
        let fork = self.fork(old, new);
        self.each_until(old, fork, |link| link.is_eroded = true);
    }

    /// A round chose `winner` over `loser`.
    pub fn supersede(&mut self, loser: LineId, winner: LineId) {
        let fork = self.fork(loser, winner);
        self.each_until(loser, fork, |link| link.is_superseded = true);
    }

    /// Whether a round chose another line.
    #[must_use]
    pub fn is_superseded(&self, line: LineId) -> bool {
        self.links[line.0].is_superseded
    }

    /// Whether the last change of the line was had by that many nodes and never lost but by the
    /// rule of all members, which it was not either.
    #[must_use]
    pub fn is_safe(&self, line: LineId, majority: usize) -> bool {
        let link = &self.links[line.0];
        link.held_by.len() >= majority && !link.is_eroded && !link.is_superseded
    }

    /// The tree at the end of a line must be the same everywhere; false if it is not.
    pub fn same_tree(&mut self, line: LineId, tree: &Tree) -> bool {
        match &self.links[line.0].tree {
            Some(known) => known == tree,
            None => {
                self.links[line.0].tree = Some(tree.clone());
                true
            }
        }
    }
}

fn hash_of(change: &Change) -> u64 {
    let mut hasher = DefaultHasher::new();
    (change.root.version, change.root.writer, change.root.mtime).hash(&mut hasher);
    change.delete.map(|inode| inode.0).hash(&mut hasher);
    if let Some(entry) = &change.upsert {
        (entry.inode.0, entry.digest()).hash(&mut hasher);
    }
    hasher.finish()
}
