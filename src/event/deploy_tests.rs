//! Tests of the deploy event: what is taken, and every way in which one can be wrong.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::event::fake::FakeOutcome;

const COMMIT: &str = "9fceb02d0ae598e95dc970b74767f19372d61af8";

fn good() -> Value {
    json!({
        "version": 1,
        "id": "0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c11",
        "deploy_id": "shop-418",
        "namespace": "acme",
        "app": "shop",
        "services": ["web", "worker"],
        "repository": {"url": "https://git.example.com/acme/storefront.git", "name": "storefront"},
        "commit": COMMIT,
        "ref": "refs/heads/main",
        "build": {
            "root": ".", "dockerfile": "Dockerfile", "target": null,
            "args": {"RAILS_ENV": "production"}, "secrets": ["npm-token"],
            "platform": null, "no_cache": false, "timeout_s": 3600,
            "variant": null, "rebuild": false
        },
        "requested_by": "deploy-bot",
        "fake": null
    })
}

fn parse(event: &Value) -> Result<(DeployEvent, Vec<String>), Rejected> {
    DeployEvent::parse(event.to_string().as_bytes())
}

/// The good event with the value at a JSON pointer put there.
fn with(pointer: &str, value: Value) -> Value {
    let mut event = good();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    event.pointer_mut(parent).unwrap()[key] = value;
    event
}

fn without(pointer: &str) -> Value {
    let mut event = good();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    event.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key).unwrap();
    event
}

#[test]
fn the_documented_event_is_read_whole() {
    let bytes = good().to_string();
    let (event, ignored) = DeployEvent::parse(bytes.as_bytes()).unwrap();
    assert!(ignored.is_empty(), "{ignored:?}");
    assert_eq!(event.id.as_str(), "0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c11");
    assert_eq!(event.deploy_id.as_deref(), Some("shop-418"));
    assert_eq!(event.services, ["web", "worker"]);
    assert_eq!(event.image().to_string(), format!("acme/shop.storefront:{COMMIT}"));
    assert_eq!(event.git_ref.as_deref(), Some("refs/heads/main"));
    assert_eq!((event.options.root.as_str(), event.options.dockerfile.as_str()), ("", "Dockerfile"));
    assert_eq!(event.options.args["RAILS_ENV"], "production");
    assert!(event.options.secrets.contains("npm-token"));
    assert_eq!(event.options.timeout, Some(Duration::from_secs(3600)));
    assert_eq!(event.body, Digest::of(bytes.as_bytes()));
}

#[test]
fn what_is_left_out_has_its_default() {
    let least = json!({
        "version": 1, "id": "e", "namespace": "acme", "app": "shop",
        "repository": {"url": "https://git.example.com/acme/Store.Front.git"}, "commit": COMMIT.to_uppercase(),
    });
    let (event, _) = parse(&least).unwrap();
    assert_eq!(event.services, ["shop"]);
    assert_eq!(event.image().to_string(), format!("acme/shop.store.front:{COMMIT}"));
    assert_eq!((&event.deploy_id, &event.git_ref, &event.requested_by), (&None, &None, &None));
    let options = BuildOptions {
        root: String::new(),
        dockerfile: "Dockerfile".to_owned(),
        target: None,
        args: BTreeMap::new(),
        secrets: BTreeSet::new(),
        ssh: BTreeSet::new(),
        platform: None,
        no_cache: false,
        timeout: None,
        variant: None,
        rebuild: false,
    };
    assert_eq!(event.options, options);
}

#[test]
fn a_fake_needs_no_repository() {
    let mut event = without("/repository");
    event["fake"] = json!({"outcome": "hang", "layers": 1});
    let (event, _) = parse(&event).unwrap();
    assert_eq!(event.repository.as_str(), "fake");
    let expected = FakeBuild { layers: 1, outcome: FakeOutcome::Hang, ..FakeBuild::default() };
    assert_eq!(event.work, Work::Fake(expected));
}

