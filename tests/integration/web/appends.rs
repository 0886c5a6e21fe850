//! Appends: what is stored, what is dropped, and what is refused without a trace.

use std::io::Write as _;

use buildgrid::store::digest::Digest;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{ATTEMPT, Service, event, line, refused};

#[tokio::test(flavor = "multi_thread")]
async fn overlap_is_dropped_and_a_gap_says_where_to_go_on() {
    let service = Service::start().await;
    service.claimed().await;
    let lines: Vec<String> = (0..10).map(|seq| line(seq, None, "text")).collect();
    let answer = service.append(lines[..4].concat()).await.text().await.unwrap();
    assert_eq!(answer, r#"{"next_seq":4,"cancel":false}"#);
    let gap = refused(service.append(lines[6..].concat()).await, StatusCode::CONFLICT).await;
    assert_eq!((gap.kind.as_str(), gap.next_seq), ("urn:buildgrid:gap", Some(4)));
    // An answer that was lost: the same again, and more.
    assert_eq!(service.append(lines[..4].concat()).await.status(), StatusCode::OK);
    assert_eq!(service.append(lines[2..].concat()).await.status(), StatusCode::OK);
    assert_eq!(service.append("").await.text().await.unwrap(), r#"{"next_seq":10,"cancel":false}"#);
    assert_eq!(service.log("").await, lines.concat());
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_needs_the_whole_log() {
    let service = Service::start().await;
    service.claimed().await;
    let lines: String = (0..10).map(|seq| line(seq, None, "text")).collect();
    service.append(lines.lines().take(4).map(|line| format!("{line}\n")).collect::<String>()).await;
    let result = json!({
        "version": 1, "id": "b-1", "deploy_id": null, "attempt": 1, "namespace": "acme", "app": "shop",
        "services": ["web"], "repository": "fake", "commit": "9fceb02d0ae598e95dc970b74767f19372d61af8",
        "state": "published", "kind": null, "reused": false, "image": "r.example.com/acme/shop.fake:9",
        "digest": Digest::of(b"m"), "size": 5, "reason": null, "step": null, "excerpt": [], "log_url": null,
        "started_at": null, "finished_at": "2026-11-23T10:15:41.907Z", "worker": "worker-1"
    });
    let end = |sum: Digest| json!({"state": "published", "at": "2026-11-23T10:15:41.907Z", "result": result, "log": {"count": 10, "checksum": sum}});
    let (right, wrong) = (Digest::of(lines.as_bytes()), Digest::of(b"other"));
    let early = refused(service.report(end(right)).await, StatusCode::CONFLICT).await;
    assert_eq!((early.kind.as_str(), early.next_seq), ("urn:buildgrid:incomplete", Some(4)));
    assert_eq!(service.get("/builds/b-1").await["state"], "claimed", "nothing has changed");
    service.append(lines.clone()).await;
    let other = refused(service.report(end(wrong)).await, StatusCode::CONFLICT).await;
    assert_eq!(other.kind, "urn:buildgrid:checksum");
    for _ in 0..2 {
        assert_eq!(service.report(end(right)).await.status(), StatusCode::OK);
    }
    let build = service.get("/builds/b-1").await;
    assert_eq!(build["state"], "published");
    assert_eq!(
        (&build["attempts"][0]["complete"], &build["attempts"][0]["entries"]),
        (&json!(true), &json!(10))
    );
    // Sealed: what was there is accepted as such, more is not.
    assert_eq!(service.append(lines).await.status(), StatusCode::OK);
    let more = refused(service.append(line(10, None, "late")).await, StatusCode::CONFLICT).await;
    assert!(more.detail.contains("has ended"), "{}", more.detail);
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_is_refused_precisely_and_changes_nothing() {
    let service = Service::start().await;
    service.claimed().await;
    service.append(line(0, None, "first")).await;
    let long = line(1, None, &"x".repeat(65 << 10));
    let unprocessable: Vec<(Vec<u8>, &str)> = vec![
        (b"not json\n".to_vec(), "line 1: expected"),
        (b"{\"seq\":1}\n".to_vec(), "line 1: missing field `at`"),
        (b"\xff\xfe\n".to_vec(), "line 1"),
        (line(1, None, "x").replace("\"pod\"", "\"pet\"").into_bytes(), "unknown field `pet`"),
        (line(1, None, "x").replace("stdout", "stdin").into_bytes(), "unknown variant `stdin`"),
        (line(1, None, "x").replace("1970", "19700").into_bytes(), "line 1"),
        (line(1, None, "x").replace("\"seq\":1", "\"seq\":-1").into_bytes(), "line 1: invalid"),
        (
            line(1, None, "x").replace("\"seq\":1", "\"seq\":18446744073709551615").into_bytes(),
            "no count of lines",
        ),
        ([line(1, None, "x"), line(3, None, "x")].concat().into_bytes(), "line 2: seq 3 follows 1"),
        ([line(2, None, "x"), line(1, None, "x")].concat().into_bytes(), "line 2: seq 1 follows 2"),
        (long.into_bytes(), "text is 66560 bytes long"),
        (line(1, None, "x").replace("\"worker-1\"", "\"\"").into_bytes(), "server is empty"),
        (format!("[{}]", line(1, None, "x").trim()).into_bytes(), "line 1"),
        ("[".repeat(100_000).into_bytes(), "line 1"),
    ];
    for (body, words) in unprocessable {
        let problem = refused(service.append(body).await, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert!(problem.detail.contains(words), "{:?} does not say {words:?}", problem.detail);
    }
    let large = vec![b'\n'; (4 << 20) + 1];
    refused(service.append(large.clone()).await, StatusCode::PAYLOAD_TOO_LARGE).await;

    let path = format!("/builds/b-1/attempts/{ATTEMPT}/log");
    let send = |encoding: &'static str, body: Vec<u8>| {
        service.worker(Method::POST, &path).header("content-encoding", encoding).body(body).send()
    };
    let gzip = |bytes: &[u8]| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    };
    // A hundred megabytes in a few kilobytes.
    let bomb = vec![b'\n'; 100 << 20];
    for (encoding, packed) in [("gzip", gzip(&bomb)), ("zstd", zstd::bulk::compress(&bomb, 1).unwrap())] {
        assert!(packed.len() < 200 << 10);
        let problem = refused(send(encoding, packed).await.unwrap(), StatusCode::PAYLOAD_TOO_LARGE).await;
        assert!(problem.detail.contains("when decompressed"), "{}", problem.detail);
        let broken = send(encoding, b"nonsense".to_vec()).await.unwrap();
        refused(broken, StatusCode::BAD_REQUEST).await;
    }
    refused(send("br", Vec::new()).await.unwrap(), StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
    assert_eq!(service.log("").await, line(0, None, "first"));
    for (encoding, packed) in [
        ("gzip", gzip(line(1, None, "x").as_bytes())),
        ("zstd", zstd::bulk::compress(line(2, None, "x").as_bytes(), 1).unwrap()),
    ] {
        assert_eq!(send(encoding, packed).await.unwrap().status(), StatusCode::OK);
    }
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_builds_and_attempts_are_told_apart_from_nothing() {
    let service = Service::start().await;
    service.claimed().await;
    let other = "0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c12";
    for path in [
        format!("/builds/b-1/attempts/{other}/log"),
        format!("/builds/b-2/attempts/{ATTEMPT}/log"),
        "/builds/b-1/attempts/1/log".to_owned(),
        format!("/builds/b.1/attempts/{ATTEMPT}/log"),
    ] {
        let answer = service.worker(Method::POST, &path).body(line(0, None, "x")).send().await.unwrap();
        let problem = refused(answer, StatusCode::NOT_FOUND).await;
        assert_eq!(problem.kind, "urn:buildgrid:unknown-attempt", "{path}");
    }
    // Another build cannot take an attempt's id.
    let body = super::claim(&event("b-2", "acme", "shop"), ATTEMPT);
    let answer = service.worker(Method::PUT, "/builds/b-2").json(&body).send().await.unwrap();
    refused(answer, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(service.get("/builds").await["items"].as_array().unwrap().len(), 1, "b-2 is not there");
    service.timeline.finish().await;
}
