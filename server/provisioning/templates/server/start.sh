#!/bin/sh
# The whole server in one terminal. Ends with Ctrl-C, or as soon as one of its parts ends. To keep it up: systemd.
set -eu
cd "$(dirname "$0")"
pids=
stop() {
    trap - EXIT INT TERM
    kill $pids 2>/dev/null || true
    wait
}
trap 'stop; exit 130' INT TERM
trap stop EXIT
for part in superlink superexec nginx; do
    # The door opens when the hospitals are known: one that knocks before is turned away.
    [ "$part" != nginx ] || ./register.sh
    "./start-$part.sh" &
    pids="$pids $!"
done
while :; do
    for pid in $pids; do
        kill -0 "$pid" 2>/dev/null || { echo "a part of the server ended; see above" >&2; exit 1; }
    done
    sleep 1
done
