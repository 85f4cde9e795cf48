#!/bin/sh
# Starts the ServerApp of each run as a process of its own, which outlives a restart of the SuperLink.
# Runs write to runs/ in this folder.
set -eu
cd "$(dirname "$0")"
. ./environment.sh
umask 077
exec flower-superexec --runtime-api-address 127.0.0.1:{{ superlink.port }} --root-certificates ca.crt \
    --superexec-auth-secret-file superexec.secret
