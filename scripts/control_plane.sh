#!/usr/bin/env bash
# Builds the real control plane that the operator's tests run against, once, and prints the folder it is in.
#
#   scripts/control_plane.sh            build what is missing: etcd, kube-apiserver
#   scripts/control_plane.sh --find     build nothing; exit 1 with one line when something is missing
#
# The versions are those of tests/controlplane/go.mod. The binaries go to the user's cache, in a folder named by the hash
# of go.sum, so that a second checkout finds them; two idle cores take eight to nine minutes for them. KUBEBUILDER_ASSETS
# (a folder with both binaries, as other projects' test tools use it) is taken instead where it is set.
set -euo pipefail
cd "$(dirname "$0")/../tests/controlplane"

binaries=(etcd kube-apiserver)
has_all() { local b; for b in "${binaries[@]}"; do [ -x "$1/$b" ] || return 1; done; }

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    has_all "$KUBEBUILDER_ASSETS" || {
        echo "control plane: KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS lacks one of ${binaries[*]}" >&2
        exit 1
    }
    echo "$KUBEBUILDER_ASSETS"
    exit 0
fi

version=$(awk '$1 == "k8s.io/kubernetes" { print $2; exit }' go.mod)
key=$(cat go.mod go.sum | sha256sum | cut -c1-16)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/marlin/control-plane/$version-$key
if has_all "$folder"; then
    echo "$folder"
    exit 0
fi
if [ "${1:-}" = --find ]; then
    echo "control plane: not built; run: make control-plane (needs Go 1.25 or newer, about nine minutes)" >&2
    exit 1
fi

go=$(command -v go || true)
[ -z "$go" ] && [ -x /usr/local/go/bin/go ] && go=/usr/local/go/bin/go
if [ -z "$go" ]; then
    echo "control plane: Go 1.25 or newer is needed: https://go.dev/dl, or set KUBEBUILDER_ASSETS" >&2
    exit 1
fi
export CGO_ENABLED=0 GOFLAGS=-buildvcs=false

# Without these the server reports v0.0.0-master, which charts that ask for a Kubernetes version refuse.
minor=$(echo "$version" | cut -d. -f2)
stamp=
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    stamp+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$minor"
done

mkdir -p "$folder"
build() {
    local name=$1 package=$2 started=$SECONDS
    [ -x "$folder/$name" ] && return
    echo "[control plane] building $name" >&2
    # To a name of this process, then in one step: two builds at once do not spoil each other's result.
    "$go" build -trimpath -ldflags "-s -w$stamp" -o "$folder/$name.$$" "$package"
    mv "$folder/$name.$$" "$folder/$name"
    echo "[control plane] $name took $((SECONDS - started)) s" >&2
}
build etcd go.etcd.io/etcd/server/v3
build kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
echo "$folder"
