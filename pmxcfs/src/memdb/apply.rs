//! Applying operations: the part that must give the same tree on every member.
//!
//! The order of checks and the faults of the original are kept on purpose: a member that decides
//! differently has a different tree from then on. What the original should not have let through
//! is refused before an operation is sent, not here.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{
    entry::{Content, Inode, Name, TreeEntry},
    guests::GuestPath,
    limits::MAX_FILE_SIZE,
    lock::{is_lock_path, lock_name},
    op::{Change, LockEffect, Op, OpError, Outcome, Stamp},
    path::split,
    tree::{Root, Tree},
};

/// The path whose content configures the cluster.
const CONF_PATH: &[u8] = b"corosync.conf";

impl Tree {
    /// Applies one operation in its place of the order.
    pub fn apply(&mut self, op: &Op, stamp: Stamp) -> Outcome {
        let outcome = match op {
            Op::Mkdir { path } => self.mkdir(path, stamp),
            Op::Create { path } => self.create(path, stamp),
            Op::Write {
                path,
                offset,
                data,
                truncate,
            } => self.write(path, *offset, data, *truncate, stamp),
            Op::Rename { from, to } => return self.rename(from, to, stamp),
            Op::Delete { path } => self.delete(path, stamp),
            Op::Mtime { path, mtime } => self.set_mtime(path, *mtime, stamp),
            Op::Unlock { path, checksum } => self.unlock(path, checksum, stamp),
        };
        outcome.unwrap_or_else(Outcome::refused)
    }

    fn mkdir(&mut self, path: &Bytes, stamp: Stamp) -> Result<Outcome, OpError> {
        let (parent, name) = self.parent_for(path)?;
        if self.child(parent, name).is_some() {
            return Err(OpError::Exists);
        }
        let entry = self.insert_new(parent, name, Content::Directory, stamp);
        let lock = lock_name(path)
            .is_some()
            .then(|| LockEffect::Started(path.clone(), entry.lock_checksum()));
        let mut outcome = self.changed(0, Some(entry), None);
        outcome.lock = lock;
        Ok(outcome)
    }

    fn create(&mut self, path: &Bytes, stamp: Stamp) -> Result<Outcome, OpError> {
        let (parent, name) = self.parent_for(path)?;
        let guest = self.guest_for(path)?;
        if let Some(found) = self.child(parent, name) {
            return Err(if found.is_dir() {
                OpError::NotDirectory
            } else {
                OpError::Exists
            });
        }
        let entry = self.insert_new(parent, name, Content::File(Bytes::new()), stamp);
        self.file_changed(path, guest.as_ref());
        let mut outcome = self.changed(0, Some(entry), None);
        outcome.touched_conf = path == CONF_PATH;
        Ok(outcome)
    }

    fn write(
        &mut self,
        path: &Bytes,
        offset: u32,
        data: &Bytes,
        truncate: bool,
        stamp: Stamp,
    ) -> Result<Outcome, OpError> {
        let len = u32::try_from(data.len()).map_err(|_| OpError::TooLarge)?;
        let end = offset.checked_add(len).filter(|end| *end <= MAX_FILE_SIZE);
        let end = end.ok_or(OpError::TooLarge)?;
        let (parent, name) = self.parent_for(path)?;
        let guest = self.guest_for(path)?;
        let old = Arc::clone(self.child(parent, name).ok_or(OpError::NotFound)?);
        if old.is_dir() {
            return Err(OpError::NotDirectory);
        }
        let content = written(&old.content, offset, data, end, truncate);
        let root = self.next_root(stamp);
        let entry = self.put(TreeEntry::new(
            old.inode,
            old.parent,
            root.version,
            stamp.writer,
            stamp.mtime,
            Arc::clone(&old.name),
            content,
        ));
        self.file_changed(path, guest.as_ref());
        let mut outcome = self.changed(len, Some(entry), None);
        outcome.touched_conf = path == CONF_PATH;
        Ok(outcome)
    }

    fn delete(&mut self, path: &Bytes, stamp: Stamp) -> Result<Outcome, OpError> {
        let found = self.lookup(path).ok_or(OpError::NotFound)?;
        let entry = Arc::clone(found.ok_or(OpError::Access)?);
        if self.has_children(entry.inode) {
            return Err(OpError::NotEmpty);
        }
        self.next_root(stamp);
        self.remove(entry.inode);
        self.observed.record(path);
        if let Some(guest) = GuestPath::parse(path) {
            self.guests.remove(guest.id);
        }
        let mut outcome = self.changed(0, None, Some(entry.inode));
        outcome.lock = entry.is_dir().then(|| LockEffect::Ended(path.clone()));
        Ok(outcome)
    }

