//! The section `store` of the configuration.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::config::Faults;

/// Where images are kept: in a directory, or in an object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The directory of the store, all of it on one file system. A registry may have it mounted
    /// read-only. A timeline service needs none: where it sees one, its pages show what images hold, and
    /// manage credentials if it may write.
    pub path: PathBuf,
    /// The object store that is used instead of the directory: `s3://<bucket>/<prefix>`, with or without a prefix. `gs://`
    /// and `az://` go the same way, and are untested.
    pub url: Option<String>,
    /// The region of an S3 bucket.
    pub region: Option<String>,
    /// Where a service other than Amazon's answers: `https://s3.example.com`.
    pub endpoint: Option<String>,
    /// Whether `endpoint` may be one without TLS.
    pub allow_http: bool,
    /// Whether the bucket is a part of the host's name and not of the path.
    pub virtual_hosted: bool,
    /// A file with the keys of the object store, a `NAME=value` a line, with the names that they have in the environment
    /// (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`). Without it they come from there, or from the machine's own role.
    pub credentials_file: Option<PathBuf>,
    /// The directory of blobs on their way to the object store, each until it is there. None: the system's one for
    /// temporary files.
    pub spool: Option<PathBuf>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self::at("/var/lib/buildgrid/store")
    }
}

/// The services whose objects can be a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    S3,
    Google,
    Azure,
}

impl StoreConfig {
    /// A store in a directory.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            url: None,
            region: None,
            endpoint: None,
            allow_http: false,
            virtual_hosted: false,
            credentials_file: None,
            spool: None,
        }
    }

    /// Its directory, unless it is in an object store.
    pub fn directory(&self) -> Option<&Path> {
        self.url.is_none().then_some(&*self.path)
    }

    /// The directory of this machine that it needs space in, and the key that names it.
    pub fn space(&self) -> (&'static str, PathBuf) {
        match self.url {
            None => ("store.path", self.path.clone()),
            Some(_) => ("store.spool", self.resolved_spool()),
        }
    }

    pub(super) fn resolved_spool(&self) -> PathBuf {
        self.spool.clone().unwrap_or_else(std::env::temp_dir)
    }

    pub fn check(&self, faults: &mut Faults) {
        if self.path.as_os_str().is_empty() {
            faults.add("store.path", "is empty; name the directory where images are kept");
        }
        let Some(url) = &self.url else {
            let of_objects = [
                ("store.region", self.region.is_some()),
                ("store.endpoint", self.endpoint.is_some()),
                ("store.allow_http", self.allow_http),
                ("store.virtual_hosted", self.virtual_hosted),
                ("store.credentials_file", self.credentials_file.is_some()),
                ("store.spool", self.spool.is_some()),
            ];
            for (key, _) in of_objects.into_iter().filter(|(_, is_set)| *is_set) {
                faults.add(key, "is of an object store; name that in store.url, or leave this out");
            }
            return;
        };
        if self.path != Self::default().path {
            faults.add_pair(
                "store.url",
                "store.path",
                "a store has one place: leave out store.url or store.path",
            );
        }
        if let Err(reason) = place_of(url) {
            faults.add("store.url", reason);
        }
        if let Some(endpoint) = &self.endpoint {
            match Url::parse(endpoint) {
                Ok(url) if url.scheme() == "http" && !self.allow_http => faults.add(
                    "store.endpoint",
                    "is without TLS; begin it with https://, or set store.allow_http where the way there is safe",
                ),
                Ok(url) if !matches!(url.scheme(), "http" | "https") || !url.has_host() => {
                    faults.add("store.endpoint", "is not an address such as https://s3.example.com");
                }
                Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                    faults.add("store.endpoint", "contains a login; keys belong into store.credentials_file");
                }
                Ok(_) => {}
                Err(error) => faults.add("store.endpoint", format_args!("is not an address: {error}")),
            }
        }
    }
}

impl fmt::Display for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.url {
            Some(url) => f.write_str(url),
            None => self.path.display().fmt(f),
        }
    }
}

/// Service, bucket and prefix of a URL.
pub(super) fn place_of(url: &str) -> Result<(Service, String, String), &'static str> {
    const FORM: &str =
        "is not of the form s3://<bucket>/<prefix>, gs://<bucket>/<prefix> or az://<container>/<prefix>";
    let url = Url::parse(url).map_err(|_| FORM)?;
    let service = match url.scheme() {
        "s3" => Service::S3,
        "gs" => Service::Google,
        "az" => Service::Azure,
        _ => return Err(FORM),
    };
    let bucket = url.host_str().filter(|bucket| !bucket.is_empty()).ok_or(FORM)?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err("contains more than bucket and prefix; keys belong into store.credentials_file");
    }
    let prefix = url.path().trim_matches('/');
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    if !prefix.bytes().all(is_plain)
        || prefix.split('/').any(|part| matches!(part, "." | ".."))
        || prefix.contains("//")
    {
        return Err("has a prefix with other characters than letters, digits, '-', '_', '.' and '/'");
    }
    Ok((service, bucket.to_owned(), prefix.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_url_names_service_bucket_and_prefix() {
        let place = place_of;
        assert_eq!(place("s3://images"), Ok((Service::S3, "images".into(), String::new())));
        assert_eq!(place("s3://images/a/b/"), Ok((Service::S3, "images".into(), "a/b".into())));
        assert_eq!(place("gs://images/x"), Ok((Service::Google, "images".into(), "x".into())));
        assert_eq!(place("az://images"), Ok((Service::Azure, "images".into(), String::new())));
        for bad in [
            "",
            "images",
            "/srv/store",
            "s3://",
            "s3:///x",
            "http://images/x",
            "s3://key:secret@images",
            "s3://images/a b",
        ] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_store_has_one_place() {
        let faults = |adjust: fn(&mut StoreConfig)| {
            let mut config = StoreConfig::default();
            adjust(&mut config);
            let mut faults = Faults::default();
            config.check(&mut faults);
            format!("{faults:?}")
        };
        let good = |config: &mut StoreConfig| config.url = Some("s3://images".to_owned());
        assert_eq!(faults(|_| ()), format!("{:?}", Faults::default()));
        assert_eq!(faults(good), faults(|_| ()));
        assert!(
            faults(
                |config| *config = StoreConfig { url: Some("s3://images".into()), ..StoreConfig::at("/srv") }
            )
            .contains("one place")
        );
        assert!(faults(|config| config.region = Some("eu".into())).contains("store.region"));
        let plain = |config: &mut StoreConfig| {
            config.url = Some("s3://images".to_owned());
            config.endpoint = Some("http://s3.example.com".to_owned());
        };
        assert!(faults(plain).contains("without TLS"));
    }
}
