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

/// The page of a deploy, whose id may be any text.
pub(super) fn deploy_page(namespace: &str, id: &str) -> String {
    let id = utf8_percent_encode(id, RESERVED);
    address(&format!("/deploys/{id}"), &[("namespace", Some(namespace))])
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
    fn addresses_are_encoded() {
        assert_eq!(deploy_page("acme", "a/b c?\""), "/deploys/a%2Fb%20c%3F%22?namespace=acme");
        assert_eq!(address("/", &[("app", None), ("cursor", Some(""))]), "/");
        assert_eq!(address("/", &[("app", Some("a&b=\"c")), ("n", Some("1"))]), "/?app=a%26b%3D%22c&n=1");
    }
}
