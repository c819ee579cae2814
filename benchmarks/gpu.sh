#!/usr/bin/env bash
# Everything that needs a GPU, in at most eight minutes: tests on CUDA, compile, training MFU, generation
# latency, memory against the plan. Prints the tables of docs/performance.md.
#
#   [COMMIT=abc1234] bash benchmarks/gpu.sh [PYTHON]
#
# COMMIT is printed where the files lie outside of their repository. Python needs the package's libraries.
# A part that fails is reported and the others still run; the exit status is that of the worst.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
export PYTHONPATH="$PWD:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
status=0

part() { # SECONDS NAME COMMAND...
    local limit=$1 name=$2 started=$SECONDS
    shift 2
    echo "== $name"
    # Interrupted, tests still name those that failed.
    timeout --signal INT --kill-after 5 "$limit" "$@" || { echo "-- $name: exit status $?"; status=1; }
    echo "-- $name: $((SECONDS - started)) s"
}

if ! missing=$("$python" -c 'import gpu_training, gpu_inference, pytest' 2>&1); then
    echo "$python cannot run the benchmarks (${missing##*$'\n'}): install stable-audio[dev], or name another python" >&2
    exit 2
fi
# Side by side, compilers of several tests share the processor's cores.
workers=$("$python" -c 'import xdist' 2>/dev/null && echo "-n 4")

echo "commit $(git rev-parse --short HEAD 2>/dev/null || echo "${COMMIT:-not known}")"
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
# shellcheck disable=SC2086
part 90 "tests on CUDA" "$python" -m pytest -v -p no:benchmark -p no:logging $workers --maxfail 12 tests/cuda
part 110 "training" "$python" benchmarks/gpu_training.py --batch 8
part 60 "training, stable-audio-3 medium" "$python" benchmarks/gpu_training.py --batch 4 --modes compiled eager \
    --config model_configs/stable_audio_3/medium.json
part 25 "kernels" "$python" benchmarks/gpu_kernels.py
part 90 "generation" "$python" benchmarks/inference.py --rounds 1
part 30 "layouts and precisions" "$python" benchmarks/gpu_layouts.py
part 40 "encoding ahead" "$python" benchmarks/encoding_ahead.py
part 35 "packed rows" "$python" benchmarks/packing.py --device cuda --dtype bfloat16 --dim 1024 --heads 16 \
    --frames 1024 --rows 8
exit $status
