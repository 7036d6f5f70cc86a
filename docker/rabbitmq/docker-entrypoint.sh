#!/bin/bash
# Does for the stand-ins what the official image's entrypoint does there: nodes started by it can move to rmq-entrypoint.
set -euo pipefail

data=/var/lib/rabbitmq

# Root owns nothing of the server: hand over the data, then run this script again as rabbitmq.
if [[ ${1:-} == rabbitmq* && $(id -u) == 0 ]]; then
    if [[ $1 == rabbitmq-server ]]; then
        find "$data" ! -user rabbitmq -exec chown rabbitmq {} +
    fi
    exec gosu rabbitmq "$0" "$@"
fi

# Variables that the official image stopped reading; it refuses to start rather than ignore them.
deprecated=()
for name in RABBITMQ_DEFAULT_PASS_FILE RABBITMQ_DEFAULT_USER_FILE RABBITMQ_VM_MEMORY_HIGH_WATERMARK \
    RABBITMQ_{,MANAGEMENT_}SSL_{CACERTFILE,CERTFILE,DEPTH,FAIL_IF_NO_PEER_CERT,KEYFILE,VERIFY}; do
    if [[ -n ${!name:-} ]]; then deprecated+=("$name"); fi
done
if ((${#deprecated[@]})); then
    printf 'error: %s is set but deprecated\n' "${deprecated[@]}" >&2
    echo 'error: use a configuration file instead' >&2
    exit 1
fi

# Set, not exported: a variable that was not in the environment stays this script's own.
if [[ $(hostname) != "$(hostname -s)" ]]; then
    : "${RABBITMQ_USE_LONGNAME:=true}"
fi

if [[ -n ${RABBITMQ_ERLANG_COOKIE:-} ]]; then
    cookie=$data/.erlang.cookie
    if [[ ! -e $cookie ]]; then
        (umask 177 && printf '%s\n' "$RABBITMQ_ERLANG_COOKIE" >"$cookie")
    elif [[ $(<"$cookie") != "$RABBITMQ_ERLANG_COOKIE" ]]; then
        echo "warning: $cookie does not match RABBITMQ_ERLANG_COOKIE" >&2
    fi
fi

exec "$@"
