//! The sending side: one slot for each group, shared by all senders.
//!
//! | lock | protects | held while |
//! |---|---|---|
//! | a slot's mutex | the group's CPG handle and its request channel | sending, joining, leaving |
//!
//! The library's request channel carries one request at a time, so senders of a group take
//! turns. Dispatching uses the event channel and does not take the lock: a sender that waits for
//! room never keeps deliveries from being read. Only the cluster thread closes handles, under
//! the lock, and it is also the only one that dispatches.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rust_corosync::{CsError, cpg};

use crate::group::{GroupName, McastError, Multicast};

/// What a group's slot holds.
pub(super) enum Slot {
    Disconnected,
    NotMember,
    /// Dropping the handle closes it.
    Joined(cpg::Handle),
}

/// The slots of both groups.
pub(super) struct Slots {
    config: Mutex<Slot>,
    status: Mutex<Slot>,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self {
            config: Mutex::new(Slot::Disconnected),
            status: Mutex::new(Slot::Disconnected),
        }
    }

    pub(super) fn lock(&self, group: GroupName) -> MutexGuard<'_, Slot> {
        let slot = match group {
            GroupName::Config => &self.config,
            GroupName::Status => &self.status,
        };
        // A panic elsewhere can not leave a slot half changed.
        slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the slot; a handle in it is closed.
    pub(super) fn set(&self, group: GroupName, slot: Slot) {
        *self.lock(group) = slot;
    }
}

impl Multicast for Slots {
    fn mcast(&self, group: GroupName, payload: &[u8]) -> Result<(), McastError> {
        match &*self.lock(group) {
            Slot::Disconnected => Err(McastError::Disconnected),
            Slot::NotMember => Err(McastError::NotMember),
            Slot::Joined(handle) => {
                cpg::mcast_joined(handle, cpg::Guarantee::TypeAgreed, payload).map_err(mcast_error)
            }
        }
    }
}

/// The library's answer to a send.
///
/// `Interrupt` comes when the membership changed between the fragments of a large message; the
/// receivers drop the fragments they have when the message starts anew.
fn mcast_error(error: CsError) -> McastError {
    match error {
        CsError::CsErrTryAgain | CsError::CsErrInterrupt | CsError::CsErrQueueFull => {
            McastError::Backpressure
        }
        CsError::CsErrNotExist => McastError::NotMember,
        CsError::CsErrLibrary | CsError::CsErrBadHandle => McastError::Disconnected,
        other => McastError::Other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_sent_without_a_handle() {
        let slots = Slots::new();
        assert_eq!(
            slots.mcast(GroupName::Config, b"x"),
            Err(McastError::Disconnected)
        );
        slots.set(GroupName::Config, Slot::NotMember);
        assert_eq!(
            slots.mcast(GroupName::Config, b"x"),
            Err(McastError::NotMember)
        );
        assert_eq!(
            slots.mcast(GroupName::Status, b"x"),
            Err(McastError::Disconnected)
        );
    }

    #[test]
    fn passing_conditions_are_told_from_final_ones() {
        assert_eq!(
            mcast_error(CsError::CsErrTryAgain),
            McastError::Backpressure
        );
        assert_eq!(
            mcast_error(CsError::CsErrInterrupt),
            McastError::Backpressure
        );
        assert_eq!(mcast_error(CsError::CsErrLibrary), McastError::Disconnected);
        assert!(matches!(
            mcast_error(CsError::CsErrTooBig),
            McastError::Other(_)
        ));
    }
}
