//! What kind of history a seed stands for.
//!
//! Swarm testing: each history has only some of the faults, so that rare combinations and long
//! undisturbed stretches both come up.

use super::rng::Rng;

/// A deliberate defect, to see that the checkers bite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A node applies changes without looking at quorum.
    IgnoreQuorum,
    /// A node applies two messages in the wrong order.
    SwapOrder,
    /// A node keeps entries that the leader's tree does not have.
    KeepDeleted,
    /// A node answers its clients before the change is stored.
    AnswerEarly,
    /// A database loses a row of a transaction.
    DropRow,
    /// A node takes part in rounds with an older tree than it has.
    StaleState,
    /// A node does not open rounds.
    NoRounds,
}

impl Defect {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::IgnoreQuorum,
        Self::SwapOrder,
        Self::KeepDeleted,
        Self::AnswerEarly,
        Self::DropRow,
        Self::StaleState,
        Self::NoRounds,
    ];
}

/// Something that goes wrong during the first phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The network falls into parts.
    Partition,
    /// One node can be heard by nobody, or hears nobody: memberships come and go.
    OneWay,
    /// A daemon dies; what was committed stays.
    Crash,
    /// A host loses power; transactions that were not synced are gone.
    PowerLoss,
    /// A daemon stands still while its events queue up.
    Pause,
    /// A host stands still: it drops out of the ring as well.
    Freeze,
    /// The messaging daemon of a node dies.
    MessagingLoss,
    /// The disk of a node takes nothing.
    DiskFull,
    /// A database is replaced by an empty one while the daemon is down.
    LostDatabase,
    /// A database is replaced by an old copy while the daemon is down.
    OldDatabase,
    /// The messaging daemon of a node takes no messages for a while.
    Backpressure,
    /// A message can not be sent for another reason.
    SendFailure,
    /// A process joins both groups, says nothing and dies.
    SilentMember,
    /// The leader of a round dies while it sends updates, or anybody during a round.
    DieInRound,
    /// Clients come in a burst.
    Burst,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Partition,
        Self::OneWay,
        Self::Crash,
        Self::PowerLoss,
        Self::Pause,
        Self::Freeze,
        Self::MessagingLoss,
        Self::DiskFull,
        Self::LostDatabase,
        Self::OldDatabase,
        Self::Backpressure,
        Self::SendFailure,
        Self::SilentMember,
        Self::DieInRound,
        Self::Burst,
    ];
}

/// The options of one history.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything comes from.
    pub seed: u64,
    /// Number of nodes, 1 to 9.
    pub nodes: usize,
    /// Steps of the first phase.
    pub steps: u64,
    /// Faults that occur.
    pub faults: Vec<Fault>,
    /// Steps between two faults, on average.
    pub fault_gap: u64,
    /// Messages are handed out only when all members of the ring have them.
    pub safe_delivery: bool,
    /// A merge comes as two changes: who left, then who joined.
    pub split_changes: bool,
    /// The status group takes part.
    pub status: bool,
    /// Some clients act like daemons that check nothing before they send.
    pub unchecked_writers: bool,
    /// Largest difference between the clocks of nodes, seconds.
    pub skew_secs: u64,
    /// Clients of each node.
    pub clients: usize,
    /// Weight of disk steps among all steps, per mille: small is a slow disk.
    pub disk_weight: u64,
    /// Some nodes start with an older or empty database.
    pub uneven_start: bool,
    /// Deliberate defect, and the node that has it.
    pub defect: Option<(Defect, usize)>,
}

impl Options {
    /// The options of a seed.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x6f70_7469_6f6e_7321);
        let nodes = *rng.pick(&[1, 2, 3, 3, 3, 3, 4, 4, 5, 5, 5, 6, 7, 9]);
        let appetite = *rng.pick(&[0, 150, 300, 300, 600]);
        let faults = Fault::ALL.into_iter().filter(|_| rng.chance(appetite));
        let faults: Vec<Fault> = faults.collect();
        Self {
            seed,
            nodes,
            steps: rng.between(500, 5000),
            faults,
            fault_gap: *rng.pick(&[80, 150, 300, 600]),
            safe_delivery: rng.chance(300),
            split_changes: rng.chance(500),
            status: rng.chance(400),
            unchecked_writers: rng.chance(150),
            skew_secs: *rng.pick(&[0, 0, 3, 1000]),
            clients: *rng.pick(&[1, 2, 4]),
            disk_weight: *rng.pick(&[3, 30, 100, 300]),
            uneven_start: rng.chance(200),
            defect: None,
        }
    }

    /// Whether a fault occurs.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}
