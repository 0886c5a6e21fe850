//! The sign-in form: `POST /sign-in` with `user`, `password` and `next`, the page to go to afterwards.

use askama::Template;
use http::StatusCode;

use super::document::{Document, Frame};
use super::icons::Icon;
use super::words;
use crate::telemetry::printable::printable;

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn<'a> {
    frame: Frame,
    error: Option<String>,
    error_icon: Icon,
    next: &'a str,
}

/// The form, with what was wrong with the last try.
pub fn sign_in(error: Option<&str>, next: &str) -> Document {
    let status = if error.is_some() { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
    form(status, error, next)
}

/// The form, for who has to wait so many seconds before it is read again.
pub fn sign_in_later(seconds: u64, next: &str) -> Document {
    let wait = words::duration(time::Duration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX)));
    let error = format!("Too many were wrong. Try again in {wait}");
    form(StatusCode::TOO_MANY_REQUESTS, Some(&error), next)
}

/// The form in place of a page that wants a login; `next` is the page to go on with, `error` what was not done.
pub fn not_signed_in(next: &str, error: Option<&str>) -> Document {
    form(StatusCode::UNAUTHORIZED, error, next)
}

fn form(status: StatusCode, error: Option<&str>, next: &str) -> Document {
    let (next, error) = (local_address(next), error.map(printable));
    Document::render(status, &SignIn { frame: Frame::new(None), error, error_icon: Icon::Failed, next })
}

/// `next` if it is an address within this service, else the first page: nobody is to be sent elsewhere
/// from a form they trust. Browsers take `//` and `/\` for the beginning of a host, and drop control
/// characters before they look.
pub fn local_address(next: &str) -> &str {
    let elsewhere = next.starts_with("//") || next.contains('\\') || next.contains(char::is_control);
    if next.starts_with('/') && !elsewhere { next } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads_nowhere_else() {
        for good in ["/", "/builds/b-1?from=1#L1", "/acme/shop"] {
            assert_eq!(local_address(good), good);
        }
        for bad in
            ["", "builds", "//evil.example", "/\\evil.example", "https://evil.example", "/\t/evil.example"]
        {
            assert_eq!(local_address(bad), "/", "{bad:?}");
        }
    }

    #[test]
    fn the_form_needs_no_script() {
        let page = sign_in(Some("User name or password is wrong."), "/builds/b-1");
        assert_eq!(page.status(), StatusCode::UNAUTHORIZED);
        let html = page.html();
        assert!(html.contains(r#"<form method="post" action="/sign-in""#), "{html}");
        assert!(html.contains(r#"<input type="hidden" name="next" value="/builds/b-1">"#));
        assert!(html.contains("User name or password is wrong.") && !html.contains("<script"));
        assert_eq!(not_signed_in("/", None).status(), StatusCode::UNAUTHORIZED);
        assert_eq!(sign_in(None, "/").status(), StatusCode::OK);
    }
}
