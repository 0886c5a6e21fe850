//! What is made once: the directory, a login for people, tokens for the worker and for commands.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use secrecy::SecretString;
use time::OffsetDateTime;

use crate::web::access::{Namespaces, PasswordHash, Principal, Role, Secret};
use crate::web::db::Database;

/// The login that is made for the person who starts it.
pub const ADMIN: &str = "admin";

/// Makes the data directory, and answers it with no link and no `..` in it.
pub(super) fn directory(path: &Path) -> anyhow::Result<PathBuf> {
    let named = || format!("make up.data_dir {}", path.display());
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(named)?;
    path.canonicalize().with_context(named)
}

/// Makes the login of a first start; answers its password, to be shown once. `None`: there are logins.
pub(super) async fn admin(database: &Database) -> anyhow::Result<Option<SecretString>> {
    if !database.users().await.context("read the logins")?.is_empty() {
        return Ok(None);
    }
    let password: SecretString = Secret::generate("").expose().to_owned().into();
    let hashed = password.clone();
    let hash = tokio::task::spawn_blocking(move || PasswordHash::make(&hashed)).await?;
    let user = Principal { name: ADMIN.to_owned(), role: Role::Admin, namespaces: Namespaces::All };
    database.add_user(user, hash?, OffsetDateTime::now_utc()).await.context("make the first login")?;
    Ok(Some(password))
}

/// Whether the login of the first start is still there.
pub(super) async fn has_admin(database: &Database) -> anyhow::Result<bool> {
    let users = database.users().await.context("read the logins")?;
    Ok(users.iter().any(|login| login.principal.name == ADMIN))
}

/// The file with a token of this name, made where there is none.
pub(super) async fn token(
    database: &Database,
    data_dir: &Path,
    name: &str,
    role: Role,
) -> anyhow::Result<PathBuf> {
    let folder = data_dir.join("tokens");
    let path = folder.join(format!("{name}.token"));
    let named = || format!("make {}", path.display());
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).with_context(named)?;
    let known = database.tokens().await.context("read the tokens")?;
    let known = known.iter().any(|login| login.principal.name == name);
    if known && path.exists() {
        return Ok(path);
    }
    // One of the two without the other is of no use: both are made anew.
    database.remove_token(name.to_owned()).await.with_context(named)?;
    let secret = Secret::token();
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(true).write(true).mode(0o600).open(&path);
    let mut file = file.with_context(named)?;
    writeln!(file, "{}", secret.expose()).and_then(|()| file.sync_all()).with_context(named)?;
    let principal = Principal { name: name.to_owned(), role, namespaces: Namespaces::All };
    database.add_token(principal, &secret, OffsetDateTime::now_utc()).await.with_context(named)?;
    Ok(path)
}
