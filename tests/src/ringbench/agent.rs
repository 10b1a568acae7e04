//! The client on a host: connects to the daemon there, does what the controller orders, and tells
//! what was delivered.
//!
//! One thread waits for orders and deliveries alike. It connects again by itself whenever the
//! daemon is gone.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::client::{Client, Delivery};
use super::protocol::{Event, HEADER_LEN, Header, Order};
use crate::member::{self, Sending};
use crate::wait::machine_clock;

/// Deliveries taken before orders and sending get their turn.
const TAKE: usize = 64;
/// Messages sent before deliveries get their turn.
const SEND: usize = 16;
/// The daemon tells nobody when it is ready, or takes messages again: look again after so long.
const RETRY_MS: u16 = 1;

/// Runs a client until the controller closes the connection.
///
/// # Errors
/// When the controller cannot be reached. Other errors are told to it.
pub fn run(id: usize, controller: &Path) -> Result<()> {
    member::serve(controller, move |stream| {
        let mut agent = Agent::new(stream)?;
        agent.tell(&Event::Hello { id })?;
        let Err(error) = agent.serve() else {
            return Ok(());
        };
        agent.tell(&Event::Failed {
            text: format!("{error:#}"),
        })?;
        Err(error)
    })
}

struct Agent {
    orders: BufReader<UnixStream>,
    events: UnixStream,
    client: Option<Client>,
    work: Work,
    count: Count,
    message: Vec<u8>,
}

/// What is being sent.
enum Work {
    Nothing,
    Ping {
        run: u32,
        left: u64,
        pause: Duration,
        next: Next,
        delays: Vec<u64>,
    },
    Flood {
        run: u32,
        sent: u64,
        ends_at: Duration,
        busy: bool,
    },
}

enum Next {
    At(Duration),
    AfterDelivery { seq: u64, sent: u64 },
}

/// Messages of the latest run.
#[derive(Default)]
struct Count {
    run: u32,
    delivered: u64,
    expected: Option<u64>,
    by_sender: BTreeMap<u32, u64>,
    digest: u64,
    last: u64,
    delays: Vec<u64>,
}

impl Count {
    fn begin(&mut self, run: u32) {
        if run > self.run {
            *self = Self {
                run,
                ..Self::default()
            };
        }
    }

    /// Takes a message; the order must be the sender's.
    fn add(&mut self, node: u32, header: &Header, now: u64) -> Result<()> {
        self.begin(header.run);
        ensure!(
            header.run == self.run,
            "a message of run {} was delivered in run {}",
            header.run,
            self.run
        );
        let next = self.by_sender.entry(node).or_default();
        ensure!(
            header.seq == *next,
            "message {} of node {node} was delivered in the place of {next}",
            header.seq
        );
        *next += 1;
        self.delivered += 1;
        self.last = now;
        let mark = u64::from(node) << 48 ^ header.seq;
        self.digest = (self.digest ^ mark).wrapping_mul(0x0100_0000_01b3);
        if header.timed {
            self.delays.push(now.saturating_sub(header.sent));
        }
        Ok(())
    }
}

impl Agent {
    fn new(stream: UnixStream) -> Result<Self> {
        Ok(Self {
            orders: BufReader::new(stream.try_clone()?),
            events: stream,
            client: None,
            work: Work::Nothing,
            count: Count::default(),
            message: Vec::new(),
        })
    }

