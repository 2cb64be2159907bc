#!/usr/bin/env bash
# A route put into etcd reaches a real Envoy: etcd, the server, two upstreams and Envoy on free ports, for a minute.
#
# `make demo` builds, fetches what is missing and runs this. KEEP=1 leaves everything running until ctrl-c. No process
# and no file of it is left behind.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
server=${CARGO_TARGET_DIR:-$root/target}/debug/chancery
export PATH="$root/.tools/bin:$PATH"

work=$(mktemp -d "${TMPDIR:-/tmp}/chancery-demo.XXXXXX")
pids=()

finish() {
    trap - EXIT INT TERM HUP
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    # Whoever does not go when asked, goes anyway.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        jobs -r | grep -q . || break
        sleep 0.2
    done
    for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi

step=0
say() { step=$((step + 1)); printf '\n%s%d. %s%s\n' "$bold" "$step" "$*" "$plain"; }
# Paths of the repository are shown from its root, those of the demo's own folder as $DEMO.
show() {
    shown=${*//"$root/"/}
    printf '%s$ %s%s\n' "$dim" "${shown//"$work"/\$DEMO}" "$plain"
}
run() { show "$1"; eval "$1" | sed 's/^/  /'; }
fail() { printf '\ndemo: %s\n' "$1" >&2; [ -z "${2:-}" ] || tail -n 20 "$2" >&2; exit 1; }

# start NAME COMMAND...: in the background, its output in a log.
start() {
    name=$1
    shift
    show "$*"
    # Its own session: ctrl-c reaches this script, which ends the rest in order.
    setsid "$@" >"$work/$name.log" 2>&1 &
    pids+=("$!")
}

# until_answers NAME URL: wait for a process that was started.
until_answers() {
    for _ in $(seq 100); do
        if curl -sf -o /dev/null "$2"; then return; fi
        sleep 0.1
    done
    fail "$1 does not answer at $2; its log ends with:" "$work/$1.log"
}

# until_said TEXT URL: wait until a response contains it, and say how long that took.
until_said() {
    began=$(date +%s%N)
    for _ in $(seq 500); do
        if curl -s "$2" | grep -q "$1"; then
            printf '  %s(live %d ms after etcdctl returned, curl included)%s\n' \
                "$dim" $((($(date +%s%N) - began) / 1000000)) "$plain"
            return
        fi
        sleep 0.01
    done
    fail "$2 does not say '$1'; the server's log ends with:" "$work/server.log"
}

for tool in curl python3 etcd etcdctl envoy setsid; do
    command -v $tool >/dev/null || fail "$tool is missing: run 'make tools', or install it."
done
[ -x "$server" ] || fail "$server is missing: run 'cargo build'."

# The usual ports where they are free, else any.
read -r etcd_port peer_port blue_port green_port listener_port xds_port admin_port envoy_port < <(python3 - <<'PYTHON'
import socket

held = []
for wanted in (0, 0, 8081, 8082, 10000, 18000, 18001, 9901):
    held.append(socket.socket())
    held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held[-1].bind(("127.0.0.1", wanted))
    except OSError:
        held[-1].bind(("127.0.0.1", 0))
print(*(port.getsockname()[1] for port in held))
PYTHON
)
export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=http://127.0.0.1:$etcd_port
admin=http://127.0.0.1:$admin_port
door=http://127.0.0.1:$listener_port

say "Start etcd, with a listener for Envoy in it; then the server, two upstreams and Envoy"
start etcd etcd --data-dir "$work/etcd" --log-level warn \
    --listen-client-urls "$ETCDCTL_ENDPOINTS" --advertise-client-urls "$ETCDCTL_ENDPOINTS" \
    --listen-peer-urls "http://127.0.0.1:$peer_port" --initial-advertise-peer-urls "http://127.0.0.1:$peer_port" \
    --initial-cluster "default=http://127.0.0.1:$peer_port"
until_answers etcd "$ETCDCTL_ENDPOINTS/health"
run "etcdctl put /gateway/listeners/edge '{ \"address\": \"127.0.0.1:$listener_port\" }'"
start server "$server" serve --etcd "$ETCDCTL_ENDPOINTS" --state-dir "$work/state" --grace 2s \
    --xds-listen "127.0.0.1:$xds_port" --admin-listen "127.0.0.1:$admin_port"
start blue python3 "$here/upstream.py" blue "$blue_port"
start green python3 "$here/upstream.py" green "$green_port"
sed -e "s/port_value: 18000/port_value: $xds_port/" -e "s/port_value: 9901/port_value: $envoy_port/" \
    "$root/envoy-config/ads-delta.yaml" >"$work/envoy.yaml"
start envoy envoy -c "$work/envoy.yaml" --service-node edge-1 --service-cluster edge --disable-hot-restart --log-level warn
until_answers server "$admin/readyz"
until_answers envoy "http://127.0.0.1:$envoy_port/ready"
until_answers blue "http://127.0.0.1:$blue_port/"
until_answers green "http://127.0.0.1:$green_port/"

say "Put two clusters and a route into etcd"
run "etcdctl put /gateway/clusters/blue '{ \"endpoints\": [{ \"address\": \"127.0.0.1:$blue_port\" }] }'"
run "etcdctl put /gateway/clusters/green '{ \"endpoints\": [{ \"address\": \"127.0.0.1:$green_port\" }] }'"
run "etcdctl put /gateway/routes/hello '{ \"match\": \"/hello\", \"to\": \"blue\", \"timeout\": \"5s\" }'"
until_said "blue answers" "$door/hello"
run "curl -s $door/hello"

say "Change the route"
run "etcdctl put /gateway/routes/hello '{ \"match\": \"/hello\", \"to\": \"green\", \"timeout\": \"5s\" }'"
until_said "green answers" "$door/hello"
run "curl -s $door/hello"

say "Make a mistake: the last good text keeps serving, and the reason is told"
run "etcdctl put /gateway/routes/hello '{ \"match\": \"/hello\", \"too\": \"blue\" }'"
sleep 0.3
run "curl -s '$admin/api/v1/documents?state=rejected' | python3 $here/brief.py documents"
run "curl -s $door/hello"

say "Look at it: what is served, and who has it"
run "curl -s $admin/api/v1/snapshot | python3 $here/brief.py snapshot"
run "curl -s $admin/api/v1/clients | python3 $here/brief.py clients"

say "Go on"
if [ "${KEEP:-}" ] && [ "$KEEP" != 0 ]; then
    cat <<TEXT
  Everything keeps running until ctrl-c. In another shell:
    export PATH=$root/.tools/bin:\$PATH ETCDCTL_API=3 ETCDCTL_ENDPOINTS=$ETCDCTL_ENDPOINTS
    etcdctl put /gateway/routes/tea '{ "match": "GET /tea", "to": { "respond": { "status": 418 } } }'
    curl -i $door/tea
    curl $admin/api/v1/documents
  Logs: $work
TEXT
    wait "${pids[1]}" || true
    fail "the server has ended; its log ends with:" "$work/server.log"
fi
cat <<TEXT
  make demo KEEP=1        the same, and keep it running to play with
  cargo run -- serve      the server alone: documents in ./gateway, no etcd
  README.md               your own Envoy, your own etcd
TEXT
