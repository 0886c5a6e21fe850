//! The keeper of the store: goes round when it is time, whichever of the workers that share the store notices first.
//! That only one goes round at a time, and when the last one did, stands in the store.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::{Config, Live};
use crate::disk::aside;
use crate::store::{
    AskAgain, BrokenOff, Collected, Collection, Going, ImageGone, InUse, MENDS, Part, Retention,
    RetentionConfig, Scrubbed, Store, StoreError,
};
use crate::timeline::client::TimelineClient;

/// How often it looks whether it is time. The first time it waits so long, too: what was left of builds is told before.
const LOOK: Duration = Duration::from_secs(60);
/// The pause after a round that failed.
const AGAIN: Duration = Duration::from_secs(3600);
/// How long the end waits for a round, which stops soon.
const LEAVE: Duration = Duration::from_secs(2);

/// By what images are let go: by the rules, and by what deploys run, which the timeline service knows. Where it
/// cannot be asked, all are kept.
pub async fn retention(rules: &RetentionConfig, client: Result<Option<TimelineClient>, String>) -> Retention {
    if !rules.is_set() {
        return Retention::KeepAll;
    }
    let client = match client {
        Ok(Some(client)) => client,
        Ok(None) => {
            let reason = "no timeline service is known (timeline.url), which would tell what deploys run";
            return Retention::Unknown(reason.to_owned());
        }
        Err(reason) => return Retention::Unknown(format!("what deploys run cannot be asked: {reason}")),
    };
    match in_use(&client).await {
        Ok(in_use) => {
            // The collection is on a thread of its own.
            let runtime = tokio::runtime::Handle::current();
            let again = AskAgain::by(move || runtime.block_on(self::in_use(&client)));
            Retention::By { rules: rules.clone(), in_use, again: Some(again) }
        }
        Err(reason) => Retention::Unknown(reason),
    }
}

async fn in_use(client: &TimelineClient) -> Result<InUse, String> {
    let answer = client.images_in_use().await;
    let answer = answer.map_err(|error| format!("what deploys run cannot be asked: {error}"))?;
    Ok(InUse::read(answer.images.iter().map(String::as_str), answer.apps.iter().map(String::as_str)))
}

/// Goes round until the drain.
pub async fn keep(store: Store, live: Live, drain: CancellationToken) {
    keep_looking(store, live, drain, LOOK).await;
}

async fn keep_looking(store: Store, live: Live, drain: CancellationToken, look: Duration) {
    let (mut pause, mut doubts) = (look, Doubts::default());
    while drain.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        pause = look;
        let config = live.now();
        if !scrub(&store, &config, &drain, &mut doubts.scrubbed).await {
            pause = AGAIN;
        }
        if !is_time(&store, config.keeping.gc_every, &mut doubts.collected).await {
            continue;
        }
        let client = TimelineClient::new(&config.timeline).map_err(|error| format!("{error:#}"));
        let Some(retention) = drain.run_until_cancelled(retention(&config.retention, client)).await else {
            return;
        };
        match collect(&store, &config, retention, &drain).await {
            Ok(collected) => tell(&collected),
            // Somebody else's.
            Err(BrokenOff { error: StoreError::Busy, .. }) => {}
            Err(BrokenOff { so_far, error: StoreError::Stopping }) => tell_removed(&so_far),
            Err(BrokenOff { so_far, error }) => {
                tell_removed(&so_far);
                metrics::counter!("buildgrid_store_rounds_total", "round" => "gc", "outcome" => "failed")
                    .increment(1);
                tracing::warn!(%error, "the store's garbage cannot be collected; trying again in an hour");
                pause = AGAIN;
            }
        }
    }
}

/// When the last rounds were, whether that could not be read at the last look. One request that fails begins no round; what
/// cannot be read twice is put anew by one.
#[derive(Default)]
struct Doubts {
    scrubbed: bool,
    collected: bool,
}

/// What was read; `None` where it could not be for the first time.
fn unless_new<T>(read: Result<T, StoreError>, doubt: &mut bool) -> Option<Result<T, StoreError>> {
    let before = std::mem::replace(doubt, read.is_err());
    match &read {
        Err(error) if !before => {
            tracing::debug!(%error, "it cannot be read when the store's last round was; it is tried again");
            None
        }
        _ => Some(read),
    }
}

