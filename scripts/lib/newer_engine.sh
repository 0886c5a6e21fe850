# shellcheck shell=bash
# A newer Docker engine than this machine's, for the tests: the one of Debian 13, in a directory of its own, which the
# tests run in namespaces of theirs (tests/integration/support/engine.rs). It keeps its images otherwise than Docker 20.10
# does, and in containerd where it is told to.

newer_engine=/var/cache/buildgrid-test/debian-13

ensure_newer_engine() {
    [[ -e $newer_engine/complete ]] && return
    heading "Fetching a newer Docker engine, of Debian 13, into $newer_engine"
    local log=$services/debian-13.log start=$EPOCHREALTIME
    mkdir -p "$services"
    as_root rm -rf "$newer_engine"
    as_root mkdir -p "$newer_engine"
    if ! as_root debootstrap --variant=minbase --include=docker.io trixie "$newer_engine" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "debootstrap could not install Debian 13's docker.io" "The whole story is in $log."
    fi
    as_root rm -rf "$newer_engine"/var/cache/apt/archives/*.deb "$newer_engine"/var/lib/apt/lists/*
    as_root touch "$newer_engine/complete"
    quiet "installed in $(seconds "$(milliseconds_since "$start")")"
}
