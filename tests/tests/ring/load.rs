//! Load while nodes of both kinds die.

use std::time::Duration;

use tests::mixed::load::{Plan, run};

use crate::support::{C, L, can_run, clear};

#[test]
fn members_are_told_the_same_while_nodes_die() {
    if !can_run() {
        return;
    }
    let mut ring = crate::support::start(&[L, C, L, C], clear(4));
    let plan = Plan {
        time: Duration::from_secs(10),
        seed: 1,
        longest: 50_000,
        pause: Duration::from_millis(4),
    };
    let outcome = run(&mut ring, &plan, |line| println!("{line}")).unwrap();
    println!("{outcome}");
    ring.finish().unwrap();
}
