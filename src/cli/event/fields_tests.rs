//! Tests of the flags that describe an event.

use clap::Parser;

use super::super::EventArgs;
use super::*;
use crate::event::deploy::{DeployEvent, Work};

#[derive(Debug, Parser)]
struct Program {
    #[command(flatten)]
    args: EventArgs,
}

fn parse(line: &str) -> Result<Program, clap::Error> {
    let words = std::iter::once("enqueue").chain(line.split_whitespace());
    Program::try_parse_from(words)
}

fn events(line: &str) -> Vec<DeployEvent> {
    let Program { args } = parse(line).unwrap();
    let bodies = args.fields.events(&args.pretence).unwrap();
    let parsed = bodies.iter().map(|body| DeployEvent::parse(body).unwrap());
    parsed.map(|(event, ignored)| (ignored.is_empty()).then_some(event).unwrap()).collect()
}

const COMMIT: &str = "9fceb02d0ae598e95dc970b74767f19372d61af8";

#[test]
fn every_flag_reaches_the_event() {
    let line = format!(
        "--namespace acme --app shop --repository https://h/acme/storefront.git --repository-name front \
         --commit {COMMIT} --ref refs/heads/main --root sub --dockerfile D --target t --arg A=b=c --arg E= \
         --secret npm --ssh default --platform linux/arm64 --no-cache --timeout 30m --variant debug --rebuild \
         --service web --service worker --id e-1 --deploy-id d-1 --requested-by me"
    );
    let [event] = &events(&line)[..] else { panic!("one event") };
    assert_eq!(event.image().to_string(), format!("acme/shop.front:{COMMIT}-debug"));
    assert_eq!(event.services, ["web", "worker"]);
    assert_eq!((event.id.as_str(), event.deploy_id.as_deref()), ("e-1", Some("d-1")));
    assert_eq!(event.requested_by.as_deref(), Some("me"));
    assert_eq!(event.git_ref.as_deref(), Some("refs/heads/main"));
    let options = &event.options;
    assert_eq!((options.root.as_str(), options.dockerfile.as_str()), ("sub", "D"));
    assert_eq!((options.args["A"].as_str(), options.args["E"].as_str()), ("b=c", ""));
    assert!(
        options.secrets.contains("npm")
            && options.ssh.contains("default")
            && options.no_cache
            && options.rebuild
    );
    assert_eq!(options.timeout, Some(Duration::from_secs(1800)));
    assert_eq!((options.target.as_deref(), options.platform.as_deref()), (Some("t"), Some("linux/arm64")));
}

#[test]
fn fakes_have_defaults_and_come_in_numbers() {
    let one = events("--fake --seed 7 --outcome build_failed --log-lines 3 --layers 1 --layer-bytes 10");
    assert!(one[0].image().to_string().starts_with("smoke/smoke.fake:"));
    let Work::Fake(fake) = &one[0].work else { panic!("a fake") };
    assert_eq!((fake.seed, fake.log_lines, fake.layers, fake.layer_bytes), (7, 3, 1, 10));
    assert_eq!(fake.outcome, FakeOutcome::BuildFailed);
    assert_eq!(one[0].commit, events("--fake --seed 7")[0].commit);

    let many = events("--fake --count 3 --id x --seed 1");
    assert_eq!(many.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["x-0", "x-1", "x-2"]);
    let images: std::collections::HashSet<_> = many.iter().map(|event| event.image().to_string()).collect();
    assert_eq!(images.len(), 3);
}

#[test]
fn what_makes_no_sense_is_a_matter_of_usage() {
    for bad in [
        "",
        "--wait",
        "event.json --app shop",
        "event.json --fake",
        "--fake --repository https://h/x",
        "--app shop --count 2",
        "--fake --count 0",
        "--fake --outcome wonderful",
        "--app shop --arg NAME",
    ] {
        assert!(parse(bad).is_err(), "{bad:?} was taken");
    }
    for bad in ["--app shop", "--fake --count 2 --commit 9fceb02d0ae598e95dc970b74767f19372d61af8"] {
        let Program { args } = parse(bad).unwrap();
        let failure = args.fields.events(&args.pretence).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{bad:?}");
    }
    assert!(parse("-").is_ok());
}
