//! Bringing a database to the schema of this program, or refusing one that is newer.

use std::path::{Path, PathBuf};

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Row, SqliteConnection};

use super::open::OpenError;

/// The schema, step by step. A step that has been released is never changed: a new one is appended.
const STEPS: &[(i64, &str, &str)] = &[
    (1, "builds and logs", include_str!("migrations/0001_builds_and_logs.sql")),
    (2, "turns", include_str!("migrations/0002_turns.sql")),
    (3, "history", include_str!("migrations/0003_history.sql")),
    (4, "outlines", include_str!("migrations/0004_outlines.sql")),
    (5, "timeline", include_str!("migrations/0005_timeline.sql")),
];

/// Applies what is missing. Before it changes a database that is in use, it makes a copy of the file beside it.
pub(super) async fn migrate(connection: &mut SqliteConnection, file: &Path) -> Result<(), OpenError> {
    apply(connection, file, STEPS).await
}

async fn apply(
    connection: &mut SqliteConnection,
    file: &Path,
    steps: &[(i64, &'static str, &'static str)],
) -> Result<(), OpenError> {
    let known = steps.last().map_or(0, |(version, ..)| *version);
    let found = version(connection).await.map_err(|error| OpenError::database(file, error))?;
    if found > known {
        return Err(OpenError::Newer { file: file.to_owned(), found, known });
    }
    if found == known {
        return Ok(());
    }
    if found > 0 {
        let copy = copy_of(file, found);
        // A copy of an earlier try, which was stopped before its end, is made anew.
        match std::fs::remove_file(&copy) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(OpenError::Directory { path: copy, reason: error.to_string() });
            }
            _ => {}
        }
        tracing::info!(copy = %copy.display(), "copying the database before its schema is changed, which takes as long as its logs are large");
        let copied = sqlx::query("VACUUM INTO $1").bind(copy.to_string_lossy()).execute(&mut *connection);
        copied.await.map_err(|error| OpenError::database(&copy, error))?;
        tracing::info!(copy = %copy.display(), from = found, to = known, "copied the database before changing its schema");
    }
    let migrations = steps.iter().map(|&(version, description, sql)| {
        let sql = sqlx::SqlStr::from_static(sql);
        Migration::new(version, description.into(), MigrationType::Simple, sql, false)
    });
    let migrator = Migrator::with_migrations(migrations.collect());
    migrator.run(connection).await.map_err(|error| OpenError::Migration { file: file.to_owned(), error })
}

fn copy_of(file: &Path, version: i64) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".schema-{version}"));
    name.into()
}

/// The schema's version; 0 for an empty file.
async fn version(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    let table = "SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'";
    let tables: i64 = sqlx::query(table).fetch_one(&mut *connection).await?.try_get(0)?;
    if tables == 0 {
        return Ok(0);
    }
    let newest = "SELECT coalesce(max(version), 0) FROM _sqlx_migrations";
    sqlx::query(newest).fetch_one(connection).await?.try_get(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::ConnectOptions;
    use sqlx::sqlite::SqliteConnectOptions;

    #[tokio::test]
    async fn builds_of_the_first_schema_are_there_after_every_step() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("timeline.db");
        let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        apply(&mut connection, &file, &STEPS[..1]).await.unwrap();
        let old =
            "INSERT INTO builds (id, namespace, app, event, services, repository, commit_id, fake, state,
            created_at, git_ref, result) VALUES ('b-1', 'acme', 'web', '{}', '[]', 'r', 'c', 0, 'queued', 7,
            'refs/heads/main', '{\"digest\":\"sha256:0\"}')";
        sqlx::query(old).execute(&mut connection).await.unwrap();
        migrate(&mut connection, &file).await.unwrap();
        let read = "SELECT coalesce(arrived_at, created_at), rebuild, in_line_at, waiting, ended_because FROM builds";
        let row: (i64, i64, Option<i64>, Option<String>, Option<String>) =
            sqlx::query_as(read).fetch_one(&mut connection).await.unwrap();
        assert_eq!(row, (7, 0, None, None, None));
        let found = "SELECT r.app, r.built_at FROM refs r JOIN builds b ON b.digest = 'sha256:0' AND b.git_ref = r.git_ref";
        let row: (String, i64) = sqlx::query_as(found).fetch_one(&mut connection).await.unwrap();
        assert_eq!(row, ("web".to_owned(), 7));
    }

    #[tokio::test]
    async fn a_copy_is_made_before_a_change_and_a_newer_schema_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("timeline.db");
        let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        let first = (1, "one", "CREATE TABLE one (a BIGINT)");
        let second = (2, "two", "ALTER TABLE one ADD COLUMN b BIGINT");
        apply(&mut connection, &file, &[first]).await.unwrap();
        assert!(!copy_of(&file, 0).exists(), "an empty file needs no copy");
        sqlx::query("INSERT INTO one (a) VALUES (7)").execute(&mut connection).await.unwrap();

        std::fs::write(copy_of(&file, 1), "left by a try that was stopped").unwrap();
        apply(&mut connection, &file, &[first, second]).await.unwrap();
        let copy = SqliteConnectOptions::new().filename(copy_of(&file, 1)).connect().await;
        let kept: i64 = sqlx::query("SELECT a FROM one").fetch_one(&mut copy.unwrap()).await.unwrap().get(0);
        assert_eq!(kept, 7);
        apply(&mut connection, &file, &[first, second]).await.unwrap();

        let refused = apply(&mut connection, &file, &[first]).await.unwrap_err().to_string();
        assert!(refused.contains("version 2") && refused.contains("up to 1"), "{refused}");
    }
}
