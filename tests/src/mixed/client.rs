//! The client on a host: a member of the group there, which does what the controller orders and
//! tells all that is delivered.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::protocol::{Event, Order, Print};
use crate::member::{self, Member, Sending};
use crate::wait::now;

/// Deliveries taken before orders and sending get their turn.
const TAKE: usize = 64;
/// Messages sent before deliveries get their turn.
const SEND: usize = 16;
/// The daemon tells nobody when it is ready, or takes messages again: look again after so long.
const RETRY_MS: u16 = 5;
/// Shortest message of a load: long enough that no two are equal.
const LOAD_SHORTEST: usize = 16;

/// Runs a client until the controller closes the connection.
///
/// # Errors
/// When the controller cannot be reached. Other errors are told to it.
pub fn run(id: usize, controller: &Path) -> Result<()> {
    member::serve(controller, move |stream| {
        let mut client = Client::new(id, stream)?;
        let Err(error) = client.serve() else {
            return Ok(());
        };
        let text = format!("{error:#}");
        client.tell(&Event::Failed { text })?;
        client.told.flush()?;
        Err(error)
    })
}

struct Client {
    orders: BufReader<UnixStream>,
    told: BufWriter<UnixStream>,
    member: Option<Member<Event>>,
    wants_to_be_member: bool,
    /// Sizes of messages that are to be sent.
    queue: VecDeque<usize>,
    load: Option<Load>,
    random: Random,
}

struct Load {
    longest: usize,
    pause: Duration,
    next: Instant,
}

/// Numbers that differ between clients and between messages (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn message(&mut self, len: usize) -> Vec<u8> {
        let words = len.div_ceil(8);
        let mut bytes = Vec::with_capacity(words * 8);
        for _ in 0..words {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// A length up to `longest`; short ones are as likely as long ones of a size class.
    fn length(&mut self, longest: usize) -> usize {
        let bits = longest.max(1).ilog2();
        let class = u32::try_from(self.next() % u64::from(bits + 1)).unwrap_or(0);
        let limit = u64::try_from(longest.min(2 << class)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % limit.max(1)).unwrap_or(0) + 1
    }
}

impl Client {
    fn new(id: usize, stream: UnixStream) -> Result<Self> {
        let mut client = Self {
            orders: BufReader::new(stream.try_clone()?),
            told: BufWriter::new(stream),
            member: None,
            wants_to_be_member: false,
            queue: VecDeque::new(),
            load: None,
            random: Random(u64::try_from(id)? << 32 | u64::from(std::process::id())),
        };
        client.tell(&Event::Hello { id })?;
        Ok(client)
    }

    fn tell(&mut self, event: &Event) -> Result<()> {
        serde_json::to_writer(&mut self.told, event)?;
        Ok(self.told.write_all(b"\n")?)
    }

    fn serve(&mut self) -> Result<()> {
        loop {
            self.told.flush()?;
            if self.wants_to_be_member && self.member.is_none() {
                self.member = Member::join()?;
                if self.member.is_some() {
                    self.tell(&Event::Joined)?;
                }
            }
            let is_order = self.wait()?;
            if is_order && !self.take_orders()? {
                return Ok(());
            }
            self.take_deliveries()?;
            self.send()?;
        }
    }

    /// Returns whether there is an order.
    fn wait(&self) -> Result<bool> {
        let mut fds = vec![PollFd::new(
            self.orders.get_ref().as_fd(),
            PollFlags::POLLIN,
        )];
        if let Some(member) = &self.member {
            fds.push(PollFd::new(member.fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, self.timeout()) {
            Ok(_) | Err(Errno::EINTR) => Ok(fds[0].any().unwrap_or(true)),
            Err(error) => Err(error.into()),
        }
    }

    fn timeout(&self) -> PollTimeout {
        if self.member.is_none() && !self.wants_to_be_member {
            return PollTimeout::NONE;
        }
        if self.member.is_none() || !self.queue.is_empty() {
            return PollTimeout::from(RETRY_MS);
        }
        match &self.load {
            None => PollTimeout::NONE,
            Some(load) => {
                let rest = load.next.saturating_duration_since(now());
                PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX)
            }
        }
    }

    /// Returns whether the controller is still there.
    fn take_orders(&mut self) -> Result<bool> {
        loop {
            let mut line = String::new();
            if self.orders.read_line(&mut line)? == 0 {
                return Ok(false);
            }
            self.obey(serde_json::from_str(&line)?)?;
            if self.orders.buffer().is_empty() {
                return Ok(true);
            }
        }
    }

    fn obey(&mut self, order: Order) -> Result<()> {
        match order {
            Order::Join => self.wants_to_be_member = true,
            Order::Leave => {
                self.wants_to_be_member = false;
                if let Some(member) = self.member.take() {
                    member.leave();
                    self.tell(&Event::Ended)?;
                }
            }
            Order::Send { sizes } => self.queue.extend(sizes),
            Order::Load { longest, pause_us } => {
                self.load = Some(Load {
                    longest,
                    pause: Duration::from_micros(pause_us),
                    next: now(),
                });
            }
            Order::Quiet => self.load = None,
        }
        Ok(())
    }

    fn take_deliveries(&mut self) -> Result<()> {
        let Some(member) = &self.member else {
            return Ok(());
        };
        let mut events = Vec::new();
        let is_connected = member.take(TAKE, &mut events)?;
        for event in &events {
            self.tell(event)?;
        }
        if !is_connected {
            self.member = None;
            self.queue.clear();
            self.tell(&Event::Ended)?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        for _ in 0..SEND {
            let len = match (self.queue.front(), &self.load) {
                (Some(len), _) => *len,
                (None, Some(load)) if load.next <= now() => {
                    let longest = load.longest;
                    self.random.length(longest).max(LOAD_SHORTEST)
                }
                (None, _) => break,
            };
            let Some(member) = &self.member else { break };
            let message = self.random.message(len);
            // That the daemon is gone, taking tells.
            if member.send(&message)? != Sending::Sent {
                break;
            }
            if self.queue.pop_front().is_none()
                && let Some(load) = &mut self.load
            {
                load.next = now() + load.pause;
            }
            self.tell(&Event::Sent(Print::of(&message)))?;
        }
        Ok(())
    }
}
