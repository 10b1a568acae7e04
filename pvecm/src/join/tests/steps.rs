//! Failures and kills at each step, and what is left of them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::machine::{Break, FakeMachine, KEYS};
use super::{ADDRESS, CONF, facts, plan};
use crate::conf::{Admission, ClusterConf};
use crate::failure::{Failure, Outcome};
use crate::host::{Host, clusterconf};
use crate::info::Admitted;
use crate::join::machine::{Machine as _, Step};
use crate::join::peer::{Facts, NotAdmitted, Peer, Request, Taken};
use crate::join::{Plan, is_member, join, leftover, refuse_self};
use crate::transaction::recover_with;
use crate::value::NodeName;

pub const ALL_STEPS: [Step; 11] = [
    Step::Prepared,
    Step::Admitted,
    Step::Stopped,
    Step::Configured,
    Step::BackedUp,
    Step::MovedAway,
    Step::Started,
    Step::Quorate,
    Step::Voting,
    Step::Certified,
    Step::Imported,
];

type Admit = dyn Fn(&Request) -> Result<Admitted, NotAdmitted>;

/// A member that does what it is asked, or not.
pub struct FakePeer {
    pub facts: Facts,
    admit: Box<Admit>,
    withdraw: Box<dyn Fn() -> Outcome>,
    pub withdrawn: usize,
    pub requests: Vec<Request>,
    /// It does not tell what the cluster is like, and why.
    pub broken: Option<&'static str>,
    /// Numbers that guests have, if it tells.
    pub taken: Option<BTreeMap<u32, Taken>>,
}

impl FakePeer {
    pub fn new() -> Self {
        Self {
            taken: Some(BTreeMap::new()),
            facts: facts(),
            broken: None,
            admit: Box::new(|_| Ok(admitted(true))),
            withdraw: Box::new(|| Ok(())),
            withdrawn: 0,
            requests: Vec::new(),
        }
    }
}

impl Peer for FakePeer {
    fn name(&self) -> String {
        "n1".to_owned()
    }

    fn facts(&mut self) -> Outcome<Facts> {
        match self.broken {
            Some(why) => Err(Failure::failed(why)),
            None => Ok(self.facts.clone()),
        }
    }

    fn taken(&mut self, ids: &[u32]) -> Outcome<BTreeMap<u32, Taken>> {
        let taken = self.taken.clone();
        let taken = taken.ok_or_else(|| Failure::failed("403"))?;
        let asked = taken.into_iter().filter(|(id, _)| ids.contains(id));
        Ok(asked.collect())
    }

    fn admit(&mut self, request: &Request) -> Result<Admitted, NotAdmitted> {
        self.requests.push(request.clone());
        (self.admit)(request)
    }

    fn withdraw(&mut self, _: &NodeName) -> Outcome {
        self.withdrawn += 1;
        (self.withdraw)()
    }
}

fn admitted(probation: bool) -> Admitted {
    let mut conf = ClusterConf::parse(CONF.as_bytes()).unwrap();
    let name: NodeName = "n2".parse().unwrap();
    let admission = Admission {
        id: 2,
        votes: 1,
        links: BTreeMap::from([(0, ADDRESS.to_owned())]),
        replaces: false,
    };
    conf.put_node(&name, admission.id, admission.votes, &admission.links);
    if probation {
        conf.set_probation(name.as_str());
    }
    Admitted {
        authkey: vec![7; 256],
        conf: conf.text(),
        warnings: vec!["a warning".to_owned()],
    }
}

fn run(machine: &FakeMachine, peer: &mut FakePeer, plan: &mut Plan) -> Outcome {
    join(&machine.host, plan, peer, machine, false)
}

fn recover(machine: &FakeMachine) {
    let control = |verb: &str, units: &[&str]| machine.control(verb, units);
    let recovered = recover_with(
        &crate::transaction::directory(&machine.host.paths),
        &control,
    );
    assert_eq!(recovered.unwrap().unwrap().failures, Vec::<String>::new());
}

