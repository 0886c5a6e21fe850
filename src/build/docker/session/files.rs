//! Files of the build context, one by one, as the engine asks for them (moby/buildkit, session/filesync; the messages
//! are those of tonistiigi/fsutil, receive.go): first every entry in the order of their paths, counted from 0; then, by
//! its number, the content of each file that the engine has not had yet.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::mpsc as asking;

use bollard::fsutil::types::packet::PacketType;
use bollard::fsutil::types::{Packet, Stat};
use bollard::moby::filesync::v1::file_sync_server::FileSync;
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::source::files::{ContextEntry, ContextFiles, EntryKind, Receiver, Wanted};

/// Messages that may wait for the engine: 2 MiB of files.
const WAITING: usize = 16;
/// The kinds of files, as Go's `io/fs.FileMode` has them.
const FOLDER: u32 = 1 << 31;
const LINK: u32 = 1 << 27;

/// What the engine is told of a context that cannot be given out. Where the build is at fault, the context's maker says
/// what is wrong.
pub(in super::super) const NOT_WHOLE: &str = "the build context is not whole";

pub(super) struct FilesOfBuild(pub(super) Option<ContextFiles>);

type Packets = Pin<Box<dyn Stream<Item = Result<Packet, Status>> + Send>>;

#[tonic::async_trait]
impl FileSync for FilesOfBuild {
    type DiffCopyStream = Packets;

    async fn diff_copy(&self, request: Request<Streaming<Packet>>) -> Result<Response<Packets>, Status> {
        let Some(files) = self.0.clone() else {
            return Err(Status::not_found("the context of this build is in the request"));
        };
        let wanted = wanted(request.metadata());
        let mut incoming = request.into_inner();
        let (ask, asked) = asking::channel();
        let (packets, mut sent) = mpsc::channel(WAITING);
        // Ends with the transfer, or with the connection.
        tokio::spawn(async move {
            while let Ok(Some(packet)) = incoming.message().await {
                match packet.r#type() {
                    PacketType::PacketReq if ask.send(packet.id).is_ok() => {}
                    PacketType::PacketErr => {
                        let reason = String::from_utf8_lossy(&packet.data);
                        tracing::debug!(%reason, "the docker engine does not take the context");
                        return;
                    }
                    _ => return,
                }
            }
        });
        let span = tracing::Span::current();
        tokio::task::spawn_blocking(move || {
            let _span = span.entered();
            let mut engine = Engine { asked, packets, is_whole: false };
            // What is wrong with it, says who makes the context.
            engine.is_whole = files.transfer(&wanted, &mut engine).is_ok();
        });
        let packets = stream::poll_fn(move |context| sent.poll_recv(context)).map(Ok);
        Ok(Response::new(Box::pin(packets)))
    }

    type TarStreamStream = Packets;

    async fn tar_stream(&self, _: Request<Streaming<Packet>>) -> Result<Response<Packets>, Status> {
        Err(Status::unimplemented("files are given out by DiffCopy"))
    }
}

/// What a request names. What it leaves out by patterns is known here already, and what it is not sure to name is all.
fn wanted(metadata: &MetadataMap) -> Wanted {
    let texts = |key: &str| {
        let values = metadata.get_all(key).iter();
        values.map(|value| value.to_str().map(str::to_owned).ok()).collect::<Option<Vec<_>>>()
    };
    if texts("dir-name").is_some_and(|names| names == ["dockerfile"]) {
        return Wanted::Dockerfile;
    }
    let is_plain = ["include-patterns", "followpaths-encoded"].iter().all(|key| !metadata.contains_key(*key));
    match texts("followpaths") {
        Some(paths) if is_plain && !paths.is_empty() => Wanted::Paths(paths),
        _ => Wanted::All,
    }
}

