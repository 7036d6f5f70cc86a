# shellcheck shell=bash
# Shared by the scripts here: messages, timed steps, and which compose there is. Sourced, never run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=$(basename "$0")
cache=${RMQ_CACHE:-$root/.cache}
[[ $cache == /* ]] || cache=$PWD/$cache
export RMQ_CACHE=$cache # for the scripts that this one calls from elsewhere
# shellcheck disable=SC2034 # for the scripts that source this
labelled=rmq-entrypoint.inputs # the image label that holds a hash of what the image was made from

say() { printf '%s\n' "$*" >&2; }
die() {
    printf '%s: %s\n' "$program" "$*" >&2
    exit 1
}
elapsed() { printf '%dm%02ds' $(((SECONDS - $1) / 60)) $(((SECONDS - $1) % 60)); }

# usage prints the comment block at the top of the calling script.
# It reads the script by where that is: some are elsewhere by then.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$root/scripts/$program"; }

need_docker() {
    local said
    said=$(docker info 2>&1) || die "docker does not answer: $(grep -i -m 1 -E 'error|cannot|denied|not found' <<<"$said" || echo 'install it, start it')"
}

# compose runs Compose on the project's file: v2 where there is one, docker-compose 1.29 otherwise.
compose() {
    local project
    project=$(setting COMPOSE_PROJECT_NAME) # of a file that Compose may not have
    if docker compose version >/dev/null 2>&1; then
        (cd "$root/compose" && docker compose -p "$project" "$@")
    else
        (cd "$root/compose" && docker-compose -p "$project" "$@")
    fi
}
have_compose() { docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null; }

# docker_installed installs Docker and Compose, of them what is missing: a Docker of another archive would have to give way.
docker_installed() {
    local packages=()
    command -v dockerd >/dev/null || packages+=(docker.io)
    have_compose || packages+=(docker-compose)
    ((${#packages[@]})) || return 0
    apt-get update -q
    # Since Debian 13 the command line is a package of its own.
    if ! command -v docker >/dev/null && apt-cache show docker-cli >/dev/null 2>&1; then packages+=(docker-cli); fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}"
}

# docker_started starts the daemon, where neither its package nor an init did. It gets a session of its own: it outlives
# this script, as the next run needs it too.
docker_started() {
    local i log=$cache/log/dockerd.log
    ! docker info >/dev/null 2>&1 || return 0
    if [[ -d /run/systemd/system ]] && systemctl start docker && docker info >/dev/null 2>&1; then return; fi
    setsid dockerd >"$log" 2>&1 </dev/null &
    for ((i = 0; i < 120; i++)); do
        docker info >/dev/null 2>&1 && return
        sleep 0.5
    done
    tail -n 20 "$log" && return 1
}

# docker_missing prints what of Docker is missing here, one a line. That the daemon refuses this user is not its absence.
docker_missing() {
    local said
    command -v docker >/dev/null || echo 'Docker'
    have_compose || echo "Compose: neither 'docker compose' nor docker-compose is here"
    if command -v docker >/dev/null && ! said=$(docker info 2>&1) && ! grep -qi 'denied' <<<"$said"; then
        echo "Docker's daemon: $(grep -i -m 1 -E 'error|cannot|not found' <<<"$said" || echo 'docker does not answer')"
    fi
}

# need_compose ends the script where Docker or Compose is missing, and says how they come. With its argument, on Debian, as
# root, they come first.
need_compose() {
    local missing
    mapfile -t missing < <(docker_missing)
    if [[ -n ${1:-} ]] && ((${#missing[@]})); then
        if (($(id -u) == 0)) && command -v apt-get >/dev/null; then
            step 'install Docker' docker_installed
            step 'start Docker' docker_started
            mapfile -t missing < <(docker_missing)
        else
            say "$program: $1 takes root, and Debian's apt-get"
        fi
    fi
    if ((${#missing[@]})); then
        say "$program: missing is"
        printf '  - %s\n' "${missing[@]}" >&2
        say "On Debian, root does this, or has $program --install do it:"
        say '  apt-get update && apt-get install -y docker.io docker-compose'
        say '  systemctl start docker    # without systemd: setsid dockerd >/var/log/dockerd.log 2>&1 </dev/null &'
        exit 1
    fi
    need_docker
}

# setting NAME prints a variable as Compose sees it: the environment first, then compose/.env, and what that begins as.
setting() {
    local file
    if [[ -n ${!1:-} ]]; then
        printf '%s\n' "${!1}"
        return
    fi
    for file in .env example.env; do
        if [[ -e $root/compose/$file ]] && grep -q "^$1=" "$root/compose/$file"; then
            sed -n "s/^$1=//p" "$root/compose/$file" | tail -n 1
            return
        fi
    done
}

# --- secrets

# shellcheck disable=SC2034 # for the scripts that source this
nodes_of_compose=(rabbitmq1 rabbitmq2 rabbitmq3 rabbitmq4 rabbitmq5)

# example_secrets makes compose/.env, with a cookie and a user that nobody else has, or adds them to one that lacks them.
# It is nobody else's to read, whoever made it. Of two scripts that make it at once, the first one's stays.
secret_settings=(RABBITMQ_ERLANG_COOKIE RABBITMQ_DEFAULT_USER RABBITMQ_DEFAULT_PASS)
example_secrets() {
    local file=$root/compose/.env from=$root/compose/example.env new name value missing=()
    new=$file.new-$$
    [[ ! -e $file ]] || from=$file # looked at before what it holds: another script may make it meanwhile
    for name in "${secret_settings[@]}"; do
        [[ -n $(setting "$name") ]] || missing+=("$name")
    done
    if ((!${#missing[@]})); then
        close_env "$file"
        return
    fi
    rm -f "$new"
    # The redirection is within: a file is made with the umask of who opens it.
    (
        umask 077
        {
            cat "$from"
            printf '\n# Made by %s; whoever knows the cookie or the password controls the cluster.\n' "$program"
            for name in "${missing[@]}"; do
                value='admin'
                [[ $name == *_USER ]] || value=$(head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n')
                printf '%s=%s\n' "$name" "$value"
            done
        } >"$new"
    )
    if [[ $from == "$file" ]]; then mv "$new" "$file"; else ln "$new" "$file" 2>/dev/null || true; fi
    rm -f "$new"
    say "$program: made ${missing[*]}, in compose/.env"
}

# close_env keeps others from reading a compose/.env with secrets that its user wrote, or copied.
close_env() {
    local file=$1 mode
    [[ -e $file ]] && grep -qE "^($(IFS='|' && echo "${secret_settings[*]}"))=." "$file" || return 0
    mode=$(stat -L -c %a "$file")
    [[ $mode == *00 ]] && return
    if chmod 600 "$file" 2>/dev/null; then
        say "$program: compose/.env could be read by others (mode $mode), with the secrets in it: it is its owner's alone now (600)"
    else
        say "$program: compose/.env can be read by others (mode $mode), with the secrets in it: have its owner run chmod 600 $file"
    fi
}

# secrets_dir prints the directory of secrets, as an absolute path.
secrets_dir() {
    local dir=${RMQ_SECRETS:-$root/compose/secrets}
    [[ $dir == /* ]] || dir=$PWD/$dir
    printf '%s\n' "$dir"
}

# secure_project has Compose, and the functions here, go by compose/secure.yml, in a project of its own: neither its data
# nor its secrets are the plain example's.
secure_project() {
    COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-rmq-entrypoint-secure} COMPOSE_FILE=${COMPOSE_FILE:-secure.yml}
    RMQ_SECRETS=$(secrets_dir)
    export COMPOSE_PROJECT_NAME COMPOSE_FILE RMQ_SECRETS
}

# given IMAGE USER SERVICE… gives secrets to the user of a container, and to root there, who has no right over others'
# files: nobody else in it can read them, and on this host nobody enters their directory.
given() {
    local image=$1 user=$2 service mounts=()
    shift 2
    for service; do mounts+=(-v "$RMQ_SECRETS/$service:/secrets/$service"); done
    # shellcheck disable=SC2016 # expanded in the container
    docker run --rm --network none --user 0 --cap-drop ALL --cap-add CHOWN --cap-add FOWNER --security-opt no-new-privileges \
        "${mounts[@]}" --entrypoint sh "$image" -euc '
            for file in /secrets/*/*; do
                case $file in
                */ca.pem | */cert.pem) ;;
                *) chmod 0440 "$file" && chown "$0:0" "$file" ;;
                esac
            done' "$user"
}

