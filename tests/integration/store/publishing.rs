//! Images of several builds into one store, at once.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buildgrid::build::engine::{BuiltImage, Layers};
use buildgrid::publish::config::PublishConfig;
use buildgrid::publish::publisher::{Publication, Publisher};
use buildgrid::store::digest::Digest;
use buildgrid::store::{Store, StoreConfig, TagPut};
use buildgrid::telemetry::pulse::Pulse;
use buildgrid::timeline::mask::Mask;
use buildgrid::timeline::sink::LogSink;
use tokio_util::sync::CancellationToken;

use crate::support::image::image_name;

/// One layer that takes a while to read; says how often it was opened.
struct Slow {
    bytes: Arc<[u8]>,
    opened: Arc<AtomicUsize>,
}

impl Layers for Slow {
    fn open(&self, _: usize) -> io::Result<Box<dyn Read + Send>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(300));
        Ok(Box::new(io::Cursor::new(self.bytes.clone())))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_at_once_compress_a_layer_that_they_share_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&StoreConfig::at(folder.path().to_owned())).unwrap();
    let publisher = Publisher::new(&PublishConfig::default(), store);
    let (bytes, opened): (Arc<[u8]>, _) = (vec![7; 100_000].into(), Arc::new(AtomicUsize::new(0)));
    let builds = (0..4).map(|number| {
        // Of each after the first as if the configuration had been read again.
        let publisher =
            if number == 0 { publisher.clone() } else { publisher.configured(&PublishConfig::default()) };
        let layers = Slow { bytes: bytes.clone(), opened: opened.clone() };
        let image =
            BuiltImage::new(format!("{{\"n\":{number}}}").into_bytes(), vec![Digest::of(&bytes)], layers);
        tokio::spawn(async move {
            let (log, mut lines) = LogSink::channel(Mask::none());
            tokio::spawn(async move { while lines.recv().await.is_some() {} });
            let name = image_name("acme/shop.storefront", &number.to_string());
            let publication = Publication {
                name: &name,
                definition: Digest::of(b"definition"),
                annotations: BTreeMap::new(),
                put: TagPut::IfAbsent,
                has_quota: false,
            };
            let (cancel, pulse) = (CancellationToken::new(), Pulse::default());
            publisher.publish(Arc::new(image), publication, &log, &cancel, &pulse).await.unwrap()
        })
    });
    let published = futures::future::join_all(builds).await;
    assert!(published.into_iter().all(|image| !image.unwrap().reused));
    assert_eq!(opened.load(Ordering::Relaxed), 1);
}
