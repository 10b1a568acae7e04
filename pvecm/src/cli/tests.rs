use clap::CommandFactory as _;

use super::*;
use crate::value::Link;

fn parsed(line: &str) -> Result<Parsed, Stop> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    parse(&words)
}

fn command(line: &str) -> Command {
    match parsed(line) {
        Ok(parsed) => parsed.cli.command,
        Err(stop) => panic!("{line}: {}", stop.text),
    }
}

fn refused(line: &str) -> String {
    let stop = parsed(line).unwrap_err();
    assert_eq!(stop.code, code::USAGE, "{}", stop.text);
    stop.text
}

fn added(line: &str) -> Add {
    match command(line) {
        Command::Add(add) => add,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn options_are_spelt_in_many_ways() {
    let link: Link = "10.0.0.1".parse().unwrap();
    for line in [
        "add h --link0 10.0.0.1 --votes 2",
        "add h -link0 10.0.0.1 -votes=2",
        "add --link0=10.0.0.1 --vo 2 h",
        "add h --votes 3 -v 2 --link0 address=10.0.0.1",
        "add h --ring0_addr 10.0.0.1 --votes 2",
        "add h -ring0_addr=10.0.0.1 --votes 2",
    ] {
        let add = added(line);
        assert_eq!(add.links.given(), [(0, link.clone())].into(), "{line}");
        assert_eq!(add.votes, Some(2), "{line}");
        assert_eq!(add.hostname.as_deref(), Some("h"), "{line}");
    }
    let prioritized = added("add h -link3 10.0.0.1,priority=20");
    assert_eq!(prioritized.links.given()[&3].priority, Some(20));
}

#[test]
fn booleans_may_have_a_value() {
    for (words, on) in [
        ("", false),
        ("--force", true),
        ("--force 1", true),
        ("--force=on", true),
        ("-force YES", true),
        ("--forc true", true),
        ("--force 0", false),
        ("--force=Off", false),
        ("--force no", false),
        ("--force --force false", false),
        ("--force 0 --force 1", true),
        ("--force --use_ssh", true),
    ] {
        assert_eq!(added(&format!("add {words} h")).force, on, "{words}");
    }
    let text = refused("add h --force=perhaps");
    assert!(text.contains("400 unable to parse option"), "{text}");
}

#[test]
fn numbers_are_asked_for_in_words() {
    for (line, reason) in [
        ("expected x", "expected: 'x' is no whole number that fits"),
        ("expected 0", "expected: '0' is not a number from 1 to "),
        ("nextid --vmid 1e3", "vmid: '1e3' is no whole number"),
        (
            "create c --nodeid 70000",
            "nodeid: '70000' is not a number from 1 to 65535",
        ),
        ("link remove 8", "number: '8' is not a number from 0 to 7"),
        (
            "wait-quorum --timeout soon",
            "timeout: 'soon' is no whole number",
        ),
    ] {
        let text = refused(line);
        assert!(
            text.contains(&format!("400 Parameter verification failed.\n{reason}")),
            "{text}"
        );
    }
}

#[test]
fn old_options_are_taken_with_a_warning() {
    let line = "create c --bindnet0_addr 10.0.0.0 --ring0_addr 10.0.0.1 -rrp_mode passive \
                --bindnet1_addr=10.1.0.0 --ring1_addr 10.1.0.1";
    let parsed = parsed(line).unwrap();
    assert_eq!(parsed.warnings.len(), 5, "{:?}", parsed.warnings);
    let Command::Create(create) = parsed.cli.command else {
        panic!("another command");
    };
    assert_eq!(create.links.given().len(), 2);
    // Only those commands that had them.
    let text = refused("delnode n --ring0_addr 10.0.0.1");
    assert!(text.starts_with("Unknown option: ring0_addr\n400 unable to parse option\n"));
}

#[test]
fn commands_may_be_shortened() {
    for (short, long) in [
        ("stat", "Status"),
        ("s", "Status"),
        ("del n2", "Delnode"),
        ("n", "Nodes"),
        ("ap", "Apiver"),
        ("cr c", "Create"),
        ("add h", "Add("),
        ("addn h", "Addnode"),
        ("lea", "Leave"),
        ("next", "Nextid"),
        ("node rename n1 m1", "Node(NodeChange { action: Rename"),
        ("node set-address n1 10.0.0.9 --dry-run", "Node("),
        ("readd h --yes --import-guests", "Readd("),
        ("certs", "Certs(Certs { action: None"),
        ("certs rollover switch --dry-run 1", "Certs("),
        ("quorum --force-local", "Quorum("),
        ("status --watch --output-format json", "Status("),
    ] {
        let shown = format!("{:?}", command(short));
        assert!(shown.starts_with(long), "{short}: {shown}");
    }
    for unknown in ["foo", "a", "x"] {
        let text = refused(unknown);
        let first = format!("ERROR: unknown command 'pvecm {unknown}'\nUSAGE: pvecm <COMMAND>");
        assert!(text.starts_with(&first), "{text}");
    }
}

#[test]
fn mistakes_are_told_as_the_original_tells_them() {
    let all = "400 Parameter verification failed.\n";
    let text = refused("addnode n_1");
    assert!(text.starts_with(&format!("{all}node: ")), "{text}");
    assert!(
        text.ends_with("\npvecm addnode <node> [OPTIONS]\n"),
        "{text}"
    );
    let text = refused("create c --votes 0 --nodeid x --link0 10.0.0.1,priority=300");
    for part in [all, "\nvotes: ", "\nnodeid: ", "\nlink0: priority '300'"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.lines().count(), 5, "{text}");
    assert_eq!(
        refused("addnode"),
        "400 not enough arguments\npvecm addnode <node> [OPTIONS]\n"
    );
    assert!(refused("addnode a b").starts_with("400 too many arguments\n"));
    assert!(refused("apiver x").starts_with("400 too many arguments\npvecm apiver \n"));
    let unknown = refused("addnode a --colour red");
    assert!(unknown.starts_with("Unknown option: colour\n400 unable to parse option\n"));
    let ambiguous = refused("addnode a --link 10.0.0.1");
    assert!(ambiguous.starts_with("Option link is ambiguous (link0, link1"));
    let missing = refused("addnode a --votes");
    assert!(missing.starts_with("Option votes requires an argument\n400 unable"));
    assert!(refused("").starts_with("ERROR: no command specified\nUSAGE: "));
    assert!(refused("link").starts_with("ERROR: incomplete command 'pvecm link'\n"));
    let needed = refused("quorum");
    assert!(
        needed.starts_with("Option force-local is needed\n400 not enough arguments\n"),
        "{needed}"
    );
    let choices = refused("certs rollover now");
    assert!(
        choices.contains("use one of announce, switch, finish"),
        "{choices}"
    );
    let large = refused("create c --nodeid 65536");
    assert!(
        large.contains("nodeid: '65536' is not a number from 1 to 65535"),
        "{large}"
    );
    assert!(refused("add h --import-guests keep").starts_with("400 too many arguments\n"));
}

#[test]
fn help_needs_nothing() {
    for line in [
        "help",
        "--help",
        "-h",
        "help --verbose",
        "help create",
        "help cre -v",
    ] {
        let stop = parsed(line).unwrap_err();
        assert_eq!(stop.code, code::OK, "{line}");
        assert!(stop.text.contains("create"), "{line}: {}", stop.text);
    }
    let list = parsed("help").unwrap_err().text;
    for line in [
        "USAGE: pvecm <COMMAND> [ARGS] [OPTIONS]\n",
        "\n       pvecm addnode <node> [OPTIONS]\n       pvecm apiver \n",
        "\n       pvecm create <clustername> [OPTIONS]\n",
        "\n       pvecm keygen <filename> [OPTIONS]\n       pvecm mtunnel [<extra-args>] [OPTIONS]\n",
        "\n       pvecm updatecerts  [OPTIONS]\n",
        "\n       pvecm help [<extra-args>] [OPTIONS]\n",
    ] {
        assert!(list.contains(line), "{line}: {list}");
    }
    for command in Cli::command().get_subcommands() {
        let line = format!("\n       pvecm {} ", command.get_name());
        assert!(list.contains(&line) || command.is_hide_set(), "{line}");
    }
    assert!(refused("help foo").starts_with("ERROR: unknown command 'pvecm foo'\n"));
}

#[test]
fn words_after_two_dashes_are_left_alone() {
    let Command::Mtunnel(tunnel) = command("mtunnel --run-command 1 -- cat --force -x") else {
        panic!("another command");
    };
    assert!(tunnel.run_command);
    assert_eq!(tunnel.extra_args, ["cat", "--force", "-x"]);
}

/// Verbs that only look, and those that start what changes something as its own command.
const READ_ONLY: [&str; 12] = [
    "apiver",
    "nodes",
    "status",
    "doctor",
    "join-info",
    "list",
    "mtunnel",
    "serve",
    "help",
    "certs",
    "wait-quorum",
    "leftovers",
];

#[test]
fn each_verb_that_changes_something_can_only_say_so() {
    fn look(command: &clap::Command, is_above: bool, missing: &mut Vec<String>) {
        let name = command.get_name();
        let has = command.get_arguments().any(|arg| arg.get_id() == "dry_run");
        let is_group = command.is_subcommand_required_set();
        let only_looks = READ_ONLY.contains(&name) || is_group || command.is_hide_set();
        if !only_looks && !has && !is_above {
            missing.push(name.to_owned());
        }
        for verb in command.get_subcommands() {
            look(verb, is_group && (has || is_above), missing);
        }
    }
    let mut missing = Vec::new();
    for verb in Cli::command().get_subcommands() {
        look(verb, false, &mut missing);
    }
    assert_eq!(missing, Vec::<String>::new());
}
