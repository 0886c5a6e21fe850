//! `/settings/buildgrid`: how machines pull images, and the credentials they do it with.

use askama::Template;
use http::StatusCode;
use secrecy::ExposeSecret as _;
use time::OffsetDateTime;

use super::document::{Document, Frame, Place, Viewer};
use super::icons::Icon;
use super::words::Moment;
use crate::store::{Credential, NewCredential, StoreError};
use crate::telemetry::printable::printable;
use crate::web::credentials::Kept;

/// Stands in a command for what only the reader knows.
const SOME_USER: &str = "<user>";
const SOME_NAMESPACE: &str = "<namespace>";

/// What the page shows.
pub struct Settings<'a> {
    /// The registry's, as clients reach it.
    pub host: &'a str,
    /// The credentials, for whoever may manage them.
    pub managed: Option<&'a Kept>,
    /// The one whose password is shown, this once.
    pub fresh: Option<Fresh<'a>>,
    /// Namespaces to choose from.
    pub namespaces: &'a [String],
    /// Whether others can be named as well.
    pub any_namespace: bool,
}

/// A credential with its new password.
#[derive(Clone, Copy)]
pub struct Fresh<'a> {
    pub new: &'a NewCredential,
    /// It had another one before.
    pub rotated: bool,
}

#[derive(Template)]
#[template(path = "settings.html")]
struct SettingsPage {
    frame: Frame,
    host: String,
    login: String,
    secret: Vec<String>,
    fresh: Option<FreshView>,
    credentials: Credentials,
    namespaces: Vec<String>,
    any_namespace: bool,
    icons: Icons,
}

struct Icons {
    copy: Icon,
    close: Icon,
    key: Icon,
    failed: Icon,
}