#[test]
fn unknown_fields_are_ignored_and_told_outside_of_build() {
    let mut event = with("/repository/branch", json!("main"));
    event["priority"] = json!({"deep": [1, 2]});
    let (_, mut ignored) = parse(&event).unwrap();
    ignored.sort();
    assert!(ignored.iter().any(|path| path.contains("branch")), "{ignored:?}");
    assert!(ignored.iter().any(|path| path == "priority"), "{ignored:?}");
    assert_eq!(ignored.len(), 2);
}

#[test]
fn paths_are_made_plain() {
    for (given, plain) in
        [("./docker//images/./web/", "docker/images/web"), (".", ""), ("", ""), ("a..b/...", "a..b/...")]
    {
        let (event, _) = parse(&with("/build/root", json!(given))).unwrap();
        assert_eq!(event.options.root, plain);
    }
}

#[test]
fn bytes_that_are_no_event_are_told_apart() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let whole = good().to_string();
    let long = format!("{whole}{}", " ".repeat(MAX_EVENT));
    let text = |text: &str| text.as_bytes().to_vec();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "the event is empty"),
        ("blank", text("  \n"), "not JSON"),
        ("not UTF-8", b"{\"id\": \"\xff\"}".to_vec(), "not UTF-8"),
        ("UTF-16", "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect(), "not UTF-8"),
        ("a byte order mark", text("\u{feff}{}"), "not JSON"),
        ("truncated", text(&whole[..whole.len() / 2]), "EOF"),
        ("two events", text(&format!("{whole}{whole}")), "trailing characters"),
        ("deeply nested", text(&deep), "recursion limit"),
        ("deeply nested in a field", text(&format!("{{\"x\": {deep}")), "recursion limit"),
        ("too long", text(&long), "at most 1048576 are taken"),
        (
            "a duplicate key",
            text(&whole.replacen('{', "{\"id\": \"other\",", 1)),
            "the key \"id\" stands twice",
        ),
        (
            "a duplicate key, deep",
            text(&whole.replace("\"no_cache\":false", "\"no_cache\":false,\"no_cache\":true")),
            "the key \"no_cache\" stands twice",
        ),
        (
            "an escaped duplicate",
            text(&whole.replacen('{', "{\"i\\u0064\": \"x\",", 1)),
            "the key \"id\" stands twice",
        ),
        ("NUL, escaped", text(&whole.replace("deploy-bot", "a\\u0000b")), "NUL"),
        ("NUL in a key", text(&whole.replace("RAILS_ENV", "A\\u0000B")), "NUL"),
        ("NUL, bare", text(&whole.replace("deploy-bot", "a\0b")), "control character"),
        ("half a surrogate", text(&whole.replace("deploy-bot", "\\ud800")), "hex escape"),
        ("a number out of range", text(&whole.replace("3600", "1e999")), "out of range"),
        ("an array", text("[]"), "not a JSON object"),
        ("a string", text("\"event\""), "not a JSON object"),
        ("null", text("null"), "not a JSON object"),
    ];
    for (name, bytes, words) in cases {
        let rejected = DeployEvent::parse(&bytes).expect_err(name);
        assert!(rejected.reason.contains(words), "{name}: {}", rejected.reason);
        assert_eq!(rejected.identity, None, "{name}");
    }
}

