//! Tenants who look over the fence: every route with every verb, by every login, of what is its own, another's and
//! nobody's. What is to be answered follows from one table; of another's there is no trace in any answer.

use std::collections::{BTreeSet, HashMap};

use buildgrid::registry::routes;
use buildgrid::store::digest::Digest;
use data_encoding::BASE64;
use secrecy::ExposeSecret as _;

use crate::support::image::{TestImage, image_name};
use crate::support::registry::TestRegistry;
use crate::support::wire::Answer;

const VERBS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"];

/// An image that its namespace alone may know of.
struct Owned {
    namespace: &'static str,
    repository: &'static str,
    tag: &'static str,
    image: TestImage,
}

impl Owned {
    /// What must not be seen by others: names, digests, and lengths as answers tell them.
    fn traces(&self) -> Vec<String> {
        let Owned { repository, tag, image, .. } = self;
        let mut traces = vec![(*repository).to_owned(), (*tag).to_owned()];
        traces.extend([&image.layer, &image.config, &image.manifest].map(|bytes| Digest::of(bytes).hex()));
        // Configurations of test images are all of one length.
        for bytes in [&image.layer, &image.manifest] {
            traces.push(format!("content-length: {}\n", bytes.len()));
            traces.push(format!("\"size\":{}", bytes.len()));
        }
        traces
    }
}

/// Who asks.
struct Login {
    name: &'static str,
    header: String,
    /// Whose images it may read; `None`: it is refused.
    namespaces: Option<BTreeSet<&'static str>>,
}

/// What a request is about.
#[derive(Clone)]
struct Target {
    path: String,
    pattern: &'static str,
    repository: String,
    reference: String,
}

fn targets(all: &[Owned]) -> Vec<Target> {
    let mut repositories: Vec<_> = all.iter().map(|owned| owned.repository.to_owned()).collect();
    repositories.extend(["acme/absent.x", "other/absent.x", "nobody/absent.x"].map(str::to_owned));
    let absent = Digest::of(b"absent").to_string();
    let mut references = vec!["absent".to_owned(), absent];
    for Owned { tag, image, .. } in all {
        references.push((*tag).to_owned());
        references.push(image.digest().to_string());
        references.extend([&image.layer, &image.config].map(|bytes| Digest::of(bytes).to_string()));
    }
    let mut targets = Vec::new();
    for pattern in routes() {
        let [repositories, references] = [
            if pattern.contains("{namespace}/{name}") { &repositories[..] } else { &[String::new()] },
            if pattern.contains("{reference}") || pattern.contains("{digest}") {
                &references[..]
            } else {
                &[String::new()]
            },
        ];
        for repository in repositories {
            for reference in references {
                let path = pattern.replace("{namespace}/{name}", repository);
                let path = path.replace("{reference}", reference).replace("{digest}", reference);
                assert!(!path.contains('{'), "{pattern} has a part that this test does not know");
                targets.push(Target {
                    path,
                    pattern,
                    repository: repository.clone(),
                    reference: reference.clone(),
                });
            }
        }
    }
    for path in ["x", "acme", "other/vault.secrets", "other/vault.secrets/blobs/uploads/", "_catalog/x"] {
        let path = format!("/v2/{path}");
        targets.push(Target { path, pattern: "", repository: String::new(), reference: String::new() });
    }
    targets
}

