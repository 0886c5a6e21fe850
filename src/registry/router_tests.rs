//! Whatever is asked, however it is spelled and whatever lies in the store: the registry answers, never with a fault
//! of its own, and every refusal has the specification's form.

use std::sync::Mutex;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use data_encoding::BASE64;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

use super::*;
use crate::publish::name::ImageName;
use crate::registry::RegistryConfig;
use crate::serving::Proxies;
use crate::store::digest::Digest;
use crate::store::{Store, StoreConfig, TagPut};

const REPOSITORY: &str = "acme/shop.storefront";
const BLOB: usize = 1000;

/// All codes of the table.
const CODES: [&str; 11] = [
    "UNAUTHORIZED",
    "UNSUPPORTED",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "MANIFEST_UNKNOWN",
    "BLOB_UNKNOWN",
    "DIGEST_INVALID",
    "PAGINATION_NUMBER_INVALID",
    "RANGE_INVALID",
    "TOOMANYREQUESTS",
    "UNAVAILABLE",
];

fn image_name() -> ImageName {
    ImageName { repository: REPOSITORY.parse().unwrap(), tag: "v1".parse().unwrap() }
}

/// A registry in memory, of a store with one image.
struct Fixture {
    runtime: Runtime,
    router: Router,
    store: Store,
    login: String,
    blob: Vec<u8>,
    _root: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreConfig::at(root.path().to_owned())).unwrap();
        let blob: Vec<u8> = (0..BLOB).map(|place| (place % 251) as u8).collect();
        let login = runtime.block_on(async {
            let name = image_name();
            let digest = store.put_blob(blob.clone()).await.unwrap();
            store.link_blobs(&name.repository, vec![digest]).await.unwrap();
            let blob = json!({"mediaType": "a/b", "digest": digest, "size": BLOB});
            let manifest = json!({"schemaVersion": 2, "config": blob, "layers": [blob]}).to_string();
            let manifest = store.put_manifest(&name.repository, manifest.into()).await.unwrap();
            store.put_tag(&name, manifest, TagPut::IfAbsent).await.unwrap();
            let made = store.add_credential([name.repository.namespace].into()).await.unwrap();
            format!("{}:{}", made.credential.user, made.password.expose_secret())
        });
        let registry = Registry::new(RegistryConfig::default(), Proxies::default(), store.clone());
        let login = format!("Basic {}", BASE64.encode(login.as_bytes()));
        Self { runtime, router: router(registry), store, login, blob, _root: root }
    }

    fn digest(&self) -> Digest {
        Digest::of(&self.blob)
    }

    fn answer(&self, method: Method, uri: Uri, headers: HeaderMap) -> Response<Bytes> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        self.runtime.block_on(async {
            let (head, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
            Response::from_parts(head, axum::body::to_bytes(body, usize::MAX).await.unwrap())
        })
    }

    /// GET and HEAD with a login, and GET without: each is answered as the module says. Answers the first.
    fn ask(&self, target: &[u8], mut headers: HeaderMap) -> Result<Option<Response<Bytes>>, TestCaseError> {
        // Of others a client never hears an answer of ours: they are no HTTP.
        let Ok(uri) = Uri::try_from(target) else { return Ok(None) };
        is_refused_in_form(&uri, &self.answer(Method::GET, uri.clone(), headers.clone()))?;
        headers.entry(header::AUTHORIZATION).or_insert(self.login.parse().unwrap());
        let answer = self.answer(Method::GET, uri.clone(), headers.clone());
        is_refused_in_form(&uri, &answer)?;
        // A range is one of GET's alone.
        headers.remove(header::RANGE);
        let whole = self.answer(Method::GET, uri.clone(), headers.clone()).status();
        let head = self.answer(Method::HEAD, uri.clone(), headers);
        prop_assert_eq!(head.status(), whole, "HEAD {}", uri);
        prop_assert!(head.body().is_empty());
        Ok(Some(answer))
    }
}

fn is_refused_in_form(uri: &Uri, answer: &Response<Bytes>) -> TestCaseResult {
    let status = answer.status();
    prop_assert!(!status.is_server_error(), "{} for {}", status, uri);
    if status.is_client_error() && is_api(uri) {
        prop_assert_eq!(&answer.headers()[header::CONTENT_TYPE], "application/json");
        let body: Value = serde_json::from_slice(answer.body()).map_err(|error| {
            TestCaseError::fail(format!("{error}: {status} for {uri}: {:?}", answer.body()))
        })?;
        let error = &body["errors"][0];
        prop_assert!(CODES.contains(&error["code"].as_str().unwrap_or_default()), "{}", body);
        prop_assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{}", body);
    }
    Ok(())
}

