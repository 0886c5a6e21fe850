//! Fetching over SSH from a real sshd: keys out of the credentials directory, hosts out of known_hosts.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use buildgrid::source::{Credentials, Fault, SourceError, Sources};
use buildgrid::telemetry::pulse::Pulse;
use tokio_util::sync::CancellationToken;

use super::private::Place;
use super::{kind, loopback};
use crate::support::git::{GitServer, Repository};
use crate::support::patience::until;
use crate::support::process::output;
use crate::support::sshd::{Sshd, make_key};

struct World {
    sshd: Sshd,
    repository: Repository,
    _server: GitServer,
    place: Place,
    url: String,
}

impl World {
    /// An sshd that is known and whose key for `acme` is there.
    async fn new() -> Self {
        let (server, repository, sshd) = tokio::task::spawn_blocking(|| {
            let server = GitServer::start();
            let repository = server.empty("acme/it's a x");
            repository.write("Dockerfile", "FROM scratch\n");
            (server, repository, Sshd::start())
        })
        .await
        .unwrap();
        let mut config = loopback();
        config.known_hosts = sshd.path("known_hosts");
        let url = sshd.url(&repository.bare).replace(' ', "%20");
        let world = Self { place: Place::new(config), sshd, repository, _server: server, url };
        world.known(&world.sshd.known("host"));
        world.key("user");
        world
    }

    fn known(&self, lines: &str) {
        std::fs::write(self.sshd.path("known_hosts"), lines).unwrap();
    }

    fn key(&self, name: &str) {
        let (port, key) = (self.sshd.port, self.sshd.key(name));
        let text = format!("url = \"ssh://127.0.0.1:{port}/\"\nssh_key = \"\"\"\n{key}\"\"\"\n");
        self.place.write("git.acme.key", text);
    }

    async fn error(&self, commit: &str) -> SourceError {
        self.place.fetcher.fetch(&self.url, commit).await.unwrap_err()
    }
}

