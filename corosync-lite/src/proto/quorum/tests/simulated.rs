//! Whole clusters under random partitions, merges, restarts and orders.
//!
//! With options that are safe, never two partitions are quorate, and all members of a partition
//! have the same opinion. A dumb count by hand is the oracle where the options allow one.

use proptest::prelude::*;

use super::Setup;
use super::net::Net;
use crate::proto::srp::Lane;
use crate::service::votequorum::Request;
use crate::service::{ClientId, RingId};
use crate::wire::NodeId;
use crate::wire::votequorum::{Message, NodeFlags, NodeInfo, Parameter};

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    /// Nodes are spread over three partitions, by number of the partition.
    Partition(Vec<u8>),
    /// The same, but a first attempt is given up after some messages of it.
    Aborted(Vec<u8>, Vec<u8>, u8),
    /// A node dies, and may start again at once.
    Restart(u8, bool),
    /// A node leaves as it should.
    Leave(u8),
    /// Other expected votes, by a client of some node.
    Expect(u8, u8),
    /// Nobody waits any more.
    Cancel(u8),
}

const NODES: usize = 6;

fn step() -> impl Strategy<Value = Step> {
    let spread = || prop::collection::vec(0_u8..3, NODES);
    prop_oneof![
        4 => spread().prop_map(Step::Partition),
        2 => (spread(), spread(), 0_u8..20).prop_map(|(a, b, n)| Step::Aborted(a, b, n)),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(node, up)| Step::Restart(node, up)),
        1 => any::<u8>().prop_map(Step::Leave),
    ]
}

/// Those and orders of clients.
fn step_or_order() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => step(),
        1 => (any::<u8>(), 1_u8..12).prop_map(|(node, votes)| Step::Expect(node, votes)),
        1 => any::<u8>().prop_map(Step::Cancel),
    ]
}

/// Nodes with votes, and how options can be combined without danger.
fn safe_setup() -> impl Strategy<Value = Setup> {
    let even = prop::sample::select(vec![
        vec!["auto_tie_breaker: 1"],
        vec!["auto_tie_breaker: 1", "auto_tie_breaker_node: highest"],
        vec!["auto_tie_breaker: 1", "auto_tie_breaker_node: 2 3 1"],
        vec!["auto_tie_breaker: 1", "wait_for_all: 1"],
        vec![
            "auto_tie_breaker: 1",
            "auto_tie_breaker_node: 3 2",
            "wait_for_all: 1",
        ],
    ]);
    let any_number = prop::sample::select(vec![
        vec![],
        vec!["wait_for_all: 1"],
        vec!["allow_downscale: 1"],
        vec!["expected_votes_tracking: 1"],
        vec!["expected_votes_tracking: 1", "wait_for_all: 1"],
    ]);
    let votes = prop::collection::vec(0_u32..4, 1..=NODES)
        .prop_filter("some votes", |votes| votes.iter().sum::<u32>() > 0);
    let halves = prop::sample::select(vec![2_usize, 4, 6]);
    prop_oneof![
        (votes, any_number).prop_map(|(votes, options)| Setup::weighted(&votes, &options)),
        (halves, even).prop_map(|(nodes, options)| Setup::new(nodes, &options)),
    ]
}

/// Those that can be told to go on, or do on their own, against all safety.
fn any_setup() -> impl Strategy<Value = Setup> {
    let options = prop::sample::select(vec![
        vec!["last_man_standing: 1"],
        vec!["last_man_standing: 1", "wait_for_all: 1"],
        vec!["allow_downscale: 1", "wait_for_all: 1"],
        vec!["expected_votes_tracking: 1"],
        vec![],
    ]);
    (2..=NODES, options).prop_map(|(nodes, options)| Setup::new(nodes, &options))
}

struct World {
    net: Net,
    steps: usize,
}

impl World {
    fn new(setup: Setup, seed: u64) -> Self {
        let mut net = Net::up(setup);
        net.seed(seed);
        let mut world = Self { net, steps: 0 };
        world.partition(&[0; NODES]);
        world
    }

    fn nodes(&self) -> Vec<u32> {
        self.net.peers.keys().copied().collect()
    }

    fn one(&self, which: u8) -> Option<u32> {
        let nodes = self.nodes();
        let index = usize::from(which).checked_rem(nodes.len())?;
        nodes.get(index).copied()
    }