fn headers(lines: &[(header::HeaderName, Vec<u8>)]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(name.clone(), HeaderValue::from_bytes(value).ok()?);
    }
    Some(headers)
}

/// What looks like a range, more or less.
fn range() -> impl Strategy<Value = Vec<u8>> {
    let number = || prop_oneof!["", "[0-9]{1,4}", "[0-9]{18,22}", "-[0-9]"];
    prop_oneof![
        8 => (number(), number()).prop_map(|(first, last)| format!("bytes={first}-{last}").into_bytes()),
        1 => "(bytes|items|)( )?=[0-9, -]{0,20}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..30),
    ]
}

#[test]
fn a_part_of_a_blob_is_the_part_that_its_answer_says() {
    let fixture = Fixture::new();
    let target = format!("/v2/{REPOSITORY}/blobs/{}", fixture.digest());
    let seen = Mutex::new(BTreeSet::new());
    proptest!(|(range in range(), condition in prop::option::of(prop_oneof!["\"sha256:[0-9a-f]{4}\"", "\\PC{0,9}"]))| {
        let mut lines = vec![(header::RANGE, range)];
        lines.extend(condition.map(|condition| (header::IF_RANGE, condition.into_bytes())));
        let Some(headers) = headers(&lines) else { return Ok(()) };
        let answer = fixture.ask(target.as_bytes(), headers)?.unwrap();
        seen.lock().unwrap().insert(answer.status().as_u16());
        let said = answer.headers().get(header::CONTENT_RANGE).map(|said| said.to_str().unwrap());
        match answer.status() {
            StatusCode::OK => prop_assert_eq!(answer.body(), &fixture.blob),
            StatusCode::PARTIAL_CONTENT => {
                let said = said.and_then(|said| said.strip_prefix("bytes ")?.strip_suffix(&format!("/{BLOB}")));
                let (first, last) = said.and_then(|said| said.split_once('-')).unwrap();
                let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
                prop_assert_eq!(answer.body(), &fixture.blob[first..=last]);
            }
            status => {
                prop_assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE);
                prop_assert_eq!(said, Some(&*format!("bytes */{BLOB}")));
            }
        }
    });
    assert_eq!(seen.into_inner().unwrap(), [200, 206, 416].into());
}

#[test]
fn the_challenge_names_the_host_of_the_newest_configuration() {
    let fixture = Fixture::new();
    let mut config = crate::config::Config::default();
    config.registry.public_namespaces = ["acme".parse().unwrap()].into();
    let (newest, live) = Live::new(&config);
    let registry = Registry::new(config.registry.clone(), Proxies::default(), fixture.store.clone());
    let router = router(registry.following(live));
    let challenge = || {
        let request = Request::get("/v2/").body(Body::empty()).unwrap();
        let answer = fixture.runtime.block_on(router.clone().oneshot(request)).unwrap();
        answer.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().to_owned()
    };
    assert_eq!(challenge(), r#"Bearer realm="http://localhost:5000/v2/_token",service="localhost:5000""#);
    config.registry.host = "images.example.com".to_owned();
    newest.send_replace(std::sync::Arc::new(config));
    assert_eq!(
        challenge(),
        r#"Bearer realm="https://images.example.com/v2/_token",service="images.example.com""#
    );
}

/// A part of a path: what may be there, what an attacker would write, and anything.
fn part() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["acme", "shop.storefront", "v1", "manifests", "blobs", "tags", "list", "referrers", "_catalog", "_token"]).prop_map(str::to_owned),
        1 => prop::sample::select(vec!["..", ".", "", "%2e%2e", "%2F", "%252e", "%00", "%ff", "%", "%zz", "sha256:", "*"]).prop_map(str::to_owned),
        1 => "[a-z0-9._%:/-]{0,80}",
        1 => "\\PC{0,20}".prop_map(|text| percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC).to_string()),
    ]
}

#[test]
fn any_path_is_answered_or_refused() {
    let fixture = Fixture::new();
    let tail = prop_oneof![
        prop::collection::vec(part(), 0..7).prop_map(|parts| parts.join("/").into_bytes()),
        (part(), part(), part(), part()).prop_map(|(namespace, name, kind, of)| {
            format!("{namespace}/{name}/{kind}/{of}").into_bytes()
        }),
        prop::collection::vec(any::<u8>(), 0..60),
    ];
    proptest!(|(mut path in tail)| {
        path.splice(0..0, *b"/v2/");
        fixture.ask(&path, HeaderMap::new())?;
    });
}

