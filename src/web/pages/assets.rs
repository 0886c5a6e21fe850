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

/// The one sheet of all pages, of a file for each part.
pub static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    let sheets = [include_str!("../assets/app.css"), include_str!("../assets/log.css")];
    Asset::new("app", "css", "text/css; charset=utf-8", compacted(&sheets))
});

/// Style sheets without what only their authors need: comments and blanks. A comment of ours is on lines of its
/// own, and no text within quotes has a blank beside a mark that is taken for one of CSS.
fn compacted(sheets: &[&str]) -> String {
    let lines = sheets.iter().flat_map(|sheet| sheet.lines()).map(str::trim);
    let mut style = lines.filter(|line| !line.starts_with("/*")).collect::<String>();
    for (spaced, tight) in [
        (": ", ":"),
        (", ", ","),
        ("; ", ";"),
        (" {", "{"),
        ("{ ", "{"),
        (" }", "}"),
        (" > ", ">"),
        (";}", "}"),
    ] {
        style = style.replace(spaced, tight);
    }
    style
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
    let assets: [&'static Asset; 4] = [&STYLE, &SCRIPT, &LOG_SCRIPT, &ICON];
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
        let style = &STYLE.body;
        assert!(style.len() < 20_000, "{} bytes", style.len());
        assert!(!style.contains("url(") && !style.contains("@import"));
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
