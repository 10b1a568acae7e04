//! The far end of a migration over SSH: tells the address for it, keeps a tunnel open, or gives a
//! command what is sent to a port.
//!
//! The other side reads what is printed here line by line: these texts are part of the protocol.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::Duration;

use nix::net::if_::InterfaceFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cli::Mtunnel;
use crate::datacenter::{Datacenter, Network};
use crate::failure::{Failure, Outcome};
use crate::host::{Host, command, interface_addresses, ports, pve};

/// The other side connects within this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Does what the other side of a migration asks for.
///
/// # Errors
/// When there is no such address, no connection comes, or the command fails.
pub fn run(host: &Host, args: &Mtunnel) -> Outcome {
    let mut input = io::stdin().lock();
    tunnel(host, args, &mut input, &mut io::stdout())
}

fn tunnel(host: &Host, args: &Mtunnel, input: &mut dyn BufRead, output: &mut dyn Write) -> Outcome {
    if pve::state(&host.paths) != pve::State::Writable {
        // Not a failure: the other side reads this line.
        return say(output, "no quorum\n");
    }
    if args.get_migration_ip {
        if args.run_command {
            return Err(Failure::refused(
                "cannot use --run-command with --get_migration_ip",
            ));
        }
        return match migration_address(host, args.migration_network)? {
            Some(ip) => say(output, &format!("ip: '{ip}'\n")),
            None => say(output, "no ip\n"),
        };
    }
    if args.run_command {
        let (program, rest) = args
            .extra_args
            .split_first()
            .ok_or_else(|| Failure::refused("missing command"))?;
        let ip = match migration_address(host, args.migration_network)? {
            Some(ip) => ip,
            None => host.address()?,
        };
        let stream = accept(host, ip, output)?;
        let mut command = Command::new(program);
        command.args(rest).env("PATH", command::PATH);
        return run_with(command, program, stream);
    }
    say(output, "tunnel online\n")?;
    wait_for_quit(input)
}

/// The address for moving guests: this node's in the given network, else in the configured one.
fn migration_address(host: &Host, given: Option<Network>) -> Outcome<Option<IpAddr>> {
    let configured = || -> Outcome<Option<Network>> {
        let options = Datacenter::read(host)?;
        options.show_warnings();
        Ok(options.migration_network())
    };
    let network = match given {
        Some(network) => Some(network),
        None => configured()?,
    };
    let Some(network) = network else {
        return Ok(None);
    };
    let addresses = interface_addresses(InterfaceFlags::IFF_UP)
        .map_err(|error| Failure::failed(format!("can not list this node's addresses: {error}")))?;
    only_address(network, addresses)
        .map(Some)
        .map_err(|failure| failure.within("could not get migration ip"))
}

fn only_address(network: Network, addresses: Vec<IpAddr>) -> Outcome<IpAddr> {
    let inside = addresses.into_iter().filter(|ip| network.contains(*ip));
    let inside: BTreeSet<IpAddr> = inside.collect();
    let mut inside = inside.into_iter();
    match (inside.next(), inside.next()) {
        (Some(ip), None) => Ok(ip),
        (None, _) => Err(Failure::failed(format!(
            "no IP address configured on local node for network '{network}'"
        ))),
        (Some(_), Some(_)) => Err(Failure::failed(format!(
            "multiple, different, IP address configured for network '{network}'"
        ))),
    }
}

/// Tells the other side where to connect to, and waits for it.
fn accept(host: &Host, ip: IpAddr, output: &mut dyn Write) -> Outcome<TcpStream> {
    let listener = ports::listen(&host.paths, ip)?;
    let port = listener.local_addr().map_err(no_connection)?.port();
    say(output, &format!("{ip}\n{port}\n"))?;
    accept_within(&listener, PATIENCE)
}

fn accept_within(listener: &TcpListener, patience: Duration) -> Outcome<TcpStream> {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut waiting, timeout);
    match ready.map_err(io::Error::from).map_err(no_connection)? {
        0 => Err(Failure::failed(format!(
            "timed out waiting for client: nobody connected within {} seconds; look for a firewall \
             between the nodes",
            patience.as_secs()
        ))),
        _ => Ok(listener.accept().map_err(no_connection)?.0),
    }
}

fn no_connection(error: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("can not take the connection: {error}"))
}

/// Runs a command with a connection as its input.
fn run_with(mut command: Command, shown: &str, stream: TcpStream) -> Outcome {
    command.stdin(OwnedFd::from(stream));
    let child = command.spawn();
    // The command alone has the connection: it ends when the command does.
    let mut child = child.map_err(|error| Failure::failed(format!("'{shown}': {error}")))?;
    drop(command);
    let status = child.wait();
    let status = status.map_err(|error| Failure::failed(format!("'{shown}': {error}")))?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Failure::failed(format!("'{shown}': exit code {code}"))),
        (None, signal) => Err(Failure::failed(format!(
            "'{shown}': got signal {}",
            signal.unwrap_or_default()
        ))),
    }
}

/// Reads until the other side says that it is done, or is gone.
fn wait_for_quit(input: &mut dyn BufRead) -> Outcome {
    for line in input.split(b'\n') {
        match line {
            Ok(line) if line != b"quit" => {}
            Ok(_) => break,
            Err(error) => {
                return Err(Failure::failed(format!("can not read the input: {error}")));
            }
        }
    }
    Ok(())
}

fn say(output: &mut dyn Write, text: &str) -> Outcome {
    let written = output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush());
    written.map_err(|error| Failure::failed(format!("can not write the result: {error}")))
}

#[cfg(test)]
mod tests;
