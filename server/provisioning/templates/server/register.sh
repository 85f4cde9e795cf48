#!/bin/sh
# Make the SuperLink's list of hospitals that of hospitals/*.pub. May be run at any time.
set -eu
cd "$(dirname "$0")"
. ./environment.sh
exec medvlmoe register {{ name }} hospitals