/// Status and code (of a refusal) that a request is to be answered with, where `public` is everybody's.
fn expected(
    all: &[Owned],
    public: Option<&'static str>,
    login: &Login,
    verb: &str,
    target: &Target,
) -> (u16, &'static str) {
    if !matches!(verb, "GET" | "HEAD") {
        return (405, "UNSUPPORTED");
    }
    let is_public =
        |public: &str| target.path.starts_with(&format!("/v2/{public}/")) || target.pattern == "/v2/_token";
    let mut namespaces = match &login.namespaces {
        Some(namespaces) => namespaces.clone(),
        None if login.header.is_empty() && public.is_some_and(is_public) => BTreeSet::new(),
        None => return (401, "UNAUTHORIZED"),
    };
    namespaces.extend(public);
    // As far as this login can know.
    let found = all
        .iter()
        .find(|owned| owned.repository == target.repository && namespaces.contains(owned.namespace));
    let is = |bytes: &[u8]| target.reference == Digest::of(bytes).to_string();
    let is_digest = target.reference.contains(':');
    let route = target.pattern.strip_prefix("/v2/{namespace}/{name}/").unwrap_or(target.pattern);
    let (is_there, code) = match route {
        "/v2" | "/v2/" | "/v2/_token" | "/v2/_catalog" => (true, ""),
        "blobs/{digest}" | "referrers/{digest}" if !is_digest => return (400, "DIGEST_INVALID"),
        "manifests/{reference}" => {
            let has = |owned: &Owned| target.reference == owned.tag || is(&owned.image.manifest);
            (found.is_some_and(has), "MANIFEST_UNKNOWN")
        }
        "blobs/{digest}" => {
            let has = |owned: &Owned| is(&owned.image.layer) || is(&owned.image.config);
            (found.is_some_and(has), "BLOB_UNKNOWN")
        }
        "tags/list" | "referrers/{digest}" => (found.is_some(), "NAME_UNKNOWN"),
        "" => (false, "NAME_UNKNOWN"),
        other => panic!("{other} is a new route: say here what it answers"),
    };
    if is_there { (200, "") } else { (404, code) }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_tells_of_another_namespace() {
    cross(TestRegistry::start().await, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_tells_of_another_namespace_where_one_is_public() {
    cross(TestRegistry::public().await, Some("acme")).await;
}

async fn cross(registry: TestRegistry, public: Option<&'static str>) {
    let all = [
        ("acme", "acme/shop.storefront", "own-tag", "hello"),
        (
            "other",
            "other/vault.secrets",
            "hidden-tag",
            "this is a longer text, which nobody else may know of",
        ),
    ]
    .map(|(namespace, repository, tag, text)| Owned {
        namespace,
        repository,
        tag,
        image: TestImage::saying(text),
    });
    for owned in &all {
        owned.image.publish(&registry.store, &image_name(owned.repository, owned.tag)).await;
    }
    let basic = |user: &str, password: &str| {
        format!("authorization: Basic {}\r\n", BASE64.encode(format!("{user}:{password}").as_bytes()))
    };
    let mut logins = Vec::new();
    for (name, namespaces) in [("acme", &["acme"][..]), ("other", &["other"]), ("both", &["acme", "other"])] {
        let of = namespaces.iter().map(|namespace| namespace.parse().unwrap()).collect();
        let added = registry.store.add_credential(of).await.unwrap();
        let header = basic(added.credential.user.as_str(), added.password.expose_secret());
        logins.push(Login { name, header, namespaces: Some(namespaces.iter().copied().collect()) });
    }
    for (name, header) in [
        ("none", String::new()),
        ("unknown", basic("acme-unknown", registry.password())),
        ("wrong", basic(registry.user(), "wrong")),
    ] {
        logins.push(Login { name, header, namespaces: None });
    }

    // One answer of each kind, which all others of that kind are to equal.
    let mut alike: HashMap<(bool, u16, &str), Answer> = HashMap::new();
    let mut asked = 0_u16;
    for target in targets(&all) {
        for login in &logins {
            for verb in VERBS {
                let Target { path, .. } = &target;
                let header = &login.header;
                let request =
                    format!("{verb} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n");
                // Each from another address: who is wrong too often would be told to wait.
                asked += 1;
                let [high, low] = asked.to_be_bytes();
                let answer = Answer::from([127, 1, high, low], &registry.host, request.as_bytes()).await;

                let asked = format!("{verb} {path} by {}", login.name);
                let (status, code) = expected(&all, public, login, verb, &target);
                assert_eq!(answer.status, status, "{asked}");
                if status != 200 {
                    if verb != "HEAD" {
                        assert_eq!(answer.code(), code, "{asked}");
                    }
                    let kind = (verb == "HEAD", status, code);
                    assert_eq!(alike.entry(kind).or_insert_with(|| answer.clone()), &answer, "{asked}");
                }
                if target.pattern == "/v2/_catalog" && verb == "GET" && status == 200 {
                    let namespaces = login.namespaces.as_ref().unwrap();
                    let may_read = |namespace| namespaces.contains(namespace) || public == Some(namespace);
                    let own = all.iter().filter(|owned| may_read(owned.namespace));
                    let own: Vec<_> = own.map(|owned| owned.repository).collect();
                    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
                    assert_eq!(body, serde_json::json!({"repositories": own}), "{asked}");
                }
                let seen =
                    format!("{}\n{}", answer.headers.join("\n"), String::from_utf8_lossy(&answer.body));
                for owned in &all {
                    let is_own = login.namespaces.as_ref().is_some_and(|own| own.contains(owned.namespace));
                    if !is_own && public != Some(owned.namespace) {
                        for trace in owned.traces() {
                            assert!(!seen.contains(&trace), "{asked}: {trace} in {seen}");
                        }
                    }
                }
            }
        }
    }
    // Of each of the two verbs that read: 400, 401 and three times 404; and the verbs that would write.
    assert_eq!(alike.len(), 2 * 5 + 1, "{:?}", alike.keys());
    registry.stop().await;
}
