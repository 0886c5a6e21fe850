//! The header `Range` of a request for a blob.

use std::sync::LazyLock;

use axum::body::{Body, to_bytes};
use buildgrid::store::digest::Digest;
use http::{HeaderValue, Request, StatusCode, header};
use regex::Regex;
use tower::ServiceExt as _;

use super::served::{LAYER, REPOSITORY, RUNTIME, SERVED};

/// One range (RFC 9110, 14.1.2) of numbers as they are written usually, not longer than a 64-bit one can be. Any other may
/// be passed over.
static ONE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^bytes=(|0|[1-9][0-9]{0,18})-(|0|[1-9][0-9]{0,18})$").unwrap());

/// What is answered is what the answer says, and what a single range asks for.
pub fn check(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let target = format!("/v2/{REPOSITORY}/blobs/{}", Digest::of(LAYER));
    let request = Request::get(target).header(header::AUTHORIZATION, &SERVED.login);
    let request = request.header(header::RANGE, &value).body(Body::empty()).unwrap();
    let (head, body) = RUNTIME.block_on(async {
        let (head, body) = SERVED.router.clone().oneshot(request).await.unwrap().into_parts();
        (head, to_bytes(body, usize::MAX).await.unwrap())
    });
    let said = head.headers.get(header::CONTENT_RANGE).map(|said| said.to_str().unwrap());
    let length = head.headers.get(header::CONTENT_LENGTH).map(|length| length.to_str().unwrap().parse());
    assert!(length.is_none_or(|length| length == Ok(body.len())), "{value:?}");
    let part = match head.status {
        StatusCode::OK => {
            assert_eq!(said, None);
            Some(0..LAYER.len())
        }
        StatusCode::PARTIAL_CONTENT => {
            let said = said.unwrap().strip_prefix("bytes ").unwrap();
            let (first, last) =
                said.strip_suffix(&format!("/{}", LAYER.len())).unwrap().split_once('-').unwrap();
            Some(first.parse().unwrap()..last.parse::<usize>().unwrap() + 1)
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            assert_eq!(said, Some(&*format!("bytes */{}", LAYER.len())));
            None
        }
        status => panic!("{status} for {value:?}"),
    };
    if let Some(part) = &part {
        assert_eq!(body, LAYER[part.clone()], "{value:?}");
    }
    if let Some(asked) = value.to_str().ok().and_then(|text| ONE.captures(text)) {
        assert_eq!(part, expected(asked[1].parse().ok(), asked[2].parse().ok()), "{value:?}");
    }
}

/// Which part is to be answered to `first`-`last`; `None` where there is no such.
fn expected(first: Option<usize>, last: Option<usize>) -> Option<std::ops::Range<usize>> {
    let length = LAYER.len();
    match (first, last) {
        (None, None) => Some(0..length),
        (None, Some(0)) => None,
        (None, Some(count)) => Some(length.saturating_sub(count)..length),
        // It is none, and as if it were not there.
        (Some(first), Some(last)) if last < first => Some(0..length),
        (Some(first), _) if first >= length => None,
        (Some(first), last) => Some(first..last.map_or(length, |last| length.min(last + 1))),
    }
}
