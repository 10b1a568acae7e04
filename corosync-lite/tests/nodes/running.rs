//! A running node is asked, reconfigured and told to stop.

use std::time::Duration;

use corosync_lite::config::Reload;
use corosync_lite::proto::node::{
    ClientEvent, Credentials, Refusal, Request, Response, Service, ShutdownReason, Stored,
};
use corosync_lite::service::{ClientId, Status, TRACK_CHANGES, cfg, cmap, quorum};

use crate::net::{Cluster, MS, Machine, Net, payload};

/// Reloads on node 1 and lets each node take what `cluster` says.
fn reload(net: &mut Net, cluster: &Cluster) -> Response {
    ask_to_reload(net);
    let ids: Vec<u32> = net.members.keys().copied().collect();
    for id in ids {
        take_over(net, cluster, id);
    }
    net.run(Duration::from_secs(1));
    let (_, response) = net
        .members
        .get_mut(&1)
        .unwrap()
        .responses
        .pop_back()
        .unwrap();
    response
}

/// Lets node 1 tell all nodes to reload.
fn ask_to_reload(net: &mut Net) {
    let client = net.connect(1, Service::Cfg);
    net.request(1, client, Request::Cfg(cfg::Request::Reload));
    net.wait("reload", |net| {
        net.members.values().all(|member| member.reloads == 1)
    });
}

/// The shell of a node that was told to reload has read what `cluster` says.
fn take_over(net: &mut Net, cluster: &Cluster, id: u32) {
    net.members.get_mut(&id).unwrap().reloads = 0;
    let running = net.node(id).config().clone();
    let text = cluster.text();
    let result = Reload::of_file(&running, text.as_bytes(), [], &Machine(id));
    net.with(id, |node, now| match &result {
        Ok(plan) => node.reload(now, plan),
        Err(refusal) => node.reload_failed(now, refusal),
    });
}

#[test]
fn a_new_key_waits_for_the_node_that_reads_its_file_last() {
    let mut cluster = Cluster::knet(&[1, 2, 3]);
    let mut net = Net::formed(&cluster);
    let processes = [1, 2, 3].map(|id| net.join(id, "group"));
    let ring = net.node(1).ring();
    cluster.version = 2;
    cluster.totem = "keyfile: other\n".to_owned();
    ask_to_reload(&mut net);
    for (id, process) in (1..).zip(processes) {
        take_over(&mut net, &cluster, id);
        net.mcast(process, &payload(5000, 1));
        net.run(Duration::from_secs(5));
        assert_eq!(net.node(1).ring(), ring, "node {id} has the key");
    }
    assert_eq!(net.received(processes[0]).len(), 3);
}

#[test]
fn what_comes_behind_a_reload_waits_for_it() {
    let mut cluster = Cluster::knet(&[1, 2, 3]);
    let mut net = Net::formed(&cluster);
    let processes = [1, 2, 3].map(|id| net.join(id, "group"));
    let ring = net.node(1).ring();
    cluster.version = 2;
    cluster.totem = "keyfile: other\n".to_owned();
    ask_to_reload(&mut net);
    let tokens = |net: &Net| [1, 2, 3].map(|id| net.node(id).ring_stats().tokens_accepted);
    let before = tokens(&net);
    net.mcast(processes[0], &payload(5000, 1));
    net.run(100 * MS);
    assert_eq!(tokens(&net), before, "the token waits");
    take_over(&mut net, &cluster, 2);
    net.run(100 * MS);
    assert!(
        (0..3).any(|at| tokens(&net)[at] == before[at]),
        "for those that read longest"
    );
    assert!(net.received(processes[0]).is_empty());
    for id in [1, 3] {
        take_over(&mut net, &cluster, id);
    }
    net.run(10 * MS);
    assert_eq!(net.received(processes[2]).len(), 1);
    // A file that takes too long is not waited for.
    cluster.version = 3;
    ask_to_reload(&mut net);
    net.mcast(processes[0], &payload(5000, 1));
    net.run(600 * MS);
    assert_eq!(net.received(processes[2]).len(), 2);
    assert_eq!(net.node(1).ring(), ring);
}

