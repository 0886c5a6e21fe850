//! Numbers and words between rows and types.

use std::str::FromStr;

use serde::Serialize;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

/// A count as the database keeps it; what is larger than it can keep has been refused before.
pub(super) fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn count(row: &SqliteRow, column: &str) -> sqlx::Result<u64> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number).map_err(|error| damaged(column, &error.to_string()))
}

/// A column whose text has a type of ours.
pub(super) fn parsed<T: FromStr>(row: &SqliteRow, column: &str) -> sqlx::Result<T> {
    optional(row, column)?.ok_or_else(|| damaged(column, "there is none"))
}

/// As [`parsed`], where there may be none.
pub(super) fn optional<T: FromStr>(row: &SqliteRow, column: &str) -> sqlx::Result<Option<T>> {
    let text: Option<String> = row.try_get(column)?;
    let Some(text) = text else { return Ok(None) };
    text.parse().map(Some).map_err(|_| damaged(column, &format!("{text:.80?} is not one")))
}

/// A value as the JSON of a column.
pub(super) fn json<T: Serialize>(value: &T) -> sqlx::Result<String> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

pub(super) fn damaged(column: &str, reason: &str) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: reason.to_owned().into() }
}
