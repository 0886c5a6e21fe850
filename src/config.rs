//! The configuration: one file for every command, composed of the stages' own `Config` structs.
//!
//! All faults are found in one reading, each with the line or the environment variable it stands in:
//! an operator mends them at once instead of one for each start.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};

use crate::build::docker::EngineConfig;
use crate::disk::DiskConfig;
use crate::network::NetworkConfig;
use crate::permit::NamespacesConfig;
use crate::publish::config::PublishConfig;
use crate::queue::QueueConfig;
use crate::registry::RegistryConfig;
use crate::serving::ServerConfig;
use crate::source::config::SourceConfig;
use crate::store::{KeepingConfig, RetentionConfig, StoreConfig};
use crate::telemetry::config::LoggingConfig;
use crate::timeline::TimelineConfig;
use crate::up::UpConfig;
use crate::web::history::HistoryConfig;
use crate::web::policy::PolicyConfig;
use crate::worker::config::{FakeConfig, WorkerConfig};

mod live;

pub use live::{Change, Live};

/// Names the file, before the places in which it is looked for.
pub const FILE_VARIABLE: &str = "BUILDGRID_CONFIG";
/// What the variables that override a key begin with: `BUILDGRID_<SECTION>__<KEY>`.
const PREFIX: &str = "BUILDGRID_";
/// Where the file is looked for when nothing names it.
const PLACES: [&str; 2] = ["worker-config.toml", "/etc/buildgrid/worker-config.toml"];

macro_rules! sections {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// The whole configuration. Every key has a default; the shipped `worker-config.toml` lists them all.
        #[derive(Debug, Clone, Default, Serialize)]
        pub struct Config {
            $($(#[$doc])* pub $name: $type,)*
            /// How many keys the file sets, if there is one.
            #[serde(skip)]
            pub keys_in_file: usize,
        }

        const SECTIONS: &[&str] = &[$(stringify!($name)),*];

        impl Config {
            fn compose(keys: &Keys, faults: &mut Faults) -> Self {
                Self {
                    $($name: keys.section(stringify!($name), faults),)*
                    keys_in_file: keys.in_file,
                }
            }

            fn check(&self, faults: &mut Faults) {
                $(self.$name.check(faults);)*
            }
        }
    };
}

sections! {
    worker: WorkerConfig,
    queue: QueueConfig,
    network: NetworkConfig,
    source: SourceConfig,
    engine: EngineConfig,
    publish: PublishConfig,
    store: StoreConfig,
    keeping: KeepingConfig,
    retention: RetentionConfig,
    disk: DiskConfig,
    server: ServerConfig,
    registry: RegistryConfig,
    timeline: TimelineConfig,
    policy: PolicyConfig,
    history: HistoryConfig,
    namespaces: NamespacesConfig,
    up: UpConfig,
    fake: FakeConfig,
    logging: LoggingConfig,
}

impl Config {
    /// The file to read: the one named on the command line, else by `BUILDGRID_CONFIG`, else the first
    /// that is there of `./worker-config.toml` and `/etc/buildgrid/worker-config.toml`. With none,
    /// every key has its default.
    pub fn find(named: Option<PathBuf>) -> Option<PathBuf> {
        named
            .or_else(|| std::env::var_os(FILE_VARIABLE).map(PathBuf::from))
            .or_else(|| PLACES.iter().map(PathBuf::from).find(|place| place.exists()))
    }

    /// Reads the file, then the environment.
    pub fn load(file: Option<&Path>) -> Result<Self, InvalidConfig> {
        let text = match file {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| InvalidConfig {
                faults: vec![Fault {
                    place: path.display().to_string(),
                    reason: format!("cannot be read: {error}"),
                }],
            })?,
        };
        let name = file.map_or_else(String::new, |path| path.display().to_string());
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::parse(&name, &text, variables)
    }

    /// As [`load`](Self::load), from text and variables at hand. `name` is what faults call the text.
    pub fn parse(
        name: &str,
        text: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, InvalidConfig> {
        let mut faults = Faults::default();
        let mut keys = Keys::default();
        keys.read_file(name, text, &mut faults);
        keys.read_variables(variables, &mut faults);
        let mut config = Self::compose(&keys, &mut faults);
        config.source.network = config.network.clone();
        config.timeline.network = config.network.clone();
        config.queue.network = config.network.clone();
        config.check(&mut faults);
        match faults.0.is_empty() {
            true => Ok(config),
            false => {
                Err(InvalidConfig { faults: faults.0.into_iter().map(|found| keys.place(found)).collect() })
            }
        }
    }
}

/// Collects faults, so that all of them are reported at once.
#[derive(Debug, Default)]
pub struct Faults(Vec<(Place, String)>);

#[derive(Debug)]
enum Place {
    /// `section.key`, wherever it was set.
    Key(String),
    /// Two such keys that do not go together. One of them may have its default.
    Pair(String, String),
    /// An entry of such a key's table.
    Entry(String, String),
    /// `file:line`, or a variable.
    At(String),
}

impl Faults {
    /// Notes that `key` (`section.key`) has a value that cannot be used.
    pub fn add(&mut self, key: &str, reason: impl Display) {
        self.0.push((Place::Key(key.to_owned()), reason.to_string()));
    }

    /// Notes that the values of two keys do not go together. The reason names both.
    pub fn add_pair(&mut self, key: &str, other: &str, reason: impl Display) {
        self.0.push((Place::Pair(key.to_owned(), other.to_owned()), reason.to_string()));
    }

    /// Notes that the table of `key` has an entry that cannot be used.
    pub fn add_entry(&mut self, key: &str, entry: &str, reason: impl Display) {
        self.0.push((Place::Entry(key.to_owned(), entry.to_owned()), reason.to_string()));
    }

    fn at(&mut self, place: impl Display, reason: impl Display) {
        self.0.push((Place::At(place.to_string()), reason.to_string()));
    }
}

/// A configuration that cannot be used, with every reason.
#[derive(Debug)]
pub struct InvalidConfig {
    pub faults: Vec<Fault>,
}

/// One fault: where it stands and what is wrong.
#[derive(Debug)]
pub struct Fault {
    pub place: String,
    pub reason: String,
}

impl std::error::Error for InvalidConfig {}

impl Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.faults.len();
        write!(f, "the configuration has {count} fault{}", if count == 1 { "" } else { "s" })?;
        for Fault { place, reason } in &self.faults {
            write!(f, "\n  {place}: {reason}")?;
        }
        Ok(())
    }
}

