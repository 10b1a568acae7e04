//! Whether other nodes can be reached from the addresses that this one is going to use.
//!
//! The ring uses UDP, which answers nobody who is not in it. What can be tried is TCP: a connection
//! that is made or refused shows that packets go there and back on that network.

use std::future::Future;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use super::client::PORT;

/// Time for an answer; a neighbour that is not there is given up by the kernel after three seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether somebody wants it to end.
const INTERVAL: Duration = Duration::from_millis(100);

/// What came of trying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// There was an answer.
    Answered,
    /// No answer: a firewall may be in between, or nobody is there.
    Silent,
    /// There is no way.
    NoWay(String),
}

/// Tries all pairs at once: from the first address to the second.
#[must_use]
pub fn all(pairs: &[(IpAddr, IpAddr)], interrupted: &dyn Fn() -> bool) -> Vec<Reach> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return vec![Reach::Silent; pairs.len()];
    };
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for (position, (from, to)) in pairs.iter().copied().enumerate() {
            tasks.spawn(async move {
                let tried: Pin<Box<dyn Future<Output = Reach> + Send>> = Box::pin(one(from, to));
                let answer = tokio::time::timeout(PATIENCE, tried).await;
                (position, answer.unwrap_or(Reach::Silent))
            });
        }
        let mut found = vec![Reach::Silent; pairs.len()];
        while !tasks.is_empty() && !interrupted() {
            if let Ok(Some(Ok((position, reach)))) =
                tokio::time::timeout(INTERVAL, tasks.join_next()).await
                && let Some(place) = found.get_mut(position)
            {
                *place = reach;
            }
        }
        found
    })
}

async fn one(from: IpAddr, to: IpAddr) -> Reach {
    let socket = match to {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    };
    let connected = match socket.and_then(|socket| {
        socket.bind(SocketAddr::new(from, 0))?;
        Ok(socket)
    }) {
        Ok(socket) => socket.connect(SocketAddr::new(to, PORT)).await,
        Err(error) => Err(error),
    };
    match connected {
        Ok(_) => Reach::Answered,
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Reach::Answered,
            ErrorKind::TimedOut => Reach::Silent,
            _ => Reach::NoWay(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connection_is_an_answer_and_a_foreign_address_no_way() {
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        let foreign: IpAddr = "192.0.2.1".parse().unwrap();
        let found = all(&[(here, here), (foreign, here)], &|| false);
        assert_eq!(found[0], Reach::Answered);
        assert!(matches!(found[1], Reach::NoWay(_)), "{found:?}");
    }
}
