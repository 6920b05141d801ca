#!/usr/bin/env bash
# The CustomResourceDefinitions of the Gateway API (standard channel) and of its inference extension, at the versions of
# tests/controlplane/gateway-api/go.mod: fetched into Go's module cache where they are not there; their folders are
# printed, a line each.
#
#   scripts/gateway_kinds.sh           seconds; needs Go and the Go module proxy
#   scripts/gateway_kinds.sh --find    fetches nothing; exit 1 with one line when they are missing
#
# MARLIN_GATEWAY_KINDS names a folder to take instead, with the files of both.
set -euo pipefail
cd "$(dirname "$0")/../tests/controlplane/gateway-api"
if [ -n "${MARLIN_GATEWAY_KINDS:-}" ]; then echo "$MARLIN_GATEWAY_KINDS"; exit 0; fi
go=$(command -v go || true)
[ -z "$go" ] && [ -x /usr/local/go/bin/go ] && go=/usr/local/go/bin/go
[ -n "$go" ] || { echo "gateway-kinds: not there; Go is needed: https://go.dev/dl, or set MARLIN_GATEWAY_KINDS" >&2; exit 1; }
if [ "${1:-}" = --find ]; then
    # Without the proxy Go says only what it has.
    export GOPROXY=off GOFLAGS=-mod=mod
fi
for kinds in gateway-api:config/crd/standard gateway-api-inference-extension:config/crd/bases; do
    folder=$("$go" mod download -json "sigs.k8s.io/${kinds%%:*}" 2>/dev/null | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
    if [ -z "$folder" ] || [ ! -d "$folder/${kinds#*:}" ]; then
        echo "gateway-kinds: not there; run: make gateway-kinds (needs Go, seconds)" >&2
        exit 1
    fi
    echo "$folder/${kinds#*:}"
done