/// What is said of the credentials.
enum Credentials {
    /// This login does not manage them.
    NotForThem,
    /// The service cannot read them; why.
    Elsewhere(&'static str),
    Here {
        rows: Vec<Row>,
        /// Those that are damaged, each with the command that removes it.
        damaged: Vec<(String, String)>,
        /// Those that cannot be read now, each with why.
        unread: Vec<(String, String)>,
        writable: bool,
    },
}

struct Row {
    user: String,
    namespaces: Vec<String>,
    created: Moment,
    /// When its password was made.
    since: Moment,
    fresh: bool,
}

struct FreshView {
    user: String,
    password: String,
    rotated: bool,
}

pub fn settings(viewer: &Viewer, settings: &Settings<'_>, now: OffsetDateTime) -> Document {
    let fresh = settings.fresh.map(|fresh| &fresh.new.credential);
    let credentials = match settings.managed {
        None => Credentials::NotForThem,
        Some(Kept::Elsewhere(StoreError::NoStore(_))) => {
            Credentials::Elsewhere("This service does not see the store, where credentials lie.")
        }
        Some(Kept::Elsewhere(_)) => Credentials::Elsewhere(
            "The store, where credentials lie, cannot be read; the service’s log says why.",
        ),
        Some(Kept::Here { credentials, damaged, unread, writable }) => Credentials::Here {
            rows: credentials.iter().map(|credential| Row::new(credential, fresh, now)).collect(),
            damaged: damaged
                .iter()
                .map(|user| (user.to_string(), format!("buildgrid credential remove {user}")))
                .collect(),
            unread: unread
                .iter()
                .map(|login| (login.user.to_string(), printable(&login.file.reason)))
                .collect(),
            writable: *writable,
        },
    };
    let first = match settings.managed {
        Some(Kept::Here { credentials, .. }) => credentials.first(),
        _ => None,
    };
    let example = fresh.or(first);
    let user = example.map_or(SOME_USER, |credential| credential.user.as_str());
    let namespace = example.and_then(|credential| credential.namespaces.first());
    let template = SettingsPage {
        frame: Frame::new(Some(viewer)).at(Place::Settings),
        host: printable(settings.host),
        login: printable(&format!("docker login {} --username {user}", settings.host)),
        secret: pull_secret(namespace.map_or(SOME_NAMESPACE, |name| name.as_str()), settings.host, user),
        fresh: settings.fresh.map(|Fresh { new, rotated }| FreshView {
            user: new.credential.user.to_string(),
            password: new.password.expose_secret().to_owned(),
            rotated,
        }),
        credentials,
        namespaces: settings.namespaces.iter().map(|name| printable(name)).collect(),
        any_namespace: settings.any_namespace,
        icons: Icons { copy: Icon::Copy, close: Icon::Close, key: Icon::Key, failed: Icon::Failed },
    };
    Document::render(StatusCode::OK, &template)
}

/// The lines of the command that makes a pull secret for the pods of a namespace.
pub(super) fn pull_secret(namespace: &str, host: &str, user: &str) -> Vec<String> {
    let lines = [
        "kubectl create secret docker-registry buildgrid".to_owned(),
        format!("  --namespace {namespace}"),
        format!("  --docker-server {host}"),
        format!("  --docker-username {user}"),
        "  --docker-password \"$BUILDGRID_PASSWORD\"".to_owned(),
    ];
    let last = lines.len() - 1;
    let continued = |(at, line): (usize, String)| if at < last { format!("{line} \\") } else { line };
    lines.into_iter().map(|line| printable(&line)).enumerate().map(continued).collect()
}

impl Row {
    fn new(credential: &Credential, fresh: Option<&Credential>, now: OffsetDateTime) -> Self {
        Self {
            user: credential.user.to_string(),
            namespaces: credential.namespaces.iter().map(ToString::to_string).collect(),
            created: Moment::new(credential.created_at, now),
            since: Moment::new(credential.rotated_at.unwrap_or(credential.created_at), now),
            fresh: fresh.is_some_and(|fresh| fresh.user == credential.user),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn a_password_is_shown_to_its_admin_alone_and_once() {
        let (kept, new) = (samples::kept(true), samples::new_credential());
        let page = |fresh| {
            let settings = Settings { fresh, ..samples::settings_of(Some(&kept)) };
            settings_page(&settings)
        };
        let with = page(Some(Fresh { new: &new, rotated: true }));
        let password = new.password.expose_secret();
        assert!(with.contains(password) && with.contains("shown this once"), "{with}");
        let without = page(None);
        assert!(!without.contains(password) && without.contains("globex-prod-7m2d"));
        assert!(without.contains("docker login registry.example.com --username acme-k3v9"));
        let viewer = settings_page(&samples::settings_of(None));
        assert!(
            !viewer.contains("acme-k3v9") && !viewer.contains("<form method=\"post\" action=\"/settings")
        );
        assert!(viewer.contains("docker login registry.example.com --username &#60;user&#62;"));
    }

    #[test]
    fn what_the_service_cannot_do_is_told_as_a_command() {
        let readable = settings_page(&samples::settings_of(Some(&samples::kept(false))));
        assert!(readable.contains("acme-k3v9") && !readable.contains("value=\"rotate\""));
        assert!(readable.contains("buildgrid credential rotate"));
        let elsewhere = Kept::Elsewhere(StoreError::NoStore("/srv/store".into()));
        let elsewhere = settings_page(&samples::settings_of(Some(&elsewhere)));
        assert!(elsewhere.contains("buildgrid credential add") && !elsewhere.contains("/srv/store"));
    }

    #[test]
    fn what_cannot_be_read_now_is_told_with_the_reason_and_not_to_be_removed() {
        let page = settings_page(&samples::settings_of(Some(&samples::damaged())));
        assert!(page.contains("buildgrid credential remove globex-old-4t0e"));
        assert!(page.contains("<code>smoke-h5r1</code> is left out now:</b> it cannot be read: Permission"));
        assert!(!page.contains("remove smoke-h5r1") && !page.contains("/srv/store"), "{page}");
    }

    fn settings_page(settings: &Settings<'_>) -> String {
        super::settings(&samples::viewer(), settings, samples::NOW).html().to_owned()
    }
}
