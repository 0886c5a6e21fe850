//! Whose fault an error of the engine is, and how it is put: pure, from BuildKit's words.
//!
//! The engine's API carries only messages, and their wording differs between its versions; both the
//! old (Docker 20.10) and the new (23 and later) are known here.

use bollard::errors::Error;

use super::advice;
use super::dockerfile::Dockerfile;
use super::instructions;
use super::progress::FailedStep;
use super::session::NOT_WHOLE;
use crate::build::engine::{BuildError, BuildFailure};

/// What BuildKit puts before an error, and what helps nobody.
const NOISE: [&str; 8] = [
    "failed to solve with frontend dockerfile.v0: ",
    "failed to solve with frontend gateway.v0: ",
    "failed to solve: ",
    "failed to create LLB definition: ",
    "failed to compute cache key: ",
    "failed to load cache key: ",
    "failed to prepare: ",
    "error from sender: ",
];

/// Signs, in lower case, that the engine or a registry is at fault and another attempt may succeed.
const INFRASTRUCTURE: [&str; 28] = [
    // what was to be given to it broke off; where the build is at fault, that is told instead
    NOT_WHOLE,
    // the engine's disk
    "input/output error",
    "read-only file system",
    // a registry, and the way to it
    "dial tcp",
    "i/o timeout",
    "tls handshake",
    "tls: ",
    "x509: ",
    "connection refused",
    "connection reset",
    "broken pipe",
    "no such host",
    "network is unreachable",
    "unexpected eof",
    "httpreadseeker",
    "client.timeout exceeded",
    "toomanyrequests",
    "429 too many requests",
    "500 internal server error",
    "502 bad gateway",
    "503 service unavailable",
    "504 gateway time",
    // the engine itself
    "no active session",
    "context deadline exceeded",
    "context canceled",
    "code = unavailable",
    "transport is closing",
    "server is shutting down",
];

/// Signs, in lower case, that the engine's disk is full.
const FULL: [&str; 2] = ["no space left on device", "disk quota exceeded"];

/// Where every step has a small file system of its own, in memory.
const SHARED_MEMORY: &str = "/dev/shm";

/// Signs, in lower case, that an image is not there for us.
const NO_IMAGE: [&str; 7] = [
    "pull access denied",
    "insufficient_scope",
    "manifest unknown",
    "not found",
    "401 unauthorized",
    "403 forbidden",
    "invalid reference format",
];

/// Whose fault `error` is, with which BuildKit has ended a build of `dockerfile`. `ran_full`: the engine's disk
/// was full just then.
pub(super) fn classify(
    error: &str,
    failed: Option<FailedStep>,
    dockerfile: &str,
    ran_full: bool,
) -> BuildError {
    let message = plain(error);
    // ASCII alone keeps the length, so that a place in one is the same place in the other.
    let lower = message.to_ascii_lowercase();
    let step = failed.as_ref().map(|step| step.name.as_str());
    let own = |reason: String| {
        let (step, excerpt) = match failed.clone() {
            Some(step) => (Some(step.name), step.excerpt),
            None => (None, Vec::new()),
        };
        BuildError::Failed(BuildFailure { reason, step, excerpt, ..BuildFailure::default() })
    };
    if let (Some(step), Some(code)) = (step, exit_code(&message)) {
        match failed.as_ref().and_then(full_disk) {
            Some((line, None)) => {
                return full(&format!("step {step}: exit code {code}: {line}"));
            }
            Some((line, Some(own_disk))) => {
                return own(format!(
                    "step {step}: exit code {code}: {line} ({own_disk} is a file system of the step's own, in memory)"
                ));
            }
            None if ran_full => return full(&format!("step {step}: exit code {code}")),
            None => {}
        }
        let hint = if code == "137" { " (killed, as when memory runs out)" } else { "" };
        let advice = failed.as_ref().and_then(|step| advice::on_exit(code, &step.excerpt));
        return with(own(format!("step {step}: exit code {code}{hint}")), advice.as_deref());
    }
    if let Some(reason) = dockerfile_error(&message, &lower, dockerfile) {
        return own(reason);
    }
    if let Some(reason) = step.and_then(|step| missing_source(step, &message)) {
        return with(own(reason), Some(advice::MISSING_SOURCE));
    }
    if is_full(&lower) {
        return full(&step.map_or_else(|| message.clone(), |step| format!("{step}: {message}")));
    }
    let fetched = step.is_some_and(|step| step.contains("://"));
    let unreachable = ["no such host", "connection refused"].iter().any(|sign| lower.contains(sign));
    if INFRASTRUCTURE.iter().any(|sign| lower.contains(sign)) && !(fetched && unreachable) {
        return BuildError::Infrastructure(match step {
            Some(step) => format!("{step}: {message}"),
            None => message,
        });
    }
    let base = step.and_then(base_image);
    match (base, step) {
        (Some(image), _) if NO_IMAGE.iter().any(|sign| lower.contains(sign)) => {
            let reason =
                format!("base image {image} does not exist, or the engine may not pull it: {message}");
            with(own(reason), Some(advice::NO_IMAGE))
        }
        (_, Some(step)) if ran_full => full(&format!("step {step}: {message}")),
        (_, Some(step)) => own(format!("step {step}: {message}")),
        (_, None) => own(message),
    }
}

