//! Versions of the programs of both sides, compared before a join.
//!
//! Invariant: a member of the original is never kept from taking this node for the number of its version,
//! which is counted in another way; it is told, and no more.

use super::checks::Faults;

/// Version of the programs of this node; they all have the same.
pub const OWN: &str = env!("CARGO_PKG_VERSION");
/// The word by which a node of this kind is known.
pub const PROGRAM: &str = "pvecm";

/// What a member runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// These programs.
    Own(String),
    /// The original.
    Original(String),
}

impl Version {
    /// Of what `pvecm --version` says. The original has no such option.
    #[must_use]
    pub fn of_program(text: &str) -> Option<Self> {
        let (program, version) = text.trim().split_once(' ')?;
        (program == PROGRAM).then(|| Self::Own(version.to_owned()))
    }

    /// Of what `pveversion` of the original says.
    #[must_use]
    pub fn of_original(text: &str) -> Option<Self> {
        let rest = text.trim().strip_prefix("pve-manager/")?;
        let version = rest.split(['/', ' ']).next()?;
        Some(Self::Original(version.to_owned()))
    }
}

/// Looks whether this node, of version `own`, can work with the member `peer`.
pub(super) fn check(peer: &str, theirs: &Version, own: &str, found: &mut Faults) {
    match theirs {
        Version::Original(theirs) => found.warnings.push(format!(
            "'{peer}' runs Proxmox VE {}, this node {PROGRAM} {own}: their numbers can not be compared; \
             'pvecm doctor' shows afterwards whether all nodes understand each other",
            shown(theirs)
        )),
        Version::Own(theirs) if theirs == own => {}
        Version::Own(theirs) => {
            let text = format!(
                "'{peer}' runs version {} of {PROGRAM}, this node {own}",
                shown(theirs)
            );
            match (breaking(theirs), breaking(own)) {
                (Some(theirs), Some(own)) if theirs == own => found.warnings.push(format!(
                    "{text}: they work together; bring all nodes to the same version when it suits"
                )),
                (theirs, own) => {
                    let older = if theirs < own {
                        format!("upgrade the nodes of the cluster of '{peer}'")
                    } else {
                        "upgrade this node".to_owned()
                    };
                    found.soft(format!(
                        "{text}, which may not work together: {older} first"
                    ));
                }
            }
        }
    }
}

/// The part of a version that is another one where something old does not work any more: its first number
/// that is not 0, with what comes before.
fn breaking(version: &str) -> Option<(u64, u64)> {
    let mut numbers = version.split(['.', '-', '+']).map(str::parse);
    let major = numbers.next()?.ok()?;
    let minor = numbers.next()?.ok()?;
    Some((major, if major == 0 { minor } else { 0 }))
}

/// What somebody sent, as far as it is shown.
fn shown(text: &str) -> String {
    let plain = text.chars().filter(|letter| !letter.is_control());
    plain.take(32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(theirs: &Version, own: &str) -> Faults {
        let mut found = Faults::default();
        check("n1", theirs, own, &mut found);
        found
    }

    #[test]
    fn what_does_not_work_together_is_refused_with_what_to_upgrade() {
        for (theirs, own, side) in [
            ("1.4.0", "2.0.0", "the cluster of 'n1'"),
            ("3.0.0", "2.9.9", "upgrade this node"),
            ("0.2.0", "0.1.7", "upgrade this node"),
            ("0.9.0", "1.0.0", "the cluster of 'n1'"),
            ("?", "1.0.0", "the cluster of 'n1'"),
        ] {
            let found = found(&Version::Own(theirs.to_owned()), own);
            let [fault] = found.faults.as_slice() else {
                panic!("{theirs} {own}: {found:?}");
            };
            assert!(fault.can_force && fault.text.contains(side), "{fault:?}");
            assert!(fault.text.contains(theirs), "{fault:?}");
        }
    }

    #[test]
    fn small_differences_and_the_original_are_told_only() {
        let same = found(&Version::Own("1.2.3".to_owned()), "1.2.3");
        assert_eq!(same, Faults::default());
        for (theirs, own) in [("1.2.3", "1.9.0"), ("0.1.2", "0.1.9")] {
            let found = found(&Version::Own(theirs.to_owned()), own);
            assert!(found.faults.is_empty(), "{found:?}");
            assert!(found.warnings[0].contains("they work together"));
        }
        for theirs in ["9.1.1", "0.0", "x\u{1b}[31m"] {
            let found = found(&Version::Original(theirs.to_owned()), OWN);
            assert!(found.faults.is_empty(), "{found:?}");
            assert!(found.warnings[0].contains("Proxmox VE"), "{found:?}");
            assert!(!found.warnings[0].contains('\u{1b}'), "{found:?}");
        }
    }

    #[test]
    fn programs_say_what_they_are() {
        let own = Some(Version::Own("0.1.0".to_owned()));
        assert_eq!(Version::of_program("pvecm 0.1.0\n"), own);
        assert_eq!(Version::of_program("ERROR: unknown command"), None);
        assert_eq!(Version::of_program(""), None);
        let text = "pve-manager/9.1.1/42db4a6cf33dac83 (running kernel: 6.17.2-1-pve)\n";
        let original = Some(Version::Original("9.1.1".to_owned()));
        assert_eq!(Version::of_original(text), original);
        assert_eq!(Version::of_original("pvecm 0.1.0"), None);
    }
}
