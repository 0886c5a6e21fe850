//! What a hostile event or git server tries: each attempt has its test, and reaches nothing.

use std::io::Write as _;
use std::time::Duration;

use buildgrid::event::result::{Kind, State};
use buildgrid::source::Fault;

use super::{Fetcher, git_server};
use crate::commit::event;
use crate::support::docker;
use crate::support::git_proxy::{GitProxy, Reaction};
use crate::support::grid::{TestGrid, files};

const COMMIT: &str = "9fceb02d0ae598e95dc970b74767f19372d61af8";

#[tokio::test(flavor = "multi_thread")]
async fn hostile_urls_reach_nothing() {
    // None of them is on the network; what is asked for on loopback would be heard here.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let local = tempfile::tempdir().unwrap();
    let local = local.path().display();
    let grid = TestGrid::with(|config| config.engine.host = docker::host()).await;
    for (number, (url, reason)) in [
        ("ext::sh -c id".to_owned(), "space"),
        (format!("ext::sh%20-c%20touch%20{local}/x"), "scheme"),
        (format!("file://{local}"), "scheme"),
        (local.to_string(), "cannot be read"),
        ("../storefront".to_owned(), "'..'"),
        ("--upload-pack=id".to_owned(), "cannot be read"),
        ("-oProxyCommand=id:x".to_owned(), ""),
        ("ssh://-oProxyCommand=id/x".to_owned(), "begins with a dash"),
        ("ssh://git@-oProxyCommand=id/x".to_owned(), "begins with a dash"),
        ("git@-oProxyCommand=id:x".to_owned(), "begins with a dash"),
        (format!("https://me:hunter2@127.0.0.1:{port}/x"), "credentials"),
        ("ssh://git:hunter2@host/x".to_owned(), "credentials"),
        (format!("http://127.0.0.1:{port}/x\\nHost: y"), "control"),
        (format!("http://127.0.0.1:{port}/x\\r\\n\\r\\nGET /"), "control"),
        (format!("git://127.0.0.1:{port}/x"), "scheme"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("url-{number}");
        grid.publish(event(&id, &url, COMMIT, "{}")).await;
        let rejected = grid.end(&id).await;
        assert_eq!((rejected.state, rejected.kind), (State::Rejected, Some(Kind::Event)), "{url}");
        let said = rejected.reason.unwrap();
        assert!(said.starts_with("repository.url: ") && said.contains(reason), "{url}: {said}");
        assert!(!said.contains("hunter2") && !said.contains(char::is_control), "{said:?}");
        assert_eq!(grid.dead_letter().await.reason, said);
    }
    for (number, host) in [
        "169.254.169.254",
        "[fe80::1]",
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "10.0.0.1",
        "0.0.0.0",
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("address-{number}");
        grid.publish(event(&id, &format!("http://{host}:{port}/x.git"), COMMIT, "{}")).await;
        let failed = grid.end(&id).await;
        assert_eq!((failed.state, failed.kind), (State::Failed, Some(Kind::Build)), "{host}");
        let said = failed.reason.unwrap();
        assert!(said.contains("source.allow_private_addresses"), "{host}: {said}");
    }
    assert!(listener.accept().is_err(), "a connection was made");
    assert_eq!(std::fs::read_dir(local.to_string()).unwrap().count(), 0, "a command was run");
    grid.finish().await;
}

/// The packets of a git server's answer; a flush is an empty one.
fn packets(answer: &[u8]) -> Vec<Vec<u8>> {
    let (mut packets, mut rest) = (Vec::new(), answer);
    while rest.len() >= 4 {
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..4]).unwrap(), 16).unwrap().max(4);
        packets.push(rest[4..length].to_vec());
        rest = &rest[length..];
    }
    packets
}

fn joined(packets: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut answer = Vec::new();
    for packet in packets {
        match packet.len() {
            0 => answer.extend(b"0000"),
            length => write!(answer, "{:04x}", length + 4).unwrap(),
        }
        answer.extend(packet);
    }
    answer
}

/// A packet of a side band: 1 is the pack, 2 what the server tells the user, 3 its last words.
fn band(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number], content].concat()
}

