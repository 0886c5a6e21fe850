//! What `buildgrid user` and `buildgrid token` share: the database they work on, names, namespaces and the
//! list.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::{Value, json};

use super::exit::{Exit, Failure};
use crate::config::Config;
use crate::publish::name::Namespace;
use crate::timeline::entry::timestamp;
use crate::up;
use crate::web::access::Namespaces;
use crate::web::db::Database;
use crate::web::db::people::Login;

/// The name of a user or token: `[A-Za-z0-9._@-]{1,64}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LoginName(String);

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a name: 1 to 64 of A-Z, a-z, 0-9, '.', '_', '@' and '-'")]
pub(super) struct InvalidLoginName(String);

impl FromStr for LoginName {
    type Err = InvalidLoginName;

    fn from_str(text: &str) -> Result<Self, InvalidLoginName> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'-');
        match (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidLoginName(text.chars().take(80).collect())),
        }
    }
}

impl fmt::Display for LoginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The namespaces of a new login.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct NamespacesArgs {
    /// A namespace that it may see; may be repeated
    #[arg(long = "namespace", value_name = "NAMESPACE")]
    namespaces: Vec<Namespace>,
    /// All namespaces, also those to come
    #[arg(long)]
    all_namespaces: bool,
}

impl NamespacesArgs {
    pub(super) fn namespaces(self) -> Namespaces {
        match self.all_namespaces {
            true => Namespaces::All,
            false => Namespaces::Some(self.namespaces.into_iter().collect()),
        }
    }
}

/// The directory of the timeline's database: the configured one, or that of `buildgrid up`.
pub(super) fn data_dir(config: &Config) -> PathBuf {
    up::adopted(config).as_ref().unwrap_or(config).timeline.data_dir.clone()
}

/// Opens the database beside the service, which may be running.
pub(super) async fn open(data_dir: &Path) -> Result<Database, Failure> {
    Database::open_beside(data_dir).await.map_err(|error| Failure::new(Exit::Configuration, error))
}

/// A list of logins, as a table or as JSON; `none` where there are none.
pub(super) fn list(logins: &[Login], json: bool, none: &str) -> String {
    if json {
        let logins = logins.iter().map(|Login { principal, created_at }| {
            json!({
                "name": principal.name,
                "role": principal.role,
                // null: all of them.
                "namespaces": principal.namespaces.names(),
                "created_at": timestamp::to_string(*created_at),
            })
        });
        return format!("{}\n", Value::from_iter(logins));
    }
    if logins.is_empty() {
        return format!("{none}\n");
    }
    let width = logins.iter().map(|login| login.principal.name.len()).max().unwrap_or(0).max(4);
    let mut table = format!("{:width$}  {:7}  {:24}  NAMESPACES\n", "NAME", "ROLE", "CREATED");
    for Login { principal, created_at } in logins {
        table += &format!(
            "{:width$}  {:7}  {:24}  {}\n",
            principal.name,
            principal.role.as_str(),
            timestamp::to_string(*created_at),
            shown(&principal.namespaces)
        );
    }
    table
}

pub(super) fn shown(namespaces: &Namespaces) -> String {
    match namespaces.names() {
        None => "all".to_owned(),
        Some(names) => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for good in ["anna", "anna@example.com", "builder-1", "a"] {
            assert_eq!(good.parse::<LoginName>().unwrap().to_string(), good);
        }
        for bad in ["", "a b", "a/b", "é", &"x".repeat(65), "a\n"] {
            assert!(bad.parse::<LoginName>().unwrap_err().to_string().contains("is not a name"), "{bad}");
        }
    }
}
