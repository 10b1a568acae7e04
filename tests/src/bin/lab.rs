//! Three nodes on this machine: shows what the cluster file system does, or gives a shell there.

use std::fs;
use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};

use tests::cluster::Cluster;
use tests::compare::{read_database, read_tree};
use tests::corosync::{Corosync, Settings};
use tests::daemon::{self, MOUNT_POINT};
use tests::lab::{Lab, Requirement, missing};
use tests::sample::write_sample_tree;
use tests::wait::{eventually_ok, interrupt, is_interrupted, measure_until, now};

/// Nodes of the cluster.
const NODES: usize = 3;
/// The node that is cut off.
const LONELY: usize = 3;
/// Writes whose travel is measured.
const WRITES: usize = 50;
/// A write arrives everywhere long before.
const ARRIVAL_DEADLINE: Duration = Duration::from_secs(10);
/// Exit status of a program that was interrupted from the terminal.
const INTERRUPTED: u8 = 130;

/// Start a cluster of three nodes on this machine and show how it behaves.
///
/// The nodes are network and mount namespaces: nothing outside of them is changed, and nothing is
/// left afterwards. Needs root.
#[derive(Debug, Parser)]
struct Arguments {
    /// Afterwards, open a shell on node n1
    #[arg(long)]
    shell: bool,
    /// Which daemon carries the messages; several, with ':' between them, are taken in turns
    #[arg(
        long,
        value_name = "corosync-lite|corosync|PATH",
        default_value = "corosync-lite"
    )]
    messaging: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = end_on_signals().and_then(|()| show(&arguments));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if is_interrupted() => {
            println!("\nInterrupted. Everything was taken away.");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("\nlab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The first signal lets the program end in order; the second ends it at once, and then the files
/// of the lab are removed by the next one.
fn end_on_signals() -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    std::thread::spawn(move || {
        while signals.wait().is_ok() {
            if is_interrupted() {
                std::process::exit(i32::from(INTERRUPTED));
            }
            interrupt();
        }
    });
    Ok(())
}

fn show(arguments: &Arguments) -> Result<()> {
    let needed = [
        Requirement::Root,
        Requirement::Fuse,
        Requirement::Network,
        Requirement::Corosync,
    ];
    if let Some(text) = missing(&needed) {
        bail!("{text}");
    }
    let mut cluster = start(&arguments.messaging)?;
    fill(&cluster)?;
    travel(&cluster)?;
    cut_off(&mut cluster)?;
    heal(&mut cluster)?;
    if arguments.shell {
        shell(&cluster)?;
    }
    step("The end");
    let start = now();
    cluster.stop()?;
    say(&format!(
        "all daemons ended in order, hosts are gone ({})",
        since(start)
    ));
    Ok(())
}

fn start(messaging: &str) -> Result<Cluster> {
    step("Three nodes");
    let binary = daemon::binary()?;
    let start = now();
    let lab = Lab::new(NODES)?;
    for host in lab.hosts() {
        say(&format!(
            "{}: {} and {}",
            host.name(),
            host.address(0),
            host.address(1)
        ));
    }
    let settings = Settings {
        messaging: messaging.to_owned(),
        ..Settings::new(NODES)
    };
    let corosync = Corosync::start_cluster(&lab, &settings)?;
    say(&format!(
        "{messaging} formed an encrypted ring over two links ({})",
        since(start)
    ));
    let start = now();
    let cluster = Cluster::over(lab, corosync, &vec![binary; NODES])?;
    say(&format!(
        "pmxcfs serves {MOUNT_POINT} on each ({})",
        since(start)
    ));
    Ok(cluster)
}

fn fill(cluster: &Cluster) -> Result<()> {
    step("A configuration, copied in on n1");
    let start = now();
    let count = write_sample_tree(&cluster.path(1, ""))?;
    say(&format!(
        "{count} files: guests, storage, users, firewall, HA, SDN ({})",
        since(start)
    ));
    cluster.await_equal()?;
    say("n1, n2 and n3 hold the same tree, and the same rows in their databases");
    let listing = cluster
        .lab
        .host(2)
        .sh_ok("cd /etc/pve && ls -l nodes/*/*/*.conf storage.cfg")?;
    show_lines("n2# ls -l nodes/*/*/*.conf storage.cfg", &listing);
    Ok(())
}

fn travel(cluster: &Cluster) -> Result<()> {
    step("A write travels");
    let (mut writes, mut arrivals) = (Vec::new(), Vec::new());
    let path = "nodes/n1/qemu-server/100.conf";
    for i in 0..WRITES {
        let text = format!("name: web1\nmemory: {}\n", 1024 + i);
        let start = now();
        fs::write(cluster.path(1, path), &text)?;
        writes.push(start.elapsed());
        measure_until(ARRIVAL_DEADLINE, "the write on n2 and n3", || {
            [2, 3].iter().all(|id| {
                fs::read_to_string(cluster.path(*id, path)).is_ok_and(|found| found == text)
            })
        })?;
        arrivals.push(start.elapsed());
    }
    say(&format!(
        "{WRITES} writes of a guest's configuration on n1, one after the other:"
    ));
    say(&format!(
        "  done for the writer after      {}",
        spread(&mut writes)
    ));
    say(&format!(
        "  read back on n2 and n3 after   {}",
        spread(&mut arrivals)
    ));
    Ok(())
}

fn cut_off(cluster: &mut Cluster) -> Result<()> {
    step("n3 is cut off from both networks");
    let start = now();
    cluster.lab.isolate(LONELY)?;
    cluster.await_writable(LONELY, false)?;
    say(&format!(
        "n3 noticed that it has no majority ({})",
        since(start)
    ));
    let listing = cluster
        .lab
        .host(LONELY)
        .sh_ok("ls -ld /etc/pve/local /etc/pve/storage.cfg")?;
    show_lines("n3# ls -ld local storage.cfg", &listing);
    fs::read_to_string(cluster.path(LONELY, "storage.cfg"))
        .context("a node without a majority must still serve reads")?;
    say("reading on n3 goes on");
    match fs::write(cluster.path(LONELY, "refused.cfg"), "lost?\n") {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            say(&format!("writing on n3 is refused: {error}"));
        }
        other => bail!("n3 has no majority, but a write there gave {other:?}"),
    }
    cluster.await_online(1, NODES - 1)?;
    let start = now();
    for i in 0..WRITES {
        fs::write(
            cluster.path(1 + i % 2, format!("during-{i}.cfg")),
            format!("{i}\n"),
        )?;
    }
    say(&format!(
        "n1 and n2 are the majority and go on: {WRITES} files written ({})",
        since(start)
    ));
    Ok(())
}

