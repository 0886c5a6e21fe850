//! Builds on a real Docker engine.

mod disk;
mod limits;
mod session;
mod storage;

use std::process::Command;
use std::time::{Duration, Instant};

use buildgrid::build::docker::{Context, DockerEngine, EngineConfig, open_archive};
use buildgrid::build::engine::BuildError;
use buildgrid::publish::publisher;
use buildgrid::timeline::entry::Stream;
use buildgrid::timeline::mask::Mask;
use buildgrid::timeline::sink::LogSink;
use tokio_util::sync::CancellationToken;

use crate::support::docker::*;
use crate::support::patience::{in_time, until};
use crate::support::process::output;

#[tokio::test]
async fn builds_what_the_request_says() {
    let dockerfile = format!(
        "FROM {BASE} AS base\nARG WORD\nRUN echo $WORD > /word\nCOPY app/file /file\n\
         FROM base AS wanted\nRUN echo wanted > /stage\nFROM base\nRUN echo last > /stage\n"
    );
    let request = buildgrid::build::docker::BuildRequest {
        dockerfile: "docker/Production.Dockerfile".into(),
        target: Some("wanted".into()),
        args: [("WORD".into(), "büchse & \"quotes\"".into())].into(),
        labels: [("net.buildgrid.build".into(), "b1".into())].into(),
        context: context(&[("docker/Production.Dockerfile", &dockerfile), ("app/file", "content")]),
        ..request("")
    };
    let image = build(&engine(), request).await.image();
    let files = files(&image);
    assert_eq!(files["word"], "büchse & \"quotes\"\n".as_bytes());
    assert_eq!(files["file"], b"content");
    assert_eq!(files["stage"], b"wanted\n");
    let config: serde_json::Value = serde_json::from_slice(&image.config).unwrap();
    assert_eq!(config["config"]["Labels"]["net.buildgrid.build"], "b1");
    let inherited = docker(&["image", "inspect", "--format", "{{index .Config.Env 0}}", BASE]);
    assert_eq!(config["config"]["Env"][0], inherited);
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), image.diff_ids.len());
}

#[tokio::test]
async fn leaves_no_connection_open_and_the_image_is_its_own() {
    base_image();
    let between = Between::new();
    let request = request(&format!("FROM {BASE}\nRUN echo {} > /x\n", unique()));
    let image = build(&engine_at(between.socket()), request).await.image();
    until("the connections are closed", || between.connections() == 0).await;
    assert_eq!(files(&image).keys().filter(|name| *name == "x").count(), 1, "read without the engine");
}

#[tokio::test]
async fn a_step_is_cached_the_second_time_unless_no_cache() {
    let engine = engine();
    let dockerfile = format!("FROM {BASE}\nRUN echo {}\n", unique());
    let first = build(&engine, request(&dockerfile)).await;
    assert_eq!(first.lines(Stream::Stdout, "[2/2] RUN").len(), 1);
    let second = build(&engine, request(&dockerfile)).await;
    // The engine may begin with a step before it knows that it has it.
    assert_eq!(second.lines(Stream::Status, "[2/2] RUN").last(), Some(&"cached"));
    assert_eq!(second.lines(Stream::Stdout, "[2/2] RUN"), [""; 0]);
    let mut third = request(&dockerfile);
    third.no_cache = true;
    let third = build(&engine, third).await;
    assert_eq!(third.lines(Stream::Stdout, "[2/2] RUN").len(), 1);
    assert_eq!(first.image().diff_ids, second.image().diff_ids);
}

#[tokio::test]
async fn the_log_comes_while_the_step_runs() {
    let (sink, mut lines) = LogSink::channel(Mask::none());
    let engine = engine();
    let cancel = CancellationToken::new();
    let request = request(&format!("FROM {BASE}\nRUN echo first {}; sleep 600\n", unique()));
    let build = engine.build(request, &sink, &cancel);
    let read = async {
        loop {
            let line = in_time("a line of the log", lines.recv()).await.expect("a line");
            if line.stream == Stream::Stdout && line.text.starts_with("first ") {
                cancel.cancel();
                break;
            }
        }
        while lines.try_recv().is_ok() {}
    };
    let (result, ()) = tokio::join!(build, read);
    assert!(matches!(result, Err(BuildError::Cancelled)));
}