fn packet(kind: PacketType) -> Packet {
    Packet { r#type: kind.into(), ..Packet::default() }
}

/// The engine, from the thread that reads the files.
struct Engine {
    asked: asking::Receiver<u32>,
    packets: mpsc::Sender<Packet>,
    is_whole: bool,
}

/// The last packet, also when the reading has panicked: an engine must not take half a context for a whole one.
impl Drop for Engine {
    fn drop(&mut self) {
        let last = match self.is_whole {
            true => packet(PacketType::PacketFin),
            false => Packet { data: NOT_WHOLE.as_bytes().to_vec(), ..packet(PacketType::PacketErr) },
        };
        let _gone = self.packets.blocking_send(last);
    }
}

impl Engine {
    fn send(&self, packet: Packet) -> ControlFlow<()> {
        match self.packets.blocking_send(packet) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

impl Receiver for Engine {
    fn waits(&mut self) -> ControlFlow<()> {
        match self.packets.is_closed() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn entry(&mut self, entry: ContextEntry) -> ControlFlow<()> {
        self.send(Packet { stat: Some(stat(entry)), ..packet(PacketType::PacketStat) })
    }

    fn listed(&mut self) -> ControlFlow<()> {
        self.send(packet(PacketType::PacketStat))
    }

    fn asked(&mut self) -> Option<u32> {
        self.asked.recv().ok()
    }

    fn content(&mut self, number: u32, piece: &[u8]) -> ControlFlow<()> {
        self.send(Packet { id: number, data: piece.to_vec(), ..packet(PacketType::PacketData) })
    }
}

fn stat(entry: ContextEntry) -> Stat {
    let (mode, size, linkname) = match entry.kind {
        EntryKind::Folder => (FOLDER | 0o755, 0, String::new()),
        // The length that lstat(2) will give the engine, which compares it.
        EntryKind::Link { target } => (LINK | 0o777, target.len() as u64, target),
        EntryKind::File { size, executable: true } => (0o755, size, String::new()),
        EntryKind::File { size, executable: false } => (0o644, size, String::new()),
    };
    Stat {
        path: entry.path,
        mode,
        size: i64::try_from(size).unwrap_or(i64::MAX),
        // Nanoseconds; until the year 2262.
        mod_time: i64::try_from(entry.time).unwrap_or(i64::MAX).saturating_mul(1_000_000_000),
        linkname,
        ..Stat::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_for_all_where_a_request_may_mean_more() {
        let asked = |pairs: &[(&'static str, &'static [u8])]| {
            let mut metadata = MetadataMap::new();
            for (key, value) in pairs {
                let value = http::HeaderValue::from_bytes(value).unwrap();
                metadata.as_mut().append(http::HeaderName::from_static(key), value);
            }
            wanted(&metadata)
        };
        let paths = |paths: &[&str]| Wanted::Paths(paths.iter().map(|path| (*path).to_owned()).collect());
        let context: (_, &[u8]) = ("dir-name", b"context");
        assert_eq!(asked(&[("dir-name", b"dockerfile"), ("followpaths", b"Dockerfile")]), Wanted::Dockerfile);
        assert_eq!(asked(&[context, ("followpaths", b"a"), ("followpaths", b"b/c")]), paths(&["a", "b/c"]));
        for more in [
            &[context][..],
            &[context, ("exclude-patterns", b"x")],
            &[context, ("followpaths", b"a"), ("include-patterns", b"b")],
            &[context, ("followpaths", b"%C3%A9"), ("followpaths-encoded", b"1")],
            &[context, ("followpaths", b"a"), ("followpaths", "é".as_bytes())],
        ] {
            assert_eq!(asked(more), Wanted::All, "{more:?}");
        }
    }

    #[test]
    fn modes_are_those_of_go() {
        let of = |kind| stat(ContextEntry { path: "a".to_owned(), kind, time: 2 });
        assert_eq!(of(EntryKind::Folder).mode, 0o20_000_000_755);
        let link = of(EntryKind::Link { target: "é".to_owned() });
        assert_eq!((link.mode, link.size, link.linkname.as_str()), (0o1_000_000_777, 2, "é"));
        let file = of(EntryKind::File { size: 7, executable: true });
        assert_eq!((file.mode, file.size, file.mod_time), (0o755, 7, 2_000_000_000));
    }
}
