//! Errors, and those among them that a client acts on.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An error, as `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:buildgrid:` and the [`code`](ProblemCode), or `about:blank` where the status says it all.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// What is wrong with this request.
    pub detail: String,
    /// With `urn:buildgrid:gap` and `urn:buildgrid:incomplete`: the seq to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_seq: Option<u64>,
}

/// The problems that a client acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemCode {
    /// The attempt was never claimed here, or the service has lost its data: claim it late.
    UnknownAttempt,
    /// Another attempt has taken the place of this one.
    Fenced,
    /// Entries are missing before the append.
    Gap,
    /// The log's end was reported before all of it was here.
    Incomplete,
    /// The stored log is not the one that was reported.
    Checksum,
}

impl ProblemCode {
    pub const ALL: [Self; 5] =
        [Self::UnknownAttempt, Self::Fenced, Self::Gap, Self::Incomplete, Self::Checksum];

    pub fn urn(self) -> &'static str {
        match self {
            Self::UnknownAttempt => "urn:buildgrid:unknown-attempt",
            Self::Fenced => "urn:buildgrid:fenced",
            Self::Gap => "urn:buildgrid:gap",
            Self::Incomplete => "urn:buildgrid:incomplete",
            Self::Checksum => "urn:buildgrid:checksum",
        }
    }

    pub fn of(problem: &Problem) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.urn() == problem.kind)
    }
}
