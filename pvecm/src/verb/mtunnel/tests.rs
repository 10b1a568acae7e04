use std::fs;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::thread;

use super::*;
use crate::failure::code;
use crate::host::Paths;

struct Node {
    _root: tempfile::TempDir,
    host: Host,
}

/// A node with quorum.
fn node(datacenter: &str) -> Node {
    let root = tempfile::tempdir().unwrap();
    let host = Host {
        paths: Paths::below(root.path()),
        name: "n1".parse().unwrap(),
    };
    for directory in ["etc/pve", "var/lock", "var/tmp"] {
        fs::create_dir_all(root.path().join(directory)).unwrap();
    }
    std::os::unix::fs::symlink("nodes/n1", host.paths.pve("local")).unwrap();
    fs::write(host.paths.pve("datacenter.cfg"), datacenter).unwrap();
    Node { _root: root, host }
}

fn said(node: &Node, args: &Mtunnel, input: &str) -> Outcome<String> {
    let mut output = Vec::new();
    tunnel(&node.host, args, &mut input.as_bytes(), &mut output)?;
    Ok(String::from_utf8(output).unwrap())
}

fn args() -> Mtunnel {
    Mtunnel {
        extra_args: Vec::new(),
        get_migration_ip: false,
        migration_network: None,
        run_command: false,
    }
}

#[test]
fn without_quorum_it_says_so_and_succeeds() {
    let node = node("");
    fs::remove_file(node.host.paths.pve("local")).unwrap();
    assert_eq!(said(&node, &args(), ""), Ok("no quorum\n".to_owned()));
}

#[test]
fn the_address_is_that_in_the_network() {
    let ask = |network: Option<&str>, datacenter: &str| {
        let args = Mtunnel {
            get_migration_ip: true,
            migration_network: network.map(|network| network.parse().unwrap()),
            ..args()
        };
        said(&node(datacenter), &args, "")
    };
    let loopback = "ip: '127.0.0.1'\n".to_owned();
    assert_eq!(ask(Some("127.0.0.0/8"), ""), Ok(loopback.clone()));
    assert_eq!(ask(None, "migration: network=127.0.0.0/8"), Ok(loopback));
    assert_eq!(ask(None, "migration: insecure"), Ok("no ip\n".to_owned()));
    assert_eq!(ask(None, ""), Ok("no ip\n".to_owned()));
    let none = ask(Some("203.0.113.0/24"), "").unwrap_err();
    assert_eq!(
        none.to_string(),
        "could not get migration ip: no IP address configured on local node for network \
         '203.0.113.0/24'"
    );
}

#[test]
fn two_addresses_in_the_network_are_one_too_many() {
    let network = "10.0.0.0/8".parse().unwrap();
    let ip = |last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
    assert_eq!(only_address(network, vec![ip(1), ip(1)]), Ok(ip(1)));
    let two = only_address(network, vec![ip(1), ip(2)]).unwrap_err();
    assert_eq!(
        two.to_string(),
        "multiple, different, IP address configured for network '10.0.0.0/8'"
    );
}

#[test]
fn modes_exclude_each_other_and_a_command_is_needed() {
    let refused = |args: &Mtunnel| said(&node(""), args, "").unwrap_err();
    let both = refused(&Mtunnel {
        get_migration_ip: true,
        run_command: true,
        ..args()
    });
    assert_eq!(
        (both.code(), both.to_string().as_str()),
        (
            code::REFUSED,
            "cannot use --run-command with --get_migration_ip"
        )
    );
    let none = refused(&Mtunnel {
        run_command: true,
        ..args()
    });
    assert_eq!(none.to_string(), "missing command");
}

#[test]
fn a_tunnel_is_open_until_quit_or_the_end() {
    let node = node("");
    let online = Ok("tunnel online\n".to_owned());
    assert_eq!(said(&node, &args(), "ping\nquit\n"), online);
    assert_eq!(said(&node, &args(), ""), online);
    let mut rest: &[u8] = b"\xff\nquit\nmore";
    tunnel(&node.host, &args(), &mut rest, &mut Vec::new()).unwrap();
    assert_eq!(rest, b"more");
}

/// Hands on what is written, as soon as both lines are there.
struct Lines(std::sync::mpsc::Sender<String>);

impl Write for Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0
            .send(String::from_utf8(text.to_vec()).unwrap())
            .unwrap();
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_command_gets_what_is_sent_to_the_port() {
    let node = node("");
    let copy = node.host.paths.at("copy");
    let script = |end: &str| Mtunnel {
        run_command: true,
        migration_network: Some("127.0.0.0/8".parse().unwrap()),
        extra_args: ["sh", "-c", &format!("cat >'{}'; {end}", copy.display())]
            .map(str::to_owned)
            .into(),
        ..args()
    };
    for (end, expected) in [
        ("exit 0", Ok(())),
        ("exit 3", Err("'sh': exit code 3")),
        ("kill -9 $$", Err("'sh': got signal 9")),
    ] {
        let (sender, lines) = std::sync::mpsc::channel();
        let sending = thread::spawn(move || {
            let lines: String = lines.recv().unwrap();
            let (ip, port) = lines.trim_end().split_once('\n').unwrap();
            let port: u16 = port.parse().unwrap();
            assert!((60000..60050).contains(&port), "{port}");
            let mut stream = TcpStream::connect((ip, port)).unwrap();
            stream.write_all(b"a disk").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            // Nothing comes back: the command's output is not the connection's.
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        });
        let ended = tunnel(
            &node.host,
            &script(end),
            &mut io::empty(),
            &mut Lines(sender),
        );
        assert_eq!(
            ended.map_err(|failure| failure.to_string()),
            expected.map_err(str::to_owned)
        );
        sending.join().unwrap();
        assert_eq!(fs::read(&copy).unwrap(), b"a disk");
    }
}

#[test]
fn the_other_side_is_not_waited_for_without_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let failure = accept_within(&listener, Duration::from_millis(10)).unwrap_err();
    assert!(
        failure
            .to_string()
            .starts_with("timed out waiting for client"),
        "{failure}"
    );
}
