use std::time::Duration;

use super::*;
use crate::config::test_host::TestHost;
use crate::proto::{knet, srp};
use crate::service::ClientId;
use crate::service::cmap::{Event, Request, track};

fn tracked() -> Map {
    let mut map = Map::default();
    let request = Request::TrackAdd {
        key: String::new(),
        kinds: track::ADD | track::MODIFY | track::DELETE | track::PREFIX,
        client_handle: 1,
    };
    map.handle_request(ClientId(1), request);
    map
}

fn told(map: &mut Map) -> Vec<String> {
    let events = std::iter::from_fn(|| map.poll_event());
    events.map(|(_, Event { key, .. })| key).collect()
}

#[test]
fn members_come_and_go_but_stay_known() {
    let mut map = tracked();
    let addresses: BTreeMap<u8, IpAddr> = [(0, "10.77.0.1"), (1, "10.77.1.1")]
        .map(|(link, text)| (link, text.parse().unwrap()))
        .into();
    let node = NodeId(1);
    put_joined(&mut map, node, &addresses);
    let ip = Raw::text("r(0) ip(10.77.0.1) r(1) ip(10.77.1.1) ");
    assert_eq!(map.value("runtime.members.1.ip"), Some(&ip));
    assert_eq!(
        map.value("runtime.members.1.join_count"),
        Some(&Raw::u32(1))
    );
    put_left(&mut map, node);
    assert_eq!(
        map.value("runtime.members.1.status"),
        Some(&Raw::text("left"))
    );
    told(&mut map);
    put_joined(&mut map, node, &addresses);
    let keys = ["runtime.members.1.join_count", "runtime.members.1.status"];
    assert_eq!(told(&mut map), keys);
    assert_eq!(
        map.value("runtime.members.1.join_count"),
        Some(&Raw::u32(2))
    );
}

#[test]
fn votes_that_stay_are_not_told() {
    let mut map = tracked();
    let facts = VoteFacts {
        this_node_id: 1,
        wait_for_all_status: Some(true),
        ..VoteFacts::default()
    };
    put_votes(&mut map, &facts);
    assert_eq!(told(&mut map).len(), 6);
    put_votes(&mut map, &facts);
    assert_eq!(told(&mut map), Vec::<String>::new());
    let facts = VoteFacts {
        ev_barrier: 2,
        wait_for_all_status: None,
        ..facts
    };
    put_votes(&mut map, &facts);
    let keys = [
        "runtime.votequorum.ev_barrier",
        "runtime.votequorum.wait_for_all_status",
    ];
    assert_eq!(told(&mut map), keys);
}

#[test]
fn what_follows_from_a_file_is_shown_beside_it() {
    let nodes = "nodelist {\n node {\n  name: n1\n  nodeid: 1\n  ring0_addr: 10.77.0.1\n }\n node {\n  \
        name: n2\n  nodeid: 2\n  ring0_addr: host-two\n }\n}\n";
    let read = |transport: &str| {
        let text = format!("totem {{\n version: 2\n cluster_name: c\n{transport}}}\n{nodes}");
        Config::read(text.as_bytes(), &TestHost).unwrap()
    };
    let mut map = tracked();
    put_config(&mut map, &read(""));
    let expected = [
        ("totem.interface.0.bindnetaddr", Raw::text("10.77.0.1")),
        ("nodelist.node.1.ring0_addr", Raw::text("host-two")),
        ("nodelist.local_node_pos", Raw::u32(0)),
        ("runtime.config.totem.token", Raw::u32(3000)),
        (
            "runtime.config.totem.knet_compression_model",
            Raw::text("none"),
        ),
        (
            "runtime.config.totem.interface.0.knet_ping_timeout",
            Raw::u32(1500),
        ),
    ];
    for (key, value) in expected {
        assert_eq!(map.value(key), Some(&value), "{key}");
    }
    told(&mut map);
    put_config(&mut map, &read(""));
    assert_eq!(told(&mut map), Vec::<String>::new());
    let mut map = Map::default();
    put_config(&mut map, &read(" transport: udp\n"));
    let ping = map.value("runtime.config.totem.interface.0.knet_ping_timeout");
    assert_eq!(ping, Some(&Raw::u32(1500)));
    assert!(map.value("totem.interface.0.mcastaddr").is_some());
    assert_eq!(
        map.value("totem.interface.0.mcastport"),
        Some(&Raw::u16(5405))
    );
}

