//! Messages of engines old and new, and whose fault they are. Those of Docker 20.10 were recorded,
//! those of later versions taken from BuildKit's source.

use super::*;

fn step(name: &str, error: &str) -> Option<FailedStep> {
    Some(FailedStep { name: name.into(), error: error.into(), excerpt: vec!["last line".into()] })
}

fn own(error: &str, failed: Option<FailedStep>) -> BuildFailure {
    match classify(error, failed, "Dockerfile", false) {
        BuildError::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn ours(error: &str, failed: Option<FailedStep>) -> String {
    match classify(error, failed, "Dockerfile", false) {
        BuildError::Infrastructure(reason) | BuildError::EngineFull(reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn full(error: &str, failed: Option<FailedStep>) -> String {
    match classify(error, failed, "Dockerfile", false) {
        BuildError::EngineFull(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_failing_step_is_named_with_its_exit_code() {
    for error in [
        "executor failed running [/bin/sh -c make]: exit code: 2",
        "failed to solve: process \"/bin/sh -c make\" did not complete successfully: exit code: 2",
        "failed to solve with frontend dockerfile.v0: failed to build LLB: executor failed running [/bin/sh -c make]: exit code: 2",
        "rpc error: code = Unknown desc = executor failed running [/bin/sh -c echo exit code: 7]: exit code: 2",
    ] {
        let failure = own(error, step("[2/4] RUN make", error));
        assert_eq!(failure.reason, "step [2/4] RUN make: exit code 2");
        assert_eq!(failure.step.as_deref(), Some("[2/4] RUN make"));
        assert_eq!(failure.excerpt, ["last line"]);
    }
    let killed = "executor failed running [/bin/sh -c make]: exit code: 137: cannot allocate memory";
    assert_eq!(
        own(killed, step("[2/4] RUN make", killed)).reason,
        "step [2/4] RUN make: exit code 137 (killed, as when memory runs out)"
    );
}

#[test]
fn a_step_that_found_the_disk_full_is_the_engines_trouble() {
    let error = "executor failed running [/bin/sh -c make]: exit code: 1";
    let mut failed = step("[2/4] RUN make", error);
    failed.as_mut().unwrap().excerpt.insert(0, "cp: write error: No space left on device".into());
    assert_eq!(
        full(error, failed),
        "the engine's disk is full; free space on it, or prune its build cache: \
         step [2/4] RUN make: exit code 1: cp: write error: No space left on device"
    );
}

#[test]
fn a_step_that_fails_while_the_disk_is_full_is_the_engines_trouble() {
    let error = "executor failed running [/bin/sh -c make]: exit code: 1";
    let full = |failed| classify(error, failed, "Dockerfile", true);
    let failure = full(step("[2/4] RUN make", error)).to_string();
    assert!(failure.ends_with("its build cache: step [2/4] RUN make: exit code 1"), "{failure}");
    let mut own = step("[2/4] RUN make", error);
    own.as_mut().unwrap().excerpt.insert(0, "write /dev/shm/x: no space left on device".into());
    assert!(matches!(full(own), BuildError::Failed(_)), "what the step says is better known");
    let typo = "failed to solve: dockerfile parse error on line 2: unknown instruction: RUNN";
    assert!(matches!(classify(typo, None, "Dockerfile", true), BuildError::Failed(_)));
}

#[test]
fn a_disk_of_the_steps_own_that_is_full_is_its_own_trouble() {
    let error = "executor failed running [/bin/sh -c make]: exit code: 1";
    let says = |name: &str, line: &str| {
        let mut failed = step(name, error);
        failed.as_mut().unwrap().excerpt.insert(0, line.into());
        failed
    };
    let plain = "[2/4] RUN make";
    let mounted = "[2/4] RUN --mount=type=cache,target=/c --mount=type=tmpfs,dst=/scratch/,size=1m make";
    for (name, line, place) in [
        (plain, "dd: error writing '/dev/shm/x': No space left on device", "/dev/shm"),
        (plain, "sh: can't create /dev/shm/x: No space left on device", "/dev/shm"),
        (mounted, "write /scratch/a/b: no space left on device", "/scratch"),
    ] {
        let reason = own(error, says(name, line)).reason;
        assert!(reason.contains(&format!("exit code 1: {line} ({place} is a file system of")), "{reason}");
    }
    for (name, line) in [
        (plain, "write /scratch/a/b: no space left on device"),
        (plain, "write /dev/shmx: no space left on device"),
        (mounted, "write /c/a: no space left on device"),
        (mounted, "write /scratches: no space left on device"),
        (mounted, "write error: No space left on device"),
    ] {
        assert!(full(error, says(name, line)).contains(line));
    }
}

#[test]
fn a_steps_own_network_trouble_is_its_own() {
    let error =
        "executor failed running [/bin/sh -c curl x || echo connection refused; exit 6]: exit code: 6";
    assert_eq!(own(error, step("[2/2] RUN curl x", error)).reason, "step [2/2] RUN curl x: exit code 6");
}

#[test]
fn a_fault_of_the_dockerfile_is_said_with_its_line() {
    for (error, reason) in [
        (
            "failed to solve with frontend dockerfile.v0: failed to create LLB definition: dockerfile parse error line 2: unknown instruction: RUNN",
            "Dockerfile line 2: unknown instruction: RUNN",
        ),
        (
            "failed to solve: dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)",
            "Dockerfile line 2: unknown instruction: RUNN (did you mean RUN?)",
        ),
        (
            "failed to solve with frontend dockerfile.v0: failed to create LLB definition: file with no instructions",
            "Dockerfile has no instructions",
        ),
        (
            "failed to solve with frontend dockerfile.v0: failed to create LLB definition: target stage tset could not be found",
            "Dockerfile has no stage \"tset\"",
        ),
        ("failed to solve: target stage \"tset\" could not be found", "Dockerfile has no stage \"tset\""),
        (
            "failed to solve with frontend dockerfile.v0: failed to read dockerfile: open /var/lib/docker/tmp/buildkit-mount075/Dockerfile: no such file or directory",
            "there is no Dockerfile in the build context",
        ),
    ] {
        assert_eq!(own(error, None).reason, reason);
    }
}

#[test]
fn letters_that_change_their_length_in_lower_case_do_no_harm() {
    for stage in ["İdockerfile parse error é", "İİİtarget stage é could not be found"] {
        let error = format!("failed to solve: target stage \"{stage}\" could not be found");
        let reason = own(&error, None).reason;
        assert!(reason.starts_with("Dockerfile has no stage \"İ"), "{reason}");
    }
    let error = "failed to solve: İ dockerfile parse error é";
    assert_eq!(own(error, None).reason, "İ dockerfile parse error é");
}

#[test]
fn a_missing_source_says_where_it_was_looked_for() {
    let context =
        "step [2/2] COPY nothing /: /nothing is not in the build context, or is left out by .dockerignore";
    for error in [
        "failed to compute cache key: \"/nothing\" not found: not found",
        "failed to solve: failed to compute cache key: failed to calculate checksum of ref abc::def: \"/nothing\": not found",
    ] {
        assert_eq!(own(error, step("[2/2] COPY nothing /", error)).reason, context);
    }
    let error = "failed to compute cache key: \"/x509: \" not found: not found";
    let failure = own(error, step("[c 2/3] COPY --from=a x /", error));
    assert!(failure.reason.ends_with("is not in the stage or image it is copied from"), "{}", failure.reason);
    let error = "lstat /var/lib/docker/overlay2/f8d4/merged/app/bin: no such file or directory";
    let failure = own(error, step("[c 2/3] COPY --from=a /app/bin /", error));
    assert!(failure.reason.contains(": /app/bin is not in the stage"), "{}", failure.reason);
}

#[test]
fn a_base_image_that_is_not_there_is_the_builds_fault() {
    let load = "[internal] load metadata for docker.io/acme/base:1";
    for error in [
        "failed to solve: pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
        "failed to solve with frontend dockerfile.v0: failed to create LLB definition: docker.io/acme/base:1: not found",
        "failed to solve: acme/base:1: unexpected status from HEAD request to https://r/v2/acme/base/manifests/1: 401 Unauthorized",
    ] {
        let reason = own(error, step(load, error)).reason;
        assert!(reason.starts_with("base image docker.io/acme/base:1 does not exist"), "{reason}");
    }
}

#[test]
fn a_registry_that_cannot_be_reached_is_ours() {
    let load = "[internal] load metadata for docker.io/acme/base:1";
    for error in [
        "failed to solve with frontend dockerfile.v0: failed to create LLB definition: failed to do request: Head \"https://r/v2/x\": dial tcp: lookup r on 10.0.0.1:53: no such host",
        "failed to solve: failed to do request: Head \"https://r/v2/x\": net/http: TLS handshake timeout",
        "failed to solve: failed to do request: Head \"https://r/v2/x\": tls: failed to verify certificate: x509: certificate signed by unknown authority",
        "failed to solve: unexpected status from HEAD request to https://r/v2/x: 503 Service Unavailable",
        "failed to solve: unexpected status from HEAD request to https://r/v2/x: 429 Too Many Requests",
    ] {
        let reason = ours(error, step(load, error));
        assert!(reason.starts_with(load) && !reason.contains("failed to solve"), "{reason}");
    }
}

#[test]
fn the_engines_own_trouble_is_ours() {
    for error in [
        "rpc error: code = Unavailable desc = error reading from server: EOF",
        "failed to solve with frontend dockerfile.v0: no active session for abc: context deadline exceeded",
        "failed to solve: Canceled: context canceled",
    ] {
        ours(error, None);
    }
}

#[test]
fn an_engine_whose_disk_is_full_says_so() {
    let error = "failed to solve: mkdir /var/lib/docker/overlay2/x: no space left on device";
    for reason in [full(error, None), full(error, step("[2/2] COPY . /", error))] {
        assert!(reason.starts_with("the engine's disk is full; free space"), "{reason}");
        assert!(reason.ends_with("mkdir /var/lib/docker/overlay2/x: no space left on device"), "{reason}");
    }
    let refused = Error::DockerResponseServerError {
        status_code: 500,
        message: "write /var/lib/docker/tmp/x: no space left on device".into(),
    };
    assert!(matches!(of_client("h", refused), BuildError::EngineFull(_)));
}

#[test]
fn an_address_in_the_dockerfile_that_nobody_has_is_the_builds_fault() {
    let error = "failed to load cache key: Get \"http://nowhere/x\": dial tcp: lookup nowhere: no such host";
    let reason = own(error, step("http://nowhere/x", error)).reason;
    assert!(reason.starts_with("step http://nowhere/x: Get"), "{reason}");
    ours(
        "failed to load cache key: Get \"http://slow/x\": dial tcp: i/o timeout",
        step("http://slow/x", "x"),
    );
}

#[test]
fn an_unknown_error_is_the_builds_in_one_line_without_noise() {
    let failure =
        own("failed to solve: rpc error: code = Unknown desc = something\nnew", step("[2/2] RUN x", "y"));
    assert_eq!(failure.reason, "step [2/2] RUN x: something; new");
}

#[test]
fn what_the_engine_refuses_by_its_status() {
    let refusal = |status_code, message: &str| Error::DockerResponseServerError {
        status_code,
        message: message.into(),
    };
    let status = |status_code, message| of_build_call("unix:///d.sock", refusal(status_code, message));
    assert!(
        matches!(status(400, "invalid platform"), BuildError::Failed(f) if f.reason == "invalid platform")
    );
    assert!(matches!(status(431, ""), BuildError::Failed(f) if f.reason.contains("too long")));
    assert!(
        matches!(status(500, "x"), BuildError::Infrastructure(r) if r == "the docker engine at unix:///d.sock answered 500: x")
    );
    for status_code in [400, 414, 431] {
        let other = of_client("h", refusal(status_code, "x"));
        assert!(matches!(other, BuildError::Infrastructure(_)), "only the build's call is of its making");
    }
    let refused = Error::IOError { err: std::io::ErrorKind::ConnectionRefused.into() };
    assert!(
        matches!(of_client("h", refused), BuildError::Infrastructure(r) if r == "the docker engine at h cannot be reached: connection refused")
    );
}
