//! `buildgrid credential`: the logins of the registry and the namespaces that they may pull.

use std::io::Write as _;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

use super::exit::{Exit, Failure};
use crate::publish::name::Namespace;
use crate::store::{Credential, Credentials, NewCredential, Store, StoreConfig, StoreError, UserName};

#[derive(Debug, Args)]
pub struct CredentialArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a login for one or more namespaces; its password is shown once
    #[command(after_help = "Example: a login that may pull every image of two namespaces\n\n  \
        buildgrid credential add acme smoke")]
    Add {
        /// The namespaces whose images it may pull
        #[arg(required = true)]
        namespaces: Vec<Namespace>,
        /// Print JSON, with the password
        #[arg(long)]
        json: bool,
    },
    /// Give a login a new password, shown once; the old one is refused a second later
    #[command(after_help = "Example:\n\n  buildgrid credential rotate acme-k3x9qd2m")]
    Rotate {
        user: UserName,
        /// Print JSON, with the password
        #[arg(long)]
        json: bool,
    },
    /// List the logins
    #[command(after_help = "Example: the user names of all logins for one namespace\n\n  \
        buildgrid credential list --json | jq -r '.[] | select(.namespaces[] == \"acme\") | .user'")]
    List {
        #[arg(long)]
        json: bool,
    },
    /// Remove a login, which is refused a second later
    #[command(after_help = "Example:\n\n  buildgrid credential remove acme-k3x9qd2m")]
    Remove { user: UserName },
}

/// Runs the command on the store. `host` is the registry's, for the line that logs in.
///
/// # Errors
/// A login that does not exist is a fault of the command line, a store that cannot be opened one of
/// the configuration. A list from which logins are missing, damaged ones or such that cannot be read, is shown, and ends with
/// their names.
pub async fn run(args: CredentialArgs, store: &StoreConfig, host: &str) -> Result<(), Failure> {
    let mut output = String::new();
    let ended = execute(args.command, store, host, &mut output).await;
    std::io::stdout().lock().write_all(output.as_bytes()).context("write to the terminal")?;
    ended
}

/// Does it, and adds to `output` what is to be shown, also where it ends with an error.
async fn execute(
    command: Command,
    config: &StoreConfig,
    host: &str,
    output: &mut String,
) -> Result<(), Failure> {
    match command {
        Command::Add { namespaces, json } => {
            let store = open(config, Store::open).await?;
            let added = store.add_credential(namespaces.into_iter().collect()).await?;
            *output += &shown_once(&added, host, json);
        }
        Command::Rotate { user, json } => {
            let store = open(config, Store::open).await?;
            let rotated = store.rotate_credential(&user).await?.ok_or_else(|| unknown(&user))?;
            *output += &shown_once(&rotated, host, json);
        }
        Command::List { json } => {
            let credentials = open(config, Store::open_read_only).await?.credentials().await?;
            *output += &list(&credentials, json);
            let damaged = credentials.damaged.iter().map(ToString::to_string);
            let unread = credentials.unread.iter().map(ToString::to_string);
            let missing = damaged.chain(unread).collect::<Vec<_>>();
            if !missing.is_empty() {
                return Err(anyhow::anyhow!("not all is shown:\n  {}", missing.join("\n  ")).into());
            }
        }
        Command::Remove { user } => match open(config, Store::open).await?.remove_credential(&user).await? {
            true => *output += &format!("removed {user}\n"),
            false => return Err(unknown(&user)),
        },
    }
    Ok(())
}

async fn open(
    config: &StoreConfig,
    open: fn(&StoreConfig) -> Result<Store, StoreError>,
) -> Result<Store, Failure> {
    let config = config.clone();
    let opened = tokio::task::spawn_blocking(move || open(&config)).await?;
    opened.map_err(|error| Failure::new(Exit::Configuration, error))
}

fn unknown(user: &UserName) -> Failure {
    let error = anyhow::anyhow!("there is no login {user}; `buildgrid credential list` shows them");
    Failure::new(Exit::Usage, error)
}

