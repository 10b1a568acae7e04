//! The controller's end of the connection to a client.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};

use super::protocol::{Event, Order};
use crate::lab::Program;

/// A client, and all that it has told.
#[derive(Debug)]
pub struct Link {
    id: usize,
    orders: UnixStream,
    told: Arc<Mutex<Told>>,
    program: Option<Program>,
}

#[derive(Debug, Default)]
struct Told {
    events: Vec<Event>,
    view: Vec<u32>,
    failure: Option<String>,
}

impl Told {
    fn take(&mut self, event: Event) {
        match &event {
            Event::View { members, .. } => self.view.clone_from(members),
            Event::Ended => self.view.clear(),
            Event::Failed { text } => self.failure = Some(text.clone()),
            _ => {}
        }
        self.events.push(event);
    }
}

impl Link {
    /// Number of the host.
    #[must_use]
    pub fn id(&self) -> usize {
        self.id
    }

    /// Keeps the program for as long as the link.
    pub(super) fn keep(&mut self, program: Program) {
        self.program = Some(program);
    }

    pub(super) fn order(&mut self, order: &Order) -> Result<()> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        let written = self.orders.write_all(&line);
        written.with_context(|| format!("the client on n{} is gone", self.id))
    }

    /// How many events it has told.
    #[must_use]
    pub fn len(&self) -> usize {
        self.told().events.len()
    }

    /// Whether it has told nothing yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Events from this number on.
    ///
    /// # Errors
    /// When the client has failed.
    pub fn since(&self, from: usize) -> Result<Vec<Event>> {
        let told = self.told();
        if let Some(text) = &told.failure {
            bail!("the client on n{}: {text}", self.id);
        }
        Ok(told.events[from..].to_vec())
    }

    /// All events.
    #[must_use]
    pub fn all(&self) -> Vec<Event> {
        self.told().events.clone()
    }

    /// Nodes in the group now; none while it is no member.
    ///
    /// # Errors
    /// When the client has failed.
    pub fn view(&self) -> Result<Vec<u32>> {
        let told = self.told();
        if let Some(text) = &told.failure {
            bail!("the client on n{}: {text}", self.id);
        }
        Ok(told.view.clone())
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the connections of clients; each comes out once it has told who it is.
pub(super) fn listen(socket: &Path) -> Result<Receiver<Link>> {
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("cannot listen at {}", socket.display()))?;
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            thread::spawn(move || read_events(stream, &sender));
        }
    });
    Ok(receiver)
}

/// A receiver that is gone no longer cares.
fn read_events(stream: UnixStream, sender: &Sender<Link>) {
    let Ok(orders) = stream.try_clone() else {
        return;
    };
    let mut orders = Some(orders);
    let told = Arc::new(Mutex::new(Told::default()));
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        match (serde_json::from_str(&line), orders.take()) {
            (Ok(Event::Hello { id }), Some(orders)) => {
                let link = Link {
                    id,
                    orders,
                    told: Arc::clone(&told),
                    program: None,
                };
                drop(sender.send(link));
            }
            (Ok(event), _) => {
                told.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take(event);
            }
            (Err(_), _) => break,
        }
    }
}