/// A build that has asked its session for what it may not have, or what is not there.
pub(super) fn refused(reason: String, failed: Option<FailedStep>) -> BuildError {
    let (step, excerpt) = failed.map_or((None, Vec::new()), |step| (Some(step.name), step.excerpt));
    let reason = step.as_ref().map_or_else(|| reason.clone(), |step| format!("step {step}: {reason}"));
    BuildError::Failed(BuildFailure { reason, step, excerpt, ..BuildFailure::default() })
}

/// The same error with what may be tried about it.
fn with(error: BuildError, advice: Option<&str>) -> BuildError {
    match error {
        BuildError::Failed(failure) => {
            BuildError::Failed(BuildFailure { advice: advice.map(ToOwned::to_owned), ..failure })
        }
        error => error,
    }
}

/// The same error with the line of the Dockerfile, whose path and text these are, that the failed step stands in, and
/// with what helps where its text is not understood.
pub(super) fn located(error: BuildError, path: &str, dockerfile: &Dockerfile) -> BuildError {
    match error {
        BuildError::Failed(failure) => {
            let line = match &failure.step {
                Some(step) => instructions::line_of(dockerfile.text(), step),
                // As the parser says it.
                None => failure
                    .reason
                    .strip_prefix(path)
                    .and_then(|rest| rest.strip_prefix(" line ")?.split(':').next()?.parse().ok()),
            };
            let location = line.map(|line| format!("{path}:{line}"));
            let on_syntax = || advice::on_syntax(&failure.reason, dockerfile.text()).map(ToOwned::to_owned);
            let advice = if failure.step.is_none() { on_syntax() } else { failure.advice };
            BuildError::Failed(BuildFailure { location, advice, ..failure })
        }
        error => error,
    }
}

/// What an error of the HTTP client means in answer to `POST /build`, whose every parameter comes from
/// the event.
pub(super) fn of_build_call(host: &str, error: Error) -> BuildError {
    match error {
        Error::DockerResponseServerError { status_code: 400, message }
            if !is_full(&message.to_ascii_lowercase()) =>
        {
            BuildError::Failed(BuildFailure { reason: plain(&message), ..BuildFailure::default() })
        }
        // They travel in the request's URI, which `http` bounds at 64 KiB and the engine at 1 MiB.
        Error::InvalidURIError { .. } | Error::DockerResponseServerError { status_code: 414 | 431, .. } => {
            BuildError::Failed(BuildFailure {
                reason: "build.args and labels are too long: percent-encoded, at most 64 KiB are taken"
                    .to_owned(),
                ..BuildFailure::default()
            })
        }
        error => of_client(host, error),
    }
}

/// What an error of the HTTP client means in answer to any other call, which is BuildGrid's own.
pub(super) fn of_client(host: &str, error: Error) -> BuildError {
    match error {
        Error::DockerResponseServerError { status_code, message } => {
            said(format!("the docker engine at {host} answered {status_code}: {}", plain(&message)))
        }
        Error::DockerStreamError { error } => said(format!("the docker engine at {host}: {}", plain(&error))),
        Error::RequestTimeoutError => {
            BuildError::Infrastructure(format!("the docker engine at {host} did not answer in time"))
        }
        error => BuildError::Infrastructure(format!(
            "the docker engine at {host} cannot be reached: {}",
            chain(&error)
        )),
    }
}

/// Trouble of the engine's, in words that it has said.
pub(super) fn said(words: String) -> BuildError {
    match is_full(&words.to_ascii_lowercase()) {
        true => full(&words),
        false => BuildError::Infrastructure(words),
    }
}

fn is_full(lower: &str) -> bool {
    FULL.iter().any(|sign| lower.contains(sign))
}

fn full(words: &str) -> BuildError {
    BuildError::EngineFull(format!(
        "the engine's disk is full; free space on it, or prune its build cache: {words}"
    ))
}