    fn set_mtime(&mut self, path: &Bytes, mtime: u32, stamp: Stamp) -> Result<Outcome, OpError> {
        let (parent, name) = self.parent_for(path)?;
        let old = Arc::clone(self.child(parent, name).ok_or(OpError::NotFound)?);
        let (dir, _) = split(path);
        let is_lock = dir == b"priv/lock" && old.is_dir();
        if is_lock && (mtime < old.mtime || old.writer != stamp.writer) {
            return Err(OpError::Access);
        }
        // The time that the user sets becomes the time of the tree, too: it breaks ties when
        // members choose whose tree wins.
        let root = self.next_root(Stamp {
            writer: stamp.writer,
            mtime,
        });
        let entry = self.put(old.restamped(root.version, stamp.writer, mtime));
        self.observed.record(path);
        let lock = is_lock.then(|| LockEffect::Started(path.clone(), entry.lock_checksum()));
        let mut outcome = self.changed(0, Some(entry), None);
        outcome.lock = lock;
        Ok(outcome)
    }

    fn unlock(
        &mut self,
        path: &Bytes,
        checksum: &super::Digest,
        stamp: Stamp,
    ) -> Result<Outcome, OpError> {
        let entry = self.find(path).ok_or(OpError::NotFound)?;
        if !entry.is_dir() || !is_lock_path(path) || entry.lock_checksum() != *checksum {
            return Err(OpError::Access);
        }
        self.delete(path, stamp)
    }

    fn rename(&mut self, from: &Bytes, to: &Bytes, stamp: Stamp) -> Outcome {
        let plan = match self.plan_rename(from, to) {
            Ok(plan) => plan,
            Err(error) => return Outcome::refused(error),
        };
        self.observed.record(from);
        self.observed.record(to);
        if let Some(replaced) = plan.replaced {
            self.remove(replaced);
        }
        if self.has_children(plan.source.inode) {
            // The original has removed the target by now, on every member. Its row stays behind
            // there and can keep the daemon from starting; here the row goes as well.
            let change = plan.replaced.map(|inode| Change {
                upsert: None,
                delete: Some(inode),
                root: self.root,
            });
            let mut outcome = Outcome::refused(OpError::NotEmpty);
            outcome.change = change;
            return outcome;
        }
        let root = self.next_root(stamp);
        let entry = self.put(TreeEntry::new(
            plan.source.inode,
            plan.parent,
            root.version,
            stamp.writer,
            stamp.mtime,
            Name::from(plan.name.as_slice()),
            plan.source.content.clone(),
        ));
        if !entry.is_dir() {
            if let Some(guest) = &plan.from_guest {
                self.guests.remove(guest.id);
            }
            if let Some(guest) = &plan.to_guest {
                self.guests.register(guest);
            }
        }
        let mut outcome = self.changed(0, Some(entry), plan.replaced);
        outcome.touched_conf = to == CONF_PATH;
        outcome
    }

    fn plan_rename(&self, from: &[u8], to: &[u8]) -> Result<RenamePlan, OpError> {
        if from.is_empty() || to.is_empty() {
            return Err(OpError::Invalid);
        }
        let source = self
            .lookup(from)
            .ok_or(OpError::NotFound)?
            .ok_or(OpError::Access)?;
        let from_guest = GuestPath::parse(from);
        let to_guest = if source.is_dir() {
            None
        } else {
            GuestPath::parse(to)
        };
        if let Some(guest) = &to_guest
            && self.guests.conflicts(guest)
            && from_guest.as_ref().is_none_or(|from| from.id != guest.id)
        {
            return Err(OpError::GuestExists);
        }
        if source.is_dir() && is_lock_path(from) {
            return Err(OpError::Access);
        }
        let (parent, name, replaced) = match self.lookup(to) {
            Some(None) => return Err(OpError::Access),
            Some(Some(target)) => {
                if target.inode == source.inode {
                    return Err(OpError::Invalid);
                }
                if self.has_children(target.inode) {
                    return Err(OpError::NotEmpty);
                }
                (target.parent, target.name.to_vec(), Some(target.inode))
            }
            None => {
                let (dir, base) = split(to);
                let parent = self.directory(dir)?;
                (parent, base.to_vec(), None)
            }
        };
        if parent == source.inode || Some(source.inode) == replaced {
            return Err(OpError::Invalid);
        }
        let source = Arc::clone(source);
        Ok(RenamePlan {
            source,
            parent,
            name,
            replaced,
            from_guest,
            to_guest,
        })
    }

