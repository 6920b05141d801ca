#!/usr/bin/env bash
# Fetches Debian's nginx, without installing anything, unless it is there, and prints where it is.
#
#   scripts/nginx.sh           needs apt-get (Debian, Ubuntu); 1 MB
#   scripts/nginx.sh --find    fetches nothing; exit 1 with one line when it is missing
#
# An nginx in PATH is taken first.
set -euo pipefail
if command -v nginx; then exit 0; fi
folder=${XDG_CACHE_HOME:-$HOME/.cache}/marlin/nginx
nginx=$folder/usr/sbin/nginx
if [ -x "$nginx" ]; then
    echo "$nginx"
    exit 0
fi
if [ "${1:-}" = --find ] || ! command -v apt-get >/dev/null; then
    echo "nginx: not there; run: make nginx (Debian), or install nginx" >&2
    exit 1
fi
draft=$(mktemp -d)
trap 'rm -rf "$draft"' EXIT
cd "$draft"
apt-get download -q nginx >&2
dpkg -x nginx_*.deb tree
mkdir -p "$(dirname "$folder")"
rm -rf "$folder"
mv tree "$folder"
echo "$nginx"
