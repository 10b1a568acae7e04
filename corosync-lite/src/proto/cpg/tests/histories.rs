//! Several nodes in one order of messages, with partitions, merges, crashes and exchanges that
//! are broken off: all see the same.

mod watch;
mod world;

use proptest::prelude::*;

use world::World;

/// One thing that happens. Numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A client comes and joins a group as a process.
    Join { node: u8, name: u8, pid: u8 },
    /// A client leaves, and may join again later.
    Leave { client: u8 },
    /// A client that left joins again.
    Again { client: u8, name: u8 },
    /// A client's connection ends.
    Close { client: u8 },
    /// A client sends a message.
    Mcast { client: u8 },
    /// A client sends the next part of a message.
    Part { client: u8 },
    /// A node puts messages into the order.
    Send { node: u8, count: u8 },
    /// A node takes messages from the order.
    Deliver { node: u8, count: u8 },
    /// New configurations: nodes with the same number are together. One node may crash at it, or
    /// come back. `last` says which of the messages of others are recovered.
    Configure {
        places: [u8; 4],
        crash: u8,
        last: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let byte = any::<u8>;
    prop_oneof![
        3 => (byte(), byte(), byte()).prop_map(|(node, name, pid)| Step::Join { node, name, pid }),
        1 => byte().prop_map(|client| Step::Leave { client }),
        1 => (byte(), byte()).prop_map(|(client, name)| Step::Again { client, name }),
        1 => byte().prop_map(|client| Step::Close { client }),
        4 => byte().prop_map(|client| Step::Mcast { client }),
        4 => byte().prop_map(|client| Step::Part { client }),
        6 => (byte(), 1u8..5).prop_map(|(node, count)| Step::Send { node, count }),
        8 => (byte(), 1u8..9).prop_map(|(node, count)| Step::Deliver { node, count }),
        3 => (any::<[u8; 4]>(), byte(), byte())
            .prop_map(|(places, crash, last)| Step::Configure { places, crash, last }),
    ]
}

fn run(steps: &[Step]) -> World {
    let mut world = World::new();
    for step in steps {
        match *step {
            Step::Join { node, name, pid } => world.join(node, name, pid),
            Step::Leave { client } => world.leave(client),
            Step::Again { client, name } => world.join_again(client, name),
            Step::Close { client } => world.close(client),
            Step::Mcast { client } => world.mcast(client),
            Step::Part { client } => world.part(client),
            Step::Send { node, count } => world.send(node, count),
            Step::Deliver { node, count } => world.deliver(node, count),
            Step::Configure {
                places,
                crash,
                last,
            } => world.configure(places, crash, last),
        }
    }
    world.heal();
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn all_members_see_the_same(steps in prop::collection::vec(step(), 0..120)) {
        run(&steps);
    }
}

/// A new configuration without crashes.
fn configure(places: [u8; 4], last: u8) -> Step {
    let crash = 15;
    Step::Configure {
        places,
        crash,
        last,
    }
}

/// Everything that is under way arrives.
fn settle(steps: &mut Vec<Step>) {
    for _ in 0..3 {
        for node in 0..4 {
            steps.push(Step::Deliver { node, count: 90 });
        }
        for node in 0..4 {
            steps.push(Step::Send { node, count: 90 });
        }
    }
}

/// All nodes together, with a member of one group on each.
fn together() -> Vec<Step> {
    let mut steps = vec![configure([0; 4], 0)];
    settle(&mut steps);
    for node in 0..4 {
        let (name, pid) = (0, 0);
        steps.push(Step::Join { node, name, pid });
    }
    settle(&mut steps);
    steps
}

#[test]
fn all_members_get_what_is_sent() {
    let mut steps = together();
    steps.push(Step::Mcast { client: 0 });
    for _ in 0..3 {
        steps.push(Step::Part { client: 1 });
    }
    settle(&mut steps);
    assert_eq!(run(&steps).messages_delivered(), 8);
}

#[test]
fn what_was_sent_in_a_configuration_is_not_for_those_who_had_not_completed_it() {
    let mut steps = together();
    // The first node goes another way for a moment, which it has not told its member yet.
    steps.push(configure([0, 1, 1, 1], 0));
    steps.push(configure([0; 4], 0));
    // All others complete the exchange. The first one gets the message only when the
    // configuration is over.
    for node in 1..4 {
        steps.push(Step::Deliver { node, count: 90 });
    }
    steps.push(Step::Mcast { client: 1 });
    steps.push(Step::Send { node: 1, count: 90 });
    steps.push(configure([0, 1, 1, 1], 31));
    settle(&mut steps);
    assert_eq!(run(&steps).messages_delivered(), 3);
}
