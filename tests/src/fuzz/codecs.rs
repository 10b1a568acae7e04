//! Decoders of corosync-lite: what they take, they give back.

use std::net::IpAddr;

use bytes::Bytes;
use corosync_lite::config::{Config, Document, Host, plan};
use corosync_lite::proto::knet::seal::{Cipher, Hash, Seal, Suite};
use corosync_lite::qb::wire::{Hello, RequestHeader, ResponseHeader, Welcome};
use corosync_lite::service::{cfg, cmap, cpg, quorum, votequorum};
use corosync_lite::wire::{exec, knet, pg, srp, sync};

use super::input::{Shape, shape};

/// A codec that decodes to a value, encodes it, and must decode that to the same value.
macro_rules! round_trip {
    ($decoded:expr, $encode:expr, $again:expr) => {{
        let decoded = $decoded;
        if let Ok(value) = &decoded {
            let bytes = $encode(value);
            assert_eq!($again(&bytes).as_ref(), Ok(value), "{bytes:02x?}");
        }
        shape(&decoded)
    }};
}

/// Datagrams of the transport, opened.
pub(super) fn transport(input: &[u8]) -> u64 {
    let encode = |packet: &knet::Packet<'_>| {
        let mut out = Vec::new();
        packet.encode(&mut out);
        out
    };
    let decoded = knet::Packet::decode(input);
    if let Ok(packet) = &decoded {
        let bytes = encode(packet);
        assert_eq!(knet::Packet::decode(&bytes).as_ref(), Ok(packet));
    }
    shape(&decoded)
}

/// Messages of the ring protocol.
pub(super) fn ring(input: &[u8]) -> u64 {
    let input = Bytes::copy_from_slice(input);
    round_trip!(
        srp::Message::decode(&input),
        srp::Message::encode,
        srp::Message::decode
    )
}

/// Frames, and what their pieces say.
pub(super) fn frames(input: &[u8]) -> u64 {
    let bytes = Bytes::copy_from_slice(input);
    let mut shape = Shape::default();
    let frame = pg::Frame::decode(&bytes);
    if let Ok(frame) = &frame {
        let mut out = Vec::new();
        frame.encode(&mut out).expect("what was decoded fits");
        assert_eq!(out, input, "a frame has one encoding");
        for piece in &frame.pieces {
            shape.note(&pieces(piece));
        }
    }
    shape.note(&frame);
    shape.note(&pieces(&bytes));
    shape.finish()
}

fn pieces(bytes: &Bytes) -> Option<u64> {
    let message = pg::Message::decode(bytes).ok()?;
    let mut out = Vec::new();
    message.encode(&mut out).expect("what was decoded fits");
    assert_eq!(&out, bytes, "a message has one encoding");
    Some(services(&message.body) ^ barriers(&message.body))
}

/// Messages between services.
pub(super) fn services(input: &[u8]) -> u64 {
    let input = Bytes::copy_from_slice(input);
    let encode = |message: &exec::Message| {
        let mut out = Vec::new();
        message.encode(&mut out);
        Bytes::from(out)
    };
    round_trip!(exec::Message::decode(&input), encode, exec::Message::decode)
}

/// Messages of the sync phase.
pub(super) fn barriers(input: &[u8]) -> u64 {
    let input = Bytes::copy_from_slice(input);
    let encode = |message: &sync::Message| {
        let mut out = Vec::new();
        message.encode(&mut out);
        Bytes::from(out)
    };
    round_trip!(sync::Message::decode(&input), encode, sync::Message::decode)
}

/// Requests of local clients; the first byte is the service.
pub(super) fn requests(input: &[u8]) -> u64 {
    let Some((service, message)) = input.split_first() else {
        return 0;
    };
    let message = Bytes::copy_from_slice(message);
    let head = RequestHeader::split(&message).map(|(header, _)| header);
    let hello = Hello::decode(&message).map(|hello| Hello::decode(&hello.encode()) == Ok(hello));
    assert_ne!(hello, Ok(false));
    let outcome = match service % 5 {
        0 => round_trip!(
            cfg::Request::decode(&message),
            cfg::Request::encode,
            |it: &Vec<u8>| { cfg::Request::decode(it) }
        ),
        1 => round_trip!(
            cmap::Request::decode(&message),
            cmap::Request::encode,
            |it: &Vec<u8>| { cmap::Request::decode(it) }
        ),
        2 => round_trip!(
            cpg::Request::decode(&message),
            cpg::Request::encode,
            |it: &Vec<u8>| { cpg::Request::decode(&Bytes::copy_from_slice(it)) }
        ),
        3 => round_trip!(
            quorum::Request::decode(&message),
            quorum::Request::encode,
            |it: &Vec<u8>| quorum::Request::decode(it)
        ),
        _ => round_trip!(
            votequorum::Request::decode(&message),
            votequorum::Request::encode,
            |it: &Vec<u8>| votequorum::Request::decode(it)
        ),
    };
    outcome ^ shape(&(service % 5, head.is_ok(), hello.is_ok()))
}

