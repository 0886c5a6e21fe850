//! States: words on the wire, in the database and on pages.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An enumeration whose variants are words, on the wire and in the database.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        // Not each by its word, which the API's document would not know of.
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// All words, for a sentence.
            pub fn list() -> String {
                [$($word),*].join(", ")
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                Self::ALL.iter().copied().find(|state| state.as_str() == text).ok_or(())
            }
        }
    };
}

words! {
    /// Where an attempt stands. In this order, never back.
    AttemptState {
        /// Claimed; no stage has begun.
        Claimed => "claimed",
        Fetching => "fetching",
        Building => "building",
        Publishing => "publishing",
        /// Not the build's fault; another attempt follows.
        Retrying => "retrying",
        /// Given back to the queue by a worker that was told to stop.
        Released => "released",
        Published => "published",
        Failed => "failed",
        Rejected => "rejected",
        Cancelled => "cancelled",
    }
}

impl AttemptState {
    /// How far it is: only forward. All ends are as far as each other.
    pub fn rank(self) -> u8 {
        match self {
            Self::Claimed => 0,
            Self::Fetching => 1,
            Self::Building => 2,
            Self::Publishing => 3,
            _ => 4,
        }
    }

    /// Whether the attempt has ended.
    pub fn is_end(self) -> bool {
        self.rank() == 4
    }
}

words! {
    /// How a build stands, as it is shown.
    BuildState {
        /// Accepted; no worker has it.
        Queued => "queued",
        /// With a worker; no stage has begun.
        Claimed => "claimed",
        Fetching => "fetching",
        Building => "building",
        Publishing => "publishing",
        /// Nothing was heard of its worker for longer than its lease.
        Interrupted => "interrupted",
        /// Not the build's fault; another attempt follows.
        Retrying => "retrying",
        Published => "published",
        Failed => "failed",
        Rejected => "rejected",
        Cancelled => "cancelled",
    }
}

impl BuildState {
    /// Whether nothing more comes of it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Published | Self::Failed | Self::Rejected | Self::Cancelled)
    }

    /// Whether a worker is at it, as far as is known.
    pub fn is_running(self) -> bool {
        matches!(self, Self::Claimed | Self::Fetching | Self::Building | Self::Publishing)
    }
}

words! {
    /// How a deploy stands, in Maestro's words.
    DeployState {
        Waiting => "waiting",
        Running => "running",
        Done => "done",
        Failed => "failed",
        Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_states_are_one() {
        for &state in AttemptState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        for &state in BuildState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        for &state in DeployState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