fn mode(host: &Host, path: &str) -> u32 {
    fs::metadata(host.paths.at(path))
        .unwrap()
        .permissions()
        .mode()
        & 0o777
}

#[test]
fn a_node_joins_and_keeps_its_old_database_as_text() {
    let machine = FakeMachine::new();
    let mut peer = FakePeer::new();
    run(&machine, &mut peer, &mut plan()).unwrap();
    let host = &machine.host;
    assert_eq!(mode(host, "etc/corosync/authkey"), 0o400);
    assert_eq!(mode(host, "var/lib/pve-cluster/backup"), 0o700);
    assert_eq!(
        fs::read(host.paths.database("config.db")).unwrap(),
        b"the cluster's"
    );
    let copies = fs::read_dir(host.paths.database("backup")).unwrap().count();
    assert_eq!(copies, 1);
    // The keys that let in are carried over to where they are merged from.
    let keys = fs::read_to_string(host.paths.ssh("authorized_keys.org")).unwrap();
    assert_eq!(keys, KEYS);
    assert!(!crate::transaction::directory(&host.paths).exists());
    assert!(!leftover::applies(host, &facts()));
    assert!(!host.paths.database("pvecm-joining.json").exists());
    assert_eq!(
        *machine.calls.borrow(),
        [
            "stop pve-cluster.service",
            "start corosync.service pve-cluster.service"
        ]
    );
    let said = machine.said();
    for line in [
        "cluster: a warning",
        "waiting for quorum...",
        "OK",
        "stopping pve-cluster service",
    ] {
        assert!(said.contains(line), "{said}");
    }
}

#[test]
fn a_node_on_probation_gets_its_votes_when_it_is_there() {
    let machine = FakeMachine::new();
    run(&machine, &mut FakePeer::new(), &mut plan()).unwrap();
    assert_eq!(*machine.votes.borrow(), [(2, 1)]);
    let conf = clusterconf::read(&machine.host).unwrap();
    assert_eq!(conf.node("n2").unwrap().votes, 1);
    assert_eq!(conf.version(), 3);

    // A member of the original gives them at once.
    let machine = FakeMachine::new();
    let mut peer = FakePeer::new();
    peer.admit = Box::new(|_| Ok(admitted(false)));
    run(&machine, &mut peer, &mut plan()).unwrap();
    assert!(machine.votes.borrow().is_empty());
    assert_eq!(clusterconf::read(&machine.host).unwrap().version(), 2);
}

#[test]
fn a_node_without_votes_is_put_back_before_a_member_is_waited_for() {
    let machine = FakeMachine {
        comes_up: false,
        interrupt_at: Some(Step::Started),
        ..FakeMachine::new()
    };
    let mut peer = FakePeer::new();
    let key = machine.host.paths.corosync("authkey");
    peer.withdraw = Box::new(move || {
        assert!(!key.exists(), "a member is asked that may not answer");
        Ok(())
    });
    let failure = run(&machine, &mut peer, &mut plan()).unwrap_err();
    let text = failure.to_string();
    assert!(text.contains("This node is as it was before."), "{text}");
    assert_eq!(peer.withdrawn, 1);

    // The others may need a vote that they count.
    let machine = FakeMachine {
        break_at: Break::Fails(Step::Voting),
        ..FakeMachine::new()
    };
    let mut peer = FakePeer::new();
    let key = machine.host.paths.corosync("authkey");
    peer.withdraw = Box::new(move || {
        assert!(key.exists(), "this node is gone already");
        Ok(())
    });
    run(&machine, &mut peer, &mut plan()).unwrap_err();
    assert_eq!(peer.withdrawn, 1);
}

#[test]
fn a_signal_is_seen_while_the_cluster_takes_the_votes() {
    let machine = FakeMachine {
        takes_votes: false,
        ..FakeMachine::new()
    };
    let failure = run(&machine, &mut FakePeer::new(), &mut plan()).unwrap_err();
    let text = failure.to_string();
    assert!(text.starts_with("interrupted"), "{text}");
}

