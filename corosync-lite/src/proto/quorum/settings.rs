//! What the configuration says about votes, checked for options that exclude each other.
//!
//! Owns the rules of combination. At the start a bad combination is refused. In a running daemon it
//! can not be: the newer option yields, and the conflict is reported.
//!
//! Invariant: at most one of `two_node` and `tie_breaker` is on.

use std::time::Duration;

use crate::config::{self, TieBreaker};
use crate::wire::NodeId;

/// The one provider of quorum that there is.
pub(super) const PROVIDER: &str = "corosync_votequorum";
/// A device never leaves the nodes less than this many of the expected votes.
const NODE_VOTES_MIN: u32 = 2;

/// Options that do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// A provider that does not exist here.
    #[error("Invalid quorum provider '{0}': use corosync_votequorum, or remove the key")]
    Provider(String),
    /// Nothing says how many votes there are.
    #[error("configuration error: nodelist or quorum.expected_votes must be configured!")]
    NoVotes,
    /// Two nodes and a device.
    #[error(
        "configuration error: two_node and quorum device cannot be configured at the same time!"
    )]
    TwoNodeWithDevice,
    /// Two nodes and a tie breaker: the latter wins.
    #[error("two_node and auto_tie_breaker exclude each other: two_node is disabled")]
    TwoNodeWithTieBreaker,
    /// A list of nodes without a node in it.
    #[error(
        "auto_tie_breaker_node must be 'lowest', 'highest' or a list of node ids: auto_tie_breaker is disabled"
    )]
    TieBreakerNode,
    /// A restarted smaller half could act.
    #[error(
        "auto_tie_breaker with an odd number of votes needs wait_for_all: auto_tie_breaker is disabled"
    )]
    OddTieBreaker,
    /// The same, and no telling which of the two is meant.
    #[error(
        "configuration error: auto_tie_breaker & last_man_standing not available in odd sized cluster"
    )]
    OddTieBreakerWithLastMan,
    /// A device and a shrinking quorum.
    #[error("configuration error: quorum.device is not compatible with last_man_standing")]
    DeviceWithLastMan,
    /// A device and a tie breaker.
    #[error("configuration error: quorum.device is not compatible with auto_tie_breaker")]
    DeviceWithTieBreaker,
    /// A device and a shrinking quorum.
    #[error("configuration error: quorum.device is not compatible with allow_downscale")]
    DeviceWithDownscale,
    /// How many of the expected votes are those of the device?
    #[error(
        "configuration error: quorum.device.votes must be specified when quorum.expected_votes is set"
    )]
    DeviceVotesWithExpected,
    /// How many votes would outweigh any node?
    #[error(
        "configuration error: quorum.device.votes must be specified when not all nodes votes 1"
    )]
    DeviceVotesUneven,
    /// The device would decide alone.
    #[error("configuration error: quorum.device.votes is too high or expected_votes is too low")]
    DeviceVotesTooHigh,
}

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) two_node: bool,
    pub(super) wait_for_all: bool,
    /// `wait_for_all` is not written, so it goes with `two_node`.
    pub(super) wait_for_all_follows: bool,
    pub(super) tie_breaker: Option<TieBreaker>,
    pub(super) last_man_standing: bool,
    pub(super) last_man_standing_window: Duration,
    pub(super) allow_downscale: bool,
    /// The most votes ever expected are remembered.
    pub(super) tracking: bool,
    /// Votes of this node.
    pub(super) own_votes: u32,
    /// Votes of all.
    pub(super) expected: u32,
    pub(super) device: DeviceSettings,
    /// Nodes of the list; empty without one.
    pub(super) nodes: Vec<NodeId>,
}

/// What is in force for the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceSettings {
    /// Other options exclude it. It may register without being configured.
    pub(super) excluded: bool,
    /// `None`: not said; what is known stays.
    pub(super) votes: Option<u32>,
    pub(super) timeout: Duration,
    pub(super) sync_timeout: Duration,
}

/// When settings are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Conflicts are errors.
    Start,
    /// Conflicts are reported.
    Running {
        /// A device of this node is registered.
        device_registered: bool,
    },
}

/// Votes of the list of nodes.
#[derive(Clone, Copy, Debug, Default)]
struct List {
    listed: bool,
    own: u32,
    sum: u32,
    nodes: u32,
}

impl Settings {
    /// Without a provider nothing counts.
    pub(super) fn none() -> Self {
        Self {
            two_node: false,
            wait_for_all: false,
            wait_for_all_follows: false,
            tie_breaker: None,
            last_man_standing: false,
            last_man_standing_window: Duration::ZERO,
            allow_downscale: false,
            tracking: false,
            own_votes: 1,
            expected: 1,
            device: DeviceSettings {
                excluded: true,
                votes: None,
                timeout: Duration::ZERO,
                sync_timeout: Duration::ZERO,
            },
            nodes: Vec::new(),
        }
    }

    /// Reads what the configuration says.
    ///
    /// # Errors
    /// When a daemon may not start with it, or a running one has to stay with what it has.
    pub(super) fn read(
        config: &config::Config,
        when: When,
    ) -> Result<(Self, Vec<Conflict>), Conflict> {
        let quorum = &config.quorum;
        let list = List::of(config);
        if !list.listed && quorum.expected_votes.unwrap_or(0) == 0 {
            return Err(Conflict::NoVotes);
        }
        let mut settings = Self::of(config, list);
        let mut conflicts = Vec::new();
        settings.check_two_node(quorum, when, &mut conflicts)?;
        if settings.wait_for_all_follows {
            settings.wait_for_all = settings.two_node;
        }
        settings.check_tie_breaker(list, &mut conflicts)?;
        settings.read_device(quorum, list, when, &mut conflicts)?;
        Ok((settings, conflicts))
    }

