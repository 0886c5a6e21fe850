# shellcheck shell=bash
# The Docker engine of this machine, on its usual socket: git server, registries and broker listen on
# loopback, where an engine elsewhere would not find them.

engine_socket=/var/run/docker.sock
engine_host=unix://$engine_socket

engine_answers() { has_answered "$@" --unix-socket "$engine_socket" http://localhost/_ping; }

engine_answers_root() { engine_answers as_root; }

# has_answered [as_root] [CURL'S ARGUMENTS]
has_answered() {
    local -a by=()
    if [[ ${1:-} == as_root ]]; then by=(as_root) && shift; fi
    if command -v curl >/dev/null; then
        "${by[@]}" curl --silent --fail --max-time 5 --noproxy '*' "$@" &>/dev/null
    else
        "${by[@]}" docker version &>/dev/null
    fi
}

start_engine() {
    heading "Starting a Docker engine"
    if booted_with_systemd; then
        start_units docker docker.service docker.socket
    else
        clear_stale_engine
        mount_cgroups
        # As the package's unit does: as many open files as the kernel gives.
        # shellcheck disable=SC2016
        detach docker sh -c 'ulimit -n "$(ulimit -H -n)"; exec dockerd --host="$1" --config-file="$2"' sh \
            "$engine_host" "$(engine_config)"
    fi
    await docker 60 engine_answers_root
}

# This machine's own configuration, or one by which builds leave a cache of at most some gigabytes: an engine
# of its age prunes nothing by itself.
engine_config() {
    local config=/etc/docker/daemon.json
    if [[ ! -e $config ]]; then
        config=$services/daemon.json
        mkdir -p "$services"
        echo '{"builder": {"gc": {"enabled": true, "defaultKeepStorage": "8GB"}}}' >"$config"
    fi
    echo "$config"
}

# A killed dockerd leaves its pid file, and so does its containerd: when another process has been given
# the number since, neither starts again.
clear_stale_engine() {
    forget_pid /var/run/docker.pid dockerd
    forget_pid /var/run/docker/containerd/containerd.pid containerd
    as_root rm -f "$engine_socket"
}

# forget_pid FILE COMMAND: removes FILE unless the process it names is a COMMAND.
forget_pid() {
    local pid
    pid=$(as_root cat "$1" 2>/dev/null) || return 0
    [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$2" ]] || as_root rm -f "$1"
}

# Without an init that did it, the control groups may not be mounted, and no container starts.
mount_cgroups() {
    mountpoint -q /sys/fs/cgroup && return
    if awk '!/^#/ && $2 > 0 { used = 1 } END { exit !used }' /proc/cgroups; then
        as_root mount -t tmpfs -o mode=0755 cgroup /sys/fs/cgroup
        local controller enabled
        while read -r controller _ _ enabled; do
            [[ $enabled == 1 ]] || continue
            as_root mkdir "/sys/fs/cgroup/$controller"
            as_root mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller" ||
                as_root rmdir "/sys/fs/cgroup/$controller"
        done </proc/cgroups
    else
        as_root mount -t cgroup2 cgroup2 /sys/fs/cgroup
    fi
}

# The engine's socket belongs to root and the group docker, and a user put into that group now would be
# in it from the next login on.
open_engine_to_user() {
    need acl "lets $USER use the engine's socket" has setfacl
    install_missing
    as_root setfacl -m "u:$USER:rw" "$engine_socket"
    say "$USER may use $engine_socket until the engine restarts; for good: sudo usermod -aG docker $USER"
}

ensure_engine() {
    # The clients would go there, and everything else here.
    [[ ${DOCKER_HOST:-$engine_host} == "$engine_host" ]] ||
        fail "DOCKER_HOST is $DOCKER_HOST, but this uses the engine of this machine, at $engine_host" \
            "Unset DOCKER_HOST."
    engine_answers && return
    if ! { [[ -S $engine_socket ]] && engine_answers_root; }; then start_engine; fi
    if ! engine_answers; then open_engine_to_user; fi
    engine_answers || fail "the Docker engine at $engine_host does not answer $USER"
}
