//! A TCP proxy that breaks: it stands before a service and cuts, freezes, delays or throttles every connection
//! through it, or swallows what is said.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Connections are closed, new ones at once.
    Cut,
    /// Connections stay open, new ones are accepted, and no byte passes.
    Frozen,
    /// Requests pass; of the answers, so many in a hundred do not, and their connections are closed.
    Swallow(u8),
    /// Answers come so much later.
    Delayed(Duration),
    /// So many bytes a second pass, each way.
    Throttled(u32),
    /// What is said by clients that had this word in their first kilobytes is lost, and they hear on.
    Mute(&'static str),
}

/// How much of a client's words is looked through.
const FIRST: usize = 8 * 1024;
/// Pieces in which a throttled second passes.
const PIECES: u32 = 20;

/// It ends, and what goes through it, when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, watched) = watch::channel(Mode::Pass);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target.clone(), watched.clone()));
            }
        });
        Self { address, mode, accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.set(Mode::Cut);
    }
}

async fn carry(client: TcpStream, target: String, mode: watch::Receiver<Mode>) {
    if *mode.borrow() == Mode::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(&target).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, mode.clone(), Way::There) => {}
        () = pump(from_server, to_client, mode, Way::Back) => {}
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

/// Passes bytes on until one side ends or the proxy cuts.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>, way: Way) {
    let mut buffer = vec![0; 64 * 1024];
    let mut first = Vec::new();
    loop {
        let now = *mode.borrow_and_update();
        let most = match now {
            Mode::Throttled(rate) => (rate / PIECES).max(1) as usize,
            _ => buffer.len(),
        };
        let read = tokio::select! {
            changed = mode.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            read = from.read(&mut buffer[..most]), if !matches!(now, Mode::Cut | Mode::Frozen) => read,
            () = std::future::ready(()), if now == Mode::Cut => return,
        };
        match now {
            Mode::Swallow(percent) if way == Way::Back && rand::random_range(0..100) < percent => return,
            Mode::Delayed(delay) if way == Way::Back => tokio::time::sleep(delay).await,
            Mode::Throttled(_) => tokio::time::sleep(Duration::from_secs(1) / PIECES).await,
            _ => {}
        }
        let Ok(length @ 1..) = read else { return };
        let said = &buffer[..length];
        if way == Way::There && first.len() < FIRST {
            first.extend_from_slice(said);
        }
        match now {
            Mode::Mute(word) if has(&first, word) => {}
            _ if to.write_all(said).await.is_ok() => {}
            _ => return,
        }
    }
}

fn has(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|part| part == word.as_bytes())
}
