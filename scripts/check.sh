#!/usr/bin/env bash
# Everything that is checked without running the product: the same on a laptop, before a commit and in CI.
# All checks run even when one fails, so that one round tells everything; exits non-zero when any failed.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
failed=()
started=$SECONDS
step() {
    local name=$1 since=$SECONDS
    shift
    if output=$("$@" 2>&1); then
        printf '  ok    %-14s %3d s\n' "$name" $((SECONDS - since))
    else
        printf '  FAIL  %-14s %3d s\n%s\n' "$name" $((SECONDS - since)) "$output"
        failed+=("$name")
    fi
}
no_index_address() {
    ! grep -nE 'https?://|--(extra-)?index-url|--find-links' constraints.txt
}
no_init_files() {
    # A package named operator at the root, or marlin without its siblings, hides other people's modules.
    ! find api simulator policy operator router tests -maxdepth 2 -name __init__.py \
        -not -path '*/marlin/*/*' | grep .
}
step format "$bin/ruff" format --check
step lint "$bin/ruff" check
step types "$bin/mypy"
step imports "$bin/lint-imports"
step crds "$bin/marlin" crds --out manifests/crds --check
step reference "$bin/python" scripts/generate_reference.py --check
step chart-crds "$bin/marlin" crds --out charts/marlin/files/crds --check
step chart "$bin/python" scripts/generate_chart.py --check
step constraints no_index_address
step layout no_init_files
printf 'check: %d s\n' $((SECONDS - started))
if [ ${#failed[@]} != 0 ]; then
    echo "check: failed: ${failed[*]}" >&2
    exit 1
fi
