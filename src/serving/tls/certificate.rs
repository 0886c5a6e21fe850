//! The certificate that is served: exchanged when its files are, and never for one that cannot be served.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use tokio_rustls::TlsAcceptor;

use super::TlsConfig;
use super::pair::{Concern, Files, Mark, Pair, Unusable, minute};
use crate::telemetry::status::{Condition, Readiness};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Every how long it is said again that the files cannot be used: the next start will meet them.
const AGAIN: Duration = Duration::from_secs(3600);

/// TLS of one service; cheap to clone.
#[derive(Clone)]
pub struct Tls {
    /// As the configuration calls its section.
    service: &'static str,
    config: Arc<TlsConfig>,
    /// By which clients call the service.
    host: Arc<str>,
    served: Arc<Served>,
    pub(super) acceptor: TlsAcceptor,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("service", &self.service)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// What new connections get.
#[derive(Debug)]
struct Served(RwLock<(Arc<Pair>, Mark)>);

impl Served {
    fn pair(&self) -> Arc<Pair> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn mark(&self) -> Mark {
        self.0.read().unwrap_or_else(PoisonError::into_inner).1
    }

    fn exchange(&self, pair: Pair, mark: Mark) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = (Arc::new(pair), mark);
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.pair().key.clone())
    }
}

impl Tls {
    /// Reads the certificate of the section `service`, which clients reach by `host`, with a port or without. Blocking.
    ///
    /// # Errors
    /// As [`Pair::load`]; the words name the key of the configuration.
    pub fn load(service: &'static str, config: &TlsConfig, host: &str) -> anyhow::Result<Self> {
        let named = |unusable: Unusable| anyhow::anyhow!("{service}.tls: {unusable}");
        let config = Arc::new(config.clone());
        let files = Files::read(config.clone()).map_err(named)?;
        let pair = Pair::of(&files, host).map_err(named)?;
        let served = Arc::new(Served(RwLock::new((Arc::new(pair), files.mark()))));
        // TLS 1.2 and 1.3 are all that rustls has.
        let mut server = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(served.clone());
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { service, config, host: host.into(), served, acceptor: Arc::new(server).into() })
    }

    /// As [`load`](Self::load), where TLS is configured. Not blocking.
    pub async fn configured(
        service: &'static str,
        config: Option<&TlsConfig>,
        host: &str,
    ) -> anyhow::Result<Option<Self>> {
        let Some(config) = config.cloned() else { return Ok(None) };
        let host = host.to_owned();
        tokio::task::spawn_blocking(move || Self::load(service, &config, &host).map(Some)).await?
    }

    /// Not ready while clients refuse the certificate by its time.
    pub fn readiness(&self) -> Readiness {
        let (name, served) = (self.service, self.served.clone());
        Arc::new(move || {
            let fault = match served.pair().of_time(OffsetDateTime::now_utc()) {
                Some(Concern::Refused(words)) => Some(words),
                _ => None,
            };
            vec![Condition { name: condition(name), fault }]
        })
    }

    /// Looks at the files all the time, and exchanges the certificate when they have another one. Of two files that do
    /// not fit, since only one is written yet, nothing is said before they have stayed so.
    pub(in crate::serving) async fn keep(self) -> anyhow::Result<()> {
        let (mut said, mut odd) = (Vec::new(), Odd::default());
        loop {
            let config = self.config.clone();
            let files = tokio::task::spawn_blocking(move || Files::read(config)).await?;
            odd = self.take(files, odd);
            said = self.complain(said);
            tokio::time::sleep(LOOK).await;
        }
    }

    fn take(&self, files: Result<Files, Unusable>, odd: Odd) -> Odd {
        let service = self.service;
        let usable = metrics::gauge!("buildgrid_tls_files_usable", "service" => service);
        match files.and_then(|files| self.renewed(&files)) {
            Ok(renewed) => {
                usable.set(1);
                if renewed || odd.said_at.is_some() {
                    let ends = minute(self.served.pair().ends());
                    tracing::info!(service, ends, "new connections get the certificate that is in its files");
                }
                Odd::default()
            }
            Err(unusable) => {
                let stays = odd.unusable.as_ref() == Some(&unusable);
                let said_at = odd.said_at.filter(|at| stays && at.elapsed() < AGAIN);
                if stays && said_at.is_none() {
                    usable.set(0);
                    tracing::error!(
                        service, reason = %unusable,
                        "the new certificate cannot be used; the one before stays in use until that is mended, which \
                         needs no restart"
                    );
                }
                Odd { said_at: said_at.or(stays.then(Instant::now)), unusable: Some(unusable) }
            }
        }
    }

    /// Says what is wrong with the certificate that is served and was not before.
    fn complain(&self, said: Vec<Concern>) -> Vec<Concern> {
        let (service, pair) = (self.service, self.served.pair());
        metrics::gauge!("buildgrid_tls_certificate_end_seconds", "service" => service)
            .set(pair.ends().unix_timestamp() as f64);
        let concerns = pair.concerns(OffsetDateTime::now_utc());
        for new in concerns.iter().filter(|concern| !said.contains(concern)) {
            match new {
                Concern::Refused(words) => tracing::error!(service, "{words}"),
                Concern::Trouble(words) | Concern::EndsSoon(words) => tracing::warn!(service, "{words}"),
            }
        }
        concerns
    }

    /// Whether the files have another pair than the one that was served, which is served from now on.
    fn renewed(&self, files: &Files) -> Result<bool, Unusable> {
        let mark = files.mark();
        if mark == self.served.mark() {
            return Ok(false);
        }
        let pair = Pair::of(files, &self.host)?;
        let now = OffsetDateTime::now_utc();
        match (pair.of_time(now), self.served.pair().of_time(now)) {
            // An old one that was copied over a good one, perhaps.
            (Some(Concern::Refused(_)), Some(Concern::Refused(_))) => {}
            (Some(Concern::Refused(reason)), _) => return Err(Unusable(reason)),
            _ => {}
        }
        self.served.exchange(pair, mark);
        Ok(true)
    }
}

/// Files that could not be used when they were last looked at.
#[derive(Debug, Default)]
struct Odd {
    unusable: Option<Unusable>,
    /// When that was said last.
    said_at: Option<Instant>,
}

/// What `/readyz` calls it.
fn condition(service: &str) -> &'static str {
    match service {
        "registry" => "registry.tls",
        _ => "timeline.tls",
    }
}
