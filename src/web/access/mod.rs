//! Who asks, what they may do, and for which namespaces.
//!
//! A [`Principal`] comes from a token (`Authorization: Bearer`) or from the session of a dashboard login
//! ([`session`]). What it may not see is answered like what is not there.

mod identify;
mod password;
mod principal;
mod secret;
pub mod session;

pub use identify::{Identity, identify};
pub use password::{InvalidPassword, PasswordHash, Passwords};
pub use principal::{InvalidRole, Namespaces, Principal, Role, Scope};
pub use secret::Secret;
