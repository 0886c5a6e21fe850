//! What BuildGrid reads in a Dockerfile before an engine does: which front end it names, and which secrets it can do
//! without. Everything else in it is the engine's business.

use std::collections::BTreeSet;

use super::instructions;

/// A Dockerfile's text, as the engine will read it.
#[derive(Debug, Clone, Default)]
pub struct Dockerfile(String);

impl Dockerfile {
    /// Bytes that are not UTF-8 are replaced: neither a front end nor a secret has them in its name.
    pub fn new(text: &[u8]) -> Self {
        Self(String::from_utf8_lossy(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)).into_owned())
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// The images of all front ends that an engine could take it to name, in every form that one of them reads
    /// (moby/buildkit, frontend/dockerfile/parser/directives.go): `# syntax=` and `// syntax=`. Lines count as long as
    /// nothing but comments came before, which is further than engines look.
    pub(super) fn frontends(&self) -> Vec<&str> {
        // Blanks are Unicode's, as in Go.
        let head = self
            .0
            .lines()
            .map(str::trim)
            .take_while(|line| line.is_empty() || line.starts_with('#') || line.starts_with("//"));
        head.filter_map(directive).collect()
    }

    /// Whether an engine could take it for JSON, in which a front end can be named, too. No two readers of JSON agree
    /// on keys that stand twice, and the official front end reads none.
    pub(super) fn is_json(&self) -> bool {
        let mut lines =
            self.0.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.next().is_some_and(|line| line.starts_with('{'))
    }

    /// Whether the build seems to use only a part of its context, by what its instructions name. A guess, for how the
    /// context is sent: a base image may name more (`ONBUILD`), which the engine is given all the same.
    pub fn uses_part_of_context(&self) -> bool {
        !instructions::context_sources(&self.0).iter().any(|source| {
            let name = source.trim_start_matches(['.', '/']).split('/').next().unwrap_or_default();
            name.is_empty() || name.contains(['*', '?', '[', '$', '\\'])
        })
    }

    /// The secrets whose every mount says `required=false`.
    pub(super) fn optional_secrets(&self) -> BTreeSet<String> {
        let (mut optional, mut needed) = (BTreeSet::new(), BTreeSet::new());
        let lines = self.0.lines().filter(|line| !line.trim_ascii_start().starts_with('#'));
        for mount in
            lines.flat_map(str::split_ascii_whitespace).filter_map(|word| word.strip_prefix("--mount="))
        {
            let Some(secret) = SecretMount::parse(mount) else { continue };
            if secret.is_optional {
                optional.insert(secret.id)
            } else {
                needed.insert(secret.id)
            };
        }
        &optional - &needed
    }
}

/// The first word of a `syntax` directive's value, which is the image.
fn directive(line: &str) -> Option<&str> {
    let comment = line.strip_prefix('#').or_else(|| line.strip_prefix("//"))?;
    let (key, value) = comment.split_once('=')?;
    (key.trim().eq_ignore_ascii_case("syntax")).then(|| first_word(value))
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

struct SecretMount {
    id: String,
    is_optional: bool,
}

impl SecretMount {
    /// The options of a mount (moby/buildkit, frontend/dockerfile/instructions/commands_runmount.go), if it is a
    /// secret's.
    fn parse(options: &str) -> Option<Self> {
        let (mut is_secret, mut is_optional) = (false, false);
        let (mut id, mut target) = (None, None);
        for option in options.split(',') {
            let (key, value) = option.trim_matches('"').split_once('=').unwrap_or((option, ""));
            match key.to_ascii_lowercase().as_str() {
                "type" => is_secret = value.eq_ignore_ascii_case("secret"),
                "id" => id = Some(value),
                "target" | "dst" | "destination" => target = value.rsplit('/').next(),
                "env" => target = target.or(Some(value)),
                "required" => is_optional = matches!(value, "0" | "f" | "F" | "false" | "False" | "FALSE"),
                _ => {}
            }
        }
        let id = id.or(target).filter(|_| is_secret)?.to_owned();
        Some(Self { id, is_optional })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_front_ends_in_every_form() {
        for (text, found) in [
            ("FROM a", vec![]),
            ("# syntax=docker/dockerfile:1\nFROM a", vec!["docker/dockerfile:1"]),
            ("#syntax = x/y --flag\nFROM a", vec!["x/y"]),
            ("\u{feff}# SYNTAX=x/y\r\nFROM a", vec!["x/y"]),
            ("#!/usr/bin/env docker\n# escape=`\n\n# syntax=x/y\nFROM a", vec!["x/y"]),
            ("// syntax=x/y\nanything", vec!["x/y"]),
            ("# syntax=a\n# syntax=b\nFROM a", vec!["a", "b"]),
            ("FROM a\n# syntax=x/y\n", vec![]),
            ("# the syntax of it=is known\nFROM a", vec![]),
            ("#\u{a0}syntax=x/y\nFROM a", vec!["x/y"]),
            ("\u{2003}//\u{a0}syntax\u{a0}=\u{a0}x/y\nFROM a", vec!["x/y"]),
        ] {
            let dockerfile = Dockerfile::new(text.as_bytes());
            assert_eq!(dockerfile.frontends(), found, "{text:?}");
            assert!(!dockerfile.is_json(), "{text:?}");
        }
        for json in
            ["{\"syntax\": \"x/y\"}", "\u{feff}#!shebang\n\n {\n\"s\\u0079ntax\":\n\"x/y\"}", "\u{a0}{"]
        {
            assert!(Dockerfile::new(json.as_bytes()).is_json(), "{json:?}");
        }
    }

    #[test]
    fn guesses_whether_a_part_of_the_context_is_used() {
        for (instructions, in_part) in [
            ("RUN make", true),
            ("COPY src /src\nADD ./lib/*.so https://example.com/x /lib/", true),
            ("COPY --from=build / /\nADD --link go.mod go.sum ./", true),
            ("COPY [\"src\", \"/\"]", true),
            ("COPY <<EOF /etc/x\n.\nEOF", true),
            ("RUN --mount=type=cache,target=/c --mount=type=bind,source=src,target=/s make", true),
            ("RUN --mount=from=build,target=/b make", true),
            ("RUN --mount=type=bind,target=/s make", false),
            ("RUN --mount=target=/s make", false),
            ("COPY src . /src", false),
            ("copy --chown=1:1 \\\n  ./ /src", false),
            ("COPY / /src", false),
            ("COPY package*.json /src/", false),
            ("ADD ${SOURCE} /src", false),
            ("COPY [\".\", \"/\"]", false),
            ("COPY [\"src\", /]", false),
        ] {
            let dockerfile = Dockerfile::new(format!("FROM a\n{instructions}\n").as_bytes());
            assert_eq!(dockerfile.uses_part_of_context(), in_part, "{instructions}");
        }
    }

    #[test]
    fn a_secret_is_optional_where_every_mount_of_it_says_so() {
        let dockerfile = Dockerfile::new(
            b"FROM a\nRUN --mount=type=secret,id=npm,required=false \\\n  --mount=type=secret,id=key x\n\
              RUN --mount=type=secret,target=/run/secrets/netrc,required=0 x\n\
              RUN --mount=type=secret,required=false,id=both --mount=type=secret,id=both,required x\n\
              # RUN --mount=type=secret,id=no,required=false\n\
              RUN --mount=type=cache,id=cache,required=false --mount=id=env,env=TOKEN,type=secret,required=False x\n",
        );
        let optional: Vec<_> = dockerfile.optional_secrets().into_iter().collect();
        assert_eq!(optional, ["env", "netrc", "npm"]);
    }
}