#[test]
fn keys_are_changed_without_losing_a_message() {
    let mut cluster = Cluster::knet(&[1, 2, 3]);
    let mut net = Net::formed(&cluster);
    let processes = [1, 2, 3].map(|id| net.join(id, "group"));
    let ring = net.node(1).ring();
    cluster.version = 2;
    cluster.totem = "crypto_cipher: aes128\ncrypto_hash: sha512\nkeyfile: other\n".to_owned();
    let response = reload(&mut net, &cluster);
    assert_eq!(response, Response::Cfg(cfg::Response::Reload(Status::OK)));
    for process in processes {
        net.mcast(process, &payload(5000, 1));
    }
    net.run(Duration::from_secs(30));
    assert_eq!(net.node(1).ring(), ring);
    for process in processes {
        assert_eq!(net.received(process).len(), 3);
    }
    // A node that has the new key only gets in.
    let stored = net.kill(3);
    net.wait_for_ring(&[1, 2]);
    net.boot(&cluster, 3, stored);
    net.wait_for_ring(&[1, 2, 3]);
}

#[test]
fn a_node_and_a_link_are_added_to_a_running_ring() {
    let mut cluster = Cluster::knet(&[1, 2]);
    let mut net = Net::formed(&cluster);
    let ring = net.node(1).ring();
    cluster.version = 2;
    cluster.links = 2;
    cluster.nodes.push(3);
    reload(&mut net, &cluster);
    assert_eq!(net.node(1).ring(), ring);
    assert_eq!(net.members[&1].socket_changes, 1);
    assert_eq!(net.node(1).sockets().len(), 2);
    assert_eq!(net.node(1).votes().expected, 3);
    net.boot(&cluster, 3, Stored::default());
    net.wait_for_ring(&[1, 2, 3]);
    net.run(Duration::from_secs(10));
    assert!(net.node(3).links().iter().all(|link| link.up));
    assert_eq!(net.node(3).links().len(), 4);
}

#[test]
fn a_bad_file_changes_nothing() {
    let cluster = Cluster::knet(&[1, 2]);
    let mut net = Net::formed(&cluster);
    let mut bad = cluster.clone();
    bad.nodes = vec![3];
    bad.version = 2;
    let response = reload(&mut net, &bad);
    let refused = cfg::Response::Reload(Status::INVALID_PARAM);
    assert_eq!(response, Response::Cfg(refused));
    assert_eq!(net.node(1).config(), &cluster.config(1));
    assert!(net.is_ring(&[1, 2]));
}

#[test]
fn trackers_of_the_quorum_learn_of_changes() {
    let mut net = Net::formed(&Cluster::knet(&[1, 2, 3]));
    let client = net.connect(1, Service::Quorum);
    let model = Request::Quorum(quorum::Request::ModelGetType(1));
    assert_eq!(
        net.ask(1, client, model),
        Response::Quorum(quorum::Response::ModelType(true))
    );
    let track = Request::Quorum(quorum::Request::TrackStart(TRACK_CHANGES));
    net.ask(1, client, track);
    net.kill(2);
    net.kill(3);
    let lost = |event: &ClientEvent| {
        matches!(
            event,
            ClientEvent::Quorum(quorum::Event::Quorum { quorate: false, .. })
        )
    };
    net.wait("quorum lost", |net| {
        net.members[&1].events[&client].iter().any(lost)
    });
    assert_eq!(
        net.ask(1, client, Request::Quorum(quorum::Request::GetQuorate)),
        Response::Quorum(quorum::Response::Quorate(false))
    );
}

