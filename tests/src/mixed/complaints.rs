//! Which lines of a daemon's log tell that another daemon misbehaves.
//!
//! Everything of the level warning and above counts, and some lines below it, except for what is
//! known to have other causes. So a complaint that nobody has thought of counts as well.

use super::Kind;

const TROUBLE: [&str; 5] = ["warning", "error", "crit", "alert", "emerg"];

/// Lines of any level that tell of a packet or message that was not understood, was refused, or
/// did not arrive.
const SUSPECT: [&str; 25] = [
    "FAILED TO RECEIVE",
    "Digest does not match",
    "Unable to decrypt",
    "invalid digest",
    "incorrect",
    "Received a ",
    "Packet rejected",
    "Packet is too short",
    "is too short",
    "version does not match",
    "Discarding packet",
    "unknown messages from socket",
    "Decompressed buffer",
    "bad magic number",
    "unsupported version",
    "wrong type",
    "is corrupted",
    "too big message",
    "unknown message",
    "Unknown node",
    "have expected length",
    "discarding",
    "Assertion",
    "assert",
    "panicked",
];

/// Parts of lines that say nothing about other daemons.
const HARMLESS: [&str; 24] = [
    // Containers and virtual machines commonly forbid both, and the daemons do without.
    "RLIMIT_MEMLOCK",
    "SCHED_RR",
    // No watchdog is configured.
    "[WD    ]",
    // A link goes down because the test wants it to, and at the start all are.
    "has no active links",
    // A tool asked before the start was complete, and asks again.
    "Denied connection",
    // The test kills nodes.
    "can not be reached",
    "Token has not been received in",
    "leave message",
    // A node whose daemon was killed or restarted: its packets arrive before its first ping.
    "not reachable yet. Discarding packet",
    // The address of a killed daemon answers that nobody is there.
    "Connection refused",
    // corosync-lite tells of links that go down because a node was killed or cut off, of votes
    // that are missing then, and of what it thinks of rings without encryption.
    "is down: ",
    "votes, ",
    "within the non-primary component",
    "everybody on the network",
    "did not end in order",
    // What a message of an old ring is for Corosync; it says so in debug messages alone.
    "for old ring - discarding",
    "Resource temporarily unavailable",
    // Other tests keep the disk and the processors busy.
    "storing the ring id took",
    "process was not scheduled ",
    // Another node said that it has to end.
    "exiting with status -1 at cfg.c",
    // What comes when the token is there, with multicast; rings of Corosync alone say it as often.
    "message during flush",
    // During a change of keys libknet tries one after the other; when none fits, it says more.
    "debug   [KNET  ] nsscrypto: Digest does not match",
    "debug   [KNET  ] nsscrypto: Received incorrect packet size: 64 for hash size: 64",
    "debug   [KNET  ] opensslcrypto: ",
];

/// Lists of lost messages that are harmless: what goes over a link that is cut is lost until that is
/// noticed, and a busy machine drops packets now and then.
const RETRANSMIT_LISTS: usize = 200;

/// Answers to pings and to probes of the path's size that came too late to count: what a node does
/// when its processor is given to others for a while. That the size is found all the same is for a
/// test of its own (`tools`).
const LATE: [&str; 3] = [
    "higher latency than pong_timeout",
    "not acknowledging packets of this size",
    "This can be caused by this node interface MTU too big",
];

/// Late answers that are harmless; who never answers makes hundreds.
const LATE_ANSWERS: usize = 12;

/// Begin of the line that names whose packet could not be read; others come before it.
const UNREADABLE: &str = "Unable to decrypt packet from ";
const BEFORE_UNREADABLE: [&str; 2] = ["Digest does not match", "Unable to decrypt/auth packet"];

/// Complaints in the log of a daemon. `corosyncs` are the addresses of nodes that run Corosync: that
/// one of them could not read what another sent, as happens while keys change on a busy machine
/// (its threads learn of a key one after the other), says nothing about corosync-lite.
#[must_use]
pub fn complaints(kind: Kind, log: &str, corosyncs: &[String]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in log.lines().filter(|line| is_complaint(line)) {
        let sender = line.split_once(UNREADABLE).map(|(_, sender)| sender);
        let is_of = |address: &String| {
            let rest = sender.and_then(|sender| sender.strip_prefix(address.as_str()));
            rest.is_some_and(|rest| rest.starts_with(':'))
        };
        if kind == Kind::Corosync && corosyncs.iter().any(is_of) {
            let leads = |last: &mut String| BEFORE_UNREADABLE.iter().any(|it| last.contains(it));
            while found.pop_if(leads).is_some() {}
        } else {
            found.push(line.to_owned());
        }
    }
    let lists = log.matches("Retransmit List").count();
    if lists > RETRANSMIT_LISTS {
        found.push(format!("{kind:?} asked {lists} times for lost messages"));
    }
    let late = log.lines().filter(|line| is_late(line)).count();
    if late > LATE_ANSWERS {
        found.push(format!(
            "{kind:?} waited {late} times for answers of others"
        ));
    }
    found
}

fn is_late(line: &str) -> bool {
    LATE.iter().any(|text| line.contains(text))
}

fn is_complaint(line: &str) -> bool {
    let head = line.split('[').next().unwrap_or_default();
    let is_trouble = TROUBLE.iter().any(|word| head.contains(word));
    let is_suspect = SUSPECT.iter().any(|text| line.contains(text));
    (is_trouble || is_suspect) && !is_late(line) && !HARMLESS.iter().any(|text| line.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_told_from_the_noise_of_a_start() {
        let log = "Nov 22 03:05:20.412 notice  [MAIN  ] starting up\n\
            Nov 22 03:05:20.863 warning [KNET  ] host: host: 3 has no active links\n\
            Nov 22 03:05:20.863 warning [MAIN  ] Corosync main process was not scheduled (@17953) for 1029.5 ms\n\
            Nov 22 03:05:20.863 debug   [KNET  ] rx: Packet rejected from 10.0.0.1:5405\n\
            Nov 22 03:05:20.863 warning [TOTEM ] something new\n\
            corosync: totemsrp.c:1: f: Assertion `x' failed.\n";
        let found = complaints(Kind::Corosync, log, &[]);
        assert_eq!(found.len(), 3, "{found:?}");
        let flood = "notice  [TOTEM ] Retransmit List: 1\n".repeat(201);
        assert_eq!(complaints(Kind::Lite, &flood, &[]).len(), 1);
        let late = "debug   [KNET  ] rx: Incoming pong packet from host: 3 link: 0 has higher latency \
            than pong_timeout. Discarding\n";
        assert_eq!(complaints(Kind::Corosync, late, &[]), Vec::<String>::new());
        assert_eq!(complaints(Kind::Corosync, &late.repeat(13), &[]).len(), 1);
    }
    #[test]
    fn what_corosyncs_can_not_read_of_each_other_is_no_complaint() {
        let log = "error   [KNET  ] nsscrypto: Digest does not match. Check crypto key and configuration.\n\
            debug   [KNET  ] rx: Unable to decrypt/auth packet\n\
            error   [KNET  ] rx: Unable to decrypt packet from 10.77.0.2:5405 (size 496)!\n";
        let both = log.to_owned() + &log.replace("0.2:", "0.20:");
        let second = ["10.77.0.2".to_owned()];
        assert_eq!(complaints(Kind::Corosync, &both, &[]).len(), 6);
        let left = complaints(Kind::Corosync, &both, &second);
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(left[2].contains("10.77.0.20"));
        assert_eq!(complaints(Kind::Lite, log, &second).len(), 3);
    }
}
