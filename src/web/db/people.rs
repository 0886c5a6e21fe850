//! Users and their sessions, and the tokens of programs.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use time::OffsetDateTime;

use super::open::Database;
use super::row::parsed;
use super::writer::WriteError;
use super::{millis, time_of};
use crate::web::access::{InvalidRole, Namespaces, PasswordHash, Principal, Role, Secret};

/// A login as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub principal: Principal,
    pub created_at: OffsetDateTime,
}

fn principal(row: &SqliteRow) -> sqlx::Result<Principal> {
    let damaged = |column: &str, reason: String| super::row::damaged(column, &reason);
    let role: String = row.try_get("role")?;
    let namespaces: String = row.try_get("namespaces")?;
    Ok(Principal {
        name: parsed(row, "name")?,
        role: role.parse().map_err(|error: InvalidRole| damaged("role", error.to_string()))?,
        namespaces: namespaces
            .parse::<Namespaces>()
            .map_err(|error| damaged("namespaces", error.to_string()))?,
    })
}

fn login(row: &SqliteRow) -> sqlx::Result<Login> {
    Ok(Login { principal: principal(row)?, created_at: time_of(row.try_get("created_at")?) })
}

/// The session of a browser, by the digest of what it holds; `false` if the user has another password by now
/// than the one that was checked.
pub(in crate::web) async fn add_session(
    connection: &mut SqliteConnection,
    digest: &str,
    user: &str,
    checked: &PasswordHash,
    expires_at: OffsetDateTime,
    now: OffsetDateTime,
) -> sqlx::Result<bool> {
    // Those that are over go with the next sign-in.
    let sweep = "DELETE FROM sessions WHERE expires_at <= $1";
    sqlx::query(sweep).bind(millis(now)).execute(&mut *connection).await?;
    let insert = "INSERT INTO sessions (digest, user_name, expires_at)
        SELECT $1, name, $3 FROM users WHERE name = $2 AND password = $4";
    let insert = sqlx::query(insert).bind(digest).bind(user).bind(millis(expires_at)).bind(checked.as_str());
    Ok(insert.execute(connection).await?.rows_affected() > 0)
}

pub(in crate::web) async fn remove_session(
    connection: &mut SqliteConnection,
    digest: &str,
) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM sessions WHERE digest = $1").bind(digest).execute(connection).await.map(drop)
}

impl Database {
    /// The principal of a token.
    pub(in crate::web) async fn token(&self, secret: &Secret) -> sqlx::Result<Option<Principal>> {
        let select = "SELECT name, role, namespaces FROM tokens WHERE digest = $1";
        let row = sqlx::query(select).bind(secret.digest()).fetch_optional(&self.readers).await?;
        row.as_ref().map(principal).transpose()
    }

    /// The principal of a session that is not over.
    pub(in crate::web) async fn session(
        &self,
        secret: &Secret,
        now: OffsetDateTime,
    ) -> sqlx::Result<Option<Principal>> {
        let select =
            "SELECT u.name, u.role, u.namespaces FROM sessions s JOIN users u ON u.name = s.user_name
            WHERE s.digest = $1 AND s.expires_at > $2";
        let select = sqlx::query(select).bind(secret.digest()).bind(millis(now));
        select.fetch_optional(&self.readers).await?.as_ref().map(principal).transpose()
    }

    pub(in crate::web) async fn password(&self, user: &str) -> sqlx::Result<Option<PasswordHash>> {
        let select = sqlx::query_scalar("SELECT password FROM users WHERE name = $1").bind(user);
        let kept: Option<String> = select.fetch_optional(&self.readers).await?;
        Ok(kept.map(PasswordHash::kept))
    }

    /// Users in the order of their names.
    pub async fn users(&self) -> sqlx::Result<Vec<Login>> {
        let select = "SELECT name, role, namespaces, created_at FROM users ORDER BY name";
        sqlx::query(select).fetch_all(&self.readers).await?.iter().map(login).collect()
    }

    /// Tokens in the order of their names.
    pub async fn tokens(&self) -> sqlx::Result<Vec<Login>> {
        let select = "SELECT name, role, namespaces, created_at FROM tokens ORDER BY name";
        sqlx::query(select).fetch_all(&self.readers).await?.iter().map(login).collect()
    }

    /// Adds a user; `false` if the name is taken.
    pub async fn add_user(
        &self,
        user: Principal,
        password: PasswordHash,
        now: OffsetDateTime,
    ) -> Result<bool, WriteError> {
        let insert = "INSERT INTO users (name, password, role, namespaces, created_at)
            VALUES ($1, $2, $3, $4, $5) ON CONFLICT (name) DO NOTHING";
        self.add(insert, user, password.as_str().to_owned(), now).await
    }

    /// Adds a token; `false` if the name is taken.
    pub async fn add_token(
        &self,
        token: Principal,
        secret: &Secret,
        now: OffsetDateTime,
    ) -> Result<bool, WriteError> {
        let insert = "INSERT INTO tokens (name, digest, role, namespaces, created_at)
            VALUES ($1, $2, $3, $4, $5) ON CONFLICT (name) DO NOTHING";
        self.add(insert, token, secret.digest(), now).await
    }

    async fn add(
        &self,
        insert: &'static str,
        who: Principal,
        secret: String,
        now: OffsetDateTime,
    ) -> Result<bool, WriteError> {
        self.write(Box::new(move |connection| {
            Box::pin(async move {
                let insert = sqlx::query(insert)
                    .bind(who.name)
                    .bind(secret)
                    .bind(who.role.as_str())
                    .bind(who.namespaces.to_string())
                    .bind(millis(now));
                Ok(insert.execute(connection).await?.rows_affected() > 0)
            })
        }))
        .await
    }

    /// Gives a user another password and ends all sessions of the user; `false` if there is no such user.
    pub async fn change_password(&self, name: String, password: PasswordHash) -> Result<bool, WriteError> {
        self.write(Box::new(move |connection| {
            Box::pin(async move {
                let end = sqlx::query("DELETE FROM sessions WHERE user_name = $1").bind(&name);
                end.execute(&mut *connection).await?;
                let update = sqlx::query("UPDATE users SET password = $2 WHERE name = $1");
                let update = update.bind(name).bind(password.as_str());
                Ok(update.execute(connection).await?.rows_affected() > 0)
            })
        }))
        .await
    }

    /// Gives a user another role; `false` if there is no such user.
    pub async fn change_role(&self, name: String, role: Role) -> Result<bool, WriteError> {
        self.write(Box::new(move |connection| {
            Box::pin(async move {
                let update = sqlx::query("UPDATE users SET role = $2 WHERE name = $1");
                let update = update.bind(name).bind(role.as_str());
                Ok(update.execute(connection).await?.rows_affected() > 0)
            })
        }))
        .await
    }

    /// Removes a user with all sessions; `false` if there is none.
    pub async fn remove_user(&self, name: String) -> Result<bool, WriteError> {
        self.remove("DELETE FROM users WHERE name = $1", name).await
    }

    /// Removes a token, which is refused from now on; `false` if there is none.
    pub async fn remove_token(&self, name: String) -> Result<bool, WriteError> {
        self.remove("DELETE FROM tokens WHERE name = $1", name).await
    }

    async fn remove(&self, delete: &'static str, name: String) -> Result<bool, WriteError> {
        self.write(Box::new(move |connection| {
            Box::pin(async move {
                Ok(sqlx::query(delete).bind(name).execute(connection).await?.rows_affected() > 0)
            })
        }))
        .await
    }
}
