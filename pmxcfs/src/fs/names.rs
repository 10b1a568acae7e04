//! Looking names up and listing directories.

use std::sync::Arc;

use bytes::Bytes;

use super::{Attr, Fs, FsError, Kind, MAX_NAME, Node, ROOT_INO, Virtual, ino_of, open::Handle};
use crate::memdb::{Inode, Name, Tree, TreeEntry, join};

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Number that the kernel knows.
    pub ino: u64,
    /// Kind.
    pub kind: Kind,
    /// Name in the directory.
    pub name: Name,
}

/// A directory as it was when it was opened.
#[derive(Debug)]
pub struct Listing {
    /// Directory that is listed.
    pub ino: u64,
    lines: Vec<Listed>,
}

impl Listing {
    /// Lines from a position on; positions count from 0 and are those of the listing.
    #[must_use]
    pub fn from(&self, position: u64) -> &[Listed] {
        let position = usize::try_from(position).unwrap_or(usize::MAX);
        self.lines.get(position..).unwrap_or_default()
    }
}

/// A name in a directory of a snapshot.
pub(super) enum Found<'a> {
    Virtual(Virtual),
    Entry(&'a Arc<TreeEntry>),
}

impl Fs {
    /// Looks a name up; `None` if there is none, which holds until [`super::Notes`] says otherwise.
    ///
    /// The kernel knows what is found from then on, until [`Fs::forget`].
    ///
    /// # Errors
    /// [`FsError::Stale`] when the directory is gone.
    pub fn lookup(&self, dir: u64, name: &[u8]) -> Result<Option<Attr>, FsError> {
        check_name(name)?;
        loop {
            let tree = self.snapshot();
            let parent = directory(&tree, dir)?;
            let ino = match name {
                b"." => dir,
                b".." => tree
                    .get(parent)
                    .map_or(ROOT_INO, |entry| ino_of(entry.parent)),
                _ => match find(&tree, parent, name) {
                    None => return Ok(None),
                    Some(Found::Virtual(entry)) => {
                        return Ok(Some(self.virtual_attr(entry, &tree)));
                    }
                    Some(Found::Entry(entry)) => ino_of(entry.inode),
                },
            };
            self.known.add(ino);
            match self.getattr(ino) {
                Ok(attr) if attr.nlink > 0 => return Ok(Some(attr)),
                // Removed meanwhile; something else may have the name now.
                _ => self.known.forget(ino, 1),
            }
        }
    }

    /// Opens a directory for listing and returns its handle.
    ///
    /// # Errors
    /// [`FsError::Stale`] when the directory is gone, [`FsError::NotDirectory`] when it is none.
    pub fn opendir(&self, ino: u64) -> Result<u64, FsError> {
        let tree = self.snapshot();
        let dir = directory(&tree, ino)?;
        let listing = Arc::new(self.list(&tree, dir));
        Ok(self.open.open_other(Handle::Directory(listing)))
    }

    /// The listing of an open directory.
    ///
    /// # Errors
    /// [`FsError::BadHandle`] when it is not open.
    pub fn listing(&self, handle: u64) -> Result<Arc<Listing>, FsError> {
        match self.open.get(handle)? {
            Handle::Directory(listing) => Ok(listing),
            Handle::File(_) | Handle::Virtual(..) => Err(FsError::BadHandle),
        }
    }

    fn list(&self, tree: &Tree, dir: Inode) -> Listing {
        let parent = tree.get(dir).map_or(Inode::ROOT, |entry| entry.parent);
        let mut lines = vec![
            line(ino_of(dir), Kind::Directory, b"."),
            line(ino_of(parent), Kind::Directory, b".."),
        ];
        if dir == Inode::ROOT {
            lines.extend(Virtual::ALL.map(|entry| {
                let is_link = entry.link_target(&self.node).is_some();
                let kind = if is_link { Kind::Link } else { Kind::File };
                line(entry.ino(), kind, entry.name().as_bytes())
            }));
        }
        for (name, inode) in tree.children(dir).into_iter().flatten() {
            if dir == Inode::ROOT && Virtual::from_name(name).is_some() {
                continue;
            }
            let kind = if tree.is_dir(*inode) {
                Kind::Directory
            } else {
                Kind::File
            };
            lines.push(Listed {
                ino: ino_of(*inode),
                kind,
                name: Arc::clone(name),
            });
        }
        Listing {
            ino: ino_of(dir),
            lines,
        }
    }
}

/// The directory behind a number of the kernel.
pub(super) fn directory(tree: &Tree, ino: u64) -> Result<Inode, FsError> {
    let Node::Entry(dir) = Node::from_ino(ino) else {
        return Err(FsError::NotDirectory);
    };
    if tree.is_dir(dir) {
        return Ok(dir);
    }
    match tree.get(dir) {
        Some(_) => Err(FsError::NotDirectory),
        None => Err(FsError::Stale),
    }
}

/// Finds a name; computed entries hide those of the tree.
pub(super) fn find<'a>(tree: &'a Tree, dir: Inode, name: &[u8]) -> Option<Found<'a>> {
    let computed = (dir == Inode::ROOT).then(|| Virtual::from_name(name));
    match computed.flatten() {
        Some(entry) => Some(Found::Virtual(entry)),
        None => tree.child(dir, name).map(Found::Entry),
    }
}

/// Path of a name in a directory, as operations carry it.
pub(super) fn path_in(tree: &Tree, dir: Inode, name: &[u8]) -> Result<Bytes, FsError> {
    let dir = tree.path_of(dir).ok_or(FsError::Stale)?;
    Ok(Bytes::from(join(&dir, name)))
}

pub(super) fn check_name(name: &[u8]) -> Result<(), FsError> {
    if name.len() > MAX_NAME {
        return Err(FsError::NameTooLong);
    }
    Ok(())
}

fn line(ino: u64, kind: Kind, name: &[u8]) -> Listed {
    Listed {
        ino,
        kind,
        name: Name::from(name),
    }
}
