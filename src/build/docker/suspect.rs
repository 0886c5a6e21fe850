//! Build arguments that look like secrets: they stay in the image's history, where everybody reads them who may pull.

use std::collections::BTreeMap;

/// Words of names, as BuildKit's own check has them (frontend/dockerfile/linter, `SecretsUsedInArgOrEnv`).
const WORDS: [&str; 11] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "passphrase",
    "password",
    "passwd",
    "pword",
    "secret",
    "token",
];
/// A word that makes one harmless, there as well.
const HARMLESS: &str = "public";
/// How values begin that are keys or tokens by their issuers' documentation.
const BEGINNINGS: [&str; 9] =
    ["ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "npm_", "xoxb-", "xoxp-", "sk_live_"];

/// What to say of each argument that looks like a secret; never its value.
pub(super) fn warnings(args: &BTreeMap<String, String>) -> Vec<String> {
    let suspect = args.iter().filter(|(name, value)| is_suspect(name, value));
    suspect
        .map(|(name, _)| {
            format!(
                "warning: build.args: {name} looks like a secret; whoever may pull the image can read it in its history. \
                 Name a secret in build.secrets and mount it instead"
            )
        })
        .collect()
}

fn is_suspect(name: &str, value: &str) -> bool {
    let words: Vec<String> = name.split(['_', '-', '.']).map(str::to_ascii_lowercase).collect();
    let named = words.iter().any(|word| WORDS.contains(&word.as_str()))
        && !words.iter().any(|word| word == HARMLESS)
        && !is_switch(value);
    named || is_key(value)
}

/// What turns something on or off, counts it, or is nothing.
fn is_switch(value: &str) -> bool {
    let value = value.trim();
    value.is_empty()
        || ["true", "false", "yes", "no", "on", "off"].iter().any(|word| value.eq_ignore_ascii_case(word))
        || value.len() < 4 && value.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_key(value: &str) -> bool {
    let value = value.trim();
    value.starts_with("-----BEGIN ") && value.contains("PRIVATE KEY")
        || value.len() >= 20 && BEGINNINGS.iter().any(|beginning| value.starts_with(beginning))
        || url::Url::parse(value).is_ok_and(|url| url.password().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_of_secrets_are_seen() {
        for (name, value) in [
            ("NPM_TOKEN", "abcd"),
            ("db-password", "hunter2"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("DEPLOY", "-----BEGIN OPENSSH PRIVATE KEY-----\nx"),
            ("INDEX", "https://me:hunter2@pypi.example.com/simple"),
            ("X", "ghp_0123456789abcdef0123"),
        ] {
            let warnings = warnings(&[(name.to_owned(), value.to_owned())].into());
            assert!(
                warnings.len() == 1 && warnings[0].contains(name) && !warnings[0].contains("hunter2"),
                "{name}"
            );
        }
        for (name, value) in [
            ("RAILS_ENV", "production"),
            ("MONKEY", "abcd"),
            ("SSH_PUBLIC_KEY", "ssh-ed25519 AAAA"),
            ("USE_TOKEN", "true"),
            ("TOKEN", ""),
            ("INDEX", "https://pypi.example.com/simple"),
            ("BASE", "npm_base"),
        ] {
            assert!(!is_suspect(name, value), "{name}");
        }
    }
}
