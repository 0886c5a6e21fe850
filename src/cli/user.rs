//! `buildgrid user`: the logins of the dashboard.

use std::io::{BufRead, IsTerminal, Write as _};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use clap::Subcommand;
use secrecy::{ExposeSecret as _, SecretString};
use time::OffsetDateTime;

use super::exit::{Exit, Failure};
use super::people::{LoginName, NamespacesArgs, data_dir, list, open, shown};
use crate::config::Config;
use crate::web::access::{InvalidPassword, PasswordHash, Principal, Role, Secret};
use crate::web::db::Database;

/// The longest line read as a password, in bytes: more than any password that is taken.
const MAX_LINE: u64 = 4096;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a login; its password is asked for, or read from standard input
    #[command(after_help = "Examples:\n\n  \
        buildgrid user add anna --role member --namespace acme\n  \
        buildgrid user add root --role admin --all-namespaces --generate")]
    Add {
        name: LoginName,
        /// viewer sees builds; member also enqueues, cancels and rebuilds; admin also manages the registry's
        /// credentials
        #[arg(long, default_value = "viewer", value_parser = role)]
        role: Role,
        #[command(flatten)]
        namespaces: NamespacesArgs,
        /// Make up a password, and show it once
        #[arg(long)]
        generate: bool,
    },
    /// List the logins
    #[command(after_help = "Example:\n\n  \
        buildgrid user list --json | jq -r '.[] | select(.role == \"member\") | .name'")]
    List {
        #[arg(long)]
        json: bool,
    },
    /// Give a login another password; who is signed in with it is signed out
    #[command(after_help = "Example:\n\n  buildgrid user password anna --generate")]
    Password {
        name: LoginName,
        /// Make up a password, and show it once
        #[arg(long)]
        generate: bool,
    },
    /// Give a login another role, from its next request on
    #[command(after_help = "Example: the first login of an installation that had no admins yet\n\n  \
        buildgrid user role admin admin")]
    Role {
        name: LoginName,
        #[arg(value_parser = role)]
        role: Role,
    },
    /// Remove a login; who is signed in with it is signed out
    #[command(after_help = "Example:\n\n  buildgrid user remove anna")]
    Remove { name: LoginName },
}

fn role(text: &str) -> Result<Role, String> {
    match text.parse::<Role>() {
        Ok(role) if role.is_for_people() => Ok(role),
        Ok(role) => Err(format!("{role} is a role for tokens; people are viewer, member or admin")),
        Err(error) => Err(error.to_string()),
    }
}

pub async fn run(args: Args, config: &Config) -> Result<Exit, Failure> {
    let output = execute(args.command, &data_dir(config), asked).await?;
    std::io::stdout().lock().write_all(output.as_bytes()).context("write to the terminal")?;
    Ok(Exit::Done)
}

async fn execute(
    command: Command,
    data_dir: &Path,
    ask: fn() -> std::io::Result<SecretString>,
) -> Result<String, Failure> {
    let database = open(data_dir).await?;
    let done = act(command, &database, ask).await;
    database.close().await;
    done
}

async fn act(
    command: Command,
    database: &Database,
    ask: fn() -> std::io::Result<SecretString>,
) -> Result<String, Failure> {
    match command {
        Command::Add { name, role, namespaces, generate } => {
            let (password, hash) = password(generate, ask).await?;
            let principal = Principal { name: name.to_string(), role, namespaces: namespaces.namespaces() };
            let sees = shown(&principal.namespaces);
            match database.add_user(principal, hash, OffsetDateTime::now_utc()).await? {
                true => Ok(format!("user        {name}\nrole        {role}\nnamespaces  {sees}\n{password}")),
                false => Err(Failure::usage(anyhow!(
                    "there is a user {name} already; `buildgrid user password {name}` changes the password"
                ))),
            }
        }
        Command::List { json } => {
            Ok(list(&database.users().await?, json, "no users; `buildgrid user add <name>` makes one"))
        }
        Command::Password { name, generate } => {
            let (password, hash) = password(generate, ask).await?;
            match database.change_password(name.to_string(), hash).await? {
                true => Ok(format!("user        {name}\n{password}")),
                false => Err(unknown(&name)),
            }
        }
        Command::Role { name, role } => match database.change_role(name.to_string(), role).await? {
            true => Ok(format!("user        {name}\nrole        {role}\n")),
            false => Err(unknown(&name)),
        },
        Command::Remove { name } => match database.remove_user(name.to_string()).await? {
            true => Ok(format!("removed {name}\n")),
            false => Err(unknown(&name)),
        },
    }
}

/// A new password: its line for the output, where it must be shown, and its hash.
async fn password(
    generate: bool,
    ask: fn() -> std::io::Result<SecretString>,
) -> Result<(String, PasswordHash), Failure> {
    tokio::task::spawn_blocking(move || {
        let (password, shown) = match generate {
            true => {
                let made = Secret::generate("");
                let shown = format!("password    {}\n\nThe password is not shown again.\n", made.expose());
                (SecretString::from(made.expose()), shown)
            }
            false => (ask().map_err(|error| Failure::usage(anyhow!("no password: {error}")))?, String::new()),
        };
        let hash = PasswordHash::make(&password).map_err(|error| match error {
            InvalidPassword::Hash(_) => Failure::new(Exit::Internal, error),
            InvalidPassword::Short(_) | InvalidPassword::Long(_) => Failure::usage(error),
        })?;
        Ok((shown, hash))
    })
    .await?
}

