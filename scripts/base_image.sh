#!/usr/bin/env bash
# Makes a base image out of Debian packages, for where no registry can be reached: Python 3.11 with its standard library,
# libstdc++ (NumPy links to it), certificates; no shell, no package manager.
#
#   scripts/base_image.sh [NAME]      default marlin/base:bookworm; then BASE=NAME make images
#
# Needs mmdebstrap (apt-get install mmdebstrap), root or user namespaces, docker. Packages come from the first Debian
# mirror of this machine's sources; MIRROR names another.
set -euo pipefail
name=${1:-marlin/base:bookworm}
for program in mmdebstrap docker; do
    command -v "$program" >/dev/null || { echo "base_image: $program is needed" >&2; exit 1; }
done
mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n1)}
draft=$(mktemp -d)
trap 'rm -rf "$draft"' EXIT
# `extract` unpacks packages without running anything of theirs; the bundle of certificates is what ca-certificates'
# own script would make.
mmdebstrap --quiet --variant=extract --components=main \
    --include=python3-minimal,libpython3-stdlib,libstdc++6,ca-certificates,netbase,media-types \
    --aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --extract-hook='cat "$1"/usr/share/ca-certificates/mozilla/*.crt >"$1"/etc/ssl/certs/ca-certificates.crt' \
    --extract-hook='mkdir -p "$1/usr/lib/ssl" && ln -sf /etc/ssl/certs/ca-certificates.crt "$1/usr/lib/ssl/cert.pem"' \
    --extract-hook='mkdir -p "$1/tmp" && chmod 1777 "$1/tmp"' \
    bookworm "$draft/root.tar" "$mirror" --format=tar
docker import "$draft/root.tar" "$name" >/dev/null
echo "[base] $name: $(($(docker image inspect --format '{{.Size}}' "$name") / 1000000)) MB"