#[tokio::test]
async fn commits_come_over_ssh_by_their_ids_and_by_refs() {
    let world = World::new().await;
    let first = world.repository.commit("One");
    let second = world.repository.commit("Two");
    let fetcher = &world.place.fetcher;
    // The tip of a branch comes alone; one behind it comes with the history, since git gives out no other.
    fetcher.fetch(&world.url, &second).await.unwrap();
    assert_eq!(fetcher.mirror_paths().iter().map(|path| kind(path)).collect::<Vec<_>>(), ["shallow"]);
    let fetched = fetcher.fetch_on(&world.url, &first, Some("refs/heads/main")).await.unwrap();
    assert_eq!(fetched.subject, "One");
    let third = world.repository.commit("Three");
    fetcher.fetch(&world.url, &third).await.unwrap();
    world.repository.serve_commits_by_id(true);
    let error = world.error(&"1".repeat(40)).await;
    assert!(matches!(error, SourceError::CommitNotFound { .. }), "{error}");

    // The key of another kind, and a hashed name.
    world.known(&world.sshd.known("other-host"));
    output(Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(world.sshd.path("known_hosts")));
    let fourth = world.repository.commit("Four");
    fetcher.fetch(&world.url, &fourth).await.unwrap();

    // A key of another kind for ourselves.
    make_key(&world.sshd.path("ecdsa"), &["-t", "ecdsa", "-b", "256"]);
    std::fs::copy(world.sshd.path("ecdsa.pub"), world.sshd.path("user.pub")).unwrap();
    world.key("ecdsa");
    let fifth = world.repository.commit("Five");
    fetcher.fetch(&world.url, &fifth).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_known_gets_nothing_and_is_named_with_the_line_to_add() {
    let world = World::new().await;
    let commit = world.repository.commit("One");
    world.known("");
    let error = world.error(&commit).await;
    let SourceError::HostKeyUnknown { line, fingerprint, .. } = &error else { panic!("{error}") };
    assert_eq!(error.fault(), Fault::Infrastructure);
    let shown = output(Command::new("ssh-keygen").args(["-l", "-f"]).arg(world.sshd.path("host.pub")));
    assert!(shown.contains(fingerprint.as_str()), "{shown}: {fingerprint}");
    assert!(!world.sshd.log().contains("Accepted"), "{}", world.sshd.log());
    world.known(line);
    world.place.fetcher.fetch(&world.url, &commit).await.unwrap();

    world.known(&world.sshd.known("stranger"));
    let second = world.repository.commit("Two");
    let error = world.error(&second).await;
    assert!(matches!(error, SourceError::HostKeyChanged { .. }), "{error}");
    assert_eq!(error.fault(), Fault::Infrastructure);
    make_key(&world.sshd.path("rsa"), &["-t", "rsa", "-b", "2048"]);
    world.known(&world.sshd.known("rsa"));
    let error = world.error(&second).await.to_string();
    assert!(error.contains("Ed25519"), "{error}");
}

#[tokio::test]
async fn what_is_wrong_with_a_key_or_a_path_is_said() {
    let world = World::new().await;
    let commit = world.repository.commit("One");
    world.key("stranger");
    let error = world.error(&commit).await;
    assert!(
        matches!(&error, SourceError::CredentialsRefused { name, .. } if name == "git.acme.key"),
        "{error}"
    );

    for (options, reason) in [
        (vec!["-t", "rsa", "-b", "2048"], "is of the kind"),
        (vec!["-t", "ed25519", "-N", "words"], "passphrase"),
    ] {
        make_key(&world.sshd.path(reason), &options);
        world.key(reason);
        let error = world.error(&commit).await;
        assert!(matches!(error, SourceError::BadCredential { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }

    std::fs::remove_file(world.place.directory.path().join("git.acme.key")).unwrap();
    let error = world.error(&commit).await;
    assert!(matches!(error, SourceError::NeedsCredentials { .. }), "{error}");
    assert_eq!(error.fault(), Fault::Build);

    world.key("user");
    let missing = world.sshd.url("/nowhere/x.git".as_ref());
    let error = world.place.fetcher.fetch(&missing, &commit).await.unwrap_err();
    assert!(matches!(&error, SourceError::RepositoryNotFound { how, .. } if how.contains("128")), "{error}");
    assert_eq!(error.fault(), Fault::Build);
    // Below the home directory, as the short form has it, is none either.
    let short = format!("{}@127.0.0.1:nowhere", world.sshd.user);
    let error = world.place.fetcher.fetch(&short, &commit).await.unwrap_err();
    assert!(matches!(error, SourceError::NeedsCredentials { .. }), "port 22 is another server: {error}");
}

#[tokio::test]
async fn limits_and_cancels_hold_over_ssh() {
    let mut world = World::new().await;
    let commit = world.repository.commit("One");
    let sources = |change: &dyn Fn(&mut buildgrid::source::SourceConfig)| {
        let mut config = loopback();
        config.known_hosts = world.sshd.path("known_hosts");
        change(&mut config);
        let mirrors = world.place.fetcher.mirrors.path().to_owned();
        let credentials = Credentials::new(Some(world.place.directory.path()));
        Arc::new(Sources::new(config, mirrors).unwrap().with_credentials(credentials))
    };
    let small = sources(&|config| config.max_pack = bytesize::ByteSize(100));
    let strict = sources(&|config| config.allow_private_addresses.clear());
    let impatient = sources(&|config| config.connect_timeout = Duration::from_millis(300));
    let patient = sources(&|_| ());
    world.place.fetcher.sources = small;
    assert!(matches!(world.error(&commit).await, SourceError::TooLarge { key: Some("max_pack"), .. }));
    world.place.fetcher.sources = strict;
    assert!(matches!(world.error(&commit).await, SourceError::RefusedAddress { .. }));

    // A server that accepts and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    world.url = format!("ssh://git@127.0.0.1:{port}/x");
    let key = world.sshd.key("user");
    world.place.write(
        "git.acme.silent",
        format!("url = \"ssh://127.0.0.1:{port}\"\nssh_key = \"\"\"\n{key}\"\"\"\n"),
    );
    world.place.fetcher.sources = impatient;
    assert!(matches!(world.error(&commit).await, SourceError::TimedOut { key: "connect_timeout", .. }));
    world.place.fetcher.sources = patient;
    let cancel = CancellationToken::new();
    let fetcher = &world.place.fetcher;
    let (url, id) = (world.url.parse().unwrap(), commit.parse().unwrap());
    let pulse = Pulse::default();
    let fetch = fetcher.sources.fetch(fetcher.errand(&cancel, &pulse), &url, &id, None);
    let (result, ()) = tokio::join!(fetch, async {
        fetcher.log_up_to("fetching").await;
        cancel.cancel();
    });
    assert_eq!(result.unwrap_err(), SourceError::Cancelled);
    silent.set_nonblocking(true).unwrap();
    let (connection, _) = silent.accept().unwrap();
    until("nothing is left of the connection", || {
        use std::io::Read as _;
        connection.set_nonblocking(true).unwrap();
        let mut rest = [0; 512];
        (&connection).read(&mut rest).is_ok_and(|length| length == 0)
    })
    .await;
}
