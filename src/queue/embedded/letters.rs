//! Dead letters: looked into, put back, thrown away; from any process that has the file.

use futures::TryStreamExt;

use super::queue::EmbeddedQueue;
use crate::queue::QueueError;
use crate::queue::letter::{Fate, Letter, LetterError, Letters, Selection, the_one};

const OLDEST: &str = "SELECT id, name, reason, attempt, worker, at, body FROM events \
                      WHERE state = 'dead' ORDER BY position LIMIT $1";

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    name: String,
    reason: String,
    attempt: u32,
    worker: Option<String>,
    at: Option<String>,
    body: Vec<u8>,
}

/// A letter without its body, and the event it is.
struct Found {
    id: i64,
    letter: Letter,
}

impl From<Row> for Found {
    fn from(row: Row) -> Self {
        let fate = Fate { reason: row.reason, attempt: row.attempt, worker: row.worker, at: row.at };
        Self { id: row.id, letter: Letter::new(row.name, &row.body, fate) }
    }
}

impl EmbeddedQueue {
    /// The oldest dead letters, at most `most` of them.
    pub async fn dead_letters(&self, most: usize) -> Result<Letters, QueueError> {
        let letters: Vec<Letter> =
            self.oldest(most, |_| true).await?.into_iter().map(|found| found.letter).collect();
        let count = "SELECT count(*) FROM events WHERE state = 'dead'";
        let count = sqlx::query_scalar::<_, i64>(count).fetch_one(self.core.file.pool()).await;
        let count = usize::try_from(self.core.file.noted(count)?).unwrap_or_default();
        let more = u32::try_from(count.saturating_sub(letters.len())).unwrap_or(u32::MAX);
        Ok(Letters { letters, more })
    }

    /// One letter and the event's bytes as they came.
    pub async fn dead_letter_named(&self, name: &str) -> Result<(Letter, Vec<u8>), LetterError> {
        let gone = || LetterError::Unknown(name.to_owned());
        let found = self.named(&[name.to_owned()]).await?.pop().ok_or_else(gone)?;
        let body = "SELECT body FROM events WHERE id = $1 AND state = 'dead'";
        let body = sqlx::query_scalar(body).bind(found.id).fetch_optional(self.core.file.pool()).await;
        // Another process may have settled it meanwhile.
        Ok((found.letter, self.core.file.noted(body)?.ok_or_else(gone)?))
    }

    /// Puts letters back into the line, as a first attempt, telling each to `done`.
    pub async fn requeue_letters(
        &self,
        selection: &Selection,
        mut done: impl FnMut(&Letter) + Send,
    ) -> Result<(), LetterError> {
        let requeue = "UPDATE events SET state = 'ready', requeue = name, name = NULL, attempt = 1, \
                       deliveries = 0, unsettled = 0, reason = NULL, worker = NULL, at = NULL, \
                       published_at = $2, position = \
                       (SELECT coalesce(max(position), 0) + 1 FROM events WHERE state = 'ready') \
                       WHERE id = $1 AND state = 'dead'";
        for Found { id, letter } in self.selected(selection).await? {
            let put = sqlx::query(requeue).bind(id).bind(super::queue::now());
            let put = put.execute(self.core.file.pool()).await;
            if self.core.file.noted(put)?.rows_affected() == 1 {
                self.core.ready.notify_waiters();
                done(&letter);
            }
        }
        Ok(())
    }

    /// Throws letters away, for ever, telling each to `done`.
    pub async fn drop_letters(
        &self,
        selection: &Selection,
        mut done: impl FnMut(&Letter) + Send,
    ) -> Result<(), LetterError> {
        for Found { id, letter } in self.selected(selection).await? {
            let delete = sqlx::query("DELETE FROM events WHERE id = $1 AND state = 'dead'").bind(id);
            let deleted = delete.execute(self.core.file.pool()).await;
            if self.core.file.noted(deleted)?.rows_affected() == 1 {
                done(&letter);
            }
        }
        Ok(())
    }

    async fn selected(&self, selection: &Selection) -> Result<Vec<Found>, LetterError> {
        match selection {
            Selection::All => Ok(self.oldest(usize::MAX, |_| true).await?),
            Selection::Named(names) => self.named(names).await,
        }
    }

    /// The letters that `names` stand for; fails if one stands for none or for several.
    async fn named(&self, names: &[String]) -> Result<Vec<Found>, LetterError> {
        let answers = |letter: &Letter| names.iter().any(|name| letter.answers_to(name));
        let mut selected: Vec<Vec<Found>> = names.iter().map(|_| Vec::new()).collect();
        for found in self.oldest(usize::MAX, answers).await? {
            if let Some(index) = names.iter().position(|name| found.letter.answers_to(name)) {
                selected[index].push(found);
            }
        }
        names.iter().zip(selected).map(|(name, found)| the_one(name, found, |found| &found.letter)).collect()
    }

    /// The oldest letters that `wanted` takes. The bodies of all are let go of at once.
    async fn oldest(&self, most: usize, wanted: impl Fn(&Letter) -> bool) -> Result<Vec<Found>, QueueError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows = sqlx::query_as::<_, Row>(OLDEST).bind(most).fetch(self.core.file.pool());
        let found = rows.map_ok(Found::from).try_filter(|found| std::future::ready(wanted(&found.letter)));
        self.core.file.noted(found.try_collect().await)
    }
}
