//! The query of a page's address: how it is written, and how it is read back.

use serde::{Deserialize, Deserializer};

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

/// A parameter, as [`address`] has it: an empty one, which a form sends for an empty field, is none.
pub(super) fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_encoded() {
        assert_eq!(address("/", &[("app", None), ("cursor", Some(""))]), "/");
        assert_eq!(address("/", &[("app", Some("a&b=\"c")), ("n", Some("1"))]), "/?app=a%26b%3D%22c&n=1");
    }
}