#[test]
fn each_wrong_field_is_named_with_its_reason() {
    let long = "a".repeat(3000);
    let cases: Vec<(Value, &[&str])> = vec![
        (without("/version"), &["version", "missing"]),
        (with("/version", json!(2)), &["version 2", "version 1"]),
        (with("/version", json!("1")), &["version \"1\""]),
        (with("/version", json!(1.5)), &["version 1.5"]),
        (with("/version", json!(-1)), &["version -1"]),
        (with("/version", json!(null)), &["version null"]),
        (without("/commit"), &["commit", "missing"]),
        (with("/commit", json!("main")), &["commit:", "\"main\"", "40 hex digits", "never a branch"]),
        (with("/commit", json!("refs/heads/main")), &["commit:", "never a branch"]),
        (with("/commit", json!(&COMMIT[..7])), &["commit:", "40 hex digits"]),
        (with("/commit", json!("a".repeat(64))), &["commit:", "SHA-256"]),
        (with("/commit", json!(null)), &["commit:", "null"]),
        (with("/commit", json!(7)), &["commit:", "7"]),
        (without("/repository"), &["repository.url", "missing"]),
        (with("/repository", json!({})), &["repository.url", "missing"]),
        (with("/repository", json!("https://h/x")), &["repository:"]),
        (with("/repository/url", json!("../storefront")), &["repository.url:"]),
        (with("/repository/url", json!("file:///srv/x")), &["repository.url:", "file", "https"]),
        (with("/repository/url", json!("ext::sh -c id")), &["repository.url:"]),
        (with("/repository/url", json!("https://host/a/../x")), &["repository.url:", "'..'"]),
        (with("/repository/url", json!("https://me:hunter2@host/x")), &["repository.url:", "credentials"]),
        (with("/repository/url", json!(format!("https://h/{long}"))), &["repository.url:", "2048"]),
        (with("/repository/name", json!("../../etc")), &["repository.name:", "'..'"]),
        (with("/repository/name", json!("日本")), &["repository.name:", "日本"]),
        (with("/repository/name", json!("")), &["repository.name:"]),
        (with("/ref", json!("main")), &["ref:", "refs/heads/main"]),
        (with("/ref", json!("refs/heads/../x")), &["ref:"]),
        (with("/ref", json!("refs/heads/a b")), &["ref:"]),
        (with("/ref", json!("refs/heads/x.lock")), &["ref:"]),
        (with("/ref", json!("--upload-pack=x")), &["ref:"]),
        (with("/services", json!([])), &["services:", "0 services"]),
        (with("/services", json!(["web", "web"])), &["services:", "\"web\"", "twice"]),
        (with("/services", json!(["../x"])), &["services:", "../x"]),
        (with("/services", json!("web")), &["services:"]),
        (with("/services", json!([1])), &["services[0]:"]),
        (with("/services", json!(vec!["s"; 257])), &["services:", "256"]),
        (with("/deploy_id", json!(long)), &["deploy_id:", "256"]),
        (with("/deploy_id", json!("../x")), &["deploy_id:", "'..'"]),
        (with("/requested_by", json!("a\u{1b}[2J")), &["requested_by:", "control character"]),
        (with("/build", json!(["sub"])), &["build:", "not a JSON object"]),
        (with("/repository", json!(["https://h/x"])), &["repository:", "not a JSON object"]),
        (with("/fake", json!([])), &["fake:", "not a JSON object"]),
        (with("/build/dockerfil", json!("x")), &["build", "dockerfil"]),
        (with("/build/root", json!("../elsewhere")), &["build.root:", "'..'"]),
        (with("/build/root", json!("a/../../b")), &["build.root:", "'..'"]),
        (with("/build/root", json!("/etc")), &["build.root:", "relative"]),
        (with("/build/root", json!("a\\b")), &["build.root:"]),
        (with("/build/root", json!(long)), &["build.root:", "1024"]),
        (with("/build/dockerfile", json!("../Dockerfile")), &["build.dockerfile:", "'..'"]),
        (with("/build/dockerfile", json!(".")), &["build.dockerfile:", "names no file"]),
        (with("/build/dockerfile", json!("a\nb")), &["build.dockerfile:"]),
        (with("/build/target", json!("")), &["build.target:", "empty"]),
        (with("/build/args", json!({"A": 1})), &["build.args.A:"]),
        (with("/build/args", json!({"": "x"})), &["build.args:"]),
        (with("/build/args", json!({"A=B": "x"})), &["build.args:", "A=B"]),
        (with("/build/args", json!(["A=B"])), &["build.args:"]),
        (with("/build/secrets", json!(["../npm"])), &["build.secrets:", "../npm"]),
        (with("/build/secrets", json!([".npm"])), &["build.secrets:", ".npm"]),
        (with("/build/ssh", json!(["a/b"])), &["build.ssh:", "a/b"]),
        (with("/build/ssh", json!(vec!["default"; 257])), &["build.ssh:", "256"]),
        (with("/build/secrets", json!(vec!["npm"; 257])), &["build.secrets:", "256"]),
        (with("/build/platform", json!("linux")), &["build.platform:", "linux/amd64"]),
        (with("/build/platform", json!("linux/amd64/../x")), &["build.platform:"]),
        (with("/build/no_cache", json!("yes")), &["build.no_cache:"]),
        (with("/build/timeout_s", json!(-5)), &["build.timeout_s:", "-5", "1 to 86400"]),
        (with("/build/timeout_s", json!(0)), &["build.timeout_s:", "0 is out of range"]),
        (with("/build/timeout_s", json!(86_401)), &["build.timeout_s:", "86401"]),
        (with("/build/timeout_s", json!(u64::MAX)), &["build.timeout_s:"]),
        (with("/build/timeout_s", json!(1.5)), &["build.timeout_s:"]),
        (with("/build/variant", json!("Debug")), &["build.variant:", "Debug"]),
        (with("/build/variant", json!("../x")), &["build.variant:"]),
        (with("/fake", json!({"outcome": "wonderful"})), &["fake.outcome:", "wonderful"]),
        (with("/fake", json!({"lines": 1})), &["fake", "lines"]),
        (with("/fake", json!({"layers": 1000})), &["fake.layers", "1000", "127"]),
        (with("/fake", json!({"log_lines": -1})), &["fake.log_lines:", "-1"]),
    ];
    for (event, words) in cases {
        let rejected = parse(&event).expect_err(&event.to_string());
        for word in words {
            assert!(rejected.reason.contains(word), "{word:?} is not in {:?}", rejected.reason);
        }
        assert!(!rejected.reason.contains("hunter2"), "{}", rejected.reason);
        let identity = rejected.identity.expect("id, namespace and app are valid");
        assert_eq!((identity.namespace.as_str(), identity.app.as_str()), ("acme", "shop"));
    }
}

