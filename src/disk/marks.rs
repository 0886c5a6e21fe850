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
        let Self { high, low } = self;
        let reason = match (high, low) {
            (Mark::InUse(above), Mark::InUse(below)) if below >= above => format!(
                "disk.low, {low} in use, is not below disk.high, {high} in use: intake would stop and start at once"
            ),
            (Mark::Free(less), Mark::Free(more)) if more <= less => format!(
                "disk.low, {low} free, is not more than disk.high, {high} free: intake would stop and start at once"
            ),
            (Mark::InUse(_), Mark::Free(_)) | (Mark::Free(_), Mark::InUse(_)) => format!(
                "disk.high, {high}, and disk.low, {low}, are of two kinds: both must be shares in use, such as \
                 \"90%\", or both sizes that are to be free, such as \"20 GiB\""
            ),
            _ => return,
        };
        faults.add_pair("disk.low", "disk.high", reason);
    }

    /// These marks on a file system of so many bytes. Where it could never have free what the low mark, a size,
    /// asks for, intake would pause for ever and all that can be spared would go: there the default shares hold.
    pub fn on(&self, whole: u64) -> Self {
        match self.low {
            Mark::Free(low) if low.0 >= whole => Self::default(),
            _ => *self,
        }
    }

    /// That these marks do not hold on a file system of so many bytes, and which do.
    pub fn misfit(&self, whole: u64) -> Option<String> {
        let on = self.on(whole);
        (on != *self).then(|| {
            format!(
                "disk.low, {} free, is not less than the whole file system, {}; {} and {} in use hold there instead of \
                 disk.high and disk.low: lower these, or give it a larger disk",
                self.low,
                ByteSize(whole).display().iec(),
                on.high,
                on.low
            )
        })
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
    use crate::config::Config;

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
    fn sizes_that_a_file_system_cannot_have_free_do_not_hold_there() {
        let marks = config("50 B", "100 B");
        assert_eq!(marks.on(101), marks);
        assert_eq!(marks.misfit(101), None);
        assert_eq!(marks.on(100), DiskConfig::default());
        let words = marks.misfit(100).unwrap();
        assert!(
            words.starts_with("disk.low, 100 B free, is not less than the whole file system, 100 B;"),
            "{words}"
        );
        assert!(words.contains("90% and 85% in use hold there"), "{words}");
        let shares = config("99%", "98%");
        assert_eq!((shares.on(0), shares.misfit(0)), (shares, None));
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
        let named = |text: &str| Config::parse("f", text, []).unwrap_err().to_string();
        for (text, fault) in [
            (
                "[disk]\nhigh = \"80%\"\n",
                "f:2: disk.low, 85% in use, is not below disk.high, 80% in use: intake would stop and start at once \
                 (disk.low has its default)",
            ),
            ("[disk]\n\nlow = \"95%\"\n", "f:3: disk.low, 95% in use, is not below disk.high, 90% in use"),
            (
                "[disk]\n\nhigh = \"20 GiB\"\n",
                "f:3: disk.high, 20.0 GiB, and disk.low, 85%, are of two kinds: ",
            ),
            ("[disk]\nhigh = \"80%\"\nlow = \"80%\"\n", "f:3: disk.low, 80% in use, is not below "),
        ] {
            assert!(named(text).contains(fault), "{fault} is not in {}", named(text));
        }
        for (high, low) in [("90%", "89.5%"), ("1 GiB", "2 GiB")] {
            let mut faults = Faults::default();
            config(high, low).check(&mut faults);
            assert_eq!(format!("{faults:?}"), format!("{:?}", Faults::default()));
        }
    }
}
