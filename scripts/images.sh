#!/usr/bin/env bash
# Builds the images of router and operator: fetches the wheels with pip, then runs docker without a network.
#
#   scripts/images.sh                  marlin/router:VERSION and marlin/operator:VERSION
#   scripts/images.sh router           one of them
#   scripts/images.sh --context        only the builds' contexts, build/images/NAME: to carry behind an air gap, where
#                                      docker build --network=none --build-arg BASE=... build/images/NAME makes the image
#
# BASE names another base image, TAG another tag, EXTRAS other extras than the image's own: with operator,train policies
# learn on in service (some GB, so no limit of size is checked). Wheels are those for this machine's architecture, glibc
# 2.28 or newer and Python 3.11: what BASE has to have.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
declare -A limit_mb=([router]=80 [operator]=300)
names=()
context_only=
for argument in "$@"; do
    case $argument in
        --context) context_only=yes ;;
        router | operator) names+=("$argument") ;;
        *) echo "images: unknown argument '$argument'; there are --context, router, operator" >&2; exit 2 ;;
    esac
done
[ ${#names[@]} = 0 ] && names=(router operator)

say() { printf '[images] %s\n' "$*"; }

make_context() {
    local name=$1 context=build/images/$1 wheel platforms=()
    rm -rf "$context"
    mkdir -p "$context/wheels"
    .venv/bin/uv build --wheel --quiet --out-dir "$context/wheels"
    rm -f "$context/wheels/.gitignore"
    wheel=$(ls "$context"/wheels/marlin-*.whl)
    say "$name: fetching the wheels that constraints.txt pins"
    for glibc in 2_28 2_17; do platforms+=(--platform "manylinux_${glibc}_$(uname -m)"); done
    .venv/bin/python -m pip download --quiet --disable-pip-version-check --only-binary=:all: "${platforms[@]}" \
        --platform "manylinux2014_$(uname -m)" --python-version 3.11 --constraint constraints.txt \
        --dest "$context/wheels" "${wheel}[${EXTRAS:-$name}]" pip
    cp "$name/Dockerfile" scripts/install_in_image.py "$context"
    say "$context: $(find "$context/wheels" -name '*.whl' | wc -l) wheels, $(du -sm "$context" | cut -f1) MB"
}

build() {
    local name=$1 image=marlin/$1:${TAG:-$version} base pinned digest above
    base=${BASE:-$(sed -n 's/^ARG BASE=//p' "$name/Dockerfile")}
    docker image inspect "$base" >/dev/null 2>&1 || docker pull --quiet "$base" >/dev/null
    # What a tag names changes: both stages are of one digest, and the image says which. A base that came from no registry
    # has none; its identity is.
    pinned=$(docker image inspect --format '{{with .RepoDigests}}{{index . 0}}{{end}}' "$base")
    digest=${pinned##*@}
    [ -n "$digest" ] || digest=$(docker image inspect --format '{{.Id}}' "$base")
    # Without BuildKit, which needs a plugin that not every docker has; the files ask for nothing of it.
    DOCKER_BUILDKIT=0 docker build --network=none --build-arg "BASE=${pinned:-$base}" \
        ${EXTRAS:+--build-arg "EXTRAS=$EXTRAS"} \
        --label "org.opencontainers.image.base.name=$base" \
        --label "org.opencontainers.image.base.digest=$digest" \
        --build-arg "VERSION=$version" --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
        --tag "$image" "build/images/$name" >"build/images/$name.log" 2>&1 \
        || { tail -n 20 "build/images/$name.log" >&2; echo "images: $name: docker build failed" >&2; exit 1; }
    above=$((($(docker image inspect --format '{{.Size}}' "$image") - $(docker image inspect --format '{{.Size}}' "$base")) / 1000000))
    say "$image: $above MB above its base"
    [ -n "${EXTRAS:-}" ] || [ "$above" -lt "${limit_mb[$name]}" ] || { echo "images: $name: more than ${limit_mb[$name]} MB: what came in?" >&2; exit 1; }
}

for name in "${names[@]}"; do make_context "$name"; done
[ -n "$context_only" ] && exit 0
if ! docker version >/dev/null 2>&1; then
    echo "images: docker is needed, and its daemon running; the contexts are in build/images" >&2
    exit 1
fi
for name in "${names[@]}"; do build "$name"; done
