//! `expected`.

use std::fs;

use tests::cluster::Cluster;
use tests::daemon::binary;
use tests::wait::eventually;

use crate::support::{DEADLINE, KINDS, can_run_clusters, document, pvecm, said, settings};

#[test]
fn expected_votes_bring_quorum_back_and_the_file_system_knows() {
    if !can_run_clusters() {
        return;
    }
    for kind in KINDS {
        let binaries = vec![binary().unwrap(); 3];
        let mut cluster = Cluster::start_with(&settings(3, kind), &binaries).unwrap();
        // All are here: fewer votes than that are refused, and nothing changes.
        let (text, errors, code) = said(&pvecm(cluster.lab.host(1), "expected 1"));
        assert_eq!(code, 2, "{text}{errors}");
        assert!(errors.contains("CS_ERR_INVALID_PARAM"), "{errors}");
        assert!(errors.contains("3 is the least"), "{errors}");
        assert_eq!(said(&pvecm(cluster.lab.host(1), "expected 0")).2, 64);
        let (_, errors, code) = said(&pvecm(cluster.lab.host(1), "quorum --force-local --yes"));
        assert_eq!(code, 2, "{errors}");
        assert!(errors.contains("there is nothing to force"), "{errors}");

        for id in [2, 3] {
            cluster.lab.power_off(id);
        }
        cluster.await_writable(1, false).unwrap();
        let host = cluster.lab.host(1);
        let (text, errors, code) = said(&pvecm(host, "expected 1 --dry-run"));
        assert_eq!((errors.as_str(), code), ("", 0));
        assert!(text.contains("expected votes: 3 now, 1 then"), "{text}");
        assert!(
            text.contains("RISK: make sure that n2 (node 2), n3 (node 3)"),
            "{text}"
        );
        assert_eq!(document(host, "status")["votes"]["expected"], 3);

        // The links are down a little later than the ring has noticed.
        let silent = || said(&pvecm(host, "quorum --force-local --dry-run")).2 == 0;
        eventually(DEADLINE, "links that are down", silent).unwrap();
        let (text, errors, code) = said(&pvecm(host, "quorum --force-local"));
        assert_eq!(code, 2, "{errors}");
        assert!(text.contains("missing: n2 (node 2), n3 (node 3)"), "{text}");
        assert!(errors.contains("--yes"), "{errors}");
        assert_eq!(document(host, "status")["votes"]["expected"], 3);

        let give = match kind {
            "corosync" => "quorum --force-local --yes",
            _ => "expected 1",
        };
        let (text, errors, code) = said(&pvecm(host, give));
        assert_eq!((errors.as_str(), code), ("", 0), "{text}");
        assert!(
            text.ends_with("quorate: /etc/pve takes changes\n"),
            "{text}"
        );
        // At once.
        fs::create_dir(cluster.path(1, "after-expected")).unwrap();
        let status = document(host, "status");
        assert_eq!(status["votes"]["expected"], 1, "{status}");
        assert_eq!(status["quorum"]["quorate"], true, "{status}");
    }
}
