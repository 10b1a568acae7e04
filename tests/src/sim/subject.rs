//! The configuration replica as the simulated nodes run it: the production one, with notes for the
//! checkers, and with a deliberate defect if the history asks for one.

use bytes::Bytes;
use pmxcfs::{
    dcdb::{Effect, Replica},
    dfsm::{App, Delivery, Evaluation, Violation},
    memdb::{Digest, Inode, Tree},
    wire::MemberId,
};

use super::options::Defect;

/// What happened inside the state machine during one input.
#[derive(Clone, Debug)]
pub enum Note {
    /// A state was made for a round.
    Stated,
    /// The states of a round were evaluated; whether this node need not wait for updates.
    Evaluated(bool),
}

/// See the module documentation.
#[derive(Debug)]
pub struct Subject {
    replica: Replica,
    defect: Option<Defect>,
    notes: Vec<Note>,
    /// A message that is held back, for [`Defect::SwapOrder`].
    held: Option<(MemberId, (u16, u32, Bytes))>,
    delivered: u64,
    /// Effects that were taken out early, for [`Defect::KeepDeleted`].
    effects: Vec<Effect>,
}

impl Subject {
    /// A replica with or without a defect.
    #[must_use]
    pub fn new(replica: Replica, defect: Option<Defect>) -> Self {
        Self {
            replica,
            defect,
            notes: Vec::new(),
            held: None,
            delivered: 0,
            effects: Vec::new(),
        }
    }

    /// The working tree.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        self.replica.tree()
    }

    /// Notes since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// See [`Replica::reset`].
    pub fn reset(&mut self, tree: Tree, now: u64) {
        self.effects.clear();
        self.replica.reset(tree, now);
    }

    /// See [`Replica::set_quorate`].
    pub fn set_quorate(&mut self, quorate: bool) {
        let quorate = quorate || self.defect == Some(Defect::IgnoreQuorum);
        self.replica.set_quorate(quorate);
    }

    /// See [`Replica::is_quorate`].
    #[must_use]
    pub fn is_quorate(&self) -> bool {
        self.replica.is_quorate()
    }

    /// See [`Replica::poll_effect`].
    #[must_use]
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if self.effects.is_empty() {
            self.replica.poll_effect()
        } else {
            Some(self.effects.remove(0))
        }
    }

    /// Puts an entry back that a round has removed.
    fn keep_deleted(&mut self, now: u64, old: &Tree) {
        while let Some(effect) = self.replica.poll_effect() {
            self.effects.push(effect);
        }
        let tree = self.replica.tree();
        let gone = |inode: Inode| !tree.entries().contains_key(&inode);
        let Some((_, entry)) = old.entries().iter().find(|(inode, _)| gone(**inode)) else {
            return;
        };
        let mut rows: Vec<_> = tree.entries().values().cloned().collect();
        rows.push(entry.clone());
        if let Ok((tree, _)) = Tree::load(tree.root(), rows) {
            self.replica.reset(tree, now);
        }
    }
}

impl App for Subject {
    const PROTOCOL: u32 = Replica::PROTOCOL;
    const VERIFIES: bool = Replica::VERIFIES;

    fn membership(&mut self, members: &[MemberId], lowest: bool) {
        self.replica.membership(members, lowest);
    }

    fn state(&mut self, now: u64) -> Bytes {
        self.notes.push(Note::Stated);
        let mut blob = self.replica.state(now);
        if self.defect == Some(Defect::StaleState)
            && let Some(version) = blob.first().copied()
        {
            let mut bytes = blob.to_vec();
            bytes[0] = version.wrapping_sub(1);
            blob = bytes.into();
        }
        blob
    }

    fn evaluate(
        &mut self,
        now: u64,
        states: &[(MemberId, Bytes)],
        own: usize,
    ) -> Result<Evaluation, Violation> {
        let mut evaluation = self.replica.evaluate(now, states, own)?;
        if self.defect == Some(Defect::NoRounds) {
            evaluation.synced.fill(true);
        }
        let is_synced = evaluation.synced.get(own) == Some(&true);
        self.notes.push(Note::Evaluated(is_synced));
        Ok(evaluation)
    }

    fn commit(&mut self, now: u64, updates: Vec<Bytes>) -> Result<(), Violation> {
        let old = self.replica.tree().clone();
        self.replica.commit(now, updates)?;
        if self.defect == Some(Defect::KeepDeleted) {
            self.keep_deleted(now, &old);
        }
        Ok(())
    }

    fn deliver(
        &mut self,
        now: u64,
        from: MemberId,
        own: Option<u64>,
        message: (u16, u32, Bytes),
    ) -> Delivery {
        self.delivered += 1;
        let swap = self.defect == Some(Defect::SwapOrder);
        if swap && own.is_none() && self.held.is_none() && self.delivered.is_multiple_of(7) {
            self.held = Some((from, message));
            return Delivery {
                result: 0,
                ok: true,
            };
        }
        let delivery = self.replica.deliver(now, from, own, message);
        if let Some((from, message)) = self.held.take() {
            return self.replica.deliver(now, from, None, message);
        }
        delivery
    }

    fn checksum(&mut self) -> Digest {
        self.replica.checksum()
    }
}