#[test]
fn the_map_shows_the_ring() {
    let mut net = Net::formed(&Cluster::knet(&[1, 2]));
    let map = net.connect(1, Service::Cmap);
    let get = |net: &mut Net, key: &str| {
        let key = key.to_owned();
        let response = net.ask(1, map, Request::Cmap(cmap::Request::Get { key, room: 100 }));
        match response {
            Response::Cmap(cmap::Response::Get { value, .. }) => value,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(get(&mut net, "runtime.members.2.status"), b"joined\0");
    assert_eq!(get(&mut net, "totem.cluster_name"), b"test\0");
    assert_eq!(
        get(&mut net, "runtime.votequorum.this_node_id"),
        [1, 0, 0, 0]
    );
    assert_ne!(get(&mut net, "runtime.services.votequorum.0.rx"), [0; 8]);
    let stats = cmap::Request::SetCurrentMap { map: 1 };
    net.ask(1, map, Request::Cmap(stats));
    assert_ne!(get(&mut net, "stats.srp.orf_token_rx"), [0; 8]);
    assert_eq!(get(&mut net, "stats.knet.node2.link0.connected"), [1]);
    net.kill(2);
    net.wait_for_ring(&[1]);
    net.ask(
        1,
        map,
        Request::Cmap(cmap::Request::SetCurrentMap { map: 0 }),
    );
    assert_eq!(get(&mut net, "runtime.members.2.status"), b"left\0");
}

#[test]
fn who_tracks_counters_is_told_while_time_passes() {
    let mut net = Net::formed(&Cluster::knet(&[1, 2]));
    let map = net.connect(1, Service::Cmap);
    for request in [
        cmap::Request::SetCurrentMap { map: 1 },
        cmap::Request::TrackAdd {
            key: "stats.srp.orf_token_rx".to_owned(),
            kinds: cmap::track::MODIFY,
            client_handle: 5,
        },
    ] {
        net.ask(1, map, Request::Cmap(request));
    }
    net.run(Duration::from_secs(10));
    let told = net.members[&1].events.get(&map).map_or(0, Vec::len);
    assert!((4..=8).contains(&told), "{told}");
}

#[test]
fn only_root_and_those_named_may_connect() {
    let mut net = Net::new(&Cluster::knet(&[1]));
    let who = Credentials {
        pid: 7,
        uid: 33,
        gid: 33,
    };
    let refused = net.with(1, |node, now| {
        node.client_connected(now, ClientId(9), Service::Cpg, who)
    });
    let reason = Refusal::NotAllowed { uid: 33, gid: 33 };
    assert_eq!(refused, Err(reason));
    let map = net.connect(1, Service::Cmap);
    let value = cmap::Raw::u8(1);
    let key = "uidgid.uid.33".to_owned();
    net.ask(1, map, Request::Cmap(cmap::Request::Set { key, value }));
    let allowed = net.with(1, |node, now| {
        node.client_connected(now, ClientId(9), Service::Cpg, who)
    });
    assert_eq!(allowed, Ok(()));
    let mut cluster = Cluster::knet(&[1]);
    cluster.quorum.clear();
    let mut net = Net::new(&cluster);
    let root = Credentials {
        uid: 0,
        gid: 0,
        ..who
    };
    let refused = net.with(1, |node, now| {
        node.client_connected(now, ClientId(9), Service::Votequorum, root)
    });
    assert_eq!(refused, Err(Refusal::NotLoaded));
    assert!(net.node(1).is_quorate());
}

#[test]
fn a_client_that_dies_leaves_its_group() {
    let mut net = Net::formed(&Cluster::knet(&[1, 2]));
    let [first, second] = [1, 2].map(|id| net.join(id, "group"));
    net.wait("view", |net| net.views(first).last() == Some(&vec![1, 2]));
    net.with(2, |node, now| node.client_gone(now, second.client));
    net.wait("view", |net| net.views(first).last() == Some(&vec![1]));
    assert_eq!(net.views(second).len(), 1);
    net.run(10 * MS);
}

#[test]
fn nodes_can_be_told_to_stop() {
    let mut net = Net::formed(&Cluster::knet(&[1, 2]));
    let client = net.connect(1, Service::Cfg);
    let kill = cfg::Request::KillNode {
        nodeid: 2,
        reason: "test".to_owned(),
    };
    net.ask(1, client, Request::Cfg(kill));
    net.wait("kill", |net| net.members[&2].shutdown.is_some());
    let killed = net.members[&2].shutdown.clone().unwrap();
    assert!(matches!(killed, ShutdownReason::Killed { by, .. } if by.0 == 1));
    let stop = cfg::Request::TryShutdown { flags: 2 };
    net.request(1, client, Request::Cfg(stop));
    net.wait("shutdown", |net| net.members[&1].shutdown.is_some());
    assert_eq!(net.members[&1].shutdown, Some(ShutdownReason::Requested));
}