#[tokio::test]
async fn a_failing_step_is_told_with_code_and_last_lines() {
    let dockerfile = format!(
        "FROM {BASE}\nRUN echo {}; seq 100; sleep 0.5; echo no rule to make target >&2; exit 42\n",
        unique()
    );
    let built = build(&engine(), request(&dockerfile)).await;
    assert!(built.lines(Stream::Status, "[2/2] RUN").last().unwrap().starts_with("failed after "));
    let failure = built.failure();
    let step = failure.step.as_deref().unwrap();
    assert!(step.starts_with("[2/2] RUN echo ") && step.ends_with("exit 42"), "{step}");
    assert_eq!(failure.reason, format!("step {step}: exit code 42"));
    assert_eq!(failure.excerpt.len(), 20);
    assert_eq!(failure.excerpt[18..], ["100", "no rule to make target"]);
}

#[tokio::test]
async fn no_secret_and_no_trick_of_a_step_reaches_the_log() {
    let secret = "hunter2-of-acme";
    let mask = Mask::new([("s", secret.as_bytes())]).unwrap().0;
    let dockerfile = format!(
        "FROM {BASE}\nRUN echo {}; printf 'a hunter2'; sleep 0.5; printf -- '-of-acme b\\n'; \
         printf 'hunter2\\033[1m-of\\033[K-acme\\n'; printf %s '{secret}' | base64; \
         printf '\\033]0;title\\007\\033[2Jx\\342\\200\\256y\\000z\\n'; printf '10%%\\r20%%\\rdone\\n'; exit 1\n",
        unique()
    );
    let built = build_masked(&engine(), request(&dockerfile), mask, &CancellationToken::new()).await;
    let lines = built.lines(Stream::Stdout, "[2/2] RUN");
    let expected = ["a *** b", "***\u{1b}[1m\u{1b}[0m", "***", "x\\u{202e}y\\u{0}z", "done"];
    assert_eq!(lines[1..], expected);
    let log = format!("{:?}", built.log);
    assert!(!log.contains(secret) && log.contains("RUN echo"), "{log}");
    let failure = built.failure();
    assert_eq!(failure.excerpt[1..], ["a *** b", "***", "***", "x\\u{202e}y\\u{0}z", "done"]);
}

#[tokio::test]
async fn faults_of_the_dockerfile_are_the_builds_own() {
    let engine = engine();
    for (dockerfile, reason) in [
        (format!("FROM {BASE}\nRUNN true\n"), "Dockerfile line 2: unknown instruction: RUNN"),
        ("# nothing\n".to_owned(), "Dockerfile has no instructions"),
        (
            format!("FROM {BASE}\nCOPY nothing /\n"),
            "step [2/2] COPY nothing /: /nothing is not in the build context, or is left out by .dockerignore",
        ),
        (
            format!("FROM {BASE} AS one\nFROM {BASE}\nCOPY --from=one /nothing /\n"),
            "step [stage-1 2/2] COPY --from=one /nothing /: /nothing is not in the stage or image it is copied from",
        ),
    ] {
        assert_eq!(build(&engine, request(&dockerfile)).await.failure().reason, reason);
    }
    let mut nowhere = request("FROM scratch\n");
    nowhere.dockerfile = "docker/Dockerfile".into();
    let reason = build(&engine, nowhere).await.failure().reason;
    assert_eq!(reason, "there is no docker/Dockerfile in the build context");
    let mut stage = request(&format!("FROM {BASE} AS one\n"));
    stage.target = Some("two".into());
    assert_eq!(build(&engine, stage).await.failure().reason, "Dockerfile has no stage \"two\"");
    let mut platform = request(&format!("FROM {BASE}\n"));
    platform.platform = Some("linux/a/b/c".into());
    let reason = build(&engine, platform).await.failure().reason;
    assert!(reason.contains("linux/a/b/c"), "{reason}");
}

#[tokio::test]
async fn a_dockerfile_may_be_as_large_as_its_limit() {
    let comments = "# a comment as there may be many\n".repeat((4 << 20) / 33 - 10);
    let dockerfile = format!("FROM {BASE}\n{comments}RUN echo {} > /last\n", unique());
    let image = build(&engine(), request(&dockerfile)).await.image();
    assert!(files(&image).contains_key("last"));
}

#[tokio::test]
async fn an_argument_that_would_choose_the_front_end_is_refused() {
    let mut request = request(&format!("FROM {BASE}\n"));
    request.args.insert("BUILDKIT_SYNTAX".into(), "evil/frontend".into());
    let reason = build(&engine(), request).await.failure().reason;
    assert!(reason.starts_with("build.args: BUILDKIT_SYNTAX is not allowed"), "{reason}");
}