fn shown_once(new: &NewCredential, host: &str, json: bool) -> String {
    let (credential, password) = (&new.credential, new.password.expose_secret());
    if json {
        let mut object = to_json(credential);
        object["password"] = password.into();
        return format!("{object}\n");
    }
    format!(
        "user        {user}\n\
         password    {password}\n\
         namespaces  {namespaces}\n\n\
         The password is not shown again. To log in:\n\n  \
         docker login -u {user} {host}\n",
        user = credential.user,
        namespaces = namespaces(credential),
    )
}

fn list(Credentials { usable: credentials, damaged, unread }: &Credentials, json: bool) -> String {
    if json {
        return format!("{}\n", Value::from_iter(credentials.iter().map(to_json)));
    }
    if credentials.is_empty() && damaged.is_empty() && unread.is_empty() {
        return "no logins; `buildgrid credential add <namespace>` makes one\n".to_owned();
    }
    let width = credentials.iter().map(|credential| credential.user.as_str().len()).max().unwrap_or(0);
    let mut table = format!("{:width$}  {:20}  {:20}  NAMESPACES\n", "USER", "CREATED", "ROTATED");
    for credential in credentials {
        let user = credential.user.as_str();
        let expires = match credential.expires_at {
            Some(_) => "  (a running build's)",
            None => "",
        };
        let [created, rotated, _] = times(credential).map(|time| time.unwrap_or_else(|| "-".to_owned()));
        table += &format!("{user:width$}  {created:20}  {rotated:20}  {}{expires}\n", namespaces(credential));
    }
    table
}

fn to_json(credential: &Credential) -> Value {
    let [created_at, rotated_at, expires_at] = times(credential);
    json!({
        "user": credential.user,
        "namespaces": credential.namespaces,
        "created_at": created_at,
        "rotated_at": rotated_at,
        "expires_at": expires_at,
    })
}

fn times(credential: &Credential) -> [Option<String>; 3] {
    [Some(credential.created_at), credential.rotated_at, credential.expires_at]
        .map(|time| time.and_then(|time| time.format(&Rfc3339).ok()))
}

