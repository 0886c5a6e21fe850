//! The secrets that this worker knows: those of the builds, out of its credentials directory, and its own.
//! They are read afresh for each attempt, so that a file that was changed needs no restart.
//!
//! A build's secret is the file `secret.<namespace>.<name>`; `git.<namespace>.<name>` is what repositories are
//! fetched with (`source/credentials.rs`), and [`credentials`](super::credentials) has the other kinds of files. All
//! are masked. They lie in the [`credentials_dir`](super::credentials_dir).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytesize::ByteSize;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretSlice};

use super::credentials::{File as CredentialFile, Kind};
use super::credentials_dir::{Directory, Unusable};
use crate::build::credentials::BuildCredentials;
use crate::config::Config;
use crate::publish::name::Namespace;
use crate::queue::QueueConfig;
use crate::source::credentials;
use crate::store::digest::Digest;
use crate::timeline::mask::{MIN_LINE, MIN_SECRET, Mask, Unmasked, WeakMask};

/// The largest file that is taken, in bytes. Keys and tokens are smaller; all forms of a secret are looked for in
/// every log.
pub const MAX_SECRET: u64 = 64 << 10;
/// Where systemd puts a service's credentials.
const SYSTEMD: &str = "CREDENTIALS_DIRECTORY";
/// The broker's password where none was chosen. Everybody knows it, and it stands in many texts.
const DEFAULT_PASSWORD: &str = "guest";

/// Where the secrets are.
#[derive(Debug, Clone)]
pub struct Secrets {
    directory: Option<Directory>,
    queue: QueueConfig,
    token_file: Option<PathBuf>,
    in_use: Arc<Mutex<Vec<InUse>>>,
}

/// A mask of attempts that run. Others with the same secrets use it as well: it may take megabytes.
#[derive(Debug)]
struct InUse {
    secrets: Digest,
    mask: WeakMask,
    unmasked: Vec<Unmasked>,
}

/// Something that no log may show, under the name by which it is spoken of.
#[derive(Debug)]
pub(super) struct Secret {
    pub(super) name: String,
    pub(super) value: SecretSlice<u8>,
}

/// What is known for the builds of a namespace, all of it from one reading: nothing is handed to a build that its
/// log would show.
#[derive(Debug)]
pub struct Known {
    pub mask: Mask,
    /// What will not be masked, and what could not be read.
    pub words: Vec<String>,
    pub credentials: BuildCredentials,
}

impl Secrets {
    /// Those that a worker with this configuration knows. Nothing is read yet.
    pub fn new(config: &Config) -> Self {
        Self::with(config, std::env::var_os(SYSTEMD).map(PathBuf::from))
    }

    fn with(config: &Config, systemds: Option<PathBuf>) -> Self {
        Self {
            directory: Directory::of(config.worker.credentials_dir.clone(), systemds),
            queue: config.queue.clone(),
            token_file: config.timeline.token_file.clone(),
            in_use: Arc::default(),
        }
    }