fn heal(cluster: &mut Cluster) -> Result<()> {
    step("The networks are back");
    let start = now();
    cluster.lab.heal()?;
    cluster.await_writable(LONELY, true)?;
    say(&format!("n3 has a majority again ({})", since(start)));
    let last = format!("during-{}.cfg", WRITES - 1);
    eventually_ok(ARRIVAL_DEADLINE, "what n3 missed", || {
        Ok(fs::metadata(cluster.path(LONELY, &last))?)
    })?;
    say(&format!("n3 has what it missed ({})", since(start)));
    cluster.await_in_sync()?;
    fs::write(cluster.path(LONELY, "accepted.cfg"), "here again\n")?;
    cluster.await_equal()?;
    let root = cluster.path(1, "");
    let rows = read_database(&cluster.lab.host(1).disk("var/lib/pve-cluster/config.db"))?;
    say(&format!(
        "all three trees are equal ({} entries), and all three databases ({} rows)",
        read_tree(&root)?.len(),
        rows.len()
    ));
    Ok(())
}

fn shell(cluster: &Cluster) -> Result<()> {
    step("A shell on n1");
    say("the tree is /etc/pve; corosync-quorumtool and corosync-cfgtool -s show the ring");
    say("to enter the others, from another terminal of this machine:");
    for host in cluster.lab.hosts() {
        say(&format!(
            "  {}: nsenter --target {} --all bash",
            host.name(),
            host.pid()?
        ));
    }
    say("leave with exit or Ctrl-D; everything is then taken away\n");
    let prompt = [("PS1", "n1:\\w# "), ("HISTFILE", "")];
    cluster
        .lab
        .host(1)
        .interactive("bash", &["--norc", "-i"], &prompt)
}

fn step(text: &str) {
    println!("\n== {text}");
}

fn say(text: &str) {
    println!("   {text}");
}

fn show_lines(head: &str, text: &str) {
    println!("   | {head}");
    for line in text.lines() {
        println!("   | {line}");
    }
}

fn since(start: Instant) -> String {
    let elapsed = start.elapsed();
    if elapsed < Duration::from_secs(1) {
        format!("{:.1} ms", elapsed.as_secs_f64() * 1e3)
    } else {
        format!("{:.1} s", elapsed.as_secs_f64())
    }
}

/// Median and largest.
fn spread(durations: &mut [Duration]) -> String {
    durations.sort_unstable();
    let ms = |index: usize| durations.get(index).map_or(0.0, |d| d.as_secs_f64() * 1e3);
    let last = durations.len().saturating_sub(1);
    format!(
        "{:6.2} ms (half of them), {:6.2} ms (all)",
        ms(last / 2),
        ms(last)
    )
}