    fn tell(&mut self, event: &Event) -> Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        Ok(self.events.write_all(&line)?)
    }

    fn serve(&mut self) -> Result<()> {
        loop {
            if self.client.is_none() {
                self.client = Client::join()?;
            }
            let is_order = self.wait()?;
            if is_order && !self.take_orders()? {
                return Ok(());
            }
            self.take_deliveries()?;
            self.send()?;
            self.report_complete()?;
        }
    }

    /// Returns whether there is an order.
    fn wait(&self) -> Result<bool> {
        let mut fds = vec![PollFd::new(self.events.as_fd(), PollFlags::POLLIN)];
        if let Some(client) = &self.client {
            fds.push(PollFd::new(client.fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, self.timeout()) {
            Ok(_) | Err(Errno::EINTR) => Ok(fds[0].any().unwrap_or(true)),
            Err(error) => Err(error.into()),
        }
    }

    fn timeout(&self) -> PollTimeout {
        if self.client.is_none() {
            return PollTimeout::from(RETRY_MS);
        }
        match &self.work {
            Work::Nothing
            | Work::Ping {
                next: Next::AfterDelivery { .. },
                ..
            } => PollTimeout::NONE,
            Work::Ping {
                next: Next::At(at), ..
            } => {
                let rest = at.saturating_sub(machine_clock());
                PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX)
            }
            Work::Flood { busy: false, .. } => PollTimeout::ZERO,
            Work::Flood { busy: true, .. } => PollTimeout::from(RETRY_MS),
        }
    }

    /// Returns whether the controller is still there.
    fn take_orders(&mut self) -> Result<bool> {
        loop {
            let mut line = String::new();
            if self.orders.read_line(&mut line)? == 0 {
                return Ok(false);
            }
            self.obey(serde_json::from_str(&line)?);
            if self.orders.buffer().is_empty() {
                return Ok(true);
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Ping {
                run,
                count,
                size,
                pause_ms,
            } => {
                self.message = vec![0xa5; size.max(HEADER_LEN)];
                let pause = Duration::from_millis(pause_ms);
                self.work = Work::Ping {
                    run,
                    left: count,
                    pause,
                    next: Next::At(machine_clock() + pause),
                    delays: Vec::new(),
                };
            }
            Order::Flood { run, size, ends_at } => {
                self.message = vec![0xa5; size.max(HEADER_LEN)];
                self.work = Work::Flood {
                    run,
                    sent: 0,
                    ends_at: Duration::from_nanos(ends_at),
                    busy: false,
                };
            }
            Order::Expect { run, total } => {
                self.count.begin(run);
                self.count.expected = Some(total);
            }
        }
    }

    fn take_deliveries(&mut self) -> Result<()> {
        let Some(client) = &self.client else {
            return Ok(());
        };
        let mut deliveries = Vec::new();
        let is_connected = client.take(TAKE, &mut deliveries)?;
        let now = nanos(machine_clock());
        for delivery in deliveries {
            match delivery {
                Delivery::Message { node, header } => {
                    let header = header?;
                    self.count.add(node, &header, now)?;
                    self.note_ping(&header, now);
                }
                Delivery::Members(count) => self.tell(&Event::Members { count, at: now })?,
            }
        }
        if !is_connected {
            self.client = None;
            self.tell(&Event::Lost)?;
        }
        Ok(())
    }

    fn note_ping(&mut self, header: &Header, now: u64) {
        let Work::Ping {
            run,
            left,
            pause,
            next,
            delays,
        } = &mut self.work
        else {
            return;
        };
        if let Next::AfterDelivery { seq, sent } = next
            && (header.run, header.seq) == (*run, *seq)
        {
            delays.push(now.saturating_sub(*sent));
            *left = left.saturating_sub(1);
            *next = Next::At(machine_clock() + *pause);
        }
    }

    fn send(&mut self) -> Result<()> {
        let Some(client) = &self.client else {
            return Ok(());
        };
        let event = match &mut self.work {
            Work::Nothing => None,
            Work::Ping {
                run,
                left: 0,
                delays,
                ..
            } => Some(Event::Pinged {
                run: *run,
                delays: std::mem::take(delays),
            }),
            Work::Ping {
                run, next, delays, ..
            } => {
                ping(client, &mut self.message, *run, delays.len(), next)?;
                None
            }
            Work::Flood {
                run, sent, ends_at, ..
            } if machine_clock() >= *ends_at => Some(Event::Sent {
                run: *run,
                count: *sent,
            }),
            Work::Flood {
                run, sent, busy, ..
            } => {
                *busy = flood(client, &mut self.message, *run, sent)? == Sending::Busy;
                None
            }
        };
        if let Some(event) = event {
            self.work = Work::Nothing;
            self.tell(&event)?;
        }
        Ok(())
    }

    fn report_complete(&mut self) -> Result<()> {
        if self
            .count
            .expected
            .is_none_or(|total| self.count.delivered < total)
        {
            return Ok(());
        }
        self.count.expected = None;
        let event = Event::Complete {
            run: self.count.run,
            at: self.count.last,
            digest: self.count.digest,
            delays: std::mem::take(&mut self.count.delays),
        };
        self.tell(&event)
    }
}

/// Sends the next message if its time has come. The time that the daemon lets it wait counts.
fn ping(client: &Client, message: &mut [u8], run: u32, done: usize, next: &mut Next) -> Result<()> {
    let now = machine_clock();
    let Next::At(at) = *next else {
        return Ok(());
    };
    if now < at {
        return Ok(());
    }
    let (seq, sent) = (u64::try_from(done)?, nanos(now));
    header(message, true, run, seq, sent)?.write(message);
    while send(client, message)? == Sending::Busy {
        thread::yield_now();
    }
    *next = Next::AfterDelivery { seq, sent };
    Ok(())
}

/// A measurement does not outlive its daemon.
fn send(client: &Client, message: &[u8]) -> Result<Sending> {
    let sending = client.send(message)?;
    ensure!(sending != Sending::Gone, "the daemon is gone");
    Ok(sending)
}

/// Sends some messages, until the daemon takes no more.
fn flood(client: &Client, message: &mut [u8], run: u32, sent: &mut u64) -> Result<Sending> {
    for _ in 0..SEND {
        header(message, false, run, *sent, 0)?.write(message);
        if send(client, message)? == Sending::Busy {
            return Ok(Sending::Busy);
        }
        *sent += 1;
    }
    Ok(Sending::Sent)
}

fn header(message: &[u8], timed: bool, run: u32, seq: u64, sent: u64) -> Result<Header> {
    Ok(Header {
        timed,
        run,
        size: u32::try_from(message.len())?,
        seq,
        sent,
    })
}

/// The clock as it goes over wires.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_of(run: u32, seq: u64) -> Header {
        header(&[0; 64], true, run, seq, 10).unwrap()
    }

    #[test]
    fn lost_and_doubled_messages_are_found() {
        let mut count = Count::default();
        count.add(1, &header_of(1, 0), 20).unwrap();
        assert!(count.add(1, &header_of(1, 2), 20).is_err());
        assert!(count.add(1, &header_of(1, 0), 20).is_err());
        count.add(2, &header_of(1, 0), 25).unwrap();
        assert_eq!((count.delivered, count.last), (2, 25));
        assert_eq!(count.delays, [10, 15]);
        count.add(1, &header_of(2, 0), 20).unwrap();
        assert_eq!(count.delivered, 1);
    }

    #[test]
    fn digests_tell_orders_apart() {
        let digest = |order: [u32; 2]| {
            let mut count = Count::default();
            for node in order {
                count.add(node, &header_of(1, 0), 20).unwrap();
            }
            count.digest
        };
        assert_ne!(digest([1, 2]), digest([2, 1]));
    }
}
