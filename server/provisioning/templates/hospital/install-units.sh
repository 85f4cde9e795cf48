#!/bin/sh
# As root: ./install-units.sh ACCOUNT [FOLDER]: write the systemd units (default folder: /etc/systemd/system).
# Run it with the PATH on which `medvlmoe` is found; the units get the same PATH.
set -eu
cd "$(dirname "$0")"
account=${1:?say which account runs the services: ./install-units.sh ACCOUNT}
folder=${2:-/etc/systemd/system}
case "$PWD" in *[[:space:]%\|\&\\]*) echo "move the kit to a folder without blanks and special characters" >&2; exit 2 ;; esac
for unit in systemd/*.service; do
    sed -e "s|@KIT@|$PWD|g" -e "s|@ACCOUNT@|$account|g" -e "s|@PATH@|$PATH|g" "$unit" > "$folder/${unit#systemd/}"
    echo "$folder/${unit#systemd/}"
done
echo "next: chown -R $account $PWD; systemctl daemon-reload; systemctl enable --now$(cd systemd && printf ' %s' *.service)"
