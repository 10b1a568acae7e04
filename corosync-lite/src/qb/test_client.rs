//! A client that does what it is told, also what no correct client does.

use std::io::{Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;

use nix::sys::socket::{setsockopt, sockopt};

use super::ring::Ring;
use super::wire::{Channels, HELLO_LEN, Hello, RequestHeader, WELCOME_LEN, Welcome};

pub(super) struct Client {
    pub(super) stream: UnixStream,
    pub(super) channels: Option<Channels>,
    pub(super) request: Option<Ring>,
    pub(super) response: Option<Ring>,
    pub(super) event: Option<Ring>,
}

impl Client {
    /// Connects without sending anything.
    pub(super) fn connect(service: &str) -> Self {
        let mut name = service.as_bytes().to_vec();
        name.resize(107, 0);
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let stream = UnixStream::connect_addr(&address).unwrap();
        setsockopt(&stream, sockopt::PassCred, &true).unwrap();
        Self {
            stream,
            channels: None,
            request: None,
            response: None,
            event: None,
        }
    }

    pub(super) fn hello(service: &str, max_message: u32) -> Self {
        let mut client = Self::connect(service);
        let hello: [u8; HELLO_LEN] = Hello { max_message }.encode();
        client.stream.write_all(&hello).unwrap();
        client
    }

    /// Reads the answer and opens the channels; the error when refused.
    pub(super) fn open(&mut self) -> Result<(), i32> {
        let mut answer = vec![0; WELCOME_LEN];
        self.stream.read_exact(&mut answer).unwrap();
        let channels = match Welcome::decode(&answer).unwrap() {
            Welcome::Refused(error) => return Err(error),
            Welcome::Accepted(channels) => channels,
        };
        let ring =
            |name: &str| Some(Ring::open(&PathBuf::from(name), channels.max_message).unwrap());
        self.request = ring(&channels.request);
        self.response = ring(&channels.response);
        self.event = ring(&channels.event);
        self.channels = Some(channels);
        Ok(())
    }

    /// Sends a request with a correct head; false when there is no room.
    pub(super) fn send(&mut self, id: i32, data: &[u8]) -> bool {
        let size = i32::try_from(16 + data.len()).unwrap();
        self.send_raw(&[&RequestHeader { id, size }.encode(), data])
    }

    pub(super) fn send_raw(&mut self, parts: &[&[u8]]) -> bool {
        let put = self.request.as_mut().unwrap().put(parts).unwrap();
        if put {
            self.stream.write_all(b"x").ok();
        }
        put
    }

    pub(super) fn response(&mut self) -> Option<Vec<u8>> {
        let mut message = Vec::new();
        self.response
            .as_mut()
            .unwrap()
            .take(&mut message)
            .unwrap()
            .then_some(message)
    }

    /// Takes an event and its doorbell.
    pub(super) fn event(&mut self) -> Option<Vec<u8>> {
        let mut message = Vec::new();
        let taken = self.event.as_mut().unwrap().take(&mut message).unwrap();
        if taken {
            self.stream.read_exact(&mut [0]).unwrap();
        }
        taken.then_some(message)
    }
}
