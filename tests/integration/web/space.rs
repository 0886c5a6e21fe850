//! A database of an older version on a disk that has no room for the copy which a change of its schema needs.

use std::borrow::Cow;

use buildgrid::web::db::Database;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::support::disk::SmallDisk;

const FIRST: &str = include_str!("../../../src/web/db/migrations/0001_builds_and_logs.sql");

#[tokio::test(flavor = "multi_thread")]
async fn a_change_without_room_for_the_copy_is_refused_with_what_is_needed() {
    let disk = SmallDisk::mount("8m");
    let file = disk.path().join("timeline.db");
    let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let mut connection = options.connect().await.unwrap();
    let sql = sqlx::SqlStr::from_static(FIRST);
    let first = Migration::new(1, Cow::from("builds and logs"), MigrationType::Simple, sql, false);
    Migrator::with_migrations(vec![first]).run(&mut connection).await.unwrap();
    let log = "INSERT INTO logs (id, next_seq, bytes) VALUES ('a:x', 0, 0)";
    sqlx::query(log).execute(&mut connection).await.unwrap();
    let block = "INSERT INTO log_blocks (log_id, first_seq, entries, bytes, first_at, last_at, data)
        VALUES ('a:x', 0, 1, 1, 0, 0, randomblob(5000000))";
    sqlx::query(block).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();

    let refused = Database::open(disk.path()).await.err().expect("it is refused").to_string();
    assert!(refused.contains("timeline.db is copied before its schema is changed"), "{refused}");
    assert!(
        refused.contains("MiB free on its disk") && refused.contains("move timeline.data_dir"),
        "{refused}"
    );
    let left: Vec<_> =
        std::fs::read_dir(disk.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("schema-1")), "{left:?}");

    disk.remount("size=32m");
    let database = Database::open(disk.path()).await.unwrap();
    database.close().await;
    assert!(disk.path().join("timeline.db.schema-1").exists());
}