/// Whether the last collection is so long ago.
async fn is_time(store: &Store, every: Duration, doubt: &mut bool) -> bool {
    if every.is_zero() {
        return false;
    }
    match unless_new(store.collected_before().await, doubt) {
        None => false,
        Some(Ok(age)) => age.is_none_or(|age| age >= every),
        // A round puts the report anew.
        Some(Err(error)) => {
            tracing::warn!(%error, "it cannot be read when the store's garbage was collected last; it is now");
            true
        }
    }
}

async fn collect(
    store: &Store,
    config: &Config,
    retention: Retention,
    drain: &CancellationToken,
) -> Result<Collected, BrokenOff<Collected>> {
    let (store, grace, cancel) = (store.clone(), config.keeping.gc_grace, drain.clone());
    let round = move || store.collect(&Collection { grace, dry_run: false, retention, cancel: &cancel });
    go_aside("store-gc", round, drain).await
}

/// A disk that hangs delays no end.
async fn go_aside<T: Default + Send + 'static>(
    name: &str,
    round: impl FnOnce() -> Result<T, Box<BrokenOff<T>>> + Send + 'static,
    drain: &CancellationToken,
) -> Result<T, BrokenOff<T>> {
    let stopping = || Box::new(BrokenOff { so_far: T::default(), error: StoreError::Stopping });
    let Ok(round) = aside(name, round) else { return Err(*stopping()) };
    let done = tokio::select! {
        done = round => done.unwrap_or_else(|_| Err(stopping())),
        () = async { drain.cancelled().await; tokio::time::sleep(LEAVE).await } => Err(stopping()),
    };
    done.map_err(|broken| *broken)
}

/// Verifies the next part if it is time; answers whether that went well.
async fn scrub(store: &Store, config: &Config, drain: &CancellationToken, doubt: &mut bool) -> bool {
    let (every, parts) = (config.keeping.scrub_every, config.keeping.scrub_parts);
    if every.is_zero() {
        return true;
    }
    let part = match unless_new(store.scrubbed_before().await, doubt) {
        Some(Ok(None)) => Part::ALL.next(parts),
        Some(Ok(Some((age, part)))) if age >= every => part.next(parts),
        None | Some(Ok(Some(_))) => return true,
        Some(Err(error)) => {
            tracing::warn!(%error, "it cannot be read when the store was verified last; its first part is now");
            Part::ALL.next(parts)
        }
    };
    let (verified, cancel) = (store.clone(), drain.clone());
    let scrubbed = go_aside("store-scrub", move || verified.scrub(part, true, &cancel), drain).await;
    let (scrubbed, error) = match scrubbed {
        Ok(scrubbed) => (scrubbed, None),
        Err(BrokenOff { so_far, error }) => (so_far, Some(error)),
    };
    let outcome = match &error {
        // What was found till then is found by nobody else: it is in quarantine.
        _ if scrubbed.is_damaged() => "damaged",
        None => "done",
        Some(StoreError::Busy | StoreError::Stopping) => return true,
        Some(_) => "failed",
    };
    metrics::counter!("buildgrid_store_rounds_total", "round" => "scrub", "outcome" => outcome).increment(1);
    tell_damaged(&scrubbed);
    match error {
        None => tell_scrubbed(&scrubbed),
        Some(StoreError::Busy | StoreError::Stopping) => {}
        Some(error) => {
            tracing::warn!(%error, "the store cannot be verified; trying again in an hour");
            return false;
        }
    }
    true
}

fn tell_scrubbed(scrubbed: &Scrubbed) {
    let Scrubbed { part, blobs, bytes, images, mended, damaged, elapsed_ms, .. } = scrubbed;
    tracing::info!(
        part,
        blobs,
        bytes,
        images,
        mended,
        damaged = damaged.len(),
        elapsed_ms,
        "verified the store"
    );
}