    fn groups(&self, spread: &[u8]) -> Vec<Vec<u32>> {
        let of = |id: &u32| spread[usize::try_from(*id).unwrap() - 1];
        let groups = (0..3).map(|group| {
            let mut nodes = self.nodes();
            nodes.retain(|id| of(id) == group);
            nodes
        });
        groups.filter(|group| !group.is_empty()).collect()
    }

    /// All partitions change at the same moment.
    fn partition(&mut self, spread: &[u8]) {
        let groups = self.groups(spread);
        groups.iter().for_each(|group| self.net.begin(group));
        for group in groups {
            self.net.process(&group);
            while self.net.deliver_one(&group, Lane::Sync) {}
            self.net.activate(&group);
            self.net.run(&group);
        }
    }

    /// Every node goes through a configuration that does not last.
    fn attempt(&mut self, spread: &[u8], messages: u8) {
        let groups = self.groups(spread);
        groups.iter().for_each(|group| self.net.begin(group));
        for group in groups {
            self.net.process(&group);
            for _ in 0..messages {
                self.net.deliver_one(&group, Lane::Sync);
            }
            group
                .iter()
                .for_each(|id| self.net.peer(*id).core.sync_abort());
        }
    }

    /// Rings form anew without the nodes that are down, each as it was.
    fn settle(&mut self) {
        let groups = self.net.groups();
        let mut spread = vec![0; NODES];
        for (number, group) in groups.iter().enumerate() {
            for id in group {
                spread[usize::try_from(*id).unwrap() - 1] = u8::try_from(number).unwrap() % 3;
            }
        }
        self.partition(&spread);
    }

    fn step(&mut self, step: &Step) {
        self.steps += 1;
        match step {
            Step::Partition(spread) => self.partition(spread),
            Step::Aborted(first, then, messages) => {
                self.attempt(first, *messages);
                self.partition(then);
            }
            Step::Restart(which, up) => {
                let all = 1..=u32::try_from(self.net.setup.votes.len()).unwrap();
                let down: Vec<u32> = all.filter(|id| !self.net.peers.contains_key(id)).collect();
                down.into_iter().for_each(|id| self.net.start(id));
                if let Some(id) = self.one(*which) {
                    self.net.kill(id);
                    if *up {
                        self.net.start(id);
                    }
                }
                self.settle();
            }
            Step::Leave(which) => {
                if let Some(id) = self.one(*which) {
                    self.net.peer(id).core.leave();
                    self.net.peer(id).drain();
                    let group = self.net.group(id);
                    self.net.run(&group);
                    self.net.kill(id);
                    self.settle();
                }
            }
            Step::Expect(which, votes) => {
                if let Some(id) = self.one(*which) {
                    let votes = u32::from(*votes);
                    self.net.call(id, Request::SetExpected { votes });
                }
            }
            Step::Cancel(which) => {
                if let Some(id) = self.one(*which) {
                    self.net.peer(id).core.cancel_wait_for_all();
                    self.net.peer(id).drain();
                    let group = self.net.group(id);
                    self.net.run(&group);
                }
            }
        }
    }

    fn groups_now(&self) -> Vec<Vec<u32>> {
        self.net.groups()
    }

    fn check_agreement(&self) -> Result<(), TestCaseError> {
        for group in self.groups_now() {
            let opinion = |id: &u32| {
                let status = self.net.status(*id);
                prop_assert_eq!(status.quorate, self.net.quorate(*id));
                Ok((status.quorate, status.votes, status.expected, status.quorum))
            };
            let first = opinion(&group[0])?;
            for id in &group {
                prop_assert_eq!(opinion(id)?, first, "node {} of {:?}", id, &group);
            }
        }
        Ok(())
    }

    fn check_one_quorate(&self) -> Result<(), TestCaseError> {
        let groups = self.groups_now();
        let quorate = groups
            .iter()
            .filter(|group| group.iter().any(|id| self.net.quorate(*id)));
        prop_assert!(quorate.count() <= 1, "after step {}", self.steps);
        Ok(())
    }

    /// More than half of all votes, counted by hand.
    fn check_count(&self) -> Result<(), TestCaseError> {
        let votes = |id: &u32| self.net.setup.votes[usize::try_from(*id).unwrap() - 1];
        let all: u32 = self.net.setup.votes.iter().sum();
        for group in self.groups_now() {
            let here: u32 = group.iter().map(votes).sum();
            prop_assert_eq!(self.net.quorate(group[0]), 2 * here > all, "{:?}", group);
        }
        Ok(())
    }
}

