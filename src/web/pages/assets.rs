//! What the pages load besides themselves: style, script and icon, from this program alone.
//!
//! Their addresses carry a hash of their content, `/assets/app.<hash>.css`: they may be kept for ever,
//! and a new version has a new address.

use std::sync::LazyLock;

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use data_encoding::HEXLOWER;
use http::{StatusCode, header};
use sha2::{Digest, Sha256};

/// A year, and never asked for again in between.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// A file that the pages load.
#[derive(Debug)]
pub struct Asset {
    /// Its address: `/assets/app.0123456789abcdef.css`.
    pub path: String,
    content_type: &'static str,
    body: String,
}

impl Asset {
    fn new(stem: &str, extension: &str, content_type: &'static str, body: impl Into<String>) -> Self {
        let body = body.into();
        let hash = HEXLOWER.encode(&Sha256::digest(&body)[..8]);
        Self { path: format!("/assets/{stem}.{hash}.{extension}"), content_type, body }
    }
}

#[cfg(test)]
impl Asset {
    pub(super) fn body(&self) -> &str {
        &self.body
    }
}

impl IntoResponse for &'static Asset {
    fn into_response(self) -> Response {
        let headers = [
            (header::CONTENT_TYPE, self.content_type),
            (header::CACHE_CONTROL, FOR_EVER),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        (headers, self.body.as_str()).into_response()
    }
}

/// What all pages look like.
pub static STYLE: LazyLock<Asset> = LazyLock::new(|| sheet("app", &[include_str!("../assets/app.css")]));
/// Beside it, what pages with a log look like; and what the others do.
pub static LOG_STYLE: LazyLock<Asset> = LazyLock::new(|| sheet("log", &[include_str!("../assets/log.css")]));
pub static FORM_STYLE: LazyLock<Asset> =
    LazyLock::new(|| sheet("form", &[include_str!("../assets/form.css")]));
pub static PLACES_STYLE: LazyLock<Asset> = LazyLock::new(|| {
    let parts = [
        include_str!("../assets/timeline.css"),
        include_str!("../assets/image.css"),
        include_str!("../assets/settings.css"),
    ];
    sheet("places", &parts)
});

fn sheet(stem: &str, parts: &[&str]) -> Asset {
    Asset::new(stem, "css", "text/css; charset=utf-8", compacted(parts))
}

/// Style sheets without what only their authors need: comments, and blanks that separate nothing. A comment of
/// ours is on lines of its own, a declaration on one, and no text in them has blanks.
fn compacted(sheets: &[&str]) -> String {
    let lines = sheets.iter().flat_map(|sheet| sheet.lines()).map(str::trim);
    let kept: String = lines.filter(|line| !line.starts_with("/*")).collect();
    let blanks = [
        (" {", "{"),
        ("{ ", "{"),
        ("; ", ";"),
        (";}", "}"),
        (": ", ":"),
        (", ", ","),
        (" > ", ">"),
        (" }", "}"),
    ];
    blanks.iter().fold(kept, |kept, (wide, narrow)| kept.replace(wide, narrow))
}

pub static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("live", "js", "text/javascript; charset=utf-8", include_str!("../assets/live.js"))
});
/// The log viewer: a file for each thing that it does, which see each other's functions and nobody else does.
pub static LOG_SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    let script = format!("\"use strict\";\n(() => {{\n{}}})();\n", LOG_SCRIPTS.concat());
    Asset::new("log", "js", "text/javascript; charset=utf-8", script)
});

const LOG_SCRIPTS: [&str; 11] = [
    include_str!("../assets/log/ansi.js"),
    include_str!("../assets/log/outline.js"),
    include_str!("../assets/log/lines.js"),
    include_str!("../assets/log/view.js"),
    include_str!("../assets/log/sections.js"),
    include_str!("../assets/log/rows.js"),
    include_str!("../assets/log/places.js"),
    include_str!("../assets/log/ruler.js"),
    include_str!("../assets/log/search.js"),
    include_str!("../assets/log/follow.js"),
    include_str!("../assets/log/keys.js"),
];

pub static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", "image/svg+xml", include_str!("../assets/icon.svg")));

/// Serves the assets, to everybody: they say nothing of any build.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/assets/{file}", get(serve))
}

async fn serve(Path(file): Path<String>) -> Response {
    let assets: [&'static Asset; 7] =
        [&STYLE, &LOG_STYLE, &FORM_STYLE, &PLACES_STYLE, &SCRIPT, &LOG_SCRIPT, &ICON];
    let asked = |asset: &&&'static Asset| asset.path.strip_prefix("/assets/") == Some(file.as_str());
    match assets.iter().find(asked) {
        Some(asset) => asset.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use http::Request;
    use tower::ServiceExt;

    async fn get(path: &str) -> Response {
        let request = Request::get(path).body(Body::empty()).unwrap();
        router::<()>().oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn are_served_under_their_hash_for_ever() {
        for (asset, content_type) in [
            (&STYLE, "text/css; charset=utf-8"),
            (&LOG_STYLE, "text/css; charset=utf-8"),
            (&FORM_STYLE, "text/css; charset=utf-8"),
            (&PLACES_STYLE, "text/css; charset=utf-8"),
            (&SCRIPT, "text/javascript; charset=utf-8"),
            (&LOG_SCRIPT, "text/javascript; charset=utf-8"),
            (&ICON, "image/svg+xml"),
        ] {
            let response = get(&asset.path).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()[header::CONTENT_TYPE], content_type);
            assert_eq!(response.headers()[header::CACHE_CONTROL], FOR_EVER);
            assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        }
        for other in ["/assets/app.css", "/assets/app.0000000000000000.css", "/assets/..%2fapp.css"] {
            assert_eq!(get(other).await.status(), StatusCode::NOT_FOUND, "{other}");
        }
    }

    #[test]
    fn the_style_is_small_and_loads_nothing() {
        for beside in [&LOG_STYLE, &FORM_STYLE, &PLACES_STYLE] {
            let style = format!("{}{}", STYLE.body, beside.body);
            assert!(!style.contains("/*") && !style.contains('\n'));
            assert!(
                style.len() < 20_000,
                "{} bytes, {} of them in {}",
                style.len(),
                beside.body.len(),
                beside.path
            );
            assert!(!style.contains("url(") && !style.contains("@import"));
        }
    }

    #[test]
    fn no_script_makes_markup_of_text() {
        for forbidden in
            ["innerHTML", "outerHTML =", "insertAdjacentHTML", "document.write", "eval(", ".style"]
        {
            for script in [&SCRIPT, &LOG_SCRIPT] {
                assert!(!script.body.contains(forbidden), "{forbidden}");
            }
        }
    }
}
