#!/usr/bin/env bash
# Makes a hub and two member clusters with kind, installs the charts, and lets things change and break.
#
#   scripts/e2e_kind.sh [pytest options]
#
# Needs docker, kind, kubectl, Helm (`make helm`) and the images (`make images`). MARLIN_KIND_NODE_IMAGE names another node
# image. The clusters are deleted at the end, also of a run that failed; MARLIN_E2E_KEEP=1 keeps them.
# MARLIN_E2E_CLUSTERS=existing with MARLIN_E2E_KUBECONFIGS=hub=FILE,north=FILE,south=FILE takes clusters that are there.
set -euo pipefail
cd "$(dirname "$0")/.."
export MARLIN_E2E_CLUSTERS=${MARLIN_E2E_CLUSTERS:-kind}
scripts/helm.sh --find >/dev/null
exec .venv/bin/python -Im pytest -q -s -p no:randomly -p no:cacheprovider tests/e2e/test_across_clusters.py tests/e2e/test_quickstart_on_kind.py "$@"