/// Messages with numbers that no sane node sends.
fn message() -> impl Strategy<Value = Message> {
    let number = || prop_oneof![0_u32..4, Just(u32::MAX), any::<u32>()];
    let parameters = vec![
        Parameter::ExpectedVotes,
        Parameter::Votes,
        Parameter::CancelWaitForAll,
    ];
    let name = || prop::sample::select(vec!["", "A", "B"]).prop_map(Into::into);
    prop_oneof![
        (number(), number(), number(), 0_u32..256).prop_map(|(node, votes, expected, flags)| {
            Message::NodeInfo(NodeInfo {
                node: NodeId(node),
                votes,
                expected_votes: expected,
                flags: NodeFlags(flags),
            })
        }),
        (number(), number(), prop::sample::select(parameters)).prop_map(
            |(node, value, parameter)| Message::Reconfigure {
                node: NodeId(node),
                value,
                parameter,
            }
        ),
        (any::<bool>(), name()).prop_map(|(registered, name)| Message::Device { registered, name }),
        (name(), name()).prop_map(|(old, new)| Message::DeviceRename { old, new }),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let number = || prop_oneof![0_u32..4, Just(u32::MAX), any::<u32>()];
    let name = || prop::sample::select(vec!["", "A", "B"]).prop_map(str::to_owned);
    let ring = (0_u32..3, 0_u64..30).prop_map(|(nodeid, seq)| RingId { nodeid, seq });
    prop_oneof![
        number().prop_map(|nodeid| Request::GetInfo { nodeid }),
        number().prop_map(|votes| Request::SetExpected { votes }),
        (number(), number()).prop_map(|(nodeid, votes)| Request::SetVotes { nodeid, votes }),
        (any::<u64>(), 0_u32..8)
            .prop_map(|(context, flags)| Request::TrackStart { context, flags }),
        Just(Request::TrackStop),
        name().prop_map(|name| Request::DeviceRegister { name }),
        name().prop_map(|name| Request::DeviceUnregister { name }),
        (name(), name()).prop_map(|(old, new)| Request::DeviceUpdate { old, new }),
        (name(), any::<bool>(), ring).prop_map(|(name, cast_vote, ring)| Request::DevicePoll {
            name,
            cast_vote,
            ring,
        }),
        (name(), any::<bool>()).prop_map(|(name, allow)| Request::DeviceMasterWins { name, allow }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn safe_options_never_make_two_quorate_partitions(
        setup in safe_setup(), seed: u64, steps in prop::collection::vec(step(), 1..25),
    ) {
        let mut world = World::new(setup, seed);
        for step in &steps {
            world.step(step);
            world.check_one_quorate()?;
            world.check_agreement()?;
        }
    }

    #[test]
    fn plain_quorum_is_more_than_half(
        votes in prop::collection::vec(0_u32..5, 1..=NODES), seed: u64,
        steps in prop::collection::vec(step(), 1..25),
    ) {
        prop_assume!(votes.iter().sum::<u32>() > 0);
        let mut world = World::new(Setup::weighted(&votes, &[]), seed);
        for step in &steps {
            world.step(step);
            world.check_count()?;
        }
    }

    #[test]
    fn members_agree_whatever_they_are_told(
        setup in any_setup(), seed: u64, steps in prop::collection::vec(step_or_order(), 1..25),
    ) {
        let mut world = World::new(setup, seed);
        for step in &steps {
            world.step(step);
            world.check_agreement()?;
        }
    }

    /// Whatever members and clients say, the core goes on, and each call has one answer at most.
    #[test]
    fn anything_received_is_taken(
        setup in any_setup(),
        received in prop::collection::vec((1_u32..4, message(), request()), 1..40),
    ) {
        let mut net = Net::together(setup);
        let calls = received.len();
        for (sender, message, request) in received {
            let now = net.now;
            let peer = net.peer(1);
            peer.core.handle_message(NodeId(sender), message);
            peer.core.handle_votequorum_request(now, ClientId(1), request);
            peer.drain();
        }
        prop_assert!(net.peer(1).responses.len() <= calls);
        for group in [vec![1, 2], vec![1]] {
            net.begin(&group);
            net.process(&group);
            while net.deliver_one(&group, Lane::Sync) {}
            // Longer than anybody waits for a device.
            net.sleep(std::time::Duration::from_secs(60));
            prop_assert!(net.held(&group).is_empty());
            net.activate(&group);
        }
    }
}
