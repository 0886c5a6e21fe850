//! What a build asks its session for: secrets, and what becomes of those that it does not have.

use buildgrid::build::docker::{BuildRequest, Dockerfile};
use buildgrid::timeline::entry::Stream;
use buildgrid::timeline::mask::Mask;
use tokio_util::sync::CancellationToken;

use crate::support::docker::*;

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
        "{\"syntax\":\"127.0.0.1:1/evil\"}",
    ] {
        let reason = build(&engine, request(text)).await.failure().reason;
        assert!(reason.starts_with("Dockerfile names the front end \"127.0.0.1:1/evil\""), "{reason}");
    }
    // What was refused would have been pulled.
    let mut request = request("# syntax=127.0.0.1:1/evil\nFROM scratch\n");
    request.text = Dockerfile::default();
    let reason = build(&engine, request).await.infrastructure();
    assert!(reason.contains("127.0.0.1:1/evil"), "{reason}");
}
