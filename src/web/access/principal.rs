//! Roles, what each may do, and the namespaces it may do it for.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::publish::name::{InvalidName, Namespace};

/// What a login may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// See builds, logs, apps and deploys.
    Read,
    /// Enqueue, cancel and rebuild.
    Build,
    /// Make, rotate and remove the registry's credentials.
    Credentials,
    /// Report deploys and their logs.
    Deploy,
    /// Claim builds, report their states and send their logs.
    Work,
}

impl Scope {
    /// For a sentence: "this login may not …".
    pub fn words(self) -> &'static str {
        match self {
            Self::Read => "see builds",
            Self::Build => "enqueue, cancel or rebuild builds",
            Self::Credentials => "manage the registry's credentials: that needs an admin",
            Self::Deploy => "report deploys",
            Self::Work => "claim builds or report them: that needs a worker's token",
        }
    }
}

/// The kinds of logins, of people and of programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees.
    Viewer,
    /// Sees and builds.
    Member,
    /// Sees, builds, and decides which machines pull.
    Admin,
    /// A worker: claims builds and reports them.
    Worker,
    /// The deploy orchestrator: sees, builds, and reports deploys.
    Maestro,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a role; there are {roles}", roles = Role::ALL.map(Role::as_str).join(", "))]
pub struct InvalidRole(String);

impl Role {
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Member, Self::Admin, Self::Worker, Self::Maestro];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Worker => "worker",
            Self::Maestro => "maestro",
        }
    }

    pub fn may(self, scope: Scope) -> bool {
        match self {
            Self::Viewer => scope == Scope::Read,
            Self::Member => matches!(scope, Scope::Read | Scope::Build),
            Self::Admin => matches!(scope, Scope::Read | Scope::Build | Scope::Credentials),
            Self::Worker => scope == Scope::Work,
            Self::Maestro => matches!(scope, Scope::Read | Scope::Build | Scope::Deploy),
        }
    }

    /// Whether it is a person's.
    pub fn is_for_people(self) -> bool {
        matches!(self, Self::Viewer | Self::Member | Self::Admin)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, InvalidRole> {
        let role = Self::ALL.into_iter().find(|role| role.as_str() == text);
        role.ok_or_else(|| InvalidRole(text.chars().take(80).collect()))
    }
}

/// The namespaces of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespaces {
    All,
    Some(BTreeSet<Namespace>),
}

impl Namespaces {
    pub fn hold(&self, namespace: &Namespace) -> bool {
        match self {
            Self::All => true,
            Self::Some(names) => names.contains(namespace),
        }
    }

    /// For a query: `None` is all of them.
    pub fn names(&self) -> Option<Vec<String>> {
        match self {
            Self::All => None,
            Self::Some(names) => Some(names.iter().map(ToString::to_string).collect()),
        }
    }
}

/// As the database and listings have them: names separated by a space, or `*`.
impl fmt::Display for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.names() {
            None => f.write_str("*"),
            Some(names) => f.write_str(&names.join(" ")),
        }
    }
}

impl FromStr for Namespaces {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text {
            "*" => Ok(Self::All),
            names => names.split_whitespace().map(str::parse).collect::<Result<_, _>>().map(Self::Some),
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name of the user or token.
    pub name: String,
    pub role: Role,
    pub namespaces: Namespaces,
}

impl Principal {
    pub fn may(&self, scope: Scope) -> bool {
        self.role.may(scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_kept_as_words() {
        for text in ["*", "acme", "acme smoke", ""] {
            assert_eq!(text.parse::<Namespaces>().unwrap().to_string(), text);
        }
        assert!("a.b".parse::<Namespaces>().is_err());
        let none = "".parse::<Namespaces>().unwrap();
        assert!(!none.hold(&"acme".parse().unwrap()));
    }

    #[test]
    fn a_worker_sees_nothing_and_a_person_claims_nothing() {
        assert!(!Role::Worker.may(Scope::Read) && !Role::Worker.may(Scope::Build));
        assert!(Role::ALL.iter().all(|role| role.may(Scope::Work) == (*role == Role::Worker)));
        assert!(Role::ALL.iter().all(|role| role.may(Scope::Credentials) == (*role == Role::Admin)));
        assert!(
            "root"
                .parse::<Role>()
                .unwrap_err()
                .to_string()
                .contains("viewer, member, admin, worker, maestro")
        );
    }
}
