# shellcheck shell=bash
# Starting, watching and stopping the services that the project needs. What counts is whether a service
# answers: a pid file or a socket may be left over from one that was killed.

services=$target/services

booted_with_systemd() { [[ -d /run/systemd/system ]]; }

# The time at which a running process was started, in clock ticks since boot: with its id, it names the
# process for good, because ids are used again.
started_at() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The second field, the command's name in parentheses, may hold blanks. The third is the state, Z for
    # one that has ended and waits for its parent; the 22nd is the start time.
    # shellcheck disable=SC2086
    set -- ${stat##*) }
    [[ $1 != Z ]] && echo "${20}"
}

# is_alive NAME: the process that `detach NAME` started still runs.
is_alive() {
    local pid ticks
    { read -r pid ticks <"$services/$1.pid"; } 2>/dev/null && [[ $(started_at "$pid") == "$ticks" ]]
}

# detach NAME COMMAND...: starts COMMAND as root in a session of its own, so that it outlives the script,
# and notes its id in NAME.pid and what it says in NAME.log.
detach() {
    local name=$1 pid
    shift
    mkdir -p "$services"
    rm -f "$services/$name.log"
    # shellcheck disable=SC2016
    pid=$(as_root sh -c 'log=$1; shift; setsid "$@" >"$log" 2>&1 </dev/null & echo $!' sh \
        "$services/$name.log" "$@")
    echo "$pid $(started_at "$pid")" >"$services/$name.pid"
}

# start_unit NAME UNIT: starts UNIT by systemd and notes that it was us.
start_unit() {
    mkdir -p "$services"
    echo "$2" >"$services/$1.unit"
    as_root systemctl start "$2"
}

# await NAME SECONDS CHECK: waits until CHECK succeeds; says why not when it does not.
await() {
    local name=$1 limit=$2 check=$3 start=$EPOCHREALTIME
    until "$check"; do
        if [[ -e $services/$name.pid ]] && ! is_alive "$name"; then
            last_words "$name"
            rm -f "$services/$name.pid"
            fail "$name ended instead of starting"
        fi
        if (($(milliseconds_since "$start") > limit * 1000)); then
            last_words "$name"
            fail "$name does not answer after $limit s"
        fi
        sleep 0.1
    done
    good "$name answers after $(seconds "$(milliseconds_since "$start")")"
}

last_words() {
    if [[ -e $services/$1.unit ]]; then
        as_root journalctl --no-pager -n 20 -u "$(<"$services/$1.unit")" >&2 || true
    else
        say "the last lines of $services/$1.log:" >&2
        tail -n 20 "$services/$1.log" >&2 || true
    fi
}

# stop NAME: ends the service if we started it.
stop() {
    local name=$1 pid start=$EPOCHREALTIME
    if [[ -e $services/$name.unit ]]; then
        as_root systemctl stop "$(<"$services/$name.unit")"
        rm -f "$services/$name.unit"
    elif is_alive "$name"; then
        read -r pid _ <"$services/$name.pid"
        as_root kill -TERM "$pid"
        while is_alive "$name"; do
            (($(milliseconds_since "$start") < 60000)) || fail "$name (process $pid) does not end"
            sleep 0.1
        done
    else
        rm -f "$services/$name.pid"
        return 1
    fi
    rm -f "$services/$name.pid"
    say "$name is stopped"
}
