//! The form and the event that is made of it, there and back, and what it says of faults.

use super::*;
use crate::config::Config;
use crate::web::access::Role;

const COMMIT: &str = "9fceb02d0ae598e95dc970b74767f19372d61af8";

fn member(namespaces: &str) -> Principal {
    Principal { name: "mara".to_owned(), role: Role::Member, namespaces: namespaces.parse().unwrap() }
}

fn rules(text: &str) -> Rules {
    Rules::of(&Config::parse("f", text, []).unwrap())
}

/// A form with these fields, beside those that make a good one.
fn form(fields: &[(&str, &str)]) -> BuildForm {
    let usual = [
        ("namespace", "acme"),
        ("app", "shop"),
        ("repository", "https://git.example.com/acme/storefront.git"),
        ("commit", COMMIT),
    ];
    let kept = usual.iter().filter(|(name, _)| fields.iter().all(|(other, _)| other != name));
    let mut body = url::form_urlencoded::Serializer::new(String::new());
    body.extend_pairs(kept.chain(fields));
    BuildForm::read(body.finish().as_bytes())
}

fn faults(form: &BuildForm) -> Vec<(Option<&'static str>, String)> {
    let faults = form.event(&member("acme"), &rules("")).unwrap_err();
    faults.into_iter().map(|fault| (fault.field, fault.what)).collect()
}

#[test]
fn what_is_typed_becomes_an_event() {
    let form = form(&[
        ("commit", &format!(" {COMMIT}\n")),
        ("ref", "main"),
        ("services", "web, worker"),
        ("target", "run time"),
        ("args", "A=1\r\n\r\nB=x=y \r\n"),
        ("timeout", "60"),
        ("no_cache", "yes"),
        ("variant", ""),
    ]);
    let bytes = form.event(&member("acme"), &rules("")).unwrap();
    let (event, ignored) = DeployEvent::parse(&bytes).unwrap();
    assert_eq!(
        (ignored.len(), event.id.clone(), event.requested_by.as_deref()),
        (0, form.id.clone(), Some("mara"))
    );
    assert_eq!(
        (event.git_ref.as_deref(), event.services),
        (Some("refs/heads/main"), vec!["web".into(), "worker".into()])
    );
    assert_eq!((event.options.no_cache, event.options.rebuild, event.options.variant), (true, false, None));
    assert_eq!((event.options.args["A"].as_str(), event.options.args["B"].as_str()), ("1", "x=y "));
    assert_eq!(bytes, form.event(&member("acme"), &rules("")).unwrap(), "sent twice, it is one build");
}

#[test]
fn all_that_is_wrong_is_told_at_once_each_at_its_field() {
    let form = form(&[
        ("namespace", "a.b"),
        ("app", ""),
        ("commit", "main"),
        ("repository", "https://user:pw@h/x"),
        ("root", "../x"),
        ("services", "Web"),
        ("args", "A=1\nnonsense"),
        ("timeout", "1h"),
        ("platform", "amd64"),
        ("secrets", "../x"),
        ("variant", "A B"),
        ("ref", "a..b"),
        ("fake", "{\"layers\": 9999}"),
        ("rebuild", "no"),
        ("tagret", "x"),
        ("a", ""),
        ("a", ""),
    ]);
    let faults = faults(&form);
    let of = |field: Option<&str>| {
        let found: Vec<_> =
            faults.iter().filter(|(at, _)| *at == field).map(|(_, what)| what.as_str()).collect();
        assert_eq!(found.len(), 1, "{field:?}: {faults:#?}");
        found[0]
    };
    for (field, words) in [
        ("namespace", "a.b"),
        ("app", "Is needed"),
        ("commit", "40 hex digits"),
        ("repository", "pw"),
        ("root", "leaves the repository"),
        ("services", "Web"),
        ("args", "Line 2 has no '='"),
        ("timeout", "\"1h\" is not a whole number of seconds"),
        ("platform", "linux/amd64"),
        ("secrets", "is not a name"),
        ("ref", "refs/heads/a..b"),
        ("fake", "at most 127"),
        ("rebuild", "not \"no\""),
    ] {
        if field == "repository" {
            assert!(!of(Some(field)).contains(words), "a password is not shown: {faults:#?}");
        } else {
            assert!(of(Some(field)).contains(words), "{field}: {faults:#?}");
        }
    }
    of(Some("variant"));
    assert!(of(None).contains("no field \"tagret\" (and others)"));
    assert_eq!(faults.len(), 15);
}

