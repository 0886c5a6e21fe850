//! The fields of a deploy event whose grammar has no type of its own: free text, paths, refs, platforms.

/// The longest free text (`deploy_id`, `requested_by`, a build argument's name), in bytes.
pub(super) const MAX_TEXT: usize = 256;
/// The longest name of a secret.
const MAX_ID: usize = 96;
/// The longest path inside a repository, and the longest ref, in bytes.
const MAX_PATH: usize = 1024;
/// The longest reason of a rejection, in bytes: it quotes what is wrong, which may be a megabyte.
const MAX_REASON: usize = 1024;

/// A reason that can be logged, sent and shown: of bounded length, its control characters written out.
pub(super) fn sentence(reason: &str) -> String {
    let mut text = String::new();
    for c in reason.chars() {
        if text.len() >= MAX_REASON {
            text.push('…');
            break;
        }
        match c.is_control() {
            true => text.extend(c.escape_default()),
            false => text.push(c),
        }
    }
    text
}

/// Whether `text`, read as a path, has a `..` in it.
pub(super) fn leaves(text: &str) -> bool {
    text.split(['/', '\\']).any(|segment| segment == "..")
}

/// The words of a name's error, for a field that follows the same grammar under another name.
pub(super) fn renamed(error: &crate::publish::name::InvalidName, part: &str) -> String {
    let words = error.to_string();
    match words.split_once(" \"") {
        Some((_, rest)) => format!("{part} \"{rest}"),
        None => words,
    }
}

pub(super) fn free_text(field: &str, text: Option<String>) -> Result<Option<String>, String> {
    match text {
        Some(text) if text.len() > MAX_TEXT => {
            Err(format!("{field}: {} bytes long; at most {MAX_TEXT} are taken", text.len()))
        }
        Some(text) if text.chars().any(char::is_control) => {
            Err(format!("{field}: contains a control character"))
        }
        // These texts become parts of addresses and pages, where somebody might take them for paths.
        Some(text) if leaves(&text) => Err(format!("{field}: {text:?} contains '..' as in a path")),
        text => Ok(text),
    }
}

/// The name of something in the worker's credentials directory, where it is a part of a file's name, and in a
/// Dockerfile: 1 to 96 letters, digits, `.`, `_` and `-`, not beginning with `.` or `-`.
pub(super) fn checked_id(field: &str, name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match (1..=MAX_ID).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with(['.', '-']) {
        true => Ok(()),
        false => Err(format!(
            "{field}: {name:?} is not a name: 1 to {MAX_ID} letters, digits, '.', '_' and '-', the first of them none \
             of '.' and '-'"
        )),
    }
}

/// A path inside the repository, without `.` segments; empty for the repository itself.
pub(super) fn checked_path(field: &str, path: &str) -> Result<String, String> {
    if path.len() > MAX_PATH {
        return Err(format!("{field}: {} bytes long; at most {MAX_PATH} are taken", path.len()));
    }
    if path.starts_with('/') || path.contains('\\') || path.chars().any(char::is_control) {
        return Err(format!(
            "{field}: {path:?} is not a path relative to the repository, with '/' between its names"
        ));
    }
    let segments: Vec<&str> = path.split('/').filter(|segment| !matches!(*segment, "" | ".")).collect();
    if segments.contains(&"..") {
        return Err(format!("{field}: {path:?} leaves the repository; '..' is not allowed"));
    }
    Ok(segments.join("/"))
}

/// A full ref name by the rules of git-check-ref-format(1).
pub(super) fn checked_ref(name: String) -> Result<String, String> {
    let component = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    let forbidden = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    let valid = name.starts_with("refs/")
        && name.len() <= MAX_PATH
        && name.split('/').all(component)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with('.')
        && !name.chars().any(forbidden);
    match valid {
        true => Ok(name),
        false => Err(format!("ref: {name:?} is not a full ref name such as refs/heads/main")),
    }
}

/// `os/architecture[/variant]`, as `docker build --platform` takes it.
pub(super) fn checked_platform(platform: String) -> Result<String, String> {
    let part = |part: &str| {
        (1..=32).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    let parts: Vec<&str> = platform.split('/').collect();
    match (2..=3).contains(&parts.len()) && parts.iter().all(|p| part(p)) {
        true => Ok(platform),
        false => {
            Err(format!("build.platform: {platform:?} is not a platform such as linux/amd64 or linux/arm/v7"))
        }
    }
}
