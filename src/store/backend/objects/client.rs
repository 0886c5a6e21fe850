//! The way to the service: address, keys, time-outs, tries.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::signer::Signer;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use secrecy::{ExposeSecret, SecretString};

use crate::store::config::{Service, StoreConfig, place_of};
use crate::store::error::StoreError;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a request may take to its answer, and an answer to each of its pieces: a part of an upload is under way
/// meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a removal may take to its answer, or a put on condition.
pub(super) const REMOVAL: Duration = Duration::from_secs(15);
/// A request that fails is tried so many times more, for so long at most.
pub(super) const TRIES: usize = 4;
const TRYING: Duration = Duration::from_secs(240);

/// One bucket.
pub(super) struct Client {
    /// For what can be done twice.
    pub patient: Arc<dyn ObjectStore>,
    /// Sends every request once, and not for long: what is removed must not go later than its remover believes, and a put
    /// on condition must not be told as refused because it was done before ([`put`](super::put)).
    pub once: Arc<dyn ObjectStore>,
    pub signer: Arc<dyn Signer>,
    /// `buildgrid/`, or nothing.
    pub prefix: String,
}

impl Client {
    pub(super) fn connect(config: &StoreConfig) -> Result<Self, StoreError> {
        let url = config.url.as_deref().unwrap_or_default();
        let (service, bucket, prefix) =
            place_of(url).map_err(|reason| invalid("store.url", reason.to_owned()))?;
        let keys = match &config.credentials_file {
            Some(file) => read_keys(file)?,
            None => Vec::new(),
        };
        let options = |patience: Duration| {
            ClientOptions::new()
                .with_allow_http(config.allow_http)
                .with_connect_timeout(CONNECT)
                // A large object may take long, as long as something comes.
                .with_timeout_disabled()
                .with_read_timeout(patience)
        };
        let few = RetryConfig { max_retries: TRIES, retry_timeout: TRYING, ..RetryConfig::default() };
        let none = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let failed = |error: object_store::Error| invalid("store.url", error.to_string());
        let prefix = if prefix.is_empty() { prefix } else { format!("{prefix}/") };
        macro_rules! built {
            ($builder:expr) => {{
                let builder = $builder;
                let patient = builder.clone().with_client_options(options(PATIENCE)).with_retry(few);
                let patient = Arc::new(patient.build().map_err(failed)?);
                let once =
                    builder.with_client_options(options(REMOVAL).with_timeout(REMOVAL)).with_retry(none);
                let once = Arc::new(once.build().map_err(failed)?);
                Ok(Self { signer: patient.clone(), patient, once, prefix })
            }};
        }
        // A file says all; what else is in the environment is not for it.
        macro_rules! begun {
            ($builder:ident) => {
                match config.credentials_file {
                    Some(_) => $builder::new(),
                    None => $builder::from_env(),
                }
            };
        }
        match service {
            Service::S3 => {
                let mut builder = begun!(AmazonS3Builder)
                    .with_bucket_name(bucket)
                    .with_virtual_hosted_style_request(config.virtual_hosted)
                    // One request each, of which a refusal is one, and which every service knows.
                    .with_disable_bulk_delete(true);
                if let Some(region) = &config.region {
                    builder = builder.with_region(region);
                }
                if let Some(endpoint) = &config.endpoint {
                    builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
                }
                for (name, value) in keys {
                    builder = builder.with_config(key::<AmazonS3ConfigKey>(&name)?, value.expose_secret());
                }
                built!(builder)
            }
            Service::Google => {
                let mut builder = begun!(GoogleCloudStorageBuilder).with_bucket_name(bucket);
                for (name, value) in keys {
                    builder = builder.with_config(key::<GoogleConfigKey>(&name)?, value.expose_secret());
                }
                built!(builder)
            }
            Service::Azure => {
                let mut builder = begun!(MicrosoftAzureBuilder).with_container_name(bucket);
                if let Some(endpoint) = &config.endpoint {
                    builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
                }
                for (name, value) in keys {
                    builder = builder.with_config(key::<AzureConfigKey>(&name)?, value.expose_secret());
                }
                built!(builder)
            }
        }
    }
}

fn invalid(key: &'static str, reason: String) -> StoreError {
    StoreError::Unusable { key, reason }
}

fn key<K: FromStr>(name: &str) -> Result<K, StoreError> {
    let unknown =
        |_| invalid("store.credentials_file", format!("{name} is not the name of a key that is known"));
    name.to_ascii_lowercase().parse().map_err(unknown)
}

/// The lines `NAME=value` of a file that is its owner's alone.
fn read_keys(file: &Path) -> Result<Vec<(String, SecretString)>, StoreError> {
    let failed = |reason: String| invalid("store.credentials_file", format!("{}: {reason}", file.display()));
    let metadata = fs::metadata(file).map_err(|error| failed(error.to_string()))?;
    // As systemd gives credentials to a unit, its group may read them too.
    if metadata.mode() & 0o037 != 0 {
        return Err(failed("others may read it; chmod 600 it".to_owned()));
    }
    let text = SecretString::from(fs::read_to_string(file).map_err(|error| failed(error.to_string()))?);
    let lines = text.expose_secret().lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| match line.split_once('=') {
            Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned().into())),
            None => Err(failed(format!("line {} is not NAME=value", number + 1))),
        })
        .collect()
}
