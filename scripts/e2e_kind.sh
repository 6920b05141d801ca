#!/usr/bin/env bash
# Makes a hub and two member clusters with kind, installs the charts, and lets things change and break.
#
#   scripts/e2e_kind.sh [pytest options]
#
# Needs docker, kind, kubectl, Helm (`make helm`) and the images (`make images`). MARLIN_KIND_NODE_IMAGE names another node
# image. The clusters are deleted at the end, also of a run that failed; MARLIN_E2E_KEEP=1 keeps them.
# Images of another commit than this one are refused; MARLIN_E2E_ANY_IMAGES=1 takes them.
# MARLIN_E2E_CLUSTERS=existing with MARLIN_E2E_KUBECONFIGS=hub=FILE,north=FILE,south=FILE takes clusters that are there.
set -euo pipefail
cd "$(dirname "$0")/.."
export MARLIN_E2E_CLUSTERS=${MARLIN_E2E_CLUSTERS:-kind}
scripts/helm.sh --find >/dev/null
# What is tested is in the images: one of another commit would say nothing about this checkout.
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
head=$(git rev-parse HEAD)
for image in marlin/router:"$version" marlin/operator:"$version"; do
    made_of=$(docker image inspect --format '{{index .Config.Labels "org.opencontainers.image.revision"}}' "$image" 2>/dev/null) \
        || { echo "e2e-kind: there is no image $image: run make images" >&2; exit 2; }
    [ "$made_of" = "$head" ] || [ -n "${MARLIN_E2E_ANY_IMAGES:-}" ] \
        || { echo "e2e-kind: $image was made of ${made_of:0:12}, this is ${head:0:12}: run make images, or set MARLIN_E2E_ANY_IMAGES=1" >&2; exit 2; }
done
exec .venv/bin/python -Im pytest -q -s -p no:randomly -p no:cacheprovider tests/e2e/test_across_clusters.py tests/e2e/test_quickstart_on_kind.py "$@"