#[test]
fn each_failure_puts_everything_back() {
    for step in ALL_STEPS {
        let machine = FakeMachine {
            break_at: Break::Fails(step),
            ..FakeMachine::new()
        };
        let before = machine.tree();
        let mut peer = FakePeer::new();
        let failure = run(&machine, &mut peer, &mut plan()).unwrap_err();
        assert_eq!(failure.code(), 1, "{failure}");
        assert!(
            failure.to_string().contains("as it was before"),
            "{failure}"
        );
        assert_eq!(machine.tree(), before, "{step:?}");
        assert_eq!(
            peer.withdrawn,
            usize::from(step > Step::Prepared),
            "{step:?}"
        );
    }
}

#[test]
fn each_signal_puts_everything_back() {
    for step in ALL_STEPS {
        let machine = FakeMachine {
            interrupt_at: Some(step),
            ..FakeMachine::new()
        };
        let before = machine.tree();
        let failure = run(&machine, &mut FakePeer::new(), &mut plan()).unwrap_err();
        assert!(failure.to_string().starts_with("interrupted"), "{failure}");
        assert_eq!(machine.tree(), before, "{step:?}");
    }
}

#[test]
fn each_kill_is_put_back_by_the_next_command_and_the_next_join_succeeds() {
    let kills = ALL_STEPS.map(Break::Killed).into_iter();
    let around = [0, 1]
        .into_iter()
        .flat_map(|number| [false, true].map(|after| Break::KilledAround(number, after)));
    for break_at in kills.chain(around) {
        let mut machine = FakeMachine {
            break_at,
            ..FakeMachine::new()
        };
        let mut before = machine.tree();
        let killed = catch_unwind(AssertUnwindSafe(|| {
            run(&machine, &mut FakePeer::new(), &mut plan())
        }));
        assert!(killed.is_err(), "{break_at:?}");
        machine.break_at = Break::Never;
        recover(&machine);
        let mut after = machine.tree();
        let note = machine.host.paths.database("pvecm-joining.json");
        let note = note.display().to_string();
        let is_asked = break_at != Break::Killed(Step::Prepared);
        assert_eq!(after.remove(&note).is_some(), is_asked, "{break_at:?}");
        before.remove(&note);
        assert_eq!(after, before, "{break_at:?}");

        // The cluster still has the entry: it is taken out first.
        let mut peer = FakePeer::new();
        if is_asked {
            let mut entry = peer.facts.nodes[0].clone();
            entry.name = "n2".to_owned();
            entry.id = Some(2);
            entry.addresses = BTreeMap::from([(0, ADDRESS.to_owned())]);
            entry.online = Some(false);
            peer.facts.nodes.push(entry);
        }
        run(&machine, &mut peer, &mut plan()).unwrap();
        assert_eq!(peer.withdrawn, usize::from(is_asked));
        assert!(!peer.requests[0].force);
    }
}

#[test]
fn a_leftover_that_may_not_be_removed_is_replaced() {
    let machine = FakeMachine::new();
    leftover::remember(&machine.host, &facts()).unwrap();
    let mut peer = FakePeer::new();
    let mut entry = peer.facts.nodes[0].clone();
    entry.name = "n2".to_owned();
    entry.id = Some(2);
    entry.addresses = BTreeMap::from([(0, ADDRESS.to_owned())]);
    entry.online = Some(false);
    peer.facts.nodes.push(entry);
    peer.withdraw = Box::new(|| Err(Failure::failed("403 not with this token")));
    run(&machine, &mut peer, &mut plan()).unwrap();
    assert!(peer.requests[0].force);
}

#[test]
fn a_refusal_of_the_member_changes_nothing() {
    let machine = FakeMachine::new();
    let before = machine.tree();
    let mut peer = FakePeer::new();
    peer.admit = Box::new(|_| Err(NotAdmitted::Refused("no".to_owned())));
    let failure = run(&machine, &mut peer, &mut plan()).unwrap_err();
    assert_eq!(failure.code(), 2);
    assert_eq!(machine.tree(), before);
    assert_eq!(peer.withdrawn, 0);
}

