#!/usr/bin/env bash
# Helm, at the version of tests/controlplane/helm/go.mod: built where it is not there, and where it is printed.
#
#   scripts/helm.sh           four minutes on two free, cold cores
#   scripts/helm.sh --find    builds nothing; exit 1 with one line when it is missing
#
# MARLIN_HELM names a program to take instead.
set -euo pipefail
LDFLAGS="-X helm.sh/helm/v3/internal/version.version=@VERSION@" exec "$(dirname "$0")/go_tool.sh" \
    helm tests/controlplane/helm helm.sh/helm/v3 helm.sh/helm/v3/cmd/helm "$@"
