//! Bringing a database to the schema of this program, or refusing one that is newer.

use std::path::{Path, PathBuf};

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Row, SqliteConnection};

use super::open::OpenError;
use crate::disk::Fill;

/// The schema, step by step. A step that has been released is never changed: a new one is appended.
const STEPS: &[(i64, &str, &str)] = &[
    (1, "builds and logs", include_str!("migrations/0001_builds_and_logs.sql")),
    (2, "turns", include_str!("migrations/0002_turns.sql")),
    (3, "history", include_str!("migrations/0003_history.sql")),
    (4, "outlines", include_str!("migrations/0004_outlines.sql")),
    (5, "timeline", include_str!("migrations/0005_timeline.sql")),
    (6, "answers", include_str!("migrations/0006_answers.sql")),
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
        has_room(connection, file).await?;
        tracing::info!(copy = %copy.display(), "copying the database before its schema is changed, which takes as long as its logs are large");
        let copied = sqlx::query("VACUUM INTO $1").bind(copy.to_string_lossy()).execute(&mut *connection);
        if let Err(error) = copied.await {
            // Half a copy is of use to nobody, and takes the space that is missing.
            let _ = std::fs::remove_file(&copy);
            return Err(OpenError::database(&copy, error));
        }
        tracing::info!(copy = %copy.display(), from = found, to = known, "copied the database before changing its schema");
    }
    let migrations = steps.iter().map(|&(version, description, sql)| {
        let sql = sqlx::SqlStr::from_static(sql);
        Migration::new(version, description.into(), MigrationType::Simple, sql, false)
    });
    let migrator = Migrator::with_migrations(migrations.collect());
    migrator.run(connection).await.map_err(|error| OpenError::Migration { file: file.to_owned(), error })
}

