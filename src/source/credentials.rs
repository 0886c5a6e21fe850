//! What private repositories are fetched with: the files `git.<namespace>.<name>` of the worker's credentials
//! directory, each in TOML, each for the repositories of one namespace whose URLs begin with its own. They are read
//! afresh for each fetch. Who sees to it that no one else can read the directory is `worker/secrets.rs`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::error::SourceError;
use super::prefix::UrlPrefix;
use super::url::RepositoryUrl;
use crate::publish::name::Namespace;

/// The largest file, in bytes.
const MAX_FILE: u64 = 64 << 10;

/// Where the credentials lie, if they do anywhere.
#[derive(Debug, Clone, Default)]
pub struct Credentials(Option<Arc<Path>>);

/// What one file holds.
#[derive(Debug)]
pub(super) struct Credential {
    /// The file's name.
    pub(super) name: String,
    scope: UrlPrefix,
    pub(super) login: Login,
}

#[derive(Debug)]
pub(super) enum Login {
    /// HTTP's Basic.
    Password { username: String, password: SecretString },
    /// HTTP's Bearer.
    Token(SecretString),
    /// A private key for SSH, as its file begins with `-----BEGIN`.
    Key(SecretString),
}

/// A file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    url: String,
    username: Option<String>,
    password: Option<SecretString>,
    token: Option<SecretString>,
    ssh_key: Option<SecretString>,
}

impl Credential {
    /// Whether it may be sent to where this repository lies.
    pub(super) fn is_for(&self, url: &RepositoryUrl) -> bool {
        self.scope.covers(url).is_some()
    }
}

impl Credentials {
    pub fn new(directory: Option<&Path>) -> Self {
        Self(directory.map(Arc::from))
    }

    /// The credential for a repository: of those whose URL it begins with, the one with the longest. Blocking.
    ///
    /// # Errors
    /// One of the namespace's files cannot be used: it may be the one that is needed.
    pub(super) fn find(
        &self,
        namespace: &Namespace,
        url: &RepositoryUrl,
    ) -> Result<Option<Credential>, SourceError> {
        let mut best: Option<(usize, Credential)> = None;
        for path in self.files(namespace)? {
            let credential = Credential::read(&path)?;
            let Some(length) = credential.scope.covers(url) else { continue };
            match &best {
                Some((other, twin)) if *other == length => {
                    return Err(SourceError::BadCredential {
                        name: credential.name,
                        reason: format!("it is for the same URL as {}", twin.name),
                    });
                }
                Some((other, _)) if *other > length => {}
                _ => best = Some((length, credential)),
            }
        }
        Ok(best.map(|(_, credential)| credential))
    }

    /// The files of a namespace, in the order of their names.
    fn files(&self, namespace: &Namespace) -> Result<Vec<PathBuf>, SourceError> {
        let Some(directory) = &self.0 else { return Ok(Vec::new()) };
        let failed = |error: io::Error| SourceError::BadCredential {
            name: format!("worker.credentials_dir {}", directory.display()),
            reason: error.to_string(),
        };
        let prefix = format!("git.{namespace}.");
        let mut files = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
                files.push(entry.path());
            }
        }
        files.sort();
        Ok(files)
    }
}

/// What the files of a directory have wrong with them, of all namespaces, in sentences without a secret. Blocking.
///
/// # Errors
/// The directory cannot be read.
pub fn faults(directory: &Path) -> io::Result<Vec<String>> {
    let mut faults = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with("git."))
            && let Err(error) = Credential::read(&entry.path())
        {
            faults.push(error.to_string());
        }
    }
    faults.sort();
    Ok(faults)
}

/// What of a file must not be shown, each with a name: its secret, or all of it where it cannot be understood.
pub fn secrets_in(name: &str, content: &[u8]) -> Vec<(String, Vec<u8>)> {
    let named = |secret: &str| (name.to_owned(), secret.as_bytes().to_vec());
    let Ok(credential) = Credential::parse(name, &String::from_utf8_lossy(content)) else {
        return vec![(name.to_owned(), content.to_vec())];
    };
    match &credential.login {
        Login::Token(secret) | Login::Key(secret) => vec![named(secret.expose_secret())],
        Login::Password { username, password } => {
            let password = password.expose_secret();
            // As it travels.
            vec![named(password), named(&BASE64.encode(format!("{username}:{password}").as_bytes()))]
        }
    }
}

