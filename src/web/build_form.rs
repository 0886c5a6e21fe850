//! The form that builds a commit: what stands in its fields, the deploy event that they make, and which of them a
//! refusal is about. The event's own parser is the judge; no rule stands here twice.

use serde_json::{Map, Value, json};

use super::access::Principal;
use crate::event::deploy::{BuildId, DeployEvent, Work};
use crate::permit::Rules;

/// A field, by its name in the form and its path in the event.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub path: &'static str,
    kind: Kind,
    /// What stands in the event where a field that it cannot do without is wrong, so that the others are judged.
    stand_in: Option<&'static str>,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Text,
    /// The name of a branch or a full ref.
    Ref,
    /// Names between blanks or commas.
    Names,
    Number,
    /// `NAME=value`, one a line; or a JSON object, for values of several lines.
    Arguments,
    Json,
    Flag,
}

const fn field(name: &'static str, path: &'static str, kind: Kind) -> Field {
    Field { name, path, kind, stand_in: None }
}

const fn needed(name: &'static str, path: &'static str, stand_in: &'static str) -> Field {
    Field { name, path, kind: Kind::Text, stand_in: Some(stand_in) }
}

pub const NAMESPACE: &str = "namespace";
pub const APP: &str = "app";
pub const REPOSITORY: &str = "repository";
pub const FAKE: &str = "fake";
/// The value of a flag that is set.
pub const SET: &str = "yes";
/// What an address can fill in.
const FROM_ADDRESS: [&str; 4] = [NAMESPACE, APP, "commit", "ref"];
/// The id that the build will have: a form that is sent twice is one build.
const ID: &str = "id";

pub const FIELDS: [Field; 19] = [
    needed(NAMESPACE, "namespace", "x"),
    needed(APP, "app", "x"),
    needed(REPOSITORY, "repository.url", "https://x/x"),
    needed("commit", "commit", "0000000000000000000000000000000000000000"),
    field("ref", "ref", Kind::Ref),
    field("services", "services", Kind::Names),
    field("root", "build.root", Kind::Text),
    field("dockerfile", "build.dockerfile", Kind::Text),
    field("target", "build.target", Kind::Text),
    field("args", "build.args", Kind::Arguments),
    field("secrets", "build.secrets", Kind::Names),
    field("ssh", "build.ssh", Kind::Names),
    field("platform", "build.platform", Kind::Text),
    field("variant", "build.variant", Kind::Text),
    field("timeout", "build.timeout_s", Kind::Number),
    field("name", "repository.name", Kind::Text),
    field(FAKE, "fake", Kind::Json),
    field("no_cache", "build.no_cache", Kind::Flag),
    field("rebuild", "build.rebuild", Kind::Flag),
];

/// What stands in the fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildForm {
    pub id: BuildId,
    /// As typed, in the order of [`FIELDS`].
    values: [String; FIELDS.len()],
    /// The first name that came along and that the form does not have, and how many did.
    unknown: Option<(String, usize)>,
}

/// Why no event can be made of a form, at the field that is to blame; `None`: no single one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldFault {
    pub field: Option<&'static str>,
    pub what: String,
}

impl Default for BuildForm {
    fn default() -> Self {
        Self { id: BuildId::generate(), values: Default::default(), unknown: None }
    }
}

impl BuildForm {
    /// As it was sent. A field that stands twice, which no browser sends, counts as unknown.
    pub fn read(body: &[u8]) -> Self {
        let (mut form, mut seen) = (Self::default(), [false; FIELDS.len()]);
        for (name, value) in url::form_urlencoded::parse(body) {
            match position(&name) {
                Some(at) if !seen[at] => {
                    seen[at] = true;
                    form.values[at] = value.into_owned();
                }
                _ if name == ID => form.id = value.parse().unwrap_or(form.id),
                _ => {
                    let first = || (name.chars().take(80).collect(), 0);
                    form.unknown.get_or_insert_with(first).1 += 1;
                }
            }
        }
        form
    }

    /// The fields of an earlier event, for another commit.
    pub fn like(event: &Value) -> Self {
        let mut form = Self::default();
        for (at, field) in FIELDS.iter().enumerate() {
            if matches!(field.name, "commit" | "rebuild" | "no_cache") {
                continue;
            }
            let path = field.path.split('.');
            let value = path.fold(event, |value, key| value.get(key).unwrap_or(&Value::Null));
            form.values[at] = field.kind.written(value);
        }
        form
    }

