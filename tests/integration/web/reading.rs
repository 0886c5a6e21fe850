//! Reading a stored log: ranges, filters, words, downloads.

use buildgrid::timeline::protocol::Problem;
use reqwest::{Method, StatusCode};

use super::{Service, line, refused};

/// A log of 5,000 lines, of which each hundredth has a word.
async fn long(service: &Service) -> Vec<String> {
    service.claimed().await;
    let text = |seq: u64| if seq % 100 == 7 { "a Needle in hay" } else { "hay hay hay" };
    let lines: Vec<String> = (0..5000).map(|seq| line(seq, None, text(seq))).collect();
    for part in lines.chunks(700) {
        assert_eq!(service.append(part.concat()).await.status(), StatusCode::OK);
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn any_range_and_any_filter_gives_what_was_written() {
    let service = Service::start().await;
    let lines = long(&service).await;
    assert_eq!(service.log("").await, lines.concat());
    assert_eq!(service.log("?after=4321&limit=10").await, lines[4322..4332].concat());
    assert_eq!(service.log("?after=4999").await, "");
    assert_eq!(service.log("?after=18446744073709551615").await, "");
    assert_eq!(service.log("?limit=1").await, lines[0]);
    let found = service.log("?q=nEEdle").await;
    assert_eq!(found.lines().count(), 50);
    assert_eq!(service.log("?q=nowhere").await, "");
    assert_eq!(service.log("?q=stdout").await, "", "words of the text alone");
    assert_eq!(
        service.log("?service=web&limit=2").await,
        lines[..2].concat(),
        "a build's lines are every service's"
    );
    assert_eq!(service.log("?server=worker-2").await, "");
    assert_eq!(service.log("?stream=stderr").await, "");
    assert_eq!(service.log("?step=%5B1/1%5D%20RUN%20x&limit=1").await, lines[0]);

    // The link to the next page leads to all of it, and to nothing twice.
    let (mut path, mut whole) = ("/builds/b-1/log?q=needle&limit=20".to_owned(), String::new());
    for _ in 0..3 {
        let answer = service.maestro(Method::GET, &path).send().await.unwrap();
        let link = answer.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
        whole += &answer.text().await.unwrap();
        let Some(link) = link else { break };
        path = link.trim_start_matches("</api/v1").split('>').next().unwrap().to_owned();
    }
    assert_eq!(whole, found);
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_for_people_and_harmless() {
    let service = Service::start().await;
    service.claimed().await;
    service.append(line(0, None, r"\u001b[2J\u001b[31mred <b>")).await;
    let text = service.log("?format=text").await;
    assert!(text.contains("[1/1] RUN x | \\u{1b}[2J\u{1b}[31mred <b>\u{1b}[0m"), "{text:?}");
    let accepted = service.maestro(Method::GET, "/builds/b-1/log").header("accept", "text/plain");
    let accepted = accepted.send().await.unwrap();
    assert_eq!(accepted.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(accepted.text().await.unwrap(), text);
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_is_none_is_refused() {
    let service = Service::start().await;
    service.claimed().await;
    for bad in [
        "after=-1",
        "after=x",
        "limit=0",
        "limit=20001",
        "format=html",
        "stream=out",
        "attempt=x",
        "colour=red",
        "namespace=acme",
        &format!("q={}", "x".repeat(1025)),
        &format!("service={}", "x".repeat(1025)),
    ] {
        let answer = service.maestro(Method::GET, &format!("/builds/b-1/log?{bad}")).send().await.unwrap();
        refused(answer, StatusCode::BAD_REQUEST).await;
    }
    let other = "/builds/b-1/log?attempt=0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c12";
    refused(service.maestro(Method::GET, other).send().await.unwrap(), StatusCode::NOT_FOUND).await;
    refused(service.maestro(Method::GET, "/builds/b-2/log").send().await.unwrap(), StatusCode::NOT_FOUND)
        .await;
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_no_longer_kept_is_gone_and_its_build_is_not() {
    let service = Service::start().await;
    long(&service).await;
    service.forget_logs().await;

    let answer = service.maestro(Method::GET, "/builds/b-1/log").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::GONE);
    let problem: Problem = answer.json().await.unwrap();
    assert!(problem.detail.contains("history.keep_logs"), "{}", problem.detail);
    for what in ["outline", "hits?q=hay"] {
        let answer = service.maestro(Method::GET, &format!("/builds/b-1/log/{what}")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::GONE, "{what}");
    }
    let attempt = &service.get("/builds/b-1").await["attempts"][0];
    // Who follows the build waits for the next attempt; of this one nothing comes any more.
    let follow =
        |path: String| service.maestro(Method::GET, &path).header("accept", "text/event-stream").send();
    let of_attempt = format!("/builds/b-1/log?attempt={}", attempt["id"].as_str().unwrap());
    assert_eq!(follow(of_attempt).await.unwrap().status(), StatusCode::GONE);
    assert_eq!(follow("/builds/b-1/log".to_owned()).await.unwrap().status(), StatusCode::OK);
    assert_eq!(attempt["entries"], 5000);
    assert!(attempt["log_removed_at"].is_string(), "{attempt}");
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outline_lays_a_log_out_without_its_lines() {
    let service = Service::start().await;
    service.claimed().await;
    assert_eq!(service.get("/builds/b-1/log/outline").await["blocks"], serde_json::json!([]));
    let of_step = |seq: u64, step: &str, service: Option<&str>| {
        line(seq, service, &"x".repeat(200)).replace("[1/1] RUN x", step)
    };
    // Two steps that take turns, of which one has lines of two services; more than one block of them.
    let lines: Vec<String> = (0..4000)
        .map(|seq| match seq % 4 {
            0 => of_step(seq, "a", None),
            1 => of_step(seq, "b", Some("web")),
            _ => of_step(seq, "b", Some("worker")),
        })
        .collect();
    for part in lines.chunks(1500) {
        assert_eq!(service.append(part.concat()).await.status(), StatusCode::OK);
    }
    let sums = |outline: &serde_json::Value, step: &str, key: &str| -> u64 {
        let blocks = outline["blocks"].as_array().unwrap().iter();
        let parts = blocks.flat_map(|block| block["parts"].as_array().unwrap());
        parts.filter(|part| part["step"] == step).map(|part| part[key].as_u64().unwrap()).sum()
    };
    let whole = service.get("/builds/b-1/log/outline").await;
    assert!(whole["blocks"].as_array().unwrap().len() > 1);
    assert_eq!((&whole["next_seq"], &whole["complete"]), (&4000.into(), &false.into()));
    assert_eq!((sums(&whole, "a", "entries"), sums(&whole, "b", "entries")), (1000, 3000));
    let web = service.get("/builds/b-1/log/outline?service=web").await;
    assert_eq!((sums(&web, "a", "matching"), sums(&web, "b", "matching")), (1000, 1000));
    assert_eq!(sums(&web, "b", "entries"), 3000, "what is hidden is counted");
    // What is new since a block.
    let last = whole["blocks"].as_array().unwrap().last().unwrap().clone();
    let after = last["first_seq"].as_u64().unwrap();
    let rest = service.get(&format!("/builds/b-1/log/outline?after={after}")).await;
    assert_eq!(rest["blocks"], serde_json::json!([last]));
    // The lines of a block, as the outline has counted them.
    let block = &web["blocks"][1];
    let (first, entries) = (block["first_seq"].as_u64().unwrap(), block["entries"].as_u64().unwrap());
    let query = format!("?service=web&after={}&before={}", first - 1, first + entries);
    let matching: u64 =
        block["parts"].as_array().unwrap().iter().map(|part| part["matching"].as_u64().unwrap()).sum();
    assert_eq!(service.log(&query).await.lines().count() as u64, matching);
    assert_eq!(service.log("?after=9&before=12").await, lines[10..12].concat());
    assert_eq!(service.log("?after=9&before=3").await, "");

    let hits = service.get("/builds/b-1/log/hits?q=XX&step=a&limit=3").await;
    assert_eq!(hits, serde_json::json!({"count": 1000, "seqs": [0, 4, 8], "next_seq": 4000}));
    let hits = service.get("/builds/b-1/log/hits?q=xx&after=3990&service=worker").await;
    assert_eq!(hits["seqs"], serde_json::json!([3991, 3992, 3994, 3995, 3996, 3998, 3999]));
    // Both end where they are asked to.
    let hits = service.get("/builds/b-1/log/hits?q=xx&step=a&after=0&before=9").await;
    assert_eq!(hits, serde_json::json!({"count": 2, "seqs": [4, 8], "next_seq": 9}));
    let first = service.get("/builds/b-1/log/outline?before=1").await;
    assert_eq!(
        (first["blocks"].as_array().unwrap().len(), &first["next_seq"]),
        (1, &serde_json::json!(4000))
    );
    assert!(whole["blocks"].as_array().unwrap().len() > 1);
    // Searches wait for each other, and each is answered.
    let searches = (0..24).map(|_| service.get("/builds/b-1/log/hits?q=xx&limit=1"));
    let (found, listed) = tokio::join!(futures::future::join_all(searches), service.get("/builds"));
    assert!(found.iter().all(|found| found["count"] == 4000) && found.len() == 24, "{found:?}");
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    for bad in
        ["outline?q=x", "outline?before=x", "hits", "hits?q=", "hits?q=x&limit=0", "hits?q=x&namespace=y"]
    {
        let answer = service.maestro(Method::GET, &format!("/builds/b-1/log/{bad}")).send().await.unwrap();
        refused(answer, StatusCode::BAD_REQUEST).await;
    }
    service.timeline.finish().await;
}