/// From the terminal, twice and without an echo; else one line of standard input.
fn asked() -> std::io::Result<SecretString> {
    if !std::io::stdin().is_terminal() {
        return one_line(std::io::stdin().lock());
    }
    let password = SecretString::from(rpassword::prompt_password("Password: ")?);
    let again = SecretString::from(rpassword::prompt_password("Once more: ")?);
    match password.expose_secret() == again.expose_secret() {
        true => Ok(password),
        false => Err(std::io::Error::other("the two are not the same")),
    }
}

fn one_line(input: impl BufRead) -> std::io::Result<SecretString> {
    let mut line = String::new();
    input.take(MAX_LINE).read_line(&mut line)?;
    let text = line.strip_suffix('\n').unwrap_or(&line);
    Ok(SecretString::from(text.strip_suffix('\r').unwrap_or(text)))
}

fn unknown(name: &LoginName) -> Failure {
    Failure::usage(anyhow!("there is no user {name}; `buildgrid user list` shows them"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser};
    use serde_json::{Value, json};

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        user: Args,
    }

    async fn run(data_dir: &Path, line: &str) -> Result<String, Failure> {
        let words = std::iter::once("user").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(Failure::usage)?;
        execute(cli.user.command, data_dir, || Ok("correct horse".to_owned().into())).await
    }

    #[tokio::test]
    async fn a_user_is_made_listed_given_a_password_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("timeline");
        let missing = run(&place, "list").await.unwrap_err();
        assert_eq!(missing.exit, Exit::Configuration);
        assert!(missing.error.to_string().contains("buildgrid up"), "{}", missing.error);

        Database::open(&place).await.unwrap().close().await;
        assert!(run(&place, "list").await.unwrap().contains("buildgrid user add"));
        let added = run(&place, "add anna --role member --namespace acme --namespace smoke").await.unwrap();
        assert_eq!(added, "user        anna\nrole        member\nnamespaces  acme, smoke\n");
        let taken = run(&place, "add anna --all-namespaces").await.unwrap_err();
        assert!(taken.exit == Exit::Usage && taken.error.to_string().contains("user password anna"));
        let made = run(&place, "add root --all-namespaces --generate").await.unwrap();
        assert!(made.contains("role        viewer\nnamespaces  all\npassword    "), "{made}");

        let listed: Value = serde_json::from_str(&run(&place, "list --json").await.unwrap()).unwrap();
        assert_eq!(
            (&listed[0]["name"], &listed[0]["namespaces"]),
            (&json!("anna"), &json!(["acme", "smoke"]))
        );
        assert_eq!((&listed[1]["role"], &listed[1]["namespaces"]), (&json!("viewer"), &Value::Null));
        let table = run(&place, "list").await.unwrap();
        assert!(table.starts_with("NAME  ROLE") && table.contains("anna  member"), "{table}");

        assert!(run(&place, "password anna").await.unwrap().starts_with("user        anna\n"));
        assert_eq!(run(&place, "remove anna").await.unwrap(), "removed anna\n");
        for line in ["remove anna", "password anna --generate"] {
            let unknown = run(&place, line).await.unwrap_err();
            assert!(unknown.exit == Exit::Usage && unknown.error.to_string().contains("anna"));
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_owned();
        for (line, word) in [
            ("add anna", "--all-namespaces"),
            ("add anna --all-namespaces --namespace acme", "cannot be used with"),
            ("add anna --all-namespaces --role worker", "people are viewer, member or admin"),
            ("add anna --all-namespaces --role root", "is not a role"),
            ("add a/b --all-namespaces", "is not a name"),
            ("add anna --namespace A.B", "A.B"),
        ] {
            let failure = run(&place, line).await.unwrap_err();
            let sentence = failure.error.to_string();
            assert!(failure.exit == Exit::Usage && sentence.contains(word), "{line}: {sentence}");
        }
        Database::open(&place).await.unwrap().close().await;
        let cli = Cli::try_parse_from(["user", "add", "anna", "--all-namespaces"]).unwrap();
        let short = execute(cli.user.command, &place, || Ok("short".to_owned().into())).await.unwrap_err();
        assert!(short.exit == Exit::Usage && short.error.to_string().contains("at least 10"));
    }

    #[test]
    fn a_password_is_one_line() {
        for text in ["pass word\n", "pass word\r\n", "pass word", "pass word\nmore\n"] {
            assert_eq!(one_line(text.as_bytes()).unwrap().expose_secret(), "pass word");
        }
    }

    #[test]
    fn every_help_shows_an_example() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            assert!(command.get_after_help().is_some_and(|help| help.to_string().contains("buildgrid user")));
        }
    }
}