#[test]
fn a_member_that_does_not_answer_any_more_is_named_and_remembered() {
    let machine = FakeMachine::new();
    let mut before = machine.tree();
    let mut peer = FakePeer::new();
    peer.admit = Box::new(|_| Err(NotAdmitted::Unknown("no answer".to_owned())));
    peer.withdraw = Box::new(|| Err(Failure::failed("no answer")));
    let failure = run(&machine, &mut peer, &mut plan()).unwrap_err();
    let text = failure.to_string();
    assert!(text.contains("pvecm delnode n2"), "{text}");
    assert_eq!(failure.code(), 1);
    let mut after = machine.tree();
    let note = machine.host.paths.database("pvecm-joining.json");
    assert!(after.remove(&note.display().to_string()).is_some());
    before.remove(&note.display().to_string());
    assert_eq!(after, before);
}

#[test]
fn an_entry_that_was_there_before_stays() {
    let machine = FakeMachine {
        break_at: Break::Fails(Step::Started),
        ..FakeMachine::new()
    };
    let mut peer = FakePeer::new();
    let mut entry = peer.facts.nodes[0].clone();
    entry.name = "n2".to_owned();
    entry.id = Some(2);
    entry.addresses.clear();
    entry.online = Some(false);
    peer.facts.nodes.push(entry);
    let refused = run(&machine, &mut peer, &mut plan()).unwrap_err();
    assert_eq!(refused.code(), 2, "{refused}");
    let mut plan = Plan {
        force: true,
        ..plan()
    };
    let failure = run(&machine, &mut peer, &mut plan).unwrap_err();
    assert!(peer.requests[0].force);
    assert_eq!(peer.withdrawn, 0);
    assert!(
        failure.to_string().contains("was there before"),
        "{failure}"
    );
}

#[test]
fn a_node_joins_again_in_the_place_of_its_old_entry() {
    let machine = FakeMachine::new();
    let mut peer = FakePeer::new();
    let mut entry = peer.facts.nodes[0].clone();
    entry.name = "n2".to_owned();
    entry.id = Some(2);
    entry.addresses = BTreeMap::from([(0, ADDRESS.to_owned())]);
    entry.online = Some(true);
    peer.facts.nodes.push(entry);
    let again = || Plan {
        again: true,
        ..plan()
    };
    let refused = run(&machine, &mut peer, &mut again()).unwrap_err();
    assert!(refused.to_string().contains("it is running"), "{refused}");
    peer.facts.nodes[1].online = Some(false);
    let refused = run(&machine, &mut peer, &mut plan()).unwrap_err();
    assert!(refused.to_string().contains("pvecm readd"), "{refused}");
    assert!(peer.requests.is_empty());
    run(&machine, &mut peer, &mut again()).unwrap();
    assert!(peer.requests[0].force);
    // Without an entry it is a join like any other.
    let mut peer = FakePeer::new();
    run(&FakeMachine::new(), &mut peer, &mut again()).unwrap();
    assert!(!peer.requests[0].force);
}

#[test]
fn a_node_that_a_change_of_the_cluster_overtakes_asks_again() {
    let overtaken = |times: usize| {
        let machine = FakeMachine::new();
        machine.overtaken.set(times);
        machine
    };
    let patient = || Plan {
        timeout: Duration::from_secs(3),
        ..plan()
    };
    let machine = overtaken(2);
    let mut peer = FakePeer::new();
    let version = Cell::new(5);
    peer.admit = Box::new(move |_| {
        let mut admitted = admitted(true);
        let mut conf = ClusterConf::parse(&admitted.conf).unwrap();
        version.set(version.get() + 1);
        conf.set_version(version.get());
        admitted.conf = conf.text();
        Ok(admitted)
    });
    run(&machine, &mut peer, &mut patient()).unwrap();
    let asked: Vec<_> = peer.requests.iter().map(|it| (it.force, it.id)).collect();
    assert_eq!(asked, [(false, None), (true, Some(2)), (true, Some(2))]);
    let started = fs::read(machine.host.paths.corosync("corosync.conf")).unwrap();
    assert_eq!(ClusterConf::parse(&started).unwrap().version(), 8);
    let calls = machine.calls.borrow();
    let starts = calls
        .iter()
        .filter(|call| *call == "start corosync.service");
    assert_eq!(starts.count(), 2);

    // One that ends for another reason does not ask for ever.
    let machine = overtaken(9);
    let before = machine.tree();
    let mut peer = FakePeer::new();
    let failure = run(&machine, &mut peer, &mut patient()).unwrap_err();
    let text = failure.to_string();
    assert!(text.contains("no quorum within 3 seconds"), "{text}");
    assert!(text.contains("This node is as it was before."), "{text}");
    assert_eq!(peer.requests.len(), 3);
    assert_eq!(peer.withdrawn, 1);
    assert_eq!(machine.tree(), before);
}

