use super::*;
use crate::proto::srp::Lane;

const SERVICES: [u16; 4] = [0, 2, 3, 5];

fn ring(seq: u64) -> RingId {
    let rep = NodeId(1);
    RingId { rep, seq }
}

fn nodes(ids: &[u32]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

fn drain(sync: &mut Sync) -> Vec<Output> {
    std::iter::from_fn(|| sync.poll_output()).collect()
}

fn barrier(seq: u64) -> Message {
    Message::Barrier { ring: ring(seq) }
}

fn build(seq: u64, services: &[u32]) -> Message {
    let services = services.to_vec();
    let ring = ring(seq);
    Message::Build { ring, services }
}

/// Members on one ring: what any sends reaches all in the same order.
struct Ring {
    members: Vec<(NodeId, Sync, Vec<Output>)>,
    order: VecDeque<(NodeId, Message)>,
}

impl Ring {
    fn new(members: &[(u32, &[u16])]) -> Self {
        let ids: Vec<_> = members.iter().map(|(id, _)| NodeId(*id)).collect();
        let mut all = Self {
            members: Vec::new(),
            order: VecDeque::new(),
        };
        for (id, services) in members {
            let mut sync = Sync::new(services.to_vec());
            sync.handle_regular(ring(4), &ids);
            all.members.push((NodeId(*id), sync, Vec::new()));
        }
        all.settle();
        all
    }

    fn settle(&mut self) {
        for (id, sync, seen) in &mut self.members {
            while let Some(output) = sync.poll_output() {
                match &output {
                    Output::Mcast(message) => self.order.push_back((*id, message.clone())),
                    Output::Process(_) => sync.processed(),
                    _ => {}
                }
                seen.push(output);
            }
        }
    }

    fn deliver(&mut self) -> bool {
        let Some((sender, message)) = self.order.pop_front() else {
            return false;
        };
        for (_, sync, _) in &mut self.members {
            sync.handle_message(sender, &message);
        }
        self.settle();
        true
    }
}

#[test]
fn services_run_in_order_and_those_of_others_get_a_barrier() {
    let mut ring4 = Ring::new(&[(1, &SERVICES), (2, &[5, 2]), (7, &[])]);
    while ring4.deliver() {}
    for (_, sync, _) in &ring4.members {
        assert!(sync.is_done());
        assert_eq!(sync.lane(), Lane::Ordinary);
    }
    let mut expected = vec![
        Output::Init {
            ring: ring(4),
            members: nodes(&[1, 2, 7]),
            transitional: Vec::new(),
        },
        Output::Mcast(build(4, &[0, 2, 3, 5])),
    ];
    for service in SERVICES {
        expected.extend([
            Output::Process(service),
            Output::Mcast(barrier(4)),
            Output::Activate(service),
        ]);
    }
    expected.push(Output::Done(ring(4)));
    assert_eq!(ring4.members[0].2, expected);
    expected.retain(|output| match output {
        Output::Process(service) | Output::Activate(service) => [2, 5].contains(service),
        _ => true,
    });
    expected[1] = Output::Mcast(build(4, &[2, 5]));
    assert_eq!(ring4.members[1].2, expected);
    let barriers = |output: &&Output| **output == Output::Mcast(barrier(4));
    assert_eq!(ring4.members[2].2.iter().filter(barriers).count(), 4);
}

/// Whatever the moment: what was begun is given up, and the next configuration starts afresh.
#[test]
fn a_newer_configuration_aborts_in_every_phase() {
    for moment in 0..30 {
        let mut old = Ring::new(&[(1, &SERVICES), (2, &SERVICES)]);
        let delivered = (0..moment).take_while(|_| old.deliver()).count();
        let (_, mut sync, seen) = old.members.remove(0);
        let was_done = sync.is_done();
        assert_eq!(was_done, delivered == 10);
        let activated = |output: &Output| match output {
            Output::Activate(service) => Some(*service),
            _ => None,
        };
        let activated: Vec<_> = seen.iter().filter_map(activated).collect();
        sync.handle_transitional(&nodes(&[1, 2]));
        assert!(!sync.is_done());
        let aborted: Vec<_> = drain(&mut sync);
        let left = SERVICES
            .iter()
            .filter(|service| !activated.contains(service));
        assert_eq!(
            aborted,
            left.map(|it| Output::Abort(*it)).collect::<Vec<_>>()
        );
        // Rest of the old ring: counted, without effect.
        for (sender, message) in &old.order {
            sync.handle_message(*sender, message);
        }
        assert!(drain(&mut sync).is_empty());
        sync.handle_regular(ring(8), &nodes(&[2, 1, 3]));
        assert_eq!(sync.lane(), Lane::Sync);
        assert_eq!(
            drain(&mut sync),
            [
                Output::Init {
                    ring: ring(8),
                    members: nodes(&[1, 2, 3]),
                    transitional: nodes(&[1, 2]),
                },
                Output::Mcast(build(8, &[0, 2, 3, 5])),
            ]
        );
        // Messages of the old ring and of strangers do nothing.
        for node in nodes(&[1, 2, 3, 9]) {
            sync.handle_message(node, &build(4, &[0]));
        }
        sync.handle_message(NodeId(9), &build(8, &[0]));
        assert!(drain(&mut sync).is_empty());
        for node in nodes(&[1, 2, 3]) {
            sync.handle_message(node, &build(8, &[0]));
        }
        assert_eq!(drain(&mut sync)[0], Output::Process(0));
    }
}

#[test]
fn the_lane_follows_the_order_also_after_giving_up() {
    let mut both = Ring::new(&[(1, &SERVICES), (2, &SERVICES)]);
    while both.order.len() > 1 || !both.members[0].1.is_done() {
        // Stop before the last barrier.
        let is_last = both.order.len() == 1
            && matches!(&both.members[0].1.state, State::Running { left } if left.len() == 1);
        if is_last {
            break;
        }
        both.deliver();
    }
    let (sender, last) = both.order.pop_front().unwrap();
    let sync = &mut both.members[0].1;
    sync.handle_transitional(&nodes(&[1, 2]));
    assert_eq!(drain(sync), [Output::Abort(5)]);
    assert_eq!(sync.lane(), Lane::Sync);
    sync.handle_message(sender, &last);
    assert_eq!(sync.lane(), Lane::Ordinary);
    assert!(drain(sync).is_empty() && !sync.is_done());
}

#[test]
fn a_service_that_takes_its_time_holds_all_members_back() {
    let mut both = Ring::new(&[(1, &[2]), (2, &[])]);
    let slow = &mut both.members[0].1;
    assert_eq!(slow.lane(), Lane::Sync);
    for node in nodes(&[1, 2]) {
        slow.handle_message(node, &build(4, &[2]));
    }
    assert_eq!(drain(slow), [Output::Process(2)]);
    slow.handle_message(NodeId(2), &barrier(4));
    assert!(drain(slow).is_empty() && slow.is_processing());
    slow.processed();
    slow.processed();
    assert_eq!(drain(slow), [Output::Mcast(barrier(4))]);
    slow.handle_message(NodeId(1), &barrier(4));
    assert_eq!(drain(slow), [Output::Activate(2), Output::Done(ring(4))]);
}

#[test]
fn a_union_without_services_is_done_at_once() {
    let mut alone = Ring::new(&[(1, &[])]);
    while alone.deliver() {}
    assert_eq!(alone.members[0].2.last(), Some(&Output::Done(ring(4))));
}
