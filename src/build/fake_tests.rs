//! What a fake build promises: its bytes, its log and its ends.

use super::*;
use crate::timeline::mask::Mask;

fn spec(outcome: FakeOutcome) -> FakeBuild {
    FakeBuild { log_lines: 4, line_interval_ms: 0, layers: 3, layer_bytes: 5000, outcome, seed: 7 }
}

fn labels() -> BTreeMap<String, String> {
    ["a", "b", "c", "d"].into_iter().map(|key| (key.to_owned(), "1".to_owned())).collect()
}

async fn run(spec: FakeBuild) -> (Result<BuiltImage, BuildError>, Vec<(String, String)>) {
    let (log, mut lines) = LogSink::channel(Mask::none());
    let result = build(&spec, labels(), &log, &CancellationToken::new()).await;
    drop(log);
    let mut written = Vec::new();
    while let Some(line) = lines.recv().await {
        written.push((line.step.expect("a step").to_string(), line.text));
    }
    (result, written)
}

#[tokio::test]
async fn the_same_seed_gives_the_same_image_and_another_another() {
    let (one, _) = run(spec(FakeOutcome::Published)).await;
    let (two, _) = run(spec(FakeOutcome::Published)).await;
    let (other, _) = run(FakeBuild { seed: 8, ..spec(FakeOutcome::Published) }).await;
    let (one, two, other) = (one.unwrap(), two.unwrap(), other.unwrap());
    assert_eq!(one.config, two.config);
    assert_eq!(one.diff_ids, two.diff_ids);
    assert!(one.diff_ids.iter().all(|id| !other.diff_ids.contains(id)));
    let distinct: std::collections::BTreeSet<_> = one.diff_ids.iter().collect();
    assert_eq!(distinct.len(), 3);
}

#[tokio::test]
async fn layers_are_tar_archives_that_match_their_diff_ids_however_they_are_read() {
    let (image, _) = run(spec(FakeOutcome::Published)).await;
    let image = image.unwrap();
    for (index, diff_id) in image.diff_ids.iter().enumerate() {
        let mut bytes = Vec::new();
        let mut reader = image.open_layer(index).unwrap();
        let mut odd = [0; 333];
        loop {
            match reader.read(&mut odd).unwrap() {
                0 => break,
                count => bytes.extend_from_slice(&odd[..count]),
            }
        }
        assert_eq!(Digest::of(&bytes), *diff_id);
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut entries = archive.entries().unwrap();
        let entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.size(), 5000);
        assert_eq!(entry.path().unwrap().to_str(), Some(format!("fake/layer-{index}").as_str()));
        assert!(entries.next().is_none());
        assert_eq!(bytes.len() % BLOCK, 0);
    }
}

#[tokio::test]
async fn the_config_is_a_valid_image_configuration() {
    let (image, _) = run(spec(FakeOutcome::Published)).await;
    let image = image.unwrap();
    let config = oci_spec::image::ImageConfiguration::from_reader(&image.config[..]).unwrap();
    let diff_ids: Vec<String> = image.diff_ids.iter().map(Digest::to_string).collect();
    assert_eq!(config.rootfs().diff_ids(), &diff_ids);
    assert_eq!(config.history().as_ref().unwrap().len(), 3);
    assert_eq!(config.created().as_deref(), Some(CREATED));
    assert_eq!(config.labels_of_config().unwrap()["c"], "1");
}

#[tokio::test]
async fn lines_carry_their_step() {
    let (_, lines) = run(spec(FakeOutcome::Published)).await;
    let expected = [
        ("[1/2] RUN fake step", "fake line 1 of 4"),
        ("[1/2] RUN fake step", "fake line 2 of 4"),
        ("[2/2] RUN fake step", "fake line 3 of 4"),
        ("[2/2] RUN fake step", "fake line 4 of 4"),
    ];
    assert_eq!(lines, expected.map(|(step, text)| (step.to_owned(), text.to_owned())));
}

#[tokio::test]
async fn failures_are_those_asked_for() {
    let (result, _) = run(spec(FakeOutcome::BuildFailed)).await;
    let Err(BuildError::Failed(failure)) = result else { panic!("did not fail") };
    assert_eq!(failure.reason, "step [2/2] RUN fake step: exit code 1");
    assert_eq!(failure.step.as_deref(), Some("[2/2] RUN fake step"));
    assert_eq!(failure.excerpt, ["fake line 3 of 4", "fake line 4 of 4"]);
    let (result, _) = run(spec(FakeOutcome::Infrastructure)).await;
    assert!(matches!(result, Err(BuildError::Infrastructure(_))));
}

#[tokio::test]
async fn a_hang_lasts_until_it_is_cancelled() {
    let (log, _lines) = LogSink::channel(Mask::none());
    let cancel = CancellationToken::new();
    let spec = spec(FakeOutcome::Hang);
    let build = build(&spec, BTreeMap::new(), &log, &cancel);
    let end = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(build, end);
    assert!(matches!(result, Err(BuildError::Cancelled)));
}

#[tokio::test]
async fn an_image_may_have_no_layers_and_a_layer_no_bytes() {
    let (image, _) = run(FakeBuild { layers: 0, ..spec(FakeOutcome::Published) }).await;
    assert!(image.unwrap().diff_ids.is_empty());
    let (image, _) = run(FakeBuild { layer_bytes: 0, ..spec(FakeOutcome::Published) }).await;
    assert_eq!(image.unwrap().diff_ids.len(), 3);
}