#[test]
fn logins_and_rules_are_told_at_the_field_that_they_are_about() {
    let refused = |form: &BuildForm, namespaces: &str, text: &str| {
        let mut faults = form.event(&member(namespaces), &rules(text)).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        let FieldFault { field, what } = faults.remove(0);
        (field.unwrap(), what)
    };
    let (field, what) = refused(&form(&[]), "smoke globex", "");
    assert_eq!(
        (field, what.as_str()),
        (NAMESPACE, "This login may not build in acme; it may in: globex, smoke")
    );
    let text = "[namespaces]\nacme = { repositories = [\"https://git.example.com/other\"] }\n";
    let (field, what) = refused(&form(&[]), "acme", text);
    assert!(field == REPOSITORY && what.contains("namespaces.acme.repositories allows"), "{what}");
    let (field, what) = refused(&form(&[("repository", ""), ("fake", "{}")]), "acme", "");
    assert!(field == NAMESPACE && what.contains("fake.namespaces"), "{what}");
    let fake = form(&[("repository", ""), ("fake", "{}"), ("namespace", "smoke")]);
    assert!(fake.event(&member("*"), &rules("")).is_ok());
    let bad = |fake| faults(&form(&[("repository", ""), ("fake", fake)]));
    let layers = "layers is 999; at most 127 is taken".to_owned();
    assert_eq!(bad("{\"layers\": 999}"), [(Some(FAKE), layers)], "the path is not the reader's");
    let nonsense = bad("{");
    assert!(nonsense.len() == 1 && nonsense[0].0 == Some(FAKE), "{nonsense:?}");
    assert_eq!(faults(&form(&[("repository", "")])), [(Some(REPOSITORY), "Is needed".to_owned())]);
}

#[test]
fn a_form_like_an_event_makes_that_event_again() {
    let event = json!({
        "version": 1, "id": "b-1", "namespace": "acme", "app": "shop", "services": ["web", "worker"],
        "repository": {"url": "https://git.example.com/acme/storefront.git", "name": "storefront"},
        "commit": COMMIT, "ref": "refs/tags/v1", "deploy_id": "d-1", "requested_by": "bot",
        "build": {"root": "a", "dockerfile": "b/Dockerfile", "target": "run", "args": {"A": "1", "B": "two\nlines"},
            "secrets": ["npm"], "ssh": ["git"], "platform": "linux/amd64", "timeout_s": 60, "variant": "slim",
            "no_cache": true, "rebuild": true},
    });
    let mut form = BuildForm::like(&event);
    assert_eq!((form.value("commit"), form.value("rebuild"), form.value("no_cache")), ("", "", ""));
    // An address fills in what is built, and not how or from where; of each the first value.
    let address = [("commit", ""), ("commit", COMMIT), ("commit", "x"), ("nonsense", "x")];
    form.fill(address.into_iter());
    form.fill(
        FIELDS.iter().filter(|field| !FROM_ADDRESS.contains(&field.name)).map(|field| (field.name, "{}")),
    );
    let made: Value = serde_json::from_slice(&form.event(&member("acme"), &rules("")).unwrap()).unwrap();
    for path in FIELDS.iter().map(|field| field.path).filter(|path| !path.starts_with("build.")) {
        let pointer = format!("/{}", path.replace('.', "/"));
        assert_eq!(made.pointer(&pointer), event.pointer(&pointer), "{path}");
    }
    for key in ["root", "dockerfile", "target", "args", "secrets", "ssh", "platform", "timeout_s", "variant"]
    {
        assert_eq!(made["build"][key], event["build"][key], "{key}");
    }
    assert_eq!((&made["deploy_id"], &made["build"]["rebuild"]), (&Value::Null, &Value::Null));
    let branch = json!({"ref": "refs/heads/refs/x"});
    assert_eq!(BuildForm::like(&branch).value("ref"), "refs/heads/refs/x");
    let nothing = BuildForm::like(&json!({"app": 7, "build": [], "services": "x", "commit": null}));
    assert!(nothing.event(&member("acme"), &rules("")).is_err());
}