/// The answer up to where the pack begins, and the rest.
fn before_pack(answer: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut head = packets(answer);
    let pack = head.iter().position(|packet| matches!(packet.first(), Some(1 | 2))).unwrap_or(head.len());
    let rest = head.split_off(pack);
    (head, rest)
}

const TRICKS: &[u8] = b"\x1b[2J\x1b]0;owned\x07\x1b]52;c;aWQ=\x07\rfatal: \x1b[8mhidden\xe2\x80\xae\n";

#[tokio::test]
async fn what_a_server_says_beside_the_pack_is_harmless() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\n");
    let commit = repository.commit("One");
    let telling = GitProxy::start(&server.url, |request| match request.is_for_objects() {
        true => Reaction::Edit(Box::new(|answer| {
            let (head, rest) = before_pack(&answer);
            joined(head.into_iter().chain([band(2, TRICKS)]).chain(rest))
        })),
        false => Reaction::Pass,
    })
    .await;
    let fetcher = Fetcher::new();
    fetcher.fetch(&format!("{}/x.git", telling.url), &commit).await.unwrap();
    let log = fetcher.log_up_to("received").await.join("\n");
    assert!(!log.contains("owned") && !log.contains('\u{1b}'), "{log:?}");

    let dying = GitProxy::start(&server.url, |request| match request.is_for_objects() {
        true => Reaction::Edit(Box::new(|answer| {
            let (head, _) = before_pack(&answer);
            joined(head.into_iter().chain([band(3, TRICKS)]))
        })),
        false => Reaction::Pass,
    })
    .await;
    let refusing = GitProxy::start(&server.url, |request| match request.is_for_objects() {
        true => Reaction::refusal(std::str::from_utf8(TRICKS).unwrap()),
        false => Reaction::Pass,
    })
    .await;
    for proxy in [&dying, &refusing] {
        let error = Fetcher::new().fetch(&format!("{}/x.git", proxy.url), &commit).await.unwrap_err();
        assert!(!error.to_string().contains(char::is_control), "{:?}", error.to_string());
    }
}

/// The beginning of a pack with one file of ten GiB: its first 64 MiB, which are zeros.
fn ten_gib() -> Vec<u8> {
    let mut pack = b"PACK\0\0\0\x02\0\0\0\x01".to_vec();
    let size = 10_u64 << 30;
    // Type 3 is a blob; the length has its lowest four bits here, and seven in each further byte.
    let (mut byte, mut rest) = ((3 << 4) | (size & 15) as u8, size >> 4);
    while rest > 0 {
        pack.push(byte | 0x80);
        (byte, rest) = ((rest & 0x7f) as u8, rest >> 7);
    }
    pack.push(byte);
    let mut content = flate2::write::ZlibEncoder::new(pack, flate2::Compression::fast());
    content.write_all(&vec![0; 64 << 20]).unwrap();
    content.flush().unwrap();
    content.get_ref().clone()
}

#[tokio::test]
async fn a_pack_of_ten_gib_that_is_cut_short_leaves_nothing() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\n");
    let commit = repository.commit("One");
    let cut = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let cuts = std::sync::Arc::clone(&cut);
    let proxy = GitProxy::start(&server.url, move |request| {
        match request.is_for_objects() && cuts.load(std::sync::atomic::Ordering::SeqCst) {
            true => Reaction::Edit(Box::new(|answer| {
                let (head, _) = before_pack(&answer);
                let pack = ten_gib();
                joined(head.into_iter().chain(pack.chunks(8000).map(|piece| band(1, piece))))
            })),
            false => Reaction::Pass,
        }
    })
    .await;
    let fetcher = Fetcher::new();
    let url = format!("{}/x.git", proxy.url);
    let fetch = tokio::time::timeout(Duration::from_secs(30), fetcher.fetch(&url, &commit));
    let error = fetch.await.expect("it ends").unwrap_err();
    assert_eq!(error.fault(), Fault::Infrastructure, "{error}");
    let bytes: u64 = files(fetcher.mirrors.path()).iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes < 1 << 20, "{bytes} bytes are left of it");
    cut.store(false, std::sync::atomic::Ordering::SeqCst);
    fetcher.fetch(&url, &commit).await.unwrap();
}
