#!/usr/bin/env bash
# Builds the router's image: fetches the wheels with pip, then runs docker without a network.
#
#   scripts/images.sh             marlin/router:VERSION; BASE names another base image, IMAGE another name
#   scripts/images.sh --context   only the build's context, build/images/router: to carry behind an air gap, where
#                                 docker build --network=none --build-arg BASE=... build/images/router makes the image
#
# Wheels are those for this machine's architecture, glibc 2.28 or newer and Python 3.11: what BASE has to have.
set -euo pipefail
cd "$(dirname "$0")/.."
context=build/images/router
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
image=${IMAGE:-marlin/router:$version}

say() { printf '[images] %s\n' "$*"; }

case ${1:-} in
    '' | --context) ;;
    *) echo "images: unknown option '$1'; there is --context" >&2; exit 2 ;;
esac
rm -rf "$context"
mkdir -p "$context/wheels"
.venv/bin/uv build --wheel --quiet --out-dir "$context/wheels"
rm -f "$context/wheels/.gitignore"
wheel=$(ls "$context"/wheels/marlin-*.whl)
say "fetching the wheels that constraints.txt pins"
platforms=()
for glibc in 2_28 2_17; do platforms+=(--platform "manylinux_${glibc}_$(uname -m)"); done
.venv/bin/python -m pip download --quiet --disable-pip-version-check --only-binary=:all: "${platforms[@]}" \
    --platform "manylinux2014_$(uname -m)" --python-version 3.11 --constraint constraints.txt --dest "$context/wheels" \
    "${wheel}[router]" pip
cp router/Dockerfile "$context/Dockerfile"
say "$context: $(find "$context/wheels" -name '*.whl' | wc -l) wheels, $(du -sm "$context" | cut -f1) MB"
[ "${1:-}" = --context ] && exit 0
if ! docker version >/dev/null 2>&1; then
    echo "images: docker is needed, and its daemon running; the context is in $context" >&2
    exit 1
fi
docker build --network=none ${BASE:+--build-arg "BASE=$BASE"} --build-arg "VERSION=$version" \
    --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)" --tag "$image" "$context"
base=$(sed -n 's/^ARG BASE=//p' router/Dockerfile)
above=$(($(docker image inspect --format '{{.Size}}' "$image") - $(docker image inspect --format '{{.Size}}' "${BASE:-$base}")))
say "$image: $((above / 1000000)) MB above its base"
[ "$above" -lt 80000000 ] || { echo "images: more than 80 MB: what came in?" >&2; exit 1; }
