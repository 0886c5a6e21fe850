//! What the author of a failing step may try, as far as its exit code and its last words tell, or of a
//! Dockerfile that is not understood.

use super::instructions;

/// Signs in a step's last lines, in lower case, with what helps; the first that is found is told.
const SIGNS: [(&[&str], &str); 6] = [
    (
        &[
            "temporary failure in name resolution",
            "could not resolve host",
            "bad address '",
            "temporary failure resolving",
        ],
        "the step cannot resolve a name: it may run without a network (namespaces.<namespace>.network), or the engine's \
         name server is away",
    ),
    (
        &["exec format error"],
        "a program for another platform was run: set build.platform to the image's, or choose a base image that has it",
    ),
    (
        &[
            "certificate signed by unknown authority",
            "unable to get local issuer certificate",
            "self-signed certificate",
            "self signed certificate",
        ],
        "the step does not trust a server's certificate: install the authority's certificate in the image first",
    ),
    (
        &[
            "401 unauthorized",
            "403 forbidden",
            "authentication required",
            "authentication failed",
            "e401",
            "e403",
        ],
        "a server wants credentials: hand them to the step with RUN --mount=type=secret, and name them in build.secrets",
    ),
    (
        &["/run/secrets/"],
        "the step misses a secret: name it in build.secrets, and mount it with RUN --mount=type=secret,id=<name>",
    ),
    (
        &["cannot allocate memory", "out of memory", "heap out of memory"],
        "the step ran out of memory: let it work with less, such as with fewer jobs at once, or ask for a larger limit",
    ),
];

/// What to try where `COPY` or `ADD` does not find its source.
pub(super) const MISSING_SOURCE: &str = "a build sees what is committed, without what .dockerignore leaves out: commit \
     the file, or have a step before make it; paths are relative to build.root";
/// What to try where a base image is not to be had.
pub(super) const NO_IMAGE: &str = "check the image's name and tag; a private one needs a login, registry.<namespace> in \
     the worker's credentials directory";

const HEREDOC: &str = "heredocs (<<) are not known to the front end that reads this Dockerfile, as that of Docker 20.10: begin \
     the file with # syntax=docker/dockerfile:1, where the engine can pull that, or join the lines with && and \\";
const FLAG: &str = "the front end that reads this Dockerfile does not know the flag: begin the file with \
     # syntax=docker/dockerfile:1, where the engine can pull that, or do without";
const INSECURE: &str = "no build may lift the limits that its steps have: do without --security";

/// What to try about a Dockerfile that is not understood, for this reason.
pub(super) fn on_syntax(reason: &str, dockerfile: &str) -> Option<&'static str> {
    let lower = reason.to_ascii_lowercase();
    if lower.contains("unknown flag: security") {
        return Some(INSECURE);
    }
    if lower.contains("unknown flag: ") {
        return Some(FLAG);
    }
    (lower.contains("unknown instruction: ") && instructions::has_heredoc(dockerfile)).then_some(HEREDOC)
}

/// What to try about a step that has ended with `code`.
pub(super) fn on_exit(code: &str, excerpt: &[String]) -> Option<String> {
    let lower: Vec<_> = excerpt.iter().map(|line| line.to_ascii_lowercase()).collect();
    let sign =
        SIGNS.iter().find(|(signs, _)| lower.iter().any(|line| signs.iter().any(|sign| line.contains(sign))));
    let advice = match (code, sign) {
        (_, Some((_, advice))) => *advice,
        ("126", _) => {
            "a file was found and cannot be executed: commit it as executable (git update-index --chmod=+x), or call its \
             interpreter"
        }
        ("127", _) => {
            "a command was not found: install it in a step before, or check its spelling and the line ends of the script \
             that calls it"
        }
        ("137", _) => {
            "the step was killed, mostly for want of memory: let it work with less, such as with fewer jobs at once, or ask \
             for a larger limit"
        }
        _ => return None,
    };
    Some(advice.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_tell_more_than_the_code() {
        let on = |code, line: &str| on_exit(code, &["first".to_owned(), line.to_owned()]);
        assert!(on("127", "sh: mvn: not found").unwrap().starts_with("a command was not found"));
        assert!(
            on("100", "E: Temporary failure resolving 'deb.debian.org'").unwrap().contains("resolve a name")
        );
        assert!(on("1", "exec /bin/sh: Exec format error").unwrap().contains("build.platform"));
        assert!(on("1", "npm ERR! code E401").unwrap().contains("build.secrets"));
        assert!(on("137", "Killed").unwrap().contains("memory"));
        assert_eq!(on("2", "make: *** [all] Error 1"), None);
    }

    #[test]
    fn what_an_old_front_end_does_not_know_is_told() {
        let unknown = "Dockerfile line 3: unknown instruction: ECHO";
        for heredoc in [
            "RUN <<EOF",
            " run cat <<-'EOF' >x",
            "COPY <<a /a",
            "ADD --chown=1 <<a /a",
            "RUN a && \\\n  b <<X",
        ] {
            let advice = on_syntax(unknown, &format!("FROM x\n{heredoc}\necho\n"));
            assert_eq!(advice, Some(HEREDOC), "{heredoc}");
        }
        assert_eq!(on_syntax(unknown, "FROM x\nRUN true\nECHO << x\n"), None);
        assert_eq!(on_syntax("Dockerfile line 2: Unknown flag: link", ""), Some(FLAG));
        assert_eq!(on_syntax("Dockerfile line 2: unknown flag: security", ""), Some(INSECURE));
    }
}