    /// Everything as it is written.
    fn of(config: &config::Config, list: List) -> Self {
        let quorum = &config.quorum;
        let written = quorum.expected_votes.filter(|votes| *votes != 0);
        let device = quorum.device.as_ref();
        let time = |time: Option<u32>| Duration::from_millis(u64::from(time.unwrap_or(0)));
        Self {
            two_node: quorum.two_node,
            wait_for_all: quorum.wait_for_all.unwrap_or(false),
            wait_for_all_follows: quorum.wait_for_all.is_none(),
            tie_breaker: quorum.auto_tie_breaker.then(|| quorum.tie_breaker.clone()),
            last_man_standing: quorum.last_man_standing,
            last_man_standing_window: time(Some(quorum.last_man_standing_window)),
            allow_downscale: quorum.allow_downscale,
            tracking: quorum.expected_votes_tracking || quorum.allow_downscale,
            own_votes: match list.listed {
                true => list.own,
                false => quorum.votes.unwrap_or(1),
            },
            expected: written.unwrap_or(list.sum),
            device: DeviceSettings {
                excluded: false,
                votes: device.map_or(Some(0), |device| device.votes),
                timeout: time(device.map(|device| device.timeout).or(Some(10_000))),
                sync_timeout: time(device.map(|device| device.sync_timeout).or(Some(30_000))),
            },
            nodes: match list.listed {
                true => config.nodes.iter().map(|node| NodeId(node.id)).collect(),
                false => Vec::new(),
            },
        }
    }

    fn check_two_node(
        &mut self,
        quorum: &config::Quorum,
        when: When,
        conflicts: &mut Vec<Conflict>,
    ) -> Result<(), Conflict> {
        if self.two_node && quorum.device.is_some() {
            match when {
                When::Start => return Err(Conflict::TwoNodeWithDevice),
                When::Running { device_registered } if device_registered => self.two_node = false,
                When::Running { .. } => self.device.excluded = true,
            }
            conflicts.push(Conflict::TwoNodeWithDevice);
        }
        Ok(())
    }

    fn check_tie_breaker(
        &mut self,
        list: List,
        conflicts: &mut Vec<Conflict>,
    ) -> Result<(), Conflict> {
        if matches!(&self.tie_breaker, Some(TieBreaker::List(nodes)) if nodes.is_empty()) {
            conflicts.push(Conflict::TieBreakerNode);
            self.tie_breaker = None;
        }
        if self.two_node && self.tie_breaker.is_some() {
            conflicts.push(Conflict::TwoNodeWithTieBreaker);
            self.two_node = false;
        }
        if self.tie_breaker.is_some() && list.sum % 2 == 1 && !self.wait_for_all {
            if self.last_man_standing {
                return Err(Conflict::OddTieBreakerWithLastMan);
            }
            conflicts.push(Conflict::OddTieBreaker);
            self.tie_breaker = None;
        }
        Ok(())
    }

    fn read_device(
        &mut self,
        quorum: &config::Quorum,
        list: List,
        when: When,
        conflicts: &mut Vec<Conflict>,
    ) -> Result<(), Conflict> {
        let Some(device) = &quorum.device else {
            return Ok(());
        };
        let expected = quorum.expected_votes.filter(|votes| *votes != 0);
        let uneven = list.listed && list.nodes != list.sum;
        let too_high = |votes: u32| {
            expected.is_some_and(|expected| {
                votes > 0 && expected.saturating_sub(votes) < NODE_VOTES_MIN
            })
        };
        let found = [
            (self.last_man_standing, Conflict::DeviceWithLastMan),
            (self.tie_breaker.is_some(), Conflict::DeviceWithTieBreaker),
            (self.allow_downscale, Conflict::DeviceWithDownscale),
            (
                expected.is_some() && device.votes.is_none(),
                Conflict::DeviceVotesWithExpected,
            ),
            (
                device.votes.is_none() && uneven,
                Conflict::DeviceVotesUneven,
            ),
            (
                device.votes.is_some_and(too_high),
                Conflict::DeviceVotesTooHigh,
            ),
        ];
        for (_, conflict) in found.into_iter().filter(|(found, _)| *found) {
            if when == When::Start {
                return Err(conflict);
            }
            self.device.excluded = true;
            conflicts.push(conflict);
        }
        if device.votes.is_none() && expected.is_none() && list.listed && !uneven {
            // Any node together with the device outweighs all the others.
            let votes = list.sum.saturating_sub(1);
            self.device.votes = Some(votes);
            self.expected = list.sum.saturating_add(votes);
        }
        Ok(())
    }
}

impl List {
    /// A list that does not name this node says nothing.
    fn of(config: &config::Config) -> Self {
        let Some(local) = config.local_node() else {
            return Self::default();
        };
        let votes = config.nodes.iter().map(|node| node.votes);
        Self {
            listed: true,
            own: local.votes,
            sum: votes.fold(0, u32::saturating_add),
            nodes: u32::try_from(config.nodes.len()).unwrap_or(u32::MAX),
        }
    }
}
