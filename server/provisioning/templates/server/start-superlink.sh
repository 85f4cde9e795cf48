#!/bin/sh
# The SuperLink, on this machine's loopback address only: whoever reaches its port may start runs.
set -eu
cd "$(dirname "$0")"
. ./environment.sh
umask 077
# As soon as it answers: a SuperLink without database has forgotten the hospitals when it starts anew.
(./register.sh &)
exec flower-superlink --host 127.0.0.1 --port {{ superlink.port }} \
    --ssl-ca-certfile ca.crt --ssl-certfile superlink.crt --ssl-keyfile superlink.key \
    --enable-supernode-auth \
    --isolation process --superexec-auth-secret-file superexec.secret \
{%- if superlink.database %}
    --database superlink.db \
{%- endif %}
{%- if superlink.health_port %}
    --health-server-address 127.0.0.1:{{ superlink.health_port }} \
{%- endif %}
    --disable-runtime-dependency-installation
