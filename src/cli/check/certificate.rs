//! The certificates of registry and timeline service.

use time::OffsetDateTime;

use super::Report;
use crate::serving::tls::{Concern, Pair, TlsConfig, minute};

/// Whether clients will take the certificate that a service is to show. Who runs this may have other rights than that
/// service.
pub(super) fn certificate(report: &mut Report, part: &str, tls: Option<&TlsConfig>, host: &str) {
    let Some(tls) = tls else { return };
    let pair = match Pair::load(tls, host) {
        Ok(pair) => pair,
        Err(unusable) => return report.wrong(part, unusable),
    };
    let concerns = pair.concerns(OffsetDateTime::now_utc());
    for concern in &concerns {
        match concern {
            Concern::EndsSoon(words) => report.note(part, words),
            Concern::Refused(words) | Concern::Trouble(words) => report.wrong(part, words),
        }
    }
    if concerns.is_empty() {
        report.good(part, format_args!("{}, until {}", tls.certificate.display(), minute(pair.ends())));
    }
}
