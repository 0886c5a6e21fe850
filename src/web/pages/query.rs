//! The query of a page's address: how it is written, and how it is read back.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Deserializer};

/// What does not stand in a segment of a path as it is (RFC 3986, 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An address within this service: `path`, and the parameters that have a value.
pub(super) fn address(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            query.append_pair(name, value);
        }
    }
    match query.finish() {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

/// What addresses of pages begin with: a namespace of such a name has its apps below `/apps`.
const PLACES: [&str; 11] = [
    "api", "apps", "assets", "build", "builds", "deploys", "images", "search", "settings", "sign-in",
    "sign-out",
];

/// The page of an app. Namespace and app are names, of which nothing has to be escaped.
pub(super) fn app_page(namespace: &str, app: &str) -> String {
    match PLACES.contains(&namespace) {
        true => format!("/apps/{namespace}/{app}"),
        false => format!("/{namespace}/{app}"),
    }
}

/// The page of a deploy, whose id may be any text.
pub(super) fn deploy_page(namespace: &str, id: &str) -> String {
    address(&deploy_path(id), &[("namespace", Some(namespace))])
}

/// The same below the pages or the API, without its query.
pub(in crate::web) fn deploy_path(id: &str) -> String {
    format!("/deploys/{}", utf8_percent_encode(id, RESERVED))
}

/// A path whose segments may be any text, but for slashes.
pub(super) fn path(text: &str) -> String {
    const SEGMENTS: &AsciiSet = &RESERVED.remove(b'/').remove(b':');
    utf8_percent_encode(text, SEGMENTS).to_string()
}

/// A parameter, as [`address`] has it: an empty one, which a form sends for an empty field, is none.
pub(super) fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_namespace_takes_another_page() {
        assert_eq!(app_page("acme", "shop"), "/acme/shop");
        assert_eq!(app_page("images", "shop"), "/apps/images/shop");
        // Every first segment that is routed is known.
        let routes = include_str!("../site.rs");
        let first = regex::Regex::new(r#"\.route\("/([a-z][^/"]*)"#).unwrap();
        let routed: Vec<&str> =
            first.captures_iter(routes).map(|found| found.get(1).unwrap().as_str()).collect();
        assert!(routed.len() > 8 && routed.iter().all(|place| PLACES.contains(place)), "{routed:?}");
    }

    #[test]
    fn addresses_are_encoded() {
        assert_eq!(deploy_page("acme", "a/b c?\""), "/deploys/a%2Fb%20c%3F%22?namespace=acme");
        assert_eq!(address("/", &[("app", None), ("cursor", Some(""))]), "/");
        assert_eq!(address("/", &[("app", Some("a&b=\"c")), ("n", Some("1"))]), "/?app=a%26b%3D%22c&n=1");
    }
}