#[test]
fn waiting_for_quorum_ends_with_a_diagnosis() {
    let machine = FakeMachine {
        comes_up: false,
        ..FakeMachine::new()
    };
    let before = machine.tree();
    let failure = run(&machine, &mut FakePeer::new(), &mut plan()).unwrap_err();
    let text = failure.to_string();
    assert!(text.contains("no quorum within 0 seconds"), "{text}");
    assert!(
        text.contains("UDP port 5405") && text.contains("10.77.0.1"),
        "{text}"
    );
    assert_eq!(machine.tree(), before);
}

#[test]
fn services_that_do_not_start_are_put_back() {
    let machine = FakeMachine {
        starts: false,
        ..FakeMachine::new()
    };
    let before = machine.tree();
    let failure = run(&machine, &mut FakePeer::new(), &mut plan()).unwrap_err();
    assert!(failure.to_string().contains("journalctl"), "{failure}");
    assert_eq!(machine.tree(), before);
    assert_eq!(
        machine.calls.borrow().last().map(String::as_str),
        Some("start pve-cluster.service")
    );
}

#[test]
fn what_the_member_sends_is_examined() {
    let sent: [fn(&mut Admitted); 4] = [
        |sent| sent.authkey.truncate(100),
        |sent| sent.conf = b"totem {".to_vec(),
        |sent| sent.conf = CONF.as_bytes().to_vec(),
        |sent| {
            let text = String::from_utf8(sent.conf.clone()).unwrap();
            sent.conf = text.replace(ADDRESS, "10.77.0.9").into_bytes();
        },
    ];
    for spoil in sent {
        let machine = FakeMachine::new();
        let before = machine.tree();
        let mut peer = FakePeer::new();
        peer.admit = Box::new(move |_| {
            let mut sent = admitted(true);
            spoil(&mut sent);
            Ok(sent)
        });
        let failure = run(&machine, &mut peer, &mut plan()).unwrap_err();
        assert!(failure.to_string().contains("the member sent"), "{failure}");
        assert_eq!(peer.withdrawn, 1);
        assert_eq!(machine.tree(), before);
    }
}

#[test]
fn a_database_that_can_not_be_read_is_kept_whole() {
    let machine = FakeMachine::new();
    let damaged = "no database at all ".repeat(300);
    fs::write(machine.host.paths.database("config.db"), &damaged).unwrap();
    run(&machine, &mut FakePeer::new(), &mut plan()).unwrap();
    let kept: Vec<_> = fs::read_dir(machine.host.paths.database(""))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "bak"))
        .collect();
    assert_eq!(kept.len(), 1, "{}", machine.said());
    assert_eq!(fs::read_to_string(&kept[0]).unwrap(), damaged);
}

#[test]
fn a_member_stays_what_it_is() {
    let machine = FakeMachine::new();
    assert_eq!(
        is_member(&machine.host, "10.77.0.1", &machine, false),
        Ok(None)
    );
    run(&machine, &mut FakePeer::new(), &mut plan()).unwrap();
    let before = machine.tree();
    for peer in ["10.77.0.1", "[10.77.0.1]", "n1"] {
        let cluster = is_member(&machine.host, peer, &machine, false).unwrap();
        assert_eq!(cluster.as_deref(), Some("lab"));
    }
    assert_eq!(machine.tree(), before);
    assert_eq!(
        is_member(&machine.host, "192.0.2.9", &machine, false),
        Ok(None)
    );
}

