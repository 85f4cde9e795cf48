#!/bin/sh
# Keep this hospital connected to the federation, until Ctrl-C. From the start of the machine on: systemd.
set -eu
cd "$(dirname "$0")"
. ./environment.sh
umask 077
child=
trap 'kill "$child" 2>/dev/null || true; wait; exit 130' INT TERM
while :; do
    medvlmoe supernode site.yaml &
    child=$!
    code=0
    wait "$child" || code=$?
    [ "$code" != 2 ] || exit 2 # a mistake in site.yaml, told above
    # A SuperNode ends when the SuperLink starts anew, and cannot come back within a minute after a hard kill.
    echo "the SuperNode ended; connecting again in 10 s" >&2
    sleep 10 &
    child=$!
    wait "$child"
done
