#!/usr/bin/env bash
# Builds a program that a test runs, from the Go module proxy, unless it is built, and prints where it is.
#
#   scripts/go_tool.sh PROGRAM FOLDER MODULE PACKAGE [--find]
#
# FOLDER has the go.mod that pins MODULE. The program goes to the user's cache, in a folder named by the version and the
# hash of go.sum and of what Go there is in FOLDER, so that a second checkout finds it; --find builds nothing and fails with one line when it is missing.
# MARLIN_PROGRAM (MARLIN_HELM, MARLIN_KUBE_SCORE) names one to take instead; LDFLAGS are the linker's, @VERSION@ in them
# the version.
set -euo pipefail
program=$1 module=$3 package=$4
cd "$(dirname "$0")/../$2"

variable=MARLIN_$(tr a-z- A-Z_ <<<"$program")
if [ -n "${!variable:-}" ]; then
    [ -x "${!variable}" ] || { echo "$program: $variable=${!variable} is no program" >&2; exit 1; }
    echo "${!variable}"
    exit 0
fi
version=$(awk -v module="$module" '$1 == module || ($1 == "require" && $2 == module) { print ($1 == module ? $2 : $3); exit }' go.mod)
built=${XDG_CACHE_HOME:-$HOME/.cache}/marlin/$program/$version-$(shopt -s nullglob; cat go.sum ./*.go | sha256sum | cut -c1-16)/$program
if [ -x "$built" ]; then
    echo "$built"
    exit 0
fi
if [ "${5:-}" = --find ]; then
    echo "$program: not built; run: make $program (needs Go 1.26 or newer, some minutes)" >&2
    exit 1
fi
go=$(command -v go || true)
[ -z "$go" ] && [ -x /usr/local/go/bin/go ] && go=/usr/local/go/bin/go
if [ -z "$go" ]; then
    echo "$program: Go 1.26 or newer is needed: https://go.dev/dl, or set $variable" >&2
    exit 1
fi
echo "[$program] building $version" >&2
started=$SECONDS
mkdir -p "$(dirname "$built")"
# To a name of this process, then in one step: two builds at once do not spoil each other's result.
CGO_ENABLED=0 GOFLAGS=-buildvcs=false "$go" build -trimpath -ldflags "-s -w ${LDFLAGS//@VERSION@/$version}" \
    -o "$built.$$" "$package"
mv "$built.$$" "$built"
echo "[$program] took $((SECONDS - started)) s" >&2
echo "$built"
