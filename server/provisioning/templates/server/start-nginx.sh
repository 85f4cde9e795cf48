#!/bin/sh
# The public door: TLS on port {{ nginx_port }}, and only what a hospital's SuperNode needs.
set -eu
cd "$(dirname "$0")/nginx"
mkdir -p logs temp
exec nginx -p "$PWD/" -c "$PWD/nginx.conf" -g 'daemon off;'
