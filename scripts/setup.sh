#!/usr/bin/env bash
# Sets the project up in its own virtual environment, .venv, and says what it is doing.
#
#   scripts/setup.sh demo     what `make demo` needs: no torch, no compiler, under 200 MB
#   scripts/setup.sh dev      that, and everything the checks, the tests and the docs need; torch is most of its 6 GB
#
# Safe to repeat: a second run finds nothing to do and takes a second. Needs no root, but for a missing Debian package:
# as root it installs it, otherwise it prints the one line that does.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${1:-demo}
case $profile in
    demo) what=(-e '.[demo]') ;;
    dev) what=(-e '.[train,operator,otel]' --group dev --group docs) ;;
    *) echo "setup: unknown profile '$profile'; there are demo and dev" >&2; exit 2 ;;
esac

say() { printf '[setup] %s\n' "$*"; }

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "setup: Python 3.11 or newer is needed: apt-get install python3, or set PYTHON=/path/to/python3.11" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    install='apt-get update && apt-get install -y --no-install-recommends python3-venv'
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing the Debian package python3-venv"
        bash -c "$install" >/dev/null
    else
        echo "setup: python3-venv is missing; run: sudo bash -c '$install'" >&2
        exit 1
    fi
fi

# What the environment was made from. When nothing of it changed, nothing is to be done.
want=$({ cat pyproject.toml constraints.txt scripts/setup.sh; "$python" --version; pwd; } | sha256sum | cut -c1-64)
have=
[ -f .venv/setup-dev ] && have=$(cat .venv/setup-dev)
[ "$profile" = demo ] && [ "$have" != "$want" ] && [ -f .venv/setup-demo ] && have=$(cat .venv/setup-demo)
if [ "$have" = "$want" ] && .venv/bin/python -c '' 2>/dev/null; then
    say "nothing to do ($profile)"
    exit 0
fi

started=$(date +%s)
if ! .venv/bin/python -c '' 2>/dev/null; then
    say "creating .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi
if ! .venv/bin/uv --version >/dev/null 2>&1; then
    say "installing uv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
fi
say "installing the project and its pinned libraries ($profile)"
rm -f .venv/setup-demo .venv/setup-dev
.venv/bin/uv pip install --python .venv/bin/python --constraint constraints.txt "${what[@]}" 2>&1 \
    | { grep -vE '^( [+~-] |Using Python|Resolved|Prepared|Uninstalled|Audited)' || true; } | sed 's/^/[setup] /'
if [ "${PIPESTATUS[0]}" != 0 ]; then
    echo "setup: installing failed; the lines above say why. Is a Python package index reachable?" >&2
    exit 1
fi
echo "$want" > ".venv/setup-$profile"
say "done in $(($(date +%s) - started)) s, .venv is $(du -sm .venv | cut -f1) MB"