/// Responses and events that a local client gets; the first byte is the service.
pub(super) fn answers(input: &[u8]) -> u64 {
    let Some((service, message)) = input.split_first() else {
        return 0;
    };
    let message = Bytes::copy_from_slice(message);
    let mut outcome = Shape::default();
    outcome.note(&Welcome::decode(&message).map(|it| Welcome::decode(&it.encode()) == Ok(it)));
    outcome.note(&ResponseHeader::decode(&message).is_ok());
    macro_rules! both {
        ($service:ident) => {{
            let response = round_trip!(
                $service::Response::decode(&message),
                |it: &$service::Response| Bytes::from(it.encode().to_bytes()),
                $service::Response::decode
            );
            let event = round_trip!(
                $service::Event::decode(&message),
                |it: &$service::Event| Bytes::from(it.encode().to_bytes()),
                $service::Event::decode
            );
            (response, event)
        }};
    }
    let kind = match service % 5 {
        0 => both!(cfg),
        1 => both!(cmap),
        2 => both!(cpg),
        3 => both!(quorum),
        _ => both!(votequorum),
    };
    outcome.finish() ^ kind.0 ^ kind.1.rotate_left(1)
}

/// Opening of sealed datagrams; the first byte says how they are sealed.
pub(super) fn seals(input: &[u8]) -> u64 {
    let Some((choice, datagram)) = input.split_first() else {
        return 0;
    };
    let ciphers = [Cipher::None, Cipher::Aes128, Cipher::Aes192, Cipher::Aes256];
    let hashes = [
        Hash::Md5,
        Hash::Sha1,
        Hash::Sha256,
        Hash::Sha384,
        Hash::Sha512,
    ];
    let cipher = ciphers[usize::from(choice & 3)];
    let hash = hashes[usize::from(choice >> 2) % hashes.len()];
    let key: Vec<u8> = (0..=255).collect();
    let Ok(suite) = Suite::new(cipher, hash, &key) else {
        return shape(&(choice, "refused"));
    };
    let mut seal = Seal::new(suite, [7; 32]);
    let mut out = Vec::new();
    assert!(
        seal.open(datagram, &mut out).is_none(),
        "a datagram was forged"
    );
    let mut sealed = Vec::new();
    let write = |out: &mut Vec<u8>| out.extend_from_slice(datagram);
    if seal.seal(&mut sealed, write).is_ok() {
        assert!(seal.open(&sealed, &mut out).is_some() && out == datagram);
        for cut in [1, sealed.len() / 2, sealed.len() - 1] {
            assert!(seal.open(&sealed[cut..], &mut out).is_none());
        }
    }
    shape(&(cipher, hash))
}

/// `corosync.conf`: lossless, and a change of it from the first half to the second one.
pub(super) fn configuration(input: &[u8]) -> u64 {
    let mut outcome = Shape::default();
    let document = Document::parse(input);
    if let Ok(document) = &document {
        assert_eq!(document.print(), input, "the text was not kept");
    }
    outcome.note(&document.as_ref().err());
    let config = Config::read(input, &Machine);
    outcome.note(&config.as_ref().err());
    if let Err(error) = &config {
        // Texts for users are made from hostile input, too.
        outcome.note(&error.render("corosync.conf").is_empty());
        outcome.note(&error.original_message("corosync.conf").is_empty());
    }
    let base = Config::read(BASE.as_bytes(), &Machine).expect("a good text");
    if let Ok(config) = config {
        outcome.note(&plan(&base, config.keys.clone(), &Machine).is_ok());
        outcome.note(&plan(&config, base.keys.clone(), &Machine).is_ok());
    }
    outcome.finish()
}

const BASE: &str = "totem {\nversion: 2\ncluster_name: t\ntransport: knet\n}\nquorum {\n\
    provider: corosync_votequorum\n}\nnodelist {\nnode {\nname: n1\nnodeid: 1\n\
    ring0_addr: 10.77.0.1\n}\nnode {\nname: n2\nnodeid: 2\nring0_addr: 10.77.0.2\n}\n}\n";

/// The machine of the captured cases.
struct Machine;

impl Host for Machine {
    fn name(&self) -> String {
        "n1".to_owned()
    }

    fn addresses(&self) -> Vec<IpAddr> {
        [[127, 0, 0, 1], [10, 77, 0, 1], [10, 77, 1, 1]]
            .map(IpAddr::from)
            .to_vec()
    }

    fn user_id(&self, name: &str) -> Option<u32> {
        (name == "hacluster").then_some(189)
    }

    fn group_id(&self, name: &str) -> Option<u32> {
        (name == "haclient").then_some(189)
    }

    fn read_key(&self, path: &str) -> Result<Vec<u8>, String> {
        match path {
            "/etc/corosync/authkey" => Ok(vec![7; 256]),
            _ => Err("No such file or directory".to_owned()),
        }
    }
}
