//! What a build asks its session for: secrets, and what becomes of those that it does not have.

use std::collections::BTreeSet;
use std::process::Command;

use buildgrid::build::docker::{BuildRequest, Context, Dockerfile};
use buildgrid::timeline::entry::Stream;
use buildgrid::timeline::mask::Mask;
use tokio_util::sync::CancellationToken;

use crate::support::docker::*;
use crate::support::process::output;

fn with_secret(mut request: BuildRequest, name: &str, value: &str) -> BuildRequest {
    request.credentials.secrets.insert(name.to_owned(), value.as_bytes().to_vec().into());
    request
}

#[tokio::test]
async fn a_secret_is_there_for_its_step_masked_in_the_log_and_in_no_layer() {
    let word = unique();
    let value = format!("hunter2-{word}\nsecond-line-of-it\n");
    let dockerfile = format!(
        "FROM {BASE}\nRUN --mount=type=secret,id=NPM_token,required=true --mount=type=secret,id=NPM_token,target=/t \
         cmp /t /run/secrets/NPM_token && cat /t && sha256sum /t | cut -c -64 > /sum && ls -l /t | cut -c -10 # {word}\n\
         RUN ls /run/secrets /t 2>/dev/null | wc -l > /left\n"
    );
    let request = with_secret(request(&dockerfile), "NPM_token", &value);
    let mask = Mask::new([("s", value.as_bytes())]).unwrap().0;
    let built = build_masked(&engine(), request, mask, &CancellationToken::new()).await;
    assert_eq!(built.lines(Stream::Stdout, "[2/3] RUN"), ["***", "***", "-r--------"]);
    let image = built.image();
    let files = files(&image);
    let sum = buildgrid::store::digest::Digest::of(value.as_bytes()).to_string();
    assert_eq!(String::from_utf8_lossy(&files["sum"]).trim(), sum.strip_prefix("sha256:").unwrap());
    assert_eq!(
        files.get("t").map(Vec::len).unwrap_or_default(),
        0,
        "the mount's place is empty in the image"
    );
    let whole = [image.config.clone(), files.into_values().flatten().collect()].concat();
    assert!(!String::from_utf8_lossy(&whole).contains("second-line-of-it"), "it is in the image");
}

#[tokio::test]
async fn a_secret_that_the_build_does_not_have_fails_it_by_name_unless_it_is_optional() {
    let engine = engine();
    for mount in ["id=npm", "id=npm,required=true", "target=/etc/npm"] {
        let dockerfile = format!("FROM {BASE}\nRUN --mount=type=secret,{mount} echo {}\n", unique());
        let built = build(&engine, with_secret(request(&dockerfile), "npm.other", "x")).await;
        let failure = built.failure();
        assert!(
            failure.reason.contains("asks for the secret \"npm\", which build.secrets"),
            "{}",
            failure.reason
        );
        assert!(failure.step.unwrap().starts_with("[2/2] RUN --mount=type=secret"));
    }
    let dockerfile = format!(
        "FROM {BASE}\nRUN --mount=type=secret,id=npm,required=false test ! -e /run/secrets/npm && echo {}\n",
        unique()
    );
    let built = build(&engine, request(&dockerfile)).await;
    assert!(built.result.is_ok(), "{:?}", built.log);
    let said = "warning: the secret \"npm\" is not given to this build; its mounts are left out, as required=false says";
    assert!(
        built.log.iter().any(|line| line.stream == Stream::Status && line.text == said),
        "{:?}",
        built.log
    );
}

#[tokio::test]
async fn a_front_end_that_is_not_allowed_is_never_pulled() {
    let engine = engine();
    for text in [
        "# syntax=127.0.0.1:1/evil\nFROM scratch\n",
        "// syntax=127.0.0.1:1/evil\n",
        "#\u{a0}syntax=127.0.0.1:1/evil\nFROM scratch\n",
    ] {
        let reason = build(&engine, request(text)).await.failure().reason;
        assert!(reason.starts_with("Dockerfile names the front end \"127.0.0.1:1/evil\""), "{reason}");
    }
    let json = r#"{"syntax":"docker/dockerfile:1","syntax":"127.0.0.1:1/evil"}"#;
    let reason = build(&engine, request(json)).await.failure().reason;
    assert!(reason.starts_with("Dockerfile is JSON"), "{reason}");
    // What was refused would have been pulled.
    let mut request = request("# syntax=127.0.0.1:1/evil\nFROM scratch\n");
    request.text = Dockerfile::default();
    let reason = build(&engine, request).await.infrastructure();
    assert!(reason.contains("127.0.0.1:1/evil"), "{reason}");
}