#[test]
fn parts_that_are_too_long_together_are_refused() {
    let named = |length: usize| {
        let mut event = with("/app", json!("a".repeat(96)));
        event["repository"]["name"] = json!("r".repeat(length));
        parse(&event)
    };
    let (event, _) = named(192 - "acme/.".len() - 96).unwrap();
    assert_eq!(event.image().repository.to_string().len(), 192);
    let reason = named(96).unwrap_err().reason;
    for word in ["repository.name:", "198", "at most 192", "shorter"] {
        assert!(reason.contains(word), "{word:?} is not in {reason:?}");
    }
}

#[test]
fn without_a_valid_identity_there_is_none() {
    let cases: Vec<(Value, &[&str])> = vec![
        (without("/id"), &["id", "missing"]),
        (with("/id", json!("")), &["id:", "event id"]),
        (with("/id", json!("../x")), &["id:", "event id"]),
        (with("/id", json!("a".repeat(65))), &["id:", "64"]),
        (with("/id", json!(7)), &["id:"]),
        (without("/namespace"), &["namespace", "missing"]),
        (with("/namespace", json!("Acme")), &["namespace:", "Acme"]),
        (with("/namespace", json!("acme.corp")), &["namespace:"]),
        (with("/namespace", json!("acme:5000")), &["namespace:"]),
        (with("/namespace", json!("localhost")), &["namespace:", "host"]),
        (with("/namespace", json!("..")), &["namespace:"]),
        (without("/app"), &["app", "missing"]),
        (with("/app", json!("shop.web")), &["app:", "shop.web"]),
        (with("/app", json!("../shop")), &["app:"]),
        (with("/app", json!("a".repeat(97))), &["app:", "96"]),
    ];
    for (event, words) in cases {
        let rejected = parse(&event).expect_err(&event.to_string());
        for word in words {
            assert!(rejected.reason.contains(word), "{word:?} is not in {:?}", rejected.reason);
        }
        assert_eq!(rejected.identity, None, "{}", rejected.reason);
    }
}

