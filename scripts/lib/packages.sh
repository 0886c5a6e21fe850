# shellcheck shell=bash
# Debian's packages: which are missing, why they are needed, and how they get here.

missing=()

# need PACKAGE WHY TEST...: PACKAGE is missing unless the command TEST succeeds.
need() {
    local package=$1 why=$2
    shift 2
    if ! "$@" &>/dev/null; then
        missing+=("$package")
        reasons+=("$why")
    fi
}
reasons=()

has() { command -v "$1"; }

# A busybox that runs in an image without libraries.
has_static_busybox() {
    local busybox
    busybox=$(command -v busybox) && ! ldd "$busybox"
}

# A library lies in a folder that is called after the machine.
has_noto() { compgen -G '/usr/share/fonts/truetype/noto/NotoSans-Regular.ttf'; }

has_libfaketime() { compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1'; }

# A C compiler with the headers of the C library; the Rust build compiles AWS-LC, libgit2, zlib and zstd.
has_c_compiler() {
    command -v cc && echo '#include <stdlib.h>' | cc -E -
}

# What every build of BuildGrid needs.
need_rust() {
    if ! cargo --version &>/dev/null; then
        fail "cargo is not installed" "Install Rust as https://rustup.rs says; Cargo.toml names the oldest version."
    fi
    need ca-certificates "the certificates that cargo and BuildGrid check TLS servers with" \
        test -s /etc/ssl/certs/ca-certificates.crt
    need gcc "the C compiler and linker of the Rust build" has_c_compiler
    need libc6-dev "the C headers of the Rust build" has_c_compiler
}

# Installs what is missing, all at once.
install_missing() {
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null ||
        fail "these are missing, and this is not Debian: ${missing[*]}" "Install them by hand and try again."
    heading "Installing from Debian's packages"
    local i
    for i in "${!missing[@]}"; do say "$(printf '%-16s %s' "${missing[i]}" "${reasons[i]}")"; done
    local start=$EPOCHREALTIME log=$target/services/apt.log
    mkdir -p "$target/services"
    keep_services_from_starting
    # The lists may be absent (a fresh machine) or too old (a package has been replaced since).
    if ! { apt-cache show "${missing[@]}" &>/dev/null && apt_get install "${missing[@]}" >"$log" 2>&1; }; then
        quiet "reading the package lists"
        if ! { apt_get update && apt_get install "${missing[@]}"; } >"$log" 2>&1; then
            tail -n 20 "$log" >&2
            fail "apt-get could not install ${missing[*]}" "The whole story is in $log."
        fi
    fi
    let_services_start
    forget_unwanted_daemons
    quiet "installed in $(seconds "$(milliseconds_since "$start")")"
    missing=() reasons=()
}

# Of these only the program is wanted, which their packages would start at every boot.
forget_unwanted_daemons() {
    [[ -d /run/systemd/system ]] || return 0
    if [[ " ${missing[*]} " == *' docker-registry '* ]]; then
        as_root systemctl disable --quiet docker-registry.service
    fi
    if [[ " ${missing[*]} " == *' openssh-server '* ]]; then
        as_root systemctl disable --quiet ssh.service
    fi
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y --no-install-recommends -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120 "$@" </dev/null
}

# A package must not start its daemon: setup does, on loopback where it can, and only if none answers.
policy=/usr/sbin/policy-rc.d
policy_is_ours=''

keep_services_from_starting() {
    [[ -e $policy ]] && return
    policy_is_ours=yes
    trap let_services_start EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 0755 "$policy"
}

let_services_start() {
    [[ $policy_is_ours ]] || return 0
    policy_is_ours=''
    as_root rm -f "$policy"
}