#[test]
fn services_show_what_went_through_them() {
    let mut map = Map::default();
    put_services(&mut map, false);
    let mut traffic = Traffic::default();
    traffic.sent(0, 0);
    traffic.sent(0, 0);
    traffic.received(0, 0);
    traffic.received(0, 1);
    traffic.received(5, 0);
    put_traffic(&mut map, &traffic);
    assert_eq!(map.value("runtime.services.cmap.0.tx"), Some(&Raw::u64(2)));
    assert_eq!(map.value("runtime.services.cmap.0.rx"), Some(&Raw::u64(1)));
    assert_eq!(
        map.value("runtime.services.cmap.service_id"),
        Some(&Raw::u16(0))
    );
    assert_eq!(map.value("runtime.services.cmap.1.rx"), None);
    assert_eq!(map.value("runtime.services.votequorum.0.rx"), None);
    let name = map.value("internal_configuration.service.1.name");
    assert_eq!(name, Some(&Raw::text("corosync_cfg")));
}

fn link() -> knet::LinkStatus {
    knet::LinkStatus {
        host: NodeId(2),
        link: 1,
        remote: "10.77.1.2:5405".parse().unwrap(),
        up: true,
        usable: true,
        latency: Some(Duration::from_micros(250)),
        mtu: 1500,
        data_room: 1397,
        ups: 3,
        downs: 2,
        traffic: knet::Traffic {
            data: knet::Amount {
                sent: 7,
                refused: 1,
                ..knet::Amount::default()
            },
            ping: knet::Amount {
                sent: 3,
                ..knet::Amount::default()
            },
            ..knet::Traffic::default()
        },
        latencies: knet::Latencies::default(),
    }
}

#[test]
fn statistics_name_what_is_there_and_forget_what_is_gone() {
    let connection = Connection {
        service: 2,
        pid: 77,
        id: 0xbeef,
        process: "pmxcfs".to_owned(),
        requests: 9,
        ..Connection::default()
    };
    let now = knet::tests_base();
    let mut ring = srp::Stats::default();
    ring.gathers.insert(srp::GatherReason::TokenLost, 4);
    let mut statistics = Statistics {
        ring,
        links: vec![link()],
        connections: vec![connection],
        pauses: vec![
            Pause {
                at_ms: 1,
                length_ms: 0.5
            };
            20
        ],
        ..Statistics::default()
    };
    let values = statistics.values(now);
    let expected = [
        ("stats.knet.node2.link1.latency_ave", Raw::u32(250)),
        ("stats.knet.node2.link1.mtu", Raw::u32(1397)),
        ("stats.knet.node2.link1.tx_data_packets", Raw::u64(7)),
        ("stats.knet.node2.link1.tx_data_errors", Raw::u32(1)),
        ("stats.knet.node2.link1.tx_total_packets", Raw::u64(10)),
        ("stats.knet.node2.link1.latency_min", Raw::u32(u32::MAX)),
        (
            "stats.ipcs.service2.77.0xbeef.procname",
            Raw::text("pmxcfs"),
        ),
        ("stats.ipcs.global.active", Raw::u64(1)),
        ("stats.srp.operational_token_lost", Raw::u64(4)),
        ("stats.srp.gather_entered", Raw::u64(4)),
        ("stats.schedmiss.9.timestamp", Raw::u64(1)),
    ];
    for (key, value) in expected {
        assert_eq!(values.get(key), Some(&value), "{key}");
    }
    assert!(!values.contains_key("stats.schedmiss.10.timestamp"));
    let mut map = tracked();
    map.handle_request(ClientId(2), Request::SetCurrentMap { map: 1 });
    map.load_statistics(values);
    statistics.connections.clear();
    map.load_statistics(statistics.values(now));
    let request = Request::IterInit {
        prefix: "stats.ipcs.service".to_owned(),
    };
    map.handle_request(ClientId(2), request);
    let next = map.handle_request(ClientId(2), Request::IterNext { handle: 2 });
    assert_eq!(
        next.response,
        crate::service::cmap::Response::IterNext(Err(crate::service::Status::NO_SECTIONS))
    );
    assert_eq!(told(&mut map), Vec::<String>::new());
}

#[test]
fn values_that_no_setting_has_are_not_configured() {
    for (kind, bytes) in [
        (kind::F32, vec![0; 4]),
        (kind::U32, vec![0; 3]),
        (kind::TEXT, vec![65]),
    ] {
        assert_eq!(configured(&Raw { kind, bytes }), None);
    }
    assert_eq!(
        configured(&Raw::text("on")),
        Some(Value::Text("on".to_owned()))
    );
    assert_eq!(configured(&Raw::u64(7)), Some(Value::U64(7)));
}