# secure COMMAND… makes certificates and secrets, with Go's own library.
secure() {
    secure_built
    "$cache/bin/secure" "$@"
}
secure_built() { built secure; }

# built NAME makes the Go program of scripts/NAME, as NAME in the cache.
built() {
    command -v go >/dev/null || die 'go is missing: install the version that go.mod names, or a newer one'
    mkdir -p "$cache/bin"
    (cd "$root" && CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$cache/bin/$1" "./scripts/$1")
}

# container SERVICE [OPTION…] prints the name of the project's container for a service.
container() {
    docker ps --format '{{.Names}}' --filter "label=com.docker.compose.project=$(setting COMPOSE_PROJECT_NAME)" \
        --filter "label=com.docker.compose.service=$1" --filter label=com.docker.compose.oneoff=False "${@:2}" | head -n 1
}

# balanced prints how many nodes the balancer gives AMQP connections to, as its statistics page tells.
balanced() {
    {
        exec 3<>"/dev/tcp/127.0.0.1/$(setting HAPROXY_STATS_PORT)" &&
            printf 'GET /;csv HTTP/1.0\r\n\r\n' >&3 && cat <&3
    } 2>/dev/null | awk -F, '$1 == "amqp" && $2 != "FRONTEND" && $2 != "BACKEND" && $18 ~ /^UP/ { n++ } END { print n + 0 }' || true
}

# Steps run in the background, each in a process group and with a log of its own, so that several can go on at once,
# progress can be told meanwhile, and an interruption stops them all.
declare -A step_pid=() step_began=()
trap 'stop_steps' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

stop_steps() {
    local name
    for name in "${!step_pid[@]}"; do kill -TERM -- "-${step_pid[$name]}" 2>/dev/null || true; done
}

# start NAME COMMAND… begins a step.
start() {
    local name=$1
    shift
    mkdir -p "$cache/log"
    say "  $name …"
    set -m
    (
        set -e
        "$@"
    ) >"$cache/log/${name// /-}.log" 2>&1 </dev/null &
    set +m
    step_pid[$name]=$! step_began[$name]=$SECONDS
}

# finish NAME waits for a step, telling every ten seconds what is still going on; a failed one ends the script.
finish() {
    local name=$1 log=$cache/log/${1// /-}.log other told=$SECONDS
    while kill -0 "${step_pid[$name]}" 2>/dev/null; do
        sleep 0.2
        if ((SECONDS - told >= 10)); then
            told=$SECONDS
            for other in "${!step_pid[@]}"; do
                say "  $other … $(elapsed "${step_began[$other]}")  $(tail -n 1 "$cache/log/${other// /-}.log" | cut -c 1-80)"
            done
        fi
    done
    if wait "${step_pid[$name]}"; then
        say "  $name: done in $(elapsed "${step_began[$name]}")"
        unset "step_pid[$name]"
    else
        unset "step_pid[$name]"
        say "--- the end of $log"
        tail -n 25 "$log" >&2
        die "$name failed; run $program again once it is mended, finished steps are kept"
    fi
}

# step NAME COMMAND… is one step from start to end.
step() {
    start "$@"
    finish "$1"
}
