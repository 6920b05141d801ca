#!/usr/bin/env bash
# Fetches Debian's promtool, without installing anything, unless it is there, and prints where it is.
#
#   scripts/promtool.sh           needs apt-get (Debian, Ubuntu); 20 MB
#   scripts/promtool.sh --find    fetches nothing; exit 1 with one line when it is missing
#
# A promtool in PATH is taken first.
set -euo pipefail
if command -v promtool; then exit 0; fi
folder=${XDG_CACHE_HOME:-$HOME/.cache}/marlin/prometheus
promtool=$folder/usr/bin/promtool
if [ -x "$promtool" ]; then
    echo "$promtool"
    exit 0
fi
if [ "${1:-}" = --find ] || ! command -v apt-get >/dev/null; then
    echo "promtool: not there; run: make promtool (Debian), or install Prometheus" >&2
    exit 1
fi
draft=$(mktemp -d)
trap 'rm -rf "$draft"' EXIT
cd "$draft"
apt-get download -q prometheus >&2
dpkg -x prometheus_*.deb tree
mkdir -p "$(dirname "$folder")"
rm -rf "$folder"
mv tree "$folder"
echo "$promtool"