    /// Parent directory and name of a path that an operation makes or changes.
    fn parent_for<'a>(&self, path: &'a [u8]) -> Result<(Inode, &'a [u8]), OpError> {
        if path.is_empty() {
            return Err(OpError::Invalid);
        }
        let (dir, name) = split(path);
        let parent = self.directory(dir)?;
        match name {
            b"" | b"." | b".." => Err(OpError::Access),
            name => Ok((parent, name)),
        }
    }

    fn directory(&self, path: &[u8]) -> Result<Inode, OpError> {
        match self.lookup(path).ok_or(OpError::NotFound)? {
            None => Ok(Inode::ROOT),
            Some(entry) if entry.is_dir() => Ok(entry.inode),
            Some(_) => Err(OpError::NotDirectory),
        }
    }

    fn guest_for(&self, path: &[u8]) -> Result<Option<GuestPath>, OpError> {
        let guest = GuestPath::parse(path);
        match &guest {
            Some(found) if self.guests.conflicts(found) => Err(OpError::GuestExists),
            _ => Ok(guest),
        }
    }

    /// Whether a directory has entries; false for files.
    #[must_use]
    pub fn has_children(&self, inode: Inode) -> bool {
        self.children
            .get(&inode)
            .is_some_and(|children| !children.is_empty())
    }

    fn insert_new(
        &mut self,
        parent: Inode,
        name: &[u8],
        content: Content,
        stamp: Stamp,
    ) -> Arc<TreeEntry> {
        let root = self.next_root(stamp);
        self.put(TreeEntry::new(
            Inode(root.version),
            parent,
            root.version,
            stamp.writer,
            stamp.mtime,
            Name::from(name),
            content,
        ))
    }

    fn next_root(&mut self, stamp: Stamp) -> Root {
        self.root = Root {
            version: self.root.version.wrapping_add(1),
            writer: stamp.writer,
            mtime: stamp.mtime,
        };
        self.root
    }

    fn file_changed(&mut self, path: &[u8], guest: Option<&GuestPath>) {
        self.observed.record(path);
        if let Some(guest) = guest {
            self.guests.register(guest);
        }
    }

    fn changed(
        &self,
        result: u32,
        upsert: Option<Arc<TreeEntry>>,
        delete: Option<Inode>,
    ) -> Outcome {
        Outcome {
            result: Ok(result),
            change: Some(Change {
                upsert,
                delete,
                root: self.root,
            }),
            lock: None,
            touched_conf: false,
        }
    }
}

struct RenamePlan {
    source: Arc<TreeEntry>,
    parent: Inode,
    name: Vec<u8>,
    replaced: Option<Inode>,
    from_guest: Option<GuestPath>,
    to_guest: Option<GuestPath>,
}

/// Content after a write that ends at `end`. Invariant: `end <= MAX_FILE_SIZE`.
fn written(old: &Content, offset: u32, data: &Bytes, end: u32, truncate: bool) -> Content {
    let old = match old {
        Content::File(old) if !old.is_empty() => old,
        // Nothing allocated: the file becomes exactly `end` long, and without data nothing is
        // allocated either.
        _ if data.is_empty() && end > 0 => return Content::Hollow(end),
        _ => &Bytes::new(),
    };
    let old_len = u32::try_from(old.len()).unwrap_or(u32::MAX);
    let len = if end > old_len || truncate {
        end
    } else {
        old_len
    };
    if offset == 0 && data.len() == len as usize {
        return Content::File(data.clone());
    }
    if data.is_empty() && len <= old_len {
        // A copy, not a slice: a slice would keep the cut bytes in memory.
        return Content::File(Bytes::copy_from_slice(&old[..len as usize]));
    }
    let mut new = BytesMut::zeroed(len as usize);
    let kept = old.len().min(len as usize);
    new[..kept].copy_from_slice(&old[..kept]);
    new[offset as usize..end as usize].copy_from_slice(data);
    Content::File(new.freeze())
}
