# shellcheck shell=bash
# Starting, watching and stopping the services that the project needs. What counts is whether a service
# answers: a pid file or a socket may be left over from one that was killed.

services=$target/services

booted_with_systemd() { [[ -d /run/systemd/system ]]; }

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
    note_process "$services/$name.pid" "$pid"
}

# start_units NAME UNIT...: starts units by systemd and notes that it was us.
start_units() {
    local name=$1
    shift
    mkdir -p "$services"
    printf '%s\n' "$@" >"$services/$name.units"
    as_root systemctl start "$@"
}

# await NAME SECONDS CHECK: waits until CHECK succeeds; says why not when it does not.
await() {
    local name=$1 limit=$2 check=$3 start=$EPOCHREALTIME
    until "$check"; do
        if [[ -e $services/$name.pid ]] && ! is_running "$services/$name.pid"; then
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
    if [[ -e $services/$1.units ]]; then
        as_root journalctl --no-pager --lines=20 --unit="$(head -n 1 "$services/$1.units")" >&2 || true
    else
        say "the last lines of $services/$1.log:" >&2
        tail -n 20 "$services/$1.log" >&2 || true
    fi
}

# stop NAME: ends the service if we started it.
stop() {
    local pid=$services/$1.pid units
    if [[ -e $services/$1.units ]]; then
        mapfile -t units <"$services/$1.units"
        as_root systemctl stop "${units[@]}"
    elif is_running "$pid"; then
        end_process "$pid" 60 as_root
    else
        rm -f "$pid"
        return 1
    fi
    rm -f "$services/$1.units"
    say "$1 is stopped"
}