impl Credential {
    fn read(path: &Path) -> Result<Self, SourceError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let bad = |reason: String| SourceError::BadCredential { name: name.to_string(), reason };
        let mut text = String::new();
        let file = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
        let text = SecretString::from(text);
        match file {
            Err(error) => Err(bad(error.to_string())),
            Ok(length) if length as u64 > MAX_FILE => Err(bad(format!("it is larger than {MAX_FILE} bytes"))),
            Ok(_) => Self::parse(&name, text.expose_secret()),
        }
    }

    fn parse(name: &str, text: &str) -> Result<Self, SourceError> {
        let bad =
            |reason: &str| SourceError::BadCredential { name: name.to_owned(), reason: reason.to_owned() };
        // The whole error would quote the line, with the secret in it.
        let written: Written = toml::from_str(text).map_err(|error| bad(error.message()))?;
        let scope: UrlPrefix = written.url.parse().map_err(|error| bad(&format!("url: {error}")))?;
        let is_ssh = scope.is_ssh();
        let login = match (written.username, written.password, written.token, written.ssh_key) {
            (Some(username), Some(password), None, None) if !is_ssh && !username.contains(':') => {
                Login::Password { username, password }
            }
            (None, None, Some(token), None) if !is_ssh => Login::Token(token),
            (None, None, None, Some(key)) if is_ssh => Login::Key(key),
            _ => {
                return Err(bad(match is_ssh {
                    true => "a credential for SSH has url and ssh_key, and nothing else",
                    false => "a credential for HTTPS has url, and either username and password, or token",
                }));
            }
        };
        if let Login::Password { password: secret, .. } | Login::Token(secret) = &login
            && (secret.expose_secret().is_empty() || secret.expose_secret().contains(char::is_control))
        {
            return Err(bad(
                "its password or token is empty, or has a line break or another control character",
            ));
        }
        Ok(Self { name: name.to_owned(), scope, login })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new(files: &[(&str, &str)]) -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            for (name, text) in files {
                fs::write(place.0.path().join(name), text).unwrap();
            }
            place
        }

        fn find(&self, namespace: &str, url: &str) -> Result<Option<String>, SourceError> {
            let found = Credentials::new(Some(self.0.path()))
                .find(&namespace.parse().unwrap(), &url.parse().unwrap());
            Ok(found?.map(|credential| credential.name))
        }
    }

    #[test]
    fn the_longest_url_of_the_namespace_counts() {
        let place = Place::new(&[
            ("git.acme.all", "url = \"https://host\"\ntoken = \"t\""),
            ("git.acme.team", "url = \"https://HOST:443/team/\"\nusername = \"u\"\npassword = \"p\""),
            ("git.acme.one", "url = \"https://host/team/one.git\"\ntoken = \"t\""),
            ("git.acme.ssh", "url = \"git@host:team\"\nssh_key = \"k\""),
            ("git.acme.web", "url = \"http://host/\"\ntoken = \"t\""),
            ("git.other.all", "url = \"https://other/\"\ntoken = \"t\""),
            ("secret.acme.all", "no TOML"),
        ]);
        for (url, found) in [
            ("https://host/x", Some("git.acme.all")),
            ("https://host/teams/x", Some("git.acme.all")),
            ("https://host/team/x.git", Some("git.acme.team")),
            ("https://host/team/one", Some("git.acme.one")),
            ("https://host/team/one.git/", Some("git.acme.one")),
            ("https://host/team/one/x", Some("git.acme.one")),
            ("http://host/team/x", Some("git.acme.web")),
            ("git@host:team/x.git", Some("git.acme.ssh")),
            ("ssh://git@host/team/x.git", Some("git.acme.ssh")),
            ("ssh://me@host/team/x.git", None),
            ("ssh://git@host:2222/team/x.git", None),
            ("https://host:8443/x", None),
            ("https://host.example.com/x", None),
            ("https://other/x", None),
        ] {
            assert_eq!(place.find("acme", url).unwrap().as_deref(), found, "{url}");
        }
        assert_eq!(place.find("acm", "https://host/x").unwrap(), None);
        let nowhere = Credentials::default();
        let found = nowhere.find(&"acme".parse().unwrap(), &"https://host/x".parse().unwrap()).unwrap();
        assert!(found.is_none());
    }

    #[test]
    fn a_bad_file_is_named_without_what_is_in_it() {
        for (text, reason) in [
            ("url = \"https://host/\"\ntoken = hunter2", ""),
            ("url = \"https://host/\"\ntokn = \"hunter2\"", "tokn"),
            ("url = \"https://me:hunter2@host/\"\ntoken = \"t\"", "credentials"),
            ("url = \"https://host/\"\npassword = \"hunter2\"", "username and password"),
            ("url = \"https://host/\"\nssh_key = \"hunter2\"", "token"),
            ("url = \"ssh://git@host/\"\ntoken = \"hunter2\"", "ssh_key"),
            ("url = \"https://host/\"\ntoken = \"hunter2\\n\"", "line break"),
            ("url = \"file:///x\"\ntoken = \"hunter2\"", "scheme"),
        ] {
            let place = Place::new(&[("git.acme.x", text)]);
            let error = place.find("acme", "https://elsewhere/x").unwrap_err();
            let words = format!("{error} {error:?}");
            assert!(words.contains("git.acme.x") && words.contains(reason), "{words}");
            assert!(!words.contains("hunter2"), "{words}");
            assert_eq!(faults(place.0.path()).unwrap(), [error.to_string()]);
            assert_eq!(place.find("other", "https://host/x").unwrap(), None);
        }
        let twice = "url = \"https://host/a\"\ntoken = \"t\"";
        let place = Place::new(&[("git.acme.a", twice), ("git.acme.b", twice)]);
        let error = place.find("acme", "https://host/a/b").unwrap_err().to_string();
        assert!(error.contains("git.acme.b") && error.contains("git.acme.a"), "{error}");
    }

    #[test]
    fn what_must_not_be_shown_is_the_secret_alone() {
        let of = |text: &str| -> Vec<String> {
            let found = secrets_in("git.acme.x", text.as_bytes());
            found.into_iter().map(|(_, secret)| String::from_utf8(secret).unwrap()).collect()
        };
        assert_eq!(of("url = \"https://host/\"\ntoken = \"hunter2\""), ["hunter2"]);
        assert_eq!(
            of("url = \"https://host/\"\nusername = \"me\"\npassword = \"hunter2\""),
            ["hunter2", "bWU6aHVudGVyMg=="]
        );
        assert_eq!(of("hunter2"), ["hunter2"]);
    }
}