fn tell_damaged(Scrubbed { damaged, lost_tags, unread, .. }: &Scrubbed) {
    for one in unread {
        tracing::error!(
            path = one.path,
            reason = one.reason,
            "what cannot be read in the store is not verified; {MENDS}"
        );
    }
    for blob in damaged {
        let images = blob.images.iter().map(|image| image.image.as_str()).collect::<Vec<_>>().join(", ");
        let (digest, reason) = (blob.digest, &blob.reason);
        match blob.in_place {
            true => {
                tracing::error!(%digest, reason, images, "a blob in the store is damaged where it is; {MENDS}")
            }
            false => tracing::error!(
                %digest,
                reason,
                quarantine = blob.quarantine,
                images,
                "a blob in the store is damaged; build its images again (`buildgrid store scrub` says how)"
            ),
        }
    }
    for tag in lost_tags {
        tracing::error!(
            tag,
            "a tag in the store is damaged and named nobody knows what; build its commit again"
        );
    }
}

/// What is gone, by a round that has not come to its end, and what it could not read.
fn tell_removed(collected: &Collected) {
    let Collected { removed, retention, .. } = collected;
    metrics::counter!("buildgrid_store_removed_bytes_total").increment(removed.bytes);
    tell_images(retention);
    tell_unread(collected);
    if removed.blobs + removed.links > 0 {
        tracing::info!(
            removed_blobs = removed.blobs,
            removed_bytes = removed.bytes,
            "collected some of the store's garbage, before the round ended early"
        );
    }
}

fn tell_images(retention: &[ImageGone]) {
    for ImageGone { image, digest, rule, .. } in retention.iter().filter(|gone| gone.state == Going::Removed)
    {
        tracing::info!(image, %digest, rule, "let an image go");
    }
}

fn tell_unread(collected: &Collected) {
    for one in &collected.unread {
        tracing::error!(
            path = one.path,
            reason = one.reason,
            all_blobs_are_kept = collected.keeps_blobs,
            "what cannot be read in the store is kept, with all that it belongs to; {MENDS}"
        );
    }
}

