//! Tests of the test hosts themselves.

use std::fs;

use tests::lab::{Lab, Requirement, available};

const LAB: [Requirement; 2] = [Requirement::Root, Requirement::Network];

#[test]
fn hosts_have_names_networks_and_files_of_their_own() {
    if !available(&LAB) {
        return;
    }
    let lab = Lab::new(2).unwrap();
    for host in lab.hosts() {
        assert_eq!(host.sh_ok("hostname").unwrap().trim(), host.name());
        let script = format!("getent hosts {}; echo $$", host.name());
        let text = host.sh_ok(&script).unwrap();
        assert!(text.starts_with(&host.address(0)), "{text}");
        fs::write(host.path("etc/pve/x"), host.name()).unwrap();
        fs::write(host.path("run/x"), host.name()).unwrap();
        host.sh_ok("echo there > /var/lib/corosync/x").unwrap();
        assert_eq!(
            fs::read_to_string(host.disk("var/lib/corosync/x")).unwrap(),
            "there\n"
        );
    }
    for host in lab.hosts() {
        assert_eq!(
            host.sh_ok("cat /etc/pve/x /run/x").unwrap(),
            host.name().repeat(2)
        );
    }
    assert!(!fs::exists("/etc/pve/x").unwrap());
}