    /// Where builds' secrets are read from, if they are.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_ref().map(Directory::path)
    }

    /// Whether the directory can be used. Blocking.
    ///
    /// # Errors
    /// It cannot be read, or others can: with the remedy.
    pub fn check(&self) -> Result<(), Unusable> {
        self.directory.as_ref().map_or(Ok(()), Directory::check)
    }

    /// What builds of `namespace` may be handed, and what must not stand in their logs. Blocking.
    ///
    /// Only this namespace's secrets and the worker's own: if those of others were masked as well, whoever
    /// builds could find them out by printing guesses and looking which are masked.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn known(&self, namespace: &Namespace) -> anyhow::Result<Known> {
        self.check()?;
        let mut words = Vec::new();
        let (credentials, mut secrets) = CredentialFile::sort(self.of(namespace, &mut words)?, &mut words);
        secrets.extend(self.git(namespace)?);
        secrets.extend(self.own());
        let (mask, unmasked) = self.shared(&secrets)?;
        words.extend(unmasked.iter().map(too_short));
        Ok(Known { mask, words, credentials })
    }

    /// The mask of some secrets: one in use, or a new one.
    fn shared(&self, secrets: &[Secret]) -> anyhow::Result<(Mask, Vec<Unmasked>)> {
        let mut all = Vec::new();
        for secret in secrets {
            all.extend(Digest::of(secret.name.as_bytes()).to_string().bytes());
            all.extend(Digest::of(secret.value.expose_secret()).to_string().bytes());
        }
        let digest = Digest::of(&all);
        // Nothing is left half done by a panic in another thread.
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let found = in_use.iter().find(|other| other.secrets == digest);
        if let Some((mask, other)) = found.and_then(|other| Some((other.mask.upgrade()?, other))) {
            return Ok((mask, other.unmasked.clone()));
        }
        let (mask, unmasked) =
            Mask::new(secrets.iter().map(|secret| (secret.name.as_str(), secret.value.expose_secret())))?;
        in_use.retain(|other| other.mask.upgrade().is_some());
        let weak = mask.downgrade();
        in_use.extend(weak.map(|mask| InUse { secrets: digest, mask, unmasked: unmasked.clone() }));
        Ok((mask, unmasked))
    }

    /// The files of a namespace's builds.
    fn of(&self, namespace: &Namespace, words: &mut Vec<String>) -> anyhow::Result<Vec<CredentialFile>> {
        let mut files = Vec::new();
        for path in self.files()? {
            let file = path.file_name().and_then(OsStr::to_str);
            let Some(kind) = file.and_then(|file| Kind::of(file, namespace)) else { continue };
            let reason = match read(&path) {
                Ok(value) if !value.expose_secret().trim_ascii().is_empty() => {
                    files.push(CredentialFile { kind, value });
                    continue;
                }
                Ok(_) => "its file is empty; write it again, or remove it".to_owned(),
                Err(error) => match error.kind() {
                    io::ErrorKind::FileTooLarge => error.to_string(),
                    _ => format!("its file cannot be read ({error}); let the worker's user read it"),
                },
            };
            tracing::warn!(reason, path = %path.display(), "a file of the credentials directory is neither used nor masked");
            words.push(format!("{kind} is neither used nor masked in this log: {reason}"));
        }
        // A directory's order changes.
        files.sort_by(|one, other| one.kind.cmp(&other.kind));
        Ok(files)
    }

    /// What the namespace's repositories are fetched with. What cannot be read fails their fetches.
    fn git(&self, namespace: &Namespace) -> anyhow::Result<Vec<Secret>> {
        let prefix = format!("git.{namespace}.");
        let mut secrets = Vec::new();
        for path in self.files()? {
            let file = path.file_name().and_then(OsStr::to_str);
            let Some(file) = file.filter(|file| file.starts_with(&prefix)) else { continue };
            if let Ok(content) = read(&path) {
                let found = credentials::secrets_in(file, content.expose_secret());
                secrets.extend(found.into_iter().map(|(name, value)| Secret { name, value: value.into() }));
            }
        }
        secrets.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(secrets)
    }

    /// All files of the directory.
    fn files(&self) -> Result<Vec<PathBuf>, Unusable> {
        let Some(directory) = &self.directory else { return Ok(Vec::new()) };
        let entries = fs::read_dir(directory.path())
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>());
        entries.map_err(|error| directory.unreadable(&error))
    }

    /// What the worker itself logs in with. What cannot be read now is missed by those who use it.
    fn own(&self) -> Vec<Secret> {
        let mut own = Vec::new();
        if let Ok(url) = self.queue.resolved_url()
            && let Some(password) = url::Url::parse(url.expose()).ok().as_ref().and_then(url::Url::password)
        {
            let decoded: Vec<u8> = percent_decode_str(password).collect();
            if decoded != DEFAULT_PASSWORD.as_bytes() {
                own.push(Secret { name: "the broker's password".to_owned(), value: decoded.into() });
            }
        }
        if let Some(value) = self.token_file.as_deref().and_then(|file| read(file).ok()) {
            own.push(Secret { name: "the timeline service's token".to_owned(), value });
        }
        own
    }
}

fn read(path: &Path) -> io::Result<SecretSlice<u8>> {
    let mut value = Vec::new();
    File::open(path)?.take(MAX_SECRET + 1).read_to_end(&mut value)?;
    match value.len() as u64 > MAX_SECRET {
        true => {
            let limit = ByteSize(MAX_SECRET).display().iec();
            let words =
                format!("its file is larger than {limit}, the most that is taken; keep it in several");
            Err(io::Error::new(io::ErrorKind::FileTooLarge, words))
        }
        false => Ok(value.into()),
    }
}

