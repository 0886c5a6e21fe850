//! Waiting for what must come: every wait of the suite ends, and says what it waited for.

use std::time::Duration;

/// Far more than any step takes. Never a measure: only what ends a test that hangs.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// What comes of `future`, which must be within [`PATIENCE`].
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(PATIENCE, future).await;
    result.unwrap_or_else(|_| panic!("waited in vain for this: {what}"))
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    in_time(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
