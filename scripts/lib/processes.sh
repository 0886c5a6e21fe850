# shellcheck shell=bash
# Processes that outlive a command: each is known by a file with its id and the time it was started at,
# because ids are used again.

# The time at which a running process was started, in clock ticks since boot.
started_at() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The second field, the command's name in parentheses, may hold blanks. The third is the state, Z for
    # one that has ended and waits for its parent; the 22nd is the start time.
    # shellcheck disable=SC2086
    set -- ${stat##*) }
    [[ $1 != Z ]] && echo "${20}"
}

# note_process FILE PID
note_process() { echo "$2 $(started_at "$2")" >"$1"; }

# is_running FILE
is_running() {
    local pid ticks
    { read -r pid ticks <"$1"; } 2>/dev/null && [[ $(started_at "$pid") == "$ticks" ]]
}

# end_process FILE SECONDS [as_root]: asks the process to end, waits for it, and removes FILE.
end_process() {
    local file=$1 limit=$2 pid start=$EPOCHREALTIME
    if is_running "$file"; then
        read -r pid _ <"$file"
        ${3:-} kill -TERM "$pid" || true
        while is_running "$file"; do
            (($(milliseconds_since "$start") < limit * 1000)) || fail "process $pid ($file) does not end"
            sleep 0.05
        done
    fi
    rm -f "$file"
}