/// One line, without what BuildKit puts before every error.
fn plain(error: &str) -> String {
    let mut message = error.trim();
    loop {
        let shorter = NOISE.iter().find_map(|noise| message.strip_prefix(noise)).or_else(|| {
            let (before, after) = message.strip_prefix("rpc error: code = ")?.split_once(" desc = ")?;
            // The code says whose fault it is where the description does not.
            (before != "Unavailable").then_some(after)
        });
        match shorter {
            Some(shorter) => message = shorter,
            None => break,
        }
    }
    message.split(['\r', '\n']).map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// The exit code of a step's process: `executor failed running [/bin/sh -c make]: exit code: 2`, or
/// `process "/bin/sh -c make" did not complete successfully: exit code: 2`.
fn exit_code(message: &str) -> Option<&str> {
    let ran =
        message.contains("executor failed running [") || message.contains("did not complete successfully");
    let (_, rest) = message.rsplit_once("exit code: ")?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    (ran && end > 0).then(|| &rest[..end])
}

/// The line in which a failed step complains of a full disk, and which one it is if it is the step's own.
/// Where the line does not say so it is the engine's: a build that is tried again in vain costs less than one
/// that is blamed for a disk that was full for all.
fn full_disk(step: &FailedStep) -> Option<(&str, Option<&str>)> {
    let line = step.excerpt.iter().find(|line| is_full(&line.to_ascii_lowercase()))?;
    let names = |place: &&str| {
        line.split(|c: char| c.is_whitespace() || "'\"`‘’:,()".contains(c))
            .any(|word| word.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    };
    let own = tmpfs_mounts(&step.name).chain([SHARED_MEMORY]).find(|place| names(place));
    Some((line, own))
}

/// Where a step has asked for file systems in memory: `RUN --mount=type=tmpfs,target=/t`.
fn tmpfs_mounts(step: &str) -> impl Iterator<Item = &str> {
    let mounts = step.split_whitespace().filter_map(|word| word.strip_prefix("--mount="));
    mounts.filter(|mount| mount.split(',').any(|option| option == "type=tmpfs")).filter_map(|mount| {
        let options = mount.split(',').filter_map(|option| option.split_once('='));
        let target = options.into_iter().find(|(key, _)| ["target", "dst", "destination"].contains(key));
        target.map(|(_, place)| place.trim_end_matches('/')).filter(|place| !place.is_empty())
    })
}

/// A fault of the Dockerfile itself, before any step.
fn dockerfile_error(message: &str, lower: &str, dockerfile: &str) -> Option<String> {
    const PARSE: &str = "dockerfile parse error ";
    if lower.starts_with(PARSE) {
        let rest = message[PARSE.len()..].trim_start_matches("on ");
        return Some(format!("{dockerfile} {rest}"));
    }
    if lower.contains("file with no instructions") || lower.contains("the dockerfile cannot be empty") {
        return Some(format!("{dockerfile} has no instructions"));
    }
    if lower.starts_with("failed to read dockerfile") && lower.contains("no such file or directory") {
        return Some(format!("there is no {dockerfile} in the build context"));
    }
    if lower.starts_with("target stage") && lower.contains("could not be found") {
        let stage = message["target stage ".len()..].split(" could not").next()?.trim_matches('"');
        return Some(format!("{dockerfile} has no stage {stage:?}"));
    }
    None
}

/// A source of COPY or ADD that is not there: `"/x" not found: not found` (20.10),
/// `failed to calculate checksum of ref …: "/x": not found`, or, from another stage in 20.10,
/// `lstat /var/lib/docker/overlay2/…/merged/x: no such file or directory`.
fn missing_source(step: &str, message: &str) -> Option<String> {
    if !step.contains(" COPY ") && !step.contains(" ADD ") {
        return None;
    }
    let path = if message.ends_with("not found") {
        message.split('"').nth(1)?
    } else {
        let path = message.rsplit_once("lstat ")?.1.strip_suffix(": no such file or directory")?;
        path.split_once("/merged").map_or(path, |(_, inside)| inside)
    };
    let place = match step.contains("--from=") {
        true => "the stage or image it is copied from",
        false => "the build context, or is left out by .dockerignore",
    };
    Some(format!("step {step}: {path} is not in {place}"))
}

/// The image that a step is about to load.
fn base_image(step: &str) -> Option<&str> {
    let image = step.strip_prefix("[internal] load metadata for ").or_else(|| {
        let (before, image) = step.split_once("FROM ")?;
        (before.is_empty() || before.ends_with("] ")).then_some(image)
    });
    image.or_else(|| step.strip_prefix("resolve image config for "))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
#[path = "failure_tests.rs"]
mod tests;