fn too_short(Unmasked { name, lines }: &Unmasked) -> String {
    match lines {
        None => format!(
            "{name} is not masked in this log: it is shorter than {MIN_SECRET} bytes, or its lines than {MIN_LINE}"
        ),
        Some(lines) => {
            let (lines, are, they) = if *lines == 1 {
                ("1 line".to_owned(), "is", "it is")
            } else {
                (format!("{lines} lines"), "are", "they are")
            };
            format!("{lines} of {name} {are} not masked in this log: {they} shorter than {MIN_LINE} bytes")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Place {
        folder: tempfile::TempDir,
        config: Config,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
            let mut config = Config::default();
            config.worker.credentials_dir = Some(folder.path().to_owned());
            Self { folder, config }
        }

        fn write(&self, name: &str, value: impl AsRef<[u8]>) {
            fs::write(self.folder.path().join(name), value).unwrap();
        }

        fn known(&self, namespace: &str) -> Known {
            Secrets::with(&self.config, None).known(&namespace.parse().unwrap()).unwrap()
        }

        fn shown(&self, text: &str) -> (String, Vec<String>) {
            let known = self.known("acme");
            (known.mask.shown(text).to_string(), known.words)
        }
    }

    #[test]
    fn a_namespace_masks_its_own_secrets_as_they_are_now() {
        let place = Place::new();
        place.write("secret.acme.npm.token", "of-acme\n");
        place.write("secret.acme2.npm", "of-acme2");
        place.write("secret.other.npm", "of-another");
        place.write("queue.url", "of-the-worker");
        let text = "of-acme of-acme2 of-another";
        assert_eq!(place.shown(text), ("*** ***2 of-another".to_owned(), vec![]));
        place.write("secret.acme.npm.token", "of-another");
        assert_eq!(place.shown(text).0, "of-acme of-acme2 ***");
    }

    #[tokio::test]
    async fn a_namespace_is_handed_its_own_byte_for_byte_and_all_of_it_is_masked() {
        let place = Place::new();
        place.write("secret.acme.NPM_token", "of-acme\n");
        place.write("secret.acme2.other", "of-acme2");
        place.write("secret.rival.NPM_token", "of-rival");
        let auth = data_encoding::BASE64.encode(b"puller:s3cret:pass");
        let config =
            format!(r#"{{"auths":{{"mirror.example.com":{{"auth":"{auth}"}}}},"detachKeys":"ctrl-p"}}"#);
        place.write("registry.acme", config);
        place.write(
            "registry.rival",
            r#"{"auths":{"other.example.com":{"username":"u","password":"of-rival"}}}"#,
        );
        let known = place.known("acme");
        assert_eq!(known.words, [""; 0]);
        let names: Vec<_> = known.credentials.secrets.keys().collect();
        assert_eq!(names, ["NPM_token"]);
        assert_eq!(known.credentials.secrets["NPM_token"].expose_secret(), b"of-acme\n");
        let login = known.credentials.registries.login("mirror.example.com").await.unwrap().unwrap();
        assert_eq!((login.user.as_str(), login.secret.expose_secret()), ("puller", "s3cret:pass"));
        assert!(known.credentials.registries.login("other.example.com").await.unwrap().is_none());
        let shown = known.mask.shown(&format!("s3cret:pass of-acme puller of-rival {auth}")).to_string();
        assert!(shown.starts_with("*** *** puller of-rival ") && !shown.contains(&auth), "{shown}");
    }

    #[test]
    fn a_file_of_logins_that_cannot_be_used_is_said_without_its_content() {
        let place = Place::new();
        for (content, said) in [
            ("user:s3cret", "is not JSON as Docker writes it"),
            (r#"{"credsStore":"desktop"}"#, "credsStore"),
            (r#"{"auths":{"mirror.example.com":{"auth":"%%%%"}}}"#, "mirror.example.com"),
            (r#"{"auths":{"mirror.example.com":{}}}"#, "mirror.example.com"),
        ] {
            place.write("registry.acme", content);
            let words = place.known("acme").words;
            assert!(words.len() == 1 && words[0].contains("registry.acme"), "{words:?}");
            assert!(words[0].contains(said) && !words[0].contains("s3cret"), "{words:?}");
        }
        place.write("registry.acme", "{}");
        place.write("ssh.acme.default", "s3cret-but-no-key");
        let known = place.known("acme");
        assert!(known.words[0].starts_with("SSH key default cannot be used: it is not a private key"));
        assert!(known.credentials.ssh.is_empty() && known.words.len() == 1, "{:?}", known.words);
    }

    #[test]
    fn what_repositories_are_fetched_with_is_masked() {
        let place = Place::new();
        place.write(
            "git.acme.forge",
            "url = \"https://host/\"\nusername = \"me\"\npassword = \"hunter-two\"\n",
        );
        place.write("git.other.forge", "url = \"https://host/\"\ntoken = \"of-another\"\n");
        let text = "hunter-two bWU6aHVudGVyLXR3bw== of-another https://host/";
        assert_eq!(place.shown(text), ("*** *** of-another https://host/".to_owned(), vec![]));
    }

    #[test]
    fn the_workers_own_logins_are_masked() {
        let mut place = Place::new();
        let token = place.folder.path().join("timeline.token");
        fs::write(&token, "bgt_0123456789\n").unwrap();
        place.config.timeline.token_file = Some(token);
        place.config.queue.url = "amqp://grid:hunter%402@mq.example.com/%2f".parse().unwrap();
        let text = "bgt_0123456789 hunter@2 hunter%402 grid";
        assert_eq!(place.shown(text).0, "*** *** *** grid");
        place.config.queue.url = "amqp://guest:guest@mq.example.com/%2f".parse().unwrap();
        assert_eq!(place.shown("a guest").0, "a guest");
    }

    #[test]
    fn what_is_not_masked_is_said_without_its_value() {
        let place = Place::new();
        place.write("secret.acme.pin", "123");
        place.write("secret.acme.key", "{\n\"k\": \"0123456789\"\n}\n");
        place.write("secret.acme.one", "{\n0123456789\n0123456789\n");
        place.write("secret.acme.huge", vec![b'x'; 70_000]);
        place.write("secret.acme.nothing", " \n");
        fs::create_dir(place.folder.path().join("secret.acme.folder")).unwrap();
        let (_, mut words) = place.shown("");
        words.sort();
        assert_eq!(
            words,
            [
                "1 line of secret one is not masked in this log: it is shorter than 8 bytes",
                "2 lines of secret key are not masked in this log: they are shorter than 8 bytes",
                "secret folder is neither used nor masked in this log: its file cannot be read (Is a directory (os error \
                 21)); let the worker's user read it",
                "secret huge is neither used nor masked in this log: its file is larger than 64.0 KiB, the most that is \
                 taken; keep it in several",
                "secret nothing is neither used nor masked in this log: its file is empty; write it again, or remove it",
                "secret pin is not masked in this log: it is shorter than 4 bytes, or its lines than 8",
            ]
        );
    }

    #[test]
    fn attempts_with_the_same_secrets_share_a_mask_while_they_run() {
        let place = Place::new();
        place.write("secret.acme.one", "0123456789");
        let secrets = Secrets::with(&place.config, None);
        let of = |namespace: &str| secrets.known(&namespace.parse().unwrap()).unwrap().mask;
        let in_use = || secrets.in_use.lock().unwrap().len();
        let (first, second) = (of("acme"), of("acme"));
        assert_eq!(in_use(), 1);
        place.write("secret.acme.one", "9876543210");
        let third = of("acme");
        assert_eq!((in_use(), &*third.shown("9876543210")), (2, "***"));
        assert_eq!(&*second.shown("9876543210 0123456789"), "9876543210 ***");
        drop((first, second, third));
        place.write("secret.acme.one", "0000000000");
        let _fourth = of("acme");
        assert_eq!((in_use(), of("other").shown("0000000000").to_string()), (1, "0000000000".to_owned()));
    }

    #[test]
    fn a_directory_that_cannot_be_used_masks_nothing() {
        let place = Place::new();
        let path = place.folder.path();
        let secrets = Secrets::with(&place.config, None);
        secrets.check().unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o750)).unwrap();
        let error = secrets.known(&"acme".parse().unwrap()).unwrap_err().to_string();
        assert_eq!(error, secrets.check().unwrap_err().to_string());
        let systemds = Secrets::with(&Config::default(), Some(path.to_owned()));
        assert_eq!(systemds.directory(), Some(path));
        systemds.check().unwrap();
        assert_eq!(Secrets::with(&Config::default(), None).directory(), None);
    }
}