#[test]
fn any_query_is_answered_or_refused() {
    let fixture = Fixture::new();
    let routes =
        ["_catalog".to_owned(), "_token".to_owned(), format!("{REPOSITORY}/tags/list")].into_iter().chain([
            format!("{REPOSITORY}/referrers/{}", Digest::of(b"x")),
            format!("{REPOSITORY}/manifests/v1"),
        ]);
    let routes: Vec<_> = routes.collect();
    let pair = prop_oneof![
        ("(n|last|artifactType)", "(-?[0-9]{0,25}|[a-z%0-9=/+]{0,30})")
            .prop_map(|(key, value)| format!("{key}={value}")),
        "[a-z0-9%=&;+?/]{0,40}",
    ];
    let query = prop::collection::vec(pair, 0..4).prop_map(|pairs| pairs.join("&"));
    proptest!(|(route in prop::sample::select(routes), query in query)| {
        let answer = fixture.ask(format!("/v2/{route}?{query}").as_bytes(), HeaderMap::new())?;
        if let Some(answer) = answer.filter(|answer| answer.status() == StatusCode::OK) {
            prop_assert!(serde_json::from_slice::<Value>(answer.body()).is_ok());
        }
    });
}

#[test]
fn any_headers_are_answered_or_refused() {
    let fixture = Fixture::new();
    let digest = fixture.digest();
    let routes = [
        "".to_owned(),
        "_token".to_owned(),
        format!("{REPOSITORY}/manifests/v1"),
        format!("{REPOSITORY}/blobs/{digest}"),
    ];
    let names = vec![
        header::AUTHORIZATION,
        header::RANGE,
        header::IF_RANGE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::ACCEPT,
        header::ACCEPT_ENCODING,
        header::HOST,
        header::CONTENT_LENGTH,
        header::USER_AGENT,
        header::FORWARDED,
        "x-forwarded-for".parse().unwrap(),
    ];
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        "(Basic|basic|Bearer|Digest) ?[A-Za-z0-9+/=]{0,60}".prop_map(String::into_bytes),
        "[a-z]{0,9}(:[a-z]{0,9})?"
            .prop_map(|login| format!("Basic {}", BASE64.encode(login.as_bytes())).into_bytes()),
        "(W/)?\"sha256:[0-9a-f]{0,64}\"(, ?\\*)?".prop_map(String::into_bytes),
        "x{10000}".prop_map(String::into_bytes),
    ];
    let lines = prop::collection::vec((prop::sample::select(names), value), 0..6);
    proptest!(|(route in prop::sample::select(routes.to_vec()), lines in lines)| {
        let Some(headers) = headers(&lines) else { return Ok(()) };
        fixture.ask(format!("/v2/{route}").as_bytes(), headers)?;
    });
}

#[test]
fn any_bytes_are_served_as_the_manifest_that_they_were_put_as() {
    let fixture = Fixture::new();
    let subject = Digest::of(b"subject");
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("7".to_owned()),
        "\"\\PC{0,20}\"",
        Just(format!("{{\"digest\":\"{subject}\"}}")),
        Just("{\"mediaType\":\"a/b\"}".to_owned()),
    ];
    let key = "(mediaType|manifests|subject|artifactType|config|annotations|x)";
    let manifest = prop_oneof![
        3 => prop::collection::vec((key, value), 0..5).prop_map(|pairs| {
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
            format!("{{{}}}", pairs.join(",")).into_bytes()
        }),
        1 => prop::collection::vec(any::<u8>(), 0..100),
        1 => Just("[".repeat(100_000).into_bytes()),
    ];
    let name = image_name();
    // Each is waited for until it is on the disk.
    proptest!(ProptestConfig::with_cases(64), |(manifest in manifest)| {
        let put = fixture.store.put_manifest(&name.repository, manifest.clone());
        let digest = fixture.runtime.block_on(put).unwrap();
        let served = fixture.ask(format!("/v2/{REPOSITORY}/manifests/{digest}").as_bytes(), HeaderMap::new())?;
        let served = served.unwrap();
        prop_assert_eq!(served.status(), StatusCode::OK);
        prop_assert_eq!(served.body(), &manifest);
        let referrers = format!("/v2/{REPOSITORY}/referrers/{subject}");
        let listed = fixture.ask(referrers.as_bytes(), HeaderMap::new())?.unwrap();
        prop_assert_eq!(listed.status(), StatusCode::OK);
        prop_assert!(serde_json::from_slice::<oci_spec::image::ImageIndex>(listed.body()).is_ok());
    });
}