/// Every key that was set, by section, with where it was set.
#[derive(Default)]
struct Keys {
    set: BTreeMap<String, BTreeMap<String, Setting>>,
    /// How many of them the file sets.
    in_file: usize,
}

struct Setting {
    value: toml::Value,
    /// The text of a variable, which may mean itself where `value` does not fit: `NAME=007`.
    text: Option<String>,
    place: String,
    /// Where the entries of a table stand, in a file.
    entries: BTreeMap<String, String>,
}

impl Keys {
    fn read_file(&mut self, name: &str, text: &str, faults: &mut Faults) {
        let line = |offset: usize| {
            format!("{name}:{}", text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count() + 1)
        };
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            faults.at(line(offset), error.message());
        }
        for (section, table) in document.into_inner() {
            let place = line(section.span().start);
            let section = section.into_inner();
            if !SECTIONS.contains(&section.as_ref()) {
                faults.at(
                    place,
                    format_args!("section [{section}] is not known; there are {}", SECTIONS.join(", ")),
                );
                continue;
            }
            let DeValue::Table(table) = table.into_inner() else {
                faults.at(place, format_args!("{section} must be a section: [{section}]"));
                continue;
            };
            for (key, value) in table {
                let place = line(key.span().start);
                let entries = match value.get_ref() {
                    DeValue::Table(table) => {
                        table.keys().map(|key| (key.get_ref().to_string(), line(key.span().start))).collect()
                    }
                    _ => BTreeMap::new(),
                };
                match toml::Value::deserialize(value.into_deserializer()) {
                    Ok(value) => {
                        self.in_file += 1;
                        self.set(&section, key.get_ref(), Setting { value, text: None, place, entries });
                    }
                    Err(error) => faults.at(place, error.message()),
                }
            }
        }
    }

    fn read_variables(&mut self, variables: impl IntoIterator<Item = (String, String)>, faults: &mut Faults) {
        for (name, text) in variables {
            let Some((section, key)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once("__"))
            else {
                continue;
            };
            let (section, key) = (section.to_ascii_lowercase(), key.to_ascii_lowercase());
            if !SECTIONS.contains(&section.as_str()) {
                faults.at(
                    &name,
                    format_args!("section [{section}] is not known; there are {}", SECTIONS.join(", ")),
                );
                continue;
            }
            let literal = DeValue::parse(&text)
                .ok()
                .and_then(|value| toml::Value::deserialize(value.into_deserializer()).ok());
            let value = literal.unwrap_or_else(|| toml::Value::String(text.clone()));
            let entries = BTreeMap::new();
            self.set(&section, &key, Setting { value, text: Some(text), place: name, entries });
        }
    }

    fn set(&mut self, section: &str, key: &str, setting: Setting) {
        self.set.entry(section.to_owned()).or_default().insert(key.to_owned(), setting);
    }

    /// A section from those of its keys that can be used; the others become faults.
    fn section<S: DeserializeOwned + Default>(&self, section: &str, faults: &mut Faults) -> S {
        let mut usable = toml::Table::new();
        for (key, setting) in self.set.get(section).into_iter().flatten() {
            // Each key is tried alone: every field has a default, and so each fault is found.
            let try_value = |value: &toml::Value| {
                toml::Table::from_iter([(key.clone(), value.clone())]).try_into::<S>().map(drop)
            };
            let mut value = setting.value.clone();
            let mut tried = try_value(&value);
            if let (Err(_), Some(text)) = (&tried, &setting.text) {
                let text = toml::Value::String(text.clone());
                if try_value(&text).is_ok() {
                    (value, tried) = (text, Ok(()));
                }
            }
            match tried {
                Ok(()) => drop(usable.insert(key.clone(), value)),
                Err(error) => faults.add(&format!("{section}.{key}"), error.message()),
            }
        }
        usable.try_into().unwrap_or_default()
    }

    /// How `section.key` was set, if it was.
    fn setting(&self, key: &str) -> Option<&Setting> {
        let (section, name) = key.split_once('.')?;
        self.set.get(section)?.get(name)
    }

    fn place(&self, (place, reason): (Place, String)) -> Fault {
        let (key, entry) = match place {
            Place::At(place) => return Fault { place, reason },
            Place::Key(key) => (key, None),
            Place::Pair(key, other) => return self.place_pair(&key, &other, &reason),
            Place::Entry(key, entry) => (key, Some(entry)),
        };
        let name = entry.as_ref().map_or_else(|| key.clone(), |entry| format!("{key}.{entry:?}"));
        match self.setting(&key) {
            Some(setting) => {
                let place = entry.and_then(|entry| setting.entries.get(&entry)).unwrap_or(&setting.place);
                Fault { place: place.clone(), reason: format!("{name}: {reason}") }
            }
            None => Fault { place: name, reason },
        }
    }

    /// Where at least one of the two was set; of one that was not, that it has its default.
    fn place_pair(&self, key: &str, other: &str, reason: &str) -> Fault {
        let (place, default) = match (self.setting(key), self.setting(other)) {
            (Some(setting), Some(_)) => (&setting.place, None),
            (Some(setting), None) => (&setting.place, Some(other)),
            (None, Some(setting)) => (&setting.place, Some(key)),
            (None, None) => return Fault { place: key.to_owned(), reason: reason.to_owned() },
        };
        let default = default.map_or_else(String::new, |key| format!(" ({key} has its default)"));
        Fault { place: place.clone(), reason: format!("{reason}{default}") }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
