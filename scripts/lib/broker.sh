# shellcheck shell=bash
# RabbitMQ, on 127.0.0.1:5672.

broker_node=rabbit@localhost

# Says the protocol's first words and waits for the broker's: a port that is only open is not an answer.
broker_answers() {
    # shellcheck disable=SC2016
    [[ $(timeout 5 bash -c '
        exec 3<>/dev/tcp/127.0.0.1/5672
        printf "AMQP\0\0\11\1" >&3
        head -c 1 <&3' 2>/dev/null | od -An -tx1) == *01* ]]
}

# By systemd, the broker listens where Debian lets it: everywhere, though its only user, guest, may log in
# from this machine alone. By hand, the broker, its distribution port and the port mapper listen on loopback only, and the node is
# named after localhost: a host's own name often resolves to another address, or not at all.
start_broker() {
    heading "Starting RabbitMQ"
    if booted_with_systemd; then
        start_units rabbitmq rabbitmq-server.service
    else
        # The broker starts the port mapper unless one runs; whose it is decides who ends it.
        mkdir -p "$services"
        epmd -names &>/dev/null || touch "$services/epmd.ours"
        detach rabbitmq setpriv --reuid rabbitmq --regid rabbitmq --init-groups \
            env -C /var/lib/rabbitmq HOME=/var/lib/rabbitmq \
            RABBITMQ_NODENAME="$broker_node" \
            RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 \
            ERL_EPMD_ADDRESS=127.0.0.1 \
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
            RABBITMQ_LOGS=- \
            /usr/lib/rabbitmq/bin/rabbitmq-server
    fi
    await rabbitmq 90 broker_answers
}

stop_broker() {
    local status=0
    stop rabbitmq || status=1
    if [[ -e $services/epmd.ours ]]; then
        rm "$services/epmd.ours"
        as_root epmd -kill >/dev/null || true
    fi
    return "$status"
}

ensure_broker() { broker_answers || start_broker; }

# broker_ctl ARGUMENTS...: rabbitmqctl at the node that runs here: ours, or the one under the usual name,
# or one that another checkout's setup has started.
broker_ctl() {
    if is_running "$services/rabbitmq.pid"; then
        as_root rabbitmqctl -q -n "$broker_node" "$@"
    else
        as_root rabbitmqctl -q "$@" 2>/dev/null || as_root rabbitmqctl -q -n "$broker_node" "$@"
    fi
}

# Tells RabbitMQ's own tools which node runs here, where plain ones would not find it: those that the tests
# start know nothing of ours. For broker_ctl this would be a second too long.
export_broker_node() {
    if [[ ${RABBITMQ_NODENAME:-} ]]; then return; fi
    if is_running "$services/rabbitmq.pid" || ! as_root rabbitmqctl -q ping &>/dev/null; then
        export RABBITMQ_NODENAME=$broker_node
    fi
}

# make_vhost NAME: a virtual host that guest may use.
make_vhost() {
    broker_ctl add_vhost "$1"
    broker_ctl set_permissions --vhost "$1" guest '.*' '.*' '.*'
}