/// Puts the real `ssh-add` and `ssh-keygen` into a context, with the libraries that they need.
fn ssh_client(dockerfile: &str, files: &[(&str, Vec<u8>)]) -> Context {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    add("Dockerfile", dockerfile.as_bytes());
    let programs = ["/usr/bin/ssh-add", "/usr/bin/ssh-keygen"];
    let libraries = output(Command::new("ldd").args(programs));
    let paths: BTreeSet<_> = libraries.split_whitespace().filter(|word| word.starts_with('/')).collect();
    let paths = paths.into_iter().map(|path| path.trim_end_matches(':'));
    for path in paths.chain(programs).collect::<BTreeSet<_>>() {
        add(&format!("client{path}"), &std::fs::read(path).unwrap());
    }
    add("client/etc/passwd", b"root:x:0:0:root:/:/bin/sh\n");
    files.iter().for_each(|(name, bytes)| add(name, bytes));
    let bytes = archive.into_inner().unwrap();
    Context::Tar(Box::pin(futures::stream::iter([Ok(bytes::Bytes::from(bytes))])))
}

#[tokio::test]
async fn an_agent_signs_with_the_builds_keys_and_shows_none() {
    let folder = tempfile::tempdir().unwrap();
    let (mut keys, mut files, mut prints) = (Vec::new(), Vec::new(), Vec::new());
    for (kind, bits) in [("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384"), ("rsa", "2048")] {
        let name = format!("{kind}{bits}");
        let path = folder.path().join(&name);
        let mut make = Command::new("ssh-keygen");
        output(make.args(["-q", "-t", kind, "-b", bits, "-N", "", "-C", &name, "-f"]).arg(&path));
        keys.push(std::fs::read(&path).unwrap());
        let public = path.with_extension("pub");
        prints.push(output(Command::new("ssh-keygen").arg("-lf").arg(&public)));
        files.push((name, std::fs::read(&public).unwrap()));
    }
    let all = buildgrid::build::ssh_key::SshKey::read(&keys.concat()).unwrap();
    let dockerfile = format!(
        "FROM {BASE}\nCOPY client /\nCOPY *.pub /keys/\nRUN --mount=type=ssh,required=true echo {} && ssh-add -l && \
         for key in /keys/*; do echo data | ssh-keygen -Y sign -n file -f $key > /tmp.sig && \
         echo data | ssh-keygen -Y check-novalidate -n file -s /tmp.sig | cut -d ' ' -f 1; done; \
         ssh-add -D; ssh-add -L | wc -l\n\
         RUN --mount=type=ssh,id=other test -z \"$SSH_AUTH_SOCK\" -o ! -e \"$SSH_AUTH_SOCK\"\n",
        unique()
    );
    let named: Vec<_> = files.iter().map(|(name, bytes)| (format!("{name}.pub"), bytes.clone())).collect();
    let named: Vec<_> = named.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let mut request = request(&dockerfile);
    request.context = ssh_client(&dockerfile, &named);
    request.credentials.ssh.insert("default".to_owned(), all.into());
    let built = build(&engine(), request).await;
    let lines = built.lines(Stream::Stdout, "[4/5] RUN");
    assert_eq!(lines[1..5], prints, "{:#?}", built.log);
    assert_eq!(lines[5..], ["Good", "Good", "Good", "Good", "4"], "{:#?}", built.log);
    let said = "warning: the Dockerfile asks for the SSH agent \"other\", which build.ssh of the event does not name";
    assert!(built.log.iter().any(|line| line.text == said), "{:#?}", built.log);
    let files = files_of(built);
    for key in keys {
        let secret = key.split(|byte| *byte == b'\n').nth(2).unwrap().to_vec();
        assert!(!files.windows(secret.len()).any(|part| part == secret), "a private key is in the image");
    }
}

fn files_of(built: Built) -> Vec<u8> {
    files(&built.image()).into_values().flatten().collect()
}

#[tokio::test]
async fn an_agent_that_the_build_does_not_have_fails_a_step_that_requires_it() {
    let dockerfile = format!("FROM {BASE}\nRUN --mount=type=ssh,required=true echo {}\n", unique());
    let reason = build(&engine(), request(&dockerfile)).await.failure().reason;
    assert!(reason.contains("asks for the SSH agent \"default\", which build.ssh"), "{reason}");
}