    /// Puts what an address asks for into the fields that an address may fill, the first value of each. The others,
    /// such as the repository, are the reader's or an earlier event's: who follows a link that somebody sent is not
    /// to hand secrets to a Dockerfile of the sender's.
    pub fn fill<'a>(&mut self, values: impl Iterator<Item = (&'a str, &'a str)>) {
        let mut open = FROM_ADDRESS.to_vec();
        for (name, value) in values.filter(|(_, value)| !value.is_empty()) {
            let Some(at) = open.iter().position(|field| *field == name) else { continue };
            open.remove(at);
            self.set(name, value);
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        if let Some(at) = position(name) {
            self.values[at] = value.to_owned();
        }
    }

    pub fn value(&self, name: &str) -> &str {
        position(name).map_or("", |at| &self.values[at])
    }

    /// The bytes of the event, if `principal` may have it built; else all that is wrong, each at its field.
    pub fn event(&self, principal: &Principal, rules: &Rules) -> Result<Vec<u8>, Vec<FieldFault>> {
        let mut faults: Vec<FieldFault> = Vec::new();
        if let Some((name, count)) = &self.unknown {
            let others = if *count > 1 { " (and others)" } else { "" };
            faults.push(FieldFault::of(None, format!("There is no field {name:?}{others}; reload the page")));
        }
        let fields = FIELDS.iter().zip(&self.values);
        let missing = fields.filter(|(field, value)| field.stand_in.is_some() && value.trim().is_empty());
        for (field, _) in missing {
            // A fake build has no repository.
            if field.name != REPOSITORY || self.value(FAKE).trim().is_empty() {
                faults.push(FieldFault::of(Some(field.name), "Is needed".to_owned()));
            }
        }
        // The parser ends at the first fault: what it names is set aside, and it is asked again.
        loop {
            let (event, unread) = self.written(principal, &faults);
            if !unread.is_empty() {
                faults.extend(unread);
                continue;
            }
            let bytes = event.to_string().into_bytes();
            let rejected = match DeployEvent::parse(&bytes) {
                Ok((event, _)) => {
                    faults.extend(refused(&event, principal, rules, &faults));
                    return if faults.is_empty() { Ok(bytes) } else { Err(faults) };
                }
                Err(rejected) => rejected,
            };
            let fault = FieldFault::parsed(&rejected.reason);
            let told = is_at(&faults, fault.field);
            let stuck = told || fault.field.is_none();
            if !told {
                faults.push(fault);
            }
            if stuck {
                return Err(faults);
            }
        }
    }

    /// The event, without the fields that are faulty already; and what cannot be put into JSON at all.
    fn written(&self, principal: &Principal, faults: &[FieldFault]) -> (Value, Vec<FieldFault>) {
        let mut event = json!({"version": 1, "id": self.id, "requested_by": principal.name});
        let mut unread = Vec::new();
        for (field, text) in FIELDS.iter().zip(&self.values) {
            // The last value may end in blanks as well as those before it.
            let text = if field.kind == Kind::Arguments { text } else { text.trim() };
            let value = match (is_at(faults, Some(field.name)), text) {
                // An object, as it would be: the build needs no repository then.
                (true, _) if field.kind == Kind::Json => Some(json!({})),
                (true, _) => field.stand_in.map(Value::from),
                (false, text) if text.trim().is_empty() => None,
                (false, text) => field.kind.read(text).unwrap_or_else(|what| {
                    unread.push(FieldFault::of(Some(field.name), what));
                    None
                }),
            };
            let Some(value) = value else { continue };
            match field.path.split_once('.') {
                Some((outer, inner)) => event[outer][inner] = value,
                None => event[field.path] = value,
            }
        }
        (event, unread)
    }
}

/// What the login and the installation's rules have against an event, as far as its fields could be read.
fn refused(
    event: &DeployEvent,
    principal: &Principal,
    rules: &Rules,
    faults: &[FieldFault],
) -> Option<FieldFault> {
    if is_at(faults, Some(NAMESPACE)) {
        return None;
    }
    if !principal.namespaces.hold(&event.namespace) {
        let own = principal.namespaces.names().unwrap_or_default();
        let own = if own.is_empty() { "none".to_owned() } else { own.join(", ") };
        let what = format!("This login may not build in {}; it may in: {own}", event.namespace);
        return Some(FieldFault::of(Some(NAMESPACE), what));
    }
    if is_at(faults, Some(REPOSITORY)) || is_at(faults, Some(FAKE)) {
        return None;
    }
    let reason = rules.permit(event).err()?;
    let field = match event.work {
        Work::Fake(_) => NAMESPACE,
        Work::Repository(_) => REPOSITORY,
    };
    Some(FieldFault::of(Some(field), reason))
}

