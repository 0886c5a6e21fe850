//! Sessions of dashboard logins: a random secret in a cookie, its digest in the database.

use std::time::Duration;

use axum_extra::extract::CookieJar;
use axum_extra::extract::cookie::{Cookie, SameSite};
use secrecy::SecretString;
use time::OffsetDateTime;

use super::Secret;
use crate::web::db::people;
use crate::web::refusal::Refusal;
use crate::web::service::Timeline;

/// How long a sign-in lasts.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// The prefix makes browsers insist on TLS, the whole host and the path `/` (RFC 6265bis, 4.1.3.2).
const SECURE_NAME: &str = "__Host-buildgrid";
/// Where the service is reached without TLS, as on one's own machine.
const PLAIN_NAME: &str = "buildgrid";

/// What a request's session is known by.
pub fn secret(jar: &CookieJar) -> Option<Secret> {
    let cookie = jar.get(SECURE_NAME).or_else(|| jar.get(PLAIN_NAME))?;
    Some(Secret::given(cookie.value()))
}

/// Signs a user in: a new session, whatever the browser had. `None`: user or password is wrong.
pub(in crate::web) async fn sign_in(
    timeline: &Timeline,
    jar: CookieJar,
    user: &str,
    password: SecretString,
) -> Result<Option<CookieJar>, Refusal> {
    let kept = timeline.database.password(user).await?;
    if !timeline.passwords.check(kept, password).await {
        tracing::info!(user, "a sign-in was refused");
        return Ok(None);
    }
    let (fresh, old) = (Secret::generate(""), secret(&jar));
    let (digest, user) = (fresh.digest(), user.to_owned());
    timeline
        .database
        .write::<_, Refusal>(Box::new(move |connection| {
            Box::pin(async move {
                let now = OffsetDateTime::now_utc();
                if let Some(old) = old {
                    people::remove_session(connection, &old.digest()).await?;
                }
                people::add_session(connection, &digest, &user, now + LIFETIME, now).await?;
                Ok(())
            })
        }))
        .await?;
    Ok(Some(jar.add(cookie(timeline.secure, fresh.expose().to_owned(), LIFETIME))))
}

/// Ends the session of a request, if there is one.
pub(in crate::web) async fn sign_out(timeline: &Timeline, jar: CookieJar) -> Result<CookieJar, Refusal> {
    if let Some(secret) = secret(&jar) {
        timeline
            .database
            .write::<_, Refusal>(Box::new(move |connection| {
                Box::pin(async move { Ok(people::remove_session(connection, &secret.digest()).await?) })
            }))
            .await?;
    }
    Ok(jar.add(cookie(timeline.secure, String::new(), Duration::ZERO)))
}

fn cookie(secure: bool, value: String, lifetime: Duration) -> Cookie<'static> {
    Cookie::build((if secure { SECURE_NAME } else { PLAIN_NAME }, value))
        .http_only(true)
        .same_site(SameSite::Lax)
        .secure(secure)
        .path("/")
        .max_age(time::Duration::try_from(lifetime).unwrap_or(time::Duration::ZERO))
        .build()
}
