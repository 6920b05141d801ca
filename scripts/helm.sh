#!/usr/bin/env bash
# Builds Helm, at the version of tests/controlplane/helm/go.mod, unless it is built, and prints where it is.
#
#   scripts/helm.sh           four minutes on two free, cold cores
#   scripts/helm.sh --find    builds nothing; exit 1 with one line when it is missing
#
# It goes to the user's cache, in a folder named by the hash of go.sum, so that a second checkout finds it. MARLIN_HELM
# names a program to take instead.
set -euo pipefail
cd "$(dirname "$0")/../tests/controlplane/helm"

if [ -n "${MARLIN_HELM:-}" ]; then
    [ -x "$MARLIN_HELM" ] || { echo "helm: MARLIN_HELM=$MARLIN_HELM is no program" >&2; exit 1; }
    echo "$MARLIN_HELM"
    exit 0
fi
version=$(awk '$1 == "helm.sh/helm/v3" { print $2; exit }' go.mod)
helm=${XDG_CACHE_HOME:-$HOME/.cache}/marlin/helm/$version-$(sha256sum <go.sum | cut -c1-16)/helm
if [ -x "$helm" ]; then
    echo "$helm"
    exit 0
fi
if [ "${1:-}" = --find ]; then
    echo "helm: not built; run: make helm (needs Go 1.26 or newer, some minutes)" >&2
    exit 1
fi
go=$(command -v go || true)
[ -z "$go" ] && [ -x /usr/local/go/bin/go ] && go=/usr/local/go/bin/go
if [ -z "$go" ]; then
    echo "helm: Go 1.26 or newer is needed: https://go.dev/dl, or set MARLIN_HELM" >&2
    exit 1
fi
echo "[helm] building $version" >&2
started=$SECONDS
mkdir -p "$(dirname "$helm")"
# To a name of this process, then in one step: two builds at once do not spoil each other's result.
CGO_ENABLED=0 GOFLAGS=-buildvcs=false "$go" build -trimpath \
    -ldflags "-s -w -X helm.sh/helm/v3/internal/version.version=$version" -o "$helm.$$" helm.sh/helm/v3/cmd/helm
mv "$helm.$$" "$helm"
echo "[helm] took $((SECONDS - started)) s" >&2
echo "$helm"