fn tell(collected: &Collected) {
    let Collected { in_use, condemned, waiting, removed, going, elapsed_ms, .. } = collected;
    let outcome = if collected.unread.is_empty() { "done" } else { "partial" };
    metrics::counter!("buildgrid_store_rounds_total", "round" => "gc", "outcome" => outcome).increment(1);
    metrics::counter!("buildgrid_store_removed_bytes_total").increment(removed.bytes);
    // Else it is not known.
    if !collected.keeps_blobs {
        metrics::gauge!("buildgrid_store_garbage_bytes").set((condemned.bytes + waiting.bytes) as f64);
    }
    tracing::info!(
        in_use_blobs = in_use,
        removed_blobs = removed.blobs,
        removed_bytes = removed.bytes,
        marked_blobs = condemned.blobs,
        waiting_blobs = waiting.blobs,
        images_going = going,
        elapsed_ms,
        "collected the store's garbage"
    );
    tell_images(&collected.retention);
    if let Some(reason) = &collected.retention_paused {
        tracing::warn!(reason, "all images are kept for now, whatever [retention] says");
    }
    if !collected.undeployed.is_empty() {
        let apps = collected.undeployed.join(", ");
        tracing::warn!(apps, "no deploy of these apps is known to be done; all of their images are kept");
    }
    tell_unread(collected);
    for one in &collected.unreadable {
        let manifest = one.manifest.map(|digest| digest.to_string()).unwrap_or_default();
        tracing::warn!(
            repository = one.repository,
            manifest,
            reason = one.reason,
            "a manifest in the store cannot be read; all that its repository refers to is kept (`buildgrid store scrub`)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Part, StoreConfig};

    #[tokio::test(flavor = "multi_thread")]
    async fn it_goes_round_when_it_is_time_and_one_of_two_does() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Store::open(&StoreConfig::at(folder.path().to_owned())).unwrap();
        let mut config = Config::default();
        config.keeping.gc_grace = Duration::ZERO;
        config.keeping.scrub_parts = 3;
        let digest = open().put_blob(b"nobody's".to_vec()).await.unwrap();
        let drain = CancellationToken::new();
        let keepers = [open(), open()].map(|store| {
            let look = Duration::from_millis(20);
            tokio::spawn(keep_looking(store, Live::from(&config), drain.clone(), look))
        });
        let store = open();
        let mut parts = Vec::new();
        while parts.len() < 3 {
            // A day later. Where both have noticed at once, the second has gone round in vain: once more, then.
            for report in ["collection.json", "scrub.json"] {
                let report = folder.path().join("buildgrid/gc").join(report);
                let at = std::time::SystemTime::now() - Duration::from_secs(25 * 3600);
                if let Ok(file) = std::fs::File::options().append(true).open(report) {
                    file.set_modified(at).unwrap();
                }
            }
            let until = tokio::time::Instant::now() + Duration::from_secs(2);
            while tokio::time::Instant::now() < until {
                let part = store.scrubbed_before().await.unwrap().map(|(_, part)| part);
                if part.is_some()
                    && part != parts.last().copied()
                    && store.collected_before().await.unwrap().is_some()
                {
                    parts.extend(part);
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let expected: Vec<Part> = ["1/3", "2/3", "3/3"].map(|part| part.parse().unwrap()).into();
        assert_eq!(parts, expected);
        drain.cancel();
        for keeper in keepers {
            keeper.await.unwrap();
        }
        let hex = digest.hex();
        let blob = folder.path().join(format!("docker/registry/v2/blobs/sha256/{}/{hex}", &hex[..2]));
        assert!(!blob.exists(), "what was marked in one round went in the next");
        config.keeping.gc_every = Duration::ZERO;
        assert!(!is_time(&store, config.keeping.gc_every, &mut false).await);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_report_from_the_future_does_not_put_the_next_round_off() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreConfig::at(folder.path().to_owned())).unwrap();
        let (every, cancel) = (Duration::from_secs(24 * 3600), CancellationToken::new());
        let collection =
            Collection { grace: every, dry_run: false, retention: Retention::KeepAll, cancel: &cancel };
        store.collect(&collection).unwrap();
        let report = folder.path().join("buildgrid/gc/collection.json");
        for (ahead, due) in [(3600, false), (30 * 24 * 3600, true)] {
            let file = std::fs::File::options().append(true).open(&report).unwrap();
            file.set_modified(std::time::SystemTime::now() + Duration::from_secs(ahead)).unwrap();
            assert_eq!(is_time(&store, every, &mut false).await, due, "{ahead} s ahead");
        }
        // Nor does one that cannot be read: the round mends it.
        let mut config = Config::default();
        (config.keeping.gc_every, config.keeping.scrub_every) = (every, every);
        for report in ["collection.json", "scrub.json"] {
            let report = folder.path().join("buildgrid/gc").join(report);
            let _ = std::fs::remove_file(&report);
            std::os::unix::fs::symlink(report.file_name().unwrap(), &report).unwrap();
        }
        // One look that fails is none.
        let (mut collected, mut scrubbed) = (false, false);
        assert!(!is_time(&store, every, &mut collected).await);
        assert!(is_time(&store, every, &mut collected).await);
        store.collect(&collection).unwrap();
        assert!(!is_time(&store, every, &mut collected).await && !collected);
        assert!(scrub(&store, &config, &cancel, &mut scrubbed).await);
        assert!(store.scrubbed_before().await.is_err(), "it has not begun");
        assert!(scrub(&store, &config, &cancel, &mut scrubbed).await);
        assert_eq!(
            store.scrubbed_before().await.unwrap().unwrap().1,
            Part::ALL.next(config.keeping.scrub_parts)
        );
    }

    #[tokio::test]
    async fn what_cannot_be_asked_lets_nothing_go() {
        let rules = "[retention]\n\"*\" = { keep_last = 1 }\n";
        let rules = Config::parse("f", rules, []).unwrap().retention;
        let reason = |retention| match retention {
            Retention::Unknown(reason) => reason,
            other => panic!("{other:?}"),
        };
        let nobody = retention(&rules, Ok(None)).await;
        assert!(reason(nobody).contains("timeline.url"));
        let timeline =
            crate::timeline::TimelineConfig { url: "http://127.0.0.1:1".to_owned(), ..Default::default() };
        let away = TimelineClient::new(&timeline).map_err(|error| error.to_string());
        assert!(reason(retention(&rules, away).await).contains("http://127.0.0.1:1"));
        assert!(matches!(retention(&RetentionConfig::default(), Ok(None)).await, Retention::KeepAll));
    }
}