/// Whether an event cannot do without this field.
pub fn is_needed(name: &str) -> bool {
    position(name).is_some_and(|at| FIELDS[at].stand_in.is_some())
}

fn position(name: &str) -> Option<usize> {
    FIELDS.iter().position(|field| field.name == name)
}

/// Whether one of the faults is at this field.
fn is_at(faults: &[FieldFault], field: Option<&str>) -> bool {
    field.is_some() && faults.iter().any(|fault| fault.field == field)
}

impl FieldFault {
    pub fn of(field: Option<&'static str>, what: String) -> Self {
        let mut letters = what.chars();
        let first = letters.next();
        let what = first.into_iter().flat_map(char::to_uppercase).chain(letters).collect();
        Self { field, what }
    }

    /// What the parser says begins with the path that it is about, such as `build.args.A`.
    fn parsed(reason: &str) -> Self {
        let is_about = |field: &&Field| {
            reason.strip_prefix(field.path).is_some_and(|rest| rest.starts_with([':', ' ', '.', '[']))
        };
        match FIELDS.iter().find(is_about) {
            Some(field) => {
                let words = reason.strip_prefix(field.path).unwrap_or(reason);
                match words.strip_prefix('.') {
                    // What is left of a longer path is a key of what stands in the field.
                    Some(key) => Self { field: Some(field.name), what: key.to_owned() },
                    None => Self::of(Some(field.name), words.trim_start_matches([':', ' ']).to_owned()),
                }
            }
            None => Self::of(None, reason.to_owned()),
        }
    }
}

impl Kind {
    /// What stands in the event for what was typed. `None`: nothing.
    fn read(&self, text: &str) -> Result<Option<Value>, String> {
        Ok(Some(match self {
            Self::Text => text.into(),
            Self::Ref if text.starts_with("refs/") => text.into(),
            Self::Ref => format!("refs/heads/{text}").into(),
            Self::Names => {
                let names = text.split([' ', ',', '\n', '\r', '\t']).filter(|name| !name.is_empty());
                names.collect::<Vec<_>>().into()
            }
            Self::Number => match text.parse::<i64>() {
                Ok(number) => number.into(),
                Err(_) => return Err(format!("{text:.40?} is not a whole number of seconds")),
            },
            Self::Arguments if text.trim_start().starts_with('{') => object(text)?,
            Self::Arguments => arguments(text)?,
            Self::Json => object(text)?,
            Self::Flag if text == SET => true.into(),
            Self::Flag => return Err(format!("is {SET:?} or left out, not {text:.40?}")),
        }))
    }

    /// What is typed for what stands in an event; the other way of [`read`](Self::read).
    fn written(&self, value: &Value) -> String {
        match (self, value) {
            (_, Value::Null) | (Self::Flag, _) => String::new(),
            (Self::Ref, Value::String(name)) => {
                // A branch that is itself called `refs/…` would be read as a full ref.
                let branch = name.strip_prefix("refs/heads/").filter(|branch| !branch.starts_with("refs/"));
                branch.unwrap_or(name).to_owned()
            }
            (_, Value::String(text)) => text.clone(),
            (Self::Names, Value::Array(names)) => {
                names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
            }
            (Self::Arguments, Value::Object(arguments)) => written_arguments(arguments),
            (_, value) => value.to_string(),
        }
    }
}

fn object(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("is not a JSON object".to_owned()),
        Err(error) => Err(format!("is not a JSON object: {error}")),
    }
}

fn arguments(text: &str) -> Result<Value, String> {
    let mut arguments = Map::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let Some((name, value)) = line.split_once('=') else {
            return Err(format!("line {} has no '=': write NAME=value, one a line", at + 1));
        };
        let name = name.trim().to_owned();
        if arguments.contains_key(&name) {
            return Err(format!("line {}: {name:.80?} stands twice", at + 1));
        }
        arguments.insert(name, value.into());
    }
    Ok(arguments.into())
}

fn written_arguments(arguments: &Map<String, Value>) -> String {
    let plain = |(name, value): (&String, &Value)| {
        let value = value.as_str()?;
        let fits = !value.contains(['\n', '\r']) && value.trim() == value && !name.starts_with('{');
        fits.then(|| format!("{name}={value}"))
    };
    let lines: Option<Vec<String>> = arguments.iter().map(plain).collect();
    match lines {
        Some(lines) => lines.join("\n"),
        None => Value::from(arguments.clone()).to_string(),
    }
}

#[cfg(test)]
#[path = "build_form_tests.rs"]
mod tests;