#[test]
fn a_node_does_not_join_itself() {
    let machine = FakeMachine::new();
    for own in [ADDRESS, "[10.77.0.2]", "127.0.0.1", "localhost"] {
        let failure = refuse_self(&machine.host, own, false, &machine).unwrap_err();
        assert!(failure.text().contains("is this node itself"), "{failure}");
    }
    refuse_self(&machine.host, "10.77.0.1", false, &machine).unwrap();
    // No password is asked for a name that stands for nothing; SSH may know better.
    let failure = refuse_self(&machine.host, "no-such-host.invalid", false, &machine).unwrap_err();
    assert!(failure.text().contains("does not resolve"), "{failure}");
    refuse_self(&machine.host, "no-such-host.invalid", true, &machine).unwrap();
}

#[test]
fn who_only_wants_to_know_ends_no_probation() {
    let machine = FakeMachine::new();
    run(&machine, &mut FakePeer::new(), &mut plan()).unwrap();
    let path = machine.host.paths.cluster_conf();
    let mut conf = ClusterConf::parse(&fs::read(&path).unwrap()).unwrap();
    conf.set_probation("n2");
    fs::write(&path, conf.text()).unwrap();
    let known = is_member(&machine.host, "n1", &machine, true).unwrap();
    assert_eq!(known.as_deref(), Some("lab"));
    assert_eq!(fs::read(&path).unwrap(), conf.text());
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let machine = FakeMachine::new();
    let before = machine.tree();
    let mut peer = FakePeer::new();
    join(&machine.host, &mut plan(), &mut peer, &machine, true).unwrap();
    assert_eq!(machine.tree(), before);
    assert!(peer.requests.is_empty());
    let said = machine.said();
    assert!(
        said.contains("would stop pve-cluster") && said.contains("at 10.77.0.2"),
        "{said}"
    );
}

/// Needs the right to mount a file system; says so where it has not.
#[test]
fn a_full_disk_puts_everything_back() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let tried = std::thread::spawn(|| {
        let none: Option<&str> = None;
        // Of this thread alone; it goes with it.
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        // From a full disk on, a page more each time, until a join succeeds.
        let mut failed = 0;
        loop {
            let machine = FakeMachine::new();
            let path = machine.host.paths.database("config.db");
            let directory = machine.host.paths.database("");
            fs::remove_file(&path).unwrap();
            let (kind, flags) = (Some("tmpfs"), MsFlags::empty());
            mount(kind, &directory, kind, flags, Some("size=400k"))?;
            // Nothing that a text of it could be packed into.
            let database = rusqlite::Connection::open(path).unwrap();
            let fill =
                "CREATE TABLE tree (data BLOB); INSERT INTO tree VALUES (randomblob(20000));";
            database.execute_batch(fill).unwrap();
            drop(database);
            let free = nix::sys::statvfs::statvfs(&directory)?.blocks_available();
            let size = usize::try_from(free - failed).unwrap() * 4096;
            fs::write(machine.host.paths.database("filler"), vec![1; size]).unwrap();
            let before = machine.tree();
            let Err(failure) = run(&machine, &mut FakePeer::new(), &mut plan()) else {
                break;
            };
            assert_eq!(failure.code(), 1, "{failed}: {failure}");
            assert!(
                failure.to_string().contains("No space left"),
                "{failed}: {failure}"
            );
            assert_eq!(machine.tree(), before, "{failed}: {failure}");
            failed += 1;
        }
        assert!(failed > 8, "only {failed} pages were missing");
        nix::Result::Ok(())
    });
    if let Err(error) = tried.join().unwrap() {
        eprintln!("not tried on a full disk: {error}");
    }
}
