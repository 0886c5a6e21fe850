# shellcheck shell=bash
# How the scripts speak, where things are, and how they become root.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck disable=SC2034
target=${CARGO_TARGET_DIR:-$root/target}
# Daemons and their tools: Debian leaves these folders out of an ordinary user's path.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

bold='' red='' green='' dim='' plain=''
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' dim=$'\e[2m' plain=$'\e[0m'
fi

heading() { printf '%s==> %s%s\n' "$bold" "$*" "$plain"; }
say() { printf '    %s\n' "$*"; }
good() { printf '    %s%s%s\n' "$green" "$*" "$plain"; }
quiet() { printf '    %s%s%s\n' "$dim" "$*" "$plain"; }

# fail WHAT [REMEDY...]: ends the script.
fail() {
    printf '%serror:%s %s\n' "$red" "$plain" "$1" >&2
    shift
    if (($#)); then printf '       %s\n' "$@" >&2; fi
    exit 1
}

# as_root COMMAND...: by sudo, unless we are root already.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "this needs root: $*" "Run it as root, or install sudo."
    fi
}

# The milliseconds since START, which was $EPOCHREALTIME.
milliseconds_since() {
    local now=$EPOCHREALTIME
    echo $(((${now/[.,]/} - ${1/[.,]/}) / 1000))
}

# 8340 as "8.3 s".
seconds() { printf '%d.%d s' $(($1 / 1000)) $(($1 % 1000 / 100)); }