fn namespaces(credential: &Credential) -> String {
    credential.namespaces.iter().map(Namespace::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, Parser};

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        credential: CredentialArgs,
    }

    /// Runs a command line on a store.
    async fn run(config: &StoreConfig, line: &str) -> Result<String, Failure> {
        let words = std::iter::once("credential").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| Failure::new(Exit::Usage, error))?;
        let mut output = String::new();
        execute(cli.credential.command, config, "registry.example.com", &mut output).await.map(|()| output)
    }

    #[tokio::test]
    async fn a_damaged_login_hides_no_other_and_is_named_with_what_helps() {
        let root = tempfile::tempdir().unwrap();
        let config = StoreConfig::at(root.path());
        let store = Store::open(&config).unwrap();
        let add = || store.add_credential(["acme".parse().unwrap()].into());
        let (good, bad) = (add().await.unwrap().credential.user, add().await.unwrap().credential.user);
        std::fs::write(root.path().join(format!("buildgrid/credentials/{bad}.json")), "{").unwrap();
        for json in [false, true] {
            let mut output = String::new();
            let ended = execute(Command::List { json }, &config, "host", &mut output).await.unwrap_err();
            assert!(output.contains(good.as_str()) && !output.contains(bad.as_str()), "{output}");
            assert_eq!(ended.exit, Exit::Internal);
            let said = ended.error.to_string();
            assert!(said.contains(&format!("`buildgrid credential remove {bad}`")), "{said}");
        }
        run(&config, &format!("remove {bad}")).await.unwrap();
        assert!(run(&config, "list").await.unwrap().contains(good.as_str()));
        store.remove_credential(&good).await.unwrap();
        std::fs::write(root.path().join(format!("buildgrid/credentials/{bad}.json")), "{").unwrap();
        let mut output = String::new();
        execute(Command::List { json: false }, &config, "host", &mut output).await.unwrap_err();
        assert!(!output.contains("no logins"), "{output}");
    }

    #[tokio::test]
    async fn a_login_that_cannot_be_read_now_is_named_and_not_to_be_removed() {
        let root = tempfile::tempdir().unwrap();
        let config = StoreConfig::at(root.path());
        let store = Store::open(&config).unwrap();
        let user = store.add_credential(["acme".parse().unwrap()].into()).await.unwrap().credential.user;
        let file = root.path().join(format!("buildgrid/credentials/{user}.json"));
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(&file, &file).unwrap();
        let mut output = String::new();
        let ended = execute(Command::List { json: false }, &config, "host", &mut output).await.unwrap_err();
        let said = ended.error.to_string();
        assert!(said.contains(&format!("{user}.json: it cannot be read: ")), "{said}");
        assert!(!said.contains("credential remove") && !output.contains("no logins"), "{said} {output}");
    }

    #[tokio::test]
    async fn a_login_is_made_listed_rotated_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let config = StoreConfig::at(root.path().join("store"));
        let missing = run(&config, "list").await.unwrap_err();
        assert_eq!(missing.exit, Exit::Configuration);
        assert!(missing.error.to_string().contains("store.path"), "{}", missing.error);

        let added = run(&config, "add smoke acme").await.unwrap();
        let user = added.split_whitespace().nth(1).unwrap();
        let password = added.split_whitespace().nth(3).unwrap();
        assert!(added.contains("namespaces  acme, smoke\n"), "{added}");
        assert!(added.ends_with(&format!("docker login -u {user} registry.example.com\n")), "{added}");
        let store = Store::open_read_only(&config).unwrap();
        assert!(store.verify_credential(user, password).await.unwrap().is_some());

        let listed: Value = serde_json::from_str(&run(&config, "list --json").await.unwrap()).unwrap();
        assert_eq!(listed[0]["user"], user);
        assert_eq!(listed[0]["namespaces"], json!(["acme", "smoke"]));
        assert_eq!(listed[0].as_object().unwrap().len(), 5, "no digest of the password: {listed}");
        let table = run(&config, "list").await.unwrap();
        assert!(table.starts_with("USER") && table.contains(user) && !table.contains(password), "{table}");

        let rotated = run(&config, &format!("rotate --json {user}")).await.unwrap();
        let rotated: Value = serde_json::from_str(&rotated).unwrap();
        assert_ne!(rotated["password"], password);
        assert!(rotated["rotated_at"].is_string());
        let rotated = rotated["password"].as_str().unwrap();
        assert!(store.verify_credential(user, password).await.unwrap().is_none());
        assert!(store.verify_credential(user, rotated).await.unwrap().is_some());

        assert_eq!(run(&config, &format!("remove {user}")).await.unwrap(), format!("removed {user}\n"));
        for line in ["remove", "rotate"] {
            let unknown = run(&config, &format!("{line} {user}")).await.unwrap_err();
            assert_eq!(unknown.exit, Exit::Usage);
            assert!(unknown.error.to_string().contains(user));
        }
        assert!(run(&config, "list").await.unwrap().contains("credential add"));
        assert_eq!(run(&config, "list --json").await.unwrap(), "[]\n");
    }

    #[tokio::test]
    async fn a_wrong_command_line_makes_no_store() {
        let root = tempfile::tempdir().unwrap();
        let config = StoreConfig::at(root.path().join("store"));
        for line in ["add", "add ACME", "add a.b", "add localhost", "rotate ../x", "remove", "list x"] {
            assert_eq!(run(&config, line).await.unwrap_err().exit, Exit::Usage, "{line}");
        }
        assert!(!config.path.exists());
    }

    #[test]
    fn every_help_shows_an_example() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            assert!(
                command
                    .get_after_help()
                    .is_some_and(|help| help.to_string().contains("buildgrid credential"))
            );
        }
    }
}
