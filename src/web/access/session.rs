//! Sessions of dashboard logins: a random secret in a cookie, its digest in the database.

use std::net::IpAddr;
use std::time::{Duration, Instant};

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

/// How much of a name that signs in is logged, in characters: no login has a longer one.
const MAX_SHOWN: usize = 64;

/// What a request's session is known by. Behind TLS the plain name is nobody's: any neighbour of the host may
/// have set it, to a session of its own.
pub fn secret(jar: &CookieJar, secure: bool) -> Option<Secret> {
    jar.get(name(secure)).map(|cookie| Secret::given(cookie.value()))
}

fn name(secure: bool) -> &'static str {
    if secure { SECURE_NAME } else { PLAIN_NAME }
}

/// What became of a sign-in.
pub(in crate::web) enum SignIn {
    Done(CookieJar),
    /// User or password is wrong.
    Wrong,
    /// Too many were wrong: nothing was looked at.
    TooSoon(Duration),
}

/// Signs a user in who comes from `source`: a new session, whatever the browser had.
pub(in crate::web) async fn sign_in(
    timeline: &Timeline,
    jar: CookieJar,
    source: IpAddr,
    user: &str,
    password: SecretString,
) -> Result<SignIn, Refusal> {
    let shown: String = user.chars().take(MAX_SHOWN).collect();
    if let Err(wait) = timeline.guesses.begin(user, source, Instant::now()) {
        let wait_s = wait.as_secs() + 1;
        tracing::info!(user = shown, %source, wait_s, "a sign-in has to wait: too many were refused");
        return Ok(SignIn::TooSoon(wait));
    }
    let kept = timeline.database.password(user).await?;
    let right = timeline.passwords.check(kept.clone(), password).await;
    let Some(checked) = kept.filter(|_| right) else {
        tracing::info!(user = shown, %source, "a sign-in was refused");
        return Ok(SignIn::Wrong);
    };
    timeline.guesses.passed(user, source, Instant::now());
    let (fresh, old) = (Secret::generate(""), secret(&jar, timeline.secure));
    let (digest, user) = (fresh.digest(), user.to_owned());
    let added = timeline
        .database
        .write::<_, Refusal>(Box::new(move |connection| {
            Box::pin(async move {
                let now = OffsetDateTime::now_utc();
                if let Some(old) = old {
                    people::remove_session(connection, &old.digest()).await?;
                }
                let expires_at = now + LIFETIME;
                Ok(people::add_session(connection, &digest, &user, &checked, expires_at, now).await?)
            })
        }))
        .await?;
    Ok(match added {
        true => SignIn::Done(jar.add(cookie(timeline.secure, fresh.expose().to_owned(), LIFETIME))),
        false => SignIn::Wrong,
    })
}

/// Ends the session of a request, if there is one.
pub(in crate::web) async fn sign_out(timeline: &Timeline, jar: CookieJar) -> Result<CookieJar, Refusal> {
    if let Some(secret) = secret(&jar, timeline.secure) {
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
    Cookie::build((name(secure), value))
        .http_only(true)
        .same_site(SameSite::Lax)
        .secure(secure)
        .path("/")
        .max_age(time::Duration::try_from(lifetime).unwrap_or(time::Duration::ZERO))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_tls_only_the_name_that_browsers_guard_is_a_session() {
        let both = CookieJar::new()
            .add(Cookie::new(PLAIN_NAME, "of-a-neighbour"))
            .add(Cookie::new(SECURE_NAME, "of-the-browser"));
        let held = |jar: &CookieJar, secure| secret(jar, secure).map(|secret| secret.expose().to_owned());
        assert_eq!(held(&both, true).as_deref(), Some("of-the-browser"));
        assert_eq!(held(&both.remove(Cookie::from(SECURE_NAME)), true), None);
        let plain = CookieJar::new().add(Cookie::new(PLAIN_NAME, "x"));
        assert_eq!((held(&plain, false).as_deref(), held(&plain, true)), (Some("x"), None));
    }
}