/// Refuses where the disk has not room enough for the copy, and for the change: at most, all but the logs' lines is
/// written once more, into the write-ahead log and out of it.
async fn has_room(connection: &mut SqliteConnection, file: &Path) -> Result<(), OpenError> {
    let failed = |error| OpenError::database(file, error);
    let used = "SELECT (pc.page_count - fc.freelist_count) * ps.page_size
        FROM pragma_page_count() pc, pragma_freelist_count() fc, pragma_page_size() ps";
    let used: i64 = sqlx::query_scalar(used).fetch_one(&mut *connection).await.map_err(failed)?;
    let table = "SELECT count(*) FROM sqlite_schema WHERE name = 'log_blocks'";
    let tables: i64 = sqlx::query_scalar(table).fetch_one(&mut *connection).await.map_err(failed)?;
    let lines: i64 = match tables {
        0 => 0,
        // The lengths stand beside the data, which is not read.
        _ => {
            let lines = sqlx::query_scalar("SELECT coalesce(sum(length(data)), 0) FROM log_blocks");
            lines.fetch_one(connection).await.map_err(failed)?
        }
    };
    let change = 2 * used.saturating_sub(lines).max(0);
    let needed = u64::try_from(used + change).unwrap_or_default();
    let fill = Fill::of(file)
        .map_err(|error| OpenError::Directory { path: file.to_owned(), reason: error.to_string() })?;
    match fill.free >= needed {
        true => Ok(()),
        false => Err(OpenError::Space { file: file.to_owned(), needed, free: fill.free }),
    }
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
    use std::ops::ControlFlow;
    use std::sync::Arc;

    use super::*;
    use crate::web::db::Database;
    use crate::web::db::logs::LogId;
    use crate::web::log::batch::tests::line;
    use crate::web::log::batch::{Batch, Encoding};
    use crate::web::log::block::{Block, Packed, pack};
    use crate::web::log::filter::Filter;
    use crate::web::log::read::{find, outlines};
    use sqlx::sqlite::SqliteConnectOptions;
    use sqlx::{ConnectOptions, Connection};
    use time::OffsetDateTime;

    /// Rows as the first schema has them: a build, its attempt and its log, and two deploys with theirs.
    const OLD: &str = r#"
        INSERT INTO builds (id, namespace, app, event, deploy_id, services, repository, commit_id, fake, state,
            attempt, reused, created_at, finished_at, git_ref, result) VALUES
            ('b-1', 'acme', 'web', '{}', 'd-1', '["web"]', 'r', '9fceb02d0ae598e95dc970b74767f19372d61af8', 0,
            'published', '0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c11', 0, 7, 9, 'refs/heads/main',
            '{"digest":"sha256:0","image":"h:5000/acme/web.r:9fceb02d0ae598e95dc970b74767f19372d61af8-slim"}');
        INSERT INTO apps VALUES ('acme', 'web');
        INSERT INTO build_services VALUES ('b-1', 'acme', 'web', 'web', 7);
        INSERT INTO attempts (id, build_id, number, worker, state, claimed_at) VALUES
            ('0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c11', 'b-1', 1, 'worker-1', 'published', 7);
        INSERT INTO logs (id, next_seq, bytes) VALUES
            ('a:0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c11', 0, 0), ('d:acme:d-1', 0, 0), ('d:acme:d-2', 0, 0);
        INSERT INTO deploys VALUES
            ('acme', 'd-1', 'web', 'done', '{"namespace":"acme","app":"web","state":"done","services":["web"],
            "finished_at":"2026-11-23T10:17:20.250Z"}', 8),
            ('acme', 'd-2', 'web', 'running', '{"namespace":"acme","app":"web","state":"running"}', 12);"#;

    #[tokio::test]
    async fn what_an_older_version_has_kept_is_there_after_every_step() {
        for version in 1..STEPS.len() {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("timeline.db");
            let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
            let mut connection = options.connect().await.unwrap();
            // The rows are of the first version, and went along to the others by the same steps.
            apply(&mut connection, &file, &STEPS[..1]).await.unwrap();
            sqlx::raw_sql(OLD).execute(&mut connection).await.unwrap();
            let log = LogId::of_attempt("0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c11".parse().unwrap());
            let lines: String = (0..3).map(|seq| line(seq, None, "text") + "\n").collect();
            let packed = pack(&Batch::read(lines.as_bytes(), Encoding::Identity).unwrap(), 0, None).unwrap();
            let Packed { block: Block { head, data }, .. } = packed.into_iter().next().unwrap();
            for log in [log.to_string(), "d:acme:d-1".to_owned()] {
                let block =
                    "INSERT INTO log_blocks (log_id, first_seq, entries, bytes, first_at, last_at, data)
                    VALUES ($1, 0, 3, $2, 0, 2, $3)";
                let bytes = i64::try_from(head.bytes).unwrap();
                sqlx::query(block).bind(&log).bind(bytes).bind(&data).execute(&mut connection).await.unwrap();
                let grown = "UPDATE logs SET next_seq = 3, bytes = $2 WHERE id = $1";
                sqlx::query(grown).bind(&log).bind(bytes).execute(&mut connection).await.unwrap();
            }
            apply(&mut connection, &file, &STEPS[..version]).await.unwrap();
            connection.close().await.unwrap();

            let database = Database::open(folder.path()).await.unwrap();
            let now = OffsetDateTime::now_utc();
            let mut reader = database.readers.acquire().await.unwrap();
            let read =
                "SELECT coalesce(arrived_at, created_at), rebuild, in_line_at, waiting, variant FROM builds";
            let row: (i64, i64, Option<i64>, Option<String>, Option<String>) =
                sqlx::query_as(read).fetch_one(&mut *reader).await.unwrap();
            assert_eq!(row, (7, 0, None, None, Some("-slim".to_owned())), "{version}");
            let found = "SELECT r.built_at FROM refs r JOIN builds b ON b.digest = 'sha256:0' AND b.git_ref = r.git_ref";
            let row: i64 = sqlx::query_scalar(found).fetch_one(&mut *reader).await.unwrap();
            assert_eq!(row, 7, "{version}");
            let services = "SELECT deploy_id, service, done_at FROM deploy_services ORDER BY deploy_id";
            let rows: Vec<(String, String, Option<i64>)> =
                sqlx::query_as(services).fetch_all(&mut *reader).await.unwrap();
            let done = Some(1_795_429_040_250);
            assert_eq!(
                rows,
                [("d-1".into(), "web".into(), done), ("d-2".into(), String::new(), None)],
                "{version}"
            );

            // What the service makes of it: the deploy that serves, the one without a build, and the lines.
            let (namespace, app) = ("acme".parse().unwrap(), "web".parse().unwrap());
            let serving = database.serving(&namespace, &app, &[]).await.unwrap();
            assert_eq!(serving["web"].id, "d-1", "{version}");
            let alone = database.deploys_alone(&namespace, &app, Some("web"), (None, None), 9).await.unwrap();
            let alone: Vec<_> = alone.iter().map(|placed| placed.deploy.id.as_str()).collect();
            assert_eq!(alone, ["d-2"], "{version}");
            assert_eq!(database.recent(&namespace, &app, 9, now).await.unwrap().len(), 1, "{version}");
            for log in [log, LogId::of_deploy("acme", "d-1")] {
                let all = Arc::new(Filter::default().compile().unwrap());
                let found = find(&database, &log, 0..9, 9, &all).await.unwrap();
                assert_eq!(String::from_utf8(found.lines).unwrap(), lines, "{version}");
                for kept in [false, true] {
                    let outlined = database.log_outlines(&log, 0, 9).await.unwrap();
                    // Made of the lines, once.
                    assert_eq!(outlined[0].outline.is_some(), kept, "{version}");
                    let mut found = Vec::new();
                    let take = |block| {
                        found.push(block);
                        ControlFlow::Continue(())
                    };
                    outlines(&database, &log, 0..9, &all, take).await.unwrap();
                    assert_eq!((found.len(), found[0].entries, found[0].parts.len()), (1, 3, 1), "{version}");
                }
            }
            drop(reader);
            database.close().await;
            assert!(copy_of(&file, version as i64).exists(), "{version}");
        }
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