#[test]
fn a_reason_is_short_and_printable_whatever_it_quotes() {
    let long = "x".repeat(500_000);
    for pointer in ["/version", "/id", "/repository/name", "/ref", "/services", "/build/platform", "/fake"] {
        let rejected = parse(&with(pointer, json!(long))).unwrap_err();
        assert!(rejected.reason.len() < 1100, "{pointer}: {}", rejected.reason.len());
    }
    let rejected = parse(&with("/build/\u{1b}[2J", json!(1))).unwrap_err();
    assert!(!rejected.reason.contains('\u{1b}') && rejected.reason.contains("u{1b}"), "{}", rejected.reason);
}

#[test]
fn the_definition_changes_with_what_is_built_and_with_nothing_else() {
    let definition = |event: &Value| parse(event).unwrap().0.definition("linux/amd64");
    let base = definition(&good());
    for (pointer, value) in [
        ("/id", json!("other")),
        ("/services", json!(["web"])),
        ("/requested_by", json!(null)),
        ("/build/no_cache", json!(true)),
        ("/build/timeout_s", json!(1)),
        ("/build/root", json!("./")),
        ("/build/platform", json!("linux/amd64")),
    ] {
        assert_eq!(definition(&with(pointer, value)), base, "{pointer}");
    }
    for (pointer, value) in [
        ("/build/root", json!("sub")),
        ("/build/dockerfile", json!("Dockerfile.debug")),
        ("/build/target", json!("debug")),
        ("/build/args", json!({"RAILS_ENV": "test"})),
        ("/build/secrets", json!([])),
        ("/build/ssh", json!(["default"])),
        ("/build/platform", json!("linux/arm64")),
        ("/fake", json!({})),
    ] {
        assert_ne!(definition(&with(pointer, value)), base, "{pointer}");
    }
}

/// What holds for whatever comes in.
fn holds(bytes: &[u8]) -> Result<(), TestCaseError> {
    match DeployEvent::parse(bytes) {
        Ok((event, _)) => {
            let name = event.image().to_string();
            let (repository, tag) = name.split_once(':').expect("a name has a tag");
            prop_assert_eq!(repository.parse::<ImageRepository>().unwrap(), event.image().repository);
            prop_assert_eq!(tag.parse::<Tag>().unwrap(), event.image().tag);
            prop_assert!(!event.options.root.split('/').any(|part| part == ".."));
            event.definition("linux/amd64");
        }
        Err(rejected) => {
            prop_assert!(!rejected.reason.is_empty() && rejected.reason.len() < 1100);
            prop_assert!(!rejected.reason.chars().any(char::is_control));
        }
    }
    Ok(())
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        "[a-z0-9./_-]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z_]{0,8}", inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_an_event_or_a_reason(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        holds(&bytes)?;
    }

    #[test]
    fn a_damaged_event_is_an_event_or_a_reason(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..6)
    ) {
        let mut bytes = good().to_string().into_bytes();
        for (place, byte, kind) in edits {
            let place = place.index(bytes.len());
            match kind {
                0 => bytes[place] = byte,
                1 => bytes.insert(place, byte),
                _ => { bytes.remove(place); }
            }
        }
        holds(&bytes)?;
    }

    #[test]
    fn a_field_with_any_value_is_an_event_or_a_reason(
        pointer in prop::sample::select(vec![
            "/version", "/id", "/deploy_id", "/namespace", "/app", "/services", "/services/0", "/repository",
            "/repository/url", "/repository/name", "/commit", "/ref", "/build", "/build/root",
            "/build/dockerfile", "/build/target", "/build/args", "/build/args/RAILS_ENV", "/build/secrets",
            "/build/platform", "/build/no_cache", "/build/timeout_s", "/build/variant", "/build/rebuild",
            "/requested_by", "/fake",
        ]),
        value in json_value(),
    ) {
        let mut event = good();
        *event.pointer_mut(pointer).unwrap() = value;
        holds(event.to_string().as_bytes())?;
    }
}
