//! The section `disk`: the marks between which the intake pauses.

use std::fmt::{self, Display};
use std::str::FromStr;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::fill::Fill;
use crate::config::Faults;

/// The marks for inodes, in percent in use, where those of the configuration are sizes.
const INODES: Marks = Marks { high: 90.0, low: 85.0 };

/// How full the file systems of data directory, store and engine may become.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskConfig {
    /// Once one of them is so full, no event is taken: a share in use, such as "90%", of bytes or inodes; or
    /// a size, such as "20 GiB", than which not less is to be free.
    pub high: Mark,
    /// Events are taken again once all of them are less full than this: a smaller share, or a larger size.
    pub low: Mark,
}

/// How full a file system is at some level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mark {
    /// In percent.
    InUse(f64),
    Free(ByteSize),
}

/// What there is too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    Bytes,
    Inodes,
}

struct Marks {
    high: f64,
    low: f64,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self { high: Mark::InUse(90.0), low: Mark::InUse(85.0) }
    }
}

impl DiskConfig {
    pub fn check(&self, faults: &mut Faults) {
        match (self.high, self.low) {
            (Mark::InUse(high), Mark::InUse(low)) if low >= high => faults.add(
                "disk.low",
                format_args!("{} is not below disk.high, {}: intake would stop and start at once", self.low, self.high),
            ),
            (Mark::Free(high), Mark::Free(low)) if low <= high => faults.add(
                "disk.low",
                format_args!(
                    "{} is not more than disk.high, {}, and both are what is to be free: intake would stop and start at once",
                    self.low, self.high
                ),
            ),
            (Mark::InUse(_), Mark::Free(_)) | (Mark::Free(_), Mark::InUse(_)) => {
                faults.add("disk.low", "and disk.high must both be shares (\"90%\") or both be sizes (\"20 GiB\")");
            }
            _ => {}
        }
    }

    /// Whether a file system is too full, and of what: at or above the high mark or, after it `was` so, not
    /// below the low one yet.
    pub fn too_full(&self, fill: &Fill, was: bool) -> Option<Short> {
        let (mark, inodes) = match was {
            true => (self.low, INODES.low),
            false => (self.high, INODES.high),
        };
        let (bytes, inodes) = match mark {
            Mark::InUse(percent) => (fill.percent() >= percent, percent),
            Mark::Free(size) => (fill.free < size.0, inodes),
        };
        match bytes {
            true => Some(Short::Bytes),
            false => fill.inodes_percent().is_some_and(|used| used >= inodes).then_some(Short::Inodes),
        }
    }

    /// Both marks, in the sentence about a file system that is too full.
    pub fn sentence(&self, short: Short) -> String {
        match (short, self.high, self.low) {
            (Short::Inodes, Mark::Free(_), _) => {
                format!("high mark {} %; intake resumes below {} %", INODES.high, INODES.low)
            }
            (_, Mark::InUse(high), Mark::InUse(low)) => {
                format!("high mark {high} %; intake resumes below {low} %")
            }
            (_, high, low) => format!("high mark {high} free; intake resumes above {low}"),
        }
    }
}

impl Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(percent) => write!(f, "{percent}%"),
            Self::Free(size) => size.display().iec().fmt(f),
        }
    }
}

impl FromStr for Mark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no mark: a share in use, above 0% and up to 100%, or a size that is to be free, such as \"20 GiB\""
            )
        };
        match text.trim().strip_suffix('%') {
            Some(percent) => {
                let percent =
                    percent.trim().parse().ok().filter(|percent| *percent > 0.0 && *percent <= 100.0);
                percent.map(Self::InUse).ok_or_else(wrong)
            }
            // A bare number is more often a share without its sign than a number of bytes.
            None if text.trim().parse::<f64>().is_ok() => Err(wrong()),
            None => text.parse().map(Self::Free).map_err(|_| wrong()),
        }
    }
}

impl Serialize for Mark {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mark {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(high: &str, low: &str) -> DiskConfig {
        DiskConfig { high: high.parse().unwrap(), low: low.parse().unwrap() }
    }

    /// A file system of a hundred bytes, and of a hundred inodes.
    fn fill(used: u64, inodes: u64) -> Fill {
        Fill { used, free: 100 - used, inodes: Some((inodes, 100)), read_only: false }
    }

    /// Whether it is too full as its fill goes through `path`.
    fn way(config: DiskConfig, path: &[u64]) -> Vec<bool> {
        let mut was = false;
        let step = |&used: &u64| {
            was = config.too_full(&fill(used, 0), was).is_some();
            was
        };
        path.iter().map(step).collect()
    }

    #[test]
    fn between_the_marks_it_stays_as_it_was() {
        let path = [0, 84, 89, 90, 89, 85, 84, 89, 100, 85, 0];
        let too_full = [false, false, false, true, true, true, false, false, true, true, false];
        assert_eq!(way(config("90%", "85%"), &path), too_full);
        // Eleven bytes free are 89 in use.
        let too_full = [false, false, false, true, true, true, false, false, true, true, false];
        assert_eq!(way(config("11 B", "16 B"), &path), too_full);
    }

    #[test]
    fn all_is_full_only_without_a_byte() {
        assert_eq!(way(config("100%", "99%"), &[98, 99, 100, 99, 98]), [false, false, true, true, false]);
    }

    #[test]
    fn inodes_count_as_well() {
        for marks in [config("90%", "85%"), config("1 B", "2 B")] {
            assert_eq!(marks.too_full(&fill(10, 90), false), Some(Short::Inodes));
            assert_eq!(marks.too_full(&fill(10, 86), false), None);
            assert_eq!(marks.too_full(&fill(10, 86), true), Some(Short::Inodes));
            assert_eq!(marks.too_full(&fill(10, 84), true), None);
            // Some file systems make inodes as they need them.
            assert_eq!(marks.too_full(&Fill { inodes: None, ..fill(10, 0) }, true), None);
        }
    }

    #[test]
    fn marks_are_read_as_they_are_written() {
        for text in ["90%", "99.5%", "20.0 GiB"] {
            assert_eq!(text.parse::<Mark>().unwrap().to_string(), text);
        }
        assert_eq!("20GiB".parse::<Mark>(), Ok(Mark::Free(ByteSize::gib(20))));
        for text in ["", "90", "0%", "101%", "-5%", "NaN%", "much"] {
            assert!(text.parse::<Mark>().is_err(), "{text}");
        }
    }

    #[test]
    fn marks_that_would_flutter_are_faults() {
        for (high, low) in
            [("90%", "90%"), ("85%", "90%"), ("10 GiB", "10 GiB"), ("2 GiB", "1 GiB"), ("90%", "1 GiB")]
        {
            let mut faults = Faults::default();
            config(high, low).check(&mut faults);
            assert!(format!("{faults:?}").contains("disk.low"), "{high} {low}");
        }
        for (high, low) in [("90%", "89.5%"), ("1 GiB", "2 GiB")] {
            let mut faults = Faults::default();
            config(high, low).check(&mut faults);
            assert_eq!(format!("{faults:?}"), format!("{:?}", Faults::default()));
        }
    }
}