#[tokio::test]
async fn a_registry_that_does_not_answer_is_not_the_builds_fault() {
    let built = build(&engine(), request("FROM 127.0.0.1:1/acme/base:1\n")).await;
    let reason = built.infrastructure();
    assert!(reason.starts_with("[internal] load metadata for 127.0.0.1:1/acme/base:1: "), "{reason}");
    assert!(reason.contains("connection refused"), "{reason}");
}

#[tokio::test]
async fn a_registry_without_the_image_is_the_builds_fault() {
    let app = axum::Router::new().fallback(|| async { axum::http::StatusCode::NOT_FOUND });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let image = format!("{}/acme/base:1", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let reason = build(&engine(), request(&format!("FROM {image}\n"))).await.failure().reason;
    server.abort();
    assert!(reason.starts_with(&format!("base image {image} does not exist")), "{reason}");
}

#[tokio::test]
async fn output_that_the_engine_cuts_is_marked() {
    let dockerfile =
        format!("FROM {BASE}\nRUN echo {}; yes 0123456789 | head -c 8000000; exit 3\n", unique());
    let built = build(&engine(), request(&dockerfile)).await;
    let marks = built.lines(Stream::Status, "[2/2] RUN");
    let clipped =
        built.lines(Stream::Stdout, "[2/2] RUN").iter().any(|line| line.starts_with("[output clipped"));
    let marked = marks.iter().any(|line| line.contains("BUILDKIT_STEP_LOG_MAX_SIZE=-1"));
    assert_eq!(clipped, marked, "{marks:?}");
    let bytes: usize = built.lines(Stream::Stdout, "[2/2] RUN").iter().map(|line| line.len() + 1).sum();
    assert!(clipped || bytes > 8_000_000, "{bytes} bytes came, and no mark");
}

#[tokio::test]
async fn stages_in_parallel_and_progress_bars_stay_readable() {
    let word = unique();
    let dockerfile = format!(
        "FROM {BASE} AS a\nRUN for i in 1 2 3; do echo {word} a$i; sleep 0.1; done; touch /a\n\
         FROM {BASE} AS b\nRUN for i in 1 2 3; do echo {word} b$i >&2; sleep 0.1; done; touch /b\n\
         FROM {BASE}\nCOPY --from=a /a /\nCOPY --from=b /b /\n\
         RUN for i in 10 50 100; do echo -en \"$i%\\r\"; sleep 0.1; done; echo; echo -n end {word}\n"
    );
    let built = build(&engine(), request(&dockerfile)).await;
    let numbered = |stage: &str| [1, 2, 3].map(|i| format!("{word} {stage}{i}"));
    assert_eq!(built.lines(Stream::Stdout, "[a 2/2] RUN"), numbered("a"));
    assert_eq!(built.lines(Stream::Stderr, "[b 2/2] RUN"), numbered("b"));
    assert_eq!(built.lines(Stream::Stdout, "[stage-2 4/4] RUN"), ["100%".to_owned(), format!("end {word}")]);
    let names = files(&built.image());
    assert!(names.contains_key("a") && names.contains_key("b"));
}

#[tokio::test]
async fn a_cancelled_build_leaves_no_process() {
    let sleep = long_sleep();
    let cancel = CancellationToken::new();
    let engine = engine();
    let request = request(&format!("FROM {BASE}\nRUN sleep {sleep}\n"));
    let build = build_until(&engine, request, &cancel);
    let end = async {
        until("the step runs", || runs(&sleep)).await;
        cancel.cancel();
        Instant::now()
    };
    let (built, cancelled) = tokio::join!(build, end);
    assert!(matches!(built.result, Err(BuildError::Cancelled)));
    assert!(!runs(&sleep), "the step's process outlived the build");
    assert!(cancelled.elapsed() < Duration::from_secs(10));
    assert_eq!(built.lines(Stream::Status, "[2/2] RUN").last(), Some(&"cancelled"));
}

#[tokio::test]
async fn what_a_crash_has_left_of_a_build_is_ended_by_its_id() {
    let sleep = long_sleep();
    let engine = engine();
    let request = request(&format!("FROM {BASE}\nRUN sleep {sleep}\n"));
    let id = request.id;
    // Whoever began it holds its connections still, as the kernel of a machine without power does.
    let cancel = CancellationToken::new();
    let build = build_until(&engine, request, &cancel);
    let end = async {
        until("the step runs", || runs(&sleep)).await;
        engine.abandon(id).await.unwrap();
        until("the step's process is gone", || !runs(&sleep)).await;
    };
    let (built, ()) = tokio::join!(build, end);
    assert!(built.result.is_err(), "there is no image");

    let tag = format!("buildgrid.local/build:{id}");
    docker(&["tag", BASE, &tag]);
    engine.abandon(id).await.unwrap();
    assert_eq!(private_tags(&format!("reference={tag}")), [""; 0]);
    engine.abandon(id).await.unwrap();
}

#[tokio::test]
async fn a_step_that_ignores_its_end_is_ended_all_the_same() {
    let sleep = long_sleep();
    let cancel = CancellationToken::new();
    let dockerfile = format!("FROM {BASE}\nRUN trap '' TERM INT HUP; sleep {sleep}; sleep {sleep}\n");
    let engine = engine();
    let build = build_until(&engine, request(&dockerfile), &cancel);
    let end = async {
        until("the step runs", || runs(&sleep)).await;
        cancel.cancel();
        Instant::now()
    };
    let (built, cancelled) = tokio::join!(build, end);
    assert!(matches!(built.result, Err(BuildError::Cancelled)));
    until("the step's process is gone", || !runs(&sleep)).await;
    assert!(cancelled.elapsed() < Duration::from_secs(5), "{:?}", cancelled.elapsed());
}

#[tokio::test]
async fn an_engine_that_is_silent_delays_no_cancel() {
    base_image();
    // At its first question, in the build, while it gives out the image.
    for (place, words) in [("ping", "/_ping"), ("build", "/build?"), ("export", "/get HTTP")] {
        let between = Between::silent_at(words);
        let cancel = CancellationToken::new();
        let request = request(&format!("FROM {BASE}\nRUN echo {}\n", unique()));
        let engine = engine_at(between.socket());
        let build = build_until(&engine, request, &cancel);
        let end = async {
            until(place, || between.is_silent()).await;
            cancel.cancel();
            Instant::now()
        };
        let (built, cancelled) = tokio::join!(build, end);
        assert!(matches!(built.result, Err(BuildError::Cancelled)), "{place}");
        assert!(cancelled.elapsed() < Duration::from_secs(5), "{place}: {:?}", cancelled.elapsed());
    }
}

#[tokio::test]
async fn a_build_whose_future_is_dropped_ends_on_the_engine() {
    let sleep = long_sleep();
    let engine = engine();
    let (sink, _lines) = LogSink::channel(Mask::none());
    let request = request(&format!("FROM {BASE}\nRUN sleep {sleep}\n"));
    let cancel = CancellationToken::new();
    {
        let build = std::pin::pin!(engine.build(request, &sink, &cancel));
        let started = until("the step runs", || runs(&sleep));
        tokio::select! { _ = build => panic!("it ended"), () = started => {} }
    }
    until("the step's process is gone", || !runs(&sleep)).await;
}

#[tokio::test]
async fn an_engine_that_goes_away_in_the_middle_is_not_the_builds_fault() {
    base_image();
    let between = Between::new();
    let engine = engine_at(between.socket());
    let sleep = long_sleep();
    let build = build(&engine, request(&format!("FROM {BASE}\nRUN sleep {sleep}\n")));
    let cut = async {
        until("the step runs", || runs(&sleep)).await;
        between.cut();
    };
    let (built, ()) = tokio::join!(build, cut);
    let reason = built.infrastructure();
    assert!(reason.starts_with("the docker engine at unix://"), "{reason}");
    until("the step's process is gone", || !runs(&sleep)).await;
}

#[tokio::test]
async fn an_engine_that_is_away_or_hangs_is_said_so() {
    let away =
        build(&engine_at("/nonexistent/docker.sock"), request("FROM scratch\n")).await.infrastructure();
    assert_eq!(
        away,
        "the docker engine at unix:///nonexistent/docker.sock cannot be reached: No such file or directory (os error 2)"
    );
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("docker.sock");
    let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let host = format!("unix://{}", socket.display());
    let config =
        EngineConfig { host: host.clone(), timeout: Duration::from_secs(1), ..EngineConfig::default() };
    let hanging = DockerEngine::connect(&config, Duration::from_secs(3600)).unwrap();
    let reason = build(&hanging, request("FROM scratch\n")).await.infrastructure();
    assert_eq!(reason, format!("the docker engine at {host} did not answer within 1s"));
    assert!(matches!(hanging.probe().await, Err(BuildError::Infrastructure(_))));
}

#[tokio::test]
async fn a_context_that_breaks_off_gives_no_image() {
    let mut request = request("");
    let broken = vec![Ok(bytes::Bytes::from(vec![0; 100])), Err(std::io::Error::other("not whole"))];
    request.context = Context::Tar(Box::pin(futures::stream::iter(broken)));
    let reason = build(&engine(), request).await.infrastructure();
    assert!(reason.starts_with("the docker engine at unix://"), "{reason}");
}

#[tokio::test]
async fn cache_mounts_are_not_shared_between_namespaces() {
    let engine = engine();
    let word = unique();
    let dockerfile = format!(
        "FROM {BASE}\nARG ROUND\nRUN --mount=type=cache,target=/c,id={word} touch /c/$ROUND; ls /c | tr '\\n' ' ' > /found\n"
    );
    let mut found = Vec::new();
    for (round, namespace) in [("one", "acme"), ("two", "acme"), ("three", "rival")] {
        let mut request = request(&dockerfile);
        request.namespace = namespace.parse().unwrap();
        request.args.insert("ROUND".into(), round.into());
        let image = build(&engine, request).await.image();
        found.push(String::from_utf8(files(&image)["found"].clone()).unwrap());
    }
    assert_eq!(found, ["one ", "one two ", "three "]);
}

#[tokio::test]
async fn probes_the_engine() {
    let info = engine().probe().await.unwrap();
    assert!(info.buildkit);
    assert!(info.platform.starts_with("linux/"), "{}", info.platform);
    let said = docker(&["version", "--format", "{{.Server.Version}} {{.Server.APIVersion}}"]);
    assert_eq!(format!("{} {}", info.version, info.api_version), said);
    assert!(info.limits.iter().any(|limit| limit.contains("BUILDKIT_STEP_LOG_MAX_SIZE")));
}

#[tokio::test]
async fn arguments_beyond_what_the_engine_takes_are_the_builds_fault() {
    let mut request = request(&format!("FROM {BASE}\n"));
    request.args.insert("LONG".into(), "é".repeat(20_000));
    let reason = build(&engine(), request).await.failure().reason;
    assert!(reason.contains("too long"), "{reason}");
}

#[tokio::test]
async fn sweeps_the_tags_that_are_older_than_any_build() {
    base_image();
    let id = unique();
    let tag = format!("buildgrid.local/build:{id}");
    let left = || private_tags(&format!("reference={tag}"));
    // An image of its own: the engine keeps the time of an image's last tag, and other tests tag the base.
    let container = docker(&["container", "create", BASE, "true"]);
    docker(&["container", "commit", "--change", &format!("LABEL id={id}"), &container, &tag]);
    docker(&["container", "rm", &container]);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let only = OnlyTag::new(&tag);
    let second = Duration::from_secs(1);
    let config = EngineConfig { host: only.host(), ..EngineConfig::default() };
    for longest in [Duration::from_secs(3600), Duration::MAX] {
        assert_eq!(DockerEngine::connect(&config, longest).unwrap().sweep(Duration::ZERO).await.unwrap(), 0);
        assert_eq!(left(), [&*tag], "a tag that a running build may have was removed");
    }
    assert_eq!(DockerEngine::connect(&config, second).unwrap().sweep(publisher::LONGEST).await.unwrap(), 0);
    assert_eq!(left(), [&*tag], "a tag whose image may still be published was removed");
    assert_eq!(DockerEngine::connect(&config, second).unwrap().sweep(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(left(), [""; 0]);
    docker(&["image", "inspect", BASE]);
}

#[tokio::test]
async fn reads_the_archive_of_an_engine_with_compressed_layers() {
    let name = format!("buildgrid-test/skopeo:{}", unique());
    base_image();
    docker(&["tag", BASE, &name]);
    let directory = tempfile::tempdir().unwrap();
    let layout = directory.path().join("layout");
    let target = format!("oci:{}", layout.display());
    let source = format!("docker-daemon:{name}");
    output(Command::new("skopeo").args(["copy", "--quiet", &source, &target]));
    docker(&["rmi", &name]);
    let json = |path: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(layout.join(path)).unwrap()).unwrap()
    };
    let blob = |digest: &serde_json::Value| digest.as_str().unwrap().replace("sha256:", "blobs/sha256/");
    let manifest = json(&blob(&json("index.json")["manifests"][0]["digest"]));
    assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    let layers: Vec<_> = manifest["layers"].as_array().unwrap().iter().map(|l| blob(&l["digest"])).collect();
    let saved = serde_json::json!([{
        "Config": blob(&manifest["config"]["digest"]), "RepoTags": [name], "Layers": layers,
    }]);
    std::fs::write(layout.join("manifest.json"), saved.to_string()).unwrap();
    let mut archive = tar::Builder::new(tempfile::tempfile().unwrap());
    archive.append_dir_all(".", &layout).unwrap();
    let image = open_archive(archive.into_inner().unwrap()).unwrap();
    assert!(files(&image).contains_key("bin/busybox"));
}
